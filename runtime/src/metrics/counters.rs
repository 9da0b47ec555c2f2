//! Counters of periods, windows and summaries: which there are, how records hold them, and how they add up.
//!
//! Every record of counts is a sparse vector of numbers with a head. Numbers add, the head takes the earliest start,
//! the latest end and the largest extremes, so that records combine in any order and grouping to the same totals.

use super::bits::{BitReader, BitWriter, VALUE_LIMIT, golomb_bits};
use super::record::RecordError;

/// Buckets of the latency histogram.
pub const LATENCY_BUCKETS: usize = super::histogram::BUCKETS;
/// Bins of confidences, by [`CONFIDENCE_EDGES`](super::scores::CONFIDENCE_EDGES).
pub const CONFIDENCE_BINS: usize = 16;
/// Bins of entropies, of equal width.
pub const ENTROPY_BINS: usize = 8;
/// Classes at most.
pub const MAX_CLASSES: u16 = 4096;
/// Classes at most for a confusion matrix.
pub const MAX_CONFUSION: u16 = 128;
/// Watched features at most.
pub const MAX_FEATURES: u16 = 4096;
/// Bins of a feature at most.
pub const MAX_BINS: u8 = 16;
/// Watched tensors at most.
pub const MAX_TENSORS: u8 = 16;

/// A family of counters. The numbers are part of the log's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Group {
    /// By [`Event`].
    Events = 0,
    /// Runs by [`bucket`](super::histogram::bucket) of their latency in microseconds.
    Latency = 1,
    /// Runs by predicted class.
    Classes = 2,
    /// Runs by bin of their confidence.
    Confidence = 3,
    /// Runs by bin of their entropy.
    Entropy = 4,
    /// Elements at the lower and at the upper limit of their type, for each watched tensor.
    Saturation = 5,
    /// Labelled runs by true class × classes + predicted class.
    Confusion = 6,
    /// Labelled runs by outcome × bins + bin of the score. Outcome 1 is the event that the score is the probability of:
    /// class 1 of models with two classes, else that the prediction is right.
    Scored = 7,
    /// By [`Sum`].
    Sums = 8,
    /// Windows in which a feature was found to drift, by feature.
    Drifted = 9,
    /// By [`Windowed`].
    Windowed = 10,
    /// Elements of inputs in windows, by feature × bins + bin.
    Features = 11,
    /// Runs in windows by predicted class.
    WindowClasses = 12,
    /// Runs in windows by bin of their confidence.
    WindowConfidence = 13,
}

impl Group {
    /// Every group, in the order of its number.
    pub const ALL: [Group; 14] = [
        Group::Events,
        Group::Latency,
        Group::Classes,
        Group::Confidence,
        Group::Entropy,
        Group::Saturation,
        Group::Confusion,
        Group::Scored,
        Group::Sums,
        Group::Drifted,
        Group::Windowed,
        Group::Features,
        Group::WindowClasses,
        Group::WindowConfidence,
    ];
    /// The groups of a period's record.
    pub const OF_PERIODS: &[Group] = Group::ALL.split_at(10).0;
    /// The groups of a window's record.
    pub const OF_WINDOWS: &[Group] = Group::ALL.split_at(10).1;
}

macro_rules! named {
    ($(#[$meta:meta])* $Name:ident, $count:ident: $len:literal { $($(#[$doc:meta])* $Variant:ident = $number:literal, $text:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $Name { $($(#[$doc])* $Variant = $number,)* }

        /// Counters of that group; those without a name are 0.
        pub const $count: usize = $len;

        impl $Name {
            /// Every counter, in the order of its number.
            pub const ALL: &[$Name] = &[$($Name::$Variant),*];

            /// The name used in reports.
            pub const fn name(self) -> &'static str {
                match self { $($Name::$Variant => $text,)* }
            }
        }
    };
}

