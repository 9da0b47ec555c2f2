//! Float convolution with AVX2 + FMA (tiles of 6 × 16) and AVX-512 (12 × 32).

use super::blocked::conv_f32_blocked;
use super::grouped::GroupedBits;
use super::lanes::{Avx2, Avx512, Grouped, W4, W8, Weight};
use super::tile::{
    Dequantize, GroupedPanel, Tile, TileKernel, WeightPtr, dequantize, grouped_tile, tile,
};
use super::{ConvF32, ConvF32Fn, PANEL_N};
use crate::Isa;

/// The AVX2 tile: 12 sums, 2 registers of weights and one of input fill 15 of 16 registers.
/// With grouped weights, 2 rows have 8 sums over a group and 4 totals.
pub(crate) const TILE_AVX2: TileKernel = TileKernel {
    rows: 6,
    narrow_rows: 8,
    panels: 1,
    grouped_rows: 2,
    run: tile_f32_avx2,
    dequantize: dequantize_avx2,
};

/// The AVX-512 tile: 24 sums, 2 registers of weights and inputs broadcast into the rest.
pub(crate) const TILE_AVX512: TileKernel = TileKernel {
    rows: 12,
    narrow_rows: 12,
    panels: 2,
    grouped_rows: 4,
    run: tile_f32_avx512,
    dequantize: dequantize_avx512,
};

/// The AVX2 kernel, if this CPU runs it.
pub(super) fn conv_f32_avx2() -> Option<ConvF32Fn> {
    fn kernel(args: &mut ConvF32<'_>) {
        // SAFETY: this function leaves its parent only where AVX2, FMA and F16C are available.
        unsafe { conv_f32_blocked(args, TILE_AVX2) }
    }
    Isa::Avx2.is_available().then_some(kernel as ConvF32Fn)
}

/// The AVX-512 kernel, if this CPU runs it.
pub(super) fn conv_f32_avx512() -> Option<ConvF32Fn> {
    fn kernel(args: &mut ConvF32<'_>) {
        // SAFETY: this function leaves its parent only where AVX-512 F is available.
        unsafe { conv_f32_blocked(args, TILE_AVX512) }
    }
    Isa::Avx512.is_available().then_some(kernel as ConvF32Fn)
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
                (1, _) => tile::<Avx2, W, 1, 2, 4>(t, weights),
                (2, _) => tile::<Avx2, W, 2, 2, 2>(t, weights),
                (3, _) => tile::<Avx2, W, 3, 2, 2>(t, weights),
                (4, _) => tile::<Avx2, W, 4, 2, 1>(t, weights),
                (5, _) => tile::<Avx2, W, 5, 2, 1>(t, weights),
                _ => tile::<Avx2, W, 6, 2, 1>(t, weights),
            }
        }
    }
    /// # Safety
    ///
    /// As [`Tile`] says; `panel` is the tile's weights, of the bits of `B`.
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn grouped<B: Grouped>(t: &Tile<'_>, panel: &GroupedPanel) {
        // SAFETY: the contract is the same.
        unsafe {
            match (t.rows.len(), t.cols <= 8) {
                (1, true) => grouped_tile::<Avx2, B, 1, 1>(t, panel),
                (_, true) => grouped_tile::<Avx2, B, 2, 1>(t, panel),
                (1, _) => grouped_tile::<Avx2, B, 1, 2>(t, panel),
                _ => grouped_tile::<Avx2, B, 2, 2>(t, panel),
            }
        }
    }
    // SAFETY: the contract is the same.
    unsafe {
        match t.weights {
            WeightPtr::F32(w) => by_rows(t, w),
            WeightPtr::F16(w) => by_rows(t, w),
            WeightPtr::Grouped(panel) => match panel.bits {
                GroupedBits::W8 => grouped::<W8>(t, &panel),
                GroupedBits::W4 => grouped::<W4>(t, &panel),
            },
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
    /// # Safety
    ///
    /// As [`Tile`] says; `weights` is the tile's.
    #[target_feature(enable = "avx512f")]
    unsafe fn by_rows<W: Weight>(t: &Tile<'_>, weights: *const W) {
        // SAFETY: the contract is the same.
        unsafe {
            match (t.rows.len(), t.cols <= PANEL_N) {
                (1, true) => tile::<Avx512, W, 1, 1, 8>(t, weights),
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
    /// # Safety
    ///
    /// As [`Tile`] says; `panel` is the tile's weights, of the bits of `B`.
    #[target_feature(enable = "avx512f")]
    unsafe fn grouped<B: Grouped>(t: &Tile<'_>, panel: &GroupedPanel) {
        // SAFETY: the contract is the same.
        unsafe {
            match t.rows.len() {
                1 => grouped_tile::<Avx512, B, 1, 1>(t, panel),
                2 => grouped_tile::<Avx512, B, 2, 1>(t, panel),
                _ => grouped_tile::<Avx512, B, 4, 1>(t, panel),
            }
        }
    }
    // SAFETY: the contract is the same.
    unsafe {
        match t.weights {
            WeightPtr::F32(w) => by_rows(t, w),
            WeightPtr::F16(w) => by_rows(t, w),
            WeightPtr::Grouped(panel) => match panel.bits {
                GroupedBits::W8 => grouped::<W8>(t, &panel),
                GroupedBits::W4 => grouped::<W4>(t, &panel),
            },
        }
    }
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
        }
    }
}

/// # Safety
///
/// As [`Dequantize`] says.
#[target_feature(enable = "avx512f")]
unsafe fn dequantize_avx512(args: &Dequantize) {
    // SAFETY: the contract is the same.
    unsafe {
        match args.panel.bits {
            GroupedBits::W8 => dequantize::<Avx512, W8>(args),
            GroupedBits::W4 => dequantize::<Avx512, W4>(args),
        }
    }
}
