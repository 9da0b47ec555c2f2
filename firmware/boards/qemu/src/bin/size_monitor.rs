//! `size` with a monitor whose records go nowhere: what a monitor costs of flash.
#![no_std]
#![no_main]

use core::convert::Infallible;

use cortex_m_rt::entry;
use whit::metrics::record::Kind;
use whit::metrics::{Log, Sink};
use whit_board_qemu::watched::serve;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[entry]
fn main() -> ! {
    let _ = serve(&mut Nowhere);
    loop {
        cortex_m::asm::wfi();
    }
}

struct Nowhere;

impl Sink for Nowhere {
    type Error = Infallible;

    fn write(&mut self, _: Kind, record: &[u8]) -> Result<(), Infallible> {
        core::hint::black_box(record);
        Ok(())
    }
}

impl Log for Nowhere {
    fn next_sequence(&self) -> u32 {
        core::hint::black_box(0)
    }
}
