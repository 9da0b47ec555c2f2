//! Runs a model with values inside it in sight: what steps measure before they change something.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use whit::DType;

use crate::evaluate::{EvaluateError, Program, Samples, observe};
use crate::graph::{Clamp, Graph, Node, Op, UnaryKind, ValueId};
use crate::plan::PlanOptions;
use crate::quantize::quantization::simulate;

/// Takes the clamps off the layers that make these values: the sum that each clamp now reads, by the value.
pub(super) fn unclamp(graph: &mut Graph, values: &BTreeSet<ValueId>) -> BTreeMap<ValueId, ValueId> {
    let mut sums = BTreeMap::new();
    let nodes = std::mem::take(&mut graph.nodes);
    for mut node in nodes {
        let value = node.outputs[0];
        let clamp = match &mut node.op {
            Op::Conv(conv) => &mut conv.clamp,
            Op::MatMul(matmul) => &mut matmul.clamp,
            _ => {
                graph.nodes.push(node);
                continue;
            }
        };
        if !values.contains(&value) || *clamp == Clamp::NONE {
            graph.nodes.push(node);
            continue;
        }
        let Clamp { min, max } = std::mem::replace(clamp, Clamp::NONE);
        let of = graph.value(value);
        let (name, dtype, shape) = (format!("{}/sum", of.name), of.dtype, of.shape.clone());
        let sum = graph.add_value(name.clone(), dtype, shape);
        node.outputs[0] = sum;
        graph.nodes.push(node);
        graph.nodes.push(Node {
            name,
            op: Op::Unary(UnaryKind::Clip { min, max }),
            inputs: vec![Some(sum)],
            outputs: vec![value],
        });
        sums.insert(value, sum);
    }
    sums
}

/// Runs a graph as far as it takes to make these values, and shows each of them in every sample. A value that
/// never has a place of its own in memory isn't seen.
pub(in crate::quantize) fn watch(
    graph: &Graph,
    values: &BTreeSet<ValueId>,
    samples: &dyn Samples,
    progress: &mut dyn FnMut(usize),
    see: &mut dyn FnMut(ValueId, usize, &[f32]),
) -> Result<(), EvaluateError> {
    Relay { room: 0, simulates: false, ..Relay::new(samples) }
        .watch(graph, graph, values, values, progress, see)
}

/// Bytes of values that are kept from one stretch of a model for the next.
const ROOM: usize = 1 << 30;

/// Sizes and reals of values, by sample.
type Kept = BTreeMap<ValueId, Vec<(Vec<usize>, Vec<f32>)>>;

/// Runs a model a stretch at a time, from its inputs on: what a stretch made is kept for those behind it, so that a model
/// that changes from front to back is run once in all.
pub(super) struct Relay<'s> {
    samples: &'s dyn Samples,
    /// Values that somebody has yet to read.
    kept: Kept,
    /// Values that are as they will stay.
    made: BTreeSet<ValueId>,
    /// Bytes left for what is kept. Once there are none, every stretch begins at the inputs.
    room: usize,
    /// Weights in integers stand for their reals while a stretch runs.
    simulates: bool,
}

/// The samples of a part of a model: those of its inputs, and values that were kept.
struct Parts<'r> {
    samples: &'r dyn Samples,
    inputs: usize,
    kept: Vec<&'r [(Vec<usize>, Vec<f32>)]>,
}

impl Samples for Parts<'_> {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn input(
        &self,
        sample: usize,
        input: usize,
        name: &str,
        dtype: DType,
    ) -> Result<(Vec<usize>, Vec<u8>), String> {
        match input.checked_sub(self.inputs).and_then(|at| self.kept.get(at)) {
            None => self.samples.input(sample, input, name, dtype),
            Some(of_samples) => {
                let (shape, reals) = of_samples.get(sample).ok_or("no such sample")?;
                Ok((shape.clone(), reals.iter().flat_map(|real| real.to_le_bytes()).collect()))
            }
        }
    }
}

