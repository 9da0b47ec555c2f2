//! Makes the channels that integer layers read of float nodes more alike.
//!
//! What a normalisation gives a layer has one scale on i8, and where a few channels are far larger than the others, as in
//! transformers, the others keep only a few steps. Each channel is divided by a factor in front of the layer, in float, and the
//! layer's weights are multiplied by it (Xiao et al. 2022, SmoothQuant, arXiv:2211.10438). The function stays as it was. Where
//! such layers alone read a value, [`equalize`](super::improve) puts factors into what makes it, and nothing is computed for them;
//! this is for values that others read, too, as the residual additions behind normalisations do.

use std::collections::{BTreeMap, BTreeSet};

use whit::DType;

use crate::evaluate::{EvaluateError, Samples};
use crate::graph::{BinaryKind, Graph, Node, Op, ValueId};
use crate::quantize::improve::probe::watch;
use crate::quantize::numbers::{Numbers, output_axis, tables, weights_of};
use crate::quantize::quantization::settled;
use crate::quantize::spread::channels;
use crate::quantize::weights::Rows;
use crate::tensor::Tensor;

/// Shares of the difficulty that move from activations into weights, of which the best is taken.
const SHARES: [f32; 5] = [0.25, 0.4, 0.5, 0.65, 0.8];

/// Factors stay within this and its inverse.
const LARGEST_FACTOR: f32 = 1024.0;

/// The share of the rounding error that must go for the division to be worth it.
const LEAST_GAIN: f64 = 0.5;

/// What the float model shows of a value, by channel.
struct Seen {
    low: Vec<f32>,
    high: Vec<f32>,
    /// Sums of squares.
    power: Vec<f64>,
    rows: usize,
}

/// Smooths what `numbers` makes integer layers read. `numbers` gets an entry for each node that is added.
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
    let mut seen: BTreeMap<ValueId, Seen> = BTreeMap::new();
    let values: BTreeSet<ValueId> = sites.keys().copied().collect();
    watch(graph, &values, samples, progress, &mut |value, _, reals| {
        let n = channels(graph, value).unwrap_or(1);
        let seen = seen.entry(value).or_insert_with(|| Seen {
            low: vec![0.0; n],
            high: vec![0.0; n],
            power: vec![0.0; n],
            rows: 0,
        });
        for row in reals.chunks_exact(n) {
            for (channel, real) in row.iter().enumerate() {
                seen.low[channel] = seen.low[channel].min(*real);
                seen.high[channel] = seen.high[channel].max(*real);
                seen.power[channel] += f64::from(*real).powi(2);
            }
            seen.rows += 1;
        }
    })?;
    let mut smoothed: BTreeMap<ValueId, Vec<f32>> = BTreeMap::new();
    for (value, readers) in &sites {
        if let Some(factors) = seen.get(value).and_then(|seen| factors(graph, seen, readers)) {
            smoothed.insert(*value, factors);
        }
    }
    let mut divided: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    let nodes = std::mem::take(&mut graph.nodes);
    let before = std::mem::take(numbers);
    for (at, (mut node, own)) in nodes.into_iter().zip(before).enumerate() {
        if let Some(value) = node.inputs.first().copied().flatten()
            && let Some(factors) = smoothed.get(&value)
            && sites[&value].contains(&at)
        {
            // The first of the layers has the division in front of it.
            let id = *divided.entry(value).or_insert_with(|| {
                let division = divide(graph, value, factors);
                let id = division.outputs[0];
                graph.nodes.push(division);
                numbers.push(Numbers::Float);
                id
            });
            node.inputs[0] = Some(id);
            multiply(graph, &mut node, factors);
        }
        graph.nodes.push(node);
        numbers.push(own);
    }
    Ok(())
}

/// Values that float nodes make for layers on i8 and for others, with these layers.
fn sites(graph: &Graph, numbers: &[Numbers]) -> BTreeMap<ValueId, Vec<usize>> {
    let settled = settled(graph, numbers);
    let consumers = graph.consumers();
    let tables = tables(graph);
    let mut sites = BTreeMap::new();
    for (at, node) in graph.nodes.iter().enumerate() {
        let value = node.outputs[0];
        let reads = |reader: &usize| {
            let layer = &graph.nodes[*reader];
            matches!(layer.op, Op::MatMul(_))
                && settled[*reader] == Numbers::Int8
                && layer.inputs.iter().filter(|input| **input == Some(value)).count() == 1
                && layer.inputs[0] == Some(value)
                && layer.inputs[1].is_some_and(|weights| !tables.contains(&weights))
                && weights_of(graph, layer).is_some_and(|weights| weights.shape.len() == 2)
        };
        let all = &consumers[value.0 as usize];
        let readers: Vec<usize> = all.iter().copied().filter(|reader| reads(reader)).collect();
        let alone = readers.len() == all.len() && !graph.is_result(value);
        if settled[at].integer().is_none()
            && !readers.is_empty()
            && !alone
            && graph.value(value).dtype == DType::F32
            && channels(graph, value).is_some()
        {
            sites.insert(value, readers);
        }
    }
    sites
}

