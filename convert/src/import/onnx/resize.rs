//! `Resize` and its predecessor `Upsample`.
//!
//! What the runtime's resize computes from an output index, at any size, becomes that. The rest, between
//! known sizes, becomes tables: an index per output for the nearest element, indices and weights per
//! axis for the other modes, in f64 as the specification says.

use bytes::Bytes;
use whit::DType;

use super::builder::{Builder, Outcome};
use super::conv::channels_last;
use super::data::axes_of;
use super::dims;
use super::failure::{FIX_THE_DIM, Failure, invalid, unsupported};
use super::node::OnnxNode;
use crate::dim::Dim;
use crate::graph::{CoordinateMode, NearestRounding, Op, ResizeMode, ValueId};
use crate::tensor::Tensor;

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("Upsample", |b, n| {
        if n.opset >= 10 {
            return Err(unsupported("Upsample is not defined in this opset", "use Resize"));
        }
        let x = n.required(0, "X")?;
        let scales = if n.opset < 9 {
            n.at_most(1)?;
            match n.opset {
                ..7 => {
                    let height = n.attributes.float("height_scale", f32::NAN)?;
                    vec![1.0, 1.0, height, n.attributes.float("width_scale", f32::NAN)?]
                }
                _ => {
                    let scales = n.attributes.floats("scales")?;
                    scales.ok_or_else(|| invalid("attribute `scales` is missing"))?.to_vec()
                }
            }
        } else {
            n.at_most(2)?;
            scales_input(b, n.required(1, "scales")?)?
        };
        before_11(b, n, x, scales)
    }),
    ("Resize", |b, n| {
        let x = n.required(0, "X")?;
        match n.opset {
            ..10 => Err(unsupported("Resize is not defined in this opset", "use Upsample")),
            10 => {
                n.at_most(2)?;
                let scales = scales_input(b, n.required(1, "scales")?)?;
                before_11(b, n, x, scales)
            }
            _ => since_11(b, n, x),
        }
    }),
];

fn scales_input(b: &mut Builder, id: ValueId) -> Result<Vec<f32>, Failure> {
    b.floats(id).ok_or_else(|| unsupported("scales are computed at run time", FIX_THE_DIM))
}

/// Coordinates are just divided by the scale, and the nearest is the one below.
fn before_11(b: &mut Builder, node: &OnnxNode<'_>, x: ValueId, scales: Vec<f32>) -> Outcome {
    let mode = match node.attributes.string("mode", "nearest")? {
        "nearest" if scales.iter().any(|s| *s < 1.0) => {
            return Err(unsupported(
                "which neighbour is nearest when shrinking isn't defined before opset 11",
                "export with opset 11 or newer",
            ));
        }
        "nearest" => ResizeMode::Nearest(NearestRounding::Floor),
        "linear" | "bilinear" => ResizeMode::Linear,
        other => return Err(invalid(format!("mode `{other}` is not defined"))),
    };
    let shape = scaled_shape(b, &b.shape(x), &scales)?;
    emit(b, node, x, mode, CoordinateMode::Asymmetric, scales, shape)
}

