//! What the field is compared with: the baseline section of a model, made by the converter from calibration data.

use core::fmt;

use super::counters::{CONFIDENCE_BINS, MAX_BINS, MAX_CLASSES, MAX_FEATURES};
use super::detect::DetectorRecord;
use super::drift::{P_LEVELS, STATISTICS, Statistic};
use super::record::Scores;
use crate::format::{Field, record};
use crate::{DType, Model, format};

/// The version that this build reads.
pub const BASELINE_VERSION: u32 = 1;

record! {
    /// The first bytes of the section.
    pub struct BaselineHeader: 152 {
        /// [`BASELINE_VERSION`].
        pub version: u32,
        /// 152; quantiles of the statistics follow.
        pub header_bytes: u32,
        /// Samples of calibration data.
        pub samples: u32,
        /// Runs of a window: the thresholds hold for this number.
        pub window_runs: u16,
        /// Classes; 0 when the model doesn't classify.
        pub classes: u16,
        /// Watched features.
        pub features: u16,
        /// Records of detectors.
        pub detectors: u16,
        /// The input that is watched.
        pub input: u8,
        /// Its [`DType`] number.
        pub dtype: u8,
        /// Bins of a feature's histogram.
        pub bins: u8,
        /// A [`Scores`] number.
        pub scores: u8,
        /// Element i of the input belongs to feature (i / inner) mod features.
        pub inner: u32,
        /// Only elements whose number is a multiple of this are looked at.
        pub step: u32,
        /// The probability of a false alarm of each kind in a window, in 2⁻³².
        pub false_alarm_q32: u32,
        /// The false discovery rate among features that gives it, in 2⁻³².
        pub discovery_q32: u32,
        /// What the distance of the predicted classes may be, for each [`Statistic`], in 2⁻¹⁶.
        pub class_thresholds: [u32; 3],
        /// What the distance of the confidences may be.
        pub confidence_thresholds: [u32; 3],
        /// What one unit of a [`Scores::Value`] output stands for; else 1.
        pub value_unit: f32,
        /// Bit 0: `calibrated` holds.
        pub flags: u32,
        /// Calibration data by bin of its confidence.
        pub confidence: [u16; 16],
        /// How often a prediction is right, by bin of its confidence, in 2⁻¹⁵.
        pub calibrated: [u16; 16],
        /// Calibration data: shares of elements at the lower and the upper limit of their type, of the watched input and of the
        /// first output, in 2⁻³².
        pub saturated_q32: [u32; 4],
    }
}

/// Why a baseline was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BaselineError {
    /// It was made for another version.
    Version {
        /// Version of the section.
        version: u32,
    },
    /// Its parts don't fit each other or the section's length.
    Damaged,
    /// It doesn't fit the model that it is in.
    OtherModel,
}

impl fmt::Display for BaselineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BaselineError::Version { version } => write!(
                f,
                "the baseline has version {version}, this build reads {BASELINE_VERSION}: convert the model again"
            ),
            BaselineError::Damaged => f.write_str("the baseline's parts don't fit its section"),
            BaselineError::OtherModel => f.write_str("the baseline doesn't fit the model"),
        }
    }
}

impl core::error::Error for BaselineError {}

/// The baseline of a model, read in place.
#[derive(Clone, Copy, Debug)]
pub struct Baseline<'m> {
    header: BaselineHeader,
    dtype: DType,
    bytes: &'m [u8],
}

/// Bytes of the quantiles.
const QUANTILE_BYTES: usize = STATISTICS * P_LEVELS.len() * 2;

/// Bytes of an edge: integers of up to 16 bits as they are, floats as [`float_key`].
const fn edge_bytes(dtype: DType) -> usize {
    if dtype.is_float() { 4 } else { 2 }
}

/// A float as an integer of the same order.
pub fn float_key(x: f32) -> i32 {
    // −0 becomes 0.
    let bits = (x + 0.0).to_bits() as i32;
    bits ^ ((bits >> 31) as u32 >> 1) as i32
}

impl BaselineHeader {
    /// Bytes of a feature: edges, counts, mean statistics.
    pub const fn feature_bytes(&self, dtype: DType) -> usize {
        (self.bins as usize - 1) * edge_bytes(dtype) + self.bins as usize * 2 + STATISTICS * 2
    }

    /// Bytes of the section.
    pub const fn section_bytes(&self, dtype: DType) -> usize {
        BaselineHeader::SIZE
            + QUANTILE_BYTES
            + self.features as usize * self.feature_bytes(dtype)
            + self.classes as usize * 2
            + self.detectors as usize * DetectorRecord::SIZE
    }
}

