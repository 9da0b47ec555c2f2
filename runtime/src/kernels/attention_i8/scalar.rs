//! The kernels in plain Rust; all but the products are also compiled for other instruction sets.

use super::{COLUMNS, Mask, Products, WHOLE, bounds, power};
use crate::kernels::elementary::{fold, larger};
use crate::kernels::requantize::{round_clamp, round_to_integer};

/// Products, a row of a panel at a time.
pub(super) fn products(args: &mut Products<'_>) {
    args.check();
    let Products { a, pairs, b, ref mut output, columns } = *args;
    for (a, output) in a.chunks_exact(2 * pairs).zip(output.chunks_exact_mut(columns)) {
        let panels = b.chunks_exact(pairs * 2 * COLUMNS);
        for (panel, output) in panels.zip(output.chunks_exact_mut(COLUMNS)) {
            let mut sums = [0i32; COLUMNS];
            for (a, b) in a.chunks_exact(2).zip(panel.chunks_exact(2 * COLUMNS)) {
                for (sum, b) in sums.iter_mut().zip(b.chunks_exact(2)) {
                    let pair = i32::from(a[0]) * i32::from(b[0]);
                    *sum = sum.wrapping_add(pair).wrapping_add(i32::from(a[1]) * i32::from(b[1]));
                }
            }
            output.copy_from_slice(&sums);
        }
    }
}

/// Numbers that are done together.
const LANES: usize = 16;

/// A chunk of the mask's numbers.
type Numbers = [f32; LANES];

/// The mask of some products in chunks.
struct Chunks<'m> {
    whole: &'m [Numbers],
    /// From the chunk of one to that of the next: 0 if the mask is the same to all.
    step: usize,
    /// Of less than a chunk; what pads it is hidden.
    last: Numbers,
}

impl<'m> Chunks<'m> {
    /// Of so many products; `same` is room for a chunk.
    #[inline(always)]
    fn new(mask: Mask<'m>, len: usize, same: &'m mut Numbers) -> Self {
        let rest = len % LANES;
        let mut last = [f32::NEG_INFINITY; LANES];
        match mask {
            Mask::All(number) => {
                last[..rest].fill(number);
                *same = [number; LANES];
                Chunks { whole: core::slice::from_ref(same), step: 0, last }
            }
            Mask::Each(mask) => {
                let (whole, partial) = mask[..len].as_chunks::<LANES>();
                last[..rest].copy_from_slice(partial);
                Chunks { whole, step: 1, last }
            }
        }
    }
}

/// Less than a chunk as one.
#[inline(always)]
fn padded(rest: &[i32]) -> [i32; LANES] {
    let mut chunk = [0; LANES];
    chunk[..rest.len()].copy_from_slice(rest);
    chunk
}

/// [`LargestFn`](super::LargestFn).
#[inline(always)]
pub(super) fn largest(products: &[i32], scale: f32, mask: Mask<'_>) -> f32 {
    let mut same = [0.0; LANES];
    let mask = Chunks::new(mask, products.len(), &mut same);
    let (chunks, rest) = products.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for (at, chunk) in chunks.iter().enumerate() {
        look(chunk, &mask.whole[at * mask.step], scale, &mut lanes);
    }
    if !rest.is_empty() {
        look(&padded(rest), &mask.last, scale, &mut lanes);
    }
    fold(lanes, larger)
}

/// [`RaiseFn`](super::RaiseFn).
#[inline(always)]
pub(super) fn raise(products: &mut [i32], scale: f32, mask: Mask<'_>, largest: f32) -> i32 {
    let mut same = [0.0; LANES];
    let mask = Chunks::new(mask, products.len(), &mut same);
    let (chunks, rest) = products.as_chunks_mut::<LANES>();
    let mut sums = [0i32; LANES];
    for (at, chunk) in chunks.iter_mut().enumerate() {
        raise_chunk(chunk, &mask.whole[at * mask.step], scale, largest, &mut sums);
    }
    if !rest.is_empty() {
        let mut last = padded(rest);
        raise_chunk(&mut last, &mask.last, scale, largest, &mut sums);
        rest.copy_from_slice(&last[..rest.len()]);
    }
    sums.iter().sum()
}

/// [`ShareFn`](super::ShareFn).
#[inline(always)]
pub(super) fn share(exponentials: &[i32], sum: i32, weights: &mut [i16]) -> i32 {
    let weights = &mut weights[..exponentials.len()];
    let factor = if sum == 0 { 0.0 } else { WHOLE / sum as f32 };
    let mut sum = 0;
    for (weight, exponential) in weights.iter_mut().zip(exponentials) {
        let share = round_to_integer(*exponential as f32 * factor);
        *weight = share as i16;
        sum += share;
    }
    sum
}

// Indexed lanes, and functions in place of closures: what is vectorised for the instruction set whatever is inlined.

