//! What a session remembers as bytes, to go on later: its states, of KV caches the positions that were written.
//!
//! The bytes are described in FORMAT.md ("Saved state"). They go through the caller's functions, so that a file, flash or a
//! buffer can be behind them, and nothing is allocated.

use core::fmt;
use core::ops::{ControlFlow, Range};

use crate::backend::Prepared;
use crate::error::SessionError;
use crate::format::{Crc32, Field, Op, SavedStateHeader, Storage};
use crate::session::Session;

/// First four bytes of saved state.
const MAGIC: [u8; 4] = *b"WHST";
const VERSION: u16 = 1;
/// How numbers of several bytes lie: those of a state are the machine's.
const BYTE_ORDER: u16 = if cfg!(target_endian = "big") { 2 } else { 1 };
/// Results of cached attention from which on they are caches.
const CACHES_FROM: usize = 1;

/// Why state wasn't saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SaveError<E> {
    /// The bytes couldn't be written.
    Write(E),
    /// The device that holds them failed.
    Session(SessionError),
}

impl<E: fmt::Display> fmt::Display for SaveError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SaveError::Write(error) => write!(f, "the state can't be written: {error}"),
            SaveError::Session(error) => error.fmt(f),
        }
    }
}

impl<E: core::error::Error> core::error::Error for SaveError<E> {}

/// Why saved state wasn't restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RestoreError<E> {
    /// The bytes couldn't be read.
    Read(E),
    /// They aren't saved state.
    NotState,
    /// They are of another version.
    Version {
        /// The version.
        version: u16,
    },
    /// They come from a machine whose numbers have their bytes in another order.
    ByteOrder,
    /// They are another model's, or that of the same model converted another way.
    OtherModel,
    /// The states' length isn't what these positions take.
    Length {
        /// Bytes stated.
        stated: u64,
        /// Bytes that it would be.
        expected: u64,
    },
    /// The checksum is wrong: they were damaged.
    Checksum,
    /// The device that holds the states failed.
    Session(SessionError),
}

impl<E: fmt::Display> fmt::Display for RestoreError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RestoreError::Read(error) => write!(f, "the saved state can't be read: {error}"),
            RestoreError::NotState => f.write_str("this is no saved state of a session"),
            RestoreError::Version { version } => {
                write!(f, "saved state of version {version}, and this build reads {VERSION}")
            }
            RestoreError::ByteOrder => {
                f.write_str("the state was saved on a machine of the other byte order")
            }
            RestoreError::OtherModel => f.write_str("the state is another model's"),
            RestoreError::Length { stated, expected } => {
                write!(f, "the saved state states {stated} bytes, and the model's has {expected}")
            }
            RestoreError::Checksum => {
                f.write_str("the checksum of the saved state is wrong: it is damaged")
            }
            RestoreError::Session(error) => error.fmt(f),
        }
    }
}

impl<E: core::error::Error> core::error::Error for RestoreError<E> {}

/// A KV cache: heads that lie `stride` bytes apart, of each of which `kept` bytes count.
#[derive(Clone, Copy)]
struct Cache {
    start: usize,
    end: usize,
    stride: usize,
    kept: usize,
    /// Which share the heads evenly.
    sequences: usize,
}

/// Goes over the bytes of the states that are saved, in their order.
struct Walk {
    positions: u32,
    /// Everything before has been given.
    at: usize,
    /// The rest of the cache that ends here.
    cache: Option<Cache>,
}

impl Walk {
    fn new(positions: u32) -> Walk {
        Walk { positions, at: 0, cache: None }
    }

    /// The next bytes.
    fn next(&mut self, session: &dyn Prepared<'_>) -> Option<Range<usize>> {
        loop {
            if let Some(cache) = &mut self.cache {
                if cache.start < cache.end {
                    let start = cache.start;
                    cache.start += cache.stride;
                    return Some(start..start + cache.kept);
                }
                self.at = cache.end;
                self.cache = None;
            }
            let end = state_bytes(session);
            match session.cache_from(self.at, self.positions) {
                Some(cache) if cache.start == self.at => self.cache = Some(cache),
                next => {
                    let start = self.at;
                    self.at = next.map_or(end, |cache| cache.start);
                    return (start < self.at).then_some(start..self.at);
                }
            }
        }
    }
}

fn state_bytes(session: &dyn Prepared<'_>) -> usize {
    session.model().header().state_bytes as usize
}

