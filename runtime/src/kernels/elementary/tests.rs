//! Against f64, over all exponents, and against each other.

use super::*;
use crate::kernels::shapes::{Family, LENGTHS, OFFSETS};
use crate::kernels::testing::{Output, Random};

/// Every so many f32, as their bits have them, and the edges.
fn numbers() -> impl Iterator<Item = f32> {
    const STEP: usize = if cfg!(miri) { 20_999_999 } else { 49_999 };
    let edges = [0.0, -0.0, 1.0, -1.0, 88.722, 88.73, -87.0, -87.34, -103.9, -104.1, 0.625, 3.92];
    let specials = [f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, f32::MIN_POSITIVE];
    let all = (0..=u32::MAX).step_by(STEP).map(f32::from_bits).filter(|x| !x.is_nan());
    all.chain(edges).chain(specials)
}

/// Units in the last place of a result, those of the smallest normal number at least.
fn ulp(y: f64) -> f64 {
    let y = (y.abs() as f32).max(f32::MIN_POSITIVE);
    f64::from(f32::from_bits(y.to_bits() + 1)) - f64::from(y)
}

#[test]
fn errors_are_within_what_is_stated() {
    struct Case {
        function: Function,
        truth: fn(f64) -> f64,
        /// In units in the last place.
        ulps: f64,
        /// And this times |x|.
        of_x: f64,
        /// And this.
        more: f64,
    }
    let case = |function, truth: fn(f64) -> f64, ulps, of_x, more| Case {
        function,
        truth,
        ulps,
        of_x,
        more,
    };
    let sigmoid: fn(f64) -> f64 = |x| 1.0 / (1.0 + (-x).exp());
    let gelu_tanh: fn(f64) -> f64 = |x| {
        let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
        0.5 * x * (1.0 + inner.tanh())
    };
    let cases = [
        case(Function::Exp, f64::exp, 2.0, 0.0, 0.0),
        case(Function::Sigmoid, sigmoid, 3.0, 0.0, 1.7e-38),
        case(Function::Silu, |x| x / (1.0 + (-x).exp()), 4.0, 0.0, 2e-36),
        case(Function::Tanh, f64::tanh, 3.0, 0.0, 0.0),
        case(Function::Erf, libm::erf, 8.0, 0.0, 0.0),
        case(
            Function::Gelu,
            |x| 0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)),
            4.0,
            4e-7,
            0.0,
        ),
        case(Function::GeluTanh, gelu_tanh, 4.0, 3e-7, 0.0),
        case(Function::HardSwish, |x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0), 3.0, 2e-7, 0.0),
    ];
    for Case { function, truth, ulps, of_x, more } in cases {
        let (mut worst, mut at) = (0.0, 0.0);
        for x in numbers() {
            let mut y = [x];
            scalar::apply(function, &mut y);
            let want = truth(f64::from(x));
            let want = if want.is_nan() { 0.0 } else { want };
            let bound = ulps * ulp(want) + of_x * f64::from(x.abs()) + more;
            let got = f64::from(y[0]);
            if want.abs() > f64::from(f32::MAX) || got.is_infinite() {
                // Within the bound of the largest number either is right.
                assert!(got == want || want.abs() > 3.402_823e38, "{function:?}({x}) = {got}");
                continue;
            }
            let error = (got - want).abs() / bound;
            if error > worst {
                (worst, at) = (error, x);
            }
        }
        println!("{function:?}: {worst:.2} of the bound, at {at}");
        assert!(worst <= 1.0, "{function:?}: {worst} of the bound, at {at}");
        let mut nan = [f32::NAN];
        scalar::apply(function, &mut nan);
        assert!(nan[0].is_nan(), "{function:?}");
    }
}

