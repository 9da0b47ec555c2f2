//! Another model into a slot: begin, chunks, finish.

use embedded_storage::nor_flash::NorFlash;
use whit::Model;
use whit::format::HEADER_BYTES;

use super::layout::{DATA_OFFSET, HEADER, Mark, SlotInfo, SlotState, UNIT};
use super::{MapFlash, SlotError, Slots, Versions};
use crate::crc::crc32;

/// What an upload says about its file before the first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upload {
    /// Version of the model; see [`Versions`].
    pub version: u32,
    /// Length of the file.
    pub bytes: u32,
    /// CRC-32 of the file.
    pub crc32: u32,
}

/// An upload on its way.
pub(super) struct Update {
    slot: usize,
    sequence: u32,
    upload: Upload,
    /// Bytes taken, of which the last few wait in `word`.
    taken: u32,
    word: Word,
    /// End of the blocks erased so far.
    erased_to: u32,
}

/// Some flash drivers read what they write by words or by DMA.
#[repr(align(8))]
struct Word([u8; UNIT]);

impl<F: NorFlash, M: MapFlash, const N: usize> Slots<F, M, N> {
    /// Begins an upload, into the slot that can best be spared, and gives its number. An upload that is
    /// under way is dropped.
    ///
    /// Erases one block; [`Slots::write`] erases the others one by one as it gets there, so that no
    /// call takes longer than an erase of a block.
    ///
    /// # Errors
    /// [`SlotError::Length`], [`SlotError::Version`], [`SlotError::LastGood`], [`SlotError::Flash`].
    pub fn begin(&mut self, upload: Upload) -> Result<usize, SlotError> {
        self.update = None;
        self.check_version(&upload)?;
        let (slot, sequence) = self.target()?;
        if upload.bytes > self.room(slot)? || (upload.bytes as usize) < HEADER_BYTES {
            return Err(SlotError::Length);
        }
        let start = self.range(slot)?.start;
        if self.info(slot)?.has_header() {
            // An erase that power cuts short may leave a header that looks valid over a file that
            // isn't.
            self.mark(slot, Mark::Bad)?;
        }
        let erased_to = start + F::ERASE_SIZE as u32;
        self.flash.erase(start, erased_to).map_err(|_| SlotError::Flash)?;
        let word = Word([0xff; UNIT]);
        self.update = Some(Update { slot, sequence, upload, taken: 0, word, erased_to });
        Ok(slot)
    }

    /// Takes the next chunk of any length; `offset` counts from the start of the file. A chunk that
    /// was taken before is taken for a repetition. Gives the offset of the next one.
    ///
    /// # Errors
    /// [`SlotError::NoUpload`], [`SlotError::Order`], [`SlotError::Length`] beyond the end.
    /// After [`SlotError::Flash`] the upload is dropped.
    pub fn write(&mut self, offset: u32, chunk: &[u8]) -> Result<u32, SlotError> {
        let update = self.update.as_mut().ok_or(SlotError::NoUpload)?;
        let end = u32::try_from(chunk.len()).ok().and_then(|bytes| offset.checked_add(bytes));
        let end = end.filter(|end| *end <= update.upload.bytes).ok_or(SlotError::Length)?;
        if end <= update.taken && offset < update.taken {
            return Ok(update.taken);
        }
        if offset != update.taken {
            return Err(SlotError::Order(update.taken));
        }
        for byte in chunk {
            let place = update.taken as usize % UNIT;
            if let Some(to) = update.word.0.get_mut(place) {
                *to = *byte;
            }
            update.taken += 1;
            if place == UNIT - 1 {
                let written = write_word(&mut self.flash, &self.ranges, update);
                if let Err(error) = written {
                    self.update = None;
                    return Err(error);
                }
            }
        }
        Ok(end)
    }

