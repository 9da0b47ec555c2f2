//! The loops around the microkernel: blocks of rows and of K, gathering, panels, tiles.

use super::blocking::{
    KBlock, KBlocks, MAX_BLOCK_ROWS, MAX_PANELS, Runs, TILED_ROWS, block_rows, dequantized_len,
    runs,
};
use super::grouped::GroupedWeights;
use super::rounding::{Rounding, widen_block};
use super::tile::{Dequantize, Finish, GroupedPanel, Row, Tile, TileKernel, WeightPtr};
use super::{ConvF32, ConvGeometry, FloatWeights, PANEL_N, PanelWeights};
use core::ops::Range;
use core::{ptr, slice};

/// Up to so many tiles of rows read grouped weights in place: converting them again for each costs less than
/// writing them to memory and reading them there.
const DIRECT_TILES: usize = 2;

/// Weights of so many bytes are taken to come from memory when one row reads them: a core's own caches hold less.
/// Tests have no such shapes.
const STREAMED_BYTES: usize = if cfg!(test) { 1 << 10 } else { 1 << 20 };

/// Whether one row's weights come from memory.
fn are_streamed(weights: PanelWeights<'_>) -> bool {
    let bytes = match weights {
        PanelWeights::Float(FloatWeights::F32(w)) => size_of_val(w),
        PanelWeights::Float(FloatWeights::F16(w)) => size_of_val(w),
        PanelWeights::Bf16(w) => size_of_val(w),
        PanelWeights::Grouped(_) => return false,
    };
    bytes >= STREAMED_BYTES
}

/// Convolution by tiles of `kernel`.
///
/// # Safety
///
/// The CPU has the instruction set of `kernel`.
pub(super) unsafe fn conv_f32_blocked(args: &mut ConvF32<'_>, kernel: TileKernel) {
    args.check();
    let g = &args.geometry;
    if let PanelWeights::Float(weights) = args.weights
        && g.is_pointwise()
        && args.pixels == (0..1)
        && g.out_pixels() == 1
    {
        // SAFETY: the contract is the same, and `args` were checked.
        return unsafe { one_row(args, weights, kernel) };
    }
    let scratch_len = match args.weights {
        PanelWeights::Float(_) => super::blocking::scratch_len(g),
        PanelWeights::Bf16(_) => super::blocking::bf16_scratch_len(g),
        PanelWeights::Grouped(_) => super::blocking::grouped_scratch_len(g),
    };
    assert!(args.scratch.len() >= scratch_len, "scratch");
    assert!(kernel.panels <= MAX_PANELS);
    if args.pixels.is_empty() || g.out_c == 0 {
        return;
    }
    if let PanelWeights::Grouped(weights) = args.weights
        && g.is_pointwise()
        && g.out_pixels() <= DIRECT_TILES * kernel.grouped_rows
        && args.pixels.len() == g.out_pixels()
    {
        return grouped_tiles(args, weights, kernel.grouped_rows, |tile, _, _| {
            // SAFETY: the caller vouches for the instruction set, `grouped_tiles` for the tile.
            unsafe { (kernel.run)(tile) }
        });
    }

    const NONE: Row = Row { start: ptr::null(), step: 0, line_step: 0 };
    // SAFETY: the contract is the same. There is a row for each pixel, or for each of a block.
    unsafe {
        match args.pixels.len() {
            1 => run_blocks(args, kernel, &mut [NONE; 1]),
            ..=TILED_ROWS => run_blocks(args, kernel, &mut [NONE; TILED_ROWS]),
            _ => run_blocks(args, kernel, &mut [NONE; MAX_BLOCK_ROWS]),
        }
    }
}

/// One row of a pointwise convolution, which needs no blocks: the loop that small layers spend their time around.
///
/// # Safety
///
/// The CPU has the instruction set of `kernel`; `args` were checked.
unsafe fn one_row(args: &mut ConvF32<'_>, weights: FloatWeights<'_>, kernel: TileKernel) {
    let (k, out_c) = (args.geometry.k(), args.geometry.out_c);
    if out_c == 0 {
        return;
    }
    let rows = [Row { start: args.input.as_ptr(), step: 0, line_step: 0 }];
    let (finish, in_place) = Finish::new(&args.epilogue, out_c, 0, 0, 0);
    let tile = Tile {
        rows: &rows,
        lines: 1,
        runs: 1,
        run_len: k,
        a_step: 1,
        weights: WeightPtr::new(weights, 0),
        streams: are_streamed(weights.into()),
        weight_step: PANEL_N,
        panel_stride: PANEL_N * k,
        cols: out_c,
        output: args.output.as_mut_ptr(),
        output_stride: args.output_stride,
        accumulate: in_place,
        finish: Some(finish),
    };
    // SAFETY: the caller vouches for the instruction set. `check` proved the lengths: k inputs, whole panels of k weights and of
    // the bias up to the padded channels, out_c elements of output and residual.
    unsafe { (kernel.row)(&tile) };
    args.epilogue.activate(args.output, 0..1, 0..out_c, args.output_stride);
}

