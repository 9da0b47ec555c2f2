//! Puts quantize and dequantize nodes into a float graph where a quantization says.

use std::collections::HashMap;
use std::sync::Arc;

use whit::DType;

use crate::graph::{Graph, Groups, Node, Op, ValueId};
use crate::quantize::asymmetric;
use crate::quantize::numbers::{Numbers, integer_form, stored};
use crate::quantize::quantization::Quantization;
use crate::quantize::symmetric;
use crate::quantize::weights::{Scales, Weights};
use crate::tensor::Tensor;

/// The real behind a quantize and a dequantize node, by what was quantized and the integers' type.
type Quantized = HashMap<(ValueId, DType), ValueId>;

/// The graph of a quantization, with integers in it.
pub(super) fn insert(quantization: &Quantization) -> Graph {
    let mut graph = quantization.graph.clone();
    let nodes = std::mem::take(&mut graph.nodes);
    let mut into = Inserted {
        graph,
        nodes: Vec::with_capacity(nodes.len() * 2),
        from: quantization,
        constants: HashMap::new(),
    };
    let mut quantized = Quantized::new();
    for source in into.graph.sources().collect::<Vec<_>>() {
        for dtype in [DType::I8, DType::I16] {
            into.quantize(&mut quantized, source, source, dtype);
        }
    }
    // The real that others than integer nodes read in place of a value.
    let mut real: HashMap<ValueId, ValueId> =
        quantized.iter().map(|((id, _), r)| (*id, *r)).collect();
    for source in into.graph.sources().collect::<Vec<_>>() {
        if let Some(integer) = quantized.get(&(source, DType::I16)) {
            real.insert(source, *integer);
        }
    }
    for (at, mut node) in nodes.into_iter().enumerate() {
        let numbers = quantization.numbers[at];
        let operands = numbers.integer().and_then(|_| integer_form(&into.graph, &node));
        let operands = operands.unwrap_or_default();
        into.constants(at, &mut node, numbers, &operands);
        for (operand, input) in node.inputs.iter_mut().enumerate() {
            let Some(id) = *input else { continue };
            let own = numbers.integer().filter(|_| operands.contains(&operand));
            let integer = own.and_then(|dtype| quantized.get(&(id, dtype)));
            *input = Some(*integer.or_else(|| real.get(&id)).unwrap_or(&id));
        }
        let made = node.outputs.clone();
        into.nodes.push(node);
        for value in made {
            // First what the node makes, then what readers of another type make of that.
            let mut from = value;
            let own = numbers.integer();
            if let Some(dtype) = own
                && let Some(id) = into.quantize(&mut quantized, value, value, dtype)
            {
                real.insert(value, id);
                from = id;
            }
            for dtype in [DType::I8, DType::I16].into_iter().filter(|dtype| Some(*dtype) != own) {
                into.quantize(&mut quantized, value, from, dtype);
            }
        }
    }
    let Inserted { mut graph, nodes, .. } = into;
    graph.nodes = nodes;
    let nexts = graph.states.iter_mut().map(|state| &mut state.next);
    for result in graph.outputs.iter_mut().chain(nexts) {
        if let Some(real) = real.get(result) {
            *result = *real;
        }
    }
    graph
}

struct Inserted<'q> {
    graph: Graph,
    nodes: Vec<Node>,
    from: &'q Quantization,
    /// The stored forms of weights, by what they were.
    constants: HashMap<ValueId, Vec<ValueId>>,
}

