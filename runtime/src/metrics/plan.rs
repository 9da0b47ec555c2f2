//! What a model and a configuration come to: the log's header, how outputs are read, the layout of the memory, detectors.

use core::fmt;

use super::baseline::{Baseline, BaselineError};
use super::config::{Config, Sizes};
use super::counters::{Group, LATENCY_BUCKETS};
use super::detect::{ADWIN_ROWS, Adwin, Change, Cusum, Ddm, Detector, Ewma, PageHinkley};
use super::kll::{self, Kll};
use super::labels::Pending;
use super::record::{
    FRAME_BYTES, Header, Kind, LOG_MAGIC, LOG_VERSION, MAX_PAYLOAD, RecordError, Scores, Signal,
    Source,
};
use super::reservoir::Reservoir;
use super::scores::Scorer;
use crate::format::{Field, cast_mut, crc32};
use crate::{DType, Model};

/// Why a monitor could not be made, or a period not be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MonitorError<E = core::convert::Infallible> {
    /// The model's baseline was refused.
    Baseline(BaselineError),
    /// The first output can't be what the configuration says it is.
    Scores(Scores),
    /// The memory is shorter than [`Monitor::memory_bytes`](super::Monitor::memory_bytes).
    Memory {
        /// Bytes that the monitor wants.
        needed: usize,
        /// Bytes that it got.
        given: usize,
    },
    /// A record could not be written: `record_bytes` of the configuration is too little.
    Record(RecordError),
    /// The sink refused a record.
    Sink(E),
}

impl MonitorError {
    /// The same, of something that has a sink.
    pub(super) fn of_any_sink<E>(self) -> MonitorError<E> {
        match self {
            MonitorError::Baseline(error) => MonitorError::Baseline(error),
            MonitorError::Scores(scores) => MonitorError::Scores(scores),
            MonitorError::Memory { needed, given } => MonitorError::Memory { needed, given },
            MonitorError::Record(error) => MonitorError::Record(error),
            MonitorError::Sink(never) => match never {},
        }
    }
}

impl<E: fmt::Display> fmt::Display for MonitorError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MonitorError::Baseline(error) => error.fmt(f),
            MonitorError::Scores(scores) => {
                write!(f, "the model's first output can't be {scores:?}")
            }
            MonitorError::Memory { needed, given } => {
                write!(f, "the monitor wants {needed} bytes of memory and got {given}")
            }
            MonitorError::Record(error) => error.fmt(f),
            MonitorError::Sink(error) => write!(f, "the log refused a record: {error}"),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> core::error::Error for MonitorError<E> {}

/// Where records go: flash, a file, a radio.
pub trait Sink {
    /// Why it refuses a record.
    type Error;

    /// Takes one whole record.
    ///
    /// # Errors
    /// When it couldn't be kept.
    fn write(&mut self, kind: Kind, record: &[u8]) -> Result<(), Self::Error>;
}

impl<S: Sink> Sink for &mut S {
    type Error = S::Error;

    fn write(&mut self, kind: Kind, record: &[u8]) -> Result<(), S::Error> {
        (**self).write(kind, record)
    }
}

/// A sink that survives restarts.
pub trait Log: Sink {
    /// The number of the next period: that behind the last one of which there is a record, 0 in an empty log.
    fn next_sequence(&self) -> u32;
}

#[cfg(feature = "std")]
impl Sink for Vec<u8> {
    type Error = core::convert::Infallible;

    fn write(&mut self, _: Kind, record: &[u8]) -> Result<(), Self::Error> {
        self.extend_from_slice(record);
        Ok(())
    }
}

/// What records say the model is: its file's checksum of header and directory, which covers the checksums of all sections,
/// and the file's length.
pub fn model_id(model: &Model<'_>) -> u64 {
    let header = model.header();
    u64::from(header.crc32) << 32 | header.file_bytes & 0xFFFF_FFFF
}

/// What a model and a configuration come to.
pub(super) struct Plan<'m> {
    pub(super) baseline: Option<Baseline<'m>>,
    pub(super) scorer: Scorer,
    pub(super) header: Header,
    pub(super) sizes: Sizes,
}

