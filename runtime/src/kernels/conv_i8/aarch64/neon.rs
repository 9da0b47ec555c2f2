//! The i8 convolution in plain NEON: i16 products by `smull`, added to i32 in pairs by `sadalp`.

use core::arch::aarch64::*;

use super::{LANES, finish};
use crate::kernels::PANEL_K;
use crate::kernels::aarch64::add_two_products;
use crate::kernels::conv_i8::tile::{PANEL_ROW, Segments, Tile, patch_pointers};
use crate::kernels::requantize::aarch64::RequantizeNeon;

/// # Safety
///
/// As [`tile_neon`] with these numbers of pixels and registers of channels.
#[target_feature(enable = "neon")]
pub(super) unsafe fn tile<const PAIRS: bool>(
    tile: &Tile<'_>,
    requantize: &RequantizeNeon,
    pixels: usize,
    vectors: usize,
) {
    macro_rules! tile {
        ($pixels:literal, $vectors:literal) => {
            // SAFETY: as the caller's.
            unsafe { tile_neon::<$pixels, $vectors, PAIRS>(tile, requantize, 0) }
        };
        // Registers suffice for half of the channels at a time.
        ($pixels:literal, $vectors:literal, 2 times) => {
            // SAFETY: as the caller's; what both have written isn't read again.
            unsafe {
                tile_neon::<$pixels, $vectors, PAIRS>(tile, requantize, 0);
                if tile.channels > $vectors * LANES {
                    tile_neon::<$pixels, $vectors, PAIRS>(tile, requantize, $vectors);
                }
            }
        };
    }
    match (pixels, vectors) {
        (1, 2) => tile!(1, 2),
        (1, _) => tile!(1, 4),
        (2, 2) => tile!(2, 2),
        (2, _) => tile!(2, 4),
        (3, 2) => tile!(3, 2),
        (3, _) => tile!(3, 2, 2 times),
        (_, 2) => tile!(4, 2),
        (_, _) => tile!(4, 2, 2 times),
    }
}

/// `PIXELS` patches by `VECTORS` times four channels from register `first` on, each in two accumulators of two
/// channels and the two pairs of a quad. `PAIRS` sums the products of two quads in i16.
///
/// # Safety
///
/// The strip of the tile has `PIXELS` pixels from the tile's first on, and the group has these channels, or padding
/// of the panel that the first is in. With `PAIRS`, no weight is −128.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn tile_neon<const PIXELS: usize, const VECTORS: usize, const PAIRS: bool>(
    tile: &Tile<'_>,
    requantize: &RequantizeNeon,
    first: usize,
) {
    let patches = patch_pointers::<PIXELS>(tile);
    let mut acc = [[[vdupq_n_s32(0); 2]; VECTORS]; PIXELS];
    let mut weights = tile.weights.wrapping_add(first * 16);
    for segment in Segments::new(tile.strip) {
        let mut at = segment;
        let mut quads = tile.strip.segment_quads;
        // SAFETY: `at` is a quad of the segment, in each of the patches; all segments together have as many quads as
        // a panel has rows.
        unsafe {
            while PAIRS && quads >= 2 {
                let mut w = [[vdupq_n_s8(0); 2]; VECTORS];
                for v in 0..VECTORS {
                    w[v] =
                        [vld1q_s8(weights.add(v * 16)), vld1q_s8(weights.add(PANEL_ROW + v * 16))];
                }
                for pixel in 0..PIXELS {
                    let x = load_quad(patches[pixel].add(at));
                    let x_next = load_quad(patches[pixel].add(at + PANEL_K));
                    for v in 0..VECTORS {
                        acc[pixel][v] = add_two_products(acc[pixel][v], w[v], [x, x_next]);
                    }
                }
                weights = weights.add(2 * PANEL_ROW);
                at += 2 * PANEL_K;
                quads -= 2;
            }
            while quads > 0 {
                let mut w = [vdupq_n_s8(0); VECTORS];
                for v in 0..VECTORS {
                    w[v] = vld1q_s8(weights.add(v * 16));
                }
                for pixel in 0..PIXELS {
                    let x = load_quad(patches[pixel].add(at));
                    for v in 0..VECTORS {
                        let [a, b] = &mut acc[pixel][v];
                        *a = vpadalq_s16(*a, vmull_s8(vget_low_s8(w[v]), vget_low_s8(x)));
                        *b = vpadalq_s16(*b, vmull_high_s8(w[v], x));
                    }
                }
                weights = weights.add(PANEL_ROW);
                at += PANEL_K;
                quads -= 1;
            }
        }
    }
    let mut sums = [[vdupq_n_s32(0); VECTORS]; PIXELS];
    for v in 0..VECTORS {
        // SAFETY: the bias is padded to whole panels.
        let bias = unsafe { vld1q_s32(tile.bias.add((first + v) * LANES)) };
        for pixel in 0..PIXELS {
            let [a, b] = acc[pixel][v];
            sums[pixel][v] = vaddq_s32(bias, vpaddq_s32(a, b));
        }
    }
    // SAFETY: as the caller's.
    unsafe { finish(tile, requantize, &sums, first) }
}

/// A quad, four times.
///
/// # Safety
///
/// `src` is valid for four reads.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn load_quad(src: *const u8) -> int8x16_t {
    // SAFETY: as the caller's.
    vreinterpretq_s8_s32(vdupq_n_s32(unsafe { src.cast::<i32>().read_unaligned() }))
}