/// Turns a result into what breaks a walk over pieces, and keeps its error.
fn unless_failed<E>(result: Result<(), E>, failed: &mut Option<E>) -> ControlFlow<()> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            *failed = Some(error);
            ControlFlow::Break(())
        }
    }
}

impl<'m> dyn Prepared<'m> + '_ {
    /// As [`Session::saved_state_bytes`].
    pub fn saved_state_bytes(&self, positions: u32) -> u64 {
        SavedStateHeader::SIZE as u64 + self.payload_bytes(positions) + u32::SIZE as u64
    }

    fn payload_bytes(&self, positions: u32) -> u64 {
        let mut walk = Walk::new(positions);
        let lengths = core::iter::from_fn(|| walk.next(self)).map(|range| range.len() as u64);
        lengths.sum()
    }

    /// As [`Session::save_state`].
    ///
    /// # Errors
    /// What `write` returns, and when a device fails.
    pub fn save_state<E>(
        &self,
        positions: u32,
        mut write: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), SaveError<E>> {
        let mut crc = Crc32::new();
        let mut put = |bytes: &[u8]| {
            crc.update(bytes);
            write(bytes)
        };
        let mut header = [0; SavedStateHeader::SIZE];
        self.saved_header(positions).write(&mut header);
        put(&header).map_err(SaveError::Write)?;
        let mut walk = Walk::new(positions);
        let mut failed = None;
        while let Some(range) = walk.next(self) {
            let read = self.read_state(range, &mut |piece| unless_failed(put(piece), &mut failed));
            read.map_err(SaveError::Session)?;
            if let Some(error) = failed {
                return Err(SaveError::Write(error));
            }
        }
        write(&crc.finish().to_le_bytes()).map_err(SaveError::Write)
    }

    /// As [`Session::restore_state`].
    ///
    /// # Errors
    /// Those of [`Session::restore_state`].
    pub fn restore_state<E>(
        &mut self,
        mut read: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<u32, RestoreError<E>> {
        let mut header = [0; SavedStateHeader::SIZE];
        read(&mut header).map_err(RestoreError::Read)?;
        let stated = SavedStateHeader::read(&header);
        if stated.magic != MAGIC {
            return Err(RestoreError::NotState);
        }
        if stated.version != VERSION {
            return Err(RestoreError::Version { version: stated.version });
        }
        if stated.byte_order != BYTE_ORDER {
            return Err(RestoreError::ByteOrder);
        }
        let own = self.saved_header(stated.positions);
        let model = |h: &SavedStateHeader| (h.model_crc32, h.model_bytes, h.state_bytes);
        if model(&stated) != model(&own) {
            return Err(RestoreError::OtherModel);
        }
        if stated.payload_bytes != own.payload_bytes {
            let (stated, expected) = (stated.payload_bytes, own.payload_bytes);
            return Err(RestoreError::Length { stated, expected });
        }
        let restored = self.restore_pieces(&header, stated.positions, &mut read);
        if restored.is_err() {
            self.reset_state();
        }
        restored.map(|()| stated.positions)
    }

    /// As [`Session::copy_sequence`].
    ///
    /// # Errors
    /// Those of [`Session::copy_sequence`].
    pub fn copy_sequence(
        &mut self,
        from: usize,
        to: usize,
        positions: u32,
    ) -> Result<(), SessionError> {
        let mut at = 0;
        while let Some(cache) = self.cache_from(at, positions) {
            if from.max(to) >= cache.sequences {
                return Err(SessionError::Unknown);
            }
            let sequence_bytes = (cache.end - cache.start) / cache.sequences;
            for head in (0..sequence_bytes).step_by(cache.stride) {
                let place = |sequence| cache.start + sequence * sequence_bytes + head;
                self.copy_state(place(from)..place(from) + cache.kept, place(to))?;
            }
            at = cache.end;
        }
        Ok(())
    }

    fn restore_pieces<E>(
        &mut self,
        header: &[u8],
        positions: u32,
        read: &mut impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), RestoreError<E>> {
        let mut crc = Crc32::new();
        crc.update(header);
        let mut walk = Walk::new(positions);
        let mut failed = None;
        while let Some(range) = walk.next(self) {
            let written = self.write_state(range, &mut |piece| {
                let filled = unless_failed(read(piece), &mut failed);
                crc.update(piece);
                filled
            });
            written.map_err(RestoreError::Session)?;
            if let Some(error) = failed {
                return Err(RestoreError::Read(error));
            }
        }
        let mut stated = [0; u32::SIZE];
        read(&mut stated).map_err(RestoreError::Read)?;
        if u32::from_le_bytes(stated) != crc.finish() {
            return Err(RestoreError::Checksum);
        }
        Ok(())
    }

    fn saved_header(&self, positions: u32) -> SavedStateHeader {
        let model = self.model().header();
        SavedStateHeader {
            magic: MAGIC,
            version: VERSION,
            byte_order: BYTE_ORDER,
            positions,
            model_crc32: model.crc32,
            model_bytes: model.file_bytes,
            state_bytes: model.state_bytes,
            payload_bytes: self.payload_bytes(positions),
        }
    }

    /// The first cache that starts at this byte of the states or behind it: keys, values or their scales of an attention step,
    /// `[sequences, heads, positions, …]`.
    fn cache_from(&self, at: usize, positions: u32) -> Option<Cache> {
        let model = self.model();
        let results = model.steps().filter(|step| step.op == Op::CachedAttention as u16);
        let results = results.flat_map(|step| {
            model.operands(&step).skip(usize::from(step.input_count) + CACHES_FROM)
        });
        let caches = results.filter_map(|tensor| {
            let slot = self.slot(tensor as usize)?;
            let (start, bytes) = (slot.place.offset, slot.bytes());
            let end = start.checked_add(bytes)?;
            let row = slot.dim(3).checked_mul(slot.dtype().size())?;
            let stride = slot.dim(2).checked_mul(row)?;
            let rows = usize::try_from(positions).unwrap_or(usize::MAX).min(slot.dim(2));
            let is_whole = stride > 0 && bytes.is_multiple_of(stride) && end <= state_bytes(self);
            let is_there = slot.place.storage == Storage::State && slot.rank() == 4 && start >= at;
            (is_whole && is_there && bytes > 0).then_some(Cache {
                start,
                end,
                stride,
                kept: rows * row,
                sequences: slot.dim(0),
            })
        });
        caches.min_by_key(|cache| cache.start)
    }
}

