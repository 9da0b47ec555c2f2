//! The i16 convolutions with Advanced SIMD: products by `smlal`, a weight of eight outputs by an element of the inputs.

use core::arch::aarch64::*;

use super::panels::{self, Simd, has_narrow_sums};
use super::scalar::{depthwise_i16_scalar, inside};
use super::{ConvI16, ConvI16Fn};
use crate::kernels::{PANEL_K, PANEL_N};

/// Registers of a panel's sums.
const VECTORS: usize = PANEL_N / 4;

/// Sums of sixteen outputs, in their order.
type Sums = [int32x4_t; VECTORS];

/// The kernel of convolutions over panels.
pub(super) const CONV_I16_NEON: ConvI16Fn = |conv| {
    // SAFETY: targets that this module is built for have Advanced SIMD.
    unsafe { panels::conv_i16::<Neon>(conv) }
};

/// The kernel of depthwise convolutions.
pub(super) const DEPTHWISE_I16_NEON: ConvI16Fn = |conv| {
    // SAFETY: targets that this module is built for have Advanced SIMD.
    unsafe { depthwise_i16(conv) }
};

struct Neon;

impl Simd for Neon {
    type Sums = Sums;
    type Bounds = [float32x4_t; 2];

    #[inline(always)]
    unsafe fn bounds(conv: &ConvI16<'_>) -> [float32x4_t; 2] {
        // SAFETY: as the caller's.
        unsafe { [vdupq_n_f32(conv.min as f32), vdupq_n_f32(conv.max as f32)] }
    }

    #[inline(always)]
    unsafe fn run<const M: usize>(weights: &[i8], x: &[i16], stride: usize) -> [Sums; M] {
        // SAFETY: as the caller's.
        unsafe { run(weights, x, stride) }
    }

    #[inline(always)]
    unsafe fn narrow(
        sums: Sums,
        bias: &[i32; PANEL_N],
        scale: &[f32; PANEL_N],
        bounds: [float32x4_t; 2],
        to: &mut [i16],
    ) {
        // SAFETY: as the caller's.
        unsafe { narrow(sums, bias, scale, bounds, to) }
    }

    #[inline(always)]
    unsafe fn stored(sums: Sums) -> [i32; PANEL_N] {
        let mut each = [0; PANEL_N];
        for v in 0..VECTORS {
            // SAFETY: four of sixteen numbers.
            unsafe { vst1q_s32(each.as_mut_ptr().add(4 * v), sums[v]) };
        }
        each
    }
}

/// [`Simd::run`].
#[target_feature(enable = "neon")]
#[inline]
fn run<const M: usize>(weights: &[i8], x: &[i16], stride: usize) -> [Sums; M] {
    let words = weights.len() / (PANEL_N * PANEL_K);
    assert!(x.len() >= (M - 1) * stride + words * PANEL_K);
    let mut acc = [[vdupq_n_s32(0); VECTORS]; M];
    for word in 0..words {
        // SAFETY: word < words, so 64 weights begin at 64 * word. `ld4` takes the four inputs of an output apart.
        let inputs = unsafe { vld4q_s8(weights.as_ptr().add(word * PANEL_N * PANEL_K)) };
        let mut four = [vdup_n_s16(0); M];
        for m in 0..M {
            // SAFETY: x was found to have 4 * words elements in each of M rows.
            four[m] = unsafe { vld1_s16(x.as_ptr().add(m * stride + word * PANEL_K)) };
        }
        macro_rules! add {
            ($inputs:expr, $lane:literal) => {
                let low = vmovl_s8(vget_low_s8($inputs));
                let high = vmovl_high_s8($inputs);
                for m in 0..M {
                    let [a, b, c, d] = &mut acc[m];
                    *a = vmlal_lane_s16::<$lane>(*a, vget_low_s16(low), four[m]);
                    *b = vmlal_high_lane_s16::<$lane>(*b, low, four[m]);
                    *c = vmlal_lane_s16::<$lane>(*c, vget_low_s16(high), four[m]);
                    *d = vmlal_high_lane_s16::<$lane>(*d, high, four[m]);
                }
            };
        }
        add!(inputs.0, 0);
        add!(inputs.1, 1);
        add!(inputs.2, 2);
        add!(inputs.3, 3);
    }
    acc
}

