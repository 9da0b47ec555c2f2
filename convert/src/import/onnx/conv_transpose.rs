//! Transposed convolution and sums of overlapping blocks, as a convolution that the packed kernels run.
//! [`phases`](crate::import::phases) says how.

use super::builder::{Builder, Outcome};
use super::conv::{Filters, check_bias, filters, spatial, to_first, to_last};
use super::dims;
use super::failure::{FIX_THE_DIM, Failure, invalid, unsupported};
use super::node::OnnxNode;
use crate::dim::Dim;
use crate::graph::{Clamp, Conv, Op, PadMode, ValueId};
use crate::import::phases::{Axis, one_phase, phases_to_space};
use crate::tensor::Tensor;

pub(super) const OPERATORS: &[(&str, super::Importer)] =
    &[("ConvTranspose", conv_transpose), ("Col2Im", col2im)];

/// Keeps the arithmetic of sizes far from overflow.
const MAX_SIZE: i64 = 1 << 24;

fn axes(
    b: &Builder,
    node: &OnnxNode<'_>,
    kernel: &[i64],
    sizes: &[Dim],
) -> Result<Vec<Axis>, Failure> {
    let rank = sizes.len();
    let a = &node.attributes;
    let stride = a.ints_within("strides", rank, 1, 1..=MAX_SIZE)?;
    let dilation = a.ints_within("dilations", rank, 1, 1..=MAX_SIZE)?;
    let padding = a.ints_within("output_padding", rank, 0, 0..=MAX_SIZE)?;
    let pads = a.ints_within("pads", 2 * rank, 0, -MAX_SIZE..=MAX_SIZE)?;
    let stated = match node.attributes.ints("output_shape")? {
        None => None,
        // Some exporters write all axes.
        Some(shape) if shape.len() == rank || shape.len() == rank + 2 => {
            Some(&shape[shape.len() - rank..])
        }
        Some(shape) => {
            return Err(invalid(format!("output_shape {shape:?} for {rank} spatial axes")));
        }
    };
    let auto_pad = node.attributes.string("auto_pad", "NOTSET")?;
    let same = match auto_pad {
        "NOTSET" | "VALID" => false,
        "SAME_UPPER" | "SAME_LOWER" => true,
        other => return Err(invalid(format!("auto_pad `{other}` is not defined"))),
    };
    let symbols = &b.graph.symbols;
    let mut axes = Vec::with_capacity(rank);
    for axis in 0..rank {
        if kernel[axis] > MAX_SIZE {
            return Err(invalid(format!("a kernel of {kernel:?}")));
        }
        let mut of = Axis {
            kernel: kernel[axis],
            stride: stride[axis],
            dilation: dilation[axis],
            crop: 0,
            output: Dim::default(),
            tail: 0,
        };
        let (size, step) = (&sizes[axis], stride[axis]);
        // What the input's elements reach, with the padding of the output.
        let last = size.sub(&Dim::from(1i64)).mul(&Dim::from(step));
        let reach = of.extent() + padding[axis];
        let full = last.add(&Dim::from(reach));
        let wanted = match stated {
            Some(shape) if shape[axis] >= 1 => Some(Dim::from(shape[axis])),
            Some(shape) => return Err(invalid(format!("output_shape {shape:?}"))),
            None if same => Some(size.mul(&Dim::from(step))),
            None => None,
        };
        let (before, after) = match wanted {
            None => (pads[axis], pads[rank + axis]),
            Some(wanted) => {
                let total = full.sub(&wanted);
                let total = total.as_const().or_else(|| {
                    dims::bounds(&total, symbols).filter(|(low, high)| low == high).map(|b| b.0)
                });
                let total = total.ok_or_else(|| {
                    unsupported("a padding that follows from a dynamic size", FIX_THE_DIM)
                })?;
                if !(-MAX_SIZE..=MAX_SIZE * MAX_SIZE).contains(&total) {
                    return Err(invalid(format!("a padding of {total}")));
                }
                // Where more is wanted than there is, zeros are behind.
                let shared = total.max(0);
                let before =
                    if auto_pad == "SAME_UPPER" { shared / 2 } else { shared - shared / 2 };
                (before, total - before)
            }
        };
        if before < 0 {
            return Err(unsupported(
                format!("negative padding {before}"),
                "pad the result instead",
            ));
        }
        of.crop = before;
        of.tail = reach - after;
        of.output = full.sub(&Dim::from(before + after));
        let fits = dims::bounds(&of.output, symbols).is_some_and(|(low, _)| low >= 1);
        if !fits {
            return Err(invalid(format!(
                "the result would have size {}",
                of.output.display(symbols)
            )));
        }
        axes.push(of);
    }
    Ok(axes)
}

