//! What passes share: an editor that keeps producers and use counts current, and constant readers.

use whit::DType;

use crate::dim::Dim;
use crate::graph::{Graph, Node, Op, ValueId};
use crate::tensor::Tensor;

/// A sweep over the nodes that may replace, remove and insert them; indices stay valid until
/// [`Editor::finish`].
pub(super) struct Editor<'g> {
    pub(super) graph: &'g mut Graph,
    producer: Vec<Option<usize>>,
    uses: Vec<usize>,
    /// Nodes that read a value, or did; those inserted are counted behind the graph's.
    readers: Vec<Vec<usize>>,
    inserted: Vec<(usize, Node)>,
    changed: bool,
}

impl<'g> Editor<'g> {
    pub(super) fn new(graph: &'g mut Graph) -> Editor<'g> {
        let producer = graph.producers();
        let readers = graph.consumers();
        let mut uses: Vec<usize> = readers.iter().map(Vec::len).collect();
        for result in graph.results() {
            uses[result.0 as usize] += 1;
        }
        Editor { graph, producer, uses, readers, inserted: Vec::new(), changed: false }
    }

    pub(super) fn len(&self) -> usize {
        self.graph.nodes.len()
    }

    pub(super) fn node(&self, index: usize) -> &Node {
        &self.graph.nodes[index]
    }

    /// False for nodes that were removed earlier in this sweep.
    pub(super) fn is_alive(&self, index: usize) -> bool {
        !self.graph.nodes[index].outputs.is_empty()
    }

    /// The node that makes a value; `None` for inputs, constants and nodes inserted in this sweep.
    pub(super) fn producer(&self, id: ValueId) -> Option<usize> {
        self.producer.get(id.0 as usize).copied().flatten()
    }

    /// The node that makes an input of a node.
    pub(super) fn source(&self, index: usize, operand: usize) -> Option<usize> {
        self.producer(input(self.node(index), operand)?)
    }

    /// How often a value is read, outputs and states included.
    pub(super) fn uses(&self, id: ValueId) -> usize {
        self.uses.get(id.0 as usize).copied().unwrap_or(0)
    }

    /// The node that makes an input of a node, when nobody else reads it.
    pub(super) fn sole_source(&self, index: usize, operand: usize) -> Option<usize> {
        let id = input(self.node(index), operand)?;
        if self.uses(id) == 1 { self.producer(id) } else { None }
    }

    /// Like [`Editor::sole_source`], seen through nodes that only move data, which must have no other
    /// readers either. `passes` looks at each of them.
    pub(super) fn sole_origin(
        &self,
        index: usize,
        operand: usize,
        passes: impl Fn(&Graph, &Node) -> bool,
    ) -> Option<usize> {
        let mut at = self.sole_source(index, operand)?;
        while matches!(self.node(at).op, Op::Reshape | Op::Transpose { .. } | Op::Slice { .. }) {
            if !passes(self.graph, self.node(at)) {
                return None;
            }
            at = self.sole_source(at, 0)?;
        }
        Some(at)
    }

    /// Puts another node in the place of one.
    pub(super) fn replace(&mut self, index: usize, node: Node) {
        self.uncount(index);
        self.count(index, &node);
        for output in &node.outputs {
            self.grow(*output);
            self.producer[output.0 as usize] = Some(index);
        }
        self.graph.nodes[index] = node;
        self.changed = true;
    }

    /// Takes a node out; its results must not be read any more.
    pub(super) fn remove(&mut self, index: usize) {
        self.uncount(index);
        self.graph.nodes[index].inputs.clear();
        self.graph.nodes[index].outputs.clear();
        self.changed = true;
    }

    /// Puts a node before another; it can be found through [`Editor::producer`] after this sweep.
    pub(super) fn insert_before(&mut self, index: usize, node: Node) {
        self.count(self.graph.nodes.len() + self.inserted.len(), &node);
        self.inserted.push((index, node));
        self.changed = true;
    }

    /// Makes the readers of a node's result read `to` instead and takes the node out. False, and
    /// nothing done, when that would lose the name of a graph output.
    pub(super) fn forward(&mut self, index: usize, to: ValueId) -> bool {
        let Some(from) = output(self.node(index)) else { return false };
        if !forward_name(self.graph, from, to) {
            return false;
        }
        self.grow(to);
        let readers = std::mem::take(&mut self.readers[from.0 as usize]);
        let len = self.graph.nodes.len();
        for reader in &readers {
            let node = match reader.checked_sub(len) {
                Some(inserted) => &mut self.inserted[inserted].1,
                None => &mut self.graph.nodes[*reader],
            };
            for id in node.inputs.iter_mut().flatten().filter(|id| **id == from) {
                *id = to;
            }
        }
        self.graph.replace_results(from, to);
        self.readers[to.0 as usize].extend(readers);
        self.uses[to.0 as usize] += std::mem::take(&mut self.uses[from.0 as usize]);
        self.remove(index);
        true
    }

    /// Ends the sweep; true when anything changed.
    pub(super) fn finish(self) -> bool {
        if !self.inserted.is_empty() {
            let mut inserted = self.inserted;
            inserted.sort_by_key(|(at, _)| *at);
            let mut inserted = inserted.into_iter().peekable();
            let old = std::mem::take(&mut self.graph.nodes);
            for (index, node) in old.into_iter().enumerate() {
                while let Some((_, node)) = inserted.next_if(|(at, _)| *at == index) {
                    self.graph.nodes.push(node);
                }
                self.graph.nodes.push(node);
            }
        }
        if self.changed {
            self.graph.nodes.retain(|node| !node.outputs.is_empty());
        }
        self.changed
    }

    fn count(&mut self, index: usize, node: &Node) {
        for id in node.inputs.iter().flatten() {
            self.grow(*id);
            self.readers[id.0 as usize].push(index);
            self.uses[id.0 as usize] += 1;
        }
    }

    fn uncount(&mut self, index: usize) {
        for id in self.graph.nodes[index].inputs.iter().flatten() {
            let uses = &mut self.uses[id.0 as usize];
            *uses = uses.saturating_sub(1);
        }
    }

    fn grow(&mut self, id: ValueId) {
        let len = id.0 as usize + 1;
        if self.uses.len() < len {
            self.uses.resize(len, 0);
            self.producer.resize(len, None);
            self.readers.resize(len, Vec::new());
        }
    }
}

/// Prepares `to` to stand in for `from`: hands over the name of a graph output. False when `to` is
/// an input, a state, a constant or another output, whose own name the caller knows.
pub(super) fn forward_name(graph: &mut Graph, from: ValueId, to: ValueId) -> bool {
    if graph.outputs.contains(&from) {
        if graph.outputs.contains(&to) || graph.is_source(to) || graph.constant(to).is_some() {
            return false;
        }
        graph.value_mut(to).name = graph.value(from).name.clone();
    }
    true
}

/// An input of a node, when it is there.
pub(super) fn input(node: &Node, operand: usize) -> Option<ValueId> {
    node.inputs.get(operand).copied().flatten()
}

/// The result of a node that has one.
pub(super) fn output(node: &Node) -> Option<ValueId> {
    match node.outputs[..] {
        [y] => Some(y),
        _ => None,
    }
}

/// Input and result of a node with one of each that matter.
pub(super) fn ends(node: &Node) -> Option<(ValueId, ValueId)> {
    Some((input(node, 0)?, output(node)?))
}

/// The f32 constant behind a value.
pub(super) fn f32_constant(graph: &Graph, id: ValueId) -> Option<&Tensor> {
    graph.constant(id).map(AsRef::as_ref).filter(|tensor| tensor.dtype == DType::F32)
}

/// The value of an f32 constant of one element.
pub(super) fn f32_scalar(graph: &Graph, id: ValueId) -> Option<f32> {
    let tensor = f32_constant(graph, id)?;
    if tensor.len() == 1 { tensor.to_f32().first().copied() } else { None }
}

/// An f32 constant that varies along the last axis only, as one number per channel. A single
/// number counts as the same for every channel.
pub(super) fn channel_vector(graph: &Graph, id: ValueId, channels: usize) -> Option<Vec<f64>> {
    let tensor = f32_constant(graph, id)?;
    let values: Vec<f64> = tensor.to_f32().into_iter().map(f64::from).collect();
    match values.as_slice() {
        [one] => Some(vec![*one; channels]),
        _ if tensor.shape.last() == Some(&channels) && tensor.len() == channels => Some(values),
        _ => None,
    }
}

/// Rounds to an f32 constant, once.
pub(super) fn rounded(shape: &[usize], values: &[f64]) -> Tensor {
    let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
    Tensor::from_f32(shape, &values)
}

/// True when both values have the same type, shape and quantization.
pub(super) fn same_kind(graph: &Graph, a: ValueId, b: ValueId) -> bool {
    let (a, b) = (graph.value(a), graph.value(b));
    a.dtype == b.dtype && a.shape == b.shape && a.quant == b.quant
}

/// Product of dimensions.
pub(super) fn product(dims: &[Dim]) -> Dim {
    dims.iter().fold(Dim::from(1i64), |all, dim| all.mul(dim))
}

/// A permutation and its inverse cancel.
pub(super) fn inverse(perm: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; perm.len()];
    for (i, p) in perm.iter().enumerate() {
        inverse[*p] = i;
    }
    inverse
}

/// True for 0, 1, 2, ….
pub(super) fn is_identity(perm: &[usize]) -> bool {
    perm.iter().enumerate().all(|(i, p)| i == *p)
}

/// Elements in another order of axes: entry `i` of the result is entry `perm[i]`.
pub(super) fn permuted<T: Clone>(items: &[T], perm: &[usize]) -> Vec<T> {
    perm.iter().map(|p| items[*p].clone()).collect()
}

/// True for nodes that map their first operand element by element and know nothing of its shape.
pub(super) fn is_pointwise(graph: &Graph, node: &Node) -> bool {
    let per_tensor = |id: Option<ValueId>| {
        id.is_some_and(|id| graph.value(id).quant.as_ref().is_none_or(|q| q.axis.is_none()))
    };
    match node.op {
        Op::Unary(_) | Op::Lut { .. } | Op::Cast => true,
        Op::Binary(_) => input(node, 1)
            .and_then(|id| graph.constant(id))
            .is_some_and(|number| number.shape.is_empty()),
        Op::Quantize | Op::Dequantize => per_tensor(input(node, 0)) && per_tensor(output(node)),
        _ => false,
    }
}
