//! Reads the logs of monitors: files of records, however large, and what is damaged in them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use whit::metrics::record::{FRAME_BYTES, Frame, Header, Kind, MAX_PAYLOAD, RecordError};

/// The longest record.
const MAX_RECORD: usize = MAX_PAYLOAD + FRAME_BYTES;
/// Bytes that are read at once: many records, and little beside what reading takes anyway.
const BUFFER: usize = 256 * 1024;

/// What couldn't be read, of one log or of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Remarks {
    /// Whole records.
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    /// Stretches of bytes that hold no record, and the bytes in them.
    pub(crate) damages: u64,
    pub(crate) damaged_bytes: u64,
    /// Logs whose last bytes are a record's beginning.
    pub(crate) cut: u64,
    /// Headers of a version that this build doesn't read, by version.
    pub(crate) versions: BTreeMap<u16, u64>,
    /// Records whose header is of such a version, or nowhere in the log.
    pub(crate) without_header: u64,
    /// Records whose checksum matches and whose content means nothing.
    pub(crate) meaningless: u64,
    /// Records that would have brought a sum to 2⁶².
    pub(crate) too_large: u64,
    /// Periods of which a further record is missing: some of their counts are lost.
    pub(crate) incomplete: u64,
    /// Files without a single record.
    pub(crate) empty: Vec<PathBuf>,
}

impl Remarks {
    /// Whether everything was read.
    pub(crate) fn is_clean(&self) -> bool {
        let Remarks { records, bytes, .. } = *self;
        *self == Remarks { records, bytes, ..Remarks::default() }
    }

    /// A sentence for each kind of what happened.
    pub(crate) fn sentences(&self) -> Vec<String> {
        let mut out = Vec::new();
        let mut say = |count: u64, text: String| {
            if count > 0 {
                out.push(text);
            }
        };
        let s = |count: u64, one: &str, many: &str| {
            format!("{count} {}", if count == 1 { one } else { many })
        };
        say(
            self.damages,
            format!(
                "damage in {} of a log, {} in all; the records around it were read",
                s(self.damages, "place", "places"),
                s(self.damaged_bytes, "byte", "bytes")
            ),
        );
        let logs = s(self.cut, "log ends", "logs end");
        say(self.cut, format!("{logs} within a record, as a loss of power leaves it"));
        for (version, count) in &self.versions {
            let headers = s(*count, "header", "headers");
            say(
                *count,
                format!(
                    "{headers} of version {version}, this build reads {}: use the matching version of whit",
                    whit::metrics::record::LOG_VERSION
                ),
            );
        }
        let records = |count| s(count, "record", "records");
        say(
            self.without_header,
            format!("{} without a header in the log were left out", records(self.without_header)),
        );
        let meaningless = records(self.meaningless);
        say(self.meaningless, format!("{meaningless} with values without meaning were left out"));
        let too_large = records(self.too_large);
        say(self.too_large, format!("{too_large} left out, since a sum would reach 2⁶²"));
        say(
            self.incomplete,
            format!(
                "{} lack a part: their counts are too low",
                s(self.incomplete, "period", "periods")
            ),
        );
        for path in &self.empty {
            say(1, format!("{}: no records", path.display()));
        }
        out
    }
}

/// Every log that the arguments name: files, and the files of folders in the order of their names.
///
/// # Errors
/// A path that isn't there or can't be read, a folder without files.
pub(crate) fn find_logs(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
        let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()?;
        entries.sort();
        for path in entries {
            // Links to folders are not followed: they could lead in a circle.
            let kind = std::fs::symlink_metadata(&path)?.file_type();
            let hidden =
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            if kind.is_dir() && !hidden {
                walk(&path, found)?;
            } else if path.is_file() && !hidden {
                found.push(path);
            }
        }
        Ok(())
    }
    let mut logs = Vec::new();
    for path in paths {
        let found = std::fs::metadata(path);
        match found {
            Ok(what) if what.is_dir() => {
                let before = logs.len();
                walk(path, &mut logs).with_context(|| path.display().to_string())?;
                if logs.len() == before {
                    bail!("{}: the folder has no files", path.display());
                }
            }
            Ok(_) => logs.push(path.clone()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!("{}: no such file or folder", path.display())
            }
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        }
    }
    Ok(logs)
}

/// Part of a log.
#[derive(Debug, PartialEq)]
pub(crate) enum Part<'b> {
    Record(Frame<'b>),
    /// Bytes that hold no whole record; `cut`: the log ends in them, and they begin as a record does.
    Damaged {
        bytes: u64,
        cut: bool,
    },
}

