//! Attention of new tokens over all tokens of their sequence, whose keys and values are kept from run to run: in f32, in f16, or in q8,
//! which is about half of that.
//!
//! First the new keys and values are written to the places that positions name, then every token attends to positions up to
//! its own. A stretch of tokens that follow one another is computed as products of matrices over widened keys and values, as
//! [`attention`] does; single tokens by [`attention_kept`], which widens as it reads.

use core::ops::Range;

use half::f16;

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{CachedAttentionAttributes, Op, Q8_GROUP, cast_mut};
use crate::isa::Isa;
use crate::kernels::attention_kept::{self, AttentionKept, Kept, Number, Plain, Q8};
use crate::kernels::elementary::{self, ExponentialsFn};
use crate::kernels::matmul_f32::{self, MatMulF32, MatMulF32Fn};
use crate::memory::{Context, typed, typed_mut};
use crate::ops::attention::{self, Scores};
#[cfg(feature = "std")]
use crate::ops::parallel::{Rates, Work};
use crate::ops::rotary::{check_tokens, token_channels};
use crate::ops::shape::expect_apart;
use crate::ops::{Operator, Step, expect_type, select_isa};
#[cfg(feature = "std")]
use crate::threads::{Columns, Crew, Shares};

/// f32 queries and results, keys and values in f16 or f32.
pub static CACHED_ATTENTION_F32: Operator = Operator {
    op: Op::CachedAttention,
    dtype: Some(DType::F32),
    check: |step| match step.output(KEYS)?.dtype {
        DType::F32 => check(step, DType::F32),
        _ => check(step, DType::F16),
    },
    select: select_isa!(run),
    scratch_bytes,
};

/// f32 queries and results, keys and values in q8: i8, with scales in f16.
pub static CACHED_ATTENTION_Q8: Operator = Operator {
    op: Op::CachedAttention,
    dtype: Some(DType::I8),
    check: |step| check(step, DType::I8),
    select: select_isa!(run_q8),
    scratch_bytes,
};

const POSITIONS: usize = 1;
/// Optional.
const SEQUENCES: usize = 2;
const KEYS: usize = 1;
const VALUES: usize = 2;
/// Of q8.
const KEY_SCALES: usize = 3;
/// Of q8.
const VALUE_SCALES: usize = 4;

/// Tokens of a stretch from which on widening keys and values once for all pays.
const LEAST_STRETCH: usize = 8;

/// Query rows of a block: whole tiles of the matrix product, and few enough that their scores stay in the L2.
const BLOCK_ROWS: usize = 24;

/// Heads that one reading of keys and values serves.
const GROUP_HEADS: usize = 4;

/// What the shapes come to.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) tokens: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) size: usize,
    pub(super) sequences: usize,
    /// Positions of a sequence.
    pub(super) context: usize,
}

impl Sizes {
    fn of(step: &Step<'_>) -> Result<Sizes, StepErrorKind> {
        let a: CachedAttentionAttributes = step.expect_attributes()?;
        let keys = step.output(KEYS)?;
        Ok(Sizes {
            tokens: step.input(0)?.dim(0),
            heads: a.heads as usize,
            kv_heads: a.kv_heads as usize,
            size: a.size as usize,
            sequences: keys.dim(0),
            context: keys.dim(2),
        })
    }

    /// Channels of queries, keys and values of a token.
    fn channels(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.size
    }

    /// Whether a block's scores and one head's widened keys and values can be counted in bytes.
    pub(super) fn check(&self) -> Result<(), StepErrorKind> {
        let scratch = (BLOCK_ROWS + 2 * self.size).checked_mul(self.context);
        match scratch.and_then(|len| len.checked_mul(2 * size_of::<f32>())) {
            Some(_) => Ok(()),
            None => Err(StepErrorKind::TooLarge),
        }
    }

    /// What there is to share when a token sees so many positions.
    #[cfg(feature = "std")]
    pub(super) fn work(&self, seen: f32, isa: Isa) -> Work {
        let scores = self.tokens as f32 * self.heads as f32 * seen;
        let products = scores * 2.0 * self.size as f32 / Rates::CONV_F32.of(isa);
        let ns = products + scores / Rates::FUNCTION_F32.of(isa);
        Work { units: self.heads, ns, is_by_rows: false }
    }

