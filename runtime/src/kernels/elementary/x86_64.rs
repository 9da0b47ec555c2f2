//! The same code with registers of 256 bits.

use super::{ElementaryFn, ExponentialsFn, Function, scalar};
use crate::Isa;

/// The AVX2 entry, if this CPU runs it.
pub(super) fn elementary_avx2() -> Option<ElementaryFn> {
    #[target_feature(enable = "avx2")]
    fn with_features(function: Function, values: &mut [f32]) {
        scalar::apply(function, values);
    }
    fn kernel(function: Function, values: &mut [f32]) {
        // SAFETY: this function leaves its parent only where AVX2 is available.
        unsafe { with_features(function, values) }
    }
    Isa::Avx2.is_available().then_some(kernel as ElementaryFn)
}

/// The AVX2 entry, if this CPU runs it.
pub(super) fn exponentials_avx2() -> Option<ExponentialsFn> {
    #[target_feature(enable = "avx2")]
    fn with_features(values: &mut [f32]) -> (f32, f32) {
        scalar::exponentials(values)
    }
    fn kernel(values: &mut [f32]) -> (f32, f32) {
        // SAFETY: this function leaves its parent only where AVX2 is available.
        unsafe { with_features(values) }
    }
    Isa::Avx2.is_available().then_some(kernel as ExponentialsFn)
}
