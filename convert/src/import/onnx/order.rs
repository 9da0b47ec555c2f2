//! The order in which nodes are imported: those that an output needs, each after what it reads.

use std::collections::HashMap;

use super::Slot;
use super::proto::{GraphProto, NodeProto, TensorProto};
use crate::error::ImportError;

/// Indices of the nodes that the outputs need, in topological order.
pub(super) fn sorted(
    graph: &GraphProto,
    inputs: &HashMap<&str, Slot>,
    initializers: &HashMap<&str, &TensorProto>,
) -> Result<Vec<usize>, ImportError> {
    let mut producers: HashMap<&str, usize> = HashMap::new();
    for (index, node) in graph.node.iter().enumerate() {
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            let taken =
                inputs.contains_key(output.as_str()) || initializers.contains_key(output.as_str());
            if taken || producers.insert(output, index).is_some() {
                return Err(ImportError::Model(format!("tensor `{output}` is made twice")));
            }
        }
    }

    #[derive(Clone, Copy, PartialEq)]
    enum State {
        New,
        Open,
        Done,
    }
    let mut states = vec![State::New; graph.node.len()];
    let mut order = Vec::new();
    // Depth first, with a stack of its own: a chain can be longer than the thread's stack is deep.
    let mut stack: Vec<(usize, std::vec::IntoIter<usize>)> = Vec::new();
    let needs = |node: &NodeProto| -> std::vec::IntoIter<usize> {
        let names = read_names(node);
        names.iter().filter_map(|name| producers.get(name).copied()).collect::<Vec<_>>().into_iter()
    };
    let mut roots: Vec<usize> =
        graph.output.iter().filter_map(|o| producers.get(o.name()).copied()).collect();
    roots.sort_unstable();
    for root in roots {
        if states[root] != State::New {
            continue;
        }
        states[root] = State::Open;
        stack.push((root, needs(&graph.node[root])));
        while let Some((index, rest)) = stack.last_mut() {
            let index = *index;
            match rest.next() {
                None => {
                    states[index] = State::Done;
                    order.push(index);
                    stack.pop();
                }
                Some(next) => match states[next] {
                    State::Done => {}
                    State::New => {
                        states[next] = State::Open;
                        stack.push((next, needs(&graph.node[next])));
                    }
                    State::Open => {
                        let node = &graph.node[next];
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
    let mut position = vec![usize::MAX; graph.node.len()];
    for (at, index) in in_file_order.iter().enumerate() {
        position[*index] = at;
    }
    let is_order = in_file_order
        .iter()
        .all(|index| needs(&graph.node[*index]).all(|needed| position[needed] < position[*index]));
    Ok(if is_order { in_file_order } else { order })
}

/// Everything that a node reads, also what its subgraphs take from outside.
fn read_names(node: &NodeProto) -> Vec<&str> {
    let mut names = Vec::new();
    let mut nodes = vec![node];
    while let Some(node) = nodes.pop() {
        names.extend(node.input.iter().map(String::as_str));
        for attribute in &node.attribute {
            for graph in attribute.g.as_deref().into_iter().chain(&attribute.graphs) {
                nodes.extend(&graph.node);
                names.extend(graph.output.iter().map(|o| o.name()));
            }
        }
    }
    names
}
