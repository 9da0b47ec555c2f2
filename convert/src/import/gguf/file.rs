//! Reads a GGUF file: metadata by key, and where each tensor's blocks are.
//!
//! A file is, without gaps: the letters `GGUF`, version (u32), number of tensors and of metadata entries (u64); per
//! entry its key, value type (u32) and value; per tensor its name, number of dimensions (u32), dimensions
//! (u64, the fastest first), element type (u32) and offset in the data (u64); then the data, from the next
//! multiple of `general.alignment` on. Strings are a length (u64) and UTF-8; an array is a value type (u32), a
//! number of elements (u64) and those elements.
//!
//! Source: docs/gguf.md of the ggml project.

use std::collections::BTreeMap;
use std::ops::Range;

use super::error::{GgufError, MAX_DEPTH};
use super::types::GgmlType;

mod metadata;
#[cfg(test)]
pub(crate) mod tests;

/// Where data begins when metadata doesn't say.
const DEFAULT_ALIGNMENT: usize = 32;
/// A key and a value type.
const MIN_ENTRY_BYTES: usize = 8 + 4 + 1;
/// Name, number of dimensions, one of them, type, offset.
const MIN_TENSOR_BYTES: usize = 8 + 4 + 8 + 4 + 8;

/// A GGUF file whose every record was checked.
#[derive(Clone, Debug)]
pub struct File<'a> {
    bytes: &'a [u8],
    metadata: Metadata<'a>,
    tensors: Vec<TensorInfo<'a>>,
}

/// Where a tensor is and what it holds.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo<'a> {
    /// Its name in llama.cpp, `blk.0.attn_q.weight`.
    pub name: &'a str,
    /// Sizes with the slowest first, as in PyTorch; a file has them the other way round.
    pub shape: Vec<usize>,
    /// How its elements are stored.
    pub dtype: GgmlType,
    /// Its bytes in the file.
    pub range: Range<usize>,
}

/// A file's metadata by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata<'a> {
    entries: BTreeMap<&'a str, Value<'a>>,
}

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// Integers of every width and sign: all of them fit.
    Integer(i128),
    /// Both widths.
    Float(f64),
    /// Stored as 0 or 1.
    Truth(bool),
    /// Text.
    Text(&'a str),
    /// Elements of one type.
    Array(Array<'a>),
}

/// An array of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Array<'a> {
    /// Numbers and truth values, as stored.
    Numbers(Numbers<'a>),
    /// Texts.
    Texts(Vec<&'a str>),
    /// Arrays in the array.
    Arrays(Vec<Array<'a>>),
}

/// Numbers of an array, read where they lie in the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Numbers<'a> {
    kind: Kind,
    bytes: &'a [u8],
}

/// The value types that have a fixed size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    U64,
    I64,
    F64,
}

/// The numbers of the value types that have no fixed size.
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

impl Kind {
    fn from_number(number: u32) -> Option<Kind> {
        Some(match number {
            0 => Kind::U8,
            1 => Kind::I8,
            2 => Kind::U16,
            3 => Kind::I16,
            4 => Kind::U32,
            5 => Kind::I32,
            6 => Kind::F32,
            7 => Kind::Bool,
            10 => Kind::U64,
            11 => Kind::I64,
            12 => Kind::F64,
            _ => return None,
        })
    }

    fn size(self) -> usize {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => 1,
            Kind::U16 | Kind::I16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::U64 | Kind::I64 | Kind::F64 => 8,
        }
    }

    /// The value of `self.size()` bytes.
    fn value(self, bytes: &[u8]) -> Value<'static> {
        let mut padded = [0; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        let unsigned = u64::from_le_bytes(padded);
        match self {
            Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64 => Value::Integer(unsigned.into()),
            Kind::I8 => Value::Integer((unsigned as i8).into()),
            Kind::I16 => Value::Integer((unsigned as i16).into()),
            Kind::I32 => Value::Integer((unsigned as i32).into()),
            Kind::I64 => Value::Integer((unsigned as i64).into()),
            Kind::F32 => Value::Float(f32::from_bits(unsigned as u32).into()),
            Kind::F64 => Value::Float(f64::from_bits(unsigned)),
            Kind::Bool => Value::Truth(unsigned != 0),
        }
    }
}

