//! Picks boxes by score and drops those that overlap a better one of their class.

use core::cmp::Ordering;

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{NonMaxSuppressionAttributes, Op};
use crate::isa::Isa;
use crate::memory::{Context, typed, typed_mut};
use crate::ops::shape::{expect_apart, expect_types};
use crate::ops::top_k::best;
use crate::ops::{Operator, Step};

/// Inputs: boxes `[b, n, 4]`, scores `[b, c, n]`. Output: rows of batch, class, box (i64); there are
/// as many as can be needed, `b · c · min(n, most per class)`, and those that aren't hold −1.
pub static NON_MAX_SUPPRESSION_F32: Operator = Operator {
    op: Op::NonMaxSuppression,
    dtype: Some(DType::F32),
    check,
    select: |_| run,
    scratch_bytes,
};

fn check(step: &Step<'_>) -> Result<(), StepErrorKind> {
    step.expect_counts(2, 2)?;
    expect_apart(step)?;
    let attributes: NonMaxSuppressionAttributes = step.expect_attributes()?;
    expect_types(step, &[DType::F32, DType::F32], DType::I64)?;
    if attributes.center_point_box > 1 || attributes.has_score_threshold > 1 {
        return Err(StepErrorKind::Attribute("center_point_box or has_score_threshold"));
    }
    let (boxes, scores, y) = (step.input(0)?, step.input(1)?, step.output(0)?);
    if boxes.rank() != 3 || boxes.dim(2) != 4 {
        return Err(StepErrorKind::OperandShape(0));
    }
    if scores.rank() != 3 || scores.dim(0) != boxes.dim(0) || scores.dim(2) != boxes.dim(1) {
        return Err(StepErrorKind::OperandShape(1));
    }
    let most = boxes.dim(1).min(attributes.most_per_class as usize);
    let rows = boxes.dim(0).checked_mul(scores.dim(1)).and_then(|rows| rows.checked_mul(most));
    let fits = y.rank() == 2 && y.dim(1) == 3 && rows == Some(y.dim(0));
    if fits { Ok(()) } else { Err(StepErrorKind::OperandShape(2)) }
}

/// The order of a class's boxes. Nothing without scores: then the number of boxes says nothing.
fn scratch_bytes(step: &Step<'_>, _: Isa) -> usize {
    match (step.input(0), step.input(1)) {
        (Ok(boxes), Ok(scores)) if scores.elements() > 0 => {
            boxes.dim(1).saturating_mul(size_of::<u32>())
        }
        _ => 0,
    }
}

/// A box by its corners: bottom, left, top, right.
fn corners(of: &[f32], center_point_box: u32) -> [f32; 4] {
    let &[a, b, c, d] = of else { return [0.0; 4] };
    if center_point_box == 1 {
        [b - d / 2.0, a - c / 2.0, b + d / 2.0, a + c / 2.0]
    } else {
        // Any two opposite corners.
        [a.min(c), b.min(d), a.max(c), b.max(d)]
    }
}

/// Intersection over union; 0 for boxes without area.
fn overlap(a: [f32; 4], b: [f32; 4]) -> f32 {
    let height = a[2].min(b[2]) - a[0].max(b[0]);
    let width = a[3].min(b[3]) - a[1].max(b[1]);
    let area = |of: [f32; 4]| (of[2] - of[0]) * (of[3] - of[1]);
    let (shared, area_a, area_b) = (height * width, area(a), area(b));
    let union = area_a + area_b - shared;
    let real = height > 0.0 && width > 0.0 && area_a > 0.0 && area_b > 0.0 && union > 0.0;
    if real { shared / union } else { 0.0 }
}

