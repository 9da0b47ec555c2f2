//! A serial line with both of its ends.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::rc::Rc;

use embedded_io::{ErrorType, Read, ReadReady, Write};

/// A serial port whose other end is the test.
#[derive(Clone, Debug, Default)]
pub struct FakeSerial {
    shared: Rc<RefCell<(VecDeque<u8>, Vec<u8>)>>,
}

impl FakeSerial {
    /// A port with nothing on the line.
    pub fn new() -> Self {
        FakeSerial::default()
    }

    /// The other end sends.
    pub fn send(&self, bytes: impl AsRef<[u8]>) {
        self.shared.borrow_mut().0.extend(bytes.as_ref());
    }

    /// What the device wrote since the last call; bytes that aren't UTF-8 are replaced.
    pub fn received(&self) -> String {
        let bytes = core::mem::take(&mut self.shared.borrow_mut().1);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Bytes sent that the device hasn't read.
    pub fn unread(&self) -> usize {
        self.shared.borrow().0.len()
    }
}

impl ErrorType for FakeSerial {
    type Error = Infallible;
}

impl Read for FakeSerial {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Infallible> {
        let input = &mut self.shared.borrow_mut().0;
        assert!(!input.is_empty(), "a read that would block");
        let count = input.len().min(bytes.len());
        for (to, from) in bytes.iter_mut().zip(input.drain(..count)) {
            *to = from;
        }
        Ok(count)
    }
}

impl ReadReady for FakeSerial {
    fn read_ready(&mut self) -> Result<bool, Infallible> {
        Ok(self.unread() > 0)
    }
}

impl Write for FakeSerial {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        self.shared.borrow_mut().1.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}
