//! The monitor's log in flash: what a device saw, whatever happens to the power, in whole blocks that go round.

use core::fmt;
use core::ops::Range;

use embedded_storage::nor_flash::NorFlash;
use whit::format::Field;
use whit::format::cast_mut;
use whit::metrics::counters::Cursor;
use whit::metrics::fold::{
    DETAILS, Dropped, Fold, FoldError, Survey, fold_sketches, later, sequence,
};
use whit::metrics::kll::{Kll, MOST_ITEMS};
use whit::metrics::record::{
    FRAME_BYTES, Frame, Header, Kind, MAX_PAYLOAD, RecordError, Signal, SketchHead,
};
use whit::metrics::{Config, Sink};

mod ring;

use ring::{Reader, Ring};

/// Bytes of a header's record.
const HEADER_BYTES: usize = Header::SIZE + FRAME_BYTES;

/// Why a monitor's log in flash refuses something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MonitorLogError<E> {
    /// The flash failed.
    Flash(E),
    /// The range isn't three or more whole blocks of the flash, or words don't fit.
    Geometry,
    /// The memory is shorter than [`LogSizes::memory_bytes`].
    Memory {
        /// Bytes that the log wants.
        needed: usize,
        /// Bytes that it got.
        given: usize,
    },
    /// A record is longer than [`LogSizes`] says, or than a block. From [`MonitorLog::open`]: one that is in the log.
    Record {
        /// Its bytes.
        bytes: usize,
    },
    /// What was to be written is no record.
    NoRecord,
    /// There is no room, and none could be made.
    Full,
    /// The blocks' marks make no sense: something else writes to the range.
    Damaged,
}

impl<E: fmt::Debug> fmt::Display for MonitorLogError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MonitorLogError::Flash(error) => write!(f, "the flash failed: {error:?}"),
            MonitorLogError::Geometry => {
                f.write_str("the range isn't three or more whole blocks of the flash")
            }
            MonitorLogError::Memory { needed, given } => {
                write!(f, "the log wants {needed} bytes of memory and got {given}")
            }
            MonitorLogError::Record { bytes } => {
                write!(f, "a record of {bytes} bytes is longer than the log's memory or block")
            }
            MonitorLogError::NoRecord => f.write_str("not a record"),
            MonitorLogError::Full => f.write_str("there is no room"),
            MonitorLogError::Damaged => f.write_str("something else writes to the range"),
        }
    }
}

impl<E: fmt::Debug> core::error::Error for MonitorLogError<E> {}

/// What a log's memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSizes {
    /// Bytes of a record of counts at most, as the monitor's [`Config::record_bytes`]; summaries keep to it, too.
    pub record_bytes: u16,
    /// Items of the monitor's sketch, 0 without.
    pub sketch_items: u16,
    /// Counters that are summed at once when records are folded, 8 bytes each: fewer take more passes over the records.
    pub counters: u16,
}

impl LogSizes {
    /// What the log of a monitor with this configuration wants: 128 counters.
    pub const fn of(config: &Config) -> LogSizes {
        LogSizes { record_bytes: config.record_bytes, sketch_items: config.sketch.1, counters: 128 }
    }

    const fn record(&self) -> usize {
        let (least, most) = (HEADER_BYTES, MAX_PAYLOAD + FRAME_BYTES);
        let bytes = self.record_bytes as usize;
        if bytes < least {
            least
        } else if bytes > most {
            most
        } else {
            bytes
        }
    }

    /// Items of the sketches, as the monitor takes them.
    const fn items(&self) -> usize {
        let items = self.sketch_items as usize;
        let least = whit::metrics::kll::LEAST_ITEMS;
        if items == 0 {
            0
        } else if items < least {
            least
        } else if items > MOST_ITEMS {
            MOST_ITEMS
        } else {
            items
        }
    }

