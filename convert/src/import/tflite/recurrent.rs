//! Layers with a memory: LSTM over a sequence, and SVDF. Their memory is a state of the graph.

use whit::DType;
use whit::format::RecurrentFunction as Function;

use super::node::{Activation, TfliteNode, fused};
use super::schema::{SequenceLstmOptions, SvdfOptions};
use crate::dim::Dim;
use crate::graph::{
    BinaryKind, Clamp, Op, Recurrent, RecurrentKind, ReduceKind, UnaryKind, ValueId,
};
use crate::import::builder::{Builder, Outcome};
use crate::import::compose::product;
use crate::import::failure::{Failure, invalid, unsupported};

pub(super) const OPERATORS: &[(&str, super::Importer)] =
    &[("UNIDIRECTIONAL_SEQUENCE_LSTM", sequence_lstm), ("SVDF", svdf)];

/// Operands of an LSTM by gate, in the order input, forget, cell, output.
pub(super) const INPUT_WEIGHTS: [usize; 4] = [1, 2, 3, 4];
pub(super) const RECURRENT_WEIGHTS: [usize; 4] = [5, 6, 7, 8];
pub(super) const BIASES: [usize; 4] = [12, 13, 14, 15];
/// Of the gates input, forget, output.
pub(super) const PEEPHOLES: [usize; 3] = [9, 10, 11];
const PROJECTION: [usize; 2] = [16, 17];
pub(super) const OUTPUT_STATE: usize = 18;
pub(super) const CELL_STATE: usize = 19;
const LAYER_NORM: [usize; 4] = [20, 21, 22, 23];

/// What a state becomes.
pub(super) fn becomes(b: &mut Builder, read: ValueId, next: ValueId) -> Result<(), Failure> {
    let mut states = b.graph.states.iter_mut();
    let state = states.find(|state| state.read == read);
    let state = state.ok_or_else(|| {
        unsupported(
            "a state that is no variable tensor",
            "convert the model with a newer converter",
        )
    })?;
    state.next = next;
    Ok(())
}

/// The function of a layer's activation.
fn function(activation: i8) -> Result<Function, Failure> {
    match fused(activation)? {
        Activation::Tanh => Ok(Function::Tanh),
        Activation::Clamp(Clamp::RELU) => Ok(Function::Relu),
        _ => Err(unsupported(
            format!("activation #{activation} of a recurrent layer"),
            "use tanh or relu",
        )),
    }
}

