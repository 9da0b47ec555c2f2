//! Recurrent layers over a sequence, f32: LSTM, GRU and the plain one.
//!
//! What a layer's input contributes comes as an operand: one matrix product over all time steps,
//! biases included, gives the gates `[time, batch, direction × gate × hidden]`. What is left is
//! the part that can't run ahead, the product of the state with the recurrent weights, one time
//! step after the other. State and products of one time step live in scratch.

mod cells;
#[cfg(test)]
mod tests;

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{Op, RecurrentAttributes};
use crate::isa::Isa;
use crate::kernels::{elementary, matmul_f32};
use crate::memory::{Context, Slot, typed, typed_mut};
use crate::ops::shape::expect_apart;
use crate::ops::{Operator, Step, expect_type, select_isa};
use cells::{Function, State, Turn};

/// What tells the three operators apart.
struct Family {
    /// Gates per direction in the first operand.
    gates: usize,
    /// Columns of the recurrent weights, in units of the hidden size.
    weights: usize,
    /// Functions per direction.
    functions: usize,
    most_inputs: usize,
    most_outputs: usize,
    /// Scratch of a sequence, in units of the hidden size: states, then products.
    states: usize,
    products: usize,
    step: fn(&Turn<'_>, &mut State<'_>),
}

const LSTM: usize = 0;
const GRU: usize = 1;
const RNN: usize = 2;

static FAMILIES: [Family; 3] = [
    Family {
        gates: 4,
        weights: 4,
        functions: 3,
        most_inputs: 6,
        most_outputs: 3,
        states: 2,
        products: 4,
        step: cells::lstm,
    },
    Family {
        gates: 3,
        weights: 2,
        functions: 2,
        most_inputs: 6,
        most_outputs: 2,
        states: 2,
        products: 3,
        step: cells::gru,
    },
    Family {
        gates: 1,
        weights: 1,
        functions: 1,
        most_inputs: 4,
        most_outputs: 2,
        states: 1,
        products: 1,
        step: cells::rnn,
    },
];

/// Inputs: gates in the order input, output, forget, cell; weights `[direction, hidden, 4 ×
/// hidden]`; optional: lengths, initial state, initial cell, peepholes `[direction, 3 × hidden]`.
pub static LSTM_F32: Operator = Operator {
    op: Op::Lstm,
    dtype: Some(DType::F32),
    check: |step| check(step, &FAMILIES[LSTM]),
    select: select_isa!(run, LSTM),
    scratch_bytes: |step, _| scratch_bytes(step, &FAMILIES[LSTM]),
};

/// Inputs: gates in the order update, reset, candidate; weights of update and reset `[direction,
/// hidden, 2 × hidden]`; optional: lengths, initial state; weights of the candidate `[direction,
/// hidden, hidden]`; optional: the bias of that product, `[direction, hidden]`.
pub static GRU_F32: Operator = Operator {
    op: Op::Gru,
    dtype: Some(DType::F32),
    check: |step| check(step, &FAMILIES[GRU]),
    select: select_isa!(run, GRU),
    scratch_bytes: |step, _| scratch_bytes(step, &FAMILIES[GRU]),
};

/// Inputs: gates, weights `[direction, hidden, hidden]`; optional: lengths, initial state.
pub static RNN_F32: Operator = Operator {
    op: Op::Rnn,
    dtype: Some(DType::F32),
    check: |step| check(step, &FAMILIES[RNN]),
    select: select_isa!(run, RNN),
    scratch_bytes: |step, _| scratch_bytes(step, &FAMILIES[RNN]),
};

/// Sizes of a layer.
#[derive(Clone, Copy)]
struct Sizes {
    time: usize,
    batch: usize,
    directions: usize,
    hidden: usize,
}

impl Sizes {
    /// From the gates and the recurrent weights, whose shapes [`check`] compares with these.
    fn of(step: &Step<'_>) -> Result<Sizes, StepErrorKind> {
        let (gates, weights) = (step.input(0)?, step.input(1)?);
        Ok(Sizes {
            time: gates.dim(0),
            batch: gates.dim(1),
            directions: weights.dim(0),
            hidden: weights.dim(1),
        })
    }
}

