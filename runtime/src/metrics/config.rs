//! What a monitor keeps, and the memory that it takes.

use super::counters::{Group, LATENCY_BUCKETS, Shape};
use super::drift::Statistic;
use super::kll::Kll;
use super::record::{FRAME_BYTES, Scores, Signal, SketchHead};
use super::reservoir::SLOT_BYTES;
use crate::format::Field;

/// What a monitor keeps. The default is meant for microcontrollers: with 10 classes and 64 inputs it takes less than 4 KB.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// What the first output is; `None` takes what the baseline says.
    pub scores: Option<Scores>,
    /// Number of the device, for the log.
    pub device: u64,
    /// Runs that take longer are counted; `u32::MAX` for none.
    pub deadline_us: u32,
    /// The latency histogram, 480 bytes.
    pub latency: bool,
    /// Saturation of quantized inputs and outputs, 8 bytes each.
    pub saturation: bool,
    /// Drift tests against the baseline: 2 bytes for each bin of each feature, and 3 for each feature.
    pub drift: bool,
    /// The distance that drift tests use.
    pub statistic: Statistic,
    /// The counts of a window are written when it drifted, and in every so many periods; 0 for never.
    pub window_every: u16,
    /// Change detectors, as the baseline sets them.
    pub detectors: bool,
    /// Runs that wait for a label, 8 bytes each; 0 for no labels.
    pub labels: u16,
    /// Least certain inputs of a period that are kept, and one in passing; a slot takes the input's bytes and 8.
    pub samples: u16,
    /// Samples are kept of inputs up to this length.
    pub sample_bytes: u32,
    /// The signal whose quantiles are sketched, and the room for items, 4 bytes each and as many in the record, from 40 to 960;
    /// 0 for none.
    pub sketch: (Signal, u16),
    /// Bytes of a record at most; one of more goes on in a further record.
    pub record_bytes: u16,
}

impl Config {
    /// What fits the smallest microcontrollers.
    pub const DEFAULT: Config = Config {
        scores: None,
        device: 0,
        deadline_us: u32::MAX,
        latency: true,
        saturation: true,
        drift: true,
        statistic: Statistic::JensenShannon,
        window_every: 24,
        detectors: true,
        labels: 16,
        samples: 3,
        sample_bytes: 64,
        sketch: (Signal::Confidence, 0),
        record_bytes: 128,
    };
    /// Runs, errors, deadline misses, classes, confidence and entropy only.
    pub const SMALLEST: Config = Config {
        latency: false,
        saturation: false,
        drift: false,
        detectors: false,
        labels: 0,
        samples: 0,
        ..Config::DEFAULT
    };
}

impl Default for Config {
    fn default() -> Self {
        Config::DEFAULT
    }
}

/// Sizes of the parts of a monitor's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Counters of records.
    pub shape: Shape,
    /// Whether latencies are counted.
    pub latency: bool,
    /// Runs that wait for a label.
    pub labels: u16,
    /// Samples of a period.
    pub samples: u16,
    /// Bytes of a sample's input; 0 when none are kept.
    pub sample_bytes: u32,
    /// Items of the sketch; 0 without.
    pub sketch_items: u16,
    /// Bytes of a record.
    pub record_bytes: u16,
}

impl Sizes {
    /// Bytes that a monitor of these sizes wants, besides itself.
    pub const fn bytes(&self) -> usize {
        // Words come first: what is left out before the first of them is 3 bytes at most.
        3 + 4 * self.words() + 2 * self.halves() + self.single_bytes()
    }

    const fn words(&self) -> usize {
        self.shape.len(Group::Saturation) + 2 * self.labels as usize + self.sketch_words()
    }

    const fn halves(&self) -> usize {
        let shape = &self.shape;
        (if self.latency { LATENCY_BUCKETS } else { 0 })
            + shape.len(Group::Classes)
            + shape.len(Group::Confidence)
            + shape.len(Group::Entropy)
            + shape.len(Group::Confusion)
            + shape.len(Group::Scored)
            + shape.len(Group::Drifted)
            + shape.len(Group::Features)
            + shape.len(Group::WindowClasses)
            + shape.len(Group::WindowConfidence)
    }

    const fn single_bytes(&self) -> usize {
        self.shape.features as usize + self.sample_slots() + self.longest_record()
    }

    pub(super) const fn sketch_words(&self) -> usize {
        if self.sketch_items == 0 { 0 } else { Kll::words(self.sketch_items as usize) }
    }

    /// Bytes of the longest record: a sketch is written whole.
    pub(super) const fn longest_record(&self) -> usize {
        let sketch =
            SketchHead::SIZE + Kll::encoded_bytes(self.sketch_items as usize) + FRAME_BYTES;
        let record = self.record_bytes as usize;
        if self.sketch_items > 0 && sketch > record { sketch } else { record }
    }

    pub(super) const fn sample_slots(&self) -> usize {
        if self.sample_bytes == 0 || self.samples == 0 {
            return 0;
        }
        (self.samples as usize + 1) * (SLOT_BYTES + self.sample_bytes as usize)
    }
}
