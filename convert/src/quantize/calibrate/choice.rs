//! Chooses a range for every activation by what it does to the layers behind.
//!
//! Each method proposes a range. What a tensor's own error says about a range is little: values that are clipped may
//! be those that matter, or vanish in a sum. So each range is [measured](super::probe) in the results of the
//! layers that read the tensor, and the one with the least error, summed over these layers, is taken. At last
//! the mix is held against each method by itself, at the outputs of the quantized model.

use std::collections::BTreeMap;

use whit::DType;

use crate::evaluate::{EvaluateError, Program, Samples, Subset};
use crate::graph::{Graph, Quant, ValueId};
use crate::plan::PlanOptions;
use crate::quantize::calibrate::probe::{Probe, Reader, affordable, measure};
use crate::quantize::calibrate::{Calibration, Method, PERCENTILE, Range, Ranges, ranges_by};
use crate::quantize::keeps_scale;
use crate::quantize::measure::{Noise, noise_by_sample, shares, sigma};
use crate::quantize::numbers::{Numbers, integer_form};
use crate::quantize::quantization::{Quantization, SharedGrids};

/// The methods that are tried, in the order in which equally good ones are preferred.
pub const CANDIDATES: [Method; 6] = [
    Method::MinMax,
    Method::Percentile(PERCENTILE),
    Method::Percentile(99.9),
    Method::Average,
    Method::Mse,
    Method::Entropy,
];

/// A range must be better by this factor to be preferred to a simpler one: less is chance.
const BETTER: f64 = 0.99;

/// A whole model must be better than by min-max by this many standard errors of the mean over the samples. Few
/// samples often hold most of the error.
const SURE: f64 = 2.0;

/// Samples that whole models are compared on, at least and at most.
const SAMPLES: [usize; 2] = [8, 256];

/// A range that methods propose.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The methods that propose it, or another that gives the same grid.
    pub methods: Vec<Method>,
    /// The range.
    pub range: Range,
    /// Error power over signal power at the results of each reader, summed over the readers; 0 where there was
    /// nothing to choose.
    pub error: f64,
}

/// How the range of a tensor was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The activations: one, or several that share a grid because they are only moved.
    pub values: Vec<ValueId>,
    /// Name of the first one.
    pub name: String,
    /// Names of the nodes that the error was measured behind.
    pub readers: Vec<String>,
    /// What was tried.
    pub candidates: Vec<Candidate>,
    /// The method that was chosen.
    pub method: Method,
}

/// What a method makes of the whole model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Whole {
    /// The method of every activation; [`Method::Auto`] for the mix.
    pub method: Method,
    /// Signal-to-noise ratio of the outputs, in decibels.
    pub snr_db: f64,
    /// By how many standard errors of the mean over the samples its error is below that of min-max.
    pub sigma: f64,
    /// Whether it was taken.
    pub chosen: bool,
}