/// The same block by block, whose rows are pointed at in `rows`.
///
/// # Safety
///
/// The CPU has the instruction set of `kernel`; `args` were checked.
#[inline(never)]
unsafe fn run_blocks(args: &mut ConvF32<'_>, kernel: TileKernel, rows: &mut [Row]) {
    let g = &args.geometry;
    let (k, group_out_c, padded_group_out_c) = (g.k(), g.group_out_c(), g.padded_group_out_c());
    let rounding = match args.weights {
        PanelWeights::Bf16(_) => Some(kernel.bf16.rounding(g.out_pixels())),
        _ => None,
    };
    // Inputs in an element of a row.
    let per_element = rounding.map_or(1, |rounding| rounding.per_element);
    let (k_blocks, converts) = match args.weights {
        PanelWeights::Float(_) => (KBlocks::new(g), false),
        PanelWeights::Bf16(_) => (KBlocks::bf16(g, per_element == 1), per_element == 1),
        PanelWeights::Grouped(_) => (KBlocks::grouped(g), true),
    };
    let dequantized_len = if converts { dequantized_len(&k_blocks) } else { 0 };
    let inner = Inner::new(g);
    let (dequantized, gathered) = args.scratch.split_at_mut(dequantized_len);
    let block_rows = block_rows(g);

    let streams = g.out_pixels() == 1 && are_streamed(args.weights);
    // One stream of memory is read faster than several.
    let panels = if streams { 1 } else { kernel.panels };

    let (mut first_pixel, pixels) = (args.pixels.start, args.pixels.clone());
    while first_pixel < pixels.end {
        // Blocks begin at multiples of their size, whatever the range.
        let last_pixel = pixels.end.min((first_pixel / block_rows + 1) * block_rows);
        let rows = &mut rows[..last_pixel - first_pixel];
        for group in 0..g.groups {
            let mut block_k = 0;
            loop {
                let block = k_blocks.at(block_k);
                block_k += block.size();
                let last = block_k >= k;
                // SAFETY: the caller vouches for the instruction set.
                unsafe {
                    point(
                        args.input,
                        g,
                        &inner,
                        group,
                        &block,
                        rounding,
                        first_pixel,
                        gathered,
                        rows,
                    );
                }

                for col in (0..group_out_c).step_by(panels * PANEL_N) {
                    let cols = (panels * PANEL_N).min(group_out_c - col);
                    let padded_channel = group * padded_group_out_c + col;
                    let channel = group * group_out_c + col;
                    let (weights, panel_stride) = match args.weights {
                        PanelWeights::Float(weights) => {
                            let start = padded_channel * k + block.k * PANEL_N;
                            (WeightPtr::new(weights, start), PANEL_N * k)
                        }
                        PanelWeights::Bf16(weights) if per_element > 1 => {
                            let start = padded_channel * k + block.k * PANEL_N;
                            let weights = WeightPtr::Pairs(weights[start..].as_ptr());
                            (weights, PANEL_N * k / per_element)
                        }
                        PanelWeights::Bf16(weights) => {
                            let first = padded_channel / PANEL_N;
                            let panels = first..first + cols.div_ceil(PANEL_N);
                            let inputs = block.k..block.k + block.size();
                            let stride = block.size() * PANEL_N;
                            let to = &mut dequantized[..panels.len() * stride];
                            let start = WeightPtr::F32(to.as_ptr());
                            // SAFETY: the caller vouches for the instruction set.
                            unsafe {
                                widen_block(weights, k, panels, inputs, to, kernel.bf16.widen)
                            }
                            (start, stride)
                        }
                        PanelWeights::Grouped(weights) => {
                            let panels = cols.div_ceil(PANEL_N);
                            let first = padded_channel / PANEL_N;
                            // SAFETY: the caller vouches for the instruction set.
                            unsafe {
                                dequantize(weights, k, first, panels, &block, dequantized, kernel)
                            }
                        }
                    };
                    let most_rows =
                        if cols <= PANEL_N / 2 { kernel.narrow_rows } else { kernel.rows };
                    for tile_rows in tiles(first_pixel, rows.len(), most_rows) {
                        let (row, height) = (tile_rows.start, tile_rows.len());
                        let pixel = first_pixel + row;
                        // A residual in the output is what the first block of K adds to.
                        let (finish, in_place) =
                            Finish::new(&args.epilogue, g.out_c, pixel, channel, padded_channel);
                        let tile = Tile {
                            rows: &rows[row..row + height],
                            lines: block.lines,
                            runs: block.runs,
                            run_len: block.len / per_element,
                            a_step: 1,
                            weights,
                            streams,
                            weight_step: PANEL_N,
                            panel_stride,
                            cols,
                            output: args.output
                                [(pixel - pixels.start) * args.output_stride + channel..]
                                .as_mut_ptr(),
                            output_stride: args.output_stride,
                            accumulate: block.k > 0 || in_place,
                            finish: last.then_some(finish),
                        };
                        // SAFETY: the caller vouches for the instruction set. `point` made each row
                        // point to the block's runs, inside the input or in scratch. `check` proved
                        // the lengths: `weights` starts at row block.k of a panel, so k - block.k
                        // rows of it and whole panels up to the group's padded channels follow, or
                        // the block's rows of the tile's panels were dequantized; likewise the bias; the residual has rows up to
                        // pixel + height <= out_pixels, of out_c elements, the output up to pixels.end - pixels.start.
                        unsafe { (kernel.run)(&tile) };
                    }
                }
                if last {
                    break;
                }
            }
        }
        let done = first_pixel - pixels.start..last_pixel - pixels.start;
        args.epilogue.activate(args.output, done, 0..g.out_c, args.output_stride);
        first_pixel = last_pixel;
    }
}

