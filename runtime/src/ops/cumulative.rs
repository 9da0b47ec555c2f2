//! Running sums and products along an axis.

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{CumulativeAttributes, Element, Op};
use crate::memory::{Context, typed, typed_mut};
use crate::ops::shape::{expect_apart, expect_types, split};
use crate::ops::{Operator, Step, expect_same_shape, no_scratch};

macro_rules! operators {
    ($($(#[$meta:meta])* $NAME:ident = $dtype:ident $ty:ty;)*) => {$(
        $(#[$meta])*
        pub static $NAME: Operator = Operator {
            op: Op::Cumulative,
            dtype: Some(DType::$dtype),
            check: |step| check(step, DType::$dtype),
            select: |_| run::<$ty>,
            scratch_bytes: no_scratch,
        };
    )*};
}

operators! {
    /// Input: x. Each partial result is rounded to f32.
    CUMULATIVE_F32 = F32 f32;
    /// Of integers, wrapping around.
    CUMULATIVE_I32 = I32 i32;
    /// Of integers, wrapping around.
    CUMULATIVE_I64 = I64 i64;
}

/// Numbers that are added up or multiplied.
trait Number: Element {
    const ZERO: Self;
    const ONE: Self;
    fn add(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
}

impl Number for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;
    fn add(self, other: f32) -> f32 {
        self + other
    }
    fn mul(self, other: f32) -> f32 {
        self * other
    }
}

macro_rules! wrapping {
    ($($ty:ty)*) => {$(
        impl Number for $ty {
            const ZERO: $ty = 0;
            const ONE: $ty = 1;
            fn add(self, other: $ty) -> $ty {
                self.wrapping_add(other)
            }
            fn mul(self, other: $ty) -> $ty {
                self.wrapping_mul(other)
            }
        }
    )*};
}
wrapping!(i32 i64);

fn check(step: &Step<'_>, dtype: DType) -> Result<(), StepErrorKind> {
    step.expect_counts(1, 1)?;
    expect_apart(step)?;
    let attributes: CumulativeAttributes = step.expect_attributes()?;
    let x = step.input(0)?;
    split(&x, attributes.axis)?;
    if !(1..=2).contains(&attributes.kind) {
        return Err(StepErrorKind::Attribute("kind"));
    }
    if attributes.exclusive > 1 || attributes.reverse > 1 {
        return Err(StepErrorKind::Attribute("exclusive or reverse"));
    }
    expect_types(step, &[dtype], dtype)?;
    expect_same_shape(&step.output(0)?, &x, 1)
}

fn run<T: Number>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let CumulativeAttributes { axis, kind, exclusive, reverse } = context.step.attributes();
    let x = context.step.input(0)?;
    if x.elements() == 0 {
        return Ok(());
    }
    let split = split(&x, axis)?;
    let (neutral, combine): (T, fn(T, T) -> T) =
        if kind == 1 { (T::ZERO, T::add) } else { (T::ONE, T::mul) };
    let operands = context.operands([0])?;
    let x: &[T] = typed(operands.inputs[0], 0)?;
    let y: &mut [T] = typed_mut(operands.output, 1)?;
    for outer in 0..split.outer {
        for column in 0..split.inner {
            let mut so_far = neutral;
            for position in 0..split.extent {
                let index = if reverse == 1 { split.extent - 1 - position } else { position };
                let at = (outer * split.extent + index) * split.inner + column;
                let next = combine(so_far, x[at]);
                y[at] = if exclusive == 1 { so_far } else { next };
                so_far = next;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Case, Tensor, shape, tensor};

    fn case(axis: u32, kind: u32, flags: [u32; 2], x: Tensor) -> Case {
        let [exclusive, reverse] = flags;
        let attributes = CumulativeAttributes { axis, kind, exclusive, reverse };
        let (variant, y) = (Some(x.dtype), shape(x.dtype, &x.dims));
        Case::new(Op::Cumulative, variant, attributes, &[x], y)
    }

    #[test]
    fn sums_and_products() {
        let x = || tensor(&[2, 3], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
        // numpy.cumsum, shifted and from the end
        let cases: [(u32, u32, [u32; 2], [f32; 6]); 7] = [
            (0, 1, [0, 0], [1.0, 2.0, 3.0, 5.0, 7.0, 9.0]),
            (1, 1, [0, 0], [1.0, 3.0, 6.0, 4.0, 9.0, 15.0]),
            (1, 1, [1, 0], [0.0, 1.0, 3.0, 0.0, 4.0, 9.0]),
            (1, 1, [0, 1], [6.0, 5.0, 3.0, 15.0, 11.0, 6.0]),
            (1, 1, [1, 1], [5.0, 3.0, 0.0, 11.0, 6.0, 0.0]),
            (1, 2, [0, 0], [1.0, 2.0, 6.0, 4.0, 20.0, 120.0]),
            (1, 2, [1, 1], [6.0, 3.0, 1.0, 30.0, 6.0, 1.0]),
        ];
        for (axis, kind, flags, want) in cases {
            assert_eq!(case(axis, kind, flags, x()).run::<f32>(), want, "{axis} {kind} {flags:?}");
        }
        let wraps = case(0, 1, [0, 0], tensor(&[2], &[i32::MAX, 1])).run::<i32>();
        assert_eq!(wraps, [i32::MAX, i32::MIN]);
        let wide = case(0, 2, [0, 0], tensor(&[3], &[3i64, -5, 1 << 40])).run::<i64>();
        assert_eq!(wide, [3, -15, -15 << 40]);
        assert_eq!(case(0, 1, [0, 0], tensor(&[0], &[0i64; 0])).run::<i64>(), []);
    }

    #[test]
    fn hostile_steps_are_refused() {
        let x = || tensor(&[2, 2], &[1f32; 4]);
        let mut other = case(0, 1, [0, 0], x());
        other.output = shape(DType::F32, &[4]);
        let refused = [
            case(2, 1, [0, 0], x()),
            case(0, 0, [0, 0], x()),
            case(0, 3, [0, 0], x()),
            case(0, 1, [2, 0], x()),
            case(0, 1, [0, 2], x()),
            case(0, 1, [0, 0], x()).sharing(0, 0),
            other,
        ];
        for case in refused {
            assert!(case.run_bytes().is_err(), "{:?}", case.attributes);
        }
    }
}
