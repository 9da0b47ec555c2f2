//! The i8 depthwise convolution in AVX-VNNI: one `vpdpbusd` for four taps, 32 outputs at a time.
//!
//! As in AVX-512, the bytes of four taps are interleaved over four registers, and the packs of the epilogue bring
//! outputs back in order. They are channels of one pixel, or of several where a pixel has 8 or 16.

use core::arch::x86_64::*;

use super::columns::{QUADS, Row, Way};
use crate::kernels::ConvGeometry;
use crate::kernels::depthwise_i8::padded_c;
use crate::kernels::depthwise_i8::walk::{Job, for_each_pixel};
use crate::kernels::requantize::x86_64::RequantizeAvx2;

/// Bytes of a register: outputs computed at once.
const VECTOR: usize = 32;

/// Added to activations, because `vpdpbusd` wants them unsigned; flips the sign bit.
const OFFSET: i8 = -128;

/// Bytes of four registers.
const REGISTERS: usize = 4 * VECTOR;

/// Bytes of a block's constants: accumulators to start from, scales, weights of every quad of taps.
const fn constants_bytes(quads: usize) -> usize {
    (2 + quads) * REGISTERS
}

/// How the output is walked.
#[derive(Clone, Copy)]
enum Walk {
    /// 3×3 kernels of stride 1 or 2: a column of the input is interleaved once for the outputs that it meets.
    Columns(Way),
    /// The same kernels over pixels of 8 or 16 channels, several at once.
    SeveralPixels,
    /// Any kernel.
    Pixels,
}

/// The walk, and where things are in scratch: constants of each block of channels, pointers to the taps of a pixel,
/// then a pixel of padding, or a row of it for several pixels.
pub(super) struct Plan {
    walk: Walk,
    /// Blocks of 32 channels, or one for several pixels.
    blocks: usize,
    quads: usize,
    pointers: usize,
    padding: usize,
    pub(super) bytes: usize,
}

impl Plan {
    /// `None` if the kernel isn't for this geometry.
    pub(super) fn new(g: &ConvGeometry, contiguous: bool) -> Option<Self> {
        let taps = g.kernel_h * g.kernel_w;
        let strides_fit = [g.stride_h, g.stride_w].iter().all(|stride| (1..=2).contains(stride));
        let is_3x3 = (g.kernel_h, g.kernel_w, g.dilation_h, g.dilation_w) == (3, 3, 1, 1);
        let walk = match g.in_c {
            8 | 16 if is_3x3 && strides_fit && contiguous && g.out_w * g.in_c >= VECTOR => {
                Walk::SeveralPixels
            }
            VECTOR.. if is_3x3 && strides_fit => Walk::Columns(Way::of_long_rows(g)),
            VECTOR.. => Walk::Pixels,
            _ => return None,
        };
        let quads = if is_3x3 && strides_fit { QUADS } else { taps.div_ceil(4) };
        let blocks = g.in_c.div_ceil(VECTOR);
        let pointers = blocks * constants_bytes(quads);
        let padding = match walk {
            Walk::Pixels => pointers + taps * size_of::<*const i8>(),
            _ => pointers,
        };
        let padding_pixels = if matches!(walk, Walk::SeveralPixels) { g.in_w } else { 1 };
        let bytes = padding + padding_pixels * g.in_c;
        Some(Plan { walk, blocks, quads, pointers, padding, bytes })
    }

