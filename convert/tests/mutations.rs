//! Damaged files: whatever the bytes, opening, preparing and running a `.whit` file, and importing
//! and converting an ONNX or TFLite file, end in a value or an error, in bounded time, and never in a panic.
//!
//! Every case follows from its number. `WHIT_MUTATION_CASE=123 cargo test -p whit-convert --test
//! mutations` runs that one alone and prints the panic; `WHIT_MUTATIONS=N` runs N cases of each kind.

mod common;
#[path = "../src/import/tflite/tests/builder.rs"]
#[allow(dead_code, reason = "the importer's own tests use all of it")]
mod tflite;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use whit::format::{
    DimRecord, Field, FileBuilder, HEADER_BYTES, Header, NO_OPERAND, Section, SectionEntry,
    StepRecord, Storage, TensorRecord,
};
use whit::{DType, Isa, Model, ModelFile, Options, Session, SessionError, StepErrorKind};
use whit_convert::evaluate::{AlignedBytes, EvaluateError};
use whit_convert::graph::Graph;
use whit_convert::import::ImportOptions;
use whit_convert::import::onnx::import_onnx;
use whit_convert::import::onnx::proto::{ModelProto, data_type};
use whit_convert::import::tflite::import_tflite;
use whit_convert::pipeline::{ConvertError, ConvertOptions, convert};
use whit_convert::quantize::numbers::Numbers;

use common::{Random, RandomSamples};

/// Mutations of `.whit` files.
const WHIT_CASES: u64 = 100_000;
/// Mutations of ONNX files.
const ONNX_CASES: u64 = 20_000;
/// Damaged files that are also written to disk and mapped.
const COPIED_CASES: u64 = 4_000;
/// Mutations of TFLite files.
const TFLITE_CASES: u64 = 20_000;
/// A file that asks for more is refused here, as a careful caller would: the header says how much.
const MAX_MEMORY_BYTES: u64 = 1 << 20;
/// The models take microseconds; a case that takes this long runs away.
const MAX_SECONDS: u64 = 10;

thread_local! {
    /// Whether panics on this thread are expected and kept for the report.
    static CATCHING: Cell<bool> = const { Cell::new(false) };
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs cases, catches panics, and ends the process when one runs away.
struct Harness {
    kind: &'static str,
    current: Arc<AtomicU64>,
    /// Panics by message and place, with the first case and how many.
    panics: BTreeMap<String, (u64, u64)>,
    slowest: (Duration, u64),
}

impl Harness {
    fn new(kind: &'static str) -> Harness {
        static HOOK: std::sync::Once = std::sync::Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                if CATCHING.get() {
                    LAST_PANIC
                        .with(|last| *last.borrow_mut() = info.to_string().replace('\n', " "));
                } else {
                    before(info);
                }
            }));
        });
        let current = Arc::new(AtomicU64::new(0));
        let watched = Arc::clone(&current);
        std::thread::spawn(move || {
            let (mut seen, mut since) = (0, Instant::now());
            // The harness drops its half when it is done.
            while Arc::strong_count(&watched) > 1 {
                std::thread::sleep(Duration::from_millis(200));
                let now = watched.load(Relaxed);
                if now != seen {
                    (seen, since) = (now, Instant::now());
                } else if seen > 0 && since.elapsed().as_secs() >= MAX_SECONDS {
                    eprintln!("{kind} case {} takes more than {MAX_SECONDS} s", seen - 1);
                    std::process::abort();
                }
            }
        });
        Harness { kind, current, panics: BTreeMap::new(), slowest: (Duration::ZERO, 0) }
    }

    /// Runs `work` for each case; its result counts outcomes by name.
    fn run(mut self, cases: u64, mut work: impl FnMut(u64) -> &'static str) {
        let one: Option<u64> =
            std::env::var("WHIT_MUTATION_CASE").ok().and_then(|text| text.parse().ok());
        let cases = std::env::var("WHIT_MUTATIONS")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(cases);
        let mut outcomes: BTreeMap<&'static str, u64> = BTreeMap::new();
        let begin = Instant::now();
        for case in one.map_or(0..cases, |case| case..case + 1) {
            self.current.store(case + 1, Relaxed);
            let start = Instant::now();
            CATCHING.set(one.is_none());
            let result = catch_unwind(AssertUnwindSafe(|| work(case)));
            CATCHING.set(false);
            self.slowest = self.slowest.max((start.elapsed(), case));
            match result {
                Ok(outcome) => *outcomes.entry(outcome).or_default() += 1,
                Err(_) => {
                    // The place and the first words: tell one defect once.
                    let message: String =
                        LAST_PANIC.with(|last| last.take()).chars().take(120).collect();
                    self.panics.entry(message).or_insert((case, 0)).1 += 1;
                }
            }
        }
        let (slowest, slowest_case) = self.slowest;
        println!(
            "{}: {outcomes:?}, slowest {slowest:?} (case {slowest_case}), all {:?}",
            self.kind,
            begin.elapsed()
        );
        let lines: Vec<String> = self
            .panics
            .iter()
            .map(|(message, (case, count))| {
                format!("case {case} and {} more: {message}", count - 1)
            })
            .collect();
        assert!(lines.is_empty(), "{} panics:\n{}", self.kind, lines.join("\n"));
        assert!(
            one.is_some() || outcomes.len() > 1,
            "every case ended the same way: the test tests nothing"
        );
    }
}

