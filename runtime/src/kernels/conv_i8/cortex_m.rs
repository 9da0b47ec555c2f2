//! The i8 convolution with the DSP instructions of Cortex-M: three pixels by two channels at a time.
//!
//! Activations are expanded to halfwords for three output pixels, once for all channels: straight from
//! the input when its pixels are the rows of the product, otherwise after gathering patches. The
//! products, and the rounding with the FPU, are in `cortex_m.s`; they are exact, whatever the order.

use core::arch::global_asm;
use core::mem::offset_of;

use super::{ConvI8, padded_channel, scalar, weights_start};
use crate::kernels::add_i8::{self, AddI8};
use crate::kernels::cortex_m::{FloatMode, clamp};
use crate::kernels::requantize::requantize_i8;
use crate::kernels::{ConvGeometry, EpilogueI8, PAIR_N, PANEL_K, Packing};

global_asm!(include_str!("cortex_m.s"), options(raw));

/// Pixels that share one reading of the weights: with two channels, what the registers hold.
const PIXELS: usize = 3;

/// Quads between two flushes: a sum of 480 products of i8 stays below 2²³, and both kernels' blocks
/// (4 and 8 quads) divide it.
const CHUNK_QUADS: usize = 120;

/// Bytes that gathering may read behind a patch's source and write behind a patch: a word.
const SLACK: usize = 4;

/// Channels of a row on its way to a residual addition.
const ROW: usize = 64;

/// What the assembly walks through. It writes back `out`, `bias` and `scale`.
#[repr(C)]
struct Gemm {
    /// −128 times the sum of each pixel's activations.
    offsets: [i32; PIXELS],
    bias: *const i32,
    scale: *const f32,
    out: [*mut i8; PIXELS],
    zero_point: i32,
    x: *const u32,
    first_end: *const u32,
    blocks_end: *const u32,
    end: *const u32,
    chunk_bytes: usize,
    /// Where `out[0]` is when all channels are done.
    out_end: *mut i8,
    weights: *const i8,
}

unsafe extern "C" {
    // Both take a pointer to `Gemm::out`.
    fn whit_gemm3_i8(out: *mut u8);
    fn whit_gemm1_i8(out: *mut u8);
    fn whit_expand3_i8(
        a: *const i8,
        b: *const i8,
        c: *const i8,
        to: *mut u32,
        quads: usize,
        offsets: *mut i32,
    );
    fn whit_expand1_i8(from: *const i8, to: *mut u32, quads: usize, offset: *mut i32);
    fn whit_gather_i8(to: *mut i8, from: *const i8, run: usize, run_step: usize, runs: usize);
}

/// Quads of an output's inputs.
fn quads(g: &ConvGeometry) -> usize {
    g.k().div_ceil(PANEL_K)
}

/// Whether input pixels are read in place, whole quads at a time.
fn is_direct(g: &ConvGeometry) -> bool {
    g.is_pointwise() && g.in_c.is_multiple_of(PANEL_K)
}

/// Pixels that are expanded at a time: two count as three, the last one twice.
fn expanded_pixels(g: &ConvGeometry) -> usize {
    if g.out_pixels() == 1 { 1 } else { PIXELS }
}

/// Bytes of scratch: expanded activations of a block of pixels, its patches, and room to align.
pub(super) fn scratch_bytes(g: &ConvGeometry) -> usize {
    let patches = if is_direct(g) { 0 } else { PIXELS.min(g.out_pixels()) };
    quads(g) * PANEL_K * (expanded_pixels(g) * size_of::<i16>() + patches)
        + SLACK * patches.min(1)
        + align_of::<u32>()
        - 1
}

/// For Cortex-M: `select` hands it out only where the target has the instructions.
pub(super) fn conv_i8_cortex_m(conv: &mut ConvI8<'_>) {
    // Words are loaded by instructions that want them aligned; the converter aligns.
    if conv.packing != Packing::CortexM || !conv.weights.as_ptr().cast::<u32>().is_aligned() {
        return scalar::conv_i8_scalar(conv);
    }
    conv.check();
    let g = *conv.geometry;
    assert!(conv.scratch.len() >= scratch_bytes(&g), "scratch too short");
    if g.k() == 0 {
        return scalar::conv_i8_scalar(conv);
    }
    let float_mode = FloatMode::enter();
    let skip = conv.scratch.as_ptr().align_offset(align_of::<u32>());
    let expanded = conv.scratch[skip..].as_mut_ptr();
    let (quads, total) = (quads(&g), g.out_pixels());
    let expanded_bytes = quads * PANEL_K * expanded_pixels(&g) * size_of::<i16>();
    let mut job = Job {
        conv,
        g,
        quads,
        expanded: expanded.cast(),
        patches: expanded.wrapping_add(expanded_bytes).cast(),
        offsets: [0; PIXELS],
        next: Cursor::default(),
        runs_are_whole: (g.dilation_w == 1 || g.kernel_w == 1) && g.groups == 1,
        float_mode,
    };
    for group in 0..g.groups {
        job.next = Cursor::default();
        let mut pixel = 0;
        while pixel < total {
            let count = PIXELS.min(total - pixel);
            // SAFETY: the pixels and the group exist; `check` proved the lengths of all slices.
            unsafe { job.block(group, pixel, count) };
            pixel += count;
        }
    }
}

