//! Cuts what comes in over a serial port into commands.

use heapless::Vec;

/// What a terminator ended.
pub(super) enum Ended {
    /// A command, in the buffer until the next byte.
    Command,
    /// More bytes than a line has room for, or a line of which bytes were lost.
    Spoilt,
}

/// The line that is coming in. `%` ends a command, as the runner of MLPerf Tiny sends it; so does
/// the end of a line, unless the line is empty.
pub(super) struct Lines<const LINE: usize> {
    line: Vec<u8, LINE>,
    spoilt: bool,
    /// The line was given out and makes room for the next.
    done: bool,
}

impl<const LINE: usize> Lines<LINE> {
    pub(super) const fn new() -> Self {
        Lines { line: Vec::new(), spoilt: false, done: false }
    }

    pub(super) fn push(&mut self, byte: u8) -> Option<Ended> {
        if core::mem::replace(&mut self.done, false) {
            self.line.clear();
            self.spoilt = false;
        }
        match byte {
            b'\r' | b'\n' if self.line.is_empty() && !self.spoilt => None,
            b'%' | b'\r' | b'\n' => {
                self.done = true;
                Some(if self.spoilt { Ended::Spoilt } else { Ended::Command })
            }
            _ => {
                self.spoilt |= self.line.push(byte).is_err();
                None
            }
        }
    }

    /// Bytes of this line were lost.
    pub(super) fn spoil(&mut self) {
        self.spoilt = true;
        self.done = false;
    }

    pub(super) fn line(&self) -> &[u8] {
        &self.line
    }
}

/// The words of a command.
#[derive(Clone)]
pub struct Words<'l> {
    rest: &'l [u8],
}

impl<'l> Words<'l> {
    /// The words of this line.
    pub fn of(line: &'l [u8]) -> Self {
        Words { rest: line }
    }

    /// The next word as a decimal number.
    pub fn number(&mut self) -> Option<u32> {
        crate::text::parse_number(self.next()?)
    }

    /// The next word as a hexadecimal number.
    pub fn hex(&mut self) -> Option<u32> {
        crate::text::parse_hex(self.next()?)
    }
}

impl<'l> Iterator for Words<'l> {
    type Item = &'l [u8];

    fn next(&mut self) -> Option<&'l [u8]> {
        let start = self.rest.iter().position(|byte| *byte != b' ')?;
        let rest = self.rest.get(start..)?;
        let end = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
        let (word, rest) = rest.split_at_checked(end)?;
        self.rest = rest;
        Some(word)
    }
}
