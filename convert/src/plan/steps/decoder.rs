//! Steps of decoders: embedding, rotary positions, attention over a cache, gated units.

use whit::DType;
use whit::format::{
    CachedAttentionAttributes, CrossAttentionAttributes, EmbeddingAttributes, Field,
    GatedAttributes, Layout, Op as StepOp, RotaryAttributes,
};
use whit::kernels::ConvGeometry;

use crate::graph::{
    CachedAttention, CrossAttention, Graph, Heads, MatMul, Node, Op, Rotary, UnaryKind, ValueId,
};
use crate::plan::builder::unsupported;
use crate::plan::{Builder, PlanError};

use super::elementwise::unary_op;
use super::float_weights::{pack_groups, pack_panels};

/// A size in an attribute record.
fn number(node: &Node, value: usize) -> Result<u32, PlanError> {
    u32::try_from(value).map_err(|_| unsupported(node, format!("{value} is too large")))
}

pub(super) fn embedding(
    builder: &mut Builder<'_>,
    node: &Node,
    scale: f32,
) -> Result<(), PlanError> {
    let id = builder.input(node, 0)?;
    let value = builder.value(id);
    let Some(constant) = value.constant.clone().filter(|table| table.shape.len() == 2) else {
        return Err(unsupported(node, "its table isn't a constant of two axes"));
    };
    let (rows, size) = (constant.shape[0], constant.shape[1]);
    let geometry = ConvGeometry::matmul(1, size, rows);
    let table = match &value.groups {
        Some(groups) => {
            let (layout, dtype, data) = pack_groups(node, &geometry, &constant, groups, 0)?;
            let table = builder.constant(&value.name, dtype, layout, &constant.shape, data)?;
            // One of GROUP_SIZES.
            builder.set_group_size(table, groups.size as u32);
            table
        }
        // A last layer with the same weights has them in panels: they are stored once.
        None if is_packed(builder.graph, id) => {
            let (dtype, data) = pack_panels(&geometry, &constant);
            builder.constant(&value.name, dtype, Layout::PanelFloat, &constant.shape, data)?
        }
        None => builder.tensor(id)?,
    };
    let ids = builder.input(node, 1)?;
    let inputs = vec![Some(table), Some(builder.tensor(ids)?)];
    let attributes = EmbeddingAttributes { scale, reserved: 0 };
    builder.step(node, StepOp::Embedding, Some(DType::F32), attributes, inputs, 0)
}

/// Whether a table is the weights of a layer, too.
fn is_packed(graph: &Graph, table: ValueId) -> bool {
    graph.nodes.iter().any(|node| {
        matches!(node.op, Op::MatMul(MatMul { transpose_b: true, .. }))
            && node.inputs.get(1) == Some(&Some(table))
    })
}

pub(super) fn rotary(
    builder: &mut Builder<'_>,
    node: &Node,
    rotary: &Rotary,
) -> Result<(), PlanError> {
    let Heads { heads, kv_heads, size } = rotary.heads;
    let attributes = RotaryAttributes {
        heads: number(node, heads)?,
        kv_heads: number(node, kv_heads)?,
        size: number(node, size)?,
        rotated: number(node, rotary.rotated)?,
        interleaved: u32::from(rotary.interleaved),
        epsilon: rotary.epsilon,
        reserved: [0; 2],
    };
    let inputs = builder.inputs(node)?;
    builder.elementwise(node, StepOp::Rotary, DType::F32, attributes, inputs, &[0])
}

pub(super) fn cached_attention(
    builder: &mut Builder<'_>,
    node: &Node,
    attention: &CachedAttention,
) -> Result<(), PlanError> {
    let Heads { heads, kv_heads, size } = attention.heads;
    let attributes = CachedAttentionAttributes {
        heads: number(node, heads)?,
        kv_heads: number(node, kv_heads)?,
        size: number(node, size)?,
        window: number(node, attention.window.unwrap_or(0))?,
        scale: attention.scale,
        softcap: attention.softcap,
        reserved: [0; 2],
    };
    let keys = builder.input(node, 2)?;
    let variant = match builder.value(keys).dtype {
        DType::I8 => DType::I8,
        _ => DType::F32,
    };
    over_states(builder, node, (StepOp::CachedAttention, variant), attributes, heads * size)
}

pub(super) fn cross_attention(
    builder: &mut Builder<'_>,
    node: &Node,
    attention: &CrossAttention,
) -> Result<(), PlanError> {
    let Heads { heads, kv_heads, size } = attention.heads;
    let attributes = CrossAttentionAttributes {
        heads: number(node, heads)?,
        kv_heads: number(node, kv_heads)?,
        size: number(node, size)?,
        scale: attention.scale,
    };
    over_states(builder, node, (StepOp::CrossAttention, DType::F32), attributes, heads * size)
}

/// A step that writes keys and values into the states where they lie: inputs from 2 on, which become outputs from 1 on. Other outputs
/// follow these.
fn over_states(
    builder: &mut Builder<'_>,
    node: &Node,
    (op, variant): (StepOp, DType),
    attributes: impl Field,
    width: usize,
) -> Result<(), PlanError> {
    let is_next = |id: &&ValueId| builder.graph.states.iter().any(|state| state.next == **id);
    let kept = node.outputs[1..].iter().take_while(is_next).count().max(2);
    for (index, next) in node.outputs.iter().copied().enumerate().skip(1).take(kept) {
        let cache = builder.input(node, index + 1)?;
        let is_state = |state: &crate::graph::State| state.read == cache && state.next == next;
        if !builder.graph.states.iter().any(is_state) {
            return Err(unsupported(node, "keys and values that aren't states"));
        }
        let tensor = builder.tensor(cache)?;
        builder.set_view(next, tensor, 0)?;
    }
    let cache = &builder.value(builder.input(node, 2)?).shape;
    let per_token = builder.largest(&cache[2])?.saturating_mul(2 * width as u64);
    let tokens = builder.largest(&builder.value(builder.input(node, 0)?).shape[0])?;
    let mut inputs = builder.inputs(node)?;
    inputs.drain(2..2 + kept);
    let macs = tokens.saturating_mul(per_token);
    builder.step_with_outputs(node, op, Some(variant), attributes, inputs, macs)
}

pub(super) fn gated(
    builder: &mut Builder<'_>,
    node: &Node,
    kind: UnaryKind,
) -> Result<(), PlanError> {
    let attributes = GatedAttributes { kind: unary_op(kind).0 as u32, reserved: 0 };
    let inputs = builder.inputs(node)?;
    builder.step(node, StepOp::Gated, Some(DType::F32), attributes, inputs, 0)
}
