//! The i8 convolution in AVX-512 with VNNI: a panel row is a register, a quad one instruction.

use core::arch::x86_64::*;

use crate::kernels::conv_i8::ConvI8;
use crate::kernels::conv_i8::implicit_gemm::{self, Job, Patches, Simd, Strip, next_tile};
use crate::kernels::conv_i8::tile::{PANEL_ROW, Segments, Tile, patch_pointers};
use crate::kernels::requantize::x86_64::RequantizeAvx512;
use crate::kernels::{PANEL_K, PANEL_N};

/// Pixels of tiles of one panel while the strip has as many: with six, loads take longer than
/// products.
const LONG_TILE: usize = 2 * Avx512::TILE_PIXELS;

/// Pixels of the last tiles of a row of 32, which is two long ones and this, or of 16.
const MIDDLE_TILE: usize = 8;

/// Panels whose outputs a row writes at once.
const ROW_PANELS: usize = 4;

/// Accumulators of a row's panel: `vpdpbusd` takes up to five cycles, and two start in each.
const ROW_SUMS: usize = 8;

/// Activations as `x + 128` in u8.
pub(super) struct Avx512;

impl Simd for Avx512 {
    const ELEM_BYTES: usize = 1;
    const TILE_PIXELS: usize = 6;
    const PLAIN: bool = false;

    #[inline(always)]
    unsafe fn convert(src: *const i8, dst: *mut u8, len: usize) {
        // SAFETY: as the trait's.
        unsafe { convert_avx512(src, dst, len) }
    }

    #[inline(always)]
    unsafe fn convert_block(src: *const i8, dst: *mut u8) {
        // SAFETY: as the trait's.
        unsafe { convert_16_avx512(src, dst) }
    }

    unsafe fn convert_patches(patches: &Patches) {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        unsafe fn run(patches: &Patches) {
            // SAFETY: as the trait's.
            unsafe { implicit_gemm::convert_patches::<Avx512>(patches) }
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
        unsafe { strip_avx512vnni(job, group, strip) }
    }
}

/// # Safety
///
/// `src` is valid for 16 reads and `dst` for 16 writes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn convert_16_avx512(src: *const i8, dst: *mut u8) {
    // SAFETY: as the caller's.
    unsafe {
        let x = _mm_loadu_si128(src.cast());
        _mm_storeu_si128(dst.cast(), _mm_xor_si128(x, _mm_set1_epi8(-128)));
    }
}

/// # Safety
///
/// As [`Simd::convert`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn convert_avx512(src: *const i8, dst: *mut u8, len: usize) {
    let sign = _mm512_set1_epi8(-128);
    let mut i = 0;
    while i + 64 <= len {
        // SAFETY: `i + 64 <= len`.
        unsafe {
            let x = _mm512_loadu_si512(src.add(i).cast());
            _mm512_storeu_si512(dst.add(i).cast(), _mm512_xor_si512(x, sign));
        }
        i += 64;
    }
    if i < len {
        let rest = (1u64 << (len - i)) - 1;
        // SAFETY: the mask leaves out what is at `len` and after.
        unsafe {
            let x = _mm512_maskz_loadu_epi8(rest, src.add(i));
            _mm512_mask_storeu_epi8(dst.add(i).cast(), rest, _mm512_xor_si512(x, sign));
        }
    }
}

/// # Safety
///
/// As [`Simd::strip`]; the job has weight sums.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn strip_avx512vnni(job: &Job<'_>, group: usize, strip: &Strip) {
    let requantize = RequantizeAvx512::new(&job.epilogue);
    let channels = job.geometry.group_out_c();
    let mut channel = 0;
    while channel < channels {
        let panels = match (channels - channel).div_ceil(PANEL_N) {
            1 => 1,
            2 | 3 => 2,
            _ => 4,
        };
        let mut left = strip.pixels;
        // SAFETY: `panels` panels of the group start at `channel`. The strip has `left` pixels from
        // the tile's first on, and `next_tile` is no more.
        unsafe {
            let mut tile = Tile::first(job, group, strip, channel);
            while left > 0 {
                let pixels = match panels {
                    1 if left == MIDDLE_TILE || left == 2 * MIDDLE_TILE => MIDDLE_TILE,
                    1 if left >= LONG_TILE => LONG_TILE,
                    _ => next_tile::<Avx512>(left),
                };
                tile_avx512vnni(&tile, &requantize, pixels, panels);
                tile.advance(pixels);
                left -= pixels;
            }
        }
        channel += panels * PANEL_N;
    }
}