/// Hands on every record and every damage, as [`whit::metrics::record::Pieces`] does, without having the log in memory.
pub(crate) fn read_parts(
    mut log: impl Read,
    buffer_bytes: usize,
    take: &mut dyn FnMut(Part<'_>) -> Result<()>,
) -> Result<()> {
    let mut buffer = vec![0; buffer_bytes.max(2 * MAX_RECORD)];
    let (mut from, mut to, mut ended) = (0, 0, false);
    let mut damaged: Option<(u64, RecordError)> = None;
    loop {
        while !ended && to - from < MAX_RECORD {
            buffer.copy_within(from..to, 0);
            (from, to) = (0, to - from);
            match log.read(&mut buffer[to..]) {
                Ok(0) => ended = true,
                Ok(bytes) => to += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        let rest = &buffer[from..to];
        if rest.is_empty() {
            break;
        }
        match Frame::read(rest) {
            Ok((frame, bytes)) => {
                if let Some((bytes, _)) = damaged.take() {
                    take(Part::Damaged { bytes, cut: false })?;
                }
                take(Part::Record(frame))?;
                from += bytes;
            }
            Err(error) => {
                damaged = Some(damaged.map_or((1, error), |(bytes, first)| (bytes + 1, first)));
                from += 1;
            }
        }
    }
    if let Some((bytes, first)) = damaged {
        take(Part::Damaged { bytes, cut: first == RecordError::Cut })?;
    }
    Ok(())
}

/// A record with the header that it belongs to.
pub(crate) struct Belonging<'b> {
    pub(crate) header: &'b Header,
    pub(crate) kind: Kind,
    pub(crate) payload: &'b [u8],
}

/// Reads a log from its beginning to its end: each record but headers to `take`, what can't be read to `remarks`.
///
/// A record belongs to the last header in front of it with its tag, or else to the first one behind it.
///
/// # Errors
/// Input and output, and those of `take`.
pub(crate) fn read_log(
    path: &Path,
    remarks: &mut Remarks,
    take: &mut dyn FnMut(&Belonging<'_>, &mut Remarks) -> Result<()>,
) -> Result<()> {
    let open = || File::open(path);
    let mut headers: BTreeMap<u16, Header> = BTreeMap::new();
    // Of records in front of the first header, which a log whose oldest records were erased has: read when needed.
    let mut later: Option<BTreeMap<u16, Header>> = None;
    let records_before = remarks.records;
    read_parts(open()?, BUFFER, &mut |part| {
        let frame = match part {
            Part::Damaged { bytes, cut } => {
                remarks.bytes += bytes;
                if cut {
                    remarks.cut += 1;
                } else {
                    remarks.damages += 1;
                    remarks.damaged_bytes += bytes;
                }
                return Ok(());
            }
            Part::Record(frame) => frame,
        };
        remarks.records += 1;
        remarks.bytes += (frame.payload.len() + FRAME_BYTES) as u64;
        if frame.kind == Kind::Header {
            match read_header(&frame) {
                Ok(header) => drop(headers.insert(frame.tag, header)),
                Err(RecordError::Version { version }) => {
                    headers.remove(&frame.tag);
                    *remarks.versions.entry(version).or_default() += 1;
                }
                Err(_) => remarks.meaningless += 1,
            }
            return Ok(());
        }
        let known = headers.contains_key(&frame.tag);
        if !known {
            if later.is_none() {
                later = Some(first_headers(open()?)?);
            }
            if let Some(header) = later.as_ref().and_then(|later| later.get(&frame.tag)) {
                headers.insert(frame.tag, *header);
            }
        }
        let Some(header) = headers.get(&frame.tag) else {
            remarks.without_header += 1;
            return Ok(());
        };
        take(&Belonging { header, kind: frame.kind, payload: frame.payload }, remarks)
    })
    .with_context(|| path.display().to_string())?;
    if remarks.records == records_before {
        remarks.empty.push(path.to_path_buf());
    }
    Ok(())
}

/// A header that its own frame fits.
fn read_header(frame: &Frame<'_>) -> Result<Header, RecordError> {
    let header = Header::decode(frame.payload)?;
    if header.tag() == frame.tag { Ok(header) } else { Err(RecordError::OtherLog) }
}

/// The first header of each tag.
fn first_headers(log: impl Read) -> Result<BTreeMap<u16, Header>> {
    let mut headers = BTreeMap::new();
    read_parts(log, BUFFER, &mut |part| {
        if let Part::Record(frame) = part
            && frame.kind == Kind::Header
            && let Ok(header) = read_header(&frame)
        {
            headers.entry(frame.tag).or_insert(header);
        }
        Ok(())
    })?;
    Ok(headers)
}
