//! The definition of the i8 depthwise convolution, as the formula reads.

use super::{DepthwiseI8, padded_c};
use crate::kernels::Packing;
use crate::kernels::conv_i8::{compute, input_under};

pub(super) fn depthwise_i8_scalar(conv: &mut DepthwiseI8<'_>) {
    super::check(conv, |_| 0);
    compute(conv, |conv, pixel, channel| (accumulate(conv, pixel, channel), channel));
}

/// Bias and products of one output. The convolution has been checked.
#[inline(never)]
pub(super) fn accumulate(conv: &DepthwiseI8<'_>, pixel: usize, channel: usize) -> i32 {
    let g = &conv.geometry;
    let taps = g.kernel_h * g.kernel_w;
    let mut acc = conv.bias[channel];
    for tap in 0..taps {
        let inside = input_under(g, pixel, tap);
        let x = inside.map_or(conv.input_zero_point, |start| conv.input[start + channel]);
        let weight = match conv.packing {
            Packing::Panels => conv.weights[tap * padded_c(g.in_c) + channel],
            Packing::CortexM => conv.weights[channel * taps + tap],
        };
        acc = acc.wrapping_add(i32::from(x) * i32::from(weight));
    }
    acc
}
