//! What can go wrong while a model is converted, told so that its owner can act on it.

use std::fmt;
use std::path::PathBuf;

use crate::import::gguf::GgufError;

/// Why a model wasn't imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum ImportError {
    #[error("cannot read {}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },

    /// A file of another format.
    #[error("{file} is {what}; supported formats: {}{remedy}", SUPPORTED_FORMATS)]
    Format { file: String, what: String, remedy: String },

    #[error("not a readable ONNX file: {0}")]
    Protobuf(String),

    #[error("not a readable TFLite file: {0}")]
    Flatbuffer(String),

    #[error("{file}: {problem}")]
    Config { file: String, problem: String },

    #[error("not a readable safetensors file: {file}: {problem}")]
    Safetensors { file: String, problem: String },

    #[error("not a readable checkpoint of PyTorch: {file}: {problem}")]
    Pytorch { file: String, problem: String },

    /// A configuration of an architecture that isn't there.
    #[error("the architecture `{found}` is not supported; known are {known}")]
    Architecture { found: String, known: String },

    #[error("not a readable GGUF file: {0}")]
    Gguf(GgufError),

    /// The model contradicts itself or the specification.
    #[error("the model is not valid: {0}")]
    Model(String),

    /// What the caller chose isn't possible with this model.
    #[error("{option} doesn't go with this model: {problem}")]
    Option { option: &'static str, problem: String },

    #[error("tensor `{name}`: {problem}")]
    Tensor { name: String, problem: String },

    #[error("{op_type} `{node}` with inputs {shapes}: {problem}")]
    Node { node: String, op_type: String, shapes: String, problem: String },

    #[error("input `{input}`: {problem}")]
    Input { input: String, problem: String },

    /// Dimensions that have neither a size nor bounds.
    #[error("choose a size or bounds for {}", list_dims(.0))]
    UnspecifiedDims(Vec<UnspecifiedDim>),

    /// A `--dim` that names no dimension of the model.
    #[error("--dim {name}: no such dimension; the model has {}", list_names(.known))]
    UnknownDim { name: String, known: Vec<String> },

    #[error("--dim {name}: {problem}")]
    DimChoice { name: String, problem: String },

    /// Everything that isn't supported, at once.
    #[error("{}", list_unsupported(.0))]
    Unsupported(Vec<UnsupportedNode>),
}

// Its text is in this error's: a source would be told twice.
impl From<GgufError> for ImportError {
    fn from(error: GgufError) -> ImportError {
        ImportError::Gguf(error)
    }
}

/// What the importers read.
pub const SUPPORTED_FORMATS: &str = "ONNX (.onnx), TensorFlow Lite (.tflite), GGUF (.gguf), Hugging Face (.safetensors with config.json)";

/// A dynamic dimension for which the caller made no choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnspecifiedDim {
    /// The symbol's name, as `--dim` takes it.
    pub name: String,
    /// Where it stands first, such as ``axis 1 of input `tokens` ``.
    pub place: String,
}

/// One kind of unsupported node and how often it occurs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsupportedNode {
    /// Operator.
    pub op_type: String,
    /// Operator domain; empty for ONNX's own.
    pub domain: String,
    /// Nodes with this operator and reason.
    pub count: usize,
    /// The first of them.
    pub first_node_name: String,
    /// The first one's input types and shapes, as text.
    pub shapes: String,
    /// What exactly isn't supported.
    pub reason: String,
    /// What to do about it; may be empty.
    pub remedy: String,
}

impl UnsupportedNode {
    /// Adds this to what is known: the same problem of another node only counts.
    pub(crate) fn join(self, known: &mut Vec<UnsupportedNode>) {
        let same = |n: &&mut UnsupportedNode| {
            n.op_type == self.op_type && n.domain == self.domain && n.reason == self.reason
        };
        match known.iter_mut().find(same) {
            Some(known) => known.count += 1,
            None => known.push(self),
        }
    }
}

impl fmt::Display for UnsupportedNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.domain.is_empty() {
            write!(f, "{}::", self.domain)?;
        }
        write!(f, "{} `{}`", self.op_type, self.first_node_name)?;
        if self.count > 1 {
            write!(f, " and {} more", self.count - 1)?;
        }
        if !self.shapes.is_empty() {
            write!(f, " (inputs {})", self.shapes)?;
        }
        write!(f, ": {}", self.reason)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

fn list_unsupported(nodes: &[UnsupportedNode]) -> String {
    let total: usize = nodes.iter().map(|n| n.count).sum();
    let mut text = match total {
        1 => "1 node is not supported:".to_owned(),
        _ => format!("{total} nodes are not supported:"),
    };
    for node in nodes {
        text.push_str(&format!("\n  {node}"));
    }
    text
}

fn list_dims(dims: &[UnspecifiedDim]) -> String {
    let mut text = match dims.len() {
        1 => "1 dimension of the model:".to_owned(),
        n => format!("{n} dimensions of the model:"),
    };
    for dim in dims {
        let UnspecifiedDim { name, place } = dim;
        text.push_str(&format!("\n  --dim {name}=N or --dim {name}=1..N   ({place})"));
    }
    text
}

fn list_names(names: &[String]) -> String {
    match names {
        [] => "no dynamic dimensions".to_owned(),
        _ => names.join(", "),
    }
}
