//! Metrics of numbers: errors, the share of variance explained, rank correlation.

use super::{Metric, Statistic, StatisticsError, check_rows, mean_defined, share};

const METRICS: [Metric; 4] = [
    Metric::lower("rmse", "RMSE"),
    Metric::lower("mae", "MAE"),
    Metric::higher("r2", "R²"),
    Metric::higher("spearman", "Spearman"),
];

/// One output of a model beside its targets.
#[derive(Clone, Debug)]
struct Column {
    predictions: Vec<f64>,
    targets: Vec<f64>,
    /// Samples by prediction and by target, with the ends of groups of equal values.
    by_prediction: Sorted,
    by_target: Sorted,
}

/// Predicted numbers beside what they should be. Metrics are means over the outputs.
#[derive(Clone, Debug)]
pub struct Regressed {
    columns: Vec<Column>,
    strata: Vec<u32>,
}

impl Regressed {
    /// From rows of `outputs` predicted values and as many targets.
    ///
    /// # Errors
    /// No samples, lengths that differ, numbers that aren't finite.
    pub fn new(
        predictions: &[f32],
        targets: &[f32],
        outputs: usize,
    ) -> Result<Regressed, StatisticsError> {
        let samples = targets.len() / outputs.max(1);
        check_rows("targets", targets, samples, outputs)?;
        check_rows("predictions", predictions, samples, outputs)?;
        let column = |values: &[f32], output: usize| -> Vec<f64> {
            values.iter().skip(output).step_by(outputs).map(|v| f64::from(*v)).collect()
        };
        let columns = (0..outputs).map(|output| {
            let (predictions, targets) = (column(predictions, output), column(targets, output));
            Column {
                by_prediction: Sorted::new(&predictions),
                by_target: Sorted::new(&targets),
                predictions,
                targets,
            }
        });
        Ok(Regressed { columns: columns.collect(), strata: vec![0; samples] })
    }

    /// Of each output: root of the mean squared error, mean absolute error, R², Spearman's ρ.
    pub fn per_output(&self, counts: &[u32]) -> Vec<[f64; 4]> {
        self.columns.iter().map(|column| column.values(counts)).collect()
    }
}

impl Column {
    fn values(&self, counts: &[u32]) -> [f64; 4] {
        let (mut n, mut sum, mut squares, mut absolute) = (0.0, 0.0, 0.0, 0.0);
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        for ((prediction, target), count) in self.predictions.iter().zip(&self.targets).zip(counts)
        {
            let weight = f64::from(*count);
            let error = prediction - target;
            n += weight;
            sum += weight * target;
            squares += weight * error * error;
            absolute += weight * error.abs();
            if *count > 0 {
                (least, most) = (least.min(*target), most.max(*target));
            }
        }
        let mean = sum / n;
        let spread: f64 = (self.targets.iter().zip(counts))
            .map(|(t, count)| f64::from(*count) * (t - mean).powi(2))
            .sum();
        // By comparison, not by `spread`: the mean of equal values need not equal them.
        let r2 = if least < most { 1.0 - squares / spread } else { f64::NAN };
        let ranks = (self.by_prediction.ranks(counts), self.by_target.ranks(counts));
        [(squares / n).sqrt(), absolute / n, r2, pearson(&ranks.0, &ranks.1, counts)]
    }
}

impl Statistic for Regressed {
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
        let columns = self.per_output(counts);
        for (metric, out) in out.iter_mut().enumerate() {
            let values = || columns.iter().map(|column| column[metric]);
            // Undefined for one output is undefined for all, as in scikit-learn's uniform average.
            *out = if values().any(f64::is_nan) { f64::NAN } else { mean_defined(values()) };
        }
    }
}

/// The order of values, for ranks of samples that count any number of times.
#[derive(Clone, Debug)]
pub(super) struct Sorted {
    order: Vec<u32>,
    ends: Vec<u32>,
}

impl Sorted {
    pub(super) fn new(values: &[f64]) -> Sorted {
        let mut order: Vec<u32> = (0..values.len() as u32).collect();
        order.sort_by(|a, b| values[*a as usize].total_cmp(&values[*b as usize]));
        let ends = (1..=order.len())
            .filter(|end| {
                let before = values[order[end - 1] as usize];
                order.get(*end).is_none_or(|next| values[*next as usize] != before)
            })
            .map(|end| end as u32)
            .collect();
        Sorted { order, ends }
    }

