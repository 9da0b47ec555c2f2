//! Operators that sample images, cut them up and put them together.

use whit::DType;

use super::builder::{Builder, Outcome};
use super::compose::Compose;
use super::compose::product;
use super::data::axes_of;
use super::dims;
use super::failure::{FIX_THE_DIM, Failure, invalid, unsupported};
use super::node::OnnxNode;
use crate::dim::Dim;
use crate::graph::{
    CompareKind, GridSample, NonMaxSuppression, Op, PadMode, RoiAlign, SampleMode, SamplePadding,
    ValueId,
};
use crate::tensor::Tensor;

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("GridSample", grid_sample),
    ("AffineGrid", affine_grid),
    ("RoiAlign", roi_align),
    ("NonMaxSuppression", non_max_suppression),
    ("CenterCropPad", center_crop_pad),
    ("Shrink", shrink),
];

/// Refuses what isn't real, though ONNX allows it.
pub(super) fn only_float(b: &Builder, x: ValueId) -> Result<(), Failure> {
    match b.dtype(x).is_float() {
        true => Ok(()),
        false => Err(unsupported(
            format!("an operand of type {}", b.dtype(x)),
            "cast to float before it",
        )),
    }
}

fn grid_sample(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(2)?;
    let (x, grid) = (node.required(0, "X")?, node.required(1, "grid")?);
    let (dtype, mut shape, places) = (b.dtype(x), b.shape(x), b.shape(grid));
    // Opset 20 renamed them.
    let modes = if node.opset < 20 {
        ["nearest", "bilinear", "bicubic"]
    } else {
        ["nearest", "linear", "cubic"]
    };
    let mode = match node.attributes.string("mode", modes[1])? {
        mode if mode == modes[0] => SampleMode::Nearest,
        mode if mode == modes[1] => SampleMode::Linear,
        mode if mode == modes[2] => SampleMode::Cubic,
        other => return Err(invalid(format!("mode `{other}` is not defined"))),
    };
    let padding = match node.attributes.string("padding_mode", "zeros")? {
        "zeros" => SamplePadding::Zeros,
        "border" => SamplePadding::Border,
        "reflection" => SamplePadding::Reflection,
        other => return Err(invalid(format!("padding_mode `{other}` is not defined"))),
    };
    let align_corners = node.attributes.flag("align_corners", false)?;
    only_float(b, x)?;
    only_float(b, grid)?;
    if !(3..=5).contains(&shape.len()) {
        return Err(unsupported(format!("{} spatial axes", shape.len().saturating_sub(2)), ""));
    }
    let axes = shape.len() - 2;
    let fits = places.len() == shape.len() && places[axes + 1].is(axes as i64);
    if !fits || !dims::same(&places[0], &shape[0], &b.graph.symbols) {
        let (x, grid) = (b.text(&shape), b.text(&places));
        return Err(invalid(format!("a grid of shape {grid} for {x}")));
    }
    if shape[2..].iter().any(|dim| dim.is(0)) {
        return Err(invalid("an image without pixels"));
    }
    shape[2..].clone_from_slice(&places[1..=axes]);
    let (x, grid) = (b.cast(node, "x", x, DType::F32)?, b.cast(node, "places", grid, DType::F32)?);
    let op = Op::GridSample(GridSample { mode, padding, align_corners });
    let part = if dtype == DType::F32 { "" } else { "sample" };
    let y = b.emit(node, part, op, &[Some(x), Some(grid)], DType::F32, shape)?;
    Ok(vec![b.cast(node, "", y, dtype)?])
}

/// Every pixel's own place times the transformation of its image.
fn affine_grid(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(2)?;
    let theta = node.required(0, "theta")?;
    let size = b.ints(node.required(1, "size")?, "size")?;
    let align_corners = node.attributes.flag("align_corners", false)?;
    only_float(b, theta)?;
    let (dtype, of_theta) = (b.dtype(theta), b.shape(theta));
    let space = match size[..] {
        [_, _, _, _] | [_, _, _, _, _] => &size[2..],
        _ => return Err(invalid(format!("a size of {} axes", size.len()))),
    };
    let axes = space.len();
    let fits = of_theta.len() == 3
        && dims::same(&of_theta[0], &Dim::from(size[0]), &b.graph.symbols)
        && of_theta[1].is(axes as i64)
        && of_theta[2].is(axes as i64 + 1);
    if !fits || size.iter().any(|size| *size < 1) {
        let theta = b.text(&of_theta);
        return Err(invalid(format!("transformations of shape {theta} for size {size:?}")));
    }
    let too_large = || unsupported(format!("a grid of size {size:?}"), "");
    let pixels = space.iter().try_fold(1i64, |all, size| all.checked_mul(*size));
    let pixels = pixels.and_then(|pixels| usize::try_from(pixels).ok()).ok_or_else(too_large)?;
    let bytes = pixels.checked_mul(4 * (axes + 1)).ok_or_else(too_large)?;
    b.charge(bytes)?;
    let place = |index: usize, size: i64| match (align_corners, size) {
        (true, 1) => -1.0,
        (true, _) => -1.0 + 2.0 * index as f64 / (size - 1) as f64,
        (false, _) => -1.0 + (2.0 * index as f64 + 1.0) / size as f64,
    };
    let mut places = Vec::with_capacity(pixels * (axes + 1));
    for pixel in 0..pixels {
        let mut rest = pixel;
        // The last axis comes first, as in the grid.
        for size in space.iter().rev() {
            places.push(place(rest % *size as usize, *size) as f32);
            rest /= *size as usize;
        }
        places.push(1.0);
    }
    let places = Tensor::from_f32([pixels, axes + 1], &places);
    let places = b.constant(format!("{}/places", node.name), places);
    let theta = b.cast(node, "theta", theta, DType::F32)?;
    let flat = vec![of_theta[0].clone(), Dim::from(pixels), Dim::from(axes)];
    let op = product(false, true);
    let y = b.emit(node, "grid", op, &[Some(places), Some(theta)], DType::F32, flat)?;
    let mut shape = vec![of_theta[0].clone()];
    shape.extend(space.iter().map(|size| Dim::from(*size)));
    shape.push(Dim::from(axes));
    let part = if dtype == DType::F32 { "" } else { "shaped" };
    let y = b.reshape(node, part, y, shape)?;
    Ok(vec![b.cast(node, "", y, dtype)?])
}