impl<'m> Baseline<'m> {
    /// The baseline of a model; `None` when it has none.
    ///
    /// # Errors
    /// When the section doesn't hold together or doesn't fit the model.
    pub fn of(model: &Model<'m>) -> Result<Option<Baseline<'m>>, BaselineError> {
        let bytes = model.section(format::Section::Baseline);
        if bytes.is_empty() {
            return Ok(None);
        }
        let baseline = Baseline::read(bytes)?;
        let header = &baseline.header;
        if header.features > 0 {
            let tensor = model.input(header.input.into()).and_then(|tensor| model.tensor(tensor));
            let tensor = tensor.ok_or(BaselineError::OtherModel)?;
            if tensor.dtype != header.dtype {
                return Err(BaselineError::OtherModel);
            }
        }
        Ok(Some(baseline))
    }

    /// Reads a section's bytes.
    ///
    /// # Errors
    /// When they don't hold together.
    pub fn read(bytes: &'m [u8]) -> Result<Baseline<'m>, BaselineError> {
        const BAD: BaselineError = BaselineError::Damaged;
        let header = BaselineHeader::read(bytes);
        if bytes.len() < 4 || header.version != BASELINE_VERSION {
            return Err(BaselineError::Version { version: header.version });
        }
        let dtype = DType::from_number(header.dtype).ok_or(BAD)?;
        Scores::from_number(header.scores).ok_or(BAD)?;
        let watched = matches!(
            dtype,
            DType::I8 | DType::U8 | DType::I16 | DType::F32 | DType::F16 | DType::BF16
        );
        if header.header_bytes as usize != BaselineHeader::SIZE
            || header.bins == 0
            || header.bins > MAX_BINS
            || header.features > MAX_FEATURES
            || header.classes > MAX_CLASSES
            || header.window_runs == 0
            || header.inner == 0
            || header.step == 0
            || (header.features > 0 && !watched)
            || !(header.value_unit > 0.0 && header.value_unit.is_finite())
            || header.section_bytes(dtype) != bytes.len()
        {
            return Err(BAD);
        }
        let baseline = Baseline { header, dtype, bytes };
        // A monitor looks for an element's bin from the lowest edge on.
        let ascends = |feature| baseline.edges(feature).is_sorted();
        if !(0..usize::from(header.features)).all(ascends) {
            return Err(BAD);
        }
        Ok(baseline)
    }

    /// A feature's edges, ascending.
    fn edges(&self, feature: usize) -> impl Iterator<Item = i32> + use<'m> {
        let size = edge_bytes(self.dtype);
        let bytes = (usize::from(self.header.bins) - 1) * size;
        let raw = self.feature(feature).get(..bytes).unwrap_or(&[]).chunks_exact(size);
        raw.map(
            move |raw| if size == 2 { i32::from(u16::read(raw) as i16) } else { i32::read(raw) },
        )
    }

    /// Its header.
    pub fn header(&self) -> &BaselineHeader {
        &self.header
    }

    /// Bytes of its section.
    pub fn section(&self) -> &'m [u8] {
        self.bytes
    }

    /// The feature of an element that is looked at.
    pub fn feature_of(&self, element: usize) -> usize {
        (element / self.header.inner as usize) % usize::from(self.header.features).max(1)
    }

    /// The bin of an element's bytes; `None` when it is NaN or infinite.
    pub fn bin(&self, feature: usize, element: &[u8]) -> Option<usize> {
        let key = match self.dtype {
            DType::I8 => i32::from(u8::read(element) as i8),
            DType::U8 => i32::from(u8::read(element)),
            DType::I16 => i32::from(u16::read(element) as i16),
            dtype => {
                let x = match dtype {
                    DType::F16 => half::f16::from_bits(u16::read(element)).to_f32(),
                    DType::BF16 => half::bf16::from_bits(u16::read(element)).to_f32(),
                    _ => f32::read(element),
                };
                if !x.is_finite() {
                    return None;
                }
                float_key(x)
            }
        };
        let size = edge_bytes(self.dtype);
        let edges = self.feature(feature).get(..(usize::from(self.header.bins) - 1) * size)?;
        let edge =
            |raw: &[u8]| if size == 2 { i32::from(u16::read(raw) as i16) } else { i32::read(raw) };
        Some(edges.chunks_exact(size).take_while(|raw| key >= edge(raw)).count())
    }

