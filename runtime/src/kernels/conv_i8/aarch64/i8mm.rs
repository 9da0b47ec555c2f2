//! The i8 convolution with matrix products: `smmla` takes eight inputs of two pixels by two channels.
//!
//! Two rows of a panel, zipped by quads, have the eight weights of two channels in a register: two instructions for four
//! channels, which tiles of five and six pixels repay. Smaller ones go to `sdot`, which four pixels take as long with.

use core::arch::aarch64::*;
use core::arch::asm;

use super::{LANES, dotprod, finish};
use crate::kernels::PANEL_K;
use crate::kernels::aarch64::smmla;
use crate::kernels::conv_i8::tile::{PANEL_ROW, Segments, Tile, patch_pointers};
use crate::kernels::requantize::aarch64::RequantizeNeon;

/// Pairs of pixels in a tile.
const TWOS: usize = 3;

/// Sums of a tile: of two pixels by two channels, which are half of a register of the epilogue.
type Sums<const VECTORS: usize> = [[[int32x4_t; 2]; VECTORS]; TWOS];

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
    // SAFETY: as the caller's.
    unsafe {
        match (pixels, vectors) {
            (..=4, _) => dotprod::tile(tile, requantize, pixels, vectors),
            (5, 2) => tile_i8mm::<5, 2>(tile, requantize),
            (5, _) => tile_i8mm::<5, 4>(tile, requantize),
            (_, 2) => tile_i8mm::<6, 2>(tile, requantize),
            (_, _) => tile_i8mm::<6, 4>(tile, requantize),
        }
    }
}

