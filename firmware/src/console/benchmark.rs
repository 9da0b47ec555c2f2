//! The commands of MLPerf Tiny's performance and accuracy modes, as EEMBC's runner sends them.
//!
//! After mlcommons/tiny, `benchmark/api/internally_implemented.cpp` and the runner's
//! `device_under_test.py`: the `m-` lines that the runner reads are the same to the letter. Energy mode
//! (timestamps on a pin) and the streaming commands of the wake-word test (`start`, `stop`) are not
//! here.

use embedded_io::Write;
use whit::format::cast;
use whit::{Session, SessionError};

use super::{Commands, Words};
use crate::decide::{mean_squared_error, reals};
use crate::text::{Text, hex_digit, parse_number};
use crate::{Clock, Watchdog};

/// What the bytes that `db` loads are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BenchmarkInput {
    /// Elements of the input's own type (kws01, sww01).
    Raw,
    /// Unsigned bytes for an i8 input of the same width: 128 is taken off (vww01, ic01).
    Unsigned,
    /// Little-endian f32, quantized with the input's scale (ad01). The buffer must lie at a multiple of
    /// 4.
    Float,
}

/// What `results` gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BenchmarkResults {
    /// The elements of output 0 as real numbers.
    Output,
    /// The mean squared error between the f32 input in the buffer and output 0 (ad01).
    Error,
}

/// The benchmark's commands for one model.
pub struct Benchmark<'b> {
    /// `kws01`, `vww01`, `ic01`, `ad01`.
    pub model: &'static str,
    /// Whose device this is.
    pub vendor: &'static str,
    /// What the input's bytes are.
    pub input: BenchmarkInput,
    /// What the results are.
    pub results: BenchmarkResults,
    buffer: &'b mut [u8],
    /// Bytes that `db load` announced, and how many have come.
    size: usize,
    loaded: usize,
}

const FIRMWARE: &str = "ULPMark for tinyML Firmware V0.0.1";
/// Bytes a line of `db print`.
const PRINT_BYTES: usize = 8;

impl<'b> Benchmark<'b> {
    /// With a buffer for the input's bytes.
    pub fn new(
        model: &'static str,
        vendor: &'static str,
        input: BenchmarkInput,
        results: BenchmarkResults,
        buffer: &'b mut [u8],
    ) -> Self {
        Benchmark { model, vendor, input, results, buffer, size: 0, loaded: 0 }
    }

    fn db<P: Write>(&mut self, words: &mut Words<'_>, text: &mut Text<'_, P>) {
        match words.next() {
            None => _ = text.text("e-[Command 'db' requires a subcommand]"),
            Some(b"load") => match words.next().map(parse_number) {
                None => _ = text.text("e-[Command 'db load' requires the # of bytes]"),
                Some(None | Some(0)) => _ = text.text("e-[Command 'db load' must be >0 bytes]"),
                Some(Some(size)) => {
                    (self.size, self.loaded) = (0, 0);
                    if size as usize > self.buffer.len() {
                        text.text("e-[Supplied buffer size ").number(u64::from(size));
                        text.text(" exceeds maximum of ").number(self.buffer.len() as u64);
                    } else {
                        self.size = size as usize;
                        text.text("m-[Expecting ").number(u64::from(size)).text(" bytes");
                    }
                    text.text("]");
                }
            },
            Some(b"print") => return self.print(words, text),
            Some(digits) => {
                let (pairs, rest) = digits.as_chunks::<2>();
                let wrong = pairs.iter().find(|pair| hex_byte(pair).is_none());
                if !rest.is_empty() {
                    text.text("e-[Insufficent number of hex digits]");
                } else if let Some(pair) = wrong {
                    text.text("e-[Invalid hex digit '").printable(pair).text("']");
                } else if self.loaded == self.size {
                    text.text("e-[Command 'db load' must come first]");
                } else {
                    let room = self.buffer.get_mut(self.loaded..self.size).unwrap_or_default();
                    for (to, pair) in room.iter_mut().zip(pairs) {
                        *to = hex_byte(pair).unwrap_or(0);
                        self.loaded += 1;
                    }
                    if self.loaded < self.size {
                        return;
                    }
                    text.text("m-load-done");
                }
            }
        }
        text.end();
    }

    /// `db print [N] [offset]`: all that was announced unless told.
    fn print<P: Write>(&self, words: &mut Words<'_>, text: &mut Text<'_, P>) {
        let count = words.number().map_or(self.size, |count| count as usize);
        let offset = words.number().map_or(0, |offset| offset as usize);
        let bytes = self.buffer.get(..self.size).and_then(|bytes| bytes.get(offset..));
        let bytes = bytes.unwrap_or_default();
        let bytes = bytes.get(..count).unwrap_or(bytes);
        for row in bytes.chunks(PRINT_BYTES) {
            text.text("m-buffer-");
            for (index, byte) in row.iter().enumerate() {
                if index > 0 {
                    text.text("-");
                }
                text.hex_byte(*byte);
            }
            text.end();
        }
        if !bytes.len().is_multiple_of(PRINT_BYTES) {
            text.end();
        }
    }

    fn load(&self, session: &mut Session<'_>) -> Result<(), SessionError> {
        let bytes = self.buffer.get(..self.loaded).unwrap_or_default();
        let slot = session.input_slot(0)?;
        let wrong = SessionError::InputType { input: 0, expected: slot.dtype() };
        match self.input {
            BenchmarkInput::Raw => session.set_input_bytes(0, bytes),
            BenchmarkInput::Unsigned => {
                session.set_input_bytes(0, bytes)?;
                for to in session.input_mut::<i8>(0)? {
                    // Taking 128 off is flipping the highest bit.
                    *to ^= i8::MIN;
                }
                Ok(())
            }
            BenchmarkInput::Float => session.set_input_f32(0, cast::<f32>(bytes).ok_or(wrong)?),
        }
    }

