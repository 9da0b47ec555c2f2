//! Depthwise convolution over registers of channels, one output row at a time.
//!
//! The rows of the kernel are cut to those inside the input's height, so padding above and below costs nothing.
//! Kernels three and five columns wide go through neighbouring pixels together and load each column of the input once for
//! all pixels that it is a tap of; columns in the padding are zeros. Other kernels go tap by tap, several inner pixels at
//! a time, and pixels at the borders by themselves with the taps that they have.
//!
//! Every sum is in the order of the taps, so an element doesn't depend on which pixels are computed with it.

use super::super::conv_f32::lanes::{Lanes, Weight};
use super::{ConvGeometry, DepthwiseF32, FloatWeights, PANEL_N, ResidualData, padded_channels};
use core::ops::Range;

/// Bytes of the input rows that a row of the kernel covers, for the channels that are taken together: they stay in an
/// L1 of 32 KiB while the rows of the output that read them are computed.
const CHUNK_BYTES: usize = 24 << 10;

/// Most pixels that share the columns of their taps. With their sums, columns and a weight they fill AVX-512's registers
/// under a kernel five wide; where there are 16, columns are read again, which costs less than more and narrower tiles.
const MOST_PIXELS: usize = 8;

/// What columns in the padding hold.
static ZEROS: [f32; PANEL_N] = [0.0; PANEL_N];

/// Depthwise convolution with registers of `L`.
///
/// # Safety
///
/// The CPU has the instruction set of `L`.
#[inline(always)]
pub(super) unsafe fn depthwise_f32_rows<L: Lanes>(args: &mut DepthwiseF32<'_>) {
    args.check();
    let g = &args.geometry;
    // A column of pixels is a row of them in memory, too, and pixels are taken together along rows.
    if g.in_w == 1 && g.out_w == 1 && g.kernel_w == 1 && g.pad_left == 0 {
        args.geometry = g.turned();
    }
    // SAFETY: the caller vouches for the instruction set; the lengths were just checked.
    unsafe {
        match args.weights {
            FloatWeights::F32(weights) => all_rows::<L, f32>(args, weights),
            FloatWeights::F16(weights) => all_rows::<L, half::f16>(args, weights),
        }
    }
}

/// One row of the output.
struct Row<'a, W> {
    g: &'a ConvGeometry,
    /// Taps inside the input's height.
    ky: Range<usize>,
    /// Channels that are computed, in registers of `L::LEN`.
    channels: Range<usize>,
    /// The input element of tap (`ky.start`, 0) of output column 0, channel 0, were
    /// there no padding on the left. Only addresses of taps inside the input are ever formed from
    /// it.
    input: *const f32,
    /// The weights of tap (0, 0), of channel 0.
    weights: *const W,
    bias: *const f32,
    /// Column 0; null for none.
    residual: *const f32,
    /// Column 0.
    output: *mut f32,
    output_stride: usize,
    /// Channels in a register, at most `L::LEN`.
    n: usize,
    min: f32,
    max: f32,
}

impl<W> Row<'_, W> {
    /// The first channel of each register. The last one ends with the channels: some of them are computed twice.
    #[inline(always)]
    fn registers<L: Lanes>(&self) -> impl Iterator<Item = usize> {
        let last = self.g.in_c.saturating_sub(L::LEN);
        self.channels.clone().step_by(L::LEN).map(move |c| c.min(last))
    }
}

