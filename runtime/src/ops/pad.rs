//! Elements added around a tensor of any type: a constant, mirrored, repeated or wrapped.

use crate::error::StepErrorKind;
use crate::format::{MAX_RANK, Op, PadAttributes};
use crate::memory::Context;
use crate::ops::shape::{expect_apart, product, strides};
use crate::ops::{Operator, Step, no_scratch};

/// Elements added around.
pub static PAD: Operator =
    Operator { op: Op::Pad, dtype: None, check, select: |_| run, scratch_bytes: no_scratch };

/// Where padding comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Constant,
    /// Mirrored at the first and last element, which are not repeated.
    Reflect,
    Edge,
    Wrap,
}

impl Mode {
    fn from_number(number: u32) -> Option<Mode> {
        [Mode::Constant, Mode::Reflect, Mode::Edge, Mode::Wrap]
            .get(number.checked_sub(1)? as usize)
            .copied()
    }

    /// The input index that output index `index` shows; `None` for the constant.
    fn source(self, index: usize, before: usize, extent: usize) -> Option<usize> {
        let (index, before, size) = (index as i64, before as i64, extent as i64);
        let at = index - before;
        let inside = (0..size).contains(&at);
        let at = match self {
            _ if inside => at,
            Mode::Constant => return None,
            // `check` made sure that the mirror image lies inside.
            Mode::Reflect if at < 0 => -at,
            Mode::Reflect => 2 * (size - 1) - at,
            Mode::Edge => at.clamp(0, size - 1),
            Mode::Wrap => at.rem_euclid(size),
        };
        Some(at as usize)
    }
}

fn check(step: &Step<'_>) -> Result<(), StepErrorKind> {
    step.expect_counts(1, 1)?;
    expect_apart(step)?;
    let attributes: PadAttributes = step.expect_attributes()?;
    let mode = Mode::from_number(attributes.mode).ok_or(StepErrorKind::Attribute("mode"))?;
    let (x, y) = (step.input(0)?, step.output(0)?);
    if x.dtype != y.dtype {
        return Err(StepErrorKind::OperandType(1));
    }
    if x.rank() != y.rank() {
        return Err(StepErrorKind::OperandShape(1));
    }
    if mode != Mode::Constant && x.elements() == 0 && y.elements() != 0 {
        return Err(StepErrorKind::OperandShape(0));
    }
    for axis in 0..x.rank() {
        let (extent, before) = (x.dim(axis) as u64, u64::from(attributes.before[axis]));
        let after = (y.dim(axis) as u64)
            .checked_sub(extent + before)
            .ok_or(StepErrorKind::OperandShape(1))?;
        if mode == Mode::Reflect && before.max(after) >= extent && before.max(after) > 0 {
            return Err(StepErrorKind::Attribute("before"));
        }
    }
    Ok(())
}

fn run(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let step = context.step;
    let attributes: PadAttributes = step.attributes();
    let mode = Mode::from_number(attributes.mode).ok_or(StepErrorKind::Attribute("mode"))?;
    let (x, y) = (step.input(0)?, step.output(0)?);
    let size = x.dtype.size();
    let value =
        (u64::from(attributes.value[1]) << 32 | u64::from(attributes.value[0])).to_le_bytes();
    let operands = context.operands([0])?;
    let (input, output) = (operands.inputs[0], operands.output);
    if output.is_empty() {
        return Ok(());
    }
    // Axes behind the last padded one move as blocks.
    let padded = (0..x.rank()).rev().find(|axis| x.dim(*axis) != y.dim(*axis));
    let Some(last) = padded else {
        output.copy_from_slice(input);
        return Ok(());
    };
    let block = product(&y.dims()[last + 1..]) * size;
    let (extent, out_extent) = (x.dim(last), y.dim(last));
    let before = attributes.before.map(|before| before as usize);
    let x_strides = strides(&x);
    let mut index = [0; MAX_RANK];
    for row in output.chunks_exact_mut(out_extent * block) {
        let mut from = Some(0);
        for axis in 0..last {
            let source = mode.source(index[axis], before[axis], x.dim(axis));
            from = from.zip(source).map(|(from, source)| from + source * x_strides[axis] * size);
        }
        match from.and_then(|from| input.get(from..from + extent * block)) {
            Some(input_row) => {
                let (front, rest) = row.split_at_mut(before[last] * block);
                let (middle, back) = rest.split_at_mut(extent * block);
                middle.copy_from_slice(input_row);
                for (part, first) in [(front, 0), (back, before[last] + extent)] {
                    for (offset, to) in part.chunks_exact_mut(block).enumerate() {
                        match mode.source(first + offset, before[last], extent) {
                            Some(at) => {
                                to.copy_from_slice(&input_row[at * block..(at + 1) * block])
                            }
                            None => fill(to, &value[..size]),
                        }
                    }
                }
            }
            None => fill(row, &value[..size]),
        }
        for axis in (0..last).rev() {
            index[axis] += 1;
            if index[axis] < y.dim(axis) {
                break;
            }
            index[axis] = 0;
        }
    }
    Ok(())
}

