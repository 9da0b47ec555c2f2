//! Two operands, elementwise, broadcasting as NumPy does. The output may lie exactly over an
//! operand of its own shape.
//!
//! Quantized i8 and i16, in f32 with one IEEE rounding per operation, `ra = (a - za) as f32 * scale[0]` and
//! `rb = (b - zb) as f32 * scale[1]`:
//!
//! ```text
//! add, sub, min, max:   t = ra + rb,  ra - rb,  the smaller,  the larger
//! mul:                  t = ((a - za) * (b - zb)) as f32 * scale[0]        (product in wrapping i32)
//! y = clamp(round_ties_even(t), min - zero_point, max - zero_point) + zero_point
//! ```
//!
//! Integers wrap; a division by zero gives 0. Shifts by a negative number, or by as many bits as the
//! type has or more, leave 0, or −1 when a negative number is shifted to the right.

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{BinaryAttributes, BinaryOp, Op};
use crate::isa::Isa;
use crate::kernels::add_i8::{self, AddI8};
use crate::kernels::binary_f32::{self, Arithmetic, BinaryF32};
use crate::kernels::binary_i8::{self, BinaryI8};
use crate::kernels::elementary::clip;
use crate::kernels::requantize::{Quantized, round_clamp};
use crate::memory::Context;
use crate::ops::elementwise::{zip, zip_blocks};
use crate::ops::shape::{expect_broadcast, expect_elementwise, expect_types};
use crate::ops::{Operator, RunFn, Step, expect_clamp_of, no_scratch, select_isa};

