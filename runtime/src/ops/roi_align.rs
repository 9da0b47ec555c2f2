//! Crops regions of interest out of feature maps, resampled to one size.

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{Op, RoiAlignAttributes};
use crate::memory::{Context, typed, typed_mut};
use crate::ops::indices::{Indices, expect_indices};
use crate::ops::shape::{expect_apart, product};
use crate::ops::{Operator, Step, expect_type, no_scratch};

/// Inputs: x `[n, c, h, w]`, regions `[r, 4]` as x1, y1, x2, y2, the image of each region `[r]`
/// (i32 or i64). Output: `[r, c, oh, ow]`.
pub static ROI_ALIGN_F32: Operator = Operator {
    op: Op::RoiAlign,
    dtype: Some(DType::F32),
    check,
    select: |_| run,
    scratch_bytes: no_scratch,
};

/// Models take 2 or 4; the work grows with the square.
const MAX_SAMPLING_RATIO: u32 = 64;

fn check(step: &Step<'_>) -> Result<(), StepErrorKind> {
    step.expect_counts(3, 3)?;
    expect_apart(step)?;
    let attributes: RoiAlignAttributes = step.expect_attributes()?;
    if !(1..=2).contains(&attributes.mode) || attributes.half_pixel > 1 {
        return Err(StepErrorKind::Attribute("mode or half_pixel"));
    }
    if attributes.sampling_ratio > MAX_SAMPLING_RATIO {
        return Err(StepErrorKind::Attribute("sampling_ratio"));
    }
    let (x, regions, images, y) = (step.input(0)?, step.input(1)?, step.input(2)?, step.output(0)?);
    expect_type(&x, DType::F32, 0)?;
    expect_type(&regions, DType::F32, 1)?;
    expect_indices(&images, 2)?;
    expect_type(&y, DType::F32, 3)?;
    if x.rank() != 4 || (x.elements() == 0 && y.elements() != 0) {
        return Err(StepErrorKind::OperandShape(0));
    }
    let count = regions.dim(0);
    if regions.rank() != 2 || regions.dim(1) != 4 {
        return Err(StepErrorKind::OperandShape(1));
    }
    if images.rank() != 1 || images.dim(0) != count {
        return Err(StepErrorKind::OperandShape(2));
    }
    let fits = y.rank() == 4 && y.dim(0) == count && y.dim(1) == x.dim(1);
    if fits { Ok(()) } else { Err(StepErrorKind::OperandShape(3)) }
}

/// The samples of one bin along one axis.
#[derive(Clone, Copy)]
struct Samples {
    start: f32,
    step: f32,
    /// All samples, also those beyond the image.
    count: f32,
    /// Those that can lie on the image; the others are 0.
    first: u32,
    end: u32,
}

impl Samples {
    /// The samples of bin number `bin`, on an axis of `extent` pixels.
    fn new(start: f32, bin_size: f32, bin: usize, ratio: u32, extent: usize) -> Samples {
        let count = if ratio > 0 { ratio as f32 } else { libm::ceilf(bin_size).max(0.0) };
        let start = start + bin as f32 * bin_size;
        let step = bin_size / count;
        // Only samples between −1 and the extent count. The regions are data: one as large as a
        // float gets must not keep the loop busy, so it walks those on the image alone.
        let all = count.min(u32::MAX as f32) as u32;
        let (mut first, mut end) = (0, all);
        if step > 0.0 {
            first = (libm::floorf((-1.0 - start) / step) as i64)
                .saturating_sub(2)
                .clamp(0, i64::from(all)) as u32;
            end = (libm::ceilf((extent as f32 - start) / step) as i64)
                .saturating_add(2)
                .clamp(i64::from(first), i64::from(all)) as u32;
        }
        // Samples are at least half a pixel apart unless the ratio says otherwise.
        let most = (2 * extent as u64 + 16).max(u64::from(ratio)).min(u64::from(u32::MAX)) as u32;
        end = end.min(first.saturating_add(most));
        Samples { start, step, count, first, end }
    }

    /// Where a sample lies: the pixels below and above, and how much the upper one counts.
    fn place(&self, sample: u32, extent: usize) -> Option<(usize, usize, f32)> {
        let at = self.start + (sample as f32 + 0.5) * self.step;
        if !(-1.0..=extent as f32).contains(&at) {
            return None;
        }
        let at = at.max(0.0);
        let low = at as usize;
        match low + 1 < extent {
            true => Some((low, low + 1, at - low as f32)),
            false => Some((extent - 1, extent - 1, 0.0)),
        }
    }
}

