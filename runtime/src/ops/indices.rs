//! Reads indices out of tensors: i32 or i64, below 0 counted from the end, never trusted.

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::memory::{Slot, typed};

/// The elements of a tensor of indices.
#[derive(Clone, Copy)]
pub(crate) struct Indices<'v> {
    narrow: &'v [i32],
    wide: &'v [i64],
}

/// Checks that an operand can hold indices.
pub(crate) fn expect_indices(slot: &Slot, operand: u8) -> Result<(), StepErrorKind> {
    match slot.dtype {
        DType::I32 | DType::I64 => Ok(()),
        _ => Err(StepErrorKind::OperandType(operand)),
    }
}

impl<'v> Indices<'v> {
    /// The indices in an operand's bytes.
    pub(crate) fn new(bytes: &'v [u8], dtype: DType, operand: u8) -> Result<Self, StepErrorKind> {
        Ok(match dtype {
            DType::I32 => Indices { narrow: typed(bytes, operand)?, wide: &[] },
            _ => Indices { narrow: &[], wide: typed(bytes, operand)? },
        })
    }

    /// Element number `position` as it is.
    pub(crate) fn raw(&self, position: usize) -> Result<i64, StepErrorKind> {
        let narrow = self.narrow.get(position).map(|index| i64::from(*index));
        narrow.or(self.wide.get(position).copied()).ok_or(StepErrorKind::IndexOutOfRange)
    }

    /// Element number `position` as an index of an axis.
    pub(crate) fn at(&self, position: usize, extent: usize) -> Result<usize, StepErrorKind> {
        let index = self.raw(position)?;
        // An extent is a u32, so the sum can't overflow.
        let index = if index < 0 { index + extent as i64 } else { index };
        match usize::try_from(index) {
            Ok(index) if index < extent => Ok(index),
            _ => Err(StepErrorKind::IndexOutOfRange),
        }
    }
}
