//! The i8 convolution in AVX2: i16 products, added in pairs by `pmaddwd`.

use core::arch::asm;
use core::arch::x86_64::*;

use crate::kernels::conv_i8::implicit_gemm::{self, Job, Patches, Simd, Strip, next_tile};
use crate::kernels::conv_i8::tile::{PANEL_ROW, Segments, Tile, patch_pointers};
use crate::kernels::requantize::x86_64::RequantizeAvx2;
use crate::kernels::{PANEL_K, PANEL_N};

/// Output channels of half a panel: the accumulators of a pixel fill two AVX2 registers.
pub(super) const HALF: usize = PANEL_N / 2;

/// Activations as i16.
pub(super) struct Avx2;

impl Simd for Avx2 {
    const ELEM_BYTES: usize = 2;
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
            unsafe { implicit_gemm::convert_patches::<Avx2>(patches) }
        }
        // SAFETY: as the trait's.
        unsafe { run(patches) }
    }

    #[inline(always)]
    unsafe fn fill(value: i8, dst: *mut u8, len: usize) {
        // SAFETY: as the trait's.
        unsafe { fill_avx2(value, dst, len) }
    }

    #[inline(always)]
    unsafe fn strip(job: &Job<'_>, group: usize, strip: &Strip) {
        // SAFETY: as the trait's.
        unsafe { strip_avx2(job, group, strip) }
    }
}

/// # Safety
///
/// `src` is valid for 16 reads and `dst` for 32 bytes of writes.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn convert_16_avx2(src: *const i8, dst: *mut u8) {
    // SAFETY: as the caller's.
    unsafe {
        let x = _mm_loadu_si128(src.cast());
        _mm256_storeu_si256(dst.cast(), _mm256_cvtepi8_epi16(x));
    }
}

/// # Safety
///
/// As [`Simd::convert`].
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn convert_avx2(src: *const i8, dst: *mut u8, len: usize) {
    // Short runs and the ends of long ones are two blocks that may overlap.
    // SAFETY: every block starts and ends within `len`.
    unsafe {
        if len >= 16 {
            let mut i = 0;
            while i + 16 <= len {
                convert_16_avx2(src.add(i), dst.add(2 * i));
                i += 16;
            }
            if i < len {
                convert_16_avx2(src.add(len - 16), dst.add(2 * (len - 16)));
            }
        } else if len >= 8 {
            for i in [0, len - 8] {
                let x = _mm_cvtepi8_epi16(_mm_loadl_epi64(src.add(i).cast()));
                _mm_storeu_si128(dst.add(2 * i).cast(), x);
            }
        } else if len >= 4 {
            for i in [0, len - 4] {
                let x = _mm_cvtsi32_si128(src.add(i).cast::<i32>().read_unaligned());
                _mm_storel_epi64(dst.add(2 * i).cast(), _mm_cvtepi8_epi16(x));
            }
        } else {
            for i in 0..len {
                dst.add(2 * i).cast::<i16>().write_unaligned(i16::from(*src.add(i)));
            }
        }
    }
}

/// # Safety
///
/// As [`Simd::fill`].
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn fill_avx2(value: i8, dst: *mut u8, len: usize) {
    let values = _mm256_set1_epi16(i16::from(value));
    let whole = len / 16 * 16;
    for i in (0..whole).step_by(16) {
        // SAFETY: `i + 16 <= len`.
        unsafe { _mm256_storeu_si256(dst.add(2 * i).cast(), values) };
    }
    for i in whole..len {
        // SAFETY: `i < len`.
        unsafe { dst.add(2 * i).cast::<i16>().write_unaligned(i16::from(value)) };
    }
}

