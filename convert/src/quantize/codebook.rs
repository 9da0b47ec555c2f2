//! The integers that weights can be, the nearest of them, and the scale that suits a group of weights.

use half::f16;
use whit::kernels::conv_f32::grouped::{GroupedBits, NONLINEAR};

/// Shares of the largest magnitude that the scale of a group of less than 8 bits is searched among: cutting a large weight
/// may serve the many small ones.
const SHARES: [f64; 9] = [1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.76, 0.72, 0.68];

/// The integers that a weight can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codebook {
    /// All from one to another.
    Range {
        /// The smallest.
        low: i8,
        /// The largest.
        high: i8,
    },
    /// The values of [`NONLINEAR`].
    Table,
}

impl Codebook {
    /// Of weights of 8 bits: symmetric.
    pub const I8: Codebook = Codebook::Range { low: -127, high: 127 };

    /// Of weights in groups with or without minima.
    pub const fn of(bits: GroupedBits, has_mins: bool) -> Codebook {
        let half = 1 << (bits.count() - 1);
        match bits {
            GroupedBits::W4Nl => Codebook::Table,
            GroupedBits::W8 => Codebook::I8,
            _ if has_mins => Codebook::Range { low: 0, high: 2 * half - 1 },
            _ => Codebook::Range { low: -half, high: half - 1 },
        }
    }

    /// The smallest and the largest integer.
    pub fn limits(self) -> [i8; 2] {
        match self {
            Codebook::Range { low, high } => [low, high],
            Codebook::Table => [NONLINEAR[0], NONLINEAR[15]],
        }
    }

    /// How far integers are apart, in the mean.
    pub const fn step(self) -> f32 {
        match self {
            Codebook::Range { .. } => 1.0,
            // (113 + 127) / 15.
            Codebook::Table => 16.0,
        }
    }

    /// The integer nearest to a real.
    pub fn nearest(self, real: f64) -> i8 {
        match self {
            Codebook::Range { low, high } => {
                real.round_ties_even().clamp(f64::from(low), f64::from(high)) as i8
            }
            Codebook::Table => nearest_of_table(real as f32) as i8,
        }
    }

    /// The two integers that a real lies between; beyond the limits, the last two.
    pub fn around(self, real: f32) -> [f32; 2] {
        match self {
            Codebook::Range { low, high } => {
                let floor = real.floor().clamp(f32::from(low), f32::from(high) - 1.0);
                [floor, floor + 1.0]
            }
            Codebook::Table => {
                let above = NONLINEAR.partition_point(|value| f32::from(*value) <= real);
                let above = above.clamp(1, NONLINEAR.len() - 1);
                [above - 1, above].map(|code| f32::from(NONLINEAR[code]))
            }
        }
    }

    /// Whether a real is within half a step of the integers.
    pub fn reaches(self, real: f32) -> bool {
        let [low, high] = self.limits().map(f32::from);
        let half = self.step() / 2.0;
        (low - half..=high + half).contains(&real)
    }

    /// The scale of a group of weights; never 0, for a group of zeros has any.
    ///
    /// For 8 bits the largest magnitude over 127. For less the one of [`SHARES`] with the least squared error, the weight of
    /// the largest magnitude at one end or the other; for the table then the one that suits the chosen integers best.
    pub fn group_scale(self, group: &[f32]) -> f16 {
        let largest =
            group.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(0.0);
        let usable = |scale: &f16| scale.is_finite() && scale.to_f32() != 0.0;
        let error = |scale: f16| self.squared_error(group, scale.to_f32());
        let candidates = self.candidates(f64::from(largest)).into_iter().map(f16::from_f64);
        let best = candidates.filter(usable).min_by(|a, b| error(*a).total_cmp(&error(*b)));
        match (best, self) {
            (Some(scale), Codebook::Table) => self.refined(group, scale),
            (Some(scale), Codebook::Range { .. }) => scale,
            // Weights below what f16 holds, or beyond it.
            (None, _) if largest.abs() < 1.0 => f16::MIN_POSITIVE_SUBNORMAL,
            (None, _) => f16::MAX,
        }
    }

