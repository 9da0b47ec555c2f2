//! Anomaly detection: one score per sample, higher is stranger.

use serde::Serialize;

use serde_json::{Value, json};
use whit_convert::statistics::ranking::PARTIAL_MAX_FPR;
use whit_convert::statistics::threshold::{Decisions, Rule};
use whit_convert::statistics::{
    Bootstrap, Interval, Ranked, Statistic, StatisticsError, check_rows, proportion,
};

use super::uncertainty::put_interval;
use super::{defined, ratio};

/// What a score is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ScoreKind {
    /// Mean squared difference of output and input: the output has the input's shape.
    ReconstructionError,
    /// The model's single output value.
    OutputValue,
}

/// How well scores separate anomalies. `null` marks what the data doesn't define.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Anomaly {
    pub(crate) samples: usize,
    pub(crate) score_kind: ScoreKind,
    /// Samples labelled as anomalies; `None` without labels.
    pub(crate) anomalies: Option<usize>,
    pub(crate) score_min: f32,
    pub(crate) score_median: f32,
    pub(crate) score_max: f32,
    pub(crate) roc_auc: Option<f64>,
    /// Up to a false-positive rate of 0.1, standardized (McClish): 0.5 is chance.
    pub(crate) partial_auc: Option<f64>,
    pub(crate) partial_auc_max_fpr: f64,
    pub(crate) average_precision: Option<f64>,
    pub(crate) best_f1: Option<OperatingPoint>,
    /// One score per sample.
    pub(crate) scores: Vec<f32>,
}

/// One score per sample from the model's inputs and outputs, `samples` rows each.
pub(crate) fn anomaly_scores(
    inputs: &[f32],
    outputs: &[f32],
    samples: usize,
) -> Result<(ScoreKind, Vec<f32>), StatisticsError> {
    let (input, output) = (inputs.len() / samples.max(1), outputs.len() / samples.max(1));
    check_rows("inputs", inputs, samples, input)?;
    check_rows("outputs", outputs, samples, output)?;
    // A model with one value in and out gives a score, not a reconstruction.
    if output == 1 {
        return Ok((ScoreKind::OutputValue, outputs.to_vec()));
    }
    if output != input {
        return Err(StatisticsError::NoScore { input, output });
    }
    let rows = inputs.chunks_exact(input).zip(outputs.chunks_exact(output));
    let scores = rows.map(|(x, y)| {
        let squares: f64 =
            x.iter().zip(y).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum();
        (squares / input as f64) as f32
    });
    Ok((ScoreKind::ReconstructionError, scores.collect()))
}

/// A threshold (`score >= threshold` is positive) and what it achieves.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct OperatingPoint {
    /// Scores from here up are positive.
    pub(crate) threshold: f32,
    pub(crate) f1: f64,
    pub(crate) precision: f64,
    pub(crate) recall: f64,
}

/// Describes scores; with labels, `ranked` is made of the same ones.
pub(crate) fn anomaly(
    score_kind: ScoreKind,
    scores: Vec<f32>,
    ranked: Option<(&Ranked, &[bool])>,
) -> Result<Anomaly, StatisticsError> {
    check_rows("scores", &scores, scores.len(), 1)?;
    let mut sorted = scores.clone();
    sorted.sort_by(f32::total_cmp);
    let middle = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        (sorted[middle - 1] + sorted[middle]) / 2.0
    };
    let value = |index: usize| ranked.and_then(|(ranked, _)| defined(ranked.value()[index]));
    let best_f1 = ranked.and_then(|(ranked, labels)| {
        let ranking = ranked.ranking();
        let threshold = Rule::F1.choose(ranking, &ranking.ones())?;
        let point = Rates::new(&Decisions::new(&scores, labels, threshold));
        let (f1, precision, recall) = (point.f1?, point.precision?, point.recall?);
        Some(OperatingPoint { threshold, f1, precision, recall })
    });
    Ok(Anomaly {
        samples: scores.len(),
        score_kind,
        anomalies: ranked.map(|(_, labels)| labels.iter().filter(|l| **l).count()),
        score_min: sorted[0],
        score_median: median,
        score_max: sorted[sorted.len() - 1],
        roc_auc: value(0),
        partial_auc: value(1),
        partial_auc_max_fpr: PARTIAL_MAX_FPR,
        average_precision: value(2),
        best_f1,
        scores,
    })
}

