//! Interpolation to another size along any axes, as ONNX Resize (opset 19): nearest, linear, cubic.
//!
//! Along each axis an output index becomes a coordinate in the input, and that a few taps, an
//! input index and a weight each; indices outside repeat the edge. Weights of several axes
//! multiply. All of it is f32 with one IEEE rounding per operation, taps in row-major order, so
//! quantized results are the same everywhere:
//!
//! ```text
//! y = clamp(round_ties_even(sum of weight * (q - zero_point) as f32)) + zero_point
//! ```

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{Element, MAX_RANK, Op, ResizeAttributes};
use crate::isa::Isa;
use crate::kernels::requantize::{Quantized, round_clamp};
use crate::memory::{Context, Slot, typed, typed_mut};
#[cfg(feature = "std")]
use crate::ops::parallel::{Rates, Work};
use crate::ops::shape::{expect_apart, expect_types, product, strides};
use crate::ops::{Operator, Step};
#[cfg(feature = "std")]
use crate::threads::Disjoint;

/// f32.
pub static RESIZE_F32: Operator = Operator {
    op: Op::Resize,
    dtype: Some(DType::F32),
    check: |step| check(step, DType::F32),
    select: |_| run_f32,
    scratch_bytes,
};

/// i8; input and output have the same scale and zero point.
pub static RESIZE_I8: Operator = Operator {
    op: Op::Resize,
    dtype: Some(DType::I8),
    check: |step| check(step, DType::I8),
    select: |_| run_quantized::<i8>,
    scratch_bytes,
};

/// i16; input and output have the same scale.
pub static RESIZE_I16: Operator = Operator {
    op: Op::Resize,
    dtype: Some(DType::I16),
    check: |step| check(step, DType::I16),
    select: |_| run_quantized::<i16>,
    scratch_bytes,
};

pub(crate) const NEAREST: u32 = 1;
const LINEAR: u32 = 2;
const CUBIC: u32 = 3;

/// Axes along which values are blended at most: volumes.
const MAX_BLENDED: u32 = 3;
/// Taps of a cubic interpolation along one axis.
const CUBIC_TAPS: usize = 4;
/// Taps over all axes.
const MAX_TAPS: usize = CUBIC_TAPS.pow(MAX_BLENDED);
/// An input index and the bits of a weight.
const TAP_WORDS: usize = 2;
/// Elements of a block blended at a time.
const BLOCK: usize = 64;

fn taps_per_axis(mode: u32) -> usize {
    match mode {
        NEAREST => 1,
        LINEAR => 2,
        _ => CUBIC_TAPS,
    }
}

fn check(step: &Step<'_>, dtype: DType) -> Result<(), StepErrorKind> {
    step.expect_counts(1, 1)?;
    expect_types(step, &[dtype], dtype)?;
    expect_apart(step)?;
    let attributes: ResizeAttributes = step.expect_attributes()?;
    let (x, y) = (step.input(0)?, step.output(0)?);
    if !(NEAREST..=CUBIC).contains(&attributes.mode) {
        return Err(StepErrorKind::Attribute("mode"));
    }
    if !(1..=4).contains(&attributes.coordinates) {
        return Err(StepErrorKind::Attribute("coordinates"));
    }
    if attributes.mode == NEAREST && !(1..=4).contains(&attributes.rounding) {
        return Err(StepErrorKind::Attribute("rounding"));
    }
    if x.rank() != y.rank() || (x.elements() == 0 && y.elements() != 0) {
        return Err(StepErrorKind::OperandShape(1));
    }
    if dtype != DType::F32 && (x.scale != y.scale || x.zero_point != y.zero_point) {
        return Err(StepErrorKind::Attribute("scale"));
    }
    let mut resized = 0;
    for axis in 0..x.rank() {
        let scale = attributes.scales[axis];
        if !(scale.is_finite() && scale > 0.0) {
            return Err(StepErrorKind::Attribute("scales"));
        }
        resized += u32::from(is_resized(&attributes, &x, &y, axis));
    }
    if attributes.mode != NEAREST && resized > MAX_BLENDED {
        return Err(StepErrorKind::Attribute("scales"));
    }
    Ok(())
}

pub(crate) fn is_resized(attributes: &ResizeAttributes, x: &Slot, y: &Slot, axis: usize) -> bool {
    x.dim(axis) != y.dim(axis) || attributes.scales[axis] != 1.0
}

