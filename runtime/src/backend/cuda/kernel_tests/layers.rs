//! Cases of convolutions and layers, and weights in every order.

use super::Named;
use crate::dtype::DType::{self, F32, I8};
use crate::format::{ConvAttributes, Layout, Op, UnaryOp};
use crate::kernels::conv_f32::grouped::{GroupedBits, GroupedForm, ScaleKind};
use crate::kernels::{ConvGeometry, PANEL_N};
use crate::ops::testing::{Case, Random, Tensor, shape, tensor};

/// A convolution or layer: sizes as `[batch, height, width, channels]`.
#[derive(Clone, Copy)]
struct Conv {
    op: Op,
    x: [u32; 4],
    out_c: u32,
    kernel: u16,
    stride: u16,
    pad: u16,
    groups: u32,
    residual: bool,
    fixed_point: bool,
}

const POINTWISE: Conv = Conv {
    op: Op::Conv2d,
    x: [1, 5, 7, 12],
    out_c: 20,
    kernel: 1,
    stride: 1,
    pad: 0,
    groups: 1,
    residual: false,
    fixed_point: false,
};

impl Conv {
    fn y(&self) -> [u32; 4] {
        let out = |size: u32| {
            (size + 2 * u32::from(self.pad) - u32::from(self.kernel)) / u32::from(self.stride) + 1
        };
        [self.x[0], out(self.x[1]), out(self.x[2]), self.out_c]
    }

    fn attributes(&self) -> ConvAttributes {
        ConvAttributes {
            kernel: [self.kernel; 2],
            stride: [self.stride; 2],
            dilation: [1, 1],
            pad: [self.pad; 2],
            groups: self.groups,
            clamp: [-1.5, 2.0],
            clamp_q: [-120, 127],
            zero_point: -4,
            residual_scale: [0.7, 0.9],
            residual_clamp_q: [-100, 120],
            activation: if self.residual { UnaryOp::HardSwish as u32 } else { 0 },
            activation_affine: [1.5, -0.25],
            ..ConvAttributes::default()
        }
    }

    /// Length of vectors along channels, and inputs of an output.
    fn sizes(&self) -> (usize, usize) {
        let taps = usize::from(self.kernel).pow(2);
        if self.op == Op::DepthwiseConv2d {
            return ((self.out_c as usize).next_multiple_of(PANEL_N), taps);
        }
        let padded = ((self.out_c / self.groups) as usize).next_multiple_of(PANEL_N);
        (self.groups as usize * padded, taps * (self.x[3] / self.groups) as usize)
    }

    fn case(&self, dtype: DType, weights: Tensor, inputs: Vec<Option<Tensor>>, x: Tensor) -> Case {
        let y = as_quantized(shape(dtype, &self.y()));
        let mut case = Case::new(self.op, Some(dtype), self.attributes(), &[x, weights], y);
        case.inputs.extend(inputs);
        case
    }

    fn i8(&self, seed: u32) -> Case {
        let mut random = Random(seed);
        let (channels, k) = self.sizes();
        let (layout, rows) = match self.op {
            Op::DepthwiseConv2d => (Layout::Depthwise, k),
            _ => (Layout::PanelI8, k.next_multiple_of(4)),
        };
        let mut activations = |dims: &[u32]| {
            tensor(dims, &random.i8s(dims.iter().product::<u32>() as usize)).quantized(0.5, -7)
        };
        let (x, residual) = (activations(&self.x), activations(&self.y()));
        let vector = |values: Vec<i32>| Some(tensor(&[values.len() as u32], &values).constant());
        let bias = (0..channels).map(|_| random.below(4000) as i32 - 2000).collect();
        let scales: Vec<f32> =
            (0..channels).map(|_| 0.002 + random.below(99) as f32 * 1e-4).collect();
        let numbers = (0..channels)
            .flat_map(|_| [1 << 30 | random.below(1 << 29) as i32, -(random.below(9) as i32)]);
        let numbers = vector(numbers.collect()).filter(|_| self.fixed_point);
        let mut weights = random.i8s(channels * rows);
        // What lies beyond the inputs is 0, as the converter has it.
        if layout == Layout::PanelI8 {
            weights.iter_mut().enumerate().for_each(|(at, w)| {
                if at / 64 % (rows / 4) * 4 + at % 4 >= k {
                    *w = 0;
                }
            });
        }
        let weights = tensor(&[weights.len() as u32], &weights).packed(layout);
        let scales = Some(tensor(&[channels as u32], &scales).constant());
        let mut rest = vec![vector(bias), scales, None];
        if self.residual || self.fixed_point {
            rest.push(self.residual.then_some(residual));
        }
        if self.fixed_point {
            rest.push(numbers);
        }
        self.case(I8, weights, rest, x)
    }