fn fill(to: &mut [u8], element: &[u8]) {
    if let [byte] = element {
        to.fill(*byte);
        return;
    }
    for to in to.chunks_exact_mut(element.len()) {
        to.copy_from_slice(element);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Case, Typed, shape, tensor};

    fn pad<T: Typed>(
        mode: u32,
        x: &[u32],
        values: &[T],
        before: &[u32],
        y: &[u32],
        value: u64,
    ) -> Case {
        let mut attributes = PadAttributes {
            mode,
            value: [value as u32, (value >> 32) as u32],
            ..PadAttributes::default()
        };
        attributes.before[..before.len()].copy_from_slice(before);
        Case::new(Op::Pad, None, attributes, &[tensor(x, values)], shape(T::DTYPE, y))
    }

    #[test]
    fn modes_of_one_axis() {
        // np.pad([1, 2, 3], (2, 2), mode): constant 9, reflect, edge, wrap.
        for (mode, want) in [
            (1, [9, 9, 1, 2, 3, 9, 9]),
            (2, [3, 2, 1, 2, 3, 2, 1]),
            (3, [1, 1, 1, 2, 3, 3, 3]),
            (4, [2, 3, 1, 2, 3, 1, 2]),
        ] {
            assert_eq!(pad(mode, &[3], &[1i8, 2, 3], &[2], &[7], 9).run::<i8>(), want);
            let wide = want.map(i64::from);
            assert_eq!(pad(mode, &[3], &[1i64, 2, 3], &[2], &[7], 9).run::<i64>(), wide);
        }
        let far = [3, 1, 2, 3, 1, 2, 3, 1, 2, 3];
        assert_eq!(pad(4, &[3], &[1i8, 2, 3], &[4], &[10], 0).run::<i8>(), far);
    }

    #[test]
    fn several_axes_agree_with_the_definition() {
        let (x, y, before) = ([2u32, 3, 2, 4], [2u32, 6, 4, 4], [0u32, 2, 1, 0]);
        let values: Vec<f32> = (0..48).map(|value| value as f32).collect();
        for mode in 1..=4 {
            let mut want = vec![];
            for index in 0..192u32 {
                let (mut rest, mut at, mut stride, mut inside) = (index, 0, 1, true);
                for axis in (0..4).rev() {
                    let size = i64::from(x[axis]);
                    let position = i64::from(rest % y[axis]) - i64::from(before[axis]);
                    rest /= y[axis];
                    inside &= (0..size).contains(&position);
                    let position = match mode {
                        2 => {
                            (size - 1)
                                - ((position.rem_euclid(2 * (size - 1).max(1))) - (size - 1)).abs()
                        }
                        3 => position.clamp(0, size - 1),
                        _ => position.rem_euclid(size),
                    };
                    at += position * stride;
                    stride *= size;
                }
                want.push(if mode == 1 && !inside { 0.5 } else { values[at as usize] });
            }
            let got = pad(mode, &x, &values, &before, &y, u64::from(0.5f32.to_bits())).run::<f32>();
            assert_eq!(got, want, "mode {mode}");
        }
    }

    #[test]
    fn edges_of_the_definition() {
        assert_eq!(pad::<i8>(1, &[0], &[], &[2], &[3], 7).run::<i8>(), [7, 7, 7]);
        assert_eq!(pad(1, &[], &[3i8], &[], &[], 7).run::<i8>(), [3]);
        assert_eq!(pad::<i8>(2, &[0, 2], &[], &[0, 1], &[0, 3], 7).run::<i8>(), []);
        assert_eq!(
            pad(1, &[1, 2], &[1i16, 2], &[1, 0], &[2, 2], 0x1234).run::<i16>(),
            [0x1234, 0x1234, 1, 2]
        );
        let refused = [
            pad(0, &[3], &[1i8, 2, 3], &[0], &[3], 0),
            pad(5, &[3], &[1i8, 2, 3], &[0], &[3], 0),
            pad(2, &[3], &[1i8, 2, 3], &[3], &[6], 0),
            pad(2, &[3], &[1i8, 2, 3], &[0], &[6], 0),
            pad(2, &[1], &[1i8], &[1], &[2], 0),
            pad::<i8>(3, &[0], &[], &[1], &[2], 0),
            pad(1, &[3], &[1i8, 2, 3], &[1], &[3], 0),
            pad(1, &[3], &[1i8, 2, 3], &[u32::MAX], &[5], 0),
            pad(1, &[3], &[1i8, 2, 3], &[0], &[3, 1], 0),
        ];
        for case in refused {
            assert!(case.run_bytes().is_err(), "{:?}", case.attributes);
        }
    }
}
