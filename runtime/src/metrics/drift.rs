//! How far counts are from those of the baseline, and which of many features that are tested at once drifted.

use super::math::{log2_q16, share_q32};

/// A distance between two histograms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Statistic {
    /// Population stability index, Σ (p − q) ln(p / q), of shares with half a count added to each bin.
    Psi = 1,
    /// Jensen–Shannon divergence in bits (Lin, "Divergence measures based on the Shannon entropy", 1991).
    #[default]
    JensenShannon = 2,
    /// Kolmogorov–Smirnov: the largest difference of the cumulated shares at the bins' edges.
    KolmogorovSmirnov = 3,
}

/// The number of statistics.
pub const STATISTICS: usize = 3;

impl Statistic {
    /// Every statistic, in the order of its number.
    pub const ALL: [Statistic; STATISTICS] =
        [Statistic::Psi, Statistic::JensenShannon, Statistic::KolmogorovSmirnov];

    /// The statistic with this number.
    pub fn from_number(number: u8) -> Option<Statistic> {
        Statistic::ALL.get(usize::from(number).wrapping_sub(1)).copied()
    }

    /// The name used in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Statistic::Psi => "PSI",
            Statistic::JensenShannon => "Jensen-Shannon",
            Statistic::KolmogorovSmirnov => "Kolmogorov-Smirnov",
        }
    }

    /// The distance of two histograms of so many bins in 2⁻¹⁶; 0 when either is empty. Counts of each sum up to less than
    /// 2³².
    pub fn of(self, bins: usize, p: &dyn Fn(usize) -> u32, q: &dyn Fn(usize) -> u32) -> u32 {
        let sum =
            |counts: &dyn Fn(usize) -> u32| (0..bins).map(|b| u64::from(counts(b))).sum::<u64>();
        let (p_sum, q_sum) = (sum(p), sum(q));
        if p_sum == 0 || q_sum == 0 {
            return 0;
        }
        match self {
            Statistic::Psi => {
                // (2c + 1) / (2n + bins), in 2⁻³².
                let share = |count: u32, sum: u64| {
                    (((2 * u64::from(count) + 1) << 32) / (2 * sum + bins as u64)).max(1)
                };
                let mut total = 0i64;
                for bin in 0..bins {
                    let (a, b) = (share(p(bin), p_sum), share(q(bin), q_sum));
                    let logs = i64::from(log2_q16(a)) - i64::from(log2_q16(b));
                    total += (a as i64 - b as i64) * logs;
                }
                // From binary digits to nats: ln 2 = 45426 · 2⁻¹⁶.
                to_u32(((total >> 32) * 45_426) >> 16)
            }
            Statistic::JensenShannon => {
                let mut total = 0i64;
                for bin in 0..bins {
                    let (a, b) = (share_q32(p(bin), p_sum), share_q32(q(bin), q_sum));
                    let middle = i64::from(log2_q16(a + b)) - (1 << 16);
                    for share in [a, b] {
                        total += share as i64 * (i64::from(log2_q16(share)) - middle);
                    }
                }
                to_u32(total >> 33)
            }
            Statistic::KolmogorovSmirnov => {
                let (mut p_below, mut q_below, mut most) = (0, 0, 0);
                for bin in 0..bins {
                    p_below += u64::from(p(bin));
                    q_below += u64::from(q(bin));
                    let a = u128::from(p_below) * u128::from(q_sum);
                    let b = u128::from(q_below) * u128::from(p_sum);
                    most = most.max(a.abs_diff(b));
                }
                ((most << 16) / (u128::from(p_sum) * u128::from(q_sum))) as u32
            }
        }
    }
}

fn to_u32(value: i64) -> u32 {
    value.clamp(0, i64::from(u32::MAX)) as u32
}

/// The probabilities that p-values are rounded up to, in 2⁻³²: 0.5, 0.2, 0.1, 0.05, … 5·10⁻⁶.
pub const P_LEVELS: [u32; 16] = [
    2_147_483_648,
    858_993_459,
    429_496_730,
    214_748_365,
    85_899_346,
    42_949_673,
    21_474_836,
    8_589_935,
    4_294_967,
    2_147_484,
    858_993,
    429_497,
    214_748,
    85_899,
    42_950,
    21_475,
];

/// How improbable a statistic is without drift: how many levels of [`P_LEVELS`] its p-value is at or below. `quantiles` are
/// those that the statistic over its mean exceeds with the probabilities of the levels, in 2⁻⁸.
pub fn level(statistic_q16: u32, mean_q16: u32, quantiles: &dyn Fn(usize) -> u32) -> usize {
    let ratio_q8 = (u64::from(statistic_q16) << 8) / u64::from(mean_q16.max(1));
    (0..P_LEVELS.len()).take_while(|level| ratio_q8 >= u64::from(quantiles(*level))).count()
}

/// The p-value of a level in 2⁻³².
pub fn p_value(level: usize) -> u32 {
    match level {
        0 => u32::MAX,
        _ => P_LEVELS.get(level - 1).copied().unwrap_or(0),
    }
}

