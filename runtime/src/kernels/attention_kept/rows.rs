//! Keys and values as they are kept: rows of `size` numbers, in f16, f32 or q8.

use core::ops::Range;

use half::f16;

use super::AttentionKept;
use crate::Isa;
use crate::format::{Element, Q8_GROUP};

/// Rows of numbers.
pub(crate) trait Kept: Copy {
    /// One of them.
    type Row: Row;

    /// Numbers of a row, at least 1.
    fn size(self) -> usize;

    /// Rows.
    fn count(self) -> usize;

    /// Some of the rows. Panics for those that there aren't.
    fn slice(self, rows: Range<usize>) -> Self;

    /// All rows, one after the other.
    fn rows(self) -> impl Iterator<Item = Self::Row>;
}

/// A row of numbers.
pub(crate) trait Row: Copy {
    /// Number `i` of the row. Panics for one that there isn't.
    fn number(self, i: usize) -> f32;
}

/// A number that rows can be made of, which widens to f32 exactly.
pub(crate) trait Number: Element + Sync {
    fn widened(self) -> f32;

    /// Rounds to nearest, ties to even. Panics unless there are as many of both.
    fn narrow(from: &[f32], to: &mut [Self]);

    /// The kernels for `isa`, or for the next lower instruction set that this CPU and build have.
    fn select<'v>(isa: Isa) -> AttentionKept<Plain<'v, Self>>;
}

/// Numbers, and nothing else.
#[derive(Clone, Copy)]
pub(crate) struct Plain<'v, T> {
    size: usize,
    numbers: &'v [T],
}

impl<'v, T> Plain<'v, T> {
    /// # Panics
    ///
    /// Unless `numbers` are whole rows.
    pub(crate) fn new(size: usize, numbers: &'v [T]) -> Plain<'v, T> {
        assert!(size > 0 && numbers.len().is_multiple_of(size), "rows");
        Plain { size, numbers }
    }

    /// All of them.
    pub(super) fn numbers(self) -> &'v [T] {
        self.numbers
    }
}

impl<'v, T: Number> Kept for Plain<'v, T> {
    type Row = PlainRow<'v, T>;

    fn size(self) -> usize {
        self.size
    }

    fn count(self) -> usize {
        self.numbers.len() / self.size
    }

    fn slice(self, rows: Range<usize>) -> Self {
        Plain { numbers: &self.numbers[rows.start * self.size..rows.end * self.size], ..self }
    }

    #[inline(always)]
    fn rows(self) -> impl Iterator<Item = PlainRow<'v, T>> {
        self.numbers.chunks_exact(self.size).map(PlainRow)
    }
}

/// A row of numbers.
#[derive(Clone, Copy)]
pub(crate) struct PlainRow<'v, T>(pub(super) &'v [T]);

impl<T: Number> Row for PlainRow<'_, T> {
    #[inline(always)]
    fn number(self, i: usize) -> f32 {
        self.0[i].widened()
    }
}

/// i8, and a scale for every [`Q8_GROUP`] of a row; the last group may be shorter.
#[derive(Clone, Copy)]
pub(crate) struct Q8<'v> {
    size: usize,
    numbers: &'v [i8],
    scales: &'v [f16],
}

impl<'v> Q8<'v> {
    /// # Panics
    ///
    /// Unless `numbers` are whole rows and `scales` those of their groups.
    pub(crate) fn new(size: usize, numbers: &'v [i8], scales: &'v [f16]) -> Q8<'v> {
        assert!(size > 0 && numbers.len().is_multiple_of(size), "rows");
        assert_eq!(scales.len(), numbers.len() / size * size.div_ceil(Q8_GROUP), "scales");
        Q8 { size, numbers, scales }
    }
}

impl<'v> Kept for Q8<'v> {
    type Row = Q8Row<'v>;

    fn size(self) -> usize {
        self.size
    }

    fn count(self) -> usize {
        self.numbers.len() / self.size
    }

    fn slice(self, rows: Range<usize>) -> Self {
        let groups = self.size.div_ceil(Q8_GROUP);
        Q8 {
            numbers: &self.numbers[rows.start * self.size..rows.end * self.size],
            scales: &self.scales[rows.start * groups..rows.end * groups],
            ..self
        }
    }

    #[inline(always)]
    fn rows(self) -> impl Iterator<Item = Q8Row<'v>> {
        let scales = self.scales.chunks_exact(self.size.div_ceil(Q8_GROUP));
        let rows = self.numbers.chunks_exact(self.size).zip(scales);
        rows.map(|(numbers, scales)| Q8Row { numbers, scales })
    }
}

/// A row of i8, with a scale for every [`Q8_GROUP`].
#[derive(Clone, Copy)]
pub(crate) struct Q8Row<'v> {
    pub(super) numbers: &'v [i8],
    pub(super) scales: &'v [f16],
}

impl Row for Q8Row<'_> {
    #[inline(always)]
    fn number(self, i: usize) -> f32 {
        f32::from(self.numbers[i]) * self.scales[i / Q8_GROUP].to_f32()
    }
}
