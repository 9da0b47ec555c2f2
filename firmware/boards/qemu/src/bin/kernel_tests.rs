//! The integer kernels with DSP instructions against the scalar ones, bit for bit, then what they cost.
//!
//! Prints a line per family and one per measured layer; exits with 1 when bits differ.
#![no_std]
#![no_main]

use cortex_m_rt::entry;
use semihosting::{println, process};
use whit::Isa;
use whit::kernels::add_i8::{self, AddI8};
use whit::kernels::conv_i8::{self, ConvI8};
use whit::kernels::depthwise_i8::{self, DepthwiseI8};
use whit::kernels::{ConvGeometry, EpilogueI8, Packing, ResidualData, ResidualI8};
use whit_board_qemu::counter::{self, Calibration};

/// Elements of an activation at most; the random shapes are cut to it.
const ACTIVATIONS: usize = 20 << 10;
/// Elements of a layer's weights at most.
const WEIGHTS: usize = 80 << 10;
/// Elements of a per-channel vector at most, with room for the padding of panels.
const CHANNELS: usize = 1024;
/// Bytes of scratch: three pixels of the largest K, expanded and gathered.
const SCRATCH: usize = 48 << 10;
/// Random shapes of each family.
const ROUNDS: usize = 400;
/// What is in an output before: gaps between rows must keep it.
const UNTOUCHED: i8 = 85;

struct Buffers {
    input: [i8; ACTIVATIONS],
    weights: [i8; WEIGHTS],
    packed: Aligned,
    bias: [i32; CHANNELS],
    scale: [f32; CHANNELS],
    residual: [i8; ACTIVATIONS],
    expected: [i8; ACTIVATIONS],
    output: [i8; ACTIVATIONS],
    scratch: [u8; SCRATCH],
}

/// Weights are at multiples of four, as the converter places them.
#[repr(align(4))]
struct Aligned([i8; WEIGHTS]);

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    println!("{info}");
    process::exit(101)
}

#[entry]
fn main() -> ! {
    let core = cortex_m::Peripherals::take().expect("taken once");
    counter::start(core.SYST);
    let calibration = Calibration::measure();
    let buffers = cortex_m::singleton!(: Buffers = Buffers {
        input: [0; ACTIVATIONS],
        weights: [0; WEIGHTS],
        packed: Aligned([0; WEIGHTS]),
        bias: [0; CHANNELS],
        scale: [0.0; CHANNELS],
        residual: [0; ACTIVATIONS],
        expected: [0; ACTIVATIONS],
        output: [0; ACTIVATIONS],
        scratch: [0; SCRATCH],
    });
    let buffers = buffers.expect("taken once");
    if !Isa::CortexM.is_available() {
        println!("this target has no DSP kernels");
        process::exit(1);
    }
    let mut random = Random(0x9e37_79b9);
    let mut cases = 0;
    for case in CONVOLUTIONS {
        cases += buffers.check_all(case, &mut random);
    }
    for _ in 0..ROUNDS {
        let case = random_case(&mut random, false);
        cases += buffers.check_all(&case, &mut random);
    }
    println!("conv_i8 equal {cases}");
    cases = 0;
    for case in DEPTHWISE {
        cases += buffers.check_all(case, &mut random);
    }
    for _ in 0..ROUNDS {
        let case = random_case(&mut random, true);
        cases += buffers.check_all(&case, &mut random);
    }
    println!("depthwise_i8 equal {cases}");
    println!("add_i8 equal {}", buffers.check_add(&mut random));
    for (name, case) in LAYERS {
        buffers.measure(name, case, &mut random, &calibration);
    }
    process::exit(0)
}

/// Xorshift: Marsaglia, "Xorshift RNGs", 2003.
struct Random(u32);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 8) as usize % bound
    }

    fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }

    fn fill(&mut self, to: &mut [i8], fill: Fill) {
        for value in to {
            *value = match fill {
                Fill::Any => self.next() as i8,
                Fill::Extremes => self.pick(&[-128, 127]),
                Fill::Lowest => -128,
            };
        }
    }
}

/// What activations and weights are made of.
#[derive(Clone, Copy, Debug)]
enum Fill {
    Any,
    Extremes,
    Lowest,
}

