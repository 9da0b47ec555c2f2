//! Convolutions, layers and pooling.

use super::{Lower, Refusal, small};
use crate::backend::cuda::arguments::{self, ConvI8, ConvI16, ConvShape, DepthwiseI8, EpilogueI8};
use crate::backend::cuda::kernels::{
    CONV_I8_DP4A, CONV_I8_MMA, CONV_I16, DENSE_I8_DP4A, DEPTHWISE_I8, DEPTHWISE_I16, Kernel,
    MMA_ARCHITECTURE, POOL_F32, POOL_I8, POOL_I16,
};
use crate::error::StepErrorKind;
use crate::format::{Layout, PoolAttributes};
use crate::kernels::{ConvGeometry, PANEL_N};
use crate::memory::Slot;
use crate::ops::conv::{
    FIXED_POINT, GeometryFn, Layer, RESIDUAL_I8, WEIGHTS, conv_geometry, matrix_geometry,
    padding_value, window_geometry,
};

/// Up to so many pixels, blocks share the sums of a pixel instead of having a pixel for each lane.
const FEW_PIXELS: usize = 8;
/// Pixels of a block else.
const TILE_PIXELS: usize = 32;
/// Pixels of a block on tensor cores, and its outputs.
pub(super) const MMA_TILE: usize = 64;
/// Inputs of an output from which on tensor cores have something to do: one product.
const LEAST_MMA_K: usize = 32;

pub(super) fn shape_of(geometry: &ConvGeometry) -> Result<ConvShape, StepErrorKind> {
    let g = geometry;
    for len in [g.input_len(), g.out_pixels().saturating_mul(g.out_c)] {
        small(len)?;
    }
    Ok(ConvShape {
        pixels: small(g.out_pixels())?,
        in_h: small(g.in_h)?,
        in_w: small(g.in_w)?,
        in_c: small(g.in_c)?,
        out_h: small(g.out_h)?,
        out_w: small(g.out_w)?,
        out_c: small(g.out_c)?,
        kernel_h: small(g.kernel_h)?,
        kernel_w: small(g.kernel_w)?,
        stride_h: small(g.stride_h)?,
        stride_w: small(g.stride_w)?,
        dilation_h: small(g.dilation_h)?,
        dilation_w: small(g.dilation_w)?,
        pad_top: small(g.pad_top)?,
        pad_left: small(g.pad_left)?,
        group_in_c: small(g.group_in_c())?,
        group_out_c: small(g.group_out_c())?,
        panels: small(g.padded_group_out_c() / PANEL_N)?,
    })
}

/// Panels of all groups: the second axis of a grid.
fn all_panels(geometry: &ConvGeometry) -> usize {
    geometry.padded_out_c() / PANEL_N
}

fn epilogue_i8(lower: &Lower<'_>, layer: &Layer) -> EpilogueI8 {
    let attributes = &layer.attributes;
    let residual: Option<Slot> = lower.step.optional_input(RESIDUAL_I8);
    EpilogueI8 {
        bias: lower.optional_address(2),
        scale: lower.optional_address(3),
        fixed_point: lower.optional_address(FIXED_POINT),
        residual: lower.optional_address(RESIDUAL_I8),
        zero_point: attributes.zero_point,
        min: attributes.clamp_q[0],
        max: attributes.clamp_q[1],
        scale_conv: attributes.residual_scale[0],
        scale_data: attributes.residual_scale[1],
        residual_zero_point: residual.map_or(0, |slot| slot.zero_point()),
        out_zero_point: layer.y.zero_point(),
        residual_min: attributes.residual_clamp_q[0],
        residual_max: attributes.residual_clamp_q[1],
        reserved: 0,
    }
}

/// Weights in an order that kernels read.
fn expect_layout(lower: &Lower<'_>, layout: Layout) -> Result<(), Refusal> {
    match lower.step.input_layout(WEIGHTS) == layout {
        true => Ok(()),
        false => Err(Refusal::Lacks("weights for Cortex-M; convert with `--target any`")),
    }
}

