//! A monitor's log in a file of bounded length.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::counters::Cursor;
use super::fold::{Dropped, Fold, FoldError, Survey, fold_sketches, is_up_to, later, sequence};
use super::kll::{Kll, MOST_ITEMS};
use super::plan::{Log, Sink};
use super::record::{
    FRAME_BYTES, Frame, Header, Kind, MAX_PAYLOAD, Piece, Pieces, RecordError, Signal, SketchHead,
};

/// The shortest limit: some records, and a summary of most models.
pub const LEAST_FILE_BYTES: u64 = 16 * 1024;
/// Counters that are summed at once.
const WINDOW: usize = 65_536;

/// What opening a log found besides its records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Bytes at the end that were no whole record, as a loss of power leaves them: cut off.
    pub cut_bytes: u64,
    /// Stretches between records that are none; they stay until their half of the file is folded.
    pub damages: u64,
    /// Bytes in them.
    pub damaged_bytes: u64,
}

/// A log in a file. What was written survives a loss of power at any moment, but for the record that was being written: that
/// is cut off when the file is opened again.
///
/// A file that would outgrow its limit is replaced: the older half of its records becomes a summary ([`fold`](super::fold)), in a new
/// file beside it (`.new` behind the name), which then takes its name. Alarms and samples of that half go; the summary counts them.
///
/// Folding reads the whole file into memory. Each record is on the disk when [`Sink::write`] returns. A file is for one writer;
/// another one is refused.
#[derive(Debug)]
pub struct FileLog {
    path: PathBuf,
    file: File,
    bytes: u64,
    limit_bytes: u64,
    recovered: Recovered,
    newest: Option<u32>,
    headers: Vec<u16>,
    dropped: Dropped,
}

impl FileLog {
    /// Opens a log, or begins one. It is kept to `limit_bytes`, [`LEAST_FILE_BYTES`] at least.
    ///
    /// # Errors
    /// Those of the file system; [`io::ErrorKind::InvalidData`] for a file that doesn't begin as a log does, which is left as it is,
    /// and [`io::ErrorKind::InvalidInput`] for a limit that is too low.
    pub fn open(path: impl AsRef<Path>, limit_bytes: u64) -> io::Result<FileLog> {
        let path = path.as_ref().to_path_buf();
        if limit_bytes < LEAST_FILE_BYTES {
            let least = format!("a log's limit is {LEAST_FILE_BYTES} bytes at least");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, least));
        }
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        lock(&file, &path)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        let mut log = FileLog {
            path,
            file,
            bytes: content.len() as u64,
            limit_bytes,
            recovered: Recovered::default(),
            newest: None,
            headers: Vec::new(),
            dropped: Dropped::default(),
        };
        log.recover(&content)?;
        Ok(log)
    }

    fn recover(&mut self, content: &[u8]) -> io::Result<()> {
        let mut end = 0;
        let mut pieces = Pieces::new(content);
        let mut between: Option<(u64, RecordError)> = None;
        while let Some(piece) = pieces.next() {
            match piece {
                Piece::Record(frame) => {
                    if let Some((bytes, _)) = between.take() {
                        self.recovered.damages += 1;
                        self.recovered.damaged_bytes += bytes;
                    }
                    self.see(&frame);
                    end = pieces.offset();
                }
                Piece::Damaged { bytes, error, .. } => between = Some((bytes as u64, error)),
            }
        }
        let Some((bytes, error)) = between else { return Ok(()) };
        // Whoever names another file by mistake keeps it.
        if end == 0 && error != RecordError::Cut {
            let text = format!("{} is no log of a monitor", self.path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        self.recovered.cut_bytes = bytes;
        self.bytes = end as u64;
        self.file.set_len(self.bytes)?;
        self.file.sync_all()
    }

    /// What opening found besides records.
    pub fn recovered(&self) -> Recovered {
        self.recovered
    }

    /// The file's length.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn see(&mut self, frame: &Frame<'_>) {
        if let Some(sequence) = sequence(frame) {
            self.newest = later(self.newest, sequence);
        }
        if frame.kind == Kind::Header && !self.headers.contains(&frame.tag) {
            self.headers.push(frame.tag);
        }
    }

    /// Replaces the file by one whose older half is folded.
    fn make_room(&mut self) -> io::Result<()> {
        let mut content = Vec::new();
        self.file.seek(SeekFrom::Start(0))?;
        (&self.file).take(self.bytes).read_to_end(&mut content)?;
        let (folded, dropped) = fold_half(&content, self.dropped).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", self.path.display()))
        })?;
        let mut name = self.path.clone().into_os_string();
        name.push(".new");
        let new_path = PathBuf::from(name);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&new_path)?;
        lock(&file, &new_path)?;
        file.write_all(&folded)?;
        file.sync_all()?;
        std::fs::rename(&new_path, &self.path)?;
        sync_folder(&self.path)?;
        (self.file, self.bytes, self.dropped) = (file, folded.len() as u64, dropped);
        self.headers.clear();
        for piece in Pieces::new(&folded) {
            if let Piece::Record(frame) = piece {
                self.see(&frame);
            }
        }
        Ok(())
    }
}

