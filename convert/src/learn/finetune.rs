//! Fine-tuning by distillation: the whole quantized model is trained to give the float model's outputs, without labels.
//!
//! Weights and biases are trained behind their rounding, which gradients pass (straight-through estimator, Bengio et
//! al. 2013, arXiv:1308.3432), with the scales that there are. What stands before a final softmax is compared by
//! the Kullback-Leibler divergence of the probabilities (Hinton et al. 2015, arXiv:1503.02531), other outputs by
//! squared errors.

use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use whit::DType;

use super::data::{Data, PerSample, advance, batches, last_uses, stack};
use super::forward::{Forward, Values};
use super::kernels::round;
use super::ops::softmax;
use super::{LearnError, Learned, Random};
use crate::evaluate::Samples;
use crate::graph::{Graph, Op, ValueId};
use crate::quantize::codebook::Codebook;
use crate::quantize::numbers::output_axis;
use crate::quantize::numbers::weights_of;
use crate::quantize::quantization::Quantization;

/// Samples of a batch.
const BATCH: usize = 32;
/// Adam's step at first, in steps of the weights' grids; it falls to 0 like a cosine.
const RATE: f64 = 0.02;
/// Steps at most and at least.
const ITERATIONS: [usize; 2] = [600, 40];
/// Multiply-accumulates in all, forward and back.
const WORK: usize = 600 << 30;
/// How often the samples held out are looked at.
const LOOKS: usize = 20;
/// Looks without anything better before it ends early.
const PATIENCE: usize = 8;
/// Of so many samples one is held out.
const HELD_OUT: usize = 5;
/// A bias moves in these shares of the size of the layer's outputs, where a weight moves in steps of its grid.
const BIAS_UNIT: f32 = 0.02;

/// A layer in training.
struct Layer {
    node: usize,
    /// What stands for its weights and its bias in the graph with quantize nodes.
    weights_value: ValueId,
    bias_value: ValueId,
    /// Weights in mean steps of their integers, and how large those are.
    steps: Var,
    scales: Tensor,
    codebook: Codebook,
    /// The bias is `bias + shift * unit`.
    bias: Tensor,
    shift: Var,
    unit: f64,
}

/// An output as it is compared.
struct Compared {
    /// The value in the float graph, and in the one with quantize nodes.
    float: ValueId,
    quantized: ValueId,
    /// The axis of the softmax behind it.
    softmax: Option<usize>,
    /// The mean square of the float output, which errors are measured in.
    power: f64,
}

