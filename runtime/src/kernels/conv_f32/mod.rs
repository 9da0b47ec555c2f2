//! Float convolution, and with it fully connected layers: an implicit matrix product.
//!
//! Every kernel computes, for output pixel `p` and channel `n` of a group,
//! `clamp(sum over k of x[p, k] * w[k, n] + bias[n] + residual[p, n], min, max)` with
//! `k = (kernel row, kernel column, channel)`; padding reads as 0. A NaN passes through the clamp.
//!
//! Weights are f32, f16 or [`grouped`]: integers of 8 to 4 bits with a scale per group of inputs. All
//! stand for numbers that f32 holds, so that the tolerance is the same. With weights in [`bf16`] `x` is the input rounded to
//! bf16, and numbers below 2⁻¹²⁶ may count as 0.
//!
//! # Tolerance
//!
//! Kernels differ in the order of the sum and in the use of fused multiply-adds; with grouped weights some
//! sum `x * q` over a group and multiply by its scale at the end. As long as no such sum overflows, any of them is
//! within `γ(K + 3) * (sum |x * w| + |bias| + |residual|)` of the exact value, where
//! `γ(n) = n * u / (1 - n * u)` and `u = 2⁻²⁴`: K + 3 roundings at most touch a term, in whatever
//! order (Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., §3.1 and §4.2).
//! The clamp doesn't enlarge an error. Kernels of fully connected layers with grouped weights may first round the inputs of each group to 16
//! bits, in steps of the largest magnitude of the group over 32,512.
//!
//! 3×3 convolutions of stride 1 may be computed by [Winograd's filtering](winograd), on x86-64. Then the sizes that errors are relative
//! to are those of what is added up: `|Aᵀ| (sum over c of (|G| |w| |Gᵀ|) ⊙ (|Bᵀ| |x| |B|)) |A| + |bias| + |residual|`, with all
//! 6×6 inputs of a tile of outputs, and the error is within `γ(C + 24)` of it: a term goes through C sums, 4 roundings with
//! the inputs, 10 with the weights, 8 with the outputs, and 2 at the end.

#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
pub(crate) mod aarch64;
pub mod bf16;
#[cfg(any(
    all(target_arch = "x86_64", feature = "std"),
    all(target_arch = "aarch64", target_feature = "neon"),
    test
))]
mod blocked;
// Without a blocked kernel, only the size of its scratch is asked for.
#[cfg_attr(
    not(any(
        all(target_arch = "x86_64", feature = "std"),
        all(target_arch = "aarch64", target_feature = "neon"),
        test
    )),
    allow(dead_code)
)]
mod blocking;
#[cfg(any(all(target_arch = "x86_64", feature = "std"), test))]
mod direct;
pub mod grouped;
#[cfg(all(
    any(target_arch = "x86_64", all(target_arch = "aarch64", target_feature = "neon")),
    feature = "std"
))]
mod integer_blocks;
#[cfg(all(
    any(target_arch = "x86_64", all(target_arch = "aarch64", target_feature = "neon")),
    feature = "std"
))]
mod integer_rows;
#[cfg(all(
    any(target_arch = "x86_64", all(target_arch = "aarch64", target_feature = "neon")),
    feature = "std"
))]
mod integers;
#[cfg(any(
    all(target_arch = "x86_64", feature = "std"),
    all(target_arch = "aarch64", target_feature = "neon"),
    test
))]
pub(crate) mod lanes;
#[cfg(any(
    all(target_arch = "x86_64", feature = "std"),
    all(target_arch = "aarch64", target_feature = "neon"),
    test
))]
mod rounding;
pub(crate) mod scalar;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(any(
    all(target_arch = "x86_64", feature = "std"),
    all(target_arch = "aarch64", target_feature = "neon"),
    test
))]
pub(crate) mod tile;
#[cfg(any(all(target_arch = "x86_64", feature = "std"), test))]
mod winograd;
#[cfg(all(target_arch = "x86_64", feature = "std"))]
pub(crate) mod x86_64;

use super::{ConvGeometry, EpilogueF32, FloatWeights, PANEL_N, PanelWeights, ResidualData};
use crate::Isa;
use core::ops::Range;

