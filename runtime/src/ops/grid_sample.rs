//! Samples images at places that a second tensor names, interpolating between their pixels.

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{GridSampleAttributes, Op};
use crate::memory::{Context, typed, typed_mut};
use crate::ops::shape::{expect_apart, expect_types, product};
use crate::ops::{Operator, Step, no_scratch};

/// Inputs: x `[n, c, space…]`, grid `[n, places…, axes]`; one to three spatial axes. The grid's
/// coordinates run from −1 to 1, those of the last spatial axis come first.
pub static GRID_SAMPLE_F32: Operator = Operator {
    op: Op::GridSample,
    dtype: Some(DType::F32),
    check,
    select: |_| run,
    scratch_bytes: no_scratch,
};

/// Spatial axes of a volume.
const MAX_AXES: usize = 3;

/// Pixels along an axis that a cubic interpolation reads.
const MAX_TAPS: usize = 4;

/// Keys' coefficient, as in PyTorch and in the ONNX specification.
const CUBIC: f32 = -0.75;

const NEAREST: u32 = 1;
const LINEAR: u32 = 2;
const ZEROS: u32 = 1;
const BORDER: u32 = 2;

fn check(step: &Step<'_>) -> Result<(), StepErrorKind> {
    step.expect_counts(2, 2)?;
    expect_apart(step)?;
    let attributes: GridSampleAttributes = step.expect_attributes()?;
    expect_types(step, &[DType::F32, DType::F32], DType::F32)?;
    let fits = |value: u32| (1..=3).contains(&value);
    if !fits(attributes.mode) || !fits(attributes.padding) || attributes.align_corners > 1 {
        return Err(StepErrorKind::Attribute("mode, padding or align_corners"));
    }
    let (x, grid, y) = (step.input(0)?, step.input(1)?, step.output(0)?);
    let axes = x.rank().wrapping_sub(2);
    if !(1..=MAX_AXES).contains(&axes) || (x.elements() == 0 && y.elements() != 0) {
        return Err(StepErrorKind::OperandShape(0));
    }
    let places = grid.dims().get(1..grid.rank().saturating_sub(1)).unwrap_or(&[]);
    if grid.rank() != axes + 2 || grid.dim(axes + 1) != axes || grid.dim(0) != x.dim(0) {
        return Err(StepErrorKind::OperandShape(1));
    }
    let dims = x.dims()[..2].iter().chain(places);
    if dims.eq(y.dims()) { Ok(()) } else { Err(StepErrorKind::OperandShape(2)) }
}

/// Pixels along one axis and how much each counts.
#[derive(Clone, Copy, Default)]
struct Taps {
    count: usize,
    index: [usize; MAX_TAPS],
    weight: [f32; MAX_TAPS],
}

/// Back and forth between the borders.
fn reflected(at: f32, low: f32, high: f32) -> f32 {
    let range = high - low;
    let beyond = if at < low { low - at } else { at - high };
    // An axis of one pixel has no room to walk, and infinity no way back.
    if range <= 0.0 || !beyond.is_finite() {
        return low;
    }
    let turns = libm::floorf(beyond / range);
    let rest = beyond - turns * range;
    let even = libm::fmodf(turns, 2.0) == 0.0;
    if even == (at < low) { low + rest } else { high - rest }
}

