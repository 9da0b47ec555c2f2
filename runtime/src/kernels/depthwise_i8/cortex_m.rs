//! The i8 depthwise convolution with the DSP instructions of Cortex-M: one channel at a time.
//!
//! A strip of input rows is expanded to halfwords, four channels into a plane each, padding included. A
//! plane's neighbouring columns are then the pairs that `SMLAD` multiplies by pairs of weights, and two
//! neighbouring outputs come from the same words.

use core::arch::global_asm;
use core::ptr;

use super::{DepthwiseI8, scalar};
use crate::kernels::add_i8::{self, AddI8};
use crate::kernels::conv_i8::accumulate;
use crate::kernels::cortex_m::{FloatMode, clamp};
use crate::kernels::requantize::requantize_i8;
use crate::kernels::{ConvGeometry, EpilogueI8, Packing};

global_asm!(include_str!("cortex_m.s"), options(raw));

/// Channels whose bytes make a word, and so are expanded together.
const PLANES: usize = 4;

/// Bytes that a strip grows to when more rows would save expanding rows twice.
const STRIP_BYTES: usize = 2048;

/// Output rows of a strip at least, if there are so many: overlapping rows are expanded again.
const STRIP_ROWS: usize = 4;

/// Wider strips than this are left to the scalar kernel: no microcontroller has the memory.
const MAX_STRIP_BYTES: usize = 1 << 15;

/// What the assembly works on: one channel of a strip. It writes back `x` and `rows`.
#[repr(C)]
struct Channel {
    x: *const i16,
    dilation_bytes: usize,
    row_step_bytes: usize,
    rows: usize,
    pairs: usize,
    odd: usize,
    out: *mut i8,
    zero_point: i32,
    out_step: usize,
    bias: [i32; 2],
    scale: f32,
    weights: Weights,
}

#[derive(Clone, Copy)]
#[repr(C)]
union Weights {
    /// For each row of taps (w0, w1) and (w1, w2).
    square: [u32; 6],
    table: Table,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Table {
    start: *const u32,
    row_bytes: usize,
    bytes: usize,
    stride_bytes: usize,
}

unsafe extern "C" {
    fn whit_depthwise_3x3_stride1_i8(channel: *mut Channel);
    fn whit_depthwise_3x3_stride2_i8(channel: *mut Channel);
    fn whit_depthwise_i8(channel: *mut Channel);
    fn whit_expand_planes_i8(expand: *const Expand);
}

/// What the assembly expands: four channels of some rows.
#[repr(C)]
struct Expand {
    from: *const i8,
    column_step: usize,
    to: *mut i16,
    plane_bytes: usize,
    /// At least 1.
    columns: usize,
    /// At least 1.
    rows: usize,
    /// From the end of a row's columns to the next row.
    from_skip: usize,
    to_skip_bytes: usize,
}

/// How a strip lies in scratch.
#[derive(Clone, Copy)]
struct Strip {
    /// The geometry, a column seen as a row when there is only one.
    g: ConvGeometry,
    /// Three rows of three taps, one or two columns apart.
    is_square: bool,
    /// Words of a row of taps in the table of weights.
    tap_words: usize,
    /// Words of an expanded row.
    row_words: usize,
    /// Output rows of a strip.
    out_rows: usize,
}

impl Strip {
    /// `None` if a strip would take too much memory.
    #[inline(never)]
    fn new(geometry: &ConvGeometry) -> Option<Strip> {
        let mut g = *geometry;
        if g.in_w == 1 && g.out_w == 1 && g.kernel_w == 1 && g.pad_left == 0 {
            (g.in_w, g.in_h) = (g.in_h, 1);
            (g.out_w, g.out_h) = (g.out_h, 1);
            (g.kernel_w, g.kernel_h) = (g.kernel_h, 1);
            (g.stride_w, g.stride_h) = (g.stride_h, 1);
            (g.dilation_w, g.dilation_h) = (g.dilation_h, 1);
            (g.pad_left, g.pad_top) = (g.pad_top, 0);
        }
        if g.kernel_h == 0 || g.kernel_w == 0 || g.out_pixels() == 0 {
            return None;
        }
        let is_square = g.kernel_h == 3 && g.kernel_w == 3 && g.dilation_w == 1 && g.stride_w <= 2;
        let tap_words = ((g.kernel_w - 1) * g.dilation_w + 1).div_ceil(2);
        // Outputs are computed in pairs, so there may be one more.
        let outputs = g.out_w.next_multiple_of(2);
        let row_words = match (is_square, g.stride_w) {
            (true, 1) => outputs / 2 + 1,
            (true, _) => outputs + 1,
            (false, stride) => (stride * (outputs - 1) + 2 * tap_words).div_ceil(2),
        };
        let mut strip = Strip { g, is_square, tap_words, row_words, out_rows: 1 };
        if strip.bytes()? > MAX_STRIP_BYTES {
            return None;
        }
        while strip.out_rows < g.out_h {
            let larger = Strip { out_rows: strip.out_rows + 1, ..strip };
            let limit = if larger.out_rows <= STRIP_ROWS { MAX_STRIP_BYTES } else { STRIP_BYTES };
            if larger.bytes()? > limit {
                break;
            }
            strip = larger;
        }
        Some(strip)
    }

