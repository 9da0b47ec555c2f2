//! Convolution, depthwise convolution and fully connected layers, i8 and f32, over packed weights.

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{ConvAttributes, Layout, Op, UnaryOp};
use crate::isa::Isa;
use crate::kernels::conv_f32::bf16::PAIR;
use crate::kernels::conv_f32::grouped::GroupedForm;
use crate::kernels::conv_f32::{self, ConvF32, Stored};
use crate::kernels::conv_i8::{self, ConvI8};
use crate::kernels::depthwise_f32::{self, DepthwiseF32};
use crate::kernels::depthwise_i8;
use crate::kernels::elementary;
use crate::kernels::{
    Activation, ConvGeometry, EpilogueF32, EpilogueI8, FloatWeights, PANEL_N, Packing,
    PanelWeights, ResidualData, ResidualI8,
};
use crate::memory::{Context, Slot, same_bytes, typed, typed_mut};
#[cfg(feature = "std")]
use crate::ops::conv_parts;
use crate::ops::shape::{expect_apart_but, expect_dense};
use crate::ops::unary::elementary_function;
use crate::ops::{
    Operator, Step, by_ref, expect_same_shape, expect_type, expect_vector_at, no_scratch,
    select_isa,
};
#[cfg(feature = "std")]
use crate::session::Precision;

/// Products per output at most, so that `K × 2¹⁴` plus a bias of 30 bits stays within an i32.
pub(super) const MAX_K_I8: usize = 1 << 16;

/// How far windows may reach beyond the input: u16 padding on either side, doubled for slack.
const MAX_REACH: usize = 4 << 16;

/// The input that is packed.
pub(crate) const WEIGHTS: usize = 1;
/// Inputs of an i8 step: x, weights, bias, scales, weight sums, residual.
pub(crate) const RESIDUAL_I8: usize = 5;
/// Optional, for kernels that need unsigned activations.
const WEIGHT_SUMS: usize = 4;
/// Behind them, optional: multipliers and shifts that stand for the scales.
pub(crate) const FIXED_POINT: usize = 6;
/// Inputs of an f32 step: x, weights, bias, residual.
const RESIDUAL_F32: usize = 3;

/// i8 convolution.
pub static CONV_I8: Operator = Operator {
    op: Op::Conv2d,
    dtype: Some(DType::I8),
    check: |step| check_i8(step, conv_geometry, Layout::PanelI8),
    select: select_isa!(run_conv_i8),
    scratch_bytes: |step, isa| scratch_bytes(step, isa, conv_geometry, conv_i8::scratch_bytes),
};

/// f32 convolution, weights f32, f16, bf16 or grouped.
pub static CONV_F32: Operator = Operator {
    op: Op::Conv2d,
    dtype: Some(DType::F32),
    check: |step| check_f32(step, conv_geometry, Layout::PanelFloat),
    select: select_isa!(run_conv_f32),
    scratch_bytes: |step, isa| scratch_bytes_f32(step, isa, conv_geometry),
};

/// i8 depthwise convolution.
pub static DEPTHWISE_I8: Operator = Operator {
    op: Op::DepthwiseConv2d,
    dtype: Some(DType::I8),
    check: |step| check_i8(step, conv_geometry, Layout::Depthwise),
    select: select_isa!(run_depthwise_i8),
    scratch_bytes: |step, isa| scratch_bytes(step, isa, conv_geometry, depthwise_i8::scratch_bytes),
};

/// f32 depthwise convolution, weights f32 or f16.
pub static DEPTHWISE_F32: Operator = Operator {
    op: Op::DepthwiseConv2d,
    dtype: Some(DType::F32),
    check: |step| check_f32(step, conv_geometry, Layout::Depthwise),
    select: select_isa!(run_depthwise_f32),
    scratch_bytes: no_scratch,
};

/// i8 fully connected layer over the last axis.
pub static FULLY_CONNECTED_I8: Operator = Operator {
    op: Op::FullyConnected,
    dtype: Some(DType::I8),
    check: |step| check_i8(step, matrix_geometry, Layout::PanelI8),
    select: select_isa!(run_fully_connected_i8),
    scratch_bytes: |step, isa| scratch_bytes(step, isa, matrix_geometry, conv_i8::scratch_bytes),
};

/// f32 fully connected layer over the last axis, weights f32, f16, bf16 or grouped.
pub static FULLY_CONNECTED_F32: Operator = Operator {
    op: Op::FullyConnected,
    dtype: Some(DType::F32),
    check: |step| check_f32(step, matrix_geometry, Layout::PanelFloat),
    select: select_isa!(run_fully_connected_f32),
    scratch_bytes: |step, isa| scratch_bytes_f32(step, isa, matrix_geometry),
};

/// What every kernel needs to know of a step, read once.
#[derive(Clone, Copy)]
pub(crate) struct Layer {
    pub(crate) attributes: ConvAttributes,
    pub(crate) x: Slot,
    pub(crate) y: Slot,
    /// Number of the output among the operands.
    output: u8,
}

impl Layer {
    pub(crate) fn of(step: &Step<'_>) -> Result<Layer, StepErrorKind> {
        let (Some(x), Some(y)) = (step.optional_input(0), step.optional_output(0)) else {
            return Err(StepErrorKind::OperandCount);
        };
        let output = step.input_count() as u8;
        Ok(Layer { attributes: step.expect_attributes()?, x, y, output })
    }
}

