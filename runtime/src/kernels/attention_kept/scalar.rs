//! The definitions.

use half::f16;

use super::rows::Row;
use super::{Kept, Mix, Q8, Scores};
use crate::format::Q8_GROUP;
use crate::kernels::requantize::round_clamp;

pub(super) fn scores<K: Kept>(args: &mut Scores<'_, K>) {
    let (_, keys) = args.check();
    let queries = args.queries.chunks_exact(args.keys.size());
    for (query, scores) in queries.zip(args.scores.chunks_exact_mut(keys.max(1))) {
        for (key, score) in args.keys.rows().zip(scores) {
            *score = query.iter().enumerate().map(|(i, q)| q * key.number(i)).sum();
        }
    }
}

pub(super) fn mix<K: Kept>(args: &mut Mix<'_, K>) {
    let (_, values) = args.check();
    for (head, output) in args.output.chunks_exact_mut(args.values.size()).enumerate() {
        output.fill(0.0);
        let weights = &args.weights[head * values..][..values];
        for (value, weight) in args.values.rows().zip(weights) {
            for (i, y) in output.iter_mut().enumerate() {
                *y += weight * value.number(i);
            }
        }
    }
}

#[inline(always)]
pub(super) fn widen_q8(rows: Q8<'_>, y: &mut [f32]) {
    let size = rows.size();
    assert_eq!(y.len(), rows.count() * size, "rows");
    for (row, y) in rows.rows().zip(y.chunks_exact_mut(size)) {
        let groups = row.numbers.chunks(Q8_GROUP).zip(y.chunks_mut(Q8_GROUP));
        for ((numbers, y), scale) in groups.zip(row.scales) {
            let scale = scale.to_f32();
            y.iter_mut().zip(numbers).for_each(|(y, q)| *y = f32::from(*q) * scale);
        }
    }
}

#[inline(always)]
pub(super) fn narrow_q8(x: &[f32], numbers: &mut [i8], scales: &mut [f16]) {
    assert_eq!(x.len(), numbers.len(), "a row");
    assert_eq!(x.len().div_ceil(Q8_GROUP), scales.len(), "scales");
    let groups = x.chunks(Q8_GROUP).zip(numbers.chunks_mut(Q8_GROUP));
    for ((x, numbers), scale) in groups.zip(scales) {
        // Magnitudes are in the order of their bits, and a NaN is above them all.
        let largest = x.iter().map(|x| x.abs().to_bits()).max().unwrap_or(0);
        *scale = f16::from_f32(f32::from_bits(largest) / 127.0);
        let inverse = if *scale == f16::ZERO { 0.0 } else { 1.0 / scale.to_f32() };
        for (q, x) in numbers.iter_mut().zip(x) {
            *q = round_clamp(x * inverse, -127, 127) as i8;
        }
    }
}
