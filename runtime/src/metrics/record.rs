//! Records of a monitor's log: the frame around each, and the records of fixed size. `MONITOR.md` is the
//! normative text; counts are in [`counters`](super::counters).
//!
//! Bytes that are read may hold anything. Whatever doesn't hold together is refused with a [`RecordError`].

use core::fmt;

use super::counters::Shape;
use crate::format::{Field, crc32, record};

/// First four bytes of a header's payload.
pub const LOG_MAGIC: [u8; 4] = *b"WMON";
/// Readers refuse other versions.
pub const LOG_VERSION: u16 = 1;
/// Bytes of a frame besides its payload.
pub const FRAME_BYTES: usize = 9;
/// Bytes in front of a payload.
pub const FRAME_FRONT: usize = 5;
/// Bytes of a payload at most: what a reader that looks for the next whole record tries at each byte.
pub const MAX_PAYLOAD: usize = 4096;
/// The upper half of every record's first byte.
const SYNC: u8 = 0xB0;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[non_exhaustive]
pub enum Kind {
    /// A [`Header`]: which model, which device, what is counted.
    Header = 1,
    /// Counts of one period.
    Period = 2,
    /// Counts of several periods.
    Summary = 3,
    /// An [`Alarm`].
    Alarm = 4,
    /// A [`Sample`] and bytes of an input.
    Sample = 5,
    /// Counts of one window of the drift tests.
    Window = 6,
    /// A [`SketchHead`] and a quantile sketch.
    Sketch = 7,
}

impl Kind {
    /// The kind with this number.
    pub fn from_number(number: u8) -> Option<Kind> {
        const ALL: [Kind; 7] = [
            Kind::Header,
            Kind::Period,
            Kind::Summary,
            Kind::Alarm,
            Kind::Sample,
            Kind::Window,
            Kind::Sketch,
        ];
        ALL.get(usize::from(number).wrapping_sub(1)).copied()
    }
}

/// Why a record could not be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordError {
    /// The bytes end before the record does.
    Cut,
    /// The bytes aren't a record, or its checksum doesn't match.
    Damaged,
    /// The log was made by another version.
    Version {
        /// Version of the log.
        version: u16,
    },
    /// A record belongs to a log with another header: another model, device or configuration.
    OtherLog,
    /// A value has no meaning.
    BadValue,
    /// A value or a sum is too large for a record.
    TooLarge,
    /// The memory that was handed over is too short.
    Memory,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordError::Cut => f.write_str("the record is cut"),
            RecordError::Damaged => f.write_str("not a record, or a damaged one"),
            RecordError::Version { version } => write!(
                f,
                "the log has version {version}, this build reads {LOG_VERSION}: use the matching version of the tool"
            ),
            RecordError::OtherLog => {
                f.write_str("the record is of another model, device or configuration")
            }
            RecordError::BadValue => f.write_str("the record has a value without meaning"),
            RecordError::TooLarge => f.write_str("a value or a sum is too large for a record"),
            RecordError::Memory => f.write_str("the memory handed over is too short"),
        }
    }
}

impl core::error::Error for RecordError {}

/// A record whose checksum matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'b> {
    /// What it is.
    pub kind: Kind,
    /// [`Header::tag`] of the header that it belongs to.
    pub tag: u16,
    /// Its content.
    pub payload: &'b [u8],
}

impl<'b> Frame<'b> {
    /// Reads the record at the front of `bytes`, and how many bytes it takes.
    ///
    /// # Errors
    /// [`RecordError::Cut`] when the bytes end before it does, [`RecordError::Damaged`] when they aren't a record.
    pub fn read(bytes: &'b [u8]) -> Result<(Frame<'b>, usize), RecordError> {
        let first = *bytes.first().ok_or(RecordError::Cut)?;
        if first & 0xF0 != SYNC {
            return Err(RecordError::Damaged);
        }
        let kind = Kind::from_number(first & 0x0F).ok_or(RecordError::Damaged)?;
        let front = bytes.get(..FRAME_FRONT).ok_or(RecordError::Cut)?;
        let length = usize::from(u16::read(&front[1..]));
        if length > MAX_PAYLOAD {
            return Err(RecordError::Damaged);
        }
        let end = FRAME_FRONT + length;
        let sealed = bytes.get(..end).ok_or(RecordError::Cut)?;
        let crc = bytes.get(end..end + 4).ok_or(RecordError::Cut)?;
        if crc32(&[sealed]) != u32::read(crc) {
            return Err(RecordError::Damaged);
        }
        let frame = Frame { kind, tag: u16::read(&front[3..]), payload: &sealed[FRAME_FRONT..] };
        Ok((frame, end + 4))
    }
}