/// A layer and its geometry, once they have been asked for.
#[derive(Clone, Copy, Default)]
pub(crate) struct Shaped {
    // As they are returned, since moving them is a copy.
    layer: Option<Result<Layer, StepErrorKind>>,
    geometry: Option<Result<ConvGeometry, StepErrorKind>>,
}

impl Shaped {
    /// Both of them for this step, which is the same each time.
    #[inline]
    pub(crate) fn get(
        &mut self,
        step: &Step<'_>,
        geometry: GeometryFn,
    ) -> Result<(&Layer, &ConvGeometry), StepErrorKind> {
        let layer = by_ref(self.layer.get_or_insert_with(|| Layer::of(step)))?;
        let geometry = by_ref(self.geometry.get_or_insert_with(|| geometry(layer)))?;
        Ok((layer, geometry))
    }
}

/// How a layer's geometry follows from its shapes and attributes.
pub(crate) type GeometryFn = fn(&Layer) -> Result<ConvGeometry, StepErrorKind>;

pub(super) fn scratch_bytes(
    step: &Step<'_>,
    isa: Isa,
    geometry: GeometryFn,
    bytes: fn(&ConvGeometry, Isa) -> usize,
) -> usize {
    Layer::of(step).and_then(|layer| geometry(&layer)).map_or(0, |geometry| bytes(&geometry, isa))
}

pub(super) fn scratch_bytes_f32(step: &Step<'_>, isa: Isa, geometry: GeometryFn) -> usize {
    let stored = stored(step);
    let bytes = |geometry: ConvGeometry| conv_f32::scratch_bytes(&geometry, stored, isa);
    Layer::of(step).and_then(|layer| geometry(&layer)).map_or(0, bytes)
}

/// What the weights of a dense float layer are.
pub(super) fn stored(step: &Step<'_>) -> Stored {
    match (GroupedForm::of(step.input_layout(WEIGHTS)), step.optional_input(WEIGHTS)) {
        (Some(_), _) => Stored::Grouped,
        (None, Some(weights)) if weights.dtype == DType::BF16 => Stored::Bf16,
        _ => Stored::Float,
    }
}

/// Geometry of a convolution step; an error when attributes and shapes contradict each other.
pub(crate) fn conv_geometry(layer: &Layer) -> Result<ConvGeometry, StepErrorKind> {
    let Layer { attributes, x, y, output } = layer;
    let ConvAttributes { kernel, stride, dilation, pad, groups, .. } = *attributes;
    window_geometry(x, y, *output, &[kernel, stride, dilation, pad], groups as usize)
}

/// Geometry of windows over x that give y: kernel, stride, dilation and padding, height before width.
#[inline(never)]
pub(crate) fn window_geometry(
    x: &Slot,
    y: &Slot,
    output: u8,
    windows: &[[u16; 2]; 4],
    groups: usize,
) -> Result<ConvGeometry, StepErrorKind> {
    if x.rank() != 4 {
        return Err(StepErrorKind::OperandShape(0));
    }
    if y.rank() != 4 || x.dim(0) != y.dim(0) || y.elements() == 0 || x.elements() == 0 {
        return Err(StepErrorKind::OperandShape(output));
    }
    let [kernel, stride, dilation, pad] = windows.map(|sizes| sizes.map(usize::from));
    if groups == 0 || [kernel, stride, dilation].iter().any(|sizes| sizes.contains(&0)) {
        return Err(StepErrorKind::Attribute("kernel, stride, dilation or groups"));
    }
    if !x.dim(3).is_multiple_of(groups) || !y.dim(3).is_multiple_of(groups) {
        return Err(StepErrorKind::Attribute("groups"));
    }
    for axis in 0..2 {
        // Sizes are below 2³¹ and attributes below 2¹⁶.
        let moved = (y.dim(axis + 1) - 1).saturating_mul(stride[axis]);
        let taps = (kernel[axis] - 1) * dilation[axis];
        if moved.saturating_add(taps) > x.dim(axis + 1) + MAX_REACH {
            return Err(StepErrorKind::OperandShape(output));
        }
    }
    Ok(ConvGeometry {
        batch: x.dim(0),
        in_h: x.dim(1),
        in_w: x.dim(2),
        in_c: x.dim(3),
        out_h: y.dim(1),
        out_w: y.dim(2),
        out_c: y.dim(3),
        kernel_h: kernel[0],
        kernel_w: kernel[1],
        stride_h: stride[0],
        stride_w: stride[1],
        pad_top: pad[0],
        pad_left: pad[1],
        dilation_h: dilation[0],
        dilation_w: dilation[1],
        groups,
    })
}

/// Geometry of a matrix product over the last axis of x.
pub(crate) fn matrix_geometry(layer: &Layer) -> Result<ConvGeometry, StepErrorKind> {
    let Layer { x, y, output, .. } = layer;
    let (k, n) = (x.dims().last().copied(), y.dims().last().copied());
    let (Some(k), Some(n)) = (k, n) else { return Err(StepErrorKind::OperandShape(0)) };
    if x.elements() == 0 || y.elements() == 0 {
        return Err(StepErrorKind::OperandShape(0));
    }
    let (m, m_of_y) = (x.elements() / k as usize, y.elements() / n as usize);
    if m != m_of_y {
        return Err(StepErrorKind::OperandShape(*output));
    }
    Ok(ConvGeometry::matmul(m, k as usize, n as usize))
}

