//! Kernels whose work are elements: functions, additions, softmax, pooling.

use std::hint::black_box;

use whit::Isa;
use whit::kernels::ConvGeometry;
use whit::kernels::add_i8::{self, AddI8};
use whit::kernels::binary_f32::{self, Arithmetic, BinaryF32};
use whit::kernels::binary_i8::{self, BinaryI8};
use whit::kernels::elementary::{self, Function};
use whit::kernels::lut_i8;
use whit::kernels::normalize_f32::{self, NormalizeF32};
use whit::kernels::pool::{self, PoolGeometry, PoolI8};
use whit::kernels::softmax::{self, SoftmaxI8, SoftmaxShape, TABLE_LEN};

use super::{Aligned, Call, bytes, floats, same};

pub(super) fn calls() -> Vec<Call> {
    let mut calls = vec![];
    for (shape, function, len) in [
        ("silu yolov8n 40x40x64", Function::Silu, 40 * 40 * 64),
        ("gelu minilm 16x1536", Function::Gelu, 16 * 1536),
        ("gelu_tanh gpt2 8x3072", Function::GeluTanh, 8 * 3072),
        ("sigmoid silero-vad 512", Function::Sigmoid, 512),
        ("tanh silero-vad 128", Function::Tanh, 128),
        ("erf minilm 16x1536", Function::Erf, 16 * 1536),
        ("exp 4096", Function::Exp, 4096),
    ] {
        let prepare = move |isa| elementary(function, len, isa);
        calls.push(Call::new("elementary", shape, len, prepare));
    }
    for (shape, len) in [("ic 32x32x16", 32 * 32 * 16), ("ic 8x8x64", 8 * 8 * 64)] {
        calls.push(Call::new("add_i8", shape, len, move |isa| add(len, isa)));
    }
    let shape = "ppocr 80x80x96";
    let len = 80 * 80 * 96;
    calls.push(Call::new("binary_i8 mul", shape, len, move |isa| mul_i8(len, isa)));
    calls.push(Call::new("lut_i8", shape, len, move |isa| look_up(len, isa)));
    for (shape, arithmetic, len) in [
        ("add resnet18 56x56x64", Arithmetic::Add, 56 * 56 * 64),
        ("mul efficientnet 14x14x480", Arithmetic::Mul, 14 * 14 * 480),
    ] {
        calls.push(Call::new("binary_f32", shape, len, move |isa| binary(arithmetic, len, isa)));
    }
    for (shape, rows, row) in [("minilm 128x384", 128, 384), ("mobilevit 64x64", 64, 64)] {
        calls.push(Call::new("normalize_f32", shape, rows * row, move |isa| {
            normalize(rows, row, isa)
        }));
    }
    for (shape, outer, extent) in
        [("minilm 12x128x128", 12 * 128, 128), ("resnet50 1000", 1, 1000), ("kws 12", 1, 12)]
    {
        let size = SoftmaxShape { outer, extent, inner: 1 };
        calls.push(Call::new("softmax_f32", shape, outer * extent, move |isa| {
            softmax_f32(size, isa)
        }));
        calls.push(Call::new("softmax_i8", shape, outer * extent, move |_| softmax_i8(size)));
    }
    for (shape, input, kernel, stride) in [
        ("resnet50 3x3 s2 112x112x64", (112, 112, 64), 3, 2),
        ("ic 8x8 64", (8, 8, 64), 8, 8),
        ("vww 3x3 256", (3, 3, 256), 3, 3),
    ] {
        let windows =
            ConvGeometry { groups: input.2, ..same(input, input.2, (kernel, kernel), stride) };
        let g = PoolGeometry { windows, pad_after: [0; 2], count_include_pad: false };
        let work = windows.out_pixels() * windows.out_c * windows.k();
        calls.push(Call::new("pool max_f32", shape, work, move |isa| {
            pool_f32(g, pool::select_max_f32(isa))
        }));
        calls.push(Call::new("pool average_f32", shape, work, move |isa| {
            pool_f32(g, pool::select_average_f32(isa))
        }));
        calls.push(Call::new("pool max_i8", shape, work, move |isa| {
            pool_i8(g, pool::select_max_i8(isa))
        }));
        calls.push(Call::new("pool average_i8", shape, work, move |isa| {
            pool_i8(g, pool::select_average_i8(isa))
        }));
        calls.push(Call::new("pool average_stored_i8", shape, work, move |isa| {
            pool_i8(g, pool::select_average_stored_i8(isa))
        }));
    }
    calls
}