    /// # Safety
    ///
    /// The CPU has AVX2 and AVX-VNNI. The lengths of `job` are checked; this is its plan, with as much scratch as it
    /// says; the job has outputs, and no residual.
    #[target_feature(enable = "avx2,avxvnni")]
    pub(super) unsafe fn run(&self, job: &Job<'_>) {
        let g = &job.geometry;
        let requantize = &RequantizeAvx2::new(&job.epilogue);
        // SAFETY: the plan reserves the padding, and constants for every block.
        let padding = unsafe {
            let padding = job.scratch.add(self.padding).cast::<i8>();
            padding.write_bytes(job.input_zero_point as u8, self.bytes - self.padding);
            match (self.walk, g.in_c) {
                (Walk::SeveralPixels, 8) => self.write_constants::<8>(job),
                (Walk::SeveralPixels, _) => self.write_constants::<16>(job),
                _ => self.write_constants::<VECTOR>(job),
            }
            padding.cast_const()
        };
        match self.walk {
            Walk::Columns(way) => {
                let row = match way.stride(g) {
                    1 => row_avxvnni::<1>,
                    _ => row_avxvnni::<2>,
                };
                // SAFETY: the kernel is 3×3; there are constants for every block.
                unsafe { way.for_each_row(job, (padding, 0), |args| row(args, requantize)) };
            }
            Walk::SeveralPixels => {
                let row = match (g.in_c, g.stride_w) {
                    (8, 1) => row_of_several_avxvnni::<8, 1>,
                    (8, _) => row_of_several_avxvnni::<8, 2>,
                    (_, 1) => row_of_several_avxvnni::<16, 1>,
                    (_, _) => row_of_several_avxvnni::<16, 2>,
                };
                let way = Way { downwards: false };
                // SAFETY: as above; the padding is a row of the input's columns.
                unsafe { way.for_each_row(job, (padding, g.in_c), |args| row(args, requantize)) };
            }
            // SAFETY: the plan reserves a pointer per tap; the pixels exist.
            Walk::Pixels => unsafe {
                let pointers = job.scratch.add(self.pointers).cast::<*const i8>();
                for_each_pixel(job, padding, pointers, |index| {
                    pixel_avxvnni(job, requantize, self.quads, pointers, index);
                });
            },
        }
    }

    /// The tap that has place `i` of a quad.
    fn tap(&self, g: &ConvGeometry, quad: usize, i: usize) -> Option<usize> {
        match self.walk {
            Walk::Columns(way) => way.tap(quad, i),
            Walk::SeveralPixels => Way { downwards: false }.tap(quad, i),
            Walk::Pixels => Some(4 * quad + i).filter(|tap| *tap < g.kernel_h * g.kernel_w),
        }
    }

    /// Writes what all outputs of a block of channels have in common; channels repeat after `PERIOD` of a vector's.
    ///
    /// # Safety
    ///
    /// The lengths of `job` are checked; scratch has space for the constants. There are at least `PERIOD` channels.
    #[target_feature(enable = "avx2,avxvnni")]
    unsafe fn write_constants<const PERIOD: usize>(&self, job: &Job<'_>) {
        let g = &job.geometry;
        let offset = _mm256_set1_epi8(OFFSET);
        for block in 0..self.blocks {
            let channel = first_channel(g.in_c, block);
            // SAFETY: per-channel arrays and the rows of weights have `PERIOD` elements from `channel` on; scratch has
            // the constants of the block.
            unsafe {
                let constants = job.scratch.add(block * constants_bytes(self.quads));
                let mut sums = [_mm256_setzero_si256(); 4];
                for quad in 0..self.quads {
                    let mut rows = [_mm256_setzero_si256(); 4];
                    for i in 0..4 {
                        if let Some(tap) = self.tap(g, quad, i) {
                            let weights = job.weights.add(tap * padded_c(g.in_c) + channel);
                            rows[i] = load_repeated_i8::<PERIOD>(weights);
                        }
                    }
                    let weights = interleave(rows);
                    for i in 0..4 {
                        sums[i] = _mm256_dpbusd_avx_epi32(sums[i], offset, weights[i]);
                    }
                    store_registers(constants.add((2 + quad) * REGISTERS), weights);
                }
                let mut start = load_repeated_i32::<PERIOD>(job.bias.add(channel));
                for i in 0..4 {
                    start[i] = _mm256_sub_epi32(start[i], sums[i]);
                }
                store_registers(constants, start);
                let scale = job.epilogue.scale.as_ptr().add(channel);
                store_registers(
                    constants.add(REGISTERS),
                    load_repeated_i32::<PERIOD>(scale.cast()),
                );
            }
        }
    }
}

/// First channel of a block. The last block ends with the last channel, over channels that the block before it has
/// computed too, unless there is only one.
#[inline(always)]
fn first_channel(channels: usize, block: usize) -> usize {
    (block * VECTOR).min(channels.saturating_sub(VECTOR))
}

/// One pixel after the other, in each block of channels.
///
/// # Safety
///
/// As [`Plan::run`] calls it: pixels have a vector of channels or more.
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn row_avxvnni<const STRIDE: usize>(row: &Row, requantize: &RequantizeAvx2) {
    for block in 0..row.channels.div_ceil(VECTOR) {
        // SAFETY: as the caller's; the block exists.
        unsafe { block_avxvnni::<STRIDE>(row, block, requantize) };
    }
}