    /// f32 of a thread: scores, and where there can be a stretch, keys and values of one head.
    pub(super) fn scratch_len(&self) -> usize {
        match self.tokens {
            0 => 0,
            1..LEAST_STRETCH => GROUP_HEADS * self.context,
            _ => (BLOCK_ROWS + 2 * self.size) * self.context + BLOCK_ROWS * 2 * self.size,
        }
    }
}

fn scratch_bytes(step: &Step<'_>, _: Isa) -> usize {
    Sizes::of(step).map_or(0, |sizes| sizes.scratch_len() * size_of::<f32>())
}

/// Checks a step whose keys and values are f16 or f32, or i8 with scales.
fn check(step: &Step<'_>, kept: DType) -> Result<(), StepErrorKind> {
    let outputs = if kept == DType::I8 { 5 } else { 3 };
    if !matches!(step.input_count(), 2..=3) || step.output_count() != outputs {
        return Err(StepErrorKind::OperandCount);
    }
    expect_apart(step)?;
    let a: CachedAttentionAttributes = step.expect_attributes()?;
    if a.size == 0 || a.kv_heads == 0 || a.heads == 0 || !a.heads.is_multiple_of(a.kv_heads) {
        return Err(StepErrorKind::Attribute("heads"));
    }
    let (x, y) = (step.input(0)?, step.output(0)?);
    let output = step.input_count() as u8;
    expect_type(&x, DType::F32, 0)?;
    expect_type(&y, DType::F32, output)?;
    let channels = token_channels(a.heads, a.kv_heads, a.size);
    check_tokens(&x, channels, &step.input(POSITIONS)?, POSITIONS as u8)?;
    if let Some(sequences) = step.optional_input(SEQUENCES) {
        check_tokens(&x, channels, &sequences, SEQUENCES as u8)?;
    }
    // The sum of all channels fits, so this part does.
    if y.rank() != 2 || y.dim(0) != x.dim(0) || y.dim(1) != a.heads as usize * a.size as usize {
        return Err(StepErrorKind::OperandShape(output));
    }
    let keys = step.output(KEYS)?;
    for number in KEYS..outputs {
        let (operand, cache) = (output + number as u8, step.output(number)?);
        let is_scales = number >= KEY_SCALES;
        expect_type(&cache, if is_scales { DType::F16 } else { kept }, operand)?;
        let width = a.size as usize;
        let is_one = cache.rank() == 4
            && cache.dim(1) == a.kv_heads as usize
            && cache.dim(3) == if is_scales { width.div_ceil(Q8_GROUP) } else { width }
            && keys.rank() == 4
            && cache.dims()[..3] == keys.dims()[..3];
        if !is_one {
            return Err(StepErrorKind::OperandShape(operand));
        }
    }
    Sizes::of(step)?.check()
}

fn run<const ISA: usize>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    match context.step.output(KEYS)?.dtype {
        DType::F32 => run_plain::<f32>(context, Isa::ALL[ISA]),
        _ => run_plain::<f16>(context, Isa::ALL[ISA]),
    }
}

/// With keys and values in `T`.
fn run_plain<T: Number>(context: &mut Context<'_>, isa: Isa) -> Result<(), StepErrorKind> {
    let task = Task::of(context)?;
    let size = task.sizes.size;
    if task.sizes.tokens == 0 {
        return Ok(());
    }
    #[cfg(feature = "std")]
    let crew = context.take_crew();
    let operands = context.operands_with_outputs::<3, 3>([0, POSITIONS, SEQUENCES])?;
    let [y, keys, values] = operands.outputs;
    let keys: &mut [T] = typed_mut(keys, task.output + KEYS as u8)?;
    let values: &mut [T] = typed_mut(values, task.output + VALUES as u8)?;
    let places = task.write(operands.inputs, |row, new_keys, new_values| {
        T::narrow(new_keys, &mut keys[row * size..][..size]);
        T::narrow(new_values, &mut values[row * size..][..size]);
    })?;
    let kept = [&*keys, &*values].map(|rows| Plain::new(size, rows));
    let attention = task.attention(operands.inputs[0], places, kept, Kernels::plain(isa))?;
    let y: &mut [f32] = typed_mut(y, task.output)?;
    #[cfg(feature = "std")]
    if let Some(crew) = crew {
        return attention.run_parts(crew, y, operands.scratch);
    }
    attention.run(y, operands.scratch)
}

