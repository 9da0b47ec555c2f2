//! Softmax and reductions.

use super::elementwise::Axes;
use super::{Lower, Refusal, elements, small};
use crate::backend::cuda::arguments::{self, Softmax};
use crate::backend::cuda::kernels::{
    Kernel, NORMALIZE_F32, REDUCE_F32, REDUCE_I8, REDUCE_I16, REDUCE_I32, REDUCE_I64, SOFTMAX_F32,
    SOFTMAX_I8, SOFTMAX_I16,
};
use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{MAX_RANK, NormalizeAttributes, ReduceAttributes, SoftmaxAttributes};
use crate::memory::Slot;
use crate::ops::shape::{product, split, strides};

pub(super) fn softmax_i8(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    softmax(lower, &SOFTMAX_I8)
}

pub(super) fn softmax_i16(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    softmax(lower, &SOFTMAX_I16)
}

pub(super) fn softmax_f32(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    softmax(lower, &SOFTMAX_F32)
}

fn softmax(lower: &mut Lower<'_>, kernel: &'static Kernel) -> Result<(), Refusal> {
    let attributes: SoftmaxAttributes = lower.step.expect_attributes()?;
    let ((x, input), (y, output)) = (lower.input(0)?, lower.output(0)?);
    if elements(&x)? == 0 {
        return Ok(());
    }
    let split = split(&x, attributes.axis)?;
    let arguments = Softmax {
        input,
        output,
        table: lower.optional_address(1),
        extent: small(split.extent)?,
        inner: small(split.inner)?,
        inverse_scale: attributes.inverse_output_scale,
        zero_point: y.zero_point(),
        log: attributes.log,
        reserved: 0,
    };
    lower.call(kernel, [split.outer * split.inner, 1], arguments)
}

/// Axes of x as a loop: those whose bit in `axes` is `reduced`.
fn axes_of(x: &Slot, axes: u32, reduced: bool) -> Result<Axes<1>, StepErrorKind> {
    let own = strides(x);
    let (mut dims, mut of, mut rank) = ([1; MAX_RANK], [0; MAX_RANK], 0);
    for axis in 0..x.rank() {
        if (axes >> axis & 1 == 1) == reduced {
            (dims[rank], of[rank]) = (x.dims()[axis], own[axis]);
            rank += 1;
        }
    }
    Axes::new(&dims[..rank], &[of])
}

pub(super) fn reduce(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let attributes: ReduceAttributes = lower.step.expect_attributes()?;
    let ((x, input), (y, output)) = (lower.input(0)?, lower.output(0)?);
    let outputs = elements(&y)?;
    if outputs == 0 {
        return Ok(());
    }
    let (kept, reduced) =
        (axes_of(&x, attributes.axes, false)?, axes_of(&x, attributes.axes, true)?);
    let arguments = arguments::Reduce {
        input,
        output,
        fixed_point: lower.optional_address(1),
        kept_strides: kept.strides[0],
        reduced_strides: reduced.strides[0],
        kept_extents: kept.extents,
        reduced_extents: reduced.extents,
        kept_rank: kept.rank,
        reduced_rank: reduced.rank,
        outputs,
        count: elements(&x)? / outputs,
        kind: attributes.kind,
        input_zero_point: x.zero_point(),
        zero_point: y.zero_point(),
        scale: attributes.scale,
        min: attributes.clamp_q[0],
        max: attributes.clamp_q[1],
    };
    let kernel: &'static Kernel = match x.dtype() {
        DType::I8 => &REDUCE_I8,
        DType::I16 => &REDUCE_I16,
        DType::I32 => &REDUCE_I32,
        DType::I64 => &REDUCE_I64,
        _ => &REDUCE_F32,
    };
    // A warp has an output.
    let blocks = (outputs as usize).div_ceil(kernel.threads as usize / 32);
    lower.call(kernel, [blocks, 1], arguments)
}

pub(super) fn normalize(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let attributes: NormalizeAttributes = lower.step.expect_attributes()?;
    let ((x, input), (_, output)) = (lower.input(0)?, lower.output(0)?);
    if elements(&x)? == 0 {
        return Ok(());
    }
    let row = product(&x.dims()[(attributes.axis as usize).min(x.rank())..]);
    let arguments = arguments::Normalize {
        input,
        output,
        scale: lower.optional_address(1),
        bias: lower.optional_address(2),
        row: small(row)?,
        centred: u32::from(attributes.kind == 1),
        epsilon: attributes.epsilon,
        reserved: 0,
    };
    lower.call(&NORMALIZE_F32, [x.elements() / row, 1], arguments)
}
