//! Counts of values in bins whose width doubles when the range grows: one pass, no range known ahead.

/// Bins at most. 32 to a step of an 8-bit grid, 16 at least, as a width is a power of two.
pub const BINS: i64 = 8192;

/// Binary digits between the largest magnitude and the narrowest bin: those of an f32's significand.
const DIGITS: i32 = 24;

/// How often values fell in each bin. Bin `i` holds `i × width ≤ value < (i + 1) × width`.
///
/// The width is the smallest power of two that needs at most [`BINS`] bins for all values, so the counts
/// depend neither on the order of the values nor on how they arrived. Exact zeros are counted
/// apart: every grid holds them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Values that are 0.
    zeros: u64,
    /// Smallest and largest value other than 0.
    ends: Option<(f32, f32)>,
    /// The width is 2 to the power of this.
    exponent: i32,
    /// Number of the first bin.
    low: i64,
    counts: Vec<u64>,
}

impl Histogram {
    /// Counts finite values; others are left out.
    pub fn add(&mut self, values: &[f32]) {
        let counted = |v: &&f32| **v != 0.0 && v.is_finite();
        let ends = values.iter().filter(counted).fold(None, |ends: Option<(f32, f32)>, v| {
            let (low, high) = ends.unwrap_or((*v, *v));
            Some((low.min(*v), high.max(*v)))
        });
        self.zeros += values.iter().filter(|v| **v == 0.0).count() as u64;
        let Some((low, high)) = ends else { return };
        self.cover(low, high);
        let inverse = (-f64::from(self.exponent)).exp2();
        for v in values.iter().filter(counted) {
            let bin = (f64::from(*v) * inverse).floor() as i64 - self.low;
            self.counts[bin as usize] += 1;
        }
    }

    /// Adds the counts of another histogram.
    pub fn merge(&mut self, other: &Histogram) {
        self.zeros += other.zeros;
        let Some((low, high)) = other.ends else { return };
        self.cover(low, high);
        let shift = (self.exponent - other.exponent).min(63);
        for (bin, count) in (other.low..).zip(&other.counts) {
            self.counts[((bin >> shift) - self.low) as usize] += count;
        }
    }

    /// Makes bins for a range of values.
    fn cover(&mut self, low: f32, high: f32) {
        let (low, high) = match self.ends {
            Some((least, most)) => (low.min(least), high.max(most)),
            None => (low, high),
        };
        let exponent = exponent(low, high);
        if self.ends.is_none() {
            self.exponent = exponent;
            self.low = bin(low, exponent);
        }
        self.widen(exponent);
        self.ends = Some((low, high));
        let (first, last) = (bin(low, exponent), bin(high, exponent));
        if first < self.low {
            let more = std::iter::repeat_n(0, (self.low - first) as usize);
            self.counts.splice(0..0, more);
            self.low = first;
        }
        let len = (last - self.low + 1) as usize;
        if len > self.counts.len() {
            self.counts.resize(len, 0);
        }
    }

    /// Joins bins until they have a width.
    fn widen(&mut self, exponent: i32) {
        let shift = exponent - self.exponent;
        if shift <= 0 {
            return;
        }
        // Bins have numbers below 2^25, so that a shift by more is one by 63.
        let shift = shift.min(63);
        let low = self.low >> shift;
        let mut counts = Vec::new();
        for (bin, count) in (self.low..).zip(&self.counts) {
            let at = ((bin >> shift) - low) as usize;
            if at >= counts.len() {
                counts.resize(at + 1, 0);
            }
            counts[at] += count;
        }
        (self.exponent, self.low, self.counts) = (exponent, low, counts);
    }

    /// The same counts in at most this many bins.
    pub fn coarser(&self, bins: usize) -> Histogram {
        let mut coarser = self.clone();
        while coarser.counts.len() > bins.max(2) {
            coarser.widen(coarser.exponent + 1);
        }
        coarser
    }

    /// Width of a bin.
    pub fn width(&self) -> f64 {
        f64::from(self.exponent).exp2()
    }

    /// Values that are 0.
    pub fn zeros(&self) -> u64 {
        self.zeros
    }

