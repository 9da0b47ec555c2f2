//! Loops of elementwise operators, block by block: a block is read before it is written, so the
//! output may lie exactly over an input, and the arithmetic in between vectorises.

use crate::error::StepErrorKind;
use crate::format::Element;
use crate::memory::{Context, Source};
use crate::ops::shape::{Walk, broadcast_strides};

/// Elements of a block: four to sixteen vector registers.
const BLOCK: usize = 64;
/// Elements of a block that goes through a call.
const LONG_BLOCK: usize = 256;

/// `y = f(x)` in place, block by block.
pub(crate) fn map_blocks(
    context: &mut Context<'_>,
    f: impl Fn(&mut [f32]),
) -> Result<(), StepErrorKind> {
    let ([x], mut y) = context.elementwise::<f32, f32, 1>([0])?;
    let len = x.len().min(y.len());
    let mut block = [0.0; LONG_BLOCK];
    for start in (0..len).step_by(LONG_BLOCK) {
        let block = &mut block[..LONG_BLOCK.min(len - start)];
        x.read(start, block);
        f(block);
        y.write(start, block);
    }
    Ok(())
}

/// `y[i] = f(x[i])`.
#[inline(always)]
pub(crate) fn map<T: Element, U: Element>(
    context: &mut Context<'_>,
    f: impl Fn(T) -> U,
) -> Result<(), StepErrorKind> {
    let ([x], mut y) = context.elementwise::<T, U, 1>([0])?;
    let len = x.len().min(y.len());
    let (mut xs, mut ys) = ([T::default(); BLOCK], [U::default(); BLOCK]);
    for start in (0..len).step_by(BLOCK) {
        let count = BLOCK.min(len - start);
        x.read(start, &mut xs[..count]);
        for (y, x) in ys.iter_mut().zip(&xs) {
            *y = f(*x);
        }
        y.write(start, &ys[..count]);
    }
    Ok(())
}

/// `y[i] = f(a[i], b[i])`, broadcasting.
#[inline(always)]
pub(crate) fn zip<T: Element, U: Element>(
    context: &mut Context<'_>,
    f: impl Fn(T, T) -> U,
) -> Result<(), StepErrorKind> {
    zip_blocks(context, |a, b, y| {
        for (y, (a, b)) in y.iter_mut().zip(a.iter().zip(b)) {
            *y = f(*a, *b);
        }
    })
}

/// As [`zip`], but `f` gets blocks of elements: a, b, and the y to write.
#[inline(always)]
pub(crate) fn zip_blocks<T: Element, U: Element>(
    context: &mut Context<'_>,
    f: impl Fn(&[T], &[T], &mut [U]),
) -> Result<(), StepErrorKind> {
    let step = context.step;
    let (a, b, y) = (step.input(0)?, step.input(1)?, step.output(0)?);
    let rank = y.rank();
    let walk = Walk::new(y.dims(), &[broadcast_strides(&a, rank), broadcast_strides(&b, rank)]);
    let (extent, [a_stride, b_stride]) = walk.inner();
    let ([a, b], mut y) = context.elementwise::<T, U, 2>([0, 1])?;
    let (mut a_block, mut b_block) = ([T::default(); BLOCK], [T::default(); BLOCK]);
    let mut y_block = [U::default(); BLOCK];
    let mut row = 0;
    walk.for_each_row([0, 0], |[a_start, b_start]| {
        for start in (0..extent).step_by(BLOCK) {
            let count = BLOCK.min(extent - start);
            load(&a, a_start, start, a_stride, &mut a_block[..count]);
            load(&b, b_start, start, b_stride, &mut b_block[..count]);
            f(&a_block[..count], &b_block[..count], &mut y_block[..count]);
            y.write(row + start, &y_block[..count]);
        }
        row += extent;
    });
    Ok(())
}

/// The next elements of an innermost row, whose stride is 1, or 0 when one element repeats.
#[inline(always)]
fn load<T: Element>(
    source: &Source<'_, T>,
    row: usize,
    start: usize,
    stride: usize,
    into: &mut [T],
) {
    if stride == 0 {
        into.fill(source.get(row));
    } else {
        source.read(row + start, into);
    }
}
