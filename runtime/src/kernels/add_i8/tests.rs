//! One suite for every instruction set.

use super::*;
use crate::kernels::shapes::{Family, LENGTHS, OFFSETS};
use crate::kernels::testing::{Fill, Output, Random, UNTOUCHED, placed};

/// Adds `len` elements by random numbers, in the last round strange ones.
fn check(len: usize, offset: usize, random: &mut Random) {
    let strange = [f32::NAN, f32::INFINITY, -1e38, 0.0];
    for round in 0..20 {
        let scale = |random: &mut Random| match round {
            19 => random.pick(&strange),
            _ => (random.below(4000) as f32 - 1000.0) / 1000.0,
        };
        let to = AddI8 {
            zero_points: [random.pick(&[-128, 0, 127]), random.pick(&[-128, -3, 127])],
            scales: [scale(random), scale(random)],
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
        let (a, b) = (placed(&a, offset), placed(&b, offset));
        for isa in Isa::available() {
            let mut y = Output::new(len, offset, UNTOUCHED);
            select(isa)(&to, &a[offset..], &b[offset..], y.get());
            assert!(y.written() == expected, "{isa} differs for {to:?}");
        }
    }
}

const FAMILY: Family = Family {
    name: "add_i8",
    fields: &[("len", LENGTHS), ("offset", OFFSETS)],
    work: |shape| 20 * shape.get("len"),
    check: |shape| check(shape.get("len"), shape.get("offset"), &mut Random(shape.seed)),
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
fn agrees_with_the_formula() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for len in (0..20).chain([63, 64, 65, 200]) {
        check(len, len % 3, &mut random);
    }
}
