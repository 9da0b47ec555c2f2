//! Runs a session against a deadline and shows on a pin whether it was met.

use core::convert::Infallible;

use embedded_hal::digital::OutputPin;
use whit::{Session, SessionError};

/// A clock that counts microseconds and may wrap around: a hardware timer as it is, or a closure
/// that reads one.
pub trait Clock {
    /// Microseconds since some moment, modulo 2³².
    fn now_us(&mut self) -> u32;
}

impl<F: FnMut() -> u32> Clock for F {
    fn now_us(&mut self) -> u32 {
        self()
    }
}

/// How long one inference took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From the call to the outputs, modulo 2³² µs (71 minutes).
    pub latency_us: u32,
    /// Whether that is more than the deadline.
    pub missed: bool,
}

/// A session with a clock, a deadline and a status pin.
///
/// After each inference the pin is high when its outputs came too late or not at all, and low when
/// they came in time. It must be a pin whose setting can't fail, as a microcontroller's own can't.
/// Costs two clock readings and one pin write an inference.
pub struct Runner<'m, C, P> {
    session: Session<'m>,
    clock: C,
    pin: P,
    deadline_us: u32,
}

impl<'m, C: Clock, P: OutputPin<Error = Infallible>> Runner<'m, C, P> {
    /// Takes over a session and sets the pin low.
    pub fn new(session: Session<'m>, clock: C, mut pin: P, deadline_us: u32) -> Self {
        let Ok(()) = pin.set_low();
        Runner { session, clock, pin, deadline_us }
    }

    /// Runs the session on the inputs that it holds.
    ///
    /// # Errors
    /// As [`Session::run`]: only for what depends on the data.
    pub fn run(&mut self) -> Result<Timing, SessionError> {
        let start = self.clock.now_us();
        let result = self.session.run();
        let latency_us = self.clock.now_us().wrapping_sub(start);
        let missed = latency_us > self.deadline_us;
        let Ok(()) = self.pin.set_state((missed || result.is_err()).into());
        result.map(|()| Timing { latency_us, missed })
    }

    /// The session, to fill its inputs and read its outputs.
    pub fn session(&mut self) -> &mut Session<'m> {
        &mut self.session
    }
}

#[cfg(test)]
mod tests {
    use embedded_hal::digital::ErrorType;
    use whit::{Model, Options};

    use super::*;
    use crate::testing::digits;

    struct Pin(bool);

    impl ErrorType for Pin {
        type Error = Infallible;
    }

    impl OutputPin for Pin {
        fn set_low(&mut self) -> Result<(), Infallible> {
            self.0 = false;
            Ok(())
        }

        fn set_high(&mut self) -> Result<(), Infallible> {
            self.0 = true;
            Ok(())
        }
    }

    #[test]
    fn the_pin_is_high_after_a_late_inference_and_low_after_one_in_time() {
        let file = digits(|_| ());
        let model = Model::open(file.as_slice()).unwrap();
        let session = Session::new(model, Options::default()).unwrap();
        // Exactly the deadline, one more, and across the timer's wrap-around.
        let mut times = [0, 500, 1000, 1501, u32::MAX - 9, 90].into_iter();
        let clock = || times.next().expect("two readings a run");
        let mut runner = Runner::new(session, clock, Pin(true), 500);
        assert!(!runner.pin.0);
        for (latency_us, missed) in [(500, false), (501, true), (100, false)] {
            assert_eq!(runner.run(), Ok(Timing { latency_us, missed }));
            assert_eq!(runner.pin.0, missed);
        }
        assert!(runner.session().output::<f32>(0).is_ok());
    }
}
