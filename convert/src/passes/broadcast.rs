//! Drops an expansion in front of an operator that broadcasts by itself.

use crate::graph::{Graph, Op, ValueId};

use super::check::broadcast;
use super::edit::{Editor, input, output};

/// Runs the pass.
pub(super) fn run(graph: &mut Graph) -> bool {
    let mut edit = Editor::new(graph);
    for index in 0..edit.len() {
        for operand in 0..edit.node(index).inputs.len() {
            if let Some(x) = unexpanded(&edit, index, operand) {
                let mut node = edit.node(index).clone();
                node.inputs[operand] = Some(x);
                edit.replace(index, node);
            }
        }
    }
    edit.finish()
}

/// What stands before the expansion of an operand, when the result has the same shape with it.
fn unexpanded(edit: &Editor<'_>, index: usize, operand: usize) -> Option<ValueId> {
    let node = edit.node(index);
    if !matches!(node.op, Op::Binary(_) | Op::Compare(_) | Op::Where) {
        return None;
    }
    let before = edit.node(edit.source(index, operand)?);
    if before.op != Op::Expand {
        return None;
    }
    let x = input(before, 0)?;
    let mut shape = edit.graph.value(x).shape.clone();
    for (k, id) in node.inputs.iter().enumerate() {
        if k != operand {
            shape = broadcast(&shape, &edit.graph.value((*id)?).shape)?;
        }
    }
    (shape == edit.graph.value(output(node)?).shape).then_some(x)
}
