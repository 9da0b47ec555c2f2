//! A few rows times grouped weights with AVX-512 VNNI: a decoder's step, which should take no longer than its weights
//! take to arrive.
//!
//! The inputs of a group become integers of 16 bits, `x ≈ step · (256 · high + low)`, both halves in i8, so that a byte of weights
//! costs two multiplications by `VPDPBUSD` and no conversion. Sums of integers are exact. What is rounded is an input: by at
//! most half of `step`, which is the largest magnitude of the group over 32,512.

use core::arch::x86_64::*;

use super::grouped::{GroupedBits, GroupedWeights};
use super::lanes::{Avx512, Lanes, fetch_ahead};
use super::tile::{Finish, GroupedPanel, Row, Tile, WeightPtr, write};
use super::{ConvF32, ConvGeometry};
use crate::Isa;
use crate::kernels::{PANEL_N, ResidualData};

/// Rows at most: beyond, floats in panels cost less per row.
pub(super) const MOST_ROWS: usize = 12;

/// Rows whose sums fit the registers. More take a panel in turns, which stays in the L1 cache meanwhile.
const TILE_ROWS: usize = 4;

/// `127 · 256`: what the largest input of a group becomes.
const LARGEST: f32 = 32512.0;

/// Whether the kernel takes all pixels of a geometry.
pub(super) fn suits(g: &ConvGeometry) -> bool {
    g.is_pointwise() && g.groups == 1 && (1..=MOST_ROWS).contains(&g.out_pixels()) && g.k() > 0
}

/// Elements of scratch: for every row both halves of the inputs, four of them in an element, and three numbers per group.
/// Those of the most rows where there are more, for a session's memory must do for less.
pub(super) fn scratch_len(g: &ConvGeometry) -> usize {
    const SMALLEST_GROUP: usize = super::grouped::GROUP_SIZES[0];
    if !g.is_pointwise() || g.groups != 1 {
        return 0;
    }
    g.out_pixels().min(MOST_ROWS) * (2 * quads(g.k()) + 3 * g.k().div_ceil(SMALLEST_GROUP))
}

/// Fours of inputs, in whole words of either kind of weights.
fn quads(k: usize) -> usize {
    k.div_ceil(8) * 2
}

/// The inputs of a row as integers.
#[derive(Clone, Copy)]
struct Inputs<'s> {
    /// Four i8 in an element, as bits: `quads` high halves, then as many low ones.
    halves: &'s [f32],
    /// Step of every group.
    steps: &'s [f32],
    /// Sum of every group's integers, an i32 as bits.
    sums: &'s [f32],
    /// Sum of every group's inputs.
    reals: &'s [f32],
}

/// Rows times weights.
///
/// # Safety
///
/// The CPU has AVX-512 F, BW, VL and VNNI, `args` was checked, and its geometry [`suits`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn grouped_rows(args: &mut ConvF32<'_>, weights: GroupedWeights<'_>) {
    let g = args.geometry;
    let (rows, k, groups) = (g.out_pixels(), g.k(), g.k().div_ceil(weights.group_size));
    let quads = quads(k);
    let per_row = 2 * quads + 3 * groups;
    assert!(args.scratch.len() >= super::grouped_scratch_len(&g, Isa::Avx512), "scratch");
    let scratch = &mut args.scratch[..rows * per_row];
    for (row, scratch) in scratch.chunks_exact_mut(per_row).enumerate() {
        // SAFETY: the features are enabled.
        unsafe { quantize(&args.input[row * k..][..k], weights.group_size, scratch, quads) };
    }
    let empty = Inputs { halves: &[], steps: &[], sums: &[], reals: &[] };
    let mut inputs = [empty; MOST_ROWS];
    for (inputs, scratch) in inputs.iter_mut().zip(scratch.chunks_exact(per_row)) {
        let (halves, rest) = scratch.split_at(2 * quads);
        let (steps, rest) = rest.split_at(groups);
        let (sums, reals) = rest.split_at(groups);
        *inputs = Inputs { halves, steps, sums, reals };
    }
    let places = [Row { start: args.input.as_ptr(), step: 0, line_step: 0 }; TILE_ROWS];
    for channel in (0..g.out_c).step_by(PANEL_N) {
        let panel = GroupedPanel::new(weights, channel / PANEL_N, k);
        for (turn, inputs) in inputs[..rows].chunks(TILE_ROWS).enumerate() {
            let first = turn * TILE_ROWS;
            let at = first * g.out_c + channel;
            let (residual, in_place) = match args.epilogue.residual {
                Some(ResidualData::Apart(data)) => (data[at..].as_ptr(), false),
                Some(ResidualData::InOutput) => (core::ptr::null(), true),
                None => (core::ptr::null(), false),
            };
            let tile = Tile {
                rows: &places[..inputs.len()],
                lines: 1,
                runs: 1,
                run_len: k,
                a_step: 1,
                weights: WeightPtr::Grouped(panel),
                streams: false,
                weight_step: PANEL_N,
                panel_stride: 0,
                cols: PANEL_N.min(g.out_c - channel),
                output: args.output[first * args.output_stride + channel..].as_mut_ptr(),
                output_stride: args.output_stride,
                accumulate: in_place,
                finish: Some(Finish {
                    bias: args.epilogue.bias[channel..].as_ptr(),
                    residual,
                    residual_stride: g.out_c,
                    min: args.epilogue.min,
                    max: args.epilogue.max,
                }),
            };
            // SAFETY: `check` proved the lengths: whole panels of weights, scales and bias up to the padded channels,
            // output and residual with a row of out_c elements for each; `inputs` has one per row.
            unsafe {
                match (inputs.len(), weights.bits) {
                    (1, GroupedBits::W8) => panel_rows::<1, false>(&tile, &panel, inputs),
                    (1, GroupedBits::W4) => panel_rows::<1, true>(&tile, &panel, inputs),
                    (2, GroupedBits::W8) => panel_rows::<2, false>(&tile, &panel, inputs),
                    (2, GroupedBits::W4) => panel_rows::<2, true>(&tile, &panel, inputs),
                    (3, GroupedBits::W8) => panel_rows::<3, false>(&tile, &panel, inputs),
                    (3, GroupedBits::W4) => panel_rows::<3, true>(&tile, &panel, inputs),
                    (_, GroupedBits::W8) => panel_rows::<TILE_ROWS, false>(&tile, &panel, inputs),
                    (_, GroupedBits::W4) => panel_rows::<TILE_ROWS, true>(&tile, &panel, inputs),
                }
            }
        }
    }
    args.epilogue.activate(args.output, 0..rows, 0..g.out_c, args.output_stride);
}

