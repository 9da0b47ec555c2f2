//! Common sub-expressions: equal constants become one value, equal nodes one node.
//!
//! Before that, constants become the second operand of operators that don't care, so that equal
//! nodes look equal and later passes find constants in one place.

use std::collections::HashMap;

use crate::graph::{BinaryKind, Graph, Op, ValueId};

use super::edit::{Editor, output};

/// Runs the pass.
pub(super) fn run(graph: &mut Graph) -> bool {
    let ordered = order_operands(graph);
    let constants = merge_constants(graph);
    merge_nodes(graph) || constants || ordered
}

fn order_operands(graph: &mut Graph) -> bool {
    use BinaryKind::{Add, Max, Min, Mul};
    let mut changed = false;
    for node in &mut graph.nodes {
        if matches!(node.op, Op::Binary(Add | Mul | Min | Max))
            && let [Some(a), Some(b)] = node.inputs[..]
        {
            let is_constant = |id: ValueId| graph.values[id.0 as usize].constant.is_some();
            if is_constant(a) && !is_constant(b) {
                node.inputs.swap(0, 1);
                changed = true;
            }
        }
    }
    changed
}

/// Bytes at either end that tell most constants apart, so that large ones are rarely compared whole.
const SAMPLE_BYTES: usize = 64;

fn merge_constants(graph: &mut Graph) -> bool {
    let mut by_sample: HashMap<(u8, Vec<usize>, Vec<u8>), Vec<ValueId>> = HashMap::new();
    let mut to: Vec<ValueId> = Vec::with_capacity(graph.values.len());
    for (index, value) in graph.values.iter().enumerate() {
        let mut id = ValueId(index as u32);
        if let Some(tensor) = &value.constant {
            let data = &tensor.data;
            let ends = SAMPLE_BYTES.min(data.len());
            let sample = [&data[..ends], &data[data.len() - ends..]].concat();
            let key = (tensor.dtype as u8, tensor.shape.clone(), sample);
            let alike = by_sample.entry(key).or_default();
            let equal = alike.iter().find(|other| {
                let other = graph.value(**other);
                other.quant == value.quant
                    && other.groups == value.groups
                    && other.constant.as_ref() == Some(tensor)
            });
            match equal {
                Some(other) => id = *other,
                None => alike.push(id),
            }
        }
        to.push(id);
    }
    let mut changed = false;
    for id in graph.nodes.iter_mut().flat_map(|node| node.inputs.iter_mut().flatten()) {
        let first = to[id.0 as usize];
        changed |= first != *id;
        *id = first;
    }
    changed
}

fn merge_nodes(graph: &mut Graph) -> bool {
    let mut seen: HashMap<String, ValueId> = HashMap::new();
    let mut edit = Editor::new(graph);
    for index in 0..edit.len() {
        let node = edit.node(index);
        let Some(y) = output(node) else { continue };
        let value = edit.graph.value(y);
        let inputs: Vec<Option<u32>> = node.inputs.iter().map(|id| id.map(|id| id.0)).collect();
        // f32 prints so that it reads back the same, so equal text is equal meaning.
        let key = format!(
            "{:?} {inputs:?} {:?} {:?} {:?}",
            node.op, value.dtype, value.shape, value.quant
        );
        match seen.get(&key) {
            Some(first) => {
                edit.forward(index, *first);
            }
            None => {
                seen.insert(key, y);
            }
        }
    }
    edit.finish()
}
