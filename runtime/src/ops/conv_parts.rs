//! Convolutions and fully connected layers in parts: the same kernel over a part of the output.
//!
//! Which axis is cut follows from the geometry and the kernel. Integer sums don't depend on it. Float sums do by the tiles of the kernel, which is
//! why dense float convolutions are cut where tiles begin: by pixels at the multiples that
//! [`conv_f32::cut`] names, and where those are too few by pairs of panels of output channels.

use core::ops::Range;

use crate::error::StepErrorKind;
use crate::format::Element;
use crate::isa::Isa;
use crate::kernels::conv_f32::{self, ConvF32, Stored};
use crate::kernels::conv_i8::ConvI8;
use crate::kernels::depthwise_f32::DepthwiseF32;
use crate::kernels::{
    ConvGeometry, EpilogueF32, EpilogueI8, FloatWeights, PANEL_N, Packing, PanelWeights,
    ResidualData,
};
use crate::ops::Step;
use crate::ops::conv::{
    DEPTHWISE_KERNELS_I8, GeometryFn, Layer, PANELS_I8, packing, scratch_bytes_f32, stored,
};
use crate::ops::parallel::{Rates, Sharing, Work};
use crate::threads::{Columns, Crew, Cut, Disjoint, SHARE_ALIGN, Shares};

/// The input that is packed.
const WEIGHTS: usize = 1;

/// Channels that stay together: the widest tile, two panels.
const UNIT_CHANNELS: usize = 2 * PANEL_N;

/// Pixels of an i8 matrix product that stay together: two tiles.
const UNIT_PIXELS_I8: usize = 12;

/// Below so many pixels, dense float layers are cut by channels.
const FEW_PIXELS: usize = 48;

/// The same where pixels can be cut anywhere, of weights that fit into every core's cache: inputs that another core wrote take longer to
/// arrive (64 bytes in 7 ns on a Zen 4) than weights from there.
const FEW_PIXELS_BESIDE_WEIGHTS: usize = 24;

/// Weights that fit into every core's cache, in elements.
const NEAR_WEIGHTS: usize = 64 << 10;

/// What is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Axis {
    /// Output pixels, whatever image or row they are in; units of so many.
    Pixels(usize),
    /// Output channels, in units of [`UNIT_CHANNELS`].
    Channels,
    Images,
    /// Rows of the one output image.
    Rows,
    /// Columns of the one row of the one output image.
    Columns,
}

/// The axis of a dense float layer, and its units.
fn axis_f32(g: &ConvGeometry, isa: Isa, stored: Stored, pieces: usize) -> Option<(Axis, usize)> {
    let is_near = g.packed_float_len() <= NEAR_WEIGHTS;
    let few = match conv_f32::is_cut_anywhere(g, isa, stored) && is_near {
        true => FEW_PIXELS_BESIDE_WEIGHTS,
        false => FEW_PIXELS,
    };
    if g.out_pixels() >= few {
        let (unit, units) = conv_f32::cut(g, isa, stored, pieces);
        return Some((Axis::Pixels(unit), units));
    }
    (g.groups == 1).then(|| (Axis::Channels, g.out_c.div_ceil(UNIT_CHANNELS)))
}

/// The axis of an integer layer that isn't depthwise, and its units.
fn axis_i8(g: &ConvGeometry, packing: Packing) -> Option<(Axis, usize)> {
    if g.out_pixels() == 1 {
        let by_panels = g.groups == 1 && packing == Packing::Panels;
        return by_panels.then(|| (Axis::Channels, g.out_c.div_ceil(UNIT_CHANNELS)));
    }
    if g.is_pointwise() {
        return Some((Axis::Pixels(UNIT_PIXELS_I8), g.out_pixels() / UNIT_PIXELS_I8));
    }
    by_windows(g).or_else(|| {
        let flat = g.in_h == 1 && g.out_h == 1 && g.kernel_h == 1 && g.pad_top == 0;
        (flat && windows_begin_inside(&g.turned())).then_some((Axis::Columns, g.out_w))
    })
}

/// By images or by rows.
fn by_windows(g: &ConvGeometry) -> Option<(Axis, usize)> {
    if g.batch > 1 {
        Some((Axis::Images, g.batch))
    } else if g.out_h > 1 && windows_begin_inside(g) {
        Some((Axis::Rows, g.out_h))
    } else {
        None
    }
}

