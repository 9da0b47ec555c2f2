//! Metrics of a ranking: scores that should be higher for positives than for negatives.

use super::{Metric, Statistic, StatisticsError, check_rows};

/// The false-positive rate up to which DCASE and MLPerf Tiny report the partial AUC.
pub const PARTIAL_MAX_FPR: f64 = 0.1;

/// Samples sorted by score, from the highest down. Equal scores are one group: a threshold can't part them.
#[derive(Clone, Debug)]
pub struct Ranking {
    /// Samples, in order.
    order: Vec<u32>,
    /// Where each group ends in `order`.
    ends: Vec<u32>,
    /// The score of each group.
    scores: Vec<f32>,
    positive: Vec<bool>,
}

/// How many positives and negatives score at least as much as a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Positives from this score up.
    pub true_positives: u64,
    /// Negatives from this score up.
    pub false_positives: u64,
}

impl Ranking {
    /// Sorts finite scores; `positive` has one entry per score.
    ///
    /// # Panics
    /// If the slices differ in length.
    pub fn new(scores: &[f32], positive: &[bool]) -> Ranking {
        assert_eq!(scores.len(), positive.len(), "one label per score");
        let mut order: Vec<u32> = (0..scores.len() as u32).collect();
        order.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]));
        let (mut ends, mut groups) = (Vec::new(), Vec::<f32>::new());
        for (at, sample) in order.iter().enumerate() {
            let score = scores[*sample as usize];
            if groups.last() == Some(&score) {
                ends.pop();
            } else {
                groups.push(score);
            }
            ends.push(at as u32 + 1);
        }
        Ranking { order, ends, scores: groups, positive: positive.to_vec() }
    }

    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.order.len()
    }

    /// Every sample once.
    pub fn ones(&self) -> Vec<u32> {
        vec![1; self.order.len()]
    }

    /// The distinct scores, from the highest down.
    pub fn scores(&self) -> &[f32] {
        &self.scores
    }

    /// Calls `visit` with each group's index and the samples from it up.
    pub fn walk(&self, counts: &[u32], mut visit: impl FnMut(usize, Point)) {
        let mut point = Point { true_positives: 0, false_positives: 0 };
        let mut begin = 0;
        for (group, end) in self.ends.iter().enumerate() {
            for sample in &self.order[begin..*end as usize] {
                let count = u64::from(counts[*sample as usize]);
                if self.positive[*sample as usize] {
                    point.true_positives += count;
                } else {
                    point.false_positives += count;
                }
            }
            begin = *end as usize;
            visit(group, point);
        }
    }

    /// All points, from the highest score down.
    pub fn points(&self, counts: &[u32]) -> Vec<Point> {
        let mut points = Vec::with_capacity(self.ends.len());
        self.walk(counts, |_, point| points.push(point));
        points
    }

    /// Positives and negatives that count.
    pub fn totals(&self, counts: &[u32]) -> Point {
        let mut totals = Point { true_positives: 0, false_positives: 0 };
        for (positive, count) in self.positive.iter().zip(counts) {
            if *positive {
                totals.true_positives += u64::from(*count);
            } else {
                totals.false_positives += u64::from(*count);
            }
        }
        totals
    }

    /// Area under the ROC curve: the probability that a positive scores above a negative, a tie
    /// counting one half (equal to mid-ranks; Hanley and McNeil 1982). NaN unless there are both.
    pub fn roc_auc(&self, counts: &[u32]) -> f64 {
        let (mut above, mut before) = (0.0, Point { true_positives: 0, false_positives: 0 });
        self.walk(counts, |_, point| {
            let (tp, fp) = (point.true_positives, point.false_positives);
            above += (fp - before.false_positives) as f64
                * (before.true_positives as f64 + 0.5 * (tp - before.true_positives) as f64);
            before = point;
        });
        // After the last group: all positives, all negatives. 0 / 0 is NaN.
        above / (before.true_positives as f64 * before.false_positives as f64)
    }

    /// Area under the ROC curve up to the false-positive rate `max_fpr`, standardized so that 0.5 is
    /// chance and 1 is perfect (McClish 1989), as in scikit-learn's `roc_auc_score(max_fpr=…)`.
    pub fn partial_auc(&self, counts: &[u32], max_fpr: f64) -> f64 {
        let totals = self.totals(counts);
        let (mut area, mut before_tpr, mut before_fpr, mut done) = (0.0, 0.0, 0.0, false);
        self.walk(counts, |_, point| {
            let tpr = point.true_positives as f64 / totals.true_positives as f64;
            let fpr = point.false_positives as f64 / totals.false_positives as f64;
            if done {
                return;
            }
            if fpr > max_fpr {
                let cut =
                    before_tpr + (tpr - before_tpr) * (max_fpr - before_fpr) / (fpr - before_fpr);
                area += (max_fpr - before_fpr) * (before_tpr + cut) / 2.0;
                done = true;
                return;
            }
            area += (fpr - before_fpr) * (before_tpr + tpr) / 2.0;
            (before_tpr, before_fpr) = (tpr, fpr);
        });
        if totals.true_positives == 0 || totals.false_positives == 0 {
            return f64::NAN;
        }
        let chance = max_fpr * max_fpr / 2.0;
        0.5 * (1.0 + (area - chance) / (max_fpr - chance))
    }

    /// Σ (recall_n − recall_{n−1}) · precision_n over falling thresholds. NaN without positives.
    pub fn average_precision(&self, counts: &[u32]) -> f64 {
        let (mut sum, mut before) = (0.0, 0);
        self.walk(counts, |_, point| {
            let (tp, fp) = (point.true_positives, point.false_positives);
            if tp > before {
                sum += (tp - before) as f64 * tp as f64 / (tp + fp) as f64;
            }
            before = tp;
        });
        sum / before as f64
    }
}

