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
use crate::format::{Layout, Op, QuantizedLstmAttributes};
use crate::isa::Isa;
use crate::kernels::lstm_i8::{self, CellI8, GateSums, Table};
use crate::kernels::{PANEL_K, PANEL_N};
use crate::memory::{Context, typed, typed_mut};
use crate::ops::quantize::lut_i16_bits;
use crate::ops::shape::{expect_apart_but, expect_dense};
use crate::ops::{Operator, Step, expect_type, expect_vector, select_isa};

/// Inputs: x, weights of the input, weights of the state, biases, state, cell, tables of sigmoid, tanh, and
/// tanh of the cell.
const INPUTS: usize = 9;
const GATES: usize = 4;
/// The first of three.
const TABLES: usize = 6;

/// x `[time, batch, inputs]` or `[batch, time, inputs]`, weights `[4 × hidden, inputs]` and
/// `[4 × hidden, hidden]`, both in panels or both dense, biases i32 `[2, 4 × hidden]`, state i8 and cell i16 `[batch, hidden]`, tables as those of
/// [`LUT_I16`](super::LUT_I16). Outputs, any of which may be absent: every state like x, the last state, the last cell.
pub static QUANTIZED_LSTM: Operator = Operator {
    op: Op::QuantizedLstm,
    dtype: Some(DType::I8),
    check,
    select: select_isa!(run),
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
    /// Sums of the gates of one sequence in i32, then gates and cell in i16, then its state in i8.
    fn scratch_bytes(&self) -> usize {
        self.hidden.saturating_mul(GATES * size_of::<i32>() + (GATES + 1) * size_of::<i16>() + 1)
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
    // No input has this number: every output lies apart.
    expect_apart_but(step, INPUTS)?;
    expect_dense(&step.input(0)?, 0)?;
    let Sizes { time, batch, inputs, hidden, batch_first } = sizes(step)?;
    let attributes: QuantizedLstmAttributes = step.attributes();
    if !(1..=30).contains(&attributes.cell_shift) {
        return Err(StepErrorKind::Attribute("cell shift"));
    }
    if !(0..=i32::from(i16::MAX)).contains(&attributes.cell_clip) {
        return Err(StepErrorKind::Attribute("cell clip"));
    }
    let rows = hidden.checked_mul(GATES).ok_or(StepErrorKind::TooLarge)?;
    expect_type(&step.input(0)?, DType::I8, 0)?;
    for (operand, columns) in [(1, inputs), (2, hidden)] {
        let weights = step.input(operand)?;
        expect_type(&weights, DType::I8, operand as u8)?;
        let [rows, columns] = match weights.layout {
            Layout::Dense => [rows, columns],
            Layout::PanelI8 => {
                let padded = |size: usize, to: usize| {
                    size.checked_next_multiple_of(to).ok_or(StepErrorKind::TooLarge)
                };
                [padded(rows, PANEL_N)?, padded(columns, PANEL_K)?]
            }
            _ => return Err(StepErrorKind::OperandLayout(operand as u8)),
        };
        let bytes = rows.checked_mul(columns).ok_or(StepErrorKind::TooLarge)?;
        if weights.bytes() < bytes {
            return Err(StepErrorKind::OperandShape(operand as u8));
        }
    }
    if step.input_layout(1) != step.input_layout(2) {
        return Err(StepErrorKind::OperandLayout(2));
    }
    let biases = rows.checked_mul(2).ok_or(StepErrorKind::TooLarge)?;
    expect_vector(&step.input(3)?, DType::I32, biases, 3)?;
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
        expect_dense(&y, operand)?;
        if !y.dims().iter().map(|dim| *dim as usize).eq(dims.iter().copied()) {
            return Err(StepErrorKind::OperandShape(operand));
        }
    }
    Ok(())
}