impl<'a> File<'a> {
    /// Reads the records of a file and checks them against its bytes.
    ///
    /// # Errors
    /// [`GgufError`] for another format, for versions other than 2 and 3, and for whatever doesn't hold together.
    /// What is allocated is bounded by the records that are there, not by what counts claim.
    pub fn open(bytes: &'a [u8]) -> Result<File<'a>, GgufError> {
        let mut reader = Reader { bytes, at: 0 };
        if reader.take(4, || "the first four bytes".to_owned())? != b"GGUF" {
            return Err(GgufError::Magic);
        }
        match reader.u32(|| "the version".to_owned())? {
            2 | 3 => {}
            // Versions are small: in the other order of bytes, their lower half is empty.
            version if version != 0 && version & 0xffff == 0 => return Err(GgufError::BigEndian),
            version => return Err(GgufError::Version(version)),
        }
        let tensor_count = reader.u64(|| "the number of tensors".to_owned())?;
        let entry_count = reader.u64(|| "the number of metadata entries".to_owned())?;
        let entry_count =
            reader.count(entry_count, MIN_ENTRY_BYTES, || "metadata entries".into())?;
        let tensor_count = reader.count(tensor_count, MIN_TENSOR_BYTES, || "tensors".into())?;

        let mut metadata = Metadata::default();
        for index in 0..entry_count {
            let key = reader.text(|| format!("the key of metadata entry {index}"))?;
            let kind = reader.u32(|| format!("the type of metadata `{key}`"))?;
            let value = reader.value(key, kind)?;
            if metadata.entries.insert(key, value).is_some() {
                return Err(GgufError::DuplicateKey { key: key.to_owned() });
            }
        }
        let alignment = metadata.alignment()?;
        if let Some(parts @ 2..) = metadata.unsigned("split.count")? {
            return Err(GgufError::Split(parts));
        }
        let mut tensors = Vec::new();
        for index in 0..tensor_count {
            tensors.push(reader.tensor(index, alignment)?);
        }
        let data_start = reader.at.checked_next_multiple_of(alignment).unwrap_or(usize::MAX);
        let data = bytes.len().saturating_sub(data_start);
        for tensor in &mut tensors {
            let Range { start, end } = tensor.range;
            if end > data {
                return Err(GgufError::OutOfBounds {
                    name: tensor.name.to_owned(),
                    offset: start as u64,
                    bytes: end - start,
                    data,
                });
            }
            tensor.range = data_start + start..data_start + end;
        }
        expect_apart(&tensors)?;
        Ok(File { bytes, metadata, tensors })
    }

    /// Metadata.
    pub fn metadata(&self) -> &Metadata<'a> {
        &self.metadata
    }

    /// Tensors in the order of the file.
    pub fn tensors(&self) -> &[TensorInfo<'a>] {
        &self.tensors
    }

    /// The blocks of a tensor of this file.
    pub fn data(&self, tensor: &TensorInfo<'_>) -> &'a [u8] {
        self.bytes.get(tensor.range.clone()).unwrap_or_default()
    }
}

/// Refuses two tensors of one name or with common bytes.
fn expect_apart(tensors: &[TensorInfo<'_>]) -> Result<(), GgufError> {
    let mut order: Vec<&TensorInfo<'_>> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.name);
    if let Some(pair) = order.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(GgufError::DuplicateTensor { name: pair[0].name.to_owned() });
    }
    order.sort_by_key(|tensor| tensor.range.start);
    match order.windows(2).find(|pair| pair[0].range.end > pair[1].range.start) {
        None => Ok(()),
        Some(pair) => Err(GgufError::Overlap {
            first: pair[0].name.to_owned(),
            second: pair[1].name.to_owned(),
        }),
    }
}

/// Takes a file's records one behind the other.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, what: impl FnOnce() -> String) -> Result<&'a [u8], GgufError> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end =
            end.ok_or_else(|| GgufError::Truncated { what: what(), length: self.bytes.len() })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn u32(&mut self, what: impl FnOnce() -> String) -> Result<u32, GgufError> {
        let bytes = self.take(4, what)?;
        Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    }

    fn u64(&mut self, what: impl FnOnce() -> String) -> Result<u64, GgufError> {
        let bytes = self.take(8, what)?;
        Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn text(&mut self, what: impl Fn() -> String) -> Result<&'a str, GgufError> {
        let length = self.u64(&what)?;
        let length = self.count(length, 1, || format!("bytes for {}", what()))?;
        let bytes = self.take(length, &what)?;
        std::str::from_utf8(bytes).map_err(|_| GgufError::Utf8 { what: what() })
    }

    /// A number of things of at least `min_bytes` bytes each that still have to come.
    fn count(
        &self,
        count: u64,
        min_bytes: usize,
        what: impl FnOnce() -> String,
    ) -> Result<usize, GgufError> {
        let room = (self.bytes.len() - self.at) / min_bytes;
        let fits = usize::try_from(count).ok().filter(|count| *count <= room);
        fits.ok_or_else(|| GgufError::Count { what: what(), count, room })
    }

