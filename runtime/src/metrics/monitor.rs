//! The monitor: counts what a model's runs do, tests for drift, and closes periods into records.

use core::fmt;

use super::baseline::{Baseline, BaselineError};
use super::counters::{
    CONFIDENCE_BINS, Cursor, ENTROPY_BINS, EVENTS, Event, Group, Head, LATENCY_BUCKETS, SUMS,
    Shape, Sum, Windowed, Worst, encode,
};
use super::detect::{ADWIN_ROWS, Adwin, Change, Cusum, Ddm, Detector, Ewma, PageHinkley};
use super::drift::{Statistic, benjamini_hochberg, level, p_value};
use super::histogram;
use super::labels::{LabelError, Pending};
use super::math::log2_q16;
use super::record::{
    Alarm, FRAME_BYTES, FRAME_FRONT, Header, Kind, LOG_MAGIC, LOG_VERSION, RecordError, Sample,
    Scores, Signal, Source, seal,
};
use super::reservoir::{Reservoir, SLOT_BYTES};
use super::scores::{ONE_Q15, Scored, Scorer, Unscored, confidence_bin, entropy_bin};
use crate::format::{Field, cast_mut, crc32};
use crate::{DType, Model};

/// Runs that a period counts, so that every count fits 16 bits.
pub const PERIOD_RUNS: u32 = 65_535;
/// Alarms of a period that are written; further ones are counted.
pub const PERIOD_ALARMS: usize = 4;
/// A clock that jumps ahead by more seconds than this has gone backwards.
const HALF_CLOCK: u32 = 1 << 31;

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
        samples: 4,
        sample_bytes: 64,
        record_bytes: 192,
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
        self.shape.len(Group::Saturation) + 2 * self.labels as usize
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
        self.shape.features as usize + self.sample_slots() + self.record_bytes as usize
    }

    const fn sample_slots(&self) -> usize {
        if self.sample_bytes == 0 || self.samples == 0 {
            return 0;
        }
        (self.samples as usize + 1) * (SLOT_BYTES + self.sample_bytes as usize)
    }
}

/// Why a monitor could not be made, or a period not be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MonitorError<E = core::convert::Infallible> {
    /// The model's baseline was refused.
    Baseline(BaselineError),
    /// The first output can't be what the configuration says it is.
    Scores(Scores),
    /// The memory is shorter than [`Monitor::memory_bytes`].
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

#[cfg(feature = "std")]
impl Sink for Vec<u8> {
    type Error = core::convert::Infallible;

    fn write(&mut self, _: Kind, record: &[u8]) -> Result<(), Self::Error> {
        self.extend_from_slice(record);
        Ok(())
    }
}

#[cfg(feature = "std")]
impl Sink for std::fs::File {
    type Error = std::io::Error;

    fn write(&mut self, _: Kind, record: &[u8]) -> Result<(), Self::Error> {
        std::io::Write::write_all(self, record)
    }
}

/// What records say the model is: its file's checksum of header and directory, which covers the checksums of all sections,
/// and the file's length.
pub fn model_id(model: &Model<'_>) -> u64 {
    let header = model.header();
    u64::from(header.crc32) << 32 | header.file_bytes & 0xFFFF_FFFF
}

/// Type and quantization of a tensor.
type Numbers = (DType, f32, i32);

/// What a model and a configuration come to.
struct Plan<'m> {
    baseline: Option<Baseline<'m>>,
    scorer: Scorer,
    header: Header,
    sizes: Sizes,
}

fn plan<'m>(model: &Model<'m>, config: &Config) -> Result<Plan<'m>, MonitorError> {
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
        record_bytes: config.record_bytes.max(SMALLEST_RECORD),
    };
    Ok(Plan { baseline, scorer, header, sizes })
}

/// Tensors whose saturation is counted at most.
const MAX_WATCHED: usize = super::counters::MAX_TENSORS as usize;
/// A header with its frame.
const SMALLEST_RECORD: u16 = (Header::SIZE + FRAME_BYTES) as u16;

