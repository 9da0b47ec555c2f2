//! Batch normalisation: folded into the layer before it, or the layer behind it when no padding
//! mixes in zeros, or turned into a multiplication and an addition by constants.

use whit::DType;

use crate::graph::{BinaryKind, Graph, Node, Op};

use super::edit::{Editor, channel_vector, f32_constant, input, output, rounded};
use super::scale_shift::fold_after;

/// Runs the pass.
pub(super) fn run(graph: &mut Graph) -> bool {
    let mut edit = Editor::new(graph);
    // The layer behind a normalisation takes what the layer before it could not.
    for index in 0..edit.len() {
        if let Some((scale, shift)) = scale_and_shift(&edit, index) {
            fold_after(&mut edit, index, 0, &scale, &shift);
        }
    }
    for index in 0..edit.len() {
        fold_before(&mut edit, index);
    }
    for index in 0..edit.len() {
        if let Some((scale, shift)) = scale_and_shift(&edit, index) {
            split(&mut edit, index, &scale, &shift);
        }
    }
    edit.finish()
}

/// `(x - mean) / sqrt(var + epsilon) * scale + bias` as `x * scale + shift`, in f64.
fn scale_and_shift(edit: &Editor<'_>, index: usize) -> Option<(Vec<f64>, Vec<f64>)> {
    let node = edit.node(index);
    let Op::BatchNorm { epsilon } = node.op else { return None };
    let channels = edit.graph.value(output(node)?).shape.last()?.as_const()?;
    let channels = usize::try_from(channels).ok()?;
    let vector = |k: usize| channel_vector(edit.graph, input(node, k)?, channels);
    let (scale, bias, mean, var) = (vector(1)?, vector(2)?, vector(3)?, vector(4)?);
    let scale: Vec<f64> =
        (0..channels).map(|c| scale[c] / (var[c] + f64::from(epsilon)).sqrt()).collect();
    let shift = (0..channels).map(|c| bias[c] - mean[c] * scale[c]).collect();
    Some((scale, shift))
}

/// Folds a normalisation in front of the layer at `index` into its weights: exact only without
/// padding, because padded zeros are not normalised.
fn fold_before(edit: &mut Editor<'_>, index: usize) -> Option<()> {
    let at = edit.sole_source(index, 0)?;
    let (scale, shift) = scale_and_shift(edit, at)?;
    let node = edit.node(index);
    let weights = input(node, 1)?;
    let w = f32_constant(edit.graph, weights)?;
    // Output channel and input channel of weight `i`, and how many output channels there are.
    let channels = scale.len();
    let place: Box<dyn Fn(usize) -> (usize, usize)>;
    let n;
    match &node.op {
        Op::Conv(conv) => {
            if conv.pad_before.iter().chain(&conv.pad_after).any(|pad| *pad != 0) {
                return None;
            }
            let (out, per_group) = (*w.shape.first()?, *w.shape.last()?);
            let out_per_group = out.checked_div(conv.groups).filter(|o| *o > 0)?;
            if out % conv.groups != 0 || per_group.checked_mul(conv.groups) != Some(channels) {
                return None;
            }
            let run = w.len() / out;
            n = out;
            place = Box::new(move |i| {
                let o = i / run;
                (o, o / out_per_group * per_group + i % per_group)
            });
        }
        Op::MatMul(m) if !m.transpose_a && w.shape.len() == 2 => {
            let (rows, columns) = (w.shape[0], w.shape[1]);
            let inner = if m.transpose_b { columns } else { rows };
            if inner != channels {
                return None;
            }
            n = if m.transpose_b { rows } else { columns };
            let transposed = m.transpose_b;
            place = Box::new(move |i| {
                let (row, column) = (i / columns, i % columns);
                if transposed { (row, column) } else { (column, row) }
            });
        }
        _ => return None,
    }
    let mut bias = match input(node, 2) {
        Some(id) => channel_vector(edit.graph, id, n)?,
        None => vec![0.0; n],
    };
    let mut values = Vec::with_capacity(w.len());
    for (i, weight) in w.to_f32().into_iter().enumerate() {
        let (o, c) = place(i);
        values.push(f64::from(weight) * scale[c]);
        bias[o] += f64::from(weight) * shift[c];
    }
    let tensor = rounded(&w.shape, &values);
    let mut layer = node.clone();
    let name = edit.graph.value(weights).name.clone();
    layer.inputs.resize(layer.inputs.len().max(3), None);
    layer.inputs[0] = input(edit.node(at), 0);
    layer.inputs[1] = Some(edit.graph.add_constant(name, tensor));
    let name = format!("{}.bias", layer.name);
    layer.inputs[2] = Some(edit.graph.add_constant(name, rounded(&[n], &bias)));
    edit.remove(at);
    edit.replace(index, layer);
    Some(())
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
