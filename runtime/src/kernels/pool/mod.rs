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

mod scalar;
#[cfg(test)]
mod tests;

pub use scalar::{average_f32, average_quantized, average_stored_i8, max_f32, max_quantized};

/// Shape of a pooling. Strides and dilations are at least 1; input and output have elements.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct PoolGeometry {
    pub batch: usize,
    /// Height, width.
    pub input: [usize; 2],
    /// Height, width.
    pub output: [usize; 2],
    pub channels: usize,
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    /// Rows above, columns on the left.
    pub pad: [usize; 2],
    /// Rows below, columns on the right; matters only when padding is counted.
    pub pad_after: [usize; 2],
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

/// What is done for a window: given the output's start, the count, and what visits its positions.
type Body<'b> = &'b mut dyn FnMut(usize, u32, &dyn Fn(&mut dyn FnMut(usize)));

impl PoolGeometry {
    /// The window of output index `index` along axis 0 (height) or 1 (width).
    fn taps(&self, axis: usize, index: usize) -> Taps {
        let (kernel, step) = (self.kernel[axis], self.dilation[axis]);
        // Positions count from the padding's edge, so that none is negative.
        let (size, pad) = (self.input[axis], self.pad[axis]);
        let origin = index * self.stride[axis];
        // Taps before position `end`: those with origin + tap * step < end.
        let before = |end: usize| end.saturating_sub(origin).div_ceil(step).min(kernel);
        let begin = before(pad);
        let inside = before(pad + size) - begin;
        let counted = match self.count_include_pad {
            true => before(pad + size + self.pad_after[axis]),
            false => inside,
        };
        let first = if inside > 0 { origin + begin * step - pad } else { 0 };
        Taps { first, inside, counted }
    }

    /// Calls `body(output start, count, window)` for every output pixel; `window` calls its argument
    /// with the input start of every position inside the input.
    ///
    /// Not generic, so that there is one of it for all kinds and types.
    fn for_each_window(&self, body: Body<'_>) {
        let [in_h, in_w] = self.input;
        let [out_h, out_w] = self.output;
        for n in 0..self.batch {
            for y in 0..out_h {
                let rows = self.taps(0, y);
                for x in 0..out_w {
                    let columns = self.taps(1, x);
                    let visit = |position: &mut dyn FnMut(usize)| {
                        for row in 0..rows.inside {
                            let in_y = rows.first + row * self.dilation[0];
                            for column in 0..columns.inside {
                                let in_x = columns.first + column * self.dilation[1];
                                position(((n * in_h + in_y) * in_w + in_x) * self.channels);
                            }
                        }
                    };
                    // Both are at most 65535.
                    let count = rows.counted as u32 * columns.counted as u32;
                    body(((n * out_h + y) * out_w + x) * self.channels, count, &visit);
                }
            }
        }
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
