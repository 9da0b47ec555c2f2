//! The kernels over registers: a key or value is widened once for up to [`HEADS`] heads.

use super::super::conv_f32::lanes::{Lanes, Weight};
use super::rows::{PlainRow, Q8Row, Row};
use super::{Kept, Mix, Number, Scores};
use crate::format::Q8_GROUP;

/// Heads at a time: four sums and a widened key in registers.
const HEADS: usize = 4;

/// Registers of a value at a time: with four heads, 16 sums of the 32 registers of AVX-512 and Advanced SIMD.
const WIDE: usize = 4;

/// A row that is read a register at a time.
pub(super) trait Load: Row {
    /// Numbers `i` to `i + L::LEN` of the row, exactly.
    ///
    /// # Safety
    ///
    /// The CPU has the instruction set of `L`, the row has so many numbers, and `i` is a multiple of `L::LEN`.
    unsafe fn load<L: Lanes>(self, i: usize) -> L;
}

impl<T: Number + Weight> Load for PlainRow<'_, T> {
    #[inline(always)]
    unsafe fn load<L: Lanes>(self, i: usize) -> L {
        // SAFETY: the caller promises `L::LEN` numbers from `i` on.
        unsafe { T::load(self.0.as_ptr().add(i)) }
    }
}

impl Load for Q8Row<'_> {
    #[inline(always)]
    unsafe fn load<L: Lanes>(self, i: usize) -> L {
        const { assert!(Q8_GROUP.is_multiple_of(L::LEN)) };
        // SAFETY: the caller promises `L::LEN` numbers from `i` on. They lie in one group, as `i` and `Q8_GROUP` are multiples of
        // `L::LEN`, and the row has a scale for each of its groups.
        unsafe {
            let scale = L::splat_f16(self.scales.as_ptr().add(i / Q8_GROUP));
            L::load_i8(self.numbers.as_ptr().add(i)).mul(scale)
        }
    }
}

/// # Safety
///
/// The CPU has the instruction set of `L`.
#[inline(always)]
pub(super) unsafe fn scores<L: Lanes, K: Kept<Row: Load>>(args: &mut Scores<'_, K>) {
    let (heads, keys) = args.check();
    let mut head = 0;
    while head < heads {
        let many = (heads - head).min(HEADS);
        // SAFETY: the caller has the instruction set.
        unsafe {
            match many {
                4 => scores_of::<L, K, 4>(args, head, keys),
                3 => scores_of::<L, K, 3>(args, head, keys),
                2 => scores_of::<L, K, 2>(args, head, keys),
                _ => scores_of::<L, K, 1>(args, head, keys),
            }
        }
        head += many;
    }
}

/// Scores of `H` heads.
///
/// # Safety
///
/// As [`scores`].
#[inline(always)]
unsafe fn scores_of<L: Lanes, K: Kept<Row: Load>, const H: usize>(
    args: &mut Scores<'_, K>,
    head: usize,
    keys: usize,
) {
    let size = args.keys.size();
    let queries = &args.queries[head * size..][..H * size];
    let scores = &mut args.scores[head * keys..][..H * keys];
    let whole = size / L::LEN * L::LEN;
    for (index, key) in args.keys.rows().enumerate() {
        // SAFETY: reads of a key and of a query end below `whole`, which is at most `size`, the length of both.
        let mut sums = unsafe {
            let mut sums = [L::zero(); H];
            for i in (0..whole).step_by(L::LEN) {
                let key: L = key.load(i);
                for (h, sum) in sums.iter_mut().enumerate() {
                    *sum = sum.fma(L::load(queries.as_ptr().add(h * size + i)), key);
                }
            }
            sums.map(|sum| sum.sum())
        };
        for i in whole..size {
            let key = key.number(i);
            for (h, sum) in sums.iter_mut().enumerate() {
                *sum += queries[h * size + i] * key;
            }
        }
        for (h, sum) in sums.into_iter().enumerate() {
            scores[h * keys + index] = sum;
        }
    }
}

/// # Safety
///
/// The CPU has the instruction set of `L`.
#[inline(always)]
pub(super) unsafe fn mix<L: Lanes, K: Kept<Row: Load>>(args: &mut Mix<'_, K>) {
    let (heads, values) = args.check();
    let mut head = 0;
    while head < heads {
        let many = (heads - head).min(HEADS);
        // SAFETY: the caller has the instruction set.
        unsafe {
            match many {
                4 => mix_of::<L, K, 4>(args, head, values),
                3 => mix_of::<L, K, 3>(args, head, values),
                2 => mix_of::<L, K, 2>(args, head, values),
                _ => mix_of::<L, K, 1>(args, head, values),
            }
        }
        head += many;
    }
}

/// Sums of `H` heads.
///
/// # Safety
///
/// As [`mix`].
#[inline(always)]
unsafe fn mix_of<L: Lanes, K: Kept<Row: Load>, const H: usize>(
    args: &mut Mix<'_, K>,
    head: usize,
    values: usize,
) {
    let size = args.values.size();
    let weights = &args.weights[head * values..][..H * values];
    let output = &mut args.output[head * size..][..H * size];
    let mut at = 0;
    while at < size {
        let left = (size - at) / L::LEN;
        // SAFETY: `left` registers from `at` on end within the size, and the functions take no more.
        unsafe {
            if left >= WIDE {
                columns::<L, K, H, WIDE>(weights, args.values, at, output);
                at += WIDE * L::LEN;
            } else if left > 0 {
                columns::<L, K, H, 1>(weights, args.values, at, output);
                at += L::LEN;
            } else {
                for i in at..size {
                    for h in 0..H {
                        let row = weights[h * values..][..values].iter();
                        let column = args.values.rows().map(|value| value.number(i));
                        output[h * size + i] = row.zip(column).map(|(w, v)| w * v).sum();
                    }
                }
                at = size;
            }
        }
    }
}

/// `W` registers of every head's sums, from channel `at` on.
///
/// # Safety
///
/// The CPU has the instruction set; `at` is a multiple of `LEN` and `at + W · LEN` at most the size; weights are `[H][n]`, values `[n][size]`, the output `[H][size]`.
#[inline(always)]
unsafe fn columns<L: Lanes, K: Kept<Row: Load>, const H: usize, const W: usize>(
    weights: &[f32],
    values: K,
    at: usize,
    output: &mut [f32],
) {
    let (size, count) = (values.size(), weights.len() / H);
    // SAFETY: by the caller's promise every access lies in its row.
    unsafe {
        let mut sums = [[L::zero(); W]; H];
        for (index, value) in values.rows().enumerate() {
            let mut registers = [L::zero(); W];
            for (w, register) in registers.iter_mut().enumerate() {
                *register = value.load(at + w * L::LEN);
            }
            for (h, sums) in sums.iter_mut().enumerate() {
                let weight = L::splat(*weights.get_unchecked(h * count + index));
                for (sum, register) in sums.iter_mut().zip(registers) {
                    *sum = sum.fma(weight, register);
                }
            }
        }
        for (h, sums) in sums.into_iter().enumerate() {
            for (w, sum) in sums.into_iter().enumerate() {
                sum.store(output.as_mut_ptr().add(h * size + at + w * L::LEN));
            }
        }
    }
}