/// # Safety
///
/// The CPU has the instruction set of `L`, and `args.check()` passed; `weights` are those of `args`.
#[inline(always)]
unsafe fn all_rows<L: Lanes, W: Weight>(args: &mut DepthwiseF32<'_>, weights: &[W]) {
    let g = &args.geometry;
    let channels = g.in_c;
    if g.out_pixels() == 0 || channels == 0 {
        return;
    }
    let inner = inner_columns(g);
    let row_bytes = (g.kernel_h * g.in_w).saturating_mul(size_of::<f32>()).max(1);
    let chunk = (CHUNK_BYTES / row_bytes / L::LEN).max(1) * L::LEN;
    // Tiles of even width: few pixels keep the multipliers waiting.
    let tile = g.out_w.div_ceil(g.out_w.div_ceil(MOST_PIXELS));
    let right_end = (g.out_w - 1) * g.stride_w + g.kernel_w;
    // A span lacks fewer columns than the kernel has, on either side.
    let shared_taps = channels >= L::LEN
        && g.dilation_w == 1
        && g.pad_left < g.kernel_w
        && right_end < g.pad_left + g.in_w + g.kernel_w;
    for (batch, first) in
        (0..g.batch).flat_map(|batch| (0..channels).step_by(chunk).map(move |c| (batch, c)))
    {
        for oy in 0..g.out_h {
            let y = (oy * g.stride_h) as isize - g.pad_top as isize;
            let ky = taps_inside(y, g.kernel_h, g.dilation_h, g.in_h);
            let first_y =
                if ky.is_empty() { 0 } else { (y + (ky.start * g.dilation_h) as isize) as usize };
            let input_row = (batch * g.in_h + first_y) * g.in_w * channels;
            let output_pixel = (batch * g.out_h + oy) * g.out_w;
            let row = Row {
                g,
                ky,
                channels: first..channels.min(first + chunk),
                input: args
                    .input
                    .as_ptr()
                    .wrapping_add(input_row)
                    .wrapping_sub(g.pad_left * channels),
                weights: weights.as_ptr(),
                bias: args.epilogue.bias.as_ptr(),
                residual: match args.epilogue.residual {
                    Some(ResidualData::Apart(residual)) => {
                        residual.as_ptr().wrapping_add(output_pixel * channels)
                    }
                    // `check` refuses one in the output.
                    Some(ResidualData::InOutput) | None => core::ptr::null(),
                },
                output: args.output.as_mut_ptr().wrapping_add(output_pixel * args.output_stride),
                output_stride: args.output_stride,
                n: L::LEN.min(channels),
                min: args.epilogue.min,
                max: args.epilogue.max,
            };
            // SAFETY: the row is row oy, all inside the slices that `check` measured; weights and bias are padded
            // to whole registers.
            unsafe {
                match (g.kernel_w, g.stride_w) {
                    (3, 1) if shared_taps => columns::<L, W, 3, 1>(&row, tile),
                    (3, 2) if shared_taps => columns::<L, W, 3, 2>(&row, tile),
                    (5, 1) if shared_taps => columns::<L, W, 5, 1>(&row, tile),
                    (5, 2) if shared_taps => columns::<L, W, 5, 2>(&row, tile),
                    _ if channels >= L::LEN => taps::<L, W, true>(&row, &inner),
                    _ => taps::<L, W, false>(&row, &inner),
                }
            }
            // Chunks are too narrow for a loop over each pixel's channels: the last one has the image activated.
            let (end, is_last) = (output_pixel + g.out_w, first + chunk >= channels);
            let pixels = if chunk >= channels { g.out_w } else { g.out_h * g.out_w };
            if is_last && (chunk >= channels || oy + 1 == g.out_h) {
                args.epilogue.activate(
                    args.output,
                    end - pixels..end,
                    0..channels,
                    args.output_stride,
                );
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

/// Reads `L::LEN` elements, or the row's `n`.
///
/// # Safety
///
/// They are readable, and `FULL` means `n == L::LEN`.
#[inline(always)]
unsafe fn load<L: Lanes, const FULL: bool>(from: *const f32, n: usize) -> L {
    // SAFETY: the contract is the same.
    unsafe { if FULL { L::load(from) } else { L::load_part(from, n) } }
}

/// Residual, clamp and store of the output columns from `ox` on, channels from `c` on.
///
/// # Safety
///
/// As for [`columns`]; all `P` columns are inside the output.
#[inline(always)]
unsafe fn finish<L: Lanes, W, const FULL: bool, const P: usize>(
    row: &Row<'_, W>,
    ox: usize,
    c: usize,
    mut sums: [L; P],
) {
    // SAFETY: the columns are inside output and residual.
    unsafe {
        if !row.residual.is_null() {
            let residual = row.residual.add(ox * row.g.in_c + c);
            for p in 0..P {
                sums[p] = sums[p].add(load::<L, FULL>(residual.add(p * row.g.in_c), row.n));
            }
        }
        let output = row.output.add(ox * row.output_stride + c);
        for p in 0..P {
            let y = sums[p].clamp(L::splat(row.min), L::splat(row.max));
            let output = output.add(p * row.output_stride);
            if FULL { y.store(output) } else { y.store_part(output, row.n) }
        }
    }
}

/// A row, for a kernel `KW` columns wide, undilated, with a stride of `S` columns, by `tile` pixels.
///
/// # Safety
///
/// The CPU has the instruction set of `L`; the pointers are as the row says, with at least `L::LEN` channels. Padding on
/// either side is narrower than the kernel. `tile` is at most [`MOST_PIXELS`].
#[inline(always)]
unsafe fn columns<L: Lanes, W: Weight, const KW: usize, const S: usize>(
    row: &Row<'_, W>,
    tile: usize,
) {
    let out_w = row.g.out_w;
    for ox in (0..out_w).step_by(tile) {
        // SAFETY: the contract is the same; there are so many pixels from ox on.
        unsafe {
            match tile.min(out_w - ox) {
                1 => pixels_sharing::<L, W, KW, S, 1>(row, ox),
                2 => pixels_sharing::<L, W, KW, S, 2>(row, ox),
                3 => pixels_sharing::<L, W, KW, S, 3>(row, ox),
                4 => pixels_sharing::<L, W, KW, S, 4>(row, ox),
                5 => pixels_sharing::<L, W, KW, S, 5>(row, ox),
                6 => pixels_sharing::<L, W, KW, S, 6>(row, ox),
                7 => pixels_sharing::<L, W, KW, S, 7>(row, ox),
                _ => pixels_sharing::<L, W, KW, S, MOST_PIXELS>(row, ox),
            }
        }
    }
}

/// `P` neighbouring pixels from `ox` on.
///
/// # Safety
///
/// As for [`columns`]; all `P` pixels are inside the output.
#[inline(always)]
unsafe fn pixels_sharing<L: Lanes, W: Weight, const KW: usize, const S: usize, const P: usize>(
    row: &Row<'_, W>,
    ox: usize,
) {
    let g = row.g;
    let span = (P - 1) * S + KW;
    // The columns of the span that are inside the input.
    let inside =
        g.pad_left.saturating_sub(ox * S)..(g.in_w + g.pad_left).saturating_sub(ox * S).min(span);
    let (channels, padded) = (g.in_c, padded_channels(g));
    let row_step = (g.dilation_h * g.in_w).wrapping_mul(channels);
    let first_tap = row.input.wrapping_add(ox * S * channels);
    let first_weight = row.weights.wrapping_add(row.ky.start * KW * padded);
    // SAFETY: the rows `ky` of the taps are inside the input, and so are the columns `inside` of the span, which lacks
    // fewer than KW columns on either side. A register from c on is inside the channels.
    unsafe {
        for c in row.registers::<L>() {
            let mut sums = [L::load(row.bias.add(c)); P];
            let (mut taps, mut w) = (first_tap.wrapping_add(c), first_weight.wrapping_add(c));
            for _ in 0..row.ky.len() {
                for kx in 0..KW {
                    let weight: L = W::load(w.add(kx * padded));
                    for p in 0..P {
                        // The compiler loads a column once and keeps it for the other pixels.
                        let column = p * S + kx;
                        let mut tap = taps.wrapping_add(column * channels);
                        let near_border = column + 1 < KW || column + KW > span;
                        if near_border && !inside.contains(&column) {
                            tap = ZEROS.as_ptr();
                        }
                        sums[p] = sums[p].fma(L::load(tap), weight);
                    }
                }
                taps = taps.wrapping_add(row_step);
                w = w.wrapping_add(KW * padded);
            }
            finish::<L, W, true, P>(row, ox, c, sums);
        }
    }
}

/// A row, for any kernel. `FULL`: there are at least `L::LEN` channels.
///
/// # Safety
///
/// The CPU has the instruction set of `L`; the pointers are as the row says; `inner` are the
/// geometry's inner columns.
#[inline(always)]
unsafe fn taps<L: Lanes, W: Weight, const FULL: bool>(row: &Row<'_, W>, inner: &Range<usize>) {
    let g = row.g;
    for c in row.registers::<L>() {
        // SAFETY: the contract is the same; border columns get their own taps.
        unsafe {
            let mut ox = inner.start;
            while ox + 8 <= inner.end {
                pixels::<L, W, FULL, 8>(row, ox, c, 0..g.kernel_w);
                ox += 8;
            }
            if ox + 4 <= inner.end {
                pixels::<L, W, FULL, 4>(row, ox, c, 0..g.kernel_w);
                ox += 4;
            }
            if ox + 2 <= inner.end {
                pixels::<L, W, FULL, 2>(row, ox, c, 0..g.kernel_w);
                ox += 2;
            }
            for ox in (0..inner.start).chain(ox..g.out_w) {
                let x = (ox * g.stride_w) as isize - g.pad_left as isize;
                let kx = taps_inside(x, g.kernel_w, g.dilation_w, g.in_w);
                pixels::<L, W, FULL, 1>(row, ox, c, kx);
            }
        }
    }
}

/// `P` neighbouring columns from `ox` on, with the taps `kx` of every kernel row, for the channels from `c` on.
///
/// # Safety
///
/// As for [`taps`]; the taps `kx` of all `P` columns are inside the input's width.
#[inline(always)]
unsafe fn pixels<L: Lanes, W: Weight, const FULL: bool, const P: usize>(
    row: &Row<'_, W>,
    ox: usize,
    c: usize,
    kx: Range<usize>,
) {
    let g = row.g;
    let (channels, padded) = (g.in_c, padded_channels(g));
    let pixel_step = g.stride_w * channels;
    let row_step = (g.dilation_h * g.in_w).wrapping_mul(channels);
    let tap_step = g.dilation_w * channels;
    let mut line = row.input.wrapping_add(ox * pixel_step + kx.start * tap_step + c);
    // SAFETY: taps (ky, kx) of the columns are inside the input.
    unsafe {
        let mut sums = [L::load(row.bias.add(c)); P];
        for ky in row.ky.clone() {
            let mut tap = line;
            let mut w = row.weights.wrapping_add((ky * g.kernel_w + kx.start) * padded + c);
            for _ in kx.clone() {
                let weight: L = W::load(w);
                for p in 0..P {
                    let x = load::<L, FULL>(tap.wrapping_add(p * pixel_step), row.n);
                    sums[p] = sums[p].fma(x, weight);
                }
                tap = tap.wrapping_add(tap_step);
                w = w.wrapping_add(padded);
            }
            line = line.wrapping_add(row_step);
        }
        finish::<L, W, FULL, P>(row, ox, c, sums);
    }
}
