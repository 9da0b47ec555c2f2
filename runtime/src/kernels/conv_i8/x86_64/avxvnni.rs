//! The i8 convolution in AVX2 with AVX-VNNI: half a panel row is a register, a quad one instruction.

use core::arch::x86_64::*;

use super::avx2::{HALF, finish_avx2, swap_middle};
use crate::kernels::conv_i8::implicit_gemm::{self, Job, Patches, Simd, Strip, next_tile};
use crate::kernels::conv_i8::tile::{PANEL_ROW, Segments, Tile, patch_pointers};
use crate::kernels::requantize::x86_64::RequantizeAvx2;
use crate::kernels::{PANEL_K, PANEL_N};

/// Bytes of half a panel row.
const HALF_ROW: usize = HALF * PANEL_K;

/// Activations as `x + 128` in u8.
pub(super) struct AvxVnni;

impl Simd for AvxVnni {
    const ELEM_BYTES: usize = 1;
    const TILE_PIXELS: usize = 6;
    const PLAIN: bool = false;

    #[inline(always)]
    unsafe fn convert(src: *const i8, dst: *mut u8, len: usize) {
        // SAFETY: as the trait's.
        unsafe { convert_avx2(src, dst, len) }
    }

    #[inline(always)]
    unsafe fn convert_block(src: *const i8, dst: *mut u8) {
        // SAFETY: as the trait's.
        unsafe { convert_16_avx2(src, dst) }
    }

    unsafe fn convert_patches(patches: &Patches) {
        #[target_feature(enable = "avx2")]
        unsafe fn run(patches: &Patches) {
            // SAFETY: as the trait's.
            unsafe { implicit_gemm::convert_patches::<AvxVnni>(patches) }
        }
        // SAFETY: as the trait's.
        unsafe { run(patches) }
    }

    #[inline(always)]
    unsafe fn fill(value: i8, dst: *mut u8, len: usize) {
        // SAFETY: as the trait's.
        unsafe { dst.write_bytes(value as u8 ^ 0x80, len) }
    }

    #[inline(always)]
    unsafe fn strip(job: &Job<'_>, group: usize, strip: &Strip) {
        // SAFETY: as the trait's.
        unsafe { strip_avxvnni(job, group, strip) }
    }
}

/// # Safety
///
/// `src` is valid for 16 reads and `dst` for 16 writes.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn convert_16_avx2(src: *const i8, dst: *mut u8) {
    // SAFETY: as the caller's.
    unsafe {
        let x = _mm_loadu_si128(src.cast());
        _mm_storeu_si128(dst.cast(), _mm_xor_si128(x, _mm_set1_epi8(-128)));
    }
}

/// # Safety
///
/// As [`Simd::convert`].
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn convert_avx2(src: *const i8, dst: *mut u8, len: usize) {
    // SAFETY: every block starts and ends within `len`; the last may overlap the one before.
    unsafe {
        if len < 16 {
            for i in 0..len {
                *dst.add(i) = *src.add(i) as u8 ^ 0x80;
            }
            return;
        }
        let mut i = 0;
        while i + 32 <= len {
            let x = _mm256_loadu_si256(src.add(i).cast());
            _mm256_storeu_si256(dst.add(i).cast(), _mm256_xor_si256(x, _mm256_set1_epi8(-128)));
            i += 32;
        }
        if i + 16 <= len {
            convert_16_avx2(src.add(i), dst.add(i));
            i += 16;
        }
        if i < len {
            convert_16_avx2(src.add(len - 16), dst.add(len - 16));
        }
    }
}

/// # Safety
///
/// As [`Simd::strip`]; the job has weight sums.
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn strip_avxvnni(job: &Job<'_>, group: usize, strip: &Strip) {
    let requantize = RequantizeAvx2::new(&job.epilogue);
    let channels = job.geometry.group_out_c();
    let mut channel = 0;
    while channel < channels {
        let halves = match (strip.pixels, (channels - channel).div_ceil(HALF)) {
            (1 | 2, 4..) => 4,
            (_, 2..) => 2,
            _ => 1,
        };
        let mut left = strip.pixels;
        // SAFETY: `channel` is in the group; tiles start at whole panels, so their padded channels exist. The
        // strip has `left` pixels from the tile's first on, and `next_tile` is no more.
        unsafe {
            let mut tile = Tile::first(job, group, strip, channel);
            while left > 0 {
                let pixels = next_tile::<AvxVnni>(left);
                tile_avxvnni(&tile, &requantize, pixels, halves);
                tile.advance(pixels);
                left -= pixels;
            }
        }
        channel += halves * HALF;
    }
}

