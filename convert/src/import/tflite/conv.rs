//! Convolutions and fully connected layers, and the sliding window that pooling shares.

use std::sync::Arc;

use super::node::{Activation, TfliteNode, fused};
use super::schema::{
    BatchMatMulOptions, Conv2dOptions, DepthwiseConv2dOptions, FullyConnectedOptions, PADDING_SAME,
    PADDING_VALID,
};
use super::tensor;
use crate::dim::Dim;
use crate::graph::{Clamp, Conv, MatMul, Op, Quant, UnaryKind, ValueId};
use crate::import::builder::{Builder, Outcome};
use crate::import::compose::product;
use crate::import::dims;
use crate::import::failure::{FIX_THE_DIM, Failure, invalid, unsupported};
use crate::tensor::Tensor;

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("CONV_2D", conv_2d),
    ("DEPTHWISE_CONV_2D", depthwise_conv_2d),
    ("FULLY_CONNECTED", fully_connected),
    ("BATCH_MATMUL", batch_matmul),
];

/// Keeps window arithmetic far from overflow.
const MAX_WINDOW: i64 = 1 << 30;

/// A window that slides over height and width.
pub(super) struct Window {
    pub kernel: Vec<usize>,
    pub stride: Vec<usize>,
    pub dilation: Vec<usize>,
    pub pad_before: Vec<usize>,
    pub pad_after: Vec<usize>,
    /// Sizes of the result's height and width.
    pub output: Vec<Dim>,
}

/// Sizes of a window, each of height and width.
pub(super) struct Sizes {
    pub kernel: [i64; 2],
    pub stride: [i64; 2],
    pub dilation: [i64; 2],
    pub padding: i8,
}

/// Works out where a window goes over an input's height and width.
///
/// SAME pads so that there are `ceil(size / stride)` places, the odd element at the end; VALID
/// doesn't pad.
pub(super) fn window(b: &Builder, spatial: &[Dim], sizes: &Sizes) -> Result<Window, Failure> {
    let Sizes { kernel, stride, dilation, padding } = sizes;
    for (what, values) in [("kernel", kernel), ("stride", stride), ("dilation", dilation)] {
        if values.iter().any(|value| !(1..=MAX_WINDOW).contains(value)) {
            return Err(invalid(format!("{what} {values:?} out of range")));
        }
    }
    let symbols = &b.graph.symbols;
    let mut window = Window {
        kernel: Vec::new(),
        stride: Vec::new(),
        dilation: Vec::new(),
        pad_before: Vec::new(),
        pad_after: Vec::new(),
        output: Vec::new(),
    };
    for axis in 0..2 {
        let (size, step) = (&spatial[axis], stride[axis]);
        // At most 2^60 + 1.
        let extent = (kernel[axis] - 1) * dilation[axis] + 1;
        let (before, after) = match *padding {
            PADDING_VALID => (0, 0),
            PADDING_SAME => {
                let last = dims::ceil_div_by(size, step).sub(&Dim::from(1i64));
                let total = last.mul(&Dim::from(step)).add(&Dim::from(extent)).sub(size);
                let total = match dims::bounds(&total, symbols) {
                    Some((low, high)) if low == high || high <= 0 => low.max(0),
                    _ => {
                        let size = size.display(symbols);
                        return Err(unsupported(
                            format!("padding SAME over the dynamic size {size}"),
                            FIX_THE_DIM,
                        ));
                    }
                };
                (total / 2, total - total / 2)
            }
            other => return Err(invalid(format!("padding #{other} is not defined"))),
        };
        let span = size.add(&Dim::from(before + after)).sub(&Dim::from(extent));
        if dims::bounds(&span, symbols).is_none_or(|(low, _)| low < 0) {
            let size = size.display(symbols);
            return Err(invalid(format!("a window of {extent} doesn't fit into {size} elements")));
        }
        window.output.push(dims::floor_div_by(&span, step).add(&Dim::from(1i64)));
        let small = |value: i64| {
            usize::try_from(value).map_err(|_| invalid(format!("a window of {value} elements")))
        };
        window.kernel.push(small(kernel[axis])?);
        window.stride.push(small(step)?);
        window.dilation.push(small(dilation[axis])?);
        window.pad_before.push(small(before)?);
        window.pad_after.push(small(after)?);
    }
    Ok(window)
}

/// An operand `[batch, height, width, channels]`.
pub(super) fn image(b: &Builder, x: ValueId, what: &str) -> Result<Vec<Dim>, Failure> {
    let shape = b.shape(x);
    match shape.len() {
        4 => Ok(shape),
        rank => Err(invalid(format!("{what} has {rank} axes instead of 4"))),
    }
}

