//! Between real numbers and quantized integers: quantize, dequantize, and tables over i8 and i16.

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{Op, QuantizeAttributes};
use crate::isa::Isa;
use crate::kernels::lstm_i8::lut_i16;
use crate::kernels::lut_i8;
use crate::kernels::quantize::{Affine, Affinely};
use crate::memory::{Context, Slot, typed, typed_mut};
use crate::ops::elementwise::map_blocks;
use crate::ops::shape::{expect_apart, expect_elementwise, product};
use crate::ops::{
    Operator, Step, expect_same_shape, expect_type, expect_vector, no_scratch, select_isa,
};

/// f32 to i8.
pub static QUANTIZE_I8: Operator = Operator {
    op: Op::Quantize,
    dtype: Some(DType::I8),
    check: |step| check(step, DType::F32, DType::I8),
    select: select_isa!(run_quantize, i8),
    scratch_bytes: no_scratch,
};

/// f32 to u8.
pub static QUANTIZE_U8: Operator = Operator {
    op: Op::Quantize,
    dtype: Some(DType::U8),
    check: |step| check(step, DType::F32, DType::U8),
    select: select_isa!(run_quantize, u8),
    scratch_bytes: no_scratch,
};

/// u8 to f32.
pub static DEQUANTIZE_U8: Operator = Operator {
    op: Op::Dequantize,
    dtype: Some(DType::U8),
    check: |step| check(step, DType::U8, DType::F32),
    select: select_isa!(run_dequantize, u8),
    scratch_bytes: no_scratch,
};

/// i8 to f32.
pub static DEQUANTIZE_I8: Operator = Operator {
    op: Op::Dequantize,
    dtype: Some(DType::I8),
    check: |step| check(step, DType::I8, DType::F32),
    select: select_isa!(run_dequantize, i8),
    scratch_bytes: no_scratch,
};

/// f32 to i16, whose zero point is 0.
pub static QUANTIZE_I16: Operator = Operator {
    op: Op::Quantize,
    dtype: Some(DType::I16),
    check: |step| check(step, DType::F32, DType::I16),
    select: select_isa!(run_quantize, i16),
    scratch_bytes: no_scratch,
};

/// i16 to f32.
pub static DEQUANTIZE_I16: Operator = Operator {
    op: Op::Dequantize,
    dtype: Some(DType::I16),
    check: |step| check(step, DType::I16, DType::F32),
    select: select_isa!(run_dequantize, i16),
    scratch_bytes: no_scratch,
};

/// i32 to f32.
pub static DEQUANTIZE_I32: Operator = Operator {
    op: Op::Dequantize,
    dtype: Some(DType::I32),
    check: |step| check(step, DType::I32, DType::F32),
    select: |_| run_dequantize_i32,
    scratch_bytes: no_scratch,
};

/// Any function of one i8, as a table indexed by the value plus 128. Inputs: x, table.
pub static LUT_I8: Operator = Operator {
    op: Op::Lut,
    dtype: Some(DType::I8),
    check: check_lut,
    select: select_isa!(run_lut),
    scratch_bytes: no_scratch,
};

/// A function of one i16, between the entries of a table by straight lines. Inputs: x, table (i16) of
/// 2ⁿ + 1 entries, n from 1 to 16, for the numbers −32768, −32768 + 2^(16 − n), … 32768.
pub static LUT_I16: Operator = Operator {
    op: Op::Lut,
    dtype: Some(DType::I16),
    check: check_lut_i16,
    select: |_| run_lut_i16,
    scratch_bytes: no_scratch,
};

fn check(step: &Step<'_>, from: DType, to: DType) -> Result<(), StepErrorKind> {
    step.expect_counts(1, 3)?;
    expect_apart(step)?;
    let attributes: QuantizeAttributes = step.expect_attributes()?;
    let (x, y) = (step.input(0)?, step.output(0)?);
    let output_operand = step.input_count() as u8;
    expect_type(&x, from, 0)?;
    expect_type(&y, to, output_operand)?;
    expect_same_shape(&y, &x, output_operand)?;
    if step.input_count() == 1 {
        let quantized = if from == DType::F32 { y } else { x };
        if quantized.scale <= 0.0 {
            return Err(StepErrorKind::Attribute("scale"));
        }
        return Ok(());
    }
    let axis = attributes.axis as usize;
    if axis >= x.rank() {
        return Err(StepErrorKind::Attribute("axis"));
    }
    expect_vector(&step.input(1)?, DType::F32, x.dim(axis), 1)?;
    expect_vector(&step.input(2)?, DType::I32, x.dim(axis), 2)
}

/// Scale and zero point of each element.
struct Channels<'a> {
    scales: &'a [f32],
    zero_points: &'a [i32],
    /// Elements between one index of the axis and the next.
    inner: usize,
    tensor: Affine,
}

