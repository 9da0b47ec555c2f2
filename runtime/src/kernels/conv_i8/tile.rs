//! Tiles of the i8 convolution: what the micro-kernels of every instruction set are called with.

use core::arch::asm;

#[cfg(target_arch = "x86_64")]
use super::ConvI8;
use super::implicit_gemm::{Job, Strip};
use crate::kernels::{PANEL_K, PANEL_N};

/// Bytes of a quad of inputs for one panel.
pub(super) const PANEL_ROW: usize = PANEL_N * PANEL_K;

/// A few pixels by a few output channels, whose accumulators are in registers.
pub(super) struct Tile<'a> {
    pub(super) strip: &'a Strip,
    /// Patch of the first pixel, if it starts in slot 0.
    pub(super) patches: *const u8,
    /// First panel row, or half of one.
    pub(super) weights: *const i8,
    /// Bytes from a panel to the next.
    #[cfg(target_arch = "x86_64")]
    pub(super) panel_bytes: usize,
    /// Per-channel arrays, from the first channel on.
    pub(super) bias: *const i32,
    #[cfg(target_arch = "x86_64")]
    pub(super) weight_sums: *const i32,
    pub(super) scale: *const f32,
    /// Channels to write; those beyond are padding.
    pub(super) channels: usize,
    pub(super) output: *mut i8,
    pub(super) output_stride: usize,
    /// Same place in the residual, or null. It may be the same as `output`: a tile reads what it
    /// overwrites first, and no other tile writes there.
    pub(super) residual: *const i8,
    pub(super) residual_stride: usize,
}

impl<'a> Tile<'a> {
    /// # Safety
    ///
    /// As [`Simd::strip`](super::implicit_gemm::Simd::strip); the strip has a pixel, and `channel` is one of the group.
    #[inline(always)]
    pub(super) unsafe fn first(
        job: &Job<'_>,
        group: usize,
        strip: &'a Strip,
        channel: usize,
    ) -> Self {
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
                #[cfg(target_arch = "x86_64")]
                panel_bytes,
                bias: job.bias.add(padded_channel),
                #[cfg(target_arch = "x86_64")]
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

    /// Of a [row](crate::kernels::ConvGeometry::is_row), whose patch is `strip`, from this channel on. `output` is the
    /// convolution's.
    ///
    /// # Safety
    ///
    /// The convolution was [checked](ConvI8::check) and its weights are in panels; the channel exists.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) unsafe fn of_row(
        conv: &ConvI8<'_>,
        output: *mut i8,
        strip: &'a Strip,
        channel: usize,
    ) -> Self {
        let panel_bytes = strip.segment_quads * PANEL_ROW;
        // One pixel has no next.
        let (output_stride, residual_stride) = (0, 0);
        let residual = match &conv.epilogue.residual {
            Some(r) => r.data.rows(conv.geometry.out_c, output, output_stride).0,
            None => core::ptr::null(),
        };
        // SAFETY: all are elements of their slices by `ConvI8::check`, of channels padded to whole panels; weight sums
        // and residual may not be there.
        unsafe {
            Tile {
                strip,
                patches: strip.patches,
                weights: conv.weights.as_ptr().add(channel / PANEL_N * panel_bytes),
                panel_bytes,
                bias: conv.bias.as_ptr().add(channel),
                weight_sums: conv.weight_sums.as_ptr().wrapping_add(channel),
                scale: conv.epilogue.scale.as_ptr().add(channel),
                channels: conv.geometry.out_c - channel,
                output: output.add(channel),
                output_stride,
                residual: if residual.is_null() { residual } else { residual.add(channel) },
                residual_stride,
            }
        }
    }

    /// Moves on by `pixels`; the tile may come to the end of the strip, and is of no use then.
    #[inline(always)]
    pub(super) fn advance(&mut self, pixels: usize) {
        self.patches = self.patches.wrapping_add(pixels * self.strip.pixel_bytes);
        self.output = self.output.wrapping_add(pixels * self.output_stride);
        if !self.residual.is_null() {
            self.residual = self.residual.wrapping_add(pixels * self.residual_stride);
        }
    }
}

/// Where in a patch its segments start, relative to slot 0.
pub(super) struct Segments {
    left: usize,
    slot: usize,
    slots: usize,
    slot_step: usize,
    slot_bytes: usize,
}

impl Segments {
    #[inline(always)]
    pub(super) fn new(strip: &Strip) -> Self {
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
pub(super) fn patch_pointers<const PIXELS: usize>(tile: &Tile<'_>) -> [*const u8; PIXELS] {
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
