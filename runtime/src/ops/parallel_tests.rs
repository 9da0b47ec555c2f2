//! Operators on several threads: the same bytes as on one, to the bit, floats as well.

use core::cell::Cell;
use std::time::Duration;
use std::vec::Vec;

use super::*;
use crate::format::{
    AttentionAttributes, AxisAttributes, BinaryAttributes, BinaryOp, ConvAttributes, Layout,
    MAX_RANK, MatMulAttributes, NormalizeAttributes, PoolAttributes, ResizeAttributes,
    SliceAttributes, SoftmaxAttributes, TransposeAttributes, UnaryAttributes, UnaryOp,
};
use crate::kernels::conv_f32::grouped::{GroupedForm, ScaleKind};
use crate::kernels::{ConvGeometry, PANEL_N, Packing};
use crate::ops::testing::{Case, Random, Tensor, bytes_of, shape, tensor};

std::thread_local! {
    /// Cuts every step as often as it can be, however short: small tests reach what large models do.
    pub(super) static EAGER: Cell<bool> = const { Cell::new(false) };
}

const THREADS: [usize; 5] = [1, 2, 3, 5, 16];

/// Compares thread counts on every instruction set; returns how often the step was cut.
fn assert_same(name: &str, case: &Case) -> usize {
    let mut cut = 0;
    for isa in Isa::available() {
        EAGER.set(false);
        let (want, parts) =
            case.run_threads(Some(isa), 1).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(parts, 1);
        EAGER.set(true);
        for threads in THREADS {
            let (got, parts) = case.run_threads(Some(isa), threads).unwrap();
            assert!(got == want, "{name} on {isa} with {threads} threads, {parts} parts");
            cut += usize::from(parts > 1);
        }
        EAGER.set(false);
    }
    cut
}

/// What weights a layer has.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Weights {
    F32,
    F16,
    Grouped(Layout),
    I8,
    CortexM,
}

