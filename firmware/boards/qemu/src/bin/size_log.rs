//! `size_monitor` with a log in flash: what the log costs. Its chip is a stretch of RAM, as a driver's code is the board's.
#![no_std]
#![no_main]

use cortex_m_rt::entry;
use embedded_storage::nor_flash::{ErrorType, NorFlash, NorFlashErrorKind, ReadNorFlash};
use whit::metrics::Config;
use whit_board_qemu::watched::serve;
use whit_firmware::{LogSizes, MonitorLog};

const SIZES: LogSizes = LogSizes::of(&Config::DEFAULT);
const CHIP_BYTES: usize = 3 * 4096;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[entry]
fn main() -> ! {
    // Zeroed by the start-up code; `entry` hands them out once.
    static mut CHIP: [u8; CHIP_BYTES] = [0; CHIP_BYTES];
    static mut MEMORY: [u8; SIZES.memory_bytes()] = [0; SIZES.memory_bytes()];
    if let Ok(mut log) = MonitorLog::open(Ram(CHIP), 0..CHIP_BYTES as u32, MEMORY, SIZES) {
        let _ = serve(&mut log);
        let _ = log.read(&mut |record| {
            core::hint::black_box(record);
        });
    }
    loop {
        cortex_m::asm::wfi();
    }
}

struct Ram<'a>(&'a mut [u8; CHIP_BYTES]);

impl Ram<'_> {
    fn at(&mut self, offset: u32, count: usize) -> Result<&mut [u8], NorFlashErrorKind> {
        let rest = self.0.get_mut(offset as usize..).and_then(|rest| rest.get_mut(..count));
        rest.ok_or(NorFlashErrorKind::OutOfBounds)
    }
}

impl ErrorType for Ram<'_> {
    type Error = NorFlashErrorKind;
}

impl ReadNorFlash for Ram<'_> {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NorFlashErrorKind> {
        bytes.copy_from_slice(self.at(offset, bytes.len())?);
        Ok(())
    }

    fn capacity(&self) -> usize {
        CHIP_BYTES
    }
}

impl NorFlash for Ram<'_> {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = 4096;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), NorFlashErrorKind> {
        self.at(from, (to - from) as usize)?.fill(0xFF);
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NorFlashErrorKind> {
        self.at(offset, bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }
}
