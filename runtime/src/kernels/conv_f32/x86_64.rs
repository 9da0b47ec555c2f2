//! Float convolution with AVX2 + FMA (tiles of 6 × 16) and AVX-512 (12 × 32).

use super::blocked::conv_f32_blocked;
use super::direct::{self, DirectKernel, DirectTiles, conv_f32_direct, direct_tiles, even};
use super::grouped::GroupedBits;
use super::integer_blocks::x86_64::{BLOCKS_AVX2, BLOCKS_AVX512, BLOCKS_AVXVNNI};
use super::integer_blocks::{self, BlocksKernel, conv_f32_integer_blocks};
use super::integer_rows::x86_64::{ROWS_AVX2, ROWS_AVX512, ROWS_AVXVNNI};
use super::integer_rows::{self, RowsKernel, conv_f32_integer_rows};
use super::lanes::{Avx2, Avx512, Bf16Pair, Lanes, Streamed, W4, W4Nl, W5, W6, W8, Weight};
use super::rounding::{self, Bf16Tile};
use super::tile::{Dequantize, Tile, TileKernel, WeightPtr, dequantize, row, tile};
use super::winograd::{
    self, InputTile, OutputTile, WeightPanel, WinogradKernel, conv_f32_winograd, input_tile,
    output_tile_of, weight_panel,
};
use super::{ConvF32, ConvF32Fn, PANEL_N, PanelWeights};
use crate::Isa;
use core::arch::x86_64::*;
use core::mem::transmute;
use half::f16;

/// The AVX2 tile: 12 sums, 2 registers of weights and one of input fill 15 of 16 registers.
/// Few rows with grouped weights are for [`ROWS_AVX2`].
pub(crate) const TILE_AVX2: TileKernel = TileKernel {
    rows: 6,
    narrow_rows: 8,
    panels: 1,
    grouped_rows: 0,
    run: tile_f32_avx2,
    row: row_f32_avx2,
    dequantize: dequantize_avx2,
    bf16: Bf16Tile {
        pair_rows: 2,
        round_pairs: round_pairs_avx2,
        round: round_avx2,
        widen: widen_avx2,
    },
};

/// The AVX-512 tile: 24 sums, 2 registers of weights and inputs broadcast into the rest.
pub(crate) const TILE_AVX512: TileKernel = TileKernel {
    rows: 12,
    narrow_rows: 12,
    panels: 2,
    grouped_rows: 0,
    run: tile_f32_avx512,
    row: row_f32_avx512,
    dequantize: dequantize_avx512,
    bf16: Bf16Tile {
        pair_rows: 2,
        round_pairs: round_pairs_avx512,
        round: round_avx512,
        widen: widen_avx512,
    },
};

/// The AVX-512 tile where products of pairs are an instruction.
const TILE_AVX512_BF16: TileKernel = TileKernel {
    run: tile_bf16_avx512,
    bf16: Bf16Tile {
        pair_rows: usize::MAX,
        round_pairs: round_pairs_avx512_bf16,
        ..TILE_AVX512.bf16
    },
    ..TILE_AVX512
};

/// Tiles of up to 12 sums.
const DIRECT_AVX2: DirectKernel = DirectKernel {
    most_panels: 1,
    pixels: |pixels, cols| match cols <= 8 {
        true => even(pixels, &[1, 2, 3, 4, 6, 8, 12]),
        false => even(pixels, &[1, 2, 3, 4, 5, 6]),
    },
    run: direct_f32_avx2,
};

/// Tiles of up to 24 sums, or 16 × 1.
const DIRECT_AVX512: DirectKernel = DirectKernel {
    most_panels: 4,
    pixels: |pixels, cols| match cols.div_ceil(PANEL_N) {
        2 => even(pixels, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12]),
        1 => even(pixels, &[1, 2, 3, 4, 5, 6, 8, 10, 12, 16]),
        _ => even(pixels, &[1, 2, 3, 4, 5, 6]),
    },
    run: direct_f32_avx512,
};

