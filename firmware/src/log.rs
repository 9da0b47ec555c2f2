//! An event log in flash: the newest events, whatever happens to the power.

use core::ops::Range;

use embassy_futures::block_on;
use embedded_storage::nor_flash::NorFlash;
use heapless::Deque;
use sequential_storage::Error;
use sequential_storage::cache::Cache;
use sequential_storage::queue::{QueueConfig, QueueStorage};

use crate::blocking_flash::{Blocking, NoCache};
use crate::{Event, Fault, Record, SelfTestError, SensorFault, SlotError};

/// Bytes of an entry in flash.
const ENTRY_BYTES: usize = 12;
/// An entry in flash as it is read, with room for the alignment of words of up to 32 bytes.
const BUFFER_BYTES: usize = 64;

/// What the log keeps of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// The clock when it happened, modulo 2³² µs.
    pub now_us: u32,
    /// What happened.
    pub kind: LogKind,
    /// The slot, 255 for the factory model; for uploads and self-tests 0 is success and anything
    /// else a reason.
    pub detail: u8,
    /// The class of a decision.
    pub class: u16,
    /// The model's version of a start, the score of a decision in 1/65536.
    pub value: i32,
}

/// What happened, of an entry. The numbers are those in flash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[non_exhaustive]
pub enum LogKind {
    /// [`Event::Started`].
    Started = 1,
    /// [`Event::NoModel`].
    NoModel = 2,
    /// [`Event::SlotFault`].
    SlotFault = 3,
    /// [`Event::Inference`] whose decision fired.
    Fired = 4,
    /// [`Event::InferenceFailed`].
    InferenceFailed = 5,
    /// [`Event::Sensor`] with an error.
    SensorError = 6,
    /// [`Event::Sensor`] with a time-out.
    SensorTimeout = 7,
    /// [`Event::SensorBack`].
    SensorBack = 8,
    /// [`Event::Upload`].
    Upload = 9,
    /// [`Event::SelfTest`].
    SelfTest = 10,
    /// [`Event::RolledBack`].
    RolledBack = 11,
}

impl LogKind {
    const ALL: [LogKind; 11] = [
        LogKind::Started,
        LogKind::NoModel,
        LogKind::SlotFault,
        LogKind::Fired,
        LogKind::InferenceFailed,
        LogKind::SensorError,
        LogKind::SensorTimeout,
        LogKind::SensorBack,
        LogKind::Upload,
        LogKind::SelfTest,
        LogKind::RolledBack,
    ];

    /// The name on the serial line.
    pub const fn name(self) -> &'static str {
        match self {
            LogKind::Started => "started",
            LogKind::NoModel => "no-model",
            LogKind::SlotFault => "slot-fault",
            LogKind::Fired => "fired",
            LogKind::InferenceFailed => "inference-failed",
            LogKind::SensorError => "sensor-error",
            LogKind::SensorTimeout => "sensor-timeout",
            LogKind::SensorBack => "sensor-back",
            LogKind::Upload => "upload",
            LogKind::SelfTest => "self-test",
            LogKind::RolledBack => "rolled-back",
        }
    }
}

impl LogEntry {
    /// The entry for an event; `None` for those that come with every window and are only counted.
    pub fn of(now_us: u32, event: &Event) -> Option<LogEntry> {
        let (kind, detail, class, value) = match *event {
            Event::Started { slot, version } => {
                (LogKind::Started, slot.unwrap_or(u8::MAX), 0, version as i32)
            }
            Event::NoModel => (LogKind::NoModel, 0, 0, 0),
            Event::SlotFault { slot, fault } => {
                (LogKind::SlotFault, slot, 0, i32::from(fault_number(fault)))
            }
            Event::Inference { decision, .. } if decision.fired => {
                (LogKind::Fired, 0, decision.class, decision.score.0)
            }
            Event::InferenceFailed => (LogKind::InferenceFailed, 0, 0, 0),
            Event::Sensor(SensorFault::Error) => (LogKind::SensorError, 0, 0, 0),
            Event::Sensor(SensorFault::Timeout) => (LogKind::SensorTimeout, 0, 0, 0),
            Event::SensorBack => (LogKind::SensorBack, 0, 0, 0),
            Event::Upload(result) => {
                (LogKind::Upload, result.map_or_else(slot_number, |()| 0), 0, 0)
            }
            Event::SelfTest(result) => {
                (LogKind::SelfTest, result.map_or_else(test_number, |()| 0), 0, 0)
            }
            Event::RolledBack => (LogKind::RolledBack, 0, 0, 0),
            _ => return None,
        };
        Some(LogEntry { now_us, kind, detail, class, value })
    }

