//! Start-up self-test: checksums, then the golden vectors that travel in the file.

use core::fmt;

use crate::{NoWatchdog, Watchdog};
use whit::format::{FormatError, GoldenRecord};
use whit::{DType, Model, Options, Session, SessionError};

// Roles of a golden record; `Model::open` refuses others than these and 1, an expected output.
const FEED: u32 = 0;
const DIMENSION: u32 = 2;

/// A self-test that passed, and what it compared.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SelfTest {
    /// Golden vectors replayed.
    pub cases: u32,
    /// Outputs compared.
    pub outputs: u32,
    /// Largest difference of a float output, relative to its largest expected magnitude; integer
    /// outputs are equal or the test fails.
    pub float_error: f32,
}

/// Why a self-test failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SelfTestError {
    /// The file's bytes have changed since it was written: flash wears out, updates get cut off.
    File(FormatError),
    /// The session could not be prepared or run in the memory given.
    Session(SessionError),
    /// The file has no golden vectors, so nothing was proved.
    NoVectors,
    /// An output differs from what it should be by more than its tolerance.
    Differs {
        /// Number of the golden vector.
        case: u32,
        /// Number of the output.
        output: u32,
    },
}

impl SelfTest {
    /// Compares the file with its checksums, then runs every golden vector and compares each
    /// output: integers must be equal, floats within the tolerance in the file.
    ///
    /// `memory` needs [`Session::memory_bytes`] bytes and is free again afterwards: give it the
    /// memory that the session of the application will have. Takes one pass over the file for the
    /// checksums and one inference per vector.
    ///
    /// # Errors
    /// The first thing that is wrong, see [`SelfTestError`].
    pub fn run(
        model: &Model<'_>,
        memory: &mut [u8],
        options: Options,
    ) -> Result<SelfTest, SelfTestError> {
        model.verify_checksums().map_err(SelfTestError::File)?;
        SelfTest::replay(&mut Session::in_memory(*model, memory, options)?, &mut NoWatchdog)
    }

    /// Runs every golden vector on a session that is already there, feeding the watchdog before each.
    ///
    /// The session's states are initial and its dimensions at their largest afterwards.
    ///
    /// # Errors
    /// As [`SelfTest::run`], but for the checksums.
    pub fn replay(
        session: &mut Session<'_>,
        watchdog: &mut impl Watchdog,
    ) -> Result<SelfTest, SelfTestError> {
        let model = *session.model();
        let mut passed = SelfTest::default();
        // The records of a vector are adjacent and in order: dimensions, inputs, outputs.
        let (mut case, mut has_run) = (None, false);
        for record in model.golden() {
            if case != Some(record.case) {
                (case, has_run) = (Some(record.case), false);
                passed.cases += 1;
                reset(session)?;
                watchdog.feed();
            }
            match record.role {
                DIMENSION => set_dimension(session, &record)?,
                FEED => {
                    session.set_input_bytes(record.index as usize, model.golden_bytes(&record))?
                }
                _ => {
                    if !has_run {
                        session.run()?;
                        has_run = true;
                    }
                    let error = compare(session, &record)?;
                    passed.outputs += 1;
                    passed.float_error = passed.float_error.max(error);
                }
            }
        }
        reset(session)?;
        if passed.outputs == 0 { Err(SelfTestError::NoVectors) } else { Ok(passed) }
    }
}

/// Back to the largest dimensions and the initial states: what a new session has.
fn reset(session: &mut Session<'_>) -> Result<(), SessionError> {
    let model = *session.model();
    for (index, symbol) in model.symbols().enumerate() {
        if session.dimension(index) != Some(symbol.max) {
            session.set_dimension(model.text(symbol.name), symbol.max)?;
        }
    }
    session.reset_state();
    Ok(())
}

fn set_dimension(session: &mut Session<'_>, record: &GoldenRecord) -> Result<(), SessionError> {
    let model = *session.model();
    let symbol = model.symbols().nth(record.index as usize).ok_or(SessionError::Unknown)?;
    // A record too short for a u32 gives 0, which no dimension takes.
    let value =
        model.golden_bytes(record).first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    session.set_dimension(model.text(symbol.name), value)
}

/// `max |given - expected| / max |expected|` of a float output, 0 of an integer one.
fn compare(session: &Session<'_>, record: &GoldenRecord) -> Result<f32, SelfTestError> {
    let index = record.index as usize;
    let (given, expected) = (session.output_bytes(index)?, session.model().golden_bytes(record));
    let mut error = if given == expected { 0.0f32 } else { f32::INFINITY };
    if given.len() == expected.len() && session.output_slot(index)?.dtype() == DType::F32 {
        error = 0.0;
        let reals =
            |bytes| <[u8]>::as_chunks(bytes).0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        let magnitude = reals(expected).fold(f32::MIN_POSITIVE, |max, b| max.max(b.abs()));
        for (a, b) in reals(given).zip(reals(expected)) {
            let same = a == b || (a.is_nan() && b.is_nan());
            let difference = if same { 0.0 } else { (a - b).abs() / magnitude };
            error = error.max(if difference.is_nan() { f32::INFINITY } else { difference });
        }
    }
    if error <= record.tolerance {
        Ok(error)
    } else {
        Err(SelfTestError::Differs { case: record.case, output: record.index })
    }
}

impl From<SessionError> for SelfTestError {
    fn from(error: SessionError) -> SelfTestError {
        SelfTestError::Session(error)
    }
}

impl fmt::Display for SelfTestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            SelfTestError::File(error) => write!(f, "the file is damaged: {error}"),
            SelfTestError::Session(error) => error.fmt(f),
            SelfTestError::NoVectors => f.write_str("the file has no golden vectors"),
            SelfTestError::Differs { case, output } => {
                write!(f, "output {output} of golden vector {case} is not what it should be")
            }
        }
    }
}

impl core::error::Error for SelfTestError {}

#[cfg(test)]
mod tests {
    use whit_convert::emit::Golden;

    use super::*;
    use crate::fixtures::classifier;
    use whit_convert::evaluate::AlignedBytes;

    #[test]
    fn a_device_proves_what_the_laptop_computed_or_says_what_is_wrong() {
        type Edit = fn(&mut Vec<Golden>);
        let differs = Err(SelfTestError::Differs { case: 1, output: 0 });
        let cases: [(Edit, _); 3] = [
            (|_| (), Ok(2)),
            (|golden| golden[1].outputs[0].0[2] ^= 1, differs),
            (|golden| golden.clear(), Err(SelfTestError::NoVectors)),
        ];
        for (number, (edit, expected)) in cases.into_iter().enumerate() {
            let file = AlignedBytes::new(&classifier(0, edit));
            let model = Model::open(file.as_slice()).unwrap();
            let needed = Session::memory_bytes(&model, &Options::default()).unwrap();
            let result = SelfTest::run(&model, &mut vec![0; needed], Options::default());
            assert_eq!(result.map(|passed| passed.cases), expected, "case {number}");
        }
    }
}
