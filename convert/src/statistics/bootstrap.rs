//! Bootstrap intervals of any statistic, and of the difference of two on the same samples.
//!
//! Samples are drawn with replacement within their strata (Davison and Hinkley 1997, §3.2). Intervals are BCa (Efron
//! 1987) with the several-sample acceleration of Davison and Hinkley, §5.3.2, as in `scipy.stats.bootstrap`; plain
//! percentiles where there are so many samples that both agree. Plain shares have score intervals and McNemar's test instead. All metrics see the same resamples, and so do two
//! models, so that what is common to both cancels in their difference.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use statrs::distribution::{ContinuousCDF, Normal};

use super::proportion::{McNemar, mcnemar, tango, wilson};
use super::{Metric, Statistic, StatisticsError};

/// Samples up to which intervals are BCa. Its correction shrinks as 1/n, and its jackknife costs n evaluations.
const MAX_BCA_SAMPLES: usize = 2000;

/// The share of resamples that may leave a metric undefined, before it has no interval.
const MAX_UNDEFINED: f64 = 0.05;

/// How to resample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bootstrap {
    /// Share of intervals that should hold the true value, between 0 and 1.
    pub confidence: f64,
    /// Number of resamples; none gives no intervals.
    pub resamples: usize,
    /// Seed of the generator (ChaCha8): the same seed draws the same resamples.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Bootstrap { confidence: 0.95, resamples: 2000, seed: 0 }
    }
}

/// Where an interval comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntervalMethod {
    /// Bootstrap, bias-corrected and accelerated.
    Bca,
    /// Quantiles of the bootstrap's values.
    Percentile,
    /// Score interval of a share.
    Wilson,
    /// Score interval of the difference of paired shares.
    Tango,
    /// Distribution-free, from the order of the samples.
    Wilks,
}

impl IntervalMethod {
    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            IntervalMethod::Bca => "bca",
            IntervalMethod::Percentile => "percentile",
            IntervalMethod::Wilson => "wilson",
            IntervalMethod::Tango => "tango",
            IntervalMethod::Wilks => "wilks",
        }
    }
}

/// Between which values a number lies, with the confidence asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// How it was found.
    pub method: IntervalMethod,
}

/// One metric of two models on the same samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// What is compared.
    pub metric: Metric,
    /// The model's value.
    pub model: f64,
    /// The other one's.
    pub against: f64,
    /// Model minus other.
    pub difference: f64,
    /// Of the difference; `None` where no resample differs from another.
    pub interval: Option<Interval>,
    /// Two-sided p value of no difference; `None` as for the interval.
    pub p: Option<f64>,
    /// The test that the p value is of: `bootstrap`, or McNemar's, `exact` or `mid-p`.
    pub test: &'static str,
    /// For a share of samples: the samples that only one of the two got right.
    pub mcnemar: Option<McNemar>,
}

/// An interval for each metric; `None` where the metric isn't defined, or no resample differs from another: then
/// the data can't say how sure the value is.
pub fn intervals(statistic: &dyn Statistic, options: &Bootstrap) -> Vec<Option<Interval>> {
    let values = statistic.value();
    let drawn = resample(statistic, options);
    let jackknife = Jackknife::new(statistic, options, &values);
    let interval = |metric| match statistic.hits(metric) {
        Some(hits) => wilson(count(&hits), hits.len() as u64, options.confidence),
        None => jackknife.interval(metric, values[metric], &drawn[metric], options),
    };
    (0..values.len()).map(interval).collect()
}

