//! Inputs and weights for layers in bf16, as tiles take them: see [`super::bf16`].

use super::PANEL_N;
use super::bf16::PAIR;
use super::lanes::Lanes;
use core::ops::Range;
use half::bf16;

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
