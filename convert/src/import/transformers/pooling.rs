//! Sentence embeddings: one vector out of those of all tokens, as the files of sentence-transformers say or the
//! caller chooses.

use std::path::Path;

use whit::DType;

use super::blocks::{Block, Blocks};
use super::encoder::Inputs;
use super::{optional_config, read_text};
use crate::dim::Dim;
use crate::error::ImportError;
use crate::graph::{BinaryKind, NormKind, Op, ReduceKind, ValueId};
use crate::import::Pooling;

/// What the modules beside the transformer do.
#[derive(Clone, Debug, Default)]
pub(crate) struct SentenceTransformer {
    pooling: Option<Pooling>,
    normalizes: bool,
    /// Tokens that a text is cut to.
    pub(super) max_tokens: Option<usize>,
}

/// A row of `modules.json`.
#[derive(serde::Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

impl SentenceTransformer {
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
                "Pooling" => {
                    // A folder beside the file and nowhere else.
                    if Path::new(&path).file_name().is_none_or(|name| name != &*path) {
                        return Err(wrong(format!(
                            "`{path}` is not the name of a folder beside it"
                        )));
                    }
                    found.pooling = Some(pooling_of(folder, &format!("{path}/config.json"))?);
                }
                "Normalize" => found.normalizes = true,
                other => {
                    return Err(wrong(format!(
                        "modules of type {other} are not supported; Transformer, Pooling and Normalize are. Without \
                         modules.json beside it, the transformer is converted alone"
                    )));
                }
            }
        }
        Ok(Some(found))
    }
}

/// The one way of pooling that a configuration chooses.
fn pooling_of(folder: &Path, file: &str) -> Result<Pooling, ImportError> {
    const KEYS: [(&str, Option<Pooling>); 6] = [
        ("pooling_mode_mean_tokens", Some(Pooling::Mean)),
        ("pooling_mode_cls_token", Some(Pooling::Cls)),
        ("pooling_mode_max_tokens", Some(Pooling::Max)),
        ("pooling_mode_mean_sqrt_len_tokens", None),
        ("pooling_mode_weightedmean_tokens", None),
        ("pooling_mode_lasttoken", None),
    ];
    let wrong = |problem: String| ImportError::Config { file: file.to_owned(), problem };
    let config =
        optional_config(folder, file)?.ok_or_else(|| wrong("the file is missing".to_owned()))?;
    let mut chosen = Vec::new();
    for (key, pooling) in KEYS {
        if config.flag_or(key, false)? {
            chosen.push((key, pooling));
        }
    }
    match chosen[..] {
        [(_, Some(pooling))] => Ok(pooling),
        [(key, None)] => Err(config.wrong(key, "is not supported; mean, cls and max are")),
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
    if blocks.sentences.is_some_and(|sentences| sentences.normalizes) {
        vector = normalized(blocks, vector)?;
        blocks.metadata("embedding.normalize", 1);
    }
    blocks.output("embedding", vector);
    Ok(())
}

/// `[batch, seq, width]` to `[batch, width]`.
fn pooled(blocks: &mut Blocks<'_>, hidden: ValueId, inputs: &Inputs, pooling: Pooling) -> Block {
    let shape = blocks.shape(hidden);
    let (first, one) = (Dim::from(0i64), Dim::from(1i64));
    let vectors = vec![shape[0].clone(), shape[2].clone()];
    let mask = inputs.mask;
    blocks.at("pooling", |c| match pooling {
        Pooling::None | Pooling::Cls => {
            let token = c.part_of(hidden, 1, &first, &one)?;
            c.reshape(token, vectors)
        }
        Pooling::Mean => {
            // Never 0, which a text without tokens would be divided by.
            const FEWEST: f64 = 1e-9;
            let mask = c.cast(mask, DType::F32)?;
            let count = c.reduce(ReduceKind::Sum, mask, &[1], true)?;
            let count = c.with_number(BinaryKind::Max, count, FEWEST)?;
            let row = c.unsqueeze(mask, 1)?;
            let sum = c.matmul(row, hidden)?;
            let sum = c.reshape(sum, vectors)?;
            c.div(sum, count)
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
