//! Float depthwise convolution with AVX2 + FMA (8 channels at a time) and AVX-512 (16).

use super::super::conv_f32::lanes::{Avx2, Avx512};
use super::rows::depthwise_f32_rows;
use super::{DepthwiseF32, DepthwiseF32Fn};
use crate::Isa;

/// The AVX2 kernel, if this CPU runs it.
pub(super) fn depthwise_f32_avx2() -> Option<DepthwiseF32Fn> {
    /// # Safety
    ///
    /// Calling it needs the features.
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn with_features(args: &mut DepthwiseF32<'_>) {
        // SAFETY: the features are enabled.
        unsafe { depthwise_f32_rows::<Avx2>(args) }
    }
    fn kernel(args: &mut DepthwiseF32<'_>) {
        // SAFETY: this function leaves its parent only where AVX2, FMA and F16C are available.
        unsafe { with_features(args) }
    }
    Isa::Avx2.is_available().then_some(kernel as DepthwiseF32Fn)
}

/// The AVX-512 kernel, if this CPU runs it.
pub(super) fn depthwise_f32_avx512() -> Option<DepthwiseF32Fn> {
    /// # Safety
    ///
    /// Calling it needs the feature.
    #[target_feature(enable = "avx512f")]
    unsafe fn with_features(args: &mut DepthwiseF32<'_>) {
        // SAFETY: the feature is enabled.
        unsafe { depthwise_f32_rows::<Avx512>(args) }
    }
    fn kernel(args: &mut DepthwiseF32<'_>) {
        // SAFETY: this function leaves its parent only where AVX-512 F is available.
        unsafe { with_features(args) }
    }
    Isa::Avx512.is_available().then_some(kernel as DepthwiseF32Fn)
}
