//! Walks the output of an i8 depthwise convolution: by rows where kernels are 3×3, else by pixels.

use super::{DepthwiseI8, padded_c};
use crate::kernels::{ConvGeometry, EpilogueI8};

/// Channels of a block: an i8 register of NEON, an i16 register of AVX2, an i32 register of AVX-512.
pub(super) const BLOCK: usize = 16;

/// Offsets of what is in scratch, which starts with the expanded weights.
pub(super) struct Layout {
    /// For each tap of a pixel, where its input is, as a pointer.
    pub(super) pointers: usize,
    /// A pixel of padding.
    pub(super) padding: usize,
    pub(super) bytes: usize,
}

impl Layout {
    pub(super) fn new(g: &ConvGeometry, weight_bytes: usize) -> Self {
        let taps = g.kernel_h * g.kernel_w;
        // For each block of channels.
        let pointers = g.in_c.div_ceil(BLOCK) * weight_bytes;
        let padding = pointers + taps * size_of::<*const i8>();
        Layout { pointers, padding, bytes: padding + padded_c(g.in_c) }
    }
}

/// The checked arguments as pointers, see [`super::check`] for their lengths.
pub(super) struct Job<'a> {
    pub(super) geometry: ConvGeometry,
    pub(super) input: *const i8,
    pub(super) input_zero_point: i8,
    pub(super) weights: *const i8,
    pub(super) bias: *const i32,
    pub(super) epilogue: EpilogueI8<'a>,
    pub(super) output: *mut i8,
    pub(super) output_stride: usize,
    pub(super) scratch: *mut u8,
}

impl<'a> Job<'a> {
    pub(super) fn new(conv: &'a mut DepthwiseI8<'_>) -> Self {
        Job {
            geometry: *conv.geometry,
            input: conv.input.as_ptr(),
            input_zero_point: conv.input_zero_point,
            weights: conv.weights.as_ptr(),
            bias: conv.bias.as_ptr(),
            epilogue: conv.epilogue,
            output: conv.output.as_mut_ptr(),
            output_stride: conv.output_stride,
            scratch: conv.scratch.as_mut_ptr(),
        }
    }

    /// First channel of a block. The last one ends with the last channel, over channels that the
    /// block before it has computed too, unless there is only one.
    #[inline(always)]
    pub(super) fn overlapping_block(&self, block: usize) -> usize {
        (block * BLOCK).min(self.geometry.in_c.saturating_sub(BLOCK))
    }

    /// Writes the pixel of padding.
    ///
    /// # Safety
    ///
    /// Scratch has this layout.
    #[inline(always)]
    pub(super) unsafe fn fill_padding(&self, layout: &Layout) -> *const i8 {
        // SAFETY: the layout reserves `padded_c` bytes there.
        unsafe {
            let padding = self.scratch.add(layout.padding).cast::<i8>();
            padding.write_bytes(self.input_zero_point as u8, padded_c(self.geometry.in_c));
            padding
        }
    }
}

/// One row of output pixels under a 3×3 kernel, sixteen channels of it.
pub(super) struct Row3x3 {
    /// The three input rows at column 0 and the first channel of the block, and the elements from
    /// one column to the next: zero for a row of padding.
    pub(super) rows: [(*const i8, usize); 3],
    pub(super) in_w: usize,
    pub(super) pad_left: usize,
    pub(super) out_w: usize,
    pub(super) zero_point: i8,
    /// Expanded weights of the block.
    pub(super) weights: *const u8,
    /// Per-channel arrays, at the first channel of the block.
    pub(super) bias: *const i32,
    pub(super) scale: *const f32,
    pub(super) output: *mut i8,
    pub(super) output_stride: usize,
    /// Channels to read and write, no more than a block.
    pub(super) channels: usize,
}

/// Calls `row` for every row of the output and every block of channels, whose first channel
/// `first_channel` tells.
///
/// # Safety
///
/// The kernel is 3×3 and not dilated. The lengths of `job` are checked; `padding` is valid for
/// `padded_c` reads; scratch starts with `weight_bytes` of weights for every block.
#[inline(always)]
pub(super) unsafe fn for_each_row_3x3(
    job: &Job<'_>,
    padding: *const i8,
    weight_bytes: usize,
    first_channel: impl Fn(usize) -> usize,
    mut row: impl FnMut(&Row3x3),
) {
    let g = &job.geometry;
    for image in 0..g.batch {
        for oh in 0..g.out_h {
            for block in 0..g.in_c.div_ceil(BLOCK) {
                let channel = first_channel(block);
                let pixel = (image * g.out_h + oh) * g.out_w;
                let rows = core::array::from_fn(|kh| {
                    match (oh * g.stride_h + kh).checked_sub(g.pad_top) {
                        Some(h) if h < g.in_h => {
                            let offset = (image * g.in_h + h) * g.in_w * g.in_c + channel;
                            // SAFETY: row `h` of the image exists, and so does the channel.
                            (unsafe { job.input.add(offset) }, g.in_c)
                        }
                        // SAFETY: padding has a channel for each of the input.
                        _ => (unsafe { padding.add(channel) }, 0),
                    }
                });
                // SAFETY: the block, the channel and the row of pixels exist.
                row(&unsafe {
                    Row3x3 {
                        rows,
                        in_w: g.in_w,
                        pad_left: g.pad_left,
                        out_w: g.out_w,
                        zero_point: job.input_zero_point,
                        weights: job.scratch.add(block * weight_bytes),
                        bias: job.bias.add(channel),
                        scale: job.epilogue.scale.as_ptr().add(channel),
                        output: job.output.add(pixel * job.output_stride + channel),
                        output_stride: job.output_stride,
                        channels: (g.in_c - channel).min(BLOCK),
                    }
                });
            }
        }
    }
}

/// Calls `pixel` with the index of every output pixel, after writing where the inputs of its taps
/// are.
///
/// # Safety
///
/// The lengths of `job` are checked; `padding` is valid for `padded_c` reads, `pointers` for a
/// pointer per tap.
#[inline(always)]
pub(super) unsafe fn for_each_pixel(
    job: &Job<'_>,
    padding: *const i8,
    pointers: *mut *const i8,
    mut pixel: impl FnMut(usize),
) {
    let g = &job.geometry;
    let mut index = 0;
    for image in 0..g.batch {
        for oh in 0..g.out_h {
            for ow in 0..g.out_w {
                for kh in 0..g.kernel_h {
                    let h = (oh * g.stride_h + kh * g.dilation_h).wrapping_sub(g.pad_top);
                    let row = (image * g.in_h + h.min(g.in_h)) * g.in_w * g.in_c;
                    for kw in 0..g.kernel_w {
                        let w = (ow * g.stride_w + kw * g.dilation_w).wrapping_sub(g.pad_left);
                        // Left of the padding's end, the differences wrap to huge values.
                        let inside = h < g.in_h && w < g.in_w;
                        // SAFETY: the pixel exists; the tap is one of the table.
                        unsafe {
                            let input =
                                if inside { job.input.add(row + w * g.in_c) } else { padding };
                            pointers.add(kh * g.kernel_w + kw).write_unaligned(input);
                        }
                    }
                }
                pixel(index);
                index += 1;
            }
        }
    }
}

/// Whether to go by columns. Not with a residual, which no known network adds here and which would
/// take registers.
pub(super) fn is_3x3(job: &Job<'_>) -> bool {
    let g = &job.geometry;
    (g.kernel_h, g.kernel_w, g.dilation_h, g.dilation_w) == (3, 3, 1, 1)
        && (g.stride_w == 1 || g.stride_w == 2)
        && job.epilogue.residual.is_none()
}
