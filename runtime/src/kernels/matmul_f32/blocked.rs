//! The loops around the microkernel of [`conv_f32`](super::super::conv_f32): blocks of k and of rows,
//! panels of `b` packed on the stack, tiles.
//!
//! A panel of `b` is packed when several tiles of rows read it, when it is stored transposed, or
//! when its columns don't fill it; otherwise it is read in place. A product of few rows reads both
//! factors in place throughout: a row of the output is a weighted sum of rows of `b`, or dot
//! products with the rows of a transposed `b`.

use super::super::PANEL_N;
use super::super::conv_f32::lanes::Lanes;
use super::super::conv_f32::tile::{Row, Tile, TileKernel, WeightPtr};
use super::{BLOCK_ROWS, MatMulF32};
use core::mem::MaybeUninit;
use core::ptr;

/// Elements of k in a block: 16 × 256 f32 of `b` are 16 KiB, half of an L1.
const BLOCK_K: usize = 256;

/// Most panels of a tile, over all instruction sets.
const MAX_PANELS: usize = 2;

/// Most rows of a tile, over all instruction sets.
const MAX_TILE_ROWS: usize = 12;

/// Up to this many rows, `b` isn't worth packing.
const VECTOR_ROWS: usize = 3;

/// The microkernels of an instruction set.
#[derive(Clone, Copy)]
pub(super) struct Kernels {
    pub(super) tile: TileKernel,
    /// Unsafe as [`dots`] says.
    pub(super) dots: unsafe fn(&[f32], &[f32], &mut [f32]),
    /// Unsafe as [`weighted_rows`] says.
    pub(super) weighted_rows: unsafe fn(&[f32], &[f32], &mut [f32]),
}

/// Panels of `b`: aligned to a cache line.
#[repr(align(64))]
struct Panels([MaybeUninit<f32>; MAX_PANELS * PANEL_N * BLOCK_K]);

/// Matrix product by tiles of `kernels`.
///
/// # Safety
///
/// The CPU has the instruction set of `kernels`.
pub(super) unsafe fn matmul_f32_blocked(args: &mut MatMulF32<'_>, kernels: Kernels) {
    args.check();
    let (m, k, n) = (args.m, args.k, args.n);
    if m == 0 || k == 0 || n == 0 {
        args.output[..m * n].fill(0.0);
        return;
    }
    let tile = kernels.tile;
    assert!(tile.panels <= MAX_PANELS && tile.rows <= MAX_TILE_ROWS);

    if m <= VECTOR_ROWS && (!args.trans_a || m == 1) {
        let vector = if args.trans_b { kernels.dots } else { kernels.weighted_rows };
        for i in 0..m {
            // SAFETY: the caller vouches for the instruction set.
            unsafe {
                vector(&args.a[i * k..(i + 1) * k], args.b, &mut args.output[i * n..(i + 1) * n])
            };
        }
        return;
    }

    let (a_row, a_step) = if args.trans_a { (1, m) } else { (k, 1) };
    let mut panels = Panels([MaybeUninit::uninit(); MAX_PANELS * PANEL_N * BLOCK_K]);
    for first_k in (0..k).step_by(BLOCK_K) {
        let len = BLOCK_K.min(k - first_k);
        for first_row in (0..m).step_by(BLOCK_ROWS) {
            let last_row = m.min(first_row + BLOCK_ROWS);
            for col in (0..n).step_by(tile.panels * PANEL_N) {
                let cols = (tile.panels * PANEL_N).min(n - col);
                let in_place =
                    !args.trans_b && cols % PANEL_N == 0 && last_row - first_row <= tile.rows;
                let (weights, weight_step, panel_stride) = if in_place {
                    (args.b[first_k * n + col..].as_ptr(), n, PANEL_N)
                } else {
                    pack(args, first_k, len, col, cols, &mut panels.0);
                    (panels.0.as_ptr().cast(), PANEL_N, PANEL_N * BLOCK_K)
                };
                // Tiles of even height: a last one of few rows would be slow.
                let tiles = (last_row - first_row).div_ceil(tile.rows);
                let height = (last_row - first_row).div_ceil(tiles);
                for row in (first_row..last_row).step_by(height) {
                    let height = height.min(last_row - row);
                    let mut rows =
                        [Row { start: ptr::null(), step: 0, line_step: 0 }; MAX_TILE_ROWS];
                    for (i, to) in rows[..height].iter_mut().enumerate() {
                        to.start = args.a[(row + i) * a_row + first_k * a_step..].as_ptr();
                    }
                    let t = Tile {
                        rows: &rows[..height],
                        lines: 1,
                        runs: 1,
                        run_len: len,
                        a_step,
                        weights: WeightPtr::F32(weights),
                        streams: false,
                        weight_step,
                        panel_stride,
                        cols,
                        output: args.output[row * n + col..].as_mut_ptr(),
                        output_stride: n,
                        accumulate: first_k > 0,
                        finish: None,
                    };
                    // SAFETY: the caller vouches for the instruction set. `check` proved that the
                    // matrices are whole: row + height <= m rows of a have elements up to
                    // first_k + len <= k, the output has columns up to col + cols <= n. In place, b
                    // has len rows from first_k on with whole panels of columns; otherwise `pack`
                    // wrote len <= BLOCK_K rows of whole panels.
                    unsafe { (tile.run)(&t) };
                }
            }
        }
    }
}

