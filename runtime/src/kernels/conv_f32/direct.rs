//! Convolution of short K: neighbouring pixels of an output row, read in place.
//!
//! Where all weights of a few output channels stay in L1, nothing needs to be cut or gathered. A tile is some pixels of one
//! output row, whose inputs lie a fixed step apart on the lines of the input that the kernel's rows cover. Lines in the
//! padding are left out. Lines with padding at their ends are copied once, into a ring of as many lines as the kernel
//! has rows.
//!
//! Every sum is in the order of K, whatever the tile.

use super::blocking::BLOCK_K;
use super::lanes::{Lanes, Weight};
use super::tile::WeightPtr;
use super::{ConvF32, ConvGeometry, FloatWeights, PANEL_N};
use core::ops::Range;
use core::ptr;

/// Most rows of a kernel.
const MAX_LINES: usize = 16;

/// Fewer pixels in a row don't keep the multipliers busy.
const MIN_ROW: usize = 4;

/// Fewer pixels don't, either, and there are tiles with several sums for each.
const MIN_PIXELS: usize = 8;

/// Output pixels of a pointwise convolution that meet a slice of weights before the next slice does.
const SEGMENT: usize = 96;

/// Elements of K up to which a tile has four panels: their weights are 24 KiB.
const WIDE_K: usize = 96;

/// Neighbouring tiles, and what a tile kernel needs.
///
/// # Safety
///
/// A call is sound when the CPU has the kernel's instruction set, and
///
/// - from each of `lines`, elements `offset + p * pixel_step..` are readable for each pixel `p` of the tiles, `run` of them;
/// - `weights` are readable for `lines.len() * run` rows of [`PANEL_N`] elements, in panels for `cols`, `panel_stride` apart;
/// - `bias` is readable for whole panels, and `residual`, unless null, for a row of `cols` elements per pixel, `residual_stride` apart;
/// - `output` is writable for as many rows of `cols` elements, `output_stride` apart.
pub(crate) struct DirectTiles<'a> {
    /// The lines of the kernel's rows that are inside the input.
    pub(crate) lines: &'a [*const f32],
    pub(crate) offset: usize,
    /// Contiguous elements of a pixel on a line.
    pub(crate) run: usize,
    pub(crate) pixel_step: usize,
    /// Pixels of a tile, one of what the kernel's `pixels` gives, and tiles.
    pub(crate) pixels: usize,
    pub(crate) tiles: usize,
    pub(crate) weights: WeightPtr,
    pub(crate) panel_stride: usize,
    /// More than 48, or at most 32: four panels, two or one.
    pub(crate) cols: usize,
    pub(crate) bias: *const f32,
    pub(crate) residual: *const f32,
    pub(crate) residual_stride: usize,
    pub(crate) output: *mut f32,
    pub(crate) output_stride: usize,
    pub(crate) min: f32,
    pub(crate) max: f32,
}

