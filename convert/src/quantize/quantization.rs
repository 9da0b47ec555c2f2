//! What a quantized model will be, while it is still being decided: the float graph, the numbers of every
//! node, the grids of its activations, the integers of its weights.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use whit::DType;

use crate::graph::{BinaryKind, Graph, Node, Op, Quant, UnaryKind, ValueId};
use crate::quantize::calibrate::{Range, Ranges};
use crate::quantize::numbers::{Numbers, integer_form};
use crate::quantize::weights::{Scales, Weights};
use crate::quantize::{clamp_of, insert, integers, keeps_scale};
use crate::tensor::Tensor;

/// A float graph with everything decided that makes it a quantized one.
///
/// Whoever improves it changes constants (biases, equalized weights), grids and integers; nodes and values
/// stay those of the float model, so that the two can be compared value by value.
#[derive(Clone, Debug)]
pub struct Quantization {
    /// The float graph, rewritten. Constants may be added, and operands of nodes put in their place.
    pub graph: Graph,
    /// The numbers of each node, in the order of the graph's nodes; each [`Numbers::fitted`].
    pub numbers: Vec<Numbers>,
    /// The grid of every activation that an integer node reads or makes, by the integers' type.
    pub activations: BTreeMap<(ValueId, DType), Quant>,
    /// The integers of weights, by the index of their node.
    pub weights: BTreeMap<usize, Weights>,
    /// The float model with its channels rescaled, when a step did that: it has the outputs of the model as it was, and
    /// its values are what those of the quantized model are to be compared with.
    pub equalized: Option<Arc<Graph>>,
}

impl Quantization {
    /// Chooses a grid for every activation from the ranges that calibration gave, and rounds every weight to
    /// its nearest integer. `numbers` has an entry for each node of the graph, and is [fitted](Numbers::fitted).
    pub fn new(graph: Graph, numbers: &[Numbers], ranges: &Ranges) -> Quantization {
        let numbers: Vec<Numbers> = graph
            .nodes
            .iter()
            .zip(numbers)
            .map(|(node, numbers)| match numbers.fitted(&graph, node) {
                numbers if numbers.integer().is_some() && is_infinite(&graph, ranges, node) => {
                    Numbers::Float
                }
                numbers => numbers,
            })
            .collect();
        let numbers = without_idle_integers(&graph, without_rounded_sums(&graph, numbers));
        let mut activations = BTreeMap::new();
        for dtype in [DType::I8, DType::I16] {
            let shared = SharedGrids::new(&graph, &numbers, dtype);
            for (value, quant) in choose(&graph, ranges, &shared, dtype) {
                activations.insert((value, dtype), quant);
            }
        }
        let mut quantization =
            Quantization { graph, numbers, activations, weights: BTreeMap::new(), equalized: None };
        for node in 0..quantization.graph.nodes.len() {
            quantization.round_weights(node);
        }
        quantization
    }

    /// Rounds the weights of a node to their nearest integers.
    pub fn round_weights(&mut self, node: usize) {
        let numbers = self.numbers[node];
        let input_scale = self.input_quant(node).map_or(1.0, |quant| f64::from(quant.scale[0]));
        match Weights::nearest(&self.graph, node, numbers, input_scale) {
            Some(weights) => drop(self.weights.insert(node, weights)),
            None => drop(self.weights.remove(&node)),
        }
    }

    /// The grid of the first operand of an integer node.
    pub fn input_quant(&self, node: usize) -> Option<&Quant> {
        let dtype = self.numbers[node].integer()?;
        let input = self.graph.nodes[node].inputs.first().copied().flatten()?;
        self.activations.get(&(input, dtype))
    }

    /// The graph with quantize and dequantize nodes put in: what computes on floats what the quantized
    /// model computes on integers, but for the order of roundings.
    pub fn with_quantize_nodes(&self) -> Graph {
        insert::insert(self)
    }

    /// The same on floats alone but for the roundings of activations, ready to be planned: weights are the reals
    /// that their integers stand for. Values that the float graph has keep their ids, those before they
    /// are quantized.
    pub fn simulated(&self) -> Graph {
        let mut graph = self.with_quantize_nodes();
        simulate(&mut graph);
        graph
    }

    /// The graph on integers, ready to be planned.
    pub fn lowered(&self) -> Graph {
        let mut graph = self.with_quantize_nodes();
        integers::lower(&mut graph);
        integers::fold_dequantized(&mut graph);
        crate::pipeline::rewrite(&mut graph, &[], &mut ());
        graph
    }
}