    fn f32(&self, seed: u32, weights: impl FnOnce(&mut Random, usize, usize) -> Tensor) -> Case {
        let mut random = Random(seed);
        let (channels, k) = self.sizes();
        let mut activations =
            |dims: &[u32]| tensor(dims, &random.f32s(dims.iter().product::<u32>() as usize));
        let (x, residual) = (activations(&self.x), activations(&self.y()));
        let bias = tensor(&[channels as u32], &random.f32s(channels)).constant();
        let weights = weights(&mut random, channels, k);
        let mut rest = vec![Some(bias)];
        if self.residual {
            rest.push(Some(residual));
        }
        self.case(F32, weights, rest, x)
    }
}

/// With a scale and a zero point if it is i8.
pub(super) fn as_quantized(tensor: Tensor) -> Tensor {
    if tensor.dtype == I8 { tensor.quantized(0.5, 3) } else { tensor }
}

pub(super) fn halves(values: Vec<f32>) -> Vec<half::f16> {
    values.into_iter().map(half::f16::from_f32).collect()
}

pub(super) fn floats(layout: Layout) -> impl Fn(&mut Random, usize, usize) -> Tensor {
    move |random, channels, k| {
        let values: Vec<f32> = random.f32s(channels * k).iter().map(|w| w * 0.1).collect();
        tensor(&[values.len() as u32], &values).packed(layout)
    }
}

pub(super) fn half_floats(layout: Layout) -> impl Fn(&mut Random, usize, usize) -> Tensor {
    move |random, channels, k| {
        let values: Vec<f32> = random.f32s(channels * k).iter().map(|w| w * 0.1).collect();
        tensor(&[values.len() as u32], &halves(values)).packed(layout)
    }
}

/// In panels of pairs.
pub(super) fn pairs(random: &mut Random, channels: usize, k: usize) -> Tensor {
    let values = random.f32s(channels * k).into_iter().map(|w| half::bf16::from_f32(w * 0.1));
    let values: Vec<half::bf16> = values.collect();
    tensor(&[values.len() as u32], &values).packed(Layout::PanelFloat)
}

/// Weights in the smallest groups; any bytes are valid.
pub(super) fn grouped(layout: Layout, channels: usize, k: usize, random: &mut Random) -> Tensor {
    let form = GroupedForm::of(layout).unwrap();
    let group_size = form.bits.unit().max(16);
    let lens = form.lens(&ConvGeometry::matmul(1, k, channels), group_size);
    let mut bytes: Vec<u8> = (0..lens.words + lens.upper).map(|_| random.next() as u8).collect();
    for _ in 0..if form.has_mins { 2 } else { 1 } {
        let mut scales = |count: usize, most: f32| -> Vec<f32> {
            (0..count).map(|_| random.f32() * most).collect()
        };
        match form.scales {
            ScaleKind::F32 => {
                bytes.extend(scales(lens.scales, 0.01).iter().flat_map(|scale| scale.to_le_bytes()))
            }
            ScaleKind::F16 => bytes.extend(
                halves(scales(lens.scales, 0.01)).iter().flat_map(|scale| scale.to_le_bytes()),
            ),
            ScaleKind::I8 => {
                let factors = halves(scales(lens.factors, 0.0001));
                bytes.extend((0..lens.scales).map(|_| random.next() as u8));
                bytes.extend(factors.iter().flat_map(|factor| factor.to_le_bytes()));
            }
        }
    }
    let len = bytes.len() as u32;
    let plain = tensor(&[len], &bytes);
    Tensor { dtype: form.dtype(), group_size: group_size as u32, ..plain }.packed(layout)
}

