//! The definition of the i8 convolution, depthwise or not, as the formula reads.

use super::{ConvI8, FIRST_OFFSET, padded_channel, pair_offset, weight_offset, weights_start};
use crate::kernels::requantize::requantize_i8;
use crate::kernels::{PAIR_N, Packing};

/// What makes an output channel.
pub(in crate::kernels) struct Filter<'c> {
    /// The weights from the first of this channel on, or of its pair.
    pub(in crate::kernels) weights: &'c [i8],
    pub(in crate::kernels) order: Order,
    /// The channel's place in the vectors along channels.
    pub(in crate::kernels) channel: usize,
}

/// Where weight `i` of a channel, in the order of taps, lies behind the first.
#[derive(Clone, Copy)]
pub(in crate::kernels) enum Order {
    /// In a panel.
    Panel,
    /// In the first channel of a pair.
    PairFirst,
    /// In the second channel of a pair.
    PairSecond,
    /// This far from the one before.
    Step(usize),
}

impl Filter<'_> {
    fn weight(&self, i: usize) -> i8 {
        match self.order {
            Order::Panel => self.weights[weight_offset(i)],
            Order::PairFirst => self.weights[pair_offset(i)].wrapping_sub(FIRST_OFFSET),
            Order::PairSecond => self.weights[pair_offset(i) + 1],
            Order::Step(step) => self.weights[i * step],
        }
    }
}

/// The filter of an output channel of a convolution.
pub(in crate::kernels) type FilterOf = for<'c> fn(&'c ConvI8<'_>, usize) -> Filter<'c>;

pub(super) fn conv_i8_scalar(conv: &mut ConvI8<'_>) {
    conv.check();
    compute(conv, filter);
}

pub(super) fn filter<'c>(conv: &'c ConvI8<'_>, channel: usize) -> Filter<'c> {
    let g = conv.geometry;
    let order = match conv.packing {
        Packing::Panels => Order::Panel,
        Packing::CortexM if (channel % g.group_out_c()).is_multiple_of(PAIR_N) => Order::PairFirst,
        Packing::CortexM => Order::PairSecond,
    };
    Filter {
        weights: &conv.weights[weights_start(g, conv.packing, channel)..],
        order,
        channel: padded_channel(g, conv.packing, channel),
    }
}

/// Computes every output of a convolution that has been checked.
#[inline(never)]
pub(in crate::kernels) fn compute(conv: &mut ConvI8<'_>, filter: FilterOf) {
    let (pixels, channels) = (conv.geometry.out_pixels(), conv.geometry.out_c);
    for pixel in 0..pixels {
        for channel in 0..channels {
            let filter = filter(conv, channel);
            let acc = accumulate(conv, &filter, pixel, channel);
            let padded = filter.channel;
            let y = &mut conv.output[pixel * conv.output_stride + channel];
            let residual = conv.epilogue.residual_at(pixel * channels + channel, *y);
            *y = requantize_i8(acc, padded, residual, &conv.epilogue);
        }
    }
}

/// Bias and products of one output. The convolution has been checked.
#[inline(never)]
pub(in crate::kernels) fn accumulate(
    conv: &ConvI8<'_>,
    filter: &Filter<'_>,
    pixel: usize,
    channel: usize,
) -> i32 {
    let g = conv.geometry;
    let (oh, ow) = (pixel / g.out_w % g.out_h, pixel % g.out_w);
    let image = pixel / (g.out_h * g.out_w);
    let (in_c, first_c) = (g.group_in_c(), channel / g.group_out_c() * g.group_in_c());
    let mut acc = conv.bias[filter.channel];
    for tap in 0..g.kernel_h * g.kernel_w {
        let (kh, kw) = (tap / g.kernel_w, tap % g.kernel_w);
        // Coordinates in the padded input; what lies outside the input is padding.
        let h = (oh * g.stride_h + kh * g.dilation_h).checked_sub(g.pad_top);
        let w = (ow * g.stride_w + kw * g.dilation_w).checked_sub(g.pad_left);
        let inside = match (h, w) {
            (Some(h), Some(w)) if h < g.in_h && w < g.in_w => {
                Some(((image * g.in_h + h) * g.in_w + w) * g.in_c + first_c)
            }
            _ => None,
        };
        for c in 0..in_c {
            let x = inside.map_or(conv.input_zero_point, |start| conv.input[start + c]);
            let weight = filter.weight(tap * in_c + c);
            acc = acc.wrapping_add(i32::from(x) * i32::from(weight));
        }
    }
    acc
}
