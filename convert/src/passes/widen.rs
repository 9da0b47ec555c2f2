//! Gives every node element types that the runtime computes in: where it lacks f16, bf16 or small
//! integers, the node computes in f32 or i32, with casts around it.
//!
//! Integers wrap around as their own type does, because a cast to it follows whatever can leave its
//! range. Half precision isn't rounded between two such nodes: the second reads the f32 of the
//! first, as ONNX Runtime does on CPUs. Graph inputs and outputs keep their types, and a cast that
//! the model itself states keeps its rounding.

use std::collections::HashMap;

use whit::DType;

use crate::graph::{BinaryKind, Graph, Node, Op, PoolKind, ReduceKind, UnaryKind, ValueId};
use crate::tensor::Tensor;

/// What the converter says of a model that computes in half precision.
const HALF_NOTE: &str = "half precision is computed in float32, without rounding in between";

/// Runs before everything else: an imported graph has no integer nodes on quantized numbers yet.
pub(crate) fn run(graph: &mut Graph) {
    let nodes = std::mem::take(&mut graph.nodes);
    let mut widen = Widen { graph, nodes: Vec::with_capacity(nodes.len()), wide: HashMap::new() };
    let mut halves = false;
    for node in nodes {
        halves |= widen.node(node);
    }
    let Widen { nodes, .. } = widen;
    graph.nodes = nodes;
    super::dead_code::run(graph);
    if halves && !graph.metadata.iter().any(|(key, text)| key == "note" && text == HALF_NOTE) {
        graph.metadata.push(("note".to_owned(), HALF_NOTE.to_owned()));
    }
}

/// Nodes that the runtime has for every type, because they only move elements.
fn moves(op: &Op) -> bool {
    matches!(
        op,
        Op::Reshape
            | Op::Transpose { .. }
            | Op::Slice { .. }
            | Op::Expand
            | Op::Pad { .. }
            | Op::Concat { .. }
            | Op::Gather { .. }
            | Op::GatherElements { .. }
            | Op::GatherNd { .. }
            | Op::ReverseSequence { .. }
            | Op::Where
    )
}

/// The type in which a node computes on operands of a type that the runtime lacks there.
fn computes_in(graph: &Graph, node: &Node, dtype: DType) -> Option<DType> {
    let quantized = |id: Option<&ValueId>| id.is_some_and(|id| graph.value(*id).quant.is_some());
    let keeps_quantized =
        quantized(node.inputs.first().and_then(Option::as_ref)) && quantized(node.outputs.first());
    // Integers in groups stand for floats that kernels widen.
    let is_grouped = |id: &ValueId| graph.value(*id).groups.is_some();
    if node.inputs.iter().flatten().any(is_grouped) {
        return None;
    }
    match (&node.op, dtype) {
        // Tables and caches are f16 for their kernels.
        (Op::Embedding { .. } | Op::CachedAttention(_) | Op::CrossAttention(_), _) => None,
        (Op::Cast | Op::BitCast | Op::Quantize | Op::Dequantize, _) => None,
        (op, DType::F16 | DType::BF16) => (!moves(op)).then_some(DType::F32),
        // Those pick elements, and what is quantized becomes i8 later.
        (Op::Pool(pool), DType::I8 | DType::U8)
            if pool.kind == PoolKind::Max && keeps_quantized =>
        {
            None
        }
        (Op::Resize { .. } | Op::Reduce { .. }, DType::I8 | DType::U8) if keeps_quantized => None,
        (Op::Pool(_) | Op::Resize { .. }, DType::I8 | DType::U8 | DType::I16) => Some(DType::F32),
        (
            Op::Binary(_) | Op::Unary(_) | Op::Reduce { .. } | Op::MatMul(_),
            DType::I8 | DType::U8 | DType::I16,
        ) => Some(DType::I32),
        (Op::Reduce { .. }, DType::Bool) => Some(DType::I32),
        (Op::Compare(_), DType::I16) => Some(DType::I32),
        (Op::ArgReduce { .. } | Op::TopK { .. }, DType::U8 | DType::I16) => Some(DType::I32),
        _ => None,
    }
}

/// Whether the results of integers of one type are in the range of that type.
fn stays_in_range(op: &Op) -> bool {
    match op {
        Op::Binary(kind) => matches!(
            kind,
            BinaryKind::Min
                | BinaryKind::Max
                | BinaryKind::Mod
                | BinaryKind::Fmod
                | BinaryKind::And
                | BinaryKind::Or
                | BinaryKind::Xor
                | BinaryKind::BitAnd
                | BinaryKind::BitOr
                | BinaryKind::BitXor
                | BinaryKind::ShiftRight
        ),
        Op::Unary(kind) => matches!(kind, UnaryKind::Relu | UnaryKind::Sign),
        Op::Reduce { kind, .. } => matches!(kind, ReduceKind::Max | ReduceKind::Min),
        Op::TopK { .. } => true,
        _ => false,
    }
}