const fn operator(
    dtype: DType,
    check: fn(&Step<'_>) -> Result<(), StepErrorKind>,
    select: fn(crate::Isa) -> RunFn,
) -> Operator {
    Operator { op: Op::Binary, dtype: Some(dtype), check, select, scratch_bytes: no_scratch }
}

/// f32. `min` and `max` give NaN when either operand is NaN; the clamp lets NaN through.
pub static BINARY_F32: Operator =
    operator(DType::F32, |step| check(step, DType::F32, &FLOAT), select_isa!(run_f32));
/// i32.
pub static BINARY_I32: Operator =
    operator(DType::I32, |step| check(step, DType::I32, &INTEGER), |_| run_i32);
/// i64.
pub static BINARY_I64: Operator =
    operator(DType::I64, |step| check(step, DType::I64, &INTEGER), |_| run_i64);
/// bool: and, or, xor.
pub static BINARY_BOOL: Operator =
    operator(DType::Bool, |step| check(step, DType::Bool, &BOOL), |_| run_bool);
/// Quantized i8: add, sub, mul, min, max.
pub static BINARY_I8: Operator =
    operator(DType::I8, |step| check_quantized::<i8>(step, DType::I8), select_isa!(run_i8));
/// Quantized i16: as i8.
pub static BINARY_I16: Operator =
    operator(DType::I16, |step| check_quantized::<i16>(step, DType::I16), |_| run_i16);

use BinaryOp::{
    Add, And, BitAnd, BitOr, BitXor, Div, Fmod, Max, Min, Mod, Mul, Or, PRelu, Pow, ShiftLeft,
    ShiftRight, Sub, Xor,
};

const FLOAT: [BinaryOp; 10] = [Add, Sub, Mul, Div, Pow, Min, Max, Mod, Fmod, PRelu];
const INTEGER: [BinaryOp; 18] = [
    Add, Sub, Mul, Div, Pow, Min, Max, Mod, Fmod, And, Or, Xor, PRelu, BitAnd, BitOr, BitXor,
    ShiftLeft, ShiftRight,
];
const BOOL: [BinaryOp; 3] = [And, Or, Xor];
const QUANTIZED: [BinaryOp; 5] = [Add, Sub, Mul, Min, Max];

fn check(step: &Step<'_>, dtype: DType, kinds: &[BinaryOp]) -> Result<(), StepErrorKind> {
    step.expect_counts(2, 2)?;
    expect_types(step, &[dtype, dtype], dtype)?;
    expect_elementwise(step)?;
    let attributes: BinaryAttributes = step.expect_attributes()?;
    let kind = BinaryOp::from_number(attributes.kind);
    if !kind.is_some_and(|kind| kinds.contains(&kind)) {
        return Err(StepErrorKind::Attribute("kind"));
    }
    let y = step.output(0)?;
    expect_broadcast(&step.input(0)?, &y, 0)?;
    expect_broadcast(&step.input(1)?, &y, 1)
}

fn check_quantized<T: Quantized>(step: &Step<'_>, dtype: DType) -> Result<(), StepErrorKind> {
    check(step, dtype, &QUANTIZED)?;
    expect_clamp_of::<T>(step.attributes::<BinaryAttributes>().clamp_q)
}

fn kind(attributes: &BinaryAttributes) -> Result<BinaryOp, StepErrorKind> {
    BinaryOp::from_number(attributes.kind).ok_or(StepErrorKind::Attribute("kind"))
}

/// The remainder with the divisor's sign, as in Python.
fn floor_mod(a: f32, b: f32) -> f32 {
    let remainder = libm::fmodf(a, b);
    if remainder != 0.0 && (remainder < 0.0) != (b < 0.0) { remainder + b } else { remainder }
}

fn run_f32<const ISA: usize>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let attributes: BinaryAttributes = context.step.attributes();
    let [min, max] = attributes.clamp;
    let clamp = move |y: f32| clip(y, min, max);
    let arithmetic = match kind(&attributes)? {
        Add => Arithmetic::Add,
        Sub => Arithmetic::Sub,
        Mul => Arithmetic::Mul,
        Div => Arithmetic::Div,
        Min => Arithmetic::Min,
        Max => Arithmetic::Max,
        PRelu => Arithmetic::PRelu,
        // Functions of a library, element by element.
        Pow => {
            let power = |a: f32, b| if b == 2.0 { a * a } else { libm::powf(a, b) };
            return zip(context, |a, b| clamp(power(a, b)));
        }
        Mod => return zip(context, |a, b| clamp(floor_mod(a, b))),
        Fmod => return zip(context, |a, b| clamp(libm::fmodf(a, b))),
        _ => return Err(StepErrorKind::Attribute("kind")),
    };
    let to = BinaryF32 { arithmetic, min, max };
    let kernel = binary_f32::select(Isa::ALL[ISA]);
    zip_blocks(context, |a, b, y| kernel(&to, a, b, y))
}

macro_rules! run_integer {
    ($run:ident, $ty:ty) => {
        fn $run(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
            let floor_mod = |a: $ty, b: $ty| {
                let remainder = a.wrapping_rem(b);
                if remainder != 0 && (remainder < 0) != (b < 0) { remainder + b } else { remainder }
            };
            match kind(&context.step.attributes())? {
                Add => zip(context, <$ty>::wrapping_add),
                Sub => zip(context, <$ty>::wrapping_sub),
                Mul => zip(context, <$ty>::wrapping_mul),
                Div => zip(context, |a: $ty, b| if b == 0 { 0 } else { a.wrapping_div(b) }),
                Pow => zip(context, |a: $ty, b| integer_power(i64::from(a), i64::from(b)) as $ty),
                Min => zip(context, <$ty>::min),
                Max => zip(context, <$ty>::max),
                Mod => zip(context, |a: $ty, b| if b == 0 { 0 } else { floor_mod(a, b) }),
                Fmod => zip(context, |a: $ty, b| if b == 0 { 0 } else { a.wrapping_rem(b) }),
                And | BitAnd => zip(context, |a: $ty, b| a & b),
                Or | BitOr => zip(context, |a: $ty, b| a | b),
                Xor | BitXor => zip(context, |a: $ty, b| a ^ b),
                ShiftLeft => zip(context, |a: $ty, b| match u32::try_from(b) {
                    Ok(b) if b < <$ty>::BITS => a << b,
                    _ => 0,
                }),
                // What is shifted in is the sign, however far.
                ShiftRight => zip(context, |a: $ty, b| {
                    a >> u32::try_from(b).map_or(<$ty>::BITS - 1, |b| b.min(<$ty>::BITS - 1))
                }),
                PRelu => zip(context, |a: $ty, b: $ty| if a < 0 { a.wrapping_mul(b) } else { a }),
            }
        }
    };
}
run_integer!(run_i32, i32);
run_integer!(run_i64, i64);

