//! Attention, with and without keys and values kept in the session, and rotary positions.

use super::{Lower, Refusal, small};
use crate::backend::cuda::arguments::{
    self, Attention, AttentionI8, CachedAttention, CrossAttention,
};
use crate::backend::cuda::kernels::{
    ATTENTION_F32, ATTENTION_I8, CACHE_CHECK, CACHE_WRITE, CACHE_WRITE_F32, CACHE_WRITE_Q8,
    CACHED_ATTENTION, CACHED_ATTENTION_F32, CACHED_ATTENTION_F32_PART_1,
    CACHED_ATTENTION_F32_PART_4, CACHED_ATTENTION_JOIN, CACHED_ATTENTION_PART_1,
    CACHED_ATTENTION_PART_4, CACHED_ATTENTION_Q8, CACHED_ATTENTION_Q8_PART_1,
    CACHED_ATTENTION_Q8_PART_4, CROSS_ATTENTION, CROSS_CHECK, CROSS_WEIGHTS, CROSS_WRITE, Kernel,
    ROTARY,
};
use crate::dtype::DType;
use crate::format::{
    AttentionAttributes, CachedAttentionAttributes, CrossAttentionAttributes, RotaryAttributes,
};
use crate::ops::shape::broadcast_strides;

/// Channels of a head that attention has room for.
const MOST_CHANNELS: usize = 512;
/// The same where the keys are cut into parts.
const MOST_SHARED_CHANNELS: usize = 256;
/// Keys of a part at least: a chunk for each warp of a block.
const PART_KEYS: usize = 128;
/// Blocks for each multiprocessor that the keys of a few tokens are cut into: enough to hide how long reads take.
const BLOCKS: usize = 4;
/// Channels of a head that rotary positions have room for.
const MOST_HEAD: u32 = 1024;
/// The input with the mask.
const MASK: usize = 3;
/// The input of cross attention with the heads whose weights are wanted.
const CHOSEN: usize = 2;
/// The output with these weights.
const WEIGHTS: usize = 3;

pub(super) fn attention(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let attributes: AttentionAttributes = lower.step.expect_attributes()?;
    let ((q, q_at), (k, k_at), (v, v_at), (y, output)) =
        (lower.input(0)?, lower.input(1)?, lower.input(2)?, lower.output(0)?);
    if y.elements() == 0 {
        return Ok(());
    }
    for slot in [&q, &k, &v, &y] {
        super::elements(slot)?;
    }
    let (size, value_size) = (q.dim(3), v.dim(3));
    if size.max(value_size) > MOST_CHANNELS {
        return Err(Refusal::Lacks("heads of more than 512 channels"));
    }
    let arguments = Attention {
        q: q_at,
        k: k_at,
        v: v_at,
        mask: lower.optional_address(MASK),
        output,
        mask_strides: mask_strides(lower),
        heads: small(q.dim(1))?,
        kv_heads: small(k.dim(1))?,
        queries: small(q.dim(2))?,
        keys: small(k.dim(2))?,
        size: small(size)?,
        value_size: small(value_size)?,
        scale: attributes.scale,
        softcap: attributes.softcap,
        zero_rows: attributes.zero_rows,
        causal: attributes.causal,
        offset: small(lower.step.dim(attributes.offset)?)?,
        reserved: 0,
    };
    lower.call(&ATTENTION_F32, [q.dim(2), q.dim(0) * q.dim(1)], arguments)
}

/// Elements from one element of the mask to the next, by axis of the scores.
fn mask_strides(lower: &Lower<'_>) -> [u64; 4] {
    let strides = lower.step.optional_input(MASK).map(|mask| broadcast_strides(&mask, 4));
    std::array::from_fn(|axis| strides.map_or(0, |strides| strides[axis] as u64))
}

