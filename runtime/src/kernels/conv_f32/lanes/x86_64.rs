//! The registers of AVX2 and AVX-512.

use super::{Lanes, f16, upper_mask, upper_shifts};
use core::arch::x86_64::*;
use core::mem::transmute;

/// Eight lanes; needs AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256);

impl Avx2 {
    /// Integers as floats.
    ///
    /// # Safety
    ///
    /// The CPU has AVX2.
    #[inline(always)]
    pub(crate) unsafe fn from_i32(integers: __m256i) -> Avx2 {
        // SAFETY: the caller has AVX2.
        Avx2(unsafe { _mm256_cvtepi32_ps(integers) })
    }
}

/// `MASKS[8 - n..]` starts with n set lanes.
static MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

impl Lanes for Avx2 {
    const LEN: usize = 8;

    const INPUTS: usize = 1;

    type Inputs = Self;

    type Words = __m256i;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller has AVX2.
        Avx2(unsafe { _mm256_setzero_ps() })
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller has AVX2.
        Avx2(unsafe { _mm256_set1_ps(x) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller has AVX2 and promises 8 elements.
        Avx2(unsafe { _mm256_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: the caller has F16C and promises 8 elements of 2 bytes, one __m128i.
        Avx2(unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) })
    }

    #[inline(always)]
    unsafe fn splat_f16(from: *const f16) -> Self {
        // SAFETY: the caller has F16C and promises an element of 2 bytes.
        Avx2(unsafe { _mm256_cvtph_ps(_mm_set1_epi16(*from.cast::<i16>())) })
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: the caller has AVX2 and promises 8 elements.
        Avx2(unsafe {
            let bytes = _mm_loadl_epi64(from.cast());
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))
        })
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, n: usize) -> Self {
        debug_assert!(n < 8);
        // SAFETY: n < 8, so the mask is read inside MASKS; masked-off lanes aren't accessed.
        Avx2(unsafe {
            let mask = _mm256_loadu_si256(MASKS.as_ptr().add(8 - n).cast());
            _mm256_maskload_ps(from, mask)
        })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller has AVX2 and promises 8 elements.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    // Pieces of 4, 2 and 1: a masked store is microcoded on AMD before Zen 4.
    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, n: usize) {
        debug_assert!(n < 8);
        // SAFETY: the pieces are the binary digits of n, so they cover to..to + n exactly.
        unsafe {
            let mut to = to;
            let mut rest = _mm256_castps256_ps128(self.0);
            if n & 4 != 0 {
                _mm_storeu_ps(to, rest);
                to = to.add(4);
                rest = _mm256_extractf128_ps::<1>(self.0);
            }
            if n & 2 != 0 {
                _mm_storel_epi64(to.cast(), _mm_castps_si128(rest));
                to = to.add(2);
                rest = _mm_movehl_ps(rest, rest);
            }
            if n & 1 != 0 {
                _mm_store_ss(to, rest);
            }
        }
    }

    #[inline(always)]
    unsafe fn add(self, x: Self) -> Self {
        // SAFETY: the caller has AVX2.
        Avx2(unsafe { _mm256_add_ps(self.0, x.0) })
    }

    #[inline(always)]
    unsafe fn mul(self, x: Self) -> Self {
        // SAFETY: the caller has AVX2.
        Avx2(unsafe { _mm256_mul_ps(self.0, x.0) })
    }

    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller has FMA.
        Avx2(unsafe { _mm256_fmadd_ps(a.0, b.0, self.0) })
    }

    #[inline(always)]
    unsafe fn load_inputs(from: *const f32) -> Self {
        // SAFETY: the caller has AVX2 and promises an element.
        unsafe { Self::splat(*from) }
    }

    #[inline(always)]
    unsafe fn fma_input(self, inputs: Self, _: usize, b: Self) -> Self {
        // SAFETY: the caller has FMA.
        unsafe { self.fma(inputs, b) }
    }

    // minps and maxps return their second operand when either is NaN.
    #[inline(always)]
    unsafe fn clamp(self, min: Self, max: Self) -> Self {
        // SAFETY: the caller has AVX2.
        Avx2(unsafe { _mm256_max_ps(min.0, _mm256_min_ps(max.0, self.0)) })
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the caller has AVX2.
        unsafe {
            let x = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
        }
    }

    #[inline(always)]
    unsafe fn load_words(from: *const u8) -> __m256i {
        // SAFETY: the caller has AVX2 and promises 8 words.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    // Up to the sign, then down: the field's sign fills the word.
    #[inline(always)]
    unsafe fn bytes(words: __m256i, j: usize) -> Self {
        // SAFETY: the caller has AVX2.
        Avx2(unsafe {
            _mm256_cvtepi32_ps(_mm256_srai_epi32::<24>(match j {
                0 => _mm256_slli_epi32::<24>(words),
                1 => _mm256_slli_epi32::<16>(words),
                2 => _mm256_slli_epi32::<8>(words),
                _ => words,
            }))
        })
    }

    // n - 8 of four bits is n with its highest bit turned over, as two's complement.
    #[inline(always)]
    unsafe fn nibbles(words: __m256i, j: usize) -> Self {
        // SAFETY: the caller has AVX2.
        Avx2(unsafe {
            let words = _mm256_xor_si256(words, _mm256_set1_epi32(0x8888_8888_u32 as i32));
            _mm256_cvtepi32_ps(_mm256_srai_epi32::<28>(match j {
                0 => _mm256_slli_epi32::<28>(words),
                1 => _mm256_slli_epi32::<24>(words),
                2 => _mm256_slli_epi32::<20>(words),
                3 => _mm256_slli_epi32::<16>(words),
                4 => _mm256_slli_epi32::<12>(words),
                5 => _mm256_slli_epi32::<8>(words),
                6 => _mm256_slli_epi32::<4>(words),
                _ => words,
            }))
        })
    }

    // A bf16 is the upper half of an f32.
    #[inline(always)]
    unsafe fn bf16s(words: __m256i, j: usize) -> Self {
        // SAFETY: the caller has AVX2.
        Avx2(unsafe {
            _mm256_castsi256_ps(match j {
                0 => _mm256_slli_epi32::<16>(words),
                _ => _mm256_and_si256(words, _mm256_set1_epi32(0xFFFF_0000_u32 as i32)),
            })
        })
    }

    #[inline(always)]
    unsafe fn round_bf16(self) -> Self {
        // SAFETY: the caller has AVX2.
        Avx2(unsafe {
            let bits = _mm256_castps_si256(self.0);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
            let rounded = _mm256_and_si256(up, _mm256_set1_epi32(0xFFFF_0000_u32 as i32));
            let is_nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0);
            _mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_set1_ps(f32::NAN), is_nan)
        })
    }

    #[inline(always)]
    unsafe fn fma_pairs(self, a: Self, b: Self) -> Self {
        // SAFETY: the contract is the same.
        unsafe {
            let (a, b) = (_mm256_castps_si256(a.0), _mm256_castps_si256(b.0));
            let low = self.fma(Self::bf16s(a, 0), Self::bf16s(b, 0));
            low.fma(Self::bf16s(a, 1), Self::bf16s(b, 1))
        }
    }

    #[inline(always)]
    unsafe fn join(
        words: __m256i,
        upper: __m256i,
        bits: usize,
        part: usize,
        surplus: u8,
    ) -> [__m256i; 2] {
        // SAFETY: the caller has AVX2.
        unsafe {
            let (low, mask) = (_mm256_set1_epi8(15), _mm256_set1_epi8(upper_mask(bits)));
            let surplus = _mm256_set1_epi8(surplus as i8);
            let quad = |nibbles, left: i32| {
                let by = _mm_cvtsi32_si128(left.abs());
                let upper = match left < 0 {
                    true => _mm256_srl_epi32(upper, by),
                    false => _mm256_sll_epi32(upper, by),
                };
                let nibbles = _mm256_and_si256(nibbles, low);
                let joined = _mm256_or_si256(nibbles, _mm256_and_si256(upper, mask));
                _mm256_sub_epi8(joined, surplus)
            };
            let [first, second] = upper_shifts(bits, part);
            [quad(words, first), quad(_mm256_srli_epi16::<4>(words), second)]
        }
    }

    #[inline(always)]
    unsafe fn look_up(words: __m256i, table: &[u8; 16]) -> [__m256i; 2] {
        // SAFETY: the caller has AVX2, and the table has 16 bytes.
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            let low = _mm256_set1_epi8(15);
            let entries = |index| _mm256_shuffle_epi8(table, _mm256_and_si256(index, low));
            [entries(words), entries(_mm256_srli_epi16::<4>(words))]
        }
    }
}

