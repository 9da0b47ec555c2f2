//! Finds the range of every activation by running the float program on data.

pub mod histogram;
pub mod statistics;

use std::collections::HashMap;

use whit::DType;

use crate::evaluate::{EvaluateError, Program, Samples, observe};
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

/// Ranges of the f32 activations, by value and the type of the integers that are to hold it: i16 has room for all
/// that was seen.
pub type Ranges = HashMap<(ValueId, DType), Range>;

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
    observe(&program, samples, &mut |done| progress(done, total), &mut |seen| {
        let (tensor, seen) = (seen.tensor, seen.reals);
        let seen =
            seen.iter().fold(Range { min: f32::INFINITY, max: f32::NEG_INFINITY }, |range, v| {
                Range { min: range.min.min(*v), max: range.max.max(*v) }
            });
        ranges.entry(tensor).and_modify(|range| *range = range.union(seen)).or_insert(seen);
    })?;
    let seen = ranges.clone();
    if let Method::Percentile(percent) = method {
        let mut histograms: HashMap<usize, Vec<u64>> = HashMap::new();
        observe(
            &program,
            samples,
            &mut |done| progress(samples.len() + done, total),
            &mut |seen| {
                let (tensor, values) = (seen.tensor, seen.reals);
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
    let mut chosen = Ranges::new();
    for (value, tensor) in &program.plan.tensor_of_value {
        if let (Some(narrow), Some(whole)) = (ranges.get(tensor), seen.get(tensor)) {
            chosen.insert((*value, DType::I8), *narrow);
            chosen.insert((*value, DType::I16), *whole);
        }
    }
    Ok(chosen)
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
