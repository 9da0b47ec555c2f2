//! The formulas of an LSTM cell and a GRU cell, found from their last node backwards.

use whit::DType;
use whit::format::RecurrentFunction;

use crate::dim::Dim;
use crate::graph::{BinaryKind, Op, RecurrentKind, UnaryKind, ValueId};

use super::super::edit::{Editor, f32_scalar, input, output};
use super::terms::{Block, Sum, Window, is_zero};

/// The function of the gates with its parameters.
pub(super) type Function = (RecurrentFunction, f32, f32);

/// One time step of a layer.
pub(super) struct Cell {
    pub(super) kind: RecurrentKind,
    /// The node that makes the new state.
    pub(super) root: usize,
    /// The first node that makes something that others may read: the new cell, else the new state.
    pub(super) at: usize,
    pub(super) batch: Dim,
    pub(super) hidden: usize,
    pub(super) gate: Function,
    /// What each gate is the function of, in the order of [`Op::Recurrent`]; without the products of
    /// the state in a GRU.
    pub(super) sums: Vec<Sum>,
    /// Of an LSTM, the cell before; of a GRU, the state before.
    pub(super) before: ValueId,
    /// The same after it.
    pub(super) after: ValueId,
    /// The new state.
    pub(super) state: ValueId,
    /// Weights of the state: of update and reset, then of the candidate. Empty in an LSTM, whose
    /// formula doesn't say which product is the state's, and where the state is zero.
    pub(super) weights: Vec<Vec<Block>>,
    /// GRU: the reset is applied behind the product.
    pub(super) variant: bool,
    /// Of that product.
    pub(super) inner_bias: Vec<Window>,
}

/// The cell whose new state a node makes.
pub(super) fn find(edit: &Editor<'_>, root: usize) -> Option<Cell> {
    let node = edit.node(root);
    let y = edit.graph.value(output(node)?);
    let [batch, hidden] = y.shape.as_slice() else { return None };
    let hidden = usize::try_from(hidden.as_const()?).ok().filter(|hidden| *hidden > 0)?;
    if y.dtype != DType::F32 {
        return None;
    }
    match node.op {
        Op::Binary(BinaryKind::Mul) => lstm(edit, root, batch, hidden),
        Op::Binary(BinaryKind::Add) => gru(edit, root, batch, hidden),
        _ => None,
    }
}

/// Both operands of an elementwise node, in both orders.
fn operands(edit: &Editor<'_>, id: ValueId, kind: BinaryKind) -> Vec<(ValueId, ValueId)> {
    let node = edit.producer(id).map(|at| edit.node(at));
    let node = node.filter(|node| node.op == Op::Binary(kind));
    let both = node.and_then(|node| Some((input(node, 0)?, input(node, 1)?)));
    both.map(|(a, b)| vec![(a, b), (b, a)]).unwrap_or_default()
}

/// What a function is applied to, when nobody else reads its result. It may be applied to several
/// gates at once, before they are split.
fn unary(edit: &Editor<'_>, id: ValueId, uses: usize) -> Option<(UnaryKind, Window)> {
    let mut node = edit.node(edit.producer(id).filter(|_| edit.uses(id) <= uses)?);
    let mut start = 0;
    if let Op::Slice { starts, steps } = &node.op {
        let x = input(node, 0)?;
        let [zero, first] = starts.as_slice() else { return None };
        let of_columns = zero.is(0)
            && steps.iter().all(|step| *step == 1)
            && edit.graph.value(x).shape.first() == edit.graph.value(id).shape.first();
        start = usize::try_from(first.as_const()?).ok().filter(|_| of_columns)?;
        node = edit.node(edit.producer(x)?);
    }
    match node.op {
        Op::Unary(kind) => Some((kind, (input(node, 0)?, start))),
        _ => None,
    }
}

fn tanh(edit: &Editor<'_>, id: ValueId, uses: usize) -> Option<Window> {
    unary(edit, id, uses).filter(|(kind, _)| *kind == UnaryKind::Tanh).map(|(_, x)| x)
}

/// A gate: its function, and what of.
fn gate(edit: &Editor<'_>, id: ValueId, uses: usize) -> Option<(Function, Window)> {
    let (kind, x) = unary(edit, id, uses)?;
    let function = match kind {
        UnaryKind::Sigmoid => (RecurrentFunction::Sigmoid, 0.0, 0.0),
        UnaryKind::HardSigmoid { alpha, beta } => (RecurrentFunction::HardSigmoid, alpha, beta),
        _ => return None,
    };
    Some((function, x))
}

/// `o * tanh(c')` with `c' = f * c + i * g`.
fn lstm(edit: &Editor<'_>, root: usize, batch: &Dim, hidden: usize) -> Option<Cell> {
    let state = output(edit.node(root))?;
    for (o, bent) in operands(edit, state, BinaryKind::Mul) {
        let Some((function, o)) = gate(edit, o, 1) else { continue };
        let Some((after, 0)) = tanh(edit, bent, 1) else { continue };
        for (kept, added) in operands(edit, after, BinaryKind::Add) {
            for (f, before) in operands(edit, kept, BinaryKind::Mul) {
                for (i, g) in operands(edit, added, BinaryKind::Mul) {
                    let (Some((of_f, f)), Some((of_i, i))) = (gate(edit, f, 1), gate(edit, i, 1))
                    else {
                        continue;
                    };
                    let Some(g) = tanh(edit, g, 1) else { continue };
                    if of_f != function || of_i != function || edit.uses(kept) != 1 {
                        continue;
                    }
                    let sums = [i, o, f, g].map(|of| Sum::of(edit, of, batch, hidden));
                    let Some(sums) = sums.into_iter().collect::<Option<Vec<Sum>>>() else {
                        continue;
                    };
                    if !alike(&sums) {
                        continue;
                    }
                    return Some(Cell {
                        kind: RecurrentKind::Lstm,
                        root,
                        at: edit.producer(after)?,
                        batch: batch.clone(),
                        hidden,
                        gate: function,
                        sums,
                        before,
                        after,
                        state,
                        weights: Vec::new(),
                        variant: false,
                        inner_bias: Vec::new(),
                    });
                }
            }
        }
    }
    None
}

