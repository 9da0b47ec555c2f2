//! Folds `y * scale + shift` per channel into the weights and the bias of the layer before it, else of the layer behind it.
//!
//! Batch normalisation is exported this way by tf2onnx: Conv, Mul, Add or MatMul, Add, Mul, Add. Behind a
//! transposed convolution the phases are put in their places first, which keeps channels together.
//! The arithmetic is done in f64 and rounded to f32 once. Layers with integer weights are left
//! alone: their scales are the quantize stage's business.

use crate::graph::{BinaryKind, Clamp, Graph, Node, Op, ValueId};

use super::edit::{Editor, channel_vector, f32_constant, input, output, rounded, same_kind};

/// Runs the pass.
pub(super) fn run(graph: &mut Graph) -> bool {
    let mut edit = Editor::new(graph);
    for index in 0..edit.len() {
        if let Some(Affine { operand, scale, shift }) = affine(&edit, index) {
            fold_after(&mut edit, index, operand, &scale, &shift);
        }
    }
    for index in 0..edit.len() {
        fold_before(&mut edit, index, affine);
    }
    edit.finish()
}

/// An operand of a node times a scale per channel of the last axis, and a shift.
pub(super) struct Affine {
    pub(super) operand: usize,
    pub(super) scale: Vec<f64>,
    pub(super) shift: Vec<f64>,
}

/// Reads a node as [`Affine`].
fn affine(edit: &Editor<'_>, index: usize) -> Option<Affine> {
    let node = edit.node(index);
    let Op::Binary(kind) = node.op else { return None };
    let y = output(node)?;
    let channels = channels(edit.graph, node)?;
    let [a, b] = [input(node, 0)?, input(node, 1)?];
    let (ones, zeros) = (vec![1.0; channels], vec![0.0; channels]);
    for (operand, x, other) in [(0, a, b), (1, b, a)] {
        let Some(c) = channel_vector(edit.graph, other, channels) else { continue };
        if !same_kind(edit.graph, x, y) {
            continue;
        }
        let negated = |c: Vec<f64>| -> Vec<f64> { c.into_iter().map(|v| -v).collect() };
        let (scale, shift) = match (kind, operand) {
            (BinaryKind::Mul, _) => (c, zeros),
            (BinaryKind::Add, _) => (ones, c),
            (BinaryKind::Sub, 0) => (ones, negated(c)),
            (BinaryKind::Sub, _) => (negated(ones), c),
            (BinaryKind::Div, 0) if c.iter().all(|v| *v != 0.0) => {
                (c.into_iter().map(|v| 1.0 / v).collect(), zeros)
            }
            _ => return None,
        };
        return Some(Affine { operand, scale, shift });
    }
    None
}

/// Size of the result's last axis.
fn channels(graph: &Graph, node: &Node) -> Option<usize> {
    graph.value(output(node)?).shape.last()?.as_const().and_then(|c| usize::try_from(c).ok())
}

/// Folds `scale` and `shift` behind the layer that makes an operand of node `index`; the layer takes
/// the node's place, or its results are moved to it as before.
pub(super) fn fold_after(
    edit: &mut Editor<'_>,
    index: usize,
    operand: usize,
    scale: &[f64],
    shift: &[f64],
) -> bool {
    let channels = scale.len();
    let together = |graph: &Graph, node: &Node| keeps_channels(graph, node, channels);
    let Some(at) = edit.sole_origin(index, operand, together) else { return false };
    let Some(wide) = self::channels(edit.graph, edit.node(at)) else { return false };
    if edit.sole_source(index, operand) == Some(at) {
        let Some(mut layer) = scaled(edit, at, scale, shift) else { return false };
        edit.remove(at);
        layer.outputs = edit.node(index).outputs.clone();
        edit.replace(index, layer);
        return true;
    }
    if channels == 0 || wide % channels != 0 {
        return false;
    }
    let Some(moved) = input(edit.node(index), operand) else { return false };
    let times = wide / channels;
    let Some(layer) = scaled(edit, at, &scale.repeat(times), &shift.repeat(times)) else {
        return false;
    };
    // The result is made by a node that nothing else reads, so it can always stand in.
    if !edit.forward(index, moved) {
        return false;
    }
    edit.replace(at, layer);
    true
}

/// Largest scale over the smallest that is folded into weights. All weights of an output channel share one quantized
/// range: scales further apart would leave few levels to the input channels with the small ones.
const MAX_SCALE_RATIO: f64 = 16.0;

