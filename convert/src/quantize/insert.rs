//! Post-training quantization: puts quantize and dequantize nodes where calibration found ranges.

use std::collections::{HashMap, HashSet};

use whit::DType;

use crate::graph::{Graph, Node, Op, Quant, UnaryKind, ValueId};
use crate::quantize::calibrate::{Range, Ranges};
use crate::quantize::{asymmetric, clamp_of, integer_inputs, keeps_scale};
use crate::tensor::Tensor;

/// Bias magnitudes that per-channel scales are widened for: what the planner accepts, halved.
const MAX_BIAS: f64 = (1u32 << 29) as f64;

/// Quantizes weights per channel and every activation that an integer node reads or makes.
/// Nodes named in `keep_float` stay float. Returns the names of float nodes that have no integer form.
pub fn insert(graph: &mut Graph, ranges: &Ranges, keep_float: &HashSet<String>) -> Vec<String> {
    let integer: Vec<Option<Vec<usize>>> = graph
        .nodes
        .iter()
        .map(|node| if keep_float.contains(&node.name) { None } else { integer_form(graph, node) })
        .collect();
    let quants = choose(graph, ranges, &integer);

    let mut quantized: HashMap<ValueId, ValueId> = HashMap::new();
    let nodes = std::mem::take(&mut graph.nodes);
    let mut out: Vec<Node> = Vec::with_capacity(nodes.len() * 2);
    for source in graph.sources().collect::<Vec<_>>() {
        quantize_value(graph, &mut out, &mut quantized, &quants, source);
    }
    let mut left_float = Vec::new();
    for (mut node, integer) in nodes.into_iter().zip(integer) {
        match &integer {
            Some(operands) => quantize_operands(graph, &mut out, &quantized, &mut node, operands),
            None => left_float.push(node.name.clone()),
        }
        // Float readers of a quantized value read what the integers say, too.
        for operand in node.inputs.iter_mut().flatten() {
            if let Some(real) = quantized.get(operand) {
                *operand = *real;
            }
        }
        let made = node.outputs.clone();
        out.push(node);
        for value in made {
            quantize_value(graph, &mut out, &mut quantized, &quants, value);
        }
    }
    graph.nodes = out;
    let nexts = graph.states.iter_mut().map(|state| &mut state.next);
    for result in graph.outputs.iter_mut().chain(nexts) {
        if let Some(real) = quantized.get(result) {
            *result = *real;
        }
    }
    left_float
}

/// The activation operands of a node that can be integer: also all of them must be f32.
fn integer_form(graph: &Graph, node: &Node) -> Option<Vec<usize>> {
    let operands = integer_inputs(graph, node)?;
    let f32s = |id: ValueId| graph.value(id).dtype == DType::F32;
    let all = operands.iter().all(|operand| node.inputs[*operand].is_some_and(f32s));
    // A node on constants alone is folded, not quantized.
    let any =
        operands.iter().any(|o| node.inputs[*o].is_some_and(|id| graph.constant(id).is_none()));
    (all && any && f32s(node.outputs[0])).then_some(operands)
}