/// Writes a row as [`Inputs`].
///
/// # Safety
///
/// The CPU has AVX-512 F.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn quantize(row: &[f32], group_size: usize, scratch: &mut [f32], quads: usize) {
    let groups = row.len().div_ceil(group_size);
    let (halves, rest) = scratch.split_at_mut(2 * quads);
    let (steps, rest) = rest.split_at_mut(groups);
    let (sums, reals) = rest.split_at_mut(groups);
    // Behind the last input there are zeros.
    halves.fill(0.0);
    let (high, low) = halves.split_at_mut(quads);
    for (group, inputs) in row.chunks(group_size).enumerate() {
        // SAFETY: every load and store is masked to the group's inputs; a group begins at a multiple of 16, so that its
        // integers lie in the quads from group · group_size / 4 on, one byte per input.
        unsafe {
            let mut largest = _mm512_setzero_ps();
            let mut real = _mm512_setzero_ps();
            for chunk in inputs.chunks(16) {
                let x = _mm512_maskz_loadu_ps(mask(chunk.len()), chunk.as_ptr());
                largest = _mm512_max_ps(largest, _mm512_abs_ps(x));
                real = _mm512_add_ps(real, x);
            }
            let (largest, real) = (_mm512_reduce_max_ps(largest), _mm512_reduce_add_ps(real));
            // A maximum loses NaN, a sum doesn't.
            let step = if real.is_finite() { largest / LARGEST } else { f32::NAN };
            let factor = if step > 0.0 { LARGEST / largest } else { 0.0 };
            let factor = _mm512_set1_ps(if factor.is_finite() { factor } else { 0.0 });
            let mut sum = _mm512_setzero_si512();
            for (at, chunk) in inputs.chunks(16).enumerate() {
                let mask = mask(chunk.len());
                let x = _mm512_maskz_loadu_ps(mask, chunk.as_ptr());
                let q = _mm512_cvtps_epi32(_mm512_mul_ps(x, factor));
                let q = _mm512_maskz_mov_epi32(mask, q);
                let upper = _mm512_srai_epi32::<8>(_mm512_add_epi32(q, _mm512_set1_epi32(128)));
                let lower = _mm512_sub_epi32(q, _mm512_slli_epi32::<8>(upper));
                sum = _mm512_add_epi32(sum, q);
                let byte = group * group_size + at * 16;
                let to = |halves: &mut [f32]| halves.as_mut_ptr().cast::<i8>().wrapping_add(byte);
                _mm512_mask_cvtepi32_storeu_epi8(to(high).cast(), mask, upper);
                _mm512_mask_cvtepi32_storeu_epi8(to(low).cast(), mask, lower);
            }
            steps[group] = step;
            sums[group] = f32::from_bits(_mm512_reduce_add_epi32(sum) as u32);
            reals[group] = real;
        }
    }
}

