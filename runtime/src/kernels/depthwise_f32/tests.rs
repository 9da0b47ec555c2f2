//! Every float depthwise kernel against a naive one in f64, over one set of cases.

use super::super::conv_f32::lanes::{Array, Pair};
use super::super::conv_f32::tests::{
    ACTIVATION, EPILOGUE_ROUNDINGS, PLAIN, Random, UNTOUCHED, Variant, check_activated, gamma,
    with_output,
};
use super::*;
use crate::DType;
use crate::kernels::shapes::{F32_CONVOLUTION, Family};
use crate::kernels::testing::{Output, placed};
use half::f16;

/// Runs one case on every kernel that can run here.
fn check_all(g: ConvGeometry, variant: Variant, seed: u64) {
    let mut random = Random::new(seed);
    let taps = g.kernel_h * g.kernel_w;
    let input = random.fine_numbers(g.input_len());
    let weights = if variant.dtype == DType::F16 {
        random.numbers(g.in_c * taps)
    } else {
        random.fine_numbers(g.in_c * taps)
    };
    let mut bias = random.fine_numbers(g.in_c);
    let residual = random.fine_numbers(g.out_pixels() * g.in_c);
    let mut packed = vec![UNTOUCHED; packed_len(&g)];
    pack_weights(&g, &weights, &mut packed);
    let packed_f16: Vec<f16> = packed.iter().map(|&w| f16::from_f32(w)).collect();
    // Padding holds rubbish: it must not reach the output.
    bias.resize(padded_channels(&g), UNTOUCHED);

    let mut expected = Vec::new();
    for b in 0..g.batch {
        for oy in 0..g.out_h as isize {
            for ox in 0..g.out_w as isize {
                for c in 0..g.in_c {
                    let (mut sum, mut size) = (bias[c] as f64, bias[c].abs() as f64);
                    for ky in 0..g.kernel_h as isize {
                        for kx in 0..g.kernel_w as isize {
                            let y = oy * g.stride_h as isize + ky * g.dilation_h as isize
                                - g.pad_top as isize;
                            let x = ox * g.stride_w as isize + kx * g.dilation_w as isize
                                - g.pad_left as isize;
                            if (0..g.in_h as isize).contains(&y)
                                && (0..g.in_w as isize).contains(&x)
                            {
                                let at =
                                    ((b * g.in_h + y as usize) * g.in_w + x as usize) * g.in_c + c;
                                let tap = c * taps + ky as usize * g.kernel_w + kx as usize;
                                let term = input[at] as f64 * weights[tap] as f64;
                                sum += term;
                                size += term.abs();
                            }
                        }
                    }
                    if variant.residual {
                        sum += residual[expected.len()] as f64;
                        size += residual[expected.len()].abs() as f64;
                    }
                    let y = sum.max(variant.min as f64).min(variant.max as f64);
                    expected.push((y, gamma(taps + EPILOGUE_ROUNDINGS) * size));
                }
            }
        }
    }

    let run = |activation, kernel: &dyn Fn(&mut DepthwiseF32<'_>)| {
        let output_stride = g.in_c + variant.gap;
        let len = (g.out_pixels() * output_stride).saturating_sub(variant.gap);
        let at = variant.offset;
        let mut output = Output::new(len, at, UNTOUCHED);
        let (input, bias) = (placed(&input, at), placed(&bias, at));
        let (packed, packed_f16) = (placed(&packed, at), placed(&packed_f16, at));
        let residual = placed(&residual, at);
        kernel(&mut DepthwiseF32 {
            geometry: g,
            input: &input[at..],
            weights: match variant.dtype == DType::F16 {
                true => FloatWeights::F16(&packed_f16[at..]),
                false => FloatWeights::F32(&packed[at..]),
            },
            epilogue: EpilogueF32 {
                bias: &bias[at..],
                residual: variant.residual.then_some(ResidualData::Apart(&residual[at..])),
                min: variant.min,
                max: variant.max,
                activation,
            },
            output: output.get(),
            output_stride,
        });
        output.written()
    };
    let check = |name: &str, kernel: &dyn Fn(&mut DepthwiseF32<'_>)| {
        let output_stride = g.in_c + variant.gap;
        let output = run(None, kernel);
        check_activated(&output, &run(Some(ACTIVATION), kernel), g.in_c, output_stride);
        for (i, &y) in output.iter().enumerate() {
            let (pixel, c) = (i / output_stride, i % output_stride);
            if c >= g.in_c {
                assert_eq!(y, UNTOUCHED, "{name} wrote between rows: {g:?} {variant:?}");
                continue;
            }
            let (expected, tolerance) = expected[pixel * g.in_c + c];
            assert!(
                (y as f64 - expected).abs() <= tolerance,
                "{name}, pixel {pixel}, channel {c}: {y}, expected {expected} ± {tolerance}: {g:?} {variant:?}"
            );
        }
    };
    for isa in Isa::available() {
        check(isa.name(), &select(isa));
    }
    // The widths of the instruction sets in plain Rust, so that all are covered on any CPU.
    // SAFETY: plain Rust needs no instruction set.
    check("4 lanes", &|args| unsafe { rows::depthwise_f32_rows::<Array<4>>(args) });
    // SAFETY: plain Rust needs no instruction set.
    check("2 × 4 lanes", &|args| unsafe { rows::depthwise_f32_rows::<Pair<Array<4>>>(args) });
    // SAFETY: plain Rust needs no instruction set.
    check("8 lanes", &|args| unsafe { rows::depthwise_f32_rows::<Array<8>>(args) });
    // SAFETY: plain Rust needs no instruction set.
    check("16 lanes", &|args| unsafe { rows::depthwise_f32_rows::<Array<16>>(args) });
}