/// A scale for every activation that an integer node touches.
///
/// Values that a node only moves or blends share one scale, over the union of their ranges, so that moving
/// stays moving. Softmax and sigmoid lie in 0..1, tanh in −1..1, whatever the data shows. A value
/// that only a Relu or Clip reads gets none: the clamp becomes the saturation of its own result.
fn choose(
    graph: &Graph,
    ranges: &Ranges,
    integer: &[Option<Vec<usize>>],
) -> HashMap<ValueId, Quant> {
    let consumers = graph.consumers();
    let mut touched: HashSet<ValueId> = HashSet::new();
    let mut group: Vec<u32> = (0..graph.values.len() as u32).collect();
    fn find(group: &mut [u32], mut at: u32) -> u32 {
        while group[at as usize] != at {
            group[at as usize] = group[group[at as usize] as usize];
            at = group[at as usize];
        }
        at
    }
    let mut fixed: HashMap<u32, Range> = HashMap::new();
    for (node, operands) in graph.nodes.iter().zip(integer) {
        let Some(operands) = operands else { continue };
        let output = node.outputs[0];
        touched.insert(output);
        for operand in operands {
            let Some(id) = node.inputs[*operand] else { continue };
            if graph.constant(id).is_some() {
                continue;
            }
            touched.insert(id);
            if keeps_scale(&node.op) {
                let (a, b) = (find(&mut group, id.0), find(&mut group, output.0));
                group[a as usize] = b;
            }
        }
        let natural = match node.op {
            // 1/256 with zero point -128 and 1/128 with zero point 0: the conventions of TFLite.
            Op::Softmax { .. } | Op::Unary(UnaryKind::Sigmoid) => {
                Some(Range { min: 0.0, max: 255.0 / 256.0 })
            }
            Op::Unary(UnaryKind::Tanh) => Some(Range { min: -1.0, max: 127.0 / 128.0 }),
            _ => None,
        };
        if let Some(range) = natural {
            fixed.insert(output.0, range);
        }
    }
    // What a state becomes is what it is in the next run.
    for state in &graph.states {
        let (a, b) = (find(&mut group, state.read.0), find(&mut group, state.next.0));
        group[a as usize] = b;
        if touched.contains(&state.read) || touched.contains(&state.next) {
            touched.extend([state.read, state.next]);
        }
    }
    let mut unions: HashMap<u32, Range> = HashMap::new();
    for state in &graph.states {
        let Some(initial) = state.initial.as_ref().filter(|t| t.dtype == DType::F32) else {
            continue;
        };
        let root = find(&mut group, state.read.0);
        for value in initial.to_f32() {
            let range = Range { min: value, max: value };
            unions.entry(root).and_modify(|union| *union = union.union(range)).or_insert(range);
        }
    }
    for id in (0..graph.values.len() as u32).map(ValueId) {
        let Some(range) = fixed.get(&id.0).or_else(|| ranges.get(&id)).copied() else { continue };
        let root = find(&mut group, id.0);
        unions.entry(root).and_modify(|union| *union = union.union(range)).or_insert(range);
    }
    let mut quants = HashMap::new();
    for (at, id) in (0..graph.values.len() as u32).map(|at| (at as usize, ValueId(at))) {
        let clamped = consumers[at].len() == 1
            && !graph.is_result(id)
            && !graph.is_source(id)
            && consumers[at].iter().all(|reader| {
                clamp_of(&graph.nodes[*reader].op).is_some() && integer[*reader].is_some()
            });
        if !touched.contains(&id) || clamped {
            continue;
        }
        if let Some(range) = unions.get(&find(&mut group, id.0)) {
            quants.insert(id, asymmetric(range.min, range.max));
        }
    }
    quants
}

/// Adds quantize and dequantize nodes behind a value that has a scale.
fn quantize_value(
    graph: &mut Graph,
    nodes: &mut Vec<Node>,
    quantized: &mut HashMap<ValueId, ValueId>,
    quants: &HashMap<ValueId, Quant>,
    value: ValueId,
) {
    let Some(quant) = quants.get(&value) else { return };
    if graph.value(value).dtype != DType::F32 {
        return;
    }
    let (name, shape) = (graph.value(value).name.clone(), graph.value(value).shape.clone());
    let integer = graph.add_value(format!("{name}/q"), DType::I8, shape.clone());
    graph.value_mut(integer).quant = Some(quant.clone());
    nodes.push(Node {
        name: format!("{name}/quantize"),
        op: Op::Quantize,
        inputs: vec![Some(value)],
        outputs: vec![integer],
    });
    let real = dequantize(graph, nodes, &name, integer);
    quantized.insert(value, real);
}

fn dequantize(graph: &mut Graph, nodes: &mut Vec<Node>, name: &str, integer: ValueId) -> ValueId {
    let shape = graph.value(integer).shape.clone();
    let real = graph.add_value(format!("{name}/dq"), DType::F32, shape);
    nodes.push(Node {
        name: format!("{name}/dequantize"),
        op: Op::Dequantize,
        inputs: vec![Some(integer)],
        outputs: vec![real],
    });
    real
}