fn expect_shape(slot: &Slot, dims: &[Option<usize>], operand: usize) -> Result<(), StepErrorKind> {
    let same = slot.rank() == dims.len()
        && slot.dims().iter().zip(dims).all(|(own, dim)| Some(*own as usize) == *dim);
    if same { Ok(()) } else { Err(StepErrorKind::OperandShape(operand as u8)) }
}

fn check(step: &Step<'_>, family: &Family) -> Result<(), StepErrorKind> {
    let (inputs, outputs) = (step.input_count(), step.output_count());
    if !(2..=family.most_inputs).contains(&inputs) || !(1..=family.most_outputs).contains(&outputs)
    {
        return Err(StepErrorKind::OperandCount);
    }
    expect_apart(step)?;
    let attributes: RecurrentAttributes = step.expect_attributes()?;
    if !(1..=2).contains(&attributes.directions) {
        return Err(StepErrorKind::Attribute("directions"));
    }
    if attributes.backwards >= 1 << attributes.directions {
        return Err(StepErrorKind::Attribute("backwards"));
    }
    if attributes.variant > 1 {
        return Err(StepErrorKind::Attribute("variant"));
    }
    for direction in 0..attributes.directions as usize {
        for index in 0..family.functions {
            Function::read(&attributes, direction, index)?;
        }
    }

    let Sizes { time, batch, directions, hidden } = Sizes::of(step)?;
    if directions != attributes.directions as usize || hidden == 0 {
        return Err(StepErrorKind::OperandShape(1));
    }
    let (time, batch, directions) = (Some(time), Some(batch), Some(directions));
    let times = |count: usize| hidden.checked_mul(count);
    let gates = times(family.gates).and_then(|gates| gates.checked_mul(directions?));
    let state = [directions, batch, Some(hidden)];
    let f32s = |operand: usize, dims: &[Option<usize>]| -> Result<(), StepErrorKind> {
        let Some(slot) = step.optional_input(operand) else { return Ok(()) };
        expect_type(&slot, DType::F32, operand as u8)?;
        expect_shape(&slot, dims, operand)
    };
    f32s(0, &[time, batch, gates])?;
    f32s(1, &[directions, Some(hidden), times(family.weights)])?;
    if let Some(lengths) = step.optional_input(2) {
        expect_type(&lengths, DType::I32, 2)?;
        expect_shape(&lengths, &[batch], 2)?;
    }
    f32s(3, &state)?;
    match family.gates {
        4 => {
            f32s(4, &state)?;
            f32s(5, &[directions, times(3)])?;
        }
        3 => {
            step.input(4)?;
            f32s(4, &[directions, Some(hidden), Some(hidden)])?;
            f32s(5, &[directions, Some(hidden)])?;
        }
        _ => {}
    }
    for index in 0..outputs {
        let Some(slot) = step.optional_output(index) else { continue };
        expect_type(&slot, DType::F32, (inputs + index) as u8)?;
        let every = [time, directions, batch, Some(hidden)];
        expect_shape(&slot, if index == 0 { &every } else { &state }, inputs + index)?;
    }
    scratch_floats(step, family).map(|_| ())
}

/// States and products of one time step, for every sequence.
fn scratch_floats(step: &Step<'_>, family: &Family) -> Result<usize, StepErrorKind> {
    let Sizes { batch, hidden, .. } = Sizes::of(step)?;
    let floats =
        batch.checked_mul(hidden).and_then(|n| n.checked_mul(family.states + family.products));
    floats.filter(|n| n.checked_mul(4).is_some()).ok_or(StepErrorKind::TooLarge)
}

fn scratch_bytes(step: &Step<'_>, family: &Family) -> usize {
    scratch_floats(step, family).map_or(0, |floats| floats * 4)
}

