//! The kernels with Advanced SIMD.

use super::super::conv_f32::lanes::Neon;
use super::{AttentionF16, lanes};

/// Every AArch64 CPU that this module is built for has them.
pub(super) fn neon() -> AttentionF16 {
    AttentionF16 {
        // SAFETY: the target has Advanced SIMD.
        scores: |args| unsafe { lanes::scores::<Neon>(args) },
        // SAFETY: the target has Advanced SIMD.
        mix: |args| unsafe { lanes::mix::<Neon>(args) },
    }
}
