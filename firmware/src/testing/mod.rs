//! Doubles of a board's parts, for tests on the host: nothing of this is for a device.
//!
//! [`FakeFlash`] behaves as NOR flash does and loses power where it is told to, [`FakeSerial`] has
//! both ends of a line, [`FakeSensor`] plays a script of samples, silence and errors, [`FakeClock`]
//! moves only when told. All are handles: a clone is the same part.
//!
//! Allocates, and panics when a test uses it wrongly.

mod clock;
mod flash;
mod sensor;
mod serial;

pub use clock::FakeClock;
pub use flash::{Cut, FakeFlash, FakeFlashError};
pub use sensor::{FakeSensor, Scripted};
pub use serial::FakeSerial;
