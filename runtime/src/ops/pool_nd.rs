//! Pooling over one to three spatial axes: maximum with its position, average, norm.
//!
//! Windows are walked in row-major order. A maximum is that of the elements inside the input, the
//! first of equal ones, and a NaN wins; a window without any gives the type's lowest value and
//! position −1. Sums are in the order of the window.

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{Element, Op, PoolNdAttributes};
use crate::memory::{Context, Slot, typed, typed_mut};
use crate::ops::conv_nd::{MAX_SPATIAL, MAX_WINDOW, at_end, inside};
use crate::ops::shape::{expect_apart, expect_types};
use crate::ops::{Operator, Step, expect_same_shape, expect_type, no_scratch};

const MAX: u32 = 1;
const AVERAGE: u32 = 2;
const NORM: u32 = 3;

/// f32: every kind.
pub static POOL_ND_F32: Operator = Operator {
    op: Op::PoolNd,
    dtype: Some(DType::F32),
    check: |step| check(step, DType::F32).map(|_| ()),
    select: |_| run_f32,
    scratch_bytes: no_scratch,
};

/// i8: maximum of the stored numbers.
pub static POOL_ND_I8: Operator = Operator {
    op: Op::PoolNd,
    dtype: Some(DType::I8),
    check: |step| check(step, DType::I8).map(|_| ()),
    select: |_| run_max::<i8>,
    scratch_bytes: no_scratch,
};

/// u8: maximum of the stored numbers.
pub static POOL_ND_U8: Operator = Operator {
    op: Op::PoolNd,
    dtype: Some(DType::U8),
    check: |step| check(step, DType::U8).map(|_| ()),
    select: |_| run_max::<u8>,
    scratch_bytes: no_scratch,
};

/// Sizes of a step, with spatial axes of size 1 in front where there are fewer than three.
#[derive(Clone, Copy)]
struct Geometry {
    batch: usize,
    channels: usize,
    input: [usize; MAX_SPATIAL],
    output: [usize; MAX_SPATIAL],
    kernel: [usize; MAX_SPATIAL],
    stride: [i64; MAX_SPATIAL],
    dilation: [i64; MAX_SPATIAL],
    pad: [i64; MAX_SPATIAL],
    pad_after: [i64; MAX_SPATIAL],
}

fn check(step: &Step<'_>, dtype: DType) -> Result<Geometry, StepErrorKind> {
    if step.input_count() != 1 || !(1..=2).contains(&step.output_count()) {
        return Err(StepErrorKind::OperandCount);
    }
    expect_types(step, &[dtype], dtype)?;
    expect_apart(step)?;
    let attributes: PoolNdAttributes = step.expect_attributes()?;
    let kinds = if dtype == DType::F32 { MAX..=NORM } else { MAX..=MAX };
    if !kinds.contains(&attributes.kind) {
        return Err(StepErrorKind::Attribute("kind"));
    }
    if attributes.kind == NORM && !(attributes.p >= 1.0 && attributes.p.is_finite()) {
        return Err(StepErrorKind::Attribute("p"));
    }
    if let Some(positions) = step.optional_output(1) {
        if attributes.kind != MAX {
            return Err(StepErrorKind::OperandCount);
        }
        expect_type(&positions, DType::I64, 2)?;
        expect_same_shape(&positions, &step.output(0)?, 2)?;
    }
    geometry(step)
}

