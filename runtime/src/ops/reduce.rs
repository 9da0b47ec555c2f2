//! Reductions over any set of axes: sum, mean, extremes, norms; and the index of an extreme.
//!
//! The input is read once, in memory order, into one accumulator per output element. Integers wrap;
//! the mean of integers rounds toward zero. Quantized i8 and i16 have max and min of the stored numbers,
//! rescaled, and
//!
//! ```text
//! mean:  acc = sum of (q - input_zero_point)                                        (i32)
//!        y = clamp(round_ties_even(acc as f32 * (scale / count as f32)), min - zero_point, max - zero_point)
//!                + zero_point
//!        with a second operand, i8: y = clamp(fixed_point(acc, multiplier, shift), …) + zero_point
//! max:   y = clamp(round_ties_even((max - input_zero_point) as f32 * scale), …) + zero_point
//! ```
//!
//! A mean over axes side by side, with channels behind them, is an average pooling with one window, and its kernels compute it.

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{ArgReduceAttributes, Element, MAX_RANK, Op, ReduceAttributes, ReduceOp};
use crate::isa::Isa;
use crate::kernels::ConvGeometry;
use crate::kernels::pool::{self, PoolGeometry, PoolI8};
use crate::kernels::requantize::{Quantized, fixed_point, round_clamp};
use crate::memory::{Context, Slot, typed, typed_mut};
use crate::ops::shape::{Walk, expect_apart, expect_types, split};
use crate::ops::{Operator, RunFn, Step, expect_clamp_of, expect_vector, no_scratch, select_isa};