struct Job<'c, 'a> {
    conv: &'c mut ConvI8<'a>,
    g: ConvGeometry,
    quads: usize,
    /// Aligned, quads × 2 words for each pixel of a block.
    expanded: *mut u32,
    /// Quads × 4 bytes for each pixel of a block; only if the input isn't read in place.
    patches: *mut i8,
    /// −128 times the sum of the activations of each of the block's pixels.
    offsets: [i32; PIXELS],
    /// The first pixel of the next block, if the input isn't read in place.
    next: Cursor,
    /// Whether the taps of a row of the kernel lie one behind the other in the input.
    runs_are_whole: bool,
    float_mode: FloatMode,
}

impl Job<'_, '_> {
    /// Computes `count` pixels, at most [`PIXELS`], of one group.
    ///
    /// # Safety
    ///
    /// The group and the pixels exist; the convolution has been checked.
    unsafe fn block(&mut self, group: usize, pixel: usize, count: usize) {
        let (quads, patch) = (self.quads, self.quads * PANEL_K);
        // Two pixels are computed as three, the last one twice.
        let pixels = [0, 1.min(count - 1), 2.min(count - 1)];
        let sources: [*const i8; PIXELS] = if is_direct(&self.g) {
            // SAFETY: `k` channels of an input pixel, as direct implies.
            pixels.map(|i| unsafe { self.conv.input.as_ptr().add((pixel + i) * patch) })
        } else {
            let mut at = self.next;
            for i in 0..count {
                // SAFETY: as the caller's; the patch is one of the block's, with more patches or the
                // slack behind it.
                unsafe { self.gather(group, &at, self.patches.add(i * patch)) };
                at.advance(&self.g);
            }
            self.next = at;
            // SAFETY: as above.
            pixels.map(|i| unsafe { self.patches.add(i * patch).cast_const() })
        };
        self.offsets = [0; PIXELS];
        for start in (0..quads).step_by(CHUNK_QUADS) {
            let quads = CHUNK_QUADS.min(quads - start);
            let offsets = self.offsets.as_mut_ptr();
            // SAFETY: each source has whole quads; `expanded` has room for as many pixels as expanded.
            unsafe {
                let [a, b, c] = sources.map(|source| source.add(start * PANEL_K));
                match count {
                    1 => whit_expand1_i8(a, self.expanded.add(start * 2), quads, offsets),
                    _ => whit_expand3_i8(a, b, c, self.expanded.add(start * 6), quads, offsets),
                }
            }
        }

        let channels = self.g.group_out_c();
        let first = group * channels;
        if self.conv.epilogue.residual.is_some() {
            // SAFETY: as the caller's.
            return unsafe { self.rows_with_residual(first, pixel, count) };
        }
        let stride = self.conv.output_stride;
        let output = self.conv.output.as_mut_ptr();
        // SAFETY: `check` proved that the rows of these pixels are in the output.
        let out = pixels.map(|i| unsafe { output.add((pixel + i) * stride + first) });
        // SAFETY: the channels are the group's; the rows hold them.
        unsafe { self.channels(first, channels, pixel, count, out) };
    }

    /// Goes by way of rows of its own, since the residual may lie under the output.
    ///
    /// # Safety
    ///
    /// As [`Job::block`]; the block's activations are expanded.
    #[inline(never)]
    unsafe fn rows_with_residual(&mut self, first: usize, pixel: usize, count: usize) {
        let mut rows = [[0i8; ROW]; PIXELS];
        let Some(residual) = self.conv.epilogue.residual else { return };
        let zero_point = self.conv.epilogue.zero_point;
        let add = AddI8::residual(zero_point, &residual);
        let output = self.conv.output.as_mut_ptr();
        let stride = self.conv.output_stride;
        let (data, data_stride) = residual.data.rows(self.g.out_c, output, stride);
        let channels = self.g.group_out_c();
        for start in (0..channels).step_by(ROW) {
            let len = ROW.min(channels - start);
            let start = first + start;
            let base = rows.as_mut_ptr();
            let out = [0, 1, 2].map(|i| base.wrapping_add(i).cast::<i8>());
            // SAFETY: a row holds ROW channels, and ROW is even, so `start` begins a pair.
            unsafe { self.channels(start, len, pixel, count, out) };
            for (i, row) in rows.iter().enumerate().take(count) {
                let pixel = pixel + i;
                // SAFETY: `check` proved that the residual has the output's elements, and the output its
                // rows. If the two are the same memory, each element is read before it is written.
                unsafe {
                    let data = data.add(pixel * data_stride + start);
                    let to = output.add(pixel * stride + start);
                    add_i8::add_raw(&add, row.as_ptr(), data, to, len);
                }
            }
        }
    }

