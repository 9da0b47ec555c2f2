//! Dimension expressions as the file holds them: a table of records that refer to earlier ones.

use std::collections::HashMap;

use whit::MAX_DIMS;
use whit::format::{DimOp, DimRecord};

use crate::dim::{Atom, Dim, Symbol};
use crate::plan::PlanError;

/// Writes [`Dim`]s as references, sharing equal expressions.
#[derive(Default)]
pub(crate) struct DimTable {
    symbols: usize,
    records: Vec<DimRecord>,
    known: HashMap<(u32, i32, i32), i32>,
}

impl DimTable {
    pub(crate) fn new(symbols: &[Symbol]) -> DimTable {
        DimTable { symbols: symbols.len(), ..DimTable::default() }
    }

    pub(crate) fn into_records(self) -> Vec<DimRecord> {
        self.records
    }

    fn push(&mut self, op: DimOp, a: i32, b: i32) -> Result<i32, PlanError> {
        if let Some(reference) = self.known.get(&(op as u32, a, b)) {
            return Ok(*reference);
        }
        let index = self.symbols + self.records.len();
        if index >= MAX_DIMS {
            return Err(PlanError::TooManyDims(index + 1));
        }
        self.records.push(DimRecord { op: op as u32, a, b, reserved: 0 });
        let reference = !(index as i32);
        self.known.insert((op as u32, a, b), reference);
        Ok(reference)
    }

    /// The reference that stands for `dim`: `positive terms - negative terms`, each a product.
    pub(crate) fn reference(&mut self, dim: &Dim) -> Result<i32, PlanError> {
        if let Some(value) = dim.as_const() {
            return i32::try_from(value.max(0))
                .map_err(|_| PlanError::TooLarge(format!("{value}")));
        }
        let (mut positive, mut negative) = (0i32, 0i32);
        let terms: Vec<_> = dim.terms().map(|(atoms, c)| (atoms.to_vec(), c)).collect();
        for (atoms, coefficient) in terms {
            let magnitude = i32::try_from(coefficient.unsigned_abs())
                .map_err(|_| PlanError::TooLarge(format!("{dim:?}")))?;
            let mut product = magnitude;
            for atom in &atoms {
                let factor = self.atom(atom)?;
                product =
                    if product == 1 { factor } else { self.push(DimOp::Mul, product, factor)? };
            }
            let sum = if coefficient > 0 { &mut positive } else { &mut negative };
            *sum = if *sum == 0 { product } else { self.push(DimOp::Add, *sum, product)? };
        }
        if negative == 0 { Ok(positive) } else { self.push(DimOp::Sub, positive, negative) }
    }

    fn atom(&mut self, atom: &Atom) -> Result<i32, PlanError> {
        let (op, a, b) = match atom {
            Atom::Symbol(index) => return Ok(!(*index as i32)),
            Atom::FloorDiv(a, b) => (DimOp::Div, a, b),
            Atom::Max(a, b) => (DimOp::Max, a, b),
            Atom::Min(a, b) => (DimOp::Min, a, b),
        };
        let (a, b) = (self.reference(a)?, self.reference(b)?);
        self.push(op, a, b)
    }

    /// The largest value of a reference, computed as `Model::open` will.
    pub(crate) fn largest(&self, reference: i32, symbols: &[Symbol]) -> Option<u64> {
        let mut bounds: Vec<(u32, u32)> =
            symbols.iter().map(|s| (s.min.max(0) as u32, s.max.max(0) as u32)).collect();
        let of = |bounds: &[(u32, u32)], reference: i32| {
            if reference >= 0 {
                Some((reference as u32, reference as u32))
            } else {
                bounds.get(!reference as usize).copied()
            }
        };
        for record in &self.records {
            let op = DimOp::from_number(record.op)?;
            let (a, b) = (of(&bounds, record.a)?, of(&bounds, record.b)?);
            let b = if matches!(op, DimOp::Sub | DimOp::Div) { (b.1, b.0) } else { b };
            bounds.push((op.apply(a.0, b.0)?, op.apply(a.1, b.1)?));
        }
        of(&bounds, reference).map(|(_, high)| u64::from(high))
    }
}
