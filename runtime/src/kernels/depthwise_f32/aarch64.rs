//! Float depthwise convolution with Advanced SIMD, 8 channels at a time: 9 taps, 4 pixels and their inputs fill the registers.

use super::super::conv_f32::lanes::{Neon, Pair};
use super::DepthwiseF32;
use super::rows::depthwise_f32_rows;

pub(super) fn depthwise_f32_neon(args: &mut DepthwiseF32<'_>) {
    // SAFETY: targets that this module is built for have Advanced SIMD.
    unsafe { depthwise_f32_rows::<Pair<Neon>>(args) }
}
