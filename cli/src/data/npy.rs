//! Reads and writes numpy's .npy (format 1.0 to 3.0) and .npz files. Untrusted: memory is taken
//! as bytes arrive, never because a header promises them.
//!
//! Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>. The header is
//! a Python dict with three known keys; this parser accepts just that, and checks the product of
//! the shape, on which a general reader overflows.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;

use half::f16;
use zip::read::ZipFile;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::LABELS;
use super::array::{Array, ArrayData, with_elements};
use super::series::{Series, open_part};

const MAGIC: &[u8; 6] = b"\x93NUMPY";
const MAX_HEADER_BYTES: usize = 64 * 1024; // what a version 1 header can have
const MAX_AXES: usize = 64; // numpy's own limit
const CHUNK_BYTES: usize = 64 * 1024; // a multiple of every element size
/// Deflate cannot expand a byte to more than this (RFC 1951: 258 bytes from 2 bits, 1032:1).
const MAX_DEFLATE_RATIO: u64 = 1032;

/// What is wrong with the bytes of an array.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum NpyError {
    #[error("not a .npy array: the magic bytes are missing")]
    Magic,
    #[error("format version {0}.{1} is not known")]
    Version(u8, u8),
    #[error("the header is damaged: {0}")]
    Header(&'static str),
    #[error(
        "elements of type `{0}` are not supported; save it as float32, float16, int8 to int64, \
         uint8 or bool"
    )]
    Type(String),
    #[error("the header declares {declared} bytes of elements, the file has {actual}")]
    Length { declared: u64, actual: u64 },
    #[error("a value is above the largest int64")]
    IntegerRange,
    #[error("{0} is outside float32's range, in which models compute")]
    FloatRange(f64),
    #[error("not a .npz archive: {0}")]
    Zip(String),
    #[error("array `{name}`: {why}")]
    Entry { name: String, why: Box<NpyError> },
    #[error("array `{0}` is in the archive twice")]
    Duplicate(String),
    #[error(
        "it is unpacked into a temporary file, which failed: {0}; TMPDIR names another folder for that"
    )]
    Unpack(io::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What stands in front of the elements.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Header {
    pub(super) descr: String,
    pub(super) fortran_order: bool,
    pub(super) shape: Vec<usize>,
}

impl Header {
    fn elements(&self) -> Result<usize, NpyError> {
        (self.shape.iter())
            .try_fold(1usize, |product, axis| product.checked_mul(*axis))
            .ok_or(NpyError::Header("the shape's product is too large"))
    }

    /// Whether so many bytes are what the type and shape take.
    pub(super) fn check_length(&self, actual: u64) -> Result<(), NpyError> {
        let size = match self.descr.as_str() {
            "|i1" | "|u1" | "|b1" => 1,
            "<i2" | ">i2" | "<u2" | ">u2" | "<f2" | ">f2" => 2,
            "<i4" | ">i4" | "<u4" | ">u4" | "<f4" | ">f4" => 4,
            "<i8" | ">i8" | "<u8" | ">u8" | "<f8" | ">f8" => 8,
            other => return Err(NpyError::Type(other.to_owned())),
        };
        let declared = (self.elements()? as u64)
            .checked_mul(size)
            .ok_or(NpyError::Header("the shape's product is too large"))?;
        if declared == actual { Ok(()) } else { Err(NpyError::Length { declared, actual }) }
    }

    /// The type of the array that is read, as numpy writes it.
    pub(super) fn type_name(&self) -> &'static str {
        match self.descr.trim_start_matches(['<', '>', '|']) {
            "i1" => "int8",
            "u1" => "uint8",
            "b1" => "bool",
            "i2" => "int16",
            "i4" | "u2" => "int32",
            "i8" | "u8" | "u4" => "int64",
            _ => "float32",
        }
    }
}

/// Reads the array in a .npy file.
pub(crate) fn read_npy_file(path: &Path) -> Result<Array, NpyError> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    read_npy(BufReader::new(file), bytes)
}

