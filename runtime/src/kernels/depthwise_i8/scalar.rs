//! The definition of the i8 depthwise convolution, as the formula reads.

use super::{DepthwiseI8, padded_c};
use crate::kernels::Packing;
use crate::kernels::conv_i8::compute;

pub(super) fn depthwise_i8_scalar(conv: &mut DepthwiseI8<'_>) {
    super::check(conv, |_| 0);
    compute(conv, |conv, pixel, channel| (accumulate(conv, pixel, channel), channel));
}

/// Bias and products of one output. The convolution has been checked.
#[inline(never)]
pub(super) fn accumulate(conv: &DepthwiseI8<'_>, pixel: usize, channel: usize) -> i32 {
    let g = conv.geometry;
    let (oh, ow) = (pixel / g.out_w % g.out_h, pixel % g.out_w);
    let image = pixel / (g.out_h * g.out_w);
    let taps = g.kernel_h * g.kernel_w;
    let mut acc = conv.bias[channel];
    for tap in 0..taps {
        let (kh, kw) = (tap / g.kernel_w, tap % g.kernel_w);
        // Coordinates in the padded input; what lies outside the input is padding.
        let h = (oh * g.stride_h + kh * g.dilation_h).checked_sub(g.pad_top);
        let w = (ow * g.stride_w + kw * g.dilation_w).checked_sub(g.pad_left);
        let x = match (h, w) {
            (Some(h), Some(w)) if h < g.in_h && w < g.in_w => {
                conv.input[((image * g.in_h + h) * g.in_w + w) * g.in_c + channel]
            }
            _ => conv.input_zero_point,
        };
        let weight = match conv.packing {
            Packing::Panels => conv.weights[tap * padded_c(g.in_c) + channel],
            Packing::CortexM => conv.weights[channel * taps + tap],
        };
        acc = acc.wrapping_add(i32::from(x) * i32::from(weight));
    }
    acc
}
