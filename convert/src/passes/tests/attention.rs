//! Attention as PyTorch, tf2onnx, Keras and the importer of ONNX's own operator write it.

use whit::DType;

use super::*;
use crate::dim::Dim;
use crate::graph::{BinaryKind, Clamp, CompareKind, MatMul, ReduceKind, UnaryKind, ValueId};

const HEADS: usize = 2;
const SIZE: usize = 4;

/// Queries, keys and values `[batch, heads, n, size]`, as projections of one input give them.
struct Projected {
    q: ValueId,
    k: ValueId,
    v: ValueId,
    batch: Dim,
}

const QUERIES: usize = 3;

/// `[batch, n, heads, size]` with the heads brought to the front by `perm`.
fn heads(g: &mut Build, batch: &Dim, perm: &[usize]) -> ValueId {
    let dims = [QUERIES, HEADS, SIZE].map(Dim::from);
    let x = g.input_dims([std::slice::from_ref(batch), &dims[..]].concat());
    g.transpose(x, perm)
}

fn projected(g: &mut Build, key_perm: &[usize]) -> Projected {
    let batch = g.batch();
    let q = heads(g, &batch, &[0, 2, 1, 3]);
    let k = heads(g, &batch, key_perm);
    let v = heads(g, &batch, &[0, 2, 1, 3]);
    Projected { q, k, v, batch }
}

const ROWS: &[usize] = &[0, 2, 1, 3];
const COLUMNS: &[usize] = &[0, 2, 3, 1];

fn scaled(g: &mut Build, x: ValueId, kind: BinaryKind, by: f32) -> ValueId {
    let by = g.scalar(by);
    g.binary(kind, x, by)
}

/// Softmax and the values.
fn weighted(g: &mut Build, scores: ValueId, v: ValueId) -> Graph {
    let last = g.shape(scores).len() - 1;
    let p = g.softmax(scores, last);
    let y = g.matmul(p, v);
    g.finish(&[y])
}

/// A lower triangle with `offset` more columns, hiding by `by`.
fn triangle(g: &mut Build, shape: &[usize], offset: usize, by: f32) -> ValueId {
    let columns = shape[shape.len() - 1];
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count)
        .map(|i| if i % columns <= i / columns % QUERIES + offset { 0.0 } else { by })
        .collect();
    g.constant(shape, &values)
}

fn condition(g: &mut Build, shape: &[usize]) -> ValueId {
    let x = g.input(shape);
    // The first is never hidden, so that no query is blind.
    let y = g.graph.add_value("c", DType::Bool, g.shape(x));
    let zero = g.scalar(0.0);
    g.graph.nodes.push(crate::graph::Node {
        name: "c".to_owned(),
        op: Op::Compare(CompareKind::Equal),
        inputs: vec![Some(x), Some(zero)],
        outputs: vec![y],
    });
    y
}

