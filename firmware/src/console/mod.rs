//! A device on a serial port: status, models, self-test, log, and commands of the application.

mod benchmark;
mod lines;
#[cfg(test)]
mod tests;

use embedded_io::{Read, ReadReady, Write};
use embedded_storage::nor_flash::NorFlash;
use heapless::Vec;
use whit::format::{VERSION_MAJOR, VERSION_MINOR};
use whit::{Options, Session};

pub use benchmark::{Benchmark, BenchmarkInput, BenchmarkResults};
pub use lines::Words;

use crate::text::{Text, hex_digit};
use crate::{
    Clock, Counters, Environment, Event, Journal, MapFlash, Record, SelfTest, SelfTestError,
    SlotError, SlotState, Slots, Upload, Watchdog, crc32,
};
use lines::{Ended, Lines};

/// Bytes taken from the port in one poll: a port that never runs dry can't hold the loop.
const POLL_BYTES: usize = 256;
/// Bytes of a chunk at most, whatever the line has room for.
const CHUNK_BYTES: usize = 256;

/// Commands beside the device's own: those of [`Benchmark`], or the application's.
pub trait Commands {
    /// Says something when the device starts.
    fn greet<P: Write>(&mut self, port: &mut P, clock: &mut impl Clock) {
        let _ = (port, clock);
    }

    /// A line for each command, for `help`.
    fn help<P: Write>(&mut self, port: &mut P) {
        let _ = port;
    }

    /// Carries out a command and answers, but for the `m-ready`; `false` if it isn't one of these.
    fn command<P: Write>(
        &mut self,
        words: Words<'_>,
        port: &mut P,
        session: Option<&mut Session<'_>>,
        clock: &mut impl Clock,
        watchdog: &mut impl Watchdog,
    ) -> bool;
}

/// No further commands.
impl Commands for () {
    fn command<P: Write>(
        &mut self,
        _: Words<'_>,
        _: &mut P,
        _: Option<&mut Session<'_>>,
        _: &mut impl Clock,
        _: &mut impl Watchdog,
    ) -> bool {
        false
    }
}

/// What the main loop has to do after a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Nothing.
    Continue,
    /// Call [`Device::boot`] again, or reset the microcontroller, which ends in the same.
    Restart,
}

/// A device: model slots, a serial port, time, counters, a log, and further commands.
///
/// A command is a line of words, ended by `%`, CR or LF. The answer is lines that begin with `m-`
/// (a message) or `e-` (an error), the last of them `m-ready`.
///
/// | command | answer |
/// |---|---|
/// | `help` | the commands |
/// | `version` | versions of this library and of the format |
/// | `status` | the model, its memory, counters and latencies |
/// | `slots` | each slot: state, version, sequence, length, CRC |
/// | `selftest` | replays the golden vectors; the states of a streaming model start anew |
/// | `update begin BYTES VERSION CRC` | erases a slot and expects a file; the CRC-32 in hex |
/// | `update put OFFSET HEX CRC` | takes a chunk, with its own CRC-32, and gives the next offset |
/// | `update end` | checks the file and puts it on trial; it runs after `restart` |
/// | `update abort` | drops the upload |
/// | `confirm` | makes a model on trial good |
/// | `rollback` | marks the running model bad and restarts |
/// | `restart` | starts again with the newest model that proves itself |
/// | `log` | the entries of the log, oldest first |
///
/// Nothing that comes in can stop the device: lines that are too long, or of which the port lost bytes, are
/// answered with an error and have no effect; a chunk with a wrong CRC or in the wrong place isn't
/// written; a chunk that is sent twice is written once.
///
/// `LINE` is the longest command: 66 for the benchmark, 160 for uploads in chunks of 64 bytes. Costs
/// `LINE` bytes of RAM and 80 beside its parts, with 32-bit pointers; a command has another `LINE`
/// bytes on the stack, a chunk being written 256 more.
pub struct Device<F, M, const N: usize, P, C, W, J, X, const LINE: usize> {
    /// The model slots.
    pub slots: Slots<F, M, N>,
    /// The serial port.
    pub port: P,
    /// Clock, watchdog, counters and log; for [`Pipeline::step`](crate::Pipeline::step).
    pub environment: Environment<C, W, (Counters, J)>,
    /// Further commands.
    pub commands: X,
    /// How sessions are prepared.
    pub options: Options,
    lines: Lines<LINE>,
    /// Bytes of the session's memory, for `status`.
    memory_bytes: usize,
}

