//! Embeddings: how close each vector is to a reference's.

use serde::Serialize;

use super::{MetricsError, check_rows, mean_defined};

/// Cosine similarity to the reference. `null` marks what the data doesn't define.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Embedding {
    pub(crate) samples: usize,
    pub(crate) dimensions: usize,
    /// Over the samples where it is defined.
    pub(crate) cosine_mean: Option<f64>,
    pub(crate) cosine_min: Option<f64>,
    /// The sample with the lowest cosine.
    pub(crate) worst_sample: Option<usize>,
    /// Samples where a vector is all zero, so that it has no direction.
    pub(crate) undefined: usize,
}

/// Compares rows of `dimensions` values with the reference's rows.
pub(crate) fn embedding(
    vectors: &[f32],
    reference: &[f32],
    dimensions: usize,
) -> Result<Embedding, MetricsError> {
    let samples = reference.len() / dimensions.max(1);
    check_rows("reference", reference, samples, dimensions)?;
    check_rows("embeddings", vectors, samples, dimensions)?;
    let rows = vectors.chunks_exact(dimensions).zip(reference.chunks_exact(dimensions));
    let cosines: Vec<Option<f64>> = rows.map(|(a, b)| cosine(a, b)).collect();
    let defined = || cosines.iter().enumerate().filter_map(|(i, c)| Some((i, (*c)?)));
    let worst = defined().min_by(|a, b| a.1.total_cmp(&b.1));
    Ok(Embedding {
        samples,
        dimensions,
        cosine_mean: mean_defined(cosines.iter().copied()),
        cosine_min: worst.map(|w| w.1),
        worst_sample: worst.map(|w| w.0),
        undefined: cosines.iter().filter(|c| c.is_none()).count(),
    })
}

fn cosine(a: &[f32], b: &[f32]) -> Option<f64> {
    let dot = |x: &[f32], y: &[f32]| -> f64 {
        x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    };
    let norms = dot(a, a).sqrt() * dot(b, b).sqrt();
    (norms > 0.0).then(|| dot(a, b) / norms)
}

#[cfg(test)]
mod tests {
    use super::super::{MAX_ERR_F32, assert_close};
    use super::*;

    /// scikit-learn 1.9.1: `diag(cosine_similarity(A, B))`, except that it gives 0 for a zero
    /// vector, which we leave out.
    #[test]
    fn cosines() {
        let a = [1.0, 2.0, 3.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0];
        let b = [1.0, 2.0, 2.5, 0.0, 1.0, 0.0, -1.0, -1.0, 0.1, 1.0, 2.0, 3.0];
        let m = embedding(&a, &b, 3).unwrap();
        let expected = [0.9960238411119948, 0.0, -0.9975093361076329];
        assert_close(m.cosine_mean, Some(expected.iter().sum::<f64>() / 3.0), MAX_ERR_F32);
        assert_close(m.cosine_min, Some(expected[2]), MAX_ERR_F32);
        assert_eq!((m.samples, m.worst_sample, m.undefined), (4, Some(2), 1));
        let zero = embedding(&[0.0; 2], &[1.0; 2], 2).unwrap();
        assert_eq!((zero.cosine_mean, zero.cosine_min, zero.undefined), (None, None, 1));
        assert_eq!(embedding(&[], &[], 2), Err(MetricsError::Empty));
    }
}