/// A layer's weights, the outputs first.
fn by_output(graph: &Graph, node: &Node) -> Option<(Vec<f32>, usize)> {
    let weights = weights_of(graph, node)?;
    let rows = Rows::of(weights, output_axis(node));
    let reals = weights.to_f32();
    let at = |i: usize| reals[rows.index(i / rows.len, i % rows.len)];
    Some(((0..rows.count * rows.len).map(at).collect(), rows.len))
}

/// The factors with the least error, where they take enough of it away. They are powers of two: values and weights keep
/// every bit.
fn factors(graph: &Graph, seen: &Seen, readers: &[usize]) -> Option<Vec<f32>> {
    let n = seen.low.len();
    let layers: Option<Vec<Vec<f32>>> = readers
        .iter()
        .map(|reader| by_output(graph, &graph.nodes[*reader]))
        .map(|weights| weights.filter(|(_, inputs)| *inputs == n).map(|(weights, _)| weights))
        .collect();
    let layers = layers?;
    let mut weight = vec![0f32; n];
    for row in layers.iter().flat_map(|layer| layer.chunks_exact(n)) {
        for (largest, w) in weight.iter_mut().zip(row) {
            *largest = largest.max(w.abs());
        }
    }
    let peak = |channel: usize| seen.high[channel].max(-seen.low[channel]);
    let error = |factors: &[f32]| -> f64 {
        layers.iter().map(|layer| rounding_error(layer, seen, factors)).sum()
    };
    let plain = error(&vec![1.0; n]);
    let candidate = |share: &f32| {
        // SmoothQuant, equation 4.
        let of = |c: usize| peak(c).powf(*share) / weight[c].powf(1.0 - share);
        let logs: Vec<f32> = (0..n).map(|c| of(c).log2()).collect();
        let finite = || logs.iter().filter(|log| log.is_finite());
        let centre = finite().sum::<f32>() / finite().count().max(1) as f32;
        let most = LARGEST_FACTOR.log2();
        let factor = |log: &f32| match log.is_finite() {
            true => (log - centre).clamp(-most, most).round().exp2(),
            false => 1.0,
        };
        let factors: Vec<f32> = logs.iter().map(factor).collect();
        (error(&factors), factors)
    };
    let best = SHARES.iter().map(candidate).min_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 <= plain * (1.0 - LEAST_GAIN)).then_some(best.1)
}

/// What rounding adds to a layer's outputs, in shares of their power, when errors are even over a step and don't depend on each
/// other: that of inputs, whose step is that of all channels, and that of weights, whose step is that of an output.
fn rounding_error(weights: &[f32], seen: &Seen, factors: &[f32]) -> f64 {
    let n = factors.len();
    let end = |ends: &[f32], pick: fn(f32, f32) -> f32| {
        ends.iter().zip(factors).map(|(end, factor)| end / factor).fold(0.0, pick)
    };
    let step = f64::from(end(&seen.high, f32::max) - end(&seen.low, f32::min)) / 255.0;
    let rows = seen.rows.max(1) as f64;
    let power = || seen.power.iter().map(|power| power / rows);
    let divided: f64 = power().zip(factors).map(|(p, f)| p / f64::from(f * f)).sum();
    let (mut of_inputs, mut of_weights, mut signal) = (0.0, 0.0, 0.0);
    for row in weights.chunks_exact(n) {
        let mut largest = 0f32;
        for ((w, factor), power) in row.iter().zip(factors).zip(power()) {
            let scaled = w * factor;
            largest = largest.max(scaled.abs());
            of_inputs += f64::from(scaled).powi(2) * step * step;
            signal += f64::from(*w).powi(2) * power;
        }
        of_weights += f64::from(largest / 127.0).powi(2) * divided;
    }
    (of_inputs + of_weights) / 12.0 / signal.max(f64::MIN_POSITIVE)
}

/// The node that divides a value's channels.
fn divide(graph: &mut Graph, value: ValueId, factors: &[f32]) -> Node {
    let name = format!("{}/smooth", graph.value(value).name);
    let shape = graph.value(value).shape.clone();
    let divided = graph.add_value(name.clone(), DType::F32, shape);
    let inverse: Vec<f32> = factors.iter().map(|factor| 1.0 / factor).collect();
    let inverse = Tensor::from_f32([factors.len()], &inverse);
    let inverse = graph.add_constant(format!("{name}/factors"), inverse);
    let inputs = vec![Some(value), Some(inverse)];
    Node { name, op: Op::Binary(BinaryKind::Mul), inputs, outputs: vec![divided] }
}

