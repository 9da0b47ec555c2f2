//! One suite for every instruction set.

use super::*;
use crate::kernels::testing::{Fill, Random};

#[test]
fn agrees_with_the_formula() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let strange = [f32::NAN, f32::INFINITY, -1e38, 0.0];
    for len in (0..20).chain([63, 64, 65, 200]) {
        for round in 0..20 {
            let scale = |random: &mut Random| match round {
                19 => random.pick(&strange),
                _ => (random.below(4000) as f32 - 1000.0) / 1000.0,
            };
            let to = AddI8 {
                zero_points: [random.pick(&[-128, 0, 127]), random.pick(&[-128, -3, 127])],
                scales: [scale(&mut random), scale(&mut random)],
                zero_point: random.pick(&[-128, 5, 127]),
                min: random.pick(&[-128, -20]),
                max: random.pick(&[60, 127]),
            };
            let fill = random.pick(&[Fill::Any, Fill::Extremes]);
            let (a, b) = (random.i8s(len, fill), random.i8s(len, fill));
            let expected: Vec<i8> = a
                .iter()
                .zip(&b)
                .map(|(a, b)| {
                    let real =
                        |x: i8, i: usize| (f32::from(x) - to.zero_points[i] as f32) * to.scales[i];
                    let sum = (real(*a, 0) + real(*b, 1)).round_ties_even();
                    // NaN ends at the lower bound.
                    let sum = if sum.is_nan() { i32::MIN } else { sum as i32 };
                    (sum.saturating_add(to.zero_point)).clamp(to.min, to.max) as i8
                })
                .collect();
            for isa in Isa::available() {
                let mut y = vec![0; len];
                select(isa)(&to, &a, &b, &mut y);
                assert!(y == expected, "{isa} differs for {to:?}");
            }
        }
    }
}