/// # Safety
///
/// As [`Plan::run`] calls [`row_avxvnni`].
#[target_feature(enable = "avx2,avxvnni")]
#[inline]
unsafe fn block_avxvnni<const STRIDE: usize>(row: &Row, block: usize, requantize: &RequantizeAvx2) {
    let offset = _mm256_set1_epi8(OFFSET);
    let padding = _mm256_set1_epi8(row.zero_point ^ OFFSET);
    let constants = row.constants.wrapping_add(block * constants_bytes(QUADS));
    let [(row0, step0), (row1, step1), (row2, step2)] = row.rows;
    let at = first_channel(row.channels, block);
    // The next column; those of the left padding wrap to huge values.
    let mut w_next = 0usize.wrapping_sub(row.pad);
    let mut next = [
        row0.wrapping_add(at).wrapping_sub(row.pad * step0),
        row1.wrapping_add(at).wrapping_sub(row.pad * step1),
        row2.wrapping_add(at).wrapping_sub(row.pad * step2),
    ];
    macro_rules! skip {
        () => {
            next[0] = next[0].wrapping_add(step0);
            next[1] = next[1].wrapping_add(step1);
            next[2] = next[2].wrapping_add(step2);
        };
    }
    // The interleaved bytes of the next column, which is known to be in the input, or which may be
    // padding; the fourth row has weight zero. Macros, because registers that live across a call to
    // a function would go to memory.
    macro_rules! inside {
        () => {{
            let mut x = [padding; 4];
            for i in 0..3 {
                // SAFETY: the column exists.
                x[i] = _mm256_xor_si256(unsafe { _mm256_loadu_si256(next[i].cast()) }, offset);
            }
            x[3] = x[2];
            skip!();
            interleave(x)
        }};
    }
    macro_rules! anywhere {
        () => {{
            let is_inside = w_next < row.in_w;
            w_next = w_next.wrapping_add(1);
            if is_inside {
                inside!()
            } else {
                skip!();
                [padding; 4]
            }
        }};
    }
    // Adds the products of a column with the weights of a column of the kernel, which are read from memory: a dozen
    // registers of them would leave too few.
    macro_rules! add {
        ($acc:expr, $x:expr, $column:literal) => {{
            let weights = constants.wrapping_add((2 + $column) * REGISTERS);
            // SAFETY: there are constants for every block.
            unsafe { multiply_add($acc, $x, weights) }
        }};
    }
    // SAFETY: there are constants for every block.
    let start = || unsafe { load_registers(constants) };
    let mut output = row.output.wrapping_add(at);
    // Of the next output, and of the one after it.
    let (mut acc, mut acc1) = (start(), start());
    let x0 = anywhere!();
    acc = add!(acc, x0, 0);
    if STRIDE == 1 {
        let x1 = anywhere!();
        acc = add!(acc, x1, 1);
        acc1 = add!(acc1, x1, 0);
    }
    macro_rules! pixel {
        ($column:ident) => {
            if STRIDE == 2 {
                let x1 = $column!();
                acc = add!(acc, x1, 1);
            }
            let x2 = $column!();
            let done = add!(acc, x2, 2);
            if STRIDE == 1 {
                acc = add!(acc1, x2, 1);
                acc1 = add!(start(), x2, 0);
            } else {
                acc = add!(start(), x2, 0);
            }
            // SAFETY: the pixel has a vector of channels here; the constants have scales.
            unsafe { finish(done, constants.add(REGISTERS), requantize, output) };
            output = output.wrapping_add(row.output_step);
        };
    }
    let mut left = row.out_w;
    while left > 0 && w_next >= row.in_w {
        pixel!(anywhere);
        left -= 1;
    }
    let inside = (row.in_w.saturating_sub(w_next) / STRIDE).min(left);
    w_next = w_next.wrapping_add(inside * STRIDE);
    for _ in 0..inside {
        pixel!(inside);
    }
    for _ in inside..left {
        pixel!(anywhere);
    }
}