/// Reads one array from `reader`, which has `total_bytes` bytes.
pub(crate) fn read_npy(mut reader: impl Read, total_bytes: u64) -> Result<Array, NpyError> {
    let (header, header_bytes) = read_header(&mut reader)?;
    decode(reader, header, total_bytes.saturating_sub(header_bytes))
}

/// Reads the elements behind a header, which has `actual` bytes behind it.
pub(super) fn decode(
    mut reader: impl Read,
    header: Header,
    actual: u64,
) -> Result<Array, NpyError> {
    let elements = header.elements()?;
    let data = match header.descr.as_str() {
        "<f4" | ">f4" => {
            ArrayData::F32(elements_of(&mut reader, &header, elements, actual, f32::from_le_bytes)?)
        }
        "<f2" | ">f2" => {
            ArrayData::F32(elements_of(&mut reader, &header, elements, actual, |b| {
                f16::from_le_bytes(b).to_f32()
            })?)
        }
        "<f8" | ">f8" => {
            let values = elements_of(&mut reader, &header, elements, actual, f64::from_le_bytes)?;
            let fits = |v: &f64| !v.is_finite() || (*v as f32).is_finite();
            match values.iter().find(|v| !fits(v)) {
                Some(value) => return Err(NpyError::FloatRange(*value)),
                None => ArrayData::F32(values.into_iter().map(|v| v as f32).collect()),
            }
        }
        "|i1" => {
            ArrayData::I8(elements_of(&mut reader, &header, elements, actual, i8::from_le_bytes)?)
        }
        "|u1" => {
            ArrayData::U8(elements_of(&mut reader, &header, elements, actual, u8::from_le_bytes)?)
        }
        "|b1" => {
            ArrayData::Bool(elements_of(&mut reader, &header, elements, actual, |b: [u8; 1]| {
                b[0] != 0
            })?)
        }
        "<i2" | ">i2" => {
            ArrayData::I16(elements_of(&mut reader, &header, elements, actual, i16::from_le_bytes)?)
        }
        "<u2" | ">u2" => {
            ArrayData::I32(elements_of(&mut reader, &header, elements, actual, |b| {
                i32::from(u16::from_le_bytes(b))
            })?)
        }
        "<i4" | ">i4" => {
            ArrayData::I32(elements_of(&mut reader, &header, elements, actual, i32::from_le_bytes)?)
        }
        "<u4" | ">u4" => {
            ArrayData::I64(elements_of(&mut reader, &header, elements, actual, |b| {
                i64::from(u32::from_le_bytes(b))
            })?)
        }
        "<i8" | ">i8" => {
            ArrayData::I64(elements_of(&mut reader, &header, elements, actual, i64::from_le_bytes)?)
        }
        "<u8" | ">u8" => {
            let values = elements_of(&mut reader, &header, elements, actual, u64::from_le_bytes)?;
            let signed: Result<Vec<i64>, _> = values.into_iter().map(i64::try_from).collect();
            ArrayData::I64(signed.map_err(|_| NpyError::IntegerRange)?)
        }
        other => return Err(NpyError::Type(other.to_owned())),
    };
    Ok(Array { shape: header.shape, data })
}

/// Reads exactly `elements` elements of `N` bytes, in row-major order whatever the file's order.
fn elements_of<const N: usize, T: Copy>(
    reader: &mut impl Read,
    header: &Header,
    elements: usize,
    actual: u64,
    decode: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>, NpyError> {
    let declared = (elements as u64)
        .checked_mul(N as u64)
        .ok_or(NpyError::Header("the shape's product is too large"))?;
    if declared != actual {
        return Err(NpyError::Length { declared, actual });
    }
    let big_endian = header.descr.starts_with('>');
    let mut values = Vec::new();
    let mut chunk = vec![0u8; CHUNK_BYTES.min(declared as usize)];
    let mut remaining = declared;
    while remaining > 0 {
        let take = chunk.len().min(usize::try_from(remaining).unwrap_or(usize::MAX));
        reader.read_exact(&mut chunk[..take]).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => {
                NpyError::Length { declared, actual: declared - remaining }
            }
            _ => NpyError::Io(e),
        })?;
        values.extend(chunk[..take].chunks_exact(N).map(|bytes| {
            let mut element: [u8; N] = bytes.try_into().expect("chunks_exact gives N bytes");
            if big_endian {
                element.reverse();
            }
            decode(element)
        }));
        remaining -= take as u64;
    }
    if reader.read(&mut [0u8])? != 0 {
        return Err(NpyError::Length { declared, actual: declared + 1 });
    }
    Ok(if header.fortran_order { to_row_major(&values, &header.shape) } else { values })
}

