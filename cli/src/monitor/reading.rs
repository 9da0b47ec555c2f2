//! From logs to what their records say: decoded, filtered, each period once if asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use whit::metrics::counters::{Group, Head, decode};
use whit::metrics::record::{Alarm, Header, Kind, RecordError, Sample, SketchHead};

use super::log::{Belonging, Remarks, find_logs, read_log};

/// Stretches of periods that are remembered of a device: a log has a gap where records were damaged or erased.
const MAX_STRETCHES: usize = 65_536;

/// Which records count.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    /// Only those of this device.
    pub(crate) device: Option<u64>,
    /// Only those of this model.
    pub(crate) model: Option<u64>,
    /// Only periods that begin from here on, in seconds of the device's clock.
    pub(crate) from_s: Option<u32>,
    /// Only periods that begin before.
    pub(crate) until_s: Option<u32>,
    /// A period that an earlier log has, too, counts once.
    pub(crate) once: bool,
}

/// What reading logs came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Read {
    pub(crate) logs: usize,
    pub(crate) remarks: Remarks,
    /// Records that weren't selected.
    pub(crate) passed_over: u64,
    /// Periods and summaries whose numbers an earlier log has, too, by device; left out if they are to count once.
    pub(crate) repeated: BTreeMap<u64, u64>,
    /// Summaries of which an earlier log has a part: they count, and that part with them twice.
    pub(crate) overlapping: u64,
    pub(crate) once: bool,
}

impl Read {
    /// A sentence for each kind of what was remarkable.
    pub(crate) fn sentences(&self) -> Vec<String> {
        let mut out = self.remarks.sentences();
        let repeated: u64 = self.repeated.values().sum();
        if repeated > 0 {
            let devices: Vec<String> =
                self.repeated.keys().take(5).map(|device| device.to_string()).collect();
            let more = self.repeated.len().saturating_sub(devices.len());
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            out.push(format!(
                "{repeated} periods are in more than one log (device {}{more}): {}",
                devices.join(", "),
                if self.once {
                    "they count once"
                } else {
                    "they count each time; --once counts them once"
                }
            ));
        }
        if self.overlapping > 0 {
            out.push(format!(
                "{} summaries hold periods that other logs have one by one: those count twice",
                self.overlapping
            ));
        }
        if self.passed_over > 0 {
            out.push(format!("{} records were not asked for", self.passed_over));
        }
        out
    }
}

/// Counts of a record: the place of each in the order of groups, and its value.
pub(crate) type Entries = [(u32, u64)];

/// Takes what records say. An error is about the record, not the log: [`RecordError::TooLarge`] leaves it out.
pub(crate) trait Sink {
    /// Counts of a period, summary or window.
    fn counts(
        &mut self,
        _header: &Header,
        _kind: Kind,
        _head: &Head,
        _entries: &Entries,
    ) -> Result<(), Refused> {
        Ok(())
    }

    /// An alarm.
    fn alarm(&mut self, _header: &Header, _alarm: &Alarm) -> Result<(), Refused> {
        Ok(())
    }

    /// An input kept for labelling, or a piece of one.
    fn sample(&mut self, _header: &Header, _sample: &Sample, _bytes: &[u8]) -> Result<(), Refused> {
        Ok(())
    }

    /// A quantile sketch.
    fn sketch(
        &mut self,
        _header: &Header,
        _head: &SketchHead,
        _payload: &[u8],
    ) -> Result<(), Refused> {
        Ok(())
    }
}

/// Why a sink doesn't take a record.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The record is left out and counted.
    Record(RecordError),
    /// Nothing more can be read.
    All(anyhow::Error),
}

impl From<RecordError> for Refused {
    fn from(error: RecordError) -> Refused {
        Refused::Record(error)
    }
}

impl From<anyhow::Error> for Refused {
    fn from(error: anyhow::Error) -> Refused {
        Refused::All(error)
    }
}

impl From<std::io::Error> for Refused {
    fn from(error: std::io::Error) -> Refused {
        Refused::All(error.into())
    }
}

/// Reads every log that the paths name into `sink`.
///
/// # Errors
/// Paths that can't be read, no records in any of them, and what the sink can't go on from.
pub(crate) fn read_logs(
    paths: &[PathBuf],
    selection: &Selection,
    sink: &mut dyn Sink,
) -> Result<Read> {
    let mut reader = Reader::new(selection);
    let mut seen = BTreeSet::new();
    for path in find_logs(paths)? {
        // The same file by two arguments is read once.
        if seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())) {
            reader.read(&path, sink)?;
        }
    }
    let read = reader.read;
    if read.remarks.records == 0 {
        let logs = match &read.remarks.empty[..] {
            [one] => one.display().to_string(),
            many => format!("{} files", many.len()),
        };
        bail!(
            "{logs}: no records of a monitor ({} bytes); is it a log, and of this version of whit?",
            read.remarks.bytes
        );
    }
    Ok(read)
}

