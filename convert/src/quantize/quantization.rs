//! What a quantized model will be, while it is still being decided: the float graph, the numbers of every
//! node, the grids of its activations, the integers of its weights.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use whit::DType;

use crate::graph::{Graph, Op, Quant, UnaryKind, ValueId};
use crate::quantize::calibrate::{Range, Ranges};
use crate::quantize::numbers::{Numbers, integer_form};
use crate::quantize::weights::{Scales, Weights};
use crate::quantize::{asymmetric, clamp_of, insert, integers, keeps_scale, symmetric};
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
            .map(|(node, numbers)| numbers.fitted(&graph, node))
            .collect();
        let mut activations = BTreeMap::new();
        for dtype in [DType::I8, DType::I16] {
            let integer: Vec<Option<Vec<usize>>> = graph
                .nodes
                .iter()
                .zip(&numbers)
                .map(|(node, numbers)| {
                    (numbers.integer() == Some(dtype)).then(|| integer_form(&graph, node)).flatten()
                })
                .collect();
            for (value, quant) in choose(&graph, ranges, &integer, dtype) {
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
        for value in &mut graph.values {
            let (Some(groups), Some(constant)) = (value.groups.take(), &value.constant) else {
                continue;
            };
            let shape = constant.shape.clone();
            let scales = Scales::Groups(groups);
            let reals = Weights { values: constant.as_ref().clone(), scales }.to_f32();
            value.dtype = DType::F32;
            value.constant = Some(Arc::new(Tensor::from_f32(shape, &reals)));
        }
        integers::fold_dequantized(&mut graph);
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

/// A grid of one type for every activation that an integer node of that type touches.
///
/// Values that a node only moves or blends share one scale, over the union of their ranges, so that moving
/// stays moving. Softmax and sigmoid lie in 0..1, tanh in −1..1, whatever the data shows. A value
/// that only a Relu or Clip reads gets none: the clamp becomes the saturation of its own result.
fn choose(
    graph: &Graph,
    ranges: &Ranges,
    integer: &[Option<Vec<usize>>],
    dtype: DType,
) -> HashMap<ValueId, Quant> {
    let consumers = graph.consumers();
    let mut touched = vec![false; graph.values.len()];
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
        touched[output.0 as usize] = true;
        for operand in operands {
            let Some(id) = node.inputs[*operand] else { continue };
            if graph.constant(id).is_some() {
                continue;
            }
            touched[id.0 as usize] = true;
            if keeps_scale(&node.op) {
                let (a, b) = (find(&mut group, id.0), find(&mut group, output.0));
                group[a as usize] = b;
            }
        }
        // The conventions of TFLite: in i8 1/256 with zero point -128 and 1/128 with zero point 0, in i16
        // 1/32768.
        let natural = match (&node.op, dtype) {
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
        if let Some(range) = natural {
            fixed.insert(output.0, range);
        }
    }
    // What a state becomes is what it is in the next run.
    for state in &graph.states {
        let (read, next) = (state.read.0 as usize, state.next.0 as usize);
        let (a, b) = (find(&mut group, state.read.0), find(&mut group, state.next.0));
        group[a as usize] = b;
        if touched[read] || touched[next] {
            touched[read] = true;
            touched[next] = true;
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
        let chosen = || ranges.get(&(id, dtype));
        let Some(range) = fixed.get(&id.0).or_else(chosen).copied() else { continue };
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
        if !touched[at] || clamped || graph.value(id).dtype != DType::F32 {
            continue;
        }
        if let Some(range) = unions.get(&find(&mut group, id.0)) {
            let quant = match dtype {
                DType::I16 => symmetric(range.min, range.max),
                _ => asymmetric(range.min, range.max),
            };
            quants.insert(id, quant);
        }
    }
    quants
}