    /// The scales that a group is tried with, whose weight of the largest magnitude is `largest`.
    fn candidates(self, largest: f64) -> Vec<f64> {
        let [low, high] = self.limits().map(f64::from);
        let ends = match self {
            Codebook::I8 => return vec![largest.abs() / high],
            // The lowest integer is the largest magnitude: a negative scale where that weight is positive.
            Codebook::Range { .. } => [largest / low, largest.abs() / high],
            Codebook::Table => [largest / low, largest / high],
        };
        SHARES.iter().flat_map(|share| ends.map(|scale| scale * share)).collect()
    }

    /// The scale of least squares for the integers that a scale leads to, Σ x·q / Σ q², again and again while that lowers the
    /// error.
    fn refined(self, group: &[f32], mut scale: f16) -> f16 {
        let mut error = self.squared_error(group, scale.to_f32());
        loop {
            let (mut products, mut squares) = (0.0, 0.0);
            for real in group {
                let q = f64::from(self.nearest(f64::from(*real) / f64::from(scale.to_f32())));
                products += f64::from(*real) * q;
                squares += q * q;
            }
            let next = f16::from_f64(products / squares);
            let next_error = self.squared_error(group, next.to_f32());
            // Not a number, where the scale is 0, is no less.
            if !next.is_finite() || next_error >= error || next_error.is_nan() {
                return scale;
            }
            (scale, error) = (next, next_error);
        }
    }

    /// Σ (real − q · scale)² over a group, q the nearest integers.
    fn squared_error(self, group: &[f32], scale: f32) -> f32 {
        // Adding it leaves no bits for fractions: 1.5 · 2²³.
        const ROUND: f32 = 12_582_912.0;
        match self {
            Codebook::Range { low, high } => {
                let [low, high] = [low, high].map(f32::from);
                squared_error(group, scale, |x| (x.max(low).min(high) + ROUND) - ROUND)
            }
            Codebook::Table => squared_error(group, scale, nearest_of_table),
        }
    }
}

/// The value of [`NONLINEAR`] nearest to a real: the first, and a step for every middle between two that the real is beyond.
#[inline]
fn nearest_of_table(real: f32) -> f32 {
    let mut nearest = f32::from(NONLINEAR[0]);
    for pair in NONLINEAR.windows(2) {
        let [low, high] = [f32::from(pair[0]), f32::from(pair[1])];
        nearest += if real > (low + high) * 0.5 { high - low } else { 0.0 };
    }
    nearest
}

