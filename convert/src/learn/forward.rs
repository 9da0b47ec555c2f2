//! Runs graphs, or pieces of them, on tensors of candle, several samples at once, with gradients.
//!
//! Numbers on a grid are reals: a quantize node rounds them and lets the gradient pass, a dequantize node does
//! nothing. So the graph of a quantization with quantize nodes is what a quantized program computes, but for the
//! order of roundings.

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use whit::DType;

use super::{LearnError, ops};
use crate::graph::{Graph, Node, Op, Value, ValueId};
use crate::quantize::weights::{Scales, Weights};
use crate::tensor;

/// Tensors by the value that they are of.
pub type Values = BTreeMap<ValueId, Tensor>;

/// A graph with fixed sizes, ready to be run.
pub struct Forward<'g> {
    graph: &'g Graph,
    sizes: Vec<i64>,
    /// By value: whether it depends on a sample.
    batched: Vec<bool>,
    /// Why several samples can't be one batch, if they can't.
    apart: Option<String>,
    constants: RefCell<Values>,
    producers: Vec<Option<usize>>,
}

impl<'g> Forward<'g> {
    /// Prepares a graph whose symbols have these values.
    pub fn new(graph: &'g Graph, sizes: Vec<i64>) -> Forward<'g> {
        let mut batched = vec![false; graph.values.len()];
        for id in graph.sources() {
            batched[id.0 as usize] = true;
        }
        for node in &graph.nodes {
            if node.inputs.iter().flatten().any(|id| batched[id.0 as usize]) {
                node.outputs.iter().for_each(|id| batched[id.0 as usize] = true);
            }
        }
        let producers = graph.producers();
        let constants = RefCell::new(Values::new());
        let mut forward = Forward { graph, sizes, batched, apart: None, constants, producers };
        forward.apart = forward.why_apart();
        forward
    }

    /// The graph.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// Whether several samples can be one batch: the first axis of everything that depends on a sample has
    /// size 1, and no node looks along it.
    pub fn stacks(&self) -> bool {
        self.apart.is_none()
    }

    /// Runs what it takes to get from the values given to those wanted, which are added. `batch` samples lie
    /// behind one another along the first axis of every given value.
    ///
    /// # Errors
    /// [`LearnError::Unsupported`] names the first node without a form with gradients.
    pub fn run(
        &self,
        batch: usize,
        values: &mut Values,
        wanted: &[ValueId],
    ) -> Result<(), LearnError> {
        for node in self.path(values, wanted) {
            self.step(batch, node, values)?;
        }
        for id in wanted {
            if !values.contains_key(id) {
                let constant = self.constant(*id)?;
                values.insert(*id, constant);
            }
        }
        Ok(())
    }

    /// The nodes between values, in order.
    pub fn path(&self, given: &Values, wanted: &[ValueId]) -> Vec<usize> {
        let mut needed = vec![false; self.graph.nodes.len()];
        let mut open: Vec<ValueId> = wanted.to_vec();
        while let Some(id) = open.pop() {
            if given.contains_key(&id) {
                continue;
            }
            let Some(node) = self.producers[id.0 as usize] else { continue };
            if !std::mem::replace(&mut needed[node], true) {
                open.extend(self.graph.nodes[node].inputs.iter().flatten());
            }
        }
        (0..needed.len()).filter(|node| needed[*node]).collect()
    }

    /// Runs one node.
    ///
    /// # Errors
    /// As [`Forward::run`].
    pub fn step(&self, batch: usize, node: usize, values: &mut Values) -> Result<(), LearnError> {
        let node = &self.graph.nodes[node];
        let inputs = node.inputs.iter().map(|id| {
            id.map(|id| match values.get(&id) {
                Some(tensor) => Ok(tensor.clone()),
                None => self.constant(id),
            })
            .transpose()
        });
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let outputs = ops::run(&Call { forward: self, node, batch, inputs })?;
        for (id, tensor) in node.outputs.iter().zip(outputs) {
            let shape = self.shape(*id, batch)?;
            if tensor.dims() != shape {
                return Err(LearnError::Model(format!(
                    "`{}` gives {:?} where the model has {shape:?}; this is a defect of the converter, \
                     please report it",
                    node.name,
                    tensor.dims(),
                )));
            }
            values.insert(*id, tensor);
        }
        Ok(())
    }

    /// The sizes of a value for a batch.
    pub(super) fn shape(&self, id: ValueId, batch: usize) -> Result<Vec<usize>, LearnError> {
        let mut shape = self.sample_shape(id).ok_or_else(|| {
            let name = &self.graph.value(id).name;
            LearnError::Model(format!("the size of `{name}` isn't known before a run"))
        })?;
        if batch > 1 && self.batched[id.0 as usize] {
            match shape.first_mut() {
                Some(first) => *first *= batch,
                None => return Err(LearnError::Model("a number has no batch".into())),
            }
        }
        Ok(shape)
    }

    fn sample_shape(&self, id: ValueId) -> Option<Vec<usize>> {
        let shape = &self.graph.value(id).shape;
        shape.iter().map(|dim| usize::try_from(dim.eval(&self.sizes)?).ok()).collect()
    }

    /// A dimension that isn't a size.
    pub(super) fn number(&self, dim: &crate::dim::Dim) -> Option<i64> {
        dim.eval(&self.sizes)
    }

    pub(super) fn is_batched(&self, id: ValueId) -> bool {
        self.batched[id.0 as usize]
    }

    /// A constant as a tensor: reals where it stands for reals, else i64 (bool: u8).
    ///
    /// # Errors
    /// When the value is neither given nor a constant.
    pub fn constant(&self, id: ValueId) -> Result<Tensor, LearnError> {
        if let Some(tensor) = self.constants.borrow().get(&id) {
            return Ok(tensor.clone());
        }
        let value = self.graph.value(id);
        let Some(constant) = &value.constant else {
            let name = &value.name;
            return Err(LearnError::Model(format!("`{name}` is neither given nor a constant")));
        };
        let tensor = to_tensor(value, constant)?;
        self.constants.borrow_mut().insert(id, tensor.clone());
        Ok(tensor)
    }

    /// Why samples can't be one batch, by the first node that is in the way.
    fn why_apart(&self) -> Option<String> {
        let led_by_one = |id: &ValueId| {
            !self.is_batched(*id)
                || self.sample_shape(*id).is_some_and(|shape| shape.first() == Some(&1))
        };
        if let Some(id) = self.graph.inputs.iter().find(|id| !led_by_one(id)) {
            return Some(format!("input `{}` has no batch axis", self.graph.value(*id).name));
        }
        let in_the_way = |node: &&Node| {
            let batched = |operand: usize| {
                node.inputs.get(operand).copied().flatten().is_some_and(|id| self.is_batched(id))
            };
            if !node.outputs.iter().any(|id| self.is_batched(*id)) {
                return false;
            }
            let rank = |operand: usize| {
                node.inputs[operand].map_or(0, |id| self.graph.value(id).shape.len())
            };
            let apart = match &node.op {
                Op::Transpose { perm } => perm.first() != Some(&0),
                Op::Softmax { axis, .. }
                | Op::Concat { axis }
                | Op::ArgReduce { axis, .. }
                | Op::Cumulative { axis, .. }
                | Op::Normalize { axis, .. } => *axis == 0,
                Op::Interpolate { axis } => *axis == 0 || batched(1) || batched(2),
                Op::Gather { axis } => {
                    (batched(0) && (*axis == 0 || batched(1))) || (!batched(0) && *axis != 0)
                }
                Op::Slice { starts, .. } => !starts.first().is_some_and(|start| start.is(0)),
                Op::Reduce { axes, .. } => axes.contains(&0),
                Op::Conv(_) => batched(1),
                Op::MatMul(matmul) => {
                    (batched(0) && rank(0) == 2 && (matmul.transpose_a || batched(1)))
                        || (batched(1) && rank(1) == 2)
                }
                _ => !ops::keeps_samples_apart(&node.op),
            };
            apart || !node.inputs.iter().flatten().chain(&node.outputs).all(led_by_one)
        };
        self.graph.nodes.iter().find(in_the_way).map(|node| {
            format!(
                "`{}` mixes the samples of a batch, so they are learned from one by one",
                node.name
            )
        })
    }
}

/// A node with its operands.
pub(super) struct Call<'c> {
    pub(super) forward: &'c Forward<'c>,
    pub(super) node: &'c Node,
    pub(super) batch: usize,
    pub(super) inputs: Vec<Option<Tensor>>,
}

