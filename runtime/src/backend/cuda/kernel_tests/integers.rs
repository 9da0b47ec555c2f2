//! Cases of layers and functions on i16, and of products, reductions and functions of whole numbers.

use super::sampling::random_i16;
use super::{Named, random_f32};
use crate::dtype::DType::{F32, I16, I32, I64};
use crate::format::{
    BinaryAttributes, ConvAttributes, Layout, MatMulAttributes, Op, PoolAttributes,
    QuantizeAttributes, ReduceAttributes, SoftmaxAttributes, UnaryAttributes,
};
use crate::ops::testing::{Case, Random, Tensor, shape, tensor};

/// Any bits, the ends among them.
fn random_i32(seed: u32, dims: &[u32]) -> Tensor {
    let mut random = Random(seed);
    let count = dims.iter().product::<u32>() as usize;
    let mut values: Vec<i32> = (0..count).map(|_| random.next() as i32).collect();
    values[..2].copy_from_slice(&[i32::MIN, i32::MAX]);
    tensor(dims, &values)
}

fn random_i64(seed: u32, dims: &[u32]) -> Tensor {
    let mut random = Random(seed);
    let count = dims.iter().product::<u32>() as usize;
    let mut value = || i64::from(random.next()) << 32 | i64::from(random.next());
    let mut values: Vec<i64> = (0..count).map(|_| value()).collect();
    values[..2].copy_from_slice(&[i64::MIN, i64::MAX]);
    tensor(dims, &values)
}

fn whole(cases: &mut Vec<Named>) {
    for transpose_a in [0, 1] {
        for transpose_b in [0, 1] {
            let attributes = MatMulAttributes { transpose_a, transpose_b, reserved: [0; 2] };
            let turned = |turn: u32, [rows, columns]: [u32; 2]| match turn {
                1 => [2, columns, rows],
                _ => [2, rows, columns],
            };
            let (a, b) = (turned(transpose_a, [37, 45]), turned(transpose_b, [45, 33]));
            let dims = [2, 37, 33];
            for (name, dtype, a, b) in [
                ("matmul_i32", I32, random_i32(1, &a), random_i32(2, &b)),
                ("matmul_i64", I64, random_i64(1, &a), random_i64(2, &b)),
            ] {
                let y = shape(dtype, &dims);
                let case = Case::new(Op::MatMul, Some(dtype), attributes, &[a, b], y);
                cases.push((name, case));
            }
        }
    }
    for axes in [0b1, 0b10, 0b111] {
        let keep = |axis: usize, size: u32| if axes >> axis & 1 == 1 { 1 } else { size };
        let (from, to) = ([4, 70, 3], [keep(0, 4), keep(1, 70), keep(2, 3)]);
        for kind in 1..=8 {
            let attributes =
                ReduceAttributes { kind, axes, scale: 0.8, clamp_q: [-3000, 3100], reserved: 0 };
            for (name, x) in
                [("reduce_i32", random_i32(3, &from)), ("reduce_i64", random_i64(4, &from))]
            {
                let y = shape(x.dtype, &to);
                cases.push((name, Case::new(Op::Reduce, Some(x.dtype), attributes, &[x], y)));
            }
            if (2..=4).contains(&kind) {
                let y = shape(I16, &to).quantized(0.4, 0);
                let x = random_i16(5, &from);
                let case = Case::new(Op::Reduce, Some(I16), attributes, &[x], y);
                cases.push(("reduce_i16", case));
            }
        }
    }
    for kind in [1, 2, 23, 24, 25, 41] {
        for (alpha, beta) in [(-1e9, 1e9), (f32::NEG_INFINITY, f32::INFINITY), (f32::NAN, 5.0)] {
            let attributes = UnaryAttributes { kind, alpha, beta, reserved: 0 };
            for (name, x) in
                [("unary_i32", random_i32(6, &[301])), ("unary_i64", random_i64(7, &[301]))]
            {
                let y = shape(x.dtype, &[301]);
                cases.push((name, Case::new(Op::Unary, Some(x.dtype), attributes, &[x], y)));
            }
        }
    }
    for kind in [2, 3] {
        let attributes = UnaryAttributes { kind, alpha: -900.5, beta: 1.75, reserved: 0 };
        let (x, y) = (random_i16(8, &[301]), shape(I16, &[301]).quantized(0.5, 0));
        cases.push(("unary_i16", Case::new(Op::Unary, Some(I16), attributes, &[x], y)));
    }
}