fn run<const FAMILY: usize, const ISA: usize>(
    context: &mut Context<'_>,
) -> Result<(), StepErrorKind> {
    let family = &FAMILIES[FAMILY];
    let step = context.step;
    let attributes: RecurrentAttributes = step.attributes();
    let Sizes { time, batch, directions, hidden } = Sizes::of(&step)?;
    let floats = scratch_floats(&step, family)?;
    let operands = context.operands_with_outputs::<6, 3>([0, 1, 2, 3, 4, 5])?;
    let [gates, weights, lengths, initial, extra, more] = operands.inputs;
    let gates: &[f32] = typed(gates, 0)?;
    let weights: &[f32] = typed(weights, 1)?;
    let lengths: &[i32] = typed(lengths, 2)?;
    let initial: &[f32] = typed(initial, 3)?;
    let (extra, more): (&[f32], &[f32]) = (typed(extra, 4)?, typed(more, 5)?);
    let [every, last, last_cell] = operands.outputs;
    let every: &mut [f32] = typed_mut(every, 6)?;
    let last: &mut [f32] = typed_mut(last, 7)?;
    let last_cell: &mut [f32] = typed_mut(last_cell, 8)?;
    if batch == 0 {
        return Ok(());
    }
    let scratch = operands.scratch.get_mut(..floats * 4).ok_or(StepErrorKind::TooLarge)?;
    let (states, products) =
        typed_mut::<f32>(scratch, 9)?.split_at_mut(batch * hidden * family.states);
    let (hidden_state, other_state) = states.split_at_mut(batch * hidden);
    if !lengths.is_empty() {
        // What lies behind the end of a sequence.
        every.fill(0.0);
    }

    let per_state = batch * hidden;
    let row_gates = directions * family.gates * hidden;
    for direction in 0..directions {
        let mut functions = [Function::default(); 3];
        for (index, function) in functions[..family.functions].iter_mut().enumerate() {
            *function = Function::read(&attributes, direction, index)?;
        }
        let initial = initial.get(direction * per_state..(direction + 1) * per_state);
        set(hidden_state, initial);
        if FAMILY == LSTM {
            set(other_state, extra.get(direction * per_state..(direction + 1) * per_state));
        }
        // The direction's part of an operand, which is empty when the operand is absent.
        let part = |operand: &'_ [f32], len: usize| {
            direction * len..operand.len().min((direction + 1) * len)
        };
        let extra = match FAMILY {
            GRU => &extra[part(extra, hidden * hidden)],
            _ => &[],
        };
        let more = match FAMILY {
            LSTM if !more.is_empty() => &more[part(more, 3 * hidden)],
            GRU if !more.is_empty() => &more[part(more, hidden)],
            _ => &[],
        };
        let backwards = attributes.backwards >> direction & 1 == 1;
        // The time at which a sequence is in a turn, unless it has ended.
        let time_of = |turn: usize, row: usize| {
            let length = lengths
                .get(row)
                .map_or(time, |length| usize::try_from(*length).unwrap_or(0).min(time));
            let at = if backwards { length.checked_sub(turn + 1) } else { Some(turn) };
            at.filter(|_| turn < length)
        };
        for number in 0..time {
            let gates_of = |row: usize| {
                let start = (time_of(number, row)? * batch + row) * row_gates
                    + direction * family.gates * hidden;
                gates.get(start..start + family.gates * hidden)
            };
            let turn = Turn {
                batch,
                hidden,
                weights: &weights[part(weights, hidden * family.weights * hidden)],
                extra,
                more,
                functions,
                clip: attributes.clip,
                cell_clip: match attributes.cell_clip {
                    0.0 => f32::INFINITY,
                    bound => bound,
                },
                variant: attributes.variant == 1,
                gates_of: &gates_of,
                elementary: elementary::select(Isa::ALL[ISA]),
                product: matmul_f32::select(Isa::ALL[ISA]),
            };
            let mut state = State { hidden: hidden_state, other: other_state, products };
            (family.step)(&turn, &mut state);
            if every.is_empty() {
                continue;
            }
            for row in 0..batch {
                let Some(at) = time_of(number, row) else { continue };
                let start = ((at * directions + direction) * batch + row) * hidden;
                every[start..start + hidden]
                    .copy_from_slice(&hidden_state[row * hidden..(row + 1) * hidden]);
            }
        }
        for (to, from) in [(&mut *last, &*hidden_state), (&mut *last_cell, &*other_state)] {
            if let Some(to) = to.get_mut(direction * per_state..(direction + 1) * per_state) {
                to.copy_from_slice(&from[..per_state]);
            }
        }
    }
    Ok(())
}

fn set(state: &mut [f32], initial: Option<&[f32]>) {
    match initial {
        Some(initial) => state.copy_from_slice(initial),
        None => state.fill(0.0),
    }
}
