//! Reductions.

use whit::DType;

use super::builder::{Builder, Outcome};
use super::data::{axes_input, axes_of, axis_of};
use super::failure::{invalid, unsupported};
use super::node::OnnxNode;
use super::types::wrapped;
use crate::dim::Dim;
use crate::graph::{Op, ReduceKind};

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("ReduceSum", |b, n| reduce(b, n, ReduceKind::Sum, 13)),
    ("ReduceMean", |b, n| reduce(b, n, ReduceKind::Mean, 18)),
    ("ReduceMax", |b, n| reduce(b, n, ReduceKind::Max, 18)),
    ("ReduceMin", |b, n| reduce(b, n, ReduceKind::Min, 18)),
    ("ReduceProd", |b, n| reduce(b, n, ReduceKind::Prod, 18)),
    ("ReduceL1", |b, n| reduce(b, n, ReduceKind::L1, 18)),
    ("ReduceL2", |b, n| reduce(b, n, ReduceKind::L2, 18)),
    ("ReduceSumSquare", |b, n| reduce(b, n, ReduceKind::SumSquare, 18)),
    ("ReduceLogSum", |b, n| reduce(b, n, ReduceKind::LogSum, 18)),
    ("ReduceLogSumExp", |b, n| reduce(b, n, ReduceKind::LogSumExp, 18)),
    ("ArgMax", |b, n| arg_reduce(b, n, false)),
    ("ArgMin", |b, n| arg_reduce(b, n, true)),
];

/// `input_since`: the opset in which the axes became an input.
fn reduce(b: &mut Builder, node: &OnnxNode<'_>, kind: ReduceKind, input_since: i64) -> Outcome {
    let x = node.required(0, "data")?;
    let (dtype, rank) = (b.dtype(x), b.rank(x));
    let needs_reals = matches!(
        kind,
        ReduceKind::Mean | ReduceKind::L2 | ReduceKind::LogSum | ReduceKind::LogSumExp
    );
    let of_bool = matches!(kind, ReduceKind::Max | ReduceKind::Min);
    if (dtype == DType::Bool && !of_bool) || (needs_reals && !dtype.is_float()) {
        return Err(unsupported(format!("over {dtype}"), "cast to float before it"));
    }
    let keep_dims = node.attributes.flag("keepdims", true)?;
    let axes = axes_input(b, node, input_since)?;
    let no_op = node.opset >= input_since && node.attributes.flag("noop_with_empty_axes", false)?;
    let mut axes = match axes {
        Some(axes) if !axes.is_empty() => axes_of(&axes, rank)?,
        _ if no_op => {
            let identity = matches!(
                kind,
                ReduceKind::Sum
                    | ReduceKind::Mean
                    | ReduceKind::Max
                    | ReduceKind::Min
                    | ReduceKind::Prod
            );
            return match identity {
                true => Ok(vec![x]),
                false => Err(unsupported("a reduction over no axes", "")),
            };
        }
        _ => (0..rank).collect(),
    };
    axes.sort_unstable();
    let y = b.reduce(node, "", kind, x, &axes, keep_dims)?;
    let onnx = b.onnx_type(x);
    Ok(vec![match kind {
        ReduceKind::Max | ReduceKind::Min => y,
        _ => wrapped(b, node, y, onnx)?,
    }])
}

fn arg_reduce(b: &mut Builder, node: &OnnxNode<'_>, min: bool) -> Outcome {
    node.at_most(1)?;
    let x = node.required(0, "data")?;
    let mut shape = b.shape(x);
    let axis = axis_of(node.attributes.int("axis", 0)?, shape.len())?;
    let keep_dims = node.attributes.flag("keepdims", true)?;
    let select_last = node.attributes.flag("select_last_index", false)?;
    if b.dtype(x) == DType::Bool {
        return Err(invalid("an operand of type bool"));
    }
    if keep_dims {
        shape[axis] = Dim::from(1i64);
    } else {
        shape.remove(axis);
    }
    let op = Op::ArgReduce { axis, min, keep_dims, select_last };
    Ok(vec![b.emit(node, "", op, &[Some(x)], DType::I64, shape)?])
}