/// `base ^ exponent`, wrapping; negative exponents give the fraction's integer part.
fn integer_power(base: i64, exponent: i64) -> i64 {
    if exponent < 0 {
        return match base {
            1 => 1,
            -1 => 1 - 2 * (exponent & 1),
            _ => 0,
        };
    }
    let (mut result, mut base, mut exponent) = (1i64, base, exponent);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result.wrapping_mul(base);
        }
        base = base.wrapping_mul(base);
        exponent >>= 1;
    }
    result
}

fn run_bool(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    match kind(&context.step.attributes())? {
        And => zip(context, |a: u8, b: u8| u8::from(a != 0 && b != 0)),
        Or => zip(context, |a: u8, b: u8| u8::from(a != 0 || b != 0)),
        Xor => zip(context, |a: u8, b: u8| u8::from((a != 0) != (b != 0))),
        _ => Err(StepErrorKind::Attribute("kind")),
    }
}

fn run_i8<const ISA: usize>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let step = context.step;
    let attributes: BinaryAttributes = step.attributes();
    let zero_points = [step.input(0)?.zero_point, step.input(1)?.zero_point];
    let (scales, zero_point) = (attributes.scale, step.output(0)?.zero_point);
    let [min, max] = attributes.clamp_q;
    let arithmetic = match kind(&attributes)? {
        Add => {
            let add = AddI8 { zero_points, scales, zero_point, min, max };
            let kernel = add_i8::select(Isa::ALL[ISA]);
            return zip_blocks(context, |a, b, y| kernel(&add, a, b, y));
        }
        Sub => binary_i8::Arithmetic::Sub,
        Mul => binary_i8::Arithmetic::Mul,
        Min => binary_i8::Arithmetic::Min,
        Max => binary_i8::Arithmetic::Max,
        _ => return Err(StepErrorKind::Attribute("kind")),
    };
    let to = BinaryI8 { arithmetic, zero_points, scales, zero_point, min, max };
    let kernel = binary_i8::select(Isa::ALL[ISA]);
    zip_blocks(context, |a, b, y| kernel(&to, a, b, y))
}

