//! The LSTM of integers: activations and weights of 8 bits, a cell of 16.

use std::sync::Arc;

use whit::DType;

use super::node::{Activation, TfliteNode, fused};
use super::recurrent::{
    BIASES, CELL_STATE, INPUT_WEIGHTS, OUTPUT_STATE, PEEPHOLES, RECURRENT_WEIGHTS, becomes,
};
use super::schema::SequenceLstmOptions;
use super::tensor;
use crate::dim::Dim;
use crate::graph::{Op, Quant, QuantizedLstm, UnaryKind, ValueId};
use crate::import::builder::{Builder, Outcome};
use crate::import::failure::{Failure, invalid, unsupported};
use crate::quantize::lut;
use crate::tensor::Tensor;

/// Steps of the gates before their functions: 3 bits before the point, 12 behind.
const GATE_STEP: f64 = 1.0 / 4096.0;
/// Steps of the gates behind their functions.
const FUNCTION_STEP: f64 = 1.0 / 32768.0;
/// Weights of a gate at most, which keeps their sums in 32 bits.
const MAX_COLUMNS: usize = 1 << 16;

/// What one gate is made of.
struct Gate {
    weights: Arc<Tensor>,
    scale: f64,
}

pub(super) fn import(
    b: &mut Builder,
    node: &TfliteNode<'_>,
    options: &SequenceLstmOptions,
) -> Outcome {
    let remedy = "keep the layer float, or with int8 weights only (dynamic range quantization)";
    let x = node.required(0, "input")?;
    let coupled = node.input(INPUT_WEIGHTS[0]).is_none();
    if coupled || PEEPHOLES.iter().any(|index| node.input(*index).is_some()) {
        return Err(unsupported("an LSTM of integers with coupled gates or peepholes", remedy));
    }
    if fused(options.activation)? != Activation::Tanh {
        return Err(unsupported("an LSTM of integers without tanh", remedy));
    }
    let (state, cell) = (node.required(OUTPUT_STATE, "state")?, node.required(CELL_STATE, "cell")?);
    let types = [b.dtype(x), b.dtype(state), b.dtype(cell)];
    if types != [DType::I8, DType::I8, DType::I16] {
        let [x, state, cell] = types;
        return Err(unsupported(format!("an LSTM of {x} with {state} and {cell} states"), remedy));
    }
    let (of_x, of_state, of_cell) =
        (per_tensor(b, x)?, per_tensor(b, state)?, per_tensor(b, cell)?);
    let cell_bits = -f64::from(of_cell.scale[0]).log2();
    if cell_bits.fract() != 0.0 || !(1.0..=15.0).contains(&cell_bits) {
        let scale = of_cell.scale[0];
        return Err(unsupported(format!("a cell in steps of {scale}, no power of two"), remedy));
    }
    // The state's own scale may differ from that of what is computed, which is not stored.
    let inner = node.operator.intermediates.get(4).and_then(|at| usize::try_from(*at).ok());
    let inner = match inner.and_then(|at| node.tensors.get(at)) {
        Some(tensor) => tensor::quant(tensor)?,
        None => None,
    };
    let stated = tensor::quant(node.output_tensor(0)?)?;
    if inner.is_some_and(|inner| inner != of_state) || stated.as_ref() != Some(&of_state) {
        return Err(unsupported("a state whose scale is not the result's", remedy));
    }

    let shape = b.shape(x);
    let [_, _, features] = shape.as_slice() else {
        return Err(invalid(format!("the input has {} axes, not 3", shape.len())));
    };
    let features = features.as_const().and_then(|f| usize::try_from(f).ok());
    let hidden =
        b.shape(state).last().and_then(Dim::as_const).and_then(|h| usize::try_from(h).ok());
    let (Some(features), Some(hidden)) = (features, hidden.filter(|h| *h > 0)) else {
        return Err(invalid("an input or a state without a fixed size"));
    };
    let places = if options.time_major { [0, 1] } else { [1, 0] };
    let [time, batch] = places.map(|axis| shape[axis].clone());
    let state_shape = vec![batch.clone(), Dim::from(hidden)];
    if b.shape(state) != state_shape || b.shape(cell) != state_shape {
        return Err(invalid("states of another shape than the input asks for"));
    }

    let input = gates(b, node, INPUT_WEIGHTS, [hidden, features])?;
    let recurrent = gates(b, node, RECURRENT_WEIGHTS, [hidden, hidden])?;
    let mut biases: Vec<i32> = Vec::with_capacity(8 * hidden);
    for (gate, index) in input.iter().zip(BIASES) {
        let bias = node.required(index, "bias")?;
        let bias = b.tensor(bias).ok_or_else(|| unsupported("a computed bias", remedy))?;
        if bias.dtype != DType::I32 || bias.shape != [hidden] {
            return Err(invalid(format!("a bias of {} and shape {:?}", bias.dtype, bias.shape)));
        }
        let own = bias.to_i64().into_iter().zip(zero_points(gate, features, of_x.zero_point[0]));
        biases.extend(own.map(|(bias, zero)| (bias as i32).wrapping_sub(zero)));
    }
    for gate in &recurrent {
        let zeros = zero_points(gate, hidden, of_state.zero_point[0]);
        biases.extend(zeros.into_iter().map(i32::wrapping_neg));
    }

    let scales = |gates: &[Gate; 4], of: &Quant| {
        std::array::from_fn(|at| (gates[at].scale * f64::from(of.scale[0]) / GATE_STEP) as f32)
    };
    let clip = f64::from(options.cell_clip) / f64::from(of_cell.scale[0]);
    let op = Op::QuantizedLstm(QuantizedLstm {
        batch_first: !options.time_major,
        input_scale: scales(&input, &of_x),
        state_scale: scales(&recurrent, &of_state),
        output_scale: (FUNCTION_STEP * FUNCTION_STEP / f64::from(of_state.scale[0])) as f32,
        cell_shift: 30 - cell_bits as u32,
        // A bound beyond 16 bits bounds nothing.
        cell_clip: if clip > 0.0 { clip.min(32767.0) as i32 } else { 0 },
    });
    let table = |b: &mut Builder, from: f64, kind: UnaryKind| -> Result<ValueId, Failure> {
        let (x, y) =
            (Quant::per_tensor(from as f32, 0), Quant::per_tensor(FUNCTION_STEP as f32, 0));
        let table = lut::table_i16(&x, &y, kind)
            .ok_or_else(|| unsupported(format!("a cell in steps of {from}"), remedy))?;
        let data: Vec<u8> = table.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        let tensor = Tensor { dtype: DType::I16, shape: vec![table.len()], data: data.into() };
        Ok(b.constant(format!("{}/table", node.name), tensor))
    };
    let sigmoid = table(b, GATE_STEP, UnaryKind::Sigmoid)?;
    let tanh = table(b, GATE_STEP, UnaryKind::Tanh)?;
    let tanh_of_cell = table(b, f64::from(of_cell.scale[0]), UnaryKind::Tanh)?;
    let joined = |b: &mut Builder, gates: &[Gate; 4], columns: usize, what: &str| {
        let data: Vec<u8> = gates.iter().flat_map(|g| g.weights.data.iter().copied()).collect();
        let tensor =
            Tensor { dtype: DType::I8, shape: vec![4 * hidden, columns], data: data.into() };
        b.constant(format!("{}/{what}", node.name), tensor)
    };
    b.charge(4 * hidden.saturating_mul(hidden + features + 8))?;
    let weights = joined(b, &input, features, "input weights");
    let state_weights = joined(b, &recurrent, hidden, "recurrent weights");
    let bias =
        b.constant(format!("{}/biases", node.name), Tensor::from_i32([2, 4 * hidden], &biases));
    let inputs = [x, weights, state_weights, bias, state, cell, sigmoid, tanh, tanh_of_cell];
    let every = match options.time_major {
        true => vec![time, batch, Dim::from(hidden)],
        false => vec![batch, time, Dim::from(hidden)],
    };
    let results = [(DType::I8, every), (DType::I8, state_shape.clone()), (DType::I16, state_shape)];
    let made = b.emit_several(node, "", op, &inputs.map(Some), &results)?;
    for (id, quant) in made.iter().zip([&of_state, &of_state, &of_cell]) {
        b.graph.value_mut(*id).quant = Some(quant.clone());
    }
    becomes(b, state, made[1])?;
    becomes(b, cell, made[2])?;
    Ok(vec![made[0]])
}

