//! The MLPerf Tiny models from end to end: float outputs beside ONNX Runtime's, int8 and QDQ
//! accuracy, the same bits on every instruction set, the arena beside its lower bound.
//!
//! The models lie beside the project, in `../shared/models` or where `WHIT_SHARED_MODELS` says;
//! without them the tests say so and pass.

mod npz;

use std::path::PathBuf;

use whit::{DType, Isa, Model, Options, Session};
use whit_convert::evaluate::{AlignedBytes, Samples, feed};
use whit_convert::import::{DimChoice, ImportOptions, InputLayout, import_file};
use whit_convert::pipeline::{ConvertOptions, convert};
use whit_convert::quantize::numbers::Numbers;

use npz::Npz;

/// Largest difference from ONNX Runtime's float outputs, over the range of all outputs: other
/// orders of summation, some hundred products an output.
const MAX_FLOAT_ERROR: f32 = 1e-4;
/// Int8 may lose this share of the samples against float, and QDQ against ONNX Runtime: one point.
const MAX_ACCURACY_LOSS: f64 = 0.01;
/// Int8 reconstructions of ad differ from float ones by this share of the outputs' range on average.
const MAX_MEAN_DIFFERENCE: f64 = 0.01;
/// The arena beside the largest sum of tensors alive together.
const MAX_ARENA_RATIO: f64 = 1.1;
/// TFLite rounds a convolution's accumulators twice, Whit once, which turns one of 500 numbers of a layer by
/// a step; where two classes are close that is enough for the other one, in this share of samples.
const MAX_OTHER_LABELS: f64 = 0.02;
/// Samples on which instruction sets are compared bit by bit.
const SAME_BITS_SAMPLES: usize = 50;

struct Case {
    name: &'static str,
    /// Samples of the evaluation set used here: unoptimised builds run vww at a few per second.
    samples: usize,
    /// Samples used where the scalar kernels run as well.
    scalar_samples: usize,
    qdq: Option<Qdq>,
    /// Operators of `int8.tflite`.
    tflite_operators: usize,
}

/// The model that another tool quantized.
struct Qdq {
    input: &'static str,
    channels_first: bool,
    /// Right answers of ONNX Runtime on the first `samples` of the evaluation set.
    ort_correct: usize,
}

/// `ort_correct` was counted with ONNX Runtime on the CPU and `ORT_DISABLE_ALL`, so that QDQ nodes
/// compute what they say (with optimisations, kernels for CPUs without VNNI saturate sums of
/// products): `InferenceSession("qdq.onnx", options).run(None, {input: x})[0].argmax() == label`,
/// one sample at a time, vww's images transposed to NCHW. All samples: kws 353 of 400, vww 345 of
/// 400, ic 128 of 150.
const CASES: [Case; 5] = [
    Case {
        name: "kws",
        samples: 400,
        scalar_samples: 50,
        qdq: Some(Qdq { input: "input_1", channels_first: false, ort_correct: 353 }),
        tflite_operators: 13,
    },
    Case {
        name: "vww",
        samples: 200,
        scalar_samples: 50,
        qdq: Some(Qdq { input: "input_1", channels_first: true, ort_correct: 154 }),
        tflite_operators: 31,
    },
    Case {
        name: "ic",
        samples: 150,
        scalar_samples: 50,
        qdq: Some(Qdq { input: "input_1", channels_first: false, ort_correct: 128 }),
        tflite_operators: 16,
    },
    // No labels: the rows of one normal recording.
    Case { name: "ad", samples: 98, scalar_samples: 98, qdq: None, tflite_operators: 10 },
    Case { name: "sww", samples: 45, scalar_samples: 45, qdq: None, tflite_operators: 11 },
];

/// The folder of the models; `None`, said aloud, when it isn't there.
fn folder(name: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("WHIT_SHARED_MODELS").map(PathBuf::from);
    let shared = shared.unwrap_or_else(|| {
        [env!("CARGO_MANIFEST_DIR"), "..", "..", "shared", "models"].iter().collect()
    });
    let folder = shared.join("mlperf-tiny").join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: {} is not there", folder.display());
    None
}

/// Rows of one array as samples of a model's only input, whatever its shape.
struct Rows<'a> {
    values: &'a [f32],
    shape: Vec<usize>,
    count: usize,
}