/// A [row](crate::kernels::ConvGeometry::is_row) of whole quads: little is asked on the way, since a small layer takes as long to be told what
/// to do as to do it.
///
/// # Safety
///
/// The CPU has the features. The convolution has weight sums, and its weights are in panels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn row_avx512vnni(conv: &mut ConvI8<'_>) {
    conv.check();
    let (k, channels) = (conv.geometry.k(), conv.geometry.out_c);
    assert!(conv.scratch.len() >= k, "scratch too short");
    let patch = conv.scratch.as_mut_ptr();
    // SAFETY: the input has K activations, and scratch has room for as many.
    unsafe { convert_avx512(conv.input.as_ptr(), patch, k) };
    let strip = Strip::of_patches::<Avx512>(patch, k, 1, 0);
    let requantize = RequantizeAvx512::new(&conv.epilogue);
    let output = conv.output.as_mut_ptr();
    let mut channel = 0;
    while channel < channels {
        // SAFETY: the channel is one of the only group, whose strip has one pixel and its patch one segment.
        unsafe {
            let tile = Tile::of_row(conv, output, &strip, channel);
            channel += match (channels - channel).div_ceil(PANEL_N) {
                ROW_PANELS.. => {
                    row_panels_avx512vnni(&tile, &requantize);
                    ROW_PANELS
                }
                left => {
                    let panels = left.min(2);
                    tile_avx512vnni(&tile, &requantize, 1, panels);
                    panels
                }
            } * PANEL_N;
        }
    }
}

/// The channels of a row in [`ROW_PANELS`] panels. Weights are used once here, and reading them takes the time:
/// they are read in the order in which they lie. In registers of 256 bits the products take longer, and the order makes no
/// difference: AVX2 and AVX-VNNI have no such kernel.
///
/// # Safety
///
/// The strip has one pixel, whose patch is one segment. The job has weight sums, and the group `ROW_PANELS` panels from
/// the tile's first channel on.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn row_panels_avx512vnni(tile: &Tile<'_>, requantize: &RequantizeAvx512) {
    let quads = tile.strip.segment_quads;
    let mut sums = [[_mm512_setzero_si512(); ROW_PANELS]];
    for panel in 0..ROW_PANELS {
        // SAFETY: the group has this panel, the per-channel arrays are padded to whole ones, and a panel has as
        // many rows as the patch has quads.
        unsafe {
            let bias = _mm512_loadu_si512(tile.bias.add(panel * PANEL_N).cast());
            let weight_sums = _mm512_loadu_si512(tile.weight_sums.add(panel * PANEL_N).cast());
            let weights = tile.weights.add(panel * tile.panel_bytes);
            let multiply = |acc: __m512i, quad: usize| {
                let x = tile.patches.add(quad * PANEL_K).cast::<i32>().read_unaligned();
                let w = _mm512_loadu_si512(weights.add(quad * PANEL_ROW).cast());
                _mm512_dpbusd_epi32(acc, _mm512_set1_epi32(x), w)
            };
            let mut acc = [_mm512_setzero_si512(); ROW_SUMS];
            acc[0] = _mm512_sub_epi32(bias, _mm512_slli_epi32::<7>(weight_sums));
            let mut quad = 0;
            while quad + ROW_SUMS <= quads {
                for (i, acc) in acc.iter_mut().enumerate() {
                    *acc = multiply(*acc, quad + i);
                }
                quad += ROW_SUMS;
            }
            while quad < quads {
                acc[0] = multiply(acc[0], quad);
                quad += 1;
            }
            let mut half = ROW_SUMS / 2;
            while half > 0 {
                for i in 0..half {
                    acc[i] = _mm512_add_epi32(acc[i], acc[i + half]);
                }
                half /= 2;
            }
            sums[0][panel] = acc[0];
        }
    }
    // SAFETY: as the caller's.
    unsafe { finish_avx512(&mut sums, tile, requantize) };
}