/// Compares two models that answered the same samples. The metrics are those that both have.
///
/// # Errors
/// The two have different samples.
pub fn compare(
    model: &dyn Statistic,
    against: &dyn Statistic,
    options: &Bootstrap,
) -> Result<Vec<Difference>, StatisticsError> {
    if model.samples() != against.samples() || model.strata() != against.strata() {
        return Err(StatisticsError::Length {
            what: "samples of the other model",
            want: model.samples(),
            got: against.samples(),
        });
    }
    let paired = Paired::new(model, against);
    let (own, other) = (model.value(), against.value());
    let differences = paired.value();
    let drawn = resample(&paired, options);
    let jackknife = Jackknife::new(&paired, options, &differences);
    Ok((0..differences.len())
        .map(|at| {
            let (difference, of) = (differences[at], paired.of[at]);
            let bare = Difference {
                metric: paired.metrics[at],
                model: own[of.0],
                against: other[of.1],
                difference,
                interval: None,
                p: None,
                test: "bootstrap",
                mcnemar: None,
            };
            if let (Some(a), Some(b)) = (model.hits(of.0), against.hits(of.1)) {
                let only = |a: &[bool], b: &[bool]| {
                    a.iter().zip(b).filter(|(a, b)| **a && !**b).count() as u64
                };
                let (only_model, only_against) = (only(&a, &b), only(&b, &a));
                let result = mcnemar(only_model, only_against);
                let (p, test) = result.p();
                return Difference {
                    interval: tango(only_model, only_against, a.len() as u64, options.confidence),
                    p: Some(p),
                    test,
                    mcnemar: Some(result),
                    ..bare
                };
            }
            let interval = jackknife.interval(at, difference, &drawn[at], options);
            Difference { interval, p: interval.map(|_| p_value(&drawn[at])), ..bare }
        })
        .collect())
}

fn count(hits: &[bool]) -> u64 {
    hits.iter().filter(|hit| **hit).count() as u64
}

/// Twice the smaller share of resamples beyond 0, the value itself counted as one of them (Davison and Hinkley 1997,
/// eq. 4.11, on the bootstrap's distribution).
fn p_value(drawn: &[f64]) -> f64 {
    let beyond = |side: fn(f64) -> bool| drawn.iter().filter(|value| side(**value)).count() + 1;
    let least = beyond(|value| value <= 0.0).min(beyond(|value| value >= 0.0));
    (2.0 * least as f64 / (drawn.len() + 1) as f64).min(1.0)
}

/// The difference of two statistics of the same samples.
struct Paired<'s> {
    model: &'s dyn Statistic,
    against: &'s dyn Statistic,
    metrics: Vec<Metric>,
    /// For each metric, its place in the two.
    of: Vec<(usize, usize)>,
}

impl<'s> Paired<'s> {
    fn new(model: &'s dyn Statistic, against: &'s dyn Statistic) -> Paired<'s> {
        let (mut metrics, mut of) = (Vec::new(), Vec::new());
        for (own, metric) in model.metrics().iter().enumerate() {
            if let Some(other) = against.metrics().iter().position(|other| other == metric) {
                metrics.push(*metric);
                of.push((own, other));
            }
        }
        Paired { model, against, metrics, of }
    }
}

impl Statistic for Paired<'_> {
    fn metrics(&self) -> &[Metric] {
        &self.metrics
    }

    fn samples(&self) -> usize {
        self.model.samples()
    }

    fn strata(&self) -> &[u32] {
        self.model.strata()
    }

    fn values(&self, counts: &[u32], out: &mut [f64]) {
        let mut own = vec![f64::NAN; self.model.metrics().len()];
        let mut other = vec![f64::NAN; self.against.metrics().len()];
        self.model.values(counts, &mut own);
        self.against.values(counts, &mut other);
        for (out, (a, b)) in out.iter_mut().zip(&self.of) {
            *out = own[*a] - other[*b];
        }
    }
}

/// The samples of each stratum.
fn members(strata: &[u32]) -> Vec<Vec<u32>> {
    let mut members = vec![Vec::new(); strata.iter().max().map_or(0, |most| *most as usize + 1)];
    for (sample, stratum) in strata.iter().enumerate() {
        members[*stratum as usize].push(sample as u32);
    }
    members
}

/// Calls `visit` with every resample: how often it has each sample.
pub(crate) fn each_resample(strata: &[u32], options: &Bootstrap, mut visit: impl FnMut(&[u32])) {
    let mut random = ChaCha8Rng::seed_from_u64(options.seed);
    let members = members(strata);
    let mut counts = vec![0u32; strata.len()];
    for _ in 0..options.resamples {
        counts.fill(0);
        for stratum in members.iter().filter(|stratum| !stratum.is_empty()) {
            for _ in 0..stratum.len() {
                // u32 and not usize, so that every machine draws the same.
                let drawn = stratum[random.random_range(0..stratum.len() as u32) as usize];
                counts[drawn as usize] += 1;
            }
        }
        visit(&counts);
    }
}