const METRICS: [Metric; 3] = [
    Metric::higher("roc_auc", "ROC-AUC"),
    Metric::higher("partial_auc", "partial AUC (FPR ≤ 0.1)"),
    Metric::higher("average_precision", "average precision"),
];

/// Scores of samples that are positive or negative: anomalies or normal ones.
#[derive(Clone, Debug)]
pub struct Ranked {
    ranking: Ranking,
    strata: Vec<u32>,
}

impl Ranked {
    /// From one score and one label per sample.
    ///
    /// # Errors
    /// No samples, lengths that differ, numbers that aren't finite.
    pub fn new(scores: &[f32], positive: &[bool]) -> Result<Ranked, StatisticsError> {
        check_rows("scores", scores, positive.len(), 1)?;
        let strata = positive.iter().map(|p| u32::from(*p)).collect();
        Ok(Ranked { ranking: Ranking::new(scores, positive), strata })
    }

    /// The sorted scores.
    pub fn ranking(&self) -> &Ranking {
        &self.ranking
    }
}

impl Statistic for Ranked {
    fn metrics(&self) -> &[Metric] {
        &METRICS
    }

    fn samples(&self) -> usize {
        self.strata.len()
    }

    fn strata(&self) -> &[u32] {
        &self.strata
    }

    fn values(&self, counts: &[u32], out: &mut [f64]) {
        out[0] = self.ranking.roc_auc(counts);
        out[1] = self.ranking.partial_auc(counts, PARTIAL_MAX_FPR);
        out[2] = self.ranking.average_precision(counts);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MAX_ERR_SUM, assert_close};
    use super::*;

    const NAN: f64 = f64::NAN;

    /// scikit-learn 1.9.1: `roc_auc_score(y, s)`, `roc_auc_score(y, s, max_fpr=.1)`,
    /// `average_precision_score(y, s)`.
    #[test]
    fn rankings() {
        struct Case {
            scores: &'static [f32],
            labels: &'static [u8],
            expected: [f64; 3],
        }
        for c in [
            Case {
                // Ties between classes at .2, .4 and .5.
                scores: &[
                    0.1, 0.2, 0.2, 0.3, 0.3, 0.35, 0.4, 0.4, 0.5, 0.6, 0.7, 0.9, 0.4, 0.5, 0.65,
                    0.8, 0.95, 1.0,
                ],
                labels: &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1],
                expected: [0.8402777777777778, 0.6637426900584795, 0.7453703703703703],
            },
            Case {
                scores: &[1.0, 2.0, 3.0, 4.0],
                labels: &[0, 0, 1, 1],
                expected: [1.0, 1.0, 1.0],
            },
            Case {
                scores: &[3.0, 4.0, 1.0, 2.0],
                labels: &[0, 0, 1, 1],
                expected: [0.0, 0.47368421052631576, 0.41666666666666663],
            },
            Case { scores: &[1.0, 1.0], labels: &[0, 1], expected: [0.5, 0.5, 0.5] },
            Case { scores: &[1.0, 2.0], labels: &[1, 1], expected: [NAN, NAN, 1.0] },
            Case { scores: &[1.0, 2.0], labels: &[0, 0], expected: [NAN, NAN, NAN] },
        ] {
            let positive: Vec<bool> = c.labels.iter().map(|l| *l == 1).collect();
            let ranked = Ranked::new(c.scores, &positive).unwrap();
            for (value, expected) in ranked.value().iter().zip(c.expected) {
                assert_close(*value, expected, MAX_ERR_SUM);
            }
        }
    }

    /// A sample that counts n times is n samples.
    #[test]
    fn counts_repeat_samples() {
        let (scores, labels) =
            ([0.1, 0.4, 0.4, 0.8, 0.9, 0.2], [false, true, false, true, false, true]);
        let counts = [2, 0, 3, 1, 0, 2];
        let mut repeated = (Vec::new(), Vec::new());
        for ((score, label), count) in scores.iter().zip(labels).zip(counts) {
            for _ in 0..count {
                repeated.0.push(*score);
                repeated.1.push(label);
            }
        }
        let ranked = Ranked::new(&scores, &labels).unwrap();
        let mut values = [0.0; 3];
        ranked.values(&counts, &mut values);
        assert_eq!(values.to_vec(), Ranked::new(&repeated.0, &repeated.1).unwrap().value());
    }

    #[test]
    fn bad_scores() {
        assert_eq!(Ranked::new(&[], &[]).unwrap_err(), StatisticsError::Empty);
        assert!(Ranked::new(&[1.0], &[true, false]).is_err());
        assert_eq!(
            Ranked::new(&[1.0, f32::NAN], &[true, false]).unwrap_err(),
            StatisticsError::NonFinite { sample: 1 }
        );
    }
}
