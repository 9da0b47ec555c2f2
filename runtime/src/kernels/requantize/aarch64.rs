//! The formula of [`EpilogueI8`] for vectors of accumulators, in NEON.
//!
//! `fcvtns` and `frintn` round to nearest, ties to even, whatever mode the CPU is in: for magnitudes below
//! 2²² as [`super::round_ties_even`]. `fmaxnm` gives the number when the other operand is NaN: `max(x, low)` is `low`.
//! The compiler fuses no product and sum that are written apart.
//!
//! Numbers of TFLite's fixed point are rounded as [`super::fixed_point`] has it: `sqrdmulh` is the first of its
//! roundings, saturation included; `srshl` rounds ties up, so 1 is taken from negative numbers before it, as gemmlowp does
//! (`fixedpoint_neon.h`).

use core::arch::aarch64::*;

use crate::kernels::EpilogueI8;

/// Constants of an [`EpilogueI8`], widened: up to sixteen accumulators at a time.
#[derive(Clone, Copy)]
pub(crate) struct RequantizeNeon {
    /// Lower bound of what is rounded last, without the zero point.
    low: float32x4_t,
    zero_point: int16x8_t,
    min: int8x16_t,
    max: int8x16_t,
    /// The per-channel arrays of the epilogue; null where it has no numbers in fixed point.
    scale: *const f32,
    fixed_point: *const i32,
    residual: ResidualNeon,
}

#[derive(Clone, Copy)]
struct ResidualNeon {
    conv_low: float32x4_t,
    conv_high: float32x4_t,
    scale_conv: float32x4_t,
    scale_data: float32x4_t,
    zero_point: int8x8_t,
}

/// What `4 * N` accumulators are multiplied by.
#[derive(Clone, Copy)]
pub(crate) struct Factors<const N: usize> {
    scale: [float32x4_t; N],
    /// Multiplier and shift for each, or null.
    fixed_point: *const i32,
}

impl RequantizeNeon {
    #[target_feature(enable = "neon")]
    #[inline]
    pub(crate) fn new(epilogue: &EpilogueI8<'_>) -> Self {
        let EpilogueI8 { zero_point, min, max, residual, fixed_point, scale } = *epilogue;
        let scale = scale.as_ptr();
        let conv_low = vdupq_n_f32((min - zero_point) as f32);
        let conv_high = vdupq_n_f32((max - zero_point) as f32);
        let none = vdupq_n_f32(0.0);
        let fixed_point = match fixed_point.is_empty() {
            true => core::ptr::null(),
            false => fixed_point.as_ptr(),
        };
        match residual {
            None => RequantizeNeon {
                low: conv_low,
                zero_point: vdupq_n_s16(zero_point as i16),
                min: vdupq_n_s8(min as i8),
                max: vdupq_n_s8(max as i8),
                scale,
                fixed_point,
                residual: ResidualNeon {
                    conv_low,
                    conv_high,
                    scale_conv: none,
                    scale_data: none,
                    zero_point: vdup_n_s8(0),
                },
            },
            Some(r) => RequantizeNeon {
                low: vdupq_n_f32((r.min - r.out_zero_point) as f32),
                zero_point: vdupq_n_s16(r.out_zero_point as i16),
                min: vdupq_n_s8(r.min as i8),
                max: vdupq_n_s8(r.max as i8),
                scale,
                fixed_point,
                residual: ResidualNeon {
                    conv_low,
                    conv_high,
                    scale_conv: vdupq_n_f32(r.scale_conv),
                    scale_data: vdupq_n_f32(r.scale_data),
                    zero_point: vdup_n_s8(r.zero_point as i8),
                },
            },
        }
    }

