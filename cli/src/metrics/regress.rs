//! Regression: MAE, RMSE, R² and the largest error.

use serde::Serialize;

use super::{MetricsError, check_rows};

/// How far predictions lie from targets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Regression {
    pub(crate) samples: usize,
    /// Means over the outputs (scikit-learn's `uniform_average`); `max_error` is over all.
    #[serde(flatten)]
    pub(crate) overall: RegressionScores,
    /// One entry per output value of the model.
    pub(crate) per_output: Vec<RegressionScores>,
}

/// The errors of one output, or of all.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct RegressionScores {
    /// Mean absolute error, in the target's unit.
    pub(crate) mae: f64,
    /// Root of the mean squared error, in the target's unit.
    pub(crate) rmse: f64,
    /// 1 − Σ(t − p)² / Σ(t − mean t)²; `None` when a target is constant.
    pub(crate) r2: Option<f64>,
    /// Largest absolute error.
    pub(crate) max_error: f64,
}

/// Scores rows of `outputs` predicted values against as many targets.
pub(crate) fn regression(
    predictions: &[f32],
    targets: &[f32],
    outputs: usize,
) -> Result<Regression, MetricsError> {
    let samples = targets.len() / outputs.max(1);
    check_rows("targets", targets, samples, outputs)?;
    check_rows("predictions", predictions, samples, outputs)?;
    let per_output: Vec<RegressionScores> = (0..outputs)
        .map(|output| {
            let pick = |values: &[f32]| -> Vec<f64> {
                values.iter().skip(output).step_by(outputs).map(|v| f64::from(*v)).collect()
            };
            one_output(&pick(predictions), &pick(targets))
        })
        .collect();
    let mean = |value: fn(&RegressionScores) -> f64| {
        per_output.iter().map(value).sum::<f64>() / outputs as f64
    };
    let r2: Option<Vec<f64>> = per_output.iter().map(|o| o.r2).collect();
    let overall = RegressionScores {
        mae: mean(|o| o.mae),
        rmse: mean(|o| o.rmse),
        r2: r2.map(|r2| r2.iter().sum::<f64>() / outputs as f64),
        max_error: per_output.iter().map(|o| o.max_error).fold(0.0, f64::max),
    };
    Ok(Regression { samples, overall, per_output })
}

fn one_output(predictions: &[f64], targets: &[f64]) -> RegressionScores {
    let n = targets.len() as f64;
    let errors = || predictions.iter().zip(targets).map(|(p, t)| p - t);
    let squares: f64 = errors().map(|e| e * e).sum();
    let mean = targets.iter().sum::<f64>() / n;
    let spread: f64 = targets.iter().map(|t| (t - mean) * (t - mean)).sum();
    // By comparison, not by `spread`: the mean of equal values need not equal them.
    let constant = targets.iter().all(|t| *t == targets[0]);
    RegressionScores {
        mae: errors().map(f64::abs).sum::<f64>() / n,
        rmse: (squares / n).sqrt(),
        r2: (!constant).then(|| 1.0 - squares / spread),
        max_error: errors().map(f64::abs).fold(0.0, f64::max),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MAX_ERR_SUM, assert_close};
    use super::*;

    /// scikit-learn 1.9.1: `mean_absolute_error(t, p)`, `root_mean_squared_error(t, p)`,
    /// `r2_score(t, p)`, `max_error(t, p)`.
    #[test]
    fn one_and_several_outputs() {
        let m = regression(&[2.5, 0.0, 2.0, 8.0], &[3.0, -0.5, 2.0, 7.0], 1).unwrap();
        assert_eq!((m.samples, m.overall.mae, m.overall.max_error), (4, 0.5, 1.0));
        assert_close(Some(m.overall.rmse), Some(0.6123724356957945), MAX_ERR_SUM);
        assert_close(m.overall.r2, Some(0.9486081370449679), MAX_ERR_SUM);

        let m = regression(&[0.0, 2.0, -1.0, 2.0, 8.0, -5.0], &[0.5, 1.0, -1.0, 1.0, 7.0, -6.0], 2)
            .unwrap();
        assert_eq!((m.samples, m.overall.mae), (3, 0.75));
        assert_close(Some(m.overall.rmse), Some(0.8227486121839513), MAX_ERR_SUM);
        assert_close(m.overall.r2, Some(0.9368005266622779), MAX_ERR_SUM);
        assert_close(m.per_output[1].r2, Some(0.90816327), 1e-8); // printed with eight digits
    }

    #[test]
    fn a_constant_target_has_no_r2() {
        let m = regression(&[0.1, 0.2, 0.3], &[0.1, 0.1, 0.1], 1).unwrap();
        assert_eq!(m.overall.r2, None);
        assert_eq!(serde_json::to_value(&m).unwrap()["r2"], serde_json::Value::Null);
        assert_eq!(regression(&[], &[], 1), Err(MetricsError::Empty));
        assert!(matches!(regression(&[1.0], &[1.0, 2.0], 1), Err(MetricsError::Length { .. })));
    }
}
