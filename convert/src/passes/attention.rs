//! Fuses scaled dot-product attention: a product with transposed keys, scales, masks, softmax and the
//! product with the values, however an exporter spelled them.
//!
//! The walk goes from the last product back to the first. On the way it collects what is added to the
//! scores (masks), the bending of scores (softcap) and the factors, which may also stand at the queries
//! or the keys. Every value between the products must have no other reader: with one, the scores are
//! needed anyway. Reshapes in between may split and merge the axes before queries and keys; masks from
//! behind them are brought to the axes of the products.

use whit::DType;

use crate::dim::Dim;
use crate::graph::{Attention, BinaryKind, Clamp, CompareKind, Graph, MatMul, Node, Op};
use crate::graph::{ReduceKind, UnaryKind, ValueId};
use crate::tensor::Tensor;

use super::edit::{Editor, f32_constant, f32_scalar, input, is_identity, output};
use super::regroup::{padded, regrouped};

/// From here on down, a number hides a score. Added to any usual score (below 32) it absorbs it, so that
/// replacing a score by it and adding it are the same.
const HIDES: f32 = -1e9;

/// Masks and factors in a row; longer chains are left alone.
const MAX_DEPTH: usize = 12;

/// Runs the pass.
pub(super) fn run(graph: &mut Graph) -> bool {
    let mut edit = Editor::new(graph);
    for index in 0..edit.len() {
        if edit.is_alive(index) {
            fuse(&mut edit, index);
        }
    }
    edit.finish()
}

/// What is done to a score between product and softmax.
#[derive(Default)]
struct Chain {
    masks: Vec<Mask>,
    /// 0 for none.
    softcap: f64,
    factor: f64,
    /// The node of the first product.
    product: usize,
}

struct Mask {
    kind: MaskKind,
    /// Shape of the scores that it is applied to, which has the elements of the product in order.
    scores: Vec<Dim>,
}

enum MaskKind {
    /// Is added to the scores.
    Added(ValueId),
    /// Where the condition has this value, scores are replaced by a number.
    Replaced { condition: ValueId, when: bool, by: f32 },
}

impl Mask {
    /// What has the mask's shape.
    fn source(&self) -> ValueId {
        match self.kind {
            MaskKind::Added(id) => id,
            MaskKind::Replaced { condition, .. } => condition,
        }
    }
}

