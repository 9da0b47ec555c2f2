//! What tests of the built `whit` share: a folder, a command, files of numpy.
#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod alphabet;
pub(crate) mod llama;
pub(crate) mod parrot;
pub(crate) mod table;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A file of the digits example.
pub(crate) fn example(name: &str) -> String {
    [env!("CARGO_MANIFEST_DIR"), "..", "examples", "digits", name]
        .iter()
        .collect::<PathBuf>()
        .display()
        .to_string()
}

/// A folder of a test's own, removed when the test passes.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(test: &str) -> Folder {
        // Test files are processes of their own, of one executable each.
        let path = std::env::temp_dir().join(format!("whit-cli-{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Folder(path)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(&path, bytes).expect("a file");
        path.display().to_string()
    }

    /// All files below, sorted.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() { walk(&path, files) } else { files.push(path) }
            }
        }
        let mut files = Vec::new();
        walk(&self.0, &mut files);
        files.sort();
        files
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// A command whose output doesn't depend on who runs the tests.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_whit"));
    command.args(arguments).env_remove("WHIT_ISA").env_remove("RUST_BACKTRACE");
    command
}

pub(crate) fn whit(arguments: &[&str]) -> Output {
    command(arguments).output().expect("whit starts")
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// Runs it; stdout. Panics when it fails.
#[track_caller]
pub(crate) fn succeed(arguments: &[&str]) -> String {
    let output = whit(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout).to_owned()
}

/// Runs it with `--json`; the one JSON object that it prints.
#[track_caller]
pub(crate) fn json(arguments: &[&str]) -> Value {
    let printed = succeed(&[arguments, &["--json"]].concat());
    let value: Value = serde_json::from_str(&printed)
        .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {printed}"));
    assert!(value.is_object());
    value
}

/// Runs it; it must fail with status 1 and one line that holds every part, and print nothing else
/// but notes.
#[track_caller]
pub(crate) fn fail(arguments: &[&str], parts: &[&str]) {
    let output = whit(arguments);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {err}");
    assert_eq!(out, "", "{arguments:?}");
    let lines: Vec<&str> = err.lines().filter(|line| !line.starts_with("note: ")).collect();
    let [line] = lines[..] else { panic!("{arguments:?}: not one line: {err}") };
    assert!(line.starts_with("error: "), "{line}");
    for part in parts {
        assert!(line.contains(part), "{arguments:?}: `{part}` is not in: {line}");
    }
    assert!(!err.contains("panicked") && !err.contains("RUST_BACKTRACE"), "{err}");
}

/// Runs it; it must fail with status 2, which is wrong usage, and say every part.
#[track_caller]
pub(crate) fn usage(arguments: &[&str], parts: &[&str]) {
    let output = whit(arguments);
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {err}");
    for part in parts {
        assert!(err.contains(part), "{arguments:?}: `{part}` is not in: {err}");
    }
}

/// The bytes of an .npy file, version 1.0, C order.
pub(crate) fn npy(descr: &str, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let sizes: String = shape.iter().map(|size| format!("{size},")).collect();
    let mut header =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({sizes}), }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

pub(crate) fn npy_f32(shape: &[usize], values: &[f32]) -> Vec<u8> {
    npy("<f4", shape, &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
}

pub(crate) fn npy_i64(shape: &[usize], values: &[i64]) -> Vec<u8> {
    npy("<i8", shape, &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
}
