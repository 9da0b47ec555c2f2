//! Convolutions and matrix products: packed weights, folded zero points, requantization scales.

use whit::DType;
use whit::format::{
    AttentionAttributes, BinaryAttributes, BinaryOp, ConvAttributes, ConvNdAttributes, Layout,
    MatMulAttributes, Op as StepOp, UnaryAttributes, UnaryOp,
};
use whit::kernels::{ConvGeometry, PANEL_N, Packing, conv_i8, depthwise_i8};

use crate::dim::Dim;
use crate::fixed_point::Multiplier;
use crate::graph::{Attention, Clamp, Conv, Graph, MatMul, Node, Op, Quant, ValueId};
use crate::plan::builder::unsupported;
use crate::plan::fuse::Activation;
use crate::plan::{Builder, PlanError, Target};
use crate::tensor::Tensor;

use super::{clamp_q, conv_i16, float_weights, is_i8, quant_of, ratio};

/// Below it, every integer is exact in f64.
const MAX_EXACT: f64 = (1u64 << 53) as f64;

/// A convolution or fully connected layer with its weights in OHWI order.
pub(super) struct Layer<'n> {
    pub(super) node: &'n Node,
    pub(super) op: StepOp,
    pub(super) geometry: ConvGeometry,
    pub(super) weights: &'n Tensor,
    pub(super) clamp: Clamp,
    /// Only of float layers.
    activation: Option<Activation>,
    pub(super) attributes: ConvAttributes,
    pub(super) macs: u64,
    pub(super) inner_quant: Option<&'n Quant>,
    // Tensors with the shapes that the step wants.
    pub(super) input: usize,
    pub(super) output: usize,
    pub(super) residual: Option<usize>,
}

/// The weights of a node that are packed for its step: those of matrix products and of convolutions with up to
/// two spatial axes that are constants. All others are read as they are.
pub(crate) fn packed_weights(graph: &Graph, node: &Node) -> Option<ValueId> {
    let input = |index: usize| node.inputs.get(index).copied().flatten();
    let (x, weights) = (input(0)?, input(1)?);
    let x = graph.value(x).dtype;
    let constant = graph.constant(weights)?;
    let packs = match &node.op {
        Op::Conv(conv) => {
            let bias = input(2).is_none_or(|bias| graph.constant(bias).is_some());
            conv.kernel.len() <= 2 && x != DType::I32 && bias
        }
        Op::MatMul(matmul) => {
            constant.shape.len() == 2
                && !matmul.transpose_a
                && !matches!(x, DType::I32 | DType::I64)
        }
        _ => false,
    };
    packs.then_some(weights)
}

fn small(node: &Node, values: [usize; 2], what: &str) -> Result<[u16; 2], PlanError> {
    let too_large = |_| unsupported(node, format!("{what} {values:?} is larger than 65535"));
    Ok([u16::try_from(values[0]).map_err(too_large)?, u16::try_from(values[1]).map_err(too_large)?])
}

/// Spatial attributes as height and width; a 1-D convolution has height 1.
fn two(values: &[usize], fill: usize) -> Option<[usize; 2]> {
    match values {
        [w] => Some([fill, *w]),
        [h, w] => Some([*h, *w]),
        _ => None,
    }
}

/// An NWC shape as NHWC.
fn as_nhwc(shape: &[Dim]) -> Vec<Dim> {
    match shape {
        [n, w, c] => vec![n.clone(), Dim::from(1i64), w.clone(), c.clone()],
        _ => shape.to_vec(),
    }
}