/// [`Simd::narrow`].
#[target_feature(enable = "neon")]
#[inline]
fn narrow(
    sums: Sums,
    bias: &[i32; PANEL_N],
    scale: &[f32; PANEL_N],
    [low, high]: [float32x4_t; 2],
    to: &mut [i16],
) {
    let mut rounded = sums;
    for v in 0..VECTORS {
        // SAFETY: four of sixteen numbers.
        let (bias, scale) =
            unsafe { (vld1q_s32(bias.as_ptr().add(4 * v)), vld1q_f32(scale.as_ptr().add(4 * v))) };
        let real = vmulq_f32(vcvtq_f32_s32(vaddq_s32(sums[v], bias)), scale);
        // `fmaxnm` takes a NaN to the lower bound, as `round_clamp`.
        rounded[v] = vcvtnq_s32_f32(vminnmq_f32(vmaxnmq_f32(real, low), high));
    }
    let [a, b, c, d] = rounded;
    let halves = [vqmovn_high_s32(vqmovn_s32(a), b), vqmovn_high_s32(vqmovn_s32(c), d)];
    let mut whole = [0; PANEL_N];
    let to_whole = match to.first_chunk_mut::<PANEL_N>() {
        Some(to) => to,
        None => &mut whole,
    };
    // SAFETY: two halves of sixteen numbers.
    unsafe {
        vst1q_s16(to_whole.as_mut_ptr(), halves[0]);
        vst1q_s16(to_whole.as_mut_ptr().add(8), halves[1]);
    }
    if to.len() < PANEL_N {
        to.copy_from_slice(&whole[..to.len()]);
    }
}

#[target_feature(enable = "neon")]
fn depthwise_i16(conv: &mut ConvI16<'_>) {
    let g = conv.geometry;
    let channels = g.in_c;
    let wide = channels.next_multiple_of(PANEL_N);
    if !has_narrow_sums(conv) {
        return depthwise_i16_scalar(conv);
    }
    // SAFETY: this function has the feature.
    let bounds = unsafe { Neon::bounds(conv) };
    for start in (0..channels).step_by(PANEL_N) {
        let len = PANEL_N.min(channels - start);
        let (scale, _) = conv.scale[start..start + PANEL_N].as_chunks::<PANEL_N>();
        let mut bias = [0; PANEL_N];
        for (to, bias) in bias.iter_mut().zip(&conv.bias[start..]) {
            *to = *bias as i32;
        }
        for image in 0..g.batch {
            for y in 0..g.out_h {
                let (rows, top) =
                    inside(y * g.stride_h, g.pad_top, g.dilation_h, g.kernel_h, g.in_h);
                for x in 0..g.out_w {
                    let (columns, left) =
                        inside(x * g.stride_w, g.pad_left, g.dilation_w, g.kernel_w, g.in_w);
                    let mut sums = [vdupq_n_s32(0); VECTORS];
                    for row in rows.clone() {
                        let in_row = image * g.in_h + top + (row - rows.start) * g.dilation_h;
                        let mut from = (in_row * g.in_w + left) * channels + start;
                        let mut tap = (row * g.kernel_w + columns.start) * wide + start;
                        for _ in columns.clone() {
                            // Behind the last channels is the next pixel: what it gives isn't stored.
                            let (x, w) = (&conv.input[from..], &conv.weights[tap..tap + PANEL_N]);
                            sums = add_products(sums, load_i16(x), w);
                            from += g.dilation_w * channels;
                            tap += wide;
                        }
                    }
                    let at = ((image * g.out_h + y) * g.out_w + x) * channels + start;
                    narrow(sums, &bias, &scale[0], bounds, &mut conv.output[at..at + len]);
                }
            }
        }
    }
}

/// Adds the products of sixteen inputs and weights.
#[target_feature(enable = "neon")]
#[inline]
fn add_products(sums: Sums, x: [int16x8_t; 2], w: &[i8]) -> Sums {
    assert!(w.len() >= PANEL_N);
    // SAFETY: sixteen weights.
    let w = unsafe { vld1q_s8(w.as_ptr()) };
    let w = [vmovl_s8(vget_low_s8(w)), vmovl_high_s8(w)];
    let [a, b, c, d] = sums;
    [
        vmlal_s16(a, vget_low_s16(x[0]), vget_low_s16(w[0])),
        vmlal_high_s16(b, x[0], w[0]),
        vmlal_s16(c, vget_low_s16(x[1]), vget_low_s16(w[1])),
        vmlal_high_s16(d, x[1], w[1]),
    ]
}

/// Sixteen elements, or as many as there are and zeros.
#[target_feature(enable = "neon")]
#[inline]
fn load_i16(from: &[i16]) -> [int16x8_t; 2] {
    let mut whole = [0; PANEL_N];
    let from = match from.first_chunk::<PANEL_N>() {
        Some(from) => from,
        None => {
            whole[..from.len()].copy_from_slice(from);
            &whole
        }
    };
    // SAFETY: two halves of sixteen elements.
    unsafe { [vld1q_s16(from.as_ptr()), vld1q_s16(from.as_ptr().add(8))] }
}