    fn value(&mut self, key: &str, kind: u32) -> Result<Value<'a>, GgufError> {
        let what = || format!("the value of metadata `{key}`");
        Ok(match kind {
            TEXT => Value::Text(self.text(what)?),
            ARRAY => Value::Array(self.array(key, 1)?),
            number => {
                let kind = Kind::from_number(number);
                let kind =
                    kind.ok_or_else(|| GgufError::ValueType { key: key.to_owned(), number })?;
                let bytes = self.take(kind.size(), what)?;
                expect_truths(key, kind, bytes)?;
                kind.value(bytes)
            }
        })
    }

    fn array(&mut self, key: &str, depth: usize) -> Result<Array<'a>, GgufError> {
        let what = || format!("the array of metadata `{key}`");
        if depth > MAX_DEPTH {
            return Err(GgufError::Depth { key: key.to_owned() });
        }
        let number = self.u32(what)?;
        let count = self.u64(what)?;
        let elements = || format!("elements of metadata `{key}`");
        match number {
            TEXT => {
                let count = self.count(count, 8, elements)?;
                let mut texts = Vec::new();
                for index in 0..count {
                    texts.push(self.text(|| format!("element {index} of metadata `{key}`"))?);
                }
                Ok(Array::Texts(texts))
            }
            ARRAY => {
                let count = self.count(count, 4 + 8, elements)?;
                let arrays =
                    (0..count).map(|_| self.array(key, depth + 1)).collect::<Result<_, _>>();
                Ok(Array::Arrays(arrays?))
            }
            number => {
                let kind = Kind::from_number(number);
                let kind =
                    kind.ok_or_else(|| GgufError::ValueType { key: key.to_owned(), number })?;
                let count = self.count(count, kind.size(), elements)?;
                let bytes = self.take(count * kind.size(), what)?;
                expect_truths(key, kind, bytes)?;
                Ok(Array::Numbers(Numbers { kind, bytes }))
            }
        }
    }

    /// A tensor's record. Its range is in the data, and not yet compared with its size.
    fn tensor(&mut self, index: usize, alignment: usize) -> Result<TensorInfo<'a>, GgufError> {
        let text = self.text(|| format!("the name of tensor {index}"))?;
        let name = || text.to_owned();
        let what = || format!("the record of tensor `{text}`");
        let rank = self.u32(what)?;
        if !(1..=4).contains(&rank) {
            return Err(GgufError::Rank { name: name(), rank });
        }
        let dims = (0..rank).map(|_| self.u64(what)).collect::<Result<Vec<u64>, _>>()?;
        let number = self.u32(what)?;
        let dtype = GgmlType::from_number(number);
        let dtype = dtype.ok_or_else(|| GgufError::ElementType { name: name(), number })?;
        let offset = self.u64(what)?;

        let block = dtype.block_elems;
        if !dims[0].is_multiple_of(block as u64) {
            let columns = dims[0];
            return Err(GgufError::Blocks { name: name(), columns, block, dtype: dtype.name });
        }
        let shape: Option<Vec<usize>> = dims
            .iter()
            .rev()
            .map(|dim| usize::try_from(*dim).ok().filter(|dim| *dim > 0))
            .collect();
        let bytes = shape.as_ref().and_then(|shape| {
            let (columns, outer) = shape.split_last()?;
            let rows = outer.iter().try_fold(1usize, |rows, dim| rows.checked_mul(*dim))?;
            dtype.tensor_bytes(rows, *columns)
        });
        let (Some(shape), Some(bytes)) = (shape, bytes) else {
            return Err(GgufError::Dims { name: name(), dims });
        };
        if !offset.is_multiple_of(alignment as u64) {
            return Err(GgufError::Unaligned { name: name(), offset, alignment });
        }
        let start = usize::try_from(offset).ok();
        let range = start.and_then(|start| Some(start..start.checked_add(bytes)?));
        let range = range.ok_or_else(|| GgufError::Dims { name: name(), dims })?;
        Ok(TensorInfo { name: text, shape, dtype, range })
    }
}

fn expect_truths(key: &str, kind: Kind, bytes: &[u8]) -> Result<(), GgufError> {
    match bytes.iter().find(|byte| kind == Kind::Bool && **byte > 1) {
        Some(value) => Err(GgufError::Truth { key: key.to_owned(), value: *value }),
        None => Ok(()),
    }
}