/// Folds `x * scale + shift` in front of the layer at `index`, as `affine` reads it, into the layer's weights. Where there
/// is padding, only a scale: padded zeros are not shifted.
pub(super) fn fold_before(
    edit: &mut Editor<'_>,
    index: usize,
    affine: impl Fn(&Editor<'_>, usize) -> Option<Affine>,
) -> Option<()> {
    let at = edit.sole_source(index, 0)?;
    let Affine { operand, scale, shift } = affine(edit, at)?;
    let (least, most) = scale
        .iter()
        .fold((f64::INFINITY, 0.0_f64), |(least, most), s| (least.min(s.abs()), most.max(s.abs())));
    if most > least * MAX_SCALE_RATIO {
        return None;
    }
    let node = edit.node(index);
    let weights = input(node, 1)?;
    let w = f32_constant(edit.graph, weights)?;
    // Output channel and input channel of weight `i`, and how many output channels there are.
    let channels = scale.len();
    let place: Box<dyn Fn(usize) -> (usize, usize)>;
    let n;
    match &node.op {
        Op::Conv(conv) => {
            let is_padded = conv.pad_before.iter().chain(&conv.pad_after).any(|pad| *pad != 0);
            if is_padded && shift.iter().any(|s| *s != 0.0) {
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
    layer.inputs[0] = input(edit.node(at), operand);
    layer.inputs[1] = Some(edit.graph.add_constant(name, tensor));
    let name = format!("{}.bias", layer.name);
    layer.inputs[2] = Some(edit.graph.add_constant(name, rounded(&[n], &bias)));
    edit.remove(at);
    edit.replace(index, layer);
    Some(())
}

/// Element `i` of the result is one whose place before was the same modulo `channels`.
fn keeps_channels(graph: &Graph, node: &Node, channels: usize) -> bool {
    let last = |id: Option<ValueId>| {
        let dim = graph.value(id?).shape.last()?.as_const();
        dim.and_then(|dim| usize::try_from(dim).ok())
    };
    let (Some(before), Some(after)) = (last(input(node, 0)), last(output(node))) else {
        return false;
    };
    let inside = match &node.op {
        Op::Reshape => true,
        Op::Transpose { perm } => perm.last().is_some_and(|axis| axis + 1 == perm.len()),
        Op::Slice { starts, steps } => {
            let whole = starts.last().is_some_and(|start| start.is(0)) && steps.last() == Some(&1);
            whole && before == after
        }
        _ => false,
    };
    let whole = |size: usize| size.checked_rem(channels) == Some(0);
    inside && whole(before) && whole(after)
}

/// The layer with scaled weights and bias, when it is one whose weights are float constants.
fn scaled(edit: &mut Editor<'_>, at: usize, scale: &[f64], shift: &[f64]) -> Option<Node> {
    let node = edit.node(at);
    if input(node, 3).is_some() {
        return None;
    }
    let weights = input(node, 1)?;
    let w = f32_constant(edit.graph, weights)?;
    // Channel of each weight: `[channel, rest]` or `[rest, channel]`.
    let channel_first = match &node.op {
        Op::Conv(conv) if conv.clamp == Clamp::NONE => true,
        Op::MatMul(m) if m.clamp == Clamp::NONE && w.shape.len() == 2 => m.transpose_b,
        _ => return None,
    };
    let n = scale.len();
    let channel_axis = if channel_first { w.shape.first() } else { w.shape.last() };
    if channel_axis != Some(&n) || n == 0 {
        return None;
    }
    let rest = w.len() / n;
    let channel = |i: usize| if channel_first { i / rest } else { i % n };
    let unscaled = scale.iter().all(|s| *s == 1.0);
    let values: Vec<f64> = if unscaled {
        Vec::new()
    } else {
        w.to_f32().iter().enumerate().map(|(i, w)| f64::from(*w) * scale[channel(i)]).collect()
    };
    let shape = w.shape.clone();
    let old_bias = match input(node, 2) {
        Some(id) => channel_vector(edit.graph, id, n)?,
        None => vec![0.0; n],
    };
    let needs_bias = input(node, 2).is_some() || shift.iter().any(|s| *s != 0.0);
    let bias: Vec<f64> = (0..n).map(|c| old_bias[c] * scale[c] + shift[c]).collect();
    let mut layer = node.clone();
    layer.inputs.resize(layer.inputs.len().max(3), None);
    if !unscaled {
        let name = edit.graph.value(weights).name.clone();
        layer.inputs[1] = Some(edit.graph.add_constant(name, rounded(&shape, &values)));
    }
    if needs_bias {
        let name = format!("{}.bias", layer.name);
        layer.inputs[2] = Some(edit.graph.add_constant(name, rounded(&[n], &bias)));
    }
    Some(layer)
}
