//! The i8 depthwise convolution in AVX-512 with VNNI: one `vpdpwssd` for each tap.

use core::arch::x86_64::*;

use super::{WEIGHT_BYTES, layout};
use crate::kernels::depthwise_i8::padded_c;
use crate::kernels::depthwise_i8::walk::{
    BLOCK, Job, Row3x3, for_each_pixel, for_each_row_3x3, is_3x3,
};
use crate::kernels::requantize::x86_64::RequantizeAvx512;

/// # Safety
///
/// The lengths of `job` are checked, with scratch for AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn run_avx512vnni(job: &Job<'_>) {
    let g = &job.geometry;
    if g.out_pixels() == 0 || g.in_c == 0 {
        return;
    }
    let taps = g.kernel_h * g.kernel_w;
    let layout = layout(g, taps);
    // SAFETY: scratch has this layout.
    let padding = unsafe { job.fill_padding(&layout) };
    let requantize = RequantizeAvx512::new(&job.epilogue);
    let blocks = g.in_c.div_ceil(BLOCK);
    for block in 0..blocks {
        for tap in 0..taps {
            // SAFETY: weights are padded to whole blocks; the layout reserves a place for every
            // tap of every block.
            unsafe {
                let weights = job.weights.add(tap * padded_c(g.in_c) + block * BLOCK);
                let words = _mm512_cvtepi8_epi32(_mm_loadu_si128(weights.cast()));
                // The low word is the weight, the high word meets the sign of the input.
                let words = _mm512_and_si512(words, _mm512_set1_epi32(0xffff));
                let dst = job.scratch.add((block * taps + tap) * WEIGHT_BYTES);
                _mm512_storeu_si512(dst.cast(), words);
            }
        }
    }
    if is_3x3(job) {
        let row = if g.stride_w == 1 { row_3x3_avx512vnni::<1> } else { row_3x3_avx512vnni::<2> };
        // SAFETY: `is_3x3`; scratch starts with the weights just written.
        unsafe {
            let first_channel = |block| block * BLOCK;
            for_each_row_3x3(job, padding, taps * WEIGHT_BYTES, first_channel, |args| {
                row(args, &requantize);
            });
        }
        return;
    }
    // SAFETY: the layout reserves a pointer per tap; blocks and pixels exist; per-channel arrays
    // are padded to whole blocks, and the mask leaves out channels beyond the last.
    unsafe {
        let pointers = job.scratch.add(layout.pointers).cast::<*const i8>();
        for_each_pixel(job, padding, pointers, |pixel| {
            for block in 0..blocks {
                let channel = block * BLOCK;
                let mask = mask_of(g.in_c - channel);
                // Two sums, because one product waits for another for five cycles.
                let mut acc =
                    [_mm512_loadu_si512(job.bias.add(channel).cast()), _mm512_setzero_si512()];
                for tap in 0..taps {
                    let input = pointers.add(tap).read_unaligned().add(channel);
                    let x = _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, input));
                    let weights = job.scratch.add((block * taps + tap) * WEIGHT_BYTES);
                    let w = _mm512_loadu_si512(weights.cast());
                    acc = [acc[1], _mm512_dpwssd_epi32(acc[0], x, w)];
                }
                let acc = _mm512_add_epi32(acc[0], acc[1]);
                let scale = _mm512_loadu_ps(job.epilogue.scale.as_ptr().add(channel));
                let bytes = match &job.epilogue.residual {
                    None => requantize.apply(acc, scale),
                    Some(r) => {
                        let (data, row) = r.data.rows(g.out_c, job.output, job.output_stride);
                        let data = data.add(pixel * row + channel);
                        requantize.apply_sum(acc, scale, _mm_maskz_loadu_epi8(mask, data))
                    }
                };
                let output = job.output.add(pixel * job.output_stride + channel);
                _mm_mask_storeu_epi8(output, mask, bytes);
            }
        });
    }
}

/// # Safety
///
/// As [`for_each_row_3x3`] calls it.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn row_3x3_avx512vnni<const STRIDE: usize>(row: &Row3x3, requantize: &RequantizeAvx512) {
    let mask = mask_of(row.channels);
    let zero_points = _mm512_set1_epi32(i32::from(row.zero_point));
    // The three rows of a column of the padded input. A macro as in AVX2.
    macro_rules! column {
        ($w:expr) => {{
            // Columns of the left padding wrap to huge values.
            let w = ($w).wrapping_sub(row.pad_left);
            if w < row.in_w {
                // SAFETY: column `w` of the rows exists; a row of padding has step zero.
                unsafe {
                    let [(row0, step0), (row1, step1), (row2, step2)] = row.rows;
                    [
                        _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, row0.add(w * step0))),
                        _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, row1.add(w * step1))),
                        _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, row2.add(w * step2))),
                    ]
                }
            } else {
                [zero_points; 3]
            }
        }};
    }
    // SAFETY: the caller vouches for the per-channel arrays and the weights.
    let (bias, scale) =
        unsafe { (_mm512_loadu_si512(row.bias.cast()), _mm512_loadu_ps(row.scale)) };
    let mut w = [_mm512_setzero_si512(); 9];
    for tap in 0..9 {
        // SAFETY: as above.
        w[tap] = unsafe { _mm512_loadu_si512(row.weights.add(tap * WEIGHT_BYTES).cast()) };
    }
    let (mut x0, mut x1) = (column!(0usize), column!(1usize));
    for ow in 0..row.out_w {
        if STRIDE == 2 && ow > 0 {
            x1 = column!(2 * ow + 1);
        }
        let x2 = column!(STRIDE * ow + 2);
        // A sum for each row of the kernel: products wait for each other.
        let mut acc = [bias, _mm512_setzero_si512(), _mm512_setzero_si512()];
        for kh in 0..3 {
            acc[kh] = _mm512_dpwssd_epi32(acc[kh], x0[kh], w[3 * kh]);
            acc[kh] = _mm512_dpwssd_epi32(acc[kh], x1[kh], w[3 * kh + 1]);
            acc[kh] = _mm512_dpwssd_epi32(acc[kh], x2[kh], w[3 * kh + 2]);
        }
        let acc = _mm512_add_epi32(_mm512_add_epi32(acc[0], acc[1]), acc[2]);
        // SAFETY: the pixel exists, and the mask leaves out channels beyond the last.
        unsafe {
            let bytes = requantize.apply(acc, scale);
            _mm_mask_storeu_epi8(row.output.add(ow * row.output_stride), mask, bytes);
        }
        if STRIDE == 1 {
            (x0, x1) = (x1, x2);
        } else {
            x0 = x2;
        }
    }
}

/// The first `channels` lanes, at most all.
fn mask_of(channels: usize) -> __mmask16 {
    ((1u32 << channels.min(BLOCK)) - 1) as __mmask16
}
