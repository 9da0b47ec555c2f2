//! Puts sections together into a file.

use super::{
    Field, HEADER_BYTES, Header, MAGIC, SECTION_ALIGN, Section, SectionEntry, VERSION_MAJOR,
    VERSION_MINOR, crc32,
};

/// Collects sections, then lays them out with directory and checksums.
#[derive(Default)]
pub struct FileBuilder {
    sections: Vec<(Section, u32, Vec<u8>)>,
}

impl FileBuilder {
    /// An empty file.
    pub fn new() -> FileBuilder {
        FileBuilder::default()
    }

    /// Adds a section of plain bytes.
    pub fn bytes(&mut self, section: Section, bytes: Vec<u8>) -> &mut Self {
        self.sections.push((section, 1, bytes));
        self
    }

    /// Adds a section of records.
    pub fn records<T: Field>(&mut self, section: Section, records: &[T]) -> &mut Self {
        let mut bytes = vec![0; records.len() * T::SIZE];
        for (record, out) in records.iter().zip(bytes.chunks_exact_mut(T::SIZE)) {
            record.write(out);
        }
        self.sections.push((section, T::SIZE as u32, bytes));
        self
    }

    /// Lays the file out. `totals` gives the header's totals; everything that describes the layout
    /// itself (magic, version, lengths, checksums) is filled in here.
    pub fn finish(&self, totals: Header) -> Vec<u8> {
        let directory_end = HEADER_BYTES + self.sections.len() * SectionEntry::SIZE;
        let mut file = vec![0u8; directory_end];
        for (index, (section, record_bytes, bytes)) in self.sections.iter().enumerate() {
            file.resize(file.len().next_multiple_of(SECTION_ALIGN), 0);
            let entry = SectionEntry {
                kind: *section as u32,
                required: u32::from(section.is_required()),
                offset: file.len() as u64,
                bytes: bytes.len() as u64,
                crc32: crc32(&[bytes]),
                record_bytes: *record_bytes,
            };
            entry.write(&mut file[HEADER_BYTES + index * SectionEntry::SIZE..]);
            file.extend_from_slice(bytes);
        }
        file.resize(file.len().next_multiple_of(SECTION_ALIGN), 0);
        let header = Header {
            magic: MAGIC,
            version_major: VERSION_MAJOR,
            version_minor: VERSION_MINOR,
            header_bytes: HEADER_BYTES as u32,
            section_count: self.sections.len() as u32,
            file_bytes: file.len() as u64,
            ..totals
        };
        header.write(&mut file);
        seal(&mut file);
        file
    }
}

/// Recomputes the checksum of header and directory after either was changed.
/// Does nothing when the bytes are too short to hold them.
fn seal(file: &mut [u8]) {
    let Some(crc) = super::header::directory_crc32(file) else { return };
    crc.write(&mut file[HEADER_BYTES - 4..]);
}

impl FileBuilder {
    /// Recomputes every checksum of a file that was edited in place, as far as its directory can be
    /// read. For tools and tests that change a file on purpose.
    pub fn reseal(file: &mut [u8]) {
        let count = Header::read(file).section_count as usize;
        for index in 0..count.min(file.len() / SectionEntry::SIZE) {
            let at = HEADER_BYTES + index * SectionEntry::SIZE;
            let Some(bytes) = file.get(at..at + SectionEntry::SIZE) else { break };
            let mut entry = SectionEntry::read(bytes);
            let range = usize::try_from(entry.offset)
                .ok()
                .zip(usize::try_from(entry.bytes).ok())
                .and_then(|(start, len)| Some(start..start.checked_add(len)?));
            if let Some(section) = range.and_then(|range| file.get(range)) {
                entry.crc32 = crc32(&[section]);
                entry.write(&mut file[at..]);
            }
        }
        seal(file);
    }
}
