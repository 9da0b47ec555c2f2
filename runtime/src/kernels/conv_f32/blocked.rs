//! The loops around the microkernel: blocks of rows and of K, gathering, panels, tiles.

use super::blocking::{BLOCK_ROWS, KBlock, KBlocks, Runs, runs};
use super::tile::{Finish, Row, Tile, TileKernel, WeightPtr};
use super::{ConvF32, ConvGeometry, PANEL_N};
use core::ptr;

/// An output pixel in the terms of the input.
#[derive(Clone, Copy)]
struct Pixel {
    batch: usize,
    /// Input coordinates of the first tap; negative in the padding.
    y: isize,
    x: isize,
    /// The element of the first tap, if all taps are inside the input and made of runs.
    inside: Option<usize>,
}

/// Convolution by tiles of `kernel`.
///
/// # Safety
///
/// The CPU has the instruction set of `kernel`.
pub(super) unsafe fn conv_f32_blocked(args: &mut ConvF32<'_>, kernel: TileKernel) {
    args.check();
    let g = &args.geometry;
    let scratch_len = super::blocking::scratch_len(g);
    assert!(args.scratch.len() >= scratch_len, "scratch");
    if g.out_pixels() == 0 || g.out_c == 0 {
        return;
    }

    let (k, group_out_c, padded_group_out_c) = (g.k(), g.group_out_c(), g.padded_group_out_c());
    let (runs, k_blocks) = (runs(g), KBlocks::new(g));
    let mut pixels = [Pixel { batch: 0, y: 0, x: 0, inside: None }; BLOCK_ROWS];
    let mut rows = [Row { start: ptr::null(), step: 0 }; BLOCK_ROWS];

    for first_pixel in (0..g.out_pixels()).step_by(BLOCK_ROWS) {
        let pixels = &mut pixels[..BLOCK_ROWS.min(g.out_pixels() - first_pixel)];
        locate(g, runs.is_some(), first_pixel, pixels);
        let rows = &mut rows[..pixels.len()];
        for group in 0..g.groups {
            let mut block_k = 0;
            loop {
                let block = k_blocks.at(block_k);
                block_k += block.size();
                let last = block_k >= k;
                point(args.input, g, group, runs, &block, pixels, args.scratch, rows);

                for col in (0..group_out_c).step_by(kernel.panels * PANEL_N) {
                    let cols = (kernel.panels * PANEL_N).min(group_out_c - col);
                    let padded_channel = group * padded_group_out_c + col;
                    let channel = group * group_out_c + col;
                    let weights = WeightPtr::new(args.weights, padded_channel * k + block.k * PANEL_N);
                    let bias = args.epilogue.bias[padded_channel..].as_ptr();
                    let mut row = 0;
                    while row < rows.len() {
                        // Tiles of even height: a last one of few rows would be slow.
                        let tiles_left = (rows.len() - row).div_ceil(kernel.rows);
                        let height = (rows.len() - row).div_ceil(tiles_left);
                        let pixel = first_pixel + row;
                        let residual = args.epilogue.residual.map(|r| r[pixel * g.out_c + channel..].as_ptr());
                        let finish = Finish {
                            bias,
                            residual: residual.unwrap_or(ptr::null()),
                            residual_stride: g.out_c,
                            min: args.epilogue.min,
                            max: args.epilogue.max,
                        };
                        let tile = Tile {
                            rows: &rows[row..row + height],
                            runs: block.runs,
                            run_len: block.len,
                            a_step: 1,
                            weights,
                            weight_step: PANEL_N,
                            panel_stride: PANEL_N * k,
                            cols,
                            output: args.output[pixel * args.output_stride + channel..].as_mut_ptr(),
                            output_stride: args.output_stride,
                            accumulate: block.k > 0,
                            finish: last.then_some(finish),
                        };
                        // SAFETY: the caller vouches for the instruction set. `point` made each row
                        // point to the block's runs, inside the input or in scratch. `check` proved
                        // the lengths: `weights` starts at row block.k of a panel, so k - block.k
                        // rows of it and whole panels up to the group's padded channels follow;
                        // likewise the bias; output and residual have rows up to
                        // pixel + height <= out_pixels, of out_c elements.
                        unsafe { (kernel.run)(&tile) };
                        row += height;
                    }
                }
                if last {
                    break;
                }
            }
        }
    }
}

