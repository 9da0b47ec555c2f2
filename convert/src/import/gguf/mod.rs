//! GGUF, the container of llama.cpp's models: metadata, tensors in blocks, a tokenizer.

mod error;
mod file;
mod types;

pub use error::GgufError;
pub use file::{Array, File, Metadata, Numbers, TensorInfo, Value};
pub use types::{GGML_TYPES, GgmlType};
