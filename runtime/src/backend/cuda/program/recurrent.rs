//! Recurrent layers.

use super::{Lower, Refusal, elements, small};
use crate::backend::cuda::arguments::{self, Recurrent};
use crate::backend::cuda::kernels::{GRU_F32, Kernel, LSTM_F32, QUANTIZED_LSTM, RNN_F32};
use crate::error::StepErrorKind;
use crate::format::{Layout, QuantizedLstmAttributes, RecurrentAttributes};
use crate::ops::quantize::lut_i16_bits;

/// Elements of a state that a block has room for.
const MOST_STATES: usize = 4096;
/// The input with the first of three tables.
const TABLES: usize = 6;

fn expect_room(hidden: usize) -> Result<(), Refusal> {
    if hidden <= MOST_STATES {
        return Ok(());
    }
    Err(Refusal::Lacks("states of more than 4096 elements"))
}

/// Address of an output; 0 when nobody wants it.
fn optional_output(lower: &Lower<'_>, index: usize) -> u64 {
    lower.step.optional_output(index).map_or(0, |slot| lower.bases.address(&slot.place))
}

/// `extra` and `more` are inputs that not every family has.
fn recurrent(
    lower: &mut Lower<'_>,
    kernel: &'static Kernel,
    has_extra: bool,
) -> Result<(), Refusal> {
    let attributes: RecurrentAttributes = lower.step.expect_attributes()?;
    let ((gates, gates_at), (slot, weights)) = (lower.input(0)?, lower.input(1)?);
    for slot in [&gates, &slot] {
        elements(slot)?;
    }
    let own = |operand: usize| if has_extra { lower.optional_address(operand) } else { 0 };
    let (directions, hidden) = (slot.dim(0), slot.dim(1));
    expect_room(hidden)?;
    let arguments = Recurrent {
        gates: gates_at,
        weights,
        lengths: lower.optional_address(2),
        initial: lower.optional_address(3),
        extra: own(4),
        more: own(5),
        every: optional_output(lower, 0),
        last: optional_output(lower, 1),
        last_cell: optional_output(lower, 2),
        time: small(gates.dim(0))?,
        batch: small(gates.dim(1))?,
        directions: small(directions)?,
        hidden: small(hidden)?,
        backwards: attributes.backwards,
        variant: attributes.variant,
        clip: attributes.clip,
        cell_clip: if attributes.cell_clip == 0.0 { f32::INFINITY } else { attributes.cell_clip },
        functions: attributes.functions,
        alpha: attributes.alpha,
        beta: attributes.beta,
    };
    lower.call(kernel, [gates.dim(1), directions], arguments)
}

pub(super) fn lstm(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    recurrent(lower, &LSTM_F32, true)
}

pub(super) fn gru(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    recurrent(lower, &GRU_F32, true)
}

pub(super) fn rnn(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    recurrent(lower, &RNN_F32, false)
}

pub(super) fn quantized_lstm(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let attributes: QuantizedLstmAttributes = lower.step.expect_attributes()?;
    let ((x, input), (_, weights), (_, state_weights), (_, bias)) =
        (lower.input(0)?, lower.input(1)?, lower.input(2)?, lower.input(3)?);
    let ((state, initial), (_, initial_cell)) = (lower.input(4)?, lower.input(5)?);
    for slot in [&x, &state] {
        elements(slot)?;
    }
    let hidden = state.dim(1);
    expect_room(hidden)?;
    let (mut tables, mut bits) = ([0; 3], [0; 3]);
    for (at, (address, bits)) in tables.iter_mut().zip(&mut bits).enumerate() {
        let (slot, own) = lower.input(TABLES + at)?;
        (*address, *bits) = (own, lut_i16_bits(&slot, (TABLES + at) as u8)?);
    }
    let panels = lower.step.input_layout(1) == Layout::PanelI8;
    if panels && !(weights | state_weights).is_multiple_of(4) {
        return Err(Refusal::Lacks("weights that aren't at a multiple of 4"));
    }
    let batch_first = attributes.batch_first == 1;
    let (time, batch) = if batch_first { (x.dim(1), x.dim(0)) } else { (x.dim(0), x.dim(1)) };
    let result = (0..2).find_map(|index| lower.step.optional_output(index));
    let columns = hidden.checked_mul(4).ok_or(StepErrorKind::TooLarge)?;
    small(columns)?;
    let arguments = arguments::QuantizedLstm {
        input,
        weights,
        state_weights,
        bias,
        initial,
        initial_cell,
        tables,
        every: optional_output(lower, 0),
        last: optional_output(lower, 1),
        last_cell: optional_output(lower, 2),
        time: small(time)?,
        batch: small(batch)?,
        inputs: small(x.dim(2))?,
        hidden: small(hidden)?,
        batch_first: u32::from(batch_first),
        bits,
        input_scale: attributes.input_scale,
        state_scale: attributes.state_scale,
        output_scale: attributes.output_scale,
        cell_shift: attributes.cell_shift,
        cell_bound: match attributes.cell_clip {
            0 => i32::from(i16::MAX) + 1,
            bound => bound,
        },
        zero_point: result.map_or(0, |slot| slot.zero_point()),
        panels: u32::from(panels),
        reserved: 0,
    };
    lower.call(&QUANTIZED_LSTM, [batch, 1], arguments)
}
