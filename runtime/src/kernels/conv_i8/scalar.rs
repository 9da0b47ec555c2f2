//! The definition of the i8 convolution, as the formula reads.

use super::{ConvI8, FIRST_OFFSET, padded_channel, pair_offset, weight_offset, weights_start};
use crate::kernels::requantize::requantize_i8;
use crate::kernels::{ConvGeometry, PAIR_N, Packing};

pub(super) fn conv_i8_scalar(conv: &mut ConvI8<'_>) {
    conv.check();
    compute(conv, |conv, pixel, channel| {
        let padded = padded_channel(&conv.geometry, conv.packing, channel);
        (accumulate(conv, pixel, channel), padded)
    });
}

/// Bias and products of an output, and its place in the vectors along channels, given the
/// convolution, the pixel and the channel.
type Sum = fn(&ConvI8<'_>, usize, usize) -> (i32, usize);

/// Computes every output of a convolution that has been checked, depthwise or not.
#[inline(never)]
pub(in crate::kernels) fn compute(conv: &mut ConvI8<'_>, sum: Sum) {
    let (pixels, channels) = (conv.geometry.out_pixels(), conv.geometry.out_c);
    for pixel in 0..pixels {
        for channel in 0..channels {
            let (acc, padded) = sum(conv, pixel, channel);
            let y = &mut conv.output[pixel * conv.output_stride + channel];
            let residual = conv.epilogue.residual_at(pixel * channels + channel, *y);
            *y = requantize_i8(acc, padded, residual, &conv.epilogue);
        }
    }
}

/// Bias and products of one output. The convolution has been checked.
#[inline(never)]
pub(super) fn accumulate(conv: &ConvI8<'_>, pixel: usize, channel: usize) -> i32 {
    let g = &conv.geometry;
    let channels = g.group_in_c();
    let first = channel / g.group_out_c() * channels;
    let weights = &conv.weights[weights_start(g, conv.packing, channel)..];
    let lane = channel % g.group_out_c() % PAIR_N;
    let offset = if lane == 0 { FIRST_OFFSET } else { 0 };
    let mut acc = conv.bias[padded_channel(g, conv.packing, channel)];
    for tap in 0..g.kernel_h * g.kernel_w {
        let inside = input_under(g, pixel, tap);
        for c in 0..channels {
            let x = inside.map_or(conv.input_zero_point, |start| conv.input[start + first + c]);
            let i = tap * channels + c;
            let weight = match conv.packing {
                Packing::Panels => weights[weight_offset(i)],
                Packing::CortexM => weights[pair_offset(i) + lane].wrapping_sub(offset),
            };
            acc = acc.wrapping_add(i32::from(x) * i32::from(weight));
        }
    }
    acc
}

/// Where the input pixel starts that lies under a tap of an output pixel's window; `None` in the
/// padding.
#[inline(never)]
pub(in crate::kernels) fn input_under(g: &ConvGeometry, pixel: usize, tap: usize) -> Option<usize> {
    let (row, ow) = (pixel / g.out_w, pixel % g.out_w);
    let (image, oh) = (row / g.out_h, row % g.out_h);
    let (kh, kw) = (tap / g.kernel_w, tap % g.kernel_w);
    // From coordinates in the padded input.
    let h = (oh * g.stride_h + kh * g.dilation_h).checked_sub(g.pad_top)?;
    let w = (ow * g.stride_w + kw * g.dilation_w).checked_sub(g.pad_left)?;
    (h < g.in_h && w < g.in_w).then(|| ((image * g.in_h + h) * g.in_w + w) * g.in_c)
}