fn run(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let step = context.step;
    let attributes: NonMaxSuppressionAttributes = step.attributes();
    let (boxes, scores) = (step.input(0)?, step.input(1)?);
    let (count, classes) = (boxes.dim(1), scores.dim(1));
    let most = count.min(attributes.most_per_class as usize);
    let operands = context.operands([0, 1])?;
    let boxes: &[f32] = typed(operands.inputs[0], 0)?;
    let scores: &[f32] = typed(operands.inputs[1], 1)?;
    let rows: &mut [i64] = typed_mut(operands.output, 2)?;
    rows.fill(-1);
    if scores.is_empty() || most == 0 {
        return Ok(());
    }
    let order = operands.scratch.get_mut(..count * size_of::<u32>());
    let order: &mut [u32] = typed_mut(order.ok_or(StepErrorKind::TooLarge)?, 0)?;
    let mut used = 0;
    for (group, scores) in scores.chunks_exact(count).enumerate() {
        let (batch, class) = (group / classes, group % classes);
        let boxes = &boxes[batch * count * 4..][..count * 4];
        let corners_of =
            |index: usize| corners(&boxes[index * 4..index * 4 + 4], attributes.center_point_box);
        best(order, count as u32, |a, b| {
            let (left, right) = (scores[a as usize], scores[b as usize]);
            // NaN is no score: it comes last.
            let order = right.partial_cmp(&left);
            let order = order.unwrap_or_else(|| left.is_nan().cmp(&right.is_nan()));
            order.then(a.cmp(&b)) == Ordering::Less
        });
        let first = used;
        for index in order.iter().map(|index| *index as usize) {
            let score = scores[index];
            let wanted = attributes.has_score_threshold == 0 || score > attributes.score_threshold;
            if !wanted || used - first == most {
                break;
            }
            let candidate = corners_of(index);
            let suppressed = rows[first * 3..used * 3].chunks_exact(3).any(|row| {
                let kept = corners_of(row[2] as usize);
                overlap(candidate, kept) > attributes.iou_threshold
            });
            if !suppressed {
                let row = [batch as i64, class as i64, index as i64];
                rows[used * 3..used * 3 + 3].copy_from_slice(&row);
                used += 1;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Case, Tensor, shape, tensor};

    fn thresholds(most_per_class: u32, iou: f32, score: f32) -> NonMaxSuppressionAttributes {
        NonMaxSuppressionAttributes {
            most_per_class,
            iou_threshold: iou,
            score_threshold: score,
            has_score_threshold: 1,
            ..NonMaxSuppressionAttributes::default()
        }
    }

    fn case(attributes: NonMaxSuppressionAttributes, boxes: Tensor, scores: Tensor) -> Case {
        let most = boxes.dims[1].min(attributes.most_per_class);
        let y = shape(DType::I64, &[scores.dims[0] * scores.dims[1] * most, 3]);
        Case::new(Op::NonMaxSuppression, Some(DType::F32), attributes, &[boxes, scores], y)
    }

    /// Six boxes in three pairs, as in the examples of the ONNX specification.
    fn boxes(center: bool) -> Tensor {
        let values: Vec<f32> = [0.0, 0.1, -0.1, 10.0, 10.1, 100.0]
            .into_iter()
            .flat_map(|x| match center {
                true => [0.5, x + 0.5, 1.0, 1.0],
                false => [x + 1.0, 1.0, x, 0.0],
            })
            .collect();
        tensor(&[1, 6, 4], &values)
    }

    #[test]
    fn the_best_of_each_pair_stays() {
        let scores = || tensor(&[1, 1, 6], &[0.9f32, 0.75, 0.6, 0.95, 0.5, 0.3]);
        for center in [false, true] {
            let attributes = |most, iou, score| NonMaxSuppressionAttributes {
                center_point_box: u32::from(center),
                ..thresholds(most, iou, score)
            };
            let got = case(attributes(3, 0.5, 0.0), boxes(center), scores()).run::<i64>();
            assert_eq!(got, [0, 0, 3, 0, 0, 0, 0, 0, 5]);
            let got = case(attributes(3, 0.5, 0.4), boxes(center), scores()).run::<i64>();
            assert_eq!(got, [0, 0, 3, 0, 0, 0, -1, -1, -1]);
            let got = case(attributes(1, 0.5, 0.0), boxes(center), scores()).run::<i64>();
            assert_eq!(got, [0, 0, 3]);
            let got = case(attributes(9, 1.0, 0.55), boxes(center), scores()).run::<i64>();
            assert_eq!(got[..12], [0, 0, 3, 0, 0, 0, 0, 0, 1, 0, 0, 2]);
            assert!(got[12..].iter().all(|value| *value == -1));
        }
    }

    #[test]
    fn classes_and_batches_are_apart() {
        let twice = |x: &Tensor| {
            let bytes = [x.bytes.as_slice(), &x.bytes].concat();
            Tensor { bytes, dims: vec![2, 6, 4], ..x.clone() }
        };
        let scores =
            tensor(&[2, 1, 6], &[0.1f32, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]);
        let got = case(thresholds(1, 0.5, 0.0), twice(&boxes(false)), scores).run::<i64>();
        assert_eq!(got, [0, 0, 5, 1, 0, 0]);
        let scores = tensor(&[1, 2, 6], &[f32::NAN; 12]);
        let got = case(thresholds(1, 0.5, 0.0), boxes(false), scores).run::<i64>();
        assert_eq!(got, [-1; 6]);
    }

    #[test]
    fn hostile_steps_are_refused() {
        let scores = || tensor(&[1, 1, 6], &[0f32; 6]);
        let mut few_rows = case(thresholds(3, 0.5, 0.0), boxes(false), scores());
        few_rows.output.dims[0] = 2;
        let mut bad = thresholds(3, 0.5, 0.0);
        bad.center_point_box = 2;
        let refused = [
            few_rows,
            case(bad, boxes(false), scores()),
            case(thresholds(3, 0.5, 0.0), boxes(false), tensor(&[1, 1, 5], &[0f32; 5])),
            case(thresholds(3, 0.5, 0.0), tensor(&[1, 8, 3], &[0f32; 24]), scores()),
            case(thresholds(3, 0.5, 0.0), boxes(false), scores()).sharing(0, 0),
        ];
        for case in refused {
            assert!(case.run_bytes().is_err(), "{:?}", case.attributes);
        }
    }
}
