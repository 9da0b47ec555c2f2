//! The commands, one file each.

mod bench;
mod check;
mod compare;
mod convert;
mod demo;
mod embed;
mod eval;
mod generate;
mod import_args;
mod inspect;
mod inspect_memory;
mod inspect_monitor;
mod monitor;
mod run;
mod search;
mod transcribe;
mod verify;

pub(crate) use bench::Profile;
pub(crate) use compare::{Bar, summary_lines};
pub(crate) use convert::graph_specs;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};
use whit::Isa;

use crate::program::Backend;
use crate::whit_file;

/// Converts trained models to compact .whit files, runs them, and measures them.
#[derive(Parser)]
#[command(name = "whit", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Convert a trained model into a .whit file
    Convert(Box<convert::Convert>),
    /// Show a .whit file's totals, tensors, steps, operators and provenance
    Inspect(inspect::Inspect),
    /// Run a model on .npy inputs
    Run(run::Run),
    /// Continue a text, or talk, with a language model
    Generate(Box<generate::Generate>),
    /// Turn texts into vectors, and compare them
    Embed(embed::Embed),
    /// Write down what is said in a sound file
    Transcribe(Box<transcribe::Transcribe>),
    /// Measure a model's quality on labelled data
    Eval(eval::Eval),
    /// Compare a float model with the file it was quantized to, layer by layer
    Compare(compare::Compare),
    /// Measure a model's speed and memory
    Bench(bench::Bench),
    /// Check a file: structure, checksums, golden vectors on every instruction set present
    Verify(verify::Verify),
    /// What devices see: record logs, report, merge, export and serve them
    Monitor(monitor::Monitor),
    /// The whole story on an embedded example, in under a minute
    Demo(demo::Demo),
}

impl Command {
    pub(crate) fn run(self) -> Result<ExitCode> {
        match self {
            Command::Convert(command) => command.run(),
            Command::Inspect(command) => command.run(),
            Command::Run(command) => command.run(),
            Command::Generate(command) => command.run(),
            Command::Embed(command) => command.run(),
            Command::Transcribe(command) => command.run(),
            Command::Eval(command) => command.run(),
            Command::Compare(command) => command.run(),
            Command::Bench(command) => command.run(),
            Command::Verify(command) => command.run(),
            Command::Monitor(command) => command.run(),
            Command::Demo(command) => command.run(),
        }
    }
}

/// How samples follow each other, for models that remember something from one run to the next.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Sequence {
    /// Reset what a model with state remembers before every Nth sample; without this option, all
    /// samples are steps of one sequence
    #[arg(long, value_name = "N")]
    pub(crate) reset_every: Option<std::num::NonZeroUsize>,
}

impl Sequence {
    /// Whether a sequence begins with this sample.
    pub(crate) fn begins(self, sample: usize) -> bool {
        self.reset_every.map_or(sample == 0, |every| sample.is_multiple_of(every.get()))
    }
}

/// What runs a model.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct On {
    /// What runs the model. `cuda` is in builds with the feature of that name
    #[arg(long, value_enum, default_value_t = Backend::Cpu)]
    pub(crate) backend: Backend,
    /// Number of the GPU, as its driver counts
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) cuda_device: usize,
}

/// Where a model runs.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Target {
    /// Instruction set: scalar, avx2, avxvnni, avx512, neon, dotprod or i8mm (default: the fastest that this CPU has; also read
    /// from the environment variable WHIT_ISA)
    #[arg(long, value_parser = parse_isa)]
    pub(crate) isa: Option<Isa>,
    #[command(flatten)]
    pub(crate) on: On,
    /// Threads at most, the calling one included, 1 to 64. Models whose steps are all short stay on one;
    /// results are the same to the bit
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) threads: u32,
    /// Inputs of layers with weights in groups (w8 to w4, GGUF): 16 bits, or f32, which takes longer
    #[arg(long, value_enum, default_value_t = Precision::High)]
    pub(crate) precision: Precision,
}

/// [`whit::Precision`] as an option.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Precision {
    /// 16 bits with a scale for each group, where that is faster
    #[default]
    High,
    /// f32
    Highest,
}

impl Target {
    /// What sessions are prepared with. Says so when more threads are asked for than the machine has cores.
    pub(crate) fn settings(&self) -> Result<whit_file::Settings> {
        let cores = std::thread::available_parallelism().map_or(usize::MAX, usize::from);
        let threads = self.threads as usize;
        if threads > cores {
            eprintln!(
                "note: {threads} threads on {cores} cores take turns; more than cores gain nothing"
            );
        }
        let On { backend, cuda_device: device } = self.on;
        let precision = match self.precision {
            Precision::High => whit::Precision::High,
            Precision::Highest => whit::Precision::Highest,
        };
        Ok(whit_file::Settings { isa: self.isa()?, threads, precision, backend, device })
    }

    /// The instruction set asked for by option or environment.
    pub(crate) fn isa(&self) -> Result<Option<Isa>> {
        if self.isa.is_some() {
            return Ok(self.isa);
        }
        match std::env::var("WHIT_ISA") {
            Ok(name) if !name.is_empty() => match parse_isa(&name) {
                Ok(isa) => Ok(Some(isa)),
                Err(error) => bail!("environment variable WHIT_ISA: {error}"),
            },
            _ => Ok(None),
        }
    }
}

fn parse_isa(name: &str) -> Result<Isa, String> {
    let isa = Isa::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = Isa::ALL.iter().map(|isa| isa.name()).collect();
        format!("there is no instruction set `{name}`; there are {}", names.join(", "))
    })?;
    if !isa.is_available() {
        let available: Vec<&str> = Isa::available().map(Isa::name).collect();
        return Err(format!("this CPU has no {isa}; it has {}", available.join(", ")));
    }
    Ok(isa)
}

/// How a folder of images becomes arrays.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Images {
    /// For image folders: factor applied to pixels of 0..255
    #[arg(long, default_value_t = 1.0)]
    pub(crate) image_scale: f32,
    /// For image folders: subtracted after scaling; one value or one per channel
    #[arg(long, value_delimiter = ',', default_value = "0")]
    pub(crate) image_mean: Vec<f32>,
    /// For image folders: divides last; one value or one per channel
    #[arg(long, value_delimiter = ',', default_value = "1")]
    pub(crate) image_std: Vec<f32>,
}

/// A .whit file to work on.
#[derive(Args, Clone, Debug)]
pub(crate) struct ModelPath {
    /// The .whit file
    pub(crate) model: PathBuf,
}

/// Prints one JSON object on stdout.
pub(crate) fn print_json(value: &serde_json::Value) -> Result<()> {
    use std::io::Write;
    let text = serde_json::to_string_pretty(value)?;
    match writeln!(std::io::stdout().lock(), "{text}") {
        // A reader such as `head` may have seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// Prints text on stdout.
pub(crate) fn print_text(text: &str) -> Result<()> {
    use std::io::Write;
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}
