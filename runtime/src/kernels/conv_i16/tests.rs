use super::{ConvI16, conv_i16_dense, scratch_len, select, select_depthwise};
use crate::Isa;
use crate::kernels::shapes::{CONVOLUTION, Family};
use crate::kernels::testing::{Case, Output, Random, UNIT, placed};
use crate::kernels::{ConvGeometry, PANEL_N, conv_i8};

/// The formula, tap by tap, in i128 and with f64 for nothing.
fn oracle(g: &ConvGeometry, input: &[i16], ohwi: &[i8], bias: &[i64], scale: &[f32]) -> Vec<i16> {
    let mut output = vec![];
    for pixel in 0..g.out_pixels() {
        let (row, column) = (pixel / g.out_w % g.out_h, pixel % g.out_w);
        let image = pixel / (g.out_h * g.out_w);
        for n in 0..g.out_c {
            let mut acc = i128::from(bias[n]);
            for kh in 0..g.kernel_h {
                for kw in 0..g.kernel_w {
                    let y = (row * g.stride_h + kh * g.dilation_h) as i64 - g.pad_top as i64;
                    let x = (column * g.stride_w + kw * g.dilation_w) as i64 - g.pad_left as i64;
                    if !(0..g.in_h as i64).contains(&y) || !(0..g.in_w as i64).contains(&x) {
                        continue;
                    }
                    for c in 0..g.group_in_c() {
                        let channel = n / g.group_out_c() * g.group_in_c() + c;
                        let at = (image * g.in_h + y as usize) * g.in_w + x as usize;
                        let w =
                            ohwi[((n * g.kernel_h + kh) * g.kernel_w + kw) * g.group_in_c() + c];
                        acc += i128::from(input[at * g.in_c + channel]) * i128::from(w);
                    }
                }
            }
            let real = (acc as f32 * scale[n]).round_ties_even();
            output.push(if real.is_nan() { -30000 } else { real.clamp(-30000.0, 32767.0) as i16 });
        }
    }
    output
}

/// A convolution of random numbers, and one of extreme ones, on every instruction set.
fn check(case: Case, depthwise: bool, random: &mut Random) {
    let any = |random: &mut Random, extremes: bool| match extremes {
        true => random.pick(&[i16::MIN, i16::MAX]),
        false => random.next() as i16,
    };
    let g = case.geometry();
    for extremes in [false, true] {
        let input: Vec<i16> = (0..g.input_len()).map(|_| any(random, extremes)).collect();
        let ohwi: Vec<i8> = (0..g.out_c * g.k())
            .map(|_| if extremes { random.pick(&[-128, 127]) } else { random.next() as i8 })
            .collect();
        // Biases at which vectors of 32 bits do and don't suffice.
        let most_bits = random.pick(&[30, 31, 44]);
        let bias: Vec<i64> =
            (0..g.out_c).map(|_| (random.next() as i64) >> (64 - most_bits)).collect();
        let mut scale: Vec<f32> = (0..bias.len())
            .map(|_| 1.0 / (1u64 << (18 + random.below(16))) as f32 * 0.77)
            .collect();
        if extremes {
            scale[0] = f32::INFINITY;
        }
        let wide = g.in_c.next_multiple_of(PANEL_N);
        let taps = g.kernel_h * g.kernel_w;
        let mut filters = vec![0; if depthwise { taps * wide } else { 0 }];
        for (at, w) in ohwi.iter().enumerate().take_while(|_| depthwise) {
            filters[at % taps * wide + at / taps] = *w;
        }
        let mut panels = vec![0; g.packed_i8_len()];
        conv_i8::pack_weights(&g, &ohwi, &mut panels);
        // Padding holds rubbish: it must not reach the output.
        let place = |n: usize| match depthwise {
            true => n,
            false => n / g.group_out_c() * g.padded_group_out_c() + n % g.group_out_c(),
        };
        let len = if depthwise { wide } else { g.padded_out_c() };
        let (mut padded_bias, mut padded_scale) = (vec![77; len], vec![1.0; len]);
        for n in 0..g.out_c {
            (padded_bias[place(n)], padded_scale[place(n)]) = (bias[n], scale[n]);
        }
        let run = |kernel: fn(&mut ConvI16<'_>), dense: bool, scratch: usize| {
            let at = case.offset;
            let mut output = Output::new(g.out_pixels() * g.out_c, at, 85);
            let weights = match (depthwise, dense) {
                (true, _) => &filters,
                (false, true) => &ohwi,
                (false, false) => &panels,
            };
            let (input, weights) = (placed(&input, at), placed(weights, at));
            let bias = placed(if dense { &bias } else { &padded_bias }, at);
            let scale = placed(if dense { &scale } else { &padded_scale }, at);
            kernel(&mut ConvI16 {
                geometry: g,
                input: &input[at..],
                weights: &weights[at..],
                bias: &bias[at..],
                scale: &scale[at..],
                min: -30000,
                max: 32767,
                output: output.get(),
                scratch: &mut vec![0x5A5A; at + scratch][at..],
            });
            output.written()
        };
        let want = oracle(&g, &input, &ohwi, &bias, &scale);
        for isa in Isa::available() {
            let kernel = if depthwise { select_depthwise(isa) } else { select(isa) };
            let output = run(kernel, false, scratch_len(&g, isa));
            assert_eq!(output, want, "{case:?} on {isa}");
        }
        if !depthwise {
            assert_eq!(run(conv_i16_dense, true, 0), want, "{case:?}, dense");
        }
    }
}