fn run<const ISA: usize>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let isa = Isa::ALL[ISA];
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
    let multiply = match step.input_layout(1) {
        Layout::PanelI8 => lstm_i8::select_sums(isa),
        _ => lstm_i8::gate_sums_dense,
    };
    let kernels = lstm_i8::select_step(isa);
    let operands = context.operands_with_outputs::<INPUTS, 3>([0, 1, 2, 3, 4, 5, 6, 7, 8])?;
    let [x, w, r, bias, state, cell, tables @ ..] = operands.inputs;
    let (x, w, r): (&[i8], &[i8], &[i8]) = (typed(x, 0)?, typed(w, 1)?, typed(r, 2)?);
    let bias: &[i32] = typed(bias, 3)?;
    let (bias_of_x, bias_of_h) =
        bias.split_at_checked(GATES * hidden).ok_or(StepErrorKind::OperandShape(3))?;
    let (state, cell): (&[i8], &[i16]) = (typed(state, 4)?, typed(cell, 5)?);
    let mut functions = [Table { entries: &[], bits: 0 }; 3];
    for (at, table) in functions.iter_mut().enumerate() {
        *table = Table { entries: typed(tables[at], (TABLES + at) as u8)?, bits: bits[at] };
    }
    let [every, last_state, last_cell] = operands.outputs;
    let every: &mut [i8] = typed_mut(every, 9)?;
    let last_state: &mut [i8] = typed_mut(last_state, 10)?;
    let last_cell: &mut [i16] = typed_mut(last_cell, 11)?;
    let scratch =
        operands.scratch.get_mut(..sizes.scratch_bytes()).ok_or(StepErrorKind::TooLarge)?;
    let (sums, rest) = scratch.split_at_mut(hidden * GATES * size_of::<i32>());
    let (wide, h) = rest.split_at_mut(hidden * (GATES + 1) * size_of::<i16>());
    let sums: &mut [i32] = typed_mut(sums, 12)?;
    let wide: &mut [i16] = typed_mut(wide, 12)?;
    let (gates, c) = wide.split_at_mut(hidden * GATES);
    let h: &mut [i8] = typed_mut(h, 12)?;

    for row in 0..batch {
        let own = row * hidden..(row + 1) * hidden;
        h.copy_from_slice(&state[own.clone()]);
        c.copy_from_slice(&cell[own.clone()]);
        for t in 0..time {
            let place = if batch_first { row * time + t } else { t * batch + row };
            let x = &x[place * inputs..][..inputs];
            multiply(&mut GateSums { x, weights: w, bias: bias_of_x, sums });
            (kernels.add_sums)(sums, &attributes.input_scale, gates, false);
            multiply(&mut GateSums { x: h, weights: r, bias: bias_of_h, sums });
            (kernels.add_sums)(sums, &attributes.state_scale, gates, true);
            (kernels.update)(&mut CellI8 {
                tables: functions,
                cell_shift: attributes.cell_shift,
                cell_bound: match attributes.cell_clip {
                    0 => i32::from(i16::MAX) + 1,
                    bound => bound,
                },
                output_scale: attributes.output_scale,
                zero_point,
                gates,
                cell: c,
                state: h,
            });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{ConvGeometry, conv_i8};
    use crate::ops::testing::{Case, Random, Tensor, shape, tensor};

    /// `v / 2ⁿ` in reals: `f64::round` takes halves away from zero.
    fn rounded(v: i64, n: u32) -> i64 {
        (v as f64 / f64::from(1u32 << n)).round() as i64
    }

    fn to_i16(v: f32) -> i64 {
        if v.is_nan() { -32768 } else { v.round_ties_even().clamp(-32768.0, 32767.0) as i64 }
    }

    /// A layer of random numbers.
    struct Layer {
        time: usize,
        batch: usize,
        inputs: usize,
        hidden: usize,
        attributes: QuantizedLstmAttributes,
        x: Vec<i8>,
        w: Vec<i8>,
        r: Vec<i8>,
        bias: Vec<i32>,
        h: Vec<i8>,
        c: Vec<i16>,
        tables: [Vec<i16>; 3],
        zero_point: i32,
    }

    impl Layer {
        fn random(random: &mut Random) -> Layer {
            let mut size = |most: u32| 1 + random.below(most) as usize;
            let (time, batch, inputs, hidden) = (size(5), size(3), size(40), size(30));
            let mut i16s =
                |len: usize| -> Vec<i16> { (0..len).map(|_| random.next() as i16).collect() };
            let c = i16s(batch * hidden);
            let tables = [i16s(513), i16s(3), i16s(33)];
            let steps = |random: &mut Random| [0; 4].map(|_| 0.01 + random.f32().abs());
            Layer {
                attributes: QuantizedLstmAttributes {
                    batch_first: random.below(2),
                    input_scale: steps(random),
                    state_scale: steps(random),
                    output_scale: 1e-7 * random.f32(),
                    cell_shift: 1 + random.below(30),
                    cell_clip: [0, 1, 20000][random.below(3) as usize],
                    reserved: [0; 4],
                },
                x: random.i8s(time * batch * inputs),
                w: random.i8s(4 * hidden * inputs),
                r: random.i8s(4 * hidden * hidden),
                bias: (0..8 * hidden).map(|_| random.next() as i32 >> 14).collect(),
                h: random.i8s(batch * hidden),
                zero_point: i32::from(random.next() as i8),
                time,
                batch,
                inputs,
                hidden,
                c,
                tables,
            }
        }

        fn case(&self, in_panels: bool) -> Case {
            let weights = |values: &[i8], columns: usize| -> Tensor {
                let rows = 4 * self.hidden;
                let dims = [rows as u32, columns as u32];
                if !in_panels {
                    return tensor(&dims, values);
                }
                let geometry = ConvGeometry::matmul(1, columns, rows);
                let mut panels = vec![0; geometry.packed_i8_len()];
                conv_i8::pack_weights(&geometry, values, &mut panels);
                Tensor { dims: dims.to_vec(), ..tensor(&[panels.len() as u32], &panels) }
                    .packed(Layout::PanelI8)
            };
            let [time, batch, inputs, hidden] =
                [self.time, self.batch, self.inputs, self.hidden].map(|size| size as u32);
            let first = |last: u32| match self.attributes.batch_first {
                1 => vec![batch, time, last],
                _ => vec![time, batch, last],
            };
            let table = |table: &Vec<i16>| tensor(&[table.len() as u32], table);
            let inputs = [
                tensor(&first(inputs), &self.x),
                weights(&self.w, self.inputs),
                weights(&self.r, self.hidden),
                tensor(&[2, 4 * hidden], &self.bias),
                tensor(&[batch, hidden], &self.h),
                tensor(&[batch, hidden], &self.c),
                table(&self.tables[0]),
                table(&self.tables[1]),
                table(&self.tables[2]),
            ];
            let y = shape(DType::I8, &first(hidden)).quantized(1.0, self.zero_point);
            let (op, variant) = (Op::QuantizedLstm, Some(DType::I8));
            Case::new(op, variant, self.attributes, &inputs, y).with_outputs(&[
                Some(shape(DType::I8, &[batch, hidden]).quantized(1.0, self.zero_point)),
                Some(shape(DType::I16, &[batch, hidden])),
            ])
        }

        /// FORMAT.md, number by number: every state, the last ones, the last cells.
        fn oracle(&self) -> (Vec<i8>, Vec<i8>, Vec<i16>) {
            let a = &self.attributes;
            let lut = |table: usize, v: i64| {
                let table = &self.tables[table];
                let width = 65536 / (table.len() as i64 - 1);
                let (at, rest) = ((v + 32768) / width, (v + 32768) % width);
                let [low, high] = [0, 1].map(|next| i64::from(table[at as usize + next]));
                low + ((high - low) * rest + width / 2).div_euclid(width)
            };
            let n = self.hidden;
            let (mut h, mut c) = (self.h.clone(), self.c.clone());
            let mut every = vec![0; self.time * self.batch * n];
            for t in 0..self.time {
                for b in 0..self.batch {
                    let place =
                        if a.batch_first == 1 { b * self.time + t } else { t * self.batch + b };
                    let x = &self.x[place * self.inputs..][..self.inputs];
                    let before = h[b * n..][..n].to_vec();
                    for j in 0..n {
                        let gate = |gate: usize| {
                            let row = gate * n + j;
                            let dot = |values: &[i8], weights: &[i8]| -> i64 {
                                let weights = &weights[row * values.len()..];
                                let products = values.iter().zip(weights);
                                products.map(|(v, w)| i64::from(*v) * i64::from(*w)).sum()
                            };
                            let of_x = i64::from(self.bias[row]) + dot(x, &self.w);
                            let of_h = i64::from(self.bias[4 * n + row]) + dot(&before, &self.r);
                            let sum = to_i16(of_x as f32 * a.input_scale[gate])
                                + to_i16(of_h as f32 * a.state_scale[gate]);
                            lut(usize::from(gate == 2), sum.clamp(-32768, 32767))
                        };
                        let next = rounded(gate(1) * i64::from(c[b * n + j]), 15)
                            + rounded(gate(0) * gate(2), a.cell_shift);
                        let bound = if a.cell_clip == 0 { 32768 } else { i64::from(a.cell_clip) };
                        let next = next.clamp(-32768, 32767).clamp(-bound, bound);
                        c[b * n + j] = next as i16;
                        let real = (gate(3) * lut(2, next)) as f32 * a.output_scale;
                        let zero = i64::from(self.zero_point);
                        h[b * n + j] = (to_i16(real) + zero).clamp(-128, 127) as i8;
                    }
                    every[place * n..][..n].copy_from_slice(&h[b * n..][..n]);
                }
            }
            (every, h, c)
        }
    }

    #[test]
    fn follows_the_formula_in_both_layouts() {
        let mut random = Random(12);
        for round in 0..40 {
            let layer = Layer::random(&mut random);
            let (every, h, c) = layer.oracle();
            let bytes = |values: &[i8]| values.iter().map(|v| *v as u8).collect::<Vec<_>>();
            let cells = c.iter().flat_map(|cell| cell.to_le_bytes()).collect();
            let want = [bytes(&every), bytes(&h), cells];
            for in_panels in [false, true] {
                for isa in Isa::available() {
                    let got = layer.case(in_panels).run_outputs(Some(isa)).expect("accepted");
                    assert_eq!(got, want, "round {round}, panels: {in_panels}, on {isa}");
                }
            }
        }
    }

    #[test]
    fn weights_that_differ_or_are_short_are_refused() {
        let layer = Layer::random(&mut Random(3));
        let mut mixed = layer.case(true);
        mixed.inputs[2] = layer.case(false).inputs[2].clone();
        let mut short = layer.case(true);
        short.inputs[2].as_mut().expect("there").bytes.pop();
        for (case, kind) in
            [(mixed, StepErrorKind::OperandLayout(2)), (short, StepErrorKind::OperandShape(2))]
        {
            let error = case.run_outputs(None).expect_err("refused");
            assert!(format!("{error:?}").contains(&format!("{kind:?}")), "{error:?}");
        }
    }
}
