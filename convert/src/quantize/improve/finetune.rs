//! The step that tunes the whole quantized model towards the float model's outputs.

use super::Context;
use super::rounding::finish;
use crate::evaluate::EvaluateError;
use crate::learn::finetune;
use crate::quantize::quantization::Quantization;

pub(super) fn run(
    quantization: &mut Quantization,
    context: &mut Context<'_>,
) -> Result<bool, EvaluateError> {
    let Context { reference, samples, seed, watch, .. } = context;
    let result = finetune::learn(quantization, reference, *samples, *seed, &mut |done, total| {
        watch.progress("fine-tuning", done, total);
    });
    finish("finetune", result, context)
}