fn run_q8<const ISA: usize>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let task = Task::of(context)?;
    let size = task.sizes.size;
    let groups = size.div_ceil(Q8_GROUP);
    if task.sizes.tokens == 0 {
        return Ok(());
    }
    #[cfg(feature = "std")]
    let crew = context.take_crew();
    let operands = context.operands_with_outputs::<3, 5>([0, POSITIONS, SEQUENCES])?;
    let [y, keys, values, key_scales, value_scales] = operands.outputs;
    let keys: &mut [i8] = typed_mut(keys, task.output + KEYS as u8)?;
    let values: &mut [i8] = typed_mut(values, task.output + VALUES as u8)?;
    let key_scales: &mut [f16] = typed_mut(key_scales, task.output + KEY_SCALES as u8)?;
    let value_scales: &mut [f16] = typed_mut(value_scales, task.output + VALUE_SCALES as u8)?;
    let narrow = attention_kept::select_narrow_q8(Isa::ALL[ISA]);
    let places = task.write(operands.inputs, |row, new_keys, new_values| {
        let (numbers, scales) = (row * size..(row + 1) * size, row * groups..(row + 1) * groups);
        narrow(new_keys, &mut keys[numbers.clone()], &mut key_scales[scales.clone()]);
        narrow(new_values, &mut values[numbers], &mut value_scales[scales]);
    })?;
    let kept = [(&*keys, &*key_scales), (&*values, &*value_scales)]
        .map(|(numbers, scales)| Q8::new(size, numbers, scales));
    let attention = task.attention(operands.inputs[0], places, kept, Kernels::q8(Isa::ALL[ISA]))?;
    let y: &mut [f32] = typed_mut(y, task.output)?;
    #[cfg(feature = "std")]
    if let Some(crew) = crew {
        return attention.run_parts(crew, y, operands.scratch);
    }
    attention.run(y, operands.scratch)
}

/// What a step says but for its operands' contents.
struct Task {
    attributes: CachedAttentionAttributes,
    sizes: Sizes,
    has_sequences: bool,
    /// The operand that is the first output.
    output: u8,
}

impl Task {
    fn of(context: &Context<'_>) -> Result<Task, StepErrorKind> {
        let step = context.step;
        Ok(Task {
            attributes: step.attributes(),
            sizes: Sizes::of(&step)?,
            has_sequences: step.has_input(SEQUENCES),
            output: step.input_count() as u8,
        })
    }

    /// Gives the keys and values of all tokens to `keep`, head by head, with the row of the cache that they are to be written to.
    ///
    /// # Errors
    /// [`StepErrorKind::IndexOutOfRange`] for a place outside the cache; nothing is written then.
    fn write<'v>(
        &self,
        [x, positions, sequences]: [&'v [u8]; 3],
        mut keep: impl FnMut(usize, &[f32], &[f32]),
    ) -> Result<Places<'v>, StepErrorKind> {
        let Sizes { heads, kv_heads, size, sequences: all, context, .. } = self.sizes;
        let places = Places {
            positions: typed(positions, POSITIONS as u8)?,
            sequences: match self.has_sequences {
                true => Some(typed(sequences, SEQUENCES as u8)?),
                false => None,
            },
        };
        let is_inside = |token| {
            let (sequence, position) = places.at(token);
            (0..all as i64).contains(&i64::from(sequence))
                && (0..context as i64).contains(&i64::from(position))
        };
        if !(0..self.sizes.tokens).all(is_inside) {
            return Err(StepErrorKind::IndexOutOfRange);
        }
        for (token, x) in typed::<f32>(x, 0)?.chunks_exact(self.sizes.channels()).enumerate() {
            let (sequence, position) = places.at(token);
            let (keys, values) = x[heads * size..].split_at(kv_heads * size);
            for (head, (key, value)) in
                keys.chunks_exact(size).zip(values.chunks_exact(size)).enumerate()
            {
                let row = (sequence as usize * kv_heads + head) * context + position as usize;
                keep(row, key, value);
            }
        }
        Ok(places)
    }

    fn attention<'v, K: Kept>(
        &self,
        x: &'v [u8],
        places: Places<'v>,
        [keys, values]: [K; 2],
        kernels: Kernels<K>,
    ) -> Result<CachedAttention<'v, K>, StepErrorKind> {
        let a = &self.attributes;
        Ok(CachedAttention {
            sizes: self.sizes,
            channels: self.sizes.channels(),
            x: typed(x, 0)?,
            places: Some(places),
            keys,
            values,
            window: if a.window == 0 { usize::MAX } else { a.window as usize },
            to: Scores { scale: a.scale, softcap: a.softcap, zero_rows: false },
            kernels,
        })
    }
}

