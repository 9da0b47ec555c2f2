//! Walks the output of a convolution in strips of pixels whose input patches lie in scratch, in the
//! form that the micro-kernel of an instruction set reads. The patch matrix never exists as a whole.
//!
//! There are four ways to lay out patches:
//!
//! - **in place**: where patches are wanted as the input has them, and none reaches into the padding, they are
//!   read from there. Only for instruction sets that convert nothing.
//! - **rows**: the input rows under one row of output are converted once, with their padding, into a
//!   ring of row buffers. The patch of a pixel is `kernel_h` segments, one in each row; patches
//!   overlap as they do in the input. For most convolutions wider than 1×1.
//! - **rows and patches**: the rows are converted as above, and the patches of up to [`GATHER_PIXELS`] pixels are copied from
//!   there, one after the other. Where a segment would end within a quad: few input channels.
//! - **gather**: the patches of so many pixels are converted from the input, one after the other. For
//!   the rest: 1×1, dilated and grouped kernels, rows too long for the cache.

use super::ConvI8;
use crate::kernels::{ConvGeometry, EpilogueI8, PANEL_K};

/// Activations converted at once; what [`convert_patches`] may write beyond a patch.
pub(super) const BLOCK: usize = 16;

/// Rows are converted as a ring while it takes no more than this: a fraction of the L2 cache.
const RING_BYTES: usize = 64 << 10;

/// Gathered patches share the L1 data cache (32 KiB at least) with the weights.
const GATHER_BYTES: usize = 16 << 10;

/// Most pixels gathered at once, a multiple of every [`Simd::TILE_PIXELS`].
const GATHER_PIXELS: usize = 48;

/// What an instruction set brings to the walk. Activations are converted to elements of
/// [`ELEM_BYTES`](Simd::ELEM_BYTES), and an element of zero bytes must count as zero.
pub(super) trait Simd {
    const ELEM_BYTES: usize;

    /// Most pixels in a tile, all of whose accumulators are in registers.
    const TILE_PIXELS: usize;

    /// Whether elements are the activations themselves.
    const PLAIN: bool;

    /// Converts `len` activations.
    ///
    /// # Safety
    ///
    /// The CPU has the instruction set; `src` is valid for `len` reads and `dst` for
    /// `len * ELEM_BYTES` bytes of writes.
    unsafe fn convert(src: *const i8, dst: *mut u8, len: usize);

    /// Converts [`BLOCK`] activations.
    ///
    /// # Safety
    ///
    /// As [`Self::convert`] with `len = BLOCK`.
    unsafe fn convert_block(src: *const i8, dst: *mut u8);

    /// [`convert_patches`], compiled for the instruction set.
    ///
    /// # Safety
    ///
    /// The CPU has the instruction set; see [`convert_patches`].
    unsafe fn convert_patches(patches: &Patches);

    /// Writes the element of `value` `len` times.
    ///
    /// # Safety
    ///
    /// The CPU has the instruction set; `dst` is valid for `len * ELEM_BYTES` bytes of writes.
    unsafe fn fill(value: i8, dst: *mut u8, len: usize);

    /// Computes every output channel of a group for every pixel of the strip.
    ///
    /// # Safety
    ///
    /// The CPU has the instruction set; `job` is what [`Job::new`] made; its group `group` exists;
    /// the patches of the strip are initialised and complete, and its pixels exist.
    unsafe fn strip(job: &Job<'_>, group: usize, strip: &Strip);
}

/// The checked arguments of a convolution as pointers, see [`ConvI8::check`] for their lengths.
pub(super) struct Job<'a> {
    /// Of two equal ways to see the convolution, the one with the longer rows.
    pub(super) geometry: ConvGeometry,
    pub(super) input: *const i8,
    pub(super) input_zero_point: i8,
    pub(super) weights: *const i8,
    pub(super) bias: *const i32,
    #[cfg(target_arch = "x86_64")]
    pub(super) weight_sums: *const i32,
    pub(super) epilogue: EpilogueI8<'a>,
    pub(super) output: *mut i8,
    pub(super) output_stride: usize,
    scratch: *mut u8,
}