    fn encode(&self) -> [u8; ENTRY_BYTES] {
        let [t0, t1, t2, t3] = self.now_us.to_le_bytes();
        let [c0, c1] = self.class.to_le_bytes();
        let [v0, v1, v2, v3] = self.value.to_le_bytes();
        [self.kind as u8, self.detail, c0, c1, t0, t1, t2, t3, v0, v1, v2, v3]
    }

    fn decode(bytes: &[u8]) -> Option<LogEntry> {
        let [kind, detail, c0, c1, t0, t1, t2, t3, v0, v1, v2, v3] = *bytes else { return None };
        Some(LogEntry {
            now_us: u32::from_le_bytes([t0, t1, t2, t3]),
            kind: LogKind::ALL.into_iter().find(|known| *known as u8 == kind)?,
            detail,
            class: u16::from_le_bytes([c0, c1]),
            value: i32::from_le_bytes([v0, v1, v2, v3]),
        })
    }
}

/// What the log writes for a fault of a slot.
fn fault_number(fault: Fault) -> u8 {
    match fault {
        Fault::Unmapped => 1,
        Fault::Attempts => 2,
        Fault::Flash => 3,
        Fault::SelfTest(error) => 15 + test_number(error),
    }
}

fn test_number(error: SelfTestError) -> u8 {
    match error {
        SelfTestError::File(_) => 1,
        SelfTestError::Session(_) => 2,
        SelfTestError::NoVectors => 3,
        SelfTestError::Differs { .. } => 4,
    }
}

fn slot_number(error: SlotError) -> u8 {
    match error {
        SlotError::Geometry => 1,
        SlotError::NoSlot => 2,
        SlotError::Flash => 3,
        SlotError::Length => 4,
        SlotError::Version => 5,
        SlotError::LastGood => 6,
        SlotError::NoUpload => 7,
        SlotError::Order(_) => 8,
        SlotError::Incomplete(_) => 9,
        SlotError::Crc => 10,
        SlotError::File(_) => 11,
        SlotError::NoVectors => 12,
        SlotError::Unmapped => 13,
        SlotError::NoModel => 14,
    }
}

/// A sink whose events can be read back over the serial port.
pub trait Journal: Record {
    /// Gives each entry that is kept, oldest first.
    fn read(&mut self, each: &mut dyn FnMut(&LogEntry));

    /// Does a piece of pending work, if it fits the time that is left.
    fn work(&mut self, slack_us: u32);
}

/// No journal.
impl Journal for () {
    fn read(&mut self, _: &mut dyn FnMut(&LogEntry)) {}

    fn work(&mut self, _: u32) {}
}

