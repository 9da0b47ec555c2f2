//! Constant folding: moves the data of constants here, and leaves arithmetic to an evaluator.

use std::sync::Arc;

use bytes::Bytes;

use crate::graph::{Graph, Node, Op, ValueId};
use crate::tensor::Tensor;

use super::edit::{Editor, input, output};

/// A folded result may be this many times larger than what it is made of …
const MAX_GROWTH: usize = 4;

/// … unless it is smaller than this, where size doesn't matter.
const SMALL_BYTES: usize = 1 << 20;

/// Runs the pass: reshapes, transposes, slices, expansions and concatenations of constants.
pub(super) fn run(graph: &mut Graph) -> bool {
    let mut edit = Editor::new(graph);
    for index in 0..edit.len() {
        let node = edit.node(index);
        if let Some(y) = output(node)
            && let Some(tensor) = moved(edit.graph, node)
        {
            edit.graph.value_mut(y).constant = Some(Arc::new(tensor));
            edit.remove(index);
        }
    }
    edit.finish()
}

/// Evaluates every other node whose inputs are all constant, as a graph of that one node without
/// inputs, and makes its result a constant. `evaluate` may decline with `None`.
///
/// Dequantized weights stay as they are, so that the layer that reads them keeps its integers.
pub fn fold_with(graph: &mut Graph, evaluate: &dyn Fn(&Graph) -> Option<Vec<Tensor>>) -> bool {
    let mut edit = Editor::new(graph);
    for index in 0..edit.len() {
        let node = edit.node(index);
        let Some(y) = output(node) else { continue };
        if node.op == Op::Dequantize || !foldable(edit.graph, node) {
            continue;
        }
        let single = one_node(edit.graph, node);
        let Some(tensor) = evaluate(&single).and_then(|mut results| results.pop()) else {
            continue;
        };
        let declared = edit.graph.value(y);
        if declared.const_shape().as_ref() == Some(&tensor.shape) && declared.dtype == tensor.dtype
        {
            edit.graph.value_mut(y).constant = Some(Arc::new(tensor));
            edit.remove(index);
        }
    }
    edit.finish()
}

/// All inputs are constant and the result has a sensible size.
fn foldable(graph: &Graph, node: &Node) -> bool {
    let mut input_bytes = 0usize;
    for id in node.inputs.iter().flatten() {
        match graph.constant(*id) {
            Some(tensor) => input_bytes = input_bytes.saturating_add(tensor.data.len()),
            None => return false,
        }
    }
    let result = output(node).map(|y| graph.value(y));
    let Some((value, shape)) = result.and_then(|v| Some((v, v.const_shape()?))) else {
        return false;
    };
    let bytes = shape.iter().try_fold(value.dtype.size(), |all, dim| all.checked_mul(*dim));
    bytes.is_some_and(|b| b <= SMALL_BYTES || b <= input_bytes.saturating_mul(MAX_GROWTH))
}

/// A graph of one node over copies of its values.
fn one_node(graph: &Graph, node: &Node) -> Graph {
    let mut single = Graph { name: node.name.clone(), ..Graph::default() };
    let mut copy = |id: ValueId| {
        single.values.push(graph.value(id).clone());
        ValueId(single.values.len() as u32 - 1)
    };
    let inputs = node.inputs.iter().map(|id| id.map(&mut copy)).collect();
    let outputs: Vec<ValueId> = node.outputs.iter().map(|id| copy(*id)).collect();
    single.outputs = outputs.clone();
    single.nodes.push(Node { name: node.name.clone(), op: node.op.clone(), inputs, outputs });
    single
}

/// The result of a node that only moves constant data.
fn moved(graph: &Graph, node: &Node) -> Option<Tensor> {
    if !matches!(
        node.op,
        Op::Reshape | Op::Transpose { .. } | Op::Slice { .. } | Op::Expand | Op::Concat { .. }
    ) || !foldable(graph, node)
    {
        return None;
    }
    let x = graph.constant(input(node, 0)?)?;
    let shape = graph.value(output(node)?).const_shape()?;
    match &node.op {
        Op::Reshape => (shape.iter().product::<usize>() == x.len()).then(|| x.reshaped(shape)),
        Op::Transpose { perm } => Some(x.transposed(perm)),
        Op::Slice { starts, steps } => {
            let starts: Vec<i64> = starts.iter().map(|s| s.as_const()).collect::<Option<_>>()?;
            strided(x, &shape, &starts, steps)
        }
        Op::Expand => {
            let mut full = vec![1; shape.len().checked_sub(x.shape.len())?];
            full.extend_from_slice(&x.shape);
            let steps: Vec<i64> = full.iter().map(|dim| i64::from(*dim != 1)).collect();
            strided(&x.reshaped(full), &shape, &vec![0; shape.len()], &steps)
        }
        Op::Concat { axis } => {
            let parts: Option<Vec<&Arc<Tensor>>> =
                node.inputs.iter().map(|id| graph.constant((*id)?)).collect();
            concatenated(&parts?, *axis, shape)
        }
        _ => None,
    }
}

/// `result[i…] = x[start + i * step…]`; a step of 0 broadcasts. `None` when that leaves `x`.
fn strided(x: &Tensor, shape: &[usize], starts: &[i64], steps: &[i64]) -> Option<Tensor> {
    let size = x.dtype.size();
    let len: usize = shape.iter().product();
    let mut data = Vec::with_capacity(len.checked_mul(size)?);
    let mut index = vec![0usize; shape.len()];
    for _ in 0..len {
        let mut at = 0usize;
        for axis in 0..shape.len() {
            let i = starts[axis].checked_add(steps[axis].checked_mul(index[axis] as i64)?)?;
            let i = usize::try_from(i).ok().filter(|i| *i < x.shape[axis])?;
            at = at * x.shape[axis] + i;
        }
        data.extend_from_slice(x.data.get(at * size..(at + 1) * size)?);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    Some(Tensor { dtype: x.dtype, shape: shape.to_vec(), data: Bytes::from(data) })
}

/// Tensors joined along an axis.
fn concatenated(parts: &[&Arc<Tensor>], axis: usize, shape: Vec<usize>) -> Option<Tensor> {
    let first = parts.first()?;
    let size = first.dtype.size();
    let rows: usize = shape.get(..axis)?.iter().product();
    let mut data = Vec::new();
    for row in 0..rows {
        for part in parts {
            let run = part.shape.get(axis..)?.iter().product::<usize>() * size;
            data.extend_from_slice(part.data.get(row * run..(row + 1) * run)?);
        }
    }
    let bytes = shape.iter().product::<usize>() * size;
    let dtype = first.dtype;
    (data.len() == bytes).then(|| Tensor { dtype, shape, data: Bytes::from(data) })
}