    /// Counts the elements of an input that are looked at, by feature × bins + bin; gives how many are NaN or infinite.
    /// Every run pays for this.
    pub fn count_input(&self, bytes: &[u8], counts: &mut [u16]) -> u32 {
        let header = &self.header;
        let (inner, step) = (header.inner as usize, header.step as usize);
        let bins = usize::from(header.bins);
        if header.features == 0 {
            return 0;
        }
        let mut count = |feature: usize, bin: usize| {
            if let Some(count) = counts.get_mut(feature * bins + bin) {
                *count = count.saturating_add(1);
            }
        };
        let sign = match self.dtype {
            DType::I8 => 0x80,
            DType::U8 => 0,
            dtype => {
                let mut not_finite = 0;
                let elements = bytes.chunks_exact(dtype.size()).enumerate();
                for (element, raw) in elements.step_by(step) {
                    let feature = self.feature_of(element);
                    match self.bin(feature, raw) {
                        Some(bin) => count(feature, bin),
                        None => not_finite += 1,
                    }
                }
                return not_finite;
            }
        };
        // Nothing but the search in a loop over neighbours that belong to one feature.
        let mut element = 0;
        while element < bytes.len() {
            let feature = self.feature_of(element);
            let end = bytes.len().min((element / inner + 1).saturating_mul(inner));
            let edges = self.feature(feature).get(..2 * (bins - 1)).unwrap_or(&[]);
            let (edges, _) = edges.as_chunks::<2>();
            while let Some(q) = bytes[..end].get(element) {
                let key = i32::from(q ^ sign) - i32::from(sign);
                let bin = edges.iter().take_while(|e| key >= i32::from(i16::from_le_bytes(**e)));
                count(feature, bin.count());
                element = element.saturating_add(step);
            }
        }
        0
    }

    /// The calibration data's count in a bin of a feature.
    pub fn count(&self, feature: usize, bin: usize) -> u32 {
        let at = (usize::from(self.header.bins) - 1) * edge_bytes(self.dtype) + 2 * bin;
        u32::from(u16::read(self.feature(feature).get(at..).unwrap_or(&[])))
    }

    /// The mean of a statistic of a feature without drift, in 2⁻¹⁶.
    pub fn mean(&self, feature: usize, statistic: Statistic) -> u32 {
        let bins = usize::from(self.header.bins);
        let at = (bins - 1) * edge_bytes(self.dtype) + 2 * bins + 2 * (statistic as usize - 1);
        u32::from(u16::read(self.feature(feature).get(at..).unwrap_or(&[])))
    }

    /// What a statistic over its mean exceeds with the probability of a level, in 2⁻⁸.
    pub fn quantile(&self, statistic: Statistic, level: usize) -> u32 {
        let index = (statistic as usize - 1) * P_LEVELS.len() + level;
        u32::from(self.number(BaselineHeader::SIZE + 2 * index))
    }

    /// The calibration data's count of a predicted class.
    pub fn class_count(&self, class: usize) -> u32 {
        u32::from(self.number(self.classes_start() + 2 * class))
    }

    /// How its detectors are set.
    pub fn detectors(&self) -> impl Iterator<Item = DetectorRecord> + use<'m> {
        let start = self.classes_start() + 2 * usize::from(self.header.classes);
        let records = self.bytes.get(start..).unwrap_or(&[]);
        records.chunks_exact(DetectorRecord::SIZE).map(DetectorRecord::read)
    }

    /// How many predictions of runs with these confidences are right, by the calibration table: their share in 2⁻¹⁵ (CBPE,
    /// confidence-based performance estimation). `None` without a table or without runs.
    pub fn estimated_accuracy(&self, confidence: &dyn Fn(usize) -> u64) -> Option<u32> {
        if self.header.flags & 1 == 0 {
            return None;
        }
        let (mut right, mut all) = (0u128, 0u128);
        for bin in 0..CONFIDENCE_BINS {
            let count = u128::from(confidence(bin));
            right += count * u128::from(self.header.calibrated[bin]);
            all += count;
        }
        (all > 0).then(|| (right / all) as u32)
    }

    fn classes_start(&self) -> usize {
        let features = usize::from(self.header.features) * self.header.feature_bytes(self.dtype);
        BaselineHeader::SIZE + QUANTILE_BYTES + features
    }

    fn feature(&self, feature: usize) -> &'m [u8] {
        let bytes = self.header.feature_bytes(self.dtype);
        let start = BaselineHeader::SIZE + QUANTILE_BYTES + feature * bytes;
        self.bytes.get(start..start + bytes).unwrap_or(&[])
    }

    fn number(&self, at: usize) -> u16 {
        u16::read(self.bytes.get(at..).unwrap_or(&[]))
    }
}

