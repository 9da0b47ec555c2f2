//! Softmax in plain Rust.

use super::{Row, SoftmaxI8, SoftmaxI16, SoftmaxShape, TABLE_LEN};
use crate::kernels::elementary;
use crate::kernels::requantize::round_clamp;

fn largest(row: Row, x: &[f32]) -> f32 {
    row.positions().fold(f32::NEG_INFINITY, |max, at| if x[at] > max { x[at] } else { max })
}

/// Columns of a matrix that are done together.
const COLUMNS: usize = 32;

/// Rows along the axis that are shorter are done together, as columns.
const SHORT: usize = 8;

/// Softmax of every column of a matrix so wide.
#[inline(always)]
fn columns(matrix: &mut [f32], width: usize) {
    for start in (0..width).step_by(COLUMNS) {
        let end = width.min(start + COLUMNS);
        let (mut largest, mut sum) = ([f32::NEG_INFINITY; COLUMNS], [0.0; COLUMNS]);
        for row in matrix.chunks_exact(width) {
            for (largest, x) in largest.iter_mut().zip(&row[start..end]) {
                *largest = if *x > *largest { *x } else { *largest };
            }
        }
        for row in matrix.chunks_exact_mut(width) {
            let of = row[start..end].iter_mut().zip(&mut sum).zip(&largest);
            for ((x, sum), largest) in of {
                *x = elementary::exp_below(*x - largest);
                *sum += *x;
            }
        }
        for row in matrix.chunks_exact_mut(width) {
            for (x, sum) in row[start..end].iter_mut().zip(&sum) {
                *x /= sum;
            }
        }
    }
}

/// `exp(x - m) / s`.
#[inline(always)]
pub(super) fn softmax_f32(shape: SoftmaxShape, x: &[f32], y: &mut [f32]) {
    let SoftmaxShape { extent, inner, .. } = shape;
    if inner == 1 && extent < SHORT {
        let mut matrix = [0.0; SHORT * COLUMNS];
        let rows = COLUMNS * extent;
        for (x, y) in x.chunks(rows).zip(y.chunks_mut(rows)) {
            let width = x.len() / extent;
            let matrix = &mut matrix[..x.len()];
            for (at, x) in x.iter().enumerate() {
                matrix[at % extent * width + at / extent] = *x;
            }
            columns(matrix, width);
            for (at, y) in y.iter_mut().enumerate() {
                *y = matrix[at % extent * width + at / extent];
            }
        }
        return;
    }
    y.copy_from_slice(x);
    if inner == 1 {
        for row in y.chunks_exact_mut(extent) {
            let (sum, _) = elementary::exponentials(row, 1.0, &[]);
            row.iter_mut().for_each(|y| *y /= sum);
        }
    } else {
        y.chunks_exact_mut(extent * inner).for_each(|matrix| columns(matrix, inner));
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

/// Elements of a row from which on its outputs are a table of all there may be.
const TABLED: usize = 2 * TABLE_LEN;

/// Quantized softmax.
pub fn softmax_i8(shape: SoftmaxShape, to: &SoftmaxI8<'_>, x: &[i8], y: &mut [i8]) {
    let (low, high) = (-128 - to.zero_point, 127 - to.zero_point);
    if shape.inner == 1 && shape.extent >= TABLED {
        for (x, y) in x.chunks_exact(shape.extent).zip(y.chunks_exact_mut(shape.extent)) {
            let max = x.iter().fold(i8::MIN, |max, x| max.max(*x));
            let sum = x.iter().fold(0, |sum: i64, x| {
                sum.wrapping_add(i64::from(to.table[usize::from(max.abs_diff(*x))]))
            });
            let scale = to.inverse_scale / sum as f32;
            let outputs = to.table.map(|exponential| {
                (round_clamp(exponential as f32 * scale, low, high) + to.zero_point) as i8
            });
            for (y, x) in y.iter_mut().zip(x) {
                *y = outputs[usize::from(max.abs_diff(*x))];
            }
        }
        return;
    }
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

/// Numbers of a row that are done together.
#[cfg(feature = "std")]
const TOGETHER: usize = 16;

/// [`softmax_i8`], for registers.
#[cfg(feature = "std")]
#[inline(always)]
pub(super) fn softmax_i8_wide(shape: SoftmaxShape, to: &SoftmaxI8<'_>, x: &[i8], y: &mut [i8]) {
    if shape.inner != 1 || !(TOGETHER..TABLED).contains(&shape.extent) {
        return softmax_i8(shape, to, x, y);
    }
    let (low, high) = (-128 - to.zero_point, 127 - to.zero_point);
    let mut exponentials = [[0i32; TOGETHER]; TABLED / TOGETHER];
    for (x, y) in x.chunks_exact(shape.extent).zip(y.chunks_exact_mut(shape.extent)) {
        let (blocks, rest) = x.as_chunks::<TOGETHER>();
        let mut largest = [i8::MIN; TOGETHER];
        for block in blocks {
            for (largest, x) in largest.iter_mut().zip(block) {
                *largest = (*largest).max(*x);
            }
        }
        let max = largest.iter().chain(rest).fold(i8::MIN, |max, x| max.max(*x));
        let exponential = |x: i8| to.table[usize::from(max.abs_diff(x))];
        let mut sum = 0i64;
        for (exponentials, block) in exponentials.iter_mut().zip(blocks) {
            *exponentials = block.map(exponential);
            sum = exponentials.iter().fold(sum, |sum, e| sum.wrapping_add(i64::from(*e)));
        }
        sum = rest.iter().fold(sum, |sum, x| sum.wrapping_add(i64::from(exponential(*x))));
        let scale = to.inverse_scale / sum as f32;
        let output = |exponential: i32| {
            (round_clamp(exponential as f32 * scale, low, high) + to.zero_point) as i8
        };
        let (outputs, rest_of_y) = y.as_chunks_mut::<TOGETHER>();
        for (y, exponentials) in outputs.iter_mut().zip(&exponentials) {
            *y = exponentials.map(output);
        }
        for (y, x) in rest_of_y.iter_mut().zip(rest) {
            *y = output(exponential(*x));
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
