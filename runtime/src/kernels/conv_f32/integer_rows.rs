//! A few rows times grouped weights in integers: a decoder's step, which should take no longer than its weights take to arrive.
//!
//! The inputs are those of [`integers`](super::integers), and weights are multiplied as the integers that they are, so that none has to
//! be converted.

use super::blocked::grouped_tiles;
use super::grouped::{GROUP_SIZES, GroupedBits, GroupedWeights};
use super::integers::{Inputs, Integers, Quads, Quantize, nibbles, row_len, surplus};
use super::lanes::{Grouped, Lanes, W4, W4Nl, W5, W6, W8, fetch_ahead};
use super::tile::{GroupedPanel, Tile, write};
use super::{ConvF32, ConvGeometry};
use crate::kernels::{PANEL_N, PanelWeights};

#[cfg(target_arch = "aarch64")]
pub(super) mod aarch64;
#[cfg(target_arch = "x86_64")]
pub(super) mod x86_64;

/// Rows at most: beyond, weights are converted once for all.
pub(super) const MOST_ROWS: usize = 12;

/// The kernel of an instruction set.
#[derive(Clone, Copy)]
pub(super) struct RowsKernel {
    /// Rows whose sums fit the registers. More take a panel in turns, which stays in the L1 cache meanwhile.
    tile_rows: usize,
    quantize: Quantize,
    /// One panel of 16 outputs. The tile is as [`Tile`] says, with the panel as its weights; a row of [`Inputs`] for each of its rows,
    /// up to `tile_rows`. The CPU has the instruction set.
    panel: unsafe fn(&Tile<'_>, &GroupedPanel, &[Inputs<'_>]),
}

/// Elements of scratch. Those of the most rows where there are more, for a session's memory must do for less.
pub(super) fn scratch_len(g: &ConvGeometry) -> usize {
    if !g.is_pointwise() {
        return 0;
    }
    g.out_pixels().min(MOST_ROWS) * row_len(g.k(), GROUP_SIZES[0])
}

/// The weights, if the kernel takes all pixels of a convolution.
pub(super) fn suiting<'a>(args: &ConvF32<'a>) -> Option<GroupedWeights<'a>> {
    let g = &args.geometry;
    let PanelWeights::Grouped(weights) = args.weights else { return None };
    let suits = g.is_pointwise()
        && (1..=MOST_ROWS).contains(&g.out_pixels())
        && g.k() > 0
        && args.pixels.len() == g.out_pixels();
    suits.then_some(weights)
}

/// Rows times weights, which are [`suiting`].
///
/// # Safety
///
/// The CPU has the instruction set of `kernel`.
pub(super) unsafe fn conv_f32_integer_rows(
    args: &mut ConvF32<'_>,
    weights: GroupedWeights<'_>,
    kernel: RowsKernel,
) {
    args.check();
    let g = args.geometry;
    let (rows, k) = (g.out_pixels(), g.k());
    let scratch_len = scratch_len(&g).max(super::blocking::grouped_scratch_len(&g));
    assert!(args.scratch.len() >= scratch_len, "scratch");
    let scratch = core::mem::take(&mut args.scratch);
    let row_len = row_len(k, weights.group_size);
    let mut inputs = [Inputs::NONE; MOST_ROWS];
    for (row, scratch) in scratch[..rows * row_len].chunks_exact_mut(row_len).enumerate() {
        let input = &args.input[row * k..][..k];
        // SAFETY: the caller vouches for the instruction set.
        inputs[row] = unsafe { (kernel.quantize)(input, weights.group_size, scratch) };
    }
    grouped_tiles(args, weights, kernel.tile_rows, |tile, panel, rows| {
        // SAFETY: the caller vouches for the instruction set, `grouped_tiles` for the tile, whose rows these inputs are.
        unsafe { (kernel.panel)(tile, panel, &inputs[rows]) }
    });
    args.scratch = scratch;
}