/// Quantizes the constant operands of a node: weights per output channel, others per tensor.
fn quantize_operands(
    graph: &mut Graph,
    nodes: &mut Vec<Node>,
    quantized: &HashMap<ValueId, ValueId>,
    node: &mut Node,
    operands: &[usize],
) {
    if let Op::Conv(_) | Op::MatMul(_) = node.op {
        let axis = match &node.op {
            Op::MatMul(matmul) if !matmul.transpose_b => 1,
            _ => 0,
        };
        let input_scale = node.inputs[0]
            .and_then(|x| quantized.get(&x))
            .and_then(|real| nodes.iter().find(|n| n.outputs[0] == *real))
            .and_then(|dq| graph.value(dq.inputs[0]?).quant.as_ref())
            .map_or(1.0, |quant| f64::from(quant.scale[0]));
        let bias = node
            .inputs
            .get(2)
            .copied()
            .flatten()
            .and_then(|id| graph.constant(id))
            .map(|b| b.to_f32());
        let Some(id) = node.inputs[1] else { return };
        let Some(weights) = graph.constant(id).cloned() else { return };
        let (values, scales) = per_channel(&weights, axis, input_scale, bias.as_deref());
        let tensor = Tensor::from_i8(weights.shape.clone(), &values);
        let name = graph.value(id).name.clone();
        let integer = graph.add_constant(format!("{name}/q"), tensor);
        graph.value_mut(integer).quant = Some(Quant::per_channel(scales, axis));
        node.inputs[1] = Some(dequantize(graph, nodes, &name, integer));
        return;
    }
    for operand in operands {
        let Some(id) = node.inputs[*operand] else { continue };
        let Some(constant) = graph.constant(id).cloned() else { continue };
        let values = constant.to_f32();
        let low = values.iter().copied().fold(0.0, f32::min);
        let high = values.iter().copied().fold(0.0, f32::max);
        let quant = asymmetric(low, high);
        let (scale, zero_point) = (f64::from(quant.scale[0]), f64::from(quant.zero_point[0]));
        let integers: Vec<i8> = values
            .iter()
            .map(|v| {
                ((f64::from(*v) / scale).round_ties_even() + zero_point).clamp(-128.0, 127.0) as i8
            })
            .collect();
        let name = graph.value(id).name.clone();
        let integer = graph
            .add_constant(format!("{name}/q"), Tensor::from_i8(constant.shape.clone(), &integers));
        graph.value_mut(integer).quant = Some(quant);
        node.inputs[*operand] = Some(dequantize(graph, nodes, &name, integer));
    }
}

/// Symmetric i8 weights in −127..=127, one scale per index of `axis`: the largest magnitude over
/// 127, or more where the bias would otherwise not fit the accumulator.
fn per_channel(
    weights: &Tensor,
    axis: usize,
    input_scale: f64,
    bias: Option<&[f32]>,
) -> (Vec<i8>, Vec<f32>) {
    let reals = weights.to_f32();
    let channels = weights.shape[axis];
    let inner: usize = weights.shape[axis + 1..].iter().product();
    let channel_of = |index: usize| index / inner.max(1) % channels.max(1);
    let mut largest = vec![0f64; channels];
    for (index, real) in reals.iter().enumerate() {
        let channel = channel_of(index);
        largest[channel] = largest[channel].max(f64::from(real.abs()));
    }
    let scales: Vec<f32> = largest
        .iter()
        .enumerate()
        .map(|(channel, largest)| {
            let bias = bias.map_or(0.0, |b| if b.len() == 1 { b[0] } else { b[channel] });
            let least = f64::from(bias.abs()) / (input_scale * MAX_BIAS);
            let scale = (largest / 127.0).max(least) as f32;
            if scale < f32::MIN_POSITIVE { 1.0 } else { scale }
        })
        .collect();
    let values = reals
        .iter()
        .enumerate()
        .map(|(index, real)| {
            let q = f64::from(*real) / f64::from(scales[channel_of(index)]);
            q.round_ties_even().clamp(-127.0, 127.0) as i8
        })
        .collect();
    (values, scales)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_have_scales_of_their_own() {
        let weights = Tensor::from_f32([2, 2], &[1.27, -0.635, 0.0, 0.0]);
        let (values, scales) = per_channel(&weights, 0, 1.0, None);
        assert_eq!(values, [127, -64, 0, 0]);
        assert_eq!(scales, [0.01, 1.0]);
        let (_, scales) = per_channel(&weights, 1, 1.0, Some(&[0.0, 1e9]));
        assert!(scales[1] > 1.0, "widened for the bias: {scales:?}");
    }
}
