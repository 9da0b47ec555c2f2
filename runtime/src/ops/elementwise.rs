//! Loops of elementwise operators, block by block: a block is read before it is written, so the
//! output may lie exactly over an input, and the arithmetic in between vectorises.

use crate::error::StepErrorKind;
use crate::format::Element;
#[cfg(feature = "std")]
use crate::memory::ElementwiseParts;
use crate::memory::{Context, Sink, Slot, Source};
#[cfg(feature = "std")]
use crate::ops::Step;
#[cfg(feature = "std")]
use crate::ops::parallel::Work;
use crate::ops::shape::{Walk, broadcast_strides};

/// Elements of a block: four to sixteen vector registers.
const BLOCK: usize = 64;
/// Elements of a block that goes through a call; what has to be copied lies on the stack, which
/// microcontrollers have little of.
const LONG_BLOCK: usize = if cfg!(feature = "std") { 512 } else { BLOCK };

/// Calls `body` with the sources and the sink, or on several threads with parts of them.
#[inline(always)]
fn in_parts<T: Element, U: Element, const N: usize>(
    context: &mut Context<'_>,
    inputs: [usize; N],
    [units, unit]: [usize; 2],
    steps: [usize; N],
    body: impl Fn([Source<'_, T>; N], Sink<'_, U>) + Sync,
) -> Result<(), StepErrorKind> {
    #[cfg(feature = "std")]
    if let Some(mut crew) = context.take_crew() {
        let (sources, sink) = context.elementwise::<T, U, N>(inputs)?;
        let cut = crew.cut(units);
        if let Some(parts) = ElementwiseParts::new(sources, sink, cut, unit, steps) {
            return crew.run(cut.parts, |part, _| {
                let (sources, sink) = parts.take(part).ok_or(StepErrorKind::TooLarge)?;
                body(sources, sink);
                Ok(())
            });
        }
    }
    let _ = (units, unit, steps);
    let (sources, sink) = context.elementwise::<T, U, N>(inputs)?;
    body(sources, sink);
    Ok(())
}

/// What there is to share of [`zip`] or [`zip_blocks`], of which `rate` elements are computed in a nanosecond.
#[cfg(feature = "std")]
pub(super) fn work(step: &Step<'_>, rate: f32) -> Option<Work> {
    let (a, b, y) = (step.input(0).ok()?, step.input(1).ok()?, step.output(0).ok()?);
    let [units, _] = units(&broadcast_walk(&a, &b, &y), y.elements());
    Some(Work { units, ns: y.elements() as f32 / rate, is_by_rows: false })
}

/// What there is to share of [`map`] or [`map_blocks`].
#[cfg(feature = "std")]
pub(super) fn work_of_one(step: &Step<'_>, rate: f32) -> Option<Work> {
    let elements = step.output(0).ok()?.elements();
    Some(Work { units: elements / LONG_BLOCK, ns: elements as f32 / rate, is_by_rows: false })
}

/// `y = f(x)` in place, block by block.
pub(crate) fn map_blocks<T: Element>(
    context: &mut Context<'_>,
    f: impl Fn(&mut [T]) + Sync,
) -> Result<(), StepErrorKind> {
    let units = context.step.output(0)?.elements() / LONG_BLOCK;
    in_parts::<T, T, 1>(context, [0], [units, LONG_BLOCK], [LONG_BLOCK], |mut x, mut y| {
        let len = x[0].len().min(y.len());
        let mut copies = [[T::default(); LONG_BLOCK]];
        for start in (0..len).step_by(LONG_BLOCK) {
            let count = LONG_BLOCK.min(len - start);
            y.with_blocks(start, count, &mut x, [Some(start)], &mut copies, |[x], y| {
                y.copy_from_slice(x);
                f(y);
            });
        }
    })
}

/// `y[i] = f(x[i])`.
#[inline(always)]
pub(crate) fn map<T: Element, U: Element>(
    context: &mut Context<'_>,
    f: impl Fn(T) -> U + Sync,
) -> Result<(), StepErrorKind> {
    let units = context.step.output(0)?.elements() / LONG_BLOCK;
    in_parts::<T, U, 1>(context, [0], [units, LONG_BLOCK], [LONG_BLOCK], |[x], mut y| {
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
    })
}

/// `y[i] = f(a[i], b[i])`, broadcasting.
#[inline(always)]
pub(crate) fn zip<T: Element, U: Element>(
    context: &mut Context<'_>,
    f: impl Fn(T, T) -> U + Sync,
) -> Result<(), StepErrorKind> {
    zip_blocks(context, |a, b, y| {
        for (y, (a, b)) in y.iter_mut().zip(a.iter().zip(b)) {
            *y = f(*a, *b);
        }
    })
}

/// The loop over y with the positions of a and b, which are broadcast to it.
fn broadcast_walk(a: &Slot, b: &Slot, y: &Slot) -> Walk<2> {
    let rank = y.rank();
    Walk::new(y.dims(), &[broadcast_strides(a, rank), broadcast_strides(b, rank)])
}

/// Elements of y for each index of the outermost axis of a loop.
fn outer_elements(walk: &Walk<2>, elements: usize) -> usize {
    elements.checked_div(walk.axis(0).0).unwrap_or(0)
}

/// Units along the outermost axis, of about a block or more, and the elements of y that a unit has.
fn units(walk: &Walk<2>, elements: usize) -> [usize; 2] {
    let outer = outer_elements(walk, elements);
    let per_unit = LONG_BLOCK.div_ceil(outer.max(1));
    [walk.axis(0).0 / per_unit, per_unit * outer]
}

/// As [`zip`], but `f` gets blocks of elements: a, b, and the y to write.
#[inline(always)]
pub(crate) fn zip_blocks<T: Element, U: Element>(
    context: &mut Context<'_>,
    f: impl Fn(&[T], &[T], &mut [U]) + Sync,
) -> Result<(), StepErrorKind> {
    let step = context.step;
    let (a, b, y) = (step.input(0)?, step.input(1)?, step.output(0)?);
    let walk = broadcast_walk(&a, &b, &y);
    let (extent, [a_stride, b_stride]) = walk.inner();
    let outer = outer_elements(&walk, y.elements());
    let [units, unit] = units(&walk, y.elements());
    let steps = walk.axis(0).1.map(|stride| unit.checked_div(outer).unwrap_or(0) * stride);
    in_parts::<T, U, 2>(context, [0, 1], [units, unit], steps, |mut sources, mut y| {
        let mut copies = [[T::default(); LONG_BLOCK]; 2];
        let mut row = 0;
        let part = walk.with_outer(y.len().checked_div(outer).unwrap_or(0));
        let extent = if part.rank() == 1 { y.len() } else { extent };
        part.for_each_row([0, 0], |[a_start, b_start]| {
            let first = extent.min(LONG_BLOCK);
            let at = |start: usize, stride: usize| (stride != 0).then_some(start);
            if a_stride == 0 {
                copies[0][..first].fill(sources[0].get(a_start));
            }
            if b_stride == 0 {
                copies[1][..first].fill(sources[1].get(b_start));
            }
            for start in (0..extent).step_by(LONG_BLOCK) {
                let count = LONG_BLOCK.min(extent - start);
                let starts = [at(a_start + start, a_stride), at(b_start + start, b_stride)];
                let f = |[a, b]: [&[T]; 2], y: &mut [U]| f(a, b, y);
                y.with_blocks(row + start, count, &mut sources, starts, &mut copies, f);
            }
            row += extent;
        });
    })
}