/// Per-channel vectors and weights that a geometry needs: (vector length, weight elements).
fn packed_sizes(geometry: &ConvGeometry, layout: Layout) -> Result<(usize, usize), StepErrorKind> {
    if !geometry.is_bounded() {
        return Err(StepErrorKind::TooLarge);
    }
    let fits = |a: usize, b: usize| a.checked_mul(b).ok_or(StepErrorKind::TooLarge);
    let taps = fits(geometry.kernel_h, geometry.kernel_w)?;
    let k = fits(taps, geometry.group_in_c())?;
    if layout == Layout::Depthwise {
        if !geometry.is_depthwise() {
            return Err(StepErrorKind::Attribute("groups"));
        }
        let channels = geometry.in_c.next_multiple_of(PANEL_N);
        return Ok((channels, fits(taps, channels)?));
    }
    let channels = fits(geometry.groups, geometry.padded_group_out_c())?;
    let k = if layout == Layout::PanelI8 { k.next_multiple_of(crate::kernels::PANEL_K) } else { k };
    Ok((channels, fits(channels, k)?))
}

/// As [`packed_sizes`], for i8 in layout 6.
fn cortex_m_sizes(
    geometry: &ConvGeometry,
    is_depthwise: bool,
) -> Result<(usize, usize), StepErrorKind> {
    if !geometry.is_bounded() {
        return Err(StepErrorKind::TooLarge);
    }
    match is_depthwise {
        true if !geometry.is_depthwise() => Err(StepErrorKind::Attribute("groups")),
        // Bounded: the products below are at most those of `is_bounded`.
        true => Ok((geometry.in_c, geometry.k() * geometry.in_c)),
        false => {
            Ok((geometry.channels_len(Packing::CortexM), geometry.weights_i8_len(Packing::CortexM)))
        }
    }
}

/// Checks the type, group size and length of grouped weights.
pub(super) fn check_grouped(
    step: &Step<'_>,
    operand: usize,
    form: GroupedForm,
    geometry: &ConvGeometry,
) -> Result<(), StepErrorKind> {
    let (weights, number) = (step.input(operand)?, operand as u8);
    expect_type(&weights, form.dtype(), number)?;
    let group_size = step.input_group_size(operand);
    // Scales behind the weights are aligned as these are.
    let is_aligned = weights.place.offset.is_multiple_of(form.align());
    if !form.bits.has_groups_of(group_size) || !is_aligned {
        return Err(StepErrorKind::OperandLayout(number));
    }
    if weights.bytes() < form.bytes(geometry, group_size) {
        return Err(StepErrorKind::OperandShape(number));
    }
    Ok(())
}

/// The kernels' name for an i8 layout.
pub(super) fn packing(layout: Layout) -> Packing {
    if layout == Layout::CortexM { Packing::CortexM } else { Packing::Panels }
}

/// A residual is the output's equal in type and shape. Depthwise kernels want it apart from the
/// output, all others can read an element where they write it next.
fn check_residual(
    step: &Step<'_>,
    layer: &Layer,
    layout: Layout,
    index: usize,
    dtype: DType,
) -> Result<(), StepErrorKind> {
    let Some(residual) = step.optional_input(index) else { return Ok(()) };
    if layout == Layout::Depthwise && same_bytes(&residual.place, &layer.y.place) {
        return Err(StepErrorKind::Overlap);
    }
    expect_type(&residual, dtype, index as u8)?;
    expect_same_shape(&residual, &layer.y, index as u8)
}

/// Checks that every operand but the weights is dense, and that the output lies apart from the
/// inputs; the residual may be the same bytes.
pub(super) fn check_memory(step: &Step<'_>, residual: usize) -> Result<(), StepErrorKind> {
    expect_apart_but(step, residual)?;
    for index in (0..step.input_count()).filter(|index| *index != WEIGHTS) {
        let Some(x) = step.optional_input(index) else { continue };
        expect_dense(&x, index.min(255) as u8)?;
    }
    Ok(())
}

fn check_i8(step: &Step<'_>, geometry: GeometryFn, layout: Layout) -> Result<(), StepErrorKind> {
    let layer = Layer::of(step);
    let layer = by_ref(&layer)?;
    let geometry = geometry(layer);
    let geometry = by_ref(&geometry)?;
    step.expect_counts(RESIDUAL_I8, FIXED_POINT + 1)?;
    check_memory(step, RESIDUAL_I8)?;
    expect_type(&layer.x, DType::I8, 0)?;
    expect_type(&layer.y, DType::I8, layer.output)?;
    if geometry.k() > MAX_K_I8 {
        return Err(StepErrorKind::TooLarge);
    }
    let weights = step.input(WEIGHTS)?;
    expect_type(&weights, DType::I8, 1)?;
    let (channels, weight_len) = match weights.layout {
        Layout::CortexM => cortex_m_sizes(geometry, layout == Layout::Depthwise)?,
        own if own == layout => packed_sizes(geometry, layout)?,
        _ => return Err(StepErrorKind::OperandLayout(1)),
    };
    if weights.bytes() < weight_len {
        return Err(StepErrorKind::OperandShape(1));
    }
    expect_vector_at(step, 2, DType::I32, channels)?;
    expect_vector_at(step, 3, DType::F32, channels)?;
    for (index, len) in [(WEIGHT_SUMS, channels), (FIXED_POINT, 2 * channels)] {
        if step.has_input(index) {
            expect_vector_at(step, index as u8, DType::I32, len)?;
        }
    }
    let attributes = &layer.attributes;
    for [min, max] in [attributes.clamp_q, attributes.residual_clamp_q] {
        if i8::try_from(min).is_err() || i8::try_from(max).is_err() || min > max {
            return Err(StepErrorKind::Attribute("clamp"));
        }
    }
    if i8::try_from(attributes.zero_point).is_err() {
        return Err(StepErrorKind::Attribute("zero point"));
    }
    check_residual(step, layer, layout, RESIDUAL_I8, DType::I8)
}