fn roi_align(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(3)?;
    let (x, regions) = (node.required(0, "X")?, node.required(1, "rois")?);
    let images = node.required(2, "batch_indices")?;
    let a = &node.attributes;
    let max = match a.string("mode", "avg")? {
        "avg" => false,
        "max" => true,
        other => return Err(invalid(format!("mode `{other}` is not defined"))),
    };
    let half_pixel = match node.opset {
        ..16 => false,
        _ => match a.string("coordinate_transformation_mode", "half_pixel")? {
            "half_pixel" => true,
            "output_half_pixel" => false,
            other => {
                let problem = format!("coordinate_transformation_mode `{other}` is not defined");
                return Err(invalid(problem));
            }
        },
    };
    let (height, width) = (a.int("output_height", 1)?, a.int("output_width", 1)?);
    let sampling_ratio = a.int("sampling_ratio", 0)?;
    let spatial_scale = a.float("spatial_scale", 1.0)?;
    let sampling_ratio = u32::try_from(sampling_ratio).ok().filter(|ratio| *ratio <= 64);
    let sampling_ratio = sampling_ratio.ok_or_else(|| {
        unsupported(format!("sampling_ratio {}", a.int("sampling_ratio", 0).unwrap_or(0)), "")
    })?;
    only_float(b, x)?;
    only_float(b, regions)?;
    let (dtype, of_x, of_regions) = (b.dtype(x), b.shape(x), b.shape(regions));
    let images_fit = b.rank(images) == 1
        && matches!(b.dtype(images), DType::I32 | DType::I64)
        && of_regions.len() == 2
        && of_regions[1].is(4)
        && dims::same(&b.shape(images)[0], &of_regions[0], &b.graph.symbols);
    if of_x.len() != 4 || !images_fit || height < 1 || width < 1 {
        let (x, regions) = (b.text(&of_x), b.text(&of_regions));
        return Err(invalid(format!("regions of shape {regions} of {x} as {height}×{width}")));
    }
    let shape = vec![of_regions[0].clone(), of_x[1].clone(), Dim::from(height), Dim::from(width)];
    let (x, regions) =
        (b.cast(node, "x", x, DType::F32)?, b.cast(node, "regions", regions, DType::F32)?);
    let op = Op::RoiAlign(RoiAlign { max, half_pixel, sampling_ratio, spatial_scale });
    let part = if dtype == DType::F32 { "" } else { "align" };
    let inputs = [Some(x), Some(regions), Some(images)];
    let y = b.emit(node, part, op, &inputs, DType::F32, shape)?;
    Ok(vec![b.cast(node, "", y, dtype)?])
}

