//! Cases of resizes and of sampling.

use super::{Named, random_f32, random_i8};
use crate::dtype::DType::F32;
use crate::format::{AxisAttributes, Op, ResizeAttributes};
use crate::ops::testing::{Case, Random, Tensor, shape, tensor};

pub(super) fn random_i16(seed: u32, dims: &[u32]) -> Tensor {
    let mut random = Random(seed);
    let count = dims.iter().product::<u32>();
    let values: Vec<i16> = (0..count).map(|_| random.next() as i16).collect();
    tensor(dims, &values).quantized(0.5, 0)
}

pub(super) fn sampling(cases: &mut Vec<Named>) {
    for mode in 1..=3 {
        for coordinates in 1..=4 {
            for rounding in 1..=if mode == 1 { 4 } else { 2 } {
                // Two axes, the ones before and behind them as they are.
                let attributes = ResizeAttributes {
                    mode,
                    coordinates,
                    rounding,
                    cubic_coefficient: -0.75,
                    exclude_outside: rounding - 1,
                    scales: [1.0, 0.7, 1.6, 1.0, 1.0, 1.0, 1.0, 1.0],
                    reserved: 0,
                };
                let (from, to) = ([2, 7, 6, 5], [2, 5, 10, 5]);
                for (names, x) in [
                    (["nearest_4", "resize_f32"], random_f32(1, &from)),
                    (["nearest_1", "resize_i8"], random_i8(2, &from)),
                    (["nearest_2", "resize_i16"], random_i16(3, &from)),
                ] {
                    let name = if mode == 1 { names[0] } else { names[1] };
                    let y = shape(x.dtype, &to).quantized(x.scale, x.zero_point);
                    let dtype = Some(x.dtype);
                    cases.push((name, Case::new(Op::Resize, dtype, attributes, &[x], y)));
                }
            }
        }
    }
    // Volumes, and one axis behind all others.
    for (from, to, scales) in [
        ([3, 4, 2, 3], [5, 6, 4, 3], [1.7, 1.5, 2.0, 1.0]),
        ([3, 4, 2, 9], [3, 4, 2, 4], [1.0, 1.0, 1.0, 0.4]),
    ] {
        for mode in [2, 3] {
            let mut attributes = ResizeAttributes {
                mode,
                coordinates: 1,
                rounding: 0,
                cubic_coefficient: -0.5,
                exclude_outside: 0,
                scales: [1.0; 8],
                reserved: 0,
            };
            attributes.scales[..4].copy_from_slice(&scales);
            for (name, x) in
                [("resize_f32", random_f32(1, &from)), ("resize_i8", random_i8(2, &from))]
            {
                let y = shape(x.dtype, &to).quantized(x.scale, x.zero_point);
                cases.push((name, Case::new(Op::Resize, Some(x.dtype), attributes, &[x], y)));
            }
        }
    }
    let indices = tensor(&[4, 2], &[0i32, 1, 4, 4, 2, 0, 3, 1]).constant();
    let inputs = [random_f32(1, &[3, 5, 7]), indices, random_f32(2, &[4, 2]).constant()];
    let attributes = AxisAttributes { axis: 1, reserved: 0 };
    let y = shape(F32, &[3, 4, 7]);
    cases.push(("interpolate", Case::new(Op::Interpolate, Some(F32), attributes, &inputs, y)));
}
