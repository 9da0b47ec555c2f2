//! The sums in NEON, plain and with dot products.

use core::arch::aarch64::*;

use super::GateSums;
#[cfg(feature = "std")]
use crate::kernels::aarch64::sdot;
use crate::kernels::{PANEL_K, PANEL_N};

/// Bytes of a quad's weights in a panel.
const PANEL_ROW: usize = PANEL_N * PANEL_K;

/// Bytes of four columns by a quad.
const VECTOR: usize = 16;

/// Registers of a panel's sums.
const VECTORS: usize = PANEL_N / 4;

/// A quad, four times.
#[target_feature(enable = "neon")]
#[inline]
fn repeated(quad: [i8; PANEL_K]) -> int8x16_t {
    vreinterpretq_s8_s32(vdupq_n_s32(i32::from_le_bytes(quad.map(|x| x as u8))))
}

/// Calls `panel` for every panel with its weights, and adds the bias to the sums it gives.
#[inline(always)]
fn for_each_panel(args: &mut GateSums<'_>, panel: impl Fn(&[i8], &[i8]) -> [i32; PANEL_N]) {
    let panel_bytes = args.check();
    for (at, sums) in args.sums.chunks_mut(PANEL_N).enumerate() {
        let of_panel = panel(args.x, &args.weights[at * panel_bytes..][..panel_bytes]);
        let bias = &args.bias[at * PANEL_N..];
        for ((sum, bias), of_panel) in sums.iter_mut().zip(bias).zip(of_panel) {
            *sum = bias.wrapping_add(of_panel);
        }
    }
}

/// The row in quads, the last one padded.
#[inline(always)]
fn quads(x: &[i8]) -> impl Iterator<Item = [i8; PANEL_K]> + '_ {
    let (quads, rest) = x.as_chunks::<PANEL_K>();
    let mut last = [0; PANEL_K];
    last[..rest.len()].copy_from_slice(rest);
    quads.iter().copied().chain((!rest.is_empty()).then_some(last))
}

#[target_feature(enable = "neon")]
#[inline]
fn stored(acc: [int32x4_t; VECTORS]) -> [i32; PANEL_N] {
    let mut sums = [0; PANEL_N];
    for (to, acc) in sums.as_chunks_mut::<4>().0.iter_mut().zip(acc) {
        // SAFETY: four numbers.
        unsafe { vst1q_s32(to.as_mut_ptr(), acc) };
    }
    sums
}

/// The products of a panel: `smull`, added to i32 in pairs by `sadalp`.
#[target_feature(enable = "neon")]
#[inline]
fn panel_neon(x: &[i8], weights: &[i8]) -> [i32; PANEL_N] {
    let mut acc = [[vdupq_n_s32(0); 2]; VECTORS];
    for (quad, w) in quads(x).zip(weights.as_chunks::<PANEL_ROW>().0) {
        let x = repeated(quad);
        for ([low, high], w) in acc.iter_mut().zip(w.as_chunks::<VECTOR>().0) {
            // SAFETY: sixteen weights.
            let w = unsafe { vld1q_s8(w.as_ptr()) };
            *low = vpadalq_s16(*low, vmull_s8(vget_low_s8(w), vget_low_s8(x)));
            *high = vpadalq_s16(*high, vmull_high_s8(w, x));
        }
    }
    stored(acc.map(|[low, high]| vpaddq_s32(low, high)))
}

/// The products of a panel: even and odd quads apart, as `sdot` takes up to four cycles and two start in each.
#[cfg(feature = "std")]
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn panel_dotprod(x: &[i8], weights: &[i8]) -> [i32; PANEL_N] {
    let [mut even, mut odd] = [[vdupq_n_s32(0); VECTORS]; 2];
    let add = |acc: &mut [int32x4_t; VECTORS], (quad, w): ([i8; PANEL_K], &[i8; PANEL_ROW])| {
        let x = repeated(quad);
        for (acc, w) in acc.iter_mut().zip(w.as_chunks::<VECTOR>().0) {
            // SAFETY: sixteen weights.
            *acc = sdot(*acc, unsafe { vld1q_s8(w.as_ptr()) }, x);
        }
    };
    let mut rows = quads(x).zip(weights.as_chunks::<PANEL_ROW>().0);
    while let Some(row) = rows.next() {
        add(&mut even, row);
        if let Some(row) = rows.next() {
            add(&mut odd, row);
        }
    }
    for (even, odd) in even.iter_mut().zip(odd) {
        *even = vaddq_s32(*even, odd);
    }
    stored(even)
}

/// Only for CPUs with NEON: `select_sums` hands it out after asking.
pub(super) fn gate_sums_neon(args: &mut GateSums<'_>) {
    // SAFETY: `select_sums` gives this function out only if `Isa::Neon.is_available()`.
    for_each_panel(args, |x, weights| unsafe { panel_neon(x, weights) });
}

/// Only for CPUs with dot products: `select_sums` hands it out after asking.
#[cfg(feature = "std")]
pub(super) fn gate_sums_dotprod(args: &mut GateSums<'_>) {
    // SAFETY: `select_sums` gives this function out only if `Isa::Dotprod.is_available()`.
    for_each_panel(args, |x, weights| unsafe { panel_dotprod(x, weights) });
}