/// `PIXELS` patches, five or six, by `VECTORS` times four channels.
///
/// # Safety
///
/// The strip of the tile has `PIXELS` pixels from the tile's first on, and the group has these channels, or padding
/// of the panel that the first is in.
#[target_feature(enable = "neon,dotprod,i8mm")]
#[inline]
unsafe fn tile_i8mm<const PIXELS: usize, const VECTORS: usize>(
    tile: &Tile<'_>,
    requantize: &RequantizeNeon,
) {
    let patches = patch_pointers::<PIXELS>(tile);
    let mut acc: Sums<VECTORS> = [[[vdupq_n_s32(0); 2]; VECTORS]; TWOS];
    let mut weights = tile.weights;
    for segment in Segments::new(tile.strip) {
        let mut patch = [patches[0]; 2 * TWOS];
        for pixel in 0..2 * TWOS {
            // The last of an odd number of pixels is its own partner.
            patch[pixel] = patches[pixel.min(PIXELS - 1)].wrapping_add(segment);
        }
        let eights = tile.strip.segment_quads / 2;
        // SAFETY: the segment has so many quads in each of the patches; all segments together have as many as a panel
        // has rows.
        unsafe {
            if eights > 0 {
                (patch, weights) = multiply(&mut acc, patch, weights, eights);
            }
            // A quad that is left over meets zeros in the other half.
            if !tile.strip.segment_quads.is_multiple_of(2) {
                let zero = vdupq_n_s32(0);
                for v in 0..VECTORS {
                    let w = vld1q_s32(weights.add(v * 16).cast());
                    let low = vreinterpretq_s8_s32(vzip1q_s32(w, zero));
                    let high = vreinterpretq_s8_s32(vzip2q_s32(w, zero));
                    for two in 0..TWOS {
                        let a = patch[2 * two].cast::<i32>().read_unaligned();
                        let b = patch[2 * two + 1].cast::<i32>().read_unaligned();
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

/// Adds the products of `eights` times two quads; returns where patches and weights go on.
///
/// # Safety
///
/// `patch` and `weights` are valid for so many quads, which are more than none; a row of weights is a panel's.
#[target_feature(enable = "neon,dotprod,i8mm")]
#[inline]
unsafe fn multiply<const VECTORS: usize>(
    acc: &mut Sums<VECTORS>,
    patch: [*const u8; 2 * TWOS],
    weights: *const i8,
    eights: usize,
) -> ([*const u8; 2 * TWOS], *const i8) {
    let (mut patch, mut weights) = (patch, weights);
    if VECTORS < 4 {
        for _ in 0..eights {
            // SAFETY: as the caller's.
            unsafe {
                let mut x = [vdupq_n_s8(0); TWOS];
                for two in 0..TWOS {
                    let (a, b) = (patch[2 * two], patch[2 * two + 1]);
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
                for pixel in 0..2 * TWOS {
                    patch[pixel] = patch[pixel].add(2 * PANEL_K);
                }
                weights = weights.add(2 * PANEL_ROW);
            }
        }
        return (patch, weights);
    }
    // 24 accumulators, 3 registers of inputs and 5 of weights are all 32: the compiler would move and spill. Indices of
    // registers are in range here; modulo, they are for fewer, too.
    let [p0, p1, p2, p3, p4, p5] = &mut patch;
    // SAFETY: reads 8 bytes of each patch and two rows of weights a round, as the caller vouches for; only what is
    // declared here changes.
    unsafe {
        asm!(
            "2:",
                "ldr {x0:d}, [{p0}], #8",
                "ldr {x1:d}, [{p2}], #8",
                "ldr {x2:d}, [{p4}], #8",
                "ld1 {{{x0:v}.d}}[1], [{p1}], #8",
                "ld1 {{{x1:v}.d}}[1], [{p3}], #8",
                "ld1 {{{x2:v}.d}}[1], [{p5}], #8",
                "ldp {w0:q}, {w1:q}, [{weights}, #0]",
                "ldp {w2:q}, {w3:q}, [{weights}, #64]",
                "zip1 {w4:v}.4s, {w0:v}.4s, {w2:v}.4s",
                "zip2 {w0:v}.4s, {w0:v}.4s, {w2:v}.4s",
                "smmla {a0:v}.4s, {x0:v}.16b, {w4:v}.16b",
                "smmla {a8:v}.4s, {x1:v}.16b, {w4:v}.16b",
                "smmla {a16:v}.4s, {x2:v}.16b, {w4:v}.16b",
                "smmla {a1:v}.4s, {x0:v}.16b, {w0:v}.16b",
                "smmla {a9:v}.4s, {x1:v}.16b, {w0:v}.16b",
                "smmla {a17:v}.4s, {x2:v}.16b, {w0:v}.16b",
                "zip1 {w4:v}.4s, {w1:v}.4s, {w3:v}.4s",
                "zip2 {w1:v}.4s, {w1:v}.4s, {w3:v}.4s",
                "smmla {a2:v}.4s, {x0:v}.16b, {w4:v}.16b",
                "smmla {a10:v}.4s, {x1:v}.16b, {w4:v}.16b",
                "smmla {a18:v}.4s, {x2:v}.16b, {w4:v}.16b",
                "smmla {a3:v}.4s, {x0:v}.16b, {w1:v}.16b",
                "smmla {a11:v}.4s, {x1:v}.16b, {w1:v}.16b",
                "smmla {a19:v}.4s, {x2:v}.16b, {w1:v}.16b",
                "ldp {w0:q}, {w1:q}, [{weights}, #32]",
                "ldp {w2:q}, {w3:q}, [{weights}, #96]",
                "zip1 {w4:v}.4s, {w0:v}.4s, {w2:v}.4s",
                "zip2 {w0:v}.4s, {w0:v}.4s, {w2:v}.4s",
                "smmla {a4:v}.4s, {x0:v}.16b, {w4:v}.16b",
                "smmla {a12:v}.4s, {x1:v}.16b, {w4:v}.16b",
                "smmla {a20:v}.4s, {x2:v}.16b, {w4:v}.16b",
                "smmla {a5:v}.4s, {x0:v}.16b, {w0:v}.16b",
                "smmla {a13:v}.4s, {x1:v}.16b, {w0:v}.16b",
                "smmla {a21:v}.4s, {x2:v}.16b, {w0:v}.16b",
                "zip1 {w4:v}.4s, {w1:v}.4s, {w3:v}.4s",
                "zip2 {w1:v}.4s, {w1:v}.4s, {w3:v}.4s",
                "smmla {a6:v}.4s, {x0:v}.16b, {w4:v}.16b",
                "smmla {a14:v}.4s, {x1:v}.16b, {w4:v}.16b",
                "smmla {a22:v}.4s, {x2:v}.16b, {w4:v}.16b",
                "smmla {a7:v}.4s, {x0:v}.16b, {w1:v}.16b",
                "smmla {a15:v}.4s, {x1:v}.16b, {w1:v}.16b",
                "smmla {a23:v}.4s, {x2:v}.16b, {w1:v}.16b",
            "add {weights}, {weights}, #128",
            "subs {n}, {n}, #1",
            "b.ne 2b",
                a0 = inout(vreg) acc[0][0 % VECTORS][0], a1 = inout(vreg) acc[0][0 % VECTORS][1],
                a2 = inout(vreg) acc[0][1 % VECTORS][0], a3 = inout(vreg) acc[0][1 % VECTORS][1],
                a4 = inout(vreg) acc[0][2 % VECTORS][0], a5 = inout(vreg) acc[0][2 % VECTORS][1],
                a6 = inout(vreg) acc[0][3 % VECTORS][0], a7 = inout(vreg) acc[0][3 % VECTORS][1],
                a8 = inout(vreg) acc[1][0 % VECTORS][0], a9 = inout(vreg) acc[1][0 % VECTORS][1],
                a10 = inout(vreg) acc[1][1 % VECTORS][0], a11 = inout(vreg) acc[1][1 % VECTORS][1],
                a12 = inout(vreg) acc[1][2 % VECTORS][0], a13 = inout(vreg) acc[1][2 % VECTORS][1],
                a14 = inout(vreg) acc[1][3 % VECTORS][0], a15 = inout(vreg) acc[1][3 % VECTORS][1],
                a16 = inout(vreg) acc[2][0 % VECTORS][0], a17 = inout(vreg) acc[2][0 % VECTORS][1],
                a18 = inout(vreg) acc[2][1 % VECTORS][0], a19 = inout(vreg) acc[2][1 % VECTORS][1],
                a20 = inout(vreg) acc[2][2 % VECTORS][0], a21 = inout(vreg) acc[2][2 % VECTORS][1],
                a22 = inout(vreg) acc[2][3 % VECTORS][0], a23 = inout(vreg) acc[2][3 % VECTORS][1],
            x0 = out(vreg) _, x1 = out(vreg) _, x2 = out(vreg) _,
            w0 = out(vreg) _, w1 = out(vreg) _, w2 = out(vreg) _, w3 = out(vreg) _, w4 = out(vreg) _,
            p0 = inout(reg) *p0, p1 = inout(reg) *p1, p2 = inout(reg) *p2,
            p3 = inout(reg) *p3, p4 = inout(reg) *p4, p5 = inout(reg) *p5,
            weights = inout(reg) weights, n = inout(reg) eights => _,
            options(readonly, nostack),
        );
    }
    (patch, weights)
}
