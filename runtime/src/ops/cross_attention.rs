//! Attention of tokens over something else that has been read, an encoder's rows of sound, whose keys and values are kept in f16
//! from run to run.
//!
//! A run that has new keys and values writes them first; one that has none attends to those of an earlier run. The
//! computation is that of [`cached_attention`](super::cached_attention), where every token sees all positions. How much a token
//! attends to each of them can be a result, too, of some heads.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{CrossAttentionAttributes, Op};
use crate::isa::Isa;
use crate::kernels::attention_kept::Plain;
use crate::memory::{Context, typed, typed_mut};
use crate::ops::attention::Scores;
use crate::ops::cached_attention::{CachedAttention, Kernels, Sizes};
#[cfg(feature = "std")]
use crate::ops::parallel::Work;
use crate::ops::rotary::token_channels;
use crate::ops::shape::expect_apart;
use crate::ops::{Operator, Step, expect_type, select_isa};

/// f32 queries, new keys and values and results; kept keys and values f16.
pub static CROSS_ATTENTION_F32: Operator = Operator {
    op: Op::CrossAttention,
    dtype: Some(DType::F32),
    check,
    select: select_isa!(run),
    scratch_bytes: |step, _| sizes(step).map_or(0, |s| s.scratch_len() * size_of::<f32>()),
};

const NEW: usize = 1;
/// Optional, with the output of their weights.
const CHOSEN: usize = 2;
const KEYS: usize = 1;
const VALUES: usize = 2;
const WEIGHTS: usize = 3;

fn sizes(step: &Step<'_>) -> Result<Sizes, StepErrorKind> {
    let a: CrossAttentionAttributes = step.expect_attributes()?;
    Ok(Sizes {
        tokens: step.input(0)?.dim(0),
        heads: a.heads as usize,
        kv_heads: a.kv_heads as usize,
        size: a.size as usize,
        sequences: 1,
        context: step.output(KEYS)?.dim(2),
    })
}

fn check(step: &Step<'_>) -> Result<(), StepErrorKind> {
    // The chosen heads and their weights come together.
    if !matches!((step.input_count(), step.output_count()), (2, 3) | (3, 4)) {
        return Err(StepErrorKind::OperandCount);
    }
    let output = step.input_count() as u8;
    expect_apart(step)?;
    let a: CrossAttentionAttributes = step.expect_attributes()?;
    if a.size == 0 || a.kv_heads == 0 || a.heads == 0 || !a.heads.is_multiple_of(a.kv_heads) {
        return Err(StepErrorKind::Attribute("heads"));
    }
    let (x, new, y) = (step.input(0)?, step.input(NEW)?, step.output(0)?);
    expect_type(&x, DType::F32, 0)?;
    expect_type(&new, DType::F32, NEW as u8)?;
    expect_type(&y, DType::F32, output)?;
    if x.rank() != 2 || Some(x.dim(1)) != token_channels(a.heads, 0, a.size) {
        return Err(StepErrorKind::OperandShape(0));
    }
    if y.dims() != x.dims() {
        return Err(StepErrorKind::OperandShape(output));
    }
    let (keys, values) = (step.output(KEYS)?, step.output(VALUES)?);
    for (number, cache) in [(KEYS, &keys), (VALUES, &values)] {
        let operand = output + number as u8;
        expect_type(cache, DType::F16, operand)?;
        let is_one = cache.rank() == 4
            && cache.dim(0) == 1
            && cache.dim(1) == a.kv_heads as usize
            && cache.dim(2) > 0
            && cache.dim(3) == a.size as usize
            && cache.dims() == keys.dims();
        if !is_one {
            return Err(StepErrorKind::OperandShape(operand));
        }
    }
    let fits = new.rank() == 3
        && new.dim(0) <= 1
        && new.dim(1) == keys.dim(2)
        && Some(new.dim(2)) == token_channels(0, a.kv_heads, a.size);
    if !fits {
        return Err(StepErrorKind::OperandShape(NEW as u8));
    }
    if step.input_count() > CHOSEN {
        let (chosen, weights) = (step.input(CHOSEN)?, step.output(WEIGHTS)?);
        let operand = output + WEIGHTS as u8;
        expect_type(&chosen, DType::I32, CHOSEN as u8)?;
        expect_type(&weights, DType::F32, operand)?;
        if chosen.rank() != 1 {
            return Err(StepErrorKind::OperandShape(CHOSEN as u8));
        }
        let sizes = [x.dim(0), chosen.dim(0), keys.dim(2)];
        if weights.rank() != 3 || (0..3).any(|axis| weights.dim(axis) != sizes[axis]) {
            return Err(StepErrorKind::OperandShape(operand));
        }
    }
    sizes(step)?.check()
}

fn run<const ISA: usize>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let a: CrossAttentionAttributes = context.step.attributes();
    let sizes = sizes(&context.step)?;
    #[cfg(feature = "std")]
    let crew = context.take_crew();
    let has_chosen = context.step.has_input(CHOSEN);
    let output = context.step.input_count() as u8;
    let operands = context.operands_with_outputs::<3, 4>([0, NEW, CHOSEN])?;
    let [x, new, chosen] = operands.inputs;
    let [y, keys, values, weights] = operands.outputs;
    let keys: &mut [f16] = typed_mut(keys, output + KEYS as u8)?;
    let values: &mut [f16] = typed_mut(values, output + VALUES as u8)?;
    let chosen: &[i32] = if has_chosen { typed(chosen, CHOSEN as u8)? } else { &[] };
    if chosen.iter().any(|head| !(0..sizes.heads as i64).contains(&i64::from(*head))) {
        return Err(StepErrorKind::IndexOutOfRange);
    }
    keep(&sizes, typed(new, NEW as u8)?, keys, values);
    if sizes.tokens == 0 {
        return Ok(());
    }
    let y: &mut [f32] = typed_mut(y, output)?;
    let attention = CachedAttention {
        sizes,
        channels: sizes.heads * sizes.size,
        x: typed(x, 0)?,
        places: None,
        keys: Plain::new(sizes.size, keys),
        values: Plain::new(sizes.size, values),
        window: usize::MAX,
        to: Scores { scale: a.scale, softcap: 0.0, zero_rows: false },
        kernels: Kernels::plain(Isa::ALL[ISA]),
    };
    if !chosen.is_empty() {
        attention.weights(chosen, typed_mut(weights, output + WEIGHTS as u8)?);
    }
    #[cfg(feature = "std")]
    if let Some(crew) = crew {
        return attention.run_parts(crew, y, operands.scratch);
    }
    attention.run(y, operands.scratch)
}

/// Writes new keys and values, `[positions, 2 · kv_heads · size]`, if there are any, head by head.
fn keep(sizes: &Sizes, new: &[f32], keys: &mut [f16], values: &mut [f16]) {
    let Sizes { kv_heads, size, context, .. } = *sizes;
    for (position, new) in new.chunks_exact(2 * kv_heads * size).enumerate() {
        let (new_keys, new_values) = new.split_at(kv_heads * size);
        for head in 0..kv_heads {
            let at = (head * context + position) * size;
            keys[at..][..size].convert_from_f32_slice(&new_keys[head * size..][..size]);
            values[at..][..size].convert_from_f32_slice(&new_values[head * size..][..size]);
        }
    }
}

/// What there is to share.
#[cfg(feature = "std")]
pub(super) fn work(step: &Step<'_>, isa: Isa) -> Option<Work> {
    let sizes = sizes(step).ok()?;
    Some(sizes.work(sizes.context as f32, isa))
}

#[cfg(test)]
#[path = "cross_attention_tests.rs"]
mod tests;
