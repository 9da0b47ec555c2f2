//! What `.ci/instructions` counts, and how it compares the counts with those that the repository records.
//!
//! ```text
//! instructions run [MODEL.whit]...           calls every case twice; callgrind counts the second time
//! instructions compare RECORD OUT CASES      compares callgrind's files OUT.1, OUT.2, … of the cases that `run` printed
//! instructions write RECORD OUT CASES        records them
//! ```

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use whit::{Isa, ModelFile, Options, Session};
use whit_benches::calls::Call;

mod record;

use record::{Count, Record};

/// Calls that are counted: a few per family, fast enough for an emulator.
const CASES: [&str; 31] = [
    "conv_i8/kws/pointwise 64-64",
    "conv_i8/ic/3x3 64-64",
    "conv_i8/vww/first 3x3 s2 3-8",
    "conv_i8/ad/640-128",
    "depthwise_i8/kws/3x3 64",
    "depthwise_i8/vww/3x3 s2 16",
    "attention_i8 products/minilm keys 128x32x128",
    "attention_i8 weights/minilm 128x128",
    "conv_i16/ad/640-128",
    "depthwise_i16/kws/3x3 64",
    "conv_f32/kws/pointwise 64-64",
    "conv_f32/ic/3x3 64-64",
    "conv_f32/ad/640-128",
    "conv_f32 f16/ad/640-128",
    "conv_f32 bf16/kws/pointwise 64-64",
    "conv_f32 bf16/ad/640-128",
    "depthwise_f32/kws/3x3 64",
    "matmul_f32/minilm/128x32x128 abT",
    "matmul_f32/decoder/1x128x64 ab",
    "elementary/gelu minilm 16x1536",
    "elementary/sigmoid silero-vad 512",
    "softmax_f32/resnet50 1000",
    "softmax_i8/kws 12",
    "add_i8/ic 8x8x64",
    "binary_i8 mul/ppocr 80x80x96",
    "lut_i8/ppocr 80x80x96",
    "binary_f32/mul efficientnet 14x14x480",
    "normalize_f32/minilm 128x384",
    "pool average_f32/ic 8x8 64",
    "pool average_stored_i8/ic 8x8 64",
    "pool max_i8/vww 3x3 256",
];

/// What callgrind emulates of x86-64, and what everything runs.
const ISAS: [Isa; 2] = [Isa::Scalar, Isa::Avx2];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["run", ref models @ ..] => run(models),
        ["compare", record, out, cases] => compare(record, out, cases),
        ["write", record, out, cases] => write(record, out, cases),
        _ => Err("instructions run [MODEL]... | compare RECORD OUT CASES | write RECORD OUT CASES"
            .into()),
    };
    match result {
        Ok(status) => status,
        Err(message) => {
            eprintln!("instructions: {message}");
            ExitCode::from(2)
        }
    }
}

/// Callgrind counts while this runs, and writes a file when it returns.
#[inline(never)]
fn counted(call: &mut dyn FnMut()) {
    call();
}

/// The first call finds out what the CPU can do, the second is like all that follow.
fn count(isa: Isa, name: &str, call: &mut dyn FnMut()) {
    call();
    counted(call);
    println!("{isa} {name}");
}

fn run(models: &[&str]) -> Result<ExitCode, String> {
    let calls = Call::all();
    let find = |name: &str| {
        calls.iter().find(|call| call.name() == name).ok_or(format!("no call is named {name}"))
    };
    for isa in ISAS.into_iter().filter(|isa| isa.is_available()) {
        for name in CASES {
            count(isa, name, &mut *(find(name)?.prepare)(isa));
        }
        for path in models.iter().map(Path::new) {
            let fail = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
            let file = ModelFile::open(path).map_err(|error| fail(&error))?;
            let model = file.model().map_err(|error| fail(&error))?;
            let options = Options { isa: Some(isa), ..Options::default() };
            let mut session = Session::new(model, options).map_err(|error| fail(&error))?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let mut failed = None;
            count(isa, &format!("run/{name}"), &mut || failed = session.run().err());
            failed.map_or(Ok(()), |error| Err(fail(&error)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The counts that callgrind left, one file per case.
fn measured(out: &str, cases: &str) -> Result<Record, String> {
    let mut counts = vec![];
    for (at, line) in read(Path::new(cases))?.lines().enumerate() {
        let (isa, name) = line.split_once(' ').ok_or(format!("{cases}: {line}"))?;
        let path = PathBuf::from(format!("{out}.{}", at + 1));
        let instructions = record::total(&read(&path)?)
            .ok_or(format!("{}: callgrind counted nothing", path.display()))?;
        counts.push(Count { isa: isa.to_owned(), name: name.to_owned(), instructions });
    }
    Ok(Record { compiler: compiler(), counts })
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// As `rustc --version` says; the script knows which one built this.
fn compiler() -> String {
    std::env::var("WHIT_RUSTC_VERSION").unwrap_or_default()
}

fn compare(record: &str, out: &str, cases: &str) -> Result<ExitCode, String> {
    let recorded =
        Record::parse(&read(Path::new(record))?).map_err(|error| format!("{record}: {error}"))?;
    let (text, passed) = recorded.compare(&measured(out, cases)?);
    print!("{text}");
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write(record: &str, out: &str, cases: &str) -> Result<ExitCode, String> {
    let text = measured(out, cases)?.to_string();
    std::fs::write(record, text).map_err(|error| format!("{record}: {error}"))?;
    println!("recorded in {record}");
    Ok(ExitCode::SUCCESS)
}