pub(super) fn conv(
    builder: &mut Builder<'_>,
    node: &Node,
    conv: &Conv,
    activation: Option<Activation>,
) -> Result<(), PlanError> {
    let x = builder.input(node, 0)?;
    let graph = builder.graph;
    let weights = packed_weights(graph, node).and_then(|weights| graph.constant(weights));
    let Some(weights) = weights else {
        return conv_nd(builder, node, conv);
    };
    let spatial = |values: &[usize], fill| {
        two(values, fill).ok_or_else(|| {
            unsupported(node, format!("{} spatial axes; 1-D and 2-D are supported", values.len()))
        })
    };
    let [kernel_h, kernel_w] = spatial(&conv.kernel, 1)?;
    let [stride_h, stride_w] = spatial(&conv.stride, 1)?;
    let [dilation_h, dilation_w] = spatial(&conv.dilation, 1)?;
    let [pad_top, pad_left] = spatial(&conv.pad_before, 0)?;
    let output_shape = graph.value(node.outputs[0]).shape.clone();
    let out_c = weights.shape[0];
    let in_c = weights.shape[weights.shape.len() - 1] * conv.groups;
    let geometry = ConvGeometry {
        kernel_h,
        kernel_w,
        stride_h,
        stride_w,
        dilation_h,
        dilation_w,
        pad_top,
        pad_left,
        groups: conv.groups,
        ..ConvGeometry::matmul(1, in_c, out_c)
    };
    let input = builder.tensor(x)?;
    let input = builder.view(input, &as_nhwc(&graph.value(x).shape))?;
    let output = builder.tensor(node.outputs[0])?;
    let output = builder.view(output, &as_nhwc(&output_shape))?;
    let residual = node.inputs.get(3).copied().flatten();
    let residual = match residual {
        Some(id) => {
            let tensor = builder.tensor(id)?;
            Some(builder.view(tensor, &as_nhwc(&output_shape))?)
        }
        None => None,
    };
    let macs = builder.largest_elements(&output_shape)?.saturating_mul(geometry.k() as u64);
    let op = if geometry.is_depthwise() { StepOp::DepthwiseConv2d } else { StepOp::Conv2d };
    let attributes = ConvAttributes {
        kernel: small(node, [kernel_h, kernel_w], "kernel")?,
        stride: small(node, [stride_h, stride_w], "stride")?,
        dilation: small(node, [dilation_h, dilation_w], "dilation")?,
        pad: small(node, [pad_top, pad_left], "padding")?,
        groups: u32::try_from(conv.groups).map_err(|_| unsupported(node, "too many groups"))?,
        ..ConvAttributes::default()
    };
    let layer = Layer {
        node,
        op,
        geometry,
        weights,
        clamp: conv.clamp,
        activation,
        attributes,
        macs,
        inner_quant: conv.inner_quant.as_ref(),
        input,
        output,
        residual,
    };
    lower_layer(builder, layer)
}

/// A convolution by the operator that takes any weights and up to three spatial axes.
fn conv_nd(builder: &mut Builder<'_>, node: &Node, conv: &Conv) -> Result<(), PlanError> {
    let (x, w) = (builder.value(builder.input(node, 0)?), builder.input(node, 1)?);
    let w = builder.value(w);
    if !matches!(x.dtype, DType::F32 | DType::I32) || w.dtype != x.dtype {
        let why = "with weights that are computed at run time, or three spatial axes, it takes \
                   f32; keep it float";
        return Err(unsupported(node, why));
    }
    if node.inputs.get(3).is_some_and(Option::is_some) {
        return Err(unsupported(node, "a fused residual needs constant weights"));
    }
    if x.dtype == DType::I32 && conv.clamp != Clamp::NONE {
        return Err(unsupported(node, "a clamp is fused into integers"));
    }
    let attributes = ConvNdAttributes {
        stride: super::spatial(node, &conv.stride)?,
        dilation: super::spatial(node, &conv.dilation)?,
        pad: super::spatial(node, &conv.pad_before)?,
        groups: u32::try_from(conv.groups).map_err(|_| unsupported(node, "too many groups"))?,
        clamp: [conv.clamp.min, conv.clamp.max],
        reserved: [0; 2],
    };
    let filter = builder.largest_elements(&w.shape[1..])?;
    let output = builder.value(node.outputs[0]).shape.clone();
    let macs = builder.largest_elements(&output)?.saturating_mul(filter);
    let mut inputs = builder.inputs(node)?;
    inputs.truncate(3);
    builder.step(node, StepOp::ConvNd, Some(x.dtype), attributes, inputs, macs)
}

