//! Classification: accuracy, per-class scores, confusion matrix, ROC-AUC and log-loss.

use serde::Serialize;

use super::ranking::roc_auc;
use super::{MetricsError, check_rows, mean_defined, ratio};

/// Probabilities are clipped to this and its complement before the logarithm, so that one sure
/// mistake costs 16.1 nats and not infinity.
pub(crate) const LOG_LOSS_CLIP: f64 = 1e-7;

/// int8 probabilities are multiples of 1/256: each is off by up to 1/512.
const PROBABILITY_STEP: f64 = 1.0 / 512.0;

/// How well scores name the class. `null` marks what the data doesn't define.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Classification {
    pub(crate) samples: usize,
    pub(crate) classes: usize,
    /// Share of samples whose highest score (the first of equals) is the label's.
    pub(crate) accuracy: f64,
    /// Share of samples whose label is among the five highest scores, of equals the first;
    /// `None` with five classes or fewer.
    pub(crate) top5_accuracy: Option<f64>,
    /// Mean of −ln p(label), p clipped to [1e-7, 1 − 1e-7]; `None` when the scores are no
    /// probabilities (outside 0..1, or rows that don't sum to 1 within int8's rounding).
    pub(crate) log_loss: Option<f64>,
    pub(crate) log_loss_clip: f64,
    /// Of class 1, when there are two classes.
    pub(crate) binary_roc_auc: Option<f64>,
    /// Mean over the classes where one-vs-rest AUC is defined.
    pub(crate) macro_roc_auc: Option<f64>,
    /// Plain mean over classes.
    #[serde(rename = "macro")]
    pub(crate) macro_average: Average,
    /// Over all decisions; equals accuracy here, because each sample has one label.
    pub(crate) micro: Average,
    /// Mean over classes, weighted by support.
    pub(crate) weighted: Average,
    pub(crate) per_class: Vec<ClassScores>,
    /// `confusion[label][prediction]`, in samples.
    pub(crate) confusion: Vec<Vec<u64>>,
}

/// Precision, recall and F1 over several classes; each mean is over the classes that define it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Average {
    pub(crate) precision: Option<f64>,
    pub(crate) recall: Option<f64>,
    pub(crate) f1: Option<f64>,
}

/// One class against the rest.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ClassScores {
    pub(crate) class: usize,
    /// Of the samples called this class, the share that is; `None` when none was.
    pub(crate) precision: Option<f64>,
    /// Of the samples of this class, the share called so; `None` when there are none.
    pub(crate) recall: Option<f64>,
    /// 2·TP / (2·TP + FP + FN).
    pub(crate) f1: Option<f64>,
    pub(crate) roc_auc: Option<f64>,
    /// Samples of this class.
    pub(crate) support: u64,
}

/// Scores `labels.len()` rows of `classes` scores each. Scores may be logits; only log-loss needs
/// probabilities.
pub(crate) fn classify(
    scores: &[f32],
    labels: &[usize],
    classes: usize,
) -> Result<Classification, MetricsError> {
    check_rows("scores", scores, labels.len(), classes)?;
    if let Some((sample, label)) = labels.iter().enumerate().find(|(_, l)| **l >= classes) {
        return Err(MetricsError::Label { sample, label: *label, classes });
    }
    let mut confusion = vec![vec![0u64; classes]; classes];
    let mut in_top5 = 0u64;
    for (row, label) in scores.chunks_exact(classes).zip(labels) {
        confusion[*label][argmax(row)] += 1;
        in_top5 += u64::from(rank(row, *label) < 5);
    }
    let samples = labels.len();
    let correct: u64 = (0..classes).map(|c| confusion[c][c]).sum();
    let accuracy = correct as f64 / samples as f64;

    let per_class: Vec<ClassScores> = (0..classes)
        .map(|class| {
            let support: u64 = confusion[class].iter().sum();
            let predicted: u64 = confusion.iter().map(|row| row[class]).sum();
            let hits = confusion[class][class] as f64;
            let of_class: Vec<f32> = scores.iter().skip(class).step_by(classes).copied().collect();
            let is_class: Vec<bool> = labels.iter().map(|l| *l == class).collect();
            ClassScores {
                class,
                precision: ratio(hits, predicted as f64),
                recall: ratio(hits, support as f64),
                f1: ratio(2.0 * hits, (support + predicted) as f64),
                roc_auc: roc_auc(&of_class, &is_class),
                support,
            }
        })
        .collect();

    let plain = |value: fn(&ClassScores) -> Option<f64>| mean_defined(per_class.iter().map(value));
    let weighted = |value: fn(&ClassScores) -> Option<f64>| {
        let defined = per_class.iter().filter_map(|c| Some((value(c)?, c.support as f64)));
        let (sum, weight) = defined.fold((0.0, 0.0), |(s, w), (v, n)| (s + v * n, w + n));
        ratio(sum, weight)
    };
    Ok(Classification {
        samples,
        classes,
        accuracy,
        top5_accuracy: (classes > 5).then(|| in_top5 as f64 / samples as f64),
        log_loss: log_loss(scores, labels, classes),
        log_loss_clip: LOG_LOSS_CLIP,
        binary_roc_auc: (classes == 2).then(|| per_class[1].roc_auc).flatten(),
        macro_roc_auc: plain(|c| c.roc_auc),
        macro_average: Average {
            precision: plain(|c| c.precision),
            recall: plain(|c| c.recall),
            f1: plain(|c| c.f1),
        },
        micro: Average { precision: Some(accuracy), recall: Some(accuracy), f1: Some(accuracy) },
        weighted: Average {
            precision: weighted(|c| c.precision),
            recall: weighted(|c| c.recall),
            f1: weighted(|c| c.f1),
        },
        per_class,
        confusion,
    })
}