/// Shares of decisions.
struct Rates {
    precision: Option<f64>,
    recall: Option<f64>,
    f1: Option<f64>,
}

impl Rates {
    fn new(d: &Decisions) -> Rates {
        let (tp, fp, missed) =
            (d.true_positives as f64, d.false_positives as f64, d.false_negatives as f64);
        Rates {
            precision: ratio(tp, tp + fp),
            recall: ratio(tp, tp + missed),
            f1: ratio(2.0 * tp, 2.0 * tp + fp + missed),
        }
    }
}

/// A threshold that was chosen with labels, and its decisions.
pub(crate) struct Operation {
    /// How it was chosen, in words.
    pub(crate) rule: String,
    pub(crate) threshold: f32,
    /// How far it moves when the data is resampled.
    pub(crate) interval: Option<Interval>,
    pub(crate) decisions: Decisions,
    /// Name in JSON, name for people, hits, of how many, interval.
    pub(crate) rates: Vec<(&'static str, &'static str, u64, u64, Option<Interval>)>,
    pub(crate) f1: Option<f64>,
}

/// Chooses a threshold. `None` where the rule needs a class that the data doesn't have.
pub(crate) fn operation(
    rule: Rule,
    words: &str,
    ranked: &Ranked,
    scores: &[f32],
    positive: &[bool],
    options: &Bootstrap,
) -> Option<Operation> {
    let ranking = ranked.ranking();
    let threshold = rule.choose(ranking, &ranking.ones())?;
    let d = Decisions::new(scores, positive, threshold);
    let rates = [
        ("recall", "recall", d.true_positives, d.true_positives + d.false_negatives),
        (
            "false_positive_rate",
            "false-positive rate",
            d.false_positives,
            d.false_positives + d.true_negatives,
        ),
        ("precision", "precision", d.true_positives, d.true_positives + d.false_positives),
        ("accuracy", "accuracy", d.true_positives + d.true_negatives, scores.len() as u64),
    ];
    let with_interval = |(name, title, hits, of)| {
        (name, title, hits, of, proportion::wilson(hits, of, options.confidence))
    };
    Some(Operation {
        rule: words.to_owned(),
        threshold,
        interval: match rule {
            Rule::Fixed(_) => None,
            rule => rule.interval(ranking, ranked.strata(), options),
        },
        decisions: d,
        rates: rates.into_iter().map(with_interval).collect(),
        f1: Rates::new(&d).f1,
    })
}

impl Operation {
    /// Where the threshold lies on curves: (false-positive rate, recall, precision).
    pub(crate) fn place(&self) -> Option<(f64, f64, Option<f64>)> {
        let d = &self.decisions;
        let negatives = (d.false_positives + d.true_negatives) as f64;
        let rates = Rates::new(d);
        Some((ratio(d.false_positives as f64, negatives)?, rates.recall?, rates.precision))
    }

