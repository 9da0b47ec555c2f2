//! Every float convolution kernel against a naive one in f64, over one set of cases.

use super::bf16 as pairs;
use super::direct::{DirectKernel, DirectTiles, conv_f32_direct, direct_tiles, even, suits};
use super::grouped::{
    FACTOR_INPUTS, GROUP_SIZES, GroupedBits, GroupedForm, ScaleKind, ScalePlane, Scales,
};
use super::lanes::{Array, Bf16Pair, Lanes, W4, W4Nl, W5, W6, W8, Weight};
use super::rounding::{self, Bf16Tile};
use super::tile::{Dequantize, Tile, TileKernel, WeightPtr, dequantize, grouped_tile, row, tile};
use super::winograd::{
    self, WinogradKernel, conv_f32_winograd, input_tile, output_tile_of, weight_panel,
};
use super::*;
use crate::DType;
use crate::kernels::Activation;
use crate::kernels::elementary::{self, Function};
use crate::kernels::shapes::{F32_CONVOLUTION, Family, GROUPED_CONVOLUTION, Shape};
use crate::kernels::testing::{EMULATED, Output, Placed, distinct, placed};
use half::{bf16, f16};

/// Rounding unit of f32.
const UNIT: f64 = 1.0 / (1u64 << 24) as f64;

/// `γ(n)` of the module's documentation: relative to the sum of absolute values, the largest error
/// of a sum whose terms go through at most `n` roundings.
pub(crate) fn gamma(n: usize) -> f64 {
    let nu = n as f64 * UNIT;
    nu / (1.0 - nu)
}

/// Roundings of a term besides the K of the sum: bias, residual, product.
pub(crate) const EPILOGUE_ROUNDINGS: usize = 3;

/// A generator of test data (Marsaglia, *Xorshift RNGs*, 2003).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    /// One of `choices`.
    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.next() as usize % choices.len()]
    }

    /// Numbers in -1..1 that f16 holds exactly.
    pub(crate) fn numbers(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| (self.next() % 2048) as f32 / 1024.0 - 1.0).collect()
    }

    /// Numbers in -1..1 that use all bits of an f32.
    pub(crate) fn fine_numbers(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| (self.next() % (1 << 24)) as f32 / (1 << 23) as f32 - 1.0).collect()
    }
}

/// What a case varies besides the geometry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant {
    /// Of weights that aren't grouped: f32, f16 or bf16.
    pub(crate) dtype: DType,
    /// Instead of floats, integers in groups of so many inputs.
    pub(crate) grouped: Option<(GroupedForm, usize)>,
    pub(crate) residual: bool,
    pub(crate) min: f32,
    pub(crate) max: f32,
    /// Elements between output rows.
    pub(crate) gap: usize,
    /// Elements that slices start behind where their memory does.
    pub(crate) offset: usize,
}

pub(crate) const PLAIN: Variant = Variant {
    dtype: DType::F32,
    grouped: None,
    residual: false,
    min: f32::NEG_INFINITY,
    max: f32::INFINITY,
    gap: 0,
    offset: 0,
};

impl Variant {
    pub(crate) fn random(random: &mut Random) -> Variant {
        let (min, max) =
            random.pick(&[(f32::NEG_INFINITY, f32::INFINITY), (0.0, f32::INFINITY), (0.0, 0.5)]);
        Variant {
            dtype: random.pick(&[DType::F32, DType::F16]),
            grouped: None,
            residual: random.pick(&[false, true]),
            min,
            max,
            gap: random.pick(&[0, 0, 1, 7]),
            offset: random.pick(&[0, 0, 1, 3]),
        }
    }

    /// What a shape of the corpus says, with floats as weights.
    pub(in crate::kernels) fn of(shape: &Shape<'_>) -> Variant {
        let bounds = [(f32::NEG_INFINITY, f32::INFINITY), (0.0, f32::INFINITY), (0.0, 0.5)];
        let (min, max) = bounds[shape.get("clamp") % bounds.len()];
        Variant {
            dtype: if shape.get("f16") != 0 { DType::F16 } else { DType::F32 },
            grouped: None,
            residual: shape.get("residual") != 0,
            min,
            max,
            gap: shape.get("gap"),
            offset: shape.get("offset"),
        }
    }

    fn stored(&self) -> Stored {
        match (self.grouped, self.dtype) {
            (Some(_), _) => Stored::Grouped,
            (None, DType::BF16) => Stored::Bf16,
            _ => Stored::Float,
        }
    }

    fn bf16(self) -> Variant {
        Variant { dtype: DType::BF16, grouped: None, ..self }
    }

    fn grouped(self, random: &mut Random) -> Variant {
        let form = random.pick(&forms());
        Variant { grouped: Some((form, random.pick(&sizes(form)))), ..self }
    }
}

/// Every form of grouped weights.
fn forms() -> Vec<GroupedForm> {
    GroupedForm::all().collect()
}

/// Sizes that its groups can have.
fn sizes(form: GroupedForm) -> Vec<usize> {
    GROUP_SIZES.into_iter().filter(|size| form.bits.has_groups_of(*size)).collect()
}

/// Numbers for the scales or minima of outputs with `k` inputs each, and their factors, in the form's kind.
fn scales(
    random: &mut Random,
    form: GroupedForm,
    out_c: usize,
    k: usize,
    group_size: usize,
) -> (Vec<f32>, Vec<f32>) {
    let (groups, per_row) = (k.div_ceil(group_size), k.div_ceil(FACTOR_INPUTS));
    let half = |x: f32| f16::from_f32(x).to_f32();
    match form.scales {
        ScaleKind::F32 => (random.fine_numbers(out_c * groups), vec![]),
        ScaleKind::F16 => {
            (random.fine_numbers(out_c * groups).into_iter().map(half).collect(), vec![])
        }
        ScaleKind::I8 => {
            let numbers = random.fine_numbers(out_c * per_row);
            let factors: Vec<f32> = numbers.into_iter().map(|x| half(x / 128.0)).collect();
            let integers: Vec<i8> = (i8::MIN..=i8::MAX).collect();
            let value = |i: usize| {
                let factor = i / groups * per_row + i % groups * group_size / FACTOR_INPUTS;
                factors[factor] * f32::from(random.pick(&integers))
            };
            ((0..out_c * groups).map(value).collect(), factors)
        }
    }
}

/// Steps of an input's rounding up to the largest of its group, less what the division by them rounds.
const INPUT_STEPS: f64 = 32512.0 * (1.0 - 1e-3);

/// One whose results tell how often it was applied.
pub(crate) const ACTIVATION: Activation = Activation {
    function: Function::HardSwish,
    affine: [0.75, 0.375],
    apply: |function, affine, values| {
        elementary::select_activation(Isa::Scalar)(function, affine, values)
    },
};

/// Rows of `channels` elements, `width` apart: those of `activated` are [`ACTIVATION`] of the others.
#[track_caller]
pub(crate) fn check_activated(plain: &[f32], activated: &[f32], channels: usize, width: usize) {
    assert_eq!(plain.len(), activated.len());
    for (i, (&x, &y)) in plain.iter().zip(activated).enumerate() {
        let want = if i % width < channels { elementary::hard_swish(x) * 0.75 + 0.375 } else { x };
        assert_eq!(y.to_bits(), want.to_bits(), "element {i}: {x} became {y}, not {want}");
    }
}

/// A value that no kernel computes from the tests' numbers, to see what it wrote.
pub(crate) const UNTOUCHED: f32 = 12345.0;

/// Bytes of grouped weights, placed as the other operands are, where their scales can lie.
struct Planes {
    memory: Placed<u8>,
    start: usize,
}

impl Planes {
    fn new(bytes: &[u8], offset: usize) -> Planes {
        if offset == 0 {
            return Planes { memory: placed(bytes, 0), start: 0 };
        }
        let mut memory = vec![0; bytes.len() + (offset + 1) * Self::LINE];
        let start = memory.as_ptr().align_offset(align_of::<f32>()) + offset * Self::LINE;
        memory.truncate(start + bytes.len());
        memory[start..].copy_from_slice(bytes);
        Planes { memory: Placed::Somewhere(memory), start }
    }

