//! Finds the range of every activation by running the float program on data.

use std::collections::HashMap;

use whit::DType;

use crate::evaluate::{EvaluateError, Program, Samples, describe, feed};
use crate::graph::{Graph, ValueId};
use crate::plan::PlanOptions;

/// Bins of the histograms that percentiles are read from.
const BINS: usize = 2048;

/// How a range is chosen from what was seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// The smallest and the largest value.
    MinMax,
    /// The range that holds this share of the values, in percent, the rest cut evenly from both
    /// tails: 99.99 cuts one value in 20,000 at either end.
    Percentile(f64),
}

/// What was seen of one activation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// Lower end.
    pub min: f32,
    /// Upper end.
    pub max: f32,
}

impl Range {
    /// The smallest range that holds both.
    pub fn union(self, other: Range) -> Range {
        Range { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// Ranges of the f32 activations, by value.
pub type Ranges = HashMap<ValueId, Range>;

/// Runs the graph on every sample and gives the range of every f32 value that a step makes, and of
/// the inputs. For a model with state the samples are consecutive steps of one sequence. `progress` is called with the number of runs done and the number in all.
///
/// # Errors
/// When a sample doesn't fit the model, or has a value that isn't finite.
pub fn calibrate(
    graph: &Graph,
    samples: &dyn Samples,
    method: Method,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Ranges, EvaluateError> {
    let program = Program::new(graph, &PlanOptions::default())?;
    let passes = if method == Method::MinMax { 1 } else { 2 };
    let total = passes * samples.len();
    let mut ranges: HashMap<usize, Range> = HashMap::new();
    run_all(&program, samples, &mut |done| progress(done, total), &mut |tensor, values| {
        let seen =
            values.iter().fold(Range { min: f32::INFINITY, max: f32::NEG_INFINITY }, |range, v| {
                Range { min: range.min.min(*v), max: range.max.max(*v) }
            });
        ranges.entry(tensor).and_modify(|range| *range = range.union(seen)).or_insert(seen);
    })?;
    if let Method::Percentile(percent) = method {
        let mut histograms: HashMap<usize, Vec<u64>> = HashMap::new();
        run_all(
            &program,
            samples,
            &mut |done| progress(samples.len() + done, total),
            &mut |tensor, values| {
                let Some(range) = ranges.get(&tensor) else { return };
                let histogram = histograms.entry(tensor).or_insert_with(|| vec![0; BINS]);
                let width = (range.max - range.min).max(f32::MIN_POSITIVE) / BINS as f32;
                for value in values {
                    histogram[(((value - range.min) / width) as usize).min(BINS - 1)] += 1;
                }
            },
        )?;
        for (tensor, histogram) in histograms {
            if let Some(range) = ranges.get_mut(&tensor) {
                *range = percentile(*range, &histogram, percent);
            }
        }
    }
    let of_value = &program.plan.tensor_of_value;
    Ok(of_value.iter().filter_map(|(value, tensor)| Some((*value, *ranges.get(tensor)?))).collect())
}

/// The part of a range that holds `percent` of a histogram, tails cut evenly, on whole bins.
fn percentile(range: Range, histogram: &[u64], percent: f64) -> Range {
    let total: u64 = histogram.iter().sum();
    let cut = (total as f64 * (100.0 - percent).max(0.0) / 200.0) as u64;
    let width = (range.max - range.min) / histogram.len() as f32;
    let edge = |counts: &mut dyn Iterator<Item = &u64>| {
        let mut sum = 0;
        counts
            .take_while(|count| {
                sum += **count;
                sum <= cut
            })
            .count()
    };
    let low = edge(&mut histogram.iter());
    let high = edge(&mut histogram.iter().rev());
    if low + high >= histogram.len() {
        return range;
    }
    Range { min: range.min + low as f32 * width, max: range.max - high as f32 * width }
}

/// Runs the program on every sample; `see` gets every f32 tensor right after it was made.
fn run_all(
    program: &Program,
    samples: &dyn Samples,
    progress: &mut dyn FnMut(usize),
    see: &mut dyn FnMut(usize, &[f32]),
) -> Result<(), EvaluateError> {
    let mut session = program.session(None)?;
    let model = *session.model();
    let steps = &program.plan.steps;
    let mut scratch = Vec::new();
    // The samples are one sequence: what lives across runs goes from one to the next.
    session.reset_state();
    for sample in 0..samples.len() {
        feed(&mut session, samples, sample)?;
        for input in 0..model.inputs().len() {
            let is_float = session.input_slot(input).is_ok_and(|slot| slot.dtype() == DType::F32);
            if let (true, Some(tensor)) = (is_float, model.input(input)) {
                let values = session
                    .input_mut::<f32>(input)
                    .map_err(|e| EvaluateError::Invalid(e.to_string()))?;
                check_finite(values, sample, || {
                    model
                        .tensor(tensor)
                        .map_or(String::new(), |record| model.text(record.name).to_owned())
                })?;
                see(tensor, values);
            }
        }
        let mut bad: Option<EvaluateError> = None;
        session
            .run_observed(|step, memory| {
                for output in steps[step].outputs.iter().flatten() {
                    let Some((slot, bytes)) = memory.tensor(*output) else { continue };
                    if slot.dtype() != DType::F32 || bad.is_some() {
                        continue;
                    }
                    scratch.clear();
                    scratch.extend(
                        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
                    );
                    bad = check_finite(&scratch, sample, || steps[step].name.clone()).err();
                    see(program.plan.view_of.get(output).copied().unwrap_or(*output), &scratch);
                }
            })
            .map_err(|e| EvaluateError::Run { sample, why: describe(&model, e) })?;
        if let Some(error) = bad {
            return Err(error);
        }
        progress(sample + 1);
    }
    Ok(())
}

fn check_finite(
    values: &[f32],
    sample: usize,
    name: impl Fn() -> String,
) -> Result<(), EvaluateError> {
    match values.iter().find(|value| !value.is_finite()) {
        None => Ok(()),
        Some(value) => Err(EvaluateError::Sample(format!(
            "sample {sample} of the calibration data gives {value} in `{}`: remove or repair the sample",
            name()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_cut_both_tails() {
        let range = Range { min: 0.0, max: 100.0 };
        let mut histogram = vec![1u64; 100];
        assert_eq!(percentile(range, &histogram, 100.0), range);
        let cut = percentile(range, &histogram, 90.0);
        assert_eq!((cut.min, cut.max), (5.0, 95.0));
        histogram = vec![0; 100];
        histogram[50] = 10;
        let cut = percentile(range, &histogram, 99.0);
        assert!(
            cut.min <= 50.0 && cut.max >= 51.0,
            "the only bin that holds values stays: {cut:?}"
        );
    }
}
