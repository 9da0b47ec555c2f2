//! 3×3 convolution by Winograd's minimal filtering: a quarter of the products.
//!
//! `F(4×4, 3×3)` of Lavin and Gray, *Fast Algorithms for Convolutional Neural Networks* (2016), §4: 4×4 outputs `Y` of a
//! channel are `Aᵀ ((G g Gᵀ) ⊙ (Bᵀ d B)) A`, with `g` the 3×3 weights and `d` the 6×6 inputs around. Sums over input channels
//! go before `Aᵀ … A`, so that each of the 36 elements is a matrix product of tiles by channels.
//!
//! Tiles are blocked so that what is transformed stays in L2. Weights are transformed in every run, which costs little where
//! there are enough tiles, and no memory outlives the run.
//!
//! Tiles begin at multiples of four rows and columns of the image, and every sum is in the order of channels, so an element
//! doesn't depend on which others are computed with it.

use super::blocking::BLOCK_K;
use super::direct::{DirectKernel, matrix_product};
use super::lanes::{Lanes, Weight};
use super::tile::WeightPtr;
use super::{ConvF32, ConvGeometry, FloatWeights, PANEL_N};
use core::ops::Range;
use core::ptr;

/// Rows and columns of outputs in a tile.
pub(super) const TILE: usize = 4;

/// Rows and columns of inputs of a tile, and of what is multiplied.
const SPAN: usize = 6;

const ELEMENTS: usize = SPAN * SPAN;

/// Fewer output pixels don't pay for the transformation of the weights.
const MIN_PIXELS: usize = 64;

/// Tiles × input channels of a block: transformed, 36 f32 each, 576 KiB.
const BLOCK_INPUTS: usize = 4096;

/// Input × output channels of a block: transformed, 36 f32 each, 576 KiB.
const BLOCK_WEIGHTS: usize = 4096;

/// Most tiles of a block, however few the channels.
const BLOCK_TILES: usize = 64;

/// Elements between planes of transformed numbers, so that they don't all fall into the same sets of a cache.
const PLANE_GAP: usize = PANEL_N;

/// The transformations in the registers of an instruction set.
#[derive(Clone, Copy)]
pub(crate) struct WinogradKernel {
    /// Unsafe as [`InputTile`] says.
    pub(crate) input: unsafe fn(&InputTile<'_>),
    /// Unsafe as [`WeightPanel`] says.
    pub(crate) weights: unsafe fn(&WeightPanel),
    /// Unsafe as [`OutputTile`] says.
    pub(crate) output: unsafe fn(&OutputTile),
    pub(crate) product: DirectKernel,
}

/// # Safety
///
/// A call is sound when the CPU has the kernel's instruction set, each of `pixels` is readable for `channels` elements, a
/// multiple of [`PANEL_N`], and `output` is writable for as many in each of 36 planes, `plane` apart.
pub(crate) struct InputTile<'a> {
    pub(crate) pixels: &'a [[*const f32; SPAN]; SPAN],
    pub(crate) channels: usize,
    pub(crate) output: *mut f32,
    pub(crate) plane: usize,
}

/// # Safety
///
/// A call is sound when the CPU has the kernel's instruction set, `weights` is a panel of `9 * channels` rows, and `output` is
/// writable for `channels` rows of [`PANEL_N`] in each of 36 planes, `plane` apart.
pub(crate) struct WeightPanel {
    pub(crate) weights: WeightPtr,
    pub(crate) channels: usize,
    pub(crate) output: *mut f32,
    pub(crate) plane: usize,
}

/// # Safety
///
/// A call is sound when the CPU has the kernel's instruction set, `sums` are readable for `channels` elements rounded up to whole
/// panels in each of 36 planes, `plane` apart, `bias` for as many, and pixels `columns[row]` of each row are writable
/// from `output` on for `channels` elements, and readable from `residual` on unless it is null.
pub(crate) struct OutputTile {
    pub(crate) sums: *const f32,
    pub(crate) plane: usize,
    pub(crate) channels: usize,
    pub(crate) bias: *const f32,
    pub(crate) columns: [(usize, usize); TILE],
    pub(crate) output: *mut f32,
    pub(crate) pixel_step: usize,
    pub(crate) row_step: usize,
    pub(crate) residual: *const f32,
    pub(crate) residual_pixel_step: usize,
    pub(crate) residual_row_step: usize,
    pub(crate) min: f32,
    pub(crate) max: f32,
}

