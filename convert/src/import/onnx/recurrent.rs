//! LSTM, GRU and RNN: one product of the whole sequence with the input weights, then the operator
//! that goes through time.

use whit::DType;
use whit::format::RecurrentFunction as Function;

use super::builder::{Builder, Outcome};
use super::compose::product;
use super::dims;
use super::failure::{Failure, invalid, unsupported};
use super::node::OnnxNode;
use crate::dim::Dim;
use crate::graph::{BinaryKind, Op, Recurrent, RecurrentKind, ValueId};
use crate::tensor::Tensor;

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("LSTM", |b, n| layer(b, n, RecurrentKind::Lstm)),
    ("GRU", |b, n| layer(b, n, RecurrentKind::Gru)),
    ("RNN", |b, n| layer(b, n, RecurrentKind::Rnn)),
];

/// Functions by their names in the specification, with the defaults of alpha and beta; `None`
/// where there is no such parameter, NaN where it has no default.
const FUNCTIONS: [(&str, Function, Option<f32>, Option<f32>); 11] = [
    ("Sigmoid", Function::Sigmoid, None, None),
    ("Tanh", Function::Tanh, None, None),
    ("Relu", Function::Relu, None, None),
    ("Affine", Function::Affine, Some(1.0), Some(0.0)),
    ("LeakyRelu", Function::LeakyRelu, Some(0.01), None),
    ("ThresholdedRelu", Function::ThresholdedRelu, Some(1.0), None),
    ("ScaledTanh", Function::ScaledTanh, Some(f32::NAN), Some(f32::NAN)),
    ("HardSigmoid", Function::HardSigmoid, Some(0.2), Some(0.5)),
    ("Elu", Function::Elu, Some(1.0), None),
    ("Softsign", Function::Softsign, None, None),
    ("Softplus", Function::Softplus, None, None),
];

/// A function with its alpha and beta; `None` where a layer has fewer than three.
type Parametrised = Option<(Function, f32, f32)>;

/// Sizes of a layer; time and batch may be symbolic.
struct Sizes {
    time: Dim,
    batch: Dim,
    directions: usize,
    hidden: usize,
}

