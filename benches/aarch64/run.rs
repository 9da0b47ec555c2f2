//! Runs a model some times on the same input, for `count.sh` to count instructions.
//!
//!     run-model MODEL.whit RUNS [ISA]
//!
//! Prints a checksum of the outputs: programs of integers have the same on every instruction set.
#![forbid(unsafe_code)]

use std::error::Error;

use whit::{DType, Isa, ModelFile, Options, Session};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (path, runs, isa) = match arguments.as_slice() {
        [path, runs] => (path, runs, None),
        [path, runs, isa] => {
            let found = Isa::from_name(isa).ok_or_else(|| format!("no instruction set {isa}"))?;
            (path, runs, Some(found))
        }
        _ => return Err("usage: run-model MODEL.whit RUNS [ISA]".into()),
    };
    let runs: usize = runs.parse()?;
    let file = ModelFile::open(path)?;
    let mut session = Session::new(file.model()?, Options { isa, ..Options::default() })?;
    for input in 0..session.model().inputs().len() {
        let slot = session.input_slot(input)?;
        let (len, dtype) = (slot.bytes(), slot.dtype());
        let bytes: Vec<u8> = match dtype {
            DType::F32 => {
                (0..len / 4).flat_map(|i| ((i * 7 % 17) as f32 / 8.0 - 1.0).to_le_bytes()).collect()
            }
            _ => (0..len).map(|i| (i * 37 % 251) as u8).collect(),
        };
        session.set_input_bytes(input, &bytes)?;
    }
    for _ in 0..runs {
        session.run()?;
    }
    // FNV-1a.
    let mut checksum = 0xcbf2_9ce4_8422_2325u64;
    for output in 0..session.model().outputs().len() {
        for byte in session.output_bytes(output)? {
            checksum = (checksum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    println!("{} {checksum:016x}", session.isa());
    Ok(())
}
