//! The sums in AVX2, AVX-VNNI and AVX-512 VNNI: a few panels at a time, over all of a row.
//!
//! VNNI multiplies unsigned by signed numbers: weights become `w + 128`, and the sums begin with −128 times that of the row.

use core::arch::x86_64::*;

use super::GateSums;
use crate::kernels::{PANEL_K, PANEL_N};

/// Bytes of a quad's weights in a panel.
const PANEL_ROW: usize = PANEL_N * PANEL_K;

/// Sums of a panel's columns.
type Sums = [i32; PANEL_N];

/// What an instruction set brings: the products of a row with `P` panels.
///
/// # Safety
///
/// The CPU has the instruction set; `weights` is valid for reads of `P` panels, each of `row.panel_bytes`.
trait Panels {
    /// Panels at once.
    const MOST: usize;

    unsafe fn sums<const P: usize>(row: &Row<'_>, weights: *const i8) -> [Sums; P];
}

/// A row in whole quads and a last one, padded.
struct Row<'a> {
    quads: &'a [[i8; PANEL_K]],
    last: Option<[i8; PANEL_K]>,
    panel_bytes: usize,
    /// −128 times the sum of its numbers.
    start: i32,
}

impl<'a> Row<'a> {
    #[inline(always)]
    fn new(x: &'a [i8], panel_bytes: usize) -> Self {
        let (quads, rest) = x.as_chunks::<PANEL_K>();
        let mut last = [0; PANEL_K];
        last[..rest.len()].copy_from_slice(rest);
        let sum = x.iter().fold(0i32, |sum, x| sum.wrapping_add(i32::from(*x)));
        let last = (!rest.is_empty()).then_some(last);
        Row { quads, last, panel_bytes, start: sum.wrapping_mul(-128) }
    }

    #[inline(always)]
    fn iter(&self) -> impl Iterator<Item = [i8; PANEL_K]> + '_ {
        self.quads.iter().copied().chain(self.last)
    }
}

/// # Safety
///
/// The CPU has the instruction set of `S`.
#[inline(always)]
unsafe fn run<S: Panels>(args: &mut GateSums<'_>) {
    let panel_bytes = args.check();
    let row = Row::new(args.x, panel_bytes);
    let n = args.sums.len();
    let mut column = 0;
    while column < n {
        let weights = args.weights[column / PANEL_N * panel_bytes..].as_ptr();
        let panels = (n - column).div_ceil(PANEL_N);
        let (bias, sums) = (&args.bias[column..n], &mut args.sums[column..n]);
        // SAFETY: `check` proved that the weights have all panels of the `n` columns: as many from this one on.
        column += PANEL_N
            * unsafe {
                match panels.min(S::MOST) {
                    1 => finish(S::sums::<1>(&row, weights), bias, sums),
                    2 => finish(S::sums::<2>(&row, weights), bias, sums),
                    3 => finish(S::sums::<3>(&row, weights), bias, sums),
                    _ => finish(S::sums::<4>(&row, weights), bias, sums),
                }
            };
    }
}

/// Adds the bias to the sums of `P` panels, of which fewer columns may exist; gives `P`.
#[inline(always)]
fn finish<const P: usize>(panels: [Sums; P], bias: &[i32], sums: &mut [i32]) -> usize {
    let panels = panels.as_flattened();
    for ((sum, bias), of_panels) in sums.iter_mut().zip(bias).zip(panels) {
        *sum = bias.wrapping_add(*of_panels);
    }
    P
}

struct Avx512;

impl Panels for Avx512 {
    const MOST: usize = 4;

    #[inline(always)]
    unsafe fn sums<const P: usize>(row: &Row<'_>, weights: *const i8) -> [Sums; P] {
        // SAFETY: as the caller's.
        unsafe { panels_avx512vnni(row, weights) }
    }
}

/// # Safety
///
/// As [`Panels::sums`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn panels_avx512vnni<const P: usize>(row: &Row<'_>, weights: *const i8) -> [Sums; P] {
    let mut acc = [_mm512_set1_epi32(row.start); P];
    let offset = _mm512_set1_epi8(-128);
    let mut weights = weights;
    for quad in row.iter() {
        let x = _mm512_set1_epi32(i32::from_le_bytes(quad.map(|x| x as u8)));
        for panel in 0..P {
            // SAFETY: a panel has a row for every quad.
            let w = unsafe { _mm512_loadu_si512(weights.add(panel * row.panel_bytes).cast()) };
            acc[panel] = _mm512_dpbusd_epi32(acc[panel], _mm512_xor_si512(w, offset), x);
        }
        weights = weights.wrapping_add(PANEL_ROW);
    }
    let mut sums = [[0; PANEL_N]; P];
    for panel in 0..P {
        // SAFETY: sixteen numbers.
        unsafe { _mm512_storeu_si512(sums[panel].as_mut_ptr().cast(), acc[panel]) };
    }
    sums
}

struct AvxVnni;

impl Panels for AvxVnni {
    const MOST: usize = 4;