struct Widen<'g> {
    graph: &'g mut Graph,
    nodes: Vec<Node>,
    /// The same numbers in a wider type, or halves before they were rounded.
    wide: HashMap<(ValueId, DType), ValueId>,
}

impl Widen<'_> {
    /// Takes over a node; true when it computes on halves.
    fn node(&mut self, mut node: Node) -> bool {
        let types: Vec<(ValueId, DType)> =
            node.inputs.iter().flatten().map(|id| (*id, self.graph.value(*id).dtype)).collect();
        let is_half = |dtype: DType| matches!(dtype, DType::F16 | DType::BF16);
        if moves(&node.op) && types.iter().any(|(_, dtype)| is_half(*dtype)) {
            // Moved as f32 when that is what there is.
            if !types.iter().any(|(id, _)| self.wide.contains_key(&(*id, DType::F32))) {
                self.nodes.push(node);
                return false;
            }
            self.emit(&mut node, |dtype| is_half(dtype).then_some(DType::F32));
            return true;
        }
        if node.op == Op::Cast
            && let Some((x, from)) = types.first()
            && is_half(*from)
            && self.graph.value(node.outputs[0]).dtype == DType::F32
            && let Some(wide) = self.wide.get(&(*x, DType::F32))
        {
            node.inputs[0] = Some(*wide);
            self.nodes.push(node);
            return true;
        }
        let plan: Vec<(DType, DType)> = DType::ALL
            .into_iter()
            .filter_map(|dtype| Some((dtype, computes_in(self.graph, &node, dtype)?)))
            .collect();
        let target = |dtype: DType| plan.iter().find(|(from, _)| *from == dtype).map(|(_, to)| *to);
        let outputs = node.outputs.iter().map(|id| self.graph.value(*id).dtype);
        let concerned: Vec<DType> = types
            .iter()
            .map(|(_, dtype)| *dtype)
            .chain(outputs)
            .filter(|dtype| target(*dtype).is_some())
            .collect();
        // The type of a comparison's or search's result is its own.
        if concerned.is_empty() || types.iter().all(|(_, dtype)| target(*dtype).is_none()) {
            self.nodes.push(node);
            return false;
        }
        self.emit(&mut node, target);
        concerned.into_iter().any(is_half)
    }

    /// Adds a node with its operands and results in other types.
    fn emit(&mut self, node: &mut Node, target: impl Fn(DType) -> Option<DType>) {
        for index in 0..node.inputs.len() {
            let Some(id) = node.inputs[index] else { continue };
            if let Some(to) = target(self.graph.value(id).dtype) {
                node.inputs[index] = Some(self.widened(id, to));
            }
        }
        let mut casts = Vec::new();
        for output in &mut node.outputs {
            let value = self.graph.value(*output);
            let from = value.dtype;
            let Some(to) = target(from) else { continue };
            let (name, shape) = (value.name.clone(), value.shape.clone());
            let wide = self.graph.add_value(format!("{name}/{to}"), to, shape);
            if from.is_float() || stays_in_range(&node.op) {
                self.wide.insert((*output, to), wide);
            }
            casts.push(Node {
                name: format!("{}/{from}", node.name),
                op: Op::Cast,
                inputs: vec![Some(wide)],
                outputs: vec![*output],
            });
            *output = wide;
        }
        self.nodes.push(node.clone());
        self.nodes.extend(casts);
    }

    /// A value in a wider type: what it was computed as, a wider constant, or a cast of it.
    fn widened(&mut self, id: ValueId, to: DType) -> ValueId {
        if let Some(wide) = self.wide.get(&(id, to)) {
            return *wide;
        }
        let value = self.graph.value(id);
        let (name, shape) = (format!("{}/{to}", value.name), value.shape.clone());
        let constant = value.constant.as_ref().and_then(|tensor| widened_tensor(tensor, to));
        let wide = match constant {
            Some(tensor) => self.graph.add_constant(name, tensor),
            None => {
                let wide = self.graph.add_value(name.clone(), to, shape);
                let (inputs, outputs) = (vec![Some(id)], vec![wide]);
                self.nodes.push(Node { name, op: Op::Cast, inputs, outputs });
                wide
            }
        };
        self.wide.insert((id, to), wide);
        wide
    }
}

fn widened_tensor(tensor: &Tensor, to: DType) -> Option<Tensor> {
    match to {
        DType::F32 => Some(Tensor::from_f32(tensor.shape.clone(), &tensor.to_f32())),
        _ => tensor.converted(to),
    }
}
