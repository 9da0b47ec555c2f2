//! Opens DATA: an .npz, a .npy, a folder of .npy files, or a folder of images by class. Arrays that are large stay in
//! their files, and samples are read when they are asked for.

mod array;
mod bind;
mod images;
mod npy;
mod series;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

pub(crate) use array::{Array, ArrayData};
pub(crate) use bind::{Binding, Extent, InputSpec, bind};
pub(crate) use images::{ImageSpec, Preprocess};
pub(crate) use npy::{NpyError, read_npy_file, read_npz, write_npy_file, write_npz};
pub(crate) use series::Series;

/// Arrays up to this size are read whole; of larger ones a sample at a time.
const MEMORY_BYTES: u64 = 64 << 20;

/// The array that holds the expected answers.
pub(crate) const LABELS: &str = "labels";

/// Samples, by input name, and what the model should answer.
#[derive(Debug)]
pub(crate) struct Dataset {
    /// Where it came from, for messages.
    pub(crate) path: PathBuf,
    /// Arrays other than `labels`; all have the same number of samples, at least one.
    pub(crate) arrays: BTreeMap<String, Series>,
    /// One entry per sample: class indices, or targets.
    pub(crate) labels: Option<Array>,
    /// Names of the classes, when the data comes from a folder per class.
    pub(crate) class_names: Option<Vec<String>>,
}

/// A NaN or infinity in the data.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NonFinite {
    /// Name of the array.
    pub(crate) array: String,
    /// Index of the first sample that holds one.
    pub(crate) sample: usize,
    /// The value.
    pub(crate) value: f32,
}

/// Why data cannot be used, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DataError {
    #[error("{}: no such file or folder", .0.display())]
    Missing(PathBuf),
    #[error("{}: {why}", path.display())]
    Io { path: PathBuf, why: std::io::Error },
    #[error("{}: {why}", path.display())]
    Npy { path: PathBuf, why: NpyError },
    #[error("{}: neither an .npz, a .npy, a folder of .npy files nor a folder of images by class", .0.display())]
    Kind(PathBuf),
    #[error("{}: sample {sample}: {why}", path.display())]
    Sample { path: PathBuf, sample: usize, why: NpyError },
    #[error("{}: images need an image input; this model's input has another shape", .0.display())]
    NotAnImageModel(PathBuf),
    #[error("{}: {reason}", path.display())]
    Image { path: PathBuf, reason: String },
    #[error("images have 1 or 3 channels; the model takes {channels}")]
    ImageChannels { channels: usize },
    #[error("mean and std must hold 1 or {channels} values, and no std may be 0")]
    Preprocess { channels: usize },
    #[error("{}: no samples", path.display())]
    Empty { path: PathBuf },
    #[error("array `{array}` has {samples} samples, `{other}` has {other_samples}")]
    Samples { array: String, samples: usize, other: String, other_samples: usize },
    #[error("no array named `{name}`; the data has {have}")]
    NoArray { name: String, have: String },
    #[error("input `{input}` takes samples of shape {wants}, array `{array}` has {has}{hint}")]
    Shape { input: String, wants: String, array: String, has: String, hint: String },
    #[error("{}: no labels; add an array `labels` with one entry per sample", .0.display())]
    NoLabels(PathBuf),
    #[error("labels have shape {shape:?}; {samples} class indices are wanted")]
    LabelShape { shape: Vec<usize>, samples: usize },
    #[error("label {label} of sample {sample} is no class index; the model has {classes} classes, 0 to {}", classes.saturating_sub(1))]
    LabelRange { sample: usize, label: String, classes: usize },
}

impl Dataset {
    /// Opens `path`. `image_spec` says what images become; without it a folder of images is refused.
    pub(crate) fn open(path: &Path, image_spec: Option<&ImageSpec>) -> Result<Dataset, DataError> {
        Dataset::open_within(path, image_spec, MEMORY_BYTES)
    }