fn run_i16(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let step = context.step;
    let attributes: BinaryAttributes = step.attributes();
    let (za, zb) = (step.input(0)?.zero_point, step.input(1)?.zero_point);
    let zero_point = step.output(0)?.zero_point;
    let [scale_a, scale_b] = attributes.scale;
    let (low, high) = (attributes.clamp_q[0] - zero_point, attributes.clamp_q[1] - zero_point);
    let put = move |t: f32| (round_clamp(t, low, high) + zero_point) as i16;
    let real_a = move |a: i16| (i32::from(a) - za) as f32 * scale_a;
    let real_b = move |b: i16| (i32::from(b) - zb) as f32 * scale_b;
    match kind(&attributes)? {
        Add => zip(context, |a, b| put(real_a(a) + real_b(b))),
        Sub => zip(context, |a, b| put(real_a(a) - real_b(b))),
        Mul => zip(context, |a: i16, b: i16| {
            put((i32::from(a) - za).wrapping_mul(i32::from(b) - zb) as f32 * scale_a)
        }),
        Min => zip(context, |a, b| put(if real_b(b) < real_a(a) { real_b(b) } else { real_a(a) })),
        Max => zip(context, |a, b| put(if real_b(b) > real_a(a) { real_b(b) } else { real_a(a) })),
        _ => Err(StepErrorKind::Attribute("kind")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SessionError;
    use crate::ops::testing::{Case, Random, Tensor, assert_close, bools, shape, tensor};

    fn attributes(kind: BinaryOp) -> BinaryAttributes {
        BinaryAttributes {
            kind: kind as u32,
            scale: [1.0, 1.0],
            clamp: [f32::NEG_INFINITY, f32::INFINITY],
            clamp_q: [-128, 127],
            reserved: 0,
        }
    }

    fn case(kind: BinaryOp, a: &Tensor, b: &Tensor, y: &[u32]) -> Case {
        let y = shape(a.dtype, y);
        Case::new(Op::Binary, Some(a.dtype), attributes(kind), &[a.clone(), b.clone()], y)
    }

    fn vector<T: crate::ops::testing::Typed>(values: &[T]) -> Tensor {
        tensor(&[values.len() as u32], values)
    }

    #[test]
    fn f32_kinds() {
        // numpy: a + b, a - b, a * b, a / b, np.power, np.minimum, np.maximum, np.mod, np.fmod,
        // np.where(a < 0, a * b, a), in float32.
        let a = vector(&[5.5f32, -5.5, 2.0, -1.0, f32::NAN]);
        let b = vector(&[2.0f32, 2.0, -3.0, 0.5, 1.0]);
        let n = f32::NAN;
        for (kind, want) in [
            (Add, [7.5, -3.5, -1.0, -0.5, n]),
            (Sub, [3.5, -7.5, 5.0, -1.5, n]),
            (Mul, [11.0, -11.0, -6.0, -0.5, n]),
            (Div, [2.75, -2.75, -0.666_666_7, -2.0, n]),
            (Pow, [30.25, 30.25, 0.125, n, n]),
            (Min, [2.0, -5.5, -3.0, -1.0, n]),
            (Max, [5.5, 2.0, 2.0, 0.5, n]),
            (Mod, [1.5, 0.5, -1.0, 0.0, n]),
            (Fmod, [1.5, -1.5, 2.0, 0.0, n]),
            (PRelu, [5.5, -11.0, 2.0, -0.5, n]),
        ] {
            assert_close(&case(kind, &a, &b, &[5]).run(), &want, 1e-6);
        }
    }

    #[test]
    fn clamp_lets_nan_through() {
        let a = vector(&[-1.0f32, 3.0, 9.0, f32::NAN]);
        let attributes = BinaryAttributes { clamp: [0.0, 6.0], ..attributes(Add) };
        let inputs = [a, vector(&[0.0f32; 4])];
        let case =
            Case::new(Op::Binary, Some(DType::F32), attributes, &inputs, shape(DType::F32, &[4]));
        assert_close(&case.run(), &[0.0, 3.0, 6.0, f32::NAN], 0.0);
    }

    #[test]
    fn integer_kinds() {
        let a = [7, -7, 7, -7, i32::MIN, 5, 0, 2];
        let b = [3, 3, -3, -3, -1, 0, 5, 31];
        for (kind, want) in [
            (Add, [10, -4, 4, -10, i32::MAX, 5, 5, 33]),
            (Div, [2, -2, -2, 2, i32::MIN, 0, 0, 0]),
            (Mod, [1, 2, -2, -1, 0, 0, 0, 2]),
            (Fmod, [1, -1, 1, -1, 0, 0, 0, 2]),
            (Pow, [343, -343, 0, 0, 0, 1, 0, i32::MIN]),
            (Min, [3, -7, -3, -7, i32::MIN, 0, 0, 2]),
            (Xor, [4, -6, -6, 4, i32::MAX, 5, 5, 29]),
            (BitAnd, [3, 1, 5, -7, i32::MIN, 0, 0, 2]),
            (BitOr, [7, -5, -1, -3, -1, 5, 5, 31]),
            (BitXor, [4, -6, -6, 4, i32::MAX, 5, 5, 29]),
            (ShiftLeft, [56, -56, 0, 0, 0, 5, 0, 0]),
            (ShiftRight, [0, -1, 0, -1, -1, 5, 0, 0]),
        ] {
            assert_eq!(
                case(kind, &vector(&a), &vector(&b), &[8]).run::<i32>(),
                want,
                "{}",
                kind.name()
            );
        }
        let a = [i64::MIN, i64::MIN, -1];
        let b = [-1i64, 0, -3];
        for (kind, want) in
            [(Div, [i64::MIN, 0, 0]), (Mod, [0, 0, -1]), (Fmod, [0, 0, -1]), (Pow, [0, 1, -1])]
        {
            assert_eq!(
                case(kind, &vector(&a), &vector(&b), &[3]).run::<i64>(),
                want,
                "{}",
                kind.name()
            );
        }
    }

    #[test]
    fn bool_kinds() {
        let (a, b) = (bools(&[4], &[0, 0, 1, 2]), bools(&[4], &[0, 1, 0, 1]));
        for (kind, want) in [(And, [0, 0, 0, 1]), (Or, [0, 1, 1, 1]), (Xor, [0, 1, 1, 0])] {
            assert_eq!(case(kind, &a, &b, &[4]).run::<u8>(), want, "{}", kind.name());
        }
    }

    #[test]
    fn broadcasting_agrees_with_indexing() {
        let shapes: [(&[u32], &[u32], &[u32]); 9] = [
            (&[2, 3, 70], &[2, 3, 70], &[2, 3, 70]),
            (&[2, 3, 70], &[70], &[2, 3, 70]),
            (&[2, 3, 70], &[], &[2, 3, 70]),
            (&[2, 1, 5], &[3, 1], &[2, 3, 5]),
            (&[1], &[4, 130], &[4, 130]),
            (&[2, 1, 3, 1], &[1, 4, 1, 5], &[2, 4, 3, 5]),
            (&[2, 1, 2, 1, 2, 1, 2, 1], &[1, 2, 1, 2, 1, 2, 1, 2], &[2, 2, 2, 2, 2, 2, 2, 2]),
            (&[], &[], &[]),
            (&[3, 0], &[0], &[3, 0]),
        ];
        let mut random = Random(3);
        for (a, b, y) in shapes {
            let count = |dims: &[u32]| dims.iter().product::<u32>() as usize;
            let (va, vb) = (random.f32s(count(a)), random.f32s(count(b)));
            let at = |dims: &[u32], mut element: usize| {
                let (mut index, mut stride) = (0, 1);
                for (axis, extent) in y.iter().enumerate().rev() {
                    let coordinate = element % *extent as usize;
                    element /= *extent as usize;
                    let Some(own) = (axis + dims.len()).checked_sub(y.len()) else { continue };
                    index += if dims[own] == 1 { 0 } else { coordinate * stride };
                    stride *= dims[own] as usize;
                }
                index
            };
            let want: Vec<f32> = (0..count(y)).map(|i| va[at(a, i)] - vb[at(b, i)]).collect();
            let got = case(Sub, &tensor(a, &va), &tensor(b, &vb), y).run::<f32>();
            assert_eq!(got, want, "{a:?} {b:?}");
        }
    }

    #[test]
    fn in_place_only_exactly_over_an_operand() {
        let values: Vec<f32> = (0..150).map(|value| value as f32).collect();
        let (a, b) = (tensor(&[2, 75], &values), tensor(&[75], &values[..75]));
        let want: Vec<f32> = (0..150).map(|i| (i - i % 75) as f32).collect();
        assert_eq!(case(Sub, &a, &b, &[2, 75]).sharing(0, 0).run::<f32>(), want);
        let overlapping = [
            case(Sub, &a, &b, &[2, 75]).sharing(0, 4),
            case(Sub, &a, &b, &[2, 75]).sharing(1, 0),
            case(Sub, &b, &b, &[2, 75]).sharing(0, 0),
        ];
        for case in overlapping {
            let error = case.run_bytes().unwrap_err();
            assert_eq!(error, SessionError::Step { step: 0, kind: StepErrorKind::Overlap });
        }
    }

    #[test]
    fn quantized_kinds_agree_with_the_formulas() {
        let mut random = Random(11);
        let (va, vb) = (random.i8s(300), random.i8s(300));
        let (za, zb, zo) = (-5, 17, 3);
        let scale = [0.71f32, 0.43];
        for kind in QUANTIZED {
            let attributes = BinaryAttributes {
                scale: if kind == Mul { [0.013, 9.0] } else { scale },
                clamp_q: [-120, 101],
                ..attributes(kind)
            };
            let inputs = [vector(&va).quantized(1.0, za), vector(&vb).quantized(1.0, zb)];
            let y = shape(DType::I8, &[300]).quantized(1.0, zo);
            let got = Case::new(Op::Binary, Some(DType::I8), attributes, &inputs, y).run::<i8>();
            for i in 0..300 {
                let (a, b) = (i32::from(va[i]) - za, i32::from(vb[i]) - zb);
                let (ra, rb) = (a as f32 * scale[0], b as f32 * scale[1]);
                let t = match kind {
                    Add => ra + rb,
                    Sub => ra - rb,
                    Mul => (a * b) as f32 * 0.013,
                    Min => ra.min(rb),
                    _ => ra.max(rb),
                };
                let want = (t.round_ties_even() as i32 + zo).clamp(-120, 101);
                assert_eq!(i32::from(got[i]), want, "{} {i}", kind.name());
            }
        }
    }

    #[test]
    fn hostile_steps_are_refused() {
        let a = vector(&[1i8, 2, 3]);
        let good = attributes(Add);
        for attributes in [
            BinaryAttributes { kind: 0, ..good },
            BinaryAttributes { kind: Div as u32, ..good },
            BinaryAttributes { kind: 99, ..good },
            BinaryAttributes { clamp_q: [i32::MIN, 0], ..good },
        ] {
            let case = Case::new(
                Op::Binary,
                Some(DType::I8),
                attributes,
                &[a.clone(), a.clone()],
                shape(DType::I8, &[3]),
            );
            assert!(case.run_bytes().is_err(), "{attributes:?}");
        }
        let shapes: [(&[u32], &[u32]); 4] =
            [(&[2], &[3]), (&[3, 1], &[3]), (&[3, 2], &[3]), (&[0], &[3])];
        for (b, y) in shapes {
            let b = tensor(b, &vec![1i8; b.iter().product::<u32>() as usize]);
            assert!(case(Add, &a, &b, y).run_bytes().is_err(), "{:?} {y:?}", b.dims);
        }
        assert!(case(And, &vector(&[1f32]), &vector(&[1f32]), &[1]).run_bytes().is_err());
        let mut short = case(Add, &a, &a, &[3]);
        short.attributes.truncate(8);
        assert!(short.run_bytes().is_err());
        let mut absent = case(Add, &a, &a, &[3]);
        absent.inputs[1] = None;
        assert!(absent.run_bytes().is_err());
    }

    #[test]
    fn strange_scales_run() {
        for scale in [f32::NAN, f32::INFINITY, f32::MIN, 0.0] {
            for kind in QUANTIZED {
                let attributes = BinaryAttributes { scale: [scale; 2], ..attributes(kind) };
                let a = vector(&[-128i8, 0, 127]).quantized(1.0, 127);
                let y = shape(DType::I8, &[3]).quantized(1.0, -128);
                Case::new(Op::Binary, Some(DType::I8), attributes, &[a.clone(), a], y)
                    .run_bytes()
                    .unwrap();
            }
        }
    }
}