    /// Computes channels `first..first + len` of the block, without residual, into rows.
    ///
    /// # Safety
    ///
    /// As [`Job::rows_with_residual`]; the channels are of one group and `first` begins a pair; each of
    /// `out` is valid for `len` writes.
    #[inline(never)]
    unsafe fn channels(
        &mut self,
        first: usize,
        len: usize,
        pixel: usize,
        count: usize,
        out: [*mut i8; PIXELS],
    ) {
        let even = len / PAIR_N * PAIR_N;
        if even > 0 {
            // SAFETY: as the caller's.
            unsafe { self.gemm(first, even, count, out) };
        }
        if even < len {
            let mut last = [[0i8; PAIR_N]; PIXELS];
            let base = last.as_mut_ptr();
            let rows = [0, 1, 2].map(|i| base.wrapping_add(i).cast::<i8>());
            // SAFETY: the odd channel's pair exists, padded, and the rows hold a pair each.
            unsafe { self.gemm(first + even, PAIR_N, count, rows) };
            for i in 0..count {
                // SAFETY: `even` is below `len`.
                unsafe { out[i].add(even).write(last[i][0]) };
            }
        }
        let EpilogueI8 { min, max, .. } = self.conv.epilogue;
        if self.float_mode.take_invalid() {
            // NaN, or numbers beyond i32: as the definition has it.
            let epilogue = EpilogueI8 { residual: None, ..self.conv.epilogue };
            for i in 0..count {
                for c in 0..len {
                    let filter = scalar::filter(self.conv, first + c);
                    let acc = scalar::accumulate(self.conv, &filter, pixel + i, first + c);
                    let padded = padded_channel(&self.g, Packing::CortexM, first + c);
                    // SAFETY: as the caller's.
                    unsafe { out[i].add(c).write(requantize_i8(acc, padded, 0, &epilogue)) };
                }
            }
        } else if min > -128 || max < 127 {
            for out in &out[..count] {
                // SAFETY: as the caller's.
                unsafe { clamp(*out, len, min, max) };
            }
        }
    }

    /// # Safety
    ///
    /// As [`Job::channels`]; `len` is even and not 0, with padding.
    unsafe fn gemm(&mut self, first: usize, len: usize, count: usize, out: [*mut i8; PIXELS]) {
        let padded = padded_channel(&self.g, Packing::CortexM, first);
        let quads = self.quads;
        // Words of a quad, and quads of the kernel's unrolled block.
        let (words, block) = if count == 1 { (2, 8) } else { (6, 4) };
        let x = self.expanded.cast_const();
        let blocks = quads / block * block;
        // SAFETY: all are elements of their slices, or one behind, by `check`: padded channels exist,
        // and `expanded` holds `quads * words` words.
        unsafe {
            let mut gemm = Gemm {
                offsets: self.offsets,
                out,
                zero_point: self.conv.epilogue.zero_point,
                bias: self.conv.bias.as_ptr().add(padded),
                scale: self.conv.epilogue.scale.as_ptr().add(padded),
                x,
                first_end: x.add(blocks.min(CHUNK_QUADS) * words),
                blocks_end: x.add(blocks * words),
                end: x.add(quads * words),
                chunk_bytes: CHUNK_QUADS * words * size_of::<u32>(),
                out_end: out[0].add(len),
                weights: self.conv.weights.as_ptr().add(weights_start(
                    &self.g,
                    Packing::CortexM,
                    first,
                )),
            };
            let out = (&raw mut gemm).cast::<u8>().add(offset_of!(Gemm, out));
            match count {
                1 => whit_gemm1_i8(out),
                _ => whit_gemm3_i8(out),
            }
        }
    }