/// The bias of a layer in reals: its integers count in steps of input scale × weight scale.
pub(super) fn bias(
    b: &mut Builder,
    node: &TfliteNode<'_>,
    index: usize,
    channels: usize,
) -> Result<Option<ValueId>, Failure> {
    let Some(id) = node.input(index) else { return Ok(None) };
    if b.shape(id) != [Dim::from(channels)] {
        return Err(invalid("the bias is not one number per output channel"));
    }
    if b.dtype(id).is_float() {
        return node.real(b, index, "bias").map(Some);
    }
    let Some(constant) = b.tensor(id) else {
        return Err(unsupported("an integer bias that is computed at run time", ""));
    };
    let stated = match node.input_tensor(index) {
        Some(tensor) => tensor::quant(tensor)?,
        None => None,
    };
    let quant = match stated {
        Some(quant) => quant,
        None => bias_quant(b, node)?,
    };
    if quant.scale.len() != 1 && quant.scale.len() != channels {
        return Err(invalid(format!("{} bias scales for {channels} channels", quant.scale.len())));
    }
    let id = b.constant(format!("{}/bias", node.name), Tensor::clone(&Arc::clone(&constant)));
    b.graph.value_mut(id).quant = Some(quant);
    node.dequantized(b, "bias", id).map(Some)
}

/// The scales of a bias that doesn't state them.
fn bias_quant(b: &Builder, node: &TfliteNode<'_>) -> Result<Quant, Failure> {
    let quant = |index| node.input(index).and_then(|id| b.graph.value(id).quant.clone());
    match (quant(0), quant(1)) {
        (Some(x), Some(w)) => {
            let scale: Vec<f32> = w.scale.iter().map(|scale| scale * x.scale[0]).collect();
            let axis = w.axis.map(|_| 0);
            Ok(Quant { zero_point: vec![0; scale.len()], scale, axis })
        }
        _ => Err(invalid("an integer bias of a layer without scales")),
    }
}

/// Ends a layer: what doesn't fit its clamp, and the declared type of the result.
fn finish(b: &mut Builder, node: &TfliteNode<'_>, y: ValueId, activation: Activation) -> Outcome {
    let y = match activation {
        Activation::Clamp(_) => y,
        Activation::Tanh => b.unary(node, "tanh", UnaryKind::Tanh, y)?,
    };
    Ok(vec![node.declared(b, y, 0)?])
}

fn clamp(activation: Activation) -> Clamp {
    match activation {
        Activation::Clamp(clamp) => clamp,
        Activation::Tanh => Clamp::NONE,
    }
}

/// The shape of weights, `[a, height, width, b]`, without a 0 in it.
pub(super) fn filter_shape(b: &Builder, w: ValueId) -> Result<Vec<usize>, Failure> {
    let Some(shape) = b.graph.value(w).const_shape() else {
        return Err(unsupported("the shape of its weights isn't constant", FIX_THE_DIM));
    };
    if shape.len() != 4 || shape.contains(&0) {
        return Err(invalid(format!("weights of shape {shape:?}")));
    }
    Ok(shape)
}

fn kernel(shape: &[usize]) -> [i64; 2] {
    let size = |axis: usize| i64::try_from(shape[axis]).unwrap_or(i64::MAX);
    [size(1), size(2)]
}

fn conv_2d(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let options: Conv2dOptions = node.options()?;
    let w = node.required(1, "filter")?;
    let shape = filter_shape(b, w)?;
    let x = node.real(b, 0, "input")?;
    let of_x = image(b, x, "the input")?;
    let channels = of_x[3].as_const().and_then(|c| usize::try_from(c).ok());
    // A filter of fewer channels than the input has works on groups of them.
    let groups = channels.filter(|c| c % shape[3] == 0).map(|c| c / shape[3]);
    let groups = groups
        .filter(|g| *g > 0 && shape[0] % g == 0)
        .ok_or_else(|| invalid(format!("weights {shape:?} for an input {}", b.text(&of_x))))?;
    let window = window(
        b,
        &of_x[1..3],
        &Sizes {
            kernel: kernel(&shape),
            stride: [options.stride_h.into(), options.stride_w.into()],
            dilation: [options.dilation_h.into(), options.dilation_w.into()],
            padding: options.padding,
        },
    )?;
    let w = node.dequantized(b, "filter", w)?;
    convolve(b, node, [x, w], window, groups, shape[0], options.activation)
}

fn depthwise_conv_2d(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let options: DepthwiseConv2dOptions = node.options()?;
    let w = node.required(1, "filter")?;
    let shape = filter_shape(b, w)?;
    let x = node.real(b, 0, "input")?;
    let of_x = image(b, x, "the input")?;
    // Each channel of the input makes as many results as the filter has times its channels.
    let groups = of_x[3].as_const().and_then(|c| usize::try_from(c).ok());
    let fits = |groups: &usize| *groups > 0 && shape[3] % groups == 0 && shape[0] == 1;
    let groups = groups
        .filter(fits)
        .ok_or_else(|| invalid(format!("weights {shape:?} for an input {}", b.text(&of_x))))?;
    let window = window(
        b,
        &of_x[1..3],
        &Sizes {
            kernel: kernel(&shape),
            stride: [options.stride_h.into(), options.stride_w.into()],
            dilation: [options.dilation_h.into(), options.dilation_w.into()],
            padding: options.padding,
        },
    )?;
    let w = node.dequantized(b, "filter", w)?;
    let w = b.transpose(node, "filter", w, &[3, 1, 2, 0])?;
    convolve(b, node, [x, w], window, groups, shape[3], options.activation)
}

