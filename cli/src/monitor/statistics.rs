//! What counts say: latency, shares of classes, quality against labels, drift. Where a figure comes from bins, the
//! bounds between which it lies come with it.

use whit::metrics::counters::{Event, Group, LATENCY_BUCKETS, Sum, Windowed};
use whit::metrics::histogram;
use whit::metrics::record::Header;
use whit::metrics::scores::CONFIDENCE_EDGES;
use whit_convert::statistics::calibration::{self, Bin, LOG_LOSS_CLIP};
use whit_convert::statistics::proportion::wilson;

use super::counts::Counts;

/// Of every interval.
pub(crate) const CONFIDENCE: f64 = 0.95;

/// The edges of the bins of confidences, both ends included.
pub(crate) fn confidence_edges() -> Vec<f64> {
    let inner = CONFIDENCE_EDGES.iter().map(|edge| f64::from(*edge) / 32_768.0);
    std::iter::once(0.0).chain(inner).chain([1.0]).collect()
}

/// The sum of counters. Each is below 2⁶², so that a damaged log's may be too large for a number: it then ends there.
pub(crate) fn total<'c>(counts: impl IntoIterator<Item = &'c u64>) -> u64 {
    counts.into_iter().fold(0, |sum, count| sum.saturating_add(*count))
}

/// A share and its Wilson interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Share {
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) hits: u64,
    pub(crate) of: u64,
}

impl Share {
    /// `None` of nothing.
    pub(crate) fn new(hits: u64, of: u64) -> Option<Share> {
        let interval = wilson(hits.min(of), of, CONFIDENCE)?;
        let value = hits.min(of) as f64 / of as f64;
        Some(Share { value, low: interval.low, high: interval.high, hits, of })
    }
}

/// A figure that bins tell up to bounds, which are certain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bounded {
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// Latencies in microseconds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Latency {
    pub(crate) runs: u64,
    /// Each with the bucket in which it lies.
    pub(crate) p50: Bounded,
    pub(crate) p90: Bounded,
    pub(crate) p99: Bounded,
    pub(crate) mean: Bounded,
    pub(crate) max: u32,
}

/// The quantiles of a latency histogram; `None` without runs.
pub(crate) fn latency(counts: &Counts) -> Option<Latency> {
    let buckets = counts.group(Group::Latency);
    let runs = total(buckets);
    let max = counts.latency_max_us;
    let top = f64::from(max);
    let quantile = |share: (u32, u32)| -> Option<Bounded> {
        let count = |index: usize| buckets.get(index).copied().unwrap_or(0);
        let value = histogram::quantile(&count, share, max)?;
        let (low, high) = histogram::range(histogram::bucket(value));
        let high = f64::from(high).min(top);
        Some(Bounded { value: f64::from(value), low: f64::from(low), high })
    };
    let mut mean = Bounded { value: 0.0, low: 0.0, high: 0.0 };
    for (index, count) in buckets.iter().enumerate().take(LATENCY_BUCKETS) {
        let (low, high) = histogram::range(index);
        let weight = *count as f64 / runs.max(1) as f64;
        let high = f64::from(high).min(top);
        mean.low += weight * f64::from(low);
        mean.high += weight * high;
        mean.value += weight * (f64::from(low) + high) / 2.0;
    }
    Some(Latency {
        runs,
        p50: quantile((1, 2))?,
        p90: quantile((9, 10))?,
        p99: quantile((99, 100))?,
        mean,
        max,
    })
}

/// The mean of what bins hold, `None` when they are empty.
pub(crate) fn mean_of_bins(counts: &[u64], edges: &[f64]) -> Option<Bounded> {
    let all = total(counts);
    let mut mean = Bounded { value: 0.0, low: 0.0, high: 0.0 };
    for (count, ends) in counts.iter().zip(edges.windows(2)) {
        let weight = *count as f64 / all as f64;
        mean.low += weight * ends[0];
        mean.high += weight * ends[1];
        mean.value += weight * (ends[0] + ends[1]) / 2.0;
    }
    (all > 0).then_some(mean)
}

