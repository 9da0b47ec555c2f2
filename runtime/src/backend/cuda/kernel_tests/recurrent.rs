//! Cases of recurrent layers.

use super::{Named, random_f32, random_i8};
use crate::dtype::DType::{F32, I8, I16};
use crate::format::{Layout, Op, QuantizedLstmAttributes, RecurrentAttributes};
use crate::kernels::{PANEL_K, PANEL_N};
use crate::ops::testing::{Case, Random, Tensor, shape, tensor};

const TIME: u32 = 5;
const BATCH: u32 = 3;
const DIRECTIONS: u32 = 2;

/// Weights small enough that states don't saturate.
fn weights(seed: u32, dims: &[u32]) -> Tensor {
    let count = dims.iter().product::<u32>() as usize;
    let values: Vec<f32> = Random(seed).f32s(count).iter().map(|w| w * 0.1).collect();
    tensor(dims, &values).constant()
}

/// The operands that are there in every case, then those that may be.
fn layer(
    op: Op,
    hidden: u32,
    attributes: RecurrentAttributes,
    gates: u32,
    columns: u32,
    optional: [Option<Tensor>; 4],
) -> Case {
    let gates = random_f32(1, &[TIME, BATCH, DIRECTIONS * gates * hidden]);
    let inputs = [gates, weights(2, &[DIRECTIONS, hidden, columns * hidden])];
    let y = shape(F32, &[TIME, DIRECTIONS, BATCH, hidden]);
    let last = Some(shape(F32, &[DIRECTIONS, BATCH, hidden]));
    let mut case = Case::new(op, Some(F32), attributes, &inputs, y);
    case.inputs.extend(optional);
    case.inputs.truncate(if op == Op::Rnn { 4 } else { 6 });
    let more = [last.clone(), last];
    case.with_outputs(&more[..if op == Op::Lstm { 2 } else { 1 }])
}

pub(super) fn recurrent(cases: &mut Vec<Named>) {
    let lengths = || Some(tensor(&[BATCH], &[3i32, TIME as i32, 0]));
    // Sigmoid, tanh, tanh; then others with parameters.
    let usual = [1, 2, 2, 1, 2, 2];
    for (hidden, functions, variant, is_full) in [
        (7, usual, 0, false),
        (40, usual, 0, true),
        (7, usual, 1, true),
        (7, [3, 7, 10, 8, 4, 11], 0, false),
        (7, [9, 5, 6, 11, 10, 9], 1, true),
        (600, usual, 0, false),
    ] {
        let attributes = RecurrentAttributes {
            directions: DIRECTIONS,
            backwards: 0b10,
            variant,
            clip: if is_full { 1.2 } else { f32::INFINITY },
            functions,
            alpha: [0.2; 6],
            beta: [0.5; 6],
            cell_clip: if is_full { 0.9 } else { 0.0 },
            reserved: 0,
        };
        let optional = |tensor: Tensor| Some(tensor).filter(|_| is_full);
        let state = |seed| optional(random_f32(seed, &[DIRECTIONS, BATCH, hidden]));
        let ends = lengths().filter(|_| is_full);
        let peepholes = optional(random_f32(5, &[DIRECTIONS, 3 * hidden]));
        let own = [ends.clone(), state(3), state(4), peepholes];
        cases.push(("lstm_f32", layer(Op::Lstm, hidden, attributes, 4, 4, own)));
        let candidate = Some(weights(6, &[DIRECTIONS, hidden, hidden]));
        let bias = optional(random_f32(7, &[DIRECTIONS, hidden]));
        let own = [ends.clone(), state(3), candidate, bias];
        cases.push(("gru_f32", layer(Op::Gru, hidden, attributes, 3, 2, own)));
        let own = [ends, state(3), None, None];
        cases.push(("rnn_f32", layer(Op::Rnn, hidden, attributes, 1, 1, own)));
    }
    for (panels, batch_first) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
        cases.push(("quantized_lstm", quantized(panels, batch_first)));
    }
}

fn quantized(panels: bool, batch_first: u32) -> Case {
    let (inputs, hidden) = (21u32, 10u32);
    let own = |columns: u32, seed: u32| {
        let rows = 4 * hidden;
        if !panels {
            return random_i8(seed, &[rows, columns]);
        }
        let (rows, columns) = (rows as usize, columns as usize);
        let len = rows.next_multiple_of(PANEL_N) * columns.next_multiple_of(PANEL_K);
        tensor(&[len as u32], &Random(seed).i8s(len)).packed(Layout::PanelI8)
    };
    let table = |intervals: i32, seed: u32| {
        let mut random = Random(seed);
        let noise = |at| (at * (65_535 / intervals) - 32_768 + random.below(200) as i32) as i16;
        let values: Vec<i16> = (0..=intervals).map(noise).collect();
        tensor(&[intervals as u32 + 1], &values).constant()
    };
    let first = |last: u32| match batch_first {
        1 => vec![BATCH, TIME, last],
        _ => vec![TIME, BATCH, last],
    };
    let mut random = Random(9);
    let bias: Vec<i32> = (0..8 * hidden).map(|_| random.below(9999) as i32 - 5000).collect();
    let attributes = QuantizedLstmAttributes {
        batch_first,
        input_scale: [0.1, 0.2, 0.3, 0.4],
        state_scale: [0.3, 0.1, 0.2, 0.25],
        output_scale: 1.1e-7,
        cell_shift: 15,
        cell_clip: 30_000,
        reserved: [0; 4],
    };
    let cells: Vec<i16> = (0..BATCH * hidden).map(|_| random.next() as i16).collect();
    let operands = [
        random_i8(1, &first(inputs)),
        own(inputs, 2),
        own(hidden, 3),
        tensor(&[2, 4 * hidden], &bias).constant(),
        random_i8(4, &[BATCH, hidden]),
        tensor(&[BATCH, hidden], &cells),
        table(512, 5),
        table(2, 6),
        table(4096, 7),
    ];
    let state = |dims: &[u32]| shape(I8, dims).quantized(1.0, -5);
    let y = state(&first(hidden));
    Case::new(Op::QuantizedLstm, Some(I8), attributes, &operands, y)
        .with_outputs(&[Some(state(&[BATCH, hidden])), Some(shape(I16, &[BATCH, hidden]))])
}
