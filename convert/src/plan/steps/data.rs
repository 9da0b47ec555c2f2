//! Nodes that move elements: views where the memory already lies right, steps where it doesn't.

use whit::DType;
use whit::format::{
    AxisAttributes, MAX_RANK, Op as StepOp, PadAttributes, ResizeAttributes, SliceAttributes,
    TransposeAttributes,
};

use crate::dim::Dim;
use crate::graph::{CoordinateMode, NearestRounding, Node, PadMode, ResizeMode, ValueId};
use crate::plan::builder::unsupported;
use crate::plan::{Builder, PlanError};

/// Bytes of a constant shape's elements behind `axis`, and whether every axis before it is 1:
/// then a range along the axis is one piece of memory.
fn contiguous_unit(shape: &[Dim], axis: usize, dtype: DType) -> Option<usize> {
    if !shape[..axis].iter().all(|dim| dim.is(1)) {
        return None;
    }
    let mut bytes = dtype.size();
    for dim in &shape[axis + 1..] {
        bytes = bytes.checked_mul(usize::try_from(dim.as_const()?).ok()?)?;
    }
    Some(bytes)
}

pub(super) fn reshape(builder: &mut Builder<'_>, node: &Node) -> Result<(), PlanError> {
    let x = builder.input(node, 0)?;
    let tensor = builder.tensor(x)?;
    builder.set_view(node.outputs[0], tensor, 0)
}

/// The offset of each part, if parts along `axis` lie one behind the other.
fn places_of_parts(
    builder: &Builder<'_>,
    node: &Node,
    axis: usize,
) -> Option<Vec<(ValueId, usize)>> {
    let y = builder.value(node.outputs[0]);
    let unit = contiguous_unit(&y.shape, axis, y.dtype)?;
    let mut offset = 0usize;
    let place = |id: &Option<ValueId>| {
        let id = (*id)?;
        let extent = usize::try_from(builder.value(id).shape[axis].as_const()?).ok()?;
        let at = offset;
        offset = offset.checked_add(extent.checked_mul(unit)?)?;
        Some((id, at))
    };
    node.inputs.iter().map(place).collect()
}

pub(super) fn concat(builder: &mut Builder<'_>, node: &Node, axis: usize) -> Result<(), PlanError> {
    let whole = builder.tensor(node.outputs[0])?;
    // Parts that lie one behind the other can be written where they belong, and the others copied there.
    if let Some(places) = places_of_parts(builder, node, axis) {
        let mut parts = Vec::new();
        for (id, offset) in places {
            let part = builder.tensor(id)?;
            let is_placed = builder.can_place(part, whole);
            if is_placed {
                builder.place_inside(part, whole, offset);
            }
            parts.push((id, part, offset, is_placed));
        }
        if parts.iter().any(|(.., is_placed)| *is_placed) {
            for (id, part, offset, _) in parts.into_iter().filter(|(.., is_placed)| !is_placed) {
                let value = builder.value(id);
                let name = format!("{}/copy", value.name);
                let copy =
                    builder.temporary(&name, value.dtype, &value.shape, value.quant.as_ref())?;
                builder.place_inside(copy, whole, offset);
                builder.step_to(
                    &name,
                    StepOp::Copy,
                    None,
                    [0u8; 0],
                    vec![Some(part)],
                    copy,
                    0,
                    &[],
                );
            }
            return Ok(());
        }
    }
    let inputs = builder.inputs(node)?;
    let attributes = AxisAttributes { axis: axis as u32, reserved: 0 };
    builder.step(node, StepOp::Concat, None, attributes, inputs, 0)
}

pub(super) fn slice(
    builder: &mut Builder<'_>,
    node: &Node,
    starts: &[Dim],
    steps: &[i64],
) -> Result<(), PlanError> {
    let x = builder.input(node, 0)?;
    let (from, to) = (builder.value(x), builder.value(node.outputs[0]));
    let tensor = builder.tensor(x)?;
    let cut: Vec<usize> =
        (0..starts.len()).filter(|axis| from.shape[*axis] != to.shape[*axis]).collect();
    if let ([axis], true) = (cut.as_slice(), steps.iter().all(|step| *step == 1)) {
        let unit = contiguous_unit(&from.shape, *axis, from.dtype);
        if let (Some(unit), Some(start), Some(_)) =
            (unit, starts[*axis].as_const(), to.const_shape())
        {
            return builder.set_view(node.outputs[0], tensor, start as usize * unit);
        }
    }
    let mut attributes = SliceAttributes { starts: [0; MAX_RANK], steps: [1; MAX_RANK] };
    for (axis, start) in starts.iter().enumerate() {
        attributes.starts[axis] = builder.dim(start)?;
        attributes.steps[axis] = i32::try_from(steps[axis])
            .map_err(|_| unsupported(node, format!("step {} is too large", steps[axis])))?;
    }
    builder.step(node, StepOp::Slice, None, attributes, vec![Some(tensor)], 0)
}