/// A shape: (height, width, channels), then (height, width) each.
#[derive(Clone, Copy, Debug)]
struct Case {
    batch: usize,
    input: (usize, usize, usize),
    out_c: usize,
    kernel: (usize, usize),
    stride: (usize, usize),
    dilation: (usize, usize),
    /// Top, left, bottom, right.
    pad: (usize, usize, usize, usize),
    groups: usize,
}

const UNIT: Case = Case {
    batch: 1,
    input: (1, 1, 1),
    out_c: 1,
    kernel: (1, 1),
    stride: (1, 1),
    dilation: (1, 1),
    pad: (0, 0, 0, 0),
    groups: 1,
};

const SQUARE: Case = Case { kernel: (3, 3), pad: (1, 1, 1, 1), ..UNIT };

/// The edges of the convolution's paths: pixels by threes, channels by pairs, inputs by quads, by blocks of
/// 16 and 32, and by chunks of 480.
const CONVOLUTIONS: &[Case] = &[
    UNIT,
    Case { batch: 0, ..UNIT },
    Case { input: (2, 2, 4), out_c: 4, kernel: (3, 3), ..UNIT },
    Case { input: (1, 1, 4), out_c: 2, ..UNIT },
    Case { input: (1, 1, 640), out_c: 128, ..UNIT },
    Case { input: (1, 1, 479), out_c: 3, ..UNIT },
    Case { input: (1, 1, 480), out_c: 3, ..UNIT },
    Case { input: (1, 1, 484), out_c: 3, ..UNIT },
    Case { input: (1, 1, 1985), out_c: 5, ..UNIT },
    Case { batch: 2, input: (1, 1, 67), out_c: 40, ..UNIT },
    Case { batch: 5, input: (1, 1, 31), out_c: 33, ..UNIT },
    Case { batch: 3, input: (1, 1, 960), out_c: 7, ..UNIT },
    Case { batch: 4, input: (1, 1, 976), out_c: 7, ..UNIT },
    Case { batch: 3, input: (1, 1, 2000), out_c: 4, ..UNIT },
    Case { input: (5, 25, 64), out_c: 64, ..UNIT },
    Case { input: (3, 3, 17), out_c: 10, batch: 2, ..UNIT },
    Case { input: (9, 7, 16), out_c: 32, stride: (2, 2), ..UNIT },
    Case {
        input: (49, 10, 1),
        out_c: 64,
        kernel: (10, 4),
        stride: (2, 2),
        pad: (4, 1, 5, 1),
        ..UNIT
    },
    Case { input: (12, 12, 3), out_c: 16, ..SQUARE },
    Case { input: (16, 16, 3), out_c: 8, stride: (2, 2), pad: (0, 0, 1, 1), ..SQUARE },
    Case { input: (8, 8, 64), out_c: 66, ..SQUARE },
    Case { input: (9, 10, 8), out_c: 48, dilation: (2, 2), pad: (2, 2, 2, 2), ..SQUARE },
    Case { input: (9, 10, 8), out_c: 20, dilation: (3, 1), pad: (2, 1, 4, 0), ..SQUARE },
    Case { input: (7, 7, 8), out_c: 12, groups: 2, ..SQUARE },
    Case { input: (6, 5, 4), out_c: 8, kernel: (3, 3), groups: 4, ..UNIT },
    Case { input: (6, 5, 6), out_c: 9, groups: 3, ..SQUARE },
    Case { input: (2, 2, 4), out_c: 4, kernel: (3, 3), pad: (7, 6, 5, 8), ..UNIT },
    Case { input: (11, 13, 4), out_c: 9, kernel: (2, 2), stride: (3, 3), ..UNIT },
    Case {
        input: (50, 1, 6),
        out_c: 17,
        kernel: (5, 1),
        stride: (2, 1),
        dilation: (2, 1),
        pad: (3, 0, 2, 0),
        ..UNIT
    },
];