impl<F, M, const N: usize, P, C, W, J, X, const LINE: usize> Device<F, M, N, P, C, W, J, X, LINE>
where
    F: NorFlash,
    M: MapFlash,
    P: Read + ReadReady + Write,
    C: Clock,
    W: Watchdog,
    J: Journal,
    X: Commands,
{
    /// A device of these parts; `()` for no log and for no further commands.
    pub fn new(
        slots: Slots<F, M, N>,
        port: P,
        clock: C,
        watchdog: W,
        journal: J,
        commands: X,
        options: Options,
    ) -> Self {
        let environment = Environment { clock, watchdog, record: (Counters::default(), journal) };
        Device { slots, port, environment, commands, options, lines: Lines::new(), memory_bytes: 0 }
    }

    /// Finds the model to run, see [`Slots::boot`], prepares a session for it in `memory`, and says so
    /// on the port. Without a model there is no session, and the port is there to upload one.
    pub fn boot<'m>(&mut self, memory: &'m mut [u8]) -> Option<Session<'m>> {
        let boot = self.slots.boot(memory, self.options, &mut self.environment.watchdog);
        for (slot, fault) in boot.faults.iter().enumerate() {
            if let (Some(fault), Ok(slot)) = (*fault, u8::try_from(slot)) {
                self.note(&Event::SlotFault { slot, fault });
            }
        }
        let options = self.options;
        let session = boot.model.and_then(|model| Session::in_memory(model, memory, options).ok());
        self.memory_bytes = session.as_ref().map_or(0, |session| session.needed_bytes());
        self.note(&match boot.running.filter(|_| session.is_some()) {
            Some(running) => Event::Started { slot: running.slot, version: running.version },
            None => Event::NoModel,
        });
        self.commands.greet(&mut self.port, &mut self.environment.clock);
        Text::new(&mut self.port).text("m-init-done").end();
        self.ready();
        // Nothing runs yet that could be late: what the start has to say goes to flash now.
        for _ in 0..=N {
            self.environment.watchdog.feed();
            self.environment.record.1.work(u32::MAX);
        }
        session
    }

    /// Takes what has come in over the port and carries out at most one command; without one lets the log
    /// write, if `slack_us` of the loop's time suffice. Without a session the log has all the time.
    ///
    /// Returns at once when nothing has come in. A command takes its own time: answers are written by
    /// waiting for the port, `selftest` and `infer` run inferences, `update` writes and erases.
    pub fn poll(&mut self, session: Option<&mut Session<'_>>, slack_us: u32) -> Action {
        let idle = session.is_none();
        for _ in 0..POLL_BYTES {
            match self.port.read_ready() {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => {
                    self.lines.spoil();
                    break;
                }
            }
            let mut byte = [0];
            match self.port.read(&mut byte) {
                Ok(1) => {}
                Ok(_) => break,
                Err(_) => {
                    // Overrun, noise: some of this line is missing.
                    self.lines.spoil();
                    continue;
                }
            }
            let [byte] = byte;
            match self.lines.push(byte) {
                None => {}
                Some(Ended::Spoilt) => {
                    self.error("Line is too long or damaged");
                    self.ready();
                    return Action::Continue;
                }
                Some(Ended::Command) => {
                    let action = self.command(session);
                    self.ready();
                    return action;
                }
            }
        }
        self.environment.record.1.work(if idle { u32::MAX } else { slack_us });
        Action::Continue
    }

    fn command(&mut self, session: Option<&mut Session<'_>>) -> Action {
        // A copy, so that commands can use the whole device.
        let mut line = Vec::<u8, LINE>::new();
        let _ = line.extend_from_slice(self.lines.line());
        let mut words = Words::of(&line);
        match words.next() {
            None => {}
            Some(b"help") => self.help(),
            Some(b"version") => {
                let mut text = Text::new(&mut self.port);
                text.text("m-version-[").text(env!("CARGO_PKG_VERSION")).text(",format=");
                text.number(VERSION_MAJOR.into()).text(".").number(VERSION_MINOR.into());
                text.text("]").end();
            }
            Some(b"status") => self.status(),
            Some(b"slots") => self.print_slots(),
            Some(b"selftest") => self.self_test(session),
            Some(b"update") => self.update(&mut words),
            Some(b"confirm") => {
                let result = self.slots.confirm();
                self.answer(result);
            }
            Some(b"rollback") => {
                let result = self.slots.roll_back();
                self.answer(result);
                if result.is_ok() {
                    self.note(&Event::RolledBack);
                    return Action::Restart;
                }
            }
            Some(b"restart") => return Action::Restart,
            Some(b"log") => {
                let (port, watchdog) = (&mut self.port, &mut self.environment.watchdog);
                self.environment.record.1.read(&mut |entry| {
                    watchdog.feed();
                    let mut text = Text::new(port);
                    text.text("m-log-[us=").number(entry.now_us.into()).text(",");
                    text.text(entry.kind.name()).text(",detail=").number(entry.detail.into());
                    text.text(",class=").number(entry.class.into());
                    text.text(",value=").signed(entry.value).text("]").end();
                });
            }
            Some(word) => {
                let Environment { clock, watchdog, .. } = &mut self.environment;
                let all = Words::of(&line);
                if !self.commands.command(all, &mut self.port, session, clock, watchdog) {
                    let mut text = Text::new(&mut self.port);
                    text.text("e-[Unknown command: ").printable(word).text("]").end();
                }
            }
        }
        Action::Continue
    }

    fn help(&mut self) {
        self.commands.help(&mut self.port);
        let lines = [
            "version: of firmware and format",
            "status: model, memory, counters",
            "slots: models in flash",
            "selftest: replay the golden vectors",
            "update begin BYTES VERSION CRC | put OFFSET HEX CRC | end | abort",
            "confirm: keep the model on trial",
            "rollback: back to the model before",
            "restart: start the newest model",
            "log: what happened",
        ];
        for line in lines {
            Text::new(&mut self.port).text(line).end();
        }
    }

    fn status(&mut self) {
        let running = self.slots.running();
        let progress = self.slots.progress();
        let mut text = Text::new(&mut self.port);
        text.text("m-status-[");
        match running {
            None => _ = text.text("no model"),
            Some(running) => {
                text.text("model=");
                match running.slot {
                    Some(slot) => _ = text.number(slot.into()),
                    None => _ = text.text("factory"),
                }
                text.text(",version=").number(running.version.into());
                text.text(",bytes=").number(running.bytes.into());
                text.text(",trial=").number(running.on_trial.into());
                text.text(",memory=").number(self.memory_bytes as u64);
            }
        }
        if let Some((taken, bytes)) = progress {
            text.text(",upload=").number(taken.into()).text("/").number(bytes.into());
        }
        text.text("]").end();
        let c = &self.environment.record.0;
        let counters: [(&str, u64); 11] = [
            ("inferences=", c.inferences.into()),
            (",missed=", c.missed.into()),
            (",failed=", c.failed.into()),
            (",skipped=", c.skipped.into()),
            (",fired=", c.fired.into()),
            (",sensor-errors=", c.sensor_errors.into()),
            (",sensor-timeouts=", c.sensor_timeouts.into()),
            (",last-us=", c.last_us.into()),
            (",min-us=", c.min_us.into()),
            (",max-us=", c.max_us.into()),
            (",sum-us=", c.sum_us),
        ];
        text.text("m-counters-[");
        for (name, count) in counters {
            text.text(name).number(count);
        }
        text.text("]").end();
    }

    fn print_slots(&mut self) {
        for slot in 0..N {
            let Ok(info) = self.slots.info(slot) else { continue };
            let mut text = Text::new(&mut self.port);
            text.text("m-slot-[").number(slot as u64).text(match info.state {
                SlotState::Empty => ",empty",
                SlotState::Damaged => ",damaged",
                SlotState::Pending => ",pending",
                SlotState::Trial(_) => ",trial",
                SlotState::Good => ",good",
                SlotState::Bad => ",bad",
            });
            if info.bytes > 0 {
                text.text(",version=").number(info.version.into());
                text.text(",sequence=").number(info.sequence.into());
                text.text(",bytes=").number(info.bytes.into()).text(",crc=").hex(info.crc32);
            }
            text.text("]").end();
        }
    }

    fn self_test(&mut self, session: Option<&mut Session<'_>>) {
        let Some(session) = session else { return self.error("No model") };
        let checked = session.model().verify_checksums().map_err(SelfTestError::File);
        let result =
            checked.and_then(|()| SelfTest::replay(session, &mut self.environment.watchdog));
        self.note(&Event::SelfTest(result.map(|_| ())));
        let mut text = Text::new(&mut self.port);
        match result {
            Ok(passed) => {
                text.text("m-selftest-[passed,cases=").number(passed.cases.into());
                text.text(",outputs=").number(passed.outputs.into());
            }
            Err(error) => {
                text.text("e-[Self-test: ");
                match error {
                    SelfTestError::File(_) => _ = text.text("the file is damaged"),
                    SelfTestError::Session(_) => _ = text.text("the model can't run"),
                    SelfTestError::NoVectors => _ = text.text("no golden vectors"),
                    SelfTestError::Differs { case, output } => {
                        text.text("output ").number(output.into());
                        text.text(" of vector ").number(case.into()).text(" differs");
                    }
                }
            }
        }
        text.text("]").end();
    }

    fn update(&mut self, words: &mut Words<'_>) {
        let wrong = "Usage: update begin BYTES VERSION CRC | put OFFSET HEX CRC | end | abort";
        match words.next() {
            Some(b"begin") => {
                let (bytes, version, crc) = (words.number(), words.number(), words.hex());
                let (Some(bytes), Some(version), Some(crc32), None) =
                    (bytes, version, crc, words.next())
                else {
                    return self.error(wrong);
                };
                match self.slots.begin(Upload { version, bytes, crc32 }) {
                    Ok(slot) => {
                        let mut text = Text::new(&mut self.port);
                        text.text("m-update-[slot=").number(slot as u64).text(",next=0]").end();
                    }
                    Err(error) => self.refuse(error),
                }
            }
            Some(b"put") => {
                let (offset, digits, crc) = (words.number(), words.next(), words.hex());
                let (Some(offset), Some(digits), Some(crc), None) =
                    (offset, digits, crc, words.next())
                else {
                    return self.error(wrong);
                };
                let mut chunk = Vec::<u8, CHUNK_BYTES>::new();
                let (pairs, rest) = digits.as_chunks::<2>();
                for [high, low] in pairs {
                    let (Some(high), Some(low)) = (hex_digit(*high), hex_digit(*low)) else {
                        return self.error("Not hexadecimal");
                    };
                    if chunk.push(high << 4 | low).is_err() {
                        return self.error("The chunk is too long");
                    }
                }
                if !rest.is_empty() {
                    return self.error("Not hexadecimal");
                }
                if crc32(&chunk) != crc {
                    return self.error("Wrong CRC of the chunk");
                }
                match self.slots.write(offset, &chunk) {
                    Ok(next) => {
                        let mut text = Text::new(&mut self.port);
                        text.text("m-update-[next=").number(next.into()).text("]").end();
                    }
                    Err(error) => self.refuse(error),
                }
            }
            Some(b"end") => {
                let result = self.slots.finish();
                if !matches!(result, Err(SlotError::Incomplete(_) | SlotError::NoUpload)) {
                    self.note(&Event::Upload(result));
                }
                self.answer(result);
            }
            Some(b"abort") => {
                self.slots.abort();
                self.answer(Ok(()));
            }
            _ => self.error(wrong),
        }
    }

    fn answer(&mut self, result: Result<(), SlotError>) {
        match result {
            Ok(()) => _ = Text::new(&mut self.port).text("m-done").end(),
            Err(error) => self.refuse(error),
        }
    }

    fn refuse(&mut self, error: SlotError) {
        let next = match error {
            SlotError::Order(next) | SlotError::Incomplete(next) => Some(next),
            _ => None,
        };
        let mut text = Text::new(&mut self.port);
        text.text("e-[").text(match error {
            SlotError::Geometry => "The slots don't fit the flash",
            SlotError::NoSlot => "No such slot",
            SlotError::Flash => "Flash failed",
            SlotError::Length => "The length doesn't fit a slot or a model",
            SlotError::Version => "The version may not replace the running one",
            SlotError::LastGood => "It would take away the last good model",
            SlotError::NoUpload => "No upload has begun",
            SlotError::Order(_) => "Not the next chunk; next=",
            SlotError::Incomplete(_) => "The file is incomplete; next=",
            SlotError::Crc => "Wrong CRC of the file",
            SlotError::File(_) => "The file is no valid model",
            SlotError::NoVectors => "The model has no golden vectors",
            SlotError::Unmapped => "The flash can't be read in place",
            SlotError::NoModel => "No model runs from a slot",
        });
        if let Some(next) = next {
            text.number(next.into());
        }
        text.text("]").end();
    }

    fn error(&mut self, what: &str) {
        Text::new(&mut self.port).text("e-[").text(what).text("]").end();
    }

    fn ready(&mut self) {
        Text::new(&mut self.port).text("m-ready").end();
        let _ = self.port.flush();
    }

    fn note(&mut self, event: &Event) {
        let now_us = self.environment.clock.now_us();
        self.environment.record.record(now_us, event);
    }
}
