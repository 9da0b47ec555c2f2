//! The order in which nodes are imported: those that an output needs, each after what it reads.

use std::collections::{HashMap, HashSet};

use super::proto::{GraphProto, NodeProto};
use crate::error::ImportError;

/// Indices of the nodes that `outputs` need, in topological order. `taken` names what exists
/// already: inputs and initializers.
pub(super) fn sorted<'a>(
    nodes: &'a [NodeProto],
    outputs: impl Iterator<Item = &'a str>,
    taken: impl Fn(&str) -> bool,
) -> Result<Vec<usize>, ImportError> {
    let mut producers: HashMap<&str, usize> = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            if taken(output) || producers.insert(output, index).is_some() {
                return Err(ImportError::Model(format!("tensor `{output}` is made twice")));
            }
        }
    }
    let needs: Vec<Vec<usize>> = nodes
        .iter()
        .map(|node| read_names(node).iter().filter_map(|n| producers.get(n).copied()).collect())
        .collect();

    #[derive(Clone, Copy, PartialEq)]
    enum State {
        New,
        Open,
        Done,
    }
    let mut states = vec![State::New; nodes.len()];
    let mut order = Vec::new();
    // Depth first, with a stack of its own: a chain can be longer than the thread's stack is deep.
    let mut stack: Vec<(usize, std::slice::Iter<'_, usize>)> = Vec::new();
    let mut roots: Vec<usize> = outputs.filter_map(|o| producers.get(o).copied()).collect();
    roots.sort_unstable();
    for root in roots {
        if states[root] != State::New {
            continue;
        }
        states[root] = State::Open;
        stack.push((root, needs[root].iter()));
        while let Some((index, rest)) = stack.last_mut() {
            let index = *index;
            match rest.next().copied() {
                None => {
                    states[index] = State::Done;
                    order.push(index);
                    stack.pop();
                }
                Some(next) => match states[next] {
                    State::Done => {}
                    State::New => {
                        states[next] = State::Open;
                        stack.push((next, needs[next].iter()));
                    }
                    State::Open => {
                        let node = &nodes[next];
                        return Err(ImportError::Model(format!(
                            "{} `{}` (node #{next}) depends on its own output",
                            node.op_type(),
                            node.name()
                        )));
                    }
                },
            }
        }
    }
    // The model's own order wherever it is one already: it is what its author expects to see.
    let mut in_file_order = order.clone();
    in_file_order.sort_unstable();
    let mut position = vec![usize::MAX; nodes.len()];
    for (at, index) in in_file_order.iter().enumerate() {
        position[*index] = at;
    }
    let is_order = in_file_order
        .iter()
        .all(|index| needs[*index].iter().all(|needed| position[*needed] < position[*index]));
    Ok(if is_order { in_file_order } else { order })
}

/// Everything that a node reads, also what its subgraphs take from outside.
fn read_names(node: &NodeProto) -> Vec<&str> {
    let mut names: Vec<&str> = node.input.iter().map(String::as_str).collect();
    for attribute in &node.attribute {
        for graph in attribute.g.as_deref().into_iter().chain(&attribute.graphs) {
            names.extend(captured_names(graph));
        }
    }
    names
}

/// What a subgraph reads and doesn't make itself. Decoding has bounded how deep subgraphs nest.
fn captured_names(graph: &GraphProto) -> HashSet<&str> {
    let mut names: HashSet<&str> = graph.node.iter().flat_map(read_names).collect();
    names.extend(graph.output.iter().map(|o| o.name()));
    let made = graph.node.iter().flat_map(|node| node.output.iter().map(String::as_str));
    let inputs = graph.input.iter().map(|i| i.name());
    let initializers = graph.initializer.iter().map(|t| t.name());
    for name in made.chain(inputs).chain(initializers) {
        names.remove(name);
    }
    names
}
