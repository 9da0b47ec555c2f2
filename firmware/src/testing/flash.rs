//! NOR flash in memory that obeys the rules of the real one and can lose power in the middle.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash, check_erase, check_read,
    check_write,
};

use crate::MapFlash;

/// How much of an operation happens before power fails in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing: power fails just before.
    Before,
    /// The first half of the bytes.
    FirstHalf,
    /// The second half of the bytes, as flash that works on several words at once may.
    SecondHalf,
    /// Each bit or not, by chance.
    Scattered,
    /// Everything, but nothing after it.
    After,
}

impl Cut {
    /// Every kind.
    pub const ALL: [Cut; 5] =
        [Cut::Before, Cut::FirstHalf, Cut::SecondHalf, Cut::Scattered, Cut::After];
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FakeFlashError {
    /// Offset or length is no multiple of a block or word, or lies outside.
    Geometry(NorFlashErrorKind),
    /// A word was written that isn't erased: flash with error correction can't do that.
    NotErased,
    /// There is no power, until [`FakeFlash::power_up`].
    NoPower,
    /// The test asked for it.
    Broken,
}

impl NorFlashError for FakeFlashError {
    fn kind(&self) -> NorFlashErrorKind {
        match self {
            FakeFlashError::Geometry(kind) => *kind,
            _ => NorFlashErrorKind::Other,
        }
    }
}

struct Chip {
    bytes: Vec<u8>,
    erases: Vec<u32>,
    operations: u32,
    cut: Option<(u32, Cut)>,
    power: bool,
    broken: Option<core::ops::Range<u32>>,
    random: u64,
    mapped: HashMap<Vec<u8>, &'static [u8]>,
}

/// A flash chip with words of `WRITE` bytes and blocks of `ERASE` bytes; a clone is the same chip.
#[derive(Clone)]
pub struct FakeFlash<const WRITE: usize, const ERASE: usize> {
    chip: Rc<RefCell<Chip>>,
}

impl<const WRITE: usize, const ERASE: usize> FakeFlash<WRITE, ERASE> {
    /// An erased chip.
    pub fn new(bytes: usize) -> Self {
        assert!(bytes.is_multiple_of(ERASE) && ERASE.is_multiple_of(WRITE));
        let chip = Chip {
            bytes: vec![0xff; bytes],
            erases: vec![0; bytes / ERASE],
            operations: 0,
            cut: None,
            power: true,
            broken: None,
            random: 0x9e37_79b9_7f4a_7c15,
            mapped: HashMap::new(),
        };
        FakeFlash { chip: Rc::new(RefCell::new(chip)) }
    }

    /// Another chip with the same bytes and wear.
    pub fn duplicate(&self) -> Self {
        let copy = FakeFlash::<WRITE, ERASE>::new(self.capacity());
        {
            let (from, mut to) = (self.chip.borrow(), copy.chip.borrow_mut());
            to.bytes.clone_from(&from.bytes);
            to.erases.clone_from(&from.erases);
            to.mapped.clone_from(&from.mapped);
        }
        copy
    }

    /// Power fails in the write or erase after the next `operations`, to this extent.
    pub fn cut_after(&self, operations: u32, cut: Cut) {
        let mut chip = self.chip.borrow_mut();
        chip.cut = Some((chip.operations + operations, cut));
        chip.random ^= u64::from(operations) << 32;
    }

    /// Power is back, and no cut is planned.
    pub fn power_up(&self) {
        let mut chip = self.chip.borrow_mut();
        chip.power = true;
        chip.cut = None;
    }

    /// Whether there is power.
    pub fn has_power(&self) -> bool {
        self.chip.borrow().power
    }

    /// Writes and erases so far.
    pub fn operations(&self) -> u32 {
        self.chip.borrow().operations
    }

    /// How often each block was erased.
    pub fn erases(&self) -> Vec<u32> {
        self.chip.borrow().erases.clone()
    }

    /// Reading, writing and erasing in this range fails from now on.
    pub fn break_range(&self, range: Option<core::ops::Range<u32>>) {
        self.chip.borrow_mut().broken = range;
    }

    /// Bytes change by themselves.
    pub fn corrupt(&self, offset: u32, change: impl FnOnce(&mut [u8])) {
        change(&mut self.chip.borrow_mut().bytes[offset as usize..]);
    }

