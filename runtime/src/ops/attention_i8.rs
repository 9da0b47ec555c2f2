//! Scaled dot-product attention, i8; [`kernels::attention_i8`](crate::kernels::attention_i8) says what it computes.
//!
//! Blocks of query rows are those of [`attention`](super::attention). Keys and values of a head are packed once for all
//! its blocks that a thread computes one after the other.

use core::ops::Range;

use super::attention::{self, MASK, MAX_ROWS, Sizes};
use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{AttentionAttributes, MAX_RANK, Op, cast_mut};
use crate::isa::Isa;
use crate::kernels::attention_i8::{
    self, AttentionI8, COLUMNS, MOST_CHANNELS, MOST_KEYS, Mask, Products, factor, panels_len,
};
use crate::memory::{Context, typed, typed_mut};
use crate::ops::shape::broadcast_strides;
use crate::ops::{Operator, Step, select_isa};
#[cfg(feature = "std")]
use crate::threads::{Disjoint, Shares};

/// i8.
pub static ATTENTION_I8: Operator = Operator {
    op: Op::Attention,
    dtype: Some(DType::I8),
    check,
    select: select_isa!(run),
    scratch_bytes: |step, _| Sizes::of(step).map_or(0, |sizes| Lens::of(&sizes).bytes()),
};

fn check(step: &Step<'_>) -> Result<(), StepErrorKind> {
    attention::check(step, DType::I8)?;
    if step.attributes::<AttentionAttributes>().softcap != 0.0 {
        return Err(StepErrorKind::Attribute("softcap"));
    }
    let sizes = Sizes::of(step)?;
    if sizes.size == 0 {
        return Err(StepErrorKind::OperandShape(0));
    }
    if sizes.keys > MOST_KEYS || sizes.size > MOST_CHANNELS {
        return Err(StepErrorKind::TooLarge);
    }
    Ok(())
}

/// Elements of the parts of scratch. Each grows with every size.
struct Lens {
    /// i32: products of queries and keys, then exponentials.
    scores: usize,
    /// i32: weighted sums of values.
    sums: usize,
    /// i16, as all that follow.
    queries: usize,
    keys: usize,
    values: usize,
    weights: usize,
}

impl Lens {
    fn of(sizes: &Sizes) -> Lens {
        let Sizes { queries, keys, size, value_size, .. } = *sizes;
        let rows = queries.min(MAX_ROWS);
        let scores = sizes.scores();
        let even_size = size.next_multiple_of(2);
        Lens {
            scores,
            sums: rows.saturating_mul(value_size.next_multiple_of(COLUMNS)),
            queries: rows.saturating_mul(even_size),
            keys: sizes.padded_keys().saturating_mul(even_size),
            values: keys.next_multiple_of(2).saturating_mul(value_size.next_multiple_of(COLUMNS)),
            weights: scores,
        }
    }

    fn bytes(&self) -> usize {
        let Lens { scores, sums, queries, keys, values, weights } = *self;
        let add = |all: usize, len: &usize| all.saturating_add(*len);
        let words = [scores, sums].iter().fold(0, add);
        let halves = [queries, keys, values, weights].iter().fold(0, add);
        words
            .saturating_mul(size_of::<i32>())
            .saturating_add(halves.saturating_mul(size_of::<i16>()))
    }
}

/// Queries whose products become weights together, see [`AttentionI8::largest`].
const WEIGHED: usize = 8;

/// Scratch of a thread.
struct Scratch<'s> {
    scores: &'s mut [i32],
    sums: &'s mut [i32],
    queries: &'s mut [i16],
    keys: &'s mut [i16],
    values: &'s mut [i16],
    weights: &'s mut [i16],
}

