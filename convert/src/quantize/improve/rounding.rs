//! The step that learns which way weights are rounded.

use super::Context;
use crate::evaluate::EvaluateError;
use crate::learn::{LearnError, Learned, rounding};
use crate::quantize::quantization::Quantization;

pub(super) fn run(
    quantization: &mut Quantization,
    context: &mut Context<'_>,
) -> Result<bool, EvaluateError> {
    let Context { reference, samples, seed, watch, .. } = context;
    let result = rounding::learn(quantization, reference, *samples, *seed, &mut |done, total| {
        watch.progress("learning how to round", done, total);
    });
    finish("rounding", result, context)
}

/// Whether a step did something; what it couldn't do becomes a note.
pub(super) fn finish(
    step: &str,
    result: Result<Learned, LearnError>,
    context: &mut Context<'_>,
) -> Result<bool, EvaluateError> {
    match result {
        Ok(learned) => {
            let skipped = learned.skipped.into_iter().map(|why| format!("{step}: {why}"));
            context.notes.extend(skipped);
            Ok(learned.layers > 0)
        }
        Err(LearnError::Evaluate(error)) => Err(error),
        Err(error) => {
            context.notes.push(format!("{step} changed nothing: {error}"));
            Ok(false)
        }
    }
}