/// A log of the last events in whole erase blocks of flash, two at least: a full one loses its oldest
/// block.
///
/// [`Record::record`] puts an event into a queue in RAM and returns. [`Journal::work`] writes one entry
/// when there is time for a write, and when no block has room left, for an erase: inference never waits
/// for flash. Where an erase takes longer than the loop ever has (seconds, for 128 KB) it happens
/// at a start, without a model, or when the application calls `work` with [`u32::MAX`]; until then, and
/// whenever the queue overflows, its oldest event is dropped and counted.
///
/// What was written survives power loss at any moment, but for the entry that was being written. A block
/// whose erase was cut short may show old entries once more, and until the log has gone round once the
/// read-out may begin in the middle. Flash that fails loses entries, nothing else.
///
/// Cost: RAM `12 · Q + 32` bytes; flash 12 bytes an entry and eight of header, rounded up to words; a write
/// finds its place by reading the headers on the youngest block.
pub struct Log<F: NorFlash, const Q: usize> {
    storage: QueueStorage<Blocking<F>, NoCache>,
    waiting: Deque<LogEntry, Q>,
    lost: u32,
    write_us: u32,
    erase_us: u32,
}

/// A write of an entry: its words, and reading a block's headers.
const WRITE_US: u32 = 2000;

impl<F: NorFlash, const Q: usize> Log<F, Q> {
    /// A log in this range; continues the one that is there. `erase_us` is the longest that an erase of
    /// a block takes. A write is taken for 2 ms at most, see [`Log::with_write_us`].
    ///
    /// # Errors
    /// [`SlotError::Geometry`] when the range isn't two or more whole blocks, or words are above 32
    /// bytes.
    pub fn new(flash: F, range: Range<u32>, erase_us: u32) -> Result<Self, SlotError> {
        let blocks = (range.end.saturating_sub(range.start)) as usize / F::ERASE_SIZE.max(1);
        let config = QueueConfig::try_new(range.clone()).map_err(|_| SlotError::Geometry)?;
        if blocks < 2 || range.end as usize > flash.capacity() {
            return Err(SlotError::Geometry);
        }
        let storage = QueueStorage::new(Blocking(flash), config, Cache::new_uncached());
        let (waiting, write_us) = (Deque::new(), WRITE_US);
        Ok(Log { storage, waiting, lost: 0, write_us, erase_us })
    }

    /// Sets the longest that a write of an entry takes: with less time than that the log waits.
    pub fn with_write_us(mut self, write_us: u32) -> Self {
        self.write_us = write_us;
        self
    }

    /// Events lost since the start: the queue was full, or flash failed.
    pub fn lost(&self) -> u32 {
        self.lost
    }
}

impl<F: NorFlash, const Q: usize> Record for Log<F, Q> {
    fn record(&mut self, now_us: u32, event: &Event) {
        let Some(entry) = LogEntry::of(now_us, event) else { return };
        if self.waiting.is_full() {
            self.waiting.pop_front();
            self.lost = self.lost.saturating_add(1);
        }
        let _ = self.waiting.push_back(entry);
    }
}

impl<F: NorFlash, const Q: usize> Journal for Log<F, Q> {
    fn read(&mut self, each: &mut dyn FnMut(&LogEntry)) {
        let mut buffer = [0; BUFFER_BYTES];
        block_on(async {
            let Ok(mut entries) = self.storage.iter().await else { return };
            // An entry that fails to read ends the read-out; so does the end.
            while let Ok(Some(entry)) = entries.next(&mut buffer).await {
                if let Some(entry) = LogEntry::decode(&entry) {
                    each(&entry);
                }
            }
        });
        self.waiting.iter().for_each(each);
    }

