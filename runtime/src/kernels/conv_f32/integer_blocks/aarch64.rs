//! Integer blocks with the dot products of AArch64 (`sdot`) and with its matrix products (`smmla`), of bytes.
//!
//! Inputs are halves, so that a group's weights are read twice: sums of high halves, times 256, are what low halves are added to. That
//! leaves registers for 6 rows.

use core::arch::aarch64::*;

use super::super::integer_rows::aarch64::{Halves, quantize_neon};
use super::super::lanes::Neon;
use super::{Block, BlocksKernel, Products, Tile, TileInputs, Unpacked, panel_rows, unpack};
use crate::kernels::PANEL_N;
use crate::kernels::aarch64::{sdot_lane, smmla};

/// Elements of a quad of a panel's weights: bytes.
pub(super) const QUAD_LEN: usize = PANEL_N;

/// Rows of the highest tile: 24 sums, 4 registers of weights and 2 or 3 of inputs.
const ROWS: usize = 6;

/// Of dotprod.
pub(in super::super) const BLOCKS_DOTPROD: BlocksKernel = BlocksKernel {
    tile_rows: ROWS,
    quantize: quantize_neon,
    set: |tile, row, inputs| tile.set::<1>(row, inputs),
    unpack: unpack_dotprod,
    run: panel_dotprod,
};

/// Of dotprod with i8mm.
pub(in super::super) const BLOCKS_I8MM: BlocksKernel = BlocksKernel {
    set: |tile, row, inputs| tile.set::<2>(row, inputs),
    unpack: unpack_i8mm,
    run: panel_i8mm,
    ..BLOCKS_DOTPROD
};

/// Reads 16 bytes.
///
/// # Safety
///
/// They are readable.
#[inline(always)]
unsafe fn load(from: *const f32) -> int8x16_t {
    // SAFETY: the caller's promise.
    unsafe { vld1q_s8(from.cast()) }
}

/// Elements of four rows from `first` on, or of as many as a tile of `TILE_ROWS` has.
///
/// # Safety
///
/// There are `TILE_ROWS` elements, an even number, and `first` is below.
#[inline(always)]
unsafe fn four<const TILE_ROWS: usize>(from: *const f32, first: usize) -> float32x4_t {
    // SAFETY: the caller's promise.
    unsafe {
        match first + 4 <= TILE_ROWS {
            true => vld1q_f32(from.add(first)),
            false => vcombine_f32(vld1_f32(from.add(first)), vdup_n_f32(0.0)),
        }
    }
}

/// Sums of high halves as sums of low ones begin.
///
/// # Safety
///
/// The CPU has Advanced SIMD.
#[inline(always)]
unsafe fn times_256(sums: int32x4_t) -> int32x4_t {
    // SAFETY: the caller's promise.
    unsafe { vshlq_n_s32::<8>(sums) }
}

/// Adds the products of a row whose quad of inputs is lane `LANE`.
///
/// # Safety
///
/// The CPU has dotprod.
#[inline(always)]
unsafe fn add_row<const LANE: u8, const NV: usize>(
    sums: &mut [int32x4_t; NV],
    quads: [int8x16_t; NV],
    inputs: int8x16_t,
) {
    for v in 0..NV {
        // SAFETY: the caller's promise.
        sums[v] = unsafe { sdot_lane::<LANE>(sums[v], quads[v], inputs) };
    }
}

/// `sdot` by element: a register is of a row and four outputs.
struct Sdot;

impl Products for Sdot {
    type Quads = Halves;
    type Outputs = Neon;
    type Sums = int32x4_t;

    const PASSES: usize = 2;
    const QUADS: usize = 1;

    #[inline(always)]
    unsafe fn zero() -> int32x4_t {
        // SAFETY: the target has Advanced SIMD.
        unsafe { vdupq_n_s32(0) }
    }

    #[inline(always)]
    unsafe fn next_pass(sums: int32x4_t) -> int32x4_t {
        // SAFETY: the target has Advanced SIMD.
        unsafe { times_256(sums) }
    }

