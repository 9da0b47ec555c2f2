//! Gives the channels of an activation that dominate it a layer of their own on both sides.
//!
//! Between two layers on i8, `layer(f(layer(x)))`, all channels of `f` share one scale, and so do those before it. In the
//! feed-forward blocks of transformers a few of them are far larger than the others, which then keep only a few steps. `f` is not
//! linear, so no factor can move through it. But the outputs of the first layer can be computed by two layers, and what the
//! second layer makes of both parts be added, in float. The function stays as it was. (Dettmers et al. 2022, LLM.int8(),
//! arXiv:2208.07339, split inputs by their magnitude in the same way, and compute the larger part in f16.)

use std::collections::{BTreeMap, BTreeSet};

use crate::dim::Dim;
use crate::evaluate::{EvaluateError, Samples};
use crate::graph::{BinaryKind, Clamp, Graph, Node, Op, ValueId};
use crate::quantize::improve::probe::watch;
use crate::quantize::numbers::{Numbers, output_axis, tables, weights_of};
use crate::quantize::quantization::settled;
use crate::quantize::spread::channels;
use crate::quantize::weights::Rows;
use crate::tensor::Tensor;

/// Channels that are split off: whole panels of weights.
const SIZES: [usize; 3] = [16, 32, 64];

/// There must be so many times more.
const LEAST_RATIO: usize = 8;

/// The share of the rounding error that must go for two steps more on each side to be worth it.
const LEAST_GAIN: f64 = 0.5;

/// The share with which more channels aren't looked at.
const ENOUGH_GAIN: f64 = 0.75;

/// Two layers with a function of one number between them, as indices of nodes.
#[derive(Clone, Copy)]
struct Site {
    first: usize,
    function: usize,
    second: usize,
}

/// Splits what `numbers` makes integer layers of. `numbers` gets an entry for each node that is added.
///
/// # Errors
/// When a sample doesn't fit or a run fails.
pub(crate) fn run(
    graph: &mut Graph,
    numbers: &mut Vec<Numbers>,
    samples: &dyn Samples,
    progress: &mut dyn FnMut(usize),
) -> Result<(), EvaluateError> {
    let sites = sites(graph, numbers);
    if sites.is_empty() {
        return Ok(());
    }
    let between = |site: &Site| graph.nodes[site.function].outputs[0];
    let values: BTreeSet<ValueId> = sites.iter().map(between).collect();
    let mut largest: BTreeMap<ValueId, Vec<f32>> = BTreeMap::new();
    watch(graph, &values, samples, progress, &mut |value, _, reals| {
        let n = channels(graph, value).unwrap_or(1);
        let largest = largest.entry(value).or_insert_with(|| vec![0.0; n]);
        for row in reals.chunks_exact(n) {
            for (largest, real) in largest.iter_mut().zip(row) {
                *largest = largest.max(real.abs());
            }
        }
    })?;
    let mut parts: BTreeMap<usize, [Node; 2]> = BTreeMap::new();
    for site in &sites {
        let Some(largest) = largest.get(&graph.nodes[site.function].outputs[0]) else { continue };
        if let Some(wide) = choose(graph, site, largest) {
            let rest = (0..largest.len()).filter(|channel| !wide.contains(channel)).collect();
            split(graph, site, &[("rest", rest), ("wide", wide)], &mut parts);
        }
    }
    let nodes = std::mem::take(&mut graph.nodes);
    let before = std::mem::take(numbers);
    for (at, (node, own)) in nodes.into_iter().zip(before).enumerate() {
        let Some(both) = parts.remove(&at) else {
            graph.nodes.push(node);
            numbers.push(own);
            continue;
        };
        let made: Vec<ValueId> = both.iter().map(|part| part.outputs[0]).collect();
        graph.nodes.extend(both);
        numbers.extend([own; 2]);
        if sites.iter().any(|site| site.second == at) {
            graph.nodes.push(Node {
                name: format!("{}/sum", node.name),
                op: Op::Binary(BinaryKind::Add),
                inputs: made.into_iter().map(Some).collect(),
                outputs: node.outputs,
            });
            numbers.push(Numbers::Float);
        }
    }
    Ok(())
}

