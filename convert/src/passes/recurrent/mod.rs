//! Recognises a recurrent cell written out as products, sigmoids and tanh: an LSTM or GRU of one step.
//!
//! Exporters leave one copy of the cell per time step of an unrolled loop. Whatever way the gates are
//! written, each is a function of a sum ([`terms`]): products of the input and of the state with
//! constant weights, biases, and perhaps values from elsewhere. [`cell`] finds the formula around the
//! gates. The columns of all gates are then put side by side in the order of [`Op::Recurrent`], into
//! constants that all time steps share.

mod cell;
mod constants;
mod terms;

use std::collections::BTreeMap;

use whit::DType;
use whit::format::RecurrentFunction;

use crate::dim::Dim;
use crate::graph::{BinaryKind, Clamp, Graph, MatMul, Node, Op, Recurrent, RecurrentKind, ValueId};

use super::edit::Editor;
use cell::Cell;
use constants::Constants;
use terms::{Block, Sum, Window};

/// Runs the pass.
pub(super) fn run(graph: &mut Graph) -> bool {
    let mut edit = Editor::new(graph);
    let cells: Vec<Cell> = (0..edit.len()).filter_map(|root| cell::find(&edit, root)).collect();
    if cells.is_empty() {
        return false;
    }
    let chain = Chain::of(&cells);
    let mut constants = Constants::new(edit.graph);
    for (at, cell) in cells.iter().enumerate() {
        if let Some(step) = chain.step(&edit, &cells, at) {
            fuse(&mut edit, &mut constants, cell, step);
        }
    }
    edit.finish()
}

/// Which cell goes on with the result of which.
struct Chain {
    /// By what a cell has before it.
    reads: BTreeMap<ValueId, usize>,
    /// By what a cell makes of that.
    makes: BTreeMap<ValueId, usize>,
}

/// The part of a cell that [`Op::Recurrent`] computes.
struct Step {
    /// The state before; `None` for zeros.
    state: Option<ValueId>,
    weights: Vec<Vec<Block>>,
    /// The weights belong to the next cell: this one has none, because its state is zero.
    borrowed: bool,
    /// What the gates are made of besides.
    sums: Vec<Sum>,
}

impl Chain {
    fn of(cells: &[Cell]) -> Chain {
        let all = || cells.iter().enumerate();
        Chain {
            reads: all().map(|(at, cell)| (cell.before, at)).collect(),
            makes: all().map(|(at, cell)| (cell.after, at)).collect(),
        }
    }

    /// Tells the product of the state from those of the input. Any product of the right size would be
    /// correct; the weights that the whole layer has are found by following the cell.
    fn step(&self, edit: &Editor<'_>, cells: &[Cell], at: usize) -> Option<Step> {
        let cell = &cells[at];
        let mut sums = cell.sums.clone();
        let next = self.reads.get(&cell.after).map(|next| &cells[*next]);
        let next = next.filter(|next| next.kind == cell.kind && next.hidden == cell.hidden);
        let borrow = |weights: Vec<Vec<Block>>, sums: Vec<Sum>| {
            Some(Step { state: None, weights, borrowed: true, sums })
        };
        if cell.kind == RecurrentKind::Gru {
            let state = (!terms::is_zero(edit, cell.before)).then_some(cell.before);
            let weights = cell.weights.clone();
            if !weights.is_empty() {
                return Some(Step { state, weights, borrowed: false, sums });
            }
            let next = next.filter(|next| next.variant == cell.variant && !next.weights.is_empty());
            return borrow(next?.weights.clone(), sums);
        }
        let fits = |id: &ValueId| column(&sums, *id).iter().all(|block| block.rows == cell.hidden);
        let candidates: Vec<ValueId> =
            sums[0].products.iter().map(|(id, _)| *id).filter(fits).collect();
        let previous = self.makes.get(&cell.before).map(|before| cells[*before].state);
        let following = next.map(|next| column(&next.sums, cell.state));
        let following = following.filter(|blocks| {
            !blocks.is_empty() && blocks.iter().all(|block| block.rows == cell.hidden)
        });
        let state = match (previous.filter(|state| candidates.contains(state)), following) {
            (Some(state), _) => state,
            (None, Some(weights)) => {
                match candidates.iter().find(|id| column(&sums, **id) == weights) {
                    Some(state) => *state,
                    None => return borrow(vec![weights], sums),
                }
            }
            (None, None) => {
                let zero = candidates.iter().find(|id| terms::is_zero(edit, **id));
                *zero.or(candidates.last())?
            }
        };
        let weights = vec![column(&sums, state)];
        for sum in &mut sums {
            sum.products.retain(|(id, _)| *id != state);
        }
        let state = (!terms::is_zero(edit, state)).then_some(state);
        Some(Step { state, weights, borrowed: false, sums })
    }
}