    /// The mean rank of each sample, equal values sharing theirs.
    pub(super) fn ranks(&self, counts: &[u32]) -> Vec<f64> {
        let mut ranks = vec![0.0; self.order.len()];
        let (mut before, mut begin) = (0.0, 0);
        for end in &self.ends {
            let group = &self.order[begin..*end as usize];
            let size: f64 = group.iter().map(|sample| f64::from(counts[*sample as usize])).sum();
            for sample in group {
                ranks[*sample as usize] = before + (size + 1.0) / 2.0;
            }
            (before, begin) = (before + size, *end as usize);
        }
        ranks
    }
}

/// The correlation of values that count so often; NaN when one side is constant.
pub(super) fn pearson(a: &[f64], b: &[f64], counts: &[u32]) -> f64 {
    let (mean_a, mean_b) = (super::weighted_mean(a, counts), super::weighted_mean(b, counts));
    let (mut aa, mut bb, mut ab) = (0.0, 0.0, 0.0);
    for ((a, b), count) in a.iter().zip(b).zip(counts) {
        let (a, b, weight) = (a - mean_a, b - mean_b, f64::from(*count));
        aa += weight * a * a;
        bb += weight * b * b;
        ab += weight * a * b;
    }
    share(ab, (aa * bb).sqrt())
}

#[cfg(test)]
mod tests {
    use super::super::{MAX_ERR_SUM, assert_close};
    use super::*;

    /// scikit-learn 1.9.1: `root_mean_squared_error(t, p)`, `mean_absolute_error(t, p)`, `r2_score(t, p)`;
    /// scipy 1.17.1: `spearmanr(p, t)`, for two outputs the mean over columns.
    #[test]
    fn errors() {
        struct Case {
            predictions: &'static [f32],
            targets: &'static [f32],
            outputs: usize,
            expected: [f64; 4],
        }
        for c in [
            Case {
                predictions: &[2.5, 0.0, 2.0, 8.0],
                targets: &[3.0, -0.5, 2.0, 7.0],
                outputs: 1,
                expected: [0.6123724356957945, 0.5, 0.9486081370449679, 1.0],
            },
            Case {
                predictions: &[0.0, 2.0, -1.0, 2.0, 8.0, -5.0],
                targets: &[0.5, 1.0, -1.0, 1.0, 7.0, -6.0],
                outputs: 2,
                // Column 1 has two equal pairs: ranks 2.5, 2.5, 1 on both sides.
                expected: [0.8227486121839513, 0.75, 0.9368005266622779, 1.0],
            },
            Case {
                predictions: &[1.0, 2.0, 2.0, 4.0, 3.0, 0.5],
                targets: &[2.0, 1.0, 3.0, 3.0, 5.0, 1.0],
                outputs: 1,
                expected: [
                    1.1726039399558574,
                    1.0833333333333333,
                    0.28260869565217395,
                    0.7164977208318385,
                ],
            },
            Case {
                predictions: &[0.25, 0.5, 0.75],
                targets: &[0.25, 0.25, 0.25],
                outputs: 1,
                expected: [0.3227486121839514, 0.25, f64::NAN, f64::NAN],
            },
        ] {
            let values = Regressed::new(c.predictions, c.targets, c.outputs).unwrap().value();
            for (value, expected) in values.iter().zip(c.expected) {
                assert_close(*value, expected, MAX_ERR_SUM);
            }
        }
        assert_eq!(Regressed::new(&[], &[], 1).unwrap_err(), StatisticsError::Empty);
        assert!(Regressed::new(&[1.0], &[1.0, 2.0], 1).is_err());
    }

    #[test]
    fn counts_repeat_samples() {
        let regressed = Regressed::new(&[1.0, 2.0, 2.0, 4.0], &[2.0, 1.0, 3.0, 3.0], 1).unwrap();
        let repeated =
            Regressed::new(&[1.0, 1.0, 2.0, 4.0, 4.0, 4.0], &[2.0, 2.0, 3.0, 3.0, 3.0, 3.0], 1);
        let mut values = [0.0; 4];
        regressed.values(&[2, 0, 1, 3], &mut values);
        for (value, expected) in values.iter().zip(repeated.unwrap().value()) {
            assert_close(*value, expected, MAX_ERR_SUM);
        }
    }
}
