//! The i16 convolutions with AVX2: pairs of products by `vpmaddwd`.
//!
//! Convolutions take a word of four inputs of sixteen outputs at a time, as i8 panels have them. Sums of 32 bits
//! are exact over [`RUN`] inputs: 2²² a product, 2³⁰ a run. Where K is one run and no bias is large they
//! end in vectors, else in 64 bits one by one.

use core::arch::x86_64::*;

use super::scalar::{depthwise_i16_scalar, for_each_window, requantize};
use super::{ConvI16, ConvI16Fn, ROWS};
use crate::Isa;
use crate::kernels::{PANEL_K, PANEL_N};

/// Products of an output that are summed in 32 bits.
const RUN: usize = 256;

/// Biases below it leave room for a run of products in an i32.
const SMALL_BIAS: u64 = 1 << 30;

/// The AVX2 kernel of convolutions over panels, if this CPU runs it.
pub(super) fn conv_i16_avx2() -> Option<ConvI16Fn> {
    fn kernel(conv: &mut ConvI16<'_>) {
        // SAFETY: this function leaves its parent only where AVX2 is available.
        unsafe { conv_i16(conv) }
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
        // max_ps gives its second operand for a NaN: the lower bound, as `round_clamp`.
        let round = |sum: __m256i, scale: __m256| {
            let real = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), scale);
            _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(real, self.low), self.high))
        };
        _mm256_packs_epi32(round(a, scale_a), round(b, scale_b))
    }
}

