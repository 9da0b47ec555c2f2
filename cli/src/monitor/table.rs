//! Rows of periods, counts and alarms, for CSV and Parquet: one by one, so that a log of any length fits.

use std::collections::BTreeMap;

use whit::metrics::counters::{Event, Group, Head, Shape};
use whit::metrics::record::{Alarm, Header, Kind};

use super::counts::Counts;
use super::merge::Raised;
use super::reading::{Entries, Refused, Sink, header_key};
use super::statistics;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Integer,
    Real,
    Text,
}

/// A value of a row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    Integer(u64),
    Real(f64),
    Text(String),
    /// Where there is none.
    Empty,
}

impl Cell {
    fn real(value: Option<f64>) -> Cell {
        value.filter(|value| value.is_finite()).map_or(Cell::Empty, Cell::Real)
    }
}

/// Takes rows, each with a cell for every column.
pub(crate) trait Rows {
    /// Takes a row.
    ///
    /// # Errors
    /// Output that fails.
    fn row(&mut self, cells: &[Cell]) -> anyhow::Result<()>;
}

/// What there are tables of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Table {
    /// Periods, one a row: events, latency, confidence, quality
    Periods,
    /// Every counter that isn't 0, of periods, summaries and windows
    Counts,
    /// Alarms
    Alarms,
}

impl Table {
    /// Names and types of the columns.
    pub(crate) fn columns(self) -> Vec<(&'static str, Type)> {
        use Type::{Integer, Real, Text};
        let mut columns =
            vec![("model", Text), ("device", Integer), ("sequence", Integer), ("start_s", Integer)];
        match self {
            Table::Periods => {
                columns.extend([
                    ("duration_s", Integer),
                    ("periods", Integer),
                    ("complete", Integer),
                ]);
                columns.extend(Event::ALL.iter().map(|event| (event.name(), Integer)));
                columns.extend([("latency_max_us", Integer), ("worst_feature", Integer)]);
                columns.extend(FIGURES.map(|name| (name, Real)));
            }
            Table::Counts => columns.extend([
                ("kind", Text),
                ("group", Text),
                ("index", Integer),
                ("count", Integer),
            ]),
            Table::Alarms => columns.extend([
                ("run", Integer),
                ("source", Text),
                ("of", Text),
                ("feature", Integer),
                ("value", Real),
                ("threshold", Real),
                ("p", Real),
            ]),
        }
        columns
    }
}

/// Figures of a period.
const FIGURES: [&str; 17] = [
    "worst_js",
    "latency_p50_us",
    "latency_p90_us",
    "latency_p99_us",
    "latency_mean_us",
    "confidence_mean",
    "entropy_mean",
    "accuracy",
    "recall_macro",
    "f1_macro",
    "roc_auc",
    "log_loss",
    "calibration_error",
    "mae",
    "rmse",
    "bias",
    "r2",
];

/// The name of a group in tables.
pub(crate) fn group_name(group: Group) -> &'static str {
    match group {
        Group::Events => "events",
        Group::Latency => "latency",
        Group::Classes => "classes",
        Group::Confidence => "confidence",
        Group::Entropy => "entropy",
        Group::Saturation => "saturation",
        Group::Confusion => "confusion",
        Group::Scored => "scored",
        Group::Sums => "sums",
        Group::Drifted => "drifted",
        Group::Windowed => "windowed",
        Group::Features => "features",
        Group::WindowClasses => "window_classes",
        Group::WindowConfidence => "window_confidence",
    }
}

/// Makes rows of records.
pub(crate) struct Tabulate<'r> {
    table: Table,
    /// Periods of a device that begin in the same so many seconds are one row.
    every_s: Option<u32>,
    rows: &'r mut dyn Rows,
    /// Periods of which further parts may come, by header and kind.
    open: BTreeMap<(Vec<u8>, Kind), (Header, Counts, bool)>,
    /// With `every_s`: by header and stretch of time.
    stretches: BTreeMap<(Vec<u8>, u32), (Header, Counts)>,
}