/// The convolution that suits the shape.
///
/// # Safety
///
/// The CPU has the instruction set of the kernels.
unsafe fn conv_f32(
    args: &mut ConvF32<'_>,
    tile: TileKernel,
    winograd: WinogradKernel,
    rows: RowsKernel,
    blocks: BlocksKernel,
) {
    // SAFETY: the contract is the same.
    unsafe {
        match args.weights {
            PanelWeights::Float(weights) if winograd::suits(&args.geometry) => {
                conv_f32_winograd(args, weights, winograd)
            }
            PanelWeights::Float(weights) if direct::suits(&args.geometry) => {
                conv_f32_direct(args, weights, winograd.product)
            }
            _ => match (integer_rows::suiting(args), integer_blocks::suiting(args)) {
                (Some(weights), _) => conv_f32_integer_rows(args, weights, rows),
                (_, Some(weights)) => conv_f32_integer_blocks(args, weights, blocks),
                _ => conv_f32_blocked(args, tile),
            },
        }
    }
}

/// # Safety
///
/// As [`DirectTiles`] says.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn direct_f32_avx2(t: &DirectTiles<'_>) {
    /// # Safety
    ///
    /// As [`DirectTiles`] says; `w` is the tile's.
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn by_size<W: Weight>(t: &DirectTiles<'_>, w: *const W) {
        // SAFETY: the contract is the same.
        unsafe {
            match (t.cols <= 8, t.pixels) {
                (true, 1) => direct_tiles::<Avx2, W, 1, 1>(t, w),
                (true, 2) => direct_tiles::<Avx2, W, 2, 1>(t, w),
                (true, 3) => direct_tiles::<Avx2, W, 3, 1>(t, w),
                (true, 4) => direct_tiles::<Avx2, W, 4, 1>(t, w),
                (true, 6) => direct_tiles::<Avx2, W, 6, 1>(t, w),
                (true, 8) => direct_tiles::<Avx2, W, 8, 1>(t, w),
                (true, _) => direct_tiles::<Avx2, W, 12, 1>(t, w),
                (_, 1) => direct_tiles::<Avx2, W, 1, 2>(t, w),
                (_, 2) => direct_tiles::<Avx2, W, 2, 2>(t, w),
                (_, 3) => direct_tiles::<Avx2, W, 3, 2>(t, w),
                (_, 4) => direct_tiles::<Avx2, W, 4, 2>(t, w),
                (_, 5) => direct_tiles::<Avx2, W, 5, 2>(t, w),
                (_, _) => direct_tiles::<Avx2, W, 6, 2>(t, w),
            }
        }
    }
    // SAFETY: the contract is the same.
    unsafe {
        match t.weights {
            WeightPtr::F32(w) => by_size(t, w),
            WeightPtr::F16(w) => by_size(t, w),
            _ => unreachable!("DirectTiles has none"),
        }
    }
}

/// # Safety
///
/// As [`DirectTiles`] says.
#[target_feature(enable = "avx512f")]
unsafe fn direct_f32_avx512(t: &DirectTiles<'_>) {
    /// # Safety
    ///
    /// As [`DirectTiles`] says; `w` is the tile's.
    #[target_feature(enable = "avx512f")]
    unsafe fn by_size<W: Weight>(t: &DirectTiles<'_>, w: *const W) {
        // SAFETY: the contract is the same.
        unsafe {
            match (t.cols.div_ceil(PANEL_N), t.pixels) {
                (1, 1) => direct_tiles::<Avx512, W, 1, 1>(t, w),
                (1, 2) => direct_tiles::<Avx512, W, 2, 1>(t, w),
                (1, 3) => direct_tiles::<Avx512, W, 3, 1>(t, w),
                (1, 4) => direct_tiles::<Avx512, W, 4, 1>(t, w),
                (1, 5) => direct_tiles::<Avx512, W, 5, 1>(t, w),
                (1, 6) => direct_tiles::<Avx512, W, 6, 1>(t, w),
                (1, 8) => direct_tiles::<Avx512, W, 8, 1>(t, w),
                (1, 10) => direct_tiles::<Avx512, W, 10, 1>(t, w),
                (1, 12) => direct_tiles::<Avx512, W, 12, 1>(t, w),
                (1, _) => direct_tiles::<Avx512, W, 16, 1>(t, w),
                (2, 1) => direct_tiles::<Avx512, W, 1, 2>(t, w),
                (2, 2) => direct_tiles::<Avx512, W, 2, 2>(t, w),
                (2, 3) => direct_tiles::<Avx512, W, 3, 2>(t, w),
                (2, 4) => direct_tiles::<Avx512, W, 4, 2>(t, w),
                (2, 5) => direct_tiles::<Avx512, W, 5, 2>(t, w),
                (2, 6) => direct_tiles::<Avx512, W, 6, 2>(t, w),
                (2, 7) => direct_tiles::<Avx512, W, 7, 2>(t, w),
                (2, 8) => direct_tiles::<Avx512, W, 8, 2>(t, w),
                (2, 9) => direct_tiles::<Avx512, W, 9, 2>(t, w),
                (2, 10) => direct_tiles::<Avx512, W, 10, 2>(t, w),
                (2, _) => direct_tiles::<Avx512, W, 12, 2>(t, w),
                (_, 1) => direct_tiles::<Avx512, W, 1, 4>(t, w),
                (_, 2) => direct_tiles::<Avx512, W, 2, 4>(t, w),
                (_, 3) => direct_tiles::<Avx512, W, 3, 4>(t, w),
                (_, 4) => direct_tiles::<Avx512, W, 4, 4>(t, w),
                (_, 5) => direct_tiles::<Avx512, W, 5, 4>(t, w),
                (_, _) => direct_tiles::<Avx512, W, 6, 4>(t, w),
            }
        }
    }
    // SAFETY: the contract is the same.
    unsafe {
        match t.weights {
            WeightPtr::F32(w) => by_size(t, w),
            WeightPtr::F16(w) => by_size(t, w),
            _ => unreachable!("DirectTiles has none"),
        }
    }
}