fn fuse(edit: &mut Editor<'_>, root: usize) -> Option<()> {
    let (probabilities, v) = product(edit, root, false)?;
    let rank = edit.graph.value(v).shape.len();
    let shape = edit.graph.value(probabilities).shape.clone();
    if !(3..=4).contains(&rank) || shape.len() != rank {
        return None;
    }
    let mut at = sole_producer(edit, probabilities)?;
    if edit.node(at).op == Op::Reshape {
        at = sole_producer(edit, same_last_two(edit, at)?)?;
    }
    let mut guarded = None;
    if edit.node(at).op == Op::Where {
        let (inner, bias) = guard(edit, at)?;
        (at, guarded) = (sole_producer(edit, inner)?, Some(bias));
    }
    let scores = input(edit.node(at), 0)?;
    let outer = edit.graph.value(scores).shape.clone();
    if edit.node(at).op != (Op::Softmax { axis: outer.len().checked_sub(1)?, log: false }) {
        return None;
    }
    let mut chain = Chain { factor: 1.0, ..Chain::default() };
    walk(edit, scores, &outer, &mut chain, MAX_DEPTH)?;
    if edit.graph.value(output(edit.node(chain.product))?).shape != shape {
        return None;
    }
    // The guard looks at exactly what is added.
    let zero_rows = match guarded {
        Some(bias) => match &chain.masks[..] {
            [Mask { kind: MaskKind::Added(mask), scores }]
                if *mask == bias && [&shape; 2] == [scores, &outer] =>
            {
                true
            }
            _ => return None,
        },
        None => false,
    };

    let (q, k) = (input(edit.node(chain.product), 0)?, input(edit.node(chain.product), 1)?);
    let transposed = matches!(&edit.node(chain.product).op, Op::MatMul(m) if m.transpose_b);
    let q = unscaled(edit, q, &mut chain.factor);
    let mut keys = Keys::find(edit, k, transposed, &mut chain.factor);

    let (mut group, mut v) = (1, v);
    if rank == 4
        && keys.perm.is_none()
        && let (Some((few_k, times_k)), Some((few_v, times_v))) =
            (unrepeated(edit, keys.source), unrepeated(edit, v))
        && times_k == times_v
    {
        (keys.source, v, group) = (few_k, few_v, times_k);
    }
    let (masks, causal) = split_causal(edit, std::mem::take(&mut chain.masks));
    let fitted = masks
        .into_iter()
        .map(|mask| {
            let fit = Fit::new(&edit.graph.value(mask.source()).shape, &mask.scores, &shape)?;
            Some((mask.kind, fit))
        })
        .collect::<Option<Vec<_>>>()?;

    // From here on the graph changes; what could still be refused is looked at before.
    let of_q = edit.graph.value(q).shape.clone();
    let of_k = keys.shape(edit.graph);
    let of_v = edit.graph.value(v).shape.clone();
    let heads = of_k.get(rank - 3).map(|d| d.mul(&Dim::from(group)));
    let fits = of_q.len() == rank
        && of_k.len() == rank
        && of_q[..rank - 3] == of_k[..rank - 3]
        && heads == of_q.get(rank - 3).cloned()
        && of_q[rank - 1] == of_k[rank - 1]
        && of_k[..rank - 1] == of_v[..rank - 1]
        && shape[rank - 2..] == [of_q[rank - 2].clone(), of_k[rank - 2].clone()]
        && of_q[..rank - 2] == shape[..rank - 2];
    let softcap = chain.softcap as f32;
    let scale = chain.factor as f32;
    let exact = scale.is_finite() && softcap.is_finite() && softcap >= 0.0;
    let f32s = [q, keys.source, v].iter().all(|id| edit.graph.value(*id).dtype == DType::F32);
    if !fits || !exact || !f32s {
        return None;
    }

    let name = edit.node(root).name.clone();
    let mask = added(edit, root, &name, fitted)?;
    let k = keys.value(edit, root, &name);
    let y = output(edit.node(root))?;
    let mut inputs = vec![q, k, v];
    inputs.extend(mask);
    let op = Op::Attention(Attention { scale, softcap, causal, zero_rows });
    if rank == 4 {
        let inputs = inputs.into_iter().map(Some).collect();
        edit.replace(root, Node { name, op, inputs, outputs: vec![y] });
        return Some(());
    }
    // Without an axis of heads: one head per sample.
    let lifted: Vec<Option<ValueId>> = inputs
        .into_iter()
        .enumerate()
        .map(|(index, id)| {
            let mut shape = edit.graph.value(id).shape.clone();
            // A mask of two axes broadcasts as it is.
            if shape.len() == 3 {
                shape.insert(1, Dim::from(1i64));
                insert(edit, root, &format!("{name}/operand_{index}"), Op::Reshape, &[id], shape)
            } else {
                id
            }
        })
        .map(Some)
        .collect();
    let mut shape = edit.graph.value(y).shape.clone();
    shape.insert(1, Dim::from(1i64));
    let heads = edit.graph.add_value(format!("{name}/heads"), DType::F32, shape);
    let attention =
        Node { name: format!("{name}/heads"), op, inputs: lifted, outputs: vec![heads] };
    edit.insert_before(root, attention);
    let inputs = vec![Some(heads)];
    edit.replace(root, Node { name, op: Op::Reshape, inputs, outputs: vec![y] });
    Some(())
}

/// The operands of a plain product of two activations.
fn product(edit: &Editor<'_>, index: usize, may_transpose_b: bool) -> Option<(ValueId, ValueId)> {
    let node = edit.node(index);
    let Op::MatMul(MatMul { transpose_a: false, transpose_b, clamp, .. }) = &node.op else {
        return None;
    };
    let plain = *clamp == Clamp::NONE && input(node, 2).is_none() && input(node, 3).is_none();
    let (a, b) = (input(node, 0)?, input(node, 1)?);
    let f32s = [a, b].iter().all(|id| edit.graph.value(*id).dtype == DType::F32);
    (plain && f32s && (may_transpose_b || !transpose_b)).then_some((a, b))
}

