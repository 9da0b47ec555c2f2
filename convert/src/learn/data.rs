//! Samples as tensors, and what a graph makes of them, value by value.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use whit::DType;

use super::LearnError;
use super::forward::{Forward, Values};
use crate::dim::Dim;
use crate::evaluate::{EvaluateError, Samples};
use crate::graph::{Graph, ValueId};

/// Samples that are run at once where nothing else says how many.
const CHUNK: usize = 16;

/// What of a model is kept in memory for all samples, at most.
const MAX_BYTES: usize = 512 << 20;

/// Samples that are learned from at most: more of them change little beside more steps.
const MAX_SAMPLES: usize = 256;

/// A value for every sample.
pub(super) type PerSample = BTreeMap<ValueId, Vec<Tensor>>;

/// The inputs of a model as tensors, and the sizes that go with them.
pub(super) struct Data {
    pub(super) inputs: PerSample,
    pub(super) sizes: Vec<i64>,
    pub(super) samples: usize,
}

impl Data {
    /// Samples of the size of the first one, as many as fit into memory with what the graph makes of them,
    /// spread over all.
    ///
    /// # Errors
    /// When a sample doesn't fit, or the model has a state.
    pub(super) fn load(graph: &Graph, samples: &dyn Samples) -> Result<Data, LearnError> {
        if let Some(state) = graph.states.first() {
            return Err(LearnError::Model(format!(
                "the model has a state (`{}`), and learning takes each sample for itself",
                state.name
            )));
        }
        let first = input_arrays(graph, samples, 0)?;
        let sizes = sizes_of(graph, &first);
        let most = (MAX_BYTES / (2 * peak_bytes(graph, &sizes)).max(1)).clamp(1, MAX_SAMPLES);
        let taken = samples.len().min(most);
        let mut inputs = PerSample::new();
        let mut count = 0;
        for at in 0..taken {
            let arrays = input_arrays(graph, samples, at * samples.len() / taken)?;
            if arrays.iter().zip(&first).any(|(own, first)| own.0 != first.0) {
                continue;
            }
            count += 1;
            for (id, (shape, bytes)) in graph.inputs.iter().zip(arrays) {
                let tensor = input_tensor(graph, *id, shape, &bytes)?;
                inputs.entry(*id).or_default().push(tensor);
            }
        }
        Ok(Data { inputs, sizes, samples: count })
    }
}

/// Shape and bytes.
type Array = (Vec<usize>, Vec<u8>);

/// Every input of a sample.
fn input_arrays(
    graph: &Graph,
    samples: &dyn Samples,
    sample: usize,
) -> Result<Vec<Array>, LearnError> {
    let array = |(at, id): (usize, &ValueId)| {
        let value = graph.value(*id);
        let (shape, bytes) =
            samples.input(sample, at, &value.name, value.dtype).map_err(EvaluateError::Sample)?;
        if shape.len() != value.shape.len()
            || bytes.len() != shape.iter().product::<usize>() * value.dtype.size()
        {
            return Err(LearnError::Evaluate(EvaluateError::Sample(format!(
                "sample {sample} doesn't fit input `{}`",
                value.name
            ))));
        }
        Ok((shape, bytes))
    };
    graph.inputs.iter().enumerate().map(array).collect()
}

fn input_tensor(
    graph: &Graph,
    id: ValueId,
    shape: Vec<usize>,
    bytes: &[u8],
) -> Result<Tensor, LearnError> {
    let value = graph.value(id);
    let data = bytes::Bytes::copy_from_slice(bytes);
    let tensor = crate::tensor::Tensor { dtype: value.dtype, shape: shape.clone(), data };
    match value.dtype {
        DType::F32 => Ok(Tensor::from_vec(tensor.to_f32(), shape, &Device::Cpu)?),
        DType::I64 | DType::I32 => Ok(Tensor::from_vec(tensor.to_i64(), shape, &Device::Cpu)?),
        other => Err(LearnError::Model(format!("input `{}` is {other:?}", value.name))),
    }
}

/// The values of the symbols that inputs of these shapes give.
fn sizes_of(graph: &Graph, arrays: &[Array]) -> Vec<i64> {
    let mut sizes: Vec<i64> = graph.symbols.iter().map(|symbol| symbol.min).collect();
    for (id, (shape, _)) in graph.inputs.iter().zip(arrays) {
        for (dim, size) in graph.value(*id).shape.iter().zip(shape) {
            let symbol = (0..sizes.len()).find(|at| *dim == Dim::symbol(*at as u32));
            if let Some(symbol) = symbol {
                sizes[symbol] = i64::try_from(*size).unwrap_or(i64::MAX);
            }
        }
    }
    sizes
}