/// # Safety
///
/// As [`tile_avxvnni_of`] with these numbers of pixels and halves of panels.
#[target_feature(enable = "avx2,avxvnni")]
#[inline]
unsafe fn tile_avxvnni(tile: &Tile<'_>, requantize: &RequantizeAvx2, pixels: usize, halves: usize) {
    // `vpdpbusd` takes up to five cycles, and two start in each: small tiles sum even and odd quads apart.
    macro_rules! tile {
        ($pixels:literal, $halves:literal, $sums:literal) => {
            // SAFETY: as the caller's.
            unsafe { tile_avxvnni_of::<$pixels, $halves, $sums>(tile, requantize) }
        };
    }
    match (pixels, halves) {
        (1, 1) => tile!(1, 1, 2),
        (2, 1) => tile!(2, 1, 2),
        (3, 1) => tile!(3, 1, 2),
        (4, 1) => tile!(4, 1, 2),
        (5, 1) => tile!(5, 1, 2),
        (_, 1) => tile!(6, 1, 2),
        (1, 2) => tile!(1, 2, 2),
        (2, 2) => tile!(2, 2, 2),
        (3, 2) => tile!(3, 2, 1),
        (4, 2) => tile!(4, 2, 1),
        (5, 2) => tile!(5, 2, 1),
        (_, 2) => tile!(6, 2, 1),
        (1, _) => tile!(1, 4, 2),
        (_, _) => tile!(2, 4, 1),
    }
}

/// Adds the products of one quad.
///
/// # Safety
///
/// `patches` and `weights` are valid and at the same quad, that of the patches being `at`; the tile has `HALVES` halves of
/// panels.
#[target_feature(enable = "avx2,avxvnni")]
#[inline]
unsafe fn multiply_avxvnni<const PIXELS: usize, const HALVES: usize>(
    acc: &mut [[__m256i; HALVES]; PIXELS],
    tile: &Tile<'_>,
    patches: &[*const u8; PIXELS],
    at: usize,
    weights: *const i8,
) {
    let mut w = [_mm256_setzero_si256(); HALVES];
    for half in 0..HALVES {
        // SAFETY: half a panel row is 32 bytes, and panels are `panel_bytes` apart.
        w[half] = unsafe {
            let row = weights.add(half / 2 * tile.panel_bytes + half % 2 * HALF_ROW);
            _mm256_loadu_si256(row.cast())
        };
    }
    for pixel in 0..PIXELS {
        // SAFETY: a quad is four bytes.
        let x = unsafe { patches[pixel].add(at).cast::<i32>().read_unaligned() };
        let x = _mm256_set1_epi32(x);
        for half in 0..HALVES {
            acc[pixel][half] = _mm256_dpbusd_avx_epi32(acc[pixel][half], x, w[half]);
        }
    }
}

/// `PIXELS` patches by `HALVES` halves of panels, `SUMS` accumulators for each pair of them.
///
/// # Safety
///
/// The strip of the tile has `PIXELS` pixels from the tile's first on, and the group has `HALVES` halves of panels from the
/// tile's first channel on, which is that of a panel. The job has weight sums.
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn tile_avxvnni_of<const PIXELS: usize, const HALVES: usize, const SUMS: usize>(
    tile: &Tile<'_>,
    requantize: &RequantizeAvx2,
) {
    let strip = tile.strip;
    let mut acc = [[[_mm256_setzero_si256(); HALVES]; PIXELS]; SUMS];
    for half in 0..HALVES {
        const { assert!(HALF * 2 == PANEL_N) };
        // SAFETY: the per-channel arrays are padded to whole panels.
        let start = unsafe {
            let bias = _mm256_loadu_si256(tile.bias.add(half * HALF).cast());
            let sums = _mm256_loadu_si256(tile.weight_sums.add(half * HALF).cast());
            _mm256_sub_epi32(bias, _mm256_slli_epi32::<7>(sums))
        };
        for pixel in 0..PIXELS {
            acc[0][pixel][half] = start;
        }
    }
    let patches = patch_pointers::<PIXELS>(tile);
    let mut weights = tile.weights;
    for segment in Segments::new(strip) {
        let mut at = segment;
        let mut quads = strip.segment_quads;
        // SAFETY: `at` is a quad of the segment, in each of the patches; all segments together
        // have as many quads as a panel has rows.
        unsafe {
            while quads >= SUMS {
                for sum in 0..SUMS {
                    multiply_avxvnni(&mut acc[sum], tile, &patches, at, weights);
                    weights = weights.add(PANEL_ROW);
                    at += PANEL_K;
                }
                quads -= SUMS;
            }
            // With two sums, an odd quad may remain.
            const { assert!(SUMS <= 2) };
            if quads > 0 {
                multiply_avxvnni(&mut acc[0], tile, &patches, at, weights);
                weights = weights.add(PANEL_ROW);
            }
        }
    }
    for half in 0..HALVES {
        let mut sums = [_mm256_setzero_si256(); PIXELS];
        for pixel in 0..PIXELS {
            let mut sum = acc[0][pixel][half];
            for i in 1..SUMS {
                sum = _mm256_add_epi32(sum, acc[i][pixel][half]);
            }
            sums[pixel] = swap_middle(sum);
        }
        // SAFETY: as the caller's.
        unsafe { finish_avx2(tile, requantize, sums, half) };
    }
}
