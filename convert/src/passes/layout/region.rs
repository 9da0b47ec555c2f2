//! A connected set of nodes that could all work on permuted axes, what that costs, and doing it.

use std::collections::{BTreeMap, BTreeSet};

use whit::DType;

use crate::dim::Dim;
use crate::graph::{Graph, Node, Op, Quant, ValueId};
use crate::tensor::Tensor;

use super::super::edit::{input, inverse, is_identity, output, permuted};
use super::remap::{Operand, Remapped, remap};
use super::{compose, moves_nothing};

/// Who makes and who reads each value.
pub(super) struct Links {
    producers: Vec<Option<usize>>,
    consumers: Vec<Vec<usize>>,
    outputs: BTreeSet<ValueId>,
}

impl Links {
    pub(super) fn new(graph: &Graph) -> Links {
        Links {
            producers: graph.producers(),
            consumers: graph.consumers(),
            outputs: graph.results().collect(),
        }
    }

    pub(super) fn producer(&self, id: ValueId) -> Option<usize> {
        self.producers[id.0 as usize]
    }

    pub(super) fn consumers(&self, id: ValueId) -> &[usize] {
        &self.consumers[id.0 as usize]
    }

    pub(super) fn is_output(&self, id: ValueId) -> bool {
        self.outputs.contains(&id)
    }
}

/// How far a region may grow.
#[derive(Clone, Copy, Debug)]
pub(super) enum Extent {
    /// To this node only.
    Node(usize),
    /// To every node connected through values of the region.
    Connected,
}

/// Nodes that take part, and how each value between them is stored.
#[derive(Default)]
pub(super) struct Region {
    nodes: BTreeMap<usize, Remapped>,
    stored: BTreeMap<ValueId, Vec<usize>>,
}

/// Nodes in and around regions.
#[derive(Default)]
pub(super) struct Meets {
    /// Those that work on permuted axes, and transposes that change.
    changed: BTreeSet<usize>,
    /// Others, which read or make what they did.
    beside: BTreeSet<usize>,
}

impl Meets {
    pub(super) fn contains(&self, node: &usize) -> bool {
        self.changed.contains(node) || self.beside.contains(node)
    }

    /// What one of them changes is part of the other.
    pub(super) fn disturbs(&self, other: &Meets) -> bool {
        self.changed.iter().any(|node| other.contains(node))
            || self.beside.iter().any(|node| other.changed.contains(node))
    }

    pub(super) fn join(&mut self, other: Meets) {
        self.changed.extend(other.changed);
        self.beside.extend(other.beside);
    }
}

/// Bytes transposed in and around a region.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    /// As it is.
    pub(super) before: f64,
    /// When the region is applied.
    pub(super) after: f64,
    /// The part of `after` that is new above the region.
    pub(super) above: f64,
}

impl Region {
    /// Grows a region from a value stored by `perm`. `None` when two nodes would need one value
    /// in different layouts.
    pub(super) fn grow(
        graph: &Graph,
        links: &Links,
        start: ValueId,
        perm: Vec<usize>,
        extent: Extent,
    ) -> Option<Region> {
        let (region, fits) = Region::visit(graph, links, start, perm, extent);
        fits.then_some(region)
    }

    /// The same, and what was seen until two nodes needed one value in different layouts (false).
    pub(super) fn visit(
        graph: &Graph,
        links: &Links,
        start: ValueId,
        perm: Vec<usize>,
        extent: Extent,
    ) -> (Region, bool) {
        let mut region = Region::default();
        let mut queue = vec![(start, perm)];
        while let Some((id, perm)) = queue.pop() {
            match region.stored.get(&id) {
                Some(known) if *known == perm => continue,
                Some(_) => return (region, false),
                None => region.stored.insert(id, perm.clone()),
            };
            let producer = links.producer(id).map(|at| (at, true));
            let readers = links.consumers(id).iter().map(|at| (*at, false));
            for (at, backward) in producer.into_iter().chain(readers) {
                let allowed = match extent {
                    Extent::Node(only) => at == only,
                    Extent::Connected => true,
                };
                if !allowed || region.nodes.contains_key(&at) {
                    continue;
                }
                let node = &graph.nodes[at];
                let Some(remapped) = remap(graph, node, &perm) else { continue };
                if backward && !remapped.reversible {
                    continue;
                }
                queue.extend(output(node).map(|y| (y, remapped.perm.clone())));
                for (operand, id) in remapped.operands.iter().zip(&node.inputs) {
                    if *operand == Operand::Stored {
                        queue.extend(id.map(|id| (id, perm.clone())));
                    }
                }
                region.nodes.insert(at, remapped);
            }
        }
        (region, true)
    }

    /// Nodes that take part or border on the region.
    pub(super) fn meets(&self, graph: &Graph, links: &Links) -> Meets {
        let mut meets = Meets::default();
        meets.changed.extend(self.nodes.keys());
        for id in self.stored.keys() {
            for at in links.producer(*id).iter().chain(links.consumers(*id)) {
                match graph.nodes[*at].op {
                    Op::Transpose { .. } => meets.changed.insert(*at),
                    _ if self.nodes.contains_key(at) => continue,
                    _ => meets.beside.insert(*at),
                };
            }
        }
        meets
    }