/// Values that bounds checks forget.
const EXTREMES: [u64; 20] = [
    0,
    1,
    2,
    3,
    0x7f,
    0x80,
    0xff,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fff0,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
    0x7fc0_0000, // f32 NaN
    0x7f80_0000, // infinity
    0xff80_0000, // -infinity
    0x0000_0001_0000_0000,
];

/// Damages bytes within a range without knowing what they mean.
fn damage(random: &mut Random, bytes: &mut [u8], zone: Range<usize>) {
    let at = zone.start + random.below(zone.len());
    match random.below(10) {
        0..=2 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        3 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.next() as u8;
            }
        }
        4..=6 => overwrite(random, bytes, at & !3, 4),
        7 => overwrite(random, bytes, at & !7, 8),
        8 => {
            // Two words change places.
            let other = zone.start + random.below(zone.len());
            for byte in 0..4 {
                let (a, b) = ((at & !3) + byte, (other & !3) + byte);
                if a.max(b) < bytes.len() {
                    bytes.swap(a, b);
                }
            }
        }
        _ => {
            // A piece from elsewhere.
            let len = random.below(64).min(bytes.len() - at.min(bytes.len()));
            let from = random.below(bytes.len() - len + 1);
            let piece = bytes[from..from + len].to_vec();
            bytes[at..at + len].copy_from_slice(&piece);
        }
    }
}

/// Writes an extreme or a neighbouring value over a number.
fn overwrite(random: &mut Random, bytes: &mut [u8], at: usize, len: usize) {
    let Some(field) = bytes.get_mut(at..at + len) else { return };
    let mut value = [0; 8];
    value[..len].copy_from_slice(field);
    let before = u64::from_le_bytes(value);
    let after = match random.below(8) {
        0 => before.wrapping_add(1),
        1 => before.wrapping_sub(1),
        2 => before.wrapping_mul(2),
        3 => random.below(70) as u64,
        4 => u64::from(random.real().to_bits()),
        _ => random.pick(&EXTREMES),
    };
    field.copy_from_slice(&after.to_le_bytes()[..len]);
}

/// The places of a file: header, directory, sections.
fn zones(file: &[u8]) -> Vec<(Option<Section>, Range<usize>)> {
    let header = Header::read(file);
    let directory_end = HEADER_BYTES + header.section_count as usize * SectionEntry::SIZE;
    let mut zones = vec![(None, 0..HEADER_BYTES), (None, HEADER_BYTES..directory_end)];
    for index in 0..header.section_count as usize {
        let entry = SectionEntry::read(&file[HEADER_BYTES + index * SectionEntry::SIZE..]);
        let start = entry.offset as usize;
        zones.push((Section::from_number(entry.kind), start..start + entry.bytes as usize));
    }
    zones
}

/// How often a section is hit: records that steer the runtime more often than text.
fn weight_of(section: Option<Section>) -> usize {
    match section {
        Some(Section::Tensors | Section::Attributes) => 6,
        Some(Section::Steps) => 4,
        Some(Section::Operands | Section::Dims | Section::Symbols) => 3,
        None | Some(Section::Interface | Section::Constants | Section::State) => 2,
        Some(_) => 1,
    }
}

/// A range of the file, by weight.
fn pick_zone(
    random: &mut Random,
    zones: &[(Option<Section>, Range<usize>)],
) -> (Option<Section>, Range<usize>) {
    let total = zones.iter().map(|(section, _)| weight_of(*section)).sum();
    let mut ticket = random.below(total);
    for (section, range) in zones {
        let weight = weight_of(*section);
        if ticket < weight {
            return (*section, range.clone());
        }
        ticket -= weight;
    }
    zones[0].clone()
}

fn zone_of(zones: &[(Option<Section>, Range<usize>)], section: Section) -> Range<usize> {
    zones.iter().find(|(found, _)| *found == Some(section)).map_or(0..0, |(_, range)| range.clone())
}

/// Sizes that kernels treat differently, and extremes.
const SIZES: [i32; 22] =
    [0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 65_536, i32::MAX, -1];

