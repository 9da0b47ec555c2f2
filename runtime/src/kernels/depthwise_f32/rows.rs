//! Depthwise convolution over registers of channels, one output row at a time.
//!
//! Per row and register of channels, the pixels are those at the left border, those whose taps
//! are all inside the input's width, and those at the right border. The rows of the kernel are cut
//! to those inside the input's height, so padding costs nothing. Inner pixels go several at a time
//! through each tap; a 3×3 kernel has its nine weights in registers.

use super::super::conv_f32::lanes::{Lanes, Weight};
use super::{ConvGeometry, DepthwiseF32, FloatWeights, ResidualData, padded_channels};
use core::ops::Range;

/// Depthwise convolution with registers of `L`.
///
/// # Safety
///
/// The CPU has the instruction set of `L`.
#[inline(always)]
pub(super) unsafe fn depthwise_f32_rows<L: Lanes>(args: &mut DepthwiseF32<'_>) {
    args.check();
    // SAFETY: the caller vouches for the instruction set; the lengths were just checked.
    unsafe {
        match args.weights {
            FloatWeights::F32(weights) => all_rows::<L, f32>(args, weights),
            FloatWeights::F16(weights) => all_rows::<L, half::f16>(args, weights),
        }
    }
}

/// One row of the output and one register of channels.
struct RowBlock<'a, W> {
    g: &'a ConvGeometry,
    /// Taps inside the input's height.
    ky: Range<usize>,
    /// The input element of tap (`ky.start`, 0) of output column 0, channel 0 of the block, were
    /// there no padding on the left. Only addresses of taps inside the input are ever formed from
    /// it.
    input: *const f32,
    /// The weights of tap (0, 0).
    weights: *const W,
    bias: *const f32,
    /// Column 0; null for none.
    residual: *const f32,
    /// Column 0.
    output: *mut f32,
    output_stride: usize,
    /// Channels in the block, at most `L::LEN`.
    n: usize,
    min: f32,
    max: f32,
}

/// # Safety
///
/// The CPU has the instruction set of `L`, and `args.check()` passed; `weights` are those of `args`.
#[inline(always)]
unsafe fn all_rows<L: Lanes, W: Weight>(args: &mut DepthwiseF32<'_>, weights: &[W]) {
    let g = &args.geometry;
    let channels = g.in_c;
    let inner = inner_columns(g);
    for batch in 0..g.batch {
        for oy in 0..g.out_h {
            let y = (oy * g.stride_h) as isize - g.pad_top as isize;
            let ky = taps_inside(y, g.kernel_h, g.dilation_h, g.in_h);
            let first_y =
                if ky.is_empty() { 0 } else { (y + (ky.start * g.dilation_h) as isize) as usize };
            let input_row = (batch * g.in_h + first_y) * g.in_w * channels;
            let output_pixel = (batch * g.out_h + oy) * g.out_w;
            for c in (0..channels).step_by(L::LEN) {
                let block = RowBlock {
                    g,
                    ky: ky.clone(),
                    input: args
                        .input
                        .as_ptr()
                        .wrapping_add(input_row + c)
                        .wrapping_sub(g.pad_left * channels),
                    weights: weights[c..].as_ptr(),
                    bias: args.epilogue.bias[c..].as_ptr(),
                    residual: match args.epilogue.residual {
                        Some(ResidualData::Apart(residual)) => {
                            residual.as_ptr().wrapping_add(output_pixel * channels + c)
                        }
                        // `check` refuses one in the output.
                        Some(ResidualData::InOutput) | None => core::ptr::null(),
                    },
                    output: args
                        .output
                        .as_mut_ptr()
                        .wrapping_add(output_pixel * args.output_stride + c),
                    output_stride: args.output_stride,
                    n: L::LEN.min(channels - c),
                    min: args.epilogue.min,
                    max: args.epilogue.max,
                };
                // SAFETY: the block describes row oy and channels c..c + n, all inside the slices
                // that `check` measured; weights and bias are padded to whole registers.
                unsafe {
                    if block.n == L::LEN {
                        row::<L, W, true>(&block, &inner);
                    } else {
                        row::<L, W, false>(&block, &inner);
                    }
                }
            }
        }
    }
}

/// Taps `k` with `0 <= first + k * dilation < len`.
fn taps_inside(first: isize, kernel: usize, dilation: usize, len: usize) -> Range<usize> {
    let end = match len.checked_add_signed(first.saturating_neg()) {
        Some(room) => room.div_ceil(dilation).min(kernel),
        None => 0,
    };
    let start = first.min(0).unsigned_abs().div_ceil(dilation).min(end);
    start..end
}

