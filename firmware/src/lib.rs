#![doc = include_str!("lib.md")]
#![cfg_attr(not(any(test, feature = "testing")), no_std)]
#![forbid(unsafe_code)]

mod blocking_flash;
mod clock;
mod console;
mod crc;
mod decide;
#[cfg(test)]
mod fixtures;
mod log;
mod monitor_log;
mod pipeline;
mod preprocess;
mod record;
mod self_test;
mod sensor;
mod shared_flash;
mod slots;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod text;
mod window;

pub use clock::{Clock, NoWatchdog, Watchdog};
pub use console::{Action, Benchmark, BenchmarkInput, BenchmarkResults, Commands, Device, Words};
pub use crc::crc32;
pub use decide::{Anomaly, ArgMax, Decide, Decision, Score, Smoothed, Trigger};
pub use log::{Journal, Log, LogEntry, LogKind};
pub use monitor_log::{LogSizes, MonitorLog, MonitorLogError};
pub use pipeline::{Environment, Overload, Pipeline, PipelineConfig, Step};
pub use preprocess::{IntegerSample, Preprocess, Rescale};
pub use record::{Counters, Event, Record, StatusPin};
pub use self_test::{SelfTest, SelfTestError};
pub use sensor::{Sensor, SensorFault, SensorPolicy};
pub use shared_flash::SharedFlash;
pub use slots::{
    Boot, DATA_OFFSET, Fault, MAX_ATTEMPTS, MapFlash, Policy, Running, SlotError, SlotInfo,
    SlotState, Slots, Upload, Versions, slot_header,
};
pub use text::Text;
pub use window::WindowBuffer;