/// Changes a record in a way that the checks at open don't see, so that the operators' own checks
/// are reached: small wrong numbers rather than nonsense.
fn mislead(random: &mut Random, bytes: &mut [u8], zones: &[(Option<Section>, Range<usize>)]) {
    let record = |random: &mut Random, zone: &Range<usize>, size: usize| {
        zone.start + random.below(zone.len() / size) * size
    };
    match random.below(12) {
        0..=4 => {
            let zone = zone_of(zones, Section::Tensors);
            let (at, other) = (
                record(random, &zone, TensorRecord::SIZE),
                record(random, &zone, TensorRecord::SIZE),
            );
            let (mut tensor, other) =
                (TensorRecord::read(&bytes[at..]), TensorRecord::read(&bytes[other..]));
            match random.below(10) {
                0..=2 => tensor.dims[random.below(usize::from(tensor.rank))] = random.pick(&SIZES),
                3 => {
                    // An empty axis and huge ones beside it.
                    tensor.rank = 1 + random.below(8) as u8;
                    tensor.dims = [i32::MAX; 8];
                    tensor.dims[random.below(usize::from(tensor.rank))] = 0;
                }
                4 => (tensor.dims, tensor.rank) = (other.dims, other.rank),
                5 => tensor.offset = other.offset + random.pick(&[0, 0, 4, 8, 64]),
                6 => tensor.storage = 1 + random.below(3) as u8,
                7 => tensor.dtype = random.below(12) as u8,
                8 => {
                    tensor.layout = random.pick(&[4, 5, tensor.layout, other.layout]);
                    tensor.group_size = random.pick(&[0, 1, 32, 64, 128, 256, u32::MAX]);
                }
                _ => {
                    tensor.scale = random.pick(&[0.0, 1e-45, 1e38, f32::MAX, other.scale]);
                    tensor.zero_point = random.pick(&[0, -128, 127, other.zero_point]);
                }
            }
            tensor.write(&mut bytes[at..]);
        }
        5..=7 => {
            let zone = zone_of(zones, Section::Attributes);
            let at = zone.start + random.below(zone.len());
            if random.below(2) == 0 {
                let value = random.pick(&[0u16, 1, 2, 3, 4, 5, 9, 255, 65_535]);
                if let Some(field) = bytes.get_mut((at & !1)..(at & !1) + 2) {
                    field.copy_from_slice(&value.to_le_bytes());
                }
            } else {
                overwrite(random, bytes, at & !3, 4);
            }
        }
        8 => {
            let zone = zone_of(zones, Section::Steps);
            let at = record(random, &zone, StepRecord::SIZE);
            let other = record(random, &zone, StepRecord::SIZE);
            let (mut step, other) =
                (StepRecord::read(&bytes[at..]), StepRecord::read(&bytes[other..]));
            match random.below(6) {
                0 => step.op = 1 + random.below(24) as u16,
                1 => step.variant = random.below(10) as u8,
                2 => step.input_count = random.below(8) as u16,
                3 => step.output_count = random.below(3) as u16,
                4 => {
                    (step.attributes_offset, step.attributes_bytes) =
                        (other.attributes_offset, other.attributes_bytes)
                }
                _ => step.operands_start = other.operands_start,
            }
            step.write(&mut bytes[at..]);
        }
        9..=10 => {
            let section = random.pick(&[Section::Operands, Section::Operands, Section::Interface]);
            let zone = zone_of(zones, section);
            let at = record(random, &zone, u32::SIZE);
            let tensors = zone_of(zones, Section::Tensors).len() / TensorRecord::SIZE;
            let value =
                if random.below(6) == 0 { NO_OPERAND } else { random.below(tensors) as u32 };
            value.write(&mut bytes[at..]);
        }
        _ => {
            let zone = zone_of(zones, Section::Dims);
            if zone.is_empty() {
                return;
            }
            let at = record(random, &zone, DimRecord::SIZE);
            let mut dim = DimRecord::read(&bytes[at..]);
            match random.below(3) {
                0 => dim.op = 1 + random.below(6) as u32,
                1 => dim.a = random.below(12) as i32 - 4,
                _ => dim.b = random.below(12) as i32 - 4,
            }
            dim.write(&mut bytes[at..]);
        }
    }
}

/// Makes lengths and totals agree with the records again, as a careful attacker would.
fn repair(bytes: &mut [u8], zones: &[(Option<Section>, Range<usize>)]) {
    let aligned = AlignedBytes::new(bytes);
    let mut header = Header::read(bytes);
    // Bounds of dimensions come from a model that opens; before the damage it did.
    let symbols = zone_of(zones, Section::Symbols);
    let mut dims: Vec<u64> =
        bytes[symbols].chunks_exact(16).map(|symbol| u64::from(u32::read(&symbol[12..]))).collect();
    for record in aligned.as_slice()[zone_of(zones, Section::Dims)].chunks_exact(DimRecord::SIZE) {
        let dim = DimRecord::read(record);
        let of = |reference: i32| {
            let value = if reference >= 0 {
                Some(reference as u64)
            } else {
                dims.get(!reference as usize).copied()
            };
            value.and_then(|value| u32::try_from(value).ok())
        };
        let apply = whit::format::DimOp::from_number(dim.op).zip(of(dim.a).zip(of(dim.b)));
        dims.push(apply.and_then(|(op, (a, b))| op.apply(a, b)).map_or(0, u64::from));
    }
    let (mut arena, mut state) = (0u64, 0u64);
    let tensors = zone_of(zones, Section::Tensors);
    for at in tensors.step_by(TensorRecord::SIZE) {
        let mut tensor = TensorRecord::read(&bytes[at..]);
        let Some(dtype) = DType::from_number(tensor.dtype) else { continue };
        if tensor.layout == 0 {
            let rank = usize::from(tensor.rank).min(8);
            let size = |reference: &i32| {
                if *reference >= 0 {
                    *reference as u64
                } else {
                    dims.get(!*reference as usize).copied().unwrap_or(0)
                }
            };
            tensor.bytes = tensor.dims[..rank]
                .iter()
                .fold(dtype.size() as u64, |n, dim| n.saturating_mul(size(dim)));
            tensor.write(&mut bytes[at..]);
        }
        let end = tensor.offset.saturating_add(tensor.bytes);
        match Storage::from_number(tensor.storage) {
            Some(Storage::Arena) => arena = arena.max(end),
            Some(Storage::State) => state = state.max(end),
            _ => {}
        }
    }
    (header.arena_bytes, header.state_bytes) = (arena, state);
    header.op_set = [0; 2];
    header.macs = 0;
    for at in zone_of(zones, Section::Steps).step_by(StepRecord::SIZE) {
        let step = StepRecord::read(&bytes[at..]);
        if step.op < 128 {
            header.op_set[usize::from(step.op / 64)] |= 1 << (step.op % 64);
        }
        header.macs = header.macs.wrapping_add(step.macs);
    }
    header.write(bytes);
}