/// Refuses a file that another log has open, where the system can tell.
fn lock(file: &File, path: &Path) -> io::Result<()> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            let text = format!("{} is in use", path.display());
            Err(io::Error::new(io::ErrorKind::WouldBlock, text))
        }
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}

/// Makes a new name in a folder last, where folders can be opened.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        return File::open(folder.unwrap_or(Path::new(".")))?.sync_all();
    }
    Ok(())
}

impl Sink for FileLog {
    type Error = io::Error;

    fn write(&mut self, _: Kind, record: &[u8]) -> Result<(), io::Error> {
        let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidInput, text);
        let frame = match Frame::read(record) {
            Ok((frame, bytes)) if bytes == record.len() => frame,
            _ => return Err(invalid("not a record")),
        };
        // Every start begins with it.
        if frame.kind == Kind::Header && self.headers.contains(&frame.tag) {
            return Ok(());
        }
        let length = record.len() as u64;
        if self.bytes + length > self.limit_bytes {
            self.make_room()?;
        }
        if self.bytes + length > self.limit_bytes {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the log's limit is too low"));
        }
        let written = self
            .file
            .seek(SeekFrom::Start(self.bytes))
            .and_then(|_| self.file.write_all(record))
            .and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // Whatever of it got there goes; the next record is written over what doesn't.
            let _ = self.file.set_len(self.bytes);
            return Err(error);
        }
        self.bytes += length;
        self.see(&frame);
        Ok(())
    }
}

impl Log for FileLog {
    fn next_sequence(&self) -> u32 {
        self.newest.map_or(0, |newest| newest.wrapping_add(1))
    }
}