fn layer(b: &mut Builder, node: &OnnxNode<'_>, kind: RecurrentKind) -> Outcome {
    node.at_most(if kind == RecurrentKind::Lstm { 8 } else { 6 })?;
    let attributes = &node.attributes;
    let backwards = match attributes.string("direction", "forward")? {
        "forward" => vec![false],
        "reverse" => vec![true],
        "bidirectional" => vec![false, true],
        other => return Err(invalid(format!("direction `{other}`"))),
    };
    let directions = backwards.len();
    let functions = functions(node, kind, directions)?;
    let clip = match attributes.has("clip") {
        true => attributes.float("clip", 0.0)?,
        false => f32::INFINITY,
    };
    if clip.is_nan() || clip < 0.0 {
        return Err(invalid(format!("clip {clip}")));
    }
    let variant = match kind {
        RecurrentKind::Lstm => attributes.flag("input_forget", false)?,
        RecurrentKind::Gru => attributes.flag("linear_before_reset", false)?,
        RecurrentKind::Rnn => false,
    };
    let batch_first = attributes.flag("layout", false)?;

    let x = node.required(0, "X")?;
    let dtype = b.dtype(x);
    if !dtype.is_float() {
        return Err(invalid(format!("X is {dtype}")));
    }
    let mut x = b.real(node, "x", x)?;
    if b.rank(x) != 3 {
        return Err(invalid(format!("X has {} axes, not 3", b.rank(x))));
    }
    if batch_first {
        x = b.transpose(node, "x", x, &[1, 0, 2])?;
    }
    let weights = b.real(node, "w", node.required(1, "W")?)?;
    let recurrent = b.real(node, "r", node.required(2, "R")?)?;
    let of_x = b.shape(x);
    let hidden = match b.shape(recurrent).as_slice() {
        [_, _, hidden] => hidden.as_const().and_then(|h| usize::try_from(h).ok()),
        _ => None,
    };
    let hidden = hidden.filter(|hidden| (1..=1 << 24).contains(hidden));
    let Some(hidden) = hidden else {
        return Err(invalid("the size of the hidden state is not a positive constant"));
    };
    if let Some(size) = attributes.optional_int("hidden_size")?
        && usize::try_from(size) != Ok(hidden)
    {
        return Err(invalid(format!("hidden_size is {size}, but R says {hidden}")));
    }
    let gates = kind.gates();
    let sizes = Sizes { time: of_x[0].clone(), batch: of_x[1].clone(), directions, hidden };
    let fixed = |sizes: &[usize]| sizes.iter().map(|size| Dim::from(*size)).collect::<Vec<Dim>>();
    let rows = fixed(&[directions, gates * hidden]);
    expect(b, weights, "W", &[rows[0].clone(), rows[1].clone(), of_x[2].clone()])?;
    expect(b, recurrent, "R", &fixed(&[directions, gates * hidden, hidden]))?;

    let bias = match node.input(3) {
        Some(bias) => {
            let bias = b.real(node, "b", bias)?;
            expect(b, bias, "B", &fixed(&[directions, 2 * gates * hidden]))?;
            Some(bias)
        }
        None => None,
    };
    // With the reset behind the product, its bias is inside what the reset scales.
    let inner_bias = kind == RecurrentKind::Gru && variant;
    let gates_of_x = input_gates(b, node, x, weights, bias, gates, inner_bias, &sizes)?;

    let lengths = lengths(b, node, &sizes)?;
    let mut inputs = vec![Some(gates_of_x), None, lengths, None, None, None];
    let state = [Dim::from(directions), sizes.batch.clone(), Dim::from(hidden)];
    inputs[3] = initial(b, node, 5, "initial_h", &state, batch_first)?;
    match kind {
        RecurrentKind::Lstm => {
            inputs[1] = Some(b.transpose(node, "recurrent weights", recurrent, &[0, 2, 1])?);
            inputs[4] = initial(b, node, 6, "initial_c", &state, batch_first)?;
            if let Some(peepholes) = node.input(7) {
                let peepholes = b.real(node, "p", peepholes)?;
                expect(b, peepholes, "P", &fixed(&[directions, 3 * hidden]))?;
                inputs[5] = Some(peepholes);
            }
        }
        RecurrentKind::Gru => {
            let gates = sliced(b, node, "update weights", recurrent, 0, 2 * hidden)?;
            inputs[1] = Some(b.transpose(node, "recurrent weights", gates, &[0, 2, 1])?);
            let candidate = sliced(b, node, "candidate weights", recurrent, 2 * hidden, hidden)?;
            inputs[4] = Some(b.transpose(node, "candidate", candidate, &[0, 2, 1])?);
            if let (true, Some(bias)) = (inner_bias, bias) {
                inputs[5] = Some(sliced(b, node, "candidate bias", bias, 5 * hidden, hidden)?);
            }
        }
        RecurrentKind::Rnn => {
            inputs[1] = Some(b.transpose(node, "recurrent weights", recurrent, &[0, 2, 1])?);
        }
    }
    while inputs.last() == Some(&None) {
        inputs.pop();
    }

    let op = Op::Recurrent(Recurrent {
        kind,
        backwards,
        variant,
        clip,
        cell_clip: f32::INFINITY,
        functions,
    });
    let [directions, batch, hidden] = state.clone();
    let every = vec![sizes.time.clone(), directions, batch, hidden];
    let mut outputs = vec![(DType::F32, every), (DType::F32, state.to_vec())];
    if kind == RecurrentKind::Lstm {
        outputs.push((DType::F32, state.to_vec()));
    }
    let made = b.emit_several(node, "", op, &inputs, &outputs)?;
    let mut results = Vec::with_capacity(made.len());
    for (index, id) in made.into_iter().enumerate() {
        if !node.wants(index) {
            results.push(id);
            continue;
        }
        let perm: &[usize] = if index == 0 { &[2, 0, 1, 3] } else { &[1, 0, 2] };
        let id = match batch_first {
            true => b.transpose(node, &format!("output {index}"), id, perm)?,
            false => id,
        };
        results.push(b.cast(node, &format!("result {index}"), id, dtype)?);
    }
    Ok(results)
}

