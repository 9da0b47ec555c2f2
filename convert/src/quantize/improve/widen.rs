//! Small layers whose 4 bits harm the outputs most get 8: a few bytes for most of the error.
//!
//! Each layer alone is given its 4 bits, the others float. The errors that this makes at the outputs very nearly
//! add up, so that the bytes are spent where each takes away most error.

use std::collections::BTreeMap;

use crate::evaluate::{EvaluateError, Program, Subset};
use crate::plan::PlanOptions;
use crate::quantize::calibrate::Ranges;
use crate::quantize::measure::noise_of_mix;
use crate::quantize::numbers::{Numbers, weights_of};
use crate::quantize::quantization::Quantization;

use super::Context;

/// What all the wider layers may add to the bytes of the weights.
const MOST_BYTES: f64 = 0.1;

/// Error over signal at the outputs, 40 dB, that 4 bits may leave: below it nothing is to be gained.
const ENOUGH: f64 = 1e-4;

/// Samples that the error of single layers is measured on: it is a mean over many elements each.
const MOST_SAMPLES: usize = 32;

/// A layer of less than 8 bits.
struct Layer {
    node: usize,
    /// What it has, and what it may get.
    narrow: Numbers,
    wide: Numbers,
    /// Bytes that 8 bits would add.
    extra: f64,
    /// What its few bits do to the outputs.
    noise: f64,
}

/// Runs of the model that the step takes, about: of the float model and of one for each layer, on each sample.
pub(super) fn runs(quantization: &Quantization, context: &Context<'_>) -> u64 {
    let layers = quantization.numbers.iter().filter_map(|numbers| numbers.widened()).count();
    2 * layers as u64 * context.samples.len().min(MOST_SAMPLES) as u64
}

/// Runs the step.
pub(super) fn run(
    quantization: &mut Quantization,
    context: &mut Context<'_>,
) -> Result<bool, EvaluateError> {
    let graph = &quantization.graph;
    let mut layers = Vec::new();
    let mut bytes = 0.0;
    for (node, numbers) in quantization.numbers.iter().enumerate() {
        let Some(weights) = weights_of(graph, &graph.nodes[node]) else { continue };
        bytes += numbers.weight_bytes(weights.len());
        if let Some(wide) = numbers.widened() {
            let extra = wide.weight_bytes(weights.len()) - numbers.weight_bytes(weights.len());
            layers.push(Layer { node, narrow: *numbers, wide, extra, noise: 0.0 });
        }
    }
    if layers.is_empty() {
        return Ok(false);
    }
    let samples = Subset::spread(context.samples, graph, MOST_SAMPLES);
    let float = Program::new(graph, &PlanOptions::default())?;
    let total = layers.len();
    for (at, layer) in layers.iter_mut().enumerate() {
        context.watch.progress("measuring layers", at, total);
        let mut mix = vec![Numbers::Float; graph.nodes.len()];
        mix[layer.node] = layer.narrow;
        layer.noise = noise_of_mix(graph, &mix, &Ranges::new(), &float, &samples)?;
    }
    let chosen = choose(layers, bytes * MOST_BYTES);
    let names: Vec<&str> =
        chosen.keys().map(|node| quantization.graph.nodes[*node].name.as_str()).collect();
    if !names.is_empty() {
        let list = names.join(", ");
        context.notes.push(format!("{} of {total} layers of 4 bits got 8: {list}", names.len()));
    }
    for (node, wide) in &chosen {
        quantization.numbers[*node] = *wide;
        quantization.round_weights(*node);
    }
    Ok(!chosen.is_empty())
}

/// The layers that bytes are spent on, with what they get.
fn choose(mut layers: Vec<Layer>, mut bytes: f64) -> BTreeMap<usize, Numbers> {
    let worth = |layer: &Layer| layer.noise / layer.extra.max(1.0);
    layers.sort_by(|a, b| worth(b).total_cmp(&worth(a)));
    let mut left: f64 = layers.iter().map(|layer| layer.noise).sum();
    let mut chosen = BTreeMap::new();
    for layer in layers {
        if left <= ENOUGH {
            break;
        }
        if layer.extra <= bytes {
            bytes -= layer.extra;
            left -= layer.noise;
            chosen.insert(layer.node, layer.wide);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::numbers::GroupedBits;

    fn layer(node: usize, extra: f64, noise: f64) -> Layer {
        let numbers = |bits| Numbers::Grouped { bits, group: 32 };
        let (narrow, wide) = (numbers(GroupedBits::W4), numbers(GroupedBits::W8));
        Layer { node, narrow, wide, extra, noise }
    }

    #[test]
    fn bytes_go_where_each_takes_away_most() {
        let layers = || vec![layer(0, 100.0, 0.1), layer(1, 1000.0, 0.2), layer(2, 50.0, 0.01)];
        let chosen = |bytes| choose(layers(), bytes).into_keys().collect::<Vec<_>>();
        assert_eq!(chosen(10.0), Vec::<usize>::new());
        assert_eq!(chosen(100.0), [0]);
        assert_eq!(chosen(150.0), [0, 2]);
        assert_eq!(chosen(1150.0), [0, 1, 2]);
        assert_eq!(choose(vec![layer(0, 1.0, 1e-5)], 10.0).len(), 0);
    }
}