/// Whether the windows of every row begin above the end of the input, as those of any sensible convolution do.
fn windows_begin_inside(g: &ConvGeometry) -> bool {
    (g.out_h - 1).saturating_mul(g.stride_h) < g.in_h.saturating_add(g.pad_top)
}

/// A part of a layer, as a layer of its own.
pub(super) struct Piece {
    pub(super) geometry: ConvGeometry,
    /// Where its input begins, in elements.
    input: usize,
    /// Elements of the output, and of a residual.
    output: Range<usize>,
    /// The first output channel.
    channel: usize,
}

/// A part of the output, for kernels that don't mind what the others are: all but the dense float ones.
fn piece(g: &ConvGeometry, axis: Axis, cut: Cut, part: usize) -> Piece {
    let all = Piece { geometry: *g, input: 0, output: 0..0, channel: 0 };
    match axis {
        Axis::Pixels(unit) => {
            let pixels = cut.elements(part, unit, g.out_pixels());
            let one = ConvGeometry { in_h: 1, in_w: 1, out_h: 1, out_w: 1, ..*g };
            Piece {
                geometry: ConvGeometry { batch: pixels.len(), ..one },
                input: pixels.start * g.in_c,
                output: pixels.start * g.out_c..pixels.end * g.out_c,
                ..all
            }
        }
        Axis::Channels => {
            let channels = cut.elements(part, UNIT_CHANNELS, g.out_c);
            let geometry = ConvGeometry { out_c: channels.len(), ..*g };
            Piece { geometry, channel: channels.start, output: channels, ..all }
        }
        Axis::Images => {
            let images = cut.range(part);
            let image = g.out_h * g.out_w * g.out_c;
            Piece {
                geometry: ConvGeometry { batch: images.len(), ..*g },
                input: images.start * g.in_h * g.in_w * g.in_c,
                output: images.start * image..images.end * image,
                ..all
            }
        }
        Axis::Rows => {
            let rows = cut.range(part);
            let top = rows.start * g.stride_h;
            let first = top.saturating_sub(g.pad_top).min(g.in_h);
            let row = g.out_w * g.out_c;
            Piece {
                geometry: ConvGeometry {
                    in_h: g.in_h - first,
                    out_h: rows.len(),
                    pad_top: g.pad_top.saturating_sub(top),
                    ..*g
                },
                input: first * g.in_w * g.in_c,
                output: rows.start * row..rows.end * row,
                ..all
            }
        }
        Axis::Columns => piece(&g.turned(), Axis::Rows, cut, part),
    }
}

/// The parts of so many units along an axis.
fn cut(g: &ConvGeometry, axis: Axis, units: usize, parts: usize) -> Cut {
    match axis {
        Axis::Pixels(unit) => Cut::of_len(units, parts, unit, g.out_pixels()),
        Axis::Channels => Cut::of_len(units, parts, UNIT_CHANNELS, g.out_c),
        Axis::Images | Axis::Rows | Axis::Columns => Cut::new(units, parts),
    }
}

/// Elements of the output that a unit has.
fn unit_elements(g: &ConvGeometry, axis: Axis) -> usize {
    match axis {
        Axis::Pixels(unit) => unit * g.out_c,
        Axis::Channels => UNIT_CHANNELS,
        Axis::Images => g.out_h * g.out_w * g.out_c,
        Axis::Rows => g.out_w * g.out_c,
        Axis::Columns => g.out_c,
    }
}

fn geometry_of(step: &Step<'_>, geometry: GeometryFn) -> Option<ConvGeometry> {
    Layer::of(step).and_then(|layer| geometry(&layer)).ok()
}

fn axis_of_i8(g: &ConvGeometry, is_depthwise: bool, packing: Packing) -> Option<(Axis, usize)> {
    if is_depthwise { by_windows(g) } else { axis_i8(g, packing) }
}

/// What there is to share of a layer on i8.
pub(super) fn work_i8(
    step: &Step<'_>,
    sharing: Sharing,
    geometry: GeometryFn,
    is_depthwise: bool,
) -> Option<Work> {
    let g = geometry_of(step, geometry)?;
    let (_, units) = axis_of_i8(&g, is_depthwise, packing(step.input_layout(WEIGHTS)))?;
    let rates = if is_depthwise { Rates::DEPTHWISE_I8 } else { Rates::CONV_I8 };
    Some(Work { units, ns: layer_ns(&g, rates, step, sharing)?, is_by_rows: false })
}

