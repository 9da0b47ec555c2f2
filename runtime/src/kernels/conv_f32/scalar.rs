//! Float convolution in plain Rust: the formula, summed in f32 in the order of K, by blocks.

use super::super::{FloatWeights, PanelWeights};
use super::{ConvF32, PANEL_N};
use half::bf16;

/// See [`ConvF32`].
pub(super) fn conv_f32_scalar(args: &mut ConvF32<'_>) {
    match args.weights {
        PanelWeights::Bf16(pairs) => {
            let weight = |channel, row, k| pairs[super::bf16::index(channel, row, k)].to_f32();
            sums(args, |x| bf16::from_f32(x).to_f32(), weight);
        }
        PanelWeights::Float(weights) => sums(
            args,
            |x| x,
            |channel, row, k| {
                let panel = channel / PANEL_N * PANEL_N * k;
                weight(weights, panel + row * PANEL_N + channel % PANEL_N)
            },
        ),
        PanelWeights::Grouped(weights) => {
            sums(args, |x| x, |channel, row, k| weights.at(channel, row, k));
        }
    }
}

/// The same with what becomes of an input, and the weight of a padded output channel for input `row` of its `k`.
#[inline(always)]
fn sums(
    args: &mut ConvF32<'_>,
    round: impl Fn(f32) -> f32,
    weight: impl Fn(usize, usize, usize) -> f32,
) {
    args.check();
    let g = args.geometry;
    let (group_in_c, group_out_c, k) = (g.group_in_c(), g.group_out_c(), g.k());

    for pixel in args.pixels.clone() {
        let (batch, oy, ox) =
            (pixel / (g.out_h * g.out_w), pixel / g.out_w % g.out_h, pixel % g.out_w);
        for channel in 0..g.out_c {
            let (group, n) = (channel / group_out_c, channel % group_out_c);
            let padded_channel = group * g.padded_group_out_c() + n;

            let mut sum = BlockedSum::default();
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
                    for c in 0..group_in_c {
                        let row = (ky * g.kernel_w + kx) * group_in_c + c;
                        let x = args.input[pixel_in * g.in_c + group * group_in_c + c];
                        sum.add(round(x) * weight(padded_channel, row, k));
                    }
                }
            }

            let mut y = sum.total() + args.epilogue.bias[padded_channel];
            let row = pixel - args.pixels.start;
            let output = &mut args.output[row * args.output_stride + channel];
            if let Some(residual) = args.epilogue.residual {
                y += residual.at(pixel * g.out_c + channel, *output);
            }
            *output = clamp(y, args.epilogue.min, args.epilogue.max);
        }
        let row = pixel - args.pixels.start;
        args.epilogue.activate(args.output, row..row + 1, 0..g.out_c, args.output_stride);
    }
}

/// A sum in f32 whose rounding error grows with K / 32 + 32 instead of K: terms are summed in
/// blocks, and the blocks' sums are summed (Higham, Accuracy and Stability of Numerical
/// Algorithms, section 4.3).
#[derive(Default)]
pub(crate) struct BlockedSum {
    done: f32,
    block: f32,
    terms: u32,
}

impl BlockedSum {
    const BLOCK: u32 = 32; // near the square root of usual K

    #[inline(always)]
    pub(crate) fn add(&mut self, term: f32) {
        self.block += term;
        self.terms += 1;
        if self.terms == Self::BLOCK {
            *self = BlockedSum { done: self.done + self.block, block: 0.0, terms: 0 };
        }
    }

    pub(crate) fn total(&self) -> f32 {
        self.done + self.block
    }
}

/// Weight `index` as f32.
#[inline(always)]
pub(crate) fn weight(weights: FloatWeights<'_>, index: usize) -> f32 {
    match weights {
        FloatWeights::F32(w) => w[index],
        FloatWeights::F16(w) => w[index].to_f32(),
    }
}

/// `y` limited to `min..=max`; a NaN stays.
#[inline(always)]
pub(crate) fn clamp(y: f32, min: f32, max: f32) -> f32 {
    let y = if y > max { max } else { y };
    if y < min { min } else { y }
}