/// Where tokens go in the cache.
pub(super) struct Places<'v> {
    positions: &'v [i32],
    sequences: Option<&'v [i32]>,
}

impl Places<'_> {
    /// Sequence and position of a token.
    fn at(&self, token: usize) -> (i32, i32) {
        (self.sequences.map_or(0, |sequences| sequences[token]), self.positions[token])
    }
}

/// What computes products and exponentials.
pub(super) struct Kernels<K> {
    kept: AttentionKept<K>,
    product: MatMulF32Fn,
    exponentials: ExponentialsFn,
}

impl<K> Kernels<K> {
    fn new(kept: AttentionKept<K>, isa: Isa) -> Kernels<K> {
        let exponentials = elementary::select_exponentials(isa);
        Kernels { kept, product: matmul_f32::select(isa), exponentials }
    }
}

impl<'v, T: Number> Kernels<Plain<'v, T>> {
    pub(super) fn plain(isa: Isa) -> Self {
        Kernels::new(T::select(isa), isa)
    }
}

impl<'v> Kernels<Q8<'v>> {
    fn q8(isa: Isa) -> Self {
        Kernels::new(attention_kept::select_q8(isa), isa)
    }
}

/// A step's operands and attributes.
pub(super) struct CachedAttention<'v, K> {
    pub(super) sizes: Sizes,
    /// Elements of a row of x, which begins with the queries.
    pub(super) channels: usize,
    pub(super) x: &'v [f32],
    /// `None`: every token sees all positions of the only sequence.
    pub(super) places: Option<Places<'v>>,
    pub(super) keys: K,
    pub(super) values: K,
    pub(super) window: usize,
    pub(super) to: Scores,
    pub(super) kernels: Kernels<K>,
}

