//! The arithmetic and its loops.

use super::{Arithmetic, BinaryF32};
use crate::kernels::elementary::clip;

#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    let y = if a < b { a } else { b };
    // `b` where either is NaN.
    if a.is_nan() { a } else { y }
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    let y = if a > b { a } else { b };
    if a.is_nan() { a } else { y }
}

#[inline(always)]
fn prelu(a: f32, b: f32) -> f32 {
    // Computed for all, so that there is no branch.
    let product = a * b;
    if a < 0.0 { product } else { a }
}

#[inline(always)]
fn each(to: &BinaryF32, a: &[f32], b: &[f32], y: &mut [f32], f: impl Fn(f32, f32) -> f32 + Copy) {
    let (min, max) = (to.min, to.max);
    assert!(a.len() == y.len() && b.len() == y.len(), "lengths differ");
    for (y, (a, b)) in y.iter_mut().zip(a.iter().zip(b)) {
        *y = clip(f(*a, *b), min, max);
    }
}

#[inline(always)]
pub(super) fn binary_f32(to: &BinaryF32, a: &[f32], b: &[f32], y: &mut [f32]) {
    match to.arithmetic {
        Arithmetic::Add => each(to, a, b, y, |a, b| a + b),
        Arithmetic::Sub => each(to, a, b, y, |a, b| a - b),
        Arithmetic::Mul => each(to, a, b, y, |a, b| a * b),
        Arithmetic::Div => each(to, a, b, y, |a, b| a / b),
        Arithmetic::Min => each(to, a, b, y, smaller),
        Arithmetic::Max => each(to, a, b, y, larger),
        Arithmetic::PRelu => each(to, a, b, y, prelu),
    }
}
