//! One register of f32 lanes: the few operations that the float kernels are written in.
//!
//! A kernel generic over [`Lanes`] is compiled once per instruction set, by inlining it into a
//! function that enables the set's features.

use super::grouped::{GroupedBits, NONLINEAR};
use half::{bf16, f16};

#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
mod aarch64;
#[cfg(test)]
mod array;
#[cfg(any(all(target_arch = "aarch64", target_feature = "neon"), test))]
mod pair;
#[cfg(all(target_arch = "x86_64", feature = "std"))]
mod x86_64;

#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
pub(crate) use aarch64::Neon;
#[cfg(all(target_arch = "aarch64", target_feature = "neon", feature = "std"))]
pub(crate) use aarch64::fetch_ahead;
#[cfg(test)]
pub(crate) use array::Array;
#[cfg(any(all(target_arch = "aarch64", target_feature = "neon"), test))]
pub(crate) use pair::Pair;
#[cfg(all(target_arch = "x86_64", feature = "std"))]
pub(crate) use x86_64::{Avx2, Avx512, fetch_ahead};

/// A register of [`Lanes::LEN`] f32.
///
/// # Safety
///
/// Every function may be called only on a CPU with the implementation's instruction set. Those
/// that take a pointer need it valid for the number of elements that they name; no alignment is
/// needed beyond that of the element.
pub(crate) trait Lanes: Copy {
    /// Lanes in the register: 4, 8 or 16, a divisor of [`PANEL_N`](super::super::PANEL_N).
    const LEN: usize;

    /// Neighbouring inputs that are loaded at once. More than 1 where an instruction multiplies by one lane of a
    /// register; elsewhere an input is loaded into all lanes.
    const INPUTS: usize;

    /// A register of `INPUTS` inputs.
    type Inputs: Copy;

    /// A register of `LEN` words of 32 bits, which hold small integers.
    type Words: Copy;

    /// All lanes +0.
    unsafe fn zero() -> Self;
    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self;
    /// Reads `LEN` elements, which needn't be aligned at all.
    unsafe fn load(from: *const f32) -> Self;
    /// Reads and widens `LEN` elements.
    unsafe fn load_f16(from: *const f16) -> Self;
    /// All lanes one element, widened.
    unsafe fn splat_f16(from: *const f16) -> Self;
    /// Reads and widens `LEN` elements.
    unsafe fn load_i8(from: *const i8) -> Self;
    /// Reads `n < LEN` elements; the other lanes are 0 and their memory isn't touched.
    unsafe fn load_part(from: *const f32, n: usize) -> Self;
    /// Writes `LEN` elements.
    unsafe fn store(self, to: *mut f32);
    /// Writes the first `n < LEN` elements only.
    unsafe fn store_part(self, to: *mut f32, n: usize);
    /// `self + x`.
    unsafe fn add(self, x: Self) -> Self;
    /// `self * x`.
    unsafe fn mul(self, x: Self) -> Self;
    /// `a * b + self`, rounded once.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    /// Reads `INPUTS` elements.
    unsafe fn load_inputs(from: *const f32) -> Self::Inputs;
    /// `inputs[j] * b + self`, rounded once; `j` is below `INPUTS`.
    unsafe fn fma_input(self, inputs: Self::Inputs, j: usize, b: Self) -> Self;
    /// `max(min, min(self, max))` of two bounds; a NaN in `self` stays.
    unsafe fn clamp(self, min: Self, max: Self) -> Self;
    /// The sum of the lanes, in any order.
    unsafe fn sum(self) -> f32;
    /// Reads `LEN` words.
    unsafe fn load_words(from: *const u8) -> Self::Words;
    /// Byte `j`, below 4, of each word, as an i8.
    unsafe fn bytes(words: Self::Words, j: usize) -> Self;
    /// Nibble `j`, below 8, of each word, counted from the lowest, less 8.
    unsafe fn nibbles(words: Self::Words, j: usize) -> Self;
    /// Half `j`, below 2, of each word, counted from the lowest, as a bf16.
    unsafe fn bf16s(words: Self::Words, j: usize) -> Self;
    /// The nearest bf16, of two the even one; a NaN stays one. Numbers below 2⁻¹²⁶ may become 0.
    unsafe fn round_bf16(self) -> Self;
    /// `self` and the products of both bf16 in each lane's word. Numbers below 2⁻¹²⁶ may count as 0.
    unsafe fn fma_pairs(self, a: Self, b: Self) -> Self;
    /// The same by an instruction of its own, which the caller knows to be there, if the set has one.
    #[inline(always)]
    unsafe fn dot_pairs(self, a: Self, b: Self) -> Self {
        // SAFETY: the contract is the same.
        unsafe { self.fma_pairs(a, b) }
    }
    /// The low nibbles of bytes with the upper bits of the first quad of word `part` of a unit, then the high ones with those of the
    /// second, less `surplus`. In each byte of `upper` are the bits of quad after quad, `bits` at a time.
    unsafe fn join(
        words: Self::Words,
        upper: Self::Words,
        bits: usize,
        part: usize,
        surplus: u8,
    ) -> [Self::Words; 2];
    /// The table's bytes that the low nibbles of bytes are indices of, then those of the high ones.
    unsafe fn look_up(words: Self::Words, table: &[u8; 16]) -> [Self::Words; 2];
}

