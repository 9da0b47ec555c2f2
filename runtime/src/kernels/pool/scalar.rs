//! Pooling in plain Rust, vectorised over channels by the compiler.

use super::{BLOCK, PoolGeometry, PoolI8};
use crate::kernels::requantize::{Quantized, round_clamp};

/// Maximum.
pub fn max_f32(geometry: &PoolGeometry, input: &[f32], output: &mut [f32]) {
    let mut windows = geometry.windows();
    while windows.next_block() {
        let y = windows.output(output);
        y.fill(f32::NEG_INFINITY);
        while let Some(x) = windows.next_input(input) {
            for (y, x) in y.iter_mut().zip(x) {
                // A NaN stays.
                *y = if *x > *y || x.is_nan() { *x } else { *y };
            }
        }
    }
}

/// Average.
pub fn average_f32(geometry: &PoolGeometry, input: &[f32], output: &mut [f32]) {
    let mut windows = geometry.windows();
    while windows.next_block() {
        let y = windows.output(output);
        y.fill(0.0);
        while let Some(x) = windows.next_input(input) {
            for (y, x) in y.iter_mut().zip(x) {
                *y += x;
            }
        }
        let count = windows.count() as f32;
        for y in y {
            *y /= count;
        }
    }
}

/// Quantized maximum.
pub fn max_quantized<T: Quantized>(
    geometry: &PoolGeometry,
    to: &PoolI8,
    input: &[T],
    output: &mut [T],
) {
    let plain = to.scale == 1.0 && to.zero_point == to.input_zero_point;
    let mut windows = geometry.windows();
    while windows.next_block() {
        // Either type fits an i16, of which baseline x86-64 has the maximum.
        let mut max = [T::LOWEST as i16; BLOCK];
        while let Some(x) = windows.next_input(input) {
            for (max, x) in max.iter_mut().zip(x) {
                *max = (*max).max(x.widen() as i16);
            }
        }
        let y = windows.output(output);
        if plain {
            // The formula's result when nothing is rescaled.
            for (y, max) in y.iter_mut().zip(&max) {
                *y = T::narrow(i32::from(*max).max(to.min).min(to.max));
            }
        } else {
            requantize(to, &max.map(|max| i32::from(max) - to.input_zero_point), to.scale, y);
        }
    }
}

/// Quantized average.
pub fn average_quantized<T: Quantized>(
    geometry: &PoolGeometry,
    to: &PoolI8,
    input: &[T],
    output: &mut [T],
) {
    sums(geometry, to, to.input_zero_point, input, output, |to, sum, count, y| {
        requantize(to, sum, to.scale / count as f32, y);
    });
}

/// Quantized average of the stored numbers.
pub fn average_stored_i8(geometry: &PoolGeometry, to: &PoolI8, input: &[i8], output: &mut [i8]) {
    sums(geometry, to, 0, input, output, |to, sum, count, y| {
        let count = count.min(i32::MAX as u32) as i32;
        for (y, sum) in y.iter_mut().zip(sum) {
            let half = if *sum > 0 { count / 2 } else { -(count / 2) };
            *y = (sum.saturating_add(half) / count).max(to.min).min(to.max) as i8;
        }
    });
}

/// Makes outputs of sums and their count, which is at least 1.
type Finish<T> = fn(&PoolI8, &[i32; BLOCK], u32, &mut [T]);

/// Sums windows of `q - zero_point`.
#[inline(never)]
fn sums<T: Quantized>(
    geometry: &PoolGeometry,
    to: &PoolI8,
    zero_point: i32,
    input: &[T],
    output: &mut [T],
    finish: Finish<T>,
) {
    let mut windows = geometry.windows();
    while windows.next_block() {
        let mut sum = [0i32; BLOCK];
        while let Some(x) = windows.next_input(input) {
            for (sum, x) in sum.iter_mut().zip(x) {
                *sum = sum.wrapping_add(x.widen() - zero_point);
            }
        }
        finish(to, &sum, windows.count(), windows.output(output));
    }
}

/// `round_ties_even(acc * scale)`, clamped, in the output's numbers.
#[inline(never)]
fn requantize<T: Quantized>(to: &PoolI8, acc: &[i32; BLOCK], scale: f32, y: &mut [T]) {
    let (min, max) = (to.min - to.zero_point, to.max - to.zero_point);
    for (y, acc) in y.iter_mut().zip(acc) {
        *y = T::narrow(round_clamp(*acc as f32 * scale, min, max) + to.zero_point);
    }
}
