//! Anomaly detection: one score per sample, higher is stranger.

use serde::Serialize;

use super::ranking::{OperatingPoint, average_precision, best_f1, partial_auc, roc_auc};
use super::{MetricsError, check_rows};

/// The false-positive rate up to which DCASE and MLPerf Tiny report the partial AUC.
pub(crate) const PARTIAL_MAX_FPR: f64 = 0.1;

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
) -> Result<(ScoreKind, Vec<f32>), MetricsError> {
    let (input, output) = (inputs.len() / samples.max(1), outputs.len() / samples.max(1));
    check_rows("inputs", inputs, samples, input)?;
    check_rows("outputs", outputs, samples, output)?;
    // A model with one value in and out gives a score, not a reconstruction.
    if output == 1 {
        return Ok((ScoreKind::OutputValue, outputs.to_vec()));
    }
    if output != input {
        return Err(MetricsError::NoScore { input, output });
    }
    let rows = inputs.chunks_exact(input).zip(outputs.chunks_exact(output));
    let scores = rows.map(|(x, y)| {
        let squares: f64 =
            x.iter().zip(y).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum();
        (squares / input as f64) as f32
    });
    Ok((ScoreKind::ReconstructionError, scores.collect()))
}

/// Scores the scores. `anomalous` has one entry per sample.
pub(crate) fn anomaly(
    score_kind: ScoreKind,
    scores: Vec<f32>,
    anomalous: Option<&[bool]>,
) -> Result<Anomaly, MetricsError> {
    check_rows("scores", &scores, scores.len(), 1)?;
    if let Some(labels) = anomalous.filter(|l| l.len() != scores.len()) {
        return Err(MetricsError::Length { what: "labels", want: scores.len(), got: labels.len() });
    }
    let mut sorted = scores.clone();
    sorted.sort_by(f32::total_cmp);
    let middle = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        (sorted[middle - 1] + sorted[middle]) / 2.0
    };
    Ok(Anomaly {
        samples: scores.len(),
        score_kind,
        anomalies: anomalous.map(|labels| labels.iter().filter(|l| **l).count()),
        score_min: sorted[0],
        score_median: median,
        score_max: sorted[sorted.len() - 1],
        roc_auc: anomalous.and_then(|l| roc_auc(&scores, l)),
        partial_auc: anomalous.and_then(|l| partial_auc(&scores, l, PARTIAL_MAX_FPR)),
        partial_auc_max_fpr: PARTIAL_MAX_FPR,
        average_precision: anomalous.and_then(|l| average_precision(&scores, l)),
        best_f1: anomalous.and_then(|l| best_f1(&scores, l)),
        scores,
    })
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
            Err(MetricsError::NoScore { input: 3, output: 2 })
        );
        assert_eq!(anomaly_scores(&[], &[], 0), Err(MetricsError::Empty));
        assert!(anomaly_scores(&[0.0; 4], &[f32::NAN; 4], 2).is_err());
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
        let m = anomaly(ScoreKind::OutputValue, vec![1.0, 2.0, 3.0, 4.0], Some(&labels)).unwrap();
        assert_eq!((m.anomalies, m.roc_auc, m.partial_auc), (Some(2), Some(1.0), Some(1.0)));
        assert_eq!(m.best_f1.unwrap().threshold, 3.0);
        assert!(anomaly(ScoreKind::OutputValue, vec![1.0], Some(&labels)).is_err());
    }
}
