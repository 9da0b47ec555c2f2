//! LSTM on i8 with a cell of i16 and gates of fixed point, in one direction.
//!
//! Gates are i16 in steps of 2⁻¹² before their functions and of 2⁻¹⁵ behind. For each of input, forget,
//! cell and output, with `round(v, n)` = v / 2ⁿ rounded to nearest, halves away from zero:
//!
//! ```text
//! a    = saturate(clamp(round_ties_even((bias₀ + Σ x·w) as f32 * input_scale))
//!                 + clamp(round_ties_even((bias₁ + Σ h·r) as f32 * state_scale)))          to i16
//! i, f, o = sigmoid(a),  g = tanh(a)                                                       by tables
//! c'   = saturate(round(f·c, 15) + round(i·g, cell_shift)), within ± cell_clip
//! h'   = clamp(round_ties_even((o · tanh_of_cell(c')) as f32 * output_scale)) + zero_point   to i8
//! ```
//!
//! Sums are i32 and wrap. The scheme is that of TensorFlow Lite's 8×8→16 cell; the tables take the place
//! of its approximations.

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{Op, QuantizedLstmAttributes};
use crate::kernels::requantize::round_clamp;
use crate::memory::{Context, typed, typed_mut};
use crate::ops::quantize::{lut_i16, lut_i16_bits};
use crate::ops::shape::expect_apart;
use crate::ops::{Operator, Step, expect_type, expect_vector};

/// Inputs: x, weights of the input, weights of the state, biases, state, cell, tables of sigmoid, tanh, and
/// tanh of the cell.
const INPUTS: usize = 9;
const GATES: usize = 4;
/// The first of three.
const TABLES: usize = 6;
/// Steps of the gates' sums, and bounds for their conversion.
const I16: [i32; 2] = [i16::MIN as i32, i16::MAX as i32];

/// x `[time, batch, inputs]` or `[batch, time, inputs]`, weights `[4 × hidden, inputs]` and
/// `[4 × hidden, hidden]`, biases i32 `[2, 4 × hidden]`, state i8 and cell i16 `[batch, hidden]`, tables as those of
/// [`LUT_I16`](super::LUT_I16). Outputs, any of which may be absent: every state like x, the last state, the last cell.
pub static QUANTIZED_LSTM: Operator = Operator {
    op: Op::QuantizedLstm,
    dtype: Some(DType::I8),
    check,
    select: |_| run,
    scratch_bytes: |step, _| sizes(step).map_or(0, |sizes| sizes.scratch_bytes()),
};

#[derive(Clone, Copy)]
struct Sizes {
    time: usize,
    batch: usize,
    inputs: usize,
    hidden: usize,
    batch_first: bool,
}

impl Sizes {
    /// The gates, then the cell, of one sequence in i16, then its state in i8.
    fn scratch_bytes(&self) -> usize {
        self.hidden.saturating_mul((GATES + 1) * size_of::<i16>() + 1)
    }
}

fn sizes(step: &Step<'_>) -> Result<Sizes, StepErrorKind> {
    let attributes: QuantizedLstmAttributes = step.expect_attributes()?;
    let (x, state) = (step.input(0)?, step.input(4)?);
    if x.rank() != 3 || state.rank() != 2 {
        return Err(StepErrorKind::OperandShape(0));
    }
    let batch_first = attributes.batch_first == 1;
    let (time, batch) = if batch_first { (x.dim(1), x.dim(0)) } else { (x.dim(0), x.dim(1)) };
    let (inputs, hidden) = (x.dim(2), state.dim(1));
    if hidden == 0 || inputs == 0 || state.dim(0) != batch {
        return Err(StepErrorKind::OperandShape(4));
    }
    Ok(Sizes { time, batch, inputs, hidden, batch_first })
}

fn check(step: &Step<'_>) -> Result<(), StepErrorKind> {
    if step.input_count() != INPUTS || !(1..=3).contains(&step.output_count()) {
        return Err(StepErrorKind::OperandCount);
    }
    expect_apart(step)?;
    let Sizes { time, batch, inputs, hidden, batch_first } = sizes(step)?;
    let attributes: QuantizedLstmAttributes = step.attributes();
    if !(1..=30).contains(&attributes.cell_shift) {
        return Err(StepErrorKind::Attribute("cell shift"));
    }
    if !(0..=I16[1]).contains(&attributes.cell_clip) {
        return Err(StepErrorKind::Attribute("cell clip"));
    }
    let rows = hidden.checked_mul(GATES).ok_or(StepErrorKind::TooLarge)?;
    let matrix = |columns: usize| rows.checked_mul(columns).ok_or(StepErrorKind::TooLarge);
    expect_type(&step.input(0)?, DType::I8, 0)?;
    expect_vector(&step.input(1)?, DType::I8, matrix(inputs)?, 1)?;
    expect_vector(&step.input(2)?, DType::I8, matrix(hidden)?, 2)?;
    expect_vector(&step.input(3)?, DType::I32, matrix(2)?, 3)?;
    let states = batch.checked_mul(hidden).ok_or(StepErrorKind::TooLarge)?;
    expect_vector(&step.input(4)?, DType::I8, states, 4)?;
    expect_vector(&step.input(5)?, DType::I16, states, 5)?;
    for table in TABLES..INPUTS {
        lut_i16_bits(&step.input(table)?, table as u8)?;
    }
    let first = if batch_first { [batch, time] } else { [time, batch] };
    let every = [first[0], first[1], hidden];
    let last = [batch, hidden];
    let wanted: [(&[usize], DType); 3] =
        [(&every, DType::I8), (&last, DType::I8), (&last, DType::I16)];
    for (index, (dims, dtype)) in wanted.into_iter().enumerate() {
        let Some(y) = step.optional_output(index) else { continue };
        let operand = (INPUTS + index) as u8;
        expect_type(&y, dtype, operand)?;
        if !y.dims().iter().map(|dim| *dim as usize).eq(dims.iter().copied()) {
            return Err(StepErrorKind::OperandShape(operand));
        }
    }
    Ok(())
}