/// The mean confidence.
pub(crate) fn mean_confidence(counts: &Counts) -> Option<Bounded> {
    mean_of_bins(counts.group(Group::Confidence), &confidence_edges())
}

/// The mean entropy over its maximum.
pub(crate) fn mean_entropy(counts: &Counts) -> Option<Bounded> {
    let bins = counts.group(Group::Entropy);
    let edges: Vec<f64> = (0..=bins.len()).map(|edge| edge as f64 / bins.len() as f64).collect();
    mean_of_bins(bins, &edges)
}

/// What a confusion matrix says of one class. NaN where it says nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ClassQuality {
    pub(crate) labelled: u64,
    pub(crate) predicted: u64,
    pub(crate) precision: f64,
    pub(crate) recall: f64,
    pub(crate) f1: f64,
}

/// What a confusion matrix says. Definitions are those of `whit eval`: classes without a defined figure are left out of means.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Classification {
    /// Rows are labels.
    pub(crate) confusion: Vec<Vec<u64>>,
    pub(crate) accuracy: Share,
    pub(crate) classes: Vec<ClassQuality>,
    pub(crate) macro_precision: f64,
    /// Also called balanced accuracy.
    pub(crate) macro_recall: f64,
    pub(crate) macro_f1: f64,
    /// Of runs with one label each: precision, recall and F1 over all classes are all the accuracy.
    pub(crate) micro_f1: f64,
}

fn ratio(part: u64, all: u64) -> f64 {
    if all == 0 { f64::NAN } else { part as f64 / all as f64 }
}

fn mean_defined(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) =
        values.filter(|v| !v.is_nan()).fold((0.0, 0u32), |(sum, count), v| (sum + v, count + 1));
    sum / f64::from(count)
}

/// Quality against labels of classes; `None` without labels, or without a matrix.
pub(crate) fn classification(counts: &Counts) -> Option<Classification> {
    let classes = usize::from(counts.shape.classes);
    let confusion: Vec<Vec<u64>> =
        counts.group(Group::Confusion).chunks(classes.max(1)).map(<[u64]>::to_vec).collect();
    let all = total(counts.group(Group::Confusion));
    let right = total(confusion.iter().enumerate().filter_map(|(class, row)| row.get(class)));
    let accuracy = Share::new(right, all)?;
    let quality: Vec<ClassQuality> = (0..classes)
        .map(|class| {
            let labelled = total(&confusion[class]);
            let predicted = total(confusion.iter().map(|row| &row[class]));
            let hits = confusion[class][class];
            ClassQuality {
                labelled,
                predicted,
                precision: ratio(hits, predicted),
                recall: ratio(hits, labelled),
                f1: ratio(hits.saturating_mul(2), labelled.saturating_add(predicted)),
            }
        })
        .collect();
    Some(Classification {
        accuracy,
        macro_precision: mean_defined(quality.iter().map(|class| class.precision)),
        macro_recall: mean_defined(quality.iter().map(|class| class.recall)),
        macro_f1: mean_defined(quality.iter().map(|class| class.f1)),
        micro_f1: accuracy.value,
        classes: quality,
        confusion,
    })
}

/// What binned scores and outcomes say.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scored {
    pub(crate) runs: u64,
    /// Runs with outcome 1.
    pub(crate) hits: u64,
    /// Whether outcome 1 is class 1; else that the prediction is right.
    pub(crate) binary: bool,
    /// Area under the ROC curve, ties in a bin counting one half; bounds: all of them the wrong, all the right way round.
    pub(crate) roc_auc: Option<Bounded>,
    /// In nats, with probabilities clipped as `whit eval` does.
    pub(crate) log_loss: Bounded,
    pub(crate) calibration_error: Bounded,
    /// Mean of score − outcome.
    pub(crate) overconfidence: Bounded,
    pub(crate) bins: Vec<Bin>,
}

