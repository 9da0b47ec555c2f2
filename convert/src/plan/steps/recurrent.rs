//! Recurrent layers.

use whit::DType;
use whit::format::{Layout, Op as StepOp, QuantizedLstmAttributes, RecurrentAttributes};
use whit::kernels::{ConvGeometry, conv_i8};

use crate::graph::{Node, QuantizedLstm, Recurrent, RecurrentKind};
use crate::plan::{Builder, PlanError, Target};

/// A layer whose input's part of the gates is an operand.
pub(super) fn recurrent(
    builder: &mut Builder<'_>,
    node: &Node,
    layer: &Recurrent,
) -> Result<(), PlanError> {
    let op = match layer.kind {
        RecurrentKind::Lstm => StepOp::Lstm,
        RecurrentKind::Gru => StepOp::Gru,
        RecurrentKind::Rnn => StepOp::Rnn,
    };
    let mut attributes = RecurrentAttributes {
        directions: layer.backwards.len() as u32,
        variant: u32::from(layer.variant),
        clip: layer.clip,
        cell_clip: if layer.cell_clip == f32::INFINITY { 0.0 } else { layer.cell_clip },
        ..RecurrentAttributes::default()
    };
    for (direction, backwards) in layer.backwards.iter().enumerate() {
        attributes.backwards |= u32::from(*backwards) << direction;
    }
    for (index, function) in layer.functions.iter().enumerate().take(6) {
        let Some((function, alpha, beta)) = function else { continue };
        attributes.functions[index] = *function as u32;
        attributes.alpha[index] = *alpha;
        attributes.beta[index] = *beta;
    }
    // Every gate of every time step takes a product with the state.
    let gates = builder.value(builder.input(node, 0)?).shape.clone();
    let weights = builder.value(builder.input(node, 1)?).shape.clone();
    let macs = builder.largest_elements(&gates)?.saturating_mul(builder.largest(&weights[1])?);
    let inputs = builder.inputs(node)?;
    builder.step_with_outputs(node, op, Some(DType::F32), attributes, inputs, macs)
}

/// An LSTM of integers, whose input is multiplied in the same step.
pub(super) fn quantized_lstm(
    builder: &mut Builder<'_>,
    node: &Node,
    layer: &QuantizedLstm,
) -> Result<(), PlanError> {
    let attributes = QuantizedLstmAttributes {
        batch_first: u32::from(layer.batch_first),
        input_scale: layer.input_scale,
        state_scale: layer.state_scale,
        output_scale: layer.output_scale,
        cell_shift: layer.cell_shift,
        cell_clip: layer.cell_clip,
        reserved: [0; 4],
    };
    let x = builder.value(builder.input(node, 0)?).shape.clone();
    let mut macs = 0u64;
    for weights in [1, 2] {
        let shape = builder.value(builder.input(node, weights)?).shape.clone();
        macs = macs.saturating_add(builder.largest_elements(&shape)?);
    }
    let macs = macs.saturating_mul(builder.largest_elements(&x[..2])?);
    let panels = match builder.options.target {
        Target::Any => in_panels(builder, node)?,
        Target::CortexM => None,
    };
    let inputs = match panels {
        Some([weights, state_weights]) => {
            let mut inputs = vec![None, Some(weights), Some(state_weights)];
            inputs[0] = Some(builder.tensor(builder.input(node, 0)?)?);
            for id in &node.inputs[3..] {
                inputs.push(id.map(|id| builder.tensor(id)).transpose()?);
            }
            inputs
        }
        None => builder.inputs(node)?,
    };
    builder.step_with_outputs(
        node,
        StepOp::QuantizedLstm,
        Some(DType::I8),
        attributes,
        inputs,
        macs,
    )
}

/// The weights of all gates, `[4 × hidden, columns]`, of input and state in the panels that vector instructions read;
/// `None` if they are computed.
fn in_panels(builder: &mut Builder<'_>, node: &Node) -> Result<Option<[usize; 2]>, PlanError> {
    let graph = builder.graph;
    let mut tensors = [0; 2];
    for (tensor, input) in tensors.iter_mut().zip([1, 2]) {
        let value = graph.value(builder.input(node, input)?);
        let Some(constant) = &value.constant else { return Ok(None) };
        let [rows, columns] = constant.shape[..] else { return Ok(None) };
        let geometry = ConvGeometry::matmul(1, columns, rows);
        let mut panels = vec![0; geometry.packed_i8_len()];
        conv_i8::pack_weights(&geometry, &constant.to_i8(), &mut panels);
        let (layout, shape) = (Layout::PanelI8, &constant.shape);
        *tensor = builder.constant_i8(&value.name, layout, shape, &panels)?;
    }
    Ok(Some(tensors))
}
