//! The kernels with AVX2 + FMA + F16C and with AVX-512.

use super::super::conv_f32::lanes::{Avx2, Avx512};
use super::lanes::{self, Load};
use super::{Kept, Mix, Pair, Scores};
use crate::Isa;

macro_rules! kernels {
    ($features:literal, $Lanes:ty, $isa:expr) => {{
        /// # Safety
        ///
        /// Calling it needs the features.
        #[target_feature(enable = $features)]
        unsafe fn scores_with_features<K: Kept<Row: Load>>(args: &mut Scores<'_, K>) {
            // SAFETY: the features are enabled.
            unsafe { lanes::scores::<$Lanes, K>(args) }
        }
        /// # Safety
        ///
        /// Calling it needs the features.
        #[target_feature(enable = $features)]
        unsafe fn mix_with_features<K: Kept<Row: Load>>(args: &mut Mix<'_, K>) {
            // SAFETY: the features are enabled.
            unsafe { lanes::mix::<$Lanes, K>(args) }
        }
        fn scores<K: Kept<Row: Load>>(args: &mut Scores<'_, K>) {
            // SAFETY: this function leaves its parent only where the instruction set is available.
            unsafe { scores_with_features(args) }
        }
        fn mix<K: Kept<Row: Load>>(args: &mut Mix<'_, K>) {
            // SAFETY: this function leaves its parent only where the instruction set is available.
            unsafe { mix_with_features(args) }
        }
        $isa.is_available().then_some((scores, mix))
    }};
}

/// The AVX2 kernels, if this CPU runs them.
pub(super) fn avx2<K: Kept<Row: Load>>() -> Option<Pair<K>> {
    kernels!("avx2,fma,f16c", Avx2, Isa::Avx2)
}

/// The AVX-512 kernels, if this CPU runs them.
pub(super) fn avx512<K: Kept<Row: Load>>() -> Option<Pair<K>> {
    kernels!("avx512f", Avx512, Isa::Avx512)
}
