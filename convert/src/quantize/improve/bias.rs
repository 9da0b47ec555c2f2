//! Bias correction: rounding shifts the mean of a layer's sums, and its bias takes the shift back.
//!
//! Nagel et al. 2019 (arXiv:1906.04721), section 4.2, measured on data: layer by layer, with the layers
//! before it already corrected, the mean over samples and positions of what the float model computes less what
//! the quantized one does is added to each channel's bias. Both means are of the sum before a
//! fused clamp, which would hide part of the shift.

use std::collections::{BTreeMap, BTreeSet};

use crate::evaluate::{EvaluateError, Samples, Subset};
use crate::graph::{Graph, ValueId};
use crate::quantize::numbers::{Numbers, output_axis, weights_of};
use crate::quantize::quantization::Quantization;
use crate::quantize::weights::{Scales, largest_bias};
use crate::tensor::Tensor;

use super::Context;
use super::probe::{Relay, levels, unclamp};

/// Samples that means are taken over: a few hundred have the error of the mean far below the shift.
const MOST_SAMPLES: usize = 256;

/// Mean of each channel in each sample, by the layer's output.
type Means = BTreeMap<ValueId, Vec<Vec<f64>>>;

/// A layer whose bias can be changed.
struct Layer {
    node: usize,
    output: ValueId,
    channels: usize,
}

/// Runs the step.
pub(super) fn run(
    quantization: &mut Quantization,
    context: &mut Context<'_>,
) -> Result<bool, EvaluateError> {
    let layers = layers(quantization);
    let samples = Subset::spread(context.samples, &quantization.graph, MOST_SAMPLES);
    // A mean of one sample says nothing about the next.
    if layers.is_empty() || samples.len() < 2 {
        return Ok(false);
    }
    let nodes: BTreeSet<usize> = layers.iter().map(|layer| layer.node).collect();
    let levels = levels(&quantization.graph, &nodes);
    let depth = levels.values().max().map_or(0, |level| level + 1);
    let total = (depth + 1) * samples.len();
    let (mut before, reference) = (0, context.reference);
    let mut means = |base: &Graph, graph: &Graph, layers: &[&Layer], relay: &mut Relay<'_>| {
        let means = means((base, graph), layers, relay, &mut |done| {
            context.watch.progress("correcting biases", before + done, total);
        });
        before += samples.len();
        means
    };
    let all: Vec<&Layer> = layers.iter().collect();
    let expected = means(reference, reference, &all, &mut Relay::new(&samples))?;
    let mut relay = Relay::new(&samples);
    let mut changed = false;
    for level in 0..depth {
        let layers: Vec<&Layer> =
            layers.iter().filter(|layer| levels.get(&layer.node) == Some(&level)).collect();
        let got =
            means(&quantization.graph, &quantization.with_quantize_nodes(), &layers, &mut relay)?;
        for layer in layers {
            let (Some(expected), Some(got)) = (expected.get(&layer.output), got.get(&layer.output))
            else {
                continue;
            };
            changed |= correct(quantization, layer, &shift(expected, got));
        }
    }
    Ok(changed)
}

/// The layers with rounded weights whose bias is constant or absent.
fn layers(quantization: &Quantization) -> Vec<Layer> {
    let graph = &quantization.graph;
    let layer = |node: &usize| {
        let (at, node) = (*node, &graph.nodes[*node]);
        let weights = weights_of(graph, node)?;
        let bias = node.inputs.get(2).copied().flatten();
        let constant = bias.is_none_or(|bias| graph.constant(bias).is_some());
        let channels = weights.shape[output_axis(node)];
        constant.then_some(Layer { node: at, output: node.outputs[0], channels })
    };
    quantization.weights.keys().filter_map(layer).filter(|layer| layer.channels > 0).collect()
}

