//! Metrics of classes: accuracy and its kin, rankings of one class against the rest, calibration.

use super::calibration::{self, Probabilities};
use super::{Metric, Ranking, Statistic, StatisticsError, check_rows, mean_defined, share};

/// Scores that one-vs-rest rankings are kept for, samples times classes: 4 bytes each, several times.
const MAX_RANKED_SCORES: usize = 20_000_000;

/// Accuracy: the share of samples whose highest score is the label's.
pub const ACCURACY: Metric = Metric::share("accuracy", "accuracy");
const ALWAYS: [Metric; 3] = [
    ACCURACY,
    Metric::share("balanced_accuracy", "balanced accuracy"),
    Metric::higher("macro_f1", "F1, macro"),
];
const MACRO_AUC: Metric = Metric::higher("macro_roc_auc", "ROC-AUC, macro");
const BINARY: [Metric; 2] = [
    Metric::higher("binary_roc_auc", "ROC-AUC"),
    Metric::higher("average_precision", "average precision"),
];
const CALIBRATION: [Metric; 3] = [
    Metric::lower("log_loss", "log-loss"),
    Metric::lower("brier", "Brier score"),
    Metric::lower("ece", "calibration error"),
];

/// The index of the highest score, of equals the first.
pub fn argmax(row: &[f32]) -> usize {
    let mut best = 0;
    for (i, score) in row.iter().enumerate() {
        if *score > row[best] {
            best = i;
        }
    }
    best
}

/// Answers of a classifier beside the labels.
#[derive(Clone, Debug)]
pub struct Classified {
    metrics: Vec<Metric>,
    classes: usize,
    labels: Vec<u32>,
    predictions: Vec<usize>,
    /// Of each class against the rest; with two classes, of class 1 alone; none if that were too many.
    rankings: Vec<Ranking>,
    probabilities: Option<Probabilities>,
}

impl Classified {
    /// From `labels.len()` rows of `classes` scores. Scores may be logits; calibration needs probabilities.
    ///
    /// # Errors
    /// No samples, lengths that differ, numbers that aren't finite, labels beyond the classes.
    pub fn new(
        scores: &[f32],
        labels: &[usize],
        classes: usize,
    ) -> Result<Classified, StatisticsError> {
        check_rows("scores", scores, labels.len(), classes)?;
        if let Some((sample, label)) = labels.iter().enumerate().find(|(_, l)| **l >= classes) {
            return Err(StatisticsError::Label { sample, label: *label, classes });
        }
        let predictions: Vec<usize> = scores.chunks_exact(classes).map(argmax).collect();
        let ranked = match classes {
            2 => 1..2,
            _ if scores.len() > MAX_RANKED_SCORES => 0..0,
            _ => 0..classes,
        };
        let rankings: Vec<Ranking> = ranked
            .map(|class| {
                let of_class: Vec<f32> =
                    scores.iter().skip(class).step_by(classes).copied().collect();
                let is_class: Vec<bool> = labels.iter().map(|l| *l == class).collect();
                Ranking::new(&of_class, &is_class)
            })
            .collect();
        let probabilities = Probabilities::new(scores, labels, &predictions, classes);
        let mut metrics = ALWAYS.to_vec();
        match rankings.len() {
            0 => {}
            1 => metrics.extend(BINARY),
            _ => metrics.push(MACRO_AUC),
        }
        if probabilities.is_some() {
            metrics.extend(CALIBRATION);
        }
        let labels = labels.iter().map(|label| *label as u32).collect();
        Ok(Classified { metrics, classes, labels, predictions, rankings, probabilities })
    }

    /// Whether each sample's answer is its label.
    pub fn right(&self) -> Vec<bool> {
        let pairs = self.predictions.iter().zip(&self.labels);
        pairs.map(|(predicted, label)| *predicted == *label as usize).collect()
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// One-vs-rest rankings: of class 1 alone with two classes, none with very many scores.
    pub fn rankings(&self) -> &[Ranking] {
        &self.rankings
    }

    /// What calibration is computed from, if the scores are probabilities.
    pub fn probabilities(&self) -> Option<&Probabilities> {
        self.probabilities.as_ref()
    }

    /// `confusion[label * classes + prediction]`.
    pub fn confusion(&self, counts: &[u32]) -> Vec<u64> {
        let mut confusion = vec![0; self.classes * self.classes];
        for ((label, predicted), count) in self.labels.iter().zip(&self.predictions).zip(counts) {
            confusion[*label as usize * self.classes + predicted] += u64::from(*count);
        }
        confusion
    }
}

impl Statistic for Classified {
    fn metrics(&self) -> &[Metric] {
        &self.metrics
    }

    fn samples(&self) -> usize {
        self.labels.len()
    }

    fn strata(&self) -> &[u32] {
        &self.labels
    }

    fn hits(&self, metric: usize) -> Option<Vec<bool>> {
        (self.metrics[metric] == ACCURACY).then(|| self.right())
    }

    fn values(&self, counts: &[u32], out: &mut [f64]) {
        let (mut labelled, mut predicted) = (vec![0.0; self.classes], vec![0.0; self.classes]);
        let (mut hits, mut all, mut correct) = (vec![0.0; self.classes], 0.0, 0.0);
        for ((label, prediction), count) in self.labels.iter().zip(&self.predictions).zip(counts) {
            let (label, weight) = (*label as usize, f64::from(*count));
            labelled[label] += weight;
            predicted[*prediction] += weight;
            all += weight;
            if label == *prediction {
                hits[label] += weight;
                correct += weight;
            }
        }
        let recalls = (0..self.classes).map(|c| share(hits[c], labelled[c]));
        let f1 = (0..self.classes).map(|c| share(2.0 * hits[c], labelled[c] + predicted[c]));
        out[0] = share(correct, all);
        out[1] = mean_defined(recalls);
        out[2] = mean_defined(f1);
        let mut next = ALWAYS.len();
        let mut put = |value| {
            out[next] = value;
            next += 1;
        };
        match &self.rankings[..] {
            [] => {}
            [binary] => {
                put(binary.roc_auc(counts));
                put(binary.average_precision(counts));
            }
            rankings => put(mean_defined(rankings.iter().map(|ranking| ranking.roc_auc(counts)))),
        }
        if let Some(probabilities) = &self.probabilities {
            put(probabilities.log_loss(counts));
            put(probabilities.brier(counts));
            put(calibration::expected_error(&probabilities.equal_width(counts)));
        }
    }
}
