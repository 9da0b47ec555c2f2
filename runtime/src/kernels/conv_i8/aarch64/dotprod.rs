//! The i8 convolution with dot products: `sdot` by element, which takes one quad of four for four channels.

use core::arch::aarch64::*;

use super::{LANES, finish};
use crate::kernels::PANEL_K;
use crate::kernels::aarch64::sdot_lane;
use crate::kernels::conv_i8::tile::{PANEL_ROW, Segments, Tile, patch_pointers};
use crate::kernels::requantize::aarch64::RequantizeNeon;

/// Quads of a register of inputs.
const QUADS: usize = 4;

/// # Safety
///
/// As [`tile_dotprod`] with these numbers of pixels and registers of channels.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn tile(
    tile: &Tile<'_>,
    requantize: &RequantizeNeon,
    pixels: usize,
    vectors: usize,
) {
    macro_rules! tile {
        ($pixels:literal, $vectors:literal) => {
            // SAFETY: as the caller's.
            unsafe {
                tile_dotprod::<$pixels, $vectors, { sums($pixels * $vectors) }>(tile, requantize)
            }
        };
    }
    match (pixels, vectors) {
        (1, 2) => tile!(1, 2),
        (1, _) => tile!(1, 4),
        (2, 2) => tile!(2, 2),
        (2, _) => tile!(2, 4),
        (3, 2) => tile!(3, 2),
        (3, _) => tile!(3, 4),
        (_, 2) => tile!(4, 2),
        (_, _) => tile!(4, 4),
    }
}

/// `sdot` takes up to four cycles, and two start in each: eight accumulators keep it busy, so that small tiles sum even
/// and odd quads apart.
const fn sums(accumulators: usize) -> usize {
    if accumulators < 8 { 2 } else { 1 }
}

/// `PIXELS` patches by `VECTORS` times four channels, `SUMS` accumulators for each pair of them: for four by four, 16 accumulators, 4 registers of inputs and 4 to 8
/// of weights.
///
/// # Safety
///
/// The strip of the tile has `PIXELS` pixels from the tile's first on, and the group has these channels, or padding
/// of the panel they are in.
#[target_feature(enable = "neon,dotprod")]
#[inline]
unsafe fn tile_dotprod<const PIXELS: usize, const VECTORS: usize, const SUMS: usize>(
    tile: &Tile<'_>,
    requantize: &RequantizeNeon,
) {
    let patches = patch_pointers::<PIXELS>(tile);
    let mut acc = [[[vdupq_n_s32(0); VECTORS]; PIXELS]; SUMS];
    for v in 0..VECTORS {
        // SAFETY: the bias is padded to whole panels.
        let bias = unsafe { vld1q_s32(tile.bias.add(v * LANES)) };
        for pixel in 0..PIXELS {
            acc[0][pixel][v] = bias;
        }
    }
    let mut weights = tile.weights;
    macro_rules! quad {
        ($lane:literal, $x:expr) => {
            for v in 0..VECTORS {
                let w = vld1q_s8(weights.add($lane * PANEL_ROW + v * 16));
                for pixel in 0..PIXELS {
                    let sum = &mut acc[$lane % SUMS][pixel][v];
                    *sum = sdot_lane::<$lane>(*sum, w, $x[pixel]);
                }
            }
        };
    }
    for segment in Segments::new(tile.strip) {
        let mut at = segment;
        let mut quads = tile.strip.segment_quads;
        // SAFETY: `at` is a quad of the segment, in each of the patches; all segments together have as many quads as
        // a panel has rows.
        unsafe {
            while quads >= QUADS {
                let mut x = [vdupq_n_s8(0); PIXELS];
                for pixel in 0..PIXELS {
                    x[pixel] = vld1q_s8(patches[pixel].add(at).cast());
                }
                quad!(0, x);
                quad!(1, x);
                quad!(2, x);
                quad!(3, x);
                weights = weights.add(QUADS * PANEL_ROW);
                at += QUADS * PANEL_K;
                quads -= QUADS;
            }
            while quads > 0 {
                let mut x = [vdupq_n_s8(0); PIXELS];
                for pixel in 0..PIXELS {
                    let quad = patches[pixel].add(at).cast::<i32>().read_unaligned();
                    x[pixel] = vreinterpretq_s8_s32(vsetq_lane_s32::<0>(quad, vdupq_n_s32(0)));
                }
                quad!(0, x);
                weights = weights.add(PANEL_ROW);
                at += PANEL_K;
                quads -= 1;
            }
        }
    }
    let mut total = acc[0];
    for sum in 1..SUMS {
        for pixel in 0..PIXELS {
            for v in 0..VECTORS {
                total[pixel][v] = vaddq_s32(total[pixel][v], acc[sum][pixel][v]);
            }
        }
    }
    // SAFETY: as the caller's.
    unsafe { finish(tile, requantize, &total, 0) }
}
