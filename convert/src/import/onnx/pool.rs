//! Pooling.

use whit::DType;

use super::builder::expect_float;
use super::builder::{Builder, Outcome};
use super::compose::Compose;
use super::conv::{MAX_WINDOW, channels_last, spatial, to_first, to_last, window};
use super::dims;
use super::failure::{Failure, invalid, unsupported};
use super::node::OnnxNode;
use crate::dim::Dim;
use crate::graph::{
    BinaryKind, Op, PadMode, Pool, PoolKind, ReduceKind, ScatterReduction, UnaryKind,
};

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("MaxPool", |b, n| pool(b, n, PoolKind::Max)),
    ("AveragePool", |b, n| pool(b, n, PoolKind::Average)),
    ("LpPool", |b, n| {
        let p = norm_order(n)?;
        pool(b, n, PoolKind::Norm { p })
    }),
    ("MaxUnpool", unpool),
    ("GlobalMaxPool", |b, n| global(b, n, ReduceKind::Max)),
    ("GlobalAveragePool", |b, n| global(b, n, ReduceKind::Mean)),
    ("GlobalLpPool", global_norm),
];

/// Attribute `p`, which was a float in the first opset.
fn norm_order(node: &OnnxNode<'_>) -> Result<u32, Failure> {
    let p = match node.opset {
        1 => f64::from(node.attributes.float("p", 2.0)?),
        _ => node.attributes.int("p", 2)? as f64,
    };
    if p < 1.0 || p > f64::from(u16::MAX) {
        return Err(invalid(format!("a norm of order {p}")));
    }
    match p.fract() == 0.0 {
        true => Ok(p as u32),
        false => Err(unsupported(format!("a norm of order {p}"), "")),
    }
}

fn pool(b: &mut Builder, node: &OnnxNode<'_>, kind: PoolKind) -> Outcome {
    node.at_most(1)?;
    let x = node.required(0, "X")?;
    let (batch, channels, sizes) = spatial(b, x)?;
    let dtype = b.dtype(x);
    if kind != PoolKind::Max && !dtype.is_float() {
        return Err(invalid(format!("a sum over {dtype}")));
    }
    if !dtype.is_float() && !matches!(dtype, DType::I8 | DType::U8) {
        return Err(invalid(format!("pooling over {dtype}")));
    }
    // It only orders the Indices.
    let column_major = kind == PoolKind::Max && node.attributes.flag("storage_order", false)?;
    let ceil_mode = node.attributes.flag("ceil_mode", false)?;
    let count_include_pad =
        kind == PoolKind::Average && node.attributes.flag("count_include_pad", false)?;
    let kernel = node.attributes.required_ints("kernel_shape")?;
    let window = window(b, node, kernel, &sizes, ceil_mode)?;
    for axis in 0..sizes.len() {
        let extent = (window.kernel[axis] - 1) * window.dilation[axis] + 1;
        let widest = window.pad_before[axis].max(window.pad_after[axis]);
        if widest >= extent && !matches!(kind, PoolKind::Norm { .. }) {
            return Err(unsupported(
                "padding as wide as the window, so that a window may hold no element",
                "",
            ));
        }
    }
    let mut output: Vec<Dim> = vec![batch, channels];
    output.extend(window.output);
    let op = Op::Pool(Pool {
        kind,
        kernel: window.kernel,
        stride: window.stride,
        dilation: window.dilation,
        pad_before: window.pad_before,
        pad_after: window.pad_after,
        count_include_pad,
        column_major,
    });
    if kind != PoolKind::Max || !node.wants(1) {
        return Ok(vec![channels_last(b, node, op, &[Some(x)], &output)?]);
    }
    let rank = output.len();
    let x = b.transpose(node, "to_nhwc", x, &to_last(rank))?;
    let last: Vec<Dim> = to_last(rank).iter().map(|axis| output[*axis].clone()).collect();
    let results = vec![(dtype, last.clone()), (DType::I64, last)];
    let results = b.emit_several(node, "", op, &[Some(x)], &results)?;
    let quant = b.graph.value(x).quant.clone().filter(|quant| quant.axis.is_none());
    b.graph.value_mut(results[0]).quant = quant;
    let y = b.transpose(node, "to_nchw", results[0], &to_first(rank))?;
    let indices = b.transpose(node, "indices", results[1], &to_first(rank))?;
    Ok(vec![y, indices])
}

