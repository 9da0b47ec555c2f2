//! Recognises layer and RMS normalisation that exporters write as means, squares and roots.
//!
//! What all spellings share is `sqrt(mean(d²) + epsilon)` over trailing axes. Where `d` is divided by it,
//! `d` is normalised: by RMS, or as a layer when `d` is something minus its own mean. TensorFlow spells
//! the latter `x · s + (bias − mean · s)` or `x · s + (bias + (−mean) · s)` with `s` the scale over the root.
//! Scale and bias follow as nodes of their own, or the scale is in the factor, and are taken in when they
//! are constants of the normalised axes.

use whit::DType;

use crate::graph::{BinaryKind, Graph, Node, NormKind, Op, ReduceKind, UnaryKind, ValueId};

use super::edit::{Editor, f32_constant, f32_scalar, input, output, same_kind};

/// Runs the pass.
pub(super) fn run(graph: &mut Graph) -> bool {
    let mut edit = Editor::new(graph);
    for index in 0..edit.len() {
        if !edit.is_alive(index) {
            continue;
        }
        let _ = quotient(&mut edit, index)
            .or_else(|| shifted(&mut edit, index))
            .or_else(|| scale_or_bias(&mut edit, index));
    }
    edit.finish()
}

/// `mean(d²) + epsilon` over the axes from `axis` on.
struct Power {
    d: ValueId,
    axis: usize,
    epsilon: f32,
}

/// What a value is over all of its trailing axes.
fn trailing_mean(edit: &Editor<'_>, id: ValueId) -> Option<(ValueId, usize)> {
    let node = edit.node(edit.producer(id)?);
    let Op::Reduce { kind: ReduceKind::Mean, axes, keep_dims: true } = &node.op else {
        return None;
    };
    let x = input(node, 0)?;
    let rank = edit.graph.value(x).shape.len();
    let first = *axes.first()?;
    axes.iter().copied().eq(first..rank).then_some((x, first))
}

fn binary(edit: &Editor<'_>, id: ValueId, kind: BinaryKind) -> Option<(ValueId, ValueId)> {
    let node = edit.node(edit.producer(id)?);
    if node.op == Op::Binary(kind) { Some((input(node, 0)?, input(node, 1)?)) } else { None }
}

fn unary(edit: &Editor<'_>, id: ValueId, kind: UnaryKind) -> Option<ValueId> {
    let node = edit.node(edit.producer(id)?);
    if node.op == Op::Unary(kind) { input(node, 0) } else { None }
}

fn is_number(edit: &Editor<'_>, id: ValueId, number: f32) -> bool {
    f32_scalar(edit.graph, id) == Some(number)
}

fn power(edit: &Editor<'_>, id: ValueId) -> Option<Power> {
    let (mean, epsilon) = match binary(edit, id, BinaryKind::Add) {
        Some((a, b)) => match (f32_scalar(edit.graph, a), f32_scalar(edit.graph, b)) {
            (None, Some(epsilon)) => (a, epsilon),
            (Some(epsilon), None) => (b, epsilon),
            _ => return None,
        },
        None => (id, 0.0),
    };
    let (square, axis) = trailing_mean(edit, mean)?;
    let d = match binary(edit, square, BinaryKind::Mul) {
        Some((a, b)) if a == b => a,
        Some(_) => return None,
        None => {
            let (base, exponent) = binary(edit, square, BinaryKind::Pow)?;
            if !is_number(edit, exponent, 2.0) {
                return None;
            }
            base
        }
    };
    (epsilon >= 0.0 && epsilon.is_finite()).then_some(Power { d, axis, epsilon })
}

/// The root of a power.
fn root(edit: &Editor<'_>, id: ValueId) -> Option<Power> {
    if let Some(inner) = unary(edit, id, UnaryKind::Sqrt) {
        return power(edit, inner);
    }
    let (base, exponent) = binary(edit, id, BinaryKind::Pow)?;
    if is_number(edit, exponent, 0.5) { power(edit, base) } else { None }
}

/// One over the root of a power.
fn inverse_root(edit: &Editor<'_>, id: ValueId) -> Option<Power> {
    if let Some(inner) = unary(edit, id, UnaryKind::Reciprocal) {
        return root(edit, inner);
    }
    if let Some((one, inner)) = binary(edit, id, BinaryKind::Div) {
        return if is_number(edit, one, 1.0) { root(edit, inner) } else { None };
    }
    let (base, exponent) = binary(edit, id, BinaryKind::Pow)?;
    if is_number(edit, exponent, -0.5) { power(edit, base) } else { None }
}