/// Layers on i8 whose result a function has for itself, which one other layer on i8 reads for float nodes.
fn sites(graph: &Graph, numbers: &[Numbers]) -> Vec<Site> {
    let settled = settled(graph, numbers);
    let consumers = graph.consumers();
    let tables = tables(graph);
    let layer = |at: usize| -> bool {
        let node = &graph.nodes[at];
        let constant = |operand: usize| {
            let id = node.inputs.get(operand).copied().flatten();
            id.is_none_or(|id| graph.constant(id).is_some_and(|c| c.shape.len() == 1))
        };
        matches!(&node.op, Op::MatMul(matmul) if matmul.clamp == Clamp::NONE)
            && settled[at] == Numbers::Int8
            && node.inputs[1].is_some_and(|weights| !tables.contains(&weights))
            && weights_of(graph, node).is_some_and(|weights| weights.shape.len() == 2)
            && constant(2)
            && node.inputs.get(3).copied().flatten().is_none()
    };
    let sole = |value: ValueId| match consumers[value.0 as usize][..] {
        [reader] if !graph.is_result(value) => Some(reader),
        _ => None,
    };
    let site = |first: usize| -> Option<Site> {
        let function = sole(graph.nodes[first].outputs[0])?;
        let (second, y) =
            (sole(graph.nodes[function].outputs[0])?, graph.nodes[function].outputs[0]);
        let result = graph.nodes[second].outputs[0];
        let readers = &consumers[result.0 as usize];
        let fits = layer(first)
            && matches!(graph.nodes[function].op, Op::Unary(_))
            && settled[function] == Numbers::Int8
            && layer(second)
            && graph.nodes[second].inputs[0] == Some(y)
            && !graph.is_result(result)
            && !readers.is_empty()
            && readers.iter().all(|reader| settled[*reader].integer().is_none())
            && channels(graph, y).is_some();
        fits.then_some(Site { first, function, second })
    };
    (0..graph.nodes.len()).filter_map(site).collect()
}

/// The channels to split off, where that takes enough of the error away.
fn choose(graph: &Graph, site: &Site, largest: &[f32]) -> Option<Vec<usize>> {
    let node = &graph.nodes[site.second];
    let weights = weights_of(graph, node)?;
    let rows = Rows::of(weights, output_axis(node));
    let mut power = vec![0f64; largest.len()];
    for (at, weight) in weights.to_f32().iter().enumerate() {
        *power.get_mut(rows.place(at).1)? += f64::from(*weight).powi(2);
    }
    let mut order: Vec<usize> = (0..largest.len()).collect();
    order.sort_by(|a, b| largest[*b].total_cmp(&largest[*a]));
    // Every channel's rounding error has the power of its part's step, which goes with the part's largest channel.
    let error = |part: &[usize]| -> f64 {
        let step = part.first().map_or(0.0, |channel| f64::from(largest[*channel]));
        part.iter().map(|channel| power[*channel] * step * step).sum()
    };
    let plain = error(&order);
    let mut best: Option<(f64, usize)> = None;
    for size in SIZES.into_iter().filter(|size| size * LEAST_RATIO <= order.len()) {
        let (wide, rest) = order.split_at(size);
        let left = (error(wide) + error(rest)) / plain;
        if best.is_none_or(|(least, _)| left < least) {
            best = Some((left, size));
        }
        if left <= 1.0 - ENOUGH_GAIN {
            break;
        }
    }
    let (left, size) = best?;
    order.truncate(size);
    order.sort_unstable();
    (left <= 1.0 - LEAST_GAIN).then_some(order)
}

