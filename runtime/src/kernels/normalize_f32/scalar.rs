//! The sums and loops.

use super::NormalizeF32;
use crate::kernels::elementary::fold;

/// Sums side by side: one AVX-512 register of f32.
const LANES: usize = 16;

/// Rows that take each step before any takes the next: a step ends in one number that the next one waits for.
const ROWS: usize = 4;

/// `sum(f(x))` in the order that the family defines.
#[inline(always)]
fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (blocks, rest) = row.as_chunks::<LANES>();
    for block in blocks {
        for i in 0..LANES {
            lanes[i] += f(block[i]);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += f(*x);
    }
    fold(lanes, |a, b| a + b)
}

/// Up to [`ROWS`] rows.
#[inline(always)]
fn normalize_rows(by: &NormalizeF32<'_>, x: &[f32], y: &mut [f32]) {
    let n = by.row;
    let count = n as f32;
    let (mut means, mut factors) = ([0.0; ROWS], [0.0; ROWS]);
    if by.centred {
        for (x, mean) in x.chunks_exact(n).zip(&mut means) {
            *mean = sum(x, |x| x) / count;
        }
    }
    for ((x, mean), factor) in x.chunks_exact(n).zip(means).zip(&mut factors) {
        let square = sum(x, |x| (x - mean) * (x - mean)) / count;
        *factor = 1.0 / libm::sqrtf(square + by.epsilon);
    }
    let numbers = means.into_iter().zip(factors);
    for ((x, y), (mean, factor)) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)).zip(numbers) {
        match (by.scale, by.bias) {
            ([], bias) => {
                for (y, x) in y.iter_mut().zip(x) {
                    *y = (x - mean) * factor;
                }
                for (y, bias) in y.iter_mut().zip(bias) {
                    *y += bias;
                }
            }
            (scale, []) => {
                for ((y, x), scale) in y.iter_mut().zip(x).zip(scale) {
                    *y = (x - mean) * factor * scale;
                }
            }
            (scale, bias) => {
                for ((y, x), (scale, bias)) in y.iter_mut().zip(x).zip(scale.iter().zip(bias)) {
                    *y = (x - mean) * factor * scale + bias;
                }
            }
        }
    }
}

#[inline(always)]
pub(super) fn normalize_f32(by: &NormalizeF32<'_>, x: &[f32], y: &mut [f32]) {
    let x = &x[..y.len()];
    for (x, y) in x.chunks(ROWS * by.row).zip(y.chunks_mut(ROWS * by.row)) {
        normalize_rows(by, x, y);
    }
}
