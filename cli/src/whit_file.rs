//! Opens .whit files and describes their inputs, with errors that say what to do.

use std::path::Path;

use anyhow::{Context, Result, bail};
use whit::{DType, Isa, Model, ModelFile, Options, Precision, Prepared, Session, SessionError};

use crate::data::{Extent, ImageSpec, InputSpec, Preprocess};
use crate::program::Backend;

/// Maps a file.
pub(crate) fn open(path: &Path) -> Result<ModelFile> {
    ModelFile::open(path).with_context(|| path.display().to_string())
}

/// The validated model of a mapped file.
pub(crate) fn model<'f>(file: &'f ModelFile, path: &Path) -> Result<Model<'f>> {
    file.model().with_context(|| path.display().to_string())
}

/// How a session is prepared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// `None` takes the fastest that this CPU has.
    pub(crate) isa: Option<Isa>,
    /// At most.
    pub(crate) threads: usize,
    pub(crate) precision: Precision,
    /// What runs it.
    pub(crate) backend: Backend,
    /// Number of the device, of backends that have some.
    #[cfg_attr(
        any(not(feature = "cuda"), feature = "cuda-emulation"),
        expect(dead_code, reason = "no such devices in this build")
    )]
    pub(crate) device: usize,
}

impl From<Option<Isa>> for Settings {
    /// The CPU, one thread.
    fn from(isa: Option<Isa>) -> Settings {
        Settings { isa, threads: 1, precision: Precision::High, backend: Backend::Cpu, device: 0 }
    }
}

/// A session of the CPU, whose errors name the step.
///
/// # Errors
/// When another backend is asked for, too.
pub(crate) fn session<'m>(model: Model<'m>, settings: impl Into<Settings>) -> Result<Session<'m>> {
    let Settings { isa, threads, precision, backend, .. } = settings.into();
    if backend != Backend::Cpu {
        bail!("--backend {}: this works on the CPU only; leave the option out", backend.name());
    }
    let options = Options { isa, threads, precision, ..Options::default() };
    Session::new(model, options).map_err(|error| named(&model, error))
}

/// Gives dimensions that are chosen at run time their sizes.
pub(crate) fn set_dimensions(session: &mut dyn Prepared<'_>, dims: &[(String, u32)]) -> Result<()> {
    let model = *session.model();
    let bounds = || {
        let all = model.symbols();
        let each = all.map(|s| format!("{} ({} to {})", model.text(s.name), s.min, s.max));
        each.collect::<Vec<_>>().join(", ")
    };
    for (name, size) in dims {
        match session.set_dimension(name, *size) {
            Ok(()) => {}
            Err(SessionError::Unknown) if model.symbols().len() == 0 => {
                bail!("--dim {name}={size}: all dimensions of the model are fixed")
            }
            Err(SessionError::Unknown) => {
                bail!("--dim {name}={size}: no such dimension; the model has {}", bounds())
            }
            Err(SessionError::Dimension { .. }) => {
                bail!("--dim {name}={size}: out of bounds; the model has {}", bounds())
            }
            Err(error) => return Err(named(&model, error)),
        }
    }
    Ok(())
}

/// A runtime error with the name of its step.
pub(crate) fn named(model: &Model<'_>, error: SessionError) -> anyhow::Error {
    anyhow::Error::msg(whit_convert::evaluate::describe(model, error))
}

/// What a user wants to know of a tensor.
pub(crate) struct TensorInfo<'a> {
    pub(crate) name: &'a str,
    pub(crate) dtype: DType,
    /// Each axis as its smallest and largest size, and its text.
    pub(crate) dims: Vec<(u32, u32, String)>,
    pub(crate) scale: f32,
    pub(crate) zero_point: i32,
    pub(crate) bytes: u64,
}

impl TensorInfo<'_> {
    /// `[1, 49, 10]`, with names for symbolic axes.
    pub(crate) fn shape_text(&self) -> String {
        let dims: Vec<&str> = self.dims.iter().map(|(_, _, text)| text.as_str()).collect();
        format!("[{}]", dims.join(", "))
    }

    /// Numbers for fixed axes, text for symbolic ones.
    pub(crate) fn shape_json(&self) -> serde_json::Value {
        self.dims
            .iter()
            .map(|(min, max, text)| {
                if min == max {
                    serde_json::Value::from(*max)
                } else {
                    serde_json::Value::from(text.clone())
                }
            })
            .collect()
    }

    /// `scale` and `zero_point` when the tensor is quantized.
    pub(crate) fn is_quantized(&self) -> bool {
        self.scale > 0.0
    }
}

