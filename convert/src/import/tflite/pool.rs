//! Pooling.

use super::conv::{Sizes, image, window};
use super::node::TfliteNode;
use super::schema::Pool2dOptions;
use crate::graph::{BinaryKind, Op, Pool, PoolKind, UnaryKind};
use crate::import::builder::{Builder, Outcome};

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("AVERAGE_POOL_2D", |b, n| pool(b, n, PoolKind::Average)),
    ("MAX_POOL_2D", |b, n| pool(b, n, PoolKind::Max)),
    ("L2_POOL_2D", |b, n| pool(b, n, PoolKind::Norm { p: 2 })),
];

fn pool(b: &mut Builder, node: &TfliteNode<'_>, kind: PoolKind) -> Outcome {
    let options: Pool2dOptions = node.options()?;
    let mut x = node.real(b, 0, "input")?;
    let of_x = image(b, x, "the input")?;
    let window = window(
        b,
        &of_x[1..3],
        &Sizes {
            kernel: [options.filter_h.into(), options.filter_w.into()],
            stride: [options.stride_h.into(), options.stride_w.into()],
            dilation: [1, 1],
            padding: options.padding,
        },
    )?;
    let mut shape = vec![of_x[0].clone()];
    shape.extend(window.output);
    shape.push(of_x[3].clone());
    // The root of the mean of squares.
    let is_norm = matches!(kind, PoolKind::Norm { .. });
    if is_norm {
        x = b.binary(node, "squares", BinaryKind::Mul, x, x)?;
    }
    let op = Op::Pool(Pool {
        kind: if is_norm { PoolKind::Average } else { kind },
        kernel: window.kernel,
        stride: window.stride,
        dilation: window.dilation,
        pad_before: window.pad_before,
        pad_after: window.pad_after,
        count_include_pad: false,
        column_major: false,
    });
    let mut y = b.emit(node, "", op, &[Some(x)], b.dtype(x), shape)?;
    if is_norm {
        y = b.unary(node, "root", UnaryKind::Sqrt, y)?;
    }
    let y = node.activated(b, y, options.activation)?;
    Ok(vec![node.declared(b, y, 0)?])
}