impl Call<'_> {
    /// An operand that has to be there.
    pub(super) fn operand(&self, operand: usize) -> Result<&Tensor, LearnError> {
        self.optional(operand)
            .ok_or_else(|| self.unsupported(&format!("operand {operand} is absent")))
    }

    pub(super) fn optional(&self, operand: usize) -> Option<&Tensor> {
        self.inputs.get(operand)?.as_ref()
    }

    /// The shape of the first result.
    pub(super) fn out(&self) -> Result<Vec<usize>, LearnError> {
        self.forward.shape(self.node.outputs[0], self.batch)
    }

    /// An operand with axes of size 1 put in so that it broadcasts to a result of this rank, the batch in front.
    pub(super) fn aligned(&self, operand: usize, rank: usize) -> Result<Tensor, LearnError> {
        let x = self.operand(operand)?;
        let batched = self.node.inputs[operand].is_some_and(|id| self.forward.is_batched(id));
        if x.rank() >= rank {
            return Ok(x.clone());
        }
        let mut shape = x.dims().to_vec();
        let at = usize::from(batched && self.batch > 1);
        shape.splice(at..at, std::iter::repeat_n(1, rank - x.rank()));
        Ok(x.reshape(shape)?)
    }

    pub(super) fn unsupported(&self, why: &str) -> LearnError {
        LearnError::Unsupported { node: self.node.name.clone(), why: why.to_owned() }
    }
}

/// Elements as a tensor.
fn to_tensor(value: &Value, constant: &tensor::Tensor) -> Result<Tensor, LearnError> {
    let shape = constant.shape.clone();
    let reals = if let Some(groups) = &value.groups {
        let scales = Scales::Groups(groups.clone());
        Some(Weights { values: constant.clone(), scales }.to_f32())
    } else if constant.dtype.is_float() {
        Some(constant.to_f32())
    } else {
        value.quant.as_ref().map(|quant| {
            let (channels, inner) = match quant.axis {
                Some(axis) => {
                    (shape[axis].max(1), shape[axis + 1..].iter().product::<usize>().max(1))
                }
                None => (1, 1),
            };
            let real = |(at, q): (usize, i64)| {
                let channel = at / inner % channels;
                (q - i64::from(quant.zero_point[channel])) as f32 * quant.scale[channel]
            };
            constant.to_i64().into_iter().enumerate().map(real).collect()
        })
    };
    Ok(match (reals, constant.dtype) {
        (Some(reals), _) => Tensor::from_vec(reals, shape, &Device::Cpu)?,
        (None, DType::Bool) => {
            let values: Vec<u8> = constant.to_i64().iter().map(|v| u8::from(*v != 0)).collect();
            Tensor::from_vec(values, shape, &Device::Cpu)?
        }
        (None, _) => Tensor::from_vec(constant.to_i64(), shape, &Device::Cpu)?,
    })
}
