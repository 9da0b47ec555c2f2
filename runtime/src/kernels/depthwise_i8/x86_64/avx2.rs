//! The i8 depthwise convolution in AVX2: i16 products of two taps, added by `pmaddwd`.

use core::arch::x86_64::*;

use super::{WEIGHT_BYTES, layout_avx2};
use crate::kernels::depthwise_i8::padded_c;
use crate::kernels::depthwise_i8::walk::{
    BLOCK, Job, Row3x3, for_each_pixel, for_each_row_3x3, is_3x3,
};
use crate::kernels::requantize::x86_64::RequantizeAvx2;

/// The pairs of taps that [`row_3x3_avx2`] multiplies: the upper two rows column by column, then
/// the lower row, see there. `None` has weight zero.
const PAIRS_3X3: [[Option<usize>; 2]; 5] = [
    [Some(0), Some(3)],
    [Some(1), Some(4)],
    [Some(2), Some(5)],
    [None, Some(6)],
    [Some(7), Some(8)],
];

/// # Safety
///
/// The lengths of `job` are checked, with scratch for AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn run_avx2(job: &Job<'_>) {
    let g = &job.geometry;
    if g.out_pixels() == 0 || g.in_c == 0 {
        return;
    }
    let taps = g.kernel_h * g.kernel_w;
    let pairs = taps.div_ceil(2);
    let layout = layout_avx2(g);
    // SAFETY: scratch has this layout.
    let padding = unsafe { job.fill_padding(&layout) };
    let requantize = RequantizeAvx2::new(&job.epilogue);
    let columns = is_3x3(job);
    for block in 0..g.in_c.div_ceil(BLOCK) {
        for pair in 0..pairs {
            let taps = if columns {
                PAIRS_3X3[pair]
            } else {
                [2 * pair, 2 * pair + 1].map(|tap| (tap < taps).then_some(tap))
            };
            // SAFETY: weights are padded to blocks from any channel on that a block starts at; the
            // layout reserves a place for every pair of every block.
            unsafe {
                let words = taps.map(|tap| match tap {
                    Some(tap) => {
                        let channel = job.overlapping_block(block);
                        let weights = job.weights.add(tap * padded_c(g.in_c) + channel);
                        _mm256_cvtepi8_epi16(_mm_loadu_si128(weights.cast()))
                    }
                    None => _mm256_setzero_si256(),
                });
                let dst = job.scratch.add((block * pairs + pair) * WEIGHT_BYTES);
                let [low, high] = interleave(words[0], words[1]);
                _mm256_storeu_si256(dst.cast(), low);
                _mm256_storeu_si256(dst.add(32).cast(), high);
            }
        }
    }
    if columns {
        let row = match (g.stride_w, g.in_c) {
            (1, BLOCK..) => row_3x3_avx2::<1, BLOCK>,
            (1, 8) => row_3x3_avx2::<1, 8>,
            (1, _) => row_3x3_avx2::<1, 0>,
            (_, BLOCK..) => row_3x3_avx2::<2, BLOCK>,
            (_, 8) => row_3x3_avx2::<2, 8>,
            (_, _) => row_3x3_avx2::<2, 0>,
        };
        // SAFETY: `is_3x3`; scratch starts with the weights just written.
        unsafe {
            let first_channel = |block| job.overlapping_block(block);
            for_each_row_3x3(job, padding, pairs * WEIGHT_BYTES, first_channel, |args| {
                row(args, &requantize);
            });
        }
        return;
    }
    let pixel = match g.in_c {
        BLOCK.. => pixel_avx2::<BLOCK>,
        8 => pixel_avx2::<8>,
        _ => pixel_avx2::<0>,
    };
    // SAFETY: the layout reserves a pointer per tap; the pixels exist.
    unsafe {
        let pointers = job.scratch.add(layout.pointers).cast::<*const i8>();
        for_each_pixel(job, padding, pointers, |index| {
            pixel(job, &requantize, pointers, index);
        });
    }
}

