//! Operators on elements.

use super::{Lower, Refusal, elements, small};
use crate::backend::cuda::arguments::{self, BinaryF32, BinaryQuantized, Lut, Quantize};
use crate::backend::cuda::kernels::{
    BINARY_F32, BINARY_I8, BINARY_I16, DEQUANTIZE_I8, DEQUANTIZE_I16, DEQUANTIZE_I32,
    DEQUANTIZE_U8, GATED_F32, Kernel, LUT_I8, LUT_I16, QUANTIZE_I8, QUANTIZE_I16, QUANTIZE_U8,
    RARE_UNARY_F32, UNARY_F32, UNARY_I16, UNARY_I32, UNARY_I64,
};
use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{
    BinaryAttributes, GatedAttributes, MAX_RANK, QuantizeAttributes, UnaryAttributes, UnaryOp,
};
use crate::memory::Slot;
use crate::ops::quantize::lut_i16_bits;
use crate::ops::shape::{Walk, broadcast_strides, split};

/// Axes of a loop, merged, and the strides of `N` operands as kernels have them.
pub(super) struct Axes<const N: usize> {
    pub(super) rank: u32,
    pub(super) extents: [u32; MAX_RANK],
    pub(super) strides: [[u64; MAX_RANK]; N],
}

impl<const N: usize> Axes<N> {
    pub(super) fn new(
        dims: &[u32],
        strides: &[[usize; MAX_RANK]; N],
    ) -> Result<Axes<N>, StepErrorKind> {
        let walk = Walk::new(dims, strides);
        let mut axes =
            Axes { rank: walk.rank() as u32, extents: [1; MAX_RANK], strides: [[0; MAX_RANK]; N] };
        for axis in 0..walk.rank() {
            let (extent, strides) = walk.axis(axis);
            axes.extents[axis] = small(extent)?;
            for (to, stride) in axes.strides.iter_mut().zip(strides) {
                // Negative ones stay so in 64 bits.
                to[axis] = stride as isize as i64 as u64;
            }
        }
        Ok(axes)
    }
}

/// The loop over y with the positions of two operands that are broadcast to it.
fn broadcast(a: &Slot, b: &Slot, y: &Slot) -> Result<Axes<2>, StepErrorKind> {
    Axes::new(y.dims(), &[broadcast_strides(a, y.rank()), broadcast_strides(b, y.rank())])
}

pub(super) fn binary_quantized(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let attributes: BinaryAttributes = lower.step.expect_attributes()?;
    let ((a, a_at), (b, b_at), (y, output)) = (lower.input(0)?, lower.input(1)?, lower.output(0)?);
    let axes = broadcast(&a, &b, &y)?;
    let arguments = BinaryQuantized {
        a: a_at,
        b: b_at,
        output,
        strides_a: axes.strides[0],
        strides_b: axes.strides[1],
        extents: axes.extents,
        rank: axes.rank,
        elements: elements(&y)?,
        kind: attributes.kind,
        zero_point_a: a.zero_point(),
        zero_point_b: b.zero_point(),
        zero_point: y.zero_point(),
        scale_a: attributes.scale[0],
        scale_b: attributes.scale[1],
        min: attributes.clamp_q[0],
        max: attributes.clamp_q[1],
    };
    let kernel = if y.dtype() == DType::I16 { &BINARY_I16 } else { &BINARY_I8 };
    lower.call_elements(kernel, arguments.elements, arguments)
}

pub(super) fn lut_i8(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let ((_, input), (_, table), (y, output)) =
        (lower.input(0)?, lower.input(1)?, lower.output(0)?);
    let elements = elements(&y)?;
    lower.call_elements(&LUT_I8, elements, Lut { input, output, table, elements, bits: 0 })
}