fn check_f32(step: &Step<'_>, geometry: GeometryFn, layout: Layout) -> Result<(), StepErrorKind> {
    let layer = Layer::of(step)?;
    let geometry = geometry(&layer)?;
    step.expect_counts(RESIDUAL_F32, RESIDUAL_F32 + 1)?;
    check_memory(step, RESIDUAL_F32)?;
    expect_type(&layer.x, DType::F32, 0)?;
    expect_type(&layer.y, DType::F32, layer.output)?;
    let (channels, weight_len) = packed_sizes(&geometry, layout)?;
    let weights = step.input(WEIGHTS)?;
    match GroupedForm::of(weights.layout) {
        Some(form) if layout == Layout::PanelFloat => {
            check_grouped(step, WEIGHTS, form, &geometry)?;
        }
        _ => {
            let is_bf16 = weights.dtype == DType::BF16 && layout == Layout::PanelFloat;
            if !matches!(weights.dtype, DType::F32 | DType::F16) && !is_bf16 {
                return Err(StepErrorKind::OperandType(1));
            }
            if weights.layout != layout {
                return Err(StepErrorKind::OperandLayout(1));
            }
            if is_bf16 && !geometry.group_in_c().is_multiple_of(PAIR) {
                return Err(StepErrorKind::OperandShape(1));
            }
            if weights.bytes() / weights.dtype.size() < weight_len {
                return Err(StepErrorKind::OperandShape(1));
            }
        }
    }
    expect_vector_at(step, 2, DType::F32, channels)?;
    activation(&layer.attributes, Isa::Scalar)?;
    check_residual(step, &layer, layout, RESIDUAL_F32, DType::F32)
}

/// The kernels of a family of i8 convolutions.
pub(super) struct KernelsI8 {
    #[cfg(feature = "std")]
    pub(super) scratch_bytes: fn(&ConvGeometry, Isa) -> usize,
    select: fn(Isa) -> fn(&mut ConvI8<'_>),
    #[cfg(feature = "std")]
    is_depthwise: bool,
}

pub(super) const PANELS_I8: KernelsI8 = KernelsI8 {
    #[cfg(feature = "std")]
    scratch_bytes: conv_i8::scratch_bytes,
    select: conv_i8::select,
    #[cfg(feature = "std")]
    is_depthwise: false,
};

pub(super) const DEPTHWISE_KERNELS_I8: KernelsI8 = KernelsI8 {
    #[cfg(feature = "std")]
    scratch_bytes: depthwise_i8::scratch_bytes,
    select: depthwise_i8::select,
    #[cfg(feature = "std")]
    is_depthwise: true,
};

/// Only scalar kernels and those of AArch64 requantize in fixed point.
fn isa_for(epilogue: &EpilogueI8<'_>, isa: Isa) -> Isa {
    let has_fixed_point = matches!(isa, Isa::Neon | Isa::Dotprod | Isa::I8mm);
    if has_fixed_point || epilogue.fixed_point.is_empty() { isa } else { Isa::Scalar }
}

/// Padding holds the input's zero point: the real number 0.
pub(crate) fn padding_value(x: &Slot) -> i8 {
    x.zero_point.clamp(-128, 127) as i8
}

fn residual_i8<'v>(
    slot: &Slot,
    layer: &Layer,
    bytes: &'v [u8],
) -> Result<ResidualI8<'v>, StepErrorKind> {
    let Layer { attributes, y, .. } = layer;
    let data = if same_bytes(&slot.place, &y.place) {
        ResidualData::InOutput
    } else {
        ResidualData::Apart(typed(bytes, RESIDUAL_I8 as u8)?)
    };
    Ok(ResidualI8 {
        data,
        scale_conv: attributes.residual_scale[0],
        scale_data: attributes.residual_scale[1],
        zero_point: slot.zero_point,
        out_zero_point: y.zero_point,
        min: attributes.residual_clamp_q[0],
        max: attributes.residual_clamp_q[1],
    })
}