named! {
    /// What is counted besides distributions.
    Event, EVENTS: 32 {
        /// Runs that ended well.
        Runs = 0, "runs";
        /// Runs that failed.
        Errors = 1, "errors";
        /// Runs that took longer than the deadline.
        DeadlineMisses = 2, "deadline_misses";
        /// Runs with a NaN or infinity among the outputs: they have no class and no confidence.
        OutputsNotFinite = 3, "outputs_not_finite";
        /// Runs whose outputs aren't what the monitor was made for: they have no class and no confidence.
        OutputsWrong = 4, "outputs_wrong";
        /// Elements of watched inputs that are NaN or infinite: they are in no bin.
        InputsNotFinite = 5, "inputs_not_finite";
        /// Runs beyond what a period can count: in no other counter.
        Unrecorded = 6, "unrecorded";
        /// Times at which the clock had gone backwards.
        ClockFaults = 7, "clock_faults";
        /// Starts of the monitor.
        Starts = 8, "starts";
        /// Labels that met their run.
        Labels = 9, "labels";
        /// Labels for runs that aren't known, or no more.
        LabelsUnknown = 10, "labels_unknown";
        /// Further labels for a run.
        LabelsDuplicate = 11, "labels_duplicate";
        /// Labels that are no class of the model, or no number.
        LabelsInvalid = 12, "labels_invalid";
        /// Runs forgotten without a label.
        LabelsMissed = 13, "labels_missed";
        /// Windows of the drift tests.
        Windows = 14, "windows";
        /// Windows in which a feature of the inputs drifted.
        InputDrifts = 15, "input_drifts";
        /// Windows in which the predicted classes drifted.
        ClassDrifts = 16, "class_drifts";
        /// Windows in which the confidence drifted.
        ConfidenceDrifts = 17, "confidence_drifts";
        /// Alarms of Page–Hinkley.
        PageHinkleyAlarms = 18, "page_hinkley_alarms";
        /// Alarms of CUSUM.
        CusumAlarms = 19, "cusum_alarms";
        /// Alarms of the EWMA chart.
        EwmaAlarms = 20, "ewma_alarms";
        /// Alarms of DDM.
        DdmAlarms = 21, "ddm_alarms";
        /// Alarms of ADWIN.
        AdwinAlarms = 22, "adwin_alarms";
        /// Samples kept for labelling.
        Samples = 23, "samples";
        /// Alarms that were counted and not written, since more were raised than a period keeps.
        AlarmsDropped = 24, "alarms_dropped";
        /// Times at which the sink refused a record; the period then went on.
        SinkFailures = 25, "sink_failures";
        /// Samples that a bounded log had no room for any more. Only summaries have this.
        SamplesDropped = 26, "samples_dropped";
        /// Records some of whose counts, or sketches whose numbers, a bounded log had no room for. Only summaries have this.
        CountsDropped = 27, "counts_dropped";
    }
}

named! {
    /// Sums over labelled values, `e` the estimate less the label, `y` the label, in units of the header's scale.
    Sum, SUMS: 8 {
        /// Labelled values.
        Count = 0, "count";
        /// Sum of |e|.
        Absolute = 1, "absolute";
        /// Sum of e².
        Squared = 2, "squared";
        /// Sum of y where it is positive.
        Positive = 3, "positive";
        /// Sum of −y where it is negative.
        Negative = 4, "negative";
        /// Sum of y².
        LabelSquared = 5, "label_squared";
        /// Sum of e where it is positive.
        ErrorPositive = 6, "error_positive";
        /// Sum of −e where it is negative.
        ErrorNegative = 7, "error_negative";
    }
}

named! {
    /// What windows amount to.
    Windowed, WINDOWED: 2 {
        /// Windows whose counts were written.
        Windows = 0, "windows";
        /// Runs of those windows.
        Runs = 1, "runs";
    }
}

/// How many counters each group has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Shape {
    /// Classes of the model.
    pub classes: u16,
    /// Watched features of the inputs.
    pub features: u16,
    /// Bins of a feature's histogram.
    pub bins: u8,
    /// Tensors whose saturation is counted.
    pub tensors: u8,
    /// Whether labels of classes arrive.
    pub class_labels: bool,
    /// Whether labels of values arrive.
    pub value_labels: bool,
}

impl Shape {
    /// Whether it keeps to the limits.
    pub const fn is_valid(&self) -> bool {
        self.classes <= MAX_CLASSES
            && self.features <= MAX_FEATURES
            && self.bins <= MAX_BINS
            && self.tensors <= MAX_TENSORS
    }

