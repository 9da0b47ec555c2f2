//! Integer blocks with AVX2 (`vpmaddwd`), AVX-VNNI and AVX-512 VNNI (`vpdpwssd`, the same with an addition).

use core::arch::x86_64::*;

use super::super::integer_rows::x86_64::{Pairs, quantize_avx2};
use super::super::integers::{BLOCK, Inputs, Quads, each_quad, pairs, quantize};
use super::super::lanes::{Avx2, Avx512, Lanes};
use super::{Block, BlocksKernel, Products, Tile, TileInputs, Unpacked, panel_rows, unpack};
use crate::kernels::PANEL_N;

/// Elements of a quad of a panel's weights: pairs of i16.
pub(super) const QUAD_LEN: usize = 2 * PANEL_N;

/// Of AVX2: 8 sums.
pub(in super::super) const BLOCKS_AVX2: BlocksKernel = BlocksKernel {
    tile_rows: 4,
    quantize: quantize_avx2,
    set: |tile, row, inputs| tile.set::<1>(row, inputs),
    unpack: unpack_avx2,
    run: panel_avx2,
};

/// Of AVX2 with AVX-VNNI: 8 sums.
pub(in super::super) const BLOCKS_AVXVNNI: BlocksKernel =
    BlocksKernel { run: panel_avxvnni, ..BLOCKS_AVX2 };

/// Of AVX-512 VNNI: 12 sums.
pub(in super::super) const BLOCKS_AVX512: BlocksKernel = BlocksKernel {
    tile_rows: 12,
    quantize: quantize_avx512,
    set: |tile, row, inputs| tile.set::<1>(row, inputs),
    unpack: unpack_avx512,
    run: panel_avx512,
};

/// Registers of an instruction set with pairs of i16 in each lane: inputs 0 and 2 of a quad, or 1 and 3.
///
/// # Safety
///
/// Every function may be called only on a CPU with the implementation's instruction set.
pub(super) trait Paired {
    /// Quads as two registers of pairs.
    type Quads: Quads<Weights = [Self::Pairs; 2]>;
    /// A register of outputs.
    type Outputs: Lanes<Words = <Self::Quads as Quads>::Words>;
    /// A register of pairs, or of sums.
    type Pairs: Copy;

    /// Sums of nothing.
    unsafe fn zero() -> Self::Pairs;
    /// Reads a register.
    unsafe fn load(from: *const f32) -> Self::Pairs;
    /// Reads a pair into all lanes.
    unsafe fn splat(from: *const f32) -> Self::Pairs;
    /// Writes pairs, less `surplus` each.
    unsafe fn store_less(pairs: Self::Pairs, surplus: i16, to: *mut f32);
    /// Adds the products of pairs to sums.
    unsafe fn add(sums: Self::Pairs, weights: Self::Pairs, inputs: Self::Pairs) -> Self::Pairs;
    /// Sums as floats.
    unsafe fn floats(sums: Self::Pairs) -> Self::Outputs;
}

/// A step is a pair.
impl<P: Paired> Products for P {
    type Quads = P::Quads;
    type Outputs = P::Outputs;
    type Sums = P::Pairs;

    const PASSES: usize = 1;
    const QUADS: usize = 1;

    #[inline(always)]
    unsafe fn zero() -> P::Pairs {
        // SAFETY: the contract is the same.
        unsafe { <P as Paired>::zero() }
    }

    #[inline(always)]
    unsafe fn next_pass(sums: P::Pairs) -> P::Pairs {
        sums
    }

    #[inline(always)]
    unsafe fn add<const ROWS: usize, const MR: usize, const NV: usize>(
        sums: &mut [[P::Pairs; NV]; MR],
        weights: *const f32,
        inputs: *const f32,
    ) {
        // SAFETY: the contract is the same; the caller promises a pair of weights for all outputs, and one of inputs for all rows.
        unsafe {
            let mut pairs = [P::load(weights); NV];
            for v in 1..NV {
                pairs[v] = P::load(weights.add(v * P::Outputs::LEN));
            }
            for row in 0..MR {
                let x = P::splat(inputs.add(row));
                for v in 0..NV {
                    sums[row][v] = <P as Paired>::add(sums[row][v], pairs[v], x);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn floats(sums: P::Pairs) -> P::Outputs {
        // SAFETY: the contract is the same.
        unsafe { <P as Paired>::floats(sums) }
    }

    #[inline(always)]
    unsafe fn of_outputs(from: *const f32, _: usize, v: usize) -> P::Outputs {
        // SAFETY: the contract is the same.
        unsafe { P::Outputs::load(from.add(v * P::Outputs::LEN)) }
    }

    #[inline(always)]
    unsafe fn of_rows<const ROWS: usize>(from: *const f32, row: usize) -> P::Outputs {
        // SAFETY: the contract is the same.
        unsafe { P::Outputs::splat(*from.add(row)) }
    }

    #[inline(always)]
    unsafe fn store(quads: [[P::Pairs; 2]; 2], surplus: i16, octet: *mut f32, lane: usize) {
        // SAFETY: the contract is the same.
        unsafe {
            for (pair, pairs) in quads.into_iter().flatten().enumerate() {
                P::store_less(pairs, surplus, octet.add(pair * PANEL_N + lane));
            }
        }
    }
}

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
    const SURPLUS_NONLINEAR: i32 = 127;

    #[inline(always)]
    fn quads(inputs: [i16; BLOCK]) -> [u32; BLOCK / 2] {
        each_quad(inputs, pairs)
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