/// The node that makes a value which nobody else reads.
fn sole_producer(edit: &Editor<'_>, id: ValueId) -> Option<usize> {
    if edit.uses(id) == 1 { edit.producer(id) } else { None }
}

/// What a reshape reads that keeps the queries and keys, the last two axes.
fn same_last_two(edit: &Editor<'_>, at: usize) -> Option<ValueId> {
    let (x, y) = (input(edit.node(at), 0)?, output(edit.node(at))?);
    let (from, to) = (&edit.graph.value(x).shape, &edit.graph.value(y).shape);
    let last = |shape: &[Dim]| shape.len().checked_sub(2).map(|at| shape[at..].to_vec());
    (last(from)? == last(to)?).then_some(x)
}

/// `where(max(bias) == -inf, 0, probabilities)`: the probabilities and the bias.
fn guard(edit: &Editor<'_>, at: usize) -> Option<(ValueId, ValueId)> {
    let node = edit.node(at);
    let (blind, zero, probabilities) = (input(node, 0)?, input(node, 1)?, input(node, 2)?);
    let compare = edit.node(edit.producer(blind)?);
    let (most, nothing) = (input(compare, 0)?, input(compare, 1)?);
    let reduce = edit.node(edit.producer(most)?);
    let bias = input(reduce, 0)?;
    let last = edit.graph.value(bias).shape.len().checked_sub(1)?;
    let over_keys = Op::Reduce { kind: ReduceKind::Max, axes: vec![last], keep_dims: true };
    let matches = compare.op == Op::Compare(CompareKind::Equal)
        && f32_scalar(edit.graph, nothing) == Some(f32::NEG_INFINITY)
        && f32_scalar(edit.graph, zero) == Some(0.0)
        && reduce.op == over_keys;
    matches.then_some((probabilities, bias))
}

/// A product or quotient with a number: the other operand and the factor.
fn scaling(edit: &Editor<'_>, index: usize) -> Option<(ValueId, f64)> {
    let node = edit.node(index);
    let (a, b) = (input(node, 0)?, input(node, 1));
    let number = |id: ValueId| {
        // A number of more axes would change the shape.
        let fits = edit.graph.value(id).shape.len() <= edit.graph.value(output(node)?).shape.len();
        f32_scalar(edit.graph, id).filter(|_| fits).map(f64::from)
    };
    match node.op {
        Op::Binary(BinaryKind::Mul) => match (number(a), number(b?)) {
            (_, Some(factor)) => Some((a, factor)),
            (Some(factor), None) => Some((b?, factor)),
            _ => None,
        },
        Op::Binary(BinaryKind::Div) => Some((a, 1.0 / number(b?)?)),
        _ => None,
    }
}

