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

/// [`WeighFn`](super::WeighFn).
#[inline(always)]
pub(super) fn weigh(products: &mut [i32], scale: f32, mask: Mask<'_>, weights: &mut [i16]) -> i32 {
    let weights = &mut weights[..products.len()];
    match mask {
        Mask::All(number) => weigh_masked(
            products,
            scale,
            core::iter::repeat(&[number; LANES]),
            [number; LANES],
            weights,
        ),
        Mask::Each(mask) => {
            let (chunks, rest) = mask[..products.len()].as_chunks::<LANES>();
            weigh_masked(products, scale, chunks.iter(), padded(rest, 0.0), weights)
        }
    }
}

/// Less than a chunk as one.
#[inline(always)]
fn padded<T: Copy>(rest: &[T], with: T) -> [T; LANES] {
    let mut chunk = [with; LANES];
    chunk[..rest.len()].copy_from_slice(rest);
    chunk
}

/// The same with the mask in chunks, the last one apart.
#[inline(always)]
fn weigh_masked<'m>(
    products: &mut [i32],
    scale: f32,
    mask: impl Iterator<Item = &'m Numbers> + Clone,
    mut last_mask: Numbers,
    weights: &mut [i16],
) -> i32 {
    let (chunks, rest) = products.as_chunks_mut::<LANES>();
    // What pads the last chunk is hidden.
    last_mask[rest.len()..].fill(f32::NEG_INFINITY);
    let mut last = padded(rest, 0);

    let mut lanes = [f32::NEG_INFINITY; LANES];
    for (chunk, mask) in chunks.iter().zip(mask.clone()) {
        look(chunk, mask, scale, &mut lanes);
    }
    if !rest.is_empty() {
        look(&last, &last_mask, scale, &mut lanes);
    }
    let largest = fold(lanes, larger);

    let mut sums = [0i32; LANES];
    for (chunk, mask) in chunks.iter_mut().zip(mask) {
        raise(chunk, mask, scale, largest, &mut sums);
    }
    if !rest.is_empty() {
        raise(&mut last, &last_mask, scale, largest, &mut sums);
    }
    let sum: i32 = sums.iter().sum();
    let factor = if sum == 0 { 0.0 } else { WHOLE / sum as f32 };

    let mut sum = 0;
    for (weight, exponential) in weights.iter_mut().zip(chunks.as_flattened()) {
        let share = share(*exponential, factor);
        *weight = share as i16;
        sum += share;
    }
    for (weight, exponential) in weights[LANES * chunks.len()..].iter_mut().zip(&last) {
        let share = share(*exponential, factor);
        *weight = share as i16;
        sum += share;
    }
    sum
}

/// The weight of an exponential.
#[inline(always)]
fn share(exponential: i32, factor: f32) -> i32 {
    round_to_integer(exponential as f32 * factor)
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
fn raise(
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

/// Rows as columns of panels.
#[inline(always)]
pub(super) fn columns(x: &[i8], width: usize, zero_point: i32, panels: &mut [i16]) {
    let zero_point = zero_point as i16;
    let panel_len = width.next_multiple_of(2) * COLUMNS;
    for (x, panel) in x.chunks(COLUMNS * width).zip(panels.chunks_exact_mut(panel_len)) {
        if x.len() < COLUMNS * width {
            panel.fill(0);
        }
        let (words, _) = panel.as_chunks_mut::<2>();
        for (column, x) in x.chunks_exact(width).enumerate() {
            let (pairs, rest) = x.as_chunks::<2>();
            let mut words = words[column..].iter_mut().step_by(COLUMNS);
            for ([first, second], word) in pairs.iter().zip(words.by_ref()) {
                *word = [i16::from(*first) - zero_point, i16::from(*second) - zero_point];
            }
            if let (Some(word), [last]) = (words.next(), rest) {
                *word = [i16::from(*last) - zero_point, 0];
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
