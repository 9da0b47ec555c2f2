//! Scaled dot-product attention, f32: `softmax(q · kᵀ · scale + mask) · v`, without the matrix of all scores.
//!
//! Query rows are taken in blocks. A block's scores lie in scratch: a matrix product fills them, softmax
//! runs over them in place without its division, and a second product weights the values, whose rows are
//! divided at the end. Scratch is that of one block, whatever the number of queries and heads.

use core::ops::Range;

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{AttentionAttributes, MAX_RANK, Op, cast_mut};
use crate::isa::Isa;
use crate::kernels::elementary::{self, ExponentialsFn};
use crate::kernels::matmul_f32::{self, MatMulF32, MatMulF32Fn};
use crate::memory::{Context, typed, typed_mut};
#[cfg(feature = "std")]
use crate::ops::parallel::{Rates, Work};
use crate::ops::shape::{broadcast_strides, expect_apart, expect_broadcast_dims, expect_types};
use crate::ops::{Operator, Step, select_isa};
#[cfg(feature = "std")]
use crate::threads::{Disjoint, Shares};

/// f32.
pub static ATTENTION_F32: Operator = Operator {
    op: Op::Attention,
    dtype: Some(DType::F32),
    check: |step| check(step, DType::F32),
    select: select_isa!(run),
    scratch_bytes: |step, _| Sizes::of(step).map_or(0, |sizes| sizes.scratch_bytes()),
};

/// Scores of a block, unless a few rows of them are more: 256 KiB, half of an L2.
const BLOCK_SCORES: usize = 1 << 16;

/// Rows of a block, however long: enough to read each key and value from memory once per many rows.
const BLOCK_ROWS: usize = 16;

/// Most rows of a block, whose sums lie on the stack. Blocks are what threads share.
pub(super) const MAX_ROWS: usize = 128;

/// Rows of a block are a multiple of this: whole tiles.
const UNIT_ROWS: usize = 12;

/// Scores of a register.
const REGISTER: usize = 16;

/// The input with the mask.
pub(super) const MASK: usize = 3;

/// What the shapes come to.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) heads: usize,
    /// Heads of keys and values; a divisor of `heads`.
    pub(super) kv_heads: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    /// Channels of a query and a key.
    pub(super) size: usize,
    /// Channels of a value.
    pub(super) value_size: usize,
}

impl Sizes {
    pub(super) fn of(step: &Step<'_>) -> Result<Sizes, StepErrorKind> {
        let (q, k, v) = (step.input(0)?, step.input(1)?, step.input(2)?);
        for (operand, slot) in [(0, &q), (1, &k), (2, &v)] {
            if slot.rank() != 4 {
                return Err(StepErrorKind::OperandShape(operand));
            }
        }
        Ok(Sizes {
            batch: q.dim(0),
            heads: q.dim(1),
            kv_heads: k.dim(1),
            queries: q.dim(2),
            keys: k.dim(2),
            size: q.dim(3),
            value_size: v.dim(3),
        })
    }

    /// Keys, rounded up to registers of them.
    pub(super) fn padded_keys(&self) -> usize {
        self.keys.next_multiple_of(REGISTER)
    }

    /// Query rows of a block: all blocks but the last have as many, and that one not many less.
    pub(super) fn rows(&self) -> usize {
        let fitting = (BLOCK_SCORES / self.padded_keys().max(1)).clamp(BLOCK_ROWS, MAX_ROWS);
        let even = self.queries.div_ceil(self.queries.div_ceil(fitting).max(1));
        even.next_multiple_of(UNIT_ROWS).min(fitting).min(self.queries)
    }

    /// Blocks of query rows of a head.
    pub(super) fn blocks(&self) -> usize {
        self.queries.div_ceil(self.rows().max(1))
    }

    /// Blocks of all heads of all samples.
    pub(super) fn all_blocks(&self) -> usize {
        self.batch * self.heads * self.blocks()
    }

