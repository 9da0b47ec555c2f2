//! One suite for every instruction set.

use super::*;
use crate::kernels::testing::{Fill, Output, Random, UNTOUCHED, placed};

/// Straight from the formulas, with the library's rounding.
fn oracle(to: &BinaryI8, a: i8, b: i8) -> i8 {
    let (a, b) = (i32::from(a) - to.zero_points[0], i32::from(b) - to.zero_points[1]);
    let (ra, rb) = (a as f32 * to.scales[0], b as f32 * to.scales[1]);
    let t = match to.arithmetic {
        Arithmetic::Sub => ra - rb,
        Arithmetic::Mul => (a * b) as f32 * to.scales[0],
        Arithmetic::Min => [ra, rb][usize::from(rb < ra)],
        Arithmetic::Max => [ra, rb][usize::from(rb > ra)],
    };
    // NaN ends at the lower bound.
    let t = if t.is_nan() { i32::MIN } else { t.round_ties_even() as i32 };
    t.saturating_add(to.zero_point).clamp(to.min, to.max) as i8
}

#[test]
fn agrees_with_the_formulas() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let strange = [f32::NAN, f32::INFINITY, -1e38, 0.0];
    for len in (0..20).chain([63, 64, 65, 200]) {
        for arithmetic in [Arithmetic::Sub, Arithmetic::Mul, Arithmetic::Min, Arithmetic::Max] {
            for round in 0..10 {
                let scale = |random: &mut Random| match round {
                    9 => random.pick(&strange),
                    _ => (random.below(4000) as f32 - 1000.0) / 1000.0,
                };
                let small = if arithmetic == Arithmetic::Mul { 0.02 } else { 1.0 };
                let to = BinaryI8 {
                    arithmetic,
                    zero_points: [random.pick(&[-128, 0, 127]), random.pick(&[-128, -3, 127])],
                    scales: [scale(&mut random) * small, scale(&mut random)],
                    zero_point: random.pick(&[-128, 5, 127]),
                    min: random.pick(&[-128, -20]),
                    max: random.pick(&[60, 127]),
                };
                let fill = random.pick(&[Fill::Any, Fill::Extremes]);
                let (a, b) = (random.i8s(len, fill), random.i8s(len, fill));
                let want: Vec<i8> = a.iter().zip(&b).map(|(a, b)| oracle(&to, *a, *b)).collect();
                let offset = len % 3;
                let (a, b) = (placed(&a, offset), placed(&b, offset));
                for isa in Isa::available() {
                    let mut y = Output::new(len, offset, UNTOUCHED);
                    select(isa)(&to, &a[offset..], &b[offset..], y.get());
                    assert!(y.written() == want, "{isa} differs for {to:?}");
                }
            }
        }
    }
}