    const fn sketch(&self) -> usize {
        match self.items() {
            0 => 0,
            items => SketchHead::SIZE + Kll::encoded_bytes(items) + FRAME_BYTES,
        }
    }

    /// Bytes of the longest record, in whole words.
    const fn longest(&self) -> usize {
        let (record, sketch) = (self.record(), self.sketch());
        let longest = if record > sketch { record } else { sketch };
        longest.next_multiple_of(32)
    }

    const fn window(&self) -> usize {
        if self.counters == 0 { 1 } else { self.counters as usize }
    }

    /// Bytes of memory that [`MonitorLog::open`] wants.
    pub const fn memory_bytes(&self) -> usize {
        // Counts and sketches aren't folded at the same time.
        let counts = self.record() + 8 * self.window();
        let sketches = match self.items() {
            0 => 0,
            items => self.longest() + 4 * 2 * Kll::words(items),
        };
        // Up to 7 bytes until numbers of 8 bytes may begin.
        self.longest() + 7 + if counts > sketches { counts } else { sketches }
    }
}

/// A monitor's log in flash, in three or more blocks.
pub struct MonitorLog<'m, F: NorFlash> {
    ring: Ring<F>,
    sizes: LogSizes,
    /// A record that is read.
    buffer: &'m mut [u8],
    /// What folding takes besides.
    scratch: &'m mut [u8],
    /// The last period of which there is a record.
    newest: Option<u32>,
    /// The block and the tag whose header was last seen to be there.
    headed: Option<(u32, u16)>,
    dropped: Dropped,
}

impl<'m, F: NorFlash> MonitorLog<'m, F> {
    /// The log in a range of whole blocks; goes on with what is there. Blocks whose erase was cut, and those that aren't
    /// ours, are erased.
    ///
    /// # Errors
    /// [`MonitorLogError::Geometry`], [`MonitorLogError::Memory`], a record in the log that is longer than `sizes` says, and
    /// flash that fails.
    pub fn open(
        flash: F,
        range: Range<u32>,
        memory: &'m mut [u8],
        sizes: LogSizes,
    ) -> Result<Self, MonitorLogError<F::Error>> {
        let (needed, given) = (sizes.memory_bytes(), memory.len());
        if given < needed {
            return Err(MonitorLogError::Memory { needed, given });
        }
        let ring = Ring::open(flash, range)?;
        let ahead = memory.as_ptr().align_offset(align_of::<u64>());
        let Some(memory) = memory.get_mut(ahead..) else {
            return Err(MonitorLogError::Memory { needed, given });
        };
        // The window of counters begins the second part.
        let (buffer, scratch) = memory.split_at_mut(sizes.longest());
        let mut log = MonitorLog {
            ring,
            sizes,
            buffer,
            scratch,
            newest: None,
            headed: None,
            dropped: Dropped::default(),
        };
        let mut newest = None;
        log.ring.each(log.buffer, &mut |frame, _| {
            if let Some(sequence) = sequence(frame) {
                newest = later(newest, sequence);
            }
        })?;
        log.newest = newest;
        Ok(log)
    }

    /// Whether the next record has to wait until the oldest block was folded and erased.
    ///
    /// # Errors
    /// Flash that fails.
    pub fn is_work_due(&mut self) -> Result<bool, MonitorLogError<F::Error>> {
        Ok(self.ring.oldest()?.is_some())
    }

    /// Folds and erases the oldest block if that is due: what the next record would have to wait for. Call it when there is time.
    ///
    /// # Errors
    /// Flash that fails; the next call tries again.
    pub fn work(&mut self) -> Result<(), MonitorLogError<F::Error>> {
        let Some(oldest) = self.ring.oldest()? else { return Ok(()) };
        let mut records = 0;
        self.ring.each_in(oldest, self.buffer, &mut |_, _| records += 1)?;
        let mut tag = self.next_tag(Some(oldest), None)?;
        while let Some(now) = tag {
            self.fold(now, records)?;
            tag = self.next_tag(Some(oldest), Some(now))?;
        }
        self.ring.erase_oldest(oldest)
    }