impl Rows<'_> {
    fn row(&self, sample: usize) -> &[f32] {
        let len = self.shape.iter().product::<usize>();
        &self.values[sample * len..(sample + 1) * len]
    }
}

impl Samples for Rows<'_> {
    fn len(&self) -> usize {
        self.count
    }

    fn input(
        &self,
        sample: usize,
        _: usize,
        _: &str,
        dtype: DType,
    ) -> Result<(Vec<usize>, Vec<u8>), String> {
        assert_eq!(dtype, DType::F32);
        Ok((
            self.shape.clone(),
            self.row(sample).iter().flat_map(|value| value.to_le_bytes()).collect(),
        ))
    }
}

/// A model of a case, imported at batch 1, with its data in the input's shape.
struct Loaded {
    folder: PathBuf,
    data: Npz,
    calibration: Npz,
}

impl Loaded {
    fn open(case: &Case) -> Option<Loaded> {
        let folder = folder(case.name)?;
        let (data, calibration) =
            (Npz::open(&folder.join("eval.npz")), Npz::open(&folder.join("calib.npz")));
        Some(Loaded { folder, data, calibration })
    }

    fn convert(
        &self,
        file: &str,
        numbers: Numbers,
        layouts: &[(&str, InputLayout)],
    ) -> AlignedBytes {
        let options = ConvertOptions { numbers, golden_cases: 1, ..ConvertOptions::default() };
        self.convert_with(file, &options, layouts)
    }

    fn convert_with(
        &self,
        file: &str,
        convert_options: &ConvertOptions,
        layouts: &[(&str, InputLayout)],
    ) -> AlignedBytes {
        let path = self.folder.join(file);
        let input_layouts =
            layouts.iter().map(|(name, layout)| ((*name).to_owned(), *layout)).collect();
        let mut options = ImportOptions { input_layouts, ..Default::default() };
        // The float models have an unnamed batch; its error lists the names to choose sizes for.
        if let Err(whit_convert::error::ImportError::UnspecifiedDims(dims)) =
            import_file(&path, &options)
        {
            options.dims = dims.into_iter().map(|dim| (dim.name, DimChoice::Fixed(1))).collect();
        }
        let graph =
            import_file(&path, &options).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let shape: Vec<usize> = graph
            .value(graph.inputs[0])
            .shape
            .iter()
            .map(|dim| dim.as_const().expect("fixed") as usize)
            .collect();
        let rows = self.calibration.rows(shape);
        let converted = convert(graph, Some(&rows), convert_options, &mut ());
        AlignedBytes::new(&converted.unwrap_or_else(|e| panic!("{}: {e}", path.display())).file)
    }
}

impl Npz {
    /// The array that isn't `labels`, as samples of this shape.
    fn rows(&self, shape: Vec<usize>) -> Rows<'_> {
        let (_, array) =
            self.arrays.iter().find(|(name, _)| *name != "labels").expect("an input array");
        Rows { values: array.f32s(), shape, count: array.shape[0] }
    }

    fn labels(&self) -> Option<Vec<usize>> {
        Some(self.arrays.get("labels")?.i64s().iter().map(|label| *label as usize).collect())
    }
}

/// All outputs of the first samples on one instruction set: raw bytes, and reals.
fn run(file: &AlignedBytes, data: &Npz, samples: usize, isa: Isa) -> (Vec<u8>, Vec<Vec<f32>>) {
    let model = Model::open(file.as_slice()).expect("opens");
    let mut session =
        Session::new(model, Options { isa: Some(isa), ..Options::default() }).expect("prepares");
    let shape: Vec<usize> =
        session.input_slot(0).expect("input").dims().iter().map(|dim| *dim as usize).collect();
    let rows = data.rows(shape);
    let (mut bytes, mut reals) = (Vec::new(), Vec::new());
    for sample in 0..samples.min(rows.count) {
        feed(&mut session, &rows, sample).expect("feeds");
        session.run().expect("runs");
        let slot = session.output_slot(0).expect("output");
        bytes.extend_from_slice(session.output_bytes(0).expect("output"));
        reals.push(match slot.dtype() {
            DType::F32 => session.output::<f32>(0).expect("f32").to_vec(),
            DType::I8 => {
                let dequantize = |q: &i8| (i32::from(*q) - slot.zero_point()) as f32 * slot.scale();
                session.output::<i8>(0).expect("i8").iter().map(dequantize).collect()
            }
            dtype => panic!("output of type {}", dtype.name()),
        });
    }
    (bytes, reals)
}

