//! A board's flash as `sequential-storage` wants it.

use embedded_storage::nor_flash::NorFlash;
use embedded_storage_async::nor_flash as asynchronous;
use sequential_storage::cache::{Cache, Uncached};

/// Blocking flash behind the asynchronous traits that the storage is written for; its futures are
/// ready when first polled.
///
/// Reads and writes whole words of four bytes or more: a block's state is told by the bits of one word, so a
/// cut in the write of a word leaves enough of them to tell.
pub(crate) struct Blocking<F>(pub(crate) F);

/// Nothing of the flash is remembered.
pub(crate) type NoCache = Cache<Uncached, Uncached, Uncached, ()>;

impl<F: NorFlash> Blocking<F> {
    /// Bytes of a word.
    pub(crate) const WORD: usize = {
        let larger = if F::READ_SIZE > F::WRITE_SIZE { F::READ_SIZE } else { F::WRITE_SIZE };
        if larger > 4 { larger } else { 4 }
    };
}

impl<F: NorFlash> asynchronous::ErrorType for Blocking<F> {
    type Error = F::Error;
}

impl<F: NorFlash> asynchronous::ReadNorFlash for Blocking<F> {
    const READ_SIZE: usize = Self::WORD;

    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), F::Error> {
        self.0.read(offset, bytes)
    }

    fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

impl<F: NorFlash> asynchronous::NorFlash for Blocking<F> {
    const WRITE_SIZE: usize = Self::WORD;
    const ERASE_SIZE: usize = F::ERASE_SIZE;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), F::Error> {
        self.0.erase(from, to)
    }

    async fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), F::Error> {
        self.0.write(offset, bytes)
    }
}