    /// The factors of `4 * N` channels whose scales begin at `scale`, a place in the epilogue's array.
    ///
    /// # Safety
    ///
    /// The arrays of the epilogue cover these channels, and it is still borrowed.
    #[target_feature(enable = "neon")]
    #[inline]
    pub(crate) unsafe fn factors<const N: usize>(&self, scale: *const f32) -> Factors<N> {
        let mut factors = Factors { scale: [vdupq_n_f32(0.0); N], fixed_point: self.fixed_point };
        for i in 0..N {
            // SAFETY: as the caller's.
            factors.scale[i] = unsafe { vld1q_f32(scale.add(4 * i)) };
        }
        if !self.fixed_point.is_null() {
            // SAFETY: as the caller's; there are two numbers for each scale.
            unsafe {
                let channel = scale.offset_from(self.scale);
                factors.fixed_point = self.fixed_point.offset(2 * channel);
            }
        }
        factors
    }

    /// Without residual: `4 * N` outputs, then zeros or whatever.
    ///
    /// # Safety
    ///
    /// The factors are of the same epilogue, which is still borrowed.
    #[target_feature(enable = "neon")]
    #[inline]
    pub(crate) unsafe fn apply<const N: usize>(
        &self,
        acc: [int32x4_t; N],
        factors: &Factors<N>,
    ) -> int8x16_t {
        if !factors.fixed_point.is_null() {
            // SAFETY: as the caller's.
            return unsafe { self.apply_fixed_point(acc, factors) };
        }
        let mut rounded = acc;
        for i in 0..N {
            let scaled = vmulq_f32(vcvtq_f32_s32(acc[i]), factors.scale[i]);
            rounded[i] = vcvtnq_s32_f32(vmaxnmq_f32(scaled, self.low));
        }
        self.pack(rounded)
    }

    /// [`Self::apply`] in fixed point, apart from it so that it takes no registers there.
    ///
    /// # Safety
    ///
    /// As [`Self::apply`].
    #[target_feature(enable = "neon")]
    #[cold]
    #[inline(never)]
    unsafe fn apply_fixed_point<const N: usize>(
        &self,
        acc: [int32x4_t; N],
        factors: &Factors<N>,
    ) -> int8x16_t {
        let mut rounded = acc;
        for i in 0..N {
            // SAFETY: there are `4 * N` pairs of numbers.
            rounded[i] = unsafe { fixed_point(acc[i], factors.fixed_point.add(8 * i)) };
        }
        self.pack(rounded)
    }

    /// With residual: `4 * N` outputs, given as many elements to add.
    ///
    /// # Safety
    ///
    /// As [`Self::apply`].
    #[target_feature(enable = "neon")]
    #[inline]
    pub(crate) unsafe fn apply_sum<const N: usize>(
        &self,
        acc: [int32x4_t; N],
        factors: &Factors<N>,
        data: int8x16_t,
    ) -> int8x16_t {
        let r = &self.residual;
        let low = vsubl_s8(vget_low_s8(data), r.zero_point);
        let high = vsubl_s8(vget_high_s8(data), r.zero_point);
        let data = [
            vmovl_s16(vget_low_s16(low)),
            vmovl_high_s16(low),
            vmovl_s16(vget_low_s16(high)),
            vmovl_high_s16(high),
        ];
        let mut rounded = acc;
        for i in 0..N {
            let scaled = if factors.fixed_point.is_null() {
                vmulq_f32(vcvtq_f32_s32(acc[i]), factors.scale[i])
            } else {
                // SAFETY: there are `4 * N` pairs of numbers. The conversion may round what is beyond the bounds anyway.
                unsafe { vcvtq_f32_s32(fixed_point(acc[i], factors.fixed_point.add(8 * i))) }
            };
            let conv = vrndnq_f32(vminnmq_f32(vmaxnmq_f32(scaled, r.conv_low), r.conv_high));
            let conv = vmulq_f32(conv, r.scale_conv);
            let data = vmulq_f32(vcvtq_f32_s32(data[i]), r.scale_data);
            rounded[i] = vcvtnq_s32_f32(vmaxnmq_f32(vaddq_f32(conv, data), self.low));
        }
        self.pack(rounded)
    }

