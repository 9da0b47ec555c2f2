//! An added tensor of the same shape becomes the residual input of the layer before the addition.
//!
//! Only in float graphs: where quantized tensors meet, the quantize stage decides. The fused layer
//! stands where the addition was, so both operands exist by then; of two layers the later one takes
//! the other's result. Reshapes in between move behind the addition.

use whit::DType;

use crate::graph::{BinaryKind, Clamp, Graph, Node, Op};

use super::edit::{Editor, input, output, same_kind};

/// Runs the pass.
pub(super) fn run(graph: &mut Graph) -> bool {
    if graph.nodes.iter().any(|node| matches!(node.op, Op::Quantize | Op::Dequantize)) {
        return false;
    }
    let mut edit = Editor::new(graph);
    for index in 0..edit.len() {
        if edit.is_alive(index) {
            absorb(&mut edit, index);
        }
    }
    edit.finish()
}

fn absorb(edit: &mut Editor<'_>, index: usize) -> Option<()> {
    let node = edit.node(index);
    if node.op != Op::Binary(BinaryKind::Add) {
        return None;
    }
    let (a, b, y) = (input(node, 0)?, input(node, 1)?, output(node)?);
    let dense = |id| same_kind(edit.graph, id, y) && edit.graph.constant(id).is_none();
    if !dense(a) || !dense(b) || edit.graph.value(y).dtype != DType::F32 {
        return None;
    }
    let layer = |operand| {
        let at = edit.sole_origin(index, operand, |_, node| node.op == Op::Reshape)?;
        is_open(edit, at).then_some(at)
    };
    let (at, residual) = match (layer(0), layer(1)) {
        (Some(first), Some(second)) if first > second => (first, b),
        (Some(first), None) => (first, b),
        (_, Some(second)) => (second, a),
        (None, None) => return None,
    };
    let mut fused = edit.node(at).clone();
    fused.inputs.resize(4, None);
    fused.inputs[3] = Some(residual);
    let own = output(&fused)?;
    if edit.sole_source(index, 0) == Some(at) || edit.sole_source(index, 1) == Some(at) {
        fused.outputs = vec![y];
        edit.remove(at);
        edit.replace(index, fused);
        return Some(());
    }
    // The layer's result has another shape there: the tensor gets it, too, and the sum is reshaped.
    let name = edit.node(index).name.clone();
    let shape = edit.graph.value(own).shape.clone();
    let flat = edit.graph.add_value(format!("{name}/residual"), DType::F32, shape.clone());
    let sum = edit.graph.add_value(format!("{name}/sum"), DType::F32, shape);
    let reshape = |name: String, x, y| Node {
        name,
        op: Op::Reshape,
        inputs: vec![Some(x)],
        outputs: vec![y],
    };
    fused.inputs[3] = Some(flat);
    fused.outputs = vec![sum];
    edit.insert_before(index, reshape(format!("{name}/residual"), residual, flat));
    edit.insert_before(index, fused);
    edit.replace(index, reshape(name, sum, y));
    Some(())
}

/// A convolution or fully connected layer with nothing behind it yet.
fn is_open(edit: &Editor<'_>, at: usize) -> bool {
    let node = edit.node(at);
    let constant = |id| edit.graph.constant(id).is_some_and(|w| w.shape.len() >= 2);
    let clamp = match &node.op {
        Op::Conv(conv) => conv.clamp,
        // Products of two activations (attention) run without packed weights and take no residual.
        Op::MatMul(matmul) if input(node, 1).is_some_and(constant) => matmul.clamp,
        _ => return false,
    };
    clamp == Clamp::NONE && input(node, 3).is_none()
}
