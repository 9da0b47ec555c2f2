//! The i16 convolutions in plain Rust, their sums vectorised by the compiler.

use core::ops::Range;

use super::ConvI16;
use crate::kernels::requantize::round_clamp;
use crate::kernels::{ConvGeometry, PANEL_K, PANEL_N};

/// Products summed in 32 bits: each is at most 2²², so 2⁹ of them reach the end of an i32; half of that
/// leaves room.
const RUN: usize = 256;

/// The sum of the products, exactly.
fn dot(x: &[i16], w: &[i8]) -> i64 {
    let runs = x.chunks(RUN).zip(w.chunks(RUN));
    runs.map(|(x, w)| {
        let products = x.iter().zip(w).map(|(x, w)| i32::from(*x) * i32::from(*w));
        i64::from(products.sum::<i32>())
    })
    .sum()
}

/// The output of a sum; channel counts among the padded ones.
#[inline]
pub(super) fn requantize(conv: &ConvI16<'_>, acc: i64, channel: usize) -> i16 {
    round_clamp(acc as f32 * conv.scale[channel], conv.min, conv.max) as i16
}

/// The taps of a kernel axis that lie inside the input, and the position of the first.
#[inline]
pub(super) fn inside(
    at: usize,
    pad: usize,
    dilation: usize,
    kernel: usize,
    size: usize,
) -> (Range<usize>, usize) {
    // Tap t is at `at + t * dilation - pad`.
    let steps = |way: usize| if dilation == 1 { way } else { way.div_ceil(dilation) };
    let first = steps(pad.saturating_sub(at)).min(kernel);
    let end = steps((size + pad).saturating_sub(at)).clamp(first, kernel);
    (first..end, (at + first * dilation).saturating_sub(pad))
}

/// Where the windows of some of the output's pixels lie: calls `body` with a pixel's index, and rows
/// and columns of taps as [`inside`] has them.
#[inline]
fn for_each_window(
    g: &ConvGeometry,
    pixels: Range<usize>,
    mut body: impl FnMut(usize, &[(Range<usize>, usize); 2]),
) {
    for pixel in pixels {
        let (row, column) = (pixel / g.out_w % g.out_h, pixel % g.out_w);
        let rows = inside(row * g.stride_h, g.pad_top, g.dilation_h, g.kernel_h, g.in_h);
        let columns = inside(column * g.stride_w, g.pad_left, g.dilation_w, g.kernel_w, g.in_w);
        body(pixel, &[rows, columns]);
    }
}

/// Convolution, or with a 1 × 1 kernel a matrix product, over dense weights.
pub fn conv_i16_dense(conv: &mut ConvI16<'_>) {
    let g = conv.geometry;
    let (own, k) = (g.group_in_c(), g.k());
    // Neighbouring taps of one group and no dilation are one piece of the input.
    let joined = own == g.in_c && g.dilation_w == 1;
    for_each_window(&g, 0..g.out_pixels(), |pixel, [(rows, top), (columns, left)]| {
        let image = pixel / (g.out_h * g.out_w);
        // A window without columns lies beside the input.
        let rows = if columns.is_empty() { 0..0 } else { rows.clone() };
        for channel in 0..g.out_c {
            let group_start = channel / g.group_out_c() * own;
            let weights = &conv.weights[channel * k..][..k];
            let mut acc = conv.bias[channel];
            for (step, tap_row) in rows.clone().enumerate() {
                let in_row = (image * g.in_h + top + step * g.dilation_h) * g.in_w;
                let tap = |column: usize| (tap_row * g.kernel_w + column) * own;
                let place = |step: usize| (in_row + left + step * g.dilation_w) * g.in_c;
                if joined {
                    let len = columns.len() * own;
                    let x = &conv.input[place(0)..][..len];
                    acc = acc.wrapping_add(dot(x, &weights[tap(columns.start)..][..len]));
                    continue;
                }
                for (step, column) in columns.clone().enumerate() {
                    let x = &conv.input[place(step) + group_start..][..own];
                    acc = acc.wrapping_add(dot(x, &weights[tap(column)..][..own]));
                }
            }
            conv.output[pixel * g.out_c + channel] = requantize(conv, acc, channel);
        }
    });
}

/// Convolution over panels.
pub(super) fn conv_i16_scalar(conv: &mut ConvI16<'_>) {
    let g = conv.geometry;
    let (own, words) = (g.group_in_c(), g.k().div_ceil(PANEL_K));
    for_each_window(&g, 0..g.out_pixels(), |pixel, [(rows, top), (columns, left)]| {
        let image = pixel / (g.out_h * g.out_w);
        for panel in 0..g.padded_out_c() / PANEL_N {
            let panels_per_group = g.padded_group_out_c() / PANEL_N;
            let (group, first) = (panel / panels_per_group, panel % panels_per_group * PANEL_N);
            let weights = &conv.weights[panel * words * PANEL_N * PANEL_K..];
            let mut acc = [0i64; PANEL_N];
            acc.copy_from_slice(&conv.bias[panel * PANEL_N..][..PANEL_N]);
            for (row_step, tap_row) in rows.clone().enumerate() {
                for (step, tap_column) in columns.clone().enumerate() {
                    let in_row = (image * g.in_h + top + row_step * g.dilation_h) * g.in_w;
                    let place = (in_row + left + step * g.dilation_w) * g.in_c + group * own;
                    for c in 0..own {
                        let k = (tap_row * g.kernel_w + tap_column) * own + c;
                        let x = i32::from(conv.input[place + c]);
                        let word = &weights[k / PANEL_K * PANEL_N * PANEL_K..];
                        for (acc, w) in acc.iter_mut().zip(word.chunks_exact(PANEL_K)) {
                            *acc = acc.wrapping_add(i64::from(x * i32::from(w[k % PANEL_K])));
                        }
                    }
                }
            }
            let channel = group * g.group_out_c() + first;
            for (lane, acc) in acc.iter().enumerate().take(g.group_out_c() - first) {
                conv.output[pixel * g.out_c + channel + lane] =
                    requantize(conv, *acc, panel * PANEL_N + lane);
            }
        }
    });
}

/// Convolution where each channel has its own filter.
pub(super) fn depthwise_i16_scalar(conv: &mut ConvI16<'_>) {
    let g = conv.geometry;
    let channels = g.in_c;
    for_each_window(&g, 0..g.out_pixels(), |pixel, [(rows, top), (columns, left)]| {
        let image = pixel / (g.out_h * g.out_w);
        // A panel of channels at a time, as the weights lie.
        for start in (0..channels).step_by(PANEL_N) {
            let len = PANEL_N.min(channels - start);
            let mut acc = [0i64; PANEL_N];
            acc[..len].copy_from_slice(&conv.bias[start..start + len]);
            for (row_step, tap_row) in rows.clone().enumerate() {
                for (step, tap_column) in columns.clone().enumerate() {
                    let in_row = image * g.in_h + top + row_step * g.dilation_h;
                    let place = (in_row * g.in_w + left + step * g.dilation_w) * channels + start;
                    let tap = tap_row * g.kernel_w + tap_column;
                    let weights = &conv.weights[tap * channels.next_multiple_of(PANEL_N) + start..];
                    let x = &conv.input[place..place + len];
                    for ((acc, x), w) in acc.iter_mut().zip(x).zip(weights) {
                        *acc = acc.wrapping_add(i64::from(i32::from(*x) * i32::from(*w)));
                    }
                }
            }
            for (lane, acc) in acc[..len].iter().enumerate() {
                conv.output[pixel * channels + start + lane] = requantize(conv, *acc, start + lane);
            }
        }
    });
}
