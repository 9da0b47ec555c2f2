//! A data set as the samples that a model runs on.

use std::cell::Cell;
use std::path::Path;

use anyhow::{Result, bail};
use half::{bf16, f16};
use whit::{DType, Prepared};
use whit_convert::evaluate::{Samples, feed};

use crate::commands::Sequence;
use crate::data::{Binding, Dataset, Extent, InputSpec, bind};

/// A data set whose arrays have been matched to the inputs of a model.
pub(crate) struct Bound<'d> {
    specs: Vec<InputSpec>,
    bindings: Vec<Binding<'d>>,
    count: usize,
    /// Whether each input has a batch axis in front of its samples.
    batched: Vec<bool>,
    path: &'d Path,
    /// Whether samples with a NaN or an infinity are refused.
    finite: Cell<bool>,
}

impl<'d> Bound<'d> {
    /// Matches arrays to inputs. `ranks` has the number of axes of each input, batch included.
    pub(crate) fn new(
        data: &'d Dataset,
        specs: Vec<InputSpec>,
        ranks: &[usize],
    ) -> Result<Bound<'d>> {
        let bindings = bind(data, &specs)?;
        for binding in &bindings {
            if let Some(note) = &binding.note {
                eprintln!("note: {note}");
            }
        }
        let batched =
            specs.iter().zip(ranks).map(|(spec, rank)| spec.sample_shape.len() < *rank).collect();
        let (count, path, finite) = (data.samples(), &*data.path, Cell::new(false));
        Ok(Bound { count, specs, bindings, batched, path, finite })
    }

    /// Refuses data with a NaN or an infinity in it: now where it is in memory, else when a sample is read.
    pub(crate) fn check_finite(&self, data: &Dataset) -> Result<()> {
        self.finite.set(true);
        if let Some(found) = data.first_non_finite() {
            bail!(
                "{}: array `{}` has {} in sample {}; remove or repair the sample",
                data.path.display(),
                found.array,
                found.value,
                found.sample
            );
        }
        Ok(())
    }

    fn sample_f32(&self, sample: usize, input: usize) -> Result<Vec<f32>, String> {
        let Binding { array, array_name, .. } = &self.bindings[input];
        let values = array.sample_f32(sample).map_err(|e| e.to_string())?;
        match values.iter().find(|value| self.finite.get() && !value.is_finite()) {
            None => Ok(values),
            Some(value) => Err(format!(
                "{}: array `{array_name}` has {value} in sample {sample}; remove or repair the sample",
                self.path.display()
            )),
        }
    }

    /// The sizes of one sample's axes, as the input counts them.
    fn sample_shape(&self, input: usize) -> Result<Vec<usize>, String> {
        let spec = &self.specs[input];
        let array = self.bindings[input].array;
        let fixed: Option<Vec<usize>> = spec
            .sample_shape
            .iter()
            .map(|extent| match extent {
                Extent::Fixed(size) => Some(*size),
                Extent::Between(..) => None,
            })
            .collect();
        match fixed {
            Some(shape) => Ok(shape),
            None if array.sample_shape().len() == spec.sample_shape.len() => {
                Ok(array.sample_shape().to_vec())
            }
            None => Err(format!(
                "input `{}` has symbolic axes: give array `{}` the input's {} axes",
                spec.name,
                self.bindings[input].array_name,
                spec.sample_shape.len()
            )),
        }
    }
}

impl Samples for Bound<'_> {
    fn len(&self) -> usize {
        self.count
    }

    fn input(
        &self,
        sample: usize,
        input: usize,
        name: &str,
        dtype: DType,
    ) -> Result<(Vec<usize>, Vec<u8>), String> {
        let array =
            self.bindings.get(input).ok_or_else(|| format!("no data for input `{name}`"))?.array;
        let mut shape = self.sample_shape(input)?;
        if self.batched[input] {
            shape.insert(0, 1);
        }
        let reals = || self.sample_f32(sample, input);
        let fractions = || {
            format!(
                "input `{name}` takes {dtype}, and sample {sample} of its array has numbers that aren't whole"
            )
        };
        let bytes = match dtype {
            DType::F32 => reals()?.iter().flat_map(|v| v.to_le_bytes()).collect(),
            // Rounded to the nearest, as a caller with f32 data would.
            DType::F16 => (reals()?.iter()).flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            DType::BF16 => {
                (reals()?.iter()).flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect()
            }
            integer => {
                let values = array.sample_i64(sample).map_err(|e| e.to_string())?;
                let values = values.ok_or_else(fractions)?;
                integer_bytes(&values, integer).map_err(|value| {
                    format!(
                        "input `{name}` takes {dtype}, and sample {sample} of its array has {value}"
                    )
                })?
            }
        };
        Ok((shape, bytes))
    }
}