/// From the scores that softmax reads back to their product.
fn walk(
    edit: &Editor<'_>,
    scores: ValueId,
    shape: &[Dim],
    chain: &mut Chain,
    depth: usize,
) -> Option<()> {
    let at = sole_producer(edit, scores)?;
    let node = edit.node(at);
    if depth == 0 || edit.graph.value(scores).shape != shape {
        return None;
    }
    if product(edit, at, true).is_some() {
        chain.product = at;
        return Some(());
    }
    // Inside of factors and softcap nothing is added.
    let may_mask = chain.factor == 1.0 && chain.softcap == 0.0;
    if let Some((inner, factor)) = scaling(edit, at) {
        if chain.softcap == 0.0
            && let Some(bent) = sole_producer(edit, inner)
            && edit.node(bent).op == Op::Unary(UnaryKind::Tanh)
        {
            if !may_mask || factor <= 0.0 {
                return None;
            }
            // factor * tanh(x) = softcap * tanh(x * factor / softcap) with softcap = factor.
            (chain.softcap, chain.factor) = (factor, factor);
            return walk(edit, input(edit.node(bent), 0)?, shape, chain, depth - 1);
        }
        chain.factor *= factor;
        return walk(edit, inner, shape, chain, depth - 1);
    }
    let operand = |k: usize| input(node, k);
    let masked = |kind: MaskKind| Mask { kind, scores: shape.to_vec() };
    match node.op {
        Op::Reshape => {
            let inner = same_last_two(edit, at)?;
            walk(edit, inner, &edit.graph.value(inner).shape, chain, depth - 1)
        }
        Op::Binary(BinaryKind::Add) if may_mask => {
            let (a, b) = (operand(0)?, operand(1)?);
            for (inner, mask) in [(a, b), (b, a)] {
                if walk(edit, inner, shape, chain, depth - 1).is_some() {
                    chain.masks.push(masked(MaskKind::Added(mask)));
                    return Some(());
                }
                *chain = Chain { factor: 1.0, ..Chain::default() };
            }
            None
        }
        Op::Where if may_mask => {
            let condition = operand(0)?;
            for (inner, number, when) in
                [(operand(2)?, operand(1)?, true), (operand(1)?, operand(2)?, false)]
            {
                let by = f32_scalar(edit.graph, number).filter(|by| *by <= HIDES);
                let Some(by) = by else { continue };
                if walk(edit, inner, shape, chain, depth - 1).is_some() {
                    chain.masks.push(masked(MaskKind::Replaced { condition, when, by }));
                    return Some(());
                }
                *chain = Chain { factor: 1.0, ..Chain::default() };
            }
            None
        }
        _ => None,
    }
}

/// The value behind products with numbers, which are collected in `factor`.
fn unscaled(edit: &Editor<'_>, mut id: ValueId, factor: &mut f64) -> ValueId {
    for _ in 0..MAX_DEPTH {
        let Some((inner, by)) = edit.producer(id).and_then(|at| scaling(edit, at)) else { break };
        if edit.graph.value(inner).shape != edit.graph.value(id).shape {
            break;
        }
        *factor *= by;
        id = inner;
    }
    id
}

/// The keys, as rows.
struct Keys {
    source: ValueId,
    /// How they have to be transposed.
    perm: Option<Vec<usize>>,
}

impl Keys {
    /// Behind the operand of the product, which holds them as columns unless it is `transposed` there.
    fn find(edit: &Editor<'_>, k: ValueId, transposed: bool, factor: &mut f64) -> Keys {
        let k = unscaled(edit, k, factor);
        if transposed {
            return Keys { source: k, perm: None };
        }
        let rank = edit.graph.value(k).shape.len();
        let swap = |mut perm: Vec<usize>| {
            perm.swap(rank - 1, rank - 2);
            perm
        };
        let behind = edit.producer(k).and_then(|at| match &edit.node(at).op {
            Op::Transpose { perm } => Some((input(edit.node(at), 0)?, swap(perm.clone()))),
            _ => None,
        });
        let (source, perm) = behind.unwrap_or_else(|| (k, swap((0..rank).collect())));
        match is_identity(&perm) {
            true => Keys { source: unscaled(edit, source, factor), perm: None },
            false => Keys { source, perm: Some(perm) },
        }
    }

    fn shape(&self, graph: &Graph) -> Vec<Dim> {
        let shape = &graph.value(self.source).shape;
        match &self.perm {
            Some(perm) => perm.iter().map(|p| shape[*p].clone()).collect(),
            None => shape.clone(),
        }
    }

    fn value(&self, edit: &mut Editor<'_>, root: usize, name: &str) -> ValueId {
        match &self.perm {
            Some(perm) => {
                let (op, shape) = (Op::Transpose { perm: perm.clone() }, self.shape(edit.graph));
                insert(edit, root, &format!("{name}/keys"), op, &[self.source], shape)
            }
            None => self.source,
        }
    }
}