/// The first elements of `from`, the others 0.
#[target_feature(enable = "avx2")]
#[inline]
fn load_i16(from: &[i16]) -> __m256i {
    let mut whole = [0; PANEL_N];
    let from = match from.first_chunk::<PANEL_N>() {
        Some(chunk) => chunk,
        None => {
            whole[..from.len()].copy_from_slice(from);
            &whole
        }
    };
    // SAFETY: an array of 16 i16 has 32 bytes.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
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

#[target_feature(enable = "avx2")]
fn conv_i16(conv: &mut ConvI16<'_>) {
    let g = conv.geometry;
    let (k, wide) = (g.k(), g.k().next_multiple_of(PANEL_K));
    let words = wide / PANEL_K;
    let bounds = Bounds::new(conv);
    let small = k <= RUN && conv.bias.iter().all(|bias| bias.unsigned_abs() < SMALL_BIAS);
    let in_place = g.is_pointwise() && k == wide;
    let scratch = core::mem::take(&mut conv.scratch);
    assert!(in_place || scratch.len() >= ROWS * wide, "scratch");
    for first in (0..g.out_pixels()).step_by(ROWS) {
        let rows = ROWS.min(g.out_pixels() - first);
        for group in 0..g.groups {
            let gathered: &[i16] = if in_place {
                &conv.input[first * k..(first + rows) * k]
            } else {
                for row in 0..rows {
                    gather(conv, first + row, group, &mut scratch[row * wide..][..wide]);
                }
                &scratch[..rows * wide]
            };
            for panel in 0..g.padded_group_out_c() / PANEL_N {
                let padded = group * g.padded_group_out_c() + panel * PANEL_N;
                let channel = group * g.group_out_c() + panel * PANEL_N;
                let channels = PANEL_N.min(g.group_out_c() - panel * PANEL_N);
                let weights = &conv.weights[padded * wide..][..PANEL_N * wide];
                let (weights, _) = weights.as_chunks::<{ PANEL_N * PANEL_K }>();
                debug_assert_eq!(weights.len(), words);
                match rows {
                    2 => {
                        let sums = tile::<2>(conv, weights, gathered, padded, small);
                        finish(conv, bounds, sums, [first, channel, channels, padded], small);
                    }
                    _ => {
                        let sums = tile::<1>(conv, weights, gathered, padded, small);
                        finish(conv, bounds, sums, [first, channel, channels, padded], small);
                    }
                }
            }
        }
    }
    conv.scratch = scratch;
}

/// What a pixel's sums are at the end of K.
#[derive(Clone, Copy)]
struct Sums {
    /// Outputs 0 to 7 and 8 to 15, bias included, where it and K are small.
    narrow: [__m256i; 2],
    /// Otherwise these.
    wide: [i64; PANEL_N],
}

/// The sums of a panel's outputs for `M` pixels, whose inputs lie one after the other. For two, 8 sums, 4 registers of
/// weights and 2 of inputs fill 14 of 16.
#[target_feature(enable = "avx2")]
#[inline]
fn tile<const M: usize>(
    conv: &ConvI16<'_>,
    weights: &[[i8; PANEL_N * PANEL_K]],
    x: &[i16],
    padded: usize,
    small: bool,
) -> [Sums; M] {
    let mut bias = [0; PANEL_N];
    bias.copy_from_slice(&conv.bias[padded..][..PANEL_N]);
    // Cut off where they aren't small, and not used then.
    let low: [i32; PANEL_N] = bias.map(|bias| bias as i32);
    // SAFETY: the array has 64 bytes: two registers.
    let low = unsafe {
        [_mm256_loadu_si256(low.as_ptr().cast()), _mm256_loadu_si256(low.as_ptr().add(8).cast())]
    };
    let mut sums = [Sums { narrow: low, wide: bias }; M];
    let len = x.len() / M;
    // Pixel m's words of four inputs.
    let x: [&[[i16; PANEL_K]]; M] =
        core::array::from_fn(|m| x[m * len..(m + 1) * len].as_chunks().0);
    const WORDS: usize = RUN / PANEL_K;
    for (run, weights) in weights.chunks(WORDS).enumerate() {
        let x: [&[[i16; PANEL_K]]; M] =
            core::array::from_fn(|m| &x[m][run * WORDS..][..weights.len()]);
        // Register v has outputs 4v to 4v + 3, two sums each: of inputs 0 and 1, and of 2 and 3.
        let mut acc = [[_mm256_setzero_si256(); 4]; M];
        for (word, weights) in weights.iter().enumerate() {
            let (weights, _) = weights.as_chunks::<PANEL_N>();
            for m in 0..M {
                // SAFETY: an array of 4 i16 has 8 bytes.
                let four = unsafe { x[m][word].as_ptr().cast::<i64>().read_unaligned() };
                let four = _mm256_set1_epi64x(four);
                for v in 0..4 {
                    let products = _mm256_madd_epi16(four, load_i8(&weights[v]));
                    acc[m][v] = _mm256_add_epi32(acc[m][v], products);
                }
            }
        }
        for m in 0..M {
            // Pairs of sums; hadd works within 128-bit lanes, so that quarters 1 and 2 change places.
            let whole = |a: __m256i, b: __m256i| {
                _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(a, b))
            };
            let halves = [whole(acc[m][0], acc[m][1]), whole(acc[m][2], acc[m][3])];
            if small {
                for (sum, half) in sums[m].narrow.iter_mut().zip(halves) {
                    *sum = _mm256_add_epi32(*sum, half);
                }
            } else {
                let mut each = [0i32; PANEL_N];
                // SAFETY: the array has 64 bytes: two registers.
                unsafe {
                    _mm256_storeu_si256(each.as_mut_ptr().cast(), halves[0]);
                    _mm256_storeu_si256(each.as_mut_ptr().add(8).cast(), halves[1]);
                }
                for (sum, run) in sums[m].wide.iter_mut().zip(each) {
                    *sum = sum.wrapping_add(i64::from(run));
                }
            }
        }
    }
    sums
}

/// Requantizes and writes a panel's outputs of `M` pixels: the first pixel, the first channel in the output, how
/// many there are, and where they are among the padded ones.
#[target_feature(enable = "avx2")]
#[inline]
fn finish<const M: usize>(
    conv: &mut ConvI16<'_>,
    bounds: Bounds,
    sums: [Sums; M],
    [first, channel, channels, padded]: [usize; 4],
    small: bool,
) {
    for (m, sums) in sums.into_iter().enumerate() {
        let at = (first + m) * conv.geometry.out_c + channel;
        if small {
            let (scales, _) = conv.scale[padded..][..PANEL_N].as_chunks::<8>();
            let (scale_a, scale_b) = (load_f32(&scales[0]), load_f32(&scales[1]));
            let packed = bounds.narrow(sums.narrow[0], sums.narrow[1], scale_a, scale_b);
            // Quarters 1 and 2 change places again.
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
            store_i16(packed, &mut conv.output[at..at + channels]);
        } else {
            for lane in 0..channels {
                conv.output[at + lane] = requantize(conv, sums.wide[lane], padded + lane);
            }
        }
    }
}

