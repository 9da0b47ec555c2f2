//! A `.whit` file mapped into memory.

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::Mmap;

use crate::format::FormatError;
use crate::model::Model;

/// An open, mapped file. Models borrow from it. Importers read other formats through it.
pub struct ModelFile {
    map: Mmap,
}

/// Bytes of a huge page on most systems; smaller files can't have one.
#[cfg(target_os = "linux")]
const HUGE_PAGE_BYTES: usize = 2 << 20;

impl ModelFile {
    /// Maps a file. Nothing is read or checked yet.
    ///
    /// # Errors
    /// When the file can't be opened or mapped (an empty file can't).
    pub fn open(path: impl AsRef<Path>) -> io::Result<ModelFile> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty"));
        }
        // SAFETY: the map is private and read-only. Another process may change the file meanwhile:
        // every bit pattern of what is read is valid, records are decoded with bounds checks each
        // time, and what steers a step's memory (operands, shapes, offsets, attributes) is a copy in
        // the session's memory, checked against its regions at each use. Weights are plain numbers.
        // Truncation raises SIGBUS, as for every mapped file.
        let map = unsafe { Mmap::map(&file)? };
        // What isn't in the page cache yet is read there in pages of 2 MiB, of which a large model needs few. Refused by
        // systems without them, where small ones do.
        #[cfg(target_os = "linux")]
        if map.len() >= HUGE_PAGE_BYTES {
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Ok(ModelFile { map })
    }

    /// Asks the system to read the whole file into memory in the background, so that the first run of a model that isn't in the
    /// page cache waits less. Does nothing where the system takes no such advice.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn read_ahead(&self) -> io::Result<()> {
        #[cfg(unix)]
        self.map.advise(memmap2::Advice::WillNeed)?;
        Ok(())
    }

    /// The validated model.
    ///
    /// # Errors
    /// When the bytes are not a valid `.whit` file.
    pub fn model(&self) -> Result<Model<'_>, FormatError> {
        Model::open_mapped(&self.map)
    }

    /// The bytes of the file, which needn't be a `.whit` file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }
}

impl AsRef<[u8]> for ModelFile {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_ahead_changes_nothing() {
        let path = std::env::temp_dir().join(std::format!("whit-mmap-{}", std::process::id()));
        std::fs::write(&path, b"not a model").unwrap();
        let file = ModelFile::open(&path).unwrap();
        file.read_ahead().unwrap();
        assert_eq!(file.bytes(), b"not a model");
        assert!(file.model().is_err());
        std::fs::remove_file(path).unwrap();
    }
}
