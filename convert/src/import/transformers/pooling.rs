//! Sentence embeddings: one vector out of those of all tokens, as the files of sentence-transformers say or the
//! caller chooses, and the layers behind it.

use std::path::{Path, PathBuf};

use whit::DType;

use super::blocks::{Block, Blocks};
use super::encoder::Inputs;
use super::{optional_config, read_text, shards, weights};
use crate::dim::Dim;
use crate::error::ImportError;
use crate::graph::{BinaryKind, NormKind, Op, ReduceKind, UnaryKind, ValueId};
use crate::import::Pooling;
use crate::import::compose::Compose;
use crate::import::failure::Failure;

/// What the modules beside the transformer do.
#[derive(Clone, Debug, Default)]
pub(crate) struct SentenceTransformer {
    pooling: Option<Pooling>,
    /// Behind the pooling, in their order.
    layers: Vec<Layer>,
    /// Tokens that a text is cut to.
    pub(super) max_tokens: Option<usize>,
}

/// What becomes of the vector of a text.
#[derive(Clone, Debug)]
enum Layer {
    Normalize,
    Dense(Dense),
}

/// A linear layer with an activation function, whose weights are in a folder of its own.
#[derive(Clone, Debug)]
struct Dense {
    /// The name of its folder, and where it is.
    name: String,
    folder: PathBuf,
    inputs: usize,
    outputs: usize,
    has_bias: bool,
    activation: Option<UnaryKind>,
}

/// Activation functions of layers by the names of their classes in PyTorch; `None` for the identity.
const ACTIVATIONS: [(&str, Option<UnaryKind>); 6] = [
    ("Identity", None),
    ("Tanh", Some(UnaryKind::Tanh)),
    ("ReLU", Some(UnaryKind::Relu)),
    ("GELU", Some(UnaryKind::Gelu)),
    ("Sigmoid", Some(UnaryKind::Sigmoid)),
    ("SiLU", Some(UnaryKind::Silu)),
];

impl Dense {
    fn open(folder: &Path, name: &str) -> Result<Dense, ImportError> {
        let file = format!("{name}/config.json");
        let missing =
            ImportError::Config { file: file.clone(), problem: "the file is missing".to_owned() };
        let config = optional_config(folder, &file)?.ok_or(missing)?;
        const VECTOR: &str = "sentence_embedding";
        for key in ["module_input_name", "module_output_name"] {
            if config.text_or(key, VECTOR)? != VECTOR {
                return Err(config.wrong(key, format!("isn't `{VECTOR}`, which is supported")));
            }
        }
        // sentence-transformers' own default.
        const ACTIVATION: &str = "activation_function";
        let called = config.text_or(ACTIVATION, "Tanh")?;
        let class = called.rsplit('.').next().unwrap_or_default();
        let found = ACTIVATIONS.iter().find(|(known, _)| *known == class);
        let (_, activation) = found.ok_or_else(|| {
            let known = ACTIVATIONS.map(|(name, _)| name).join(", ");
            config.wrong(ACTIVATION, format!("is `{called}`; known are {known}"))
        })?;
        Ok(Dense {
            name: name.to_owned(),
            folder: folder.join(name),
            inputs: config.size("in_features")?,
            outputs: config.size("out_features")?,
            has_bias: config.flag_or("bias", true)?,
            activation: *activation,
        })
    }

    fn add(&self, blocks: &mut Blocks<'_>, x: ValueId) -> Block {
        let Dense { name, inputs, outputs, .. } = self;
        let width = blocks.shape(x)[1].clone();
        if !width.is(*inputs as i64) {
            let problem =
                format!("the layer takes {inputs} numbers, and what is before it gives {width:?}");
            return Err(ImportError::Config { file: format!("{name}/config.json"), problem });
        }
        let stored = shards::open(&shards::find(&self.folder)?)?;
        let weight = weights::expect(&*stored, "linear.weight", &[*outputs, *inputs])?.tensor;
        let weight = blocks.builder.constant(format!("{name}.weight"), weight);
        let bias = match self.has_bias {
            true => {
                let bias = weights::expect(&*stored, "linear.bias", &[*outputs])?.real();
                Some(blocks.builder.constant(format!("{name}.bias"), bias))
            }
            false => None,
        };
        let y = blocks.product(name, x, weight, bias, *outputs)?;
        match self.activation {
            Some(kind) => blocks.at(&format!("{name}.activation"), |c| c.main().unary(kind, y)),
            None => Ok(y),
        }
    }
}

