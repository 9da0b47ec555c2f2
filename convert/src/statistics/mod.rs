//! How well outputs fit labels, and how sure that is: metrics, intervals, comparisons, thresholds.
//!
//! Plain slices go in, numbers come out. A [`Statistic`] holds what its metrics need of each sample, sorted once,
//! and computes them for samples that count any number of times: once each for the value itself, as often as they
//! were drawn in a resample, once or never in a fold. Definitions are scikit-learn's; what the data doesn't define
//! (an AUC with one class only) is NaN here and `None` in results.

pub mod bootstrap;
pub mod calibration;
pub mod classification;
pub mod folds;
pub mod proportion;
pub mod ranking;
pub mod regression;
pub mod similarity;
pub mod threshold;

#[cfg(test)]
mod tests;

pub use bootstrap::{Bootstrap, Difference, Interval, IntervalMethod, compare, intervals};
pub use classification::Classified;
pub use proportion::McNemar;
pub use ranking::{Ranked, Ranking};
pub use regression::Regressed;
pub use similarity::{Matched, Pairs};

/// A number that says how good answers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name in JSON.
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// Whether it is a share of samples, which people read in percent.
    pub is_share: bool,
}

impl Metric {
    const fn higher(name: &'static str, title: &'static str) -> Metric {
        Metric { name, title, higher_is_better: true, is_share: false }
    }

    const fn lower(name: &'static str, title: &'static str) -> Metric {
        Metric { name, title, higher_is_better: false, is_share: false }
    }

    const fn share(name: &'static str, title: &'static str) -> Metric {
        Metric { name, title, higher_is_better: true, is_share: true }
    }
}

/// Metrics of a set of samples, which may count more than once or not at all.
pub trait Statistic {
    /// What is computed; the first one is what verdicts are about.
    fn metrics(&self) -> &[Metric];

    /// Number of samples, at least 1.
    fn samples(&self) -> usize;

    /// The stratum of each sample. Resamples and folds keep the sizes of strata.
    fn strata(&self) -> &[u32];

    /// One value per metric, NaN where it isn't defined. `counts` says how often each sample counts.
    fn values(&self, counts: &[u32], out: &mut [f64]);

    /// Of a metric that is a plain share of samples: which samples are in it. Shares have better intervals than the
    /// bootstrap's.
    fn hits(&self, _metric: usize) -> Option<Vec<bool>> {
        None
    }

    /// The values with every sample counting once.
    fn value(&self) -> Vec<f64> {
        let mut out = vec![f64::NAN; self.metrics().len()];
        self.values(&vec![1; self.samples()], &mut out);
        out
    }
}

/// Why outputs cannot be scored, and what to do about it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StatisticsError {
    /// No rows, or rows without values.
    #[error("no samples")]
    Empty,
    /// Slices that don't belong together.
    #[error("{got} values where {want} belong ({what})")]
    Length {
        /// Which slice.
        what: &'static str,
        /// Values wanted.
        want: usize,
        /// Values given.
        got: usize,
    },
    /// A model that overflowed.
    #[error(
        "the output for sample {sample} holds a NaN or an infinity; `whit run` on that sample alone shows which \
         value, and a float conversion whether quantization is to blame"
    )]
    NonFinite {
        /// The first such sample.
        sample: usize,
    },
    /// A label that no score belongs to.
    #[error("label {label} of sample {sample} is not below {classes}")]
    Label {
        /// Index of the sample.
        sample: usize,
        /// Its label.
        label: usize,
        /// Number of classes that have scores.
        classes: usize,
    },
    /// No way to make one score of an output.
    #[error(
        "an anomaly score needs an output of the input's shape, or a single value; this output has \
         {output} values for {input} in the input"
    )]
    NoScore {
        /// Values of an input.
        input: usize,
        /// Values of an output.
        output: usize,
    },
    /// More folds than some stratum has samples.
    #[error(
        "{folds} folds need at least {folds} samples of every class; class {class} has {samples}: at most --folds {samples}"
    )]
    FoldsOfClass {
        /// Folds wanted.
        folds: usize,
        /// The smallest class.
        class: usize,
        /// Samples of it.
        samples: usize,
    },
    /// More folds than samples.
    #[error("{folds} folds need at least as many samples; there are {samples}")]
    Folds {
        /// Folds wanted.
        folds: usize,
        /// Samples given.
        samples: usize,
    },
    /// Pairs of sentences come two rows at a time.
    #[error(
        "labels of embeddings score pairs: rows 0 and 1, 2 and 3, …, with the same label in both rows; {samples} rows are no \
         whole number of pairs"
    )]
    OddPairs {
        /// Rows given.
        samples: usize,
    },
    /// The rows of a pair disagree on its score.
    #[error("labels of embeddings score pairs: rows {first} and {} are one pair, and their labels differ", .first + 1)]
    PairLabels {
        /// The pair's first row.
        first: usize,
    },
}

/// Checks that `values` holds `rows` rows of `width` finite numbers.
pub fn check_rows(
    what: &'static str,
    values: &[f32],
    rows: usize,
    width: usize,
) -> Result<(), StatisticsError> {
    let want = rows.saturating_mul(width);
    if rows == 0 || width == 0 {
        return Err(StatisticsError::Empty);
    }
    if values.len() != want {
        return Err(StatisticsError::Length { what, want, got: values.len() });
    }
    match values.iter().position(|v| !v.is_finite()) {
        Some(at) => Err(StatisticsError::NonFinite { sample: at / width }),
        None => Ok(()),
    }
}

/// `numerator / denominator`, NaN when the denominator is 0.
fn share(numerator: f64, denominator: f64) -> f64 {
    if denominator == 0.0 { f64::NAN } else { numerator / denominator }
}

/// The mean of the values that are defined, NaN when none is.
fn mean_defined(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) =
        values.filter(|v| !v.is_nan()).fold((0.0, 0.0), |(sum, n), v| (sum + v, n + 1.0));
    share(sum, count)
}

/// The mean of values that count so often.
fn weighted_mean(values: &[f64], counts: &[u32]) -> f64 {
    let (mut sum, mut weight) = (0.0, 0.0);
    for (value, count) in values.iter().zip(counts) {
        sum += value * f64::from(*count);
        weight += f64::from(*count);
    }
    share(sum, weight)
}

/// Expected values in tests are printed by scipy and scikit-learn in f64; ours differ by summation order.
#[cfg(test)]
const MAX_ERR_SUM: f64 = 1e-9;

/// Scores in the tests' tables are f32 here and f64 there.
#[cfg(test)]
const MAX_ERR_F32: f64 = 1e-6;

#[cfg(test)]
#[track_caller]
fn assert_close(actual: f64, expected: f64, tolerance: f64) {
    let close =
        if expected.is_nan() { actual.is_nan() } else { (actual - expected).abs() <= tolerance };
    assert!(close, "{actual:?}, expected {expected:?}");
}
