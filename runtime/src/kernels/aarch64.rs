//! Instructions of AArch64: those that `core::arch` has no stable functions for yet, and sequences that the compiler makes longer.

use core::arch::aarch64::*;
use core::arch::asm;

/// Adds to the sums of the low and of the high half the products of two registers each, in i16 until neighbours are
/// added: `a[0] * b[0] + a[1] * b[1]` must fit.
///
/// In assembly because of a repeated quad in `b` the compiler keeps one half, and moves halves of `a` instead.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn add_two_products(
    sums: [int32x4_t; 2],
    a: [int8x16_t; 2],
    b: [int8x16_t; 2],
) -> [int32x4_t; 2] {
    let [mut low, mut high] = sums;
    // SAFETY: only the sums and registers declared here change.
    unsafe {
        asm!(
            "smull {t:v}.8h, {a0:v}.8b, {b0:v}.8b",
            "smull2 {u:v}.8h, {a0:v}.16b, {b0:v}.16b",
            "smlal {t:v}.8h, {a1:v}.8b, {b1:v}.8b",
            "smlal2 {u:v}.8h, {a1:v}.16b, {b1:v}.16b",
            "sadalp {low:v}.4s, {t:v}.8h",
            "sadalp {high:v}.4s, {u:v}.8h",
            low = inout(vreg) low, high = inout(vreg) high,
            a0 = in(vreg) a[0], a1 = in(vreg) a[1], b0 = in(vreg) b[0], b1 = in(vreg) b[1],
            t = out(vreg) _, u = out(vreg) _,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    [low, high]
}

/// `sdot`: adds to each lane of `acc` the sum of four products: its quad of `a` by quad `LANE` of `b`.
#[cfg(feature = "std")]
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
#[cfg(feature = "std")]
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
#[cfg(feature = "std")]
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
