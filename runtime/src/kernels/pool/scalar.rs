//! Pooling in plain Rust, vectorised over channels by the compiler.

use super::{BLOCK, PoolGeometry, PoolI8, Windows};
use crate::kernels::requantize::{Quantized, round_clamp};

/// The larger; a NaN stays.
#[inline(always)]
fn larger(max: f32, x: f32) -> f32 {
    if x > max || x.is_nan() { x } else { max }
}

#[inline(always)]
fn sum(sum: f32, x: f32) -> f32 {
    sum + x
}

/// Positions of a window that are read together.
const TAPS: usize = 9;

/// `acc = f(acc, x)` for `W` channels at a time from `at` on, and all positions: registers are written once.
#[inline(always)]
fn fold_wide<const W: usize>(
    acc: &mut [f32],
    taps: &[&[f32]],
    at: &mut usize,
    f: impl Fn(f32, f32) -> f32 + Copy,
) {
    while let Some(to) = acc.get_mut(*at..).and_then(|rest| rest.first_chunk_mut::<W>()) {
        let mut lanes = *to;
        for tap in taps {
            let Some(x) = tap.get(*at..).and_then(|rest| rest.first_chunk::<W>()) else { break };
            for i in 0..W {
                lanes[i] = f(lanes[i], x[i]);
            }
        }
        *to = lanes;
        *at += W;
    }
}

/// Folds the block's windows into `acc`, as long as the block.
#[inline(always)]
fn fold(
    windows: &mut Windows<'_>,
    input: &[f32],
    acc: &mut [f32],
    f: impl Fn(f32, f32) -> f32 + Copy,
) {
    loop {
        let mut taps: [&[f32]; TAPS] = [&[]; TAPS];
        let mut count = 0;
        while count < TAPS
            && let Some(x) = windows.next_input(input)
        {
            taps[count] = x;
            count += 1;
        }
        let (taps, mut at) = (&taps[..count], 0);
        fold_wide::<32>(acc, taps, &mut at, f);
        fold_wide::<8>(acc, taps, &mut at, f);
        fold_wide::<1>(acc, taps, &mut at, f);
        if count < TAPS {
            return;
        }
    }
}

/// Maximum.
#[inline(always)]
pub(super) fn max_f32(geometry: &PoolGeometry, input: &[f32], output: &mut [f32]) {
    let mut windows = geometry.windows();
    while windows.next_block() {
        let y = windows.output(output);
        y.fill(f32::NEG_INFINITY);
        fold(&mut windows, input, y, larger);
    }
}

/// Average.
#[inline(always)]
pub(super) fn average_f32(geometry: &PoolGeometry, input: &[f32], output: &mut [f32]) {
    let mut windows = geometry.windows();
    while windows.next_block() {
        let y = windows.output(output);
        y.fill(0.0);
        fold(&mut windows, input, y, sum);
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
    let plain = to.is_plain();
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

/// Quantized average of i8.
pub(super) fn average_i8(geometry: &PoolGeometry, to: &PoolI8, input: &[i8], output: &mut [i8]) {
    sums(geometry, to, input, output, average);
}

/// Quantized average of i16.
pub fn average_i16(geometry: &PoolGeometry, to: &PoolI8, input: &[i16], output: &mut [i16]) {
    sums(geometry, to, input, output, average);
}

/// Quantized average of the stored numbers.
pub(super) fn average_stored_i8(
    geometry: &PoolGeometry,
    to: &PoolI8,
    input: &[i8],
    output: &mut [i8],
) {
    sums(geometry, to, input, output, |to, windows, sum, y| {
        divide_each(to, sum, windows.count(), y)
    });
}

/// `sum / count`, ties away from zero, clamped.
pub(super) fn divide_each(to: &PoolI8, sum: &[i32; BLOCK], count: u32, y: &mut [i8]) {
    let count = count.min(i32::MAX as u32) as i32;
    for (y, sum) in y.iter_mut().zip(sum) {
        let half = if *sum > 0 { count / 2 } else { -(count / 2) };
        *y = (sum.saturating_add(half) / count).max(to.min).min(to.max) as i8;
    }
}

/// Makes outputs of the sums of a block of windows.
type Finish<T> = fn(&PoolI8, &Windows<'_>, &[i32; BLOCK], &mut [T]);

/// Sums windows.
#[inline(never)]
fn sums<T: Quantized>(
    geometry: &PoolGeometry,
    to: &PoolI8,
    input: &[T],
    output: &mut [T],
    finish: Finish<T>,
) {
    let mut windows = geometry.windows();
    while windows.next_block() {
        let mut sum = [0i32; BLOCK];
        while let Some(x) = windows.next_input(input) {
            for (sum, x) in sum.iter_mut().zip(x) {
                *sum = sum.wrapping_add(x.widen());
            }
        }
        finish(to, &windows, &sum, windows.output(output));
    }
}

/// The average of `q - zero_point`.
fn average<T: Quantized>(to: &PoolI8, windows: &Windows<'_>, sum: &[i32; BLOCK], y: &mut [T]) {
    let offset = windows.offset(to);
    let sum = sum.map(|sum| sum.wrapping_sub(offset));
    requantize(to, &sum, to.scale / windows.count() as f32, y);
}

/// `round_ties_even(acc * scale)`, clamped, in the output's numbers.
#[inline(never)]
fn requantize<T: Quantized>(to: &PoolI8, acc: &[i32; BLOCK], scale: f32, y: &mut [T]) {
    requantize_each(to, acc, scale, y);
}

/// [`requantize`], to be compiled with its caller.
#[inline(always)]
pub(super) fn requantize_each<T: Quantized>(
    to: &PoolI8,
    acc: &[i32; BLOCK],
    scale: f32,
    y: &mut [T],
) {
    let (min, max) = (to.min - to.zero_point, to.max - to.zero_point);
    for (y, acc) in y.iter_mut().zip(acc) {
        *y = T::narrow(round_clamp(*acc as f32 * scale, min, max) + to.zero_point);
    }
}
