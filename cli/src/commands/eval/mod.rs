//! `whit eval`: a model's quality on data and how sure it is, alone or against another model.

mod judge;
mod perplexity;
mod plots;
mod text;
mod threshold;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};
use whit::Model;
use whit_convert::evaluate::AlignedBytes;
use whit_convert::import::{ImportOptions, import_file};
use whit_convert::pipeline::{ConvertOptions, convert};
use whit_convert::statistics::Bootstrap;

use judge::{Agreement, Judged, agreement, judge};
pub(crate) use judge::{Answers, Quality, Task, answers, class_labels, quality};
use perplexity::PerplexityArgs;
use threshold::{Chosen, ThresholdArgs, parse_confidence};

use super::{Images, ModelPath, Sequence, Target, print_json, print_text};
use crate::data::Dataset;
use crate::metrics::{self, Comparison, FoldScores, Uncertainty};
use crate::plots::PlotFormat;
use crate::whit_file::{self, input_specs};

/// Resamples at most: 2000 are enough for the second digit of an interval's ends.
const MAX_RESAMPLES: u32 = 1_000_000;

#[derive(Args)]
pub(crate) struct Eval {
    #[command(flatten)]
    path: ModelPath,
    /// Inputs and labels: .npz, folder of .npy, or folder of images by class
    #[arg(long, value_name = "DATA", required_unless_present = "perplexity")]
    data: Option<PathBuf>,
    #[command(flatten)]
    text: PerplexityArgs,
    /// What the model does
    #[arg(long, value_enum, default_value_t = Task::Classify)]
    task: Task,
    /// Another model to compare with on the same data: .whit, or one that `whit convert` reads, which is converted as it is
    #[arg(long, value_name = "MODEL", visible_alias = "reference")]
    against: Option<PathBuf>,
    /// Which output holds the answer
    #[arg(long, default_value_t = 0)]
    output: usize,
    /// Which output of the other model does (default: the same as --output)
    #[arg(long, value_name = "OUTPUT", requires = "against")]
    against_output: Option<usize>,
    /// The class scores are logits: softmax them (sigmoid, if there is one), for log-loss and calibration
    #[arg(long)]
    logits: bool,
    /// Confidence of intervals, in percent
    #[arg(long, value_name = "PERCENT", default_value = "95", value_parser = parse_confidence)]
    confidence: f64,
    /// Bootstrap resamples; 0 leaves out intervals that need them
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(0..=i64::from(MAX_RESAMPLES)))]
    resamples: u32,
    /// Seed of resamples and folds
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Also score K parts of the data one by one, each with its share of every class
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(2..))]
    folds: Option<u32>,
    #[command(flatten)]
    threshold: ThresholdArgs,
    #[command(flatten)]
    sequence: Sequence,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    images: Images,
    /// Save plots into this folder: confusion matrix, ROC, precision and recall, reliability, scores
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Format of the plots
    #[arg(long, value_enum, default_value_t = PlotFormat::Svg, requires = "plots")]
    plot_format: PlotFormat,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// The other model's side of a comparison.
struct Against {
    name: String,
    judged: Option<Judged>,
    agreement: Agreement,
    comparison: Option<Comparison>,
}

/// All that is told.
struct Findings {
    judged: Judged,
    name: String,
    names: Option<Vec<String>>,
    bootstrap: Bootstrap,
    uncertainty: Option<Uncertainty>,
    folds: Option<FoldScores>,
    against: Option<Against>,
    threshold: Option<Chosen>,
    notes: Vec<String>,
}

/// The other model: a .whit file, or a model that is converted as it is.
fn model_bytes(path: &Path) -> Result<AlignedBytes> {
    if is_whit(path) {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        return Ok(AlignedBytes::new(&bytes));
    }
    let graph =
        import_file(path, &ImportOptions::default()).with_context(|| path.display().to_string())?;
    let options = ConvertOptions { golden_cases: 0, ..ConvertOptions::default() };
    let converted =
        convert(graph, None, &options, &mut ()).with_context(|| path.display().to_string())?;
    Ok(AlignedBytes::new(&converted.file))
}

fn is_whit(path: &Path) -> bool {
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && &magic == b"WHIT"
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned())
}