/// Trains the weights and biases of every layer with integer weights. `reference` is the float model, whose nodes and
/// values are those of the quantization's graph.
///
/// # Errors
/// When a sample doesn't fit, the model has a state, or an operator has no form with gradients.
pub fn learn(
    quantization: &mut Quantization,
    reference: &Graph,
    samples: &dyn Samples,
    seed: u64,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Learned, LearnError> {
    let data = Data::load(reference, samples)?;
    let float = Forward::new(reference, data.sizes.clone());
    own_biases(quantization);
    let graph = quantization.with_quantize_nodes();
    let forward = Forward::new(&graph, data.sizes.clone());
    let mut compared = find_compared(reference, &graph)?;
    let mut layers = find_layers(quantization, &graph)?;
    let teacher = teach(&float, &data, &mut compared, &mut layers, quantization)?;

    let held_out: Vec<usize> =
        (0..data.samples).filter(|at| at % HELD_OUT == HELD_OUT - 1).collect();
    let train: Vec<usize> = (0..data.samples).filter(|at| !held_out.contains(at)).collect();
    if held_out.is_empty() {
        return Err(LearnError::Model(format!(
            "fine-tuning holds a part of the samples out, and takes at least {HELD_OUT}"
        )));
    }
    let student = Student { forward: &forward, inputs: &data.inputs, teacher: &teacher, compared };
    let batch = BATCH.min(train.len());
    let macs: usize = layers.iter().map(|layer| macs(quantization, &forward, layer.node)).sum();
    let possible = WORK / (3 * batch).saturating_mul(macs).max(1);
    let iterations = possible.clamp(ITERATIONS[1], ITERATIONS[0]);

    let vars = layers.iter().flat_map(|layer| [layer.steps.clone(), layer.shift.clone()]);
    let options = ParamsAdamW { lr: RATE, weight_decay: 0.0, ..ParamsAdamW::default() };
    let mut adam = AdamW::new(vars.collect(), options)?;
    let mut random = Random::new(seed);
    let first = student.error(&layers, &held_out)?;
    let mut best = (first, None);
    let (mut order, mut since_best, mut done) = (Vec::new(), 0, 0);
    let every = iterations.div_ceil(LOOKS);
    while done < iterations && since_best < PATIENCE {
        if order.len() < batch {
            let again = random.order(train.len());
            order = again.into_iter().map(|at| train[at]).collect();
        }
        let chosen = order.split_off(order.len() - batch);
        let angle = std::f64::consts::PI * done as f64 / iterations as f64;
        adam.set_learning_rate(RATE * 0.5 * (1.0 + angle.cos()));
        student.descend(&layers, &chosen, &mut adam)?;
        done += 1;
        if done % every == 0 || done == iterations {
            progress(done, iterations);
            let error = student.error(&layers, &held_out)?;
            since_best += 1;
            if error < best.0 {
                best = (error, Some(snapshot(&layers)?));
                since_best = 0;
            }
        }
    }
    progress(iterations, iterations);
    let mut learned = Learned { samples: data.samples, iterations: done, ..Learned::default() };
    let Some(state) = best.1 else {
        learned.unchanged = layers.len();
        return Ok(learned);
    };
    for (layer, (integers, bias)) in layers.iter().zip(state) {
        learned.layers += 1;
        if let Some(weights) = quantization.weights.get_mut(&layer.node) {
            let shape = weights.values.shape.clone();
            weights.values = crate::tensor::Tensor::from_i8(shape, &integers);
        }
        let node = &quantization.graph.nodes[layer.node];
        if let Some(id) = node.inputs[2] {
            let shape = layer.bias.dims().to_vec();
            let tensor = crate::tensor::Tensor::from_f32(shape, &bias);
            quantization.graph.value_mut(id).constant = Some(Arc::new(tensor));
        }
    }
    Ok(learned)
}

/// Gives every layer with integer weights a bias that no other node reads.
fn own_biases(quantization: &mut Quantization) {
    let nodes: Vec<usize> = quantization.weights.keys().copied().collect();
    for at in nodes {
        let graph = &mut quantization.graph;
        let node = &graph.nodes[at];
        let output = output_axis(node);
        let outputs = quantization.weights[&at].values.shape[output];
        let tensor = match node.inputs.get(2).copied().flatten() {
            Some(id) => match graph.constant(id) {
                Some(bias) => bias.to_f32(),
                None => continue,
            },
            None => vec![0.0],
        };
        let all: Vec<f32> =
            (0..outputs).map(|at| tensor[if tensor.len() == 1 { 0 } else { at }]).collect();
        let name = format!("{}/bias", node.name);
        let id = graph.add_constant(name, crate::tensor::Tensor::from_f32(vec![outputs], &all));
        let inputs = &mut graph.nodes[at].inputs;
        inputs.resize(inputs.len().max(3), None);
        inputs[2] = Some(id);
    }
}

/// The outputs that can be compared: reals, before a softmax where one is last.
fn find_compared(reference: &Graph, quantized: &Graph) -> Result<Vec<Compared>, LearnError> {
    let (float_makers, makers) = (reference.producers(), quantized.producers());
    let mut compared = Vec::new();
    for (float, real) in reference.outputs.iter().zip(&quantized.outputs) {
        if reference.value(*float).dtype != DType::F32 {
            continue;
        }
        let softmax_of = |graph: &Graph, makers: &[Option<usize>], id: ValueId| {
            let node = &graph.nodes[makers[id.0 as usize]?];
            match node.op {
                Op::Softmax { axis, log: false } => Some((node.inputs[0]?, axis)),
                _ => None,
            }
        };
        // The softmax's own value keeps its number; the output may be what stands behind its rounding.
        let before = softmax_of(reference, &float_makers, *float)
            .zip(softmax_of(quantized, &makers, *float));
        compared.push(match before {
            Some(((float, axis), (quantized, _))) => {
                Compared { float, quantized, softmax: Some(axis), power: 1.0 }
            }
            None => Compared { float: *float, quantized: *real, softmax: None, power: 1.0 },
        });
    }
    if compared.is_empty() {
        return Err(LearnError::Model("no output of the model is real".into()));
    }
    Ok(compared)
}

fn find_layers(quantization: &Quantization, graph: &Graph) -> Result<Vec<Layer>, LearnError> {
    let producers = graph.producers();
    let mut layers = Vec::new();
    for (node, weights) in &quantization.weights {
        let float = &quantization.graph.nodes[*node];
        let Some(at) = producers[float.outputs[0].0 as usize] else { continue };
        let operand = |operand: usize| graph.nodes[at].inputs.get(operand).copied().flatten();
        let (Some(weights_value), Some(bias_value)) = (operand(1), operand(2)) else { continue };
        let Some(bias) = graph.constant(bias_value) else { continue };
        let shape = weights.values.shape.as_slice();
        let (scale_of, codebook) = (weights.scale_of(), weights.codebook());
        let scales: Vec<f32> = (0..weights.values.len()).map(&scale_of).collect();
        let reals = weights_of(&quantization.graph, float).map(|reals| reals.to_f32());
        // Integers that aren't the nearest ones were chosen so; training sets out from them.
        let steps =
            weights.values.to_i8().into_iter().zip(&scales).enumerate().map(|(at, (q, scale))| {
                let own = reals.as_ref().map(|reals| reals[at] / scale);
                let is_nearest =
                    |own: &f32| codebook.reaches(*own) && codebook.nearest(f64::from(*own)) == q;
                own.filter(is_nearest).unwrap_or(f32::from(q)) / codebook.step()
            });
        let steps = Tensor::from_vec(steps.collect::<Vec<f32>>(), shape, &Device::Cpu)?;
        let scales: Vec<f32> = scales.iter().map(|scale| scale * codebook.step()).collect();
        let bias = Tensor::from_vec(bias.to_f32(), bias.shape.as_slice(), &Device::Cpu)?;
        layers.push(Layer {
            node: *node,
            weights_value,
            bias_value,
            steps: Var::from_tensor(&steps)?,
            scales: Tensor::from_vec(scales, shape, &Device::Cpu)?,
            codebook,
            shift: Var::from_tensor(&bias.zeros_like()?)?,
            bias,
            unit: 1.0,
        });
    }
    if layers.is_empty() {
        return Err(LearnError::Model("no layer has integer weights".into()));
    }
    Ok(layers)
}

/// What the float model makes of every sample; on the way, how large the outputs of layers are.
fn teach(
    float: &Forward<'_>,
    data: &Data,
    compared: &mut [Compared],
    layers: &mut [Layer],
    quantization: &Quantization,
) -> Result<PerSample, LearnError> {
    let graph = float.graph();
    let last = last_uses(graph);
    let mut store = data.inputs.clone();
    let kept: Vec<ValueId> = compared.iter().map(|one| one.float).collect();
    for node in 0..graph.nodes.len() {
        advance(float, node, data.samples, &Values::new(), &mut store)?;
        if let Some(layer) = layers.iter_mut().find(|layer| layer.node == node) {
            let output = quantization.graph.nodes[node].outputs[0];
            layer.unit = f64::from(BIAS_UNIT) * mean_square(&store[&output])?.sqrt().max(1e-6);
        }
        store.retain(|id, _| last[id.0 as usize] > node || kept.contains(id));
    }
    store.retain(|id, _| kept.contains(id));
    for one in compared {
        one.power = mean_square(&store[&one.float])?.max(f64::from(f32::MIN_POSITIVE));
    }
    Ok(store)
}

fn mean_square(tensors: &[Tensor]) -> Result<f64, LearnError> {
    let mut sum = 0.0;
    for tensor in tensors {
        sum += f64::from(tensor.sqr()?.mean_all()?.to_scalar::<f32>()?);
    }
    Ok(sum / tensors.len().max(1) as f64)
}

fn macs(quantization: &Quantization, forward: &Forward<'_>, node: usize) -> usize {
    let weights = &quantization.weights[&node].values;
    let node = &quantization.graph.nodes[node];
    let outputs = forward.shape(node.outputs[0], 1).map_or(1, |shape| shape.iter().product());
    weights.len() / weights.shape[output_axis(node)].max(1) * outputs
}

/// The integers and the bias of a layer.
type Snapshot = (Vec<i8>, Vec<f32>);

fn snapshot(layers: &[Layer]) -> Result<Vec<Snapshot>, LearnError> {
    let state = |layer: &Layer| {
        let codebook = layer.codebook;
        let steps: Vec<f32> = layer.steps.flatten_all()?.to_vec1()?;
        let nearest = |w: f32| codebook.nearest(f64::from(w * codebook.step()));
        let integers = steps.into_iter().map(nearest).collect();
        Ok((integers, layer.bias()?.flatten_all()?.to_vec1()?))
    };
    layers.iter().map(state).collect()
}

impl Layer {
    fn bias(&self) -> candle_core::Result<Tensor> {
        &self.bias + (self.shift.as_tensor() * self.unit)?
    }

    fn weights(&self) -> candle_core::Result<Tensor> {
        round(&self.steps, self.codebook)? * &self.scales
    }
}

/// The quantized model, and what it is to learn.
struct Student<'s> {
    forward: &'s Forward<'s>,
    inputs: &'s PerSample,
    teacher: &'s PerSample,
    compared: Vec<Compared>,
}

