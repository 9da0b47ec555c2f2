//! The numbers that a layer is computed with, and which of them it can be.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use whit::DType;
pub use whit::kernels::conv_f32::grouped::{GROUP_SIZES, GroupedBits};

use crate::graph::{Graph, Node, Op, ValueId};
use crate::quantize::integer_inputs;
use crate::tensor::Tensor;

/// Inputs per scale, where the user names none: what llama.cpp's 4-bit types have.
pub const DEFAULT_GROUP: usize = 32;

/// How a layer stores its weights and computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Numbers {
    /// f32 throughout.
    Float,
    /// Weights stored as f16, computed on f32.
    F16,
    /// Weights stored as bf16, inputs of layers rounded to bf16, sums in f32.
    Bf16,
    /// Weights stored as integers in groups with f16 scales, computed on f32.
    Grouped {
        /// Of a weight, and what they stand for.
        bits: GroupedBits,
        /// Inputs per scale.
        group: usize,
    },
    /// i16 activations, i8 weights per channel.
    Int16,
    /// i8 activations, i8 weights per channel.
    Int8,
}

impl Numbers {
    /// The type of the activations, when they are integers.
    pub const fn integer(self) -> Option<DType> {
        match self {
            Numbers::Int8 => Some(DType::I8),
            Numbers::Int16 => Some(DType::I16),
            _ => None,
        }
    }

    /// The same with 8 bits in the same groups, for weights in groups that have fewer.
    pub fn widened(self) -> Option<Numbers> {
        match self {
            Numbers::Grouped { bits, group } if bits != GroupedBits::W8 => {
                Some(Numbers::Grouped { bits: GroupedBits::W8, group })
            }
            _ => None,
        }
    }

    /// Bytes that so many weights take, with the scales of their groups.
    pub fn weight_bytes(self, weights: usize) -> f64 {
        let scales = |group: usize| 2.0 / group as f64;
        let each = match self {
            Numbers::Float => 4.0,
            Numbers::F16 | Numbers::Bf16 => 2.0,
            Numbers::Grouped { bits, group } => bits.count() as f64 / 8.0 + scales(group),
            Numbers::Int8 | Numbers::Int16 => 1.0,
        };
        weights as f64 * each
    }

    /// These numbers if a node can be computed with them, else the nearest that lose nothing: a
    /// depthwise convolution has too few weights a channel for groups and keeps f16, as a layer does that
    /// wouldn't gain by bf16; an operator without an integer form stays float. Rows of a table become floats as they are read, so that 8 bits in groups serve integer
    /// layers behind them.
    pub fn fitted(self, graph: &Graph, node: &Node) -> Numbers {
        match self {
            Numbers::Float => Numbers::Float,
            Numbers::Int8 | Numbers::Int16 if table_of(graph, node).is_some() => {
                Numbers::Grouped { bits: GroupedBits::W8, group: DEFAULT_GROUP }
            }
            Numbers::Int16 if matches!(node.op, Op::Attention(_)) => Numbers::Float,
            Numbers::Int8 | Numbers::Int16 => match integer_form(graph, node) {
                Some(_) => self,
                None => Numbers::Float,
            },
            _ if stored(graph, node).is_none() => Numbers::Float,
            Numbers::Grouped { .. } if is_grouped_convolution(node) => Numbers::F16,
            Numbers::Bf16 if !gains_by_bf16(graph, node) => Numbers::F16,
            _ => self,
        }
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Numbers::Float => f.write_str("float"),
            Numbers::F16 => f.write_str("f16"),
            Numbers::Bf16 => f.write_str("bf16"),
            Numbers::Grouped { bits, group } => write!(f, "{}:{group}", bits.name()),
            Numbers::Int16 => f.write_str("int16"),
            Numbers::Int8 => f.write_str("int8"),
        }
    }
}

impl FromStr for Numbers {
    type Err = String;

    fn from_str(text: &str) -> Result<Numbers, String> {
        let (name, group) = match text.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (text, None),
        };
        if let Some(bits) = GroupedBits::ALL.into_iter().find(|bits| bits.name() == name) {
            let group = match group {
                Some(group) => parse_group(group)?,
                None => DEFAULT_GROUP,
            };
            return Ok(Numbers::Grouped { bits, group });
        }
        if group.is_some() {
            return Err("only w8, w6, w5, w4nl and w4 have groups".to_owned());
        }
        match name {
            "float" => Ok(Numbers::Float),
            "f16" => Ok(Numbers::F16),
            "bf16" => Ok(Numbers::Bf16),
            "int16" => Ok(Numbers::Int16),
            "int8" => Ok(Numbers::Int8),
            _ => Err(format!(
                "`{name}` is none of float, f16, bf16, w8, w6, w5, w4nl, w4, int16, int8"
            )),
        }
    }
}

/// Inputs per scale, in words.
///
/// # Errors
/// When no layout has groups of that size.
pub fn parse_group(text: &str) -> Result<usize, String> {
    let group = text.parse().ok().filter(|group| GROUP_SIZES.contains(group));
    group.ok_or_else(|| "a group has 32, 64 or 128 inputs".to_owned())
}