pub(super) fn matmul(
    builder: &mut Builder<'_>,
    node: &Node,
    matmul: &MatMul,
    activation: Option<Activation>,
) -> Result<(), PlanError> {
    let a = builder.input(node, 0)?;
    let graph = builder.graph;
    let output_shape = graph.value(node.outputs[0]).shape.clone();
    let weights = packed_weights(graph, node).and_then(|weights| graph.constant(weights));
    let Some(weights) = weights else { return dynamic_matmul(builder, node, matmul) };

    // OHWI of a 1×1 convolution is [n, k].
    let rows =
        if matmul.transpose_b { weights.as_ref().clone() } else { weights.transposed(&[1, 0]) };
    let geometry = ConvGeometry::matmul(1, rows.shape[1], rows.shape[0]);
    let macs = builder.largest_elements(&output_shape)?.saturating_mul(geometry.k() as u64);
    let residual = match node.inputs.get(3).copied().flatten() {
        Some(id) => Some(builder.tensor(id)?),
        None => None,
    };
    let attributes = ConvAttributes {
        kernel: [1, 1],
        stride: [1, 1],
        dilation: [1, 1],
        groups: 1,
        ..ConvAttributes::default()
    };
    let layer = Layer {
        node,
        op: StepOp::FullyConnected,
        geometry,
        weights: &rows,
        clamp: matmul.clamp,
        activation,
        attributes,
        macs,
        inner_quant: matmul.inner_quant.as_ref(),
        input: builder.tensor(a)?,
        output: builder.tensor(node.outputs[0])?,
        residual,
    };
    lower_layer(builder, layer)
}

/// A product of two activations.
fn dynamic_matmul(
    builder: &mut Builder<'_>,
    node: &Node,
    matmul: &MatMul,
) -> Result<(), PlanError> {
    let (a, b) = (builder.input(node, 0)?, builder.input(node, 1)?);
    let added: Vec<ValueId> = node.inputs.iter().skip(2).copied().flatten().collect();
    let dtype = builder.value(a).dtype;
    let plain = added.is_empty() && matmul.clamp == Clamp::NONE;
    let known = dtype == DType::F32 || (plain && matches!(dtype, DType::I32 | DType::I64));
    if !known {
        let why =
            "a product of two activations takes f32, or wide integers without bias; keep it float";
        return Err(unsupported(node, why));
    }
    let shape = builder.value(a).shape.clone();
    let k = shape[shape.len() - if matmul.transpose_a { 2 } else { 1 }].clone();
    let output_shape = builder.value(node.outputs[0]).shape.clone();
    let macs = builder.largest_elements(&output_shape)?.saturating_mul(builder.largest(&k)?);
    let attributes = MatMulAttributes {
        transpose_a: u32::from(matmul.transpose_a),
        transpose_b: u32::from(matmul.transpose_b),
        ..MatMulAttributes::default()
    };
    let inputs = vec![Some(builder.tensor(a)?), Some(builder.tensor(b)?)];
    if plain {
        return builder.step(node, StepOp::MatMul, Some(dtype), attributes, inputs, macs);
    }
    // What a packed layer does in its epilogue are steps of their own here, over the same memory.
    let name = &node.name;
    let mut sum = builder.temporary(&format!("{name}/product"), dtype, &output_shape, None)?;
    builder.step_to(name, StepOp::MatMul, Some(dtype), attributes, inputs, sum, macs, &[]);
    let output = builder.tensor(node.outputs[0])?;
    let none = [Clamp::NONE.min, Clamp::NONE.max];
    let own = [matmul.clamp.min, matmul.clamp.max];
    for (at, id) in added.iter().enumerate() {
        let last = at + 1 == added.len();
        let attributes = BinaryAttributes {
            kind: BinaryOp::Add as u32,
            clamp: if last { own } else { none },
            clamp_q: [-128, 127],
            ..BinaryAttributes::default()
        };
        let inputs = vec![Some(sum), Some(builder.tensor(*id)?)];
        sum = match last {
            true => output,
            false => builder.temporary(&format!("{name}/{at}"), dtype, &output_shape, None)?,
        };
        builder.step_to(name, StepOp::Binary, Some(dtype), attributes, inputs, sum, 0, &[0]);
    }
    if added.is_empty() {
        let [alpha, beta] = own;
        let attributes = UnaryAttributes {
            kind: UnaryOp::Clip as u32,
            alpha,
            beta,
            ..UnaryAttributes::default()
        };
        let inputs = vec![Some(sum)];
        builder.step_to(name, StepOp::Unary, Some(dtype), attributes, inputs, output, 0, &[0]);
    }
    Ok(())
}