/// Opens, prepares and runs a file on every instruction set; how far it came.
fn exercise(bytes: &[u8], random: &mut Random) -> &'static str {
    let aligned = AlignedBytes::new(bytes);
    let Ok(model) = Model::open(aligned.as_slice()) else { return "refused at open" };
    let header = *model.header();
    let memory = header.arena_bytes.saturating_add(header.state_bytes);
    let (mut ran, mut failed) = (false, false);
    for isa in Isa::available() {
        let options = Options { isa: Some(isa), ..Options::default() };
        let needed = match Session::memory_bytes(&model, &options) {
            Ok(needed) => needed as u64,
            Err(_) => return "refused at prepare",
        };
        if memory > MAX_MEMORY_BYTES || needed > 2 * MAX_MEMORY_BYTES {
            return "refused by the caller: too large";
        }
        let Ok(mut session) = Session::new(model, options) else { return "refused at prepare" };
        for _ in 0..2 {
            for symbol in model.symbols() {
                let span = (symbol.max - symbol.min) as usize + 1;
                let value = symbol.min + random.below(span) as u32;
                let _ = session.set_dimension(model.text(symbol.name), value);
            }
            if common::fill_inputs(&mut session, random).is_err() {
                continue;
            }
            match session.run() {
                Ok(()) => ran = true,
                Err(SessionError::Step { kind: StepErrorKind::IndexOutOfRange, .. }) => {
                    failed = true
                }
                Err(error) => panic!("preparing should have refused this: {error}"),
            }
            for output in 0..model.outputs().len() {
                let _ = session.output_bytes(output);
            }
        }
        session.reset_state();
    }
    // What tools ask of a file.
    let _ = model.verify_checksums();
    let _ = model.metadata().count();
    for tensor in model.tensors() {
        let _ = (
            model.text(tensor.name),
            model.constant(&tensor),
            tensor.dims.map(|dim| model.dim_bounds(dim)),
        );
    }
    for golden in model.golden() {
        let _ = model.golden_bytes(&golden);
    }
    match (ran, failed) {
        (_, true) => "run error",
        (true, false) => "run ok",
        (false, false) => "inputs refused",
    }
}

/// Every small model in all numbers that it has.
fn whit_files() -> Vec<Vec<u8>> {
    let mut files = vec![common::with_state()];
    let more = [common::with_memory(), common::with_groups()].concat();
    files.extend(more.into_iter().map(|(_, file)| file));
    for source in common::sources() {
        let all: &[Numbers] = match source.name {
            "qdq" => &[Numbers::Float],
            "integers" => &[Numbers::Float, Numbers::F16],
            _ => &[Numbers::Float, Numbers::F16, Numbers::Bf16, Numbers::Int8],
        };
        files.extend(all.iter().map(|numbers| source.convert(*numbers)));
    }
    // Layers and means in TFLite's fixed point.
    let bytes = Bytes::from(tflite_files()[1].to_bytes());
    let graph = import_tflite(bytes, &ImportOptions::default()).expect("imports");
    let options =
        ConvertOptions { golden_cases: 0, exact_tflite: true, ..ConvertOptions::default() };
    files.push(convert(graph, None, &options, &mut ()).expect("converts").file);
    files
}

