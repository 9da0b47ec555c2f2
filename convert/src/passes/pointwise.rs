//! A 1×1 convolution of a map that is one pixel, as in squeeze-and-excitation, is a fully connected layer.

use crate::graph::{Graph, MatMul, Node, Op};

use super::edit::{Editor, f32_constant, input, output};

/// Runs the pass.
pub(super) fn run(graph: &mut Graph) -> bool {
    let mut edit = Editor::new(graph);
    for index in 0..edit.len() {
        connect(&mut edit, index);
    }
    edit.finish()
}

fn connect(edit: &mut Editor<'_>, index: usize) -> Option<()> {
    let node = edit.node(index);
    let Op::Conv(conv) = &node.op else { return None };
    let (x, w, y) = (input(node, 0)?, input(node, 1)?, output(node)?);
    let one_pixel = |shape: &[crate::dim::Dim]| {
        shape.get(1..shape.len() - 1).is_some_and(|space| space.iter().all(|dim| dim.is(1)))
    };
    let padded = conv.pad_before.iter().chain(&conv.pad_after).any(|pad| *pad != 0);
    if conv.groups != 1
        || padded
        || conv.kernel.iter().any(|size| *size != 1)
        || !one_pixel(&edit.graph.value(x).shape)
        || !one_pixel(&edit.graph.value(y).shape)
    {
        return None;
    }
    let weights = f32_constant(edit.graph, w)?;
    let (out, channels) = (*weights.shape.first()?, *weights.shape.last()?);
    let weights = weights.reshaped([out, channels]).transposed(&[1, 0]);
    let op = Op::MatMul(MatMul {
        transpose_a: false,
        transpose_b: false,
        clamp: conv.clamp,
        inner_quant: conv.inner_quant.clone(),
    });
    let mut node = Node { op, ..node.clone() };
    let name = edit.graph.value(w).name.clone();
    node.inputs[1] = Some(edit.graph.add_constant(name, weights));
    edit.replace(index, node);
    Some(())
}