fn geometry(step: &Step<'_>) -> Result<Geometry, StepErrorKind> {
    let attributes: PoolNdAttributes = step.attributes();
    let (x, y) = (step.input(0)?, step.output(0)?);
    let rank = x.rank();
    if !(3..=MAX_SPATIAL + 2).contains(&rank) {
        return Err(StepErrorKind::OperandShape(0));
    }
    if y.rank() != rank || y.dim(0) != x.dim(0) || y.dim(rank - 1) != x.dim(rank - 1) {
        return Err(StepErrorKind::OperandShape(1));
    }
    let spatial = rank - 2;
    let window = 1..=MAX_WINDOW;
    for axis in 0..spatial {
        let sizes = [attributes.kernel[axis], attributes.stride[axis], attributes.dilation[axis]];
        if !sizes.iter().all(|size| window.contains(size)) {
            return Err(StepErrorKind::Attribute("kernel, stride or dilation"));
        }
        if attributes.pad[axis] > MAX_WINDOW || attributes.pad_after[axis] > MAX_WINDOW {
            return Err(StepErrorKind::Attribute("pad"));
        }
    }
    let dims = |slot: &Slot| {
        let mut sizes = [1; MAX_SPATIAL];
        for axis in 0..spatial {
            sizes[MAX_SPATIAL - spatial + axis] = slot.dim(axis + 1);
        }
        sizes
    };
    let given = |values: [u32; MAX_SPATIAL], fill| at_end(&values[..spatial], fill).map(i64::from);
    Ok(Geometry {
        batch: x.dim(0),
        channels: x.dim(rank - 1),
        input: dims(&x),
        output: dims(&y),
        kernel: given(attributes.kernel, 1).map(|size| size as usize),
        stride: given(attributes.stride, 1),
        dilation: given(attributes.dilation, 1),
        pad: given(attributes.pad, 0),
        pad_after: given(attributes.pad_after, 0),
    })
}

/// One place of the window.
struct Place {
    batch: usize,
    /// Where it starts in the input; negative in the padding.
    start: [i64; MAX_SPATIAL],
    /// The window's elements that lie inside the input: first and end.
    within: [(usize, usize); MAX_SPATIAL],
}

impl Geometry {
    /// Calls `body` for every place of the window, in the output's order.
    fn for_each_place(&self, mut body: impl FnMut(usize, &Place)) {
        let mut row = 0;
        for batch in 0..self.batch {
            for place in 0..self.output[0] * self.output[1] * self.output[2] {
                let at = [
                    place / self.output[2] / self.output[1],
                    place / self.output[2] % self.output[1],
                    place % self.output[2],
                ];
                let mut to = Place { batch, start: [0; 3], within: [(0, 0); 3] };
                for axis in 0..MAX_SPATIAL {
                    let start = at[axis] as i64 * self.stride[axis] - self.pad[axis];
                    let (kernel, dilation) = (self.kernel[axis], self.dilation[axis]);
                    to.start[axis] = start;
                    to.within[axis] = inside(self.input[axis], kernel, dilation, start);
                }
                body(row, &to);
                row += 1;
            }
        }
    }

    /// Calls `body` with the position of every element of a window: as an element of `x` where its
    /// channels start, and per axis.
    fn for_each_element(&self, place: &Place, mut body: impl FnMut(usize, [usize; MAX_SPATIAL])) {
        let at =
            |axis: usize, k: usize| (place.start[axis] + k as i64 * self.dilation[axis]) as usize;
        for k0 in place.within[0].0..place.within[0].1 {
            let p0 = at(0, k0);
            for k1 in place.within[1].0..place.within[1].1 {
                let p1 = at(1, k1);
                for k2 in place.within[2].0..place.within[2].1 {
                    let p2 = at(2, k2);
                    let row = (place.batch * self.input[0] + p0) * self.input[1] + p1;
                    body((row * self.input[2] + p2) * self.channels, [p0, p1, p2]);
                }
            }
        }
    }

    /// Elements that an average divides by.
    fn count(&self, place: &Place, with_padding: bool) -> usize {
        let mut count = 1usize;
        for axis in 0..MAX_SPATIAL {
            let (first, end) = match with_padding {
                false => place.within[axis],
                true => {
                    let size = self.input[axis] as i64 + self.pad[axis] + self.pad_after[axis];
                    let start = place.start[axis] + self.pad[axis];
                    inside(size as usize, self.kernel[axis], self.dilation[axis], start)
                }
            };
            count = count.saturating_mul(end - first);
        }
        count.max(1)
    }
}

/// What a maximum needs of an element type.
trait Ordered: Element + Copy {
    const LOWEST: Self;
    fn wins_over(self, other: Self) -> bool;
}

