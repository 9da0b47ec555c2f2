//! What the library asks of a board besides flash, serial port and sensor: time, and a watchdog to feed.

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

/// A watchdog that resets the device unless it is fed.
///
/// Fed once a [`Pipeline::step`](crate::Pipeline::step), before each self-test and each
/// inference of a benchmark: its period must be longer than the slowest inference and the slowest
/// erase of a block. [`NoWatchdog`] is none.
pub trait Watchdog {
    /// Starts the watchdog's period anew.
    fn feed(&mut self);
}

impl<F: FnMut()> Watchdog for F {
    fn feed(&mut self) {
        self();
    }
}

/// No watchdog.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoWatchdog;

impl Watchdog for NoWatchdog {
    fn feed(&mut self) {}
}