/// The arguments of a float convolution.
pub struct ConvF32<'a> {
    /// The shape. Grouped and dilated convolutions are covered.
    pub geometry: ConvGeometry,
    /// The output pixels to compute. Other than all of them, one of [`cut`]: then every element is, to the
    /// bit, what it is when all are computed.
    pub pixels: Range<usize>,
    /// NHWC, dense.
    pub input: &'a [f32],
    /// Panels `[groups][N/16][K][16]`, zero-padded: what [`pack_weights`] writes. Or grouped ones.
    pub weights: PanelWeights<'a>,
    /// Bias ([`ConvGeometry::padded_out_c`] long), residual, clamp.
    pub epilogue: EpilogueF32<'a>,
    /// Pixel `p` of the output is the `out_c` elements from `(p - pixels.start) * output_stride` on. Elements
    /// between the rows aren't touched. A residual apart begins with pixel 0.
    pub output: &'a mut [f32],
    /// Elements from one output pixel to the next, at least `out_c`.
    pub output_stride: usize,
    /// At least [`scratch_len`] elements; contents don't matter before or after.
    pub scratch: &'a mut [f32],
}

/// A float convolution kernel.
///
/// # Panics
///
/// When a slice is shorter than the geometry needs, or a size overflows.
pub type ConvF32Fn = fn(&mut ConvF32<'_>);

/// The kernel for `isa`, or for the next lower instruction set that this CPU and build have.
pub fn select(isa: Isa) -> ConvF32Fn {
    #[cfg(all(target_arch = "x86_64", feature = "std"))]
    {
        if isa >= Isa::Avx512
            && let Some(kernel) = x86_64::conv_f32_avx512()
        {
            return kernel;
        }
        if isa >= Isa::AvxVnni
            && let Some(kernel) = x86_64::conv_f32_avxvnni()
        {
            return kernel;
        }
        if isa >= Isa::Avx2
            && let Some(kernel) = x86_64::conv_f32_avx2()
        {
            return kernel;
        }
    }
    #[cfg(all(target_arch = "aarch64", target_feature = "neon", feature = "std"))]
    {
        if isa >= Isa::I8mm
            && let Some(kernel) = aarch64::conv_f32_i8mm()
        {
            return kernel;
        }
        if isa >= Isa::Dotprod
            && let Some(kernel) = aarch64::conv_f32_dotprod()
        {
            return kernel;
        }
    }
    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
    if isa >= Isa::Neon {
        return aarch64::conv_f32_neon;
    }
    let _ = isa;
    scalar::conv_f32_scalar
}

/// As [`select`], for weights in groups whose inputs stay f32.
#[cfg(feature = "std")]
pub fn select_floats(isa: Isa) -> ConvF32Fn {
    #[cfg(target_arch = "x86_64")]
    for (least, kernel) in [
        (Isa::Avx512, x86_64::blocked_avx512 as fn() -> Option<ConvF32Fn>),
        (Isa::Avx2, x86_64::blocked_avx2),
    ] {
        if isa >= least
            && let Some(kernel) = kernel()
        {
            return kernel;
        }
    }
    // Kernels without these instruction sets, and those of NEON, have no integers.
    select(isa.min(Isa::Neon))
}

/// What weights are, as far as sizes depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// f32 or f16.
    Float,
    /// bf16, in pairs.
    Bf16,
    /// Integers in groups.
    Grouped,
}

impl Stored {
    /// What these weights are.
    pub fn of(weights: &PanelWeights<'_>) -> Stored {
        match weights {
            PanelWeights::Float(_) => Stored::Float,
            PanelWeights::Bf16(_) => Stored::Bf16,
            PanelWeights::Grouped(_) => Stored::Grouped,
        }
    }
}

/// Elements of scratch that the kernel selected for `isa` needs, whichever CPU it runs on. Weights in bf16 and in groups need no
/// more with fewer output pixels: sessions have as much as the largest sizes of a model need.
pub fn scratch_len(geometry: &ConvGeometry, stored: Stored, isa: Isa) -> usize {
    match (isa, stored) {
        (Isa::Scalar | Isa::CortexM, _) => 0,
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        (_, Stored::Float) if isa.has_avx2() && winograd::suits(geometry) => {
            winograd::scratch_len(geometry)
        }
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        (_, Stored::Float) if isa.has_avx2() && direct::suits(geometry) => {
            direct::scratch_len(geometry)
        }
        (_, Stored::Float) => blocking::scratch_len(geometry),
        (_, Stored::Bf16) => blocking::bf16_scratch_len(geometry),
        #[cfg(all(
            any(target_arch = "x86_64", all(target_arch = "aarch64", target_feature = "neon")),
            feature = "std"
        ))]
        (_, Stored::Grouped) if isa != Isa::Neon => {
            let integers =
                integer_rows::scratch_len(geometry).max(integer_blocks::scratch_len(geometry));
            integers.max(blocking::grouped_scratch_len(geometry))
        }
        (_, Stored::Grouped) => blocking::grouped_scratch_len(geometry),
    }
}