/// # Safety
///
/// As [`tile_avx512vnni_of`] with these numbers of pixels and panels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn tile_avx512vnni(
    tile: &Tile<'_>,
    requantize: &RequantizeAvx512,
    pixels: usize,
    panels: usize,
) {
    // `vpdpbusd` takes up to five cycles, and two start in each: ten accumulators keep it busy,
    // so that small tiles sum even and odd quads apart.
    macro_rules! tile {
        ($pixels:expr, $panels:literal, $sums:literal) => {
            // SAFETY: as the caller's.
            unsafe { tile_avx512vnni_of::<{ $pixels }, $panels, $sums>(tile, requantize) }
        };
    }
    match (pixels, panels) {
        (1, 1) => tile!(1, 1, 2),
        (2, 1) => tile!(2, 1, 2),
        (3, 1) => tile!(3, 1, 2),
        (4, 1) => tile!(4, 1, 2),
        (5, 1) => tile!(5, 1, 2),
        (6, 1) => tile!(6, 1, 2),
        (MIDDLE_TILE, 1) => tile!(MIDDLE_TILE, 1, 1),
        (_, 1) => tile!(LONG_TILE, 1, 1),
        (1, 2) => tile!(1, 2, 2),
        (2, 2) => tile!(2, 2, 2),
        (3, 2) => tile!(3, 2, 2),
        (4, 2) => tile!(4, 2, 1),
        (5, 2) => tile!(5, 2, 1),
        (_, 2) => tile!(6, 2, 1),
        (1, _) => tile!(1, 4, 2),
        (2, _) => tile!(2, 4, 1),
        (3, _) => tile!(3, 4, 1),
        (4, _) => tile!(4, 4, 1),
        (5, _) => tile!(5, 4, 1),
        (_, _) => tile!(6, 4, 1),
    }
}

/// Adds the products of one quad.
///
/// # Safety
///
/// `patches` and `weights` are valid and at the same quad, that of the patches being `at`; the tile
/// has `PANELS` panels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn multiply_avx512vnni<const PIXELS: usize, const PANELS: usize>(
    acc: &mut [[__m512i; PANELS]; PIXELS],
    tile: &Tile<'_>,
    patches: &[*const u8; PIXELS],
    at: usize,
    weights: *const i8,
) {
    let mut w = [_mm512_setzero_si512(); PANELS];
    for panel in 0..PANELS {
        // SAFETY: a panel row is 64 bytes, and panels are `panel_bytes` apart.
        w[panel] = unsafe { _mm512_loadu_si512(weights.add(panel * tile.panel_bytes).cast()) };
    }
    for pixel in 0..PIXELS {
        // SAFETY: a quad is four bytes.
        let x = unsafe { patches[pixel].add(at).cast::<i32>().read_unaligned() };
        let x = _mm512_set1_epi32(x);
        for panel in 0..PANELS {
            acc[pixel][panel] = _mm512_dpbusd_epi32(acc[pixel][panel], x, w[panel]);
        }
    }
}