/// The output columns whose taps are all inside the input's width.
fn inner_columns(g: &ConvGeometry) -> Range<usize> {
    let reach = (g.kernel_w - 1) * g.dilation_w;
    let end = match (g.in_w + g.pad_left).checked_sub(reach) {
        Some(room) => room.div_ceil(g.stride_w).min(g.out_w),
        None => 0,
    };
    let start = g.pad_left.div_ceil(g.stride_w).min(end);
    start..end
}

/// One row of a block. `FULL`: all `L::LEN` channels count.
///
/// # Safety
///
/// The CPU has the instruction set of `L`; the block's pointers are as it says; `inner` are the
/// geometry's inner columns.
#[inline(always)]
unsafe fn row<L: Lanes, W: Weight, const FULL: bool>(
    block: &RowBlock<'_, W>,
    inner: &Range<usize>,
) {
    let g = block.g;
    // SAFETY: the contract is the same; border columns get their own taps.
    unsafe {
        let inner = if g.kernel_w == 3 && g.dilation_w == 1 && block.ky.len() == 3 {
            row_3x3::<L, W, FULL>(block, inner.clone())
        } else {
            let mut ox = inner.start;
            while ox + 8 <= inner.end {
                pixels::<L, W, FULL, 8, 1>(block, ox, 0..g.kernel_w);
                ox += 8;
            }
            if ox + 4 <= inner.end {
                pixels::<L, W, FULL, 4, 2>(block, ox, 0..g.kernel_w);
                ox += 4;
            }
            if ox + 2 <= inner.end {
                pixels::<L, W, FULL, 2, 3>(block, ox, 0..g.kernel_w);
                ox += 2;
            }
            inner.start..ox
        };
        for ox in (0..inner.start).chain(inner.end..g.out_w) {
            let x = (ox * g.stride_w) as isize - g.pad_left as isize;
            pixels::<L, W, FULL, 1, 3>(block, ox, taps_inside(x, g.kernel_w, g.dilation_w, g.in_w));
        }
    }
}

/// Reads `L::LEN` elements, or the block's `n`.
///
/// # Safety
///
/// They are readable, and `FULL` means `n == L::LEN`.
#[inline(always)]
unsafe fn load<L: Lanes, const FULL: bool>(from: *const f32, n: usize) -> L {
    // SAFETY: the contract is the same.
    unsafe { if FULL { L::load(from) } else { L::load_part(from, n) } }
}

/// Residual, clamp and store of the output columns from `ox` on.
///
/// # Safety
///
/// As for [`row`]; all `P` columns are inside the output.
#[inline(always)]
unsafe fn finish<L: Lanes, W, const FULL: bool, const P: usize>(
    block: &RowBlock<'_, W>,
    ox: usize,
    mut sums: [L; P],
) {
    // SAFETY: the columns are inside output and residual.
    unsafe {
        if !block.residual.is_null() {
            let residual = block.residual.add(ox * block.g.in_c);
            for p in 0..P {
                sums[p] = sums[p].add(load::<L, FULL>(residual.add(p * block.g.in_c), block.n));
            }
        }
        let output = block.output.add(ox * block.output_stride);
        for p in 0..P {
            let y = sums[p].clamp(L::splat(block.min), L::splat(block.max));
            let output = output.add(p * block.output_stride);
            if FULL { y.store(output) } else { y.store_part(output, block.n) }
        }
    }
}

/// `P` neighbouring columns from `ox` on, with the taps `kx` of every kernel row, in `S` partial
/// sums a column, to hide the latency of the fused multiply-add.
///
/// # Safety
///
/// As for [`row`]; the taps `kx` of all `P` columns are inside the input's width.
#[inline(always)]
unsafe fn pixels<L: Lanes, W: Weight, const FULL: bool, const P: usize, const S: usize>(
    block: &RowBlock<'_, W>,
    ox: usize,
    kx: Range<usize>,
) {
    let g = block.g;
    let (channels, padded) = (g.in_c, padded_channels(g));
    let pixel_step = g.stride_w * channels;
    let row_step = (g.dilation_h * g.in_w).wrapping_mul(channels);
    let tap_step = g.dilation_w * channels;
    let mut row = block.input.wrapping_add(ox * pixel_step + kx.start * tap_step);
    // SAFETY: taps (ky, kx) of the columns are inside the input.
    unsafe {
        let mut sums = [[L::zero(); P]; S];
        sums[0] = [L::load(block.bias); P];
        for ky in block.ky.clone() {
            let mut tap = row;
            let mut w = block.weights.wrapping_add((ky * g.kernel_w + kx.start) * padded);
            let mut left = kx.len();
            while left > 0 {
                for s in 0..S {
                    if s < left {
                        let weight: L = W::load(w);
                        for p in 0..P {
                            let x = load::<L, FULL>(tap.wrapping_add(p * pixel_step), block.n);
                            sums[s][p] = sums[s][p].fma(x, weight);
                        }
                        tap = tap.wrapping_add(tap_step);
                        w = w.wrapping_add(padded);
                    }
                }
                left = left.saturating_sub(S);
            }
            row = row.wrapping_add(row_step);
        }
        for s in 1..S {
            for p in 0..P {
                sums[0][p] = sums[0][p].add(sums[s][p]);
            }
        }
        finish::<L, W, FULL, P>(block, ox, sums[0]);
    }
}