    #[inline(always)]
    unsafe fn sums<const P: usize>(row: &Row<'_>, weights: *const i8) -> [Sums; P] {
        // SAFETY: as the caller's.
        unsafe { panels_avxvnni(row, weights) }
    }
}

/// # Safety
///
/// As [`Panels::sums`].
#[target_feature(enable = "avx2,avxvnni")]
#[inline]
unsafe fn panels_avxvnni<const P: usize>(row: &Row<'_>, weights: *const i8) -> [Sums; P] {
    let mut acc = [[_mm256_set1_epi32(row.start); 2]; P];
    let offset = _mm256_set1_epi8(-128);
    let mut weights = weights;
    for quad in row.iter() {
        let x = _mm256_set1_epi32(i32::from_le_bytes(quad.map(|x| x as u8)));
        for panel in 0..P {
            for half in 0..2 {
                // SAFETY: a panel has a row for every quad.
                let w = unsafe {
                    let at = weights.add(panel * row.panel_bytes + half * PANEL_ROW / 2);
                    _mm256_xor_si256(_mm256_loadu_si256(at.cast()), offset)
                };
                acc[panel][half] = _mm256_dpbusd_avx_epi32(acc[panel][half], w, x);
            }
        }
        weights = weights.wrapping_add(PANEL_ROW);
    }
    let mut sums = [[0; PANEL_N]; P];
    for panel in 0..P {
        for half in 0..2 {
            // SAFETY: eight numbers of sixteen.
            unsafe {
                let to = sums[panel].as_mut_ptr().add(half * PANEL_N / 2);
                _mm256_storeu_si256(to.cast(), acc[panel][half]);
            }
        }
    }
    sums
}

struct Avx2;

impl Panels for Avx2 {
    const MOST: usize = 2;

    #[inline(always)]
    unsafe fn sums<const P: usize>(row: &Row<'_>, weights: *const i8) -> [Sums; P] {
        // SAFETY: as the caller's.
        unsafe { panels_avx2(row, weights) }
    }
}

/// # Safety
///
/// As [`Panels::sums`].
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn panels_avx2<const P: usize>(row: &Row<'_>, weights: *const i8) -> [Sums; P] {
    // Four columns each, in the two pairs of a quad.
    let mut acc = [[_mm256_setzero_si256(); 4]; P];
    let mut weights = weights;
    for quad in row.iter() {
        let x = _mm_cvtsi32_si128(i32::from_le_bytes(quad.map(|x| x as u8)));
        let x = _mm256_broadcastq_epi64(_mm_cvtepi8_epi16(x));
        for panel in 0..P {
            for quarter in 0..4 {
                // SAFETY: a panel has a row for every quad.
                let w = unsafe {
                    let at = weights.add(panel * row.panel_bytes + quarter * PANEL_ROW / 4);
                    _mm256_cvtepi8_epi16(_mm_loadu_si128(at.cast()))
                };
                let products = _mm256_madd_epi16(x, w);
                acc[panel][quarter] = _mm256_add_epi32(acc[panel][quarter], products);
            }
        }
        weights = weights.wrapping_add(PANEL_ROW);
    }
    let mut sums = [[0; PANEL_N]; P];
    for panel in 0..P {
        for half in 0..2 {
            let [a, b] = [acc[panel][2 * half], acc[panel][2 * half + 1]];
            // Per lane, two sums of each: their middle quarters change places.
            let sum = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(a, b));
            // SAFETY: eight numbers of sixteen.
            unsafe {
                let to = sums[panel].as_mut_ptr().add(half * PANEL_N / 2);
                _mm256_storeu_si256(to.cast(), sum);
            }
        }
    }
    sums
}

/// Only for CPUs with AVX-512 and VNNI: `select_sums` hands it out after asking.
pub(super) fn gate_sums_avx512vnni(args: &mut GateSums<'_>) {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn with_features(args: &mut GateSums<'_>) {
        // SAFETY: this function has the features.
        unsafe { run::<Avx512>(args) }
    }
    // SAFETY: `select_sums` gives this function out only if `Isa::Avx512.is_available()`.
    unsafe { with_features(args) }
}

/// Only for CPUs with AVX2 and AVX-VNNI: `select_sums` hands it out after asking.
pub(super) fn gate_sums_avxvnni(args: &mut GateSums<'_>) {
    #[target_feature(enable = "avx2,avxvnni")]
    fn with_features(args: &mut GateSums<'_>) {
        // SAFETY: this function has the features.
        unsafe { run::<AvxVnni>(args) }
    }
    // SAFETY: `select_sums` gives this function out only if `Isa::AvxVnni.is_available()`.
    unsafe { with_features(args) }
}

/// Only for CPUs with AVX2: `select_sums` hands it out after asking.
pub(super) fn gate_sums_avx2(args: &mut GateSums<'_>) {
    #[target_feature(enable = "avx2")]
    fn with_features(args: &mut GateSums<'_>) {
        // SAFETY: this function has the feature.
        unsafe { run::<Avx2>(args) }
    }
    // SAFETY: `select_sums` gives this function out only if `Isa::Avx2.is_available()`.
    unsafe { with_features(args) }
}
