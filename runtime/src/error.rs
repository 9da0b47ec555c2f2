//! Why a session could not be prepared or run: small values without strings.

use core::fmt;

use crate::dtype::DType;
use crate::format::{Op, OpBits};

/// What is wrong with one step, found when a session is prepared or its dimensions change, and for
/// [`StepErrorKind::IndexOutOfRange`] while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepErrorKind {
    /// An input that the operator needs is absent, or an operand too many is there.
    OperandCount,
    /// An operand has a type that the operator doesn't take there. Outputs count on after inputs.
    OperandType(u8),
    /// An operand's shape doesn't fit the other operands or the attributes.
    OperandShape(u8),
    /// An operand's weights are in a layout that the operator doesn't read.
    OperandLayout(u8),
    /// An attribute is missing or has a value that the operator doesn't have.
    Attribute(&'static str),
    /// The output overlaps an operand in memory.
    Overlap,
    /// A size doesn't fit the address space, or a sum could overflow its accumulator.
    TooLarge,
    /// An index taken from a tensor lies outside the indexed axis.
    IndexOutOfRange,
}

impl fmt::Display for StepErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            StepErrorKind::OperandCount => f.write_str("it has the wrong number of operands"),
            StepErrorKind::OperandType(index) => {
                write!(f, "operand {index} has a type it doesn't take")
            }
            StepErrorKind::OperandShape(index) => {
                write!(f, "operand {index} has a shape that doesn't fit")
            }
            StepErrorKind::OperandLayout(index) => {
                write!(f, "operand {index} is in a layout it doesn't read")
            }
            StepErrorKind::Attribute(name) => {
                write!(f, "attribute {name} is missing or has no meaning")
            }
            StepErrorKind::Overlap => f.write_str("its output overlaps an operand"),
            StepErrorKind::TooLarge => f.write_str("a size or a sum would overflow"),
            StepErrorKind::IndexOutOfRange => {
                f.write_str("an index lies outside the axis that it indexes")
            }
        }
    }
}

/// How a device failed.
#[cfg(feature = "std")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceError {
    /// It has no room for so many bytes more.
    OutOfMemory {
        /// Bytes asked for.
        bytes: u64,
    },
    /// It is gone, or nothing in this process can use it any more.
    Lost,
    /// A file of kernels could not be compiled or loaded.
    Kernels(&'static str),
    /// A call of its driver failed.
    Failed {
        /// The call.
        call: &'static str,
        /// The driver's number for the error.
        code: u32,
    },
}

#[cfg(feature = "std")]
impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            DeviceError::OutOfMemory { bytes } => {
                write!(f, "the device has no room for {bytes} bytes more")
            }
            DeviceError::Lost => {
                f.write_str("the device is lost: an earlier fault, or it was taken away; start the process anew")
            }
            DeviceError::Kernels(file) => write!(f, "the kernels of {file} can't be compiled or loaded"),
            DeviceError::Failed { call, code } => write!(f, "the device failed: {call}, error {code}"),
        }
    }
}

#[cfg(feature = "std")]
impl core::error::Error for DeviceError {}

/// Why a session could not be prepared or run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionError {
    /// Operators that the file uses and this build or operator set lacks.
    MissingOperators(OpBits),
    /// The operator is there, but not for this element type.
    MissingVariant {
        /// Index of the first such step.
        step: u32,
        /// Its operator.
        op: Op,
        /// The element type; `None` for a step that states none.
        dtype: Option<DType>,
    },
    /// A step doesn't hold together.
    Step {
        /// Its index.
        step: u32,
        /// What is wrong.
        kind: StepErrorKind,
    },
    /// The memory given is too small.
    Memory {
        /// Bytes needed, alignment included.
        needed: usize,
        /// Bytes given.
        given: usize,
    },
    /// The instruction set was asked for and this CPU or build doesn't have it.
    IsaUnavailable(crate::Isa),
    /// The system started none of the threads asked for, or not all.
    Threads,
    /// The device that runs it failed.
    #[cfg(feature = "std")]
    Device(DeviceError),
    /// There is no input, output or dimension of that index or name.
    Unknown,
    /// A dimension was set outside its bounds.
    Dimension {
        /// Index of the symbol.
        symbol: u32,
        /// The value asked for.
        value: u32,
    },
    /// An input has another element type than the one given.
    InputType {
        /// Index of the input.
        input: u32,
        /// Its type.
        expected: DType,
    },
    /// An input takes another number of elements than given.
    InputLength {
        /// Index of the input.
        input: u32,
        /// Elements it takes.
        expected: usize,
        /// Elements given.
        given: usize,
    },
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            SessionError::MissingOperators(ops) => {
                write!(f, "the model uses operators that this build lacks: {ops}")?;
                for number in 0..128usize {
                    let present = ops.0[number / 64] >> (number % 64) & 1 == 1;
                    if present && Op::from_number(number as u16).is_none() {
                        write!(f, " (and number {number}, of a newer version)")?;
                    }
                }
                f.write_str("; add them to the session's operator set, or update it")
            }
            SessionError::MissingVariant { step, op, dtype: Some(dtype) } => {
                write!(f, "step {step}: this build lacks operator {op} for {dtype}")
            }
            SessionError::MissingVariant { step, op, dtype: None } => {
                write!(
                    f,
                    "step {step}: operator {op} needs an element type and the step states none"
                )
            }
            SessionError::Step { step, kind } => write!(f, "step {step}: {kind}"),
            SessionError::Memory { needed, given } => {
                write!(f, "the session needs {needed} bytes of memory and was given {given}")
            }
            SessionError::IsaUnavailable(isa) => {
                write!(f, "this CPU or build has no {isa}; available:")?;
                for isa in crate::Isa::available() {
                    write!(f, " {isa}")?;
                }
                Ok(())
            }
            SessionError::Threads => f.write_str("the system didn't start the threads asked for"),
            #[cfg(feature = "std")]
            SessionError::Device(error) => error.fmt(f),
            SessionError::Unknown => f.write_str("no such input, output or dimension"),
            SessionError::Dimension { symbol, value } => {
                write!(f, "dimension {symbol} can't be {value}: outside its bounds")
            }
            SessionError::InputType { input, expected } => {
                write!(f, "input {input} takes {expected}")
            }
            SessionError::InputLength { input, expected, given } => {
                write!(f, "input {input} takes {expected} elements and was given {given}")
            }
        }
    }
}

impl core::error::Error for SessionError {}