#[test]
fn exported_forms() {
    use BinaryKind::{Add, Div, Mul};
    check_cases(&[
        Case {
            name: "PyTorch, legacy: keys by columns, the product divided, a mask added",
            build: |g| {
                let p = projected(g, COLUMNS);
                let mask = g.input_dims(
                    [p.batch.clone(), 1usize.into(), 1usize.into(), QUERIES.into()].to_vec(),
                );
                let s = g.matmul(p.q, p.k);
                let s = scaled(g, s, Div, 2.0);
                let s = g.binary(Add, s, mask);
                weighted(g, s, p.v)
            },
            left: "Transpose Transpose Transpose Attention+mask",
        },
        Case {
            name: "PyTorch's scaled_dot_product_attention: the root of the scale on both sides",
            build: |g| {
                let p = projected(g, COLUMNS);
                let (q, k) = (scaled(g, p.q, Mul, 0.7), scaled(g, p.k, Mul, 0.7));
                let s = g.matmul(q, k);
                weighted(g, s, p.v)
            },
            left: "Transpose Transpose Transpose Attention",
        },
        Case {
            name: "two transposes of the keys, and the scale before the second",
            build: |g| {
                let p = projected(g, ROWS);
                let k = scaled(g, p.k, Mul, 0.5);
                let k = g.transpose(k, &[0, 1, 3, 2]);
                let s = g.matmul(p.q, k);
                weighted(g, s, p.v)
            },
            left: "Transpose Transpose Transpose Attention",
        },
        Case {
            name: "a number times the queries, and a causal mask as a constant",
            build: |g| {
                let p = projected(g, COLUMNS);
                let by = g.scalar(0.25);
                let q = g.binary(Mul, by, p.q);
                let s = g.matmul(q, p.k);
                let mask = triangle(g, &[1, 1, QUERIES, QUERIES], 0, f32::MIN);
                let s = g.binary(Add, mask, s);
                weighted(g, s, p.v)
            },
            left: "Transpose Transpose Transpose Attention+causal",
        },
        Case {
            name: "Keras: a mask times a large negative number",
            build: |g| {
                let p = projected(g, COLUMNS);
                let mask = g.input_dims(
                    [p.batch.clone(), 1usize.into(), 1usize.into(), QUERIES.into()].to_vec(),
                );
                let mask = scaled(g, mask, Mul, -10.0);
                let s = g.matmul(p.q, p.k);
                let s = scaled(g, s, Mul, 0.5);
                let s = g.binary(Add, s, mask);
                weighted(g, s, p.v)
            },
            left: "Transpose Transpose Mul Transpose Attention+mask",
        },
        Case {
            name: "where with minus infinity",
            build: |g| {
                let p = projected(g, COLUMNS);
                let hidden = condition(g, &[1, 1, QUERIES, QUERIES]);
                let s = g.matmul(p.q, p.k);
                let by = g.scalar(f32::NEG_INFINITY);
                let shape = g.shape(s);
                let s = g.node(Op::Where, &[hidden, by, s], shape);
                weighted(g, s, p.v)
            },
            left: "Transpose Transpose Compare Where Transpose Attention+mask",
        },
        Case {
            name: "where with a number that could be a score",
            build: |g| {
                let p = projected(g, COLUMNS);
                let hidden = condition(g, &[1, 1, QUERIES, QUERIES]);
                let s = g.matmul(p.q, p.k);
                let by = g.scalar(-100.0);
                let shape = g.shape(s);
                let s = g.node(Op::Where, &[hidden, by, s], shape);
                weighted(g, s, p.v)
            },
            left: "Transpose Transpose Transpose Compare MatMul Where Softmax MatMul",
        },
        Case {
            name: "softcap, a mask and a relative position",
            build: |g| {
                let p = projected(g, COLUMNS);
                let s = g.matmul(p.q, p.k);
                let s = scaled(g, s, Div, 5.0);
                let s = g.unary(UnaryKind::Tanh, s);
                let s = scaled(g, s, Mul, 3.0);
                let position = g.random(&[1, HEADS, QUERIES, QUERIES]);
                let s = g.binary(Add, s, position);
                let mask = triangle(g, &[QUERIES, QUERIES], 1, -1e9);
                let s = g.binary(Add, s, mask);
                weighted(g, s, p.v)
            },
            left: "Transpose Transpose Transpose Attention+mask+causal",
        },
        Case {
            name: "a bias before the scale stays apart",
            build: |g| {
                let p = projected(g, COLUMNS);
                let s = g.matmul(p.q, p.k);
                let position = g.random(&[1, HEADS, QUERIES, QUERIES]);
                let s = g.binary(Add, s, position);
                let s = scaled(g, s, Mul, 0.5);
                weighted(g, s, p.v)
            },
            left: "Transpose Transpose Transpose MatMul Add Mul Softmax MatMul",
        },
        Case {
            name: "heads in the batch axis",
            build: |g| {
                let (q, k, v) = (g.input(&[4, 3, 5]), g.input(&[4, 6, 5]), g.input(&[4, 6, 2]));
                let k = g.transpose(k, &[0, 2, 1]);
                let s = g.matmul(q, k);
                let mask = g.input(&[4, 3, 6]);
                let s = g.binary(Add, mask, s);
                weighted(g, s, v)
            },
            left: "Reshape Reshape Reshape Reshape Attention+mask Reshape",
        },
        Case {
            name: "probabilities that are an output, too",
            build: |g| {
                let p = projected(g, COLUMNS);
                let s = g.matmul(p.q, p.k);
                let w = g.softmax(s, 3);
                let y = g.matmul(w, p.v);
                g.finish(&[y, w])
            },
            left: "Transpose Transpose Transpose MatMul Softmax MatMul",
        },
        Case {
            name: "heads shared by groups of queries, and a guard against blind queries",
            build: |g| {
                let (q, k, v) =
                    (g.input(&[2, 4, 3, 5]), g.input(&[2, 2, 6, 5]), g.input(&[2, 2, 6, 5]));
                let mut repeat = |x: ValueId| {
                    let dims = |d: &[usize]| d.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>();
                    let x = g.reshape(x, dims(&[2, 2, 1, 6, 5]));
                    let x = g.node(Op::Expand, &[x], dims(&[2, 2, 2, 6, 5]));
                    g.reshape(x, dims(&[2, 4, 6, 5]))
                };
                let (k, v) = (repeat(k), repeat(v));
                let op = MatMul {
                    transpose_a: false,
                    transpose_b: true,
                    clamp: Clamp::NONE,
                    inner_quant: None,
                };
                let shape = [2usize, 4, 3, 6].map(Dim::from).to_vec();
                let s = g.node(Op::MatMul(op), &[q, k], shape.clone());
                let mask = g.input(&[3, 6]);
                let biased = g.binary(Add, s, mask);
                let p = g.softmax(biased, 3);
                let most = {
                    let op = Op::Reduce { kind: ReduceKind::Max, axes: vec![1], keep_dims: true };
                    g.node(op, &[mask], vec![3usize.into(), 1usize.into()])
                };
                let blind = g.graph.add_value("blind", DType::Bool, g.shape(most));
                let nothing = g.scalar(f32::NEG_INFINITY);
                g.graph.nodes.push(crate::graph::Node {
                    name: "blind".to_owned(),
                    op: Op::Compare(CompareKind::Equal),
                    inputs: vec![Some(most), Some(nothing)],
                    outputs: vec![blind],
                });
                let zero = g.scalar(0.0);
                let p = g.node(Op::Where, &[blind, zero, p], shape);
                let y = g.matmul(p, v);
                g.finish(&[y])
            },
            left: "Attention+mask+zero_rows",
        },
    ]);
}

