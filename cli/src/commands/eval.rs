//! `whit eval`: a model's quality on data, alone or beside a reference.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use whit::{Isa, Model};
use whit_convert::evaluate::{AlignedBytes, Samples};
use whit_convert::import::{ImportOptions, import_file};
use whit_convert::pipeline::{ConvertOptions, convert};

use super::{Images, ModelPath, Sequence, Target, print_json, print_text};
use crate::data::Dataset;
use crate::metrics::{self, Anomaly, Classification, Embedding, Regression};
use crate::report::{self, Align};
use crate::samples::{Bound, progress_bar, run_all};
use crate::whit_file::{self, input_specs, tensor_info};

#[derive(Args)]
pub(crate) struct Eval {
    #[command(flatten)]
    path: ModelPath,
    /// Inputs and labels: .npz, folder of .npy, or folder of images by class
    #[arg(long, value_name = "DATA")]
    data: PathBuf,
    /// What the model does
    #[arg(long, value_enum, default_value_t = Task::Classify)]
    task: Task,
    /// A second model (.whit or .onnx) to compare with, on the same data
    #[arg(long, value_name = "MODEL")]
    reference: Option<PathBuf>,
    /// Which output holds the answer
    #[arg(long, default_value_t = 0)]
    output: usize,
    #[command(flatten)]
    sequence: Sequence,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    images: Images,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Task {
    /// Scores per class; labels are class indices
    Classify,
    /// Numbers; labels are targets
    Regress,
    /// One score per sample, or a reconstruction; labels are 1 for anomalies
    Anomaly,
    /// Vectors; needs --reference
    Embed,
}

/// The answers of one model to all samples.
pub(crate) struct Answers {
    /// Values per sample.
    pub(crate) width: usize,
    /// All rows.
    pub(crate) rows: Vec<f32>,
    /// All inputs as reals, for reconstruction errors.
    inputs: Vec<f32>,
    samples: usize,
    class_names: Option<Vec<String>>,
}

/// The quality of one model.
pub(crate) enum Quality {
    Classification(Classification),
    Regression(Regression),
    Anomaly(Anomaly),
}

/// Runs a model on a data set.
pub(crate) fn answers(
    model: Model<'_>,
    data: &Dataset,
    isa: Option<Isa>,
    output: usize,
    sequence: Sequence,
    quiet: bool,
) -> Result<Answers> {
    let infos: Vec<_> = model.inputs().filter_map(|tensor| tensor_info(&model, tensor)).collect();
    let ranks: Vec<usize> = infos.iter().map(|info| info.dims.len()).collect();
    let bound = Bound::new(data, input_specs(&model), &ranks)?;
    bound.check_finite(data)?;
    let mut session = whit_file::session(model, isa)?;
    let count = model.outputs().len();
    if output >= count {
        bail!("--output {output}: the model has {count} outputs, counted from 0");
    }
    let bar = (!quiet).then(|| progress_bar("evaluating", bound.len()));
    let mut outputs = run_all(&mut session, &bound, sequence, &mut |done| {
        if let Some(bar) = &bar {
            bar.set_position(done as u64);
        }
    })?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let (width, rows) = outputs.rows.swap_remove(output);
    let inputs = match (data.arrays.values().next(), data.arrays.len()) {
        (Some(array), 1) => {
            (0..array.samples()).flat_map(|sample| array.sample_f32(sample)).collect()
        }
        _ => Vec::new(),
    };
    let labels =
        model.metadata_value("labels").map(|text| text.lines().map(str::to_owned).collect());
    Ok(Answers { width, rows, inputs, samples: data.samples(), class_names: labels })
}

/// Scores answers against labels.
pub(crate) fn quality(task: Task, answers: &Answers, data: &Dataset) -> Result<Quality> {
    Ok(match task {
        Task::Classify => {
            // One score per sample is the probability of class 1.
            let (rows, classes) = if answers.width == 1 {
                (metrics::expand_binary(&answers.rows), 2)
            } else {
                (answers.rows.clone(), answers.width)
            };
            let labels = data.class_labels(classes)?;
            Quality::Classification(metrics::classify(&rows, &labels, classes)?)
        }
        Task::Regress => Quality::Regression(metrics::regression(
            &answers.rows,
            &data.targets()?,
            answers.width,
        )?),
        Task::Anomaly => {
            let (kind, scores) =
                metrics::anomaly_scores(&answers.inputs, &answers.rows, answers.samples)?;
            let labels = match data.labels {
                Some(_) => Some(
                    data.class_labels(2)?.into_iter().map(|label| label == 1).collect::<Vec<_>>(),
                ),
                None => None,
            };
            Quality::Anomaly(metrics::anomaly(kind, scores, labels.as_deref())?)
        }
        Task::Embed => {
            bail!("--task embed compares vectors with a reference: give --reference MODEL")
        }
    })
}

/// How closely two models answer.
struct Agreement {
    /// Share of samples with the same largest score; classification only.
    same_label: Option<f64>,
    max_abs_difference: f64,
    mean_abs_difference: f64,
    /// Largest difference over the range of the reference's answers.
    max_relative_to_range: f64,
}

fn argmax(row: &[f32]) -> usize {
    row.iter()
        .enumerate()
        .fold(0, |best, (index, value)| if *value > row[best] { index } else { best })
}

fn agreement(task: Task, answers: &Answers, reference: &Answers) -> Result<Agreement> {
    if answers.width != reference.width {
        bail!(
            "the model gives {} values per sample, the reference {}",
            answers.width,
            reference.width
        );
    }
    let differences: Vec<f64> =
        answers.rows.iter().zip(&reference.rows).map(|(a, b)| f64::from((a - b).abs())).collect();
    let max = differences.iter().copied().fold(0.0, f64::max);
    let low = reference.rows.iter().copied().fold(f32::INFINITY, f32::min);
    let high = reference.rows.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let width = answers.width.max(1);
    let same = answers
        .rows
        .chunks_exact(width)
        .zip(reference.rows.chunks_exact(width))
        .filter(|(a, b)| argmax(a) == argmax(b))
        .count();
    Ok(Agreement {
        same_label: (task == Task::Classify && width > 1)
            .then(|| same as f64 / answers.samples.max(1) as f64),
        max_abs_difference: max,
        mean_abs_difference: differences.iter().sum::<f64>() / differences.len().max(1) as f64,
        max_relative_to_range: max / f64::from((high - low).max(f32::MIN_POSITIVE)),
    })
}

/// The reference: a .whit file, or a model that is converted as it is.
fn reference_bytes(path: &Path) -> Result<AlignedBytes> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    if bytes.starts_with(b"WHIT") {
        return Ok(AlignedBytes::new(&bytes));
    }
    let graph =
        import_file(path, &ImportOptions::default()).with_context(|| path.display().to_string())?;
    let options = ConvertOptions { golden_cases: 0, ..ConvertOptions::default() };
    let converted = convert(graph, None, &options, &mut ())?;
    Ok(AlignedBytes::new(&converted.file))
}

