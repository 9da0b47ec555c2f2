//! Small pieces that importers of composite operators are put together from.

use super::builder::{Builder, OnnxNode};
use super::dims;
use super::failure::Failure;
use crate::dim::Dim;
use crate::graph::{BinaryKind, Op, ReduceKind, UnaryKind, ValueId};
use crate::tensor::Tensor;

/// Two operands of one type, broadcast.
pub(super) fn binary(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    part: &str,
    kind: BinaryKind,
    x: ValueId,
    y: ValueId,
) -> Result<ValueId, Failure> {
    let shape = dims::broadcast(&b.shape(x), &b.shape(y), &b.graph.symbols)?;
    b.emit(node, part, Op::Binary(kind), &[Some(x), Some(y)], b.dtype(x), shape)
}

/// An operand and a number of its type.
pub(super) fn with_scalar(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    part: &str,
    kind: BinaryKind,
    x: ValueId,
    value: f64,
) -> Result<ValueId, Failure> {
    let scalar = b.scalar(format!("{}/{part}/value", node.name), b.dtype(x), value)?;
    binary(b, node, part, kind, x, scalar)
}

/// One operand.
pub(super) fn unary(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    part: &str,
    kind: UnaryKind,
    x: ValueId,
) -> Result<ValueId, Failure> {
    b.emit(node, part, Op::Unary(kind), &[Some(x)], b.dtype(x), b.shape(x))
}

/// A reduction whose axes stay, with size 1.
pub(super) fn reduce(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    part: &str,
    kind: ReduceKind,
    x: ValueId,
    axes: &[usize],
) -> Result<ValueId, Failure> {
    let mut shape = b.shape(x);
    let mut axes = axes.to_vec();
    axes.sort_unstable();
    for axis in &axes {
        shape[*axis] = Dim::from(1i64);
    }
    let op = Op::Reduce { kind, axes, keep_dims: true };
    b.emit(node, part, op, &[Some(x)], b.dtype(x), shape)
}

/// `count` elements along one axis, from `start` on.
pub(super) fn slice(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    part: &str,
    x: ValueId,
    axis: usize,
    start: Dim,
    count: Dim,
) -> Result<ValueId, Failure> {
    let mut shape = b.shape(x);
    let mut starts = vec![Dim::from(0i64); shape.len()];
    if dims::same(&shape[axis], &count, &b.graph.symbols) {
        return Ok(x);
    }
    (starts[axis], shape[axis]) = (start, count);
    let op = Op::Slice { starts, steps: vec![1; shape.len()] };
    b.emit(node, part, op, &[Some(x)], b.dtype(x), shape)
}

/// A vector of one number per channel as an operand that broadcasts along axis 1.
pub(super) fn per_channel(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    part: &str,
    vector: ValueId,
    rank: usize,
) -> Result<ValueId, Failure> {
    let mut shape = b.shape(vector);
    shape.extend((2..rank).map(|_| Dim::from(1i64)));
    b.reshape(node, part, vector, shape)
}

/// An f32 constant, within the budget for generated data.
pub(super) fn floats(
    b: &mut Builder,
    name: String,
    shape: &[usize],
    values: &[f32],
) -> Result<ValueId, Failure> {
    b.charge(size_of_val(values))?;
    Ok(b.constant(name, Tensor::from_f32(shape, values)))
}
