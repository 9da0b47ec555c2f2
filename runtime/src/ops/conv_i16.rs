//! Convolution, depthwise convolution and fully connected layers on i16 activations with i8 weights.

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{Layout, Op};
use crate::isa::Isa;
use crate::kernels::PANEL_N;
use crate::kernels::conv_i16::{self, ConvI16, ConvI16Fn};
use crate::memory::{Context, typed, typed_mut};
use crate::ops::conv::{
    GeometryFn, Layer, MAX_K_I8, Shaped, check_memory, conv_geometry, matrix_geometry,
    scratch_bytes,
};
use crate::ops::{
    Operator, Step, expect_clamp_of, expect_type, expect_vector_at, no_scratch, select_isa,
};

/// Inputs: x, weights, bias, scales.
const INPUTS: usize = 4;

/// i16 convolution.
pub static CONV_I16: Operator = Operator {
    op: Op::Conv2d,
    dtype: Some(DType::I16),
    check: |step| check(step, conv_geometry, Layout::Dense),
    select: select_isa!(run_conv),
    scratch_bytes: |step, isa| scratch_bytes(step, isa, conv_geometry, conv_i16::scratch_bytes),
};

/// i16 depthwise convolution.
pub static DEPTHWISE_I16: Operator = Operator {
    op: Op::DepthwiseConv2d,
    dtype: Some(DType::I16),
    check: |step| check(step, conv_geometry, Layout::Depthwise),
    select: select_isa!(run_depthwise),
    scratch_bytes: no_scratch,
};

/// i16 fully connected layer over the last axis.
pub static FULLY_CONNECTED_I16: Operator = Operator {
    op: Op::FullyConnected,
    dtype: Some(DType::I16),
    check: |step| check(step, matrix_geometry, Layout::Dense),
    select: select_isa!(run_fully_connected),
    scratch_bytes: |step, isa| scratch_bytes(step, isa, matrix_geometry, conv_i16::scratch_bytes),
};

fn check(step: &Step<'_>, geometry: GeometryFn, layout: Layout) -> Result<(), StepErrorKind> {
    let layer = Layer::of(step)?;
    let geometry = geometry(&layer)?;
    step.expect_counts(INPUTS, INPUTS)?;
    // No input has this number: there is no residual.
    check_memory(step, INPUTS)?;
    expect_type(&layer.x, DType::I16, 0)?;
    expect_type(&layer.y, DType::I16, INPUTS as u8)?;
    if !geometry.is_bounded() || geometry.k() > MAX_K_I8 {
        return Err(StepErrorKind::TooLarge);
    }
    let weights = step.input(1)?;
    expect_type(&weights, DType::I8, 1)?;
    let (channels, weight_len) = match weights.layout {
        Layout::Depthwise if layout == Layout::Depthwise => {
            if !geometry.is_depthwise() {
                return Err(StepErrorKind::Attribute("groups"));
            }
            let channels = geometry.in_c.next_multiple_of(PANEL_N);
            (channels, geometry.k() * channels)
        }
        Layout::Dense if layout == Layout::Dense => (geometry.out_c, geometry.k() * geometry.out_c),
        Layout::PanelI8 if layout == Layout::Dense => {
            (geometry.padded_out_c(), geometry.packed_i8_len())
        }
        _ => return Err(StepErrorKind::OperandLayout(1)),
    };
    if weights.bytes() < weight_len {
        return Err(StepErrorKind::OperandShape(1));
    }
    expect_vector_at(step, 2, DType::I64, channels)?;
    expect_vector_at(step, 3, DType::F32, channels)?;
    let [min, max] = layer.attributes.clamp_q;
    expect_clamp_of::<i16>([min, max])?;
    if min > max { Err(StepErrorKind::Attribute("clamp")) } else { Ok(()) }
}

fn run(
    context: &mut Context<'_>,
    geometry: GeometryFn,
    // Over panels, and over anything else.
    kernel: ConvI16Fn,
    other: ConvI16Fn,
) -> Result<(), StepErrorKind> {
    let mut fresh = Shaped::default();
    let (layer, geometry) = context.shaped(geometry, &mut fresh)?;
    let [min, max] = layer.attributes.clamp_q;
    let panels = context.step.input_layout(1) == Layout::PanelI8;
    let operands = context.operands([0, 1, 2, 3])?;
    let [input, weights, bias, scale] = operands.inputs;
    let kernel = if panels { kernel } else { other };
    let scratch_bytes = operands.scratch.len() / 2 * 2;
    kernel(&mut ConvI16 {
        geometry: *geometry,
        input: typed(input, 0)?,
        weights: typed(weights, 1)?,
        bias: typed(bias, 2)?,
        scale: typed(scale, 3)?,
        min,
        max,
        output: typed_mut(operands.output, INPUTS as u8)?,
        scratch: typed_mut(&mut operands.scratch[..scratch_bytes], INPUTS as u8)?,
    });
    Ok(())
}

fn run_conv<const ISA: usize>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    run(context, conv_geometry, conv_i16::select(Isa::ALL[ISA]), conv_i16::conv_i16_dense)
}

fn run_fully_connected<const ISA: usize>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    run(context, matrix_geometry, conv_i16::select(Isa::ALL[ISA]), conv_i16::conv_i16_dense)
}

fn run_depthwise<const ISA: usize>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let kernel = conv_i16::select_depthwise(Isa::ALL[ISA]);
    run(context, conv_geometry, kernel, kernel)
}