fn convolve(
    b: &mut Builder,
    node: &TfliteNode<'_>,
    [x, w]: [ValueId; 2],
    window: Window,
    groups: usize,
    channels: usize,
    activation: i8,
) -> Outcome {
    let activation = fused(activation)?;
    let bias = bias(b, node, 2, channels)?;
    let mut shape = vec![b.shape(x)[0].clone()];
    shape.extend(window.output);
    shape.push(Dim::from(channels));
    let op = Op::Conv(Conv {
        kernel: window.kernel,
        stride: window.stride,
        dilation: window.dilation,
        pad_before: window.pad_before,
        pad_after: window.pad_after,
        groups,
        clamp: clamp(activation),
        inner_quant: None,
    });
    let mut inputs = vec![Some(x), Some(w)];
    inputs.extend(bias.map(Some));
    let y = b.emit(node, "", op, &inputs, b.dtype(x), shape)?;
    finish(b, node, y, activation)
}

/// `x · wᵀ + bias`, with all axes of x but the last one taken together.
fn fully_connected(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let options: FullyConnectedOptions = node.options()?;
    if options.weights_format != 0 {
        return Err(unsupported("shuffled weights", "convert the model without them"));
    }
    let (mut x, w) = (node.required(0, "input")?, node.required(1, "weights")?);
    let of_w = b.graph.value(w).const_shape().filter(|shape| shape.len() == 2);
    let Some([rows, columns]) = of_w.as_deref().and_then(|shape| shape.first_chunk()).copied()
    else {
        return Err(invalid("the weights are not a matrix"));
    };
    if rows == 0 || columns == 0 {
        return Err(invalid("the weights are empty"));
    }
    let of_x = b.shape(x);
    let is_flat = of_x.last().is_some_and(|last| last.is(columns as i64));
    let mut shape = match options.keep_num_dims {
        true if is_flat => of_x[..of_x.len() - 1].to_vec(),
        true => return Err(invalid(format!("an input {} for {columns} columns", b.text(&of_x)))),
        false => {
            let all = dims::product(&of_x)?;
            let batch = dims::floor_div_by(&all, columns as i64);
            let whole = batch.mul(&Dim::from(columns));
            if !dims::same(&whole, &all, &b.graph.symbols) {
                let of_x = b.text(&of_x);
                return Err(invalid(format!("an input {of_x} for {columns} columns")));
            }
            let flat = vec![batch.clone(), Dim::from(columns)];
            if of_x != flat {
                x = b.reshape(node, "flat", x, flat)?;
            }
            vec![batch]
        }
    };
    shape.push(Dim::from(rows));
    let activation = fused(options.activation)?;
    let bias = bias(b, node, 2, rows)?;
    let x = node.dequantized(b, "input", x)?;
    let w = node.dequantized(b, "weights", w)?;
    let op = Op::MatMul(MatMul {
        transpose_a: false,
        transpose_b: true,
        clamp: clamp(activation),
        inner_quant: None,
    });
    let mut inputs = vec![Some(x), Some(w)];
    inputs.extend(bias.map(Some));
    let y = b.emit(node, "", op, &inputs, b.dtype(x), shape)?;
    finish(b, node, y, activation)
}

/// A product over the last two axes, either operand transposed if the options say so.
fn batch_matmul(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let options: BatchMatMulOptions = node.options()?;
    let (x, y) = (node.real(b, 0, "x")?, node.real(b, 1, "y")?);
    let (of_x, of_y) = (b.shape(x), b.shape(y));
    if of_x.len() < 2 || of_y.len() < 2 {
        return Err(invalid("a product of vectors"));
    }
    let (outer_x, inner_x) = of_x.split_at(of_x.len() - 2);
    let (outer_y, inner_y) = of_y.split_at(of_y.len() - 2);
    let (rows, k) = match options.adjoint_x {
        true => (&inner_x[1], &inner_x[0]),
        false => (&inner_x[0], &inner_x[1]),
    };
    let (other_k, columns) = match options.adjoint_y {
        true => (&inner_y[1], &inner_y[0]),
        false => (&inner_y[0], &inner_y[1]),
    };
    if !dims::same(k, other_k, &b.graph.symbols) {
        return Err(invalid(format!("a product of {} and {}", b.text(&of_x), b.text(&of_y))));
    }
    let mut shape = dims::broadcast(outer_x, outer_y, &b.graph.symbols)?;
    shape.extend([rows.clone(), columns.clone()]);
    let op = product(options.adjoint_x, options.adjoint_y);
    let z = b.emit(node, "", op, &[Some(x), Some(y)], b.dtype(x), shape)?;
    Ok(vec![node.declared(b, z, 0)?])
}
