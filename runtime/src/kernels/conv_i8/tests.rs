//! One suite for every instruction set: a naive oracle, then each kernel against it.

use super::*;
use crate::kernels::shapes::{CONVOLUTION, Family};
use crate::kernels::testing::{
    Case, EMULATED, Epilogue, Fill, Output, Random, UNIT, UNTOUCHED, placed,
};

/// Everything a convolution reads, and what it must write.
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
        let input = random.i8s(g.input_len(), fill);
        let ohwi = random.i8s(g.out_c * g.k(), fill);
        let mut weights = vec![1; g.weights_i8_len(packing)];
        let mut sums = vec![];
        match packing {
            Packing::Panels => {
                pack_weights(&g, &ohwi, &mut weights);
                sums = vec![1; g.padded_out_c()];
                weight_sums(&g, &ohwi, &mut sums);
            }
            Packing::CortexM => pack_weights_cortex_m(&g, &ohwi, &mut weights),
        }
        let channels = g.channels_len(packing);
        let bias = (0..channels).map(|_| random.next() as i32 % 20_000).collect();
        let outputs = g.out_pixels() * g.out_c;
        let epilogue = Epilogue::new(channels, g.k(), outputs, fill, with_residual, random)
            .placed(case.offset);
        let mut data = Data {
            geometry: g,
            input,
            input_zero_point: random.pick(&[-128, -1, 0, 3, 127]),
            weights,
            packing,
            bias,
            weight_sums: sums,
            epilogue,
            output_stride: g.out_c + case.gap,
            offset: case.offset,
            expected: Vec::new(),
        };
        data.expected = data.oracle(&ohwi);
        data
    }

    /// Straight from the formulas of [`ConvI8`] and [`EpilogueI8`], over unpacked weights.
    fn oracle(&self, ohwi: &[i8]) -> Vec<i8> {
        let g = &self.geometry;
        let (group_in, group_out) = (g.in_c / g.groups, g.out_c / g.groups);
        let lanes = if self.packing == Packing::Panels { 16 } else { 2 };
        let padded_group_out = group_out.div_ceil(lanes) * lanes;
        let mut output = vec![UNTOUCHED; self.output_len()];
        for n in 0..g.batch {
            for oh in 0..g.out_h {
                for ow in 0..g.out_w {
                    for o in 0..g.out_c {
                        let padded = o / group_out * padded_group_out + o % group_out;
                        let mut acc = i64::from(self.bias[padded]);
                        for kh in 0..g.kernel_h {
                            for kw in 0..g.kernel_w {
                                for c in 0..group_in {
                                    let h = (oh * g.stride_h + kh * g.dilation_h) as i64
                                        - g.pad_top as i64;
                                    let w = (ow * g.stride_w + kw * g.dilation_w) as i64
                                        - g.pad_left as i64;
                                    let inside = (0..g.in_h as i64).contains(&h)
                                        && (0..g.in_w as i64).contains(&w);
                                    let x = if inside {
                                        let row = (n * g.in_h + h as usize) * g.in_w + w as usize;
                                        self.input[row * g.in_c + o / group_out * group_in + c]
                                    } else {
                                        self.input_zero_point
                                    };
                                    let tap = (o * g.kernel_h + kh) * g.kernel_w + kw;
                                    acc += i64::from(x) * i64::from(ohwi[tap * group_in + c]);
                                }
                            }
                        }
                        let pixel = (n * g.out_h + oh) * g.out_w + ow;
                        output[pixel * self.output_stride + o] =
                            self.epilogue.oracle(acc as i32, padded, pixel * g.out_c + o);
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

    /// Runs it, with the residual apart or where the output goes.
    fn run(&self, isa: Isa, with_weight_sums: bool, in_place: bool) -> Vec<i8> {
        let at = self.offset;
        let mut output = Output::new(self.output_len(), at, UNTOUCHED);
        let (input, weights) = (placed(&self.input, at), placed(&self.weights, at));
        let (bias, sums) = (placed(&self.bias, at), placed(&self.weight_sums, at));
        let epilogue = match in_place {
            true => {
                let channels = self.geometry.out_c;
                self.epilogue.get_in_place(channels, output.get(), self.output_stride)
            }
            false => self.epilogue.get(),
        };
        // One byte off, so that nothing in it is aligned.
        let mut scratch = vec![0xa5; scratch_bytes(&self.geometry, isa) + 1];
        select(isa)(&mut ConvI8 {
            geometry: &self.geometry,
            input: &input[at..],
            input_zero_point: self.input_zero_point,
            weights: &weights[at..],
            packing: self.packing,
            bias: &bias[at..],
            weight_sums: if with_weight_sums { &sums[at..] } else { &[] },
            epilogue,
            output: output.get(),
            output_stride: self.output_stride,
            scratch: &mut scratch[1..],
        });
        output.written()
    }
}

/// With a residual and without, in every packing.
const VARIANTS: [(bool, Packing); 4] = [
    (false, Packing::Panels),
    (true, Packing::Panels),
    (false, Packing::CortexM),
    (true, Packing::CortexM),
];

/// Runs the case on every instruction set with every kind of data.
fn check(case: Case, random: &mut Random) {
    for fill in [Fill::Any, Fill::Extremes, Fill::Lowest] {
        for (with_residual, packing) in VARIANTS {
            let data = Data::new(case, packing, fill, with_residual, random);
            for isa in Isa::available() {
                for (sums, in_place) in [(true, false), (false, false), (true, true), (false, true)]
                {
                    assert!(
                        data.run(isa, sums, in_place) == data.expected,
                        "{isa} differs for {case:?}, {fill:?}, {packing:?}, residual \
                         {with_residual}, in place {in_place}, weight sums {sums}"
                    );
                }
            }
        }
    }
}

const FAMILY: Family = Family {
    name: "conv_i8",
    fields: CONVOLUTION,
    work: |shape| shape.convolution_work() * 12,
    check: |shape| check(shape.convolution(), &mut Random(shape.seed)),
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
    let cases = [
        UNIT,
        Case { batch: 0, ..UNIT },
        Case { input: (0, 3, 4), ..UNIT },
        Case { input: (2, 2, 4), kernel: (3, 3), ..UNIT },
        // Fully connected, one row and several.
        Case { input: (1, 1, 640), out_c: 128, ..UNIT },
        Case { input: (1, 1, 129), out_c: 8, ..UNIT },
        Case { batch: 2, input: (1, 1, 67), out_c: 40, ..UNIT },
        Case { batch: 7, input: (1, 1, 31), out_c: 33, ..UNIT },
        // Pointwise.
        Case { input: (5, 25, 64), out_c: 64, ..UNIT },
        Case { input: (3, 3, 17), out_c: 10, batch: 2, ..UNIT },
        Case { input: (9, 7, 16), out_c: 32, stride: (2, 2), ..UNIT },
        Case { input: (2, 2, 3000), out_c: 3, ..UNIT },
        // One pixel of the whole input, and nearly so: of three groups, of every other column, with padding.
        Case { input: (1, 1, 64), out_c: 150, ..UNIT },
        Case { input: (3, 5, 12), out_c: 70, kernel: (3, 5), stride: (2, 3), ..UNIT },
        Case { input: (3, 3, 3), out_c: 70, kernel: (3, 3), ..UNIT },
        Case { input: (3, 5, 12), out_c: 72, kernel: (3, 5), groups: 3, ..UNIT },
        Case { input: (1, 5, 8), out_c: 70, kernel: (1, 3), dilation: (1, 2), ..UNIT },
        Case {
            input: (2, 3, 8),
            out_c: 70,
            kernel: (2, 3),
            stride: (9, 9),
            dilation: (1, 2),
            pad: (0, 0, 0, 2),
            ..UNIT
        },
        Case {
            input: (2, 3, 8),
            out_c: 70,
            kernel: (2, 3),
            stride: (9, 9),
            pad: (1, 0, 0, 0),
            ..UNIT
        },
        // First layers: keyword spotting, image classification, visual wake words.
        Case {
            input: (49, 10, 1),
            out_c: 64,
            kernel: (10, 4),
            stride: (2, 2),
            pad: (4, 1, 5, 1),
            ..UNIT
        },
        Case { input: (12, 12, 3), out_c: 16, kernel: (3, 3), pad: (1, 1, 1, 1), ..UNIT },
        Case {
            input: (16, 16, 3),
            out_c: 8,
            kernel: (3, 3),
            stride: (2, 2),
            pad: (0, 0, 1, 1),
            ..UNIT
        },
        Case { input: (28, 28, 1), out_c: 12, kernel: (5, 5), ..UNIT },
        Case { input: (15, 14, 3), out_c: 5, kernel: (7, 7), pad: (3, 3, 3, 3), ..UNIT },
        // Body.
        Case { input: (8, 8, 64), out_c: 64, kernel: (3, 3), pad: (1, 1, 1, 1), ..UNIT },
        Case {
            batch: 2,
            input: (9, 9, 16),
            out_c: 32,
            kernel: (3, 3),
            stride: (2, 2),
            pad: (1, 1, 1, 1),
            ..UNIT
        },
        Case {
            input: (9, 10, 8),
            out_c: 48,
            kernel: (3, 3),
            dilation: (2, 2),
            pad: (2, 2, 2, 2),
            ..UNIT
        },
        Case {
            input: (9, 10, 8),
            out_c: 20,
            kernel: (3, 3),
            dilation: (3, 1),
            pad: (2, 1, 4, 0),
            ..UNIT
        },
        Case { input: (7, 7, 8), out_c: 12, kernel: (3, 3), groups: 2, pad: (1, 1, 1, 1), ..UNIT },
        Case { input: (6, 5, 4), out_c: 8, kernel: (3, 3), groups: 4, ..UNIT },
        // More padding than input, and strides beyond the kernel.
        Case { input: (2, 2, 4), out_c: 4, kernel: (3, 3), pad: (7, 6, 5, 8), ..UNIT },
        Case { input: (2, 2, 3), out_c: 4, kernel: (3, 3), pad: (7, 6, 5, 8), ..UNIT },
        Case { input: (11, 13, 4), out_c: 9, kernel: (2, 2), stride: (3, 3), ..UNIT },
        // One-dimensional, along rows and along columns.
        Case { input: (1, 50, 8), out_c: 16, kernel: (1, 3), pad: (0, 1, 0, 1), ..UNIT },
        Case { input: (50, 1, 8), out_c: 16, kernel: (3, 1), pad: (1, 0, 1, 0), ..UNIT },
        Case {
            input: (50, 1, 6),
            out_c: 17,
            kernel: (5, 1),
            stride: (2, 1),
            dilation: (2, 1),
            pad: (3, 0, 2, 0),
            ..UNIT
        },
        Case { input: (1, 9000, 1), out_c: 8, kernel: (1, 8), stride: (1, 4), ..UNIT },
        // Rows too long for the ring.
        Case { input: (4, 700, 16), out_c: 4, kernel: (3, 3), pad: (1, 1, 1, 1), ..UNIT },
    ];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for case in cases {
        check(case.somewhere(&mut random), &mut random);
    }
}

#[test]
fn channels() {
    // Lanes − 1, lanes, lanes + 1 of everything that has lanes.
    const CHANNELS: [usize; 16] = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65];
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for in_c in CHANNELS {
        for out_c in CHANNELS {
            let pixels = 1 + random.below(15);
            let case = Case { input: (1, pixels, in_c), out_c, ..UNIT };
            check(case.somewhere(&mut random), &mut random);
        }
        let out_c = random.pick(&CHANNELS);
        let square = Case { input: (5, 6, in_c), out_c, kernel: (3, 3), ..UNIT };
        check(Case { pad: (1, 1, 1, 1), ..square }, &mut random);
    }
}

#[test]
fn random_shapes() {
    let mut random = Random(0x0123_4567_89ab_cdef);
    for _ in 0..if EMULATED { 100 } else { 250 } {
        let groups = random.pick(&[1, 1, 1, 1, 2, 4]);
        let pad = |random: &mut Random| random.below(4);
        let case = Case {
            batch: random.pick(&[1, 1, 2, 3]),
            input: (
                1 + random.below(12),
                1 + random.below(12),
                groups * random.pick(&[1, 2, 3, 4, 5, 8, 12, 16, 20]),
            ),
            out_c: groups * (1 + random.below(40)),
            kernel: (random.pick(&[1, 2, 3, 5]), random.pick(&[1, 2, 3, 4, 5])),
            stride: (random.pick(&[1, 2, 3]), random.pick(&[1, 2, 3])),
            dilation: (random.pick(&[1, 1, 2]), random.pick(&[1, 1, 1, 2])),
            pad: (pad(&mut random), pad(&mut random), pad(&mut random), pad(&mut random)),
            groups,
            ..UNIT
        };
        check(case.somewhere(&mut random), &mut random);
    }
}

/// NaN and infinities end at the bounds that [`EpilogueI8`] defines, on every instruction set.
#[test]
fn strange_scales() {
    let mut random = Random(0xfeed_beef_0bad_cafe);
    let pixels = Case { input: (3, 3, 8), out_c: 24, ..UNIT };
    let row = Case { input: (1, 1, 8), out_c: 90, ..UNIT };
    let cases = [pixels, row].into_iter().flat_map(|case| VARIANTS.map(|variant| (case, variant)));
    for (case, (with_residual, packing)) in cases {
        let mut data = Data::new(case, packing, Fill::Any, with_residual, &mut random);
        let scales =
            [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e30, -1e30];
        let scales: Vec<f32> = scales.into_iter().cycle().take(data.epilogue.scale.len()).collect();
        data.epilogue.scale = placed(&scales, 0);
        data.bias[0] = i32::MIN;
        data.bias[1] = i32::MAX;
        for scale_conv in [1.0, f32::INFINITY, f32::NAN] {
            if let Some((_, residual)) = &mut data.epilogue.residual {
                residual.scale_conv = scale_conv;
            }
            let expected = data.run(Isa::Scalar, true, false);
            for isa in Isa::available() {
                assert!(data.run(isa, true, with_residual) == expected, "{isa} differs");
            }
        }
    }
}

/// Sums that overflow i32 wrap, and don't saturate.
#[test]
fn overflow_wraps() {
    let mut random = Random(0xdead_beef_dead_beef);
    let case = Case { batch: 3, input: (1, 1, 140_000), out_c: 3, ..UNIT };
    for (_, packing) in &VARIANTS[1..3] {
        let data = Data::new(case, *packing, Fill::Lowest, false, &mut random);
        for isa in Isa::available() {
            assert!(data.run(isa, true, false) == data.expected, "{isa} differs");
        }
    }
}

#[test]
#[should_panic(expected = "scratch too short")]
fn short_scratch_is_refused() {
    let geometry = ConvGeometry::matmul(1, 4, 1);
    let Some(isa) = Isa::available().find(|isa| scratch_bytes(&geometry, *isa) > 0) else {
        panic!("scratch too short: not needed on this machine");
    };
    select(isa)(&mut ConvI8 {
        geometry: &geometry,
        input: &[0; 4],
        input_zero_point: 0,
        weights: &[0; 64],
        packing: Packing::Panels,
        bias: &[0; 16],
        weight_sums: &[],
        epilogue: EpilogueI8 {
            scale: &[0.0; 16],
            fixed_point: &[],
            zero_point: 0,
            min: -128,
            max: 127,
            residual: None,
        },
        output: &mut [0],
        output_stride: 1,
        scratch: &mut [],
    });
}