/// Packed weights hold fewer bytes than their shape may say: only the operand that is unpacked may
/// refer to them.
#[test]
fn packed_constants_are_only_weights() {
    let mut refused = 0;
    for file in whit_files() {
        let zones = zones(&file);
        let (tensors, operands) =
            (zone_of(&zones, Section::Tensors), zone_of(&zones, Section::Operands));
        let record = |index: usize| tensors.start + index * TensorRecord::SIZE;
        let packed = (0..tensors.len() / TensorRecord::SIZE)
            .filter(|index| TensorRecord::read(&file[record(*index)..]).layout != 0);
        for packed in packed.collect::<Vec<_>>() {
            for at in zone_of(&zones, Section::Steps).step_by(StepRecord::SIZE) {
                let step = StepRecord::read(&file[at..]);
                // Of layers, and of quantized_lstm.
                let weights = match step.op {
                    1..=3 => 1..2,
                    48 => 1..3,
                    _ => 0..0,
                };
                let others = |input: &usize| !weights.contains(input);
                for input in (0..usize::from(step.input_count)).filter(others) {
                    let operand =
                        operands.start + (step.operands_start as usize + input) * u32::SIZE;
                    let stands = u32::read(&file[operand..]);
                    if stands == NO_OPERAND {
                        continue;
                    }
                    let (like, mut tensor) = (
                        TensorRecord::read(&file[record(stands as usize)..]),
                        TensorRecord::read(&file[record(packed)..]),
                    );
                    if like.dtype != tensor.dtype || like.dims.iter().any(|dim| *dim < 0) {
                        continue;
                    }
                    (tensor.dims, tensor.rank) = (like.dims, like.rank);
                    (tensor.scale, tensor.zero_point) = (like.scale, like.zero_point);
                    let mut bytes = file.clone();
                    tensor.write(&mut bytes[record(packed)..]);
                    (packed as u32).write(&mut bytes[operand..]);
                    FileBuilder::reseal(&mut bytes);
                    let aligned = AlignedBytes::new(&bytes);
                    let model = Model::open(aligned.as_slice()).expect("opens");
                    assert!(
                        Session::new(model, Options::default()).is_err(),
                        "op {} input {input}",
                        step.op
                    );
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 100, "{refused}");
}

/// A file of the list, damaged in the way that number `case` stands for.
fn damaged(
    case: u64,
    files: &[Vec<u8>],
    zones: &[Vec<(Option<Section>, Range<usize>)>],
) -> (Vec<u8>, Random) {
    let mut random = Random::new(case);
    let which = random.below(files.len());
    let (mut bytes, zones) = (files[which].clone(), &zones[which]);
    let style = random.below(8);
    match style {
        // Plain damage, which a checksum may notice.
        0 | 1 => {
            for _ in 0..=random.below(3) {
                let (_, zone) = pick_zone(&mut random, zones);
                damage(&mut random, &mut bytes, zone);
            }
        }
        // Cut, lengthened, or one file's beginning with another's end.
        2 => match random.below(3) {
            0 => bytes.truncate(random.below(bytes.len())),
            1 => bytes.resize(bytes.len() + random.below(200), random.next() as u8),
            _ => {
                let other = &files[random.below(files.len())];
                let at = random.below(bytes.len().min(other.len())) & !63;
                bytes.truncate(at);
                bytes.extend_from_slice(&other[at..]);
            }
        },
        // Damage under valid checksums.
        3 | 4 => {
            for _ in 0..=random.below(3) {
                let (_, zone) = pick_zone(&mut random, zones);
                damage(&mut random, &mut bytes, zone);
            }
        }
        // Wrong records under valid checksums, lengths and totals.
        _ => {
            for _ in 0..=random.below(3) {
                mislead(&mut random, &mut bytes, zones);
            }
            repair(&mut bytes, zones);
        }
    }
    if style >= 3 {
        FileBuilder::reseal(&mut bytes);
    }
    (bytes, random)
}

#[test]
fn damaged_whit_files_never_panic() {
    let files = whit_files();
    for file in &files {
        assert_eq!(exercise(file, &mut Random::new(0)), "run ok");
    }
    let zones: Vec<_> = files.iter().map(|file| zones(file)).collect();
    Harness::new("damaged .whit").run(WHIT_CASES, |case| {
        let (bytes, mut random) = damaged(case, &files, &zones);
        exercise(&bytes, &mut random)
    });
}

/// What comes of preparing a model and running it twice: every output, or the error.
fn outcome(model: Model<'_>, seed: u64) -> Result<Vec<Vec<u8>>, String> {
    let mut random = Random::new(seed);
    let mut session =
        Session::new(model, Options::default()).map_err(|error| format!("prepare: {error}"))?;
    let mut outputs = Vec::new();
    for _ in 0..2 {
        for symbol in model.symbols() {
            let span = (symbol.max - symbol.min) as usize + 1;
            let value = symbol.min + random.below(span) as u32;
            let set = session.set_dimension(model.text(symbol.name), value);
            outputs.push(format!("{set:?}").into_bytes());
        }
        common::fill_inputs(&mut session, &mut random).map_err(|_| "inputs".to_string())?;
        outputs.push(format!("{:?}", session.run()).into_bytes());
        for output in 0..model.outputs().len() {
            outputs.push(session.output_bytes(output).unwrap_or(&[]).to_vec());
        }
    }
    Ok(outputs)
}

/// A session of a mapped file copies its records, any other reads them in place: both do the same,
/// whatever the file says.
#[test]
fn records_in_place_and_copied_run_alike() {
    let files = whit_files();
    let zones: Vec<_> = files.iter().map(|file| zones(file)).collect();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("alike.whit");
    let (mut ran, mut refused) = (0, 0);
    for case in 0..COPIED_CASES {
        let (bytes, _) = match files.get(case as usize) {
            Some(file) => (file.clone(), Random::new(case)),
            None => damaged(case, &files, &zones),
        };
        let aligned = AlignedBytes::new(&bytes);
        let Ok(in_place) = Model::open(aligned.as_slice()) else { continue };
        let memory = in_place.header().arena_bytes.saturating_add(in_place.header().state_bytes);
        if memory > MAX_MEMORY_BYTES {
            continue;
        }
        // A new file each time: the map of the last one must not see it.
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, &bytes).unwrap();
        let mapped = ModelFile::open(&path).unwrap();
        let mapped = mapped.model().expect("opens as the same bytes do");
        assert!(mapped.may_change() && !in_place.may_change());
        let (in_place, mapped) = (outcome(in_place, case), outcome(mapped, case));
        assert!(in_place == mapped, "case {case}: {in_place:?}, mapped {mapped:?}");
        *(if in_place.is_ok() { &mut ran } else { &mut refused }) += 1;
    }
    assert!(ran > 100 && refused > 100, "{ran} ran, {refused} were refused");
}

/// Overwriting the records of a mapped file doesn't change what a session of it does.
#[test]
fn a_mapped_file_edited_later_steers_nothing() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("edited.whit");
    for (number, file) in whit_files().iter().enumerate() {
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, file).unwrap();
        let mapped = ModelFile::open(&path).unwrap();
        let mut session = Session::new(mapped.model().unwrap(), Options::default()).unwrap();
        let mut run = || {
            session.reset_state();
            common::fill_inputs(&mut session, &mut Random::new(3)).expect("inputs are in place");
            let result = session.run();
            (result, session.output_bytes(0).unwrap_or(&[]).to_vec())
        };
        let before = run();
        let mut on_disk = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        for section in [
            Section::Tensors,
            Section::Steps,
            Section::Operands,
            Section::Attributes,
            Section::Dims,
        ] {
            let zone = zone_of(&zones(file), section);
            on_disk.seek(SeekFrom::Start(zone.start as u64)).unwrap();
            on_disk.write_all(&vec![0x5a; zone.len()]).unwrap();
        }
        on_disk.sync_all().unwrap();
        assert!(run() == before, "file {number}");
    }
}