/// Several pixels of `CHANNELS` channels at a time; the last ones may have been computed before.
///
/// # Safety
///
/// As [`Plan::run`] calls it: the row has a vector of outputs or more, without gaps.
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn row_of_several_avxvnni<const CHANNELS: usize, const STRIDE: usize>(
    row: &Row,
    requantize: &RequantizeAvx2,
) {
    let pixels = const { VECTOR / CHANNELS };
    let offset = _mm256_set1_epi8(OFFSET);
    let padding = _mm256_set1_epi8(row.zero_point);
    let mut pixel = 0;
    while pixel < row.out_w {
        let first = pixel.min(row.out_w - pixels);
        // Columns of the left padding wrap to huge values.
        let left = (first * STRIDE).wrapping_sub(row.pad);
        let columns = const { (pixels_of(CHANNELS) - 1) * STRIDE + 3 };
        let is_inside = left < row.in_w && left + columns <= row.in_w;
        // SAFETY: columns inside exist in the three rows, which have all columns even where they are padding; the
        // vector of outputs is in the row, and there are constants.
        unsafe {
            let mut acc = load_registers(row.constants);
            for column in 0..3 {
                let mut x = [padding; 4];
                for i in 0..3 {
                    let (from, _) = row.rows[i];
                    if is_inside {
                        x[i] =
                            load_pixels::<CHANNELS, STRIDE>(from.add((left + column) * CHANNELS));
                    } else {
                        let to = (&raw mut x[i]).cast::<i8>();
                        for i in 0..pixels {
                            let w = left.wrapping_add(column + i * STRIDE);
                            if w < row.in_w {
                                let from = from.add(w * CHANNELS);
                                to.add(i * CHANNELS).copy_from_nonoverlapping(from, CHANNELS);
                            }
                        }
                    }
                    x[i] = _mm256_xor_si256(x[i], offset);
                }
                x[3] = x[2];
                let x = interleave(x);
                acc = multiply_add(acc, x, row.constants.add((2 + column) * REGISTERS));
            }
            let output = row.output.add(first * CHANNELS);
            finish(acc, row.constants.add(REGISTERS), requantize, output);
        }
        pixel += pixels;
    }
}

/// Pixels of a vector.
const fn pixels_of(channels: usize) -> usize {
    VECTOR / channels
}

/// A vector of pixels, `STRIDE` apart.
///
/// # Safety
///
/// `src` is valid for reads of all of them.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn load_pixels<const CHANNELS: usize, const STRIDE: usize>(src: *const i8) -> __m256i {
    // SAFETY: as the caller's.
    unsafe {
        match (CHANNELS, STRIDE) {
            (_, 1) => _mm256_loadu_si256(src.cast()),
            (16, _) => _mm256_loadu2_m128i(src.add(32).cast(), src.cast()),
            _ => {
                let pair = |src: *const i8| {
                    _mm_unpacklo_epi64(
                        _mm_loadl_epi64(src.cast()),
                        _mm_loadl_epi64(src.add(16).cast()),
                    )
                };
                _mm256_set_m128i(pair(src.add(32)), pair(src))
            }
        }
    }
}

/// All channels of one pixel, whose taps are at `pointers`.
///
/// # Safety
///
/// As [`for_each_pixel`] calls it, with scratch that starts with the constants; pixels have a vector of channels or more.
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn pixel_avxvnni(
    job: &Job<'_>,
    requantize: &RequantizeAvx2,
    quads: usize,
    pointers: *const *const i8,
    index: usize,
) {
    let g = &job.geometry;
    let taps = g.kernel_h * g.kernel_w;
    let offset = _mm256_set1_epi8(OFFSET);
    for block in 0..g.in_c.div_ceil(VECTOR) {
        let channel = first_channel(g.in_c, block);
        // SAFETY: the block has a vector of channels from `channel` on, in the input of every tap and in the output;
        // it has constants.
        unsafe {
            let constants = job.scratch.add(block * constants_bytes(quads));
            let input = |tap: usize| {
                let x = _mm256_loadu_si256(pointers.add(tap).read_unaligned().add(channel).cast());
                _mm256_xor_si256(x, offset)
            };
            let mut acc = load_registers(constants);
            for quad in 0..taps / 4 {
                let tap = 4 * quad;
                let x = interleave([input(tap), input(tap + 1), input(tap + 2), input(tap + 3)]);
                acc = multiply_add(acc, x, constants.add((2 + quad) * REGISTERS));
            }
            if quads > taps / 4 {
                // The partners of the last taps have weight zero.
                let tap = taps / 4 * 4;
                let mut x = [offset; 4];
                for i in 0..4 {
                    x[i] = input((tap + i).min(taps - 1));
                }
                acc = multiply_add(acc, interleave(x), constants.add((1 + quads) * REGISTERS));
            }
            let output = job.output.add(index * job.output_stride + channel);
            finish(acc, constants.add(REGISTERS), requantize, output);
        }
    }
}