/// All channels of one pixel, whose taps are at `pointers`.
///
/// # Safety
///
/// As [`for_each_pixel`] calls it, with scratch that starts with the weights. `CHANNELS` is how
/// many channels a block has, or 0.
#[target_feature(enable = "avx2")]
unsafe fn pixel_avx2<const CHANNELS: usize>(
    job: &Job<'_>,
    requantize: &RequantizeAvx2,
    pointers: *const *const i8,
    index: usize,
) {
    let g = &job.geometry;
    let taps = g.kernel_h * g.kernel_w;
    let channels = if CHANNELS == 0 { g.in_c } else { CHANNELS };
    let mut weights = job.scratch.cast_const();
    for block in 0..g.in_c.div_ceil(BLOCK) {
        let channel = job.overlapping_block(block);
        // SAFETY: the block has `channels` channels from `channel` on, in the input of every tap
        // and in the output; per-channel arrays are padded; the weights of its pairs come next.
        unsafe {
            let input = |tap: usize| {
                let input = pointers.add(tap).read_unaligned().add(channel);
                _mm256_cvtepi8_epi16(load_partial(input, channels))
            };
            let mut acc = load_channels(job.bias.add(channel));
            for pair in 0..taps / 2 {
                acc = multiply_add(acc, interleave(input(2 * pair), input(2 * pair + 1)), weights);
                weights = weights.add(WEIGHT_BYTES);
            }
            if !taps.is_multiple_of(2) {
                // The partner of an odd last tap has weight zero.
                let x = input(taps - 1);
                acc = multiply_add(acc, interleave(x, x), weights);
                weights = weights.add(WEIGHT_BYTES);
            }
            let scale = load_scales(job.epilogue.scale.as_ptr().add(channel));
            let bytes = match &job.epilogue.residual {
                None => finish(acc, scale, requantize),
                Some(r) => {
                    let (data, row) = r.data.rows(g.out_c, job.output, job.output_stride);
                    let data = load_partial(data.add(index * row + channel), channels);
                    finish_sum(acc, scale, requantize, data)
                }
            };
            store_partial(job.output.add(index * job.output_stride + channel), bytes, channels);
        }
    }
}

/// With `x[r][c]` the input of row `r` and column `c`, sums
///
/// ```text
/// (x[0][c],   x[1][c])   · (w00, w10)      (x[2][c-1], x[2][c])   · (0,   w20)
/// (x[0][c+1], x[1][c+1]) · (w01, w11)      (x[2][c+1], x[2][c+2]) · (w21, w22)
/// (x[0][c+2], x[1][c+2]) · (w02, w12)
/// ```
///
/// so that for the next output all interleaved pairs but the new columns' are there already.
///
/// # Safety
///
/// As [`for_each_row_3x3`] calls it; `CHANNELS` is how many channels a block has, or 0.
#[target_feature(enable = "avx2")]
unsafe fn row_3x3_avx2<const STRIDE: usize, const CHANNELS: usize>(
    row: &Row3x3,
    requantize: &RequantizeAvx2,
) {
    let channels = if CHANNELS == 0 { row.channels } else { CHANNELS };
    let zero_points = _mm256_set1_epi16(i16::from(row.zero_point));
    // The interleaved upper rows, and the lower row, of a column of the padded input. A macro,
    // because registers that live across a call to a function would go to memory.
    macro_rules! column {
        ($w:expr) => {{
            // Columns of the left padding wrap to huge values.
            let w = ($w).wrapping_sub(row.pad_left);
            let x = if w < row.in_w {
                // SAFETY: column `w` of the rows exists; a row of padding has step zero.
                unsafe {
                    let [(row0, step0), (row1, step1), (row2, step2)] = row.rows;
                    [
                        _mm256_cvtepi8_epi16(load_partial(row0.add(w * step0), channels)),
                        _mm256_cvtepi8_epi16(load_partial(row1.add(w * step1), channels)),
                        _mm256_cvtepi8_epi16(load_partial(row2.add(w * step2), channels)),
                    ]
                }
            } else {
                [zero_points; 3]
            };
            (interleave(x[0], x[1]), x[2])
        }};
    }
    // SAFETY: the caller vouches for the per-channel arrays.
    let (bias, scale) = unsafe { (load_channels(row.bias), load_scales(row.scale)) };
    let (mut upper0, x) = column!(0usize);
    let mut lower0 = interleave(x, x);
    let (mut upper1, mut x1) = column!(1usize);
    let mut lower1 = interleave(x, x1);
    for ow in 0..row.out_w {
        if STRIDE == 2 && ow > 0 {
            (upper1, x1) = column!(2 * ow + 1);
        }
        let (upper2, x2) = column!(STRIDE * ow + 2);
        let lower2 = interleave(x1, x2);
        // SAFETY: there are five pairs of weights; the pixel exists.
        unsafe {
            let weights = |pair: usize| row.weights.add(pair * WEIGHT_BYTES);
            let acc = multiply_add(bias, upper0, weights(0));
            let acc = multiply_add(acc, upper1, weights(1));
            let acc = multiply_add(acc, upper2, weights(2));
            let acc = multiply_add(acc, lower0, weights(3));
            let acc = multiply_add(acc, lower2, weights(4));
            let bytes = finish(acc, scale, requantize);
            store_partial(row.output.add(ow * row.output_stride), bytes, channels);
        }
        if STRIDE == 1 {
            (upper0, upper1) = (upper1, upper2);
            (lower0, lower1) = (lower1, lower2);
            x1 = x2;
        } else {
            (upper0, lower0) = (upper2, lower2);
        }
    }
}

