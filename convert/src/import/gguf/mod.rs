//! GGUF, the container of llama.cpp's models: metadata, tensors in blocks, a tokenizer.

mod blocks;
mod error;
mod file;
mod model;
mod tokenizer;
mod types;

#[cfg(test)]
pub(crate) use file::tests::Writer;

pub use error::GgufError;
pub use file::{Array, File, Metadata, Numbers, TensorInfo, Value};
pub use model::import_gguf;
pub(crate) use model::is_gguf;
pub(crate) use tokenizer::sentence_piece;
pub use tokenizer::tokenizer_metadata;
pub use types::{GGML_TYPES, GgmlType};
