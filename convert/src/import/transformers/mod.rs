//! Hugging Face models: parameters and a configuration, which name an architecture instead of bringing a graph.
//!
//! An architecture is a file with a function that reads the configuration and adds the model's blocks
//! ([`blocks::Blocks`]); `ARCHITECTURES` says which `model_type` it is for.

use std::path::{Path, PathBuf};

use crate::error::ImportError;
use crate::graph::Graph;
use crate::import::ImportOptions;

mod albert;
mod bert;
pub(crate) mod blocks;
pub(crate) mod config;
mod decoder;
mod decoder_inputs;
mod distilbert;
mod encoder;
mod gemma;
mod gpt2;
mod llama;
mod mpnet;
mod phi3;
mod pickle;
mod pooling;
mod pytorch;
mod rope;
mod safetensors;
mod shards;
#[cfg(test)]
mod tests;
mod tokenizer;
pub(crate) mod weights;
mod whisper;

use blocks::Blocks;
use config::Config;
pub(crate) use pooling::SentenceTransformer;
use weights::Weights;

/// Adds a model's blocks, inputs and outputs.
type Architecture = fn(&mut Blocks<'_>) -> Result<(), ImportError>;

/// Every architecture, by the `model_type` of its configuration. Adding one means a row here and a file with its
/// function.
const ARCHITECTURES: &[&[(&str, Architecture)]] = &[
    albert::ARCHITECTURES,
    bert::ARCHITECTURES,
    distilbert::ARCHITECTURES,
    gemma::ARCHITECTURES,
    gpt2::ARCHITECTURES,
    llama::ARCHITECTURES,
    mpnet::ARCHITECTURES,
    phi3::ARCHITECTURES,
    whisper::ARCHITECTURES,
];

/// Text files larger than this aren't read.
const MAX_TEXT_BYTES: u64 = 1 << 28;

/// Imports the model in a folder as `save_pretrained` writes it, or of the weights' file in such a folder: a
/// `.safetensors` file or a checkpoint of PyTorch, or the `.index.json` of several.
///
/// # Errors
///
/// [`ImportError::Architecture`] lists the architectures that are known; the others name the file, key or parameter
/// that is wrong.
pub fn import_transformers(path: &Path, options: &ImportOptions) -> Result<Graph, ImportError> {
    let weights_file = weights_file(path)?;
    // A bare file name has the empty path as its parent, which is not a directory to look in.
    let parent = weights_file.parent().filter(|p| !p.as_os_str().is_empty());
    let folder = parent.unwrap_or(Path::new("."));
    let config_file = folder.join("config.json");
    if !config_file.is_file() {
        return Err(ImportError::Format {
            file: weights_file.display().to_string(),
            what: "weights without a graph, and there is no config.json beside them".to_owned(),
            remedy: ": put the config.json of the model beside it, or export the model with torch.onnx.export"
                .to_owned(),
        });
    }
    let config = Config::parse("config.json", read_text(&config_file)?.as_bytes())?;
    let weights = shards::open(&weights_file)?;
    let sentences = SentenceTransformer::open(folder)?;
    let is_pytorch = shards::is_checkpoint(&weights_file)
        || weights_file.to_string_lossy().ends_with(".bin.index.json");
    let format = if is_pytorch { "pytorch" } else { "safetensors" };
    let mut metadata = vec![("source.format".to_owned(), format.to_owned())];
    metadata.extend(tokenizer::metadata(folder, &config)?);
    if model_type(&config)? == "whisper" {
        metadata.extend(whisper::metadata(folder, &config)?);
    }
    build(&config, &*weights, sentences.as_ref(), metadata, options)
}

/// The graph of a model.
pub(crate) fn build(
    config: &Config,
    weights: &dyn Weights,
    sentences: Option<&SentenceTransformer>,
    metadata: Vec<(String, String)>,
    options: &ImportOptions,
) -> Result<Graph, ImportError> {
    let name = model_type(config)?;
    let mut rows = ARCHITECTURES.iter().copied().flatten();
    let Some((_, import)) = rows.find(|(known, _)| *known == name) else {
        let mut known: Vec<&str> = ARCHITECTURES.iter().copied().flatten().map(|r| r.0).collect();
        known.sort_unstable();
        return Err(ImportError::Architecture { found: name, known: known.join(", ") });
    };
    let mut blocks = Blocks::new(config, weights, sentences, options);
    blocks.builder.graph.name.clone_from(&name);
    blocks.builder.graph.metadata = metadata;
    blocks.metadata("model.architecture", name);
    import(&mut blocks)?;
    Ok(blocks.finish())
}

/// The kind of a model: what its configuration says, or else what the name of its class begins with.
fn model_type(config: &Config) -> Result<String, ImportError> {
    let classes = config.texts("architectures")?;
    let class = classes.first().filter(|_| config.get("model_type").is_none());
    let family =
        class.and_then(|c| c.split_once("For").map(|(f, _)| f).or(c.strip_suffix("Model")));
    match family {
        Some(family) => Ok(family.to_lowercase()),
        None => Ok(config.text("model_type")?.to_owned()),
    }
}

/// The file with the weights of a model: `path` itself, or the one in the folder `path`.
///
/// # Errors
///
/// [`ImportError::Format`] for a folder without one.
pub fn weights_file(path: &Path) -> Result<PathBuf, ImportError> {
    if path.is_dir() { shards::find(path) } else { Ok(path.to_owned()) }
}

/// Whether a path is that of a folder, or of weights that a `config.json` belongs to.
pub(super) fn is_transformers(path: &Path, bytes: &[u8]) -> bool {
    let name = path.to_string_lossy();
    let is_index = name.ends_with(".safetensors.index.json") || name.ends_with(".bin.index.json");
    let is_checkpoint = shards::is_checkpoint(path)
        && bytes.starts_with(b"PK")
        && path.with_file_name("config.json").is_file();
    let extension = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors"));
    // The length of the JSON header, below 2^48, then the header.
    is_index || is_checkpoint || extension || matches!(bytes, [_, _, _, _, _, _, 0, 0, b'{', ..])
}

/// A text file of bounded size.
fn read_text(path: &Path) -> Result<String, ImportError> {
    let io = |source| ImportError::Io { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(io)?.len() > MAX_TEXT_BYTES {
        let problem = format!("it is larger than {} MiB", MAX_TEXT_BYTES >> 20);
        return Err(ImportError::Config { file: path.display().to_string(), problem });
    }
    std::fs::read_to_string(path).map_err(io)
}

/// A JSON file beside the weights, when it is there.
fn optional_config(folder: &Path, name: &str) -> Result<Option<Config>, ImportError> {
    let path = folder.join(name);
    match path.is_file() {
        true => Ok(Some(Config::parse(name, read_text(&path)?.as_bytes())?)),
        false => Ok(None),
    }
}
