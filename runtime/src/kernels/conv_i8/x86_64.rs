//! The i8 convolution in AVX2 and in AVX-512 with VNNI.
//!
//! AVX2 widens both operands to i16 and multiplies pairs with `pmaddwd`, which is exact for all
//! i8. AVX-512 has `vpdpbusd`, which wants unsigned activations: it gets `x + 128`, and starts
//! from `bias − 128 · Σ weights`.

use core::arch::asm;
use core::arch::x86_64::*;

use super::ConvI8;
use super::implicit_gemm::{self, Job, Patches, Simd, Strip, next_tile};
use crate::kernels::requantize::x86_64::{RequantizeAvx2, RequantizeAvx512};
use crate::kernels::{ConvGeometry, PANEL_K, PANEL_N};

/// Output channels of half a panel: the accumulators of a pixel fill two AVX2 registers.
const HALF: usize = PANEL_N / 2;

/// Bytes of a quad of inputs for one panel.
const PANEL_ROW: usize = PANEL_N * PANEL_K;

pub(super) fn scratch_bytes_avx2(geometry: &ConvGeometry) -> usize {
    implicit_gemm::scratch_bytes::<Avx2>(geometry)
}

pub(super) fn scratch_bytes_avx512(geometry: &ConvGeometry) -> usize {
    implicit_gemm::scratch_bytes::<Avx512>(geometry)
}

/// Only for CPUs with AVX2: `select` hands it out after asking.
pub(super) fn conv_i8_avx2(conv: &mut ConvI8<'_>) {
    #[target_feature(enable = "avx2")]
    fn run(conv: &mut ConvI8<'_>) {
        // SAFETY: this function has the feature.
        unsafe { implicit_gemm::run::<Avx2>(conv) }
    }
    // SAFETY: `select` gives this function out only if `Isa::Avx2.is_available()`.
    unsafe { run(conv) }
}

/// Only for CPUs with AVX-512 and VNNI: `select` hands it out after asking.
pub(super) fn conv_i8_avx512vnni(conv: &mut ConvI8<'_>) {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn run(conv: &mut ConvI8<'_>) {
        // SAFETY: this function has the features.
        unsafe { implicit_gemm::run::<Avx512>(conv) }
    }
    if conv.weight_sums.is_empty() {
        // `Isa::Avx512` includes `Isa::Avx2`.
        return conv_i8_avx2(conv);
    }
    // SAFETY: `select` gives this function out only if `Isa::Avx512.is_available()`.
    unsafe { run(conv) }
}

/// A few pixels by a few output channels, whose accumulators are in registers.
struct Tile<'a> {
    strip: &'a Strip,
    /// Patch of the first pixel, if it starts in slot 0.
    patches: *const u8,
    /// First panel row, or half of one.
    weights: *const i8,
    /// Bytes from a panel to the next.
    panel_bytes: usize,
    /// Per-channel arrays, from the first channel on.
    bias: *const i32,
    weight_sums: *const i32,
    scale: *const f32,
    /// Channels to write; those beyond are padding.
    channels: usize,
    output: *mut i8,
    output_stride: usize,
    /// Same place in the residual, or null.
    residual: *const i8,
    residual_stride: usize,
}

impl<'a> Tile<'a> {
    /// # Safety
    ///
    /// As [`Simd::strip`]; the strip has a pixel, and `channel` is one of the group.
    #[inline(always)]
    unsafe fn first(job: &Job<'_>, group: usize, strip: &'a Strip, channel: usize) -> Self {
        let g = &job.geometry;
        let panel_bytes = g.k().next_multiple_of(PANEL_K) * PANEL_N;
        let padded_channel = group * g.padded_group_out_c() + channel;
        let row = strip.first_pixel;
        let column = group * g.group_out_c() + channel;
        // SAFETY: all are elements of their slices by `ConvI8::check`: the pixel and the channel
        // exist, and so do the padded channels of the group.
        unsafe {
            Tile {
                strip,
                patches: strip.patches,
                weights: job.weights.add(
                    padded_channel / PANEL_N * panel_bytes + padded_channel % PANEL_N * PANEL_K,
                ),
                panel_bytes,
                bias: job.bias.add(padded_channel),
                weight_sums: job.weight_sums.wrapping_add(padded_channel),
                scale: job.epilogue.scale.as_ptr().add(padded_channel),
                channels: g.group_out_c() - channel,
                output: job.output.add(row * job.output_stride + column),
                output_stride: job.output_stride,
                residual: match &job.epilogue.residual {
                    Some(residual) => residual.data.as_ptr().add(row * g.out_c + column),
                    None => core::ptr::null(),
                },
                residual_stride: g.out_c,
            }
        }
    }

