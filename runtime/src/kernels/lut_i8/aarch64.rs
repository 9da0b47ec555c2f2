//! A table of 256 i8 in sixteen registers of NEON, four for each `tbl`.

use core::arch::aarch64::*;

use super::{LEN, lut_i8_scalar};

/// Numbers looked up at once.
const BLOCK: usize = 16;

/// Only for CPUs with NEON: `select` hands it out after asking.
pub(super) fn lut_i8_neon(table: &[i8; LEN], values: &mut [i8]) {
    // SAFETY: `select` gives this function out only if `Isa::Neon.is_available()`.
    unsafe { lut(table, values) }
}

#[target_feature(enable = "neon")]
fn lut(table: &[i8; LEN], values: &mut [i8]) {
    // SAFETY: 64 of the table's 256 bytes from each place on.
    let (a, b, c, d) = unsafe {
        let table = table.as_ptr().cast::<u8>();
        (
            vld1q_u8_x4(table),
            vld1q_u8_x4(table.add(64)),
            vld1q_u8_x4(table.add(128)),
            vld1q_u8_x4(table.add(192)),
        )
    };
    let (chunks, rest) = values.as_chunks_mut::<BLOCK>();
    for chunk in chunks {
        // SAFETY: sixteen bytes.
        unsafe {
            let x = veorq_u8(vld1q_u8(chunk.as_ptr().cast()), vdupq_n_u8(0x80));
            // An index beyond 63 gives 0 in the first, and leaves what is there in the others.
            let y = vqtbl4q_u8(a, x);
            let y = vqtbx4q_u8(y, b, veorq_u8(x, vdupq_n_u8(64)));
            let y = vqtbx4q_u8(y, c, veorq_u8(x, vdupq_n_u8(128)));
            let y = vqtbx4q_u8(y, d, veorq_u8(x, vdupq_n_u8(192)));
            vst1q_u8(chunk.as_mut_ptr().cast(), y);
        }
    }
    lut_i8_scalar(table, rest);
}
