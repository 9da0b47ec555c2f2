//! The i16 convolutions with AVX2: pairs of products by `vpmaddwd`.
//!
//! Convolutions take a word of four inputs of sixteen outputs at a time, as i8 panels have them.

use core::arch::x86_64::*;

use super::panels::{self, Simd, has_narrow_sums};
use super::scalar::{depthwise_i16_scalar, inside};
use super::{ConvI16, ConvI16Fn};
use crate::Isa;
use crate::kernels::{PANEL_K, PANEL_N};

/// The AVX2 kernel of convolutions over panels, if this CPU runs it.
pub(super) fn conv_i16_avx2() -> Option<ConvI16Fn> {
    #[target_feature(enable = "avx2")]
    fn run(conv: &mut ConvI16<'_>) {
        // SAFETY: this function has the feature.
        unsafe { panels::conv_i16::<Avx2>(conv) }
    }
    fn kernel(conv: &mut ConvI16<'_>) {
        // SAFETY: this function leaves its parent only where AVX2 is available.
        unsafe { run(conv) }
    }
    Isa::Avx2.is_available().then_some(kernel as ConvI16Fn)
}

/// The AVX2 kernel of depthwise convolutions, if this CPU runs it.
pub(super) fn depthwise_i16_avx2() -> Option<ConvI16Fn> {
    fn kernel(conv: &mut ConvI16<'_>) {
        // SAFETY: this function leaves its parent only where AVX2 is available.
        unsafe { depthwise_i16(conv) }
    }
    Isa::Avx2.is_available().then_some(kernel as ConvI16Fn)
}

/// Bounds of the results, for sixteen at a time.
#[derive(Clone, Copy)]
struct Bounds {
    low: __m256,
    high: __m256,
}

impl Bounds {
    #[target_feature(enable = "avx2")]
    #[inline]
    fn new(conv: &ConvI16<'_>) -> Bounds {
        Bounds { low: _mm256_set1_ps(conv.min as f32), high: _mm256_set1_ps(conv.max as f32) }
    }

    /// Two registers of sums as i16: per 128-bit lane, four of `a`, then four of `b`.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn narrow(self, a: __m256i, b: __m256i, scale_a: __m256, scale_b: __m256) -> __m256i {
        _mm256_packs_epi32(self.round(a, scale_a), self.round(b, scale_b))
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn round(self, sum: __m256i, scale: __m256) -> __m256i {
        let real = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), scale);
        // max_ps gives its second operand for a NaN: the lower bound, as `round_clamp`.
        _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(real, self.low), self.high))
    }
}

/// Sixteen elements, or as many as there are and zeros.
#[target_feature(enable = "avx2")]
#[inline]
fn load_i16(from: &[i16]) -> __m256i {
    if from.len() >= PANEL_N {
        // SAFETY: 16 i16 have 32 bytes.
        return unsafe { _mm256_loadu_si256(from.as_ptr().cast()) };
    }
    let mut whole = [0; PANEL_N];
    whole[..from.len()].copy_from_slice(from);
    // SAFETY: an array of 16 i16 has 32 bytes.
    unsafe { _mm256_loadu_si256(whole.as_ptr().cast()) }
}

/// Writes as many of the sixteen elements as `to` has.
#[target_feature(enable = "avx2")]
#[inline]
fn store_i16(elements: __m256i, to: &mut [i16]) {
    if let Some(to) = to.first_chunk_mut::<PANEL_N>() {
        // SAFETY: an array of 16 i16 has 32 bytes.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), elements) }
        return;
    }
    let mut whole = [0; PANEL_N];
    // SAFETY: an array of 16 i16 has 32 bytes.
    unsafe { _mm256_storeu_si256(whole.as_mut_ptr().cast(), elements) }
    to.copy_from_slice(&whole[..to.len()]);
}

/// Sixteen weights as i16.
#[target_feature(enable = "avx2")]
#[inline]
fn load_i8(from: &[i8; PANEL_N]) -> __m256i {
    // SAFETY: an array of 16 i8 has 16 bytes.
    _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(from.as_ptr().cast()) })
}

