//! A register in plain Rust, so that tests run the kernels' index arithmetic at every width on every machine.

use super::{Lanes, f16};
use half::bf16;

/// `N` lanes in plain Rust, for tests.
#[derive(Clone, Copy)]
pub(crate) struct Array<const N: usize>([f32; N]);

impl<const N: usize> Lanes for Array<N> {
    const LEN: usize = N;

    // As registers of 128 bits have it.
    const INPUTS: usize = if N == 4 { 4 } else { 1 };

    type Inputs = [f32; 4];

    type Words = [u32; N];

    unsafe fn zero() -> Self {
        Array([0.0; N])
    }

    unsafe fn splat(x: f32) -> Self {
        Array([x; N])
    }

    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller promises N elements, wherever they lie.
        Array(core::array::from_fn(|i| unsafe { from.add(i).read_unaligned() }))
    }

    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: the caller promises N elements.
        Array(core::array::from_fn(|i| unsafe { *from.add(i) }.to_f32()))
    }

    unsafe fn splat_f16(from: *const f16) -> Self {
        // SAFETY: the caller promises an element.
        Array([unsafe { *from }.to_f32(); N])
    }

    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: the caller promises N elements.
        Array(core::array::from_fn(|i| f32::from(unsafe { *from.add(i) })))
    }

    unsafe fn load_part(from: *const f32, n: usize) -> Self {
        assert!(n < N);
        // SAFETY: the caller promises n elements.
        Array(core::array::from_fn(|i| if i < n { unsafe { *from.add(i) } } else { 0.0 }))
    }

    unsafe fn store(self, to: *mut f32) {
        for i in 0..N {
            // SAFETY: the caller promises N elements.
            unsafe { *to.add(i) = self.0[i] }
        }
    }

    unsafe fn store_part(self, to: *mut f32, n: usize) {
        assert!(n < N);
        for i in 0..n {
            // SAFETY: the caller promises n elements.
            unsafe { *to.add(i) = self.0[i] }
        }
    }

    unsafe fn add(self, x: Self) -> Self {
        Array(core::array::from_fn(|i| self.0[i] + x.0[i]))
    }

    unsafe fn mul(self, x: Self) -> Self {
        Array(core::array::from_fn(|i| self.0[i] * x.0[i]))
    }

    unsafe fn fma(self, a: Self, b: Self) -> Self {
        Array(core::array::from_fn(|i| self.0[i] + a.0[i] * b.0[i]))
    }

    unsafe fn load_inputs(from: *const f32) -> [f32; 4] {
        // SAFETY: the caller promises INPUTS elements.
        core::array::from_fn(|i| if i < Self::INPUTS { unsafe { *from.add(i) } } else { 0.0 })
    }

    unsafe fn fma_input(self, inputs: [f32; 4], j: usize, b: Self) -> Self {
        Array(core::array::from_fn(|i| self.0[i] + inputs[j] * b.0[i]))
    }

    unsafe fn clamp(self, min: Self, max: Self) -> Self {
        Array(core::array::from_fn(|i| super::super::scalar::clamp(self.0[i], min.0[i], max.0[i])))
    }

    unsafe fn sum(self) -> f32 {
        self.0.iter().sum()
    }

    unsafe fn load_words(from: *const u8) -> [u32; N] {
        // SAFETY: the caller promises N words of four bytes.
        let byte = |at: usize| unsafe { *from.add(at) };
        core::array::from_fn(|i| u32::from_le_bytes(core::array::from_fn(|j| byte(4 * i + j))))
    }

    unsafe fn bytes(words: [u32; N], j: usize) -> Self {
        Array(words.map(|word| f32::from(word.to_le_bytes()[j] as i8)))
    }

    unsafe fn nibbles(words: [u32; N], j: usize) -> Self {
        Array(words.map(|word| (word >> (4 * j) & 15) as f32 - 8.0))
    }

    unsafe fn bf16s(words: [u32; N], j: usize) -> Self {
        Array(words.map(|word| f32::from_bits(word >> (16 * j) << 16)))
    }

    unsafe fn round_bf16(self) -> Self {
        Array(self.0.map(|x| bf16::from_f32(x).to_f32()))
    }

    unsafe fn fma_pairs(self, a: Self, b: Self) -> Self {
        let half = |x: f32, j: usize| f32::from_bits(x.to_bits() >> (16 * j) << 16);
        Array(core::array::from_fn(|i| {
            let product = |j| half(a.0[i], j) * half(b.0[i], j);
            self.0[i] + product(0) + product(1)
        }))
    }

    unsafe fn join(
        words: [u32; N],
        upper: [u32; N],
        bits: usize,
        part: usize,
        surplus: u8,
    ) -> [[u32; N]; 2] {
        [0, 1].map(|quad| {
            core::array::from_fn(|i| {
                let bytes = words[i].to_le_bytes().into_iter().zip(upper[i].to_le_bytes());
                let mut joined = bytes.map(|(word, upper)| {
                    let more = upper >> (bits * (2 * part + quad)) & ((1 << bits) - 1);
                    ((word >> (4 * quad) & 15) | more << 4).wrapping_sub(surplus)
                });
                u32::from_le_bytes(core::array::from_fn(|_| joined.next().unwrap_or(0)))
            })
        })
    }

    unsafe fn look_up(words: [u32; N], table: &[u8; 16]) -> [[u32; N]; 2] {
        [0, 1].map(|quad| {
            words.map(|word| {
                let bytes =
                    word.to_le_bytes().map(|byte| table[usize::from(byte >> (4 * quad) & 15)]);
                u32::from_le_bytes(bytes)
            })
        })
    }
}
