//! A table of 256 i8 in four registers of AVX-512, or in sixteen look-ups of AVX2.

use core::arch::x86_64::*;

use super::{LEN, LutI8Fn, lut_i8_scalar};
use crate::Isa;

/// The kernel, if this CPU runs it: VBMI is not among what [`Isa::Avx512`] asks for.
pub(super) fn lut_i8_avx512vbmi() -> Option<LutI8Fn> {
    fn kernel(table: &[i8; LEN], values: &mut [i8]) {
        // SAFETY: this function leaves its parent only where the features are available.
        unsafe { lut(table, values) }
    }
    let has = Isa::Avx512.is_available() && std::arch::is_x86_feature_detected!("avx512vbmi");
    has.then_some(kernel as LutI8Fn)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn lut(table: &[i8; LEN], values: &mut [i8]) {
    let [a, b, c, d] = [0, 64, 128, 192].map(|at| {
        // SAFETY: 64 of the table's 256 bytes from `at` on.
        unsafe { _mm512_loadu_si512(table[at..at + 64].as_ptr().cast()) }
    });
    let look_up = |x: __m512i| {
        // The table begins with negative numbers. Seven bits of a number choose among 128 entries: −128 is the first of
        // the front half, 0 that of the rear.
        let negative = _mm512_permutex2var_epi8(a, x, b);
        let positive = _mm512_permutex2var_epi8(c, x, d);
        _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), positive, negative)
    };
    let (chunks, rest) = values.as_chunks_mut::<64>();
    for chunk in chunks {
        // SAFETY: 64 bytes.
        unsafe {
            let x = _mm512_loadu_si512(chunk.as_ptr().cast());
            _mm512_storeu_si512(chunk.as_mut_ptr().cast(), look_up(x));
        }
    }
    let mask = (1u64 << rest.len()) - 1;
    // SAFETY: the mask leaves out what is behind the rest, which has less than 64 bytes.
    unsafe {
        let x = _mm512_maskz_loadu_epi8(mask, rest.as_ptr());
        _mm512_mask_storeu_epi8(rest.as_mut_ptr(), mask, look_up(x));
    }
}

/// Only for CPUs with AVX2: `select` hands it out after asking.
pub(super) fn lut_i8_avx2(table: &[i8; LEN], values: &mut [i8]) {
    if values.len() < LONG {
        return lut_i8_scalar(table, values);
    }
    // SAFETY: `select` gives this function out only if `Isa::Avx2.is_available()`.
    unsafe { lut_avx2(table, values) }
}

/// Fewer numbers aren't worth the preparation.
const LONG: usize = 64;

/// Entries of a register that `pshufb` chooses from.
const ENTRIES: usize = 16;

/// `pshufb` gives 0 where an index is negative. Of half a table, register `i` holds its entries xor those of the
/// register before it; with 16 subtracted from the index for each, those up to the right one cancel but for its own.
#[target_feature(enable = "avx2")]
fn lut_avx2(table: &[i8; LEN], values: &mut [i8]) {
    let mut differences = [_mm256_setzero_si256(); LEN / ENTRIES];
    let mut before = _mm256_setzero_si256();
    for (i, entries) in table.as_chunks::<ENTRIES>().0.iter().enumerate() {
        if i == LEN / ENTRIES / 2 {
            before = _mm256_setzero_si256();
        }
        // SAFETY: sixteen bytes.
        let entries = unsafe { _mm_loadu_si128(entries.as_ptr().cast()) };
        let entries = _mm256_broadcastsi128_si256(entries);
        differences[i] = _mm256_xor_si256(entries, before);
        before = entries;
    }
    let step = _mm256_set1_epi8(ENTRIES as i8);
    let (chunks, rest) = values.as_chunks_mut::<32>();
    for chunk in chunks {
        // SAFETY: 32 bytes.
        let x = unsafe { _mm256_loadu_si256(chunk.as_ptr().cast()) };
        // The table begins with negative numbers. Indices into the other half are negative, and stay so: the
        // subtraction saturates.
        let mut positive = x;
        let mut negative = _mm256_xor_si256(x, _mm256_set1_epi8(-128));
        let mut y = _mm256_setzero_si256();
        for i in 0..8 {
            let a = _mm256_shuffle_epi8(differences[i], negative);
            let b = _mm256_shuffle_epi8(differences[8 + i], positive);
            y = _mm256_xor_si256(y, _mm256_xor_si256(a, b));
            negative = _mm256_subs_epi8(negative, step);
            positive = _mm256_subs_epi8(positive, step);
        }
        // SAFETY: as above.
        unsafe { _mm256_storeu_si256(chunk.as_mut_ptr().cast(), y) };
    }
    lut_i8_scalar(table, rest);
}
