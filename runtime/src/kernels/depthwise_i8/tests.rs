//! One suite for every instruction set: a naive oracle, then each kernel against it.

use super::*;
use crate::kernels::shapes::{CONVOLUTION, Family};
use crate::kernels::testing::{Case, Epilogue, Fill, Output, Random, UNIT, UNTOUCHED, placed};

/// Everything a depthwise convolution reads, and what it must write.
struct Data {
    geometry: ConvGeometry,
    input: Vec<i8>,
    input_zero_point: i8,
    weights: Vec<i8>,
    packing: Packing,
    bias: Vec<i32>,
    weight_sums: Vec<i32>,
    epilogue: Epilogue,
    output_stride: usize,
    offset: usize,
    expected: Vec<i8>,
}

impl Data {
    fn new(
        case: Case,
        packing: Packing,
        fill: Fill,
        with_residual: bool,
        random: &mut Random,
    ) -> Self {
        let g = case.geometry();
        let (taps, channels) = (g.kernel_h * g.kernel_w, channels_len(g.in_c, packing));
        let hwc = random.i8s(taps * g.in_c, fill);
        let mut weights = vec![1; taps * channels];
        let mut sums = vec![];
        match packing {
            Packing::Panels => {
                pack_weights(&g, &hwc, &mut weights);
                sums = vec![1; channels];
                weight_sums(&g, &hwc, &mut sums);
            }
            Packing::CortexM => {
                for (at, weight) in hwc.iter().enumerate() {
                    weights[at % g.in_c * taps + at / g.in_c] = *weight;
                }
            }
        }
        let outputs = g.out_pixels() * g.out_c;
        let mut data = Data {
            geometry: g,
            input: random.i8s(g.input_len(), fill),
            input_zero_point: random.pick(&[-128, -1, 0, 3, 127]),
            weights,
            packing,
            bias: (0..channels).map(|_| random.next() as i32 % 20_000).collect(),
            weight_sums: sums,
            epilogue: Epilogue::new(channels, taps, outputs, fill, with_residual, random)
                .placed(case.offset),
            output_stride: g.out_c + case.gap,
            offset: case.offset,
            expected: Vec::new(),
        };
        data.expected = data.oracle(&hwc);
        data
    }

    /// Straight from the formulas of [`DepthwiseI8`] and [`EpilogueI8`], over unpacked weights.
    fn oracle(&self, hwc: &[i8]) -> Vec<i8> {
        let g = &self.geometry;
        let mut output = vec![UNTOUCHED; self.output_len()];
        for n in 0..g.batch {
            for oh in 0..g.out_h {
                for ow in 0..g.out_w {
                    for c in 0..g.in_c {
                        let mut acc = i64::from(self.bias[c]);
                        for kh in 0..g.kernel_h {
                            for kw in 0..g.kernel_w {
                                let h =
                                    (oh * g.stride_h + kh * g.dilation_h) as i64 - g.pad_top as i64;
                                let w = (ow * g.stride_w + kw * g.dilation_w) as i64
                                    - g.pad_left as i64;
                                let inside = (0..g.in_h as i64).contains(&h)
                                    && (0..g.in_w as i64).contains(&w);
                                let x = if inside {
                                    let row = (n * g.in_h + h as usize) * g.in_w + w as usize;
                                    self.input[row * g.in_c + c]
                                } else {
                                    self.input_zero_point
                                };
                                let weight = hwc[(kh * g.kernel_w + kw) * g.in_c + c];
                                acc += i64::from(x) * i64::from(weight);
                            }
                        }
                        let pixel = (n * g.out_h + oh) * g.out_w + ow;
                        output[pixel * self.output_stride + c] =
                            self.epilogue.oracle(acc as i32, c, pixel * g.out_c + c);
                    }
                }
            }
        }
        output
    }

    fn output_len(&self) -> usize {
        match self.geometry.out_pixels() {
            0 => 0,
            pixels => (pixels - 1) * self.output_stride + self.geometry.out_c,
        }
    }