impl<'s> Scratch<'s> {
    fn new(sizes: &Sizes, bytes: &'s mut [u8]) -> Option<Scratch<'s>> {
        let lens = Lens::of(sizes);
        let bytes = bytes.get_mut(..lens.bytes())?;
        let (words, halves) =
            bytes.split_at_mut_checked((lens.scores + lens.sums) * size_of::<i32>())?;
        let (scores, sums) = cast_mut::<i32>(words)?.split_at_mut_checked(lens.scores)?;
        let (queries, rest) = cast_mut::<i16>(halves)?.split_at_mut_checked(lens.queries)?;
        let (keys, rest) = rest.split_at_mut_checked(lens.keys)?;
        let (values, weights) = rest.split_at_mut_checked(lens.values)?;
        Some(Scratch { scores, sums, queries, keys, values, weights })
    }
}

fn run<const ISA: usize>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let step = context.step;
    let attributes: AttentionAttributes = step.attributes();
    let sizes = Sizes::of(&step)?;
    let zero_point = step.output(0)?.zero_point;
    if step.output(0)?.elements() == 0 {
        return Ok(());
    }
    let input_zero_point = |operand| step.input(operand).map(|slot| slot.zero_point);
    let mask_slot = step.optional_input(MASK);
    #[cfg(feature = "std")]
    let crew = context.take_crew();
    let operands = context.operands([0, 1, 2, MASK])?;
    let [q, k, v, mask] = operands.inputs;
    let y: &mut [i8] = typed_mut(operands.output, 4)?;
    if sizes.keys == 0 {
        // Sums of nothing.
        y.fill(zero_point as i8);
        return Ok(());
    }
    let attention = Attention {
        sizes,
        q: typed(q, 0)?,
        k: typed(k, 1)?,
        v: typed(v, 2)?,
        mask: typed(mask, MASK as u8)?,
        mask_strides: mask_slot.map(|slot| broadcast_strides(&slot, 4)),
        zero_points: [input_zero_point(0)?, input_zero_point(1)?, input_zero_point(2)?],
        zero_point,
        offset: step.dim(attributes.offset)?,
        attributes,
        kernels: attention_i8::select(Isa::ALL[ISA]),
    };
    #[cfg(feature = "std")]
    if let Some(mut crew) = crew {
        let cut = crew.cut(sizes.all_blocks());
        let y = Disjoint::at(y, cut.parts, |part| sizes.output_start(cut.range(part).start));
        let shares = Shares::new(operands.scratch, crew.threads());
        return crew.run(cut.parts, |part, thread| {
            let y = y.take(part).ok_or(StepErrorKind::TooLarge)?;
            shares.with(thread, |scratch| {
                let scratch = Scratch::new(&sizes, scratch).ok_or(StepErrorKind::TooLarge)?;
                attention.blocks(cut.range(part), scratch, y);
                Ok(())
            })?
        });
    }
    let scratch = Scratch::new(&sizes, operands.scratch).ok_or(StepErrorKind::TooLarge)?;
    attention.blocks(0..sizes.all_blocks(), scratch, y);
    Ok(())
}

/// A step's operands and attributes.
struct Attention<'v> {
    sizes: Sizes,
    q: &'v [i8],
    k: &'v [i8],
    v: &'v [i8],
    mask: &'v [f32],
    mask_strides: Option<[usize; MAX_RANK]>,
    /// Of queries, keys and values.
    zero_points: [i32; 3],
    zero_point: i32,
    offset: usize,
    attributes: AttentionAttributes,
    kernels: AttentionI8,
}

