//! The microcontroller's flash: model slots and a log in its blocks of 128 KB, shared by their owners.

use core::cell::RefCell;
use core::ops::Range;

use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};
use stm32f4xx_hal::flash::{FlashExt, LockedFlash};

const START: usize = 0x0800_0000;
const BYTES: u32 = 1 << 20;
/// Sectors 5 to 11 have this size; those before hold the firmware and aren't touched.
const BLOCK: u32 = 128 << 10;
/// The firmware's end, as in memory.x.
const FIRST: u32 = 512 << 10;

/// Two models of up to 128 KB less 256 bytes.
pub(crate) const SLOTS: [Range<u32>; 2] = [FIRST..FIRST + BLOCK, FIRST + BLOCK..FIRST + 2 * BLOCK];
/// The log.
pub(crate) const LOG: Range<u32> = FIRST + 2 * BLOCK..BYTES;

/// The flash as `embedded-storage` knows it, for several owners of one thread.
pub(crate) struct Flash<'f>(pub(crate) &'f RefCell<LockedFlash>);

/// Outside of the slots and the log, or the controller reports a failure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlashError;

impl NorFlashError for FlashError {
    fn kind(&self) -> NorFlashErrorKind {
        NorFlashErrorKind::Other
    }
}

/// Bytes of flash, read where they are.
pub(crate) fn map(offset: u32, bytes: u32) -> Option<&'static [u8]> {
    let end = offset.checked_add(bytes).filter(|end| *end <= BYTES)?;
    let start = (START + offset as usize) as *const u8;
    // SAFETY: the range ends at or below the end of flash, which is readable memory that lives for
    // ever. Who erases or writes has dropped its slices of the range first: `Slots` promises it
    // for its slots (see `MapFlash`), and the log only copies.
    Some(unsafe { core::slice::from_raw_parts(start, (end - offset) as usize) })
}

impl ErrorType for Flash<'_> {
    type Error = FlashError;
}

impl ReadNorFlash for Flash<'_> {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), FlashError> {
        let length = u32::try_from(bytes.len()).map_err(|_| FlashError)?;
        bytes.copy_from_slice(map(offset, length).ok_or(FlashError)?);
        Ok(())
    }

    fn capacity(&self) -> usize {
        BYTES as usize
    }
}

impl NorFlash for Flash<'_> {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = BLOCK as usize;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), FlashError> {
        if from < FIRST || to > BYTES || !from.is_multiple_of(BLOCK) || !to.is_multiple_of(BLOCK) {
            return Err(FlashError);
        }
        let mut flash = self.0.borrow_mut();
        let mut unlocked = flash.unlocked();
        for block in from / BLOCK..to / BLOCK {
            // Sector 5 is the second block of 128 KB; five smaller ones fill the first.
            let sector = u8::try_from(block + 4).map_err(|_| FlashError)?;
            unlocked.erase(sector).map_err(|_| FlashError)?;
        }
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), FlashError> {
        let length = u32::try_from(bytes.len()).map_err(|_| FlashError)?;
        if offset < FIRST || offset.checked_add(length).is_none_or(|end| end > BYTES) {
            return Err(FlashError);
        }
        let mut flash = self.0.borrow_mut();
        flash.unlocked().program(offset as usize, bytes.iter()).map_err(|_| FlashError)
    }
}
