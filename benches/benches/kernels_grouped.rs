//! Fully connected layers by the type of their weights: criterion's "B/s" are the bytes of weights that a
//! product reads.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::f16;
use std::hint::black_box;
use std::time::Duration;
use whit::Isa;
use whit::kernels::conv_f32::Stored;
use whit::kernels::{ConvGeometry, EpilogueF32, FloatWeights, PanelWeights, conv_f32};
use whit_benches::calls::grouped::{KINDS, Planes};

/// Numbers without a pattern.
fn noise(i: usize) -> u32 {
    (i as u32).wrapping_mul(0x9e37_79b9) >> 12
}

fn layers(c: &mut Criterion) {
    let mut group = c.benchmark_group("fully_connected_f32");
    // A vector, as in decoding, and rows, as in a prompt.
    for (m, k, n) in
        [(1, 4096, 4096), (1, 1024, 256), (2, 4096, 4096), (4, 4096, 4096), (32, 1024, 1024)]
    {
        let g = ConvGeometry::matmul(m, k, n);
        let floats: Vec<f32> =
            (0..g.packed_float_len()).map(|i| noise(i) as f32 / 1e6 - 0.5).collect();
        let halves: Vec<f16> = floats.iter().map(|w| f16::from_f32(*w)).collect();
        let grouped =
            KINDS.map(|(name, layout, group_size)| (name, Planes::new(&g, layout, group_size)));
        let mut weights: Vec<(&str, usize, PanelWeights<'_>)> = vec![
            ("f32", floats.len() * 4, FloatWeights::F32(&floats).into()),
            ("f16", halves.len() * 2, FloatWeights::F16(&halves).into()),
        ];
        for (name, planes) in &grouped {
            weights.push((name, planes.bytes(), planes.get(&g)));
        }
        let input: Vec<f32> = (0..g.input_len()).map(|i| noise(i) as f32 / 1e6 - 0.5).collect();
        let (bias, mut output) = (vec![0.0; g.padded_out_c()], vec![0.0; m * n]);
        for isa in Isa::available().filter(|isa| *isa != Isa::Scalar) {
            let lens = [Stored::Float, Stored::Grouped].map(|s| conv_f32::scratch_len(&g, s, isa));
            let len = lens[0].max(lens[1]);
            let mut scratch = vec![0.0; len];
            let kernel = conv_f32::select(isa);
            for (name, bytes, weights) in &weights {
                group.throughput(Throughput::Bytes(*bytes as u64));
                let id = BenchmarkId::new(format!("{isa}/{name}"), format!("{m}x{k}x{n}"));
                group.bench_function(id, |b| {
                    b.iter(|| {
                        kernel(black_box(&mut conv_f32::ConvF32 {
                            geometry: g,
                            pixels: 0..g.out_pixels(),
                            input: &input,
                            weights: *weights,
                            epilogue: EpilogueF32 {
                                bias: &bias,
                                residual: None,
                                min: f32::NEG_INFINITY,
                                max: f32::INFINITY,
                                activation: None,
                            },
                            output: &mut output,
                            output_stride: n,
                            scratch: &mut scratch,
                        }));
                    });
                });
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(300));
    targets = layers
}
criterion_main!(benches);