fn elementary(function: Function, len: usize, isa: Isa) -> Box<dyn FnMut()> {
    let (x, mut y) = (floats(len), Aligned::zeros(len));
    let kernel = elementary::select(isa);
    Box::new(move || {
        y.copy_from_slice(&x);
        kernel(function, black_box(&mut y));
    })
}

fn add(len: usize, isa: Isa) -> Box<dyn FnMut()> {
    let to =
        AddI8 { zero_points: [-128, 3], scales: [0.6, 0.7], zero_point: -128, min: -128, max: 127 };
    let (a, b, mut y) = (bytes(len), bytes(len + 1), Aligned::zeros(len));
    let kernel = add_i8::select(isa);
    Box::new(move || kernel(black_box(&to), &a, &b[1..], &mut y))
}

fn mul_i8(len: usize, isa: Isa) -> Box<dyn FnMut()> {
    let to = BinaryI8 {
        arithmetic: binary_i8::Arithmetic::Mul,
        zero_points: [-128, 3],
        scales: [0.006, 0.0],
        zero_point: -128,
        min: -128,
        max: 127,
    };
    let (a, b, mut y) = (bytes(len), bytes(len + 1), Aligned::zeros(len));
    let kernel = binary_i8::select(isa);
    Box::new(move || kernel(black_box(&to), &a, &b[1..], &mut y))
}

fn look_up(len: usize, isa: Isa) -> Box<dyn FnMut()> {
    let table = std::array::from_fn(|at| (at as i8).wrapping_mul(5));
    let mut values = bytes(len);
    let kernel = lut_i8::select(isa);
    Box::new(move || kernel(black_box(&table), &mut values))
}

fn binary(arithmetic: Arithmetic, len: usize, isa: Isa) -> Box<dyn FnMut()> {
    let to = BinaryF32 { arithmetic, min: f32::NEG_INFINITY, max: f32::INFINITY };
    let (a, b, mut y) = (floats(len), floats(len + 1), Aligned::zeros(len));
    let kernel = binary_f32::select(isa);
    Box::new(move || kernel(black_box(&to), &a, &b[1..], &mut y))
}

fn normalize(rows: usize, row: usize, isa: Isa) -> Box<dyn FnMut()> {
    let (x, scale, bias) = (floats(rows * row), floats(row), floats(row));
    let mut y = Aligned::zeros(rows * row);
    let kernel = normalize_f32::select(isa);
    Box::new(move || {
        let by = NormalizeF32 { row, centred: true, epsilon: 1e-5, scale: &scale, bias: &bias };
        kernel(black_box(&by), &x, &mut y);
    })
}

fn softmax_f32(shape: SoftmaxShape, isa: Isa) -> Box<dyn FnMut()> {
    let x = floats(shape.outer * shape.extent * shape.inner);
    let mut y = Aligned::zeros(x.len());
    let kernel = softmax::select_f32(isa);
    Box::new(move || kernel(shape, black_box(&x), &mut y))
}

fn softmax_i8(shape: SoftmaxShape) -> Box<dyn FnMut()> {
    // Steps of 0.1, in units of 2⁻²².
    let table: [i32; TABLE_LEN] =
        std::array::from_fn(|d| ((-0.1 * d as f64).exp() * f64::from(1 << 22)) as i32);
    let x = bytes(shape.outer * shape.extent * shape.inner);
    let mut y = Aligned::zeros(x.len());
    Box::new(move || {
        let to = SoftmaxI8 { table: &table, inverse_scale: 256.0, zero_point: -128 };
        softmax::softmax_i8(shape, &to, black_box(&x), &mut y);
    })
}

fn pool_f32(g: PoolGeometry, kernel: fn(&PoolGeometry, &[f32], &mut [f32])) -> Box<dyn FnMut()> {
    let x = floats(g.windows.input_len());
    let mut y = Aligned::zeros(g.windows.out_pixels() * g.windows.out_c);
    Box::new(move || kernel(black_box(&g), &x, &mut y))
}

fn pool_i8(g: PoolGeometry, kernel: pool::PoolI8Fn) -> Box<dyn FnMut()> {
    let to = PoolI8 { input_zero_point: -3, zero_point: 5, scale: 0.7, min: -128, max: 127 };
    let x = bytes(g.windows.input_len());
    let mut y = Aligned::zeros(g.windows.out_pixels() * g.windows.out_c);
    Box::new(move || kernel(black_box(&g), &to, &x, &mut y))
}