impl Eval {
    pub(crate) fn run(self) -> Result<ExitCode> {
        if let Some(folder) = self.plots.as_ref().filter(|folder| folder.is_file()) {
            bail!("--plots {}: that is a file, and a folder is wanted", folder.display());
        }
        let file = whit_file::open(&self.path.model)?;
        let model = whit_file::model(&file, &self.path.model)?;
        let settings = self.target.settings()?;
        let Some(data) = &self.data else {
            let names = [self.path.model.as_path()].into_iter().chain(self.against.as_deref());
            self.text.run(model, names.collect(), settings, self.json)?;
            return Ok(ExitCode::SUCCESS);
        };
        let image_spec = whit_file::image_spec(&input_specs(&model), &self.images);
        let data = Dataset::open(data, image_spec.as_ref())?;
        let own = answers(model, &data, settings, self.output, self.sequence, self.json)?;
        let other = match &self.against {
            Some(path) => {
                let bytes = model_bytes(path)?;
                let model =
                    Model::open(bytes.as_slice()).with_context(|| path.display().to_string())?;
                let output = self.against_output.unwrap_or(self.output);
                let found = answers(model, &data, settings, output, self.sequence, self.json)
                    .with_context(|| path.display().to_string())?;
                Some(found)
            }
            None => None,
        };
        let findings = self.find(&own, other.as_ref(), &data)?;
        let written = match &self.plots {
            Some(folder) => plots::write(&findings, folder, self.plot_format)?,
            None => Vec::new(),
        };
        if self.json {
            let mut object = self.json_object(&findings);
            if self.plots.is_some() {
                object["plots"] = written.iter().map(|path| path.display().to_string()).collect();
            }
            print_json(&object)?;
        } else {
            print_text(&text::findings(&findings))?;
            for path in written {
                eprintln!("saved {}", path.display());
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn find(&self, own: &Answers, other: Option<&Answers>, data: &Dataset) -> Result<Findings> {
        let bootstrap = Bootstrap {
            confidence: self.confidence,
            resamples: self.resamples as usize,
            seed: self.seed,
        };
        let mut name = file_name(&self.path.model);
        let agreement = other.map(|other| agreement(self.task, own, other)).transpose()?;
        let judged = judge(self.task, own, data, self.logits, other)?;
        let mut notes = Vec::new();
        if own.one_sequence {
            notes.push(
                "the model remembers, and all samples are steps of one sequence: they depend on each other, so that the \
                 intervals are too narrow"
                    .to_owned(),
            );
        }
        text::note_missing(&judged, &mut notes);
        let uncertainty = judged.statistic().map(|s| metrics::uncertainty(s, &bootstrap));
        let folds = match (self.folds, judged.statistic()) {
            (None, _) => None,
            (Some(count), Some(statistic)) => Some(
                metrics::fold_scores(statistic, count as usize, self.seed).context("--folds")?,
            ),
            (Some(_), None) => bail!(
                "--folds needs labels: {} has none, and scores without labels have no metric",
                data.path.display()
            ),
        };
        let against = match (other, &self.against, agreement) {
            (Some(other), Some(path), Some(agreement)) => {
                let mut against =
                    Against { name: file_name(path), judged: None, agreement, comparison: None };
                if against.name == name {
                    name = self.path.model.display().to_string();
                    against.name = path.display().to_string();
                }
                if !matches!(judged.quality, Quality::Embedding(_)) {
                    let theirs = judge(self.task, other, data, self.logits, None)
                        .with_context(|| path.display().to_string())?;
                    if let (Some(a), Some(b)) = (judged.statistic(), theirs.statistic()) {
                        let names = [name.as_str(), against.name.as_str()];
                        against.comparison = Some(metrics::comparison(a, b, names, &bootstrap)?);
                    }
                    against.judged = Some(theirs);
                }
                Some(against)
            }
            _ => None,
        };
        let threshold = self.threshold.choose(&judged, &bootstrap)?;
        let names = own.class_names.clone().or_else(|| data.class_names.clone());
        Ok(Findings {
            judged,
            name,
            names,
            bootstrap,
            uncertainty,
            folds,
            against,
            threshold,
            notes,
        })
    }

    fn json_object(&self, findings: &Findings) -> Value {
        let mut object = quality_json(&findings.judged.quality);
        object["model"] = json!(self.path.model.display().to_string());
        object["data"] = json!(self.data.as_ref().map(|path| path.display().to_string()));
        object["class_names"] = json!(findings.names);
        object["intervals"] =
            json!(findings.uncertainty.as_ref().map(|u| u.json(&findings.bootstrap)));
        if let Some(folds) = &findings.folds {
            object["folds"] = folds.json(self.seed);
        }
        if let Some(against) = &findings.against {
            let agreement = &against.agreement;
            if let Some(judged) = &against.judged {
                object["reference"] = quality_json(&judged.quality);
            }
            object["agreement"] = json!({
                "same_label": agreement.same_label,
                "max_abs_difference": agreement.max_abs_difference,
                "mean_abs_difference": agreement.mean_abs_difference,
                "max_relative_to_range": agreement.max_relative_to_range,
            });
            object["against"] = json!(self.against.as_ref().map(|path| path.display().to_string()));
            object["comparison"] = json!(against.comparison.as_ref().map(Comparison::json));
        }
        if let Some(threshold) = &findings.threshold {
            object["threshold"] = threshold.json();
        }
        object["notes"] = json!(findings.notes);
        object
    }
}

fn quality_json(quality: &Quality) -> Value {
    let (task, value) = match quality {
        Quality::Classification(c) => ("classify", serde_json::to_value(c)),
        Quality::Regression(r) => ("regress", serde_json::to_value(r)),
        Quality::Anomaly(a) => ("anomaly", serde_json::to_value(a)),
        Quality::Embedding(e) => ("embed", serde_json::to_value(e)),
        Quality::Pairs(p) => ("embed", serde_json::to_value(p)),
    };
    // Serializing plain structs of numbers can't fail.
    let mut value = value.unwrap_or_default();
    value["task"] = json!(task);
    value
}
