//! Change detectors over a stream of integers, in fixed point with bounded memory. A detector that raises an alarm begins
//! anew.
//!
//! Numbers of the streams are in units of a [`Signal`](super::record::Signal), below 2²² in magnitude.

use super::math::log2_q16;
use super::record::Source;
use crate::format::record;

record! {
    /// How a detector is set: one record of a baseline.
    pub struct DetectorRecord: 16 {
        /// A [`Source`] number, from Page–Hinkley on.
        pub source: u8,
        /// A [`Signal`](super::record::Signal) number.
        pub signal: u8,
        /// Zero.
        pub reserved: u16,
        /// See the detectors' `new`.
        pub parameters: [i32; 3],
    }
}

/// A detector's alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// What the detector computed, in the signal's units; DDM: in 2⁻²⁴.
    pub value: i32,
    /// What it was compared with.
    pub threshold: i32,
}

fn change(value: i64, threshold: i64) -> Change {
    let cut = |x: i64| x.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32;
    Change { value: cut(value), threshold: cut(threshold) }
}

/// Page–Hinkley, both directions: the sum of what numbers exceed their mean by, less an allowance, since it was lowest
/// (Page, "Continuous inspection schemes", 1954; Hinkley, "Inference about the change-point from cumulative sum tests",
/// 1971). The mean is that of all numbers since the last alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHinkley {
    allowance: i32,
    threshold: i32,
    least: u32,
    count: u32,
    mean_q16: i64,
    up_q16: i64,
    down_q16: i64,
}

impl PageHinkley {
    /// Parameters: the allowance δ, the threshold λ, both in the signal's units, and the numbers before a first alarm.
    pub fn new([allowance, threshold, least]: [i32; 3]) -> PageHinkley {
        let least = least.max(1) as u32;
        PageHinkley { allowance, threshold, least, count: 0, mean_q16: 0, up_q16: 0, down_q16: 0 }
    }

    /// Takes the next number.
    pub fn add(&mut self, x: i32) -> Option<Change> {
        self.count = self.count.saturating_add(1);
        let x_q16 = i64::from(x) << 16;
        self.mean_q16 += (x_q16 - self.mean_q16) / i64::from(self.count);
        let (away, allowance) = (x_q16 - self.mean_q16, i64::from(self.allowance) << 16);
        self.up_q16 = (self.up_q16.saturating_add(away - allowance)).max(0);
        self.down_q16 = (self.down_q16.saturating_sub(away + allowance)).max(0);
        let most = self.up_q16.max(self.down_q16);
        if self.count < self.least || most <= i64::from(self.threshold) << 16 {
            return None;
        }
        *self = PageHinkley::new([self.allowance, self.threshold, self.least as i32]);
        Some(change(most >> 16, self.threshold.into()))
    }
}

/// CUSUM, both directions: the sum of what numbers are off a known target by, less an allowance, never below 0 (Page 1954;
/// Montgomery, "Introduction to statistical quality control", tabular CUSUM).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cusum {
    target: i32,
    allowance: i32,
    limit: i32,
    up: i64,
    down: i64,
}

impl Cusum {
    /// Parameters: the target, the allowance k, the decision limit h, in the signal's units.
    pub fn new([target, allowance, limit]: [i32; 3]) -> Cusum {
        Cusum { target, allowance, limit, up: 0, down: 0 }
    }

    /// Takes the next number.
    pub fn add(&mut self, x: i32) -> Option<Change> {
        let (away, allowance) = (i64::from(x) - i64::from(self.target), i64::from(self.allowance));
        self.up = self.up.saturating_add(away - allowance).max(0);
        self.down = self.down.saturating_sub(away + allowance).max(0);
        let most = self.up.max(self.down);
        if most <= i64::from(self.limit) {
            return None;
        }
        (self.up, self.down) = (0, 0);
        Some(change(most, self.limit.into()))
    }
}

/// EWMA chart: a moving average with exponential weights against limits around a known target (Roberts, "Control chart tests
/// based on geometric moving averages", 1959).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ewma {
    target: i32,
    weight_q16: i32,
    limit: i32,
    average_q16: i64,
}

impl Ewma {
    /// Parameters: the target, the weight of a new number in 2⁻¹⁶, the limit: how far off the target the average may be.
    pub fn new([target, weight_q16, limit]: [i32; 3]) -> Ewma {
        let weight_q16 = weight_q16.clamp(1, 1 << 16);
        Ewma { target, weight_q16, limit, average_q16: i64::from(target) << 16 }
    }

    /// Takes the next number.
    pub fn add(&mut self, x: i32) -> Option<Change> {
        let away_q16 = (i64::from(x) << 16) - self.average_q16;
        // The product in two parts: whole, it needs up to 65 bits.
        let weight = i64::from(self.weight_q16);
        self.average_q16 += (away_q16 >> 16) * weight + (((away_q16 & 0xffff) * weight) >> 16);
        let away_q16 = (self.average_q16 - (i64::from(self.target) << 16)).abs();
        if away_q16 <= i64::from(self.limit) << 16 {
            return None;
        }
        self.average_q16 = i64::from(self.target) << 16;
        Some(change(away_q16 >> 16, self.limit.into()))
    }
}

