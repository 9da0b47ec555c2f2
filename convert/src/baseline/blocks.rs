//! How long blocks of neighbouring samples must be so that resampled data depends on itself as the original does.

/// Lags in a row without correlation that end it.
const QUIET_LAGS: f64 = 5.0;

/// The block length for a circular block bootstrap of a series (Politis and White, "Automatic block-length selection for
/// the dependent bootstrap", 2004, with the correction of Patton, Politis and White, 2009): about 1 for samples that don't
/// depend on each other, at most the lesser of 3·√n and n/3.
pub(super) fn block_length(series: &[f64]) -> usize {
    let n = series.len() as f64;
    if series.len() < 9 {
        return 1;
    }
    let mean = series.iter().sum::<f64>() / n;
    let covariance = |lag: usize| -> f64 {
        let pairs = series.iter().zip(&series[lag..]);
        pairs.map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>() / n
    };
    let variance = covariance(0);
    if variance <= 0.0 {
        return 1;
    }
    let quiet = n.log10().ceil().max(QUIET_LAGS) as usize;
    let most_lags = (n.sqrt().ceil() as usize + quiet).min(series.len() - 1);
    let covariances: Vec<f64> = (0..=most_lags).map(covariance).collect();
    let negligible = 2.0 * (n.log10() / n).sqrt() * variance;
    // The last lag before `quiet` negligible ones; without such a pause the last lag that isn't negligible.
    let (mut last, mut pause) = (0, 0);
    for (lag, covariance) in covariances.iter().enumerate().skip(1) {
        if covariance.abs() < negligible {
            pause += 1;
            if pause == quiet {
                break;
            }
        } else {
            (last, pause) = (lag, 0);
        }
    }
    let bandwidth = (2 * last.max(1)).min(most_lags);
    let (mut spectrum, mut slope) = (variance, 0.0);
    for (lag, covariance) in covariances.iter().enumerate().take(bandwidth + 1).skip(1) {
        // The flat-top window.
        let weight = (2.0 - 2.0 * lag as f64 / bandwidth as f64).min(1.0);
        spectrum += 2.0 * weight * covariance;
        slope += 2.0 * weight * lag as f64 * covariance;
    }
    let most = (3.0 * n.sqrt()).min(n / 3.0).ceil();
    // Of a series that swings back and forth the spectrum at 0 may be estimated as 0 or less.
    let ratio = slope / spectrum.max(1e-3 * variance);
    let length = (1.5 * ratio * ratio * n).cbrt();
    length.ceil().clamp(1.0, most) as usize
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn blocks_are_as_long_as_the_formula_says_for_autoregressions() {
        struct Case {
            phi: f64,
            count: usize,
            least: usize,
            most: usize,
        }
        // (1.5 · (2φ / (1 − φ²))² · n)^⅓ is the formula for a first-order autoregression: 5.4, 44 and 81.
        let cases = [
            Case { phi: 0.0, count: 4000, least: 1, most: 8 },
            Case { phi: 0.1, count: 2500, least: 1, most: 12 },
            Case { phi: 0.75, count: 4000, least: 30, most: 58 },
            Case { phi: 0.9, count: 4000, least: 60, most: 110 },
            Case { phi: 0.999, count: 900, least: 60, most: 90 },
        ];
        let mut random = ChaCha8Rng::seed_from_u64(4);
        for Case { phi, count, least, most } in cases {
            // The middle of several series.
            let mut lengths: Vec<usize> = (0..9)
                .map(|_| {
                    let mut x = 0.0;
                    let mut next = || {
                        x = phi * x + random.random::<f64>() - 0.5;
                        x
                    };
                    let series: Vec<f64> = (0..count).map(|_| next()).collect();
                    block_length(&series)
                })
                .collect();
            lengths.sort_unstable();
            assert!((least..=most).contains(&lengths[4]), "{phi}: {lengths:?}");
        }
        for series in [vec![], vec![1.0; 5], vec![3.0; 500]] {
            assert_eq!(block_length(&series), 1);
        }
    }
}
