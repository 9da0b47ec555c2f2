//! The definition of the i8 convolution, as the formula reads.

use super::{ConvI8, padded_channel, weight_offset, weights_start};
use crate::kernels::requantize::requantize_i8;

pub(super) fn conv_i8_scalar(conv: &mut ConvI8<'_>) {
    conv.check();
    let g = conv.geometry;
    for pixel in 0..g.out_pixels() {
        let (oh, ow) = (pixel / g.out_w % g.out_h, pixel % g.out_w);
        let image = pixel / (g.out_h * g.out_w);
        for channel in 0..g.out_c {
            let group = channel / g.group_out_c();
            let weights = &conv.weights[weights_start(&g, channel)..];
            let mut acc = conv.bias[padded_channel(&g, channel)];
            for kh in 0..g.kernel_h {
                for kw in 0..g.kernel_w {
                    // Coordinates in the padded input; what lies outside the input is padding.
                    let h = (oh * g.stride_h + kh * g.dilation_h).checked_sub(g.pad_top);
                    let w = (ow * g.stride_w + kw * g.dilation_w).checked_sub(g.pad_left);
                    let inside = match (h, w) {
                        (Some(h), Some(w)) if h < g.in_h && w < g.in_w => Some(
                            ((image * g.in_h + h) * g.in_w + w) * g.in_c + group * g.group_in_c(),
                        ),
                        _ => None,
                    };
                    for c in 0..g.group_in_c() {
                        let x = inside.map_or(conv.input_zero_point, |start| conv.input[start + c]);
                        let i = (kh * g.kernel_w + kw) * g.group_in_c() + c;
                        let weight = weights[weight_offset(i)];
                        acc = acc.wrapping_add(i32::from(x) * i32::from(weight));
                    }
                }
            }
            let y = &mut conv.output[pixel * conv.output_stride + channel];
            let residual = conv.epilogue.residual_at(pixel * g.out_c + channel, *y);
            *y = requantize_i8(acc, padded_channel(&g, channel), residual, &conv.epilogue);
        }
    }
}