/// What every gate multiplies a value with.
fn column(sums: &[Sum], of: ValueId) -> Vec<Block> {
    let products = sums.iter().flat_map(|sum| &sum.products);
    products.filter(|(id, _)| *id == of).map(|(_, block)| *block).collect()
}

/// Puts the operator in the place of the cell; `None`, and nothing done, where that isn't possible.
fn fuse(edit: &mut Editor<'_>, constants: &mut Constants, cell: &Cell, step: Step) -> Option<()> {
    let (batch, hidden, sums) = (&cell.batch, cell.hidden, &step.sums);
    let at = cell.at;
    let products: Vec<ValueId> = sums[0].products.iter().map(|(id, _)| *id).collect();
    let of_cell = match cell.kind {
        RecurrentKind::Lstm => Some(cell.before).filter(|id| !terms::is_zero(edit, *id)),
        _ => None,
    };
    let others = sums.iter().flat_map(|sum| &sum.others).map(|(id, _)| *id);
    let read = products.iter().copied().chain(others).chain(step.state).chain(of_cell);
    let state = vec![Dim::from(1i64), batch.clone(), Dim::from(hidden)];
    let fits = |id: ValueId| {
        let shape = &edit.graph.value(id).shape;
        super::check::broadcast(shape, &state).is_some_and(|all| all == state)
    };
    let before = read.clone().all(|id| edit.producer(id).is_none_or(|maker| maker < at));
    let whole = products.iter().all(|id| edit.graph.value(*id).shape.first() == Some(batch));
    let something = !products.is_empty() || !sums[0].others.is_empty();
    if !before || !whole || !something || !step.state.into_iter().chain(of_cell).all(fits) {
        return None;
    }

    // What the graph gets besides nodes is made first, as it may cost too much.
    let mut of_input = Vec::new();
    for id in &products {
        of_input.push((*id, constants.matrix(edit.graph, &column(sums, *id), hidden, false)?));
    }
    let biases: Vec<Vec<Window>> = sums.iter().map(|sum| sum.biases.clone()).collect();
    let mut bias = match biases.iter().all(Vec::is_empty) {
        true => None,
        false => Some(constants.bias(edit.graph, &biases, hidden, false)?),
    };
    let mut weights = Vec::new();
    for blocks in &step.weights {
        let id = constants.matrix(edit.graph, blocks, hidden, true)?;
        // Zeros times these are zeros.
        if step.borrowed && !constants.is_finite(edit.graph, id) {
            return None;
        }
        weights.push(id);
    }
    let inner_bias = match cell.inner_bias.is_empty() {
        true => None,
        false => {
            let biases = std::slice::from_ref(&cell.inner_bias);
            Some(constants.bias(edit.graph, biases, hidden, true)?)
        }
    };

    let mut made = Made { edit, at, name: String::new() };
    made.name = made.edit.node(cell.root).name.clone();
    let wide = vec![batch.clone(), Dim::from(sums.len() * hidden)];
    let mut gates: Option<ValueId> = None;
    let add = |made: &mut Made<'_, '_>, gates: Option<ValueId>, id: ValueId| match gates {
        Some(gates) => {
            let op = Op::Binary(BinaryKind::Add);
            made.node("gates", op, vec![Some(gates), Some(id)], &wide)
        }
        None => id,
    };
    for (id, weights) in of_input {
        let op = Op::MatMul(MatMul {
            transpose_a: false,
            transpose_b: false,
            clamp: Clamp::NONE,
            inner_quant: None,
        });
        let mut inputs = vec![Some(id), Some(weights)];
        inputs.extend(bias.take().map(Some));
        let product = made.node("product", op, inputs, &wide);
        gates = Some(add(&mut made, gates, product));
    }
    for index in 0..sums[0].others.len() {
        let windows: Vec<Window> = sums.iter().map(|sum| sum.others[index]).collect();
        let joined = made.joined(&windows, hidden, &wide);
        gates = Some(add(&mut made, gates, joined));
    }
    if let Some(bias) = bias {
        gates = Some(add(&mut made, gates, bias));
    }
    let every = [&[Dim::from(1i64)], wide.as_slice()].concat();
    let gates = made.node("gates of input", Op::Reshape, vec![gates], &every);
    let mut inputs = vec![Some(gates), Some(weights[0]), None];
    inputs.push(step.state.map(|id| made.state("state", id, &state)));
    match cell.kind {
        RecurrentKind::Lstm => inputs.push(of_cell.map(|id| made.state("cell", id, &state))),
        _ => inputs.extend([weights.get(1).copied(), inner_bias]),
    }
    while inputs.last() == Some(&None) {
        inputs.pop();
    }
    let tanh = Some((RecurrentFunction::Tanh, 0.0, 0.0));
    let lstm = cell.kind == RecurrentKind::Lstm;
    let op = Op::Recurrent(Recurrent {
        kind: cell.kind,
        backwards: vec![false],
        variant: cell.variant,
        clip: f32::INFINITY,
        cell_clip: f32::INFINITY,
        functions: vec![Some(cell.gate), tanh, tanh.filter(|_| lstm)],
    });
    made.finish(cell, op, inputs, &state);
    Some(())
}

