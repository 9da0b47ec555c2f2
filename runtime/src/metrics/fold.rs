//! Folds the oldest records of a bounded log into a summary, in little memory.
//!
//! A log that is full makes room by adding up: the counts of its oldest records and of its newest summary become one new
//! summary, written behind everything else, before the records are erased. What it stands for is told by a rule, so that a
//! loss of power at any moment neither loses counts nor has them twice (`MONITOR.md`, "Folding"): the newest summary whose
//! parts are all there stands for all counts and samples in front of it whose period isn't behind its own. One whose parts aren't all
//! there is nothing.
//!
//! Records are read as often as needed instead of holding all sums: a window of counters is filled by reading the records
//! again. Few counters take more time, and give the same bytes.

use core::cell::RefCell;

use super::bits::VALUE_LIMIT;
use super::counters::{Cursor, Event, Group, Head, Heads, Shape, decode, decode_head, encode};
use super::kll::Kll;
use super::record::{
    FRAME_FRONT, Frame, Header, Kind, RecordError, Sample, Signal, SketchHead, seal,
};
use crate::format::Field;

/// The records of a log, in order and as often as asked: between the calls none comes or goes but behind the others.
pub trait Records {
    /// Why they can't be read.
    type Error;

    /// Gives every whole record, oldest first.
    ///
    /// # Errors
    /// When the log can't be read.
    fn each(&mut self, take: &mut dyn FnMut(&Frame<'_>)) -> Result<(), Self::Error>;
}

/// Records in memory.
impl Records for &[u8] {
    type Error = core::convert::Infallible;

    fn each(&mut self, take: &mut dyn FnMut(&Frame<'_>)) -> Result<(), Self::Error> {
        for piece in super::record::Pieces::new(self) {
            if let super::record::Piece::Record(frame) = piece {
                take(&frame);
            }
        }
        Ok(())
    }
}

/// Why records could not be folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FoldError<E> {
    /// They could not be read.
    Read(E),
    /// [`RecordError::TooLarge`] for a sum of 2⁶² or more, [`RecordError::Memory`] for a buffer that is too short.
    Record(RecordError),
}

/// Whether a period is `last` or in front of it. Numbers go round at 2³².
pub fn is_up_to(sequence: u32, last: u32) -> bool {
    last.wrapping_sub(sequence) < 1 << 31
}

/// The later one of two periods, or the only one.
pub fn later(a: Option<u32>, b: u32) -> Option<u32> {
    Some(a.map_or(b, |a| if is_up_to(b, a) { a } else { b }))
}

/// The period that a record is of; of a summary the last one. `None` of headers, and of what isn't a record.
pub fn sequence(frame: &Frame<'_>) -> Option<u32> {
    match frame.kind {
        Kind::Period | Kind::Summary | Kind::Window => {
            decode_head(frame.payload).ok().map(|head| head.sequence)
        }
        Kind::Alarm | Kind::Sample | Kind::Sketch => frame.payload.get(..4).map(u32::read),
        Kind::Header => None,
    }
}

/// Places of a summary's parts among all records of the log.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Whole {
    first: u32,
    last: u32,
    sequence: u32,
}

/// Which records of a log with this tag say something that no other says, too.
#[derive(Clone, Debug, PartialEq)]
pub struct Survey {
    tag: u16,
    /// Records so far.
    count: u32,
    /// The newest summary whose parts are all there.
    summary: Option<Whole>,
    /// A summary that has begun: place, sequence and number of the next part.
    begun: Option<(u32, u32, u32)>,
    /// By signal, the newest sketch that is folded: its place and sequence.
    sketches: [Option<(u32, u32)>; Signal::ALL.len()],
}

impl Survey {
    /// Reads a log.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn of<R: Records>(records: &mut R, tag: u16) -> Result<Survey, R::Error> {
        let mut survey =
            Survey { tag, count: 0, summary: None, begun: None, sketches: Default::default() };
        records.each(&mut |frame| survey.see(frame))?;
        Ok(survey)
    }

