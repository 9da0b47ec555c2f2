//! Cases of gathers, scatters, selection, running sums and sequences.

use super::{Named, counted, random_f32};
use crate::dtype::DType::{self, F16, F32, I8, I32, I64};
use crate::format::{
    AxisAttributes, CumulativeAttributes, GatherNdAttributes, Op, ScatterAttributes, TopKAttributes,
};
use crate::ops::testing::{Case, Random, Tensor, shape, tensor};

/// Small whole numbers, equal ones among them.
fn whole(seed: u32, dtype: DType, dims: &[u32]) -> Tensor {
    let mut random = Random(seed);
    let count = dims.iter().product::<u32>();
    let values: Vec<i64> = (0..count).map(|_| i64::from(random.below(9)) - 4).collect();
    match dtype {
        I8 => tensor(dims, &values.iter().map(|x| *x as i8).collect::<Vec<_>>()),
        I32 => tensor(dims, &values.iter().map(|x| *x as i32).collect::<Vec<_>>()),
        F32 => tensor(dims, &values.iter().map(|x| *x as f32).collect::<Vec<_>>()),
        _ => tensor(dims, &values),
    }
}

/// Indices of an axis, from either end.
fn indices(seed: u32, wide: bool, extent: u32, dims: &[u32]) -> Tensor {
    let mut random = Random(seed);
    let count = dims.iter().product::<u32>();
    let index = |_| random.below(2 * extent) as i32 - extent as i32;
    let values: Vec<i32> = (0..count).map(index).collect();
    match wide {
        true => tensor(dims, &values.iter().map(|x| i64::from(*x)).collect::<Vec<_>>()),
        false => tensor(dims, &values),
    }
}

/// Elements of any type.
fn any_type(cases: &mut Vec<Named>) {
    for (dtype, wide, names) in [
        (
            I8,
            false,
            [
                "gather_elements_1",
                "gather_nd_1",
                "scatter_elements_1",
                "scatter_nd_1",
                "reverse_sequence_1",
            ],
        ),
        (
            F16,
            true,
            [
                "gather_elements_2",
                "gather_nd_2",
                "scatter_elements_2",
                "scatter_nd_2",
                "reverse_sequence_2",
            ],
        ),
        (
            F32,
            false,
            [
                "gather_elements_4",
                "gather_nd_4",
                "scatter_elements_4",
                "scatter_nd_4",
                "reverse_sequence_4",
            ],
        ),
        (
            I64,
            true,
            [
                "gather_elements_8",
                "gather_nd_8",
                "scatter_elements_8",
                "scatter_nd_8",
                "reverse_sequence_8",
            ],
        ),
    ] {
        let x = counted(dtype, &[4, 6, 5]);
        for axis in 0..3 {
            let mut dims = [3, 5, 4];
            dims[axis] = 9;
            let ids = indices(axis as u32 + 1, wide, x.dims[axis], &dims);
            let attributes = AxisAttributes { axis: axis as u32, reserved: 0 };
            let y = shape(dtype, &dims);
            let inputs = [x.clone(), ids.clone()];
            cases.push((names[0], Case::new(Op::GatherElements, None, attributes, &inputs, y)));
            let attributes = ScatterAttributes { axis: axis as u32, reduction: 0 };
            let inputs = [x.clone(), ids, counted(dtype, &dims)];
            let y = shape(dtype, &x.dims);
            cases.push((names[2], Case::new(Op::ScatterElements, None, attributes, &inputs, y)));
        }
        for (batch_axes, dims, to) in [
            (0, vec![7, 2], vec![7, 5]),
            (1, vec![4, 3, 1], vec![4, 3, 5]),
            (0, vec![2, 0], vec![2, 4, 6, 5]),
            (0, vec![11, 3], vec![11]),
        ] {
            let ids = indices(7, wide, 4, &dims);
            let attributes = GatherNdAttributes { batch_axes, reserved: 0 };
            let y = shape(dtype, &to);
            let inputs = [x.clone(), ids.clone()];
            cases.push((names[1], Case::new(Op::GatherNd, None, attributes, &inputs, y)));
            if batch_axes == 0 {
                let attributes = ScatterAttributes::default();
                let inputs = [x.clone(), ids, counted(dtype, &to)];
                let y = shape(dtype, &x.dims);
                cases.push((names[3], Case::new(Op::ScatterNd, None, attributes, &inputs, y)));
            }
        }
        for time in [0, 1] {
            let most = x.dims[time as usize] as i64;
            let count = x.dims[1 - time as usize];
            let lengths: Vec<i64> = (0..i64::from(count)).map(|at| at % (most + 1)).collect();
            let lengths = match wide {
                true => tensor(&[count], &lengths),
                false => tensor(&[count], &lengths.iter().map(|x| *x as i32).collect::<Vec<_>>()),
            };
            let attributes = AxisAttributes { axis: time, reserved: 0 };
            let inputs = [x.clone(), lengths];
            let y = shape(dtype, &x.dims);
            cases.push((names[4], Case::new(Op::ReverseSequence, None, attributes, &inputs, y)));
        }
    }
}

