//! `whit monitor merge`: many logs as one, its counts summed up.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use whit::metrics::counters::Head;
use whit::metrics::record::{Alarm, Header, Kind, Sample, SketchHead};

use super::{Logs, say_remarks};
use crate::commands::print_text;
use crate::monitor::counts::Counts;
use crate::monitor::reading::{Entries, Refused, Sink, header_key, read_logs};
use crate::monitor::sketch::Sketch;
use crate::{new_file, report};

#[derive(Args)]
pub(crate) struct Merge {
    #[command(flatten)]
    logs: Logs,
    /// The log to write
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// A summary for each stretch of so many seconds, instead of one of everything
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    every: Option<u32>,
    /// Leave out the inputs kept for labelling
    #[arg(long)]
    no_samples: bool,
}

impl Merge {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let name = || self.output.display().to_string();
        // Beside the output, so that it takes its place at once: an earlier log there stays until this one is whole.
        let file = new_file::beside(new_file::folder(&self.output)).with_context(name)?;
        let mut sink = Writer {
            out: BufWriter::new(file),
            bytes: 0,
            last: None,
            every_s: self.every,
            samples: !self.no_samples,
            summaries: BTreeMap::new(),
            sketches: BTreeMap::new(),
        };
        let read = read_logs(&self.logs.logs, &self.logs.selection(), &mut sink)?;
        let summaries = sink.finish().with_context(name)?;
        let bytes = sink.bytes;
        let file = sink.out.into_inner().map_err(|error| error.into_error()).with_context(name)?;
        file.as_file().sync_all().with_context(name)?;
        file.persist(&self.output).map_err(|error| error.error).with_context(name)?;
        say_remarks(&read);
        print_text(&format!(
            "{}: {summaries} {} of {} records in {} {}, {} of {}",
            name(),
            if summaries == 1 { "summary" } else { "summaries" },
            read.remarks.records,
            read.logs,
            if read.logs == 1 { "log" } else { "logs" },
            report::bytes(bytes),
            report::bytes(read.remarks.bytes)
        ))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Sums up counts, merges sketches and copies everything else.
struct Writer<W: Write> {
    out: W,
    bytes: u64,
    /// The header that stands in front of what is written.
    last: Option<Header>,
    every_s: Option<u32>,
    samples: bool,
    /// By header and stretch of time.
    summaries: BTreeMap<(Vec<u8>, u32), (Header, Counts)>,
    /// By header, stretch of time and signal.
    sketches: BTreeMap<(Vec<u8>, u32, u8), (Header, Sketch)>,
}

impl<W: Write> Writer<W> {
    fn write(&mut self, header: &Header, record: &[u8]) -> std::io::Result<()> {
        if self.last != Some(*header) {
            let key = header_key(header);
            self.out.write_all(&key)?;
            self.bytes += key.len() as u64;
            self.last = Some(*header);
        }
        self.bytes += record.len() as u64;
        self.out.write_all(record)
    }

    /// Writes the summaries; their number.
    fn finish(&mut self) -> Result<usize> {
        let summaries = std::mem::take(&mut self.summaries);
        let count = summaries.len();
        for (header, counts) in summaries.into_values() {
            for record in counts.records(&header)? {
                self.write(&header, &record)?;
            }
        }
        for (header, sketch) in std::mem::take(&mut self.sketches).into_values() {
            self.write(&header, &sketch.record(&header)?)?;
        }
        Ok(count)
    }

    fn stretch(&self, start_s: u32) -> u32 {
        self.every_s.map_or(0, |every_s| start_s / every_s)
    }
}

impl<W: Write> Sink for Writer<W> {
    fn counts(
        &mut self,
        header: &Header,
        _: Kind,
        head: &Head,
        entries: &Entries,
    ) -> Result<(), Refused> {
        let shape = header.shape()?;
        let stretch = self.stretch(head.start_s);
        let (_, counts) = self
            .summaries
            .entry((header_key(header), stretch))
            .or_insert_with(|| (*header, Counts::new(shape)));
        counts.check(head, entries)?;
        counts.add(head, entries);
        Ok(())
    }

    fn alarm(&mut self, header: &Header, alarm: &Alarm) -> Result<(), Refused> {
        let mut out = [0; 64];
        let record = alarm.encode(header.tag(), &mut out)?;
        Ok(self.write(header, record)?)
    }

    fn sample(&mut self, header: &Header, sample: &Sample, bytes: &[u8]) -> Result<(), Refused> {
        if !self.samples {
            return Ok(());
        }
        let mut out = vec![0; bytes.len() + 64];
        let record = sample.encode(header.tag(), bytes, &mut out)?;
        Ok(self.write(header, record)?)
    }

    fn sketch(
        &mut self,
        header: &Header,
        head: &SketchHead,
        payload: &[u8],
    ) -> Result<(), Refused> {
        let key = (header_key(header), self.stretch(head.start_s), head.signal);
        match self.sketches.get_mut(&key) {
            Some((_, sketch)) => sketch.add(payload)?,
            None => drop(self.sketches.insert(key, (*header, Sketch::new(payload)?))),
        }
        Ok(())
    }
}
