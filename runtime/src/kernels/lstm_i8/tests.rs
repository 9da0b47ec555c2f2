use super::*;
use crate::kernels::testing::{Fill, Output, Random, placed};
use crate::kernels::{ConvGeometry, conv_i8};

/// Random rows against matrices of random and extreme numbers, in panels on every instruction set and dense.
#[test]
fn sums_agree_with_the_formula() {
    let mut random = Random(91);
    for round in 0..if cfg!(miri) { 4 } else { 300 } {
        let k = if round % 4 == 0 { 1 + random.below(700) } else { 1 + random.below(40) };
        let n = 4 * (1 + random.below(50));
        let fill = random.pick(&[Fill::Any, Fill::Extremes, Fill::Lowest]);
        let (x, w) = (random.i8s(k, fill), random.i8s(k * n, fill));
        let bias: Vec<i32> =
            (0..n).map(|_| random.next() as i32 >> random.pick(&[0, 16])).collect();
        let want: Vec<i32> = (0..n)
            .map(|n| {
                let products =
                    x.iter().zip(&w[n * k..]).map(|(x, w)| i64::from(*x) * i64::from(*w));
                (i64::from(bias[n]) + products.sum::<i64>()) as i32
            })
            .collect();
        let g = ConvGeometry::matmul(1, k, n);
        let mut panels = vec![0; g.packed_i8_len()];
        conv_i8::pack_weights(&g, &w, &mut panels);
        let at = random.pick(&[0, 1, 3]);
        let run = |kernel: GateSumsFn, weights: &[i8]| {
            let mut sums = Output::new(n, at, 85);
            let (x, weights, bias) = (placed(&x, at), placed(weights, at), placed(&bias, at));
            kernel(&mut GateSums {
                x: &x[at..],
                weights: &weights[at..],
                bias: &bias[at..],
                sums: sums.get(),
            });
            sums.written()
        };
        for isa in Isa::available() {
            assert_eq!(run(select_sums(isa), &panels), want, "{k} × {n} on {isa}");
        }
        assert_eq!(run(gate_sums_dense, &w), want, "{k} × {n}, dense");
    }
    println!("instruction sets covered: {:?}", Isa::available().collect::<Vec<_>>());
}

#[test]
fn short_slices_are_refused() {
    let cases: [(usize, usize); 2] = [(63, 16), (64, 15)];
    for isa in Isa::available() {
        for (weights, bias) in cases {
            let (weights, bias) = (vec![0; weights], vec![0; bias]);
            let refused = std::panic::catch_unwind(|| {
                let mut sums = [0; 16];
                let (x, weights, bias) = (&[0; 3], &weights[..], &bias[..]);
                select_sums(isa)(&mut GateSums { x, weights, bias, sums: &mut sums });
            });
            assert!(refused.is_err(), "{isa}");
        }
    }
}