impl Channels<'_> {
    /// Those of all elements, if they share them.
    fn tensor(&self) -> Option<Affine> {
        self.scales.is_empty().then_some(self.tensor)
    }

    #[inline(always)]
    fn of(&self, element: usize) -> Affine {
        if self.scales.is_empty() {
            return self.tensor;
        }
        let channel = element / self.inner % self.scales.len();
        let zero_point = self.zero_points.get(channel).copied().unwrap_or(0);
        Affine { scale: self.scales[channel], zero_point: zero_point.clamp(-(1 << 16), 1 << 16) }
    }
}

/// Elements between one index of `axis` and the next, and the axis' extent.
fn axis_layout(x: &Slot, axis: usize) -> (usize, usize) {
    let inner = product(x.dims().get(axis + 1..).unwrap_or(&[]));
    (inner.max(1), x.dim(axis))
}

fn channels<'a>(
    step: &Step<'_>,
    quantized: &Slot,
    scales: &'a [u8],
    zero_points: &'a [u8],
) -> Result<Channels<'a>, StepErrorKind> {
    let (inner, extent) =
        axis_layout(quantized, step.attributes::<QuantizeAttributes>().axis as usize);
    let (scales, zero_points): (&[f32], &[i32]) = (typed(scales, 1)?, typed(zero_points, 2)?);
    Ok(Channels {
        scales: scales.get(..extent).unwrap_or(&[]),
        zero_points,
        inner,
        tensor: Affine { scale: quantized.scale, zero_point: quantized.zero_point },
    })
}

fn run_quantize<T: Affinely, const ISA: usize>(
    context: &mut Context<'_>,
) -> Result<(), StepErrorKind> {
    let step = context.step;
    let slot = step.output(0)?;
    let operands = context.operands([0, 1, 2])?;
    let [x, scales, zero_points] = operands.inputs;
    let channels = channels(&step, &slot, scales, zero_points)?;
    let (x, y): (&[f32], &mut [T]) = (typed(x, 0)?, typed_mut(operands.output, 1)?);
    match channels.tensor() {
        Some(numbers) => T::select_quantize(Isa::ALL[ISA])(&numbers, x, y),
        None => {
            for (index, (to, from)) in y.iter_mut().zip(x).enumerate() {
                *to = channels.of(index).quantize(*from);
            }
        }
    }
    Ok(())
}

fn run_dequantize<T: Affinely, const ISA: usize>(
    context: &mut Context<'_>,
) -> Result<(), StepErrorKind> {
    let step = context.step;
    let slot = step.input(0)?;
    let operands = context.operands([0, 1, 2])?;
    let [x, scales, zero_points] = operands.inputs;
    let channels = channels(&step, &slot, scales, zero_points)?;
    let (x, y): (&[T], &mut [f32]) = (typed(x, 0)?, typed_mut(operands.output, 1)?);
    match channels.tensor() {
        Some(numbers) => T::select_dequantize(Isa::ALL[ISA])(&numbers, x, y),
        None => {
            for (index, (to, from)) in y.iter_mut().zip(x).enumerate() {
                *to = channels.of(index).dequantize(*from);
            }
        }
    }
    Ok(())
}

fn run_dequantize_i32(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let step = context.step;
    let slot = step.input(0)?;
    let operands = context.operands([0, 1, 2])?;
    let [x, scales, zero_points] = operands.inputs;
    let channels = channels(&step, &slot, scales, zero_points)?;
    let (x, y): (&[i32], &mut [f32]) = (typed(x, 0)?, typed_mut(operands.output, 1)?);
    for (index, (to, from)) in y.iter_mut().zip(x).enumerate() {
        let Affine { scale, zero_point } = channels.of(index);
        *to = (i64::from(*from) - i64::from(zero_point)) as f32 * scale;
    }
    Ok(())
}

fn check_lut(step: &Step<'_>) -> Result<(), StepErrorKind> {
    step.expect_counts(2, 2)?;
    expect_elementwise(step)?;
    let (x, table, y) = (step.input(0)?, step.input(1)?, step.output(0)?);
    expect_type(&x, DType::I8, 0)?;
    expect_vector(&table, DType::I8, lut_i8::LEN, 1)?;
    expect_type(&y, DType::I8, 2)?;
    expect_same_shape(&y, &x, 2)
}

fn check_lut_i16(step: &Step<'_>) -> Result<(), StepErrorKind> {
    step.expect_counts(2, 2)?;
    expect_elementwise(step)?;
    let (x, table, y) = (step.input(0)?, step.input(1)?, step.output(0)?);
    expect_type(&x, DType::I16, 0)?;
    expect_type(&table, DType::I16, 1)?;
    expect_type(&y, DType::I16, 2)?;
    lut_i16_bits(&table, 1)?;
    expect_same_shape(&y, &x, 2)
}

