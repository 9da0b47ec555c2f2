//! Metrics of vectors: how close to a reference's, and whether pairs rank as people ranked them.

use super::regression::{Sorted, pearson};
use super::{Metric, Statistic, StatisticsError, check_rows};

/// The cosine of the angle between two vectors, NaN when one is zero.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| -> f64 {
        x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    };
    super::share(dot(a, b), dot(a, a).sqrt() * dot(b, b).sqrt())
}

/// Vectors beside a reference's vectors of the same samples.
#[derive(Clone, Debug)]
pub struct Matched {
    cosines: Vec<f64>,
    /// Cosines with 0 where they aren't defined, and whether they are.
    defined: Vec<(f64, bool)>,
    strata: Vec<u32>,
}

impl Matched {
    const METRICS: [Metric; 1] = [Metric::higher("cosine_mean", "cosine, mean")];

    /// From rows of `dimensions` values.
    ///
    /// # Errors
    /// No samples, lengths that differ, numbers that aren't finite.
    pub fn new(
        vectors: &[f32],
        reference: &[f32],
        dimensions: usize,
    ) -> Result<Matched, StatisticsError> {
        let samples = reference.len() / dimensions.max(1);
        check_rows("reference", reference, samples, dimensions)?;
        check_rows("embeddings", vectors, samples, dimensions)?;
        let rows = vectors.chunks_exact(dimensions).zip(reference.chunks_exact(dimensions));
        let cosines: Vec<f64> = rows.map(|(a, b)| cosine(a, b)).collect();
        let defined =
            cosines.iter().map(|c| if c.is_nan() { (0.0, false) } else { (*c, true) }).collect();
        Ok(Matched { cosines, defined, strata: vec![0; samples] })
    }

    /// The cosine of each sample, NaN where a vector is zero.
    pub fn cosines(&self) -> &[f64] {
        &self.cosines
    }
}

impl Statistic for Matched {
    fn metrics(&self) -> &[Metric] {
        &Self::METRICS
    }

    fn samples(&self) -> usize {
        self.strata.len()
    }

    fn strata(&self) -> &[u32] {
        &self.strata
    }

    fn values(&self, counts: &[u32], out: &mut [f64]) {
        let (mut sum, mut weight) = (0.0, 0.0);
        for ((cosine, defined), count) in self.defined.iter().zip(counts) {
            sum += cosine * f64::from(*count);
            weight += if *defined { f64::from(*count) } else { 0.0 };
        }
        out[0] = super::share(sum, weight);
    }
}

/// Pairs of vectors (rows 0 and 1, 2 and 3, …), each with a score that says how alike the two are.
#[derive(Clone, Debug)]
pub struct Pairs {
    cosines: Vec<f64>,
    scores: Vec<f64>,
    by_cosine: Sorted,
    by_score: Sorted,
    strata: Vec<u32>,
}

impl Pairs {
    const METRICS: [Metric; 2] =
        [Metric::higher("spearman", "Spearman"), Metric::higher("pearson", "Pearson")];

    /// From rows of `dimensions` values and a score per row, the same for both rows of a pair. A vector of zeros is like
    /// nothing: cosine 0.
    ///
    /// # Errors
    /// No samples, an odd number, scores that differ within a pair, lengths that differ, numbers that aren't finite.
    pub fn new(
        vectors: &[f32],
        scores: &[f32],
        dimensions: usize,
    ) -> Result<Pairs, StatisticsError> {
        check_rows("embeddings", vectors, scores.len(), dimensions)?;
        check_rows("labels", scores, scores.len(), 1)?;
        if !scores.len().is_multiple_of(2) {
            return Err(StatisticsError::OddPairs { samples: scores.len() });
        }
        let mut differing =
            scores.chunks_exact(2).enumerate().filter(|(_, pair)| pair[0] != pair[1]);
        if let Some((pair, _)) = differing.next() {
            return Err(StatisticsError::PairLabels { first: 2 * pair });
        }
        let cosines: Vec<f64> = vectors
            .chunks_exact(2 * dimensions)
            .map(|pair| cosine(&pair[..dimensions], &pair[dimensions..]))
            .map(|cosine| if cosine.is_nan() { 0.0 } else { cosine })
            .collect();
        let scores: Vec<f64> = scores.iter().step_by(2).map(|score| f64::from(*score)).collect();
        Ok(Pairs {
            by_cosine: Sorted::new(&cosines),
            by_score: Sorted::new(&scores),
            strata: vec![0; scores.len()],
            cosines,
            scores,
        })
    }

    /// The cosine of each pair.
    pub fn cosines(&self) -> &[f64] {
        &self.cosines
    }

    /// The score of each pair.
    pub fn scores(&self) -> &[f64] {
        &self.scores
    }
}

impl Statistic for Pairs {
    fn metrics(&self) -> &[Metric] {
        &Self::METRICS
    }

    fn samples(&self) -> usize {
        self.strata.len()
    }

    fn strata(&self) -> &[u32] {
        &self.strata
    }

    fn values(&self, counts: &[u32], out: &mut [f64]) {
        out[0] = pearson(&self.by_cosine.ranks(counts), &self.by_score.ranks(counts), counts);
        out[1] = pearson(&self.cosines, &self.scores, counts);
    }
}

/// Rank correlation of two lists (Spearman 1904), equal values sharing the mean of their ranks; NaN when one is constant.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let ones = vec![1; a.len().min(b.len())];
    pearson(&Sorted::new(a).ranks(&ones), &Sorted::new(b).ranks(&ones), &ones)
}
