//! Index arithmetic that operators share: axes, strides, broadcasting, loops over shapes.
//!
//! Sizes multiply with wrapping: a shape with an axis of size 0 may have others whose product
//! doesn't fit, and then nothing is indexed at all.

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{Element, Layout, MAX_RANK};
use crate::memory::{Place, Slot, overlap, same_bytes};
use crate::ops::Step;

/// A shape around one of its axes: `[outer, extent, inner]`.
#[derive(Clone, Copy)]
pub(crate) struct Split {
    /// Elements of the axes before, multiplied.
    pub(crate) outer: usize,
    /// Size of the axis.
    pub(crate) extent: usize,
    /// Elements between one index of the axis and the next.
    pub(crate) inner: usize,
}

/// Product of sizes.
pub(crate) fn product(dims: &[u32]) -> usize {
    dims.iter().fold(1, |product, dim| product.wrapping_mul(*dim as usize))
}

/// Splits a shape at an axis, which it must have.
pub(crate) fn split(slot: &Slot, axis: u32) -> Result<Split, StepErrorKind> {
    let dims = slot.dims();
    let axis = axis as usize;
    let extent = *dims.get(axis).ok_or(StepErrorKind::Attribute("axis"))? as usize;
    Ok(Split { outer: product(&dims[..axis]), extent, inner: product(&dims[axis + 1..]) })
}

/// Elements between one index and the next, per axis, of a dense tensor.
pub(crate) fn strides(slot: &Slot) -> [usize; MAX_RANK] {
    let mut strides = [0; MAX_RANK];
    let mut stride = 1usize;
    for axis in (0..slot.rank()).rev() {
        strides[axis] = stride;
        stride = stride.wrapping_mul(slot.dim(axis));
    }
    strides
}

/// Strides of an operand that is broadcast to `rank` axes: 0 along axes that repeat.
pub(crate) fn broadcast_strides(slot: &Slot, rank: usize) -> [usize; MAX_RANK] {
    let own = strides(slot);
    let mut strides = [0; MAX_RANK];
    let missing = rank.saturating_sub(slot.rank());
    for axis in 0..slot.rank() {
        if slot.dim(axis) != 1 && missing + axis < MAX_RANK {
            strides[missing + axis] = own[axis];
        }
    }
    strides
}

/// Checks that an operand can be broadcast to the shape of another, as NumPy does.
pub(crate) fn expect_broadcast(slot: &Slot, to: &Slot, operand: u8) -> Result<(), StepErrorKind> {
    let matches = |(own, theirs): (&u32, &u32)| *own == 1 || own == theirs;
    let fits = slot.rank() <= to.rank()
        && slot.dims().iter().rev().zip(to.dims().iter().rev()).all(matches);
    if fits { Ok(()) } else { Err(StepErrorKind::OperandShape(operand)) }
}

/// The same for sizes that no operand has.
pub(crate) fn expect_broadcast_dims(
    slot: &Slot,
    to: &[usize],
    operand: u8,
) -> Result<(), StepErrorKind> {
    let matches = |(own, theirs): (&u32, &usize)| *own == 1 || *own as usize == *theirs;
    let fits =
        slot.rank() <= to.len() && slot.dims().iter().rev().zip(to.iter().rev()).all(matches);
    if fits { Ok(()) } else { Err(StepErrorKind::OperandShape(operand)) }
}

/// Checks that an operand is dense.
pub(crate) fn expect_dense(slot: &Slot, operand: u8) -> Result<(), StepErrorKind> {
    if slot.layout == Layout::Dense { Ok(()) } else { Err(StepErrorKind::OperandLayout(operand)) }
}

/// Checks that every operand is dense and that the outputs lie apart from the inputs and from
/// each other.
pub(crate) fn expect_apart(step: &Step<'_>) -> Result<(), StepErrorKind> {
    expect_all_dense(step)?;
    expect_no_overlap(step, &|_, _, _| false)
}