/// The number of boxes that stay is only known at run time. A program's shapes aren't, so the result has
/// as many rows as could be needed, if the caller has agreed to that.
fn non_max_suppression(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(5)?;
    let (boxes, scores) = (node.required(0, "boxes")?, node.required(1, "scores")?);
    let (of_boxes, of_scores) = (b.shape(boxes), b.shape(scores));
    let most = match node.input(2) {
        Some(id) => b.int(id, "max_output_boxes_per_class")?,
        None => 0,
    };
    let threshold = |b: &mut Builder, index: usize, what: &str| -> Result<Option<f32>, Failure> {
        node.input(index).map(|id| b.float(id, what)).transpose()
    };
    let iou_threshold = threshold(b, 3, "iou_threshold")?.unwrap_or(0.0);
    let score_threshold = threshold(b, 4, "score_threshold")?;
    let center_point_box = node.attributes.flag("center_point_box", false)?;
    only_float(b, boxes)?;
    only_float(b, scores)?;
    let symbols = &b.graph.symbols;
    let fits = of_boxes.len() == 3
        && of_scores.len() == 3
        && of_boxes[2].is(4)
        && dims::same(&of_scores[0], &of_boxes[0], symbols)
        && dims::same(&of_scores[2], &of_boxes[1], symbols);
    if !fits {
        let (boxes, scores) = (b.text(&of_boxes), b.text(&of_scores));
        return Err(invalid(format!("boxes of shape {boxes}, scores of shape {scores}")));
    }
    if most < 1 {
        return Err(unsupported(
            format!("{most} boxes per class"),
            "set max_output_boxes_per_class to the most that can be of use",
        ));
    }
    let most_per_class = u32::try_from(most).unwrap_or(u32::MAX);
    let per_class = dims::min(&of_boxes[1], &Dim::from(i64::from(most_per_class)), symbols);
    let rows = dims::multiply(&of_scores[0], &of_scores[1]);
    let rows = rows.and_then(|rows| dims::multiply(&rows, &per_class));
    let rows = rows.ok_or_else(|| invalid("the size overflows"))?;
    if !b.pads_boxes {
        let rows = rows.display(symbols);
        return Err(unsupported(
            "the number of boxes that it gives depends on data",
            format!(
                "convert with --pad-boxes for always {rows} rows, the unused ones -1, or end the \
                 model before it and do this step in the application"
            ),
        ));
    }
    let boxes = b.cast(node, "boxes", boxes, DType::F32)?;
    let scores = b.cast(node, "scores", scores, DType::F32)?;
    let op = Op::NonMaxSuppression(NonMaxSuppression {
        most_per_class,
        iou_threshold,
        score_threshold,
        center_point_box,
    });
    let shape = vec![rows, Dim::from(3i64)];
    Ok(vec![b.emit(node, "", op, &[Some(boxes), Some(scores)], DType::I64, shape)?])
}

fn center_crop_pad(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(2)?;
    let x = node.required(0, "input_data")?;
    let target = b.dims(node.required(1, "shape")?, "the new shape")?;
    let (dtype, mut shape) = (b.dtype(x), b.shape(x));
    let axes = match node.attributes.ints("axes")? {
        Some(axes) => axes_of(axes, shape.len())?,
        None => (0..shape.len()).collect(),
    };
    if axes.len() != target.len() {
        return Err(invalid(format!("{} sizes for {} axes", target.len(), axes.len())));
    }
    let mut cropped = shape.clone();
    let mut starts = vec![Dim::from(0i64); shape.len()];
    let (mut before, mut after) = (vec![0usize; shape.len()], vec![0usize; shape.len()]);
    for (axis, size) in axes.into_iter().zip(&target) {
        if dims::same(size, &shape[axis], &b.graph.symbols) {
            continue;
        }
        let (Some(from), Some(to)) = (shape[axis].as_const(), size.as_const()) else {
            let (from, to) = (b.text(&shape[axis..=axis]), size.display(&b.graph.symbols));
            return Err(unsupported(
                format!("{from} elements cropped or padded to {to}"),
                FIX_THE_DIM,
            ));
        };
        if !(1..=1 << 40).contains(&to) {
            return Err(invalid(format!("axis {axis} of the new shape is {to}")));
        }
        // An odd element is cut off, or added, at the end.
        if to < from {
            starts[axis] = Dim::from((from - to) / 2);
            cropped[axis] = Dim::from(to);
        } else {
            before[axis] = (to - from) as usize / 2;
            after[axis] = (to - from) as usize - before[axis];
        }
        shape[axis] = Dim::from(to);
    }
    let mut y = x;
    if cropped != b.shape(x) {
        let op = Op::Slice { steps: vec![1; shape.len()], starts };
        y = b.emit(node, "cropped", op, &[Some(y)], dtype, cropped)?;
    }
    if after.iter().any(|pad| *pad != 0) {
        let op = Op::Pad { before, after, mode: PadMode::Constant(0.0) };
        y = b.emit(node, "", op, &[Some(y)], dtype, shape)?;
    }
    Ok(vec![y])
}

/// What is near 0 becomes 0, the rest moves by a bias towards it.
fn shrink(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(1)?;
    let x = node.required(0, "input")?;
    let dtype = b.dtype(x);
    let (bias, limit) = (node.attributes.float("bias", 0.0)?, node.attributes.float("lambd", 0.5)?);
    if matches!(dtype, DType::I32 | DType::I64 | DType::Bool) {
        return Err(unsupported(format!("an operand of type {dtype}"), "cast to float before it"));
    }
    // Narrow integers are exact in f32.
    let c = &mut Compose::new(b, node);
    let x = c.cast(x, DType::F32)?;
    let mut number = |value: f32| c.scalar(DType::F32, f64::from(value));
    let (low, high, bias, zero) = (number(-limit)?, number(limit)?, number(bias)?, number(0.0)?);
    let below = c.compare(CompareKind::Less, x, low)?;
    let above = c.compare(CompareKind::Greater, x, high)?;
    let (up, down) = (c.add(x, bias)?, c.sub(x, bias)?);
    let y = c.select(above, down, zero)?;
    let y = c.main().select(below, up, y)?;
    Ok(vec![c.cast(y, dtype)?])
}
