//! Float kernels alone, in multiply-adds a second: criterion's "elem/s" are MACs.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::ops::{Deref, DerefMut};
use std::time::Duration;
use whit::Isa;
use whit::kernels::{ConvGeometry, EpilogueF32, FloatWeights, conv_f32, depthwise_f32, matmul_f32};

/// Elements at a multiple of 64 bytes, as in a session's arena and in a file.
struct Aligned<T> {
    data: Vec<T>,
    start: usize,
}

impl<T: Copy + Default> Aligned<T> {
    fn new(len: usize, value: impl Fn(usize) -> T) -> Aligned<T> {
        let mut data = vec![T::default(); len + 64 / size_of::<T>()];
        let start = data.as_ptr().align_offset(64);
        for i in 0..len {
            data[start + i] = value(i);
        }
        data.truncate(start + len);
        Aligned { data, start }
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.data[self.start..]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[self.start..]
    }
}

/// Small numbers without a pattern; no subnormals.
fn numbers(len: usize) -> Aligned<f32> {
    Aligned::new(len, |i| ((i as u32).wrapping_mul(0x9e37_79b9) >> 20) as f32 / 4096.0 - 0.5)
}

/// A convolution with a square kernel, padded to an output of `in / stride`.
fn conv(
    in_h: usize,
    in_w: usize,
    in_c: usize,
    out_c: usize,
    kernel: usize,
    stride: usize,
) -> ConvGeometry {
    ConvGeometry {
        batch: 1,
        in_h,
        in_w,
        in_c,
        out_h: in_h.div_ceil(stride),
        out_w: in_w.div_ceil(stride),
        out_c,
        kernel_h: kernel,
        kernel_w: kernel,
        stride_h: stride,
        stride_w: stride,
        pad_top: kernel / 2,
        pad_left: kernel / 2,
        dilation_h: 1,
        dilation_w: 1,
        groups: 1,
    }
}

fn convolutions(c: &mut Criterion) {
    let shapes = [
        ("conv 3x3 64>64 8x8", conv(8, 8, 64, 64, 3, 1)),
        ("conv 3x3 16>16 32x32", conv(32, 32, 16, 16, 3, 1)),
        ("conv 1x1 64>64 25x5", conv(25, 5, 64, 64, 1, 1)),
        ("conv 1x1 128>256 6x6", conv(6, 6, 128, 256, 1, 1)),
        ("fully connected 640>128", ConvGeometry::matmul(1, 640, 128)),
        ("conv 3x3 s2 3>8 96x96", conv(96, 96, 3, 8, 3, 2)),
        ("conv 3x3 256>256 28x28", conv(28, 28, 256, 256, 3, 1)),
        ("conv 3x3 g4 64>64 16x16", ConvGeometry { groups: 4, ..conv(16, 16, 64, 64, 3, 1) }),
    ];
    let mut group = c.benchmark_group("conv_f32");
    for (name, geometry) in shapes {
        let g = geometry;
        let (input, weights, bias) =
            (numbers(g.input_len()), numbers(g.packed_float_len()), numbers(g.padded_out_c()));
        let halves = Aligned::new(weights.len(), |i| half::f16::from_f32(weights[i]));
        let mut output = numbers(g.out_pixels() * g.out_c);
        group.throughput(Throughput::Elements((g.out_pixels() * g.out_c * g.k()) as u64));
        for isa in Isa::available() {
            let mut scratch = numbers(conv_f32::scratch_len(&g, isa));
            let kernel = conv_f32::select(isa);
            for (weights_name, weights) in
                [("f32", FloatWeights::F32(&weights)), ("f16", FloatWeights::F16(&halves))]
            {
                group.bench_function(
                    BenchmarkId::new(format!("{isa}/{weights_name}"), name),
                    |b| {
                        b.iter(|| {
                            kernel(black_box(&mut conv_f32::ConvF32 {
                                geometry: g,
                                pixels: 0..g.out_pixels(),
                                input: &input,
                                weights: weights.into(),
                                epilogue: EpilogueF32 {
                                    bias: &bias,
                                    residual: None,
                                    min: 0.0,
                                    max: 6.0,
                                },
                                output: &mut output,
                                output_stride: g.out_c,
                                scratch: &mut scratch,
                            }));
                        });
                    },
                );
            }
        }
    }
}

fn depthwise(c: &mut Criterion) {
    let depthwise = |channels, stride, kernel, h, w| ConvGeometry {
        groups: channels,
        ..conv(h, w, channels, channels, kernel, stride)
    };
    let shapes = [
        ("3x3 64 25x5", depthwise(64, 1, 3, 25, 5)),
        ("3x3 s2 64 48x48", depthwise(64, 2, 3, 48, 48)),
        ("3x3 24 48x48", depthwise(24, 1, 3, 48, 48)),
        ("5x5 128 14x14", depthwise(128, 1, 5, 14, 14)),
    ];
    let mut group = c.benchmark_group("depthwise_f32");
    for (name, geometry) in shapes {
        let g = geometry;
        let (input, weights) = (numbers(g.input_len()), numbers(depthwise_f32::packed_len(&g)));
        let bias = numbers(depthwise_f32::padded_channels(&g));
        let mut output = numbers(g.out_pixels() * g.out_c);
        group.throughput(Throughput::Elements((g.out_pixels() * g.out_c * g.k()) as u64));
        for isa in Isa::available() {
            let kernel = depthwise_f32::select(isa);
            group.bench_function(BenchmarkId::new(isa.name(), name), |b| {
                b.iter(|| {
                    kernel(black_box(&mut depthwise_f32::DepthwiseF32 {
                        geometry: g,
                        input: &input,
                        weights: FloatWeights::F32(&weights),
                        epilogue: EpilogueF32 { bias: &bias, residual: None, min: 0.0, max: 6.0 },
                        output: &mut output,
                        output_stride: g.out_c,
                    }));
                });
            });
        }
    }
}

fn products(c: &mut Criterion) {
    let mut group = c.benchmark_group("matmul_f32");
    for (m, k, n) in [(128, 64, 128), (1, 64, 128), (384, 384, 384)] {
        let (a, b) = (numbers(m * k), numbers(k * n));
        let mut output = numbers(m * n);
        group.throughput(Throughput::Elements((m * k * n) as u64));
        for isa in Isa::available() {
            let kernel = matmul_f32::select(isa);
            for (trans_name, trans_a, trans_b) in
                [("ab", false, false), ("abT", false, true), ("aTb", true, false)]
            {
                let id = BenchmarkId::new(format!("{isa}/{trans_name}"), format!("{m}x{k}x{n}"));
                group.bench_function(id, |bencher| {
                    bencher.iter(|| {
                        kernel(black_box(&mut matmul_f32::MatMulF32 {
                            m,
                            k,
                            n,
                            a: &a,
                            b: &b,
                            output: &mut output,
                            trans_a,
                            trans_b,
                        }));
                    });
                });
            }
        }
    }
}

/// Short runs: a kernel's time varies little, and there are many.
fn config() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! { name = benches; config = config(); targets = convolutions, depthwise, products }
criterion_main!(benches);