    /// Adds the zero point, narrows and clamps. Saturation on the way changes nothing: what saturates is beyond
    /// both bounds.
    #[target_feature(enable = "neon")]
    #[inline]
    fn pack<const N: usize>(&self, x: [int32x4_t; N]) -> int8x16_t {
        const { assert!(N == 2 || N == 4) };
        let low = vqmovn_high_s32(vqmovn_s32(x[0]), x[1]);
        let low = vqmovn_s16(vqaddq_s16(low, self.zero_point));
        let bytes = if N == 4 {
            let high = vqmovn_high_s32(vqmovn_s32(x[N - 2]), x[N - 1]);
            vqmovn_high_s16(low, vqaddq_s16(high, self.zero_point))
        } else {
            vcombine_s8(low, low)
        };
        vmaxq_s8(vminq_s8(bytes, self.max), self.min)
    }
}

/// [`super::fixed_point`] of four numbers.
///
/// # Safety
///
/// `numbers` is valid for four pairs of multiplier and shift.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn fixed_point(x: int32x4_t, numbers: *const i32) -> int32x4_t {
    // SAFETY: as the caller's.
    let int32x4x2_t(multiplier, shift) = unsafe { vld2q_s32(numbers) };
    let zero = vdupq_n_s32(0);
    let shift = vminq_s32(vmaxq_s32(shift, vdupq_n_s32(-31)), vdupq_n_s32(31));
    let (left, right) = (vmaxq_s32(shift, zero), vminq_s32(shift, zero));
    let high = vqrdmulhq_s32(vshlq_s32(x, left), multiplier);
    // −1 where the number is negative and is shifted: the shift's sign and its own.
    let fixup = vshrq_n_s32::<31>(vandq_s32(high, right));
    vrshlq_s32(vqaddq_s32(high, fixup), right)
}

/// The first `len` of sixteen bytes, zeros after them.
///
/// # Safety
///
/// `src` is valid for `len` reads, `len` is no more than 16.
#[target_feature(enable = "neon")]
#[inline]
pub(crate) unsafe fn load_partial(src: *const i8, len: usize) -> int8x16_t {
    // SAFETY: as the caller's.
    unsafe {
        match len {
            16 => vld1q_s8(src),
            8 => vcombine_s8(vld1_s8(src), vdup_n_s8(0)),
            _ => {
                let mut bytes = [0i8; 16];
                for i in 0..len {
                    bytes[i] = *src.add(i);
                }
                vld1q_s8(bytes.as_ptr())
            }
        }
    }
}