    fn see(&mut self, frame: &Frame<'_>) {
        let place = self.count;
        self.count += 1;
        if frame.tag != self.tag {
            return;
        }
        match frame.kind {
            Kind::Summary => {
                let Ok(head) = decode_head(frame.payload) else { return };
                let first = match self.begun.take() {
                    _ if head.part == 0 => place,
                    Some((first, sequence, part))
                        if (sequence, part) == (head.sequence, head.part) =>
                    {
                        first
                    }
                    _ => return,
                };
                if head.more {
                    self.begun = Some((first, head.sequence, head.part.saturating_add(1)));
                } else {
                    self.summary = Some(Whole { first, last: place, sequence: head.sequence });
                }
            }
            Kind::Sketch => {
                let Ok((head, _)) = SketchHead::decode(frame.payload) else { return };
                if head.folded == 1 {
                    self.sketches[usize::from(head.signal) - 1] = Some((place, head.sequence));
                }
            }
            _ => {}
        }
    }

    /// Whether the record at this place counts: it is no part of a summary that isn't whole, and nothing behind it stands
    /// for it.
    pub fn counts(&self, place: u32, frame: &Frame<'_>) -> bool {
        match frame.kind {
            Kind::Summary => {
                self.summary.is_some_and(|whole| (whole.first..=whole.last).contains(&place))
            }
            Kind::Period | Kind::Window | Kind::Sample => {
                let Some(sequence) = sequence(frame) else { return true };
                !self
                    .summary
                    .is_some_and(|whole| place < whole.first && is_up_to(sequence, whole.sequence))
            }
            Kind::Sketch => {
                let Ok((head, _)) = SketchHead::decode(frame.payload) else { return true };
                !self.sketches[usize::from(head.signal) - 1]
                    .is_some_and(|(at, last)| place < at && is_up_to(head.sequence, last))
            }
            Kind::Header | Kind::Alarm => true,
        }
    }
}

/// What a bounded log had to leave out, for its next summary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Samples.
    pub samples: u64,
    /// Records of counts, and sketches.
    pub counts: u64,
}

/// Records that become a summary.
pub struct Fold<'m> {
    shape: Shape,
    survey: Survey,
    /// The last period that the summary stands for.
    through: u32,
    /// Only the summary that was, since sums with others would be too large.
    summary_only: bool,
    groups: &'static [Group],
    heads: Heads,
    dropped: Dropped,
    /// Members without meaning.
    bad: u64,
    /// Samples that the summary stands for.
    samples: u64,
    /// There are 2⁶² periods or more.
    too_large: bool,
    /// Sums of the counters from `from` on.
    window: &'m mut [u64],
    from: usize,
    is_filled: bool,
}

/// What a summary keeps, from everything to the least: one that its log has no room for is tried with the next.
pub const DETAILS: [&[Group]; 3] = [&Group::ALL, Group::OF_PERIODS, &[Group::Events]];