/// Writes frame and checksum around a payload that lies in `out` from [`FRAME_FRONT`] on; gives the record's bytes.
///
/// # Errors
/// [`RecordError::Memory`] when `out` is too short, [`RecordError::TooLarge`] for payloads over [`MAX_PAYLOAD`].
pub fn seal(
    out: &mut [u8],
    kind: Kind,
    tag: u16,
    payload_bytes: usize,
) -> Result<&[u8], RecordError> {
    if payload_bytes > MAX_PAYLOAD {
        return Err(RecordError::TooLarge);
    }
    let out = out.get_mut(..payload_bytes + FRAME_BYTES).ok_or(RecordError::Memory)?;
    let (sealed, crc) = out.split_at_mut(FRAME_FRONT + payload_bytes);
    sealed[0] = SYNC | kind as u8;
    (payload_bytes as u16).write(&mut sealed[1..]);
    tag.write(&mut sealed[3..]);
    crc32(&[sealed]).write(crc);
    Ok(out)
}

/// Writes a record of fixed size, `tail` behind it.
pub(crate) fn seal_fixed<'o, T: Field>(
    out: &'o mut [u8],
    kind: Kind,
    tag: u16,
    fixed: T,
    tail: &[u8],
) -> Result<&'o [u8], RecordError> {
    let payload_bytes = T::SIZE + tail.len();
    let payload =
        out.get_mut(FRAME_FRONT..FRAME_FRONT + payload_bytes).ok_or(RecordError::Memory)?;
    fixed.write(payload);
    payload[T::SIZE..].copy_from_slice(tail);
    seal(out, kind, tag, payload_bytes)
}

/// Part of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'b> {
    /// A whole record.
    Record(Frame<'b>),
    /// Bytes that hold no whole record.
    Damaged {
        /// From the start of the log.
        offset: usize,
        /// How many.
        bytes: usize,
        /// What the first of them are: [`RecordError::Cut`] or [`RecordError::Damaged`].
        error: RecordError,
    },
}

/// The records of a log and the damage between them, in order.
///
/// Behind damage it looks for the next byte at which a whole record begins.
#[derive(Clone, Debug)]
pub struct Pieces<'b> {
    log: &'b [u8],
    at: usize,
}

impl<'b> Pieces<'b> {
    /// Of a whole log.
    pub fn new(log: &'b [u8]) -> Pieces<'b> {
        Pieces { log, at: 0 }
    }

    /// Where the next piece begins.
    pub fn offset(&self) -> usize {
        self.at
    }
}

impl<'b> Iterator for Pieces<'b> {
    type Item = Piece<'b>;

    fn next(&mut self) -> Option<Piece<'b>> {
        let rest = self.log.get(self.at..).filter(|rest| !rest.is_empty())?;
        let error = match Frame::read(rest) {
            Ok((frame, bytes)) => {
                self.at += bytes;
                return Some(Piece::Record(frame));
            }
            Err(error) => error,
        };
        let offset = self.at;
        let mut bytes = 1;
        while bytes < rest.len() && Frame::read(&rest[bytes..]).is_err() {
            bytes += 1;
        }
        self.at += bytes;
        Some(Piece::Damaged { offset, bytes, error })
    }
}

/// What a model's outputs are, and so what the monitor makes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Scores {
    /// Numbers of no kind: neither class nor confidence.
    #[default]
    None = 0,
    /// One probability per class.
    Probabilities = 1,
    /// One logit per class: softmax makes probabilities of them.
    Logits = 2,
    /// One probability, of class 1 out of two.
    Probability = 3,
    /// One logit of class 1 out of two: the logistic function makes a probability of it.
    Logit = 4,
    /// An estimate of a real number.
    Value = 5,
}

impl Scores {
    /// The kind with this number.
    pub fn from_number(number: u8) -> Option<Scores> {
        [
            Scores::None,
            Scores::Probabilities,
            Scores::Logits,
            Scores::Probability,
            Scores::Logit,
            Scores::Value,
        ]
        .into_iter()
        .find(|scores| *scores as u8 == number)
    }
}

record! {
    /// Begins a log, and stands again wherever a writer has made room: every other record has its tag.
    pub struct Header: 64 {
        /// [`LOG_MAGIC`].
        pub magic: [u8; 4],
        /// [`LOG_VERSION`].
        pub version: u16,
        /// Zero.
        pub reserved: u16,
        /// [`model_id`](super::model_id) of the model.
        pub model: u64,
        /// Which device; the caller's number.
        pub device: u64,
        /// CRC-32 of the model's baseline section, 0 without.
        pub baseline_crc32: u32,
        /// Classes of the model, 0 when it doesn't classify.
        pub classes: u16,
        /// Features of the inputs that drift tests watch.
        pub features: u16,
        /// Bins of a feature's histogram.
        pub bins: u8,
        /// Tensors whose saturation is counted.
        pub tensors: u8,
        /// A [`Scores`] number.
        pub scores: u8,
        /// Bit 0: labels of classes arrive; bit 1: labels of values arrive.
        pub labels: u8,
        /// Bytes of a [`Sample`]'s input, 0 when none are kept.
        pub sample_bytes: u32,
        /// [`DType`](crate::DType) number of a sample's input.
        pub sample_dtype: u8,
        /// Zero.
        pub reserved_byte: u8,
        /// Runs of a window of the drift tests.
        pub window_runs: u16,
        /// Deadline of a run in microseconds, `u32::MAX` without.
        pub deadline_us: u32,
        /// What one unit of a [`Scores::Value`] label is: `real = scale × (value − zero_point)`, 2⁻¹⁶ for floats.
        pub value_scale: f32,
        /// See `value_scale`.
        pub value_zero_point: i32,
        /// Zero.
        pub reserved_words: [u32; 2],
    }
}

