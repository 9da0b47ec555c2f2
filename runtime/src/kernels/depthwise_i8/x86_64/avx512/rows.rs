//! Cuts a depthwise convolution into strips of an output row, and brings the input rows under a strip
//! into scratch, converted and with their padding, so that a vector of outputs reads a vector per tap.

use core::arch::x86_64::*;

use super::{
    REGISTERS, VECTOR, constants_bytes, convert_avx512, fill_avx512, finish, finish_sum,
    interleave, load_registers, part_avx512, write_constants,
};
use crate::kernels::ConvGeometry;
use crate::kernels::conv_i8::with_long_rows;
use crate::kernels::depthwise_i8::walk::Job;
use crate::kernels::requantize::x86_64::RequantizeAvx512;

/// The rows under a strip share the L1 data cache (32 KiB at least) with the weights and the output.
const ROWS_BYTES: usize = 20 << 10;

/// Most vectors whose constants are all different.
const MAX_VECTORS: usize = 8;

/// How the work is cut, and where things are in scratch: the constants, the taps' pointers, a row
/// before its columns are parted, and the rows.
pub(super) struct Rows {
    /// A column of pixels is a row, whose pixels are as far apart as they can be.
    geometry: ConvGeometry,
    taps: usize,
    /// Outputs after which vectors start with the same channel again: those of one pixel, or of a few.
    unit: usize,
    /// Vectors of a unit, each with constants of its own.
    vectors: usize,
    /// Bytes of a row in scratch from a unit to the next.
    input_step: usize,
    /// Pixels of a strip, except the last of a row.
    strip: usize,
    /// Columns are parted by their remainder by this: one, or the stride.
    phases: usize,
    phase_bytes: usize,
    slot_bytes: usize,
    pointers: usize,
    unparted: usize,
    rows: usize,
    pub(super) bytes: usize,
}

/// Some pixels of an output row.
struct Strip {
    /// For each tap, where the row that it reads has the first pixel's column.
    taps: *const *const u8,
    /// Outputs of all pixels.
    len: usize,
    output: *mut i8,
    /// From a unit of outputs to the next.
    output_step: usize,
    /// Same place in the residual, which is dense, or null.
    residual: *const i8,
}

impl Rows {
    /// `contiguous`: whether output pixels are.
    pub(super) fn new(geometry: &ConvGeometry, contiguous: bool) -> Self {
        let mut g = with_long_rows(*geometry);
        if g.out_w == 1 {
            g.stride_w = 1;
        }
        let channels = g.in_c;
        let taps = g.kernel_h * g.kernel_w;
        // As many pixels as end with a vector: vectors are a power of two.
        let pixels = VECTOR >> channels.trailing_zeros().min(VECTOR.trailing_zeros());
        let several = contiguous
            && pixels > 1
            && pixels * channels <= MAX_VECTORS * VECTOR
            && (pixels * channels == VECTOR || pixels <= g.out_w);
        let unit = if several { pixels * channels } else { channels };
        let phases = if several { g.stride_w } else { 1 };
        let vectors = unit.div_ceil(VECTOR);

        let span = g.kernel_w.saturating_sub(1) * g.dilation_w + 1;
        let mut strip = g.out_w;
        let (columns, phase_bytes) = loop {
            let columns = strip.saturating_sub(1) * g.stride_w + span;
            // A vector may start with the last byte, and writes end with a vector.
            let bytes = (columns.div_ceil(phases) * channels).next_multiple_of(VECTOR) + VECTOR;
            if strip <= 1 || (bytes * phases).saturating_mul(g.kernel_h) <= ROWS_BYTES {
                break (columns, bytes);
            }
            strip = strip.div_ceil(2);
        };
        let slot_bytes = phases * phase_bytes;
        let pointers = vectors * constants_bytes(taps.div_ceil(4));
        let unparted = pointers + (taps * size_of::<*const u8>()).next_multiple_of(VECTOR);
        // A vector for the last column may start with its last byte.
        let unparted_bytes = if phases == 1 { 0 } else { columns * channels + 2 * VECTOR };
        let rows = unparted + unparted_bytes.next_multiple_of(VECTOR);
        Rows {
            geometry: g,
            taps,
            unit,
            vectors,
            input_step: if several { unit } else { g.stride_w * channels },
            strip,
            phases,
            phase_bytes,
            slot_bytes,
            pointers,
            unparted,
            rows,
            // Scratch is never as long as a number that overflows.
            bytes: rows.saturating_add(g.kernel_h.saturating_mul(slot_bytes)),
        }
    }

