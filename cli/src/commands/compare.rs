//! `whit compare`: a float model and the file it was quantized to, layer by layer: where the error is made, why, and
//! what helps.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use whit_convert::evaluate::{Program, Samples};
use whit_convert::graph::Graph;
use whit_convert::import::import_file;
use whit_convert::import::transformers::weights_file;
use whit_convert::pipeline::{Watch, rewrite_float};
use whit_convert::plan::PlanOptions;
use whit_convert::quantize::calibrate::{Method, PERCENTILE};
use whit_convert::quantize::diagnose::remedy::{Attempts, WORTH_DB, try_remedies};
use whit_convert::quantize::diagnose::{CauseKind, Comparison, Layer, compare};
use whit_convert::quantize::improve::Improvement;
use whit_convert::quantize::numbers::Numbers;

use super::convert::{graph_specs, write_whole};
use super::import_args::ImportArgs;
use super::{Images, print_json, print_text};
use crate::data::Dataset;
use crate::report::{self, Align};
use crate::report_html::{self, Page};
use crate::samples::{Bound, progress_bar};
use crate::whit_file::{self, image_spec, input_specs};

/// Layers in the table, unless all are asked for.
const ROWS: usize = 12;

/// Characters of a layer's name in the table.
const NAME_CHARS: usize = 36;

/// Steps of improvement that are tried: those that take seconds. Learning takes minutes, and is its own decision.
const TRIED_STEPS: [Improvement; 3] = [Improvement::Equalize, Improvement::Gptq, Improvement::Bias];

/// Remedies in the text.
const REMEDIES: usize = 6;

#[derive(Args)]
pub(crate) struct Compare {
    /// The float model that the file was converted from: .onnx, .tflite, or a float .whit
    model: PathBuf,
    /// The quantized file
    file: PathBuf,
    /// Inputs to run both on: .npz, folder of .npy, or folder of images by class
    #[arg(long, value_name = "DATA")]
    data: PathBuf,
    /// Calibration data for the remedies that are tried (default: the samples of --data)
    #[arg(long, value_name = "DATA")]
    calibrate: Option<PathBuf>,
    /// Use at most this many samples
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    samples: u32,
    /// How many of the worst layers remedies are tried for; 0 tries none
    #[arg(long, value_name = "N", default_value_t = 4)]
    remedies: usize,
    /// List every layer
    #[arg(long)]
    all: bool,
    /// Order of the layers
    #[arg(long, value_enum, default_value_t = Sort::Outputs)]
    sort: Sort,
    #[command(flatten)]
    import: ImportArgs,
    #[command(flatten)]
    images: Images,
    /// Write a page with plots, too
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Sort {
    /// By what each layer alone does to the outputs
    Outputs,
    /// By the error that a layer introduces, relative to its own output
    Introduced,
    /// In the order in which they run
    Graph,
}

/// Shows progress.
pub(crate) struct Bar(pub(crate) ProgressBar);

impl Watch for Bar {
    fn progress(&mut self, stage: &str, done: usize, total: usize) {
        self.0.set_prefix(stage.to_owned());
        self.0.set_length(total as u64);
        self.0.set_position(done as u64);
    }
}

impl Compare {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let mapped = whit_file::open(&self.file)?;
        let file = whit_file::model(&mapped, &self.file)?;
        if !is_quantized(&file) {
            bail!(
                "{}: the file is float, there is nothing to compare; convert the model with --quantize int8, int16, \
                 w8, w6, w5, w4nl, w4 or f16 first",
                self.file.display()
            );
        }
        let is_whit = self.model.extension().is_some_and(|extension| extension == "whit");
        let weights = weights_file(&self.model)?;
        let source = std::fs::read(&weights).with_context(|| weights.display().to_string())?;
        let mut notes = Vec::new();
        let hash: String =
            Sha256::digest(&source).iter().map(|byte| format!("{byte:02x}")).collect();
        let sources = if is_whit {
            let reference = whit_file::open(&self.model)?;
            let reference = whit_file::model(&reference, &self.model)?;
            reference.metadata_value("source.sha256").map(str::to_owned)
        } else {
            Some(hash)
        };
        match (file.metadata_value("source.sha256"), sources) {
            (Some(wanted), Some(have)) if wanted != have => notes.push(format!(
                "{} was converted from another file (`{}`, or an earlier version of it); layers are matched by name",
                self.file.display(),
                file.metadata_value("source.file").unwrap_or("?")
            )),
            _ => {}
        }
        drop(source);