    /// The lowest tag above another one, of a block's records or of all.
    fn next_tag(
        &mut self,
        block: Option<u32>,
        above: Option<u16>,
    ) -> Result<Option<u16>, MonitorLogError<F::Error>> {
        let mut found: Option<u16> = None;
        let mut see = |frame: &Frame<'_>, _: &[u8]| {
            if Some(frame.tag) > above && found.is_none_or(|found| frame.tag < found) {
                found = Some(frame.tag);
            }
        };
        match block {
            Some(block) => self.ring.each_in(block, self.buffer, &mut see)?,
            None => self.ring.each(self.buffer, &mut see)?,
        }
        Ok(found)
    }

    /// The first header with a tag, of a block or of all.
    fn header(
        &mut self,
        block: Option<u32>,
        tag: u16,
    ) -> Result<Option<Header>, MonitorLogError<F::Error>> {
        let mut found = None;
        let mut see = |frame: &Frame<'_>, _: &[u8]| {
            if frame.kind == Kind::Header && frame.tag == tag && found.is_none() {
                found = Header::decode(frame.payload).ok().filter(|header| header.tag() == tag);
            }
        };
        match block {
            Some(block) => self.ring.each_in(block, self.buffer, &mut see)?,
            None => self.ring.each(self.buffer, &mut see)?,
        }
        Ok(found)
    }

    /// Writes a header to the head if there is none.
    fn put_header(&mut self, header: &Header) -> Result<(), MonitorLogError<F::Error>> {
        let head = self.ring.head();
        if self.header(Some(head), header.tag())?.is_none() {
            let mut record = [0; HEADER_BYTES];
            if let Ok(record) = header.encode(&mut record) {
                self.ring.push(record)?;
            }
        }
        Ok(())
    }

    /// Writes the header with this tag to the head if another block has it.
    fn repeat_header(&mut self, tag: u16) -> Result<(), MonitorLogError<F::Error>> {
        match self.header(None, tag)? {
            Some(header) => self.put_header(&header),
            None => Ok(()),
        }
    }

    /// Folds what has a tag before the first `oldest` records go.
    fn fold(&mut self, tag: u16, oldest: u32) -> Result<(), MonitorLogError<F::Error>> {
        let Some(header) = self.header(None, tag)? else {
            self.drop_unknown(tag, oldest)?;
            return Ok(());
        };
        for signal in Signal::ALL {
            self.fold_signal(&header, signal, oldest)?;
        }
        self.fold_counts(&header, oldest)?;
        // What isn't folded needs its header, too.
        let (mut place, mut stays) = (0, false);
        self.ring.each(self.buffer, &mut |frame, _| {
            stays |= place >= oldest && frame.tag == tag && frame.kind != Kind::Header;
            place += 1;
        })?;
        if stays { self.put_header(&header) } else { Ok(()) }
    }

    /// Counts the records of counts that go without being folded, as there is no header that says what they are.
    fn drop_unknown(&mut self, tag: u16, oldest: u32) -> Result<(), MonitorLogError<F::Error>> {
        let (mut place, mut lost) = (0, 0);
        self.ring.each(self.buffer, &mut |frame, _| {
            let counts =
                matches!(frame.kind, Kind::Period | Kind::Window | Kind::Summary | Kind::Sketch);
            lost += u64::from(place < oldest && frame.tag == tag && counts);
            place += 1;
        })?;
        self.dropped.counts += lost;
        Ok(())
    }

    fn fold_signal(
        &mut self,
        header: &Header,
        signal: Signal,
        oldest: u32,
    ) -> Result<(), MonitorLogError<F::Error>> {
        let tag = header.tag();
        let split = 4 * 2 * Kll::words(self.sizes.items()).min(self.scratch.len() / 8);
        let (words, out) = self.scratch.split_at_mut(split);
        let words = cast_mut(words).unwrap_or_default();
        let out_bytes = out.len().min(self.sizes.longest());
        let out = &mut out[..out_bytes];
        let mut reader = Reader { ring: &mut self.ring, buffer: self.buffer };
        match fold_sketches(&mut reader, tag, signal, oldest, words, out) {
            Ok(None) => Ok(()),
            Ok(Some((bytes, lost))) => {
                self.dropped.counts += lost;
                if Ring::<F>::bytes_of(bytes) <= self.ring.room()? {
                    self.ring.push(&out[..bytes])?;
                } else {
                    self.dropped.counts += 1;
                }
                Ok(())
            }
            Err(FoldError::Read(error)) => Err(error),
            // The log was opened without memory for sketches.
            Err(_) => {
                let (mut place, mut lost) = (0, 0);
                self.ring.each(self.buffer, &mut |frame, _| {
                    let head = SketchHead::decode(frame.payload);
                    let is = frame.kind == Kind::Sketch
                        && frame.tag == tag
                        && head.is_ok_and(|(head, _)| head.signal == signal as u8);
                    lost += u64::from(place < oldest && is);
                    place += 1;
                })?;
                self.dropped.counts += lost;
                Ok(())
            }
        }
    }

    fn fold_counts(
        &mut self,
        header: &Header,
        oldest: u32,
    ) -> Result<(), MonitorLogError<F::Error>> {
        let (window, out) = self.scratch.split_at_mut(8 * self.sizes.window());
        let window = cast_mut(window).unwrap_or_default();
        let out = &mut out[..self.sizes.record()];
        let read = |error| match error {
            FoldError::Read(error) => error,
            _ => MonitorLogError::Damaged,
        };
        let mut reader = Reader { ring: &mut self.ring, buffer: self.buffer };
        let plan = Fold::plan(&mut reader, header, oldest, self.dropped, window);
        let Some(mut fold) = plan.map_err(read)? else { return Ok(()) };
        let own = Ring::<F>::bytes_of(HEADER_BYTES);
        let room = self.ring.room()?.saturating_sub(own);
        let (mut fits, mut there) = (false, 0);
        'details: for (number, groups) in DETAILS.into_iter().enumerate() {
            let mut reader = Reader { ring: &mut self.ring, buffer: self.buffer };
            if number > 0 {
                fold.keep_only(&mut reader, groups).map_err(read)?;
            }
            for attempt in 0..2 {
                let measured = parts_there(&mut fold, &mut reader, out).and_then(|parts| {
                    there = parts;
                    fold.measure(&mut reader, parts, out, &Ring::<F>::bytes_of)
                });
                match measured {
                    Ok(bytes) => {
                        fits = bytes <= room;
                        if fits {
                            break 'details;
                        }
                        break;
                    }
                    Err(FoldError::Record(RecordError::TooLarge)) if attempt == 0 => {
                        fold.keep_summary(&mut reader).map_err(read)?;
                    }
                    Err(FoldError::Read(error)) => return Err(error),
                    Err(_) => break,
                }
            }
        }
        if !fits {
            // All of it goes: the least that is true of it is that it was there.
            self.dropped = fold.dropped();
            self.dropped.counts += 1;
            return Ok(());
        }
        let (head, mut cursor, mut part) = (self.ring.head(), Some(Cursor::default()), 0);
        while let Some(from) = cursor {
            let mut reader = Reader { ring: &mut self.ring, buffer: self.buffer };
            let (bytes, next) = fold.encode(&mut reader, part, from, out).map_err(read)?;
            if part >= there {
                self.ring.push(&out[..bytes])?;
            }
            if self.ring.head() != head {
                // There was room: another one erased the oldest block.
                return Err(MonitorLogError::Damaged);
            }
            cursor = next;
            part += 1;
        }
        self.dropped = Dropped::default();
        Ok(())
    }

    /// Gives the records as a log that a host can read: of each header it first, then its records, oldest first, without those
    /// that others stand for. One behind the other they are a file for `whit monitor`.
    ///
    /// # Errors
    /// Flash that fails.
    pub fn read(&mut self, each: &mut dyn FnMut(&[u8])) -> Result<(), MonitorLogError<F::Error>> {
        let mut tag = self.next_tag(None, None)?;
        while let Some(now) = tag {
            if let Some(header) = self.header(None, now)?
                && let Ok(record) = header.encode(&mut [0; HEADER_BYTES])
            {
                each(record);
            }
            let mut reader = Reader { ring: &mut self.ring, buffer: self.buffer };
            let survey = Survey::of(&mut reader, now)?;
            let mut place = 0;
            self.ring.each(self.buffer, &mut |frame, record| {
                let own = frame.tag == now && frame.kind != Kind::Header;
                if own && survey.counts(place, frame) {
                    each(record);
                }
                place += 1;
            })?;
            tag = self.next_tag(None, Some(now))?;
        }
        Ok(())
    }
}

