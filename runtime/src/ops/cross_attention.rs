//! Attention of tokens over something else that has been read, an encoder's rows of sound, whose keys and values are kept in f16
//! from run to run.
//!
//! A run that has new keys and values writes them first; one that has none attends to those of an earlier run. The
//! computation is that of [`cached_attention`](super::cached_attention), where every token sees all positions.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{CrossAttentionAttributes, Op};
use crate::isa::Isa;
use crate::kernels::attention_kept::Halves;
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
const KEYS: usize = 1;
const VALUES: usize = 2;

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
    if step.input_count() != 2 || step.output_count() != 3 {
        return Err(StepErrorKind::OperandCount);
    }
    expect_apart(step)?;
    let a: CrossAttentionAttributes = step.expect_attributes()?;
    if a.size == 0 || a.kv_heads == 0 || a.heads == 0 || !a.heads.is_multiple_of(a.kv_heads) {
        return Err(StepErrorKind::Attribute("heads"));
    }
    let (x, new, y) = (step.input(0)?, step.input(NEW)?, step.output(0)?);
    expect_type(&x, DType::F32, 0)?;
    expect_type(&new, DType::F32, NEW as u8)?;
    expect_type(&y, DType::F32, 2)?;
    if x.rank() != 2 || Some(x.dim(1)) != token_channels(a.heads, 0, a.size) {
        return Err(StepErrorKind::OperandShape(0));
    }
    if y.dims() != x.dims() {
        return Err(StepErrorKind::OperandShape(2));
    }
    let (keys, values) = (step.output(KEYS)?, step.output(VALUES)?);
    for (operand, cache) in [(3, &keys), (4, &values)] {
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
    sizes(step)?.check()
}

fn run<const ISA: usize>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let a: CrossAttentionAttributes = context.step.attributes();
    let sizes = sizes(&context.step)?;
    #[cfg(feature = "std")]
    let crew = context.take_crew();
    let operands = context.operands_with_outputs::<2, 3>([0, NEW])?;
    let [x, new] = operands.inputs;
    let [y, keys, values] = operands.outputs;
    let keys: &mut [f16] = typed_mut(keys, 3)?;
    let values: &mut [f16] = typed_mut(values, 4)?;
    keep(&sizes, typed(new, NEW as u8)?, keys, values);
    if sizes.tokens == 0 {
        return Ok(());
    }
    let y: &mut [f32] = typed_mut(y, 2)?;
    let attention = CachedAttention {
        sizes,
        channels: sizes.heads * sizes.size,
        x: typed(x, 0)?,
        places: None,
        keys: Halves::new(sizes.size, keys),
        values: Halves::new(sizes.size, values),
        window: usize::MAX,
        to: Scores { scale: a.scale, softcap: 0.0, zero_rows: false },
        kernels: Kernels::f16(Isa::ALL[ISA]),
    };
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
