//! Recurrent layers.

use whit::DType;
use whit::format::{Op as StepOp, RecurrentAttributes};

use crate::graph::{Node, Recurrent, RecurrentKind};
use crate::plan::{Builder, PlanError};

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
