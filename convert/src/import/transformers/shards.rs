//! Files of weights, one or several with an index.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::pytorch::Checkpoint;
use super::safetensors::{SafetensorsFile, file_name};
use super::weights::{Weight, Weights};
use crate::error::ImportError;

/// Names that the weights in a folder may have, the first that is there counts.
const NAMES: [&str; 4] = [
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
];

/// Ends of the names of PyTorch's checkpoints.
const CHECKPOINTS: [&str; 3] = ["bin", "pt", "pth"];

/// `model.safetensors.index.json`: which file holds which parameter.
#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

/// The parameters of several files.
struct Shards {
    source: String,
    shards: Vec<Box<dyn Weights>>,
    /// Index into `shards` by name.
    by_name: HashMap<String, usize>,
}

/// Whether a file has the name of a checkpoint of PyTorch.
pub(super) fn is_checkpoint(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| CHECKPOINTS.iter().any(|e| extension.eq_ignore_ascii_case(e)))
}

/// The file with the weights of a model in a folder.
pub(super) fn find(folder: &Path) -> Result<PathBuf, ImportError> {
    let found = NAMES.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| ImportError::Format {
        file: folder.display().to_string(),
        what: "a folder without model.safetensors or pytorch_model.bin".to_owned(),
        remedy: "; give the folder of a model as save_pretrained writes it".to_owned(),
    })
}

/// Opens a file of weights, or the `.index.json` of several.
///
/// # Errors
/// [`ImportError::Safetensors`] and [`ImportError::Pytorch`] for files that contradict themselves, and for an index that doesn't
/// fit its files.
pub(super) fn open(path: &Path) -> Result<Box<dyn Weights>, ImportError> {
    if path.extension().is_none_or(|extension| extension != "json") {
        return match is_checkpoint(path) {
            true => Ok(Box::new(Checkpoint::open(path)?)),
            false => Ok(Box::new(SafetensorsFile::open(path)?)),
        };
    }
    let source = file_name(path);
    let text = super::read_text(path)?;
    let wrong = |problem: String| ImportError::Safetensors { file: source.clone(), problem };
    let index: Index = serde_json::from_str(&text)
        .map_err(|error| wrong(format!("it isn't an index of files with weights: {error}")))?;
    let mut shards: Vec<Box<dyn Weights>> = Vec::new();
    let mut by_file: HashMap<String, usize> = HashMap::new();
    let mut by_name = HashMap::new();
    for (name, file) in index.weight_map {
        let shard = match by_file.get(&file) {
            Some(shard) => *shard,
            None => {
                // A file beside the index and nowhere else, and no other index.
                let plain = Path::new(&file).file_name().is_some_and(|name| name == &*file);
                if !plain || file.ends_with(".json") {
                    return Err(wrong(format!("`{file}` is not the name of a file beside it")));
                }
                shards.push(open(&path.with_file_name(&file))?);
                by_file.insert(file.clone(), shards.len() - 1);
                shards.len() - 1
            }
        };
        if shards[shard].shape(&name).is_none() {
            return Err(wrong(format!("it says that `{name}` is in {file}, which lacks it")));
        }
        by_name.insert(name, shard);
    }
    Ok(Box::new(Shards { source, shards, by_name }))
}

impl Weights for Shards {
    fn source(&self) -> &str {
        &self.source
    }

    fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.bytes()).sum()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.shards[*self.by_name.get(name)?].shape(name)
    }

    fn tensor(&self, name: &str) -> Result<Weight, ImportError> {
        match self.by_name.get(name) {
            Some(shard) => self.shards[*shard].tensor(name),
            None => {
                let problem = format!("{} lacks this parameter", self.source);
                Err(ImportError::Tensor { name: name.to_owned(), problem })
            }
        }
    }
}