    /// Counters of a group.
    pub const fn len(&self, group: Group) -> usize {
        let classes = self.classes as usize;
        match group {
            Group::Events => EVENTS,
            Group::Latency => LATENCY_BUCKETS,
            Group::Classes | Group::WindowClasses => classes,
            Group::Confidence | Group::WindowConfidence if classes > 0 => CONFIDENCE_BINS,
            Group::Entropy if classes > 0 => ENTROPY_BINS,
            Group::Confidence | Group::WindowConfidence | Group::Entropy => 0,
            Group::Saturation => 2 * self.tensors as usize,
            Group::Confusion if self.class_labels && self.classes <= MAX_CONFUSION => {
                classes * classes
            }
            Group::Scored if self.class_labels => 2 * CONFIDENCE_BINS,
            Group::Sums if self.value_labels => SUMS,
            Group::Confusion | Group::Scored | Group::Sums => 0,
            Group::Drifted => self.features as usize,
            Group::Windowed => WINDOWED,
            Group::Features => self.features as usize * self.bins as usize,
        }
    }

    /// Where a group begins when all lie one behind the other.
    pub const fn offset(&self, group: Group) -> usize {
        let (mut at, mut number) = (0, 0);
        while number < group as usize {
            at += self.len(Group::ALL[number]);
            number += 1;
        }
        at
    }

    /// Counters of all groups.
    pub const fn total(&self) -> usize {
        self.offset(Group::WindowConfidence) + self.len(Group::WindowConfidence)
    }
}

/// The largest drift of a feature in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Worst {
    /// Jensen–Shannon divergence from the baseline in 2⁻¹⁶ bits.
    pub js_q16: u32,
    /// The feature.
    pub feature: u16,
}

/// What a record of counts says besides the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Head {
    /// Number of the period; of a summary the last one.
    pub sequence: u32,
    /// 0 for the first record of a period; one that doesn't fit a record goes on in further ones.
    pub part: u32,
    /// Whether another part follows.
    pub more: bool,
    /// Periods that it holds: 1, of a summary more, of a further part or a window 0.
    pub periods: u64,
    /// When it began, in seconds of the device's clock.
    pub start_s: u32,
    /// How long it took.
    pub duration_s: u64,
    /// Longest run.
    pub latency_max_us: u32,
    /// The feature that drifted most.
    pub worst: Option<Worst>,
}

/// Where a record that doesn't hold all counts has to be continued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    group: usize,
    index: usize,
}

/// What codes of a group take.
struct Codes {
    /// Entries that aren't 0.
    entries: usize,
    order: u32,
    sparse_bits: usize,
    dense_bits: usize,
}

const MORE_BIT: usize = 1;
/// A group's number, form and order.
const GROUP_BITS: usize = 4 + 1 + 4;
/// What stands for a group's number behind the last one.
const END: u64 = 15;

/// Writes a body: as many counts as fit, from `cursor` on. `get` gives a counter of a group. Gives the body's bytes and
/// where to go on, `None` when everything is written.
///
/// # Errors
/// [`RecordError::Memory`] when `out` can't hold a single count, [`RecordError::TooLarge`] for counts of 2⁶² and more.
pub fn encode(
    head: &Head,
    shape: &Shape,
    groups: &[Group],
    get: &dyn Fn(Group, usize) -> u64,
    cursor: Cursor,
    out: &mut [u8],
) -> Result<(usize, Option<Cursor>), RecordError> {
    let mut writer = BitWriter::new(&mut *out);
    write_head(&mut writer, head).ok_or(RecordError::Memory)?;
    let (mut next, mut empty) = (None, true);
    'groups: for (number, group) in groups.iter().enumerate().skip(cursor.group) {
        let mut from = if number == cursor.group { cursor.index } else { 0 };
        let len = shape.len(*group);
        let value = |index| get(*group, index);
        let codes = measure(&value, from, len)?;
        if codes.entries == 0 {
            continue;
        }
        // A later number still needs 4 bits for the end.
        let room = writer.room().saturating_sub(GROUP_BITS + 4);
        if from == 0 && codes.dense_bits <= codes.sparse_bits && codes.dense_bits <= room {
            write_group(&mut writer, *group, 1, codes.order).ok_or(RecordError::Memory)?;
            for index in 0..len {
                writer.golomb(value(index), codes.order).ok_or(RecordError::Memory)?;
            }
            empty = false;
            continue;
        }
        let entries = entries_that_fit(&value, from, len, &codes, room);
        if entries == 0 {
            if empty {
                return Err(RecordError::Memory);
            }
            next = Some(Cursor { group: number, index: from });
            break 'groups;
        }
        empty = false;
        write_group(&mut writer, *group, 0, codes.order)
            .and_then(|()| writer.golomb(entries as u64 - 1, 0))
            .ok_or(RecordError::Memory)?;
        // Gaps count from the group's first counter.
        let mut behind = 0;
        let mut left = entries;
        while left > 0 {
            let count = value(from);
            if count > 0 {
                writer
                    .golomb((from - behind) as u64, 0)
                    .and_then(|()| writer.golomb(count - 1, codes.order))
                    .ok_or(RecordError::Memory)?;
                behind = from + 1;
                left -= 1;
            }
            from += 1;
        }
        if entries < codes.entries {
            next = Some(Cursor { group: number, index: from });
            break 'groups;
        }
    }
    writer.bits(END, 4).ok_or(RecordError::Memory)?;
    let bytes = writer.finish();
    if next.is_some() {
        out[0] |= 0x80;
    }
    Ok((bytes, next))
}