/// The tiles of a block of `rows` rows that begins at a pixel, of up to `most_rows` rows.
fn tiles(first_pixel: usize, rows: usize, most_rows: usize) -> impl Iterator<Item = Range<usize>> {
    let mut stretch = 0..0;
    let mut height = 0;
    core::iter::from_fn(move || {
        if stretch.is_empty() {
            let start = stretch.end;
            let next = (first_pixel + start) / TILED_ROWS * TILED_ROWS + TILED_ROWS;
            stretch = start..rows.min(next - first_pixel);
            // Even heights: a last tile of few rows would be slow.
            height = match stretch.len() {
                rows if rows <= most_rows => rows,
                rows => rows.div_ceil(rows.div_ceil(most_rows)),
            };
        }
        let tile = stretch.start..stretch.end.min(stretch.start + height);
        stretch.start = tile.end;
        (!tile.is_empty()).then_some(tile)
    })
}

/// A few rows of a pointwise convolution by grouped weights: every panel of 16 outputs by up to `height` rows at a time, as tiles that
/// keep [`Tile`]'s promises. The rows' numbers come with them.
///
/// # Panics
///
/// When there are more than 12 rows.
pub(super) fn grouped_tiles(
    args: &mut ConvF32<'_>,
    weights: GroupedWeights<'_>,
    height: usize,
    mut run: impl FnMut(&Tile<'_>, &GroupedPanel, Range<usize>),
) {
    let (g, k) = (args.geometry, args.geometry.k());
    assert!(g.is_pointwise());
    args.check();
    let mut rows = [Row { start: args.input.as_ptr(), step: 0, line_step: 0 }; 12];
    let rows = &mut rows[..g.out_pixels()];
    for (row, input) in rows.iter_mut().zip(args.input.chunks(k.max(1))) {
        row.start = input.as_ptr();
    }
    for channel in (0..g.out_c).step_by(PANEL_N) {
        let panel = GroupedPanel::new(weights, channel / PANEL_N, k);
        for (index, rows) in rows.chunks(height).enumerate() {
            let row = index * height;
            let (finish, in_place) = Finish::new(&args.epilogue, g.out_c, row, channel, channel);
            // `check` proved the lengths: whole panels of weights, scales and bias up to the padded channels; input rows of k elements,
            // and of out_c in output and residual.
            let tile = Tile {
                rows,
                lines: 1,
                runs: 1,
                run_len: k,
                a_step: 1,
                weights: WeightPtr::Grouped(panel),
                streams: false,
                weight_step: PANEL_N,
                panel_stride: 0,
                cols: PANEL_N.min(g.out_c - channel),
                output: args.output[row * args.output_stride + channel..].as_mut_ptr(),
                output_stride: args.output_stride,
                accumulate: in_place,
                finish: Some(finish),
            };
            run(&tile, &panel, row..row + rows.len());
        }
    }
    args.epilogue.activate(args.output, 0..g.out_pixels(), 0..g.out_c, args.output_stride);
}

/// Writes a block of K of `panels` panels from number `first` on as floats. Returns where it starts, and
/// elements from a panel to the next.
///
/// # Safety
///
/// The CPU has the instruction set of `kernel`.
unsafe fn dequantize(
    weights: GroupedWeights<'_>,
    k: usize,
    first: usize,
    panels: usize,
    block: &KBlock,
    output: &mut [f32],
    kernel: TileKernel,
) -> (WeightPtr, usize) {
    let unit = weights.bits.unit();
    let first_unit = block.k / unit;
    let units = (block.k + block.size()).div_ceil(unit) - first_unit;
    let stride = units * unit * PANEL_N;
    let output = &mut output[..panels * stride];
    for (index, output) in output.chunks_exact_mut(stride.max(1)).enumerate() {
        let args = Dequantize {
            panel: GroupedPanel::new(weights, first + index, k),
            first_unit,
            units,
            output: output.as_mut_ptr(),
        };
        // SAFETY: the caller vouches for the instruction set. `check` proved that there are whole panels up
        // to the padded channels, each with units for k inputs, which the block's are among. The output is
        // a slice of `units * unit` rows.
        unsafe { (kernel.dequantize)(&args) };
    }
    let start = &output[block.k % unit * PANEL_N..];
    (WeightPtr::F32(start.as_ptr()), stride)
}

/// The output pixels that are read in place: all their taps are inside the input, in runs.
struct Inner {
    runs: Runs,
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Inner {
    fn new(g: &ConvGeometry) -> Inner {
        let range = |pad: usize, stride: usize, kernel: usize, dilation: usize, len: usize| {
            let reach = (kernel - 1) * dilation;
            pad.div_ceil(stride)..(len + pad).saturating_sub(reach).div_ceil(stride)
        };
        Inner {
            runs: runs(g),
            rows: range(g.pad_top, g.stride_h, g.kernel_h, g.dilation_h, g.in_h),
            columns: range(g.pad_left, g.stride_w, g.kernel_w, g.dilation_w, g.in_w),
        }
    }
}

/// Points each row to an output pixel's elements of a block of K, from pixel `first_pixel` on: in
/// place, or gathered into `scratch`, as all rows are that are rounded.
///
/// # Safety
///
/// The CPU has the instruction set of the rounding's kernel.
unsafe fn point(
    input: &[f32],
    g: &ConvGeometry,
    inner: &Inner,
    group: usize,
    block: &KBlock,
    rounding: Option<Rounding>,
    first_pixel: usize,
    scratch: &mut [f32],
    rows: &mut [Row],
) {
    let group_offset = group * g.group_in_c();
    let Runs { step, line_step, .. } = inner.runs;
    let block_offset =
        group_offset + block.line * line_step + block.first_run * step + block.offset;
    // One pointer for all rows, so that a later row's doesn't invalidate an earlier one's.
    let scratch_start = scratch.as_mut_ptr();
    let (image, mut ox) = (first_pixel / g.out_w, first_pixel % g.out_w);
    let (mut batch, mut oy) = (image / g.out_h, image % g.out_h);
    let per_element = rounding.map_or(1, |rounding| rounding.per_element);
    let (size, len) = (block.size() / per_element, block.len / per_element);
    let mut i = 0;
    while i < rows.len() {
        // What is left of an output row, or of the block.
        let end = i + (g.out_w - ox).min(rows.len() - i);
        // `check` proved that coordinates don't overflow isize.
        let y = (oy * g.stride_h) as isize - g.pad_top as isize;
        let columns = match inner.rows.contains(&oy) && rounding.is_none() {
            true => inner.columns.clone(),
            false => 0..0,
        };
        while i < end {
            if columns.contains(&ox) {
                let in_place = (end - i).min(columns.end - ox);
                let pixel = (batch * g.in_h + y as usize) * g.in_w + ox * g.stride_w - g.pad_left;
                let start = pixel * g.in_c + block_offset;
                // The last row to point at; rows before it start before it.
                assert!(start + (in_place - 1) * g.stride_w * g.in_c <= input.len());
                for (j, row) in rows[i..i + in_place].iter_mut().enumerate() {
                    let start = input.as_ptr().wrapping_add(start + j * g.stride_w * g.in_c);
                    *row = Row { start, step, line_step };
                }
                (i, ox) = (i + in_place, ox + in_place);
            } else {
                let x = (ox * g.stride_w) as isize - g.pad_left as isize;
                let range = i * size..(i + 1) * size;
                assert!(range.end <= scratch.len());
                // SAFETY: the range was checked against the slice that scratch_start came from, and
                // rows of one block don't overlap.
                let patch = unsafe {
                    slice::from_raw_parts_mut(scratch_start.add(range.start), range.len())
                };
                let inputs = block.k..block.k + block.size();
                gather(input, g, group_offset, (batch, y, x), inputs, patch, |to, at, from| {
                    match rounding {
                        // SAFETY: the caller vouches for the instruction set.
                        Some(rounding) => unsafe { rounding.copy(to, at, from) },
                        None => copy_run(&mut to[at..at + from.len()], from),
                    }
                });
                let line_step = block.runs * len;
                rows[i] = Row { start: patch.as_ptr(), step: len, line_step };
                (i, ox) = (i + 1, ox + 1);
            }
        }
        (ox, oy) = (0, oy + 1);
        if oy == g.out_h {
            (oy, batch) = (0, batch + 1);
        }
    }
}

/// Copies some elements of a pixel's K into `patch`, by a function that is told where in it a run begins; `first_tap` are the
/// image and the row and column, negative in the padding, of its first tap.
fn gather(
    input: &[f32],
    g: &ConvGeometry,
    group_offset: usize,
    first_tap: (usize, isize, isize),
    inputs: Range<usize>,
    patch: &mut [f32],
    copy: impl Fn(&mut [f32], usize, &[f32]),
) {
    let (batch, first_y, first_x) = first_tap;
    let group_in_c = g.group_in_c();
    let last_y = first_y + ((g.kernel_h - 1) * g.dilation_h) as isize;
    let last_x = first_x + ((g.kernel_w - 1) * g.dilation_w) as isize;
    if first_y < 0 || first_x < 0 || last_y >= g.in_h as isize || last_x >= g.in_w as isize {
        patch.fill(0.0);
    }
    // Taps that are neighbours in the input as well as in K are copied as one.
    let whole_rows = g.groups == 1 && g.dilation_w == 1;
    let copy_w = if whole_rows { g.kernel_w } else { 1 };
    // The kernel rows and taps that the patch covers.
    let row_k = (g.kernel_w * group_in_c).max(1);
    let first_row = inputs.start / row_k;
    for ky in first_row..inputs.end.div_ceil(row_k) {
        let y = first_y + (ky * g.dilation_h) as isize;
        if y < 0 || y as usize >= g.in_h {
            continue;
        }
        let row = (batch * g.in_h + y as usize) * g.in_w;
        for kx in (0..g.kernel_w).step_by(copy_w) {
            let x = first_x + (kx * g.dilation_w) as isize;
            // Taps x..x + copy_w that are inside the input.
            let skip = x.min(0).unsigned_abs().min(copy_w);
            let end = (g.in_w as isize - x).clamp(0, copy_w as isize) as usize;
            if skip >= end {
                continue;
            }
            let from = (row + (x + skip as isize) as usize) * g.in_c + group_offset;
            let k = (ky * g.kernel_w + kx + skip) * group_in_c;
            let len = (end - skip) * group_in_c;
            // The part of k..k + len that the patch covers.
            let start = k.max(inputs.start);
            let stop = (k + len).min(inputs.end);
            if start < stop {
                copy(patch, start - inputs.start, &input[from + start - k..from + stop - k]);
            }
        }
    }
}

/// A copy that doesn't call out for the short runs of groups.
#[inline(always)]
fn copy_run(to: &mut [f32], from: &[f32]) {
    const SHORT: usize = 32;
    if from.len() > SHORT {
        return to.copy_from_slice(from);
    }
    let ((to, to_rest), (from, from_rest)) = (to.as_chunks_mut::<8>(), from.as_chunks::<8>());
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
    for (to, from) in to_rest.iter_mut().zip(from_rest) {
        *to = *from;
    }
}