/// Transformations and tiles.
const WINOGRAD_AVX2: WinogradKernel = WinogradKernel {
    input: winograd_input_avx2,
    weights: winograd_weights_avx2,
    output: winograd_output_avx2,
    product: DIRECT_AVX2,
};

/// # Safety
///
/// As [`InputTile`] says.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn winograd_input_avx2(args: &InputTile<'_>) {
    // SAFETY: the contract is the same.
    unsafe { input_tile::<Avx2>(args) }
}

/// # Safety
///
/// As [`WeightPanel`] says.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn winograd_weights_avx2(args: &WeightPanel) {
    // SAFETY: the contract is the same.
    unsafe {
        match args.weights {
            WeightPtr::F32(w) => weight_panel::<Avx2, f32>(args, w),
            WeightPtr::F16(w) => weight_panel::<Avx2, f16>(args, w),
            _ => unreachable!("WeightPanel has none"),
        }
    }
}

/// # Safety
///
/// As [`OutputTile`] says.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn winograd_output_avx2(args: &OutputTile) {
    // SAFETY: the contract is the same.
    unsafe { output_tile_of::<Avx2>(args) }
}

/// Transformations and tiles.
const WINOGRAD_AVX512: WinogradKernel = WinogradKernel {
    input: winograd_input_avx512,
    weights: winograd_weights_avx512,
    output: winograd_output_avx512,
    product: DIRECT_AVX512,
};

/// # Safety
///
/// As [`InputTile`] says.
#[target_feature(enable = "avx512f")]
unsafe fn winograd_input_avx512(args: &InputTile<'_>) {
    // SAFETY: the contract is the same.
    unsafe { input_tile::<Avx512>(args) }
}

/// # Safety
///
/// As [`WeightPanel`] says.
#[target_feature(enable = "avx512f")]
unsafe fn winograd_weights_avx512(args: &WeightPanel) {
    // SAFETY: the contract is the same.
    unsafe {
        match args.weights {
            WeightPtr::F32(w) => weight_panel::<Avx512, f32>(args, w),
            WeightPtr::F16(w) => weight_panel::<Avx512, f16>(args, w),
            _ => unreachable!("WeightPanel has none"),
        }
    }
}

/// # Safety
///
/// As [`OutputTile`] says.
#[target_feature(enable = "avx512f")]
unsafe fn winograd_output_avx512(args: &OutputTile) {
    // SAFETY: the contract is the same.
    unsafe { output_tile_of::<Avx512>(args) }
}

/// The tiles of AVX2 for every shape, if this CPU runs them.
pub(super) fn blocked_avx2() -> Option<ConvF32Fn> {
    fn kernel(args: &mut ConvF32<'_>) {
        // SAFETY: this function leaves its parent only where AVX2, FMA and F16C are available.
        unsafe { conv_f32_blocked(args, TILE_AVX2) }
    }
    Isa::Avx2.is_available().then_some(kernel as ConvF32Fn)
}