    /// Opens `path`; of arrays above `memory_bytes` samples are read when they are asked for. Labels are always read.
    fn open_within(
        path: &Path,
        image_spec: Option<&ImageSpec>,
        memory_bytes: u64,
    ) -> Result<Dataset, DataError> {
        let io = |why| DataError::Io { path: path.to_owned(), why };
        let npy = |why| DataError::Npy { path: path.to_owned(), why };
        let metadata = std::fs::metadata(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => DataError::Missing(path.to_owned()),
            _ => io(e),
        })?;
        if metadata.is_dir() {
            return Dataset::open_folder(path, image_spec, memory_bytes);
        }
        let mut magic = Vec::new();
        File::open(path).and_then(|f| f.take(6).read_to_end(&mut magic)).map_err(io)?;
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if magic == b"\x93NUMPY" || extension.eq_ignore_ascii_case("npy") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            Dataset::of(path, [(name, series::open_npy(path, memory_bytes).map_err(npy)?)].into())
        } else if magic.starts_with(b"PK") || extension.eq_ignore_ascii_case("npz") {
            Dataset::of(path, npy::open_npz(path, memory_bytes).map_err(npy)?)
        } else {
            Err(DataError::Kind(path.to_owned()))
        }
    }

    fn open_folder(
        path: &Path,
        image_spec: Option<&ImageSpec>,
        memory_bytes: u64,
    ) -> Result<Dataset, DataError> {
        let entries = sorted_entries(path)?;
        let mut arrays = BTreeMap::new();
        for file in
            entries.iter().filter(|p| p.is_file() && p.extension().is_some_and(|e| e == "npy"))
        {
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let limit = if name == LABELS { u64::MAX } else { memory_bytes };
            let array = series::open_npy(file, limit)
                .map_err(|why| DataError::Npy { path: file.clone(), why })?;
            arrays.insert(name, array);
        }
        if !arrays.is_empty() {
            return Dataset::of(path, arrays);
        }
        let mut has_images = false;
        for class in entries.iter().filter(|p| p.is_dir()) {
            has_images |= sorted_entries(class)?.iter().any(|p| images::is_image(p));
        }
        match (has_images, image_spec) {
            (true, Some(spec)) => images::read_folder(path, spec, memory_bytes),
            (true, None) => Err(DataError::NotAnImageModel(path.to_owned())),
            (false, _) if entries.is_empty() => Err(DataError::Empty { path: path.to_owned() }),
            (false, _) => Err(DataError::Kind(path.to_owned())),
        }
    }

    /// Arrays in memory as a data set.
    pub(crate) fn new(path: &Path, arrays: BTreeMap<String, Array>) -> Result<Dataset, DataError> {
        Dataset::of(path, arrays.into_iter().map(|(name, array)| (name, array.into())).collect())
    }

    /// Checks that every array counts the same samples and takes `labels` out.
    fn of(path: &Path, mut arrays: BTreeMap<String, Series>) -> Result<Dataset, DataError> {
        let first =
            arrays.iter().find(|(name, _)| *name != LABELS).map(|(n, a)| (n.clone(), a.samples()));
        let Some((first_name, samples)) = first else {
            return Err(DataError::Empty { path: path.to_owned() });
        };
        if arrays.values().any(|a| a.shape().contains(&0)) {
            return Err(DataError::Empty { path: path.to_owned() });
        }
        for (name, array) in &arrays {
            if array.samples() != samples {
                return Err(DataError::Samples {
                    array: name.clone(),
                    samples: array.samples(),
                    other: first_name,
                    other_samples: samples,
                });
            }
        }
        let labels = arrays.remove(LABELS).and_then(|labels| labels.in_memory().cloned());
        Ok(Dataset { path: path.to_owned(), arrays, labels, class_names: None })
    }

    /// Number of samples, at least 1.
    pub(crate) fn samples(&self) -> usize {
        self.arrays.values().next().map_or(0, Series::samples)
    }

    /// Keeps the first `limit` samples.
    pub(crate) fn truncate(&mut self, limit: usize) {
        self.arrays.values_mut().for_each(|array| array.truncate(limit));
        if let Some(labels) = &mut self.labels {
            labels.truncate(limit);
        }
    }

    /// One class index per sample, each below `classes`.
    pub(crate) fn class_labels(&self, classes: usize) -> Result<Vec<usize>, DataError> {
        let labels = self.labels.as_ref().ok_or_else(|| DataError::NoLabels(self.path.clone()))?;
        let samples = self.samples();
        if labels.samples() != samples || labels.data.len() != samples {
            return Err(DataError::LabelShape { shape: labels.shape.clone(), samples });
        }
        (0..samples)
            .map(|sample| {
                let label = labels.sample_i64(sample).map(|l| l[0]);
                label.and_then(|l| usize::try_from(l).ok()).filter(|l| *l < classes).ok_or_else(
                    || {
                        let label = label.map_or_else(
                            || labels.sample_f32(sample)[0].to_string(),
                            |l| l.to_string(),
                        );
                        DataError::LabelRange { sample, label, classes }
                    },
                )
            })
            .collect()
    }

    /// The labels as regression targets: one row per sample, in order.
    pub(crate) fn targets(&self) -> Result<Vec<f32>, DataError> {
        let labels = self.labels.as_ref().ok_or_else(|| DataError::NoLabels(self.path.clone()))?;
        Ok((0..labels.samples()).flat_map(|sample| labels.sample_f32(sample)).collect())
    }

    /// The first NaN or infinity, looking through the arrays in memory in order of their names.
    pub(crate) fn first_non_finite(&self) -> Option<NonFinite> {
        let named = self.arrays.iter().filter_map(|(n, a)| Some((n.as_str(), a.in_memory()?)));
        named.chain(self.labels.as_ref().map(|a| (LABELS, a))).find_map(|(name, array)| {
            let (sample, value) = array.first_non_finite()?;
            Some(NonFinite { array: name.to_owned(), sample, value })
        })
    }

    /// Names, types and shapes, for messages.
    pub(crate) fn listing(&self) -> String {
        let text = |name: &str, kind: &str, shape: &[usize]| format!("`{name}` {kind} {shape:?}");
        let arrays = self.arrays.iter().map(|(n, a)| text(n, a.type_name(), a.shape()));
        let labels = self.labels.iter().map(|a| text(LABELS, a.data.type_name(), &a.shape));
        arrays.chain(labels).collect::<Vec<_>>().join(", ")
    }
}

/// The folder's entries, sorted by name, without hidden ones.
fn sorted_entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let io = |why| DataError::Io { path: folder.to_owned(), why };
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            entries.push(entry.path());
        }
    }
    entries.sort();
    Ok(entries)
}
