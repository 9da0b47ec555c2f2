//! The i8 convolution with matrix products: `smmla` takes eight inputs of two pixels by two channels.
//!
//! Two rows of a panel, zipped by quads, have the eight weights of two channels in a register: two instructions for four
//! channels, which tiles of four to six pixels repay. Smaller ones go to `sdot`.

use core::arch::aarch64::*;

use super::{LANES, dotprod, finish};
use crate::kernels::PANEL_K;
use crate::kernels::aarch64::smmla;
use crate::kernels::conv_i8::tile::{PANEL_ROW, Segments, Tile, patch_pointers};
use crate::kernels::requantize::aarch64::RequantizeNeon;

/// # Safety
///
/// As [`tile_i8mm`] with these numbers of pixels and registers of channels.
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(super) unsafe fn tile(
    tile: &Tile<'_>,
    requantize: &RequantizeNeon,
    pixels: usize,
    vectors: usize,
) {
    macro_rules! tile {
        ($pixels:literal, $vectors:literal) => {
            // SAFETY: as the caller's.
            unsafe { tile_i8mm::<$pixels, { ($pixels + 1) / 2 }, $vectors>(tile, requantize) }
        };
    }
    match (pixels, vectors) {
        // SAFETY: as the caller's.
        (..4, _) => unsafe { dotprod::tile(tile, requantize, pixels, vectors) },
        (4, 2) => tile!(4, 2),
        (4, _) => tile!(4, 4),
        (5, 2) => tile!(5, 2),
        (5, _) => tile!(5, 4),
        (_, 2) => tile!(6, 2),
        (_, _) => tile!(6, 4),
    }
}

/// `PIXELS` patches, in `TWOS` pairs, by `VECTORS` times four channels: for six by four, 24 accumulators of two pixels and two
/// channels each, 3 registers of inputs and 2 to 4 of weights.
///
/// # Safety
///
/// The strip of the tile has `PIXELS` pixels from the tile's first on, and the group has these channels, or padding
/// of the panel that the first is in.
#[target_feature(enable = "neon,dotprod,i8mm")]
#[inline]
unsafe fn tile_i8mm<const PIXELS: usize, const TWOS: usize, const VECTORS: usize>(
    tile: &Tile<'_>,
    requantize: &RequantizeNeon,
) {
    let patches = patch_pointers::<PIXELS>(tile);
    // The last of an odd number of pixels is its own partner.
    let partner = |two: usize| patches[(2 * two + 1).min(PIXELS - 1)];
    let mut acc = [[[vdupq_n_s32(0); 2]; VECTORS]; TWOS];
    let mut weights = tile.weights;
    for segment in Segments::new(tile.strip) {
        let mut at = segment;
        let mut quads = tile.strip.segment_quads;
        // SAFETY: `at` is a quad of the segment, in each of the patches; all segments together have as many quads as
        // a panel has rows.
        unsafe {
            while quads >= 2 {
                let mut x = [vdupq_n_s8(0); TWOS];
                for two in 0..TWOS {
                    let (a, b) = (patches[2 * two].add(at), partner(two).add(at));
                    x[two] = vcombine_s8(vld1_s8(a.cast()), vld1_s8(b.cast()));
                }
                for v in 0..VECTORS {
                    let w = vld1q_s32(weights.add(v * 16).cast());
                    let w_next = vld1q_s32(weights.add(PANEL_ROW + v * 16).cast());
                    let low = vreinterpretq_s8_s32(vzip1q_s32(w, w_next));
                    let high = vreinterpretq_s8_s32(vzip2q_s32(w, w_next));
                    for two in 0..TWOS {
                        acc[two][v][0] = smmla(acc[two][v][0], x[two], low);
                        acc[two][v][1] = smmla(acc[two][v][1], x[two], high);
                    }
                }
                weights = weights.add(2 * PANEL_ROW);
                at += 2 * PANEL_K;
                quads -= 2;
            }
            // A quad that is left over meets zeros in the other half.
            if quads > 0 {
                let zero = vdupq_n_s32(0);
                for v in 0..VECTORS {
                    let w = vld1q_s32(weights.add(v * 16).cast());
                    let low = vreinterpretq_s8_s32(vzip1q_s32(w, zero));
                    let high = vreinterpretq_s8_s32(vzip2q_s32(w, zero));
                    for two in 0..TWOS {
                        let a = patches[2 * two].add(at).cast::<i32>().read_unaligned();
                        let b = partner(two).add(at).cast::<i32>().read_unaligned();
                        let x = vsetq_lane_s32::<2>(b, vsetq_lane_s32::<0>(a, zero));
                        let x = vreinterpretq_s8_s32(x);
                        acc[two][v][0] = smmla(acc[two][v][0], x, low);
                        acc[two][v][1] = smmla(acc[two][v][1], x, high);
                    }
                }
                weights = weights.add(PANEL_ROW);
            }
        }
    }
    let mut sums = [[vdupq_n_s32(0); VECTORS]; PIXELS];
    for v in 0..VECTORS {
        // SAFETY: the bias is padded to whole panels.
        let bias = unsafe { vld1q_s32(tile.bias.add(v * LANES)) };
        for pixel in 0..PIXELS {
            // Two channels of the pixel from either accumulator.
            let [a, b] = acc[pixel / 2][v];
            let (a, b) = (vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b));
            let sum = if pixel % 2 == 0 { vzip1q_s64(a, b) } else { vzip2q_s64(a, b) };
            sums[pixel][v] = vaddq_s32(bias, vreinterpretq_s32_s64(sum));
        }
    }
    // SAFETY: as the caller's.
    unsafe { finish(tile, requantize, &sums, 0) }
}