impl<'m> Fold<'m> {
    /// What has to become a summary before the log's first `oldest` records go: `None` when nothing of this header is lost
    /// with them. `dropped` is what was lost before. `window` holds any number of counters, one at least.
    ///
    /// # Errors
    /// When the log can't be read, and for a header that has no meaning.
    pub fn plan<R: Records>(
        records: &mut R,
        header: &Header,
        oldest: u32,
        dropped: Dropped,
        window: &'m mut [u64],
    ) -> Result<Option<Fold<'m>>, FoldError<R::Error>> {
        if window.is_empty() {
            return Err(FoldError::Record(RecordError::Memory));
        }
        let shape = header.shape().map_err(FoldError::Record)?;
        let survey = Survey::of(records, header.tag()).map_err(FoldError::Read)?;
        let (mut through, mut goes, mut place) = (None, false, 0);
        let read = records.each(&mut |frame| {
            let at = place;
            place += 1;
            if at >= oldest || frame.tag != survey.tag || !survey.counts(at, frame) {
                return;
            }
            let is =
                matches!(frame.kind, Kind::Period | Kind::Summary | Kind::Window | Kind::Sample);
            if let Some(last) = sequence(frame).filter(|_| is) {
                goes = true;
                through = later(through, last);
            }
        });
        read.map_err(FoldError::Read)?;
        if let Some(whole) = survey.summary {
            through = later(through, whole.sequence);
        }
        let Some(through) = through.filter(|_| goes) else { return Ok(None) };
        let mut fold = Fold {
            shape,
            survey,
            through,
            summary_only: false,
            groups: DETAILS[0],
            heads: Heads::NONE,
            dropped,
            bad: 0,
            samples: 0,
            too_large: false,
            window,
            from: 0,
            is_filled: false,
        };
        fold.add_up_heads(records).map_err(FoldError::Read)?;
        Ok(Some(fold))
    }

    /// Whether the summary stands for the record at this place: counts that it sums up, or a sample that it counts as dropped.
    pub fn stands_for(&self, place: u32, frame: &Frame<'_>) -> bool {
        frame.tag == self.survey.tag
            && self.survey.counts(place, frame)
            && match frame.kind {
                Kind::Summary => true,
                Kind::Period | Kind::Window | Kind::Sample => {
                    sequence(frame).is_some_and(|sequence| is_up_to(sequence, self.through))
                }
                _ => false,
            }
    }

    /// Whether the summary has its counts.
    fn is_member(&self, place: u32, frame: &Frame<'_>) -> bool {
        let may = match frame.kind {
            Kind::Summary => true,
            Kind::Period | Kind::Window => !self.summary_only,
            _ => false,
        };
        may && self.stands_for(place, frame)
    }

    /// Heads of all members. Those that are no counts of this shape are dropped.
    fn add_up_heads<R: Records>(&mut self, records: &mut R) -> Result<(), R::Error> {
        let (mut heads, mut bad, mut too_large, mut place) = (Heads::NONE, 0, false, 0);
        let mut samples = 0;
        let shape = self.shape;
        records.each(&mut |frame| {
            if self.is_member(place, frame) {
                match decode(frame.payload, &shape, &mut |_, _, _| Ok(())) {
                    Ok(head) => too_large |= heads.add(&head).is_err(),
                    Err(_) => bad += 1,
                }
            }
            if frame.kind == Kind::Sample && self.stands_for(place, frame) {
                // One by its first piece.
                let is_first =
                    Sample::decode(frame.payload).is_ok_and(|(sample, _)| sample.offset == 0);
                samples += u64::from(is_first);
            }
            place += 1;
        })?;
        (self.heads, self.bad, self.too_large) = (heads, bad, too_large);
        self.samples = samples;
        Ok(())
    }

    /// Leaves out the counters of all other groups, and counts the records that had some: for a log without room for them.
    /// `groups` is one of [`DETAILS`].
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn keep_only<R: Records>(
        &mut self,
        records: &mut R,
        groups: &'static [Group],
    ) -> Result<(), FoldError<R::Error>> {
        let (mut less, mut place) = (0, 0);
        let read = records.each(&mut |frame| {
            if self.is_member(place, frame) {
                let mut had = false;
                let decoded = decode(frame.payload, &self.shape, &mut |group, _, _| {
                    had |= self.groups.contains(&group) && !groups.contains(&group);
                    Ok(())
                });
                less += u64::from(had && decoded.is_ok());
            }
            place += 1;
        });
        read.map_err(FoldError::Read)?;
        self.dropped.counts += less;
        self.groups = groups;
        self.is_filled = false;
        Ok(())
    }

    /// Leaves out all records but the summary that was, and counts them: for sums of 2⁶² and more.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn keep_summary<R: Records>(&mut self, records: &mut R) -> Result<(), FoldError<R::Error>> {
        let (mut less, mut place) = (0, 0);
        let read = records.each(&mut |frame| {
            less += u64::from(self.is_member(place, frame) && frame.kind != Kind::Summary);
            place += 1;
        });
        read.map_err(FoldError::Read)?;
        self.dropped.counts += less;
        self.summary_only = true;
        self.is_filled = false;
        self.add_up_heads(records).map_err(FoldError::Read)
    }

    /// What the summary says was left out since the one before.
    pub fn dropped(&self) -> Dropped {
        Dropped {
            samples: self.dropped.samples + self.samples,
            counts: self.dropped.counts + self.bad,
        }
    }

    /// The place of the first part, and the number of parts, of a summary of the same periods that has begun behind the others
    /// and isn't whole, as a loss of power leaves it. If its parts are those that [`Fold::encode`] gives, it can be gone on with.
    pub fn begun(&self) -> Option<(u32, u32)> {
        let (first, sequence, parts) = self.survey.begun?;
        (sequence == self.through).then_some((first, parts))
    }

    /// Bytes of the parts from number `first` on, `bytes_of` a record's bytes each.
    ///
    /// # Errors
    /// As [`Fold::encode`].
    pub fn measure<R: Records>(
        &mut self,
        records: &mut R,
        first: u32,
        out: &mut [u8],
        bytes_of: &dyn Fn(usize) -> usize,
    ) -> Result<usize, FoldError<R::Error>> {
        let (mut cursor, mut part, mut sum) = (Some(Cursor::default()), 0, 0);
        while let Some(from) = cursor {
            let (bytes, next) = self.encode(records, part, from, out)?;
            sum += if part < first { 0 } else { bytes_of(bytes) };
            cursor = next;
            part += 1;
        }
        Ok(sum)
    }

    /// Writes a part of the summary to the front of `out`, from `cursor` on; gives the record's bytes and where the next part
    /// goes on. The same call gives the same bytes.
    ///
    /// # Errors
    /// When the log can't be read, [`RecordError::TooLarge`] for a sum of 2⁶² or more, [`RecordError::Memory`] when `out`
    /// is too short for a single count.
    pub fn encode<R: Records>(
        &mut self,
        records: &mut R,
        part: u32,
        cursor: Cursor,
        out: &mut [u8],
    ) -> Result<(usize, Option<Cursor>), FoldError<R::Error>> {
        if self.too_large {
            return Err(FoldError::Record(RecordError::TooLarge));
        }
        let (shape, groups, tag) = (self.shape, self.groups, self.survey.tag);
        let head = self.heads.head();
        let periods = if part == 0 { head.periods } else { 0 };
        let head = Head { part, periods, sequence: self.through, ..head };
        let end = out.len().saturating_sub(4);
        let payload =
            out.get_mut(FRAME_FRONT..end).ok_or(FoldError::Record(RecordError::Memory))?;
        let reading = RefCell::new((self, records, None));
        let get = |group, index| {
            let (fold, records, failed) = &mut *reading.borrow_mut();
            if failed.is_some() {
                return 0;
            }
            fold.get(*records, shape.offset(group) + index).unwrap_or_else(|error| {
                *failed = Some(error);
                0
            })
        };
        let encoded = encode(&head, &shape, groups, &get, cursor, payload);
        if let (_, _, Some(error)) = reading.into_inner() {
            return Err(error);
        }
        let (bytes, next) = encoded.map_err(FoldError::Record)?;
        let record = seal(out, Kind::Summary, tag, bytes).map_err(FoldError::Record)?;
        Ok((record.len(), next))
    }

    /// A sum. The window is filled from the counter on that is asked for and isn't in it.
    fn get<R: Records>(
        &mut self,
        records: &mut R,
        counter: usize,
    ) -> Result<u64, FoldError<R::Error>> {
        let inside = |from: usize| counter.checked_sub(from);
        if let Some(at) = inside(self.from).filter(|_| self.is_filled)
            && let Some(sum) = self.window.get(at)
        {
            return Ok(*sum);
        }
        self.from = counter;
        self.is_filled = false;
        self.window.fill(0);
        let dropped = self.dropped();
        for (event, count) in
            [(Event::SamplesDropped, dropped.samples), (Event::CountsDropped, dropped.counts)]
        {
            if let Some(at) = (event as usize).checked_sub(self.from)
                && let Some(sum) = self.window.get_mut(at)
            {
                *sum = count;
            }
        }
        let (mut place, mut too_large) = (0, false);
        let window = core::mem::take(&mut self.window);
        let (shape, from) = (self.shape, self.from);
        let read = records.each(&mut |frame| {
            // What can't be decoded whole was counted as dropped.
            if self.is_member(place, frame)
                && decode(frame.payload, &shape, &mut |_, _, _| Ok(())).is_ok()
            {
                let _ = decode(frame.payload, &shape, &mut |group, index, value| {
                    let counter = shape.offset(group) + index;
                    if let Some(at) = counter.checked_sub(from)
                        && let Some(sum) = window.get_mut(at)
                    {
                        // Both are below 2⁶².
                        *sum += value;
                        if *sum >= VALUE_LIMIT {
                            too_large = true;
                            *sum = 0;
                        }
                    }
                    Ok(())
                });
            }
            place += 1;
        });
        self.window = window;
        read.map_err(FoldError::Read)?;
        if too_large {
            return Err(FoldError::Record(RecordError::TooLarge));
        }
        self.is_filled = true;
        Ok(self.window[0])
    }
}