fn write_head(writer: &mut BitWriter<'_>, head: &Head) -> Option<()> {
    // Whether another part follows is known at the end.
    writer.bits(0, MORE_BIT as u32)?;
    writer.golomb(u64::from(head.part), 0)?;
    writer.golomb(u64::from(head.sequence), 8)?;
    writer.golomb(head.periods, 0)?;
    writer.bits(u64::from(head.start_s), 32)?;
    writer.golomb(head.duration_s, 10)?;
    writer.golomb(u64::from(head.latency_max_us), 12)?;
    writer.bits(u64::from(head.worst.is_some()), 1)?;
    if let Some(worst) = head.worst {
        writer.golomb(u64::from(worst.js_q16), 12)?;
        writer.golomb(u64::from(worst.feature), 4)?;
    }
    Some(())
}

fn write_group(writer: &mut BitWriter<'_>, group: Group, form: u64, order: u32) -> Option<()> {
    writer.bits(group as u64, 4)?;
    writer.bits(form, 1)?;
    writer.bits(u64::from(order), 4)
}

/// Bits of a group's counters from `from` on, in the best of the orders near that of their mean.
fn measure(value: &dyn Fn(usize) -> u64, from: usize, len: usize) -> Result<Codes, RecordError> {
    let (mut entries, mut sum) = (0, 0u64);
    for index in from..len {
        let value = value(index);
        if value >= VALUE_LIMIT {
            return Err(RecordError::TooLarge);
        }
        entries += usize::from(value > 0);
        sum = sum.saturating_add(value);
    }
    let mean = sum / (entries as u64).max(1);
    let middle = (63 - mean.max(1).leading_zeros()).min(super::bits::MAX_ORDER);
    let least = middle.saturating_sub(2);
    // One pass for the three: a value may have to be read from flash.
    let mut sparse_bits = [golomb_bits((entries as u64).saturating_sub(1), 0); 3];
    let (mut dense_bits, mut behind) = ([0; 3], 0);
    for index in from..len {
        let value = value(index);
        for (order, (sparse, dense)) in
            (least..=middle).zip(sparse_bits.iter_mut().zip(&mut dense_bits))
        {
            *dense += golomb_bits(value, order);
            if value > 0 {
                *sparse += entry_bits(index - behind, value, order);
            }
        }
        if value > 0 {
            behind = index + 1;
        }
    }
    let mut best = Codes { entries, order: 0, sparse_bits: usize::MAX, dense_bits: usize::MAX };
    for (order, (sparse_bits, dense_bits)) in
        (least..=middle).zip(sparse_bits.into_iter().zip(dense_bits))
    {
        if sparse_bits.min(dense_bits) < best.sparse_bits.min(best.dense_bits) {
            best = Codes { entries, order, sparse_bits, dense_bits };
        }
    }
    Ok(best)
}

fn entry_bits(gap: usize, value: u64, order: u32) -> usize {
    golomb_bits(gap as u64, 0) + golomb_bits(value - 1, order)
}

fn entries_that_fit(
    value: &dyn Fn(usize) -> u64,
    from: usize,
    len: usize,
    codes: &Codes,
    room: usize,
) -> usize {
    // Their number takes no more bits than that of all entries.
    let mut bits = golomb_bits(codes.entries as u64 - 1, 0);
    let (mut entries, mut behind) = (0, 0);
    for index in from..len {
        let value = value(index);
        if value > 0 {
            bits += entry_bits(index - behind, value, codes.order);
            behind = index + 1;
            if bits > room {
                break;
            }
            entries += 1;
        }
    }
    entries
}

