//! `whit monitor samples`: the inputs that devices kept, for labelling.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::{Logs, say_remarks};
use crate::commands::print_text;
use crate::data::{Array, ArrayData, write_npz};
use crate::monitor::reading::read_logs;
use crate::monitor::reservoir::Reservoir;
use crate::whit_file::{self, tensor_info};

#[derive(Args)]
pub(crate) struct Samples {
    #[command(flatten)]
    logs: Logs,
    /// The model that the devices run: name and shape of its input
    #[arg(long, value_name = "FILE.whit")]
    model: Option<PathBuf>,
    /// At most so many, the least certain
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// The .npz to write
    #[arg(short, long, value_name = "FILE.npz")]
    output: PathBuf,
}

impl Samples {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let mut reservoir = Reservoir::default();
        let read = read_logs(&self.logs.logs, &self.logs.selection(), &mut reservoir)?;
        let out_of_order = reservoir.out_of_order;
        let mut inputs = reservoir.inputs(self.limit)?;
        let mut name = "input".to_owned();
        if let Some(path) = &self.model {
            name = shape(path, &mut inputs.values, inputs.header.model)?;
        }
        let count = inputs.run_id.len();
        let array = |data| Array { shape: vec![count], data };
        let integers = |values: &mut dyn Iterator<Item = u64>| {
            // numpy's signed 64 bits: numbers of devices from 2⁶³ on become negative.
            array(ArrayData::I64(values.map(|value| value as i64).collect()))
        };
        let arrays = BTreeMap::from([
            (name.clone(), inputs.values),
            ("device".to_owned(), integers(&mut inputs.device.iter().copied())),
            ("period".to_owned(), integers(&mut inputs.sequence.iter().map(|x| u64::from(*x)))),
            ("start_s".to_owned(), integers(&mut inputs.start_s.iter().map(|x| u64::from(*x)))),
            ("run_id".to_owned(), integers(&mut inputs.run_id.iter().map(|x| u64::from(*x)))),
            ("predicted".to_owned(), integers(&mut inputs.class.iter().map(|x| u64::from(*x)))),
            ("confidence".to_owned(), array(ArrayData::F32(inputs.confidence))),
        ]);
        let file = File::create(&self.output).with_context(|| self.output.display().to_string())?;
        write_npz(BufWriter::new(file), &arrays)
            .with_context(|| self.output.display().to_string())?;
        say_remarks(&read);
        if inputs.incomplete > 0 || out_of_order > 0 {
            eprintln!("note: {} inputs lack a part and were left out", inputs.incomplete);
        }
        print_text(&format!(
            "{}: {count} inputs as `{name}`, the least certain first, with device, period, start_s, run_id, predicted and confidence",
            self.output.display()
        ))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Gives the array the shape of the model's input; the input's name.
fn shape(path: &std::path::Path, values: &mut Array, id: u64) -> Result<String> {
    let file = whit_file::open(path)?;
    let model = whit_file::model(&file, path)?;
    let own = whit::metrics::model_id(&model);
    if own != id {
        bail!("{}: is model {own:016x}, the inputs are of model {id:016x}", path.display());
    }
    let baseline = whit::metrics::baseline::Baseline::of(&model)
        .with_context(|| path.display().to_string())?;
    let input = baseline.map_or(0, |baseline| usize::from(baseline.header().input));
    let info = model.input(input).and_then(|tensor| tensor_info(&model, tensor));
    let Some(info) = info else { bail!("{}: has no input {input}", path.display()) };
    let skip = usize::from(info.dims.first().is_some_and(|(min, _, _)| *min == 1));
    let sizes: Option<Vec<usize>> = info.dims[skip..]
        .iter()
        .map(|(min, max, _)| (min == max).then_some(*max as usize))
        .collect();
    if let Some(sizes) = sizes
        && sizes.iter().product::<usize>() == values.sample_len()
    {
        values.shape = std::iter::once(values.samples()).chain(sizes).collect();
    }
    Ok(info.name.to_owned())
}
