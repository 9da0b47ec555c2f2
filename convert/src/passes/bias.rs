//! An added vector becomes the bias of the layer, whatever its weights are made of.
//!
//! [`super::scale_shift`] does the same for layers with float weights; here are the rest: layers
//! without a bias whose weights are dequantized integers or computed. Moving the addition into such
//! a layer is exact. A dequantized vector stays an addition: the quantize stage reads its integers.

use crate::graph::{BinaryKind, Clamp, Graph, Op};

use super::edit::{Editor, channel_vector, input, output, rounded, same_kind};

/// Runs the pass.
pub(super) fn run(graph: &mut Graph) -> bool {
    let mut edit = Editor::new(graph);
    for index in 0..edit.len() {
        for operand in [0, 1] {
            if edit.is_alive(index) && absorb(&mut edit, index, operand).is_some() {
                break;
            }
        }
    }
    edit.finish()
}

fn absorb(edit: &mut Editor<'_>, index: usize, operand: usize) -> Option<()> {
    let node = edit.node(index);
    if node.op != Op::Binary(BinaryKind::Add) {
        return None;
    }
    let (x, y) = (input(node, operand)?, output(node)?);
    let at = edit.sole_source(index, operand)?;
    let layer = edit.node(at);
    let open = match &layer.op {
        Op::Conv(conv) => conv.clamp == Clamp::NONE,
        Op::MatMul(matmul) => matmul.clamp == Clamp::NONE,
        _ => false,
    };
    if !open || input(layer, 2).is_some() || input(layer, 3).is_some() {
        return None;
    }
    let channels = edit.graph.value(y).shape.last()?.as_const()?;
    let added = input(node, 1 - operand)?;
    let bias = channel_vector(edit.graph, added, usize::try_from(channels).ok()?)?;
    if !same_kind(edit.graph, x, y) {
        return None;
    }
    let mut layer = layer.clone();
    let name = edit.graph.value(added).name.clone();
    layer.inputs.resize(3, None);
    layer.inputs[2] = Some(edit.graph.add_constant(name, rounded(&[bias.len()], &bias)));
    layer.outputs = vec![y];
    edit.remove(at);
    edit.replace(index, layer);
    Some(())
}
