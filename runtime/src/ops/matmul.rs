//! Product of two activations: `[…, m, k] × […, k, n]`, leading axes broadcast as in NumPy.

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{MAX_RANK, MatMulAttributes, Op};
use crate::isa::Isa;
use crate::kernels::matmul_f32::{self, MatMulF32};
use crate::memory::{Context, Slot, typed, typed_mut};
#[cfg(feature = "std")]
use crate::ops::parallel::{Rates, Work};
#[cfg(feature = "std")]
use crate::ops::shape::product;
use crate::ops::shape::{Walk, broadcast_strides, expect_apart, expect_types};
use crate::ops::{Operator, RunFn, Step, no_scratch, select_isa};
#[cfg(feature = "std")]
use crate::threads::{Cut, Disjoint};

/// f32. Either factor may be stored transposed.
pub static MATMUL_F32: Operator = Operator {
    op: Op::MatMul,
    dtype: Some(DType::F32),
    check: |step| check(step, DType::F32),
    select: select_isa!(run),
    scratch_bytes: no_scratch,
};

const fn integer(
    dtype: DType,
    check: fn(&Step<'_>) -> Result<(), StepErrorKind>,
    run: fn(Isa) -> RunFn,
) -> Operator {
    Operator { op: Op::MatMul, dtype: Some(dtype), check, select: run, scratch_bytes: no_scratch }
}

/// i32; sums wrap.
pub static MATMUL_I32: Operator = integer(DType::I32, |step| check(step, DType::I32), |_| run_i32);
/// i64; sums wrap.
pub static MATMUL_I64: Operator = integer(DType::I64, |step| check(step, DType::I64), |_| run_i64);

/// Rows and columns of a matrix, as it is used.
fn matrix(slot: &Slot, transposed: bool) -> [usize; 2] {
    let [rows, columns] = [slot.dim(slot.rank() - 2), slot.dim(slot.rank() - 1)];
    if transposed { [columns, rows] } else { [rows, columns] }
}

fn check(step: &Step<'_>, dtype: DType) -> Result<(), StepErrorKind> {
    step.expect_counts(2, 2)?;
    expect_types(step, &[dtype, dtype], dtype)?;
    expect_apart(step)?;
    let attributes: MatMulAttributes = step.expect_attributes()?;
    if attributes.transpose_a > 1 || attributes.transpose_b > 1 {
        return Err(StepErrorKind::Attribute("transpose"));
    }
    let (a, b, y) = (step.input(0)?, step.input(1)?, step.output(0)?);
    for (operand, slot) in [(0, &a), (1, &b), (2, &y)] {
        if slot.rank() < 2 {
            return Err(StepErrorKind::OperandShape(operand));
        }
    }
    let [m, k] = matrix(&a, attributes.transpose_a == 1);
    let [b_k, n] = matrix(&b, attributes.transpose_b == 1);
    if b_k != k {
        return Err(StepErrorKind::OperandShape(1));
    }
    if matrix(&y, false) != [m, n] {
        return Err(StepErrorKind::OperandShape(2));
    }
    let batch = |slot: &Slot| slot.rank() - 2;
    for (operand, slot) in [(0, &a), (1, &b)] {
        let own = slot.dims()[..batch(slot)].iter().rev();
        let to = y.dims()[..batch(&y)].iter().rev();
        let fits = batch(slot) <= batch(&y) && own.zip(to).all(|(own, to)| *own == 1 || own == to);
        if !fits {
            return Err(StepErrorKind::OperandShape(operand));
        }
    }
    Ok(())
}

/// Strides of a factor along the output's leading axes.
fn batch_strides(slot: &Slot, rank: usize) -> [usize; MAX_RANK] {
    let mut strides = broadcast_strides(slot, rank);
    strides[rank - 2..].fill(0);
    strides
}

/// Rows that stay together when one product is cut: a block of the kernels, within which the order of sums doesn't
/// depend on the rows around it.
#[cfg(feature = "std")]
const UNIT_ROWS: usize = matmul_f32::BLOCK_ROWS;

/// What is cut.
#[cfg(feature = "std")]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Axis {
    Products,
    /// Of the one product.
    Rows,
}

/// What is cut, and its units.
#[cfg(feature = "std")]
fn axis(products: usize, m: usize, trans_a: bool) -> (Axis, usize) {
    if products == 1 && !trans_a { (Axis::Rows, m / UNIT_ROWS) } else { (Axis::Products, products) }
}