/// What [`Baseline::read`] takes: a section's content before it is bytes.
#[derive(Clone, Debug, Default)]
pub struct Feature<'f> {
    /// Edges between bins, ascending: integers as they are, cut to 16 bits, floats as [`float_key`].
    pub edges: &'f [i32],
    /// Counts of the calibration data.
    pub counts: &'f [u16],
    /// Mean of each statistic without drift, in 2⁻¹⁶.
    pub means: [u16; STATISTICS],
}

/// Writes a section into `out`, which is [`BaselineHeader::section_bytes`] long. The header's counts say how long the lists
/// are; what they lack is 0.
pub fn write(
    header: &BaselineHeader,
    dtype: DType,
    quantiles: &[[u16; 16]; STATISTICS],
    features: &[Feature<'_>],
    classes: &[u16],
    detectors: &[DetectorRecord],
    out: &mut [u8],
) {
    out.fill(0);
    header.write(out);
    let baseline = Baseline { header: *header, dtype, bytes: &[] };
    quantiles.write(&mut out[BaselineHeader::SIZE..]);
    let size = edge_bytes(dtype);
    let bins = usize::from(header.bins);
    let bytes = header.feature_bytes(dtype);
    let start = BaselineHeader::SIZE + QUANTILE_BYTES;
    let all = out[start..].chunks_exact_mut(bytes).take(header.features.into());
    for (out, feature) in all.zip(features) {
        for (raw, edge) in out.chunks_exact_mut(size).take(bins - 1).zip(feature.edges) {
            match size {
                2 => ((*edge).clamp(i16::MIN.into(), i16::MAX.into()) as u16).write(raw),
                _ => edge.write(raw),
            }
        }
        let out = &mut out[(bins - 1) * size..];
        for (raw, count) in out.chunks_exact_mut(2).take(bins).zip(feature.counts) {
            count.write(raw);
        }
        feature.means.write(&mut out[2 * bins..]);
    }
    let start = baseline.classes_start();
    let all = out[start..].chunks_exact_mut(2).take(header.classes.into());
    for (raw, count) in all.zip(classes) {
        count.write(raw);
    }
    let start = start + 2 * usize::from(header.classes);
    for (raw, detector) in out[start..].chunks_exact_mut(DetectorRecord::SIZE).zip(detectors) {
        detector.write(raw);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::counters::tests::Random;

    #[test]
    fn inputs_are_counted_element_by_element() {
        let mut random = Random(17);
        for round in 0..600 {
            let dtypes = [DType::I8, DType::U8, DType::I16, DType::F32, DType::F16, DType::BF16];
            let dtype = dtypes[round % dtypes.len()];
            let below = |random: &mut Random, most: u64| random.below(most) as usize;
            let (features, bins) = (below(&mut random, 9), 1 + below(&mut random, 16));
            let header = BaselineHeader {
                version: BASELINE_VERSION,
                header_bytes: BaselineHeader::SIZE as u32,
                window_runs: 1,
                features: features as u16,
                dtype: dtype as u8,
                bins: bins as u8,
                inner: 1 + random.below(12) as u32,
                step: 1 + random.below(if round % 2 == 0 { 3 } else { 40 }) as u32,
                value_unit: 1.0,
                ..Default::default()
            };
            let edges: Vec<Vec<i32>> = (0..features)
                .map(|_| {
                    let mut edges: Vec<i32> = (1..bins)
                        .map(|_| {
                            let x = random.below(300) as i32 - 150;
                            if dtype.is_float() { float_key(x as f32) } else { x }
                        })
                        .collect();
                    edges.sort_unstable();
                    edges
                })
                .collect();
            let records: Vec<Feature<'_>> =
                edges.iter().map(|edges| Feature { edges, ..Default::default() }).collect();
            let mut section = vec![0; header.section_bytes(dtype)];
            write(&header, dtype, &Default::default(), &records, &[], &[], &mut section);
            let baseline = Baseline::read(&section).expect("a baseline");
            let bytes: Vec<u8> =
                (0..below(&mut random, 900)).map(|_| random.below(256) as u8).collect();
            let (mut expected, mut expected_not_finite) = (vec![0u16; features * bins], 0);
            for (element, raw) in bytes.chunks_exact(dtype.size()).enumerate() {
                if features == 0 || element % header.step as usize != 0 {
                    continue;
                }
                let feature = baseline.feature_of(element);
                match baseline.bin(feature, raw) {
                    Some(bin) => expected[feature * bins + bin] += 1,
                    None => expected_not_finite += 1,
                }
            }
            let mut found = vec![0; features * bins];
            assert_eq!(baseline.count_input(&bytes, &mut found), expected_not_finite, "{header:?}");
            assert_eq!(found, expected, "{header:?}");
        }
    }
}