impl Student<'_> {
    /// The mean error over samples, and what is to be done with it for each batch.
    fn each(
        &self,
        layers: &[Layer],
        samples: &[usize],
        see: &mut dyn FnMut(Tensor) -> Result<(), LearnError>,
    ) -> Result<(), LearnError> {
        let inputs: Vec<ValueId> = self.inputs.keys().copied().collect();
        let wanted: Vec<ValueId> = self.compared.iter().map(|one| one.quantized).collect();
        let mut at = 0;
        for (batch, mut values) in batches(self.forward, self.inputs, &inputs, samples)? {
            for layer in layers {
                values.insert(layer.weights_value, layer.weights()?);
                values.insert(layer.bias_value, layer.bias()?);
            }
            self.forward.run(batch, &mut values, &wanted)?;
            let share = batch as f64 / samples.len() as f64 / self.compared.len() as f64;
            let mut sum: Option<Tensor> = None;
            for one in &self.compared {
                let target = stack(&self.teacher[&one.float], &samples[at..at + batch])?;
                let error = (difference(one, &values[&one.quantized], &target)? * share)?;
                sum = Some(match sum {
                    Some(sum) => (sum + error)?,
                    None => error,
                });
            }
            at += batch;
            if let Some(sum) = sum {
                see(sum)?;
            }
        }
        Ok(())
    }

    fn error(&self, layers: &[Layer], samples: &[usize]) -> Result<f64, LearnError> {
        let mut error = 0.0;
        for chunk in samples.chunks(BATCH) {
            let share = chunk.len() as f64 / samples.len() as f64;
            self.each(layers, chunk, &mut |part| {
                error += share * f64::from(part.to_scalar::<f32>()?);
                Ok(())
            })?;
        }
        Ok(error)
    }

    fn descend(
        &self,
        layers: &[Layer],
        samples: &[usize],
        adam: &mut AdamW,
    ) -> Result<(), LearnError> {
        let mut sum: Option<candle_core::backprop::GradStore> = None;
        self.each(layers, samples, &mut |error| {
            let own = error.backward()?;
            match &mut sum {
                Some(sum) => sum.extend(own)?,
                None => sum = Some(own),
            }
            Ok(())
        })?;
        if let Some(gradients) = sum {
            adam.step(&gradients)?;
        }
        Ok(())
    }
}

/// How far an output is from the float model's, 1 for as far as it is from 0.
fn difference(one: &Compared, output: &Tensor, target: &Tensor) -> Result<Tensor, LearnError> {
    let square = ((output - target)?.sqr()?.mean_all()? / one.power)?;
    let Some(axis) = one.softmax else { return Ok(square) };
    let wanted = softmax(target, axis, true)?;
    let found = softmax(output, axis, true)?;
    let rows = output.elem_count() as f64 / output.dim(axis)? as f64;
    let divergence = (wanted.exp()? * (wanted - found)?)?;
    Ok((divergence.sum_all()? / rows)?)
}
