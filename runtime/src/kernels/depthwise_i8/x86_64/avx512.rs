//! The i8 depthwise convolution in AVX-512 with VNNI: one `vpdpbusd` for four taps.
//!
//! The bytes of four taps are interleaved, which spreads 64 channels over four registers; the
//! saturating packs of the epilogue bring them back in order. What makes an output of 64 bytes may
//! be channels of one pixel or, where a pixel has few, of several.

use core::arch::x86_64::*;

use crate::kernels::ConvGeometry;
use crate::kernels::depthwise_i8::padded_c;
use crate::kernels::depthwise_i8::walk::Job;
use crate::kernels::requantize::x86_64::RequantizeAvx512;

mod columns;
mod rows;

use columns::Columns;
use rows::Rows;

/// Bytes of a register: outputs computed at once.
const VECTOR: usize = 64;

/// Added to activations, because `vpdpbusd` wants them unsigned; flips the sign bit.
const OFFSET: i8 = -128;

/// Bytes of four registers.
const REGISTERS: usize = 256;

/// Bytes of a vector's constants: accumulators to start from, scales, weights of every quad of taps.
const fn constants_bytes(quads: usize) -> usize {
    (2 + quads) * REGISTERS
}

/// How a convolution is computed.
enum Plan {
    Columns(Columns),
    Rows(Rows),
}

impl Plan {
    fn new(g: &ConvGeometry, contiguous: bool, has_residual: bool) -> Self {
        match Columns::new(g, contiguous, has_residual) {
            Some(plan) => Plan::Columns(plan),
            None => Plan::Rows(Rows::new(g, contiguous)),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Plan::Columns(plan) => plan.bytes,
            Plan::Rows(plan) => plan.bytes,
        }
    }
}

/// Enough for any output and epilogue.
pub(super) fn scratch_bytes(g: &ConvGeometry) -> usize {
    let bytes = |contiguous, has_residual| Plan::new(g, contiguous, has_residual).bytes();
    bytes(false, false).max(bytes(true, false)).max(bytes(false, true)).max(bytes(true, true))
}

/// # Safety
///
/// The CPU has AVX-512 and VNNI; the lengths of `job` but scratch are checked.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn run_avx512vnni(job: &Job<'_>, scratch_bytes: usize) {
    let g = &job.geometry;
    if g.out_pixels() == 0 || g.in_c == 0 {
        return;
    }
    let plan = Plan::new(g, job.output_stride == g.out_c, job.epilogue.residual.is_some());
    assert!(scratch_bytes >= plan.bytes(), "scratch too short");
    let requantize = RequantizeAvx512::new(&job.epilogue);
    // SAFETY: scratch is long enough, as just asserted.
    unsafe {
        match plan {
            Plan::Columns(plan) => plan.run(job, &requantize),
            Plan::Rows(plan) => plan.run(job, &requantize),
        }
    }
}

/// Copies `len` activations with their sign bits flipped, and up to 63 after them that don't matter.
///
/// # Safety
///
/// `src` is valid for `len` reads, and `dst` for `len`, rounded up to [`VECTOR`], writes.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) unsafe fn convert_avx512(src: *const i8, dst: *mut u8, len: usize) {
    let offset = _mm512_set1_epi8(OFFSET);
    let mut i = 0;
    while i < len {
        // SAFETY: the mask leaves out what is at `len` and after.
        unsafe {
            let x = _mm512_maskz_loadu_epi8(first_bytes(len - i), src.add(i));
            _mm512_storeu_si512(dst.add(i).cast(), _mm512_xor_si512(x, offset));
        }
        i += VECTOR;
    }
}

/// Writes an activation with its sign bit flipped `len` times, and up to 63 times more.
///
/// # Safety
///
/// `dst` is valid for `len`, rounded up to [`VECTOR`], writes.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) unsafe fn fill_avx512(x: i8, dst: *mut u8, len: usize) {
    let mut i = 0;
    while i < len {
        // SAFETY: as the caller's.
        unsafe { _mm512_storeu_si512(dst.add(i).cast(), _mm512_set1_epi8(x ^ OFFSET)) };
        i += VECTOR;
    }
}