impl<'r> Tabulate<'r> {
    pub(crate) fn new(table: Table, every_s: Option<u32>, rows: &'r mut dyn Rows) -> Tabulate<'r> {
        Tabulate { table, every_s, rows, open: BTreeMap::new(), stretches: BTreeMap::new() }
    }

    /// Writes what is still open.
    ///
    /// # Errors
    /// Output that fails.
    pub(crate) fn finish(mut self) -> anyhow::Result<()> {
        for (header, counts, _) in std::mem::take(&mut self.open).into_values() {
            self.rows.row(&period(&header, &counts, false))?;
        }
        for (header, counts) in std::mem::take(&mut self.stretches).into_values() {
            self.rows.row(&period(&header, &counts, true))?;
        }
        Ok(())
    }

    fn period(
        &mut self,
        header: &Header,
        kind: Kind,
        head: &Head,
        entries: &Entries,
    ) -> Result<(), Refused> {
        let shape = header.shape()?;
        let key = header_key(header);
        if let Some(every_s) = self.every_s {
            let stretch = head.start_s / every_s.max(1);
            let (_, counts) = self
                .stretches
                .entry((key, stretch))
                .or_insert_with(|| (*header, Counts::new(shape)));
            counts.check(head, entries)?;
            counts.add(head, entries);
            return Ok(());
        }
        let key = (key, kind);
        let mut whole = true;
        if head.part == 0 {
            if let Some((header, counts, _)) = self.open.remove(&key) {
                self.rows.row(&period(&header, &counts, false))?;
            }
        } else {
            match self.open.get(&key) {
                Some((_, counts, _)) if counts.sequence == head.sequence => {}
                Some(_) => {
                    if let Some((header, counts, _)) = self.open.remove(&key) {
                        self.rows.row(&period(&header, &counts, false))?;
                    }
                    whole = false;
                }
                None => whole = false,
            }
        }
        let (_, counts, all) =
            self.open.entry(key.clone()).or_insert_with(|| (*header, Counts::new(shape), whole));
        counts.check(head, entries)?;
        counts.add(head, entries);
        if !head.more {
            let row = period(header, counts, *all);
            self.open.remove(&key);
            self.rows.row(&row)?;
        }
        Ok(())
    }
}

impl Sink for Tabulate<'_> {
    fn counts(
        &mut self,
        header: &Header,
        kind: Kind,
        head: &Head,
        entries: &Entries,
    ) -> Result<(), Refused> {
        match self.table {
            Table::Periods if kind != Kind::Window => self.period(header, kind, head, entries),
            Table::Counts => {
                let shape = header.shape()?;
                for (place, count) in entries {
                    let (group, index) = place_of(&shape, *place as usize);
                    let mut row = first_cells(header, head.sequence, u64::from(head.start_s));
                    let kind = match kind {
                        Kind::Summary => "summary",
                        Kind::Window => "window",
                        _ => "period",
                    };
                    row.extend([
                        Cell::Text(kind.to_owned()),
                        Cell::Text(group_name(group).to_owned()),
                        Cell::Integer(index as u64),
                        Cell::Integer(*count),
                    ]);
                    self.rows.row(&row)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn alarm(&mut self, header: &Header, alarm: &Alarm) -> Result<(), Refused> {
        if self.table != Table::Alarms {
            return Ok(());
        }
        let raised = Raised::new(header.device, alarm);
        let (value, threshold) = raised.numbers();
        let mut row = first_cells(header, alarm.sequence, u64::from(alarm.start_s));
        row.extend([
            Cell::Integer(alarm.run.into()),
            Cell::Text(raised.source_name().to_owned()),
            Cell::Text(raised.what_name().to_owned()),
            if raised.is_feature() { Cell::Integer(alarm.index.into()) } else { Cell::Empty },
            Cell::Real(value),
            Cell::Real(threshold),
            Cell::real(raised.p()),
        ]);
        Ok(self.rows.row(&row)?)
    }
}

/// Group and index of a counter by its place in the order of groups.
fn place_of(shape: &Shape, place: usize) -> (Group, usize) {
    let mut found = (Group::Events, place);
    for group in Group::ALL {
        let offset = shape.offset(group);
        if shape.len(group) > 0 && place >= offset {
            found = (group, place - offset);
        }
    }
    found
}

fn first_cells(header: &Header, sequence: u32, start_s: u64) -> Vec<Cell> {
    vec![
        Cell::Text(format!("{:016x}", header.model)),
        Cell::Integer(header.device),
        Cell::Integer(sequence.into()),
        Cell::Integer(start_s),
    ]
}

fn period(header: &Header, counts: &Counts, complete: bool) -> Vec<Cell> {
    let start_s = counts.start_s.min(counts.end_s);
    let mut row = first_cells(header, counts.sequence, start_s);
    row.extend([
        Cell::Integer(counts.end_s - start_s),
        Cell::Integer(counts.periods),
        Cell::Integer(complete.into()),
    ]);
    row.extend(Event::ALL.iter().map(|event| Cell::Integer(counts.event(*event))));
    row.push(Cell::Integer(counts.latency_max_us.into()));
    row.push(counts.worst.map_or(Cell::Empty, |worst| Cell::Integer(worst.feature.into())));
    let latency = statistics::latency(counts);
    let quality = statistics::classification(counts);
    let scored = statistics::scored(counts);
    let regression = statistics::regression(counts, header);
    let figures: [Option<f64>; FIGURES.len()] = [
        counts.worst.map(|worst| f64::from(worst.js_q16) / 65_536.0),
        latency.as_ref().map(|latency| latency.p50.value),
        latency.as_ref().map(|latency| latency.p90.value),
        latency.as_ref().map(|latency| latency.p99.value),
        latency.as_ref().map(|latency| latency.mean.value),
        statistics::mean_confidence(counts).map(|mean| mean.value),
        statistics::mean_entropy(counts).map(|mean| mean.value),
        quality.as_ref().map(|quality| quality.accuracy.value),
        quality.as_ref().map(|quality| quality.macro_recall),
        quality.as_ref().map(|quality| quality.macro_f1),
        scored.as_ref().and_then(|scored| scored.roc_auc).map(|area| area.value),
        scored.as_ref().map(|scored| scored.log_loss.value),
        scored.as_ref().map(|scored| scored.calibration_error.value),
        regression.map(|regression| regression.mae),
        regression.map(|regression| regression.rmse),
        regression.map(|regression| regression.bias),
        regression.map(|regression| regression.r2),
    ];
    row.extend(figures.map(Cell::real));
    row
}

/// Writes rows as CSV (RFC 4180), its header first.
pub(crate) struct Csv<W: std::io::Write> {
    out: W,
}

impl<W: std::io::Write> Csv<W> {
    /// Writes the names of the columns.
    ///
    /// # Errors
    /// Output that fails.
    pub(crate) fn new(mut out: W, table: Table) -> std::io::Result<Csv<W>> {
        let names: Vec<&str> = table.columns().iter().map(|(name, _)| *name).collect();
        write!(out, "{}\r\n", names.join(","))?;
        Ok(Csv { out })
    }

    /// Flushes it.
    ///
    /// # Errors
    /// Output that fails.
    pub(crate) fn finish(mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

impl<W: std::io::Write> Rows for Csv<W> {
    fn row(&mut self, cells: &[Cell]) -> anyhow::Result<()> {
        for (column, cell) in cells.iter().enumerate() {
            if column > 0 {
                self.out.write_all(b",")?;
            }
            match cell {
                Cell::Integer(value) => write!(self.out, "{value}")?,
                Cell::Real(value) => write!(self.out, "{value}")?,
                // Texts are names of this tool's own: nothing to quote.
                Cell::Text(text) => self.out.write_all(text.as_bytes())?,
                Cell::Empty => {}
            }
        }
        Ok(self.out.write_all(b"\r\n")?)
    }
}
