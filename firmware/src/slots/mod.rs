//! Model slots in flash: which model runs, and how another takes its place.

mod boot;
mod layout;
#[cfg(test)]
mod tests;
mod update;

use core::ops::Range;

use embedded_storage::nor_flash::NorFlash;
use whit::format::FormatError;

pub use boot::{Boot, Fault};
pub use layout::{DATA_OFFSET, MAX_ATTEMPTS, SlotInfo, SlotState, slot_header};
use update::Update;
pub use update::Upload;

use layout::{HEADER, Mark, UNIT, Unit};

/// Flash that is memory-mapped, or otherwise readable in place.
///
/// `map` gives the bytes that are in flash at `offset`, as [`NorFlash`] counts offsets, for as long as
/// the program runs. The library erases or writes a range that it has mapped only after it dropped
/// the slice: before an upload into a slot that doesn't run. A closure
/// will do. Where flash isn't mapped it may copy into memory of its own.
pub trait MapFlash {
    /// The bytes, or `None` where there are none.
    fn map(&mut self, offset: u32, bytes: u32) -> Option<&'static [u8]>;
}

impl<F: FnMut(u32, u32) -> Option<&'static [u8]>> MapFlash for F {
    fn map(&mut self, offset: u32, bytes: u32) -> Option<&'static [u8]> {
        self(offset, bytes)
    }
}

/// Which versions may replace the running model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Versions {
    /// Only a higher version.
    Newer,
    /// Lower ones too, but not the same file again.
    #[default]
    Different,
    /// Any.
    Any,
}

/// Rules of the slots.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Starts that a new model gets to pass its self-test and be confirmed; 1 to [`MAX_ATTEMPTS`].
    pub attempts: u8,
    /// Whether passing the self-test confirms a new model. If not, the application calls
    /// [`Slots::confirm`], and starts that it doesn't confirm count as failed attempts.
    pub confirm_after_self_test: bool,
    /// Whether a good model replays its golden vectors at each start; its checksums are always
    /// compared.
    pub test_good: bool,
    /// Which versions may replace the running model.
    pub versions: Versions,
}

impl Default for Policy {
    /// Three attempts, confirmed by the self-test, which each start runs; any other file.
    fn default() -> Self {
        let versions = Versions::default();
        Policy { attempts: 3, confirm_after_self_test: true, test_good: true, versions }
    }
}

/// Why the slots refused something. Whatever it is, the running model runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SlotError {
    /// The ranges of the slots aren't whole erase blocks in flash, or overlap, or the flash has words
    /// above 32 bytes.
    Geometry,
    /// There is no such slot.
    NoSlot,
    /// Flash failed to read, write or erase.
    Flash,
    /// The file doesn't fit a slot, or can't be a model.
    Length,
    /// The running model is this file, or has the same or a higher version, and the policy forbids it.
    Version,
    /// It would take away the last good model: confirm the running one first.
    LastGood,
    /// No upload has begun, or it was dropped.
    NoUpload,
    /// The chunk isn't the next one, which starts here.
    Order(u32),
    /// The upload isn't complete.
    Incomplete(u32),
    /// What is in flash is not what the CRC promised.
    Crc,
    /// What is in flash is no model that this firmware opens.
    File(FormatError),
    /// The model has no golden vectors to prove itself with.
    NoVectors,
    /// The flash could not be mapped.
    Unmapped,
    /// No model runs from a slot.
    NoModel,
}

/// What runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its slot; `None` for the factory model.
    pub slot: Option<u8>,
    /// Its version.
    pub version: u32,
    /// Length of its file.
    pub bytes: u32,
    /// CRC-32 of its file; 0 for the factory model.
    pub crc32: u32,
    /// It isn't confirmed yet.
    pub on_trial: bool,
}

/// The model slots of a device.
///
/// Every slot is a range of whole erase blocks:
///
/// | offset | bytes | what | written |
/// |---|---|---|---|
/// | 0 | 32 | header: magic, sequence, version, length, CRC-32 of the file, CRC-32 of the header | last, after the file was read back and checked |
/// | 32 | 32 | mark "good" | after the self-test, or by the application |
/// | 64 | 32 | mark "bad" | after the last failed attempt, on a roll-back, before the slot is erased |
/// | 96 | 5 × 32 | marks "attempt" | one before each start on trial |
/// | 256 | | the `.whit` file, read in place | from the first chunk on |
///
/// Nothing is ever written twice between two erases, so flash whose words can be programmed only once
/// (with error correction) works, at any word size up to 32 bytes. A slot's marks lie in the slot:
/// no operation touches another slot than the one that it is about, and the slot of the last good
/// model isn't erased. A mark is set when any of its bits is, so a mark that power cut
/// short counts, or isn't there and is written again; both are safe: an attempt too many, a good mark for
/// a model that has passed, a bad one for a model that has failed.
///
/// Cost: 256 bytes of flash a slot. An update writes the file once and erases each block once, a start on
/// trial writes 32 bytes twice, a start without news writes nothing. RAM: 100 bytes and 12 a slot, with 32-bit
/// pointers; an upload has its word of 32 bytes in them.
pub struct Slots<F, M, const N: usize> {
    flash: F,
    map: M,
    ranges: [Range<u32>; N],
    policy: Policy,
    factory: Option<(u32, &'static [u8])>,
    running: Option<Running>,
    /// Good slots that failed at this start: passed over, and the first to be overwritten.
    passed_over: [bool; N],
    update: Option<Update>,
}

impl<F: NorFlash, M: MapFlash, const N: usize> Slots<F, M, N> {
    /// Slots in these ranges of flash. Reads and writes nothing yet.
    ///
    /// # Errors
    /// [`SlotError::Geometry`].
    pub fn new(
        flash: F,
        map: M,
        ranges: [Range<u32>; N],
        policy: Policy,
    ) -> Result<Self, SlotError> {
        let fits = |size: usize| size > 0 && UNIT.is_multiple_of(size);
        let block = u32::try_from(F::ERASE_SIZE).unwrap_or(0);
        let mut good = fits(F::WRITE_SIZE) && fits(F::READ_SIZE) && block >= DATA_OFFSET;
        for (index, range) in ranges.iter().enumerate() {
            good &= range.start < range.end
                && range.end as usize <= flash.capacity()
                && range.start.is_multiple_of(block.max(1))
                && range.end.is_multiple_of(block.max(1));
            good &= ranges
                .iter()
                .take(index)
                .all(|other| range.end <= other.start || other.end <= range.start);
        }
        if !good || N > usize::from(u8::MAX) {
            return Err(SlotError::Geometry);
        }
        let policy = Policy { attempts: policy.attempts.clamp(1, MAX_ATTEMPTS), ..policy };
        let passed_over = [false; N];
        let (factory, running, update) = (None, None, None);
        Ok(Slots { flash, map, ranges, policy, factory, running, passed_over, update })
    }

