//! From `TensorProto` to [`Tensor`]: every way ONNX stores elements, checked against the dims.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path};

use bytes::Bytes;
use half::{bf16, f16};
use whit::DType;

use super::builder::{MAX_ELEMENTS, MAX_RANK};
use super::narrow;
use super::proto::{TensorProto, data_type};
use crate::tensor::Tensor;

/// Why a tensor wasn't read.
#[derive(Debug)]
pub(crate) enum TensorProblem {
    /// A type without a counterpart.
    UnsupportedType(String),
    /// Contradictory or unreadable.
    Invalid(String),
}

fn wrong(problem: impl Into<String>) -> TensorProblem {
    TensorProblem::Invalid(problem.into())
}

/// The type that stands for an ONNX type, or `None`: f64 becomes f32, wider unsigned integers i64,
/// integers of 2 and 4 bits those of 8, and floats of 8 bits and less f32.
pub(crate) fn dtype_of(onnx: i32) -> Option<DType> {
    Some(match onnx {
        data_type::FLOAT | data_type::DOUBLE => DType::F32,
        data_type::FLOAT16 => DType::F16,
        data_type::BFLOAT16 => DType::BF16,
        data_type::INT8 => DType::I8,
        data_type::UINT8 => DType::U8,
        data_type::INT16 => DType::I16,
        data_type::INT32 => DType::I32,
        data_type::UINT16 | data_type::UINT32 | data_type::UINT64 | data_type::INT64 => DType::I64,
        data_type::BOOL => DType::Bool,
        data_type::INT2 | data_type::INT4 => DType::I8,
        data_type::UINT2 | data_type::UINT4 => DType::U8,
        _ if narrow::bits(onnx).is_some() => DType::F32,
        _ => return None,
    })
}

/// Reads a tensor. `base_dir` is where external data may lie.
pub(crate) fn read(proto: &TensorProto, base_dir: Option<&Path>) -> Result<Tensor, TensorProblem> {
    let onnx = proto.data_type();
    let Some(dtype) = dtype_of(onnx) else {
        return Err(TensorProblem::UnsupportedType(format!(
            "element type {} is not supported",
            data_type::name(onnx)
        )));
    };
    if proto.segment.is_some() {
        return Err(wrong("tensors in segments are not supported"));
    }
    let (shape, count) = shape_of(proto)?;
    let data = match proto.data_location() {
        0 => match &proto.raw_data {
            Some(raw) => from_raw(onnx, count, raw.clone())?,
            None => from_fields(proto, onnx, count)?,
        },
        1 => from_raw(onnx, count, external(proto, base_dir, byte_count(onnx, count)?)?)?,
        other => return Err(wrong(format!("data location {other} is not known"))),
    };
    debug_assert_eq!(data.len(), count * dtype.size());
    Ok(Tensor { dtype, shape, data })
}

fn shape_of(proto: &TensorProto) -> Result<(Vec<usize>, usize), TensorProblem> {
    if proto.dims.len() > MAX_RANK {
        return Err(wrong(format!("{} axes; at most {MAX_RANK} are supported", proto.dims.len())));
    }
    let mut count = 1usize;
    let mut shape = Vec::with_capacity(proto.dims.len());
    for dim in &proto.dims {
        let size =
            usize::try_from(*dim).map_err(|_| wrong(format!("dimension {dim} is negative")))?;
        shape.push(size);
    }
    // Zeros are left out, so that no partial product overflows whatever the order.
    for size in shape.iter().filter(|size| **size != 0) {
        count = count
            .checked_mul(*size)
            .filter(|count| *count <= MAX_ELEMENTS)
            .ok_or_else(|| wrong(format!("dims {:?} overflow", proto.dims)))?;
    }
    if shape.contains(&0) {
        count = 0;
    }
    Ok((shape, count))
}

/// Bytes of one element in the file.
fn stored_size(onnx: i32) -> usize {
    match onnx {
        data_type::DOUBLE | data_type::UINT64 | data_type::INT64 => 8,
        data_type::FLOAT | data_type::INT32 | data_type::UINT32 => 4,
        data_type::FLOAT16 | data_type::BFLOAT16 | data_type::INT16 | data_type::UINT16 => 2,
        _ => 1,
    }
}

fn byte_count(onnx: i32, count: usize) -> Result<usize, TensorProblem> {
    let bytes = match narrow::bits(onnx) {
        Some(bits) => count.checked_mul(bits).map(|bits| bits.div_ceil(8)),
        None => count.checked_mul(stored_size(onnx)),
    };
    bytes.ok_or_else(|| wrong("dims overflow"))
}

fn from_raw(onnx: i32, count: usize, raw: Bytes) -> Result<Bytes, TensorProblem> {
    let expected = byte_count(onnx, count)?;
    if raw.len() != expected {
        return Err(wrong(format!("dims say {expected} bytes, data has {}", raw.len())));
    }
    fn each<const N: usize, const M: usize>(raw: &[u8], f: impl Fn([u8; N]) -> [u8; M]) -> Bytes {
        let elements =
            raw.chunks_exact(N).map(|c| c.try_into().expect("chunks_exact gives N bytes"));
        Bytes::from(elements.flat_map(f).collect::<Vec<u8>>())
    }
    Ok(match onnx {
        data_type::DOUBLE => each(&raw, |b| (f64::from_le_bytes(b) as f32).to_le_bytes()),
        data_type::UINT16 => each(&raw, |b| i64::from(u16::from_le_bytes(b)).to_le_bytes()),
        data_type::UINT32 => each(&raw, |b| i64::from(u32::from_le_bytes(b)).to_le_bytes()),
        // Too large a u64 shows as a negative i64.
        data_type::UINT64 => match raw.chunks_exact(8).any(|c| c[7] & 0x80 != 0) {
            true => return Err(wrong("a uint64 element is beyond the range of i64")),
            false => raw,
        },
        _ if narrow::bits(onnx).is_some() => Bytes::from(narrow::unpack(onnx, &raw, count)),
        data_type::BOOL if raw.iter().any(|b| *b > 1) => each(&raw, |[b]| [u8::from(b != 0)]),
        _ => raw,
    })
}

