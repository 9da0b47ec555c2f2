//! Merges reshapes, also across nodes between them that work element by element.

use crate::graph::{Graph, Op};

use super::edit::{Editor, ends, input, is_pointwise, output};

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

/// Finds a reshape above this one, through pointwise nodes that only this chain reads, and takes it
/// out: the nodes between then work on the shape before it.
fn merge(edit: &mut Editor<'_>, index: usize) -> Option<()> {
    let mut between = Vec::new();
    let mut at = edit.source(index, 0)?;
    while is_pointwise(edit.graph, edit.node(at)) {
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
    let x = input(edit.node(at), 0)?;
    let shape = edit.graph.value(x).shape.clone();
    for at in &between {
        let y = output(edit.node(*at))?;
        edit.graph.value_mut(y).shape = shape.clone();
    }
    let first = between.last().copied().unwrap_or(index);
    let mut node = edit.node(first).clone();
    node.inputs[0] = Some(x);
    edit.replace(first, node);
    Some(())
}