/// Multiplies a layer's weights by the factors of their inputs.
fn multiply(graph: &mut Graph, node: &mut Node, factors: &[f32]) {
    let Some(weights) = weights_of(graph, node).cloned() else { return };
    let rows = Rows::of(&weights, output_axis(node));
    let mut reals = weights.to_f32();
    for (at, real) in reals.iter_mut().enumerate() {
        *real *= factors[rows.place(at).1];
    }
    let Some(id) = node.inputs[1] else { return };
    let name = format!("{}/smooth", graph.value(id).name);
    node.inputs[1] =
        Some(graph.add_constant(name, Tensor::from_f32(weights.shape.clone(), &reals)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dim::Dim;
    use crate::evaluate::Reals;
    use crate::graph::{Clamp, MatMul, NormKind};
    use crate::quantize::spread::tests::first_output;

    /// Few channels among which one dominates are hardly better off: errors of its weights stay.
    const N: usize = 64;

    /// `norm + norm · weights`, the first channel of `norm` being twenty times the others.
    fn graph(transpose_b: bool) -> Graph {
        let mut graph = Graph::default();
        let dims = || vec![Dim::from(2usize), Dim::from(N)];
        let x = graph.add_value("x", DType::F32, dims());
        graph.inputs.push(x);
        let gain: Vec<f32> = (0..N).map(|c| if c == 0 { 20.0 } else { 1.0 }).collect();
        let gain = graph.add_constant("gain", Tensor::from_f32([N], &gain));
        let weights: Vec<f32> =
            (0..N * N).map(|at| ((at * 37 % 101) as f32 - 50.0) / 400.0).collect();
        let w = graph.add_constant("w", Tensor::from_f32([N, N], &weights));
        let product =
            MatMul { transpose_a: false, transpose_b, clamp: Clamp::NONE, inner_quant: None };
        let norm = Op::Normalize { kind: NormKind::Rms, axis: 1, epsilon: 1e-5 };
        let [n, y, sum] =
            ["norm", "layer", "sum"].map(|name| graph.add_value(name, DType::F32, dims()));
        for (op, inputs, output) in [
            (norm, vec![Some(x), Some(gain)], n),
            (Op::MatMul(product), vec![Some(n), Some(w)], y),
            (Op::Binary(BinaryKind::Add), vec![Some(y), Some(n)], sum),
        ] {
            let name = graph.value(output).name.clone();
            graph.nodes.push(Node { name, op, inputs, outputs: vec![output] });
        }
        graph.outputs.push(sum);
        graph
    }

    const NUMBERS: [Numbers; 3] = [Numbers::Float, Numbers::Int8, Numbers::Float];

    fn samples() -> Reals {
        let values = (0..2 * N).map(|at| ((at * 29 % 53) as f32 - 26.5) / 20.0).collect();
        Reals { shape: vec![2, N], samples: vec![values] }
    }

    #[test]
    fn a_dominating_channel_is_divided_and_the_function_stays() {
        let samples = samples();
        for transpose_b in [false, true] {
            let reference = graph(transpose_b);
            let mut smooth = reference.clone();
            let mut numbers = NUMBERS.to_vec();
            run(&mut smooth, &mut numbers, &samples, &mut |_| ()).unwrap();
            let names: Vec<&str> = smooth.nodes.iter().map(|node| node.name.as_str()).collect();
            assert_eq!(names, ["norm", "norm/smooth", "layer", "sum"]);
            assert_eq!(numbers[1..3], [Numbers::Float, Numbers::Int8]);
            let factors = smooth.constant(smooth.nodes[1].inputs[1].unwrap()).unwrap().to_f32();
            assert!(factors[0] < 0.5 * factors[1], "the first channel gets smaller: {factors:?}");

            let outputs = |graph: &Graph| first_output(graph, &samples);
            let (before, after) = (outputs(&reference), outputs(&smooth));
            for (before, after) in before.iter().zip(&after) {
                assert!((before - after).abs() < 1e-3, "{before} became {after}");
            }
        }
    }

    #[test]
    fn values_that_layers_alone_read_and_even_channels_stay() {
        // Nobody but the layer reads the normalisation: equalizing costs nothing there.
        let mut alone = graph(true);
        alone.nodes.truncate(2);
        alone.outputs = vec![alone.nodes[1].outputs[0]];
        // All channels are alike.
        let mut even = graph(true);
        let gain = even.add_constant("even", Tensor::from_f32([N], &[1.0; N]));
        even.nodes[0].inputs[1] = Some(gain);
        // The layer isn't on integers.
        for (mut graph, numbers) in
            [(alone, &NUMBERS[..2]), (even, &NUMBERS), (graph(true), &[Numbers::Float; 3])]
        {
            let count = graph.nodes.len();
            run(&mut graph, &mut numbers.to_vec(), &samples(), &mut |_| ()).unwrap();
            assert_eq!(graph.nodes.len(), count);
        }
    }
}