/// Gives the `Session` in scope the methods of [`Prepared`] that save, restore and copy states.
macro_rules! forward_states {
    () => {
        impl Session<'_> {
            /// Bytes that [`Session::save_state`] writes for so many positions.
            pub fn saved_state_bytes(&self, positions: u32) -> u64 {
                (self as &dyn Prepared<'_>).saved_state_bytes(positions)
            }

            /// Writes all states through `write`, piece by piece. Of KV caches those at the first `positions` are written,
            /// all with `u32::MAX`; other states are always whole. Neither inputs and outputs nor dimensions are part of
            /// it.
            ///
            /// # Errors
            /// What `write` returns, and when a device fails.
            pub fn save_state<E>(
                &self,
                positions: u32,
                write: impl FnMut(&[u8]) -> Result<(), E>,
            ) -> Result<(), $crate::SaveError<E>> {
                (self as &dyn Prepared<'_>).save_state(positions, write)
            }

            /// Reads what [`Session::save_state`] wrote, through `read`, which fills the slice it is given. Returns the
            /// number of positions of KV caches that were restored; those behind them stay as they are.
            ///
            /// # Errors
            /// [`RestoreError`](crate::RestoreError): what `read` returns, bytes that are no saved state of this model and
            /// this version, damaged ones, and when a device fails. The header is checked before anything is touched;
            /// where an error comes later, all states have their initial values.
            pub fn restore_state<E>(
                &mut self,
                read: impl FnMut(&mut [u8]) -> Result<(), E>,
            ) -> Result<u32, $crate::RestoreError<E>> {
                (self as &mut dyn Prepared<'_>).restore_state(read)
            }

            /// Copies the keys and values of a sequence's first `positions` to another sequence, which so goes on as the
            /// first one: in a search that follows several texts. Those of all positions with `u32::MAX`. Other states
            /// stay as they are.
            ///
            /// # Errors
            /// [`SessionError::Unknown`] for a sequence that a KV cache doesn't have, and when a device fails; some may
            /// have been copied then.
            pub fn copy_sequence(
                &mut self,
                from: usize,
                to: usize,
                positions: u32,
            ) -> Result<(), SessionError> {
                (self as &mut dyn Prepared<'_>).copy_sequence(from, to, positions)
            }
        }
    };
}
#[cfg(any(feature = "cuda", feature = "cuda-emulation", all(test, feature = "std")))]
pub(crate) use forward_states;

forward_states!();