pub(super) fn transpose(
    builder: &mut Builder<'_>,
    node: &Node,
    perm: &[usize],
) -> Result<(), PlanError> {
    let mut attributes = TransposeAttributes { perm: std::array::from_fn(|axis| axis as u8) };
    for (to, from) in attributes.perm.iter_mut().zip(perm) {
        *to = *from as u8;
    }
    let inputs = builder.inputs(node)?;
    builder.step(node, StepOp::Transpose, None, attributes, inputs, 0)
}

pub(super) fn expand(builder: &mut Builder<'_>, node: &Node) -> Result<(), PlanError> {
    let inputs = builder.inputs(node)?;
    builder.step(node, StepOp::Expand, None, [0u8; 0], inputs, 0)
}

pub(super) fn pad(
    builder: &mut Builder<'_>,
    node: &Node,
    before: &[usize],
    mode: PadMode,
) -> Result<(), PlanError> {
    let x = builder.value(builder.input(node, 0)?);
    let mut attributes = PadAttributes::default();
    for (to, from) in attributes.before.iter_mut().zip(before) {
        *to = u32::try_from(*from).map_err(|_| unsupported(node, "padding is too large"))?;
    }
    attributes.mode = match mode {
        PadMode::Constant(_) => 1,
        PadMode::Reflect => 2,
        PadMode::Edge => 3,
        PadMode::Wrap => 4,
    };
    if let PadMode::Constant(value) = mode {
        attributes.value = match x.dtype {
            DType::F32 => [value.to_bits(), 0],
            DType::F16 => [u32::from(half::f16::from_f32(value).to_bits()), 0],
            DType::BF16 => [u32::from(half::bf16::from_f32(value).to_bits()), 0],
            _ => {
                let bits = value as i64 as u64;
                [bits as u32, (bits >> 32) as u32]
            }
        };
    }
    let inputs = builder.inputs(node)?;
    builder.step(node, StepOp::Pad, None, attributes, inputs, 0)
}

pub(super) fn resize(
    builder: &mut Builder<'_>,
    node: &Node,
    mode: ResizeMode,
    coordinates: CoordinateMode,
    scales: &[f32],
) -> Result<(), PlanError> {
    let mut attributes = ResizeAttributes {
        coordinates: match coordinates {
            CoordinateMode::HalfPixel => 1,
            CoordinateMode::PytorchHalfPixel => 2,
            CoordinateMode::AlignCorners => 3,
            CoordinateMode::Asymmetric => 4,
        },
        scales: [1.0; MAX_RANK],
        ..ResizeAttributes::default()
    };
    match mode {
        ResizeMode::Nearest(rounding) => {
            attributes.mode = 1;
            attributes.rounding = match rounding {
                NearestRounding::RoundPreferFloor => 1,
                NearestRounding::RoundPreferCeil => 2,
                NearestRounding::Floor => 3,
                NearestRounding::Ceil => 4,
            };
        }
        ResizeMode::Linear => attributes.mode = 2,
        ResizeMode::Cubic { coefficient, exclude_outside } => {
            attributes.mode = 3;
            attributes.cubic_coefficient = coefficient;
            attributes.exclude_outside = u32::from(exclude_outside);
        }
    }
    attributes.scales[..scales.len()].copy_from_slice(scales);
    let x = builder.value(builder.input(node, 0)?);
    let variant = x.dtype;
    let inputs = builder.inputs(node)?;
    builder.step(node, StepOp::Resize, Some(variant), attributes, inputs, 0)
}

pub(super) fn gather(builder: &mut Builder<'_>, node: &Node, axis: usize) -> Result<(), PlanError> {
    let inputs = builder.inputs(node)?;
    let attributes = AxisAttributes { axis: axis as u32, reserved: 0 };
    builder.step(node, StepOp::Gather, None, attributes, inputs, 0)
}

pub(super) fn interpolate(
    builder: &mut Builder<'_>,
    node: &Node,
    axis: usize,
) -> Result<(), PlanError> {
    let x = builder.value(builder.input(node, 0)?);
    let inputs = builder.inputs(node)?;
    let attributes = AxisAttributes { axis: axis as u32, reserved: 0 };
    builder.step(node, StepOp::Interpolate, Some(x.dtype), attributes, inputs, 0)
}
