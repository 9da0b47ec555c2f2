//! Regression: MAE, RMSE, R², rank correlation and the largest error.

use serde::Serialize;
use whit_convert::statistics::{Regressed, Statistic};

use super::defined;

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
    /// Correlation of the ranks of predictions and targets; `None` when one side is constant.
    pub(crate) spearman: Option<f64>,
    /// Largest absolute error.
    pub(crate) max_error: f64,
}

/// Describes errors: `regressed` is made of these predictions and targets.
pub(crate) fn regression(
    regressed: &Regressed,
    predictions: &[f32],
    targets: &[f32],
) -> Regression {
    let samples = regressed.samples();
    let outputs = targets.len() / samples;
    let worst = |output: usize| {
        let pairs = predictions.iter().zip(targets).skip(output).step_by(outputs);
        pairs.map(|(p, t)| (f64::from(*p) - f64::from(*t)).abs()).fold(0.0, f64::max)
    };
    let scores = |[rmse, mae, r2, spearman]: [f64; 4], max_error| RegressionScores {
        mae,
        rmse,
        r2: defined(r2),
        spearman: defined(spearman),
        max_error,
    };
    let columns = regressed.per_output(&vec![1; samples]).into_iter().enumerate();
    let per_output: Vec<RegressionScores> =
        columns.map(|(output, values)| scores(values, worst(output))).collect();
    let mut values = [0.0; 4];
    regressed.values(&vec![1; samples], &mut values);
    let overall = scores(values, per_output.iter().map(|o| o.max_error).fold(0.0, f64::max));
    Regression { samples, overall, per_output }
}

#[cfg(test)]
mod tests {
    use super::super::{MAX_ERR_SUM, assert_close};
    use super::*;
    use whit_convert::statistics::StatisticsError;

    fn of(
        predictions: &[f32],
        targets: &[f32],
        outputs: usize,
    ) -> Result<Regression, StatisticsError> {
        let regressed = Regressed::new(predictions, targets, outputs)?;
        Ok(regression(&regressed, predictions, targets))
    }

    /// scikit-learn 1.9.1: `mean_absolute_error(t, p)`, `root_mean_squared_error(t, p)`,
    /// `r2_score(t, p)`, `max_error(t, p)`.
    #[test]
    fn one_and_several_outputs() {
        let m = of(&[2.5, 0.0, 2.0, 8.0], &[3.0, -0.5, 2.0, 7.0], 1).unwrap();
        assert_eq!((m.samples, m.overall.mae, m.overall.max_error), (4, 0.5, 1.0));
        assert_close(Some(m.overall.rmse), Some(0.6123724356957945), MAX_ERR_SUM);
        assert_close(m.overall.r2, Some(0.9486081370449679), MAX_ERR_SUM);

        let m =
            of(&[0.0, 2.0, -1.0, 2.0, 8.0, -5.0], &[0.5, 1.0, -1.0, 1.0, 7.0, -6.0], 2).unwrap();
        assert_eq!((m.samples, m.overall.mae), (3, 0.75));
        assert_close(Some(m.overall.rmse), Some(0.8227486121839513), MAX_ERR_SUM);
        assert_close(m.overall.r2, Some(0.9368005266622779), MAX_ERR_SUM);
        assert_close(m.per_output[1].r2, Some(0.90816327), 1e-8); // printed with eight digits
    }

    #[test]
    fn a_constant_target_has_no_r2() {
        let m = of(&[0.1, 0.2, 0.3], &[0.1, 0.1, 0.1], 1).unwrap();
        assert_eq!(m.overall.r2, None);
        assert_eq!(serde_json::to_value(&m).unwrap()["r2"], serde_json::Value::Null);
        assert_eq!(of(&[], &[], 1), Err(StatisticsError::Empty));
        assert!(matches!(of(&[1.0], &[1.0, 2.0], 1), Err(StatisticsError::Length { .. })));
    }
}