/// What there is to share.
#[cfg(feature = "std")]
pub(super) fn work(step: &Step<'_>, isa: Isa) -> Option<Work> {
    let attributes: MatMulAttributes = step.attributes();
    let (a, y) = (step.input(0).ok()?, step.output(0).ok()?);
    let trans_a = attributes.transpose_a == 1;
    let [m, k] = matrix(&a, trans_a);
    let (_, units) = axis(product(&y.dims()[..y.rank() - 2]), m, trans_a);
    let ns = y.elements() as f32 * k as f32 / Rates::CONV_F32.of(isa);
    Some(Work { units, ns, is_by_rows: false })
}

fn run<const ISA: usize>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let step = context.step;
    let attributes: MatMulAttributes = step.attributes();
    let (trans_a, trans_b) = (attributes.transpose_a == 1, attributes.transpose_b == 1);
    let (a, b, y) = (step.input(0)?, step.input(1)?, step.output(0)?);
    let [m, k] = matrix(&a, trans_a);
    let [_, n] = matrix(&b, trans_b);
    if y.elements() == 0 {
        return Ok(());
    }
    let rank = y.rank();
    let walk =
        Walk::new(&y.dims()[..rank - 2], &[batch_strides(&a, rank), batch_strides(&b, rank)]);
    #[cfg(feature = "std")]
    let products = product(&y.dims()[..rank - 2]);
    #[cfg(feature = "std")]
    let crew = context.take_crew();
    let operands = context.operands([0, 1])?;
    let [a, b] = operands.inputs;
    let (a, b): (&[f32], &[f32]) = (typed(a, 0)?, typed(b, 1)?);
    let y: &mut [f32] = typed_mut(operands.output, 2)?;
    if k == 0 {
        // Sums of nothing.
        y.fill(0.0);
        return Ok(());
    }
    let kernel = matmul_f32::select(Isa::ALL[ISA]);
    #[cfg(feature = "std")]
    if let Some(mut crew) = crew {
        let (axis, units) = axis(products, m, trans_a);
        let cut = match axis {
            Axis::Rows => Cut::of_len(units, crew.parts, UNIT_ROWS, m),
            Axis::Products => crew.cut(units),
        };
        let outputs = Disjoint::new(y, cut, if axis == Axis::Rows { UNIT_ROWS * n } else { m * n });
        return crew.run(cut.parts, |part, _| {
            let output = outputs.take(part).ok_or(StepErrorKind::TooLarge)?;
            if axis == Axis::Rows {
                let rows = cut.elements(part, UNIT_ROWS, m);
                let (m, a) = (rows.len(), &a[rows.start * k..rows.end * k]);
                kernel(&mut MatMulF32 { m, k, n, a, b, output, trans_a, trans_b });
                return Ok(());
            }
            let (mut index, own) = (0, cut.range(part));
            let mut outputs = output.chunks_exact_mut(m * n);
            walk.for_each_without(&[], [0, 0], |[a_at, b_at]| {
                index += 1;
                if !own.contains(&(index - 1)) {
                    return;
                }
                let Some(output) = outputs.next() else { return };
                let (a, b) = (&a[a_at..a_at + m * k], &b[b_at..b_at + k * n]);
                kernel(&mut MatMulF32 { m, k, n, a, b, output, trans_a, trans_b });
            });
            Ok(())
        });
    }
    let mut outputs = y.chunks_exact_mut(m * n);
    walk.for_each_without(&[], [0, 0], |[a_at, b_at]| {
        let Some(output) = outputs.next() else { return };
        let (a, b) = (&a[a_at..a_at + m * k], &b[b_at..b_at + k * n]);
        kernel(&mut MatMulF32 { m, k, n, a, b, output, trans_a, trans_b });
    });
    Ok(())
}