/// Whether a convolution with weights that aren't grouped is computed here.
pub(super) fn suits(g: &ConvGeometry) -> bool {
    let ConvGeometry { kernel_h: 3, kernel_w: 3, stride_h: 1, stride_w: 1, .. } = *g else {
        return false;
    };
    g.dilation_h == 1
        && g.dilation_w == 1
        && g.groups == 1
        && (PANEL_N..=BLOCK_K).contains(&g.in_c)
        && g.in_c.is_multiple_of(PANEL_N)
        && g.out_c >= PANEL_N
        && g.out_h >= TILE
        && g.out_w >= TILE
        && g.out_pixels() >= MIN_PIXELS
}

/// How a convolution is cut into blocks.
struct Blocks {
    /// Rows and columns of tiles in an image.
    rows: usize,
    columns: usize,
    /// Most tiles, and most output channels, in whole panels, of a block.
    tiles: usize,
    channels: usize,
}

impl Blocks {
    fn new(g: &ConvGeometry) -> Blocks {
        let (rows, columns) = (g.out_h.div_ceil(TILE), g.out_w.div_ceil(TILE));
        let channels = BLOCK_WEIGHTS / g.in_c / PANEL_N * PANEL_N;
        Blocks {
            rows,
            columns,
            tiles: (BLOCK_INPUTS / g.in_c).min(BLOCK_TILES).min(g.batch * rows * columns),
            channels: channels.clamp(PANEL_N, g.padded_out_c()),
        }
    }

    /// Elements of a plane of inputs, of weights and of sums.
    fn planes(&self, g: &ConvGeometry) -> [usize; 3] {
        [self.tiles * g.in_c, self.channels * g.in_c, self.tiles * self.channels]
            .map(|len| len + PLANE_GAP)
    }

    /// Elements that are zeros: a pixel of padding, or the bias of a tile's columns.
    fn zeros(&self, g: &ConvGeometry) -> usize {
        g.in_c.max(self.channels)
    }
}

/// Elements of scratch.
pub(super) fn scratch_len(g: &ConvGeometry) -> usize {
    let blocks = Blocks::new(g);
    blocks.zeros(g) + ELEMENTS * blocks.planes(g).iter().sum::<usize>()
}

