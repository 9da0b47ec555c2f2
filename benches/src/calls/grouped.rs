//! Layers of decoders with weights in groups, of every kind that files have: prompts of 64 tokens, and few rows.

use std::hint::black_box;

use half::f16;
use whit::Isa;
use whit::format::Layout;
use whit::kernels::conv_f32::grouped::{GroupedForm, ScaleKind};
use whit::kernels::conv_f32::{self, ConvF32, Stored};
use whit::kernels::{ConvGeometry, EpilogueF32, PanelWeights};

use super::{Aligned, Call, floats, hash, macs};

/// Kinds of weights, and the inputs of their groups.
pub const KINDS: [(&str, Layout, usize); 11] = [
    ("w8 g32", Layout::GroupedW8, 32),
    ("w8 g128", Layout::GroupedW8, 128),
    ("w4 g32", Layout::GroupedW4, 32),
    ("w4 g32 min", Layout::GroupedW4Min, 32),
    ("w4 g128", Layout::GroupedW4, 128),
    ("w4 g32 i8 scales, min", Layout::GroupedW4NarrowMin, 32),
    ("w5 g32", Layout::GroupedW5, 32),
    ("w5 g32 i8 scales, min", Layout::GroupedW5NarrowMin, 32),
    ("w6 g16 i8 scales", Layout::GroupedW6Narrow, 16),
    ("w4nl g32", Layout::GroupedW4Nl, 32),
    ("w4nl g32 i8 scales", Layout::GroupedW4NlNarrow, 32),
];

/// Rows, inputs, outputs.
const SHAPES: [(&str, (usize, usize, usize)); 3] = [
    ("decoder/4x512-512", (4, 512, 512)),
    ("decoder/12x512-512", (12, 512, 512)),
    ("decoder/64x512-512", (64, 512, 512)),
];

/// Weights of one of [`KINDS`]: any integers, and halves that are 0.01.
pub struct Planes {
    form: GroupedForm,
    group_size: usize,
    bytes: Vec<u8>,
}

impl Planes {
    /// For a layer.
    ///
    /// # Panics
    ///
    /// When the layout isn't one of groups.
    pub fn new(g: &ConvGeometry, layout: Layout, group_size: usize) -> Planes {
        let form = GroupedForm::of(layout).expect("a grouped layout");
        let lens = form.lens(g, group_size);
        let random = |bytes: usize| (0..bytes).map(|i| (hash(i) >> 12) as u8);
        let mut bytes: Vec<u8> = random(lens.words + lens.upper).collect();
        for _ in 0..if form.has_mins { 2 } else { 1 } {
            let halves = match form.scales {
                ScaleKind::I8 => {
                    bytes.extend(random(lens.scales));
                    lens.factors
                }
                _ => lens.scales,
            };
            let half = f16::from_f32(0.01).to_le_bytes();
            bytes.extend(std::iter::repeat_n(half, halves).flatten());
        }
        Planes { form, group_size, bytes }
    }

    /// As a kernel reads them.
    ///
    /// # Panics
    ///
    /// When the layer has other weights than the one they were made for.
    pub fn get(&self, g: &ConvGeometry) -> PanelWeights<'_> {
        let planes = self.form.planes(g, self.group_size, &self.bytes);
        PanelWeights::Grouped(planes.expect("planes of the layer"))
    }

    /// How many there are.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

pub(super) fn calls() -> Vec<Call> {
    let mut calls = vec![];
    for (shape, (m, k, n)) in SHAPES {
        let g = ConvGeometry::matmul(m, k, n);
        for (kind, layout, group_size) in KINDS {
            let prepare = move |isa| layer(g, layout, group_size, isa);
            calls.push(Call::new(kind, shape, macs(&g), prepare));
        }
    }
    calls
}

fn layer(g: ConvGeometry, layout: Layout, group_size: usize, isa: Isa) -> Box<dyn FnMut()> {
    let planes = Planes::new(&g, layout, group_size);
    let (input, bias) = (floats(g.input_len()), floats(g.padded_out_c()));
    let mut output = Aligned::zeros(g.out_pixels() * g.out_c);
    let mut scratch = Aligned::zeros(conv_f32::scratch_len(&g, Stored::Grouped, isa));
    let kernel = conv_f32::select(isa);
    Box::new(move || {
        kernel(black_box(&mut ConvF32 {
            geometry: g,
            pixels: 0..g.out_pixels(),
            input: &input,
            weights: planes.get(&g),
            epilogue: EpilogueF32 {
                bias: &bias,
                residual: None,
                min: f32::NEG_INFINITY,
                max: f32::INFINITY,
                activation: None,
            },
            output: &mut output,
            output_stride: g.out_c,
            scratch: &mut scratch,
        }));
    })
}
