//! Whole models on the CUDA kernels, compiled for the host, beside sessions of the CPU: integer outputs to the bit.
//!
//! Needs a C++ compiler (`CXX`, or `c++`); without one the tests say so and pass. With `--features whit/cuda` and a number in
//! `WHIT_CUDA_DEVICE` they run on that device. Models of the folder in
//! `WHIT_SHARED_MODELS` are run where they are.

mod common;

use std::path::{Path, PathBuf};

use whit::cuda::{Device, Error};
use whit::{DType, Model, Prepared, Session};
use whit_convert::error::ImportError;
use whit_convert::evaluate::{AlignedBytes, fill_pseudo_random};
use whit_convert::import::{DimChoice, ImportOptions, import_file};
use whit_convert::pipeline::{ConvertOptions, convert};
use whit_convert::quantize::numbers::{GroupedBits, Numbers};

/// Largest difference of float outputs over their largest magnitude: other orders of summation, through whole
/// models.
const MAX_FLOAT_ERROR: f32 = 1e-4;

/// The same where layers round their inputs to bf16: a last bit of an input may tip that.
const MAX_BF16_ERROR: f32 = 2e-2;

/// Runs of a model with a memory depend on those before. Symbols are large, as small as can be, between, and small.
const RUNS: usize = 4;

/// Above a symbol's smallest value: more than a tile of pixels, and few enough for kernels on the host.
const MOST_ROWS: u32 = 69;

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

/// Gives a decoder's tokens positions one behind the other, and asks for what follows the first of them.
fn place_tokens(session: &mut dyn Prepared<'_>) {
    let model = *session.model();
    for (index, tensor) in model.inputs().enumerate() {
        let count = session.input_slot(index).expect("an input").elements() as i32;
        let values: Vec<i32> = match model.tensor(tensor).map(|record| model.text(record.name)) {
            Some("positions") => (0..count).collect(),
            Some("rows") => vec![0; count as usize],
            _ => continue,
        };
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        session.set_input_bytes(index, &bytes).expect("an input");
    }
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
            let most = symbol.max.min(symbol.min.saturating_add(MOST_ROWS));
            let value =
                [most, symbol.min, symbol.min.midpoint(most), most.min(symbol.min + 3)][run % 4];
            for session in [&mut cuda as &mut dyn Prepared<'_>, &mut cpu] {
                session.set_dimension(model.text(symbol.name), value).expect("a dimension");
            }
        }
        let sessions = [&mut cuda as &mut dyn Prepared<'_>, &mut cpu];
        for (session, seed) in sessions.into_iter().zip(&mut seeds) {
            fill_pseudo_random(session, seed).expect("inputs");
            place_tokens(session);
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
            let most = if name == "bf16" { MAX_BF16_ERROR } else { MAX_FLOAT_ERROR };
            assert!(error <= most * largest, "{name}: {error} of {largest}");
        }
    }
    Ok(())
}

/// Compares models, all of which the backend has.
fn compare_all(models: Vec<(String, Vec<u8>)>) {
    let Some(device) = device() else { return };
    let mut refused = Vec::new();
    for (name, file) in &models {
        match compare(name, file, &device) {
            Ok(()) => println!("{name}: equal"),
            Err(lacks) => refused.push(format!("{name}: {lacks}")),
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
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
    compare_all(models);
}

/// The folder with models that aren't in the repository.
fn shared_models() -> Option<PathBuf> {
    let root = std::env::var_os("WHIT_SHARED_MODELS").map(PathBuf::from);
    let root = root
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/models"));
    if !root.is_dir() {
        println!("no models: {} isn't there", root.display());
        return None;
    }
    Some(root)
}

fn convert_file(path: &Path, numbers: Numbers) -> Vec<u8> {
    let mut options = ImportOptions::default();
    if let Err(ImportError::UnspecifiedDims(dims)) = import_file(path, &options) {
        options.dims = dims.into_iter().map(|dim| (dim.name, DimChoice::Fixed(1))).collect();
    }
    let graph = import_file(path, &options);
    let graph = graph.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let options = ConvertOptions { numbers, golden_cases: 0, ..ConvertOptions::default() };
    convert(graph, None, &options, &mut ()).expect("converts").file
}

#[test]
fn models_of_mlperf_tiny() {
    let Some(root) = shared_models() else { return };
    let mut models = Vec::new();
    for name in ["ad", "ic", "kws", "sww", "vww"] {
        for file in ["int8.tflite", "float.onnx"] {
            let path = root.join("mlperf-tiny").join(name).join(file);
            models.push((format!("{name} {file}"), convert_file(&path, Numbers::Float)));
        }
    }
    compare_all(models);
}

#[test]
fn a_decoder() {
    let Some(folder) = shared_models().map(|root| root.join("stories260k")) else { return };
    let numbers = [
        ("f32", Numbers::Float),
        ("f16", Numbers::F16),
        ("bf16", Numbers::Bf16),
        ("w8", Numbers::Grouped { bits: GroupedBits::W8, group: 32 }),
        ("w4", Numbers::Grouped { bits: GroupedBits::W4, group: 32 }),
    ];
    let models = numbers.map(|(name, numbers)| (name.to_owned(), convert_file(&folder, numbers)));
    compare_all(models.to_vec());
}
