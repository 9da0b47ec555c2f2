//! The monitor: what a device keeps of its runs, in memory of a size known up front, and writes as records.
//!
//! `MONITOR.md` has the layout of the records and the arithmetic: all of it on integers, or on single operations of floats
//! that are exact or rounded once, so that devices and hosts agree to the bit.

pub mod baseline;
pub mod bits;
pub mod counters;
pub mod detect;
pub mod drift;
pub mod histogram;
pub mod labels;
pub mod math;
mod monitor;
pub mod record;
mod reservoir;
pub mod scores;
mod session;

pub use labels::LabelError;
pub use monitor::{Config, Monitor, MonitorError, PERIOD_RUNS, Sink, Sizes, model_id};
