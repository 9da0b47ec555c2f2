//! What counts amount to, in numbers for people: on the device or on the host, from one period or from many.
//!
//! Counts are exact; these figures are in f64, as `libm` computes them everywhere.

use super::counters::{CONFIDENCE_BINS, Event, Group, Shape, Sum};
use super::scores::CONFIDENCE_EDGES;

/// Counts by group and index: of a [`Totals`](super::counters::Totals) or a [`Monitor`](super::Monitor).
pub type Counts<'c> = &'c dyn Fn(Group, usize) -> u64;

/// Quality of a class or of several.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// Share of its predictions that are right; NaN without predictions.
    pub precision: f64,
    /// Share of its runs that are found; NaN without runs.
    pub recall: f64,
    /// Harmonic mean of both, 2·TP / (2·TP + FP + FN); NaN without runs and predictions.
    pub f1: f64,
}

/// Labelled runs in the confusion matrix.
pub fn labelled(shape: &Shape, counts: Counts<'_>) -> u64 {
    (0..shape.len(Group::Confusion)).map(|index| counts(Group::Confusion, index)).sum()
}

/// The share of labelled runs that are right; `None` without labels.
pub fn accuracy(shape: &Shape, counts: Counts<'_>) -> Option<f64> {
    let classes = usize::from(shape.classes);
    let all = labelled(shape, counts);
    let right: u64 =
        (0..classes).map(|class| counts(Group::Confusion, class * (classes + 1))).sum();
    (all > 0).then(|| right as f64 / all as f64)
}

/// Quality of one class.
pub fn quality(shape: &Shape, counts: Counts<'_>, class: usize) -> Quality {
    let classes = usize::from(shape.classes);
    let cell =
        |truth: usize, predicted: usize| counts(Group::Confusion, truth * classes + predicted);
    let found = cell(class, class) as f64;
    let runs: u64 = (0..classes).map(|predicted| cell(class, predicted)).sum();
    let predictions: u64 = (0..classes).map(|truth| cell(truth, class)).sum();
    Quality {
        precision: found / predictions as f64,
        recall: found / runs as f64,
        f1: 2.0 * found / (runs + predictions) as f64,
    }
}

/// Mean of the qualities of the classes that have labels or predictions; where precision or recall has no value it counts
/// as 0. `None` without labels.
pub fn macro_quality(shape: &Shape, counts: Counts<'_>) -> Option<Quality> {
    let mut sums = [0.0; 3];
    let mut seen = 0.0;
    for class in 0..usize::from(shape.classes) {
        let quality = quality(shape, counts, class);
        if quality.f1.is_nan() {
            continue;
        }
        seen += 1.0;
        for (sum, value) in sums.iter_mut().zip([quality.precision, quality.recall, quality.f1]) {
            *sum += if value.is_nan() { 0.0 } else { value };
        }
    }
    let [precision, recall, f1] = sums.map(|sum| sum / seen);
    (seen > 0.0).then_some(Quality { precision, recall, f1 })
}

/// Outcomes of a score's bin: how often the event happened, and how often it didn't.
fn outcomes(counts: Counts<'_>, bin: usize) -> (f64, f64) {
    let count = |outcome: usize| counts(Group::Scored, outcome * CONFIDENCE_BINS + bin) as f64;
    (count(1), count(0))
}

/// The score that a bin stands for: its middle.
pub fn bin_score(bin: usize) -> f64 {
    let low = bin.checked_sub(1).map_or(0.0, |edge| f64::from(CONFIDENCE_EDGES[edge]));
    let high = CONFIDENCE_EDGES.get(bin).map_or(32768.0, |edge| f64::from(*edge));
    (low + high) / 65536.0
}

/// The area under the ROC curve of the score for its event; runs of one bin count half. `None` without runs of both outcomes.
/// It is exact for the binned scores; that of the scores themselves lies within the half that is counted.
pub fn roc_auc(counts: Counts<'_>) -> Option<f64> {
    let (mut below, mut area, mut positives) = (0.0, 0.0, 0.0);
    for bin in 0..CONFIDENCE_BINS {
        let (happened, not) = outcomes(counts, bin);
        area += happened * (below + not / 2.0);
        below += not;
        positives += happened;
    }
    (below > 0.0 && positives > 0.0).then(|| area / (below * positives))
}

/// The mean of −ln of the probability that the score gave to what happened, in nats; `None` without labels.
pub fn log_loss(counts: Counts<'_>) -> Option<f64> {
    let (mut loss, mut runs) = (0.0, 0.0);
    for bin in 0..CONFIDENCE_BINS {
        let (happened, not) = outcomes(counts, bin);
        let score = bin_score(bin);
        loss -= happened * libm::log(score) + not * libm::log(1.0 - score);
        runs += happened + not;
    }
    (runs > 0.0).then(|| loss / runs)
}

/// The expected calibration error: how far the share of the event in a bin is from the bin's score, weighted by runs (Naeini,
/// Cooper and Hauskrecht, 2015). `None` without labels.
pub fn calibration_error(counts: Counts<'_>) -> Option<f64> {
    let (mut error, mut runs) = (0.0, 0.0);
    for bin in 0..CONFIDENCE_BINS {
        let (happened, not) = outcomes(counts, bin);
        error += libm::fabs(happened - bin_score(bin) * (happened + not));
        runs += happened + not;
    }
    (runs > 0.0).then(|| error / runs)
}