impl Header {
    /// Reads a header's payload.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    pub fn decode(payload: &[u8]) -> Result<Header, RecordError> {
        let header = Header::read(payload);
        if header.magic != LOG_MAGIC {
            return Err(RecordError::Damaged);
        }
        if header.version != LOG_VERSION {
            return Err(RecordError::Version { version: header.version });
        }
        if payload.len() != Header::SIZE {
            return Err(RecordError::BadValue);
        }
        header.shape()?;
        Scores::from_number(header.scores).ok_or(RecordError::BadValue)?;
        if !header.value_scale.is_finite() {
            return Err(RecordError::BadValue);
        }
        Ok(header)
    }

    /// Writes the header's record to the front of `out`.
    ///
    /// # Errors
    /// [`RecordError::Memory`] when `out` is too short.
    pub fn encode<'o>(&self, out: &'o mut [u8]) -> Result<&'o [u8], RecordError> {
        seal_fixed(out, Kind::Header, self.tag(), *self, &[])
    }

    /// What its records carry: the lower half of the CRC-32 of its payload.
    pub fn tag(&self) -> u16 {
        let mut payload = [0; Header::SIZE];
        self.write(&mut payload);
        crc32(&[&payload]) as u16
    }

    /// How many counters of each group its records can have.
    ///
    /// # Errors
    /// [`RecordError::BadValue`] for sizes over the limits.
    pub fn shape(&self) -> Result<Shape, RecordError> {
        let shape = Shape {
            classes: self.classes,
            features: self.features,
            bins: self.bins,
            tensors: self.tensors,
            class_labels: self.labels & 1 != 0,
            value_labels: self.labels & 2 != 0,
        };
        if self.labels <= 3 && shape.is_valid() { Ok(shape) } else { Err(RecordError::BadValue) }
    }
}

/// What raised an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[non_exhaustive]
pub enum Source {
    /// An input feature is distributed otherwise than in the baseline.
    Feature = 1,
    /// The predicted classes are distributed otherwise than in the baseline.
    Classes = 2,
    /// The confidence is distributed otherwise than in the baseline.
    Confidence = 3,
    /// Page–Hinkley.
    PageHinkley = 4,
    /// CUSUM.
    Cusum = 5,
    /// EWMA chart.
    Ewma = 6,
    /// DDM.
    Ddm = 7,
    /// ADWIN.
    Adwin = 8,
}

impl Source {
    /// Every source, in the order of its number.
    pub const ALL: [Source; 8] = [
        Source::Feature,
        Source::Classes,
        Source::Confidence,
        Source::PageHinkley,
        Source::Cusum,
        Source::Ewma,
        Source::Ddm,
        Source::Adwin,
    ];

    /// The source with this number.
    pub fn from_number(number: u8) -> Option<Source> {
        Source::ALL.get(usize::from(number).wrapping_sub(1)).copied()
    }

    /// The name used in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Source::Feature => "feature",
            Source::Classes => "classes",
            Source::Confidence => "confidence",
            Source::PageHinkley => "page_hinkley",
            Source::Cusum => "cusum",
            Source::Ewma => "ewma",
            Source::Ddm => "ddm",
            Source::Adwin => "adwin",
        }
    }
}

record! {
    /// Something changed.
    pub struct Alarm: 32 {
        /// The period during which it was raised.
        pub sequence: u32,
        /// When that period began.
        pub start_s: u32,
        /// Runs of the period up to the alarm.
        pub run: u32,
        /// A [`Source`] number.
        pub source: u8,
        /// Drift tests: a [`Statistic`](super::drift::Statistic) number. Detectors: a [`Signal`] number.
        pub what: u8,
        /// The input feature; 0 otherwise.
        pub index: u16,
        /// Drift tests: the statistic, in 2⁻¹⁶. Detectors: their statistic as each defines it.
        pub value: i32,
        /// What `value` was compared with.
        pub threshold: i32,
        /// Drift tests: the probability of such a value without drift, in 2⁻³², rounded up. Detectors: 0.
        pub p_value: u32,
        /// Zero.
        pub reserved: u32,
    }
}

