//! Whole models on the CUDA kernels, compiled for the host, beside sessions of the CPU: integer outputs to the bit.
//!
//! Needs a C++ compiler (`CXX`, or `c++`); without one the tests say so and pass. With `--features whit/cuda` and a number in
//! `WHIT_CUDA_DEVICE` they run on that device. Models of the folder in
//! `WHIT_SHARED_MODELS` are run where they are.

#[allow(dead_code, reason = "shared with other tests")]
mod common;

use std::path::PathBuf;

use whit::cuda::{Device, Error};
use whit::{DType, Model, Prepared, Session};
use whit_convert::evaluate::{AlignedBytes, fill_pseudo_random};
use whit_convert::import::{ImportOptions, import_file};
use whit_convert::pipeline::{ConvertOptions, convert};
use whit_convert::quantize::numbers::Numbers;

/// Largest difference of float outputs over their largest magnitude: other orders of summation, through whole
/// models.
const MAX_FLOAT_ERROR: f32 = 1e-4;

/// Runs of a model with a memory depend on those before.
const RUNS: usize = 3;

/// The kernels compiled for the host; `None` where there is no compiler.
fn device() -> Option<Device> {
    match Device::for_tests() {
        Ok(device) => Some(device),
        Err(Error::Compile { log, .. }) if log.contains("No such file") => {
            println!("skipped: {log}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Compares some runs at some values of the symbols; an error says what the backend lacks.
fn compare(name: &str, file: &[u8], device: &Device) -> Result<(), String> {
    let file = AlignedBytes::new(file);
    let model = Model::open(file.as_slice()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let cuda = whit::cuda::Session::new(model, device, whit::cuda::Options::default());
    let mut cuda = match cuda {
        Ok(session) => session,
        Err(error @ Error::Missing(_)) => return Err(error.to_string()),
        Err(error) => panic!("{name}: {error}"),
    };
    let mut cpu = Session::new(model, whit::Options::default()).expect("prepares");
    let mut seeds = [0x9E37_79B9_7F4A_7C15u64; 2];
    for run in 0..RUNS {
        for symbol in model.symbols() {
            // The largest, the smallest, one between.
            let value = [symbol.max, symbol.min, (symbol.min + symbol.max) / 2][run % 3];
            for session in [&mut cuda as &mut dyn Prepared<'_>, &mut cpu] {
                session.set_dimension(model.text(symbol.name), value).expect("a dimension");
            }
        }
        let sessions = [&mut cuda as &mut dyn Prepared<'_>, &mut cpu];
        for (session, seed) in sessions.into_iter().zip(&mut seeds) {
            fill_pseudo_random(session, seed).expect("inputs");
            session.run().unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        for output in 0..model.outputs().len() {
            let got = cuda.output_bytes(output).expect("output");
            let want = cpu.output_bytes(output).expect("output");
            if cpu.output_slot(output).expect("output").dtype() != DType::F32 {
                assert!(got == want, "{name}, run {run}, output {output}");
                continue;
            }
            let (got, want) = (floats(got), floats(want));
            let largest = want.iter().fold(f32::MIN_POSITIVE, |m, x| m.max(x.abs()));
            let error = got.iter().zip(&want).fold(0.0f32, |m, (g, w)| m.max((g - w).abs()));
            assert!(error <= MAX_FLOAT_ERROR * largest, "{name}: {error} of {largest}");
        }
    }
    Ok(())
}

/// Compares models, of which the backend has all but those named.
fn compare_all(models: Vec<(String, Vec<u8>)>, lacking: &[&str]) {
    let Some(device) = device() else { return };
    let mut refused = Vec::new();
    for (name, file) in &models {
        match compare(name, file, &device) {
            Ok(()) => println!("{name}: equal"),
            Err(lacks) => {
                println!("{name}: {lacks}");
                refused.push(name.as_str());
            }
        }
    }
    assert_eq!(refused, lacking);
}

#[test]
fn models_of_our_own() {
    let mut models = Vec::new();
    for source in common::sources() {
        models.push((source.name.to_owned(), source.convert(Numbers::Float)));
        models.push((format!("{} int8", source.name), source.convert(Numbers::Int8)));
    }
    models.extend(common::with_memory());
    models.push(("state".to_owned(), common::with_state()));
    models.extend(common::with_groups());
    compare_all(models, &[]);
}

#[test]
fn models_of_mlperf_tiny() {
    let root = std::env::var_os("WHIT_SHARED_MODELS").map(PathBuf::from);
    let root = root
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/models"))
        .join("mlperf-tiny");
    if !root.is_dir() {
        println!("skipped: {} isn't there", root.display());
        return;
    }
    let mut models = Vec::new();
    for name in ["ad", "ic", "kws", "sww", "vww"] {
        let path = root.join(name).join("int8.tflite");
        let graph = import_file(&path, &ImportOptions::default());
        let graph = graph.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let options = ConvertOptions { golden_cases: 0, ..ConvertOptions::default() };
        let file = convert(graph, None, &options, &mut ()).expect("converts").file;
        models.push((name.to_owned(), file));
    }
    compare_all(models, &[]);
}
