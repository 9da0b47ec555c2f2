//! How the implicit matrix product is cut into blocks that fit the caches.
//!
//! The input of an output pixel is a few *runs* of contiguous elements, one *step* apart: a 3×3
//! convolution has three runs of `3 * in_c` elements, one input row apart. With groups or dilated
//! columns every tap is a run, and those of one kernel row are a *line* of runs. Where all runs of a
//! pixel lie inside the input, kernels read them in place; other pixels are gathered into scratch
//! first, padding as zeros.
//!
//! K is cut into blocks of whole lines, of whole runs of one line or of parts of one run, M into
//! blocks of [`block_rows`]. Within a block, a panel's slice of weights stays near while it meets
//! every row. [`TILED_ROWS`] are cut into tiles of even height, so that sums don't depend on blocks.

use super::super::{ConvGeometry, PANEL_N};
use super::bf16::PAIR;
use super::grouped::GroupedBits;

/// Elements of K in a block: 16 × 384 f32 weights are 24 KiB, which leaves room in a 32 KiB L1 for
/// a tile of rows.
pub(super) const BLOCK_K: usize = 384;

/// Output pixels that are cut into tiles together. A multiple of the rows of a tile, 6 and 12.
pub(super) const TILED_ROWS: usize = 48;

/// So many output pixels are one block, so that each weight comes from memory once: 144 × 384 f32 inputs are 216 KiB. More are
/// blocks of [`TILED_ROWS`], whose inputs and outputs leave room in any L2. A multiple of [`TILED_ROWS`].
pub(super) const MAX_BLOCK_ROWS: usize = 3 * TILED_ROWS;

/// Up to this many output pixels meet each weight only once: blocks of K would gain nothing.
const SINGLE_TILE_ROWS: usize = 6;

/// Most panels of a tile, over all instruction sets.
pub(super) const MAX_PANELS: usize = 2;

/// Most inputs of a unit of grouped weights.
const MAX_UNIT: usize = GroupedBits::W5.unit();

const _: () = {
    let mut i = 0;
    while i < GroupedBits::ALL.len() {
        assert!(GroupedBits::ALL[i].unit() <= MAX_UNIT);
        i += 1;
    }
};

/// The contiguous runs that make up the input of a pixel inside the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Runs {
    /// Elements in a run.
    pub(super) len: usize,
    /// Runs in a line.
    pub(super) count: usize,
    /// Elements from the start of a run to the start of the next of its line.
    pub(super) step: usize,
    pub(super) lines: usize,
    /// Elements from the start of a line to the start of the next.
    pub(super) line_step: usize,
}

/// The runs of a pixel; `lines * count * len` is K.
pub(super) fn runs(g: &ConvGeometry) -> Runs {
    // The steps can only overflow where there is no second run, so where they aren't used.
    let row_step = g.dilation_h.wrapping_mul(g.in_w).wrapping_mul(g.in_c);
    if g.kernel_w == 1 || (g.dilation_w == 1 && g.groups == 1) {
        let len = g.kernel_w * g.group_in_c();
        Runs { len, count: g.kernel_h, step: row_step, lines: 1, line_step: 0 }
    } else {
        Runs {
            len: g.group_in_c(),
            count: g.kernel_w,
            step: g.dilation_w.wrapping_mul(g.in_c),
            lines: g.kernel_h,
            line_step: row_step,
        }
    }
}

/// A block of K, in terms of the runs: whole lines, whole runs of a line, or a part of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KBlock {
    /// First element of K.
    pub(super) k: usize,
    /// Number of lines in the block.
    pub(super) lines: usize,
    /// Number of runs in the block, of each line.
    pub(super) runs: usize,
    /// Elements of each run in the block.
    pub(super) len: usize,
    /// Line, and run of the line, in which the block starts.
    pub(super) line: usize,
    pub(super) first_run: usize,
    /// Where in that run it starts.
    pub(super) offset: usize,
}

/// Cuts K. There is always at least one block.
#[derive(Clone, Copy)]
pub(super) struct KBlocks {
    runs: Runs,
    /// Whole lines a block (the last may have fewer); 1 unless blocks have whole lines.
    lines_per_block: usize,
    /// Whole runs a block (the last of a line may have fewer).
    runs_per_block: usize,
    /// Elements of a run in a block (the last may have fewer); the run's length unless
    /// `runs_per_block` is 1.
    part_len: usize,
}

/// So many pieces of `len`, at most `limit` of them together, as evenly as it goes: how many together.
fn together(len: usize, limit: usize) -> usize {
    len.div_ceil(len.div_ceil(limit.clamp(1, len.max(1))).max(1))
}

impl KBlocks {
    pub(super) fn new(g: &ConvGeometry) -> KBlocks {
        let single = g.out_pixels() <= SINGLE_TILE_ROWS;
        KBlocks::of_at_most(g, if single { usize::MAX } else { BLOCK_K })
    }