/// Bytes of the tensors that are alive together, for one sample.
fn peak_bytes(graph: &Graph, sizes: &[i64]) -> usize {
    let bytes = |id: ValueId| {
        let elements = graph
            .value(id)
            .shape
            .iter()
            .map(|dim| usize::try_from(dim.eval(sizes).unwrap_or(1)).unwrap_or(1));
        elements.fold(4usize, usize::saturating_mul)
    };
    let last = last_uses(graph);
    let mut alive: usize = graph.inputs.iter().map(|id| bytes(*id)).sum();
    let mut peak = alive;
    for (at, node) in graph.nodes.iter().enumerate() {
        alive = node.outputs.iter().fold(alive, |alive, id| alive.saturating_add(bytes(*id)));
        peak = peak.max(alive);
        let mut inputs: Vec<ValueId> = node.inputs.iter().flatten().copied().collect();
        inputs.sort();
        inputs.dedup();
        for id in inputs {
            if last[id.0 as usize] == at && graph.constant(id).is_none() {
                alive = alive.saturating_sub(bytes(id));
            }
        }
    }
    peak
}

/// The last node that reads each value; beyond all for results.
pub(super) fn last_uses(graph: &Graph) -> Vec<usize> {
    let mut last = vec![0; graph.values.len()];
    for (at, node) in graph.nodes.iter().enumerate() {
        node.inputs.iter().flatten().for_each(|id| last[id.0 as usize] = at);
    }
    graph.results().for_each(|id| last[id.0 as usize] = usize::MAX);
    last
}

/// Some samples of some values, as batches: one of all where samples stack, else one a sample.
pub(super) fn batches(
    forward: &Forward<'_>,
    store: &PerSample,
    values: &[ValueId],
    samples: &[usize],
) -> Result<Vec<(usize, Values)>, LearnError> {
    let per_batch = if forward.stacks() { samples.len().max(1) } else { 1 };
    let batch = |samples: &[usize]| {
        let mut batch = Values::new();
        for id in values {
            let Some(tensors) = store.get(id) else { continue };
            // What no sample has a part in is the same for all.
            let own = if forward.is_batched(*id) { samples } else { &samples[..1] };
            batch.insert(*id, stack(tensors, own)?);
        }
        Ok((samples.len(), batch))
    };
    samples.chunks(per_batch).map(batch).collect()
}

/// Tensors of samples behind one another.
pub(super) fn stack(tensors: &[Tensor], samples: &[usize]) -> Result<Tensor, LearnError> {
    if let [sample] = samples {
        return Ok(tensors[*sample].clone());
    }
    let chosen: Vec<&Tensor> = samples.iter().map(|sample| &tensors[*sample]).collect();
    Ok(Tensor::cat(&chosen, 0)?)
}

/// Runs one node for every sample. `fixed` has values in place of constants and of what nodes make.
pub(super) fn advance(
    forward: &Forward<'_>,
    node: usize,
    samples: usize,
    fixed: &Values,
    store: &mut PerSample,
) -> Result<(), LearnError> {
    let node_ = &forward.graph().nodes[node];
    let per_sample = node_.outputs.iter().any(|id| forward.is_batched(*id));
    let reads: Vec<ValueId> = node_.inputs.iter().flatten().copied().collect();
    let all: Vec<usize> = if per_sample { (0..samples).collect() } else { vec![0] };
    let mut made: PerSample = PerSample::new();
    for chunk in all.chunks(CHUNK) {
        for (batch, mut values) in batches(forward, store, &reads, chunk)? {
            values.extend(fixed.iter().map(|(id, tensor)| (*id, tensor.clone())));
            forward.step(batch, node, &mut values)?;
            for id in &node_.outputs {
                let Some(tensor) = values.get(id) else { continue };
                let into = made.entry(*id).or_default();
                if batch == 1 {
                    into.push(tensor.clone());
                    continue;
                }
                let own = tensor.dim(0)? / batch;
                for sample in 0..batch {
                    into.push(tensor.narrow(0, sample * own, own)?);
                }
            }
        }
    }
    for (id, mut tensors) in made {
        if !per_sample {
            // The same for every sample.
            tensors = vec![tensors[0].clone(); samples];
        }
        store.insert(id, tensors);
    }
    Ok(())
}
