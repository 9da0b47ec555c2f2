//! A model prepared on a backend: the CPU, or a CUDA device.

use anyhow::{Result, bail};
use clap::ValueEnum;
use serde_json::{Value, json};
use whit::{Isa, Model, Prepared, Session};

use crate::commands::Profile;
use crate::whit_file::{self, Settings};

/// What runs a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// This machine's CPU
    #[default]
    Cpu,
    /// An NVIDIA GPU
    Cuda,
}

impl Backend {
    /// As options have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Backend::Cpu => "cpu",
            Backend::Cuda => "cuda",
        }
    }
}

/// What a model ran on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RanOn {
    backend: Backend,
    /// Of the CPU.
    isa: Option<Isa>,
    threads: usize,
}

impl RanOn {
    /// The keys `backend`, `isa` and `threads`.
    pub(crate) fn add_to(self, object: &mut Value) {
        object["backend"] = json!(self.backend.name());
        object["isa"] = json!(self.isa.map(Isa::name));
        object["threads"] = json!(self.threads);
    }
}

/// A model ready to run somewhere.
pub(crate) enum Program<'m> {
    Cpu(Box<Session<'m>>),
    #[cfg(any(feature = "cuda", feature = "cuda-emulation"))]
    Cuda(Box<whit::cuda::Session<'m>>),
}

/// Prepares a model where the settings say. Errors name the step.
pub(crate) fn prepare<'m>(model: Model<'m>, settings: impl Into<Settings>) -> Result<Program<'m>> {
    let settings: Settings = settings.into();
    match settings.backend {
        Backend::Cpu => whit_file::session(model, settings).map(|s| Program::Cpu(Box::new(s))),
        Backend::Cuda => on_cuda(model, settings),
    }
}

/// The device that is asked for.
#[cfg(all(feature = "cuda", not(feature = "cuda-emulation")))]
fn device(settings: Settings) -> Result<whit::cuda::Device, whit::cuda::Error> {
    whit::cuda::Device::open(settings.device)
}

/// What stands for it in tests.
#[cfg(feature = "cuda-emulation")]
fn device(_: Settings) -> Result<whit::cuda::Device, whit::cuda::Error> {
    whit::cuda::Device::for_tests()
}

#[cfg(any(feature = "cuda", feature = "cuda-emulation"))]
fn on_cuda<'m>(model: Model<'m>, settings: Settings) -> Result<Program<'m>> {
    use anyhow::Context;
    use whit::cuda::{Error, Session};
    let device = device(settings).context("--backend cuda")?;
    match Session::new(model, &device, whit::cuda::Options::default()) {
        Ok(session) => Ok(Program::Cuda(Box::new(session))),
        Err(Error::Session(error)) => Err(whit_file::named(&model, error)),
        Err(error) => Err(error).context("--backend cuda"),
    }
}

#[cfg(not(any(feature = "cuda", feature = "cuda-emulation")))]
fn on_cuda<'m>(_: Model<'m>, _: Settings) -> Result<Program<'m>> {
    bail!("--backend cuda: this build has no CUDA backend; build with `--features cuda`")
}

impl<'m> Program<'m> {
    /// What every backend has.
    pub(crate) fn prepared(&mut self) -> &mut (dyn Prepared<'m> + 'm) {
        match self {
            Program::Cpu(session) => &mut **session,
            #[cfg(any(feature = "cuda", feature = "cuda-emulation"))]
            Program::Cuda(session) => &mut **session,
        }
    }

    /// The same, of a program that is needed for nothing else.
    pub(crate) fn into_prepared(self) -> Box<dyn Prepared<'m> + 'm> {
        match self {
            Program::Cpu(session) => session,
            #[cfg(any(feature = "cuda", feature = "cuda-emulation"))]
            Program::Cuda(session) => session,
        }
    }

    /// What it runs on.
    pub(crate) fn ran_on(&self) -> RanOn {
        let backend = match self {
            Program::Cpu(_) => Backend::Cpu,
            #[cfg(any(feature = "cuda", feature = "cuda-emulation"))]
            Program::Cuda(_) => Backend::Cuda,
        };
        RanOn { backend, isa: self.isa(), threads: self.threads() }
    }

    /// Refuses an option that only the CPU has.
    pub(crate) fn expect_cpu(&self, option: &str) -> Result<()> {
        if self.isa().is_none() {
            bail!("{option}: only on the CPU; leave out `--backend`");
        }
        Ok(())
    }

    /// Runs once, timing every step where `profile` is given and steps can be timed.
    pub(crate) fn run(&mut self, profile: Option<&mut Profile>) -> Result<()> {
        let model = *self.prepared().model();
        let done = match (self, profile) {
            (Program::Cpu(session), Some(profile)) => profile.run(session),
            (other, _) => other.prepared().run(),
        };
        done.map_err(|error| whit_file::named(&model, error))
    }

    /// The instruction set, where it is the CPU's.
    pub(crate) fn isa(&self) -> Option<Isa> {
        match self {
            Program::Cpu(session) => Some(session.isa()),
            #[cfg(any(feature = "cuda", feature = "cuda-emulation"))]
            Program::Cuda(_) => None,
        }
    }

    /// Threads that take part in a run.
    pub(crate) fn threads(&self) -> usize {
        match self {
            Program::Cpu(session) => session.threads(),
            #[cfg(any(feature = "cuda", feature = "cuda-emulation"))]
            Program::Cuda(_) => 1,
        }
    }

    /// Bytes of memory that it holds where it runs.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Program::Cpu(session) => session.needed_bytes(),
            #[cfg(any(feature = "cuda", feature = "cuda-emulation"))]
            Program::Cuda(session) => session.device_bytes(),
        }
    }
}