    fn run(&self, isa: Isa) -> Vec<i8> {
        let at = self.offset;
        let mut output = Output::new(self.output_len(), at, UNTOUCHED);
        let (input, weights) = (placed(&self.input, at), placed(&self.weights, at));
        let (bias, sums) = (placed(&self.bias, at), placed(&self.weight_sums, at));
        // One byte off, so that nothing in it is aligned.
        let mut scratch = vec![0xa5; scratch_bytes(&self.geometry, isa) + 1];
        select(isa)(&mut DepthwiseI8 {
            geometry: &self.geometry,
            input: &input[at..],
            input_zero_point: self.input_zero_point,
            weights: &weights[at..],
            packing: self.packing,
            bias: &bias[at..],
            weight_sums: &sums[at..],
            epilogue: self.epilogue.get(),
            output: output.get(),
            output_stride: self.output_stride,
            scratch: &mut scratch[1..],
        });
        output.written()
    }
}

/// Runs the case on every instruction set with every kind of data. Channels are `input.2`.
fn check(case: Case, random: &mut Random) {
    let channels = case.input.2;
    let case = Case { out_c: channels, groups: channels, ..case };
    for fill in [Fill::Any, Fill::Extremes, Fill::Lowest] {
        for (with_residual, packing) in [
            (false, Packing::Panels),
            (true, Packing::Panels),
            (false, Packing::CortexM),
            (true, Packing::CortexM),
        ] {
            let data = Data::new(case, packing, fill, with_residual, random);
            for isa in Isa::available() {
                assert!(
                    data.run(isa) == data.expected,
                    "{isa} differs for {case:?}, {fill:?}, {packing:?}, residual {with_residual}"
                );
            }
        }
    }
}

#[test]
#[should_panic(expected = "residual in the output")]
fn residual_in_the_output_is_refused() {
    let case = Case { input: (2, 2, 24), out_c: 24, groups: 24, ..UNIT };
    let mut random = Random(0x0bad_5eed_0bad_5eed);
    let data = Data::new(case, Packing::Panels, Fill::Any, true, &mut random);
    let mut output = vec![UNTOUCHED; data.output_len()];
    let epilogue = data.epilogue.get_in_place(24, &mut output, data.output_stride);
    select(Isa::Scalar)(&mut DepthwiseI8 {
        geometry: &data.geometry,
        input: &data.input,
        input_zero_point: data.input_zero_point,
        weights: &data.weights,
        packing: data.packing,
        bias: &data.bias,
        weight_sums: &[],
        epilogue,
        output: &mut output,
        output_stride: data.output_stride,
        scratch: &mut [],
    });
}

/// A session reserves scratch for the largest sizes.
#[test]
fn smaller_inputs_need_no_more_scratch() {
    let mut random = Random(0x5eed_0bad_5eed_0bad);
    for _ in 0..200 {
        let kernel = random.pick(&[(1, 9), (3, 3), (5, 5), (4, 2)]);
        let stride = (random.pick(&[1, 2, 3]), random.pick(&[1, 2, 3]));
        let channels = random.pick(&[1, 3, 8, 16, 24, 40, 64, 96, 144, 200]);
        let bytes = |size: usize, isa: Isa| {
            let case = Case { input: (size, size, channels), kernel, stride, ..UNIT };
            let case = Case { out_c: channels, groups: channels, ..case };
            scratch_bytes(&case.geometry(), isa)
        };
        for isa in Isa::available() {
            let mut before = 0;
            for size in 9..200 {
                let needed = bytes(size, isa);
                assert!(needed >= before, "{isa}: {size}, {channels}, {kernel:?}, {stride:?}");
                before = needed;
            }
        }
    }
}