/// The columns `inner` with a 3×3 kernel, all of whose rows are inside, and the columns next to
/// them if they lack one column of taps. Returns the columns done.
///
/// # Safety
///
/// As for [`row`]; the kernel is three columns wide, undilated, and three rows are inside.
#[inline(always)]
unsafe fn row_3x3<L: Lanes, W: Weight, const FULL: bool>(
    block: &RowBlock<'_, W>,
    inner: Range<usize>,
) -> Range<usize> {
    let g = block.g;
    let padded = padded_channels(g);
    let first = block.ky.start * 3;
    let (mut start, mut end) = (inner.start, inner.end);
    // SAFETY: all nine taps of the inner columns are inside the input, and those of the columns
    // beside them that are named; weights are padded to whole registers.
    unsafe {
        let mut w = [[L::zero(); 3]; 3];
        for ky in 0..3 {
            for kx in 0..3 {
                w[ky][kx] = W::load(block.weights.add((first + ky * 3 + kx) * padded));
            }
        }
        if start == 1 && g.pad_left == 1 && g.in_w >= 2 {
            pixels_3x3::<L, W, FULL, 1, 1, 3>(block, 0, &w);
            start = 0;
        }
        let mut ox = inner.start;
        while ox + 4 <= inner.end {
            pixels_3x3::<L, W, FULL, 4, 0, 3>(block, ox, &w);
            ox += 4;
        }
        match inner.end.saturating_sub(ox) {
            1 => pixels_3x3::<L, W, FULL, 1, 0, 3>(block, ox, &w),
            2 => pixels_3x3::<L, W, FULL, 2, 0, 3>(block, ox, &w),
            3 => pixels_3x3::<L, W, FULL, 3, 0, 3>(block, ox, &w),
            _ => {}
        }
        // The first tap of column `end` is inside if the one before it had a tap left of it.
        if end < g.out_w
            && end * g.stride_w >= g.pad_left
            && end * g.stride_w + 2 == g.pad_left + g.in_w
        {
            pixels_3x3::<L, W, FULL, 1, 0, 2>(block, end, &w);
            end += 1;
        }
    }
    start..end
}

/// `P` neighbouring columns from `ox` on, with three kernel rows and the kernel columns `X0..X1`.
///
/// # Safety
///
/// As for [`row_3x3`]; these taps of all `P` columns are inside the input.
#[inline(always)]
unsafe fn pixels_3x3<
    L: Lanes,
    W: Weight,
    const FULL: bool,
    const P: usize,
    const X0: usize,
    const X1: usize,
>(
    block: &RowBlock<'_, W>,
    ox: usize,
    w: &[[L; 3]; 3],
) {
    let g = block.g;
    let channels = g.in_c;
    let (row_step, pixel_step) = (g.dilation_h * g.in_w * channels, g.stride_w * channels);
    let input = block.input.wrapping_add(ox * pixel_step);
    // SAFETY: the caller vouches for the taps.
    unsafe {
        let mut sums = [L::load(block.bias); P];
        if L::LOADS && P > 1 && X0 == 0 && X1 == 3 && g.stride_w == 1 {
            // Neighbouring pixels share columns of taps.
            for ky in 0..3 {
                for column in 0..P + 2 {
                    let tap = input.wrapping_add(ky * row_step + column * channels);
                    let x: L = load::<L, FULL>(tap, block.n);
                    for p in column.saturating_sub(2)..P.min(column + 1) {
                        sums[p] = sums[p].fma(x, w[ky][column - p]);
                    }
                }
            }
            return finish::<L, W, FULL, P>(block, ox, sums);
        }
        for ky in 0..3 {
            for kx in X0..X1 {
                let tap = input.wrapping_add(ky * row_step + kx * channels);
                for p in 0..P {
                    sums[p] = sums[p]
                        .fma(load::<L, FULL>(tap.wrapping_add(p * pixel_step), block.n), w[ky][kx]);
                }
            }
        }
        finish::<L, W, FULL, P>(block, ox, sums);
    }
}