fn run(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let step = context.step;
    let attributes: RoiAlignAttributes = step.attributes();
    let (x_slot, images, y_slot) = (step.input(0)?, step.input(2)?, step.output(0)?);
    if y_slot.elements() == 0 {
        return Ok(());
    }
    let (count, channels) = (x_slot.dim(0), x_slot.dim(1));
    let (height, width) = (x_slot.dim(2), x_slot.dim(3));
    let (out_height, out_width) = (y_slot.dim(2), y_slot.dim(3));
    let per_region = product(&y_slot.dims()[1..]);
    let offset = if attributes.half_pixel == 1 { 0.5 } else { 0.0 };
    let operands = context.operands([0, 1, 2])?;
    let x: &[f32] = typed(operands.inputs[0], 0)?;
    let regions: &[f32] = typed(operands.inputs[1], 1)?;
    let images = Indices::new(operands.inputs[2], images.dtype, 2)?;
    let y: &mut [f32] = typed_mut(operands.output, 3)?;
    for (region, y) in y.chunks_exact_mut(per_region).enumerate() {
        let image = usize::try_from(images.raw(region)?).ok().filter(|image| *image < count);
        let image = image.ok_or(StepErrorKind::IndexOutOfRange)?;
        let mut corner = [0.0; 4];
        for (corner, from) in corner.iter_mut().zip(&regions[region * 4..]) {
            *corner = from * attributes.spatial_scale - offset;
        }
        let [left, top, right, bottom] = corner;
        let (mut region_width, mut region_height) = (right - left, bottom - top);
        if attributes.half_pixel == 0 {
            // What has no area counts as one pixel.
            region_width = region_width.max(1.0);
            region_height = region_height.max(1.0);
        }
        let (bin_height, bin_width) =
            (region_height / out_height as f32, region_width / out_width as f32);
        for out_y in 0..out_height {
            let rows = Samples::new(top, bin_height, out_y, attributes.sampling_ratio, height);
            for out_x in 0..out_width {
                let columns =
                    Samples::new(left, bin_width, out_x, attributes.sampling_ratio, width);
                for channel in 0..channels {
                    let plane = &x[(image * channels + channel) * height * width..];
                    let plane = &plane[..height * width];
                    let bin = (channel * out_height + out_y) * out_width + out_x;
                    y[bin] = pooled(attributes.mode, plane, [height, width], &rows, &columns);
                }
            }
        }
    }
    Ok(())
}