/// The tiles of one instruction set.
#[derive(Clone, Copy)]
pub(crate) struct DirectKernel {
    /// Most panels of a tile: 1 or 4.
    pub(crate) most_panels: usize,
    /// How many of so many pixels a tile of so many columns takes: at least one.
    pub(crate) pixels: fn(usize, usize) -> usize,
    /// Unsafe as [`DirectTiles`] says.
    pub(crate) run: unsafe fn(&DirectTiles<'_>),
}

impl DirectKernel {
    /// Panels of the next tile of so many columns.
    fn panels(&self, cols: usize, k: usize) -> usize {
        match cols.div_ceil(PANEL_N) {
            4.. if self.most_panels >= 4 && k <= WIDE_K => 4,
            2.. if self.most_panels >= 2 => 2,
            _ => 1,
        }
    }
}

/// The most of `sizes`, which begin with 1 and grow, that goes into `pixels` cut evenly.
pub(crate) fn even(pixels: usize, sizes: &[usize]) -> usize {
    let most = sizes[sizes.len() - 1];
    let even = pixels.div_ceil(pixels.div_ceil(most));
    sizes.iter().copied().rev().find(|&size| size <= even).unwrap_or(1)
}

/// Longest sum where rows lie in place anyway: 256 × 32 f32 weights fill 32 KiB of L1, and beyond, cutting them into blocks is
/// faster (128 × 384 × 384: 13 against 24 MAC per cycle).
const MOST_K_IN_ROWS: usize = 256;

/// Whether a convolution with weights that aren't grouped is computed here.
pub(super) fn suits(g: &ConvGeometry) -> bool {
    g.groups == 1
        && g.dilation_h == 1
        && g.dilation_w == 1
        && g.kernel_h <= MAX_LINES
        && (1..=if g.is_pointwise() { MOST_K_IN_ROWS } else { BLOCK_K }).contains(&g.k())
        && g.out_pixels() >= MIN_PIXELS
        && (g.out_w >= MIN_ROW || g.is_pointwise())
}

/// Elements of a padded line; 0 when no output column reaches into the padding.
fn padded_line(g: &ConvGeometry) -> usize {
    let width = (g.out_w - 1) * g.stride_w + g.kernel_w;
    if g.pad_left == 0 && width <= g.in_w { 0 } else { width * g.in_c }
}

/// Elements of scratch.
pub(super) fn scratch_len(g: &ConvGeometry) -> usize {
    g.kernel_h * padded_line(g)
}

/// Convolution by tiles of `kernel`, given that the weights aren't grouped.
///
/// # Safety
///
/// The CPU has the instruction set of `kernel`, and the geometry [`suits`].
pub(super) unsafe fn conv_f32_direct(
    args: &mut ConvF32<'_>,
    weights: FloatWeights<'_>,
    kernel: DirectKernel,
) {
    args.check();
    assert!(suits(&args.geometry) && args.scratch.len() >= scratch_len(&args.geometry), "scratch");
    let g = if args.geometry.is_pointwise() {
        // One row.
        let pixels = args.geometry.out_pixels();
        ConvGeometry { batch: 1, in_h: 1, in_w: pixels, out_h: 1, out_w: pixels, ..args.geometry }
    } else {
        args.geometry
    };
    let padded_line = padded_line(&g);
    let ring_lines = g.kernel_h;
    let mut lines = [ptr::null(); MAX_LINES];
    // The rows of the input that the ring has, of image `ring_batch`.
    let (mut in_ring, mut ring_batch) = (0..0, usize::MAX);

    let mut pixel = args.pixels.start;
    while pixel < args.pixels.end {
        let (image_row, ox) = (pixel / g.out_w, pixel % g.out_w);
        let (batch, oy) = (image_row / g.out_h, image_row % g.out_h);
        let count = (g.out_w - ox).min(args.pixels.end - pixel);
        // The kernel's rows inside the input: `check` proved that coordinates don't overflow.
        let first = oy * g.stride_h;
        let ky_start = g.pad_top.saturating_sub(first).min(g.kernel_h);
        let ky = ky_start..(g.in_h + g.pad_top).saturating_sub(first).clamp(ky_start, g.kernel_h);
        let rows = if ky.is_empty() {
            0..0
        } else {
            first + ky.start - g.pad_top..first + ky.end - g.pad_top
        };
        let lines = &mut lines[..rows.len()];
        if padded_line > 0 {
            if ring_batch != batch {
                (in_ring, ring_batch) = (0..0, batch);
            }
            for y in rows.clone().filter(|y| !in_ring.contains(y)) {
                let line = &mut args.scratch[y % ring_lines * padded_line..][..padded_line];
                copy_line(&g, &args.input[(batch * g.in_h + y) * g.in_w * g.in_c..], line);
            }
            in_ring = rows.clone();
            for (line, y) in lines.iter_mut().zip(rows) {
                *line = args.scratch.as_ptr().wrapping_add(y % ring_lines * padded_line);
            }
        } else {
            for (line, y) in lines.iter_mut().zip(rows) {
                *line = args.input[(batch * g.in_h + y) * g.in_w * g.in_c..].as_ptr();
            }
        }
        // SAFETY: the caller vouches for the instruction set; the lines are whole: of the input, or of the ring with
        // the padding that columns up to out_w reach into.
        unsafe { row(args, &g, weights, kernel, lines, ky, pixel, ox..ox + count) };
        pixel += count;
    }
}

/// Copies a line of the input between zeros, as long as `line`.
fn copy_line(g: &ConvGeometry, input: &[f32], line: &mut [f32]) {
    let before = (g.pad_left * g.in_c).min(line.len());
    let (left, inner) = line.split_at_mut(before);
    let (inner, right) = inner.split_at_mut((g.in_w * g.in_c).min(inner.len()));
    left.fill(0.0);
    inner.copy_from_slice(&input[..inner.len()]);
    right.fill(0.0);
}

/// The pixels `columns` of an output row, the first of which is output pixel `pixel`.
///
/// # Safety
///
/// The CPU has the instruction set of `kernel`. `lines` are those of the kernel rows `ky`, readable for all taps of the
/// columns.
unsafe fn row(
    args: &mut ConvF32<'_>,
    g: &ConvGeometry,
    weights: FloatWeights<'_>,
    kernel: DirectKernel,
    lines: &[*const f32],
    ky: Range<usize>,
    pixel: usize,
    columns: Range<usize>,
) {
    let (k, run) = (g.k(), g.kernel_w * g.in_c);
    let pixel_step = g.stride_w * g.in_c;
    for segment in columns.clone().step_by(SEGMENT) {
        let segment = segment..columns.end.min(segment + SEGMENT);
        let mut col = 0;
        while col < g.out_c {
            let panels = kernel.panels(g.out_c - col, k);
            let cols = (panels * PANEL_N).min(g.out_c - col);
            let mut ox = segment.start;
            while ox < segment.end {
                let pixels = (kernel.pixels)(segment.end - ox, cols);
                let count = (segment.end - ox) / pixels;
                let pixel = pixel + ox - columns.start;
                let output =
                    &mut args.output[(pixel - args.pixels.start) * args.output_stride + col..];
                let output = output.as_mut_ptr();
                let (residual, residual_stride) = match args.epilogue.residual {
                    None => (ptr::null(), 0),
                    Some(super::ResidualData::Apart(data)) => {
                        (data[pixel * g.out_c + col..].as_ptr(), g.out_c)
                    }
                    Some(super::ResidualData::InOutput) => {
                        (output.cast_const(), args.output_stride)
                    }
                };
                let tiles = DirectTiles {
                    lines,
                    offset: ox * pixel_step,
                    run,
                    pixel_step,
                    pixels,
                    tiles: count,
                    weights: WeightPtr::new(weights, col * k + ky.start * run * PANEL_N),
                    panel_stride: PANEL_N * k,
                    cols,
                    bias: args.epilogue.bias[col..].as_ptr(),
                    residual,
                    residual_stride,
                    output,
                    output_stride: args.output_stride,
                    min: args.epilogue.min,
                    max: args.epilogue.max,
                };
                // SAFETY: the caller vouches for the instruction set and for the lines. `check` proved the lengths:
                // panels of k rows of weights up to the padded channels, of which those from ky.start on are read, and
                // likewise the bias; output and residual have a row of out_c elements for each pixel.
                unsafe { (kernel.run)(&tiles) };
                ox += count * pixels;
            }
            col += cols;
        }
        let first = pixel - args.pixels.start + segment.start - columns.start;
        let done = first..first + segment.len();
        args.epilogue.activate(args.output, done, 0..g.out_c, args.output_stride);
    }
}

/// `[m, k] × [k, n]`, dense, by tiles of `kernel`.
///
/// # Safety
///
/// The CPU has the instruction set of `kernel`; `b` has panels of `k` rows for `n` columns, which are whole panels, `zeros` has `n`
/// zeros, and `output` is writable.
pub(super) unsafe fn matrix_product(
    kernel: DirectKernel,
    [m, k, n]: [usize; 3],
    a: *const f32,
    b: *const f32,
    zeros: *const f32,
    output: *mut f32,
) {
    let mut col = 0;
    while col < n {
        let panels = kernel.panels(n - col, k);
        let cols = panels * PANEL_N;
        let mut row = 0;
        while row < m {
            let pixels = (kernel.pixels)(m - row, cols);
            let tiles = DirectTiles {
                lines: &[a],
                offset: row * k,
                run: k,
                pixel_step: k,
                pixels,
                tiles: (m - row) / pixels,
                weights: WeightPtr::F32(b.wrapping_add(col * k)),
                panel_stride: PANEL_N * k,
                cols,
                bias: zeros,
                residual: ptr::null(),
                residual_stride: 0,
                output: output.wrapping_add(row * n + col),
                output_stride: n,
                min: f32::NEG_INFINITY,
                max: f32::INFINITY,
            };
            // SAFETY: the caller vouches for the instruction set and the matrices, of which rows below m and columns
            // below n are named.
            unsafe { (kernel.run)(&tiles) };
            row += tiles.tiles * pixels;
        }
        col += cols;
    }
}

/// Tiles of `P` pixels and `V` registers of columns.
///
/// # Safety
///
/// As [`DirectTiles`] says, for `L`; its pixels are `P`, its columns at most `V` registers but more than `V - 1`, its weights
/// those at `weights`.
#[inline(always)]
pub(crate) unsafe fn direct_tiles<L: Lanes, W: Weight, const P: usize, const V: usize>(
    tiles: &DirectTiles<'_>,
    weights: *const W,
) {
    let &DirectTiles { run, pixel_step: step, panel_stride, residual_stride, .. } = tiles;
    let &DirectTiles { lines, cols, bias, output_stride, .. } = tiles;
    debug_assert!(tiles.pixels == P && cols > (V - 1) * L::LEN && cols <= V * L::LEN);
    let per_panel = PANEL_N / L::LEN;
    // Columns of the last register.
    let last = cols - (V - 1) * L::LEN;
    // SAFETY: all reads and writes are of elements that DirectTiles promises. Pointers are advanced with wrapping_add
    // where they may leave their slice.
    unsafe {
        let (min, max) = (L::splat(tiles.min), L::splat(tiles.max));
        let (mut offset, mut output, mut residual) = (tiles.offset, tiles.output, tiles.residual);
        for _ in 0..tiles.tiles {
            let mut sums = [[L::zero(); V]; P];
            for v in 0..V {
                let bias = L::load(bias.add(v * L::LEN));
                for p in 0..P {
                    sums[p][v] = bias;
                }
            }
            let mut w = weights;
            for &line in lines {
                // One pointer for three pixels: the others are scaled steps away.
                let mut x = [line.wrapping_add(offset); P];
                for p in 0..P {
                    x[p] = x[p].wrapping_add(p / 3 * 3 * step);
                }
                for _ in 0..run {
                    let mut b = [L::zero(); V];
                    for v in 0..V {
                        let col = v / per_panel * panel_stride + v % per_panel * L::LEN;
                        b[v] = W::load(w.add(col));
                    }
                    for p in 0..P {
                        let input = L::splat(*x[p].wrapping_add(p % 3 * step));
                        for v in 0..V {
                            sums[p][v] = sums[p][v].fma(input, b[v]);
                        }
                    }
                    for p in 0..P {
                        x[p] = x[p].wrapping_add(1);
                    }
                    w = w.wrapping_add(PANEL_N);
                }
            }
            if !residual.is_null() {
                for p in 0..P {
                    let row = residual.add(p * residual_stride);
                    for v in 0..V {
                        let whole = v + 1 < V || last == L::LEN;
                        let from = row.add(v * L::LEN);
                        let other = if whole { L::load(from) } else { L::load_part(from, last) };
                        sums[p][v] = sums[p][v].add(other);
                    }
                }
                residual = residual.wrapping_add(P * residual_stride);
            }
            if last == L::LEN {
                for p in 0..P {
                    for v in 0..V {
                        let to = output.add(p * output_stride + v * L::LEN);
                        sums[p][v].clamp(min, max).store(to);
                    }
                }
            } else {
                for p in 0..P {
                    for v in 0..V {
                        let to = output.add(p * output_stride + v * L::LEN);
                        let y = sums[p][v].clamp(min, max);
                        if v + 1 < V { y.store(to) } else { y.store_part(to, last) }
                    }
                }
            }
            offset += P * step;
            output = output.wrapping_add(P * output_stride);
        }
    }
}