/// Changes a model in a way that is still a model: other numbers, names and operators.
fn mislead_onnx(random: &mut Random, model: &mut ModelProto) {
    const NUMBERS: [i64; 20] = [
        0,
        1,
        2,
        3,
        4,
        7,
        8,
        16,
        64,
        1000,
        -1,
        -2,
        -3,
        1 << 20,
        1 << 31,
        1 << 32,
        1 << 62,
        i64::MAX,
        i64::MIN,
        255,
    ];
    const REALS: [f32; 10] =
        [0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.3];
    const OPERATORS: [&str; 61] = [
        "Add",
        "Mul",
        "Div",
        "Pow",
        "Mod",
        "Relu",
        "Sigmoid",
        "Exp",
        "Not",
        "Conv",
        "Gemm",
        "MatMul",
        "MaxPool",
        "AveragePool",
        "GlobalMaxPool",
        "Softmax",
        "LogSoftmax",
        "Concat",
        "Split",
        "Slice",
        "Reshape",
        "Flatten",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Expand",
        "Gather",
        "Pad",
        "Tile",
        "DepthToSpace",
        "SpaceToDepth",
        "ReduceMean",
        "ReduceProd",
        "ArgMax",
        "Resize",
        "Where",
        "Equal",
        "Shape",
        "Range",
        "Cast",
        "GatherElements",
        "GatherND",
        "ScatterElements",
        "ScatterND",
        "TopK",
        "CumSum",
        "OneHot",
        "Trilu",
        "NonZero",
        "Unique",
        "Hardmax",
        "GridSample",
        "SplitToSequence",
        "ConcatFromSequence",
        "Einsum",
        "Attention",
        "RotaryEmbedding",
        "SwiGLU",
        "LinearAttention",
        "NegativeLogLikelihoodLoss",
        "SoftmaxCrossEntropyLoss",
    ];
    let Some(graph) = model.graph.as_mut() else { return };
    match random.below(10) {
        0..=2 => {
            let at = random.below(graph.node.len());
            let node = &mut graph.node[at];
            if node.attribute.is_empty() {
                return;
            }
            let at = random.below(node.attribute.len());
            let attribute = &mut node.attribute[at];
            if let Some(value) = &mut attribute.i {
                *value = random.pick(&NUMBERS);
            }
            if let Some(value) = &mut attribute.f {
                *value = random.pick(&REALS);
            }
            if !attribute.ints.is_empty() {
                let at = random.below(attribute.ints.len());
                match random.below(5) {
                    0 => drop(attribute.ints.pop()),
                    1 => attribute.ints.push(random.pick(&NUMBERS)),
                    _ => attribute.ints[at] = random.pick(&NUMBERS),
                }
            }
        }
        3 => {
            let at = random.below(graph.node.len());
            graph.node[at].op_type = Some(random.pick(&OPERATORS).to_owned());
        }
        4 | 5 => {
            // Another value as an operand, one operand less, or one more.
            let names: Vec<String> = graph
                .node
                .iter()
                .flat_map(|node| node.output.iter())
                .chain(graph.initializer.iter().filter_map(|tensor| tensor.name.as_ref()))
                .cloned()
                .collect();
            let name = names[random.below(names.len())].clone();
            let at = random.below(graph.node.len());
            let inputs = &mut graph.node[at].input;
            if inputs.is_empty() {
                return;
            }
            let operand = random.below(inputs.len());
            match random.below(6) {
                0 => drop(inputs.pop()),
                1 => inputs.push(name),
                2 => inputs[operand].clear(),
                _ => inputs[operand] = name,
            }
        }
        6 | 7 => {
            let at = random.below(graph.initializer.len());
            let tensor = &mut graph.initializer[at];
            let len = tensor.raw_data.as_ref().map_or(0, |data| data.len());
            match random.below(4) {
                0 if !tensor.dims.is_empty() => {
                    let axis = random.below(tensor.dims.len());
                    tensor.dims[axis] = random.pick(&NUMBERS);
                }
                1 => tensor.data_type = Some(random.below(20) as i32),
                // The same elements in another shape.
                2 => tensor.dims.reverse(),
                _ if len >= 4 => {
                    let mut data =
                        tensor.raw_data.as_ref().map_or(Vec::new(), |data| data.to_vec());
                    let zone = 0..data.len();
                    if tensor.data_type == Some(data_type::FLOAT) {
                        let at = random.below(len / 4) * 4;
                        data[at..at + 4].copy_from_slice(&random.pick(&REALS).to_le_bytes());
                    } else {
                        damage(random, &mut data, zone);
                    }
                    tensor.raw_data = Some(Bytes::from(data));
                }
                _ => {}
            }
        }
        8 => {
            let at = random.below(graph.input.len());
            let shape = graph.input[at].r#type.as_mut().and_then(|t| t.tensor_type.as_mut());
            let Some(tensor) = shape else { return };
            match (&mut tensor.shape, random.below(4)) {
                (_, 0) => tensor.elem_type = Some(random.below(20) as i32),
                (Some(shape), 1) => drop(shape.dim.pop()),
                (Some(shape), _) if !shape.dim.is_empty() => {
                    let axis = random.below(shape.dim.len());
                    shape.dim[axis] = random.pick(&NUMBERS).into();
                }
                _ => {}
            }
        }
        _ => {
            let (a, b) = (random.below(graph.node.len()), random.below(graph.node.len()));
            let attribute = graph.node[b].attribute.clone();
            match random.below(3) {
                0 => drop(graph.node.remove(a)),
                1 => graph.node[a].attribute = attribute,
                _ => {
                    let op = graph.node[b].op_type.clone();
                    graph.node[a].op_type = op;
                }
            }
        }
    }
}