/// One over the root of a power, and the scale that it is multiplied with.
fn factor(edit: &Editor<'_>, id: ValueId) -> Option<(Power, Option<ValueId>)> {
    if let Some(found) = inverse_root(edit, id) {
        return Some((found, None));
    }
    let (a, b) = binary(edit, id, BinaryKind::Mul)?;
    match (inverse_root(edit, a), inverse_root(edit, b)) {
        (Some(found), None) => Some((found, Some(b))),
        (None, Some(found)) => Some((found, Some(a))),
        _ => None,
    }
}

/// `d` over the root of its own power.
fn quotient(edit: &mut Editor<'_>, index: usize) -> Option<()> {
    let node = edit.node(index);
    let (a, b) = (input(node, 0)?, input(node, 1)?);
    let (found, scale) = match node.op {
        Op::Binary(BinaryKind::Div) => (root(edit, b).filter(|power| power.d == a)?, None),
        Op::Binary(BinaryKind::Mul) => factor(edit, b)
            .filter(|(power, _)| power.d == a)
            .or_else(|| factor(edit, a).filter(|(power, _)| power.d == b))?,
        _ => return None,
    };
    let (kind, x) = match centred(edit, found.d, found.axis) {
        Some((x, _)) => (NormKind::Layer, x),
        None => (NormKind::Rms, found.d),
    };
    let scale = match scale {
        Some(scale) => Some(vector(edit, scale, x, found.axis)?),
        None => None,
    };
    normalize(edit, index, kind, &found, [Some(x), scale, None])
}

/// What `d` is the deviation of from its mean, and the mean.
fn centred(edit: &Editor<'_>, d: ValueId, axis: usize) -> Option<(ValueId, ValueId)> {
    let (x, mean) = binary(edit, d, BinaryKind::Sub)?;
    (trailing_mean(edit, mean) == Some((x, axis))).then_some((x, mean))
}

/// `x · s` plus what [`shifts`] knows, with `s` one over the root or the scale over it.
fn shifted(edit: &mut Editor<'_>, index: usize) -> Option<()> {
    let node = edit.node(index);
    let (a, b) = (input(node, 0)?, input(node, 1)?);
    let (found, x, scale, bias) = match node.op {
        Op::Binary(BinaryKind::Add) => {
            deviation(edit, a, shifts(edit, b)).or_else(|| deviation(edit, b, shifts(edit, a)))
        }
        Op::Binary(BinaryKind::Sub) => {
            let (m, s) = binary(edit, b, BinaryKind::Mul)?;
            deviation(edit, a, [(None, m, s), (None, s, m)].into())
        }
        _ => None,
    }?;
    let scale = match scale {
        Some(scale) => Some(vector(edit, scale, x, found.axis)?),
        None => None,
    };
    let bias = match bias.filter(|bias| !is_number(edit, *bias, 0.0)) {
        Some(bias) => Some(vector(edit, bias, x, found.axis)?),
        None => None,
    };
    normalize(edit, index, NormKind::Layer, &found, [Some(x), scale, bias])
}

/// The bias, if any, the mean and the factor of a shift, as far as its own form tells.
type Shift = (Option<ValueId>, ValueId, ValueId);

/// How a value may be read as `bias − mean · s`, with the minus anywhere.
fn shifts(edit: &Editor<'_>, id: ValueId) -> Vec<Shift> {
    if let Some((bias, shift)) = binary(edit, id, BinaryKind::Sub) {
        let product = binary(edit, shift, BinaryKind::Mul);
        return product
            .map(|(m, s)| vec![(Some(bias), m, s), (Some(bias), s, m)])
            .unwrap_or_default();
    }
    let sums = match binary(edit, id, BinaryKind::Add) {
        Some((a, b)) => vec![(Some(a), b), (Some(b), a)],
        None => vec![(None, id)],
    };
    let mut found = Vec::new();
    for (bias, shift) in sums {
        let Some((p, q)) = binary(edit, shift, BinaryKind::Mul) else { continue };
        for (m, s) in [(p, q), (q, p)] {
            found.extend(unary(edit, m, UnaryKind::Neg).map(|mean| (bias, mean, s)));
        }
    }
    found
}

