use super::{ConvI16, conv_i16, depthwise_i16};
use crate::kernels::testing::{Case, Random, UNIT};
use crate::kernels::{ConvGeometry, PANEL_N};

/// The formula, tap by tap, in i128 and with f64 for nothing.
fn oracle(g: &ConvGeometry, conv: &ConvI16<'_>, ohwi: &[i8]) -> Vec<i16> {
    let mut output = vec![];
    for pixel in 0..g.out_pixels() {
        let (row, column) = (pixel / g.out_w % g.out_h, pixel % g.out_w);
        let image = pixel / (g.out_h * g.out_w);
        for n in 0..g.out_c {
            let mut acc = i128::from(conv.bias[n]);
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
                        acc += i128::from(conv.input[at * g.in_c + channel]) * i128::from(w);
                    }
                }
            }
            let real = (acc as f32 * conv.scale[n]).round_ties_even();
            output.push(real.clamp(conv.min as f32, conv.max as f32) as i16);
        }
    }
    output
}

#[test]
fn agrees_with_the_formula() {
    let mut random = Random(77);
    let any = |random: &mut Random, extremes: bool| match extremes {
        true => random.pick(&[i16::MIN, i16::MAX]),
        false => random.next() as i16,
    };
    let shapes: [(Case, bool); 10] = [
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
            },
            true,
        ),
        (Case { input: (1, 9, 16), out_c: 16, kernel: (1, 9), groups: 16, ..UNIT }, true),
        (Case { input: (3, 3, 1), out_c: 1, kernel: (3, 3), ..UNIT }, true),
    ];
    for (case, depthwise) in shapes {
        let g = case.geometry();
        for extremes in [false, true] {
            let input: Vec<i16> = (0..g.input_len()).map(|_| any(&mut random, extremes)).collect();
            let ohwi: Vec<i8> = (0..g.out_c * g.k())
                .map(|_| if extremes { random.pick(&[-128, 127]) } else { random.next() as i8 })
                .collect();
            let bias: Vec<i64> = (0..g.out_c.next_multiple_of(PANEL_N))
                .map(|_| (random.next() as i64) >> 20)
                .collect();
            let scale: Vec<f32> = (0..bias.len())
                .map(|_| 1.0 / (1u64 << (18 + random.below(16))) as f32 * 0.77)
                .collect();
            let wide = g.in_c.next_multiple_of(PANEL_N);
            let packed = if depthwise {
                let taps = g.kernel_h * g.kernel_w;
                let mut packed = vec![0; taps * wide];
                for channel in 0..g.in_c {
                    for tap in 0..taps {
                        packed[tap * wide + channel] = ohwi[channel * taps + tap];
                    }
                }
                packed
            } else {
                ohwi.clone()
            };
            let mut output = vec![0; g.out_pixels() * g.out_c];
            let mut conv = ConvI16 {
                geometry: g,
                input: &input,
                weights: &packed,
                bias: &bias,
                scale: &scale,
                min: -30000,
                max: 32767,
                output: &mut output,
            };
            let want = oracle(&g, &conv, &ohwi);
            if depthwise {
                depthwise_i16(&mut conv)
            } else {
                conv_i16(&mut conv)
            }
            assert_eq!(output, want, "{case:?}");
        }
    }
}
