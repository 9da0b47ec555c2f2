//! Softmax and reductions.

use super::elementwise::Axes;
use super::{Lower, Refusal, elements, small};
use crate::backend::cuda::kernels::{self, REDUCE_I8, SOFTMAX_I8, Softmax};
use crate::error::StepErrorKind;
use crate::format::{MAX_RANK, ReduceAttributes, SoftmaxAttributes};
use crate::memory::Slot;
use crate::ops::shape::{split, strides};

pub(super) fn softmax_i8(lower: &mut Lower<'_>) -> Result<(), Refusal> {
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
    lower.call(&SOFTMAX_I8, [split.outer * split.inner, 1], arguments)
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

pub(super) fn reduce_i8(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let attributes: ReduceAttributes = lower.step.expect_attributes()?;
    let ((x, input), (y, output)) = (lower.input(0)?, lower.output(0)?);
    let outputs = elements(&y)?;
    if outputs == 0 {
        return Ok(());
    }
    let (kept, reduced) =
        (axes_of(&x, attributes.axes, false)?, axes_of(&x, attributes.axes, true)?);
    let arguments = kernels::Reduce {
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
    // A warp has an output.
    let blocks = (outputs as usize).div_ceil(REDUCE_I8.threads as usize / 32);
    lower.call(&REDUCE_I8, [blocks, 1], arguments)
}
