//! Flattening order into weight rows: Transpose, Reshape, MatMul becomes Reshape, MatMul with the
//! rows of the weights in another order.
//!
//! A channels-first model flattens C, H, W; the activations here are H, W, C. Nodes that work
//! element by element may stand anywhere between, and the weights may be dequantized integers.

use whit::DType;

use crate::graph::{Graph, Node, Op, ValueId};
use crate::tensor::Tensor;

use super::edit::{Editor, ends, input, inverse, is_pointwise, output, product};

/// Runs the pass.
pub(super) fn run(graph: &mut Graph) -> bool {
    let mut edit = Editor::new(graph);
    for index in 0..edit.len() {
        absorb(&mut edit, index);
    }
    edit.finish()
}

fn absorb(edit: &mut Editor<'_>, index: usize) -> Option<()> {
    let Op::MatMul(matmul) = &edit.node(index).op else { return None };
    if matmul.transpose_a {
        return None;
    }
    let row_axis = usize::from(matmul.transpose_b);
    // Upward: pointwise nodes, the reshape, pointwise nodes, the transpose; read by nobody else.
    let mut above_reshape = Vec::new();
    let mut reshape = None;
    let mut at = edit.sole_source(index, 0)?;
    let perm = loop {
        let node = edit.node(at);
        match &node.op {
            Op::Transpose { perm } if reshape.is_some() => break perm.clone(),
            Op::Reshape if reshape.is_none() => reshape = Some(at),
            _ if is_pointwise(edit.graph, node) => {
                if reshape.is_some() {
                    above_reshape.push(at);
                }
            }
            _ => return None,
        }
        at = edit.sole_source(at, 0)?;
    };
    let (before, after) = ends(edit.node(at))?;
    let flat = edit.graph.value(output(edit.node(reshape?))?).shape.last()?;
    let dims = &edit.graph.value(after).shape;
    // The axes that are flattened together: the last ones, whose product is the last dimension.
    let first = (0..dims.len()).rev().find(|i| &product(&dims[*i..]) == flat)?;
    let stays = |(i, p): (usize, &usize)| if i < first { *p == i } else { *p >= first };
    if !perm.iter().enumerate().all(stays) {
        return None;
    }
    let sizes: Vec<usize> = dims[first..]
        .iter()
        .map(|dim| dim.as_const().and_then(|dim| usize::try_from(dim).ok()))
        .collect::<Option<_>>()?;
    let local: Vec<usize> = perm[first..].iter().map(|p| p - first).collect();
    let weights = reordered(edit, index, row_axis, &sizes, &inverse(&local))?;
    let mut layer = edit.node(index).clone();
    layer.inputs[1] = Some(weights);
    edit.replace(index, layer);
    // The nodes between now work on the shape before the transpose.
    let shape = edit.graph.value(before).shape.clone();
    for between in &above_reshape {
        let y = output(edit.node(*between))?;
        edit.graph.value_mut(y).shape = shape.clone();
    }
    let reader = above_reshape.last().copied().or(reshape)?;
    let mut node = edit.node(reader).clone();
    node.inputs[0] = Some(before);
    edit.replace(reader, node);
    Some(())
}

/// The layer's weights with their rows, seen as a tensor of `sizes`, transposed by `perm`.
fn reordered(
    edit: &mut Editor<'_>,
    index: usize,
    row_axis: usize,
    sizes: &[usize],
    perm: &[usize],
) -> Option<ValueId> {
    let id = input(edit.node(index), 1)?;
    if let Some(tensor) = edit.graph.constant(id) {
        let tensor = rows_transposed(tensor, row_axis, sizes, perm)?;
        return Some(add_like(edit.graph, id, tensor));
    }
    let dequantize = edit.node(edit.producer(id)?).clone();
    let integers = input(&dequantize, 0)?;
    if dequantize.op != Op::Dequantize
        || edit.graph.value(integers).quant.as_ref()?.axis == Some(row_axis)
    {
        return None;
    }
    let tensor = rows_transposed(edit.graph.constant(integers)?, row_axis, sizes, perm)?;
    let integers = add_like(edit.graph, integers, tensor);
    let old = edit.graph.value(id);
    let (name, shape) = (old.name.clone(), old.shape.clone());
    let y = edit.graph.add_value(name, DType::F32, shape);
    edit.insert_before(
        index,
        Node {
            name: dequantize.name,
            op: Op::Dequantize,
            inputs: vec![Some(integers)],
            outputs: vec![y],
        },
    );
    Some(y)
}

fn rows_transposed(b: &Tensor, row_axis: usize, sizes: &[usize], perm: &[usize]) -> Option<Tensor> {
    let rows: usize = sizes.iter().product();
    if b.shape.len() != 2 || b.shape[row_axis] != rows {
        return None;
    }
    let columns = b.shape[1 - row_axis];
    // The columns keep their place before or behind the unfolded rows.
    let (unfolded, perm): (Vec<usize>, Vec<usize>) = if row_axis == 0 {
        ([sizes, &[columns]].concat(), [perm, &[perm.len()]].concat())
    } else {
        let shifted = perm.iter().map(|p| p + 1);
        ([&[columns], sizes].concat(), std::iter::once(0).chain(shifted).collect())
    };
    Some(b.reshaped(unfolded).transposed(&perm).reshaped(b.shape.clone()))
}

/// A constant with another's name and quantization.
fn add_like(graph: &mut Graph, like: ValueId, tensor: Tensor) -> ValueId {
    let (name, quant) = (graph.value(like).name.clone(), graph.value(like).quant.clone());
    let id = graph.add_constant(name, tensor);
    graph.value_mut(id).quant = quant;
    id
}