/// Not generic but for the instruction set, so that there is one of it for all kinds.
#[inline(never)]
fn run_i8<const ISA: usize>(
    context: &mut Context<'_>,
    geometry: GeometryFn,
    kernels: &KernelsI8,
) -> Result<(), StepErrorKind> {
    let mut fresh = Shaped::default();
    let (layer, geometry) = context.shaped(geometry, &mut fresh)?;
    let isa = Isa::ALL[ISA];
    let attributes = &layer.attributes;
    let residual = context.step.optional_input(RESIDUAL_I8);
    let packing = packing(context.step.input_layout(WEIGHTS));
    #[cfg(feature = "std")]
    let crew = context.take_crew();
    let inputs = [0, 1, 2, 3, WEIGHT_SUMS, RESIDUAL_I8, FIXED_POINT];
    let operands = context.operands_over(inputs, RESIDUAL_I8)?;
    let [input, weights, bias, scale, weight_sums, residual_data, fixed_point] = operands.inputs;
    let mut conv = ConvI8 {
        geometry,
        input: typed(input, 0)?,
        input_zero_point: padding_value(&layer.x),
        weights: typed(weights, 1)?,
        packing,
        bias: typed(bias, 2)?,
        weight_sums: typed(weight_sums, WEIGHT_SUMS as u8)?,
        epilogue: EpilogueI8 {
            scale: typed(scale, 3)?,
            fixed_point: typed(fixed_point, FIXED_POINT as u8)?,
            zero_point: attributes.zero_point,
            min: attributes.clamp_q[0],
            max: attributes.clamp_q[1],
            residual: match residual {
                None => None,
                Some(slot) => Some(residual_i8(&slot, layer, residual_data)?),
            },
        },
        output: typed_mut(operands.output, inputs.len() as u8)?,
        output_stride: geometry.out_c,
        scratch: operands.scratch,
    };
    let kernel = (kernels.select)(isa_for(&conv.epilogue, isa));
    #[cfg(feature = "std")]
    if let Some(crew) = crew {
        return conv_parts::run_i8(crew, conv, kernels.is_depthwise, kernel);
    }
    kernel(&mut conv);
    Ok(())
}

fn run_conv_i8<const ISA: usize>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    run_i8::<ISA>(context, conv_geometry, &PANELS_I8)
}

fn run_fully_connected_i8<const ISA: usize>(
    context: &mut Context<'_>,
) -> Result<(), StepErrorKind> {
    run_i8::<ISA>(context, matrix_geometry, &PANELS_I8)
}

fn run_depthwise_i8<const ISA: usize>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    run_i8::<ISA>(context, conv_geometry, &DEPTHWISE_KERNELS_I8)
}

/// What the f32 kernels take besides their geometry.
struct PartsF32<'v> {
    input: &'v [f32],
    /// As they lie in the file.
    weights: &'v [u8],
    epilogue: EpilogueF32<'v>,
    output: &'v mut [f32],
    scratch: &'v mut [f32],
}

/// What comes behind a float layer's clamp.
fn activation(attributes: &ConvAttributes, isa: Isa) -> Result<Option<Activation>, StepErrorKind> {
    if attributes.activation == 0 {
        return Ok(None);
    }
    let kind = UnaryOp::from_number(attributes.activation);
    let function = kind.and_then(elementary_function);
    let function = function.ok_or(StepErrorKind::Attribute("activation"))?;
    let affine = attributes.activation_affine;
    Ok(Some(Activation { function, affine, apply: elementary::select_activation(isa) }))
}

fn parts_f32<'v>(
    context: &'v mut Context<'_>,
    layer: &Layer,
    isa: Isa,
) -> Result<PartsF32<'v>, StepErrorKind> {
    let Layer { attributes, y, .. } = layer;
    let residual = context.step.input_place(RESIDUAL_F32);
    let in_place = residual.map(|place| same_bytes(&place, &y.place));
    let operands = context.operands_over([0, 1, 2, RESIDUAL_F32], RESIDUAL_F32)?;
    let [input, weights, bias, residual] = operands.inputs;
    let scratch_bytes = operands.scratch.len() / 4 * 4;
    Ok(PartsF32 {
        input: typed(input, 0)?,
        weights,
        epilogue: EpilogueF32 {
            bias: typed(bias, 2)?,
            residual: match in_place {
                None => None,
                Some(true) => Some(ResidualData::InOutput),
                Some(false) => Some(ResidualData::Apart(typed(residual, 3)?)),
            },
            min: attributes.clamp[0],
            max: attributes.clamp[1],
            activation: activation(attributes, isa)?,
        },
        output: typed_mut(operands.output, 4)?,
        scratch: typed_mut(&mut operands.scratch[..scratch_bytes], 5)?,
    })
}

pub(super) fn float_weights(bytes: &[u8], dtype: DType) -> Result<FloatWeights<'_>, StepErrorKind> {
    Ok(match dtype {
        DType::F16 => FloatWeights::F16(typed(bytes, 1)?),
        _ => FloatWeights::F32(typed(bytes, 1)?),
    })
}