/// The largest scores so far.
#[inline(always)]
fn look(products: &[i32; LANES], mask: &Numbers, scale: f32, largest: &mut Numbers) {
    for i in 0..LANES {
        largest[i] = larger(largest[i], products[i] as f32 * scale + mask[i]);
    }
}

/// Exponentials in the place of products, and their sums so far.
#[inline(always)]
fn raise_chunk(
    products: &mut [i32; LANES],
    mask: &Numbers,
    scale: f32,
    largest: f32,
    sums: &mut [i32; LANES],
) {
    for i in 0..LANES {
        let x = products[i] as f32 * scale + mask[i];
        // A NaN, as of an infinity less itself, is not above the bound.
        products[i] = power(larger(-100.0, (x - largest) * core::f32::consts::LOG2_E));
        sums[i] += products[i];
    }
}

/// [`NarrowFn`](super::NarrowFn).
#[inline(always)]
pub(super) fn narrow(sums: &[i32], factor: f32, zero_point: i32, y: &mut [i8]) {
    let (low, high) = bounds(zero_point);
    for (y, sum) in y.iter_mut().zip(sums) {
        *y = (round_clamp(*sum as f32 * factor, low, high) + zero_point) as i8;
    }
}

/// Rows as those of [`Products::a`].
#[inline(always)]
pub(super) fn rows(x: &[i8], width: usize, zero_point: i32, a: &mut [i16]) {
    let zero_point = zero_point as i16;
    if width.is_multiple_of(2) {
        for (a, x) in a.iter_mut().zip(x) {
            *a = i16::from(*x) - zero_point;
        }
        return;
    }
    for (x, a) in x.chunks_exact(width).zip(a.chunks_exact_mut(width + 1)) {
        for (a, x) in a.iter_mut().zip(x) {
            *a = i16::from(*x) - zero_point;
        }
        a[width] = 0;
    }
}

/// Pairs of a row that are widened before they go to their places in a panel.
const TURNED: usize = 8;

/// Rows as columns of panels.
#[inline(always)]
pub(super) fn columns(x: &[i8], width: usize, zero_point: i32, panels: &mut [i16]) {
    let zero_point = zero_point as i16;
    let panel_len = width.next_multiple_of(2) * COLUMNS;
    for (x, panel) in x.chunks(COLUMNS * width).zip(panels.chunks_exact_mut(panel_len)) {
        let (steps, _) = panel.as_chunks_mut::<2>().0.as_chunks_mut::<COLUMNS>();
        for (start, steps) in (0..width).step_by(2 * TURNED).zip(steps.chunks_mut(TURNED)) {
            let mut wide = [[[0; 2]; TURNED]; COLUMNS];
            for (wide, x) in wide.iter_mut().zip(x.chunks_exact(width)) {
                let wide = wide.as_flattened_mut();
                let x = &x[start..];
                if let Some(x) = x.first_chunk::<{ 2 * TURNED }>() {
                    for i in 0..2 * TURNED {
                        wide[i] = i16::from(x[i]) - zero_point;
                    }
                } else {
                    for (wide, x) in wide.iter_mut().zip(x) {
                        *wide = i16::from(*x) - zero_point;
                    }
                }
            }
            for (pair, step) in steps.iter_mut().enumerate() {
                for column in 0..COLUMNS {
                    step[column] = wide[column][pair];
                }
            }
        }
    }
}

/// Rows as rows of panels.
#[inline(always)]
pub(super) fn pairs(x: &[i8], width: usize, zero_point: i32, panels: &mut [i16]) {
    let zero_point = zero_point as i16;
    let rows = x.len() / width;
    let panel_len = rows.next_multiple_of(2) * COLUMNS;
    for (start, panel) in (0..width).step_by(COLUMNS).zip(panels.chunks_exact_mut(panel_len)) {
        let columns = COLUMNS.min(width - start);
        let of_pairs = x.chunks(2 * width).zip(panel.as_chunks_mut::<{ 2 * COLUMNS }>().0);
        for (x, to) in of_pairs {
            let second = x.get(width + start..).unwrap_or_default();
            match (x[start..].first_chunk::<COLUMNS>(), second.first_chunk::<COLUMNS>()) {
                (Some(first), Some(second)) if columns == COLUMNS => {
                    for i in 0..COLUMNS {
                        to[2 * i] = i16::from(first[i]) - zero_point;
                        to[2 * i + 1] = i16::from(second[i]) - zero_point;
                    }
                }
                _ => {
                    to.fill(0);
                    for i in 0..columns {
                        to[2 * i] = i16::from(x[start + i]) - zero_point;
                        if let Some(x) = second.get(i) {
                            to[2 * i + 1] = i16::from(*x) - zero_point;
                        }
                    }
                }
            }
        }
    }
}
