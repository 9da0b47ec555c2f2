//! Safetensors files, read where they are mapped.

use std::path::Path;

use bytes::Bytes;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata};
use whit::DType;

use super::weights::{Weight, Weights};
use crate::error::ImportError;
use crate::tensor::Tensor;

/// Bytes before the header: its length.
const LENGTH_BYTES: usize = 8;

/// The parameters of a safetensors file.
pub(super) struct SafetensorsFile {
    source: String,
    metadata: Metadata,
    /// What the offsets of the header count from.
    data: Bytes,
}

impl SafetensorsFile {
    /// Opens a `.safetensors` file.
    ///
    /// # Errors
    /// [`ImportError::Safetensors`] for a header that contradicts itself or the file's length.
    pub(super) fn open(path: &Path) -> Result<SafetensorsFile, ImportError> {
        let bytes = super::super::map_file(path)?;
        let source = file_name(path);
        let read = SafeTensors::read_metadata(&bytes);
        let (header_bytes, metadata) = read.map_err(|error| ImportError::Safetensors {
            file: source.clone(),
            problem: match error {
                safetensors::SafeTensorError::MetadataIncompleteBuffer => {
                    "its header doesn't describe as many bytes as it has: was it copied whole?"
                        .to_owned()
                }
                error => error.to_string(),
            },
        })?;
        Ok(SafetensorsFile { source, metadata, data: bytes.slice(LENGTH_BYTES + header_bytes..) })
    }
}

impl Weights for SafetensorsFile {
    fn source(&self) -> &str {
        &self.source
    }

    fn bytes(&self) -> usize {
        self.data.len()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        Some(self.metadata.info(name)?.shape.clone())
    }

    fn tensor(&self, name: &str) -> Result<Weight, ImportError> {
        let wrong = |problem: String| ImportError::Tensor { name: name.to_owned(), problem };
        let info = self.metadata.info(name);
        let info = info.ok_or_else(|| wrong(format!("{} lacks this parameter", self.source)))?;
        let dtype = match info.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => {
                return Err(wrong(format!(
                    "it holds elements of type {other}; F32, F16 and BF16 are read. Save the model in one of those \
                     with save_pretrained"
                )));
            }
        };
        // `read_metadata` proved that the offsets lie in the file and fit the shape.
        let data = self.data.slice(info.data_offsets.0..info.data_offsets.1);
        Ok(Tensor { dtype, shape: info.shape.clone(), data }.into())
    }
}

/// What messages call a file.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
