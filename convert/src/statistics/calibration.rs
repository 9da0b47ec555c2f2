//! Whether probabilities mean what they say: reliability bins, expected calibration error, Brier score, log-loss.

use super::{share, weighted_mean};

/// Probabilities are clipped to this and its complement before the logarithm, so that one sure
/// mistake costs 16.1 nats and not infinity.
pub const LOG_LOSS_CLIP: f64 = 1e-7;

/// int8 probabilities are multiples of 1/256: each is off by up to 1/512.
const PROBABILITY_STEP: f64 = 1.0 / 512.0;

/// Bins of reliability, as Guo et al. (2017) and most papers since have them.
pub const BINS: usize = 15;

/// The answers whose confidence lies in one bin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bin {
    /// Confidences above this (in the first bin: from here) …
    pub from: f64,
    /// … up to this.
    pub to: f64,
    /// Samples in the bin.
    pub samples: u64,
    /// Their mean confidence; NaN without samples.
    pub confidence: f64,
    /// The share of them that is right; NaN without samples.
    pub accuracy: f64,
}

/// Probabilities of each sample's classes, reduced to what calibration asks of them.
#[derive(Clone, Debug)]
pub struct Probabilities {
    /// −ln p of the label.
    log_losses: Vec<f64>,
    /// Squared distance of the probabilities from the label's; halved with two classes.
    briers: Vec<f64>,
    /// The highest probability: that of the class answered.
    confidences: Vec<f64>,
    right: Vec<bool>,
}

/// Whether every row is a distribution: values in 0..1 that sum to 1 within int8's rounding.
pub fn are_probabilities(scores: &[f32], classes: usize) -> bool {
    let tolerance = 0.01 + PROBABILITY_STEP * classes as f64;
    scores.chunks_exact(classes).all(|row| {
        let total: f64 = row.iter().map(|p| f64::from(*p)).sum();
        row.iter().all(|p| (0.0..=1.0).contains(p)) && (total - 1.0).abs() <= tolerance
    })
}

/// Rows of logits as probabilities.
pub fn softmax(logits: &[f32], classes: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(logits.len());
    for row in logits.chunks_exact(classes) {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f64> = row.iter().map(|z| f64::from(z - most).exp()).collect();
        let total: f64 = powers.iter().sum();
        out.extend(powers.iter().map(|power| (power / total) as f32));
    }
    out
}

impl Probabilities {
    /// From rows of `classes` scores, if they are probabilities. `predictions` has the class answered.
    pub fn new(
        scores: &[f32],
        labels: &[usize],
        predictions: &[usize],
        classes: usize,
    ) -> Option<Probabilities> {
        if !are_probabilities(scores, classes) {
            return None;
        }
        let mut result = Probabilities {
            log_losses: Vec::with_capacity(labels.len()),
            briers: Vec::with_capacity(labels.len()),
            confidences: Vec::with_capacity(labels.len()),
            right: Vec::with_capacity(labels.len()),
        };
        for ((row, label), predicted) in scores.chunks_exact(classes).zip(labels).zip(predictions) {
            let clipped = f64::from(row[*label]).clamp(LOG_LOSS_CLIP, 1.0 - LOG_LOSS_CLIP);
            let squares: f64 = (row.iter().enumerate())
                .map(|(class, p)| (f64::from(*p) - f64::from(u8::from(class == *label))).powi(2))
                .sum();
            result.log_losses.push(-clipped.ln());
            result.briers.push(if classes == 2 { squares / 2.0 } else { squares });
            result.confidences.push(f64::from(row[*predicted]));
            result.right.push(label == predicted);
        }
        Some(result)
    }

    /// Mean of −ln p(label), p clipped to [1e-7, 1 − 1e-7].
    pub fn log_loss(&self, counts: &[u32]) -> f64 {
        weighted_mean(&self.log_losses, counts)
    }

    /// Mean squared distance between the probabilities and the label (Brier 1950): over all classes, 0 to 2; with two
    /// classes, of class 1 alone, 0 to 1. As scikit-learn's `brier_score_loss`.
    pub fn brier(&self, counts: &[u32]) -> f64 {
        weighted_mean(&self.briers, counts)
    }

    /// Answers by confidence, in bins of equal width.
    pub fn equal_width(&self, counts: &[u32]) -> Vec<Bin> {
        let edges: Vec<f64> = (0..=BINS).map(|edge| edge as f64 / BINS as f64).collect();
        self.bins(&edges, counts)
    }

    /// Answers by confidence, in bins of equally many samples (Nguyen and O'Connor 2015). Equal confidences stay
    /// together, so there are fewer bins when many answers are equally sure.
    pub fn equal_mass(&self, counts: &[u32]) -> Vec<Bin> {
        let mut sorted = Vec::new();
        for (confidence, count) in self.confidences.iter().zip(counts) {
            sorted.extend(std::iter::repeat_n(*confidence, *count as usize));
        }
        sorted.sort_by(f64::total_cmp);
        let Some(first) = sorted.first() else { return Vec::new() };
        let mut edges = vec![*first];
        for bin in 1..=BINS {
            let edge = sorted[((sorted.len() * bin).div_ceil(BINS)).max(1) - 1];
            if bin == 1 || edges.last().is_some_and(|last| *last < edge) {
                edges.push(edge);
            }
        }
        self.bins(&edges, counts)
    }

    /// A confidence belongs to the first bin that ends at it or beyond.
    fn bins(&self, edges: &[f64], counts: &[u32]) -> Vec<Bin> {
        let last = edges.len().saturating_sub(2);
        let mut sums = vec![(0u64, 0.0, 0u64); last + 1];
        for ((confidence, right), count) in self.confidences.iter().zip(&self.right).zip(counts) {
            let bin = edges[1..].partition_point(|edge| edge < confidence).min(last);
            let (samples, confidences, hits) = &mut sums[bin];
            *samples += u64::from(*count);
            *confidences += confidence * f64::from(*count);
            *hits += if *right { u64::from(*count) } else { 0 };
        }
        sums.iter()
            .zip(edges.windows(2))
            .map(|((samples, confidences, hits), edge)| Bin {
                from: edge[0],
                to: edge[1],
                samples: *samples,
                confidence: share(*confidences, *samples as f64),
                accuracy: share(*hits as f64, *samples as f64),
            })
            .collect()
    }
}

/// Expected calibration error: |accuracy − confidence|, averaged over bins by their samples (Naeini, Cooper and
/// Hauskrecht 2015; Guo et al. 2017).
pub fn expected_error(bins: &[Bin]) -> f64 {
    let total: u64 = bins.iter().map(|bin| bin.samples).sum();
    let sum: f64 = (bins.iter().filter(|bin| bin.samples > 0))
        .map(|bin| (bin.accuracy - bin.confidence).abs() * bin.samples as f64)
        .sum();
    share(sum, total as f64)
}

/// Maximum calibration error: the worst bin's |accuracy − confidence|, however few samples it has.
pub fn maximum_error(bins: &[Bin]) -> f64 {
    let gaps = bins.iter().map(|bin| (bin.accuracy - bin.confidence).abs());
    gaps.filter(|gap| !gap.is_nan()).fold(f64::NAN, f64::max)
}

/// Mean of confidence − accuracy: above 0, the model is surer than it may be.
pub fn overconfidence(bins: &[Bin]) -> f64 {
    let total: u64 = bins.iter().map(|bin| bin.samples).sum();
    let sum: f64 = (bins.iter().filter(|bin| bin.samples > 0))
        .map(|bin| (bin.confidence - bin.accuracy) * bin.samples as f64)
        .sum();
    share(sum, total as f64)
}
