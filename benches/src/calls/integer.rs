//! Integer kernels: the layers of MLPerf Tiny (keyword spotting, image classification, visual wake words, anomaly
//! detection), and some of MobileNet and ResNet-50.

use std::hint::black_box;

use whit::Isa;
use whit::kernels::attention_i8::{self, Mask, Products, panels_len};
use whit::kernels::conv_i8::{self, ConvI8};
use whit::kernels::conv_i16::{self, ConvI16};
use whit::kernels::depthwise_i8::{self, DepthwiseI8};
use whit::kernels::lstm_i8::{self, GateSums};
use whit::kernels::{ConvGeometry, EpilogueI8, Packing};

use super::{Aligned, Call, bytes, depthwise, hash, macs, same};

pub(super) fn calls() -> Vec<Call> {
    let matmul = ConvGeometry::matmul;
    let convolutions = [
        ("kws/first 10x4 s2 1-64", same((49, 10, 1), 64, (10, 4), 2)),
        ("kws/pointwise 64-64", matmul(125, 64, 64)),
        ("ic/first 3x3 3-16", same((32, 32, 3), 16, (3, 3), 1)),
        ("ic/3x3 16-16", same((32, 32, 16), 16, (3, 3), 1)),
        ("ic/3x3 s2 16-32", same((32, 32, 16), 32, (3, 3), 2)),
        ("ic/1x1 s2 16-32", same((32, 32, 16), 32, (1, 1), 2)),
        ("ic/3x3 32-32", same((16, 16, 32), 32, (3, 3), 1)),
        ("ic/3x3 64-64", same((8, 8, 64), 64, (3, 3), 1)),
        ("vww/first 3x3 s2 3-8", same((96, 96, 3), 8, (3, 3), 2)),
        ("vww/pointwise 8-16", matmul(2304, 8, 16)),
        ("vww/pointwise 32-32", matmul(576, 32, 32)),
        ("vww/pointwise 128-128", matmul(36, 128, 128)),
        ("vww/pointwise 256-256", matmul(9, 256, 256)),
        ("ad/640-128", matmul(1, 640, 128)),
        ("ad/128-128", matmul(1, 128, 128)),
        ("ad/128-8", matmul(1, 128, 8)),
        ("ad/8-128", matmul(1, 8, 128)),
        ("ad/128-640", matmul(1, 128, 640)),
        ("resnet50/7x7 s2 3-64", same((224, 224, 3), 64, (7, 7), 2)),
        ("resnet50/3x3 64-64", same((56, 56, 64), 64, (3, 3), 1)),
    ];
    let filters = [
        ("kws/3x3 64", depthwise((25, 5, 64), 3, 1)),
        ("vww/3x3 8", depthwise((48, 48, 8), 3, 1)),
        ("vww/3x3 s2 16", depthwise((48, 48, 16), 3, 2)),
        ("vww/3x3 32", depthwise((24, 24, 32), 3, 1)),
        ("vww/3x3 128", depthwise((6, 6, 128), 3, 1)),
        ("vww/3x3 256", depthwise((3, 3, 256), 3, 1)),
        ("mobilenet/5x5 64", depthwise((14, 14, 64), 5, 1)),
        ("mobilenet/3x3 96", depthwise((56, 56, 96), 3, 1)),
    ];
    let wide = [
        ("kws/pointwise 64-64", matmul(125, 64, 64)),
        ("ad/640-128", matmul(1, 640, 128)),
        ("ic/3x3 16-16", same((32, 32, 16), 16, (3, 3), 1)),
    ];
    let wide_filters = [("kws/3x3 64", depthwise((25, 5, 64), 3, 1))];
    let gates =
        [("lstm-mnist/28-80", matmul(1, 28, 80)), ("silero-vad/128-512", matmul(1, 128, 512))];

    let call = |family, make: fn(ConvGeometry, Isa) -> Box<dyn FnMut()>| {
        move |(shape, g): (&'static str, ConvGeometry)| {
            Call::new(family, shape, macs(&g), move |isa| make(g, isa))
        }
    };
    let mut calls: Vec<Call> = convolutions.map(call("conv_i8", conv_i8)).into();
    calls.extend(filters.map(call("depthwise_i8", depthwise_i8)));
    calls.extend(wide.map(call("conv_i16", conv_i16)));
    calls.extend(wide_filters.map(call("depthwise_i16", depthwise_i16)));
    calls.extend(gates.map(call("lstm_i8 sums", gate_sums)));
    let products =
        [("minilm keys 128x32x128", [128, 32, 128]), ("minilm values 128x128x32", [128, 128, 32])];
    for (shape, [m, k, n]) in products {
        let prepare = move |isa| attention_products([m, k, n], isa);
        calls.push(Call::new("attention_i8 products", shape, m * k * n, prepare));
    }
    let weights = move |isa| attention_weights(128, 128, isa);
    calls.push(Call::new("attention_i8 weights", "minilm 128x128", 128 * 128, weights));
    calls
}

