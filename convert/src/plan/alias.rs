//! Which tensors share memory: views of others, parts of a concatenation, results written in place.
//!
//! Tensors that share memory form a group around a root; each lies at a fixed offset from the
//! root's start. A group is alive from the first step that writes any of its tensors to the last
//! that reads one, and gets one place in the arena.

use whit::format::Storage;

use crate::plan::Plan;

/// A forest over tensors: each has a parent it shares memory with, and an offset within it.
#[derive(Clone, Debug, Default)]
pub struct Aliases {
    parent: Vec<usize>,
    offset: Vec<usize>,
}

impl Aliases {
    /// Adds a tensor that shares nothing yet.
    pub fn add(&mut self) {
        self.parent.push(self.parent.len());
        self.offset.push(0);
    }

    /// Root of the tensor's group, and the tensor's offset from the root's start.
    pub fn root(&self, tensor: usize) -> (usize, usize) {
        let (mut at, mut offset) = (tensor, 0);
        while self.parent[at] != at {
            offset += self.offset[at];
            at = self.parent[at];
        }
        (at, offset)
    }

    /// Makes the group of the root `view` part of `of`'s, at an offset from `of`.
    pub fn join(&mut self, view: usize, of: usize, offset: usize) {
        self.parent[view] = of;
        self.offset[view] = offset;
    }
}

/// Lets steps write over an input that nobody reads afterwards: elementwise ones over any operand,
/// convolutions over their residual.
///
/// The input's whole group must be dead after the step, and of the output's size, so that no view
/// of it is changed under a later reader.
pub fn in_place(plan: &Plan, aliases: &mut Aliases) {
    for (index, step) in plan.steps.iter().enumerate() {
        let Some(Some(result)) = step.outputs.first().copied() else { continue };
        for candidate in &step.in_place {
            let Some(input) = step.inputs[*candidate] else { continue };
            let (tensor, output) = (&plan.tensors[input], &plan.tensors[result]);
            let (root, offset) = aliases.root(input);
            if tensor.storage != Storage::Arena
                || tensor.bytes != output.bytes
                || tensor.dims != output.dims
                || offset != 0
                || plan.tensors[root].bytes != tensor.bytes
                || aliases.root(result).0 != result
            {
                continue;
            }
            let same = |tensor: usize| aliases.root(tensor).0 == root;
            let read_again = plan.steps[index + 1..]
                .iter()
                .any(|later| later.inputs.iter().flatten().any(|tensor| same(*tensor)));
            let other_operand = step
                .inputs
                .iter()
                .enumerate()
                .any(|(at, tensor)| at != *candidate && tensor.is_some_and(same));
            let is_result = plan.outputs.iter().any(|tensor| same(*tensor));
            if !read_again && !other_operand && !is_result {
                aliases.join(result, root, 0);
                break;
            }
        }
    }
}
