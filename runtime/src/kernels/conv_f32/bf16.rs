//! Weights in bf16, in pairs of inputs: layout 2 of FORMAT.md with elements of bf16.
//!
//! Inputs are rounded to bf16 (to nearest, ties to even), too, so that products are exact in f32 and two of them can be added up by
//! one instruction where the CPU has it. What is rounded follows from the file, not from the CPU: without the instruction, inputs are
//! rounded and weights widened, and the products are those of f32.

use super::lanes::Lanes;
use super::{ConvGeometry, PANEL_N};
use core::ops::Range;
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

/// How tiles of a kernel take weights in bf16.
#[derive(Clone, Copy)]
pub(crate) struct Bf16Tile {
    /// Up to so many rows are multiplied as pairs: they become words of two inputs, and weights are read as they lie. More
    /// become f32 with the numbers of bf16, and weights are widened block by block.
    pub(crate) pair_rows: usize,
    /// Writes a word for every two inputs.
    pub(crate) round_pairs: Round,
    /// Writes an f32 for every input.
    pub(crate) round: Round,
    /// Writes weights as f32.
    pub(crate) widen: Widen,
}

impl Bf16Tile {
    /// How so many rows are rounded, and inputs in an element of what they become.
    pub(super) fn rounding(self, rows: usize) -> Rounding {
        match rows <= self.pair_rows {
            true => Rounding { round: self.round_pairs, per_element: PAIR },
            false => Rounding { round: self.round, per_element: 1 },
        }
    }
}

/// What becomes of rows.
#[derive(Clone, Copy)]
pub(super) struct Rounding {
    round: Round,
    /// 2 where rows are of pairs, else 1.
    pub(super) per_element: usize,
}

impl Rounding {
    /// Copies a run of inputs to where it belongs in a row.
    ///
    /// # Safety
    ///
    /// The CPU has the instruction set of the kernel.
    pub(super) unsafe fn copy(self, row: &mut [f32], at: usize, from: &[f32]) {
        debug_assert!(at.is_multiple_of(PAIR) && from.len().is_multiple_of(PAIR));
        let to = &mut row[at / self.per_element..][..from.len() / self.per_element];
        // SAFETY: the caller vouches for the instruction set; the slices have these lengths.
        unsafe { (self.round)(from.as_ptr(), to.as_mut_ptr(), from.len()) }
    }
}

/// Rounds so many inputs, an even number, to bf16.
///
/// # Safety
///
/// The CPU has the kernel's instruction set, the inputs are readable, and what comes of them writable.
pub(crate) type Round = unsafe fn(*const f32, *mut f32, usize);

/// Writes so many rows of sixteen pairs as rows of sixteen f32, two for each.
///
/// # Safety
///
/// The CPU has the kernel's instruction set, the pairs are readable, and what comes of them writable.
pub(crate) type Widen = unsafe fn(*const bf16, *mut f32, usize);

/// See [`Round`].
///
/// # Safety
///
/// As [`Round`] says, for `L`.
#[inline(always)]
pub(crate) unsafe fn round<L: Lanes>(from: *const f32, to: *mut f32, count: usize) {
    // SAFETY: the caller promises `count` elements on either side.
    unsafe {
        let mut at = 0;
        while at + L::LEN <= count {
            L::load(from.add(at)).round_bf16().store(to.add(at));
            at += L::LEN;
        }
        if at < count {
            let rest = count - at;
            L::load_part(from.add(at), rest).round_bf16().store_part(to.add(at), rest);
        }
    }
}

/// See [`Round`]: pairs.
///
/// # Safety
///
/// As [`Round`] says.
#[inline(always)]
pub(crate) unsafe fn round_pairs(from: *const f32, to: *mut f32, count: usize) {
    for pair in 0..count / PAIR {
        // SAFETY: the caller promises `count` inputs and half as many words.
        unsafe {
            let half = |j: usize| u32::from(bf16::from_f32(*from.add(pair * PAIR + j)).to_bits());
            *to.add(pair).cast::<u32>() = half(0) | half(1) << 16;
        }
    }
}

/// See [`Widen`].
///
/// # Safety
///
/// As [`Widen`] says, for `L`.
#[inline(always)]
pub(crate) unsafe fn widen<L: Lanes>(from: *const bf16, to: *mut f32, pairs: usize) {
    // SAFETY: the caller promises the rows. A pair is a word.
    unsafe {
        for pair in 0..pairs {
            let (from, to) = (from.add(pair * PAIR * PANEL_N), to.add(pair * PAIR * PANEL_N));
            for v in (0..PANEL_N).step_by(L::LEN) {
                let words = L::load_words(from.add(v * PAIR).cast());
                L::bf16s(words, 0).store(to.add(v));
                L::bf16s(words, 1).store(to.add(PANEL_N + v));
            }
        }
    }
}

/// Writes a block of K of some panels as f32, one panel behind the other.
///
/// # Safety
///
/// The CPU has the instruction set of `widen`.
pub(super) unsafe fn widen_block(
    weights: &[bf16],
    k: usize,
    panels: Range<usize>,
    block: Range<usize>,
    output: &mut [f32],
    widen: Widen,
) {
    let stride = block.len() * PANEL_N;
    for (panel, output) in panels.zip(output.chunks_exact_mut(stride.max(1))) {
        let from = &weights[(panel * k + block.start) * PANEL_N..][..stride];
        // SAFETY: the caller vouches for the instruction set; the slices are block.len() rows of sixteen, an even number of them.
        unsafe { widen(from.as_ptr(), output.as_mut_ptr(), block.len() / PAIR) }
    }
}
