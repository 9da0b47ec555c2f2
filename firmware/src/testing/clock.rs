//! A clock that a test moves.

use std::cell::Cell;
use std::rc::Rc;

use crate::Clock;

/// A clock that stands still until it is moved, or moves by a step at each reading.
#[derive(Clone, Debug, Default)]
pub struct FakeClock {
    now_us: Rc<Cell<u32>>,
    step_us: Rc<Cell<u32>>,
}

impl FakeClock {
    /// A clock at `now_us`.
    pub fn at(now_us: u32) -> Self {
        let clock = FakeClock::default();
        clock.now_us.set(now_us);
        clock
    }

    /// Lets time pass.
    pub fn advance(&self, us: u32) {
        self.now_us.set(self.now_us.get().wrapping_add(us));
    }

    /// Lets so much time pass after every reading.
    pub fn advance_each_reading(&self, us: u32) {
        self.step_us.set(us);
    }
}

impl Clock for FakeClock {
    fn now_us(&mut self) -> u32 {
        let now = self.now_us.get();
        self.advance(self.step_us.get());
        now
    }
}