impl Ordered for f32 {
    const LOWEST: f32 = f32::NEG_INFINITY;
    fn wins_over(self, other: f32) -> bool {
        self > other || (self.is_nan() && !other.is_nan())
    }
}

macro_rules! ordered {
    ($($ty:ty),*) => {$(
        impl Ordered for $ty {
            const LOWEST: $ty = <$ty>::MIN;
            fn wins_over(self, other: $ty) -> bool {
                self > other
            }
        }
    )*};
}
ordered!(i8, u8);

fn run_max<T: Ordered>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let g = geometry(&context.step)?;
    let column_major = context.step.attributes::<PoolNdAttributes>().column_major == 1;
    if context.step.output(0)?.elements() == 0 {
        return Ok(());
    }
    let operands = context.operands_with_outputs::<1, 2>([0])?;
    let x: &[T] = typed(operands.inputs[0], 0)?;
    let [y, positions] = operands.outputs;
    let y: &mut [T] = typed_mut(y, 1)?;
    let positions: &mut [i64] = typed_mut(positions, 2)?;
    let volume = g.input[0].wrapping_mul(g.input[1]).wrapping_mul(g.input[2]);
    g.for_each_place(|row, place| {
        let range = row * g.channels..(row + 1) * g.channels;
        let y = &mut y[range.clone()];
        y.fill(T::LOWEST);
        let Some(positions) = positions.get_mut(range) else {
            g.for_each_element(place, |from, _| {
                for (y, x) in y.iter_mut().zip(&x[from..from + g.channels]) {
                    *y = if x.wins_over(*y) { *x } else { *y };
                }
            });
            return;
        };
        positions.fill(-1);
        g.for_each_element(place, |from, [p0, p1, p2]| {
            let at = match column_major {
                false => (p0 * g.input[1] + p1) * g.input[2] + p2,
                true => (p2 * g.input[1] + p1) * g.input[0] + p0,
            };
            for (channel, x) in x[from..from + g.channels].iter().enumerate() {
                if x.wins_over(y[channel]) || positions[channel] < 0 {
                    y[channel] = *x;
                    let plane = place.batch * g.channels + channel;
                    positions[channel] = (plane * volume + at) as i64;
                }
            }
        });
    });
    Ok(())
}