/// `z * h + (1 - z) * n`, or `n + z * (h - n)`.
fn gru(edit: &Editor<'_>, root: usize, batch: &Dim, hidden: usize) -> Option<Cell> {
    let state = output(edit.node(root))?;
    for (left, right) in operands(edit, state, BinaryKind::Add) {
        for (z, other) in operands(edit, left, BinaryKind::Mul) {
            for (rest, n) in operands(edit, right, BinaryKind::Mul) {
                if complement(edit, rest) == Some(z)
                    && let Some(cell) = gru_of(edit, root, (z, other, n), batch, hidden)
                {
                    return Some(cell);
                }
            }
            if let Some((h, n)) = difference(edit, other)
                && n == right
                && let Some(cell) = gru_of(edit, root, (z, h, n), batch, hidden)
            {
                return Some(cell);
            }
        }
    }
    None
}

/// `x` of `1 - x`.
fn complement(edit: &Editor<'_>, id: ValueId) -> Option<ValueId> {
    let (one, x) = difference(edit, id)?;
    (f32_scalar(edit.graph, one) == Some(1.0)).then_some(x)
}

fn difference(edit: &Editor<'_>, id: ValueId) -> Option<(ValueId, ValueId)> {
    let node = edit.node(edit.producer(id)?);
    match node.op {
        Op::Binary(BinaryKind::Sub) => Some((input(node, 0)?, input(node, 1)?)),
        _ => None,
    }
}

fn gru_of(
    edit: &Editor<'_>,
    root: usize,
    (z, h, n): (ValueId, ValueId, ValueId),
    batch: &Dim,
    hidden: usize,
) -> Option<Cell> {
    let sum = |of: Window| Sum::of(edit, of, batch, hidden);
    // Each is read by the two terms of the new state.
    let (function, z) = gate(edit, z, 2)?;
    let mut candidate = sum(tanh(edit, n, 2)?)?;
    let nothing = is_zero(edit, h);
    let is_state = |id: ValueId| id == h || (nothing && is_zero(edit, id));

    // The reset's share of the candidate: r * (h·R + b), or r * h before the product.
    let reset = |id: ValueId| {
        operands(edit, id, BinaryKind::Mul).into_iter().find_map(|(r, rest)| {
            let (of_r, r) = gate(edit, r, 1)?;
            (of_r == function).then_some((r, rest))
        })
    };
    let behind = (0..candidate.others.len()).find_map(|at| {
        let (id, start) = candidate.others[at];
        let (r, rest) = reset(id).filter(|_| start == 0)?;
        let inner = sum((rest, 0)).filter(|inner| inner.others.is_empty())?;
        Some((at, r, inner))
    });
    let (r, variant, of_candidate, inner_bias) = match behind {
        Some((at, r, mut inner)) => {
            candidate.others.remove(at);
            let block = inner.take(&is_state)?;
            if !inner.products.is_empty() {
                return None;
            }
            (r, true, block, inner.biases)
        }
        None => {
            let (at, r) = candidate.products.iter().enumerate().find_map(|(at, (id, _))| {
                let (r, rest) = reset(*id)?;
                is_state(rest).then_some((at, r))
            })?;
            let (_, block) = candidate.products.remove(at);
            (r, false, Some(block), Vec::new())
        }
    };
    let (mut update, mut reset) = (sum(z)?, sum(r)?);
    let blocks = [update.take(&is_state)?, reset.take(&is_state)?, of_candidate];
    let weights = match blocks {
        [Some(z), Some(r), Some(n)] => vec![vec![z, r], vec![n]],
        [None, None, None] if nothing => Vec::new(),
        _ => return None,
    };
    let sums = vec![update, reset, candidate];
    let square = weights.iter().flatten().all(|block| block.rows == hidden);
    (square && alike(&sums)).then(|| Cell {
        kind: RecurrentKind::Gru,
        root,
        at: root,
        batch: batch.clone(),
        hidden,
        gate: function,
        sums,
        before: h,
        after: output(edit.node(root)).unwrap_or(h),
        state: output(edit.node(root)).unwrap_or(h),
        weights,
        variant,
        inner_bias,
    })
}

/// All gates are made of products of the same values and of as many other terms.
fn alike(sums: &[Sum]) -> bool {
    let values = |sum: &Sum| {
        let mut values: Vec<ValueId> = sum.products.iter().map(|(id, _)| *id).collect();
        values.sort_unstable();
        values
    };
    let first = values(&sums[0]);
    let distinct = first.windows(2).all(|pair| pair[0] != pair[1]);
    let same = |sum: &Sum| values(sum) == first && sum.others.len() == sums[0].others.len();
    distinct && sums.iter().all(same)
}