/// One probability p per sample as the two classes [1 − p, p].
pub(crate) fn expand_binary(probabilities: &[f32]) -> Vec<f32> {
    probabilities.iter().flat_map(|p| [1.0 - p, *p]).collect()
}

/// The index of the highest score, of equals the first.
fn argmax(row: &[f32]) -> usize {
    let mut best = 0;
    for (i, score) in row.iter().enumerate() {
        if *score > row[best] {
            best = i;
        }
    }
    best
}

/// How many classes come before `label`: those with a higher score, or an equal one and a lower
/// index.
fn rank(row: &[f32], label: usize) -> usize {
    row.iter()
        .enumerate()
        .filter(|(i, s)| **s > row[label] || (**s == row[label] && *i < label))
        .count()
}

fn log_loss(scores: &[f32], labels: &[usize], classes: usize) -> Option<f64> {
    let tolerance = 0.01 + PROBABILITY_STEP * classes as f64;
    let mut sum = 0.0;
    for (row, label) in scores.chunks_exact(classes).zip(labels) {
        let total: f64 = row.iter().map(|p| f64::from(*p)).sum();
        if row.iter().any(|p| !(0.0..=1.0).contains(p)) || (total - 1.0).abs() > tolerance {
            return None;
        }
        sum -= f64::from(row[*label]).clamp(LOG_LOSS_CLIP, 1.0 - LOG_LOSS_CLIP).ln();
    }
    Some(sum / labels.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::super::{MAX_ERR_F32, MAX_ERR_SUM, assert_close};
    use super::*;

    const SCORES: [f32; 30] = [
        0.7, 0.2, 0.1, 0.2, 0.5, 0.3, 0.1, 0.3, 0.6, 0.5, 0.3, 0.2, 0.3, 0.4, 0.3, //
        0.2, 0.2, 0.6, 0.6, 0.3, 0.1, 0.1, 0.6, 0.3, 0.4, 0.4, 0.2, 0.25, 0.25, 0.5,
    ];

    /// scikit-learn 1.9.1, S = SCORES as 10 × 3, p = S.argmax(1):
    /// `confusion_matrix(y, p)`, `precision_recall_fscore_support(y, p, average=None)`,
    /// `roc_auc_score(y == c, S[:, c])`, `roc_auc_score(y, S, multi_class='ovr')`, `log_loss(y, S)`.
    #[test]
    fn three_classes() {
        let m = classify(&SCORES, &[0, 1, 2, 1, 1, 2, 0, 2, 0, 0], 3).unwrap();
        assert_eq!(m.accuracy, 0.7);
        assert_eq!(m.confusion, [[3, 0, 1], [1, 2, 0], [0, 1, 2]]);
        let auc = [0.875, 0.7380952380952381, 0.9047619047619047];
        for (c, (share, support)) in
            m.per_class.iter().zip([(0.75, 4), (2.0 / 3.0, 3), (2.0 / 3.0, 3)])
        {
            assert_close(c.precision, Some(share), MAX_ERR_SUM);
            assert_close(c.recall, Some(share), MAX_ERR_SUM);
            assert_close(c.f1, Some(share), MAX_ERR_SUM);
            assert_close(c.roc_auc, Some(auc[c.class]), MAX_ERR_SUM);
            assert_eq!(c.support, support);
        }
        assert_close(m.macro_roc_auc, Some(0.8392857142857143), MAX_ERR_SUM);
        assert_close(m.log_loss, Some(0.8209120429316723), MAX_ERR_F32);
        assert_close(m.macro_average.f1, Some(0.6944444444444443), MAX_ERR_SUM);
        assert_close(m.weighted.recall, Some(0.7), MAX_ERR_SUM);
        assert_close(m.micro.f1, Some(0.7), MAX_ERR_SUM);
        assert_eq!((m.top5_accuracy, m.binary_roc_auc), (None, None));
    }

    /// scikit-learn 1.9.1, y = [0, 0, 1, 1, 3], p = [0, 1, 1, 1, 0]:
    /// `precision_recall_fscore_support(y, p, labels=range(4), average=…, zero_division=nan)`.
    #[test]
    fn undefined_is_none_and_left_out_of_averages() {
        let predictions = [0usize, 1, 1, 1, 0];
        let scores: Vec<f32> = predictions
            .iter()
            .flat_map(|p| (0..4).map(|c| if c == *p { 2.0 } else { -1.0 }))
            .collect();
        let m = classify(&scores, &[0, 0, 1, 1, 3], 4).unwrap();
        let precision = [Some(0.5), Some(2.0 / 3.0), None, None];
        let recall = [Some(0.5), Some(1.0), None, Some(0.0)];
        let f1 = [Some(0.5), Some(0.8), None, Some(0.0)];
        for c in &m.per_class {
            assert_close(c.precision, precision[c.class], MAX_ERR_SUM);
            assert_close(c.recall, recall[c.class], MAX_ERR_SUM);
            assert_close(c.f1, f1[c.class], MAX_ERR_SUM);
        }
        assert_eq!(m.per_class[2].roc_auc, None);
        assert_close(m.macro_average.precision, Some(0.5833333333333333), MAX_ERR_SUM);
        assert_close(m.macro_average.recall, Some(0.5), MAX_ERR_SUM);
        assert_close(m.macro_average.f1, Some(0.43333333333333335), MAX_ERR_SUM);
        assert_close(m.weighted.precision, Some(0.5833333333333333), MAX_ERR_SUM);
        assert_close(m.weighted.recall, Some(0.6), MAX_ERR_SUM);
        assert_close(m.weighted.f1, Some(0.52), MAX_ERR_SUM);
        assert_eq!(m.log_loss, None, "logits are no probabilities");
        let json = serde_json::to_value(&m).unwrap();
        assert_eq!(json["per_class"][2]["recall"], serde_json::Value::Null);
        assert_eq!(json["log_loss"], serde_json::Value::Null);
        assert_eq!(json["macro"]["recall"], 0.5);
    }

    /// scikit-learn 1.9.1: `roc_auc_score(y, s)` with ties, `log_loss(y, s)`.
    #[test]
    fn binary() {
        let scores = expand_binary(&[0.1, 0.4, 0.35, 0.8, 0.4, 0.4, 0.2, 0.9]);
        let m = classify(&scores, &[0, 0, 1, 1, 0, 1, 0, 1], 2).unwrap();
        assert_close(m.binary_roc_auc, Some(0.8125), MAX_ERR_SUM);
        assert_close(m.log_loss, Some(0.45559652973111076), MAX_ERR_F32);
        let one_class = classify(&scores, &[1; 8], 2).unwrap();
        assert_eq!((one_class.binary_roc_auc, one_class.macro_roc_auc), (None, None));
    }

    #[test]
    fn log_loss_is_clipped() {
        let m = classify(&[1.0, 0.0], &[1], 2).unwrap();
        assert_close(m.log_loss, Some(-(1e-7f64).ln()), MAX_ERR_SUM);
        // int8 probabilities: 255/256 is the highest, rows need not sum to 1.
        assert!(classify(&[0.99609375, 0.0], &[0], 2).unwrap().log_loss.is_some());
        assert_eq!(classify(&[0.5, 0.2], &[0], 2).unwrap().log_loss, None);
    }

    #[test]
    fn top5_counts_the_first_of_equals() {
        let row = [0.0, 5.0, 4.0, 3.0, 2.0, 0.0, 0.0f32];
        for (label, hit) in [(0, 1.0), (1, 1.0), (4, 1.0), (5, 0.0), (6, 0.0)] {
            assert_eq!(
                classify(&row, &[label], 7).unwrap().top5_accuracy,
                Some(hit),
                "label {label}"
            );
        }
    }

    #[test]
    fn refusals() {
        assert_eq!(classify(&[], &[], 3), Err(MetricsError::Empty));
        assert_eq!(classify(&[0.0, f32::NAN], &[0], 2), Err(MetricsError::NonFinite { sample: 0 }));
        assert_eq!(
            classify(&[0.0, 1.0, 1.0, 0.0], &[0, 2], 2),
            Err(MetricsError::Label { sample: 1, label: 2, classes: 2 })
        );
        assert!(matches!(
            classify(&[0.0; 3], &[0, 1], 2),
            Err(MetricsError::Length { want: 4, got: 3, .. })
        ));
    }
}
