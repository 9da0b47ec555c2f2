//! The products with Advanced SIMD: `smlal` by an element of a row.

use core::arch::aarch64::*;

use super::{COLUMNS, Products};

/// i16 of a pair of rows of a panel.
const STEP: usize = 2 * COLUMNS;

/// Rows that are done together: 16 registers of sums, 4 of a panel, 4 of the rows.
const ROWS: usize = 4;

/// For all of AArch64.
pub(super) fn products_neon(args: &mut Products<'_>) {
    let rows = args.check();
    let Products { a, pairs, b, ref mut output, columns } = *args;
    for (panel, b) in b.chunks_exact(pairs * STEP).enumerate() {
        for row in (0..rows).step_by(ROWS) {
            let height = ROWS.min(rows - row);
            let a = &a[row * 2 * pairs..][..height * 2 * pairs];
            let output = &mut output[row * columns + panel * COLUMNS..];
            // SAFETY: targets that this module is built for have Advanced SIMD.
            unsafe {
                match height {
                    4 => tile::<4>(a, b, output, columns),
                    3 => tile::<3>(a, b, output, columns),
                    2 => tile::<2>(a, b, output, columns),
                    _ => tile::<1>(a, b, output, columns),
                }
            }
        }
    }
}

/// `M` rows by a panel.
#[target_feature(enable = "neon")]
#[inline]
fn tile<const M: usize>(a: &[i16], b: &[i16], output: &mut [i32], columns: usize) {
    let pairs = b.len() / STEP;
    assert!(a.len() >= M * 2 * pairs);
    let mut sums = [[vdupq_n_s32(0); COLUMNS / 4]; M];
    for pair in 0..pairs {
        for half in 0..2 {
            // SAFETY: pair < pairs, so 32 numbers begin at 32 * pair; `ld2` takes the two rows of half of them apart.
            let b = unsafe { vld2q_s16(b.as_ptr().add(pair * STEP + half * COLUMNS)) };
            for m in 0..M {
                let (first, second) = (a[(m * pairs + pair) * 2], a[(m * pairs + pair) * 2 + 1]);
                let sum = sums[m][2 * half];
                let sum = vmlal_n_s16(sum, vget_low_s16(b.0), first);
                sums[m][2 * half] = vmlal_n_s16(sum, vget_low_s16(b.1), second);
                let sum = sums[m][2 * half + 1];
                let sum = vmlal_high_n_s16(sum, b.0, first);
                sums[m][2 * half + 1] = vmlal_high_n_s16(sum, b.1, second);
            }
        }
    }
    for m in 0..M {
        let output = &mut output[m * columns..][..COLUMNS];
        for v in 0..COLUMNS / 4 {
            // SAFETY: four of sixteen numbers.
            unsafe { vst1q_s32(output.as_mut_ptr().add(4 * v), sums[m][v]) };
        }
    }
}