    /// Blocks for weights that are dequantized block by block, however few the rows.
    pub(super) fn grouped(g: &ConvGeometry) -> KBlocks {
        KBlocks::of_at_most(g, BLOCK_K)
    }

    /// Blocks of whole pairs. Those of weights that are widened are short, however few the rows.
    pub(super) fn bf16(g: &ConvGeometry, is_widened: bool) -> KBlocks {
        let blocks = if is_widened { KBlocks::grouped(g) } else { KBlocks::new(g) };
        // Runs are of whole pairs.
        KBlocks { part_len: blocks.part_len.next_multiple_of(PAIR), ..blocks }
    }

    fn of_at_most(g: &ConvGeometry, limit: usize) -> KBlocks {
        let runs = runs(g);
        let line_len = runs.count * runs.len;
        let part_len = together(runs.len, limit);
        let runs_per_block = together(runs.count, limit / runs.len.max(1));
        let lines_per_block = together(runs.lines, limit / line_len.max(1));
        KBlocks { runs, lines_per_block, runs_per_block, part_len }
    }

    /// Elements of the largest block.
    fn largest(&self) -> usize {
        self.lines_per_block * self.runs_per_block * self.part_len
    }

    /// The block that starts at element `k` of K; blocks follow one another from 0.
    pub(super) fn at(&self, k: usize) -> KBlock {
        // K = 0 has one empty block.
        let (run, offset) = (k / self.runs.len.max(1), k % self.runs.len.max(1));
        let (line, first_run) = (run / self.runs.count, run % self.runs.count);
        let lines = self.lines_per_block.min(self.runs.lines - line);
        let runs = self.runs_per_block.min(self.runs.count - first_run);
        let len = self.part_len.min(self.runs.len - offset);
        KBlock { k, lines, runs, len, line, first_run, offset }
    }
}

impl KBlock {
    /// Elements of K in the block.
    pub(super) fn size(&self) -> usize {
        self.lines * self.runs * self.len
    }
}

/// True when some output pixel isn't a set of runs inside the input.
fn gathers(g: &ConvGeometry) -> bool {
    let ends_inside = |out: usize, stride: usize, kernel: usize, dilation: usize, len: usize| {
        out == 0 || (out - 1) * stride + (kernel - 1) * dilation < len
    };
    g.pad_top > 0
        || g.pad_left > 0
        || !ends_inside(g.out_h, g.stride_h, g.kernel_h, g.dilation_h, g.in_h)
        || !ends_inside(g.out_w, g.stride_w, g.kernel_w, g.dilation_w, g.in_w)
}

/// Output pixels in a block. Gathered rows lie in scratch, which is a session's memory: few of them.
pub(super) fn block_rows(g: &ConvGeometry) -> usize {
    if gathers(g) || g.out_pixels() > MAX_BLOCK_ROWS { TILED_ROWS } else { MAX_BLOCK_ROWS }
}

/// Elements of scratch: one block of gathered rows, of this geometry or of one with fewer.
pub(super) fn scratch_len(g: &ConvGeometry) -> usize {
    gathered_len(g, &KBlocks::of_at_most(g, BLOCK_K)).max(few_rows_len(g))
}

/// Elements of as many gathered rows as aren't cut along K.
fn few_rows_len(g: &ConvGeometry) -> usize {
    if gathers(g) { SINGLE_TILE_ROWS.min(g.out_pixels()) * g.k() } else { 0 }
}

fn gathered_len(g: &ConvGeometry, blocks: &KBlocks) -> usize {
    if gathers(g) { block_rows(g).min(g.out_pixels()) * blocks.largest() } else { 0 }
}

/// Elements of scratch with grouped weights: the dequantized panels of a tile, then the rows.
pub(super) fn grouped_scratch_len(g: &ConvGeometry) -> usize {
    let blocks = KBlocks::grouped(g);
    dequantized_len(&blocks) + gathered_len(g, &blocks)
}

/// Elements of scratch with weights in bf16, whether they are widened or not: panels of a tile as f32, then all rows of a block, of this
/// geometry or of one with fewer.
pub(super) fn bf16_scratch_len(g: &ConvGeometry) -> usize {
    let most_rows = if gathers(g) { TILED_ROWS } else { MAX_BLOCK_ROWS };
    let widened = KBlocks::bf16(g, true);
    let block = dequantized_len(&widened) + most_rows.min(g.out_pixels()) * widened.largest();
    block.max(SINGLE_TILE_ROWS.min(g.out_pixels()) * g.k() / PAIR)
}

/// Elements of a tile's panels of f32 weights for the largest block. The block may begin and end inside units,
/// which are dequantized in full.
pub(super) fn dequantized_len(blocks: &KBlocks) -> usize {
    MAX_PANELS * (blocks.largest() + 2 * MAX_UNIT) * PANEL_N
}