const FAMILY: Family = Family {
    name: "depthwise_i8",
    fields: CONVOLUTION,
    work: |shape| shape.depthwise_work() * 12,
    check: |shape| check(shape.depthwise(), &mut Random(shape.seed)),
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

#[test]
fn table() {
    let covered: Vec<_> = Isa::available().map(Isa::name).collect();
    println!("covered: {}", covered.join(", "));
    let square = Case { kernel: (3, 3), pad: (1, 1, 1, 1), ..UNIT };
    let cases = [
        UNIT,
        Case { batch: 0, ..square },
        Case { input: (2, 2, 4), kernel: (3, 3), ..UNIT },
        // Keyword spotting, visual wake words.
        Case { input: (25, 5, 64), ..square },
        Case { input: (13, 12, 8), ..square },
        Case { input: (12, 12, 16), stride: (2, 2), pad: (0, 0, 1, 1), ..square },
        Case { input: (3, 3, 256), ..square },
        Case { input: (6, 6, 128), stride: (2, 2), ..square },
        // Rows of several registers, and registers of several pixels.
        Case { input: (5, 23, 8), ..square },
        Case { input: (5, 23, 16), ..square },
        Case { input: (5, 23, 32), ..square },
        Case { input: (5, 23, 8), stride: (2, 2), ..square },
        Case { input: (5, 24, 16), stride: (1, 2), pad: (0, 0, 1, 1), ..square },
        Case { input: (6, 23, 32), stride: (2, 2), ..square },
        Case { input: (4, 40, 24), kernel: (2, 5), stride: (2, 3), pad: (1, 2, 0, 2), ..UNIT },
        // Smaller than the kernel, more padding than input.
        Case { input: (1, 1, 20), ..square },
        Case { input: (2, 1, 17), batch: 2, ..square },
        Case { input: (2, 2, 33), pad: (5, 4, 3, 6), ..square },
        Case { input: (2, 2, 33), pad: (4, 5, 6, 3), stride: (2, 2), ..square },
        Case { input: (9, 9, 24), stride: (3, 3), ..square },
        Case { input: (9, 9, 24), stride: (2, 1), ..square },
        Case { input: (9, 9, 24), stride: (1, 2), ..square },
        // Other kernels.
        Case { input: (9, 8, 40), kernel: (5, 5), pad: (2, 2, 2, 2), ..UNIT },
        Case { input: (9, 8, 40), kernel: (5, 5), pad: (1, 2, 2, 1), stride: (2, 2), ..UNIT },
        Case { input: (9, 8, 19), dilation: (2, 2), pad: (2, 2, 2, 2), ..square },
        Case { input: (1, 50, 30), kernel: (1, 5), pad: (0, 2, 0, 2), ..UNIT },
        Case { input: (50, 1, 7), kernel: (4, 1), pad: (1, 0, 2, 0), ..UNIT },
        Case { input: (25, 5, 64), kernel: (25, 5), ..UNIT },
    ];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for case in cases {
        check(case.somewhere(&mut random), &mut random);
    }
}

#[test]
fn channels() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for channels in (1..=35).chain([47, 48, 49, 63, 64, 65, 96, 100, 144]) {
        for kernel in [(3, 3), (2, 2)] {
            let stride = random.pick(&[(1, 1), (2, 2)]);
            let input = (4, 5, channels);
            let case = Case { input, kernel, stride, pad: (1, 1, 1, 1), ..UNIT };
            check(case.somewhere(&mut random), &mut random);
        }
    }
}

#[test]
fn random_shapes() {
    let mut random = Random(0x0123_4567_89ab_cdef);
    for _ in 0..300 {
        let pad = |random: &mut Random| random.below(4);
        let square = random.below(2) == 0;
        let case = Case {
            batch: random.pick(&[1, 1, 2, 3]),
            input: (1 + random.below(12), 1 + random.below(12), 1 + random.below(50)),
            kernel: if square {
                (3, 3)
            } else {
                (random.pick(&[1, 2, 3, 5]), random.pick(&[1, 2, 3, 4, 5]))
            },
            stride: (random.pick(&[1, 2, 3]), random.pick(&[1, 2, 3])),
            dilation: (random.pick(&[1, 1, 2]), random.pick(&[1, 1, 1, 2])),
            pad: (pad(&mut random), pad(&mut random), pad(&mut random), pad(&mut random)),
            ..UNIT
        };
        check(case.somewhere(&mut random), &mut random);
    }
}