    /// The bins from the first to the last that holds a value: lower end and count. Exact zeros are in none.
    pub fn bins(&self) -> impl DoubleEndedIterator<Item = (f64, u64)> + ExactSizeIterator {
        let (low, width) = (self.low, self.width());
        self.counts
            .iter()
            .enumerate()
            .map(move |(at, count)| ((low + at as i64) as f64 * width, *count))
    }

    /// Number of values.
    pub fn total(&self) -> u64 {
        self.zeros + self.counts.iter().sum::<u64>()
    }
}

/// The bin of a value.
fn bin(value: f32, exponent: i32) -> i64 {
    (f64::from(value) * (-f64::from(exponent)).exp2()).floor() as i64
}

/// Of the narrowest bins that hold a range, the power of two.
fn exponent(low: f32, high: f32) -> i32 {
    let largest = f64::from(low.abs().max(high.abs()));
    let mut exponent = largest.log2().floor() as i32 - DIGITS;
    while bin(high, exponent) - bin(low, exponent) >= BINS {
        exponent += 1;
    }
    exponent
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of many sizes, by a generator of its own (Lehmer's).
    fn values(seed: u64, count: usize, scale: f32) -> Vec<f32> {
        let mut state = seed * 2 + 1;
        let mut next = || {
            state = state.wrapping_mul(0xda94_2042_e4dd_58b5);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        (0..count).map(|_| (next() - 0.4) * scale * next().powi(3)).collect()
    }

    #[test]
    fn counts_are_exact_and_the_order_does_not_matter() {
        struct Case {
            name: &'static str,
            parts: Vec<Vec<f32>>,
        }
        let cases = [
            Case {
                name: "growing",
                parts: (0..9).map(|p| values(p, 500, 4f32.powi(p as i32))).collect(),
            },
            Case {
                name: "shrinking",
                parts: (0..9).map(|p| values(p, 500, 0.1f32.powi(p as i32))).collect(),
            },
            Case { name: "zeros", parts: vec![vec![0.0; 7], vec![0.0, -0.0, 3.0]] },
            Case { name: "one value", parts: vec![vec![1e-30; 3], vec![1e-30]] },
            Case { name: "denormal, largest", parts: vec![vec![1e-45], vec![f32::MAX, -f32::MAX]] },
            Case { name: "far from 0", parts: vec![vec![1000.0, 1000.5], vec![1001.0]] },
            Case {
                name: "negative",
                parts: vec![values(5, 90, 1.0).iter().map(|v| -v.abs()).collect()],
            },
        ];
        for case in cases {
            let all = case.parts.concat();
            let mut whole = Histogram::default();
            whole.add(&all);
            let (mut forwards, mut backwards) = (Histogram::default(), Histogram::default());
            let mut merged = Histogram::default();
            for part in &case.parts {
                forwards.add(part);
                let mut alone = Histogram::default();
                alone.add(part);
                merged.merge(&alone);
            }
            case.parts.iter().rev().for_each(|part| backwards.add(part));
            for (how, other) in
                [("forwards", &forwards), ("backwards", &backwards), ("merged", &merged)]
            {
                assert_eq!(&whole, other, "{}: {how}", case.name);
            }
            assert_eq!(whole.total(), all.len() as u64, "{}", case.name);
            assert!(whole.bins().len() as i64 <= BINS, "{}", case.name);
            for coarse in [whole.clone(), whole.coarser(100)] {
                for (low, count) in coarse.bins() {
                    let high = low + coarse.width();
                    let inside = |v: &&f32| **v != 0.0 && (low..high).contains(&f64::from(**v));
                    assert_eq!(
                        count,
                        all.iter().filter(inside).count() as u64,
                        "{}: {low}",
                        case.name
                    );
                }
            }
        }
    }

    #[test]
    fn bins_are_narrow() {
        let mut histogram = Histogram::default();
        histogram.add(&values(1, 10_000, 3.0));
        assert!((BINS / 2 - 1..=BINS).contains(&(histogram.bins().len() as i64)));
        histogram.add(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
        assert_eq!(histogram.total(), 10_000);
        let coarse = histogram.coarser(2048);
        assert!((1023..=2048).contains(&coarse.bins().len()));
        assert_eq!(coarse.total(), 10_000);
    }
}