/// The bytes of a header: what tells logs apart.
pub(crate) fn header_key(header: &Header) -> Vec<u8> {
    let mut out = [0; 128];
    header.encode(&mut out).map(<[u8]>::to_vec).unwrap_or_default()
}

struct Reader<'s> {
    selection: &'s Selection,
    read: Read,
    /// By header: of which periods earlier logs have records.
    coverage: BTreeMap<Vec<u8>, Coverage>,
    entries: Vec<(u32, u64)>,
}

/// What is known of a header's records in the log that is being read.
struct Current {
    header: Header,
    key: Vec<u8>,
    offsets: [usize; Group::ALL.len()],
    /// By kind: sequence and number of the part that has to come next.
    expected: [Option<(u32, u32)>; 8],
    coverage: Coverage,
}

/// By kind: of which periods there are records. Summaries are periods, and windows.
type Coverage = [Stretches; 8];

impl Current {
    fn new(header: &Header) -> Result<Current, RecordError> {
        let shape = header.shape()?;
        Ok(Current {
            header: *header,
            key: header_key(header),
            offsets: Group::ALL.map(|group| shape.offset(group)),
            expected: [None; 8],
            coverage: Coverage::default(),
        })
    }

    /// Counts parts that are missing in front of this one.
    fn follow(&mut self, kind: Kind, head: &Head) -> u64 {
        let expected = &mut self.expected[kind as usize & 7];
        let missing = match *expected {
            Some(next) => next != (head.sequence, head.part),
            None => head.part != 0,
        };
        *expected = head.more.then(|| (head.sequence, head.part.saturating_add(1)));
        u64::from(missing)
    }
}

impl<'s> Reader<'s> {
    fn new(selection: &'s Selection) -> Reader<'s> {
        Reader {
            selection,
            read: Read { once: selection.once, ..Read::default() },
            coverage: BTreeMap::new(),
            entries: Vec::new(),
        }
    }

    fn read(&mut self, path: &Path, sink: &mut dyn Sink) -> Result<()> {
        let mut remarks = std::mem::take(&mut self.read.remarks);
        let mut currents: Vec<Current> = Vec::new();
        let mut last = 0;
        let result = read_log(path, &mut remarks, &mut |record, remarks| {
            // Records of one header stand together.
            if currents.get(last).is_none_or(|current| current.header != *record.header) {
                let found = currents.iter().position(|current| current.header == *record.header);
                last = match found {
                    Some(found) => found,
                    None => match Current::new(record.header) {
                        Ok(current) => {
                            currents.push(current);
                            currents.len() - 1
                        }
                        Err(_) => {
                            remarks.meaningless += 1;
                            return Ok(());
                        }
                    },
                };
            }
            match self.take(&mut currents[last], record, remarks, sink) {
                Ok(()) => Ok(()),
                Err(Refused::Record(RecordError::TooLarge)) => {
                    remarks.too_large += 1;
                    Ok(())
                }
                Err(Refused::Record(_)) => {
                    remarks.meaningless += 1;
                    Ok(())
                }
                Err(Refused::All(error)) => Err(error),
            }
        });
        for current in currents {
            remarks.incomplete += current.expected.iter().flatten().count() as u64;
            let earlier = self.coverage.entry(current.key).or_default();
            for (earlier, own) in earlier.iter_mut().zip(&current.coverage) {
                earlier.add_all(own);
            }
        }
        self.read.remarks = remarks;
        self.read.logs += 1;
        result
    }

    fn take(
        &mut self,
        current: &mut Current,
        record: &Belonging<'_>,
        remarks: &mut Remarks,
        sink: &mut dyn Sink,
    ) -> Result<(), Refused> {
        let header = &current.header.clone();
        let selection = self.selection;
        if selection.device.is_some_and(|device| device != header.device)
            || selection.model.is_some_and(|model| model != header.model)
        {
            self.read.passed_over += 1;
            return Ok(());
        }
        let in_time = |start_s: u32| {
            selection.from_s.is_none_or(|from| start_s >= from)
                && selection.until_s.is_none_or(|until| start_s < until)
        };
        match record.kind {
            Kind::Period | Kind::Summary | Kind::Window => {
                let shape = header.shape()?;
                let entries = &mut self.entries;
                entries.clear();
                let offsets = &current.offsets;
                let head = decode(record.payload, &shape, &mut |group, index, value| {
                    entries.push(((offsets[group as usize] + index) as u32, value));
                    Ok(())
                })?;
                remarks.incomplete += current.follow(record.kind, &head);
                if !in_time(head.start_s) {
                    self.read.passed_over += 1;
                    return Ok(());
                }
                if self.is_repeated(current, record.kind, &head) {
                    return Ok(());
                }
                sink.counts(header, record.kind, &head, &self.entries)
            }
            Kind::Alarm => {
                let alarm = Alarm::decode(record.payload)?;
                let periods = (alarm.sequence, alarm.sequence);
                self.other(current, record.kind, periods, in_time(alarm.start_s), || {
                    sink.alarm(header, &alarm)
                })
            }
            Kind::Sample => {
                let (sample, bytes) = Sample::decode(record.payload)?;
                let periods = (sample.sequence, sample.sequence);
                self.other(current, record.kind, periods, in_time(sample.start_s), || {
                    sink.sample(header, &sample, bytes)
                })
            }
            Kind::Sketch => {
                let (head, _) = SketchHead::decode(record.payload)?;
                // A folded one is of all periods up to its own.
                let first = if head.folded == 1 { 0 } else { head.sequence };
                let periods = (first, head.sequence);
                self.other(current, record.kind, periods, in_time(head.start_s), || {
                    sink.sketch(header, &head, record.payload)
                })
            }
            // A header, which the log's reader keeps, or a kind that this build knows and doesn't read.
            _ => Err(RecordError::BadValue.into()),
        }
    }

    /// A record that isn't counts: left out when it isn't selected, or its period is another log's.
    fn other(
        &mut self,
        current: &mut Current,
        kind: Kind,
        (first, last): (u32, u32),
        in_time: bool,
        take: impl FnOnce() -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        if !in_time {
            self.read.passed_over += 1;
            return Ok(());
        }
        let earlier = self.coverage.get(&current.key);
        current.coverage[slot(kind)].add(first, last);
        let held = earlier.is_some_and(|earlier| earlier[slot(kind)].holds(first, last));
        if held && self.selection.once { Ok(()) } else { take() }
    }

    /// Whether counts are left out because an earlier log has them; remembers which periods this one has.
    fn is_repeated(&mut self, current: &mut Current, kind: Kind, head: &Head) -> bool {
        let last = head.sequence;
        let first = match kind {
            // Of a summary only the last number is known; without gaps, the others stand right before it.
            Kind::Summary => u64::from(last).saturating_sub(head.periods.saturating_sub(1)) as u32,
            _ => last,
        };
        let earlier = self.coverage.get(&current.key).map(|earlier| &earlier[slot(kind)]);
        let held = earlier.is_some_and(|earlier| earlier.holds(first, last));
        current.coverage[slot(kind)].add(first, last);
        if kind == Kind::Summary {
            current.coverage[slot(Kind::Window)].add(first, last);
        }
        if kind != Kind::Window && head.part == 0 {
            if held {
                *self.read.repeated.entry(current.header.device).or_default() += head.periods;
            } else if earlier.is_some_and(|earlier| earlier.touches(first, last)) {
                self.read.overlapping += 1;
            }
        }
        held && self.selection.once
    }
}

fn slot(kind: Kind) -> usize {
    if kind == Kind::Summary { Kind::Period as usize } else { kind as usize & 7 }
}

/// Numbers, as stretches without gaps: first to last.
#[derive(Clone, Debug, Default)]
struct Stretches(BTreeMap<u32, u32>);

impl Stretches {
    fn add(&mut self, mut first: u32, mut last: u32) {
        // Those that touch the new one become part of it.
        while let Some((from, to)) = self.0.range(..=last.saturating_add(1)).next_back() {
            let (from, to) = (*from, *to);
            if u64::from(to) + 1 < u64::from(first) {
                break;
            }
            self.0.remove(&from);
            (first, last) = (first.min(from), last.max(to));
        }
        if self.0.len() < MAX_STRETCHES {
            self.0.insert(first, last);
        }
    }