/// [`scratch_len`] in bytes.
pub fn scratch_bytes(geometry: &ConvGeometry, stored: Stored, isa: Isa) -> usize {
    scratch_len(geometry, stored, isa) * size_of::<f32>()
}

/// Pieces of so many units differ little in size, though one may have a unit more than another.
const UNITS_PER_PIECE: usize = 8;

/// So many pixels of one panel are enough sums for two multipliers of four cycles, nearly: 6 of 8.
const BUSY_PIXELS: usize = 6;

/// Where the output pixels can be cut so that every tile of every kernel stays what it is: at multiples of
/// the first number, as many times as the second says; whatever remains goes with the last piece. For about `pieces` pieces.
///
/// Kernels cut 48 pixels at a time into tiles, and only of the last, less than 48, the height of tiles, and with it
/// the order of sums, depends on how many there are. Half of 48 are whole tiles, too, and a
/// quarter where no tile has half a panel of columns.
///
/// Winograd's tiles are rows of the image, computed again by every piece that has a part of them. Kernels whose sums are in one
/// order whatever the tile ([`is_cut_anywhere`]) only want tiles that keep the multipliers busy.
pub fn cut(geometry: &ConvGeometry, isa: Isa, stored: Stored, pieces: usize) -> (usize, usize) {
    let pixels = geometry.out_pixels();
    let unit = match rows_of_tiles(geometry, isa) {
        Some(rows) if stored == Stored::Float => rows * geometry.out_w,
        _ if is_cut_anywhere(geometry, isa, stored) => BUSY_PIXELS,
        _ if pixels / blocking::TILED_ROWS >= pieces.saturating_mul(UNITS_PER_PIECE) => {
            blocking::TILED_ROWS
        }
        // Without half panels, whose tiles may have eight rows, a quarter of 48 is whole tiles, too.
        _ if geometry.group_out_c().is_multiple_of(PANEL_N) && stored != Stored::Grouped => {
            let (unit, rest) = (blocking::TILED_ROWS / 4, pixels % blocking::TILED_ROWS);
            // The last, partial 48 stay together.
            return (unit, (pixels - rest) / unit + usize::from(rest >= unit));
        }
        _ => blocking::TILED_ROWS / 2,
    };
    (unit, pixels / unit)
}

/// Whether the kernel for `isa` computes the same bits wherever the output pixels are cut.
pub fn is_cut_anywhere(geometry: &ConvGeometry, isa: Isa, stored: Stored) -> bool {
    #[cfg(all(target_arch = "x86_64", feature = "std"))]
    if isa.has_avx2() && stored == Stored::Float {
        return rows_of_tiles(geometry, isa).is_none() && direct::suits(geometry);
    }
    let _ = (geometry, isa, stored);
    false
}

/// Rows of the output that kernels which transform weights compute together; none if `isa` has no such kernel for the shape.
fn rows_of_tiles(geometry: &ConvGeometry, isa: Isa) -> Option<usize> {
    #[cfg(all(target_arch = "x86_64", feature = "std"))]
    if isa.has_avx2() && winograd::suits(geometry) {
        let rows = winograd::TILE;
        let is_aligned = geometry.batch == 1 || geometry.out_h.is_multiple_of(rows);
        return Some(if is_aligned { rows } else { geometry.out_h });
    }
    let _ = (geometry, isa);
    None
}

/// Writes the weights `[out_c][kernel_h][kernel_w][in_c / groups]` as zero-padded panels
/// `[groups][N/16][K][16]`.
///
/// # Panics
///
/// When `ohwi` isn't `out_c * k` long or `out` isn't [`ConvGeometry::packed_float_len`] long.
pub fn pack_weights(geometry: &ConvGeometry, ohwi: &[f32], out: &mut [f32]) {
    let (k, group_out_c) = (geometry.k(), geometry.group_out_c());
    assert_eq!(ohwi.len(), geometry.out_c * k);
    assert_eq!(out.len(), geometry.packed_float_len());
    out.fill(0.0);
    for channel in 0..geometry.out_c {
        let padded_channel =
            channel / group_out_c * geometry.padded_group_out_c() + channel % group_out_c;
        let panel = padded_channel / PANEL_N * PANEL_N * k;
        for row in 0..k {
            out[panel + row * PANEL_N + padded_channel % PANEL_N] = ohwi[channel * k + row];
        }
    }
}

