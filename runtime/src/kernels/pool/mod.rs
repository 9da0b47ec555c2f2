//! Pooling over NHWC: the maximum or the average of windows, channel by channel.
//!
//! A window holds the positions `out * stride - pad + tap * dilation` that lie inside the input.
//! The maximum of an empty window is the type's smallest value, its average is 0.
//!
//! Average, f32: `sum / count`, summed in the order of rows, then columns. Average, i8:
//!
//! ```text
//! acc = sum over the window of (q - input_zero_point)                          (i32)
//! y = clamp(round_ties_even(acc as f32 * (scale / count as f32)), min - zero_point, max - zero_point)
//!         + zero_point
//! ```
//!
//! with one IEEE division and one IEEE multiplication in f32. `count` is the number of positions
//! inside the input or, counting padding, inside input and padding. Maximum, i8:
//! `clamp(round_ties_even((max - input_zero_point) as f32 * scale), …) + zero_point`.
//!
//! Average of stored numbers, i8, as TFLite has it: `y = clamp(sum of q / count, min, max)`, the quotient
//! rounded to the nearest integer, ties away from zero.

use super::ConvGeometry;
use crate::Isa;

mod scalar;
#[cfg(test)]
mod tests;
mod wide;

pub use scalar::{average_i16, max_quantized};

/// `(geometry, input, output)`.
pub type PoolF32Fn = fn(&PoolGeometry, &[f32], &mut [f32]);

/// The maximum's entry for an instruction set.
pub fn select_max_f32(isa: Isa) -> PoolF32Fn {
    select_compiled!(isa, scalar::max_f32: fn(geometry: &PoolGeometry, input: &[f32], output: &mut [f32]))
}

/// The average's entry for an instruction set.
pub fn select_average_f32(isa: Isa) -> PoolF32Fn {
    select_compiled!(isa, scalar::average_f32: fn(geometry: &PoolGeometry, input: &[f32], output: &mut [f32]))
}

/// `(geometry, where results go, input, output)`.
pub type PoolI8Fn = fn(&PoolGeometry, &PoolI8, &[i8], &mut [i8]);

/// The entry for an instruction set of a pooling of i8: `scalar`, which is small, or `wide`, which is fast.
macro_rules! select_i8 {
    ($isa:expr, $scalar:expr, $wide:path) => {
        match $isa {
            Isa::Scalar | Isa::CortexM => $scalar,
            isa => {
                select_compiled!(isa, $wide: fn(geometry: &PoolGeometry, to: &PoolI8, input: &[i8], output: &mut [i8]))
            }
        }
    };
}

/// The quantized maximum's entry for an instruction set.
pub fn select_max_i8(isa: Isa) -> PoolI8Fn {
    select_i8!(isa, max_quantized::<i8>, wide::max_i8)
}

/// The quantized average's entry for an instruction set.
pub fn select_average_i8(isa: Isa) -> PoolI8Fn {
    select_i8!(isa, scalar::average_i8, wide::average_i8)
}

/// The entry for an instruction set of the average of stored numbers.
pub fn select_average_stored_i8(isa: Isa) -> PoolI8Fn {
    select_i8!(isa, scalar::average_stored_i8, wide::average_stored_i8)
}

/// Channels pooled at a time: their sums take 256 bytes of stack.
const BLOCK: usize = 64;

/// Shape of a pooling. Input and output have elements.
#[derive(Clone, Copy, Debug)]
pub struct PoolGeometry {
    /// Sizes and windows, as of a depthwise convolution.
    pub windows: ConvGeometry,
    /// Rows below, columns on the right; matters only when padding is counted.
    pub pad_after: [usize; 2],
    /// Whether an average counts padding.
    pub count_include_pad: bool,
}

/// Positions of a window along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Taps {
    /// First position inside the input.
    first: usize,
    /// Positions inside the input.
    inside: usize,
    /// Positions that an average divides by.
    counted: usize,
}

/// What windows along one axis have in common.
struct Axis {
    size: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    pad: usize,
    /// Padding behind the input that counts; `None` when none does.
    pad_after: Option<usize>,
}

impl Axis {
    /// The window of output index `index`.
    #[inline(never)]
    fn taps(&self, index: usize) -> Taps {
        let &Axis { size, kernel, stride, dilation, pad, pad_after } = self;
        // Positions count from the padding's edge, so that none is negative.
        let origin = index * stride;
        // Taps before position `end`: those with origin + tap * dilation < end.
        let before = |end: usize| end.saturating_sub(origin).div_ceil(dilation).min(kernel);
        let begin = before(pad);
        let inside = before(pad + size) - begin;
        let counted = pad_after.map_or(inside, |pad_after| before(pad + size + pad_after));
        let first = if inside > 0 { origin + begin * dilation - pad } else { 0 };
        Taps { first, inside, counted }
    }
}

impl PoolGeometry {
    /// The window's rows for an output row.
    fn rows(&self, y: usize) -> Taps {
        let ConvGeometry { in_h, kernel_h, stride_h, dilation_h, pad_top, .. } = self.windows;
        Axis {
            size: in_h,
            kernel: kernel_h,
            stride: stride_h,
            dilation: dilation_h,
            pad: pad_top,
            pad_after: self.count_include_pad.then_some(self.pad_after[0]),
        }
        .taps(y)
    }

