//! The i8 kernels on the layers of MLPerf Tiny and a few larger ones, for every instruction set.
//!
//! Throughput is in multiply-accumulates: `cargo bench -p whit-benches --bench kernels_i8`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use whit::Isa;
use whit::kernels::{ConvGeometry, EpilogueI8, Packing, conv_i8, depthwise_i8};

struct Case {
    name: &'static str,
    geometry: ConvGeometry,
}

/// A fully connected layer, or a pointwise convolution of `pixels`.
const fn matmul(name: &'static str, pixels: usize, in_c: usize, out_c: usize) -> Case {
    Case { name, geometry: ConvGeometry::matmul(pixels, in_c, out_c) }
}

/// A convolution with the padding that TensorFlow calls SAME; as many groups as inputs if
/// `depthwise`.
fn same(
    name: &'static str,
    (in_h, in_w, in_c): (usize, usize, usize),
    out_c: usize,
    (kernel_h, kernel_w): (usize, usize),
    stride: usize,
    depthwise: bool,
) -> Case {
    let (out_h, out_w) = (in_h.div_ceil(stride), in_w.div_ceil(stride));
    let pad = |len: usize, out: usize, kernel: usize| {
        ((out - 1) * stride + kernel).saturating_sub(len) / 2
    };
    let geometry = ConvGeometry {
        batch: 1,
        in_h,
        in_w,
        in_c,
        out_h,
        out_w,
        out_c,
        kernel_h,
        kernel_w,
        stride_h: stride,
        stride_w: stride,
        pad_top: pad(in_h, out_h, kernel_h),
        pad_left: pad(in_w, out_w, kernel_w),
        dilation_h: 1,
        dilation_w: 1,
        groups: if depthwise { in_c } else { 1 },
    };
    Case { name, geometry }
}

fn convolutions(criterion: &mut Criterion) {
    let cases = [
        same("kws/first 10x4 s2 1-64", (49, 10, 1), 64, (10, 4), 2, false),
        matmul("kws/pointwise 64-64", 125, 64, 64),
        same("ic/first 3x3 3-16", (32, 32, 3), 16, (3, 3), 1, false),
        same("ic/3x3 16-16", (32, 32, 16), 16, (3, 3), 1, false),
        same("ic/3x3 s2 16-32", (32, 32, 16), 32, (3, 3), 2, false),
        same("ic/1x1 s2 16-32", (32, 32, 16), 32, (1, 1), 2, false),
        same("ic/3x3 32-32", (16, 16, 32), 32, (3, 3), 1, false),
        same("ic/3x3 64-64", (8, 8, 64), 64, (3, 3), 1, false),
        same("vww/first 3x3 s2 3-8", (96, 96, 3), 8, (3, 3), 2, false),
        matmul("vww/pointwise 8-16", 2304, 8, 16),
        matmul("vww/pointwise 32-32", 576, 32, 32),
        matmul("vww/pointwise 128-128", 36, 128, 128),
        matmul("vww/pointwise 256-256", 9, 256, 256),
        matmul("ad/640-128", 1, 640, 128),
        matmul("ad/128-128", 1, 128, 128),
        matmul("ad/128-8", 1, 128, 8),
        matmul("ad/8-128", 1, 8, 128),
        matmul("ad/128-640", 1, 128, 640),
        same("resnet/7x7 s2 3-64", (224, 224, 3), 64, (7, 7), 2, false),
        same("resnet/3x3 64-64", (56, 56, 64), 64, (3, 3), 1, false),
    ];
    for Case { name, geometry: g } in cases {
        let channels = g.padded_out_c();
        let ohwi = noise(g.out_c * g.k());
        let mut weights = vec![0; g.packed_i8_len()];
        conv_i8::pack_weights(&g, &ohwi, &mut weights);
        let mut weight_sums = vec![0; channels];
        conv_i8::weight_sums(&g, &ohwi, &mut weight_sums);
        let (input, bias, scale) = (noise(g.input_len()), vec![0; channels], vec![1e-3; channels]);
        let mut output = vec![0; g.out_pixels() * g.out_c];
        let mut group = criterion.benchmark_group(format!("conv_i8/{name}"));
        group.throughput(Throughput::Elements((output.len() * g.k()) as u64));
        for isa in Isa::available() {
            let mut scratch = Scratch::new(conv_i8::scratch_bytes(&g, isa));
            let kernel = conv_i8::select(isa);
            group.bench_function(isa.name(), |bencher| {
                bencher.iter(|| {
                    kernel(&mut conv_i8::ConvI8 {
                        geometry: g,
                        input: &input,
                        input_zero_point: -128,
                        weights: &weights,
                        packing: Packing::Panels,
                        bias: &bias,
                        weight_sums: &weight_sums,
                        epilogue: epilogue(&scale),
                        output: &mut output,
                        output_stride: g.out_c,
                        scratch: scratch.bytes(),
                    });
                });
            });
        }
    }
}

