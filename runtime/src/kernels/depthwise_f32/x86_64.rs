//! Float depthwise convolution with AVX2 + FMA (8 channels at a time) and AVX-512 (16).

use super::super::conv_f32::lanes::{Avx2, Avx512, Lanes};
use super::rows::depthwise_f32_rows;
use super::{DepthwiseF32, DepthwiseF32Fn};
use crate::Isa;

/// # Safety
///
/// Calling it needs the features.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn with_avx2(args: &mut DepthwiseF32<'_>) {
    // SAFETY: the features are enabled.
    unsafe { depthwise_f32_rows::<Avx2>(args) }
}

/// The AVX2 kernel, if this CPU runs it.
pub(super) fn depthwise_f32_avx2() -> Option<DepthwiseF32Fn> {
    fn kernel(args: &mut DepthwiseF32<'_>) {
        // SAFETY: this function leaves its parent only where AVX2, FMA and F16C are available.
        unsafe { with_avx2(args) }
    }
    Isa::Avx2.is_available().then_some(kernel as DepthwiseF32Fn)
}

/// The AVX-512 kernel, if this CPU runs it.
pub(super) fn depthwise_f32_avx512() -> Option<DepthwiseF32Fn> {
    /// # Safety
    ///
    /// Calling it needs the feature.
    #[target_feature(enable = "avx512f")]
    unsafe fn with_avx512(args: &mut DepthwiseF32<'_>) {
        // SAFETY: the feature is enabled.
        unsafe { depthwise_f32_rows::<Avx512>(args) }
    }
    fn kernel(args: &mut DepthwiseF32<'_>) {
        // SAFETY: this function leaves its parent only where AVX-512 F is available, and with it AVX2, FMA and F16C.
        unsafe {
            // Channels that don't fill a register are slow.
            if args.geometry.in_c < Avx512::LEN { with_avx2(args) } else { with_avx512(args) }
        }
    }
    Isa::Avx512.is_available().then_some(kernel as DepthwiseF32Fn)
}
