//! The inputs that devices kept for labelling, put together from their pieces.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use half::{bf16, f16};
use whit::DType;
use whit::metrics::record::{Header, Sample};

use super::reading::{Refused, Sink, header_key};
use crate::data::{Array, ArrayData};

/// Bytes of inputs that are put together at most.
const MAX_BYTES: usize = 1 << 30;

/// An input, as far as its pieces have come.
struct Kept {
    header: Header,
    sample: Sample,
    bytes: Vec<u8>,
    /// How many of the bytes are there. Pieces come in their order.
    filled: usize,
}

/// Collects inputs: each run of a device and period once.
#[derive(Default)]
pub(crate) struct Reservoir {
    kept: BTreeMap<(Vec<u8>, u32, u32), Kept>,
    bytes: usize,
    /// Pieces that don't fit the ones before.
    pub(crate) out_of_order: u64,
}

impl Sink for Reservoir {
    fn sample(&mut self, header: &Header, sample: &Sample, bytes: &[u8]) -> Result<(), Refused> {
        let key = (header_key(header), sample.sequence, sample.run_id);
        let total = sample.total_bytes as usize;
        if sample.offset == 0 {
            // Another piece 0 of the same run is that of a copy.
            if self.kept.contains_key(&key) {
                return Ok(());
            }
            self.bytes += total;
            if self.bytes > MAX_BYTES {
                let text = "the logs have more than 1 GiB of inputs: choose with --device, --from, --until";
                return Err(anyhow::anyhow!(text).into());
            }
            // Memory comes as the bytes do.
            let kept = Kept {
                header: *header,
                sample: *sample,
                bytes: bytes.to_vec(),
                filled: bytes.len(),
            };
            self.kept.insert(key, kept);
            return Ok(());
        }
        match self.kept.get_mut(&key) {
            Some(kept)
                if kept.filled == sample.offset as usize
                    && kept.sample.total_bytes as usize == total =>
            {
                kept.bytes.extend_from_slice(bytes);
                kept.filled += bytes.len();
            }
            // A piece that is there already.
            Some(kept) if kept.filled > sample.offset as usize => {}
            _ => self.out_of_order += 1,
        }
        Ok(())
    }
}

/// Inputs of one model, the least certain first.
pub(crate) struct Inputs {
    pub(crate) header: Header,
    /// One row each.
    pub(crate) values: Array,
    pub(crate) device: Vec<u64>,
    pub(crate) sequence: Vec<u32>,
    pub(crate) start_s: Vec<u32>,
    pub(crate) run_id: Vec<u32>,
    pub(crate) class: Vec<u16>,
    pub(crate) confidence: Vec<f32>,
    /// Inputs of which pieces are missing.
    pub(crate) incomplete: usize,
}

impl Reservoir {
    /// All inputs, which have to be of one model and configuration.
    ///
    /// # Errors
    /// No inputs, or inputs that don't go into one array.
    pub(crate) fn inputs(self, limit: Option<usize>) -> Result<Inputs> {
        let all = self.kept.len();
        let mut kept: Vec<Kept> = self
            .kept
            .into_values()
            .filter(|kept| kept.filled == kept.sample.total_bytes as usize)
            .collect();
        let incomplete = all - kept.len();
        kept.sort_by_key(|kept| {
            let sample = &kept.sample;
            (sample.confidence, kept.header.device, sample.sequence, sample.run_id)
        });
        kept.truncate(limit.unwrap_or(usize::MAX));
        let Some(first) = kept.first() else {
            bail!(match incomplete {
                0 => "the logs have no inputs kept for labelling".to_owned(),
                n => format!("all {n} inputs in the logs lack a part"),
            });
        };
        let header = first.header;
        let alike = |other: &Header| {
            (other.model, other.sample_dtype) == (header.model, header.sample_dtype)
        };
        if let Some(other) = kept.iter().find(|kept| !alike(&kept.header)) {
            bail!(
                "the logs have inputs of the models {:016x} and {:016x}: choose one with --model-id",
                header.model,
                other.header.model
            );
        }
        let bytes = first.sample.total_bytes;
        if let Some(other) = kept.iter().find(|kept| kept.sample.total_bytes != bytes) {
            bail!(
                "inputs of {bytes} and of {} bytes don't go into one array: choose with --device, --from, --until",
                other.sample.total_bytes
            );
        }
        let Some(dtype) = DType::from_number(header.sample_dtype) else {
            bail!("inputs of type number {}, which this build doesn't know", header.sample_dtype);
        };
        let rows: Vec<u8> = kept.iter().flat_map(|kept| kept.bytes.iter().copied()).collect();
        let elements = bytes as usize / dtype.size().max(1);
        if elements * dtype.size() != bytes as usize {
            bail!("inputs of {bytes} bytes are no whole number of {dtype}");
        }
        let values = Array { shape: vec![kept.len(), elements], data: elements_of(dtype, &rows)? };
        Ok(Inputs {
            header,
            values,
            device: kept.iter().map(|kept| kept.header.device).collect(),
            sequence: kept.iter().map(|kept| kept.sample.sequence).collect(),
            start_s: kept.iter().map(|kept| kept.sample.start_s).collect(),
            run_id: kept.iter().map(|kept| kept.sample.run_id).collect(),
            class: kept.iter().map(|kept| kept.sample.class).collect(),
            confidence: kept
                .iter()
                .map(|kept| f32::from(kept.sample.confidence) / 32_768.0)
                .collect(),
            incomplete,
        })
    }
}

fn elements_of(dtype: DType, bytes: &[u8]) -> Result<ArrayData> {
    macro_rules! parts {
        ($($number:ty),* => $of:expr) => {{
            const SIZE: usize = size_of::<($($number,)*)>();
            bytes.as_chunks::<SIZE>().0.iter().map(|raw| $of(*raw)).collect()
        }};
    }
    Ok(match dtype {
        DType::F32 => ArrayData::F32(parts!(f32 => f32::from_le_bytes)),
        DType::F16 => ArrayData::F32(parts!(u16 => |raw| f16::from_le_bytes(raw).to_f32())),
        DType::BF16 => ArrayData::F32(parts!(u16 => |raw| bf16::from_le_bytes(raw).to_f32())),
        DType::I8 => ArrayData::I8(parts!(i8 => i8::from_le_bytes)),
        DType::U8 => ArrayData::U8(bytes.to_vec()),
        DType::I16 => ArrayData::I16(parts!(i16 => i16::from_le_bytes)),
        DType::I32 => ArrayData::I32(parts!(i32 => i32::from_le_bytes)),
        DType::I64 => ArrayData::I64(parts!(i64 => i64::from_le_bytes)),
        DType::Bool => ArrayData::Bool(bytes.iter().map(|byte| *byte != 0).collect()),
        other => bail!("inputs of type {other} don't go into an .npz"),
    })
}