    /// Where the output of a block begins.
    #[cfg(feature = "std")]
    pub(super) fn output_start(&self, block: usize) -> usize {
        let (head, block) = (block / self.blocks(), block % self.blocks());
        (head * self.queries + block * self.rows()) * self.value_size
    }

    /// At least `rows() * padded_keys()`; grows with every size.
    pub(super) fn scores(&self) -> usize {
        if [self.batch, self.heads, self.value_size].contains(&0) {
            // No result.
            return 0;
        }
        let all = self.queries.saturating_mul(self.padded_keys());
        all.min(BLOCK_SCORES.max(BLOCK_ROWS.saturating_mul(self.padded_keys())))
    }

    fn scratch_bytes(&self) -> usize {
        self.scores().saturating_mul(size_of::<f32>())
    }
}

/// Of queries, keys, values and results in a type.
pub(super) fn check(step: &Step<'_>, dtype: DType) -> Result<(), StepErrorKind> {
    step.expect_counts(3, 4)?;
    expect_types(step, &[dtype; 3], dtype)?;
    expect_apart(step)?;
    let attributes: AttentionAttributes = step.expect_attributes()?;
    if attributes.causal > 1 {
        return Err(StepErrorKind::Attribute("causal"));
    }
    if attributes.zero_rows > 1 {
        return Err(StepErrorKind::Attribute("zero_rows"));
    }
    step.dim(attributes.offset)?;
    let sizes = Sizes::of(step)?;
    let (k, v, y) = (step.input(1)?, step.input(2)?, step.output(0)?);
    if k.dim(0) != sizes.batch || k.dim(3) != sizes.size {
        return Err(StepErrorKind::OperandShape(1));
    }
    if sizes.heads > 0 && (sizes.kv_heads == 0 || !sizes.heads.is_multiple_of(sizes.kv_heads)) {
        return Err(StepErrorKind::OperandShape(1));
    }
    if v.dims()[..3] != k.dims()[..3] {
        return Err(StepErrorKind::OperandShape(2));
    }
    let output = [sizes.batch, sizes.heads, sizes.queries, sizes.value_size];
    if y.rank() != 4 || (0..4).any(|axis| y.dim(axis) != output[axis]) {
        return Err(StepErrorKind::OperandShape(step.input_count() as u8));
    }
    if sizes.queries.checked_mul(sizes.keys).is_none() {
        return Err(StepErrorKind::TooLarge);
    }
    if let Some(mask) = step.optional_input(MASK) {
        if mask.dtype != DType::F32 {
            return Err(StepErrorKind::OperandType(MASK as u8));
        }
        let scores = [sizes.batch, sizes.heads, sizes.queries, sizes.keys];
        expect_broadcast_dims(&mask, &scores, MASK as u8)?;
    }
    Ok(())
}

/// What happens to a row of scores.
#[derive(Clone, Copy)]
pub(super) struct Scores {
    pub(super) scale: f32,
    /// 0 for none.
    pub(super) softcap: f32,
    /// A query that sees nothing gives zeros, not NaN.
    pub(super) zero_rows: bool,
}