fn correct(rows: &[Vec<f32>], labels: &[usize]) -> usize {
    let largest = |row: &Vec<f32>| {
        (0..row.len()).fold(0, |best, at| if row[at] > row[best] { at } else { best })
    };
    rows.iter().zip(labels).filter(|(row, label)| largest(row) == **label).count()
}

fn fastest() -> Isa {
    Isa::detect()
}

/// At least as many right answers as the reference, less one point.
fn assert_accuracy(what: &str, right: usize, reference: usize, samples: usize) {
    println!("{what}: {right} of {samples} right, reference {reference}");
    let loss = (reference as f64 - right as f64) / samples as f64;
    assert!(loss <= MAX_ACCURACY_LOSS, "{what}: {right} of {samples} right, reference {reference}");
}

#[test]
fn float_outputs_are_those_of_onnx_runtime() {
    for case in &CASES {
        let Some(loaded) = Loaded::open(case) else { return };
        let expected = Npz::open(&loaded.folder.join("expected.npz"));
        let expected = expected.arrays.get("float_onnx").expect("float_onnx");
        let width = expected.shape[1];
        let file = loaded.convert("float.onnx", Numbers::Float, &[]);
        let (low, high) = expected
            .f32s()
            .iter()
            .fold((f32::MAX, f32::MIN), |(low, high), v| (low.min(*v), high.max(*v)));
        for isa in Isa::available() {
            let (_, rows) = run(&file, &loaded.data, case.scalar_samples, isa);
            let errors = rows.concat().into_iter().zip(expected.f32s()).map(|(a, b)| (a - b).abs());
            let worst = errors
                .fold(0.0f32, |worst, e| if e > worst || e.is_nan() { e } else { worst })
                / (high - low);
            println!(
                "{} float on {isa}: largest error {worst:.1e} of the range, {} samples",
                case.name,
                rows.len()
            );
            assert_eq!(rows[0].len(), width);
            assert!(worst <= MAX_FLOAT_ERROR, "{} float on {isa}: {worst}", case.name);
        }
    }
}

#[test]
fn int8_keeps_accuracy_bits_and_memory() {
    for case in &CASES {
        let Some(loaded) = Loaded::open(case) else { return };
        let float = loaded.convert("float.onnx", Numbers::Float, &[]);
        let int8 = loaded.convert("float.onnx", Numbers::Int8, &[]);

        let (_, float_rows) = run(&float, &loaded.data, case.samples, fastest());
        let (bytes, rows) = run(&int8, &loaded.data, case.samples, fastest());
        match loaded.data.labels() {
            Some(labels) => {
                let name = format!("{} int8", case.name);
                assert_accuracy(
                    &name,
                    correct(&rows, &labels),
                    correct(&float_rows, &labels),
                    rows.len(),
                );
            }
            None => {
                let (got, want) = (rows.concat(), float_rows.concat());
                let mean =
                    got.iter().zip(&want).map(|(a, b)| f64::from((a - b).abs())).sum::<f64>()
                        / got.len() as f64;
                let (low, high) = want
                    .iter()
                    .fold((f32::MAX, f32::MIN), |(low, high), v| (low.min(*v), high.max(*v)));
                let share = mean / f64::from(high - low);
                println!("{} int8: mean difference from float {share:.4} of the range", case.name);
                assert!(share <= MAX_MEAN_DIFFERENCE, "{}: {share}", case.name);
            }
        }

        let same = SAME_BITS_SAMPLES.min(rows.len());
        let prefix = &bytes[..bytes.len() / rows.len() * same];
        for isa in Isa::available() {
            let (other, _) = run(&int8, &loaded.data, same, isa);
            assert!(other == prefix, "{} int8: {isa} and {} differ", case.name, fastest());
        }

        let header = *Model::open(int8.as_slice()).expect("opens").header();
        let ratio = header.arena_bytes as f64 / header.liveness_bound_bytes as f64;
        println!("{} int8: arena {} bytes, {ratio:.3} of the bound", case.name, header.arena_bytes);
        assert!(ratio <= MAX_ARENA_RATIO, "{}: arena {ratio}", case.name);
    }
}

