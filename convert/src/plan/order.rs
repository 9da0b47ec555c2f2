//! Chooses an order of steps that lowers the peak of memory.
//!
//! Two orders are compared by their liveness bound: the model's own, and a greedy one that always
//! takes the ready step after which the fewest bytes are alive. The lower wins; a tie keeps the
//! model's own order.

use std::collections::HashMap;

use whit::format::Storage;

use crate::plan::alias::{Aliases, in_place};
use crate::plan::arena::lifetimes;
use crate::plan::{Plan, PlannedStep};

/// The plan's steps in the better order.
pub fn lower_peak(plan: &Plan, aliases: &Aliases) -> Vec<PlannedStep> {
    let greedy: Vec<PlannedStep> =
        greedy_order(plan, aliases).into_iter().map(|index| plan.steps[index].clone()).collect();
    let peak = |steps: &[PlannedStep]| {
        let candidate = Plan { steps: steps.to_vec(), constants: Vec::new(), ..plan.clone() };
        let mut aliases = aliases.clone();
        in_place(&candidate, &mut aliases);
        lifetimes(&candidate, &aliases).bound()
    };
    if peak(&greedy) < peak(&plan.steps) { greedy } else { plan.steps.clone() }
}

/// Steps that must run before each step: those that write a group it reads. A state has an old and a
/// new content in one place, so its readers and writers also stay in their order.
fn dependencies(plan: &Plan, aliases: &Aliases) -> Vec<Vec<usize>> {
    let mut writers: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut state_readers: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut dependencies = Vec::with_capacity(plan.steps.len());
    for (index, step) in plan.steps.iter().enumerate() {
        let mut before: Vec<usize> = Vec::new();
        for tensor in step.inputs.iter().flatten() {
            let root = aliases.root(*tensor).0;
            if plan.tensors[*tensor].storage != Storage::Constant {
                before.extend(writers.get(&root).into_iter().flatten());
            }
        }
        for tensor in step.outputs.iter().flatten() {
            if plan.tensors[*tensor].storage == Storage::State {
                let root = aliases.root(*tensor).0;
                before.extend(writers.get(&root).into_iter().flatten());
                before.extend(state_readers.get(&root).into_iter().flatten());
            }
        }
        before.sort_unstable();
        before.dedup();
        dependencies.push(before);
        for tensor in step.inputs.iter().flatten() {
            if plan.tensors[*tensor].storage == Storage::State {
                state_readers.entry(aliases.root(*tensor).0).or_default().push(index);
            }
        }
        for output in step.outputs.iter().flatten() {
            writers.entry(aliases.root(*output).0).or_default().push(index);
        }
    }
    dependencies
}

fn greedy_order(plan: &Plan, aliases: &Aliases) -> Vec<usize> {
    let before = dependencies(plan, aliases);
    let count = plan.steps.len();
    let mut waiting: Vec<usize> = before.iter().map(Vec::len).collect();
    let mut after = vec![Vec::new(); count];
    for (index, list) in before.iter().enumerate() {
        for earlier in list {
            after[*earlier].push(index);
        }
    }

    // Readers left per group; a result of the model always has one more.
    let group = |tensor: usize| aliases.root(tensor).0;
    let bytes = |root: usize| plan.tensors[root].bytes as i64;
    let groups_read = |index: usize| {
        let mut groups: Vec<usize> = plan.steps[index]
            .inputs
            .iter()
            .flatten()
            .filter(|tensor| plan.tensors[**tensor].storage == Storage::Arena)
            .map(|tensor| group(*tensor))
            .collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    };
    let groups_made = |index: usize| {
        let outputs = plan.steps[index].outputs.iter().flatten();
        let in_arena = outputs.filter(|tensor| plan.tensors[**tensor].storage == Storage::Arena);
        let mut groups: Vec<usize> = in_arena.map(|tensor| group(*tensor)).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    };
    let mut readers: HashMap<usize, usize> = HashMap::new();
    for index in 0..count {
        for root in groups_read(index) {
            *readers.entry(root).or_default() += 1;
        }
    }
    for output in &plan.outputs {
        *readers.entry(group(*output)).or_default() += 1;
    }

    let mut alive: Vec<usize> = plan.inputs.iter().map(|tensor| group(*tensor)).collect();
    let mut ready: Vec<usize> = (0..count).filter(|index| waiting[*index] == 0).collect();
    let mut order = Vec::with_capacity(count);
    while !ready.is_empty() {
        let growth = |index: usize| {
            let born: i64 = groups_made(index)
                .iter()
                .filter(|root| !alive.contains(root))
                .map(|root| bytes(*root))
                .sum();
            let freed: i64 = groups_read(index)
                .iter()
                .filter(|root| readers[root] == 1)
                .map(|root| bytes(*root))
                .sum();
            born - freed
        };
        let (at, _) = ready
            .iter()
            .enumerate()
            .min_by_key(|(_, index)| (growth(**index), **index))
            .expect("ready is not empty");
        let index = ready.swap_remove(at);
        order.push(index);
        for made in groups_made(index) {
            if !alive.contains(&made) {
                alive.push(made);
            }
        }
        for root in groups_read(index) {
            let left = readers.get_mut(&root).expect("counted above");
            *left -= 1;
            if *left == 0 {
                alive.retain(|group| *group != root);
            }
        }
        for later in &after[index] {
            waiting[*later] -= 1;
            if waiting[*later] == 0 {
                ready.push(*later);
            }
        }
    }
    order
}