pub(super) fn attention(
    builder: &mut Builder<'_>,
    node: &Node,
    attention: &Attention,
) -> Result<(), PlanError> {
    let (q, k, v) = (builder.input(node, 0)?, builder.input(node, 1)?, builder.input(node, 2)?);
    let scores = [&builder.value(q).shape[..3], &builder.value(k).shape[2..3]].concat();
    let sizes = [builder.value(q).shape[3].clone(), builder.value(v).shape[3].clone()];
    let per_score = builder.largest(&sizes[0])?.saturating_add(builder.largest(&sizes[1])?);
    let macs = builder.largest_elements(&scores)?.saturating_mul(per_score);
    // In i8: what a product of integers is in reals, and a value in steps of the output.
    let dtype = builder.value(q).dtype;
    let (scale, output_scale) = match dtype {
        DType::I8 => {
            let scale = |id: ValueId| -> Result<f64, PlanError> {
                Ok(f64::from(quant_of(node, builder.value(id))?.scale[0]))
            };
            let product = f64::from(attention.scale) * scale(q)? * scale(k)?;
            (product as f32, (scale(v)? / scale(node.outputs[0])?) as f32)
        }
        _ => (attention.scale, 0.0),
    };
    let attributes = AttentionAttributes {
        scale,
        softcap: attention.softcap,
        causal: u32::from(attention.causal.is_some()),
        offset: match &attention.causal {
            Some(offset) => builder.dim(offset)?,
            None => 0,
        },
        zero_rows: u32::from(attention.zero_rows),
        output_scale,
    };
    let inputs = builder.inputs(node)?;
    builder.step(node, StepOp::Attention, Some(dtype), attributes, inputs, macs)
}

/// Spreads one number per output channel over the padded positions of the panels.
pub(super) fn padded<T: Copy>(
    layer: &Layer<'_>,
    packing: Packing,
    values: &[T],
    fill: T,
) -> Vec<T> {
    let geometry = &layer.geometry;
    if layer.op == StepOp::DepthwiseConv2d {
        let mut out = vec![fill; depthwise_i8::channels_len(geometry.in_c, packing)];
        out[..values.len()].copy_from_slice(values);
        return out;
    }
    let mut out = vec![fill; geometry.channels_len(packing)];
    let (own, wide) = (geometry.group_out_c(), geometry.padded_channels(packing));
    for group in 0..geometry.groups {
        out[group * wide..group * wide + own]
            .copy_from_slice(&values[group * own..(group + 1) * own]);
    }
    out
}

fn lower_layer(builder: &mut Builder<'_>, layer: Layer<'_>) -> Result<(), PlanError> {
    let x = builder.value(builder.input(layer.node, 0)?);
    match x.dtype {
        DType::I8 => lower_i8(builder, layer),
        DType::I16 => conv_i16::lower(builder, layer),
        _ => lower_f32(builder, layer),
    }
}

pub(super) fn weight_layout(layer: &Layer<'_>, panels: Layout) -> Layout {
    if layer.op == StepOp::DepthwiseConv2d { Layout::Depthwise } else { panels }
}

fn lower_f32(builder: &mut Builder<'_>, mut layer: Layer<'_>) -> Result<(), PlanError> {
    let node = layer.node;
    let geometry = layer.geometry;
    if geometry.k() == 0 || geometry.out_c == 0 {
        return Err(unsupported(node, "its weights are empty"));
    }
    let weights = float_weights::pack(builder, &layer)?;
    let bias = match node.inputs.get(2).copied().flatten() {
        None => vec![0.0; geometry.out_c],
        Some(id) => {
            let bias = builder.graph.constant(id);
            let bias = bias.ok_or_else(|| unsupported(node, "its bias is computed at run time"))?;
            spread(node, &bias.to_f32(), geometry.out_c)?
        }
    };
    let bias = padded(&layer, Packing::Panels, &bias, 0.0);
    let name = &node.name;
    let bias = builder.constant_f32(&format!("{name}/bias"), &bias)?;
    layer.attributes.clamp = [layer.clamp.min, layer.clamp.max];
    if let Some(Activation { function, affine }) = layer.activation {
        layer.attributes.activation = function as u32;
        layer.attributes.activation_affine = affine;
    }
    let inputs = vec![Some(layer.input), Some(weights), Some(bias), layer.residual];
    let output = layer.output;
    builder.step_to(
        name,
        layer.op,
        Some(DType::F32),
        layer.attributes,
        inputs,
        output,
        layer.macs,
        over_residual(layer.op, &[3]),
    );
    Ok(())
}

/// The residual, number `residual` of the inputs, is read element by element before the result is
/// written there, but for depthwise kernels.
fn over_residual(op: StepOp, residual: &[usize]) -> &[usize] {
    if op == StepOp::DepthwiseConv2d { &[] } else { residual }
}