fn per_tensor(b: &Builder, id: ValueId) -> Result<Quant, Failure> {
    let quant = b.graph.value(id).quant.clone().filter(|quant| quant.axis.is_none());
    quant.ok_or_else(|| invalid("an LSTM of integers without one scale per tensor"))
}

/// The weights of every gate.
fn gates(
    b: &mut Builder,
    node: &TfliteNode<'_>,
    operands: [usize; 4],
    shape: [usize; 2],
) -> Result<[Gate; 4], Failure> {
    let mut gates = Vec::with_capacity(4);
    for index in operands {
        let id = node.required(index, "weights")?;
        let quant = per_tensor(b, id)?;
        let weights = b.tensor(id).ok_or_else(|| unsupported("computed weights", ""))?;
        if weights.dtype != DType::I8 || weights.shape != shape || shape[1] > MAX_COLUMNS {
            let (dtype, own) = (weights.dtype, &weights.shape);
            return Err(invalid(format!("weights of {dtype} and shape {own:?}")));
        }
        if quant.zero_point[0] != 0 {
            return Err(unsupported("asymmetric weights", "convert the model with symmetric ones"));
        }
        gates.push(Gate { weights, scale: f64::from(quant.scale[0]) });
    }
    gates.try_into().map_err(|_| invalid("an LSTM has four gates"))
}

/// What the zero point of the operand adds to the products of each row.
fn zero_points(gate: &Gate, columns: usize, zero_point: i32) -> Vec<i32> {
    let rows = gate.weights.data.chunks_exact(columns.max(1));
    rows.map(|row| {
        row.iter()
            .map(|w| i32::from(*w as i8))
            .fold(0i32, i32::wrapping_add)
            .wrapping_mul(zero_point)
    })
    .collect()
}