    /// # Safety
    ///
    /// The lengths of `job` are checked; this is its plan, with as much scratch as it says; the job
    /// has outputs.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) unsafe fn run(&self, job: &Job<'_>, requantize: &RequantizeAvx512) {
        let taps = self.taps;
        for vector in 0..self.vectors {
            // SAFETY: the plan reserves constants for every vector.
            unsafe {
                write_constants(job, vector, taps.div_ceil(4), |quad, i| {
                    Some(4 * quad + i).filter(|tap| *tap < taps)
                });
            }
        }
        let strip = if taps == 9 { strip_avx512vnni::<9> } else { strip_avx512vnni::<0> };
        // SAFETY: as the caller's.
        unsafe { self.for_each_strip(job, |args| strip(job, self, requantize, args)) };
    }

    /// Outputs of a vector that are of its unit.
    fn outputs_at(&self, vector: usize) -> usize {
        (self.unit - vector * VECTOR).min(VECTOR)
    }

    /// Calls `compute` for every strip, after writing the rows that it reads and its taps' pointers.
    ///
    /// # Safety
    ///
    /// The CPU has AVX-512, and the plan is that of `job`, whose lengths are checked; scratch has as
    /// many bytes as the plan says.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    unsafe fn for_each_strip(&self, job: &Job<'_>, mut compute: impl FnMut(&Strip)) {
        let g = &self.geometry;
        let residual = match &job.epilogue.residual {
            Some(r) => r.data.rows(g.out_c, job.output, job.output_stride).0,
            None => core::ptr::null(),
        };
        // SAFETY: the plan reserves all three.
        let (pointers, rows) = unsafe {
            (job.scratch.add(self.pointers).cast::<*const u8>(), job.scratch.add(self.rows))
        };
        for image in 0..g.batch {
            for column in (0..g.out_w).step_by(self.strip) {
                let pixels = self.strip.min(g.out_w - column);
                // Rows of the padded input below this one have been converted; the first row of the
                // kernel reads slot `first_slot`.
                let (mut converted, mut first_slot) = (0, 0);
                for oh in 0..g.out_h {
                    for kh in 0..g.kernel_h {
                        let mut slot = first_slot + kh;
                        if slot >= g.kernel_h {
                            slot -= g.kernel_h;
                        }
                        let row = oh * g.stride_h + kh * g.dilation_h;
                        // SAFETY: there is a slot for each row of the kernel, with all columns of the
                        // strip; a pointer for each tap.
                        unsafe {
                            let slot = rows.add(slot * self.slot_bytes);
                            if row >= converted {
                                self.write_row(job, image, row, column, pixels, slot);
                            }
                            for kw in 0..g.kernel_w {
                                let at = kw * g.dilation_w;
                                let (phase, at) = match self.phases {
                                    1 => (0, at),
                                    phases => (at % phases, at / phases),
                                };
                                let tap = slot.add(phase * self.phase_bytes + at * g.in_c);
                                pointers.add(kh * g.kernel_w + kw).write_unaligned(tap);
                            }
                        }
                    }
                    // Rows of a dilated kernel lie between those of the next.
                    if g.dilation_h == 1 {
                        converted = oh * g.stride_h + g.kernel_h;
                        first_slot = (first_slot + g.stride_h) % g.kernel_h.max(1);
                    }
                    let pixel = (image * g.out_h + oh) * g.out_w + column;
                    let several = self.unit != g.in_c;
                    compute(&Strip {
                        taps: pointers,
                        len: pixels * g.in_c,
                        // SAFETY: the pixel exists.
                        output: unsafe { job.output.add(pixel * job.output_stride) },
                        output_step: if several { self.unit } else { job.output_stride },
                        residual: match residual.is_null() {
                            true => residual,
                            // SAFETY: the residual has all pixels.
                            false => unsafe { residual.add(pixel * g.in_c) },
                        },
                    });
                }
            }
        }
    }

    /// Converts row `row` of the padded input, the columns under `pixels` from output column `column` on.
    ///
    /// # Safety
    ///
    /// As [`Self::for_each_strip`]; the image, the row and the pixels exist, and `slot` is one of the
    /// plan's.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    unsafe fn write_row(
        &self,
        job: &Job<'_>,
        image: usize,
        row: usize,
        column: usize,
        pixels: usize,
        slot: *mut u8,
    ) {
        let g = &self.geometry;
        let columns = (pixels - 1) * g.stride_w + g.kernel_w.saturating_sub(1) * g.dilation_w + 1;
        let first = column * g.stride_w;
        let (left, inside) = match row.checked_sub(g.pad_top) {
            Some(h) if h < g.in_h => {
                let left = g.pad_left.saturating_sub(first).min(columns);
                let right = (g.pad_left + g.in_w).saturating_sub(first).min(columns);
                (left, right.saturating_sub(left))
            }
            _ => (columns, 0),
        };
        // SAFETY: the columns `first + left..` of the padded input, `inside` of them, are in row
        // `row - pad_top` of the input. All pieces together are the columns, for which there is
        // space; what is written behind a piece comes before the next.
        unsafe {
            let dst = if self.phases == 1 { slot } else { job.scratch.add(self.unparted) };
            fill_avx512(job.input_zero_point, dst, left * g.in_c);
            if inside > 0 {
                let h = image * g.in_h + row - g.pad_top;
                let w = first + left - g.pad_left;
                let src = job.input.add((h * g.in_w + w) * g.in_c);
                convert_avx512(src, dst.add(left * g.in_c), inside * g.in_c);
            }
            let right = columns - left - inside;
            let dst_right = dst.add((left + inside) * g.in_c);
            fill_avx512(job.input_zero_point, dst_right, right * g.in_c);
            if self.phases > 1 {
                part_avx512(dst, columns, g.in_c, slot, self.phases, self.phase_bytes);
            }
        }
    }
}

