//! Float kernels: layers of MLPerf Tiny, MobileNet, ResNet-50, VGG and of attention in MiniLM.

use std::hint::black_box;

use half::{bf16, f16};
use whit::kernels::conv_f32::{self, ConvF32, Stored};
use whit::kernels::depthwise_f32::{self, DepthwiseF32};
use whit::kernels::matmul_f32::{self, MatMulF32};
use whit::kernels::{ConvGeometry, EpilogueF32, FloatWeights, PanelWeights};
use whit::{DType, Isa};

use super::{Aligned, Call, depthwise, floats, macs, same};

pub(super) fn calls() -> Vec<Call> {
    let convolutions = [
        ("kws/pointwise 64-64", ConvGeometry::matmul(125, 64, 64)),
        ("ic/3x3 16-16", same((32, 32, 16), 16, (3, 3), 1)),
        ("ic/3x3 64-64", same((8, 8, 64), 64, (3, 3), 1)),
        ("vww/first 3x3 s2 3-8", same((96, 96, 3), 8, (3, 3), 2)),
        ("vww/pointwise 128-256", ConvGeometry::matmul(36, 128, 256)),
        ("ad/640-128", ConvGeometry::matmul(1, 640, 128)),
        ("resnext/3x3 g4 64-64", ConvGeometry { groups: 4, ..same((16, 16, 64), 64, (3, 3), 1) }),
        ("vgg/3x3 256-256", same((28, 28, 256), 256, (3, 3), 1)),
        ("minilm/1536-384", ConvGeometry::matmul(128, 1536, 384)),
    ];
    let filters = [
        ("kws/3x3 64", depthwise((25, 5, 64), 3, 1)),
        ("vww/3x3 s2 64", depthwise((48, 48, 64), 3, 2)),
        ("vww/3x3 24", depthwise((48, 48, 24), 3, 1)),
        ("mobilenet/5x5 128", depthwise((14, 14, 128), 5, 1)),
    ];
    // Rows, inner, columns; queries by keys, whose rows are both tokens, and scores by values.
    let products = [
        ("minilm/128x32x128 abT", (128, 32, 128), true),
        ("minilm/128x128x32 ab", (128, 128, 32), false),
        ("decoder/1x64x128 abT", (1, 64, 128), true),
        ("decoder/1x128x64 ab", (1, 128, 64), false),
        ("square/384x384x384 ab", (384, 384, 384), false),
    ];
    let mut calls = vec![];
    for (shape, g) in convolutions {
        for (name, dtype) in
            [("conv_f32", DType::F32), ("conv_f32 f16", DType::F16), ("conv_f32 bf16", DType::BF16)]
        {
            // Weights in bf16 come in pairs.
            if dtype != DType::BF16 || g.group_in_c().is_multiple_of(2) {
                calls.push(Call::new(name, shape, macs(&g), move |isa| conv(g, dtype, isa)));
            }
        }
    }
    for (shape, g) in filters {
        calls.push(Call::new("depthwise_f32", shape, macs(&g), move |isa| filter(g, isa)));
    }
    for (shape, (m, k, n), trans_b) in products {
        let prepare = move |isa| product((m, k, n), trans_b, isa);
        calls.push(Call::new("matmul_f32", shape, m * k * n, prepare));
    }
    calls
}

/// With a fused ReLU6.
fn epilogue(bias: &[f32]) -> EpilogueF32<'_> {
    EpilogueF32 { bias, residual: None, min: 0.0, max: 6.0, activation: None }
}

fn conv(g: ConvGeometry, dtype: DType, isa: Isa) -> Box<dyn FnMut()> {
    let (input, weights) = (floats(g.input_len()), floats(g.packed_float_len()));
    let halves = Aligned::new(weights.len(), |i| f16::from_f32(weights[i]));
    let pairs = Aligned::new(weights.len(), |i| bf16::from_f32(weights[i]));
    let stored = if dtype == DType::BF16 { Stored::Bf16 } else { Stored::Float };
    let bias = floats(g.padded_out_c());
    let mut output = Aligned::zeros(g.out_pixels() * g.out_c);
    let mut scratch = Aligned::zeros(conv_f32::scratch_len(&g, stored, isa));
    let kernel = conv_f32::select(isa);
    Box::new(move || {
        let weights = match dtype {
            DType::BF16 => PanelWeights::Bf16(&pairs),
            DType::F16 => FloatWeights::F16(&halves).into(),
            _ => FloatWeights::F32(&weights).into(),
        };
        kernel(black_box(&mut ConvF32 {
            geometry: g,
            pixels: 0..g.out_pixels(),
            input: &input,
            weights,
            epilogue: epilogue(&bias),
            output: &mut output,
            output_stride: g.out_c,
            scratch: &mut scratch,
        }));
    })
}

fn filter(g: ConvGeometry, isa: Isa) -> Box<dyn FnMut()> {
    let (input, weights) = (floats(g.input_len()), floats(depthwise_f32::packed_len(&g)));
    let bias = floats(depthwise_f32::padded_channels(&g));
    let mut output = Aligned::zeros(g.out_pixels() * g.out_c);
    let kernel = depthwise_f32::select(isa);
    Box::new(move || {
        kernel(black_box(&mut DepthwiseF32 {
            geometry: g,
            input: &input,
            weights: FloatWeights::F32(&weights),
            epilogue: epilogue(&bias),
            output: &mut output,
            output_stride: g.out_c,
        }));
    })
}

fn product((m, k, n): (usize, usize, usize), trans_b: bool, isa: Isa) -> Box<dyn FnMut()> {
    let (a, b) = (floats(m * k), floats(k * n));
    let mut output = Aligned::zeros(m * n);
    let kernel = matmul_f32::select(isa);
    Box::new(move || {
        kernel(black_box(&mut MatMulF32 {
            m,
            k,
            n,
            a: &a,
            b: &b,
            output: &mut output,
            trans_a: false,
            trans_b,
        }));
    })
}
