//! A few rows times grouped weights in integers: a decoder's step, which should take no longer than its weights take to arrive.
//!
//! The inputs of a group become integers of 16 bits, `x ≈ step · q`, and weights are multiplied as the integers that they are, so that
//! none has to be converted. Sums of integers are exact, thus the same on every instruction set, as is all that is done with them. What
//! is rounded is an input: by at most half of `step`, which is the largest magnitude of the group over 32,512. Where instructions
//! multiply bytes, `q = 256 · high + low`, both in i8.

use super::blocked::grouped_tiles;
use super::grouped::{GROUP_SIZES, GroupedBits, GroupedWeights};
use super::lanes::{Grouped, Lanes, W4, W5, W6, W8, fetch_ahead};
use super::tile::{GroupedPanel, Tile, write};
use super::{ConvF32, ConvGeometry};
use crate::kernels::{PANEL_N, PanelWeights};

#[cfg(target_arch = "aarch64")]
pub(super) mod aarch64;
#[cfg(target_arch = "x86_64")]
pub(super) mod x86_64;

/// Rows at most: beyond, floats in panels cost less per row.
const MOST_ROWS: usize = 12;

/// `127 · 256`: what the largest input of a group becomes.
const LARGEST: f32 = 32512.0;

/// Inputs that are made integers at once; groups are multiples of it.
const BLOCK: usize = 16;

/// A row has integers for whole units of any kind of weights.
const UNIT: usize = GroupedBits::W5.unit();

const _: () = assert!(GROUP_SIZES[0] == BLOCK && UNIT.is_multiple_of(BLOCK));

/// What the largest group of unsigned bytes adds up to fits an i32.
const _: () = assert!(GROUP_SIZES[3] as i64 * 255 * (LARGEST as i64) < i32::MAX as i64);

/// The kernel of an instruction set.
#[derive(Clone, Copy)]
pub(super) struct RowsKernel {
    /// Rows whose sums fit the registers. More take a panel in turns, which stays in the L1 cache meanwhile.
    tile_rows: usize,
    /// [`quantize`], compiled for the instruction set, which the CPU must have.
    quantize: unsafe fn(&[f32], usize, &mut [f32]),
    /// One panel of 16 outputs. The tile is as [`Tile`] says, with the panel as its weights; a row of [`Inputs`] for each of its rows,
    /// up to `tile_rows`. The CPU has the instruction set.
    panel: unsafe fn(&Tile<'_>, &GroupedPanel, &[Inputs<'_>]),
}

/// Quads of an instruction set: four inputs, or an output's weights for them.
///
/// # Safety
///
/// Every function may be called only on a CPU with the implementation's instruction set.
trait Quads {
    /// A quad of inputs, in all lanes.
    type Inputs: Copy;
    /// A quad of weights for each lane.
    type Weights: Copy;

    /// A register of words.
    type Words: Copy;

    /// How much more than they are weights of 8 bits are read as.
    const SURPLUS_W8: i32;

    /// A quad of inputs as [`Quads::load`] reads it.
    fn quad(inputs: [i16; 4]) -> [u32; 2];
    /// Reads two elements.
    unsafe fn load(from: *const f32) -> Self::Inputs;
    /// Reads words of 8 bits: a quad of weights.
    unsafe fn w8(from: *const u8) -> Self::Weights;
    /// Reads words of 4 bits: two quads of weights, from 0 to 15.
    unsafe fn w4(from: *const u8) -> [Self::Weights; 2];
    /// Words of bytes below 128: a quad of weights.
    unsafe fn bytes(words: Self::Words) -> Self::Weights;
}

/// Sums of products of quads.
///
/// # Safety
///
/// As [`Quads`] says.
trait Integers {
    type Quads: Quads;
    /// A register of outputs.
    type Outputs: Lanes<Words = <Self::Quads as Quads>::Words>;
    /// Sums of products for each lane.
    type Sums: Copy;

    /// Sums of nothing.
    unsafe fn zero() -> Self::Sums;
    /// Adds the products of two quads.
    unsafe fn add(
        sums: Self::Sums,
        weights: <Self::Quads as Quads>::Weights,
        inputs: <Self::Quads as Quads>::Inputs,
    ) -> Self::Sums;
    /// What sums add up to, less `surplus`.
    unsafe fn total<const N: usize>(sums: [Self::Sums; N], surplus: i32) -> Self::Outputs;
}

/// The inputs of a row as integers.
#[derive(Clone, Copy)]
struct Inputs<'s> {
    /// Quads, two elements each, as bits.
    integers: &'s [f32],
    /// Step of every group.
    steps: &'s [f32],
    /// Sum of every group's integers, an i32 as bits.
    sums: &'s [f32],
    /// Sum of every group's inputs.
    reals: &'s [f32],
}

/// Elements of scratch: for every row its integers, and three numbers per group. Those of the most rows where there are more,
/// for a session's memory must do for less.
pub(super) fn scratch_len(g: &ConvGeometry) -> usize {
    if !g.is_pointwise() {
        return 0;
    }
    g.out_pixels().min(MOST_ROWS) * row_len(g.k(), GROUP_SIZES[0])
}

/// Elements of scratch for a row.
fn row_len(k: usize, group_size: usize) -> usize {
    integers_len(k) + 3 * k.div_ceil(group_size)
}

