//! A device with a monitor: lives through the stream that the host has in files, until power fails or the stream ends.
//!
//! `field` says what the files are. The first start needs them all, those that are written may be empty.
#![no_std]
#![no_main]

use core::fmt;

use cortex_m_rt::entry;
use semihosting::fs::{self, OpenOptions};
use semihosting::io::{Read, Seek, SeekFrom, Write};
use semihosting::{println, process};
use whit::{Model, Options, Session, SessionError};
use whit_board_qemu::counter::{self, Calibration};
use whit_board_qemu::field::{self, Buffers, File, Host};
use whit_board_qemu::{MEMORY_BYTES, Memory, OPERATORS, model, stack};

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    println!("{info}");
    process::exit(101)
}

#[entry]
fn main() -> ! {
    let core = cortex_m::Peripherals::take().expect("taken once");
    counter::start(core.SYST);
    let board = Board(Calibration::measure());
    let memory = cortex_m::singleton!(: Memory = Memory([0; MEMORY_BYTES])).expect("taken once");
    let buffers = cortex_m::singleton!(: Buffers = Buffers::EMPTY).expect("taken once");
    let options = Options { isa: None, operators: OPERATORS };
    let session =
        Model::open(model::bytes()).map_err(|error| println!("open: {error}")).and_then(|model| {
            Session::in_memory(model, &mut memory.0, options)
                .map_err(|error| println!("prepare: {error}"))
        });
    match session {
        Ok(mut session) => field::live(&board, &mut session, buffers),
        Err(()) => process::exit(1),
    }
}

/// The machine: its files lie in QEMU's working directory.
struct Board(Calibration);

impl Board {
    fn us(&self, ticks: u64) -> u64 {
        // An instruction takes a nanosecond.
        self.0.instructions(ticks) / 1000
    }

    fn at(file: File, offset: u32, write: bool) -> fs::File {
        let opened = OpenOptions::new().read(true).write(write).open(file.name());
        match opened.and_then(|mut opened| {
            opened.seek(SeekFrom::Start(offset.into()))?;
            Ok(opened)
        }) {
            Ok(opened) => opened,
            Err(error) => {
                println!("{:?}: {error}", file.name());
                process::exit(1)
            }
        }
    }
}

impl Host for Board {
    fn read(&self, file: File, offset: u32, into: &mut [u8]) -> usize {
        let mut opened = Board::at(file, offset, false);
        let mut filled = 0;
        while let Ok(count @ 1..) = opened.read(&mut into[filled..]) {
            filled += count;
        }
        filled
    }

    fn write(&self, file: File, offset: u32, bytes: &[u8]) {
        if Board::at(file, offset, true).write_all(bytes).is_err() {
            println!("{:?}: can't be written", file.name());
            process::exit(1)
        }
    }

    fn say(&self, line: fmt::Arguments<'_>) {
        println!("{line}");
    }

    fn exit(&self, status: i32) -> ! {
        process::exit(status)
    }

    fn infer(
        &self,
        session: &mut Session<'_>,
        run: u32,
        stall_us: u32,
    ) -> Result<u32, SessionError> {
        let start = counter::ticks();
        session.run()?;
        let ready = counter::ticks();
        while self.us(counter::ticks() - ready) < stall_us.into() {}
        let latency_us = self.us(counter::ticks() - start) as u32;
        self.write(File::Latencies, 4 * run, &latency_us.to_le_bytes());
        Ok(latency_us)
    }

    fn ticks(&self) -> u64 {
        counter::ticks()
    }

    fn instructions(&self, ticks: u64) -> u64 {
        self.0.instructions(ticks)
    }

    fn stack(&self, work: &mut dyn FnMut()) -> u32 {
        stack::high_water(work)
    }
}
