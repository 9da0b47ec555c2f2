//! Float convolution with Advanced SIMD: tiles of 6 × 16, inputs taken from the lanes of a register.

#[cfg(feature = "std")]
use super::ConvF32Fn;
use super::blocked::conv_f32_blocked;
use super::grouped::GroupedBits;
#[cfg(feature = "std")]
use super::integer_blocks::aarch64::{BLOCKS_DOTPROD, BLOCKS_I8MM};
#[cfg(feature = "std")]
use super::integer_blocks::{self, BlocksKernel, conv_f32_integer_blocks};
#[cfg(feature = "std")]
use super::integer_rows::{self, aarch64::ROWS_DOTPROD, conv_f32_integer_rows};
use super::lanes::{Bf16Pair, Grouped, Lanes, Neon, W4, W4Nl, W5, W6, W8, Weight};
use super::rounding::{self, Bf16Tile};
use super::tile::{
    Dequantize, GroupedPanel, Tile, TileKernel, WeightPtr, dequantize, grouped_tile, row, tile,
};
use super::{ConvF32, PANEL_N};
#[cfg(feature = "std")]
use crate::Isa;

/// 24 sums, four inputs of each of 6 rows, and 2 registers of weights fill the 32 registers. With grouped weights, 4 rows by 8
/// columns have 16 sums over a group and 8 totals.
pub(crate) const TILE_NEON: TileKernel = TileKernel {
    rows: 6,
    narrow_rows: 8,
    panels: 1,
    grouped_rows: 4,
    run: tile_f32_neon,
    row: row_f32_neon,
    dequantize: dequantize_neon,
    bf16: Bf16Tile {
        pair_rows: 2,
        round_pairs: rounding::round_pairs,
        round: rounding::round::<Neon>,
        widen: rounding::widen::<Neon>,
    },
};

pub(super) fn conv_f32_neon(args: &mut ConvF32<'_>) {
    // SAFETY: targets that this module is built for have Advanced SIMD.
    unsafe { conv_f32_blocked(args, TILE_NEON) }
}

/// Grouped weights in integers where they suit.
///
/// # Safety
///
/// The CPU has the dot products of i8, and the instruction set of `blocks`.
#[cfg(feature = "std")]
unsafe fn conv_f32_integers(args: &mut ConvF32<'_>, blocks: BlocksKernel) {
    // SAFETY: the contract is the same.
    unsafe {
        match (integer_rows::suiting(args), integer_blocks::suiting(args)) {
            (Some(weights), _) => conv_f32_integer_rows(args, weights, ROWS_DOTPROD),
            (_, Some(weights)) => conv_f32_integer_blocks(args, weights, blocks),
            _ => conv_f32_blocked(args, TILE_NEON),
        }
    }
}

/// The kernel with the dot products of i8, if this CPU has them.
#[cfg(feature = "std")]
pub(super) fn conv_f32_dotprod() -> Option<ConvF32Fn> {
    fn kernel(args: &mut ConvF32<'_>) {
        // SAFETY: this function leaves its parent only where the dot products are available.
        unsafe { conv_f32_integers(args, BLOCKS_DOTPROD) }
    }
    Isa::Dotprod.is_available().then_some(kernel as ConvF32Fn)
}

/// The kernel with the matrix products of i8, too, if this CPU has them.
#[cfg(feature = "std")]
pub(super) fn conv_f32_i8mm() -> Option<ConvF32Fn> {
    fn kernel(args: &mut ConvF32<'_>) {
        // SAFETY: this function leaves its parent only where matrix products, and with them dot products, are available.
        unsafe { conv_f32_integers(args, BLOCKS_I8MM) }
    }
    Isa::I8mm.is_available().then_some(kernel as ConvF32Fn)
}

/// Columns of half a panel.
const HALF: usize = PANEL_N / 2;

