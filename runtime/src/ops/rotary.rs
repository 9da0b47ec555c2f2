//! Rotary positions (Su et al., RoFormer, 2021) of the queries and keys that one product gives, in f32: each pair of channels
//! is turned by an angle that grows with the token's position. The angles' cosines and sines are a constant table. Heads
//! may be normalised by their root mean square before.

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{Op, RotaryAttributes};
use crate::isa::Isa;
use crate::kernels::normalize_f32::{self, NormalizeF32, NormalizeF32Fn};
use crate::memory::{Context, Slot, same_bytes, typed, typed_mut};
use crate::ops::shape::expect_elementwise;
use crate::ops::{Operator, Step, expect_same_shape, expect_type, no_scratch, select_isa};

/// f32; the result may lie over x.
pub static ROTARY_F32: Operator = Operator {
    op: Op::Rotary,
    dtype: Some(DType::F32),
    check,
    select: select_isa!(run),
    scratch_bytes: no_scratch,
};

const POSITIONS: usize = 1;
const TABLE: usize = 2;
/// Optional scales of normalised queries and of normalised keys.
const SCALES: [usize; 2] = [3, 4];
/// Channels of a head that is normalised at most: a copy of it lies on the stack.
const MOST_NORMALIZED: usize = 512;

/// Channels of queries, keys and values of one token.
pub(super) fn token_channels(heads: u32, kv_heads: u32, size: u32) -> Option<usize> {
    let heads = u64::from(heads) + 2 * u64::from(kv_heads);
    usize::try_from(heads.checked_mul(u64::from(size))?).ok()
}

/// Checks x `[tokens, channels]` and one index per token.
pub(super) fn check_tokens(
    x: &Slot,
    channels: Option<usize>,
    indices: &Slot,
    operand: u8,
) -> Result<(), StepErrorKind> {
    if x.rank() != 2 || Some(x.dim(1)) != channels {
        return Err(StepErrorKind::OperandShape(0));
    }
    expect_type(indices, DType::I32, operand)?;
    if indices.rank() != 1 || indices.dim(0) != x.dim(0) {
        return Err(StepErrorKind::OperandShape(operand));
    }
    Ok(())
}

fn check(step: &Step<'_>) -> Result<(), StepErrorKind> {
    step.expect_counts(3, 5)?;
    expect_elementwise(step)?;
    let a: RotaryAttributes = step.expect_attributes()?;
    let (x, table, y) = (step.input(0)?, step.input(TABLE)?, step.output(0)?);
    expect_type(&x, DType::F32, 0)?;
    expect_type(&table, DType::F32, TABLE as u8)?;
    expect_type(&y, DType::F32, step.input_count() as u8)?;
    if a.size == 0 || a.rotated > a.size || !a.rotated.is_multiple_of(2) || a.interleaved > 1 {
        return Err(StepErrorKind::Attribute("rotated"));
    }
    check_tokens(
        &x,
        token_channels(a.heads, a.kv_heads, a.size),
        &step.input(POSITIONS)?,
        POSITIONS as u8,
    )?;
    if table.rank() != 2 || table.dim(1) != a.rotated as usize {
        return Err(StepErrorKind::OperandShape(TABLE as u8));
    }
    for operand in [POSITIONS, TABLE].into_iter().chain(SCALES) {
        let place = step.input_place(operand);
        if place.is_some_and(|place| same_bytes(&place, &y.place)) && y.elements() > 0 {
            return Err(StepErrorKind::Overlap);
        }
    }
    for index in SCALES {
        let Some(scale) = step.optional_input(index) else { continue };
        expect_type(&scale, DType::F32, index as u8)?;
        if scale.dims() != [a.size] || a.size as usize > MOST_NORMALIZED {
            return Err(StepErrorKind::OperandShape(index as u8));
        }
    }
    expect_same_shape(&y, &x, step.input_count() as u8)
}