/// The average of a bin's samples, or the largest of the parts that they are made of.
fn pooled(
    mode: u32,
    plane: &[f32],
    [height, width]: [usize; 2],
    rows: &Samples,
    columns: &Samples,
) -> f32 {
    let (mut sum, mut largest, mut met) = (0.0, f32::NEG_INFINITY, 0u64);
    for row in rows.first..rows.end {
        let Some((top, bottom, below)) = rows.place(row, height) else { continue };
        for column in columns.first..columns.end {
            let Some((left, right, after)) = columns.place(column, width) else { continue };
            let parts = [
                (1.0 - below) * (1.0 - after) * plane[top * width + left],
                (1.0 - below) * after * plane[top * width + right],
                below * (1.0 - after) * plane[bottom * width + left],
                below * after * plane[bottom * width + right],
            ];
            sum += parts.iter().sum::<f32>();
            largest = parts.into_iter().fold(largest, f32::max);
            met += 1;
        }
    }
    let all = rows.count * columns.count;
    match mode {
        1 => sum / all.max(1.0),
        // Samples beyond the image are 0.
        _ if met == 0 => 0.0,
        _ if (met as f32) < all => largest.max(0.0),
        _ => largest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SessionError;
    use crate::ops::testing::{Case, Tensor, assert_close, shape, tensor};

    fn case(attributes: RoiAlignAttributes, x: Tensor, regions: &[f32], out: [u32; 2]) -> Case {
        let count = regions.len() as u32 / 4;
        let tensors = [
            x.clone(),
            tensor(&[count, 4], regions),
            tensor(&[count], &vec![0i64; count as usize]),
        ];
        let dims = [count, x.dims.get(1).copied().unwrap_or(1), out[0], out[1]];
        Case::new(Op::RoiAlign, Some(DType::F32), attributes, &tensors, shape(DType::F32, &dims))
    }

    fn average(sampling_ratio: u32, half_pixel: u32) -> RoiAlignAttributes {
        RoiAlignAttributes {
            mode: 1,
            sampling_ratio,
            spatial_scale: 1.0,
            half_pixel,
            ..RoiAlignAttributes::default()
        }
    }

    /// A plane `x + 10 y` is its own interpolation: a bin's average is the value at its centre.
    #[test]
    fn a_linear_map_is_met_at_the_centres_of_bins() {
        let plane: Vec<f32> = (0..64).map(|i| (i % 8) as f32 + 10.0 * (i / 8) as f32).collect();
        let x = tensor(&[1, 1, 8, 8], &plane);
        for ratio in [0, 1, 2, 3] {
            let got = case(average(ratio, 0), x.clone(), &[1.0, 2.0, 5.0, 6.0], [2, 2]);
            // Bins of 2 × 2 from (1, 2): centres (2, 3), (4, 3), (2, 5), (4, 5).
            assert_close(&got.run::<f32>(), &[32.0, 34.0, 52.0, 54.0], 1e-5);
            // Half a pixel back: the centre is (2.5, 3.5).
            let got = case(average(ratio, 1), x.clone(), &[1.0, 2.0, 5.0, 6.0], [1, 1]);
            assert_close(&got.run::<f32>(), &[37.5], 1e-5);
        }
    }

    #[test]
    fn what_lies_outside_is_zero() {
        let x = || tensor(&[1, 1, 2, 2], &[-1f32, -2.0, -3.0, -4.0]);
        let outside = case(average(2, 0), x(), &[10.0, 10.0, 12.0, 12.0], [1, 1]);
        assert_eq!(outside.run::<f32>(), [0.0]);
        let max = RoiAlignAttributes { mode: 2, ..average(2, 0) };
        assert_eq!(case(max, x(), &[1.0, 1.0, 9.0, 9.0], [1, 1]).run::<f32>(), [0.0]);
    }

    #[test]
    fn any_region_is_survived() {
        let extremes = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -f32::MAX, 0.0, 1e30];
        for a in extremes {
            for b in extremes {
                for mode in 1..=2 {
                    for (ratio, half_pixel) in [(0, 0), (0, 1), (2, 0), (2, 1)] {
                        let attributes = RoiAlignAttributes { mode, ..average(ratio, half_pixel) };
                        let x = tensor(&[1, 1, 2, 2], &[1f32; 4]);
                        case(attributes, x, &[a, b, b, a, a, a, b, b], [2, 1]).run::<f32>();
                    }
                }
            }
        }
    }

    #[test]
    fn images_that_are_not_there_are_an_error() {
        for image in [1i64, -1, i64::MAX] {
            let mut case = case(average(1, 0), tensor(&[1, 1, 1, 1], &[1f32]), &[0.0; 4], [1, 1]);
            case.inputs[2] = Some(tensor(&[1], &[image]));
            let kind = StepErrorKind::IndexOutOfRange;
            assert_eq!(case.run_bytes().unwrap_err(), SessionError::Step { step: 0, kind });
        }
    }

    #[test]
    fn hostile_steps_are_refused() {
        let x = || tensor(&[1, 1, 2, 2], &[1f32; 4]);
        let mut many_images = case(average(1, 0), x(), &[0.0; 4], [1, 1]);
        many_images.inputs[2] = Some(tensor(&[2], &[0i64; 2]));
        let mut other_channels = case(average(1, 0), x(), &[0.0; 4], [1, 1]);
        other_channels.output.dims[1] = 2;
        let refused = [
            case(RoiAlignAttributes { mode: 0, ..average(1, 0) }, x(), &[0.0; 4], [1, 1]),
            case(RoiAlignAttributes { mode: 3, ..average(1, 0) }, x(), &[0.0; 4], [1, 1]),
            case(average(1, 2), x(), &[0.0; 4], [1, 1]),
            case(average(u32::MAX, 0), x(), &[0.0; 4], [1, 1]),
            case(average(1, 0), tensor(&[1, 1, 4], &[1f32; 4]), &[0.0; 4], [1, 1]),
            case(average(1, 0), tensor(&[1, 1, 0, 2], &[0f32; 0]), &[0.0; 4], [1, 1]),
            case(average(1, 0), x(), &[0.0; 4], [1, 1]).sharing(0, 0),
            many_images,
            other_channels,
        ];
        for case in refused {
            assert!(case.run_bytes().is_err(), "{:?}", case.attributes);
        }
    }
}
