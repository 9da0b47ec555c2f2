//! `whit demo`: the whole story on an embedded example, in under a minute.

use std::io::Cursor;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use serde_json::json;
use whit::{Isa, Model};
use whit_convert::evaluate::AlignedBytes;
use whit_convert::import::ImportOptions;
use whit_convert::import::onnx::import_onnx;
use whit_convert::pipeline::ConvertOptions;
use whit_convert::quantize::numbers::Numbers;

use super::bench::measure;
use super::convert::{Request, convert_graph, provenance};
use super::eval::{Answers, Quality, Task, answers, quality};
use super::{Sequence, print_json, print_text};
use crate::data::{Dataset, read_npz};
use crate::report::{self, Align};

/// Trained by `examples/digits/make.sh`; see the README there for the data's source and licence.
const MODEL: &[u8] = include_bytes!("../../../examples/digits/digits.onnx");
const CALIBRATION: &[u8] = include_bytes!("../../../examples/digits/digits-calib.npz");
const TEST: &[u8] = include_bytes!("../../../examples/digits/digits-test.npz");

/// Rows and columns of an image, and its largest pixel value.
const SIDE: usize = 8;
const WHITE: f32 = 16.0;

#[derive(Args)]
pub(crate) struct Demo {
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// One form of the model, converted and measured.
struct Form {
    numbers: Numbers,
    file: AlignedBytes,
    answers: Answers,
    accuracy: f64,
    log_loss: Option<f64>,
    /// Median run time per instruction set.
    latency_us: Vec<(Isa, f64)>,
    start_us: f64,
    allocations_per_run: f64,
}

impl Form {
    fn model(&self) -> Result<Model<'_>> {
        Ok(Model::open(self.file.as_slice())?)
    }

    fn fastest_us(&self) -> f64 {
        self.latency_us.last().map_or(f64::NAN, |(_, us)| *us)
    }
}

fn embedded(name: &str, bytes: &[u8]) -> Result<Dataset> {
    Ok(Dataset::new(Path::new(name), read_npz(Cursor::new(bytes))?)?)
}

fn make(numbers: Numbers, calibration: &Dataset, test: &Dataset) -> Result<Form> {
    let mut graph = import_onnx(bytes::Bytes::from_static(MODEL), None, &ImportOptions::default())?;
    graph.metadata.extend(provenance("digits.onnx", MODEL));
    let options = ConvertOptions { numbers, ..ConvertOptions::default() };
    let converted = convert_graph(Request {
        texts: None,
        graph,
        data: Some(calibration),
        search: None,
        options,
        quiet: true,
        dump_passes: None,
    })?;
    let file = AlignedBytes::new(&converted.file);
    let model = Model::open(file.as_slice())?;
    let found = answers(model, test, None, 0, Sequence::default(), true)?;
    let Quality::Classification(result) = quality(Task::Classify, &found, test)? else {
        unreachable!("the task is classification")
    };
    let mut latency_us = Vec::new();
    let (mut start_us, mut allocations_per_run) = (0.0, 0.0);
    for isa in Isa::available() {
        let measured = measure(file.as_slice(), Some(isa), &[], 0.3)?;
        latency_us.push((isa, measured.percentile(0.5)));
        start_us = measured.open_us + measured.prepare_us + measured.first_run_us;
        allocations_per_run = measured.allocations_per_run;
    }
    Ok(Form {
        numbers,
        accuracy: result.accuracy,
        log_loss: result.log_loss,
        answers: found,
        file,
        latency_us,
        start_us,
        allocations_per_run,
    })
}

/// Outputs that differ between instruction sets, counted over all test images.
fn differing_outputs(form: &Form, test: &Dataset) -> Result<usize> {
    let reference = answers(form.model()?, test, Some(Isa::Scalar), 0, Sequence::default(), true)?;
    let mut differing = 0;
    for isa in Isa::available() {
        let found = answers(form.model()?, test, Some(isa), 0, Sequence::default(), true)?;
        differing += found.rows.iter().zip(&reference.rows).filter(|(a, b)| a != b).count();
    }
    Ok(differing)
}

/// The answer to one image: the class with the largest score, and that score.
fn answer(form: &Form, sample: usize) -> (usize, f32) {
    let width = form.answers.width;
    let row = &form.answers.rows[sample * width..(sample + 1) * width];
    row.iter()
        .copied()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, found| if found.1 > best.1 { found } else { best })
}