/// Bytes of scratch that a thread needs for a layer on i8 in so many parts.
pub(super) fn share_bytes_i8(
    step: &Step<'_>,
    isa: Isa,
    geometry: GeometryFn,
    is_depthwise: bool,
    parts: usize,
) -> usize {
    let Some(g) = geometry_of(step, geometry) else { return 0 };
    let packing = packing(step.input_layout(WEIGHTS));
    let Some((axis, units)) = axis_of_i8(&g, is_depthwise, packing) else { return 0 };
    let kernels = if is_depthwise { &DEPTHWISE_KERNELS_I8 } else { &PANELS_I8 };
    let cut = cut(&g, axis, units, parts);
    let of = |part| (kernels.scratch_bytes)(&piece(&g, axis, cut, part).geometry, isa);
    (0..cut.parts).map(of).max().unwrap_or(0)
}

/// What there is to share of a dense float layer.
pub(super) fn work_f32(step: &Step<'_>, sharing: Sharing, geometry: GeometryFn) -> Option<Work> {
    let g = geometry_of(step, geometry)?;
    // With the smallest units.
    let (axis, units) = axis_f32(&g, sharing.isa, stored(step), usize::MAX)?;
    let ns = layer_ns(&g, Rates::CONV_F32, step, sharing)?;
    Some(Work { units, ns, is_by_rows: axis != Axis::Channels })
}

/// Bytes of scratch that a thread needs for a dense float layer in so many parts.
pub(super) fn share_bytes_f32(
    step: &Step<'_>,
    isa: Isa,
    geometry: GeometryFn,
    parts: usize,
) -> usize {
    let bytes = scratch_bytes_f32(step, isa, geometry).next_multiple_of(SHARE_ALIGN);
    let Some(g) = geometry_of(step, geometry) else { return bytes };
    match axis_f32(&g, isa, stored(step), parts) {
        Some((axis @ Axis::Channels, units)) => {
            let cut = cut(&g, axis, units, parts);
            bytes.saturating_add(staged_len(&g, cut) * size_of::<f32>())
        }
        _ => bytes,
    }
}

/// What there is to share of a float depthwise convolution.
pub(super) fn work_depthwise_f32(step: &Step<'_>, isa: Isa, geometry: GeometryFn) -> Option<Work> {
    let g = geometry_of(step, geometry)?;
    let (_, units) = by_windows(&g)?;
    Some(Work { units, ns: products(&g) / Rates::DEPTHWISE_F32.of(isa), is_by_rows: true })
}

/// Nanoseconds on one thread: what the products take, or to read the weights.
fn layer_ns(g: &ConvGeometry, rates: Rates, step: &Step<'_>, sharing: Sharing) -> Option<f32> {
    let weight_bytes = step.input_place(WEIGHTS)?.bytes as f32;
    Some((products(g) / rates.of(sharing.isa)).max(weight_bytes / sharing.weight_bytes_per_ns))
}

fn products(g: &ConvGeometry) -> f32 {
    g.out_pixels() as f32 * g.out_c as f32 * g.k() as f32
}

fn residual_part<'v, T>(
    residual: ResidualData<'v, T>,
    range: Range<usize>,
) -> Result<ResidualData<'v, T>, StepErrorKind> {
    Ok(match residual {
        ResidualData::Apart(data) => ResidualData::Apart(from(data, range.start)?),
        ResidualData::InOutput => ResidualData::InOutput,
    })
}

fn from<T>(slice: &[T], start: usize) -> Result<&[T], StepErrorKind> {
    slice.get(start..).ok_or(StepErrorKind::TooLarge)
}