/// The tiles of AVX-512 for every shape, if this CPU runs them.
pub(super) fn blocked_avx512() -> Option<ConvF32Fn> {
    fn kernel(args: &mut ConvF32<'_>) {
        // SAFETY: this function leaves its parent only where AVX-512 F, BW and VL are available.
        unsafe { conv_f32_blocked(args, TILE_AVX512) }
    }
    Isa::Avx512.is_available().then_some(kernel as ConvF32Fn)
}

/// The AVX2 kernel, if this CPU runs it.
pub(super) fn conv_f32_avx2() -> Option<ConvF32Fn> {
    fn kernel(args: &mut ConvF32<'_>) {
        // SAFETY: this function leaves its parent only where AVX2, FMA and F16C are available.
        unsafe { conv_f32(args, TILE_AVX2, WINOGRAD_AVX2, ROWS_AVX2, BLOCKS_AVX2) }
    }
    Isa::Avx2.is_available().then_some(kernel as ConvF32Fn)
}

/// The AVX2 kernel with AVX-VNNI, if this CPU runs it.
pub(super) fn conv_f32_avxvnni() -> Option<ConvF32Fn> {
    fn kernel(args: &mut ConvF32<'_>) {
        // SAFETY: this function leaves its parent only where AVX2, FMA, F16C and AVX-VNNI are available.
        unsafe { conv_f32(args, TILE_AVX2, WINOGRAD_AVX2, ROWS_AVXVNNI, BLOCKS_AVXVNNI) }
    }
    Isa::AvxVnni.is_available().then_some(kernel as ConvF32Fn)
}

/// The AVX-512 kernel, if this CPU runs it.
pub(super) fn conv_f32_avx512() -> Option<ConvF32Fn> {
    fn kernel(args: &mut ConvF32<'_>) {
        // SAFETY: this function leaves its parent only where AVX-512 F, BW, VL and VNNI are available.
        unsafe { conv_f32(args, TILE_AVX512, WINOGRAD_AVX512, ROWS_AVX512, BLOCKS_AVX512) }
    }
    fn with_bf16(args: &mut ConvF32<'_>) {
        // SAFETY: the same, and AVX-512 BF16 is available.
        unsafe { conv_f32(args, TILE_AVX512_BF16, WINOGRAD_AVX512, ROWS_AVX512, BLOCKS_AVX512) }
    }
    let has_bf16 = std::arch::is_x86_feature_detected!("avx512bf16");
    Isa::Avx512.is_available().then_some(if has_bf16 { with_bf16 } else { kernel })
}

/// Up to 6 rows by up to 16 columns.
///
/// # Safety
///
/// As [`Tile`] says.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile_f32_avx2(t: &Tile<'_>) {
    /// # Safety
    ///
    /// As [`Tile`] says; `weights` is the tile's.
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn by_rows<W: Weight>(t: &Tile<'_>, weights: *const W) {
        // SAFETY: the contract is the same.
        unsafe {
            match (t.rows.len(), t.cols <= 8) {
                (1, true) => tile::<Avx2, W, 1, 1, 4>(t, weights),
                (2, true) => tile::<Avx2, W, 2, 1, 4>(t, weights),
                (3 | 4, true) => tile::<Avx2, W, 4, 1, 2>(t, weights),
                (5 | 6, true) => tile::<Avx2, W, 6, 1, 2>(t, weights),
                (_, true) => tile::<Avx2, W, 8, 1, 1>(t, weights),
                (1, _) if t.streams => tile::<Avx2, Streamed<W>, 1, 2, 4>(t, weights.cast()),
                (1, _) => tile::<Avx2, W, 1, 2, 4>(t, weights),
                (2, _) => tile::<Avx2, W, 2, 2, 2>(t, weights),
                (3, _) => tile::<Avx2, W, 3, 2, 2>(t, weights),
                (4, _) => tile::<Avx2, W, 4, 2, 1>(t, weights),
                (5, _) => tile::<Avx2, W, 5, 2, 1>(t, weights),
                _ => tile::<Avx2, W, 6, 2, 1>(t, weights),
            }
        }
    }
    // SAFETY: the contract is the same.
    unsafe {
        match t.weights {
            WeightPtr::F32(w) => by_rows(t, w),
            WeightPtr::F16(w) => by_rows(t, w),
            WeightPtr::Pairs(w) => by_rows::<Bf16Pair<false>>(t, w.cast()),
            WeightPtr::Grouped(_) => unreachable!("grouped_rows is 0"),
        }
    }
}

