//! Random graphs, full of transposes: the passes keep what they compute and transpose no more bytes.

use super::*;
use crate::dim::Dim;
use crate::graph::{BinaryKind, NormKind, UnaryKind, ValueId};

const GRAPHS: u64 = 400;

/// Operators that some of the graphs have after the passes.
const RARE: [&str; 5] =
    ["Attention", "Normalize+scale+bias", "Interpolate", "TopK", "GatherElements"];

#[test]
fn random_graphs_compute_the_same() {
    let (mut all, mut left) = (0, 0);
    let mut met = std::collections::BTreeMap::from(RARE.map(|name| (name, 0)));
    for seed in 0..GRAPHS {
        let mut g = Build::default();
        g.numbers(seed as usize + 1);
        let before = random_graph(&mut g);
        let mut after = before.clone();
        super::super::run_all(&mut after, &[], &mut |_, _| ());
        let name = format!("seed {seed}: {} became {}", summary(&before), summary(&after));
        assert_same(&name, &before, &after);
        let settled = after.clone();
        for pass in super::super::PASSES {
            assert!(!(pass.run)(&mut after), "{name}: {} isn't done", pass.name);
        }
        assert_eq!(summary(&after), summary(&settled));
        assert!(transposed(&after) <= transposed(&before), "{name}: more is transposed");
        let after = summary(&after);
        for (name, count) in &mut met {
            *count += after.matches(name).count();
        }
        all += transposed(&before);
        left += transposed(&settled);
    }
    assert!(met.values().all(|count| *count > 0), "{met:?}");
    assert!(left * 2 < all, "{left} of {all} elements are still transposed");
}

/// Elements that the transposes of a graph move.
fn transposed(graph: &Graph) -> usize {
    let elements = |id: ValueId| -> usize {
        oracle::evaluated(&graph.value(id).shape, &vec![8; graph.symbols.len()]).iter().product()
    };
    let transposes = graph.nodes.iter().filter(|node| matches!(node.op, Op::Transpose { .. }));
    transposes.map(|node| elements(node.outputs[0])).sum()
}

/// A number below `n`.
fn below(g: &mut Build, n: usize) -> usize {
    (((g.numbers(1)[0] + 1.0) / 2.0 * n as f32) as usize).min(n - 1)
}

fn random_graph(g: &mut Build) -> Graph {
    let n = g.batch();
    let shape = vec![n, Dim::from(2i64), Dim::from(3i64), Dim::from(1 + below(g, 3))];
    let mut values = vec![g.input_dims(shape.clone()), g.input_dims(shape)];
    for _ in 0..3 + below(g, 12) {
        // Mostly the latest value, so that chains get long.
        let pick = if below(g, 3) > 0 { values.len() - 1 } else { below(g, values.len()) };
        let x = values[pick];
        values.push(random_node(g, x, &values));
    }
    let mut outputs = vec![values[values.len() - 1]];
    let other = values[2 + below(g, values.len() - 2)];
    if below(g, 2) == 0 && other != outputs[0] {
        outputs.push(other);
    }
    g.finish(&outputs)
}

fn random_node(g: &mut Build, x: ValueId, values: &[ValueId]) -> ValueId {
    let shape = g.shape(x);
    let rank = shape.len();
    let axis = below(g, rank);
    let size = shape[axis].as_const();
    match below(g, 18) {
        0..4 => {
            let mut perm: Vec<usize> = (0..rank).collect();
            for i in (1..rank).rev() {
                let j = below(g, i + 1);
                perm.swap(i, j);
            }
            g.transpose(x, &perm)
        }
        4 => g.unary(UnaryKind::Tanh, x),
        5 => g.unary(UnaryKind::Relu, x),
        6 | 7 => {
            let same: Vec<ValueId> =
                values.iter().copied().filter(|v| g.graph.value(*v).shape == shape).collect();
            let other = same[below(g, same.len())];
            g.binary(BinaryKind::Add, x, other)
        }
        8 => {
            let sizes: Option<Vec<usize>> =
                shape[axis..].iter().map(|d| d.as_const().map(|d| d as usize)).collect();
            let c = g.random(&sizes.unwrap_or_default());
            g.binary(BinaryKind::Mul, x, c)
        }
        9 if rank > 2 => {
            let keep = below(g, 2) == 0;
            let mean = g.mean(x, &[axis], keep);
            if keep { g.binary(BinaryKind::Sub, x, mean) } else { mean }
        }
        10 => match size {
            Some(size) if size > 1 && below(g, 2) == 0 => {
                g.slice(x, axis, size - 1, -1, size as usize)
            }
            Some(_) => g.concat(&[x, x], axis),
            None => g.qdq(x),
        },
        11 => g.softmax(x, axis),
        12 => {
            // Merge two axes, or split off an axis of size 1.
            let mut to = shape.clone();
            if rank > 3 && axis + 1 < rank {
                let merged = to[axis].mul(&to[axis + 1]);
                to.splice(axis..axis + 2, [merged]);
            } else {
                to.insert(axis, Dim::from(1i64));
            }
            g.reshape(x, to)
        }
        13 => {
            let kind = if below(g, 2) == 0 { NormKind::Layer } else { NormKind::Rms };
            g.normalize(x, kind, axis)
        }
        14 => match size.map(|size| size as usize) {
            Some(size) => {
                let len = 1 + below(g, size + 1);
                g.interpolate(x, axis, size, len)
            }
            None => g.qdq(x),
        },
        15 => match size.map(|size| size as usize) {
            Some(size) => {
                let k = 1 + below(g, size);
                let [values, indices] = g.top_k(x, axis, k);
                if below(g, 2) == 0 {
                    return values;
                }
                // The same elements by their indices, whichever of equals was taken.
                let shape = g.shape(values);
                let found = g.node(Op::GatherElements { axis }, &[x, indices], shape);
                g.binary(BinaryKind::Add, values, found)
            }
            None => g.qdq(x),
        },
        16 if rank > 2 && shape[rank - 1].as_const().is_some() => {
            let size = 1 + below(g, 4);
            g.attention(x, size)
        }
        _ => match shape[rank - 1].as_const() {
            Some(_) if below(g, 2) == 0 => g.batch_norm(x),
            Some(_) => g.dense(x, 3),
            None => g.qdq(x),
        },
    }
}