    pub(crate) fn json(&self) -> Value {
        let d = &self.decisions;
        let mut object = json!({
            "rule": self.rule,
            "threshold": self.threshold,
        });
        put_interval(&mut object, self.interval);
        object["true_positives"] = json!(d.true_positives);
        object["false_positives"] = json!(d.false_positives);
        object["true_negatives"] = json!(d.true_negatives);
        object["false_negatives"] = json!(d.false_negatives);
        object["f1"] = json!(self.f1);
        for (name, _, hits, of, interval) in &self.rates {
            let mut rate = json!({ "value": ratio(*hits as f64, *of as f64) });
            put_interval(&mut rate, *interval);
            object[*name] = rate;
        }
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_errors_or_outputs() {
        let (kind, scores) =
            anomaly_scores(&[0.0, 0.0, 1.0, 2.0], &[1.0, 0.0, 1.0, 4.0], 2).unwrap();
        assert_eq!((kind, scores), (ScoreKind::ReconstructionError, vec![0.5, 2.0]));
        let (kind, scores) = anomaly_scores(&[0.0, 0.0, 1.0, 2.0], &[7.0, 8.0], 2).unwrap();
        assert_eq!((kind, scores), (ScoreKind::OutputValue, vec![7.0, 8.0]));
        assert_eq!(
            anomaly_scores(&[0.0; 6], &[0.0; 4], 2),
            Err(StatisticsError::NoScore { input: 3, output: 2 })
        );
        assert_eq!(anomaly_scores(&[], &[], 0), Err(StatisticsError::Empty));
        assert!(anomaly_scores(&[0.0; 4], &[f32::NAN; 4], 2).is_err());
    }

    fn labelled(scores: &[f32], labels: &[bool]) -> Result<Anomaly, StatisticsError> {
        let ranked = Ranked::new(scores, labels)?;
        anomaly(ScoreKind::OutputValue, scores.to_vec(), Some((&ranked, labels)))
    }

    #[test]
    fn without_labels_only_the_scores_are_described() {
        let m = anomaly(ScoreKind::OutputValue, vec![3.0, 1.0, 2.0, 5.0], None).unwrap();
        assert_eq!((m.score_min, m.score_median, m.score_max), (1.0, 2.5, 5.0));
        assert_eq!((m.anomalies, m.roc_auc, &m.best_f1), (None, None, &None));
        let json = serde_json::to_value(&m).unwrap();
        assert_eq!(json["roc_auc"], serde_json::Value::Null);
        assert_eq!(json["score_kind"], "output_value");
    }

    #[test]
    fn with_labels() {
        let labels = [false, false, true, true];
        let m = labelled(&[1.0, 2.0, 3.0, 4.0], &labels).unwrap();
        assert_eq!((m.anomalies, m.roc_auc, m.partial_auc), (Some(2), Some(1.0), Some(1.0)));
        assert_eq!(m.best_f1.unwrap().threshold, 3.0);
        assert!(labelled(&[1.0], &labels).is_err());
    }

    /// scikit-learn's `precision_recall_curve` gives F1 = 2/3 at .4, .5 and .65; we take .65. The interval of 4 in 6 is
    /// statsmodels' `proportion_confint(4, 6, method='wilson')`.
    #[test]
    fn operations() {
        let scores = [
            0.1, 0.2, 0.2, 0.3, 0.3, 0.35, 0.4, 0.4, 0.5, 0.6, 0.7, 0.9, 0.4, 0.5, 0.65, 0.8, 0.95,
            1.0,
        ];
        let labels: Vec<bool> = (0..18).map(|i| i >= 12).collect();
        let best = labelled(&scores, &labels).unwrap().best_f1.unwrap();
        assert_eq!((best.threshold, best.f1), (0.65, 2.0 / 3.0));
        assert_eq!((best.precision, best.recall), (4.0 / 6.0, 4.0 / 6.0));
        let ranked = Ranked::new(&scores, &labels).unwrap();
        let options = Bootstrap::default();
        let chosen = operation(Rule::F1, "best F1", &ranked, &scores, &labels, &options).unwrap();
        let json = chosen.json();
        assert_eq!(
            (json["true_positives"].as_u64(), json["false_positives"].as_u64()),
            (Some(4), Some(2))
        );
        let low = json["recall"]["low"].as_f64().unwrap();
        assert!((low - 0.29999336).abs() < 1e-6, "{low}");
        assert!(json["low"].as_f64().unwrap() < 0.65 && json["high"].as_f64().unwrap() >= 0.65);
        let normal = Ranked::new(&[1.0], &[false]).unwrap();
        assert!(operation(Rule::F1, "best F1", &normal, &[1.0], &[false], &options).is_none());
    }
}
