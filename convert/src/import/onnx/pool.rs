//! Pooling.

use super::builder::{Builder, OnnxNode, Outcome};
use super::conv::{channels_last, spatial, window};
use super::failure::{invalid, unsupported};
use crate::dim::Dim;
use crate::graph::{Op, Pool, PoolKind, ReduceKind};

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("MaxPool", |b, n| pool(b, n, PoolKind::Max)),
    ("AveragePool", |b, n| pool(b, n, PoolKind::Average)),
    ("GlobalMaxPool", |b, n| global(b, n, ReduceKind::Max)),
    ("GlobalAveragePool", |b, n| global(b, n, ReduceKind::Mean)),
];

fn pool(b: &mut Builder, node: &OnnxNode<'_>, kind: PoolKind) -> Outcome {
    node.at_most(1)?;
    let x = node.required(0, "X")?;
    let (batch, channels, sizes) = spatial(b, x)?;
    if node.wants(1) {
        return Err(unsupported("the Indices output is not supported", ""));
    }
    let dtype = b.dtype(x);
    if kind == PoolKind::Average && !dtype.is_float() {
        return Err(invalid(format!("an average over {dtype}")));
    }
    // It only orders the Indices.
    if kind == PoolKind::Max {
        node.attributes.flag("storage_order", false)?;
    }
    let ceil_mode = node.attributes.flag("ceil_mode", false)?;
    let count_include_pad =
        kind == PoolKind::Average && node.attributes.flag("count_include_pad", false)?;
    let Some(kernel) = node.attributes.ints("kernel_shape")? else {
        return Err(invalid("attribute `kernel_shape` is missing"));
    };
    let window = window(b, node, kernel, &sizes, ceil_mode)?;
    for axis in 0..sizes.len() {
        let extent = (window.kernel[axis] - 1) * window.dilation[axis] + 1;
        if window.pad_before[axis] >= extent || window.pad_after[axis] >= extent {
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
    });
    Ok(vec![channels_last(b, node, op, &[Some(x)], &output)?])
}

fn global(b: &mut Builder, node: &OnnxNode<'_>, kind: ReduceKind) -> Outcome {
    node.at_most(1)?;
    let x = node.required(0, "X")?;
    let mut shape = b.shape(x);
    if shape.len() < 3 {
        return Err(invalid("the input has no spatial axes"));
    }
    if !b.dtype(x).is_float() {
        return Err(invalid("the input is not of a floating-point type"));
    }
    let axes: Vec<usize> = (2..shape.len()).collect();
    for axis in &axes {
        shape[*axis] = Dim::from(1i64);
    }
    let op = Op::Reduce { kind, axes, keep_dims: true };
    Ok(vec![b.emit(node, "", op, &[Some(x)], b.dtype(x), shape)?])
}
