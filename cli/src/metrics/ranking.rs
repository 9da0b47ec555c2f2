//! Metrics of a ranking: scores that should be higher for positives than for negatives.

/// The operating points of a ranking: how many positives and negatives score at least each
/// distinct score, from the highest score down. Equal scores are one point.
struct Points {
    /// (score, true positives, false positives), cumulative.
    points: Vec<(f32, u64, u64)>,
    positives: u64,
    negatives: u64,
}

fn points(scores: &[f32], positive: &[bool]) -> Points {
    assert_eq!(scores.len(), positive.len(), "one label per score");
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let mut points: Vec<(f32, u64, u64)> = Vec::new();
    let (mut tp, mut fp) = (0, 0);
    for i in order {
        if positive[i] {
            tp += 1
        } else {
            fp += 1
        }
        match points.last_mut() {
            Some(last) if last.0 == scores[i] => (last.1, last.2) = (tp, fp),
            _ => points.push((scores[i], tp, fp)),
        }
    }
    Points { points, positives: tp, negatives: fp }
}

/// Area under the ROC curve: the probability that a positive scores above a negative, a tie
/// counting one half (equal to mid-ranks). `None` unless there are both.
pub(crate) fn roc_auc(scores: &[f32], positive: &[bool]) -> Option<f64> {
    let p = points(scores, positive);
    if p.positives == 0 || p.negatives == 0 {
        return None;
    }
    let (mut above, mut before_tp, mut before_fp) = (0.0, 0, 0);
    for (_, tp, fp) in &p.points {
        above += (fp - before_fp) as f64 * (before_tp as f64 + 0.5 * (tp - before_tp) as f64);
        (before_tp, before_fp) = (*tp, *fp);
    }
    Some(above / (p.positives as f64 * p.negatives as f64))
}

/// Area under the ROC curve up to the false-positive rate `max_fpr`, standardized so that 0.5 is
/// chance and 1 is perfect (McClish 1989), as in scikit-learn's `roc_auc_score(max_fpr=…)`.
pub(crate) fn partial_auc(scores: &[f32], positive: &[bool], max_fpr: f64) -> Option<f64> {
    let p = points(scores, positive);
    if p.positives == 0 || p.negatives == 0 {
        return None;
    }
    let (mut area, mut before_tpr, mut before_fpr) = (0.0, 0.0, 0.0);
    for (_, tp, fp) in &p.points {
        let (tpr, fpr) = (*tp as f64 / p.positives as f64, *fp as f64 / p.negatives as f64);
        if fpr > max_fpr {
            let cut = before_tpr + (tpr - before_tpr) * (max_fpr - before_fpr) / (fpr - before_fpr);
            area += (max_fpr - before_fpr) * (before_tpr + cut) / 2.0;
            break;
        }
        area += (fpr - before_fpr) * (before_tpr + tpr) / 2.0;
        (before_tpr, before_fpr) = (tpr, fpr);
    }
    let chance = max_fpr * max_fpr / 2.0;
    Some(0.5 * (1.0 + (area - chance) / (max_fpr - chance)))
}

/// Σ (recall_n − recall_{n−1}) · precision_n over falling thresholds. `None` without positives.
pub(crate) fn average_precision(scores: &[f32], positive: &[bool]) -> Option<f64> {
    let p = points(scores, positive);
    if p.positives == 0 {
        return None;
    }
    let (mut sum, mut before) = (0.0, 0);
    for (_, tp, fp) in &p.points {
        sum += (tp - before) as f64 * *tp as f64 / (tp + fp) as f64;
        before = *tp;
    }
    Some(sum / p.positives as f64)
}

/// A threshold (`score >= threshold` is positive) and what it achieves.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub(crate) struct OperatingPoint {
    /// Scores from here up are positive.
    pub(crate) threshold: f32,
    pub(crate) f1: f64,
    pub(crate) precision: f64,
    pub(crate) recall: f64,
}