/// A row of `modules.json`.
#[derive(serde::Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

impl SentenceTransformer {
    /// Vectors of length 1.
    pub(crate) fn normalized(pooling: Pooling) -> SentenceTransformer {
        SentenceTransformer {
            pooling: Some(pooling),
            layers: vec![Layer::Normalize],
            max_tokens: None,
        }
    }

    /// Reads `modules.json` and the files that it names; `None` without it.
    pub(super) fn open(folder: &Path) -> Result<Option<SentenceTransformer>, ImportError> {
        let path = folder.join("modules.json");
        if !path.is_file() {
            return Ok(None);
        }
        let wrong =
            |problem: String| ImportError::Config { file: "modules.json".to_owned(), problem };
        let modules: Vec<Module> = serde_json::from_str(&read_text(&path)?)
            .map_err(|error| wrong(format!("it isn't a list of modules: {error}")))?;
        let mut found = SentenceTransformer::default();
        for Module { path, kind } in modules {
            match kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" => {
                    let file = optional_config(folder, "sentence_bert_config.json")?;
                    let most = file.map(|file| file.optional_size("max_seq_length")).transpose()?;
                    found.max_tokens = most.flatten();
                }
                kind @ ("Pooling" | "Dense") => {
                    // A folder beside the file and nowhere else.
                    if Path::new(&path).file_name().is_none_or(|name| name != &*path) {
                        return Err(wrong(format!(
                            "`{path}` is not the name of a folder beside it"
                        )));
                    }
                    if kind == "Dense" {
                        found.layers.push(Layer::Dense(Dense::open(folder, &path)?));
                    } else {
                        found.pooling = Some(pooling_of(folder, &format!("{path}/config.json"))?);
                    }
                }
                "Normalize" => found.layers.push(Layer::Normalize),
                other => {
                    return Err(wrong(format!(
                        "modules of type {other} are not supported; Transformer, Pooling, Dense and Normalize are. Without \
                         modules.json beside it, the transformer is converted alone"
                    )));
                }
            }
        }
        Ok(Some(found))
    }
}

/// Ways of pooling by the keys that choose one, and by the names that sentence-transformers 6 has for them.
const POOLINGS: [(&str, &str, Pooling); 6] = [
    ("pooling_mode_mean_tokens", "mean", Pooling::Mean),
    ("pooling_mode_cls_token", "cls", Pooling::Cls),
    ("pooling_mode_max_tokens", "max", Pooling::Max),
    ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", Pooling::MeanSqrt),
    ("pooling_mode_weightedmean_tokens", "weightedmean", Pooling::WeightedMean),
    ("pooling_mode_lasttoken", "lasttoken", Pooling::Last),
];

/// The one way of pooling that a configuration chooses.
fn pooling_of(folder: &Path, file: &str) -> Result<Pooling, ImportError> {
    const NAME: &str = "pooling_mode";
    let wrong = |problem: String| ImportError::Config { file: file.to_owned(), problem };
    let config =
        optional_config(folder, file)?.ok_or_else(|| wrong("the file is missing".to_owned()))?;
    if let Some(value) = config.get(NAME) {
        let found = POOLINGS.iter().find(|(_, name, _)| value.as_str() == Some(name));
        return found.map(|(.., pooling)| *pooling).ok_or_else(|| {
            let known = POOLINGS.map(|(_, name, _)| name).join(", ");
            config.wrong(NAME, format!("is {value}, not one of {known}"))
        });
    }
    let mut chosen = Vec::new();
    for (key, _, pooling) in POOLINGS {
        if config.flag_or(key, false)? {
            chosen.push(pooling);
        }
    }
    match chosen[..] {
        [pooling] => Ok(pooling),
        _ => Err(wrong(format!("{} ways of pooling are chosen, not one", chosen.len()))),
    }
}

/// Adds an encoder's output: the pooled vector of each text, or those of all tokens.
pub(super) fn output(
    blocks: &mut Blocks<'_>,
    hidden: ValueId,
    inputs: &Inputs,
) -> Result<(), ImportError> {
    let stated = blocks.sentences.and_then(|sentences| sentences.pooling);
    let Some(pooling) = blocks.options.pooling.or(stated).filter(|p| *p != Pooling::None) else {
        blocks.output("last_hidden_state", hidden);
        return Ok(());
    };
    let mut vector = pooled(blocks, hidden, inputs, pooling)?;
    blocks.metadata("embedding.pooling", pooling.name());
    for layer in blocks.sentences.map_or(&[][..], |sentences| &sentences.layers) {
        vector = match layer {
            Layer::Normalize => {
                blocks.metadata("embedding.normalize", 1);
                normalized(blocks, vector)?
            }
            Layer::Dense(dense) => dense.add(blocks, vector)?,
        };
    }
    blocks.output("embedding", vector);
    Ok(())
}