/// Sixteen lanes; needs AVX-512 F, and BW for words with upper bits or of indices.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(__m512);

impl Avx512 {
    /// Integers as floats.
    ///
    /// # Safety
    ///
    /// The CPU has AVX-512 F.
    #[inline(always)]
    pub(crate) unsafe fn from_i32(integers: __m512i) -> Avx512 {
        // SAFETY: the caller has AVX-512 F.
        Avx512(unsafe { _mm512_cvtepi32_ps(integers) })
    }
}

impl Lanes for Avx512 {
    const LEN: usize = 16;

    const INPUTS: usize = 1;

    type Inputs = Self;

    type Words = __m512i;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller has AVX-512 F.
        Avx512(unsafe { _mm512_setzero_ps() })
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller has AVX-512 F.
        Avx512(unsafe { _mm512_set1_ps(x) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller has AVX-512 F and promises 16 elements.
        Avx512(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: the caller has AVX-512 F and promises 16 elements of 2 bytes, one __m256i.
        Avx512(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
    }

    #[inline(always)]
    unsafe fn splat_f16(from: *const f16) -> Self {
        // SAFETY: the caller has AVX-512 F and promises an element of 2 bytes.
        Avx512(unsafe { _mm512_cvtph_ps(_mm256_set1_epi16(*from.cast::<i16>())) })
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: the caller has AVX-512 F and promises 16 elements.
        Avx512(unsafe {
            let bytes = _mm_loadu_si128(from.cast());
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
        })
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, n: usize) -> Self {
        debug_assert!(n < 16);
        // SAFETY: the mask has the first n lanes; masked-off lanes aren't accessed.
        Avx512(unsafe { _mm512_maskz_loadu_ps((1u16 << n) - 1, from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller has AVX-512 F and promises 16 elements.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, n: usize) {
        debug_assert!(n < 16);
        // SAFETY: the mask has the first n lanes; masked-off lanes aren't accessed.
        unsafe { _mm512_mask_storeu_ps(to, (1u16 << n) - 1, self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, x: Self) -> Self {
        // SAFETY: the caller has AVX-512 F.
        Avx512(unsafe { _mm512_add_ps(self.0, x.0) })
    }

    #[inline(always)]
    unsafe fn mul(self, x: Self) -> Self {
        // SAFETY: the caller has AVX-512 F.
        Avx512(unsafe { _mm512_mul_ps(self.0, x.0) })
    }

    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller has AVX-512 F.
        Avx512(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
    }

    #[inline(always)]
    unsafe fn load_inputs(from: *const f32) -> Self {
        // SAFETY: the caller has AVX-512 F and promises an element.
        unsafe { Self::splat(*from) }
    }

    #[inline(always)]
    unsafe fn fma_input(self, inputs: Self, _: usize, b: Self) -> Self {
        // SAFETY: the caller has AVX-512 F.
        unsafe { self.fma(inputs, b) }
    }

    // minps and maxps return their second operand when either is NaN.
    #[inline(always)]
    unsafe fn clamp(self, min: Self, max: Self) -> Self {
        // SAFETY: the caller has AVX-512 F.
        Avx512(unsafe { _mm512_max_ps(min.0, _mm512_min_ps(max.0, self.0)) })
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the caller has AVX-512 F.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }

    #[inline(always)]
    unsafe fn load_words(from: *const u8) -> __m512i {
        // SAFETY: the caller has AVX-512 F and promises 16 words.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn bytes(words: __m512i, j: usize) -> Self {
        // SAFETY: the caller has AVX-512 F.
        Avx512(unsafe {
            _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(match j {
                0 => _mm512_slli_epi32::<24>(words),
                1 => _mm512_slli_epi32::<16>(words),
                2 => _mm512_slli_epi32::<8>(words),
                _ => words,
            }))
        })
    }

    // A table of all sixteen: the permutation looks at the lowest four bits of a word only.
    #[inline(always)]
    unsafe fn nibbles(words: __m512i, j: usize) -> Self {
        // SAFETY: the caller has AVX-512 F.
        Avx512(unsafe {
            let reals = _mm512_setr_ps(
                -8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0,
                7.0,
            );
            let index = match j {
                0 => words,
                1 => _mm512_srli_epi32::<4>(words),
                2 => _mm512_srli_epi32::<8>(words),
                3 => _mm512_srli_epi32::<12>(words),
                4 => _mm512_srli_epi32::<16>(words),
                5 => _mm512_srli_epi32::<20>(words),
                6 => _mm512_srli_epi32::<24>(words),
                _ => _mm512_srli_epi32::<28>(words),
            };
            _mm512_permutexvar_ps(index, reals)
        })
    }

    // A bf16 is the upper half of an f32.
    #[inline(always)]
    unsafe fn bf16s(words: __m512i, j: usize) -> Self {
        // SAFETY: the caller has AVX-512 F.
        Avx512(unsafe {
            _mm512_castsi512_ps(match j {
                0 => _mm512_slli_epi32::<16>(words),
                _ => _mm512_and_si512(words, _mm512_set1_epi32(0xFFFF_0000_u32 as i32)),
            })
        })
    }

    #[inline(always)]
    unsafe fn round_bf16(self) -> Self {
        // SAFETY: the caller has AVX-512 F.
        Avx512(unsafe {
            let bits = _mm512_castps_si512(self.0);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
            let rounded = _mm512_and_si512(up, _mm512_set1_epi32(0xFFFF_0000_u32 as i32));
            let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
            _mm512_mask_blend_ps(is_nan, _mm512_castsi512_ps(rounded), _mm512_set1_ps(f32::NAN))
        })
    }

    #[inline(always)]
    unsafe fn fma_pairs(self, a: Self, b: Self) -> Self {
        // SAFETY: the contract is the same.
        unsafe {
            let (a, b) = (_mm512_castps_si512(a.0), _mm512_castps_si512(b.0));
            let low = self.fma(Self::bf16s(a, 0), Self::bf16s(b, 0));
            low.fma(Self::bf16s(a, 1), Self::bf16s(b, 1))
        }
    }

    #[inline(always)]
    unsafe fn dot_pairs(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller has AVX-512 BF16. All three registers are 64 bytes, which any bits are valid for.
        Avx512(unsafe {
            let bf16s = |x: Self| transmute::<__m512, __m512bh>(x.0);
            _mm512_dpbf16_ps(self.0, bf16s(a), bf16s(b))
        })
    }

    #[inline(always)]
    unsafe fn join(
        words: __m512i,
        upper: __m512i,
        bits: usize,
        part: usize,
        surplus: u8,
    ) -> [__m512i; 2] {
        // SAFETY: the caller has AVX-512 BW.
        unsafe {
            let (low, mask) = (_mm512_set1_epi8(15), _mm512_set1_epi8(upper_mask(bits)));
            let surplus = _mm512_set1_epi8(surplus as i8);
            let quad = |nibbles, left: i32| {
                let by = _mm_cvtsi32_si128(left.abs());
                let upper = match left < 0 {
                    true => _mm512_srl_epi32(upper, by),
                    false => _mm512_sll_epi32(upper, by),
                };
                let nibbles = _mm512_and_si512(nibbles, low);
                let joined = _mm512_or_si512(nibbles, _mm512_and_si512(upper, mask));
                _mm512_sub_epi8(joined, surplus)
            };
            let [first, second] = upper_shifts(bits, part);
            [quad(words, first), quad(_mm512_srli_epi16::<4>(words), second)]
        }
    }

    #[inline(always)]
    unsafe fn look_up(words: __m512i, table: &[u8; 16]) -> [__m512i; 2] {
        // SAFETY: the caller has AVX-512 BW, and the table has 16 bytes.
        unsafe {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            let low = _mm512_set1_epi8(15);
            let entries = |index| _mm512_shuffle_epi8(table, _mm512_and_si512(index, low));
            [entries(words), entries(_mm512_srli_epi16::<4>(words))]
        }
    }
}

/// How far ahead weights are fetched, from memory that a decoder's weights come out of: pages are too short for the machine to
/// find out by itself. Found by trying powers of two.
const AHEAD_BYTES: usize = 8192;

/// Asks for what lies further on than the weights at an address, whatever is there.
#[inline(always)]
pub(crate) fn fetch_ahead(weights: *const u8) {
    // SAFETY: every x86-64 CPU has the instruction (SSE), and it takes any address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(weights.wrapping_add(AHEAD_BYTES).cast()) }
}
