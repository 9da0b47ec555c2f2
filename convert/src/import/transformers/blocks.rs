//! What transformers are made of, as functions that read a model's parameters by name and add nodes called after
//! the modules that hold them.

use std::collections::HashMap;

use whit::DType;

use super::config::Config;
use super::pooling::SentenceTransformer;
use super::weights::{self, Weight, Weights};
use crate::dim::Dim;
use crate::error::ImportError;
use crate::graph::{
    Attention, Clamp, Factors, Graph, Groups, MatMul, NormKind, Op, UnaryKind, ValueId,
};
use crate::import::builder::Builder;
use crate::import::compose::Compose;
use crate::import::failure::{Failure, invalid};
use crate::import::inputs::{self, Axis, Declared, Dynamic};
use crate::import::{DimChoice, ImportOptions};
use crate::tensor::Tensor;

/// A value, or what is wrong with the model.
pub(crate) type Block = Result<ValueId, ImportError>;

/// An input: its name, its type, the symbols that are its first axes, and the sizes of the others.
pub(crate) type Input<'i> = (&'i str, DType, &'i [&'i str], &'i [i64]);

/// A model under construction.
pub(crate) struct Blocks<'m> {
    pub(crate) config: &'m Config,
    pub(crate) options: &'m ImportOptions,
    /// What the files of sentence-transformers say, when they are there.
    pub(super) sentences: Option<&'m SentenceTransformer>,
    pub(crate) builder: Builder,
    /// Stands before the names of all parameters and modules.
    pub(crate) prefix: String,
    weights: &'m dyn Weights,
    /// Parameters that are constants already.
    constants: HashMap<String, ValueId>,
    notes: Vec<String>,
}

/// Several parameters as one, along the axis of outputs.
struct Stacked {
    tensor: Tensor,
    groups: Option<Groups>,
}