/// Three functions per direction, with their parameters.
fn functions(
    node: &OnnxNode<'_>,
    kind: RecurrentKind,
    directions: usize,
) -> Result<Vec<Parametrised>, Failure> {
    let (count, defaults): (usize, [&str; 3]) = match kind {
        RecurrentKind::Lstm => (3, ["Sigmoid", "Tanh", "Tanh"]),
        RecurrentKind::Gru => (2, ["Sigmoid", "Tanh", ""]),
        RecurrentKind::Rnn => (1, ["Tanh", "", ""]),
    };
    let names = match node.attributes.strings("activations")? {
        Some(names) => names,
        None => defaults[..count].repeat(directions),
    };
    if names.len() != count * directions {
        return Err(invalid(format!("{} activations, not {}", names.len(), count * directions)));
    }
    // Each function takes the next number of a list if it has that parameter at all.
    let mut alphas = node.attributes.floats("activation_alpha")?.unwrap_or_default().iter();
    let mut betas = node.attributes.floats("activation_beta")?.unwrap_or_default().iter();
    let mut functions = vec![None; 3 * directions];
    for (index, name) in names.iter().enumerate() {
        let known = FUNCTIONS.iter().find(|(known, ..)| known.eq_ignore_ascii_case(name));
        let Some((_, function, alpha, beta)) = known else {
            return Err(invalid(format!("activation `{name}` is not defined")));
        };
        let take = |default: &Option<f32>, list: &mut std::slice::Iter<'_, f32>| match default {
            None => 0.0,
            Some(default) => list.next().copied().unwrap_or(*default),
        };
        let (alpha, beta) = (take(alpha, &mut alphas), take(beta, &mut betas));
        if alpha.is_nan() || beta.is_nan() {
            return Err(invalid(format!("activation `{name}` without alpha and beta")));
        }
        functions[index / count * 3 + index % count] = Some((*function, alpha, beta));
    }
    Ok(functions)
}

fn expect(b: &Builder, id: ValueId, what: &str, shape: &[Dim]) -> Result<(), Failure> {
    let own = b.shape(id);
    match dims::same_shape(&own, shape, &b.graph.symbols) {
        true => Ok(()),
        false => Err(invalid(format!("{what} has shape {}, not {}", b.text(&own), b.text(shape)))),
    }
}

/// A part of the second axis.
fn sliced(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    part: &str,
    x: ValueId,
    start: usize,
    len: usize,
) -> Result<ValueId, Failure> {
    b.slice(node, part, x, 1, &Dim::from(start), &Dim::from(len))
}