/// Counters in the monitor's memory.
struct Memory<'m> {
    saturation: &'m mut [u32],
    latency: &'m mut [u16],
    classes: &'m mut [u16],
    confidence: &'m mut [u16],
    entropy: &'m mut [u16],
    confusion: &'m mut [u16],
    scored: &'m mut [u16],
    drifted: &'m mut [u16],
    features: &'m mut [u16],
    window_classes: &'m mut [u16],
    window_confidence: &'m mut [u16],
    levels: &'m mut [u8],
    record: &'m mut [u8],
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

fn lay_out<'m>(
    mut memory: &'m mut [u8],
    sizes: &Sizes,
) -> Option<(Memory<'m>, Pending<'m>, Reservoir<'m>)> {
    let ahead = memory.as_ptr().align_offset(align_of::<u32>());
    memory = memory.get_mut(ahead..)?;
    let shape = &sizes.shape;
    let saturation = take(&mut memory, shape.len(Group::Saturation))?;
    let pending = Pending::new(take(&mut memory, 2 * usize::from(sizes.labels))?);
    let latency = take(&mut memory, if sizes.latency { LATENCY_BUCKETS } else { 0 })?;
    let mut group = |group| take(&mut memory, shape.len(group));
    let counters = Memory {
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
        record: take(&mut memory, sizes.record_bytes.into())?,
    };
    let slots = take(&mut memory, sizes.sample_slots())?;
    Some((counters, pending, Reservoir::new(slots, sizes.sample_bytes as usize)))
}

/// Detectors of a baseline, one of each kind, each with its signal.
#[derive(Default)]
struct Detectors {
    page_hinkley: Option<(Signal, PageHinkley)>,
    cusum: Option<(Signal, Cusum)>,
    ewma: Option<(Signal, Ewma)>,
    ddm: Option<(Signal, Ddm)>,
    adwin: Option<(Signal, Adwin<ADWIN_ROWS>)>,
}