/// The taps of every axis: at most so many for each element of the output.
fn scratch_bytes(step: &Step<'_>, _: Isa) -> usize {
    let taps = taps_per_axis(step.attributes::<ResizeAttributes>().mode);
    step.output(0).map_or(0, |y| {
        if y.elements() == 0 {
            // Beside a size of 0, the others can be anything.
            return 0;
        }
        let indices = y.dims().iter().fold(0usize, |sum, dim| sum.saturating_add(*dim as usize));
        indices.saturating_mul(taps * TAP_WORDS * size_of::<u32>())
    })
}

/// The coordinate in the input that an output index stands for.
fn coordinate(
    attributes: &ResizeAttributes,
    axis: usize,
    index: usize,
    size: usize,
    out_size: usize,
) -> f32 {
    let (scale, position) = (attributes.scales[axis], index as f32);
    match attributes.coordinates {
        2 if out_size <= 1 => 0.0,
        1 | 2 => (position + 0.5) / scale - 0.5,
        3 if out_size <= 1 => 0.0,
        3 => position * (size as f32 - 1.0) / (out_size as f32 - 1.0),
        _ => position / scale,
    }
}

/// The taps of one output index along one axis of the input, `size` long: `[index, weight bits]`.
fn fill_taps(attributes: &ResizeAttributes, at: f32, size: usize, taps: &mut [u32]) {
    let last = size as i64 - 1;
    let inside = |index: i64| index.clamp(0, last) as u32;
    let mut set = |tap: usize, index: i64, weight: f32| {
        taps[tap * TAP_WORDS] = inside(index);
        taps[tap * TAP_WORDS + 1] = weight.to_bits();
    };
    match attributes.mode {
        NEAREST => {
            let index = match attributes.rounding {
                1 => libm::ceilf(at - 0.5),
                2 => libm::floorf(at + 0.5),
                3 => libm::floorf(at),
                _ => libm::ceilf(at),
            };
            set(0, index as i64, 1.0);
        }
        LINEAR => {
            let at = if at > 0.0 { at } else { 0.0 };
            let at = if at < last as f32 { at } else { last as f32 };
            let low = libm::floorf(at);
            set(0, low as i64, 1.0 - (at - low));
            set(1, low as i64 + 1, at - low);
        }
        _ => {
            let low = libm::floorf(at);
            let first = (low as i64).saturating_sub(1);
            let mut weights = cubic_weights(at - low, attributes.cubic_coefficient);
            let index = |tap: usize| first.saturating_add(tap as i64);
            if attributes.exclude_outside == 1 {
                for (tap, weight) in weights.iter_mut().enumerate() {
                    if !(0..=last).contains(&index(tap)) {
                        *weight = 0.0;
                    }
                }
                let sum = weights.iter().fold(0.0, |sum, weight| sum + weight);
                weights = weights.map(|weight| weight / sum);
            }
            for (tap, weight) in weights.into_iter().enumerate() {
                set(tap, index(tap), weight);
            }
        }
    }
}

/// Weights of the two neighbours on either side, at fraction `s` between the inner two.
/// Keys, "Cubic convolution interpolation for digital image processing", 1981.
fn cubic_weights(s: f32, a: f32) -> [f32; CUBIC_TAPS] {
    let near = |d: f32| ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0;
    let far = |d: f32| ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a;
    [far(s + 1.0), near(s), near(1.0 - s), far(2.0 - s)]
}

/// The blocks of the output, the axes behind the last resized one, and what each is made of.
struct Blocks<'t> {
    y: Slot,
    /// Axes up to the last resized one, and where each resized one's taps start.
    axes: usize,
    starts: [Option<usize>; MAX_RANK],
    per_axis: usize,
    table: &'t [u32],
    x_strides: [usize; MAX_RANK],
    /// Elements of a block.
    len: usize,
}