fn panels_i8(lower: &mut Lower<'_>, geometry: GeometryFn) -> Result<(), Refusal> {
    expect_layout(lower, Layout::PanelI8)?;
    let layer = Layer::of(&lower.step)?;
    let g = geometry(&layer)?;
    let ((_, input), (_, weights), (_, output)) =
        (lower.input(0)?, lower.input(WEIGHTS)?, lower.output(0)?);
    let words_are_whole = g.group_in_c().is_multiple_of(4) && g.in_c.is_multiple_of(4);
    let arguments = ConvI8 {
        input,
        weights,
        output,
        epilogue: epilogue_i8(lower, &layer),
        shape: shape_of(&g)?,
        k: small(g.k())?,
        input_zero_point: padding_value(&layer.x).into(),
        aligned: u32::from(words_are_whole && input.is_multiple_of(4)),
        reserved: 0,
    };
    if !weights.is_multiple_of(16) {
        return Err(Refusal::Lacks("weights that aren't at a multiple of 16"));
    }
    if pays_mma(lower, &g) {
        let columns = g.groups * g.padded_group_out_c().div_ceil(MMA_TILE);
        lower.call(&CONV_I8_MMA, [g.out_pixels().div_ceil(MMA_TILE), columns], arguments)
    } else if g.out_pixels() <= FEW_PIXELS {
        lower.call(&DENSE_I8_DP4A, [g.out_pixels(), all_panels(&g)], arguments)
    } else {
        lower.call(&CONV_I8_DP4A, [g.out_pixels().div_ceil(TILE_PIXELS), all_panels(&g)], arguments)
    }
}

pub(super) fn conv_i8(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    panels_i8(lower, conv_geometry)
}

pub(super) fn fully_connected_i8(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    panels_i8(lower, matrix_geometry)
}

pub(super) fn depthwise_i8(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    expect_layout(lower, Layout::Depthwise)?;
    let layer = Layer::of(&lower.step)?;
    let g = conv_geometry(&layer)?;
    let ((_, input), (_, weights), (_, output)) =
        (lower.input(0)?, lower.input(WEIGHTS)?, lower.output(0)?);
    let arguments = DepthwiseI8 {
        input,
        weights,
        output,
        epilogue: epilogue_i8(lower, &layer),
        shape: shape_of(&g)?,
        input_zero_point: padding_value(&layer.x).into(),
        reserved: 0,
    };
    lower.call_elements(&DEPTHWISE_I8, small(g.out_pixels() * g.out_c)?, arguments)
}

fn layer_i16(
    lower: &mut Lower<'_>,
    kernel: &'static Kernel,
    geometry: GeometryFn,
) -> Result<(), Refusal> {
    let layer = Layer::of(&lower.step)?;
    let g = geometry(&layer)?;
    let ((_, input), (_, weights), (_, output)) =
        (lower.input(0)?, lower.input(WEIGHTS)?, lower.output(0)?);
    let arguments = ConvI16 {
        input,
        weights,
        output,
        bias: lower.optional_address(2),
        scale: lower.optional_address(3),
        shape: shape_of(&g)?,
        k: small(g.k())?,
        min: layer.attributes.clamp_q[0],
        max: layer.attributes.clamp_q[1],
        in_panels: u32::from(lower.step.input_layout(WEIGHTS) == Layout::PanelI8),
    };
    lower.call_elements(kernel, small(g.out_pixels() * g.out_c)?, arguments)
}

pub(super) fn conv_i16(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    layer_i16(lower, &CONV_I16, conv_geometry)
}

pub(super) fn fully_connected_i16(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    layer_i16(lower, &CONV_I16, matrix_geometry)
}

pub(super) fn depthwise_i16(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    layer_i16(lower, &DEPTHWISE_I16, conv_geometry)
}

fn pool(lower: &mut Lower<'_>, kernel: &'static Kernel) -> Result<(), Refusal> {
    let attributes: PoolAttributes = lower.step.expect_attributes()?;
    let ((x, input), (y, output)) = (lower.input(0)?, lower.output(0)?);
    let PoolAttributes { kernel: size, stride, dilation, pad, .. } = attributes;
    let g = window_geometry(&x, &y, 1, &[size, stride, dilation, pad], y.dim(3))?;
    let arguments = arguments::Pool {
        input,
        output,
        shape: shape_of(&g)?,
        kind: attributes.kind,
        pad_bottom: attributes.pad_after[0].into(),
        pad_right: attributes.pad_after[1].into(),
        counts_padding: u32::from(attributes.count_include_pad == 1),
        input_zero_point: x.zero_point(),
        zero_point: y.zero_point(),
        scale: attributes.scale,
        min: attributes.clamp_q[0],
        max: attributes.clamp_q[1],
        reserved: 0,
    };
    lower.call_elements(kernel, small(g.out_pixels() * g.out_c)?, arguments)
}

pub(super) fn pool_i8(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    pool(lower, &POOL_I8)
}

pub(super) fn pool_i16(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    pool(lower, &POOL_I16)
}

pub(super) fn pool_f32(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    pool(lower, &POOL_F32)
}

/// Whether the device has tensor cores, and the work fills their tiles.
pub(super) fn pays_mma(lower: &Lower<'_>, g: &ConvGeometry) -> bool {
    let fills_tiles =
        g.out_pixels() >= MMA_TILE && g.group_out_c() > PANEL_N && g.k() >= LEAST_MMA_K;
    lower.device.architecture >= MMA_ARCHITECTURE && fills_tiles
}