fn run<const ISA: usize>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let step = context.step;
    let attributes: AttentionAttributes = step.attributes();
    let sizes = Sizes::of(&step)?;
    let offset = step.dim(attributes.offset)?;
    let mask_slot = step.optional_input(MASK);
    if step.output(0)?.elements() == 0 {
        return Ok(());
    }
    #[cfg(feature = "std")]
    let crew = context.take_crew();
    let operands = context.operands([0, 1, 2, MASK])?;
    let [q, k, v, mask] = operands.inputs;
    let attention = Attention {
        sizes,
        q: typed(q, 0)?,
        k: typed(k, 1)?,
        v: typed(v, 2)?,
        mask: typed(mask, MASK as u8)?,
        mask_strides: mask_slot.map(|slot| broadcast_strides(&slot, 4)),
        offset,
        causal: attributes.causal == 1,
        to: Scores {
            scale: attributes.scale,
            softcap: attributes.softcap,
            zero_rows: attributes.zero_rows == 1,
        },
        kernel: matmul_f32::select(Isa::ALL[ISA]),
        exponentials: elementary::select_exponentials(Isa::ALL[ISA]),
    };
    let y: &mut [f32] = typed_mut(operands.output, 4)?;
    if sizes.keys == 0 {
        // Sums of nothing.
        y.fill(0.0);
        return Ok(());
    }
    let scratch_bytes = sizes.scratch_bytes();
    #[cfg(feature = "std")]
    if let Some(mut crew) = crew {
        let cut = crew.cut(sizes.all_blocks());
        let y = Disjoint::at(y, cut.parts, |part| sizes.output_start(cut.range(part).start));
        let shares = Shares::new(operands.scratch, crew.threads());
        return crew.run(cut.parts, |part, thread| {
            let y = y.take(part).ok_or(StepErrorKind::TooLarge)?;
            shares.with(thread, |scratch| {
                let scratch = scratch.get_mut(..scratch_bytes).and_then(cast_mut::<f32>);
                attention.blocks(cut.range(part), scratch.ok_or(StepErrorKind::TooLarge)?, y);
                Ok(())
            })?
        });
    }
    let scratch = operands.scratch.get_mut(..scratch_bytes).and_then(cast_mut::<f32>);
    attention.blocks(0..sizes.all_blocks(), scratch.ok_or(StepErrorKind::TooLarge)?, y);
    Ok(())
}

/// A step's operands and attributes.
struct Attention<'v> {
    sizes: Sizes,
    q: &'v [f32],
    k: &'v [f32],
    v: &'v [f32],
    mask: &'v [f32],
    mask_strides: Option<[usize; MAX_RANK]>,
    offset: usize,
    causal: bool,
    to: Scores,
    kernel: MatMulF32Fn,
    exponentials: ExponentialsFn,
}

impl Attention<'_> {
    /// Keys that a query sees.
    fn seen(&self, query: usize) -> usize {
        match self.causal {
            true => self.sizes.keys.min(query.saturating_add(self.offset).saturating_add(1)),
            false => self.sizes.keys,
        }
    }

    /// Computes a range of the blocks of all heads, whose rows `y` has.
    fn blocks(&self, range: Range<usize>, scores: &mut [f32], y: &mut [f32]) {
        let Sizes { heads, kv_heads, queries, keys, size, value_size, .. } = self.sizes;
        let (group, block) = (heads / kv_heads, self.sizes.rows());
        let strides = self.mask_strides.unwrap_or_default();
        let mut rest = y;
        for number in range {
            let (index, block_in_head) =
                (number / self.sizes.blocks(), number % self.sizes.blocks());
            let (sample, head) = (index / heads, index % heads);
            let of_kv = sample * kv_heads + head / group;
            let q = &self.q[index * queries * size..][..queries * size];
            let k = &self.k[of_kv * keys * size..][..keys * size];
            let v = &self.v[of_kv * keys * value_size..][..keys * value_size];
            let mask_at = sample * strides[0] + head * strides[1];
            let first = block_in_head * block;
            let rows = block.min(queries - first);
            // The last row of the block sees most.
            let width = self.seen(first + rows - 1);
            let scores = &mut scores[..rows * width];
            (self.kernel)(&mut MatMulF32 {
                m: rows,
                k: size,
                n: width,
                a: &q[first * size..(first + rows) * size],
                b: &k[..width * size],
                output: scores,
                trans_a: false,
                trans_b: true,
            });
            let mut factors = [0.0f32; MAX_ROWS];
            for (row, scores) in scores.chunks_exact_mut(width).enumerate() {
                let query = first + row;
                let (scores, hidden) = scores.split_at_mut(self.seen(query));
                hidden.fill(0.0);
                let mask = self.mask_strides.map(|strides| MaskRow {
                    values: &self.mask[mask_at + query * strides[2]..],
                    stride: strides[3],
                });
                factors[row] = weights(scores, mask, self.to, self.exponentials);
            }
            let (y, after) = core::mem::take(&mut rest).split_at_mut(rows * value_size);
            rest = after;
            (self.kernel)(&mut MatMulF32 {
                m: rows,
                k: width,
                n: value_size,
                a: scores,
                b: &v[..width * value_size],
                output: y,
                trans_a: false,
                trans_b: false,
            });
            for (row, factor) in y.chunks_exact_mut(value_size).zip(factors) {
                for value in row {
                    *value *= factor;
                }
            }
        }
    }
}

