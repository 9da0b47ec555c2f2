//! NOR flash in a file, that loses power where it is told to.

use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashErrorKind, ReadNorFlash, check_erase, check_read, check_write,
};

use super::{File, Host, World, read_u32};

/// Bytes of the chip.
pub const FLASH_BYTES: usize = 3 * BLOCK_BYTES;
const BLOCK_BYTES: usize = 4096;
const WORD_BYTES: usize = 4;

/// Kinds of operations: the first byte of a record that is written, these for an erase and for anything shorter than a record.
const ERASE: u8 = 0xFF;
const MARK: u8 = 0;
/// An item's header in flash, and what else isn't a record, is not longer.
const MARK_BYTES: usize = 8;

/// A cut: the kind of operation, how much of it happens (0 nothing, 1 half, 2 all), and the how manieth since the last cut it is.
#[derive(Clone, Copy)]
struct Cut {
    kind: u8,
    extent: u8,
    count: u16,
}

/// The chip: its content, and the file that keeps it.
pub struct FileFlash<'a, H> {
    host: &'a H,
    world: &'a World,
    bytes: &'a mut [u8; FLASH_BYTES],
    cut: Option<Cut>,
}

impl<'a, H: Host> FileFlash<'a, H> {
    /// The chip as its file has it.
    pub(super) fn open(
        host: &'a H,
        world: &'a World,
        bytes: &'a mut [u8; FLASH_BYTES],
    ) -> FileFlash<'a, H> {
        host.read(File::Flash, 0, bytes);
        let cut = read_u32(host, File::Cuts, world.next_cut.get()).map(|word| {
            let [kind, extent, a, b] = word.to_le_bytes();
            Cut { kind, extent, count: u16::from_le_bytes([a, b]) }
        });
        FileFlash { host, world, bytes, cut }
    }

    /// Time of the driver, which is no part of what a log costs.
    fn took(&self, start: u64) {
        let ticks = self.host.ticks() - start;
        self.world.flash_ticks.set(self.world.flash_ticks.get() + ticks);
    }

    /// Makes the bytes from `offset` on what `wanted` says, unless power fails.
    fn operate(&mut self, kind: u8, offset: usize, wanted: impl Fn(usize, u8) -> u8, count: usize) {
        let start = self.host.ticks();
        let cut = self.cut.filter(|cut| cut.kind == kind).filter(|cut| {
            let matched = self.world.matched.replace(self.world.matched.get() + 1);
            matched + 1 == u32::from(cut.count)
        });
        let count = match cut {
            None => count,
            Some(Cut { extent: 0, .. }) => 0,
            // Whole words, at least one.
            Some(Cut { extent: 1, .. }) => (count / 2).next_multiple_of(WORD_BYTES).min(count),
            Some(_) => count,
        };
        let bytes = &mut self.bytes[offset..offset + count];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = wanted(index, *byte);
        }
        self.host.write(File::Flash, offset as u32, bytes);
        if cut.is_some() {
            self.world.next_cut.set(self.world.next_cut.get() + 1);
            self.world.matched.set(0);
            self.host.say(format_args!("cut in {kind:#x} after {count} bytes"));
            self.world.power_fails(self.host)
        }
        self.took(start);
    }
}

impl<H> ErrorType for FileFlash<'_, H> {
    type Error = NorFlashErrorKind;
}

impl<H: Host> ReadNorFlash for FileFlash<'_, H> {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NorFlashErrorKind> {
        check_read(self, offset, bytes.len())?;
        let start = self.host.ticks();
        bytes.copy_from_slice(&self.bytes[offset as usize..offset as usize + bytes.len()]);
        self.took(start);
        Ok(())
    }

    fn capacity(&self) -> usize {
        FLASH_BYTES
    }
}

impl<H: Host> NorFlash for FileFlash<'_, H> {
    const WRITE_SIZE: usize = WORD_BYTES;
    const ERASE_SIZE: usize = BLOCK_BYTES;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), NorFlashErrorKind> {
        check_erase(self, from, to)?;
        for block in (from as usize..to as usize).step_by(BLOCK_BYTES) {
            self.operate(ERASE, block, |_, _| 0xFF, BLOCK_BYTES);
        }
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NorFlashErrorKind> {
        check_write(self, offset, bytes.len())?;
        let kind = match bytes {
            [first, ..] if bytes.len() > MARK_BYTES => *first,
            _ => MARK,
        };
        // Only an erase sets bits.
        self.operate(kind, offset as usize, |index, now| now & bytes[index], bytes.len());
        Ok(())
    }
}