#[test]
fn quantized_models_keep_their_accuracy() {
    for case in &CASES {
        let Some(qdq) = &case.qdq else { continue };
        let Some(loaded) = Loaded::open(case) else { return };
        let layouts = [(qdq.input, InputLayout::Nhwc)];
        let file = loaded.convert(
            "qdq.onnx",
            Numbers::Float,
            if qdq.channels_first { &layouts } else { &[] },
        );
        let labels = loaded.data.labels().expect("labels");
        let (bytes, rows) = run(&file, &loaded.data, case.samples, fastest());
        assert_accuracy(
            &format!("{} qdq", case.name),
            correct(&rows, &labels),
            qdq.ort_correct,
            rows.len(),
        );
        let (scalar, few) = run(&file, &loaded.data, 10, Isa::Scalar);
        assert!(
            scalar[..] == bytes[..bytes.len() / rows.len() * few.len()],
            "{} qdq: bits differ",
            case.name
        );
    }
}

/// With TFLite's rounding, every integer of every output is TFLite's.
#[test]
fn tflite_models_can_be_exact() {
    for case in &CASES {
        let Some(loaded) = Loaded::open(case) else { return };
        let expected = Npz::open(&loaded.folder.join("expected.npz"));
        let expected = expected.arrays.get("int8_tflite_reference").expect("int8 outputs");
        let (samples, width) = (expected.shape[0].min(case.samples), expected.shape[1]);
        let exact =
            ConvertOptions { golden_cases: 1, exact_tflite: true, ..ConvertOptions::default() };
        let file = loaded.convert_with("int8.tflite", &exact, &[]);
        let (bytes, _) = run(&file, &loaded.data, samples, fastest());
        let own: Vec<i8> = bytes.iter().map(|byte| *byte as i8).collect();
        let theirs = &expected.i8s()[..samples * width];
        let differ = own.iter().zip(theirs).filter(|(own, theirs)| own != theirs).count();
        assert_eq!((own.len(), differ), (theirs.len(), 0), "{}", case.name);
        println!("{} tflite, exact: {} outputs are equal", case.name, own.len());
    }
}

/// The integers of TFLite's reference kernels, but for what rounding once instead of twice turns: exact where
/// there are no convolutions, the same label elsewhere. The program is integer throughout, with no more steps
/// than the model has operators.
#[test]
fn tflite_models_agree_with_the_reference_kernels() {
    for case in &CASES {
        let Some(loaded) = Loaded::open(case) else { return };
        let expected = Npz::open(&loaded.folder.join("expected.npz"));
        let expected = expected.arrays.get("int8_tflite_reference").expect("int8 outputs");
        let (samples, width) = (expected.shape[0].min(case.samples), expected.shape[1]);
        let file = loaded.convert("int8.tflite", Numbers::Float, &[]);
        let model = Model::open(file.as_slice()).expect("opens");
        assert!(model.steps().count() <= case.tflite_operators, "{}", case.name);
        let on_floats = model.steps().filter(|step| step.variant == DType::F32 as u8).count();
        assert_eq!(on_floats, 0, "{}", case.name);

        let (bytes, rows) = run(&file, &loaded.data, samples, fastest());
        let theirs = &expected.i8s()[..samples * width];
        let steps = |at: usize| (i32::from(bytes[at] as i8) - i32::from(theirs[at])).abs();
        let differ = (0..bytes.len()).filter(|at| steps(*at) > 0).count();
        let most = (0..bytes.len()).map(steps).max().expect("outputs");
        let label = |row: &[i32]| {
            (0..row.len()).fold(0, |best, at| if row[at] > row[best] { at } else { best })
        };
        let integers = |row: &[i8]| label(&row.iter().map(|q| i32::from(*q)).collect::<Vec<_>>());
        let own: Vec<i8> = bytes.iter().map(|b| *b as i8).collect();
        let others = own
            .chunks_exact(width)
            .zip(theirs.chunks_exact(width))
            .filter(|(own, theirs)| integers(own) != integers(theirs))
            .count();
        println!(
            "{} tflite: {differ} of {} outputs differ, by {most} steps at most; {others} of {} labels",
            case.name,
            bytes.len(),
            rows.len()
        );
        assert!(others as f64 <= MAX_OTHER_LABELS * samples as f64, "{}: {others}", case.name);
        if case.name == "ad" {
            assert_eq!(differ, 0, "fully connected layers are rounded the same way");
        }
        let (scalar, few) = run(&file, &loaded.data, 10, Isa::Scalar);
        assert!(scalar[..] == bytes[..few.len() * width], "{} tflite: bits differ", case.name);
    }
}