/// Describes a tensor of the model.
pub(crate) fn tensor_info<'a>(model: &Model<'a>, tensor: usize) -> Option<TensorInfo<'a>> {
    let record = model.tensor(tensor)?;
    let dims = record.dims[..usize::from(record.rank)]
        .iter()
        .map(|reference| {
            let (min, max) = model.dim_bounds(*reference).unwrap_or((0, 0));
            let symbol =
                (*reference < 0).then(|| model.symbols().nth(!*reference as usize)).flatten();
            let text = match symbol {
                Some(symbol) => model.text(symbol.name).to_owned(),
                None if min == max => max.to_string(),
                None => format!("{min}..={max}"),
            };
            (min, max, text)
        })
        .collect();
    Some(TensorInfo {
        name: model.text(record.name),
        dtype: DType::from_number(record.dtype)?,
        dims,
        scale: record.scale,
        zero_point: record.zero_point,
        bytes: record.bytes,
    })
}

/// Whether the first axes of inputs are different dimensions, so that none is the batch: tokens, and rows of logits.
pub(crate) fn has_no_batch(infos: &[TensorInfo<'_>]) -> bool {
    let first = |info: &TensorInfo<'_>| info.dims.first().cloned();
    let mut symbols = infos.iter().filter_map(first).filter(|(min, max, _)| min != max);
    let Some((_, _, name)) = symbols.next() else { return false };
    symbols.any(|(_, _, other)| other != name)
}

/// The inputs as the data has to fit them: a first axis that can be 1 is the batch.
pub(crate) fn input_specs(model: &Model<'_>) -> Vec<InputSpec> {
    specs(model, true)
}

/// The inputs as the data of one run has to fit them, with all of their axes.
pub(crate) fn whole_input_specs(model: &Model<'_>) -> Vec<InputSpec> {
    specs(model, false)
}

fn specs(model: &Model<'_>, has_batch: bool) -> Vec<InputSpec> {
    model
        .inputs()
        .filter_map(|tensor| {
            let info = tensor_info(model, tensor)?;
            let is_batch = info.dims.first().is_some_and(|(min, _, _)| *min == 1);
            let skip = usize::from(has_batch && is_batch);
            let sample_shape = info.dims[skip..]
                .iter()
                .map(|(min, max, _)| {
                    if min == max {
                        Extent::Fixed(*max as usize)
                    } else {
                        Extent::Between(*min as usize, *max as usize)
                    }
                })
                .collect();
            Some(InputSpec { name: info.name.to_owned(), sample_shape })
        })
        .collect()
}

/// The names of a model's classes, if it has them.
pub(crate) fn class_names(model: &Model<'_>) -> Option<Vec<String>> {
    model.metadata_value("labels").map(|text| text.lines().map(str::to_owned).collect())
}

/// How images feed the model's only input: one of shape [H, W, C] or [C, H, W], C being 1 or 3.
pub(crate) fn image_spec(
    specs: &[InputSpec],
    images: &crate::commands::Images,
) -> Option<ImageSpec> {
    let [spec] = specs else { return None };
    let fixed: Vec<usize> = spec
        .sample_shape
        .iter()
        .map(|extent| match extent {
            Extent::Fixed(size) => Some(*size),
            Extent::Between(..) => None,
        })
        .collect::<Option<_>>()?;
    let (height, width, channels) = match fixed[..] {
        [height, width, channels @ (1 | 3)] => (height, width, channels),
        [channels @ (1 | 3), height, width] => (height, width, channels),
        [height, width] => (height, width, 1),
        _ => return None,
    };
    let preprocess = Preprocess {
        scale: images.image_scale,
        mean: images.image_mean.clone(),
        std: images.image_std.clone(),
    };
    Some(ImageSpec { height, width, channels, preprocess: Some(preprocess) })
}
