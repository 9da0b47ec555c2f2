//! Moves transposes together and cancels them, so that hardly any are left between input and output.
//!
//! A value behind a transpose can be stored the way it was before: the nodes that read it then work
//! on permuted axes, and the transpose moves behind them ([`region`] says which nodes take part,
//! [`remap`] how each changes). A move is made when fewer bytes are transposed after it than before,
//! or as many but closer to the outputs, where the next move may cancel them. Both are bounded:
//! the cost never rises, and at equal cost transposes only sink.

mod region;
mod remap;

use std::collections::BTreeSet;

use crate::graph::{Graph, Op, ValueId};

use super::dead_code;
use super::edit::{Editor, ends, inverse, is_identity};
use region::{Extent, Links, Meets, Region};

/// Moves per transpose, far more than any model needs, so that a hostile one ends, too.
const MAX_MOVES: usize = 64;

/// Values looked at in search of connected regions, besides [`MAX_MOVES`] per node: some seconds.
const MAX_VISITS: usize = 1 << 22;

/// Runs the pass.
pub(super) fn run(graph: &mut Graph) -> bool {
    let mut changed = tidy(graph);
    let transposes = graph.nodes.iter().filter(|n| matches!(n.op, Op::Transpose { .. })).count();
    for _ in 0..transposes.saturating_mul(MAX_MOVES) {
        if !sweep(graph) {
            break;
        }
        changed = true;
        dead_code::run(graph);
        tidy(graph);
    }
    changed
}

/// Merges transposes of transposes, drops those that do nothing, and turns those that only move
/// axes of size 1 into reshapes.
fn tidy(graph: &mut Graph) -> bool {
    let mut edit = Editor::new(graph);
    for index in 0..edit.len() {
        if !edit.is_alive(index) {
            continue;
        }
        let Op::Transpose { perm } = &edit.node(index).op else { continue };
        let mut node = edit.node(index).clone();
        if let Some(at) = edit.source(index, 0)
            && let Op::Transpose { perm: first } = &edit.node(at).op
        {
            let perm = compose(first, perm);
            node.inputs = edit.node(at).inputs.clone();
            node.op = Op::Transpose { perm };
            edit.replace(index, node.clone());
        }
        let Op::Transpose { perm } = &node.op else { continue };
        let Some((x, y)) = ends(&node) else { continue };
        if is_identity(perm) && edit.forward(index, x) {
            continue;
        }
        let per_tensor = edit.graph.value(y).quant.as_ref().is_none_or(|q| q.axis.is_none());
        if per_tensor && moves_nothing(&edit.graph.value(x).shape, perm) {
            node.op = Op::Reshape;
            edit.replace(index, node);
        }
    }
    edit.finish()
}

/// Makes every move that is worth it and doesn't meet another one; false when there is none.
///
/// Moves of one node first: a move of everything connected looks at far more of the graph.
fn sweep(graph: &mut Graph) -> bool {
    let links = Links::new(graph);
    let transposes: Vec<usize> = (0..graph.nodes.len())
        .filter(|index| matches!(graph.nodes[*index].op, Op::Transpose { .. }))
        .collect();
    let mut moves = Moves { graph, links: &links, all: Region::default(), met: Meets::default() };
    let mut refused = BTreeSet::new();
    for transpose in &transposes {
        moves.local(*transpose, &mut refused);
    }
    if moves.all.is_empty() {
        let mut refused = BTreeSet::new();
        let mut left = MAX_VISITS.saturating_add(graph.nodes.len().saturating_mul(MAX_MOVES));
        for transpose in &transposes {
            moves.connected(*transpose, &mut refused, &mut left);
        }
    }
    let all = moves.all;
    let moved = !all.is_empty();
    if moved {
        all.apply(graph, &links);
    }
    moved
}

/// Moves that touch different nodes, so that none changes what another one costs.
struct Moves<'a> {
    graph: &'a Graph,
    links: &'a Links,
    /// All of them as one region.
    all: Region,
    /// Nodes that they take in or border on.
    met: Meets,
}

impl Moves<'_> {
    /// Takes a move in, unless it meets an earlier one; the next sweep looks at it again.
    fn push(&mut self, region: Region) {
        let met = region.meets(self.graph, self.links);
        if !met.disturbs(&self.met) {
            self.met.join(met);
            self.all.join(region);
        }
    }

    /// One node: the transpose moves behind its only reader, or before the node that it reads.
    /// Readers are `refused` once for all of their operands.
    fn local(
        &mut self,
        transpose: usize,
        refused: &mut BTreeSet<(usize, Vec<usize>)>,
    ) -> Option<()> {
        let (graph, links) = (self.graph, self.links);
        let node = &graph.nodes[transpose];
        let (x, y) = ends(node)?;
        let Op::Transpose { perm } = &node.op else { return None };
        if self.met.contains(&transpose) {
            return None;
        }
        if let [reader] = links.consumers(y)[..]
            && !links.is_output(y)
            && !refused.contains(&(reader, perm.clone()))
        {
            if self.met.contains(&reader) {
                return None;
            }
            let region = Region::grow(graph, links, y, perm.clone(), Extent::Node(reader));
            // Summing to one along the last axis is what kernels are best at: leave it only for a gain.
            let at_equal_cost = !matches!(graph.nodes[reader].op, Op::Softmax { .. });
            if let Some(region) = region.filter(|region| !region.is_empty()) {
                let cost = region.cost(graph, links);
                // At equal cost only downwards: nothing new above, or two moves could undo each other.
                let sinks = cost.after == cost.before && cost.above == 0.0;
                if cost.after < cost.before || (sinks && at_equal_cost) {
                    self.push(region);
                    return Some(());
                }
            }
            refused.insert((reader, perm.clone()));
        }
        let maker = links.producer(x).filter(|maker| !self.met.contains(maker))?;
        let region = Region::grow(graph, links, x, inverse(perm), Extent::Node(maker))?;
        let cost = region.cost(graph, links);
        if cost.after < cost.before && !region.is_empty() {
            self.push(region);
        }
        Some(())
    }

    /// Everything connected to one side of a transpose by nodes that can work on permuted axes. Where
    /// every node can be reached from every other, one refusal counts for all values; there are
    /// `left` values to be looked at.
    fn connected(
        &mut self,
        transpose: usize,
        refused: &mut BTreeSet<(ValueId, Vec<usize>)>,
        left: &mut usize,
    ) -> Option<()> {
        let (graph, links) = (self.graph, self.links);
        let node = &graph.nodes[transpose];
        let (x, y) = ends(node)?;
        let Op::Transpose { perm } = &node.op else { return None };
        for start in [(y, perm.clone()), (x, inverse(perm))] {
            if *left == 0 || self.met.contains(&transpose) || refused.contains(&start) {
                continue;
            }
            let (region, fits) = Region::visit(graph, links, start.0, start.1, Extent::Connected);
            *left = left.saturating_sub(region.visited());
            let gains = fits && !region.is_empty() && {
                let cost = region.cost(graph, links);
                cost.after < cost.before
            };
            if gains {
                self.push(region);
            } else if region.is_reversible() {
                refused.extend(region.into_stored());
            }
        }
        Some(())
    }
}

/// The permutation that does `first` and then `second`.
fn compose(first: &[usize], second: &[usize]) -> Vec<usize> {
    second.iter().map(|i| first[*i]).collect()
}

/// True when the axes larger than 1 keep their order.
fn moves_nothing(shape: &[crate::dim::Dim], perm: &[usize]) -> bool {
    perm.iter().filter(|p| !shape[**p].is(1)).is_sorted()
}
