//! From a model and data to answers, and from answers and labels to scores.

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;
use whit::Model;
use whit_convert::evaluate::Samples;
use whit_convert::statistics::{
    Classified, Matched, Pairs, Ranked, Regressed, Statistic, StatisticsError, calibration,
};

use super::super::Sequence;
use crate::data::Dataset;
use crate::metrics::{self, Anomaly, Classification, Embedding, PairScores, Regression};
use crate::program;
use crate::samples::{Bound, progress_bar, run_all};
use crate::whit_file::{self, input_specs, tensor_info};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Task {
    /// Scores per class; labels are class indices
    Classify,
    /// Numbers; labels are targets
    Regress,
    /// One score per sample, or a reconstruction; labels are 1 for anomalies
    Anomaly,
    /// Vectors; needs --against, or labels that score pairs of rows
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
    pub(super) samples: usize,
    pub(super) class_names: Option<Vec<String>>,
    /// Whether all samples are steps of one sequence.
    pub(super) one_sequence: bool,
}

/// The quality of one model.
pub(crate) enum Quality {
    /// Boxed, being much larger than the others.
    Classification(Box<Classification>),
    Regression(Regression),
    Anomaly(Anomaly),
    Embedding(Embedding),
    Pairs(PairScores),
}

/// What a quality was computed from.
pub(super) enum Scored {
    Classified {
        classified: Classified,
        scores: Vec<f32>,
    },
    Regressed {
        regressed: Regressed,
        predictions: Vec<f32>,
        targets: Vec<f32>,
    },
    Ranked {
        ranked: Ranked,
        scores: Vec<f32>,
        labels: Vec<bool>,
    },
    /// Anomaly scores without labels.
    Unlabelled {
        scores: Vec<f32>,
    },
    Matched(Matched),
    Pairs(Pairs),
}

/// A model's quality, and what can be computed further.
pub(crate) struct Judged {
    pub(crate) quality: Quality,
    pub(super) scored: Scored,
}

impl Judged {
    /// What has intervals; nothing without labels.
    pub(super) fn statistic(&self) -> Option<&dyn Statistic> {
        match &self.scored {
            Scored::Classified { classified, .. } => Some(classified),
            Scored::Regressed { regressed, .. } => Some(regressed),
            Scored::Ranked { ranked, .. } => Some(ranked),
            Scored::Unlabelled { .. } => None,
            Scored::Matched(matched) => Some(matched),
            Scored::Pairs(pairs) => Some(pairs),
        }
    }
}

/// Runs a model on a data set.
pub(crate) fn answers(
    model: Model<'_>,
    data: &Dataset,
    settings: impl Into<whit_file::Settings>,
    output: usize,
    sequence: Sequence,
    quiet: bool,
) -> Result<Answers> {
    let infos: Vec<_> = model.inputs().filter_map(|tensor| tensor_info(&model, tensor)).collect();
    let ranks: Vec<usize> = infos.iter().map(|info| info.dims.len()).collect();
    let bound = Bound::new(data, input_specs(&model), &ranks)?;
    bound.check_finite(data)?;
    let mut program = program::prepare(model, settings)?;
    let count = model.outputs().len();
    if output >= count {
        bail!("--output {output}: the model has {count} outputs, counted from 0");
    }
    let bar = (!quiet).then(|| progress_bar("evaluating", bound.len()));
    let mut outputs = run_all(program.prepared(), &bound, sequence, &mut |done| {
        if let Some(bar) = &bar {
            bar.set_position(done as u64);
        }
    })?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let (width, rows) = outputs.rows.swap_remove(output);
    let inputs = match (data.arrays.values().next(), data.arrays.len()) {
        // Of data that is larger than memory only what a reconstruction is compared with.
        (Some(array), 1)
            if array.in_memory().is_some()
                || array.sample_shape().iter().product::<usize>() == width =>
        {
            let mut inputs = Vec::new();
            for sample in 0..array.samples() {
                inputs.extend(array.sample_f32(sample)?);
            }
            inputs
        }
        _ => Vec::new(),
    };
    Ok(Answers {
        width,
        rows,
        inputs,
        samples: data.samples(),
        class_names: whit_file::class_names(&model),
        one_sequence: model.header().state_bytes > 0 && sequence.reset_every.is_none(),
    })
}

