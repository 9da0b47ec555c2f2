//! Resizing of images.

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
    mode: ResizeMode,
    coordinates: CoordinateMode,
) -> Result<ValueId, Failure> {
    let mut shape = b.shape(x);
    let from = fixed(b, x)?;
    let mut scales = vec![1.0; 4];
    for axis in 0..2 {
        scales[axis + 1] = to[axis] as f32 / from[axis + 1] as f32;
        shape[axis + 1] = Dim::from(to[axis]);
    }
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
    let y = resized(b, node, x, to, ResizeMode::Linear, coordinates)?;
    Ok(vec![node.declared(b, y, 0)?])
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
    if repeats(0) && repeats(1) {
        let mode = ResizeMode::Nearest(NearestRounding::Floor);
        return Ok(vec![resized(b, node, x, to, mode, CoordinateMode::Asymmetric)?]);
    }
    let mut y = x;
    for axis in 0..2 {
        if from[axis] != to[axis] || !repeats(axis) {
            y = chosen(b, node, y, axis + 1, &positions[axis])?;
        }
    }
    Ok(vec![y])
}