/// Nodes that go before a cell.
struct Made<'e, 'g> {
    edit: &'e mut Editor<'g>,
    at: usize,
    name: String,
}

impl Made<'_, '_> {
    fn value(&mut self, part: &str, shape: &[Dim]) -> ValueId {
        self.edit.graph.add_value(format!("{}/{part}", self.name), DType::F32, shape.to_vec())
    }

    fn node(&mut self, part: &str, op: Op, inputs: Vec<Option<ValueId>>, shape: &[Dim]) -> ValueId {
        let y = self.value(part, shape);
        let name = format!("{}/{part}", self.name);
        self.edit.insert_before(self.at, Node { name, op, inputs, outputs: vec![y] });
        y
    }

    /// A state with an axis of directions.
    fn state(&mut self, part: &str, id: ValueId, shape: &[Dim]) -> ValueId {
        let op = match self.edit.graph.value(id).shape[..] == shape[1..] {
            true => Op::Reshape,
            false => Op::Expand,
        };
        self.node(part, op, vec![Some(id)], shape)
    }

    /// One window per gate, side by side.
    fn joined(&mut self, windows: &[Window], hidden: usize, wide: &[Dim]) -> ValueId {
        let shape = |made: &Self, id: ValueId| made.edit.graph.value(id).shape.clone();
        let in_order = windows
            .iter()
            .enumerate()
            .all(|(gate, (id, start))| *id == windows[0].0 && *start == gate * hidden);
        if in_order && shape(self, windows[0].0) == wide {
            return windows[0].0;
        }
        let narrow = vec![wide[0].clone(), Dim::from(hidden)];
        let mut parts = Vec::new();
        for (id, start) in windows {
            let part = match shape(self, *id) == narrow {
                true => *id,
                false => {
                    let starts = vec![Dim::default(), Dim::from(*start)];
                    let op = Op::Slice { starts, steps: vec![1; 2] };
                    self.node("gate", op, vec![Some(*id)], &narrow)
                }
            };
            parts.push(Some(part));
        }
        self.node("gates", Op::Concat { axis: 1 }, parts, wide)
    }

    /// The operator, and the model's own values out of its results.
    fn finish(self, cell: &Cell, op: Op, inputs: Vec<Option<ValueId>>, state: &[Dim]) {
        let mut made = self;
        let every = [&[Dim::from(1i64)], state].concat();
        let mut outputs = vec![made.value("states", &every), made.value("last", state)];
        let last = outputs[1];
        let edit = |made: &mut Self, at: usize, from: ValueId, to: ValueId| {
            let name = made.edit.node(at).name.clone();
            let inputs = vec![Some(from)];
            made.edit.replace(at, Node { name, op: Op::Reshape, inputs, outputs: vec![to] });
        };
        if cell.kind == RecurrentKind::Lstm {
            let last_cell = made.value("last cell", state);
            outputs.push(last_cell);
            edit(&mut made, cell.at, last_cell, cell.after);
        }
        let name = made.name.clone();
        made.edit.insert_before(cell.at, Node { name, op, inputs, outputs });
        edit(&mut made, cell.root, last, cell.state);
    }
}