impl<'m> Blocks<'m> {
    pub(super) fn new(
        config: &'m Config,
        weights: &'m dyn Weights,
        sentences: Option<&'m SentenceTransformer>,
        options: &'m ImportOptions,
    ) -> Blocks<'m> {
        let builder = Builder::new(Graph::default(), weights.bytes());
        let (prefix, constants, notes) = (String::new(), HashMap::new(), Vec::new());
        Blocks { config, options, sentences, builder, prefix, weights, constants, notes }
    }

    /// The graph, and remarks for the user.
    pub(super) fn finish(mut self) -> Graph {
        let notes = self.notes.into_iter().map(|note| ("note".to_owned(), note));
        self.builder.graph.metadata.extend(notes);
        crate::import::prune::pruned(self.builder.graph)
    }

    // Interface.

    /// Adds the model's inputs. `ranges` has the sizes that each symbol can take unless the caller chose others.
    pub(crate) fn inputs(
        &mut self,
        inputs: &[Input<'_>],
        ranges: &[(&str, i64, i64)],
    ) -> Result<Vec<ValueId>, ImportError> {
        if let Some((name, _)) = self.options.input_layouts.first() {
            let problem = "it is no image; leave out --input-layout".to_owned();
            return Err(ImportError::Input { input: name.clone(), problem });
        }
        let places = |symbol: &str| {
            let occurrences = inputs.iter().flat_map(|(name, _, axes, _)| {
                let at = axes.iter().position(|axis| *axis == symbol)?;
                Some(((*name).to_owned(), at))
            });
            occurrences.collect()
        };
        let dynamics = ranges.iter().map(|(symbol, low, high)| Dynamic {
            name: (*symbol).to_owned(),
            named: true,
            places: places(symbol),
            choice: None,
            default: Some(DimChoice::Range(*low, *high)),
        });
        let index = |axis: &&str| {
            let index = ranges.iter().position(|(symbol, ..)| symbol == axis);
            Axis::Dynamic(index.expect("every axis of an input has a range"))
        };
        let declared: Vec<Declared> = inputs
            .iter()
            .map(|(name, _, axes, sizes)| Declared {
                name: (*name).to_owned(),
                axes: axes.iter().map(index).chain(sizes.iter().map(|s| Axis::Size(*s))).collect(),
            })
            .collect();
        let (builder, notes) = (&mut self.builder, &mut self.notes);
        let shapes = inputs::sizes(builder, &declared, dynamics.collect(), self.options, notes)?;
        let mut ids = Vec::new();
        for ((name, dtype, ..), shape) in inputs.iter().zip(shapes) {
            let wrong = |failure: Failure| ImportError::Input {
                input: (*name).to_owned(),
                problem: failure.text(),
            };
            let given = self.options.input_values.iter().find(|(of, _)| of == name);
            ids.push(match given {
                Some((_, value)) => {
                    notes.push(format!("input `{name}` fixed to the value given"));
                    let tensor = inputs::given(builder, name, *dtype, &shape, value)?;
                    builder.constant((*name).to_owned(), tensor)
                }
                None => {
                    let id = builder.value((*name).to_owned(), *dtype, shape).map_err(wrong)?;
                    builder.graph.inputs.push(id);
                    id
                }
            });
        }
        Ok(ids)
    }

    /// Makes a computed value an output, under a name.
    pub(crate) fn output(&mut self, name: &str, id: ValueId) {
        self.builder.graph.value_mut(id).name = name.to_owned();
        self.builder.graph.outputs.push(id);
    }

    /// Adds a key to the file's metadata.
    pub(crate) fn metadata(&mut self, key: &str, value: impl ToString) {
        self.builder.graph.metadata.push((key.to_owned(), value.to_string()));
    }

    /// Tells the user something.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    // Nodes.

    /// Adds nodes under a name; what fails is told under that name.
    pub(crate) fn at<T>(
        &mut self,
        name: &str,
        compose: impl FnOnce(&mut Compose<'_, '_>) -> Result<T, Failure>,
    ) -> Result<T, ImportError> {
        let node = format!("{}{name}", self.prefix);
        let made = compose(&mut Compose::new(&mut self.builder, &node));
        made.map_err(|failure| ImportError::Model(format!("module `{node}`: {}", failure.text())))
    }

    pub(crate) fn shape(&self, id: ValueId) -> Vec<Dim> {
        self.builder.shape(id)
    }

    // Parameters.

    /// Whether there is a parameter of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.weights.shape(&format!("{}{name}", self.prefix)).is_some()
    }

    /// Takes the first of these as the prefix of all names that makes `name` a parameter; none of them makes
    /// the error name what is missing.
    pub(crate) fn find_prefix(&mut self, prefixes: &[&str], name: &str) {
        let found = prefixes.iter().find(|p| self.weights.shape(&format!("{p}{name}")).is_some());
        self.prefix = found.map_or(String::new(), |prefix| (*prefix).to_owned());
    }

    /// The shape of a parameter, if it is there.
    pub(crate) fn shape_of(&self, name: &str) -> Option<Vec<usize>> {
        self.weights.shape(&format!("{}{name}", self.prefix))
    }

    /// A table of embeddings or the weights of the layer behind the last one: in groups or f32, one constant for both uses.
    pub(crate) fn table(&mut self, name: &str, shape: &[usize]) -> Block {
        let id = self.constant(name, shape)?;
        if self.builder.graph.value(id).groups.is_some() {
            return Ok(id);
        }
        let id = self.at(name, |c| c.cast(id, DType::F32))?;
        self.constants.insert(format!("{}{name}", self.prefix), id);
        Ok(id)
    }

    /// A parameter of this shape, as it is stored.
    pub(crate) fn stored(&self, name: &str, shape: &[usize]) -> Result<Weight, ImportError> {
        weights::expect(self.weights, &format!("{}{name}", self.prefix), shape)
    }

    /// A parameter of this shape as a constant of f32; one in groups is widened.
    pub(crate) fn parameter(&mut self, name: &str, shape: &[usize]) -> Block {
        let id = self.constant(name, shape)?;
        if self.builder.graph.value(id).groups.is_some() {
            let real = self.stored(name, shape)?.real();
            return Ok(self.builder.constant(format!("{}{name}", self.prefix), real));
        }
        self.at(name, |c| c.cast(id, DType::F32))
    }

    /// A parameter of this shape as a constant of the type that it is stored in, once however often it is asked for.
    fn constant(&mut self, name: &str, shape: &[usize]) -> Block {
        let full = format!("{}{name}", self.prefix);
        if let Some(id) = self.constants.get(&full) {
            return Ok(*id);
        }
        let Weight { tensor, groups } = self.stored(name, shape)?;
        let id = self.builder.constant(full.clone(), tensor);
        self.builder.graph.value_mut(id).groups = groups;
        self.constants.insert(full, id);
        Ok(id)
    }

    /// `x · weightᵀ + bias` of the module `name`, with a bias if there is one.
    pub(crate) fn linear(
        &mut self,
        x: ValueId,
        name: &str,
        inputs: usize,
        outputs: usize,
    ) -> Block {
        let weight = self.constant(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = format!("{name}.bias");
        let bias = self.has(&bias).then(|| self.parameter(&bias, &[outputs])).transpose()?;
        self.product(name, x, weight, bias, outputs)
    }

    /// Linear layers that read the same, each a module and its outputs, as one whose results lie one behind the other.
    pub(crate) fn linears(
        &mut self,
        x: ValueId,
        name: &str,
        modules: &[(&str, usize)],
        inputs: usize,
    ) -> Block {
        let mut stored = Vec::new();
        for (module, outputs) in modules {
            stored.push(self.stored(&format!("{module}.weight"), &[*outputs, inputs])?);
        }
        let Some(Stacked { tensor, groups }) = stack(&stored) else {
            let mut parts = Vec::new();
            for (module, outputs) in modules {
                parts.push(self.linear(x, module, inputs, *outputs)?);
            }
            let last = self.shape(x).len() - 1;
            return self.at(name, |c| c.concat(&parts, last));
        };
        let outputs = tensor.shape[0];
        let has_bias = modules.iter().any(|(module, _)| self.has(&format!("{module}.bias")));
        let bias = if has_bias {
            let mut values = Vec::with_capacity(outputs);
            for (module, outputs) in modules {
                let bias = format!("{module}.bias");
                match self.has(&bias) {
                    true => values.extend(self.stored(&bias, &[*outputs])?.tensor.to_f32()),
                    false => values.resize(values.len() + outputs, 0.0),
                }
            }
            let bias = Tensor::from_f32([outputs], &values);
            Some(self.builder.constant(format!("{}{name}.bias", self.prefix), bias))
        } else {
            None
        };
        let weight = self.builder.constant(format!("{}{name}.weight", self.prefix), tensor);
        self.builder.graph.value_mut(weight).groups = groups;
        self.product(name, x, weight, bias, outputs)
    }

    /// `x · weightᵀ + bias`, weights `[outputs, inputs]`.
    pub(crate) fn product(
        &mut self,
        name: &str,
        x: ValueId,
        weight: ValueId,
        bias: Option<ValueId>,
        outputs: usize,
    ) -> Block {
        let mut shape = self.shape(x);
        if let Some(last) = shape.last_mut() {
            *last = Dim::from(outputs);
        }
        let grouped = self.builder.graph.value(weight).groups.is_some();
        self.at(name, |c| {
            let weight = if grouped { weight } else { c.cast(weight, DType::F32)? };
            let op = Op::MatMul(MatMul {
                transpose_a: false,
                transpose_b: true,
                clamp: Clamp::NONE,
                inner_quant: None,
            });
            let operands: Vec<ValueId> = [x, weight].into_iter().chain(bias).collect();
            c.main().emit("", op, &operands, DType::F32, shape)
        })
    }

    /// The rows of the module `name`'s table that `ids` says, times a factor: `[…] → […, width]`.
    pub(crate) fn embedding(
        &mut self,
        ids: ValueId,
        name: &str,
        (rows, width): (usize, usize),
        scale: f32,
    ) -> Block {
        let table = self.table(&format!("{name}.weight"), &[rows, width])?;
        let mut shape = self.shape(ids);
        shape.push(Dim::from(width));
        let op = Op::Embedding { scale };
        self.at(name, |c| c.main().emit("", op, &[table, ids], DType::F32, shape))
    }

    /// Layer normalisation over the last axis by the module `name`, with a bias if there is one.
    pub(crate) fn layer_norm(&mut self, x: ValueId, name: &str, epsilon: f32) -> Block {
        self.norm(x, name, NormKind::Layer, epsilon)
    }

    fn norm(&mut self, x: ValueId, name: &str, kind: NormKind, epsilon: f32) -> Block {
        let shape = self.shape(x);
        let size = shape.last().and_then(Dim::as_const).and_then(|d| usize::try_from(d).ok());
        let size = size.expect("the width of a model is fixed");
        let scale = self.parameter(&format!("{name}.weight"), &[size])?;
        let bias = format!("{name}.bias");
        let bias = self.has(&bias).then(|| self.parameter(&bias, &[size])).transpose()?;
        let op = Op::Normalize { kind, axis: shape.len() - 1, epsilon };
        let operands: Vec<ValueId> = [x, scale].into_iter().chain(bias).collect();
        self.at(name, |c| c.main().emit("", op, &operands, DType::F32, shape))
    }

    /// An activation function by the name that a configuration gives it under `key`.
    pub(crate) fn activation(&mut self, x: ValueId, name: &str, key: &str) -> Block {
        let kind = activation_kind(self.config, key, self.config.text(key)?)?;
        self.at(name, |c| c.main().unary(kind, x))
    }

    /// Parts `[batch, seq, heads * size]` that lie one behind the other along the last axis of `x`, each as
    /// `[batch, heads, seq, size]`.
    pub(crate) fn heads(
        &mut self,
        x: ValueId,
        name: &str,
        parts: usize,
        heads: usize,
        size: usize,
    ) -> Result<Vec<ValueId>, ImportError> {
        let shape = self.shape(x);
        self.at(name, |c| {
            let [batch, seq, _] = shape.as_slice() else {
                return Err(invalid(format!("{} axes instead of 3", shape.len())));
            };
            let (heads, size) = (Dim::from(heads), Dim::from(size));
            let (one, all) = (Dim::from(1i64), Dim::from(parts));
            let apart = vec![batch.clone(), seq.clone(), all, heads.clone(), size.clone()];
            let x = c.reshape(x, apart)?;
            let x = c.transpose(x, &[2, 0, 3, 1, 4])?;
            let whole = vec![batch.clone(), heads, seq.clone(), size];
            let part = |at| {
                let part = c.part_of(x, 0, &Dim::from(at), &one)?;
                c.reshape(part, whole.clone())
            };
            (0..parts).map(part).collect()
        })
    }

    /// `softmax(q · kᵀ * scale + mask) · v` of `[batch, heads, seq, size]`, as `[batch, seq, heads * size]`.
    pub(crate) fn attention(
        &mut self,
        name: &str,
        [q, k, v]: [ValueId; 3],
        mask: Option<ValueId>,
        attention: Attention,
    ) -> Block {
        let mut shape = self.shape(q);
        shape[3] = self.shape(v)[3].clone();
        let operands: Vec<ValueId> = [q, k, v].into_iter().chain(mask).collect();
        self.at(name, |c| {
            let op = Op::Attention(attention);
            let y = c.main().emit("", op, &operands, DType::F32, shape.clone())?;
            let y = c.transpose(y, &[0, 2, 1, 3])?;
            let width = shape[1].mul(&shape[3]);
            c.reshape(y, vec![shape[0].clone(), shape[2].clone(), width])
        })
    }
}