/// Elements of a row's integers, in whole units of weights: two for each quad.
fn integers_len(k: usize) -> usize {
    k.next_multiple_of(UNIT) / 2
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
    let (rows, k, groups) = (g.out_pixels(), g.k(), g.k().div_ceil(weights.group_size));
    let scratch_len = scratch_len(&g).max(super::blocking::grouped_scratch_len(&g));
    assert!(args.scratch.len() >= scratch_len, "scratch");
    let scratch = core::mem::take(&mut args.scratch);
    let row_len = row_len(k, weights.group_size);
    let empty = Inputs { integers: &[], steps: &[], sums: &[], reals: &[] };
    let mut inputs = [empty; MOST_ROWS];
    for (row, scratch) in scratch[..rows * row_len].chunks_exact_mut(row_len).enumerate() {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { (kernel.quantize)(&args.input[row * k..][..k], weights.group_size, scratch) };
        let (integers, rest) = scratch.split_at(integers_len(k));
        let (steps, rest) = rest.split_at(groups);
        let (sums, reals) = rest.split_at(groups);
        inputs[row] = Inputs { integers, steps, sums, reals };
    }
    grouped_tiles(args, weights, kernel.tile_rows, |tile, panel, rows| {
        // SAFETY: the caller vouches for the instruction set, `grouped_tiles` for the tile, whose rows these inputs are.
        unsafe { (kernel.panel)(tile, panel, &inputs[rows]) }
    });
    args.scratch = scratch;
}

/// Writes a row as [`Inputs`], one behind the other.
#[inline(always)]
fn quantize<Q: Quads>(row: &[f32], group_size: usize, scratch: &mut [f32]) {
    /// Added to a float below 2²² and subtracted again it leaves the nearest integer; without that, the lowest bits are the
    /// integer's.
    const ROUND: f32 = (3 << 22) as f32;
    let groups = row.len().div_ceil(group_size);
    let (integers, rest) = scratch.split_at_mut(integers_len(row.len()));
    // What is left of the last unit.
    integers[row.len().next_multiple_of(BLOCK) / 2..].fill(0.0);
    let (steps, rest) = rest.split_at_mut(groups);
    let (sums, reals) = rest.split_at_mut(groups);
    let per_group = integers.chunks_mut(group_size / 2);
    for (group, (inputs, integers)) in row.chunks(group_size).zip(per_group).enumerate() {
        let (mut largest, mut real) = ([0.0f32; BLOCK], [0.0; BLOCK]);
        for block in inputs.chunks(BLOCK) {
            let x = padded(block);
            largest = core::array::from_fn(|i| largest[i].max(x[i].abs()));
            real = core::array::from_fn(|i| real[i] + x[i]);
        }
        let largest = halve(largest, f32::max);
        let real = halve(real, |a, b| a + b);
        // A maximum loses NaN, a sum doesn't.
        let step = if real.is_finite() { largest / LARGEST } else { f32::NAN };
        let factor = if step > 0.0 { LARGEST / largest } else { 0.0 };
        let factor = if factor.is_finite() { factor } else { 0.0 };
        let mut sum = [0i32; BLOCK];
        for (block, integers) in inputs.chunks(BLOCK).zip(integers.chunks_exact_mut(BLOCK / 2)) {
            let q = padded(block).map(|x| (x * factor + ROUND).to_bits() as i16);
            sum = core::array::from_fn(|i| sum[i] + i32::from(q[i]));
            let (quads, _) = q.as_chunks::<4>();
            let (pairs, _) = integers.as_chunks_mut::<2>();
            for (to, quad) in pairs.iter_mut().zip(quads) {
                *to = Q::quad(*quad).map(f32::from_bits);
            }
        }
        steps[group] = step;
        sums[group] = f32::from_bits(halve(sum, |a, b| a + b) as u32);
        reals[group] = real;
    }
}

/// The high halves of a quad, and the low ones, in i8.
#[inline(always)]
fn halves(inputs: [i16; 4]) -> [u32; 2] {
    let high = inputs.map(|q| ((i32::from(q) + 128) >> 8) as u8);
    [u32::from_le_bytes(high), u32::from_le_bytes(inputs.map(|q| q as u8))]
}

/// A block of inputs, with zeros behind the last.
#[inline(always)]
fn padded(block: &[f32]) -> [f32; BLOCK] {
    match block.as_array() {
        Some(block) => *block,
        None => {
            let mut padded = [0.0; BLOCK];
            padded[..block.len()].copy_from_slice(block);
            padded
        }
    }
}

/// One of all, in an order that halves of registers can take: element i with i + 8, then with i + 4, and so on.
#[inline(always)]
fn halve<T: Copy>(all: [T; BLOCK], join: impl Fn(T, T) -> T) -> T {
    let eight: [T; 8] = core::array::from_fn(|i| join(all[i], all[i + 8]));
    let four: [T; 4] = core::array::from_fn(|i| join(eight[i], eight[i + 4]));
    join(join(four[0], four[2]), join(four[1], four[3]))
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
    let surplus = match (B::BITS, panel.mins.is_some()) {
        (GroupedBits::W8, _) => I::Quads::SURPLUS_W8,
        (_, true) => 0,
        (_, false) => 8 << upper_bits,
    };
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
                            let [first, second] = if upper_bits == 0 {
                                I::Quads::w4(from)
                            } else {
                                let words = I::Outputs::load_words(from);
                                I::Outputs::join(words, upper[v], upper_bits, part, 0)
                                    .map(|quad| I::Quads::bytes(quad))
                            };
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