/// Parts of the summary that an earlier fold wrote before power failed. Going on behind them instead of beginning again lets a
/// device whose power fails again and again get to the end, and not fill its block with beginnings.
fn parts_there<F: NorFlash>(
    fold: &mut Fold<'_>,
    reader: &mut Reader<'_, F>,
    out: &mut [u8],
) -> Result<u32, FoldError<MonitorLogError<F::Error>>> {
    let Some((first, parts)) = fold.begun() else { return Ok(0) };
    let mut cursor = Some(Cursor::default());
    for part in 0..parts {
        let Some(from) = cursor else { return Ok(0) };
        let (bytes, next) = fold.encode(reader, part, from, out)?;
        let (mut place, mut is_there) = (0, false);
        reader
            .ring
            .each(reader.buffer, &mut |_, record| {
                is_there |= place >= first && record == &out[..bytes];
                place += 1;
            })
            .map_err(FoldError::Read)?;
        if !is_there {
            return Ok(0);
        }
        cursor = next;
    }
    // A whole one wouldn't be begun.
    Ok(if cursor.is_some() { parts } else { 0 })
}

impl<F: NorFlash> Sink for MonitorLog<'_, F> {
    type Error = MonitorLogError<F::Error>;

    fn write(&mut self, _: Kind, record: &[u8]) -> Result<(), Self::Error> {
        let Ok((frame, bytes)) = Frame::read(record) else { return Err(MonitorLogError::NoRecord) };
        if bytes != record.len() {
            return Err(MonitorLogError::NoRecord);
        }
        if bytes > self.buffer.len() {
            return Err(MonitorLogError::Record { bytes });
        }
        self.work()?;
        if frame.kind == Kind::Header {
            // Every start begins with it.
            let Ok(header) = Header::decode(frame.payload) else {
                return Err(MonitorLogError::NoRecord);
            };
            return self.put_header(&header);
        }
        let mut pushed = self.ring.push(record);
        if let Err(MonitorLogError::Flash(_)) = pushed {
            // Behind what it left in flash there may be better words.
            pushed = match self.ring.ends_with(record, self.buffer)? {
                true => Ok(()),
                false => self.ring.push(record),
            };
        }
        pushed?;
        if let Some(sequence) = sequence(&frame) {
            self.newest = later(self.newest, sequence);
        }
        let here = (self.ring.head(), frame.tag);
        // The record is written: if its header can't be, the next record tries again.
        if self.headed != Some(here) && self.repeat_header(frame.tag).is_ok() {
            self.headed = Some(here);
        }
        Ok(())
    }
}

impl<F: NorFlash> whit::metrics::Log for MonitorLog<'_, F> {
    fn next_sequence(&self) -> u32 {
        self.newest.map_or(0, |newest| newest.wrapping_add(1))
    }
}