/// Column-major elements in row-major order.
fn to_row_major<T: Copy>(values: &[T], shape: &[usize]) -> Vec<T> {
    let mut strides = vec![1usize; shape.len()];
    for axis in 1..shape.len() {
        strides[axis] = strides[axis - 1] * shape[axis - 1];
    }
    let mut index = vec![0usize; shape.len()];
    let mut out = Vec::with_capacity(values.len());
    for _ in 0..values.len() {
        out.push(values[index.iter().zip(&strides).map(|(i, s)| i * s).sum::<usize>()]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    out
}

/// The header and how many bytes it took.
pub(super) fn read_header(reader: &mut impl Read) -> Result<(Header, u64), NpyError> {
    let short = |e: io::Error| match e.kind() {
        io::ErrorKind::UnexpectedEof => NpyError::Magic,
        _ => NpyError::Io(e),
    };
    let mut start = [0u8; 10];
    reader.read_exact(&mut start).map_err(short)?;
    if &start[..6] != MAGIC {
        return Err(NpyError::Magic);
    }
    let low = u16::from_le_bytes([start[8], start[9]]);
    let (text_bytes, fixed_bytes) = match (start[6], start[7]) {
        (1, 0) => (usize::from(low), 10),
        (2 | 3, 0) => {
            let mut high = [0u8; 2];
            reader.read_exact(&mut high).map_err(short)?;
            (usize::from(low) | usize::from(u16::from_le_bytes(high)) << 16, 12)
        }
        (major, minor) => return Err(NpyError::Version(major, minor)),
    };
    if text_bytes > MAX_HEADER_BYTES {
        return Err(NpyError::Header("it is longer than 64 KiB"));
    }
    let mut text = vec![0u8; text_bytes];
    reader.read_exact(&mut text).map_err(|_| NpyError::Header("the file ends in it"))?;
    let text = std::str::from_utf8(&text).map_err(|_| NpyError::Header("it is not text"))?;
    Ok((parse_header(text)?, (fixed_bytes + text_bytes) as u64))
}

/// `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`, keys in any order.
fn parse_header(text: &str) -> Result<Header, NpyError> {
    let (mut descr, mut fortran_order, mut shape) = (None, None, None);
    let mut rest = text.trim().strip_prefix('{').ok_or(NpyError::Header("no dict"))?.trim_start();
    while !rest.starts_with('}') {
        let (key, after) = quoted(rest)?;
        rest = after.trim_start().strip_prefix(':').ok_or(NpyError::Header("no `:`"))?.trim_start();
        match key {
            "descr" if rest.starts_with('[') => {
                return Err(NpyError::Type("a record with named fields".to_owned()));
            }
            "descr" => {
                let (value, after) = quoted(rest)?;
                descr = Some(value.to_owned());
                rest = after;
            }
            "fortran_order" => {
                let (value, after) = match (rest.strip_prefix("True"), rest.strip_prefix("False")) {
                    (Some(after), _) => (true, after),
                    (_, Some(after)) => (false, after),
                    _ => return Err(NpyError::Header("fortran_order is no bool")),
                };
                fortran_order = Some(value);
                rest = after;
            }
            "shape" => {
                let (axes, after) = rest
                    .strip_prefix('(')
                    .and_then(|r| r.split_once(')'))
                    .ok_or(NpyError::Header("the shape is no tuple"))?;
                shape = Some(parse_shape(axes)?);
                rest = after;
            }
            _ => return Err(NpyError::Header("it has an unknown key")),
        }
        rest = rest.trim_start();
        match rest.strip_prefix(',') {
            Some(after) => rest = after.trim_start(),
            None if rest.starts_with('}') => {}
            None => return Err(NpyError::Header("no `,`")),
        }
    }
    match (descr, fortran_order, shape) {
        (Some(descr), Some(fortran_order), Some(shape)) => {
            Ok(Header { descr, fortran_order, shape })
        }
        _ => Err(NpyError::Header("descr, fortran_order or shape is missing")),
    }
}

fn quoted(text: &str) -> Result<(&str, &str), NpyError> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'));
    quote.and_then(|q| text[1..].split_once(q)).ok_or(NpyError::Header("a string is missing"))
}

fn parse_shape(axes: &str) -> Result<Vec<usize>, NpyError> {
    let axes = axes.trim();
    if axes.is_empty() {
        return Ok(Vec::new());
    }
    let axes = axes.strip_suffix(',').unwrap_or(axes);
    let mut shape = Vec::new();
    for axis in axes.split(',') {
        if shape.len() == MAX_AXES {
            return Err(NpyError::Header("the shape has more than 64 axes"));
        }
        // Python 2 wrote `3L`.
        let axis = axis.trim();
        let size = axis.strip_suffix('L').unwrap_or(axis).parse();
        shape.push(size.map_err(|_| NpyError::Header("the shape has an axis that is no size"))?);
    }
    Ok(shape)
}

/// Opens every array in a .npz archive, in any of the compressions numpy writes. Those of up to `memory_bytes` are read; others
/// stay where they are, or are unpacked to a file without a name, which is gone when it is closed.
pub(super) fn open_npz(
    path: &Path,
    memory_bytes: u64,
) -> Result<BTreeMap<String, Series>, NpyError> {
    let zip_error = |e: zip::result::ZipError| NpyError::Zip(e.to_string());
    let mut archive = ZipArchive::new(BufReader::new(File::open(path)?)).map_err(zip_error)?;
    let mut arrays = BTreeMap::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(zip_error)?;
        let Some(name) = name_of(&entry)? else { continue };
        let bytes = entry.size();
        let whole = bytes <= memory_bytes || name == LABELS;
        let series = match entry.data_start() {
            _ if whole => read_entry(entry).map(Series::from),
            Some(start)
                if entry.compression() == CompressionMethod::Stored && !entry.encrypted() =>
            {
                File::open(path)
                    .map_err(NpyError::from)
                    .and_then(|file| open_part(path, file, start, bytes, memory_bytes))
            }
            _ => unpack(&mut entry).and_then(|file| open_part(path, file, 0, bytes, memory_bytes)),
        };
        let series =
            series.map_err(|why| NpyError::Entry { name: name.clone(), why: why.into() })?;
        if arrays.insert(name.clone(), series).is_some() {
            return Err(NpyError::Duplicate(name));
        }
    }
    Ok(arrays)
}