    /// Input rows of `out_rows` output rows, padding included.
    fn in_rows(&self, out_rows: usize) -> usize {
        (out_rows - 1) * self.g.stride_h + (self.g.kernel_h - 1) * self.g.dilation_h + 1
    }

    /// Words of a plane.
    fn plane_words(&self) -> usize {
        self.in_rows(self.out_rows) * self.row_words
    }

    /// Words of the table of weights.
    fn table_words(&self) -> usize {
        if self.is_square { 0 } else { self.g.kernel_h * self.tap_words }
    }

    fn bytes(&self) -> Option<usize> {
        let planes = self.in_rows(self.out_rows).checked_mul(self.row_words)?;
        let words = planes.checked_mul(PLANES)?.checked_add(self.table_words())?;
        words.checked_mul(size_of::<u32>())
    }
}

/// Bytes of scratch: a strip, and room to align it.
pub(super) fn scratch_bytes(geometry: &ConvGeometry) -> usize {
    let bytes = Strip::new(geometry).and_then(|strip| strip.bytes());
    bytes.map_or(0, |bytes| bytes + align_of::<u32>() - 1)
}

/// For Cortex-M: `select` hands it out only where the target has the instructions.
pub(super) fn depthwise_i8_cortex_m(conv: &mut DepthwiseI8<'_>) {
    if conv.packing != Packing::CortexM {
        return scalar::depthwise_i8_scalar(conv);
    }
    super::check(conv, scratch_bytes);
    let Some(strip) = Strip::new(conv.geometry) else {
        return scalar::depthwise_i8_scalar(conv);
    };
    let float_mode = FloatMode::enter();
    let skip = conv.scratch.as_ptr().align_offset(align_of::<u32>());
    let planes: *mut u32 = conv.scratch[skip..].as_mut_ptr().cast();
    let table = planes.wrapping_add(strip.plane_words() * PLANES);
    for word in 0..strip.table_words() {
        // SAFETY: `check` proved that scratch holds a strip, whose table this is.
        unsafe { table.add(word).write(0) };
    }
    let mut job = Job { conv, strip, planes, table, float_mode };
    let g = strip.g;
    for image in 0..g.batch {
        for first in (0..g.out_h).step_by(strip.out_rows) {
            let rows = strip.out_rows.min(g.out_h - first);
            // SAFETY: the image and the rows exist; `check` proved the lengths of all slices.
            unsafe { job.strip(image, first, rows) };
        }
    }
    let EpilogueI8 { zero_point, min, max, residual, .. } = job.conv.epilogue;
    for pixel in 0..g.out_pixels() {
        if min == -128 && max == 127 && residual.is_none() {
            break;
        }
        let row = &mut job.conv.output[pixel * job.conv.output_stride..][..g.in_c];
        let at = row.as_mut_ptr();
        // SAFETY: the slice's own length. `check` proved that the residual has the output's elements,
        // and that it is apart from the output.
        unsafe {
            clamp(at, row.len(), min, max);
            if let Some(residual) = residual {
                let (data, data_stride) = residual.data.rows(g.in_c, at, 0);
                let data = data.add(pixel * data_stride);
                add_i8::add_raw(&AddI8::residual(zero_point, &residual), at, data, at, row.len());
            }
        }
    }
}

struct Job<'c, 'a> {
    conv: &'c mut DepthwiseI8<'a>,
    strip: Strip,
    /// Four planes of the strip.
    planes: *mut u32,
    /// Weights of a channel in pairs, if the taps aren't square.
    table: *mut u32,
    float_mode: FloatMode,
}

impl Job<'_, '_> {
    /// Computes output rows `first..first + rows` of an image, all channels.
    ///
    /// # Safety
    ///
    /// The rows exist and fit a strip; the convolution has been checked.
    #[inline(never)]
    unsafe fn strip(&mut self, image: usize, first: usize, rows: usize) {
        let Strip { g, row_words, .. } = self.strip;
        let plane_words = self.strip.plane_words();
        let zero_point = self.conv.input_zero_point as u8;
        let padding = u32::from(i16::from(zero_point as i8) as u16) * 0x1_0001;
        // Rows of the strip that are inside the input.
        let top = first * g.stride_h;
        let in_rows = self.strip.in_rows(rows);
        let begin = g.pad_top.saturating_sub(top).min(in_rows);
        let end = (g.pad_top + g.in_h).saturating_sub(top).clamp(begin, in_rows);
        for plane in 0..PLANES {
            // Columns of padding stay from strip to strip; rows of padding come and go.
            let whole = [0..if first == 0 { in_rows } else { begin }, end..in_rows];
            for row in whole.into_iter().flatten() {
                for word in 0..row_words {
                    // SAFETY: in row `row` of a plane.
                    unsafe {
                        self.planes
                            .add(plane * plane_words + row * row_words + word)
                            .write(padding);
                    }
                }
            }
        }
        let first_pixel = (image * g.out_h + first) * g.out_w;
        let mut template = self.channel_template(rows);
        let columns = g.in_w.min((row_words * 2).saturating_sub(g.pad_left));
        for quad in (0..g.in_c).step_by(PLANES) {
            // The last word of channels may overlap the one before, so as not to read beyond a pixel.
            let channel = quad.min(g.in_c.saturating_sub(PLANES));
            if begin < end && columns > 0 {
                let in_row = image * g.in_h + top + begin - g.pad_top;
                let from = in_row * g.in_w * g.in_c + channel;
                let to = self.planes.wrapping_add(begin * row_words).cast::<i16>();
                let expand = Expand {
                    from: self.conv.input.as_ptr().wrapping_add(from),
                    column_step: g.in_c,
                    to: to.wrapping_add(g.pad_left),
                    plane_bytes: plane_words * size_of::<u32>(),
                    columns,
                    rows: end - begin,
                    from_skip: (g.in_w - columns) * g.in_c,
                    to_skip_bytes: row_words * size_of::<u32>() - columns * size_of::<i16>(),
                };
                // SAFETY: the rows are in the input, and `columns` halfwords behind the padding are in
                // the rows of each plane.
                unsafe { expand_planes(&expand) };
            }
            for channel_of in quad..g.in_c.min(quad + PLANES) {
                let plane = self.planes.wrapping_add((channel_of - channel) * plane_words);
                // SAFETY: as the caller's; the channel's plane has the rows' input.
                unsafe { self.channel(first_pixel, channel_of, plane, &mut template) };
            }
        }
    }