/// Puts reals in the place of the integers of weights that a graph's nodes read.
pub(super) fn simulate(graph: &mut Graph) {
    let read = graph.nodes.iter().flat_map(|node| node.inputs.iter().flatten().copied());
    for id in read.collect::<BTreeSet<ValueId>>() {
        let value = graph.value_mut(id);
        let (Some(groups), Some(constant)) = (value.groups.take(), &value.constant) else {
            continue;
        };
        let shape = constant.shape.clone();
        let scales = Scales::Groups(groups);
        let reals = Weights { values: constant.as_ref().clone(), scales }.to_f32();
        value.dtype = DType::F32;
        value.constant = Some(Arc::new(Tensor::from_f32(shape, &reals)));
    }
    integers::fold_dequantized(graph);
}

/// The numbers that nodes will have, as far as that doesn't depend on data.
pub(super) fn settled(graph: &Graph, numbers: &[Numbers]) -> Vec<Numbers> {
    let fitted = graph.nodes.iter().zip(numbers).map(|(node, numbers)| numbers.fitted(graph, node));
    without_idle_integers(graph, without_rounded_sums(graph, fitted.collect()))
}

/// Leaves float the sums that only normalisations read: those of a transformer's residuals have a few channels that are
/// far larger than the others, which one scale would leave few steps.
fn without_rounded_sums(graph: &Graph, mut numbers: Vec<Numbers>) -> Vec<Numbers> {
    let consumers = graph.consumers();
    for (at, node) in graph.nodes.iter().enumerate() {
        if node.op != Op::Binary(BinaryKind::Add) || graph.is_result(node.outputs[0]) {
            continue;
        }
        let readers = &consumers[node.outputs[0].0 as usize];
        let normalizes = |at: &usize| matches!(graph.nodes[*at].op, Op::Normalize { .. });
        if !readers.is_empty() && readers.iter().all(normalizes) {
            numbers[at] = Numbers::Float;
        }
    }
    numbers
}

/// Leaves float what only moves elements or computes with them one by one, from float nodes to float nodes: a grid between
/// them costs accuracy and saves nothing.
fn without_idle_integers(graph: &Graph, mut numbers: Vec<Numbers>) -> Vec<Numbers> {
    let integer = |numbers: &[Numbers], at: usize| numbers[at].integer();
    // Nodes that a value joins, when all of them are on integers of one type.
    let mut group: Vec<u32> = (0..graph.nodes.len() as u32).collect();
    let producers = graph.producers();
    for (at, node) in graph.nodes.iter().enumerate() {
        // What a node reads as it is, such as a mask, stays apart.
        for operand in integer_form(graph, node).unwrap_or_default() {
            let Some(maker) = node.inputs[operand].and_then(|id| producers[id.0 as usize]) else {
                continue;
            };
            if integer(&numbers, at).is_some() && integer(&numbers, at) == integer(&numbers, maker)
            {
                let (a, b) = (find(&mut group, at as u32), find(&mut group, maker as u32));
                group[a as usize] = b;
            }
        }
    }
    let mut computes = vec![false; graph.nodes.len()];
    for (at, node) in graph.nodes.iter().enumerate() {
        let reads_source = || node.inputs.iter().flatten().any(|id| graph.is_source(*id));
        let counts = match &node.op {
            Op::Binary(_) | Op::Unary(_) => reads_source(),
            op => !keeps_scale(op),
        };
        if integer(&numbers, at).is_some() && counts {
            computes[find(&mut group, at as u32) as usize] = true;
        }
    }
    for at in 0..graph.nodes.len() {
        if integer(&numbers, at).is_some() && !computes[find(&mut group, at as u32) as usize] {
            numbers[at] = Numbers::Float;
        }
    }
    numbers
}

/// Which activations get a grid of one type, and which of them the same.
///
/// Values that a node only moves or blends share one scale, over the union of their ranges, so that moving
/// stays moving. Softmax and sigmoid lie in 0..1, tanh in −1..1, whatever the data shows. A value
/// that only a Relu or Clip reads gets none: the clamp becomes the saturation of its own result.
pub(super) struct SharedGrids {
    /// By value: the group that it belongs to, a group's number being that of one of its values.
    pub(super) group: Vec<u32>,
    /// By value: whether it gets a grid.
    pub(super) has_grid: Vec<bool>,
    /// Values whose range is known.
    pub(super) natural: BTreeMap<ValueId, Range>,
}