impl<'t> Blocks<'t> {
    /// Of an output that has elements.
    fn new(step: &Step<'_>, scratch: &'t mut [u8]) -> Result<Blocks<'t>, StepErrorKind> {
        let attributes: ResizeAttributes = step.attributes();
        let (x, y) = (step.input(0)?, step.output(0)?);
        let per_axis = taps_per_axis(attributes.mode);
        let words = per_axis * TAP_WORDS;
        let used =
            scratch.get_mut(..scratch_bytes(step, Isa::Scalar)).ok_or(StepErrorKind::TooLarge)?;
        let table: &mut [u32] = typed_mut(used, 2)?;
        let axes = resized_axes(&attributes, &x, &y);
        let mut starts = [None; MAX_RANK];
        let mut next = 0;
        for axis in 0..axes {
            if !is_resized(&attributes, &x, &y, axis) {
                continue;
            }
            starts[axis] = Some(next);
            for index in 0..y.dim(axis) {
                let at = coordinate(&attributes, axis, index, x.dim(axis), y.dim(axis));
                fill_taps(&attributes, at, x.dim(axis), &mut table[next..next + words]);
                next += words;
            }
        }
        let len = product(&y.dims()[axes..]);
        Ok(Blocks { y, axes, starts, per_axis, table, x_strides: strides(&x), len })
    }

    /// Calls `blend(block, taps)` for blocks of the output from number `first` on, as many as `y` has; taps are positions in the input and
    /// weights.
    fn for_each<T>(
        &self,
        first: usize,
        y: &mut [T],
        mut blend: impl FnMut(&mut [T], &[(usize, f32)]),
    ) {
        let words = self.per_axis * TAP_WORDS;
        let mut index = [0; MAX_RANK];
        let mut rest = first;
        for axis in (0..self.axes).rev() {
            (index[axis], rest) = (rest % self.y.dim(axis), rest / self.y.dim(axis));
        }
        let mut taps = [(0usize, 1.0f32); MAX_TAPS];
        for y in y.chunks_exact_mut(self.len) {
            taps[0] = (0, 1.0);
            let mut count = 1;
            for axis in 0..self.axes {
                let Some(start) = self.starts[axis] else {
                    for tap in &mut taps[..count] {
                        tap.0 += index[axis] * self.x_strides[axis];
                    }
                    continue;
                };
                let own = &self.table[start + index[axis] * words..][..words];
                // Each tap becomes several, the last ones first: none is overwritten before it was read.
                for at in (0..count).rev() {
                    let (from, weight) = taps[at];
                    for (tap, own) in own.chunks_exact(TAP_WORDS).enumerate().rev() {
                        taps[at * self.per_axis + tap] = (
                            from + own[0] as usize * self.x_strides[axis],
                            weight * f32::from_bits(own[1]),
                        );
                    }
                }
                count *= self.per_axis;
            }
            blend(y, &taps[..count]);
            for axis in (0..self.axes).rev() {
                index[axis] += 1;
                if index[axis] < self.y.dim(axis) {
                    break;
                }
                index[axis] = 0;
            }
        }
    }
}

/// Axes up to the last resized one.
fn resized_axes(attributes: &ResizeAttributes, x: &Slot, y: &Slot) -> usize {
    (0..x.rank()).rev().find(|axis| is_resized(attributes, x, y, *axis)).map_or(0, |axis| axis + 1)
}

/// What there is to share.
#[cfg(feature = "std")]
pub(super) fn work(step: &Step<'_>, isa: Isa) -> Option<Work> {
    let (x, y) = (step.input(0).ok()?, step.output(0).ok()?);
    let axes = resized_axes(&step.attributes(), &x, &y);
    let ns = y.elements() as f32 / Rates::ELEMENTS.of(isa);
    Some(Work { units: product(&y.dims()[..axes]), ns, is_by_rows: false })
}

/// Calls `blend(x, block of y, taps)` for every block of the output.
fn run_blocks<T: Element>(
    context: &mut Context<'_>,
    blend: impl Fn(&[T], &mut [T], &[(usize, f32)]) + Sync,
) -> Result<(), StepErrorKind> {
    let step = context.step;
    if step.output(0)?.elements() == 0 {
        return Ok(());
    }
    #[cfg(feature = "std")]
    let crew = context.take_crew();
    let operands = context.operands([0])?;
    let x: &[T] = typed(operands.inputs[0], 0)?;
    let y: &mut [T] = typed_mut(operands.output, 1)?;
    let blocks = Blocks::new(&step, operands.scratch)?;
    #[cfg(feature = "std")]
    if let Some(mut crew) = crew {
        let cut = crew.cut(y.len() / blocks.len);
        let y = Disjoint::new(y, cut, blocks.len);
        return crew.run(cut.parts, |part, _| {
            let y = y.take(part).ok_or(StepErrorKind::TooLarge)?;
            blocks.for_each(cut.range(part).start, y, |y, taps| blend(x, y, taps));
            Ok(())
        });
    }
    blocks.for_each(0, y, |y, taps| blend(x, y, taps));
    Ok(())
}