type Check = fn(&Step<'_>) -> Result<(), StepErrorKind>;

const fn reduce(
    dtype: DType,
    check: Check,
    run: fn(Isa) -> RunFn,
    scratch: fn(&Step<'_>, Isa) -> usize,
) -> Operator {
    Operator { op: Op::Reduce, dtype: Some(dtype), check, select: run, scratch_bytes: scratch }
}

/// f32, every kind.
pub static REDUCE_F32: Operator =
    reduce(DType::F32, |s| check(s, DType::F32, ReduceOp::ALL), select_isa!(run_f32), scratch_f32);
/// i32: sum, mean, max, min, prod, l1, l2, sum of squares.
pub static REDUCE_I32: Operator =
    reduce(DType::I32, |s| check(s, DType::I32, &INTEGER), |_| run_i32, no_scratch);
/// i64: as i32.
pub static REDUCE_I64: Operator =
    reduce(DType::I64, |s| check(s, DType::I64, &INTEGER), |_| run_i64, no_scratch);
/// Quantized i8: mean, max, min.
pub static REDUCE_I8: Operator = reduce(
    DType::I8,
    |s| check_quantized::<i8>(s, DType::I8),
    select_isa!(run_i8),
    scratch_quantized,
);
/// Quantized i16: as i8.
pub static REDUCE_I16: Operator = reduce(
    DType::I16,
    |s| check_quantized::<i16>(s, DType::I16),
    |_| run_quantized::<i16>,
    scratch_quantized,
);

use ReduceOp::{L1, L2, LogSum, LogSumExp, Max, Mean, Min, Prod, Sum, SumSquare};

const INTEGER: [ReduceOp; 8] = [Sum, Mean, Max, Min, Prod, L1, L2, SumSquare];
const QUANTIZED: [ReduceOp; 3] = [Mean, Max, Min];

fn check(step: &Step<'_>, dtype: DType, kinds: &[ReduceOp]) -> Result<(), StepErrorKind> {
    step.expect_counts(1, 1 + usize::from(dtype == DType::I8))?;
    expect_types(step, &[dtype], dtype)?;
    expect_apart(step)?;
    let attributes: ReduceAttributes = step.expect_attributes()?;
    let kind = ReduceOp::from_number(attributes.kind);
    if !kind.is_some_and(|kind| kinds.contains(&kind)) {
        return Err(StepErrorKind::Attribute("kind"));
    }
    let (x, y) = (step.input(0)?, step.output(0)?);
    expect_reduced(&x, &y, attributes.axes)?;
    if x.elements() == 0 && y.elements() != 0 {
        return Err(StepErrorKind::OperandShape(0));
    }
    Ok(())
}

/// Checks that the output has the input's axes without the reduced ones, or with 1 in their place.
fn expect_reduced(x: &Slot, y: &Slot, axes: u32) -> Result<(), StepErrorKind> {
    if axes.checked_shr(x.rank() as u32).unwrap_or(0) != 0 {
        return Err(StepErrorKind::Attribute("axes"));
    }
    let is_reduced = |axis: usize| axes >> axis & 1 == 1;
    let kept_as_1 = x.rank() == y.rank()
        && (0..x.rank()).all(|axis| y.dim(axis) == if is_reduced(axis) { 1 } else { x.dim(axis) });
    let dropped = (0..x.rank())
        .filter(|axis| !is_reduced(*axis))
        .map(|axis| x.dims()[axis])
        .eq(y.dims().iter().copied());
    if kept_as_1 || dropped { Ok(()) } else { Err(StepErrorKind::OperandShape(1)) }
}

fn check_quantized<T: Quantized>(step: &Step<'_>, dtype: DType) -> Result<(), StepErrorKind> {
    check(step, dtype, &QUANTIZED)?;
    let attributes: ReduceAttributes = step.attributes();
    expect_clamp_of::<T>(attributes.clamp_q)?;
    if step.input_count() > 1 {
        expect_vector(&step.input(1)?, DType::I32, 2, 1)?;
    }
    let (x, y) = (step.input(0)?, step.output(0)?);
    let step_size = u64::from(x.zero_point.unsigned_abs() + T::LOWEST.unsigned_abs());
    let count = count(&x, &y) as u64;
    if attributes.kind == Mean as u32
        && count.checked_mul(step_size).is_none_or(|sum| sum > i32::MAX as u64)
    {
        return Err(StepErrorKind::TooLarge);
    }
    Ok(())
}

/// Elements reduced to each output.
fn count(x: &Slot, y: &Slot) -> usize {
    x.elements() / y.elements().max(1)
}

/// A loop over the input in memory order with the position in the output.
fn walk(step: &Step<'_>) -> Result<Walk<1>, StepErrorKind> {
    let (x, axes) = (step.input(0)?, step.attributes::<ReduceAttributes>().axes);
    let mut strides = [0; MAX_RANK];
    let mut stride = 1usize;
    for axis in (0..x.rank()).rev() {
        if axes >> axis & 1 == 0 {
            strides[axis] = stride;
            stride = stride.wrapping_mul(x.dim(axis));
        }
    }
    Ok(Walk::new(x.dims(), &[strides]))
}

/// Sums that a row is folded into side by side, so that the compiler can vectorise it.
const LANES: usize = 8;

/// `acc[o] = fold(acc[o], x)` for every x that belongs to output `o`. `join` combines two results of
/// `fold`, both of which started from `identity`.
#[inline(always)]
fn accumulate<T: Element, A: Copy>(
    walk: &Walk<1>,
    x: &[T],
    acc: &mut [A],
    identity: A,
    fold: impl Fn(A, T) -> A,
    join: impl Fn(A, A) -> A,
) {
    acc.fill(identity);
    let (extent, [stride]) = walk.inner();
    let mut row = 0;
    walk.for_each_row([0], |[at]| {
        let xs = &x[row..row + extent];
        if stride == 0 {
            let mut lanes = [identity; LANES];
            let mut chunks = xs.chunks_exact(LANES);
            for chunk in &mut chunks {
                for (lane, x) in lanes.iter_mut().zip(chunk) {
                    *lane = fold(*lane, *x);
                }
            }
            for (lane, x) in lanes.iter_mut().zip(chunks.remainder()) {
                *lane = fold(*lane, *x);
            }
            acc[at] = lanes.into_iter().fold(acc[at], &join);
        } else {
            for (acc, x) in acc[at..at + extent].iter_mut().zip(xs) {
                *acc = fold(*acc, *x);
            }
        }
        row += extent;
    });
}

fn kind(step: &Step<'_>) -> Result<ReduceOp, StepErrorKind> {
    ReduceOp::from_number(step.attributes::<ReduceAttributes>().kind)
        .ok_or(StepErrorKind::Attribute("kind"))
}

/// The largest element of each output, for the logarithm of a sum of exponentials.
fn scratch_f32(step: &Step<'_>, _: Isa) -> usize {
    if !matches!(kind(step), Ok(LogSumExp)) {
        return 0;
    }
    step.output(0).map_or(0, |y| y.elements().saturating_mul(size_of::<f32>()))
}

fn larger(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}

fn smaller(a: f32, b: f32) -> f32 {
    if b < a || b.is_nan() { b } else { a }
}

/// A mean as a pooling; `None` where it isn't one, or would have too few channels to go by.
#[inline(never)]
fn pooling(step: &Step<'_>) -> Result<Option<PoolGeometry>, StepErrorKind> {
    let (x, axes) = (step.input(0)?, step.attributes::<ReduceAttributes>().axes);
    let is_one_window = kind(step)? == Mean
        && step.input_count() == 1
        && axes != 0
        // Axes from the lowest bit on are side by side: added, they carry to one bit.
        && (u64::from(axes >> axes.trailing_zeros()) + 1).is_power_of_two();
    if !is_one_window {
        return Ok(None);
    }
    let (first, end) = (axes.trailing_zeros() as usize, 32 - axes.leading_zeros() as usize);
    let product = |range: core::ops::Range<usize>| {
        range.fold(1usize, |product, axis| product.saturating_mul(x.dim(axis)))
    };
    let (batch, window, channels) =
        (product(0..first), product(first..end), product(end..x.rank()));
    if channels < MIN_CHANNELS || window > MAX_WINDOW {
        return Ok(None);
    }
    let windows = ConvGeometry {
        in_h: window,
        kernel_h: window,
        groups: channels,
        ..ConvGeometry::matmul(batch, channels, channels)
    };
    Ok(Some(PoolGeometry { windows, pad_after: [0; 2], count_include_pad: false }))
}

/// Channels that a pooling adds up at once at least.
const MIN_CHANNELS: usize = 8;

/// Positions of a pooling's window along an axis.
const MAX_WINDOW: usize = 65535;

fn run_f32<const ISA: usize>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    if let Some(geometry) = pooling(&context.step)? {
        let operands = context.operands([0])?;
        let (x, y) = (typed(operands.inputs[0], 0)?, typed_mut(operands.output, 1)?);
        pool::select_average_f32(Isa::ALL[ISA])(&geometry, x, y);
        return Ok(());
    }
    run_any_f32(context)
}

fn run_any_f32(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let step = context.step;
    let walk = walk(&step)?;
    let count = count(&step.input(0)?, &step.output(0)?);
    let operands = context.operands([0])?;
    let x: &[f32] = typed(operands.inputs[0], 0)?;
    let y: &mut [f32] = typed_mut(operands.output, 1)?;
    let add = |a: f32, b: f32| a + b;
    match kind(&step)? {
        Sum | Mean | LogSum => accumulate(&walk, x, y, 0.0, add, add),
        Max => accumulate(&walk, x, y, f32::NEG_INFINITY, larger, larger),
        Min => accumulate(&walk, x, y, f32::INFINITY, smaller, smaller),
        Prod => accumulate(&walk, x, y, 1.0, |a, x| a * x, |a, b| a * b),
        L1 => accumulate(&walk, x, y, 0.0, |a, x: f32| a + libm::fabsf(x), add),
        L2 | SumSquare => accumulate(&walk, x, y, 0.0, |a, x| a + x * x, add),
        LogSumExp => {
            let len = y.len();
            let bytes = operands.scratch.get_mut(..len * 4).ok_or(StepErrorKind::TooLarge)?;
            log_sum_exp(&walk, x, y, typed_mut(bytes, 2)?);
        }
    }
    match kind(&step)? {
        Mean => y.iter_mut().for_each(|y| *y /= count as f32),
        L2 => y.iter_mut().for_each(|y| *y = libm::sqrtf(*y)),
        LogSum => y.iter_mut().for_each(|y| *y = libm::logf(*y)),
        _ => {}
    }
    Ok(())
}

/// `m + ln(sum of exp(x - m))`, m the largest; infinite extremes are their own result.
fn log_sum_exp(walk: &Walk<1>, x: &[f32], y: &mut [f32], max: &mut [f32]) {
    accumulate(walk, x, max, f32::NEG_INFINITY, larger, larger);
    y.fill(0.0);
    let (extent, [stride]) = walk.inner();
    let mut row = 0;
    walk.for_each_row([0], |[at]| {
        for (index, x) in x[row..row + extent].iter().enumerate() {
            let at = at + index * stride;
            y[at] += libm::expf(*x - max[at]);
        }
        row += extent;
    });
    for (y, max) in y.iter_mut().zip(max) {
        *y = if max.is_infinite() { *max } else { *max + libm::logf(*y) };
    }
}

macro_rules! run_integer {
    ($run:ident, $ty:ty) => {
        fn $run(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
            let step = context.step;
            let walk = walk(&step)?;
            let count = count(&step.input(0)?, &step.output(0)?).max(1) as i64;
            let operands = context.operands([0])?;
            let x: &[$ty] = typed(operands.inputs[0], 0)?;
            let y: &mut [$ty] = typed_mut(operands.output, 1)?;
            let add = <$ty>::wrapping_add;
            let mul = <$ty>::wrapping_mul;
            match kind(&step)? {
                Sum | Mean => accumulate(&walk, x, y, 0, add, add),
                Max => accumulate(&walk, x, y, <$ty>::MIN, <$ty>::max, <$ty>::max),
                Min => accumulate(&walk, x, y, <$ty>::MAX, <$ty>::min, <$ty>::min),
                Prod => accumulate(&walk, x, y, 1, mul, mul),
                L1 => accumulate(&walk, x, y, 0, |a, x| add(a, x.wrapping_abs()), add),
                L2 | SumSquare => accumulate(&walk, x, y, 0, |a, x| add(a, mul(x, x)), add),
                LogSum | LogSumExp => return Err(StepErrorKind::Attribute("kind")),
            }
            match kind(&step)? {
                Mean => y.iter_mut().for_each(|y| *y = (i64::from(*y) / count) as $ty),
                L2 => y.iter_mut().for_each(|y| *y = libm::sqrt(*y as f64) as $ty),
                _ => {}
            }
            Ok(())
        }
    };
}
run_integer!(run_i32, i32);
run_integer!(run_i64, i64);

/// The i32 sums of a mean.
fn scratch_quantized(step: &Step<'_>, _: Isa) -> usize {
    if !matches!(kind(step), Ok(Mean)) {
        return 0;
    }
    step.output(0).map_or(0, |y| y.elements().saturating_mul(size_of::<i32>()))
}

fn run_i8<const ISA: usize>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let Some(geometry) = pooling(&context.step)? else {
        return run_quantized::<i8>(context);
    };
    let step = context.step;
    let attributes: ReduceAttributes = step.attributes();
    let to = PoolI8 {
        input_zero_point: step.input(0)?.zero_point,
        zero_point: step.output(0)?.zero_point,
        scale: attributes.scale,
        min: attributes.clamp_q[0],
        max: attributes.clamp_q[1],
    };
    let operands = context.operands([0])?;
    let (x, y) = (typed(operands.inputs[0], 0)?, typed_mut(operands.output, 1)?);
    pool::select_average_i8(Isa::ALL[ISA])(&geometry, &to, x, y);
    Ok(())
}

