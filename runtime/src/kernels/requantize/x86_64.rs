//! The formula of [`EpilogueI8`] for vectors of accumulators, in AVX2 and AVX-512.
//!
//! Conversions to i32 round to nearest, ties to even: the default of MXCSR, which Rust code may not
//! change. For magnitudes below 2²² that is the rounding of [`super::round_ties_even`].
//!
//! The order of operands matters for NaN (a NaN scale, or 0 × ∞), as `max_ps` and `min_ps` return
//! the second one then: `max(x, low)` gives `low`, `min(high, x)` keeps the NaN.

use core::arch::x86_64::*;

use crate::kernels::EpilogueI8;

/// Constants of an [`EpilogueI8`], widened for AVX2: eight accumulators at a time.
///
/// The last step is `max(saturate_i8(v + zero_point), min)` in either case, with `v` no more than
/// the upper bound; it also turns the i32::MIN that stands for NaN and −∞ into `min`.
#[derive(Clone, Copy)]
pub(crate) struct RequantizeAvx2 {
    high: __m256,
    zero_point: __m256i,
    min: __m256i,
    residual: ResidualAvx2,
}

#[derive(Clone, Copy)]
struct ResidualAvx2 {
    conv_low: __m256,
    conv_high: __m256,
    scale_conv: __m256,
    scale_data: __m256,
    zero_point: __m256i,
}

impl RequantizeAvx2 {
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(crate) fn new(epilogue: &EpilogueI8<'_>) -> Self {
        let EpilogueI8 { zero_point, min, max, residual, .. } = *epilogue;
        let conv_low = _mm256_set1_ps((min - zero_point) as f32);
        let conv_high = _mm256_set1_ps((max - zero_point) as f32);
        match residual {
            None => RequantizeAvx2 {
                high: conv_high,
                zero_point: _mm256_set1_epi16(zero_point as i16),
                min: _mm256_set1_epi8(min as i8),
                residual: ResidualAvx2 {
                    conv_low,
                    conv_high,
                    scale_conv: _mm256_setzero_ps(),
                    scale_data: _mm256_setzero_ps(),
                    zero_point: _mm256_setzero_si256(),
                },
            },
            Some(r) => RequantizeAvx2 {
                high: _mm256_set1_ps((r.max - r.out_zero_point) as f32),
                zero_point: _mm256_set1_epi16(r.out_zero_point as i16),
                min: _mm256_set1_epi8(r.min as i8),
                residual: ResidualAvx2 {
                    conv_low,
                    conv_high,
                    scale_conv: _mm256_set1_ps(r.scale_conv),
                    scale_data: _mm256_set1_ps(r.scale_data),
                    zero_point: _mm256_set1_epi32(r.zero_point),
                },
            },
        }
    }

    /// Without residual: `min(round(acc · scale), max − zero_point)`.
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(crate) fn round(&self, acc: __m256i, scale: __m256) -> __m256i {
        let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(acc), scale);
        _mm256_cvtps_epi32(_mm256_min_ps(self.high, scaled))
    }

    /// With residual: the sum with eight elements of it (widened to i32), bounded from above.
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(crate) fn round_sum(&self, acc: __m256i, scale: __m256, data: __m256i) -> __m256i {
        let r = &self.residual;
        let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(acc), scale);
        let clamped = _mm256_min_ps(_mm256_max_ps(scaled, r.conv_low), r.conv_high);
        let conv = _mm256_cvtepi32_ps(_mm256_cvtps_epi32(clamped));
        let data = _mm256_cvtepi32_ps(_mm256_sub_epi32(data, r.zero_point));
        let conv = _mm256_mul_ps(conv, r.scale_conv);
        let data = _mm256_mul_ps(data, r.scale_data);
        _mm256_cvtps_epi32(_mm256_min_ps(self.high, _mm256_add_ps(conv, data)))
    }

    /// Adds the zero point to two results; per 128-bit lane, four i16 of `a`, then four of `b`.
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(crate) fn pack_i16(&self, a: __m256i, b: __m256i) -> __m256i {
        _mm256_adds_epi16(_mm256_packs_epi32(a, b), self.zero_point)
    }

    /// Narrows two results of [`Self::pack_i16`]; per 128-bit lane, eight i8 of `a`, then of `b`.
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(crate) fn pack_i8(&self, a: __m256i, b: __m256i) -> __m256i {
        _mm256_max_epi8(_mm256_packs_epi16(a, b), self.min)
    }
}

