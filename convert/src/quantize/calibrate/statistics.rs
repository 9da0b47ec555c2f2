//! What every tensor of a model held while it ran on data, in one pass.

use std::collections::BTreeMap;

use crate::evaluate::{EvaluateError, Program, Samples, observe};
use crate::graph::{Graph, ValueId};
use crate::plan::PlanOptions;
use crate::quantize::calibrate::Range;
use crate::quantize::calibrate::histogram::Histogram;

/// Weight of the newest sample in the moving averages: the default of PyTorch's MovingAverageMinMaxObserver.
pub const AVERAGING: f64 = 0.01;

/// Channels at most that are watched one by one; a wider last axis is no axis of channels.
pub const MAX_CHANNELS: usize = 16384;

/// What was seen of one channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Channel {
    /// Smallest finite value.
    pub min: f32,
    /// Largest finite value.
    pub max: f32,
    /// Sum of the finite values.
    pub sum: f64,
    /// Number of finite values.
    pub count: u64,
}

impl Channel {
    const NONE: Channel =
        Channel { min: f32::INFINITY, max: f32::NEG_INFINITY, sum: 0.0, count: 0 };

    /// Largest magnitude; 0 when nothing was seen.
    pub fn abs_max(&self) -> f32 {
        if self.count == 0 { 0.0 } else { self.min.abs().max(self.max.abs()) }
    }

    /// Mean; 0 when nothing was seen.
    pub fn mean(&self) -> f64 {
        self.sum / self.count.max(1) as f64
    }
}

/// Values that are no finite numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NonFinite {
    /// How many are NaN.
    pub nan: u64,
    /// How many are infinite.
    pub infinite: u64,
    /// The first sample that had one.
    pub sample: usize,
}

/// An end of a range: who reached it, and how far the others came.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Extreme {
    /// The first sample that reached it.
    pub sample: usize,
    /// The end.
    pub value: f32,
    /// Where it would be without that sample.
    pub others: Option<f32>,
}

impl Extreme {
    /// Takes in the end of one more sample; `farther(a, b)`: a lies beyond b.
    fn update(&mut self, sample: usize, value: f32, farther: fn(f32, f32) -> bool) {
        if farther(value, self.value) {
            *self = Extreme { sample, value, others: Some(self.value) };
        } else if self.others.is_none_or(|others| farther(value, others)) {
            self.others = Some(value);
        }
    }
}

/// What was seen of one tensor. Numbers that aren't finite are counted, and in nothing else.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The smallest value of all, and its sample.
    pub low: Option<Extreme>,
    /// The largest value of all, and its sample.
    pub high: Option<Extreme>,
    /// Counts.
    pub histogram: Histogram,
    /// By index of the last axis; empty when its size varies or is above [`MAX_CHANNELS`].
    pub channels: Vec<Channel>,
    /// Number of finite values.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// The sum of their squares.
    pub sum_of_squares: f64,
    /// What wasn't finite.
    pub non_finite: NonFinite,
    /// Whether it differed between samples.
    pub varies: bool,
    average: Average,
    first: u64,
    samples: usize,
    varying_shape: bool,
}

/// Exponentially weighted sums of the ends of samples, and of the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Average {
    min: f64,
    max: f64,
    weight: f64,
}

impl Observed {
    /// From the smallest to the largest value; `None` when nothing finite was seen.
    pub fn range(&self) -> Option<Range> {
        Some(Range { min: self.low?.value, max: self.high?.value })
    }

    /// Exponential moving average of each sample's smallest and largest value.
    ///
    /// Ranges by moving averages: Jacob et al. 2018 (arXiv:1712.05877), section 3.1. So that few samples don't
    /// leave the first one with most of the weight, the sum is divided by that of the weights, as Kingma and Ba
    /// 2015 (arXiv:1412.6980), section 3, do with a first value of 0.
    pub fn average(&self) -> Option<Range> {
        let Average { min, max, weight } = self.average;
        (weight > 0.0).then(|| Range { min: (min / weight) as f32, max: (max / weight) as f32 })
    }

    /// Mean; 0 when nothing was seen.
    pub fn mean(&self) -> f64 {
        self.sum / self.count.max(1) as f64
    }

    /// Takes in the tensor of one sample. `channels` is the size of its last axis.
    pub fn add(&mut self, sample: usize, values: &[f32], channels: usize) {
        let (mut min, mut max, mut finite) = (f32::INFINITY, f32::NEG_INFINITY, 0u64);
        for v in values {
            if v.is_finite() {
                (min, max, finite) = (min.min(*v), max.max(*v), finite + 1);
                self.sum += f64::from(*v);
                self.sum_of_squares += f64::from(*v) * f64::from(*v);
            } else {
                let seen = &mut self.non_finite;
                if seen.nan + seen.infinite == 0 {
                    seen.sample = sample;
                }
                let kind = if v.is_nan() { &mut seen.nan } else { &mut seen.infinite };
                *kind += 1;
            }
        }
        self.count += finite;
        if finite > 0 {
            let extreme = |value| Extreme { sample, value, others: None };
            match &mut self.low {
                Some(low) => low.update(sample, min, |a, b| a < b),
                low => *low = Some(extreme(min)),
            }
            match &mut self.high {
                Some(high) => high.update(sample, max, |a, b| a > b),
                high => *high = Some(extreme(max)),
            }
            for (sum, value) in [
                (&mut self.average.min, f64::from(min)),
                (&mut self.average.max, f64::from(max)),
                (&mut self.average.weight, 1.0),
            ] {
                *sum += AVERAGING * (value - *sum);
            }
        }
        self.histogram.add(values);
        let fingerprint = fingerprint(values);
        if self.samples == 0 {
            self.first = fingerprint;
        }
        self.varies |= fingerprint != self.first;
        self.add_channels(values, channels);
        self.samples += 1;
    }