/// Whatever was imported is converted and run, or refused.
fn convert_and_run(graph: Graph, random: &mut Random) -> &'static str {
    // A model that takes gigabytes is valid; it is only not tried here.
    let largest: Vec<i64> = graph.symbols.iter().map(|symbol| symbol.max).collect();
    let elements = graph.values.iter().fold(0i64, |sum, value| {
        let size = value.shape.iter().try_fold(1i64, |n, dim| n.checked_mul(dim.eval(&largest)?));
        sum.saturating_add(size.unwrap_or(i64::MAX))
    });
    if elements as u64 > MAX_MEMORY_BYTES {
        return "refused by the caller: too large";
    }
    let samples = RandomSamples::new(&graph, 1);
    let numbers = random.pick(&[Numbers::Float, Numbers::F16, Numbers::Bf16, Numbers::Int8]);
    let exact_tflite = graph.is_of_tflite() && random.below(4) == 0;
    let options =
        ConvertOptions { numbers, golden_cases: 1, exact_tflite, ..ConvertOptions::default() };
    let converted = match convert(graph, Some(&samples), &options, &mut ()) {
        Ok(converted) => converted,
        // The converter's own word for it is a defect.
        Err(ConvertError::Evaluate(error @ EvaluateError::Invalid(_))) => panic!("{error}"),
        Err(_) => return "refused at conversion",
    };
    match exercise(&converted.file, random) {
        "refused at open" => panic!("the converter made a file that does not open"),
        "refused at prepare" => panic!("the converter made a file that can't be prepared"),
        outcome => outcome,
    }
}

/// Largest resident memory of this process so far, where the system tells.
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[test]
fn damaged_onnx_files_never_panic() {
    let sources: Vec<_> =
        common::sources().into_iter().map(|source| (source.onnx, source.options)).collect();
    Harness::new("damaged ONNX").run(ONNX_CASES, |case| {
        let mut random = Random::new(case);
        let (intact, options) = &sources[random.below(sources.len())];
        let mut bytes = intact.encode_to_vec();
        match random.below(12) {
            0 => bytes.truncate(random.below(bytes.len())),
            1 => drop(bytes.remove(random.below(bytes.len()))),
            // Most damage to bytes is no protobuf any more; most of the cases go further.
            2..=9 => {
                let mut model = intact.clone();
                for _ in 0..=random.below(2) {
                    mislead_onnx(&mut random, &mut model);
                }
                bytes = model.encode_to_vec();
            }
            _ => {
                for _ in 0..=random.below(3) {
                    let zone = 0..bytes.len();
                    damage(&mut random, &mut bytes, zone);
                }
            }
        }
        let options = if random.below(8) == 0 { ImportOptions::default() } else { options.clone() };
        let Ok(graph) = import_onnx(Bytes::from(bytes), None, &options) else {
            return "refused at import";
        };
        convert_and_run(graph, &mut random)
    });
    if let Some(peak) = peak_rss_bytes() {
        println!("peak resident memory {} MiB", peak >> 20);
        // Both tests share the process; the models themselves take kilobytes.
        assert!(peak < 2 << 30, "{} MiB", peak >> 20);
    }
}

/// Small TFLite models: layers on reals and on integers, movement, a list of sizes.
fn tflite_files() -> Vec<tflite::Model> {
    use tflite::{F32, Field, I8, Model, Operator, Tensor};
    // Numbers of the schema's operators and tables of options.
    const OPERATORS: [(i32, u8); 9] =
        [(3, 1), (4, 2), (9, 8), (0, 11), (22, 17), (45, 32), (25, 9), (40, 27), (67, 49)];
    let codes = OPERATORS.iter().map(|(code, _)| (*code, String::new())).collect::<Vec<_>>();
    let window = |extra: Field| {
        vec![(0, Field::Byte(0)), (1, Field::Int(1)), (2, Field::Int(2)), (3, extra)]
    };
    let bytes: Vec<i8> = (0..36).map(|at| (at * 29 % 251) as i8).collect();
    let reals: Vec<f32> = bytes.iter().map(|q| f32::from(*q) / 64.0).collect();
    let operators = vec![
        // y = conv(x), depthwise, transposed, plus itself, reshaped, cut, times a matrix, softmax.
        (0, vec![0, 1, 2], vec![3], window(Field::Byte(1))),
        (1, vec![3, 4], vec![5], window(Field::Int(1))),
        (3, vec![5, 3], vec![6], vec![(0, Field::Byte(3))]),
        (
            8,
            vec![7, 8, 6],
            vec![9],
            vec![(0, Field::Byte(0)), (1, Field::Int(2)), (2, Field::Int(1))],
        ),
        (7, vec![9, 10], vec![11], vec![(0, Field::Byte(1))]),
        (4, vec![11], vec![12], vec![(0, Field::Ints(vec![1, -1]))]),
        (5, vec![12, 13, 14, 15], vec![16], vec![(0, Field::Int(1)), (1, Field::Int(2))]),
        (2, vec![16, 17], vec![18], vec![(2, Field::Byte(1))]),
        (6, vec![18], vec![19], vec![(0, Field::Real(1.0))]),
    ];
    let model = |integer: bool| {
        let act = |name: &str, shape: &[i32]| match integer {
            true => Tensor::new(name, I8, shape).scaled(0.25, 3),
            false => Tensor::new(name, F32, shape),
        };
        let weights = |name: &str, shape: &[i32]| {
            let count = shape.iter().product::<i32>() as usize;
            match integer {
                true => Tensor::i8s(name, shape, &bytes[..count]).scaled(0.02, 0),
                false => Tensor::f32s(name, shape, &reals[..count]),
            }
        };
        let bias = match integer {
            true => Tensor::i32s("b", &[3], &[5, -7, 900]).scaled(0.005, 0),
            false => Tensor::f32s("b", &[3], &[0.5, -0.25, 1.0]),
        };
        let list = |name: &str, values: &[i32]| Tensor::i32s(name, &[values.len() as i32], values);
        let mut model = Model {
            version: 3,
            codes: codes.clone(),
            tensors: vec![
                act("x", &[1, 4, 6, 2]),
                weights("w", &[3, 2, 1, 2]),
                bias,
                act("conv", &[1, 2, 6, 3]),
                weights("d", &[1, 1, 2, 3]),
                act("depthwise", &[1, 1, 6, 3]),
                act("sum", &[1, 2, 6, 3]),
                list("shape", &[1, 2, 12, 2]),
                weights("t", &[2, 1, 2, 3]),
                act("transposed", &[1, 2, 12, 2]),
                list("axes", &[1]),
                act("mean", &[1, 1, 12, 2]),
                act("flat", &[1, 24]),
                list("begin", &[0, 14]),
                list("end", &[1, 12]),
                list("strides", &[1, 2]),
                act("cut", &[1, 5]),
                weights("m", &[4, 5]),
                act("product", &[1, 4]),
                act("y", &[1, 4]),
            ],
            operators: operators
                .iter()
                .map(|(code, inputs, outputs, options)| Operator {
                    code: *code,
                    inputs: inputs.clone(),
                    outputs: outputs.clone(),
                    options_type: OPERATORS[*code as usize].1,
                    options: options.clone(),
                    ..Operator::default()
                })
                .collect(),
            inputs: vec![0],
            outputs: vec![19, 6],
            second: Vec::new(),
        };
        model.tensors[0].signature = vec![-1, 4, 6, 2];
        model
    };
    vec![model(false), model(true)]
}

