//! The latency histogram: buckets whose width grows with the value, as in HdrHistogram.
//!
//! Values below 16 have a bucket each; above, every power of two is cut into 8 buckets of equal width. A bucket's middle
//! is within 1/16 of every value in it, so a quantile read from the histogram has a relative error of 6.25 % at most.

/// Binary digits behind the leading one that tell buckets apart.
const SUB_BITS: u32 = 3;
/// Buckets up to the largest `u32`.
pub const BUCKETS: usize = (32 - SUB_BITS as usize) * (1 << SUB_BITS) + (1 << SUB_BITS);

/// The bucket of a value.
pub const fn bucket(value: u32) -> usize {
    if value < 1 << SUB_BITS {
        return value as usize;
    }
    let octave = 31 - value.leading_zeros() - SUB_BITS;
    ((octave as usize) << SUB_BITS) + (value >> octave) as usize
}

/// Smallest and largest value of a bucket below [`BUCKETS`].
pub const fn range(bucket: usize) -> (u32, u32) {
    let step = 1 << SUB_BITS;
    if bucket < step {
        return (bucket as u32, bucket as u32);
    }
    let octave = (bucket / step - 1) as u32;
    let low = ((step + bucket % step) as u32) << octave;
    (low, low + ((1u32 << octave) - 1))
}

/// The value with a share of `numerator / denominator` of the counted ones at or below it, as the middle of its bucket;
/// `None` without counts. `max` is the largest value, when it is known: no quantile is above.
pub fn quantile(
    count: &dyn Fn(usize) -> u64,
    (numerator, denominator): (u32, u32),
    max: u32,
) -> Option<u32> {
    let total: u64 = (0..BUCKETS).map(count).fold(0, u64::saturating_add);
    if total == 0 {
        return None;
    }
    let share = u128::from(total) * u128::from(numerator);
    let rank = (share.div_ceil(u128::from(denominator.max(1))) as u64).clamp(1, total);
    let mut below = 0u64;
    for index in 0..BUCKETS {
        below = below.saturating_add(count(index));
        if below >= rank {
            let (low, high) = range(index);
            return Some((low + (high - low) / 2).min(max));
        }
    }
    Some(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_every_value_once() {
        let mut next = 0u64;
        for index in 0..BUCKETS {
            let (low, high) = range(index);
            assert_eq!(u64::from(low), next, "bucket {index}");
            assert_eq!((bucket(low), bucket(high)), (index, index));
            let middle = f64::from(low + (high - low) / 2);
            assert!((f64::from(high) - middle) / f64::from(high).max(1.0) <= 1.0 / 16.0);
            assert!((middle - f64::from(low)) / f64::from(low).max(1.0) <= 1.0 / 16.0);
            next = u64::from(high) + 1;
        }
        assert_eq!(next, 1 << 32);
    }

    #[test]
    fn quantiles_are_near_those_of_the_sorted_values() {
        let mut state = 7u32;
        let mut values: Vec<u32> = (0..5000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) >> (state % 20)
            })
            .collect();
        let mut counts = [0u64; BUCKETS];
        for value in &values {
            counts[bucket(*value)] += 1;
        }
        values.sort_unstable();
        let max = *values.last().expect("values");
        for share in [(1, 2), (9, 10), (99, 100), (1, 1), (0, 1)] {
            let rank = (5000 * share.0 as usize).div_ceil(share.1 as usize).max(1);
            let exact = f64::from(values[rank - 1]);
            let found = quantile(&|index| counts[index], share, max).expect("counts");
            assert!((f64::from(found) - exact).abs() <= exact / 16.0, "{share:?}: {found} {exact}");
        }
        assert_eq!(quantile(&|_| 0, (1, 2), 5), None);
        assert_eq!(quantile(&|_| u64::MAX, (1, 1), 5), Some(0), "sums saturate");
    }
}
