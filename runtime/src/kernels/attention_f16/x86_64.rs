//! The kernels with AVX2 + FMA + F16C and with AVX-512.

use super::super::conv_f32::lanes::{Avx2, Avx512};
use super::{AttentionF16, Mix, Scores, lanes};
use crate::Isa;

macro_rules! kernels {
    ($features:literal, $Lanes:ty, $isa:expr) => {{
        /// # Safety
        ///
        /// Calling it needs the features.
        #[target_feature(enable = $features)]
        unsafe fn scores_with_features(args: &mut Scores<'_>) {
            // SAFETY: the features are enabled.
            unsafe { lanes::scores::<$Lanes>(args) }
        }
        /// # Safety
        ///
        /// Calling it needs the features.
        #[target_feature(enable = $features)]
        unsafe fn mix_with_features(args: &mut Mix<'_>) {
            // SAFETY: the features are enabled.
            unsafe { lanes::mix::<$Lanes>(args) }
        }
        fn scores(args: &mut Scores<'_>) {
            // SAFETY: this function leaves its parent only where the instruction set is available.
            unsafe { scores_with_features(args) }
        }
        fn mix(args: &mut Mix<'_>) {
            // SAFETY: this function leaves its parent only where the instruction set is available.
            unsafe { mix_with_features(args) }
        }
        $isa.is_available().then_some(AttentionF16 { scores, mix })
    }};
}

/// The AVX2 kernels, if this CPU runs them.
pub(super) fn avx2() -> Option<AttentionF16> {
    kernels!("avx2,fma,f16c", Avx2, Isa::Avx2)
}

/// The AVX-512 kernels, if this CPU runs them.
pub(super) fn avx512() -> Option<AttentionF16> {
    kernels!("avx512f", Avx512, Isa::Avx512)
}
