//! Convolutions, layers and products on f32, and rows of tables, whose weights may be those of a layer.

use super::elementwise::Axes;
use super::layers::{MMA_TILE, pays_mma, shape_of};
use super::{Lower, Refusal, elements, small};
use crate::backend::cuda::arguments::{self, ConvF32, DepthwiseF32, MatMul, Weights};
use crate::backend::cuda::kernels::{
    CONV_BF16, CONV_BF16_MMA, CONV_F16, CONV_F32, CONV_W4, CONV_W4NL, CONV_W5, CONV_W6, CONV_W8,
    DENSE_BF16_1, DENSE_BF16_4, DENSE_F16_1, DENSE_F16_4, DENSE_F32_1, DENSE_F32_4, DENSE_W4_1,
    DENSE_W4_4, DENSE_W4NL_1, DENSE_W4NL_4, DENSE_W5_1, DENSE_W5_4, DENSE_W6_1, DENSE_W6_4,
    DENSE_W8_1, DENSE_W8_4, DEPTHWISE_F32, EMBEDDING, Kernel, MATMUL_F32, MATMUL_I32, MATMUL_I64,
    UNARY_F32,
};
use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{ConvAttributes, EmbeddingAttributes, Layout, MAX_RANK, MatMulAttributes};
use crate::kernels::conv_f32::grouped::{GroupedBits, GroupedForm, ScaleKind};
use crate::kernels::{ConvGeometry, PANEL_N};
use crate::memory::Slot;
use crate::ops::conv::{GeometryFn, Layer, WEIGHTS, conv_geometry, matrix_geometry};
use crate::ops::shape::{broadcast_strides, product};

/// The input with the residual.
const RESIDUAL: usize = 3;
/// Up to so many rows, a block has a panel of weights, which it reads once for every four rows.
const FEW_ROWS: usize = 8;
/// Pixels of a block else, and outputs.
const TILE: usize = 64;

/// How kernels read weights.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    F32,
    F16,
    /// In pairs of inputs, unless dense.
    Bf16,
    W8,
    W4,
    W5,
    W6,
    W4Nl,
}

/// Weights of a layer with this geometry, at `operand`.
fn weights(
    lower: &Lower<'_>,
    operand: usize,
    geometry: &ConvGeometry,
) -> Result<(Weights, Form), Refusal> {
    let (slot, data) = lower.input(operand)?;
    let mut weights = Weights { data, k: small(geometry.k())?, ..Weights::default() };
    let Some(form) = GroupedForm::of(slot.layout) else {
        let form = match slot.dtype() {
            DType::F16 => Form::F16,
            DType::BF16 => Form::Bf16,
            _ => Form::F32,
        };
        return Ok((weights, form));
    };
    let group_size = lower.step.input_group_size(operand);
    let lens = form.lens(geometry, group_size);
    weights.upper = data + lens.words as u64;
    weights.scales = weights.upper + lens.upper as u64;
    weights.scale_factors = weights.scales + lens.scales as u64;
    if form.has_mins {
        weights.minima = weights.scales + lens.scale_bytes as u64;
        weights.minimum_factors = weights.minima + lens.scales as u64;
    }
    weights.group_size = small(group_size)?;
    weights.scale_kind = match form.scales {
        ScaleKind::F16 => 0,
        ScaleKind::F32 => 1,
        ScaleKind::I8 => 2,
    };
    let form = match form.bits {
        GroupedBits::W8 => Form::W8,
        GroupedBits::W4 => Form::W4,
        GroupedBits::W5 => Form::W5,
        GroupedBits::W6 => Form::W6,
        GroupedBits::W4Nl => Form::W4Nl,
    };
    Ok((weights, form))
}

