//! Pooling of i8 in plain Rust that keeps a block of channels in registers over all positions of a window, and is
//! compiled for every instruction set.

use super::{BLOCK, PoolGeometry, PoolI8, Windows, scalar};

/// i8 whose sum fits an i16.
const POSITIONS: usize = 255; // 255 · 128 < 2¹⁵

/// `acc[c] = join(acc[c], fold of all positions of channel c)`, `W` channels at a time from `at` on. Positions are
/// `step` elements apart.
#[inline(always)]
fn fold_wide<const W: usize, L: Copy, A>(
    (run, step): (&[i8], usize),
    acc: &mut [A],
    at: &mut usize,
    identity: L,
    fold: impl Fn(L, i8) -> L + Copy,
    join: impl Fn(&mut A, L) + Copy,
) {
    while let Some(acc) = acc.get_mut(*at..).and_then(|rest| rest.first_chunk_mut::<W>()) {
        let mut lanes = [identity; W];
        for x in run.get(*at..).unwrap_or_default().chunks(step) {
            let Some(x) = x.first_chunk::<W>() else { break };
            for i in 0..W {
                lanes[i] = fold(lanes[i], x[i]);
            }
        }
        for i in 0..W {
            join(&mut acc[i], lanes[i]);
        }
        *at += W;
    }
}

/// [`fold_wide`] for all channels of a block, which are as many as `acc` has elements.
#[inline(always)]
fn fold<L: Copy, A>(
    run: (&[i8], usize),
    acc: &mut [A],
    identity: L,
    fold: impl Fn(L, i8) -> L + Copy,
    join: impl Fn(&mut A, L) + Copy,
) {
    let mut at = 0;
    fold_wide::<32, L, A>(run, acc, &mut at, identity, fold, join);
    fold_wide::<16, L, A>(run, acc, &mut at, identity, fold, join);
    fold_wide::<8, L, A>(run, acc, &mut at, identity, fold, join);
    fold_wide::<1, L, A>(run, acc, &mut at, identity, fold, join);
}

/// Sums of a block's windows: of as many channels as it has.
#[inline(always)]
fn sums(windows: &mut Windows<'_>, input: &[i8]) -> [i32; BLOCK] {
    let mut sums = [0i32; BLOCK];
    let len = windows.len;
    while let Some((run, step)) = windows.next_run(input) {
        for run in run.chunks(POSITIONS * step) {
            fold(
                (run, step),
                &mut sums[..len],
                0i16,
                |sum, x| sum.wrapping_add(i16::from(x)),
                |sum, run| *sum = sum.wrapping_add(i32::from(run)),
            );
        }
    }
    sums
}

/// Maximum.
#[inline(always)]
pub(super) fn max_i8(geometry: &PoolGeometry, to: &PoolI8, input: &[i8], output: &mut [i8]) {
    let plain = to.is_plain();
    let mut windows = geometry.windows();
    while windows.next_block() {
        let mut max = [i8::MIN; BLOCK];
        let len = windows.len;
        while let Some(run) = windows.next_run(input) {
            fold(run, &mut max[..len], i8::MIN, i8::max, |max, run| *max = (*max).max(run));
        }
        let y = windows.output(output);
        if plain {
            let (low, high) = (to.min as i8, to.max as i8);
            for (y, max) in y.iter_mut().zip(&max) {
                *y = (*max).max(low).min(high);
            }
        } else {
            let acc = max.map(|max| i32::from(max) - to.input_zero_point);
            scalar::requantize_each(to, &acc, to.scale, y);
        }
    }
}

/// Average.
#[inline(always)]
pub(super) fn average_i8(geometry: &PoolGeometry, to: &PoolI8, input: &[i8], output: &mut [i8]) {
    let mut windows = geometry.windows();
    while windows.next_block() {
        let offset = windows.offset(to);
        let acc = sums(&mut windows, input).map(|sum| sum.wrapping_sub(offset));
        let scale = to.scale / windows.count() as f32;
        scalar::requantize_each(to, &acc, scale, windows.output(output));
    }
}

/// Average of the stored numbers.
#[inline(always)]
pub(super) fn average_stored_i8(
    geometry: &PoolGeometry,
    to: &PoolI8,
    input: &[i8],
    output: &mut [i8],
) {
    let mut windows = geometry.windows();
    while windows.next_block() {
        let sums = sums(&mut windows, input);
        let count = windows.count();
        let y = windows.output(output);
        match reciprocal(count) {
            Some(reciprocal) => {
                for (y, sum) in y.iter_mut().zip(&sums) {
                    let q = divide(sum.unsigned_abs() + count / 2, reciprocal);
                    let q = if *sum < 0 { -q } else { q };
                    *y = q.max(to.min).min(to.max) as i8;
                }
            }
            None => scalar::divide_each(to, &sums, count, y),
        }
    }
}

/// What [`divide`] multiplies by instead of dividing by `count`; `None` where that isn't exact.
///
/// With `r = ⌊2³¹ / count⌋ + 1`, `n · r / 2³¹` lies above `n / count` by no more than `n / 2³¹`. The floor of both is
/// the same while that is less than `1 / count`. An average of i8 has `n` no more than `128.5 · count`.
#[inline(always)]
fn reciprocal(count: u32) -> Option<u32> {
    (count < 4000).then_some((1 << 31) / count + 1) // 128.5 · 4000² < 2³¹
}

#[inline(always)]
fn divide(n: u32, reciprocal: u32) -> i32 {
    ((u64::from(n) * u64::from(reciprocal)) >> 31) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_divided_exactly() {
        assert_eq!(reciprocal(4000), None);
        let counts = (1..4000).step_by(if cfg!(miri) { 997 } else { 1 });
        for count in counts.chain([3999]) {
            let most = 128 * count + count / 2;
            let reciprocal = reciprocal(count).expect("small");
            // Around every multiple, where the quotient changes.
            for q in 0..=most / count {
                for n in [(q * count).saturating_sub(1), q * count, (q * count + 1).min(most)] {
                    assert_eq!(divide(n, reciprocal), (n / count) as i32, "{n} / {count}");
                }
            }
        }
    }
}