/// Convolution with the transformations of `kernel`, given that the weights aren't grouped.
///
/// # Safety
///
/// The CPU has the instruction set of `kernel`.
pub(super) unsafe fn conv_f32_winograd(
    args: &mut ConvF32<'_>,
    weights: FloatWeights<'_>,
    kernel: WinogradKernel,
) {
    args.check();
    let g = args.geometry;
    assert!(suits(&g), "shape");
    assert!(args.scratch.len() >= scratch_len(&g), "scratch");
    if args.pixels.is_empty() {
        return;
    }
    let blocks = Blocks::new(&g);
    let [input_plane, weight_plane, sum_plane] = blocks.planes(&g);
    let (zeros, scratch) = args.scratch.split_at_mut(blocks.zeros(&g));
    let (inputs, scratch) = scratch.split_at_mut(ELEMENTS * input_plane);
    let (transformed, sums) = scratch.split_at_mut(ELEMENTS * weight_plane);
    zeros.fill(0.0);
    let (zeros, inputs, transformed) =
        (zeros.as_ptr(), inputs.as_mut_ptr(), transformed.as_mut_ptr());
    let sums = sums.as_mut_ptr();

    // The tiles of all rows of tiles that the pixels are in.
    let tile_row = |pixel: usize| {
        let row = pixel / g.out_w;
        row / g.out_h * blocks.rows + row % g.out_h / TILE
    };
    let (first, last) = (tile_row(args.pixels.start), tile_row(args.pixels.end - 1));
    let tiles = first * blocks.columns..(last + 1) * blocks.columns;
    let block_tiles = tiles.len().div_ceil(tiles.len().div_ceil(blocks.tiles));
    let place = |tile: usize| {
        let (row, column) = (tile / blocks.columns, tile % blocks.columns);
        (row / blocks.rows, row % blocks.rows * TILE, column * TILE)
    };
    for first_tile in tiles.clone().step_by(block_tiles) {
        let count = block_tiles.min(tiles.end - first_tile);
        for tile in 0..count {
            let pixels = tile_pixels(&g, args.input, place(first_tile + tile), zeros);
            let tile = InputTile {
                pixels: &pixels,
                channels: g.in_c,
                output: inputs.wrapping_add(tile * g.in_c),
                plane: input_plane,
            };
            // SAFETY: the caller vouches for the instruction set. Pixels are whole, and a plane has an element for
            // each channel of a block's tiles.
            unsafe { (kernel.input)(&tile) };
        }
        for channel in (0..g.out_c).step_by(blocks.channels) {
            // In whole panels, of which the last may be partly outside of the output.
            let channels = blocks.channels.min(g.padded_out_c() - channel);
            let inside = channels.min(g.out_c - channel);
            if channels < g.padded_out_c() || first_tile == tiles.start {
                for panel in 0..channels / PANEL_N {
                    let start = (channel + panel * PANEL_N) * g.k();
                    let panel = WeightPanel {
                        weights: WeightPtr::new(weights, start),
                        channels: g.in_c,
                        output: transformed.wrapping_add(panel * PANEL_N * g.in_c),
                        plane: weight_plane,
                    };
                    // SAFETY: the caller vouches for the instruction set. `check` proved that there are whole panels
                    // of k rows, 9 for each channel; a plane has a row for each channel of a block's panels.
                    unsafe { (kernel.weights)(&panel) };
                }
            }
            for element in 0..ELEMENTS {
                // SAFETY: the caller vouches for the instruction set. The planes were written above: `count` rows of
                // inputs, whole panels of weights; one of sums has room for as many rows of a block's channels.
                unsafe {
                    matrix_product(
                        kernel.product,
                        [count, g.in_c, channels],
                        inputs.wrapping_add(element * input_plane),
                        transformed.wrapping_add(element * weight_plane),
                        zeros,
                        sums.wrapping_add(element * sum_plane),
                    );
                }
            }
            for tile in 0..count {
                let place = place(first_tile + tile);
                let sums = sums.wrapping_add(tile * channels);
                let tile = output_tile(args, place, channel, inside, sums, sum_plane);
                // SAFETY: the caller vouches for the instruction set. Planes of sums were written above; the bias has
                // an element for each channel; the tile's columns are pixels inside the range.
                unsafe { (kernel.output)(&tile) };
                let (image, row, column) = place;
                let first = (image * g.out_h + row) * g.out_w + column;
                for (i, (start, end)) in tile.columns.into_iter().enumerate() {
                    if start < end {
                        let row = first + i * g.out_w;
                        let done = row + start - args.pixels.start..row + end - args.pixels.start;
                        let channels = channel..channel + inside;
                        args.epilogue.activate(args.output, done, channels, args.output_stride);
                    }
                }
            }
        }
    }
}

/// The pixels of the input around the tile at (image, row, column) of the output.
fn tile_pixels(
    g: &ConvGeometry,
    input: &[f32],
    (image, row, column): (usize, usize, usize),
    zeros: *const f32,
) -> [[*const f32; SPAN]; SPAN] {
    let mut pixels = [[zeros; SPAN]; SPAN];
    for i in 0..SPAN {
        let Some(y) = (row + i).checked_sub(g.pad_top).filter(|y| *y < g.in_h) else { continue };
        let line = (image * g.in_h + y) * g.in_w;
        for j in 0..SPAN {
            if let Some(x) = (column + j).checked_sub(g.pad_left).filter(|x| *x < g.in_w) {
                pixels[i][j] = input[(line + x) * g.in_c..][..g.in_c].as_ptr();
            }
        }
    }
    pixels
}