/// The mean of each channel of each layer's sums, in each sample.
fn means(
    (base, graph): (&Graph, &Graph),
    layers: &[&Layer],
    relay: &mut Relay<'_>,
    progress: &mut dyn FnMut(usize),
) -> Result<Means, EvaluateError> {
    let mut graph = graph.clone();
    let sums = unclamp(&mut graph, &layers.iter().map(|layer| layer.output).collect());
    let place = |layer: &Layer| sums.get(&layer.output).copied().unwrap_or(layer.output);
    let watched: BTreeMap<ValueId, &Layer> =
        layers.iter().map(|layer| (place(layer), *layer)).collect();
    let mut means = Means::new();
    let values = watched.keys().copied().collect();
    let changing = layers.iter().map(|layer| layer.output).collect();
    relay.watch(base, &graph, &values, &changing, progress, &mut |value, _, reals| {
        let layer = watched[&value];
        let mut sum = vec![0f64; layer.channels];
        for row in reals.chunks_exact(layer.channels) {
            for (sum, real) in sum.iter_mut().zip(row) {
                *sum += f64::from(*real);
            }
        }
        let rows = (reals.len() / layer.channels).max(1) as f64;
        sum.iter_mut().for_each(|sum| *sum /= rows);
        means.entry(layer.output).or_default().push(sum);
    })?;
    Ok(means)
}

/// What to add to each channel: the mean of the differences over samples, less where it may be chance.
///
/// With a standard error σ of the mean m, the correction with the least expected error is about m · (1 − σ²/m²),
/// and none for |m| < σ (the positive part of James and Stein 1961's estimator, for one channel).
pub(super) fn shift(expected: &[Vec<f64>], got: &[Vec<f64>]) -> Vec<f64> {
    let count = expected.len().min(got.len()) as f64;
    let channels = expected.first().map_or(0, Vec::len);
    let of = |channel: usize| {
        let differences = || expected.iter().zip(got).map(move |(e, g)| e[channel] - g[channel]);
        let mean = differences().sum::<f64>() / count;
        let variance = differences().map(|d| (d - mean).powi(2)).sum::<f64>() / (count - 1.0);
        let chance = variance / count / (mean * mean);
        if chance < 1.0 { mean * (1.0 - chance) } else { 0.0 }
    };
    (0..channels).map(of).collect()
}

/// Adds a shift to a layer's bias, in a constant of its own, where the result stays within what the integers'
/// accumulator takes. False when nothing changed.
fn correct(quantization: &mut Quantization, layer: &Layer, shift: &[f64]) -> bool {
    let node = &quantization.graph.nodes[layer.node];
    let old = match node.inputs.get(2).copied().flatten() {
        None => vec![0.0; layer.channels],
        Some(id) => match quantization.graph.constant(id).map(|bias| bias.to_f32()) {
            Some(bias) if bias.len() == layer.channels => bias,
            Some(bias) if bias.len() == 1 => vec![bias[0]; layer.channels],
            _ => return false,
        },
    };
    let input_scale = quantization.input_quant(layer.node).map(|quant| f64::from(quant.scale[0]));
    let most = |channel: usize| match (&quantization.weights.get(&layer.node)?.scales, input_scale)
    {
        (Scales::PerChannel(quant), Some(input_scale)) => {
            let scale = quant.scale.get(channel).or(quant.scale.first())?;
            let numbers: Numbers = quantization.numbers[layer.node];
            Some(largest_bias(numbers) * input_scale * f64::from(*scale))
        }
        _ => None,
    };
    let new: Vec<f32> = (old.iter().zip(shift).enumerate())
        .map(|(channel, (old, shift))| {
            let new = (f64::from(*old) + shift) as f32;
            let fits = most(channel).is_none_or(|most| f64::from(new.abs()) <= most);
            if new.is_finite() && fits { new } else { *old }
        })
        .collect();
    if new == old {
        return false;
    }
    let name = format!("{}/bias", node.name);
    let graph = &mut quantization.graph;
    let id = graph.add_constant(name, Tensor::from_f32([layer.channels], &new));
    let inputs = &mut graph.nodes[layer.node].inputs;
    inputs.resize(inputs.len().max(3), None);
    inputs[2] = Some(id);
    true
}
