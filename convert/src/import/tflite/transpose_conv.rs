//! Transposed convolution, by the phases of its result.

use whit::DType;

use super::conv::{bias, filter_shape, image};
use super::data::fixed;
use super::node::{Activation, TfliteNode, fused};
use super::schema::{PADDING_SAME, PADDING_VALID, TransposeConvOptions};
use crate::dim::Dim;
use crate::graph::{Clamp, Conv, Op, Quant, ValueId};
use crate::import::builder::{Builder, Outcome};
use crate::import::failure::{Failure, invalid, unsupported};
use crate::import::phases::{Axis, phases_to_space};
use crate::tensor::Tensor;

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[("TRANSPOSE_CONV", transpose_conv)];

/// Keeps the arithmetic of sizes far from overflow.
const MAX_SIZE: i64 = 1 << 24;

fn transpose_conv(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let options: TransposeConvOptions = node.options()?;
    let output = b.ints(node.required(0, "output shape")?, "the shape of the result")?;
    let w = node.required(1, "weights")?;
    let shape = filter_shape(b, w)?;
    let x = node.real(b, 2, "input")?;
    let of_x = image(b, x, "the input")?;
    let sizes = fixed(b, x)?;
    let fits = output.len() == 4
        && sizes[3] == shape[3]
        && output[0] == sizes[0] as i64
        && output[3] == shape[0] as i64;
    if !fits {
        return Err(invalid(format!(
            "weights {shape:?} and an input {} for a result {output:?}",
            b.text(&of_x)
        )));
    }
    let strides = [options.stride_h, options.stride_w].map(i64::from);
    let mut axes = Vec::new();
    for axis in 0..2 {
        let (size, wanted, stride) = (sizes[axis + 1] as i64, output[axis + 1], strides[axis]);
        let kernel = shape[axis + 1] as i64;
        let small = [size, wanted, stride, kernel].iter().all(|v| (1..=MAX_SIZE).contains(v));
        if !small {
            return Err(invalid(format!("stride {stride}, kernel {kernel}, {size} to {wanted}")));
        }
        // The padding of the convolution that this is the transpose of.
        let places = match options.padding {
            PADDING_SAME => (wanted + stride - 1) / stride,
            PADDING_VALID => (wanted - kernel + stride) / stride,
            other => return Err(invalid(format!("padding #{other} is not defined"))),
        };
        let crop = ((places - 1) * stride + kernel - wanted).max(0) / 2;
        let tail = wanted + crop - (size - 1) * stride;
        if tail <= 0 {
            return Err(unsupported(
                format!("a result of {wanted} that leaves out some of {size} inputs"),
                "slice the input first",
            ));
        }
        let output = Dim::from(wanted);
        axes.push(Axis { kernel, stride, dilation: 1, crop, output, tail });
    }

    let activation = fused(options.activation)?;
    let Activation::Clamp(clamp) = activation else {
        return Err(unsupported("a fused tanh", "put it behind as an operator of its own"));
    };
    let phases = (strides[0] * strides[1]) as usize;
    let channels = phases.checked_mul(shape[0]).filter(|all| *all < 1 << 31);
    let channels = channels.ok_or_else(|| unsupported("too many channels at such strides", ""))?;
    let weights = by_phase(b, node, w, &shape, &axes)?;
    let weights = node.dequantized(b, "weights", weights)?;
    let bias = match bias(b, node, 3, shape[0])? {
        None => None,
        Some(bias) => Some(repeated(b, node, bias, phases)?),
    };

    let mut blocks = vec![of_x[0].clone()];
    for (axis, size) in axes.iter().zip(&sizes[1..3]) {
        let (before, after) = axis.pads();
        blocks.push(Dim::from(*size as i64 + before + after - (axis.taps() - 1)));
    }
    let mut made = blocks.clone();
    made.push(Dim::from(channels));
    let usizes =
        |f: &dyn Fn(&Axis) -> i64| axes.iter().map(|axis| f(axis) as usize).collect::<Vec<_>>();
    let op = Op::Conv(Conv {
        kernel: usizes(&Axis::taps),
        stride: vec![1; 2],
        dilation: vec![1; 2],
        pad_before: usizes(&|axis| axis.pads().0),
        pad_after: usizes(&|axis| axis.pads().1),
        groups: 1,
        clamp: if clamp == Clamp::NONE { Clamp::NONE } else { clamp },
        inner_quant: None,
    });
    let mut inputs = vec![Some(x), Some(weights)];
    inputs.extend(bias.map(Some));
    let y = b.emit(node, "", op, &inputs, b.dtype(x), made)?;
    // Integers are moved into place, not the reals behind them.
    let mut y = node.declared(b, y, 0)?;
    if phases > 1 {
        y = phases_to_space(b, node, y, &blocks, &axes, 1, shape[0])?;
    }
    for (at, axis) in axes.iter().enumerate() {
        let start = Dim::from(axis.crop - axis.first() * axis.stride);
        y = b.slice(node, &format!("crop{at}"), y, at + 1, &start, &axis.output)?;
    }
    Ok(vec![y])
}