fn panels(lower: &mut Lower<'_>, geometry: GeometryFn, is_layer: bool) -> Result<(), Refusal> {
    let layer = Layer::of(&lower.step)?;
    let g = geometry(&layer)?;
    let (weights, form) = weights(lower, WEIGHTS, &g)?;
    let ((_, input), (_, bias), (_, output)) = (lower.input(0)?, lower.input(2)?, lower.output(0)?);
    let arguments = ConvF32 {
        input,
        output,
        bias,
        residual: lower.optional_address(RESIDUAL),
        weights,
        shape: shape_of(&g)?,
        min: layer.attributes.clamp[0],
        max: layer.attributes.clamp[1],
        pointwise: g.is_pointwise().into(),
        aligned: u32::from(input.is_multiple_of(16) && g.k().is_multiple_of(8)),
    };
    // Four columns are one load.
    let is_aligned = weights.data.is_multiple_of(16);
    if is_layer && g.out_pixels() <= FEW_ROWS && is_aligned {
        let rows = if g.out_pixels() == 1 { 1 } else { 4 };
        let [one, four]: [&'static Kernel; 2] = match form {
            Form::F32 => [&DENSE_F32_1, &DENSE_F32_4],
            Form::F16 => [&DENSE_F16_1, &DENSE_F16_4],
            Form::Bf16 => [&DENSE_BF16_1, &DENSE_BF16_4],
            Form::W8 => [&DENSE_W8_1, &DENSE_W8_4],
            Form::W4 => [&DENSE_W4_1, &DENSE_W4_4],
            Form::W5 => [&DENSE_W5_1, &DENSE_W5_4],
            Form::W6 => [&DENSE_W6_1, &DENSE_W6_4],
            Form::W4Nl => [&DENSE_W4NL_1, &DENSE_W4NL_4],
        };
        let kernel = if rows == 1 { one } else { four };
        let grid = [g.out_pixels().div_ceil(rows), g.padded_out_c() / PANEL_N];
        lower.call(kernel, grid, arguments)?;
        return activate(lower, &layer);
    }
    // Weights of four columns are one load.
    if form == Form::Bf16 && is_aligned && pays_mma(lower, &g) {
        let columns = g.groups * g.padded_group_out_c().div_ceil(MMA_TILE);
        lower.call(&CONV_BF16_MMA, [g.out_pixels().div_ceil(MMA_TILE), columns], arguments)?;
        return activate(lower, &layer);
    }
    let kernel: &'static Kernel = match form {
        Form::F32 => &CONV_F32,
        Form::F16 => &CONV_F16,
        Form::Bf16 => &CONV_BF16,
        Form::W8 => &CONV_W8,
        Form::W4 => &CONV_W4,
        Form::W5 => &CONV_W5,
        Form::W6 => &CONV_W6,
        Form::W4Nl => &CONV_W4NL,
    };
    let columns = g.groups * g.padded_group_out_c().div_ceil(TILE);
    lower.call(kernel, [g.out_pixels().div_ceil(TILE), columns], arguments)?;
    activate(lower, &layer)
}

/// The function behind a layer's clamp, in place.
fn activate(lower: &mut Lower<'_>, layer: &Layer) -> Result<(), Refusal> {
    let ConvAttributes { activation: kind, activation_affine: [scale, shift], .. } =
        layer.attributes;
    if kind == 0 {
        return Ok(());
    }
    let (y, output) = lower.output(0)?;
    let elements = elements(&y)?;
    let (input, alpha, beta) = (output, 0.0, 0.0);
    let arguments = arguments::Unary { input, output, elements, kind, alpha, beta, scale, shift };
    lower.call_elements(&UNARY_F32, elements, arguments)
}

pub(super) fn conv(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    panels(lower, conv_geometry, false)
}

pub(super) fn fully_connected(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    panels(lower, matrix_geometry, true)
}