/// Checks that the output lies apart from the inputs, but for input `over`, which may be the same
/// bytes; for operators that check layouts themselves.
pub(crate) fn expect_apart_but(step: &Step<'_>, over: usize) -> Result<(), StepErrorKind> {
    expect_no_overlap(step, &|index, x, y| index == over && same_bytes(x, y))
}

/// Checks that every operand is dense, and that the output lies apart from each input or, element
/// for element, exactly over it.
pub(crate) fn expect_elementwise(step: &Step<'_>) -> Result<(), StepErrorKind> {
    expect_all_dense(step)?;
    let size = step.optional_output(0).map(|y| y.dtype.size());
    expect_no_overlap(step, &|index, x, y| {
        same_bytes(x, y) && step.optional_input(index).map(|x| x.dtype.size()) == size
    })
}

fn expect_all_dense(step: &Step<'_>) -> Result<(), StepErrorKind> {
    for index in 0..step.output_count() {
        if let Some(y) = step.optional_output(index) {
            expect_dense(&y, (step.input_count() + index).min(255) as u8)?;
        }
    }
    for index in 0..step.input_count() {
        if let Some(x) = step.optional_input(index) {
            expect_dense(&x, index.min(255) as u8)?;
        }
    }
    Ok(())
}

/// Not generic, so that there is one of it for all operators.
fn expect_no_overlap(
    step: &Step<'_>,
    may_share: &dyn Fn(usize, &Place, &Place) -> bool,
) -> Result<(), StepErrorKind> {
    for number in 0..step.output_count() {
        let Some(y) = step.output_place(number) else { continue };
        for index in 0..step.input_count() {
            let Some(x) = step.input_place(index) else { continue };
            if overlap(&x, &y) && !may_share(index, &x, &y) {
                return Err(StepErrorKind::Overlap);
            }
        }
        for other in 0..number {
            if step.output_place(other).is_some_and(|other| overlap(&other, &y)) {
                return Err(StepErrorKind::Overlap);
            }
        }
    }
    Ok(())
}

/// Checks the types of the first `inputs` operands and of the output.
pub(crate) fn expect_types(
    step: &Step<'_>,
    inputs: &[DType],
    output: DType,
) -> Result<(), StepErrorKind> {
    for (index, dtype) in inputs.iter().enumerate() {
        if step.input(index)?.dtype != *dtype {
            return Err(StepErrorKind::OperandType(index as u8));
        }
    }
    if step.output(0)?.dtype != output {
        return Err(StepErrorKind::OperandType(step.input_count() as u8));
    }
    Ok(())
}

/// A loop over a shape in row-major order, with the positions of `N` strided operands. Axes that
/// can be are merged; the innermost one that remains is left to the caller.
#[derive(Clone, Copy)]
pub(crate) struct Walk<const N: usize> {
    rank: usize,
    extents: [usize; MAX_RANK],
    strides: [[usize; MAX_RANK]; N],
}

impl<const N: usize> Walk<N> {
    /// Strides may be negative numbers in two's complement.
    pub(crate) fn new(dims: &[u32], strides: &[[usize; MAX_RANK]; N]) -> Walk<N> {
        let mut walk = Walk { rank: 0, extents: [1; MAX_RANK], strides: [[0; MAX_RANK]; N] };
        for (axis, dim) in dims.iter().enumerate().take(MAX_RANK) {
            let extent = *dim as usize;
            if extent == 1 {
                continue;
            }
            let last = walk.rank.wrapping_sub(1);
            let merges = walk.rank > 0
                && (0..N).all(|n| walk.strides[n][last] == strides[n][axis].wrapping_mul(extent));
            let to = if merges { last } else { walk.rank };
            walk.rank = to + 1;
            walk.extents[to] = walk.extents[to].wrapping_mul(extent);
            for n in 0..N {
                walk.strides[n][to] = strides[n][axis];
            }
        }
        walk.rank = walk.rank.max(1);
        walk
    }

    /// Size of the innermost axis and the operands' strides along it.
    pub(crate) fn inner(&self) -> (usize, [usize; N]) {
        let axis = self.rank - 1;
        (self.extents[axis], self.strides.map(|strides| strides[axis]))
    }

