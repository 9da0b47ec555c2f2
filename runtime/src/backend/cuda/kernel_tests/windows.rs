//! Cases of convolutions and poolings over up to three axes.

use super::{Named, random_f32, random_i8};
use crate::dtype::DType::{F32, I32, I64, U8};
use crate::format::{ConvNdAttributes, Op, PoolNdAttributes};
use crate::ops::testing::{Case, Random, Tensor, shape, tensor};

fn random_i32(seed: u32, dims: &[u32]) -> Tensor {
    let mut random = Random(seed);
    let count = dims.iter().product::<u32>();
    tensor(dims, &(0..count).map(|_| random.next() as i32).collect::<Vec<_>>())
}

pub(super) fn windows(cases: &mut Vec<Named>) {
    let attributes = ConvNdAttributes {
        stride: [1, 2, 1],
        dilation: [2, 1, 1],
        pad: [1, 2, 0],
        groups: 2,
        clamp: [-3.0, 4.0],
        reserved: [0; 2],
    };
    for (x, w, y) in [
        (vec![2, 9, 6], vec![10, 3, 3], vec![2, 7, 10]),
        (vec![1, 6, 7, 12], vec![4, 2, 3, 6], vec![1, 6, 5, 4]),
        (vec![2, 4, 5, 3, 6], vec![8, 2, 3, 2, 3], vec![2, 4, 4, 2, 8]),
    ] {
        let out = *y.last().unwrap();
        for (name, dtype, inputs) in [
            ("conv_nd_f32", F32, [random_f32(1, &x), random_f32(2, &w), random_f32(3, &[out])]),
            ("conv_nd_i32", I32, [random_i32(1, &x), random_i32(2, &w), random_i32(3, &[out])]),
        ] {
            for count in [2, 3] {
                let y = shape(dtype, &y);
                let case = Case::new(Op::ConvNd, Some(dtype), attributes, &inputs[..count], y);
                cases.push((name, case));
            }
        }
    }
    for (x, y) in [
        (vec![2, 9, 6], vec![2, 6, 6]),
        (vec![1, 6, 7, 12], vec![1, 4, 5, 12]),
        (vec![2, 4, 5, 3, 6], vec![2, 3, 4, 4, 6]),
    ] {
        for kind in 1..=3 {
            for (p, column_major) in [(1.0, 0), (2.0, 1), (3.5, 0)] {
                let spatial = x.len() - 2;
                let given = |values: [u32; 3]| {
                    let mut own = [0; 3];
                    own[..spatial].copy_from_slice(&values[..spatial]);
                    own
                };
                let attributes = PoolNdAttributes {
                    kind,
                    kernel: given([3, 2, 1]),
                    stride: given([2, 1, 1]),
                    dilation: given([1, 3, 1]),
                    pad: given([1, 1, 0]),
                    pad_after: given([3, 2, 1]),
                    count_include_pad: column_major,
                    p,
                    column_major,
                    reserved: 0,
                };
                let own = |input: Tensor| {
                    let y = shape(input.dtype, &y).quantized(input.scale, input.zero_point);
                    Case::new(Op::PoolNd, Some(input.dtype), attributes, &[input], y)
                };
                if kind > 1 {
                    let name = if kind == 2 { "average_pool_nd_f32" } else { "norm_pool_nd_f32" };
                    cases.push((name, own(random_f32(4, &x))));
                    continue;
                }
                let bytes = Tensor { dtype: U8, ..random_i8(6, &x) };
                for (name, input) in [
                    ("max_pool_nd_f32", random_f32(4, &x)),
                    ("pool_nd_i8", random_i8(5, &x)),
                    ("pool_nd_u8", bytes),
                ] {
                    cases.push((name, own(input.clone())));
                    cases.push((name, own(input).with_outputs(&[Some(shape(I64, &y))])));
                }
            }
        }
    }
}