/// Every kind of bits and of scales, with minima where there are such.
const GROUPED: [Weights; 6] = [
    Weights::Grouped(Layout::GroupedW8Min),
    Weights::Grouped(Layout::GroupedW4Min),
    Weights::Grouped(Layout::GroupedW5NarrowMin),
    Weights::Grouped(Layout::GroupedW6Narrow),
    Weights::Grouped(Layout::GroupedW6),
    Weights::Grouped(Layout::GroupedW4NlNarrow),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Residual {
    None,
    Apart,
    Over,
}

/// Sizes of x, NHWC.
struct Windows {
    x: [u32; 4],
    out_c: u32,
    kernel: [u16; 2],
    stride: [u16; 2],
    dilation: [u16; 2],
    pad: [u16; 2],
    groups: u32,
}

const POINT: Windows = Windows {
    x: [1, 1, 1, 1],
    out_c: 1,
    kernel: [1, 1],
    stride: [1, 1],
    dilation: [1, 1],
    pad: [0, 0],
    groups: 1,
};

fn layer(op: Op, w: &Windows, weights: Weights, residual: Residual, random: &mut Random) -> Case {
    let out = |axis: usize| {
        let reach = u32::from(w.dilation[axis]) * (u32::from(w.kernel[axis]) - 1) + 1;
        (w.x[axis + 1] + 2 * u32::from(w.pad[axis]) - reach) / u32::from(w.stride[axis]) + 1
    };
    let y = [w.x[0], out(0), out(1), w.out_c];
    let g = ConvGeometry {
        in_c: w.x[3] as usize,
        out_c: w.out_c as usize,
        kernel_h: usize::from(w.kernel[0]),
        kernel_w: usize::from(w.kernel[1]),
        groups: w.groups as usize,
        ..ConvGeometry::matmul(1, 1, 1)
    };
    let own = op == Op::DepthwiseConv2d;
    let integer = matches!(weights, Weights::I8 | Weights::CortexM);
    let padded_c = g.in_c.next_multiple_of(PANEL_N);
    let (channels, len) = match (own, weights) {
        (true, Weights::CortexM) => (g.in_c, g.k() * g.in_c),
        (true, _) => (padded_c, g.k() * padded_c),
        (false, Weights::I8) => (g.padded_out_c(), g.packed_i8_len()),
        (false, Weights::CortexM) => {
            (g.channels_len(Packing::CortexM), g.weights_i8_len(Packing::CortexM))
        }
        (false, _) => (g.padded_out_c(), g.packed_float_len()),
    };
    let halves = |random: &mut Random, len: usize| -> Vec<half::f16> {
        random.f32s(len).into_iter().map(half::f16::from_f32).collect()
    };
    let mut packed = match weights {
        Weights::F32 => tensor(&[len as u32], &random.f32s(len)),
        Weights::F16 => tensor(&[len as u32], &halves(random, len)),
        Weights::I8 | Weights::CortexM => tensor(&[len as u32], &random.i8s(len)),
        Weights::Grouped(layout) => {
            let form = GroupedForm::of(layout).unwrap();
            let lens = form.lens(&g, 32);
            let mut planes = tensor(&[0], &[0i8; 0]);
            let mut append = |random: &mut Random, bytes: usize, numbers: usize| {
                planes.bytes.extend(random.i8s(bytes).iter().map(|byte| *byte as u8));
                let numbers = halves(random, numbers);
                planes.bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            };
            append(random, lens.words + lens.upper, 0);
            for _ in 0..if form.has_mins { 2 } else { 1 } {
                match form.scales {
                    ScaleKind::I8 => append(random, lens.scales, lens.factors),
                    _ => append(random, 0, lens.scales),
                }
            }
            planes.dtype = form.dtype();
            planes.group_size = 32;
            planes
        }
    };
    packed.dims = std::vec![w.out_c, (g.k()) as u32];
    let packed = packed.packed(match (own, weights) {
        (_, Weights::CortexM) => Layout::CortexM,
        (true, _) => Layout::Depthwise,
        (_, Weights::I8) => Layout::PanelI8,
        (_, Weights::Grouped(layout)) => layout,
        _ => Layout::PanelFloat,
    });
    let activation = |dims: &[u32], random: &mut Random| match integer {
        true => tensor(dims, &random.i8s(count(dims))).quantized(0.5, 3),
        false => tensor(dims, &random.f32s(count(dims))),
    };
    let x = activation(&w.x, random);
    let one = [channels as u32];
    let mut inputs = match integer {
        true => std::vec![
            Some(x),
            Some(packed),
            Some(
                tensor(
                    &one,
                    &random.i8s(channels).iter().map(|x| i32::from(*x)).collect::<Vec<_>>()
                )
                .constant()
            ),
            Some(
                tensor(
                    &one,
                    &random
                        .f32s(channels)
                        .iter()
                        .map(|x| x.abs() * 0.002 + 1e-4)
                        .collect::<Vec<_>>()
                )
                .constant()
            ),
            None,
        ],
        false => {
            std::vec![Some(x), Some(packed), Some(tensor(&one, &random.f32s(channels)).constant())]
        }
    };
    if residual != Residual::None {
        inputs.push(Some(activation(&y, random)));
    }
    let dtype = if integer { DType::I8 } else { DType::F32 };
    let number = inputs.iter().flatten().count() - 1;
    Case {
        op,
        variant: Some(dtype),
        attributes: bytes_of(ConvAttributes {
            kernel: w.kernel,
            stride: w.stride,
            dilation: w.dilation,
            pad: w.pad,
            groups: w.groups,
            clamp: [-30.0, f32::INFINITY],
            clamp_q: [-128, 127],
            zero_point: -4,
            residual_scale: [0.7, 0.9],
            residual_clamp_q: [-100, 120],
            activation: if integer { 0 } else { UnaryOp::Silu as u32 },
            activation_affine: [1.5, -0.25],
            ..ConvAttributes::default()
        }),
        inputs,
        output: shape(dtype, &y).quantized(if integer { 0.5 } else { 0.0 }, 0),
        more_outputs: std::vec![],
        shared: (residual == Residual::Over).then_some((number, 0)),
    }
}

#[test]
fn convolutions() {
    let windows = [
        Windows { x: [1, 13, 11, 5], out_c: 37, kernel: [3, 3], pad: [1, 1], ..POINT },
        Windows {
            x: [1, 17, 9, 8],
            out_c: 20,
            kernel: [3, 3],
            stride: [2, 2],
            pad: [1, 1],
            ..POINT
        },
        Windows {
            x: [1, 20, 20, 3],
            out_c: 16,
            kernel: [5, 5],
            stride: [2, 2],
            dilation: [2, 2],
            pad: [4, 4],
            ..POINT
        },
        Windows { x: [3, 7, 9, 6], out_c: 12, kernel: [3, 3], pad: [1, 1], groups: 2, ..POINT },
        Windows { x: [1, 1, 130, 4], out_c: 24, kernel: [1, 5], pad: [0, 2], ..POINT },
        Windows {
            x: [1, 1, 130, 4],
            out_c: 24,
            kernel: [1, 4],
            stride: [1, 3],
            dilation: [1, 2],
            ..POINT
        },
        Windows { x: [1, 7, 7, 8], out_c: 96, ..POINT },
        Windows { x: [1, 14, 14, 24], out_c: 40, ..POINT },
        Windows { x: [2, 12, 13, 24], out_c: 40, ..POINT },
        Windows { x: [1, 5, 7, 16], out_c: 130, ..POINT },
        Windows { x: [1, 5, 7, 16], out_c: 130, kernel: [3, 3], pad: [1, 1], ..POINT },
        Windows { x: [1, 3, 3, 8], out_c: 150, kernel: [3, 3], ..POINT },
        Windows { x: [1, 26, 27, 130], out_c: 9, kernel: [3, 3], pad: [1, 1], ..POINT },
        // Whole rows of padding above and below.
        Windows { x: [1, 4, 12, 8], out_c: 33, kernel: [3, 3], pad: [5, 1], ..POINT },
    ];
    let (mut random, mut cut, mut all) = (Random(71), 0, 0);
    for (index, w) in windows.iter().enumerate() {
        for weights in
            [Weights::F32, Weights::F16, Weights::I8, Weights::CortexM].into_iter().chain(GROUPED)
        {
            for residual in [Residual::None, Residual::Apart, Residual::Over] {
                let case = layer(Op::Conv2d, w, weights, residual, &mut random);
                cut += assert_same(&std::format!("conv {index} {weights:?} {residual:?}"), &case);
                all += Isa::available().count() * (THREADS.len() - 1);
            }
        }
    }
    // Not cut: pairs for Cortex-M by channels, and integers where windows begin below the input.
    assert!(cut >= all * 8 / 10, "{cut} of {all}");
}

#[test]
fn fully_connected() {
    let (mut random, mut cut) = (Random(72), 0);
    for m in [1, 2, 7, 24, 47, 48, 49, 95, 100, 197] {
        for (k, n) in [(40, 150), (70, 33), (500, 64)] {
            let w = Windows { x: [m, 1, 1, k], out_c: n, ..POINT };
            for weights in [Weights::F32, Weights::F16, Weights::I8].into_iter().chain(GROUPED) {
                for residual in [Residual::None, Residual::Apart, Residual::Over] {
                    let case = layer(Op::FullyConnected, &w, weights, residual, &mut random);
                    cut += assert_same(
                        &std::format!("{m} × {k} × {n} {weights:?} {residual:?}"),
                        &case,
                    );
                }
            }
        }
    }
    assert!(cut > 0);
}

#[test]
fn depthwise() {
    let windows = [
        Windows { x: [1, 13, 11, 21], kernel: [3, 3], pad: [1, 1], ..POINT },
        Windows { x: [1, 14, 15, 32], kernel: [3, 3], stride: [2, 2], pad: [1, 1], ..POINT },
        Windows { x: [3, 9, 9, 17], kernel: [5, 5], pad: [2, 2], ..POINT },
        Windows { x: [1, 19, 9, 8], kernel: [3, 5], dilation: [3, 1], pad: [3, 2], ..POINT },
        Windows { x: [1, 3, 9, 8], kernel: [3, 3], pad: [2, 1], ..POINT },
        // The last windows begin below the input: whole.
        Windows { x: [1, 3, 9, 8], kernel: [3, 3], pad: [4, 1], ..POINT },
    ];
    let mut random = Random(73);
    for (index, w) in windows.iter().enumerate() {
        let w = Windows { out_c: w.x[3], groups: w.x[3], ..*w };
        for weights in [Weights::F32, Weights::F16, Weights::I8, Weights::CortexM] {
            for residual in [Residual::None, Residual::Apart] {
                let case = layer(Op::DepthwiseConv2d, &w, weights, residual, &mut random);
                let own =
                    assert_same(&std::format!("depthwise {index} {weights:?} {residual:?}"), &case);
                assert_eq!(own > 0, index + 1 < windows.len(), "depthwise {index} {weights:?}");
            }
        }
    }
}

fn count(dims: &[u32]) -> usize {
    dims.iter().product::<u32>() as usize
}

fn bytes(dims: &[u32], random: &mut Random) -> Tensor {
    tensor(dims, &random.i8s(count(dims))).quantized(0.5, 3)
}

fn floats(dims: &[u32], random: &mut Random) -> Tensor {
    tensor(dims, &random.f32s(count(dims)))
}

#[test]
fn products_and_attention() {
    let mut random = Random(74);
    // a, b, the product; transposed.
    let products: [([&[u32]; 3], [u32; 2]); 5] = [
        ([&[6, 40, 30], &[6, 30, 50], &[6, 40, 50]], [0, 0]),
        ([&[2, 3, 30, 17], &[3, 50, 30], &[2, 3, 17, 50]], [1, 1]),
        ([&[500, 70], &[70, 33], &[500, 33]], [0, 0]),
        ([&[723, 70], &[20, 70], &[723, 20]], [0, 1]),
        ([&[5, 1, 300], &[5, 300, 40], &[5, 1, 40]], [0, 0]),
    ];
    for (index, ([a, b, y], [transpose_a, transpose_b])) in products.into_iter().enumerate() {
        let attributes = MatMulAttributes { transpose_a, transpose_b, reserved: [0; 2] };
        let inputs = [floats(a, &mut random), floats(b, &mut random)];
        let case =
            Case::new(Op::MatMul, Some(DType::F32), attributes, &inputs, shape(DType::F32, y));
        assert!(assert_same(&std::format!("product {index}"), &case) > 0, "product {index}");
    }
    // Batch, heads, heads of keys, queries, keys, size, size of values.
    let sizes = [[1, 3, 3, 197, 197, 16, 8], [2, 4, 2, 5, 9, 8, 8], [1, 1, 1, 300, 40, 4, 4]];
    for (index, [b, hq, hk, m, n, d, dv]) in sizes.into_iter().enumerate() {
        for (causal, masked) in [(0, false), (1, false), (0, true)] {
            let attributes = AttentionAttributes { scale: 0.3, causal, ..Default::default() };
            let mut inputs = std::vec![
                floats(&[b, hq, m, d], &mut random),
                floats(&[b, hk, n, d], &mut random),
                floats(&[b, hk, n, dv], &mut random),
            ];
            if masked {
                inputs.push(floats(&[b, 1, m, n], &mut random));
            }
            let y = shape(DType::F32, &[b, hq, m, dv]);
            let case = Case::new(Op::Attention, Some(DType::F32), attributes, &inputs, y);
            let cut = assert_same(&std::format!("attention {index} {causal} {masked}"), &case);
            assert!(cut > 0, "attention {index}");
        }
    }
    for (index, [b, hq, hk, m, n, d, dv]) in sizes.into_iter().enumerate() {
        let attributes =
            AttentionAttributes { scale: 1e-4, output_scale: 0.7, ..Default::default() };
        let inputs = [
            bytes(&[b, hq, m, d], &mut random),
            bytes(&[b, hk, n, d], &mut random),
            bytes(&[b, hk, n, dv], &mut random),
            floats(&[b, 1, m, n], &mut random),
        ];
        let y = shape(DType::I8, &[b, hq, m, dv]);
        let case = Case::new(Op::Attention, Some(DType::I8), attributes, &inputs, y);
        let cut = assert_same(&std::format!("attention of i8 {index}"), &case);
        assert!(cut > 0, "attention of i8 {index}");
    }
}

#[test]
fn rows_and_elements() {
    let mut random = Random(75);
    let f32s = |op: Op, attributes: Vec<u8>, inputs: &[Tensor], y: &[u32]| Case {
        attributes,
        ..Case::new(
            op,
            Some(DType::F32),
            SoftmaxAttributes::default(),
            inputs,
            shape(DType::F32, y),
        )
    };
    let x = [7, 5, 90];
    for (axis, log) in [(2, 0), (1, 0), (2, 1)] {
        let attributes = SoftmaxAttributes { axis, log, ..Default::default() };
        let case = f32s(Op::Softmax, bytes_of(attributes), &[floats(&x, &mut random)], &x);
        assert!(assert_same("softmax", &case) > 0);
    }
    for (kind, axis) in [(1, 2), (2, 2), (1, 1)] {
        let attributes = NormalizeAttributes { kind, axis, epsilon: 1e-5, reserved: 0 };
        let own = &x[axis as usize..];
        let inputs = [floats(&x, &mut random), floats(own, &mut random), floats(own, &mut random)];
        assert!(
            assert_same("normalize", &f32s(Op::Normalize, bytes_of(attributes), &inputs, &x)) > 0
        );
    }
    let kinds = [UnaryOp::Relu, UnaryOp::Sigmoid, UnaryOp::Silu, UnaryOp::Tanh, UnaryOp::LeakyRelu];
    for kind in kinds {
        for over in [false, true] {
            let attributes =
                UnaryAttributes { kind: kind as u32, alpha: 0.1, beta: 1.0, reserved: 0 };
            let mut case = f32s(Op::Unary, bytes_of(attributes), &[floats(&x, &mut random)], &x);
            case.shared = over.then_some((0, 0));
            assert!(assert_same(&std::format!("unary {kind:?} {over}"), &case) > 0);
        }
    }
    // a, b and the result.
    let shapes: [[&[u32]; 3]; 8] = [
        [&x, &x, &x],
        [&x, &[1], &x],
        [&x, &[90], &x],
        [&x, &[5, 1], &x],
        [&[7, 1, 90], &[1, 5, 1], &x],
        [&[300, 300], &[300, 1], &[300, 300]],
        [&[1, 40, 60, 4], &[1, 1, 1, 4], &[1, 40, 60, 4]],
        [&[2, 5000], &[2, 1], &[2, 5000]],
    ];
    for kind in [BinaryOp::Add, BinaryOp::Mul] {
        for (index, [a, b, y]) in shapes.into_iter().enumerate() {
            let attributes = BinaryAttributes {
                kind: kind as u32,
                clamp: [f32::NEG_INFINITY, f32::INFINITY],
                ..Default::default()
            };
            let inputs = [floats(a, &mut random), floats(b, &mut random)];
            for over in [None, Some(0), Some(1)] {
                if over.is_some_and(|over| [a, b][over] != y) {
                    continue;
                }
                let mut case = f32s(Op::Binary, bytes_of(attributes), &inputs, y);
                case.shared = over.map(|over| (over, 0));
                let cut = assert_same(&std::format!("binary {kind:?} {index} {over:?}"), &case);
                assert!(cut > 0, "binary {index}");
            }
        }
    }
}

#[test]
fn rows_and_elements_of_i8() {
    let mut random = Random(76);
    let x = [7, 5, 90];
    let table: [i32; 256] = core::array::from_fn(|d| (1 << 22) >> (d / 8));
    let lut: Vec<i8> = random.i8s(256);
    let mut of = |op: Op, attributes: Vec<u8>, second: Tensor, over: Option<(usize, usize)>| {
        let values = random.i8s(x.iter().product::<u32>() as usize);
        let inputs = [tensor(&x, &values).quantized(0.1, 3), second];
        let y = shape(DType::I8, &x).quantized(1.0 / 256.0, -128);
        let case = Case::new(op, Some(DType::I8), SoftmaxAttributes::default(), &inputs, y);
        let case = Case { attributes, shared: over, ..case };
        assert!(assert_same(&std::format!("{op:?} {over:?}"), &case) > 0);
    };
    for axis in [1, 2] {
        let attributes =
            SoftmaxAttributes { axis, inverse_output_scale: 256.0, ..Default::default() };
        of(Op::Softmax, bytes_of(attributes), tensor(&[256], &table).constant(), None);
    }
    for over in [None, Some((0, 0))] {
        of(Op::Lut, Vec::new(), tensor(&[256], &lut).constant(), over);
        for kind in [BinaryOp::Add, BinaryOp::Mul] {
            let attributes = BinaryAttributes {
                kind: kind as u32,
                scale: [0.5, 0.25],
                clamp_q: [-128, 127],
                ..Default::default()
            };
            for b in [&x[..], &[90], &[5, 1]] {
                let values = tensor(b, &lut.repeat(13)[..b.iter().product::<u32>() as usize]);
                of(Op::Binary, bytes_of(attributes), values.quantized(0.2, -4), over);
            }
        }
    }
}

/// The decision itself: short steps stay whole, long ones get whole rounds, and nothing shrinks when a step grows.
#[test]
fn moves() {
    let mut random = Random(77);
    // Rows of 1 to 9 inputs, some without elements, of blocks and less.
    for sizes in [&[3][..], &[5, 0, 1], &[1, 2, 3, 4, 0, 6, 7, 8, 1]] {
        for (axis, before, behind) in [(2, [7, 5], 2), (1, [13, 1], 900), (1, [1, 1], 4)] {
            let dims = |size: u32| match axis {
                1 => vec![before[0], size, behind],
                _ => vec![before[0], before[1], size * behind],
            };
            let inputs: Vec<Tensor> =
                sizes.iter().map(|size| floats(&dims(*size), &mut random)).collect();
            let y = shape(DType::F32, &dims(sizes.iter().sum()));
            let attributes = AxisAttributes { axis, reserved: 0 };
            let cut = assert_same("concat", &Case::new(Op::Concat, None, attributes, &inputs, y));
            assert_eq!(cut > 0, before[0] > 1);
        }
    }
    let x = floats(&[6, 5, 20, 3], &mut random);
    for (perm, y) in [
        ([0, 2, 3, 1], [6, 20, 3, 5]),
        ([0, 3, 1, 2], [6, 3, 5, 20]),
        ([3, 0, 1, 2], [3, 6, 5, 20]),
        ([1, 0, 2, 3], [5, 6, 20, 3]),
        ([3, 2, 1, 0], [3, 20, 5, 6]),
        ([0, 1, 2, 3], [6, 5, 20, 3]),
    ] {
        let mut attributes = TransposeAttributes::default();
        attributes.perm[..4].copy_from_slice(&perm);
        let inputs = core::slice::from_ref(&x);
        let case = Case::new(Op::Transpose, None, attributes, inputs, shape(DType::F32, &y));
        assert!(assert_same("transpose", &case) > 0);
    }
    for (starts, steps, y) in [
        ([1, 2, 3, 0], [2, 1, 3, 1], [3, 2, 5, 3]),
        ([5, 4, 19, 2], [-2, -1, -4, -1], [3, 5, 5, 3]),
        ([0, 0, 0, 1], [1, 1, 1, 1], [6, 5, 20, 1]),
        ([0, 1, 0, 0], [1, 1, 1, 1], [6, 3, 20, 3]),
    ] {
        let mut attributes = SliceAttributes { starts: [0; 8], steps: [1; 8] };
        attributes.starts[..4].copy_from_slice(&starts);
        attributes.steps[..4].copy_from_slice(&steps);
        let inputs = core::slice::from_ref(&x);
        let case = Case::new(Op::Slice, None, attributes, inputs, shape(DType::F32, &y));
        assert!(assert_same("slice", &case) > 0);
    }
    let row = [floats(&[5, 1, 3], &mut random)];
    let expand = Case::new(Op::Expand, None, [0u8; 0], &row, shape(DType::F32, &[4, 5, 7, 3]));
    assert!(assert_same("expand", &expand) > 0);
    for (mode, scales, y) in [
        (1, [1.0, 2.0, 2.0, 1.0], [2, 10, 14, 9]),
        (2, [1.0, 2.0, 1.5, 1.0], [2, 10, 11, 9]),
        (3, [1.0, 0.5, 1.0, 1.0], [2, 3, 7, 9]),
        (2, [1.0, 1.0, 1.0, 2.0], [2, 5, 7, 18]),
    ] {
        let mut attributes = ResizeAttributes {
            mode,
            coordinates: 1,
            rounding: 1,
            cubic_coefficient: -0.75,
            scales: [1.0; MAX_RANK],
            ..Default::default()
        };
        attributes.scales[..4].copy_from_slice(&scales);
        let x = [2, 5, 7, 9];
        let input = [floats(&x, &mut random)];
        let floats =
            Case::new(Op::Resize, Some(DType::F32), attributes, &input, shape(DType::F32, &y));
        assert!(assert_same("resize", &floats) > 0);
        let input = [tensor(&x, &random.i8s(count(&x))).quantized(0.5, -20)];
        let y = shape(DType::I8, &y).quantized(0.5, -20);
        let integers = Case::new(Op::Resize, Some(DType::I8), attributes, &input, y);
        assert!(assert_same("resize i8", &integers) > 0);
    }
}

#[test]
fn pooling() {
    let mut random = Random(78);
    for (x, kernel, stride, pad, y) in [
        ([1, 10, 9, 21], [5, 5], [1, 1], [2, 2], [1, 10, 9, 21]),
        ([1, 13, 8, 70], [3, 2], [2, 2], [1, 0], [1, 7, 4, 70]),
        ([5, 4, 4, 3], [4, 4], [1, 1], [0, 0], [5, 1, 1, 3]),
    ] {
        for (kind, count_include_pad) in [(1, 0), (2, 0), (2, 1)] {
            let attributes = PoolAttributes {
                kind,
                kernel,
                stride,
                dilation: [1, 1],
                pad,
                pad_after: pad,
                count_include_pad,
                scale: 0.7,
                clamp_q: [-128, 127],
            };
            let values = random.f32s(count(&x));
            let f32s = [tensor(&x, &values)];
            let i8s = [tensor(&x, &random.i8s(count(&x))).quantized(0.5, 3)];
            let i16s: Vec<i16> = values.iter().map(|x| (x * 1e4) as i16).collect();
            let i16s = [tensor(&x, &i16s).quantized(0.5, 0)];
            for (dtype, inputs) in [(DType::F32, &f32s), (DType::I8, &i8s), (DType::I16, &i16s)] {
                let y = shape(dtype, &y).quantized(0.5, inputs[0].zero_point);
                let case = Case::new(Op::Pool2d, Some(dtype), attributes, inputs, y);
                assert!(assert_same(&std::format!("{dtype:?} {attributes:?}"), &case) > 0);
            }
        }
    }
}

#[test]
fn parts_of_a_step() {
    let of = |units: usize, ns: f32, threads: usize| {
        let rows = parts(Work { units, ns, is_by_rows: true }, threads);
        let parts = parts(Work { units, ns, is_by_rows: false }, threads);
        assert!(rows >= parts);
        parts
    };
    assert_eq!(of(1000, STEP_NS - 1.0, 16), 1);
    assert_eq!(of(1000, STEP_NS, 2), 2);
    assert_eq!(of(1000, STEP_NS, 16), 2);
    assert_eq!(of(1000, 1e9, 2), 2 * PARTS_PER_THREAD);
    // Three units on two threads take as long in two parts.
    assert_eq!(of(3, 1e9, 2), 2);
    assert_eq!(of(0, 1e9, 2), 0);
    assert_eq!(of(usize::MAX, f32::INFINITY, 64), 64);
    for threads in [2, 3, 16, 64] {
        let mut most = 0;
        for ns in (0..300).map(|i| i as f32 * 5e3) {
            let now = of(1000, ns, threads);
            assert!(now >= most, "{threads} threads, {ns} ns");
            most = now;
        }
    }
}

/// Many runs of a small model, on many sessions at once, with and without pauses: nothing hangs, nothing differs.
#[test]
fn sessions_at_once() {
    let (done, wait) = std::sync::mpsc::channel();
    for seed in 1..4u32 {
        let done = done.clone();
        std::thread::spawn(move || {
            let mut random = Random(seed * 77);
            let w = Windows { x: [1, 7, 7, 8], out_c: 16, kernel: [3, 3], pad: [1, 1], ..POINT };
            let case = layer(Op::Conv2d, &w, Weights::I8, Residual::None, &mut random);
            let want = case.run_bytes().unwrap();
            let file = case.file_with(&[]);
            let mut memory = std::vec![0u8; file.len() + 8];
            let start = memory.as_ptr().align_offset(8);
            memory[start..start + file.len()].copy_from_slice(&file);
            let model = crate::Model::open(&memory[start..start + file.len()]).unwrap();
            EAGER.set(true);
            let options = crate::Options { threads: 3, ..Default::default() };
            let mut session = crate::Session::new(model, options).unwrap();
            assert!(session.parts(0) > 1 && session.threads() == 3);
            let x = case.inputs[0].as_ref().unwrap();
            for run in 0..3400 {
                session.set_input_bytes(0, &x.bytes).unwrap();
                session.run().unwrap();
                assert!(session.output_bytes(0).unwrap() == want, "run {run}");
                if run % 500 == 0 {
                    std::thread::sleep(Duration::from_micros(300));
                }
            }
            drop(session);
            let _ = done.send(());
        });
    }
    for _ in 1..4 {
        wait.recv_timeout(Duration::from_secs(240)).expect("it hangs, or a thread panicked");
    }
}