fn run_quantized<T: Quantized>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let step = context.step;
    let (walk, attributes) = (walk(&step)?, step.attributes::<ReduceAttributes>());
    let (from, to) = (step.input(0)?, step.output(0)?);
    let (low, high) =
        (attributes.clamp_q[0] - to.zero_point, attributes.clamp_q[1] - to.zero_point);
    let put = |real: f32| T::narrow(round_clamp(real, low, high) + to.zero_point);
    let operands = context.operands([0, 1])?;
    let x: &[T] = typed(operands.inputs[0], 0)?;
    let numbers: &[i32] = typed(operands.inputs[1], 1)?;
    let y: &mut [T] = typed_mut(operands.output, 1)?;
    match kind(&step)? {
        Max => accumulate(&walk, x, y, T::narrow(T::LOWEST), T::max, T::max),
        Min => accumulate(&walk, x, y, T::narrow(T::HIGHEST), T::min, T::min),
        _ => {
            let len = y.len();
            let bytes = operands.scratch.get_mut(..len * 4).ok_or(StepErrorKind::TooLarge)?;
            let acc: &mut [i32] = typed_mut(bytes, 2)?;
            let add = i32::wrapping_add;
            accumulate(&walk, x, acc, 0, |acc, x: T| add(acc, x.widen() - from.zero_point), add);
            let scale = attributes.scale / count(&from, &to).max(1) as f32;
            for (y, acc) in y.iter_mut().zip(acc) {
                *y = match numbers {
                    [multiplier, shift, ..] => {
                        let q = fixed_point(*acc, *multiplier, *shift).max(low).min(high);
                        T::narrow(q + to.zero_point)
                    }
                    _ => put(*acc as f32 * scale),
                };
            }
            return Ok(());
        }
    }
    for y in y {
        *y = put((y.widen() - from.zero_point) as f32 * attributes.scale);
    }
    Ok(())
}

