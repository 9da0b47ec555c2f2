//! The i8 addition in NEON, sixteen elements at a time. Rounding and NaN as in [`requantize`](crate::kernels::requantize).

use core::arch::aarch64::*;

use super::AddI8;

/// Elements of a block.
const BLOCK: usize = 16;

/// Only for CPUs with NEON: `select` hands it out after asking.
pub(super) fn add_i8_neon(to: &AddI8, a: &[i8], b: &[i8], y: &mut [i8]) {
    assert!(a.len() == y.len() && b.len() == y.len(), "lengths differ");
    // SAFETY: `select` gives this function out only if `Isa::Neon.is_available()`.
    unsafe { add_neon(to, a, b, y) }
}

#[target_feature(enable = "neon")]
fn add_neon(to: &AddI8, a: &[i8], b: &[i8], y: &mut [i8]) {
    let numbers = Numbers::new(to);
    let (ys, rest) = y.as_chunks_mut::<BLOCK>();
    let whole = ys.len() * BLOCK;
    for ((y, a), b) in ys.iter_mut().zip(a.as_chunks().0).zip(b.as_chunks().0) {
        numbers.add(a, b, y);
    }
    if rest.is_empty() {
        return;
    }
    let mut last = [[0; BLOCK]; 3];
    last[0][..rest.len()].copy_from_slice(&a[whole..]);
    last[1][..rest.len()].copy_from_slice(&b[whole..]);
    let [a, b, y] = &mut last;
    numbers.add(a, b, y);
    rest.copy_from_slice(&y[..rest.len()]);
}

/// The numbers of an [`AddI8`], widened.
struct Numbers {
    zero_points: [int8x8_t; 2],
    scales: [float32x4_t; 2],
    low: float32x4_t,
    zero_point: int16x8_t,
    max: int8x16_t,
}

impl Numbers {
    #[target_feature(enable = "neon")]
    #[inline]
    fn new(to: &AddI8) -> Self {
        let AddI8 { zero_points: [za, zb], scales: [sa, sb], zero_point, min, max } = *to;
        Numbers {
            zero_points: [vdup_n_s8(za as i8), vdup_n_s8(zb as i8)],
            scales: [vdupq_n_f32(sa), vdupq_n_f32(sb)],
            low: vdupq_n_f32((min - zero_point) as f32),
            zero_point: vdupq_n_s16(zero_point as i16),
            max: vdupq_n_s8(max as i8),
        }
    }

    #[target_feature(enable = "neon")]
    #[inline]
    fn add(&self, a: &[i8; BLOCK], b: &[i8; BLOCK], y: &mut [i8; BLOCK]) {
        // SAFETY: an array of sixteen.
        let a = self.real(0, unsafe { vld1q_s8(a.as_ptr()) });
        // SAFETY: as above.
        let b = self.real(1, unsafe { vld1q_s8(b.as_ptr()) });
        let mut sums = [vdupq_n_s32(0); 4];
        for i in 0..4 {
            sums[i] = vcvtnq_s32_f32(vmaxnmq_f32(vaddq_f32(a[i], b[i]), self.low));
        }
        // Saturation on the way changes nothing: what saturates is beyond the upper bound.
        let low = vqmovn_high_s32(vqmovn_s32(sums[0]), sums[1]);
        let high = vqmovn_high_s32(vqmovn_s32(sums[2]), sums[3]);
        let low = vqmovn_s16(vqaddq_s16(low, self.zero_point));
        let bytes = vqmovn_high_s16(low, vqaddq_s16(high, self.zero_point));
        // SAFETY: an array of sixteen.
        unsafe { vst1q_s8(y.as_mut_ptr(), vminq_s8(bytes, self.max)) }
    }

    /// The real numbers, over the sum's scale, of elements of operand `which`.
    #[target_feature(enable = "neon")]
    #[inline]
    fn real(&self, which: usize, x: int8x16_t) -> [float32x4_t; 4] {
        let low = vsubl_s8(vget_low_s8(x), self.zero_points[which]);
        let high = vsubl_s8(vget_high_s8(x), self.zero_points[which]);
        let words = [
            vmovl_s16(vget_low_s16(low)),
            vmovl_high_s16(low),
            vmovl_s16(vget_low_s16(high)),
            vmovl_high_s16(high),
        ];
        let mut reals = [vdupq_n_f32(0.0); 4];
        for i in 0..4 {
            reals[i] = vmulq_f32(vcvtq_f32_s32(words[i]), self.scales[which]);
        }
        reals
    }
}