/// Heads repeated for groups of query heads, as a reshape, an expand and a reshape: the heads before it
/// and how often each occurs.
fn unrepeated(edit: &Editor<'_>, id: ValueId) -> Option<(ValueId, usize)> {
    let step = |id: ValueId, op: Op| {
        let node = edit.node(edit.producer(id)?);
        (node.op == op).then(|| input(node, 0)).flatten()
    };
    let repeated = step(id, Op::Reshape)?;
    let apart = step(repeated, Op::Expand)?;
    let source = step(apart, Op::Reshape)?;
    let shape = |id: ValueId| edit.graph.value(id).shape.as_slice();
    let [b, heads, n, d] = shape(source) else { return None };
    let [wide_b, wide_heads, group, wide_n, wide_d] = shape(repeated) else { return None };
    let group = usize::try_from(group.as_const()?).ok()?;
    let one = Dim::from(1i64);
    let fits = shape(apart) == [b, heads, &one, n, d].map(Clone::clone)
        && [b, heads, n, d] == [wide_b, wide_heads, wide_n, wide_d]
        && shape(id) == [b, &heads.mul(&Dim::from(group)), n, d].map(Clone::clone);
    fits.then_some((source, group))
}

/// Takes the causal part out of the masks: the others, and the offset.
fn split_causal(edit: &Editor<'_>, masks: Vec<Mask>) -> (Vec<Mask>, Option<Dim>) {
    let mut flat = Vec::new();
    for mask in masks {
        match mask.kind {
            // Importers and exporters add masks to each other first.
            MaskKind::Added(id) => match parts(edit, id) {
                Some((a, b))
                    if offset_of(edit, a, &mask.scores).is_some()
                        || offset_of(edit, b, &mask.scores).is_some() =>
                {
                    let scores = mask.scores;
                    flat.push(Mask { kind: MaskKind::Added(a), scores: scores.clone() });
                    flat.push(Mask { kind: MaskKind::Added(b), scores });
                }
                _ => flat.push(mask),
            },
            MaskKind::Replaced { .. } => flat.push(mask),
        }
    }
    let mut causal: Option<Dim> = None;
    flat.retain(|mask| {
        let found = match &mask.kind {
            MaskKind::Added(id) if causal.is_none() => offset_of(edit, *id, &mask.scores),
            _ => None,
        };
        let is_other = found.is_none();
        causal = causal.take().or(found);
        is_other
    });
    (flat, causal)
}

fn parts(edit: &Editor<'_>, id: ValueId) -> Option<(ValueId, ValueId)> {
    let node = edit.node(edit.producer(id)?);
    match node.op {
        Op::Binary(BinaryKind::Add) => Some((input(node, 0)?, input(node, 1)?)),
        _ => None,
    }
}

/// The offset of a mask that lets query i see the keys 0 to i + offset and hides the others.
fn offset_of(edit: &Editor<'_>, mut id: ValueId, scores: &[Dim]) -> Option<Dim> {
    let rank = scores.len();
    let shape = edit.graph.value(id).shape.as_slice();
    let (outer, inner) = shape.split_at_checked(shape.len().checked_sub(2)?)?;
    if inner != &scores[rank - 2..] || !outer.iter().all(|dim| dim.is(1)) {
        return None;
    }
    // A part of a larger constant, where sizes are symbolic.
    let mut first = [Dim::from(0i64), Dim::from(0i64)];
    for _ in 0..MAX_DEPTH {
        let Some(at) = edit.producer(id) else { break };
        let Op::Slice { starts, steps } = &edit.node(at).op else { return None };
        if steps.iter().any(|step| *step != 1) {
            return None;
        }
        let axes = starts.len().checked_sub(2)?;
        for (first, start) in first.iter_mut().zip(&starts[axes..]) {
            *first = first.add(start);
        }
        id = input(edit.node(at), 0)?;
    }
    let own = triangle(f32_constant(edit.graph, id)?)?;
    let offset = first[0].add(&Dim::from(own)).sub(&first[1]);
    // Known not to be negative: every query sees a key, so nothing depends on what hides the others.
    let positive = match offset.as_const() {
        Some(offset) => offset >= 0,
        None => own >= 0 && first[1].is(0),
    };
    positive.then_some(offset)
}

