//! The register of Advanced SIMD, 128 bits, of which there are 32.

use super::{Lanes, f16, upper_mask, upper_shifts};
use core::arch::aarch64::*;

/// Four lanes. Every AArch64 target that this module is built for has Advanced SIMD.
#[derive(Clone, Copy)]
pub(crate) struct Neon(pub(crate) float32x4_t);

#[cfg(feature = "std")]
impl Neon {
    /// Integers as floats.
    ///
    /// # Safety
    ///
    /// The CPU has Advanced SIMD.
    #[inline(always)]
    pub(crate) unsafe fn from_i32(integers: int32x4_t) -> Neon {
        // SAFETY: the target has Advanced SIMD.
        Neon(unsafe { vcvtq_f32_s32(integers) })
    }
}

/// Does nothing: fetching ahead is measured on x86-64 only.
#[cfg(feature = "std")]
#[inline(always)]
pub(crate) fn fetch_ahead(_weights: *const u8) {}

impl Lanes for Neon {
    const LEN: usize = 4;

    const INPUTS: usize = 4;

    type Inputs = float32x4_t;

    type Words = uint32x4_t;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the target has Advanced SIMD.
        Neon(unsafe { vdupq_n_f32(0.0) })
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the target has Advanced SIMD.
        Neon(unsafe { vdupq_n_f32(x) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller promises 4 elements.
        Neon(unsafe { vld1q_f32(from) })
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: the caller promises 4 elements of 2 bytes. FCVTL is in the first version of Armv8.
        Neon(unsafe { vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from.cast()))) })
    }

    #[inline(always)]
    unsafe fn splat_f16(from: *const f16) -> Self {
        // SAFETY: the caller promises an element of 2 bytes.
        Neon(unsafe { vcvt_f32_f16(vreinterpret_f16_u16(vld1_dup_u16(from.cast()))) })
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: the caller promises 4 elements, which are read as one word of any alignment.
        Neon(unsafe {
            let bytes = vcreate_s8(u64::from(from.cast::<u32>().read_unaligned()));
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))))
        })
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, n: usize) -> Self {
        debug_assert!(n < 4);
        // SAFETY: the caller promises n elements; a load of a lane reads one.
        Neon(unsafe {
            let mut x = vdupq_n_f32(0.0);
            if n >= 2 {
                x = vcombine_f32(vld1_f32(from), vdup_n_f32(0.0));
            }
            match n {
                1 => x = vld1q_lane_f32::<0>(from, x),
                3 => x = vld1q_lane_f32::<2>(from.add(2), x),
                _ => {}
            }
            x
        })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises 4 elements.
        unsafe { vst1q_f32(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, n: usize) {
        debug_assert!(n < 4);
        // SAFETY: the caller promises n elements, and the arms write that many.
        unsafe {
            if n >= 2 {
                vst1_f32(to, vget_low_f32(self.0));
            }
            match n {
                1 => vst1q_lane_f32::<0>(to, self.0),
                3 => vst1q_lane_f32::<2>(to.add(2), self.0),
                _ => {}
            }
        }
    }

    #[inline(always)]
    unsafe fn add(self, x: Self) -> Self {
        // SAFETY: the target has Advanced SIMD.
        Neon(unsafe { vaddq_f32(self.0, x.0) })
    }

    #[inline(always)]
    unsafe fn mul(self, x: Self) -> Self {
        // SAFETY: the target has Advanced SIMD.
        Neon(unsafe { vmulq_f32(self.0, x.0) })
    }

    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: the target has Advanced SIMD.
        Neon(unsafe { vfmaq_f32(self.0, a.0, b.0) })
    }

    #[inline(always)]
    unsafe fn load_inputs(from: *const f32) -> float32x4_t {
        // SAFETY: the caller promises 4 elements.
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn fma_input(self, inputs: float32x4_t, j: usize, b: Self) -> Self {
        // SAFETY: the target has Advanced SIMD.
        Neon(unsafe {
            match j {
                0 => vfmaq_laneq_f32::<0>(self.0, b.0, inputs),
                1 => vfmaq_laneq_f32::<1>(self.0, b.0, inputs),
                2 => vfmaq_laneq_f32::<2>(self.0, b.0, inputs),
                _ => vfmaq_laneq_f32::<3>(self.0, b.0, inputs),
            }
        })
    }

    // FMIN and FMAX give a NaN for a NaN; FMINNM and FMAXNM would give the bound.
    #[inline(always)]
    unsafe fn clamp(self, min: Self, max: Self) -> Self {
        // SAFETY: the target has Advanced SIMD.
        Neon(unsafe { vmaxq_f32(min.0, vminq_f32(max.0, self.0)) })
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the target has Advanced SIMD.
        unsafe { vaddvq_f32(self.0) }
    }

    #[inline(always)]
    unsafe fn load_words(from: *const u8) -> uint32x4_t {
        // SAFETY: the caller promises 4 words.
        unsafe { vreinterpretq_u32_u8(vld1q_u8(from)) }
    }

    // The byte goes where its sign is the word's, above zeros; SCVTF divides by 2²⁴ at no cost.
    #[inline(always)]
    unsafe fn bytes(words: uint32x4_t, j: usize) -> Self {
        // SAFETY: the target has Advanced SIMD.
        Neon(unsafe { vcvtq_n_f32_s32::<24>(to_the_top(words, j)) })
    }

    // n - 8 of four bits is n with its highest bit turned over, as two's complement.
    #[inline(always)]
    unsafe fn nibbles(words: uint32x4_t, j: usize) -> Self {
        // SAFETY: the target has Advanced SIMD.
        Neon(unsafe {
            let words = veorq_u32(words, vdupq_n_u32(0x8888_8888));
            let high = if j.is_multiple_of(2) { vshlq_n_u32::<4>(words) } else { words };
            let high = vandq_u32(high, vdupq_n_u32(0xF0F0_F0F0));
            vcvtq_n_f32_s32::<28>(to_the_top(high, j / 2))
        })
    }

    // A bf16 is the upper half of an f32.
    #[inline(always)]
    unsafe fn bf16s(words: uint32x4_t, j: usize) -> Self {
        // SAFETY: the target has Advanced SIMD.
        Neon(unsafe {
            vreinterpretq_f32_u32(match j {
                0 => vshlq_n_u32::<16>(words),
                _ => vandq_u32(words, vdupq_n_u32(0xFFFF_0000)),
            })
        })
    }

    #[inline(always)]
    unsafe fn round_bf16(self) -> Self {
        // SAFETY: the target has Advanced SIMD.
        Neon(unsafe {
            let bits = vreinterpretq_u32_f32(self.0);
            let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
            let up = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7FFF)));
            let rounded = vandq_u32(up, vdupq_n_u32(0xFFFF_0000));
            let is_number = vceqq_f32(self.0, self.0);
            vbslq_f32(is_number, vreinterpretq_f32_u32(rounded), vdupq_n_f32(f32::NAN))
        })
    }

    #[inline(always)]
    unsafe fn fma_pairs(self, a: Self, b: Self) -> Self {
        // SAFETY: the contract is the same.
        unsafe {
            let (a, b) = (vreinterpretq_u32_f32(a.0), vreinterpretq_u32_f32(b.0));
            let low = self.fma(Self::bf16s(a, 0), Self::bf16s(b, 0));
            low.fma(Self::bf16s(a, 1), Self::bf16s(b, 1))
        }
    }

    #[inline(always)]
    unsafe fn join(
        words: uint32x4_t,
        upper: uint32x4_t,
        bits: usize,
        part: usize,
        surplus: u8,
    ) -> [uint32x4_t; 2] {
        // SAFETY: the target has Advanced SIMD.
        unsafe {
            let mask = vdupq_n_u8(upper_mask(bits) as u8);
            let quad = |nibbles, left: i32| {
                let upper = vreinterpretq_u8_u32(vshlq_u32(upper, vdupq_n_s32(left)));
                let joined = vorrq_u8(nibbles, vandq_u8(upper, mask));
                vreinterpretq_u32_u8(vsubq_u8(joined, vdupq_n_u8(surplus)))
            };
            let ([first, second], words) = (upper_shifts(bits, part), vreinterpretq_u8_u32(words));
            let low = vandq_u8(words, vdupq_n_u8(15));
            [quad(low, first), quad(vshrq_n_u8::<4>(words), second)]
        }
    }

    #[inline(always)]
    unsafe fn look_up(words: uint32x4_t, table: &[u8; 16]) -> [uint32x4_t; 2] {
        // SAFETY: the target has Advanced SIMD, and the table has 16 bytes.
        unsafe {
            let (table, words) = (vld1q_u8(table.as_ptr()), vreinterpretq_u8_u32(words));
            let entries = |index| vreinterpretq_u32_u8(vqtbl1q_u8(table, index));
            [entries(vandq_u8(words, vdupq_n_u8(15))), entries(vshrq_n_u8::<4>(words))]
        }
    }
}

/// Byte `j`, below 4, of each word, above three bytes of zeros.
#[inline(always)]
unsafe fn to_the_top(words: uint32x4_t, j: usize) -> int32x4_t {
    /// Which bytes [`vqtbl1q_u8`] takes: 0 for an index that there isn't.
    const fn index(j: u8) -> [u8; 16] {
        let mut index = [255; 16];
        let mut word = 0;
        while word < 4 {
            index[4 * word + 3] = 4 * word as u8 + j;
            word += 1;
        }
        index
    }
    const INDEX: [[u8; 16]; 4] = [index(0), index(1), index(2), index(3)];
    // SAFETY: the target has Advanced SIMD, and the table has 16 bytes.
    unsafe {
        let index = vld1q_u8(INDEX[j % 4].as_ptr());
        vreinterpretq_s32_u8(vqtbl1q_u8(vreinterpretq_u8_u32(words), index))
    }
}
