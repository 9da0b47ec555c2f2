//! The monitor: what a device keeps of its runs, in memory of a size known up front, and writes as records.
//!
//! `MONITOR.md` has the layout of the records and the arithmetic: all of it on integers, or on single operations of floats
//! that are exact or rounded once, so that devices and hosts agree to the bit.
//!
//! A monitor runs a session, and writes what it saw when a period ends:
//!
//! ```
//! use whit::metrics::record::Scores;
//! use whit::metrics::{Config, Monitor};
//! # use whit::format::*;
//! # use whit::{Model, Options, Session};
//! # // Four logits in, the same out.
//! # let tensor = |offset| TensorRecord {
//! #     dtype: 1, storage: 1, rank: 2, dims: [1, 4, 0, 0, 0, 0, 0, 0], offset, bytes: 16, ..Default::default()
//! # };
//! # let step = StepRecord {
//! #     op: Op::Slice as u16, attributes_bytes: 64, input_count: 1, output_count: 1, ..Default::default()
//! # };
//! # let mut attributes = vec![0; 64];
//! # SliceAttributes { starts: [0; 8], steps: [1; 8] }.write(&mut attributes);
//! # let mut op_set = OpBits::default();
//! # op_set.insert(Op::Slice);
//! # let totals = Header {
//! #     arena_bytes: 80, step_count: 1, tensor_count: 2, input_count: 1, output_count: 1, op_set: op_set.0,
//! #     ..Default::default()
//! # };
//! # let file = FileBuilder::new()
//! #     .bytes(Section::Strings, vec![])
//! #     .records(Section::Tensors, &[tensor(0), tensor(64)])
//! #     .records(Section::Steps, &[step])
//! #     .records(Section::Operands, &[0u32, 1])
//! #     .bytes(Section::Attributes, attributes)
//! #     .bytes(Section::Constants, vec![])
//! #     .records(Section::Interface, &[0u32, 1])
//! #     .finish(totals);
//! # let mut bytes = vec![0; file.len() + 8];
//! # let start = bytes.as_ptr().align_offset(8);
//! # bytes[start..start + file.len()].copy_from_slice(&file);
//! # let model = Model::open(&bytes[start..start + file.len()])?;
//! # let mut session = Session::new(model, Options::default())?;
//! # let mut now_us = || 0;
//! # let mut log = Vec::new();
//!
//! // A model with a baseline says itself what its output is.
//! let config = Config { scores: Some(Scores::Logits), ..Config::default() };
//! let mut memory = [0; 4096];
//! let mut monitor = Monitor::new(&model, &config, &mut memory, (0, 0))?;
//!
//! session.set_input_f32(0, &[0.5, 3.0, -1.0, 0.0])?;
//! let run = monitor.run(&mut session, &mut now_us)?;
//! // Later, when the truth is known:
//! monitor.label_class(run, 1)?;
//! // Every hour or so, to a file, flash or whatever implements `Sink`:
//! monitor.close_period(3600, &mut log)?;
//! # assert!(log.len() > 64);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A device goes on where its log ends with [`Monitor::start`]: in flash that is `whit_firmware::MonitorLog`, in a file `FileLog`.
//!
//! Runs cost time in proportion to the watched elements and the classes; the end of a window costs some thousand operations per
//! feature. Nothing is allocated, and nothing is linked that firmware doesn't call.

pub mod baseline;
pub mod bits;
mod config;
pub mod counters;
pub mod detect;
pub mod drift;
#[cfg(feature = "std")]
mod file_log;
pub mod fold;
pub mod histogram;
pub mod kll;
pub mod labels;
pub mod math;
mod monitor;
mod plan;
pub mod record;
mod reservoir;
pub mod scores;
mod session;
#[cfg(test)]
mod tests;

pub use config::{Config, Sizes};
#[cfg(feature = "std")]
pub use file_log::{FileLog, LEAST_FILE_BYTES, Recovered};
pub use labels::LabelError;
pub use monitor::{Monitor, NO_RUN, PERIOD_RUNS, saturated};
pub use plan::{Log, MonitorError, Sink, model_id};