fn run_f32(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    run_blocks(context, |x: &[f32], y, taps| {
        let len = y.len();
        if let [(from, _)] = *taps {
            y.copy_from_slice(&x[from..from + len]);
            return;
        }
        // A weight of 0 leaves an infinity beside it out.
        if let [a, b, c, d] = *taps
            && taps.iter().all(|tap| tap.1 != 0.0)
        {
            // Linear along two axes, the common case: y is written once.
            let rows = [a, b, c, d].map(|(from, _)| &x[from..from + len]);
            for (i, y) in y.iter_mut().enumerate() {
                *y = a.1 * rows[0][i] + b.1 * rows[1][i] + c.1 * rows[2][i] + d.1 * rows[3][i];
            }
            return;
        }
        y.fill(0.0);
        for (from, weight) in taps.iter().filter(|tap| tap.1 != 0.0) {
            for (y, x) in y.iter_mut().zip(&x[*from..from + len]) {
                *y += weight * x;
            }
        }
    })
}

fn run_quantized<T: Quantized>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let zero_point = context.step.input(0)?.zero_point;
    let (low, high) = (T::LOWEST - zero_point, T::HIGHEST - zero_point);
    run_blocks(context, |x: &[T], y, taps| {
        if let [(from, _)] = *taps {
            let len = y.len();
            y.copy_from_slice(&x[from..from + len]);
            return;
        }
        for (number, y) in y.chunks_mut(BLOCK).enumerate() {
            let mut sums = [0f32; BLOCK];
            for (from, weight) in taps {
                let x = &x[from + number * BLOCK..][..y.len()];
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum += weight * (x.widen() - zero_point) as f32;
                }
            }
            for (y, sum) in y.iter_mut().zip(sums) {
                *y = T::narrow(round_clamp(sum, low, high) + zero_point);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Case, Typed, assert_close, shape, tensor};

    const X: [f32; 12] = [1.0, 5.0, -2.0, 7.0, 0.0, 3.0, 9.0, -4.0, 6.0, 2.0, 8.0, -1.0];
    /// A few roundings of values up to 10 with weights up to 1.3.
    const TOLERANCE: f32 = 1e-5;

    /// Mode, coordinates, rounding, cubic coefficient, exclude outside, result.
    type Row = (u32, u32, u32, f32, u32, &'static [f32]);

    /// `X` as 3 × 4 with scales 0.7 and 1.6, to 2 × 6, by ONNX Runtime 1.31 (opset 19).
    #[rustfmt::skip]
    const TABLE: &[Row] = &[
        (1, 1, 1, 0.0, 0, &[1.0, 1.0, 5.0, -2.0, -2.0, 7.0, 6.0, 6.0, 2.0, 8.0, 8.0, -1.0]),
        (1, 1, 2, 0.0, 0, &[1.0, 1.0, 5.0, -2.0, -2.0, 7.0, 6.0, 6.0, 2.0, 8.0, 8.0, -1.0]),
        (1, 1, 3, 0.0, 0, &[1.0, 1.0, 5.0, 5.0, -2.0, -2.0, 0.0, 0.0, 3.0, 3.0, 9.0, 9.0]),
        (1, 1, 4, 0.0, 0, &[0.0, 3.0, 9.0, 9.0, -4.0, -4.0, 6.0, 2.0, 8.0, 8.0, -1.0, -1.0]),
        (1, 2, 1, 0.0, 0, &[1.0, 1.0, 5.0, -2.0, -2.0, 7.0, 6.0, 6.0, 2.0, 8.0, 8.0, -1.0]),
        (1, 3, 1, 0.0, 0, &[1.0, 5.0, 5.0, -2.0, -2.0, 7.0, 6.0, 2.0, 2.0, 8.0, 8.0, -1.0]),
        (1, 4, 1, 0.0, 0, &[1.0, 5.0, 5.0, -2.0, -2.0, 7.0, 0.0, 3.0, 3.0, 9.0, 9.0, -4.0]),
        (1, 4, 2, 0.0, 0, &[1.0, 5.0, 5.0, -2.0, 7.0, 7.0, 0.0, 3.0, 3.0, 9.0, -4.0, -4.0]),
        (1, 4, 3, 0.0, 0, &[1.0, 1.0, 5.0, 5.0, -2.0, 7.0, 0.0, 0.0, 3.0, 3.0, 9.0, -4.0]),
        (1, 4, 4, 0.0, 0, &[1.0, 5.0, -2.0, -2.0, 7.0, 7.0, 6.0, 2.0, 8.0, 8.0, -1.0, -1.0]),
        (2, 1, 0, 0.0, 0, &[0.78571427, 2.4419641, 4.308036, 1.6741073, 1.6964285, 4.375, 3.8571424, 3.2008927, 2.7321432, 6.482143, 5.098214, -1.419643]),
        (2, 2, 0, 0.0, 0, &[0.78571427, 2.4419641, 4.308036, 1.6741073, 1.6964285, 4.375, 3.8571424, 3.2008927, 2.7321432, 6.482143, 5.098214, -1.419643]),
        (2, 3, 0, 0.0, 0, &[1.0, 3.4, 3.5999997, -0.59999967, 1.6000009, 7.0, 6.0, 3.6, 3.2000003, 6.7999997, 4.3999996, -1.0]),
        (2, 4, 0, 0.0, 0, &[1.0, 3.5, 3.25, -1.125, 2.5, 7.0, 2.5714288, 2.5714288, 4.0714283, 7.8214283, 2.9285712, -2.7142859]),
        (3, 1, 0, -0.75, 0, &[0.27614918, 2.7318485, 4.5735154, 1.123099, 0.9941542, 4.579988, 4.0496597, 2.6245008, 2.518681, 8.242807, 6.3452086, -2.097954]),
        (3, 1, 0, -0.75, 1, &[0.23529592, 2.583978, 4.5932627, 0.95411396, 1.0894462, 4.7668557, 4.3157144, 2.8694475, 2.4827359, 8.123074, 5.890177, -1.965552]),
        (3, 2, 0, -0.75, 0, &[0.27614918, 2.7318485, 4.5735154, 1.123099, 0.9941542, 4.579988, 4.0496597, 2.6245008, 2.518681, 8.242807, 6.3452086, -2.097954]),
        (3, 2, 0, -0.75, 1, &[0.23529592, 2.583978, 4.5932627, 0.95411396, 1.0894462, 4.7668557, 4.3157144, 2.8694475, 2.4827359, 8.123074, 5.890177, -1.965552]),
        (3, 3, 0, -0.75, 0, &[1.0, 4.204, 3.9360018, -1.5359988, 0.7359998, 7.0, 6.0, 2.903998, 2.8880007, 7.712002, 5.1559987, -1.0]),
        (3, 3, 0, -0.75, 1, &[1.0, 3.988806, 3.9359999, -1.5359981, 1.1567166, 7.0, 6.0, 3.11194, 2.8879995, 7.711998, 4.7425365, -1.0]),
        (3, 4, 0, -0.75, 0, &[1.0, 4.3276367, 3.5195312, -1.8735352, 1.84375, 7.645996, 2.4139943, 1.5769411, 4.513325, 9.943027, 3.610241, -4.873349]),
        (3, 4, 0, -0.75, 1, &[1.0, 4.1218505, 3.5195312, -1.8735352, 2.2857144, 7.721374, 2.6756756, 1.7274024, 4.421421, 9.799633, 3.0152125, -4.7491627]),
    ];

    fn case<T: Typed>(attributes: ResizeAttributes, dims: &[u32], x: &[T], y: &[u32]) -> Case {
        let zero_point = if T::DTYPE == DType::I8 { -20 } else { 0 };
        let y = shape(T::DTYPE, y).quantized(0.5, zero_point);
        let x = tensor(dims, x).quantized(0.5, zero_point);
        Case::new(Op::Resize, Some(T::DTYPE), attributes, &[x], y)
    }

    fn attributes(row: &Row, scales: &[f32]) -> ResizeAttributes {
        let mut all = [1.0; MAX_RANK];
        all[..scales.len()].copy_from_slice(scales);
        let (mode, coordinates, rounding, cubic_coefficient, exclude_outside, _) = *row;
        ResizeAttributes {
            mode,
            coordinates,
            rounding,
            cubic_coefficient,
            exclude_outside,
            scales: all,
            reserved: 0,
        }
    }

    #[test]
    fn agrees_with_onnx_runtime_in_any_layout() {
        for row in TABLE {
            println!("{row:?}");
            let channels_first = attributes(row, &[1.0, 1.0, 0.7, 1.6]);
            let got = case(channels_first, &[1, 1, 3, 4], &X, &[1, 1, 2, 6]).run::<f32>();
            assert_close(&got, row.5, TOLERANCE);
            // Two channels behind, the second one tenfold.
            let channels_last = attributes(row, &[1.0, 0.7, 1.6]);
            let both: Vec<f32> = X.iter().flat_map(|x| [*x, x * 10.0]).collect();
            let got = case(channels_last, &[1, 3, 4, 2], &both, &[1, 2, 6, 2]).run::<f32>();
            let want: Vec<f32> = row.5.iter().flat_map(|y| [*y, y * 10.0]).collect();
            assert_close(&got, &want, TOLERANCE);
        }
    }

    #[test]
    fn quantized_rounds_the_real_result() {
        for row in TABLE {
            let channels_last = attributes(row, &[1.0, 0.7, 1.6]);
            let q = X.map(|x| (x * 10.0) as i8 - 20);
            let got = case(channels_last, &[1, 3, 4, 1], &q, &[1, 2, 6, 1]).run::<i8>();
            for (got, want) in got.iter().zip(row.5) {
                let want = (want * 10.0 - 20.0).clamp(-128.0, 127.0);
                assert!((f32::from(*got) - want).abs() < 0.5001, "{row:?}: {got} {want}");
            }
        }
    }

    #[test]
    fn one_element_and_identity() {
        let linear = (LINEAR, 3, 0, 0.0, 0, &[][..]);
        assert_eq!(case(attributes(&linear, &[1.0]), &[3], &X[..3], &[3]).run::<f32>(), X[..3]);
        assert_eq!(case(attributes(&linear, &[4.0]), &[1], &X[..1], &[4]).run::<f32>(), [1.0; 4]);
        assert_eq!(case(attributes(&linear, &[0.5]), &[3], &X[..3], &[1]).run::<f32>(), [1.0]);
        assert_eq!(case(attributes(&linear, &[0.5]), &[3], &X[..3], &[0]).run::<f32>(), []);
        assert_eq!(case(attributes(&linear, &[]), &[], &X[..1], &[]).run::<f32>(), [1.0]);
    }

    #[test]
    fn hostile_attributes_are_refused_or_run() {
        let good = attributes(&(LINEAR, 1, 1, -0.75, 0, &[]), &[2.0]);
        let scales = |scale: f32| ResizeAttributes { scales: [scale; MAX_RANK], ..good };
        let refused = [
            ResizeAttributes { mode: 0, ..good },
            ResizeAttributes { mode: 4, ..good },
            ResizeAttributes { coordinates: 0, ..good },
            ResizeAttributes { coordinates: 5, ..good },
            ResizeAttributes { mode: NEAREST, rounding: 0, ..good },
            scales(0.0),
            scales(-1.0),
            scales(f32::NAN),
            scales(f32::INFINITY),
        ];
        for attributes in refused {
            assert!(case(attributes, &[2], &X[..2], &[4]).run_bytes().is_err(), "{attributes:?}");
        }
        assert!(case(good, &[0], &X[..0], &[4]).run_bytes().is_err());
        assert!(case(good, &[2], &X[..2], &[4, 1]).run_bytes().is_err());
        assert!(case(scales(2.0), &[1; 4], &X[..1], &[2; 4]).run_bytes().is_err());
        for mode in [NEAREST, LINEAR, CUBIC] {
            for coordinates in 1..=4 {
                for scale in [f32::MIN_POSITIVE / 4.0, f32::MAX, 1.0] {
                    for cubic_coefficient in [f32::NAN, f32::MAX] {
                        let attributes = ResizeAttributes {
                            mode,
                            coordinates,
                            cubic_coefficient,
                            exclude_outside: 1,
                            ..scales(scale)
                        };
                        case(attributes, &[2, 3], &X[..6], &[3, 2]).run_bytes().unwrap();
                        case(attributes, &[2, 3], &[1i8; 6], &[3, 2]).run_bytes().unwrap();
                    }
                }
            }
        }
    }
}
