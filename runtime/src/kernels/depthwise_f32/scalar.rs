//! Float depthwise convolution in plain Rust: the formula, summed in f32 in the order of the taps.

use super::super::conv_f32::scalar::{clamp, weight};
use super::{DepthwiseF32, padded_channels};

/// See [`DepthwiseF32`].
pub(super) fn depthwise_f32_scalar(args: &mut DepthwiseF32<'_>) {
    args.check();
    let g = args.geometry;

    for pixel in 0..g.out_pixels() {
        let (batch, oy, ox) =
            (pixel / (g.out_h * g.out_w), pixel / g.out_w % g.out_h, pixel % g.out_w);
        for c in 0..g.in_c {
            let mut sum = 0.0;
            for ky in 0..g.kernel_h {
                for kx in 0..g.kernel_w {
                    let (y, x) =
                        (oy * g.stride_h + ky * g.dilation_h, ox * g.stride_w + kx * g.dilation_w);
                    if y < g.pad_top
                        || y >= g.pad_top + g.in_h
                        || x < g.pad_left
                        || x >= g.pad_left + g.in_w
                    {
                        continue;
                    }
                    let pixel_in = (batch * g.in_h + y - g.pad_top) * g.in_w + x - g.pad_left;
                    let tap = ky * g.kernel_w + kx;
                    sum += args.input[pixel_in * g.in_c + c]
                        * weight(args.weights, tap * padded_channels(&g) + c);
                }
            }

            let mut y = sum + args.epilogue.bias[c];
            let output = &mut args.output[pixel * args.output_stride + c];
            if let Some(residual) = args.epilogue.residual {
                y += residual.at(pixel * g.in_c + c, *output);
            }
            *output = clamp(y, args.epilogue.min, args.epilogue.max);
        }
        args.epilogue.activate(args.output, pixel..pixel + 1, 0..g.in_c, args.output_stride);
    }
}