    fn work(&mut self, slack_us: u32) {
        if slack_us < self.write_us {
            return;
        }
        let Some(first) = self.waiting.front() else { return };
        let entry = first.encode();
        let mut result = block_on(self.storage.push(&entry, false));
        if matches!(result, Err(Error::FullStorage)) {
            // The next block holds entries, and has to be erased.
            if slack_us < self.erase_us.saturating_add(self.write_us) {
                return;
            }
            result = block_on(self.storage.push(&entry, true));
        }
        if result.is_ok() {
            self.waiting.pop_front();
            return;
        }
        if slack_us < self.erase_us.saturating_add(self.write_us) {
            return;
        }
        self.waiting.pop_front();
        // The flash is broken, or holds something else: start over, once.
        let again = block_on(async {
            self.storage.erase_all().await?;
            self.storage.push(&entry, true).await
        });
        if again.is_err() {
            self.lost = self.lost.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cut, FakeFlash};
    use crate::{Decision, Score};

    /// Event number `number`, as the log tells it apart.
    fn event(number: u32) -> Event {
        let decision = Decision { class: number as u16, score: Score(number as i32), fired: true };
        Event::Inference { latency_us: 1, missed: false, decision }
    }

    fn numbers<F: NorFlash, const Q: usize>(log: &mut Log<F, Q>) -> Vec<u32> {
        let mut numbers = vec![];
        log.read(&mut |entry| {
            assert_eq!((entry.kind, entry.class), (LogKind::Fired, entry.value as u16));
            numbers.push(entry.value as u32);
        });
        numbers
    }

    fn log<const WRITE: usize, const ERASE: usize>(
        flash: &FakeFlash<WRITE, ERASE>,
    ) -> Log<FakeFlash<WRITE, ERASE>, 4> {
        Log::new(flash.clone(), 0..3 * ERASE as u32, 0).unwrap()
    }

    fn full_log_keeps_the_newest<const WRITE: usize, const ERASE: usize>() {
        let flash = FakeFlash::<WRITE, ERASE>::new(3 * ERASE);
        let mut kept_at_most = 0;
        for number in 0..400 {
            // Another start every now and then.
            let mut log = log(&flash);
            log.record(number, &event(number));
            log.work(u32::MAX);
            let kept = numbers(&mut log);
            let first = number + 1 - kept.len() as u32;
            assert!(kept.iter().copied().eq(first..=number), "{WRITE}/{ERASE}: {kept:?}");
            kept_at_most = kept_at_most.max(kept.len());
            assert_eq!(log.lost(), 0);
        }
        let last = numbers(&mut log(&flash)).len();
        assert!(last > kept_at_most / 2 && kept_at_most < 400, "{WRITE}/{ERASE}: {last}");
        let erases = flash.erases();
        let (least, most) = (erases.iter().min().unwrap(), erases.iter().max().unwrap());
        assert!(*least > 0 && most - least <= 1, "{erases:?}");
    }

    #[test]
    fn full_log_loses_its_oldest_block() {
        full_log_keeps_the_newest::<1, 256>();
        full_log_keeps_the_newest::<4, 512>();
        full_log_keeps_the_newest::<8, 1024>();
        full_log_keeps_the_newest::<32, 1024>();
    }

    #[test]
    fn full_queue_drops_the_oldest_event_and_never_touches_flash() {
        let flash = FakeFlash::<4, 1024>::new(3072);
        let log = Log::<_, 4>::new(flash.clone(), 0..3072, 500).unwrap();
        let mut log = log.with_write_us(500);
        for number in 0..10 {
            log.record(number, &event(number));
            log.work(499);
        }
        assert_eq!((flash.operations(), log.lost()), (0, 6));
        assert_eq!(numbers(&mut log), [6, 7, 8, 9]);
        // With time they get to flash, in order.
        (0..10).for_each(|_| log.work(500));
        assert!(flash.operations() > 0);
        assert_eq!(numbers(&mut log), [6, 7, 8, 9]);
    }

    #[test]
    fn full_log_waits_for_the_time_to_erase() {
        let flash = FakeFlash::<4, 256>::new(768);
        let log = Log::<_, 4>::new(flash.clone(), 0..768, 900).unwrap();
        let mut log = log.with_write_us(100);
        for number in 0..100 {
            log.record(number, &event(number));
            log.work(999);
        }
        assert_eq!(flash.erases(), [0, 0, 0], "no time");
        let kept = numbers(&mut log);
        let [first @ .., 96, 97, 98, 99] = &kept[..] else { panic!("{kept:?}") };
        assert!(first.iter().copied().eq(0..first.len() as u32), "{kept:?}");
        assert_eq!(log.lost() as usize, 100 - kept.len());
        (0..4).for_each(|_| log.work(1000));
        assert_eq!(flash.erases(), [1, 0, 0]);
        assert!(numbers(&mut log).ends_with(&[96, 97, 98, 99]));
    }

    #[test]
    fn power_cut_at_every_operation_of_the_log_loses_one_entry_at_most() {
        type Chip = FakeFlash<4, 256>;
        const EVENTS: u32 = 60;
        let whole = Chip::new(768);
        for number in 0..EVENTS {
            let mut log = log(&whole);
            log.record(number, &event(number));
            log.work(u32::MAX);
        }
        for operation in 0..whole.operations() {
            for cut in Cut::ALL {
                let flash = Chip::new(768);
                flash.cut_after(operation, cut);
                let mut first = 0;
                for number in 0..EVENTS {
                    let mut log = log(&flash);
                    log.record(number, &event(number));
                    log.work(u32::MAX);
                    if !flash.has_power() {
                        first = number;
                        break;
                    }
                }
                flash.power_up();
                let mut kept = numbers(&mut log(&flash));
                // Of a block that was half erased, old entries may stand once more behind the new.
                let oldest = kept.first().copied().unwrap_or(0);
                kept.retain(|number| *number >= oldest);
                assert!(kept.is_sorted(), "{cut:?} at {operation}: {kept:?}");
                // The one being written may be missing, or damaged; those before it not, but for a
                // block that was to be erased.
                if first > 1 {
                    assert!(kept.contains(&(first - 1)), "{cut:?} at {operation}: {kept:?}");
                }
                // And the log goes on, and is in order again when it has gone round.
                for number in 100..160 {
                    let mut log = log(&flash);
                    log.record(number, &event(number));
                    log.work(u32::MAX);
                    assert!(numbers(&mut log).contains(&number), "{cut:?} at {operation}");
                }
                let kept = numbers(&mut log(&flash));
                assert!(kept.iter().copied().eq(160 - kept.len() as u32..160), "{kept:?}");
            }
        }
    }

    #[test]
    fn a_log_in_broken_or_foreign_flash_loses_entries_only() {
        let flash = FakeFlash::<4, 1024>::new(3072);
        flash.break_range(Some(0..3072));
        let mut broken = log(&flash);
        for number in 0..5 {
            broken.record(number, &event(number));
            broken.work(u32::MAX);
        }
        assert_eq!((broken.lost(), numbers(&mut broken)), (5, vec![]));
        flash.break_range(None);
        for seed in 0..50u32 {
            let mut random = seed;
            flash.corrupt(0, |bytes| {
                for byte in bytes {
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    *byte = (random >> 24) as u8;
                }
            });
            let mut log = log(&flash);
            for number in 0..5 {
                log.record(number, &event(number));
                log.work(u32::MAX);
            }
            assert_eq!(log.lost(), 0, "seed {seed}");
            assert!(numbers(&mut log).ends_with(&[0, 1, 2, 3, 4]), "seed {seed}");
        }
        for (range, good) in [(0..2048, true), (0..1024, false), (0..2000, false), (0..4096, false)]
        {
            assert_eq!(Log::<_, 4>::new(flash.clone(), range, 0).is_ok(), good);
        }
    }

    #[test]
    fn entries_survive_flash_as_they_were() {
        let entry = LogEntry {
            now_us: 0x0102_0304,
            kind: LogKind::SlotFault,
            detail: 7,
            class: 0x0506,
            value: -2,
        };
        assert_eq!(LogEntry::decode(&entry.encode()), Some(entry));
        assert_eq!(LogEntry::decode(&[0; ENTRY_BYTES]), None);
        assert_eq!(LogEntry::decode(&[1; ENTRY_BYTES - 1]), None);
        for kind in LogKind::ALL {
            let bytes = LogEntry { kind, ..entry }.encode();
            assert_eq!(LogEntry::decode(&bytes).map(|entry| entry.kind), Some(kind));
        }
    }
}
