//! The instructions of AArch64 that `core::arch` has no stable functions for yet.

use core::arch::aarch64::*;
use core::arch::asm;

/// `sdot`: adds to each lane of `acc` the sum of four products: its quad of `a` by quad `LANE` of `b`.
#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) fn sdot_lane<const LANE: u8>(acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    let mut sum = acc;
    // SAFETY: this function has the feature; only `sum` changes.
    unsafe {
        asm!(
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{3}]",
            inout(vreg) sum, in(vreg) a, in(vreg) b, const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// `sdot`: adds to each lane of `acc` the sum of four products, of its quads of `a` and `b`.
#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) fn sdot(acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    let mut sum = acc;
    // SAFETY: this function has the feature; only `sum` changes.
    unsafe {
        asm!(
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) sum, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// `smmla`: adds to `acc`, a 2 × 2 matrix, the product of two rows of eight, `a`, by two columns of eight, `b`.
#[target_feature(enable = "neon,i8mm")]
#[inline]
pub(super) fn smmla(acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    let mut sum = acc;
    // SAFETY: this function has the feature; only `sum` changes.
    unsafe {
        asm!(
            "smmla {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) sum, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}
