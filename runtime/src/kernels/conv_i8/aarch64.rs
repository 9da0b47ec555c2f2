//! The i8 convolution in NEON, with dot products, and with matrix products of i8.
//!
//! Plain NEON multiplies to i16 and adds neighbours to i32. Two products of i8 fit an i16 but when both are
//! −128 · −128; where no weight is −128, which one look at them tells, two are summed before they are widened.
//! `sdot` takes a quad of inputs as panels have it, `smmla` two quads after a `zip`. All sums are of signed products: weight
//! sums aren't needed.

use core::arch::aarch64::*;

use super::ConvI8;
use super::implicit_gemm::{self, Job, Patches, Simd, Strip, next_tile};
use super::tile::Tile;
use crate::kernels::requantize::aarch64::{RequantizeNeon, load_partial, store_partial};
use crate::kernels::{ConvGeometry, PANEL_N, Packing};

#[cfg(feature = "std")]
mod dotprod;
#[cfg(feature = "std")]
mod i8mm;
mod neon;

/// Fewer output pixels than this don't repay a look at all weights.
const LOOK_PIXELS: usize = 8;

/// Output channels of a register of accumulators.
const LANES: usize = 4;

/// Scratch for any of the kernels: they differ in how many pixels they gather.
pub(super) fn scratch_bytes(geometry: &ConvGeometry) -> usize {
    let bytes = implicit_gemm::scratch_bytes::<Plain<NEON>>(geometry);
    bytes.max(implicit_gemm::scratch_bytes::<Plain<I8MM>>(geometry))
}

/// Only for CPUs with NEON: `select` hands it out after asking.
pub(super) fn conv_i8_neon(conv: &mut ConvI8<'_>) {
    if conv.packing != Packing::Panels {
        return super::scalar::conv_i8_scalar(conv);
    }
    // SAFETY: `select` gives this function out only if `Isa::Neon.is_available()`; where pairs are summed in i16,
    // no weight is −128.
    unsafe {
        if conv.geometry.out_pixels() >= LOOK_PIXELS && !has_lowest(conv.weights) {
            implicit_gemm::run::<Plain<NEON_PAIRS>>(conv);
        } else {
            implicit_gemm::run::<Plain<NEON>>(conv);
        }
    }
}

/// Only for CPUs with dot products: `select` hands it out after asking.
#[cfg(feature = "std")]
pub(super) fn conv_i8_dotprod(conv: &mut ConvI8<'_>) {
    if conv.packing != Packing::Panels {
        return super::scalar::conv_i8_scalar(conv);
    }
    // SAFETY: `select` gives this function out only if `Isa::Dotprod.is_available()`.
    unsafe { implicit_gemm::run::<Plain<DOTPROD>>(conv) }
}

/// Only for CPUs with matrix products of i8: `select` hands it out after asking.
#[cfg(feature = "std")]
pub(super) fn conv_i8_i8mm(conv: &mut ConvI8<'_>) {
    if conv.packing != Packing::Panels {
        return super::scalar::conv_i8_scalar(conv);
    }
    // SAFETY: `select` gives this function out only if `Isa::I8mm.is_available()`.
    unsafe { implicit_gemm::run::<Plain<I8MM>>(conv) }
}

/// Whether one of the weights is −128.
pub(in crate::kernels) fn has_lowest(weights: &[i8]) -> bool {
    // By blocks, so that the compiler makes vectors of the inside and a look can end early.
    weights.chunks(1024).any(|block| block.iter().fold(0, |low, w| low.min(*w)) == i8::MIN)
}

const NEON: usize = 0;
/// [`NEON`] where no weight is −128.
const NEON_PAIRS: usize = 1;
#[cfg(feature = "std")]
const DOTPROD: usize = 2;
const I8MM: usize = 3;

/// Activations as they are, and the tiles of one of the instruction sets above.
struct Plain<const KIND: usize>;

impl<const KIND: usize> Simd for Plain<KIND> {
    const ELEM_BYTES: usize = 1;
    const TILE_PIXELS: usize = if KIND == I8MM { 6 } else { 4 };
    const PLAIN: bool = true;

    #[inline(always)]
    unsafe fn convert(src: *const i8, dst: *mut u8, len: usize) {
        // SAFETY: as the trait's.
        unsafe { copy(src, dst.cast(), len) }
    }

    #[inline(always)]
    unsafe fn convert_block(src: *const i8, dst: *mut u8) {
        // SAFETY: as the trait's.
        unsafe { vst1q_s8(dst.cast(), vld1q_s8(src)) }
    }

    unsafe fn convert_patches(patches: &Patches) {
        // SAFETY: as the trait's.
        unsafe { implicit_gemm::convert_patches::<Self>(patches) }
    }