pub(super) fn lut_i16(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let ((_, input), (slot, table), (y, output)) =
        (lower.input(0)?, lower.input(1)?, lower.output(0)?);
    let (elements, bits) = (elements(&y)?, lut_i16_bits(&slot, 1)?);
    lower.call_elements(&LUT_I16, elements, Lut { input, output, table, elements, bits })
}

fn affine(
    lower: &mut Lower<'_>,
    kernel: &'static Kernel,
    to_integers: bool,
) -> Result<(), Refusal> {
    let attributes: QuantizeAttributes = lower.step.expect_attributes()?;
    let ((x, input), (y, output)) = (lower.input(0)?, lower.output(0)?);
    let numbers = if to_integers { y } else { x };
    let mut arguments = Quantize {
        input,
        output,
        scales: lower.optional_address(1),
        zero_points: lower.optional_address(2),
        elements: elements(&y)?,
        extent: 1,
        inner: 1,
        scale: numbers.scale(),
        zero_point: numbers.zero_point(),
        reserved: 0,
    };
    if arguments.scales != 0 && arguments.elements > 0 {
        let split = split(&x, attributes.axis)?;
        (arguments.extent, arguments.inner) = (small(split.extent)?, small(split.inner)?);
    }
    lower.call_elements(kernel, arguments.elements, arguments)
}

pub(super) fn quantize_i8(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    affine(lower, &QUANTIZE_I8, true)
}

pub(super) fn quantize_u8(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    affine(lower, &QUANTIZE_U8, true)
}

pub(super) fn quantize_i16(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    affine(lower, &QUANTIZE_I16, true)
}

pub(super) fn dequantize_i8(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    affine(lower, &DEQUANTIZE_I8, false)
}

pub(super) fn dequantize_u8(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    affine(lower, &DEQUANTIZE_U8, false)
}

pub(super) fn dequantize_i16(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    affine(lower, &DEQUANTIZE_I16, false)
}

pub(super) fn dequantize_i32(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    affine(lower, &DEQUANTIZE_I32, false)
}

pub(super) fn binary_f32(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let attributes: BinaryAttributes = lower.step.expect_attributes()?;
    let ((a, a_at), (b, b_at), (y, output)) = (lower.input(0)?, lower.input(1)?, lower.output(0)?);
    let axes = broadcast(&a, &b, &y)?;
    let arguments = BinaryF32 {
        a: a_at,
        b: b_at,
        output,
        strides_a: axes.strides[0],
        strides_b: axes.strides[1],
        extents: axes.extents,
        rank: axes.rank,
        elements: elements(&y)?,
        kind: attributes.kind,
        min: attributes.clamp[0],
        max: attributes.clamp[1],
        reserved: 0,
    };
    lower.call_elements(&BINARY_F32, arguments.elements, arguments)
}

/// f32 and integers.
pub(super) fn unary(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let UnaryAttributes { kind, alpha, beta, .. } = lower.step.expect_attributes()?;
    let ((_, input), (y, output)) = (lower.input(0)?, lower.output(0)?);
    let kernel: &'static Kernel = match y.dtype() {
        DType::I16 => &UNARY_I16,
        DType::I32 => &UNARY_I32,
        DType::I64 => &UNARY_I64,
        _ if kind > UnaryOp::Round as u32 => &RARE_UNARY_F32,
        _ => &UNARY_F32,
    };
    let elements = elements(&y)?;
    lower.call_elements(
        kernel,
        elements,
        arguments::Unary { input, output, elements, kind, alpha, beta, scale: 1.0, shift: 0.0 },
    )
}

pub(super) fn gated(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let GatedAttributes { kind, .. } = lower.step.expect_attributes()?;
    let ((_, input), (y, output)) = (lower.input(0)?, lower.output(0)?);
    let width = y.dims().last().copied().unwrap_or(0);
    let elements = elements(&y)?;
    lower.call_elements(
        &GATED_F32,
        elements,
        arguments::Gated { input, output, elements, width, kind, reserved: 0 },
    )
}
