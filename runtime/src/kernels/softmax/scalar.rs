//! Softmax in plain Rust.

use super::{Row, SoftmaxI8, SoftmaxI16, SoftmaxShape};
use crate::Isa;
use crate::kernels::elementary;
use crate::kernels::requantize::round_clamp;

fn largest(row: Row, x: &[f32]) -> f32 {
    row.positions().fold(f32::NEG_INFINITY, |max, at| if x[at] > max { x[at] } else { max })
}

/// `exp(x - m) / s`.
pub fn softmax_f32(isa: Isa, shape: SoftmaxShape, x: &[f32], y: &mut [f32]) {
    if shape.inner == 1 {
        let exponentials = elementary::select_exponentials(isa);
        y.copy_from_slice(x);
        for row in y.chunks_exact_mut(shape.extent) {
            let (sum, _) = exponentials(row);
            row.iter_mut().for_each(|y| *y /= sum);
        }
        return;
    }
    for row in shape.rows() {
        let max = largest(row, x);
        let mut sum = 0.0;
        for at in row.positions() {
            y[at] = elementary::exp_below(x[at] - max);
            sum += y[at];
        }
        for at in row.positions() {
            y[at] /= sum;
        }
    }
}

/// `(x - m) - ln(s)`.
pub fn log_softmax_f32(shape: SoftmaxShape, x: &[f32], y: &mut [f32]) {
    for row in shape.rows() {
        let max = largest(row, x);
        let sum = row.positions().fold(0.0, |sum, at| sum + elementary::exp_below(x[at] - max));
        let log_sum = libm::logf(sum);
        for at in row.positions() {
            y[at] = (x[at] - max) - log_sum;
        }
    }
}

/// Quantized softmax.
pub fn softmax_i8(shape: SoftmaxShape, to: &SoftmaxI8<'_>, x: &[i8], y: &mut [i8]) {
    let (low, high) = (-128 - to.zero_point, 127 - to.zero_point);
    for row in shape.rows() {
        let max = row.positions().fold(i8::MIN, |max, at| max.max(x[at]));
        let exponential = |at: usize| to.table[usize::from(max.abs_diff(x[at]))];
        let sum =
            row.positions().fold(0, |sum: i64, at| sum.wrapping_add(i64::from(exponential(at))));
        let scale = to.inverse_scale / sum as f32;
        for at in row.positions() {
            y[at] = (round_clamp(exponential(at) as f32 * scale, low, high) + to.zero_point) as i8;
        }
    }
}

/// Quantized softmax of i16.
pub fn softmax_i16(shape: SoftmaxShape, to: &SoftmaxI16<'_>, x: &[i16], y: &mut [i16]) {
    for row in shape.rows() {
        let max = row.positions().fold(i16::MIN, |max, at| max.max(x[at]));
        let exponential = |at: usize| {
            let difference = max.abs_diff(x[at]);
            let high = i64::from(to.high[usize::from(difference >> 8)]);
            let low = i64::from(to.low[usize::from(difference & 255)]);
            // Below 2⁶² + 2³⁶, whatever the tables hold.
            (high * low + (1 << 36)) >> 37
        };
        let sum = row.positions().fold(0, |sum: i64, at| sum.wrapping_add(exponential(at)));
        let scale = to.inverse_scale / sum as f32;
        for at in row.positions() {
            y[at] = round_clamp(exponential(at) as f32 * scale, -32768, 32767) as i16;
        }
    }
}