/// `v / 2ⁿ` to nearest, halves away from zero.
fn rounded_shift(v: i32, n: u32) -> i32 {
    let half = 1 << (n - 1);
    if v < 0 { -((half - v) >> n) } else { (v + half) >> n }
}

fn product(bias: i32, x: &[i8], w: &[i8]) -> i32 {
    let sum: i32 = x
        .iter()
        .zip(w)
        .map(|(x, w)| i32::from(*x) * i32::from(*w))
        .fold(0, |sum, product| sum.wrapping_add(product));
    bias.wrapping_add(sum)
}

fn run(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let step = context.step;
    let sizes = sizes(&step)?;
    let attributes: QuantizedLstmAttributes = step.attributes();
    let Sizes { time, batch, inputs, hidden, batch_first } = sizes;
    let zero_point =
        (0..2).find_map(|index| step.optional_output(index)).map_or(0, |y| y.zero_point);
    let mut bits = [0; 3];
    for (index, bits) in bits.iter_mut().enumerate() {
        *bits = lut_i16_bits(&step.input(TABLES + index)?, 0)?;
    }
    let operands = context.operands_with_outputs::<INPUTS, 3>([0, 1, 2, 3, 4, 5, 6, 7, 8])?;
    let [x, w, r, bias, state, cell, tables @ ..] = operands.inputs;
    let (x, w, r): (&[i8], &[i8], &[i8]) = (typed(x, 0)?, typed(w, 1)?, typed(r, 2)?);
    let bias: &[i32] = typed(bias, 3)?;
    let (state, cell): (&[i8], &[i16]) = (typed(state, 4)?, typed(cell, 5)?);
    let [sigmoid, tanh, tanh_of_cell]: [&[i16]; 3] =
        [typed(tables[0], 6)?, typed(tables[1], 7)?, typed(tables[2], 8)?];
    let [every, last_state, last_cell] = operands.outputs;
    let every: &mut [i8] = typed_mut(every, 9)?;
    let last_state: &mut [i8] = typed_mut(last_state, 10)?;
    let last_cell: &mut [i16] = typed_mut(last_cell, 11)?;
    let scratch =
        operands.scratch.get_mut(..sizes.scratch_bytes()).ok_or(StepErrorKind::TooLarge)?;
    let (wide, h) = scratch.split_at_mut(hidden * (GATES + 1) * size_of::<i16>());
    let wide: &mut [i16] = typed_mut(wide, 12)?;
    let (gates, c) = wide.split_at_mut(hidden * GATES);
    let h: &mut [i8] = typed_mut(h, 12)?;
    let (low, high) = (-128 - zero_point, 127 - zero_point);
    let bound = if attributes.cell_clip == 0 { I16[1] + 1 } else { attributes.cell_clip };

    for row in 0..batch {
        let own = row * hidden..(row + 1) * hidden;
        h.copy_from_slice(&state[own.clone()]);
        c.copy_from_slice(&cell[own.clone()]);
        for t in 0..time {
            let place = if batch_first { row * time + t } else { t * batch + row };
            let x = &x[place * inputs..][..inputs];
            for (at, gate) in gates.iter_mut().enumerate() {
                let kind = at / hidden;
                let of_x = product(bias[at], x, &w[at * inputs..][..inputs]);
                let of_h = product(bias[GATES * hidden + at], h, &r[at * hidden..][..hidden]);
                let of_x = round_clamp(of_x as f32 * attributes.input_scale[kind], I16[0], I16[1]);
                let of_h = round_clamp(of_h as f32 * attributes.state_scale[kind], I16[0], I16[1]);
                let sum = (of_x + of_h).clamp(I16[0], I16[1]) as i16;
                let (table, bits) = if kind == 2 { (tanh, bits[1]) } else { (sigmoid, bits[0]) };
                *gate = lut_i16(sum, bits, |at| table[at]);
            }
            for j in 0..hidden {
                let gate = |kind: usize| i32::from(gates[kind * hidden + j]);
                let kept = rounded_shift(gate(1) * i32::from(c[j]), 15);
                let added = rounded_shift(gate(0) * gate(2), attributes.cell_shift);
                let next = kept.saturating_add(added).clamp(I16[0], I16[1]).clamp(-bound, bound);
                c[j] = next as i16;
                let shown = lut_i16(c[j], bits[2], |at| tanh_of_cell[at]);
                let real = (gate(3) * i32::from(shown)) as f32 * attributes.output_scale;
                h[j] = (round_clamp(real, low, high) + zero_point) as i8;
            }
            if !every.is_empty() {
                every[place * hidden..][..hidden].copy_from_slice(h);
            }
        }
        if !last_state.is_empty() {
            last_state[own.clone()].copy_from_slice(h);
        }
        if !last_cell.is_empty() {
            last_cell[own].copy_from_slice(c);
        }
    }
    Ok(())
}