/// Finds the input of the output pixels from `first` on.
fn locate(g: &ConvGeometry, has_runs: bool, first: usize, pixels: &mut [Pixel]) {
    let mut batch = first / (g.out_h * g.out_w);
    let mut oy = first / g.out_w % g.out_h;
    let mut ox = first % g.out_w;
    for pixel in pixels {
        // `check` proved that these don't overflow isize.
        let y = (oy * g.stride_h) as isize - g.pad_top as isize;
        let x = (ox * g.stride_w) as isize - g.pad_left as isize;
        let inside = has_runs
            && y >= 0
            && x >= 0
            && y as usize + (g.kernel_h - 1) * g.dilation_h < g.in_h
            && x as usize + (g.kernel_w - 1) * g.dilation_w < g.in_w;
        let inside = inside.then(|| ((batch * g.in_h + y as usize) * g.in_w + x as usize) * g.in_c);
        *pixel = Pixel { batch, y, x, inside };
        ox += 1;
        if ox == g.out_w {
            (ox, oy) = (0, oy + 1);
        }
        if oy == g.out_h {
            (oy, batch) = (0, batch + 1);
        }
    }
}

/// Points each row to a pixel's elements of a block of K: in place, or gathered into `scratch`.
fn point(
    input: &[f32],
    g: &ConvGeometry,
    group: usize,
    runs: Option<Runs>,
    block: &KBlock,
    pixels: &[Pixel],
    scratch: &mut [f32],
    rows: &mut [Row],
) {
    let group_offset = group * g.group_in_c();
    // One pointer for all rows, so that a later row's doesn't invalidate an earlier one's.
    let scratch_start = scratch.as_mut_ptr();
    for (i, (pixel, row)) in pixels.iter().zip(rows).enumerate() {
        *row = match (pixel.inside, runs) {
            (Some(start), Some(runs)) => {
                let start = start + group_offset + block.first_run * runs.step + block.offset;
                Row { start: input[start..].as_ptr(), step: runs.step }
            }
            _ => {
                let range = i * block.size()..(i + 1) * block.size();
                assert!(range.end <= scratch.len());
                // SAFETY: the range was checked against the slice that scratch_start came from, and
                // rows of one block don't overlap.
                let patch = unsafe { core::slice::from_raw_parts_mut(scratch_start.add(range.start), range.len()) };
                gather(input, g, group_offset, pixel, block.k, patch);
                Row { start: patch.as_ptr(), step: block.len }
            }
        };
    }
}

/// Copies elements `first_k..first_k + patch.len()` of a pixel's K into `patch`.
fn gather(input: &[f32], g: &ConvGeometry, group_offset: usize, pixel: &Pixel, first_k: usize, patch: &mut [f32]) {
    let group_in_c = g.group_in_c();
    patch.fill(0.0);
    // Taps that are neighbours in the input as well as in K are copied as one.
    let whole_rows = g.groups == 1 && g.dilation_w == 1;
    let copy_w = if whole_rows { g.kernel_w } else { 1 };
    for ky in 0..g.kernel_h {
        let y = pixel.y + (ky * g.dilation_h) as isize;
        if y < 0 || y as usize >= g.in_h {
            continue;
        }
        let row = (pixel.batch * g.in_h + y as usize) * g.in_w;
        for kx in (0..g.kernel_w).step_by(copy_w) {
            let x = pixel.x + (kx * g.dilation_w) as isize;
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
            let start = k.max(first_k);
            let stop = (k + len).min(first_k + patch.len());
            if start < stop {
                patch[start - first_k..stop - first_k].copy_from_slice(&input[from + start - k..from + stop - k]);
            }
        }
    }
}