impl<'s> Relay<'s> {
    pub(super) fn new(samples: &'s dyn Samples) -> Relay<'s> {
        Relay { samples, kept: Kept::new(), made: BTreeSet::new(), room: ROOM, simulates: true }
    }

    /// As [`watch`]: shows values of `graph`, a [quantized](crate::quantize::quantization::Quantization::with_quantize_nodes) one, which computes the values of `base` under the same ids, as they are now, and
    /// perhaps others. What is in `changing`, and all behind it, will be another when the next stretch is run.
    pub(super) fn watch(
        &mut self,
        base: &Graph,
        graph: &Graph,
        values: &BTreeSet<ValueId>,
        changing: &BTreeSet<ValueId>,
        progress: &mut dyn FnMut(usize),
        see: &mut dyn FnMut(ValueId, usize, &[f32]),
    ) -> Result<(), EvaluateError> {
        let producers = graph.producers();
        // A reshaped value is seen where its elements were made.
        let origin = |mut value: ValueId| {
            while let Some(at) = producers[value.0 as usize]
                && graph.nodes[at].op == Op::Reshape
                && let Some(from) = graph.nodes[at].inputs[0]
            {
                value = from;
            }
            value
        };
        let origins: BTreeSet<ValueId> = values.iter().map(|value| origin(*value)).collect();
        let mut part = self.part(graph, &origins);
        let made: BTreeSet<ValueId> =
            part.nodes.iter().flat_map(|node| node.outputs.iter().copied()).collect();
        let mut changing = changing.clone();
        for node in &part.nodes {
            if node.inputs.iter().flatten().any(|id| changing.contains(id)) {
                changing.extend(&node.outputs);
            }
        }
        // A reshaped value is made again from what it was.
        let is_reshaped = |id: &ValueId| {
            producers[id.0 as usize].is_some_and(|at| graph.nodes[at].op == Op::Reshape)
        };
        let for_good: BTreeSet<ValueId> =
            made.difference(&changing).copied().filter(|id| !is_reshaped(id)).collect();
        let later = self.later(base, &for_good);
        let is_kept = |id: &ValueId| {
            self.room > 0 && graph.value(*id).dtype == DType::F32 && later.contains(id)
        };
        let keep: BTreeSet<ValueId> = for_good.iter().copied().filter(is_kept).collect();
        part.outputs = origins.union(&keep).copied().filter(|id| made.contains(id)).collect();
        if self.simulates {
            simulate(&mut part);
        }
        let program = Program::new(&part, &PlanOptions::default())?;
        let mut of_tensor: HashMap<usize, Vec<ValueId>> = HashMap::new();
        for value in values.union(&keep) {
            if let Some(tensor) = program.plan.tensor_of_value.get(&origin(*value)) {
                let tensor = program.plan.view_of.get(tensor).unwrap_or(tensor);
                of_tensor.entry(*tensor).or_default().push(*value);
            }
        }
        let mut kept = Kept::new();
        let inputs = graph.inputs.len();
        let of_part = part.inputs[inputs..].iter().filter_map(|id| self.kept.get(id));
        let of_stretch =
            Parts { samples: self.samples, inputs, kept: of_part.map(Vec::as_slice).collect() };
        observe(&program, &of_stretch, progress, &mut |seen| {
            for value in of_tensor.get(&seen.tensor).into_iter().flatten() {
                if values.contains(value) {
                    see(*value, seen.sample, seen.reals);
                }
                let of_value = keep.contains(value).then(|| kept.entry(*value).or_default());
                if let Some(of_value) = of_value.filter(|all| all.len() == seen.sample) {
                    let dims = seen.dims.iter().map(|dim| *dim as usize).collect();
                    of_value.push((dims, seen.reals.to_vec()));
                    self.room = self.room.saturating_sub(size_of_val(seen.reals));
                }
            }
        })?;
        self.pass_on(for_good, &later, kept);
        Ok(())
    }

    /// The part of a graph that makes values from what is kept, which becomes inputs behind its own.
    pub(super) fn part(&self, graph: &Graph, values: &BTreeSet<ValueId>) -> Graph {
        let producers = graph.producers();
        let mut needed: BTreeSet<usize> = BTreeSet::new();
        let mut kept: BTreeSet<ValueId> = BTreeSet::new();
        let mut left: Vec<ValueId> = values.iter().copied().collect();
        let mut states = BTreeSet::new();
        while let Some(id) = left.pop() {
            if self.kept.contains_key(&id) {
                kept.insert(id);
                continue;
            }
            if let Some(at) = producers[id.0 as usize].filter(|at| needed.insert(*at)) {
                left.extend(graph.nodes[at].inputs.iter().flatten());
            }
            // A state that is read is kept up to date.
            for (at, state) in graph.states.iter().enumerate().filter(|(_, s)| s.read == id) {
                if states.insert(at) {
                    left.push(state.next);
                }
            }
        }
        let mut part = graph.clone();
        part.inputs.extend(kept);
        part.nodes = needed.iter().map(|at| graph.nodes[*at].clone()).collect();
        part.states = states.iter().map(|at| graph.states[*at].clone()).collect();
        part
    }

    /// Values that nodes read which haven't run for good, neither before nor in a stretch that made these.
    fn later(&self, base: &Graph, made: &BTreeSet<ValueId>) -> BTreeSet<ValueId> {
        let has_run = |id: &ValueId| made.contains(id) || self.made.contains(id);
        let mut later = BTreeSet::new();
        for node in base.nodes.iter().rev() {
            let is_waiting = match node.op {
                Op::Reshape => later.contains(&node.outputs[0]),
                _ => !node.outputs.iter().any(has_run),
            };
            if is_waiting {
                later.extend(node.inputs.iter().flatten().copied());
            }
        }
        later
    }

    /// Keeps what a stretch made, and no more of what was kept than is still to be read.
    fn pass_on(&mut self, made: BTreeSet<ValueId>, later: &BTreeSet<ValueId>, kept: Kept) {
        if self.room == 0 {
            self.kept.clear();
            self.made.clear();
            return;
        }
        self.made.extend(made);
        self.kept.extend(kept.into_iter().filter(|(_, of)| of.len() == self.samples.len()));
        let freed = self.kept.extract_if(.., |id, _| !later.contains(id));
        self.room += freed
            .flat_map(|(_, of_samples)| of_samples)
            .map(|(_, reals)| size_of_val(&*reals))
            .sum::<usize>();
    }
}

/// How many of these nodes lie one behind the other before each node: those of one level don't depend on each
/// other.
pub(super) fn levels(graph: &Graph, nodes: &BTreeSet<usize>) -> BTreeMap<usize, usize> {
    let mut of_value = vec![0usize; graph.values.len()];
    let mut levels = BTreeMap::new();
    for (at, node) in graph.nodes.iter().enumerate() {
        let inputs = node.inputs.iter().flatten();
        let mut level = inputs.map(|id| of_value[id.0 as usize]).max().unwrap_or(0);
        if nodes.contains(&at) {
            levels.insert(at, level);
            level += 1;
        }
        for output in &node.outputs {
            of_value[output.0 as usize] = level;
        }
    }
    levels
}