/// Output pixels in a row whose patches are in scratch.
pub(super) struct Strip {
    /// Patch of the first pixel, if it starts in slot 0 of the ring.
    pub(super) patches: *const u8,
    /// Bytes from a patch to the next.
    pub(super) pixel_bytes: usize,
    /// How many pixels, and the index of the first among all output pixels.
    pub(super) pixels: usize,
    pub(super) first_pixel: usize,
    /// Contiguous pieces of a patch, and how many times [`PANEL_K`] elements each has.
    pub(super) segments: usize,
    pub(super) segment_quads: usize,
    /// Segment `i` is in slot `(first_slot + i * slot_step) % slots`, each `slot_bytes` long.
    pub(super) first_slot: usize,
    pub(super) slot_step: usize,
    pub(super) slots: usize,
    pub(super) slot_bytes: usize,
}

impl Strip {
    /// Of `pixels` patches of `patch_len` elements, one behind the other.
    #[inline(always)]
    pub(super) fn of_patches<S: Simd>(
        patches: *const u8,
        patch_len: usize,
        pixels: usize,
        first_pixel: usize,
    ) -> Strip {
        Strip {
            patches,
            pixel_bytes: patch_len * S::ELEM_BYTES,
            pixels,
            first_pixel,
            segments: 1,
            segment_quads: patch_len / PANEL_K,
            first_slot: 0,
            slot_step: 0,
            slots: 1,
            slot_bytes: 0,
        }
    }
}

/// Patches to be copied whose taps are all in the input.
pub(super) struct Patches {
    pub(super) pixels: usize,
    /// Runs in a patch, and activations from one to the next, in the input and in the patch.
    pub(super) runs: usize,
    pub(super) src_run_step: usize,
    pub(super) run_len: usize,
    /// The first run, and activations or bytes to that of the next pixel.
    pub(super) src: *const i8,
    pub(super) src_pixel_step: usize,
    pub(super) dst: *mut u8,
    pub(super) dst_pixel_bytes: usize,
}

impl<'a> Job<'a> {
    fn new(conv: &'a mut ConvI8<'_>, geometry: ConvGeometry) -> Self {
        Job {
            geometry,
            input: conv.input.as_ptr(),
            input_zero_point: conv.input_zero_point,
            weights: conv.weights.as_ptr(),
            bias: conv.bias.as_ptr(),
            #[cfg(target_arch = "x86_64")]
            weight_sums: conv.weight_sums.as_ptr(),
            epilogue: conv.epilogue,
            output: conv.output.as_mut_ptr(),
            output_stride: conv.output_stride,
            scratch: conv.scratch.as_mut_ptr(),
        }
    }
}

/// A column of pixels is the same in memory as a row, and a row makes one strip.
pub(in crate::kernels) fn with_long_rows(geometry: ConvGeometry) -> ConvGeometry {
    let g = geometry;
    if g.in_w != 1 || g.out_w != 1 || g.kernel_w != 1 || g.pad_left != 0 {
        return g;
    }
    ConvGeometry {
        in_h: 1,
        in_w: g.in_h,
        out_h: 1,
        out_w: g.out_h,
        kernel_h: 1,
        kernel_w: g.kernel_h,
        stride_h: 1,
        stride_w: g.stride_h,
        pad_top: 0,
        pad_left: g.pad_top,
        dilation_h: 1,
        dilation_w: g.dilation_h,
        ..g
    }
}

/// How the patches are laid out.
enum Layout {
    /// In the input: strips of `pixels`, within rows of the output.
    InPlace { pixels: usize },
    /// A ring of `slots` rows of `row_len` activations.
    Rows { slots: usize, row_len: usize },
    /// Such a ring and a block, then patches as in `Gather`.
    Copied { slots: usize, row_len: usize, pixels: usize, patch_len: usize },
    /// `pixels` patches of `patch_len` activations, a multiple of [`PANEL_K`], and one block.
    Gather { pixels: usize, patch_len: usize },
}

