//! 3×3 kernels of stride 1 or 2, read in place: a column of three rows of the input is interleaved
//! once, and multiplied by the three columns of weights for the outputs that it meets.
//!
//! Where a pixel has 8, 16 or 32 channels, a register holds several pixels. The columns beside them
//! come from the next register, by whole quads.

use core::arch::x86_64::*;

use super::{
    OFFSET, REGISTERS, VECTOR, constants_bytes, finish, first_bytes, interleave, load_registers,
    write_constants,
};
use crate::kernels::ConvGeometry;
use crate::kernels::depthwise_i8::walk::Job;
use crate::kernels::depthwise_i8::x86_64::columns::{QUADS, Row, Way};
use crate::kernels::requantize::x86_64::RequantizeAvx512;

/// Fewer channels leave too much of a register unused, unless it can hold several pixels.
const MIN_CHANNELS: usize = 41;

/// How the output is walked, and what is in scratch: the constants of each vector of channels, then a
/// pixel of padding, or a row of it for several pixels.
pub(super) struct Columns {
    /// Vectors of channels of a pixel, or one for several pixels.
    vectors: usize,
    several_pixels: bool,
    way: Way,
    padding_bytes: usize,
    pub(super) bytes: usize,
}

impl Columns {
    /// `None` if the kernel isn't for this geometry.
    pub(super) fn new(g: &ConvGeometry, contiguous: bool, has_residual: bool) -> Option<Self> {
        let kernel = (g.kernel_h, g.kernel_w, g.dilation_h, g.dilation_w);
        if kernel != (3, 3, 1, 1) || has_residual {
            return None;
        }
        let several_pixels = contiguous && matches!(g.in_c, 8 | 16 | 32);
        if !several_pixels && g.in_c < MIN_CHANNELS {
            return None;
        }
        if ![g.stride_h, g.stride_w].iter().all(|stride| (1..=2).contains(stride)) {
            return None;
        }
        let way = if several_pixels { Way { downwards: false } } else { Way::of_long_rows(g) };
        let vectors = g.in_c.div_ceil(VECTOR);
        let padding_bytes = if several_pixels { g.in_w * g.in_c } else { g.in_c };
        let padding_bytes = padding_bytes.next_multiple_of(VECTOR);
        let bytes = vectors * constants_bytes(QUADS) + padding_bytes;
        Some(Columns { vectors, several_pixels, way, padding_bytes, bytes })
    }

    /// # Safety
    ///
    /// The lengths of `job` are checked; this is its plan, with as much scratch as it says; the job
    /// has outputs.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) unsafe fn run(&self, job: &Job<'_>, requantize: &RequantizeAvx512) {
        let g = &job.geometry;
        // SAFETY: the plan reserves constants for every vector, then a pixel of padding.
        let padding = unsafe {
            for vector in 0..self.vectors {
                write_constants(job, vector, QUADS, |quad, i| self.way.tap(quad, i));
            }
            let padding = job.scratch.add(self.vectors * constants_bytes(QUADS)).cast::<i8>();
            for at in (0..self.padding_bytes).step_by(VECTOR) {
                let x = _mm512_set1_epi8(job.input_zero_point);
                _mm512_storeu_si512(padding.add(at).cast(), x);
            }
            padding
        };
        let row = match (self.several_pixels, self.way.stride(g), g.in_c) {
            (false, 1, _) => row_avx512vnni::<1>,
            (false, _, _) => row_avx512vnni::<2>,
            (true, 1, 8) => row_of_several_avx512vnni::<8, 1>,
            (true, 1, 16) => row_of_several_avx512vnni::<16, 1>,
            (true, 1, _) => row_of_several_avx512vnni::<32, 1>,
            (true, _, 8) => row_of_several_avx512vnni::<8, 2>,
            (true, _, 16) => row_of_several_avx512vnni::<16, 2>,
            (true, _, _) => row_of_several_avx512vnni::<32, 2>,
        };
        // SAFETY: as the caller's; the kernel is 3×3.
        unsafe { self.way.for_each_row(job, (padding, 0), |args| row(args, requantize)) };
    }
}

/// One pixel after the other.
///
/// # Safety
///
/// As [`Columns::run`] calls it.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn row_avx512vnni<const STRIDE: usize>(row: &Row, requantize: &RequantizeAvx512) {
    for vector in 0..row.channels.div_ceil(VECTOR) {
        // SAFETY: as the caller's; the vector exists.
        unsafe {
            if row.channels - vector * VECTOR >= VECTOR {
                vector_avx512vnni::<STRIDE, true>(row, vector, requantize);
            } else {
                vector_avx512vnni::<STRIDE, false>(row, vector, requantize);
            }
        }
    }
}