/// A tile of AVX-512, in whose features it is inlined.
///
/// # Safety
///
/// As [`Tile`] says; `weights` is the tile's.
#[inline(always)]
unsafe fn tile_avx512_by_rows<W: Weight>(t: &Tile<'_>, weights: *const W) {
    // SAFETY: the contract is the same.
    unsafe {
        match (t.rows.len(), t.cols <= PANEL_N) {
            // One row has the same order of sums however columns are cut into tiles.
            (1, true) if t.streams => tile::<Avx512, Streamed<W>, 1, 1, 4>(t, weights.cast()),
            (1, true) => tile::<Avx512, W, 1, 1, 4>(t, weights),
            (2, true) => tile::<Avx512, W, 2, 1, 4>(t, weights),
            (3 | 4, true) => tile::<Avx512, W, 4, 1, 2>(t, weights),
            (5..=8, true) => tile::<Avx512, W, 8, 1, 1>(t, weights),
            (_, true) => tile::<Avx512, W, 12, 1, 1>(t, weights),
            (1, _) => tile::<Avx512, W, 1, 2, 4>(t, weights),
            (2, _) => tile::<Avx512, W, 2, 2, 2>(t, weights),
            (3 | 4, _) => tile::<Avx512, W, 4, 2, 1>(t, weights),
            (5 | 6, _) => tile::<Avx512, W, 6, 2, 1>(t, weights),
            (7 | 8, _) => tile::<Avx512, W, 8, 2, 1>(t, weights),
            (9 | 10, _) => tile::<Avx512, W, 10, 2, 1>(t, weights),
            _ => tile::<Avx512, W, 12, 2, 1>(t, weights),
        }
    }
}

/// Up to 12 rows by up to 32 columns. Heights without a kernel of their own repeat the last row.
///
/// # Safety
///
/// As [`Tile`] says.
#[target_feature(enable = "avx512f")]
unsafe fn tile_f32_avx512(t: &Tile<'_>) {
    // SAFETY: the contract is the same.
    unsafe {
        match t.weights {
            WeightPtr::F32(w) => tile_avx512_by_rows(t, w),
            WeightPtr::F16(w) => tile_avx512_by_rows(t, w),
            WeightPtr::Pairs(w) => tile_avx512_by_rows::<Bf16Pair<false>>(t, w.cast()),
            WeightPtr::Grouped(_) => unreachable!("grouped_rows is 0"),
        }
    }
}

/// A row in registers of `L`, in whose features it is inlined.
///
/// # Safety
///
/// As [`TileKernel::row`] says.
#[inline(always)]
unsafe fn any_row<L: Lanes, const NV: usize>(t: &Tile<'_>) {
    // SAFETY: the contract is the same.
    unsafe {
        match (t.weights, t.streams) {
            (WeightPtr::F32(w), false) => row::<L, f32, NV>(t, w),
            (WeightPtr::F32(w), true) => row::<L, Streamed<f32>, NV>(t, w.cast()),
            (WeightPtr::F16(w), false) => row::<L, f16, NV>(t, w),
            (WeightPtr::F16(w), true) => row::<L, Streamed<f16>, NV>(t, w.cast()),
            _ => unreachable!("rows have floats"),
        }
    }
}

/// # Safety
///
/// As [`TileKernel::row`] says.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn row_f32_avx2(t: &Tile<'_>) {
    // SAFETY: the contract is the same.
    unsafe { any_row::<Avx2, 2>(t) }
}

/// # Safety
///
/// As [`TileKernel::row`] says.
#[target_feature(enable = "avx512f")]
unsafe fn row_f32_avx512(t: &Tile<'_>) {
    // SAFETY: the contract is the same.
    unsafe { any_row::<Avx512, 1>(t) }
}

/// As [`tile_f32_avx512`], with weights in bf16, too.
///
/// # Safety
///
/// As [`Tile`] says.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile_bf16_avx512(t: &Tile<'_>) {
    // SAFETY: the contract is the same; a pair is a word.
    unsafe {
        match t.weights {
            WeightPtr::Pairs(w) => tile_avx512_by_rows::<Bf16Pair<true>>(t, w.cast()),
            _ => tile_f32_avx512(t),
        }
    }
}