/// The nodes of a site for either part of the channels, by the nodes that they stand for.
fn split(
    graph: &mut Graph,
    site: &Site,
    channels: &[(&str, Vec<usize>); 2],
    parts: &mut BTreeMap<usize, [Node; 2]>,
) {
    let mut made: [Vec<Node>; 2] = [Vec::new(), Vec::new()];
    for ((part, channels), made) in channels.iter().zip(&mut made) {
        let mut x = None;
        for (at, axis_of_weights) in [
            (site.first, Some(output_axis(&graph.nodes[site.first]))),
            (site.function, None),
            (site.second, Some(1 - output_axis(&graph.nodes[site.second]))),
        ] {
            let mut node = graph.nodes[at].clone();
            node.name = format!("{}/{part}", node.name);
            node.inputs[0] = x.or(node.inputs[0]);
            // The bias of the first layer has these channels; that of the second is added once.
            let picked = [(1, axis_of_weights), (2, (at == site.first).then_some(0))];
            for (operand, axis) in picked {
                let (Some(axis), Some(id)) = (axis, node.inputs.get(operand).copied().flatten())
                else {
                    continue;
                };
                let Some(constant) = graph.constant(id).cloned() else { continue };
                let name = format!("{}/{part}", graph.value(id).name);
                let constant = pick(&constant, axis, channels);
                node.inputs[operand] = Some(graph.add_constant(name, constant));
            }
            if at == site.second && *part == "wide" {
                node.inputs.truncate(2);
            }
            let y = graph.value(node.outputs[0]).clone();
            let mut shape = y.shape;
            if at != site.second
                && let Some(last) = shape.last_mut()
            {
                *last = Dim::from(channels.len());
            }
            let y = graph.add_value(format!("{}/{part}", y.name), y.dtype, shape);
            node.outputs[0] = y;
            x = Some(y);
            made.push(node);
        }
    }
    let [rest, wide] = made;
    for ((at, rest), wide) in
        [site.first, site.function, site.second].into_iter().zip(rest).zip(wide)
    {
        parts.insert(at, [rest, wide]);
    }
}