#[test]
fn exponentials_sum_to_what_f64_says_and_are_0_far_below() {
    for len in [0, 1, 7, 8, 9, 16, 17, 32, 100] {
        let scores: Vec<f32> = (0..len).map(|i| ((i * 37) % 101) as f32 * -0.9 + 3.0).collect();
        let mask: Vec<f32> = (0..len + 3).map(|i| (i % 5) as f32 * -7.5).collect();
        for (scale, mask) in [(1.0, &[][..]), (0.5, &[]), (1.0, &mask), (1.75, &mask)] {
            let masked = |(i, x): (usize, &f32)| x * scale + mask.get(i).unwrap_or(&0.0);
            let x: Vec<f32> = scores.iter().enumerate().map(masked).collect();
            let mut y = scores.clone();
            let (sum, largest) = scalar::exponentials(&mut y, scale, mask);
            assert_eq!(largest, x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let mut want = 0.0;
            for (x, y) in x.iter().zip(&y) {
                let exact = f64::from(x - largest).exp();
                want += exact;
                let kept = if *x - largest < -87.0 { 0.0 } else { exact };
                assert!((f64::from(*y) - kept).abs() <= 2.0 * ulp(kept), "{x}: {y}");
            }
            assert!((f64::from(sum) - want).abs() <= 1e-5 * want, "{len}: {sum} {want}");
        }
    }
}

/// Every function and the exponentials of `x`, on every instruction set, against scalar.
fn check(x: &[f32], offset: usize) {
    let run = |kernel: &dyn Fn(&mut [f32])| {
        let mut y = Output::new(x.len(), offset, 12345.0);
        y.get().copy_from_slice(x);
        kernel(y.get());
        y.written()
    };
    let bits = |y: &f32| if y.is_nan() { f32::NAN.to_bits() } else { y.to_bits() };
    let same = |a: &[f32], b: &[f32]| a.iter().map(bits).eq(b.iter().map(bits));
    for isa in Isa::available() {
        for function in Function::ALL {
            let want = run(&|y| scalar::apply(function, y));
            let got = run(&|y| select(isa)(function, y));
            assert!(same(&want, &got), "{function:?} on {isa}");
        }
        let mask: Vec<f32> =
            x.iter().map(|x| if *x > 15.0 { f32::NEG_INFINITY } else { x * 0.5 }).collect();
        for (scale, mask) in [(1.0, &[][..]), (0.3, &[]), (0.3, &mask)] {
            let front = |kernel: ExponentialsFn| {
                let sums = core::cell::Cell::new((0.0, 0.0));
                let mut y = run(&|y| sums.set(kernel(y, scale, mask)));
                y.extend([sums.get().0, sums.get().1]);
                y
            };
            let (want, got) = (front(scalar::exponentials), front(select_exponentials(isa)));
            assert!(same(&want, &got), "exponentials of {} on {isa}", x.len());
        }
    }
}

const FAMILY: Family = Family {
    name: "elementary",
    fields: &[("len", LENGTHS), ("offset", OFFSETS)],
    work: |shape| 40 * shape.get("len"),
    check: |shape| {
        let mut random = Random(shape.seed);
        let x: Vec<f32> =
            (0..shape.get("len")).map(|_| random.below(40_000) as f32 / 1000.0 - 20.0).collect();
        check(&x, shape.get("offset"));
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
fn every_instruction_set_gives_the_same_bits() {
    let all: Vec<f32> = numbers().chain([f32::NAN]).collect();
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        for function in Function::ALL {
            let (mut want, mut got) = (all.clone(), all.clone());
            scalar::apply(function, &mut want);
            select(isa)(function, &mut got);
            let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits() && !a.is_nan();
            assert_eq!(want.iter().zip(&got).position(differs), None, "{function:?} on {isa}");
        }
        for len in [0, 1, 5, 8, 13, 64, 1000] {
            let row: Vec<f32> = (0..len).map(|i| ((i * 31) % 57) as f32 - 20.0).collect();
            let (mut want, mut got) = (row.clone(), row);
            let sums = (
                scalar::exponentials(&mut want, 1.0, &[]),
                select_exponentials(isa)(&mut got, 1.0, &[]),
            );
            assert_eq!((sums.0, want), (sums.1, got), "{len} on {isa}");
        }
    }
}