fn conv_transpose(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(3)?;
    let (x, w) = (node.required(0, "X")?, node.required(1, "W")?);
    let (_, _, sizes) = spatial(b, x)?;
    let Filters { shape, kernel, groups } = filters(b, node, x, w, true)?;
    let axes = axes(b, node, &kernel, &sizes)?;
    let channels = shape[1].checked_mul(groups);
    let channels = channels.ok_or_else(|| invalid("too many output channels"))?;
    check_bias(b, node.input(2), x, channels)?;
    let inputs = [Some(x), Some(w), node.input(2)];
    Ok(vec![transposed(b, node, inputs, &shape, groups, &axes)?])
}

/// The transposed convolution of channels-first `[x, weights, bias]`; `shape` is that of the weights.
fn transposed(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    [x, w, bias]: [Option<ValueId>; 3],
    shape: &[usize],
    groups: usize,
    axes: &[Axis],
) -> Result<ValueId, Failure> {
    let (Some(x), Some(w)) = (x, w) else { return Err(invalid("an input is missing")) };
    let (batch, _, sizes) = spatial(b, x)?;
    let per_group = shape[1];
    let channels = per_group.saturating_mul(groups);
    let phases = axes.iter().try_fold(1usize, |all, axis| all.checked_mul(axis.stride as usize));
    let phases = phases
        .filter(|phases| phases.checked_mul(channels).is_some_and(|all| all < 1 << 31))
        .ok_or_else(|| unsupported(format!("{channels} channels at such strides"), ""))?;
    let w = weights(b, node, w, shape, groups, axes)?;
    let bias = bias.map(|bias| spread(b, node, bias, groups, phases)).transpose()?;
    let mut blocks = vec![batch];
    for (axis, size) in axes.iter().zip(&sizes) {
        let (before, after) = axis.pads();
        blocks.push(size.add(&Dim::from(before + after - (axis.taps() - 1))));
    }
    let mut made = blocks.clone();
    made.push(Dim::from(phases * channels));
    let usizes = |f: &dyn Fn(&Axis) -> i64| -> Vec<usize> {
        axes.iter().map(|axis| f(axis) as usize).collect()
    };
    let plain = one_phase(axes);
    let op = Op::Conv(Conv {
        kernel: usizes(&|axis| if plain { axis.kernel } else { axis.taps() }),
        stride: vec![1; axes.len()],
        dilation: usizes(&|axis| if plain { axis.dilation } else { 1 }),
        pad_before: usizes(&|axis| axis.pads().0),
        pad_after: usizes(&|axis| axis.pads().1),
        groups,
        clamp: Clamp::NONE,
        inner_quant: None,
    });
    let rank = shape.len();
    let mut inputs = vec![Some(b.transpose(node, "to_nhwc", x, &to_last(rank))?), Some(w)];
    inputs.extend(bias.map(Some));
    let mut y = b.emit(node, "conv", op, &inputs, b.dtype(x), made)?;
    if phases > 1 {
        y = phases_to_space(b, node, y, &blocks, axes, groups, per_group)?;
    }
    for (at, axis) in axes.iter().enumerate() {
        let start = Dim::from(axis.crop - axis.first() * axis.stride);
        y = b.slice(node, &format!("crop{at}"), y, at + 1, &start, &axis.output)?;
    }
    b.transpose(node, "", y, &to_first(rank))
}