/// A layer on i8, in parts. `conv` has the whole output and all scratch.
pub(super) fn run_i8(
    mut crew: Crew<'_>,
    conv: ConvI8<'_>,
    is_depthwise: bool,
    kernel: fn(&mut ConvI8<'_>),
) -> Result<(), StepErrorKind> {
    let g = conv.geometry;
    // Steps that were cut have an axis.
    let axis = axis_of_i8(g, is_depthwise, conv.packing);
    let (axis, units) = axis.ok_or(StepErrorKind::TooLarge)?;
    let cut = cut(g, axis, units, crew.parts);
    let shares = Shares::new(conv.scratch, crew.threads());
    let output = Disjoint::new(conv.output, cut, unit_elements(g, axis));
    let whole = ConvI8 { output: &mut [], scratch: &mut [], ..conv };
    crew.run(cut.parts, |part, thread| {
        let Piece { geometry, input, output: range, channel } = piece(g, axis, cut, part);
        let output = output.take(part).ok_or(StepErrorKind::TooLarge)?;
        let epilogue = EpilogueI8 {
            scale: from(whole.epilogue.scale, channel)?,
            fixed_point: from(
                whole.epilogue.fixed_point,
                if whole.epilogue.fixed_point.is_empty() { 0 } else { 2 * channel },
            )?,
            residual: match whole.epilogue.residual {
                None => None,
                Some(residual) => Some(crate::kernels::ResidualI8 {
                    data: residual_part(residual.data, range)?,
                    ..residual
                }),
            },
            ..whole.epilogue
        };
        let sums = if whole.weight_sums.is_empty() { 0 } else { channel };
        let panels = channel * g.k().next_multiple_of(crate::kernels::PANEL_K);
        shares.with(thread, |scratch| {
            kernel(&mut ConvI8 {
                geometry: &geometry,
                input: from(whole.input, input)?,
                input_zero_point: whole.input_zero_point,
                weights: from(whole.weights, panels)?,
                packing: whole.packing,
                bias: from(whole.bias, channel)?,
                weight_sums: from(whole.weight_sums, sums)?,
                epilogue,
                output_stride: geometry.out_c,
                output,
                scratch,
            });
            Ok(())
        })?
    })
}

/// A float depthwise convolution, in parts.
pub(super) fn run_depthwise_f32(
    crew: Crew<'_>,
    depthwise: DepthwiseF32<'_>,
    kernel: fn(&mut DepthwiseF32<'_>),
) -> Result<(), StepErrorKind> {
    let DepthwiseF32 { geometry, input, weights, epilogue, output, .. } = depthwise;
    run_windows(crew, &geometry, input, output, |piece, input, output| {
        let residual = match epilogue.residual {
            None => None,
            Some(residual) => Some(residual_part(residual, piece.output.clone())?),
        };
        kernel(&mut DepthwiseF32 {
            geometry: piece.geometry,
            input,
            weights,
            epilogue: EpilogueF32 { residual, ..epilogue },
            output,
            output_stride: piece.geometry.out_c,
        });
        Ok(())
    })
}

/// Parts that windows can be shared in.
pub(super) fn window_units(g: &ConvGeometry) -> Option<usize> {
    by_windows(g).map(|(_, units)| units)
}

/// Calls `kernel` with the windows of some images or rows, in parts of which there are at most [`window_units`]: the input from theirs on,
/// and their output.
pub(super) fn run_windows<T: Element>(
    mut crew: Crew<'_>,
    g: &ConvGeometry,
    x: &[T],
    y: &mut [T],
    kernel: impl Fn(&Piece, &[T], &mut [T]) -> Result<(), StepErrorKind> + Sync,
) -> Result<(), StepErrorKind> {
    let (axis, units) = by_windows(g).ok_or(StepErrorKind::TooLarge)?;
    let cut = cut(g, axis, units, crew.parts);
    let y = Disjoint::new(y, cut, unit_elements(g, axis));
    crew.run(cut.parts, |part, _| {
        let piece = piece(g, axis, cut, part);
        let y = y.take(part).ok_or(StepErrorKind::TooLarge)?;
        kernel(&piece, from(x, piece.input)?, y)
    })
}

/// A dense float layer, in parts.
pub(super) fn run_f32(
    mut crew: Crew<'_>,
    conv: ConvF32<'_>,
    isa: Isa,
    kernel: fn(&mut ConvF32<'_>),
) -> Result<(), StepErrorKind> {
    let g = conv.geometry;
    let stored = Stored::of(&conv.weights);
    let (axis, units) = axis_f32(&g, isa, stored, crew.parts).ok_or(StepErrorKind::TooLarge)?;
    let cut = cut(&g, axis, units, crew.parts);
    let shares = Shares::new(conv.scratch, crew.threads());
    let (input, weights, epilogue) = (conv.input, conv.weights, conv.epilogue);
    let Axis::Pixels(unit) = axis else {
        return run_channels(crew, cut, &shares, ConvF32 { scratch: &mut [], ..conv }, kernel);
    };
    let output = Disjoint::new(conv.output, cut, unit_elements(&g, axis));
    crew.run(cut.parts, |part, thread| {
        let output = output.take(part).ok_or(StepErrorKind::TooLarge)?;
        shares.with(thread, |scratch| {
            kernel(&mut ConvF32 {
                geometry: g,
                pixels: cut.elements(part, unit, g.out_pixels()),
                input,
                weights,
                epilogue,
                output,
                output_stride: g.out_c,
                scratch,
            });
        })
    })
}

/// Elements of scratch for the output, and a residual, of the widest part by channels; none for one pixel, whose parts lie
/// in the output as they are.
fn staged_len(g: &ConvGeometry, cut: Cut) -> usize {
    if g.out_pixels() == 1 {
        return 0;
    }
    let widest = (0..cut.parts).map(|part| cut.elements(part, UNIT_CHANNELS, g.out_c).len()).max();
    2 * g.out_pixels() * widest.unwrap_or(0)
}

/// A dense float layer of few pixels, in parts by channels.
fn run_channels(
    mut crew: Crew<'_>,
    cut: Cut,
    shares: &Shares<'_, f32>,
    conv: ConvF32<'_>,
    kernel: fn(&mut ConvF32<'_>),
) -> Result<(), StepErrorKind> {
    let ConvF32 { geometry: g, input, weights, epilogue, output, .. } = conv;
    let pixels = g.out_pixels();
    let staged = staged_len(&g, cut);
    let columns = Columns::new(output, g.out_c, cut, UNIT_CHANNELS);
    crew.run(cut.parts, |part, thread| {
        let channels = cut.elements(part, UNIT_CHANNELS, g.out_c);
        let geometry = ConvGeometry { out_c: channels.len(), ..g };
        let mut rows = columns.take(part).ok_or(StepErrorKind::TooLarge)?;
        let conv = |output: &mut [f32],
                    residual: Option<ResidualData<'_, f32>>,
                    scratch: &mut [f32]|
         -> Result<(), StepErrorKind> {
            kernel(&mut ConvF32 {
                geometry,
                pixels: 0..pixels,
                input,
                weights: panels_from(weights, &g, channels.start)?,
                epilogue: EpilogueF32 {
                    bias: from(epilogue.bias, channels.start)?,
                    residual,
                    ..epilogue
                },
                output,
                output_stride: channels.len(),
                scratch,
            });
            Ok(())
        };
        shares.with(thread, |scratch| {
            if pixels == 1 {
                let residual = match epilogue.residual {
                    None => None,
                    Some(residual) => Some(residual_part(residual, channels.clone())?),
                };
                return rows.next().map_or(Ok(()), |row| conv(row, residual, scratch));
            }
            // The kernel writes dense rows, which are then copied to where they belong.
            let middle = scratch.len().checked_sub(staged).ok_or(StepErrorKind::TooLarge)?;
            let (scratch, staged) = scratch.split_at_mut(middle);
            let (staged, beside) = staged.split_at_mut(pixels * channels.len());
            let width = channels.len();
            let mut rows: [&mut [f32]; FEW_PIXELS] =
                core::array::from_fn(|_| rows.next().unwrap_or_default());
            let residual = match epilogue.residual {
                None => None,
                Some(ResidualData::InOutput) => {
                    for (to, row) in staged.chunks_exact_mut(width).zip(&rows) {
                        to.copy_from_slice(row);
                    }
                    Some(ResidualData::InOutput)
                }
                Some(ResidualData::Apart(data)) => {
                    let data = data.chunks_exact(g.out_c);
                    for (to, row) in beside.chunks_exact_mut(width).zip(data) {
                        to.copy_from_slice(&row[channels.clone()]);
                    }
                    Some(ResidualData::Apart(&*beside))
                }
            };
            conv(staged, residual, scratch)?;
            for (row, from) in rows.iter_mut().zip(staged.chunks_exact(width)) {
                row.copy_from_slice(from);
            }
            Ok(())
        })?
    })
}

/// The weights from an output channel on, which begins a panel.
fn panels_from<'v>(
    weights: PanelWeights<'v>,
    g: &ConvGeometry,
    channel: usize,
) -> Result<PanelWeights<'v>, StepErrorKind> {
    let before = ConvGeometry { out_c: channel, ..*g };
    Ok(match weights {
        PanelWeights::Float(FloatWeights::F32(w)) => {
            FloatWeights::F32(from(w, before.packed_float_len())?).into()
        }
        PanelWeights::Float(FloatWeights::F16(w)) => {
            FloatWeights::F16(from(w, before.packed_float_len())?).into()
        }
        PanelWeights::Bf16(w) => PanelWeights::Bf16(from(w, before.packed_float_len())?),
        PanelWeights::Grouped(w) => {
            let weights = w.from(before.padded_out_c() / PANEL_N, g.k());
            PanelWeights::Grouped(weights.ok_or(StepErrorKind::TooLarge)?)
        }
    })
}