fn sequence_lstm(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let options: SequenceLstmOptions = node.options()?;
    for (what, operands) in
        [("a projection", &PROJECTION[..]), ("layer normalisation", &LAYER_NORM)]
    {
        if operands.iter().any(|index| node.input(*index).is_some()) {
            return Err(unsupported(what, "train the layer without it"));
        }
    }
    if !(options.cell_clip >= 0.0 && options.cell_clip.is_finite()) {
        return Err(invalid(format!("a clip of the cell to {}", options.cell_clip)));
    }
    let x = node.required(0, "input")?;
    if !b.dtype(x).is_float() {
        return super::quantized_lstm::import(b, node, &options);
    }
    let function = function(options.activation)?;
    let x = node.real(b, 0, "input")?;
    if b.rank(x) != 3 {
        return Err(invalid(format!("the input has {} axes, not 3", b.rank(x))));
    }
    let x = match options.time_major {
        true => x,
        false => b.transpose(node, "x", x, &[1, 0, 2])?,
    };
    let of_x = b.shape(x);
    let w = node.required(4, "weights of the output gate")?;
    let hidden = match b.graph.value(w).const_shape().as_deref() {
        Some([hidden, _]) if (1..=1 << 24).contains(hidden) => *hidden,
        _ => return Err(invalid("the weights are no matrix of a fixed size")),
    };
    let size = b.shape(w)[1].clone();

    // Without an input gate of its own, it is one minus the forget gate: σ(−z).
    let coupled = node.input(INPUT_WEIGHTS[0]).is_none();
    let order = [0usize, 3, 1, 2]; // input, output, forget, cell: the order of the graph's operator
    let part = |b: &mut Builder, operands: [usize; 4], what: &str, shape: &[Dim]| {
        let mut parts = Vec::with_capacity(4);
        for gate in order {
            let from = if gate == 0 && coupled { 1 } else { gate };
            let mut id = node.real(b, operands[from], what)?;
            if b.shape(id) != shape {
                return Err(invalid(format!("{what} of shape {}", b.text(&b.shape(id)))));
            }
            if gate == 0 && coupled {
                id = b.unary(node, &format!("{what}/negated"), UnaryKind::Neg, id)?;
            }
            parts.push(Some(id));
        }
        let mut joined = shape.to_vec();
        joined[0] = Dim::from(4 * hidden);
        b.emit(node, what, Op::Concat { axis: 0 }, &parts, DType::F32, joined)
    };
    let (h, wide) = (Dim::from(hidden), Dim::from(4 * hidden));
    let weights = part(b, INPUT_WEIGHTS, "input weights", &[h.clone(), size])?;
    let recurrent = part(b, RECURRENT_WEIGHTS, "recurrent weights", &[h.clone(), h.clone()])?;
    let bias = part(b, BIASES, "biases", std::slice::from_ref(&h))?;

    let weights = b.transpose(node, "input weights by column", weights, &[1, 0])?;
    let shape = vec![of_x[0].clone(), of_x[1].clone(), wide.clone()];
    let op = product(false, false);
    let gates = [Some(x), Some(weights), Some(bias)];
    let gates = b.emit(node, "gates", op, &gates, DType::F32, shape)?;
    let recurrent = b.transpose(node, "recurrent weights by column", recurrent, &[1, 0])?;
    let shape = vec![Dim::from(1i64), h.clone(), wide];
    let recurrent = b.reshape(node, "recurrent weights of one direction", recurrent, shape)?;

    let one = Dim::from(1i64);
    let state_shape = vec![one.clone(), of_x[1].clone(), h.clone()];
    let mut initial = [None; 2];
    let mut reads = [ValueId(0); 2];
    for (at, index) in [OUTPUT_STATE, CELL_STATE].into_iter().enumerate() {
        reads[at] = node.required(index, "state")?;
        let real = node.real(b, index, "state")?;
        let name = format!("state {at}");
        initial[at] = Some(b.reshape(node, &name, real, state_shape.clone())?);
    }
    let mut inputs = vec![Some(gates), Some(recurrent), None, initial[0], initial[1]];
    if let Some(peepholes) = peepholes(b, node, coupled, &h)? {
        inputs.push(Some(peepholes));
    }
    let op = Op::Recurrent(Recurrent {
        kind: RecurrentKind::Lstm,
        backwards: vec![false],
        variant: false,
        clip: f32::INFINITY,
        cell_clip: if options.cell_clip == 0.0 { f32::INFINITY } else { options.cell_clip },
        functions: vec![
            Some((Function::Sigmoid, 0.0, 0.0)),
            Some((function, 0.0, 0.0)),
            Some((function, 0.0, 0.0)),
        ],
    });
    let every = vec![of_x[0].clone(), one, of_x[1].clone(), h.clone()];
    let results =
        [(DType::F32, every), (DType::F32, state_shape.clone()), (DType::F32, state_shape)];
    let made = b.emit_several(node, "", op, &inputs, &results)?;
    for (at, read) in reads.into_iter().enumerate() {
        let shape = b.shape(read);
        let next = b.reshape(node, &format!("next state {at}"), made[1 + at], shape)?;
        becomes(b, read, next)?;
    }
    let every = vec![of_x[0].clone(), of_x[1].clone(), h];
    let mut y = b.reshape(node, "every state", made[0], every)?;
    if !options.time_major {
        y = b.transpose(node, "y", y, &[1, 0, 2])?;
    }
    Ok(vec![node.declared(b, y, 0)?])
}

/// Weights from the cell to the gates input, output, forget; a gate without them has zeros.
fn peepholes(
    b: &mut Builder,
    node: &TfliteNode<'_>,
    coupled: bool,
    hidden: &Dim,
) -> Result<Option<ValueId>, Failure> {
    if PEEPHOLES.iter().all(|index| node.input(*index).is_none()) {
        return Ok(None);
    }
    let [input, forget, output] = PEEPHOLES;
    let mut parts = Vec::with_capacity(3);
    for (gate, index) in [(0, if coupled { forget } else { input }), (1, output), (2, forget)] {
        let mut id = node.real(b, index, "cell weights")?;
        if b.shape(id) != [hidden.clone()] {
            return Err(invalid("cell weights that are not one per cell"));
        }
        if gate == 0 && coupled {
            id = b.unary(node, "cell weights/negated", UnaryKind::Neg, id)?;
        }
        parts.push(Some(id));
    }
    let wide = hidden.mul(&Dim::from(3i64));
    let op = Op::Concat { axis: 0 };
    let joined = b.emit(node, "cell weights", op, &parts, DType::F32, vec![wide.clone()])?;
    let shape = vec![Dim::from(1i64), wide];
    b.reshape(node, "cell weights of one direction", joined, shape).map(Some)
}