/// The first `count` of 16 lanes.
fn mask(count: usize) -> u16 {
    ((1u32 << count.min(16)) - 1) as u16
}

/// One panel of 16 outputs for `MR` rows.
///
/// # Safety
///
/// As [`Tile`] says, with `panel` as its weights, of 4 bits if `W4`; `inputs` are its rows, `MR` of them. The CPU has AVX-512 F, BW,
/// VL and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn panel_rows<const MR: usize, const W4: bool>(
    tile: &Tile<'_>,
    panel: &GroupedPanel,
    inputs: &[Inputs<'_>],
) {
    let words = panel.bits.words(tile.run_len);
    let words_per_group = panel.group_size / panel.bits.per_word();
    // Weights are read as 0 ..= 15 or, with the sign bit turned, 0 ..= 255: so much more than they are.
    let surplus = match (W4, panel.mins.is_some()) {
        (true, true) => 0,
        (true, false) => 8,
        (false, _) => 128,
    };
    let quads = inputs[0].halves.len() / 2;
    // SAFETY: words and scales are those that Tile promises; every row has `quads` quads of both halves, at least those of all
    // words, and an entry per group in the other lists.
    unsafe {
        let load = |row: usize, half: usize, quad: usize| {
            let bits = inputs.get_unchecked(row).halves.get_unchecked(half * quads + quad);
            _mm512_set1_epi32(bits.to_bits() as i32)
        };
        let nibble = _mm512_set1_epi8(15);
        let sign = _mm512_set1_epi8(-128);
        let (mut scales, mut mins) = (panel.scales, panel.mins);
        let mut total = [[Avx512::zero(); 1]; MR];
        let (mut word, mut group) = (0, 0);
        while word < words {
            let end = words.min(word + words_per_group);
            // High and low halves, each in two sums, so that one's addition doesn't wait for the other's.
            let mut sums = [[_mm512_setzero_si512(); 4]; MR];
            while word < end {
                let from = panel.words.add(word * PANEL_N * 4);
                fetch_ahead(from);
                let bytes = _mm512_loadu_si512(from.cast());
                if W4 {
                    let first = _mm512_and_si512(bytes, nibble);
                    let second = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), nibble);
                    for (row, sums) in sums.iter_mut().enumerate() {
                        sums[0] = _mm512_dpbusd_epi32(sums[0], first, load(row, 0, 2 * word));
                        sums[1] = _mm512_dpbusd_epi32(sums[1], first, load(row, 1, 2 * word));
                        sums[2] = _mm512_dpbusd_epi32(sums[2], second, load(row, 0, 2 * word + 1));
                        sums[3] = _mm512_dpbusd_epi32(sums[3], second, load(row, 1, 2 * word + 1));
                    }
                    word += 1;
                    continue;
                }
                let first = _mm512_xor_si512(bytes, sign);
                for (row, sums) in sums.iter_mut().enumerate() {
                    sums[0] = _mm512_dpbusd_epi32(sums[0], first, load(row, 0, word));
                    sums[1] = _mm512_dpbusd_epi32(sums[1], first, load(row, 1, word));
                }
                word += 1;
                if word < end {
                    let from = from.add(PANEL_N * 4);
                    fetch_ahead(from);
                    let second = _mm512_xor_si512(_mm512_loadu_si512(from.cast()), sign);
                    for (row, sums) in sums.iter_mut().enumerate() {
                        sums[2] = _mm512_dpbusd_epi32(sums[2], second, load(row, 0, word));
                        sums[3] = _mm512_dpbusd_epi32(sums[3], second, load(row, 1, word));
                    }
                    word += 1;
                }
            }
            let scale: Avx512 = scales.load(0);
            for (row, sums) in sums.iter().enumerate() {
                let inputs = inputs.get_unchecked(row);
                let high = _mm512_add_epi32(sums[0], sums[2]);
                let low = _mm512_add_epi32(sums[1], sums[3]);
                let sum = inputs.sums.get_unchecked(group).to_bits() as i32;
                let sum = _mm512_set1_epi32(sum.wrapping_mul(surplus));
                let exact = _mm512_add_epi32(_mm512_slli_epi32::<8>(high), low);
                let exact = Avx512::from_i32(_mm512_sub_epi32(exact, sum));
                let step = Avx512::splat(*inputs.steps.get_unchecked(group));
                total[row][0] = total[row][0].fma(exact, scale.mul(step));
                if let Some(mins) = mins {
                    let real = Avx512::splat(*inputs.reals.get_unchecked(group));
                    total[row][0] = total[row][0].fma(mins.load(0), real);
                }
            }
            scales = scales.wrapping_add(PANEL_N);
            mins = mins.map(|mins| mins.wrapping_add(PANEL_N));
            group += 1;
        }
        write::<Avx512, MR, 1>(tile, total);
    }
}
