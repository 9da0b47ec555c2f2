//! Stratified folds: how much a metric depends on which part of the data is looked at.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{Statistic, StatisticsError};

/// The metrics of each fold.
#[derive(Clone, Debug, PartialEq)]
pub struct Folds {
    /// Samples of each fold.
    pub sizes: Vec<usize>,
    /// `values[fold][metric]`, NaN where the fold doesn't define it.
    pub values: Vec<Vec<f64>>,
}

/// Mean and spread of one metric over folds that define it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Standard deviation, with n − 1; NaN for one fold.
    pub deviation: f64,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
}

impl Folds {
    /// The spread of a metric; `None` if no fold defines it.
    pub fn spread(&self, metric: usize) -> Option<Spread> {
        let values: Vec<f64> =
            self.values.iter().map(|fold| fold[metric]).filter(|v| !v.is_nan()).collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        (!values.is_empty()).then(|| Spread {
            mean,
            deviation: (squares / (n - 1.0)).sqrt(),
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        })
    }
}

/// The fold of each sample. Samples of a stratum are shuffled and dealt in turn; the next stratum goes on where the
/// last one ended, so that folds differ by one sample at most, in all and in every stratum.
///
/// # Errors
/// A stratum, or all of the data, has fewer samples than there are folds.
pub fn assign(strata: &[u32], folds: usize, seed: u64) -> Result<Vec<usize>, StatisticsError> {
    let samples = strata.len();
    if samples < folds {
        return Err(StatisticsError::Folds { folds, samples });
    }
    let classes = strata.iter().max().map_or(0, |most| *most as usize + 1);
    let mut members = vec![Vec::new(); classes];
    for (sample, stratum) in strata.iter().enumerate() {
        members[*stratum as usize].push(sample);
    }
    let present = members.iter().enumerate().filter(|(_, members)| !members.is_empty());
    if let Some((class, smallest)) = present.min_by_key(|(_, members)| members.len())
        && smallest.len() < folds
    {
        return Err(StatisticsError::FoldsOfClass { folds, class, samples: smallest.len() });
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (mut fold_of, mut next) = (vec![0; samples], 0);
    for stratum in &mut members {
        stratum.shuffle(&mut random);
        for sample in stratum {
            fold_of[*sample] = next;
            next = (next + 1) % folds;
        }
    }
    Ok(fold_of)
}

/// Computes a statistic on each of `folds` folds.
///
/// # Errors
/// As [`assign`].
pub fn evaluate(
    statistic: &dyn Statistic,
    folds: usize,
    seed: u64,
) -> Result<Folds, StatisticsError> {
    let fold_of = assign(statistic.strata(), folds, seed)?;
    let mut result = Folds { sizes: Vec::new(), values: Vec::new() };
    for fold in 0..folds {
        let counts: Vec<u32> = fold_of.iter().map(|of| u32::from(*of == fold)).collect();
        let mut values = vec![f64::NAN; statistic.metrics().len()];
        statistic.values(&counts, &mut values);
        result.sizes.push(counts.iter().map(|count| *count as usize).sum());
        result.values.push(values);
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Ranked;

    #[test]
    fn folds_hold_every_sample_once_and_keep_the_strata() {
        for (strata, folds) in [
            (vec![0, 1, 1, 0, 0, 1, 0, 0, 1, 1, 1], 3),
            (vec![0; 10], 10),
            (vec![2, 2, 0, 0, 0], 2),
        ] {
            let fold_of = assign(&strata, folds, 7).unwrap();
            let spread = |keep: &dyn Fn(usize) -> bool| {
                let sizes: Vec<usize> = (0..folds)
                    .map(|fold| {
                        (0..strata.len()).filter(|s| keep(*s) && fold_of[*s] == fold).count()
                    })
                    .collect();
                sizes.iter().max().unwrap() - sizes.iter().min().unwrap()
            };
            assert!(spread(&|_| true) <= 1, "{fold_of:?}");
            for stratum in 0..3 {
                assert!(spread(&|s| strata[s] == stratum) <= 1, "{fold_of:?}");
            }
            assert_eq!(fold_of, assign(&strata, folds, 7).unwrap());
        }
        let many = vec![0; 100];
        assert_ne!(assign(&many, 5, 1).unwrap(), assign(&many, 5, 2).unwrap());
    }

    #[test]
    fn too_many_folds() {
        assert_eq!(
            assign(&[0, 0, 0, 1, 1], 3, 0),
            Err(StatisticsError::FoldsOfClass { folds: 3, class: 1, samples: 2 })
        );
        assert_eq!(assign(&[0, 0], 3, 0), Err(StatisticsError::Folds { folds: 3, samples: 2 }));
    }

    /// Every fold of a perfect ranking is perfect, and the spread is that of numpy's `std(ddof=1)`.
    #[test]
    fn metrics_per_fold() {
        let labels: Vec<bool> = (0..20).map(|i| i % 2 == 1).collect();
        let scores: Vec<f32> = labels.iter().map(|l| if *l { 1.0 } else { 0.0 }).collect();
        let folds = evaluate(&Ranked::new(&scores, &labels).unwrap(), 5, 3).unwrap();
        assert_eq!(folds.sizes, [4; 5]);
        let spread = folds.spread(0).unwrap();
        assert_eq!((spread.mean, spread.deviation, spread.min, spread.max), (1.0, 0.0, 1.0, 1.0));
        let folds = Folds { sizes: vec![1; 3], values: vec![vec![1.0], vec![2.0], vec![4.0]] };
        let spread = folds.spread(0).unwrap();
        assert!((spread.deviation - 1.5275252316519468).abs() < 1e-12, "{spread:?}");
    }
}