    /// Adds a model that is part of the firmware: it runs when no slot has a good one.
    pub fn with_factory(mut self, version: u32, file: &'static [u8]) -> Self {
        self.factory = Some((version, file));
        self
    }

    /// What runs since the last [`Slots::boot`].
    pub fn running(&self) -> Option<Running> {
        self.running
    }

    /// What is in a slot, by its header and marks.
    pub fn info(&mut self, slot: usize) -> Result<SlotInfo, SlotError> {
        let start = self.range(slot)?.start;
        let header = self.unit(start, HEADER);
        let good = self.unit(start, Mark::Good.unit());
        let bad = self.unit(start, Mark::Bad.unit());
        let mut attempts = 0;
        for attempt in 0..MAX_ATTEMPTS {
            // The last one counts, in case one before it faded.
            if self.unit(start, Mark::Attempt(attempt).unit()).is_set() {
                attempts = attempt + 1;
            }
        }
        let room = self.room(slot)?;
        Ok(SlotInfo::decode(&header, good.is_set(), bad.is_set(), attempts, room))
    }

    /// Makes a model on trial good: it is no longer rolled back.
    ///
    /// # Errors
    /// [`SlotError::NoModel`] when the factory model or none runs, [`SlotError::Flash`].
    pub fn confirm(&mut self) -> Result<(), SlotError> {
        let running = self.running.as_mut().ok_or(SlotError::NoModel)?;
        let slot = running.slot.ok_or(SlotError::NoModel)?;
        if running.on_trial {
            running.on_trial = false;
            if let Err(error) = self.mark(usize::from(slot), Mark::Good) {
                if let Some(running) = &mut self.running {
                    running.on_trial = true;
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Marks the running model bad, so that the next start takes the one before it.
    ///
    /// # Errors
    /// [`SlotError::LastGood`] when there is none before it, [`SlotError::NoModel`],
    /// [`SlotError::Flash`].
    pub fn roll_back(&mut self) -> Result<(), SlotError> {
        let slot = self.running.and_then(|running| running.slot).ok_or(SlotError::NoModel)?;
        let mut another = self.factory.is_some();
        for index in (0..N).filter(|index| *index != usize::from(slot)) {
            another |= self.is_last_resort(index)?;
        }
        if !another {
            return Err(SlotError::LastGood);
        }
        self.mark(usize::from(slot), Mark::Bad)
    }

    /// The flash, for what else is in it. Slots must not be written.
    pub fn flash(&mut self) -> &mut F {
        &mut self.flash
    }

    /// Good, and not found damaged at this start.
    fn is_last_resort(&mut self, slot: usize) -> Result<bool, SlotError> {
        let passed_over = self.passed_over.get(slot).copied().unwrap_or(true);
        Ok(!passed_over && self.info(slot)?.state == SlotState::Good)
    }

    fn range(&self, slot: usize) -> Result<Range<u32>, SlotError> {
        self.ranges.get(slot).cloned().ok_or(SlotError::NoSlot)
    }

    /// Bytes that a model can have in a slot.
    fn room(&self, slot: usize) -> Result<u32, SlotError> {
        let range = self.range(slot)?;
        Ok((range.end - range.start).saturating_sub(DATA_OFFSET))
    }

    fn unit(&mut self, start: u32, unit: u32) -> Unit {
        let mut bytes = [0; UNIT];
        match self.flash.read(start + unit * UNIT as u32, &mut bytes) {
            Ok(()) => Unit::of(bytes),
            Err(_) => Unit::Unreadable,
        }
    }

    /// Sets a mark, unless it is set.
    fn mark(&mut self, slot: usize, mark: Mark) -> Result<(), SlotError> {
        let start = self.range(slot)?.start;
        if self.unit(start, mark.unit()).is_set() {
            return Ok(());
        }
        let offset = start + mark.unit() * UNIT as u32;
        self.flash.write(offset, &[0; UNIT]).map_err(|_| SlotError::Flash)
    }
}