const FAMILY: Family = Family {
    name: "depthwise_f32",
    fields: F32_CONVOLUTION,
    work: |shape| shape.depthwise_work() * 12,
    check: |shape| check_all(shape.depthwise().geometry(), Variant::of(shape), shape.seed),
};

#[test]
fn kept_shapes() {
    FAMILY.replay();
}

#[test]
#[ignore = "a search"]
fn search_shapes() {
    FAMILY.search();
}

/// A "same" 3×3 convolution to start a case from.
fn base(channels: usize) -> ConvGeometry {
    ConvGeometry {
        batch: 1,
        in_h: 6,
        in_w: 9,
        in_c: channels,
        out_h: 6,
        out_w: 9,
        out_c: channels,
        kernel_h: 3,
        kernel_w: 3,
        stride_h: 1,
        stride_w: 1,
        pad_top: 1,
        pad_left: 1,
        dilation_h: 1,
        dilation_w: 1,
        groups: channels,
    }
}

#[test]
fn every_number_of_channels() {
    for channels in 1..=66 {
        check_all(base(channels), PLAIN, channels as u64);
        let everything =
            Variant { dtype: DType::F16, residual: true, min: 0.0, max: 0.75, gap: 3, ..PLAIN };
        let geometry = ConvGeometry { stride_h: 2, stride_w: 2, ..base(channels) };
        check_all(with_output(geometry, 1, 1), everything, channels as u64);
    }
}

#[test]
fn every_width() {
    for (in_w, kernel_w, stride_w, pad) in (1..=20).flat_map(|in_w| {
        let shapes = [(3, 1, 1), (3, 2, 0), (3, 2, 1), (5, 1, 2), (5, 2, 2), (5, 2, 4), (7, 1, 3)];
        shapes.map(move |(kernel_w, stride_w, pad)| (in_w, kernel_w, stride_w, pad))
    }) {
        let geometry = ConvGeometry { in_w, kernel_w, stride_w, pad_left: pad, ..base(20) };
        for pad_right in [pad, pad + 1] {
            check_all(with_output(geometry, 1, pad_right), PLAIN, in_w as u64);
        }
        let column = ConvGeometry { in_h: in_w, in_w: 1, kernel_h: kernel_w, ..geometry };
        let column = ConvGeometry { kernel_w: 1, pad_top: pad, pad_left: 0, ..column };
        check_all(with_output(column, pad, 0), PLAIN, in_w as u64);
    }
}