/// # Safety
///
/// As [`Simd::strip`].
#[target_feature(enable = "avx2")]
unsafe fn strip_avx2(job: &Job<'_>, group: usize, strip: &Strip) {
    let requantize = RequantizeAvx2::new(&job.epilogue);
    let channels = job.geometry.group_out_c();
    let mut channel = 0;
    while channel < channels {
        // One or two pixels leave registers for whole panels.
        let halves = match (strip.pixels, (channels - channel).div_ceil(HALF)) {
            (1, 4..) => 4,
            (1 | 2, 2..) => 2,
            _ => 1,
        };
        let mut left = strip.pixels;
        // SAFETY: `channel` is in the group; tiles start at multiples of half a panel, and several
        // halves at whole panels, so their padded channels exist. The strip has `left` pixels from
        // the tile's first on, and `next_tile` is no more.
        unsafe {
            let mut tile = Tile::first(job, group, strip, channel);
            while left > 0 {
                let pixels = next_tile::<Avx2>(left);
                match (pixels, halves) {
                    (1, 1) => tile_avx2::<1, 1>(&tile, &requantize),
                    (1, 2) => tile_avx2::<1, 2>(&tile, &requantize),
                    (1, _) => tile_avx2::<1, 4>(&tile, &requantize),
                    (2, 1) => tile_avx2::<2, 1>(&tile, &requantize),
                    (2, _) => tile_avx2::<2, 2>(&tile, &requantize),
                    (3, _) => tile_avx2::<3, 1>(&tile, &requantize),
                    (4, _) => tile_avx2::<4, 1>(&tile, &requantize),
                    (5, _) => tile_avx2::<5, 1>(&tile, &requantize),
                    _ => tile_avx2::<6, 1>(&tile, &requantize),
                }
                tile.advance(pixels);
                left -= pixels;
            }
        }
        channel += halves * HALF;
    }
}

/// `PIXELS` patches by `HALVES` times eight channels: `2 · PIXELS · HALVES` accumulators, each of
/// four channels and the two pairs of a quad.
///
/// # Safety
///
/// The strip of the tile has `PIXELS` pixels from the tile's first on, and the panel has `HALVES`
/// halves from the tile's first channel on.
#[target_feature(enable = "avx2")]
unsafe fn tile_avx2<const PIXELS: usize, const HALVES: usize>(
    tile: &Tile<'_>,
    requantize: &RequantizeAvx2,
) {
    let strip = tile.strip;
    let patches = patch_pointers::<PIXELS>(tile);
    let mut acc = [[[_mm256_setzero_si256(); 2]; HALVES]; PIXELS];
    for half in 0..HALVES {
        for i in 0..2 {
            // SAFETY: the bias is padded to whole panels. It goes to the first of two pairs.
            let bias = unsafe { _mm_loadu_si128(tile.bias.add(half * HALF + i * 4).cast()) };
            for pixel in 0..PIXELS {
                acc[pixel][half][i] = _mm256_cvtepu32_epi64(bias);
            }
        }
    }
    let mut weights = tile.weights;
    for segment in Segments::new(strip) {
        for quad in 0..strip.segment_quads {
            // SAFETY: the segment has this quad in each of the patches; all segments together have
            // as many quads as the panel has rows.
            unsafe {
                let at = segment + quad * PANEL_K * Avx2::ELEM_BYTES;
                let mut w = [[_mm256_setzero_si256(); 2]; HALVES];
                for half in 0..HALVES {
                    for i in 0..2 {
                        let bytes = weights
                            .add(
                                half / 2 * tile.panel_bytes
                                    + quad * PANEL_ROW
                                    + (half % 2 * 2 + i) * 16,
                            )
                            .cast();
                        w[half][i] = _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes));
                    }
                }
                for pixel in 0..PIXELS {
                    let x = patches[pixel].add(at).cast::<i64>().read_unaligned();
                    let x = _mm256_set1_epi64x(x);
                    for half in 0..HALVES {
                        for i in 0..2 {
                            let products = _mm256_madd_epi16(x, w[half][i]);
                            acc[pixel][half][i] = _mm256_add_epi32(acc[pixel][half][i], products);
                        }
                    }
                }
            }
        }
        weights = weights.wrapping_add(strip.segment_quads * PANEL_ROW);
    }
    for half in 0..HALVES {
        let mut sums = [_mm256_setzero_si256(); PIXELS];
        for pixel in 0..PIXELS {
            let [a, b] = acc[pixel][half];
            sums[pixel] = add_pairs(a, b);
        }
        // SAFETY: as the caller's.
        unsafe { finish_avx2(tile, requantize, sums, half) };
    }
}