    #[inline(always)]
    unsafe fn add<const TILE_ROWS: usize, const MR: usize, const NV: usize>(
        sums: &mut [[int32x4_t; NV]; MR],
        weights: *const f32,
        inputs: *const f32,
    ) {
        const { assert!(MR.is_multiple_of(2)) };
        // SAFETY: the caller has dotprod, and promises a quad of the weights of `NV` registers, and of the inputs of `TILE_ROWS` rows.
        unsafe {
            let mut quads = [load(weights); NV];
            for v in 1..NV {
                quads[v] = load(weights.add(v * 4));
            }
            // A loop over rows, with the lane chosen in it, would be too long for the compiler to unroll.
            let mut first = 0;
            while first < MR {
                let x = vreinterpretq_s8_f32(four::<TILE_ROWS>(inputs, first));
                add_row::<0, NV>(&mut sums[first], quads, x);
                add_row::<1, NV>(&mut sums[first + 1], quads, x);
                if first + 2 < MR {
                    add_row::<2, NV>(&mut sums[first + 2], quads, x);
                    add_row::<3, NV>(&mut sums[first + 3], quads, x);
                }
                first += 4;
            }
        }
    }

    #[inline(always)]
    unsafe fn floats(sums: int32x4_t) -> Neon {
        // SAFETY: the target has Advanced SIMD.
        unsafe { Neon::from_i32(sums) }
    }

    #[inline(always)]
    unsafe fn of_outputs(from: *const f32, _: usize, v: usize) -> Neon {
        // SAFETY: the caller promises the elements.
        Neon(unsafe { vld1q_f32(from.add(v * 4)) })
    }

    #[inline(always)]
    unsafe fn of_rows<const TILE_ROWS: usize>(from: *const f32, row: usize) -> Neon {
        // SAFETY: the caller promises `TILE_ROWS` elements.
        Neon(unsafe {
            let four = four::<TILE_ROWS>(from, row / 4 * 4);
            match row % 4 {
                0 => vdupq_laneq_f32::<0>(four),
                1 => vdupq_laneq_f32::<1>(four),
                2 => vdupq_laneq_f32::<2>(four),
                _ => vdupq_laneq_f32::<3>(four),
            }
        })
    }

    #[inline(always)]
    unsafe fn store(quads: [int8x16_t; 2], surplus: i16, octet: *mut f32, lane: usize) {
        // SAFETY: the caller promises the elements.
        unsafe {
            for (quad, bytes) in quads.into_iter().enumerate() {
                let bytes = vsubq_s8(bytes, vdupq_n_s8(surplus as i8));
                vst1q_s8(octet.add(quad * QUAD_LEN + lane).cast(), bytes);
            }
        }
    }
}

/// `smmla`: registers are of two rows by two outputs. Those of rows 2i and 2i + 1 of a tile have the first two outputs of four, and the
/// last two.
struct Smmla;

impl Products for Smmla {
    type Quads = Halves;
    type Outputs = Neon;
    type Sums = int32x4_t;

    const PASSES: usize = 2;
    const QUADS: usize = 2;

    #[inline(always)]
    unsafe fn zero() -> int32x4_t {
        // SAFETY: the target has Advanced SIMD.
        unsafe { vdupq_n_s32(0) }
    }

    #[inline(always)]
    unsafe fn next_pass(sums: int32x4_t) -> int32x4_t {
        // SAFETY: the target has Advanced SIMD.
        unsafe { times_256(sums) }
    }