    fn add_all(&mut self, other: &Stretches) {
        for (first, last) in &other.0 {
            self.add(*first, *last);
        }
    }

    /// Whether it has all of them.
    fn holds(&self, first: u32, last: u32) -> bool {
        self.0.range(..=first).next_back().is_some_and(|(_, to)| *to >= last)
    }

    /// Whether it has one of them.
    fn touches(&self, first: u32, last: u32) -> bool {
        self.0.range(..=last).next_back().is_some_and(|(_, to)| *to >= first)
    }
}

#[cfg(test)]
mod tests {
    use super::Stretches;

    #[test]
    fn stretches_are_sets_of_numbers() {
        let mut state = 1u32;
        let mut next = |limit: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % limit
        };
        for _ in 0..200 {
            let (mut set, mut stretches) = ([false; 64], Stretches::default());
            for _ in 0..next(20) {
                let first = next(60);
                let last = first + next(4);
                stretches.add(first, last);
                set[first as usize..=last as usize].fill(true);
            }
            for first in 0..64u32 {
                for last in first..64 {
                    let part = &set[first as usize..=last as usize];
                    assert_eq!(stretches.holds(first, last), part.iter().all(|x| *x));
                    assert_eq!(stretches.touches(first, last), part.iter().any(|x| *x));
                }
            }
            let edges = set.windows(2).filter(|pair| pair[0] != pair[1]).count();
            assert_eq!(stretches.0.len(), (edges + usize::from(set[0])).div_ceil(2));
        }
        let mut ends = Stretches::default();
        ends.add(u32::MAX, u32::MAX);
        ends.add(0, 0);
        ends.add(1, u32::MAX - 1);
        assert_eq!(ends.0.len(), 1);
    }
}