/// Integers in words: how one output's weights for several inputs lie in 32 bits.
///
/// # Safety
///
/// As for [`Lanes`].
pub(crate) trait Grouped: Copy {
    const BITS: GroupedBits;

    /// What integers are short of where there are minima.
    const OFFSET: f32;

    /// Words with all bits of their weights.
    type Loaded<L: Lanes>: Copy;

    /// Reads `L::LEN` words, which are number `part` of a unit, and as many with the unit's upper bits where there are some, whose
    /// integers are stored as so much more than they are.
    unsafe fn load<L: Lanes>(
        words: *const u8,
        upper: *const u8,
        part: usize,
        surplus: u8,
    ) -> Self::Loaded<L>;

    /// The integers for input `i` of each word; where `i` is known to the compiler, so are all shifts.
    unsafe fn weights<L: Lanes>(loaded: Self::Loaded<L>, i: usize) -> L;
}

/// Weights of 8 bits.
#[derive(Clone, Copy)]
pub(crate) struct W8;

/// Weights of 4 bits.
#[derive(Clone, Copy)]
pub(crate) struct W4;

/// Weights of 4 bits and `UPPER` more in another plane.
#[derive(Clone, Copy)]
pub(crate) struct Split<const UPPER: usize>;

/// Weights of 5 bits.
pub(crate) type W5 = Split<1>;

/// Weights of 6 bits.
pub(crate) type W6 = Split<2>;

/// Weights of 4 bits that stand for values of a table.
#[derive(Clone, Copy)]
pub(crate) struct W4Nl;

/// [`NONLINEAR`] in bytes, each so much more. It has to be enough to be unsigned, or 0.
pub(crate) const fn nonlinear(surplus: i32) -> [u8; 16] {
    let mut table = [0; 16];
    let mut code = 0;
    while code < table.len() {
        let value = NONLINEAR[code] as i32 + surplus;
        assert!(surplus == 0 || value >= 0 && value <= u8::MAX as i32);
        table[code] = value as u8;
        code += 1;
    }
    table
}

impl Grouped for W8 {
    const BITS: GroupedBits = GroupedBits::W8;

    const OFFSET: f32 = 0.0;

    type Loaded<L: Lanes> = L::Words;

    #[inline(always)]
    unsafe fn load<L: Lanes>(words: *const u8, _: *const u8, _: usize, _: u8) -> L::Words {
        // SAFETY: the contract is the same.
        unsafe { L::load_words(words) }
    }

    #[inline(always)]
    unsafe fn weights<L: Lanes>(words: L::Words, i: usize) -> L {
        // SAFETY: the contract is the same.
        unsafe { L::bytes(words, i) }
    }
}

impl Grouped for W4 {
    const BITS: GroupedBits = GroupedBits::W4;

    const OFFSET: f32 = 8.0;

    type Loaded<L: Lanes> = L::Words;

    #[inline(always)]
    unsafe fn load<L: Lanes>(words: *const u8, _: *const u8, _: usize, _: u8) -> L::Words {
        // SAFETY: the contract is the same.
        unsafe { L::load_words(words) }
    }

    // Inputs 0 to 3 are the low nibbles of the bytes, 4 to 7 the high ones.
    #[inline(always)]
    unsafe fn weights<L: Lanes>(words: L::Words, i: usize) -> L {
        // SAFETY: the contract is the same.
        unsafe { L::nibbles(words, 2 * (i % 4) + i / 4) }
    }
}

impl<const UPPER: usize> Grouped for Split<UPPER> {
    const BITS: GroupedBits = if UPPER == 1 { GroupedBits::W5 } else { GroupedBits::W6 };