const FAMILY: Family = Family {
    name: "conv_i16",
    fields: CONVOLUTION,
    work: |shape| shape.convolution_work() * 12,
    check: |shape| check(shape.convolution(), false, &mut Random(shape.seed)),
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

const FAMILY_DEPTHWISE: Family = Family {
    name: "depthwise_i16",
    fields: CONVOLUTION,
    work: |shape| shape.depthwise_work() * 12,
    check: |shape| check(shape.depthwise(), true, &mut Random(shape.seed)),
};

#[test]
fn kept_shapes_depthwise() {
    FAMILY_DEPTHWISE.replay();
}

#[test]
#[ignore = "a search"]
fn search_shapes_depthwise() {
    FAMILY_DEPTHWISE.search();
}

#[test]
fn agrees_with_the_formula() {
    let mut random = Random(77);
    let shapes: [(Case, bool); 17] = [
        (Case { input: (1, 1, 1500), out_c: 5, ..UNIT }, false),
        (Case { batch: 3, input: (1, 1, 7), out_c: 17, ..UNIT }, false),
        (Case { input: (6, 5, 3), out_c: 4, kernel: (3, 3), pad: (1, 1, 1, 1), ..UNIT }, false),
        (
            Case {
                batch: 2,
                input: (7, 9, 4),
                out_c: 6,
                kernel: (3, 2),
                stride: (2, 3),
                dilation: (2, 2),
                pad: (2, 1, 3, 2),
                groups: 2,
                ..UNIT
            },
            false,
        ),
        (Case { input: (2, 2, 3), out_c: 2, kernel: (5, 5), pad: (4, 4, 4, 4), ..UNIT }, false),
        (Case { input: (1, 40, 8), out_c: 8, kernel: (1, 3), groups: 4, ..UNIT }, false),
        (Case { input: (5, 5, 19), out_c: 19, kernel: (3, 3), groups: 19, ..UNIT }, true),
        (
            Case {
                batch: 2,
                input: (6, 4, 33),
                out_c: 33,
                kernel: (2, 3),
                stride: (2, 1),
                dilation: (1, 2),
                pad: (1, 2, 0, 2),
                groups: 33,
                ..UNIT
            },
            true,
        ),
        (Case { input: (1, 9, 16), out_c: 16, kernel: (1, 9), groups: 16, ..UNIT }, true),
        (Case { input: (3, 3, 1), out_c: 1, kernel: (3, 3), ..UNIT }, true),
        // One run of products, and one more; pixels one by one and two by two; parts of panels and words.
        (Case { batch: 2, input: (1, 1, 256), out_c: 16, ..UNIT }, false),
        (Case { batch: 5, input: (1, 1, 257), out_c: 31, ..UNIT }, false),
        (Case { batch: 4, input: (1, 1, 1030), out_c: 33, ..UNIT }, false),
        (Case { input: (5, 7, 28), out_c: 20, kernel: (3, 3), pad: (1, 1, 1, 1), ..UNIT }, false),
        (Case { input: (3, 9, 40), out_c: 72, kernel: (1, 3), groups: 2, ..UNIT }, false),
        (Case { input: (40, 30, 3), out_c: 3, kernel: (17, 16), groups: 3, ..UNIT }, true),
        (
            Case {
                input: (9, 8, 16),
                out_c: 16,
                kernel: (3, 3),
                pad: (2, 2, 2, 2),
                groups: 16,
                ..UNIT
            },
            true,
        ),
    ];
    for (case, depthwise) in shapes {
        let offset = random.pick(&[0, 1, 3]);
        check(Case { offset, ..case }, depthwise, &mut random);
    }
    println!("instruction sets covered: {:?}", Isa::available().collect::<Vec<_>>());
}
