//! Inputs as integers, for products with grouped weights, which are integers already.
//!
//! The inputs of a group become integers of 16 bits, `x ≈ step · q`. Sums of integers are exact, thus the same on every instruction set,
//! as is all that is done with them. What is rounded is an input: by at most half of `step`, which is the largest magnitude of the
//! group over 32,512. Where instructions multiply bytes, `q = 256 · high + low`, both in i8.

use super::grouped::{GROUP_SIZES, GroupedBits};
use super::lanes::{Grouped, Lanes, nonlinear};
use super::tile::GroupedPanel;

/// `127 · 256`: what the largest input of a group becomes.
const LARGEST: f32 = 32512.0;

/// Inputs that are made integers at once; groups are multiples of it.
pub(super) const BLOCK: usize = 16;

/// A row has integers for whole units of any kind of weights.
pub(super) const UNIT: usize = GroupedBits::W5.unit();

/// Largest number of inputs of a group.
pub(super) const MAX_GROUP: usize = GROUP_SIZES[GROUP_SIZES.len() - 1];

const _: () = assert!(GROUP_SIZES[0] == BLOCK && UNIT.is_multiple_of(BLOCK));

/// What the largest group of unsigned bytes adds up to fits an i32.
const _: () = assert!(MAX_GROUP as i64 * 255 * (LARGEST as i64) < i32::MAX as i64);

/// Quads of an instruction set: four inputs, or an output's weights for them.
///
/// # Safety
///
/// Every function may be called only on a CPU with the implementation's instruction set.
pub(super) trait Quads {
    /// A quad of inputs, in all lanes.
    type Inputs: Copy;
    /// A quad of weights for each lane.
    type Weights: Copy;

    /// A register of words.
    type Words: Copy;

    /// How much more than they are weights of 8 bits are read as.
    const SURPLUS_W8: i32;
    /// How much more than they are values of a table are looked up as: 127 where [`Quads::bytes`] takes unsigned bytes, 0 where signed ones.
    const SURPLUS_NONLINEAR: i32;

    /// Quads of inputs, one after the other, as [`Quads::load`] reads them.
    fn quads(inputs: [i16; BLOCK]) -> [u32; BLOCK / 2];
    /// Reads two elements.
    unsafe fn load(from: *const f32) -> Self::Inputs;
    /// Reads words of 8 bits: a quad of weights.
    unsafe fn w8(from: *const u8) -> Self::Weights;
    /// Reads words of 4 bits: two quads of weights, from 0 to 15.
    unsafe fn w4(from: *const u8) -> [Self::Weights; 2];
    /// Words of bytes, unsigned or signed as [`Quads::SURPLUS_NONLINEAR`] says: a quad of weights.
    unsafe fn bytes(words: Self::Words) -> Self::Weights;
}

/// How much more than they are the weights of a panel, of the bits of `B`, are read as.
#[inline(always)]
pub(super) fn surplus<Q: Quads, B: Grouped>(panel: &GroupedPanel) -> i32 {
    match B::BITS {
        GroupedBits::W8 => Q::SURPLUS_W8,
        GroupedBits::W4Nl => Q::SURPLUS_NONLINEAR,
        _ => panel.surplus().into(),
    }
}

/// Reads words of nibbles, number `part` of a unit whose upper bits are in `upper` if there are such: two quads of weights.
///
/// # Safety
///
/// The CPU has the instruction set of `Q` and `L`; the words of a register are readable, and have the bits of `B`.
#[inline(always)]
pub(super) unsafe fn nibbles<Q: Quads, L: Lanes<Words = Q::Words>, B: Grouped>(
    from: *const u8,
    upper: L::Words,
    part: usize,
) -> [Q::Weights; 2] {
    // SAFETY: the contract is the same. Bytes are below 64, or those of a table with the surplus that `bytes` wants.
    unsafe {
        match B::BITS {
            GroupedBits::W4Nl => {
                let table = const { &nonlinear(Q::SURPLUS_NONLINEAR) };
                L::look_up(L::load_words(from), table).map(|quad| Q::bytes(quad))
            }
            bits if bits.upper() == 0 => Q::w4(from),
            bits => L::join(L::load_words(from), upper, bits.upper(), part, 0)
                .map(|quad| Q::bytes(quad)),
        }
    }
}

