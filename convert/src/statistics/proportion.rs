//! Shares of samples: their intervals, and the exact comparison of two models that answered the same samples.

use statrs::distribution::{Binomial, ChiSquared, ContinuousCDF, Discrete, DiscreteCDF, Normal};

use super::{Interval, IntervalMethod};

/// Discordant samples from which the mid-p value stands for the exact one, which is conservative.
/// The choice of 25 is that of most textbooks for leaving the exact test.
const FEW_DISCORDANT: u64 = 25;

/// The two-sided quantile of the standard normal distribution: 1.96 for 0.95.
pub fn two_sided_quantile(confidence: f64) -> f64 {
    Normal::standard().inverse_cdf(0.5 + confidence / 2.0)
}

/// The score interval of a share (Wilson 1927), recommended over the exact one, which is too wide, and
/// the normal one, which fails near 0 and 1 (Brown, Cai and DasGupta 2001). `None` without samples.
pub fn wilson(hits: u64, samples: u64, confidence: f64) -> Option<Interval> {
    if samples == 0 {
        return None;
    }
    let z = two_sided_quantile(confidence);
    let (n, p) = (samples as f64, hits as f64 / samples as f64);
    let center = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    // At 0 and 1 the formula gives exactly 0 and 1, but for rounding.
    let low = if hits == 0 { 0.0 } else { (center - half).max(0.0) };
    let high = if hits == samples { 1.0 } else { (center + half).min(1.0) };
    Some(Interval { low, high, method: IntervalMethod::Wilson })
}

/// McNemar's test (1947): whether two models are right equally often, from the samples where one of them is.
#[derive(Clone, Debug, PartialEq)]
pub struct McNemar {
    /// Samples that only the model got right.
    pub only_model: u64,
    /// Samples that only the other one got right.
    pub only_against: u64,
    /// Two-sided exact binomial p value.
    pub exact_p: f64,
    /// Its mid-p variant, recommended by Fagerland, Lydersen and Laake (2013).
    pub mid_p: f64,
    /// χ² with continuity correction (Edwards 1948); `None` without discordant samples.
    pub chi2: Option<f64>,
    /// Its p value.
    pub chi2_p: Option<f64>,
}

impl McNemar {
    /// The p value to go by: the exact one with few discordant samples, mid-p otherwise.
    pub fn p(&self) -> (f64, &'static str) {
        if self.only_model + self.only_against < FEW_DISCORDANT {
            (self.exact_p, "exact")
        } else {
            (self.mid_p, "mid-p")
        }
    }
}

/// Compares two models by how many samples only one of them got right.
pub fn mcnemar(only_model: u64, only_against: u64) -> McNemar {
    let discordant = only_model + only_against;
    let least = only_model.min(only_against);
    let (exact_p, mid_p) = match Binomial::new(0.5, discordant) {
        Ok(binomial) if discordant > 0 => {
            let at = binomial.pmf(least);
            let exact = (2.0 * binomial.cdf(least)).min(1.0);
            // Twice the tail below and once the point itself; in the middle, half of it is beyond.
            let mid =
                if only_model == only_against { 1.0 - at / 2.0 } else { (exact - at).max(0.0) };
            (exact, mid)
        }
        _ => (1.0, 1.0),
    };
    let apart = (only_model.abs_diff(only_against) as f64 - 1.0).max(0.0);
    let chi2 = (discordant > 0).then(|| apart * apart / discordant as f64);
    // One degree of freedom is a valid parameter.
    let chi2_p = chi2.and_then(|chi2| Some(ChiSquared::new(1.0).ok()?.sf(chi2)));
    McNemar { only_model, only_against, exact_p, mid_p, chi2, chi2_p }
}

/// Steps that halve the bracket of a root: 2⁻⁶⁰ is beyond f64's precision of a share.
const BISECTIONS: usize = 60;

/// The score interval of the difference of two paired shares, model minus other (Tango 1998), recommended by
/// Fagerland, Lydersen and Laake (2014). It has a width even when no sample is discordant.
/// `None` without samples.
pub fn tango(
    only_model: u64,
    only_against: u64,
    samples: u64,
    confidence: f64,
) -> Option<Interval> {
    if samples == 0 {
        return None;
    }
    let z = two_sided_quantile(confidence);
    let (b, c, n) = (only_model as f64, only_against as f64, samples as f64);
    // The score statistic of the hypothesis that the difference is `delta`; it falls as delta grows.
    let score = |delta: f64| {
        let linear = -b - c + (2.0 * n - b + c) * delta;
        let constant = -c * delta * (1.0 - delta);
        // The other one's share of discordant samples, most likely under the hypothesis.
        let q = ((linear * linear - 8.0 * n * constant).max(0.0).sqrt() - linear) / (4.0 * n);
        let variance = n * (2.0 * q + delta * (1.0 - delta));
        let apart = b - c - n * delta;
        if variance > 0.0 { apart / variance.sqrt() } else { f64::INFINITY.copysign(apart) }
    };
    let estimate = (b - c) / n;
    // The score is ±z between the estimate and the end of the range.
    let root = |mut near: f64, mut far: f64| {
        for _ in 0..BISECTIONS {
            let middle = f64::midpoint(near, far);
            if score(middle).abs() < z { near = middle } else { far = middle }
        }
        near
    };
    Some(Interval {
        low: root(estimate, -1.0),
        high: root(estimate, 1.0),
        method: IntervalMethod::Tango,
    })
}
