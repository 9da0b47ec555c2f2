//! Weights in fewer bits under float activations.

use half::f16;
use whit::DType;

use crate::graph::Graph;
use crate::plan::packed_weights;
use crate::tensor::Tensor;

/// Rounds the weights of node `index` to f16, if it is a convolution or matrix product on f32 whose weights are
/// packed for it; its arithmetic stays f32. Weights that f16 can't hold (above 65504) stay as they are. Returns whether
/// the node has f16 weights now.
///
/// Other readers of the same constant keep what they have.
pub fn to_f16(graph: &mut Graph, index: usize) -> bool {
    let node = &graph.nodes[index];
    let is_f32 = |id: &crate::graph::ValueId| graph.value(*id).dtype == DType::F32;
    let on_f32 = node.inputs.first().copied().flatten().is_some_and(|x| is_f32(&x));
    let Some(id) = packed_weights(graph, node).filter(|_| on_f32) else { return false };
    let value = graph.value(id);
    let Some(constant) = value.constant.as_ref().filter(|_| is_f32(&id)) else {
        return value.dtype == DType::F16;
    };
    let weights = constant.to_f32();
    if !weights.iter().all(|w| w.abs() <= f16::MAX.to_f32()) {
        return false;
    }
    let data: Vec<u8> = weights.iter().flat_map(|w| f16::from_f32(*w).to_le_bytes()).collect();
    let half = Tensor { dtype: DType::F16, shape: constant.shape.clone(), data: data.into() };
    let name = value.name.clone();
    let id = graph.add_constant(name, half);
    graph.nodes[index].inputs[1] = Some(id);
    true
}
