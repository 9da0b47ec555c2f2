//! A GGUF file as a configuration and parameters under Hugging Face's names.

use std::collections::HashMap;

use serde_json::{Map, Value as Json, json};

use super::{File, GgufError, Metadata, blocks, tokenizer_metadata};
use crate::error::ImportError;
use crate::graph::Graph;
use crate::import::transformers::config::Config;
use crate::import::transformers::weights::{Weight, Weights};
use crate::import::transformers::{self, SentenceTransformer};
use crate::import::{ImportOptions, Pooling};

/// What error messages call the metadata.
const SOURCE: &str = "the GGUF file's metadata";

/// An architecture of llama.cpp.
struct Architecture {
    /// `general.architecture`.
    name: &'static str,
    /// The `model_type` that it is.
    model_type: &'static str,
    /// Names of parameters: those of every layer, by llama.cpp's name between `blk.N.` and `.weight`, and all others.
    layer: &'static str,
    names: &'static [Names],
    /// Channels that turn together are neighbours.
    interleaved: bool,
}

type Names = &'static [(&'static str, &'static str)];

/// What all that are like Llama have.
const BASE: Names = &[
    ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
    ("output", "lm_head"),
    ("attn_norm", "input_layernorm"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Modules of their own for queries, keys, values, gates and up.
const SPLIT: Names = &[
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
];

const FUSED: Names = &[("attn_qkv", "self_attn.qkv_proj"), ("ffn_up", "mlp.gate_up_proj")];

const NORM_BEFORE: Names = &[("ffn_norm", "post_attention_layernorm")];

const NORMS_AROUND: Names = &[
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

const LLAMA: &[Names] = &[BASE, SPLIT, NORM_BEFORE];

const GEMMA: &[Names] = &[BASE, SPLIT, NORMS_AROUND];

const PHI3: &[Names] = &[BASE, FUSED, NORM_BEFORE];

const GPT2: Names = &[
    ("token_embd", "wte"),
    ("position_embd", "wpe"),
    ("output_norm", "ln_f"),
    ("output", "lm_head"),
    ("attn_norm", "ln_1"),
    ("attn_qkv", "attn.c_attn"),
    ("attn_output", "attn.c_proj"),
    ("ffn_norm", "ln_2"),
    ("ffn_up", "mlp.c_fc"),
    ("ffn_down", "mlp.c_proj"),
];

const BERT: Names = &[
    ("token_embd", "embeddings.word_embeddings"),
    ("position_embd", "embeddings.position_embeddings"),
    ("token_types", "embeddings.token_type_embeddings"),
    ("token_embd_norm", "embeddings.LayerNorm"),
    ("attn_q", "attention.self.query"),
    ("attn_k", "attention.self.key"),
    ("attn_v", "attention.self.value"),
    ("attn_output", "attention.output.dense"),
    ("attn_output_norm", "attention.output.LayerNorm"),
    ("ffn_up", "intermediate.dense"),
    ("ffn_down", "output.dense"),
    ("layer_output_norm", "output.LayerNorm"),
    // Heads of models that rank or classify.
    ("cls", "classifier.dense"),
    ("cls.output", HEAD),
];

/// The last layer of a head.
const HEAD: &str = "classifier.out_proj";

const fn like_llama(
    name: &'static str,
    model_type: &'static str,
    names: &'static [Names],
    interleaved: bool,
) -> Architecture {
    Architecture { name, model_type, layer: "model.layers", names, interleaved }
}

const ARCHITECTURES: &[Architecture] = &[
    like_llama("llama", "llama", LLAMA, true),
    like_llama("qwen2", "qwen2", LLAMA, false),
    like_llama("qwen3", "qwen3", LLAMA, false),
    like_llama("smollm3", "smollm3", LLAMA, true),
    like_llama("gemma2", "gemma2", GEMMA, false),
    like_llama("gemma3", "gemma3_text", GEMMA, false),
    like_llama("phi3", "phi3", PHI3, false),
    Architecture {
        name: "gpt2",
        model_type: "gpt2",
        layer: "h",
        names: &[GPT2],
        interleaved: false,
    },
    Architecture {
        name: "bert",
        model_type: "bert",
        layer: "encoder.layer",
        names: &[BERT],
        interleaved: false,
    },
];

/// Layers of Gemma 2's largest model, whose queries are scaled by the width of a head as the others have it.
const GEMMA2_27B_LAYERS: u64 = 46;

/// Imports the model in a GGUF file.
///
/// # Errors
/// [`ImportError::Gguf`] for a file that isn't whole, [`ImportError::Architecture`] for an unknown architecture, and the others
/// for what a known one lacks.
pub fn import_gguf(bytes: &[u8], options: &ImportOptions) -> Result<Graph, ImportError> {
    let file = File::open(bytes)?;
    let metadata = file.metadata();
    let key = "general.architecture";
    let name = metadata.required(key, metadata.text(key)?)?;
    let Some(architecture) = ARCHITECTURES.iter().find(|row| row.name == name) else {
        let mut known: Vec<&str> = ARCHITECTURES.iter().map(|row| row.name).collect();
        known.sort_unstable();
        return Err(ImportError::Architecture { found: name.to_owned(), known: known.join(", ") });
    };
    let weights = GgufWeights::new(&file, architecture, bytes.len())?;
    let config = Config::new(SOURCE, config(&weights, architecture)?);
    let mut facts = vec![("source.format".to_owned(), "gguf".to_owned())];
    for key in ["general.name", "general.license"] {
        if let Some(text) = metadata.text(key)? {
            facts.push((key.replace("general", "source"), text.to_owned()));
        }
    }
    if metadata.get("tokenizer.ggml.model").is_some() {
        facts.extend(tokenizer_metadata(metadata)?);
    }
    let sentences = pooling(metadata, architecture)?.map(SentenceTransformer::normalized);
    transformers::build(&config, &weights, sentences.as_ref(), facts, options)
}

/// How an encoder's vectors of tokens become one.
fn pooling(
    metadata: &Metadata<'_>,
    architecture: &Architecture,
) -> Result<Option<Pooling>, GgufError> {
    let key = format!("{}.pooling_type", architecture.name);
    Ok(match metadata.unsigned(&key)? {
        // 4 is the vector that a ranking head reads, which is not converted.
        None | Some(0 | 4) => None,
        Some(1) => Some(Pooling::Mean),
        Some(2) => Some(Pooling::Cls),
        Some(3) => Some(Pooling::Last),
        Some(other) => {
            let problem = format!("{other} is no way of pooling that is known");
            return Err(GgufError::Key { key, problem });
        }
    })
}

/// The tensors of a file by the names that the architecture's implementation gives them.
struct GgufWeights<'f> {
    file: &'f File<'f>,
    by_name: HashMap<String, usize>,
    bytes: usize,
}

impl<'f> GgufWeights<'f> {
    fn new(
        file: &'f File<'f>,
        architecture: &Architecture,
        bytes: usize,
    ) -> Result<GgufWeights<'f>, ImportError> {
        let mut by_name = HashMap::new();
        for (index, tensor) in file.tensors().iter().enumerate() {
            // Read by `config`.
            if tensor.name.starts_with("rope_f") {
                continue;
            }
            let unknown = || ImportError::Tensor {
                name: tensor.name.to_owned(),
                problem: format!(
                    "the architecture `{}` has no such tensor here",
                    architecture.name
                ),
            };
            let (module, part) = tensor.name.rsplit_once('.').ok_or_else(unknown)?;
            let (prefix, module) = match module.strip_prefix("blk.") {
                Some(rest) => {
                    let (layer, module) = rest.split_once('.').ok_or_else(unknown)?;
                    (format!("{}.{layer}.", architecture.layer), module)
                }
                None => (String::new(), module),
            };
            let mut rows = architecture.names.iter().copied().flatten();
            let row = rows.find(|(name, _)| *name == module);
            let (_, name) = row.ok_or_else(unknown)?;
            by_name.insert(format!("{prefix}{name}.{part}"), index);
        }
        Ok(GgufWeights { file, by_name, bytes })
    }

    fn read(&self, index: usize) -> Result<Weight, ImportError> {
        let info = &self.file.tensors()[index];
        let weight = blocks::weight(info.dtype, info.shape.clone(), self.file.data(info));
        weight.ok_or_else(|| ImportError::Tensor {
            name: info.name.to_owned(),
            problem: format!(
                "its type {} can't be imported; {} can",
                info.dtype.name,
                blocks::SUPPORTED
            ),
        })
    }
}

impl Weights for GgufWeights<'_> {
    fn source(&self) -> &str {
        "the GGUF file"
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.by_name.get(name).map(|index| self.file.tensors()[*index].shape.clone())
    }

    fn tensor(&self, name: &str) -> Result<Weight, ImportError> {
        match self.by_name.get(name) {
            Some(index) => self.read(*index),
            None => Err(ImportError::Tensor {
                name: name.to_owned(),
                problem: "the GGUF file has no tensor for it".to_owned(),
            }),
        }
    }
}