/// The edges of the depthwise convolution's paths: squares of three with one or two columns between outputs,
/// single columns, channels by fours, outputs by pairs, strips.
const DEPTHWISE: &[Case] = &[
    UNIT,
    Case { batch: 0, ..SQUARE },
    Case { input: (2, 2, 4), kernel: (3, 3), ..UNIT },
    Case { input: (25, 5, 64), ..SQUARE },
    Case { input: (13, 12, 8), ..SQUARE },
    Case { input: (12, 12, 16), stride: (2, 2), pad: (0, 0, 1, 1), ..SQUARE },
    Case { input: (3, 3, 256), ..SQUARE },
    Case { input: (6, 6, 128), stride: (2, 2), ..SQUARE },
    Case { input: (40, 90, 5), ..SQUARE },
    Case { input: (1, 1, 20), ..SQUARE },
    Case { input: (2, 1, 17), batch: 2, ..SQUARE },
    Case { input: (2, 2, 33), pad: (5, 4, 3, 6), ..SQUARE },
    Case { input: (2, 2, 33), pad: (4, 5, 6, 3), stride: (2, 2), ..SQUARE },
    Case { input: (9, 9, 24), stride: (3, 3), ..SQUARE },
    Case { input: (9, 9, 24), stride: (2, 1), ..SQUARE },
    Case { input: (9, 9, 24), stride: (1, 2), ..SQUARE },
    Case { input: (9, 8, 40), kernel: (5, 5), pad: (2, 2, 2, 2), ..UNIT },
    Case { input: (9, 8, 19), dilation: (2, 2), pad: (2, 2, 2, 2), ..SQUARE },
    Case { input: (9, 8, 19), dilation: (2, 1), pad: (2, 1, 2, 1), ..SQUARE },
    Case { input: (1, 50, 30), kernel: (1, 5), pad: (0, 2, 0, 2), ..UNIT },
    Case { input: (50, 1, 7), kernel: (4, 1), pad: (1, 0, 2, 0), ..UNIT },
    Case { input: (28, 1, 128), kernel: (5, 1), ..UNIT },
    Case { input: (25, 5, 64), kernel: (25, 5), ..UNIT },
    Case { input: (200, 1, 3), kernel: (3, 3), pad: (1, 1, 1, 1), ..UNIT },
];

/// Layers of the MLPerf Tiny models.
const LAYERS: &[(&str, Case)] = &[
    ("fully connected 640-128", Case { input: (1, 1, 640), out_c: 128, ..UNIT }),
    ("fully connected 128-128", Case { input: (1, 1, 128), out_c: 128, ..UNIT }),
    ("1x1 8-16", Case { input: (24, 24, 8), out_c: 16, ..UNIT }),
    ("1x1 16-32", Case { input: (24, 24, 16), out_c: 32, ..UNIT }),
    ("1x1 64-64", Case { input: (25, 5, 64), out_c: 64, ..UNIT }),
    ("1x1 128-128", Case { input: (6, 6, 128), out_c: 128, ..UNIT }),
    ("1x1 256-256", Case { input: (3, 3, 256), out_c: 256, ..UNIT }),
    ("1x1/2 16-32", Case { input: (32, 32, 16), out_c: 32, stride: (2, 2), ..UNIT }),
    ("10x4/2 1-64", CONVOLUTIONS[17]),
    (
        "3x3/2 3-8",
        Case { input: (48, 48, 3), out_c: 8, stride: (2, 2), pad: (0, 0, 1, 1), ..SQUARE },
    ),
    ("3x3 3-16", Case { input: (32, 32, 3), out_c: 16, ..SQUARE }),
    ("3x3 16-16", Case { input: (32, 32, 16), out_c: 16, ..SQUARE }),
    ("3x3 32-32", Case { input: (16, 16, 32), out_c: 32, ..SQUARE }),
    ("3x3 64-64", Case { input: (8, 8, 64), out_c: 64, ..SQUARE }),
    ("depthwise 3x3 25x5", Case { input: (25, 5, 64), groups: 64, out_c: 64, ..SQUARE }),
    ("depthwise 3x3 48x48", Case { input: (48, 48, 8), groups: 8, out_c: 8, ..SQUARE }),
    (
        "depthwise 3x3/2 48x48",
        Case {
            input: (48, 48, 8),
            groups: 8,
            out_c: 8,
            stride: (2, 2),
            pad: (0, 0, 1, 1),
            ..SQUARE
        },
    ),
    ("depthwise 3x3 6x6", Case { input: (6, 6, 128), groups: 128, out_c: 128, ..SQUARE }),
    (
        "depthwise 5x1 28",
        Case { input: (28, 1, 128), groups: 128, out_c: 128, kernel: (5, 1), ..UNIT },
    ),
];

