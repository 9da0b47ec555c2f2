//! Convolution over one to three spatial axes with dense weights, which may be computed at run time.
//!
//! The sum runs over the kernel's elements in row-major order and, within each, over the input's
//! channels; f32 sums eight channels side by side and adds the eight sums pairwise. i32 wraps
//! around. Padding counts as 0 and is skipped.

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{ConvNdAttributes, Element, Op};
use crate::memory::{Context, typed, typed_mut};
use crate::ops::shape::{expect_apart, expect_types};
use crate::ops::{Operator, Step, expect_type, expect_vector, no_scratch};

/// f32.
pub static CONV_ND_F32: Operator = Operator {
    op: Op::ConvNd,
    dtype: Some(DType::F32),
    check: |step| check(step, DType::F32).map(|_| ()),
    select: |_| run::<f32>,
    scratch_bytes: no_scratch,
};

/// i32, exact modulo 2³².
pub static CONV_ND_I32: Operator = Operator {
    op: Op::ConvNd,
    dtype: Some(DType::I32),
    check: |step| check(step, DType::I32).map(|_| ()),
    select: |_| run::<i32>,
    scratch_bytes: no_scratch,
};

/// Spatial axes at most.
pub(crate) const MAX_SPATIAL: usize = 3;

/// Strides, dilations and paddings at most: positions then stay far from the ends of an i64.
pub(crate) const MAX_WINDOW: u32 = 1 << 30;

/// Channels summed side by side.
const LANES: usize = 8;

/// Sizes of a step, with spatial axes of size 1 in front where there are fewer than three.
#[derive(Clone, Copy)]
struct Geometry {
    batch: usize,
    input: [usize; MAX_SPATIAL],
    output: [usize; MAX_SPATIAL],
    kernel: [usize; MAX_SPATIAL],
    stride: [i64; MAX_SPATIAL],
    dilation: [i64; MAX_SPATIAL],
    pad: [i64; MAX_SPATIAL],
    in_c: usize,
    out_c: usize,
    groups: usize,
}

/// Spatial values at the end of three, `fill` before them.
pub(crate) fn at_end<T: Copy>(values: &[T], fill: T) -> [T; MAX_SPATIAL] {
    let mut all = [fill; MAX_SPATIAL];
    for (to, from) in all.iter_mut().rev().zip(values.iter().rev()) {
        *to = *from;
    }
    all
}

fn check(step: &Step<'_>, dtype: DType) -> Result<Geometry, StepErrorKind> {
    step.expect_counts(2, 3)?;
    expect_types(step, &[dtype, dtype], dtype)?;
    expect_apart(step)?;
    let geometry = geometry(step)?;
    if let Some(bias) = step.optional_input(2) {
        expect_type(&bias, dtype, 2)?;
        expect_vector(&bias, dtype, geometry.out_c, 2)?;
    }
    Ok(geometry)
}

fn geometry(step: &Step<'_>) -> Result<Geometry, StepErrorKind> {
    let attributes: ConvNdAttributes = step.expect_attributes()?;
    let (x, w, y) = (step.input(0)?, step.input(1)?, step.output(0)?);
    let rank = x.rank();
    if !(3..=MAX_SPATIAL + 2).contains(&rank) {
        return Err(StepErrorKind::OperandShape(0));
    }
    let output_operand = step.input_count() as u8;
    if y.rank() != rank || y.dim(0) != x.dim(0) {
        return Err(StepErrorKind::OperandShape(output_operand));
    }
    let (in_c, out_c) = (x.dim(rank - 1), y.dim(rank - 1));
    let groups = attributes.groups as usize;
    if groups == 0 || !in_c.is_multiple_of(groups) || !out_c.is_multiple_of(groups) {
        return Err(StepErrorKind::Attribute("groups"));
    }
    if w.rank() != rank || w.dim(0) != out_c || w.dim(rank - 1) != in_c / groups {
        return Err(StepErrorKind::OperandShape(1));
    }
    let spatial = rank - 2;
    for axis in 0..spatial {
        let (stride, dilation) = (attributes.stride[axis], attributes.dilation[axis]);
        if !(1..=MAX_WINDOW).contains(&stride) || !(1..=MAX_WINDOW).contains(&dilation) {
            return Err(StepErrorKind::Attribute("stride or dilation"));
        }
        if attributes.pad[axis] > MAX_WINDOW {
            return Err(StepErrorKind::Attribute("pad"));
        }
    }
    let dims = |slot: &crate::memory::Slot| {
        let mut sizes = [1; MAX_SPATIAL];
        for axis in 0..spatial {
            sizes[MAX_SPATIAL - spatial + axis] = slot.dim(axis + 1);
        }
        sizes
    };
    let given = |values: [u32; MAX_SPATIAL], fill| at_end(&values[..spatial], fill).map(i64::from);
    Ok(Geometry {
        batch: x.dim(0),
        input: dims(&x),
        output: dims(&y),
        kernel: dims(&w),
        stride: given(attributes.stride, 1),
        dilation: given(attributes.dilation, 1),
        pad: given(attributes.pad, 0),
        in_c,
        out_c,
        groups,
    })
}

