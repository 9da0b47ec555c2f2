//! Moves transposes together and cancels them, so that hardly any are left between input and output.
//!
//! A value behind a transpose can be stored the way it was before: the nodes that read it then work
//! on permuted axes, and the transpose moves behind them ([`region`] says which nodes take part,
//! [`remap`] how each changes). A move is made when fewer bytes are transposed after it than before,
//! or as many but closer to the outputs, where the next move may cancel them. Both are bounded:
//! the cost never rises, and at equal cost transposes only sink.

mod region;
mod remap;

use crate::graph::{Graph, Op};

use super::dead_code;
use super::edit::{Editor, ends, inverse, is_identity};
use region::{Extent, Links, Region};

/// Moves per transpose, far more than any model needs, so that a hostile one ends, too.
const MAX_MOVES: usize = 64;

/// Runs the pass.
pub(super) fn run(graph: &mut Graph) -> bool {
    let mut changed = tidy(graph);
    let transposes = graph.nodes.iter().filter(|n| matches!(n.op, Op::Transpose { .. })).count();
    for _ in 0..transposes.saturating_mul(MAX_MOVES) {
        if !step(graph) {
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

/// Makes one move; false when none is worth it.
fn step(graph: &mut Graph) -> bool {
    let links = Links::new(graph);
    let transposes: Vec<usize> = (0..graph.nodes.len())
        .filter(|index| matches!(graph.nodes[*index].op, Op::Transpose { .. }))
        .collect();
    let local = transposes.iter().find_map(|t| local(graph, &links, *t));
    let region = local.or_else(|| transposes.iter().find_map(|t| connected(graph, &links, *t)));
    match region {
        Some(region) => {
            region.apply(graph, &links);
            true
        }
        None => false,
    }
}

/// One node: the transpose moves behind its only reader, or before the node that it reads.
fn local(graph: &Graph, links: &Links, transpose: usize) -> Option<Region> {
    let node = &graph.nodes[transpose];
    let (x, y) = ends(node)?;
    let Op::Transpose { perm } = &node.op else { return None };
    if let [reader] = links.consumers(y)[..]
        && !links.is_output(y)
    {
        let region = Region::grow(graph, links, y, perm.clone(), Extent::Node(reader));
        // Summing to one along the last axis is what kernels are best at: leave it only for a gain.
        let at_equal_cost = !matches!(graph.nodes[reader].op, Op::Softmax { .. });
        if let Some(region) = region.filter(|region| !region.is_empty()) {
            let cost = region.cost(graph, links);
            // At equal cost only downwards: nothing new above, or two moves could undo each other.
            let sinks = cost.after == cost.before && cost.above == 0.0;
            if cost.after < cost.before || (sinks && at_equal_cost) {
                return Some(region);
            }
        }
    }
    let maker = links.producer(x)?;
    let region = Region::grow(graph, links, x, inverse(perm), Extent::Node(maker))?;
    let cost = region.cost(graph, links);
    (cost.after < cost.before && !region.is_empty()).then_some(region)
}

/// Everything connected to one side of a transpose by nodes that can work on permuted axes.
fn connected(graph: &Graph, links: &Links, transpose: usize) -> Option<Region> {
    let node = &graph.nodes[transpose];
    let (x, y) = ends(node)?;
    let Op::Transpose { perm } = &node.op else { return None };
    [(y, perm.clone()), (x, inverse(perm))].into_iter().find_map(|(value, perm)| {
        let region = Region::grow(graph, links, value, perm, Extent::Connected)?;
        let cost = region.cost(graph, links);
        (cost.after < cost.before && !region.is_empty()).then_some(region)
    })
}

/// The permutation that does `first` and then `second`.
fn compose(first: &[usize], second: &[usize]) -> Vec<usize> {
    second.iter().map(|i| first[*i]).collect()
}

/// True when the axes larger than 1 keep their order.
fn moves_nothing(shape: &[crate::dim::Dim], perm: &[usize]) -> bool {
    perm.iter().filter(|p| !shape[**p].is(1)).is_sorted()
}