pub(super) fn indexed(cases: &mut Vec<Named>) {
    any_type(cases);
    for (dtype, names) in [
        (F32, ["scatter_elements_f32", "scatter_nd_f32", "cumulative_f32"]),
        (I32, ["scatter_elements_i32", "scatter_nd_i32", "cumulative_i32"]),
        (I64, ["scatter_elements_i64", "scatter_nd_i64", "cumulative_i64"]),
    ] {
        let x = whole(1, dtype, &[4, 6, 5]);
        for reduction in 1..=4 {
            let attributes = ScatterAttributes { axis: 1, reduction };
            let ids = indices(2, true, 6, &[4, 9, 3]);
            let inputs = [x.clone(), ids, whole(3, dtype, &[4, 9, 3])];
            let y = shape(dtype, &x.dims);
            let variant = Some(dtype);
            cases.push((
                names[0],
                Case::new(Op::ScatterElements, variant, attributes, &inputs, y.clone()),
            ));
            let attributes = ScatterAttributes { axis: 0, reduction };
            for (dims, to) in [(vec![13, 2], vec![13, 5]), (vec![5, 0], vec![5, 4, 6, 5])] {
                let ids = indices(4, false, 4, &dims);
                let inputs = [x.clone(), ids, whole(5, dtype, &to)];
                let case = Case::new(Op::ScatterNd, variant, attributes, &inputs, y.clone());
                cases.push((names[1], case));
            }
        }
        for kind in [1, 2] {
            for (exclusive, reverse) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let attributes = CumulativeAttributes { axis: 1, kind, exclusive, reverse };
                let y = shape(dtype, &x.dims);
                let inputs = std::slice::from_ref(&x);
                let case = Case::new(Op::Cumulative, Some(dtype), attributes, inputs, y);
                cases.push((names[2], case));
            }
        }
    }
    let nan = tensor(&[2, 4, 1], &[1.0f32, f32::NAN, -0.0, 0.0, f32::INFINITY, 2.0, f32::NAN, 2.0]);
    for (name, dtype) in
        [("top_k_f32", F32), ("top_k_i8", I8), ("top_k_i32", I32), ("top_k_i64", I64)]
    {
        for smallest in [0, 1] {
            let attributes = TopKAttributes { axis: 1, smallest, reserved: [0; 2] };
            let mut all = vec![(whole(6, dtype, &[2, 40, 3]), 7), (whole(7, dtype, &[2, 3, 1]), 3)];
            if dtype == F32 {
                all.push((nan.clone(), 3));
                all.push((random_f32(8, &[1, 300, 2]), 300));
            }
            for (x, kept) in all {
                let mut dims = x.dims.clone();
                dims[1] = kept;
                let y = shape(dtype, &dims);
                let case = Case::new(Op::TopK, Some(dtype), attributes, &[x], y);
                cases.push((name, case.with_outputs(&[Some(shape(I64, &dims))])));
            }
        }
    }
}
