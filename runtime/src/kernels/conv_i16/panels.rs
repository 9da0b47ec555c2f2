//! The walk over an i16 convolution's output that vector kernels share: the inputs of [`ROWS`] pixels, panel by panel.
//!
//! Sums of 32 bits are exact over [`RUN`] inputs: 2²² a product, 2³⁰ a run. Where K is one run and no bias is large they
//! end in vectors, else in 64 bits one by one.

use super::scalar::{inside, requantize};
use super::{ConvI16, ROWS};
use crate::kernels::{PANEL_K, PANEL_N};

/// Products of an output that are summed in 32 bits.
const RUN: usize = 256;

/// Biases below it leave room for a run of products in an i32.
const SMALL_BIAS: u64 = 1 << 30;

/// What an instruction set brings.
///
/// # Safety
///
/// Every function may be called only on a CPU that has it.
pub(super) trait Simd {
    /// Sums of a panel's outputs, in 32 bits.
    type Sums: Copy;

    /// Bounds of the results.
    type Bounds: Copy;

    /// Those of a convolution.
    unsafe fn bounds(conv: &ConvI16<'_>) -> Self::Bounds;

    /// Sums of at most [`RUN`] products, for `M` rows of inputs that are `stride` apart. The weights are whole words of
    /// a panel, and each row has as many inputs.
    unsafe fn run<const M: usize>(weights: &[i8], x: &[i16], stride: usize) -> [Self::Sums; M];

    /// Makes outputs of sums: as many as there is room for, at most a panel's.
    unsafe fn narrow(
        sums: Self::Sums,
        bias: &[i32; PANEL_N],
        scale: &[f32; PANEL_N],
        bounds: Self::Bounds,
        to: &mut [i16],
    );

    /// The sums one by one.
    unsafe fn stored(sums: Self::Sums) -> [i32; PANEL_N];
}

/// Whether sums of all products and the bias fit 32 bits.
pub(super) fn has_narrow_sums(conv: &ConvI16<'_>) -> bool {
    conv.geometry.k() <= RUN && conv.bias.iter().all(|bias| bias.unsigned_abs() < SMALL_BIAS)
}

/// Convolution over panels.
///
/// # Safety
///
/// The CPU has the instruction set of `S`.
#[inline(always)]
pub(super) unsafe fn conv_i16<S: Simd>(conv: &mut ConvI16<'_>) {
    let g = conv.geometry;
    let (k, wide) = (g.k(), g.k().next_multiple_of(PANEL_K));
    // SAFETY: the caller vouches for the CPU.
    let bounds = unsafe { S::bounds(conv) };
    let small = has_narrow_sums(conv);
    let in_place = g.is_pointwise() && k == wide;
    let scratch = core::mem::take(&mut conv.scratch);
    assert!(in_place || scratch.len() >= ROWS * wide, "scratch");
    for first in (0..g.out_pixels()).step_by(ROWS) {
        let rows = ROWS.min(g.out_pixels() - first);
        for group in 0..g.groups {
            let x: &[i16] = if in_place {
                &conv.input[first * k..(first + rows) * k]
            } else {
                for row in 0..rows {
                    gather(conv, first + row, group, &mut scratch[row * wide..][..wide]);
                }
                &scratch[..rows * wide]
            };
            for panel in 0..g.padded_group_out_c() / PANEL_N {
                let padded = group * g.padded_group_out_c() + panel * PANEL_N;
                let channel = group * g.group_out_c() + panel * PANEL_N;
                let place = Place {
                    output: first * g.out_c + channel,
                    channels: PANEL_N.min(g.group_out_c() - panel * PANEL_N),
                    padded,
                };
                let weights = &conv.weights[padded * wide..][..PANEL_N * wide];
                // SAFETY: the caller vouches for the CPU.
                unsafe {
                    match (rows, small) {
                        (ROWS, true) => narrow_tile::<S, ROWS>(conv, weights, x, bounds, place),
                        (_, true) => narrow_tile::<S, 1>(conv, weights, x, bounds, place),
                        (ROWS, false) => wide_tile::<S, ROWS>(conv, weights, x, place),
                        (_, false) => wide_tile::<S, 1>(conv, weights, x, place),
                    }
                }
            }
        }
    }
    conv.scratch = scratch;
}

/// Where a panel's outputs of a tile's first pixel go.
#[derive(Clone, Copy)]
struct Place {
    output: usize,
    /// Outputs of the panel that there are.
    channels: usize,
    /// The first of them among the padded ones.
    padded: usize,
}

/// A panel's outputs of `M` pixels where sums and biases are small.
///
/// # Safety
///
/// The CPU has the instruction set of `S`.
#[inline(always)]
unsafe fn narrow_tile<S: Simd, const M: usize>(
    conv: &mut ConvI16<'_>,
    weights: &[i8],
    x: &[i16],
    bounds: S::Bounds,
    place: Place,
) {
    // SAFETY: the caller vouches for the CPU.
    let sums = unsafe { S::run::<M>(weights, x, x.len() / M) };
    let mut low = [0i32; PANEL_N];
    let bias = &conv.bias[place.padded..][..PANEL_N];
    for lane in 0..PANEL_N {
        low[lane] = bias[lane] as i32;
    }
    let (scale, _) = conv.scale[place.padded..][..PANEL_N].as_chunks::<PANEL_N>();
    for m in 0..M {
        let at = place.output + m * conv.geometry.out_c;
        let to = &mut conv.output[at..at + place.channels];
        // SAFETY: the caller vouches for the CPU.
        unsafe { S::narrow(sums[m], &low, &scale[0], bounds, to) };
    }
}

/// A panel's outputs of `M` pixels, summed in 64 bits.
///
/// # Safety
///
/// The CPU has the instruction set of `S`.
#[inline(always)]
unsafe fn wide_tile<S: Simd, const M: usize>(
    conv: &mut ConvI16<'_>,
    weights: &[i8],
    x: &[i16],
    place: Place,
) {
    let stride = x.len() / M;
    let mut wide = [[0i64; PANEL_N]; M];
    for row in &mut wide {
        row.copy_from_slice(&conv.bias[place.padded..][..PANEL_N]);
    }
    for start in (0..stride).step_by(RUN) {
        let end = stride.min(start + RUN);
        let weights = &weights[start * PANEL_N..end * PANEL_N];
        // SAFETY: the caller vouches for the CPU.
        let sums = unsafe { S::run::<M>(weights, &x[start..], stride) };
        for m in 0..M {
            // SAFETY: the caller vouches for the CPU.
            let each = unsafe { S::stored(sums[m]) };
            for lane in 0..PANEL_N {
                wide[m][lane] = wide[m][lane].wrapping_add(i64::from(each[lane]));
            }
        }
    }
    for m in 0..M {
        for lane in 0..place.channels {
            let y = requantize(conv, wide[m][lane], place.padded + lane);
            conv.output[place.output + m * conv.geometry.out_c + lane] = y;
        }
    }
}

/// Copies a group's inputs of an output pixel in the order of K, zeros for padding and behind them.
fn gather(conv: &ConvI16<'_>, pixel: usize, group: usize, to: &mut [i16]) {
    let g = &conv.geometry;
    let own = g.group_in_c();
    let (image, column) = (pixel / g.out_w, pixel % g.out_w);
    let (image, row) = (image / g.out_h, image % g.out_h);
    let (rows, top) = inside(row * g.stride_h, g.pad_top, g.dilation_h, g.kernel_h, g.in_h);
    let (columns, left) = inside(column * g.stride_w, g.pad_left, g.dilation_w, g.kernel_w, g.in_w);
    if rows.len() < g.kernel_h || columns.len() < g.kernel_w {
        to.fill(0);
    } else {
        to[g.k()..].fill(0);
    }
    // Neighbouring taps of one group and no dilation are one piece of the input.
    let joined = own == g.in_c && g.dilation_w == 1;
    let (pieces, len) = if joined { (1, columns.len() * own) } else { (columns.len(), own) };
    if columns.is_empty() {
        return;
    }
    for (row_step, tap_row) in rows.enumerate() {
        let in_row = (image * g.in_h + top + row_step * g.dilation_h) * g.in_w + left;
        for piece in 0..pieces {
            let from = (in_row + piece * g.dilation_w) * g.in_c + group * own;
            let at = (tap_row * g.kernel_w + columns.start + piece) * own;
            to[at..at + len].copy_from_slice(&conv.input[from..from + len]);
        }
    }
}