    /// Axes after merging, at least 1.
    pub(crate) fn rank(&self) -> usize {
        self.rank
    }

    /// Size of a merged axis and the operands' strides along it.
    pub(crate) fn axis(&self, axis: usize) -> (usize, [usize; N]) {
        (self.extents[axis], self.strides.map(|strides| strides[axis]))
    }

    /// The same loop over fewer indices of the outermost axis.
    pub(crate) fn with_outer(mut self, extent: usize) -> Walk<N> {
        self.extents[0] = extent;
        self
    }

    /// Calls `body` at the start of every innermost row with the operands' positions. Does nothing
    /// when the shape has no elements.
    pub(crate) fn for_each_row(&self, start: [usize; N], body: impl FnMut([usize; N])) {
        if self.extents[self.rank - 1] != 0 {
            self.for_each_without(&[self.rank - 1], start, body);
        }
    }

    /// Calls `body` for every combination of the axes other than `skipped`.
    pub(crate) fn for_each_without(
        &self,
        skipped: &[usize],
        start: [usize; N],
        mut body: impl FnMut([usize; N]),
    ) {
        if self.extents.contains(&0) {
            return;
        }
        let mut index = [0; MAX_RANK];
        let mut at = start;
        loop {
            body(at);
            let mut axis = self.rank;
            loop {
                if axis == 0 {
                    return;
                }
                axis -= 1;
                if skipped.contains(&axis) {
                    continue;
                }
                index[axis] += 1;
                if index[axis] < self.extents[axis] {
                    for n in 0..N {
                        at[n] = at[n].wrapping_add(self.strides[n][axis]);
                    }
                    break;
                }
                for n in 0..N {
                    at[n] = at[n].wrapping_sub(self.strides[n][axis].wrapping_mul(index[axis] - 1));
                }
                index[axis] = 0;
            }
        }
    }
}

/// Calls a function that is generic over an element type with the unsigned integer of the size of
/// a tensor's elements: for operators that only move them.
macro_rules! by_element_size {
    ($dtype:expr, $function:ident($($argument:expr),*)) => {
        match $dtype.size() {
            1 => $function::<u8>($($argument),*),
            2 => $function::<u16>($($argument),*),
            4 => $function::<u32>($($argument),*),
            _ => $function::<u64>($($argument),*),
        }
    };
}
pub(crate) use by_element_size;

/// Contiguous rows of an input and an output.
pub(super) struct Rows {
    /// Where the first row begins in each.
    pub(super) at: [usize; 2],
    pub(super) count: usize,
    /// Elements from a row to the next; steps back are wrapped.
    pub(super) strides: [usize; 2],
}

impl Rows {
    /// Copies rows of so many elements.
    pub(super) fn copy<T: Element>(&self, len: usize, x: &[T], y: &mut [T]) {
        // Usual lengths, those of heads and of few channels, without a call for each row.
        #[cfg(feature = "std")]
        match len {
            8 => return self.each(x, y, |x, y| y[..8].copy_from_slice(&x[..8])),
            16 => return self.each(x, y, |x, y| y[..16].copy_from_slice(&x[..16])),
            32 => return self.each(x, y, |x, y| y[..32].copy_from_slice(&x[..32])),
            64 => return self.each(x, y, |x, y| y[..64].copy_from_slice(&x[..64])),
            128 => return self.each(x, y, |x, y| y[..128].copy_from_slice(&x[..128])),
            _ => {}
        }
        self.each(x, y, |x, y| y[..len].copy_from_slice(&x[..len]));
    }

    /// Calls `copy` with what follows from each row on.
    #[inline(always)]
    fn each<T: Element>(&self, x: &[T], y: &mut [T], copy: impl Fn(&[T], &mut [T])) {
        let [mut from, mut to] = self.at;
        for _ in 0..self.count {
            copy(&x[from..], &mut y[to..]);
            from = from.wrapping_add(self.strides[0]);
            to = to.wrapping_add(self.strides[1]);
        }
    }
}