pub(super) fn attention_i8(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let attributes: AttentionAttributes = lower.step.expect_attributes()?;
    let ((q, q_at), (k, k_at), (v, v_at), (y, output)) =
        (lower.input(0)?, lower.input(1)?, lower.input(2)?, lower.output(0)?);
    if y.elements() == 0 {
        return Ok(());
    }
    for slot in [&q, &k, &v, &y] {
        super::elements(slot)?;
    }
    let (size, value_size) = (q.dim(3), v.dim(3));
    if size.max(value_size) > MOST_CHANNELS {
        return Err(Refusal::Lacks("heads of more than 512 channels"));
    }
    let arguments = AttentionI8 {
        q: q_at,
        k: k_at,
        v: v_at,
        mask: lower.optional_address(MASK),
        output,
        mask_strides: mask_strides(lower),
        heads: small(q.dim(1))?,
        kv_heads: small(k.dim(1))?,
        queries: small(q.dim(2))?,
        keys: small(k.dim(2))?,
        size: small(size)?,
        value_size: small(value_size)?,
        scale: attributes.scale,
        output_scale: attributes.output_scale,
        q_zero_point: q.zero_point,
        k_zero_point: k.zero_point,
        v_zero_point: v.zero_point,
        zero_point: y.zero_point,
        causal: attributes.causal,
        offset: small(lower.step.dim(attributes.offset)?)?,
    };
    lower.call(&ATTENTION_I8, [q.dim(2), q.dim(0) * q.dim(1)], arguments)
}