/// `PIXELS` patches by `PANELS` panels, `SUMS` accumulators for each pair of them.
///
/// # Safety
///
/// The strip of the tile has `PIXELS` pixels from the tile's first on, and the group has `PANELS`
/// panels from the tile's first channel on. The job has weight sums.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn tile_avx512vnni_of<const PIXELS: usize, const PANELS: usize, const SUMS: usize>(
    tile: &Tile<'_>,
    requantize: &RequantizeAvx512,
) {
    let strip = tile.strip;
    let mut acc = [[[_mm512_setzero_si512(); PANELS]; PIXELS]; SUMS];
    for panel in 0..PANELS {
        // SAFETY: the per-channel arrays are padded to whole panels.
        let start = unsafe {
            let bias = _mm512_loadu_si512(tile.bias.add(panel * PANEL_N).cast());
            let sums = _mm512_loadu_si512(tile.weight_sums.add(panel * PANEL_N).cast());
            _mm512_sub_epi32(bias, _mm512_slli_epi32::<7>(sums))
        };
        for pixel in 0..PIXELS {
            acc[0][pixel][panel] = start;
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
                    multiply_avx512vnni(&mut acc[sum], tile, &patches, at, weights);
                    weights = weights.add(PANEL_ROW);
                    at += PANEL_K;
                }
                quads -= SUMS;
            }
            // With two sums, an odd quad may remain.
            const { assert!(SUMS <= 2) };
            if quads > 0 {
                multiply_avx512vnni(&mut acc[0], tile, &patches, at, weights);
                weights = weights.add(PANEL_ROW);
            }
        }
    }
    let mut sums = [[_mm512_setzero_si512(); PANELS]; PIXELS];
    for pixel in 0..PIXELS {
        for panel in 0..PANELS {
            sums[pixel][panel] = acc[0][pixel][panel];
            for i in 1..SUMS {
                sums[pixel][panel] = _mm512_add_epi32(sums[pixel][panel], acc[i][pixel][panel]);
            }
        }
    }
    // SAFETY: as the caller's.
    unsafe { finish_avx512(&mut sums, tile, requantize) };
}

/// Writes the outputs of a tile's sums.
///
/// # Safety
///
/// The tile has these pixels and panels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn finish_avx512<const PIXELS: usize, const PANELS: usize>(
    sums: &mut [[__m512i; PANELS]; PIXELS],
    tile: &Tile<'_>,
    requantize: &RequantizeAvx512,
) {
    // SAFETY: as the caller's.
    unsafe {
        if tile.channels >= PANELS * PANEL_N {
            finish_avx512_of::<PIXELS, PANELS, true>(sums, tile, requantize);
        } else {
            finish_avx512_of::<PIXELS, PANELS, false>(sums, tile, requantize);
        }
    }
}

/// As [`finish_avx512`]; `FULL` if all channels of the panels exist.
///
/// # Safety
///
/// As [`finish_avx512`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn finish_avx512_of<const PIXELS: usize, const PANELS: usize, const FULL: bool>(
    sums: &mut [[__m512i; PANELS]; PIXELS],
    tile: &Tile<'_>,
    requantize: &RequantizeAvx512,
) {
    // SAFETY: as the caller's.
    unsafe {
        if tile.residual.is_null() {
            round_avx512(sums, tile, requantize);
        } else {
            round_sum_avx512::<PIXELS, PANELS, FULL>(sums, tile, requantize);
        }
        store_avx512::<PIXELS, PANELS, FULL>(sums, tile, requantize);
    }
}

/// Scales the sums of a tile and rounds them. Only a pixel alone may have scales of one or more.
///
/// # Safety
///
/// The tile has these pixels and panels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn round_avx512<const PIXELS: usize, const PANELS: usize>(
    sums: &mut [[__m512i; PANELS]; PIXELS],
    tile: &Tile<'_>,
    requantize: &RequantizeAvx512,
) {
    for panel in 0..PANELS {
        // SAFETY: the scales are padded to whole panels.
        let scale = unsafe { _mm512_loadu_ps(tile.scale.add(panel * PANEL_N)) };
        for pixel in 0..PIXELS {
            let sum = sums[pixel][panel];
            sums[pixel][panel] = match PIXELS {
                1 => requantize.round_bounded(sum, scale),
                _ => requantize.round(sum, scale),
            };
        }
    }
}

