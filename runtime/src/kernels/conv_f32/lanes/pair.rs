//! Two registers as one: where registers are many and short, loops over twice the lanes have less to do besides.

use super::{Lanes, f16};

/// The lanes of the first, then those of the second.
#[derive(Clone, Copy)]
pub(crate) struct Pair<L>(L, L);

impl<L: Lanes> Lanes for Pair<L> {
    const LEN: usize = 2 * L::LEN;

    const INPUTS: usize = L::INPUTS;

    type Inputs = L::Inputs;

    type Words = (L::Words, L::Words);

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the contract is the same.
        unsafe { Pair(L::zero(), L::zero()) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the contract is the same.
        unsafe { Pair(L::splat(x), L::splat(x)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller promises twice the elements of a register.
        unsafe { Pair(L::load(from), L::load(from.add(L::LEN))) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: the caller promises twice the elements of a register.
        unsafe { Pair(L::load_f16(from), L::load_f16(from.add(L::LEN))) }
    }

    #[inline(always)]
    unsafe fn splat_f16(from: *const f16) -> Self {
        // SAFETY: the contract is the same.
        unsafe { Pair(L::splat_f16(from), L::splat_f16(from)) }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: the caller promises twice the elements of a register.
        unsafe { Pair(L::load_i8(from), L::load_i8(from.add(L::LEN))) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, n: usize) -> Self {
        debug_assert!(n < Self::LEN);
        // SAFETY: the caller promises n elements; the second register begins inside them or isn't read.
        unsafe {
            if n < L::LEN {
                Pair(L::load_part(from, n), L::zero())
            } else {
                Pair(L::load(from), L::load_part(from.wrapping_add(L::LEN), n - L::LEN))
            }
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises twice the elements of a register.
        unsafe {
            self.0.store(to);
            self.1.store(to.add(L::LEN));
        }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, n: usize) {
        debug_assert!(n < Self::LEN);
        // SAFETY: the caller promises n elements; the second register begins inside them or isn't written.
        unsafe {
            if n < L::LEN {
                self.0.store_part(to, n);
            } else {
                self.0.store(to);
                self.1.store_part(to.wrapping_add(L::LEN), n - L::LEN);
            }
        }
    }

    #[inline(always)]
    unsafe fn add(self, x: Self) -> Self {
        // SAFETY: the contract is the same.
        unsafe { Pair(self.0.add(x.0), self.1.add(x.1)) }
    }

    #[inline(always)]
    unsafe fn mul(self, x: Self) -> Self {
        // SAFETY: the contract is the same.
        unsafe { Pair(self.0.mul(x.0), self.1.mul(x.1)) }
    }

    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: the contract is the same.
        unsafe { Pair(self.0.fma(a.0, b.0), self.1.fma(a.1, b.1)) }
    }

    #[inline(always)]
    unsafe fn load_inputs(from: *const f32) -> L::Inputs {
        // SAFETY: the contract is the same.
        unsafe { L::load_inputs(from) }
    }

    #[inline(always)]
    unsafe fn fma_input(self, inputs: L::Inputs, j: usize, b: Self) -> Self {
        // SAFETY: the contract is the same.
        unsafe { Pair(self.0.fma_input(inputs, j, b.0), self.1.fma_input(inputs, j, b.1)) }
    }

    #[inline(always)]
    unsafe fn clamp(self, min: Self, max: Self) -> Self {
        // SAFETY: the contract is the same.
        unsafe { Pair(self.0.clamp(min.0, max.0), self.1.clamp(min.1, max.1)) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the contract is the same.
        unsafe { self.0.add(self.1).sum() }
    }

    #[inline(always)]
    unsafe fn load_words(from: *const u8) -> Self::Words {
        // SAFETY: the caller promises twice the words of a register.
        unsafe { (L::load_words(from), L::load_words(from.add(4 * L::LEN))) }
    }

    #[inline(always)]
    unsafe fn bytes(words: Self::Words, j: usize) -> Self {
        // SAFETY: the contract is the same.
        unsafe { Pair(L::bytes(words.0, j), L::bytes(words.1, j)) }
    }

    #[inline(always)]
    unsafe fn nibbles(words: Self::Words, j: usize) -> Self {
        // SAFETY: the contract is the same.
        unsafe { Pair(L::nibbles(words.0, j), L::nibbles(words.1, j)) }
    }

    #[inline(always)]
    unsafe fn bf16s(words: Self::Words, j: usize) -> Self {
        // SAFETY: the contract is the same.
        unsafe { Pair(L::bf16s(words.0, j), L::bf16s(words.1, j)) }
    }

    #[inline(always)]
    unsafe fn round_bf16(self) -> Self {
        // SAFETY: the contract is the same.
        unsafe { Pair(self.0.round_bf16(), self.1.round_bf16()) }
    }

    #[inline(always)]
    unsafe fn fma_pairs(self, a: Self, b: Self) -> Self {
        // SAFETY: the contract is the same.
        unsafe { Pair(self.0.fma_pairs(a.0, b.0), self.1.fma_pairs(a.1, b.1)) }
    }

    #[inline(always)]
    unsafe fn join(
        words: Self::Words,
        upper: Self::Words,
        bits: usize,
        part: usize,
        surplus: u8,
    ) -> [Self::Words; 2] {
        // SAFETY: the contract is the same.
        unsafe {
            let [a, b] = L::join(words.0, upper.0, bits, part, surplus);
            let [c, d] = L::join(words.1, upper.1, bits, part, surplus);
            [(a, c), (b, d)]
        }
    }

    #[inline(always)]
    unsafe fn look_up(words: Self::Words, table: &[u8; 16]) -> [Self::Words; 2] {
        // SAFETY: the contract is the same.
        unsafe {
            let [a, b] = L::look_up(words.0, table);
            let [c, d] = L::look_up(words.1, table);
            [(a, c), (b, d)]
        }
    }
}
