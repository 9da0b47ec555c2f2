//! Drops nodes that change nothing, and makes one clamp of several in a row.

use crate::graph::{BinaryKind, Graph, Node, Op, UnaryKind, ValueId};

use super::edit::{Editor, f32_scalar, input, is_identity, output, same_kind};

/// Runs the pass.
pub(super) fn run(graph: &mut Graph) -> bool {
    let mut edit = Editor::new(graph);
    for index in 0..edit.len() {
        if let Some(to) = stands_for(edit.graph, edit.node(index)) {
            edit.forward(index, to);
            continue;
        }
        if let Some((from, bounds)) = merged_clip(&edit, index) {
            let mut node = edit.node(index).clone();
            node.op = Op::Unary(clip(bounds));
            node.inputs = vec![Some(from)];
            edit.replace(index, node);
        }
    }
    edit.finish()
}

/// The operand that the node returns unchanged.
fn stands_for(graph: &Graph, node: &Node) -> Option<ValueId> {
    let (x, y) = (input(node, 0)?, output(node)?);
    let same_shape = || graph.value(x).shape == graph.value(y).shape;
    let unchanged = match &node.op {
        Op::Reshape | Op::Expand => same_shape(),
        Op::Cast => graph.value(x).dtype == graph.value(y).dtype,
        Op::Transpose { perm } => is_identity(perm),
        Op::Slice { starts, steps } => {
            same_shape() && starts.iter().all(|s| s.is(0)) && steps.iter().all(|s| *s == 1)
        }
        Op::Pad { before, after, .. } => before.iter().chain(after).all(|pad| *pad == 0),
        Op::Concat { .. } => node.inputs.len() == 1,
        Op::Unary(UnaryKind::Clip { min, max }) => {
            *min == f32::NEG_INFINITY && *max == f32::INFINITY
        }
        Op::Binary(kind) => return neutral(graph, node, *kind),
        _ => false,
    };
    (unchanged && same_kind(graph, x, y)).then_some(x)
}

/// The operand beside a neutral element: x + 0 (not −0 + 0, which real models don't tell apart),
/// x − 0, x · 1, x / 1, x ^ 1.
fn neutral(graph: &Graph, node: &Node, kind: BinaryKind) -> Option<ValueId> {
    let (a, b, y) = (input(node, 0)?, input(node, 1)?, output(node)?);
    let element = match kind {
        BinaryKind::Add | BinaryKind::Sub => 0.0,
        BinaryKind::Mul | BinaryKind::Div | BinaryKind::Pow => 1.0,
        _ => return None,
    };
    let commutes = matches!(kind, BinaryKind::Add | BinaryKind::Mul);
    let to = if f32_scalar(graph, b) == Some(element) {
        a
    } else if commutes && f32_scalar(graph, a) == Some(element) {
        b
    } else {
        return None;
    };
    same_kind(graph, to, y).then_some(to)
}

/// Bounds of an operator that is a clamp.
pub(super) fn clip_bounds(op: &Op) -> Option<(f32, f32)> {
    match op {
        Op::Unary(UnaryKind::Relu) => Some((0.0, f32::INFINITY)),
        Op::Unary(UnaryKind::Clip { min, max }) if !min.is_nan() && !max.is_nan() => {
            Some((*min, *max))
        }
        _ => None,
    }
}

/// `min(max(x, a), b)` behind another clamp, as one clamp.
pub(super) fn clip_behind(first: (f32, f32), second: (f32, f32)) -> (f32, f32) {
    let clip = |v: f32| v.max(second.0).min(second.1);
    (clip(first.0), clip(first.1))
}

/// The shortest operator for a clamp.
fn clip((min, max): (f32, f32)) -> UnaryKind {
    if min == 0.0 && max == f32::INFINITY { UnaryKind::Relu } else { UnaryKind::Clip { min, max } }
}

/// A clamp behind a clamp, or a maximum or minimum with a number: what it reads and its bounds.
fn merged_clip(edit: &Editor<'_>, index: usize) -> Option<(ValueId, (f32, f32))> {
    let node = edit.node(index);
    if let Op::Binary(kind @ (BinaryKind::Max | BinaryKind::Min)) = node.op {
        let (a, b) = (input(node, 0)?, input(node, 1)?);
        let (x, bound) = match (f32_scalar(edit.graph, a), f32_scalar(edit.graph, b)) {
            (None, Some(bound)) => (a, bound),
            (Some(bound), None) => (b, bound),
            _ => return None,
        };
        let fits = same_kind(edit.graph, x, output(node)?) && !bound.is_nan();
        let bounds = match kind {
            BinaryKind::Max => (bound, f32::INFINITY),
            _ => (f32::NEG_INFINITY, bound),
        };
        return fits.then_some((x, bounds));
    }
    let second = clip_bounds(&node.op)?;
    let before = edit.node(edit.source(index, 0)?);
    let first = clip_bounds(&before.op)?;
    // A maximum below a minimum clamps to the maximum, which a clamp can't say with ordered bounds.
    (first.0 <= first.1 && second.0 <= second.1)
        .then_some((input(before, 0)?, clip_behind(first, second)))
}