/// The taps along an axis for a coordinate of the grid.
fn taps(attributes: &GridSampleAttributes, coordinate: f32, extent: usize) -> Taps {
    let size = extent as f32;
    let aligned = attributes.align_corners == 1;
    let mut at = if aligned {
        (coordinate + 1.0) / 2.0 * (size - 1.0)
    } else {
        ((coordinate + 1.0) * size - 1.0) / 2.0
    };
    let (low, high) = if aligned { (0.0, size - 1.0) } else { (-0.5, size - 0.5) };
    if attributes.mode == NEAREST {
        at = libm::rintf(at); // ties to even
    }
    if !(low..=high).contains(&at) {
        at = match attributes.padding {
            ZEROS => at,
            BORDER => at.max(0.0).min(size - 1.0),
            _ => reflected(at, low, high),
        };
    }
    let floor = libm::floorf(at);
    let x = at - floor;
    let mut taps = Taps::default();
    let first = match attributes.mode {
        NEAREST => {
            (taps.count, taps.weight[0]) = (1, 1.0);
            0
        }
        LINEAR => {
            taps.count = 2;
            taps.weight[..2].copy_from_slice(&[1.0 - x, x]);
            0
        }
        _ => {
            taps.count = MAX_TAPS;
            let near = |x: f32| ((CUBIC + 2.0) * x - (CUBIC + 3.0)) * x * x + 1.0;
            let far = |x: f32| ((CUBIC * x - 5.0 * CUBIC) * x + 8.0 * CUBIC) * x - 4.0 * CUBIC;
            taps.weight = [far(x + 1.0), near(x), near(1.0 - x), far(2.0 - x)];
            -1
        }
    };
    for tap in 0..taps.count {
        let index = (floor as i64).saturating_add(first + tap as i64);
        let inside = (0..extent as i64).contains(&index);
        let index = match attributes.padding {
            _ if inside => index,
            ZEROS => {
                taps.weight[tap] = 0.0;
                0
            }
            BORDER => index,
            _ => reflected(index as f32, low, high) as i64,
        };
        taps.index[tap] = index.clamp(0, extent as i64 - 1) as usize;
    }
    taps
}

