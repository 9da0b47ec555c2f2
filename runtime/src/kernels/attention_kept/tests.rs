use super::{
    AttentionKept, Kept, Mix, Number, Plain, Q8, Scores, scalar, select_narrow_q8, select_q8,
};
use crate::Isa;
use crate::format::Q8_GROUP;
use half::f16;
#[cfg(not(feature = "std"))]
use std::vec::Vec;

/// Sizes around those of registers and groups.
const SIZES: [usize; 14] = [1, 3, 4, 8, 15, 16, 17, 31, 32, 33, 64, 80, 96, 128];

/// Multiples of 1/8 whose products and sums are exact: every order of a sum has the same bits.
fn numbers(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 + seed * 11) % 31) as f32 / 8.0 - 2.0).collect()
}

/// Keys or values with the same property.
struct Rows {
    floats: Vec<f32>,
    halves: Vec<f16>,
    integers: Vec<i8>,
    scales: Vec<f16>,
}

impl Rows {
    fn new(size: usize, n: usize, seed: usize) -> Rows {
        let numbers = numbers(n * size, seed);
        Rows {
            halves: numbers.iter().map(|x| f16::from_f32(*x)).collect(),
            integers: numbers.iter().map(|x| (x * 8.0) as i8).collect(),
            scales: (0..n * size.div_ceil(Q8_GROUP))
                .map(|i| f16::from_f32([0.125, 2.0, 0.5][(i + seed) % 3]))
                .collect(),
            floats: numbers,
        }
    }
}

fn scores<K: Kept>(kernel: fn(&mut Scores<'_, K>), queries: &[f32], keys: K) -> Vec<f32> {
    let mut scores = vec![f32::NAN; queries.len() / keys.size() * keys.count()];
    kernel(&mut Scores { queries, keys, scores: &mut scores });
    scores
}

fn mix<K: Kept>(kernel: fn(&mut Mix<'_, K>), heads: usize, weights: &[f32], values: K) -> Vec<f32> {
    let mut output = vec![f32::NAN; heads * values.size()];
    kernel(&mut Mix { weights, values, output: &mut output });
    output
}

fn same_as_scalar<K: Kept>(
    kernels: AttentionKept<K>,
    (queries, weights): (&[f32], &[f32]),
    [keys, values]: [K; 2],
    case: &str,
) {
    let heads = queries.len() / keys.size();
    let want = scores(scalar::scores, queries, keys);
    assert_eq!(scores(kernels.scores, queries, keys), want, "{case}");
    let want = mix(scalar::mix, heads, weights, values);
    assert_eq!(mix(kernels.mix, heads, weights, values), want, "{case}");
}

#[test]
fn every_instruction_set_has_the_sums_of_scalar() {
    for size in SIZES {
        for heads in [1, 2, 3, 4, 5, 9] {
            for n in [0, 1, 2, 7] {
                let (queries, weights) = (numbers(heads * size, 1), numbers(heads * n, 3));
                let (keys, values) = (Rows::new(size, n, 2), Rows::new(size, n, 4));
                let floats = [&keys, &values].map(|rows| Plain::new(size, &rows.floats));
                let halves = [&keys, &values].map(|rows| Plain::new(size, &rows.halves));
                let q8 = [&keys, &values].map(|rows| Q8::new(size, &rows.integers, &rows.scales));
                for isa in Isa::available() {
                    let case = format!("{isa}: size {size}, {heads} heads, {n} keys");
                    let operands = (&queries[..], &weights[..]);
                    same_as_scalar(f32::select(isa), operands, floats, &format!("f32, {case}"));
                    same_as_scalar(f16::select(isa), operands, halves, &format!("f16, {case}"));
                    same_as_scalar(select_q8(isa), operands, q8, &format!("q8, {case}"));
                }
            }
        }
    }
}

#[test]
fn q8_widens_to_numbers_times_scales() {
    for size in SIZES {
        let rows = Rows::new(size, 5, 9);
        let groups = size.div_ceil(Q8_GROUP);
        let want: Vec<f32> = (0..5 * size)
            .map(|i| {
                let scale = rows.scales[i / size * groups + i % size / Q8_GROUP];
                f32::from(rows.integers[i]) * scale.to_f32()
            })
            .collect();
        for isa in Isa::available() {
            let mut got = vec![f32::NAN; 5 * size];
            (select_q8(isa).widen)(Q8::new(size, &rows.integers, &rows.scales), &mut got);
            assert_eq!(got, want, "{isa}, {size}");
        }
    }
}

#[test]
fn q8_is_within_half_a_step() {
    for size in SIZES {
        // From 0.001 to 4000, growing along the row.
        let x: Vec<f32> = (0..size)
            .map(|i| (i as f32 * 1.7).sin() * (i as f32 * 15.0 / size as f32 - 7.0).exp())
            .collect();
        let groups = size.div_ceil(Q8_GROUP);
        for isa in Isa::available() {
            let (mut q, mut scales) = (vec![0i8; size], vec![f16::ZERO; groups]);
            select_narrow_q8(isa)(&x, &mut q, &mut scales);
            for (group, x) in x.chunks(Q8_GROUP).enumerate() {
                let largest = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                let scale = scales[group].to_f64();
                // f16 has 11 bits, and below 2^-14 a step of 2^-24.
                let exact = f64::from(largest) / 127.0;
                let tolerance = exact / 2048.0 + 1.0 / f64::from(1 << 25);
                assert!((scale - exact).abs() <= tolerance, "{isa}, {size}");
                for (x, q) in x.iter().zip(&q[group * Q8_GROUP..]) {
                    // The largest may lie that much beyond 127 steps.
                    let most = scale / 2.0 * (1.0 + 1e-5) + 127.0 * tolerance;
                    let error = (f64::from(*x) - f64::from(*q) * scale).abs();
                    assert!(error <= most, "{isa}, {size}: {x} became {q} times {scale}");
                }
            }
        }
    }
}

#[test]
fn q8_of_special_numbers() {
    struct Case {
        x: [f32; 3],
        q: [i8; 3],
        scale: f32,
    }
    let cases = [
        Case { x: [0.0, -0.0, 0.0], q: [0; 3], scale: 0.0 },
        Case { x: [127.0, -63.5, 0.5], q: [127, -64, 0], scale: 1.0 },
        Case { x: [-254.0, 3.0, 1.0], q: [-127, 2, 0], scale: 2.0 },
        // Half of the smallest f16 steps.
        Case { x: [1e-7, -1e-7, 0.0], q: [0; 3], scale: 0.0 },
    ];
    for isa in Isa::available() {
        let narrow = |x: &[f32]| {
            let (mut q, mut scale) = ([1i8; 3], [f16::ONE]);
            select_narrow_q8(isa)(x, &mut q, &mut scale);
            (q, scale[0].to_f32())
        };
        for Case { x, q, scale } in &cases {
            assert_eq!(narrow(x), (*q, *scale), "{isa}: {x:?}");
        }
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
            let (q, scale) = narrow(&[x, 1.0, 2.0]);
            assert!(!(f32::from(q[0]) * scale).is_finite(), "{isa}: {x}");
        }
    }
}