const fn arg_reduce(dtype: DType, check: Check, select: fn(Isa) -> RunFn) -> Operator {
    Operator { op: Op::ArgReduce, dtype: Some(dtype), check, select, scratch_bytes: no_scratch }
}

/// Index of an extreme, f32. A NaN is never an extreme, unless it comes first.
pub static ARG_REDUCE_F32: Operator =
    arg_reduce(DType::F32, |s| check_arg(s, DType::F32), |_| run_arg::<f32>);
/// Index of an extreme, i8.
pub static ARG_REDUCE_I8: Operator =
    arg_reduce(DType::I8, |s| check_arg(s, DType::I8), |_| run_arg::<i8>);
/// Index of an extreme, i32.
pub static ARG_REDUCE_I32: Operator =
    arg_reduce(DType::I32, |s| check_arg(s, DType::I32), |_| run_arg::<i32>);
/// Index of an extreme, i64.
pub static ARG_REDUCE_I64: Operator =
    arg_reduce(DType::I64, |s| check_arg(s, DType::I64), |_| run_arg::<i64>);

fn check_arg(step: &Step<'_>, dtype: DType) -> Result<(), StepErrorKind> {
    step.expect_counts(1, 1)?;
    expect_types(step, &[dtype], DType::I64)?;
    expect_apart(step)?;
    let attributes: ArgReduceAttributes = step.expect_attributes()?;
    let (x, y) = (step.input(0)?, step.output(0)?);
    if split(&x, attributes.axis)?.extent == 0 {
        return Err(StepErrorKind::OperandShape(0));
    }
    expect_reduced(&x, &y, 1 << attributes.axis)
}