    /// Times are of the inferences alone. Its input shares memory with later steps: a model
    /// runs on what is there, and once more from the start for its results.
    fn infer<P: Write>(
        &mut self,
        (count, warm_up): (u32, u32),
        session: &mut Session<'_>,
        port: &mut P,
        clock: &mut impl Clock,
        watchdog: &mut impl Watchdog,
    ) -> Result<(), SessionError> {
        // Indices must be those that were loaded; copying them costs next to nothing.
        let reload = self.input == BenchmarkInput::Raw;
        session.reset_state();
        self.load(session)?;
        let mut run = |count: u32, session: &mut Session<'_>| {
            for _ in 0..count {
                if reload {
                    self.load(session)?;
                }
                watchdog.feed();
                session.run()?;
            }
            Ok(())
        };
        Text::new(port).text("m-warmup-start-").number(u64::from(warm_up)).end();
        run(warm_up, session)?;
        Text::new(port)
            .text("m-warmup-done")
            .end()
            .text("m-infer-start-")
            .number(count.into())
            .end();
        timestamp(port, clock);
        run(count, session)?;
        timestamp(port, clock);
        Text::new(port).text("m-infer-done").end();
        session.reset_state();
        self.load(session)?;
        session.run()?;
        self.print_results(session, port)
    }

    fn print_results<P: Write>(
        &self,
        session: &Session<'_>,
        port: &mut P,
    ) -> Result<(), SessionError> {
        let slot = session.output_slot(0)?;
        let output = reals(session.output_bytes(0)?, slot.dtype(), slot.scale(), slot.zero_point());
        let mut text = Text::new(port);
        match self.results {
            BenchmarkResults::Output => {
                text.text("m-results-[");
                for (index, value) in output.enumerate() {
                    if index > 0 {
                        text.text(",");
                    }
                    text.milli(value);
                }
            }
            BenchmarkResults::Error => {
                let bytes = self.buffer.get(..self.loaded).unwrap_or_default();
                let input = reals(bytes, whit::DType::F32, 0.0, 0);
                let error = mean_squared_error(input, output).ok_or(SessionError::Unknown)?;
                text.text("m-results-[").milli(error);
            }
        }
        text.text("]").end();
        Ok(())
    }
}

fn hex_byte(pair: &[u8; 2]) -> Option<u8> {
    Some(hex_digit(pair[0])? << 4 | hex_digit(pair[1])?)
}

fn timestamp(port: &mut impl Write, clock: &mut impl Clock) {
    let now_us = clock.now_us();
    Text::new(port).text("m-lap-us-").number(u64::from(now_us)).end();
}

impl Commands for Benchmark<'_> {
    fn greet<P: Write>(&mut self, port: &mut P, clock: &mut impl Clock) {
        Text::new(port).text("m-timestamp-mode-performance").end();
        timestamp(port, clock);
    }

    fn help<P: Write>(&mut self, port: &mut P) {
        let lines = [
            FIRMWARE,
            "",
            "name: vendor of the device",
            "profile: profile and model of the benchmark",
            "timestamp: the clock in microseconds",
            "db load N: expect N bytes of input",
            "db HH...: the next bytes in hex",
            "db print [N] [OFFSET]: the bytes of the input",
            "infer N [W=10]: N inferences after W to warm up",
            "results: the outputs as real numbers",
        ];
        for line in lines {
            Text::new(port).text(line).end();
        }
    }

    fn command<P: Write>(
        &mut self,
        mut words: Words<'_>,
        port: &mut P,
        session: Option<&mut Session<'_>>,
        clock: &mut impl Clock,
        watchdog: &mut impl Watchdog,
    ) -> bool {
        let no_model = "e-[No model]";
        let mut text = Text::new(port);
        match words.next() {
            Some(b"name") => {
                text.text("m-name-dut-[").text(self.vendor).text("]").end();
            }
            Some(b"profile") => {
                text.text("m-profile-[").text(FIRMWARE).text("]").end();
                text.text("m-model-[").text(self.model).text("]").end();
            }
            Some(b"timestamp") => timestamp(port, clock),
            Some(b"db") => self.db(&mut words, &mut text),
            Some(b"infer") => {
                let count = words.next().map_or(Some(1), parse_number);
                let warm_up = words.next().map_or(Some(10), parse_number);
                match (count, warm_up, session) {
                    (None | Some(0), ..) => {
                        text.text("e-[Inference iterations must be >0]").end();
                    }
                    (_, None, _) => _ = text.text("e-[Inference warmup must be >=0]").end(),
                    (.., None) => _ = text.text(no_model).end(),
                    (Some(count), Some(warm_up), Some(session)) => {
                        let counts = (count, warm_up);
                        if self.infer(counts, session, port, clock, watchdog).is_err() {
                            Text::new(port).text("e-[The input doesn't fit the model]").end();
                        }
                    }
                }
            }
            Some(b"results") => match session {
                None => _ = text.text(no_model).end(),
                Some(session) => {
                    if self.print_results(session, port).is_err() {
                        Text::new(port).text("e-[The input doesn't fit the model]").end();
                    }
                }
            },
            _ => return false,
        }
        true
    }
}
