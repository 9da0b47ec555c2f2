//! The slots under power cuts, corruption, and every order of commands.

mod faults;
mod power;

use whit::Options;

use super::*;
use crate::fixtures::classifier;
use crate::testing::FakeFlash;
use crate::{NoWatchdog, crc32};

/// More than a session of the test models takes.
const MEMORY_BYTES: usize = 4096;
/// Filler with which a test model covers more than one block of 4096 bytes.
const FILLER: usize = 3000;

type Rig<const WRITE: usize, const ERASE: usize> =
    Slots<FakeFlash<WRITE, ERASE>, FakeFlash<WRITE, ERASE>, 2>;

/// Two slots on this chip, as after a reset.
fn rig<const WRITE: usize, const ERASE: usize>(
    flash: &FakeFlash<WRITE, ERASE>,
    policy: Policy,
) -> Rig<WRITE, ERASE> {
    let half = flash.bytes().len() as u32 / 2;
    Slots::new(flash.clone(), flash.clone(), [0..half, half..2 * half], policy).unwrap()
}

/// A chip with room for two test models.
fn chip<const WRITE: usize, const ERASE: usize>() -> FakeFlash<WRITE, ERASE> {
    FakeFlash::new(2 * (4 * 4096usize).next_multiple_of(ERASE))
}

/// The file of a model that passes its self-test; each length is another model.
fn good(length: usize) -> Vec<u8> {
    classifier(FILLER + length, |_| ())
}

/// The file of a valid model that computes something else than its golden vectors say.
fn wrong(length: usize) -> Vec<u8> {
    classifier(FILLER + length, |golden| golden[1].outputs[0].0[0] ^= 1)
}

fn upload(file: &[u8], version: u32) -> Upload {
    Upload { version, bytes: file.len() as u32, crc32: crc32(file) }
}

/// A whole upload, in chunks of changing lengths.
fn update<const WRITE: usize, const ERASE: usize>(
    slots: &mut Rig<WRITE, ERASE>,
    file: &[u8],
    version: u32,
) -> Result<(), SlotError> {
    slots.begin(upload(file, version))?;
    let mut offset = 0;
    for length in [1, 31, 33, 64, 500, 7, 256].into_iter().cycle() {
        let chunk = &file[offset..file.len().min(offset + length)];
        if chunk.is_empty() {
            break;
        }
        offset += chunk.len();
        assert_eq!(slots.write((offset - chunk.len()) as u32, chunk)?, offset as u32);
    }
    slots.finish()
}

/// Starts, and gives the version that runs. What runs is proved, and is what flash has.
fn boot<const WRITE: usize, const ERASE: usize>(slots: &mut Rig<WRITE, ERASE>) -> Option<u32> {
    let mut memory = vec![0; MEMORY_BYTES];
    let boot = slots.boot(&mut memory, Options::default(), &mut NoWatchdog);
    assert_eq!(boot.running, slots.running());
    assert_eq!(boot.running.is_some(), boot.model.is_some());
    if let (Some(model), Some(running)) = (boot.model, boot.running) {
        assert_eq!(model.bytes().len() as u32, running.bytes);
        assert_eq!(boot.self_test.unwrap().cases, 2);
    }
    boot.running.map(|running| running.version)
}