/// What the loop below needs of an element type.
trait Number: Element + Copy {
    const ZERO: Self;
    fn add(self, other: Self) -> Self;
    /// Adds the products of two rows of one length.
    fn add_products(self, a: &[Self], b: &[Self]) -> Self;
    fn clamped(self, clamp: [f32; 2]) -> Self;
}

impl Number for f32 {
    const ZERO: f32 = 0.0;

    fn add(self, other: f32) -> f32 {
        self + other
    }

    fn add_products(self, a: &[f32], b: &[f32]) -> f32 {
        let mut sum = self;
        let (a_blocks, b_blocks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
        let rest = a_blocks.remainder().iter().zip(b_blocks.remainder());
        if a.len() >= LANES {
            let mut lanes = [0.0; LANES];
            for (a, b) in a_blocks.zip(b_blocks) {
                for lane in 0..LANES {
                    lanes[lane] += a[lane] * b[lane];
                }
            }
            sum += ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6]))
                + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
        }
        for (a, b) in rest {
            sum += a * b;
        }
        sum
    }

    fn clamped(self, [min, max]: [f32; 2]) -> f32 {
        // A NaN stays.
        let low = if self < min { min } else { self };
        if low > max { max } else { low }
    }
}

impl Number for i32 {
    const ZERO: i32 = 0;

    fn add(self, other: i32) -> i32 {
        self.wrapping_add(other)
    }

    fn add_products(self, a: &[i32], b: &[i32]) -> i32 {
        a.iter().zip(b).fold(self, |sum, (a, b)| sum.wrapping_add(a.wrapping_mul(*b)))
    }

    fn clamped(self, _: [f32; 2]) -> i32 {
        self
    }
}

/// The kernel's elements that lie inside the input, for one place of the window along one axis:
/// first and end.
pub(crate) fn inside(size: usize, kernel: usize, dilation: i64, start: i64) -> (usize, usize) {
    let size = size as i64;
    let first = if start < 0 { (-start + dilation - 1) / dilation } else { 0 };
    let end = if start >= size { 0 } else { (size - 1 - start) / dilation + 1 };
    let end = end.min(kernel as i64).max(0);
    (first.min(end) as usize, end as usize)
}