/// Copies columns of `channels` bytes each to as many rows as there are phases, one after the other
/// in turn.
///
/// # Safety
///
/// `src` is valid for `columns * channels` and [`VECTOR`] more reads; each of the rows, which are
/// `phase_bytes` apart, for its share and [`VECTOR`] more writes.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) unsafe fn part_avx512(
    src: *const u8,
    columns: usize,
    channels: usize,
    dst: *mut u8,
    phases: usize,
    phase_bytes: usize,
) {
    for phase in 0..phases {
        let mut src = src.wrapping_add(phase * channels);
        let mut dst = dst.wrapping_add(phase * phase_bytes);
        for _ in (phase..columns).step_by(phases) {
            for i in (0..channels).step_by(VECTOR) {
                // SAFETY: as the caller's; what is behind the column is overwritten by the next.
                unsafe {
                    _mm512_storeu_si512(dst.add(i).cast(), _mm512_loadu_si512(src.add(i).cast()))
                };
            }
            src = src.wrapping_add(phases * channels);
            dst = dst.wrapping_add(channels);
        }
    }
}

/// The first `len` of 64, at most all.
#[inline]
fn first_bytes(len: usize) -> __mmask64 {
    if len < VECTOR { (1 << len) - 1 } else { u64::MAX }
}

/// Writes what all outputs at this place among the vectors of a unit have in common; `tap` tells
/// which tap has place `i` of a quad.
///
/// # Safety
///
/// The lengths of `job` are checked; scratch has space for the vector's constants.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn write_constants(
    job: &Job<'_>,
    vector: usize,
    quads: usize,
    tap: impl Fn(usize, usize) -> Option<usize>,
) {
    let channels = job.geometry.in_c;
    let first = vector * VECTOR % channels;
    let offset = _mm512_set1_epi8(OFFSET);
    // SAFETY: per-channel arrays and the rows of weights have `channels` elements; scratch has the
    // constants of the vector.
    unsafe {
        let constants = job.scratch.add(vector * constants_bytes(quads));
        let mut sums = [_mm512_setzero_si512(); 4];
        for quad in 0..quads {
            let mut rows = [_mm512_setzero_si512(); 4];
            for i in 0..4 {
                if let Some(tap) = tap(quad, i) {
                    let weights = job.weights.add(tap * padded_c(channels));
                    rows[i] = load_repeated::<1>(weights.cast(), channels, first)[0];
                }
            }
            let weights = interleave(rows);
            let to = constants.add((2 + quad) * REGISTERS);
            for i in 0..4 {
                sums[i] = _mm512_dpbusd_epi32(sums[i], offset, weights[i]);
                _mm512_storeu_si512(to.add(i * VECTOR).cast(), weights[i]);
            }
        }
        let bias = in_order_of_interleave(load_repeated(job.bias.cast(), channels, first));
        let scale = job.epilogue.scale.as_ptr().cast();
        let scale = in_order_of_interleave(load_repeated(scale, channels, first));
        for i in 0..4 {
            let start = _mm512_sub_epi32(bias[i], sums[i]);
            _mm512_storeu_si512(constants.add(i * VECTOR).cast(), start);
            _mm512_storeu_si512(constants.add(REGISTERS + i * VECTOR).cast(), scale[i]);
        }
    }
}

/// 64 elements of `SIZE` bytes, from element `first` of `period` on; the first follows the last.
///
/// # Safety
///
/// `src` is valid for `period` elements, and `first < period`.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn load_repeated<const SIZE: usize>(
    src: *const u8,
    period: usize,
    first: usize,
) -> [__m512i; SIZE] {
    let mut repeated = [[0u8; VECTOR]; 5];
    const { assert!(SIZE < 5) };
    let to = repeated.as_mut_ptr().cast::<u8>();
    let (period, mut at) = (period * SIZE, first * SIZE);
    // SAFETY: reads are behind `at` and end with the period at the latest; writes start within
    // `SIZE` vectors, which are followed by another one.
    unsafe {
        let from = if at + SIZE * VECTOR <= period {
            src.add(at)
        } else {
            let mut done = 0;
            while done < SIZE * VECTOR {
                let len = (period - at).min(VECTOR);
                let piece = _mm512_maskz_loadu_epi8(first_bytes(len), src.add(at).cast());
                _mm512_storeu_si512(to.add(done).cast(), piece);
                at = if at + len == period { 0 } else { at + len };
                done += len;
            }
            to.cast_const()
        };
        let mut elements = [_mm512_setzero_si512(); SIZE];
        for i in 0..SIZE {
            elements[i] = _mm512_loadu_si512(from.add(i * VECTOR).cast());
        }
        elements
    }
}