pub(super) fn plan<'m>(model: &Model<'m>, config: &Config) -> Result<Plan<'m>, MonitorError> {
    let baseline = Baseline::of(model).map_err(MonitorError::Baseline)?;
    let of_baseline = baseline.map_or(Scores::None, |baseline| {
        Scores::from_number(baseline.header().scores).unwrap_or_default()
    });
    let scores = config.scores.unwrap_or(of_baseline);
    let tensor = |index: Option<usize>| {
        let tensor = index.and_then(|index| model.tensor(index))?;
        Some((tensor, DType::from_number(tensor.dtype)?))
    };
    let refused = MonitorError::Scores(scores);
    let (output, dtype) = tensor(model.output(0)).ok_or(refused)?;
    let elements = output.bytes / dtype.size() as u64;
    let classes = match scores {
        Scores::None | Scores::Value => 0,
        Scores::Probability | Scores::Logit => 2,
        Scores::Probabilities | Scores::Logits => u16::try_from(elements).map_err(|_| refused)?,
    };
    let quantized = output.scale > 0.0 && !dtype.is_float();
    let unit = match (quantized, &baseline) {
        (true, _) => 1.0,
        (false, Some(baseline)) => baseline.header().value_unit,
        // The resolution of values up to 2¹⁴ that a label is compared with.
        (false, None) => 1.0 / 256.0,
    };
    let numbers = (dtype, output.scale, output.zero_point);
    let scorer = Scorer::new(scores, classes, numbers, unit).ok_or(refused)?;
    let drift = baseline.filter(|_| config.drift);
    let interface = model.inputs().len() + model.outputs().len();
    let input = tensor(model.input(drift.map_or(0, |baseline| baseline.header().input.into())));
    let input_bytes = input.map_or(0, |(input, _)| input.bytes);
    let fits = config.samples > 0 && classes > 0 && input_bytes <= u64::from(config.sample_bytes);
    let labelled = config.labels > 0;
    let header = Header {
        magic: LOG_MAGIC,
        version: LOG_VERSION,
        model: model_id(model),
        device: config.device,
        baseline_crc32: baseline.map_or(0, |baseline| crc32(&[baseline.section()])),
        classes,
        features: drift.map_or(0, |baseline| baseline.header().features),
        bins: drift.map_or(0, |baseline| baseline.header().bins),
        tensors: if config.saturation { interface.min(MAX_WATCHED) as u8 } else { 0 },
        scores: scores as u8,
        labels: match scores {
            Scores::Value => 2 * u8::from(labelled),
            _ => u8::from(labelled && classes > 0),
        },
        sample_bytes: if fits { input_bytes as u32 } else { 0 },
        sample_dtype: if fits { input.map_or(0, |(input, _)| input.dtype) } else { 0 },
        window_runs: drift.map_or(0, |baseline| baseline.header().window_runs),
        deadline_us: config.deadline_us,
        value_scale: match (scores, quantized) {
            (Scores::Value, true) => output.scale,
            (Scores::Value, false) => unit,
            _ => 0.0,
        },
        ..Header::default()
    };
    let shape = header.shape().map_err(MonitorError::Record)?;
    let sizes = Sizes {
        shape,
        latency: config.latency,
        labels: if header.labels > 0 { config.labels } else { 0 },
        samples: config.samples,
        sample_bytes: header.sample_bytes,
        sketch_items: match config.sketch.1 {
            0 => 0,
            items => items.clamp(kll::LEAST_ITEMS as u16, kll::MOST_ITEMS as u16),
        },
        record_bytes: config.record_bytes.clamp(SMALLEST_RECORD, LONGEST_RECORD),
    };
    Ok(Plan { baseline, scorer, header, sizes })
}

/// Tensors whose saturation is counted at most.
const MAX_WATCHED: usize = super::counters::MAX_TENSORS as usize;
/// A header with its frame.
const SMALLEST_RECORD: u16 = (Header::SIZE + FRAME_BYTES) as u16;
/// A frame's longest payload.
const LONGEST_RECORD: u16 = (MAX_PAYLOAD + FRAME_BYTES) as u16;