fn run<const ISA: usize>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let a: RotaryAttributes = context.step.attributes();
    let output = context.step.input_count() as u8;
    let in_place = match (context.step.input_place(0), context.step.output_place(0)) {
        (Some(x), Some(y)) => same_bytes(&x, &y),
        _ => return Err(StepErrorKind::OperandCount),
    };
    let channels = context.step.input(0)?.dim(1);
    let operands = context.operands_over([0, POSITIONS, TABLE, SCALES[0], SCALES[1]], 0)?;
    let [x, positions, table, q_scale, k_scale] = operands.inputs;
    let positions: &[i32] = typed(positions, POSITIONS as u8)?;
    let table: &[f32] = typed(table, TABLE as u8)?;
    let scales: [&[f32]; 2] = [typed(q_scale, SCALES[0] as u8)?, typed(k_scale, SCALES[1] as u8)?];
    let y: &mut [f32] = typed_mut(operands.output, output)?;
    if !in_place {
        y.copy_from_slice(typed(x, 0)?);
    }
    if channels == 0 {
        return Ok(());
    }
    let normalize = normalize_f32::select(Isa::ALL[ISA]);
    let (size, rotated) = (a.size as usize, a.rotated as usize);
    for (y, position) in y.chunks_exact_mut(channels).zip(positions) {
        let position = usize::try_from(*position).map_err(|_| StepErrorKind::IndexOutOfRange)?;
        let row = match rotated {
            0 => &[],
            _ => table.chunks_exact(rotated).nth(position).ok_or(StepErrorKind::IndexOutOfRange)?,
        };
        let angles = row.split_at(rotated / 2);
        let (queries, rest) = y.split_at_mut(a.heads as usize * size);
        let keys = &mut rest[..a.kv_heads as usize * size];
        for (heads, scale) in [queries, keys].into_iter().zip(scales) {
            for head in heads.chunks_exact_mut(size) {
                normalize_head(head, scale, a.epsilon, normalize);
                rotate(&mut head[..rotated], angles, a.interleaved == 1);
            }
        }
    }
    Ok(())
}

fn normalize_head(head: &mut [f32], scale: &[f32], epsilon: f32, normalize: NormalizeF32Fn) {
    if scale.is_empty() {
        return;
    }
    let mut copy = [0.0; MOST_NORMALIZED];
    let copy = &mut copy[..head.len()];
    copy.copy_from_slice(head);
    let by = NormalizeF32 { row: head.len(), centred: false, epsilon, scale, bias: &[] };
    normalize(&by, copy, head);
}

