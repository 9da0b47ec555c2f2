//! Copies a tensor and writes updates into it where indices say, or combines them with what is there.

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{Element, Op, ScatterAttributes};
use crate::memory::{Context, typed, typed_mut};
use crate::ops::indices::{Indices, expect_indices};
use crate::ops::shape::{Walk, by_element_size, expect_apart, product, split, strides};
use crate::ops::{Operator, Step, expect_same_shape, expect_type, no_scratch};

macro_rules! operators {
    ($($(#[$meta:meta])* $NAME:ident = $op:ident, $dtype:expr, $check:ident, $run:expr;)*) => {$(
        $(#[$meta])*
        pub static $NAME: Operator = Operator {
            op: Op::$op,
            dtype: $dtype,
            check: |step| $check(step, $dtype),
            select: |_| $run,
            scratch_bytes: no_scratch,
        };
    )*};
}

operators! {
    /// `y[i, index[i, j], k] = updates[i, j, k]` for axis 1, elements of any type.
    SCATTER_ELEMENTS = ScatterElements, None, check_elements, replace_elements;
    /// The same, combined with what is there.
    SCATTER_ELEMENTS_F32 = ScatterElements, Some(DType::F32), check_elements, elements::<f32>;
    /// The same, wrapping around.
    SCATTER_ELEMENTS_I32 = ScatterElements, Some(DType::I32), check_elements, elements::<i32>;
    /// The same, wrapping around.
    SCATTER_ELEMENTS_I64 = ScatterElements, Some(DType::I64), check_elements, elements::<i64>;
    /// Blocks of updates go where tuples of indices say, elements of any type.
    SCATTER_ND = ScatterNd, None, check_nd, replace_nd;
    /// The same, combined with what is there.
    SCATTER_ND_F32 = ScatterNd, Some(DType::F32), check_nd, nd::<f32>;
    /// The same, wrapping around.
    SCATTER_ND_I32 = ScatterNd, Some(DType::I32), check_nd, nd::<i32>;
    /// The same, wrapping around.
    SCATTER_ND_I64 = ScatterNd, Some(DType::I64), check_nd, nd::<i64>;
}

/// Numbers that updates are combined with.
trait Number: Element + PartialOrd {
    fn add(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
}

impl Number for f32 {
    fn add(self, other: f32) -> f32 {
        self + other
    }
    fn mul(self, other: f32) -> f32 {
        self * other
    }
}

impl Number for i32 {
    fn add(self, other: i32) -> i32 {
        self.wrapping_add(other)
    }
    fn mul(self, other: i32) -> i32 {
        self.wrapping_mul(other)
    }
}

impl Number for i64 {
    fn add(self, other: i64) -> i64 {
        self.wrapping_add(other)
    }
    fn mul(self, other: i64) -> i64 {
        self.wrapping_mul(other)
    }
}

/// The larger one; NaN, if one is NaN.
fn max<T: Number>(old: T, new: T) -> T {
    let is_nan = old.partial_cmp(&old).is_none();
    if is_nan || old > new { old } else { new }
}

/// The smaller one; NaN, if one is NaN.
fn min<T: Number>(old: T, new: T) -> T {
    let is_nan = old.partial_cmp(&old).is_none();
    if is_nan || old < new { old } else { new }
}

/// How an update meets what is there, by the numbers of the format.
fn combination<T: Number>(step: &Step<'_>) -> Result<fn(T, T) -> T, StepErrorKind> {
    Ok(match step.attributes::<ScatterAttributes>().reduction {
        1 => T::add,
        2 => T::mul,
        3 => max,
        4 => min,
        _ => return Err(StepErrorKind::Attribute("reduction")),
    })
}

/// Data, indices, updates, and the result like the data. What only replaces works for elements of any
/// type and has no variant.
fn expect_scatter(
    step: &Step<'_>,
    dtype: Option<DType>,
) -> Result<ScatterAttributes, StepErrorKind> {
    step.expect_counts(3, 3)?;
    expect_apart(step)?;
    let attributes: ScatterAttributes = step.expect_attributes()?;
    let (data, updates, y) = (step.input(0)?, step.input(2)?, step.output(0)?);
    expect_indices(&step.input(1)?, 1)?;
    for (slot, operand) in [(updates, 2), (y, 3)] {
        if slot.dtype != data.dtype {
            return Err(StepErrorKind::OperandType(operand));
        }
    }
    match dtype {
        Some(dtype) => expect_type(&data, dtype, 0)?,
        None if attributes.reduction != 0 => return Err(StepErrorKind::Attribute("reduction")),
        None => {}
    }
    if dtype.is_some() && !(1..=4).contains(&attributes.reduction) {
        return Err(StepErrorKind::Attribute("reduction"));
    }
    expect_same_shape(&y, &data, 3)?;
    Ok(attributes)
}

fn check_elements(step: &Step<'_>, dtype: Option<DType>) -> Result<(), StepErrorKind> {
    let ScatterAttributes { axis, .. } = expect_scatter(step, dtype)?;
    let (data, indices, updates) = (step.input(0)?, step.input(1)?, step.input(2)?);
    split(&data, axis)?;
    expect_same_shape(&updates, &indices, 2)?;
    let inside = |(at, (index, data)): (usize, (&u32, &u32))| at == axis as usize || index <= data;
    let fits = indices.rank() == data.rank()
        && indices.dims().iter().zip(data.dims()).enumerate().all(inside);
    if fits { Ok(()) } else { Err(StepErrorKind::OperandShape(1)) }
}

fn check_nd(step: &Step<'_>, dtype: Option<DType>) -> Result<(), StepErrorKind> {
    expect_scatter(step, dtype)?;
    let (data, indices, updates) = (step.input(0)?, step.input(1)?, step.input(2)?);
    let Some((tuple, places)) = indices.dims().split_last() else {
        return Err(StepErrorKind::OperandShape(1));
    };
    let Some(rest) = data.dims().get(*tuple as usize..) else {
        return Err(StepErrorKind::OperandShape(1));
    };
    let dims = places.iter().chain(rest);
    if dims.eq(updates.dims()) { Ok(()) } else { Err(StepErrorKind::OperandShape(2)) }
}

fn replace_elements(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let dtype = context.step.input(0)?.dtype;
    by_element_size!(dtype, replaced_elements(context))
}

fn replaced_elements<T: Element>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    scatter_elements::<T>(context, |_, new| new)
}

fn elements<T: Number>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let combine = combination::<T>(&context.step)?;
    scatter_elements(context, combine)
}

fn scatter_elements<T: Element>(
    context: &mut Context<'_>,
    combine: impl Fn(T, T) -> T,
) -> Result<(), StepErrorKind> {
    let step = context.step;
    let (data, indices) = (step.input(0)?, step.input(1)?);
    let axis = step.attributes::<ScatterAttributes>().axis as usize;
    let extent = data.dim(axis);
    // The indexed axis doesn't move along with the updates; the index does that.
    let mut free = strides(&data);
    let along = core::mem::replace(&mut free[axis], 0);
    let walk = Walk::new(indices.dims(), &[free, strides(&indices)]);
    let (row, [stride, _]) = walk.inner();
    let operands = context.operands([0, 1, 2])?;
    operands.output.copy_from_slice(operands.inputs[0]);
    let indices = Indices::new(operands.inputs[1], indices.dtype, 1)?;
    let updates: &[T] = typed(operands.inputs[2], 2)?;
    let y: &mut [T] = typed_mut(operands.output, 3)?;
    let mut outcome = Ok(());
    walk.for_each_row([0, 0], |[to, from]| {
        for (position, update) in updates[from..from + row].iter().enumerate() {
            match indices.at(from + position, extent) {
                Ok(index) => {
                    let y = &mut y[to + position * stride + index * along];
                    *y = combine(*y, *update);
                }
                Err(error) => outcome = Err(error),
            }
        }
    });
    outcome
}

fn replace_nd(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let dtype = context.step.input(0)?.dtype;
    by_element_size!(dtype, replaced_nd(context))
}

fn replaced_nd<T: Element>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    scatter_nd::<T>(context, |_, new| new)
}