        let mut graph = None;
        let (program, reference_file);
        let reference = if is_whit {
            reference_file = whit_file::open(&self.model)?;
            whit_file::model(&reference_file, &self.model)?
        } else {
            let integers = file.tensors().any(|t| t.scale != 0.0);
            let float = self.import(integers)?;
            program = Program::new(&float, &PlanOptions::default())
                .with_context(|| self.model.display().to_string())?;
            graph = Some(float);
            program.model()?
        };
        let (specs, ranks) = match &graph {
            Some(graph) => graph_specs(graph),
            None => {
                let ranks = reference.inputs().filter_map(|t| reference.tensor(t));
                (input_specs(&reference), ranks.map(|t| usize::from(t.rank)).collect())
            }
        };
        let images = image_spec(&specs, &self.images);
        let open = |path: &Path| Dataset::open(path, images.as_ref());
        let mut data = open(&self.data)?;
        data.truncate(self.samples as usize);
        let samples = Bound::new(&data, specs.clone(), &ranks)?;
        samples.check_finite(&data)?;
        let calibration = self.calibrate.as_deref().map(open).transpose()?;
        let calibration = match &calibration {
            Some(data) => {
                let bound = Bound::new(data, specs, &ranks)?;
                bound.check_finite(data)?;
                Some(bound)
            }
            None => None,
        };

        let bar = if self.json { ProgressBar::hidden() } else { progress_bar("comparing", 1) };
        let mut watch = Bar(bar);
        let failed = || format!("{} against {}", self.model.display(), self.file.display());
        let mut comparison =
            compare(reference, graph.as_ref(), file, &samples, &mut watch).with_context(failed)?;
        match &graph {
            Some(graph) if self.remedies > 0 => {
                let samples: &dyn Samples = &samples;
                let calibration =
                    calibration.as_ref().map_or(samples, |bound| bound as &dyn Samples);
                let attempts = attempts(&file, samples, calibration, self.remedies, &mut notes);
                if let Some(attempts) = attempts {
                    try_remedies(&mut comparison, graph, &attempts, &mut watch)
                        .with_context(failed)?;
                }
            }
            None if self.remedies > 0 => notes.push(
                "remedies are tried with the .onnx or .tflite source; a .whit file has no graph to quantize anew"
                    .to_owned(),
            ),
            _ => {}
        }
        watch.0.finish_and_clear();
        let stray = comparison.baseline_db.filter(|db| (db - comparison.output_snr_db).abs() > 1.0);
        if let Some(db) = stray {
            notes.push(format!(
                "quantized again from the source as the file says it was, the outputs are at {db:.1} dB and not the file's \
                 {:.1}: the file was made with other data or steps of improvement; gains count from {db:.1} dB",
                comparison.output_snr_db
            ));
        }
        if let Some(path) = &self.html {
            let page = Page {
                title: format!("{} against {}", name_of(&self.file), name_of(&self.model)),
                subtitle: format!(
                    "layer by layer on {} samples of {}",
                    comparison.samples,
                    self.data.display()
                ),
                tiles: vec![
                    (
                        format!("{} dB", db(comparison.output_snr_db)),
                        "outputs, signal over error".to_owned(),
                    ),
                    (comparison.layers.len().to_string(), "layers compared".to_owned()),
                    (report::bytes(file.header().file_bytes), "file".to_owned()),
                    (report::bytes(file.header().arena_bytes), "arena".to_owned()),
                ],
                summary: summary_lines(&comparison),
                notes: notes.clone(),
                ..Page::default()
            };
            let html = report_html::render(&page, Some(&comparison))?;
            write_whole(path, html.as_bytes())?;
        }
        self.print(&comparison, &notes)
    }

    fn import(&self, integers: bool) -> Result<Graph> {
        let options = self.import.options()?;
        let mut graph =
            import_file(&self.model, &options).with_context(|| self.model.display().to_string())?;
        if !rewrite_float(&mut graph, integers) {
            bail!(
                "{}: the model is quantized itself; give the float model that {} was converted from",
                self.model.display(),
                self.file.display()
            );
        }
        Ok(graph)
    }