fn run_panels_f32<const ISA: usize>(
    context: &mut Context<'_>,
    geometry: GeometryFn,
) -> Result<(), StepErrorKind> {
    let mut fresh = Shaped::default();
    let (layer, geometry) = context.shaped(geometry, &mut fresh)?;
    let isa = Isa::ALL[ISA];
    let weights = context.step.input(WEIGHTS)?;
    let group_size = context.step.input_group_size(WEIGHTS);
    #[cfg(feature = "std")]
    let (precision, crew) = (context.precision, context.take_crew());
    let parts = parts_f32(context, layer, isa)?;
    let mut conv = ConvF32 {
        geometry: *geometry,
        pixels: 0..geometry.out_pixels(),
        input: parts.input,
        weights: match GroupedForm::of(weights.layout) {
            Some(form) => {
                let planes = form.planes(geometry, group_size, parts.weights);
                PanelWeights::Grouped(planes.ok_or(StepErrorKind::OperandShape(1))?)
            }
            None if weights.dtype == DType::BF16 => PanelWeights::Bf16(typed(parts.weights, 1)?),
            None => float_weights(parts.weights, weights.dtype)?.into(),
        },
        epilogue: parts.epilogue,
        output: parts.output,
        output_stride: geometry.out_c,
        scratch: parts.scratch,
    };
    let kernel = match conv.weights {
        #[cfg(feature = "std")]
        PanelWeights::Grouped(_) if precision == Precision::Highest => conv_f32::select_floats(isa),
        _ => conv_f32::select(isa),
    };
    #[cfg(feature = "std")]
    if let Some(crew) = crew {
        return conv_parts::run_f32(crew, conv, isa, kernel);
    }
    kernel(&mut conv);
    Ok(())
}

fn run_conv_f32<const ISA: usize>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    run_panels_f32::<ISA>(context, conv_geometry)
}

fn run_fully_connected_f32<const ISA: usize>(
    context: &mut Context<'_>,
) -> Result<(), StepErrorKind> {
    run_panels_f32::<ISA>(context, matrix_geometry)
}

