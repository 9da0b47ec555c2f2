//! Drops nodes that no output and no state needs, and the data of constants that nobody reads.

use crate::graph::Graph;

/// Runs the pass.
pub(super) fn run(graph: &mut Graph) -> bool {
    let mut needed = vec![false; graph.values.len()];
    for result in graph.results() {
        needed[result.0 as usize] = true;
    }
    let mut keep = vec![false; graph.nodes.len()];
    for (index, node) in graph.nodes.iter().enumerate().rev() {
        keep[index] = node.outputs.iter().any(|id| needed[id.0 as usize]);
        if keep[index] {
            for id in node.inputs.iter().flatten() {
                needed[id.0 as usize] = true;
            }
        }
    }
    let before = graph.nodes.len();
    let mut keep = keep.into_iter();
    graph.nodes.retain(|_| keep.next().unwrap_or(true));
    for (value, needed) in graph.values.iter_mut().zip(&needed) {
        if !needed {
            value.constant = None;
        }
    }
    graph.nodes.len() != before
}