    const LINE: usize = 64;

    fn get(&self) -> &[u8] {
        &self.memory[self.start..]
    }
}

/// A convolution with data, the exact result and what each element may be off.
struct Problem {
    geometry: ConvGeometry,
    variant: Variant,
    input: Vec<f32>,
    packed: Vec<f32>,
    packed_f16: Vec<f16>,
    packed_bf16: Vec<bf16>,
    packed_grouped: Vec<u8>,
    bias: Vec<f32>,
    residual: Vec<f32>,
    expected: Vec<(f64, f64)>,
    /// What each element may be off by Winograd's filtering, where it suits.
    winograd: Vec<f64>,
}

impl Problem {
    fn new(geometry: ConvGeometry, variant: Variant, seed: u64) -> Problem {
        let g = geometry;
        let mut random = Random::new(seed);
        let fine_input = random.fine_numbers(g.input_len());
        let to_bf16 = |x: &f32| bf16::from_f32(*x);
        let is_bf16 = variant.grouped.is_none() && variant.dtype == DType::BF16;
        let input: Vec<f32> = match is_bf16 {
            true => fine_input.iter().map(|x| to_bf16(x).to_f32()).collect(),
            false => fine_input.clone(),
        };
        let mut packed_grouped = vec![];
        // What the terms of a weight add up to, where it has two, and what those add up to in a group that are products.
        let (mut sizes, mut products) = (vec![], vec![]);
        let ohwi = if let Some((form, group_size)) = variant.grouped {
            let groups = g.k().div_ceil(group_size);
            let integers: Vec<i8> = form.integers().collect();
            let q: Vec<i8> = (0..g.out_c * g.k()).map(|_| random.pick(&integers)).collect();
            let (scales, factors) = scales(&mut random, form, g.out_c, g.k(), group_size);
            let (mins, min_factors) = match form.has_mins {
                true => self::scales(&mut random, form, g.out_c, g.k(), group_size),
                false => (vec![], vec![]),
            };
            let scale = Scales { values: &scales, factors: &factors };
            let min = Scales { values: &mins, factors: &min_factors };
            packed_grouped = grouped::pack_weights(&g, form, group_size, &q, scale, min);
            let terms = |i: usize| {
                let (row, input) = (i / g.k(), i % g.k());
                let group = row * groups + input / group_size;
                let min = mins.get(group).copied().unwrap_or(0.0);
                (scales[group] * f32::from(q[i]), min)
            };
            products = vec![0.0; g.out_c * groups];
            for i in 0..q.len() {
                let group = i / g.k() * groups + i % g.k() / group_size;
                products[group] += f64::from(terms(i).0.abs());
            }
            sizes = (0..q.len()).map(terms).map(|(a, b)| a.abs() + b.abs()).collect();
            (0..q.len()).map(terms).map(|(a, b)| a + b).collect()
        } else if variant.dtype == DType::F16 {
            random.numbers(g.out_c * g.k())
        } else if is_bf16 {
            random.numbers(g.out_c * g.k()).iter().map(|w| to_bf16(w).to_f32()).collect()
        } else {
            random.fine_numbers(g.out_c * g.k())
        };
        let channel_bias = random.fine_numbers(g.out_c);
        let residual = random.fine_numbers(g.out_pixels() * g.out_c);

        let mut packed = vec![UNTOUCHED; g.packed_float_len()];
        pack_weights(&g, &ohwi, &mut packed);
        let packed_f16 = packed.iter().map(|&w| f16::from_f32(w)).collect();
        let mut packed_bf16 = vec![bf16::NAN; if is_bf16 { packed.len() } else { 0 }];
        if is_bf16 {
            let weights: Vec<bf16> = ohwi.iter().map(to_bf16).collect();
            pairs::pack_weights(&g, &weights, &mut packed_bf16);
        }
        // Padding holds rubbish: it must not reach the output.
        let mut bias = vec![UNTOUCHED; g.padded_out_c()];
        for channel in 0..g.out_c {
            bias[channel / g.group_out_c() * g.padded_group_out_c() + channel % g.group_out_c()] =
                channel_bias[channel];
        }

        // The oracle: taps outside the input are skipped, everything else is the definition.
        let mut expected = Vec::new();
        let mut winograd = winograd_tolerance(&g, &input, &ohwi);
        let gamma = gamma(g.k() + EPILOGUE_ROUNDINGS);
        for b in 0..g.batch {
            for oy in 0..g.out_h {
                for ox in 0..g.out_w {
                    for oc in 0..g.out_c {
                        let (mut sum, mut size) = (0.0, 0.0);
                        let first_c = oc / (g.out_c / g.groups) * (g.in_c / g.groups);
                        for ky in 0..g.kernel_h as isize {
                            for kx in 0..g.kernel_w as isize {
                                let y = oy as isize * g.stride_h as isize
                                    + ky * g.dilation_h as isize
                                    - g.pad_top as isize;
                                let x = ox as isize * g.stride_w as isize
                                    + kx * g.dilation_w as isize
                                    - g.pad_left as isize;
                                if !(0..g.in_h as isize).contains(&y)
                                    || !(0..g.in_w as isize).contains(&x)
                                {
                                    continue;
                                }
                                for c in 0..g.in_c / g.groups {
                                    let at = ((b * g.in_h + y as usize) * g.in_w + x as usize)
                                        * g.in_c
                                        + first_c
                                        + c;
                                    let tap =
                                        (oc * g.kernel_h + ky as usize) * g.kernel_w + kx as usize;
                                    let weight = tap * (g.in_c / g.groups) + c;
                                    let term = input[at] as f64 * ohwi[weight] as f64;
                                    sum += term;
                                    size += match sizes.get(weight) {
                                        Some(size) => (input[at] * size).abs() as f64,
                                        None => term.abs(),
                                    };
                                }
                            }
                        }
                        let mut rounded = 0.0;
                        if let (Some((_, group_size)), true) = (variant.grouped, g.is_pointwise()) {
                            // Inputs of 16 bits, relative to the largest of their group.
                            let x = &input[((b * g.in_h + oy) * g.in_w + ox) * g.in_c..][..g.in_c];
                            let x = x[first_c..first_c + g.in_c / g.groups].chunks(group_size);
                            for (x, size) in x.zip(&products[oc * g.k().div_ceil(group_size)..]) {
                                let largest = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                                rounded += f64::from(largest) / INPUT_STEPS / 2.0 * size;
                            }
                        }
                        let mut terms = vec![channel_bias[oc] as f64];
                        if variant.residual {
                            terms.push(residual[expected.len()] as f64);
                        }
                        for term in terms {
                            sum += term;
                            size += term.abs();
                        }
                        if let Some(tolerance) = winograd.get_mut(expected.len()) {
                            *tolerance += gamma * size;
                        }
                        let y = sum.max(variant.min as f64).min(variant.max as f64);
                        expected.push((y, gamma * size + rounded));
                    }
                }
            }
        }
        Problem {
            geometry,
            variant,
            input: fine_input,
            packed,
            packed_f16,
            packed_bf16,
            packed_grouped,
            bias,
            residual,
            expected,
            winograd,
        }
    }