/// Reads a body: its head, and every count that isn't 0 to `add`, in the order of groups and of counters in them.
///
/// What `add` got before an error belongs to nothing: read once without adding first, as [`Totals::add`] does.
///
/// # Errors
/// [`RecordError::BadValue`] for bodies that aren't what [`encode`] writes for this shape, and what `add` refuses.
pub fn decode(
    body: &[u8],
    shape: &Shape,
    add: &mut dyn FnMut(Group, usize, u64) -> Result<(), RecordError>,
) -> Result<Head, RecordError> {
    const BAD: RecordError = RecordError::BadValue;
    let mut reader = BitReader::new(body);
    let head = read_head(&mut reader).ok_or(BAD)?;
    let mut last = None;
    loop {
        let number = reader.bits(4).ok_or(BAD)?;
        if number == END {
            break;
        }
        let group = *Group::ALL.get(number as usize).ok_or(BAD)?;
        if last >= Some(group) {
            return Err(BAD);
        }
        last = Some(group);
        let dense = reader.bits(1).ok_or(BAD)? == 1;
        let order = reader.bits(4).ok_or(BAD)? as u32;
        let len = shape.len(group);
        if dense {
            for index in 0..len {
                let value = reader.golomb(order).ok_or(BAD)?;
                if value > 0 {
                    add(group, index, value)?;
                }
            }
            continue;
        }
        let entries = reader.golomb(0).ok_or(BAD)? + 1;
        let mut at = 0u64;
        for _ in 0..entries {
            at += reader.golomb(0).ok_or(BAD)?;
            if at >= len as u64 {
                return Err(BAD);
            }
            let value = reader.golomb(order).ok_or(BAD)? + 1;
            add(group, at as usize, value)?;
            at += 1;
        }
    }
    if reader.is_finished() { Ok(head) } else { Err(BAD) }
}

fn read_head(reader: &mut BitReader<'_>) -> Option<Head> {
    let more = reader.bits(1)? == 1;
    let part = u32::try_from(reader.golomb(0)?).ok()?;
    let sequence = u32::try_from(reader.golomb(8)?).ok()?;
    let periods = reader.golomb(0)?;
    let start_s = reader.bits(32)? as u32;
    let duration_s = reader.golomb(10)?;
    let latency_max_us = u32::try_from(reader.golomb(12)?).ok()?;
    let worst = match reader.bits(1)? {
        0 => None,
        _ => Some(Worst {
            js_q16: u32::try_from(reader.golomb(12)?).ok()?,
            feature: u16::try_from(reader.golomb(4)?).ok()?,
        }),
    };
    Some(Head { sequence, part, more, periods, start_s, duration_s, latency_max_us, worst })
}

/// Reads the head of a body, and nothing behind it.
///
/// # Errors
/// [`RecordError::BadValue`] when it isn't one.
pub fn decode_head(body: &[u8]) -> Result<Head, RecordError> {
    read_head(&mut BitReader::new(body)).ok_or(RecordError::BadValue)
}

/// What the heads of records amount to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Heads {
    /// Periods, and windows as far as their counts were written.
    periods: u64,
    /// The last period.
    sequence: u32,
    start_s: u64,
    end_s: u64,
    latency_max_us: u32,
    worst: Option<Worst>,
}

impl Heads {
    /// Of no records.
    pub(super) const NONE: Heads = Heads {
        periods: 0,
        sequence: 0,
        start_s: u64::MAX,
        end_s: 0,
        latency_max_us: 0,
        worst: None,
    };

    /// Whether no record was added.
    fn is_empty(&self) -> bool {
        self.start_s > self.end_s
    }

    /// Adds a record's head. On an error nothing is added.
    pub(super) fn add(&mut self, head: &Head) -> Result<(), RecordError> {
        // Both are below 2⁶².
        let periods = self.periods + head.periods;
        if periods >= VALUE_LIMIT {
            return Err(RecordError::TooLarge);
        }
        self.periods = periods;
        self.sequence = self.sequence.max(head.sequence);
        self.start_s = self.start_s.min(u64::from(head.start_s));
        self.end_s = self.end_s.max(u64::from(head.start_s) + head.duration_s);
        self.latency_max_us = self.latency_max_us.max(head.latency_max_us);
        self.worst = self.worst.max(head.worst);
        Ok(())
    }