/// Requantizes and writes the sums of half a panel, its channels in the order of [`add_pairs`].
///
/// # Safety
///
/// The CPU has AVX2. The strip of the tile has `PIXELS` pixels from the tile's first on; channel `half * HALF` from the tile's
/// first on exists.
// Has no features of its own, so that it is inlined always: sums stay in registers.
#[inline(always)]
pub(super) unsafe fn finish_avx2<const PIXELS: usize>(
    tile: &Tile<'_>,
    requantize: &RequantizeAvx2,
    sums: [__m256i; PIXELS],
    half: usize,
) {
    let channels = (tile.channels - half * HALF).min(HALF);
    // SAFETY: the per-channel arrays are padded to whole panels; output and residual have
    // `channels` elements at this place in each of the rows of the tile.
    unsafe {
        let at = half * HALF;
        if channels == HALF && tile.residual.is_null() {
            let rows = requantize_avx2(tile, requantize, sums, at);
            store_avx2::<PIXELS, true>(tile, requantize, rows, at, HALF);
        } else if tile.residual.is_null() {
            let rows = requantize_avx2(tile, requantize, sums, at);
            store_avx2::<PIXELS, false>(tile, requantize, rows, at, channels);
        } else {
            let rows = requantize_sum_avx2(tile, requantize, sums, at, channels);
            store_avx2::<PIXELS, false>(tile, requantize, rows, at, channels);
        }
    }
}

/// Scales the sums of [`add_pairs`]; the order of channels stays.
///
/// # Safety
///
/// Channels `at..at + HALF` of the tile exist, or are padding.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn requantize_avx2<const PIXELS: usize>(
    tile: &Tile<'_>,
    requantize: &RequantizeAvx2,
    mut rows: [__m256i; PIXELS],
    at: usize,
) -> [__m256i; PIXELS] {
    // SAFETY: per-channel arrays are padded to whole panels.
    let scale = unsafe { load_scales(tile.scale.add(at)) };
    for pixel in 0..PIXELS {
        rows[pixel] = requantize.round(rows[pixel], scale);
    }
    rows
}

/// As [`requantize_avx2`], with the residual.
///
/// # Safety
///
/// As [`requantize_avx2`]; of the channels, `channels` exist, and so does the residual.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn requantize_sum_avx2<const PIXELS: usize>(
    tile: &Tile<'_>,
    requantize: &RequantizeAvx2,
    mut rows: [__m256i; PIXELS],
    at: usize,
    channels: usize,
) -> [__m256i; PIXELS] {
    // SAFETY: per-channel arrays are padded to whole panels; the residual has the rows of the tile.
    unsafe {
        let scale = load_scales(tile.scale.add(at));
        for pixel in 0..PIXELS {
            let data = load_partial(tile.residual.add(pixel * tile.residual_stride + at), channels);
            let data = swap_middle(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(data)));
            rows[pixel] = requantize.round_sum(rows[pixel], scale, data);
        }
    }
    rows
}