fn depthwise(criterion: &mut Criterion) {
    let case = |name, input: (usize, usize, usize), kernel, stride| {
        same(name, input, input.2, (kernel, kernel), stride, true)
    };
    let cases = [
        case("kws/3x3 64", (25, 5, 64), 3, 1),
        case("vww/3x3 8", (48, 48, 8), 3, 1),
        case("vww/3x3 s2 16", (48, 48, 16), 3, 2),
        case("vww/3x3 32", (24, 24, 32), 3, 1),
        case("vww/3x3 128", (6, 6, 128), 3, 1),
        case("vww/3x3 256", (3, 3, 256), 3, 1),
        case("mobilenet/5x5 64", (14, 14, 64), 5, 1),
        case("mobilenet/3x3 96", (56, 56, 96), 3, 1),
    ];
    for Case { name, geometry: g } in cases {
        let channels = depthwise_i8::padded_c(g.in_c);
        let hwc = noise(g.kernel_h * g.kernel_w * g.in_c);
        let mut weights = vec![0; g.kernel_h * g.kernel_w * channels];
        depthwise_i8::pack_weights(&g, &hwc, &mut weights);
        let (input, bias, scale) = (noise(g.input_len()), vec![0; channels], vec![1e-3; channels]);
        let mut output = vec![0; g.out_pixels() * g.out_c];
        let mut group = criterion.benchmark_group(format!("depthwise_i8/{name}"));
        group.throughput(Throughput::Elements((output.len() * g.k()) as u64));
        for isa in Isa::available() {
            let mut scratch = Scratch::new(depthwise_i8::scratch_bytes(&g, isa));
            let kernel = depthwise_i8::select(isa);
            group.bench_function(isa.name(), |bencher| {
                bencher.iter(|| {
                    kernel(&mut depthwise_i8::DepthwiseI8 {
                        geometry: g,
                        input: &input,
                        input_zero_point: -128,
                        weights: &weights,
                        packing: Packing::Panels,
                        bias: &bias,
                        weight_sums: &[],
                        epilogue: epilogue(&scale),
                        output: &mut output,
                        output_stride: g.out_c,
                        scratch: scratch.bytes(),
                    });
                });
            });
        }
    }
}

fn epilogue(scale: &[f32]) -> EpilogueI8<'_> {
    EpilogueI8 { scale, fixed_point: &[], zero_point: -128, min: -128, max: 127, residual: None }
}

/// Bytes that all differ; the kernels take the same time for any.
fn noise(len: usize) -> Vec<i8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as i8).collect()
}

/// Scratch aligned to a cache line, as a session has it.
struct Scratch {
    memory: Vec<u8>,
    start: usize,
}

impl Scratch {
    fn new(bytes: usize) -> Self {
        let memory = vec![0; bytes + 64];
        let start = memory.as_ptr().align_offset(64);
        Scratch { memory, start }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..]
    }
}

fn config() -> Criterion {
    Criterion::default()
        .sample_size(30)
        .warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(600))
}

criterion_group! { name = benches; config = config(); targets = convolutions, depthwise }
criterion_main!(benches);