/// Some indices of an axis.
fn pick(tensor: &Tensor, axis: usize, indices: &[usize]) -> Tensor {
    let reals = tensor.to_f32();
    let (extent, inner) = (tensor.shape[axis], tensor.shape[axis + 1..].iter().product::<usize>());
    let mut shape = tensor.shape.clone();
    shape[axis] = indices.len();
    let mut picked = Vec::with_capacity(shape.iter().product());
    for block in reals.chunks_exact((extent * inner).max(1)) {
        for index in indices {
            picked.extend_from_slice(&block[index * inner..][..inner]);
        }
    }
    Tensor::from_f32(shape, &picked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::Reals;
    use crate::graph::{MatMul, NormKind, UnaryKind};
    use crate::quantize::spread::tests::first_output;
    use whit::DType;

    const INNER: usize = 160;

    /// `norm(layer(gelu(layer(x))))`, with channels that are twenty times the others every so often.
    fn graph(transpose_b: bool, every: usize) -> Graph {
        let mut graph = Graph::default();
        let dims = |n: usize| vec![Dim::from(3usize), Dim::from(n)];
        let x = graph.add_value("x", DType::F32, dims(4));
        graph.inputs.push(x);
        let wide = |channel: usize| if channel % every == 7 { 20.0 } else { 1.0 };
        let number = |at: usize| ((at * 37 % 101) as f32 - 50.0) / 100.0;
        let weights = |outputs: usize, inputs: usize, of: &dyn Fn(usize, usize) -> f32| {
            let shape = if transpose_b { [outputs, inputs] } else { [inputs, outputs] };
            let at = |i: usize| match transpose_b {
                true => of(i / inputs, i % inputs),
                false => of(i % outputs, i / outputs),
            };
            Tensor::from_f32(shape, &(0..outputs * inputs).map(at).collect::<Vec<f32>>())
        };
        let first = weights(INNER, 4, &|o, i| wide(o) * number(o * 4 + i));
        let second = weights(4, INNER, &|o, i| number(o * INNER + i + 3));
        let (w1, w2) = (graph.add_constant("w1", first), graph.add_constant("w2", second));
        let bias: Vec<f32> = (0..INNER).map(|c| 0.1 * number(c)).collect();
        let b1 = graph.add_constant("b1", Tensor::from_f32([INNER], &bias));
        let b2 = graph.add_constant("b2", Tensor::from_f32([4], &[0.5, -0.5, 0.25, 0.0]));
        let product =
            MatMul { transpose_a: false, transpose_b, clamp: Clamp::NONE, inner_quant: None };
        let norm = Op::Normalize { kind: NormKind::Rms, axis: 1, epsilon: 1e-5 };
        let mut at = x;
        for (name, op, n, more) in [
            ("up", Op::MatMul(product.clone()), INNER, vec![Some(w1), Some(b1)]),
            ("gelu", Op::Unary(UnaryKind::Gelu), INNER, vec![]),
            ("down", Op::MatMul(product), 4, vec![Some(w2), Some(b2)]),
            ("norm", norm, 4, vec![]),
        ] {
            let mut inputs = vec![Some(at)];
            inputs.extend(more);
            at = graph.add_value(name, DType::F32, dims(n));
            graph.nodes.push(Node { name: name.to_owned(), op, inputs, outputs: vec![at] });
        }
        graph.outputs.push(at);
        graph
    }

    const NUMBERS: [Numbers; 4] = [Numbers::Int8, Numbers::Int8, Numbers::Int8, Numbers::Float];

    fn samples() -> Reals {
        let values = (0..12).map(|at| ((at * 5 % 7) as f32 - 3.0) / 2.0).collect();
        Reals { shape: vec![3, 4], samples: vec![values] }
    }

    #[test]
    fn dominating_channels_get_layers_of_their_own_and_the_function_stays() {
        let samples = samples();
        for transpose_b in [false, true] {
            let reference = graph(transpose_b, 20);
            let mut parted = reference.clone();
            let mut numbers = NUMBERS.to_vec();
            run(&mut parted, &mut numbers, &samples, &mut |_| ()).unwrap();
            let names: Vec<&str> = parted.nodes.iter().map(|node| node.name.as_str()).collect();
            let halves = ["up/rest", "up/wide", "gelu/rest", "gelu/wide", "down/rest", "down/wide"];
            assert_eq!(names[..6], halves);
            assert_eq!(names[6..], ["down/sum", "norm"]);
            assert_eq!(numbers[..6], [Numbers::Int8; 6]);
            assert_eq!(numbers[6..], [Numbers::Float; 2]);
            let outputs = |graph: &Graph| first_output(graph, &samples);
            let (before, after) = (outputs(&reference), outputs(&parted));
            for (before, after) in before.iter().zip(&after) {
                assert!((before - after).abs() < 1e-4, "{before} became {after}");
            }
            // Wide channels are away from the others.
            let mut inner = parted.clone();
            inner.outputs = vec![inner.nodes[2].outputs[0]];
            crate::passes::remove_dead_code(&mut inner);
            let most = outputs(&inner).into_iter().fold(0f32, f32::max);
            let mut inner = reference.clone();
            inner.outputs = vec![inner.nodes[1].outputs[0]];
            crate::passes::remove_dead_code(&mut inner);
            let before = outputs(&inner).into_iter().fold(0f32, f32::max);
            assert!(most * 8.0 < before, "{most} of {before}");
        }
    }

    #[test]
    fn float_layers_and_what_is_a_result_stay() {
        for (numbers, is_result) in [([Numbers::Float; 4], false), (NUMBERS, true)] {
            let mut graph = graph(true, 20);
            if is_result {
                graph.outputs.push(graph.nodes[1].outputs[0]);
            }
            run(&mut graph, &mut numbers.to_vec(), &samples(), &mut |_| ()).unwrap();
            assert_eq!(graph.nodes.len(), 4, "{numbers:?}");
        }
    }
}
