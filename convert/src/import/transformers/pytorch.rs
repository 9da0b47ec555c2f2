//! PyTorch's checkpoints, `pytorch_model.bin`, `.pt` and `.pth`: zip archives with a pickle that describes tensors, and an
//! entry of raw numbers for each storage. Nothing in them is run.

use std::collections::HashMap;
use std::io::Cursor;
use std::path::Path;

use bytes::Bytes;
use whit::DType;
use zip::{CompressionMethod, ZipArchive};

use super::pickle::{self, Strided};
use super::safetensors::file_name;
use super::weights::{Weight, Weights};
use crate::error::ImportError;
use crate::tensor::Tensor;

/// Pickles larger than this aren't read; a parameter takes about 100 bytes.
const MAX_PICKLE_BYTES: usize = 1 << 26;

/// The parameters of one checkpoint.
pub(super) struct Checkpoint {
    source: String,
    file: Bytes,
    tensors: HashMap<String, Strided>,
    /// Where the storages lie in the file, by key.
    storages: HashMap<String, (usize, usize)>,
}

impl Checkpoint {
    /// Opens a checkpoint.
    ///
    /// # Errors
    /// [`ImportError::Pytorch`] for files that aren't zip archives as `torch.save` writes them, and for pickles with
    /// anything but tensors.
    pub(super) fn open(path: &Path) -> Result<Checkpoint, ImportError> {
        let file = super::super::map_file(path)?;
        let source = file_name(path);
        Checkpoint::read(&source, file)
            .map_err(|problem| ImportError::Pytorch { file: source, problem })
    }

    /// The same of a file's bytes.
    pub(super) fn read(source: &str, file: Bytes) -> Result<Checkpoint, String> {
        if !file.starts_with(b"PK") {
            return Err(
                "it isn't a zip archive; checkpoints of PyTorch before 1.6 aren't read. Load and save it again with torch"
                    .to_owned(),
            );
        }
        let mut archive = ZipArchive::new(Cursor::new(&file[..])).map_err(|e| e.to_string())?;
        let mut entries = HashMap::new();
        for index in 0..archive.len() {
            let entry = archive.by_index_raw(index).map_err(|error| error.to_string())?;
            let name = entry.name().map_err(|error| error.to_string())?.into_owned();
            if entry.compression() != CompressionMethod::Stored {
                return Err(format!(
                    "its entry `{name}` is compressed, which torch.save doesn't do"
                ));
            }
            let start = entry.data_start().and_then(|start| usize::try_from(start).ok());
            let range = start.and_then(|start| {
                let end = start.checked_add(usize::try_from(entry.size()).ok()?)?;
                (end <= file.len()).then_some((start, end))
            });
            let range = range.ok_or_else(|| format!("its entry `{name}` isn't inside of it"))?;
            entries.insert(name, range);
        }
        let pickle = entries.iter().find_map(|(name, range)| {
            let (folder, name) = name.split_once('/')?;
            (name == "data.pkl").then(|| (folder.to_owned(), *range))
        });
        let (folder, (start, end)) =
            pickle.ok_or("it has no data.pkl, so torch.save didn't make it")?;
        let order = entries.get(&format!("{folder}/byteorder"));
        if order.is_some_and(|(start, end)| &file[*start..*end] == b"big") {
            return Err("its numbers have their greatest byte first".to_owned());
        }
        if end - start > MAX_PICKLE_BYTES {
            return Err(format!("its data.pkl is larger than {} MiB", MAX_PICKLE_BYTES >> 20));
        }
        let tensors = pickle::tensors(&file[start..end])?;
        if tensors.is_empty() {
            return Err("it holds no dictionary of tensors".to_owned());
        }
        let prefix = format!("{folder}/data/");
        let storages = entries.into_iter().filter_map(|(name, range)| {
            name.strip_prefix(&prefix).map(|key| (key.to_owned(), range))
        });
        Ok(Checkpoint { source: source.to_owned(), storages: storages.collect(), tensors, file })
    }

    /// The elements of a tensor in row-major order.
    fn elements(&self, tensor: &Strided, size: usize) -> Result<Bytes, String> {
        let Strided { key, elements, offset, shape, strides, .. } = tensor;
        let (start, end) =
            *self.storages.get(key).ok_or_else(|| format!("its storage `{key}` is missing"))?;
        let storage = self.file.slice(start..end);
        if elements.checked_mul(size).is_none_or(|bytes| bytes > storage.len()) {
            return Err(format!(
                "its storage `{key}` has {} bytes for {elements} elements",
                storage.len()
            ));
        }
        let outside = || {
            format!(
                "shape {shape:?} with strides {strides:?} at {offset} isn't inside of its storage"
            )
        };
        let count = shape
            .iter()
            .try_fold(1usize, |count, dim| count.checked_mul(*dim))
            .ok_or_else(outside)?;
        if shape.len() != strides.len() {
            return Err(outside());
        }
        if count == 0 {
            return Ok(Bytes::new());
        }
        let pairs = shape.iter().zip(strides);
        let last = pairs.clone().try_fold(*offset, |last, (dim, stride)| {
            last.checked_add((dim - 1).checked_mul(*stride)?)
        });
        // A view that repeats elements could be of any size.
        if last.is_none_or(|last| last >= *elements) || count > *elements {
            return Err(outside());
        }
        let mut expected = 1;
        let is_row_major = pairs.rev().all(|(dim, stride)| {
            let holds = *dim == 1 || *stride == expected;
            expected *= dim;
            holds
        });
        if is_row_major {
            return Ok(storage.slice(offset * size..(offset + count) * size));
        }
        let mut data = Vec::with_capacity(count * size);
        let mut index = vec![0; shape.len()];
        let mut at = *offset;
        for _ in 0..count {
            data.extend_from_slice(&storage[at * size..(at + 1) * size]);
            for axis in (0..shape.len()).rev() {
                index[axis] += 1;
                // Strides of axes of one element may be anything.
                at = at.wrapping_add(strides[axis]);
                if index[axis] < shape[axis] {
                    break;
                }
                at = at.wrapping_sub(strides[axis].wrapping_mul(shape[axis]));
                index[axis] = 0;
            }
        }
        Ok(data.into())
    }
}

impl Weights for Checkpoint {
    fn source(&self) -> &str {
        &self.source
    }

    fn bytes(&self) -> usize {
        self.file.len()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        Some(self.tensors.get(name)?.shape.clone())
    }

    fn tensor(&self, name: &str) -> Result<Weight, ImportError> {
        let wrong = |problem: String| ImportError::Tensor { name: name.to_owned(), problem };
        let tensor = self.tensors.get(name);
        let tensor =
            tensor.ok_or_else(|| wrong(format!("{} lacks this parameter", self.source)))?;
        let dtype = match tensor.storage.as_str() {
            "FloatStorage" => DType::F32,
            "HalfStorage" => DType::F16,
            "BFloat16Storage" => DType::BF16,
            other => {
                return Err(wrong(format!(
                    "it is a {other}; FloatStorage, HalfStorage and BFloat16Storage are read"
                )));
            }
        };
        let data = self.elements(tensor, dtype.size()).map_err(wrong)?;
        Ok(Tensor { dtype, shape: tensor.shape.clone(), data }.into())
    }
}
