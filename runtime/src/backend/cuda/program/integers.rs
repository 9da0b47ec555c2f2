//! Whole numbers and truth, choices, and changes of type.

use super::elementwise::Axes;
use super::moves::by_size;
use super::{Lower, Refusal, elements, small};
use crate::backend::cuda::arguments::{ArgReduce, Cast, Elements, Where};
use crate::backend::cuda::kernels::{
    ARG_REDUCE_F32, ARG_REDUCE_I8, ARG_REDUCE_I32, ARG_REDUCE_I64, BINARY_BOOL, BINARY_I32,
    BINARY_I64, CAST, COMPARE_F32, COMPARE_I8, COMPARE_I32, COMPARE_I64, COMPARE_U8, Kernel,
    NOT_BOOL, WHERE_1, WHERE_2, WHERE_4, WHERE_8,
};
use crate::dtype::DType;
use crate::format::{ArgReduceAttributes, BinaryAttributes, UnaryAttributes, UnaryOp};
use crate::ops::shape::{broadcast_strides, split};

/// The kind by which `binary_bool` compares.
const EQUAL: u32 = 0;

fn pairs(lower: &mut Lower<'_>, kernel: &'static Kernel, kind: u32) -> Result<(), Refusal> {
    let ((a, a_at), (b, b_at), (y, output)) = (lower.input(0)?, lower.input(1)?, lower.output(0)?);
    let axes = Axes::new(y.dims(), &[&a, &b].map(|x| broadcast_strides(x, y.rank())))?;
    let arguments = Elements {
        a: a_at,
        b: b_at,
        output,
        strides_a: axes.strides[0],
        strides_b: axes.strides[1],
        extents: axes.extents,
        rank: axes.rank,
        elements: elements(&y)?,
        kind,
        reserved: 0,
    };
    lower.call_elements(kernel, arguments.elements, arguments)
}

fn kind(lower: &Lower<'_>) -> Result<u32, Refusal> {
    Ok(lower.step.expect_attributes::<BinaryAttributes>()?.kind)
}

pub(super) fn binary(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let kernel: &'static Kernel = match lower.step.input(0)?.dtype() {
        DType::I32 => &BINARY_I32,
        DType::I64 => &BINARY_I64,
        _ => &BINARY_BOOL,
    };
    pairs(lower, kernel, kind(lower)?)
}

pub(super) fn compare(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let kernel: &'static Kernel = match lower.step.input(0)?.dtype() {
        DType::F32 => &COMPARE_F32,
        DType::I8 => &COMPARE_I8,
        DType::U8 => &COMPARE_U8,
        DType::I32 => &COMPARE_I32,
        DType::I64 => &COMPARE_I64,
        _ => return pairs(lower, &BINARY_BOOL, EQUAL),
    };
    pairs(lower, kernel, kind(lower)?)
}

pub(super) fn unary_bool(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    if lower.step.expect_attributes::<UnaryAttributes>()?.kind != UnaryOp::Not as u32 {
        return Err(Refusal::Lacks("a function"));
    }
    let ((_, a), (y, output)) = (lower.input(0)?, lower.output(0)?);
    let arguments = Elements { a, output, elements: elements(&y)?, ..Elements::default() };
    lower.call_elements(&NOT_BOOL, arguments.elements, arguments)
}

pub(super) fn choose(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let (y, output) = lower.output(0)?;
    let [(c, condition), (a, a_at), (b, b_at)] =
        [lower.input(0)?, lower.input(1)?, lower.input(2)?];
    let axes = Axes::new(y.dims(), &[&c, &a, &b].map(|x| broadcast_strides(x, y.rank())))?;
    let [strides_condition, strides_a, strides_b] = axes.strides;
    let arguments = Where {
        condition,
        a: a_at,
        b: b_at,
        output,
        strides_condition,
        strides_a,
        strides_b,
        extents: axes.extents,
        rank: axes.rank,
        elements: elements(&y)?,
    };
    let kernel = by_size(y.dtype().size(), [&WHERE_1, &WHERE_2, &WHERE_4, &WHERE_8]);
    lower.call_elements(kernel, arguments.elements, arguments)
}

pub(super) fn cast(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let ((x, input), (y, output)) = (lower.input(0)?, lower.output(0)?);
    let elements = elements(&y)?;
    let (from, to) = (x.dtype() as u32, y.dtype() as u32);
    lower.call_elements(&CAST, elements, Cast { input, output, elements, from, to, reserved: 0 })
}

pub(super) fn arg_reduce(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let attributes: ArgReduceAttributes = lower.step.expect_attributes()?;
    let ((x, input), (y, output)) = (lower.input(0)?, lower.output(0)?);
    let split = split(&x, attributes.axis)?;
    let arguments = ArgReduce {
        input,
        output,
        outputs: elements(&y)?,
        extent: small(split.extent)?,
        inner: small(split.inner)?,
        least: u32::from(attributes.min == 1),
        last: u32::from(attributes.select_last == 1),
        reserved: 0,
    };
    let kernel: &'static Kernel = match x.dtype() {
        DType::F32 => &ARG_REDUCE_F32,
        DType::I8 => &ARG_REDUCE_I8,
        DType::I32 => &ARG_REDUCE_I32,
        _ => &ARG_REDUCE_I64,
    };
    lower.call_elements(kernel, arguments.outputs, arguments)
}
