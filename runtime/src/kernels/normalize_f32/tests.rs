use super::{NormalizeF32, select};
use crate::Isa;
#[cfg(not(feature = "std"))]
use std::vec::Vec;

fn numbers(len: usize, seed: usize) -> Vec<f32> {
    let hash = |i: usize| (i + seed).wrapping_mul(0x9e37_79b9) as u32 >> 9;
    (0..len).map(|i| hash(i) as f32 / 2.0f32.powi(21) - 2.0).collect()
}

/// The definition, sums in the stated order.
fn defined(by: &NormalizeF32<'_>, x: &[f32]) -> Vec<f32> {
    let sum = |f: &dyn Fn(f32) -> f32| {
        let mut lanes = [0.0; 16];
        x.iter().enumerate().for_each(|(i, x)| lanes[i % 16] += f(*x));
        for half in [8, 4, 2, 1] {
            (0..half).for_each(|i| lanes[i] += lanes[i + half]);
        }
        lanes[0]
    };
    let n = x.len() as f32;
    let mean = if by.centred { sum(&|x| x) / n } else { 0.0 };
    let variance = sum(&|x| (x - mean) * (x - mean)) / n;
    let factor = 1.0 / (variance + by.epsilon).sqrt();
    let scaled = |(i, x): (usize, &f32)| {
        let y = (x - mean) * factor;
        let y = by.scale.get(i).map_or(y, |scale| y * scale);
        by.bias.get(i).map_or(y, |bias| y + bias)
    };
    x.iter().enumerate().map(scaled).collect()
}

#[test]
fn rows_together_are_the_definition_bit_for_bit() {
    let lens: &[usize] = if cfg!(miri) { &[1, 17] } else { &[1, 2, 15, 16, 17, 48, 100, 384] };
    for (row, count) in lens.iter().flat_map(|row| [1, 3, 4, 5, 8, 11].map(|count| (*row, count))) {
        let (x, scale, bias) = (numbers((count + 2) * row, 1), numbers(row, 2), numbers(row, 3));
        let forms: [(&[f32], &[f32]); 4] =
            [(&scale, &bias), (&scale, &[]), (&[], &bias), (&[], &[])];
        for ((scale, bias), centred) in forms.into_iter().flat_map(|f| [(f, true), (f, false)]) {
            let by = NormalizeF32 { row, centred, epsilon: 1e-5, scale, bias };
            let want: Vec<f32> =
                x.chunks_exact(row).take(count).flat_map(|x| defined(&by, x)).collect();
            for isa in Isa::available() {
                let mut y = vec![f32::NAN; count * row];
                select(isa)(&by, &x, &mut y);
                let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&y), bits(&want), "{count} x {row} {by:?} on {isa}");
            }
        }
    }
}