/// The sum of overlapping blocks, `[batch, channels * block, blocks]` to an image: what a transposed
/// convolution does whose filters hold one 1 each, a group for every channel.
fn col2im(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(3)?;
    let x = node.required(0, "input")?;
    let image = b.ints(node.required(1, "image_shape")?, "image_shape")?;
    let block = b.ints(node.required(2, "block_shape")?, "block_shape")?;
    let rank = image.len();
    if !(1..=3).contains(&rank) {
        return Err(unsupported(format!("an image of {rank} axes"), "at most three are supported"));
    }
    if block.len() != rank || !image.iter().chain(&block).all(|s| (1..=MAX_SIZE).contains(s)) {
        return Err(invalid(format!("blocks {block:?} of an image {image:?}")));
    }
    let a = &node.attributes;
    let stride = a.ints_within("strides", rank, 1, 1..=MAX_SIZE)?;
    let dilation = a.ints_within("dilations", rank, 1, 1..=MAX_SIZE)?;
    let pads = a.ints_within("pads", 2 * rank, 0, 0..=MAX_SIZE)?;
    let mut axes = Vec::new();
    let mut counts = Vec::new();
    for axis in 0..rank {
        let mut of = Axis {
            kernel: block[axis],
            stride: stride[axis],
            dilation: dilation[axis],
            crop: pads[axis],
            output: Dim::from(image[axis]),
            tail: 0,
        };
        let span = image[axis] + pads[axis] + pads[rank + axis] - of.extent();
        if span < 0 {
            return Err(invalid(format!("a block of {} in axis {axis} of {image:?}", block[axis])));
        }
        let count = span / of.stride + 1;
        of.tail = image[axis] + pads[axis] - (count - 1) * of.stride;
        counts.push(count);
        axes.push(of);
    }
    let shape = b.shape(x);
    let elements = block.iter().try_fold(1i64, |all, size| all.checked_mul(*size));
    let [batch, rows, columns] = shape.as_slice() else {
        return Err(invalid("the input is not [batch, channels * block, blocks]"));
    };
    let channels = rows.as_const().zip(elements).filter(|(rows, block)| rows % block == 0);
    let (Some((rows, block_elements)), Some(expected)) =
        (channels, counts.iter().try_fold(1i64, |all, count| all.checked_mul(*count)))
    else {
        return Err(invalid("the input's channels are no multiple of the block"));
    };
    if rows < 1 || !dims::same(columns, &Dim::from(expected), &b.graph.symbols) {
        return Err(invalid(format!("{expected} blocks, but an input of {}", b.text(&shape))));
    }
    let mut unfolded = vec![batch.clone(), Dim::from(rows)];
    unfolded.extend(counts.iter().map(|count| Dim::from(*count)));
    let x = b.reshape(node, "blocks", x, unfolded)?;
    // [channels * block, 1, block…]: element k of a block goes to place k.
    let (rows, block_elements) = (rows as usize, block_elements as usize);
    let total = rows.saturating_mul(block_elements);
    b.charge(total.saturating_mul(8))?;
    let mut values = vec![0.0; total];
    for row in 0..rows {
        values[row * block_elements + row % block_elements] = 1.0;
    }
    let mut filters = vec![rows, 1];
    filters.extend(block.iter().map(|size| *size as usize));
    let w = Tensor::from_f32(filters.clone(), &values);
    let w = b.constant(format!("{}/places", node.name), w);
    let w = b.cast(node, "places", w, b.dtype(x))?;
    let groups = rows / block_elements;
    Ok(vec![transposed(b, node, [Some(x), Some(w), None], &filters, groups, &axes)?])
}

