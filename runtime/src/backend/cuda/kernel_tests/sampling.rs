//! Cases of resizes and of sampling.

use super::{Named, random_f32, random_i8};
use crate::dtype::DType::{F32, I64};
use crate::format::{
    AxisAttributes, GridSampleAttributes, NonMaxSuppressionAttributes, Op, ResizeAttributes,
    RoiAlignAttributes,
};
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
    grid_sample(cases);
    boxes(cases);
}

fn grid_sample(cases: &mut Vec<Named>) {
    for (x, places) in [
        (vec![2, 3, 9], vec![5]),
        (vec![2, 3, 5, 7], vec![4, 6]),
        (vec![1, 2, 3, 4, 5], vec![3, 2, 4]),
    ] {
        let grid: Vec<u32> = [&x[..1], &places, &[places.len() as u32]].concat();
        let y: Vec<u32> = [&x[..2], &places].concat();
        for mode in 1..=3 {
            for padding in 1..=3 {
                for align_corners in [0, 1] {
                    let attributes =
                        GridSampleAttributes { mode, padding, align_corners, reserved: 0 };
                    let inputs = [random_f32(1, &x), random_f32(2, &grid)];
                    let y = shape(F32, &y);
                    let case = Case::new(Op::GridSample, Some(F32), attributes, &inputs, y);
                    cases.push(("grid_sample", case));
                }
            }
        }
    }
}

fn boxes(cases: &mut Vec<Named>) {
    // Corners within and around an image of 9 × 11.
    let mut random = Random(5);
    let regions: Vec<f32> = (0..20).map(|at| at as f32 % 4.0 * 3.0 + random.f32() * 3.0).collect();
    for (mode, sampling_ratio, half_pixel) in [(1, 0, 0), (1, 2, 1), (2, 0, 1), (2, 3, 0)] {
        let attributes = RoiAlignAttributes {
            mode,
            sampling_ratio,
            spatial_scale: 0.9,
            half_pixel,
            reserved: [0; 2],
        };
        let x = random_f32(6, &[2, 3, 9, 11]);
        let images = tensor(&[5], &[0i64, 1, 1, 0, 1]);
        let narrow = tensor(&[5], &[0i32, 1, 1, 0, 1]);
        for images in [images, narrow] {
            let inputs = [x.clone(), tensor(&[5, 4], &regions), images];
            let y = shape(F32, &[5, 3, 2, 4]);
            let case = Case::new(Op::RoiAlign, Some(F32), attributes, &inputs, y);
            cases.push(("roi_align", case));
        }
    }
    for (count, most) in [(7, 3), (400, 60), (400, 400)] {
        for (center_point_box, has_score_threshold) in [(0, 1), (1, 0)] {
            let attributes = NonMaxSuppressionAttributes {
                most_per_class: most,
                iou_threshold: 0.3,
                score_threshold: -0.5,
                has_score_threshold,
                center_point_box,
                reserved: 0,
            };
            let scores: Vec<f32> = Random(7)
                .f32s(2 * 3 * count as usize)
                .iter()
                .enumerate()
                // Equal ones, and some that are none.
                .map(|(at, x)| if at % 41 == 5 { f32::NAN } else { (x * 8.0).round() / 8.0 })
                .collect();
            let inputs = [random_f32(8, &[2, count, 4]), tensor(&[2, 3, count], &scores)];
            let y = shape(I64, &[2 * 3 * most.min(count), 3]);
            let op = Op::NonMaxSuppression;
            for name in ["suppress_boxes", "join_boxes"] {
                let case = Case::new(op, Some(F32), attributes, &inputs, y.clone());
                cases.push((name, case));
            }
        }
    }
}
