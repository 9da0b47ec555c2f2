//! Thresholds for scores: from labels by F1, Youden's J, a false-positive rate or a recall; from normal data alone by a
//! quantile. A score from the threshold up is positive.

use statrs::distribution::{Beta, ContinuousCDF};

use super::bootstrap::{each_resample, quantile};
use super::{Bootstrap, Interval, IntervalMethod, Ranking};

/// How a threshold is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// The highest F1; of equals the highest threshold, which alarms least.
    F1,
    /// The highest J = recall − false-positive rate (Youden 1950); of equals the highest threshold.
    Youden,
    /// The lowest threshold whose false-positive rate is at most this.
    FalsePositiveRate(f64),
    /// The highest threshold whose recall is at least this.
    Recall(f64),
    /// This one.
    Fixed(f32),
}

impl Rule {
    /// The threshold on samples that count so often. `None` where the rule needs a class that isn't there.
    pub fn choose(self, ranking: &Ranking, counts: &[u32]) -> Option<f32> {
        let totals = ranking.totals(counts);
        let (positives, negatives) = (totals.true_positives as f64, totals.false_positives as f64);
        let defined = match self {
            Rule::F1 | Rule::Recall(_) => positives > 0.0,
            Rule::Youden => positives > 0.0 && negatives > 0.0,
            Rule::FalsePositiveRate(_) => negatives > 0.0,
            Rule::Fixed(threshold) => return Some(threshold),
        };
        if !defined {
            return None;
        }
        // Above all scores: nothing is positive.
        let mut chosen = ranking.scores().first()?.next_up();
        let mut best = f64::NEG_INFINITY;
        let mut done = false;
        ranking.walk(counts, |group, point| {
            let (tp, fp) = (point.true_positives as f64, point.false_positives as f64);
            let take = match self {
                Rule::F1 | Rule::Youden => {
                    let quality = match self {
                        Rule::F1 => 2.0 * tp / (tp + fp + positives),
                        _ => tp / positives - fp / negatives,
                    };
                    let better = quality > best;
                    best = best.max(quality);
                    better
                }
                Rule::FalsePositiveRate(most) => fp <= most * negatives,
                Rule::Recall(least) => {
                    let reached = !done && tp >= least * positives;
                    done |= reached;
                    reached
                }
                Rule::Fixed(_) => false,
            };
            if take {
                chosen = ranking.scores()[group];
            }
        });
        Some(chosen)
    }

    /// How far the threshold moves when the data is resampled: quantiles of the thresholds chosen, each class keeping its
    /// size. `None` where no resample chooses another.
    pub fn interval(
        self,
        ranking: &Ranking,
        strata: &[u32],
        options: &Bootstrap,
    ) -> Option<Interval> {
        let mut chosen = Vec::with_capacity(options.resamples);
        each_resample(strata, options, |counts| {
            chosen.extend(self.choose(ranking, counts).map(f64::from));
        });
        chosen.sort_by(f64::total_cmp);
        if chosen.first()? == chosen.last()? {
            return None;
        }
        let tail = (1.0 - options.confidence) / 2.0;
        Some(Interval {
            low: quantile(&chosen, tail),
            high: quantile(&chosen, 1.0 - tail),
            method: IntervalMethod::Percentile,
        })
    }
}

/// What a threshold does to labelled samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decisions {
    /// Positives from the threshold up.
    pub true_positives: u64,
    /// Negatives from the threshold up.
    pub false_positives: u64,
    /// Negatives below.
    pub true_negatives: u64,
    /// Positives below.
    pub false_negatives: u64,
}

impl Decisions {
    /// Counts scores from `threshold` up.
    pub fn new(scores: &[f32], positive: &[bool], threshold: f32) -> Decisions {
        let mut counts = [0; 4];
        for (score, positive) in scores.iter().zip(positive) {
            counts[2 * usize::from(*positive) + usize::from(*score >= threshold)] += 1;
        }
        let [true_negatives, false_positives, false_negatives, true_positives] = counts;
        Decisions { true_positives, false_positives, true_negatives, false_negatives }
    }
}

/// A threshold from normal samples alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormalThreshold {
    /// The smallest number above the score that bounds the share wanted.
    pub threshold: f32,
    /// Samples at or above it.
    pub above: usize,
    /// The rate of false alarms to expect on new normal samples.
    pub expected_rate: f64,
    /// Where that rate lies, whatever the scores' distribution.
    pub rate: Interval,
}

/// The threshold that new normal samples exceed at a rate of at most `rate` on average: of n sorted scores, the one that leaves
/// k = ⌊rate·(n + 1)⌋ − 1 above it. A new sample exceeds it with probability (k + 1)/(n + 1), and the rate itself is
/// distributed as Beta(k + 1, n − k), whatever the distribution of the scores (Wilks 1941); the same choice makes conformal
/// anomaly detectors valid (Laxhammar and Falkman 2010).
///
/// # Errors
/// The lowest rate that so many samples can promise, if that is more than `rate`.
pub fn from_normal(scores: &[f32], rate: f64, confidence: f64) -> Result<NormalThreshold, f64> {
    let n = scores.len();
    let lowest = 1.0 / (n as f64 + 1.0);
    // The product of a rate such as 0.01 and 100 must not fall just short of 1.
    let exceed = (rate * (n as f64 + 1.0) + 1e-9).floor() as usize;
    if n == 0 || exceed == 0 {
        return Err(lowest);
    }
    let above = (exceed - 1).min(n - 1);
    let mut sorted = scores.to_vec();
    sorted.sort_by(f32::total_cmp);
    let threshold = sorted[n - 1 - above].next_up();
    let tail = (1.0 - confidence) / 2.0;
    // Both parameters are at least 1, so the distribution exists.
    let Ok(beta) = Beta::new((above + 1) as f64, (n - above) as f64) else { return Err(lowest) };
    Ok(NormalThreshold {
        threshold,
        above: scores.iter().filter(|score| **score >= threshold).count(),
        expected_rate: (above + 1) as f64 * lowest,
        rate: Interval {
            low: beta.inverse_cdf(tail),
            high: beta.inverse_cdf(1.0 - tail),
            method: IntervalMethod::Wilks,
        },
    })
}
