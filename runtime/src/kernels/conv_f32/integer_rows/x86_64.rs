//! Integer rows with AVX2 (`vpmaddwd` on 16 bits), AVX-VNNI (`vpdpwssd`, the same with an addition) and AVX-512 VNNI (`vpdpbusd`, twice,
//! on bytes).

use core::arch::x86_64::*;

use super::super::integers::{BLOCK, Inputs, Integers, Quads, each_quad, halves, pairs, quantize};
use super::super::lanes::{Avx2, Avx512};
use super::{GroupedPanel, RowsKernel, Tile, panel_rows};

/// Of AVX2: a row has 2 sums and 2 totals. Four rows at a time are no faster.
pub(in super::super) const ROWS_AVX2: RowsKernel =
    RowsKernel { tile_rows: 2, quantize: quantize_avx2, panel: panel_avx2 };

/// Of AVX2 with AVX-VNNI: a row has 4 sums and 2 totals.
pub(in super::super) const ROWS_AVXVNNI: RowsKernel =
    RowsKernel { tile_rows: 2, quantize: quantize_avx2, panel: panel_avxvnni };

/// Of AVX-512 VNNI: a row has 4 sums and a total.
pub(in super::super) const ROWS_AVX512: RowsKernel =
    RowsKernel { tile_rows: 4, quantize: quantize_avx512, panel: panel_avx512 };

/// Inputs 0 and 2 of a quad as neighbours, and 1 and 3, in 16 bits: as masks and shifts leave the bytes of a word.
pub(in super::super) struct Pairs;

impl Quads for Pairs {
    type Inputs = [__m256i; 2];
    type Weights = [__m256i; 2];
    type Words = __m256i;

    const SURPLUS_W8: i32 = 0;
    const SURPLUS_NONLINEAR: i32 = 127;

    #[inline(always)]
    fn quads(inputs: [i16; BLOCK]) -> [u32; BLOCK / 2] {
        each_quad(inputs, pairs)
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> [__m256i; 2] {
        // SAFETY: the caller has AVX2 and promises two elements.
        unsafe { [_mm256_set1_epi32(*from.cast()), _mm256_set1_epi32(*from.cast::<i32>().add(1))] }
    }

    #[inline(always)]
    unsafe fn w8(from: *const u8) -> [__m256i; 2] {
        // SAFETY: the caller has AVX2 and promises 32 bytes.
        unsafe {
            let bytes = _mm256_loadu_si256(from.cast());
            let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes));
            [even, _mm256_srai_epi16::<8>(bytes)]
        }
    }

    #[inline(always)]
    unsafe fn w4(from: *const u8) -> [[__m256i; 2]; 2] {
        // SAFETY: the caller has AVX2 and promises 32 bytes.
        unsafe {
            let bytes = _mm256_loadu_si256(from.cast());
            let nibble = _mm256_set1_epi16(15);
            let low = |bytes| _mm256_and_si256(bytes, nibble);
            [
                [low(bytes), low(_mm256_srli_epi16::<8>(bytes))],
                [low(_mm256_srli_epi16::<4>(bytes)), _mm256_srli_epi16::<12>(bytes)],
            ]
        }
    }

    #[inline(always)]
    unsafe fn bytes(words: __m256i) -> [__m256i; 2] {
        // SAFETY: the caller has AVX2.
        unsafe {
            let even = _mm256_and_si256(words, _mm256_set1_epi16(255));
            [even, _mm256_srli_epi16::<8>(words)]
        }
    }
}

/// The sums of AVX2: `vpmaddwd`, `vpaddd`.
struct MultiplyAdd;

impl Integers for MultiplyAdd {
    type Quads = Pairs;
    type Outputs = Avx2;
    type Sums = __m256i;

    #[inline(always)]
    unsafe fn zero() -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn add(sums: __m256i, weights: [__m256i; 2], inputs: [__m256i; 2]) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe {
            let even = _mm256_madd_epi16(weights[0], inputs[0]);
            let odd = _mm256_madd_epi16(weights[1], inputs[1]);
            _mm256_add_epi32(sums, _mm256_add_epi32(even, odd))
        }
    }

    #[inline(always)]
    unsafe fn total<const N: usize>(sums: [__m256i; N], surplus: i32) -> Avx2 {
        // SAFETY: the caller has AVX2.
        unsafe {
            let mut all = _mm256_set1_epi32(surplus.wrapping_neg());
            for sum in sums {
                all = _mm256_add_epi32(all, sum);
            }
            Avx2::from_i32(all)
        }
    }
}

/// The sums of AVX-VNNI. Even and odd pairs have their own, as an addition takes some cycles.
struct DotProduct;

impl Integers for DotProduct {
    type Quads = Pairs;
    type Outputs = Avx2;
    type Sums = [__m256i; 2];

    #[inline(always)]
    unsafe fn zero() -> [__m256i; 2] {
        // SAFETY: the caller has AVX2.
        unsafe { [_mm256_setzero_si256(); 2] }
    }

    #[inline(always)]
    unsafe fn add(sums: [__m256i; 2], weights: [__m256i; 2], inputs: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: the caller has AVX-VNNI.
        unsafe {
            [
                _mm256_dpwssd_avx_epi32(sums[0], weights[0], inputs[0]),
                _mm256_dpwssd_avx_epi32(sums[1], weights[1], inputs[1]),
            ]
        }
    }

    #[inline(always)]
    unsafe fn total<const N: usize>(sums: [[__m256i; 2]; N], surplus: i32) -> Avx2 {
        // SAFETY: the caller has AVX2.
        unsafe { MultiplyAdd::total(sums.map(|[even, odd]| _mm256_add_epi32(even, odd)), surplus) }
    }
}