/// Little-endian bytes of integers in a type; the first value that doesn't fit otherwise.
fn integer_bytes(values: &[i64], dtype: DType) -> Result<Vec<u8>, i64> {
    let range = match dtype {
        DType::I8 => -128..=127,
        DType::U8 => 0..=255,
        DType::I16 => i64::from(i16::MIN)..=i64::from(i16::MAX),
        DType::I32 => i64::from(i32::MIN)..=i64::from(i32::MAX),
        DType::Bool => 0..=1,
        _ => i64::MIN..=i64::MAX,
    };
    if let Some(value) = values.iter().find(|value| !range.contains(value)) {
        return Err(*value);
    }
    Ok(values.iter().flat_map(|value| value.to_le_bytes().into_iter().take(dtype.size())).collect())
}

/// The values of an output as reals: dequantized, or converted.
pub(crate) fn output_f32(session: &dyn Prepared<'_>, output: usize) -> Result<Vec<f32>> {
    let slot = session.output_slot(output)?;
    let bytes = session.output_bytes(output)?;
    Ok(match slot.dtype() {
        DType::F32 => {
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        }
        DType::I8 if slot.scale() > 0.0 => bytes
            .iter()
            .map(|b| (i32::from(*b as i8) - slot.zero_point()) as f32 * slot.scale())
            .collect(),
        DType::I8 => bytes.iter().map(|b| f32::from(*b as i8)).collect(),
        DType::U8 | DType::Bool => bytes.iter().map(|b| f32::from(*b)).collect(),
        DType::F16 => {
            bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
        }
        DType::BF16 => {
            bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
        }
        DType::I16 => {
            let step = if slot.scale() > 0.0 { slot.scale() } else { 1.0 };
            let real = |b: &[u8]| f32::from(i16::from_le_bytes([b[0], b[1]])) * step;
            bytes.chunks_exact(2).map(real).collect()
        }
        DType::I32 => bytes
            .chunks_exact(4)
            .map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]) as f32)
            .collect(),
        DType::I64 => bytes
            .chunks_exact(8)
            .map(|b| i64::from_le_bytes(b.try_into().expect("chunks of 8")) as f32)
            .collect(),
        dtype => bail!("output {output} is {dtype}, which this command can't read"),
    })
}

/// What a model makes of a data set: for each output, the rows of all samples.
pub(crate) struct Outputs {
    /// Per output: elements of one sample, and all rows.
    pub(crate) rows: Vec<(usize, Vec<f32>)>,
}

/// Runs a session on every sample. Rows must have one length.
pub(crate) fn run_all(
    session: &mut dyn Prepared<'_>,
    samples: &dyn Samples,
    sequence: Sequence,
    progress: &mut dyn FnMut(usize),
) -> Result<Outputs> {
    let count = session.model().outputs().len();
    let mut rows: Vec<(usize, Vec<f32>)> = vec![(0, Vec::new()); count];
    for sample in 0..samples.len() {
        if sequence.begins(sample) {
            session.reset_state();
        }
        feed(session, samples, sample)?;
        let model = *session.model();
        session
            .run()
            .map_err(|e| crate::whit_file::named(&model, e).context(format!("sample {sample}")))?;
        for (output, (len, all)) in rows.iter_mut().enumerate() {
            let row = output_f32(session, output)?;
            if sample > 0 && row.len() != *len {
                bail!(
                    "output {output} has {} values for sample {sample} and {len} for sample 0",
                    row.len()
                );
            }
            *len = row.len();
            all.extend(row);
        }
        progress(sample + 1);
    }
    Ok(Outputs { rows })
}

/// A progress bar on a terminal, for anything that takes over a second; silent otherwise.
pub(crate) fn progress_bar(what: &str, total: usize) -> indicatif::ProgressBar {
    let bar = indicatif::ProgressBar::with_draw_target(
        Some(total as u64),
        indicatif::ProgressDrawTarget::stderr_with_hz(5),
    );
    if let Ok(style) =
        indicatif::ProgressStyle::with_template("{prefix:>12} {wide_bar} {pos}/{len} {eta}")
    {
        bar.set_style(style);
    }
    bar.set_prefix(what.to_owned());
    bar
}