/// Writes the first `len` of sixteen bytes.
///
/// # Safety
///
/// `dst` is valid for `len` writes, `len` is no more than 16.
#[target_feature(enable = "neon")]
#[inline]
pub(crate) unsafe fn store_partial(dst: *mut i8, bytes: int8x16_t, len: usize) {
    // SAFETY: the pieces that a binary digit of `len` stands for end at `len`.
    unsafe {
        if len == 16 {
            return vst1q_s8(dst, bytes);
        }
        let (mut dst, mut rest) = (dst, bytes);
        if len & 8 != 0 {
            vst1_s8(dst, vget_low_s8(rest));
            (dst, rest) = (dst.add(8), vextq_s8::<8>(rest, rest));
        }
        if len & 4 != 0 {
            let word = vgetq_lane_s32::<0>(vreinterpretq_s32_s8(rest));
            dst.cast::<i32>().write_unaligned(word);
            (dst, rest) = (dst.add(4), vextq_s8::<4>(rest, rest));
        }
        if len & 2 != 0 {
            let half = vgetq_lane_s16::<0>(vreinterpretq_s16_s8(rest));
            dst.cast::<i16>().write_unaligned(half);
            (dst, rest) = (dst.add(2), vextq_s8::<2>(rest, rest));
        }
        if len & 1 != 0 {
            dst.write(vgetq_lane_s8::<0>(rest));
        }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::kernels::requantize::requantize_i8;
    use crate::kernels::testing::Random;
    use crate::kernels::{ResidualData, ResidualI8};

    /// Sixteen accumulators of any size, edges among them.
    fn accumulators(random: &mut Random) -> [i32; 16] {
        let edges = [i32::MIN, i32::MIN + 1, -1, 0, 1, i32::MAX];
        core::array::from_fn(|_| match random.below(8) {
            0 => random.pick(&edges),
            _ => random.next() as i32 >> random.below(32),
        })
    }

    /// As [`requantize_i8`] in either mode, with a residual and without.
    #[test]
    fn agrees_with_the_definition() {
        let mut random = Random(0x5eed_0f2e_9a11_0001);
        // Halves of small numbers are ties.
        let scales =
            [0.5, 0.25, -0.5, 1.0, 1e-3, 3e-9, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0];
        for round in 0..20_000 {
            let acc = accumulators(&mut random);
            let scale: [f32; 16] = core::array::from_fn(|_| random.pick(&scales));
            let numbers: [[i32; 2]; 16] = core::array::from_fn(|_| {
                let multiplier = match random.below(4) {
                    0 => random.pick(&[i32::MIN, i32::MAX, 1 << 30, 0]),
                    _ => random.next() as i32 & i32::MAX | 1 << 30,
                };
                let shift = match random.below(8) {
                    0 => random.pick(&[i32::MIN, -32, -31, 31, 32, i32::MAX]),
                    _ => random.below(36) as i32 - 30,
                };
                [multiplier, shift]
            });
            let data: [i8; 16] = core::array::from_fn(|_| random.next() as u8 as i8);
            let residual = ResidualI8 {
                data: ResidualData::Apart(&data),
                scale_conv: random.pick(&[0.5, 1.0, 0.731, f32::NAN, f32::INFINITY]),
                scale_data: random.pick(&[0.5, 1.5, 0.25]),
                zero_point: random.pick(&[-128, -3, 0, 127]),
                out_zero_point: random.pick(&[-128, 5, 127]),
                min: random.pick(&[-128, -20]),
                max: random.pick(&[60, 127]),
            };
            let epilogue = EpilogueI8 {
                scale: &scale,
                fixed_point: if round % 2 == 0 { &[] } else { numbers.as_flattened() },
                zero_point: random.pick(&[-128, -7, 0, 127]),
                min: random.pick(&[-128, -30]),
                max: random.pick(&[50, 127]),
                residual: (round % 4 < 2).then_some(residual),
            };
            let expected: [i8; 16] =
                core::array::from_fn(|i| requantize_i8(acc[i], i, data[i], &epilogue));
            let mut got = [0; 16];
            // SAFETY: this CPU is an AArch64 with NEON, as Rust's target has it; all arrays have sixteen elements.
            unsafe {
                let requantize = RequantizeNeon::new(&epilogue);
                let mut sums = [vdupq_n_s32(0); 4];
                for i in 0..4 {
                    sums[i] = vld1q_s32(acc.as_ptr().add(4 * i));
                }
                let factors = requantize.factors::<4>(scale.as_ptr());
                let bytes = match epilogue.residual {
                    None => requantize.apply(sums, &factors),
                    Some(_) => requantize.apply_sum(sums, &factors, vld1q_s8(data.as_ptr())),
                };
                vst1q_s8(got.as_mut_ptr(), bytes);
                // The later half of a block, as two registers.
                let factors = requantize.factors::<2>(scale[8..].as_ptr());
                let bytes = match epilogue.residual {
                    None => requantize.apply([sums[2], sums[3]], &factors),
                    Some(_) => {
                        let data = load_partial(data[8..].as_ptr(), 8);
                        requantize.apply_sum([sums[2], sums[3]], &factors, data)
                    }
                };
                let mut half = [0; 8];
                store_partial(half.as_mut_ptr(), bytes, 8);
                assert_eq!(half, got[8..], "{acc:?} {scale:?} {numbers:?}");
            }
            assert_eq!(got, expected, "{acc:?} {scale:?} {numbers:?}");
        }
    }
}
