//! Pooling in plain Rust, vectorised over channels by the compiler.

use super::{PoolGeometry, PoolI8};
use crate::kernels::requantize::{Quantized, round_clamp};

/// Channels summed at a time.
const BLOCK: usize = 32;

/// Maximum.
pub fn max_f32(geometry: &PoolGeometry, input: &[f32], output: &mut [f32]) {
    geometry.for_each_window(&mut |at, _, window| {
        let y = &mut output[at..at + geometry.channels];
        y.fill(f32::NEG_INFINITY);
        window(&mut |from| {
            for (y, x) in y.iter_mut().zip(&input[from..from + geometry.channels]) {
                // A NaN stays.
                *y = if *x > *y || x.is_nan() { *x } else { *y };
            }
        });
    });
}

/// Average.
pub fn average_f32(geometry: &PoolGeometry, input: &[f32], output: &mut [f32]) {
    geometry.for_each_window(&mut |at, count, window| {
        let y = &mut output[at..at + geometry.channels];
        y.fill(0.0);
        window(&mut |from| {
            for (y, x) in y.iter_mut().zip(&input[from..from + geometry.channels]) {
                *y += x;
            }
        });
        let count = count.max(1) as f32;
        for y in y {
            *y /= count;
        }
    });
}

/// Quantized maximum.
pub fn max_quantized<T: Quantized>(
    geometry: &PoolGeometry,
    to: &PoolI8,
    input: &[T],
    output: &mut [T],
) {
    let plain = to.scale == 1.0 && to.zero_point == to.input_zero_point;
    geometry.for_each_window(&mut |at, _, window| {
        let y = &mut output[at..at + geometry.channels];
        y.fill(T::narrow(T::LOWEST));
        window(&mut |from| {
            for (y, x) in y.iter_mut().zip(&input[from..from + geometry.channels]) {
                *y = (*y).max(*x);
            }
        });
        for y in y {
            *y = if plain {
                // The formula's result when nothing is rescaled.
                T::narrow(y.widen().max(to.min).min(to.max))
            } else {
                requantize((y.widen() - to.input_zero_point) as f32 * to.scale, to)
            };
        }
    });
}

/// Quantized average.
pub fn average_quantized<T: Quantized>(
    geometry: &PoolGeometry,
    to: &PoolI8,
    input: &[T],
    output: &mut [T],
) {
    sums(geometry, to.input_zero_point, input, output, &|y, acc, count| {
        let scale = to.scale / count as f32;
        for (y, acc) in y.iter_mut().zip(acc) {
            *y = requantize(*acc as f32 * scale, to);
        }
    });
}

/// Quantized average of the stored numbers.
pub fn average_stored_i8(geometry: &PoolGeometry, to: &PoolI8, input: &[i8], output: &mut [i8]) {
    sums::<i8>(geometry, 0, input, output, &|y, acc, count| {
        let count = count.min(i32::MAX as u32) as i32;
        for (y, acc) in y.iter_mut().zip(acc) {
            let half = if *acc > 0 { count / 2 } else { -(count / 2) };
            *y = (acc.saturating_add(half) / count).max(to.min).min(to.max) as i8;
        }
    });
}

/// Makes outputs of sums and their count, which is at least 1.
type Finish<'f, T> = &'f dyn Fn(&mut [T], &[i32], u32);

/// Sums windows of `q - zero_point`.
fn sums<T: Quantized>(
    geometry: &PoolGeometry,
    zero_point: i32,
    input: &[T],
    output: &mut [T],
    finish: Finish<'_, T>,
) {
    geometry.for_each_window(&mut |at, count, window| {
        for start in (0..geometry.channels).step_by(BLOCK) {
            let len = BLOCK.min(geometry.channels - start);
            let mut acc = [0i32; BLOCK];
            window(&mut |from| {
                for (acc, x) in acc.iter_mut().zip(&input[from + start..from + start + len]) {
                    *acc = acc.wrapping_add(x.widen() - zero_point);
                }
            });
            finish(&mut output[at + start..at + start + len], &acc[..len], count.max(1));
        }
    });
}

fn requantize<T: Quantized>(real: f32, to: &PoolI8) -> T {
    T::narrow(round_clamp(real, to.min - to.zero_point, to.max - to.zero_point) + to.zero_point)
}