/// Writes rows `first_k..first_k + len` and columns `col..col + cols` of `b` as panels
/// `[cols/16][BLOCK_K][16]`, padded with zeros.
fn pack(
    args: &MatMulF32<'_>,
    first_k: usize,
    len: usize,
    col: usize,
    cols: usize,
    panels: &mut [MaybeUninit<f32>],
) {
    for (panel, first) in panels.chunks_exact_mut(PANEL_N * BLOCK_K).zip((0..cols).step_by(PANEL_N))
    {
        let width = PANEL_N.min(cols - first);
        let rows = &mut panel.as_chunks_mut::<PANEL_N>().0[..len];
        if args.trans_b {
            let mut columns = [&args.b[..0]; PANEL_N];
            for (j, column) in columns[..width].iter_mut().enumerate() {
                *column = &args.b[(col + first + j) * args.k + first_k..][..len];
            }
            let mut done = 0;
            if width == PANEL_N {
                // Square tiles, whose loops have lengths that the compiler knows.
                let columns = columns.map(|column| column.as_chunks::<PANEL_N>().0);
                for (tile, rows) in rows.as_chunks_mut::<PANEL_N>().0.iter_mut().enumerate() {
                    let columns = columns.map(|column| &column[tile]);
                    for (l, row) in rows.iter_mut().enumerate() {
                        for j in 0..PANEL_N {
                            row[j].write(columns[j][l]);
                        }
                    }
                    done += PANEL_N;
                }
            }
            for (l, row) in rows.iter_mut().enumerate().skip(done) {
                for (x, column) in row.iter_mut().zip(columns) {
                    x.write(column.get(l).copied().unwrap_or(0.0));
                }
            }
        } else {
            for (l, row) in rows.iter_mut().enumerate() {
                let from = &args.b[(first_k + l) * args.n + col + first..][..width];
                if let Ok(from) = <&[f32; PANEL_N]>::try_from(from) {
                    row.write_copy_of_slice(from); // a length that the compiler knows
                } else {
                    *row = [MaybeUninit::new(0.0); PANEL_N];
                    row[..width].write_copy_of_slice(from);
                }
            }
        }
    }
}