/// The bytes of a log whose older half is folded: of each header it, its summary and sketch, and its newer records. And what
/// was dropped of which no summary tells.
fn fold_half(content: &[u8], mut dropped: Dropped) -> Result<(Vec<u8>, Dropped), RecordError> {
    let mut records = Vec::new();
    let mut pieces = Pieces::new(content);
    let mut from = 0;
    while let Some(piece) = pieces.next() {
        if let Piece::Record(frame) = piece {
            records.push((frame, &content[from..pieces.offset()]));
        }
        from = pieces.offset();
    }
    let (mut oldest, mut bytes) = (0, 0);
    while oldest < records.len() && bytes < content.len() / 2 {
        bytes += records[oldest].1.len();
        oldest += 1;
    }
    let mut tags: Vec<u16> = records.iter().map(|(frame, _)| frame.tag).collect();
    tags.sort_unstable();
    tags.dedup();
    let mut out = Vec::with_capacity(content.len());
    for tag in tags {
        let header = records.iter().find_map(|(frame, _)| {
            let header = Header::decode(frame.payload).ok()?;
            (frame.kind == Kind::Header && header.tag() == tag).then_some(header)
        });
        let own = |(frame, _): &&(Frame<'_>, &[u8])| frame.tag == tag && frame.kind != Kind::Header;
        let Some(header) = header else {
            // Nobody can say what they mean; the newer ones wait for their header.
            dropped.counts += records[..oldest].iter().filter(own).count() as u64;
            records[oldest..].iter().filter(own).for_each(|(_, raw)| out.extend_from_slice(raw));
            continue;
        };
        dropped = fold_tag(content, &records, oldest, &header, dropped, &mut out)?;
    }
    Ok((out, dropped))
}

/// Adds what is left of a header's records to `out`; gives what was dropped and is in no summary.
fn fold_tag(
    mut content: &[u8],
    records: &[(Frame<'_>, &[u8])],
    oldest: usize,
    header: &Header,
    mut dropped: Dropped,
    out: &mut Vec<u8>,
) -> Result<Dropped, RecordError> {
    let known = |error| match error {
        FoldError::Record(error) => error,
        FoldError::Read(never) => match never {},
    };
    let (tag, first) = (header.tag(), oldest as u32);
    let mut buffer = vec![0; MAX_PAYLOAD + FRAME_BYTES];
    let Ok(survey) = Survey::of(&mut content, tag);
    let mut kept = Vec::from(header.encode(&mut buffer)?);
    let begins = kept.len();
    let mut words = vec![0; 2 * Kll::words(MOST_ITEMS)];
    let mut sketched = [None; Signal::ALL.len()];
    for (signal, sketched) in Signal::ALL.into_iter().zip(&mut sketched) {
        let folded = fold_sketches(&mut content, tag, signal, first, &mut words, &mut buffer);
        if let Some((bytes, lost)) = folded.map_err(known)? {
            dropped.counts += lost;
            kept.extend_from_slice(&buffer[..bytes]);
            let (frame, _) = Frame::read(&buffer[..bytes])?;
            *sketched = sequence(&frame);
        }
    }
    let mut window = vec![0; header.shape()?.total().clamp(1, WINDOW)];
    let plan = Fold::plan(&mut content, header, first, dropped, &mut window);
    let mut fold = plan.map_err(known)?;
    if let Some(fold) = &mut fold {
        let start = kept.len();
        if let Err(error) = write_summary(fold, content, &mut buffer, &mut kept) {
            if error != RecordError::TooLarge {
                return Err(error);
            }
            kept.truncate(start);
            let Ok(()) = fold.keep_summary(&mut content).map_err(known) else {
                return Err(error);
            };
            write_summary(fold, content, &mut buffer, &mut kept)?;
        }
        dropped = Dropped::default();
    }
    for (place, (frame, raw)) in records.iter().enumerate().skip(oldest) {
        let place = place as u32;
        let is_sketched = || {
            let head = SketchHead::decode(frame.payload).ok().map(|(head, _)| head);
            frame.kind == Kind::Sketch
                && head.is_some_and(|head| {
                    sketched[usize::from(head.signal) - 1]
                        .is_some_and(|through| is_up_to(head.sequence, through))
                })
        };
        let stays = frame.tag == tag
            && frame.kind != Kind::Header
            && survey.counts(place, frame)
            && !fold.as_ref().is_some_and(|fold| fold.stands_for(place, frame))
            && !is_sketched();
        if stays {
            kept.extend_from_slice(raw);
        }
    }
    // A header without records is of a model that the device has no more.
    let is_used = records[oldest..].iter().any(|(frame, _)| frame.tag == tag);
    if is_used || kept.len() > begins {
        out.extend_from_slice(&kept);
    }
    Ok(dropped)
}

fn write_summary(
    fold: &mut Fold<'_>,
    mut content: &[u8],
    buffer: &mut [u8],
    out: &mut Vec<u8>,
) -> Result<(), RecordError> {
    let (mut cursor, mut part) = (Some(Cursor::default()), 0);
    while let Some(from) = cursor {
        let (bytes, next) = match fold.encode(&mut content, part, from, buffer) {
            Ok(written) => written,
            Err(FoldError::Record(error)) => return Err(error),
            Err(FoldError::Read(never)) => match never {},
        };
        out.extend_from_slice(&buffer[..bytes]);
        cursor = next;
        part += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
