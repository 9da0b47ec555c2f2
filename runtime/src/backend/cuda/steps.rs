//! Steps of a program: checked as the CPU's, lowered, and named where they are missing.

use super::driver::Properties;
use super::error::{Error, MissingStep};
use super::memory::Bases;
use super::program::{self, Lowered, Refusal};
use crate::dtype::DType;
use crate::error::{SessionError, StepErrorKind};
use crate::format::{Op, OpBits, StepRecord};
use crate::model::Model;
use crate::ops::{self, Operator};
use crate::tables::Tables;

/// Fills in the expressions behind the symbols.
pub(super) fn evaluate(
    tables: &Tables<'_>,
    symbols: usize,
    dims: &mut [u32],
) -> Result<(), SessionError> {
    let too_large = SessionError::Step { step: 0, kind: StepErrorKind::TooLarge };
    tables.evaluate_dims(symbols, dims).ok_or(too_large)?;
    if tables.tensors.hold_together(dims) { Ok(()) } else { Err(too_large) }
}

pub(super) fn check_operators(model: &Model<'_>) -> Result<(), SessionError> {
    let mut unknown = model.op_set();
    ops::ALL.iter().for_each(|operator| unknown.remove(operator.op));
    if unknown.is_empty() { Ok(()) } else { Err(SessionError::MissingOperators(unknown)) }
}

pub(super) fn find_operator(
    record: &StepRecord,
    step: u32,
) -> Result<&'static Operator, SessionError> {
    let dtype = DType::from_number(record.variant);
    let named = |operator: &&&Operator| operator.op as u16 == record.op && operator.dtype == dtype;
    ops::ALL.iter().find(named).copied().ok_or_else(|| match Op::from_number(record.op) {
        Some(op) => SessionError::MissingVariant { step, op, dtype },
        None => SessionError::MissingOperators(OpBits::of_number(record.op)),
    })
}

/// Checks every step as the CPU does.
pub(super) fn check_steps(tables: &Tables<'_>, dims: &[u32]) -> Result<(), SessionError> {
    for index in 0..tables.step_count() {
        let step = index as u32;
        let failed = |kind| SessionError::Step { step, kind };
        let record = tables.step_record(index).ok_or(failed(StepErrorKind::TooLarge))?;
        let operator = find_operator(&record, step)?;
        let own = tables.step(index, dims).ok_or(failed(StepErrorKind::TooLarge))?;
        if !own.is_idle() {
            (operator.check)(&own).map_err(failed)?;
        }
    }
    Ok(())
}

/// The calls of a step; none for one with nothing to compute. `None`: the operator is missing.
pub(super) fn lower_step(
    tables: &Tables<'_>,
    dims: &[u32],
    index: usize,
    bases: Bases,
    device: &Properties,
) -> Result<Option<Result<Lowered, Refusal>>, SessionError> {
    let failed = SessionError::Step { step: index as u32, kind: StepErrorKind::TooLarge };
    let (record, step) = tables.step_record(index).zip(tables.step(index, dims)).ok_or(failed)?;
    if step.is_idle() {
        return Ok(Some(Ok(Lowered::default())));
    }
    Ok(program::lower(
        record.op,
        DType::from_number(record.variant),
        index as u32,
        step,
        bases,
        device,
    ))
}

pub(super) fn missing_step(
    model: &Model<'_>,
    tables: &Tables<'_>,
    index: usize,
    what: Option<&'static str>,
) -> MissingStep {
    let record = tables.step_record(index).unwrap_or_default();
    MissingStep {
        step: index,
        name: model.text(record.name).to_owned(),
        operator: Op::from_number(record.op).map_or("unknown", |op| op.name()),
        dtype: DType::from_number(record.variant),
        what,
    }
}

/// Refuses a program with steps that this backend lacks, all of them at once. Returns the bytes of scratch that its steps need.
pub(super) fn expect_all_lowered(
    model: &Model<'_>,
    tables: &Tables<'_>,
    dims: &[u32],
    device: &Properties,
) -> Result<usize, Error> {
    let (mut missing, mut scratch_bytes) = (Vec::new(), 0);
    // Where memory would lie doesn't matter yet, but for its alignment.
    let bases = Bases { constants: 256, arena: 256, state: 256, scratch: 256, status: 256 };
    for index in 0..tables.step_count() {
        match lower_step(tables, dims, index, bases, device)? {
            Some(Ok(lowered)) => scratch_bytes = scratch_bytes.max(lowered.scratch_bytes),
            None => missing.push(missing_step(model, tables, index, None)),
            Some(Err(Refusal::Lacks(what))) => {
                missing.push(missing_step(model, tables, index, Some(what)));
            }
            Some(Err(Refusal::Invalid(kind))) => {
                return Err(SessionError::Step { step: index as u32, kind }.into());
            }
        }
    }
    if missing.is_empty() { Ok(scratch_bytes) } else { Err(Error::Missing(missing)) }
}
