//! Resizing of images.

use whit::DType;

use super::data::fixed;
use super::indexing::chosen;
use super::node::TfliteNode;
use super::schema::{ResizeBilinearOptions, ResizeNearestNeighborOptions};
use crate::dim::Dim;
use crate::graph::{CoordinateMode, NearestRounding, Op, ResizeMode, ValueId};
use crate::import::builder::{Builder, Outcome};
use crate::import::failure::{Failure, invalid};

pub(super) const OPERATORS: &[(&str, super::Importer)] =
    &[("RESIZE_BILINEAR", bilinear), ("RESIZE_NEAREST_NEIGHBOR", nearest)];

/// The sizes of height and width before and after.
fn sizes(
    b: &Builder,
    node: &TfliteNode<'_>,
    x: ValueId,
) -> Result<([usize; 2], [usize; 2]), Failure> {
    let from = fixed(b, x)?;
    let to = b.ints(node.required(1, "size")?, "the size")?;
    match (from[..].first_chunk::<4>(), &to[..]) {
        (Some([_, h, w, _]), [new_h, new_w])
            if from.len() == 4 && [*h, *w].iter().all(|size| (1..1 << 24).contains(size)) =>
        {
            let new = [*new_h, *new_w].map(|size| usize::try_from(size).unwrap_or(0));
            match new.iter().all(|size| (1..1 << 24).contains(size)) {
                true => Ok(([*h, *w], new)),
                false => Err(invalid(format!("a size of {to:?}"))),
            }
        }
        _ => Err(invalid(format!("{from:?} resized to {to:?}"))),
    }
}

fn resized(
    b: &mut Builder,
    node: &TfliteNode<'_>,
    x: ValueId,
    to: [usize; 2],
    scale: [f32; 2],
    mode: ResizeMode,
    coordinates: CoordinateMode,
) -> Result<ValueId, Failure> {
    let mut shape = b.shape(x);
    for axis in 0..2 {
        shape[axis + 1] = Dim::from(to[axis]);
    }
    let scales = vec![1.0, scale[0], scale[1], 1.0];
    let op = Op::Resize { mode, coordinates, scales };
    b.emit(node, "", op, &[Some(x)], b.dtype(x), shape)
}

fn bilinear(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let options: ResizeBilinearOptions = node.options()?;
    let x = node.real(b, 0, "input")?;
    let (from, to) = sizes(b, node, x)?;
    if from == to {
        return Ok(vec![node.declared(b, x, 0)?]);
    }
    let coordinates = match (options.align_corners, options.half_pixel_centers) {
        (true, true) => return Err(invalid("both align_corners and half_pixel_centers")),
        (true, false) => CoordinateMode::AlignCorners,
        (false, true) => CoordinateMode::HalfPixel,
        (false, false) => CoordinateMode::Asymmetric,
    };
    let mut scale = [0, 1].map(|axis| to[axis] as f32 / from[axis] as f32);
    let mut coordinates = coordinates;
    if node.both_i8(b)?.is_some() {
        // Integers are interpolated at positions in steps of 1/1024.
        scale = [0, 1].map(|axis| 1024.0 / step_1024(from[axis], to[axis], options.align_corners));
        if options.align_corners {
            coordinates = CoordinateMode::Asymmetric;
        }
    }
    let y = resized(b, node, x, to, scale, ResizeMode::Linear, coordinates)?;
    Ok(vec![node.declared(b, y, 0)?])
}

/// The distance between two places in the input, in 1/1024 of an element.
fn step_1024(from: usize, to: usize, align_corners: bool) -> f32 {
    let (from, to) = match align_corners && to > 1 {
        true => (from - 1, to - 1),
        false => (from, to),
    };
    // At least 1, as in the middle of one element every place is the same.
    ((1024 * from + to / 2) / to).max(1) as f32
}

/// Which element each place of an axis takes, in the f32 arithmetic that TFLite defines it by.
fn nearest_positions(
    from: usize,
    to: usize,
    align_corners: bool,
    half_pixel_centers: bool,
) -> Vec<i64> {
    let scale = match align_corners && to > 1 {
        true => (from - 1) as f32 / (to - 1) as f32,
        false => from as f32 / to as f32,
    };
    let offset = if half_pixel_centers { 0.5 } else { 0.0 };
    let position = |at: usize| {
        let real = (at as f32 + offset) * scale;
        let whole = if align_corners { real.round() } else { real.floor() };
        (whole as i64).clamp(0, from as i64 - 1)
    };
    (0..to).map(position).collect()
}

/// By whole factors an interpolation, else elements of computed positions.
fn nearest(b: &mut Builder, node: &TfliteNode<'_>) -> Outcome {
    let options: ResizeNearestNeighborOptions = node.options()?;
    let x = node.required(0, "input")?;
    let (from, to) = sizes(b, node, x)?;
    let positions = [0, 1].map(|axis| {
        nearest_positions(from[axis], to[axis], options.align_corners, options.half_pixel_centers)
    });
    let repeats = |axis: usize| {
        let times = to[axis] / from[axis];
        to[axis] % from[axis] == 0
            && positions[axis].iter().enumerate().all(|(at, p)| *p == (at / times) as i64)
    };
    if from == to && repeats(0) && repeats(1) {
        return Ok(vec![x]);
    }
    if repeats(0) && repeats(1) && matches!(b.dtype(x), DType::F32 | DType::I8) {
        let mode = ResizeMode::Nearest(NearestRounding::Floor);
        let scale = [0, 1].map(|axis| to[axis] as f32 / from[axis] as f32);
        return Ok(vec![resized(b, node, x, to, scale, mode, CoordinateMode::Asymmetric)?]);
    }
    let mut y = x;
    for axis in 0..2 {
        if from[axis] != to[axis] || !repeats(axis) {
            y = chosen(b, node, y, axis + 1, &positions[axis])?;
        }
    }
    Ok(vec![y])
}