fn elementwise(cases: &mut Vec<Named>) {
    for kind in [1, 2, 3, 6, 7] {
        let attributes = BinaryAttributes {
            kind,
            scale: [0.6, 0.3],
            clamp_q: [-30_000, 32_767],
            ..BinaryAttributes::default()
        };
        let inputs = [random_i16(1, &[3, 4, 5]), random_i16(2, &[4, 1])];
        let y = shape(I16, &[3, 4, 5]).quantized(0.4, 0);
        cases.push(("binary_i16", Case::new(Op::Binary, Some(I16), attributes, &inputs, y)));
    }
    for intervals in [2u32, 512, 65_536] {
        let table = random_i16(3, &[intervals + 1]).constant();
        let inputs = [random_i16(4, &[700]), table];
        let y = shape(I16, &[700]);
        cases.push(("lut_i16", Case::new(Op::Lut, Some(I16), [0u8; 0], &inputs, y)));
    }
    let zero_points = tensor(&[3], &[-7i32, 200_000, 90]).constant();
    let channels = [tensor(&[3], &[0.1f32, 0.02, 0.7]).constant(), zero_points];
    let attributes = QuantizeAttributes { axis: 1, reserved: 0 };
    let dims = [2, 3, 90];
    for per_channel in [&[][..], &channels[..]] {
        let inputs = |x: Tensor| [&[x], per_channel].concat();
        let y = shape(I16, &dims).quantized(0.000_07, 0);
        let case = Case::new(Op::Quantize, Some(I16), attributes, &inputs(random_f32(5, &dims)), y);
        cases.push(("quantize_i16", case));
        for (name, x) in [
            ("dequantize_i16", random_i16(6, &dims)),
            ("dequantize_i32", random_i32(7, &dims).quantized(0.5, 0)),
        ] {
            let (dtype, y) = (Some(x.dtype), shape(F32, &dims));
            cases.push((name, Case::new(Op::Dequantize, dtype, attributes, &inputs(x), y)));
        }
    }
    let exponentials = |step: f64| {
        (0..256).map(move |d| ((-f64::from(d) * step).exp() * f64::from(1 << 30)) as i32)
    };
    let tables: Vec<i32> = exponentials(0.5).chain(exponentials(0.5 / 256.0)).collect();
    for (axis, dims) in [(1, [3, 300, 1]), (1, [2, 5, 7])] {
        let attributes =
            SoftmaxAttributes { axis, log: 0, inverse_output_scale: 32_768.0, reserved: 0 };
        let x = random_i16(8, &dims);
        let inputs = [x, tensor(&[512], &tables).constant()];
        let y = shape(I16, &dims).quantized(1.0 / 32_768.0, 0);
        cases.push(("softmax_i16", Case::new(Op::Softmax, Some(I16), attributes, &inputs, y)));
    }
    for kind in [1, 2] {
        let attributes = PoolAttributes {
            kind,
            kernel: [3, 2],
            stride: [2, 1],
            dilation: [1, 2],
            pad: [1, 1],
            pad_after: [1, 1],
            count_include_pad: kind % 2,
            scale: 0.7,
            clamp_q: [-30_000, 32_767],
        };
        let y = shape(I16, &[2, 3, 5, 19]).quantized(0.5, 0);
        let x = random_i16(9, &[2, 6, 5, 19]);
        cases.push(("pool_i16", Case::new(Op::Pool2d, Some(I16), attributes, &[x], y)));
    }
}

/// A layer: sizes as `[batch, height, width, channels]`.
fn layer(op: Op, x: [u32; 4], out_c: u32, kernel: u16, groups: u32, layout: Layout) -> Case {
    let mut random = Random(11);
    let attributes = ConvAttributes {
        kernel: [kernel; 2],
        stride: [1, 1],
        dilation: [1, 1],
        pad: [kernel / 2; 2],
        groups,
        clamp_q: [-30_000, 32_767],
        ..ConvAttributes::default()
    };
    let k = usize::from(kernel).pow(2) * (x[3] / groups) as usize;
    let padded = groups as usize * ((out_c / groups) as usize).next_multiple_of(16);
    let (channels, len) = match layout {
        Layout::Dense => (out_c as usize, out_c as usize * k),
        Layout::Depthwise => {
            let padded = (out_c as usize).next_multiple_of(16);
            (padded, padded * usize::from(kernel).pow(2))
        }
        _ => (padded, padded * k.next_multiple_of(4)),
    };
    let weights = tensor(&[len as u32], &random.i8s(len));
    let weights = if layout == Layout::Dense { weights.constant() } else { weights.packed(layout) };
    let mut large = || i64::from(random.next() as i32) << 8;
    let bias: Vec<i64> = (0..channels).map(|_| large()).collect();
    let scales: Vec<f32> = (0..channels).map(|at| 1e-7 * (at % 7 + 1) as f32).collect();
    let inputs = [
        random_i16(12, &x),
        weights,
        tensor(&[channels as u32], &bias).constant(),
        tensor(&[channels as u32], &scales).constant(),
    ];
    let y = shape(I16, &[x[0], x[1], x[2], out_c]).quantized(0.5, 0);
    Case::new(op, Some(I16), attributes, &inputs, y)
}

pub(super) fn integers(cases: &mut Vec<Named>) {
    whole(cases);
    elementwise(cases);
    for layout in [Layout::Dense, Layout::PanelI8] {
        cases.push(("conv_i16", layer(Op::Conv2d, [2, 6, 7, 9], 33, 3, 1, layout)));
        cases.push(("conv_i16", layer(Op::Conv2d, [1, 5, 5, 12], 34, 3, 2, layout)));
        cases.push(("conv_i16", layer(Op::FullyConnected, [1, 1, 9, 301], 17, 1, 1, layout)));
    }
    for channels in [16, 7, 130] {
        let x = [2, 7, 5, channels];
        let case = layer(Op::DepthwiseConv2d, x, channels, 3, channels, Layout::Depthwise);
        cases.push(("depthwise_i16", case));
    }
}