/// A per-channel vector; a single number stands for all channels.
pub(super) fn spread<T: Copy>(
    node: &Node,
    values: &[T],
    channels: usize,
) -> Result<Vec<T>, PlanError> {
    match values {
        [one] => Ok(vec![*one; channels]),
        _ if values.len() == channels => Ok(values.to_vec()),
        _ => {
            let got = values.len();
            Err(unsupported(
                node,
                format!("{got} per-channel values for {channels} output channels"),
            ))
        }
    }
}

/// Packs i8 weights as the target's kernels read them.
fn pack_i8(layer: &Layer<'_>, ohwi: &[i8], target: Target) -> (Packing, Vec<i8>) {
    let geometry = &layer.geometry;
    let depthwise = layer.op == StepOp::DepthwiseConv2d;
    if target == Target::CortexM {
        if depthwise {
            return (Packing::CortexM, ohwi.to_vec());
        }
        let mut packed = vec![0; geometry.weights_i8_len(Packing::CortexM)];
        conv_i8::pack_weights_cortex_m(geometry, ohwi, &mut packed);
        return (Packing::CortexM, packed);
    }
    if depthwise {
        // [channels][taps] to [taps][channels].
        let k = geometry.k();
        let hwc: Vec<i8> =
            (0..k).flat_map(|tap| ohwi.iter().skip(tap).step_by(k).copied()).collect();
        let mut packed = vec![0; k * geometry.in_c.next_multiple_of(PANEL_N)];
        depthwise_i8::pack_weights(geometry, &hwc, &mut packed);
        return (Packing::Panels, packed);
    }
    let mut packed = vec![0; geometry.packed_i8_len()];
    conv_i8::pack_weights(geometry, ohwi, &mut packed);
    (Packing::Panels, packed)
}