/// Up to 6 rows by up to 16 columns, or 8 by 8.
///
/// # Safety
///
/// As [`Tile`] says.
unsafe fn tile_f32_neon(t: &Tile<'_>) {
    /// # Safety
    ///
    /// As [`Tile`] says; `weights` is the tile's.
    unsafe fn by_rows<W: Weight>(t: &Tile<'_>, weights: *const W) {
        // SAFETY: the contract is the same.
        unsafe {
            match (t.rows.len(), t.cols <= HALF) {
                (1, true) => tile::<Neon, W, 1, 2, 4>(t, weights),
                (2, true) => tile::<Neon, W, 2, 2, 4>(t, weights),
                (3 | 4, true) => tile::<Neon, W, 4, 2, 2>(t, weights),
                (5 | 6, true) => tile::<Neon, W, 6, 2, 1>(t, weights),
                (_, true) => tile::<Neon, W, 8, 2, 1>(t, weights),
                (1, _) => tile::<Neon, W, 1, 4, 4>(t, weights),
                (2, _) => tile::<Neon, W, 2, 4, 2>(t, weights),
                (3, _) => tile::<Neon, W, 3, 4, 1>(t, weights),
                (4, _) => tile::<Neon, W, 4, 4, 1>(t, weights),
                (5, _) => tile::<Neon, W, 5, 4, 1>(t, weights),
                _ => tile::<Neon, W, 6, 4, 1>(t, weights),
            }
        }
    }
    /// # Safety
    ///
    /// As [`Tile`] says; `panel` is the tile's weights, of the bits of `B`.
    unsafe fn grouped<B: Grouped>(t: &Tile<'_>, panel: &GroupedPanel) {
        // As many columns at once as the compiler keeps in registers.
        let columns = match (t.rows.len(), B::BITS.per_word()) {
            (1, _) => PANEL_N,
            (_, 4) => HALF,
            _ => Neon::LEN,
        };
        for first in (0..t.cols).step_by(columns) {
            let (t, panel) = (t.columns_from(first, columns), from_lane(panel, first));
            // SAFETY: the contract is the same.
            unsafe {
                match (t.rows.len(), columns) {
                    (1, _) => grouped_tile::<Neon, B, 1, 4>(&t, &panel),
                    (2, HALF) => grouped_tile::<Neon, B, 2, 2>(&t, &panel),
                    (_, HALF) => grouped_tile::<Neon, B, 4, 2>(&t, &panel),
                    (2, _) => grouped_tile::<Neon, B, 2, 1>(&t, &panel),
                    _ => grouped_tile::<Neon, B, 4, 1>(&t, &panel),
                }
            }
        }
    }
    // SAFETY: the contract is the same.
    unsafe {
        match t.weights {
            WeightPtr::F32(w) => by_rows(t, w),
            WeightPtr::F16(w) => by_rows(t, w),
            WeightPtr::Pairs(w) => by_rows::<Bf16Pair<false>>(t, w.cast()),
            WeightPtr::Grouped(panel) => match panel.bits {
                GroupedBits::W8 => grouped::<W8>(t, &panel),
                GroupedBits::W4 => grouped::<W4>(t, &panel),
                GroupedBits::W5 => grouped::<W5>(t, &panel),
                GroupedBits::W6 => grouped::<W6>(t, &panel),
                GroupedBits::W4Nl => grouped::<W4Nl>(t, &panel),
            },
        }
    }
}

/// # Safety
///
/// As [`TileKernel::row`] says.
unsafe fn row_f32_neon(t: &Tile<'_>) {
    // SAFETY: the contract is the same.
    unsafe {
        match t.weights {
            WeightPtr::F32(w) => row::<Neon, f32, 4>(t, w),
            WeightPtr::F16(w) => row::<Neon, half::f16, 4>(t, w),
            _ => unreachable!("rows have floats"),
        }
    }
}

/// The lanes of a panel from `first` on: rows of words and scales have places for all lanes, so that they stay as far apart.
fn from_lane(panel: &GroupedPanel, first: usize) -> GroupedPanel {
    GroupedPanel {
        words: panel.words.wrapping_add(first * 4),
        upper: panel.upper.wrapping_add(first * 4),
        scales: panel.scales.starting_at(first),
        mins: panel.mins.map(|mins| mins.starting_at(first)),
        ..*panel
    }
}

/// # Safety
///
/// As [`Dequantize`] says.
unsafe fn dequantize_neon(args: &Dequantize) {
    // SAFETY: the contract is the same.
    unsafe {
        match args.panel.bits {
            GroupedBits::W8 => dequantize::<Neon, W8>(args),
            GroupedBits::W4 => dequantize::<Neon, W4>(args),
            GroupedBits::W5 => dequantize::<Neon, W5>(args),
            GroupedBits::W6 => dequantize::<Neon, W6>(args),
            GroupedBits::W4Nl => dequantize::<Neon, W4Nl>(args),
        }
    }
}
