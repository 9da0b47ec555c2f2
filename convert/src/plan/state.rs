//! Updates what lives across runs: where the node that makes the next content may write it, there,
//! else by a copy at the end of the run.
//!
//! A state's old content must last until its last reader has run. What is made of it behind that point
//! can be written over it at once, an elementwise result even by the last reader itself.

use std::collections::HashMap;

use whit::format::{Op as StepOp, Storage};

use crate::graph::Graph;
use crate::plan::alias::Aliases;
use crate::plan::{Plan, PlannedStep, PlannedTensor};

/// Adds the steps that update states, and moves results into state storage.
pub(super) fn update(plan: &mut Plan, aliases: &mut Aliases, graph: &Graph) {
    // Tensors of the states that change, with the tensors that they become.
    let mut changed: Vec<(usize, usize)> = Vec::new();
    for (state, planned) in graph.states.iter().zip(&plan.states) {
        let next = plan.tensor_of_value[&state.next];
        let (root, offset) = aliases.root(next);
        let is_itself = root == planned.tensor && offset == 0;
        if !is_itself {
            changed.push((planned.tensor, next));
        }
    }

    // Outputs and next contents that are old contents, saved before anything is written over them.
    let mut saved: HashMap<usize, usize> = HashMap::new();
    for index in 0..plan.outputs.len() {
        let output = plan.outputs[index];
        if is_old_content(plan, aliases, &changed, output) {
            plan.outputs[index] = save(plan, aliases, &mut saved, output);
        }
    }
    for index in 0..changed.len() {
        let next = changed[index].1;
        if is_old_content(plan, aliases, &changed, next) {
            changed[index].1 = save(plan, aliases, &mut saved, next);
        }
    }

    for (state, next) in changed {
        if can_be_written_at_once(plan, aliases, state, next) {
            let (root, _) = aliases.root(next);
            aliases.join(root, state, 0);
        } else {
            let name = format!("{}/update", plan.tensors[state].name);
            plan.steps.push(copy(name, next, state));
        }
    }
    for tensor in 0..plan.tensors.len() {
        let (root, offset) = aliases.root(tensor);
        if plan.tensors[root].storage == Storage::State {
            plan.tensors[tensor].storage = Storage::State;
            plan.tensors[tensor].offset = plan.tensors[root].offset + offset;
        }
    }
}

/// Whether a tensor lies in a state that changes.
fn is_old_content(
    plan: &Plan,
    aliases: &Aliases,
    changed: &[(usize, usize)],
    tensor: usize,
) -> bool {
    let (root, _) = aliases.root(tensor);
    plan.tensors[root].storage == Storage::State && changed.iter().any(|(state, _)| *state == root)
}

/// A copy of a tensor in the arena, made once.
fn save(
    plan: &mut Plan,
    aliases: &mut Aliases,
    saved: &mut HashMap<usize, usize>,
    tensor: usize,
) -> usize {
    if let Some(copy) = saved.get(&tensor) {
        return *copy;
    }
    let index = plan.tensors.len();
    let of = plan.tensors[tensor].clone();
    let name = format!("{}/save", of.name);
    plan.tensors.push(PlannedTensor { storage: Storage::Arena, offset: 0, ..of });
    aliases.add();
    plan.steps.push(copy(name, tensor, index));
    saved.insert(tensor, index);
    index
}

fn copy(name: String, from: usize, to: usize) -> PlannedStep {
    PlannedStep {
        name,
        op: StepOp::Copy,
        variant: None,
        attributes: Vec::new(),
        inputs: vec![Some(from)],
        outputs: vec![Some(to)],
        macs: 0,
        in_place: Vec::new(),
    }
}

/// Whether the steps that make `next` may write it over the state: they come behind all that read
/// the old content, in the model's own order, which [`order`](super::order) keeps.
fn can_be_written_at_once(plan: &Plan, aliases: &Aliases, state: usize, next: usize) -> bool {
    let (root, offset) = aliases.root(next);
    let fits = plan.tensors[root].storage == Storage::Arena
        && offset == 0
        && plan.tensors[root].bytes == plan.tensors[state].bytes
        && !plan.inputs.iter().any(|input| aliases.root(*input).0 == root);
    let writes = |step: &PlannedStep| {
        step.outputs.iter().flatten().any(|tensor| aliases.root(*tensor).0 == root)
    };
    let of_state = |tensor: usize| aliases.root(tensor).0 == state;
    let reads = |step: &PlannedStep| step.inputs.iter().flatten().any(|tensor| of_state(*tensor));
    let Some(first_write) = plan.steps.iter().position(writes).filter(|_| fits) else {
        return false;
    };
    let Some(last_read) = plan.steps.iter().rposition(reads) else { return true };
    if last_read != first_write {
        return last_read < first_write;
    }
    // The same step: every element is read before it is written, if each lies where it will lie.
    let step = &plan.steps[last_read];
    let [Some(result)] = step.outputs[..] else { return false };
    let result_tensor = &plan.tensors[result];
    aliases.root(result).1 == 0
        && result_tensor.bytes == plan.tensors[state].bytes
        && step.inputs.iter().enumerate().all(|(at, input)| match input {
            Some(input) if of_state(*input) => {
                let operand = &plan.tensors[*input];
                step.in_place.contains(&at)
                    && aliases.root(*input).1 == 0
                    && (operand.bytes, &operand.dims) == (result_tensor.bytes, &result_tensor.dims)
                    && operand.dtype.size() == result_tensor.dtype.size()
            }
            _ => true,
        })
}
