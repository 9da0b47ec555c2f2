//! Pooling of i16 in plain Rust, vectorised over channels by the compiler: the formulas of i8 with zero
//! points of 0.

use super::{PoolGeometry, PoolI8};
use crate::kernels::requantize::round_clamp;

/// Channels summed at a time.
const BLOCK: usize = 32;

/// Maximum.
pub fn max_i16(geometry: &PoolGeometry, to: &PoolI8, input: &[i16], output: &mut [i16]) {
    geometry.for_each_window(&mut |at, _, window| {
        let y = &mut output[at..at + geometry.channels];
        y.fill(i16::MIN);
        window(&mut |from| {
            for (y, x) in y.iter_mut().zip(&input[from..from + geometry.channels]) {
                *y = (*y).max(*x);
            }
        });
        for y in y {
            *y = round_clamp(f32::from(*y) * to.scale, to.min, to.max) as i16;
        }
    });
}

/// Average.
pub fn average_i16(geometry: &PoolGeometry, to: &PoolI8, input: &[i16], output: &mut [i16]) {
    geometry.for_each_window(&mut |at, count, window| {
        let scale = to.scale / count.max(1) as f32;
        for start in (0..geometry.channels).step_by(BLOCK) {
            let len = BLOCK.min(geometry.channels - start);
            let mut acc = [0i32; BLOCK];
            window(&mut |from| {
                for (acc, x) in acc.iter_mut().zip(&input[from + start..from + start + len]) {
                    *acc = acc.wrapping_add(i32::from(*x));
                }
            });
            for (y, acc) in output[at + start..at + start + len].iter_mut().zip(acc) {
                *y = round_clamp(acc as f32 * scale, to.min, to.max) as i16;
            }
        }
    });
}