/// 64 channels of a row, or the last ones if they are not `FULL`.
///
/// # Safety
///
/// As [`Columns::run`] calls [`row_avx512vnni`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn vector_avx512vnni<const STRIDE: usize, const FULL: bool>(
    row: &Row,
    vector: usize,
    requantize: &RequantizeAvx512,
) {
    let len = if FULL { VECTOR } else { row.channels - vector * VECTOR };
    let mask = first_bytes(len);
    let offset = _mm512_set1_epi8(OFFSET);
    let padding = _mm512_set1_epi8(row.zero_point ^ OFFSET);
    // SAFETY: there are constants for every vector.
    let (constants, start, w) = unsafe {
        let constants = row.constants.add(vector * constants_bytes(QUADS));
        (constants, load_registers(constants), load_weights(constants))
    };
    let [(row0, step0), (row1, step1), (row2, step2)] = row.rows;
    let at = vector * VECTOR;
    // The next column; those of the left padding wrap to huge values.
    let mut w_next = 0usize.wrapping_sub(row.pad);
    let mut next = [
        row0.wrapping_add(at).wrapping_sub(row.pad * step0),
        row1.wrapping_add(at).wrapping_sub(row.pad * step1),
        row2.wrapping_add(at).wrapping_sub(row.pad * step2),
    ];
    // The interleaved bytes of the next column, which is known to be in the input, or which may be
    // padding; the fourth row has weight zero. Macros, because registers that live across a call to
    // a function would go to memory.
    macro_rules! inside {
        () => {{
            let mut x = [padding; 4];
            for i in 0..3 {
                // SAFETY: the column exists, and the mask leaves out channels beyond the last.
                let bytes = unsafe {
                    match FULL {
                        true => _mm512_loadu_si512(next[i].cast()),
                        false => _mm512_maskz_loadu_epi8(mask, next[i]),
                    }
                };
                x[i] = _mm512_xor_si512(bytes, offset);
            }
            x[3] = x[2];
            next[0] = next[0].wrapping_add(step0);
            next[1] = next[1].wrapping_add(step1);
            next[2] = next[2].wrapping_add(step2);
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
                next[0] = next[0].wrapping_add(step0);
                next[1] = next[1].wrapping_add(step1);
                next[2] = next[2].wrapping_add(step2);
                [padding; 4]
            }
        }};
    }
    let mut output = row.output.wrapping_add(at);
    // Of the next output, and of the one after it.
    let (mut acc, mut acc1) = (start, start);
    let x0 = anywhere!();
    for i in 0..4 {
        acc[i] = _mm512_dpbusd_epi32(acc[i], x0[i], w[0][i]);
    }
    if STRIDE == 1 {
        let x1 = anywhere!();
        for i in 0..4 {
            acc[i] = _mm512_dpbusd_epi32(acc[i], x1[i], w[1][i]);
            acc1[i] = _mm512_dpbusd_epi32(acc1[i], x1[i], w[0][i]);
        }
    }
    macro_rules! pixel {
        ($column:ident) => {
            if STRIDE == 2 {
                let x1 = $column!();
                for i in 0..4 {
                    acc[i] = _mm512_dpbusd_epi32(acc[i], x1[i], w[1][i]);
                }
            }
            let x2 = $column!();
            let mut done = acc;
            for i in 0..4 {
                done[i] = _mm512_dpbusd_epi32(acc[i], x2[i], w[2][i]);
                if STRIDE == 1 {
                    acc[i] = _mm512_dpbusd_epi32(acc1[i], x2[i], w[1][i]);
                    acc1[i] = _mm512_dpbusd_epi32(start[i], x2[i], w[0][i]);
                } else {
                    acc[i] = _mm512_dpbusd_epi32(start[i], x2[i], w[0][i]);
                }
            }
            // SAFETY: the pixel has `len` channels here; the constants have scales.
            unsafe { finish(done, constants.add(REGISTERS), requantize, output, len) };
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

/// Several pixels of `CHANNELS` channels at a time.
///
/// # Safety
///
/// As [`Columns::run`] calls it.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn row_of_several_avx512vnni<const CHANNELS: usize, const STRIDE: usize>(
    row: &Row,
    requantize: &RequantizeAvx512,
) {
    let offset = _mm512_set1_epi8(OFFSET);
    let padding = _mm512_set1_epi8(row.zero_point);
    let (pad, end) = (row.pad * CHANNELS, (row.pad + row.in_w) * CHANNELS);
    let [row0, row1, row2] = row.rows.map(|(from, _)| from.wrapping_sub(pad));
    // 64 bytes of the three rows of the padded input. Macros as above.
    macro_rules! load_rows {
        ($at:expr) => {{
            let at: usize = $at;
            let (from0, from1, from2) =
                (row0.wrapping_add(at), row1.wrapping_add(at), row2.wrapping_add(at));
            let x = if at >= pad && at + VECTOR <= end {
                // SAFETY: the bytes are in the rows.
                unsafe {
                    [
                        _mm512_loadu_si512(from0.cast()),
                        _mm512_loadu_si512(from1.cast()),
                        _mm512_loadu_si512(from2.cast()),
                    ]
                }
            } else {
                let left = first_bytes(pad.saturating_sub(at));
                let mask = first_bytes(end.saturating_sub(at)) & !left;
                // SAFETY: the mask leaves out what isn't in the rows.
                unsafe {
                    [
                        _mm512_mask_loadu_epi8(padding, mask, from0),
                        _mm512_mask_loadu_epi8(padding, mask, from1),
                        _mm512_mask_loadu_epi8(padding, mask, from2),
                    ]
                }
            };
            let lower = _mm512_xor_si512(x[2], offset);
            [_mm512_xor_si512(x[0], offset), _mm512_xor_si512(x[1], offset), lower, lower]
        }};
    }
    // Eight bytes of even columns out of two registers; those of odd ones are a column further.
    let words = CHANNELS / 8;
    let mut even = [0i64; 8];
    for i in 0..8 {
        even[i] = (i / words * 2 * words + i % words) as i64;
    }
    // SAFETY: the array is a register; there is a vector of constants.
    let (even, start, w) = unsafe {
        let even = _mm512_loadu_si512(even.as_ptr().cast());
        (even, load_registers(row.constants), load_weights(row.constants))
    };
    let odd = _mm512_add_epi64(even, _mm512_set1_epi64(words as i64));
    // The interleaved columns that outputs from `at` on meet first; with stride 2, also the odd ones.
    macro_rules! columns {
        ($at:expr) => {{
            let a = load_rows!(STRIDE * $at);
            if STRIDE == 1 {
                (interleave(a), a)
            } else {
                let b = load_rows!(STRIDE * $at + VECTOR);
                let (mut x0, mut x1) = (a, a);
                for i in 0..4 {
                    x0[i] = _mm512_permutex2var_epi64(a[i], even, b[i]);
                    x1[i] = _mm512_permutex2var_epi64(a[i], odd, b[i]);
                }
                (interleave(x0), interleave(x1))
            }
        }};
    }
    let len = row.out_w * CHANNELS;
    let (mut x0, mut x1) = columns!(0);
    let mut at = 0;
    while at < len {
        let (next, next1) = columns!(at + VECTOR);
        let x2 = if STRIDE == 1 {
            x1 = beside::<CHANNELS, 1>(x0, next);
            beside::<CHANNELS, 2>(x0, next)
        } else {
            beside::<CHANNELS, 1>(x0, next)
        };
        let mut acc = start;
        for i in 0..4 {
            acc[i] = _mm512_dpbusd_epi32(acc[i], x0[i], w[0][i]);
            acc[i] = _mm512_dpbusd_epi32(acc[i], x1[i], w[1][i]);
            acc[i] = _mm512_dpbusd_epi32(acc[i], x2[i], w[2][i]);
        }
        // SAFETY: there are `len - at` outputs from `at` on; the constants have scales.
        unsafe {
            let scale = row.constants.add(REGISTERS);
            finish(acc, scale, requantize, row.output.add(at), len - at);
        }
        (x0, x1) = (next, next1);
        at += VECTOR;
    }
}

/// The weights of the kernel's three columns.
///
/// # Safety
///
/// `constants` are those of a vector.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load_weights(constants: *const u8) -> [[__m512i; 4]; 3] {
    // SAFETY: as the caller's.
    unsafe {
        [
            load_registers(constants.add(2 * REGISTERS)),
            load_registers(constants.add(3 * REGISTERS)),
            load_registers(constants.add(4 * REGISTERS)),
        ]
    }
}

/// The interleaved bytes that lie `COLUMNS` columns behind those of `cur`, which `next` follows.
#[target_feature(enable = "avx512f")]
#[inline]
fn beside<const CHANNELS: usize, const COLUMNS: usize>(
    cur: [__m512i; 4],
    next: [__m512i; 4],
) -> [__m512i; 4] {
    let mut x = cur;
    for i in 0..4 {
        // In each lane, four quads of each register follow those of the one before.
        let quads = 4 * i + COLUMNS * CHANNELS;
        let (lanes, from) = (quads / 16, quads % 16 / 4);
        x[i] = match lanes {
            0 => cur[from],
            1 => _mm512_alignr_epi32::<4>(next[from], cur[from]),
            2 => _mm512_alignr_epi32::<8>(next[from], cur[from]),
            3 => _mm512_alignr_epi32::<12>(next[from], cur[from]),
            _ => next[from],
        };
    }
    x
}
