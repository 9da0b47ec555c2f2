//! Nodes that index by tensors, select and sample.

use whit::DType;
use whit::format::{
    AxisAttributes, CumulativeAttributes, GatherNdAttributes, GridSampleAttributes,
    NonMaxSuppressionAttributes, Op as StepOp, RoiAlignAttributes, ScatterAttributes,
    TopKAttributes,
};

use crate::graph::{
    GridSample, Node, NonMaxSuppression, RoiAlign, SampleMode, SamplePadding, ScatterReduction,
};
use crate::plan::{Builder, PlanError};

pub(super) fn gather_elements(
    builder: &mut Builder<'_>,
    node: &Node,
    axis: usize,
) -> Result<(), PlanError> {
    let inputs = builder.inputs(node)?;
    let attributes = AxisAttributes { axis: axis as u32, reserved: 0 };
    builder.step(node, StepOp::GatherElements, None, attributes, inputs, 0)
}

pub(super) fn gather_nd(
    builder: &mut Builder<'_>,
    node: &Node,
    batch_axes: usize,
) -> Result<(), PlanError> {
    let inputs = builder.inputs(node)?;
    let attributes = GatherNdAttributes { batch_axes: batch_axes as u32, reserved: 0 };
    builder.step(node, StepOp::GatherNd, None, attributes, inputs, 0)
}

pub(super) fn scatter(
    builder: &mut Builder<'_>,
    node: &Node,
    op: StepOp,
    axis: usize,
    reduction: ScatterReduction,
) -> Result<(), PlanError> {
    let reduction = match reduction {
        ScatterReduction::Replace => 0,
        ScatterReduction::Add => 1,
        ScatterReduction::Mul => 2,
        ScatterReduction::Max => 3,
        ScatterReduction::Min => 4,
    };
    let dtype = builder.value(builder.input(node, 0)?).dtype;
    // What only replaces works for elements of any type.
    let variant = (reduction != 0).then_some(dtype);
    let inputs = builder.inputs(node)?;
    builder.step(node, op, variant, ScatterAttributes { axis: axis as u32, reduction }, inputs, 0)
}

pub(super) fn top_k(
    builder: &mut Builder<'_>,
    node: &Node,
    axis: usize,
    smallest: bool,
) -> Result<(), PlanError> {
    let dtype = builder.value(builder.input(node, 0)?).dtype;
    let attributes =
        TopKAttributes { axis: axis as u32, smallest: u32::from(smallest), reserved: [0; 2] };
    let inputs = builder.inputs(node)?;
    builder.step_with_outputs(node, StepOp::TopK, Some(dtype), attributes, inputs, 0)
}

pub(super) fn cumulative(
    builder: &mut Builder<'_>,
    node: &Node,
    axis: usize,
    product: bool,
    [exclusive, reverse]: [bool; 2],
) -> Result<(), PlanError> {
    let dtype = builder.value(builder.input(node, 0)?).dtype;
    let attributes = CumulativeAttributes {
        axis: axis as u32,
        kind: 1 + u32::from(product),
        exclusive: u32::from(exclusive),
        reverse: u32::from(reverse),
    };
    let inputs = builder.inputs(node)?;
    builder.step(node, StepOp::Cumulative, Some(dtype), attributes, inputs, 0)
}

pub(super) fn grid_sample(
    builder: &mut Builder<'_>,
    node: &Node,
    sample: &GridSample,
) -> Result<(), PlanError> {
    let attributes = GridSampleAttributes {
        mode: match sample.mode {
            SampleMode::Nearest => 1,
            SampleMode::Linear => 2,
            SampleMode::Cubic => 3,
        },
        padding: match sample.padding {
            SamplePadding::Zeros => 1,
            SamplePadding::Border => 2,
            SamplePadding::Reflection => 3,
        },
        align_corners: u32::from(sample.align_corners),
        reserved: 0,
    };
    let inputs = builder.inputs(node)?;
    builder.step(node, StepOp::GridSample, Some(DType::F32), attributes, inputs, 0)
}

pub(super) fn roi_align(
    builder: &mut Builder<'_>,
    node: &Node,
    align: &RoiAlign,
) -> Result<(), PlanError> {
    let attributes = RoiAlignAttributes {
        mode: 1 + u32::from(align.max),
        sampling_ratio: align.sampling_ratio,
        spatial_scale: align.spatial_scale,
        half_pixel: u32::from(align.half_pixel),
        reserved: [0; 2],
    };
    let inputs = builder.inputs(node)?;
    builder.step(node, StepOp::RoiAlign, Some(DType::F32), attributes, inputs, 0)
}

pub(super) fn non_max_suppression(
    builder: &mut Builder<'_>,
    node: &Node,
    nms: &NonMaxSuppression,
) -> Result<(), PlanError> {
    let attributes = NonMaxSuppressionAttributes {
        most_per_class: nms.most_per_class,
        iou_threshold: nms.iou_threshold,
        score_threshold: nms.score_threshold.unwrap_or(0.0),
        has_score_threshold: u32::from(nms.score_threshold.is_some()),
        center_point_box: u32::from(nms.center_point_box),
        reserved: 0,
    };
    let inputs = builder.inputs(node)?;
    builder.step(node, StepOp::NonMaxSuppression, Some(DType::F32), attributes, inputs, 0)
}

pub(super) fn reverse_sequence(
    builder: &mut Builder<'_>,
    node: &Node,
    time_axis: usize,
) -> Result<(), PlanError> {
    let inputs = builder.inputs(node)?;
    let attributes = AxisAttributes { axis: time_axis as u32, reserved: 0 };
    builder.step(node, StepOp::ReverseSequence, None, attributes, inputs, 0)
}
