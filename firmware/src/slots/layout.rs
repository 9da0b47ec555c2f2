//! What stands in front of a slot's model: the header and the marks.

use crate::crc::crc32;

/// Bytes of a header or mark: the largest word of flash that the slots work on.
pub(super) const UNIT: usize = 32;
/// Number of the header's unit.
pub(super) const HEADER: u32 = 0;
/// Attempts that a slot has room to count.
pub const MAX_ATTEMPTS: u8 = 5;
/// Where the model's file starts in a slot: after header, two marks and the attempts, at the file's
/// own alignment of 64.
pub const DATA_OFFSET: u32 = (UNIT * (3 + MAX_ATTEMPTS as usize)) as u32;

const _: () = assert!(DATA_OFFSET.is_multiple_of(64));

/// First bytes of a header: "whit slot, layout 1".
const MAGIC: [u8; 4] = *b"WSL1";

/// Something that became true of a slot.
#[derive(Clone, Copy)]
pub(super) enum Mark {
    Good,
    Bad,
    Attempt(u8),
}

impl Mark {
    pub(super) fn unit(self) -> u32 {
        match self {
            Mark::Good => 1,
            Mark::Bad => 2,
            Mark::Attempt(number) => 3 + u32::from(number),
        }
    }
}

/// What was read where a header or mark may be.
pub(super) enum Unit {
    Erased,
    Written([u8; UNIT]),
    /// Flash with error correction can refuse to read a word that power cut short.
    Unreadable,
}

impl Unit {
    pub(super) fn of(bytes: [u8; UNIT]) -> Unit {
        if bytes.iter().all(|byte| *byte == 0xff) { Unit::Erased } else { Unit::Written(bytes) }
    }

    pub(super) fn is_set(&self) -> bool {
        !matches!(self, Unit::Erased)
    }
}

/// State of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// Nothing, or an upload that was never finished.
    Empty,
    /// A header that power cut short, or that faded.
    Damaged,
    /// A checked model that no start has tried.
    Pending,
    /// A model that was started so many times without being confirmed.
    Trial(u8),
    /// A confirmed model.
    Good,
    /// A model that failed, was rolled back, or is about to be overwritten.
    Bad,
}

/// What a slot's header and marks say. All but the state is 0 without a valid header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotInfo {
    /// The slot's state.
    pub state: SlotState,
    /// Grows with every upload to any slot.
    pub sequence: u32,
    /// The model's version, as the upload gave it.
    pub version: u32,
    /// Length of the file.
    pub bytes: u32,
    /// CRC-32 of the file.
    pub crc32: u32,
}

impl SlotInfo {
    pub(super) fn decode(header: &Unit, good: bool, bad: bool, attempts: u8, room: u32) -> Self {
        let nothing = |state| SlotInfo { state, sequence: 0, version: 0, bytes: 0, crc32: 0 };
        let Unit::Written(bytes) = header else {
            return nothing(match header {
                Unit::Erased => SlotState::Empty,
                _ => SlotState::Damaged,
            });
        };
        let (words, _) = bytes.as_chunks::<4>();
        let word = |index: usize| words.get(index).map_or(0, |word| u32::from_le_bytes(*word));
        let covered = bytes.get(..UNIT - 4).unwrap_or_default();
        if !bytes.starts_with(&MAGIC) || word(7) != crc32(covered) || word(3) > room {
            return nothing(SlotState::Damaged);
        }
        let state = match (bad, good, attempts) {
            (true, ..) => SlotState::Bad,
            (_, true, _) => SlotState::Good,
            (.., 0) => SlotState::Pending,
            (.., attempts) => SlotState::Trial(attempts),
        };
        SlotInfo { state, sequence: word(1), version: word(2), bytes: word(3), crc32: word(4) }
    }

    pub(super) fn has_header(&self) -> bool {
        !matches!(self.state, SlotState::Empty | SlotState::Damaged)
    }

    /// The header's bytes.
    pub(super) fn encode(&self) -> [u8; UNIT] {
        let mut header = [0; UNIT];
        let words =
            [u32::from_le_bytes(MAGIC), self.sequence, self.version, self.bytes, self.crc32];
        let (slots, _) = header.as_chunks_mut::<4>();
        for (to, word) in slots.iter_mut().zip(words) {
            *to = word.to_le_bytes();
        }
        let crc = crc32(header.get(..UNIT - 4).unwrap_or_default());
        if let Some(last) = header.last_chunk_mut::<4>() {
            *last = crc.to_le_bytes();
        }
        header
    }
}

/// What stands in front of a good model, for tools that program a slot together with the
/// firmware: these bytes, then the file.
pub fn slot_header(version: u32, sequence: u32, file: &[u8]) -> [u8; DATA_OFFSET as usize] {
    let bytes = u32::try_from(file.len()).unwrap_or(u32::MAX);
    let info = SlotInfo { state: SlotState::Good, sequence, version, bytes, crc32: crc32(file) };
    let mut front = [0xff; DATA_OFFSET as usize];
    let (units, _) = front.as_chunks_mut::<UNIT>();
    if let [header, good, ..] = units {
        *header = info.encode();
        *good = [0; UNIT];
    }
    front
}
