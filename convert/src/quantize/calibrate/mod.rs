//! Finds the range of every activation by running the float program on data.
//!
//! The model runs once; [`statistics`] keeps what every tensor held. A [`Method`] makes a range of that,
//! [`methods`] for each tensor by itself, [`choice`] by trying all methods and looking at the layers that read
//! the tensor. [`remarks`] finds what is wrong with the data.

pub mod choice;
pub mod histogram;
pub mod methods;
mod probe;
mod remarks;
pub mod statistics;

use std::collections::HashMap;
use std::fmt;

use whit::DType;

use crate::evaluate::{EvaluateError, Samples};
use crate::graph::{Graph, Quant, ValueId};
use crate::quantize::numbers::Numbers;
use crate::quantize::quantization::is_infinite;
use crate::quantize::{asymmetric, symmetric};

pub use choice::{Candidate, Choice, Whole};
pub use statistics::{Observed, Statistics, observe_statistics};

/// The share of values that the percentile method holds where the user names none.
pub const PERCENTILE: f64 = 99.99;

/// How a range is chosen from what was seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// For i8, of all the others the one that changes the results of the layers behind least; for i16 min-max.
    Auto,
    /// The smallest and the largest value.
    MinMax,
    /// The exponential moving average of each sample's smallest and largest value.
    Average,
    /// The range that holds this share of the values, in percent, the rest cut evenly from both
    /// tails: 99.99 cuts one value in 20,000 at either end.
    Percentile(f64),
    /// The range with the least squared error of the tensor.
    Mse,
    /// The range whose quantized values are distributed most like the values (Kullback-Leibler divergence).
    Entropy,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Method::Auto => f.write_str("auto"),
            Method::MinMax => f.write_str("min-max"),
            Method::Average => f.write_str("moving average"),
            Method::Percentile(percent) => write!(f, "percentile {percent}"),
            Method::Mse => f.write_str("mse"),
            Method::Entropy => f.write_str("entropy"),
        }
    }
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

    /// What no integers can hold.
    const INFINITE: Range = Range { min: f32::NEG_INFINITY, max: f32::INFINITY };

    /// Whether both ends are finite.
    pub fn is_finite(self) -> bool {
        self.min.is_finite() && self.max.is_finite()
    }

    /// The grid of integers of a type that covers it.
    pub fn grid(self, dtype: DType) -> Quant {
        match dtype {
            DType::I16 => symmetric(self.min, self.max),
            _ => asymmetric(self.min, self.max),
        }
    }
}

/// Ranges of the f32 activations, by value and the type of the integers that are to hold it. The range of a value
/// that can be infinite is infinite, and nodes that touch it stay float.
pub type Ranges = HashMap<(ValueId, DType), Range>;

/// What calibration found.
#[derive(Clone, Debug, Default)]
pub struct Calibration {
    /// What every value held.
    pub statistics: Statistics,
    /// The range of every value.
    pub ranges: Ranges,
    /// For [`Method::Auto`], which method each value got and what the others would have done.
    pub choices: Vec<Choice>,
    /// For [`Method::Auto`], what the whole model's outputs were by each method.
    pub whole: Vec<Whole>,
    /// Remarks on the data, for the user.
    pub notes: Vec<String>,
}

/// Runs the graph on every sample and gives the range of every f32 value that a step makes, and of
/// the inputs. `numbers` are those wanted of each node. For a model with state the samples are consecutive
/// steps of one sequence. `progress` is called with a stage, how much of it is done, and the whole.
///
/// # Errors
/// When a sample doesn't fit the model, or the model makes NaN of one.
pub fn calibrate(
    graph: &Graph,
    numbers: &[Numbers],
    samples: &dyn Samples,
    method: Method,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<Calibration, EvaluateError> {
    let statistics = observe_statistics(graph, samples, &mut |done, total| {
        progress("calibrating", done, total);
    })?;
    refuse_nan(graph, &statistics)?;
    let mut notes = remarks::on_data(graph, &statistics);
    let ranges = ranges_by(method, &statistics, &[DType::I8, DType::I16]);
    let mut numbers: Vec<Numbers> =
        graph.nodes.iter().zip(numbers).map(|(node, own)| own.fitted(graph, node)).collect();
    let mut infinite = Vec::new();
    for (node, own) in graph.nodes.iter().zip(&mut numbers) {
        if own.integer().is_some() && is_infinite(graph, &ranges, node) {
            infinite.push(node.name.as_str());
            *own = Numbers::Float;
        }
    }
    if !infinite.is_empty() {
        notes.push(format!(
            "kept float, as integers can't hold the infinities that they read or make: {}",
            remarks::listed(&infinite)
        ));
    }
    let mut calibration = Calibration { statistics, ranges, notes, ..Calibration::default() };
    if method == Method::Auto {
        choice::choose(graph, &numbers, samples, &mut calibration, progress)?;
    }
    Ok(calibration)
}

/// The range of every value by one method, for integers of some types.
pub fn ranges_by(method: Method, statistics: &Statistics, dtypes: &[DType]) -> Ranges {
    let mut ranges = Ranges::new();
    for (value, seen) in &statistics.values {
        for dtype in dtypes.iter().copied() {
            let range = match seen.non_finite.infinite {
                0 => methods::range_by(method, seen, dtype),
                _ => Some(Range::INFINITE),
            };
            if let Some(range) = range {
                ranges.insert((*value, dtype), range);
            }
        }
    }
    ranges
}

/// NaN stands for no number at all, and nothing can be said of a model that makes it.
fn refuse_nan(graph: &Graph, statistics: &Statistics) -> Result<(), EvaluateError> {
    for node in &graph.nodes {
        let outputs = node.outputs.iter().filter_map(|id| statistics.get(*id));
        if let Some(seen) = outputs.map(|seen| seen.non_finite).find(|seen| seen.nan > 0) {
            return Err(EvaluateError::Sample(format!(
                "node `{}` of the float model makes NaN of sample {} of the calibration data: leave such samples \
                 out if they aren't typical, else the model needs repair",
                node.name, seen.sample
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
