//! Blocks of flash as a ring of records: written by `sequential-storage`'s queue, read by their own checksums.

use core::ops::Range;

use embassy_futures::block_on;
use embedded_storage::nor_flash::{ErrorType, NorFlash};
use sequential_storage::Error;
use sequential_storage::cache::Cache;
use sequential_storage::queue::{QueueConfig, QueueStorage};
use whit::format::Crc32;
use whit::metrics::fold::Records;
use whit::metrics::record::{FRAME_BYTES, FRAME_FRONT, Frame, Kind, MAX_PAYLOAD};

use super::MonitorLogError;
use crate::blocking_flash::{Blocking, NoCache};

/// Bytes of a word at most.
const MAX_WORD: usize = 32;
/// Zeros among the bits of a word that the queue takes for its mark.
const MARK_BITS: u32 = 4;

/// What the marks of a block say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Erased.
    Open,
    /// Being written.
    Partial,
    /// Written.
    Closed,
    /// Its erase was cut.
    Damaged,
}

pub(super) struct Ring<F: NorFlash> {
    storage: QueueStorage<Blocking<F>, NoCache>,
    start: u32,
    blocks: u32,
    /// The block that is being written.
    head: u32,
}

type Result<T, F> = core::result::Result<T, MonitorLogError<<F as ErrorType>::Error>>;

impl<F: NorFlash> Ring<F> {
    const WORD: usize = Blocking::<F>::WORD;
    const BLOCK: u32 = F::ERASE_SIZE as u32;

    /// Finds the youngest block, and erases what cuts of power have left half done.
    pub(super) fn open(flash: F, range: Range<u32>) -> Result<Self, F> {
        let error = MonitorLogError::Geometry;
        let whole = |bytes: usize| bytes > 0 && Self::WORD.is_multiple_of(bytes);
        let fits = Self::WORD <= MAX_WORD
            && whole(F::READ_SIZE)
            && whole(F::WRITE_SIZE)
            && F::ERASE_SIZE.is_multiple_of(Self::WORD)
            && range.start < range.end
            && range.end as usize <= flash.capacity();
        if !fits {
            return Err(error);
        }
        let Ok(config) = QueueConfig::try_new(range.clone()) else { return Err(error) };
        let blocks = (range.end - range.start) / Self::BLOCK;
        if blocks < 3 {
            return Err(error);
        }
        let storage = QueueStorage::new(Blocking(flash), config, Cache::new_uncached());
        let mut ring = Ring { storage, start: range.start, blocks, head: 0 };
        ring.mend()?;
        Ok(ring)
    }

    fn flash(&mut self) -> &mut F {
        &mut self.storage.flash().0
    }

    fn address(&self, block: u32) -> u32 {
        self.start + block * Self::BLOCK
    }

    fn after(&self, block: u32) -> u32 {
        (block + 1) % self.blocks
    }

    fn read_word(&mut self, address: u32) -> Result<[u8; MAX_WORD], F> {
        let mut word = [0xFF; MAX_WORD];
        self.flash().read(address, &mut word[..Self::WORD]).map_err(MonitorLogError::Flash)?;
        Ok(word)
    }

    fn state(&mut self, block: u32) -> Result<State, F> {
        let start = self.address(block);
        let mut is_marked = |address| {
            let word = self.read_word(address)?;
            Ok(word.iter().map(|byte| byte.count_zeros()).sum::<u32>() >= MARK_BITS)
        };
        let end = start + Self::BLOCK - Self::WORD as u32;
        Ok(match (is_marked(start)?, is_marked(end)?) {
            (false, false) => State::Open,
            (true, false) => State::Partial,
            (true, true) => State::Closed,
            (false, true) => State::Damaged,
        })
    }

