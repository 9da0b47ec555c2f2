//! The kernels over registers: a key or value is widened once for up to [`HEADS`] heads.

use super::super::conv_f32::lanes::Lanes;
use super::{Mix, Scores};
use half::f16;

/// Heads at a time: four sums and a widened key in registers.
const HEADS: usize = 4;

/// Registers of a value at a time: with four heads, 16 sums of the 32 registers of AVX-512 and Advanced SIMD.
const WIDE: usize = 4;

/// # Safety
///
/// The CPU has the instruction set of `L`.
#[inline(always)]
pub(super) unsafe fn scores<L: Lanes>(args: &mut Scores<'_>) {
    let (heads, keys) = args.check();
    let mut head = 0;
    while head < heads {
        let many = (heads - head).min(HEADS);
        // SAFETY: the caller has the instruction set.
        unsafe {
            match many {
                4 => scores_of::<L, 4>(args, head, keys),
                3 => scores_of::<L, 3>(args, head, keys),
                2 => scores_of::<L, 2>(args, head, keys),
                _ => scores_of::<L, 1>(args, head, keys),
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
unsafe fn scores_of<L: Lanes, const H: usize>(args: &mut Scores<'_>, head: usize, keys: usize) {
    let size = args.size;
    let queries = &args.queries[head * size..][..H * size];
    let scores = &mut args.scores[head * keys..][..H * keys];
    let whole = size / L::LEN * L::LEN;
    for (index, key) in args.keys.chunks_exact(size).enumerate() {
        // SAFETY: reads of a key and of a query end below `whole`, which is at most `size`, the length of both.
        let mut sums = unsafe {
            let mut sums = [L::zero(); H];
            for i in (0..whole).step_by(L::LEN) {
                let key = L::load_f16(key.as_ptr().add(i));
                for (h, sum) in sums.iter_mut().enumerate() {
                    *sum = sum.fma(L::load(queries.as_ptr().add(h * size + i)), key);
                }
            }
            sums.map(|sum| sum.sum())
        };
        for (i, key) in key.iter().enumerate().skip(whole) {
            for (h, sum) in sums.iter_mut().enumerate() {
                *sum += queries[h * size + i] * key.to_f32();
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
pub(super) unsafe fn mix<L: Lanes>(args: &mut Mix<'_>) {
    let (heads, values) = args.check();
    let mut head = 0;
    while head < heads {
        let many = (heads - head).min(HEADS);
        // SAFETY: the caller has the instruction set.
        unsafe {
            match many {
                4 => mix_of::<L, 4>(args, head, values),
                3 => mix_of::<L, 3>(args, head, values),
                2 => mix_of::<L, 2>(args, head, values),
                _ => mix_of::<L, 1>(args, head, values),
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
unsafe fn mix_of<L: Lanes, const H: usize>(args: &mut Mix<'_>, head: usize, values: usize) {
    let size = args.size;
    let weights = &args.weights[head * values..][..H * values];
    let output = &mut args.output[head * size..][..H * size];
    let mut at = 0;
    while at < size {
        let left = (size - at) / L::LEN;
        // SAFETY: `left` registers from `at` on end within the size, and the functions take no more.
        unsafe {
            if left >= WIDE {
                columns::<L, H, WIDE>(weights, args.values, size, at, output);
                at += WIDE * L::LEN;
            } else if left > 0 {
                columns::<L, H, 1>(weights, args.values, size, at, output);
                at += L::LEN;
            } else {
                for i in at..size {
                    for h in 0..H {
                        let row = weights[h * values..][..values].iter();
                        let column = args.values.chunks_exact(size).map(|value| &value[i]);
                        output[h * size + i] = row.zip(column).map(|(w, v)| w * v.to_f32()).sum();
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
/// The CPU has the instruction set; `at + W · LEN` is at most the size; weights are `[H][n]`, values `[n][size]`, the output `[H][size]`.
#[inline(always)]
unsafe fn columns<L: Lanes, const H: usize, const W: usize>(
    weights: &[f32],
    values: &[f16],
    size: usize,
    at: usize,
    output: &mut [f32],
) {
    let count = weights.len() / H;
    // SAFETY: by the caller's promise every access lies in its row.
    unsafe {
        let mut sums = [[L::zero(); W]; H];
        for (index, value) in values.chunks_exact(size).enumerate() {
            let mut registers = [L::zero(); W];
            for (w, register) in registers.iter_mut().enumerate() {
                *register = L::load_f16(value.as_ptr().add(at + w * L::LEN));
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
