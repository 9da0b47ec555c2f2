//! Which elements of an input are a feature, and the bins of its histogram.

use whit::metrics::baseline::float_key;
use whit::{DType, Model};

use super::watched_input;

/// Bins of a feature: three bits tell where a value lies, and a window of a hundred runs fills them.
pub(super) const BINS: usize = 8;
/// Features at most.
const MOST_FEATURES: usize = 64;
/// Elements of a run that are looked at, at most: what keeps the cost of a run small.
const MOST_ELEMENTS: usize = 1024;

/// The watched input and what calibration data has in it.
pub(super) struct Watched {
    pub(super) input: usize,
    pub(super) dtype: DType,
    pub(super) features: usize,
    pub(super) inner: usize,
    pub(super) step: usize,
    elements: usize,
    /// Of each sample, the elements that are looked at, as numbers in their order; `None` isn't finite.
    rows: Vec<Vec<Option<i32>>>,
    /// Of each feature, ascending.
    pub(super) edges: Vec<Vec<i32>>,
}

impl Watched {
    /// Of a model; `None` when it has no input with numbers. Up to 64 elements are a feature each; then the channels, if there are
    /// 2 to 64; else 64 stretches of neighbours.
    pub(super) fn of(model: &Model<'_>, samples: usize) -> Option<Watched> {
        let (input, record, dtype) = watched_input(model)?;
        let elements = record.bytes as usize / dtype.size();
        let rank = usize::from(record.rank);
        let last = rank.checked_sub(1).and_then(|axis| model.dim_bounds(record.dims[axis]));
        let channels = last.map_or(1, |(_, max)| max as usize);
        let (inner, features) = match elements {
            0 => return None,
            1..=MOST_FEATURES => (1, elements),
            _ if (2..=MOST_FEATURES).contains(&channels) => (1, channels),
            _ => {
                let inner = elements.div_ceil(MOST_FEATURES);
                (inner, elements.div_ceil(inner))
            }
        };
        let mut step = elements.div_ceil(MOST_ELEMENTS);
        // Every channel gets its turn.
        while inner == 1 && common_divisor(step, features) > 1 {
            step += 1;
        }
        let (rows, edges) = (Vec::with_capacity(samples), Vec::new());
        Some(Watched { input, dtype, features, inner, step, elements, rows, edges })
    }

    /// Elements of a sample.
    pub(super) fn elements(&self) -> usize {
        self.elements
    }

    /// Takes a sample's input.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        let size = self.dtype.size();
        let key = |raw: &[u8]| -> Option<i32> {
            let real = match (self.dtype, raw) {
                (DType::I8, [a]) => return Some(i32::from(*a as i8)),
                (DType::U8, [a]) => return Some(i32::from(*a)),
                (DType::I16, [a, b]) => return Some(i32::from(i16::from_le_bytes([*a, *b]))),
                (DType::F16, [a, b]) => half::f16::from_le_bytes([*a, *b]).to_f32(),
                (DType::BF16, [a, b]) => half::bf16::from_le_bytes([*a, *b]).to_f32(),
                (DType::F32, [a, b, c, d]) => f32::from_le_bytes([*a, *b, *c, *d]),
                _ => return None,
            };
            real.is_finite().then(|| float_key(real))
        };
        self.rows.push(bytes.chunks_exact(size).step_by(self.step).map(key).collect());
    }

    fn feature_of(&self, place: usize) -> usize {
        (place * self.step / self.inner) % self.features
    }

    /// Puts edges between bins of about equal counts.
    pub(super) fn cut(&mut self) {
        let mut values = vec![Vec::new(); self.features];
        for row in &self.rows {
            for (place, key) in row.iter().enumerate() {
                values[self.feature_of(place)].extend(*key);
            }
        }
        // Of integers the field has 16 bits.
        let unused = if self.dtype.is_float() { i32::MAX } else { i16::MAX.into() };
        self.edges = values.into_iter().map(|values| equal_counts(values, unused)).collect();
    }

    /// Elements that a feature has in a run, at most.
    pub(super) fn most_of_a_feature(&self) -> usize {
        let mut counts = vec![0; self.features];
        for place in 0..self.elements.div_ceil(self.step) {
            counts[self.feature_of(place)] += 1;
        }
        counts.into_iter().max().unwrap_or(1).max(1)
    }

    /// Counts of a sample by feature × bins + bin.
    pub(super) fn counts_of(&self, sample: usize) -> Vec<u32> {
        let mut counts = vec![0; self.features * BINS];
        for (place, key) in self.rows[sample].iter().enumerate() {
            let Some(key) = key else { continue };
            let feature = self.feature_of(place);
            let bin = self.edges[feature].iter().take_while(|edge| key >= edge).count();
            counts[feature * BINS + bin] += 1;
        }
        counts
    }

    /// For each feature, the bin that its elements were in on average, sample by sample.
    pub(super) fn courses(&self) -> Vec<Vec<f64>> {
        let mut courses = vec![Vec::with_capacity(self.rows.len()); self.features];
        for sample in 0..self.rows.len() {
            let counts = self.counts_of(sample);
            for (course, counts) in courses.iter_mut().zip(counts.chunks_exact(BINS)) {
                let sum: u32 = counts.iter().sum();
                let bins = (0u32..).zip(counts).map(|(bin, count)| bin * count).sum::<u32>();
                course.push(f64::from(bins) / f64::from(sum.max(1)));
            }
        }
        courses
    }

    /// Samples that were taken.
    pub(super) fn samples(&self) -> usize {
        self.rows.len()
    }

    /// Counts of all samples, by feature.
    pub(super) fn counts(&self) -> Vec<Vec<u64>> {
        let mut counts = vec![vec![0; BINS]; self.features];
        for sample in 0..self.rows.len() {
            for (index, count) in self.counts_of(sample).into_iter().enumerate() {
                counts[index / BINS][index % BINS] += u64::from(count);
            }
        }
        counts
    }
}

/// Ascending edges that cut values into bins of about equal counts. Values that occur often make fewer bins; the edges that are
/// left over are `unused`, the largest.
fn equal_counts(mut values: Vec<i32>, unused: i32) -> Vec<i32> {
    values.sort_unstable();
    let mut edges = Vec::new();
    let mut at = 0;
    for cut in 1..BINS {
        let wanted = (values.len() * cut).div_ceil(BINS);
        if wanted < at || wanted == 0 {
            continue;
        }
        // Behind all values equal to the one before the cut.
        let Some(before) = values.get(wanted - 1) else { continue };
        at = values.partition_point(|value| value <= before);
        if let Some(edge) = values.get(at) {
            edges.push(*edge);
        }
        at += 1;
    }
    edges.resize(BINS - 1, unused);
    edges
}

fn common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_have_equal_counts_as_far_as_values_allow() {
        let none = i32::from(i16::MAX);
        let cases: [(Vec<i32>, [i32; 7]); 4] = [
            ((0..80).collect(), [10, 20, 30, 40, 50, 60, 70]),
            (vec![5; 100], [none; 7]),
            ([vec![0; 90], (1..11).collect()].concat(), [1, none, none, none, none, none, none]),
            (vec![], [none; 7]),
        ];
        for (values, expected) in cases {
            assert_eq!(equal_counts(values.clone(), none), expected, "{values:?}");
        }
    }
}