/// `[batch, seq, width]` to `[batch, width]`.
fn pooled(blocks: &mut Blocks<'_>, hidden: ValueId, inputs: &Inputs, pooling: Pooling) -> Block {
    let shape = blocks.shape(hidden);
    let (first, one) = (Dim::from(0i64), Dim::from(1i64));
    let (tokens, vectors) = (shape[1].clone(), vec![shape[0].clone(), shape[2].clone()]);
    let mask = inputs.mask;
    // Sums of the tokens' vectors, weighted by `[batch, seq]`.
    let weighted = |c: &mut Compose<'_, '_>, weights: ValueId| -> Result<ValueId, Failure> {
        let row = c.unsqueeze(weights, 1)?;
        let sum = c.matmul(row, hidden)?;
        c.reshape(sum, vectors.clone())
    };
    // The sum of weights, never 0, which a text without tokens would be divided by.
    let total = |c: &mut Compose<'_, '_>, weights: ValueId| -> Result<ValueId, Failure> {
        const FEWEST: f64 = 1e-9;
        let count = c.reduce(ReduceKind::Sum, weights, &[1], true)?;
        c.with_number(BinaryKind::Max, count, FEWEST)
    };
    // The number of each token from 1 on, 0 for those that are none.
    let numbered = |c: &mut Compose<'_, '_>| -> Result<ValueId, Failure> {
        let mask = c.cast(mask, DType::F32)?;
        let numbers = c.range(&tokens)?;
        let numbers = c.cast(numbers, DType::F32)?;
        let numbers = c.with_number(BinaryKind::Add, numbers, 1.0)?;
        c.mul(mask, numbers)
    };
    blocks.at("pooling", |c| match pooling {
        Pooling::None | Pooling::Cls => {
            let token = c.part_of(hidden, 1, &first, &one)?;
            c.reshape(token, vectors.clone())
        }
        Pooling::Mean | Pooling::MeanSqrt => {
            let mask = c.cast(mask, DType::F32)?;
            let (sum, mut count) = (weighted(c, mask)?, total(c, mask)?);
            if pooling == Pooling::MeanSqrt {
                count = c.unary(UnaryKind::Sqrt, count)?;
            }
            c.div(sum, count)
        }
        Pooling::WeightedMean => {
            let numbers = numbered(c)?;
            let (sum, count) = (weighted(c, numbers)?, total(c, numbers)?);
            c.div(sum, count)
        }
        Pooling::Last => {
            // 1 for the token with the largest number, 0 for the others.
            let numbers = numbered(c)?;
            let largest = c.reduce(ReduceKind::Max, numbers, &[1], true)?;
            let below = c.sub(numbers, largest)?;
            let is_last = c.with_number(BinaryKind::Add, below, 1.0)?;
            let is_last = c.unary(UnaryKind::Relu, is_last)?;
            let mask = c.cast(mask, DType::F32)?;
            let is_last = c.mul(is_last, mask)?;
            weighted(c, is_last)
        }
        Pooling::Max => {
            let mask = c.cast(mask, DType::F32)?;
            let mask = c.with_number(BinaryKind::Sub, mask, 1.0)?;
            // A number that hides any activation, and to which one can be added.
            let mask = c.with_number(BinaryKind::Mul, mask, 1e9)?;
            let mask = c.unsqueeze(mask, 2)?;
            let hidden = c.add(hidden, mask)?;
            c.reduce(ReduceKind::Max, hidden, &[1], false)
        }
    })
}

/// Vectors of length 1: `x / sqrt(sum of squares)`, by way of their mean.
fn normalized(blocks: &mut Blocks<'_>, x: ValueId) -> Block {
    // Far below the mean square of any vector but 0.
    const EPSILON: f32 = 1e-24;
    let shape = blocks.shape(x);
    let width = shape[1].as_const().unwrap_or(1);
    blocks.at("normalize", |c| {
        let op = Op::Normalize { kind: NormKind::Rms, axis: 1, epsilon: EPSILON };
        let y = c.main().emit("", op, &[x], DType::F32, shape)?;
        c.scaled(y, 1.0 / (width as f32).sqrt())
    })
}
