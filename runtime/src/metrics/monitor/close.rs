//! Closes a monitor's periods: what its memory holds becomes records.

use super::super::counters::{Cursor, Event, Group, Head, SUMS, encode};
use super::super::plan::{MonitorError, Sink};
use super::super::record::{FRAME_BYTES, FRAME_FRONT, Kind, RecordError, Sample, SketchHead, seal};
use super::{KEPT_EVENTS, Monitor};
use crate::format::Field;

/// A clock that jumps ahead by more seconds than this has gone backwards.
const HALF_CLOCK: u32 = 1 << 31;

impl Monitor<'_> {
    /// Closes the period: writes its record, and what else it has to tell, and begins the next one.
    ///
    /// When the sink refuses the period's record the period goes on, and is closed by the next call. What it refuses behind
    /// that is lost, and counted in the next period.
    ///
    /// # Errors
    /// The sink's error, and [`MonitorError::Record`] when `record_bytes` is too little.
    pub fn close_period<S: Sink>(
        &mut self,
        now_s: u32,
        sink: &mut S,
    ) -> Result<(), MonitorError<S::Error>> {
        if !self.header_written {
            let record = self.header.encode(self.memory.record).map_err(MonitorError::Record)?;
            let written = sink.write(Kind::Header, record).map_err(MonitorError::Sink);
            written.inspect_err(|_| self.count(Event::SinkFailures))?;
            self.header_written = true;
        }
        let mut duration = now_s.wrapping_sub(self.start_s);
        let faults = self.event(Event::ClockFaults);
        if duration >= HALF_CLOCK {
            self.count(Event::ClockFaults);
            duration = 0;
        }
        let samples = self.reservoir.len();
        self.events[Event::Samples as usize] = samples as u32;
        let head = Head {
            sequence: self.sequence,
            periods: 1,
            start_s: self.start_s,
            duration_s: duration.into(),
            latency_max_us: self.latency_max_us,
            worst: self.worst,
            ..Head::default()
        };
        let mut failed = None;
        if let Err((first, error)) = self.write_counts(Kind::Period, head, Group::OF_PERIODS, sink)
        {
            if first {
                // The next call looks at the clock again.
                self.events[Event::ClockFaults as usize] = faults;
                self.count(Event::SinkFailures);
                return Err(error);
            }
            failed = Some(error);
        }
        let mut lost = u32::from(failed.is_some());
        let mut note = |result: Result<(), MonitorError<S::Error>>| {
            if let Err(error) = result {
                lost += 1;
                failed.get_or_insert(error);
            }
        };
        if self.window_kept {
            let head = Head { periods: 0, worst: None, ..head };
            let written = self.write_counts(Kind::Window, head, Group::OF_WINDOWS, sink);
            note(written.map_err(|(_, error)| error));
        }
        for alarm in &self.alarms.kept[..self.alarms.count] {
            note(write(sink, Kind::Alarm, alarm.encode(self.tag, self.memory.record)));
        }
        for number in 0..samples {
            let kept = self.reservoir.get(number);
            let longest = usize::from(self.config.record_bytes);
            let most = longest - FRAME_BYTES - Sample::SIZE;
            for (piece, bytes) in kept.input.chunks(most).enumerate() {
                let sample = Sample {
                    sequence: self.sequence,
                    start_s: self.start_s,
                    run_id: kept.run,
                    class: kept.class,
                    confidence: kept.confidence,
                    total_bytes: kept.input.len() as u32,
                    offset: (piece * most) as u32,
                };
                note(write(sink, Kind::Sample, sample.encode(self.tag, bytes, self.memory.record)));
            }
        }
        if let Some(sketch) = &self.memory.sketch {
            let signal = self.config.sketch.0 as u8;
            let head = SketchHead {
                sequence: self.sequence,
                start_s: self.start_s,
                signal,
                ..SketchHead::default()
            };
            let payload = &mut self.memory.record[FRAME_FRONT..];
            head.write(payload);
            let encoded = sketch.encode(&mut payload[SketchHead::SIZE..]);
            let record = encoded.and_then(|bytes| {
                seal(self.memory.record, Kind::Sketch, self.tag, SketchHead::SIZE + bytes)
            });
            note(write(sink, Kind::Sketch, record));
        }
        self.begin_period(now_s);
        self.events[Event::SinkFailures as usize] = lost;
        failed.map_or(Ok(()), Err)
    }

    /// Writes counts in as many records as they take; whether the first was refused.
    fn write_counts<S: Sink>(
        &mut self,
        kind: Kind,
        head: Head,
        groups: &[Group],
        sink: &mut S,
    ) -> Result<(), (bool, MonitorError<S::Error>)> {
        let buffer = core::mem::take(&mut self.memory.record);
        // A sketch may want a longer buffer than other records are to be.
        let longest = usize::from(self.config.record_bytes);
        let end = buffer.len().min(longest) - 4;
        let (mut cursor, mut part) = (Some(Cursor::default()), 0);
        let mut result = Ok(());
        while let Some(from) = cursor {
            let periods = if part == 0 { head.periods } else { 0 };
            let head = Head { part, periods, ..head };
            let get = |group, index| self.get(group, index);
            let out = &mut buffer[FRAME_FRONT..end];
            let written = encode(&head, &self.shape, groups, &get, from, out)
                .map_err(MonitorError::Record)
                .and_then(|(bytes, next)| {
                    write(sink, kind, seal(buffer, kind, self.tag, bytes))?;
                    Ok(next)
                });
            match written {
                Ok(next) => cursor = next,
                Err(error) => {
                    result = Err((part == 0, error));
                    break;
                }
            }
            part += 1;
        }
        self.memory.record = buffer;
        result
    }

    fn begin_period(&mut self, now_s: u32) {
        self.sequence = self.sequence.wrapping_add(1);
        self.start_s = now_s;
        self.events = [0; KEPT_EVENTS];
        self.sums = [0; SUMS];
        self.latency_max_us = 0;
        self.worst = None;
        self.alarms.count = 0;
        self.reservoir.clear();
        if core::mem::take(&mut self.window_kept) {
            self.clear_window();
        }
        let memory = &mut self.memory;
        if let Some(sketch) = &mut memory.sketch {
            sketch.clear();
        }
        memory.saturation.fill(0);
        for counts in [
            &mut *memory.latency,
            memory.classes,
            memory.confidence,
            memory.entropy,
            memory.confusion,
            memory.scored,
            memory.drifted,
        ] {
            counts.fill(0);
        }
    }
}

fn write<S: Sink>(
    sink: &mut S,
    kind: Kind,
    record: Result<&[u8], RecordError>,
) -> Result<(), MonitorError<S::Error>> {
    let record = record.map_err(MonitorError::Record)?;
    sink.write(kind, record).map_err(MonitorError::Sink)
}
