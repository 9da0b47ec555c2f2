//! Totals of records, in memory of their own: of a fleet, of each device, of slots of time.

use std::collections::BTreeMap;

use whit::metrics::bits::VALUE_LIMIT;
use whit::metrics::counters::{Cursor, Event, Group, Head, Shape, Worst, encode};
use whit::metrics::record::{FRAME_FRONT, Header, Kind, MAX_PAYLOAD, RecordError, seal};

use super::reading::Entries;

/// Memory that a timeline's counters take at most.
const TIMELINE_BYTES: usize = 64 << 20;
/// Slots of a timeline: no more than a plot has room for …
const MAX_SLOTS: usize = 240;
/// … and enough to see when something happened.
const MIN_SLOTS: usize = 16;

/// What records amount to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Counts {
    pub(crate) shape: Shape,
    pub(crate) periods: u64,
    pub(crate) sequence: u32,
    /// `u64::MAX` without records.
    pub(crate) start_s: u64,
    pub(crate) end_s: u64,
    pub(crate) latency_max_us: u32,
    pub(crate) worst: Option<Worst>,
    counters: Vec<u64>,
}

impl Counts {
    pub(crate) fn new(shape: Shape) -> Counts {
        Counts {
            shape,
            periods: 0,
            sequence: 0,
            start_s: u64::MAX,
            end_s: 0,
            latency_max_us: 0,
            worst: None,
            counters: vec![0; shape.total()],
        }
    }

    /// The counters of a group.
    pub(crate) fn group(&self, group: Group) -> &[u64] {
        let start = self.shape.offset(group);
        self.counters.get(start..start + self.shape.len(group)).unwrap_or(&[])
    }

    /// A counter; 0 for those that there aren't.
    pub(crate) fn get(&self, group: Group, index: usize) -> u64 {
        self.group(group).get(index).copied().unwrap_or(0)
    }

    /// How often something happened.
    pub(crate) fn event(&self, event: Event) -> u64 {
        self.get(Group::Events, event as usize)
    }

    /// Whether a record can be added.
    ///
    /// # Errors
    /// [`RecordError::TooLarge`] when a sum would reach 2⁶², [`RecordError::BadValue`] for counts of another shape.
    pub(crate) fn check(&self, head: &Head, entries: &Entries) -> Result<(), RecordError> {
        for (place, value) in entries {
            let counter = self.counters.get(*place as usize).ok_or(RecordError::BadValue)?;
            if counter.saturating_add(*value) >= VALUE_LIMIT {
                return Err(RecordError::TooLarge);
            }
        }
        let periods = self.periods.saturating_add(head.periods);
        if periods < VALUE_LIMIT { Ok(()) } else { Err(RecordError::TooLarge) }
    }

    /// Adds a record. Sums end at `u64::MAX`; [`Self::check`] says whether they stay below the limit.
    pub(crate) fn add(&mut self, head: &Head, entries: &Entries) {
        for (place, value) in entries {
            if let Some(counter) = self.counters.get_mut(*place as usize) {
                *counter = counter.saturating_add(*value);
            }
        }
        self.periods = self.periods.saturating_add(head.periods);
        let start_s = u64::from(head.start_s);
        self.extend(start_s, start_s.saturating_add(head.duration_s));
        self.sequence = self.sequence.max(head.sequence);
        self.latency_max_us = self.latency_max_us.max(head.latency_max_us);
        self.worst = self.worst.max(head.worst);
    }

    /// Adds other totals of the same shape.
    pub(crate) fn add_counts(&mut self, other: &Counts) {
        for (sum, value) in self.counters.iter_mut().zip(&other.counters) {
            *sum = sum.saturating_add(*value);
        }
        self.periods = self.periods.saturating_add(other.periods);
        self.extend(other.start_s, other.end_s);
        self.sequence = self.sequence.max(other.sequence);
        self.latency_max_us = self.latency_max_us.max(other.latency_max_us);
        self.worst = self.worst.max(other.worst);
    }

    fn extend(&mut self, start_s: u64, end_s: u64) {
        self.start_s = self.start_s.min(start_s);
        self.end_s = self.end_s.max(end_s);
    }

    /// What a summary of these totals says besides the counts.
    pub(crate) fn head(&self) -> Head {
        let start_s = self.start_s.min(self.end_s);
        Head {
            sequence: self.sequence,
            part: 0,
            more: false,
            periods: self.periods,
            start_s: u32::try_from(start_s).unwrap_or(u32::MAX),
            duration_s: self.end_s - start_s,
            latency_max_us: self.latency_max_us,
            worst: self.worst,
        }
    }

    /// The records of a summary, for a log with this header.
    ///
    /// # Errors
    /// [`RecordError::TooLarge`] for sums of 2⁶² and more.
    pub(crate) fn records(&self, header: &Header) -> Result<Vec<Vec<u8>>, RecordError> {
        let (mut cursor, mut part, mut records) = (Some(Cursor::default()), 0, Vec::new());
        let get = |group, index| self.get(group, index);
        while let Some(from) = cursor {
            let mut out = [0; MAX_PAYLOAD + FRAME_FRONT + 4];
            let periods = if part == 0 { self.periods } else { 0 };
            let head = Head { part, periods, ..self.head() };
            let payload = &mut out[FRAME_FRONT..FRAME_FRONT + MAX_PAYLOAD];
            let (bytes, next) = encode(&head, &self.shape, &Group::ALL, &get, from, payload)?;
            records.push(seal(&mut out, Kind::Summary, header.tag(), bytes)?.to_vec());
            (cursor, part) = (next, part + 1);
        }
        Ok(records)
    }
}

/// Totals by slots of time, in bounded memory: all slots are equally long, a power of two of seconds, the shortest with
/// which there aren't too many. So the order of records makes no difference.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Timeline {
    shape: Shape,
    /// log2 of a slot's seconds.
    shift: u32,
    slots: BTreeMap<u64, Counts>,
    most: usize,
}

impl Timeline {
    pub(crate) fn new(shape: Shape) -> Timeline {
        let most = TIMELINE_BYTES / (8 * shape.total().max(1));
        Timeline { shape, shift: 0, slots: BTreeMap::new(), most: most.clamp(MIN_SLOTS, MAX_SLOTS) }
    }

    /// Adds a record, to the slot in which it begins.
    pub(crate) fn add(&mut self, head: &Head, entries: &Entries) {
        let slot = u64::from(head.start_s) >> self.shift;
        self.slots.entry(slot).or_insert_with(|| Counts::new(self.shape)).add(head, entries);
        self.keep(self.most);
    }

    fn keep(&mut self, most: usize) {
        while self.slots.len() > most.max(1) {
            self.shift += 1;
            let finer = std::mem::take(&mut self.slots);
            for (slot, counts) in finer {
                match self.slots.get_mut(&(slot >> 1)) {
                    Some(coarse) => coarse.add_counts(&counts),
                    None => drop(self.slots.insert(slot >> 1, counts)),
                }
            }
        }
    }

    /// The same in at most so many slots.
    pub(crate) fn in_slots(&self, most: usize) -> Timeline {
        let mut coarse = self.clone();
        coarse.keep(most);
        coarse
    }

    /// Seconds of a slot.
    pub(crate) fn slot_s(&self) -> u64 {
        1 << self.shift
    }

    /// When each slot begins, and its totals, in the order of time. Slots without records are missing.
    pub(crate) fn slots(&self) -> impl ExactSizeIterator<Item = (u64, &Counts)> {
        self.slots.iter().map(|(slot, counts)| (*slot << self.shift, counts))
    }
}