/// Counters in the monitor's memory.
pub(super) struct Memory<'m> {
    pub(super) sketch: Option<Kll<'m>>,
    pub(super) saturation: &'m mut [u32],
    pub(super) latency: &'m mut [u16],
    pub(super) classes: &'m mut [u16],
    pub(super) confidence: &'m mut [u16],
    pub(super) entropy: &'m mut [u16],
    pub(super) confusion: &'m mut [u16],
    pub(super) scored: &'m mut [u16],
    pub(super) drifted: &'m mut [u16],
    pub(super) features: &'m mut [u16],
    pub(super) window_classes: &'m mut [u16],
    pub(super) window_confidence: &'m mut [u16],
    pub(super) levels: &'m mut [u8],
    pub(super) record: &'m mut [u8],
}

/// The first numbers of what is left of a block of memory.
fn take<'m, T: crate::format::Element>(
    memory: &mut &'m mut [u8],
    count: usize,
) -> Option<&'m mut [T]> {
    let (front, rest) =
        core::mem::take(memory).split_at_mut_checked(count.checked_mul(size_of::<T>())?)?;
    *memory = rest;
    front.fill(0);
    cast_mut(front)
}

pub(super) fn lay_out<'m>(
    mut memory: &'m mut [u8],
    sizes: &Sizes,
) -> Option<(Memory<'m>, Pending<'m>, Reservoir<'m>)> {
    let ahead = memory.as_ptr().align_offset(align_of::<u32>());
    memory = memory.get_mut(ahead..)?;
    let shape = &sizes.shape;
    let saturation = take(&mut memory, shape.len(Group::Saturation))?;
    let pending = Pending::new(take(&mut memory, 2 * usize::from(sizes.labels))?);
    let sketch = match sizes.sketch_words() {
        0 => None,
        words => Kll::new(take(&mut memory, words)?, 1).ok(),
    };
    let latency = take(&mut memory, if sizes.latency { LATENCY_BUCKETS } else { 0 })?;
    let mut group = |group| take(&mut memory, shape.len(group));
    let counters = Memory {
        sketch,
        saturation,
        latency,
        classes: group(Group::Classes)?,
        confidence: group(Group::Confidence)?,
        entropy: group(Group::Entropy)?,
        confusion: group(Group::Confusion)?,
        scored: group(Group::Scored)?,
        drifted: group(Group::Drifted)?,
        features: group(Group::Features)?,
        window_classes: group(Group::WindowClasses)?,
        window_confidence: group(Group::WindowConfidence)?,
        levels: take(&mut memory, shape.features.into())?,
        record: take(&mut memory, sizes.longest_record())?,
    };
    let slots = take(&mut memory, sizes.sample_slots())?;
    Some((counters, pending, Reservoir::new(slots, sizes.sample_bytes as usize)))
}

/// Detectors of a baseline, one of each kind, each with its signal.
#[derive(Default)]
pub(super) struct Detectors {
    page_hinkley: Option<(Signal, PageHinkley)>,
    cusum: Option<(Signal, Cusum)>,
    ewma: Option<(Signal, Ewma)>,
    ddm: Option<(Signal, Ddm)>,
    adwin: Option<(Signal, Adwin<ADWIN_ROWS>)>,
}

impl Detectors {
    pub(super) fn of(baseline: &Baseline<'_>) -> Detectors {
        let mut all = Detectors::default();
        for record in baseline.detectors() {
            let Some(signal) = Signal::from_number(record.signal) else { continue };
            match Detector::new(&record) {
                Some(Detector::PageHinkley(detector)) => {
                    all.page_hinkley = Some((signal, detector))
                }
                Some(Detector::Cusum(detector)) => all.cusum = Some((signal, detector)),
                Some(Detector::Ewma(detector)) => all.ewma = Some((signal, detector)),
                Some(Detector::Ddm(detector)) => all.ddm = Some((signal, detector)),
                Some(Detector::Adwin(detector)) => all.adwin = Some((signal, detector)),
                None => (),
            }
        }
        all
    }

    /// Gives a signal's next number to the detectors that watch it.
    pub(super) fn add(&mut self, signal: Signal, x: i32, alarm: &mut dyn FnMut(Source, Change)) {
        macro_rules! give {
            ($($field:ident $source:ident),*) => {$(
                if let Some((watched, detector)) = &mut self.$field
                    && *watched == signal
                    && let Some(change) = detector.add(x)
                {
                    alarm(Source::$source, change);
                }
            )*};
        }
        give!(page_hinkley PageHinkley, cusum Cusum, ewma Ewma, ddm Ddm, adwin Adwin);
    }
}