/// `(a, b)` of each pair becomes `(a cos − b sin, b cos + a sin)`.
fn rotate(head: &mut [f32], (cosines, sines): (&[f32], &[f32]), interleaved: bool) {
    let turn = |a: &mut f32, b: &mut f32, cos: f32, sin: f32| {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    };
    let angles = cosines.iter().zip(sines);
    if interleaved {
        for (pair, (cos, sin)) in head.chunks_exact_mut(2).zip(angles) {
            if let [a, b] = pair {
                turn(a, b, *cos, *sin);
            }
        }
        return;
    }
    let (first, second) = head.split_at_mut(cosines.len());
    for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(angles) {
        turn(a, b, *cos, *sin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Case, Random, Tensor, assert_close, shape, tensor};

    const A: RotaryAttributes = RotaryAttributes {
        heads: 3,
        kv_heads: 1,
        size: 6,
        rotated: 4,
        interleaved: 0,
        epsilon: 1e-3,
        reserved: [0; 2],
    };
    const CHANNELS: usize = 30;

    fn table(positions: usize) -> (Vec<f32>, Tensor) {
        let angle = |p: usize, i: usize| p as f32 * if i == 0 { 1.0 } else { 0.1 };
        let row = |p| [angle(p, 0).cos(), angle(p, 1).cos(), angle(p, 0).sin(), angle(p, 1).sin()];
        let values: Vec<f32> = (0..positions).flat_map(row).collect();
        let tensor = tensor(&[positions as u32, 4], &values);
        (values, tensor)
    }

    fn case(a: RotaryAttributes, inputs: &[Tensor]) -> Case {
        let y = shape(DType::F32, &inputs[0].dims);
        Case::new(Op::Rotary, Some(DType::F32), a, inputs, y)
    }

    #[test]
    fn pairs_turn_by_their_position() {
        let mut random = Random(4);
        let x = random.f32s(2 * CHANNELS);
        let (angles, table) = table(6);
        let positions = [5usize, 2];
        let scales = [random.f32s(6), random.f32s(6)];
        for interleaved in [0, 1] {
            for normalized in [false, true] {
                let mut want = x.clone();
                for (token, position) in positions.iter().enumerate() {
                    for head in 0..4 {
                        let head_scale = &scales[usize::from(head == 3)];
                        let head = &mut want[token * CHANNELS + head * 6..][..6];
                        if normalized {
                            let square: f32 = head.iter().map(|v| v * v).sum::<f32>() / 6.0;
                            for (v, s) in head.iter_mut().zip(head_scale) {
                                *v = *v / (square + 1e-3).sqrt() * s;
                            }
                        }
                        for i in 0..2 {
                            let (a, b) =
                                if interleaved == 1 { (2 * i, 2 * i + 1) } else { (i, i + 2) };
                            let [cos, sin] =
                                [angles[position * 4 + i], angles[position * 4 + 2 + i]];
                            (head[a], head[b]) =
                                (head[a] * cos - head[b] * sin, head[b] * cos + head[a] * sin);
                        }
                    }
                }
                let mut inputs = vec![
                    tensor(&[2, CHANNELS as u32], &x),
                    tensor(&[2], &[5i32, 2]),
                    table.clone(),
                ];
                if normalized {
                    inputs.extend(scales.iter().map(|scale| tensor(&[6], scale)));
                }
                let a = RotaryAttributes { interleaved, ..A };
                assert_close(&case(a, &inputs).run::<f32>(), &want, 1e-5);
                assert_close(&case(a, &inputs).sharing(0, 0).run::<f32>(), &want, 1e-5);
            }
        }
    }

    #[test]
    fn positions_beyond_the_table_and_hostile_steps_are_refused() {
        let x = || tensor(&[1, CHANNELS as u32], &[1.0f32; CHANNELS]);
        let at = |position: i32| tensor(&[1], &[position]);
        let table = table(6).1;
        let of = |a, inputs: [Tensor; 3]| case(a, &inputs).run_bytes();
        assert!(of(A, [x(), at(5), table.clone()]).is_ok());
        for position in [-1, 6, i32::MAX, i32::MIN] {
            assert!(of(A, [x(), at(position), table.clone()]).is_err(), "{position}");
        }
        let refused = [
            RotaryAttributes { rotated: 3, ..A },
            RotaryAttributes { rotated: 8, ..A },
            RotaryAttributes { rotated: 2, ..A },
            RotaryAttributes { size: 0, ..A },
            RotaryAttributes { heads: 4, ..A },
            RotaryAttributes { heads: u32::MAX, kv_heads: u32::MAX, size: u32::MAX, ..A },
            RotaryAttributes { interleaved: 2, ..A },
        ];
        for a in refused {
            assert!(of(a, [x(), at(0), table.clone()]).is_err(), "{a:?}");
        }
        assert!(of(A, [x(), tensor(&[2], &[0i32; 2]), table.clone()]).is_err());
        assert!(of(A, [x(), tensor(&[1], &[0.0f32]), table.clone()]).is_err());
        let scale = tensor(&[5], &[1.0f32; 5]);
        assert!(case(A, &[x(), at(0), table, scale]).run_bytes().is_err());
    }
}