fn run_arg<T: Element + PartialOrd>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let attributes: ArgReduceAttributes = context.step.attributes();
    let split = split(&context.step.input(0)?, attributes.axis)?;
    let operands = context.operands([0])?;
    let x: &[T] = typed(operands.inputs[0], 0)?;
    let y: &mut [i64] = typed_mut(operands.output, 1)?;
    let (find_min, last) = (attributes.min == 1, attributes.select_last == 1);
    for (index, y) in y.iter_mut().enumerate() {
        let start = index / split.inner * split.extent * split.inner + index % split.inner;
        let (mut best, mut best_at) = (x[start], 0);
        for at in 1..split.extent {
            let candidate = x[start + at * split.inner];
            let better = if find_min { candidate < best } else { candidate > best };
            if better || (last && candidate == best) {
                (best, best_at) = (candidate, at);
            }
        }
        *y = best_at as i64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Case, Random, Tensor, Typed, assert_close, shape, tensor};

    fn attributes(kind: ReduceOp, axes: u32) -> ReduceAttributes {
        ReduceAttributes { kind: kind as u32, axes, scale: 1.0, clamp_q: [-128, 127], reserved: 0 }
    }

    fn case<T: Typed>(kind: ReduceOp, axes: u32, dims: &[u32], x: &[T], y: &[u32]) -> Case {
        let y = shape(T::DTYPE, y);
        Case::new(Op::Reduce, Some(T::DTYPE), attributes(kind, axes), &[tensor(dims, x)], y)
    }

    #[test]
    fn f32_kinds() {
        // numpy over axis 1: sum, mean, max, min, prod, abs sum, sqrt of square sum, square sum,
        // log of sum, log of sum of exp.
        let x = [1.0f32, 2.0, 3.0, -4.0, 5.0, 0.5];
        for (kind, want) in [
            (Sum, [6.0, 1.5]),
            (Mean, [2.0, 0.5]),
            (Max, [3.0, 5.0]),
            (Min, [1.0, -4.0]),
            (Prod, [6.0, -10.0]),
            (L1, [6.0, 9.5]),
            (L2, [3.741_657_3, 6.422_616]),
            (SumSquare, [14.0, 41.25]),
            (LogSum, [1.791_759_5, 0.405_465_1]),
            (LogSumExp, [3.407_606, 5.011_169_4]),
        ] {
            assert_close(&case(kind, 0b10, &[2, 3], &x, &[2]).run(), &want, 1e-6);
            assert_close(&case(kind, 0b10, &[2, 3], &x, &[2, 1]).run(), &want, 1e-6);
        }
        let infinite = [f32::NEG_INFINITY, f32::NEG_INFINITY, f32::INFINITY, 0.0];
        let got = case(LogSumExp, 0b10, &[2, 2], &infinite, &[2]).run::<f32>();
        assert_close(&got, &[f32::NEG_INFINITY, f32::INFINITY], 0.0);
        let nan = case(Max, 1, &[3], &[1.0, f32::NAN, 2.0], &[]).run::<f32>();
        assert_close(&nan, &[f32::NAN], 0.0);
    }

    #[test]
    fn any_axes_agree_with_indexing() {
        let mut random = Random(13);
        let dims = [3u32, 2, 17, 5];
        let x: Vec<i32> = (0..510).map(|_| random.next() as i32).collect();
        for axes in 0..16u32 {
            let kept: Vec<u32> =
                (0..4).map(|a| if axes >> a & 1 == 1 { 1 } else { dims[a] }).collect();
            let mut want = vec![0i32; kept.iter().product::<u32>() as usize];
            for (index, value) in x.iter().enumerate() {
                let (mut rest, mut at, mut stride) = (index as u32, 0, 1);
                for axis in (0..4).rev() {
                    at += if kept[axis] == 1 { 0 } else { rest % dims[axis] * stride };
                    stride *= kept[axis];
                    rest /= dims[axis];
                }
                want[at as usize] = want[at as usize].wrapping_add(*value);
            }
            assert_eq!(case(Sum, axes, &dims, &x, &kept).run::<i32>(), want, "{axes:b}");
            let reals: Vec<f32> = x.iter().map(|x| (*x >> 20) as f32).collect();
            let log_sum: Vec<f32> = case(LogSumExp, axes, &dims, &reals, &kept).run();
            let max: Vec<f32> = case(Max, axes, &dims, &reals, &kept).run();
            for (log_sum, max) in log_sum.iter().zip(max) {
                assert!(*log_sum >= max && *log_sum <= max + 6.3, "{axes:b}");
            }
        }
    }

    /// Means that are poolings and those that aren't, beside the formula.
    #[test]
    fn means_over_any_axes() {
        let mut random = Random(29);
        let dims = [3u32, 2, 7, 19];
        let q = random.i8s(798);
        for axes in 0..16u32 {
            let kept: Vec<u32> =
                (0..4).map(|a| if axes >> a & 1 == 1 { 1 } else { dims[a] }).collect();
            let outputs = kept.iter().product::<u32>() as usize;
            let (mut sums, count) = (vec![0i32; outputs], (q.len() / outputs) as f32);
            for (index, q) in q.iter().enumerate() {
                let (mut rest, mut at, mut stride) = (index as u32, 0, 1);
                for axis in (0..4).rev() {
                    at += if kept[axis] == 1 { 0 } else { rest % dims[axis] * stride };
                    stride *= kept[axis];
                    rest /= dims[axis];
                }
                sums[at as usize] += i32::from(*q) + 7;
            }
            let attributes = ReduceAttributes { scale: 1.5, ..attributes(Mean, axes) };
            let mean = |sum: &i32| (*sum as f32 * (1.5 / count)).round_ties_even() as i32 + 3;
            let want: Vec<i8> = sums.iter().map(|sum| mean(sum).clamp(-128, 127) as i8).collect();
            let (x, y) = (tensor(&dims, &q).quantized(0.1, -7), shape(DType::I8, &kept));
            let y = y.quantized(0.2, 3);
            let integers = Case::new(Op::Reduce, Some(DType::I8), attributes, &[x], y);
            let reals: Vec<f32> = q.iter().map(|q| f32::from(*q) + 7.0).collect();
            let real_means: Vec<f32> = sums.iter().map(|sum| *sum as f32 / count).collect();
            for isa in Isa::available() {
                let got = integers.run_on(Some(isa)).expect("runs");
                let got: Vec<i8> = got.into_iter().map(|byte| byte as i8).collect();
                assert_eq!(got, want, "{axes:b} on {isa}");
            }
            assert_close(&case(Mean, axes, &dims, &reals, &kept).run(), &real_means, 1e-5);
        }
    }

    #[test]
    fn integer_kinds() {
        let x = [7i64, -2, -9, 3, 4, 0];
        for (kind, want) in [
            (Sum, [-4, 7]),
            (Mean, [-1, 2]),
            (Max, [7, 4]),
            (Min, [-9, 0]),
            (Prod, [126, 0]),
            (L1, [18, 7]),
            (L2, [11, 5]),
            (SumSquare, [134, 25]),
        ] {
            assert_eq!(case(kind, 0b10, &[2, 3], &x, &[2]).run::<i64>(), want, "{}", kind.name());
        }
        assert!(case(LogSum, 0b10, &[2, 3], &x, &[2]).run_bytes().is_err());
    }

    #[test]
    fn quantized_kinds() {
        let x = tensor(&[1, 2, 2, 2], &[-10i8, 5, 20, 7, -30, 9, 13, 127]).quantized(0.1, -10);
        for (kind, want) in [
            // Sums from the zero point: 33 and 188; times 0.5 / 4: 4.125, 23.5 -> ties to 24.
            (Mean, [7, 27]),
            // 30, 137 halved: 15, 68.5 -> 68.
            (Max, [18, 71]),
            // -20, 15 halved: -10, 7.5 -> 8.
            (Min, [-7, 11]),
        ] {
            let attributes = ReduceAttributes { scale: 0.5, ..attributes(kind, 0b110) };
            let y = shape(DType::I8, &[1, 2]).quantized(0.2, 3);
            let got =
                Case::new(Op::Reduce, Some(DType::I8), attributes, std::slice::from_ref(&x), y)
                    .run::<i8>();
            assert_eq!(got, want, "{}", kind.name());
        }
    }

    #[test]
    fn means_in_fixed_point() {
        let x = tensor(&[2, 3], &[-10i8, 5, 20, -128, -128, -127]).quantized(0.1, -10);
        let run = |numbers: Tensor| {
            let attributes = ReduceAttributes { scale: 9.0, ..attributes(Mean, 0b10) };
            let y = shape(DType::I8, &[2]).quantized(0.2, 3);
            Case::new(Op::Reduce, Some(DType::I8), attributes, &[x.clone(), numbers], y).run_bytes()
        };
        // Sums from the zero point: 45 and -353. Their eighths 5.625 and -44.125 from 22.5 -> 23 and
        // -176.5 -> -176, whose quarters are 5.75 and -44.
        let made = run(tensor(&[2], &[1i32 << 30, -2]).constant()).unwrap();
        assert_eq!(made, [9i8 as u8, -41i8 as u8]);
        assert!(run(tensor(&[2], &[i32::MIN, i32::MIN]).constant()).is_ok());
        assert!(run(tensor(&[1], &[1i32 << 30]).constant()).is_err());
        assert!(run(tensor(&[2], &[1f32, 2.0]).constant()).is_err());
    }

    #[test]
    fn index_of_extremes() {
        let x = [3f32, 9.0, 9.0, -1.0, -1.0, 4.0];
        let run = |axis: u32, min: u32, select_last: u32, y: &[u32]| {
            let attributes = ArgReduceAttributes { axis, min, select_last, reserved: 0 };
            let y = shape(DType::I64, y);
            Case::new(Op::ArgReduce, Some(DType::F32), attributes, &[tensor(&[2, 3], &x)], y)
                .run::<i64>()
        };
        assert_eq!(run(1, 0, 0, &[2]), [1, 2]);
        assert_eq!(run(1, 0, 1, &[2, 1]), [2, 2]);
        assert_eq!(run(1, 1, 0, &[2, 1]), [0, 0]);
        assert_eq!(run(1, 1, 1, &[2]), [0, 1]);
        assert_eq!(run(0, 0, 0, &[3]), [0, 0, 0]);
        assert_eq!(run(0, 1, 0, &[1, 3]), [1, 1, 1]);
    }

    #[test]
    fn hostile_steps_are_refused() {
        let x = [1i8; 6];
        let refused = [
            case(Sum, 1, &[2, 3], &x, &[3]),
            case(Mean, 0b100, &[2, 3], &x, &[2, 3]),
            case(Mean, u32::MAX, &[2, 3], &x, &[]),
            case(Mean, 1, &[2, 3], &x, &[2]),
            case(Mean, 1, &[2, 3], &x, &[1, 2]),
            case(Mean, 1, &[0, 3], &x[..0], &[3]),
        ];
        for case in refused {
            assert!(case.run_bytes().is_err(), "{:?}", case.output.dims);
        }
        // No elements at all is fine, whatever the other axes say.
        assert_eq!(case(Mean, 1, &[3, 0], &x[..0], &[0]).run::<i8>(), []);
        for (axis, dims, y) in
            [(2, vec![2, 3], vec![2]), (32, vec![2, 3], vec![2]), (0, vec![0, 3], vec![3])]
        {
            let attributes = ArgReduceAttributes { axis, ..ArgReduceAttributes::default() };
            let x = tensor(&dims, &x[..dims.iter().product::<u32>() as usize]);
            let y = shape(DType::I64, &y);
            assert!(
                Case::new(Op::ArgReduce, Some(DType::I8), attributes, &[x], y).run_bytes().is_err()
            );
        }
    }
}