/// The tile at (image, row, column) of the output, for some channels: what of it is inside the output and the range.
fn output_tile(
    args: &mut ConvF32<'_>,
    (image, row, column): (usize, usize, usize),
    channel: usize,
    channels: usize,
    sums: *const f32,
    plane: usize,
) -> OutputTile {
    let g = args.geometry;
    let pixel = (image * g.out_h + row) * g.out_w + column;
    let mut columns = [(0, 0); TILE];
    for (i, columns) in columns.iter_mut().enumerate().take(g.out_h - row) {
        let Range { start, end } = args.pixels;
        let first = pixel + i * g.out_w;
        let last = first + TILE.min(g.out_w - column);
        *columns = (start.clamp(first, last) - first, end.clamp(first, last) - first);
    }
    // Addresses of pixels before the range aren't used.
    let output = args
        .output
        .as_mut_ptr()
        .wrapping_add(pixel * args.output_stride + channel)
        .wrapping_sub(args.pixels.start * args.output_stride);
    let (residual, step) = match args.epilogue.residual {
        None => (ptr::null(), 0),
        Some(super::ResidualData::Apart(data)) => {
            (data.as_ptr().wrapping_add(pixel * g.out_c + channel), g.out_c)
        }
        Some(super::ResidualData::InOutput) => (output.cast_const(), args.output_stride),
    };
    OutputTile {
        sums,
        plane,
        channels,
        bias: args.epilogue.bias[channel..].as_ptr(),
        columns,
        output,
        pixel_step: args.output_stride,
        row_step: args.output_stride * g.out_w,
        residual,
        residual_pixel_step: step,
        residual_row_step: step * g.out_w,
        min: args.epilogue.min,
        max: args.epilogue.max,
    }
}

/// `a * x + b`.
///
/// # Safety
///
/// The CPU has the instruction set of `L`.
#[inline(always)]
unsafe fn fma<L: Lanes>(a: f32, x: L, b: L) -> L {
    // SAFETY: the contract is the same.
    unsafe { b.fma(L::splat(a), x) }
}

/// `Bᵀ d`.
///
/// # Safety
///
/// The CPU has the instruction set of `L`.
#[inline(always)]
unsafe fn input_1d<L: Lanes>(d: [L; SPAN]) -> [L; SPAN] {
    // SAFETY: the contract is the same.
    unsafe {
        let (even, odd) = (fma(-4.0, d[2], d[4]), fma(-4.0, d[1], d[3]));
        let (even_2, odd_2) = (fma(-1.0, d[2], d[4]), fma(-1.0, d[1], d[3]));
        [
            fma(4.0, d[0], fma(-5.0, d[2], d[4])),
            even.add(odd),
            fma(-1.0, odd, even),
            fma(2.0, odd_2, even_2),
            fma(-2.0, odd_2, even_2),
            fma(4.0, d[1], fma(-5.0, d[3], d[5])),
        ]
    }
}

/// `G g`.
///
/// # Safety
///
/// The CPU has the instruction set of `L`.
#[inline(always)]
unsafe fn weights_1d<L: Lanes>(g: [L; 3]) -> [L; SPAN] {
    // SAFETY: the contract is the same.
    unsafe {
        let sixth = L::splat(-1.0 / 6.0);
        let outer = g[0].add(g[2]);
        let wide = fma(4.0, g[2], g[0]);
        let narrow = L::splat(1.0 / 24.0);
        [
            g[0].mul(L::splat(0.25)),
            outer.add(g[1]).mul(sixth),
            fma(-1.0, g[1], outer).mul(sixth),
            fma(2.0, g[1], wide).mul(narrow),
            fma(-2.0, g[1], wide).mul(narrow),
            g[2],
        ]
    }
}

/// `Aᵀ m`.
///
/// # Safety
///
/// The CPU has the instruction set of `L`.
#[inline(always)]
unsafe fn output_1d<L: Lanes>(m: [L; SPAN]) -> [L; TILE] {
    // SAFETY: the contract is the same.
    unsafe {
        let (sum, difference) = (m[1].add(m[2]), fma(-1.0, m[2], m[1]));
        let (sum_2, difference_2) = (m[3].add(m[4]), fma(-1.0, m[4], m[3]));
        [
            m[0].add(sum.add(sum_2)),
            fma(2.0, difference_2, difference),
            fma(4.0, sum_2, sum),
            fma(8.0, difference_2, difference).add(m[5]),
        ]
    }
}

