//! A monitor beside a session.

use super::monitor::Monitor;
use crate::{Session, SessionError};

impl Monitor<'_> {
    /// Looks at the inputs, runs the session and looks at the outputs; gives the run's number, by which its label finds it.
    /// `now_us` is a clock modulo 2³² µs; the latency is that of the run alone.
    ///
    /// # Errors
    /// What the session says; the run is counted as an error.
    pub fn run(
        &mut self,
        session: &mut Session<'_>,
        now_us: &mut dyn FnMut() -> u32,
    ) -> Result<u32, SessionError> {
        self.before(session)?;
        let begin = now_us();
        let result = session.run();
        let latency_us = now_us().wrapping_sub(begin);
        match result {
            Ok(()) => self.after(session, latency_us),
            Err(error) => {
                self.failed();
                Err(error)
            }
        }
    }

    /// Looks at the inputs, which a run may overwrite: for loops that run a session themselves.
    ///
    /// # Errors
    /// When the session is another model's.
    pub fn before(&mut self, session: &Session<'_>) -> Result<(), SessionError> {
        for index in 0..session.model().inputs().len() {
            let slot = session.input_slot(index)?;
            self.input(index, slot.dtype(), session.input_bytes(index)?);
        }
        Ok(())
    }

    /// Looks at the outputs after a run that ended well; gives the run's number. A run that failed is told with
    /// [`Monitor::failed`].
    ///
    /// # Errors
    /// When the session is another model's.
    pub fn after(&mut self, session: &Session<'_>, latency_us: u32) -> Result<u32, SessionError> {
        let inputs = session.model().inputs().len();
        for index in 0..session.model().outputs().len() {
            let slot = session.output_slot(index)?;
            self.output(inputs, index, slot.dtype(), session.output_bytes(index)?);
        }
        Ok(self.ran(latency_us, session.output_bytes(0)?))
    }
}