/// `x · s` whose `s` and mean are those of one of the shifts: the power, `x`, the scale and the bias.
fn deviation(
    edit: &Editor<'_>,
    product: ValueId,
    shifts: Vec<Shift>,
) -> Option<(Power, ValueId, Option<ValueId>, Option<ValueId>)> {
    let (p, q) = binary(edit, product, BinaryKind::Mul)?;
    shifts.into_iter().find_map(|(bias, mean, s)| {
        let x = match s {
            s if s == q => p,
            s if s == p => q,
            _ => return None,
        };
        let (found, scale) = factor(edit, s)?;
        let same = centred(edit, found.d, found.axis) == Some((x, mean));
        same.then_some((found, x, scale, bias))
    })
}

fn normalize(
    edit: &mut Editor<'_>,
    index: usize,
    kind: NormKind,
    found: &Power,
    inputs: [Option<ValueId>; 3],
) -> Option<()> {
    let (x, y) = (inputs[0]?, output(edit.node(index))?);
    let reals = edit.graph.value(x).dtype == DType::F32 && edit.graph.value(x).quant.is_none();
    if !reals || !same_kind(edit.graph, x, y) {
        return None;
    }
    let name = edit.node(index).name.clone();
    let op = Op::Normalize { kind, axis: found.axis, epsilon: found.epsilon };
    let given = 1 + inputs.iter().rposition(Option::is_some)?;
    edit.replace(index, Node { name, op, inputs: inputs[..given].to_vec(), outputs: vec![y] });
    Some(())
}

/// A constant that varies along the axes from `axis` of `like` on, in their shape.
fn vector(edit: &mut Editor<'_>, id: ValueId, like: ValueId, axis: usize) -> Option<ValueId> {
    let trailing: Option<Vec<usize>> = edit.graph.value(like).shape[axis..]
        .iter()
        .map(|dim| dim.as_const().and_then(|size| usize::try_from(size).ok()))
        .collect();
    let trailing = trailing?;
    let tensor = f32_constant(edit.graph, id)?;
    let leading = tensor.shape.len().checked_sub(trailing.len())?;
    let fits =
        tensor.shape[leading..] == trailing && tensor.shape[..leading].iter().all(|n| *n == 1);
    if !fits {
        return None;
    }
    if leading == 0 {
        return Some(id);
    }
    let (name, tensor) = (edit.graph.value(id).name.clone(), tensor.reshaped(trailing));
    Some(edit.graph.add_constant(name, tensor))
}

/// A constant factor or summand behind a normalisation that has none yet.
fn scale_or_bias(edit: &mut Editor<'_>, index: usize) -> Option<()> {
    let node = edit.node(index);
    let is_scale = match node.op {
        Op::Binary(BinaryKind::Mul) => true,
        Op::Binary(BinaryKind::Add) => false,
        _ => return None,
    };
    let (a, b, y) = (input(node, 0)?, input(node, 1)?, output(node)?);
    let normalised = |id: ValueId| {
        let at = edit.producer(id).filter(|_| edit.uses(id) == 1)?;
        matches!(edit.node(at).op, Op::Normalize { .. }).then_some(at)
    };
    let (at, constant) = match (normalised(a), normalised(b)) {
        (Some(at), None) => (at, b),
        (None, Some(at)) => (at, a),
        _ => return None,
    };
    let Op::Normalize { axis, .. } = edit.node(at).op else { return None };
    let x = input(edit.node(at), 0)?;
    let taken = |operand: usize| input(edit.node(at), operand).is_some();
    // A scale behind a bias would have to scale it, too.
    if taken(2) || (is_scale && taken(1)) || !same_kind(edit.graph, x, y) {
        return None;
    }
    let constant = vector(edit, constant, x, axis)?;
    let mut node = edit.node(at).clone();
    node.inputs.resize(3, None);
    node.inputs[if is_scale { 1 } else { 2 }] = Some(constant);
    if node.inputs[2].is_none() {
        node.inputs.truncate(2);
    }
    (node.name, node.outputs) = (edit.node(index).name.clone(), vec![y]);
    edit.replace(index, node);
    Some(())
}