/// Eight consecutive numbers.
#[target_feature(enable = "avx2")]
#[inline]
fn load_f32(from: &[f32; 8]) -> __m256 {
    // SAFETY: an array of 8 f32 has 32 bytes.
    unsafe { _mm256_loadu_ps(from.as_ptr()) }
}

/// Eight consecutive numbers.
#[target_feature(enable = "avx2")]
#[inline]
fn load_i32(from: &[i32; 8]) -> __m256i {
    // SAFETY: an array of 8 i32 has 32 bytes.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
}

struct Avx2;

impl Simd for Avx2 {
    type Sums = [__m256i; 2];
    type Bounds = Bounds;

    #[inline(always)]
    unsafe fn bounds(conv: &ConvI16<'_>) -> Bounds {
        // SAFETY: as the caller's.
        unsafe { Bounds::new(conv) }
    }

    #[inline(always)]
    unsafe fn run<const M: usize>(weights: &[i8], x: &[i16], stride: usize) -> [[__m256i; 2]; M] {
        // SAFETY: as the caller's.
        unsafe { run(weights, x, stride) }
    }

    #[inline(always)]
    unsafe fn narrow(
        sums: [__m256i; 2],
        bias: &[i32; PANEL_N],
        scale: &[f32; PANEL_N],
        bounds: Bounds,
        to: &mut [i16],
    ) {
        // SAFETY: as the caller's.
        unsafe { narrow(sums, bias, scale, bounds, to) }
    }

    #[inline(always)]
    unsafe fn stored(sums: [__m256i; 2]) -> [i32; PANEL_N] {
        let mut each = [0i32; PANEL_N];
        // SAFETY: the array has 64 bytes: two registers. The caller vouches for the CPU.
        unsafe {
            _mm256_storeu_si256(each.as_mut_ptr().cast(), sums[0]);
            _mm256_storeu_si256(each.as_mut_ptr().add(8).cast(), sums[1]);
        }
        each
    }
}

// Plain loops below: what iterators and arrays take as a closure isn't compiled for the instruction set.

/// [`Simd::run`]: of a panel's outputs 0 to 7 and 8 to 15, for `M` rows of inputs that are
/// `stride` apart.
#[target_feature(enable = "avx2")]
#[inline]
fn run<const M: usize>(weights: &[i8], x: &[i16], stride: usize) -> [[__m256i; 2]; M] {
    let words = weights.len() / (PANEL_N * PANEL_K);
    assert!(x.len() >= (M - 1) * stride + words * PANEL_K);
    // Register v has outputs 4v to 4v + 3, two sums each: of inputs 0 and 1, and of 2 and 3. For two rows, 8 sums, 4
    // registers of weights and 2 of inputs fill 14 of 16.
    let mut acc = [[_mm256_setzero_si256(); 4]; M];
    for word in 0..words {
        let mut w = [_mm256_setzero_si256(); 4];
        for v in 0..4 {
            // SAFETY: word < words, so 64 weights begin at 64 * word; v < 4 takes 16 of them.
            let from = unsafe { weights.as_ptr().add(word * PANEL_N * PANEL_K + v * 16) };
            // SAFETY: 16 i8 are 16 bytes.
            w[v] = _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(from.cast()) });
        }
        for m in 0..M {
            // SAFETY: x was found to have 4 * words elements in each of M rows; 4 i16 have 8 bytes.
            let four = unsafe {
                x.as_ptr().add(m * stride + word * PANEL_K).cast::<i64>().read_unaligned()
            };
            let four = _mm256_set1_epi64x(four);
            for v in 0..4 {
                acc[m][v] = _mm256_add_epi32(acc[m][v], _mm256_madd_epi16(four, w[v]));
            }
        }
    }
    let mut sums = [[_mm256_setzero_si256(); 2]; M];
    for m in 0..M {
        for half in 0..2 {
            // Pairs of sums; hadd works within 128-bit lanes, so that quarters 1 and 2 change places.
            let pairs = _mm256_hadd_epi32(acc[m][2 * half], acc[m][2 * half + 1]);
            sums[m][half] = _mm256_permute4x64_epi64::<0b11_01_10_00>(pairs);
        }
    }
    sums
}

