//! Walks the output of a 3×3 convolution by rows or by columns, read in place: what AVX-VNNI and AVX-512 share.

use crate::kernels::ConvGeometry;
use crate::kernels::depthwise_i8::walk::Job;

/// Quads of taps: the columns of the kernel, each with three taps and weight zero for a fourth.
pub(super) const QUADS: usize = 3;

/// The way of a 3×3 kernel through an image: along rows, or down columns as if they were rows.
#[derive(Clone, Copy)]
pub(super) struct Way {
    pub(super) downwards: bool,
}

/// One row of output pixels.
pub(super) struct Row {
    /// The three input rows at column 0, and the elements from one column to the next: zero for a
    /// row of padding, unless several pixels are read at once.
    pub(super) rows: [(*const i8, usize); 3],
    pub(super) in_w: usize,
    /// Columns of padding before column 0.
    pub(super) pad: usize,
    pub(super) out_w: usize,
    pub(super) channels: usize,
    pub(super) zero_point: i8,
    pub(super) constants: *const u8,
    pub(super) output: *mut i8,
    pub(super) output_step: usize,
}

impl Way {
    /// Every row starts anew; few long ones are better.
    pub(super) fn of_long_rows(g: &ConvGeometry) -> Self {
        Way { downwards: g.out_h > g.out_w }
    }

    /// Columns from an output to the next along a row.
    pub(super) fn stride(self, g: &ConvGeometry) -> usize {
        if self.downwards { g.stride_h } else { g.stride_w }
    }

    /// The tap that has place `i` of the quad of column `column`.
    pub(super) fn tap(self, column: usize, i: usize) -> Option<usize> {
        let tap = if self.downwards { 3 * column + i } else { 3 * i + column };
        (i < 3).then_some(tap)
    }

    /// Calls `row` for every row of the output. Rows of padding are `padding`, with columns `padding_step` apart.
    ///
    /// # Safety
    ///
    /// The lengths of `job` are checked, and its kernel is 3×3.
    #[inline(always)]
    pub(super) unsafe fn for_each_row(
        self,
        job: &Job<'_>,
        (padding, padding_step): (*const i8, usize),
        mut row: impl FnMut(&Row),
    ) {
        let g = &job.geometry;
        // Rows of the kernel's way through the image, and its columns along them.
        let (out_rows, out_w) =
            if self.downwards { (g.out_w, g.out_h) } else { (g.out_h, g.out_w) };
        let (in_rows, in_w) = if self.downwards { (g.in_w, g.in_h) } else { (g.in_h, g.in_w) };
        let stride_rows = if self.downwards { g.stride_w } else { g.stride_h };
        let (pad_rows, pad) =
            if self.downwards { (g.pad_left, g.pad_top) } else { (g.pad_top, g.pad_left) };
        let (row_pixels, step_pixels) = if self.downwards { (1, g.in_w) } else { (g.in_w, 1) };
        let (out_row_pixels, out_step_pixels) =
            if self.downwards { (1, g.out_w) } else { (g.out_w, 1) };
        for image in 0..g.batch {
            for index in 0..out_rows {
                let rows = core::array::from_fn(|i| {
                    match (index * stride_rows + i).checked_sub(pad_rows) {
                        Some(h) if h < in_rows => {
                            let pixel = image * g.in_h * g.in_w + h * row_pixels;
                            // SAFETY: the row exists.
                            (unsafe { job.input.add(pixel * g.in_c) }, step_pixels * g.in_c)
                        }
                        _ => (padding, padding_step),
                    }
                });
                let pixel = image * g.out_h * g.out_w + index * out_row_pixels;
                row(&Row {
                    rows,
                    in_w,
                    pad,
                    out_w,
                    channels: g.in_c,
                    zero_point: job.input_zero_point,
                    constants: job.scratch,
                    // SAFETY: the row exists.
                    output: unsafe { job.output.add(pixel * job.output_stride) },
                    output_step: out_step_pixels * job.output_stride,
                });
            }
        }
    }
}