/// Most rows of a kernel whose patches are copied from converted rows.
const COPIED_ROWS: usize = 8;

impl Layout {
    fn new<S: Simd>(g: &ConvGeometry) -> Self {
        let elem_bytes = S::ELEM_BYTES;
        let slots = g.kernel_h.saturating_sub(1) * g.dilation_h + 1;
        let row_len = (g.out_w.saturating_sub(1) * g.stride_w + g.kernel_w) * g.in_c;
        // A group of four activations must not straddle two rows of the kernel.
        let quads = (g.kernel_w * g.in_c).is_multiple_of(PANEL_K);
        let contiguous = g.groups == 1 && (g.dilation_w == 1 || g.kernel_w == 1);
        let overlapping = g.kernel_h * g.kernel_w > 1 && g.out_w > 2;
        let ring_bytes = slots.saturating_mul(row_len).saturating_mul(elem_bytes);
        let patch_len = g.k().next_multiple_of(PANEL_K);
        let fitting = GATHER_BYTES / (patch_len * elem_bytes).max(1) / S::TILE_PIXELS;
        let pixels = (fitting * S::TILE_PIXELS).clamp(S::TILE_PIXELS, GATHER_PIXELS);
        if S::PLAIN && contiguous && quads && is_inside(g) {
            return Layout::InPlace { pixels };
        }
        let pixels = pixels.min(g.out_pixels());
        if contiguous && overlapping && ring_bytes <= RING_BYTES {
            if quads {
                return Layout::Rows { slots, row_len };
            }
            if g.kernel_h <= COPIED_ROWS {
                return Layout::Copied { slots, row_len, pixels, patch_len };
            }
        }
        Layout::Gather { pixels, patch_len }
    }

    fn bytes(&self, elem_bytes: usize) -> usize {
        match self {
            Layout::InPlace { .. } => 0,
            Layout::Rows { slots, row_len } => slots * row_len * elem_bytes,
            Layout::Copied { slots, row_len, pixels, patch_len } => {
                (slots * row_len + BLOCK + pixels * patch_len + BLOCK) * elem_bytes
            }
            Layout::Gather { pixels, patch_len } => (pixels * patch_len + BLOCK) * elem_bytes,
        }
    }
}

/// Whether no tap of any pixel is in the padding.
fn is_inside(g: &ConvGeometry) -> bool {
    let covers = |size: usize, pixels: usize, stride: usize, kernel: usize, dilation: usize| {
        pixels.saturating_sub(1) * stride + kernel.saturating_sub(1) * dilation < size
    };
    g.pad_top == 0
        && g.pad_left == 0
        && covers(g.in_h, g.out_h, g.stride_h, g.kernel_h, g.dilation_h)
        && covers(g.in_w, g.out_w, g.stride_w, g.kernel_w, g.dilation_w)
}

/// Bytes of scratch that [`run`] needs.
pub(super) fn scratch_bytes<S: Simd>(geometry: &ConvGeometry) -> usize {
    Layout::new::<S>(&with_long_rows(*geometry)).bytes(S::ELEM_BYTES)
}

/// Runs the convolution.
///
/// # Safety
///
/// The CPU has the instruction set of `S`.
#[inline(always)]
pub(super) unsafe fn run<S: Simd>(conv: &mut ConvI8<'_>) {
    conv.check();
    let geometry = with_long_rows(*conv.geometry);
    if geometry.out_pixels() == 0 {
        return;
    }
    let layout = Layout::new::<S>(&geometry);
    assert!(conv.scratch.len() >= layout.bytes(S::ELEM_BYTES), "scratch too short");
    let job = Job::new(conv, geometry);
    match layout {
        // SAFETY: the caller vouches for the CPU; the layout is for elements that are activations,
        // and for geometries without taps in the padding.
        Layout::InPlace { pixels } => unsafe { run_in_place::<S>(&job, pixels) },
        // SAFETY: the caller vouches for the CPU; `check` proved the lengths of all slices, and
        // scratch has this layout.
        Layout::Rows { slots, row_len } => unsafe { run_rows::<S>(&job, slots, row_len) },
        // SAFETY: as above; the kernel has at most `COPIED_ROWS` rows.
        Layout::Copied { slots, row_len, pixels, patch_len } => unsafe {
            run_copied::<S>(&job, [slots, row_len], pixels, patch_len);
        },
        // SAFETY: as above.
        Layout::Gather { pixels, patch_len } => unsafe {
            run_gather::<S>(&job, pixels, patch_len);
        },
    }
}