    /// The window's columns for an output column.
    fn columns(&self, x: usize) -> Taps {
        let ConvGeometry { in_w, kernel_w, stride_w, dilation_w, pad_left, .. } = self.windows;
        Axis {
            size: in_w,
            kernel: kernel_w,
            stride: stride_w,
            dilation: dilation_w,
            pad: pad_left,
            pad_after: self.count_include_pad.then_some(self.pad_after[1]),
        }
        .taps(x)
    }

    /// A walk over all windows, before the first.
    fn windows(&self) -> Windows<'_> {
        let none = Taps { first: 0, inside: 0, counted: 0 };
        Windows {
            geometry: self,
            pixel: 0,
            channel: 0,
            len: 0,
            image: 0,
            rows: none,
            columns: none,
            row: 0,
            column: 0,
        }
    }
}

/// A walk over the windows of an output, pixel by pixel, a block of channels at a time.
///
/// A cursor rather than an iterator of windows: one place holds all of it, and the steps that aren't
/// inlined are shared by all kinds and types, so that the kernels that use it stay small.
struct Windows<'g> {
    geometry: &'g PoolGeometry,
    /// The output pixel, over the whole batch.
    pixel: usize,
    /// The block's first channel.
    channel: usize,
    /// Channels of the block.
    len: usize,
    /// Where in the batch the window is, and its positions.
    image: usize,
    rows: Taps,
    columns: Taps,
    /// Where the next position is in the window.
    row: usize,
    column: usize,
}

impl Windows<'_> {
    /// Moves to the next block; false behind the last.
    #[inline(never)]
    fn next_block(&mut self) -> bool {
        let ConvGeometry { batch, out_h, out_w, out_c: channels, .. } = self.geometry.windows;
        self.channel += self.len;
        if self.channel == channels {
            (self.pixel, self.channel) = (self.pixel + 1, 0);
        }
        if self.channel == 0 {
            let (row, x) = (self.pixel / out_w, self.pixel % out_w);
            if x == 0 {
                self.image = row / out_h;
                self.rows = self.geometry.rows(row % out_h);
            }
            self.columns = self.geometry.columns(x);
        }
        self.len = BLOCK.min(channels - self.channel);
        (self.row, self.column) = (0, 0);
        self.image < batch
    }

    /// The block's channels at the window's next position inside the input, in the order of rows, then
    /// columns.
    fn next_input<'x, T>(&mut self, input: &'x [T]) -> Option<&'x [T]> {
        let ConvGeometry { in_h, in_w, in_c, dilation_h, dilation_w, .. } = self.geometry.windows;
        if self.column == self.columns.inside {
            (self.row, self.column) = (self.row + 1, 0);
        }
        if self.row >= self.rows.inside || self.columns.inside == 0 {
            return None;
        }
        let y = self.rows.first + self.row * dilation_h;
        let x = self.columns.first + self.column * dilation_w;
        self.column += 1;
        let start = ((self.image * in_h + y) * in_w + x) * in_c + self.channel;
        Some(&input[start..start + self.len])
    }

    /// The next positions of the window that lie evenly, those of a row or of all rows: elements from the first
    /// position's on to the end of the last's, and from one to the next.
    fn next_run<'x, T>(&mut self, input: &'x [T]) -> Option<(&'x [T], usize)> {
        let ConvGeometry { in_h, in_w, in_c, dilation_h, dilation_w, .. } = self.geometry.windows;
        let columns = self.columns.inside;
        if self.row >= self.rows.inside || columns == 0 {
            return None;
        }
        let y = self.rows.first + self.row * dilation_h;
        let step = dilation_w * in_c;
        let start = ((self.image * in_h + y) * in_w + self.columns.first) * in_c + self.channel;
        let rows = match (dilation_h, dilation_w) {
            (1, 1) if columns == in_w => self.rows.inside,
            _ => 1,
        };
        self.row += rows;
        let end = start + (rows * columns - 1) * step + self.len;
        Some((&input[start..end], step.max(1)))
    }

    /// The block's channels in the output.
    #[inline(never)]
    fn output<'y, T>(&self, output: &'y mut [T]) -> &'y mut [T] {
        let start = self.pixel * self.geometry.windows.out_c + self.channel;
        &mut output[start..start + self.len]
    }

    /// What the input's zero point adds to the sum of a window: every position inside the input counts it once.
    fn offset(&self, to: &PoolI8) -> i32 {
        let inside = self.rows.inside.wrapping_mul(self.columns.inside) as i32;
        inside.wrapping_mul(to.input_zero_point)
    }

    /// What an average divides by.
    fn count(&self) -> u32 {
        // Both are at most 65535.
        (self.rows.counted as u32 * self.columns.counted as u32).max(1)
    }
}

/// Where a quantized result goes; i16 is computed as i8 is, with zero points of 0.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "named in the formulas above")]
pub struct PoolI8 {
    pub input_zero_point: i32,
    pub zero_point: i32,
    /// Input scale over output scale.
    pub scale: f32,
    pub min: i32,
    pub max: i32,
}

impl PoolI8 {
    /// Whether nothing is rescaled.
    fn is_plain(&self) -> bool {
        self.scale == 1.0 && self.zero_point == self.input_zero_point
    }
}