impl ConvF32<'_> {
    /// Panics unless every slice is as long as the geometry says, with no size overflowing. What
    /// the unsafe kernels rely on is proved here, not assumed of the caller.
    fn check(&self) {
        let g = &self.geometry;
        check_geometry(g);
        let weights = product(&[self.geometry.padded_out_c(), g.k()]);
        match self.weights {
            PanelWeights::Float(FloatWeights::F32(w)) => assert!(w.len() >= weights, "weights"),
            PanelWeights::Float(FloatWeights::F16(w)) => assert!(w.len() >= weights, "weights"),
            PanelWeights::Bf16(w) => {
                assert!(g.group_in_c().is_multiple_of(bf16::PAIR), "pairs");
                assert!(w.len() >= weights, "weights");
            }
            PanelWeights::Grouped(w) => w.check(g),
        }
        assert!(self.input.len() >= g.input_len(), "input");
        assert!(self.epilogue.bias.len() >= g.padded_out_c(), "bias");
        assert!(
            self.pixels.start <= self.pixels.end && self.pixels.end <= g.out_pixels(),
            "pixels"
        );
        let (pixels, residual) = (self.pixels.len(), self.epilogue.residual);
        check_output(g, pixels, self.output.len(), self.output_stride, residual);
    }
}

/// Panics if a size of the geometry overflows or is zero where it must not be. Afterwards
/// [`ConvGeometry`]'s methods, and the coordinates of every tap of every output pixel, can be
/// computed in `isize` without overflow.
pub(crate) fn check_geometry(g: &ConvGeometry) {
    assert!(
        g.groups > 0 && g.in_c.is_multiple_of(g.groups) && g.out_c.is_multiple_of(g.groups),
        "groups"
    );
    assert!(g.kernel_h > 0 && g.kernel_w > 0, "kernel");
    assert!(
        g.stride_h > 0 && g.stride_w > 0 && g.dilation_h > 0 && g.dilation_w > 0,
        "stride, dilation"
    );
    product(&[g.batch, g.in_h, g.in_w, g.in_c]);
    product(&[g.batch, g.out_h, g.out_w, g.out_c]);
    product(&[g.batch, g.out_h, g.out_w]);
    product(&[g.kernel_h, g.kernel_w, g.in_c, 2]);
    // Each group pads by less than PANEL_N.
    product(&[g.out_c.checked_add(product(&[g.groups, PANEL_N])).expect("size overflows")]);
    let last_tap =
        |out: usize, stride: usize, kernel: usize, dilation: usize, pad: usize, len: usize| {
            let last = product(&[out, stride]).checked_add(product(&[kernel, dilation]));
            let limit = last.and_then(|x| x.checked_add(pad)).and_then(|x| x.checked_add(len));
            assert!(limit.is_some_and(|x| isize::try_from(x).is_ok()), "size overflows");
        };
    last_tap(g.out_h, g.stride_h, g.kernel_h, g.dilation_h, g.pad_top, g.in_h);
    last_tap(g.out_w, g.stride_w, g.kernel_w, g.dilation_w, g.pad_left, g.in_w);
}

/// Panics unless `output_len` elements hold `pixels` output rows, and the residual has the output's
/// shape.
pub(crate) fn check_output(
    g: &ConvGeometry,
    pixels: usize,
    output_len: usize,
    output_stride: usize,
    residual: Option<ResidualData<'_, f32>>,
) {
    assert!(output_stride >= g.out_c, "output stride");
    if let Some(rows_before) = pixels.checked_sub(1) {
        let end = product(&[rows_before, output_stride]).checked_add(g.out_c);
        assert!(end.is_some_and(|end| end <= output_len), "output");
    }
    if let Some(residual) = residual {
        assert!(residual.covers(g.out_pixels() * g.out_c), "residual");
    }
}

/// The product of sizes; panics above `isize::MAX`.
pub(crate) fn product(sizes: &[usize]) -> usize {
    let mut product: usize = 1;
    for &size in sizes {
        product = product.checked_mul(size).expect("size overflows");
    }
    assert!(isize::try_from(product).is_ok(), "size overflows");
    product
}
