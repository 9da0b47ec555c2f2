//! Weights of float layers: f32, f16, bf16 in pairs, or integers in groups with a scale each.

use half::{bf16, f16};
use whit::DType;
use whit::format::{Layout, Op as StepOp};
use whit::kernels::conv_f32::bf16::{self as pairs, PAIR};
use whit::kernels::conv_f32::grouped::{self, GROUP_SIZES, GroupedForm, ScaleKind, Scales};
use whit::kernels::{ConvGeometry, conv_f32, depthwise_f32};

use crate::graph::{Graph, Groups, MatMul, Node, Op};
use crate::plan::builder::unsupported;
use crate::plan::{Builder, PlanError};
use crate::tensor::Tensor;

use super::conv::{Layer, packed_weights, weight_layout};

/// What can be done where weights in groups can't be.
const REMEDY: &str = "keep its weights in f32, f16 or i8";

/// Refuses weights in groups where no kernel reads them.
pub(super) fn check_groups(graph: &Graph, node: &Node) -> Result<(), PlanError> {
    let weights = match node.op {
        Op::Embedding { .. } => return Ok(()),
        _ => packed_weights(graph, node),
    };
    for id in node.inputs.iter().flatten() {
        let value = graph.value(*id);
        if value.groups.is_none() {
            continue;
        }
        let refuse =
            |why: &str| Err(unsupported(node, format!("`{}` {why}; {REMEDY}", value.name)));
        if weights != Some(*id) {
            return refuse(
                "has scales in groups, which only constant weights of convolutions and matrix products can have",
            );
        }
        let x = node.inputs[0].map(|x| graph.value(x).dtype);
        if x != Some(DType::F32) {
            return refuse("has scales in groups, which take f32 activations");
        }
    }
    Ok(())
}

/// The constant with a layer's weights, in the order in which its kernel reads them.
pub(super) fn pack(builder: &mut Builder<'_>, layer: &Layer<'_>) -> Result<usize, PlanError> {
    let (geometry, name) = (&layer.geometry, format!("{}/weights", layer.node.name));
    let shape = &layer.weights.shape;
    let value = builder.graph.value(builder.input(layer.node, 1)?);
    if let Some(groups) = &value.groups {
        if layer.op == StepOp::DepthwiseConv2d {
            let why = format!("a depthwise convolution takes no weights in groups; {REMEDY}");
            return Err(unsupported(layer.node, why));
        }
        let axis = match &layer.node.op {
            Op::MatMul(MatMul { transpose_b: false, .. }) => 1,
            _ => 0,
        };
        let (layout, dtype, data) = pack_groups(layer.node, geometry, layer.weights, groups, axis)?;
        let tensor = builder.constant(&name, dtype, layout, shape, data)?;
        // One of GROUP_SIZES.
        builder.set_group_size(tensor, groups.size as u32);
        return Ok(tensor);
    }
    let (dtype, data) = if layer.op == StepOp::DepthwiseConv2d {
        let mut packed = vec![0.0; depthwise_f32::packed_len(geometry)];
        depthwise_f32::pack_weights(geometry, &layer.weights.to_f32(), &mut packed);
        floats(layer.weights.dtype, &packed)
    } else {
        pack_panels(geometry, layer.weights)
    };
    builder.constant(&name, dtype, weight_layout(layer, Layout::PanelFloat), shape, data)
}

/// The type and bytes of float weights in panels.
pub(super) fn pack_panels(geometry: &ConvGeometry, weights: &Tensor) -> (DType, Vec<u8>) {
    if weights.dtype == DType::BF16 && geometry.group_in_c().is_multiple_of(PAIR) {
        let numbers: Vec<bf16> = weights.to_f32().into_iter().map(bf16::from_f32).collect();
        let mut packed = vec![bf16::ZERO; geometry.packed_float_len()];
        pairs::pack_weights(geometry, &numbers, &mut packed);
        return (DType::BF16, packed.iter().flat_map(|w| w.to_le_bytes()).collect());
    }
    let mut packed = vec![0.0; geometry.packed_float_len()];
    conv_f32::pack_weights(geometry, &weights.to_f32(), &mut packed);
    floats(weights.dtype, &packed)
}

/// Packed weights in the type that they had.
fn floats(dtype: DType, packed: &[f32]) -> (DType, Vec<u8>) {
    match dtype {
        DType::F16 => {
            let bytes = |w: &f32| f16::from_f32(*w).to_le_bytes();
            (DType::F16, packed.iter().flat_map(bytes).collect())
        }
        _ => (DType::F32, packed.iter().flat_map(|w| w.to_le_bytes()).collect()),
    }
}

/// The layout, type and bytes of weights `[outputs, …]` in groups, which must run along this axis of the constant.
pub(super) fn pack_groups(
    node: &Node,
    geometry: &ConvGeometry,
    weights: &Tensor,
    groups: &Groups,
    axis: usize,
) -> Result<(Layout, DType, Vec<u8>), PlanError> {
    let refuse = |why: String| Err(unsupported(node, why));
    let min = groups.min.as_deref().unwrap_or_default();
    let has_mins = groups.min.is_some();
    if !GROUP_SIZES.contains(&groups.size) {
        return refuse(format!("groups of {} weights; {GROUP_SIZES:?} are supported", groups.size));
    }
    if groups.axis != axis {
        return refuse(format!("groups of outputs along axis {}, not {axis}", groups.axis));
    }
    let expected = geometry.out_c * geometry.k().div_ceil(groups.size);
    if groups.scale.len() != expected || has_mins && min.len() != expected {
        return refuse(format!("{} scales for {expected} groups", groups.scale.len()));
    }
    if groups.scale.iter().chain(min).any(|scale| !scale.is_finite()) {
        return refuse("a scale of its weights is infinite or not a number".to_owned());
    }
    if weights.dtype != DType::I8 {
        return refuse(format!("weights in groups are i8, not {}", weights.dtype));
    }
    let integers = weights.to_i8();
    let asked = GroupedForm { bits: groups.bits, has_mins, scales: ScaleKind::F32 };
    if let Some(q) = integers.iter().find(|q| !asked.holds(**q)) {
        return refuse(format!("the weight {q} is none of {}", groups.bits.name()));
    }
    let mut is_there = [false; 256];
    integers.iter().for_each(|q| is_there[usize::from(*q as u8)] = true);
    let present = || (i8::MIN..=i8::MAX).filter(|q| is_there[usize::from(*q as u8)]);
    let known = groups.factors.as_ref();
    let scale = Scales { values: &groups.scale, factors: known.map_or(&[], |f| &f.scale) };
    let min = Scales { values: min, factors: known.map_or(&[], |f| &f.min) };
    // The smallest that holds them exactly.
    let (k, size) = (geometry.k(), groups.size);
    let holds = |form: &GroupedForm| {
        form.has_mins == has_mins
            && present().all(|q| form.holds(q))
            && form.bits.has_groups_of(size)
            && [scale, min].iter().all(|scales| scales.fit(form.scales, k, size))
    };
    let form = GroupedForm::all().filter(holds).min_by_key(|form| form.bytes(geometry, size));
    let Some((form, layout)) = form.and_then(|form| Some((form, form.layout()?))) else {
        return refuse("no layout holds its weights".to_owned());
    };
    let data = grouped::pack_weights(geometry, form, size, &integers, scale, min);
    Ok((layout, form.dtype(), data))
}
