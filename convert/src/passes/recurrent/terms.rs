//! What a gate is the function of, taken apart into a sum.

use std::collections::BTreeSet;

use whit::DType;

use crate::dim::Dim;
use crate::graph::{BinaryKind, Clamp, Graph, MatMul, Op, ValueId};

use super::super::edit::{Editor, f32_constant, input};

/// Additions, slices and layers in a row; longer chains are left alone.
const MAX_DEPTH: usize = 12;

/// Terms of a sum; real cells have up to six.
const MAX_TERMS: usize = 16;

/// Constants of zeros larger than this are taken for any numbers.
const MAX_ZEROS: usize = 1 << 16;

/// A block of a constant matrix: some rows, and as many columns as there are hidden units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Block {
    pub(super) matrix: ValueId,
    /// The matrix is stored with its columns as rows.
    pub(super) transposed: bool,
    pub(super) row: usize,
    pub(super) rows: usize,
    pub(super) column: usize,
}

/// Columns of a value from an index on, as many as there are hidden units.
pub(super) type Window = (ValueId, usize);

/// A sum over the hidden units.
#[derive(Clone, Debug, Default)]
pub(super) struct Sum {
    /// Products of a value with constant weights.
    pub(super) products: Vec<(ValueId, Block)>,
    /// Constant vectors, or single numbers.
    pub(super) biases: Vec<Window>,
    /// What isn't any of these.
    pub(super) others: Vec<Window>,
}

impl Sum {
    /// The terms of a window; `None` when something doesn't fit.
    pub(super) fn of(edit: &Editor<'_>, of: Window, batch: &Dim, hidden: usize) -> Option<Sum> {
        let mut sum = Sum::default();
        sum.collect(edit, of, (batch, hidden), MAX_DEPTH)?;
        Some(sum)
    }

    /// Takes the product of a value out: `Some(None)` when there is none.
    pub(super) fn take(&mut self, of: &dyn Fn(ValueId) -> bool) -> Option<Option<Block>> {
        let found: BTreeSet<usize> =
            (0..self.products.len()).filter(|at| of(self.products[*at].0)).collect();
        match found.len() {
            0 => Some(None),
            1 => found.first().map(|at| Some(self.products.remove(*at).1)),
            _ => None,
        }
    }

    fn collect(
        &mut self,
        edit: &Editor<'_>,
        (id, start): Window,
        sizes: (&Dim, usize),
        depth: usize,
    ) -> Option<()> {
        let (batch, hidden) = sizes;
        let graph = &*edit.graph;
        if depth == 0
            || self.products.len() + self.biases.len() + self.others.len() >= MAX_TERMS
            || graph.value(id).dtype != DType::F32
        {
            return None;
        }
        if graph.constant(id).is_some() {
            is_vector(graph, id, start + hidden)?;
            self.biases.push((id, start));
            return Some(());
        }
        let [rows, width] = graph.value(id).shape.as_slice() else { return None };
        let width = usize::try_from(width.as_const()?).ok()?;
        if (rows != batch && !rows.is(1)) || start.checked_add(hidden)? > width {
            return None;
        }
        let node = edit.producer(id).map(|at| edit.node(at));
        match node.map(|node| (&node.op, node)) {
            Some((Op::Slice { starts, steps }, node)) if steps.iter().all(|step| *step == 1) => {
                let [zero, first] = starts.as_slice() else { return None };
                let x = input(node, 0)?;
                let whole = zero.is(0) && graph.value(x).shape.first() == Some(rows);
                let first = usize::try_from(first.as_const()?).ok().filter(|_| whole)?;
                self.collect(edit, (x, start.checked_add(first)?), sizes, depth - 1)
            }
            Some((Op::Binary(BinaryKind::Add), node)) => {
                self.collect(edit, (input(node, 0)?, start), sizes, depth - 1)?;
                self.collect(edit, (input(node, 1)?, start), sizes, depth - 1)
            }
            Some((Op::MatMul(layer), node)) if has_constant_weights(graph, layer, node) => {
                let (a, matrix) = (input(node, 0)?, input(node, 1)?);
                self.product(edit, a, (matrix, start), layer.transpose_b, batch)?;
                for operand in [2, 3] {
                    if let Some(id) = input(node, operand) {
                        self.collect(edit, (id, start), sizes, depth - 1)?;
                    }
                }
                Some(())
            }
            _ if rows == batch => {
                self.others.push((id, start));
                Some(())
            }
            _ => None,
        }
    }

    /// A product, or one for each part of what is joined before it.
    fn product(
        &mut self,
        edit: &Editor<'_>,
        a: ValueId,
        (matrix, column): Window,
        transposed: bool,
        batch: &Dim,
    ) -> Option<()> {
        let joined = edit.producer(a).map(|at| edit.node(at));
        let joined = joined.filter(|node| node.op == Op::Concat { axis: 1 });
        let parts = match joined {
            Some(node) => node.inputs.iter().copied().collect::<Option<Vec<ValueId>>>()?,
            None => vec![a],
        };
        let mut row = 0;
        for a in parts {
            let [own, rows] = edit.graph.value(a).shape.as_slice() else { return None };
            let rows = usize::try_from(rows.as_const()?).ok()?;
            if (own != batch && !is_zero(edit, a)) || self.products.len() >= MAX_TERMS {
                return None;
            }
            self.products.push((a, Block { matrix, transposed, row, rows, column }));
            row += rows;
        }
        Some(())
    }
}

/// A layer whose result is its product, and perhaps more, of what it reads with a constant matrix.
fn has_constant_weights(graph: &Graph, layer: &MatMul, node: &crate::graph::Node) -> bool {
    let plain = !layer.transpose_a && layer.clamp == Clamp::NONE && layer.inner_quant.is_none();
    let matrix = input(node, 1).and_then(|id| f32_constant(graph, id));
    let rank = |k: usize| input(node, k).map(|id| graph.value(id).shape.len());
    plain && matrix.is_some_and(|matrix| matrix.shape.len() == 2) && rank(0) == Some(2)
}

/// A constant that is the same for every row and goes on to column `end`, or has one element.
fn is_vector(graph: &Graph, id: ValueId, end: usize) -> Option<()> {
    let tensor = f32_constant(graph, id)?;
    let row = tensor.shape.last() == Some(&tensor.len()) && end <= tensor.len();
    (tensor.shape.len() <= 2 && (row || tensor.len() == 1)).then_some(())
}

/// Nothing but zeros, also after being repeated.
pub(super) fn is_zero(edit: &Editor<'_>, mut id: ValueId) -> bool {
    for _ in 0..MAX_DEPTH {
        if let Some(tensor) = f32_constant(edit.graph, id) {
            return tensor.len() <= MAX_ZEROS && tensor.to_f32().iter().all(|v| *v == 0.0);
        }
        let node = edit.producer(id).map(|at| edit.node(at));
        match node.filter(|node| matches!(node.op, Op::Expand | Op::Reshape)) {
            Some(node) => match input(node, 0) {
                Some(x) => id = x,
                None => return false,
            },
            None => return false,
        }
    }
    false
}