fn epilogue(scale: &[f32]) -> EpilogueI8<'_> {
    EpilogueI8 { scale, fixed_point: &[], zero_point: -128, min: -128, max: 127, residual: None }
}

fn conv_i8(g: ConvGeometry, isa: Isa) -> Box<dyn FnMut()> {
    let ohwi = bytes(g.out_c * g.k());
    let mut weights = Aligned::zeros(g.packed_i8_len());
    conv_i8::pack_weights(&g, &ohwi, &mut weights);
    let mut weight_sums = Aligned::zeros(g.padded_out_c());
    conv_i8::weight_sums(&g, &ohwi, &mut weight_sums);
    let (input, bias) = (bytes(g.input_len()), Aligned::zeros(g.padded_out_c()));
    let scale = Aligned::new(g.padded_out_c(), |_| 1e-3);
    let mut output = Aligned::zeros(g.out_pixels() * g.out_c);
    let mut scratch = Aligned::zeros(conv_i8::scratch_bytes(&g, isa));
    let kernel = conv_i8::select(isa);
    Box::new(move || {
        kernel(black_box(&mut ConvI8 {
            geometry: &g,
            input: &input,
            input_zero_point: -128,
            weights: &weights,
            packing: Packing::Panels,
            bias: &bias,
            weight_sums: &weight_sums,
            epilogue: epilogue(&scale),
            output: &mut output,
            output_stride: g.out_c,
            scratch: &mut scratch,
        }));
    })
}

fn depthwise_i8(g: ConvGeometry, isa: Isa) -> Box<dyn FnMut()> {
    let (channels, taps) = (depthwise_i8::padded_c(g.in_c), g.kernel_h * g.kernel_w);
    let hwc = bytes(taps * g.in_c);
    let mut weights = Aligned::zeros(taps * channels);
    depthwise_i8::pack_weights(&g, &hwc, &mut weights);
    let mut weight_sums = Aligned::zeros(channels);
    depthwise_i8::weight_sums(&g, &hwc, &mut weight_sums);
    let (input, bias) = (bytes(g.input_len()), Aligned::zeros(channels));
    let scale = Aligned::new(channels, |_| 1e-3);
    let mut output = Aligned::zeros(g.out_pixels() * g.out_c);
    let mut scratch = Aligned::zeros(depthwise_i8::scratch_bytes(&g, isa));
    let kernel = depthwise_i8::select(isa);
    Box::new(move || {
        kernel(black_box(&mut DepthwiseI8 {
            geometry: &g,
            input: &input,
            input_zero_point: -128,
            weights: &weights,
            packing: Packing::Panels,
            bias: &bias,
            weight_sums: &weight_sums,
            epilogue: epilogue(&scale),
            output: &mut output,
            output_stride: g.out_c,
            scratch: &mut scratch,
        }));
    })
}