/// The activation operands of a float node that can be integer: all of them f32, not all constant.
pub fn integer_form(graph: &Graph, node: &Node) -> Option<Vec<usize>> {
    let operands = integer_inputs(graph, node)?;
    let f32s = |id| graph.value(id).dtype == DType::F32;
    let all = operands.iter().all(|operand| node.inputs[*operand].is_some_and(f32s));
    // A node on constants alone is folded, not quantized.
    let any =
        operands.iter().any(|o| node.inputs[*o].is_some_and(|id| graph.constant(id).is_none()));
    (all && any && f32s(node.outputs[0])).then_some(operands)
}

/// The constant f32 weights of a layer that packs them: a convolution of at most two spatial axes or a
/// fully connected layer.
pub fn weights_of<'g>(graph: &'g Graph, node: &Node) -> Option<&'g Tensor> {
    let weights = graph.constant(crate::plan::packed_weights(graph, node)?)?;
    (weights.dtype == DType::F32).then_some(weights)
}

/// The constant f32 table that a node picks rows of.
pub fn table_of<'g>(graph: &'g Graph, node: &Node) -> Option<&'g Tensor> {
    let Op::Embedding { .. } = node.op else { return None };
    let table = graph.constant(node.inputs[0]?)?;
    (table.dtype == DType::F32).then_some(table)
}

/// Every table that nodes pick rows of. Layers may have it as their weights, too.
pub(crate) fn tables(graph: &Graph) -> BTreeSet<ValueId> {
    let nodes = graph.nodes.iter().filter(|node| table_of(graph, node).is_some());
    nodes.filter_map(|node| node.inputs[0]).collect()
}

/// The constant that a node can keep in other numbers, and which operand it is: the weights of a layer, or a table.
pub fn stored<'g>(graph: &'g Graph, node: &Node) -> Option<(usize, &'g Tensor)> {
    let weights = weights_of(graph, node).map(|weights| (1, weights));
    weights.or_else(|| table_of(graph, node).map(|table| (0, table)))
}

/// The axis of a layer's weights that its outputs run along.
pub fn output_axis(node: &Node) -> usize {
    match &node.op {
        Op::MatMul(matmul) if !matmul.transpose_b => 1,
        _ => 0,
    }
}

/// Whether a layer gains by bf16: it has pairs of inputs for every place in its window, more products than its inputs are work to round, and
/// isn't computed by Winograd's filtering, which has fewer. Tables need pairs only.
fn gains_by_bf16(graph: &Graph, node: &Node) -> bool {
    const OUTPUTS: usize = 32;
    // Measured: products of 48 × 32 take longer than in f32, 64 × 64 are even, 96 × 64 gain.
    const WEIGHTS: usize = 64 * 64;
    let Some((_, weights)) = stored(graph, node) else { return false };
    let shape = &weights.shape;
    let (outputs, inputs) = match &node.op {
        Op::MatMul(_) => (shape[output_axis(node)], shape[1 - output_axis(node)]),
        _ => (shape[0], shape.last().copied().unwrap_or(1)),
    };
    let is_filtered = match &node.op {
        Op::Conv(conv) => {
            conv.kernel == [3, 3] && [&conv.stride, &conv.dilation].iter().all(|x| **x == [1, 1])
        }
        Op::Embedding { .. } => return inputs.is_multiple_of(2),
        _ => false,
    };
    let is_large = outputs >= OUTPUTS && shape.iter().product::<usize>() >= WEIGHTS;
    inputs.is_multiple_of(2) && is_large && !is_filtered && !is_grouped_convolution(node)
}

fn is_grouped_convolution(node: &Node) -> bool {
    matches!(&node.op, Op::Conv(conv) if conv.groups > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        let all = [
            Numbers::Float,
            Numbers::F16,
            Numbers::Bf16,
            Numbers::Grouped { bits: GroupedBits::W8, group: 64 },
            Numbers::Grouped { bits: GroupedBits::W6, group: 32 },
            Numbers::Grouped { bits: GroupedBits::W5, group: 64 },
            Numbers::Grouped { bits: GroupedBits::W4, group: 128 },
            Numbers::Grouped { bits: GroupedBits::W4Nl, group: 32 },
            Numbers::Grouped { bits: GroupedBits::W4Nl, group: 128 },
            Numbers::Int16,
            Numbers::Int8,
        ];
        for numbers in all {
            assert_eq!(numbers.to_string().parse(), Ok(numbers));
        }
        assert_eq!(
            "w4".parse(),
            Ok(Numbers::Grouped { bits: GroupedBits::W4, group: DEFAULT_GROUP })
        );
        assert_eq!("w4nl:64".parse(), Ok(Numbers::Grouped { bits: GroupedBits::W4Nl, group: 64 }));
        for wrong in ["w4:7", "w4nl:7", "w4nl:", "w4n", "int8:32", "int4", ""] {
            assert!(wrong.parse::<Numbers>().is_err(), "{wrong}");
        }
    }
}