/// Scores answers against labels, or vectors against a reference's.
pub(crate) fn judge(
    task: Task,
    answers: &Answers,
    data: &Dataset,
    logits: bool,
    reference: Option<&Answers>,
) -> Result<Judged> {
    if logits && task != Task::Classify {
        bail!("--logits is for --task classify: only class scores become probabilities");
    }
    Ok(match task {
        Task::Classify => {
            let (scores, classes) = class_scores(answers, logits)?;
            let labels = class_labels(answers.class_names.as_deref(), data, classes)?;
            let classified = Classified::new(&scores, &labels, classes)?;
            let quality = metrics::classify(&classified, &scores, &labels);
            Judged {
                quality: Quality::Classification(Box::new(quality)),
                scored: Scored::Classified { classified, scores },
            }
        }
        Task::Regress => {
            let (predictions, targets) = (answers.rows.clone(), data.targets()?);
            let regressed =
                Regressed::new(&predictions, &targets, answers.width).map_err(|error| match error {
                    StatisticsError::Length { .. } => anyhow!(
                        "the model gives {} values per sample, the labels have {}: targets need the output's shape \
                         (choose another with --output)",
                        answers.width,
                        targets.len() / answers.samples.max(1)
                    ),
                    other => other.into(),
                })?;
            let quality = metrics::regression(&regressed, &predictions, &targets);
            Judged {
                quality: Quality::Regression(quality),
                scored: Scored::Regressed { regressed, predictions, targets },
            }
        }
        Task::Anomaly => {
            let (kind, scores) =
                metrics::anomaly_scores(&answers.inputs, &answers.rows, answers.samples)?;
            let labels: Option<Vec<bool>> = match data.labels {
                Some(_) => {
                    Some(data.class_labels(2)?.into_iter().map(|label| label == 1).collect())
                }
                None => None,
            };
            let ranked = labels.as_ref().map(|labels| Ranked::new(&scores, labels)).transpose()?;
            let with_labels = ranked.as_ref().zip(labels.as_deref());
            let quality = Quality::Anomaly(metrics::anomaly(kind, scores.clone(), with_labels)?);
            let scored = match (ranked, labels) {
                (Some(ranked), Some(labels)) => Scored::Ranked { ranked, scores, labels },
                _ => Scored::Unlabelled { scores },
            };
            Judged { quality, scored }
        }
        Task::Embed => embed(answers, data, reference)?,
    })
}

fn embed(answers: &Answers, data: &Dataset, reference: Option<&Answers>) -> Result<Judged> {
    if data.labels.is_some() {
        let labels = data.targets()?;
        if labels.len() != answers.samples {
            bail!(
                "labels of embeddings score pairs: one number per row; there are {} for {} rows",
                labels.len(),
                answers.samples
            );
        }
        let pairs = Pairs::new(&answers.rows, &labels, answers.width)?;
        let quality = Quality::Pairs(metrics::pair_scores(&pairs, answers.width));
        return Ok(Judged { quality, scored: Scored::Pairs(pairs) });
    }
    let reference = reference.ok_or_else(|| {
        anyhow!(
            "--task embed compares vectors with another model's: give --against MODEL, or data with labels that score \
             pairs (rows 0 and 1, 2 and 3, …)"
        )
    })?;
    if answers.width != reference.width {
        bail!("vectors have {} values, the other model's {}", answers.width, reference.width);
    }
    let matched = Matched::new(&answers.rows, &reference.rows, answers.width)?;
    let quality = Quality::Embedding(metrics::embedding(&matched, answers.width));
    Ok(Judged { quality, scored: Scored::Matched(matched) })
}

/// Scores per class and the number of classes. One score per sample is the probability of class 1.
fn class_scores(answers: &Answers, logits: bool) -> Result<(Vec<f32>, usize)> {
    // A NaN or an infinity stays what it is, and is reported with its sample.
    Ok(match (answers.width, logits) {
        (0, _) => bail!("the output is empty: choose another with --output"),
        (1, false) => {
            if let Some(at) =
                answers.rows.iter().position(|p| p.is_finite() && !(0.0..=1.0).contains(p))
            {
                bail!(
                    "the model gives one value per sample, the probability of class 1; sample {at} has {}: is it a logit \
                     (--logits), or is this --task regress or anomaly?",
                    answers.rows[at]
                );
            }
            (metrics::expand_binary(&answers.rows), 2)
        }
        (1, true) => {
            let pairs: Vec<f32> = answers.rows.iter().flat_map(|logit| [0.0, *logit]).collect();
            (calibration::softmax(&pairs, 2), 2)
        }
        (classes, false) => (answers.rows.clone(), classes),
        (classes, true) => (calibration::softmax(&answers.rows, classes), classes),
    })
}