/// The stream of numbers that a detector watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
#[non_exhaustive]
pub enum Signal {
    /// Confidence of each run, in 2⁻¹⁵.
    #[default]
    Confidence = 1,
    /// Entropy of each run over its maximum, in 2⁻¹⁵.
    Entropy = 2,
    /// Latency of each run: log2 of microseconds, in 2⁻¹⁰.
    Latency = 3,
    /// Whether a labelled run was wrong: 0 or 2¹⁵.
    Error = 4,
    /// A [`Scores::Value`] output, in its own units.
    Value = 5,
}

impl Signal {
    /// Every signal, in the order of its number.
    pub const ALL: [Signal; 5] =
        [Signal::Confidence, Signal::Entropy, Signal::Latency, Signal::Error, Signal::Value];

    /// The signal with this number.
    pub fn from_number(number: u8) -> Option<Signal> {
        Signal::ALL.get(usize::from(number).wrapping_sub(1)).copied()
    }

    /// The name used in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Signal::Confidence => "confidence",
            Signal::Entropy => "entropy",
            Signal::Latency => "latency",
            Signal::Error => "error",
            Signal::Value => "value",
        }
    }
}

impl Alarm {
    /// Reads an alarm's payload.
    ///
    /// # Errors
    /// [`RecordError::BadValue`] when it isn't one.
    pub fn decode(payload: &[u8]) -> Result<Alarm, RecordError> {
        let alarm = Alarm::read(payload);
        let known = Source::from_number(alarm.source).is_some();
        if payload.len() == Alarm::SIZE && known { Ok(alarm) } else { Err(RecordError::BadValue) }
    }

    /// Writes the alarm's record to the front of `out`.
    ///
    /// # Errors
    /// [`RecordError::Memory`] when `out` is too short.
    pub fn encode<'o>(&self, tag: u16, out: &'o mut [u8]) -> Result<&'o [u8], RecordError> {
        seal_fixed(out, Kind::Alarm, tag, *self, &[])
    }
}

record! {
    /// An input worth a label, or a piece of one; its bytes follow.
    pub struct Sample: 24 {
        /// The period that it is of.
        pub sequence: u32,
        /// When that period began.
        pub start_s: u32,
        /// The run's number.
        pub run_id: u32,
        /// The class that was predicted.
        pub class: u16,
        /// With what confidence, in 2⁻¹⁵.
        pub confidence: u16,
        /// Bytes of the whole input.
        pub total_bytes: u32,
        /// Where in it these bytes lie.
        pub offset: u32,
    }
}

impl Sample {
    /// Reads a sample's payload: what it says of itself, and the bytes.
    ///
    /// # Errors
    /// [`RecordError::BadValue`] when it isn't one.
    pub fn decode(payload: &[u8]) -> Result<(Sample, &[u8]), RecordError> {
        let bytes = payload.get(Sample::SIZE..).ok_or(RecordError::BadValue)?;
        let sample = Sample::read(payload);
        let end = u64::from(sample.offset) + bytes.len() as u64;
        if bytes.is_empty() || end > u64::from(sample.total_bytes) {
            return Err(RecordError::BadValue);
        }
        Ok((sample, bytes))
    }

    /// Writes the sample's record to the front of `out`.
    ///
    /// # Errors
    /// [`RecordError::Memory`] when `out` is too short.
    pub fn encode<'o>(
        &self,
        tag: u16,
        bytes: &[u8],
        out: &'o mut [u8],
    ) -> Result<&'o [u8], RecordError> {
        seal_fixed(out, Kind::Sample, tag, *self, bytes)
    }
}

record! {
    /// What a quantile sketch is of; the sketch follows.
    pub struct SketchHead: 12 {
        /// The period that it is of.
        pub sequence: u32,
        /// When that period began.
        pub start_s: u32,
        /// A [`Signal`] number.
        pub signal: u8,
        /// 1: of all periods up to this one, see [`fold`](super::fold); else 0.
        pub folded: u8,
        /// Zero.
        pub reserved: [u8; 2],
    }
}

impl SketchHead {
    /// Reads a sketch's payload: what it is of, and the sketch's bytes for [`Kll::decode`](super::kll::Kll::decode).
    ///
    /// # Errors
    /// [`RecordError::BadValue`] when it isn't one.
    pub fn decode(payload: &[u8]) -> Result<(SketchHead, &[u8]), RecordError> {
        let bytes = payload.get(SketchHead::SIZE..).ok_or(RecordError::BadValue)?;
        let head = SketchHead::read(payload);
        Signal::from_number(head.signal).ok_or(RecordError::BadValue)?;
        if head.folded > 1 {
            return Err(RecordError::BadValue);
        }
        Ok((head, bytes))
    }
}