impl Detectors {
    fn of(baseline: &Baseline<'_>) -> Detectors {
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
    fn add(&mut self, signal: Signal, x: i32, alarm: &mut dyn FnMut(Source, Change)) {
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

/// Alarms until the period is closed.
#[derive(Default)]
struct Alarms {
    kept: [Alarm; PERIOD_ALARMS],
    count: usize,
}

/// Watches a model's runs. See the [module](super) for an example.
pub struct Monitor<'m> {
    config: Config,
    baseline: Option<Baseline<'m>>,
    scorer: Scorer,
    header: Header,
    shape: Shape,
    tag: u16,
    header_written: bool,
    sequence: u32,
    start_s: u32,
    next_run: u32,
    events: [u32; EVENTS],
    sums: [u64; SUMS],
    latency_max_us: u32,
    worst: Option<Worst>,
    window_runs: u16,
    /// The window's counts are kept for the log: no more tests in this period.
    window_kept: bool,
    detectors: Detectors,
    alarms: Alarms,
    memory: Memory<'m>,
    pending: Pending<'m>,
    reservoir: Reservoir<'m>,
}

impl<'m> Monitor<'m> {
    /// Bytes of memory that a monitor of this model wants, besides itself: `size_of::<Monitor>()`.
    ///
    /// # Errors
    /// As [`Monitor::new`].
    pub fn memory_bytes(model: &Model<'_>, config: &Config) -> Result<usize, MonitorError> {
        Ok(plan(model, config)?.sizes.bytes())
    }

    /// A monitor of a model in the caller's memory, [`Monitor::memory_bytes`] long. The period that begins has number
    /// `sequence` and the next run `next_run`: 0, or what follows the last ones in the log.
    ///
    /// # Errors
    /// When the memory is too short, or baseline, configuration and model don't fit each other.
    pub fn new(
        model: &Model<'m>,
        config: &Config,
        memory: &'m mut [u8],
        (sequence, next_run, now_s): (u32, u32, u32),
    ) -> Result<Monitor<'m>, MonitorError> {
        let Plan { baseline, scorer, header, sizes } = plan(model, config)?;
        let given = memory.len();
        let (memory, pending, reservoir) =
            lay_out(memory, &sizes).ok_or(MonitorError::Memory { needed: sizes.bytes(), given })?;
        let detectors = match &baseline {
            Some(baseline) if config.detectors => Detectors::of(baseline),
            _ => Detectors::default(),
        };
        let mut monitor = Monitor {
            config: *config,
            baseline: baseline.filter(|_| config.drift),
            scorer,
            header,
            shape: sizes.shape,
            tag: header.tag(),
            header_written: false,
            sequence,
            start_s: now_s,
            next_run,
            events: [0; EVENTS],
            sums: [0; SUMS],
            latency_max_us: 0,
            worst: None,
            window_runs: 0,
            window_kept: false,
            detectors,
            alarms: Alarms::default(),
            memory,
            pending,
            reservoir,
        };
        monitor.check_window(model)?;
        monitor.count(Event::Starts);
        Ok(monitor)
    }

    /// Refuses a baseline by which a count of a window could outgrow 16 bits.
    fn check_window(&mut self, model: &Model<'_>) -> Result<(), MonitorError> {
        let Some(baseline) = self.baseline.filter(|baseline| baseline.header().features > 0) else {
            return Ok(());
        };
        let header = baseline.header();
        let other = MonitorError::Baseline(BaselineError::OtherModel);
        let input = model.input(header.input.into()).and_then(|tensor| model.tensor(tensor));
        let elements = input.map_or(0, |input| input.bytes / DType::I8.size() as u64);
        let elements =
            elements / DType::from_number(header.dtype).map_or(1, |dtype| dtype.size() as u64);
        let most = u64::from(u16::MAX) / u64::from(header.window_runs);
        let counts = &mut *self.memory.drifted;
        for element in (0..elements as usize).step_by(header.step as usize) {
            let count = counts.get_mut(baseline.feature_of(element)).ok_or(other)?;
            *count += 1;
            if u64::from(*count) > most {
                return Err(other);
            }
        }
        counts.fill(0);
        Ok(())
    }

    /// The header of the records.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The number of the present period.
    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    /// The number that the next run gets.
    pub fn next_run(&self) -> u32 {
        self.next_run
    }

    /// A counter of the present period, or of the present window.
    pub fn get(&self, group: Group, index: usize) -> u64 {
        let memory = &self.memory;
        let half = |counts: &[u16]| counts.get(index).map_or(0, |count| u64::from(*count));
        match group {
            Group::Events => self.events.get(index).map_or(0, |count| u64::from(*count)),
            Group::Latency => half(memory.latency),
            Group::Classes => half(memory.classes),
            Group::Confidence => half(memory.confidence),
            Group::Entropy => half(memory.entropy),
            Group::Saturation => memory.saturation.get(index).map_or(0, |count| u64::from(*count)),
            Group::Confusion => half(memory.confusion),
            Group::Scored => half(memory.scored),
            Group::Sums => self.sums.get(index).copied().unwrap_or(0),
            Group::Drifted => half(memory.drifted),
            Group::Windowed if index == Windowed::Windows as usize => {
                u64::from(self.window_runs > 0)
            }
            Group::Windowed if index == Windowed::Runs as usize => u64::from(self.window_runs),
            Group::Windowed => 0,
            Group::Features => half(memory.features),
            Group::WindowClasses => half(memory.window_classes),
            Group::WindowConfidence => half(memory.window_confidence),
        }
    }

    /// How often something happened in the present period.
    pub fn event(&self, event: Event) -> u32 {
        self.events[event as usize]
    }

    /// Runs of the period in a millionth that a quantile of latencies is at: `latency_us((99, 100))` for p99.
    pub fn latency_us(&self, share: (u32, u32)) -> Option<u32> {
        histogram::quantile(&|bucket| self.get(Group::Latency, bucket), share, self.latency_max_us)
    }

    /// Accuracy of the period's predictions that their confidence promises, in 2⁻¹⁵: without labels, by the baseline's
    /// calibration table.
    pub fn estimated_accuracy(&self) -> Option<u32> {
        self.baseline?.estimated_accuracy(&|bin| self.get(Group::Confidence, bin))
    }

    fn count(&mut self, event: Event) {
        let count = &mut self.events[event as usize];
        *count = count.saturating_add(1);
    }

    /// Whether the period can't count more runs: it is time to close it.
    pub fn is_full(&self) -> bool {
        self.event(Event::Runs) + self.event(Event::Errors) >= PERIOD_RUNS
    }

    /// Looks at an input before a run; `index` counts the model's inputs.
    pub fn input(&mut self, index: usize, dtype: DType, bytes: &[u8]) {
        if self.is_full() {
            return;
        }
        self.saturation(index, dtype, bytes);
        let watched = self.baseline.map_or(0, |baseline| usize::from(baseline.header().input));
        if index != watched {
            return;
        }
        self.reservoir.stage(bytes);
        let Some(baseline) = self.baseline else { return };
        if self.window_kept || self.window_runs >= baseline.header().window_runs {
            return;
        }
        let (bins, size) = (usize::from(self.shape.bins), dtype.size());
        let elements = bytes.chunks_exact(size).enumerate();
        let mut not_finite = 0u32;
        for (element, raw) in elements.step_by(baseline.header().step as usize) {
            let feature = baseline.feature_of(element);
            match baseline.bin(feature, raw) {
                Some(bin) => {
                    if let Some(count) = self.memory.features.get_mut(feature * bins + bin) {
                        *count = count.saturating_add(1);
                    }
                }
                None => not_finite += 1,
            }
        }
        let count = &mut self.events[Event::InputsNotFinite as usize];
        *count = count.saturating_add(not_finite);
    }

    /// Counts elements at the limits of their type.
    fn saturation(&mut self, tensor: usize, dtype: DType, bytes: &[u8]) {
        let Some([low, high]) = self.memory.saturation.get_mut(2 * tensor..2 * tensor + 2) else {
            return;
        };
        let (mut at_low, mut at_high) = (0u32, 0u32);
        let mut look = |is_low: bool, is_high: bool| {
            at_low += u32::from(is_low);
            at_high += u32::from(is_high);
        };
        match dtype {
            DType::I8 => bytes.iter().for_each(|b| look(*b == 0x80, *b == 0x7F)),
            DType::U8 => bytes.iter().for_each(|b| look(*b == 0, *b == 0xFF)),
            DType::I16 => {
                bytes.chunks_exact(2).for_each(|b| look(b == [0, 0x80], b == [0xFF, 0x7F]));
            }
            _ => (),
        }
        *low = low.saturating_add(at_low);
        *high = high.saturating_add(at_high);
    }

    /// Looks at an output after a run; `index` counts the model's outputs, `inputs` is the number of its inputs.
    pub fn output(&mut self, inputs: usize, index: usize, dtype: DType, bytes: &[u8]) {
        if !self.is_full() {
            self.saturation(inputs + index, dtype, bytes);
        }
    }

    /// A run failed; gives its number.
    pub fn failed(&mut self) -> u32 {
        let event = if self.is_full() { Event::Unrecorded } else { Event::Errors };
        self.count(event);
        self.next()
    }

    fn next(&mut self) -> u32 {
        let run = self.next_run;
        self.next_run = run.wrapping_add(1);
        run
    }

    /// A run ended well, with these bytes in the first output; gives its number.
    pub fn ran(&mut self, latency_us: u32, output: &[u8]) -> u32 {
        if self.is_full() {
            self.count(Event::Unrecorded);
            return self.next();
        }
        self.count(Event::Runs);
        if latency_us > self.config.deadline_us {
            self.count(Event::DeadlineMisses);
        }
        self.latency_max_us = self.latency_max_us.max(latency_us);
        bump(self.memory.latency, histogram::bucket(latency_us));
        let log_latency = log2_q16(u64::from(latency_us)) >> 6;
        self.detect(Signal::Latency, log_latency as i32);
        let run = self.next();
        match self.scorer.score(output) {
            Ok(scored) => self.scored(run, &scored),
            Err(Unscored::NotFinite) => self.count(Event::OutputsNotFinite),
            Err(Unscored::Wrong) => self.count(Event::OutputsWrong),
        }
        self.end_of_window();
        run
    }

    fn scored(&mut self, run: u32, scored: &Scored) {
        if self.header.scores == Scores::Value as u8 {
            self.detect(Signal::Value, scored.value);
            // Values are cut to ±2²², so that adding 2²³ makes them positive.
            self.wait(run, (scored.value + (1 << 23)) as u32);
            return;
        }
        if self.scorer.classes() == 0 {
            return;
        }
        let bin = confidence_bin(scored.confidence);
        bump(self.memory.classes, scored.class.into());
        bump(self.memory.confidence, bin);
        bump(self.memory.entropy, entropy_bin(scored.entropy));
        if self.baseline.is_some() && !self.window_kept {
            bump(self.memory.window_classes, scored.class.into());
            bump(self.memory.window_confidence, bin);
        }
        self.reservoir.keep(run, scored.class, scored.confidence);
        self.wait(run, u32::from(scored.class) << 8 | confidence_bin(scored.event) as u32);
        self.detect(Signal::Confidence, scored.confidence.into());
        self.detect(Signal::Entropy, scored.entropy.into());
    }

    fn wait(&mut self, run: u32, prediction: u32) {
        if self.header.labels > 0 && self.pending.wait(run, prediction) {
            self.count(Event::LabelsMissed);
        }
    }

    fn detect(&mut self, signal: Signal, x: i32) {
        let mut detectors = core::mem::take(&mut self.detectors);
        detectors.add(signal, x, &mut |source, change| {
            self.count(match source {
                Source::PageHinkley => Event::PageHinkleyAlarms,
                Source::Cusum => Event::CusumAlarms,
                Source::Ewma => Event::EwmaAlarms,
                Source::Ddm => Event::DdmAlarms,
                _ => Event::AdwinAlarms,
            });
            let Change { value, threshold } = change;
            self.raise(source, signal as u8, Alarm { value, threshold, ..Alarm::default() });
        });
        self.detectors = detectors;
    }

    fn raise(&mut self, source: Source, what: u8, alarm: Alarm) {
        let run = self.event(Event::Runs);
        let (sequence, start_s) = (self.sequence, self.start_s);
        match self.alarms.kept.get_mut(self.alarms.count) {
            Some(slot) => {
                *slot = Alarm { sequence, start_s, run, source: source as u8, what, ..alarm };
                self.alarms.count += 1;
            }
            None => self.count(Event::AlarmsDropped),
        }
    }

    /// Counts the run to the window, and tests the window when it is complete.
    fn end_of_window(&mut self) {
        let Some(baseline) = self.baseline else { return };
        if self.window_kept {
            return;
        }
        self.window_runs += 1;
        if self.window_runs < baseline.header().window_runs {
            return;
        }
        self.count(Event::Windows);
        let drifted = [self.test_features(&baseline), self.test_outputs(&baseline)].contains(&true);
        let every = u32::from(self.config.window_every);
        let wanted = every > 0 && self.sequence.is_multiple_of(every);
        if drifted || wanted {
            self.window_kept = true;
        } else {
            self.clear_window();
        }
    }

    fn clear_window(&mut self) {
        self.window_runs = 0;
        self.memory.features.fill(0);
        self.memory.window_classes.fill(0);
        self.memory.window_confidence.fill(0);
    }

    fn test_features(&mut self, baseline: &Baseline<'_>) -> bool {
        let (features, bins) = (usize::from(self.shape.features), usize::from(self.shape.bins));
        let statistic = self.config.statistic;
        let mut worst: Option<(usize, u32, usize)> = None;
        for feature in 0..features {
            let seen = |bin: usize| {
                self.memory.features.get(feature * bins + bin).map_or(0, |count| u32::from(*count))
            };
            let expected = |bin: usize| baseline.count(feature, bin);
            let value = statistic.of(bins, &seen, &expected);
            let mean = baseline.mean(feature, statistic);
            let level = level(value, mean, &|level| baseline.quantile(statistic, level));
            if let Some(slot) = self.memory.levels.get_mut(feature) {
                *slot = level as u8;
            }
            let js_q16 = match statistic {
                Statistic::JensenShannon => value,
                _ => Statistic::JensenShannon.of(bins, &seen, &expected),
            };
            self.worst = self.worst.max(Some(Worst { js_q16, feature: feature as u16 }));
            if worst.is_none_or(|(most, most_value, _)| (level, value) > (most, most_value)) {
                worst = Some((level, value, feature));
            }
        }
        let levels =
            |feature: usize| self.memory.levels.get(feature).map_or(0, |level| usize::from(*level));
        let from = benjamini_hochberg(&levels, features, baseline.header().discovery_q32);
        let (Some(from), Some((level, value, feature))) = (from, worst) else { return false };
        for feature in 0..features {
            if self.memory.levels.get(feature).is_some_and(|level| usize::from(*level) >= from) {
                bump(self.memory.drifted, feature);
            }
        }
        self.count(Event::InputDrifts);
        // What would have had the level that decided.
        let mean = baseline.mean(feature, statistic);
        let threshold = (baseline.quantile(statistic, from - 1) * mean.max(1)) >> 8;
        let alarm = Alarm {
            index: feature as u16,
            value: positive(value),
            threshold: positive(threshold),
            p_value: p_value(level),
            ..Alarm::default()
        };
        self.raise(Source::Feature, statistic as u8, alarm);
        true
    }

    fn test_outputs(&mut self, baseline: &Baseline<'_>) -> bool {
        let header = baseline.header();
        let classes = usize::from(self.shape.classes);
        if classes == 0 || classes != usize::from(header.classes) {
            return false;
        }
        let statistic = self.config.statistic;
        let seen =
            |counts: &[u16], index: usize| counts.get(index).map_or(0, |count| u32::from(*count));
        let of_classes =
            statistic.of(classes, &|class| seen(self.memory.window_classes, class), &|class| {
                baseline.class_count(class)
            });
        let of_confidence = statistic.of(
            CONFIDENCE_BINS,
            &|bin| seen(self.memory.window_confidence, bin),
            &|bin| seen(&header.confidence, bin),
        );
        let number = statistic as usize - 1;
        let mut any = false;
        for (source, event, value, thresholds) in [
            (Source::Classes, Event::ClassDrifts, of_classes, header.class_thresholds),
            (
                Source::Confidence,
                Event::ConfidenceDrifts,
                of_confidence,
                header.confidence_thresholds,
            ),
        ] {
            let threshold = thresholds[number];
            if value > threshold {
                any = true;
                self.count(event);
                let alarm = Alarm {
                    value: positive(value),
                    threshold: positive(threshold),
                    p_value: header.false_alarm_q32,
                    ..Alarm::default()
                };
                self.raise(source, statistic as u8, alarm);
            }
        }
        any
    }

    /// The true class of a run.
    ///
    /// # Errors
    /// When the run isn't known or has its label, or the label is no class: each is counted.
    pub fn label_class(&mut self, run: u32, class: u32) -> Result<(), LabelError> {
        if self.header.labels != 1 {
            return Err(LabelError::Off);
        }
        let classes = u32::from(self.shape.classes);
        let prediction = self.labelled(run, class < classes)?;
        let (predicted, bin) = (prediction >> 8, (prediction & 0xFF) as usize);
        bump(self.memory.confusion, (class * classes + predicted) as usize);
        let happened = if classes == 2 { class == 1 } else { class == predicted };
        bump(self.memory.scored, usize::from(happened) * CONFIDENCE_BINS + bin);
        self.detect(Signal::Error, if class == predicted { 0 } else { ONE_Q15 as i32 });
        Ok(())
    }

    /// The true value of a run of a [`Scores::Value`] model.
    ///
    /// # Errors
    /// When the run isn't known or has its label, or the label is NaN or infinite: each is counted.
    pub fn label_value(&mut self, run: u32, value: f32) -> Result<(), LabelError> {
        if self.header.labels != 2 {
            return Err(LabelError::Off);
        }
        let label = Scorer::label_units(value, self.header.value_scale);
        let prediction = self.labelled(run, label.is_some())?;
        let y = i64::from(label.unwrap_or(0));
        let e = i64::from(prediction) - (1 << 23) - y;
        for (sum, term) in [
            (Sum::Count, 1),
            (Sum::Absolute, e.abs()),
            (Sum::Squared, e * e),
            (Sum::Positive, y.max(0)),
            (Sum::Negative, (-y).max(0)),
            (Sum::LabelSquared, y * y),
            (Sum::ErrorPositive, e.max(0)),
            (Sum::ErrorNegative, (-e).max(0)),
        ] {
            // At most 65,535 terms below 2⁴⁶.
            self.sums[sum as usize] += term as u64;
        }
        Ok(())
    }

    fn labelled(&mut self, run: u32, valid: bool) -> Result<u32, LabelError> {
        let result = match valid {
            _ if self.event(Event::Labels) >= PERIOD_RUNS => Err(LabelError::Full),
            true => self.pending.take(run),
            false => Err(LabelError::Invalid),
        };
        match result {
            Ok(_) => self.count(Event::Labels),
            Err(LabelError::Duplicate) => self.count(Event::LabelsDuplicate),
            Err(LabelError::Invalid) => self.count(Event::LabelsInvalid),
            Err(_) => self.count(Event::LabelsUnknown),
        }
        result
    }

    /// Closes the period: writes its record, and what else it has to tell, and begins the next one.
    ///
    /// When the sink refuses the period's record the period goes on, and is closed by the next call. What it refuses behind
    /// that is lost, and counted in the next period.
    ///
    /// # Errors
    /// The sink's error, and [`MonitorError::Record`] when `record_bytes` is too little.
    pub fn close_period<S: Sink>(
        &mut self,
        now_s: u32,
        sink: &mut S,
    ) -> Result<(), MonitorError<S::Error>> {
        if !self.header_written {
            let record = self.header.encode(self.memory.record).map_err(MonitorError::Record)?;
            let written = sink.write(Kind::Header, record).map_err(MonitorError::Sink);
            written.inspect_err(|_| self.count(Event::SinkFailures))?;
            self.header_written = true;
        }
        let mut duration = now_s.wrapping_sub(self.start_s);
        if duration >= HALF_CLOCK {
            self.count(Event::ClockFaults);
            duration = 0;
        }
        let samples = self.reservoir.len();
        self.events[Event::Samples as usize] = samples as u32;
        let head = Head {
            sequence: self.sequence,
            periods: 1,
            start_s: self.start_s,
            duration_s: duration.into(),
            latency_max_us: self.latency_max_us,
            worst: self.worst,
            ..Head::default()
        };
        let mut failed = None;
        if let Err((first, error)) = self.write_counts(Kind::Period, head, Group::OF_PERIODS, sink)
        {
            if first {
                self.count(Event::SinkFailures);
                return Err(error);
            }
            failed = Some(error);
        }
        let mut lost = u32::from(failed.is_some());
        let mut note = |result: Result<(), MonitorError<S::Error>>| {
            if let Err(error) = result {
                lost += 1;
                failed.get_or_insert(error);
            }
        };
        if self.window_kept {
            let head = Head { periods: 0, worst: None, ..head };
            let written = self.write_counts(Kind::Window, head, Group::OF_WINDOWS, sink);
            note(written.map_err(|(_, error)| error));
        }
        for alarm in &self.alarms.kept[..self.alarms.count] {
            note(write(sink, Kind::Alarm, alarm.encode(self.tag, self.memory.record)));
        }
        for number in 0..samples {
            let kept = self.reservoir.get(number);
            let most = self.memory.record.len() - FRAME_BYTES - Sample::SIZE;
            for (piece, bytes) in kept.input.chunks(most).enumerate() {
                let sample = Sample {
                    sequence: self.sequence,
                    start_s: self.start_s,
                    run_id: kept.run,
                    class: kept.class,
                    confidence: kept.confidence,
                    total_bytes: kept.input.len() as u32,
                    offset: (piece * most) as u32,
                };
                note(write(sink, Kind::Sample, sample.encode(self.tag, bytes, self.memory.record)));
            }
        }
        self.begin_period(now_s);
        self.events[Event::SinkFailures as usize] = lost;
        failed.map_or(Ok(()), Err)
    }

    /// Writes counts in as many records as they take; whether the first was refused.
    fn write_counts<S: Sink>(
        &mut self,
        kind: Kind,
        head: Head,
        groups: &[Group],
        sink: &mut S,
    ) -> Result<(), (bool, MonitorError<S::Error>)> {
        let buffer = core::mem::take(&mut self.memory.record);
        let end = buffer.len() - 4;
        let (mut cursor, mut part) = (Some(Cursor::default()), 0);
        let mut result = Ok(());
        while let Some(from) = cursor {
            let periods = if part == 0 { head.periods } else { 0 };
            let head = Head { part, periods, ..head };
            let get = |group, index| self.get(group, index);
            let out = &mut buffer[FRAME_FRONT..end];
            let written = encode(&head, &self.shape, groups, &get, from, out)
                .map_err(MonitorError::Record)
                .and_then(|(bytes, next)| {
                    write(sink, kind, seal(buffer, kind, self.tag, bytes))?;
                    Ok(next)
                });
            match written {
                Ok(next) => cursor = next,
                Err(error) => {
                    result = Err((part == 0, error));
                    break;
                }
            }
            part += 1;
        }
        self.memory.record = buffer;
        result
    }

    fn begin_period(&mut self, now_s: u32) {
        self.sequence = self.sequence.wrapping_add(1);
        self.start_s = now_s;
        self.events = [0; EVENTS];
        self.sums = [0; SUMS];
        self.latency_max_us = 0;
        self.worst = None;
        self.alarms.count = 0;
        self.reservoir.clear();
        if core::mem::take(&mut self.window_kept) {
            self.clear_window();
        }
        let memory = &mut self.memory;
        memory.saturation.fill(0);
        for counts in [
            &mut *memory.latency,
            memory.classes,
            memory.confidence,
            memory.entropy,
            memory.confusion,
            memory.scored,
            memory.drifted,
        ] {
            counts.fill(0);
        }
    }
}

fn write<S: Sink>(
    sink: &mut S,
    kind: Kind,
    record: Result<&[u8], RecordError>,
) -> Result<(), MonitorError<S::Error>> {
    let record = record.map_err(MonitorError::Record)?;
    sink.write(kind, record).map_err(MonitorError::Sink)
}

/// Adds one to a counter that is there: a period's runs, labels and windows fit 16 bits.
fn bump(counts: &mut [u16], index: usize) {
    if let Some(count) = counts.get_mut(index) {
        *count = count.saturating_add(1);
    }
}

fn positive(value: u32) -> i32 {
    value.min(i32::MAX as u32) as i32
}

const _: () =
    assert!(ENTROPY_BINS <= 16 && CONFIDENCE_BINS <= 256, "a bin of an event takes 8 bits");