/// Copies a group's inputs of an output pixel in the order of K, zeros for padding and behind them.
fn gather(conv: &ConvI16<'_>, pixel: usize, group: usize, to: &mut [i16]) {
    let g = &conv.geometry;
    let own = g.group_in_c();
    to.fill(0);
    let image = pixel / (g.out_h * g.out_w);
    for_each_window(g, pixel..pixel + 1, |_, [(rows, top), (columns, left)]| {
        for (row_step, tap_row) in rows.clone().enumerate() {
            let in_row = (image * g.in_h + top + row_step * g.dilation_h) * g.in_w;
            for (step, tap) in columns.clone().enumerate() {
                let from = (in_row + left + step * g.dilation_w) * g.in_c + group * own;
                to[(tap_row * g.kernel_w + tap) * own..][..own]
                    .copy_from_slice(&conv.input[from..from + own]);
            }
        }
    });
}

#[target_feature(enable = "avx2")]
fn depthwise_i16(conv: &mut ConvI16<'_>) {
    let g = conv.geometry;
    let channels = g.in_c;
    let wide = channels.next_multiple_of(PANEL_N);
    let is_small = |bias: &i64| bias.unsigned_abs() < SMALL_BIAS;
    if g.k() > RUN || !conv.bias.iter().all(is_small) {
        return depthwise_i16_scalar(conv);
    }
    let bounds = Bounds::new(conv);
    let zero = _mm256_setzero_si256();
    for start in (0..channels).step_by(PANEL_N) {
        let len = PANEL_N.min(channels - start);
        // As `vpunpck` has them: 0 to 3 and 8 to 11, then 4 to 7 and 12 to 15.
        let order = |i: usize| start + i % 4 + i / 4 * 8;
        let scales: [[f32; 8]; 2] =
            core::array::from_fn(|high| core::array::from_fn(|i| conv.scale[order(i) + 4 * high]));
        let bias: [[i32; 8]; 2] = core::array::from_fn(|high| {
            core::array::from_fn(|i| conv.bias[order(i) + 4 * high] as i32)
        });
        let (scale_a, scale_b) = (load_f32(&scales[0]), load_f32(&scales[1]));
        // SAFETY: arrays of 8 i32 have 32 bytes.
        let bias = bias.map(|bias| unsafe { _mm256_loadu_si256(bias.as_ptr().cast()) });
        for pixel in 0..g.out_pixels() {
            let image = pixel / (g.out_h * g.out_w);
            let (mut a, mut b) = (bias[0], bias[1]);
            // A tap that waits for its partner: inputs and weights.
            let mut waiting: Option<(__m256i, __m256i)> = None;
            let mut add = |(x, w): (__m256i, __m256i), (x2, w2): (__m256i, __m256i)| {
                let low = (_mm256_unpacklo_epi16(x, x2), _mm256_unpacklo_epi16(w, w2));
                let high = (_mm256_unpackhi_epi16(x, x2), _mm256_unpackhi_epi16(w, w2));
                a = _mm256_add_epi32(a, _mm256_madd_epi16(low.0, low.1));
                b = _mm256_add_epi32(b, _mm256_madd_epi16(high.0, high.1));
            };
            let (input, weights) = (conv.input, conv.weights);
            for_each_window(&g, pixel..pixel + 1, |_, [(rows, top), (columns, left)]| {
                for (row_step, tap_row) in rows.clone().enumerate() {
                    let in_row = (image * g.in_h + top + row_step * g.dilation_h) * g.in_w;
                    for (step, tap_column) in columns.clone().enumerate() {
                        let from = (in_row + left + step * g.dilation_w) * channels + start;
                        let tap = (tap_row * g.kernel_w + tap_column) * wide + start;
                        let (taps, _) = weights[tap..tap + PANEL_N].as_chunks();
                        let this = (load_i16(&input[from..from + len]), load_i8(&taps[0]));
                        match waiting.take() {
                            None => waiting = Some(this),
                            Some(other) => add(other, this),
                        }
                    }
                }
            });
            if let Some(last) = waiting {
                add(last, (zero, zero));
            }
            let at = pixel * channels + start;
            store_i16(bounds.narrow(a, b, scale_a, scale_b), &mut conv.output[at..at + len]);
        }
    }
}
