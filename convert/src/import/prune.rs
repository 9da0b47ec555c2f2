//! Drops nodes and values that no output needs, and numbers the rest anew.

use crate::graph::{Graph, Node, State, ValueId};

/// The same graph without dead nodes, unused constants and values of folded shape arithmetic.
pub(crate) fn pruned(graph: Graph) -> Graph {
    let mut needed = vec![false; graph.values.len()];
    for id in graph.sources().chain(graph.results()) {
        needed[id.0 as usize] = true;
    }
    let mut live = vec![false; graph.nodes.len()];
    for (index, node) in graph.nodes.iter().enumerate().rev() {
        live[index] = node.outputs.iter().any(|id| needed[id.0 as usize]);
        if live[index] {
            for id in node.inputs.iter().flatten().chain(&node.outputs) {
                needed[id.0 as usize] = true;
            }
        }
    }

    let mut renumbered = vec![ValueId(0); graph.values.len()];
    let mut values = Vec::new();
    for (index, value) in graph.values.into_iter().enumerate() {
        if needed[index] {
            renumbered[index] =
                ValueId(u32::try_from(values.len()).expect("no more values than before"));
            values.push(value);
        }
    }
    let new = |id: &ValueId| renumbered[id.0 as usize];
    let nodes = graph.nodes.into_iter().zip(live).filter(|(_, live)| *live).map(|(node, _)| Node {
        inputs: node.inputs.iter().map(|id| id.as_ref().map(new)).collect(),
        outputs: node.outputs.iter().map(new).collect(),
        ..node
    });
    Graph {
        nodes: nodes.collect(),
        inputs: graph.inputs.iter().map(new).collect(),
        outputs: graph.outputs.iter().map(new).collect(),
        states: graph
            .states
            .iter()
            .map(|state| State { read: new(&state.read), next: new(&state.next), ..state.clone() })
            .collect(),
        values,
        name: graph.name,
        symbols: graph.symbols,
        metadata: graph.metadata,
    }
}