/// Chooses the ranges of i8 activations. `numbers` are [fitted](Numbers::fitted).
pub(super) fn choose(
    graph: &Graph,
    numbers: &[Numbers],
    samples: &dyn Samples,
    calibration: &mut Calibration,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<(), EvaluateError> {
    if !numbers.contains(&Numbers::Int8) {
        return Ok(());
    }
    let mut proposals = Vec::new();
    for (at, method) in CANDIDATES.iter().enumerate() {
        progress("proposing ranges", at, CANDIDATES.len());
        // i16 keeps min-max.
        let mut ranges = calibration.ranges.clone();
        ranges.extend(ranges_by(*method, &calibration.statistics, &[DType::I8]));
        proposals.push((*method, ranges));
    }
    let shared = SharedGrids::new(graph, numbers, DType::I8);
    let mut choices = candidates(graph, &shared, &proposals);
    let (probes, of) = probes(graph, numbers, &shared, calibration, &choices);
    let noise = measure(graph, &probes, samples, &mut |done, total| {
        progress("choosing ranges", done, total);
    })?;
    for ((probe, choice), noise) in probes.iter().zip(&of).zip(&noise) {
        let choice = &mut choices[*choice];
        choice.readers.push(match probe.reader {
            Reader::Node(at) => graph.nodes[at].name.clone(),
            Reader::Itself => graph.value(probe.value).name.clone(),
        });
        for (candidate, noise) in choice.candidates.iter_mut().zip(noise) {
            candidate.error += Noise::ratio(noise);
        }
    }
    let mut mix = calibration.ranges.clone();
    for choice in &mut choices {
        let best = preferred(choice.candidates.iter().map(|candidate| candidate.error));
        let best = &choice.candidates[best];
        choice.method = best.methods[0];
        for value in &choice.values {
            mix.insert((*value, DType::I8), best.range);
        }
    }
    calibration.whole = compare(graph, numbers, samples, &proposals, &mix, progress)?;
    let chosen = calibration.whole.iter().find(|whole| whole.chosen).map(|whole| whole.method);
    let one = proposals.into_iter().find(|(method, _)| Some(*method) == chosen);
    calibration.ranges = match one {
        None => mix,
        Some((method, ranges)) => {
            choices.iter_mut().for_each(|choice| choice.method = method);
            ranges
        }
    };
    calibration.choices = choices;
    Ok(())
}

/// The first that is within [`BETTER`] of the least.
fn preferred(errors: impl Iterator<Item = f64> + Clone) -> usize {
    let least = errors.clone().fold(f64::INFINITY, f64::min);
    errors.clone().position(|error| error * BETTER <= least).unwrap_or(0)
}

/// The groups of activations that share a grid, with the distinct grids that methods propose for them.
fn candidates(graph: &Graph, shared: &SharedGrids, proposals: &[(Method, Ranges)]) -> Vec<Choice> {
    let mut groups: BTreeMap<u32, Vec<ValueId>> = BTreeMap::new();
    for id in (0..graph.values.len() as u32).map(ValueId) {
        if graph.value(id).dtype == DType::F32 && graph.constant(id).is_none() {
            groups.entry(shared.group[id.0 as usize]).or_default().push(id);
        }
    }
    groups.retain(|_, values| values.iter().any(|id| shared.has_grid[id.0 as usize]));
    let mut choices: Vec<Choice> = groups
        .into_values()
        .map(|values| {
            let mut candidates: Vec<Candidate> = Vec::new();
            let mut grids: Vec<Quant> = Vec::new();
            for (method, ranges) in proposals {
                let of = |id: &ValueId| {
                    shared.natural.get(id).or_else(|| ranges.get(&(*id, DType::I8))).copied()
                };
                let Some(range) = values.iter().filter_map(of).reduce(Range::union) else {
                    continue;
                };
                let grid = range.grid(DType::I8);
                match grids.iter().position(|other| *other == grid) {
                    Some(at) => candidates[at].methods.push(*method),
                    None => {
                        grids.push(grid);
                        candidates.push(Candidate { methods: vec![*method], range, error: 0.0 });
                    }
                }
            }
            let name = graph.value(values[0]).name.clone();
            Choice { values, name, readers: Vec::new(), candidates, method: Method::MinMax }
        })
        .collect();
    choices.retain(|choice| !choice.candidates.is_empty());
    choices
}

/// Probes of every group that has a choice, and whose they are.
fn probes(
    graph: &Graph,
    numbers: &[Numbers],
    shared: &SharedGrids,
    calibration: &Calibration,
    choices: &[Choice],
) -> (Vec<Probe>, Vec<usize>) {
    let consumers = graph.consumers();
    let measurable = |id: ValueId| {
        let finite = calibration
            .statistics
            .get(id)
            .is_some_and(|seen| seen.non_finite == Default::default());
        graph.value(id).dtype == DType::F32 && finite
    };
    let (mut probes, mut of) = (Vec::new(), Vec::new());
    for (at, choice) in choices.iter().enumerate().filter(|(_, choice)| choice.candidates.len() > 1)
    {
        let mut readers = Vec::new();
        for value in choice.values.iter().filter(|id| shared.has_grid[id.0 as usize]) {
            if graph.outputs.contains(value) {
                readers.push((*value, Reader::Itself));
            }
            let mut of_value = consumers[value.0 as usize].clone();
            of_value.dedup();
            for reader in of_value {
                let node = &graph.nodes[reader];
                let moves = keeps_scale(&node.op)
                    && numbers[reader] == Numbers::Int8
                    && integer_form(graph, node).is_some();
                if !moves && measurable(node.outputs[0]) {
                    readers.push((*value, Reader::Node(reader)));
                }
            }
        }
        if readers.is_empty() {
            let values = choice.values.iter().filter(|id| shared.has_grid[id.0 as usize]);
            readers.extend(values.map(|value| (*value, Reader::Itself)));
        }
        let grids: Vec<Quant> =
            choice.candidates.iter().map(|candidate| candidate.range.grid(DType::I8)).collect();
        for (value, reader) in readers {
            probes.push(Probe { value, grids: grids.clone(), reader });
            of.push(at);
        }
    }
    (probes, of)
}

/// The outputs of the model quantized by each method alone, and by the mix.
fn compare(
    graph: &Graph,
    numbers: &[Numbers],
    samples: &dyn Samples,
    proposals: &[(Method, Ranges)],
    mix: &Ranges,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<Vec<Whole>, EvaluateError> {
    let float = Program::new(graph, &PlanOptions::default())?;
    let mut all: Vec<(Method, &Ranges)> =
        vec![(Method::MinMax, &proposals[0].1), (Method::Auto, mix)];
    all.extend(proposals[1..].iter().map(|(method, ranges)| (*method, ranges)));
    let macs: u64 = float.plan.steps.iter().map(|step| step.macs).sum();
    let count = affordable(macs * 2 * all.len() as u64, SAMPLES);
    let subset = Subset::spread(samples, graph, count);
    let mut errors: Vec<Vec<f64>> = Vec::new();
    for (at, (_, ranges)) in all.iter().enumerate() {
        let quantized = Quantization::new(graph.clone(), numbers, ranges).lowered();
        let program = Program::new(&quantized, &PlanOptions::default())?;
        let mut noise: Vec<Vec<Noise>> = Vec::new();
        noise_by_sample(&float, &program, &subset, &mut |sample, of_outputs| {
            noise.push(of_outputs.to_vec());
            progress("comparing methods", at * subset.len() + sample + 1, all.len() * subset.len());
        })?;
        errors.push(shares(&noise));
    }
    let sums: Vec<f64> = errors.iter().map(|errors| errors.iter().sum()).collect();
    let sigmas: Vec<f64> = errors.iter().map(|own| sigma(&errors[0], own)).collect();
    // Min-max unless another is surely better; of those that are, the mix unless one method is better still.
    let surely = |at: usize| at == 0 || sigmas[at] >= SURE;
    let best =
        preferred((0..all.len()).map(|at| if surely(at) { sums[at] } else { f64::INFINITY }));
    let whole = |(at, (method, _)): (usize, &(Method, &Ranges))| Whole {
        method: *method,
        snr_db: -10.0 * sums[at].log10(),
        sigma: sigmas[at],
        chosen: at == best,
    };
    Ok(all.iter().enumerate().map(whole).collect())
}