/// The activation function that a configuration calls so under `key`.
pub(super) fn activation_kind(
    config: &Config,
    key: &str,
    called: &str,
) -> Result<UnaryKind, ImportError> {
    let found = ACTIVATIONS.iter().find(|(known, _)| *known == called);
    found.map(|(_, kind)| *kind).ok_or_else(|| {
        let known: Vec<&str> = ACTIVATIONS.iter().map(|(name, _)| *name).collect();
        config.wrong(key, format!("is `{called}`; known are {}", known.join(", ")))
    })
}

/// Activation functions by their names in Hugging Face's configurations.
const ACTIVATIONS: &[(&str, UnaryKind)] = &[
    ("gelu", UnaryKind::Gelu),
    ("gelu_new", UnaryKind::GeluTanh),
    ("gelu_fast", UnaryKind::GeluTanh),
    ("gelu_pytorch_tanh", UnaryKind::GeluTanh),
    ("relu", UnaryKind::Relu),
    ("silu", UnaryKind::Silu),
    ("swish", UnaryKind::Silu),
    ("sigmoid", UnaryKind::Sigmoid),
    ("tanh", UnaryKind::Tanh),
    ("mish", UnaryKind::Mish),
];

/// Weights of layers with the same inputs as those of one layer, when they are stored alike.
fn stack(weights: &[Weight]) -> Option<Stacked> {
    let first = weights.first()?;
    let alike = |weight: &Weight| {
        let groups = match (&weight.groups, &first.groups) {
            (None, None) => true,
            (Some(a), Some(b)) => {
                let kind = |of: &Groups| (of.bits, of.size, of.min.is_some(), of.factors.is_some());
                kind(a) == kind(b) && (a.axis, b.axis) == (0, 0)
            }
            _ => false,
        };
        groups && weight.tensor.dtype == first.tensor.dtype
    };
    if !weights.iter().all(alike) {
        return None;
    }
    let outputs = weights.iter().map(|weight| weight.tensor.shape[0]).sum();
    let data: Vec<u8> = weights.iter().flat_map(|w| w.tensor.data.iter().copied()).collect();
    let shape = vec![outputs, first.tensor.shape[1]];
    let tensor = Tensor { dtype: first.tensor.dtype, shape, data: data.into() };
    let groups = first.groups.as_ref().map(|like| {
        let all = |of: fn(&Groups) -> &[f32]| -> Vec<f32> {
            weights.iter().flat_map(|weight| &weight.groups).flat_map(of).copied().collect()
        };
        let scale = all(|groups| &groups.scale);
        let min = like.min.as_ref().map(|_| all(|groups| groups.min.as_deref().unwrap_or(&[])));
        let factors = like.factors.as_ref().map(|_| Factors {
            scale: all(|groups| groups.factors.as_ref().map_or(&[], |factors| &factors.scale)),
            min: all(|groups| groups.factors.as_ref().map_or(&[], |factors| &factors.min)),
        });
        Groups { scale, min, factors, ..like.clone() }
    });
    Some(Stacked { tensor, groups })
}

#[cfg(test)]
mod tests {
    use super::*;
    use whit::kernels::conv_f32::grouped::GroupedBits;

    #[test]
    fn weights_of_a_table_are_stacked_with_their_like() {
        let weight = |bits: GroupedBits| {
            let groups =
                Groups { bits, size: 32, axis: 0, scale: vec![0.5], min: None, factors: None };
            Weight { tensor: Tensor::from_i8([1, 32], &[-127; 32]), groups: Some(groups) }
        };
        let (table, other) = (weight(GroupedBits::W4Nl), weight(GroupedBits::W8));
        let both = stack(&[table.clone(), table.clone()]).expect("alike");
        assert_eq!(
            (both.tensor.shape, both.groups.map(|g| g.scale)),
            (vec![2, 32], Some(vec![0.5; 2]))
        );
        assert!(stack(&[other.clone(), other.clone()]).is_some());
        assert!(stack(&[table.clone(), other.clone()]).is_none());
        assert!(stack(&[other, table]).is_none());
    }
}