/// Sums of products of quads.
///
/// # Safety
///
/// As [`Quads`] says.
pub(super) trait Integers {
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
pub(super) struct Inputs<'s> {
    /// Quads, two elements each, as bits.
    pub(super) integers: &'s [f32],
    /// Step of every group.
    pub(super) steps: &'s [f32],
    /// Sum of every group's integers, an i32 as bits.
    pub(super) sums: &'s [f32],
    /// Sum of every group's inputs.
    pub(super) reals: &'s [f32],
}

impl Inputs<'_> {
    pub(super) const NONE: Inputs<'static> =
        Inputs { integers: &[], steps: &[], sums: &[], reals: &[] };
}

/// [`quantize`], compiled for an instruction set, which the CPU must have.
pub(super) type Quantize = for<'s> unsafe fn(&[f32], usize, &'s mut [f32]) -> Inputs<'s>;

/// Elements of scratch for a row: its integers, and three numbers per group.
pub(super) const fn row_len(k: usize, group_size: usize) -> usize {
    integers_len(k) + 3 * k.div_ceil(group_size)
}

/// Elements of a row's integers, in whole units of weights: two for each quad.
const fn integers_len(k: usize) -> usize {
    k.next_multiple_of(UNIT) / 2
}

/// Makes integers of a row, in [`row_len`] elements of scratch, one list behind the other.
#[inline(always)]
pub(super) fn quantize<'s, Q: Quads>(
    row: &[f32],
    group_size: usize,
    scratch: &'s mut [f32],
) -> Inputs<'s> {
    /// Added to a float below 2²² and subtracted again it leaves the nearest integer; without that, the lowest bits are the
    /// integer's.
    const ROUND: f32 = (3 << 22) as f32;
    let groups = row.len().div_ceil(group_size);
    let (integers, rest) = scratch.split_at_mut(integers_len(row.len()));
    // What is left of the last unit.
    integers[row.len().next_multiple_of(BLOCK) / 2..].fill(0.0);
    let (steps, rest) = rest.split_at_mut(groups);
    let (sums, rest) = rest.split_at_mut(groups);
    let reals = &mut rest[..groups];
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
            for (to, element) in integers.iter_mut().zip(Q::quads(q)) {
                *to = f32::from_bits(element);
            }
        }
        steps[group] = step;
        sums[group] = f32::from_bits(halve(sum, |a, b| a + b) as u32);
        reals[group] = real;
    }
    Inputs { integers, steps, sums, reals }
}

/// Quads of inputs, one after the other, as `quad` makes them.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn each_quad(
    inputs: [i16; BLOCK],
    quad: impl Fn([i16; 4]) -> [u32; 2],
) -> [u32; BLOCK / 2] {
    let mut elements = [0; BLOCK / 2];
    let (pairs, _) = elements.as_chunks_mut::<2>();
    for (to, inputs) in pairs.iter_mut().zip(inputs.as_chunks::<4>().0) {
        *to = quad(*inputs);
    }
    elements
}

/// The high halves of a quad, and the low ones, in i8.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn halves(inputs: [i16; 4]) -> [u32; 2] {
    let high = inputs.map(|q| ((i32::from(q) + 128) >> 8) as u8);
    [u32::from_le_bytes(high), u32::from_le_bytes(inputs.map(|q| q as u8))]
}

/// Inputs 0 and 2 of a quad, and 1 and 3, as neighbours in 16 bits.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn pairs(inputs: [i16; 4]) -> [u32; 2] {
    let pair = |low: i16, high: i16| u32::from(low as u16) | u32::from(high as u16) << 16;
    [pair(inputs[0], inputs[2]), pair(inputs[1], inputs[3])]
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