/// # Safety
///
/// As [`run`]; elements are the activations, no tap is in the padding, and the taps of a row of the kernel are
/// one piece of the input, of whole quads.
#[inline(always)]
unsafe fn run_in_place<S: Simd>(job: &Job<'_>, pixels: usize) {
    let g = &job.geometry;
    // Rows of the matrix product don't end where those of the image do.
    let (rows, row_pixels) = match g.is_pointwise() {
        true => (1, g.out_pixels()),
        false => (g.batch * g.out_h, g.out_w),
    };
    for row in 0..rows {
        let in_row = row / g.out_h * g.in_h + row % g.out_h * g.stride_h;
        for start in (0..row_pixels).step_by(pixels) {
            let column = in_row * g.in_w + start * g.stride_w;
            let strip = Strip {
                // SAFETY: the first tap of pixel `start` of this row is in the input.
                patches: unsafe { job.input.add(column * g.in_c).cast() },
                pixel_bytes: g.stride_w * g.in_c,
                pixels: pixels.min(row_pixels - start),
                first_pixel: row * row_pixels + start,
                segments: g.kernel_h,
                segment_quads: g.kernel_w * g.in_c / PANEL_K,
                first_slot: 0,
                slot_step: g.dilation_h,
                // No ring: the slots are the rows of the input.
                slots: usize::MAX,
                slot_bytes: g.in_w * g.in_c,
            };
            // SAFETY: the patches are in the input, a segment for each row of the kernel.
            unsafe { S::strip(job, 0, &strip) };
        }
    }
}

/// # Safety
///
/// As [`run`]; scratch holds `slots * row_len` elements.
#[inline(always)]
unsafe fn run_rows<S: Simd>(job: &Job<'_>, slots: usize, row_len: usize) {
    let g = &job.geometry;
    let slot_bytes = row_len * S::ELEM_BYTES;
    for image in 0..g.batch {
        // Rows of the padded input below this one have been converted.
        let mut converted = 0;
        for oh in 0..g.out_h {
            let first = oh * g.stride_h;
            let rows = converted.max(first)..first + slots;
            // SAFETY: scratch holds the ring; `image` exists.
            unsafe { convert_rows::<S>(job, image, rows, [slots, row_len]) };
            converted = first + slots;
            let strip = Strip {
                patches: job.scratch,
                pixel_bytes: g.stride_w * g.in_c * S::ELEM_BYTES,
                pixels: g.out_w,
                first_pixel: (image * g.out_h + oh) * g.out_w,
                segments: g.kernel_h,
                segment_quads: g.kernel_w * g.in_c / PANEL_K,
                first_slot: first % slots,
                slot_step: g.dilation_h,
                slots,
                slot_bytes,
            };
            // SAFETY: rows `first..first + slots` of the padded input are in the ring, each from
            // column 0 to the last tap of the last pixel; the strip is row `oh` of the output.
            unsafe { S::strip(job, 0, &strip) };
        }
    }
}