fn run<T: Number>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let g = geometry(&context.step)?;
    let clamp = context.step.attributes::<ConvNdAttributes>().clamp;
    if context.step.output(0)?.elements() == 0 {
        return Ok(());
    }
    let operand = context.step.input_count() as u8;
    let operands = context.operands([0, 1, 2])?;
    let [x, w, bias] = operands.inputs;
    let (x, w, bias): (&[T], &[T], &[T]) = (typed(x, 0)?, typed(w, 1)?, typed(bias, 2)?);
    let y: &mut [T] = typed_mut(operands.output, operand)?;
    let (group_in, group_out) = (g.in_c / g.groups, g.out_c / g.groups);
    let taps = g.kernel[0].wrapping_mul(g.kernel[1]).wrapping_mul(g.kernel[2]);
    let filter = taps.wrapping_mul(group_in);
    let mut rows = y.chunks_exact_mut(g.out_c);
    for batch in 0..g.batch {
        for place in 0..g.output[0] * g.output[1] * g.output[2] {
            let Some(row) = rows.next() else { return Ok(()) };
            let at = [
                place / g.output[2] / g.output[1],
                place / g.output[2] % g.output[1],
                place % g.output[2],
            ];
            let mut start = [0; MAX_SPATIAL];
            let mut within = [(0, 0); MAX_SPATIAL];
            // Beside a size of 0, the others can be anything: then there is nothing to read.
            for axis in (0..MAX_SPATIAL).filter(|_| !x.is_empty() && !w.is_empty()) {
                start[axis] = at[axis] as i64 * g.stride[axis] - g.pad[axis];
                within[axis] = inside(g.input[axis], g.kernel[axis], g.dilation[axis], start[axis]);
            }
            for (channel, y) in row.iter_mut().enumerate() {
                let group = channel / group_out;
                let mut sum = T::ZERO;
                for k0 in within[0].0..within[0].1 {
                    let p0 = (start[0] + k0 as i64 * g.dilation[0]) as usize;
                    for k1 in within[1].0..within[1].1 {
                        let p1 = (start[1] + k1 as i64 * g.dilation[1]) as usize;
                        for k2 in within[2].0..within[2].1 {
                            let p2 = (start[2] + k2 as i64 * g.dilation[2]) as usize;
                            let from = ((batch * g.input[0] + p0) * g.input[1] + p1) * g.input[2];
                            let from = (from + p2) * g.in_c + group * group_in;
                            let tap = (k0 * g.kernel[1] + k1) * g.kernel[2] + k2;
                            let weight = channel * filter + tap * group_in;
                            sum = sum.add_products(
                                &x[from..from + group_in],
                                &w[weight..weight + group_in],
                            );
                        }
                    }
                }
                if let Some(bias) = bias.get(channel) {
                    sum = sum.add(*bias);
                }
                *y = sum.clamped(clamp);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Case, Random, assert_close, shape, tensor};

    /// Sums of up to 200 products below 4, in another order.
    const TOLERANCE: f32 = 1e-4;

    fn attributes(
        spatial: usize,
        stride: u32,
        dilation: u32,
        pad: u32,
        groups: u32,
    ) -> ConvNdAttributes {
        let of = |value: u32| core::array::from_fn(|axis| if axis < spatial { value } else { 0 });
        ConvNdAttributes {
            stride: of(stride),
            dilation: of(dilation),
            pad: of(pad),
            groups,
            clamp: [f32::NEG_INFINITY, f32::INFINITY],
            reserved: [0; 2],
        }
    }

    /// Scatters every input element to the outputs that it reaches, the other way round than the
    /// operator.
    fn scattered(
        a: &ConvNdAttributes,
        x: (&[u32], &[f32]),
        w: (&[u32], &[f32]),
        y: &[u32],
    ) -> Vec<f64> {
        let spatial = y.len() - 2;
        let index = |dims: &[u32], mut flat: usize| -> Vec<i64> {
            let mut index = vec![0; dims.len()];
            for axis in (0..dims.len()).rev() {
                index[axis] = (flat % dims[axis] as usize) as i64;
                flat /= dims[axis] as usize;
            }
            index
        };
        let mut out = vec![0.0; y.iter().map(|d| *d as usize).product()];
        let (per_in, per_out) = (x.0[spatial + 1] / a.groups, y[spatial + 1] / a.groups);
        for (xi, xv) in x.1.iter().enumerate() {
            let from = index(x.0, xi);
            for (wi, wv) in w.1.iter().enumerate() {
                let k = index(w.0, wi);
                let group = from[spatial + 1] / i64::from(per_in);
                if k[0] / i64::from(per_out) != group
                    || from[spatial + 1] % i64::from(per_in) != k[spatial + 1]
                {
                    continue;
                }
                let mut flat = from[0];
                let mut fits = true;
                for axis in 0..spatial {
                    let reach = from[axis + 1] + i64::from(a.pad[axis])
                        - k[axis + 1] * i64::from(a.dilation[axis]);
                    let stride = i64::from(a.stride[axis]);
                    let place = reach.div_euclid(stride);
                    fits &= reach.rem_euclid(stride) == 0
                        && (0..i64::from(y[axis + 1])).contains(&place);
                    flat = flat * i64::from(y[axis + 1]) + place;
                }
                if fits {
                    flat = flat * i64::from(y[spatial + 1]) + k[0];
                    out[flat as usize] += f64::from(*xv) * f64::from(*wv);
                }
            }
        }
        out
    }

    #[test]
    fn equals_a_scattered_sum() {
        let mut random = Random(5);
        for (x, w, y, attributes) in [
            (vec![2, 7, 3], vec![4, 3, 3], vec![2, 5, 4], attributes(1, 1, 1, 0, 1)),
            (vec![1, 5, 6, 4], vec![6, 2, 3, 2], vec![1, 3, 3, 6], attributes(2, 2, 1, 1, 2)),
            (vec![1, 6, 6, 20], vec![3, 2, 2, 20], vec![1, 5, 5, 3], attributes(2, 1, 2, 1, 1)),
            (
                vec![1, 4, 4, 4, 2],
                vec![2, 3, 2, 3, 2],
                vec![1, 2, 2, 2, 2],
                attributes(3, 2, 1, 1, 1),
            ),
            (
                vec![2, 3, 4, 3, 3],
                vec![3, 2, 2, 2, 1],
                vec![2, 2, 2, 1, 3],
                attributes(3, 1, 2, 1, 3),
            ),
            // Windows that lie beyond the input altogether.
            (vec![1, 2, 1], vec![1, 2, 1], vec![1, 9, 1], attributes(1, 1, 1, 4, 1)),
        ] {
            let count = |dims: &[u32]| dims.iter().product::<u32>() as usize;
            let (xs, ws) = (random.f32s(count(&x)), random.f32s(count(&w)));
            let bias = random.f32s(*y.last().unwrap() as usize);
            let inputs = [tensor(&x, &xs), tensor(&w, &ws), tensor(&[y[y.len() - 1]], &bias)];
            let mut want = scattered(&attributes, (&x, &xs), (&w, &ws), &y);
            for (at, value) in want.iter_mut().enumerate() {
                *value += f64::from(bias[at % bias.len()]);
            }
            let want: Vec<f32> = want.iter().map(|value| *value as f32).collect();
            let case =
                Case::new(Op::ConvNd, Some(DType::F32), attributes, &inputs, shape(DType::F32, &y));
            assert_close(&case.run(), &want, TOLERANCE);
            // The same in whole numbers, to the bit.
            let whole =
                |values: &[f32]| -> Vec<i32> { values.iter().map(|v| (*v * 1e6) as i32).collect() };
            let (xi, wi) = (whole(&xs), whole(&ws));
            let floats = |values: &[i32]| -> Vec<f32> {
                values.iter().map(|v| (*v % 1000) as f32).collect()
            };
            let (xm, wm): (Vec<i32>, Vec<i32>) =
                (xi.iter().map(|v| v % 1000).collect(), wi.iter().map(|v| v % 1000).collect());
            let want = scattered(&attributes, (&x, &floats(&xi)), (&w, &floats(&wi)), &y);
            let case = Case::new(
                Op::ConvNd,
                Some(DType::I32),
                attributes,
                &[tensor(&x, &xm), tensor(&w, &wm)],
                shape(DType::I32, &y),
            );
            let want: Vec<i32> = want.iter().map(|value| *value as i32).collect();
            assert_eq!(case.run::<i32>(), want);
        }
    }

    #[test]
    fn integers_wrap_and_floats_are_clamped() {
        let a = attributes(1, 1, 1, 0, 1);
        let inputs = [tensor(&[1, 1, 2], &[i32::MAX, 2]), tensor(&[1, 1, 2], &[3, 5])];
        let case =
            Case::new(Op::ConvNd, Some(DType::I32), a, &inputs, shape(DType::I32, &[1, 1, 1]));
        assert_eq!(case.run::<i32>(), [i32::MAX.wrapping_mul(3).wrapping_add(10)]);
        let a = ConvNdAttributes { clamp: [0.0, 6.0], ..a };
        let inputs = [tensor(&[1, 3, 1], &[-1.0f32, 2.0, 9.0]), tensor(&[1, 1, 1], &[1.0f32])];
        let case =
            Case::new(Op::ConvNd, Some(DType::F32), a, &inputs, shape(DType::F32, &[1, 3, 1]));
        assert_eq!(case.run::<f32>(), [0.0, 2.0, 6.0]);
    }

    #[test]
    fn hostile_steps_are_refused() {
        let good = attributes(1, 1, 1, 0, 1);
        let (x, w) = (tensor(&[1, 4, 2], &[1.0f32; 8]), tensor(&[3, 2, 2], &[1.0f32; 12]));
        let run = |a: ConvNdAttributes, x: &crate::ops::testing::Tensor, w, y: &[u32]| {
            let inputs = [x.clone(), w];
            Case::new(Op::ConvNd, Some(DType::F32), a, &inputs, shape(DType::F32, y)).run_bytes()
        };
        assert!(run(good, &x, w.clone(), &[1, 3, 3]).is_ok());
        // More places than the input has: all padding.
        assert!(run(good, &x, w.clone(), &[1, 9, 3]).is_ok());
        for (a, w, y) in [
            (ConvNdAttributes { stride: [0; 3], ..good }, w.clone(), vec![1, 3, 3]),
            (ConvNdAttributes { dilation: [0; 3], ..good }, w.clone(), vec![1, 3, 3]),
            (ConvNdAttributes { stride: [u32::MAX; 3], ..good }, w.clone(), vec![1, 3, 3]),
            (ConvNdAttributes { pad: [u32::MAX; 3], ..good }, w.clone(), vec![1, 3, 3]),
            (ConvNdAttributes { groups: 0, ..good }, w.clone(), vec![1, 3, 3]),
            (ConvNdAttributes { groups: 2, ..good }, w.clone(), vec![1, 3, 3]),
            (good, w.clone(), vec![2, 3, 3]),
            (good, w.clone(), vec![1, 3, 4]),
            (good, w, vec![3, 3]),
            (good, tensor(&[3, 2, 1], &[1.0f32; 6]), vec![1, 3, 3]),
            (good, tensor(&[3, 4], &[1.0f32; 12]), vec![1, 3, 3]),
        ] {
            assert!(run(a, &x, w, &y).is_err(), "{a:?} {y:?}");
        }
        let empty = shape(DType::F32, &[0, 4, 2]);
        assert!(run(good, &empty, tensor(&[3, 2, 2], &[1.0f32; 12]), &[0, 3, 3]).is_ok());
    }
}