/// `[groups of windows, heads, n, size]` for queries, keys and values.
fn windows(g: &mut Build, samples: &Dim, windows: usize) -> [ValueId; 3] {
    let dims = [samples.mul(&Dim::from(windows)), HEADS.into(), QUERIES.into(), SIZE.into()];
    let [q, k, v] = [0; 3].map(|_| g.input_dims(dims.to_vec()));
    [q, g.transpose(k, &[0, 1, 3, 2]), v]
}

/// A mask of windows, added to the scores of which every sample has that many.
fn shifted(g: &mut Build, scores: ValueId, samples: Dim, windows: usize) -> ValueId {
    let flat = g.shape(scores);
    let mut apart = vec![samples, Dim::from(windows)];
    apart.extend_from_slice(&flat[1..]);
    let s = g.reshape(scores, apart);
    let mask = g.random(&[1, windows, 1, QUERIES, QUERIES]);
    let s = g.binary(BinaryKind::Add, s, mask);
    g.reshape(s, flat)
}

#[test]
fn reshaped_scores() {
    use BinaryKind::{Add, Mul};
    check_cases(&[
        Case {
            name: "Keras 3 through tf2onnx: einsum as a product with samples and heads in one axis",
            build: |g| {
                let dims = |d: &[usize]| d.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>();
                let (q, k, v) = (g.input(&[4, 3, 5]), g.input(&[4, 6, 5]), g.input(&[4, 6, 2]));
                let k = g.transpose(k, &[0, 2, 1]);
                let s = g.matmul(q, k);
                let s = g.reshape(s, dims(&[1, 4, 3, 6, 1]));
                let s = g.reshape(s, dims(&[1, 4, 3, 6]));
                let s = scaled(g, s, Mul, 0.5);
                let p = g.softmax(s, 3);
                let p = g.reshape(p, dims(&[1, 4, 3, 6, 1]));
                let p = g.reshape(p, dims(&[4, 3, 6]));
                let y = g.matmul(p, v);
                g.finish(&[y])
            },
            left: "Reshape Reshape Reshape Attention Reshape",
        },
        Case {
            name: "Swin: a position for every window, and a mask of shifted windows",
            build: |g| {
                let [q, k, v] = windows(g, &Dim::from(1i64), 4);
                let s = g.matmul(q, k);
                let position = g.random(&[1, HEADS, QUERIES, QUERIES]);
                let s = g.binary(Add, s, position);
                let s = shifted(g, s, Dim::from(1i64), 4);
                weighted(g, s, v)
            },
            left: "Add Attention+mask",
        },
        Case {
            name: "Swin with any number of samples",
            build: |g| {
                let batch = g.batch();
                let [q, k, v] = windows(g, &batch, 4);
                let s = g.matmul(q, k);
                let s = shifted(g, s, batch, 4);
                weighted(g, s, v)
            },
            left: "Expand Reshape Attention+mask",
        },
        Case {
            name: "heads and queries in one axis before softmax",
            build: |g| {
                let batch = g.batch();
                let [q, k, v] = windows(g, &batch, 2);
                let s = g.matmul(q, k);
                let shape = g.shape(s);
                let merged = [shape[0].clone(), (HEADS * QUERIES).into(), QUERIES.into()];
                let s = g.reshape(s, merged.to_vec());
                let mask = g.random(&[HEADS * QUERIES, QUERIES]);
                let s = g.binary(Add, s, mask);
                let p = g.softmax(s, 2);
                let p = g.reshape(p, shape);
                let y = g.matmul(p, v);
                g.finish(&[y])
            },
            left: "Transpose MatMul Reshape Add Softmax Reshape MatMul",
        },
        Case {
            name: "shifted scores that are an output, too",
            build: |g| {
                let [q, k, v] = windows(g, &Dim::from(1i64), 2);
                let s = g.matmul(q, k);
                let s = shifted(g, s, Dim::from(1i64), 2);
                let p = g.softmax(s, 3);
                let y = g.matmul(p, v);
                g.finish(&[y, s])
            },
            left: "Transpose MatMul Add Softmax MatMul",
        },
    ]);
}