    const OFFSET: f32 = 0.0;

    /// Bytes of inputs 0 to 3, and of 4 to 7.
    type Loaded<L: Lanes> = [L::Words; 2];

    #[inline(always)]
    unsafe fn load<L: Lanes>(
        words: *const u8,
        upper: *const u8,
        part: usize,
        surplus: u8,
    ) -> [L::Words; 2] {
        // SAFETY: the contract is the same.
        unsafe { L::join(L::load_words(words), L::load_words(upper), UPPER, part, surplus) }
    }

    #[inline(always)]
    unsafe fn weights<L: Lanes>(quads: [L::Words; 2], i: usize) -> L {
        // SAFETY: the contract is the same.
        unsafe { L::bytes(quads[i / 4], i % 4) }
    }
}

impl Grouped for W4Nl {
    const BITS: GroupedBits = GroupedBits::W4Nl;

    const OFFSET: f32 = 0.0;

    /// Bytes of inputs 0 to 3, and of 4 to 7.
    type Loaded<L: Lanes> = [L::Words; 2];

    #[inline(always)]
    unsafe fn load<L: Lanes>(words: *const u8, _: *const u8, _: usize, _: u8) -> [L::Words; 2] {
        // SAFETY: the contract is the same.
        unsafe { L::look_up(L::load_words(words), const { &nonlinear(0) }) }
    }

    #[inline(always)]
    unsafe fn weights<L: Lanes>(quads: [L::Words; 2], i: usize) -> L {
        // SAFETY: the contract is the same.
        unsafe { L::bytes(quads[i / 4], i % 4) }
    }
}

/// How far to the left the upper bits of the two quads of word `part` of a unit go, to lie above nibbles.
const fn upper_shifts(bits: usize, part: usize) -> [i32; 2] {
    let first = 4 - (2 * bits * part) as i32;
    [first, first - bits as i32]
}

/// Where upper bits lie in a byte, above the nibble.
const fn upper_mask(bits: usize) -> i8 {
    (((1 << bits) - 1) << 4) as i8
}

/// An element that weights are stored in.
///
/// # Safety
///
/// As for [`Lanes::load`].
pub(crate) trait Weight: Copy {
    /// Whether an element is the weights of two inputs.
    const IS_PAIR: bool = false;

    /// Reads `L::LEN` elements as f32, exactly, or as pairs.
    unsafe fn load<L: Lanes>(from: *const Self) -> L;

    /// `sum` and the product of inputs and weights.
    #[inline(always)]
    unsafe fn fma<L: Lanes>(sum: L, inputs: L, weights: L) -> L {
        // SAFETY: the contract is the same.
        unsafe { sum.fma(inputs, weights) }
    }
}

impl Weight for f32 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L {
        // SAFETY: the contract is the same.
        unsafe { L::load(from) }
    }
}

impl Weight for f16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L {
        // SAFETY: the contract is the same.
        unsafe { L::load_f16(from) }
    }
}

/// The weights of two inputs in bf16, in a word: those of the even input in the lower half. Inputs are such words, too. `DOT`
/// where the CPU has an instruction for both products.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Bf16Pair<const DOT: bool>([bf16; 2]);

impl<const DOT: bool> Weight for Bf16Pair<DOT> {
    const IS_PAIR: bool = true;

    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L {
        // SAFETY: the contract is the same.
        unsafe { L::load(from.cast()) }
    }

    #[inline(always)]
    unsafe fn fma<L: Lanes>(sum: L, inputs: L, weights: L) -> L {
        // SAFETY: the contract is the same.
        unsafe {
            match DOT {
                true => sum.dot_pairs(inputs, weights),
                false => sum.fma_pairs(inputs, weights),
            }
        }
    }
}

/// A weight that comes from memory, not from a cache: what lies further on is asked for.
#[cfg(all(target_arch = "x86_64", feature = "std"))]
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Streamed<W>(W);

#[cfg(all(target_arch = "x86_64", feature = "std"))]
impl<W: Weight> Weight for Streamed<W> {
    const IS_PAIR: bool = W::IS_PAIR;

    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L {
        let from: *const W = from.cast();
        fetch_ahead(from.cast());
        // SAFETY: the contract is the same.
        unsafe { W::load(from) }
    }

    #[inline(always)]
    unsafe fn fma<L: Lanes>(sum: L, inputs: L, weights: L) -> L {
        // SAFETY: the contract is the same.
        unsafe { W::fma(sum, inputs, weights) }
    }
}