/// Labels in the model's order of classes: folders are matched to it by name.
pub(crate) fn class_labels(
    names: Option<&[String]>,
    data: &Dataset,
    classes: usize,
) -> Result<Vec<usize>> {
    let (Some(folders), Some(names)) = (&data.class_names, names) else {
        if let Some(folders) = data.class_names.as_ref().filter(|folders| folders.len() > classes) {
            bail!(
                "{}: {} folders of classes ({}), but the model tells {classes} apart",
                data.path.display(),
                folders.len(),
                folders.join(", ")
            );
        }
        return Ok(data.class_labels(classes)?);
    };
    let labels = data.class_labels(folders.len())?;
    if folders == names {
        return Ok(labels);
    }
    let index = |folder: &String| names.iter().position(|name| name == folder);
    let unknown: Vec<&str> = folders
        .iter()
        .filter(|f| index(f).is_none_or(|i| i >= classes))
        .map(String::as_str)
        .collect();
    if !unknown.is_empty() {
        bail!(
            "{}: the model has no class {}; its classes are {}",
            data.path.display(),
            unknown.join(", "),
            names.join(", ")
        );
    }
    let of_folder: Vec<usize> = folders.iter().filter_map(index).collect();
    Ok(labels.into_iter().map(|label| of_folder[label]).collect())
}

/// How closely two models answer.
pub(super) struct Agreement {
    /// Share of samples with the same largest score; classification only.
    pub(super) same_label: Option<f64>,
    pub(super) max_abs_difference: f64,
    pub(super) mean_abs_difference: f64,
    /// Largest difference over the range of the reference's answers.
    pub(super) max_relative_to_range: f64,
}

pub(super) fn agreement(task: Task, answers: &Answers, reference: &Answers) -> Result<Agreement> {
    if answers.width != reference.width {
        bail!(
            "the model gives {} values per sample, the one it is compared with {}: two models are compared on the same \
             outputs (--output, --against-output)",
            answers.width,
            reference.width
        );
    }
    if let (Some(own), Some(other)) = (&answers.class_names, &reference.class_names)
        && own != other
        && task == Task::Classify
    {
        let at =
            own.iter().zip(other).position(|(a, b)| a != b).unwrap_or(own.len().min(other.len()));
        let name =
            |names: &[String]| names.get(at).map_or("missing".to_owned(), |n| format!("`{n}`"));
        bail!(
            "the models name their classes differently: class {at} is {} in one and {} in the other",
            name(own),
            name(other)
        );
    }
    let differences: Vec<f64> =
        answers.rows.iter().zip(&reference.rows).map(|(a, b)| f64::from((a - b).abs())).collect();
    let max = differences.iter().copied().fold(0.0, f64::max);
    let low = reference.rows.iter().copied().fold(f32::INFINITY, f32::min);
    let high = reference.rows.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let width = answers.width.max(1);
    let largest = whit_convert::statistics::classification::argmax;
    let same = answers
        .rows
        .chunks_exact(width)
        .zip(reference.rows.chunks_exact(width))
        .filter(|(a, b)| largest(a) == largest(b))
        .count();
    Ok(Agreement {
        same_label: (task == Task::Classify && width > 1)
            .then(|| same as f64 / answers.samples.max(1) as f64),
        max_abs_difference: max,
        mean_abs_difference: differences.iter().sum::<f64>() / differences.len().max(1) as f64,
        max_relative_to_range: max / f64::from((high - low).max(f32::MIN_POSITIVE)),
    })
}

/// The quality of one model on labelled data.
pub(crate) fn quality(task: Task, answers: &Answers, data: &Dataset) -> Result<Quality> {
    Ok(judge(task, answers, data, false, None)
        .with_context(|| data.path.display().to_string())?
        .quality)
}
