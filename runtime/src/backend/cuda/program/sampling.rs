//! Samples of images at computed places, and boxes.

use super::{Lower, Refusal, elements, small};
use crate::backend::cuda::arguments::{self, NonMaxSuppression};
use crate::backend::cuda::kernels::{GRID_SAMPLE, JOIN_BOXES, ROI_ALIGN, SUPPRESS_BOXES};
use crate::dtype::DType;
use crate::format::{GridSampleAttributes, NonMaxSuppressionAttributes, RoiAlignAttributes};
use crate::ops::shape::product;

pub(super) fn grid_sample(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let attributes: GridSampleAttributes = lower.step.expect_attributes()?;
    let ((x, input), (slot, grid), (y, output)) =
        (lower.input(0)?, lower.input(1)?, lower.output(0)?);
    for slot in [&x, &slot] {
        elements(slot)?;
    }
    let space = &x.dims()[2..];
    let mut extents = [1; 3];
    extents[3 - space.len()..].copy_from_slice(space);
    let arguments = arguments::GridSample {
        input,
        grid,
        output,
        extents,
        axes: small(space.len())?,
        channels: small(x.dim(1))?,
        places: small(product(&y.dims()[2..]))?,
        elements: elements(&y)?,
        mode: attributes.mode,
        padding: attributes.padding,
        align_corners: attributes.align_corners,
    };
    lower.call_elements(&GRID_SAMPLE, arguments.elements, arguments)
}

pub(super) fn roi_align(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let attributes: RoiAlignAttributes = lower.step.expect_attributes()?;
    let ((x, input), (_, regions), (slot, images), (y, output)) =
        (lower.input(0)?, lower.input(1)?, lower.input(2)?, lower.output(0)?);
    elements(&x)?;
    let arguments = arguments::RoiAlign {
        input,
        regions,
        images,
        output,
        status: lower.status(),
        count: small(x.dim(0))?,
        channels: small(x.dim(1))?,
        height: small(x.dim(2))?,
        width: small(x.dim(3))?,
        out_height: small(y.dim(2))?,
        out_width: small(y.dim(3))?,
        elements: elements(&y)?,
        mode: attributes.mode,
        sampling_ratio: attributes.sampling_ratio,
        spatial_scale: attributes.spatial_scale,
        half_pixel: attributes.half_pixel,
        step: lower.index,
        wide: u32::from(slot.dtype() == DType::I64),
        reserved: 0,
    };
    lower.call_elements(&ROI_ALIGN, arguments.elements, arguments)
}

pub(super) fn non_max_suppression(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let attributes: NonMaxSuppressionAttributes = lower.step.expect_attributes()?;
    let ((boxes, boxes_at), (scores, scores_at), (y, output)) =
        (lower.input(0)?, lower.input(1)?, lower.output(0)?);
    for slot in [&boxes, &scores, &y] {
        elements(slot)?;
    }
    let (batches, classes, count) = (boxes.dim(0), scores.dim(1), boxes.dim(1));
    let groups = batches * classes;
    let arguments = NonMaxSuppression {
        boxes: boxes_at,
        scores: scores_at,
        output,
        groups: small(groups)?,
        classes: small(classes)?,
        count: small(count)?,
        most: small(count.min(attributes.most_per_class as usize))?,
        iou_threshold: attributes.iou_threshold,
        score_threshold: attributes.score_threshold,
        has_score_threshold: attributes.has_score_threshold,
        center_point_box: attributes.center_point_box,
    };
    lower.call(&SUPPRESS_BOXES, [groups, 1], arguments)?;
    lower.call(&JOIN_BOXES, [1, 1], arguments)
}
