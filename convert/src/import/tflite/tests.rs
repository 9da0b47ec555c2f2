//! Files built field by field: what each operator computes, and what is refused.

use bytes::Bytes;
use whit::{Model as Program, Options, Session};

use self::builder::{BOOL, F32, Field, I8, I32, I64, Model, Operator, Tensor, U8};
use super::{OPERATOR_NAMES, import_tflite};
use crate::error::ImportError;
use crate::evaluate::AlignedBytes;
use crate::graph::Graph;
use crate::import::ImportOptions;
use crate::pipeline::{ConvertOptions, convert};

mod builder;
mod exact;
mod hostile;
mod operators;
mod options;
mod quantized;
mod recurrent;

/// The number of an operator.
fn code(name: &str) -> i32 {
    OPERATOR_NAMES.iter().position(|row| *row == name).expect("an operator") as i32
}

/// One operator that reads `inputs` and writes `outputs`; inputs without data are the model's.
fn one(
    operator: &str,
    (options_type, options): (u8, Vec<(u16, Field)>),
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
) -> Model {
    let count = inputs.len() as i32;
    let made: Vec<i32> = (count..count + outputs.len() as i32).collect();
    let given = (0..count).filter(|at| {
        let tensor = &inputs[*at as usize];
        tensor.data.is_none() && tensor.buffer.is_none()
    });
    Model {
        version: 3,
        codes: vec![(code(operator), String::new())],
        inputs: given.collect(),
        outputs: made.clone(),
        operators: vec![Operator {
            code: 0,
            inputs: (0..count).collect(),
            outputs: made,
            options_type,
            options,
            ..Operator::default()
        }],
        second: Vec::new(),
        tensors: inputs.into_iter().chain(outputs).collect(),
    }
}

fn import(model: &Model, options: &ImportOptions) -> Result<Graph, ImportError> {
    import_tflite(Bytes::from(model.to_bytes()), options)
}

/// An f32 input.
fn input(shape: &[i32]) -> Tensor {
    Tensor::new("x", F32, shape)
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Converts a model and runs it on the bytes of its inputs; the bytes of its outputs.
fn run(model: &Model, inputs: &[Vec<u8>]) -> Vec<Vec<u8>> {
    run_with(model, inputs, false)
}

/// With TFLite's rounding or without.
fn run_with(model: &Model, inputs: &[Vec<u8>], exact_tflite: bool) -> Vec<Vec<u8>> {
    let graph = import(model, &ImportOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let options = ConvertOptions { golden_cases: 0, exact_tflite, ..ConvertOptions::default() };
    let converted = convert(graph, None, &options, &mut ()).unwrap_or_else(|e| panic!("{e}"));
    let file = AlignedBytes::new(&converted.file);
    let program = Program::open(file.as_slice()).expect("opens");
    let mut session = Session::new(program, Options::default()).expect("prepares");
    for (at, bytes) in inputs.iter().enumerate() {
        session.set_input_bytes(at, bytes).expect("an input");
    }
    session.run().expect("runs");
    let count = model.outputs.len();
    (0..count).map(|at| session.output_bytes(at).expect("an output").to_vec()).collect()
}

/// One importer for one operator, each of which the schema knows.
#[test]
fn no_operator_is_imported_twice() {
    let mut seen = std::collections::HashSet::new();
    for (operator, _) in super::OPERATORS.iter().copied().flatten() {
        assert!(seen.insert(*operator), "{operator}");
        assert!(OPERATOR_NAMES.contains(operator), "{operator}");
    }
}
