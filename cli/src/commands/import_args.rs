//! How a model is imported: what the commands that read one have in common.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use whit_convert::import::{DimChoice, ImportOptions, InputLayout, KvCache, Pooling};
use whit_convert::tensor::Tensor;

use crate::data::read_npy_file;

#[derive(Args)]
pub(super) struct ImportArgs {
    /// Size of a dynamic dimension: NAME=N, or NAME=MIN..MAX to choose at run time
    #[arg(long, value_name = "NAME=N|MIN..MAX", value_parser = parse_dim)]
    dim: Vec<(String, DimChoice)>,
    /// Layout in which an image input is provided: NAME=nhwc drops the transpose of an NCHW model
    #[arg(long, value_name = "NAME=nhwc", value_parser = parse_layout)]
    input_layout: Vec<(String, InputLayout)>,
    /// An input that always has the same value, which is stored in the file: NAME=x.npy, or a number
    #[arg(long, value_name = "NAME=x.npy|NUMBER", value_parser = parse_value)]
    input_value: Vec<(String, InputValue)>,
    /// NonMaxSuppression gives as many rows as could be needed; the unused ones come last and hold -1
    #[arg(long)]
    pad_boxes: bool,
    /// Positions, of prompt and answer together, that a decoder has room for; without, the model's own number, at most 4096
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Texts that a decoder can continue at once, each with room for the whole context
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    sequences: Option<u16>,
    /// How a decoder keeps the keys and values of its context: q8 takes about half of the memory
    #[arg(long, value_enum, default_value_t = KvCacheArg::F16)]
    kv_cache: KvCacheArg,
    /// For `whit transcribe --word-times`: the file has what times of words are found by
    #[arg(long)]
    word_times: bool,
    /// How the vectors of a text's tokens become one, for encoders of text; without, what the files of
    /// sentence-transformers beside the model say
    #[arg(long, value_enum)]
    pooling: Option<PoolingArg>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KvCacheArg {
    /// 16-bit floats
    F16,
    /// 32-bit floats, for comparisons with a reference: twice the memory
    F32,
    /// Integers of 8 bits, 32 of which share a scale
    Q8,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PoolingArg {
    /// Not at all: the output has a vector per token
    None,
    /// Their mean
    Mean,
    /// That of the first token
    Cls,
    /// The largest of each element
    Max,
    /// Their sum over the square root of their number
    MeanSqrt,
    /// Their mean, weighted by their positions from 1 on
    WeightedMean,
    /// That of the last token
    Last,
}

impl PoolingArg {
    fn pooling(self) -> Pooling {
        match self {
            PoolingArg::None => Pooling::None,
            PoolingArg::Mean => Pooling::Mean,
            PoolingArg::Cls => Pooling::Cls,
            PoolingArg::Max => Pooling::Max,
            PoolingArg::MeanSqrt => Pooling::MeanSqrt,
            PoolingArg::WeightedMean => Pooling::WeightedMean,
            PoolingArg::Last => Pooling::Last,
        }
    }
}

impl ImportArgs {
    pub(super) fn options(&self) -> Result<ImportOptions> {
        let input_values =
            self.input_value.iter().map(|(name, value)| Ok((name.clone(), value.tensor()?)));
        Ok(ImportOptions {
            dims: self.dim.clone(),
            input_layouts: self.input_layout.clone(),
            input_values: input_values.collect::<Result<_>>()?,
            pad_boxes: self.pad_boxes,
            context: self.context,
            sequences: self.sequences.map(usize::from),
            kv_cache: match self.kv_cache {
                KvCacheArg::F16 => KvCache::F16,
                KvCacheArg::F32 => KvCache::F32,
                KvCacheArg::Q8 => KvCache::Q8,
            },
            word_times: self.word_times,
            pooling: self.pooling.map(PoolingArg::pooling),
        })
    }
}

fn parse_dim(text: &str) -> Result<(String, DimChoice), String> {
    // Symbols may contain '=', sizes don't.
    let (name, size) = text.rsplit_once('=').ok_or("write NAME=N or NAME=MIN..MAX")?;
    let number = |text: &str| {
        text.parse::<i64>()
            .ok()
            .filter(|n| (1..=i64::from(i32::MAX)).contains(n))
            .ok_or_else(|| format!("`{text}` is not a size of at least 1"))
    };
    let choice = match size.split_once("..") {
        None => DimChoice::Fixed(number(size)?),
        Some((min, max)) => {
            let (min, max) = (number(min)?, number(max.trim_start_matches('='))?);
            if min > max {
                return Err(format!("{min} is larger than {max}"));
            }
            DimChoice::Range(min, max)
        }
    };
    Ok((name.to_owned(), choice))
}

#[derive(Clone, Debug)]
enum InputValue {
    Int(i64),
    Real(f32),
    File(PathBuf),
}

fn parse_value(text: &str) -> Result<(String, InputValue), String> {
    let (name, value) = text.rsplit_once('=').ok_or("write NAME=x.npy or NAME=NUMBER")?;
    let value = match (value.parse::<i64>(), value.parse::<f32>(), value) {
        (Ok(int), ..) => InputValue::Int(int),
        (_, Ok(real), _) => InputValue::Real(real),
        (.., "true") => InputValue::Int(1),
        (.., "false") => InputValue::Int(0),
        (.., path) => InputValue::File(PathBuf::from(path)),
    };
    Ok((name.to_owned(), value))
}

impl InputValue {
    fn tensor(&self) -> Result<Tensor> {
        Ok(match self {
            InputValue::Int(int) => Tensor::from_i64([], &[*int]),
            InputValue::Real(real) => Tensor::from_f32([], &[*real]),
            InputValue::File(path) => {
                let array = read_npy_file(path).with_context(|| path.display().to_string())?;
                let dtype = array.data.dtype();
                Tensor { dtype, data: array.data.bytes().into(), shape: array.shape }
            }
        })
    }
}

fn parse_layout(text: &str) -> Result<(String, InputLayout), String> {
    match text.rsplit_once('=') {
        Some((name, "nhwc")) => Ok((name.to_owned(), InputLayout::Nhwc)),
        _ => Err("write NAME=nhwc".to_owned()),
    }
}
