//! Batch normalisation: folded into the layer before it, or the layer behind it when no padding
//! mixes in zeros, or turned into a multiplication and an addition by constants.

use whit::DType;

use crate::graph::{BinaryKind, Graph, Node, Op};

use super::edit::{Editor, channel_vector, input, output, rounded};
use super::scale_shift::{Affine, fold_after, fold_before};

/// Runs the pass.
pub(super) fn run(graph: &mut Graph) -> bool {
    let mut edit = Editor::new(graph);
    // The layer behind a normalisation takes what the layer before it could not.
    for index in 0..edit.len() {
        if let Some(Affine { operand, scale, shift }) = affine(&edit, index) {
            fold_after(&mut edit, index, operand, &scale, &shift);
        }
    }
    for index in 0..edit.len() {
        fold_before(&mut edit, index, affine);
    }
    for index in 0..edit.len() {
        if let Some(Affine { scale, shift, .. }) = affine(&edit, index) {
            split(&mut edit, index, &scale, &shift);
        }
    }
    edit.finish()
}

/// `(x - mean) / sqrt(var + epsilon) * scale + bias` as `x * scale + shift`, in f64.
fn affine(edit: &Editor<'_>, index: usize) -> Option<Affine> {
    let node = edit.node(index);
    let Op::BatchNorm { epsilon } = node.op else { return None };
    let channels = edit.graph.value(output(node)?).shape.last()?.as_const()?;
    let channels = usize::try_from(channels).ok()?;
    let vector = |k: usize| channel_vector(edit.graph, input(node, k)?, channels);
    let (scale, bias, mean, var) = (vector(1)?, vector(2)?, vector(3)?, vector(4)?);
    let scale: Vec<f64> =
        (0..channels).map(|c| scale[c] / (var[c] + f64::from(epsilon)).sqrt()).collect();
    let shift = (0..channels).map(|c| bias[c] - mean[c] * scale[c]).collect();
    Some(Affine { operand: 0, scale, shift })
}

/// The normalisation as a multiplication and an addition.
fn split(edit: &mut Editor<'_>, index: usize, scale: &[f64], shift: &[f64]) {
    let node = edit.node(index).clone();
    let (Some(x), Some(y)) = (input(&node, 0), output(&node)) else { return };
    if edit.graph.value(y).dtype != DType::F32 {
        return;
    }
    let shape = edit.graph.value(y).shape.clone();
    let channels = scale.len();
    let scale =
        edit.graph.add_constant(format!("{}.scale", node.name), rounded(&[channels], scale));
    let shift =
        edit.graph.add_constant(format!("{}.shift", node.name), rounded(&[channels], shift));
    let product = edit.graph.add_value(format!("{}.scaled", node.name), DType::F32, shape);
    edit.insert_before(
        index,
        Node {
            name: node.name.clone(),
            op: Op::Binary(BinaryKind::Mul),
            inputs: vec![Some(x), Some(scale)],
            outputs: vec![product],
        },
    );
    edit.replace(
        index,
        Node {
            name: node.name,
            op: Op::Binary(BinaryKind::Add),
            inputs: vec![Some(product), Some(shift)],
            outputs: vec![y],
        },
    );
}