fn run(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let step = context.step;
    let attributes: GridSampleAttributes = step.attributes();
    let (x_slot, y_slot) = (step.input(0)?, step.output(0)?);
    if y_slot.elements() == 0 {
        return Ok(());
    }
    let space = &x_slot.dims()[2..];
    let (axes, channels) = (space.len(), x_slot.dim(1));
    let (pixels, places) = (product(space), product(&y_slot.dims()[2..]));
    let operands = context.operands([0, 1])?;
    let x: &[f32] = typed(operands.inputs[0], 0)?;
    let grid: &[f32] = typed(operands.inputs[1], 1)?;
    let y: &mut [f32] = typed_mut(operands.output, 2)?;
    for (place, coordinates) in grid.chunks_exact(axes).enumerate() {
        let mut along =
            [Taps { count: 1, index: [0; MAX_TAPS], weight: [1.0; MAX_TAPS] }; MAX_AXES];
        // Missing outer axes have one pixel.
        for (axis, taps_of_axis) in along[MAX_AXES - axes..].iter_mut().enumerate() {
            let coordinate = coordinates[axes - 1 - axis];
            *taps_of_axis = taps(&attributes, coordinate, space[axis] as usize);
        }
        let height = if axes >= 2 { space[axes - 2] as usize } else { 1 };
        let width = space[axes - 1] as usize;
        let (image, place) = (place / places, place % places);
        for channel in 0..channels {
            let plane = &x[(image * channels + channel) * pixels..][..pixels];
            let mut sum = 0.0;
            for outer in 0..along[0].count {
                let mut slice = 0.0;
                for middle in 0..along[1].count {
                    let row = (along[0].index[outer] * height + along[1].index[middle]) * width;
                    let mut line = 0.0;
                    for inner in 0..along[2].count {
                        line += along[2].weight[inner] * plane[row + along[2].index[inner]];
                    }
                    slice += along[1].weight[middle] * line;
                }
                sum += along[0].weight[outer] * slice;
            }
            y[(image * channels + channel) * places + place] = sum;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Case, Tensor, assert_close, shape, tensor};

    fn case(mode: u32, padding: u32, align_corners: u32, x: Tensor, grid: Tensor) -> Case {
        let attributes = GridSampleAttributes { mode, padding, align_corners, reserved: 0 };
        let places = grid.dims.get(1..grid.dims.len().saturating_sub(1)).unwrap_or(&[]);
        let dims = [&x.dims[..2.min(x.dims.len())], places].concat();
        Case::new(
            Op::GridSample,
            Some(DType::F32),
            attributes,
            &[x, grid],
            shape(DType::F32, &dims),
        )
    }

    /// PyTorch's `grid_sample` on `[[0, 1], [2, 3], [4, 5]]`, at eight places in and outside.
    #[test]
    fn interpolates_as_the_specification_says() {
        let x = || tensor(&[1, 1, 3, 2], &[0f32, 1.0, 2.0, 3.0, 4.0, 5.0]);
        let grid = || {
            tensor(
                &[1, 2, 4, 2],
                &[
                    -10f32, -10.0, -5.0, -5.0, -0.2, -0.2, 10.0, 10.0, 10.0, 10.0, -0.2, -0.2, 5.0,
                    5.0, 10.0, 10.0,
                ],
            )
        };
        // From the documented examples of the ONNX specification.
        let cases: [(u32, u32, u32, [f32; 8]); 5] = [
            (2, 1, 0, [0.0, 0.0, 1.7, 0.0, 0.0, 1.7, 0.0, 0.0]),
            (2, 2, 0, [0.0, 0.0, 1.7, 5.0, 5.0, 1.7, 5.0, 5.0]),
            (2, 3, 0, [2.5, 0.0, 1.7, 2.5, 2.5, 1.7, 5.0, 2.5]),
            (1, 2, 0, [0.0, 0.0, 2.0, 5.0, 5.0, 2.0, 5.0, 5.0]),
            (2, 2, 1, [0.0, 0.0, 2.0, 5.0, 5.0, 2.0, 5.0, 5.0]),
        ];
        for (mode, padding, corners, want) in cases {
            let got = case(mode, padding, corners, x(), grid()).run::<f32>();
            assert_close(&got, &want, 1e-5);
        }
    }

    #[test]
    fn a_pixel_is_met_exactly_in_any_mode() {
        let x: Vec<f32> = (0..24).map(|v| v as f32 * 0.5 - 3.0).collect();
        let x = tensor(&[1, 1, 2, 3, 4], &x);
        for mode in 1..=3 {
            for padding in 1..=3 {
                // Corners aligned: the corner (0, 0, 0), then (1, 2, 3), then the pixel (0, 1, 0).
                let places = [-1f32, -1.0, -1.0, 1.0, 1.0, 1.0, -1.0, 0.0, -1.0];
                let grid = tensor(&[1, 3, 1, 1, 3], &places);
                let got = case(mode, padding, 1, x.clone(), grid).run::<f32>();
                assert_close(&got, &[-3.0, 8.5, -1.0], 1e-5);
            }
        }
    }

    #[test]
    fn any_place_is_survived() {
        let places = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -1e30, 1e9, 0.0, -0.0];
        for mode in 1..=3 {
            for padding in 1..=3 {
                for corners in 0..=1 {
                    for size in [1u32, 3] {
                        let x = tensor(&[1, 1, size, 1], &vec![1f32; size as usize]);
                        let grid = tensor(&[1, 2, 2, 2], &places);
                        case(mode, padding, corners, x, grid).run::<f32>();
                    }
                }
            }
        }
    }

    #[test]
    fn hostile_steps_are_refused() {
        let x = || tensor(&[1, 1, 2, 2], &[1f32; 4]);
        let grid = || tensor(&[1, 1, 1, 2], &[0f32; 2]);
        let refused = [
            case(0, 1, 0, x(), grid()),
            case(4, 1, 0, x(), grid()),
            case(1, 0, 0, x(), grid()),
            case(1, 1, 2, x(), grid()),
            case(1, 1, 0, x(), tensor(&[1, 1, 1, 3], &[0f32; 3])),
            case(1, 1, 0, x(), tensor(&[2, 1, 1, 2], &[0f32; 4])),
            case(1, 1, 0, x(), tensor(&[1, 1, 2], &[0f32; 2])),
            case(1, 1, 0, tensor(&[1, 1], &[1f32]), tensor(&[1, 0], &[0f32; 0])),
            case(1, 1, 0, tensor(&[1, 1, 0, 2], &[0f32; 0]), grid()),
            case(1, 1, 0, x(), grid()).sharing(0, 0),
        ];
        for case in refused {
            assert!(case.run_bytes().is_err(), "{:?}", case.attributes);
        }
    }
}
