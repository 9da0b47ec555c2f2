//! The laptop's side of `firmware/monitor.py`: a model, its monitor and the log live through a prepared stream, as a device does.
//!
//!     whit-board-laptop MODEL.whit
//!
//! Files are those of the working directory; `qemu/src/field` says what they are. How long runs took is what the
//! device measured, where its file has that.

use std::ffi::CStr;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::process::ExitCode;

use whit::{Model, Options, Session, SessionError};

#[path = "../../qemu/src/field/mod.rs"]
mod field;

use field::{Buffers, File, Host};

/// Of runs that no device has measured.
const LATENCY_US: u32 = 3600;

struct Laptop;

/// A file at a place in it.
fn at(file: File, offset: u32, write: bool) -> std::io::Result<std::fs::File> {
    let name: &CStr = file.name();
    let name = name.to_str().expect("an ASCII name");
    let mut opened = OpenOptions::new().read(true).write(write).open(name)?;
    opened.seek(SeekFrom::Start(offset.into()))?;
    Ok(opened)
}

impl Host for Laptop {
    fn read(&self, file: File, offset: u32, into: &mut [u8]) -> usize {
        let mut bytes = Vec::new();
        let read = at(file, offset, false)
            .and_then(|opened| opened.take(into.len() as u64).read_to_end(&mut bytes));
        if let Err(error) = read {
            self.say(format_args!("{:?}: {error}", file.name()));
            self.exit(1)
        }
        into[..bytes.len()].copy_from_slice(&bytes);
        bytes.len()
    }

    fn write(&self, file: File, offset: u32, bytes: &[u8]) {
        if let Err(error) = at(file, offset, true).and_then(|mut opened| opened.write_all(bytes)) {
            self.say(format_args!("{:?}: {error}", file.name()));
            self.exit(1)
        }
    }

    fn say(&self, line: fmt::Arguments<'_>) {
        println!("{line}");
    }

    fn exit(&self, status: i32) -> ! {
        std::process::exit(status)
    }

    fn infer(&self, session: &mut Session<'_>, run: u32, _: u32) -> Result<u32, SessionError> {
        session.run()?;
        let mut bytes = [0; 4];
        let known = self.read(File::Latencies, 4 * run, &mut bytes) == bytes.len();
        Ok(if known { u32::from_le_bytes(bytes) } else { LATENCY_US })
    }

    fn ticks(&self) -> u64 {
        0
    }

    fn instructions(&self, _: u64) -> u64 {
        0
    }

    fn stack(&self, work: &mut dyn FnMut()) -> u32 {
        work();
        0
    }
}

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: whit-board-laptop MODEL.whit, in the folder with the stream's files");
        return ExitCode::from(2);
    };
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) => {
            eprintln!("{}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    };
    // A model wants to lie at a multiple of 64.
    let mut space = vec![0; bytes.len() + 64];
    let ahead = space.as_ptr().align_offset(64);
    let place = &mut space[ahead..ahead + bytes.len()];
    place.copy_from_slice(&bytes);
    let opened = Model::open(place);
    let session = opened.map_err(|error| eprintln!("open: {error}")).and_then(|model| {
        let options = Options::default();
        let bytes = Session::memory_bytes(&model, &options)
            .map_err(|error| eprintln!("prepare: {error}"))?;
        let memory = vec![0; bytes + 64].leak();
        Session::in_memory(model, memory, options).map_err(|error| eprintln!("prepare: {error}"))
    });
    match session {
        Ok(mut session) => field::live(&Laptop, &mut session, &mut { Buffers::EMPTY }),
        Err(()) => ExitCode::FAILURE,
    }
}