/// As [`round_avx512`], with the residual; `FULL` if all channels of its panels exist.
///
/// # Safety
///
/// As [`round_avx512`]; the tile has a residual.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn round_sum_avx512<const PIXELS: usize, const PANELS: usize, const FULL: bool>(
    sums: &mut [[__m512i; PANELS]; PIXELS],
    tile: &Tile<'_>,
    requantize: &RequantizeAvx512,
) {
    for panel in 0..PANELS {
        let mask = if FULL { !0 } else { mask_of(tile.channels - panel * PANEL_N) };
        // SAFETY: the scales are padded to whole panels; the residual has these channels in each of
        // the rows of the tile, and the mask leaves out more.
        unsafe {
            let scale = _mm512_loadu_ps(tile.scale.add(panel * PANEL_N));
            for pixel in 0..PIXELS {
                let at = tile.residual.add(pixel * tile.residual_stride + panel * PANEL_N);
                let data = _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, at));
                sums[pixel][panel] = requantize.round_sum(sums[pixel][panel], scale, data);
            }
        }
    }
}

/// Narrows a tile to i8 and writes it; `FULL` if all channels of its panels exist.
///
/// # Safety
///
/// The tile has these pixels and panels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn store_avx512<const PIXELS: usize, const PANELS: usize, const FULL: bool>(
    sums: &[[__m512i; PANELS]; PIXELS],
    tile: &Tile<'_>,
    requantize: &RequantizeAvx512,
) {
    // From four of each of four panels to all of each.
    let in_order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for first in (0..PIXELS * PANELS).step_by(4) {
        let sum = |i: usize| {
            let i = (first + i).min(PIXELS * PANELS - 1);
            sums[i / PANELS][i % PANELS]
        };
        let bytes = requantize.pack([sum(0), sum(1), sum(2), sum(3)]);
        let bytes = _mm512_permutexvar_epi32(in_order, bytes);
        let pixel = first / PANELS;
        // SAFETY: the output has `channels` channels from the tile's first on, in each of the tile's rows.
        unsafe {
            let to = |pixel: usize| tile.output.add(pixel * tile.output_stride);
            let whole = FULL && pixel + 4 / PANELS <= PIXELS;
            match PANELS {
                // The pixels lie one behind the other, if they are several.
                _ if whole && tile.output_stride == PANELS * PANEL_N => {
                    _mm512_storeu_si512(to(pixel).cast(), bytes);
                }
                4 if FULL => _mm512_storeu_si512(to(pixel).cast(), bytes),
                4 => {
                    let mask = (1u64 << tile.channels) - 1;
                    _mm512_mask_storeu_epi8(to(pixel), mask, bytes);
                }
                2 => {
                    let mask = ((1u64 << tile.channels.min(32)) - 1) as __mmask32;
                    let halves =
                        [_mm512_castsi512_si256(bytes), _mm512_extracti64x4_epi64::<1>(bytes)];
                    for i in 0..2.min(PIXELS - pixel) {
                        if FULL {
                            _mm256_storeu_si256(to(pixel + i).cast(), halves[i]);
                        } else {
                            _mm256_mask_storeu_epi8(to(pixel + i), mask, halves[i]);
                        }
                    }
                }
                _ => {
                    let mask = mask_of(tile.channels);
                    let quarters = [
                        _mm512_castsi512_si128(bytes),
                        _mm512_extracti32x4_epi32::<1>(bytes),
                        _mm512_extracti32x4_epi32::<2>(bytes),
                        _mm512_extracti32x4_epi32::<3>(bytes),
                    ];
                    for i in 0..4.min(PIXELS - pixel) {
                        if FULL {
                            _mm_storeu_si128(to(pixel + i).cast(), quarters[i]);
                        } else {
                            _mm_mask_storeu_epi8(to(pixel + i), mask, quarters[i]);
                        }
                    }
                }
            }
        }
    }
}

/// The first `channels` lanes, at most all.
fn mask_of(channels: usize) -> __mmask16 {
    ((1u32 << channels.min(PANEL_N)) - 1) as __mmask16
}