fn nd<T: Number>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let combine = combination::<T>(&context.step)?;
    scatter_nd(context, combine)
}

fn scatter_nd<T: Element>(
    context: &mut Context<'_>,
    combine: impl Fn(T, T) -> T,
) -> Result<(), StepErrorKind> {
    let step = context.step;
    let (data, indices, updates) = (step.input(0)?, step.input(1)?, step.input(2)?);
    let tuple = indices.dim(indices.rank() - 1);
    let own = strides(&data);
    let block = product(&data.dims()[tuple..]);
    let nothing = updates.elements() == 0;
    let operands = context.operands([0, 1, 2])?;
    operands.output.copy_from_slice(operands.inputs[0]);
    if nothing {
        return Ok(());
    }
    let indices = Indices::new(operands.inputs[1], indices.dtype, 1)?;
    let updates: &[T] = typed(operands.inputs[2], 2)?;
    let y: &mut [T] = typed_mut(operands.output, 3)?;
    for (place, updates) in updates.chunks_exact(block).enumerate() {
        let mut at = 0;
        for (axis, stride) in own.iter().enumerate().take(tuple) {
            at += indices.at(place * tuple + axis, data.dim(axis))? * stride;
        }
        for (y, update) in y[at..at + block].iter_mut().zip(updates) {
            *y = combine(*y, *update);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SessionError;
    use crate::ops::testing::{Case, Tensor, shape, tensor};

    fn case(op: Op, axis: u32, reduction: u32, tensors: [Tensor; 3]) -> Case {
        let variant = (reduction != 0).then_some(tensors[0].dtype);
        let y = shape(tensors[0].dtype, &tensors[0].dims);
        Case::new(op, variant, ScatterAttributes { axis, reduction }, &tensors, y)
    }

    #[test]
    fn elements_and_reductions() {
        let data = || tensor(&[1, 5], &[1f32, 2.0, 3.0, 4.0, 5.0]);
        let index = || tensor(&[1, 3], &[1i64, 3, -4]);
        let updates = || tensor(&[1, 3], &[1.5f32, 2.5, 10.0]);
        // Element 1 is met twice: by 1.5, then by 10.
        let cases: [(u32, [f32; 5]); 5] = [
            (0, [1.0, 10.0, 3.0, 2.5, 5.0]),
            (1, [1.0, 13.5, 3.0, 6.5, 5.0]),
            (2, [1.0, 30.0, 3.0, 10.0, 5.0]),
            (3, [1.0, 10.0, 3.0, 4.0, 5.0]),
            (4, [1.0, 1.5, 3.0, 2.5, 5.0]),
        ];
        for (reduction, want) in cases {
            let case = case(Op::ScatterElements, 1, reduction, [data(), index(), updates()]);
            assert_eq!(case.run::<f32>(), want, "{reduction}");
        }
        let zeros = tensor(&[3, 3], &[0i16; 9]);
        let index = tensor(&[2, 3], &[1i32, 0, 2, 0, 2, 1]);
        let updates = tensor(&[2, 3], &[10i16, 11, 12, 20, 21, 22]);
        let case = case(Op::ScatterElements, 0, 0, [zeros, index, updates]);
        assert_eq!(case.run::<i16>(), [20, 11, 0, 10, 0, 22, 0, 21, 12]);
    }

    #[test]
    fn blocks_by_tuples() {
        let data = || tensor(&[3, 2], &[1i64, 2, 3, 4, 5, 6]);
        let index = || tensor(&[2, 1], &[2i64, -3]);
        let updates = || tensor(&[2, 2], &[i64::MAX, 7, 8, 9]);
        let got = case(Op::ScatterNd, 0, 0, [data(), index(), updates()]).run::<i64>();
        assert_eq!(got, [8, 9, 3, 4, i64::MAX, 7]);
        let got = case(Op::ScatterNd, 0, 1, [data(), index(), updates()]).run::<i64>();
        assert_eq!(got, [9, 11, 3, 4, i64::MIN + 4, 13]);
        let points = tensor(&[2, 2], &[0i32, 1, 0, 1]);
        let got = case(Op::ScatterNd, 0, 3, [data(), points, tensor(&[2], &[5i64, 4])]);
        assert_eq!(got.run::<i64>(), [1, 5, 3, 4, 5, 6]);
        let none = case(
            Op::ScatterNd,
            0,
            0,
            [data(), tensor(&[0, 1], &[0i64; 0]), tensor(&[0, 2], &[0i64; 0])],
        );
        assert_eq!(none.run::<i64>(), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn nan_stays() {
        let data = || tensor(&[2], &[f32::NAN, 1.0]);
        for reduction in [3, 4] {
            let updates = tensor(&[2], &[1f32, f32::NAN]);
            let tensors = [data(), tensor(&[2], &[0i64, 1]), updates];
            let got = case(Op::ScatterElements, 0, reduction, tensors).run::<f32>();
            assert!(got.iter().all(|y| y.is_nan()), "{got:?}");
        }
    }

    #[test]
    fn indices_outside_are_an_error() {
        for index in [2i64, -3, i64::MIN, i64::MAX] {
            for op in [Op::ScatterElements, Op::ScatterNd] {
                let dims: &[u32] = if op == Op::ScatterNd { &[1, 1] } else { &[1] };
                let data = tensor(&[2], &[1f32, 2.0]);
                let case = case(op, 0, 1, [data, tensor(dims, &[index]), tensor(&[1], &[1f32])]);
                let error = case.run_bytes().unwrap_err();
                let kind = StepErrorKind::IndexOutOfRange;
                assert_eq!(error, SessionError::Step { step: 0, kind }, "{op} {index}");
            }
        }
    }

    #[test]
    fn hostile_steps_are_refused() {
        let data = || tensor(&[2, 2], &[1f32, 2.0, 3.0, 4.0]);
        let index = || tensor(&[1, 2], &[0i64, 1]);
        let updates = || tensor(&[1, 2], &[1f32, 2.0]);
        let mut wrong_variant = case(Op::ScatterElements, 0, 1, [data(), index(), updates()]);
        wrong_variant.variant = None;
        let refused = [
            wrong_variant,
            case(Op::ScatterElements, 0, 5, [data(), index(), updates()]),
            case(Op::ScatterElements, 2, 0, [data(), index(), updates()]),
            case(Op::ScatterElements, 0, 0, [data(), index(), tensor(&[2], &[1f32, 2.0])]),
            case(Op::ScatterElements, 0, 0, [data(), index(), tensor(&[1, 2], &[1i32, 2])]),
            case(Op::ScatterElements, 0, 0, [data(), updates(), updates()]),
            case(Op::ScatterElements, 0, 0, [data(), index(), updates()]).sharing(0, 0),
            case(Op::ScatterNd, 0, 0, [data(), tensor(&[1, 3], &[0i64; 3]), updates()]),
            case(Op::ScatterNd, 0, 0, [data(), tensor(&[], &[0i64]), updates()]),
            case(Op::ScatterNd, 0, 0, [data(), index(), updates()]),
        ];
        for case in refused {
            assert!(case.run_bytes().is_err(), "{:?}", case.attributes);
        }
    }
}