/// DDM: the rate of errors plus its standard deviation against where the sum was lowest (Gama, Medas, Castillo and Rodrigues,
/// "Learning with drift detection", 2004).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ddm {
    deviations_q8: i32,
    least: u32,
    count: u32,
    errors: u32,
    lowest_rate_q24: u32,
    lowest_deviation_q24: u32,
}

impl Ddm {
    /// Parameters: how many standard deviations above the lowest rate are an alarm, in 2⁻⁸ (3 in the paper), the runs before
    /// a first alarm (30 in the paper), and 0.
    pub fn new([deviations_q8, least, _]: [i32; 3]) -> Ddm {
        let (least, high) = (least.max(1) as u32, 1 << 24);
        Ddm {
            deviations_q8,
            least,
            count: 0,
            errors: 0,
            lowest_rate_q24: high,
            lowest_deviation_q24: high,
        }
    }

    /// Takes the next run: not 0 when it was wrong.
    pub fn add(&mut self, x: i32) -> Option<Change> {
        if self.count == u32::MAX {
            (self.count, self.errors) = (self.count / 2, self.errors / 2);
        }
        self.count += 1;
        self.errors += u32::from(x != 0);
        let rate = (u64::from(self.errors) << 24) / u64::from(self.count);
        let deviation = (rate * ((1 << 24) - rate) / u64::from(self.count)).isqrt();
        if self.count < self.least {
            return None;
        }
        let lowest = u64::from(self.lowest_rate_q24) + u64::from(self.lowest_deviation_q24);
        if rate + deviation <= lowest {
            // Both are below 2²⁵.
            (self.lowest_rate_q24, self.lowest_deviation_q24) = (rate as u32, deviation as u32);
        }
        let above = (i64::from(self.lowest_deviation_q24) * i64::from(self.deviations_q8)) >> 8;
        let threshold = i64::from(self.lowest_rate_q24) + above;
        let value = (rate + deviation) as i64;
        if value <= threshold {
            return None;
        }
        *self = Ddm::new([self.deviations_q8, self.least as i32, 0]);
        Some(change(value, threshold))
    }
}

/// Buckets of one size at most, M of the paper.
const SAME_SIZE: usize = 5;
/// The window is looked at after so many numbers.
const CLOCK: u32 = 32;
/// Numbers of either part of the window at least.
const PART_LEAST: u64 = 5;

/// ADWIN: a window that is cut when two parts of it have different means (Bifet and Gavaldà, "Learning from time-changing data with
/// adaptive windowing", 2007, ADWIN2 with the exponential histogram and the normal bound of section 3.2). Of numbers in
/// 0..=2¹⁵. The histogram has at most `ROWS` sizes, from 1 to 2^(`ROWS` − 1): what is older is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adwin<const ROWS: usize> {
    /// ln(1 / δ) in 2⁻¹⁶.
    strictness_q16: i32,
    since: u32,
    /// By size: sums and sums of squares in 2⁻²⁰, the oldest first.
    rows: [[(u32, u32); SAME_SIZE + 1]; ROWS],
    used: [u8; ROWS],
    sum: u64,
    squares_q20: u64,
    count: u64,
}

impl<const ROWS: usize> Adwin<ROWS> {
    /// Parameters: ln(1 / δ) in 2⁻¹⁶, of the probability δ of a cut without change (0.002 is customary: 407,281), and twice 0.
    /// The paper's bound is a cautious one: below 0, δ is no probability any more, and cuts come at the rate that was calibrated.
    pub fn new([strictness_q16, _, _]: [i32; 3]) -> Adwin<ROWS> {
        const { assert!(ROWS > 0 && ROWS <= 11, "a sum of squares of the largest bucket fits 32 bits") }
        Adwin {
            strictness_q16,
            since: 0,
            rows: [[(0, 0); SAME_SIZE + 1]; ROWS],
            used: [0; ROWS],
            sum: 0,
            squares_q20: 0,
            count: 0,
        }
    }

    /// Numbers in the window.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether the window is empty.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Takes the next number; gives the difference of the means when the window was cut.
    pub fn add(&mut self, x: i32) -> Option<Change> {
        let x = x.clamp(0, 1 << 15) as u32;
        // 2⁻³⁰ to 2⁻²⁰: squares are at most 2²⁰.
        let square = ((u64::from(x) * u64::from(x)) >> 10) as u32;
        self.count += 1;
        self.sum += u64::from(x);
        self.squares_q20 += u64::from(square);
        let mut carried = Some((x, square));
        for row in 0..ROWS {
            let Some(bucket) = carried.take() else { break };
            let used = usize::from(self.used[row]);
            self.rows[row][used] = bucket;
            self.used[row] += 1;
            if used < SAME_SIZE {
                break;
            }
            if row + 1 == ROWS {
                self.forget();
                break;
            }
            let (a, b) = (self.rows[row][0], self.rows[row][1]);
            carried = Some((a.0 + b.0, a.1 + b.1));
            self.rows[row].copy_within(2.., 0);
            self.used[row] -= 2;
        }
        self.since += 1;
        if self.since < CLOCK {
            return None;
        }
        self.since = 0;
        let mut found = None;
        while let Some(cut) = self.cut() {
            found = found.or(Some(cut));
            self.forget();
        }
        found
    }