/// Any kernel, in quads of taps. `TAPS` is how many there are, or 0.
///
/// # Safety
///
/// As [`Rows::for_each_strip`] calls it, after the constants have been written.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn strip_avx512vnni<const TAPS: usize>(
    job: &Job<'_>,
    plan: &Rows,
    requantize: &RequantizeAvx512,
    strip: &Strip,
) {
    let taps = if TAPS == 0 { plan.taps } else { TAPS };
    let quads = taps.div_ceil(4);
    for vector in 0..plan.vectors {
        let mut at = vector * VECTOR;
        // SAFETY: the plan has these constants.
        let constants = unsafe { job.scratch.add(vector * constants_bytes(quads)) };
        let mut input = at;
        let mut output = strip.output.wrapping_add(at);
        let mut residual = strip.residual.wrapping_add(at);
        while at < strip.len {
            let len = plan.outputs_at(vector).min(strip.len - at);
            // SAFETY: taps of the plan are valid for a vector behind `input`, as long as the strip
            // has `at`; there are as many constants as quads. Output and residual have `len` here.
            unsafe {
                let mut acc = load_registers(constants);
                for quad in 0..quads {
                    let mut rows = [_mm512_setzero_si512(); 4];
                    for i in 0..4 {
                        // The partners of an odd last tap have weight zero.
                        let tap = if quad * 4 + i < taps { quad * 4 + i } else { quad * 4 };
                        let row = strip.taps.add(tap).read_unaligned();
                        rows[i] = _mm512_loadu_si512(row.add(input).cast());
                    }
                    let x = interleave(rows);
                    let weights = load_registers(constants.add((2 + quad) * REGISTERS));
                    for i in 0..4 {
                        acc[i] = _mm512_dpbusd_epi32(acc[i], x[i], weights[i]);
                    }
                }
                let scale = constants.add(REGISTERS);
                if strip.residual.is_null() {
                    finish(acc, scale, requantize, output, len);
                } else {
                    finish_sum(acc, scale, requantize, residual, output, len);
                }
            }
            at += plan.unit;
            input += plan.input_step;
            output = output.wrapping_add(strip.output_step);
            residual = residual.wrapping_add(plan.unit);
        }
    }
}
