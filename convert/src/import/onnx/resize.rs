//! `Resize` and its predecessor `Upsample`.

use super::builder::{Builder, OnnxNode, Outcome};
use super::conv::channels_last;
use super::data::axes_of;
use super::dims;
use super::failure::{FIX_THE_DIM, Failure, invalid, unsupported};
use crate::dim::Dim;
use crate::graph::{CoordinateMode, NearestRounding, Op, ResizeMode, ValueId};

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("Upsample", |b, n| {
        if n.opset >= 10 {
            return Err(unsupported("Upsample is not defined in this opset", "use Resize"));
        }
        let x = n.required(0, "X")?;
        let scales = if n.opset < 9 {
            n.at_most(1)?;
            let scales = n.attributes.floats("scales")?;
            scales.ok_or_else(|| invalid("attribute `scales` is missing"))?.to_vec()
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
    // In the linear mode it changes nothing: what lies outside has the value of the edge.
    let exclude_outside = a.flag("exclude_outside", false)?;
    let mode = match a.string("mode", "nearest")? {
        "nearest" => ResizeMode::Nearest(rounding),
        "linear" => ResizeMode::Linear,
        "cubic" => ResizeMode::Cubic { coefficient, exclude_outside },
        other => return Err(invalid(format!("mode `{other}` is not defined"))),
    };
    a.ignore("extrapolation_value"); // of tf_crop_and_resize, which is refused below
    let antialias = a.flag("antialias", false)?;
    let policy = a.string("keep_aspect_ratio_policy", "stretch")?;
    let axes = match a.ints("axes")? {
        Some(axes) => axes_of(axes, rank)?,
        None => (0..rank).collect(),
    };

    // An empty tensor is a way to leave an input out.
    let given = |b: &Builder, index: usize| {
        node.input(index).filter(|id| !b.shape(*id).first().is_some_and(|d| d.is(0)))
    };
    let (scales, shape, by_sizes) = match (given(b, 2), given(b, 3)) {
        (Some(id), None) => {
            let given = scales_input(b, id)?;
            let scales = spread(&axes, rank, &given, &1.0, "scales")?;
            let shape = scaled_shape(b, &from, &scales)?;
            (scales, shape, false)
        }
        (None, Some(id)) => {
            if policy != "stretch" {
                return Err(unsupported(
                    format!("keep_aspect_ratio_policy {policy}"),
                    "state the final sizes",
                ));
            }
            let sizes = b.dims(id, "sizes")?;
            let mut shape = from.clone();
            if sizes.len() != axes.len() {
                return Err(invalid(format!("{} sizes for {} axes", sizes.len(), axes.len())));
            }
            for (axis, size) in axes.iter().zip(sizes) {
                shape[*axis] = size;
            }
            let scales = from.iter().zip(&shape).map(|(from, to)| ratio(b, from, to));
            (scales.collect::<Result<Vec<f32>, Failure>>()?, shape, true)
        }
        (None, None) => return Err(invalid("neither scales nor sizes are given")),
        (Some(_), Some(_)) => return Err(invalid("both scales and sizes are given")),
    };
    if antialias && scales.iter().any(|s| *s < 1.0) && !matches!(mode, ResizeMode::Nearest(_)) {
        return Err(unsupported("antialias", "resize without it, or before the model"));
    }
    let coordinates = match coordinates {
        "half_pixel" => CoordinateMode::HalfPixel,
        "pytorch_half_pixel" => CoordinateMode::PytorchHalfPixel,
        // The specification divides by the unrounded size, ONNX Runtime by the rounded one.
        "align_corners" if !by_sizes && !whole(&from, &scales) => {
            return Err(unsupported(
                "align_corners with scales that don't give whole sizes",
                "state the sizes instead of the scales",
            ));
        }
        "align_corners" => CoordinateMode::AlignCorners,
        "asymmetric" => CoordinateMode::Asymmetric,
        // They differ only where a scaled size is not whole.
        "half_pixel_symmetric" if by_sizes || whole(&from, &scales) => CoordinateMode::HalfPixel,
        other @ ("half_pixel_symmetric" | "tf_crop_and_resize" | "tf_half_pixel_for_nn") => {
            return Err(unsupported(format!("coordinate_transformation_mode {other}"), ""));
        }
        other => {
            return Err(invalid(format!(
                "coordinate_transformation_mode `{other}` is not defined"
            )));
        }
    };
    emit(b, node, x, mode, coordinates, scales, shape)
}

fn whole(from: &[Dim], scales: &[f32]) -> bool {
    from.iter().zip(scales).all(|(dim, scale)| match dim.as_const() {
        Some(size) => (size as f64 * f64::from(*scale)).fract() == 0.0,
        None => scale.fract() == 0.0,
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
    if !(3..=4).contains(&rank) {
        return Err(unsupported(
            format!("a resize of {rank} axes"),
            "only one or two spatial axes are supported",
        ));
    }
    if !b.dtype(x).is_float() && !matches!(mode, ResizeMode::Nearest(_)) {
        return Err(unsupported(
            format!("interpolation of {}", b.dtype(x)),
            "cast to float before it",
        ));
    }
    let mut last = scales;
    last[1..].rotate_left(1);
    let op = Op::Resize { mode, coordinates, scales: last };
    Ok(vec![channels_last(b, node, op, &[Some(x)], &shape)?])
}