/// Merges the sketches of a signal that have to be folded before the log's first `oldest` records go, and those that they stand
/// beside, into a record at the front of `out`. Gives its bytes, and how many sketches could not be merged; `None` when no
/// sketch is lost.
///
/// `words` hold two sketches, half of them each.
///
/// # Errors
/// When the log can't be read, [`RecordError::Memory`] when words or `out` are too short.
pub fn fold_sketches<R: Records>(
    records: &mut R,
    tag: u16,
    signal: Signal,
    oldest: u32,
    words: &mut [i32],
    out: &mut [u8],
) -> Result<Option<(usize, u64)>, FoldError<R::Error>> {
    let survey = Survey::of(records, tag).map_err(FoldError::Read)?;
    let head_of = |place: u32, frame: &Frame<'_>| {
        let live = frame.kind == Kind::Sketch && frame.tag == tag && survey.counts(place, frame);
        let head = SketchHead::decode(frame.payload).ok().filter(|_| live)?.0;
        (head.signal == signal as u8).then_some(head)
    };
    let (mut through, mut place) = (None, 0);
    let read = records.each(&mut |frame| {
        if let Some(head) = head_of(place, frame).filter(|_| place < oldest) {
            through = later(through, head.sequence);
        }
        place += 1;
    });
    read.map_err(FoldError::Read)?;
    let Some(mut through) = through else { return Ok(None) };
    // The folded one stands for more than those that go, if it isn't among them.
    if let Some((_, last)) = survey.sketches[signal as usize - 1] {
        through = later(Some(through), last).unwrap_or(last);
    }
    let (sum, one) = words.split_at_mut(words.len() / 2);
    let mut sum = Kll::new(sum, 1).map_err(FoldError::Record)?;
    let (mut lost, mut start_s, mut place) = (0, u32::MAX, 0);
    let read = records.each(&mut |frame| {
        let member = head_of(place, frame).filter(|head| is_up_to(head.sequence, through));
        place += 1;
        let (Some(head), Ok((_, bytes))) = (member, SketchHead::decode(frame.payload)) else {
            return;
        };
        match Kll::decode(bytes, one) {
            Ok(sketch) => {
                start_s = start_s.min(head.start_s);
                sum.merge(&sketch);
            }
            Err(_) => lost += 1,
        }
    });
    read.map_err(FoldError::Read)?;
    let head = SketchHead {
        sequence: through,
        start_s,
        signal: signal as u8,
        folded: 1,
        ..SketchHead::default()
    };
    let memory = FoldError::Record(RecordError::Memory);
    let payload = out.get_mut(FRAME_FRONT..).ok_or(memory)?;
    let (front, sketch) = payload
        .split_at_mut_checked(SketchHead::SIZE)
        .ok_or(FoldError::Record(RecordError::Memory))?;
    head.write(front);
    let bytes = sum.encode(sketch).map_err(FoldError::Record)?;
    let record =
        seal(out, Kind::Sketch, tag, SketchHead::SIZE + bytes).map_err(FoldError::Record)?;
    Ok(Some((record.len(), lost)))
}

#[cfg(test)]
pub(super) mod tests;
