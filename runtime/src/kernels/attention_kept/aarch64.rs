//! The kernels with Advanced SIMD.

use super::super::conv_f32::lanes::Neon;
use super::lanes::{self, Load};
use super::{Kept, Pair};

/// `scores` and `mix`. Every AArch64 CPU that this module is built for has them.
pub(super) fn neon<K: Kept<Row: Load>>() -> Pair<K> {
    (
        // SAFETY: the target has Advanced SIMD.
        |args| unsafe { lanes::scores::<Neon, K>(args) },
        // SAFETY: the target has Advanced SIMD.
        |args| unsafe { lanes::mix::<Neon, K>(args) },
    )
}
