//! Opens a .whit file and runs it; without a file, converts the digits model and reads a three.
//!
//!     cargo run --release -p whit-examples --example run_model [-- MODEL.whit]
#![forbid(unsafe_code)]

use std::error::Error;

use whit::{Model, ModelFile, Options, Session};
use whit_convert::evaluate::AlignedBytes;
use whit_convert::import::{ImportOptions, import_file};
use whit_convert::pipeline::{ConvertOptions, convert};
use whit_examples::{THREE, best};

/// Runs a file on zeros and prints what comes out: any model, whatever its inputs.
fn run_file(path: &str) -> Result<(), Box<dyn Error>> {
    let file = ModelFile::open(path)?;
    let mut session = Session::new(file.model()?, Options::default())?;
    for input in 0..session.model().inputs().len() {
        let zeros = vec![0; session.input_slot(input)?.bytes()];
        session.set_input_bytes(input, &zeros)?;
    }
    session.run()?;
    for output in 0..session.model().outputs().len() {
        let slot = session.output_slot(output)?;
        println!("output {output}: {} {:?}", slot.dtype(), slot.dims());
    }
    println!("{} bytes of memory, on {}", session.needed_bytes(), session.isa());
    Ok(())
}

/// Converts the digits model in memory and runs it on one image: the digit and its probability.
fn read_three() -> Result<(usize, f32), Box<dyn Error>> {
    let onnx = concat!(env!("CARGO_MANIFEST_DIR"), "/digits/digits.onnx");
    let graph = import_file(onnx, &ImportOptions::default())?;
    let converted = convert(graph, None, &ConvertOptions::default(), &mut ())?;
    let file = AlignedBytes::new(&converted.file);
    let mut session = Session::new(Model::open(file.as_slice())?, Options::default())?;
    session.set_input_f32(0, &THREE)?;
    session.run()?;
    Ok(best(session.output(0)?).ok_or("no classes")?)
}

fn main() -> Result<(), Box<dyn Error>> {
    if let Some(path) = std::env::args().nth(1) {
        return run_file(&path);
    }
    let (digit, probability) = read_three()?;
    println!("the image is a {digit} ({:.1} %)", 100.0 * probability);
    Ok(())
}

#[test]
fn reads_a_three() {
    let (digit, probability) = read_three().unwrap();
    assert!(digit == 3 && probability > 0.9, "{digit}, {probability}");
}