/// The sum of squared errors of reals that are rounded over a scale, in an order that vectorises.
#[inline]
fn squared_error(group: &[f32], scale: f32, nearest: impl Fn(f32) -> f32) -> f32 {
    let inverse = 1.0 / scale;
    let error = |real: f32| {
        let error = real - nearest(real * inverse) * scale;
        error * error
    };
    let mut sums = [0f32; 8];
    let chunks = group.chunks_exact(8);
    let rest: f32 = chunks.remainder().iter().map(|real| error(*real)).sum();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, real)| *sum += error(*real));
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reals of a normal distribution, about: sums of twelve even ones.
    fn normal(seed: u32, count: usize) -> Vec<f32> {
        let mut state = seed;
        let mut even = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..count).map(|_| (0..12).map(|_| even()).sum()).collect()
    }

    /// All integers of a book.
    fn integers(bits: GroupedBits) -> Vec<i8> {
        match bits {
            GroupedBits::W8 => (-127..=127).collect(),
            GroupedBits::W6 => (-32..=31).collect(),
            GroupedBits::W5 => (-16..=15).collect(),
            GroupedBits::W4 => (-8..=7).collect(),
            GroupedBits::W4Nl => NONLINEAR.to_vec(),
        }
    }

    #[test]
    fn integers_are_the_nearest() {
        for bits in GroupedBits::ALL {
            let (book, integers) = (Codebook::of(bits, false), integers(bits));
            assert_eq!(book.limits(), [integers[0], integers[integers.len() - 1]]);
            // Eighths are exact, so that ties are, too.
            for eighths in -8 * 140..=8 * 140 {
                let real = f64::from(eighths) / 8.0;
                let away = |q: i8| (real - f64::from(q)).abs();
                let least = integers.iter().map(|q| away(*q)).fold(f64::INFINITY, f64::min);
                let nearest = book.nearest(real);
                assert!(integers.contains(&nearest), "{bits:?} {real}: {nearest}");
                assert_eq!(away(nearest), least, "{bits:?} {real}: {nearest}");

                let [below, above] = book.around(real as f32);
                let at = integers.iter().position(|q| f32::from(*q) == below).expect("a value");
                assert_eq!(f32::from(integers[at + 1]), above, "{bits:?} {real}");
                let [low, high] = book.limits().map(f64::from);
                if (low..=high).contains(&real) {
                    let between = f64::from(below)..=f64::from(above);
                    assert!(between.contains(&real), "{bits:?} {real}: {between:?}");
                }
            }
        }
    }

    #[test]
    fn no_candidate_is_better_than_the_scale() {
        for bits in GroupedBits::ALL {
            let (book, integers) = (Codebook::of(bits, false), integers(bits));
            let error = |group: &[f32], scale: f16| -> f64 {
                let scale = f64::from(scale.to_f32());
                let of = |real: &f32| {
                    let away = integers.iter().map(|q| f64::from(*real) - f64::from(*q) * scale);
                    away.map(|away| away * away).fold(f64::INFINITY, f64::min)
                };
                group.iter().map(of).sum()
            };
            for (seed, count) in [(1, 32), (2, 64), (3, 128), (4, 5), (5, 1)] {
                for sign in [-1.0, 1.0] {
                    let group: Vec<f32> =
                        normal(seed, count).into_iter().map(|x| 0.02 * sign * x).collect();
                    let largest =
                        *group.iter().max_by(|a, b| a.abs().total_cmp(&b.abs())).expect("weights");
                    let scale = book.group_scale(&group);
                    let best = error(&group, scale);
                    for candidate in book.candidates(f64::from(largest)) {
                        let other = error(&group, f16::from_f64(candidate));
                        assert!(best <= other * (1.0 + 1e-5), "{bits:?}: {best} {other}");
                    }
                    if bits != GroupedBits::W4Nl {
                        continue;
                    }
                    // Nor is that of least squares for its own integers.
                    let own = f64::from(scale.to_f32());
                    let (mut products, mut squares) = (0.0, 0.0);
                    for real in group.iter().map(|real| f64::from(*real)) {
                        let q = f64::from(book.nearest(real / own));
                        products += real * q;
                        squares += q * q;
                    }
                    let other = error(&group, f16::from_f64(products / squares));
                    assert!(best <= other * (1.0 + 1e-5), "{bits:?}: {best} {other}");
                }
            }
        }
    }

    #[test]
    fn a_table_serves_weights_better_than_even_steps() {
        let error = |bits: GroupedBits, size: usize| -> f32 {
            let book = Codebook::of(bits, false);
            let of = |group: &[f32]| book.squared_error(group, book.group_scale(group).to_f32());
            normal(6, 128 * 64).chunks(size).map(of).sum()
        };
        for size in [32, 64, 128] {
            let (even, table) = (error(GroupedBits::W4, size), error(GroupedBits::W4Nl, size));
            assert!(table < 0.95 * even, "{size}: {table} {even}");
        }
    }

    #[test]
    fn extreme_groups_have_a_scale() {
        for group in [[0.0f32; 4], [1e-12, 0.0, 0.0, 0.0], [1e9, -1e9, 0.0, 1.0]] {
            for bits in GroupedBits::ALL {
                let scale = Codebook::of(bits, false).group_scale(&group);
                assert!(scale.is_finite() && scale.to_f32() != 0.0, "{group:?}");
            }
        }
    }
}