/// A product over features whose results of the last runs a second product weighs: one number per filter
/// and run is kept. Filters are summed in groups of `rank`.
fn svdf(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let options: SvdfOptions = node.options()?;
    let (feature, time) =
        (node.required(1, "weights of features")?, node.required(2, "weights of time")?);
    let sizes = [feature, time].map(|id| b.graph.value(id).const_shape());
    let rank = usize::try_from(options.rank).ok().filter(|rank| *rank > 0);
    let (Some([filters, features]), Some([filters_of_time, memory]), Some(rank)) =
        (sizes[0].as_deref(), sizes[1].as_deref(), rank)
    else {
        return Err(invalid(
            "its weights are no matrices of fixed sizes, or its rank is not positive",
        ));
    };
    let (filters, features, memory) = (*filters, *features, *memory);
    let state = node.required(4, "state")?;
    let of_state = b.shape(state);
    let batch = b.shape(node.required(0, "input")?).first().cloned();
    let batch = batch.ok_or_else(|| invalid("the input is one number"))?;
    let kept = Dim::from(filters.saturating_mul(memory));
    if filters != *filters_of_time || filters % rank != 0 || memory == 0 {
        return Err(invalid(format!("{filters} filters of rank {rank} over {memory} runs")));
    }
    if of_state != [batch.clone(), kept] {
        return Err(invalid(format!("a state of shape {}", b.text(&of_state))));
    }
    let x = node.real(b, 0, "input")?;
    let flat = vec![batch.clone(), Dim::from(features)];
    let x = b.reshape(node, "input", x, flat)?;
    let [f, m, one] = [Dim::from(filters), Dim::from(memory), Dim::from(1i64)];

    let w = node.real(b, 1, "weights of features")?;
    let w = b.transpose(node, "weights of features", w, &[1, 0])?;
    let shape = vec![batch.clone(), f.clone()];
    let op = product(false, false);
    let mut newest = b.emit(node, "features", op, &[Some(x), Some(w)], DType::F32, shape)?;
    // What is kept has the state's type.
    let quant = b.graph.value(state).quant.clone();
    if let Some(quant) = quant.clone() {
        let (dtype, shape) = (b.dtype(state), b.shape(newest));
        newest = node.quantized(b, "features/quantize", newest, dtype, quant, shape)?;
    }
    let kept = b.reshape(node, "kept", state, vec![batch.clone(), f.clone(), m.clone()])?;
    let newest = b.reshape(node, "newest", newest, vec![batch.clone(), f.clone(), one.clone()])?;
    let window = match memory {
        1 => newest,
        _ => {
            let rest = Dim::from(memory - 1);
            let younger = b.slice(node, "younger", kept, 2, &one, &rest)?;
            let (dtype, shape) = (b.dtype(state), b.shape(kept));
            let parts = [Some(younger), Some(newest)];
            b.emit(node, "window", Op::Concat { axis: 2 }, &parts, dtype, shape)?
        }
    };
    let next = b.reshape(node, "next state", window, of_state)?;
    becomes(b, state, next)?;

    let window = node.dequantized(b, "window", window)?;
    let weights = node.real(b, 2, "weights of time")?;
    let weighed = b.binary(node, "weighed", BinaryKind::Mul, window, weights)?;
    let units = filters / rank;
    // The filters of a unit lie one behind the other, so their runs are summed together.
    let shape = vec![batch, Dim::from(units), Dim::from(rank * memory)];
    let weighed = b.reshape(node, "by unit", weighed, shape)?;
    let mut y = b.reduce(node, "sum", ReduceKind::Sum, weighed, &[2], false)?;
    if node.input(3).is_some() {
        let bias = super::conv::bias(b, node, 3, units)?;
        let bias = bias.ok_or_else(|| invalid("the bias is missing"))?;
        y = b.binary(node, "biased", BinaryKind::Add, y, bias)?;
    }
    let y = node.activated(b, y, options.activation)?;
    Ok(vec![node.declared(b, y, 0)?])
}
