//! Embeddings: how close each vector is to a reference's, and whether pairs rank as their labels say.

use serde::Serialize;
use whit_convert::statistics::{Matched, Pairs, Statistic};

use super::defined;

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

/// How the cosines of labelled pairs agree with their scores.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct PairScores {
    /// Rows, two of which are a pair.
    pub(crate) samples: usize,
    pub(crate) pairs: usize,
    pub(crate) dimensions: usize,
    /// Rank correlation.
    pub(crate) spearman: Option<f64>,
    /// Linear correlation.
    pub(crate) pearson: Option<f64>,
}

/// Describes labelled pairs.
pub(crate) fn pair_scores(pairs: &Pairs, dimensions: usize) -> PairScores {
    let values = pairs.value();
    PairScores {
        samples: 2 * pairs.samples(),
        pairs: pairs.samples(),
        dimensions,
        spearman: defined(values[0]),
        pearson: defined(values[1]),
    }
}

/// Describes vectors beside a reference's.
pub(crate) fn embedding(matched: &Matched, dimensions: usize) -> Embedding {
    let of_samples = matched.cosines().iter().enumerate();
    let worst = of_samples.filter(|(_, c)| !c.is_nan()).min_by(|a, b| a.1.total_cmp(b.1));
    Embedding {
        samples: matched.samples(),
        dimensions,
        cosine_mean: defined(matched.value()[0]),
        cosine_min: worst.map(|w| *w.1),
        worst_sample: worst.map(|w| w.0),
        undefined: matched.cosines().iter().filter(|c| c.is_nan()).count(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MAX_ERR_F32, assert_close};
    use super::*;
    use whit_convert::statistics::StatisticsError;

    fn of(a: &[f32], b: &[f32], dimensions: usize) -> Result<Embedding, StatisticsError> {
        Ok(embedding(&Matched::new(a, b, dimensions)?, dimensions))
    }

    /// scikit-learn 1.9.1: `diag(cosine_similarity(A, B))`, except that it gives 0 for a zero
    /// vector, which we leave out.
    #[test]
    fn cosines() {
        let a = [1.0, 2.0, 3.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0];
        let b = [1.0, 2.0, 2.5, 0.0, 1.0, 0.0, -1.0, -1.0, 0.1, 1.0, 2.0, 3.0];
        let m = of(&a, &b, 3).unwrap();
        let expected = [0.9960238411119948, 0.0, -0.9975093361076329];
        assert_close(m.cosine_mean, Some(expected.iter().sum::<f64>() / 3.0), MAX_ERR_F32);
        assert_close(m.cosine_min, Some(expected[2]), MAX_ERR_F32);
        assert_eq!((m.samples, m.worst_sample, m.undefined), (4, Some(2), 1));
        let zero = of(&[0.0; 2], &[1.0; 2], 2).unwrap();
        assert_eq!((zero.cosine_mean, zero.cosine_min, zero.undefined), (None, None, 1));
        assert_eq!(of(&[], &[], 2), Err(StatisticsError::Empty));
    }
}