/// What binned scores say; `None` without labelled runs.
pub(crate) fn scored(counts: &Counts) -> Option<Scored> {
    let group = counts.group(Group::Scored);
    let (misses, hits) = group.split_at(group.len() / 2);
    let runs = total(group);
    if runs == 0 {
        return None;
    }
    let edges = confidence_edges();
    let bins: Vec<Bin> = misses
        .iter()
        .zip(hits)
        .zip(edges.windows(2))
        .map(|((misses, hits), ends)| {
            let samples = misses + hits;
            let middle = (ends[0] + ends[1]) / 2.0;
            Bin {
                from: ends[0],
                to: ends[1],
                samples,
                confidence: if samples > 0 { middle } else { f64::NAN },
                accuracy: ratio(*hits, samples),
            }
        })
        .collect();
    let (all_misses, all_hits) = (total(misses), total(hits));
    let roc_auc = (all_misses > 0 && all_hits > 0).then(|| {
        let pairs = all_misses as f64 * all_hits as f64;
        let (mut below, mut ordered, mut tied) = (0u64, 0.0, 0.0);
        for (misses, hits) in misses.iter().zip(hits) {
            ordered += *hits as f64 * below as f64 / pairs;
            tied += *hits as f64 * *misses as f64 / pairs;
            below = below.saturating_add(*misses);
        }
        Bounded { value: ordered + tied / 2.0, low: ordered, high: (ordered + tied).min(1.0) }
    });
    let clip = |p: f64| p.clamp(LOG_LOSS_CLIP, 1.0 - LOG_LOSS_CLIP);
    let mut log_loss = Bounded { value: 0.0, low: 0.0, high: 0.0 };
    // The mean of |share of hits − mean score| when the mean score of each bin lies where it lies best or worst.
    let (mut error_low, mut error_high, mut gap) = (0.0, 0.0, 0.0);
    let mut half_widths = 0.0;
    for (bin, (misses, hits)) in bins.iter().zip(misses.iter().zip(hits)) {
        let middle = (bin.from + bin.to) / 2.0;
        for (count, of) in [
            (*hits, &(|p: f64| -clip(p).ln()) as &dyn Fn(f64) -> f64),
            (*misses, &|p: f64| -(1.0 - clip(p)).ln()),
        ] {
            let weight = count as f64 / runs as f64;
            let (a, b) = (of(bin.from), of(bin.to));
            log_loss.value += weight * of(middle);
            log_loss.low += weight * a.min(b);
            log_loss.high += weight * a.max(b);
        }
        if bin.samples > 0 {
            let weight = bin.samples as f64 / runs as f64;
            let (share, half) = (bin.accuracy, (bin.to - bin.from) / 2.0);
            error_low += weight * ((share - middle).abs() - half).max(0.0);
            error_high += weight * ((share - middle).abs() + half);
            gap += weight * (middle - share);
            half_widths += weight * half;
        }
    }
    Some(Scored {
        runs,
        hits: all_hits,
        binary: counts.shape.classes == 2,
        roc_auc,
        log_loss,
        calibration_error: Bounded {
            value: calibration::expected_error(&bins),
            low: error_low,
            high: error_high,
        },
        overconfidence: Bounded { value: gap, low: gap - half_widths, high: gap + half_widths },
        bins,
    })
}

/// Errors of estimated values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Regression {
    pub(crate) labels: u64,
    pub(crate) mae: f64,
    pub(crate) rmse: f64,
    /// Mean of estimate − label.
    pub(crate) bias: f64,
    /// NaN when all labels are equal.
    pub(crate) r2: f64,
}

/// Errors of estimates from their sums, exact up to the last division; `None` without labels of values.
pub(crate) fn regression(counts: &Counts, header: &Header) -> Option<Regression> {
    let sum = |sum: Sum| counts.get(Group::Sums, sum as usize);
    let count = sum(Sum::Count);
    if count == 0 {
        return None;
    }
    let (n, scale) = (count as f64, f64::from(header.value_scale));
    let signed = |plus: Sum, minus: Sum| i128::from(sum(plus)) - i128::from(sum(minus));
    // n Σy² − (Σy)², in integers, since the difference of nearly equal numbers is all that matters. Both are below 2¹²⁴.
    let labels = signed(Sum::Positive, Sum::Negative);
    let spread = i128::from(count) * i128::from(sum(Sum::LabelSquared)) - labels * labels;
    let squared = sum(Sum::Squared) as f64;
    Some(Regression {
        labels: count,
        mae: sum(Sum::Absolute) as f64 / n * scale,
        rmse: (squared / n).sqrt() * scale,
        bias: signed(Sum::ErrorPositive, Sum::ErrorNegative) as f64 / n * scale,
        r2: if spread > 0 { 1.0 - n * squared / spread as f64 } else { f64::NAN },
    })
}