    fn print(&self, comparison: &Comparison, notes: &[String]) -> Result<ExitCode> {
        if self.json {
            let mut value = serde_json::to_value(comparison)?;
            if let Value::Object(object) = &mut value {
                object.insert("model".to_owned(), json!(self.model.display().to_string()));
                object.insert("file".to_owned(), json!(self.file.display().to_string()));
                object.insert("summary".to_owned(), json!(summary(comparison)));
                object.insert("notes".to_owned(), json!(notes));
            }
            print_json(&value)?;
            return Ok(ExitCode::SUCCESS);
        }
        for note in notes {
            eprintln!("note: {note}");
        }
        let mut text = layer_table(comparison, self.sort, (!self.all).then_some(ROWS));
        text.push_str("\n\n");
        text.push_str(&summary(comparison));
        if !comparison.remedies.is_empty() {
            text.push_str("\n\n");
            text.push_str(&remedy_table(comparison));
        }
        print_text(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Whether anything in a file has other numbers than floats.
fn is_quantized(model: &whit::Model<'_>) -> bool {
    let layers: std::collections::BTreeSet<u32> = model
        .steps()
        .flat_map(|step| model.operands(&step).take(usize::from(step.input_count)).skip(1).take(1))
        .collect();
    model.tensors().enumerate().any(|(at, tensor)| {
        let stored = layers.contains(&(at as u32))
            && tensor.storage == whit::format::Storage::Constant as u8
            && tensor.layout != whit::format::Layout::Dense as u8
            && tensor.dtype != whit::DType::F32 as u8;
        tensor.scale != 0.0 || stored
    })
}

/// What can be tried for a file: it says how it was made.
fn attempts<'a>(
    file: &whit::Model<'_>,
    samples: &'a dyn Samples,
    calibration: &'a dyn Samples,
    layers: usize,
    notes: &mut Vec<String>,
) -> Option<Attempts<'a>> {
    let scheme = file.metadata_value("quantization.scheme").unwrap_or("none");
    let Some(numbers) = scheme.parse::<Numbers>().ok().or_else(|| mixed(file)) else {
        notes.push(format!(
            "no remedies were tried: the file's scheme is `{scheme}`, its scales come from the source model"
        ));
        return None;
    };
    let by = file.metadata_value("quantization.calibration").unwrap_or("min-max");
    let known = [
        ("auto", "auto", Method::Auto),
        ("min-max", "minmax", Method::MinMax),
        ("mse", "mse", Method::Mse),
        ("entropy", "entropy", Method::Entropy),
        ("moving average", "average", Method::Average),
    ];
    let percent = by.strip_prefix("percentile ");
    let percent = percent.and_then(|rest| rest.split(' ').next()?.parse().ok());
    let method = percent.map(Method::Percentile).or_else(|| {
        let named = known.iter().find(|(text, ..)| by.starts_with(&format!("{text} over")));
        named.map(|(.., method)| *method)
    });
    let method = method.unwrap_or(Method::MinMax);
    let mut other_methods: Vec<(String, Method)> =
        known.iter().map(|(_, name, method)| (format!("--method {name}"), *method)).collect();
    for percent in [99.9, PERCENTILE] {
        let options = format!("--method percentile --percentile {percent}");
        other_methods.push((options, Method::Percentile(percent)));
    }
    other_methods.retain(|(_, other)| *other != method);
    let applied = file.metadata_value("quantization.improvements").unwrap_or_default();
    let applied: Vec<Improvement> =
        applied.split(',').filter_map(|name| name.parse().ok()).collect();
    Some(Attempts {
        calibration,
        samples,
        method,
        numbers,
        other_methods,
        improvements: TRIED_STEPS.into_iter().filter(|step| !applied.contains(step)).collect(),
        applied,
        layers,
        seed: 0,
    })
}

/// The numbers of a file whose layers have several.
fn mixed(file: &whit::Model<'_>) -> Option<Numbers> {
    let scheme = file.metadata_value("quantization.scheme")?;
    (scheme == "auto").then_some(Numbers::Int8)
}

/// Layers in the order asked for.
fn sorted(comparison: &Comparison, sort: Sort) -> Vec<&Layer> {
    let mut layers: Vec<&Layer> = comparison.layers.iter().collect();
    let introduced = |a: &&Layer, b: &&Layer| a.introduced_db.total_cmp(&b.introduced_db);
    match sort {
        Sort::Graph => {}
        Sort::Introduced => layers.sort_by(introduced),
        Sort::Outputs => layers.sort_by(|a, b| {
            let share = |layer: &Layer| layer.output_share.unwrap_or(0.0);
            share(b).total_cmp(&share(a)).then_with(|| introduced(a, b))
        }),
    }
    layers
}

fn db(db: f64) -> String {
    if db.is_finite() { format!("{db:.1}") } else { "exact".to_owned() }
}

fn shorten(name: &str) -> String {
    let count = name.chars().count();
    if count <= NAME_CHARS {
        return name.to_owned();
    }
    // The end of a path tells layers apart better than its beginning.
    std::iter::once('…').chain(name.chars().skip(count - NAME_CHARS + 1)).collect()
}

fn layer_table(comparison: &Comparison, sort: Sort, limit: Option<usize>) -> String {
    let layers = sorted(comparison, sort);
    let shown = limit.unwrap_or(layers.len()).min(layers.len());
    let rows: Vec<Vec<String>> = layers[..shown]
        .iter()
        .map(|layer| {
            vec![
                shorten(&layer.name),
                layer.op.clone(),
                layer.dtype.clone(),
                db(layer.total_db),
                db(layer.inherited_db),
                db(layer.introduced_db),
                layer.output_db.map_or(report::UNDEFINED.to_owned(), db),
                report::percent(layer.output_share),
                layer.causes.iter().map(|cause| cause.kind.name()).collect::<Vec<_>>().join(", "),
            ]
        })
        .collect();
    let header = [
        ("layer", Align::Left),
        ("op", Align::Left),
        ("type", Align::Left),
        ("total dB", Align::Right),
        ("inherited", Align::Right),
        ("own", Align::Right),
        ("outputs", Align::Right),
        ("share", Align::Right),
        ("cause", Align::Left),
    ];
    let mut text = report::table(&header, &rows);
    if shown < layers.len() {
        text.push_str(&format!("\n… and {} more: --all", layers.len() - shown));
    }
    text
}

fn remedy_table(comparison: &Comparison) -> String {
    let rows: Vec<Vec<String>> = comparison
        .remedies
        .iter()
        .take(REMEDIES)
        .map(|remedy| {
            vec![
                format!("{:+.1}", remedy.gain_db),
                format!("{:.1}", remedy.output_db),
                report::signed_bytes(remedy.constant_bytes),
                report::signed_bytes(remedy.arena_bytes),
                remedy.options.clone(),
            ]
        })
        .collect();
    let header = [
        ("gain dB", Align::Right),
        ("outputs", Align::Right),
        ("weights", Align::Right),
        ("arena", Align::Right),
        ("convert with", Align::Left),
    ];
    report::table(&header, &rows)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The comparison in a few sentences, a paragraph each.
pub(crate) fn summary_lines(comparison: &Comparison) -> Vec<String> {
    summary(comparison).lines().map(str::to_owned).collect()
}

/// The comparison in a few sentences.
fn summary(comparison: &Comparison) -> String {
    let mut text = format!(
        "{} layers compared on {} samples: the outputs are at {} dB",
        comparison.layers.len(),
        comparison.samples,
        db(comparison.output_snr_db)
    );
    if comparison.output_snr_db.is_finite() {
        let share = 10f64.powf(-comparison.output_snr_db / 20.0);
        text.push_str(&format!(" (errors of {} of their size)", report::percent(share)));
    }
    text.push('.');
    let worst: Vec<&Layer> = sorted(comparison, Sort::Outputs)
        .into_iter()
        .filter(|layer| layer.introduced_db.is_finite())
        .take(3)
        .collect();
    let share: f64 = worst.iter().filter_map(|layer| layer.output_share).sum();
    if share > 0.0 && !worst.is_empty() {
        let names: Vec<String> = worst
            .iter()
            .map(|layer| format!("`{}` ({})", layer.name, report::percent(layer.output_share)))
            .collect();
        text.push_str(&format!(
            " Taken one by one, {} make {} of the error there.",
            names.join(", "),
            report::percent(share.min(1.0))
        ));
    }
    for layer in worst {
        let told = layer
            .causes
            .iter()
            .find(|cause| !matches!(cause.kind, CauseKind::DeadChannels | CauseKind::Inherited));
        if let Some(cause) = told {
            text.push_str(&format!("\n`{}`: {}: {}.", layer.name, cause.kind.name(), cause.text));
        }
    }
    let alone = comparison.only_in_file.len() + comparison.only_in_model.len();
    if alone + comparison.ambiguous.len() > 0 {
        text.push_str(&format!(
            "\n{} steps of the file and {} of the model have no counterpart (fused or absorbed)",
            comparison.only_in_file.len(),
            comparison.only_in_model.len()
        ));
        if !comparison.ambiguous.is_empty() {
            text.push_str(&format!("; {} names occur more than once", comparison.ambiguous.len()));
        }
        text.push('.');
    }
    match comparison.remedies.first() {
        Some(best) if best.gain_db >= WORTH_DB => text.push_str(&format!(
            "\nOf what was tried, `{}` helps most: {:+.1} dB, the outputs would be at {:.1} dB.",
            best.options, best.gain_db, best.output_db
        )),
        Some(_) => text.push_str("\nNothing that was tried brings the outputs closer."),
        None => {}
    }
    text
}