/// For each metric its values on the resamples, sorted, without those that aren't defined.
fn resample(statistic: &dyn Statistic, options: &Bootstrap) -> Vec<Vec<f64>> {
    let metrics = statistic.metrics().len();
    let mut drawn = vec![Vec::with_capacity(options.resamples); metrics];
    let mut values = vec![f64::NAN; metrics];
    each_resample(statistic.strata(), options, |counts| {
        statistic.values(counts, &mut values);
        for (drawn, value) in drawn.iter_mut().zip(&values).filter(|(_, value)| !value.is_nan()) {
            drawn.push(*value);
        }
    });
    for drawn in &mut drawn {
        drawn.sort_by(f64::total_cmp);
    }
    drawn
}

/// The accelerations of BCa, if there are few enough samples for it.
struct Jackknife {
    accelerations: Option<Vec<f64>>,
}

impl Jackknife {
    fn new(statistic: &dyn Statistic, options: &Bootstrap, values: &[f64]) -> Jackknife {
        let samples = statistic.samples();
        if samples > MAX_BCA_SAMPLES || options.resamples == 0 {
            return Jackknife { accelerations: None };
        }
        let metrics = values.len();
        let mut counts = vec![1; samples];
        let (mut cubes, mut squares) = (vec![0.0; metrics], vec![0.0; metrics]);
        for stratum in members(statistic.strata()) {
            let n = stratum.len() as f64;
            let mut without = vec![vec![f64::NAN; metrics]; stratum.len()];
            for (sample, out) in stratum.iter().zip(&mut without) {
                counts[*sample as usize] = 0;
                statistic.values(&counts, out);
                counts[*sample as usize] = 1;
            }
            for metric in 0..metrics {
                // A stratum of one sample can leave a metric undefined without it; it then has no influence here.
                let column = || without.iter().map(|values| values[metric]);
                let mean = super::mean_defined(column());
                let influences =
                    column().filter(|v| !v.is_nan()).map(|value| (n - 1.0) * (mean - value));
                for influence in influences {
                    cubes[metric] += influence.powi(3) / n.powi(3);
                    squares[metric] += influence.powi(2) / n.powi(2);
                }
            }
        }
        let acceleration = |(cube, square): (&f64, &f64)| {
            if *square > 0.0 { cube / (6.0 * square.powf(1.5)) } else { 0.0 }
        };
        Jackknife { accelerations: Some(cubes.iter().zip(&squares).map(acceleration).collect()) }
    }

    fn interval(
        &self,
        metric: usize,
        value: f64,
        drawn: &[f64],
        options: &Bootstrap,
    ) -> Option<Interval> {
        let (first, last) = (*drawn.first()?, *drawn.last()?);
        let enough = drawn.len() as f64 >= (1.0 - MAX_UNDEFINED) * options.resamples as f64;
        if value.is_nan() || !enough || first == last {
            return None;
        }
        let tail = (1.0 - options.confidence) / 2.0;
        let percentile = |low: f64, high: f64, method| {
            Some(Interval { low: quantile(drawn, low), high: quantile(drawn, high), method })
        };
        let normal = Normal::standard();
        // The share of resamples below the value, ties counting one half.
        let below = drawn.partition_point(|drawn| *drawn < value) as f64;
        let up_to = drawn.partition_point(|drawn| *drawn <= value) as f64;
        let bias = normal.inverse_cdf((below + up_to) / 2.0 / drawn.len() as f64);
        match &self.accelerations {
            Some(accelerations) if bias.is_finite() => {
                let adjusted = |tail: f64| {
                    let z = bias + normal.inverse_cdf(tail);
                    normal.cdf(bias + z / (1.0 - accelerations[metric] * z))
                };
                percentile(adjusted(tail), adjusted(1.0 - tail), IntervalMethod::Bca)
            }
            _ => percentile(tail, 1.0 - tail, IntervalMethod::Percentile),
        }
    }
}

/// A quantile of sorted values, linear between neighbours (numpy's default).
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (at - low as f64)
}