    /// Moves on by `pixels`; the tile may come to the end of the strip, and is of no use then.
    #[inline(always)]
    fn advance(&mut self, pixels: usize) {
        self.patches = self.patches.wrapping_add(pixels * self.strip.pixel_bytes);
        self.output = self.output.wrapping_add(pixels * self.output_stride);
        if !self.residual.is_null() {
            self.residual = self.residual.wrapping_add(pixels * self.residual_stride);
        }
    }
}

/// Where in a patch its segments start, relative to slot 0.
struct Segments {
    left: usize,
    slot: usize,
    slots: usize,
    slot_step: usize,
    slot_bytes: usize,
}

impl Segments {
    #[inline(always)]
    fn new(strip: &Strip) -> Self {
        let Strip { segments, first_slot, slots, slot_step, slot_bytes, .. } = *strip;
        Segments { left: segments, slot: first_slot, slots, slot_step, slot_bytes }
    }
}

impl Iterator for Segments {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let start = self.slot * self.slot_bytes;
        self.slot += self.slot_step;
        if self.slot >= self.slots {
            self.slot -= self.slots;
        }
        Some(start)
    }
}

/// The patches of a tile. The compiler may not know that they are a constant distance apart: it
/// would go from one to the next by addition in the innermost loop, which costs an eighth of its
/// speed on Zen 3.
#[inline(always)]
fn patch_pointers<const PIXELS: usize>(tile: &Tile<'_>) -> [*const u8; PIXELS] {
    let mut patches = [tile.patches; PIXELS];
    for pixel in 0..PIXELS {
        patches[pixel] = tile.patches.wrapping_add(pixel * tile.strip.pixel_bytes);
        // SAFETY: no instruction.
        unsafe {
            asm!(
                "/* {0} */",
                inout(reg) patches[pixel],
                options(pure, nomem, nostack, preserves_flags)
            );
        }
    }
    patches
}

/// Activations as i16.
struct Avx2;

impl Simd for Avx2 {
    const ELEM_BYTES: usize = 2;

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
                let pixels = next_tile(left);
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
        let channels = (tile.channels - half * HALF).min(HALF);
        let mut sums = [_mm256_setzero_si256(); PIXELS];
        for pixel in 0..PIXELS {
            let [a, b] = acc[pixel][half];
            sums[pixel] = add_pairs(a, b);
        }
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
fn swap_middle(x: __m256i) -> __m256i {
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

/// Activations as `x + 128` in u8.
struct Avx512;

impl Simd for Avx512 {
    const ELEM_BYTES: usize = 1;

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
                let pixels = next_tile(left);
                tile_avx512vnni(&tile, &requantize, pixels, panels);
                tile.advance(pixels);
                left -= pixels;
            }
        }
        channel += panels * PANEL_N;
    }
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
        ($pixels:literal, $panels:literal, $sums:literal) => {
            // SAFETY: as the caller's.
            unsafe { tile_avx512vnni_of::<$pixels, $panels, $sums>(tile, requantize) }
        };
    }
    match (pixels, panels) {
        (1, 1) => tile!(1, 1, 2),
        (2, 1) => tile!(2, 1, 2),
        (3, 1) => tile!(3, 1, 2),
        (4, 1) => tile!(4, 1, 2),
        (5, 1) => tile!(5, 1, 2),
        (_, 1) => tile!(6, 1, 2),
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
    for panel in 0..PANELS {
        let channels = (tile.channels - panel * PANEL_N).min(PANEL_N);
        let mask = ((1u32 << channels) - 1) as __mmask16;
        // SAFETY: the scales are padded to whole panels; output and residual have `channels`
        // elements at this place in each of the rows of the tile, and the mask leaves out more.
        unsafe {
            let scale = _mm512_loadu_ps(tile.scale.add(panel * PANEL_N));
            for pixel in 0..PIXELS {
                let mut sum = acc[0][pixel][panel];
                for i in 1..SUMS {
                    sum = _mm512_add_epi32(sum, acc[i][pixel][panel]);
                }
                let bytes = if tile.residual.is_null() {
                    requantize.apply(sum, scale)
                } else {
                    let at = tile.residual.add(pixel * tile.residual_stride + panel * PANEL_N);
                    requantize.apply_sum(sum, scale, _mm_maskz_loadu_epi8(mask, at))
                };
                let at = tile.output.add(pixel * tile.output_stride + panel * PANEL_N);
                _mm_mask_storeu_epi8(at, mask, bytes);
            }
        }
    }
}
