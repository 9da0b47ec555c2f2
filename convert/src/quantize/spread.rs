//! Makes the channels that an integer layer gives float nodes use the whole range of i8.
//!
//! All channels of a layer's result share one scale, and where a few are far larger than the others, which is how
//! transformers mark tokens before a residual addition, the others keep only a few steps. Each channel is multiplied by
//! a factor in the weights and bias of the layer, which have a scale per channel anyway, and divided by it behind
//! the layer, in float. The function stays as it was.

use std::collections::{BTreeMap, BTreeSet};

use whit::DType;

use crate::evaluate::{EvaluateError, Samples};
use crate::graph::{BinaryKind, Clamp, Graph, MatMul, Node, Op, ValueId};
use crate::quantize::improve::probe::watch;
use crate::quantize::numbers::{Numbers, output_axis, weights_of};
use crate::quantize::quantization::settled;
use crate::tensor::Tensor;

/// A channel is made at most so many times larger: one that the data never shows at work has no factor of its own.
const LARGEST_FACTOR: f32 = 1024.0;

/// The share of the rounding error that must go for the division behind to be worth it.
const LEAST_GAIN: f64 = 0.5;

/// Spreads what `numbers` makes integer layers of. `numbers` gets an entry for each node that is added.
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
    let mut largest: BTreeMap<ValueId, Vec<f32>> = BTreeMap::new();
    watch(graph, &sites, samples, progress, &mut |value, _, reals| {
        let channels = channels(graph, value).unwrap_or(1);
        let largest = largest.entry(value).or_insert_with(|| vec![0.0; channels]);
        for row in reals.chunks_exact(channels) {
            for (largest, real) in largest.iter_mut().zip(row) {
                *largest = largest.max(real.abs());
            }
        }
    })?;
    let nodes = std::mem::take(&mut graph.nodes);
    let before = std::mem::take(numbers);
    for (mut node, own) in nodes.into_iter().zip(before) {
        let factors = largest.get(&node.outputs[0]).and_then(|largest| factors(largest));
        let division = factors.map(|factors| multiply(graph, &mut node, &factors));
        graph.nodes.push(node);
        numbers.push(own);
        if let Some(division) = division {
            graph.nodes.push(division);
            numbers.push(Numbers::Float);
        }
    }
    Ok(())
}

/// What layers on i8 make for float nodes alone.
fn sites(graph: &Graph, numbers: &[Numbers]) -> BTreeSet<ValueId> {
    let settled = settled(graph, numbers);
    let consumers = graph.consumers();
    let is_site = |at: usize, node: &Node| {
        let y = node.outputs[0];
        let readers = &consumers[y.0 as usize];
        let plain = matches!(&node.op, Op::MatMul(MatMul { clamp, .. }) if *clamp == Clamp::NONE);
        plain
            && settled[at] == Numbers::Int8
            && node.inputs.get(3).copied().flatten().is_none()
            && weights_of(graph, node).is_some_and(|weights| weights.shape.len() == 2)
            && !readers.is_empty()
            && readers.iter().all(|reader| settled[*reader].integer().is_none())
            && !graph.is_result(y)
            && channels(graph, y).is_some()
    };
    let nodes = graph.nodes.iter().enumerate();
    nodes.filter(|(at, node)| is_site(*at, node)).map(|(_, node)| node.outputs[0]).collect()
}

/// Elements of the last axis.
pub(super) fn channels(graph: &Graph, value: ValueId) -> Option<usize> {
    let last = graph.value(value).shape.last()?.as_const()?;
    usize::try_from(last).ok().filter(|channels| *channels > 0)
}

/// What brings each channel's largest magnitude to that of all; `None` where that gains too little.
fn factors(largest: &[f32]) -> Option<Vec<f32>> {
    let most = largest.iter().copied().fold(0.0, f32::max);
    if !most.is_normal() {
        return None;
    }
    let factor = |largest: &f32| (most / largest.max(most / LARGEST_FACTOR)).max(1.0);
    let factors: Vec<f32> = largest.iter().map(factor).collect();
    // A channel's rounding error has the power of its step.
    let left: f64 = factors.iter().map(|factor| 1.0 / f64::from(factor * factor)).sum();
    (left / factors.len() as f64 <= 1.0 - LEAST_GAIN).then_some(factors)
}

