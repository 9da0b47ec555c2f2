//! The monitor: what a device keeps of its runs, in memory of a size known up front, and writes as records.
//!
//! `MONITOR.md` has the layout of the records and the arithmetic.

pub mod bits;
pub mod counters;
pub mod histogram;
pub mod record;