impl Inserted<'_> {
    /// Quantizes `from`, which stands for a value, and back, if the value has a grid of this type: the real
    /// behind.
    fn quantize(
        &mut self,
        quantized: &mut Quantized,
        value: ValueId,
        from: ValueId,
        dtype: DType,
    ) -> Option<ValueId> {
        let quant = self.from.activations.get(&(value, dtype))?.clone();
        let (name, shape) =
            (self.graph.value(value).name.clone(), self.graph.value(value).shape.clone());
        let integer = self.graph.add_value(format!("{name}/q"), dtype, shape);
        self.graph.value_mut(integer).quant = Some(quant);
        self.nodes.push(Node {
            name: format!("{name}/quantize"),
            op: Op::Quantize,
            inputs: vec![Some(from)],
            outputs: vec![integer],
        });
        let real = self.dequantize(&name, integer);
        quantized.insert((value, dtype), real);
        Some(real)
    }

    fn dequantize(&mut self, name: &str, integer: ValueId) -> ValueId {
        let shape = self.graph.value(integer).shape.clone();
        let real = self.graph.add_value(format!("{name}/dq"), DType::F32, shape);
        self.nodes.push(Node {
            name: format!("{name}/dequantize"),
            op: Op::Dequantize,
            inputs: vec![Some(integer)],
            outputs: vec![real],
        });
        real
    }

    /// Puts the stored form of a node's constants in place: weights as the quantization has them, other
    /// constants that an integer node reads with one scale.
    fn constants(&mut self, at: usize, node: &mut Node, numbers: Numbers, operands: &[usize]) {
        if let Some(weights) = self.from.weights.get(&at) {
            self.weights(node, weights);
            return;
        }
        if let Numbers::F16 | Numbers::Bf16 = numbers {
            self.halves(node, numbers);
            return;
        }
        let Some(dtype) = numbers.integer() else { return };
        for operand in operands {
            let Some(id) = node.inputs[*operand] else { continue };
            let Some(constant) = self.graph.constant(id).cloned() else { continue };
            node.inputs[*operand] = Some(self.constant(id, &constant, dtype));
        }
    }

    fn weights(&mut self, node: &mut Node, weights: &Weights) {
        let Some((operand, _)) = stored(&self.graph, node) else { return };
        let Some(id) = node.inputs[operand] else { return };
        node.inputs[operand] = Some(match &weights.scales {
            Scales::PerChannel(quant) => {
                let name = self.graph.value(id).name.clone();
                let integer = self.graph.add_constant(format!("{name}/q"), weights.values.clone());
                self.graph.value_mut(integer).quant = Some(quant.clone());
                self.dequantize(&name, integer)
            }
            Scales::Groups(groups) => self.once(id, "q", &weights.values, Some(groups)),
        });
    }

    /// Weights as f16 or bf16, where none is beyond what these hold.
    fn halves(&mut self, node: &mut Node, numbers: Numbers) {
        let Some((operand, weights)) = stored(&self.graph, node) else { return };
        let (halves, name) = match numbers {
            Numbers::Bf16 => (weights.to_bf16(), "bf16"),
            _ => (weights.to_halves(), "f16"),
        };
        let (Some(halves), Some(id)) = (halves, node.inputs[operand]) else { return };
        node.inputs[operand] = Some(self.once(id, name, &halves, None));
    }

    /// A stored form of a constant, the same one for all that share both.
    fn once(&mut self, id: ValueId, what: &str, to: &Tensor, groups: Option<&Groups>) -> ValueId {
        let is_it = |at: &ValueId| {
            let value = self.graph.value(*at);
            value.constant.as_deref() == Some(to) && value.groups.as_ref() == groups
        };
        let there = self.constants.get(&id).and_then(|all| all.iter().copied().find(is_it));
        there.unwrap_or_else(|| {
            let name = format!("{}/{what}", self.graph.value(id).name);
            let stored = self.graph.add_constant(name, to.clone());
            self.graph.value_mut(stored).groups = groups.cloned();
            self.constants.entry(id).or_default().push(stored);
            stored
        })
    }

    /// A constant operand other than weights, per tensor.
    fn constant(&mut self, id: ValueId, constant: &Arc<Tensor>, dtype: DType) -> ValueId {
        let values = constant.to_f32();
        let low = values.iter().copied().fold(0.0, f32::min);
        let high = values.iter().copied().fold(0.0, f32::max);
        let quant = match dtype {
            DType::I16 => symmetric(low, high),
            _ => asymmetric(low, high),
        };
        let (scale, zero_point) = (f64::from(quant.scale[0]), f64::from(quant.zero_point[0]));
        let [least, most] = super::limits(dtype).map(f64::from);
        let integer =
            |v: &f32| ((f64::from(*v) / scale).round_ties_even() + zero_point).clamp(least, most);
        let shape = constant.shape.clone();
        let tensor = match dtype {
            DType::I16 => {
                let values: Vec<i16> = values.iter().map(|v| integer(v) as i16).collect();
                Tensor::from_i16(shape, &values)
            }
            _ => {
                let values: Vec<i8> = values.iter().map(|v| integer(v) as i8).collect();
                Tensor::from_i8(shape, &values)
            }
        };
        let name = self.graph.value(id).name.clone();
        let stored = self.graph.add_constant(format!("{name}/q"), tensor);
        self.graph.value_mut(stored).quant = Some(quant);
        self.dequantize(&name, stored)
    }
}
