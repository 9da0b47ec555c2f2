//! Weights in bf16, in pairs of inputs: layout 2 of FORMAT.md with elements of bf16.
//!
//! Inputs are rounded to bf16 (to nearest, ties to even), too, so that products are exact in f32 and two of them can be added up by
//! one instruction where the CPU has it. What is rounded follows from the file, not from the CPU: without the instruction, inputs are
//! rounded and weights widened, and the products are those of f32.

use super::{ConvGeometry, PANEL_N};
use half::bf16;

/// Inputs of a pair.
pub const PAIR: usize = 2;

/// Where the weight of input `row` and a padded channel lies among those of `k` inputs.
pub(crate) const fn index(padded_channel: usize, row: usize, k: usize) -> usize {
    let panel = padded_channel / PANEL_N * PANEL_N * k;
    panel + row / PAIR * PAIR * PANEL_N + padded_channel % PANEL_N * PAIR + row % PAIR
}

/// Writes the weights `[out_c][kernel_h][kernel_w][in_c / groups]` as zero-padded panels of pairs
/// `[groups][N/16][K/2][16][2]`.
///
/// # Panics
///
/// When a group has an odd number of input channels, `ohwi` isn't `out_c * k` long or `out` isn't
/// [`ConvGeometry::packed_float_len`] long.
pub fn pack_weights(geometry: &ConvGeometry, ohwi: &[bf16], out: &mut [bf16]) {
    let (k, group_out_c) = (geometry.k(), geometry.group_out_c());
    assert!(geometry.group_in_c().is_multiple_of(PAIR));
    assert_eq!(ohwi.len(), geometry.out_c * k);
    assert_eq!(out.len(), geometry.packed_float_len());
    out.fill(bf16::ZERO);
    for channel in 0..geometry.out_c {
        let padded = channel / group_out_c * geometry.padded_group_out_c() + channel % group_out_c;
        for row in 0..k {
            out[index(padded, row, k)] = ohwi[channel * k + row];
        }
    }
}