/// 32 bytes that repeat after `PERIOD`.
///
/// # Safety
///
/// `src` is valid for `PERIOD` reads: 8, 16 or 32.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn load_repeated_i8<const PERIOD: usize>(src: *const i8) -> __m256i {
    // SAFETY: as the caller's.
    unsafe {
        match PERIOD {
            8 => _mm256_broadcastq_epi64(_mm_loadl_epi64(src.cast())),
            16 => _mm256_broadcastsi128_si256(_mm_loadu_si128(src.cast())),
            _ => _mm256_loadu_si256(src.cast()),
        }
    }
}

/// 32 elements that repeat after `PERIOD`, as [`interleave`] orders its quads.
///
/// # Safety
///
/// `src` is valid for `PERIOD` reads, a multiple of 8.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn load_repeated_i32<const PERIOD: usize>(src: *const i32) -> [__m256i; 4] {
    // SAFETY: as the caller's.
    let (a, b, c, d) = unsafe {
        (
            _mm256_loadu_si256(src.cast()),
            _mm256_loadu_si256(src.add(8 % PERIOD).cast()),
            _mm256_loadu_si256(src.add(16 % PERIOD).cast()),
            _mm256_loadu_si256(src.add(24 % PERIOD).cast()),
        )
    };
    [
        _mm256_permute2x128_si256::<0x20>(a, c),
        _mm256_permute2x128_si256::<0x31>(a, c),
        _mm256_permute2x128_si256::<0x20>(b, d),
        _mm256_permute2x128_si256::<0x31>(b, d),
    ]
}

/// Interleaves four rows of bytes: register `i` has, in each 128-bit lane, quads `4 i..4 i + 4` of that lane.
#[target_feature(enable = "avx2")]
#[inline]
fn interleave(rows: [__m256i; 4]) -> [__m256i; 4] {
    let [a, b, c, d] = rows;
    let (ab, cd) = (_mm256_unpacklo_epi8(a, b), _mm256_unpacklo_epi8(c, d));
    let (high_ab, high_cd) = (_mm256_unpackhi_epi8(a, b), _mm256_unpackhi_epi8(c, d));
    [
        _mm256_unpacklo_epi16(ab, cd),
        _mm256_unpackhi_epi16(ab, cd),
        _mm256_unpacklo_epi16(high_ab, high_cd),
        _mm256_unpackhi_epi16(high_ab, high_cd),
    ]
}

/// Adds the products of a quad of taps.
///
/// # Safety
///
/// `weights` is valid for four registers.
#[target_feature(enable = "avx2,avxvnni")]
#[inline]
unsafe fn multiply_add(acc: [__m256i; 4], x: [__m256i; 4], weights: *const u8) -> [__m256i; 4] {
    // SAFETY: as the caller's.
    let w = unsafe { load_registers(weights) };
    let mut sums = acc;
    for i in 0..4 {
        sums[i] = _mm256_dpbusd_avx_epi32(acc[i], x[i], w[i]);
    }
    sums
}

/// # Safety
///
/// `src` is valid for four registers.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn load_registers(src: *const u8) -> [__m256i; 4] {
    let mut registers = [_mm256_setzero_si256(); 4];
    for i in 0..4 {
        // SAFETY: as the caller's.
        registers[i] = unsafe { _mm256_loadu_si256(src.add(i * VECTOR).cast()) };
    }
    registers
}

/// # Safety
///
/// `dst` is valid for four registers.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn store_registers(dst: *mut u8, registers: [__m256i; 4]) {
    for i in 0..4 {
        // SAFETY: as the caller's.
        unsafe { _mm256_storeu_si256(dst.add(i * VECTOR).cast(), registers[i]) };
    }
}

/// Writes 32 outputs.
///
/// # Safety
///
/// `dst` is valid for as many writes; `scale` for four registers.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn finish(acc: [__m256i; 4], scale: *const u8, requantize: &RequantizeAvx2, dst: *mut i8) {
    // SAFETY: as the caller's.
    unsafe {
        let scale = load_registers(scale);
        let mut results = acc;
        for i in 0..4 {
            results[i] = requantize.round(acc[i], _mm256_castsi256_ps(scale[i]));
        }
        let [a, b, c, d] = results;
        let bytes = requantize.pack_i8(requantize.pack_i16(a, b), requantize.pack_i16(c, d));
        _mm256_storeu_si256(dst.cast(), bytes);
    }
}