/// Unpacks an entry to a temporary file, no longer than the entry says it is.
fn unpack<R: Read>(entry: &mut ZipFile<'_, R>) -> Result<File, NpyError> {
    let declared = declared_bytes(entry)?;
    let mut file = tempfile::tempfile().map_err(NpyError::Unpack)?;
    // One byte more, so that the checksum is verified, which happens at the end.
    let mut unpacked = entry.take(declared.saturating_add(1));
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut actual = 0;
    loop {
        let len = unpacked.read(&mut chunk)?;
        if len == 0 {
            break;
        }
        file.write_all(&chunk[..len]).map_err(NpyError::Unpack)?;
        actual += len as u64;
    }
    if actual == declared { Ok(file) } else { Err(NpyError::Length { declared, actual }) }
}

/// Name of the array in an entry, if it is one.
fn name_of<R: Read>(entry: &ZipFile<'_, R>) -> Result<Option<String>, NpyError> {
    let name = entry.name().map_err(|e| NpyError::Zip(e.to_string()))?;
    Ok(name.strip_suffix(".npy").map(str::to_owned))
}

/// The size that an entry says it has, if it can be true.
fn declared_bytes<R: Read>(entry: &ZipFile<'_, R>) -> Result<u64, NpyError> {
    let declared = entry.size();
    let most = entry.compressed_size().saturating_add(1).saturating_mul(MAX_DEFLATE_RATIO);
    if declared > most { Err(NpyError::Length { declared, actual: most }) } else { Ok(declared) }
}