fn gate_sums(g: ConvGeometry, isa: Isa) -> Box<dyn FnMut()> {
    let mut weights = Aligned::zeros(g.packed_i8_len());
    conv_i8::pack_weights(&g, &bytes(g.out_c * g.k()), &mut weights);
    let (x, bias, mut sums) = (bytes(g.in_c), Aligned::zeros(g.out_c), Aligned::zeros(g.out_c));
    let kernel = lstm_i8::select_sums(isa);
    Box::new(move || {
        let (x, weights, bias) = (&x, &weights, &bias);
        kernel(black_box(&mut GateSums { x, weights, bias, sums: &mut sums }));
    })
}

fn attention_products([m, k, n]: [usize; 3], isa: Isa) -> Box<dyn FnMut()> {
    let a = Aligned::new(m * k, |i| (hash(i) >> 24) as i16);
    let b = Aligned::new(panels_len(k, n), |i| (hash(i) >> 24) as i16);
    let mut output = Aligned::zeros(m * n);
    let kernels = attention_i8::select(isa);
    Box::new(move || {
        let (a, b, output) = (&a, &b, &mut output);
        (kernels.products)(black_box(&mut Products { a, pairs: k / 2, b, output, columns: n }));
    })
}

fn attention_weights(rows: usize, keys: usize, isa: Isa) -> Box<dyn FnMut()> {
    let products = Aligned::new(rows * keys, |i| (hash(i) >> 14) as i32);
    let (mut scratch, mut weights) = (Aligned::zeros(rows * keys), Aligned::zeros(keys));
    let mut sums = Aligned::zeros(rows);
    let kernels = attention_i8::select(isa);
    let (scale, mask) = (1e-5, Mask::All(0.0));
    Box::new(move || {
        let of_rows = scratch.chunks_exact_mut(keys).zip(products.chunks_exact(keys));
        for ((row, products), sum) in of_rows.zip(sums.iter_mut()) {
            row.copy_from_slice(products);
            let largest = (kernels.largest)(row, scale, mask);
            *sum = (kernels.raise)(row, scale, mask, largest);
        }
        for (row, sum) in scratch.chunks_exact(keys).zip(sums.iter()) {
            black_box((kernels.share)(row, *sum, &mut weights));
        }
    })
}

fn conv_i16(g: ConvGeometry, isa: Isa) -> Box<dyn FnMut()> {
    let mut weights = Aligned::zeros(g.packed_i8_len());
    conv_i8::pack_weights(&g, &bytes(g.out_c * g.k()), &mut weights);
    let scratch = conv_i16::scratch_len(&g, isa);
    wide(g, weights, g.padded_out_c(), scratch, conv_i16::select(isa))
}

fn depthwise_i16(g: ConvGeometry, isa: Isa) -> Box<dyn FnMut()> {
    let channels = depthwise_i8::padded_c(g.in_c);
    let weights = bytes(g.kernel_h * g.kernel_w * channels);
    wide(g, weights, channels, 0, conv_i16::select_depthwise(isa))
}

fn wide(
    g: ConvGeometry,
    weights: Aligned<i8>,
    channels: usize,
    scratch_len: usize,
    kernel: conv_i16::ConvI16Fn,
) -> Box<dyn FnMut()> {
    let input = Aligned::new(g.input_len(), |i| (hash(i) >> 16) as i16);
    let bias = Aligned::zeros(channels);
    let scale = Aligned::new(channels, |_| 1e-4);
    let mut output = Aligned::zeros(g.out_pixels() * g.out_c);
    let mut scratch = Aligned::zeros(scratch_len);
    Box::new(move || {
        kernel(black_box(&mut ConvI16 {
            geometry: g,
            input: &input,
            weights: &weights,
            bias: &bias,
            scale: &scale,
            min: -32768,
            max: 32767,
            output: &mut output,
            scratch: &mut scratch,
        }));
    })
}
