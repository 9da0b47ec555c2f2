//! The least that a product needs: opens the model in flash, prepares a session, and runs it for ever.
//!
//! Its sections are the code and constants that Whit costs: no output, no formatting, no allocator.
//! A peripheral that fills the input and takes the outputs is stood for by memory at `IO`.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering};

use cortex_m_rt::entry;
use whit::{Model, Options, Session};
use whit_board_qemu::{MEMORY_BYTES, Memory, OPERATORS, model};

/// Stands for a sensor's and an actuator's data registers.
static IO: AtomicU32 = AtomicU32::new(0);

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // A product would reset; an endless loop is what its watchdog sees.
    loop {}
}

#[entry]
fn main() -> ! {
    // Zeroed by the start-up code; `entry` hands it out once.
    static mut MEMORY: Memory = Memory([0; MEMORY_BYTES]);
    let _ = serve(&mut MEMORY.0);
    loop {
        cortex_m::asm::wfi();
    }
}

fn serve(memory: &'static mut [u8]) -> Option<()> {
    let model = Model::open(model::bytes()).ok()?;
    let options = Options { isa: None, operators: OPERATORS };
    let mut session = Session::in_memory(model, memory, options).ok()?;
    loop {
        for value in session.input_mut::<i8>(0).ok()? {
            *value = IO.load(Ordering::Relaxed) as i8;
        }
        session.run().ok()?;
        for value in session.output_bytes(0).ok()? {
            IO.store(u32::from(*value), Ordering::Relaxed);
        }
    }
}
