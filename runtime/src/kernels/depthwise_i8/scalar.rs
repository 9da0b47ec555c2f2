//! The definition of the i8 depthwise convolution: that of a convolution, over filters of its own.

use super::{DepthwiseI8, padded_c};
use crate::kernels::Packing;
use crate::kernels::conv_i8::{Filter, Order, compute};

pub(super) fn depthwise_i8_scalar(conv: &mut DepthwiseI8<'_>) {
    super::check(conv, |_| 0);
    compute(conv, filter);
}

pub(super) fn filter<'c>(conv: &'c DepthwiseI8<'_>, channel: usize) -> Filter<'c> {
    let g = conv.geometry;
    let (start, step) = match conv.packing {
        Packing::Panels => (channel, padded_c(g.in_c)),
        Packing::CortexM => (channel * g.kernel_h * g.kernel_w, 1),
    };
    Filter { weights: &conv.weights[start..], order: Order::Step(step), channel }
}