/// # Safety
///
/// As [`rounding::Round`] says.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn round_avx2(from: *const f32, to: *mut f32, count: usize) {
    // SAFETY: the contract is the same.
    unsafe { rounding::round::<Avx2>(from, to, count) }
}

/// # Safety
///
/// As [`rounding::Round`] says.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn round_pairs_avx2(from: *const f32, to: *mut f32, count: usize) {
    // SAFETY: the contract is the same.
    unsafe { rounding::round_pairs(from, to, count) }
}

/// # Safety
///
/// As [`rounding::Widen`] says.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn widen_avx2(from: *const half::bf16, to: *mut f32, pairs: usize) {
    // SAFETY: the contract is the same.
    unsafe { rounding::widen::<Avx2>(from, to, pairs) }
}

/// # Safety
///
/// As [`rounding::Round`] says.
#[target_feature(enable = "avx512f")]
unsafe fn round_avx512(from: *const f32, to: *mut f32, count: usize) {
    // SAFETY: the contract is the same.
    unsafe { rounding::round::<Avx512>(from, to, count) }
}

/// # Safety
///
/// As [`rounding::Round`] says.
#[target_feature(enable = "avx512f")]
unsafe fn round_pairs_avx512(from: *const f32, to: *mut f32, count: usize) {
    // SAFETY: the contract is the same.
    unsafe { rounding::round_pairs(from, to, count) }
}

/// # Safety
///
/// As [`rounding::Round`] says; the CPU has AVX-512 BW and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn round_pairs_avx512_bf16(from: *const f32, to: *mut f32, count: usize) {
    const LEN: usize = Avx512::LEN;
    // SAFETY: the caller promises `count` inputs and half as many words; masked-off elements aren't accessed. Registers of bf16 are of 64 bytes.
    unsafe {
        let mut at = 0;
        while at + 2 * LEN <= count {
            let (low, high) = (_mm512_loadu_ps(from.add(at)), _mm512_loadu_ps(from.add(at + LEN)));
            let words: __m512i = transmute(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(to.add(at / 2).cast(), words);
            at += 2 * LEN;
        }
        if at < count {
            let mask = (1u32 << (count - at)) - 1;
            let low = _mm512_maskz_loadu_ps(mask as u16, from.wrapping_add(at));
            let high = _mm512_maskz_loadu_ps((mask >> LEN) as u16, from.wrapping_add(at + LEN));
            let words: __m512i = transmute(_mm512_cvtne2ps_pbh(high, low));
            _mm512_mask_storeu_epi16(to.add(at / 2).cast(), mask, words);
        }
    }
}

/// # Safety
///
/// As [`rounding::Widen`] says.
#[target_feature(enable = "avx512f")]
unsafe fn widen_avx512(from: *const half::bf16, to: *mut f32, pairs: usize) {
    // SAFETY: the contract is the same.
    unsafe { rounding::widen::<Avx512>(from, to, pairs) }
}

/// # Safety
///
/// As [`Dequantize`] says.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dequantize_avx2(args: &Dequantize) {
    // SAFETY: the contract is the same.
    unsafe {
        match args.panel.bits {
            GroupedBits::W8 => dequantize::<Avx2, W8>(args),
            GroupedBits::W4 => dequantize::<Avx2, W4>(args),
            GroupedBits::W5 => dequantize::<Avx2, W5>(args),
            GroupedBits::W6 => dequantize::<Avx2, W6>(args),
            GroupedBits::W4Nl => dequantize::<Avx2, W4Nl>(args),
        }
    }
}

/// # Safety
///
/// As [`Dequantize`] says.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn dequantize_avx512(args: &Dequantize) {
    // SAFETY: the contract is the same.
    unsafe {
        match args.panel.bits {
            GroupedBits::W8 => dequantize::<Avx512, W8>(args),
            GroupedBits::W4 => dequantize::<Avx512, W4>(args),
            GroupedBits::W5 => dequantize::<Avx512, W5>(args),
            GroupedBits::W6 => dequantize::<Avx512, W6>(args),
            GroupedBits::W4Nl => dequantize::<Avx512, W4Nl>(args),
        }
    }
}