/// Whether no accumulator times its scale leaves the range of i32, as [`RequantizeAvx512`] has it.
#[target_feature(enable = "avx512f")]
pub(crate) fn scales_are_below_one(epilogue: &EpilogueI8<'_>) -> bool {
    let (vectors, rest) = epilogue.scale.as_chunks::<16>();
    let mut below = 0xffff;
    for vector in vectors {
        // SAFETY: sixteen scales.
        let scale = _mm512_abs_ps(unsafe { _mm512_loadu_ps(vector.as_ptr()) });
        below &= _mm512_cmp_ps_mask::<_CMP_LT_OQ>(scale, _mm512_set1_ps(1.0));
    }
    below == 0xffff && rest.iter().all(|scale| scale.abs() < 1.0)
}

/// Constants of an [`EpilogueI8`], widened for AVX-512: sixteen accumulators at a time, narrowed in fours.
///
/// Where [scales are below one](scales_are_below_one), scaled accumulators fit an i32, and the narrowings saturate:
/// bounds are for the bytes.
#[derive(Clone, Copy)]
pub(crate) struct RequantizeAvx512 {
    /// The upper bound, less the zero point.
    high: __m512,
    zero_point: __m512i,
    min: __m512i,
    max: __m512i,
    residual: ResidualAvx512,
}

#[derive(Clone, Copy)]
struct ResidualAvx512 {
    conv_low: __m512,
    conv_high: __m512,
    scale_conv: __m512,
    scale_data: __m512,
    zero_point: __m512i,
}

impl RequantizeAvx512 {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    pub(crate) fn new(epilogue: &EpilogueI8<'_>) -> Self {
        let EpilogueI8 { zero_point, min, max, residual, .. } = *epilogue;
        let conv_low = _mm512_set1_ps((min - zero_point) as f32);
        let conv_high = _mm512_set1_ps((max - zero_point) as f32);
        match residual {
            None => RequantizeAvx512 {
                high: conv_high,
                zero_point: _mm512_set1_epi16(zero_point as i16),
                min: _mm512_set1_epi8(min as i8),
                max: _mm512_set1_epi8(max as i8),
                residual: ResidualAvx512 {
                    conv_low,
                    conv_high,
                    scale_conv: _mm512_setzero_ps(),
                    scale_data: _mm512_setzero_ps(),
                    zero_point: _mm512_setzero_si512(),
                },
            },
            Some(r) => RequantizeAvx512 {
                high: _mm512_set1_ps((r.max - r.out_zero_point) as f32),
                zero_point: _mm512_set1_epi16(r.out_zero_point as i16),
                min: _mm512_set1_epi8(r.min as i8),
                max: _mm512_set1_epi8(r.max as i8),
                residual: ResidualAvx512 {
                    conv_low,
                    conv_high,
                    scale_conv: _mm512_set1_ps(r.scale_conv),
                    scale_data: _mm512_set1_ps(r.scale_data),
                    zero_point: _mm512_set1_epi32(r.zero_point),
                },
            },
        }
    }

    /// Without residual: `round(acc · scale)` for scales below one.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    pub(crate) fn round(&self, acc: __m512i, scale: __m512) -> __m512i {
        _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(acc), scale))
    }

    /// Without residual, for any scales: `min(round(acc · scale), max − zero_point)`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    pub(crate) fn round_bounded(&self, acc: __m512i, scale: __m512) -> __m512i {
        let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(acc), scale);
        _mm512_cvtps_epi32(_mm512_min_ps(self.high, scaled))
    }

    /// With residual: the sum with sixteen elements of it (widened to i32), bounded from above: its
    /// scales may be any.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    pub(crate) fn round_sum(&self, acc: __m512i, scale: __m512, data: __m512i) -> __m512i {
        let r = &self.residual;
        let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(acc), scale);
        let clamped = _mm512_min_ps(_mm512_max_ps(scaled, r.conv_low), r.conv_high);
        let conv = _mm512_cvtepi32_ps(_mm512_cvtps_epi32(clamped));
        let data = _mm512_cvtepi32_ps(_mm512_sub_epi32(data, r.zero_point));
        let conv = _mm512_mul_ps(conv, r.scale_conv);
        let data = _mm512_mul_ps(data, r.scale_data);
        _mm512_cvtps_epi32(_mm512_min_ps(self.high, _mm512_add_ps(conv, data)))
    }

    /// Adds the zero point to four results, narrows them to i8 and clamps them: each 128-bit lane has four of the
    /// first result, then four of the second, the third, the fourth.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    pub(crate) fn pack(&self, results: [__m512i; 4]) -> __m512i {
        let [a, b, c, d] = results;
        let low = _mm512_adds_epi16(_mm512_packs_epi32(a, b), self.zero_point);
        let high = _mm512_adds_epi16(_mm512_packs_epi32(c, d), self.zero_point);
        let bytes = _mm512_packs_epi16(low, high);
        _mm512_min_epi8(_mm512_max_epi8(bytes, self.min), self.max)
    }
}