/// What the input contributes to the gates at every time step, biases included:
/// `[time, batch, direction × gate × hidden]`.
fn input_gates(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    x: ValueId,
    weights: ValueId,
    bias: Option<ValueId>,
    gates: usize,
    inner_bias: bool,
    sizes: &Sizes,
) -> Result<ValueId, Failure> {
    let columns = sizes.directions * gates * sizes.hidden;
    let size = b.shape(weights)[2].clone();
    let flat = b.reshape(node, "weights", weights, vec![Dim::from(columns), size])?;
    let constant = b.is_weight(flat);
    let flat = match constant {
        true => b.transpose(node, "input weights", flat, &[1, 0])?,
        false => flat,
    };
    let op = product(false, !constant);
    let shape = vec![sizes.time.clone(), sizes.batch.clone(), Dim::from(columns)];
    let Some(bias) = bias else {
        return b.emit(node, "gates", op, &[Some(x), Some(flat)], DType::F32, shape);
    };

    let (half, hidden) = (gates * sizes.hidden, sizes.hidden);
    // Of the recurrent biases, those that are added to the input's.
    let added = if inner_bias { half - hidden } else { half };
    if constant && let Some(tensor) = b.tensor(bias) {
        b.charge(columns.saturating_mul(4))?;
        let values = tensor.to_f32();
        let sums: Vec<f32> = (0..columns)
            .map(|at| {
                let (direction, j) = (at / half, at % half);
                let of = &values[direction * 2 * half..(direction + 1) * 2 * half];
                of[j] + if j < added { of[half + j] } else { 0.0 }
            })
            .collect();
        let bias = b.constant(format!("{}/bias", node.name), Tensor::from_f32([columns], &sums));
        let inputs = [Some(x), Some(flat), Some(bias)];
        return b.emit(node, "gates", op, &inputs, DType::F32, shape);
    }
    let mut gates_of_x = b.emit(node, "product", op, &[Some(x), Some(flat)], DType::F32, shape)?;
    let of_input = sliced(b, node, "input bias", bias, 0, half)?;
    let of_input = b.reshape(node, "input bias row", of_input, vec![Dim::from(columns)])?;
    gates_of_x = b.binary(node, "input gates", BinaryKind::Add, gates_of_x, of_input)?;
    let recurrent = sliced(b, node, "recurrent bias", bias, half, added)?;
    let recurrent = match added == half {
        true => b.reshape(node, "recurrent bias row", recurrent, vec![Dim::from(columns)])?,
        false => {
            // Zeros in the place of the bias that is added elsewhere.
            let after = vec![0, hidden];
            let op =
                Op::Pad { before: vec![0; 2], after, mode: crate::graph::PadMode::Constant(0.0) };
            let padded = vec![Dim::from(sizes.directions), Dim::from(half)];
            let padded = b.emit(node, "padded bias", op, &[Some(recurrent)], DType::F32, padded)?;
            b.reshape(node, "recurrent bias row", padded, vec![Dim::from(columns)])?
        }
    };
    b.binary(node, "gates", BinaryKind::Add, gates_of_x, recurrent)
}

/// Lengths of the sequences, unless all are known to be the whole.
fn lengths(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    sizes: &Sizes,
) -> Result<Option<ValueId>, Failure> {
    let Some(lengths) = node.input(4) else { return Ok(None) };
    if b.dtype(lengths) != DType::I32 {
        return Err(invalid(format!("sequence_lens is {}, not int32", b.dtype(lengths))));
    }
    expect(b, lengths, "sequence_lens", std::slice::from_ref(&sizes.batch))?;
    if let Ok(known) = b.dims(lengths, "sequence_lens") {
        if known.iter().all(|length| dims::same(length, &sizes.time, &b.graph.symbols)) {
            return Ok(None);
        }
        let symbols = &b.graph.symbols;
        let zero = Dim::from(0i64);
        let fits = |length: &Dim| {
            dims::at_most(length, &sizes.time, symbols) && dims::at_most(&zero, length, symbols)
        };
        if !known.iter().all(fits) {
            return Err(unsupported(
                format!(
                    "sequence_lens ({}) for {} time steps",
                    b.text(&known),
                    b.text(std::slice::from_ref(&sizes.time))
                ),
                super::failure::FIX_THE_DIM,
            ));
        }
    }
    Ok(Some(lengths))
}

/// An initial state, direction first; `None` when it isn't given.
fn initial(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    index: usize,
    what: &str,
    shape: &[Dim; 3],
    batch_first: bool,
) -> Result<Option<ValueId>, Failure> {
    let Some(id) = node.input(index) else { return Ok(None) };
    let mut id = b.real(node, what, id)?;
    if batch_first && b.rank(id) == 3 {
        id = b.transpose(node, what, id, &[1, 0, 2])?;
    }
    expect(b, id, what, shape)?;
    Ok(Some(id))
}