    /// Forgets the oldest bucket.
    fn forget(&mut self) {
        let Some(row) = self.used.iter().rposition(|used| *used > 0) else { return };
        let (sum, squares) = self.rows[row][0];
        self.sum -= u64::from(sum);
        self.squares_q20 -= u64::from(squares);
        self.count -= 1 << row;
        self.rows[row].copy_within(1.., 0);
        self.used[row] -= 1;
    }

    /// The first place, from the oldest number on, at which both sides differ.
    fn cut(&self) -> Option<Change> {
        let (mut old_count, mut old_sum) = (0u64, 0u64);
        let mean_q15 = self.sum / self.count.max(1);
        // Mean of squares less squared mean, in 2⁻³⁰. Sums are at most 2¹⁵ numbers of 2¹⁵.
        let mean_squares = (self.squares_q20 << 10) / self.count.max(1);
        let squared_mean = (self.sum * self.sum) / (self.count * self.count).max(1);
        let variance_q30 = mean_squares.saturating_sub(squared_mean);
        debug_assert!(mean_q15 <= 1 << 15);
        // ln(2 ln n / δ) = ln 2 · (1 + log2 ln n) + ln(1 / δ); ln n = log2 n · ln 2. 45426 is ln 2 in 2⁻¹⁶.
        const LN2_Q16: i64 = 45_426;
        let ln_count_q16 = (i64::from(log2_q16(self.count)) * LN2_Q16) >> 16;
        let log_ln = i64::from(log2_q16(ln_count_q16.max(1) as u64)) - (16 << 16);
        let strictness = ((((1 << 16) + log_ln) * LN2_Q16) >> 16) + i64::from(self.strictness_q16);
        let strictness_q16 = strictness.clamp(0, 1 << 21) as u64;
        for row in (0..ROWS).rev() {
            for bucket in &self.rows[row][..usize::from(self.used[row])] {
                old_count += 1 << row;
                old_sum += u64::from(bucket.0);
                let new_count = self.count - old_count;
                if old_count < PART_LEAST || new_count < PART_LEAST {
                    continue;
                }
                let new_sum = self.sum - old_sum;
                let difference = (old_sum / old_count).abs_diff(new_sum / new_count);
                // 1/m = 1/n₀ + 1/n₁, in 2⁻²⁴.
                let inverse_q24 = (1 << 24) / old_count + (1 << 24) / new_count;
                let both_q24 = (inverse_q24 * strictness_q16) >> 16;
                let bound =
                    ((2 * both_q24 * variance_q30) >> 24).isqrt() + ((2 * both_q24 / 3) >> 9);
                if difference > bound {
                    return Some(change(difference as i64, bound as i64));
                }
            }
        }
        None
    }
}

/// The sizes of the monitor's ADWIN: a window of some 700 runs in some 370 bytes.
pub const ADWIN_ROWS: usize = 7;

/// A detector of any kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "detectors of a monitor lie in slots of their own size"
)]
pub enum Detector {
    /// See [`PageHinkley`].
    PageHinkley(PageHinkley),
    /// See [`Cusum`].
    Cusum(Cusum),
    /// See [`Ewma`].
    Ewma(Ewma),
    /// See [`Ddm`].
    Ddm(Ddm),
    /// See [`Adwin`].
    Adwin(Adwin<ADWIN_ROWS>),
}

impl Detector {
    /// The detector that a record describes; `None` when it describes none.
    pub fn new(record: &DetectorRecord) -> Option<Detector> {
        let parameters = record.parameters;
        Some(match Source::from_number(record.source)? {
            Source::PageHinkley => Detector::PageHinkley(PageHinkley::new(parameters)),
            Source::Cusum => Detector::Cusum(Cusum::new(parameters)),
            Source::Ewma => Detector::Ewma(Ewma::new(parameters)),
            Source::Ddm => Detector::Ddm(Ddm::new(parameters)),
            Source::Adwin => Detector::Adwin(Adwin::new(parameters)),
            _ => return None,
        })
    }

    /// Takes the next number.
    pub fn add(&mut self, x: i32) -> Option<Change> {
        match self {
            Detector::PageHinkley(detector) => detector.add(x),
            Detector::Cusum(detector) => detector.add(x),
            Detector::Ewma(detector) => detector.add(x),
            Detector::Ddm(detector) => detector.add(x),
            Detector::Adwin(detector) => detector.add(x),
        }
    }
}

#[cfg(test)]
mod tests;