macro_rules! run_integer {
    ($run:ident, $ty:ty) => {
        fn $run(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
            let step = context.step;
            let attributes: MatMulAttributes = step.attributes();
            let (trans_a, trans_b) = (attributes.transpose_a == 1, attributes.transpose_b == 1);
            let (a, b, y) = (step.input(0)?, step.input(1)?, step.output(0)?);
            let [m, k] = matrix(&a, trans_a);
            let [_, n] = matrix(&b, trans_b);
            if y.elements() == 0 {
                return Ok(());
            }
            let rank = y.rank();
            let strides = [batch_strides(&a, rank), batch_strides(&b, rank)];
            let walk = Walk::new(&y.dims()[..rank - 2], &strides);
            let operands = context.operands([0, 1])?;
            let [a, b] = operands.inputs;
            let (a, b): (&[$ty], &[$ty]) = (typed(a, 0)?, typed(b, 1)?);
            let y: &mut [$ty] = typed_mut(operands.output, 2)?;
            y.fill(0);
            if k == 0 {
                return Ok(());
            }
            let mut outputs = y.chunks_exact_mut(m * n);
            walk.for_each_without(&[], [0, 0], |[a_at, b_at]| {
                let Some(output) = outputs.next() else { return };
                let (a, b) = (&a[a_at..a_at + m * k], &b[b_at..b_at + k * n]);
                for (i, row) in output.chunks_exact_mut(n).enumerate() {
                    for l in 0..k {
                        let factor = if trans_a { a[l * m + i] } else { a[i * k + l] };
                        for (j, sum) in row.iter_mut().enumerate() {
                            let other = if trans_b { b[j * k + l] } else { b[l * n + j] };
                            *sum = sum.wrapping_add(factor.wrapping_mul(other));
                        }
                    }
                }
            });
            Ok(())
        }
    };
}
run_integer!(run_i32, i32);
run_integer!(run_i64, i64);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Case, Random, Tensor, assert_close, shape, tensor};

    /// Sums of up to 40 products below 4.
    const TOLERANCE: f32 = 1e-5;

    fn case(transpose: [u32; 2], a: (&[u32], &[f32]), b: (&[u32], &[f32]), y: &[u32]) -> Case {
        let [transpose_a, transpose_b] = transpose;
        let attributes = MatMulAttributes { transpose_a, transpose_b, reserved: [0; 2] };
        let inputs = [tensor(a.0, a.1), tensor(b.0, b.1)];
        Case::new(Op::MatMul, Some(DType::F32), attributes, &inputs, shape(DType::F32, y))
    }

    #[test]
    fn batches_broadcast_and_factors_transpose() {
        // Leading axes of a, b and the product.
        let batches: [(&[u32], &[u32], &[u32]); 6] = [
            (&[], &[], &[]),
            (&[3], &[3], &[3]),
            (&[2, 3], &[], &[2, 3]),
            (&[2, 1], &[3], &[2, 3]),
            (&[1, 2, 1, 2], &[3, 1, 2, 1], &[3, 2, 2, 2]),
            (&[1], &[2], &[2]),
        ];
        let mut random = Random(21);
        for (a_batch, b_batch, y_batch) in batches {
            for transpose in [[0, 0], [0, 1], [1, 0], [1, 1]] {
                let (m, k, n) = (5u32, 40u32, 7u32);
                let a_matrix = if transpose[0] == 1 { [k, m] } else { [m, k] };
                let b_matrix = if transpose[1] == 1 { [n, k] } else { [k, n] };
                let (a, b) = ([a_batch, &a_matrix].concat(), [b_batch, &b_matrix].concat());
                let y = [y_batch, &[m, n]].concat();
                let values = |random: &mut Random, dims: &[u32]| {
                    random.f32s(dims.iter().product::<u32>() as usize)
                };
                let (va, vb) = (values(&mut random, &a), values(&mut random, &b));
                // Start of a factor's matrix for batch number `at` of the product.
                let start = |own: &[u32], size: u32, mut at: u32| {
                    let (mut start, mut stride) = (0, size);
                    for (axis, extent) in y_batch.iter().enumerate().rev() {
                        let coordinate = at % extent;
                        at /= extent;
                        let Some(axis) = (axis + own.len()).checked_sub(y_batch.len()) else {
                            continue;
                        };
                        start += if own[axis] == 1 { 0 } else { coordinate * stride };
                        stride *= own[axis];
                    }
                    start
                };
                let mut want = vec![];
                for batch in 0..y_batch.iter().product::<u32>() {
                    let (a_at, b_at) = (start(a_batch, m * k, batch), start(b_batch, k * n, batch));
                    for i in 0..m {
                        for j in 0..n {
                            let product = |l: u32| {
                                let a = if transpose[0] == 1 { l * m + i } else { i * k + l };
                                let b = if transpose[1] == 1 { j * k + l } else { l * n + j };
                                f64::from(va[(a_at + a) as usize])
                                    * f64::from(vb[(b_at + b) as usize])
                            };
                            want.push((0..k).map(product).sum::<f64>() as f32);
                        }
                    }
                }
                let case = case(transpose, (&a, &va), (&b, &vb), &y);
                for isa in Isa::available() {
                    let bytes = case.run_on(Some(isa)).unwrap();
                    let got: Vec<f32> = bytes
                        .chunks_exact(4)
                        .map(|x| f32::from_le_bytes(x.try_into().unwrap()))
                        .collect();
                    assert_close(&got, &want, TOLERANCE);
                }
            }
        }
    }

    #[test]
    fn integers_are_exact_and_wrap() {
        let a: Vec<i32> = (0..2 * 3 * 4).map(|i| i * 7 - 50).collect();
        let b: Vec<i32> = (0..4 * 2).map(|i| 1 << (i * 4)).collect();
        for transpose in [[0, 0], [0, 1], [1, 0], [1, 1]] {
            let attributes = MatMulAttributes {
                transpose_a: transpose[0],
                transpose_b: transpose[1],
                reserved: [0; 2],
            };
            let a_dims = if transpose[0] == 1 { [2, 4, 3] } else { [2, 3, 4] };
            let b_dims = if transpose[1] == 1 { [2, 4] } else { [4, 2] };
            let mut want = vec![];
            for batch in 0..2 {
                for i in 0..3 {
                    for j in 0..2 {
                        let product = |l: usize| {
                            let at_a = if transpose[0] == 1 { l * 3 + i } else { i * 4 + l };
                            let at_b = if transpose[1] == 1 { j * 4 + l } else { l * 2 + j };
                            i128::from(a[batch * 12 + at_a]) * i128::from(b[at_b])
                        };
                        want.push((0..4).map(product).sum::<i128>());
                    }
                }
            }
            let case = |dtype: DType, inputs: &[Tensor]| {
                Case::new(Op::MatMul, Some(dtype), attributes, inputs, shape(dtype, &[2, 3, 2]))
            };
            let got = case(DType::I32, &[tensor(&a_dims, &a), tensor(&b_dims, &b)]).run::<i32>();
            assert_eq!(got, want.iter().map(|x| *x as i32).collect::<Vec<_>>());
            let wide = |x: &[i32]| x.iter().map(|x| i64::from(*x) << 20).collect::<Vec<_>>();
            let inputs = [tensor(&a_dims, &wide(&a)), tensor(&b_dims, &wide(&b))];
            let got = case(DType::I64, &inputs).run::<i64>();
            assert_eq!(got, want.iter().map(|x| (*x << 40) as i64).collect::<Vec<_>>());
        }
    }

    #[test]
    fn empty_sums_are_zero() {
        assert_eq!(case([0, 0], (&[2, 0], &[]), (&[0, 2], &[]), &[2, 2]).run::<f32>(), [0.0; 4]);
        assert_eq!(case([0, 0], (&[0, 2], &[]), (&[2, 1], &[1.0; 2]), &[0, 1]).run::<f32>(), []);
    }

    #[test]
    fn hostile_steps_are_refused() {
        let ones = [1.0f32; 12];
        let refused = [
            case([0, 0], (&[2, 3], &ones[..6]), (&[2, 3], &ones[..6]), &[2, 3]),
            case([2, 0], (&[2, 2], &ones[..4]), (&[2, 2], &ones[..4]), &[2, 2]),
            case([0, 0], (&[2, 2], &ones[..4]), (&[2, 2], &ones[..4]), &[2, 3]),
            case([0, 0], (&[2], &ones[..2]), (&[2, 2], &ones[..4]), &[1, 2]),
            case([0, 0], (&[2, 2], &ones[..4]), (&[2], &ones[..2]), &[2, 1]),
            case([0, 0], (&[3, 2, 2], &ones), (&[2, 2], &ones[..4]), &[2, 2, 2]),
            case([0, 0], (&[3, 2, 2], &ones), (&[2, 2], &ones[..4]), &[2, 2]),
            case([0, 0], (&[1, 2, 2], &ones[..4]), (&[2, 2], &ones[..4]), &[2, 2]),
            case([0, 0], (&[2, 2], &ones[..4]), (&[2, 2], &ones[..4]), &[2, 2]).sharing(0, 0),
        ];
        for (index, case) in refused.iter().enumerate() {
            assert!(case.run_bytes().is_err(), "{index}");
        }
    }
}
