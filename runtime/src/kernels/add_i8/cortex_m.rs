//! The i8 addition with the FPU of Cortex-M, four elements at a time.

use core::arch::global_asm;

use super::AddI8;
use crate::kernels::cortex_m::{FloatMode, clamp};

global_asm!(include_str!("cortex_m.s"), options(raw));

/// Scales below 2⁹⁹ keep every sum of two products of 9-bit numbers finite.
const MAX_SCALE: f32 = 6.338_253e29;

/// What the assembly reads.
#[repr(C)]
struct Numbers {
    minus_zero_points: [i32; 2],
    zero_point: i32,
    scales: [f32; 2],
}

unsafe extern "C" {
    fn whit_add_i8(a: *const i8, b: *const i8, y: *mut i8, len: usize, numbers: *const Numbers);
}

/// For Cortex-M: `select` hands it out only where the target has the instructions.
pub(super) fn add_i8_cortex_m(to: &AddI8, a: &[i8], b: &[i8], y: &mut [i8]) {
    assert!(a.len() == y.len() && b.len() == y.len(), "lengths differ");
    let _float_mode = FloatMode::enter();
    // SAFETY: the slices are valid for their common length.
    unsafe { add_raw(to, a.as_ptr(), b.as_ptr(), y.as_mut_ptr(), y.len()) }
}

/// Adds `len` elements; `y` may be exactly `a` or `b`. The FPU is in a [`FloatMode`].
///
/// # Safety
///
/// The pointers are valid for reading, `y` for writing, `len` elements.
#[inline(never)]
pub(in crate::kernels) unsafe fn add_raw(
    to: &AddI8,
    a: *const i8,
    b: *const i8,
    y: *mut i8,
    len: usize,
) {
    // Not for NaN.
    let tame = |scale: f32| scale > -MAX_SCALE && scale < MAX_SCALE;
    if !(tame(to.scales[0]) && tame(to.scales[1])) {
        for i in 0..len {
            // SAFETY: the caller's.
            unsafe { y.add(i).write(to.add(a.add(i).read(), b.add(i).read())) };
        }
        return;
    }
    if len == 0 {
        return;
    }
    let numbers = Numbers {
        minus_zero_points: to.zero_points.map(|z| -z),
        zero_point: to.zero_point,
        scales: to.scales,
    };
    // SAFETY: the caller's; `len` is not 0. Each element is read before it is written.
    unsafe {
        whit_add_i8(a, b, y, len, &numbers);
        if to.min > -128 || to.max < 127 {
            clamp(y, len, to.min, to.max);
        }
    }
}
