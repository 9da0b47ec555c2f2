//! What `whit eval` says of a model's outputs: reports that JSON and tables are made of.
//!
//! The numbers come from `whit_convert::statistics`, with scikit-learn's definitions. A value that the data doesn't
//! define (recall of a class without samples, AUC with one class only) is `None`: `null` in JSON, `–` in tables, and
//! left out of averages. That is what scikit-learn does with `zero_division=nan`.

mod anomaly;
mod classify;
mod embed;
mod regress;
mod uncertainty;

pub(crate) use anomaly::{Anomaly, Operation, anomaly, anomaly_scores, operation};
pub(crate) use classify::{Calibration, Classification, classify, expand_binary};
pub(crate) use embed::{Embedding, PairScores, embedding, pair_scores};
pub(crate) use regress::{Regression, regression};
pub(crate) use uncertainty::{
    Comparison, FoldScores, Uncertainty, comparison, difference_interval_text, difference_text,
    fold_scores, interval_text, methods_text, p_text, uncertainty, value_text,
};

/// `numerator / denominator`, undefined when the denominator is 0.
fn ratio(numerator: f64, denominator: f64) -> Option<f64> {
    (denominator != 0.0).then(|| numerator / denominator)
}

/// NaN is what statistics call undefined.
fn defined(value: f64) -> Option<f64> {
    (!value.is_nan()).then_some(value)
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
