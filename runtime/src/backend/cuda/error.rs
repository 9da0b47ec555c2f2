//! Why a program could not be prepared for a device.

use core::fmt;

use super::kernels::File;
use crate::dtype::DType;
use crate::error::{DeviceError, SessionError};

/// Oldest architecture: `__dp4a` needs 6.1, and NVRTC 13 begins at 7.5.
pub(crate) const LEAST_ARCHITECTURE: [u32; 2] = [7, 5];

/// A step that this backend can't run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingStep {
    /// Its index.
    pub step: usize,
    /// Name of the node of the source model.
    pub name: String,
    /// Its operator.
    pub operator: &'static str,
    /// Element type; `None` for operators that move elements of any type.
    pub dtype: Option<DType>,
    /// What of it is missing; `None` when the whole operator is.
    pub what: Option<&'static str>,
}

/// Why a device can't be used, or a program not be prepared for it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A library isn't there.
    Library {
        /// What it is.
        name: &'static str,
        /// Names of files looked for.
        tried: Vec<String>,
    },
    /// A library is older than what is called in it.
    Version {
        /// What it is.
        name: &'static str,
        /// The CUDA version that it is of, major and minor.
        has: [u32; 2],
        /// The least that will do.
        needs: [u32; 2],
    },
    /// There is no device of this number.
    NoDevice {
        /// The number asked for.
        index: usize,
        /// Devices that are there.
        present: usize,
    },
    /// The device is older than the kernels need.
    Architecture {
        /// Its name.
        device: String,
        /// Major and minor number of its compute capability.
        has: [u32; 2],
        /// The least that will do.
        needs: [u32; 2],
    },
    /// A file of kernels could not be compiled.
    Compile {
        /// Its name.
        file: &'static str,
        /// What the compiler says.
        log: String,
    },
    /// Steps that this backend lacks; nothing of the program is run.
    Missing(Vec<MissingStep>),
    /// The device failed.
    Device(DeviceError),
    /// As a session of the CPU.
    Session(SessionError),
}

impl Error {
    pub(crate) fn compile(file: &File, log: impl Into<String>) -> Error {
        Error::Compile { file: file.name, log: log.into() }
    }
}

impl From<DeviceError> for Error {
    fn from(error: DeviceError) -> Error {
        Error::Device(error)
    }
}

impl From<SessionError> for Error {
    fn from(error: SessionError) -> Error {
        Error::Session(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Library { name, tried } => {
                write!(
                    f,
                    "{name} is not installed, or not where libraries are looked for; looked for "
                )?;
                f.write_str(&tried.join(", "))
            }
            Error::Version { name, has, needs } => write!(
                f,
                "{name} is of CUDA {}.{}, and {}.{} or newer is needed; update it",
                has[0], has[1], needs[0], needs[1]
            ),
            Error::NoDevice { index, present } => {
                write!(f, "there is no CUDA device {index}; there are {present}")
            }
            Error::Architecture { device, has, needs } => write!(
                f,
                "{device} has compute capability {}.{}, and the kernels need {}.{} or newer",
                has[0], has[1], needs[0], needs[1]
            ),
            Error::Compile { file, log } => write!(f, "compiling {file}: {}", log.trim_end()),
            Error::Missing(steps) => {
                f.write_str("the CUDA backend lacks")?;
                for (index, step) in steps.iter().enumerate() {
                    f.write_str(if index == 0 { "\n" } else { ",\n" })?;
                    write!(f, "  {}", step.operator)?;
                    if let Some(dtype) = step.dtype {
                        write!(f, " {dtype}")?;
                    }
                    if let Some(what) = step.what {
                        write!(f, " ({what})")?;
                    }
                    write!(f, " of step {} `{}`", step.step, step.name)?;
                }
                f.write_str("; run it on the CPU")
            }
            Error::Device(error) => error.fmt(f),
            Error::Session(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for Error {}