/// What there is to share.
#[cfg(feature = "std")]
pub(super) fn work(step: &Step<'_>, isa: Isa, products: Rates) -> Option<Work> {
    let sizes = Sizes::of(step).ok()?;
    let Sizes { batch, heads, queries, keys, size, value_size, .. } = sizes;
    if [batch, heads, queries, keys, value_size].contains(&0) {
        return None;
    }
    let scores = batch as f32 * heads as f32 * queries as f32 * keys as f32;
    let products = scores * (size as f32 + value_size as f32) / products.of(isa);
    let ns = products + scores / Rates::FUNCTION_F32.of(isa);
    Some(Work { units: sizes.all_blocks(), ns, is_by_rows: false })
}

/// The mask of one query: one number per key, or one for all (stride 0).
#[derive(Clone, Copy)]
pub(super) struct MaskRow<'a> {
    values: &'a [f32],
    stride: usize,
}

/// Turns the products of one query into `exp(score - largest)`; gives one over their sum.
pub(super) fn weights(
    scores: &mut [f32],
    mask: Option<MaskRow<'_>>,
    to: Scores,
    exponentials: ExponentialsFn,
) -> f32 {
    let mut scale = to.scale;
    if to.softcap > 0.0 {
        for score in scores.iter_mut() {
            *score = to.softcap * elementary::tanh(*score * scale / to.softcap);
        }
        scale = 1.0;
    }
    let mut per_key: &[f32] = &[];
    match mask {
        Some(MaskRow { values, stride: 1 }) => per_key = values,
        Some(MaskRow { values, .. }) => {
            let mask = values.first().copied().unwrap_or(0.0);
            for score in scores.iter_mut() {
                *score = *score * scale + mask;
            }
            scale = 1.0;
        }
        None => {}
    }
    let (sum, largest) = exponentials(scores, scale, per_key);
    if to.zero_rows && largest == f32::NEG_INFINITY {
        let nothing = |row: MaskRow<'_>| {
            let count = if row.stride == 1 { scores.len() } else { 1 };
            row.values.iter().take(count).all(|mask| *mask == f32::NEG_INFINITY)
        };
        if scores.is_empty() || mask.is_some_and(nothing) {
            scores.fill(0.0);
            return 0.0;
        }
    }
    1.0 / sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Case, Random, Tensor, assert_close, shape, tensor};

    /// Sums of up to 70 products below 4 in the scores, whose exponentials are weighted.
    const TOLERANCE: f32 = 2e-5;

    #[derive(Clone, Copy)]
    struct Form {
        /// Batch, query heads, key heads, queries, keys, size, value size.
        sizes: [u32; 7],
        mask: Option<[u32; 4]>,
        attributes: AttentionAttributes,
    }

    const PLAIN: AttentionAttributes = AttentionAttributes {
        scale: 0.5,
        softcap: 0.0,
        causal: 0,
        offset: 0,
        zero_rows: 0,
        output_scale: 0.0,
    };

    fn case(form: Form, random: &mut Random) -> (Case, Vec<f32>) {
        let [b, hq, hk, m, n, d, dv] = form.sizes;
        let mut operand = |dims: [u32; 4]| {
            let values = random.f32s(dims.iter().product::<u32>() as usize);
            (dims, values)
        };
        let (q, k, v) = (operand([b, hq, m, d]), operand([b, hk, n, d]), operand([b, hk, n, dv]));
        let mask = form.mask.map(|dims| {
            let (dims, mut values) = operand(dims);
            for value in values.iter_mut().filter(|v| **v > 1.0) {
                *value = f32::NEG_INFINITY;
            }
            (dims, values)
        });
        // One row at a time, in f64.
        let at = |t: &([u32; 4], Vec<f32>), i: [u32; 4]| {
            let index = (0..4).fold(0, |at, a| at * t.0[a] + if t.0[a] == 1 { 0 } else { i[a] });
            f64::from(t.1[index as usize])
        };
        let a = form.attributes;
        let mut want = vec![];
        for (s, h, i) in
            (0..b).flat_map(|s| (0..hq).flat_map(move |h| (0..m).map(move |i| (s, h, i))))
        {
            let kv = h / (hq / hk);
            let scores: Vec<f64> = (0..n)
                .map(|j| {
                    let dot: f64 =
                        (0..d).map(|c| at(&q, [s, h, i, c]) * at(&k, [s, kv, j, c])).sum();
                    let mut score = dot * f64::from(a.scale);
                    if a.softcap > 0.0 {
                        score = f64::from(a.softcap) * (score / f64::from(a.softcap)).tanh();
                    }
                    score += mask.as_ref().map_or(0.0, |mask| at(mask, [s, h, i, j]));
                    if a.causal == 1 && j as i32 > i as i32 + a.offset {
                        f64::NEG_INFINITY
                    } else {
                        score
                    }
                })
                .collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|x| (x - largest).exp()).sum();
            for c in 0..dv {
                let y: f64 = (0..n)
                    .map(|j| (scores[j as usize] - largest).exp() / sum * at(&v, [s, kv, j, c]))
                    .sum();
                let blind = largest == f64::NEG_INFINITY && a.zero_rows == 1;
                want.push(if blind { 0.0 } else { y as f32 });
            }
        }
        let mut inputs = vec![tensor(&q.0, &q.1), tensor(&k.0, &k.1), tensor(&v.0, &v.1)];
        inputs.extend(mask.map(|(dims, values)| tensor(&dims, &values)));
        let y = shape(DType::F32, &[b, hq, m, dv]);
        (Case::new(Op::Attention, Some(DType::F32), a, &inputs, y), want)
    }

    #[test]
    fn forms_agree_with_the_formula() {
        let sizes = [2, 4, 4, 5, 7, 8, 6];
        let causal = |offset| AttentionAttributes { causal: 1, offset, ..PLAIN };
        let zeros = AttentionAttributes { zero_rows: 1, ..PLAIN };
        let plain = Form { sizes, mask: None, attributes: PLAIN };
        let forms = [
            plain,
            Form { sizes: [1, 1, 1, 1, 1, 1, 1], ..plain },
            Form { sizes: [2, 6, 2, 3, 4, 5, 5], ..plain },
            Form { sizes: [1, 4, 1, 2, 9, 16, 3], ..plain },
            Form { attributes: AttentionAttributes { softcap: 0.7, ..PLAIN }, ..plain },
            Form { attributes: causal(0), ..plain },
            Form { attributes: causal(2), ..plain },
            Form { attributes: causal(100), ..plain },
            Form { mask: Some([2, 4, 5, 7]), attributes: zeros, ..plain },
            Form { mask: Some([1, 1, 5, 7]), attributes: zeros, ..plain },
            Form { mask: Some([2, 1, 1, 7]), ..plain },
            Form { mask: Some([2, 4, 5, 1]), attributes: zeros, ..plain },
            Form { mask: Some([1, 4, 5, 7]), attributes: causal(1), ..plain },
            // More rows than a block.
            Form { sizes: [1, 2, 1, 270, 300, 4, 4], attributes: causal(20), ..plain },
            Form { sizes: [1, 1, 1, 40, 5000, 4, 4], ..plain },
        ];
        let mut random = Random(5);
        for (index, form) in forms.into_iter().enumerate() {
            let (case, want) = case(form, &mut random);
            for isa in Isa::available() {
                println!("{index} {isa}");
                let bytes = case.run_on(Some(isa)).unwrap();
                let got: Vec<f32> = bytes
                    .chunks_exact(4)
                    .map(|x| f32::from_le_bytes(x.try_into().unwrap()))
                    .collect();
                assert_close(&got, &want, TOLERANCE);
            }
        }
    }

    #[test]
    fn a_query_that_sees_nothing() {
        let mut random = Random(6);
        let hidden = tensor(&[1, 1], &[f32::NEG_INFINITY]);
        for (zero_rows, expected) in [(0, f32::NAN), (1, 0.0)] {
            let attributes = AttentionAttributes { zero_rows, ..PLAIN };
            let form = Form { sizes: [1, 1, 1, 1, 3, 2, 2], mask: Some([1; 4]), attributes };
            let (mut case, _) = case(form, &mut random);
            case.inputs[3] = Some(hidden.clone());
            assert_close(&case.run::<f32>(), &[expected; 2], 0.0);
        }
        // No keys at all.
        let (case, _) =
            case(Form { sizes: [1, 1, 1, 2, 0, 2, 2], mask: None, attributes: PLAIN }, &mut random);
        assert_eq!(case.run::<f32>(), [0.0; 4]);
    }

    #[test]
    fn hostile_steps_are_refused() {
        let ones = |dims: &[u32]| tensor(dims, &vec![1.0; dims.iter().product::<u32>() as usize]);
        let of = |dims: [&[u32]; 4], attributes: AttentionAttributes| {
            let inputs: Vec<Tensor> = dims[..3].iter().map(|dims| ones(dims)).collect();
            Case::new(
                Op::Attention,
                Some(DType::F32),
                attributes,
                &inputs,
                shape(DType::F32, dims[3]),
            )
        };
        let good: [&[u32]; 4] = [&[1, 2, 3, 4], &[1, 2, 5, 4], &[1, 2, 5, 6], &[1, 2, 3, 6]];
        assert!(of(good, PLAIN).run_bytes().is_ok());
        let with = |operand: usize, dims: &'static [u32]| {
            let mut all = good;
            all[operand] = dims;
            of(all, PLAIN)
        };
        let masked = |dims: &[u32]| {
            let mut case = of(good, PLAIN);
            case.inputs.push(Some(ones(dims)));
            case
        };
        assert!(masked(&[5]).run_bytes().is_ok());
        let refused = [
            with(0, &[2, 3, 4]),
            with(1, &[1, 2, 5, 3]),
            with(1, &[2, 2, 5, 4]),
            with(1, &[1, 3, 5, 4]),
            with(1, &[1, 0, 5, 4]),
            with(2, &[1, 2, 4, 6]),
            with(2, &[1, 1, 5, 6]),
            with(3, &[1, 2, 3, 4]),
            with(3, &[2, 3, 6]),
            of(good, AttentionAttributes { causal: 2, ..PLAIN }),
            of(good, AttentionAttributes { zero_rows: 7, ..PLAIN }),
            of(good, AttentionAttributes { offset: -1, ..PLAIN }),
            of(good, PLAIN).sharing(0, 0),
            masked(&[4]),
            masked(&[2, 2, 3, 5]),
            masked(&[1, 1, 1, 3, 5]),
        ];
        for (index, case) in refused.iter().enumerate() {
            assert!(case.run_bytes().is_err(), "{index}");
        }
    }
}
