//! The i8 convolution in AVX2 and in AVX-512 with VNNI.
//!
//! AVX2 widens both operands to i16 and multiplies pairs with `pmaddwd`, which is exact for all
//! i8. AVX-512 has `vpdpbusd`, which wants unsigned activations: it gets `x + 128`, and starts
//! from `bias − 128 · Σ weights`.

use core::arch::asm;

use super::ConvI8;
use super::implicit_gemm::{self, Job, Strip};
use crate::kernels::{ConvGeometry, PANEL_K, PANEL_N, Packing};

mod avx2;
mod avx512;

use avx2::Avx2;
use avx512::Avx512;

/// Bytes of a quad of inputs for one panel.
const PANEL_ROW: usize = PANEL_N * PANEL_K;

pub(super) fn scratch_bytes_avx2(geometry: &ConvGeometry) -> usize {
    implicit_gemm::scratch_bytes::<Avx2>(geometry)
}

pub(super) fn scratch_bytes_avx512(geometry: &ConvGeometry) -> usize {
    implicit_gemm::scratch_bytes::<Avx512>(geometry)
}

/// Only for CPUs with AVX2: `select` hands it out after asking.
pub(super) fn conv_i8_avx2(conv: &mut ConvI8<'_>) {
    #[target_feature(enable = "avx2")]
    fn run(conv: &mut ConvI8<'_>) {
        // SAFETY: this function has the feature.
        unsafe { implicit_gemm::run::<Avx2>(conv) }
    }
    if conv.packing != Packing::Panels {
        return super::scalar::conv_i8_scalar(conv);
    }
    // SAFETY: `select` gives this function out only if `Isa::Avx2.is_available()`.
    unsafe { run(conv) }
}

/// Only for CPUs with AVX-512 and VNNI: `select` hands it out after asking.
pub(super) fn conv_i8_avx512vnni(conv: &mut ConvI8<'_>) {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn run(conv: &mut ConvI8<'_>) {
        // SAFETY: this function has the features.
        unsafe { implicit_gemm::run::<Avx512>(conv) }
    }
    if conv.weight_sums.is_empty() || conv.packing != Packing::Panels {
        // `Isa::Avx512` includes `Isa::Avx2`.
        return conv_i8_avx2(conv);
    }
    // SAFETY: `select` gives this function out only if `Isa::Avx512.is_available()`.
    unsafe { run(conv) }
}

/// A few pixels by a few output channels, whose accumulators are in registers.
struct Tile<'a> {
    strip: &'a Strip,
    /// Patch of the first pixel, if it starts in slot 0.
    patches: *const u8,
    /// First panel row, or half of one.
    weights: *const i8,
    /// Bytes from a panel to the next.
    panel_bytes: usize,
    /// Per-channel arrays, from the first channel on.
    bias: *const i32,
    weight_sums: *const i32,
    scale: *const f32,
    /// Channels to write; those beyond are padding.
    channels: usize,
    output: *mut i8,
    output_stride: usize,
    /// Same place in the residual, or null. It may be the same as `output`: a tile reads what it
    /// overwrites first, and no other tile writes there.
    residual: *const i8,
    residual_stride: usize,
}

impl<'a> Tile<'a> {
    /// # Safety
    ///
    /// As [`Simd::strip`]; the strip has a pixel, and `channel` is one of the group.
    #[inline(always)]
    unsafe fn first(job: &Job<'_>, group: usize, strip: &'a Strip, channel: usize) -> Self {
        let g = &job.geometry;
        let panel_bytes = g.k().next_multiple_of(PANEL_K) * PANEL_N;
        let padded_channel = group * g.padded_group_out_c() + channel;
        let row = strip.first_pixel;
        let column = group * g.group_out_c() + channel;
        let (residual, residual_stride) = match &job.epilogue.residual {
            Some(r) => r.data.rows(g.out_c, job.output, job.output_stride),
            None => (core::ptr::null(), 0),
        };
        // SAFETY: all are elements of their slices by `ConvI8::check`: the pixel and the channel
        // exist, and so do the padded channels of the group.
        unsafe {
            Tile {
                strip,
                patches: strip.patches,
                weights: job.weights.add(
                    padded_channel / PANEL_N * panel_bytes + padded_channel % PANEL_N * PANEL_K,
                ),
                panel_bytes,
                bias: job.bias.add(padded_channel),
                weight_sums: job.weight_sums.wrapping_add(padded_channel),
                scale: job.epilogue.scale.as_ptr().add(padded_channel),
                channels: g.group_out_c() - channel,
                output: job.output.add(row * job.output_stride + column),
                output_stride: job.output_stride,
                residual: match residual.is_null() {
                    true => residual,
                    false => residual.add(row * residual_stride + column),
                },
                residual_stride,
            }
        }
    }

    /// Moves on by `pixels`; the tile may come to the end of the strip, and is of no use then.
    #[inline(always)]
    fn advance(&mut self, pixels: usize) {
        self.patches = self.patches.wrapping_add(pixels * self.strip.pixel_bytes);
        self.output = self.output.wrapping_add(pixels * self.output_stride);
        if !self.residual.is_null() {
            self.residual = self.residual.wrapping_add(pixels * self.residual_stride);
        }
    }
}

/// Where in a patch its segments start, relative to slot 0.
struct Segments {
    left: usize,
    slot: usize,
    slots: usize,
    slot_step: usize,
    slot_bytes: usize,
}

impl Segments {
    #[inline(always)]
    fn new(strip: &Strip) -> Self {
        let Strip { segments, first_slot, slots, slot_step, slot_bytes, .. } = *strip;
        Segments { left: segments, slot: first_slot, slots, slot_step, slot_bytes }
    }
}

impl Iterator for Segments {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let start = self.slot * self.slot_bytes;
        self.slot += self.slot_step;
        if self.slot >= self.slots {
            self.slot -= self.slots;
        }
        Some(start)
    }
}

/// The patches of a tile. The compiler may not know that they are a constant distance apart: it
/// would go from one to the next by addition in the innermost loop, which costs an eighth of its
/// speed on Zen 3.
#[allow(clippy::pointers_in_nomem_asm_block, reason = "no instruction follows them")]
#[inline(always)]
fn patch_pointers<const PIXELS: usize>(tile: &Tile<'_>) -> [*const u8; PIXELS] {
    let mut patches = [tile.patches; PIXELS];
    for pixel in 0..PIXELS {
        patches[pixel] = tile.patches.wrapping_add(pixel * tile.strip.pixel_bytes);
        // SAFETY: no instruction.
        unsafe {
            asm!(
                "/* {0} */",
                inout(reg) patches[pixel],
                options(pure, nomem, nostack, preserves_flags)
            );
        }
    }
    patches
}
