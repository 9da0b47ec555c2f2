use super::{Mix, Scores, scalar, select};
use crate::Isa;
use half::f16;
#[cfg(not(feature = "std"))]
use std::vec::Vec;

/// Multiples of 1/8 whose products and sums are exact: every order of a sum has the same bits.
fn numbers(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 + seed * 11) % 31) as f32 / 8.0 - 2.0).collect()
}

#[test]
fn every_instruction_set_has_the_sums_of_scalar() {
    for size in [1, 3, 4, 8, 15, 16, 17, 64, 80, 96, 128] {
        for heads in [1, 2, 3, 4, 5, 9] {
            for n in [0, 1, 2, 7] {
                let halves = |len, seed| -> Vec<f16> {
                    numbers(len, seed).into_iter().map(f16::from_f32).collect()
                };
                let (queries, keys) = (numbers(heads * size, 1), halves(n * size, 2));
                let (weights, values) = (numbers(heads * n, 3), halves(n * size, 4));
                let scores = |kernel: fn(&mut Scores<'_>)| {
                    let mut scores = vec![f32::NAN; heads * n];
                    kernel(&mut Scores {
                        size,
                        queries: &queries,
                        keys: &keys,
                        scores: &mut scores,
                    });
                    scores
                };
                let mix = |kernel: fn(&mut Mix<'_>)| {
                    let mut output = vec![f32::NAN; heads * size];
                    kernel(&mut Mix {
                        size,
                        weights: &weights,
                        values: &values,
                        output: &mut output,
                    });
                    output
                };
                for isa in Isa::available() {
                    let kernels = select(isa);
                    let case = format!("{isa}: size {size}, {heads} heads, {n} keys");
                    assert_eq!(scores(kernels.scores), scores(scalar::scores), "{case}");
                    assert_eq!(mix(kernels.mix), mix(scalar::mix), "{case}");
                }
            }
        }
    }
}
