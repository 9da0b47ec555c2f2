//! What to run, on which inputs; outputs on their way back.

use std::fs::{File, OpenOptions};
use std::io::Write;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
pub(crate) struct Job {
    pub runtime: String,
    pub model: String,
    pub threads: usize,
    pub samples: usize,
    inputs: Vec<InputFile>,
}

#[derive(Deserialize)]
struct InputFile {
    name: String,
    /// `float32`, `int8`, `uint8`, `int32` or `int64`.
    dtype: String,
    /// Of one sample.
    shape: Vec<usize>,
    /// All samples, little-endian, one after the other.
    file: String,
}

/// Numbers of all samples of an input.
#[cfg_attr(
    not(any(feature = "candle", feature = "rten", feature = "tract")),
    allow(dead_code, reason = "Whit takes bytes, but for f32")
)]
pub(crate) enum Numbers {
    F32(Vec<f32>),
    I8(Vec<i8>),
    U8(Vec<u8>),
    I32(Vec<i32>),
    I64(Vec<i64>),
}

#[cfg_attr(
    not(any(feature = "candle", feature = "rten", feature = "tract")),
    allow(dead_code, reason = "Whit's inputs are in the model's order")
)]
pub(crate) struct Input {
    pub name: String,
    /// Of one sample.
    pub shape: Vec<usize>,
    pub numbers: Numbers,
    /// As in the file.
    pub bytes: Vec<u8>,
    pub sample_bytes: usize,
}

impl Input {
    pub(crate) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Where a sample's numbers lie.
    pub(crate) fn range(&self, sample: usize) -> std::ops::Range<usize> {
        sample * self.elements()..(sample + 1) * self.elements()
    }

    pub(crate) fn sample_bytes(&self, sample: usize) -> &[u8] {
        &self.bytes[sample * self.sample_bytes..][..self.sample_bytes]
    }
}

impl Job {
    pub(crate) fn read_inputs(&self) -> Result<Vec<Input>> {
        self.inputs.iter().map(|input| input.read(self.samples)).collect()
    }
}

impl InputFile {
    fn read(&self, samples: usize) -> Result<Input> {
        let bytes = std::fs::read(&self.file).with_context(|| self.file.clone())?;
        let numbers = match self.dtype.as_str() {
            "float32" => Numbers::F32(decode(&bytes, f32::from_le_bytes)),
            "int8" => Numbers::I8(decode(&bytes, i8::from_le_bytes)),
            "uint8" => Numbers::U8(bytes.clone()),
            "int32" => Numbers::I32(decode(&bytes, i32::from_le_bytes)),
            "int64" => Numbers::I64(decode(&bytes, i64::from_le_bytes)),
            other => bail!("inputs of type {other} are not supported"),
        };
        ensure!(
            samples > 0 && bytes.len() % samples == 0,
            "{} is not {samples} samples",
            self.file
        );
        let sample_bytes = bytes.len() / samples;
        Ok(Input {
            name: self.name.clone(),
            shape: self.shape.clone(),
            numbers,
            bytes,
            sample_bytes,
        })
    }
}

fn decode<const N: usize, T>(bytes: &[u8], number: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| number(*chunk)).collect()
}

/// An output as real numbers.
pub(crate) struct Output {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
    /// Of the integers that it was, or 0.
    pub scale: f32,
}

impl Output {
    pub(crate) fn append(&self, path: &str, truncate: bool) -> Result<()> {
        let bytes: Vec<u8> = self.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut file = if truncate {
            File::create(path)?
        } else {
            OpenOptions::new().append(true).open(path)?
        };
        Ok(file.write_all(&bytes)?)
    }

    pub(crate) fn describe(&self) -> Value {
        json!({"shape": self.shape, "scale": self.scale})
    }
}
