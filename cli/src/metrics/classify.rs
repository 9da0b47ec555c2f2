//! Classification: accuracy, per-class scores, confusion matrix, ROC-AUC, calibration.

use serde::Serialize;
use whit_convert::statistics::calibration::{
    self, Bin, LOG_LOSS_CLIP, expected_error, maximum_error, overconfidence,
};
use whit_convert::statistics::{Classified, Ranking, Statistic};

use super::{defined, mean_defined, ratio};

/// Confusions that are listed, the most frequent ones.
const TOP_CONFUSIONS: usize = 10;

/// How well scores name the class. `null` marks what the data doesn't define.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Classification {
    pub(crate) samples: usize,
    pub(crate) classes: usize,
    /// Share of samples whose highest score (the first of equals) is the label's.
    pub(crate) accuracy: f64,
    /// Mean recall of the classes that have samples.
    pub(crate) balanced_accuracy: Option<f64>,
    /// Share of samples whose label is among the five highest scores, of equals the first;
    /// `None` with five classes or fewer.
    pub(crate) top5_accuracy: Option<f64>,
    /// Mean of −ln p(label), p clipped to [1e-7, 1 − 1e-7]; `None` when the scores are no
    /// probabilities (outside 0..1, or rows that don't sum to 1 within int8's rounding).
    pub(crate) log_loss: Option<f64>,
    pub(crate) log_loss_clip: f64,
    /// Mean squared distance of probabilities and label; with two classes, of class 1 alone.
    pub(crate) brier: Option<f64>,
    /// Of class 1, when there are two classes.
    pub(crate) binary_roc_auc: Option<f64>,
    /// Of class 1, when there are two classes.
    pub(crate) average_precision: Option<f64>,
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
    /// The most frequent mistakes.
    pub(crate) top_confusions: Vec<Confusion>,
    /// `None` when the scores are no probabilities.
    pub(crate) calibration: Option<Calibration>,
}

/// Samples of one class that were called another.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Confusion {
    pub(crate) label: usize,
    pub(crate) predicted: usize,
    pub(crate) samples: u64,
    /// Of the samples with this label.
    pub(crate) share_of_label: f64,
}

/// Whether the probability of the class answered is how often the answer is right.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Calibration {
    /// Expected calibration error over bins of equal width.
    pub(crate) ece: Option<f64>,
    /// The same over bins of equally many samples.
    pub(crate) ece_equal_mass: Option<f64>,
    /// The worst bin of equal width.
    pub(crate) mce: Option<f64>,
    /// Mean confidence − accuracy: above 0, surer than right.
    pub(crate) overconfidence: Option<f64>,
    /// Bins of equal width.
    pub(crate) bins: Vec<ReliabilityBin>,
}

/// Answers whose confidence lies in (`from`, `to`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ReliabilityBin {
    pub(crate) from: f64,
    pub(crate) to: f64,
    pub(crate) samples: u64,
    pub(crate) confidence: Option<f64>,
    pub(crate) accuracy: Option<f64>,
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

/// Describes answers: `scores` are those that `classified` was made of.
pub(crate) fn classify(
    classified: &Classified,
    scores: &[f32],
    labels: &[usize],
) -> Classification {
    let (classes, ones) = (classified.classes(), vec![1; labels.len()]);
    let confusion: Vec<Vec<u64>> =
        classified.confusion(&ones).chunks_exact(classes).map(<[u64]>::to_vec).collect();
    let in_top5 = (scores.chunks_exact(classes).zip(labels))
        .filter(|(row, label)| rank(row, **label) < 5)
        .count();
    let values = classified.value();
    let value = |name: &str| {
        let at = classified.metrics().iter().position(|metric| metric.name == name)?;
        defined(values[at])
    };
    let samples = labels.len();
    let accuracy = value("accuracy").unwrap_or_default();

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
                roc_auc: defined(Ranking::new(&of_class, &is_class).roc_auc(&ones)),
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
    Classification {
        samples,
        classes,
        accuracy,
        balanced_accuracy: value("balanced_accuracy"),
        top5_accuracy: (classes > 5).then(|| in_top5 as f64 / samples as f64),
        log_loss: value("log_loss"),
        log_loss_clip: LOG_LOSS_CLIP,
        brier: value("brier"),
        binary_roc_auc: value("binary_roc_auc"),
        average_precision: value("average_precision"),
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
        top_confusions: top_confusions(&confusion),
        calibration: classified
            .probabilities()
            .map(|probabilities| calibration(probabilities, &ones)),
        per_class,
        confusion,
    }
}

fn calibration(probabilities: &calibration::Probabilities, ones: &[u32]) -> Calibration {
    let bins = probabilities.equal_width(ones);
    let bin = |bin: &Bin| ReliabilityBin {
        from: bin.from,
        to: bin.to,
        samples: bin.samples,
        confidence: defined(bin.confidence),
        accuracy: defined(bin.accuracy),
    };
    Calibration {
        ece: defined(expected_error(&bins)),
        ece_equal_mass: defined(expected_error(&probabilities.equal_mass(ones))),
        mce: defined(maximum_error(&bins)),
        overconfidence: defined(overconfidence(&bins)),
        bins: bins.iter().map(bin).collect(),
    }
}