/// Kernels of attention over keys and values that are kept.
struct Cached {
    write: &'static Kernel,
    /// A block for each token and head.
    whole: &'static Kernel,
    /// A block for each part of the keys, and so many queries that share them.
    parts: [(u32, &'static Kernel); 2],
}

/// Keys and values in f16 or f32.
pub(super) fn cached_attention(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let (keys, _) = lower.output(1)?;
    let kernels = match keys.dtype {
        DType::F32 => Cached {
            write: &CACHE_WRITE_F32,
            whole: &CACHED_ATTENTION_F32,
            parts: [(1, &CACHED_ATTENTION_F32_PART_1), (4, &CACHED_ATTENTION_F32_PART_4)],
        },
        _ => Cached {
            write: &CACHE_WRITE,
            whole: &CACHED_ATTENTION,
            parts: [(1, &CACHED_ATTENTION_PART_1), (4, &CACHED_ATTENTION_PART_4)],
        },
    };
    cached(lower, &kernels, [0; 2])
}

/// Keys and values in i8, with scales.
pub(super) fn cached_attention_q8(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let ((_, key_scales), (_, value_scales)) = (lower.output(3)?, lower.output(4)?);
    let kernels = Cached {
        write: &CACHE_WRITE_Q8,
        whole: &CACHED_ATTENTION_Q8,
        parts: [(1, &CACHED_ATTENTION_Q8_PART_1), (4, &CACHED_ATTENTION_Q8_PART_4)],
    };
    cached(lower, &kernels, [key_scales, value_scales])
}

/// How the keys of a few tokens are cut into parts, so that a device has enough blocks.
struct Cut {
    /// Of each token and head.
    parts: u32,
    /// Groups of heads that share a part of the keys.
    groups: usize,
    kernel: &'static Kernel,
    /// At most, for any number of tokens.
    scratch_bytes: usize,
}

impl Cut {
    fn new(
        attributes: &CachedAttentionAttributes,
        context: usize,
        tokens: usize,
        kernels: &Cached,
        multiprocessors: u32,
    ) -> Cut {
        let shared = attributes.heads / attributes.kv_heads;
        let (queries, kernel) = kernels.parts[usize::from(shared > 1)];
        let groups = attributes.kv_heads as usize * shared.div_ceil(queries) as usize;
        let seen = match attributes.window {
            0 => context,
            window => context.min(window as usize),
        };
        let size = attributes.size as usize;
        // Keys that fill a block once are one part.
        let most = if size > MOST_SHARED_CHANNELS { 1 } else { seen.div_ceil(PART_KEYS) };
        let blocks = BLOCKS * multiprocessors as usize;
        let parts = (blocks / (tokens * groups)).clamp(1, most.max(1)) as u32;
        // Each block leaves for each of its queries a largest score, a sum and a row of weighted values.
        let floats = if most > 1 { blocks * queries as usize * (size + 2) } else { 0 };
        Cut { parts, groups, kernel, scratch_bytes: floats * size_of::<f32>() }
    }
}

fn cached(
    lower: &mut Lower<'_>,
    kernels: &Cached,
    [key_scales, value_scales]: [u64; 2],
) -> Result<(), Refusal> {
    let attributes: CachedAttentionAttributes = lower.step.expect_attributes()?;
    let ((x, x_at), (_, positions)) = (lower.input(0)?, lower.input(1)?);
    let ((_, output), (keys, keys_at), (_, values_at)) =
        (lower.output(0)?, lower.output(1)?, lower.output(2)?);
    let (tokens, heads) = (x.dim(0), attributes.heads as usize);
    if tokens == 0 {
        return Ok(());
    }
    super::elements(&x)?;
    if attributes.size as usize > MOST_CHANNELS {
        return Err(Refusal::Lacks("heads of more than 512 channels"));
    }
    let multiprocessors = lower.device.multiprocessors;
    let cut = Cut::new(&attributes, keys.dim(2), tokens, kernels, multiprocessors);
    let arguments = CachedAttention {
        x: x_at,
        positions,
        sequences: lower.optional_address(2),
        keys: keys_at,
        values: values_at,
        key_scales,
        value_scales,
        output,
        status: lower.status(),
        scratch: lower.scratch(cut.scratch_bytes),
        tokens: small(tokens)?,
        heads: attributes.heads,
        kv_heads: attributes.kv_heads,
        size: attributes.size,
        sequence_count: small(keys.dim(0))?,
        context: small(keys.dim(2))?,
        window: attributes.window,
        step: lower.index,
        scale: attributes.scale,
        softcap: attributes.softcap,
        parts: cut.parts,
        reserved: 0,
    };
    lower.call(&CACHE_CHECK, [1, 1], arguments)?;
    lower.call(kernels.write, [tokens, 1], arguments)?;
    if cut.parts == 1 {
        return lower.call(kernels.whole, [tokens, heads], arguments);
    }
    lower.call(cut.kernel, [cut.parts as usize, tokens * cut.groups], arguments)?;
    lower.call(&CACHED_ATTENTION_JOIN, [tokens, heads], arguments)
}

pub(super) fn rotary(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let attributes: RotaryAttributes = lower.step.expect_attributes()?;
    let ((x, input), (_, positions), (table, table_at), (_, output)) =
        (lower.input(0)?, lower.input(1)?, lower.input(2)?, lower.output(0)?);
    super::elements(&x)?;
    if attributes.size > MOST_HEAD {
        return Err(Refusal::Lacks("heads of more than 1024 channels"));
    }
    let arguments = arguments::Rotary {
        input,
        output,
        positions,
        table: table_at,
        query_scale: lower.optional_address(3),
        key_scale: lower.optional_address(4),
        status: lower.status(),
        heads: attributes.heads,
        kv_heads: attributes.kv_heads,
        size: attributes.size,
        rotated: attributes.rotated,
        interleaved: attributes.interleaved,
        rows: small(table.dim(0))?,
        epsilon: attributes.epsilon,
        step: lower.index,
    };
    let heads = attributes.heads as usize + 2 * attributes.kv_heads as usize;
    lower.call(&ROTARY, [x.dim(0), heads], arguments)
}

pub(super) fn cross_attention(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let attributes: CrossAttentionAttributes = lower.step.expect_attributes()?;
    let ((x, x_at), (new, fresh)) = (lower.input(0)?, lower.input(1)?);
    let ((_, output), (keys, keys_at), (_, values_at)) =
        (lower.output(0)?, lower.output(1)?, lower.output(2)?);
    super::elements(&x)?;
    if attributes.size as usize > MOST_CHANNELS {
        return Err(Refusal::Lacks("heads of more than 512 channels"));
    }
    let (mut chosen, mut weights, mut chosen_count) = (0, 0, 0);
    if lower.step.has_input(CHOSEN) {
        let ((slot, chosen_at), (_, weights_at)) = (lower.input(CHOSEN)?, lower.output(WEIGHTS)?);
        (chosen, weights, chosen_count) = (chosen_at, weights_at, slot.dim(0));
    }
    let arguments = CrossAttention {
        x: x_at,
        fresh,
        keys: keys_at,
        values: values_at,
        output,
        chosen,
        weights,
        status: if chosen == 0 { 0 } else { lower.status() },
        tokens: small(x.dim(0))?,
        heads: attributes.heads,
        kv_heads: attributes.kv_heads,
        size: attributes.size,
        positions: small(keys.dim(2))?,
        scale: attributes.scale,
        chosen_count: small(chosen_count)?,
        step: lower.index,
    };
    lower.call_elements(&CROSS_CHECK, arguments.chosen_count, arguments)?;
    if new.elements() > 0 {
        lower.call_elements(&CROSS_WRITE, super::elements(&keys)?, arguments)?;
    }
    lower.call(&CROSS_WEIGHTS, [x.dim(0), chosen_count], arguments)?;
    lower.call(&CROSS_ATTENTION, [x.dim(0), attributes.heads as usize], arguments)
}