pub(super) fn layers(cases: &mut Vec<Named>) {
    let deep = Conv { x: [2, 6, 7, 36], out_c: 33, kernel: 3, pad: 1, ..POINTWISE };
    let odd = Conv { x: [1, 9, 9, 5], out_c: 3, kernel: 3, stride: 2, pad: 1, ..POINTWISE };
    let wide = Conv { x: [1, 8, 9, 64], out_c: 130, ..POINTWISE };
    let groups = Conv { x: [1, 9, 9, 24], out_c: 48, kernel: 3, pad: 1, groups: 2, ..POINTWISE };
    let row = |rows: u32, k: u32, n: u32| Conv {
        op: Op::FullyConnected,
        x: [1, 1, rows, k],
        out_c: n,
        ..POINTWISE
    };
    let both = |conv: Conv| {
        [conv, Conv { residual: true, ..conv }, Conv { fixed_point: true, residual: true, ..conv }]
    };
    for (name, convs) in [
        (
            "conv_i8_dp4a",
            vec![POINTWISE, odd, row(9, 301, 17), Conv { x: [1, 5, 7, 6], ..POINTWISE }],
        ),
        (
            "conv_i8_mma",
            vec![deep, wide, groups, row(65, 70, 64), Conv { x: [1, 9, 9, 35], ..deep }],
        ),
        ("dense_i8_dp4a", vec![row(1, 640, 10), row(8, 33, 40), row(3, 4, 1)]),
    ] {
        for (seed, conv) in convs.into_iter().flat_map(both).enumerate() {
            cases.push((name, conv.i8(seed as u32 + 1)));
        }
    }
    let depthwise = |c: u32, kernel: u16, stride: u16| Conv {
        op: Op::DepthwiseConv2d,
        x: [2, 7, 5, c],
        out_c: c,
        kernel,
        stride,
        pad: kernel / 2,
        groups: c,
        ..POINTWISE
    };
    for conv in [depthwise(16, 3, 1), depthwise(7, 5, 2), depthwise(130, 1, 1)] {
        both(conv).iter().for_each(|conv| cases.push(("depthwise_i8", conv.i8(9))));
        for residual in [false, true] {
            let conv = Conv { residual, ..conv };
            cases.push(("depthwise_f32", conv.f32(3, floats(Layout::Depthwise))));
            cases.push(("depthwise_f32", conv.f32(4, half_floats(Layout::Depthwise))));
        }
    }
    for residual in [false, true] {
        for conv in [POINTWISE, odd, deep, wide, groups, row(70, 129, 65)] {
            let conv = Conv { residual, ..conv };
            cases.push(("conv_f32", conv.f32(5, floats(Layout::PanelFloat))));
            cases.push(("conv_f16", conv.f32(6, half_floats(Layout::PanelFloat))));
            if (conv.x[3] / conv.groups).is_multiple_of(2) {
                let fills_tiles = conv.out_c > POINTWISE.out_c;
                let name = if fills_tiles { "conv_bf16_mma" } else { "conv_bf16" };
                cases.push((name, conv.f32(8, pairs)));
            }
            for (name, layout) in [
                ("conv_w8", Layout::GroupedW8),
                ("conv_w4", Layout::GroupedW4),
                ("conv_w8", Layout::GroupedW8WideMin),
                ("conv_w4", Layout::GroupedW4Min),
                ("conv_w4", Layout::GroupedW4NarrowMin),
                ("conv_w5", Layout::GroupedW5),
                ("conv_w6", Layout::GroupedW6Narrow),
                ("conv_w4nl", Layout::GroupedW4Nl),
                ("conv_w4nl", Layout::GroupedW4NlNarrow),
            ] {
                cases.push((name, conv.f32(7, |r, channels, k| grouped(layout, channels, k, r))));
            }
        }
        for (rows, k, n) in [(64, 32, 17), (65, 70, 64), (131, 130, 100)] {
            let conv = Conv { residual, ..row(rows, k, n) };
            cases.push(("conv_bf16_mma", conv.f32(8, pairs)));
        }
        for (rows, k, n) in [(1, 640, 33), (1, 3, 1), (4, 129, 16), (7, 70, 40)] {
            let conv = Conv { residual, ..row(rows, k, n) };
            let one = rows == 1;
            let named = |one_row, four| if one { one_row } else { four };
            cases.push((
                named("dense_f32_1", "dense_f32_4"),
                conv.f32(5, floats(Layout::PanelFloat)),
            ));
            cases.push((
                named("dense_f16_1", "dense_f16_4"),
                conv.f32(6, half_floats(Layout::PanelFloat)),
            ));
            if k % 2 == 0 {
                cases.push((named("dense_bf16_1", "dense_bf16_4"), conv.f32(8, pairs)));
            }
            for form in GroupedForm::all() {
                let layout = form.layout().unwrap();
                let (one_row, four) = match form.bits {
                    GroupedBits::W8 => ("dense_w8_1", "dense_w8_4"),
                    GroupedBits::W4 => ("dense_w4_1", "dense_w4_4"),
                    GroupedBits::W5 => ("dense_w5_1", "dense_w5_4"),
                    GroupedBits::W6 => ("dense_w6_1", "dense_w6_4"),
                    GroupedBits::W4Nl => ("dense_w4nl_1", "dense_w4nl_4"),
                };
                let weights = |r: &mut Random, channels, k| grouped(layout, channels, k, r);
                cases.push((named(one_row, four), conv.f32(7, weights)));
            }
        }
    }
}
