//! Merges reshapes, also across nodes between them that work element by element.

use crate::dim::Dim;
use crate::graph::{Graph, Node, Op, ValueId};
use crate::tensor::Tensor;

use super::edit::{Editor, ends, f32_constant, input, is_pointwise, output, same_kind};
use super::regroup::regrouped;

/// Runs the pass.
pub(super) fn run(graph: &mut Graph) -> bool {
    let mut edit = Editor::new(graph);
    for index in 0..edit.len() {
        if edit.is_alive(index) && edit.node(index).op == Op::Reshape {
            merge(&mut edit, index);
        }
    }
    edit.finish()
}

/// Finds a reshape above this one, through nodes without other readers that work element by element,
/// and takes it out: the nodes between then work on the shape before it.
fn merge(edit: &mut Editor<'_>, index: usize) -> Option<()> {
    let mut between = Vec::new();
    let mut at = edit.source(index, 0)?;
    while is_pointwise(edit.graph, edit.node(at)) || vector(edit.graph, edit.node(at)).is_some() {
        let (x, y) = ends(edit.node(at))?;
        if edit.uses(y) != 1 || edit.graph.value(x).constant.is_some() {
            return None;
        }
        between.push(at);
        at = edit.producer(x)?;
    }
    if edit.node(at).op != Op::Reshape {
        return None;
    }
    let (x, before) = ends(edit.node(at))?;
    let from = edit.graph.value(before).shape.clone();
    let shape = edit.graph.value(x).shape.clone();
    let vectors = between
        .iter()
        .filter_map(|at| Some((*at, vector(edit.graph, edit.node(*at))?)))
        .map(|(at, id)| Some((at, id, reshaped(edit.graph, id, &from, &shape)?)))
        .collect::<Option<Vec<_>>>()?;
    for (at, id, tensor) in vectors {
        let name = edit.graph.value(id).name.clone();
        let mut node = edit.node(at).clone();
        node.inputs[1] = Some(edit.graph.add_constant(name, tensor));
        edit.replace(at, node);
    }
    for at in &between {
        let y = output(edit.node(*at))?;
        edit.graph.value_mut(y).shape = shape.clone();
    }
    let first = between.last().copied().unwrap_or(index);
    let mut node = edit.node(first).clone();
    node.inputs[0] = Some(x);
    edit.replace(first, node);
    // Not left to dead-code: until then other passes would see that it reads `x`.
    if edit.uses(before) == 0 {
        edit.remove(at);
    }
    Some(())
}

/// The second operand of arithmetic, a constant that broadcasts to the first. Numbers without axes are
/// none of these: they fit any shape.
fn vector(graph: &Graph, node: &Node) -> Option<ValueId> {
    let (Op::Binary(_), Some(x), Some(y)) = (&node.op, input(node, 0), output(node)) else {
        return None;
    };
    let id = input(node, 1).filter(|id| graph.value(*id).quant.is_none())?;
    let axes = f32_constant(graph, id)?.shape.len();
    (axes > 0 && same_kind(graph, x, y)).then_some(id)
}

/// A constant that broadcasts to `from`, for the same elements as `to`.
fn reshaped(graph: &Graph, id: ValueId, from: &[Dim], to: &[Dim]) -> Option<Tensor> {
    let tensor = f32_constant(graph, id)?;
    if tensor.len() == 1 {
        return Some(tensor.reshaped([]));
    }
    let own: Vec<Dim> = tensor.shape.iter().copied().map(Dim::from).collect();
    let (_, shape) = regrouped(&own, from, to)?;
    let sizes = shape.iter().map(|dim| usize::try_from(dim.as_const()?).ok());
    let sizes = sizes.collect::<Option<Vec<usize>>>()?;
    // More elements would mean that it has to be expanded.
    (sizes.iter().product::<usize>() == tensor.len()).then(|| tensor.reshaped(sizes))
}
