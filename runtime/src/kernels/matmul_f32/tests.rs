//! Every float matrix product kernel against a naive one in f64, over one set of cases.

use super::super::conv_f32::lanes::{Array, Lanes};
use super::super::conv_f32::tests::{ARRAY_TILES, Random, UNTOUCHED, gamma};
use super::super::conv_f32::tile::TileKernel;
use super::*;
use crate::kernels::shapes::{Family, LENGTHS, OFFSETS};
use crate::kernels::testing::{Output, placed};

/// The kernels of the instruction sets' widths in plain Rust, so that all are covered on any CPU.
const ARRAY_KERNELS: [(&str, blocked::Kernels); 3] = [
    ("4 lanes", array_kernels::<Array<4>>(ARRAY_TILES[0].1)),
    ("8 lanes", array_kernels::<Array<8>>(ARRAY_TILES[1].1)),
    ("16 lanes", array_kernels::<Array<16>>(ARRAY_TILES[2].1)),
];

const fn array_kernels<L: Lanes>(tile: TileKernel) -> blocked::Kernels {
    blocked::Kernels { tile, dots: blocked::dots::<L>, weighted_rows: blocked::weighted_rows::<L> }
}

/// Runs one product, with every transposition, on every kernel that can run here.
fn check_all(m: usize, k: usize, n: usize, offset: usize, seed: u64) {
    let mut random = Random::new(seed);
    let (a, b) = (random.fine_numbers(m * k), random.fine_numbers(k * n));
    let transposed = |x: &[f32], rows: usize, cols: usize| -> Vec<f32> {
        (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect()
    };
    let (a_transposed, b_transposed) = (transposed(&a, m, k), transposed(&b, k, n));
    let (a_transposed, b_transposed) =
        (placed(&a_transposed, offset), placed(&b_transposed, offset));
    let expected: Vec<(f64, f64)> = (0..m * n)
        .map(|at| {
            let (i, j) = (at / n, at % n);
            let terms = (0..k).map(|l| a[i * k + l] as f64 * b[l * n + j] as f64);
            (terms.clone().sum(), gamma(k) * terms.map(f64::abs).sum::<f64>())
        })
        .collect();

    let (a, b) = (placed(&a, offset), placed(&b, offset));
    for (trans_a, trans_b) in [(false, false), (false, true), (true, false), (true, true)] {
        let check = |name: &str, kernel: &dyn Fn(&mut MatMulF32<'_>)| {
            let mut output = Output::new(m * n, offset, UNTOUCHED);
            kernel(&mut MatMulF32 {
                m,
                k,
                n,
                a: &if trans_a { &a_transposed } else { &a }[offset..],
                b: &if trans_b { &b_transposed } else { &b }[offset..],
                output: output.get(),
                trans_a,
                trans_b,
            });
            for (at, (&y, &(expected, tolerance))) in
                output.written().iter().zip(&expected).enumerate()
            {
                assert!(
                    (y as f64 - expected).abs() <= tolerance,
                    "{name}, {m} × {k} × {n}, transposed {trans_a} {trans_b}, element {at}: {y}, expected {expected}"
                );
            }
        };
        for isa in Isa::available() {
            check(isa.name(), &select(isa));
        }
        for (name, kernels) in ARRAY_KERNELS {
            // SAFETY: plain Rust needs no instruction set.
            check(name, &|args| unsafe { blocked::matmul_f32_blocked(args, kernels) });
        }
    }
}

const FAMILY: Family = Family {
    name: "matmul_f32",
    fields: &[("m", LENGTHS), ("k", LENGTHS), ("n", LENGTHS), ("offset", OFFSETS)],
    work: |shape| 20 * shape.get("m") * shape.get("k") * shape.get("n"),
    check: |shape| {
        let [m, k, n] = ["m", "k", "n"].map(|name| shape.get(name));
        check_all(m, k, n, shape.get("offset"), shape.seed);
    },
};

#[test]
fn kept_shapes() {
    FAMILY.replay();
}

#[test]
#[ignore = "a search"]
fn search_shapes() {
    FAMILY.search();
}

#[test]
fn small_sizes() {
    for m in [0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 25] {
        for k in [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 33] {
            for n in [0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48] {
                check_all(m, k, n, (m + k + n) % 3, (m * 10000 + k * 100 + n) as u64);
            }
        }
    }
    println!("instruction sets covered: {:?}", Isa::available().collect::<Vec<_>>());
}

#[test]
fn blocks() {
    for (m, k, n) in [
        (5, 255, 20),
        (13, 256, 32),
        (7, 257, 33),
        (3, 600, 64),
        (1, 513, 100),
        (241, 258, 17),
        (490, 3, 5),
        (2, 5, 300),
    ] {
        check_all(m, k, n, k % 2, k as u64);
    }
}

#[test]
fn short_slices_panic() {
    for cut in 0..3 {
        for isa in Isa::available() {
            let refused = std::panic::catch_unwind(|| {
                let len = |i: usize, len: usize| len - usize::from(cut == i);
                select(isa)(&mut MatMulF32 {
                    m: 7,
                    k: 8,
                    n: 9,
                    a: &vec![0.0; len(0, 56)],
                    b: &vec![0.0; len(1, 72)],
                    output: &mut vec![0.0; len(2, 63)],
                    trans_a: false,
                    trans_b: false,
                });
            });
            assert!(refused.is_err(), "{isa} accepted a short slice, number {cut}");
        }
    }
}
