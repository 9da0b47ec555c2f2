//! Operators that move elements of any type.

use super::elementwise::Axes;
use super::{Lower, Refusal, elements, small};
use crate::backend::cuda::arguments::{self, Gather, Move};
use crate::backend::cuda::kernels::{
    GATHER_1, GATHER_2, GATHER_4, GATHER_8, Kernel, MOVE_1, MOVE_2, MOVE_4, MOVE_8, PAD_1, PAD_2,
    PAD_4, PAD_8,
};
use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{
    AxisAttributes, MAX_RANK, PadAttributes, SliceAttributes, TransposeAttributes,
};
use crate::ops::shape::{broadcast_strides, split, strides};

/// The kernel of a family for elements of so many bytes.
pub(super) fn by_size(size: usize, family: [&'static Kernel; 4]) -> &'static Kernel {
    family[size.trailing_zeros().min(3) as usize]
}

/// Copies elements of `size` bytes from strided places to strided places.
fn move_elements(
    lower: &mut Lower<'_>,
    size: usize,
    [input, output]: [u64; 2],
    dims: &[u32],
    strides: [[usize; MAX_RANK]; 2],
) -> Result<(), Refusal> {
    let axes = Axes::new(dims, &strides)?;
    let mut elements = 1u32;
    for extent in &axes.extents[..axes.rank as usize] {
        elements = elements.checked_mul(*extent).ok_or(StepErrorKind::TooLarge)?;
    }
    let arguments = Move {
        input,
        output,
        input_strides: axes.strides[0],
        output_strides: axes.strides[1],
        extents: axes.extents,
        rank: axes.rank,
        elements: small(elements as usize)?,
    };
    lower.call_elements(by_size(size, [&MOVE_1, &MOVE_2, &MOVE_4, &MOVE_8]), elements, arguments)
}

pub(super) fn copy(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let ((x, input), (_, output)) = (lower.input(0)?, lower.output(0)?);
    let all = input | output | x.bytes() as u64;
    let size = 1 << all.trailing_zeros().min(3);
    let mut one = [0; MAX_RANK];
    one[0] = 1;
    move_elements(lower, size, [input, output], &[small(x.bytes() / size)?], [one, one])
}

/// Writes the output in order, reading from `start` with these strides.
fn read_strided(
    lower: &mut Lower<'_>,
    start: usize,
    from: [usize; MAX_RANK],
) -> Result<(), Refusal> {
    let ((x, input), (y, output)) = (lower.input(0)?, lower.output(0)?);
    if y.elements() == 0 {
        return Ok(());
    }
    let size = x.dtype().size();
    let input = input + (start * size) as u64;
    move_elements(lower, size, [input, output], y.dims(), [from, strides(&y)])
}

pub(super) fn slice(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let attributes: SliceAttributes = lower.step.expect_attributes()?;
    let (x, y) = (lower.step.input(0)?, lower.step.output(0)?);
    if y.elements() == 0 {
        return Ok(());
    }
    let (mut from, mut start) = (strides(&x), 0);
    for axis in 0..x.rank() {
        start += lower.step.dim(attributes.starts[axis])? * from[axis];
        from[axis] = from[axis].wrapping_mul(attributes.steps[axis] as isize as usize);
    }
    read_strided(lower, start, from)
}

pub(super) fn transpose(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let perm = lower.step.expect_attributes::<TransposeAttributes>()?.perm;
    let own = strides(&lower.step.input(0)?);
    read_strided(lower, 0, perm.map(|axis| own.get(usize::from(axis)).copied().unwrap_or(0)))
}

pub(super) fn expand(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let (x, y) = (lower.step.input(0)?, lower.step.output(0)?);
    read_strided(lower, 0, broadcast_strides(&x, y.rank()))
}

pub(super) fn concat(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let axis = lower.step.expect_attributes::<AxisAttributes>()?.axis;
    let (y, output) = lower.output(0)?;
    let (size, to, inner) = (y.dtype().size(), strides(&y), split(&y, axis)?.inner);
    let mut at = 0;
    for index in 0..lower.step.input_count() {
        let (x, input) = lower.input(index)?;
        if x.elements() > 0 {
            let place = output + (at * inner * size) as u64;
            move_elements(lower, size, [input, place], x.dims(), [strides(&x), to])?;
        }
        at += x.dim(axis as usize);
    }
    Ok(())
}

pub(super) fn pad(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let attributes: PadAttributes = lower.step.expect_attributes()?;
    let ((x, input), (y, output)) = (lower.input(0)?, lower.output(0)?);
    let mut arguments = arguments::Pad {
        input,
        output,
        value: u64::from(attributes.value[1]) << 32 | u64::from(attributes.value[0]),
        input_strides: strides(&x).map(|stride| stride as u64),
        input_extents: [1; MAX_RANK],
        before: attributes.before,
        extents: [1; MAX_RANK],
        rank: y.rank() as u32,
        elements: elements(&y)?,
        mode: attributes.mode,
        reserved: 0,
    };
    for axis in 0..y.rank() {
        arguments.input_extents[axis] = small(x.dim(axis))?;
        arguments.extents[axis] = small(y.dim(axis))?;
    }
    let kernel = by_size(x.dtype().size(), [&PAD_1, &PAD_2, &PAD_4, &PAD_8]);
    lower.call_elements(kernel, arguments.elements, arguments)
}

pub(super) fn gather(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let axis = lower.step.expect_attributes::<AxisAttributes>()?.axis;
    let ((x, data), (ids, indices), (y, output)) =
        (lower.input(0)?, lower.input(1)?, lower.output(0)?);
    if y.elements() == 0 {
        return Ok(());
    }
    let split = split(&x, axis)?;
    let arguments = Gather {
        data,
        indices,
        output,
        status: lower.status(),
        extent: small(split.extent)?,
        inner: small(split.inner)?,
        count: elements(&ids)?,
        elements: elements(&y)?,
        step: lower.index,
        wide: u32::from(ids.dtype() == DType::I64),
    };
    let kernel = by_size(x.dtype().size(), [&GATHER_1, &GATHER_2, &GATHER_4, &GATHER_8]);
    lower.call_elements(kernel, arguments.elements, arguments)
}