    /// Runs `kernel`, with the residual apart or where the output goes. With an activation, the results are that of the same
    /// numbers, to the bit.
    fn run(
        &self,
        scratch_len: usize,
        in_place: bool,
        kernel: impl Fn(&mut ConvF32<'_>),
    ) -> Vec<f32> {
        let output = self.run_with(None, scratch_len, in_place, &kernel);
        let width = self.geometry.out_c + self.variant.gap;
        let activated = self.run_with(Some(ACTIVATION), scratch_len, in_place, &kernel);
        check_activated(&output, &activated, self.geometry.out_c, width);
        output
    }

    fn run_with(
        &self,
        activation: Option<Activation>,
        scratch_len: usize,
        in_place: bool,
        kernel: &impl Fn(&mut ConvF32<'_>),
    ) -> Vec<f32> {
        let g = self.geometry;
        let output_stride = g.out_c + self.variant.gap;
        let len = (g.out_pixels() * output_stride).saturating_sub(self.variant.gap);
        let at = self.variant.offset;
        let mut output = Output::new(len, at, UNTOUCHED);
        let (input, bias) = (placed(&self.input, at), placed(&self.bias, at));
        let (packed, packed_f16) = (placed(&self.packed, at), placed(&self.packed_f16, at));
        let packed_bf16 = placed(&self.packed_bf16, at);
        let planes = Planes::new(&self.packed_grouped, at);
        let apart = placed(&self.residual, at);
        let mut residual = ResidualData::Apart(&apart[at..]);
        if in_place {
            residual = ResidualData::InOutput;
            for pixel in 0..g.out_pixels() {
                output.get()[pixel * output_stride..][..g.out_c]
                    .copy_from_slice(&self.residual[pixel * g.out_c..][..g.out_c]);
            }
        }
        let mut scratch = vec![f32::NAN; at + scratch_len];
        kernel(&mut ConvF32 {
            geometry: g,
            pixels: 0..g.out_pixels(),
            input: &input[at..],
            weights: match (self.variant.grouped, self.variant.dtype) {
                (Some((form, group_size)), _) => {
                    let planes = form.planes(&g, group_size, planes.get());
                    PanelWeights::Grouped(planes.expect("planes"))
                }
                (None, DType::F16) => FloatWeights::F16(&packed_f16[at..]).into(),
                (None, DType::BF16) => PanelWeights::Bf16(&packed_bf16[at..]),
                (None, _) => FloatWeights::F32(&packed[at..]).into(),
            },
            epilogue: EpilogueF32 {
                bias: &bias[at..],
                residual: self.variant.residual.then_some(residual),
                min: self.variant.min,
                max: self.variant.max,
                activation,
            },
            output: output.get(),
            output_stride,
            scratch: &mut scratch[at..],
        });
        output.written()
    }

    fn check(&self, name: &str, output: &[f32]) {
        let g = self.geometry;
        let is_winograd = !self.winograd.is_empty()
            && self.variant.stored() == Stored::Float
            && (name.contains("winograd") || name.starts_with("avx"));
        for (i, &y) in output.iter().enumerate() {
            let (pixel, channel) =
                (i / (g.out_c + self.variant.gap), i % (g.out_c + self.variant.gap));
            if channel >= g.out_c {
                assert_eq!(y, UNTOUCHED, "{name} wrote between rows: {g:?} {:?}", self.variant);
                continue;
            }
            let (expected, mut tolerance) = self.expected[pixel * g.out_c + channel];
            if is_winograd {
                tolerance = self.winograd[pixel * g.out_c + channel];
            }
            assert!(
                (y as f64 - expected).abs() <= tolerance,
                "{name}, pixel {pixel}, channel {channel}: {y}, expected {expected} ± {tolerance}: {g:?} {:?}",
                self.variant
            );
        }
    }
}

/// Roundings of a term besides those of the sum over channels.
const WINOGRAD_ROUNDINGS: usize = 24;

/// The bound of Winograd's filtering on sums, per element of the output; nothing where it doesn't suit.
fn winograd_tolerance(g: &ConvGeometry, input: &[f32], ohwi: &[f32]) -> Vec<f64> {
    // |Bᵀ|, |G| and |Aᵀ| of F(4×4, 3×3), with 4, 0, −5, 0, 1, 0 for the first row of Bᵀ.
    const B: [[f64; 6]; 6] = [
        [4., 0., 5., 0., 1., 0.],
        [0., 4., 4., 1., 1., 0.],
        [0., 4., 4., 1., 1., 0.],
        [0., 2., 1., 2., 1., 0.],
        [0., 2., 1., 2., 1., 0.],
        [0., 4., 0., 5., 0., 1.],
    ];
    const G: [[f64; 3]; 6] = [
        [1. / 4., 0., 0.],
        [1. / 6., 1. / 6., 1. / 6.],
        [1. / 6., 1. / 6., 1. / 6.],
        [1. / 24., 1. / 12., 1. / 6.],
        [1. / 24., 1. / 12., 1. / 6.],
        [0., 0., 1.],
    ];
    const A: [[f64; 6]; 4] = [
        [1., 1., 1., 1., 1., 0.],
        [0., 1., 1., 2., 2., 0.],
        [0., 1., 1., 4., 4., 0.],
        [0., 1., 1., 8., 8., 1.],
    ];
    if !winograd::suits(g) {
        return vec![];
    }
    /// `left` x `left`ᵀ, of squares.
    fn around<const R: usize, const K: usize>(
        left: &[[f64; K]; R],
        x: &dyn Fn(usize, usize) -> f64,
    ) -> [[f64; R]; R] {
        let half: [[f64; K]; R] = std::array::from_fn(|i| {
            std::array::from_fn(|j| (0..K).map(|k| left[i][k] * x(k, j)).sum())
        });
        std::array::from_fn(|i| {
            std::array::from_fn(|j| (0..K).map(|k| half[i][k] * left[j][k]).sum())
        })
    }
    let weights: Vec<[[f64; 6]; 6]> = (0..g.out_c * g.in_c)
        .map(|i| {
            let tap = |y: usize, x: usize| ((i / g.in_c * 3 + y) * 3 + x) * g.in_c + i % g.in_c;
            around(&G, &|y, x| f64::from(ohwi[tap(y, x)].abs()))
        })
        .collect();
    let gamma = gamma(g.in_c + WINOGRAD_ROUNDINGS);
    let mut tolerance = vec![0.0; g.out_pixels() * g.out_c];
    for (b, top) in (0..g.batch).flat_map(|b| (0..g.out_h).step_by(4).map(move |top| (b, top))) {
        for left in (0..g.out_w).step_by(4) {
            let inputs: Vec<[[f64; 6]; 6]> = (0..g.in_c)
                .map(|c| {
                    around(&B, &|i, j| {
                        let y = (top + i).wrapping_sub(g.pad_top);
                        let x = (left + j).wrapping_sub(g.pad_left);
                        let at = || ((b * g.in_h + y) * g.in_w + x) * g.in_c + c;
                        if y < g.in_h && x < g.in_w { f64::from(input[at()].abs()) } else { 0.0 }
                    })
                })
                .collect();
            for oc in 0..g.out_c {
                let size = around(&A, &|i, j| {
                    let products = |c: usize| weights[oc * g.in_c + c][i][j] * inputs[c][i][j];
                    (0..g.in_c).map(products).sum()
                });
                for (y, x) in (0..4).flat_map(|y| (0..4).map(move |x| (y, x))) {
                    if top + y < g.out_h && left + x < g.out_w {
                        let pixel = (b * g.out_h + top + y) * g.out_w + left + x;
                        tolerance[pixel * g.out_c + oc] = gamma * size[y][x];
                    }
                }
            }
        }
    }
    tolerance
}

/// The tile of an instruction set with `L::LEN` lanes, in plain Rust.
unsafe fn array_tile<L: Lanes, const MR: usize, const NV: usize, const KU: usize>(t: &Tile<'_>) {
    unsafe fn by_width<L: Lanes, W: Weight, const MR: usize, const NV: usize, const KU: usize>(
        t: &Tile<'_>,
        w: *const W,
    ) {
        // SAFETY: the contract is the same.
        unsafe {
            match t.cols <= L::LEN {
                true => tile::<L, W, MR, 1, KU>(t, w),
                false => tile::<L, W, MR, NV, KU>(t, w),
            }
        }
    }
    // SAFETY: the contract is the same.
    unsafe {
        match t.weights {
            WeightPtr::F32(w) => by_width::<L, f32, MR, NV, KU>(t, w),
            WeightPtr::F16(w) => by_width::<L, f16, MR, NV, KU>(t, w),
            WeightPtr::Pairs(w) => by_width::<L, Bf16Pair<false>, MR, NV, KU>(t, w.cast()),
            WeightPtr::Grouped(panel) => match (panel.bits, t.cols <= L::LEN) {
                (GroupedBits::W8, true) => grouped_tile::<L, W8, ROWS, 1>(t, &panel),
                (GroupedBits::W4, true) => grouped_tile::<L, W4, ROWS, 1>(t, &panel),
                (GroupedBits::W5, true) => grouped_tile::<L, W5, ROWS, 1>(t, &panel),
                (GroupedBits::W6, true) => grouped_tile::<L, W6, ROWS, 1>(t, &panel),
                (GroupedBits::W4Nl, true) => grouped_tile::<L, W4Nl, ROWS, 1>(t, &panel),
                (GroupedBits::W8, false) => grouped_tile::<L, W8, ROWS, NV>(t, &panel),
                (GroupedBits::W4, false) => grouped_tile::<L, W4, ROWS, NV>(t, &panel),
                (GroupedBits::W5, false) => grouped_tile::<L, W5, ROWS, NV>(t, &panel),
                (GroupedBits::W6, false) => grouped_tile::<L, W6, ROWS, NV>(t, &panel),
                (GroupedBits::W4Nl, false) => grouped_tile::<L, W4Nl, ROWS, NV>(t, &panel),
            },
        }
    }
}

/// Rows of [`ARRAY_TILES`] with grouped weights.
const ROWS: usize = 3;

unsafe fn array_dequantize<L: Lanes>(args: &Dequantize) {
    // SAFETY: the contract is the same.
    unsafe {
        match args.panel.bits {
            GroupedBits::W8 => dequantize::<L, W8>(args),
            GroupedBits::W4 => dequantize::<L, W4>(args),
            GroupedBits::W5 => dequantize::<L, W5>(args),
            GroupedBits::W6 => dequantize::<L, W6>(args),
            GroupedBits::W4Nl => dequantize::<L, W4Nl>(args),
        }
    }
}

const fn array_bf16<L: Lanes>(pair_rows: usize) -> Bf16Tile {
    Bf16Tile {
        pair_rows,
        round_pairs: rounding::round_pairs,
        round: rounding::round::<L>,
        widen: rounding::widen::<L>,
    }
}

unsafe fn array_row<L: Lanes, const NV: usize>(t: &Tile<'_>) {
    // SAFETY: the contract is the same.
    unsafe {
        match t.weights {
            WeightPtr::F32(w) => row::<L, f32, NV>(t, w),
            WeightPtr::F16(w) => row::<L, f16, NV>(t, w),
            _ => unreachable!("rows have floats"),
        }
    }
}

/// The tiles of the instruction sets, in plain Rust: shapes that this CPU can't run are covered.
pub(crate) const ARRAY_TILES: [(&str, TileKernel); 3] = [
    (
        "4 lanes",
        TileKernel {
            rows: 6,
            narrow_rows: 6,
            panels: 1,
            grouped_rows: ROWS,
            run: array_tile::<Array<4>, 6, 4, 1>,
            row: array_row::<Array<4>, 4>,
            dequantize: array_dequantize::<Array<4>>,
            bf16: array_bf16::<Array<4>>(2),
        },
    ),
    (
        "8 lanes",
        TileKernel {
            rows: 6,
            narrow_rows: 5,
            panels: 1,
            grouped_rows: ROWS,
            run: array_tile::<Array<8>, 6, 2, 2>,
            row: array_row::<Array<8>, 2>,
            dequantize: array_dequantize::<Array<8>>,
            bf16: array_bf16::<Array<8>>(2),
        },
    ),
    (
        "16 lanes",
        TileKernel {
            rows: 12,
            narrow_rows: 12,
            panels: 2,
            grouped_rows: ROWS,
            run: array_tile::<Array<16>, 12, 2, 1>,
            row: array_row::<Array<16>, 1>,
            dequantize: array_dequantize::<Array<16>>,
            bf16: array_bf16::<Array<16>>(usize::MAX),
        },
    ),
];

unsafe fn array_direct<L: Lanes>(t: &DirectTiles<'_>) {
    unsafe fn by_size<L: Lanes, W: Weight>(t: &DirectTiles<'_>, w: *const W) {
        // SAFETY: the contract is the same.
        unsafe {
            match (t.pixels, t.cols.div_ceil(L::LEN)) {
                (1, 1) => direct_tiles::<L, W, 1, 1>(t, w),
                (1, 2) => direct_tiles::<L, W, 1, 2>(t, w),
                (1, _) => direct_tiles::<L, W, 1, 4>(t, w),
                (_, 1) => direct_tiles::<L, W, 4, 1>(t, w),
                (_, 2) => direct_tiles::<L, W, 4, 2>(t, w),
                (_, _) => direct_tiles::<L, W, 4, 4>(t, w),
            }
        }
    }
    // SAFETY: the contract is the same.
    unsafe {
        match t.weights {
            WeightPtr::F32(w) => by_size::<L, f32>(t, w),
            WeightPtr::F16(w) => by_size::<L, f16>(t, w),
            _ => unreachable!(),
        }
    }
}

/// As [`ARRAY_TILES`].
const ARRAY_DIRECT: [(&str, DirectKernel); 2] = [
    (
        "8 lanes, direct",
        DirectKernel {
            most_panels: 1,
            pixels: |pixels, _| even(pixels, &[1, 4]),
            run: array_direct::<Array<8>>,
        },
    ),
    (
        "16 lanes, direct",
        DirectKernel {
            most_panels: 4,
            pixels: |pixels, _| even(pixels, &[1, 4]),
            run: array_direct::<Array<16>>,
        },
    ),
];

const fn array_winograd<L: Lanes>(product: DirectKernel) -> WinogradKernel {
    WinogradKernel {
        input: input_tile::<L>,
        weights: |panel| {
            // SAFETY: the contract is the same.
            unsafe {
                match panel.weights {
                    WeightPtr::F32(w) => weight_panel::<L, f32>(panel, w),
                    WeightPtr::F16(w) => weight_panel::<L, f16>(panel, w),
                    _ => unreachable!(),
                }
            }
        },
        output: output_tile_of::<L>,
        product,
    }
}

/// As [`ARRAY_TILES`].
const ARRAY_WINOGRAD: [(&str, WinogradKernel); 2] = [
    ("8 lanes, winograd", array_winograd::<Array<8>>(ARRAY_DIRECT[0].1)),
    ("16 lanes, winograd", array_winograd::<Array<16>>(ARRAY_DIRECT[1].1)),
];

/// Runs a problem on every kernel that can run here.
fn check_all(geometry: ConvGeometry, variant: Variant, seed: u64) {
    let problem = Problem::new(geometry, variant, seed);
    for in_place in [false, true] {
        if in_place && !variant.residual {
            continue;
        }
        let stored = variant.stored();
        for (isa, kernel) in distinct(select) {
            let output = problem.run(scratch_len(&geometry, stored, isa), in_place, kernel);
            problem.check(isa.name(), &output);
        }
        for (isa, kernel) in distinct(select_floats) {
            if stored == Stored::Grouped {
                let output = problem.run(scratch_len(&geometry, stored, isa), in_place, kernel);
                problem.check(&format!("{isa} without integers"), &output);
            }
        }
        // What CPUs take that have AVX-512 without products of bf16.
        #[cfg(target_arch = "x86_64")]
        if stored == Stored::Bf16 && Isa::Avx512.is_available() {
            let scratch_len = scratch_len(&geometry, stored, Isa::Avx512);
            // SAFETY: the instruction set is available.
            let output = problem.run(scratch_len, in_place, |args| unsafe {
                blocked::conv_f32_blocked(args, x86_64::TILE_AVX512)
            });
            problem.check("AVX-512 without BF16", &output);
        }
        // What follows is plain Rust, the same everywhere.
        if EMULATED {
            continue;
        }
        let blocked_len = match stored {
            Stored::Float => blocking::scratch_len(&geometry),
            _ => scratch_len(&geometry, stored, Isa::Avx2),
        };
        for (name, tile) in ARRAY_TILES {
            // SAFETY: plain Rust needs no instruction set.
            let output = problem.run(blocked_len, in_place, |args| unsafe {
                blocked::conv_f32_blocked(args, tile)
            });
            problem.check(name, &output);
        }
        for (name, kernel) in ARRAY_WINOGRAD {
            if stored != Stored::Float || !winograd::suits(&geometry) {
                continue;
            }
            let output = problem.run(winograd::scratch_len(&geometry), in_place, |args| {
                let PanelWeights::Float(weights) = args.weights else { unreachable!() };
                // SAFETY: plain Rust needs no instruction set.
                unsafe { conv_f32_winograd(args, weights, kernel) }
            });
            problem.check(name, &output);
        }
        for (name, kernel) in ARRAY_DIRECT {
            if stored != Stored::Float || !suits(&geometry) {
                continue;
            }
            let output = problem.run(direct::scratch_len(&geometry), in_place, |args| {
                let PanelWeights::Float(weights) = args.weights else { unreachable!() };
                // SAFETY: plain Rust needs no instruction set; the geometry suits.
                unsafe { conv_f32_direct(args, weights, kernel) }
            });
            problem.check(name, &output);
        }
    }
}

const FAMILY: Family = Family {
    name: "conv_f32",
    fields: F32_CONVOLUTION,
    work: |shape| shape.convolution_work() * 12,
    check: |shape| check_all(shape.convolution().geometry(), Variant::of(shape), shape.seed),
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

/// `bits` and `group` are places in the lists of kinds and of group sizes.
const FAMILY_GROUPED: Family = Family {
    name: "grouped_f32",
    fields: GROUPED_CONVOLUTION,
    work: |shape| shape.convolution_work() * 12,
    check: |shape| {
        let form = forms()[shape.get("bits") % forms().len()];
        let sizes = sizes(form);
        let group_size = sizes[shape.get("group") % sizes.len()];
        let variant = Variant { grouped: Some((form, group_size)), ..Variant::of(shape) };
        check_all(shape.convolution().geometry(), variant, shape.seed);
    },
};

#[test]
fn kept_shapes_grouped() {
    FAMILY_GROUPED.replay();
}

#[test]
#[ignore = "a search"]
fn search_shapes_grouped() {
    FAMILY_GROUPED.search();
}

/// A square "same" convolution to start a case from.
const BASE: ConvGeometry = ConvGeometry {
    batch: 1,
    in_h: 7,
    in_w: 6,
    in_c: 5,
    out_h: 7,
    out_w: 6,
    out_c: 18,
    kernel_h: 3,
    kernel_w: 3,
    stride_h: 1,
    stride_w: 1,
    pad_top: 1,
    pad_left: 1,
    dilation_h: 1,
    dilation_w: 1,
    groups: 1,
};

/// The output size of a convolution with padding on both sides.
pub(crate) fn with_output(
    mut g: ConvGeometry,
    pad_bottom: usize,
    pad_right: usize,
) -> ConvGeometry {
    let out = |len: usize, kernel: usize, dilation: usize, stride: usize| {
        len.checked_sub((kernel - 1) * dilation + 1).map_or(0, |room| room / stride + 1)
    };
    g.out_h = out(g.in_h + g.pad_top + pad_bottom, g.kernel_h, g.dilation_h, g.stride_h);
    g.out_w = out(g.in_w + g.pad_left + pad_right, g.kernel_w, g.dilation_w, g.stride_w);
    g
}

#[test]
fn shapes() {
    struct Case {
        name: &'static str,
        geometry: ConvGeometry,
    }
    let case = |name, geometry| Case { name, geometry };
    let cases = [
        case("same", BASE),
        case("one pixel", ConvGeometry { in_h: 1, in_w: 1, out_h: 1, out_w: 1, ..BASE }),
        case("valid", with_output(ConvGeometry { pad_top: 0, pad_left: 0, ..BASE }, 0, 0)),
        case(
            "padding below and right only",
            with_output(ConvGeometry { pad_top: 0, pad_left: 0, ..BASE }, 2, 1),
        ),
        case(
            "padding wider than the kernel",
            with_output(ConvGeometry { pad_top: 5, pad_left: 4, ..BASE }, 5, 4),
        ),
        case("stride 2", with_output(ConvGeometry { stride_h: 2, stride_w: 2, ..BASE }, 1, 1)),
        case("stride 3 × 1", with_output(ConvGeometry { stride_h: 3, ..BASE }, 1, 1)),
        case(
            "pointwise with stride",
            with_output(
                ConvGeometry {
                    kernel_h: 1,
                    kernel_w: 1,
                    pad_top: 0,
                    pad_left: 0,
                    stride_h: 2,
                    stride_w: 2,
                    ..BASE
                },
                0,
                0,
            ),
        ),
        case(
            "dilation 2",
            with_output(ConvGeometry { dilation_h: 2, dilation_w: 2, ..BASE }, 1, 1),
        ),
        case("dilation of rows", with_output(ConvGeometry { dilation_h: 2, ..BASE }, 1, 1)),
        case(
            "1-D, dilated",
            with_output(
                ConvGeometry { in_h: 1, in_w: 31, kernel_h: 1, pad_top: 0, dilation_w: 4, ..BASE },
                0,
                7,
            ),
        ),
        case("grouped", ConvGeometry { in_c: 8, out_c: 12, groups: 4, ..BASE }),
        case(
            "grouped pointwise",
            ConvGeometry {
                in_c: 8,
                out_c: 36,
                groups: 2,
                kernel_h: 1,
                kernel_w: 1,
                pad_top: 0,
                pad_left: 0,
                ..BASE
            },
        ),
        case(
            "grouped, valid 1-D",
            with_output(
                ConvGeometry {
                    in_c: 6,
                    out_c: 4,
                    groups: 2,
                    in_h: 1,
                    kernel_h: 1,
                    pad_top: 0,
                    pad_left: 0,
                    ..BASE
                },
                0,
                0,
            ),
        ),
        case("batch", ConvGeometry { batch: 3, ..BASE }),
        case("blocks of whole runs", ConvGeometry { in_c: 50, ..BASE }),
        case("blocks of parts of runs", ConvGeometry { in_c: 131, in_w: 8, out_w: 8, ..BASE }),
        case(
            "blocks of gathered rows",
            with_output(ConvGeometry { in_c: 52, dilation_w: 2, groups: 1, ..BASE }, 1, 1),
        ),
        case("blocks, grouped", ConvGeometry { in_c: 180, out_c: 36, groups: 2, ..BASE }),
        case("a long K for one row", ConvGeometry::matmul(1, 1001, 33)),
        case("a long K for seven rows", ConvGeometry::matmul(7, 1001, 33)),
        case("no pixels", ConvGeometry { batch: 0, ..BASE }),
        case("no outputs", ConvGeometry { out_c: 0, ..BASE }),
        case("no inputs", ConvGeometry { in_c: 0, ..BASE }),
    ];
    for (i, Case { name, geometry }) in cases.into_iter().enumerate() {
        println!("{name}");
        check_all(geometry, PLAIN, i as u64);
        let everything =
            Variant { dtype: DType::F16, residual: true, min: 0.0, max: 0.75, gap: 3, ..PLAIN };
        check_all(geometry, everything, i as u64);
        for form in forms() {
            let grouped = Some((form, if form.bits == GroupedBits::W8 { 64 } else { 32 }));
            check_all(geometry, Variant { grouped, ..everything }, i as u64);
        }
    }
}

#[test]
fn every_number_of_rows_and_columns() {
    for rows in (0..=26).chain([47, 48, 49, 97]) {
        for cols in [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 25, 31, 32, 33, 40, 48, 64] {
            let dtype = if (rows + cols) % 2 == 0 { DType::F16 } else { DType::F32 };
            let residual = rows % 2 == 0;
            check_all(ConvGeometry::matmul(rows, 9, cols), Variant { dtype, residual, ..PLAIN }, 1);
            let variant = Variant { residual, ..PLAIN }.bf16();
            check_all(ConvGeometry::matmul(rows, 10, cols), variant, 1);
        }
    }
}

#[test]
fn every_width_of_a_row() {
    for width in 1..=50 {
        for (in_c, out_c) in [(1, 64), (3, 8), (4, 17), (5, 35), (2, 49), (3, 120)] {
            let geometry = ConvGeometry { in_h: 4, in_w: width, in_c, out_c, ..BASE };
            let residual = width % 2 == 0;
            check_all(with_output(geometry, 1, 1), Variant { residual, ..PLAIN }, 1);
            let tall = ConvGeometry { kernel_h: 10, kernel_w: 4, pad_top: 4, ..geometry };
            let tall = ConvGeometry { in_h: 11, stride_h: 2, stride_w: 2, ..tall };
            let dtype = if residual { DType::F16 } else { DType::F32 };
            check_all(with_output(tall, 5, 2), Variant { dtype, ..PLAIN }, 1);
        }
    }
}

#[test]
fn transformed() {
    let mut random = Random::new(17);
    let mut shape = |(in_h, in_w, in_c, out_c)| {
        let geometry = ConvGeometry { in_h, in_w, in_c, out_c, ..BASE };
        let batch = random.pick(&[1, 1, 2, 3]);
        let geometry = ConvGeometry { batch, pad_top: random.pick(&[0, 1, 2]), ..geometry };
        let geometry = ConvGeometry { pad_left: random.pick(&[0, 1, 2]), ..geometry };
        with_output(geometry, random.pick(&[0, 1, 2, 5]), random.pick(&[0, 1, 2, 5]))
    };
    // Of whole tiles and of parts; several blocks of tiles, of channels and of both.
    let sizes = [(8, 8, 64, 64), (9, 11, 16, 48), (13, 22, 32, 16), (40, 40, 16, 16)];
    let more = [(12, 11, 144, 80), (21, 21, 112, 32), (9, 9, 384, 16), (9, 64, 16, 272)];
    // The last panel only partly outputs.
    let partial = [(10, 9, 32, 24), (12, 11, 144, 83), (9, 64, 16, 259), (9, 9, 48, 17)];
    let times = if EMULATED { 1 } else { 3 };
    let shapes = [sizes, more, partial].concat().repeat(times);
    for (seed, size) in shapes.into_iter().enumerate() {
        let geometry = shape(size);
        assert!(winograd::suits(&geometry));
        check_all(geometry, Variant::random(&mut Random::new(seed as u64)), seed as u64);
    }
}

/// Any range of pixels gives the bits that all of them give.
#[test]
fn ranges_of_pixels() {
    let shapes = [
        ConvGeometry { in_h: 20, in_w: 11, in_c: 3, out_h: 20, out_w: 11, batch: 2, ..BASE },
        ConvGeometry { in_c: 70, in_h: 20, in_w: 11, out_h: 20, out_w: 11, ..BASE },
        ConvGeometry::matmul(250, 20, 50),
        // Whole panels: quarters of the rows that are tiled together.
        ConvGeometry::matmul(128, 400, 48),
        ConvGeometry::matmul(143, 65, 16),
        ConvGeometry::matmul(100, 9, 32),
        ConvGeometry { in_c: 32, out_c: 32, in_h: 21, out_h: 21, batch: 2, ..BASE },
        ConvGeometry { in_c: 16, out_c: 21, in_h: 22, out_h: 22, in_w: 30, out_w: 30, ..BASE },
        ConvGeometry { in_w: 3, out_w: 3, in_h: 40, out_h: 40, ..BASE },
    ];
    for (g, isa) in shapes.into_iter().flat_map(|g| Isa::available().map(move |isa| (g, isa))) {
        let mut random = Random::new(5);
        let input = random.fine_numbers(g.input_len());
        let weights = random.fine_numbers(g.packed_float_len());
        let bias = random.fine_numbers(g.padded_out_c());
        let bf16s: Vec<bf16> = weights.iter().map(|w| bf16::from_f32(*w)).collect();
        let run = |pixels: Range<usize>, weights: PanelWeights<'_>| {
            let mut output = vec![0.0; pixels.len() * g.out_c];
            select(isa)(&mut ConvF32 {
                geometry: g,
                pixels,
                input: &input,
                weights,
                epilogue: EpilogueF32 {
                    bias: &bias,
                    residual: None,
                    min: -1.0,
                    max: 1.0,
                    activation: None,
                },
                output: &mut output,
                output_stride: g.out_c,
                scratch: &mut vec![f32::NAN; scratch_len(&g, Stored::of(&weights), isa)],
            });
            output
        };
        let pairs = PanelWeights::Bf16(&bf16s);
        let all = [FloatWeights::F32(&weights).into(), pairs];
        for weights in all.into_iter().take(if g.in_c.is_multiple_of(2) { 2 } else { 1 }) {
            let all = run(0..g.out_pixels(), weights);
            for pieces in [2, 3, 5] {
                let (unit, units) = cut(&g, isa, Stored::of(&weights), pieces);
                for first in 0..units {
                    let end = if first + 1 == units { g.out_pixels() } else { (first + 1) * unit };
                    let part = run(first * unit..end, weights);
                    assert!(part == all[first * unit * g.out_c..end * g.out_c], "{isa} {g:?}");
                }
            }
        }
    }
}

/// Around registers, pairs and blocks of K.
#[test]
fn bf16_weights_of_every_length() {
    let mut random = Random::new(3);
    for k in [0, 2, 4, 14, 16, 18, 30, 32, 34, 46, 62, 64, 66, 382, 384, 386, 770, 1166] {
        for rows in [1, 2, 3, 5, 7, 13, 50, 97] {
            let cols = random.pick(&[1, 8, 9, 16, 17, 32, 33, 50]);
            let variant = Variant { residual: random.pick(&[false, true]), ..PLAIN };
            check_all(ConvGeometry::matmul(rows, k, cols), variant.bf16(), k as u64);
        }
    }
}

/// What a session has for the largest sizes does for smaller ones.
#[test]
fn smaller_sizes_need_no_more_scratch() {
    let mut random = Random::new(23);
    for _ in 0..200 {
        let kernel = random.pick(&[1, 3, 3, 5]);
        let in_c = random.pick(&[2, 16, 64, 512, 4000]);
        let pad = random.pick(&[0, kernel / 2]);
        let geometry = |size: usize| {
            let g = ConvGeometry { in_c, kernel_h: kernel, kernel_w: kernel, ..BASE };
            let g = ConvGeometry { in_h: size, in_w: size, pad_top: pad, pad_left: pad, ..g };
            with_output(g, pad, pad)
        };
        let isa = random.pick(&Isa::available().collect::<Vec<_>>());
        for stored in [Stored::Bf16, Stored::Grouped] {
            let mut most = 0;
            for size in 1..=40 {
                let len = scratch_len(&geometry(size), stored, isa);
                assert!(len >= most, "{isa} {stored:?} {:?}: {most}", geometry(size));
                most = len;
            }
        }
    }
}

#[test]
fn inputs_become_the_nearest_bf16() {
    let halves = [0x3f80_8000_u32, 0x3f81_8000, 0x3f80_7fff, 0x3f80_8001, 0x7f7f_ffff, 0x7f7f_7fff];
    let mut inputs: Vec<f32> =
        halves.iter().flat_map(|x| [*x, x | 1 << 31]).map(f32::from_bits).collect();
    let special = [f32::NAN, f32::from_bits(0x7fff_ffff), f32::from_bits(0xffff_ffff)];
    inputs.extend([special, [f32::INFINITY, f32::NEG_INFINITY, 0.0], [-0.0, 1e-30, 3.0]].concat());
    inputs.extend(Random::new(1).fine_numbers(79));
    let geometry = ConvGeometry::matmul(inputs.len(), 2, 1);
    // An input and zero, by the weights one and zero.
    let weights: [bf16; 2 * PANEL_N] =
        core::array::from_fn(|i| bf16::from_f32(if i == 0 { 1.0 } else { 0.0 }));
    let rows: Vec<f32> = inputs.iter().flat_map(|x| [*x, 0.0]).collect();
    for isa in Isa::available() {
        for rows_at_once in [1, inputs.len()] {
            for (input, row) in inputs.chunks(rows_at_once).zip(rows.chunks(2 * rows_at_once)) {
                let geometry = ConvGeometry { batch: input.len(), ..geometry };
                let mut output = vec![UNTOUCHED; input.len()];
                select(isa)(&mut ConvF32 {
                    geometry,
                    pixels: 0..geometry.out_pixels(),
                    input: row,
                    weights: PanelWeights::Bf16(&weights),
                    epilogue: EpilogueF32 {
                        bias: &[0.0; PANEL_N],
                        residual: None,
                        min: f32::NEG_INFINITY,
                        max: f32::INFINITY,
                        activation: None,
                    },
                    output: &mut output,
                    output_stride: 1,
                    scratch: &mut vec![f32::NAN; scratch_len(&geometry, Stored::Bf16, isa)],
                });
                for (x, y) in input.iter().zip(output) {
                    let want = bf16::from_f32(*x).to_f32();
                    assert!(y == want || y.is_nan() && want.is_nan(), "{isa}: {x} became {y}");
                }
            }
        }
    }
}

#[test]
fn grouped_weights_of_every_length() {
    let mut random = Random::new(3);
    for form in forms() {
        for group_size in sizes(form) {
            // Around words, units, groups and blocks of K.
            for k in
                [0, 1, 3, 4, 5, 7, 8, 9, 15, 31, 32, 33, 40, 63, 65, 127, 128, 129, 200, 389, 777]
            {
                for (at, rows) in [1, 2, 3, 4, 5, 7, 12, 13, 50].into_iter().enumerate() {
                    if EMULATED && (at + k) % 3 > 0 {
                        continue;
                    }
                    let cols = random.pick(&[1, 8, 9, 16, 17, 32, 33, 50]);
                    let residual = random.pick(&[false, true]);
                    let variant = Variant { grouped: Some((form, group_size)), residual, ..PLAIN };
                    check_all(ConvGeometry::matmul(rows, k, cols), variant, k as u64);
                }
            }
        }
    }
}

/// What kernels of integers give, of every case one after the other: FNV-1a of the bits.
const INTEGER_RESULTS: u64 = 0x06024683e34e15b8;

/// Sums of integers, and all that is done with them, are the same everywhere.
#[test]
fn integers_are_equal_bits_on_every_instruction_set() {
    let mut random = Random::new(5);
    let mut results = 0xcbf2_9ce4_8422_2325u64;
    let with_integers = |isa: &Isa| !matches!(isa, Isa::Scalar | Isa::Neon);
    for form in forms() {
        for (group_size, k) in sizes(form).into_iter().flat_map(|size| [(size, 45), (size, 640)]) {
            for rows in [1, 2, 3, 4, 7, 12, 13, 15, 100] {
                let geometry = ConvGeometry::matmul(rows, k, random.pick(&[5, 16, 40]));
                let variant = Variant { grouped: Some((form, group_size)), ..PLAIN };
                let problem = Problem::new(geometry, variant, random.next());
                let mut outputs = Isa::available().filter(with_integers).map(|isa| {
                    let output = problem.run(
                        scratch_len(&geometry, Stored::Grouped, isa),
                        false,
                        select(isa),
                    );
                    (isa, output.into_iter().map(f32::to_bits).collect::<Vec<_>>())
                });
                let Some((first, expected)) = outputs.next() else { return };
                for (isa, output) in outputs {
                    assert_eq!(output, expected, "{isa} and {first}, {form:?} {rows} x {k}");
                }
                for byte in expected.into_iter().flat_map(u32::to_le_bytes) {
                    results = (results ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
                }
            }
        }
    }
    assert_eq!(results, INTEGER_RESULTS, "of another architecture");
}

/// The formulas of the format, written out byte by byte.
#[test]
fn grouped_weights_lie_where_the_format_says() {
    const N: usize = 18;
    const TABLE: [i32; 16] =
        [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
    for (form, group_size, k) in
        forms().into_iter().flat_map(|form| [(form, 32, 70), (form, 64, 70), (form, 128, 300)])
    {
        let geometry = ConvGeometry { groups: 2, ..ConvGeometry::matmul(1, 2 * k, 2 * N) };
        let mut random = Random::new(9);
        let integers: Vec<i8> = form.integers().collect();
        let q: Vec<i8> = (0..2 * N * k).map(|_| random.pick(&integers)).collect();
        let (scale, factors) = scales(&mut random, form, 2 * N, k, group_size);
        let (min, min_factors) = match form.has_mins {
            true => scales(&mut random, form, 2 * N, k, group_size),
            false => (vec![], vec![]),
        };
        let bytes = grouped::pack_weights(
            &geometry,
            form,
            group_size,
            &q,
            Scales { values: &scale, factors: &factors },
            Scales { values: &min, factors: &min_factors },
        );
        let ceil = |n: usize| k.div_ceil(n);
        // Bytes of words and of upper bits, and what integers are stored as more than they are.
        let (words, upper_bytes, less) = match form.bits {
            GroupedBits::W8 => (4 * 64 * ceil(4), 0, 0),
            GroupedBits::W4 | GroupedBits::W4Nl => (4 * 64 * ceil(8), 0, 8),
            GroupedBits::W5 => (4 * 64 * 4 * ceil(32), 4 * 64 * ceil(32), 16),
            GroupedBits::W6 => (4 * 64 * 2 * ceil(16), 4 * 64 * ceil(16), 32),
        };
        let less = if form.has_mins { 0 } else { less };
        let (scale_bytes, factor_bytes) = match form.scales {
            ScaleKind::F16 => (4 * ceil(group_size) * 16 * 2, 0),
            ScaleKind::F32 => (4 * ceil(group_size) * 16 * 4, 0),
            ScaleKind::I8 => (4 * ceil(group_size) * 16, 4 * ceil(256) * 16 * 2),
        };
        let planes = if form.has_mins { 2 } else { 1 };
        assert_eq!(bytes.len(), words + upper_bytes + (scale_bytes + factor_bytes) * planes);
        let bytes = placed(&bytes, 0);
        let packed = form.planes(&geometry, group_size, &bytes).expect("planes");
        for (conv_group, n, input) in
            (0..2).flat_map(|g| (0..32).flat_map(move |n| (0..k).map(move |k| (g, n, k))))
        {
            let panel = conv_group * 2 + n / 16;
            let lane = n % 16 * 4 + input % 4;
            let nibble = |words: usize| {
                let byte = bytes[(panel * words + input / 8) * 64 + lane];
                i32::from(if input % 8 < 4 { byte & 15 } else { byte >> 4 })
            };
            let upper = |inputs: usize, bits: usize| {
                let byte = bytes[words + (panel * ceil(inputs) + input / inputs) * 64 + lane];
                i32::from(byte >> (input % inputs / 4 * bits) & ((1 << bits) - 1))
            };
            let got = match form.bits {
                GroupedBits::W8 => {
                    i32::from(bytes[(panel * ceil(4) + input / 4) * 64 + lane] as i8)
                }
                GroupedBits::W4 => nibble(ceil(8)) - less,
                GroupedBits::W5 => nibble(4 * ceil(32)) + 16 * upper(32, 1) - less,
                GroupedBits::W6 => nibble(2 * ceil(16)) + 16 * upper(16, 2) - less,
                GroupedBits::W4Nl => TABLE[nibble(ceil(8)) as usize],
            };
            let channel = conv_group * N + n;
            let padding = if form.bits == GroupedBits::W4Nl { 1 } else { 0 };
            let want = if n < N { i32::from(q[channel * k + input]) } else { padding };
            assert_eq!(got, want, "{form:?} {conv_group} {n} {input}");
            let real = |plane: usize| {
                let start = words + upper_bytes + plane * (scale_bytes + factor_bytes);
                let at = (panel * ceil(group_size) + input / group_size) * 16 + n % 16;
                let half = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32();
                match form.scales {
                    ScaleKind::F16 => half(start + at * 2),
                    ScaleKind::F32 => {
                        f32::from_le_bytes(bytes[start + at * 4..][..4].try_into().unwrap())
                    }
                    ScaleKind::I8 => {
                        let factor = (panel * ceil(256) + input / 256) * 16 + n % 16;
                        f32::from(bytes[start + at] as i8) * half(start + scale_bytes + factor * 2)
                    }
                }
            };
            let own = |values: &[f32]| match n < N && !values.is_empty() {
                true => values[channel * ceil(group_size) + input / group_size],
                false => 0.0,
            };
            assert_eq!(real(0), own(&scale));
            assert!(!form.has_mins || real(1) == own(&min));
            let at = packed.at(conv_group * 32 + n, input, k);
            assert_eq!(at, own(&scale) * want as f32 + own(&min));
        }
    }
}

#[test]
fn random_convolutions() {
    let mut random = Random::new(7);
    let cases = if cfg!(miri) { 3 } else { 400 };
    for seed in 0..cases {
        let groups = random.pick(&[1, 1, 1, 2, 4]);
        let channels = [1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 64];
        let geometry = with_output(
            ConvGeometry {
                batch: random.pick(&[1, 1, 2]),
                in_h: random.pick(&[1, 4, 5, 9]),
                in_w: random.pick(&[1, 3, 6, 11]),
                in_c: groups * random.pick(&channels),
                out_h: 0,
                out_w: 0,
                out_c: groups * random.pick(&channels),
                kernel_h: random.pick(&[1, 3, 5]),
                kernel_w: random.pick(&[1, 3, 5]),
                stride_h: random.pick(&[1, 2, 3]),
                stride_w: random.pick(&[1, 2, 3]),
                pad_top: random.pick(&[0, 1, 2]),
                pad_left: random.pick(&[0, 1, 2]),
                dilation_h: random.pick(&[1, 1, 2]),
                dilation_w: random.pick(&[1, 1, 2]),
                groups,
            },
            random.pick(&[0, 1, 3]),
            random.pick(&[0, 1, 3]),
        );
        let variant = Variant::random(&mut random);
        check_all(geometry, variant, seed);
        check_all(geometry, variant.grouped(&mut random), seed);
        // Pairs of inputs.
        let in_c = groups * geometry.group_in_c().next_multiple_of(2);
        check_all(ConvGeometry { in_c, ..geometry }, variant.bf16(), seed);
    }
    println!("instruction sets covered: {:?}", Isa::available().collect::<Vec<_>>());
}

#[test]
fn nan_and_infinity_pass_the_clamp_as_documented() {
    for isa in Isa::available() {
        for (min, max) in [(f32::NEG_INFINITY, f32::INFINITY), (0.0, 6.0)] {
            let geometry = ConvGeometry::matmul(3, 1, 17);
            let mut weights = [0.0; 32];
            pack_weights(&geometry, &[1.0; 17], &mut weights);
            let mut output = [0.0; 51];
            select(isa)(&mut ConvF32 {
                geometry,
                pixels: 0..geometry.out_pixels(),
                input: &[f32::NAN, f32::INFINITY, f32::NEG_INFINITY],
                weights: FloatWeights::F32(&weights).into(),
                epilogue: EpilogueF32 {
                    bias: &[0.0; 32],
                    residual: None,
                    min,
                    max,
                    activation: None,
                },
                output: &mut output,
                output_stride: 17,
                scratch: &mut [],
            });
            assert!(output[..17].iter().all(|y| y.is_nan()), "{isa}: {output:?}");
            assert!(output[17..34].iter().all(|&y| y == max), "{isa}: {output:?}");
            assert!(output[34..].iter().all(|&y| y == min), "{isa}: {output:?}");
        }
    }
}

#[test]
fn short_slices_panic() {
    let transformed = ConvGeometry { in_c: 16, out_c: 32, in_h: 15, out_h: 15, ..BASE };
    // What is cut from: input, weights, bias, residual, output, scratch.
    for (cut, g) in (0..6).flat_map(|cut| [(cut, BASE), (cut, transformed)]) {
        for isa in Isa::available().filter(|&isa| cut < 5 || isa != Isa::Scalar) {
            let refused = std::panic::catch_unwind(|| {
                let cut = |i: usize| usize::from(cut == i);
                let scratch_len = scratch_len(&g, Stored::Float, isa);
                select(isa)(&mut ConvF32 {
                    geometry: g,
                    pixels: 0..g.out_pixels(),
                    input: &vec![0.0; g.input_len() - cut(0)],
                    weights: FloatWeights::F32(&vec![0.0; g.packed_float_len() - cut(1)]).into(),
                    epilogue: EpilogueF32 {
                        bias: &vec![0.0; g.padded_out_c() - cut(2)],
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
                    scratch: &mut vec![0.0; scratch_len - cut(5)],
                });
            });
            assert!(refused.is_err(), "{isa} accepted a short slice, number {cut}");
        }
    }
}

/// Without the first scales and factors.
fn shorter(plane: ScalePlane<'_>, scales: usize, factors: usize) -> ScalePlane<'_> {
    match plane {
        ScalePlane::F16(plane) => ScalePlane::F16(&plane[scales..]),
        ScalePlane::F32(plane) => ScalePlane::F32(&plane[scales..]),
        ScalePlane::I8 { integers, factors: all } => {
            ScalePlane::I8 { integers: &integers[scales..], factors: &all[factors..] }
        }
    }
}

#[test]
fn short_planes_panic() {
    // What is cut from: weights, scales, scratch, minima; 4 is an unknown group size; upper bits, factors.
    for (form, cut) in forms().into_iter().flat_map(|form| (0..7).map(move |cut| (form, cut))) {
        let is_cut = |isa: Isa| match cut {
            2 => isa != Isa::Scalar,
            3 => form.has_mins,
            5 => form.bits.upper() > 0,
            6 => form.scales == ScaleKind::I8,
            _ => true,
        };
        for isa in Isa::available().filter(|isa| is_cut(*isa)) {
            for rows in [1, 9] {
                let refused = std::panic::catch_unwind(|| {
                    let g = ConvGeometry::matmul(rows, 45, 20);
                    let cut = |i: usize| usize::from(cut == i);
                    let bytes = placed(&vec![0u8; form.bytes(&g, 32)], 0);
                    let mut planes = form.planes(&g, 32, &bytes).expect("planes");
                    planes.weights = &planes.weights[cut(0)..];
                    planes.upper = &planes.upper[cut(5)..];
                    planes.scales = shorter(planes.scales, cut(1), cut(6));
                    planes.mins = planes.mins.map(|mins| shorter(mins, cut(3), 0));
                    planes.group_size += cut(4);
                    let scratch_len = scratch_len(&g, Stored::Grouped, isa);
                    select(isa)(&mut ConvF32 {
                        geometry: g,
                        pixels: 0..g.out_pixels(),
                        input: &vec![0.0; g.input_len()],
                        weights: PanelWeights::Grouped(planes),
                        epilogue: EpilogueF32 {
                            bias: &[0.0; 32],
                            residual: None,
                            min: 0.0,
                            max: 1.0,
                            activation: None,
                        },
                        output: &mut vec![0.0; rows * 20],
                        output_stride: 20,
                        scratch: &mut vec![0.0; scratch_len - cut(2)],
                    });
                });
                assert!(refused.is_err(), "{isa} accepted a short slice, number {cut}");
            }
        }
    }
}

#[test]
fn overflowing_geometries_panic() {
    let huge = usize::MAX / 2;
    for geometry in [
        ConvGeometry { in_h: huge, ..BASE },
        ConvGeometry { out_h: huge, ..BASE },
        ConvGeometry { out_c: usize::MAX - 1, ..BASE },
        ConvGeometry { kernel_h: huge, ..BASE },
        ConvGeometry { stride_h: huge, ..BASE },
        ConvGeometry { dilation_w: huge, ..BASE },
        ConvGeometry { pad_left: huge, ..BASE },
        ConvGeometry { groups: 0, ..BASE },
        ConvGeometry { groups: 3, ..BASE },
        ConvGeometry { stride_w: 0, ..BASE },
        ConvGeometry { dilation_h: 0, ..BASE },
    ] {
        assert!(std::panic::catch_unwind(|| check_geometry(&geometry)).is_err(), "{geometry:?}");
    }
}