/// The keys of `config.json` that the metadata stands for.
fn config(
    weights: &GgufWeights<'_>,
    architecture: &Architecture,
) -> Result<Map<String, Json>, ImportError> {
    let metadata = weights.file.metadata();
    let at = |key: &str| format!("{}.{key}", architecture.name);
    let count = |key: &str| metadata.unsigned(&at(key));
    let number = |key: &str| metadata.float(&at(key));
    let mut keys = Map::new();
    let mut put = |key: &str, value: Option<Json>| {
        if let Some(value) = value {
            keys.insert(key.to_owned(), value);
        }
    };
    put("model_type", Some(architecture.model_type.into()));
    // Every list begins with it.
    let table = architecture.names[0][0].1;
    put("vocab_size", weights.shape(&format!("{table}.weight")).map(|shape| shape[0].into()));
    // Under the names of Llama and of GPT-2.
    let counts = [
        ("embedding_length", ["hidden_size", "n_embd"]),
        ("block_count", ["num_hidden_layers", "n_layer"]),
        ("feed_forward_length", ["intermediate_size", "n_inner"]),
        ("attention.head_count", ["num_attention_heads", "n_head"]),
        ("context_length", ["max_position_embeddings", "n_positions"]),
    ];
    for (key, names) in counts {
        for name in names {
            put(name, count(key)?.map(Json::from));
        }
    }
    put("num_key_value_heads", count("attention.head_count_kv")?.map(Json::from));
    put("sliding_window", count("attention.sliding_window")?.map(Json::from));
    put("rms_norm_eps", number("attention.layer_norm_rms_epsilon")?.map(Json::from));
    put("layer_norm_epsilon", number("attention.layer_norm_epsilon")?.map(Json::from));
    put("attn_logit_softcapping", number("attn_logit_softcapping")?.map(Json::from));
    put("final_logit_softcapping", number("final_logit_softcapping")?.map(Json::from));
    put("is_transposed", Some(false.into()));
    if architecture.model_type == "bert" {
        let rows = |name: &str| weights.shape(name).map(|shape| Json::from(shape[0]));
        put("max_position_embeddings", rows("embeddings.position_embeddings.weight"));
        put("type_vocab_size", rows("embeddings.token_type_embeddings.weight"));
        put("layer_norm_eps", number("attention.layer_norm_epsilon")?.map(Json::from));
        put("hidden_act", Some("gelu".into()));
        put("is_decoder", metadata.truth(&at("attention.causal"))?.map(Json::from));
        let head = weights.shape(&format!("{HEAD}.weight"));
        put("architectures", head.map(|_| json!(["BertForSequenceClassification"])));
    }
    // Gemma's scales have their 1 in them.
    put("norm_offset", Some(0.into()));

    let heads = count("attention.head_count")?.filter(|heads| *heads > 0);
    let width = count("embedding_length")?;
    let per_head = width.zip(heads).map(|(width, heads)| width / heads);
    let size = count("attention.key_length")?.or(per_head);
    if count("attention.value_length")?.is_some_and(|value| Some(value) != size) {
        return Err(ImportError::Config {
            file: SOURCE.to_owned(),
            problem: format!(
                "`{}` is not the size of keys, which isn't supported",
                at("attention.value_length")
            ),
        });
    }
    put("head_dim", size.map(Json::from));
    if architecture.name == "gemma2" && count("block_count")? == Some(GEMMA2_27B_LAYERS) {
        put("query_pre_attn_scalar", per_head.map(Json::from));
    }

    put("rope_theta", number("rope.freq_base")?.map(Json::from));
    put("rope_interleaved", Some(architecture.interleaved.into()));
    if let (Some(turned), Some(size)) = (count("rope.dimension_count")?, size) {
        put("partial_rotary_factor", Some((turned as f64 / size.max(1) as f64).into()));
    }
    let mut factors = factors(weights)?;
    put("rope_factors", factors.remove("rope_freqs.weight"));
    let kind = match metadata.text(&at("rope.scaling.type"))? {
        _ if !factors.is_empty() => Some("longrope"),
        kind => kind.filter(|kind| *kind != "none"),
    };
    if let Some(kind) = kind {
        let mut scaling = Map::new();
        for (tensor, name) in LONG_FACTORS {
            if let Some(list) = factors.remove(*tensor) {
                scaling.insert((*name).to_owned(), list);
            }
        }
        scaling.insert("rope_type".to_owned(), kind.into());
        for (key, name) in [
            ("rope.scaling.factor", "factor"),
            ("rope.scaling.original_context_length", "original_max_position_embeddings"),
            ("rope.scaling.attn_factor", "attention_factor"),
        ] {
            if let Some(value) = metadata.get(&at(key)) {
                let value = match value {
                    super::Value::Integer(value) => json!(u64::try_from(*value).ok()),
                    _ => json!(number(key)?),
                };
                scaling.insert(name.to_owned(), value);
            }
        }
        put("rope_scaling", Some(Json::Object(scaling)));
    }
    Ok(keys)
}

/// Lists of factors of angles for short and long texts, with their names in a configuration.
const LONG_FACTORS: &[(&str, &str)] =
    &[("rope_factors_short.weight", "short_factor"), ("rope_factors_long.weight", "long_factor")];

/// The tensors that llama.cpp's converter makes of the scaling of angles in Llama 3 and Phi-3.
fn factors(weights: &GgufWeights<'_>) -> Result<HashMap<String, Json>, ImportError> {
    let mut factors = HashMap::new();
    for (index, tensor) in weights.file.tensors().iter().enumerate() {
        if !tensor.name.starts_with("rope_f") {
            continue;
        }
        let known = tensor.name == "rope_freqs.weight"
            || LONG_FACTORS.iter().any(|(name, _)| *name == tensor.name);
        if !known {
            return Err(ImportError::Tensor {
                name: tensor.name.to_owned(),
                problem: "factors of angles of this name aren't known".to_owned(),
            });
        }
        factors.insert(tensor.name.to_owned(), json!(weights.read(index)?.real().to_f32()));
    }
    Ok(factors)
}

/// Whether a file is one.
pub(crate) fn is_gguf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"GGUF")
}
