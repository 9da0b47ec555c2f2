//! Reads models of other frameworks into a [`Graph`].

use std::path::Path;

use bytes::Bytes;

use crate::error::ImportError;
use crate::graph::{Graph, Node, Op};
use crate::tensor::Tensor;

mod builder;
mod compose;
mod dims;
mod failure;
mod fold;
pub mod gguf;
mod inputs;
mod llama2c;
pub mod onnx;
mod phases;
mod prune;
mod shapes;
pub mod tflite;
pub mod transformers;

pub use llama2c::llama2c_tokenizer;

/// What the caller decides about a model.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Sizes or bounds of dynamic dimensions, by symbol name or `INPUT:AXIS`.
    pub dims: Vec<(String, DimChoice)>,
    /// Inputs that the caller provides in another layout than the model's, by name.
    pub input_layouts: Vec<(String, InputLayout)>,
    /// Inputs that always have this value, by name: they become constants of the converted model.
    pub input_values: Vec<(String, Tensor)>,
    /// NonMaxSuppression gives as many rows as could be needed; those that aren't hold −1.
    pub pad_boxes: bool,
    /// Positions that a decoder keeps keys and values for; at most 4096 of the model's own number without.
    pub context: Option<usize>,
    /// Sequences that a decoder keeps keys and values of, one without.
    pub sequences: Option<usize>,
    /// How a decoder keeps keys and values.
    pub kv_cache: KvCache,
    /// A model of speech tells which sound a token attends to, for times of words.
    pub word_times: bool,
    /// How an encoder's vectors of tokens become one of the text; as the model's files say without.
    pub pooling: Option<Pooling>,
}

/// How a decoder keeps the keys and values of its context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvCache {
    /// In f16.
    #[default]
    F16,
    /// As they are, in f32.
    F32,
    /// In i8, with a scale in f16 for every 32: 53 % of the bytes.
    Q8,
}

/// How the vectors of a text's tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Not at all.
    None,
    /// Their mean.
    Mean,
    /// That of the first token.
    Cls,
    /// The largest of each element.
    Max,
    /// Their sum over the square root of their number.
    MeanSqrt,
    /// Their mean, weighted by their positions from 1 on.
    WeightedMean,
    /// That of the last token.
    Last,
}

impl Pooling {
    /// As metadata and options have it.
    pub fn name(self) -> &'static str {
        match self {
            Pooling::None => "none",
            Pooling::Mean => "mean",
            Pooling::Cls => "cls",
            Pooling::Max => "max",
            Pooling::MeanSqrt => "mean-sqrt",
            Pooling::WeightedMean => "weighted-mean",
            Pooling::Last => "last",
        }
    }
}

/// What becomes of a dynamic dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DimChoice {
    /// Always this size.
    Fixed(i64),
    /// From the first to the second, both included; the arena is planned for the second.
    Range(i64, i64),
}

/// Order of the axes of an input, as the caller of the converted model provides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputLayout {
    /// As in the model.
    AsModel,
    /// The model reads NCHW (NCW); the caller provides NHWC (NWC).
    Nhwc,
}

/// Imports the model in a file or folder; what it is follows from its contents, then from its extension.
///
/// # Errors
///
/// [`ImportError::Format`] for a file in another format, and whatever [`onnx::import_onnx`],
/// [`tflite::import_tflite`] or [`transformers::import_transformers`] returns.
pub fn import_file(path: impl AsRef<Path>, options: &ImportOptions) -> Result<Graph, ImportError> {
    let graph = import_any(path.as_ref(), options)?;
    let keeps = |node: &Node| matches!(node.op, Op::CachedAttention(_));
    let asked = [
        ("--kv-cache", options.kv_cache != KvCache::F16),
        ("--sequences", options.sequences.is_some()),
    ];
    if let Some((option, _)) = asked.into_iter().find(|(_, is_asked)| *is_asked)
        && !graph.nodes.iter().any(keeps)
    {
        let problem = format!("it keeps no keys and values of a context; leave {option} out");
        return Err(ImportError::Option { option, problem });
    }
    let hears = |node: &Node| matches!(node.op, Op::CrossAttention(_));
    if options.word_times && !graph.nodes.iter().any(hears) {
        let problem = "it writes down no speech; leave it out".to_owned();
        return Err(ImportError::Option { option: "--word-times", problem });
    }
    Ok(graph)
}

fn import_any(path: &Path, options: &ImportOptions) -> Result<Graph, ImportError> {
    if path.is_dir() {
        return transformers::import_transformers(path, options);
    }
    let bytes = map_file(path)?;
    if transformers::is_transformers(path, &bytes) {
        return transformers::import_transformers(path, options);
    }
    if gguf::is_gguf(&bytes) {
        return gguf::import_gguf(&bytes, options);
    }
    if tflite::is_tflite(&bytes) {
        return tflite::import_tflite(bytes, options);
    }
    if let Some((what, remedy)) = other_format(&bytes, path) {
        return Err(ImportError::Format {
            file: path.display().to_string(),
            what: what.to_owned(),
            remedy: remedy.to_owned(),
        });
    }
    // A bare file name has the empty path as its parent, which is not a directory to look in.
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    onnx::import_onnx(bytes, Some(parent), options)
}

/// The bytes of a file, mapped so that weights are read where they are used and never copied whole.
fn map_file(path: &Path) -> Result<Bytes, ImportError> {
    let io = |source| ImportError::Io { path: path.to_owned(), source };
    Ok(match std::fs::metadata(path).map_err(io)?.len() {
        0 => Bytes::new(),
        _ => Bytes::from_owner(whit::ModelFile::open(path).map_err(io)?),
    })
}

/// What a file is and what to do with it, when it isn't one that is imported.
fn other_format(bytes: &[u8], path: &Path) -> Option<(&'static str, &'static str)> {
    const ORT: (&str, &str) =
        ("an ONNX Runtime (.ort) model", ": use the .onnx file that it was made from");
    const TORCH: (&str, &str) = (
        "a PyTorch file or another zip archive",
        ": put the config.json of a transformer beside its checkpoint, export other models with torch.onnx.export",
    );
    const HDF5: (&str, &str) = ("a Keras or HDF5 file", ": export it with tf2onnx");
    match bytes {
        [] => return Some(("empty", "")),
        [_, _, _, _, b'O', b'R', b'T', b'M', ..] => return Some(ORT),
        [b'P', b'K', 3, 4, ..] => return Some(TORCH),
        [0x89, b'H', b'D', b'F', ..] => return Some(HDF5),
        _ => {}
    }
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    match extension.as_str() {
        "tflite" => Some(("not a TensorFlow Lite model, whatever it is called", "")),
        "gguf" => Some(("not a GGUF model, whatever it is called", "")),
        "ort" => Some(ORT),
        "pt" | "pth" | "ckpt" => Some(TORCH),
        "h5" | "hdf5" | "keras" => Some(HDF5),
        "onnx" => None,
        // Every ONNX file starts with its IR version, field 1.
        _ if bytes.first() == Some(&0x08) => None,
        _ => Some(("in a format that isn't recognised", "")),
    }
}