fn mislead_tflite(random: &mut Random, model: &mut tflite::Model) {
    use tflite::Field;
    const NUMBERS: [i32; 12] = [0, 1, -1, 2, 3, 7, 12, -2, 127, 65536, i32::MAX, i32::MIN];
    const REALS: [f32; 7] = [0.0, -1.0, 1e-30, 1e30, f32::NAN, f32::INFINITY, 0.5];
    let number = random.pick(&NUMBERS);
    let tensors = model.tensors.len();
    let at = random.below(tensors);
    let tensor = &mut model.tensors[at];
    match random.below(10) {
        0 => match random.below(tensor.shape.len() + 1) {
            axis if axis < tensor.shape.len() => tensor.shape[axis] = number,
            _ => tensor.shape.push(number),
        },
        1 => tensor.kind = random.below(21) as i8,
        2 if !tensor.scale.is_empty() => tensor.scale[0] = random.pick(&REALS),
        3 if !tensor.zero_point.is_empty() => tensor.zero_point[0] = i64::from(number),
        4 => {
            tensor.scale.push(0.5);
            tensor.axis = number;
        }
        5 => tensor.data = None,
        6 => {
            if let Some(data) = &mut tensor.data {
                let zone = 0..data.len();
                damage(random, data, zone);
            }
        }
        kind => {
            let at = random.below(model.operators.len());
            let operator = &mut model.operators[at];
            match kind {
                7 => {
                    let at = random.below(operator.inputs.len());
                    operator.inputs[at] = random.below(tensors + 1) as i32 - 1;
                }
                8 => operator.code = random.below(model.codes.len()) as u32,
                _ => {
                    let at = random.below(operator.options.len());
                    operator.options[at].1 = match &operator.options[at].1 {
                        Field::Text(text) => Field::Text(text),
                        Field::Byte(_) => Field::Byte(number as i8),
                        Field::Int(_) => Field::Int(number),
                        Field::Real(_) => Field::Real(random.pick(&REALS)),
                        Field::Ints(values) => {
                            let mut values = values.clone();
                            values.push(number);
                            Field::Ints(values)
                        }
                    };
                }
            }
        }
    }
}

#[test]
fn damaged_tflite_files_never_panic() {
    let sources = tflite_files();
    for source in &sources {
        let bytes = Bytes::from(source.to_bytes());
        let graph = import_tflite(bytes, &ImportOptions::default()).expect("the intact file");
        assert_eq!(convert_and_run(graph, &mut Random::new(0)), "run ok");
    }
    Harness::new("damaged TFLite").run(TFLITE_CASES, |case| {
        let mut random = Random::new(case);
        let mut model = sources[random.below(sources.len())].clone();
        let mut bytes = model.to_bytes();
        match random.below(12) {
            0 => bytes.truncate(random.below(bytes.len())),
            1..=8 => {
                for _ in 0..=random.below(2) {
                    mislead_tflite(&mut random, &mut model);
                }
                bytes = model.to_bytes();
            }
            _ => {
                for _ in 0..=random.below(3) {
                    let zone = 0..bytes.len();
                    damage(&mut random, &mut bytes, zone);
                }
            }
        }
        match import_tflite(Bytes::from(bytes), &ImportOptions::default()) {
            Ok(graph) => convert_and_run(graph, &mut random),
            Err(_) => "refused at import",
        }
    });
}