fn since_11(b: &mut Builder, node: &OnnxNode<'_>, x: ValueId) -> Outcome {
    node.at_most(4)?;
    let a = &node.attributes;
    let from = b.shape(x);
    let rank = from.len();
    let coordinates = a.string("coordinate_transformation_mode", "half_pixel")?;
    let rounding = match a.string("nearest_mode", "round_prefer_floor")? {
        "round_prefer_floor" => NearestRounding::RoundPreferFloor,
        "round_prefer_ceil" => NearestRounding::RoundPreferCeil,
        "floor" => NearestRounding::Floor,
        "ceil" => NearestRounding::Ceil,
        other => return Err(invalid(format!("nearest_mode `{other}` is not defined"))),
    };
    let coefficient = a.float("cubic_coeff_a", -0.75)?;
    let exclude_outside = a.flag("exclude_outside", false)?;
    let mode = match a.string("mode", "nearest")? {
        "nearest" => ResizeMode::Nearest(rounding),
        "linear" => ResizeMode::Linear,
        "cubic" => ResizeMode::Cubic { coefficient, exclude_outside },
        other => return Err(invalid(format!("mode `{other}` is not defined"))),
    };
    let extrapolation = a.float("extrapolation_value", 0.0)?;
    let antialias = a.flag("antialias", false)?;
    let policy = a.string("keep_aspect_ratio_policy", "stretch")?;
    let axes = match a.ints("axes")? {
        Some(axes) => axes_of(axes, rank)?,
        None => (0..rank).collect(),
    };
    let roi = match coordinates {
        "tf_crop_and_resize" => Some(regions(b, node, &axes, rank)?),
        _ => None,
    };

    // An empty tensor is a way to leave an input out.
    let given = |b: &Builder, index: usize| {
        node.input(index).filter(|id| !b.shape(*id).first().is_some_and(|d| d.is(0)))
    };
    let (scales, shape) = match (given(b, 2), given(b, 3)) {
        (Some(id), None) => {
            let given = scales_input(b, id)?;
            let scales = spread(&axes, rank, &given, &1.0, "scales")?;
            let shape = scaled_shape(b, &from, &scales)?;
            (scales, shape)
        }
        (None, Some(id)) => {
            let sizes = b.dims(id, "sizes")?;
            let mut shape = from.clone();
            if sizes.len() != axes.len() {
                return Err(invalid(format!("{} sizes for {} axes", sizes.len(), axes.len())));
            }
            for (axis, size) in axes.iter().zip(sizes) {
                shape[*axis] = size;
            }
            match policy {
                "stretch" => {
                    let scales = from.iter().zip(&shape).map(|(from, to)| ratio(b, from, to));
                    (scales.collect::<Result<Vec<f32>, Failure>>()?, shape)
                }
                "not_larger" | "not_smaller" => {
                    in_proportion(&from, &shape, &axes, policy == "not_larger")?
                }
                other => {
                    return Err(invalid(format!(
                        "keep_aspect_ratio_policy `{other}` is not defined"
                    )));
                }
            }
        }
        (None, None) => return Err(invalid("neither scales nor sizes are given")),
        (Some(_), Some(_)) => return Err(invalid("both scales and sizes are given")),
    };
    let mut request = Tabled {
        mode,
        coordinates: Coordinates::HalfPixel,
        antialias: antialias && !matches!(mode, ResizeMode::Nearest(_)),
        exclude_outside,
        scales,
        regions: roi,
        extrapolation,
    };
    let fractional = !whole(&from, &request.scales, &shape);
    let narrows = request.scales.iter().any(|s| *s < 1.0);
    // The runtime's own coordinates, unless only tables say the same.
    let (coordinates, plain) = match coordinates {
        "half_pixel" => (Coordinates::HalfPixel, Some(CoordinateMode::HalfPixel)),
        "pytorch_half_pixel" => {
            (Coordinates::PytorchHalfPixel, Some(CoordinateMode::PytorchHalfPixel))
        }
        "align_corners" => {
            (Coordinates::AlignCorners, Some(CoordinateMode::AlignCorners).filter(|_| !fractional))
        }
        "asymmetric" => (Coordinates::Asymmetric, Some(CoordinateMode::Asymmetric)),
        "half_pixel_symmetric" => (
            Coordinates::HalfPixelSymmetric,
            Some(CoordinateMode::HalfPixel).filter(|_| !fractional),
        ),
        "tf_crop_and_resize" => (Coordinates::CropAndResize, None),
        "tf_half_pixel_for_nn" => (Coordinates::HalfPixelForNearest, None),
        other => {
            return Err(invalid(format!(
                "coordinate_transformation_mode `{other}` is not defined"
            )));
        }
    };
    request.coordinates = coordinates;
    let blended = request.scales.iter().filter(|s| **s != 1.0).count();
    match plain {
        Some(plain)
            if !(request.antialias && narrows)
                && (blended <= 3 || matches!(mode, ResizeMode::Nearest(_))) =>
        {
            emit(b, node, x, mode, plain, request.scales, shape)
        }
        _ => request.emit(b, node, x, &axes, &shape),
    }
}