    /// Copies the patch of one pixel and fills it up with zeros to whole quads.
    ///
    /// # Safety
    ///
    /// The group and the pixel exist; `to` is valid for quads × 4 bytes and [`SLACK`] more.
    unsafe fn gather(&self, group: usize, at: &Cursor, to: *mut i8) {
        let g = &self.g;
        let channels = g.group_in_c();
        let run = g.kernel_w * channels;
        // Top left tap, in coordinates of the input: negative in the padding. Bounded, so no wrapping.
        let h0 = (at.oh * g.stride_h) as isize - g.pad_top as isize;
        let w0 = (at.ow * g.stride_w) as isize - g.pad_left as isize;
        let input = self.conv.input.as_ptr();
        let row_step = g.in_w * g.in_c;
        let image = at.image * g.in_h * row_step;
        let whole = self.runs_are_whole && self.is_inside(h0, w0);
        let first = image + h0.max(0) as usize * row_step + w0.max(0) as usize * g.in_c;
        let end = first + (g.kernel_h - 1) * g.dilation_h * row_step + run;
        if whole && end + SLACK <= self.conv.input.len() {
            // SAFETY: the window is inside the input, and so are the bytes behind it; K bytes and
            // [`SLACK`] more may be written.
            unsafe {
                let step = g.dilation_h * row_step;
                whit_gather_i8(to, input.add(first), run, step, g.kernel_h);
            }
        } else {
            // SAFETY: as the caller's.
            unsafe { self.gather_edge(group, image, [h0, w0], to) };
        }
        // SAFETY: behind K bytes, whose end is at most that of the quads.
        unsafe { to.add(g.k()).cast::<u32>().write_unaligned(0) };
    }

    /// Whether all taps of a window with this top left corner are inside the input.
    fn is_inside(&self, h0: isize, w0: isize) -> bool {
        let g = &self.g;
        let span_h = (g.kernel_h - 1) * g.dilation_h;
        let span_w = (g.kernel_w - 1) * g.dilation_w;
        h0 >= 0 && w0 >= 0 && h0 as usize + span_h < g.in_h && w0 as usize + span_w < g.in_w
    }

    /// Copies the patch of a window that reaches into the padding, or whose rows aren't runs.
    ///
    /// # Safety
    ///
    /// `image` is the start of one, the group exists, and `to` is valid for K bytes and [`SLACK`] more.
    #[inline(never)]
    unsafe fn gather_edge(&self, group: usize, image: usize, [h0, w0]: [isize; 2], to: *mut i8) {
        let g = &self.g;
        // Taps of a row that are copied at once, and how many such pieces there are.
        let (taps, pieces) = if self.runs_are_whole { (g.kernel_w, 1) } else { (1, g.kernel_w) };
        let channels = g.group_in_c();
        let mut to = to;
        for kh in 0..g.kernel_h {
            let h = h0 + (kh * g.dilation_h) as isize;
            let row = h as usize * g.in_w;
            for piece in 0..pieces {
                let w = w0 + (piece * g.dilation_w) as isize;
                // The taps between the padding on either side.
                let mut left = (-w).clamp(0, taps as isize) as usize;
                let end = (g.in_w as isize - w).clamp(left as isize, taps as isize) as usize;
                let mut inside = (end - left) * channels;
                if h < 0 || h as usize >= g.in_h || inside == 0 {
                    (left, inside) = (taps, 0);
                }
                // SAFETY: pieces are K bytes. If there are taps inside, the first is in row `h` at column
                // `w + left`, and all of them are in that row.
                unsafe {
                    self.pad(to, left * channels);
                    if inside > 0 {
                        let column = (w + left as isize) as usize;
                        let from = image + (row + column) * g.in_c + group * channels;
                        self.copy(to.add(left * channels), from, inside);
                        self.pad(to.add(left * channels + inside), (taps - end) * channels);
                    }
                    to = to.add(taps * channels);
                }
            }
        }
    }

    /// Copies input from element `from` on.
    ///
    /// # Safety
    ///
    /// The elements exist; `to` is valid for `len` bytes and [`SLACK`] more.
    unsafe fn copy(&self, to: *mut i8, from: usize, len: usize) {
        let input = self.conv.input;
        if from + len + SLACK <= input.len() {
            // SAFETY: the caller's, and there are more bytes behind the source.
            return unsafe { whit_gather_i8(to, input.as_ptr().add(from), len, 0, 1) };
        }
        for i in 0..len {
            // SAFETY: the caller's.
            unsafe { to.add(i).write(input.as_ptr().add(from + i).read()) };
        }
    }

    /// Writes padding.
    ///
    /// # Safety
    ///
    /// `to` is valid for `len` bytes and [`SLACK`] more.
    unsafe fn pad(&self, to: *mut i8, len: usize) {
        let word = u32::from(self.conv.input_zero_point as u8) * 0x0101_0101;
        for i in (0..len).step_by(4) {
            // SAFETY: the caller's.
            unsafe { to.add(i).cast::<u32>().write_unaligned(word) };
        }
    }
}

/// An output pixel.
#[derive(Clone, Copy, Default)]
struct Cursor {
    image: usize,
    oh: usize,
    ow: usize,
}

impl Cursor {
    fn advance(&mut self, g: &ConvGeometry) {
        self.ow += 1;
        if self.ow == g.out_w {
            self.ow = 0;
            self.oh += 1;
            if self.oh == g.out_h {
                self.oh = 0;
                self.image += 1;
            }
        }
    }
}