    /// What the channels of a strip have in common.
    fn channel_template(&self, rows: usize) -> Channel {
        let Strip { g, is_square, row_words, .. } = self.strip;
        let row_bytes = row_words * size_of::<u32>();
        // Bytes of input for a pair of outputs.
        let pair_bytes = 2 * g.stride_w * size_of::<i16>();
        Channel {
            x: ptr::null(),
            dilation_bytes: g.dilation_h * row_bytes,
            row_step_bytes: g.stride_h * row_bytes,
            rows,
            pairs: g.out_w / 2 * if is_square { pair_bytes } else { 1 },
            odd: g.out_w % 2,
            out: ptr::null_mut(),
            zero_point: self.conv.epilogue.zero_point,
            out_step: self.conv.output_stride,
            bias: [0; 2],
            scale: 0.0,
            weights: Weights {
                table: Table {
                    start: self.table,
                    row_bytes: self.strip.tap_words * size_of::<u32>(),
                    bytes: self.strip.table_words() * size_of::<u32>(),
                    stride_bytes: g.stride_w * size_of::<i16>(),
                },
            },
        }
    }

    /// Computes one channel of the strip's rows.
    ///
    /// # Safety
    ///
    /// As [`Job::strip`]; `plane` holds the channel's input; the rest of `job` is the strip's template.
    #[inline(never)]
    unsafe fn channel(
        &mut self,
        first_pixel: usize,
        channel: usize,
        plane: *const u32,
        job: &mut Channel,
    ) {
        let Strip { g, is_square, .. } = self.strip;
        let taps = g.kernel_h * g.kernel_w;
        let weights = &self.conv.weights[channel * taps..][..taps];
        let rows = job.rows;
        job.x = plane.cast();
        job.out = self.conv.output[first_pixel * job.out_step + channel..].as_mut_ptr();
        job.bias = [self.conv.bias[channel]; 2];
        job.scale = self.conv.epilogue.scale[channel];
        let pair = |low: i8, high: i8| {
            u32::from(i16::from(low) as u16) | u32::from(i16::from(high) as u16) << 16
        };
        if let (true, [a, b, c, d, e, f, g, h, i]) = (is_square, weights) {
            job.weights.square = [
                pair(*a, *b),
                pair(*b, *c),
                pair(*d, *e),
                pair(*e, *f),
                pair(*g, *h),
                pair(*h, *i),
            ];
        } else {
            let mut row = self.table.cast::<i16>();
            for weights in weights.chunks_exact(g.kernel_w) {
                for (column, weight) in weights.iter().enumerate() {
                    // SAFETY: a row of the table spans all columns of taps. What is between them stays 0.
                    unsafe { row.add(column * g.dilation_w).write(i16::from(*weight)) };
                }
                row = row.wrapping_add(self.strip.tap_words * 2);
            }
        }
        // SAFETY: the plane has the rows that the outputs read, a whole pair of outputs each; the
        // outputs are `out_step` apart and exist by `check`.
        unsafe {
            match (is_square, g.stride_w) {
                (false, _) => whit_depthwise_i8(job),
                (true, 1) => whit_depthwise_3x3_stride1_i8(job),
                (true, _) => whit_depthwise_3x3_stride2_i8(job),
            }
        }
        job.rows = rows;
        if self.float_mode.take_invalid() {
            // NaN, or numbers beyond i32: as the definition has it.
            for pixel in first_pixel..first_pixel + rows * g.out_w {
                let filter = scalar::filter(self.conv, channel);
                let acc = accumulate(self.conv, &filter, pixel, channel);
                let epilogue = EpilogueI8 { residual: None, ..self.conv.epilogue };
                self.conv.output[pixel * job.out_step + channel] =
                    requantize_i8(acc, channel, 0, &epilogue);
            }
        }
    }
}

/// Expands rows into planes: as many as a pixel has channels, at most four.
///
/// # Safety
///
/// The rows are there, and room for them in each plane.
#[inline(never)]
unsafe fn expand_planes(expand: &Expand) {
    if expand.column_step >= PLANES {
        // SAFETY: the caller's; pixels of at least four channels are read four channels at a time.
        return unsafe { whit_expand_planes_i8(expand) };
    }
    let (mut from, mut to) = (expand.from, expand.to);
    for _ in 0..expand.rows {
        for _ in 0..expand.columns {
            for plane in 0..expand.column_step {
                // SAFETY: the caller's.
                unsafe {
                    let to = to.byte_add(plane * expand.plane_bytes);
                    to.write(i16::from(from.add(plane).read()));
                }
            }
            from = from.wrapping_add(expand.column_step);
            to = to.wrapping_add(1);
        }
        from = from.wrapping_add(expand.from_skip);
        to = to.wrapping_byte_add(expand.to_skip_bytes);
    }
}