/// The threshold with the highest F1; among equals the highest, which alarms least.
/// `None` without positives.
pub(crate) fn best_f1(scores: &[f32], positive: &[bool]) -> Option<OperatingPoint> {
    let p = points(scores, positive);
    let mut best: Option<OperatingPoint> = None;
    for (threshold, tp, fp) in p.points.iter().filter(|_| p.positives > 0) {
        let f1 = 2.0 * *tp as f64 / (tp + fp + p.positives) as f64;
        if best.as_ref().is_none_or(|b| f1 > b.f1) {
            best = Some(OperatingPoint {
                threshold: *threshold,
                f1,
                precision: *tp as f64 / (tp + fp) as f64,
                recall: *tp as f64 / p.positives as f64,
            });
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::super::{MAX_ERR_SUM, assert_close};
    use super::*;

    /// scikit-learn 1.9.1: `roc_auc_score(y, s)`, `roc_auc_score(y, s, max_fpr=.1)`,
    /// `average_precision_score(y, s)`.
    #[test]
    fn rankings() {
        struct Case {
            scores: &'static [f32],
            labels: &'static [u8],
            auc: Option<f64>,
            partial: Option<f64>,
            precision: Option<f64>,
        }
        for c in [
            Case {
                // Ties between classes at .2, .4 and .5.
                scores: &[
                    0.1, 0.2, 0.2, 0.3, 0.3, 0.35, 0.4, 0.4, 0.5, 0.6, 0.7, 0.9, 0.4, 0.5, 0.65,
                    0.8, 0.95, 1.0,
                ],
                labels: &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1],
                auc: Some(0.8402777777777778),
                partial: Some(0.6637426900584795),
                precision: Some(0.7453703703703703),
            },
            Case {
                scores: &[1.0, 2.0, 3.0, 4.0],
                labels: &[0, 0, 1, 1],
                auc: Some(1.0),
                partial: Some(1.0),
                precision: Some(1.0),
            },
            Case {
                scores: &[3.0, 4.0, 1.0, 2.0],
                labels: &[0, 0, 1, 1],
                auc: Some(0.0),
                partial: Some(0.47368421052631576),
                precision: Some(0.41666666666666663),
            },
            Case {
                scores: &[1.0, 1.0],
                labels: &[0, 1],
                auc: Some(0.5),
                partial: Some(0.5),
                precision: Some(0.5),
            },
            Case {
                scores: &[1.0, 2.0],
                labels: &[1, 1],
                auc: None,
                partial: None,
                precision: Some(1.0),
            },
            Case {
                scores: &[1.0, 2.0],
                labels: &[0, 0],
                auc: None,
                partial: None,
                precision: None,
            },
            Case { scores: &[], labels: &[], auc: None, partial: None, precision: None },
        ] {
            let positive: Vec<bool> = c.labels.iter().map(|l| *l == 1).collect();
            assert_close(roc_auc(c.scores, &positive), c.auc, MAX_ERR_SUM);
            assert_close(partial_auc(c.scores, &positive, 0.1), c.partial, MAX_ERR_SUM);
            assert_close(average_precision(c.scores, &positive), c.precision, MAX_ERR_SUM);
        }
    }

    /// scikit-learn's `precision_recall_curve` gives F1 = 2/3 at .4, .5 and .65; we take .65.
    #[test]
    fn best_f1_prefers_the_highest_of_equal_thresholds() {
        let scores = [
            0.1, 0.2, 0.2, 0.3, 0.3, 0.35, 0.4, 0.4, 0.5, 0.6, 0.7, 0.9, 0.4, 0.5, 0.65, 0.8, 0.95,
            1.0,
        ];
        let positive: Vec<bool> = (0..18).map(|i| i >= 12).collect();
        let best = best_f1(&scores, &positive).unwrap();
        assert_eq!((best.threshold, best.f1), (0.65, 2.0 / 3.0));
        assert_eq!((best.precision, best.recall), (4.0 / 6.0, 4.0 / 6.0));
        assert_eq!(best_f1(&[1.0], &[false]), None);
    }
}
