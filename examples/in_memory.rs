//! Runs a model in an array, as a microcontroller does: no allocation, no std, only the operators
//! that the model needs.
//!
//!     cargo run --release -p whit-examples --example in_memory
#![forbid(unsafe_code)]

use std::error::Error;

use whit::ops::{self, Operator};
use whit::{Isa, Model, Options, Session, SessionError};
use whit_convert::evaluate::AlignedBytes;
use whit_convert::import::{ImportOptions, import_file};
use whit_convert::pipeline::{ConvertOptions, convert};
use whit_examples::{THREE, best};

/// RAM for the session. `Session::memory_bytes` says how much a model needs.
const MEMORY_BYTES: usize = 24 * 1024;

/// The operators of the digits model, which `whit inspect` lists; others aren't linked.
static OPERATORS: &[&Operator] = &[
    &ops::BINARY_F32,
    &ops::CONV_F32,
    &ops::POOL_F32,
    &ops::FULLY_CONNECTED_F32,
    &ops::SOFTMAX_F32,
];

/// The part that runs on the device: the file lies in flash, the memory in RAM.
fn classify(
    model: Model<'_>,
    memory: &mut [u8],
    image: &[f32],
) -> Result<Option<(usize, f32)>, SessionError> {
    let options = Options::new(Some(Isa::Scalar), OPERATORS);
    let mut session = Session::in_memory(model, memory, options)?;
    session.set_input_f32(0, image)?;
    session.run()?;
    Ok(best(session.output(0)?))
}

fn main() -> Result<(), Box<dyn Error>> {
    // On the laptop, ahead of time.
    let onnx = concat!(env!("CARGO_MANIFEST_DIR"), "/digits/digits.onnx");
    let graph = import_file(onnx, &ImportOptions::default())?;
    let converted = convert(graph, None, &ConvertOptions::default(), &mut ())?;
    let file = AlignedBytes::new(&converted.file);

    // On the device.
    let mut memory = [0; MEMORY_BYTES];
    let found = classify(Model::open(file.as_slice())?, &mut memory, &THREE)?;
    let (digit, probability) = found.ok_or("no classes")?;
    assert_eq!(digit, 3);
    println!("the image is a {digit} ({:.1} %)", 100.0 * probability);
    Ok(())
}

#[test]
fn runs() {
    main().unwrap();
}
