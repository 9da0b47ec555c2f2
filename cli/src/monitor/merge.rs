//! Combines the records of any number of devices and periods: exact counts, in any order, in memory that doesn't grow
//! with the number of records.

use std::collections::{BTreeMap, BTreeSet};

use whit::metrics::counters::Head;
use whit::metrics::record::{Alarm, Header, Kind, SketchHead};

use super::counts::{Counts, Timeline};
use super::reading::{Entries, Refused, Sink, header_key};
use super::sketch::Sketch;

/// Alarms that are kept, the latest: a report lists no more, and their numbers are in the counts.
const MAX_ALARMS: usize = 2000;

/// An alarm and the device that raised it, in the order of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Raised {
    pub(crate) start_s: u32,
    pub(crate) device: u64,
    pub(crate) sequence: u32,
    pub(crate) run: u32,
    pub(crate) source: u8,
    pub(crate) what: u8,
    pub(crate) index: u16,
    pub(crate) value: i32,
    pub(crate) threshold: i32,
    pub(crate) p_value: u32,
}

impl Raised {
    pub(crate) fn new(device: u64, alarm: &Alarm) -> Raised {
        Raised {
            start_s: alarm.start_s,
            device,
            sequence: alarm.sequence,
            run: alarm.run,
            source: alarm.source,
            what: alarm.what,
            index: alarm.index,
            value: alarm.value,
            threshold: alarm.threshold,
            p_value: alarm.p_value,
        }
    }
}

/// All devices that run one model with one configuration of the monitor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fleet {
    /// With device 0.
    pub(crate) header: Header,
    pub(crate) totals: Counts,
    pub(crate) timeline: Timeline,
    pub(crate) devices: BTreeMap<u64, Counts>,
    /// The latest.
    pub(crate) alarms: BTreeSet<Raised>,
    /// Records of alarms, also of those that aren't kept.
    pub(crate) alarm_records: u64,
    /// Records of samples.
    pub(crate) sample_records: u64,
    /// Quantile sketches, by the number of their signal.
    pub(crate) sketches: BTreeMap<u8, Sketch>,
}

/// Merges all that it is given.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Merger {
    /// By the bytes of the header with device 0.
    fleets: BTreeMap<Vec<u8>, Fleet>,
    /// The key of the last header.
    last: Option<(Header, Vec<u8>)>,
}

impl Merger {
    /// Fleets in the order of their headers.
    pub(crate) fn finish(self) -> Vec<Fleet> {
        self.fleets.into_values().collect()
    }

    fn fleet(&mut self, header: &Header) -> Result<&mut Fleet, Refused> {
        let common = Header { device: 0, ..*header };
        if self.last.as_ref().is_none_or(|(last, _)| *last != common) {
            self.last = Some((common, header_key(&common)));
        }
        let key = self.last.as_ref().map_or(&[][..], |(_, key)| key);
        if !self.fleets.contains_key(key) {
            let shape = common.shape()?;
            let fleet = Fleet {
                header: common,
                totals: Counts::new(shape),
                timeline: Timeline::new(shape),
                devices: BTreeMap::new(),
                alarms: BTreeSet::new(),
                alarm_records: 0,
                sample_records: 0,
                sketches: BTreeMap::new(),
            };
            self.fleets.insert(key.to_vec(), fleet);
        }
        self.fleets.get_mut(key).ok_or_else(|| anyhow::anyhow!("no such fleet").into())
    }
}

impl Sink for Merger {
    fn counts(
        &mut self,
        header: &Header,
        _: Kind,
        head: &Head,
        entries: &Entries,
    ) -> Result<(), Refused> {
        let fleet = self.fleet(header)?;
        // The other totals are parts of these.
        fleet.totals.check(head, entries)?;
        fleet.totals.add(head, entries);
        fleet.timeline.add(head, entries);
        let shape = fleet.totals.shape;
        fleet.devices.entry(header.device).or_insert_with(|| Counts::new(shape)).add(head, entries);
        Ok(())
    }

    fn alarm(&mut self, header: &Header, alarm: &Alarm) -> Result<(), Refused> {
        let fleet = self.fleet(header)?;
        fleet.alarm_records += 1;
        fleet.alarms.insert(Raised::new(header.device, alarm));
        if fleet.alarms.len() > MAX_ALARMS {
            fleet.alarms.pop_first();
        }
        Ok(())
    }

    fn sample(
        &mut self,
        header: &Header,
        _: &whit::metrics::record::Sample,
        _: &[u8],
    ) -> Result<(), Refused> {
        self.fleet(header)?.sample_records += 1;
        Ok(())
    }

    fn sketch(
        &mut self,
        header: &Header,
        head: &SketchHead,
        payload: &[u8],
    ) -> Result<(), Refused> {
        let fleet = self.fleet(header)?;
        match fleet.sketches.get_mut(&head.signal) {
            Some(sketch) => sketch.add(payload)?,
            None => drop(fleet.sketches.insert(head.signal, Sketch::new(payload)?)),
        }
        Ok(())
    }
}