    /// Both regions as one; they don't meet.
    pub(super) fn join(&mut self, other: Region) {
        self.nodes.extend(other.nodes);
        self.stored.extend(other.stored);
    }

    /// Any value of the region would have grown the same one.
    pub(super) fn is_reversible(&self) -> bool {
        self.nodes.values().all(|remapped| remapped.reversible)
    }

    pub(super) fn visited(&self) -> usize {
        self.nodes.len() + self.stored.len()
    }

    /// How each value of the region would be stored.
    pub(super) fn into_stored(self) -> BTreeMap<ValueId, Vec<usize>> {
        self.stored
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The value is made by a node of the region.
    fn makes(&self, links: &Links, id: ValueId) -> bool {
        links.producer(id).is_some_and(|at| self.nodes.contains_key(&at))
    }

    /// Someone outside reads the value as the model means it.
    fn is_read_outside(&self, graph: &Graph, links: &Links, id: ValueId) -> bool {
        links.is_output(id)
            || links
                .consumers(id)
                .iter()
                .any(|at| !self.nodes.contains_key(at) && self.merged(graph, links, *at).is_none())
    }

    /// For a transpose that reads a result of the region: the value it reads, and the
    /// permutation from that value as stored to the transpose's result.
    fn merged(&self, graph: &Graph, links: &Links, at: usize) -> Option<(ValueId, Vec<usize>)> {
        let node = &graph.nodes[at];
        let Op::Transpose { perm } = &node.op else { return None };
        let x = input(node, 0)?;
        let stored = self.stored.get(&x).filter(|_| self.makes(links, x))?;
        Some((x, compose(stored, perm)))
    }

    /// For a value of the region that is made outside of it: where its stored form comes from, and
    /// by which permutation.
    fn origin(&self, graph: &Graph, links: &Links, id: ValueId) -> (ValueId, Vec<usize>) {
        let to_stored = inverse(&self.stored[&id]);
        let maker = links.producer(id).map(|at| (at, &graph.nodes[at]));
        if let Some((at, Node { op: Op::Transpose { perm }, inputs, .. })) = maker
            && let Some(Some(x)) = inputs.first()
        {
            return match self.merged(graph, links, at) {
                Some((x, perm)) => (x, compose(&perm, &to_stored)),
                None => (*x, compose(perm, &to_stored)),
            };
        }
        (id, to_stored)
    }

    /// What it costs to leave the region as it is, and to apply it.
    pub(super) fn cost(&self, graph: &Graph, links: &Links) -> Cost {
        let mut cost = Cost::default();
        let mut before: BTreeMap<usize, f64> = BTreeMap::new();
        for (id, stored) in &self.stored {
            let read_outside = self.is_read_outside(graph, links, *id);
            if self.makes(links, *id) {
                if read_outside {
                    cost.after += transpose_bytes(graph, *id, stored);
                }
                for at in links.consumers(*id) {
                    let Op::Transpose { perm } = &graph.nodes[*at].op else { continue };
                    let Some(y) = output(&graph.nodes[*at]) else { continue };
                    let known = before.insert(*at, transpose_bytes(graph, y, perm)).is_some();
                    if !known
                        && !self.stored.contains_key(&y)
                        && let Some((_, merged)) = self.merged(graph, links, *at)
                    {
                        cost.after += transpose_bytes(graph, y, &merged);
                    }
                }
            } else if graph.constant(*id).is_none() {
                if let Some(at) = links.producer(*id)
                    && let Op::Transpose { perm } = &graph.nodes[at].op
                {
                    let bytes = transpose_bytes(graph, *id, perm);
                    before.insert(at, bytes);
                    cost.after += if read_outside { bytes } else { 0.0 };
                }
                let (_, perm) = self.origin(graph, links, *id);
                let value = graph.value(*id);
                let shape = permuted(&value.shape, &inverse(stored));
                cost.above += bytes_moved(graph, &shape, value.dtype, &perm);
            }
        }
        cost.before = before.values().sum();
        cost.after += cost.above;
        cost
    }

    /// Rewrites the graph: the region's nodes work on stored values, and transposes at its borders
    /// serve everyone else. Transposes that nobody reads any more are left to dead code removal.
    pub(super) fn apply(self, graph: &mut Graph, links: &Links) {
        let old = graph.nodes.clone();
        let reads: BTreeMap<ValueId, bool> =
            self.stored.keys().map(|id| (*id, self.is_read_outside(graph, links, *id))).collect();
        let origins: BTreeMap<ValueId, (ValueId, Vec<usize>)> = self
            .stored
            .keys()
            .filter(|id| !self.makes(links, **id))
            .map(|id| (*id, self.origin(graph, links, *id)))
            .collect();
        let merged: Vec<Option<(ValueId, Vec<usize>)>> =
            (0..old.len()).map(|at| self.merged(graph, links, at)).collect();
        let mut to: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        let mut nodes: Vec<Node> = Vec::with_capacity(old.len());
        // Values that exist from the start.
        for (id, (_, perm)) in &origins {
            if let Some(tensor) = graph.constant(*id).cloned() {
                to.insert(*id, add_permuted(graph, *id, &self.stored[id], &tensor));
            } else if links.producer(*id).is_none() {
                let y = add_stored(graph, *id, &self.stored[id]);
                nodes.push(transpose(graph, *id, y, perm.clone()));
                to.insert(*id, y);
            }
        }
        for (at, mut node) in old.into_iter().enumerate() {
            if let (Some(remapped), Some(y)) = (self.nodes.get(&at), output(&node)) {
                for (operand, id) in remapped.operands.iter().zip(node.inputs.iter_mut()) {
                    let Some(id) = id else { continue };
                    match operand {
                        Operand::Stored => *id = to.get(id).copied().unwrap_or(*id),
                        Operand::Constant => *id = constant_operand(graph, *id, &remapped.perm),
                        Operand::Unchanged => {}
                    }
                }
                let stored = add_stored(graph, y, &remapped.perm);
                to.insert(y, stored);
                node.op = remapped.op.clone();
                node.outputs = vec![stored];
                nodes.push(node);
                if reads[&y] {
                    nodes.push(transpose(graph, stored, y, remapped.perm.clone()));
                }
                continue;
            }
            if let Some((x, perm)) = &merged[at] {
                node.inputs = vec![Some(to.get(x).copied().unwrap_or(*x))];
                node.op = Op::Transpose { perm: perm.clone() };
            }
            let made = node.outputs.clone();
            nodes.push(node);
            for y in made {
                let Some((from, perm)) = origins.get(&y) else { continue };
                // A source that the region stores differently is read as stored: `origin` composed so.
                let from = match &merged[at] {
                    Some((x, _)) => to.get(x).copied().unwrap_or(*x),
                    None => *from,
                };
                let stored = if is_identity(perm) {
                    from
                } else {
                    let stored = add_stored(graph, y, &self.stored[&y]);
                    nodes.push(transpose(graph, from, stored, perm.clone()));
                    stored
                };
                to.insert(y, stored);
            }
        }
        graph.nodes = nodes;
    }
}

/// Bytes that a transpose to this value moves.
fn transpose_bytes(graph: &Graph, y: ValueId, perm: &[usize]) -> f64 {
    let value = graph.value(y);
    bytes_moved(graph, &value.shape, value.dtype, perm)
}

/// Bytes that a transpose to this shape moves: none when it only moves axes of size 1. Symbolic
/// dimensions count as their largest value.
fn bytes_moved(graph: &Graph, shape: &[Dim], dtype: DType, perm: &[usize]) -> f64 {
    if moves_nothing(&permuted(shape, &inverse(perm)), perm) {
        return 0.0;
    }
    let largest: Vec<i64> = graph.symbols.iter().map(|symbol| symbol.max).collect();
    let size = |dim: &Dim| dim.eval(&largest).unwrap_or(i64::MAX).max(1) as f64;
    shape.iter().map(size).product::<f64>() * dtype.size() as f64
}

fn transpose(graph: &Graph, x: ValueId, y: ValueId, perm: Vec<usize>) -> Node {
    let name = format!("{}.transpose", graph.value(y).name);
    Node { name, op: Op::Transpose { perm }, inputs: vec![Some(x)], outputs: vec![y] }
}

fn stored_quant(quant: &Option<Quant>, perm: &[usize]) -> Option<Quant> {
    let mut quant = quant.clone()?;
    quant.axis = quant.axis.map(|axis| perm.get(axis).copied().unwrap_or(axis));
    Some(quant)
}

/// A value like another one, stored by `perm`.
fn add_stored(graph: &mut Graph, id: ValueId, perm: &[usize]) -> ValueId {
    let value = graph.value(id);
    let (name, dtype) = (value.name.clone(), value.dtype);
    let shape = permuted(&value.shape, &inverse(perm));
    let quant = stored_quant(&value.quant, perm);
    let stored = graph.add_value(name, dtype, shape);
    graph.value_mut(stored).quant = quant;
    stored
}

fn add_permuted(graph: &mut Graph, id: ValueId, perm: &[usize], tensor: &Tensor) -> ValueId {
    let quant = stored_quant(&graph.value(id).quant, perm);
    let name = graph.value(id).name.clone();
    let stored = graph.add_constant(name, tensor.transposed(&inverse(perm)));
    graph.value_mut(stored).quant = quant;
    stored
}

/// A constant operand stored by `perm`; missing leading axes count as 1.
fn constant_operand(graph: &mut Graph, id: ValueId, perm: &[usize]) -> ValueId {
    let Some(tensor) = graph.constant(id).cloned() else { return id };
    let missing = perm.len().saturating_sub(tensor.shape.len());
    if missing == 0 {
        return add_permuted(graph, id, perm, &tensor);
    }
    let shape = [vec![1; missing], tensor.shape.clone()].concat();
    let name = graph.value(id).name.clone();
    graph.add_constant(name, tensor.reshaped(shape).transposed(&inverse(perm)))
}