    #[inline(always)]
    unsafe fn fill(value: i8, dst: *mut u8, len: usize) {
        // SAFETY: as the trait's.
        unsafe { dst.write_bytes(value as u8, len) }
    }

    #[inline(always)]
    unsafe fn strip(job: &Job<'_>, group: usize, strip: &Strip) {
        // SAFETY: as the trait's. Whoever names `NEON_PAIRS` has looked at the weights.
        unsafe {
            match KIND {
                #[cfg(feature = "std")]
                DOTPROD => for_each_tile::<KIND>(job, group, strip, dotprod::tile),
                #[cfg(feature = "std")]
                I8MM => for_each_tile::<KIND>(job, group, strip, i8mm::tile),
                NEON_PAIRS => for_each_tile::<KIND>(job, group, strip, neon::tile::<true>),
                _ => for_each_tile::<KIND>(job, group, strip, neon::tile::<false>),
            }
        }
    }
}

/// Copies `len` elements.
///
/// # Safety
///
/// `src` is valid for `len` reads and `dst` for as many writes; they don't overlap.
#[inline(always)]
unsafe fn copy(src: *const i8, dst: *mut i8, len: usize) {
    // Short runs and the ends of long ones are two blocks that may overlap.
    // SAFETY: every block starts and ends within `len`.
    unsafe {
        if len >= 16 {
            let mut i = 0;
            while i + 16 <= len {
                vst1q_s8(dst.add(i), vld1q_s8(src.add(i)));
                i += 16;
            }
            if i < len {
                vst1q_s8(dst.add(len - 16), vld1q_s8(src.add(len - 16)));
            }
        } else if len >= 8 {
            for i in [0, len - 8] {
                vst1_s8(dst.add(i), vld1_s8(src.add(i)));
            }
        } else if len >= 4 {
            for i in [0, len - 4] {
                dst.add(i).cast::<i32>().write_unaligned(src.add(i).cast::<i32>().read_unaligned());
            }
        } else {
            for i in 0..len {
                *dst.add(i) = *src.add(i);
            }
        }
    }
}

/// A micro-kernel: some pixels of a tile by four times so many output channels.
type TileFn = unsafe fn(&Tile<'_>, &RequantizeNeon, usize, usize);

/// Calls `tile` with 2 or 4 registers of channels for every tile of the strip.
///
/// # Safety
///
/// As [`Simd::strip`]; the CPU has what `tile` needs.
#[inline(always)]
unsafe fn for_each_tile<const KIND: usize>(
    job: &Job<'_>,
    group: usize,
    strip: &Strip,
    tile_fn: TileFn,
) {
    // SAFETY: the CPU has NEON.
    let requantize = unsafe { RequantizeNeon::new(&job.epilogue) };
    let channels = job.geometry.group_out_c();
    let mut channel = 0;
    while channel < channels {
        let vectors = if channels - channel > 2 * LANES { 4 } else { 2 };
        let mut left = strip.pixels;
        // SAFETY: `channel` is in the group and starts a panel, and as many channels as `vectors` have exist or are padding. The strip has `left` pixels from the tile's first on, and `next_tile` is no more.
        unsafe {
            let mut tile = Tile::first(job, group, strip, channel);
            while left > 0 {
                let pixels = next_tile::<Plain<KIND>>(left);
                tile_fn(&tile, &requantize, pixels, vectors);
                tile.advance(pixels);
                left -= pixels;
            }
        }
        channel += PANEL_N;
    }
}

/// Requantizes and writes the sums of a tile, [`LANES`] channels a register, those from register `first` on.
///
/// # Safety
///
/// The strip of the tile has `PIXELS` pixels from the tile's first on; the channels exist, or are padding.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn finish<const PIXELS: usize, const VECTORS: usize>(
    tile: &Tile<'_>,
    requantize: &RequantizeNeon,
    sums: &[[int32x4_t; VECTORS]; PIXELS],
    first: usize,
) {
    let at = first * LANES;
    let channels = (tile.channels - at).min(VECTORS * LANES);
    // SAFETY: the per-channel arrays are padded to whole panels; output and residual have `channels` elements at
    // this place in each of the rows of the tile.
    unsafe {
        let factors = requantize.factors::<VECTORS>(tile.scale.add(at));
        for pixel in 0..PIXELS {
            let acc = sums[pixel];
            let bytes = if tile.residual.is_null() {
                requantize.apply(acc, &factors)
            } else {
                let residual = tile.residual.add(pixel * tile.residual_stride + at);
                requantize.apply_sum(acc, &factors, load_partial(residual, channels))
            };
            let output = tile.output.add(pixel * tile.output_stride + at);
            if channels == VECTORS * LANES {
                store_partial(output, bytes, VECTORS * LANES);
            } else {
                store_partial(output, bytes, channels);
            }
        }
    }
}