/// The offset of a constant that is 0 where `column <= row + offset` and hides elsewhere.
fn triangle(mask: &Tensor) -> Option<i64> {
    let columns = mask.shape.last().copied().filter(|n| *n > 0)?;
    let values = mask.to_f32();
    let visible = |row: &[f32]| row.iter().take_while(|v| **v == 0.0).count();
    let first = visible(values.get(..columns)?);
    // All visible would be any offset; nothing visible may be any below 0.
    if first == 0 || first == columns {
        return None;
    }
    let fits = values.chunks_exact(columns).enumerate().all(|(row, values)| {
        let seen = columns.min(row + first);
        values[..seen].iter().all(|v| *v == 0.0) && values[seen..].iter().all(|v| *v <= HIDES)
    });
    if fits { i64::try_from(first).ok().map(|first| first - 1) } else { None }
}

/// How a mask gets the axes of the products.
struct Fit {
    /// What it is expanded to first, where a group of axes becomes one and only some of them vary.
    wide: Option<Vec<Dim>>,
    /// Its shape then, when it is another.
    shape: Option<Vec<Dim>>,
}

impl Fit {
    /// For a mask of scores that have the elements of the product in order.
    fn new(mask: &[Dim], scores: &[Dim], product: &[Dim]) -> Option<Fit> {
        if scores == product {
            return Some(Fit { wide: None, shape: None });
        }
        let (wide, shape) = regrouped(mask, scores, product)?;
        Some(Fit {
            wide: (wide != padded(mask, scores.len())?).then_some(wide),
            shape: Some(shape),
        })
    }

    /// Applies it; the new nodes stand before `root`.
    fn apply(self, edit: &mut Editor<'_>, root: usize, name: &str, mut id: ValueId) -> ValueId {
        for (op, shape) in [(Op::Expand, self.wide), (Op::Reshape, self.shape)] {
            if let Some(shape) = shape.filter(|shape| edit.graph.value(id).shape != *shape) {
                id = insert(edit, root, &format!("{name}/fitted"), op, &[id], shape);
            }
        }
        id
    }
}

/// The masks as one that is added; the new nodes stand before `root`.
fn added(
    edit: &mut Editor<'_>,
    root: usize,
    name: &str,
    masks: Vec<(MaskKind, Fit)>,
) -> Option<Option<ValueId>> {
    let mut sum: Option<ValueId> = None;
    for (index, (kind, fit)) in masks.into_iter().enumerate() {
        let part = match kind {
            MaskKind::Added(id) => id,
            MaskKind::Replaced { condition, when, by } => {
                let mut number = |value: f32| {
                    edit.graph.add_constant(format!("{name}/mask"), Tensor::from_f32([], &[value]))
                };
                let (hides, shows) = (number(by), number(0.0));
                let shape = edit.graph.value(condition).shape.clone();
                let (a, b) = if when { (hides, shows) } else { (shows, hides) };
                let name = format!("{name}/mask_{index}");
                insert(edit, root, &name, Op::Where, &[condition, a, b], shape)
            }
        };
        let part = fit.apply(edit, root, &format!("{name}/mask_{index}"), part);
        sum = Some(match sum {
            None => part,
            Some(before) => {
                let shape = |id: ValueId| edit.graph.value(id).shape.as_slice();
                let shape = super::check::broadcast(shape(before), shape(part))?;
                let op = Op::Binary(BinaryKind::Add);
                insert(edit, root, &format!("{name}/masks_{index}"), op, &[before, part], shape)
            }
        });
    }
    Some(sum)
}

/// A new f32 node before another.
fn insert(
    edit: &mut Editor<'_>,
    before: usize,
    name: &str,
    op: Op,
    inputs: &[ValueId],
    shape: Vec<Dim>,
) -> ValueId {
    let y = edit.graph.add_value(name, DType::F32, shape);
    let inputs = inputs.iter().copied().map(Some).collect();
    edit.insert_before(before, Node { name: name.to_owned(), op, inputs, outputs: vec![y] });
    y
}
