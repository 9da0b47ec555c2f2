//! `whit run`: .npy inputs in, .npy outputs out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};
use whit::DType;
use whit_convert::evaluate::{Samples, feed};

use super::bench::{Profile, profile_table};
use super::{ModelPath, Sequence, Target, print_json, print_text};
use crate::data::{Array, ArrayData, Dataset, read_npy_file, write_npy_file};
use crate::program::{self, Program};
use crate::report::{self, Align};
use crate::samples::{Bound, output_f32};
use crate::whit_file::{self, input_specs, tensor_info};

/// Values printed of an output that isn't written to a file.
const MAX_PRINTED: usize = 16;

#[derive(Args)]
pub(crate) struct Run {
    #[command(flatten)]
    path: ModelPath,
    /// An input: NAME=x.npy. A first axis longer than the model's batch runs the model once per row
    #[arg(long, value_name = "NAME=x.npy", value_parser = parse_input)]
    input: Vec<(String, PathBuf)>,
    /// Folder to write one NAME.npy per output to
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Write outputs in the model's own type instead of dequantized
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    sequence: Sequence,
    #[command(flatten)]
    target: Target,
    /// Show the time of every step
    #[arg(long)]
    profile: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

fn parse_input(text: &str) -> Result<(String, PathBuf), String> {
    // Names may hold '=', as in "StatefulPartitionedCall:0=x"; a path after the last one is the file.
    let (name, path) = text.rsplit_once('=').ok_or("write NAME=x.npy")?;
    Ok((name.to_owned(), PathBuf::from(path)))
}

/// The one sample of a model without inputs, all of whose values were given at conversion.
struct NoInputs;

impl Samples for NoInputs {
    fn len(&self) -> usize {
        1
    }

    fn input(
        &self,
        _: usize,
        _: usize,
        name: &str,
        _: DType,
    ) -> Result<(Vec<usize>, Vec<u8>), String> {
        Err(format!("there is no input `{name}`"))
    }
}

/// One output of all runs: its shape and its bytes or reals.
struct Collected {
    name: String,
    dtype: DType,
    /// Whether the integers stand for reals.
    scaled: bool,
    shape: Vec<usize>,
    bytes: Vec<u8>,
    reals: Vec<f32>,
}

impl Run {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let file = whit_file::open(&self.path.model)?;
        let model = whit_file::model(&file, &self.path.model)?;
        let settings = self.target.settings()?;
        let infos: Vec<_> =
            model.inputs().filter_map(|tensor| tensor_info(&model, tensor)).collect();
        let mut arrays = BTreeMap::new();
        for (name, path) in &self.input {
            let Some(info) = infos.iter().find(|info| info.name == *name) else {
                let names: Vec<&str> = infos.iter().map(|info| info.name).collect();
                bail!("there is no input `{name}`; the model has {}", names.join(", "));
            };
            let mut array = read_npy_file(path).with_context(|| path.display().to_string())?;
            // An array without an axis for samples is one sample.
            let rank = info.dims.len();
            let has_batch = info.dims.first().is_some_and(|(min, _, _)| *min == 1);
            let dims = array.shape.len();
            let is_one_sample = if has_batch { dims + 1 == rank } else { dims <= rank };
            if is_one_sample {
                array.shape.insert(0, 1);
            }
            arrays.insert(name.clone(), array);
        }
        if let Some(info) = infos.iter().find(|info| !arrays.contains_key(info.name)) {
            bail!("input `{}` is missing: give it with --input {}=x.npy", info.name, info.name);
        }
        let mut program = program::prepare(model, settings)?;
        if self.profile {
            program.expect_cpu("--profile")?;
        }
        let mut profile = Profile::default();
        let (outputs, runs) = if infos.is_empty() {
            (self.collect(&mut program, &NoInputs, &mut profile)?, 1)
        } else {
            let data = Dataset::new(Path::new("--input"), arrays)?;
            let ranks: Vec<usize> = infos.iter().map(|info| info.dims.len()).collect();
            let bound = Bound::new(&data, input_specs(&model), &ranks)?;
            (self.collect(&mut program, &bound, &mut profile)?, bound.len())
        };
        if let Some(folder) = &self.output {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
            for output in &outputs {
                let path = folder.join(format!("{}.npy", file_stem(&output.name)));
                write_npy_file(&path, &self.array(output))
                    .with_context(|| path.display().to_string())?;
            }
        }
        self.report(&mut program, &outputs, runs, &profile)?;
        Ok(ExitCode::SUCCESS)
    }