impl Case {
    fn geometry(&self) -> ConvGeometry {
        let out = |len: usize, pad: usize, kernel: usize, dilation: usize, stride: usize| {
            (len + pad).checked_sub((kernel - 1) * dilation + 1).map_or(0, |last| last / stride + 1)
        };
        let (in_h, in_w, in_c) = self.input;
        let (top, left, bottom, right) = self.pad;
        ConvGeometry {
            batch: self.batch,
            in_h,
            in_w,
            in_c,
            out_h: out(in_h, top + bottom, self.kernel.0, self.dilation.0, self.stride.0),
            out_w: out(in_w, left + right, self.kernel.1, self.dilation.1, self.stride.1),
            out_c: self.out_c,
            kernel_h: self.kernel.0,
            kernel_w: self.kernel.1,
            stride_h: self.stride.0,
            stride_w: self.stride.1,
            pad_top: top,
            pad_left: left,
            dilation_h: self.dilation.0,
            dilation_w: self.dilation.1,
            groups: self.groups,
        }
    }
}

fn random_case(random: &mut Random, depthwise: bool) -> Case {
    let groups = random.pick(&[1, 1, 1, 1, 2, 4]);
    let square = random.below(2) == 0;
    let sizes = [1, 2, 3, 4, 5];
    let channels = if depthwise { 1 + random.below(40) } else { 0 };
    let pad = |random: &mut Random| random.below(4);
    Case {
        batch: random.pick(&[1, 1, 2, 3]),
        input: (
            1 + random.below(12),
            if random.below(3) == 0 { 1 } else { 1 + random.below(12) },
            if depthwise { channels } else { groups * (1 + random.below(24)) },
        ),
        out_c: if depthwise { channels } else { groups * (1 + random.below(20)) },
        kernel: if square { (3, 3) } else { (random.pick(&sizes), random.pick(&sizes)) },
        stride: (random.pick(&[1, 2, 3]), random.pick(&[1, 2, 3])),
        dilation: (random.pick(&[1, 1, 2]), random.pick(&[1, 1, 1, 2])),
        pad: (pad(random), pad(random), pad(random), pad(random)),
        groups: if depthwise { channels } else { groups },
    }
}

impl Buffers {
    /// Runs a case with every kind of data; the number of runs.
    fn check_all(&mut self, case: &Case, random: &mut Random) -> usize {
        let case = match case.groups {
            // The depthwise table leaves channels to its input.
            1 if case.out_c == 1 && case.input.2 > 1 => {
                Case { out_c: case.input.2, groups: case.input.2, ..*case }
            }
            _ => *case,
        };
        let g = case.geometry();
        let outputs = g.out_pixels() * (g.out_c + 5);
        if g.input_len() + 4 > ACTIVATIONS || outputs > ACTIVATIONS || g.out_c * g.k() > WEIGHTS / 2
        {
            return 0;
        }
        let mut runs = 0;
        for fill in [Fill::Any, Fill::Extremes, Fill::Lowest] {
            for with_residual in [false, true] {
                for in_place in [false, true] {
                    for strange in [false, true] {
                        if (in_place && (!with_residual || g.is_depthwise()))
                            || (strange && !matches!(fill, Fill::Any))
                        {
                            continue;
                        }
                        let variant = Variant { fill, with_residual, in_place, strange };
                        self.check(&case, &variant, random);
                        runs += 1;
                    }
                }
            }
        }
        runs
    }