impl Attention<'_> {
    /// Computes a range of the blocks of all heads, whose rows `y` has.
    fn blocks(&self, range: Range<usize>, scratch: Scratch<'_>, y: &mut [i8]) {
        let Sizes { heads, kv_heads, queries, keys, size, value_size, .. } = self.sizes;
        let (group, block) = (heads / kv_heads, self.sizes.rows());
        let [q_zero, k_zero, v_zero] = self.zero_points;
        let even_size = size.next_multiple_of(2);
        let key_panels = &mut scratch.keys[..panels_len(size, keys)];
        let value_panels = &mut scratch.values[..panels_len(keys, value_size)];
        let mut packed = None;
        let mut rest = y;
        for number in range {
            let (index, block_in_head) =
                (number / self.sizes.blocks(), number % self.sizes.blocks());
            let (sample, head) = (index / heads, index % heads);
            let of_kv = sample * kv_heads + head / group;
            if packed != Some(of_kv) {
                let k = &self.k[of_kv * keys * size..][..keys * size];
                let v = &self.v[of_kv * keys * value_size..][..keys * value_size];
                (self.kernels.columns)(k, size, k_zero, key_panels);
                (self.kernels.pairs)(v, value_size, v_zero, value_panels);
                packed = Some(of_kv);
            }
            let first = block_in_head * block;
            let rows = first..queries.min(first + block);
            let q = &self.q[(index * queries + first) * size..][..rows.len() * size];
            let q_rows = &mut scratch.queries[..rows.len() * even_size];
            (self.kernels.rows)(q, size, q_zero, q_rows);
            // The last row of the block sees most.
            let width = self.seen(rows.end - 1).next_multiple_of(COLUMNS);
            let scores = &mut scratch.scores[..rows.len() * width];
            (self.kernels.products)(&mut Products {
                a: q_rows,
                pairs: even_size / 2,
                b: &key_panels[..width * even_size],
                output: scores,
                columns: width,
            });
            let even_keys = keys.next_multiple_of(2);
            let weights = &mut scratch.weights[..rows.len() * even_keys];
            let mut factors = [0.0f32; MAX_ROWS];
            let of_rows =
                scores.chunks_mut(WEIGHED * width).zip(weights.chunks_mut(WEIGHED * even_keys));
            let first_rows = (first..).step_by(WEIGHED);
            for ((of_rows, first), factors) in
                of_rows.zip(first_rows).zip(factors.chunks_mut(WEIGHED))
            {
                self.weigh([sample, head, first], of_rows, [width, even_keys], factors);
            }
            let columns = value_size.next_multiple_of(COLUMNS);
            let sums = &mut scratch.sums[..rows.len() * columns];
            (self.kernels.products)(&mut Products {
                a: weights,
                pairs: even_keys / 2,
                b: value_panels,
                output: sums,
                columns,
            });
            let (y, after) = core::mem::take(&mut rest).split_at_mut(rows.len() * value_size);
            rest = after;
            let of_rows = y.chunks_exact_mut(value_size).zip(sums.chunks_exact(columns));
            for ((y, sums), factor) in of_rows.zip(factors) {
                (self.kernels.narrow)(sums, factor, self.zero_point, y);
            }
        }
    }

    /// Weights from the products of up to [`WEIGHED`] queries, the first of which is `at`, by sample, head and query, and what the
    /// queries' sums are multiplied by. Rows of products and of weights have these lengths.
    fn weigh(
        &self,
        at: [usize; 3],
        (products, weights): (&mut [i32], &mut [i16]),
        [width, weights_len]: [usize; 2],
        factors: &mut [f32],
    ) {
        let [sample, head, first] = at;
        let (scale, kernels) = (self.attributes.scale, &self.kernels);
        let mut largest = [0.0; WEIGHED];
        let mut sums = [0; WEIGHED];
        let seen = |row: usize| self.seen(first + row);
        let mask = |row: usize| self.mask([sample, head, first + row]);
        for (row, products) in products.chunks_exact(width).enumerate() {
            largest[row] = (kernels.largest)(&products[..seen(row)], scale, mask(row));
        }
        for (row, products) in products.chunks_exact_mut(width).enumerate() {
            let products = &mut products[..seen(row)];
            sums[row] = (kernels.raise)(products, scale, mask(row), largest[row]);
        }
        let of_rows = products.chunks_exact(width).zip(weights.chunks_exact_mut(weights_len));
        for (row, (exponentials, weights)) in of_rows.enumerate() {
            let (weights, hidden) = weights.split_at_mut(seen(row));
            hidden.fill(0);
            let sum = (kernels.share)(&exponentials[..weights.len()], sums[row], weights);
            factors[row] = factor(self.attributes.output_scale, sum);
        }
    }

    /// Keys that a query sees.
    fn seen(&self, query: usize) -> usize {
        match self.attributes.causal {
            1 => self.sizes.keys.min(query.saturating_add(self.offset).saturating_add(1)),
            _ => self.sizes.keys,
        }
    }

    /// What is added to a query's scores, by sample, head and query.
    fn mask(&self, at: [usize; 3]) -> Mask<'_> {
        let Some(strides) = self.mask_strides else { return Mask::All(0.0) };
        let start: usize = at.iter().zip(strides).map(|(at, stride)| at * stride).sum();
        match strides[3] {
            1 => Mask::Each(&self.mask[start..]),
            _ => Mask::All(self.mask[start]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Field;
    use crate::ops::testing::{Case, Random, Tensor, shape, tensor};

    /// Scales and zero points of q, k, v and y.
    const QUANT: [(f32, i32); 4] = [(0.02, 3), (0.025, -7), (0.01, 11), (0.008, -5)];

    const PLAIN: AttentionAttributes = AttentionAttributes {
        scale: 0.35 * QUANT[0].0 * QUANT[1].0,
        softcap: 0.0,
        causal: 0,
        offset: 0,
        zero_rows: 0,
        output_scale: QUANT[2].0 / QUANT[3].0,
    };

    #[derive(Clone, Copy)]
    struct Form {
        /// Batch, query heads, key heads, queries, keys, size, value size.
        sizes: [u32; 7],
        mask: Option<[u32; 4]>,
        attributes: AttentionAttributes,
    }

    fn operand(operand: usize, dims: &[u32], random: &mut Random) -> Tensor {
        let len: u32 = dims.iter().product();
        let values: Vec<i8> = (0..len).map(|_| random.below(256) as u8 as i8).collect();
        tensor(dims, &values).quantized(QUANT[operand].0, QUANT[operand].1)
    }

    /// A step, and what f64 makes of the reals that its integers stand for.
    fn case(form: Form, random: &mut Random) -> (Case, Vec<f64>) {
        let [b, hq, hk, m, n, d, dv] = form.sizes;
        let q = operand(0, &[b, hq, m, d], random);
        let k = operand(1, &[b, hk, n, d], random);
        let v = operand(2, &[b, hk, n, dv], random);
        let mask = form.mask.map(|dims| {
            let hides = |x: f32| if x > 1.0 { f32::NEG_INFINITY } else { x };
            let values = random.f32s(dims.iter().product::<u32>() as usize);
            tensor(&dims, &values.into_iter().map(hides).collect::<Vec<_>>())
        });
        let index = |dims: &[u32], i: [u32; 4]| {
            let clamp = |axis: usize| if dims[axis] == 1 { 0 } else { i[axis] };
            (0..4).fold(0, |at, axis| at * dims[axis] + clamp(axis)) as usize
        };
        let real = |t: &Tensor, i: [u32; 4]| {
            f64::from(t.scale)
                * f64::from(i32::from(t.bytes[index(&t.dims, i)] as i8) - t.zero_point)
        };
        let mask_at = |i: [u32; 4]| {
            mask.as_ref().map_or(0.0, |mask: &Tensor| {
                let at = 4 * index(&mask.dims, i);
                f64::from(f32::from_le_bytes(mask.bytes[at..at + 4].try_into().unwrap()))
            })
        };
        let mut want = vec![];
        for (s, h, i) in
            (0..b).flat_map(|s| (0..hq).flat_map(move |h| (0..m).map(move |i| (s, h, i))))
        {
            let kv = h / (hq / hk);
            let sees = |j: u32| {
                form.attributes.causal == 0 || j as i32 <= i as i32 + form.attributes.offset
            };
            let score = |j: u32| {
                let dot: f64 =
                    (0..d).map(|c| real(&q, [s, h, i, c]) * real(&k, [s, kv, j, c])).sum();
                if sees(j) { dot * 0.35 + mask_at([s, h, i, j]) } else { f64::NEG_INFINITY }
            };
            let scores: Vec<f64> = (0..n).map(score).collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let exponentials: Vec<f64> = scores.iter().map(|x| (x - largest).exp()).collect();
            let sum: f64 = exponentials.iter().sum();
            for c in 0..dv {
                let of = |j: u32| exponentials[j as usize] / sum * real(&v, [s, kv, j, c]);
                let y: f64 = if largest.is_finite() { (0..n).map(of).sum() } else { 0.0 };
                want.push(y / f64::from(QUANT[3].0) + f64::from(QUANT[3].1));
            }
        }
        let mut inputs = vec![q, k, v];
        inputs.extend(mask);
        let y = shape(DType::I8, &[b, hq, m, dv]).quantized(QUANT[3].0, QUANT[3].1);
        (Case::new(Op::Attention, Some(DType::I8), form.attributes, &inputs, y), want)
    }

    #[test]
    fn forms_agree_with_reals_and_on_every_instruction_set() {
        let causal = |offset| AttentionAttributes { causal: 1, offset, ..PLAIN };
        let plain = Form { sizes: [2, 4, 4, 5, 7, 8, 6], mask: None, attributes: PLAIN };
        let forms = [
            plain,
            Form { sizes: [1, 1, 1, 1, 1, 1, 1], ..plain },
            Form { sizes: [2, 6, 2, 3, 4, 5, 5], ..plain },
            Form { sizes: [1, 4, 1, 2, 9, 16, 3], ..plain },
            Form { sizes: [1, 2, 2, 64, 64, 32, 32], mask: Some([1, 1, 1, 64]), ..plain },
            Form { attributes: causal(0), ..plain },
            Form { attributes: causal(2), ..plain },
            Form { attributes: causal(100), ..plain },
            Form { mask: Some([2, 4, 5, 7]), ..plain },
            Form { mask: Some([1, 1, 5, 7]), ..plain },
            Form { mask: Some([2, 1, 1, 7]), ..plain },
            Form { mask: Some([2, 4, 5, 1]), ..plain },
            Form { mask: Some([1, 4, 5, 7]), attributes: causal(1), ..plain },
            // More rows than a block.
            Form { sizes: [1, 2, 1, 270, 300, 4, 4], attributes: causal(20), ..plain },
            Form { sizes: [1, 1, 1, 40, 5000, 4, 4], ..plain },
        ];
        let mut random = Random(5);
        for (index, form) in forms.into_iter().enumerate() {
            let (case, want) = case(form, &mut random);
            let scalar = case.run_on(Some(Isa::Scalar)).unwrap();
            for (at, (got, want)) in scalar.iter().zip(&want).enumerate() {
                let got = f64::from(*got as i8);
                // Half a step, and what 16 bits leave of the weights: 5000 that are 6.6 parts each are off by a quarter at most.
                let bound = if form.sizes[4] > 1000 { 2.0 } else { 0.54 };
                assert!(
                    (got - want.clamp(-128.0, 127.0)).abs() <= bound,
                    "{index} at {at}: {got} for {want}"
                );
            }
            for isa in Isa::available() {
                assert_eq!(case.run_on(Some(isa)).unwrap(), scalar, "{index} on {isa}");
            }
        }
    }

    #[test]
    fn a_query_that_sees_nothing_gives_zero() {
        let mut random = Random(6);
        for (n, mask) in [(3, Some([1; 4])), (0, None)] {
            let form = Form { sizes: [1, 1, 1, 2, n, 2, 2], mask, attributes: PLAIN };
            let (mut case, _) = case(form, &mut random);
            if mask.is_some() {
                case.inputs[3] = Some(tensor(&[1, 1], &[f32::NEG_INFINITY]));
            }
            assert_eq!(case.run::<i8>(), [-5; 4]);
        }
    }

    #[test]
    fn hostile_steps_are_refused() {
        let form = Form { sizes: [1, 2, 2, 3, 5, 4, 6], mask: None, attributes: PLAIN };
        let changed = |change: &dyn Fn(&mut Case)| {
            let (mut case, _) = case(form, &mut Random(7));
            change(&mut case);
            case.run_bytes()
        };
        assert!(changed(&|_| ()).is_ok());
        let attributes = |attributes: AttentionAttributes| {
            let mut bytes = [0; AttentionAttributes::SIZE];
            attributes.write(&mut bytes);
            bytes.to_vec()
        };
        let long = MOST_KEYS as u32 + 1;
        let refused: [&dyn Fn(&mut Case); 5] = [
            &|case| case.attributes = attributes(AttentionAttributes { softcap: 0.5, ..PLAIN }),
            &|case| case.attributes = attributes(AttentionAttributes { causal: 2, ..PLAIN }),
            &|case| {
                for at in [1, 2] {
                    case.inputs[at] = Some(operand(at, &[1, 2, long, 4], &mut Random(1)));
                }
                case.output.dims[3] = 4;
            },
            &|case| case.inputs[0] = Some(tensor(&[1, 2, 3, 4], &[1.0f32; 24])),
            &|case| {
                for operand in [0, 1] {
                    let slot = case.inputs[operand].as_mut().unwrap();
                    slot.dims[3] = 0;
                    slot.bytes.clear();
                }
            },
        ];
        for (index, change) in refused.into_iter().enumerate() {
            assert!(changed(change).is_err(), "{index}");
        }
    }
}
