//! Compiled kernels, kept in a folder: one file for each source, architecture and compiler.
//!
//! `WHIT_CUDA_CACHE` names the folder; else it is `whit/cuda` below the user's folder for caches. What can't be read
//! or written there is compiled anew: the folder only saves time.

use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use super::kernels::{File, HEADERS};
use crate::format::crc32;

/// In front of every entry.
const MAGIC: [u8; 8] = *b"WHITCUDA";
/// Magic, length and checksum of what follows.
const HEADER_BYTES: usize = 20;

/// The folder for entries; `None` when the user has none.
pub(super) fn folder() -> Option<PathBuf> {
    let named =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    named("WHIT_CUDA_CACHE")
        .or_else(|| Some(named("XDG_CACHE_HOME")?.join("whit").join("cuda")))
        .or_else(|| Some(named("LOCALAPPDATA")?.join("whit").join("cuda")))
        .or_else(|| Some(named("HOME")?.join(".cache").join("whit").join("cuda")))
}

/// Everything that the machine code of a file depends on.
#[derive(Hash)]
pub(super) struct Key<'k> {
    pub(super) options: &'k [String],
    /// Of NVRTC, major and minor.
    pub(super) compiler: [i32; 2],
    pub(super) driver: i32,
}

/// The name of an entry.
fn entry(file: &File, key: &Key<'_>) -> String {
    // Not for security: whoever writes to the folder can do as he likes anyway.
    let mut hasher = std::hash::DefaultHasher::new();
    (file.source, key).hash(&mut hasher);
    HEADERS.iter().for_each(|header| header.source.hash(&mut hasher));
    let stem = file.name.trim_end_matches(".cu");
    format!("{stem}-{:016x}.cubin", hasher.finish())
}

/// The machine code of a file: the folder's if it is whole, else what `compile` makes, which is then kept.
pub(super) fn cached<E>(
    folder: Option<&Path>,
    file: &File,
    key: &Key<'_>,
    compile: impl FnOnce() -> Result<Vec<u8>, E>,
) -> Result<Vec<u8>, E> {
    let path = folder.map(|folder| folder.join(entry(file, key)));
    if let Some(code) = path.as_deref().and_then(read) {
        return Ok(code);
    }
    let code = compile()?;
    if let Some(path) = &path {
        // Without it the next start takes longer.
        let _ = write(path, &code);
    }
    Ok(code)
}

/// Forgets an entry that the driver refused.
pub(super) fn forget(folder: Option<&Path>, file: &File, key: &Key<'_>) {
    if let Some(folder) = folder {
        let _ = fs::remove_file(folder.join(entry(file, key)));
    }
}

fn header(code: &[u8]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..16].copy_from_slice(&(code.len() as u64).to_le_bytes());
    header[16..].copy_from_slice(&crc32(&[code]).to_le_bytes());
    header
}

/// The code of an entry; `None` when there is none, or it isn't whole.
fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = fs::read(path).ok()?;
    let code = bytes.split_off_checked(HEADER_BYTES)?;
    (bytes == header(&code)).then_some(code)
}

/// Writes an entry beside its place, then moves it there: nobody reads half of one.
fn write(path: &Path, code: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let beside = path.with_extension(format!("{}.new", std::process::id()));
    let written = fs::write(&beside, [&header(code), code].concat());
    written.and_then(|()| fs::rename(&beside, path)).inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

/// `Vec::split_off` that doesn't panic.
trait SplitOff: Sized {
    fn split_off_checked(&mut self, at: usize) -> Option<Self>;
}

impl SplitOff for Vec<u8> {
    fn split_off_checked(&mut self, at: usize) -> Option<Vec<u8>> {
        (at <= self.len()).then(|| self.split_off(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    static SOURCE: File = File { name: "one.cu", source: "// one" };
    static OTHER: File = File { name: "one.cu", source: "// two" };

    #[test]
    fn entries_are_compiled_once_and_again_when_damaged() {
        let folder = std::env::temp_dir().join(format!("whit-cuda-cache-{}", std::process::id()));
        let options = ["--gpu-architecture=sm_90".to_owned()];
        let other_options = ["--gpu-architecture=sm_80".to_owned()];
        let key = Key { options: &options, compiler: [13, 0], driver: 13000 };
        let compiled = Cell::new(0);
        let get = |file: &File, key: &Key<'_>| {
            cached::<()>(Some(&folder), file, key, || {
                compiled.set(compiled.get() + 1);
                Ok(format!("code of {}", file.source).into_bytes())
            })
        };
        for _ in 0..2 {
            assert_eq!(get(&SOURCE, &key), Ok(b"code of // one".to_vec()));
            assert_eq!(compiled.get(), 1);
        }
        // Another source, architecture, compiler or driver is another entry.
        get(&OTHER, &key).unwrap();
        get(&SOURCE, &Key { options: &other_options, ..key }).unwrap();
        get(&SOURCE, &Key { options: &options, compiler: [13, 1], ..key }).unwrap();
        get(&SOURCE, &Key { options: &options, driver: 12090, ..key }).unwrap();
        assert_eq!(compiled.get(), 5);

        let path = folder.join(entry(&SOURCE, &key));
        let whole = fs::read(&path).unwrap();
        let flipped = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes
        };
        let damaged = [
            vec![],
            whole[..10].to_vec(),
            whole[..whole.len() - 1].to_vec(),
            flipped(0),
            flipped(9),
            flipped(30),
        ];
        for (index, bytes) in damaged.iter().enumerate() {
            fs::write(&path, bytes).unwrap();
            assert_eq!(get(&SOURCE, &key), Ok(b"code of // one".to_vec()));
            assert_eq!((compiled.get(), fs::read(&path).unwrap()), (6 + index, whole.clone()));
        }
        forget(Some(&folder), &SOURCE, &key);
        assert!(!path.exists());
        fs::remove_dir_all(&folder).unwrap();
        // A folder that can't be made, and a compiler that fails.
        let nowhere = Path::new("/dev/null/nowhere");
        assert_eq!(cached::<()>(Some(nowhere), &SOURCE, &key, || Ok(vec![1])), Ok(vec![1]));
        assert_eq!(cached(Some(&folder), &SOURCE, &key, || Err("no")), Err("no"));
        assert!(!folder.exists());
    }
}