/// Narrows to i8, restores the order of channels and writes the first `channels`; `FULL` if all.
///
/// # Safety
///
/// Channels `at..at + channels` exist in the output rows of the tile.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn store_avx2<const PIXELS: usize, const FULL: bool>(
    tile: &Tile<'_>,
    requantize: &RequantizeAvx2,
    rows: [__m256i; PIXELS],
    at: usize,
    channels: usize,
) {
    for first in (0..PIXELS).step_by(4) {
        let row = |i: usize| rows[(first + i).min(PIXELS - 1)];
        let low = requantize.pack_i16(row(0), row(1));
        let high = requantize.pack_i16(row(2), row(3));
        let bytes = requantize.pack_i8(low, high);
        // Per lane, four bytes for each of four rows; pairs of them alternate.
        let lanes = (_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes));
        let low = _mm_unpacklo_epi16(lanes.0, lanes.1);
        let high = _mm_unpackhi_epi16(lanes.0, lanes.1);
        for i in 0..4.min(PIXELS - first) {
            let pair = if i < 2 { low } else { high };
            // SAFETY: as the caller's.
            unsafe {
                let dst = tile.output.add((first + i) * tile.output_stride + at);
                match (FULL, i % 2) {
                    (true, 0) => _mm_storel_epi64(dst.cast(), pair),
                    (true, _) => _mm_storeh_pd(dst.cast(), _mm_castsi128_pd(pair)),
                    (false, 0) => store_partial(dst, _mm_cvtsi128_si64(pair), channels),
                    (false, _) => store_partial(dst, _mm_extract_epi64::<1>(pair), channels),
                }
            }
        }
    }
}

/// Sums of neighbours: per 128-bit lane, two of `a`, then two of `b`.
#[target_feature(enable = "avx2")]
#[inline]
fn add_pairs(a: __m256i, b: __m256i) -> __m256i {
    let (a, b) = (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b));
    let mut even = _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(a, b));
    let odd = _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(a, b));
    // The compiler would make this `vphaddd`, which takes twice the time.
    // SAFETY: no instruction.
    unsafe {
        asm!("/* {0} */", inout(ymm_reg) even, options(pure, nomem, nostack, preserves_flags));
    }
    _mm256_add_epi32(even, odd)
}

/// Eight scales in the order that [`add_pairs`] leaves channels in: 0, 1, 4, 5, 2, 3, 6, 7.
///
/// # Safety
///
/// `src` is valid for eight reads.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn load_scales(src: *const f32) -> __m256 {
    // SAFETY: as the caller's.
    _mm256_castsi256_ps(swap_middle(unsafe { _mm256_loadu_si256(src.cast()) }))
}

/// Exchanges the second and the third quarter.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn swap_middle(x: __m256i) -> __m256i {
    _mm256_permute4x64_epi64::<0b11_01_10_00>(x)
}

/// The first `len` of eight bytes, zeros after them.
///
/// # Safety
///
/// `src` is valid for `len` reads, `len` is 1..=8.
#[inline(always)]
unsafe fn load_partial(src: *const i8, len: usize) -> i64 {
    // SAFETY: as the caller's.
    unsafe {
        if len == 8 {
            return src.cast::<i64>().read_unaligned();
        }
        let mut bytes = [0u8; 8];
        for i in 0..len {
            bytes[i] = *src.add(i) as u8;
        }
        i64::from_le_bytes(bytes)
    }
}

/// Writes the first `len` of eight bytes.
///
/// # Safety
///
/// `dst` is valid for `len` writes, `len` is 1..=8.
#[inline(always)]
unsafe fn store_partial(dst: *mut i8, bytes: i64, len: usize) {
    // SAFETY: the pieces that a binary digit of `len` stands for end at `len`.
    unsafe {
        if len == 8 {
            return dst.cast::<i64>().write_unaligned(bytes);
        }
        let (mut dst, mut bytes) = (dst, bytes);
        if len & 4 != 0 {
            dst.cast::<i32>().write_unaligned(bytes as i32);
            (dst, bytes) = (dst.add(4), bytes >> 32);
        }
        if len & 2 != 0 {
            dst.cast::<i16>().write_unaligned(bytes as i16);
            (dst, bytes) = (dst.add(2), bytes >> 16);
        }
        if len & 1 != 0 {
            dst.write(bytes as i8);
        }
    }
}