/// # Safety
///
/// As [`run`]; scratch holds `ring[0]` rows of `ring[1]` elements, a block, `pixels` patches of `patch_len` elements, K rounded up
/// to quads, and a block. The kernel has at most [`COPIED_ROWS`] rows, each one piece of a row of the ring.
#[inline(always)]
unsafe fn run_copied<S: Simd>(job: &Job<'_>, ring: [usize; 2], pixels: usize, patch_len: usize) {
    let g = &job.geometry;
    let [slots, row_len] = ring;
    let (slot_bytes, patch_bytes) = (row_len * S::ELEM_BYTES, patch_len * S::ELEM_BYTES);
    let pixel_bytes = g.stride_w * g.in_c * S::ELEM_BYTES;
    // SAFETY: behind the ring and a block.
    let patches = unsafe { job.scratch.add((slots * row_len + BLOCK) * S::ELEM_BYTES) };
    let strip = |end: usize, pixels: usize| {
        let strip = Strip::of_patches::<S>(patches, patch_len, pixels, end - pixels);
        // SAFETY: the patches of these pixels were just written, one segment each.
        unsafe { S::strip(job, 0, &strip) };
    };
    let run_len = g.kernel_w * g.in_c;
    let (mut copied, mut end) = (0, 0);
    for image in 0..g.batch {
        let mut converted = 0;
        for oh in 0..g.out_h {
            let first = oh * g.stride_h;
            // SAFETY: as in `run_rows`.
            unsafe { convert_rows::<S>(job, image, converted.max(first)..first + slots, ring) };
            converted = first + slots;
            let mut rows = [job.scratch.cast_const(); COPIED_ROWS];
            for (kh, row) in rows.iter_mut().enumerate().take(g.kernel_h) {
                *row = row.wrapping_add((first + kh * g.dilation_h) % slots * slot_bytes);
            }
            let mut ow = 0;
            while ow < g.out_w {
                let count = (pixels - copied).min(g.out_w - ow);
                // SAFETY: the rows of the kernel are in the ring, from the first tap of pixel 0 to the last of pixel
                // `out_w - 1`, and a block may be read behind each; there is room for `pixels` patches and a block.
                unsafe {
                    let dst = patches.add(copied * patch_bytes);
                    let (starts, steps) = (ow * pixel_bytes, [pixel_bytes, patch_bytes]);
                    let rows = &rows[..g.kernel_h];
                    if run_len <= BLOCK {
                        copy_patches::<S, true>(rows, starts, run_len, dst, steps, count);
                    } else {
                        copy_patches::<S, false>(rows, starts, run_len, dst, steps, count);
                    }
                }
                (copied, ow, end) = (copied + count, ow + count, end + count);
                if copied == pixels {
                    strip(end, copied);
                    copied = 0;
                }
            }
        }
    }
    if copied > 0 {
        strip(end, copied);
    }
}

/// Copies patches, `steps` bytes from one to the next in the rows and in `dst`. A patch's runs of `run_len` elements, of which the first
/// starts at byte `at` of each of the rows, are copied by whole blocks, each overwriting what the last one left over, and it is padded to
/// whole quads with zeros. With `ONE_BLOCK`, no run is longer than a block.
///
/// A function of its own, since the pointers should all be in registers.
///
/// # Safety
///
/// From the patch's start on, each row is valid for the run, rounded up to whole blocks; no run is empty. `dst` is valid for the
/// patches and a block behind them, and is other memory.
#[inline(never)]
unsafe fn copy_patches<S: Simd, const ONE_BLOCK: bool>(
    rows: &[*const u8],
    mut at: usize,
    run_len: usize,
    mut dst: *mut u8,
    steps: [usize; 2],
    count: usize,
) {
    for _ in 0..count {
        let mut to = dst;
        for row in rows {
            let mut i = 0;
            loop {
                // SAFETY: as the caller's. Blocks of 16 elements of one or two bytes.
                unsafe {
                    let from = row.add(at + i * S::ELEM_BYTES);
                    let to = to.add(i * S::ELEM_BYTES);
                    core::ptr::copy_nonoverlapping(from, to, BLOCK * S::ELEM_BYTES);
                }
                i += BLOCK;
                if ONE_BLOCK || i >= run_len {
                    break;
                }
            }
            to = to.wrapping_add(run_len * S::ELEM_BYTES);
        }
        // SAFETY: as the caller's.
        unsafe { pad_quad::<S>(rows.len() * run_len, dst) };
        at += steps[0];
        dst = dst.wrapping_add(steps[1]);
    }
}