pub(super) fn depthwise(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let layer = Layer::of(&lower.step)?;
    let g = conv_geometry(&layer)?;
    let ((_, input), (slot, weights), (_, bias), (_, output)) =
        (lower.input(0)?, lower.input(WEIGHTS)?, lower.input(2)?, lower.output(0)?);
    let arguments = DepthwiseF32 {
        input,
        weights,
        output,
        bias,
        residual: lower.optional_address(RESIDUAL),
        shape: shape_of(&g)?,
        min: layer.attributes.clamp[0],
        max: layer.attributes.clamp[1],
        half_weights: u32::from(slot.dtype() == DType::F16),
        reserved: 0,
    };
    lower.call_elements(&DEPTHWISE_F32, small(g.out_pixels() * g.out_c)?, arguments)?;
    activate(lower, &layer)
}

pub(super) fn embedding(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let EmbeddingAttributes { scale, .. } = lower.step.expect_attributes()?;
    let ((slot, _), (ids, id_address), (y, output)) =
        (lower.input(0)?, lower.input(1)?, lower.output(0)?);
    let size = product(&slot.dims()[1.min(slot.rank())..]);
    let (table, form) = weights(lower, 0, &ConvGeometry::matmul(1, size, slot.dim(0)))?;
    let dense = slot.layout == Layout::Dense;
    let arguments = arguments::Embedding {
        ids: id_address,
        output,
        status: lower.status(),
        table,
        rows: small(slot.dim(0))?,
        elements: elements(&y)?,
        step: lower.index,
        form: match form {
            Form::F32 if dense => 0,
            Form::F16 if dense => 1,
            Form::Bf16 if dense => 2,
            Form::F32 => 3,
            Form::F16 => 4,
            Form::Bf16 => 5,
            Form::W8 => 6,
            Form::W4 => 7,
            Form::W5 => 8,
            Form::W6 => 9,
            Form::W4Nl => 10,
        },
        wide_ids: u32::from(ids.dtype() == DType::I64),
        scale,
    };
    lower.call_elements(&EMBEDDING, arguments.elements, arguments)
}

pub(super) fn matmul(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let attributes: MatMulAttributes = lower.step.expect_attributes()?;
    let ((a, a_at), (b, b_at), (y, output)) = (lower.input(0)?, lower.input(1)?, lower.output(0)?);
    if elements(&y)? == 0 {
        return Ok(());
    }
    let rank = y.rank();
    let leading = |slot: &Slot| {
        let mut strides = broadcast_strides(slot, rank);
        strides[rank - 2..MAX_RANK].fill(0);
        strides
    };
    let axes = Axes::new(&y.dims()[..rank - 2], &[leading(&a), leading(&b)])?;
    // Strides of a matrix along its rows and columns, as it is used.
    let strides = |slot: &Slot, transposed: u32| -> Result<[u32; 2], StepErrorKind> {
        let width = small(slot.dim(slot.rank() - 1))?;
        Ok(if transposed == 1 { [1, width] } else { [width, 1] })
    };
    let ([row_a, column_a], [row_b, column_b]) =
        (strides(&a, attributes.transpose_a)?, strides(&b, attributes.transpose_b)?);
    let k = a.dim(a.rank() - if attributes.transpose_a == 1 { 2 } else { 1 });
    let (m, n) = (y.dim(rank - 2), y.dim(rank - 1));
    let arguments = MatMul {
        a: a_at,
        b: b_at,
        output,
        strides_a: axes.strides[0],
        strides_b: axes.strides[1],
        extents: axes.extents,
        rank: axes.rank,
        m: small(m)?,
        k: small(k)?,
        n: small(n)?,
        row_a,
        column_a,
        row_b,
        column_b,
    };
    let tiles = m.div_ceil(TILE / 2) * n.div_ceil(TILE / 2);
    let kernel: &'static Kernel = match y.dtype() {
        DType::I32 => &MATMUL_I32,
        DType::I64 => &MATMUL_I64,
        _ => &MATMUL_F32,
    };
    lower.call(kernel, [tiles, y.elements() / (m * n)], arguments)
}
