//! Resizes: by coordinates, and by tables of taps.

use super::moves::{by_size, copy};
use super::{Lower, Refusal, elements, small};
use crate::backend::cuda::arguments::{self, Blended, Nearest};
use crate::backend::cuda::kernels::{
    INTERPOLATE, Kernel, NEAREST_1, NEAREST_2, NEAREST_4, RESIZE_F32, RESIZE_I8, RESIZE_I16,
};
use crate::dtype::DType;
use crate::format::{AxisAttributes, MAX_RANK, ResizeAttributes};
use crate::ops::resize::{NEAREST, is_resized};
use crate::ops::shape::{product, split, strides};

pub(super) fn resize(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let attributes: ResizeAttributes = lower.step.expect_attributes()?;
    let ((x, input), (y, output)) = (lower.input(0)?, lower.output(0)?);
    let resized = (0..x.rank()).filter(|axis| is_resized(&attributes, &x, &y, *axis));
    let resized: Vec<usize> = resized.collect();
    if resized.is_empty() {
        return copy(lower);
    }
    elements(&x)?;
    if attributes.mode == NEAREST {
        return nearest(lower, &attributes, &resized);
    }
    let own = strides(&x);
    let mut arguments = arguments::Resize {
        input,
        output,
        input_strides: [0; MAX_RANK],
        out_inner: [1; MAX_RANK],
        extents: [1; MAX_RANK],
        rank: 0,
        blended: small(resized.len())?,
        elements: elements(&y)?,
        mode: attributes.mode,
        coordinates: attributes.coordinates,
        cubic_coefficient: attributes.cubic_coefficient,
        exclude_outside: u32::from(attributes.exclude_outside == 1),
        zero_point: x.zero_point(),
        ..arguments::Resize::default()
    };
    let mut blended = [Blended { extent: 1, out_extent: 1, out_inner: 1, ..Blended::default() }; 3];
    let mut next = 0;
    for axis in 0..y.rank() {
        let out_inner = small(product(&y.dims()[axis + 1..]))?;
        if resized.contains(&axis) {
            blended[next] = Blended {
                stride: own[axis] as u64,
                extent: small(x.dim(axis))?,
                out_extent: small(y.dim(axis))?,
                out_inner,
                scale: attributes.scales[axis],
            };
            next += 1;
        } else {
            let kept = arguments.rank as usize;
            arguments.input_strides[kept] = own[axis] as u64;
            arguments.out_inner[kept] = out_inner;
            arguments.extents[kept] = small(y.dim(axis))?;
            arguments.rank += 1;
        }
    }
    [arguments.first, arguments.second, arguments.third] = blended;
    let kernel: &'static Kernel = match x.dtype() {
        DType::I8 => &RESIZE_I8,
        DType::I16 => &RESIZE_I16,
        _ => &RESIZE_F32,
    };
    lower.call_elements(kernel, arguments.elements, arguments)
}

fn nearest(
    lower: &mut Lower<'_>,
    attributes: &ResizeAttributes,
    resized: &[usize],
) -> Result<(), Refusal> {
    let ((x, input), (y, output)) = (lower.input(0)?, lower.output(0)?);
    let mut arguments = Nearest {
        input,
        output,
        input_strides: strides(&x).map(|stride| stride as u64),
        input_extents: [1; MAX_RANK],
        extents: [1; MAX_RANK],
        scales: attributes.scales,
        resized: resized.iter().fold(0, |bits, axis| bits | 1 << axis),
        rank: small(y.rank())?,
        elements: elements(&y)?,
        coordinates: attributes.coordinates,
        rounding: attributes.rounding,
        reserved: 0,
    };
    for axis in 0..y.rank() {
        arguments.input_extents[axis] = small(x.dim(axis))?;
        arguments.extents[axis] = small(y.dim(axis))?;
    }
    // Elements have four bytes at most.
    let kernel = by_size(x.dtype().size(), [&NEAREST_1, &NEAREST_2, &NEAREST_4, &NEAREST_4]);
    lower.call_elements(kernel, arguments.elements, arguments)
}

pub(super) fn interpolate(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let axis = lower.step.expect_attributes::<AxisAttributes>()?.axis;
    let ((x, input), (table, indices), (_, weights), (y, output)) =
        (lower.input(0)?, lower.input(1)?, lower.input(2)?, lower.output(0)?);
    let split = split(&x, axis)?;
    elements(&table)?;
    let arguments = arguments::Interpolate {
        input,
        indices,
        weights,
        output,
        status: lower.status(),
        extent: small(split.extent)?,
        out_extent: small(table.dim(0))?,
        inner: small(split.inner)?,
        taps: small(table.dim(1))?,
        elements: elements(&y)?,
        step: lower.index,
    };
    lower.call_elements(&INTERPOLATE, arguments.elements, arguments)
}
