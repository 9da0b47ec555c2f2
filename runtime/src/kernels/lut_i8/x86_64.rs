//! A table of 256 i8 in four registers of AVX-512.

use core::arch::x86_64::*;

use super::{LEN, LutI8Fn};
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
