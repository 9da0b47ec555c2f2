//! Scores of a model's outputs against what was expected, with scikit-learn's definitions.
//!
//! A value that the data doesn't define (recall of a class without samples, AUC with one class
//! only) is `None`: `null` in JSON, `–` in tables, and left out of averages. That is what
//! scikit-learn does with `zero_division=nan`.

mod anomaly;
mod classify;
mod embed;
mod ranking;
mod regress;

pub(crate) use anomaly::{Anomaly, anomaly, anomaly_scores};
pub(crate) use classify::{Classification, classify, expand_binary};
pub(crate) use embed::{Embedding, embedding};
pub(crate) use regress::{Regression, regression};

/// Why outputs cannot be scored.
#[derive(Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum MetricsError {
    #[error("no samples")]
    Empty,
    #[error("{got} values where {want} belong ({what})")]
    Length { what: &'static str, want: usize, got: usize },
    #[error("the output for sample {sample} holds a NaN or an infinity")]
    NonFinite { sample: usize },
    #[error("label {label} of sample {sample} is not below {classes}")]
    Label { sample: usize, label: usize, classes: usize },
    #[error(
        "an anomaly score needs an output of the input's shape, or a single value; this output has \
         {output} values for {input} in the input"
    )]
    NoScore { input: usize, output: usize },
}

/// Checks that `values` holds `rows` rows of `width` finite numbers.
fn check_rows(
    what: &'static str,
    values: &[f32],
    rows: usize,
    width: usize,
) -> Result<(), MetricsError> {
    let want = rows.saturating_mul(width);
    if rows == 0 || width == 0 {
        return Err(MetricsError::Empty);
    }
    if values.len() != want {
        return Err(MetricsError::Length { what, want, got: values.len() });
    }
    match values.iter().position(|v| !v.is_finite()) {
        Some(at) => Err(MetricsError::NonFinite { sample: at / width }),
        None => Ok(()),
    }
}

/// `numerator / denominator`, undefined when the denominator is 0.
fn ratio(numerator: f64, denominator: f64) -> Option<f64> {
    (denominator != 0.0).then(|| numerator / denominator)
}

/// The mean of the values that are defined.
fn mean_defined(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let (sum, count) = values.flatten().fold((0.0, 0.0), |(sum, count), v| (sum + v, count + 1.0));
    ratio(sum, count)
}

/// Expected values in tests are printed by scikit-learn in f64; ours differ by summation order.
#[cfg(test)]
const MAX_ERR_SUM: f64 = 1e-9;

/// Scores in the tests' tables are f32 here and f64 in scikit-learn.
#[cfg(test)]
const MAX_ERR_F32: f64 = 1e-6;

#[cfg(test)]
#[track_caller]
fn assert_close(actual: Option<f64>, expected: Option<f64>, tolerance: f64) {
    let close = match (actual, expected) {
        (Some(a), Some(e)) => (a - e).abs() <= tolerance,
        (a, e) => a == e,
    };
    assert!(close, "{actual:?}, scikit-learn has {expected:?}");
}