/// Start and end per axis, of the whole input's extent.
fn regions(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    axes: &[usize],
    rank: usize,
) -> Result<Vec<[f64; 2]>, Failure> {
    let values = b
        .floats(node.required(1, "roi")?)
        .ok_or_else(|| unsupported("the region is computed at run time", FIX_THE_DIM))?;
    if values.len() != 2 * axes.len() || values.iter().any(|v| !v.is_finite()) {
        return Err(invalid(format!(
            "a region of {} numbers for {} axes",
            values.len(),
            axes.len()
        )));
    }
    let mut regions = vec![[0.0, 1.0]; rank];
    for (index, axis) in axes.iter().enumerate() {
        regions[*axis] = [values[index], values[axes.len() + index]].map(f64::from);
    }
    Ok(regions)
}

/// One scale for all axes: the smallest or largest that the sizes ask for.
fn in_proportion(
    from: &[Dim],
    to: &[Dim],
    axes: &[usize],
    smallest: bool,
) -> Result<(Vec<f32>, Vec<Dim>), Failure> {
    let dynamic = || unsupported("sizes in proportion to a dynamic size", FIX_THE_DIM);
    let mut scale: Option<f64> = None;
    for axis in axes {
        let (from, to) = (from[*axis].as_const(), to[*axis].as_const());
        let (from, to) = from.zip(to).ok_or_else(dynamic)?;
        if from < 1 || to < 1 {
            return Err(invalid(format!("size {from} resized to {to}")));
        }
        let own = to as f64 / from as f64;
        scale = Some(match scale {
            None => own,
            Some(scale) if smallest => scale.min(own),
            Some(scale) => scale.max(own),
        });
    }
    let scale = scale.unwrap_or(1.0);
    let (mut scales, mut shape) = (vec![1.0; from.len()], from.to_vec());
    for axis in axes {
        let size = (from[*axis].as_const().ok_or_else(dynamic)? as f64 * scale + 0.5).floor();
        if !(1.0..=1e12).contains(&size) {
            return Err(invalid(format!("axis {axis} resized to {size}")));
        }
        (scales[*axis], shape[*axis]) = (scale as f32, Dim::from(size as i64));
    }
    Ok((scales, shape))
}

/// From an output index to a coordinate in the input, as the specification writes it.
#[derive(Clone, Copy, PartialEq)]
enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    HalfPixelForNearest,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    CropAndResize,
}

/// A resize between known sizes whose taps are worked out here, in f64.
struct Tabled {
    mode: ResizeMode,
    coordinates: Coordinates,
    antialias: bool,
    exclude_outside: bool,
    scales: Vec<f32>,
    regions: Option<Vec<[f64; 2]>>,
    extrapolation: f32,
}

