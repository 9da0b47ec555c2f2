//! A mix of numbers: one choice per layer, what the other nodes follow from it, and what it should cost.

use std::collections::BTreeMap;

use crate::graph::{Graph, Op};
use crate::plan::{Plan, Target};
use crate::quantize::numbers::{DEFAULT_GROUP, GroupedBits, Numbers, integer_form, weights_of};

/// What a layer may be, from the cheapest in bytes.
pub const CHOICES: [Numbers; 6] = [
    Numbers::Grouped { bits: GroupedBits::W4, group: DEFAULT_GROUP },
    Numbers::Int8,
    Numbers::Grouped { bits: GroupedBits::W8, group: DEFAULT_GROUP },
    Numbers::Int16,
    Numbers::F16,
    Numbers::Float,
];

/// A layer that the search decides about.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Index of the node.
    pub node: usize,
    /// Its name.
    pub name: String,
    /// Number of weights.
    pub weights: usize,
    /// Multiply-accumulates of a run.
    pub macs: u64,
    /// The choices that it can have.
    pub choices: Vec<Numbers>,
}

/// The layers of a float graph, whose plan gives their work.
pub(super) fn layers(graph: &Graph, plan: &Plan) -> Vec<Layer> {
    let mut macs: BTreeMap<&str, u64> = BTreeMap::new();
    for step in &plan.steps {
        *macs.entry(&step.name).or_default() += step.macs;
    }
    let nodes = graph.nodes.iter().enumerate();
    nodes
        .filter_map(|(at, node)| {
            let weights = weights_of(graph, node)?.len();
            let choices: Vec<Numbers> = CHOICES
                .into_iter()
                .filter(|numbers| numbers.fitted(graph, node) == *numbers)
                .collect();
            let macs = macs.get(node.name.as_str()).copied().unwrap_or(0);
            Some(Layer { node: at, name: node.name.clone(), weights, macs, choices })
        })
        .collect()
}

/// The numbers of every node when the layers have these: a node between layers is on integers when all that it
/// reads is, on the wider ones of those.
pub(super) fn spread(graph: &Graph, chosen: &BTreeMap<usize, Numbers>) -> Vec<Numbers> {
    let producers = graph.producers();
    let consumers = graph.consumers();
    let mut numbers = vec![Numbers::Float; graph.nodes.len()];
    for (at, node) in graph.nodes.iter().enumerate() {
        if let Some(own) = chosen.get(&at) {
            numbers[at] = own.fitted(graph, node);
            continue;
        }
        let Some(operands) = integer_form(graph, node) else { continue };
        let mut read = Vec::new();
        for id in operands.iter().filter_map(|operand| node.inputs[*operand]) {
            if graph.constant(id).is_some() {
                continue;
            }
            read.push(match producers[id.0 as usize] {
                Some(maker) => numbers[maker],
                // What is done to an input before the first layer is done in that layer's numbers.
                None => first_layer(graph, &consumers, chosen, at),
            });
        }
        let all_integer = read.iter().all(|numbers| numbers.integer().is_some());
        // From the widest to the narrowest; int8 is the last of all.
        if all_integer && let Some(widest) = read.into_iter().min() {
            numbers[at] = widest.fitted(graph, node);
        }
    }
    numbers
}

/// The numbers of the first layer behind a node.
fn first_layer(
    graph: &Graph,
    consumers: &[Vec<usize>],
    chosen: &BTreeMap<usize, Numbers>,
    mut at: usize,
) -> Numbers {
    // Readers come later in the order of nodes, so that this ends.
    loop {
        if let Some(numbers) = chosen.get(&at) {
            return *numbers;
        }
        let reader =
            graph.nodes[at].outputs.first().and_then(|id| consumers[id.0 as usize].first());
        match reader {
            Some(reader) if *reader > at => at = *reader,
            _ => return Numbers::Int8,
        }
    }
}

/// The time of a layer relative to f32: a model, so that a search gives the same each time. The figures are what
/// our kernels take on AVX2, and on a Cortex-M4 with and without its floating-point unit at work, rounded.
pub(super) fn relative_time(layer: &Layer, numbers: Numbers, target: Target) -> f64 {
    let each = match (target, numbers) {
        (_, Numbers::Float | Numbers::F16 | Numbers::Bf16) => 1.0,
        (_, Numbers::Grouped { .. }) => 1.1,
        (Target::CortexM, Numbers::Int16) => 0.4,
        (Target::CortexM, Numbers::Int8) => 0.15,
        (_, Numbers::Int16) => 0.9,
        (_, Numbers::Int8) => 0.5,
    };
    layer.macs as f64 * each
}

/// How many layers have which numbers: `10 int8, 2 float`.
pub(super) fn describe(graph: &Graph, numbers: &[Numbers]) -> String {
    let mut counts: BTreeMap<Numbers, usize> = BTreeMap::new();
    for (node, numbers) in graph.nodes.iter().zip(numbers) {
        if matches!(node.op, Op::Conv(_) | Op::MatMul(_)) && weights_of(graph, node).is_some() {
            *counts.entry(*numbers).or_default() += 1;
        }
    }
    let mut counts: Vec<(Numbers, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(numbers, count)| (std::cmp::Reverse(*count), *numbers));
    let parts: Vec<String> =
        counts.iter().map(|(numbers, count)| format!("{count} {numbers}")).collect();
    parts.join(", ")
}