/// Converts rows of the padded input into their slots of the ring, which has `ring[0]` of `ring[1]` elements.
///
/// # Safety
///
/// As [`run`]; scratch holds the ring, and the image exists.
#[inline(always)]
unsafe fn convert_rows<S: Simd>(
    job: &Job<'_>,
    image: usize,
    rows: core::ops::Range<usize>,
    ring: [usize; 2],
) {
    let [slots, row_len] = ring;
    for row in rows {
        // SAFETY: `row % slots` is a slot of scratch; `image` exists.
        unsafe {
            let slot = job.scratch.add(row % slots * row_len * S::ELEM_BYTES);
            convert_row::<S>(job, image, row, row_len, slot);
        }
    }
}

/// Converts one row of the padded input: `row_len` activations from its left edge on.
///
/// # Safety
///
/// As [`run`]; `dst` is valid for `row_len` elements and `image` exists.
#[inline(always)]
unsafe fn convert_row<S: Simd>(
    job: &Job<'_>,
    image: usize,
    row: usize,
    row_len: usize,
    dst: *mut u8,
) {
    let g = &job.geometry;
    let (left, inside) = match row.checked_sub(g.pad_top) {
        Some(h) if h < g.in_h => {
            let left = (g.pad_left * g.in_c).min(row_len);
            let inside = (g.in_w * g.in_c).min(row_len - left);
            // SAFETY: row `h` of the image exists, and `inside` is no more than its length;
            // `left + inside <= row_len`.
            unsafe {
                let src = job.input.add((image * g.in_h + h) * g.in_w * g.in_c);
                S::convert(src, dst.add(left * S::ELEM_BYTES), inside);
            }
            (left, inside)
        }
        _ => (row_len, 0),
    };
    // SAFETY: `left + inside <= row_len`, what `dst` is valid for.
    unsafe {
        S::fill(job.input_zero_point, dst, left);
        let right = dst.add((left + inside) * S::ELEM_BYTES);
        S::fill(job.input_zero_point, right, row_len - left - inside);
    }
}

/// # Safety
///
/// As [`run`]; scratch holds `pixels * patch_len + BLOCK` elements, `patch_len` being K rounded up.
#[inline(always)]
unsafe fn run_gather<S: Simd>(job: &Job<'_>, pixels: usize, patch_len: usize) {
    let g = &job.geometry;
    let (total, k) = (g.out_pixels(), g.k());
    let patch_bytes = patch_len * S::ELEM_BYTES;
    for group in 0..g.groups {
        let mut cursor = Cursor::default();
        for first_pixel in (0..total).step_by(pixels) {
            let pixels = pixels.min(total - first_pixel);
            if g.is_pointwise() && patch_len == k {
                // SAFETY: the patches are rows `first_pixel..` of the input, as long as K.
                unsafe { S::convert(job.input.add(first_pixel * k), job.scratch, pixels * k) };
            } else {
                let mut i = 0;
                while i < pixels {
                    let inside = inside_run::<S>(job, &cursor).min(pixels - i);
                    // SAFETY: the cursor is at pixel `first_pixel + i`, `inside` pixels from there
                    // on are a run; the patches are followed by another one, not yet written, or by
                    // the extra block.
                    unsafe {
                        let dst = job.scratch.add(i * patch_bytes);
                        if inside > 0 {
                            S::convert_patches(&Patches {
                                pixels: inside,
                                runs: g.kernel_h,
                                src_run_step: g.dilation_h * g.in_w * g.in_c,
                                run_len: g.kernel_w * g.in_c,
                                src: job.input.add(first_tap(g, &cursor)),
                                src_pixel_step: g.stride_w * g.in_c,
                                dst,
                                dst_pixel_bytes: patch_bytes,
                            });
                        } else {
                            gather::<S>(job, group, &cursor, dst);
                        }
                    }
                    cursor.advance(g, inside.max(1));
                    i += inside.max(1);
                }
            }
            let strip = Strip::of_patches::<S>(job.scratch, patch_len, pixels, first_pixel);
            // SAFETY: the patches of these pixels were just written, one segment each.
            unsafe { S::strip(job, group, &strip) };
        }
    }
}