/// Bits of the numbers within an interval of a table over i16, 16 − n for 2ⁿ + 1 entries; refuses other tables.
pub(crate) fn lut_i16_bits(table: &Slot, operand: u8) -> Result<u32, StepErrorKind> {
    let intervals = table.elements().wrapping_sub(1);
    expect_vector(table, DType::I16, 0, operand)?;
    if !intervals.is_power_of_two() || !(2..=1 << 16).contains(&intervals) {
        return Err(StepErrorKind::OperandShape(operand));
    }
    Ok(16 - intervals.trailing_zeros())
}

fn run_lut_i16(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let bits = lut_i16_bits(&context.step.input(1)?, 1)?;
    let ([x, table], mut y) = context.elementwise::<i16, i16, 2>([0, 1])?;
    for index in 0..y.len() {
        y.set(index, lut_i16(x.get(index), bits, |at| table.get(at)));
    }
    Ok(())
}

fn run_lut<const ISA: usize>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    // A copy: the output may lie over the table's memory when there are 256 elements.
    let mut table = [0; lut_i8::LEN];
    let ([entries], _) = context.elementwise::<i8, i8, 1>([1])?;
    entries.read(0, &mut table);
    let look_up = lut_i8::select(Isa::ALL[ISA]);
    map_blocks(context, |values| look_up(&table, values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Case, Tensor, assert_close, shape, tensor};

    fn case(op: Op, x: Tensor, y: Tensor) -> Case {
        let integer = if op == Op::Quantize { y.dtype } else { x.dtype };
        Case::new(op, Some(integer), QuantizeAttributes::default(), &[x], y)
    }

    #[test]
    fn both_signs_round_and_saturate() {
        // round(x / 0.5) + zero point: -4.5 -> -4, 2.5 -> 2, the rest saturates.
        let x = [-2.25f32, 1.25, 0.0, 1e9, -1e9, f32::INFINITY];
        let signed = shape(DType::I8, &[6]).quantized(0.5, -3);
        assert_eq!(
            case(Op::Quantize, tensor(&[6], &x), signed).run::<i8>(),
            [-7, -1, -3, 127, -128, 127]
        );
        let unsigned = shape(DType::U8, &[6]).quantized(0.5, 130);
        assert_eq!(
            case(Op::Quantize, tensor(&[6], &x), unsigned).run::<u8>(),
            [126, 132, 130, 255, 0, 255]
        );
        let signed = tensor(&[3], &[-128i8, -3, 127]).quantized(0.5, -3);
        let reals = case(Op::Dequantize, signed, shape(DType::F32, &[3])).run();
        assert_close(&reals, &[-62.5, 0.0, 65.0], 0.0);
        let unsigned = tensor(&[3], &[0u8, 130, 255]).quantized(0.5, 130);
        let reals = case(Op::Dequantize, unsigned, shape(DType::F32, &[3])).run();
        assert_close(&reals, &[-65.0, 0.0, 62.5], 0.0);
    }

    #[test]
    fn one_scale_per_index_of_an_axis() {
        let x = tensor(&[2, 3], &[1.0f32, 2.0, 3.0, -1.0, -2.0, 300.0]);
        let (scales, zeros) = (tensor(&[3], &[1f32, 0.5, 2.0]), tensor(&[3], &[0i32, 10, 128]));
        let attributes = QuantizeAttributes { axis: 1, ..QuantizeAttributes::default() };
        let inputs = [x, scales.clone(), zeros.clone()];
        let y = shape(DType::U8, &[2, 3]);
        let got = Case::new(Op::Quantize, Some(DType::U8), attributes, &inputs, y).run::<u8>();
        assert_eq!(got, [1, 14, 130, 0, 6, 255]);
        let inputs = [tensor(&[2, 3], &got), scales, zeros];
        let y = shape(DType::F32, &[2, 3]);
        let got = Case::new(Op::Dequantize, Some(DType::U8), attributes, &inputs, y).run();
        assert_close(&got, &[1.0, 2.0, 4.0, 0.0, -2.0, 254.0], 0.0);
    }

    #[test]
    fn hostile_steps_are_refused() {
        let x = || tensor(&[2], &[1f32, 2.0]);
        let refused = [
            case(Op::Quantize, x(), shape(DType::U8, &[2])),
            case(Op::Quantize, x(), shape(DType::U8, &[3]).quantized(1.0, 0)),
            case(Op::Dequantize, tensor(&[2], &[1u8, 2]), shape(DType::I32, &[2])),
            case(Op::Quantize, x(), shape(DType::U8, &[2]).quantized(1.0, 0)).sharing(0, 0),
        ];
        for (index, case) in refused.iter().enumerate() {
            assert!(case.run_bytes().is_err(), "{index}");
        }
    }
}