fn run_f32(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let attributes: PoolNdAttributes = context.step.attributes();
    if attributes.kind == MAX {
        return run_max::<f32>(context);
    }
    let g = geometry(&context.step)?;
    if context.step.output(0)?.elements() == 0 {
        return Ok(());
    }
    let operands = context.operands([0])?;
    let (x, y): (&[f32], &mut [f32]) =
        (typed(operands.inputs[0], 0)?, typed_mut(operands.output, 1)?);
    let p = attributes.p;
    g.for_each_place(|row, place| {
        let y = &mut y[row * g.channels..(row + 1) * g.channels];
        y.fill(0.0);
        g.for_each_element(place, |from, _| {
            for (y, x) in y.iter_mut().zip(&x[from..from + g.channels]) {
                *y += match (attributes.kind, p) {
                    (AVERAGE, _) => *x,
                    (_, 1.0) => x.abs(),
                    (_, 2.0) => x * x,
                    _ => libm::powf(x.abs(), p),
                };
            }
        });
        let count = g.count(place, attributes.count_include_pad == 1) as f32;
        for y in y {
            *y = match (attributes.kind, p) {
                (AVERAGE, _) => *y / count,
                (_, 1.0) => *y,
                (_, 2.0) => libm::sqrtf(*y),
                _ => libm::powf(*y, 1.0 / p),
            };
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Case, Random, assert_close, shape, tensor};

    fn attributes(kind: u32, kernel: [u32; 3], stride: u32, pad: u32) -> PoolNdAttributes {
        PoolNdAttributes {
            kind,
            kernel,
            stride: [stride; 3],
            dilation: [1; 3],
            pad: [pad; 3],
            pad_after: [pad; 3],
            p: 2.0,
            ..PoolNdAttributes::default()
        }
    }

    /// Every window by itself, over an input that is padded first.
    fn naive(a: &PoolNdAttributes, x: (&[u32], &[f32]), y: &[u32]) -> Vec<f32> {
        let [d, h, w, c] = [1, 2, 3, 4].map(|axis| x.0[axis] as i64);
        let mut out = vec![];
        for n in 0..i64::from(y[0]) {
            for place in 0..y[1] * y[2] * y[3] {
                let at = [place / y[3] / y[2], place / y[3] % y[2], place % y[3]];
                for channel in 0..c {
                    let (mut values, mut padded) = (vec![], 0);
                    for tap in 0..a.kernel.iter().product::<u32>() {
                        let k = [
                            tap / a.kernel[2] / a.kernel[1],
                            tap / a.kernel[2] % a.kernel[1],
                            tap % a.kernel[2],
                        ];
                        let p: Vec<i64> = (0..3)
                            .map(|i| {
                                i64::from(at[i] * a.stride[i] + k[i] * a.dilation[i])
                                    - i64::from(a.pad[i])
                            })
                            .collect();
                        let sizes = [d, h, w];
                        if (0..3).all(|i| (0..sizes[i]).contains(&p[i])) {
                            let flat = (((n * d + p[0]) * h + p[1]) * w + p[2]) * c + channel;
                            values.push(x.1[flat as usize]);
                        } else if (0..3).all(|i| p[i] < sizes[i] + i64::from(a.pad_after[i])) {
                            padded += 1;
                        }
                    }
                    let count = values.len() + if a.count_include_pad == 1 { padded } else { 0 };
                    out.push(match a.kind {
                        MAX => values.iter().copied().fold(f32::NEG_INFINITY, f32::max),
                        AVERAGE => values.iter().sum::<f32>() / count as f32,
                        _ => {
                            let sum: f64 =
                                values.iter().map(|v| f64::from(v.abs()).powf(a.p.into())).sum();
                            sum.powf(1.0 / f64::from(a.p)) as f32
                        }
                    });
                }
            }
        }
        out
    }

    #[test]
    fn equals_each_window_by_itself() {
        let mut random = Random(11);
        let x = [2u32, 4, 5, 3, 2];
        let values = random.f32s(240);
        for (a, y) in [
            (attributes(MAX, [2, 2, 2], 1, 0), [2, 3, 4, 2, 2]),
            (attributes(MAX, [3, 2, 1], 2, 0), [2, 1, 2, 2, 2]),
            (attributes(AVERAGE, [3, 3, 3], 2, 1), [2, 2, 3, 2, 2]),
            (
                PoolNdAttributes { count_include_pad: 1, ..attributes(AVERAGE, [3, 3, 3], 2, 1) },
                [2, 2, 3, 2, 2],
            ),
            // A last window that goes beyond the padding.
            (
                PoolNdAttributes { count_include_pad: 1, ..attributes(AVERAGE, [3, 3, 3], 2, 1) },
                [2, 3, 3, 2, 2],
            ),
            (
                PoolNdAttributes { dilation: [2, 3, 1], ..attributes(AVERAGE, [2, 2, 2], 1, 1) },
                [2, 4, 4, 4, 2],
            ),
            (attributes(NORM, [2, 2, 2], 1, 0), [2, 3, 4, 2, 2]),
            (PoolNdAttributes { p: 3.0, ..attributes(NORM, [2, 2, 2], 1, 1) }, [2, 5, 6, 4, 2]),
            (PoolNdAttributes { p: 1.0, ..attributes(NORM, [2, 1, 2], 1, 0) }, [2, 3, 5, 2, 2]),
        ] {
            let y_tensor = shape(DType::F32, &y);
            let case = Case::new(Op::PoolNd, Some(DType::F32), a, &[tensor(&x, &values)], y_tensor);
            let mut want = naive(&a, (&x, &values), &y);
            want.iter_mut().filter(|v| v.is_nan()).for_each(|v| *v = 0.0);
            assert_close(&case.run(), &want, 1e-5);
        }
    }

    #[test]
    fn integers_compare_as_stored() {
        let a = PoolNdAttributes { kernel: [2, 0, 0], ..attributes(MAX, [0; 3], 1, 0) };
        let x = tensor(&[1, 3, 2], &[200u8, 1, 3, 9, 255, 4]);
        let case = Case::new(Op::PoolNd, Some(DType::U8), a, &[x], shape(DType::U8, &[1, 2, 2]));
        assert_eq!(case.run::<u8>(), [200, 9, 255, 9]);
        let x = tensor(&[1, 3, 2], &[-100i8, 1, 3, -9, -128, 4]);
        let case = Case::new(Op::PoolNd, Some(DType::I8), a, &[x], shape(DType::I8, &[1, 2, 2]));
        assert_eq!(case.run::<i8>(), [3, 1, 3, 4]);
    }

    #[test]
    fn positions_are_those_of_channels_first() {
        // Two channels of 2 × 3, stored channels last: 5 7 1 / 7 2 9 and 0 -1 4 / 3 3 NaN.
        let x = [5.0, 0.0, 7.0, -1.0, 1.0, 4.0, 7.0, 3.0, 2.0, 3.0, 9.0, f32::NAN];
        for (column_major, want) in [(0, [1i64, 9, 5, 11]), (1, [2, 7, 5, 11])] {
            let a = PoolNdAttributes {
                kernel: [2, 2, 0],
                column_major,
                ..attributes(MAX, [0; 3], 1, 0)
            };
            let y = shape(DType::F32, &[1, 1, 2, 2]);
            let mut case =
                Case::new(Op::PoolNd, Some(DType::F32), a, &[tensor(&[1, 2, 3, 2], &x)], y);
            case.more_outputs = vec![Some(shape(DType::I64, &[1, 1, 2, 2]))];
            let outputs = case.run_outputs(None).expect("accepted");
            let positions: Vec<i64> = outputs[1]
                .chunks_exact(8)
                .map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap()))
                .collect();
            assert_eq!(positions, want);
        }
    }

    #[test]
    fn hostile_steps_are_refused() {
        let good = PoolNdAttributes { kernel: [2, 0, 0], ..attributes(MAX, [0; 3], 1, 0) };
        let x = tensor(&[1, 3, 2], &[1.0f32; 6]);
        let run = |a: PoolNdAttributes, dtype: DType, y: &[u32]| {
            let x = if dtype == DType::F32 { x.clone() } else { tensor(&[1, 3, 2], &[1i8; 6]) };
            Case::new(Op::PoolNd, Some(dtype), a, &[x], shape(dtype, y)).run_bytes()
        };
        assert!(run(good, DType::F32, &[1, 2, 2]).is_ok());
        assert!(run(good, DType::F32, &[1, 0, 2]).is_ok());
        for (a, dtype, y) in [
            (PoolNdAttributes { kind: 4, ..good }, DType::F32, vec![1, 2, 2]),
            (PoolNdAttributes { kind: AVERAGE, ..good }, DType::I8, vec![1, 2, 2]),
            (PoolNdAttributes { kind: NORM, p: 0.0, ..good }, DType::F32, vec![1, 2, 2]),
            (PoolNdAttributes { kind: NORM, p: f32::NAN, ..good }, DType::F32, vec![1, 2, 2]),
            (PoolNdAttributes { kernel: [0; 3], ..good }, DType::F32, vec![1, 2, 2]),
            (PoolNdAttributes { stride: [0; 3], ..good }, DType::F32, vec![1, 2, 2]),
            (PoolNdAttributes { dilation: [u32::MAX; 3], ..good }, DType::F32, vec![1, 2, 2]),
            (PoolNdAttributes { pad: [u32::MAX; 3], ..good }, DType::F32, vec![1, 2, 2]),
            (good, DType::F32, vec![1, 2, 3]),
            (good, DType::F32, vec![2, 2, 2]),
            (good, DType::F32, vec![1, 4]),
        ] {
            assert!(run(a, dtype, &y).is_err(), "{a:?} {y:?}");
        }
    }
}