fn run_depthwise_f32<const ISA: usize>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let mut fresh = Shaped::default();
    let (layer, geometry) = context.shaped(conv_geometry, &mut fresh)?;
    let isa = Isa::ALL[ISA];
    let dtype = context.step.input(WEIGHTS)?.dtype;
    #[cfg(feature = "std")]
    let crew = context.take_crew();
    let parts = parts_f32(context, layer, isa)?;
    let mut depthwise = DepthwiseF32 {
        geometry: *geometry,
        input: parts.input,
        weights: float_weights(parts.weights, dtype)?,
        epilogue: parts.epilogue,
        output: parts.output,
        output_stride: geometry.out_c,
    };
    let kernel = depthwise_f32::select(isa);
    #[cfg(feature = "std")]
    if let Some(crew) = crew {
        return conv_parts::run_depthwise_f32(crew, depthwise, kernel);
    }
    kernel(&mut depthwise);
    Ok(())
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::SessionError;
    use crate::format::Field;
    use crate::ops::testing::{Case, Random, Tensor, bytes_of, shape, tensor};

    const ROWS: usize = 5;
    /// Not a whole number of panels, so that tiles are partial.
    const CHANNELS: usize = 37;

    /// A layer whose input, output and residual have one shape, in i8 or f32.
    fn layer(op: Op, dtype: DType) -> Case {
        let mut random = Random(0x2545_f491);
        let (rows, c) = (ROWS as u32, CHANNELS as u32);
        let activations = [1, 1, rows, c];
        let padded = CHANNELS.next_multiple_of(PANEL_N);
        let taps = if op == Op::DepthwiseConv2d { 1 } else { CHANNELS };
        let (float, own) = (dtype == DType::F32, op == Op::DepthwiseConv2d);
        let packed_k = if float { taps } else { taps.next_multiple_of(crate::kernels::PANEL_K) };
        let layout = match (own, float) {
            (true, _) => Layout::Depthwise,
            (false, true) => Layout::PanelFloat,
            (false, false) => Layout::PanelI8,
        };
        let weights = padded * if own { 1 } else { packed_k };
        let one = padded as u32;
        let mut activation = || match float {
            true => tensor(&activations, &random.f32s(ROWS * CHANNELS)),
            false => tensor(&activations, &random.i8s(ROWS * CHANNELS)).quantized(0.5, 3),
        };
        let (x, residual) = (activation(), activation());
        let packed =
            |tensor: Tensor| Tensor { dims: vec![c, taps as u32], ..tensor }.packed(layout);
        let attributes = ConvAttributes {
            kernel: [1, 1],
            stride: [1, 1],
            dilation: [1, 1],
            groups: if own { c } else { 1 },
            clamp: [f32::NEG_INFINITY, f32::INFINITY],
            clamp_q: [-128, 127],
            zero_point: -4,
            residual_scale: [0.7, 0.9],
            residual_clamp_q: [-100, 120],
            ..ConvAttributes::default()
        };
        let mut inputs = match float {
            true => vec![
                Some(x),
                Some(packed(tensor(&[weights as u32], &random.f32s(weights)))),
                Some(tensor(&[one], &random.f32s(padded)).constant()),
            ],
            false => vec![
                Some(x),
                Some(packed(tensor(&[weights as u32], &random.i8s(weights)))),
                Some(tensor(&[one], &vec![100i32; padded]).constant()),
                Some(tensor(&[one], &vec![0.003f32; padded]).constant()),
                None,
            ],
        };
        inputs.push(Some(residual));
        Case {
            op,
            variant: Some(dtype),
            attributes: bytes_of(attributes),
            inputs,
            output: shape(dtype, &activations).quantized(if float { 0.0 } else { 0.5 }, 0),
            more_outputs: vec![],
            shared: None,
        }
    }

    /// Layers with multipliers and shifts against their formula, on every instruction set.
    #[test]
    fn fixed_point_stands_for_the_scales() {
        let mut random = Random(77);
        let padded = CHANNELS.next_multiple_of(PANEL_N);
        let numbers: Vec<i32> = (0..padded)
            .flat_map(|_| [1 << 30 | (random.next() >> 2) as i32, -8 - random.below(3) as i32])
            .collect();
        let one = |numbers: &[i32]| tensor(&[numbers.len() as u32], numbers).constant();
        for op in [Op::Conv2d, Op::FullyConnected, Op::DepthwiseConv2d] {
            for residual in [false, true] {
                let mut case = layer(op, DType::I8);
                if !residual {
                    case.inputs[RESIDUAL_I8] = None;
                }
                let plain = case.run_bytes().unwrap();
                case.inputs.push(Some(one(&numbers)));
                let bytes = |input: usize| -> Vec<i32> {
                    let tensor = case.inputs[input].as_ref().unwrap();
                    tensor.bytes.iter().map(|byte| i32::from(*byte as i8)).collect()
                };
                let (x, weights) = (bytes(0), bytes(WEIGHTS));
                let packed_k = CHANNELS.next_multiple_of(4);
                let acc = |row: usize, n: usize| match op {
                    Op::DepthwiseConv2d => 100 + x[row * CHANNELS + n] * weights[n],
                    _ => (0..CHANNELS).fold(100, |acc, k| {
                        let at = (n / 16 * (packed_k / 4) + k / 4) * 64 + n % 16 * 4 + k % 4;
                        acc + x[row * CHANNELS + k] * weights[at]
                    }),
                };
                let want = |index: usize| {
                    let (row, n) = (index / CHANNELS, index % CHANNELS);
                    let [multiplier, shift] = [numbers[2 * n], numbers[2 * n + 1]].map(i128::from);
                    let high = (i128::from(acc(row, n)) * multiplier + (1 << 30)) >> 31;
                    let q = high.signum() * ((high.abs() + (1 << (-shift - 1))) >> -shift);
                    let q = q.clamp(-128 + 4, 127 + 4) as i32;
                    if !residual {
                        return (q - 4) as i8;
                    }
                    let data = (bytes(RESIDUAL_I8)[index] - 3) as f32 * 0.9;
                    ((q as f32 * 0.7 + data).round_ties_even() as i32).clamp(-100, 120) as i8
                };
                let want: Vec<u8> = (0..ROWS * CHANNELS).map(|at| want(at) as u8).collect();
                assert!(want != plain, "{op}: the scales would do");
                for isa in Isa::available() {
                    assert!(case.run_on(Some(isa)).unwrap() == want, "{op} {residual} on {isa}");
                }
                // Any numbers run; fewer than one pair a channel, or other types, are refused.
                let mut with = |numbers: Tensor| {
                    case.inputs[FIXED_POINT] = Some(numbers);
                    case.run_bytes()
                };
                for extreme in [i32::MIN, -32, -1, 0, 31, 32, i32::MAX] {
                    assert!(with(one(&vec![extreme; 2 * padded])).is_ok(), "{op} {extreme}");
                }
                for short in [0, 1, padded, 2 * padded - 1] {
                    assert!(with(one(&numbers[..short])).is_err(), "{op} {short}");
                }
                let floats = vec![0f32; 2 * padded];
                assert!(with(tensor(&[2 * padded as u32], &floats).constant()).is_err());
            }
        }
    }

    /// Grouped weights run in the planes that they need, whatever the bytes, and are refused in less, in another
    /// type or layout, with other groups, and under a depthwise convolution.
    #[test]
    fn planes_of_grouped_weights() {
        let mut random = Random(5);
        // 37 inputs and outputs: three panels of these words and upper words, of two groups.
        for (layout, dtype, words) in [
            (Layout::GroupedW8, DType::I8, 10),
            (Layout::GroupedW4, DType::U8, 5),
            (Layout::GroupedW5, DType::U8, 8 + 2),
            (Layout::GroupedW6Narrow, DType::U8, 6 + 3),
            (Layout::GroupedW4Nl, DType::U8, 5),
        ] {
            let needed = 3 * (words * 64 + 2 * 32);
            let mut with = |op: Op, bytes: usize, dtype: DType, layout: Layout, group_size: u32| {
                let mut case = layer(op, DType::F32);
                let weights = case.inputs[WEIGHTS].as_mut().unwrap();
                // Scales of any bits: also NaN and infinite.
                weights.bytes = random.i8s(bytes).into_iter().map(|byte| byte as u8).collect();
                (weights.dtype, weights.layout, weights.group_size) = (dtype, layout, group_size);
                Isa::available().map(|isa| case.run_on(Some(isa))).collect::<Vec<_>>()
            };
            for op in [Op::Conv2d, Op::FullyConnected] {
                let fewer = if layout == Layout::GroupedW6Narrow { 3 * 16 } else { 3 * 32 };
                for (bytes, group_size) in [(needed, 32), (needed + 64, 32), (needed - fewer, 64)] {
                    let results = with(op, bytes, dtype, layout, group_size);
                    assert!(results.iter().all(Result::is_ok), "{op} {layout:?} {bytes}");
                }
                let other = if dtype == DType::I8 { DType::U8 } else { DType::I8 };
                let refused = |kind| Err(SessionError::Step { step: 0, kind });
                let cases = [
                    (with(op, needed - 2, dtype, layout, 32), StepErrorKind::OperandShape(1)),
                    (with(op, 0, dtype, layout, 32), StepErrorKind::OperandShape(1)),
                    (with(op, needed, other, layout, 32), StepErrorKind::OperandType(1)),
                    (with(op, needed, DType::F32, layout, 32), StepErrorKind::OperandType(1)),
                    (with(op, needed, dtype, layout, 0), StepErrorKind::OperandLayout(1)),
                    (with(op, needed, dtype, layout, 33), StepErrorKind::OperandLayout(1)),
                    (with(op, needed, dtype, layout, 8), StepErrorKind::OperandLayout(1)),
                    (with(op, needed, dtype, layout, 256), StepErrorKind::OperandLayout(1)),
                    (with(op, needed, dtype, layout, u32::MAX), StepErrorKind::OperandLayout(1)),
                ];
                for (results, kind) in cases {
                    assert!(results.iter().all(|result| *result == refused(kind)), "{op} {kind:?}");
                }
            }
            let depthwise = with(Op::DepthwiseConv2d, needed, dtype, layout, 32);
            assert!(depthwise.iter().all(Result::is_err), "{depthwise:?}");
        }
    }

    fn floats(bytes: &[u8]) -> Vec<f32> {
        bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    /// A float layer with an activation gives what the layer, the function, a product and a sum give one after the other; a function that
    /// layers don't have is refused.
    #[test]
    fn bf16_weights_come_in_pairs_of_layers_that_arent_depthwise() {
        let refusal = |op: Op, kind| {
            let mut case = layer(op, DType::F32);
            let weights = case.inputs[1].as_mut().unwrap();
            weights.dtype = DType::BF16;
            let refused = case.run_on(Some(Isa::Scalar)).err();
            assert_eq!(refused, Some(SessionError::Step { step: 0, kind }), "{op:?}");
        };
        // 37 inputs are not whole pairs.
        refusal(Op::FullyConnected, StepErrorKind::OperandShape(1));
        refusal(Op::Conv2d, StepErrorKind::OperandShape(1));
        refusal(Op::DepthwiseConv2d, StepErrorKind::OperandType(1));
    }

    #[test]
    fn activations() {
        for op in [Op::Conv2d, Op::FullyConnected, Op::DepthwiseConv2d] {
            for isa in Isa::available() {
                let plain = layer(op, DType::F32).run_on(Some(isa)).unwrap();
                let plain = floats(&plain);
                for (kind, affine) in
                    UnaryOp::FUSED.into_iter().zip([[1.0, 0.0], [0.3, 1.7]].into_iter().cycle())
                {
                    let mut case = layer(op, DType::F32);
                    let mut attributes = ConvAttributes::read(&case.attributes);
                    attributes.activation = kind as u32;
                    attributes.activation_affine = affine;
                    attributes.write(&mut case.attributes);
                    let mut want = plain.clone();
                    elementary::select(Isa::Scalar)(elementary_function(kind).unwrap(), &mut want);
                    let [scale, shift] = affine;
                    let want: Vec<f32> = want.iter().map(|y| y * scale + shift).collect();
                    assert_eq!(
                        floats(&case.run_on(Some(isa)).unwrap()),
                        want,
                        "{op} {kind:?} on {isa}"
                    );
                }
            }
            for number in [UnaryOp::Relu as u32, UnaryOp::Sqrt as u32, 1000, u32::MAX] {
                let mut case = layer(op, DType::F32);
                let mut attributes = ConvAttributes::read(&case.attributes);
                attributes.activation = number;
                attributes.write(&mut case.attributes);
                let kind = StepErrorKind::Attribute("activation");
                assert_eq!(case.run_bytes(), Err(SessionError::Step { step: 0, kind }), "{number}");
            }
        }
    }

    /// An output may be the very bytes of the residual, but for depthwise; every other overlap is
    /// refused.
    #[test]
    fn output_over_the_residual() {
        let overlap = Err(SessionError::Step { step: 0, kind: StepErrorKind::Overlap });
        for dtype in [DType::I8, DType::F32] {
            for op in [Op::Conv2d, Op::FullyConnected, Op::DepthwiseConv2d] {
                let residual = layer(op, dtype).inputs.len() - 1;
                // What the harness counts: the inputs that are there.
                let number = layer(op, dtype).inputs.iter().flatten().count() - 1;
                for isa in Isa::available() {
                    let apart = layer(op, dtype).run_on(Some(isa));
                    assert!(apart.is_ok(), "{op} {dtype}: {apart:?}");
                    let mut over = layer(op, dtype);
                    over.shared = Some((number, 0));
                    let over = over.run_on(Some(isa));
                    let expected = if op == Op::DepthwiseConv2d { &overlap } else { &apart };
                    assert!(over == *expected, "{op} {dtype} on {isa}");
                }
                for (input, behind) in [(0, 0), (0, 4), (number, 4), (number, 64)] {
                    let mut case = layer(op, dtype);
                    case.shared = Some((input, behind));
                    assert!(case.run_bytes() == overlap, "{op} {dtype} over {input} + {behind}");
                }
                // With other values it is another result: the residual counts.
                let mut other = layer(op, dtype);
                other.inputs[residual] = other.inputs[0].clone();
                assert!(other.run_bytes() != layer(op, dtype).run_bytes());
            }
        }
    }
}