    fn add_channels(&mut self, values: &[f32], channels: usize) {
        if channels > MAX_CHANNELS || (self.samples > 0 && self.channels.len() != channels) {
            self.varying_shape = true;
            self.channels.clear();
        }
        if self.varying_shape || channels == 0 {
            return;
        }
        self.channels.resize(channels, Channel::NONE);
        for row in values.chunks_exact(channels) {
            for (channel, v) in self.channels.iter_mut().zip(row).filter(|(_, v)| v.is_finite()) {
                channel.min = channel.min.min(*v);
                channel.max = channel.max.max(*v);
                channel.sum += f64::from(*v);
                channel.count += 1;
            }
        }
    }
}

/// The same for the same bits (FNV-1a, over words).
fn fingerprint(values: &[f32]) -> u64 {
    values.iter().fold(0xcbf2_9ce4_8422_2325, |hash, v| {
        (hash ^ u64::from(v.to_bits())).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// What was seen of the reals of a graph: f32, and integers with a scale.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Samples that were run.
    pub samples: usize,
    /// By value: inputs, states, and what nodes make.
    pub values: BTreeMap<ValueId, Observed>,
}

impl Statistics {
    /// What was seen of a value.
    pub fn get(&self, value: ValueId) -> Option<&Observed> {
        self.values.get(&value)
    }
}

/// Runs a graph on every sample, once, and tells what its inputs and all that its nodes make were. For a model with
/// state the samples are consecutive steps of one sequence. `progress` is called with the number of runs done and
/// that of all.
///
/// # Errors
/// When a sample doesn't fit the model or a run fails.
pub fn observe_statistics(
    graph: &Graph,
    samples: &dyn Samples,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Statistics, EvaluateError> {
    let program = Program::new(graph, &PlanOptions::default())?;
    let mut tensors: BTreeMap<usize, Observed> = BTreeMap::new();
    let total = samples.len();
    observe(&program, samples, &mut |done| progress(done, total), &mut |seen| {
        let channels = seen.dims.last().map_or(0, |dim| *dim as usize);
        tensors.entry(seen.tensor).or_default().add(seen.sample, seen.reals, channels);
    })?;
    let of = |tensor: &usize| tensors.get(tensor).cloned();
    let values = program
        .plan
        .tensor_of_value
        .iter()
        .filter_map(|(value, tensor)| Some((*value, of(tensor)?)))
        .collect();
    Ok(Statistics { samples: total, values })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tensor() {
        let mut seen = Observed::default();
        seen.add(0, &[1.0, -2.0, 0.0, 4.0], 2);
        seen.add(1, &[8.0, 1.0, f32::INFINITY, f32::NAN], 2);
        seen.add(2, &[2.0, 2.0, 2.0, 3.0], 2);
        assert_eq!(seen.range(), Some(Range { min: -2.0, max: 8.0 }));
        assert_eq!(seen.high, Some(Extreme { sample: 1, value: 8.0, others: Some(4.0) }));
        assert_eq!(seen.low, Some(Extreme { sample: 0, value: -2.0, others: Some(1.0) }));
        assert_eq!((seen.count, seen.sum, seen.sum_of_squares), (10, 21.0, 107.0));
        assert_eq!(seen.non_finite, NonFinite { nan: 1, infinite: 1, sample: 1 });
        assert_eq!(seen.histogram.total(), 10);
        assert!(seen.varies);
        let a = Channel { min: 0.0, max: 8.0, sum: 13.0, count: 5 };
        let b = Channel { min: -2.0, max: 4.0, sum: 8.0, count: 5 };
        assert_eq!(seen.channels, [a, b]);
        assert_eq!(seen.channels[1].abs_max(), 4.0);
        // 0.01 × (0.99² x₀ + 0.99 x₁ + x₂) over the sum of the weights.
        let average = seen.average().unwrap();
        let weights = [0.9801, 0.99, 1.0];
        let mean = |x: [f64; 3]| {
            x.iter().zip(weights).map(|(x, w)| x * w).sum::<f64>() / weights.iter().sum::<f64>()
        };
        assert!((f64::from(average.min) - mean([-2.0, 1.0, 2.0])).abs() < 1e-6);
        assert!((f64::from(average.max) - mean([4.0, 8.0, 3.0])).abs() < 1e-6);
    }

    #[test]
    fn channels_need_one_size() {
        let mut seen = Observed::default();
        seen.add(0, &[1.0; 6], 3);
        assert_eq!(seen.channels.len(), 3);
        assert!(!seen.varies);
        seen.add(1, &[1.0; 6], 2);
        seen.add(2, &[1.0; 6], 2);
        assert!(seen.channels.is_empty() && !seen.varies);
        let mut wide = Observed::default();
        wide.add(0, &vec![1.0; MAX_CHANNELS + 1], MAX_CHANNELS + 1);
        assert!(wide.channels.is_empty());
    }
}
