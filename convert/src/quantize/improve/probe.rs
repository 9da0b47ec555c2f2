//! Runs a model with values inside it in sight: what steps measure before they change something.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::evaluate::{EvaluateError, Program, Samples, observe};
use crate::graph::{Clamp, Graph, Node, Op, UnaryKind, ValueId};
use crate::plan::PlanOptions;

/// Takes the clamps off the layers that make these values: the sum that each clamp now reads, by the value.
pub(super) fn unclamp(graph: &mut Graph, values: &BTreeSet<ValueId>) -> BTreeMap<ValueId, ValueId> {
    let mut sums = BTreeMap::new();
    let nodes = std::mem::take(&mut graph.nodes);
    for mut node in nodes {
        let value = node.outputs[0];
        let clamp = match &mut node.op {
            Op::Conv(conv) => &mut conv.clamp,
            Op::MatMul(matmul) => &mut matmul.clamp,
            _ => {
                graph.nodes.push(node);
                continue;
            }
        };
        if !values.contains(&value) || *clamp == Clamp::NONE {
            graph.nodes.push(node);
            continue;
        }
        let Clamp { min, max } = std::mem::replace(clamp, Clamp::NONE);
        let of = graph.value(value);
        let (name, dtype, shape) = (format!("{}/sum", of.name), of.dtype, of.shape.clone());
        let sum = graph.add_value(name.clone(), dtype, shape);
        node.outputs[0] = sum;
        graph.nodes.push(node);
        graph.nodes.push(Node {
            name,
            op: Op::Unary(UnaryKind::Clip { min, max }),
            inputs: vec![Some(sum)],
            outputs: vec![value],
        });
        sums.insert(value, sum);
    }
    sums
}

/// Runs a graph as far as it takes to make these values, and shows each of them in every sample. A value that
/// never has a place of its own in memory isn't seen.
pub(in crate::quantize) fn watch(
    graph: &Graph,
    values: &BTreeSet<ValueId>,
    samples: &dyn Samples,
    progress: &mut dyn FnMut(usize),
    see: &mut dyn FnMut(ValueId, usize, &[f32]),
) -> Result<(), EvaluateError> {
    let producers = graph.producers();
    // A reshaped value is seen where its elements were made.
    let origin = |mut value: ValueId| {
        while let Some(at) = producers[value.0 as usize]
            && graph.nodes[at].op == Op::Reshape
            && let Some(from) = graph.nodes[at].inputs[0]
        {
            value = from;
        }
        value
    };
    let mut part = graph.clone();
    let origins: BTreeSet<ValueId> = values.iter().map(|value| origin(*value)).collect();
    let made: Vec<ValueId> =
        origins.iter().copied().filter(|id| producers[id.0 as usize].is_some()).collect();
    // What lives across runs needs the whole graph.
    if part.states.is_empty() && !made.is_empty() {
        part.outputs = made;
        crate::passes::remove_dead_code(&mut part);
    }
    let program = Program::new(&part, &PlanOptions::default())?;
    let mut of_tensor: HashMap<usize, Vec<ValueId>> = HashMap::new();
    for value in values {
        if let Some(tensor) = program.plan.tensor_of_value.get(&origin(*value)) {
            let tensor = program.plan.view_of.get(tensor).unwrap_or(tensor);
            of_tensor.entry(*tensor).or_default().push(*value);
        }
    }
    observe(&program, samples, progress, &mut |seen| {
        for value in of_tensor.get(&seen.tensor).into_iter().flatten() {
            see(*value, seen.sample, seen.reals);
        }
    })
}

/// How many of these nodes lie one behind the other before each node: those of one level don't depend on each
/// other.
pub(super) fn levels(graph: &Graph, nodes: &BTreeSet<usize>) -> BTreeMap<usize, usize> {
    let mut of_value = vec![0usize; graph.values.len()];
    let mut levels = BTreeMap::new();
    for (at, node) in graph.nodes.iter().enumerate() {
        let inputs = node.inputs.iter().flatten();
        let mut level = inputs.map(|id| of_value[id.0 as usize]).max().unwrap_or(0);
        if nodes.contains(&at) {
            levels.insert(at, level);
            level += 1;
        }
        for output in &node.outputs {
            of_value[output.0 as usize] = level;
        }
    }
    levels
}
