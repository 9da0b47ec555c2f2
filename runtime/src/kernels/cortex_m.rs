//! What the Cortex-M kernels share: the FPU's mode, and clamping.

use core::arch::{asm, global_asm};

#[cfg(target_endian = "big")]
compile_error!("the Cortex-M kernels are little-endian; build with the feature `no-dsp`");

/// FPSCR flag: an invalid operation, such as a conversion of NaN or of a number beyond i32.
const INVALID: u32 = 1;

/// Keeps the FPU in IEEE mode (to nearest, no flushing of subnormals) as long as it lives, and tells
/// of invalid operations.
pub(super) struct FloatMode {
    saved: u32,
}

impl FloatMode {
    pub(super) fn enter() -> Self {
        let saved: u32;
        // SAFETY: FPSCR is this thread's own; `drop` puts it back, and nothing in between but
        // kernels' assembly and integer code depends on it.
        unsafe {
            asm!("vmrs {saved}, fpscr", "vmsr fpscr, {zero}", saved = out(reg) saved,
                zero = in(reg) 0, options(nostack));
        }
        FloatMode { saved }
    }

    /// Whether there was an invalid operation since the last time.
    pub(super) fn take_invalid(&mut self) -> bool {
        let flags: u32;
        // SAFETY: reads a register.
        unsafe { asm!("vmrs {flags}, fpscr", flags = out(reg) flags, options(nostack)) };
        if flags & INVALID == 0 {
            return false;
        }
        // SAFETY: as in `enter`.
        unsafe { asm!("vmsr fpscr, {zero}", zero = in(reg) 0, options(nostack)) };
        true
    }
}

impl Drop for FloatMode {
    fn drop(&mut self) {
        // SAFETY: what was there before.
        unsafe { asm!("vmsr fpscr, {saved}", saved = in(reg) self.saved, options(nostack)) };
    }
}

global_asm!(include_str!("cortex_m.s"), options(raw));

unsafe extern "C" {
    fn whit_clamp_i8(at: *mut i8, len: usize, min: i32, max: i32);
}

/// Clamps bytes that have been saturated to i8 already, which is the same as clamping at once. The
/// bounds are i8.
///
/// # Safety
///
/// `at` is valid for reading and writing `len` elements.
pub(super) unsafe fn clamp(at: *mut i8, len: usize, min: i32, max: i32) {
    // SAFETY: the caller's.
    unsafe { whit_clamp_i8(at, len, min, max) }
}
