use super::*;
use crate::kernels::testing::Random;
use std::vec::Vec;

/// In 64 bits, where every step is exact but the division.
fn by_definition<T: Quantized>(by: &Affine, x: f32) -> i64 {
    let q = f64::from(x / by.scale).round_ties_even() + f64::from(by.zero_point);
    let q = if q.is_nan() { f64::from(T::LOWEST) } else { q };
    q.clamp(f64::from(T::LOWEST), f64::from(T::HIGHEST)) as i64
}

fn agrees<T: Affinely + core::fmt::Debug>(zero_points: &[i32]) {
    const STRANGE: [f32; 9] =
        [0.0, -0.0, 0.25, -0.25, 1e30, -1e30, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    let mut random = Random(77);
    for zero_point in zero_points.iter().copied() {
        for scale in [0.5, 0.0123, 3e-5, 40.0] {
            let by = Affine { scale, zero_point };
            for len in [0, 1, 15, 16, 17, 64, 131] {
                let x: Vec<f32> = (0..len)
                    .map(|i| match i % 6 {
                        5 => STRANGE[random.below(9)],
                        // On ties, too.
                        _ => (random.below(1201) as f32 - 600.0) * 0.5 * scale,
                    })
                    .collect();
                for isa in Isa::available() {
                    let mut q = std::vec![T::narrow(1); len];
                    T::select_quantize(isa)(&by, &x, &mut q);
                    let mut back = std::vec![0.0; len];
                    T::select_dequantize(isa)(&by, &q, &mut back);
                    for i in 0..len {
                        let want = by_definition::<T>(&by, x[i]);
                        assert_eq!(i64::from(q[i].widen()), want, "{isa} {by:?} {}", x[i]);
                        let want = (want - i64::from(zero_point)) as f32 * scale;
                        assert_eq!(back[i].to_bits(), want.to_bits(), "{isa} {by:?} {:?}", q[i]);
                    }
                }
            }
        }
    }
}

#[test]
fn every_isa_has_the_defined_numbers() {
    agrees::<i8>(&[0, -128, 127, 3, -65536, 65536]);
    agrees::<u8>(&[0, 128, 255, -7]);
    agrees::<i16>(&[0]);
}

#[test]
#[should_panic(expected = "lengths differ")]
fn lengths_that_differ_panic() {
    i8::select_quantize(Isa::Scalar)(&Affine { scale: 1.0, zero_point: 0 }, &[0.0], &mut []);
}