/// Multiplies a layer's channels; the node that divides them, and makes the value that the layer made.
fn multiply(graph: &mut Graph, node: &mut Node, factors: &[f32]) -> Node {
    let scaled = |tensor: &Tensor, channel: &dyn Fn(usize) -> usize| {
        let values = tensor.to_f32();
        let values = values.iter().enumerate().map(|(at, v)| v * factors[channel(at)]);
        Tensor::from_f32(tensor.shape.clone(), &values.collect::<Vec<f32>>())
    };
    let axis = output_axis(node);
    for (operand, axis) in [(1, axis), (2, 0)] {
        let Some(id) = node.inputs.get(operand).copied().flatten() else { continue };
        let Some(constant) = graph.constant(id).cloned() else { continue };
        let inner: usize = constant.shape[axis + 1..].iter().product();
        let tensor = scaled(&constant, &|at| at / inner % factors.len());
        let name = format!("{}/spread", graph.value(id).name);
        node.inputs[operand] = Some(graph.add_constant(name, tensor));
    }
    let y = node.outputs[0];
    let (name, shape) = (graph.value(y).name.clone(), graph.value(y).shape.clone());
    let spread = graph.add_value(format!("{name}/spread"), DType::F32, shape);
    node.outputs[0] = spread;
    let inverse: Vec<f32> = factors.iter().map(|factor| 1.0 / factor).collect();
    let inverse =
        graph.add_constant(format!("{name}/factors"), Tensor::from_f32([factors.len()], &inverse));
    let name = format!("{}/divide", node.name);
    let op = Op::Binary(BinaryKind::Mul);
    Node { name, op, inputs: vec![Some(spread), Some(inverse)], outputs: vec![y] }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::dim::Dim;
    use crate::evaluate::{Program, Reals, feed, output_reals};
    use crate::graph::NormKind;
    use crate::plan::PlanOptions;

    /// `normalize(x + x · weightsᵀ + bias)`, whose first channel is a thousand times the others.
    fn graph() -> Graph {
        let mut graph = Graph::default();
        let dims = || vec![Dim::from(2usize), Dim::from(4usize)];
        let x = graph.add_value("x", DType::F32, dims());
        graph.inputs.push(x);
        let mut weights: Vec<f32> = (0..16).map(|at| ((at * 7 % 11) as f32 - 5.0) / 8.0).collect();
        weights[..4].iter_mut().for_each(|w| *w *= 1000.0);
        let w = graph.add_constant("w", Tensor::from_f32([4, 4], &weights));
        let b = graph.add_constant("b", Tensor::from_f32([4], &[300.0, 0.1, -0.2, 0.3]));
        let product =
            MatMul { transpose_a: false, transpose_b: true, clamp: Clamp::NONE, inner_quant: None };
        let mut at = x;
        let nodes = [
            ("layer", Op::MatMul(product), vec![Some(x), Some(w), Some(b)]),
            ("sum", Op::Binary(BinaryKind::Add), vec![None, Some(x)]),
            ("norm", Op::Normalize { kind: NormKind::Rms, axis: 1, epsilon: 1e-5 }, vec![None]),
        ];
        for (name, op, mut inputs) in nodes {
            inputs.iter_mut().filter(|input| input.is_none()).for_each(|input| *input = Some(at));
            at = graph.add_value(name, DType::F32, dims());
            graph.nodes.push(Node { name: name.to_owned(), op, inputs, outputs: vec![at] });
        }
        graph.outputs.push(at);
        graph
    }

    /// The first output of a graph for the first sample.
    pub(in crate::quantize) fn first_output(graph: &Graph, samples: &Reals) -> Vec<f32> {
        let program = Program::new(graph, &PlanOptions::default()).unwrap();
        let mut session = program.session(None).unwrap();
        feed(&mut session, samples, 0).unwrap();
        session.run().unwrap();
        output_reals(&session, 0).unwrap()
    }

    #[test]
    fn channels_get_equal_and_the_function_stays() {
        let samples = Reals {
            shape: vec![2, 4],
            samples: vec![vec![0.5, -1.0, 0.25, 0.75, 1.0, 0.0, -0.5, 0.125]],
        };
        let reference = graph();
        let mut spread = reference.clone();
        let mut numbers = vec![Numbers::Int8; 3];
        run(&mut spread, &mut numbers, &samples, &mut |_| ()).unwrap();
        assert_eq!(
            numbers,
            [Numbers::Int8, Numbers::Float, Numbers::Int8, Numbers::Int8],
            "the division is float"
        );
        let names: Vec<&str> = spread.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["layer", "layer/divide", "sum", "norm"]);

        let outputs = |graph: &Graph| first_output(graph, &samples);
        let (before, after) = (outputs(&reference), outputs(&spread));
        for (before, after) in before.iter().zip(&after) {
            assert!((before - after).abs() < 1e-5, "{before} became {after}");
        }
        // Channels of the layer's own result are as large as the largest.
        let mut inner = spread.clone();
        inner.outputs = vec![inner.nodes[0].outputs[0]];
        crate::passes::remove_dead_code(&mut inner);
        let values = outputs(&inner);
        let largest: Vec<f32> = (0..4).map(|c| values[c].abs().max(values[4 + c].abs())).collect();
        for channel in &largest {
            assert!((channel / largest[0] - 1.0).abs() < 1e-4, "{largest:?}");
        }
    }

    #[test]
    fn results_that_integers_read_stay() {
        let mut graph = graph();
        let samples = Reals { shape: vec![2, 4], samples: vec![vec![1.0; 8]] };
        // Without the normalisation the sum is on integers, and adds the layer's.
        graph.outputs = vec![graph.nodes[1].outputs[0]];
        graph.nodes.truncate(2);
        let mut numbers = vec![Numbers::Int8; 2];
        run(&mut graph, &mut numbers, &samples, &mut |_| ()).unwrap();
        assert_eq!(graph.nodes.len(), 2);
    }
}