impl Tabled {
    /// Resizes one axis after the other.
    fn emit(
        &self,
        b: &mut Builder,
        node: &OnnxNode<'_>,
        x: ValueId,
        axes: &[usize],
        to: &[Dim],
    ) -> Outcome {
        let nearest = matches!(self.mode, ResizeMode::Nearest(_));
        let dtype = b.dtype(x);
        if !dtype.is_float() && !nearest {
            return Err(unsupported(
                format!("interpolation of {dtype}"),
                "cast to float before it",
            ));
        }
        let mut y = x;
        let mut outside = Vec::new();
        for axis in axes.iter().copied() {
            let mut shape = b.shape(y);
            let sizes = shape[axis].as_const().zip(to[axis].as_const());
            let Some((size, out)) = sizes else {
                return Err(unsupported("such a resize of a dynamic size", FIX_THE_DIM));
            };
            let whole = self.regions.as_ref().is_none_or(|regions| regions[axis] == [0.0, 1.0]);
            if size == out && self.scales[axis] == 1.0 && whole {
                continue;
            }
            if size < 1 || out < 1 {
                return Err(invalid(format!("size {size} resized to {out}")));
            }
            let (size, out) = (size as usize, out as usize);
            let part = format!("axis{axis}");
            shape[axis] = Dim::from(out);
            b.charge(out.saturating_mul(16))?;
            let coordinates: Vec<f64> =
                (0..out).map(|index| self.coordinate(axis, index, size, out)).collect();
            if self.coordinates == Coordinates::CropAndResize {
                let last = size as f64 - 1.0;
                let mask: Vec<bool> = coordinates.iter().map(|c| *c < 0.0 || *c > last).collect();
                if mask.contains(&true) {
                    outside.push((axis, mask));
                }
            }
            y = match self.mode {
                ResizeMode::Nearest(rounding) => {
                    let indices: Vec<i64> =
                        coordinates.iter().map(|c| nearest_index(*c, rounding, size)).collect();
                    let name = format!("{}/{part}/indices", node.name);
                    let indices = b.constant(name, Tensor::from_i64([out], &indices));
                    let inputs = [Some(y), Some(indices)];
                    b.emit(node, &part, Op::Gather { axis }, &inputs, dtype, shape)?
                }
                _ => self.blend(b, node, y, axis, &coordinates, size)?,
            };
        }
        for (axis, mask) in outside {
            let mut shape = vec![1; b.rank(y)];
            shape[axis] = mask.len();
            let bytes: Vec<u8> = mask.iter().map(|m| u8::from(*m)).collect();
            let tensor = Tensor { dtype: DType::Bool, shape, data: Bytes::from(bytes) };
            let mask = b.constant(format!("{}/outside{axis}", node.name), tensor);
            let name = format!("{}/extrapolation{axis}", node.name);
            let value = b.scalar(name, dtype, f64::from(self.extrapolation))?;
            let inputs = [Some(mask), Some(value), Some(y)];
            let shape = b.shape(y);
            y = b.emit(node, &format!("extrapolated{axis}"), Op::Where, &inputs, dtype, shape)?;
        }
        Ok(vec![y])
    }

    fn coordinate(&self, axis: usize, index: usize, size: usize, out: usize) -> f64 {
        let (scale, at) = (f64::from(self.scales[axis]), index as f64);
        let size = size as f64;
        // As the scale says, not rounded to whole elements.
        let exact = match (size * scale - out as f64).abs() < 1e-4 {
            true => out as f64,
            false => size * scale,
        };
        match self.coordinates {
            Coordinates::HalfPixel => (at + 0.5) / scale - 0.5,
            Coordinates::HalfPixelForNearest => (at + 0.5) / scale,
            Coordinates::PytorchHalfPixel if exact > 1.0 => (at + 0.5) / scale - 0.5,
            Coordinates::PytorchHalfPixel => 0.0,
            Coordinates::HalfPixelSymmetric => {
                size / 2.0 * (1.0 - out as f64 / exact) + (at + 0.5) / scale - 0.5
            }
            Coordinates::AlignCorners if exact == 1.0 => 0.0,
            Coordinates::AlignCorners => at * (size - 1.0) / (exact - 1.0),
            Coordinates::Asymmetric => at / scale,
            Coordinates::CropAndResize => {
                let [start, end] = self.regions.as_ref().map_or([0.0, 1.0], |r| r[axis]);
                let first = start * (size - 1.0);
                match exact == 1.0 {
                    true => 0.5 * (start + end) * (size - 1.0),
                    false => first + at * (end - start) * (size - 1.0) / (exact - 1.0),
                }
            }
        }
    }