impl<K: Kept + Send + Sync> CachedAttention<'_, K> {
    /// Computes all tokens, whose results are the rows of `y`.
    pub(super) fn run(&self, y: &mut [f32], scratch: &mut [u8]) -> Result<(), StepErrorKind> {
        let Sizes { heads, size, .. } = self.sizes;
        let scratch = self.scratch(scratch)?;
        self.heads(0..heads, &mut y.chunks_exact_mut(heads * size), scratch);
        Ok(())
    }

    /// The same, the heads shared among threads.
    #[cfg(feature = "std")]
    pub(super) fn run_parts(
        &self,
        mut crew: Crew<'_>,
        y: &mut [f32],
        scratch: &mut [u8],
    ) -> Result<(), StepErrorKind> {
        let Sizes { heads, size, .. } = self.sizes;
        let cut = crew.cut(heads);
        let y = Columns::new(y, heads * size, cut, size);
        let shares = Shares::new(scratch, crew.threads());
        crew.run(cut.parts, |part, thread| {
            let mut rows = y.take(part).ok_or(StepErrorKind::TooLarge)?;
            shares.with(thread, |scratch| {
                self.heads(cut.range(part), &mut rows, self.scratch(scratch)?);
                Ok(())
            })?
        })
    }

    /// A thread's scratch as numbers.
    fn scratch<'s>(&self, scratch: &'s mut [u8]) -> Result<&'s mut [f32], StepErrorKind> {
        let bytes = scratch.get_mut(..self.sizes.scratch_len() * size_of::<f32>());
        bytes.and_then(cast_mut::<f32>).ok_or(StepErrorKind::TooLarge)
    }

    /// Computes some heads of all tokens; `rows` are these heads' channels of the results, token after token.
    fn heads<'y>(
        &self,
        heads: Range<usize>,
        rows: &mut impl Iterator<Item = &'y mut [f32]>,
        scratch: &mut [f32],
    ) {
        let mut token = 0;
        while token < self.sizes.tokens {
            let stretch = self.stretch(token);
            if stretch < LEAST_STRETCH {
                for token in token..token + stretch {
                    let Some(y) = rows.next() else { return };
                    self.token(token, heads.clone(), y, scratch);
                }
            } else {
                let mut done = 0;
                while done < stretch {
                    let many = BLOCK_ROWS.min(stretch - done);
                    let mut block: [&mut [f32]; BLOCK_ROWS] =
                        core::array::from_fn(|_| -> &mut [f32] { &mut [] });
                    for (to, y) in block.iter_mut().zip(rows.by_ref().take(many)) {
                        *to = y;
                    }
                    self.block(token + done, heads.clone(), &mut block[..many], scratch);
                    done += many;
                }
            }
            token += stretch;
        }
    }

    /// Tokens from this one on that follow one another in one sequence.
    fn stretch(&self, first: usize) -> usize {
        let Some(places) = &self.places else { return self.sizes.tokens - first };
        let (sequence, position) = places.at(first);
        let follows = |(distance, token): (i32, usize)| {
            places.at(token) == (sequence, position.wrapping_add(distance))
        };
        (0..).zip(first..self.sizes.tokens).take_while(|pair| follows(*pair)).count()
    }

    fn sequence(&self, token: usize) -> i32 {
        self.places.as_ref().map_or(0, |places| places.at(token).0)
    }

    /// Rows of a head in the cache.
    fn rows(&self, cache: K, sequence: i32, head: usize, rows: Range<usize>) -> K {
        let Sizes { kv_heads, context, .. } = self.sizes;
        let first = (sequence as usize * kv_heads + head) * context;
        cache.slice(first + rows.start..first + rows.end)
    }

    /// Positions that a token sees.
    fn seen(&self, token: usize) -> Range<usize> {
        let Some(places) = &self.places else { return 0..self.sizes.context };
        let end = places.at(token).1 as usize + 1;
        end.saturating_sub(self.window)..end
    }

    /// One token. `y` has the channels of the heads.
    fn token(&self, token: usize, heads: Range<usize>, y: &mut [f32], scratch: &mut [f32]) {
        let Sizes { heads: all, kv_heads, size, .. } = self.sizes;
        let group = all / kv_heads;
        let (sequence, seen) = (self.sequence(token), self.seen(token));
        let n = seen.len();
        let queries = &self.x[token * self.channels..][..all * size];
        let mut head = heads.start;
        while head < heads.end {
            let kv_head = head / group;
            let end = ((kv_head + 1) * group).min(heads.end).min(head + GROUP_HEADS);
            let many = end - head;
            let scores = &mut scratch[..many * n];
            (self.kernels.kept.scores)(&mut attention_kept::Scores {
                queries: &queries[head * size..end * size],
                keys: self.rows(self.keys, sequence, kv_head, seen.clone()),
                scores,
            });
            let mut factors = [0.0f32; GROUP_HEADS];
            for (scores, factor) in scores.chunks_exact_mut(n).zip(&mut factors) {
                *factor = attention::weights(scores, None, self.to, self.kernels.exponentials);
            }
            let y = &mut y[(head - heads.start) * size..][..many * size];
            (self.kernels.kept.mix)(&mut attention_kept::Mix {
                weights: scores,
                values: self.rows(self.values, sequence, kv_head, seen.clone()),
                output: y,
            });
            for (y, factor) in y.chunks_exact_mut(size).zip(factors) {
                y.iter_mut().for_each(|y| *y *= factor);
            }
            head = end;
        }
    }

    /// How much each token attends to each position that it sees, of some heads: `[tokens, chosen heads, positions]`, where all
    /// positions are seen. They are few, so they are computed besides.
    pub(super) fn weights(&self, chosen: &[i32], weights: &mut [f32]) {
        let Sizes { heads, kv_heads, size, context, .. } = self.sizes;
        let rows =
            self.x.chunks_exact(self.channels).flat_map(|x| chosen.iter().map(move |h| (x, *h)));
        for ((x, head), weights) in rows.zip(weights.chunks_exact_mut(context)) {
            let head = head as usize;
            (self.kernels.kept.scores)(&mut attention_kept::Scores {
                queries: &x[head * size..][..size],
                keys: self.rows(self.keys, 0, head / (heads / kv_heads), 0..context),
                scores: weights,
            });
            let factor = attention::weights(weights, None, self.to, self.kernels.exponentials);
            weights.iter_mut().for_each(|weight| *weight *= factor);
        }
    }

    /// Tokens that follow one another; a row of `block` has the channels of the heads.
    fn block(
        &self,
        first: usize,
        heads: Range<usize>,
        block: &mut [&mut [f32]],
        scratch: &mut [f32],
    ) {
        let Sizes { heads: all, kv_heads, size, context, .. } = self.sizes;
        let (group, channels, many) = (all / kv_heads, self.channels, block.len());
        let sequence = self.sequence(first);
        // What the first token sees from, and the last one to.
        let (from, to) = (self.seen(first).start, self.seen(first + many - 1).end);
        let n = to - from;
        let (keys, rest) = scratch.split_at_mut(context * size);
        let (values, rest) = rest.split_at_mut(context * size);
        let (scores, rest) = rest.split_at_mut(BLOCK_ROWS * context);
        let (queries, mixed) = rest.split_at_mut(BLOCK_ROWS * size);
        let (keys, values) = (&mut keys[..n * size], &mut values[..n * size]);
        let (queries, mixed) = (&mut queries[..many * size], &mut mixed[..many * size]);
        let scores = &mut scores[..many * n];
        let mut widened = usize::MAX;
        for head in heads.clone() {
            let kv_head = head / group;
            if widened != kv_head {
                let widen = self.kernels.kept.widen;
                widen(self.rows(self.keys, sequence, kv_head, from..to), keys);
                widen(self.rows(self.values, sequence, kv_head, from..to), values);
                widened = kv_head;
            }
            for (row, query) in queries.chunks_exact_mut(size).enumerate() {
                let at = (first + row) * channels + head * size;
                query.copy_from_slice(&self.x[at..at + size]);
            }
            (self.kernels.product)(&mut MatMulF32 {
                m: many,
                k: size,
                n,
                a: queries,
                b: keys,
                output: scores,
                trans_a: false,
                trans_b: true,
            });
            let mut factors = [0.0f32; BLOCK_ROWS];
            for (row, scores) in scores.chunks_exact_mut(n).enumerate() {
                let seen = self.seen(first + row);
                scores[..seen.start - from].fill(0.0);
                scores[seen.end - from..].fill(0.0);
                let scores = &mut scores[seen.start - from..seen.end - from];
                factors[row] = attention::weights(scores, None, self.to, self.kernels.exponentials);
            }
            (self.kernels.product)(&mut MatMulF32 {
                m: many,
                k: n,
                n: size,
                a: scores,
                b: values,
                output: mixed,
                trans_a: false,
                trans_b: false,
            });
            let at = (head - heads.start) * size;
            let rows = block.iter_mut().zip(mixed.chunks_exact(size));
            for ((y, mixed), factor) in rows.zip(factors) {
                let y = y[at..at + size].iter_mut();
                y.zip(mixed).for_each(|(y, mixed)| *y = mixed * factor);
            }
        }
    }
}

/// What there is to share, if the cache is half full.
#[cfg(feature = "std")]
pub(super) fn work(step: &Step<'_>, isa: Isa) -> Option<Work> {
    let sizes = Sizes::of(step).ok()?;
    Some(sizes.work(sizes.context as f32 / 2.0, isa))
}

#[cfg(test)]
#[path = "cached_attention_tests.rs"]
mod tests;