impl SharedGrids {
    /// `numbers` are those of the graph's nodes, [fitted](Numbers::fitted).
    pub(super) fn new(graph: &Graph, numbers: &[Numbers], dtype: DType) -> SharedGrids {
        let integer: Vec<Option<Vec<usize>>> = graph
            .nodes
            .iter()
            .zip(numbers)
            .map(|(node, numbers)| {
                (numbers.integer() == Some(dtype)).then(|| integer_form(graph, node)).flatten()
            })
            .collect();
        let consumers = graph.consumers();
        let mut touched = vec![false; graph.values.len()];
        let mut group: Vec<u32> = (0..graph.values.len() as u32).collect();
        let mut natural = BTreeMap::new();
        for (node, operands) in graph.nodes.iter().zip(&integer) {
            let Some(operands) = operands else { continue };
            let output = node.outputs[0];
            touched[output.0 as usize] = true;
            for operand in operands {
                let Some(id) = node.inputs[*operand] else { continue };
                if graph.constant(id).is_some() {
                    continue;
                }
                touched[id.0 as usize] = true;
                if keeps_scale(&node.op) {
                    join(&mut group, id, output);
                }
            }
            // The conventions of TFLite: in i8 1/256 with zero point -128 and 1/128 with zero point 0, in i16
            // 1/32768.
            let known = match (&node.op, dtype) {
                (Op::Softmax { .. } | Op::Unary(UnaryKind::Sigmoid), DType::I8) => {
                    Some(Range { min: 0.0, max: 255.0 / 256.0 })
                }
                (Op::Unary(UnaryKind::Tanh), DType::I8) => {
                    Some(Range { min: -1.0, max: 127.0 / 128.0 })
                }
                (Op::Softmax { .. } | Op::Unary(UnaryKind::Sigmoid | UnaryKind::Tanh), _) => {
                    Some(Range { min: 0.0, max: 32767.0 / 32768.0 })
                }
                _ => None,
            };
            if let Some(range) = known {
                natural.insert(output, range);
            }
        }
        // What a state becomes is what it is in the next run.
        for state in &graph.states {
            let (read, next) = (state.read.0 as usize, state.next.0 as usize);
            join(&mut group, state.read, state.next);
            if touched[read] || touched[next] {
                touched[read] = true;
                touched[next] = true;
            }
        }
        let ids = || (0..graph.values.len() as u32).map(ValueId);
        let has_grid = ids()
            .map(|id| {
                let at = id.0 as usize;
                let clamped = consumers[at].len() == 1
                    && !graph.is_result(id)
                    && !graph.is_source(id)
                    && consumers[at].iter().all(|reader| {
                        clamp_of(&graph.nodes[*reader].op).is_some() && integer[*reader].is_some()
                    });
                touched[at] && !clamped && graph.value(id).dtype == DType::F32
            })
            .collect();
        let group = ids().map(|id| find(&mut group, id.0)).collect();
        SharedGrids { group, has_grid, natural }
    }
}

/// The number of a value's group.
fn find(group: &mut [u32], mut at: u32) -> u32 {
    while group[at as usize] != at {
        group[at as usize] = group[group[at as usize] as usize];
        at = group[at as usize];
    }
    at
}

/// Makes two groups one.
fn join(group: &mut [u32], a: ValueId, b: ValueId) {
    let (a, b) = (find(group, a.0), find(group, b.0));
    group[a as usize] = b;
}

/// A grid of one type for every activation that an integer node of that type touches: over the union of the ranges of
/// its group.
fn choose(
    graph: &Graph,
    ranges: &Ranges,
    shared: &SharedGrids,
    dtype: DType,
) -> BTreeMap<ValueId, Quant> {
    let mut unions: BTreeMap<u32, Range> = BTreeMap::new();
    let mut widen = |id: ValueId, range: Range| {
        let group = unions.entry(shared.group[id.0 as usize]).or_insert(range);
        *group = group.union(range);
    };
    for state in &graph.states {
        let initial = state.initial.as_ref().filter(|t| t.dtype == DType::F32);
        for value in initial.map(|t| t.to_f32()).unwrap_or_default() {
            widen(state.read, Range { min: value, max: value });
        }
    }
    let ids = || (0..graph.values.len() as u32).map(ValueId);
    for id in ids() {
        let range = shared.natural.get(&id).or_else(|| ranges.get(&(id, dtype)));
        if let Some(range) = range.filter(|range| range.is_finite()) {
            widen(id, *range);
        }
    }
    let grid = |id: ValueId| Some((id, unions.get(&shared.group[id.0 as usize])?.grid(dtype)));
    ids().filter(|id| shared.has_grid[id.0 as usize]).filter_map(grid).collect()
}

/// Whether an integer node would read or make an infinity.
pub(super) fn is_infinite(graph: &Graph, ranges: &Ranges, node: &Node) -> bool {
    let operands = integer_form(graph, node).unwrap_or_default();
    let mut reads = operands.iter().filter_map(|operand| node.inputs[*operand]);
    let seen = |id: ValueId| ranges.get(&(id, DType::I8)).is_some_and(|range| !range.is_finite());
    node.outputs.iter().any(|id| seen(*id))
        || reads.any(|id| match graph.constant(id) {
            Some(constant) => constant.to_f32().iter().any(|v| !v.is_finite()),
            None => seen(id),
        })
}