    /// Ends an upload: reads the file back, checks it, and puts it on trial for the next
    /// [`Slots::boot`]. Takes two passes over the file.
    ///
    /// # Errors
    /// [`SlotError::Incomplete`], after which the upload can go on. After every other error it is
    /// dropped and its slot stays empty.
    pub fn finish(&mut self) -> Result<(), SlotError> {
        let update = self.update.as_ref().ok_or(SlotError::NoUpload)?;
        if update.taken != update.upload.bytes {
            return Err(SlotError::Incomplete(update.taken));
        }
        let Some(mut update) = self.update.take() else { return Err(SlotError::NoUpload) };
        if !update.taken.is_multiple_of(UNIT as u32) {
            write_word(&mut self.flash, &self.ranges, &mut update)?;
        }
        let start = self.range(update.slot)?.start;
        let Upload { version, bytes, crc32: expected } = update.upload;
        let file = self.map.map(start + DATA_OFFSET, bytes).ok_or(SlotError::Unmapped)?;
        if crc32(file) != expected {
            return Err(SlotError::Crc);
        }
        let model = Model::open(file).map_err(SlotError::File)?;
        model.verify_checksums().map_err(SlotError::File)?;
        if model.golden().len() == 0 {
            return Err(SlotError::NoVectors);
        }
        let state = SlotState::Pending;
        let sequence = update.sequence;
        let header = Word(SlotInfo { state, sequence, version, bytes, crc32: expected }.encode());
        self.flash.write(start + HEADER * UNIT as u32, &header.0).map_err(|_| SlotError::Flash)
    }

    /// Drops an upload; its slot stays empty.
    pub fn abort(&mut self) {
        self.update = None;
    }

    /// Where the next chunk starts and how long the file is, while an upload is under way.
    pub fn progress(&self) -> Option<(u32, u32)> {
        self.update.as_ref().map(|update| (update.taken, update.upload.bytes))
    }

    fn check_version(&self, upload: &Upload) -> Result<(), SlotError> {
        let Some(running) = self.running else { return Ok(()) };
        let allowed = match self.policy.versions {
            Versions::Newer => upload.version > running.version,
            Versions::Different => (upload.bytes, upload.crc32) != (running.bytes, running.crc32),
            Versions::Any => true,
        };
        if allowed { Ok(()) } else { Err(SlotError::Version) }
    }

    /// The slot to overwrite and its next sequence number: neither the one that runs nor the last
    /// good one; of the others one without use, then one on trial, then the oldest.
    fn target(&mut self) -> Result<(usize, u32), SlotError> {
        let running = self.running.and_then(|running| running.slot).map(usize::from);
        let (mut last_good, mut newest) = (None, 0);
        for slot in 0..N {
            let info = self.info(slot)?;
            newest = newest.max(info.sequence);
            let better = last_good.is_none_or(|(_, sequence)| info.sequence > sequence);
            if better && self.is_last_resort(slot)? {
                last_good = Some((slot, info.sequence));
            }
        }
        let mut best = None;
        for slot in 0..N {
            if Some(slot) == running || last_good.is_some_and(|(good, _)| good == slot) {
                continue;
            }
            let info = self.info(slot)?;
            let rank = match info.state {
                SlotState::Empty | SlotState::Damaged | SlotState::Bad => 0,
                SlotState::Good if !self.is_last_resort(slot)? => 0,
                SlotState::Pending | SlotState::Trial(_) => 1,
                SlotState::Good => 2,
            };
            let cost = (rank, info.sequence);
            if best.is_none_or(|(_, least)| cost < least) {
                best = Some((slot, cost));
            }
        }
        let (slot, _) = best.ok_or(SlotError::LastGood)?;
        Ok((slot, newest.saturating_add(1)))
    }
}

/// Writes the word that has filled, and before it erases the block that it is the first in.
fn write_word<F: NorFlash>(
    flash: &mut F,
    ranges: &[core::ops::Range<u32>],
    update: &mut Update,
) -> Result<(), SlotError> {
    let start = ranges.get(update.slot).ok_or(SlotError::NoSlot)?.start;
    let word = update.taken.saturating_sub(1) / UNIT as u32;
    let offset = start + DATA_OFFSET + word * UNIT as u32;
    if offset >= update.erased_to {
        let end = update.erased_to + F::ERASE_SIZE as u32;
        flash.erase(update.erased_to, end).map_err(|_| SlotError::Flash)?;
        update.erased_to = end;
    }
    flash.write(offset, &update.word.0).map_err(|_| SlotError::Flash)?;
    update.word.0 = [0xff; UNIT];
    Ok(())
}
