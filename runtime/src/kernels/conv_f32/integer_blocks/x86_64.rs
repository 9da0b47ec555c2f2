//! Integer blocks with AVX2 (`vpmaddwd`), AVX-VNNI and AVX-512 VNNI (`vpdpwssd`, the same with an addition).

use core::arch::x86_64::*;

use super::super::integer_rows::x86_64::{Pairs, quantize_avx2};
use super::super::integers::{Inputs, Quads, pairs, quantize};
use super::super::lanes::{Avx2, Avx512};
use super::{Block, BlocksKernel, Paired, Tile, TileInputs, Unpacked, panel_rows, unpack};

/// Of AVX2: 8 sums.
pub(in super::super) const BLOCKS_AVX2: BlocksKernel =
    BlocksKernel { tile_rows: 4, quantize: quantize_avx2, unpack: unpack_avx2, run: panel_avx2 };

/// Of AVX2 with AVX-VNNI: 8 sums.
pub(in super::super) const BLOCKS_AVXVNNI: BlocksKernel =
    BlocksKernel { run: panel_avxvnni, ..BLOCKS_AVX2 };

/// Of AVX-512 VNNI: 12 sums.
pub(in super::super) const BLOCKS_AVX512: BlocksKernel = BlocksKernel {
    tile_rows: 12,
    quantize: quantize_avx512,
    unpack: unpack_avx512,
    run: panel_avx512,
};

/// AVX2, with AVX-VNNI if `VNNI`.
struct Paired256<const VNNI: bool>;

impl<const VNNI: bool> Paired for Paired256<VNNI> {
    type Quads = Pairs;
    type Outputs = Avx2;
    type Pairs = __m256i;

    #[inline(always)]
    unsafe fn zero() -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256i {
        // SAFETY: the caller has AVX2 and promises the elements.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> __m256i {
        // SAFETY: the caller has AVX2 and promises an element.
        unsafe { _mm256_set1_epi32(*from.cast()) }
    }

    #[inline(always)]
    unsafe fn store_less(pairs: __m256i, surplus: i16, to: *mut f32) {
        // SAFETY: the caller has AVX2 and promises the elements.
        unsafe {
            let pairs = _mm256_sub_epi16(pairs, _mm256_set1_epi16(surplus));
            _mm256_storeu_si256(to.cast(), pairs);
        }
    }

    #[inline(always)]
    unsafe fn add(sums: __m256i, weights: __m256i, inputs: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2, and AVX-VNNI if it says so.
        unsafe {
            match VNNI {
                true => _mm256_dpwssd_avx_epi32(sums, weights, inputs),
                false => _mm256_add_epi32(sums, _mm256_madd_epi16(weights, inputs)),
            }
        }
    }

    #[inline(always)]
    unsafe fn floats(sums: __m256i) -> Avx2 {
        // SAFETY: the caller has AVX2.
        unsafe { Avx2::from_i32(sums) }
    }
}

/// [`Pairs`] in registers of AVX-512.
struct Pairs512;

impl Quads for Pairs512 {
    type Inputs = [__m512i; 2];
    type Weights = [__m512i; 2];
    type Words = __m512i;

    const SURPLUS_W8: i32 = 0;

    #[inline(always)]
    fn quad(inputs: [i16; 4]) -> [u32; 2] {
        pairs(inputs)
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> [__m512i; 2] {
        // SAFETY: the caller has AVX-512 F and promises two elements.
        unsafe { [_mm512_set1_epi32(*from.cast()), _mm512_set1_epi32(*from.cast::<i32>().add(1))] }
    }

    #[inline(always)]
    unsafe fn w8(from: *const u8) -> [__m512i; 2] {
        // SAFETY: the caller has AVX-512 BW and promises 64 bytes.
        unsafe {
            let bytes = _mm512_loadu_si512(from.cast());
            let even = _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(bytes));
            [even, _mm512_srai_epi16::<8>(bytes)]
        }
    }

    #[inline(always)]
    unsafe fn w4(from: *const u8) -> [[__m512i; 2]; 2] {
        // SAFETY: the caller has AVX-512 BW and promises 64 bytes.
        unsafe {
            let bytes = _mm512_loadu_si512(from.cast());
            let nibble = _mm512_set1_epi16(15);
            let low = |bytes| _mm512_and_si512(bytes, nibble);
            [
                [low(bytes), low(_mm512_srli_epi16::<8>(bytes))],
                [low(_mm512_srli_epi16::<4>(bytes)), _mm512_srli_epi16::<12>(bytes)],
            ]
        }
    }