fn lower_i8(builder: &mut Builder<'_>, mut layer: Layer<'_>) -> Result<(), PlanError> {
    let node = layer.node;
    let geometry = layer.geometry;
    let graph = builder.graph;
    let x = quant_of(node, graph.value(builder.input(node, 0)?))?;
    let weight_value = graph.value(builder.input(node, 1)?);
    let y_value = graph.value(node.outputs[0]);
    if !is_i8(weight_value) || !is_i8(y_value) {
        return Err(unsupported(node, "input, weights and output must all be i8"));
    }
    let y = quant_of(node, y_value)?;
    let w = weight_value.quant.as_ref();
    let w = w.ok_or_else(|| unsupported(node, "its weights have no scales"))?;
    let channels = geometry.out_c;
    let weight_scales = spread(node, &w.scale, channels)?;
    if w.zero_point.iter().any(|zero_point| *zero_point != 0) {
        let why =
            "its weights are asymmetric (zero points other than 0); export with symmetric weights";
        return Err(unsupported(node, why));
    }
    if geometry.k() > 1 << 16 || geometry.k() == 0 || channels == 0 {
        let why = format!("{} products per output; i8 takes 1 to 65536", geometry.k());
        return Err(unsupported(node, why));
    }

    let ohwi = layer.weights.to_i8();
    let k = geometry.k();
    let sums: Vec<i32> =
        ohwi.chunks_exact(k).map(|row| row.iter().map(|w| i32::from(*w)).sum()).collect();
    // What the products of a channel come to at most.
    let reach = |channel: usize| -> i64 {
        let row = &ohwi[channel * k..(channel + 1) * k];
        row.iter().map(|w| 128 * i64::from(w.unsigned_abs())).sum()
    };
    let (packing, packed) = pack_i8(&layer, &ohwi, builder.options.target);

    // The bias counts in steps of input scale × weight scale; the input's zero point is folded in.
    let real_bias = match node.inputs.get(2).copied().flatten() {
        None => vec![0.0; channels],
        Some(id) => spread(node, &real_values(builder, node, id)?, channels)?,
    };
    let mut bias = Vec::with_capacity(channels);
    for (channel, real) in real_bias.iter().enumerate() {
        let step = f64::from(x.scale[0]) * f64::from(weight_scales[channel]);
        let q = (real / step).round_ties_even();
        // Exact in i64 below 2^53; a NaN is refused below.
        let folded =
            (q as i64).saturating_sub(i64::from(x.zero_point[0]) * i64::from(sums[channel]));
        let fits = folded.unsigned_abs().saturating_add(reach(channel).unsigned_abs());
        if q.is_nan() || q.abs() > MAX_EXACT || fits > i32::MAX as u64 {
            let why = format!(
                "bias {real:e} of channel {channel} and its products don't fit 32 bits at the scale {step:e}; \
                 keep it float with --keep-float {}",
                node.name
            );
            return Err(unsupported(node, why));
        }
        bias.push(folded as i32);
    }

    // With a residual, the convolution's own result has a quantization of its own.
    let own = match (layer.residual, layer.inner_quant) {
        (Some(_), None) => return Err(unsupported(node, "a fused residual lacks the inner scale")),
        (Some(_), Some(inner)) => inner,
        (None, _) => y,
    };
    let scales: Vec<f32> = weight_scales
        .iter()
        .map(|w| ratio(f64::from(x.scale[0]) * f64::from(*w), own.scale[0]))
        .collect();
    layer.attributes.zero_point = own.zero_point[0];
    layer.attributes.clamp_q =
        if layer.residual.is_some() { [-128, 127] } else { clamp_q(&layer.clamp, y, DType::I8) };
    layer.attributes.residual_clamp_q = [-128, 127];
    if let Some(id) = node.inputs.get(3).copied().flatten() {
        let residual = quant_of(node, graph.value(id))?;
        layer.attributes.residual_scale = [
            ratio(f64::from(own.scale[0]), y.scale[0]),
            ratio(f64::from(residual.scale[0]), y.scale[0]),
        ];
        layer.attributes.residual_clamp_q = clamp_q(&layer.clamp, y, DType::I8);
    }

    let name = &node.name;
    let layout = match packing {
        Packing::Panels => weight_layout(&layer, Layout::PanelI8),
        Packing::CortexM => Layout::CortexM,
    };
    let weights =
        builder.constant_i8(&format!("{name}/weights"), layout, &layer.weights.shape, &packed)?;
    // TFLite's reference kernels round a fully connected layer once, as ours do.
    let fixed_point = if builder.options.exact_tflite && layer.op != StepOp::FullyConnected {
        let numbers: Vec<[i32; 2]> = weight_scales
            .iter()
            .map(|w| {
                let real = f64::from(x.scale[0]) * f64::from(*w) / f64::from(own.scale[0]);
                let Multiplier { multiplier, shift } = Multiplier::new(real);
                [multiplier, shift]
            })
            .collect();
        let numbers = padded(&layer, packing, &numbers, [0, 0]);
        Some(builder.constant_i32(&format!("{name}/fixed_point"), numbers.as_flattened())?)
    } else {
        None
    };
    let bias = padded(&layer, packing, &bias, 0);
    let scales = padded(&layer, packing, &scales, 0.0);
    // Only kernels with vector instructions use the sums of weights.
    let sums = match packing {
        Packing::Panels => {
            let sums = padded(&layer, packing, &sums, 0);
            Some(builder.constant_i32(&format!("{name}/weight_sums"), &sums)?)
        }
        Packing::CortexM => None,
    };
    let inputs = vec![
        Some(layer.input),
        Some(weights),
        Some(builder.constant_i32(&format!("{name}/bias"), &bias)?),
        Some(builder.constant_f32(&format!("{name}/scales"), &scales)?),
        sums,
        layer.residual,
        fixed_point,
    ];
    let output = layer.output;
    builder.step_to(
        name,
        layer.op,
        Some(DType::I8),
        layer.attributes,
        inputs,
        output,
        layer.macs,
        over_residual(layer.op, &[5]),
    );
    Ok(())
}

/// A constant as real numbers: floats as they are, quantized integers dequantized.
pub(super) fn real_values(
    builder: &Builder<'_>,
    node: &Node,
    id: ValueId,
) -> Result<Vec<f64>, PlanError> {
    let value = builder.graph.value(id);
    let constant = value.constant.as_ref();
    let constant = constant.ok_or_else(|| unsupported(node, "its bias is computed at run time"))?;
    if value.dtype.is_float() {
        return Ok(constant.to_f32().into_iter().map(f64::from).collect());
    }
    let quant = value.quant.as_ref();
    let quant = quant.ok_or_else(|| unsupported(node, "its integer bias has no scale"))?;
    let integers = constant.to_i64();
    let count = quant.scale.len();
    Ok(integers
        .into_iter()
        .enumerate()
        .map(|(index, q)| {
            let at = if count == 1 { 0 } else { index % count };
            f64::from(quant.scale[at]) * (q - i64::from(quant.zero_point[at])) as f64
        })
        .collect())
}