/// High and low halves of inputs; weights are unsigned.
struct Halves;

impl Quads for Halves {
    type Inputs = [__m512i; 2];
    type Weights = __m512i;
    type Words = __m512i;

    // The sign bit is turned.
    const SURPLUS_W8: i32 = 128;
    const SURPLUS_NONLINEAR: i32 = 127;

    #[inline(always)]
    fn quads(inputs: [i16; BLOCK]) -> [u32; BLOCK / 2] {
        each_quad(inputs, halves)
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> [__m512i; 2] {
        // SAFETY: the caller has AVX-512 F and promises two elements.
        unsafe { [_mm512_set1_epi32(*from.cast()), _mm512_set1_epi32(*from.cast::<i32>().add(1))] }
    }

    #[inline(always)]
    unsafe fn w8(from: *const u8) -> __m512i {
        // SAFETY: the caller has AVX-512 BW and promises 64 bytes.
        unsafe { _mm512_xor_si512(_mm512_loadu_si512(from.cast()), _mm512_set1_epi8(-128)) }
    }

    #[inline(always)]
    unsafe fn w4(from: *const u8) -> [__m512i; 2] {
        // SAFETY: the caller has AVX-512 BW and promises 64 bytes.
        unsafe {
            let bytes = _mm512_loadu_si512(from.cast());
            let low = |bytes| _mm512_and_si512(bytes, _mm512_set1_epi8(15));
            [low(bytes), low(_mm512_srli_epi16::<4>(bytes))]
        }
    }

    #[inline(always)]
    unsafe fn bytes(words: __m512i) -> __m512i {
        words
    }
}

/// The sums of AVX-512 VNNI, of high and of low halves.
struct DotProduct512;

impl Integers for DotProduct512 {
    type Quads = Halves;
    type Outputs = Avx512;
    type Sums = [__m512i; 2];

    #[inline(always)]
    unsafe fn zero() -> [__m512i; 2] {
        // SAFETY: the caller has AVX-512 F.
        unsafe { [_mm512_setzero_si512(); 2] }
    }

    #[inline(always)]
    unsafe fn add(sums: [__m512i; 2], weights: __m512i, inputs: [__m512i; 2]) -> [__m512i; 2] {
        // SAFETY: the caller has AVX-512 VNNI.
        unsafe {
            [
                _mm512_dpbusd_epi32(sums[0], weights, inputs[0]),
                _mm512_dpbusd_epi32(sums[1], weights, inputs[1]),
            ]
        }
    }

    #[inline(always)]
    unsafe fn total<const N: usize>(sums: [[__m512i; 2]; N], surplus: i32) -> Avx512 {
        // SAFETY: the caller has AVX-512 F.
        unsafe {
            let [mut high, mut low] = sums[0];
            for sum in &sums[1..] {
                high = _mm512_add_epi32(high, sum[0]);
                low = _mm512_add_epi32(low, sum[1]);
            }
            let exact = _mm512_add_epi32(_mm512_slli_epi32::<8>(high), low);
            Avx512::from_i32(_mm512_sub_epi32(exact, _mm512_set1_epi32(surplus)))
        }
    }
}

#[target_feature(enable = "avx2,fma")]
pub(in super::super) fn quantize_avx2<'s>(
    row: &[f32],
    group_size: usize,
    scratch: &'s mut [f32],
) -> Inputs<'s> {
    quantize::<Pairs>(row, group_size, scratch)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn quantize_avx512<'s>(row: &[f32], group_size: usize, scratch: &'s mut [f32]) -> Inputs<'s> {
    quantize::<Halves>(row, group_size, scratch)
}

/// # Safety
///
/// As [`RowsKernel::panel`] says.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn panel_avx2(tile: &Tile<'_>, panel: &GroupedPanel, inputs: &[Inputs<'_>]) {
    // SAFETY: the contract is the same.
    unsafe {
        match inputs.len() {
            1 => panel_rows::<MultiplyAdd, 1, 2, 1>(tile, panel, inputs),
            _ => panel_rows::<MultiplyAdd, 2, 2, 1>(tile, panel, inputs),
        }
    }
}

/// # Safety
///
/// As [`RowsKernel::panel`] says.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn panel_avxvnni(tile: &Tile<'_>, panel: &GroupedPanel, inputs: &[Inputs<'_>]) {
    // SAFETY: the contract is the same.
    unsafe {
        match inputs.len() {
            // Upper bits need the registers of the second sums.
            1 if panel.bits.upper() == 0 => panel_rows::<DotProduct, 1, 2, 2>(tile, panel, inputs),
            1 => panel_rows::<DotProduct, 1, 2, 1>(tile, panel, inputs),
            _ => panel_rows::<DotProduct, 2, 2, 1>(tile, panel, inputs),
        }
    }
}

/// # Safety
///
/// As [`RowsKernel::panel`] says.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn panel_avx512(tile: &Tile<'_>, panel: &GroupedPanel, inputs: &[Inputs<'_>]) {
    // SAFETY: the contract is the same.
    unsafe {
        match inputs.len() {
            1 => panel_rows::<DotProduct512, 1, 1, 2>(tile, panel, inputs),
            2 => panel_rows::<DotProduct512, 2, 1, 2>(tile, panel, inputs),
            3 => panel_rows::<DotProduct512, 3, 1, 2>(tile, panel, inputs),
            _ => panel_rows::<DotProduct512, 4, 1, 2>(tile, panel, inputs),
        }
    }
}