/// How good estimates of a value are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ValueQuality {
    /// Mean of |estimate − label|.
    pub mean_absolute_error: f64,
    /// Root of the mean of the squares.
    pub root_mean_square_error: f64,
    /// Mean of estimate − label.
    pub bias: f64,
    /// 1 − squared error over the labels' variance; NaN when all labels are the same.
    pub r2: f64,
}

/// Quality of estimates in real units; `scale` is that of the log's header. `None` without labels.
pub fn value_quality(counts: Counts<'_>, scale: f64) -> Option<ValueQuality> {
    let sum = |sum: Sum| counts(Group::Sums, sum as usize) as f64;
    let count = sum(Sum::Count);
    let mean = (sum(Sum::Positive) - sum(Sum::Negative)) / count;
    let spread = sum(Sum::LabelSquared) - count * mean * mean;
    (count > 0.0).then(|| ValueQuality {
        mean_absolute_error: sum(Sum::Absolute) / count * scale,
        root_mean_square_error: libm::sqrt(sum(Sum::Squared) / count) * scale,
        bias: (sum(Sum::ErrorPositive) - sum(Sum::ErrorNegative)) / count * scale,
        r2: if spread > 0.0 { 1.0 - sum(Sum::Squared) / spread } else { f64::NAN },
    })
}

/// The share of something among the runs; `None` without runs.
pub fn share_of_runs(counts: Counts<'_>, event: Event) -> Option<f64> {
    let runs = counts(Group::Events, Event::Runs as usize);
    (runs > 0).then(|| counts(Group::Events, event as usize) as f64 / runs as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        classes: 3,
        features: 0,
        bins: 1,
        tensors: 0,
        class_labels: true,
        value_labels: true,
    };

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
    }

    #[test]
    fn classes_by_hand() {
        // Rows are true classes; the third never occurs and is predicted once.
        let cells = [5, 1, 0, 2, 3, 1, 0, 0, 0];
        let counts = |group, index: usize| if group == Group::Confusion { cells[index] } else { 0 };
        close(accuracy(&SHAPE, &counts).expect("labels"), 8.0 / 12.0);
        let first = quality(&SHAPE, &counts, 0);
        close(first.precision, 5.0 / 7.0);
        close(first.recall, 5.0 / 6.0);
        close(first.f1, 10.0 / 13.0);
        let all = macro_quality(&SHAPE, &counts).expect("labels");
        close(all.precision, (5.0 / 7.0 + 3.0 / 4.0 + 0.0) / 3.0);
        close(all.recall, (5.0 / 6.0 + 3.0 / 6.0 + 0.0) / 3.0);
        assert!(quality(&SHAPE, &counts, 2).recall.is_nan());
        assert_eq!(accuracy(&SHAPE, &|_, _| 0), None);
        assert_eq!(macro_quality(&SHAPE, &|_, _| 0), None);
    }

    #[test]
    fn scores_agree_with_pairs_of_runs() {
        let mut random = crate::metrics::counters::tests::Random(4);
        for _ in 0..50 {
            let runs: Vec<(usize, bool)> = (0..60)
                .map(|_| (random.below(16) as usize, random.below(3) == 0))
                .chain([(3, true), (4, false)])
                .collect();
            let counts = |group, index: usize| {
                let wanted = (index % 16, index / 16 == 1);
                let same = runs.iter().filter(|run| **run == wanted).count() as u64;
                if group == Group::Scored { same } else { 0 }
            };
            let (mut better, mut pairs, mut loss, mut gaps) = (0.0, 0.0, 0.0, 0.0);
            for (bin, happened) in &runs {
                let score = bin_score(*bin);
                loss -= if *happened { score.ln() } else { (1.0 - score).ln() };
                for (other, _) in runs.iter().filter(|(_, other)| *happened && !other) {
                    pairs += 1.0;
                    better += [1.0, 0.5, 0.0][(bin.cmp(other) as i8 + 1) as usize..][..1]
                        .iter()
                        .map(|lower: &f64| 1.0 - lower)
                        .sum::<f64>();
                }
            }
            for bin in 0..16 {
                let of: Vec<bool> =
                    runs.iter().filter(|run| run.0 == bin).map(|run| run.1).collect();
                if !of.is_empty() {
                    let share =
                        of.iter().filter(|happened| **happened).count() as f64 / of.len() as f64;
                    gaps += of.len() as f64 * (share - bin_score(bin)).abs();
                }
            }
            let near = |found: Option<f64>, expected: f64| {
                assert!((found.expect("labels") - expected).abs() < 1e-9, "{found:?} {expected}");
            };
            near(roc_auc(&counts), better / pairs);
            near(log_loss(&counts), loss / runs.len() as f64);
            near(calibration_error(&counts), gaps / runs.len() as f64);
        }
        assert_eq!((roc_auc(&|_, _| 0), log_loss(&|_, _| 0)), (None, None));
        assert_eq!(bin_score(0), 82.0 / 32768.0);
    }

    #[test]
    fn values_by_hand() {
        // Estimates 3, −1, 2 of labels 1, −2, 2, in units of a half.
        let sums = [3, 3, 5, 3, 2, 9, 3, 0];
        let counts = |group, index: usize| if group == Group::Sums { sums[index] } else { 0 };
        let found = value_quality(&counts, 0.5).expect("labels");
        close(found.mean_absolute_error, 0.5);
        close(found.root_mean_square_error, (5.0f64 / 3.0).sqrt() * 0.5);
        close(found.bias, 0.5);
        close(found.r2, 1.0 - 5.0 / (9.0 - 1.0 / 3.0));
        assert_eq!(value_quality(&|_, _| 0, 1.0), None);
    }
}