    fn is_blank(&mut self, block: u32) -> Result<bool, F> {
        let start = self.address(block);
        for address in (start..start + Self::BLOCK).step_by(Self::WORD) {
            if self.read_word(address)?.iter().any(|byte| *byte != 0xFF) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Erases the block behind the head, which gets its mark first: that tells the two apart if the erase is cut.
    pub(super) fn erase_oldest(&mut self, block: u32) -> Result<(), F> {
        if self.state(self.head)? == State::Open {
            let start = self.address(self.head);
            let mark = [0; MAX_WORD];
            self.flash().write(start, &mark[..Self::WORD]).map_err(MonitorLogError::Flash)?;
        }
        self.erase(block)
    }

    fn erase(&mut self, block: u32) -> Result<(), F> {
        let start = self.address(block);
        self.flash().erase(start, start + Self::BLOCK).map_err(MonitorLogError::Flash)
    }

    /// What a cut in an erase leaves: half a block without one of its marks, or all of it in bits by chance. The block behind
    /// the head is the only one that is ever erased, so that of two blocks with a mark at the front only, the second is
    /// the one whose erase was cut.
    fn mend(&mut self) -> Result<(), F> {
        for block in 0..self.blocks {
            let half = match self.state(block)? {
                State::Open => !self.is_blank(block)?,
                State::Damaged => true,
                State::Partial | State::Closed => false,
            };
            if half {
                self.erase(block)?;
            }
        }
        let mut head = None;
        for block in 0..self.blocks {
            let before = (block + self.blocks - 1) % self.blocks;
            if self.state(block)? == State::Partial {
                let first = self.state(before)? != State::Partial;
                if head.is_none() || first {
                    head = Some(block);
                }
                if first {
                    break;
                }
            }
        }
        for block in 0..self.blocks {
            if head != Some(block) && self.state(block)? == State::Partial {
                self.erase(block)?;
            }
        }
        let head = match head {
            Some(head) => head,
            None => self.first_open()?,
        };
        self.head = head;
        Ok(())
    }

    /// The block that is written next when none is being written.
    fn first_open(&mut self) -> Result<u32, F> {
        let mut closed = None;
        for block in 0..self.blocks {
            if self.state(block)? == State::Closed {
                closed = Some(block);
                break;
            }
        }
        let Some(closed) = closed else { return Ok(0) };
        for step in 1..self.blocks {
            let block = (closed + step) % self.blocks;
            if self.state(block)? == State::Open {
                return Ok(block);
            }
        }
        // No log of ours ever looks like this: one of the blocks has to go.
        self.erase(closed)?;
        Ok(closed)
    }

    /// The block that would be written behind the head, if it isn't erased: that with the oldest records.
    pub(super) fn oldest(&mut self) -> Result<Option<u32>, F> {
        self.follow()?;
        let next = self.after(self.head);
        Ok((self.state(next)? != State::Open).then_some(next))
    }

    pub(super) fn head(&self) -> u32 {
        self.head
    }

    /// Every whole record of a block, with its bytes, in order. Whatever else is there is passed over.
    pub(super) fn each_in(
        &mut self,
        block: u32,
        buffer: &mut [u8],
        take: &mut dyn FnMut(&Frame<'_>, &[u8]),
    ) -> Result<(), F> {
        let word = Self::WORD;
        let room = buffer.len() / word * word;
        let start = self.address(block);
        let (mut at, end) = (start + word as u32, start + Self::BLOCK - word as u32);
        while at < end {
            let bytes = room.min((end - at) as usize);
            let chunk = &mut buffer[..bytes];
            self.flash().read(at, chunk).map_err(MonitorLogError::Flash)?;
            // An item's data begin with a word.
            let begins = |first: &&[u8]| {
                first[0] & 0xF0 == 0xB0 && Kind::from_number(first[0] & 0x0F).is_some()
            };
            let Some(ahead) = chunk.chunks(word).position(|first| begins(&first)) else {
                at += bytes as u32;
                continue;
            };
            if ahead > 0 {
                at += (ahead * word) as u32;
                continue;
            }
            let length = usize::from(u16::from_le_bytes([chunk[1], chunk[2]]));
            let all = length + FRAME_BYTES;
            let possible = length <= MAX_PAYLOAD && all <= (end - at) as usize;
            let mut step = word;
            if possible && all > bytes {
                if self.is_record(at, all, chunk)? {
                    return Err(MonitorLogError::Record { bytes: all });
                }
            } else if possible && let Ok((frame, _)) = Frame::read(&chunk[..all]) {
                take(&frame, &chunk[..all]);
                step = all.next_multiple_of(word);
            }
            at += step as u32;
        }
        Ok(())
    }

    /// Whether a record that is longer than the buffer has the right checksum.
    fn is_record(&mut self, at: u32, all: usize, buffer: &mut [u8]) -> Result<bool, F> {
        let (mut crc, mut from, mut wanted) = (Crc32::new(), 0, [0; 4]);
        while from < all {
            let bytes = buffer.len().min((all - from).next_multiple_of(Self::WORD));
            let chunk = &mut buffer[..bytes];
            self.flash().read(at + from as u32, chunk).map_err(MonitorLogError::Flash)?;
            for byte in &chunk[..bytes.min(all - from)] {
                match (from + 4).checked_sub(all).and_then(|place| wanted.get_mut(place)) {
                    Some(place) => *place = *byte,
                    None => crc.update(&[*byte]),
                }
                from += 1;
            }
        }
        Ok(all >= FRAME_FRONT && crc.finish() == u32::from_le_bytes(wanted))
    }

    /// Every whole record, oldest first.
    pub(super) fn each(
        &mut self,
        buffer: &mut [u8],
        take: &mut dyn FnMut(&Frame<'_>, &[u8]),
    ) -> Result<(), F> {
        let mut block = self.head;
        for _ in 0..self.blocks {
            block = self.after(block);
            if self.state(block)? != State::Open {
                self.each_in(block, buffer, take)?;
            }
        }
        Ok(())
    }

    /// Writes a record behind the others. Never erases a record.
    pub(super) fn push(&mut self, record: &[u8]) -> Result<(), F> {
        let pushed = block_on(self.storage.push(record, false)).map_err(|error| match error {
            Error::Storage { value } => MonitorLogError::Flash(value),
            Error::FullStorage => MonitorLogError::Full,
            Error::ItemTooBig => MonitorLogError::Record { bytes: record.len() },
            _ => MonitorLogError::Damaged,
        });
        // A record that is written is no failure; where it is, is looked up again before the next one.
        let _ = self.follow();
        pushed
    }

    /// Whether the last record is this one: flash may say that a write failed which didn't.
    pub(super) fn ends_with(&mut self, record: &[u8], buffer: &mut [u8]) -> Result<bool, F> {
        let mut is = false;
        self.each_in(self.head, buffer, &mut |_, last| is = last == record)?;
        Ok(is)
    }

    /// Writing may have begun the next block, also when it failed.
    fn follow(&mut self) -> Result<(), F> {
        let next = self.after(self.head);
        if self.state(next)? == State::Partial {
            self.head = next;
        }
        Ok(())
    }

    /// Bytes that are left in the head, which records take as [`Ring::bytes_of`] says.
    pub(super) fn room(&mut self) -> Result<usize, F> {
        let most = block_on(self.storage.find_max_fit()).map_err(|error| match error {
            Error::Storage { value } => MonitorLogError::Flash(value),
            _ => MonitorLogError::Damaged,
        })?;
        Ok(most.map_or(0, |most| most as usize + Self::item_bytes()))
    }

    fn item_bytes() -> usize {
        QueueStorage::<Blocking<F>, NoCache>::item_overhead_size() as usize
    }

    /// Bytes that a record takes in flash.
    pub(super) fn bytes_of(record_bytes: usize) -> usize {
        Self::item_bytes() + record_bytes.next_multiple_of(Self::WORD)
    }
}

/// Reads a ring's records again and again.
pub(super) struct Reader<'r, F: NorFlash> {
    pub(super) ring: &'r mut Ring<F>,
    pub(super) buffer: &'r mut [u8],
}

impl<F: NorFlash> Records for Reader<'_, F> {
    type Error = MonitorLogError<F::Error>;

    fn each(&mut self, take: &mut dyn FnMut(&Frame<'_>)) -> core::result::Result<(), Self::Error> {
        self.ring.each(self.buffer, &mut |frame, _| take(frame))
    }
}