/// Interleaves the channels of two taps: channels 0 to 3 and 8 to 11, then 4 to 7 and 12 to 15.
#[target_feature(enable = "avx2")]
#[inline]
fn interleave(a: __m256i, b: __m256i) -> [__m256i; 2] {
    [_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)]
}

/// Sixteen i32 in the order of [`interleave`].
///
/// # Safety
///
/// `src` is valid for 16 reads.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn load_channels(src: *const i32) -> [__m256i; 2] {
    // SAFETY: as the caller's.
    let (a, b) = unsafe { (_mm256_loadu_si256(src.cast()), _mm256_loadu_si256(src.add(8).cast())) };
    in_order_of_interleave(a, b)
}

/// # Safety
///
/// `src` is valid for 16 reads.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn load_scales(src: *const f32) -> [__m256; 2] {
    // SAFETY: as the caller's.
    let [a, b] = unsafe { load_channels(src.cast()) };
    [_mm256_castsi256_ps(a), _mm256_castsi256_ps(b)]
}

#[target_feature(enable = "avx2")]
#[inline]
fn in_order_of_interleave(a: __m256i, b: __m256i) -> [__m256i; 2] {
    [_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b)]
}

/// Adds the products of a pair of taps.
///
/// # Safety
///
/// `weights` is valid for [`WEIGHT_BYTES`] reads.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn multiply_add(acc: [__m256i; 2], x: [__m256i; 2], weights: *const u8) -> [__m256i; 2] {
    // SAFETY: as the caller's.
    let (low, high) = unsafe {
        let low = _mm256_loadu_si256(weights.cast());
        let high = _mm256_loadu_si256(weights.add(32).cast());
        (low, high)
    };
    [
        _mm256_add_epi32(acc[0], _mm256_madd_epi16(x[0], low)),
        _mm256_add_epi32(acc[1], _mm256_madd_epi16(x[1], high)),
    ]
}

/// The epilogue of a pixel: sixteen outputs in their natural order.
#[target_feature(enable = "avx2")]
#[inline]
fn finish(acc: [__m256i; 2], scale: [__m256; 2], requantize: &RequantizeAvx2) -> __m128i {
    let a = requantize.round(acc[0], scale[0]);
    let b = requantize.round(acc[1], scale[1]);
    pack(a, b, requantize)
}

/// The epilogue of a pixel with sixteen elements of the residual.
#[target_feature(enable = "avx2")]
#[inline]
fn finish_sum(
    acc: [__m256i; 2],
    scale: [__m256; 2],
    requantize: &RequantizeAvx2,
    data: __m128i,
) -> __m128i {
    let low = _mm256_cvtepi8_epi32(data);
    let high = _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(data, data));
    let data = in_order_of_interleave(low, high);
    let a = requantize.round_sum(acc[0], scale[0], data[0]);
    let b = requantize.round_sum(acc[1], scale[1], data[1]);
    pack(a, b, requantize)
}

#[target_feature(enable = "avx2")]
#[inline]
fn pack(a: __m256i, b: __m256i, requantize: &RequantizeAvx2) -> __m128i {
    let words = requantize.pack_i16(a, b);
    let bytes = requantize.pack_i8(words, words);
    _mm_unpacklo_epi64(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes))
}

/// The first `len` of sixteen bytes.
///
/// # Safety
///
/// `src` is valid for `len` reads, `len` is no more than 16.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn load_partial(src: *const i8, len: usize) -> __m128i {
    // SAFETY: as the caller's.
    unsafe {
        match len {
            16 => _mm_loadu_si128(src.cast()),
            8 => _mm_loadl_epi64(src.cast()),
            _ => {
                let mut bytes = [0i8; BLOCK];
                for i in 0..len {
                    bytes[i] = *src.add(i);
                }
                _mm_loadu_si128(bytes.as_ptr().cast())
            }
        }
    }
}

/// Writes the first `len` of sixteen bytes.
///
/// # Safety
///
/// `dst` is valid for `len` writes, `len` is no more than 16.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn store_partial(dst: *mut i8, x: __m128i, len: usize) {
    // SAFETY: as the caller's.
    unsafe {
        match len {
            16 => _mm_storeu_si128(dst.cast(), x),
            8 => _mm_storel_epi64(dst.cast(), x),
            _ => {
                let mut bytes = [0i8; BLOCK];
                _mm_storeu_si128(bytes.as_mut_ptr().cast(), x);
                for i in 0..len {
                    *dst.add(i) = bytes[i];
                }
            }
        }
    }
}
