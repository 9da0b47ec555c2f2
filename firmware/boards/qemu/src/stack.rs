//! How deep the stack got: paint what is free of it, run, look what is left of the paint.

use core::ptr;

use cortex_m::register::msp;

const PAINT: u32 = 0x5AFE_57AC;

/// Left alone below the stack pointer: the frames of `paint` itself and of an interrupt meanwhile.
const MARGIN_BYTES: u32 = 256;

unsafe extern "C" {
    // The stack grows down from the end of RAM to here, the end of the statics.
    static mut __sheap: u32;
}

/// Bytes of stack that `work` used, its callees' and the interrupts' meanwhile included.
///
/// # Panics
/// When the stack reached the statics: what they hold is then worth nothing.
#[inline(never)]
pub fn high_water(work: impl FnOnce()) -> u32 {
    let bottom = (&raw mut __sheap) as u32;
    let top = msp::read();
    let painted_to = top - MARGIN_BYTES;
    for address in (bottom..painted_to).step_by(4) {
        // SAFETY: between the end of the statics and the stack pointer less a margin lies nothing
        // that the program uses; both ends are multiples of 4.
        unsafe { ptr::write_volatile(address as *mut u32, PAINT) };
    }
    call(work);
    let deepest = (bottom..painted_to).step_by(4).find(|address| {
        // SAFETY: the same memory, plain RAM.
        unsafe { ptr::read_volatile(*address as *const u32) != PAINT }
    });
    let deepest = deepest.unwrap_or(painted_to);
    assert!(deepest > bottom, "the stack is full");
    top - deepest
}

/// Keeps the frame of `work` out of the caller's, where it would not be seen.
#[inline(never)]
fn call(work: impl FnOnce()) {
    work();
}