/// One panel of 16 outputs in `NV` registers for `MR` rows, with `CHAINS` sums where one would wait for its last addition.
///
/// # Safety
///
/// As [`RowsKernel::panel`] says, for `I`; there are `MR` rows.
#[inline(always)]
unsafe fn panel_rows<I: Integers, const MR: usize, const NV: usize, const CHAINS: usize>(
    tile: &Tile<'_>,
    panel: &GroupedPanel,
    inputs: &[Inputs<'_>],
) {
    // SAFETY: the contract is the same.
    unsafe {
        match panel.bits {
            GroupedBits::W8 => panel_rows_of::<I, W8, MR, NV, CHAINS>(tile, panel, inputs),
            GroupedBits::W4 => panel_rows_of::<I, W4, MR, NV, CHAINS>(tile, panel, inputs),
            GroupedBits::W5 => panel_rows_of::<I, W5, MR, NV, CHAINS>(tile, panel, inputs),
            GroupedBits::W6 => panel_rows_of::<I, W6, MR, NV, CHAINS>(tile, panel, inputs),
            GroupedBits::W4Nl => panel_rows_of::<I, W4Nl, MR, NV, CHAINS>(tile, panel, inputs),
        }
    }
}

/// # Safety
///
/// As [`panel_rows`] says; weights have the bits of `B`.
#[inline(always)]
unsafe fn panel_rows_of<
    I: Integers,
    B: Grouped,
    const MR: usize,
    const NV: usize,
    const CHAINS: usize,
>(
    tile: &Tile<'_>,
    panel: &GroupedPanel,
    inputs: &[Inputs<'_>],
) {
    const ROW_BYTES: usize = PANEL_N * 4;
    debug_assert!(inputs.len() == MR && NV * I::Outputs::LEN == PANEL_N);
    let (upper_bits, unit_words) = (B::BITS.upper(), B::BITS.unit_words());
    let words = B::BITS.words(tile.run_len);
    let words_per_group = panel.group_size / B::BITS.per_word();
    let surplus = surplus::<I::Quads, B>(panel);
    // SAFETY: words and scales are those that Tile promises, for all lanes of the panel; every row has the quads of all words, two
    // elements each, and an entry per group in the other lists.
    unsafe {
        let mut integers = [inputs.get_unchecked(0).integers.as_ptr(); MR];
        for (row, integers) in integers.iter_mut().enumerate() {
            *integers = inputs.get_unchecked(row).integers.as_ptr();
        }
        let mut total = [[I::Outputs::zero(); NV]; MR];
        let (mut word, mut group) = (0, 0);
        while word < words {
            let end = words.min(word + words_per_group);
            let mut sums = [[[I::zero(); CHAINS]; NV]; MR];
            while word < end {
                if B::BITS.per_word() == 8 {
                    let mut upper = [I::Outputs::load_words(panel.words); NV];
                    if upper_bits > 0 {
                        let from = panel.upper.add(word / unit_words * ROW_BYTES);
                        fetch_ahead(from);
                        for (v, upper) in upper.iter_mut().enumerate() {
                            *upper = I::Outputs::load_words(from.add(v * I::Outputs::LEN * 4));
                        }
                    }
                    for part in 0..unit_words {
                        let from = panel.words.add(word * ROW_BYTES);
                        fetch_ahead(from);
                        for v in 0..NV {
                            let from = from.add(v * I::Outputs::LEN * 4);
                            let [first, second] =
                                nibbles::<I::Quads, I::Outputs, B>(from, upper[v], part);
                            for row in 0..MR {
                                let sums = &mut sums[row][v];
                                let x = integers[row].add(4 * word);
                                sums[0] = I::add(sums[0], first, I::Quads::load(x));
                                sums[1 % CHAINS] =
                                    I::add(sums[1 % CHAINS], second, I::Quads::load(x.add(2)));
                            }
                        }
                        word += 1;
                    }
                    continue;
                }
                for chain in 0..CHAINS {
                    if word == end {
                        break;
                    }
                    let from = panel.words.add(word * ROW_BYTES);
                    fetch_ahead(from);
                    for v in 0..NV {
                        let weights = I::Quads::w8(from.add(v * I::Outputs::LEN * 4));
                        for row in 0..MR {
                            let sum = &mut sums[row][v][chain];
                            *sum =
                                I::add(*sum, weights, I::Quads::load(integers[row].add(2 * word)));
                        }
                    }
                    word += 1;
                }
            }
            for v in 0..NV {
                let lane = v * I::Outputs::LEN;
                let scale: I::Outputs = panel.scales.load(group, lane);
                let min = panel.mins.map(|mins| mins.load::<I::Outputs>(group, lane));
                for row in 0..MR {
                    let inputs = inputs.get_unchecked(row);
                    let surplus = (inputs.sums.get_unchecked(group).to_bits() as i32) * surplus;
                    let step = I::Outputs::splat(*inputs.steps.get_unchecked(group));
                    let exact = I::total(sums[row][v], surplus);
                    total[row][v] = total[row][v].fma(exact, scale.mul(step));
                    if let Some(min) = min {
                        let real = I::Outputs::splat(*inputs.reals.get_unchecked(group));
                        total[row][v] = total[row][v].fma(min, real);
                    }
                }
            }
            group += 1;
        }
        write::<I::Outputs, MR, NV>(tile, total);
    }
}