/// Four images side by side, with what the first and last form say of them.
fn gallery(test: &Dataset, labels: &[usize], forms: &[&Form]) -> String {
    const SHADES: [char; 5] = [' ', '░', '▒', '▓', '█'];
    let Some(array) = test.arrays.values().next() else { return String::new() };
    let shown: Vec<usize> =
        [3, 8, 0, 5].iter().filter_map(|digit| labels.iter().position(|l| l == digit)).collect();
    let mut lines = Vec::new();
    for row in 0..SIDE {
        let mut line = String::from("  ");
        for sample in &shown {
            let pixels = array.sample_f32(*sample).unwrap_or_default();
            for pixel in pixels.iter().skip(row * SIDE).take(SIDE) {
                let shade = (pixel / WHITE * 4.0).round().clamp(0.0, 4.0) as usize;
                line.extend([SHADES[shade], SHADES[shade]]);
            }
            line.push_str("    ");
        }
        lines.push(line.trim_end().to_owned());
    }
    for form in forms {
        let mut line = String::from("  ");
        for sample in &shown {
            let (digit, score) = answer(form, *sample);
            let text = format!("{}: {digit}  {}", form.numbers, report::percent(f64::from(score)));
            line.push_str(&format!("{text:<20}"));
        }
        lines.push(line.trim_end().to_owned());
    }
    lines.join("\n")
}

impl Demo {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let begin = Instant::now();
        let (calibration, test) =
            (embedded("digits-calib.npz", CALIBRATION)?, embedded("digits-test.npz", TEST)?);
        let labels = test.class_labels(10)?;
        if !self.json {
            print_text(&format!(
                "A small network reads handwritten digits: {} images that it never saw, an ONNX file of {}.\n\
                 Converting it three ways, then measuring each on this machine ({}, one thread) …\n",
                test.samples(),
                report::bytes(MODEL.len() as u64),
                Isa::detect(),
            ))?;
        }
        let mut forms = Vec::new();
        for numbers in [Numbers::Float, Numbers::F16, Numbers::Int8] {
            forms.push(make(numbers, &calibration, &test)?);
        }
        let int8 = forms.last().expect("three forms");
        let differing = differing_outputs(int8, &test)?;
        let outputs = int8.answers.rows.len() * Isa::available().count();
        if self.json {
            print_json(&json(&forms, differing, begin.elapsed().as_secs_f64())?)?;
            return Ok(ExitCode::SUCCESS);
        }
        print_text(&gallery(&test, &labels, &[&forms[0], int8]))?;
        print_text(&format!("\n{}\n", table(&forms)?))?;
        let isas: Vec<&str> = Isa::available().map(Isa::name).collect();
        print_text(&format!(
            "Same file, same bits: {differing} of {outputs} int8 outputs differ between {}.\n\
             Nothing was allocated while running ({} allocations per run).\n\n\
             Done in {:.1} s. Now yours:\n  \
             whit convert model.onnx --quantize int8 --calibrate data.npz -o model.whit\n  \
             whit eval model.whit --data test.npz",
            isas.join(", "),
            int8.allocations_per_run,
            begin.elapsed().as_secs_f64(),
        ))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn table(forms: &[Form]) -> Result<String> {
    let float_us = forms[0].fastest_us();
    let mut rows = Vec::new();
    for form in forms {
        let model = form.model()?;
        let header = model.header();
        let scalar_us = form.latency_us.first().map_or(f64::NAN, |(_, us)| *us);
        rows.push(vec![
            form.numbers.to_string(),
            report::percent(form.accuracy),
            report::score(form.log_loss, 3),
            report::bytes(header.file_bytes),
            report::bytes(header.weight_bytes),
            report::bytes(header.arena_bytes),
            report::micros(form.fastest_us()),
            format!("{:.2} ×", float_us / form.fastest_us()),
            report::micros(scalar_us),
            report::micros(form.start_us),
        ]);
    }
    let right = Align::Right;
    Ok(report::table(
        &[
            ("", Align::Left),
            ("accuracy", right),
            ("log-loss", right),
            ("file", right),
            ("weights", right),
            ("arena", right),
            ("time", right),
            ("speed", right),
            ("scalar", right),
            ("cold start", right),
        ],
        &rows,
    ))
}

fn json(forms: &[Form], differing: usize, seconds: f64) -> Result<serde_json::Value> {
    let mut list = Vec::new();
    for form in forms {
        let model = form.model()?;
        let header = model.header();
        let latency: serde_json::Map<String, serde_json::Value> =
            form.latency_us.iter().map(|(isa, us)| (isa.name().to_owned(), json!(us))).collect();
        list.push(json!({
            "scheme": form.numbers.to_string(),
            "accuracy": form.accuracy,
            "log_loss": form.log_loss,
            "file_bytes": header.file_bytes,
            "weight_bytes": header.weight_bytes,
            "arena_bytes": header.arena_bytes,
            "macs": header.macs,
            "latency_us": latency,
            "cold_start_us": form.start_us,
            "allocations_per_run": form.allocations_per_run,
        }));
    }
    Ok(
        json!({ "forms": list, "int8_outputs_differing_between_isas": differing, "seconds": seconds }),
    )
}
