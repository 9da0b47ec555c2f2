//! The definition of the i8 convolution, as the formula reads.

use super::{ConvI8, FIRST_OFFSET, padded_channel, pair_offset, weight_offset, weights_start};
use crate::kernels::requantize::requantize_i8;
use crate::kernels::{PAIR_N, Packing};

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
    let g = conv.geometry;
    let (oh, ow) = (pixel / g.out_w % g.out_h, pixel % g.out_w);
    let image = pixel / (g.out_h * g.out_w);
    let group = channel / g.group_out_c();
    let weights = &conv.weights[weights_start(&g, conv.packing, channel)..];
    let lane = channel % g.group_out_c() % PAIR_N;
    let offset = if lane == 0 { FIRST_OFFSET } else { 0 };
    let mut acc = conv.bias[padded_channel(&g, conv.packing, channel)];
    for kh in 0..g.kernel_h {
        for kw in 0..g.kernel_w {
            // Coordinates in the padded input; what lies outside the input is padding.
            let h = (oh * g.stride_h + kh * g.dilation_h).checked_sub(g.pad_top);
            let w = (ow * g.stride_w + kw * g.dilation_w).checked_sub(g.pad_left);
            let inside = match (h, w) {
                (Some(h), Some(w)) if h < g.in_h && w < g.in_w => {
                    Some(((image * g.in_h + h) * g.in_w + w) * g.in_c + group * g.group_in_c())
                }
                _ => None,
            };
            for c in 0..g.group_in_c() {
                let x = inside.map_or(conv.input_zero_point, |start| conv.input[start + c]);
                let i = (kh * g.kernel_w + kw) * g.group_in_c() + c;
                let weight = match conv.packing {
                    Packing::Panels => weights[weight_offset(i)],
                    Packing::CortexM => weights[pair_offset(i) + lane].wrapping_sub(offset),
                };
                acc = acc.wrapping_add(i32::from(x) * i32::from(weight));
            }
        }
    }
    acc
}