    #[inline(always)]
    unsafe fn bytes(words: __m512i) -> [__m512i; 2] {
        // SAFETY: the caller has AVX-512 BW.
        unsafe {
            let even = _mm512_and_si512(words, _mm512_set1_epi16(255));
            [even, _mm512_srli_epi16::<8>(words)]
        }
    }
}

/// AVX-512 with VNNI.
struct Paired512;

impl Paired for Paired512 {
    type Quads = Pairs512;
    type Outputs = Avx512;
    type Pairs = __m512i;

    #[inline(always)]
    unsafe fn zero() -> __m512i {
        // SAFETY: the caller has AVX-512 F.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512i {
        // SAFETY: the caller has AVX-512 F and promises the elements.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> __m512i {
        // SAFETY: the caller has AVX-512 F and promises an element.
        unsafe { _mm512_set1_epi32(*from.cast()) }
    }

    #[inline(always)]
    unsafe fn store_less(pairs: __m512i, surplus: i16, to: *mut f32) {
        // SAFETY: the caller has AVX-512 BW and promises the elements.
        unsafe {
            let pairs = _mm512_sub_epi16(pairs, _mm512_set1_epi16(surplus));
            _mm512_storeu_si512(to.cast(), pairs);
        }
    }

    #[inline(always)]
    unsafe fn add(sums: __m512i, weights: __m512i, inputs: __m512i) -> __m512i {
        // SAFETY: the caller has AVX-512 VNNI.
        unsafe { _mm512_dpwssd_epi32(sums, weights, inputs) }
    }

    #[inline(always)]
    unsafe fn floats(sums: __m512i) -> Avx512 {
        // SAFETY: the caller has AVX-512 F.
        unsafe { Avx512::from_i32(sums) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn quantize_avx512<'s>(row: &[f32], group_size: usize, scratch: &'s mut [f32]) -> Inputs<'s> {
    quantize::<Pairs512>(row, group_size, scratch)
}

/// # Safety
///
/// As [`unpack`] says.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn unpack_avx2(block: &Block, to: &mut Unpacked<'_>) {
    // SAFETY: the contract is the same.
    unsafe { unpack::<Paired256<false>>(block, to) }
}

/// # Safety
///
/// As [`unpack`] says.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn unpack_avx512(block: &Block, to: &mut Unpacked<'_>) {
    // SAFETY: the contract is the same.
    unsafe { unpack::<Paired512>(block, to) }
}

/// # Safety
///
/// As [`panel_rows`] says.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn panel_avx2(
    tile: &Tile<'_>,
    block: &Block,
    weights: &Unpacked<'_>,
    inputs: &TileInputs<'_>,
) {
    // SAFETY: the contract is the same.
    unsafe {
        match tile.rows.len() {
            1 | 2 => panel_rows::<Paired256<false>, 4, 2, 2>(tile, block, weights, inputs),
            3 => panel_rows::<Paired256<false>, 4, 3, 2>(tile, block, weights, inputs),
            _ => panel_rows::<Paired256<false>, 4, 4, 2>(tile, block, weights, inputs),
        }
    }
}

/// # Safety
///
/// As [`panel_rows`] says.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn panel_avxvnni(
    tile: &Tile<'_>,
    block: &Block,
    weights: &Unpacked<'_>,
    inputs: &TileInputs<'_>,
) {
    // SAFETY: the contract is the same.
    unsafe {
        match tile.rows.len() {
            1 | 2 => panel_rows::<Paired256<true>, 4, 2, 2>(tile, block, weights, inputs),
            3 => panel_rows::<Paired256<true>, 4, 3, 2>(tile, block, weights, inputs),
            _ => panel_rows::<Paired256<true>, 4, 4, 2>(tile, block, weights, inputs),
        }
    }
}

/// # Safety
///
/// As [`panel_rows`] says.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn panel_avx512(
    tile: &Tile<'_>,
    block: &Block,
    weights: &Unpacked<'_>,
    inputs: &TileInputs<'_>,
) {
    // SAFETY: the contract is the same.
    unsafe {
        match tile.rows.len() {
            1 | 2 => panel_rows::<Paired512, 12, 2, 1>(tile, block, weights, inputs),
            3 | 4 => panel_rows::<Paired512, 12, 4, 1>(tile, block, weights, inputs),
            5 | 6 => panel_rows::<Paired512, 12, 6, 1>(tile, block, weights, inputs),
            7 | 8 => panel_rows::<Paired512, 12, 8, 1>(tile, block, weights, inputs),
            9 | 10 => panel_rows::<Paired512, 12, 10, 1>(tile, block, weights, inputs),
            _ => panel_rows::<Paired512, 12, 12, 1>(tile, block, weights, inputs),
        }
    }
}