    /// Weighted sums along one axis.
    fn blend(
        &self,
        b: &mut Builder,
        node: &OnnxNode<'_>,
        x: ValueId,
        axis: usize,
        coordinates: &[f64],
        size: usize,
    ) -> Result<ValueId, Failure> {
        let (support, coefficient) = match self.mode {
            ResizeMode::Cubic { coefficient, .. } => (2.0, f64::from(coefficient)),
            _ => (1.0, 0.0),
        };
        // A filter as wide as the output's elements are in the input, when it gets smaller.
        let scale = f64::from(self.scales[axis]);
        let scale = if self.antialias { scale.min(1.0) } else { 1.0 };
        let start = (-support / scale).floor() as i64 + 1;
        let taps = usize::try_from(2i64.saturating_sub(start.saturating_mul(2))).unwrap_or(0);
        let count = coordinates.len().saturating_mul(taps);
        b.charge(count.saturating_mul(8))?;
        let (mut indices, mut weights) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for at in coordinates {
            let low = at.floor().clamp(-1e12, 1e12);
            let mut own = Vec::with_capacity(taps);
            for tap in 0..taps {
                let index = low as i64 + start + tap as i64;
                let weight = filter((index as f64 - at) * scale, support, coefficient);
                let inside = (0..size as i64).contains(&index);
                own.push(if inside || !self.exclude_outside { weight } else { 0.0 });
                indices.push(index.clamp(0, size as i64 - 1) as i32);
            }
            let sum: f64 = own.iter().sum();
            let divide = (self.antialias || self.exclude_outside) && sum != 0.0;
            weights.extend(own.iter().map(|w| if divide { (w / sum) as f32 } else { *w as f32 }));
        }
        let part = format!("axis{axis}");
        let name = |what: &str| format!("{}/{part}/{what}", node.name);
        let shape = [coordinates.len(), taps];
        let indices = b.constant(name("indices"), Tensor::from_i32(shape, &indices));
        let weights = b.constant(name("weights"), Tensor::from_f32(shape, &weights));
        let mut to = b.shape(x);
        to[axis] = Dim::from(coordinates.len());
        let inputs = [Some(x), Some(indices), Some(weights)];
        b.emit(node, &part, Op::Interpolate { axis }, &inputs, b.dtype(x), to)
    }
}

/// The element that is nearest to a coordinate.
fn nearest_index(at: f64, rounding: NearestRounding, size: usize) -> i64 {
    let index = match rounding {
        NearestRounding::RoundPreferFloor => (at - 0.5).ceil(),
        NearestRounding::RoundPreferCeil => (at + 0.5).floor(),
        NearestRounding::Floor => at.floor(),
        NearestRounding::Ceil => at.ceil(),
    };
    (index as i64).clamp(0, size as i64 - 1)
}

/// A triangle, or the cubic of Keys, "Cubic convolution interpolation for digital image
/// processing", 1981.
fn filter(distance: f64, support: f64, a: f64) -> f64 {
    let d = distance.abs();
    if d >= support {
        0.0
    } else if support == 1.0 {
        1.0 - d
    } else if d <= 1.0 {
        ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
    } else {
        ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a
    }
}

/// Whether size times scale is the size of the result.
fn whole(from: &[Dim], scales: &[f32], to: &[Dim]) -> bool {
    from.iter().zip(scales).zip(to).all(|((dim, scale), to)| {
        match (dim.as_const(), to.as_const()) {
            // A scale that follows from two sizes is rounded.
            (Some(size), Some(to)) => (size as f64 * f64::from(*scale) - to as f64).abs() < 1e-4,
            _ => scale.fract() == 0.0 || 1.0 % *scale == 0.0,
        }
    })
}

/// Values given for some axes, and a default for the others.
fn spread<T: Clone>(
    axes: &[usize],
    rank: usize,
    given: &[T],
    default: &T,
    what: &str,
) -> Result<Vec<T>, Failure> {
    if given.len() != axes.len() {
        return Err(invalid(format!("{} {what} for {} axes", given.len(), axes.len())));
    }
    let mut all = vec![default.clone(); rank];
    for (axis, value) in axes.iter().zip(given) {
        all[*axis] = value.clone();
    }
    Ok(all)
}

