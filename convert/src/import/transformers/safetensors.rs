//! Safetensors files, one or several with an index, read where they are mapped.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata};
use serde::Deserialize;
use whit::DType;

use super::weights::{Weight, Weights};
use crate::error::ImportError;
use crate::tensor::Tensor;

/// Bytes before the header: its length.
const LENGTH_BYTES: usize = 8;

/// One mapped file.
struct Shard {
    metadata: Metadata,
    /// What the offsets of the header count from.
    data: Bytes,
}

/// The parameters of one or several safetensors files.
pub(super) struct SafetensorsFiles {
    source: String,
    shards: Vec<Shard>,
    /// Index into `shards` by name.
    by_name: HashMap<String, usize>,
}

/// `model.safetensors.index.json`: which file holds which parameter.
#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

impl SafetensorsFiles {
    /// Opens a `.safetensors` file, or the `.index.json` of several.
    ///
    /// # Errors
    /// [`ImportError::Safetensors`] for a header that contradicts itself or the file's length.
    pub(super) fn open(path: &Path) -> Result<SafetensorsFiles, ImportError> {
        let source = file_name(path);
        if path.extension().is_none_or(|extension| extension != "json") {
            let shards = vec![Shard::open(path)?];
            let by_name = shards[0].metadata.offset_keys().into_iter().map(|name| (name, 0));
            return Ok(SafetensorsFiles { source, by_name: by_name.collect(), shards });
        }
        let text = super::read_text(path)?;
        let wrong = |problem: String| ImportError::Safetensors { file: source.clone(), problem };
        let index: Index = serde_json::from_str(&text)
            .map_err(|error| wrong(format!("it isn't an index of safetensors files: {error}")))?;
        let mut shards = Vec::new();
        let mut by_file: HashMap<String, usize> = HashMap::new();
        let mut by_name = HashMap::new();
        for (name, file) in index.weight_map {
            let shard = match by_file.get(&file) {
                Some(shard) => *shard,
                None => {
                    // A file beside the index and nowhere else.
                    let plain = Path::new(&file).file_name().is_some_and(|name| name == &*file);
                    if !plain {
                        return Err(wrong(format!("`{file}` is not the name of a file beside it")));
                    }
                    shards.push(Shard::open(&path.with_file_name(&file))?);
                    by_file.insert(file.clone(), shards.len() - 1);
                    shards.len() - 1
                }
            };
            if shards[shard].metadata.info(&name).is_none() {
                return Err(wrong(format!("it says that `{name}` is in {file}, which lacks it")));
            }
            by_name.insert(name, shard);
        }
        Ok(SafetensorsFiles { source, shards, by_name })
    }
}

impl Shard {
    fn open(path: &Path) -> Result<Shard, ImportError> {
        let bytes = super::super::map_file(path)?;
        let read = SafeTensors::read_metadata(&bytes);
        let (header_bytes, metadata) = read.map_err(|error| ImportError::Safetensors {
            file: file_name(path),
            problem: match error {
                safetensors::SafeTensorError::MetadataIncompleteBuffer => {
                    "its header doesn't describe as many bytes as it has: was it copied whole?"
                        .to_owned()
                }
                error => error.to_string(),
            },
        })?;
        Ok(Shard { metadata, data: bytes.slice(LENGTH_BYTES + header_bytes..) })
    }
}

impl Weights for SafetensorsFiles {
    fn source(&self) -> &str {
        &self.source
    }

    fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.data.len()).sum()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let shard = &self.shards[*self.by_name.get(name)?];
        Some(shard.metadata.info(name)?.shape.clone())
    }

    fn tensor(&self, name: &str) -> Result<Weight, ImportError> {
        let wrong = |problem: String| ImportError::Tensor { name: name.to_owned(), problem };
        let found = self.by_name.get(name).and_then(|shard| {
            let shard = &self.shards[*shard];
            Some((shard, shard.metadata.info(name)?))
        });
        let (shard, info) =
            found.ok_or_else(|| wrong(format!("{} lacks this parameter", self.source)))?;
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
        let data = shard.data.slice(info.data_offsets.0..info.data_offsets.1);
        Ok(Tensor { dtype, shape: info.shape.clone(), data }.into())
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// The file with the weights of a model in a folder.
pub(super) fn find(folder: &Path) -> Result<PathBuf, ImportError> {
    for name in ["model.safetensors.index.json", "model.safetensors"] {
        let path = folder.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    let has = |name: &str| folder.join(name).is_file();
    let remedy = if has("pytorch_model.bin") || has("pytorch_model.bin.index.json") {
        "; pytorch_model.bin is a pickle, which can run code and isn't read: save the model as safetensors with \
         save_pretrained"
    } else {
        "; give the folder of a model as save_pretrained writes it"
    };
    Err(ImportError::Format {
        file: folder.display().to_string(),
        what: "a folder without model.safetensors".to_owned(),
        remedy: remedy.to_owned(),
    })
}