    fn check(&mut self, case: &Case, variant: &Variant, random: &mut Random) {
        let g = case.geometry();
        let k = g.k();
        random.fill(&mut self.input, variant.fill);
        random.fill(&mut self.weights[..g.out_c * k], variant.fill);
        random.fill(&mut self.residual, Fill::Any);
        // Accumulators of random products grow with √K, of extremes with K.
        let spread = match variant.fill {
            Fill::Any => 5000 * (1..).find(|root| root * root >= k).unwrap_or(1),
            _ => 16384 * k.max(1),
        };
        for scale in &mut self.scale {
            *scale = 60.0 / spread as f32 * (0.5 + random.below(1000) as f32 / 1000.0);
            if variant.strange && random.below(4) == 0 {
                let strange = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e30, -1e30];
                *scale = random.pick(&strange);
            }
        }
        for bias in &mut self.bias {
            *bias = random.next() as i32 % 20_000;
            if variant.strange && random.below(8) == 0 {
                *bias = random.pick(&[i32::MIN, i32::MAX]);
            }
        }
        let factor = |random: &mut Random| match variant.strange {
            true => random.pick(&[1.0, f32::INFINITY, f32::NAN, 1e35]),
            false => 0.5 + random.below(1000) as f32 / 1000.0,
        };
        let residual = ResidualI8 {
            data: ResidualData::InOutput,
            scale_conv: factor(random),
            scale_data: factor(random),
            zero_point: random.pick(&[-128, -3, 0, 127]),
            out_zero_point: random.pick(&[-128, 5, 127]),
            min: random.pick(&[-128, -20]),
            max: random.pick(&[60, 127]),
        };
        let epilogue = EpilogueI8 {
            scale: &[],
            fixed_point: &[],
            zero_point: random.pick(&[-128, -7, 0, 127]),
            min: random.pick(&[-128, -128, -30]),
            max: random.pick(&[50, 127, 127]),
            residual: variant.with_residual.then_some(residual),
        };
        let run = Run {
            g,
            epilogue,
            in_place: variant.in_place,
            input_zero_point: random.pick(&[-128, -1, 0, 3, 127]),
            output_stride: g.out_c + random.pick(&[0, 0, 5]),
            skew: random.below(4),
        };
        let len = match g.out_pixels() {
            0 => 0,
            pixels => (pixels - 1) * run.output_stride + g.out_c,
        };
        self.run(&run, Isa::Scalar, len);
        self.expected[..len].copy_from_slice(&self.output[..len]);
        self.run(&run, Isa::CortexM, len);
        if self.expected[..len] != self.output[..len] {
            let pairs = self.expected[..len].iter().zip(&self.output[..len]);
            let at = pairs.take_while(|(a, b)| a == b).count();
            println!("element {at} of {len} differs: {case:?} {variant:?}");
            process::exit(1);
        }
    }

    fn run(&mut self, run: &Run, isa: Isa, len: usize) {
        let g = &run.g;
        let weights = &self.weights[..g.out_c * g.k()];
        let packed = &mut self.packed.0;
        let packed = if g.is_depthwise() {
            packed[..weights.len()].copy_from_slice(weights);
            &packed[..weights.len()]
        } else {
            let len = g.weights_i8_len(Packing::CortexM);
            conv_i8::pack_weights_cortex_m(g, weights, &mut packed[..len]);
            &packed[..len]
        };
        self.output.fill(UNTOUCHED);
        let mut epilogue = EpilogueI8 { scale: &self.scale, ..run.epilogue };
        if let Some(residual) = &mut epilogue.residual {
            let dense = &self.residual[..g.out_pixels() * g.out_c];
            if run.in_place {
                for pixel in 0..g.out_pixels() {
                    self.output[pixel * run.output_stride..][..g.out_c]
                        .copy_from_slice(&dense[pixel * g.out_c..][..g.out_c]);
                }
            } else {
                residual.data = ResidualData::Apart(dense);
            }
        }
        // Nothing but weights and vectors need be aligned.
        let input = &self.input[run.skew..][..g.input_len()];
        if g.is_depthwise() {
            let scratch = depthwise_i8::scratch_bytes(g, isa);
            depthwise_i8::select(isa)(&mut DepthwiseI8 {
                geometry: g,
                input,
                input_zero_point: run.input_zero_point,
                weights: packed,
                packing: Packing::CortexM,
                bias: &self.bias[..g.in_c],
                weight_sums: &[],
                epilogue,
                output: &mut self.output[..len],
                output_stride: run.output_stride,
                scratch: &mut self.scratch[run.skew..][..scratch],
            });
        } else {
            let scratch = conv_i8::scratch_bytes(g, isa);
            conv_i8::select(isa)(&mut ConvI8 {
                geometry: g,
                input,
                input_zero_point: run.input_zero_point,
                weights: packed,
                packing: Packing::CortexM,
                bias: &self.bias,
                weight_sums: &[],
                epilogue,
                output: &mut self.output[..len],
                output_stride: run.output_stride,
                scratch: &mut self.scratch[run.skew..][..scratch],
            });
        }
    }

    /// Additions of all lengths up to a few blocks, apart and in place; the number of runs.
    fn check_add(&mut self, random: &mut Random) -> usize {
        let mut runs = 0;
        for len in (0..20).chain([63, 64, 65, 1000]) {
            for round in 0..20 {
                let scale = |random: &mut Random| match round {
                    19 => random.pick(&[f32::NAN, f32::INFINITY, -1e38, 1e29]),
                    _ => (random.below(4000) as f32 - 1000.0) / 1000.0,
                };
                let to = AddI8 {
                    zero_points: [random.pick(&[-128, 0, 127]), random.pick(&[-128, -3, 127])],
                    scales: [scale(random), scale(random)],
                    zero_point: random.pick(&[-128, 5, 127]),
                    min: random.pick(&[-128, -20]),
                    max: random.pick(&[60, 127]),
                };
                random.fill(&mut self.input[..len + 4], Fill::Any);
                random.fill(&mut self.residual[..len], Fill::Extremes);
                let skew = random.below(4);
                let (a, b) = (&self.input[skew..][..len], &self.residual[..len]);
                add_i8::select(Isa::Scalar)(&to, a, b, &mut self.expected[..len]);
                add_i8::select(Isa::CortexM)(&to, a, b, &mut self.output[..len]);
                if self.expected[..len] != self.output[..len] {
                    println!("{len} elements differ: {to:?}");
                    process::exit(1);
                }
                runs += 1;
            }
        }
        runs
    }

    /// Prints the instructions that a layer takes, and of its scratch.
    fn measure(&mut self, name: &str, case: &Case, random: &mut Random, calibration: &Calibration) {
        let g = case.geometry();
        if g.input_len() + 4 > ACTIVATIONS || g.out_pixels() * g.out_c > ACTIVATIONS {
            println!("{name}: too large to measure here");
            process::exit(1);
        }
        random.fill(&mut self.input, Fill::Any);
        random.fill(&mut self.weights, Fill::Any);
        self.scale.fill(1e-3 / (g.k() as f32));
        self.bias.fill(0);
        let epilogue = EpilogueI8 {
            scale: &[],
            fixed_point: &[],
            zero_point: -128,
            min: -128,
            max: 127,
            residual: None,
        };
        let run = Run {
            g,
            epilogue,
            in_place: false,
            input_zero_point: -128,
            output_stride: g.out_c,
            skew: 0,
        };
        let len = g.out_pixels() * g.out_c;
        // Twice over, so that what the harness does around a run cancels.
        let mut instructions = [0; 2];
        for (taken, isa) in instructions.iter_mut().zip([None, Some(Isa::CortexM)]) {
            let start = counter::ticks();
            match isa {
                Some(isa) => self.run(&run, isa, len),
                None => {
                    self.run(&Run { g: ConvGeometry { batch: 0, ..g }, ..run }, Isa::CortexM, 0)
                }
            }
            *taken = calibration.instructions(counter::ticks() - start);
        }
        let taken = instructions[1].saturating_sub(instructions[0]);
        let macs = len * g.k();
        let scratch = match g.is_depthwise() {
            true => depthwise_i8::scratch_bytes(&g, Isa::CortexM),
            false => conv_i8::scratch_bytes(&g, Isa::CortexM),
        };
        let hundredths = taken * 100 / macs as u64;
        println!(
            "layer {name}: {taken} instructions, {macs} MACs, {}.{:02} a MAC, scratch {scratch}",
            hundredths / 100,
            hundredths % 100
        );
    }
}

#[derive(Clone, Copy, Debug)]
struct Variant {
    fill: Fill,
    with_residual: bool,
    /// The residual lies in the output.
    in_place: bool,
    /// NaN, infinities and the ends of i32.
    strange: bool,
}

#[derive(Clone, Copy)]
struct Run<'e> {
    g: ConvGeometry,
    epilogue: EpilogueI8<'e>,
    in_place: bool,
    input_zero_point: i8,
    output_stride: usize,
    /// How far the input and scratch are from being aligned.
    skew: usize,
}