/// `floor(size * scale)`, in f32 as ONNX Runtime computes it.
fn scaled_shape(b: &Builder, from: &[Dim], scales: &[f32]) -> Result<Vec<Dim>, Failure> {
    const MAX_SIZE: f32 = 1.1e12; // about 2^40
    if scales.len() != from.len() {
        return Err(invalid(format!("{} scales for {} axes", scales.len(), from.len())));
    }
    let scaled = from.iter().zip(scales).map(|(size, scale)| {
        if !scale.is_finite() || *scale <= 0.0 {
            return Err(invalid(format!("a scale is {scale}")));
        }
        if let Some(size) = size.as_const() {
            let scaled = size as f32 * scale;
            return match (1.0..MAX_SIZE).contains(&scaled) {
                true => Ok(Dim::from(scaled.floor() as i64)),
                false => Err(invalid(format!("size {size} scaled by {scale}"))),
            };
        }
        // A dynamic size: exact for scales that are a multiple of a small power of two.
        const DENOMINATOR: f32 = 1024.0;
        let numerator = scale * DENOMINATOR;
        if numerator.fract() != 0.0 || numerator >= 1.0e9 {
            let size = size.display(&b.graph.symbols);
            return Err(unsupported(
                format!("the dynamic size {size} scaled by {scale}"),
                FIX_THE_DIM,
            ));
        }
        let common = gcd(numerator as i64, DENOMINATOR as i64);
        let product = size.mul(&Dim::from(numerator as i64 / common));
        Ok(dims::floor_div_by(&product, DENOMINATOR as i64 / common))
    });
    scaled.collect()
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Output size over input size.
fn ratio(b: &Builder, from: &Dim, to: &Dim) -> Result<f32, Failure> {
    let symbols = &b.graph.symbols;
    if dims::same(from, to, symbols) {
        return Ok(1.0);
    }
    if let (Some(from), Some(to)) = (from.as_const(), to.as_const()) {
        return match from > 0 && to > 0 {
            true => Ok((to as f64 / from as f64) as f32),
            false => Err(invalid(format!("size {from} resized to {to}"))),
        };
    }
    // A multiple or a whole part, whatever the symbols are.
    for (large, small, up) in [(to, from, true), (from, to, false)] {
        let factor =
            dims::floor_div(large, small, symbols).and_then(|d| d.as_const()).filter(|f| *f > 0);
        if let Some(factor) = factor
            && dims::same(&small.mul(&Dim::from(factor)), large, symbols)
        {
            return Ok(if up { factor as f32 } else { 1.0 / factor as f32 });
        }
    }
    let (from, to) = (from.display(symbols), to.display(symbols));
    Err(unsupported(format!("a resize from {from} to {to}, whose ratio varies"), FIX_THE_DIM))
}

fn emit(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    x: ValueId,
    mode: ResizeMode,
    coordinates: CoordinateMode,
    scales: Vec<f32>,
    shape: Vec<Dim>,
) -> Outcome {
    let rank = shape.len();
    if !b.dtype(x).is_float() && !matches!(mode, ResizeMode::Nearest(_)) {
        return Err(unsupported(
            format!("interpolation of {}", b.dtype(x)),
            "cast to float before it",
        ));
    }
    // Images with channels in front are resized with them behind.
    let channels_first = rank >= 3 && scales[..2] == [1.0, 1.0] && scales[rank - 1] != 1.0;
    if !channels_first {
        let op = Op::Resize { mode, coordinates, scales };
        return Ok(vec![b.emit(node, "", op, &[Some(x)], b.dtype(x), shape)?]);
    }
    let mut last = scales;
    last[1..].rotate_left(1);
    let op = Op::Resize { mode, coordinates, scales: last };
    Ok(vec![channels_last(b, node, op, &[Some(x)], &shape)?])
}