/// Elements put back where a maximum found them, zeros elsewhere.
fn unpool(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(3)?;
    let (x, positions) = (node.required(0, "X")?, node.required(1, "I")?);
    let (batch, channels, sizes) = spatial(b, x)?;
    let (dtype, shape) = (b.dtype(x), b.shape(x));
    if !dtype.is_float() || b.dtype(positions) != DType::I64 || b.shape(positions) != shape {
        return Err(invalid("the positions are not one i64 per element"));
    }
    let rank = sizes.len();
    let a = &node.attributes;
    a.required_ints("kernel_shape")?;
    let kernel = a.ints_within("kernel_shape", rank, 1, 1..=MAX_WINDOW)?;
    let stride = a.ints_within("strides", rank, 1, 1..=MAX_WINDOW)?;
    let pads = a.ints_within("pads", 2 * rank, 0, 0..=MAX_WINDOW)?;
    let mut output = vec![batch, channels];
    for (axis, size) in sizes.iter().enumerate() {
        let last = size.sub(&Dim::from(1i64)).mul(&Dim::from(stride[axis]));
        let size = last.add(&Dim::from(kernel[axis] - pads[axis] - pads[rank + axis]));
        if dims::bounds(&size, &b.graph.symbols).is_none_or(|(low, _)| low < 1) {
            let size = size.display(&b.graph.symbols);
            return Err(invalid(format!("axis {axis} of the result would have size {size}")));
        }
        output.push(size);
    }
    let (all, count) = (dims::product(&output)?, dims::product(&shape)?);
    let zero = b.scalar(format!("{}/zero", node.name), dtype, 0.0)?;
    let canvas = b.emit(node, "canvas", Op::Expand, &[Some(zero)], dtype, vec![all.clone()])?;
    let positions = b.reshape(node, "positions", positions, vec![count.clone()])?;
    let updates = b.reshape(node, "updates", x, vec![count])?;
    let op = Op::ScatterElements { axis: 0, reduction: ScatterReduction::Replace };
    let inputs = [Some(canvas), Some(positions), Some(updates)];
    let y = b.emit(node, "scattered", op, &inputs, dtype, vec![all])?;
    let y = b.reshape(node, "unpooled", y, output.clone())?;
    // A larger result has zeros behind.
    let Some(stated) = node.input(2) else { return Ok(vec![y]) };
    let stated = b.dims(stated, "output_shape")?;
    let mut after = Vec::with_capacity(output.len());
    for (own, stated) in output.iter().zip(&stated) {
        let more = stated.sub(own).as_const().and_then(|more| usize::try_from(more).ok());
        after.push(more.ok_or_else(|| {
            unsupported("an output_shape below what follows from the input, or a dynamic one", "")
        })?);
    }
    if stated.len() != output.len() {
        return Err(invalid(format!("output_shape has {} axes", stated.len())));
    }
    if after.iter().all(|more| *more == 0) {
        return Ok(vec![y]);
    }
    let op = Op::Pad { before: vec![0; after.len()], after, mode: PadMode::Constant(0.0) };
    Ok(vec![b.emit(node, "", op, &[Some(y)], dtype, stated)?])
}

/// The input's spatial axes.
fn all_spatial(b: &Builder, node: &OnnxNode<'_>) -> Result<Vec<usize>, Failure> {
    node.at_most(1)?;
    let x = node.required(0, "X")?;
    if b.rank(x) < 3 {
        return Err(invalid("the input has no spatial axes"));
    }
    expect_float(b, x)?;
    Ok((2..b.rank(x)).collect())
}

fn global(b: &mut Builder, node: &OnnxNode<'_>, kind: ReduceKind) -> Outcome {
    let axes = all_spatial(b, node)?;
    Ok(vec![b.reduce(node, "", kind, node.required(0, "X")?, &axes, true)?])
}

/// `(sum of |x|^p)^(1/p)` over all of the spatial axes.
fn global_norm(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    let (axes, p) = (all_spatial(b, node)?, norm_order(node)?);
    match p {
        1 => return global(b, node, ReduceKind::L1),
        2 => return global(b, node, ReduceKind::L2),
        _ => {}
    }
    let c = &mut Compose::new(b, node);
    let abs = c.unary(UnaryKind::Abs, node.required(0, "X")?)?;
    let powers = c.with_number(BinaryKind::Pow, abs, f64::from(p))?;
    let sum = c.reduce(ReduceKind::Sum, powers, &axes, true)?;
    Ok(vec![c.main().with_number(BinaryKind::Pow, sum, 1.0 / f64::from(p))?])
}
