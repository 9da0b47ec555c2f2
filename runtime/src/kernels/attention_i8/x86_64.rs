//! The products with AVX2 (`vpmaddwd`) and with AVX-512 VNNI (`vpdpwssd`, the same with an addition).

use core::arch::x86_64::*;

use super::{COLUMNS, Products};

/// i16 of a pair of rows of a panel.
const STEP: usize = 2 * COLUMNS;

/// For CPUs with AVX2.
pub(super) fn products_avx2(args: &mut Products<'_>) {
    let rows = args.check();
    // SAFETY: `select` gives this function only where AVX2 is available; the lengths were checked.
    unsafe { run_avx2(args, rows) }
}

/// For CPUs with AVX-512 F, BW and VNNI.
pub(super) fn products_avx512(args: &mut Products<'_>) {
    let rows = args.check();
    // SAFETY: `select` gives this function only where AVX-512 is available; the lengths were checked.
    unsafe { run_avx512(args, rows) }
}

/// Some rows of `a` by some panels of `b`. The pointers are raw, so that one loop serves all numbers of rows.
#[derive(Clone, Copy)]
struct Tile {
    a: *const i16,
    b: *const i16,
    pairs: usize,
    output: *mut i32,
    /// Columns of the whole output.
    columns: usize,
}

/// # Safety
///
/// The CPU has AVX2; the lengths were checked, and there are so many rows.
#[target_feature(enable = "avx2")]
unsafe fn run_avx2(args: &mut Products<'_>, rows: usize) {
    for column in (0..args.columns).step_by(COLUMNS) {
        let mut row = 0;
        while row < rows {
            let height = (rows - row).min(4);
            // SAFETY: rows from `row` to `row + height` and the panel of `column` are there.
            unsafe {
                let tile = tile(args, row, column);
                match height {
                    4 => tile_avx2::<4>(tile),
                    3 => tile_avx2::<3>(tile),
                    2 => tile_avx2::<2>(tile),
                    _ => tile_avx2::<1>(tile),
                }
            }
            row += height;
        }
    }
}

/// # Safety
///
/// The CPU has AVX-512 F, BW and VNNI; the lengths were checked, and there are so many rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn run_avx512(args: &mut Products<'_>, rows: usize) {
    let mut column = 0;
    while column < args.columns {
        let two = args.columns - column > COLUMNS;
        let mut row = 0;
        while row < rows {
            let height = match rows - row {
                12.. => 12,
                8.. => 8,
                4.. => 4,
                _ => 1,
            };
            // SAFETY: rows from `row` to `row + height` are there, and the panel of `column`, with `two` the next one, too.
            unsafe {
                let tile = tile(args, row, column);
                match (height, two) {
                    (12, true) => tile_avx512::<12, 2>(tile),
                    (12, _) => tile_avx512::<12, 1>(tile),
                    (8, true) => tile_avx512::<8, 2>(tile),
                    (8, _) => tile_avx512::<8, 1>(tile),
                    (4, true) => tile_avx512::<4, 2>(tile),
                    (4, _) => tile_avx512::<4, 1>(tile),
                    (_, true) => tile_avx512::<1, 2>(tile),
                    _ => tile_avx512::<1, 1>(tile),
                }
            }
            row += height;
        }
        column += if two { 2 * COLUMNS } else { COLUMNS };
    }
}

/// The tile that begins with a row and a column.
fn tile(args: &mut Products<'_>, row: usize, column: usize) -> Tile {
    let Products { a, pairs, b, ref mut output, columns } = *args;
    Tile {
        a: a[row * 2 * pairs..].as_ptr(),
        b: b[column * 2 * pairs..].as_ptr(),
        pairs,
        output: output[row * columns + column..].as_mut_ptr(),
        columns,
    }
}

/// # Safety
///
/// The CPU has AVX2; `M` rows and a panel begin at the tile.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn tile_avx2<const M: usize>(tile: Tile) {
    let width = 2 * tile.pairs;
    let mut sums = [[_mm256_setzero_si256(); 2]; M];
    for pair in 0..tile.pairs {
        // SAFETY: a panel has `pairs` steps, of two registers each.
        let b = unsafe {
            let from = tile.b.add(pair * STEP);
            [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(COLUMNS).cast())]
        };
        for m in 0..M {
            // SAFETY: each of M rows has `pairs` pairs.
            let a = unsafe { tile.a.add(m * width + 2 * pair).cast::<i32>().read_unaligned() };
            let a = _mm256_set1_epi32(a);
            for v in 0..2 {
                sums[m][v] = _mm256_add_epi32(sums[m][v], _mm256_madd_epi16(a, b[v]));
            }
        }
    }
    for m in 0..M {
        for v in 0..2 {
            // SAFETY: each of M rows of the output has the panel's 16 columns.
            unsafe {
                let to = tile.output.add(m * tile.columns + 8 * v);
                _mm256_storeu_si256(to.cast(), sums[m][v]);
            }
        }
    }
}

/// # Safety
///
/// The CPU has AVX-512 F, BW and VNNI; `M` rows and `N` panels begin at the tile.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
unsafe fn tile_avx512<const M: usize, const N: usize>(tile: Tile) {
    let width = 2 * tile.pairs;
    let panel = tile.pairs * STEP;
    let mut sums = [[_mm512_setzero_si512(); N]; M];
    for pair in 0..tile.pairs {
        let mut b = [_mm512_setzero_si512(); N];
        for n in 0..N {
            // SAFETY: each of N panels has `pairs` steps, of one register each.
            b[n] = unsafe { _mm512_loadu_si512(tile.b.add(n * panel + pair * STEP).cast()) };
        }
        for m in 0..M {
            // SAFETY: each of M rows has `pairs` pairs.
            let a = unsafe { tile.a.add(m * width + 2 * pair).cast::<i32>().read_unaligned() };
            let a = _mm512_set1_epi32(a);
            for n in 0..N {
                sums[m][n] = _mm512_dpwssd_epi32(sums[m][n], a, b[n]);
            }
        }
    }
    for m in 0..M {
        for n in 0..N {
            // SAFETY: each of M rows of the output has the 16 columns of N panels.
            unsafe {
                let to = tile.output.add(m * tile.columns + COLUMNS * n);
                _mm512_storeu_si512(to.cast(), sums[m][n]);
            }
        }
    }
}
