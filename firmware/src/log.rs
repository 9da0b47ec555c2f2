//! An event log in flash: the newest events, whatever happens to the power.

use core::ops::Range;

use embassy_futures::block_on;
use embedded_storage::nor_flash::NorFlash;
use embedded_storage_async::nor_flash as asynchronous;
use heapless::Deque;
use sequential_storage::cache::Cache;
use sequential_storage::queue::{QueueConfig, QueueStorage};

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
        Fault::Crc => 1,
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
/// [`Record::record`] puts an event into a queue in RAM and returns: inference never waits for
/// flash. [`Journal::work`] writes one entry, when there is time for a write and, should a block be
/// full, an erase. If the queue overflows the oldest event in it is dropped and counted.
///
/// What was written survives power loss at any moment, but for the entry that was being written.
/// Flash that fails loses entries, nothing else. Cost: RAM `20 · Q + 40` bytes; flash 12 bytes an
/// entry and eight of header, rounded up to words; a write finds its place by reading the headers
/// on the youngest block.
pub struct Log<F: NorFlash, const Q: usize> {
    storage: QueueStorage<Blocking<F>, NoCache>,
    waiting: Deque<LogEntry, Q>,
    lost: u32,
    write_us: u32,
}

type NoCache = Cache<
    sequential_storage::cache::Uncached,
    sequential_storage::cache::Uncached,
    sequential_storage::cache::Uncached,
    (),
>;

impl<F: NorFlash, const Q: usize> Log<F, Q> {
    /// A log in this range; continues the one that is there. `write_us` is the longest that an erase of
    /// a block and a write take: less slack than that and the log waits.
    ///
    /// # Errors
    /// [`SlotError::Geometry`] when the range isn't two or more whole blocks, or words are above 32
    /// bytes.
    pub fn new(flash: F, range: Range<u32>, write_us: u32) -> Result<Self, SlotError> {
        let blocks = (range.end.saturating_sub(range.start)) as usize / F::ERASE_SIZE.max(1);
        let config = QueueConfig::try_new(range.clone()).map_err(|_| SlotError::Geometry)?;
        if blocks < 2 || range.end as usize > flash.capacity() {
            return Err(SlotError::Geometry);
        }
        let storage = QueueStorage::new(Blocking(flash), config, Cache::new_uncached());
        Ok(Log { storage, waiting: Deque::new(), lost: 0, write_us })
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
        let Some(entry) = self.waiting.pop_front() else { return };
        let entry = entry.encode();
        if block_on(self.storage.push(&entry, true)).is_ok() {
            return;
        }
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

/// Blocking flash behind the asynchronous traits that the storage is written for; its futures are
/// ready when first polled.
struct Blocking<F>(F);

impl<F: NorFlash> asynchronous::ErrorType for Blocking<F> {
    type Error = F::Error;
}

impl<F: NorFlash> asynchronous::ReadNorFlash for Blocking<F> {
    const READ_SIZE: usize = F::READ_SIZE;

    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), F::Error> {
        self.0.read(offset, bytes)
    }

    fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

impl<F: NorFlash> asynchronous::NorFlash for Blocking<F> {
    const WRITE_SIZE: usize = F::WRITE_SIZE;
    const ERASE_SIZE: usize = F::ERASE_SIZE;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), F::Error> {
        self.0.erase(from, to)
    }

    async fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), F::Error> {
        self.0.write(offset, bytes)
    }
}