/// An output pixel.
#[derive(Default)]
struct Cursor {
    image: usize,
    oh: usize,
    ow: usize,
}

impl Cursor {
    /// Moves on by `pixels` of the same row, or to the start of the next.
    #[inline(always)]
    fn advance(&mut self, g: &ConvGeometry, pixels: usize) {
        self.ow += pixels;
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

/// How many pixels from this one on, in its row, have all their taps inside the input, in one
/// contiguous run for each row of the kernel, such that whole blocks can be read from there.
#[inline(always)]
fn inside_run<S: Simd>(job: &Job<'_>, pixel: &Cursor) -> usize {
    let g = &job.geometry;
    let contiguous = g.groups == 1 && (g.dilation_w == 1 || g.kernel_w == 1);
    let run = g.kernel_w * g.in_c;
    if !contiguous || run == 0 || g.kernel_h == 0 {
        return 0;
    }
    let span_h = (g.kernel_h - 1) * g.dilation_h;
    // In coordinates of the padded input.
    let (h, w) = (pixel.oh * g.stride_h, pixel.ow * g.stride_w);
    let inside_h = h >= g.pad_top && h - g.pad_top + span_h < g.in_h;
    let inside_w = w >= g.pad_left && w - g.pad_left + g.kernel_w <= g.in_w;
    if !inside_h || !inside_w {
        return 0;
    }
    // From the start of the last kernel row's run, to the end of the input.
    let last_row = (pixel.image * g.in_h + h - g.pad_top + span_h) * g.in_w;
    let left = g.input_len() - (last_row + w - g.pad_left) * g.in_c;
    let Some(slack) = left.checked_sub(run.next_multiple_of(BLOCK)) else {
        return 0;
    };
    let step = g.stride_w.max(1);
    let columns = (g.in_w - (w - g.pad_left) - g.kernel_w) / step + 1;
    (slack / (step * g.in_c) + 1).min(columns).min(g.out_w - pixel.ow)
}

/// Offset in the input of the first tap of a pixel whose taps are all inside.
fn first_tap(g: &ConvGeometry, pixel: &Cursor) -> usize {
    let row = pixel.image * g.in_h + pixel.oh * g.stride_h - g.pad_top;
    (row * g.in_w + pixel.ow * g.stride_w - g.pad_left) * g.in_c
}

/// Copies patches by whole blocks, each overwriting what the last one left over, and pads them to
/// whole quads with zeros.
///
/// # Safety
///
/// The CPU has the instruction set. No run is empty; each, rounded up to whole blocks, is in the input. `dst` is
/// valid for that many patches, and [`BLOCK`] more elements, whose content doesn't matter.
#[inline(always)]
pub(super) unsafe fn convert_patches<S: Simd>(patches: &Patches) {
    let Patches { pixels, runs, src_run_step, run_len, .. } = *patches;
    let Patches { src_pixel_step, dst_pixel_bytes, .. } = *patches;
    let (mut src, mut dst) = (patches.src, patches.dst);
    for _ in 0..pixels {
        let (mut src_run, mut dst_run) = (src, dst);
        for _ in 0..runs {
            // SAFETY: as the caller's: a run has a block.
            unsafe { S::convert_block(src_run, dst_run) };
            let mut i = BLOCK;
            while i < run_len {
                // SAFETY: as the caller's.
                unsafe { S::convert_block(src_run.add(i), dst_run.add(i * S::ELEM_BYTES)) };
                i += BLOCK;
            }
            src_run = src_run.wrapping_add(src_run_step);
            dst_run = dst_run.wrapping_add(run_len * S::ELEM_BYTES);
        }
        // SAFETY: as the caller's.
        unsafe { pad_quad::<S>(runs * run_len, dst) };
        src = src.wrapping_add(src_pixel_step);
        dst = dst.wrapping_add(dst_pixel_bytes);
    }
}

/// Copies the patch of one pixel and pads it to whole quads with zeros.
///
/// # Safety
///
/// As [`run`]; the pixel and the group exist; `dst` is valid for K, rounded up to [`PANEL_K`], and
/// [`BLOCK`] more elements, whose content doesn't matter.
#[inline(always)]
unsafe fn gather<S: Simd>(job: &Job<'_>, group: usize, pixel: &Cursor, dst: *mut u8) {
    let g = &job.geometry;
    let group_c = g.group_in_c();
    let run = g.kernel_w * group_c;
    let row_stride = g.in_w * g.in_c;
    // Top left tap, in coordinates of the input: negative in the padding. Sizes are below 2⁴⁰.
    let h0 = (pixel.oh * g.stride_h) as isize - g.pad_top as isize;
    let w0 = (pixel.ow * g.stride_w) as isize - g.pad_left as isize;
    let contiguous = g.groups == 1 && (g.dilation_w == 1 || g.kernel_w == 1);

    let mut dst_run = dst;
    for kh in 0..g.kernel_h {
        let h = h0 + (kh * g.dilation_h) as isize;
        // SAFETY: `kernel_h` runs fill K elements of `dst`. Every source run is checked to be
        // inside row `h` of the image, and the channels of the group inside the pixel.
        unsafe {
            if h < 0 || h as usize >= g.in_h {
                S::fill(job.input_zero_point, dst_run, run);
            } else {
                let row = job.input.add((pixel.image * g.in_h + h as usize) * row_stride);
                if contiguous {
                    let left = (-w0).clamp(0, g.kernel_w as isize) as usize;
                    let end = (g.in_w as isize - w0).clamp(left as isize, g.kernel_w as isize);
                    let end = end as usize;
                    S::fill(job.input_zero_point, dst_run, left * group_c);
                    if end > left {
                        let src = row.add((w0 + left as isize) as usize * g.in_c);
                        let dst = dst_run.add(left * group_c * S::ELEM_BYTES);
                        S::convert(src, dst, (end - left) * group_c);
                    }
                    let dst = dst_run.add(end * group_c * S::ELEM_BYTES);
                    S::fill(job.input_zero_point, dst, (g.kernel_w - end) * group_c);
                } else {
                    for kw in 0..g.kernel_w {
                        let w = w0 + (kw * g.dilation_w) as isize;
                        let dst = dst_run.add(kw * group_c * S::ELEM_BYTES);
                        if w < 0 || w as usize >= g.in_w {
                            S::fill(job.input_zero_point, dst, group_c);
                        } else {
                            let src = row.add(w as usize * g.in_c + group * group_c);
                            S::convert(src, dst, group_c);
                        }
                    }
                }
            }
            dst_run = dst_run.add(run * S::ELEM_BYTES);
        }
    }
    // SAFETY: writes at K, no more than `BLOCK` elements.
    unsafe { pad_quad::<S>(g.k(), dst) };
}

/// Ends a patch of `k` elements with zeros up to a whole quad.
///
/// # Safety
///
/// `dst` is valid for `k` and [`BLOCK`] more elements.
#[inline(always)]
unsafe fn pad_quad<S: Simd>(k: usize, dst: *mut u8) {
    const { assert!(BLOCK * S::ELEM_BYTES >= 8 && (PANEL_K - 1) * S::ELEM_BYTES <= 8) };
    if !k.is_multiple_of(PANEL_K) {
        // SAFETY: eight bytes are no more than a block, and no less than the rest of a quad.
        unsafe { dst.add(k * S::ELEM_BYTES).cast::<u64>().write_unaligned(0) };
    }
}

/// Pixels of the next tile when `left` remain: [`Simd::TILE_PIXELS`], but the last two share evenly,
/// because a tile of one or two pixels reads as many weights as a full one.
#[inline(always)]
pub(super) fn next_tile<S: Simd>(left: usize) -> usize {
    if left <= S::TILE_PIXELS {
        left
    } else if left < 2 * S::TILE_PIXELS {
        left.div_ceil(2)
    } else {
        S::TILE_PIXELS
    }
}