/// From `[in_c, out_c / groups, kernel…]` to `[groups * phases * out_c / groups, taps…, in_c / groups]`,
/// backwards along every spatial axis.
fn weights(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    w: ValueId,
    shape: &[usize],
    groups: usize,
    axes: &[Axis],
) -> Result<ValueId, Failure> {
    let dims_of = |sizes: &[usize]| sizes.iter().map(|s| Dim::from(*s)).collect::<Vec<Dim>>();
    let dtype = b.dtype(w);
    let mut w = w;
    let mut own = shape.to_vec();
    for (at, axis) in axes.iter().enumerate().filter(|_| !one_phase(axes)) {
        let position = at + 2;
        let zeros_behind =
            |b: &mut Builder, part: &str, w: ValueId, own: &mut Vec<usize>, at: usize, n: i64| {
                let mut after = vec![0; own.len()];
                after[at] = n as usize;
                own[at] += n as usize;
                let before = vec![0; own.len()];
                let op = Op::Pad { before, after, mode: PadMode::Constant(0.0) };
                b.emit(node, &format!("weights/{part}{at}"), op, &[Some(w)], dtype, dims_of(own))
            };
        if axis.dilation > 1 && axis.kernel > 1 {
            // Each element followed by zeros.
            own.insert(position + 1, 1);
            w = b.reshape(node, &format!("weights/split{at}"), w, dims_of(&own))?;
            w = zeros_behind(b, "dilate", w, &mut own, position + 1, axis.dilation - 1)?;
            let dilated = own.remove(position + 1);
            own[position] *= dilated;
            w = b.reshape(node, &format!("weights/join{at}"), w, dims_of(&own))?;
            own[position] = axis.extent() as usize;
            let count = Dim::from(axis.extent());
            let part = format!("weights/cut{at}");
            w = b.slice(node, &part, w, position, &Dim::from(0i64), &count)?;
        }
        let missing = axis.taps() * axis.stride - axis.extent();
        if missing > 0 {
            w = zeros_behind(b, "pad", w, &mut own, position, missing)?;
        }
    }
    // [in_c, out_c / groups, taps, phases, taps, phases, …]
    let mut split = own[..2].to_vec();
    for (axis, size) in axes.iter().zip(&own[2..]) {
        let stride = axis.stride as usize;
        split.extend([size / stride, stride]);
    }
    let w = b.reshape(node, "weights/phases", w, dims_of(&split))?;
    // [in_c, phases…, out_c / groups, taps…]
    let n = axes.len();
    let mut perm = vec![0];
    perm.extend((0..n).map(|axis| 3 + 2 * axis));
    perm.push(1);
    perm.extend((0..n).map(|axis| 2 + 2 * axis));
    let mut w = b.transpose(node, "weights/regroup", w, &perm)?;
    let taps: Vec<usize> = (0..n).map(|axis| split[2 + 2 * axis]).collect();
    // [groups, in_c / groups, phases * out_c / groups, taps…]
    let all_phases: usize = axes.iter().map(|axis| axis.stride as usize).product();
    let mut grouped = vec![groups, shape[0] / groups, all_phases * shape[1]];
    grouped.extend(&taps);
    w = b.reshape(node, "weights/groups", w, dims_of(&grouped))?;
    let starts = (0..grouped.len()).map(|at| if at < 3 { 0 } else { grouped[at] - 1 });
    let starts: Vec<Dim> = starts.map(Dim::from).collect();
    let steps = (0..grouped.len()).map(|at| if at < 3 { 1 } else { -1 }).collect();
    if taps.iter().any(|taps| *taps > 1) {
        let op = Op::Slice { starts, steps };
        w = b.emit(node, "weights/flip", op, &[Some(w)], dtype, dims_of(&grouped))?;
    }
    let mut perm = vec![0, 2];
    perm.extend(3..grouped.len());
    perm.push(1);
    let w = b.transpose(node, "weights/last", w, &perm)?;
    let mut shape = vec![groups * grouped[2]];
    shape.extend(&taps);
    shape.push(grouped[1]);
    b.reshape(node, "weights", w, dims_of(&shape))
}

/// One bias per output channel for each phase.
fn spread(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    bias: ValueId,
    groups: usize,
    phases: usize,
) -> Result<ValueId, Failure> {
    if phases == 1 {
        return Ok(bias);
    }
    let Some(channels) = b.graph.value(bias).const_shape().map(|shape| shape[0]) else {
        return Err(invalid("the bias has no constant shape"));
    };
    let of = |sizes: [usize; 3]| sizes.map(Dim::from).to_vec();
    let (dtype, per_group) = (b.dtype(bias), channels / groups);
    let column = b.reshape(node, "bias/column", bias, of([groups, 1, per_group]))?;
    let all = of([groups, phases, per_group]);
    let all = b.emit(node, "bias/phases", Op::Expand, &[Some(column)], dtype, all)?;
    b.reshape(node, "bias", all, vec![Dim::from(phases * channels)])
}