/// `output[j] = sum over l of a[l] * b[j * a.len() + l]`.
///
/// # Safety
///
/// The CPU has the instruction set of `L`.
///
/// # Panics
///
/// When `b` is shorter than `output.len()` rows of `a.len()`.
#[inline(always)]
pub(super) unsafe fn dots<L: Lanes>(a: &[f32], b: &[f32], output: &mut [f32]) {
    /// Rows of `b` at once: as many sums as hide the latency of the fused multiply-add.
    const ROWS: usize = 8;
    let k = a.len();
    assert!(b.len() >= super::product(&[output.len(), k]), "b");
    for (block, output) in output.chunks_mut(ROWS).enumerate() {
        let b = &b[block * ROWS * k..];
        let last = output.len() - 1;
        // SAFETY: l stays below k in a; rows i.min(last) of the block are inside b by the assertion.
        unsafe {
            let mut sums = [L::zero(); ROWS];
            let mut l = 0;
            while l + L::LEN <= k {
                let x = L::load(a.as_ptr().add(l));
                for i in 0..ROWS {
                    sums[i] = sums[i].fma(x, L::load(b.as_ptr().add(i.min(last) * k + l)));
                }
                l += L::LEN;
            }
            if l < k {
                let x = L::load_part(a.as_ptr().add(l), k - l);
                for i in 0..ROWS {
                    sums[i] =
                        sums[i].fma(x, L::load_part(b.as_ptr().add(i.min(last) * k + l), k - l));
                }
            }
            for i in 0..ROWS {
                let sum = sums[i].sum();
                if i <= last {
                    output[i] = sum;
                }
            }
        }
    }
}

/// `output[j] = sum over l of a[l] * b[l * output.len() + j]`.
///
/// # Safety
///
/// The CPU has the instruction set of `L`.
///
/// # Panics
///
/// When `b` is shorter than `a.len()` rows of `output.len()`.
#[inline(always)]
pub(super) unsafe fn weighted_rows<L: Lanes>(a: &[f32], b: &[f32], output: &mut [f32]) {
    let n = output.len();
    assert!(b.len() >= super::product(&[a.len(), n]), "b");
    let mut col = 0;
    // SAFETY: columns col..col + WIDE * L::LEN, or col..n, of a.len() rows are inside b by the
    // assertion, and inside the output.
    unsafe {
        while col < n {
            // As many registers of columns at once as hide the latency of the fused multiply-add, if there are.
            let registers = (n - col) / L::LEN;
            col += match registers {
                0 => {
                    let mut sum = L::zero();
                    for (l, &x) in a.iter().enumerate() {
                        let row = L::load_part(b.as_ptr().add(l * n + col), n - col);
                        sum = sum.fma(L::splat(x), row);
                    }
                    sum.store_part(output.as_mut_ptr().add(col), n - col);
                    break;
                }
                1 => weighted_columns::<L, 1>(a, b, output, col),
                2 => weighted_columns::<L, 2>(a, b, output, col),
                3 => weighted_columns::<L, 3>(a, b, output, col),
                4 => weighted_columns::<L, 4>(a, b, output, col),
                5 => weighted_columns::<L, 5>(a, b, output, col),
                6 => weighted_columns::<L, 6>(a, b, output, col),
                7 => weighted_columns::<L, 7>(a, b, output, col),
                _ => weighted_columns::<L, 8>(a, b, output, col),
            };
        }
    }
}

/// `WIDE` registers of columns from `col` on, for [`weighted_rows`]; gives how many columns these are.
///
/// # Safety
///
/// The CPU has the instruction set of `L`; `b` has `a.len()` rows of `output.len()` columns, and these columns exist.
#[inline(always)]
unsafe fn weighted_columns<L: Lanes, const WIDE: usize>(
    a: &[f32],
    b: &[f32],
    output: &mut [f32],
    col: usize,
) -> usize {
    // SAFETY: as the caller's.
    unsafe {
        let mut sums = [L::zero(); WIDE];
        for (l, &x) in a.iter().enumerate() {
            let row = b.as_ptr().add(l * output.len() + col);
            for v in 0..WIDE {
                sums[v] = sums[v].fma(L::splat(x), L::load(row.add(v * L::LEN)));
            }
        }
        for v in 0..WIDE {
            sums[v].store(output.as_mut_ptr().add(col + v * L::LEN));
        }
    }
    WIDE * L::LEN
}