/// How often a tensor's elements were at the limits of their type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Saturation {
    pub(crate) tensor: usize,
    pub(crate) low: u64,
    pub(crate) high: u64,
}

/// Saturation of every watched tensor.
pub(crate) fn saturation(counts: &Counts) -> Vec<Saturation> {
    let pairs = counts.group(Group::Saturation).chunks_exact(2).enumerate();
    pairs.map(|(tensor, pair)| Saturation { tensor, low: pair[0], high: pair[1] }).collect()
}

/// How far two distributions are apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Distance {
    /// Population stability index, Σ (p − q) ln(p / q), of shares with half a count added to each bin.
    pub(crate) psi: f64,
    /// Jensen–Shannon divergence in bits (Lin 1991).
    pub(crate) js: f64,
    /// Kolmogorov–Smirnov: the largest difference of the cumulated shares at the bins' edges.
    pub(crate) ks: f64,
}

/// Distances of two histograms of the same bins; `None` when one is empty.
pub(crate) fn distance(p: &[u64], q: &[u64]) -> Option<Distance> {
    let (p_sum, q_sum) = (total(p), total(q));
    if p_sum == 0 || q_sum == 0 {
        return None;
    }
    let bins = p.len() as f64;
    let smooth = |count: u64, sum: u64| (count as f64 + 0.5) / (sum as f64 + 0.5 * bins);
    let (mut psi, mut js, mut ks) = (0.0, 0.0, 0.0f64);
    let (mut p_below, mut q_below) = (0u64, 0u64);
    for (p, q) in p.iter().zip(q) {
        let (a, b) = (smooth(*p, p_sum), smooth(*q, q_sum));
        psi += (a - b) * (a / b).ln();
        let (a, b) = (*p as f64 / p_sum as f64, *q as f64 / q_sum as f64);
        for share in [a, b].into_iter().filter(|share| *share > 0.0) {
            js += 0.5 * share * (2.0 * share / (a + b)).log2();
        }
        (p_below, q_below) = (p_below.saturating_add(*p), q_below.saturating_add(*q));
        ks = ks.max((p_below as f64 / p_sum as f64 - q_below as f64 / q_sum as f64).abs());
    }
    Some(Distance { psi, js: js.clamp(0.0, 1.0), ks })
}

/// The histogram of a feature over the windows.
pub(crate) fn feature(counts: &Counts, feature: usize) -> &[u64] {
    let bins = usize::from(counts.shape.bins);
    counts.group(Group::Features).get(feature * bins..(feature + 1) * bins).unwrap_or(&[])
}

/// Windows of the drift tests as the device judged them.
pub(crate) fn windows(counts: &Counts) -> u64 {
    // Windows are counted in the period when they are judged, and again where their counts are written.
    counts.event(Event::Windows).max(counts.get(Group::Windowed, Windowed::Windows as usize))
}

/// The share of right predictions that the confidences promise by a calibration table (confidence-based performance
/// estimation): cut to 2⁻¹⁵ as the device does. `None` without runs.
pub(crate) fn estimated_accuracy(counts: &Counts, calibrated: &[u16]) -> Option<f64> {
    let (mut right, mut all) = (0u128, 0u128);
    for (count, share) in counts.group(Group::Confidence).iter().zip(calibrated) {
        right += u128::from(*count) * u128::from(*share);
        all += u128::from(*count);
    }
    (all > 0).then(|| (right / all) as f64 / 32_768.0)
}
