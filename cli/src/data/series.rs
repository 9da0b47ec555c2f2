//! The samples of one input: in memory, or read from a file one by one when they are too many.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::DataError;
use super::array::Array;
use super::images::ImageFiles;
use super::npy::{Header, NpyError, decode};

/// What is read from a file at once, when samples are smaller.
const WINDOW_BYTES: u64 = 1 << 20;

/// Samples of one shape and type. The first axis counts them.
#[derive(Debug)]
pub(crate) struct Series {
    shape: Vec<usize>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Memory(Array),
    File(Stored),
    Images(ImageFiles),
}

/// Elements in a file, row-major, from an offset on.
#[derive(Debug)]
pub(super) struct Stored {
    /// For messages.
    path: PathBuf,
    header: Header,
    offset: u64,
    sample_bytes: u64,
    window: Mutex<Window>,
}

/// A part of a file in memory.
#[derive(Debug)]
struct Window {
    file: File,
    start: u64,
    bytes: Vec<u8>,
}

impl From<Array> for Series {
    fn from(array: Array) -> Series {
        Series { shape: array.shape.clone(), source: Source::Memory(array) }
    }
}

impl From<ImageFiles> for Series {
    fn from(images: ImageFiles) -> Series {
        Series { shape: images.shape(), source: Source::Images(images) }
    }
}

impl Series {
    /// Elements in a file, after their header.
    pub(super) fn stored(
        path: &Path,
        file: File,
        header: Header,
        offset: u64,
        bytes: u64,
    ) -> Series {
        let shape = header.shape.clone();
        let sample_bytes = bytes / shape.first().copied().unwrap_or(1).max(1) as u64;
        let window = Mutex::new(Window { file, start: 0, bytes: Vec::new() });
        let path = path.to_owned();
        Series {
            shape,
            source: Source::File(Stored { path, header, offset, sample_bytes, window }),
        }
    }

    /// Sizes, outermost first; the first is the number of samples, empty for a scalar.
    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of samples: the first axis, 1 for a scalar.
    pub(crate) fn samples(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Sizes of one sample: the shape without its first axis.
    pub(crate) fn sample_shape(&self) -> &[usize] {
        self.shape.get(1..).unwrap_or(&[])
    }

    /// The array, when it is in memory.
    pub(crate) fn in_memory(&self) -> Option<&Array> {
        match &self.source {
            Source::Memory(array) => Some(array),
            _ => None,
        }
    }

    /// The type as numpy writes it.
    pub(crate) fn type_name(&self) -> &'static str {
        match &self.source {
            Source::Memory(array) => array.data.type_name(),
            Source::File(stored) => stored.header.type_name(),
            Source::Images(_) => "float32",
        }
    }

    /// Sample `sample` as f32: floats unchanged, integers to the nearest f32, `true` 1.
    /// Panics when there is no such sample.
    pub(crate) fn sample_f32(&self, sample: usize) -> Result<Vec<f32>, DataError> {
        self.with(sample, |array, at| array.sample_f32(at))
    }

    /// Sample `sample` as i64, or `None` for a float array with fractions, NaN or infinity in it.
    /// Panics when there is no such sample.
    pub(crate) fn sample_i64(&self, sample: usize) -> Result<Option<Vec<i64>>, DataError> {
        self.with(sample, |array, at| array.sample_i64(at))
    }

    /// Calls `take` with an array that holds a sample, and its index there.
    fn with<T>(
        &self,
        sample: usize,
        take: impl FnOnce(&Array, usize) -> T,
    ) -> Result<T, DataError> {
        assert!(sample < self.samples(), "sample {sample} of {}", self.samples());
        Ok(match &self.source {
            Source::Memory(array) => take(array, sample),
            Source::File(stored) => take(&stored.read(sample)?, 0),
            Source::Images(images) => take(&images.read(sample)?, 0),
        })
    }

    /// Keeps the first `limit` samples.
    pub(crate) fn truncate(&mut self, limit: usize) {
        if let Source::Memory(array) = &mut self.source {
            array.truncate(limit);
        }
        if let Some(samples) = self.shape.first_mut() {
            *samples = limit.min(*samples);
        }
    }
}

impl Stored {
    /// One sample, as an array of one.
    fn read(&self, sample: usize) -> Result<Array, DataError> {
        let failed = |why| DataError::Sample { path: self.path.clone(), sample, why };
        let start = self.offset + sample as u64 * self.sample_bytes;
        let shape: Vec<usize> =
            std::iter::once(1).chain(self.header.shape.iter().skip(1).copied()).collect();
        let header = Header { shape, ..self.header.clone() };
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = window.bytes(start, self.sample_bytes).map_err(|e| failed(e.into()))?;
        decode(bytes, header, self.sample_bytes).map_err(failed)
    }
}

impl Window {
    fn bytes(&mut self, start: u64, len: u64) -> std::io::Result<&[u8]> {
        let have = self.start..self.start + self.bytes.len() as u64;
        if start < have.start || start + len > have.end {
            self.bytes.clear();
            self.start = start;
            self.file.seek(SeekFrom::Start(start))?;
            (&self.file).take(len.max(WINDOW_BYTES)).read_to_end(&mut self.bytes)?;
        }
        let from = (start - self.start) as usize;
        self.bytes
            .get(from..from + len as usize)
            .ok_or_else(|| std::io::Error::other("the file became shorter while it was read"))
    }
}

/// Opens the array in a .npy file; reads it when it has no more than `memory_bytes`.
pub(super) fn open_npy(path: &Path, memory_bytes: u64) -> Result<Series, NpyError> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    open_part(path, file, 0, bytes, memory_bytes)
}

/// The same of an array that is a part of a file.
pub(super) fn open_part(
    path: &Path,
    mut file: File,
    start: u64,
    bytes: u64,
    memory_bytes: u64,
) -> Result<Series, NpyError> {
    file.seek(SeekFrom::Start(start))?;
    let mut reader = std::io::BufReader::new((&file).take(bytes));
    let (header, header_bytes) = super::npy::read_header(&mut reader)?;
    let elements = bytes.saturating_sub(header_bytes);
    // Samples of a column-major array lie all over the file.
    if elements <= memory_bytes || header.fortran_order {
        return Ok(decode(reader, header, elements)?.into());
    }
    drop(reader);
    header.check_length(elements)?;
    Ok(Series::stored(path, file, header, start + header_bytes, elements))
}