    #[inline(always)]
    unsafe fn add<const TILE_ROWS: usize, const MR: usize, const NV: usize>(
        sums: &mut [[int32x4_t; NV]; MR],
        weights: *const f32,
        inputs: *const f32,
    ) {
        const { assert!(MR.is_multiple_of(2)) };
        // SAFETY: the caller has i8mm, and promises two quads of the weights of `NV` registers, and of the inputs of `TILE_ROWS` rows.
        unsafe {
            let mut x = [load(inputs); MR];
            for row in (2..MR).step_by(2) {
                x[row] = load(inputs.add(row * 2));
            }
            for v in 0..NV {
                let outputs = [load(weights.add(v * 8)), load(weights.add(v * 8 + 4))];
                for row in 0..MR {
                    sums[row][v] = smmla(sums[row][v], x[row / 2 * 2], outputs[row % 2]);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn floats(sums: int32x4_t) -> Neon {
        // SAFETY: the target has Advanced SIMD.
        unsafe { Neon::from_i32(sums) }
    }

    #[inline(always)]
    unsafe fn of_outputs(from: *const f32, row: usize, v: usize) -> Neon {
        // SAFETY: the caller promises the elements.
        Neon(unsafe {
            let four = vreinterpretq_f64_f32(vld1q_f32(from.add(v * 4)));
            vreinterpretq_f32_f64(match row % 2 {
                0 => vdupq_laneq_f64::<0>(four),
                _ => vdupq_laneq_f64::<1>(four),
            })
        })
    }

    #[inline(always)]
    unsafe fn of_rows<const TILE_ROWS: usize>(from: *const f32, row: usize) -> Neon {
        // SAFETY: the caller promises `TILE_ROWS` elements, an even number.
        Neon(unsafe {
            let two = vcombine_f32(vld1_f32(from.add(row / 2 * 2)), vdup_n_f32(0.0));
            vzip1q_f32(two, two)
        })
    }

    #[inline(always)]
    unsafe fn by_rows<const MR: usize, const NV: usize>(
        total: [[Neon; NV]; MR],
    ) -> [[Neon; NV]; MR] {
        let mut rows = total;
        for row in (0..MR).step_by(2) {
            for v in 0..NV {
                let [first, last] = [total[row][v].0, total[row + 1][v].0].map(|half| {
                    // SAFETY: the target has Advanced SIMD.
                    unsafe { vreinterpretq_f64_f32(half) }
                });
                // SAFETY: the target has Advanced SIMD.
                unsafe {
                    rows[row][v] = Neon(vreinterpretq_f32_f64(vzip1q_f64(first, last)));
                    rows[row + 1][v] = Neon(vreinterpretq_f32_f64(vzip2q_f64(first, last)));
                }
            }
        }
        rows
    }

    #[inline(always)]
    unsafe fn store(quads: [int8x16_t; 2], surplus: i16, octet: *mut f32, lane: usize) {
        // SAFETY: the caller promises the elements.
        unsafe {
            let [first, second] =
                quads.map(|bytes| vreinterpretq_s32_s8(vsubq_s8(bytes, vdupq_n_s8(surplus as i8))));
            let to = octet.add(2 * lane);
            vst1q_s32(to.cast(), vzip1q_s32(first, second));
            vst1q_s32(to.add(4).cast(), vzip2q_s32(first, second));
        }
    }
}

/// # Safety
///
/// As [`unpack`] says.
#[target_feature(enable = "neon,dotprod")]
unsafe fn unpack_dotprod(block: &Block, to: &mut Unpacked<'_>) {
    // SAFETY: the contract is the same.
    unsafe { unpack::<Sdot>(block, to) }
}

/// # Safety
///
/// As [`unpack`] says.
#[target_feature(enable = "neon,i8mm")]
unsafe fn unpack_i8mm(block: &Block, to: &mut Unpacked<'_>) {
    // SAFETY: the contract is the same.
    unsafe { unpack::<Smmla>(block, to) }
}

/// # Safety
///
/// As [`panel_rows`] says.
#[target_feature(enable = "neon,dotprod")]
unsafe fn panel_dotprod(
    tile: &Tile<'_>,
    block: &Block,
    weights: &Unpacked<'_>,
    inputs: &TileInputs<'_>,
) {
    // SAFETY: the contract is the same.
    unsafe {
        match tile.rows.len() {
            1 | 2 => panel_rows::<Sdot, ROWS, 2, 4>(tile, block, weights, inputs),
            3 | 4 => panel_rows::<Sdot, ROWS, 4, 4>(tile, block, weights, inputs),
            _ => panel_rows::<Sdot, ROWS, 6, 4>(tile, block, weights, inputs),
        }
    }
}

/// # Safety
///
/// As [`panel_rows`] says.
#[target_feature(enable = "neon,i8mm")]
unsafe fn panel_i8mm(
    tile: &Tile<'_>,
    block: &Block,
    weights: &Unpacked<'_>,
    inputs: &TileInputs<'_>,
) {
    // SAFETY: the contract is the same.
    unsafe {
        match tile.rows.len() {
            1 | 2 => panel_rows::<Smmla, ROWS, 2, 4>(tile, block, weights, inputs),
            3 | 4 => panel_rows::<Smmla, ROWS, 4, 4>(tile, block, weights, inputs),
            _ => panel_rows::<Smmla, ROWS, 6, 4>(tile, block, weights, inputs),
        }
    }
}
