//! Reductions, searches and running sums along axes.

use whit::DType;

use super::elementwise::arithmetic;
use super::node::TfliteNode;
use super::schema::{
    ArgMaxOptions, ArgMinOptions, CumsumOptions, Options, ReducerOptions, tensor_type,
};
use crate::dim::Dim;
use crate::graph::{Op, ReduceKind, ValueId};
use crate::import::builder::{Builder, Outcome};
use crate::import::dims;
use crate::import::failure::{Failure, invalid, unsupported};

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("MEAN", |b, n| reduce(b, n, ReduceKind::Mean)),
    ("SUM", |b, n| reduce(b, n, ReduceKind::Sum)),
    ("REDUCE_MAX", |b, n| reduce(b, n, ReduceKind::Max)),
    ("REDUCE_MIN", |b, n| reduce(b, n, ReduceKind::Min)),
    ("REDUCE_PROD", |b, n| reduce(b, n, ReduceKind::Prod)),
    ("REDUCE_ANY", |b, n| of_bools(b, n, ReduceKind::Max)),
    ("REDUCE_ALL", |b, n| of_bools(b, n, ReduceKind::Min)),
    ("ARG_MAX", |b, n| arg_reduce::<ArgMaxOptions>(b, n, false, |o| o.output_type)),
    ("ARG_MIN", |b, n| arg_reduce::<ArgMinOptions>(b, n, true, |o| o.output_type)),
    ("CUMSUM", cumsum),
];

/// An axis, which may count from the end.
pub(super) fn axis_of(axis: i64, rank: usize) -> Result<usize, Failure> {
    let from_start = if axis < 0 { axis + rank as i64 } else { axis };
    let index = usize::try_from(from_start).ok().filter(|index| *index < rank);
    index.ok_or_else(|| invalid(format!("axis {axis} of {rank} axes")))
}

/// The axes that operand `index` lists, ascending, each once.
pub(super) fn axes_of(
    b: &Builder,
    node: &TfliteNode<'_>,
    index: usize,
    rank: usize,
) -> Result<Vec<usize>, Failure> {
    let listed = b.ints(node.required(index, "axes")?, "the axes")?;
    let axes: Result<Vec<usize>, Failure> =
        listed.iter().map(|axis| axis_of(*axis, rank)).collect();
    let mut axes = axes?;
    axes.sort_unstable();
    axes.dedup();
    Ok(axes)
}

fn reduce(b: &mut Builder, node: &TfliteNode<'_>, kind: ReduceKind) -> Outcome {
    let options: ReducerOptions = node.options()?;
    let mut x = node.required(0, "input")?;
    let axes = axes_of(b, node, 1, b.rank(x))?;
    let count = dims::product(&axes.iter().map(|a| b.shape(x)[*a].clone()).collect::<Vec<Dim>>())?;
    let kind = match (kind, b.graph.value(x).quant.clone(), count.as_const()) {
        // The sum is the mean of elements that stand for as many times more; integers have a mean.
        (ReduceKind::Sum, Some(quant), Some(count)) if count > 0 && quant.axis.is_none() => {
            x = node.scaled(b, "count", x, &quant, count as f32)?;
            ReduceKind::Mean
        }
        _ => kind,
    };
    let x = match b.graph.value(x).quant {
        Some(_) => node.dequantized(b, "input", x)?,
        None => arithmetic(b, node, &[0])?[0],
    };
    let y = match axes.is_empty() {
        true => x,
        false => b.reduce(node, "", kind, x, &axes, options.keep_dims)?,
    };
    Ok(vec![node.declared(b, y, 0)?])
}

/// Whether any or all are true: the largest or smallest of 0 and 1.
fn of_bools(b: &mut Builder, node: &TfliteNode<'_>, kind: ReduceKind) -> Outcome {
    let options: ReducerOptions = node.options()?;
    let x = node.required(0, "input")?;
    if b.dtype(x) != DType::Bool {
        return Err(invalid(format!("an operand of type {} instead of bool", b.dtype(x))));
    }
    let axes = axes_of(b, node, 1, b.rank(x))?;
    if axes.is_empty() {
        return Ok(vec![x]);
    }
    let x = b.cast(node, "number", x, DType::I32)?;
    let y = b.reduce(node, "", kind, x, &axes, options.keep_dims)?;
    Ok(vec![b.cast(node, "bool", y, DType::Bool)?])
}

fn arg_reduce<T: Options>(
    b: &mut Builder,
    node: &TfliteNode<'_>,
    min: bool,
    output_type: fn(&T) -> i8,
) -> Outcome {
    let options: T = node.options()?;
    let x = node.required(0, "input")?;
    let axis = axis_of(b.int(node.required(1, "axis")?, "the axis")?, b.rank(x))?;
    // One scale doesn't change which element is the largest.
    let x = match b.dtype(x) {
        DType::F32 | DType::I8 | DType::I32 | DType::I64 => x,
        DType::Bool => b.cast(node, "number", x, DType::I32)?,
        _ => node.real(b, 0, "input")?,
    };
    let mut shape = b.shape(x);
    if dims::bounds(&shape[axis], &b.graph.symbols).is_none_or(|(low, _)| low < 1) {
        return Err(invalid("no element to choose from"));
    }
    shape.remove(axis);
    let op = Op::ArgReduce { axis, min, keep_dims: false, select_last: false };
    let y = b.emit(node, "", op, &[Some(x)], DType::I64, shape)?;
    let to = match output_type(&options) {
        tensor_type::INT32 => DType::I32,
        tensor_type::INT64 => DType::I64,
        other => return Err(invalid(format!("indices of {}", tensor_type::name(other)))),
    };
    Ok(vec![b.cast(node, "index", y, to)?])
}

fn cumsum(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let options: CumsumOptions = node.options()?;
    let x: ValueId = arithmetic(b, node, &[0])?[0];
    let axis = axis_of(b.int(node.required(1, "axis")?, "the axis")?, b.rank(x))?;
    if !matches!(b.dtype(x), DType::F32 | DType::I32 | DType::I64) {
        return Err(unsupported(format!("running sums of {}", b.dtype(x)), ""));
    }
    let CumsumOptions { exclusive, reverse } = options;
    let op = Op::Cumulative { axis, product: false, exclusive, reverse };
    let y = b.emit(node, "", op, &[Some(x)], b.dtype(x), b.shape(x))?;
    Ok(vec![node.declared(b, y, 0)?])
}
