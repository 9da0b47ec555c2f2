//! Operators on the kernels compiled for the host, beside the CPU: those below, which use every kernel, and each
//! case that a test of an operator runs.

use std::sync::{Arc, OnceLock};

use super::device::Device;
use super::driver::{Command, Launch};
use super::emulation::Emulation;
use super::error::Error;
use super::session::{Options, Session};
use crate::dtype::DType;
use crate::error::SessionError;
use crate::model::Model;
use crate::ops::testing::Case;

/// Floats may differ by so much of the largest magnitude of the CPU's result: sums of both are within a few hundred
/// roundings of the exact ones in these small cases.
const TOLERANCE: f32 = 3e-5;

/// What cases run on: the device of [`Device::for_tests`]; when that is the host, another with the threads of a block in the other
/// order. `None` where there is no compiler, and in Miri, which starts none and calls no library.
pub(crate) fn devices() -> Option<&'static [Device]> {
    if cfg!(miri) {
        return None;
    }
    static DEVICES: OnceLock<Option<Vec<Device>>> = OnceLock::new();
    let devices = DEVICES.get_or_init(|| {
        let first = match Device::for_tests() {
            Ok(device) => device,
            Err(Error::Compile { log, .. }) if log.contains("No such file") => {
                eprintln!("SKIPPED: kernels on the host, which need a C++ compiler: {log}");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let emulated = Device::emulated().is_ok_and(|host| host.properties() == first.properties());
        let backwards = emulated.then(|| {
            let driver = Emulation::open().expect("it was just opened").backwards();
            Device::over(Arc::new(driver)).expect("new enough")
        });
        Some([first].into_iter().chain(backwards).collect())
    });
    devices.as_deref()
}

/// The outputs of a case on the host's kernels, and the names of the kernels that ran.
fn run(
    case: &Case,
    model: Model<'_>,
    device: &Device,
) -> Result<(Vec<Vec<u8>>, Vec<&'static str>), Error> {
    let mut session = Session::new(model, device, Options::default())?;
    for (index, bytes) in case.fed().enumerate() {
        session.set_input_bytes(index, bytes)?;
    }
    session.run()?;
    let count = 1 + case.more_outputs.iter().flatten().count();
    let outputs = (0..count).map(|at| session.output_bytes(at).expect("output").to_vec());
    let outputs = outputs.collect();
    let names = launches(&mut session).map(|launch| launch.kernel.name).collect();
    Ok((outputs, names))
}

/// What a run launches.
pub(super) fn launches<'s>(session: &'s mut Session<'_>) -> impl Iterator<Item = &'s Launch> {
    session.commands_for_test().iter().filter_map(|command| match command {
        Command::Launch(launch) => Some(launch),
        _ => None,
    })
}

/// Compares floats with the CPU's.
pub(super) fn assert_close(got: &[u8], want: &[u8], place: &str) {
    assert_eq!(got.len(), want.len());
    let (got, want) = (floats(got), floats(want));
    let largest =
        want.iter().filter(|x| x.is_finite()).fold(f32::MIN_POSITIVE, |m, x| m.max(x.abs()));
    for (index, (g, w)) in got.iter().zip(&want).enumerate() {
        let same = g == w || (g.is_nan() && w.is_nan());
        let close = (g - w).abs() <= TOLERANCE * largest;
        assert!(same || close, "{place}, element {index}: {g} instead of {w}");
    }
}

pub(super) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Numbers beyond this, which random bytes are: whether their sums overflow depends on the order.
const WILD: f32 = 1e6;

/// Whether an input has finite numbers that are too large to compare results.
fn is_wild(case: &Case) -> bool {
    let reals = case.inputs.iter().flatten().filter(|tensor| tensor.dtype == DType::F32);
    reals.flat_map(|tensor| floats(&tensor.bytes)).any(|x| x.is_finite() && x.abs() > WILD)
}

/// Runs what the CPU ran, if this backend has it, and compares: integers to the bit, errors exactly.
pub(crate) fn compare(
    case: &Case,
    model: Model<'_>,
    cpu: Result<&[Vec<u8>], &SessionError>,
) -> Vec<&'static str> {
    let Some(devices) = devices() else { return vec![] };
    let mut launched = vec![];
    for device in devices {
        let (outputs, names) = match (run(case, model, device), cpu) {
            (Ok(ran), Ok(_)) => ran,
            (Err(Error::Missing(_)), _) => return vec![],
            (Err(Error::Session(got)), Err(want)) => {
                assert_eq!(got, *want);
                continue;
            }
            (Ok(_), Err(want)) => panic!("the CPU refuses: {want}"),
            (Err(error), _) => panic!("{error}"),
        };
        launched = names;
        let all = [&case.output].into_iter().chain(case.more_outputs.iter().flatten());
        for ((got, want), tensor) in outputs.iter().zip(cpu.unwrap()).zip(all) {
            if tensor.dtype != DType::F32 {
                assert_eq!(got, want, "{launched:?}");
                continue;
            }
            assert_eq!(got.len(), want.len());
            if !is_wild(case) {
                assert_close(got, want, &format!("{launched:?}"));
            }
        }
    }
    launched
}