/// Interleaves four rows of bytes: register `i` has, in each 128-bit lane, quads `4 i..4 i + 4` of that lane.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn interleave(rows: [__m512i; 4]) -> [__m512i; 4] {
    let [a, b, c, d] = rows;
    let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
    let (high_ab, high_cd) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
    [
        _mm512_unpacklo_epi16(ab, cd),
        _mm512_unpackhi_epi16(ab, cd),
        _mm512_unpacklo_epi16(high_ab, high_cd),
        _mm512_unpackhi_epi16(high_ab, high_cd),
    ]
}

/// 64 elements of four bytes as [`interleave`] orders its quads: exchanges registers and lanes.
#[target_feature(enable = "avx512f")]
#[inline]
fn in_order_of_interleave(x: [__m512i; 4]) -> [__m512i; 4] {
    let [a, b, c, d] = x;
    let (ab, cd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(c, d));
    let odd = (_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(c, d));
    [
        _mm512_shuffle_i32x4::<0x88>(ab, cd),
        _mm512_shuffle_i32x4::<0x88>(odd.0, odd.1),
        _mm512_shuffle_i32x4::<0xdd>(ab, cd),
        _mm512_shuffle_i32x4::<0xdd>(odd.0, odd.1),
    ]
}

/// Four registers.
///
/// # Safety
///
/// `src` is valid for as many reads.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load_registers(src: *const u8) -> [__m512i; 4] {
    // SAFETY: as the caller's.
    unsafe {
        [
            _mm512_loadu_si512(src.cast()),
            _mm512_loadu_si512(src.add(VECTOR).cast()),
            _mm512_loadu_si512(src.add(2 * VECTOR).cast()),
            _mm512_loadu_si512(src.add(3 * VECTOR).cast()),
        ]
    }
}

/// Writes the first `len` of 64 outputs, at most all.
///
/// # Safety
///
/// `dst` is valid for as many writes; `scale` for four registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn finish(
    acc: [__m512i; 4],
    scale: *const u8,
    requantize: &RequantizeAvx512,
    dst: *mut i8,
    len: usize,
) {
    // SAFETY: as the caller's.
    unsafe {
        let scale = load_registers(scale);
        let mut results = acc;
        for i in 0..4 {
            results[i] = requantize.round(acc[i], _mm512_castsi512_ps(scale[i]));
        }
        store(dst, requantize.pack(results), len);
    }
}

/// As [`finish`], with a residual.
///
/// # Safety
///
/// As [`finish`]; `residual` is valid for as many reads as `dst` for writes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn finish_sum(
    acc: [__m512i; 4],
    scale: *const u8,
    requantize: &RequantizeAvx512,
    residual: *const i8,
    dst: *mut i8,
    len: usize,
) {
    // SAFETY: as the caller's.
    unsafe {
        let scale = load_registers(scale);
        let data = _mm512_maskz_loadu_epi8(first_bytes(len), residual);
        let data = interleave([data; 4]);
        let mut results = acc;
        for i in 0..4 {
            let data = _mm512_srai_epi32::<24>(data[i]);
            results[i] = requantize.round_sum(acc[i], _mm512_castsi512_ps(scale[i]), data);
        }
        store(dst, requantize.pack(results), len);
    }
}

/// # Safety
///
/// `dst` is valid for `len` writes, at most 64.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn store(dst: *mut i8, bytes: __m512i, len: usize) {
    // SAFETY: as the caller's.
    unsafe {
        if len >= VECTOR {
            _mm512_storeu_si512(dst.cast(), bytes);
        } else {
            _mm512_mask_storeu_epi8(dst, first_bytes(len), bytes);
        }
    }
}
