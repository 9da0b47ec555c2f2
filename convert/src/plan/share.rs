//! Equal descriptions of constants become one, as those of layers are that run several times.

use std::collections::HashMap;

use whit::format::Storage;

use crate::plan::Plan;

/// What tells constants apart; everything but the name must be equal for the runtime, and the name for people.
type Key = (String, u8, u8, Vec<i32>, usize, usize, u32, i32, u32);

/// Drops tensors that say the same as an earlier constant.
pub(super) fn constants(plan: &mut Plan) {
    let mut first: HashMap<Key, usize> = HashMap::new();
    let mut kept = Vec::with_capacity(plan.tensors.len());
    let mut renumbered = Vec::with_capacity(plan.tensors.len());
    for tensor in std::mem::take(&mut plan.tensors) {
        let next = kept.len();
        let index = if tensor.storage == Storage::Constant {
            let key = (
                tensor.name.clone(),
                tensor.dtype as u8,
                tensor.layout as u8,
                tensor.dims.clone(),
                tensor.offset,
                tensor.bytes,
                tensor.scale.to_bits(),
                tensor.zero_point,
                tensor.group_size,
            );
            *first.entry(key).or_insert(next)
        } else {
            next
        };
        renumbered.push(index);
        if index == next {
            kept.push(tensor);
        }
    }
    plan.tensors = kept;

    let new = |tensor: usize| renumbered[tensor];
    for step in &mut plan.steps {
        for tensor in step.inputs.iter_mut().chain(&mut step.outputs).flatten() {
            *tensor = new(*tensor);
        }
    }
    for tensor in plan.inputs.iter_mut().chain(&mut plan.outputs) {
        *tensor = new(*tensor);
    }
    plan.states.iter_mut().for_each(|state| state.tensor = new(state.tensor));
    plan.tensor_of_value.values_mut().for_each(|tensor| *tensor = new(*tensor));
    let views = plan.view_of.drain().map(|(view, of)| (new(view), new(of)));
    plan.view_of = views.collect();
    let made = plan
        .made_of
        .drain()
        .map(|(whole, parts)| (new(whole), parts.into_iter().map(new).collect()));
    plan.made_of = made.collect();
}