    /// A copy of the bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.chip.borrow().bytes.clone()
    }
}

impl Chip {
    fn check_broken(&self, from: u32, to: u32) -> Result<(), FakeFlashError> {
        match &self.broken {
            Some(broken) if from < broken.end && broken.start < to => Err(FakeFlashError::Broken),
            _ => Ok(()),
        }
    }

    /// Sets a range to `wanted`, as far as power lasts.
    fn operate(&mut self, offset: u32, wanted: &[u8]) -> Result<(), FakeFlashError> {
        let now = self.operations;
        self.operations += 1;
        let half = wanted.len() / 2;
        let cut = self.cut.filter(|(at, _)| *at == now).map(|(_, cut)| cut);
        for (index, wanted) in wanted.iter().enumerate() {
            self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(99991);
            let byte = &mut self.bytes[offset as usize + index];
            let chance = (self.random >> 56) as u8;
            *byte = match cut {
                None | Some(Cut::After) => *wanted,
                Some(Cut::FirstHalf) if index < half => *wanted,
                Some(Cut::SecondHalf) if index >= half => *wanted,
                Some(Cut::Scattered) => (*byte & chance) | (*wanted & !chance),
                Some(_) => *byte,
            };
        }
        if cut.is_some() {
            self.power = false;
            return Err(FakeFlashError::NoPower);
        }
        Ok(())
    }
}

impl<const WRITE: usize, const ERASE: usize> ErrorType for FakeFlash<WRITE, ERASE> {
    type Error = FakeFlashError;
}

impl<const WRITE: usize, const ERASE: usize> ReadNorFlash for FakeFlash<WRITE, ERASE> {
    const READ_SIZE: usize = if WRITE < 4 { WRITE } else { 4 };

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), FakeFlashError> {
        check_read(self, offset, bytes.len()).map_err(FakeFlashError::Geometry)?;
        let chip = self.chip.borrow();
        if !chip.power {
            return Err(FakeFlashError::NoPower);
        }
        chip.check_broken(offset, offset + bytes.len() as u32)?;
        bytes.copy_from_slice(&chip.bytes[offset as usize..][..bytes.len()]);
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.chip.borrow().bytes.len()
    }
}

impl<const WRITE: usize, const ERASE: usize> NorFlash for FakeFlash<WRITE, ERASE> {
    const WRITE_SIZE: usize = WRITE;
    const ERASE_SIZE: usize = ERASE;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), FakeFlashError> {
        check_erase(self, from, to).map_err(FakeFlashError::Geometry)?;
        let mut chip = self.chip.borrow_mut();
        for block in from as usize / ERASE..to as usize / ERASE {
            if !chip.power {
                return Err(FakeFlashError::NoPower);
            }
            let start = (block * ERASE) as u32;
            chip.check_broken(start, start + ERASE as u32)?;
            chip.erases[block] += 1;
            chip.operate(start, &[0xff; ERASE])?;
        }
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), FakeFlashError> {
        check_write(self, offset, bytes.len()).map_err(FakeFlashError::Geometry)?;
        let mut chip = self.chip.borrow_mut();
        if !chip.power {
            return Err(FakeFlashError::NoPower);
        }
        chip.check_broken(offset, offset + bytes.len() as u32)?;
        if chip.bytes[offset as usize..][..bytes.len()].iter().any(|byte| *byte != 0xff) {
            return Err(FakeFlashError::NotErased);
        }
        chip.operate(offset, bytes)
    }
}

/// A copy as the chip is now, leaked, at a multiple of 64; equal contents are leaked once.
impl<const WRITE: usize, const ERASE: usize> MapFlash for FakeFlash<WRITE, ERASE> {
    fn map(&mut self, offset: u32, bytes: u32) -> Option<&'static [u8]> {
        let mut chip = self.chip.borrow_mut();
        let content = chip.bytes.get(offset as usize..)?.get(..bytes as usize)?.to_vec();
        if let Some(known) = chip.mapped.get(&content) {
            return Some(*known);
        }
        let mut space = vec![0; content.len() + 64];
        let skip = space.as_ptr().align_offset(64);
        space[skip..][..content.len()].copy_from_slice(&content);
        let mapped = &Vec::leak(space)[skip..][..content.len()];
        chip.mapped.insert(content, mapped);
        Some(mapped)
    }
}