fn top_confusions(matrix: &[Vec<u64>]) -> Vec<Confusion> {
    let mut confusions = Vec::new();
    for (label, row) in matrix.iter().enumerate() {
        let support: u64 = row.iter().sum();
        for (predicted, samples) in row.iter().enumerate().filter(|(p, n)| *p != label && **n > 0) {
            let share_of_label = *samples as f64 / support as f64;
            confusions.push(Confusion { label, predicted, samples: *samples, share_of_label });
        }
    }
    confusions.sort_by_key(|c| (std::cmp::Reverse(c.samples), c.label, c.predicted));
    confusions.truncate(TOP_CONFUSIONS);
    confusions
}

/// One probability p per sample as the two classes [1 − p, p].
pub(crate) fn expand_binary(probabilities: &[f32]) -> Vec<f32> {
    probabilities.iter().flat_map(|p| [1.0 - p, *p]).collect()
}

/// How many classes come before `label`: those with a higher score, or an equal one and a lower
/// index.
fn rank(row: &[f32], label: usize) -> usize {
    row.iter()
        .enumerate()
        .filter(|(i, s)| **s > row[label] || (**s == row[label] && *i < label))
        .count()
}

#[cfg(test)]
mod tests {
    use whit_convert::statistics::StatisticsError;

    use super::super::{MAX_ERR_F32, MAX_ERR_SUM, assert_close};
    use super::*;

    fn of(
        scores: &[f32],
        labels: &[usize],
        classes: usize,
    ) -> Result<Classification, StatisticsError> {
        let classified = Classified::new(scores, labels, classes)?;
        Ok(classify(&classified, scores, labels))
    }

    const SCORES: [f32; 30] = [
        0.7, 0.2, 0.1, 0.2, 0.5, 0.3, 0.1, 0.3, 0.6, 0.5, 0.3, 0.2, 0.3, 0.4, 0.3, //
        0.2, 0.2, 0.6, 0.6, 0.3, 0.1, 0.1, 0.6, 0.3, 0.4, 0.4, 0.2, 0.25, 0.25, 0.5,
    ];

    /// scikit-learn 1.9.1, S = SCORES as 10 × 3, p = S.argmax(1):
    /// `confusion_matrix(y, p)`, `precision_recall_fscore_support(y, p, average=None)`,
    /// `roc_auc_score(y == c, S[:, c])`, `roc_auc_score(y, S, multi_class='ovr')`, `log_loss(y, S)`.
    #[test]
    fn three_classes() {
        let m = of(&SCORES, &[0, 1, 2, 1, 1, 2, 0, 2, 0, 0], 3).unwrap();
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
        let confusion = |label, predicted, share_of_label| Confusion {
            label,
            predicted,
            samples: 1,
            share_of_label,
        };
        let expected =
            [confusion(0, 2, 0.25), confusion(1, 0, 1.0 / 3.0), confusion(2, 1, 1.0 / 3.0)];
        assert_eq!(m.top_confusions, expected);
        let calibration = m.calibration.unwrap();
        assert_eq!(calibration.bins.iter().map(|bin| bin.samples).sum::<u64>(), 10);
        assert_eq!((calibration.bins[0].confidence, calibration.bins[0].samples), (None, 0));
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
        let m = of(&scores, &[0, 0, 1, 1, 3], 4).unwrap();
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
        let m = of(&scores, &[0, 0, 1, 1, 0, 1, 0, 1], 2).unwrap();
        assert_close(m.binary_roc_auc, Some(0.8125), MAX_ERR_SUM);
        assert_close(m.log_loss, Some(0.45559652973111076), MAX_ERR_F32);
        let one_class = of(&scores, &[1; 8], 2).unwrap();
        assert_eq!((one_class.binary_roc_auc, one_class.macro_roc_auc), (None, None));
    }

    #[test]
    fn log_loss_is_clipped() {
        let m = of(&[1.0, 0.0], &[1], 2).unwrap();
        assert_close(m.log_loss, Some(-(1e-7f64).ln()), MAX_ERR_SUM);
        // int8 probabilities: 255/256 is the highest, rows need not sum to 1.
        assert!(of(&[0.99609375, 0.0], &[0], 2).unwrap().log_loss.is_some());
        assert_eq!(of(&[0.5, 0.2], &[0], 2).unwrap().log_loss, None);
    }

    #[test]
    fn top5_counts_the_first_of_equals() {
        let row = [0.0, 5.0, 4.0, 3.0, 2.0, 0.0, 0.0f32];
        for (label, hit) in [(0, 1.0), (1, 1.0), (4, 1.0), (5, 0.0), (6, 0.0)] {
            assert_eq!(of(&row, &[label], 7).unwrap().top5_accuracy, Some(hit), "label {label}");
        }
    }

    #[test]
    fn refusals() {
        assert_eq!(of(&[], &[], 3), Err(StatisticsError::Empty));
        assert_eq!(of(&[0.0, f32::NAN], &[0], 2), Err(StatisticsError::NonFinite { sample: 0 }));
        assert_eq!(
            of(&[0.0, 1.0, 1.0, 0.0], &[0, 2], 2),
            Err(StatisticsError::Label { sample: 1, label: 2, classes: 2 })
        );
        assert!(matches!(
            of(&[0.0; 3], &[0, 1], 2),
            Err(StatisticsError::Length { want: 4, got: 3, .. })
        ));
    }
}