/// Weights `[out_c, h, w, in_c]` as `[phases * out_c, taps, taps, in_c]`, backwards along height and width.
fn by_phase(
    b: &mut Builder,
    node: &TfliteNode<'_>,
    w: ValueId,
    shape: &[usize],
    axes: &[Axis],
) -> Result<ValueId, Failure> {
    let Some(tensor) = b.tensor(w) else {
        return Err(unsupported("weights that are computed at run time", "make them constant"));
    };
    let quant = b.graph.value(w).quant.clone();
    let size = tensor.dtype.size();
    // What stands for 0, where the kernel has no element.
    let zero: u8 = match &quant {
        Some(quant) if quant.zero_point.iter().any(|zero| *zero != quant.zero_point[0]) => {
            return Err(unsupported("weights with several zero points", ""));
        }
        Some(quant) if tensor.dtype != DType::I16 => quant.zero_point[0] as u8,
        _ => 0,
    };
    let [out_c, kernel_h, kernel_w, in_c] = [shape[0], shape[1], shape[2], shape[3]];
    let [stride_h, stride_w] = [axes[0].stride as usize, axes[1].stride as usize];
    let [taps_h, taps_w] = [axes[0].taps() as usize, axes[1].taps() as usize];
    let row = in_c * size;
    let outputs = stride_h * stride_w * out_c;
    let bytes = [outputs, taps_h, taps_w, row].iter().try_fold(1usize, |n, s| n.checked_mul(*s));
    let bytes = bytes.unwrap_or(usize::MAX);
    b.charge(bytes)?;
    let mut data = vec![zero; bytes];
    for phase_h in 0..stride_h {
        for phase_w in 0..stride_w {
            for channel in 0..out_c {
                let output = (phase_h * stride_w + phase_w) * out_c + channel;
                for tap_h in 0..taps_h {
                    for tap_w in 0..taps_w {
                        let at_h = (taps_h - 1 - tap_h) * stride_h + phase_h;
                        let at_w = (taps_w - 1 - tap_w) * stride_w + phase_w;
                        if at_h >= kernel_h || at_w >= kernel_w {
                            continue;
                        }
                        let to = ((output * taps_h + tap_h) * taps_w + tap_w) * row;
                        let from = ((channel * kernel_h + at_h) * kernel_w + at_w) * row;
                        data[to..to + row].copy_from_slice(&tensor.data[from..from + row]);
                    }
                }
            }
        }
    }
    let shape = vec![outputs, taps_h, taps_w, in_c];
    let tensor = Tensor { dtype: tensor.dtype, shape, data: data.into() };
    let id = b.constant(format!("{}/weights", node.name), tensor);
    b.graph.value_mut(id).quant = quant.map(|quant| match quant.axis {
        None => quant,
        Some(_) => {
            let phases = stride_h * stride_w;
            let (scale, zero_point) = (quant.scale.repeat(phases), quant.zero_point.repeat(phases));
            Quant { scale, zero_point, axis: Some(0) }
        }
    });
    Ok(id)
}

/// A bias for every phase.
fn repeated(
    b: &mut Builder,
    node: &TfliteNode<'_>,
    bias: ValueId,
    times: usize,
) -> Result<ValueId, Failure> {
    if times == 1 {
        return Ok(bias);
    }
    // Of integers, the integers are repeated, with their scales.
    let source = b.dequantized(bias).unwrap_or(bias);
    let quant = b.graph.value(source).quant.clone();
    let Some(tensor) = b.tensor(source) else {
        return Err(unsupported("a bias that is computed at run time", "make it constant"));
    };
    b.charge(tensor.data.len().saturating_mul(times))?;
    let (shape, data) = (vec![tensor.len() * times], tensor.data.repeat(times));
    let tensor = Tensor { dtype: tensor.dtype, shape, data: data.into() };
    let id = b.constant(format!("{}/bias", node.name), tensor);
    b.graph.value_mut(id).quant = quant.map(|quant| match quant.axis {
        None => quant,
        Some(axis) => Quant {
            scale: quant.scale.repeat(times),
            zero_point: quant.zero_point.repeat(times),
            axis: Some(axis),
        },
    });
    node.dequantized(b, "bias/phases", id)
}