    fn collect(
        &self,
        program: &mut Program<'_>,
        samples: &dyn Samples,
        profile: &mut Profile,
    ) -> Result<Vec<Collected>> {
        let model = *program.prepared().model();
        let mut outputs: Vec<Collected> = Vec::new();
        for sample in 0..samples.len() {
            let session = program.prepared();
            if self.sequence.begins(sample) {
                session.reset_state();
            }
            feed(session, samples, sample)?;
            program.run(Some(profile))?;
            let session = program.prepared();
            for (index, tensor) in model.outputs().enumerate() {
                let slot = session.output_slot(index)?;
                let reals = output_f32(session, index)?;
                let bytes = session.output_bytes(index)?;
                if sample == 0 {
                    let name = tensor_info(&model, tensor)
                        .map_or(String::new(), |info| info.name.to_owned());
                    let mut shape: Vec<usize> =
                        slot.dims().iter().map(|dim| *dim as usize).collect();
                    if samples.len() > 1 && shape.first() != Some(&1) {
                        shape.insert(0, 1);
                    }
                    outputs.push(Collected {
                        name,
                        dtype: slot.dtype(),
                        scaled: matches!(slot.dtype(), DType::I8 | DType::I16)
                            && slot.scale() > 0.0,
                        shape,
                        bytes: Vec::new(),
                        reals: Vec::new(),
                    });
                }
                outputs[index].bytes.extend_from_slice(bytes);
                outputs[index].reals.extend(reals);
            }
        }
        if samples.len() > 1 {
            for output in &mut outputs {
                output.shape[0] = samples.len();
            }
        }
        Ok(outputs)
    }

    fn array(&self, output: &Collected) -> Array {
        let quantized = output.scaled && !self.raw;
        let b = &output.bytes;
        let data = match output.dtype {
            _ if quantized => ArrayData::F32(output.reals.clone()),
            DType::I8 => ArrayData::I8(b.iter().map(|x| *x as i8).collect()),
            DType::U8 => ArrayData::U8(b.clone()),
            DType::Bool => ArrayData::Bool(b.iter().map(|x| *x != 0).collect()),
            DType::I16 => ArrayData::I16(
                b.chunks_exact(2).map(|c| i16::from_le_bytes([c[0], c[1]])).collect(),
            ),
            DType::I32 => ArrayData::I32(
                b.chunks_exact(4).map(|c| i32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect(),
            ),
            DType::I64 => ArrayData::I64(
                b.chunks_exact(8)
                    .map(|c| i64::from_le_bytes(c.try_into().expect("chunks of 8")))
                    .collect(),
            ),
            _ => ArrayData::F32(output.reals.clone()),
        };
        Array { shape: output.shape.clone(), data }
    }

    fn report(
        &self,
        program: &mut Program<'_>,
        outputs: &[Collected],
        runs: usize,
        profile: &Profile,
    ) -> Result<()> {
        if self.json {
            let outputs: Vec<Value> = outputs
                .iter()
                .map(|output| {
                    json!({
                        "name": output.name,
                        "type": output.dtype.name(),
                        "shape": output.shape,
                        "values": output.reals.iter().take(1000).map(|v| f64::from(*v)).collect::<Vec<_>>(),
                        "file": self.output.as_ref().map(|folder| {
                            folder.join(format!("{}.npy", file_stem(&output.name))).display().to_string()
                        }),
                    })
                })
                .collect();
            let mut object = json!({ "isa": program.isa().map(whit::Isa::name), "backend": self.target.on.backend.name(), "runs": runs, "outputs": outputs });
            if self.profile {
                object["profile"] = profile.json(program.prepared().model(), None);
            }
            return print_json(&object);
        }
        let rows: Vec<Vec<String>> = outputs
            .iter()
            .map(|output| {
                let mut values: Vec<String> =
                    output.reals.iter().take(MAX_PRINTED).map(|v| format!("{v:.5}")).collect();
                if output.reals.len() > MAX_PRINTED {
                    values.push("…".to_owned());
                }
                vec![output.name.clone(), format!("{:?}", output.shape), values.join(" ")]
            })
            .collect();
        print_text(&report::table(
            &[("output", Align::Left), ("shape", Align::Left), ("values", Align::Left)],
            &rows,
        ))?;
        if self.profile {
            print_text(&format!("\n{}", profile_table(profile, program.prepared().model(), None)))?;
        }
        Ok(())
    }
}

/// An output's name as a file name.
fn file_stem(name: &str) -> String {
    name.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect()
}