#[test]
fn shapes() {
    let cases = [
        ("one pixel", ConvGeometry { in_h: 1, in_w: 1, out_h: 1, out_w: 1, ..base(8) }),
        ("one column", ConvGeometry { in_w: 1, out_w: 1, ..base(8) }),
        ("two columns", ConvGeometry { in_w: 2, out_w: 2, ..base(8) }),
        (
            "padding wider than the kernel",
            with_output(ConvGeometry { pad_top: 5, pad_left: 4, ..base(17) }, 5, 4),
        ),
        (
            "padding below and right only",
            with_output(ConvGeometry { pad_top: 0, pad_left: 0, ..base(17) }, 2, 1),
        ),
        (
            "3 × 1 of a width of 1",
            with_output(ConvGeometry { in_w: 1, kernel_w: 1, pad_left: 0, ..base(17) }, 1, 0),
        ),
        ("5 × 3", with_output(ConvGeometry { kernel_h: 5, ..base(17) }, 1, 1)),
        ("dilated rows", with_output(ConvGeometry { dilation_h: 2, ..base(17) }, 1, 1)),
        ("dilated columns", with_output(ConvGeometry { dilation_w: 3, ..base(17) }, 1, 1)),
        ("no pixels", ConvGeometry { batch: 0, ..base(8) }),
    ];
    for (i, (name, geometry)) in cases.into_iter().enumerate() {
        println!("{name}");
        check_all(geometry, PLAIN, i as u64);
    }
}

#[test]
fn random_convolutions() {
    let mut random = Random::new(11);
    for seed in 0..400 {
        let channels = random.pick(&[1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 64]);
        let geometry = with_output(
            ConvGeometry {
                batch: random.pick(&[1, 1, 2]),
                in_h: random.pick(&[1, 4, 5, 9]),
                in_w: random.pick(&[1, 3, 6, 17]),
                kernel_h: random.pick(&[1, 3, 3, 5]),
                kernel_w: random.pick(&[1, 3, 3, 5]),
                stride_h: random.pick(&[1, 2, 3]),
                stride_w: random.pick(&[1, 2, 3]),
                pad_top: random.pick(&[0, 1, 2]),
                pad_left: random.pick(&[0, 1, 2]),
                dilation_h: random.pick(&[1, 1, 2]),
                dilation_w: random.pick(&[1, 1, 2]),
                ..base(channels)
            },
            random.pick(&[0, 1, 3]),
            random.pick(&[0, 1, 3]),
        );
        check_all(geometry, Variant::random(&mut random), seed);
    }
    println!("instruction sets covered: {:?}", Isa::available().collect::<Vec<_>>());
}

#[test]
#[should_panic(expected = "residual in the output")]
fn residual_in_the_output_is_refused() {
    let g = base(8);
    select(Isa::Scalar)(&mut DepthwiseF32 {
        geometry: g,
        input: &vec![0.0; g.input_len()],
        weights: FloatWeights::F32(&vec![0.0; packed_len(&g)]),
        epilogue: EpilogueF32 {
            bias: &vec![0.0; padded_channels(&g)],
            residual: Some(ResidualData::InOutput),
            min: 0.0,
            max: 1.0,
            activation: None,
        },
        output: &mut vec![0.0; g.out_pixels() * g.out_c],
        output_stride: g.out_c,
    });
}

#[test]
fn short_slices_panic() {
    // What is cut from: input, weights, bias, residual, output.
    for cut in 0..5 {
        for isa in Isa::available() {
            let refused = std::panic::catch_unwind(|| {
                let g = base(8);
                let cut = |i: usize| usize::from(cut == i);
                select(isa)(&mut DepthwiseF32 {
                    geometry: g,
                    input: &vec![0.0; g.input_len() - cut(0)],
                    weights: FloatWeights::F32(&vec![0.0; packed_len(&g) - cut(1)]),
                    epilogue: EpilogueF32 {
                        bias: &vec![0.0; padded_channels(&g) - cut(2)],
                        residual: Some(ResidualData::Apart(&vec![
                            0.0;
                            g.out_pixels() * g.out_c - cut(3)
                        ])),
                        min: 0.0,
                        max: 1.0,
                        activation: None,
                    },
                    output: &mut vec![0.0; g.out_pixels() * g.out_c - cut(4)],
                    output_stride: g.out_c,
                });
            });
            assert!(refused.is_err(), "{isa} accepted a short slice, number {cut}");
        }
    }
}
