//! Convolution with computed weights, and pooling, over up to three spatial axes.

use super::{Lower, Refusal, elements, small};
use crate::backend::cuda::arguments::{self, Windows};
use crate::backend::cuda::kernels::{
    AVERAGE_POOL_ND_F32, CONV_ND_F32, CONV_ND_I32, Kernel, MAX_POOL_ND_F32, NORM_POOL_ND_F32,
    POOL_ND_I8, POOL_ND_U8,
};
use crate::dtype::DType;
use crate::format::{ConvNdAttributes, PoolNdAttributes};
use crate::memory::Slot;
use crate::ops::conv_nd::{MAX_SPATIAL, at_end};

/// Kinds of poolings, of which the third is a norm.
const MAX: u32 = 1;
const AVERAGE: u32 = 2;

/// Windows over x that give y; `kernel`, `stride`, `dilation` and `pad` are those of the axes that there are, first ones first.
fn windows(
    x: &Slot,
    y: &Slot,
    kernel: [u32; MAX_SPATIAL],
    [stride, dilation, pad]: [[u32; MAX_SPATIAL]; 3],
) -> Result<Windows, Refusal> {
    let spatial = x.rank() - 2;
    for slot in [x, y] {
        elements(slot)?;
    }
    let given = |values: [u32; MAX_SPATIAL], fill| at_end(&values[..spatial], fill);
    let sizes = |slot: &Slot| at_end(&slot.dims()[1..=spatial], 1);
    Ok(Windows {
        input: sizes(x),
        output: sizes(y),
        kernel: given(kernel, 1),
        stride: given(stride, 1),
        dilation: given(dilation, 1),
        pad: given(pad, 0),
    })
}

pub(super) fn conv_nd(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let attributes: ConvNdAttributes = lower.step.expect_attributes()?;
    let ((x, input), (slot, weights), (y, output)) =
        (lower.input(0)?, lower.input(1)?, lower.output(0)?);
    let (rank, groups) = (x.rank(), attributes.groups as usize);
    // Beside a size of 0, the others can be anything: then there is nothing to read.
    let is_empty = elements(&x)? == 0 || elements(&slot)? == 0;
    let mut kernel = [0; MAX_SPATIAL];
    if !is_empty {
        kernel[..rank - 2].copy_from_slice(&slot.dims()[1..rank - 1]);
    }
    let (in_c, out_c) = (x.dim(rank - 1), y.dim(rank - 1));
    let arguments = arguments::ConvNd {
        input,
        weights,
        bias: lower.optional_address(2),
        output,
        windows: windows(&x, &y, kernel, [attributes.stride, attributes.dilation, attributes.pad])?,
        in_c: small(in_c)?,
        out_c: small(out_c)?,
        group_in_c: small(in_c / groups)?,
        group_out_c: small(out_c / groups)?,
        elements: elements(&y)?,
        min: attributes.clamp[0],
        max: attributes.clamp[1],
        reserved: 0,
    };
    let kernel = if x.dtype() == DType::I32 { &CONV_ND_I32 } else { &CONV_ND_F32 };
    lower.call_elements(kernel, arguments.elements, arguments)
}

pub(super) fn pool_nd(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let attributes: PoolNdAttributes = lower.step.expect_attributes()?;
    let ((x, input), (y, output)) = (lower.input(0)?, lower.output(0)?);
    let rank = x.rank();
    let PoolNdAttributes { kernel, stride, dilation, pad, .. } = attributes;
    let positions = lower.step.optional_output(1);
    let arguments = arguments::PoolNd {
        input,
        output,
        positions: positions.map_or(0, |slot| lower.bases.address(&slot.place)),
        windows: windows(&x, &y, kernel, [stride, dilation, pad])?,
        pad_after: at_end(&attributes.pad_after[..rank - 2], 0),
        channels: small(x.dim(rank - 1))?,
        elements: elements(&y)?,
        kind: attributes.kind,
        counts_padding: u32::from(attributes.count_include_pad == 1),
        p: attributes.p,
        inverse_p: 1.0 / attributes.p,
        column_major: u32::from(attributes.column_major == 1),
    };
    let kernel: &'static Kernel = match x.dtype() {
        DType::I8 => &POOL_ND_I8,
        DType::U8 => &POOL_ND_U8,
        _ if attributes.kind == MAX => &MAX_POOL_ND_F32,
        _ if attributes.kind == AVERAGE => &AVERAGE_POOL_ND_F32,
        _ => &NORM_POOL_ND_F32,
    };
    lower.call_elements(kernel, arguments.elements, arguments)
}