fn from_fields(proto: &TensorProto, onnx: i32, count: usize) -> Result<Bytes, TensorProblem> {
    let expect = |len: usize| match len == count {
        true => Ok(()),
        false => Err(wrong(format!("dims say {count} elements, data has {len}"))),
    };
    fn narrow<T: TryFrom<i32>, const N: usize>(
        values: &[i32],
        bytes: impl Fn(T) -> [u8; N],
    ) -> Result<Vec<u8>, TensorProblem> {
        let mut out = Vec::with_capacity(values.len() * N);
        for value in values {
            let narrow = T::try_from(*value)
                .map_err(|_| wrong(format!("element {value} is out of range")))?;
            out.extend_from_slice(&bytes(narrow));
        }
        Ok(out)
    }
    let ints = &proto.int32_data;
    let data: Vec<u8> = match onnx {
        data_type::FLOAT => {
            expect(proto.float_data.len())?;
            proto.float_data.iter().flat_map(|v| v.to_le_bytes()).collect()
        }
        data_type::DOUBLE => {
            expect(proto.double_data.len())?;
            proto.double_data.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect()
        }
        data_type::INT64 => {
            expect(proto.int64_data.len())?;
            proto.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect()
        }
        data_type::UINT32 | data_type::UINT64 => {
            expect(proto.uint64_data.len())?;
            let mut out = Vec::with_capacity(count.saturating_mul(8));
            for value in &proto.uint64_data {
                let value = i64::try_from(*value)
                    .map_err(|_| wrong(format!("element {value} is beyond the range of i64")))?;
                out.extend_from_slice(&value.to_le_bytes());
            }
            out
        }
        _ if narrow::bits(onnx).is_some() => {
            let expected = byte_count(onnx, count)?;
            if ints.len() != expected {
                return Err(wrong(format!("dims say {expected} bytes, data has {}", ints.len())));
            }
            // One packed byte in each, of either signedness.
            let packed: Option<Vec<u8>> =
                ints.iter().map(|v| (-128..256).contains(v).then_some(*v as u8)).collect();
            let packed = packed.ok_or_else(|| wrong("an element is out of range"))?;
            narrow::unpack(onnx, &packed, count)
        }
        _ => {
            expect(ints.len())?;
            match onnx {
                data_type::INT32 => ints.iter().flat_map(|v| v.to_le_bytes()).collect(),
                data_type::INT16 => narrow(ints, i16::to_le_bytes)?,
                data_type::INT8 => narrow(ints, i8::to_le_bytes)?,
                data_type::UINT8 => narrow(ints, u8::to_le_bytes)?,
                data_type::UINT16 => narrow(ints, |v: u16| i64::from(v).to_le_bytes())?,
                data_type::BOOL => ints.iter().map(|v| u8::from(*v != 0)).collect(),
                // The bits of the half-precision number, in the low 16.
                data_type::FLOAT16 => narrow(ints, |v: u16| f16::from_bits(v).to_le_bytes())?,
                data_type::BFLOAT16 => narrow(ints, |v: u16| bf16::from_bits(v).to_le_bytes())?,
                _ => return Err(wrong(format!("no data for type {}", data_type::name(onnx)))),
            }
        }
    };
    Ok(Bytes::from(data))
}

/// Reads exactly `expected` bytes from the file that `external_data` names below `base_dir`.
fn external(
    proto: &TensorProto,
    base_dir: Option<&Path>,
    expected: usize,
) -> Result<Bytes, TensorProblem> {
    let (mut location, mut offset, mut length) = ("", 0u64, None);
    for entry in &proto.external_data {
        let number = || {
            let value = entry.value();
            value.parse::<u64>().map_err(|_| wrong(format!("external {} `{value}`", entry.key())))
        };
        match entry.key() {
            "location" => location = entry.value(),
            "offset" => offset = number()?,
            "length" => length = Some(number()?),
            _ => {}
        }
    }
    let Some(base_dir) = base_dir else {
        return Err(wrong("its data lies in another file; import the model from its file"));
    };
    let relative = Path::new(location);
    let inside = !location.is_empty()
        && relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if !inside {
        return Err(wrong(format!("external data `{location}` is not below the model's folder")));
    }
    let unreadable =
        |e: std::io::Error| wrong(format!("cannot read external data `{location}`: {e}"));
    let base = base_dir.canonicalize().map_err(unreadable)?;
    let path = base.join(relative).canonicalize().map_err(unreadable)?;
    // A symbolic link could lead out.
    if !path.starts_with(&base) {
        return Err(wrong(format!("external data `{location}` is not below the model's folder")));
    }
    let mut file = File::open(&path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(wrong(format!("external data `{location}` is not a file")));
    }
    let rest = metadata.len().saturating_sub(offset);
    let available = length.unwrap_or(rest).min(rest);
    let available = usize::try_from(available).unwrap_or(usize::MAX);
    // Without a length the rest of the file may belong to other tensors.
    if available < expected || (length.is_some() && available != expected) {
        return Err(wrong(format!("dims say {expected} bytes, `{location}` has {available}")));
    }
    file.seek(SeekFrom::Start(offset)).map_err(unreadable)?;
    let mut data = vec![0u8; expected];
    file.read_exact(&mut data).map_err(unreadable)?;
    Ok(Bytes::from(data))
}
