//! The sums and loops.

use super::NormalizeF32;

/// Sums side by side: one AVX-512 register of f32.
const LANES: usize = 16;

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
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0]
}

#[inline(always)]
pub(super) fn normalize_f32(by: &NormalizeF32<'_>, x: &[f32], y: &mut [f32]) {
    let n = by.row;
    let count = n as f32;
    for (x, y) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)) {
        let mean = if by.centred { sum(x, |x| x) / count } else { 0.0 };
        let square = sum(x, |x| (x - mean) * (x - mean)) / count;
        let factor = 1.0 / libm::sqrtf(square + by.epsilon);
        for (y, x) in y.iter_mut().zip(x) {
            *y = (x - mean) * factor;
        }
        for (y, scale) in y.iter_mut().zip(by.scale) {
            *y *= scale;
        }
        for (y, bias) in y.iter_mut().zip(by.bias) {
            *y += bias;
        }
    }
}
