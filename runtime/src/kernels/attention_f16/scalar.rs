//! The definition.

use super::{Mix, Scores};

pub(super) fn scores(args: &mut Scores<'_>) {
    let (_, keys) = args.check();
    let queries = args.queries.chunks_exact(args.size);
    for (query, scores) in queries.zip(args.scores.chunks_exact_mut(keys.max(1))) {
        for (key, score) in args.keys.chunks_exact(args.size).zip(scores) {
            *score = query.iter().zip(key).map(|(q, k)| q * k.to_f32()).sum();
        }
    }
}

pub(super) fn mix(args: &mut Mix<'_>) {
    let (_, values) = args.check();
    for (head, output) in args.output.chunks_exact_mut(args.size).enumerate() {
        output.fill(0.0);
        let weights = &args.weights[head * values..][..values];
        for (value, weight) in args.values.chunks_exact(args.size).zip(weights) {
            for (y, v) in output.iter_mut().zip(value) {
                *y += weight * v.to_f32();
            }
        }
    }
}