/// See [`InputTile`].
///
/// # Safety
///
/// As [`InputTile`] says, for `L`.
#[inline(always)]
pub(crate) unsafe fn input_tile<L: Lanes>(args: &InputTile<'_>) {
    // SAFETY: channels are whole registers; pixels and planes are as InputTile promises.
    unsafe {
        for c in (0..args.channels).step_by(L::LEN) {
            let mut rows = [[L::zero(); SPAN]; SPAN];
            for i in 0..SPAN {
                let mut d = [L::zero(); SPAN];
                for j in 0..SPAN {
                    d[j] = L::load(args.pixels[i][j].add(c));
                }
                rows[i] = input_1d(d);
            }
            for j in 0..SPAN {
                let column = input_1d([
                    rows[0][j], rows[1][j], rows[2][j], rows[3][j], rows[4][j], rows[5][j],
                ]);
                for i in 0..SPAN {
                    column[i].store(args.output.add((i * SPAN + j) * args.plane + c));
                }
            }
        }
    }
}

/// See [`WeightPanel`].
///
/// # Safety
///
/// As [`WeightPanel`] says, for `L`; its weights are `W`s at `weights`.
#[inline(always)]
pub(crate) unsafe fn weight_panel<L: Lanes, W: Weight>(args: &WeightPanel, weights: *const W) {
    let channels = args.channels;
    // SAFETY: the panel has a row for each tap and channel; planes are as WeightPanel promises.
    unsafe {
        for at in (0..channels * PANEL_N).step_by(L::LEN) {
            let mut rows = [[L::zero(); SPAN]; 3];
            for ky in 0..3 {
                let tap = |kx: usize| weights.add((ky * 3 + kx) * channels * PANEL_N + at);
                rows[ky] = weights_1d([W::load(tap(0)), W::load(tap(1)), W::load(tap(2))]);
            }
            for j in 0..SPAN {
                let column: [L; SPAN] = weights_1d([rows[0][j], rows[1][j], rows[2][j]]);
                for i in 0..SPAN {
                    column[i].store(args.output.add((i * SPAN + j) * args.plane + at));
                }
            }
        }
    }
}

/// See [`OutputTile`].
///
/// # Safety
///
/// As [`OutputTile`] says, for `L`.
#[inline(always)]
pub(crate) unsafe fn output_tile_of<L: Lanes>(args: &OutputTile) {
    // SAFETY: sums and bias have whole registers for the channels; planes and pixels are as OutputTile promises.
    unsafe {
        let (min, max) = (L::splat(args.min), L::splat(args.max));
        for c in (0..args.channels).step_by(L::LEN) {
            let mut columns = [[L::zero(); TILE]; SPAN];
            for j in 0..SPAN {
                let mut m = [L::zero(); SPAN];
                for i in 0..SPAN {
                    m[i] = L::load(args.sums.add((i * SPAN + j) * args.plane + c));
                }
                columns[j] = output_1d(m);
            }
            let bias = L::load(args.bias.add(c));
            let n = L::LEN.min(args.channels - c);
            for i in 0..TILE {
                let row = output_1d([
                    columns[0][i],
                    columns[1][i],
                    columns[2][i],
                    columns[3][i],
                    columns[4][i],
                    columns[5][i],
                ]);
                let (first, end) = args.columns[i];
                for j in 0..TILE {
                    if j < first || j >= end {
                        continue;
                    }
                    let mut y = row[j].add(bias);
                    if !args.residual.is_null() {
                        let at = i * args.residual_row_step + j * args.residual_pixel_step + c;
                        let from = args.residual.wrapping_add(at);
                        y = y.add(if n < L::LEN { L::load_part(from, n) } else { L::load(from) });
                    }
                    let to = args.output.wrapping_add(i * args.row_step + j * args.pixel_step + c);
                    y = y.clamp(min, max);
                    if n < L::LEN { y.store_part(to, n) } else { y.store(to) }
                }
            }
        }
    }
}
