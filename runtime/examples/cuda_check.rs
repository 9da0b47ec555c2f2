//! Runs models on a CUDA device beside the CPU and measures both: one JSON object a line for each model and size.
//!
//! ```text
//! cargo run --release -p whit --features cuda --example cuda_check -- SECONDS MODEL.whit...
//! ```
//!
//! Symbolic dimensions are run at their smallest and at their largest. Integer outputs have to be equal; of float ones the largest
//! difference over the largest magnitude is told. Exit status 1 when an integer output differs, or a model doesn't run.

use std::process::ExitCode;
use std::time::Instant;

use whit::cuda::{Device, Options};
use whit::{DType, ModelFile, Prepared, SessionError};

type Failure = Box<dyn std::error::Error>;

/// Bytes that any model takes: any i8, small reals, positions in order, 0 or 1 for other integers.
fn fill(session: &mut dyn Prepared<'_>) -> Result<(), SessionError> {
    let model = *session.model();
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for (index, tensor) in model.inputs().enumerate() {
        let slot = session.input_slot(index)?;
        let name = model.tensor(tensor).map_or("", |record| model.text(record.name));
        let mut bytes = Vec::with_capacity(slot.bytes());
        for element in 0..slot.elements() {
            match slot.dtype() {
                DType::F32 => {
                    bytes.extend(((next() % 2001) as f32 / 1000.0 - 1.0).to_le_bytes());
                }
                DType::I8 => bytes.push(next() as u8),
                dtype => {
                    let value = if name == "positions" { element as u64 } else { next() % 2 };
                    let value = if name == "rows" { 0 } else { value };
                    bytes.extend_from_slice(&value.to_le_bytes()[..dtype.size()]);
                }
            }
        }
        session.set_input_bytes(index, &bytes)?;
    }
    Ok(())
}

/// Median time of a run in microseconds.
fn measure(session: &mut dyn Prepared<'_>, seconds: f64) -> Result<f64, SessionError> {
    fill(session)?;
    session.run()?;
    let (mut times, begin) = (Vec::new(), Instant::now());
    while begin.elapsed().as_secs_f64() < seconds || times.len() < 3 {
        fill_again(session)?;
        let start = Instant::now();
        session.run()?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// A run of the CPU may write over its inputs.
fn fill_again(session: &mut dyn Prepared<'_>) -> Result<(), SessionError> {
    let inputs = session.model().inputs().enumerate();
    let is_index = |index: usize| {
        session.input_slot(index).is_ok_and(|s| matches!(s.dtype(), DType::I32 | DType::I64))
    };
    match inputs.map(|(index, _)| index).any(is_index) {
        true => fill(session),
        false => Ok(()),
    }
}

/// Elements of integer outputs that differ, and the largest difference of float ones over the largest magnitude.
fn compare(cuda: &dyn Prepared<'_>, cpu: &dyn Prepared<'_>) -> Result<(usize, f32), SessionError> {
    let (mut differing, mut error) = (0, 0f32);
    for output in 0..cpu.model().outputs().len() {
        let slot = cpu.output_slot(output)?;
        let (got, want) = (cuda.output_bytes(output)?, cpu.output_bytes(output)?);
        if slot.dtype() != DType::F32 {
            let size = slot.dtype().size();
            differing += got.chunks(size).zip(want.chunks(size)).filter(|(a, b)| a != b).count();
            continue;
        }
        let real = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let pairs = || got.chunks_exact(4).map(real).zip(want.chunks_exact(4).map(real));
        let largest = pairs().fold(f32::MIN_POSITIVE, |most, (_, w)| most.max(w.abs()));
        error = pairs().fold(error, |most, (g, w)| most.max((g - w).abs() / largest));
    }
    Ok((differing, error))
}

/// Checks a model at the smallest or the largest values of its symbols; whether all is well.
fn check(path: &str, device: &Device, smallest: bool, seconds: f64) -> Result<bool, Failure> {
    let file = ModelFile::open(path)?;
    let model = file.model()?;
    let mut cpu = whit::Session::new(model, whit::Options::default())?;
    let start = Instant::now();
    let mut graphs = whit::cuda::Session::new(model, device, Options::default())?;
    let prepare_ms = start.elapsed().as_secs_f64() * 1e3;
    let each = Options { graphs: false, ..Options::default() };
    let mut launches = whit::cuda::Session::new(model, device, each)?;
    for symbol in model.symbols().filter(|_| smallest) {
        for session in [&mut cpu as &mut dyn Prepared<'_>, &mut graphs, &mut launches] {
            session.set_dimension(model.text(symbol.name), symbol.min.max(1))?;
        }
    }
    for session in [&mut cpu as &mut dyn Prepared<'_>, &mut graphs] {
        fill(session)?;
        session.run()?;
    }
    let (differing, error) = compare(&graphs, &cpu)?;
    let launched = graphs.launches()?;
    let [cpu_us, graph_us, launches_us] = [
        measure(&mut cpu, seconds)?,
        measure(&mut graphs, seconds)?,
        measure(&mut launches, seconds)?,
    ];
    let header = model.header();
    println!(
        "{{\"model\": {path:?}, \"sizes\": {:?}, \"differing_integers\": {differing}, \"float_error\": {error:e}, \
         \"launches\": {launched}, \"prepare_ms\": {prepare_ms:.3}, \"cpu_us\": {cpu_us:.2}, \"graph_us\": {graph_us:.2}, \
         \"launch_each_us\": {launches_us:.2}, \"device_bytes\": {}, \"weight_gb_per_s\": {:.2}}}",
        if smallest { "smallest" } else { "largest" },
        graphs.device_bytes(),
        header.weight_bytes as f64 / graph_us / 1e3,
    );
    Ok(differing == 0)
}

fn main() -> Result<ExitCode, Failure> {
    let mut arguments = std::env::args().skip(1);
    let seconds: f64 = arguments.next().ok_or("SECONDS MODEL.whit...")?.parse()?;
    let device = Device::open(0)?;
    eprintln!("{device:?}");
    let mut well = true;
    for path in arguments {
        let symbolic = ModelFile::open(&path)?.model()?.symbols().len() > 0;
        for smallest in [true, false].into_iter().skip(usize::from(!symbolic)) {
            match check(&path, &device, smallest, seconds) {
                Ok(equal) => well &= equal,
                Err(error) => {
                    eprintln!("{path}: {error}");
                    well = false;
                }
            }
        }
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
