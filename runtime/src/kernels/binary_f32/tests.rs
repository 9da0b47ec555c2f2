use super::*;
use crate::kernels::testing::Random;
use std::vec::Vec;

/// The definitions, one element at a time.
fn by_definition(to: &BinaryF32, a: f32, b: f32) -> f32 {
    let nan = a.is_nan() || b.is_nan();
    let y = match to.arithmetic {
        Arithmetic::Add => a + b,
        Arithmetic::Sub => a - b,
        Arithmetic::Mul => a * b,
        Arithmetic::Div => a / b,
        Arithmetic::Min if nan => f32::NAN,
        Arithmetic::Max if nan => f32::NAN,
        Arithmetic::Min => a.min(b),
        Arithmetic::Max => a.max(b),
        Arithmetic::PRelu if a < 0.0 => a * b,
        Arithmetic::PRelu => a,
    };
    if y.is_nan() { y } else { y.max(to.min).min(to.max) }
}

#[test]
fn every_isa_has_the_defined_bits() {
    const STRANGE: [f32; 8] =
        [0.0, 1.0, -1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MIN_POSITIVE, f32::MAX];
    let mut random = Random(31);
    let mut operand = |len: usize| -> Vec<f32> {
        (0..len)
            .map(|i| {
                if i % 5 == 3 {
                    STRANGE[random.below(8)]
                } else {
                    (random.below(4001) as f32 - 2000.0) / 700.0
                }
            })
            .collect()
    };
    for len in [0, 1, 7, 8, 9, 64, 131] {
        let (a, b) = (operand(len), operand(len));
        for arithmetic in Arithmetic::ALL {
            for (min, max) in [(f32::NEG_INFINITY, f32::INFINITY), (0.0, 0.5)] {
                let to = BinaryF32 { arithmetic, min, max };
                for isa in Isa::available() {
                    let mut y = std::vec![7.0; len];
                    select(isa)(&to, &a, &b, &mut y);
                    for i in 0..len {
                        let want = by_definition(&to, a[i], b[i]);
                        let same =
                            y[i].to_bits() == want.to_bits() || y[i].is_nan() && want.is_nan();
                        // The smaller of +0 and -0 may be either.
                        let same = same || y[i] == 0.0 && want == 0.0;
                        assert!(same, "{isa} {to:?} {} {}: {} is not {want}", a[i], b[i], y[i]);
                    }
                }
            }
        }
    }
}
