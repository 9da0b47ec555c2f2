//! Whole models: opening a file, preparing a session, one run on each instruction set.
//!
//! The digits model always, and MLPerf Tiny's where they are: in ../shared/models/mlperf-tiny or
//! the folder that `WHIT_MLPERF_TINY` names.

use std::hint::black_box;
use std::path::{Path, PathBuf};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use whit::{DType, Isa, Model, Options, Session};
use whit_convert::evaluate::{AlignedBytes, Samples};
use whit_convert::import::{ImportOptions, import_file};
use whit_convert::pipeline::{ConvertOptions, convert};
use whit_convert::quantize::numbers::Numbers;

/// One sample of pixels without a pattern: how long a run takes doesn't depend on the ranges that
/// calibration finds.
struct Pixels {
    shape: Vec<usize>,
}

impl Samples for Pixels {
    fn len(&self) -> usize {
        1
    }

    fn input(
        &self,
        _: usize,
        _: usize,
        _: &str,
        _: DType,
    ) -> Result<(Vec<usize>, Vec<u8>), String> {
        let pixel = |i: usize| (i * 7 % 17) as f32; // 0..=16
        let bytes = (0..self.shape.iter().product()).flat_map(|i| pixel(i).to_le_bytes()).collect();
        Ok((self.shape.clone(), bytes))
    }
}

/// A name and a .whit file.
type Named = (String, AlignedBytes);

fn converted(name: &str, path: &Path, numbers: Numbers, samples: Option<&Pixels>) -> Named {
    let fail = |error: &dyn std::fmt::Display| -> ! { panic!("{}: {error}", path.display()) };
    let graph = import_file(path, &ImportOptions::default()).unwrap_or_else(|e| fail(&e));
    let options = ConvertOptions { numbers, golden_cases: 0, ..ConvertOptions::default() };
    let samples = samples.map(|samples| samples as &dyn Samples);
    let result = convert(graph, samples, &options, &mut ()).unwrap_or_else(|e| fail(&e));
    (name.to_owned(), AlignedBytes::new(&result.file))
}

fn files() -> Vec<Named> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let digits = root.join("examples/digits/digits.onnx");
    let pixels = Pixels { shape: vec![1, 1, 8, 8] };
    let mut files = vec![
        converted("digits float", &digits, Numbers::Float, None),
        converted("digits int8", &digits, Numbers::Int8, Some(&pixels)),
    ];
    let folder = std::env::var_os("WHIT_MLPERF_TINY")
        .map_or_else(|| root.join("../shared/models/mlperf-tiny"), PathBuf::from);
    for model in ["ad", "ic", "kws", "sww", "vww"] {
        // The second is quantized already, with the weights and scales of the reference model.
        for (kind, file) in [("float", "float.onnx"), ("int8", "qdq.onnx")] {
            let path = folder.join(model).join(file);
            if path.exists() {
                files.push(converted(&format!("{model} {kind}"), &path, Numbers::Float, None));
            }
        }
    }
    files
}

fn open(file: &AlignedBytes) -> Model<'_> {
    Model::open(file.as_slice()).expect("a file just converted")
}

fn session(file: &AlignedBytes, isa: Isa) -> Session<'_> {
    let options = Options { isa: Some(isa), ..Options::default() };
    Session::new(open(file), options).expect("a file just converted")
}

fn models(c: &mut Criterion) {
    let files = files();
    for (name, file) in &files {
        c.bench_function(&format!("open/{name}"), |b| b.iter(|| open(black_box(file))));
    }
    for (name, file) in &files {
        let isa = Isa::detect();
        c.bench_function(&format!("prepare/{name}"), |b| b.iter(|| session(black_box(file), isa)));
    }
    let mut group = c.benchmark_group("run");
    for (name, file) in &files {
        group.throughput(Throughput::Elements(open(file).header().macs));
        for isa in Isa::available() {
            let mut session = session(file, isa);
            group.bench_function(BenchmarkId::new(isa.name(), name), |b| {
                b.iter(|| session.run().expect("no indices in these models"));
            });
        }
    }
}

criterion_group!(benches, models);
criterion_main!(benches);