/// From which level on features count as drifted at the false discovery rate `rate_q32`; `None` for none.
///
/// Benjamini and Hochberg, "Controlling the false discovery rate" (1995): of m p-values in ascending order the largest
/// k with p(k) ≤ k/m · rate decides. With p-values on a few levels it is enough to know how many lie at or below each.
pub fn benjamini_hochberg(
    levels: &dyn Fn(usize) -> usize,
    features: usize,
    rate_q32: u32,
) -> Option<usize> {
    let mut at_or_below = [0u64; P_LEVELS.len() + 1];
    for feature in 0..features {
        if let Some(count) = at_or_below.get_mut(levels(feature)) {
            *count += 1;
        }
    }
    for level in (0..P_LEVELS.len()).rev() {
        at_or_below[level] += at_or_below[level + 1];
    }
    (1..=P_LEVELS.len()).find(|level| {
        let count = at_or_below[*level];
        count > 0
            && u64::from(p_value(*level)) * features as u64
                <= count.saturating_mul(u64::from(rate_q32))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::counters::tests::Random;

    fn oracle(statistic: Statistic, p: &[u32], q: &[u32]) -> f64 {
        let sum = |counts: &[u32]| f64::from(counts.iter().sum::<u32>());
        let shares = |counts: &[u32], extra: f64| -> Vec<f64> {
            let all = sum(counts) + extra * counts.len() as f64;
            counts.iter().map(|count| (f64::from(*count) + extra) / all).collect()
        };
        match statistic {
            Statistic::Psi => {
                let (p, q) = (shares(p, 0.5), shares(q, 0.5));
                p.iter().zip(&q).map(|(a, b)| (a - b) * (a / b).ln()).sum()
            }
            Statistic::JensenShannon => {
                let (p, q) = (shares(p, 0.0), shares(q, 0.0));
                let entropy = |x: &[f64]| -> f64 {
                    x.iter().filter(|x| **x > 0.0).map(|x| -x * x.log2()).sum()
                };
                let m: Vec<f64> = p.iter().zip(&q).map(|(a, b)| (a + b) / 2.0).collect();
                entropy(&m) - (entropy(&p) + entropy(&q)) / 2.0
            }
            Statistic::KolmogorovSmirnov => {
                let (p, q) = (shares(p, 0.0), shares(q, 0.0));
                let (mut a, mut b, mut most) = (0.0, 0.0, 0.0f64);
                for bin in 0..p.len() {
                    a += p[bin];
                    b += q[bin];
                    most = most.max((a - b).abs());
                }
                most
            }
        }
    }

    #[test]
    fn statistics_agree_with_floats() {
        let mut random = Random(5);
        for round in 0..2000 {
            let bins = 1 + random.below(16) as usize;
            let largest = 1 + random.below(60_000);
            let mut counts = |least: u64| -> Vec<u32> {
                (0..bins)
                    .map(|_| (least + random.below(largest) * random.below(3)) as u32)
                    .collect()
            };
            let (p, q) = (counts(u64::from(round % 2 == 0)), counts(0));
            for statistic in Statistic::ALL {
                let found = statistic.of(bins, &|bin| p[bin], &|bin| q[bin]);
                if p.iter().sum::<u32>() == 0 || q.iter().sum::<u32>() == 0 {
                    assert_eq!(found, 0);
                    continue;
                }
                let exact = oracle(statistic, &p, &q);
                // Logarithms are cut to 2⁻¹⁶, and differences of theirs multiply shares that add up to 2.
                let error = (f64::from(found) / 65536.0 - exact).abs();
                assert!(error < 1e-4 + 1e-4 * exact, "{statistic:?} {found} {exact} {p:?} {q:?}");
            }
        }
        for statistic in Statistic::ALL {
            let same = statistic.of(8, &|bin| bin as u32 * 3, &|bin| bin as u32 * 3);
            assert!(same == 0, "{statistic:?} {same}");
            assert!(statistic.of(2, &|bin| [9, 0][bin], &|bin| [0, 9][bin]) > 60_000);
        }
    }

    #[test]
    fn discoveries_are_those_of_the_sorted_p_values() {
        let mut random = Random(6);
        for _ in 0..3000 {
            let features = 1 + random.below(64) as usize;
            let most = 1 + random.below(17);
            let levels: Vec<usize> = (0..features).map(|_| random.below(most) as usize).collect();
            for rate in [0.001, 0.01, 0.05, 0.2] {
                let rate_q32 = (rate * 4_294_967_296.0) as u32;
                let mut sorted: Vec<f64> =
                    levels.iter().map(|level| f64::from(p_value(*level))).collect();
                sorted.sort_by(f64::total_cmp);
                let bound = (1..=features)
                    .rev()
                    .find(|k| sorted[k - 1] <= *k as f64 / features as f64 * f64::from(rate_q32));
                let expected: Vec<bool> = levels
                    .iter()
                    .map(|level| bound.is_some_and(|k| f64::from(p_value(*level)) <= sorted[k - 1]))
                    .collect();
                let from = benjamini_hochberg(&|feature| levels[feature], features, rate_q32);
                let found: Vec<bool> =
                    levels.iter().map(|level| from.is_some_and(|from| *level >= from)).collect();
                assert_eq!(found, expected, "{levels:?} {rate}");
            }
        }
        let quantiles = |level: usize| 256 * (level as u32 + 1);
        for (statistic, expected) in [(0, 0), (99, 0), (100, 1), (299, 2), (1600, 16), (9999, 16)] {
            assert_eq!(level(statistic, 100, &quantiles), expected);
        }
    }
}