fn read_entry<R: Read>(entry: ZipFile<'_, R>) -> Result<Array, NpyError> {
    let declared = declared_bytes(&entry)?;
    read_npy(entry, declared)
}

/// Reads every array in a .npz archive, in any of the compressions numpy writes.
pub(crate) fn read_npz(reader: impl Read + Seek) -> Result<BTreeMap<String, Array>, NpyError> {
    let zip_error = |e: zip::result::ZipError| NpyError::Zip(e.to_string());
    let mut archive = ZipArchive::new(reader).map_err(zip_error)?;
    let mut arrays = BTreeMap::new();
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(zip_error)?;
        let Some(name) = name_of(&entry)? else { continue };
        let array = read_entry(entry)
            .map_err(|why| NpyError::Entry { name: name.clone(), why: why.into() })?;
        if arrays.insert(name.clone(), array).is_some() {
            return Err(NpyError::Duplicate(name));
        }
    }
    Ok(arrays)
}

/// Writes `array` as .npy, version 1.0, row-major, little-endian.
pub(crate) fn write_npy(mut writer: impl Write, array: &Array) -> io::Result<()> {
    let descr = match &array.data {
        ArrayData::F32(_) => "<f4",
        ArrayData::I8(_) => "|i1",
        ArrayData::U8(_) => "|u1",
        ArrayData::I16(_) => "<i2",
        ArrayData::I32(_) => "<i4",
        ArrayData::I64(_) => "<i8",
        ArrayData::Bool(_) => "|b1",
    };
    let axes: String = array.shape.iter().map(|axis| format!("{axis}, ")).collect();
    let axes = if array.shape.len() == 1 { axes.trim_end() } else { axes.trim_end_matches(", ") };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({axes}), }}");
    // The elements start at a multiple of 64; the header ends with a line feed.
    let padding = 63 - (10 + header.len()) % 64;
    header.extend(std::iter::repeat_n(' ', padding));
    header.push('\n');
    let header_bytes =
        u16::try_from(header.len()).map_err(|_| io::Error::other("too many axes for .npy"))?;
    writer.write_all(MAGIC)?;
    writer.write_all(&[1, 0])?;
    writer.write_all(&header_bytes.to_le_bytes())?;
    writer.write_all(header.as_bytes())?;
    if let ArrayData::Bool(values) = &array.data {
        return writer.write_all(&values.iter().map(|v| u8::from(*v)).collect::<Vec<u8>>());
    }
    macro_rules! write_le {
        ($($kind:ident),*) => {
            match &array.data {
                $(ArrayData::$kind(v) => v.iter().try_for_each(|x| writer.write_all(&x.to_le_bytes())),)*
                ArrayData::Bool(_) => Ok(()),
            }
        };
    }
    write_le!(F32, I8, U8, I16, I32, I64)
}

/// Writes `array` to the .npy file `path`.
pub(crate) fn write_npy_file(path: &Path, array: &Array) -> io::Result<()> {
    let mut writer = BufWriter::new(File::create(path)?);
    write_npy(&mut writer, array)?;
    writer.flush()
}

/// Writes arrays as a compressed .npz, as `numpy.savez_compressed` does.
pub(crate) fn write_npz(
    writer: impl Write + Seek,
    arrays: &BTreeMap<String, Array>,
) -> io::Result<()> {
    let mut archive = ZipWriter::new(writer);
    for (name, array) in arrays {
        let bytes = with_elements!(&array.data, v => size_of_val(v.as_slice()));
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .large_file(bytes > u32::MAX as usize / 2);
        archive.start_file(format!("{name}.npy"), options)?;
        write_npy(BufWriter::new(&mut archive), array)?;
    }
    archive.finish()?.flush()
}
