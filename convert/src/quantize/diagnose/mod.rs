//! Says where a quantized program loses accuracy: which layers' errors are their own, what causes them, and what
//! to do about it.
//!
//! Both programs run on the same samples. A layer's *total* error is what its output is off in the quantized program.
//! What it *introduces* is measured by feeding: after every step, its output is replaced by the float program's value,
//! rounded to the output's own grid, so that the next steps compute on exact inputs as far as their grids
//! allow. The float program is fed the same rounded values, and what the quantized layer makes is compared with what
//! the float layer makes of the same inputs. The rest of the total was *inherited* from earlier layers.
//!
//! [`program`] runs and feeds, [`layers`] measures, [`cause`] names causes by stated numbers, [`remedy`] tries
//! what could be done.

pub mod cause;
pub mod layers;
mod program;
pub mod remedy;
#[cfg(test)]
mod tests;

use serde::Serialize;
use whit::Model;

use crate::evaluate::{EvaluateError, Samples};
use crate::graph::Graph;
use crate::pipeline::Watch;

pub use cause::{Cause, CauseKind};
pub use layers::Layer;
pub use remedy::Remedy;

/// Why two models could not be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// Names that the two models have in common are needed to find the same layer in both.
    #[error(
        "no layer of the file has the name of a layer of the model (the file has {file}; the model has {model}): give \
         the float model that the file was converted from"
    )]
    NoOverlap {
        /// A few of the file's names.
        file: String,
        /// A few of the model's.
        model: String,
    },
    /// Different inputs.
    #[error("the model has the inputs {model}, the file has {file}: they aren't the same model")]
    Inputs {
        /// Those of the model, with shapes.
        model: String,
        /// Those of the file.
        file: String,
    },
    /// The other way around, or two quantized models.
    #[error(
        "the model to compare with is quantized itself: give the float model that the file was converted from"
    )]
    ReferenceQuantized,
    /// No data.
    #[error("the data has no samples")]
    NoSamples,
    /// A program could not be run.
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
}

/// An output of the two models.
#[derive(Clone, Debug, Serialize)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// Signal over error, in decibels; infinite when equal.
    pub snr_db: f64,
    /// Largest difference.
    pub max_error: f64,
    /// Cosine of the angle between the two.
    pub cosine: f64,
}

/// Float against quantized, layer by layer.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Samples that both models ran on.
    pub samples: usize,
    /// Of these, the ones that the layers' effect on the outputs was measured on; 0 when it wasn't.
    pub samples_of_effects: usize,
    /// Whether any layer computes on integers or has weights of another type than f32.
    pub quantized: bool,
    /// The outputs.
    pub outputs: Vec<Output>,
    /// Over all outputs: the mean of their ratios of error to signal, in decibels.
    pub output_snr_db: f64,
    /// Layers that both have, in the order in which the file runs them.
    pub layers: Vec<Layer>,
    /// Steps of the file that have no counterpart: fused differently, or made by quantization.
    pub only_in_file: Vec<String>,
    /// Steps of the model without counterpart: fused in the file, or absorbed.
    pub only_in_model: Vec<String>,
    /// Names that several tensors have, so that the same layer can't be told.
    pub ambiguous: Vec<String>,
    /// What was tried, the best first.
    pub remedies: Vec<Remedy>,
    /// The outputs of the quantization that remedies are measured against, when any was tried.
    pub baseline_db: Option<f64>,
}

/// Compares a quantized file with a float model. `graph` is the float model after
/// [rewriting](crate::pipeline::rewrite_float), where there is one: weights and operators are then looked at too.
///
/// # Errors
/// When the two have nothing in common, or a sample doesn't fit.
pub fn compare(
    reference: Model<'_>,
    graph: Option<&Graph>,
    file: Model<'_>,
    samples: &dyn Samples,
    watch: &mut dyn Watch,
) -> Result<Comparison, CompareError> {
    if samples.is_empty() {
        return Err(CompareError::NoSamples);
    }
    let mut comparison = layers::measure(reference, graph, file, samples, watch)?;
    let overall = comparison.output_snr_db;
    for layer in &mut comparison.layers {
        layer.causes = cause::causes(layer, overall);
    }
    Ok(comparison)
}

/// 10 log10 of a signal over its error.
pub(crate) fn decibels(signal: f64, error: f64) -> f64 {
    if error <= 0.0 {
        f64::INFINITY
    } else {
        10.0 * (signal.max(f64::MIN_POSITIVE) / error).log10()
    }
}