impl Eval {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let file = whit_file::open(&self.path.model)?;
        let model = whit_file::model(&file, &self.path.model)?;
        let image_spec = whit_file::image_spec(&input_specs(&model), &self.images);
        let data = Dataset::open(&self.data, image_spec.as_ref())?;
        let isa = self.target.isa()?;
        let own = answers(model, &data, isa, self.output, self.sequence, self.json)?;
        let reference = match &self.reference {
            Some(path) => {
                let bytes = reference_bytes(path)?;
                let model =
                    Model::open(bytes.as_slice()).with_context(|| path.display().to_string())?;
                Some(answers(model, &data, isa, self.output, self.sequence, self.json)?)
            }
            None => None,
        };
        if self.task == Task::Embed {
            let reference = reference.ok_or_else(|| {
                anyhow!("--task embed compares vectors with a reference: give --reference MODEL")
            })?;
            if own.width != reference.width {
                bail!("vectors have {} values, the reference's {}", own.width, reference.width);
            }
            let result = metrics::embedding(&own.rows, &reference.rows, own.width)?;
            return self.report_embedding(&result);
        }
        let result = quality(self.task, &own, &data)?;
        let beside = match &reference {
            Some(reference) => Some((
                quality(self.task, reference, &data)?,
                agreement(self.task, &own, reference)?,
            )),
            None => None,
        };
        let names = data.class_names.as_ref().or(own.class_names.as_ref());
        if self.json {
            let mut object = quality_json(&result);
            object["model"] = json!(self.path.model.display().to_string());
            object["data"] = json!(self.data.display().to_string());
            if let Some((quality, agreement)) = &beside {
                object["reference"] = quality_json(quality);
                object["agreement"] = json!({
                    "same_label": agreement.same_label,
                    "max_abs_difference": agreement.max_abs_difference,
                    "mean_abs_difference": agreement.mean_abs_difference,
                    "max_relative_to_range": agreement.max_relative_to_range,
                });
            }
            print_json(&object)?;
        } else {
            print_text(&quality_text(
                &result,
                beside.as_ref().map(|(quality, _)| quality),
                names.map(Vec::as_slice),
            ))?;
            if let Some((_, agreement)) = &beside {
                let mut fields = vec![
                    ("largest difference", format!("{:.3e}", agreement.max_abs_difference)),
                    ("mean difference", format!("{:.3e}", agreement.mean_abs_difference)),
                    ("largest, over range", format!("{:.3e}", agreement.max_relative_to_range)),
                ];
                if let Some(same) = agreement.same_label {
                    fields.insert(0, ("same label", report::percent(same)));
                }
                print_text(&format!("\nbeside the reference\n{}", report::fields(&fields)))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn report_embedding(&self, result: &Embedding) -> Result<ExitCode> {
        if self.json {
            let mut object = serde_json::to_value(result)?;
            object["task"] = json!("embed");
            print_json(&object)?;
        } else {
            print_text(&report::fields(&[
                ("samples", result.samples.to_string()),
                ("dimensions", result.dimensions.to_string()),
                ("cosine, mean", report::score(result.cosine_mean, 6)),
                ("cosine, lowest", report::score(result.cosine_min, 6)),
            ]))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn quality_json(quality: &Quality) -> Value {
    let (task, value) = match quality {
        Quality::Classification(c) => ("classify", serde_json::to_value(c)),
        Quality::Regression(r) => ("regress", serde_json::to_value(r)),
        Quality::Anomaly(a) => ("anomaly", serde_json::to_value(a)),
    };
    // Serializing plain structs of numbers can't fail.
    let mut value = value.unwrap_or_default();
    value["task"] = json!(task);
    value
}

fn quality_text(
    quality: &Quality,
    reference: Option<&Quality>,
    names: Option<&[String]>,
) -> String {
    let left = Align::Left;
    let mut header = vec![("", left), ("model", Align::Right)];
    if reference.is_some() {
        header.push(("reference", Align::Right));
    }
    let rows = |fields: &dyn Fn(&Quality) -> Vec<(&'static str, String)>| -> Vec<Vec<String>> {
        let other = reference.map(fields);
        fields(quality)
            .into_iter()
            .enumerate()
            .map(|(index, (name, value))| {
                let beside = other
                    .as_ref()
                    .and_then(|other| other.get(index))
                    .map(|(_, value)| value.clone());
                [name.to_owned(), value].into_iter().chain(beside).collect()
            })
            .collect()
    };
    let summary = report::table(&header, &rows(&headline));
    match quality {
        Quality::Classification(c) => {
            let right = Align::Right;
            let header = [
                ("class", left),
                ("precision", right),
                ("recall", right),
                ("F1", right),
                ("ROC-AUC", right),
                ("samples", right),
            ];
            let per_class: Vec<Vec<String>> = c
                .per_class
                .iter()
                .map(|class| {
                    let name = names.and_then(|names| names.get(class.class)).cloned();
                    vec![
                        name.unwrap_or_else(|| class.class.to_string()),
                        report::score(class.precision, 3),
                        report::score(class.recall, 3),
                        report::score(class.f1, 3),
                        report::score(class.roc_auc, 3),
                        class.support.to_string(),
                    ]
                })
                .collect();
            format!(
                "{summary}\n\n{}\n\n{}",
                report::table(&header, &per_class),
                report::confusion(&c.confusion, names)
            )
        }
        Quality::Regression(_) | Quality::Anomaly(_) => summary,
    }
}

/// The numbers that sum a result up.
fn headline(quality: &Quality) -> Vec<(&'static str, String)> {
    let three = |value: Option<f64>| report::score(value, 3);
    match quality {
        Quality::Classification(c) => {
            let mut fields =
                vec![("samples", c.samples.to_string()), ("accuracy", report::percent(c.accuracy))];
            if c.top5_accuracy.is_some() {
                fields.push(("top-5 accuracy", report::percent(c.top5_accuracy)));
            }
            fields.extend([
                ("precision, macro", three(c.macro_average.precision)),
                ("recall, macro", three(c.macro_average.recall)),
                ("F1, macro", three(c.macro_average.f1)),
                ("F1, weighted", three(c.weighted.f1)),
                ("ROC-AUC, macro", three(c.macro_roc_auc)),
                ("log-loss", three(c.log_loss)),
            ]);
            fields
        }
        Quality::Regression(r) => vec![
            ("samples", r.samples.to_string()),
            ("MAE", report::score(r.overall.mae, 4)),
            ("RMSE", report::score(r.overall.rmse, 4)),
            ("R²", report::score(r.overall.r2, 4)),
            ("largest error", report::score(r.overall.max_error, 4)),
        ],
        Quality::Anomaly(a) => {
            let mut fields = vec![
                ("samples", a.samples.to_string()),
                ("score, lowest", format!("{:.4}", a.score_min)),
                ("score, median", format!("{:.4}", a.score_median)),
                ("score, highest", format!("{:.4}", a.score_max)),
            ];
            if a.anomalies.is_some() {
                fields.extend([
                    ("ROC-AUC", three(a.roc_auc)),
                    ("partial AUC (FPR ≤ 0.1)", three(a.partial_auc)),
                    ("average precision", three(a.average_precision)),
                    ("best F1", three(a.best_f1.as_ref().map(|point| point.f1))),
                ]);
            }
            fields
        }
    }
}
