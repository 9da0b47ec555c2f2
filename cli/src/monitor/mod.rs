//! What monitors on devices wrote, read and summed up: logs, totals, figures, pages.
//!
//! `log` finds the records of files, `reading` decodes and selects them, a [`reading::Sink`] takes them: `merge` sums
//! them up by fleet, device and slot of time (`counts`), `statistics` and `summary` make figures of sums, `findings` what deserves a look,
//! `text` and `page` show them. `table` makes rows, `metrics` what monitoring systems take, `reservoir` inputs for labelling, `sketch` quantiles. `runtime/MONITOR.md` has the records.

pub(crate) mod counts;
pub(crate) mod findings;
pub(crate) mod log;
pub(crate) mod merge;
pub(crate) mod metrics;
pub(crate) mod page;
#[cfg(feature = "parquet")]
pub(crate) mod parquet;
pub(crate) mod reading;
pub(crate) mod reservoir;
pub(crate) mod sketch;
pub(crate) mod statistics;
pub(crate) mod summary;
pub(crate) mod table;
pub(crate) mod text;

#[cfg(test)]
mod tests;