/// [`Simd::narrow`].
#[target_feature(enable = "avx2")]
#[inline]
fn narrow(
    sums: [__m256i; 2],
    bias: &[i32; PANEL_N],
    scale: &[f32; PANEL_N],
    bounds: Bounds,
    to: &mut [i16],
) {
    let ((bias, _), (scale, _)) = (bias.as_chunks::<8>(), scale.as_chunks::<8>());
    let a = _mm256_add_epi32(sums[0], load_i32(&bias[0]));
    let b = _mm256_add_epi32(sums[1], load_i32(&bias[1]));
    let packed = bounds.narrow(a, b, load_f32(&scale[0]), load_f32(&scale[1]));
    // Quarters 1 and 2 change places again.
    store_i16(_mm256_permute4x64_epi64::<0b11_01_10_00>(packed), to);
}

#[target_feature(enable = "avx2")]
fn depthwise_i16(conv: &mut ConvI16<'_>) {
    let g = conv.geometry;
    let channels = g.in_c;
    let wide = channels.next_multiple_of(PANEL_N);
    if !has_narrow_sums(conv) {
        return depthwise_i16_scalar(conv);
    }
    let bounds = Bounds::new(conv);
    for start in (0..channels).step_by(PANEL_N) {
        let len = PANEL_N.min(channels - start);
        // As `vpunpck` has them: 0 to 3 and 8 to 11, then 4 to 7 and 12 to 15.
        let (mut scale, mut bias) = ([[0.0; 8]; 2], [[0; 8]; 2]);
        for i in 0..PANEL_N {
            let (half, lane) = (i / 4 % 2, i / 8 * 4 + i % 4);
            scale[half][lane] = conv.scale[start + i];
            bias[half][lane] = conv.bias[start + i] as i32;
        }
        for image in 0..g.batch {
            for y in 0..g.out_h {
                let (rows, top) =
                    inside(y * g.stride_h, g.pad_top, g.dilation_h, g.kernel_h, g.in_h);
                for x in 0..g.out_w {
                    let (columns, left) =
                        inside(x * g.stride_w, g.pad_left, g.dilation_w, g.kernel_w, g.in_w);
                    let mut sums = [load_i32(&bias[0]), load_i32(&bias[1])];
                    // A tap that waits for its partner: inputs and weights.
                    let mut waiting = [_mm256_setzero_si256(); 2];
                    let mut is_waiting = false;
                    for row in rows.clone() {
                        let in_row = image * g.in_h + top + (row - rows.start) * g.dilation_h;
                        let mut from = (in_row * g.in_w + left) * channels + start;
                        let mut tap = (row * g.kernel_w + columns.start) * wide + start;
                        for _ in columns.clone() {
                            let (taps, _) = conv.weights[tap..tap + PANEL_N].as_chunks();
                            // Behind the last channels is the next pixel: what it gives isn't stored.
                            let this = [load_i16(&conv.input[from..]), load_i8(&taps[0])];
                            if is_waiting {
                                sums = add_pair(sums, waiting, this);
                            } else {
                                waiting = this;
                            }
                            is_waiting = !is_waiting;
                            from += g.dilation_w * channels;
                            tap += wide;
                        }
                    }
                    if is_waiting {
                        sums = add_pair(sums, waiting, [_mm256_setzero_si256(); 2]);
                    }
                    let (scale_a, scale_b) = (load_f32(&scale[0]), load_f32(&scale[1]));
                    let packed = bounds.narrow(sums[0], sums[1], scale_a, scale_b);
                    let at = ((image * g.out_h + y) * g.out_w + x) * channels + start;
                    store_i16(packed, &mut conv.output[at..at + len]);
                }
            }
        }
    }
}

/// Adds the products of two taps, inputs and weights, in the order of `vpunpck`.
#[target_feature(enable = "avx2")]
#[inline]
fn add_pair(sums: [__m256i; 2], [x, w]: [__m256i; 2], [x2, w2]: [__m256i; 2]) -> [__m256i; 2] {
    let low = _mm256_madd_epi16(_mm256_unpacklo_epi16(x, x2), _mm256_unpacklo_epi16(w, w2));
    let high = _mm256_madd_epi16(_mm256_unpackhi_epi16(x, x2), _mm256_unpackhi_epi16(w, w2));
    [_mm256_add_epi32(sums[0], low), _mm256_add_epi32(sums[1], high)]
}