    /// What a record of them says besides the counts.
    pub(super) fn head(&self) -> Head {
        let start_s = self.start_s.min(self.end_s);
        Head {
            sequence: self.sequence,
            part: 0,
            more: false,
            periods: self.periods,
            start_s: start_s as u32,
            duration_s: self.end_s - start_s,
            latency_max_us: self.latency_max_us,
            worst: self.worst,
        }
    }
}

/// What records amount to, in the caller's memory.
#[derive(Debug, PartialEq)]
pub struct Totals<'m> {
    shape: Shape,
    heads: Heads,
    counters: &'m mut [u64],
}

impl<'m> Totals<'m> {
    /// Nothing yet. `counters` holds [`Shape::total`] numbers at least.
    ///
    /// # Errors
    /// [`RecordError::Memory`] when it is shorter.
    pub fn new(shape: Shape, counters: &'m mut [u64]) -> Result<Totals<'m>, RecordError> {
        let counters = counters.get_mut(..shape.total()).ok_or(RecordError::Memory)?;
        counters.fill(0);
        Ok(Totals { shape, heads: Heads::NONE, counters })
    }

    /// How many counters there are.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// A counter; 0 for those that there aren't.
    pub fn get(&self, group: Group, index: usize) -> u64 {
        self.group(group).get(index).copied().unwrap_or(0)
    }

    /// The counters of a group.
    pub fn group(&self, group: Group) -> &[u64] {
        let start = self.shape.offset(group);
        self.counters.get(start..start + self.shape.len(group)).unwrap_or(&[])
    }

    /// How often something happened.
    pub fn event(&self, event: Event) -> u64 {
        self.get(Group::Events, event as usize)
    }

    /// What a record of the totals says besides the counts.
    pub fn head(&self) -> Head {
        self.heads.head()
    }

    /// Adds the payload of a period, summary or window. On an error nothing is added.
    ///
    /// # Errors
    /// [`RecordError::BadValue`] when it isn't one of this shape, [`RecordError::TooLarge`] when a sum would reach 2⁶².
    pub fn add(&mut self, payload: &[u8]) -> Result<Head, RecordError> {
        let shape = self.shape;
        let counters = &mut *self.counters;
        let head = decode(payload, &shape, &mut |group, index, value| {
            let sum = counters[shape.offset(group) + index] + value;
            if sum < VALUE_LIMIT { Ok(()) } else { Err(RecordError::TooLarge) }
        })?;
        self.heads.add(&head)?;
        decode(payload, &shape, &mut |group, index, value| {
            counters[shape.offset(group) + index] += value;
            Ok(())
        })?;
        Ok(head)
    }

    /// Adds other totals. On an error nothing is added.
    ///
    /// # Errors
    /// [`RecordError::OtherLog`] when they are of another shape, [`RecordError::TooLarge`] when a sum would reach 2⁶².
    pub fn add_totals(&mut self, other: &Totals<'_>) -> Result<(), RecordError> {
        if self.shape != other.shape {
            return Err(RecordError::OtherLog);
        }
        let mut sums = self.counters.iter().zip(&*other.counters).map(|(a, b)| a + b);
        if sums.any(|sum| sum >= VALUE_LIMIT) {
            return Err(RecordError::TooLarge);
        }
        if !other.heads.is_empty() {
            self.heads.add(&other.head())?;
        }
        for (a, b) in self.counters.iter_mut().zip(&*other.counters) {
            *a += b;
        }
        Ok(())
    }

    /// Writes the totals as the body of a summary, from `cursor` on; gives its bytes and where to go on.
    ///
    /// # Errors
    /// As [`encode`].
    pub fn encode(
        &self,
        part: u32,
        cursor: Cursor,
        out: &mut [u8],
    ) -> Result<(usize, Option<Cursor>), RecordError> {
        let head = self.head();
        let periods = if part == 0 { head.periods } else { 0 };
        let head = Head { part, periods, ..head };
        encode(&head, &self.shape, &Group::ALL, &|group, index| self.get(group, index), cursor, out)
    }
}

#[cfg(test)]
pub(crate) mod tests;
