//! The arithmetic and its loops.

use super::{Arithmetic, BinaryI8};
use crate::kernels::requantize::round_clamp;

#[inline(always)]
fn each(to: &BinaryI8, a: &[i8], b: &[i8], y: &mut [i8], f: impl Fn(i32, i32) -> f32 + Copy) {
    assert!(a.len() == y.len() && b.len() == y.len(), "lengths differ");
    let BinaryI8 { zero_points: [za, zb], zero_point, min, max, .. } = *to;
    let (low, high) = (min - zero_point, max - zero_point);
    for (y, (a, b)) in y.iter_mut().zip(a.iter().zip(b)) {
        let t = f(i32::from(*a) - za, i32::from(*b) - zb);
        *y = (round_clamp(t, low, high) + zero_point) as i8;
    }
}

#[inline(always)]
pub(super) fn binary_i8(to: &BinaryI8, a: &[i8], b: &[i8], y: &mut [i8]) {
    let [scale_a, scale_b] = to.scales;
    let reals = move |a: i32, b: i32| (a as f32 * scale_a, b as f32 * scale_b);
    match to.arithmetic {
        Arithmetic::Mul => each(to, a, b, y, |a, b| a.wrapping_mul(b) as f32 * scale_a),
        Arithmetic::Sub => each(to, a, b, y, |a, b| {
            let (a, b) = reals(a, b);
            a - b
        }),
        Arithmetic::Min => each(to, a, b, y, |a, b| {
            let (a, b) = reals(a, b);
            if b < a { b } else { a }
        }),
        Arithmetic::Max => each(to, a, b, y, |a, b| {
            let (a, b) = reals(a, b);
            if b > a { b } else { a }
        }),
    }
}
