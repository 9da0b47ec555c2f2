//! Slots that are corrupt, half-written, broken or used wrongly.

use super::*;
use crate::SelfTestError;

const POLICY: Policy = Policy {
    attempts: 3,
    confirm_after_self_test: true,
    test_good: true,
    versions: Versions::Different,
};

type Chip = FakeFlash<8, 4096>;
const SLOT: u32 = 4 * 4096;

/// Version 1 good in slot 0, version 2 good in slot 1 and running.
fn two_good() -> (Chip, Rig<8, 4096>) {
    let flash = chip();
    let mut slots = rig(&flash, POLICY);
    for version in 1..=2 {
        update(&mut slots, &good(version as usize), version).unwrap();
        assert_eq!(boot(&mut slots), Some(version));
    }
    (flash, slots)
}

#[test]
fn corrupt_slot_is_passed_over_and_the_older_model_runs() {
    // (what is hit, where, what the slot is afterwards)
    let cases = [
        ("header", 5, SlotState::Damaged),
        ("header's magic", 0, SlotState::Damaged),
        ("header's CRC", 31, SlotState::Damaged),
        ("file's header", DATA_OFFSET + 4, SlotState::Good),
        ("file's middle", DATA_OFFSET + 4000, SlotState::Good),
        ("bad mark", 64, SlotState::Bad),
    ];
    for (name, offset, state) in cases {
        for bit in 0..8 {
            let (flash, _) = two_good();
            flash.corrupt(SLOT + offset, |bytes| bytes[0] ^= 1 << bit);
            let mut slots = rig(&flash, POLICY);
            assert_eq!(boot(&mut slots), Some(1), "{name} bit {bit}");
            assert_eq!(slots.info(1).unwrap().state, state, "{name} bit {bit}");
            // The broken slot is the one to be overwritten, never the last good one.
            assert_eq!(slots.begin(upload(&good(3), 3)), Ok(1), "{name}");
            assert_eq!(update(&mut slots, &good(3), 3), Ok(()), "{name}");
            assert_eq!(boot(&mut slots), Some(3), "{name}");
        }
    }
}

#[test]
fn both_slots_bad_leave_no_model_and_take_a_new_one() {
    let destroyers: [fn(&Chip); 4] = [
        |flash| flash.corrupt(0, |bytes| bytes.fill(0)),
        |flash| flash.corrupt(0, |bytes| bytes.fill(0xff)),
        |flash| {
            for slot in 0..2 {
                flash.corrupt(slot * SLOT + DATA_OFFSET, |bytes| bytes[999..2000].fill(0x5a));
            }
        },
        |flash| {
            let mut random = 1u32;
            flash.corrupt(0, |bytes| {
                for byte in bytes {
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    *byte = (random >> 24) as u8;
                }
            });
        },
    ];
    for (number, destroy) in destroyers.into_iter().enumerate() {
        let (flash, _) = two_good();
        destroy(&flash);
        let mut slots = rig(&flash, POLICY);
        assert_eq!(boot(&mut slots), None, "case {number}");
        assert_eq!(slots.confirm(), Err(SlotError::NoModel));
        assert_eq!(slots.roll_back(), Err(SlotError::NoModel));
        assert_eq!(update(&mut slots, &good(3), 3), Ok(()), "case {number}");
        assert_eq!(boot(&mut slots), Some(3), "case {number}");
        // With a factory model that one runs.
        destroy(&flash);
        let factory = Vec::leak(vec![0; 20_000]);
        let start = factory.as_ptr().align_offset(64);
        let file = good(9);
        factory[start..][..file.len()].copy_from_slice(&file);
        let mut slots = rig(&flash, POLICY).with_factory(9, &factory[start..][..file.len()]);
        assert_eq!(boot(&mut slots), Some(9), "case {number}");
        assert_eq!(slots.running().unwrap().slot, None);
    }
}

#[test]
fn half_written_slot_is_empty_and_the_old_model_runs() {
    let file = good(3);
    for taken in [0, 1, 31, 32, 4000, file.len() - 1, file.len()] {
        let (flash, mut slots) = two_good();
        assert_eq!(slots.begin(upload(&file, 3)), Ok(0));
        slots.write(0, &file[..taken]).unwrap();
        if taken < file.len() {
            assert_eq!(slots.finish(), Err(SlotError::Incomplete(taken as u32)));
        }
        assert_eq!(boot(&mut rig(&flash, POLICY)), Some(2), "{taken} bytes");
        assert_eq!(rig(&flash, POLICY).info(0).unwrap().state, SlotState::Empty);
    }
}

#[test]
fn a_file_that_is_no_model_never_gets_a_header() {
    let file = good(3);
    let mut damaged = file.clone();
    damaged[file.len() - 1000] ^= 1;
    // (what arrives, the CRC promised, what finish says)
    type Refused = fn(SlotError) -> bool;
    let cases: [(&str, Vec<u8>, u32, Refused); 5] = [
        ("another file", file.clone(), crc32(&damaged), |e| e == SlotError::Crc),
        ("damaged before it was sent", damaged.clone(), crc32(&damaged), |e| {
            matches!(e, SlotError::File(_))
        }),
        ("no model", vec![7; 500], crc32(&[7; 500]), |e| matches!(e, SlotError::File(_))),
        ("cut off", file[..4096].to_vec(), crc32(&file[..4096]), |e| {
            matches!(e, SlotError::File(_))
        }),
        {
            let silent = classifier(0, |golden| golden.clear());
            let crc = crc32(&silent);
            ("no golden vectors", silent, crc, |e| e == SlotError::NoVectors)
        },
    ];
    for (name, bytes, crc32, refused) in cases {
        let (flash, mut slots) = two_good();
        slots.begin(Upload { version: 3, bytes: bytes.len() as u32, crc32 }).unwrap();
        slots.write(0, &bytes).unwrap();
        let error = slots.finish().unwrap_err();
        assert!(refused(error), "{name}: {error:?}");
        assert_eq!(slots.finish(), Err(SlotError::NoUpload), "{name}");
        assert_eq!(boot(&mut rig(&flash, POLICY)), Some(2), "{name}");
        assert_eq!(rig(&flash, POLICY).info(0).unwrap().state, SlotState::Empty, "{name}");
    }
}

#[test]
fn a_model_that_fails_is_rolled_back() {
    // Computes something else: its attempts are used up at once, and it is never tried again.
    let (flash, mut slots) = two_good();
    update(&mut slots, &wrong(3), 3).unwrap();
    let mut memory = vec![0; MEMORY_BYTES];
    let start = slots.boot(&mut memory, Options::default(), &mut NoWatchdog);
    let differs = SelfTestError::Differs { case: 1, output: 0 };
    assert_eq!(start.faults, [Some(Fault::SelfTest(differs)), None]);
    assert_eq!(start.running.map(|running| running.version), Some(2));
    assert_eq!(slots.info(0).unwrap().state, SlotState::Bad);
    let operations = flash.operations();
    assert_eq!(boot(&mut slots), Some(2));
    assert_eq!(flash.operations(), operations, "a start without news writes nothing");

    // Is never confirmed, as one that hangs: runs as often as it has attempts.
    for attempts in 1..=MAX_ATTEMPTS {
        let (flash, _) = two_good();
        let manual = Policy { confirm_after_self_test: false, attempts, ..POLICY };
        let mut slots = rig(&flash, manual);
        boot(&mut slots);
        update(&mut slots, &good(3), 3).unwrap();
        for attempt in 1..=attempts {
            let mut slots = rig(&flash, manual);
            assert_eq!(boot(&mut slots), Some(3));
            assert_eq!(slots.info(0).unwrap().state, SlotState::Trial(attempt));
            // While it is on trial its rival is the last good model.
            assert_eq!(slots.begin(upload(&good(4), 4)), Err(SlotError::LastGood));
        }
        assert_eq!(boot(&mut rig(&flash, manual)), Some(2), "{attempts} attempts");
        assert_eq!(rig(&flash, manual).info(0).unwrap().state, SlotState::Bad);
    }

    // Does not fit the memory.
    let (flash, mut slots) = two_good();
    update(&mut slots, &good(3), 3).unwrap();
    let start = slots.boot(&mut [0; 64], Options::default(), &mut NoWatchdog);
    assert!(start.model.is_none(), "nothing fits 64 bytes");
    assert_eq!(boot(&mut rig(&flash, POLICY)), Some(2), "good ones were only passed over");
}

#[test]
fn the_device_rolls_back_when_it_is_told_to() {
    let (_, mut slots) = two_good();
    assert_eq!(slots.roll_back(), Ok(()));
    assert_eq!(boot(&mut slots), Some(1));
    assert_eq!(slots.roll_back(), Err(SlotError::LastGood));
    assert_eq!(boot(&mut slots), Some(1));
    // The slot that was left is the next to be overwritten.
    assert_eq!(slots.begin(upload(&good(3), 3)), Ok(1));
}

#[test]
fn versions_follow_the_policy() {
    use Versions::{Any, Different, Newer};
    let (running, other) = (good(2), good(3));
    let refused = Err(SlotError::Version);
    let cases = [
        (Newer, &other, 3, Ok(0)),
        (Newer, &other, 2, refused),
        (Newer, &other, 1, refused),
        (Different, &other, 1, Ok(0)),
        (Different, &running, 3, refused),
        (Any, &running, 2, Ok(0)),
    ];
    for (number, (versions, file, version, expected)) in cases.into_iter().enumerate() {
        let (flash, _) = two_good();
        let mut slots = rig(&flash, Policy { versions, ..POLICY });
        boot(&mut slots);
        assert_eq!(slots.begin(upload(file, version)), expected, "case {number}");
    }
    // Without a model any will do.
    let flash: Chip = chip();
    let mut slots = rig(&flash, Policy { versions: Newer, ..POLICY });
    assert_eq!(boot(&mut slots), None);
    assert_eq!(update(&mut slots, &other, 0), Ok(()));
}

#[test]
fn chunks_may_come_twice_but_in_order() {
    let file = good(3);
    let (_, mut slots) = two_good();
    assert_eq!(slots.write(0, &file[..10]), Err(SlotError::NoUpload));
    assert_eq!(slots.finish(), Err(SlotError::NoUpload));
    slots.begin(upload(&file, 3)).unwrap();
    let length = file.len() as u32;
    let cases: [(u32, &[u8], Result<u32, SlotError>); 9] = [
        (0, &file[..100], Ok(100)),
        (0, &file[..100], Ok(100)),
        (50, &file[50..100], Ok(100)),
        (101, &file[101..200], Err(SlotError::Order(100))),
        (99, &file[99..200], Err(SlotError::Order(100))),
        (100, &file[100..], Ok(length)),
        (length, &[0], Err(SlotError::Length)),
        (u32::MAX, &[0, 0], Err(SlotError::Length)),
        (length, &[], Ok(length)),
    ];
    for (number, (offset, chunk, expected)) in cases.into_iter().enumerate() {
        assert_eq!(slots.write(offset, chunk), expected, "case {number}");
    }
    assert_eq!(slots.progress(), Some((length, length)));
    assert_eq!(slots.finish(), Ok(()));
    assert_eq!(boot(&mut slots), Some(3));
    // Lengths that no slot has and no model is.
    for bytes in [0, 127, SLOT - DATA_OFFSET + 1, u32::MAX] {
        let upload = Upload { version: 4, bytes, crc32: 0 };
        assert_eq!(slots.begin(upload), Err(SlotError::Length), "{bytes} bytes");
    }
}

#[test]
fn flash_that_breaks_loses_an_update_not_the_model() {
    let file = good(3);
    for broken in [0..4096, 4096..8192, 0..32, 96..128] {
        let (flash, mut slots) = two_good();
        flash.break_range(Some(broken.clone()));
        assert!(update(&mut slots, &file, 3).is_err(), "{broken:?}");
        assert_eq!(boot(&mut rig(&flash, POLICY)), Some(2), "{broken:?}");
        flash.break_range(None);
        let mut slots = rig(&flash, POLICY);
        assert_eq!(boot(&mut slots), Some(2), "{broken:?}");
        assert_eq!(update(&mut slots, &file, 3), Ok(()), "{broken:?}");
        assert_eq!(boot(&mut slots), Some(3), "{broken:?}");
    }
}

#[test]
fn ranges_must_be_whole_blocks_apart() {
    let flash: Chip = chip();
    let cases = [
        ([0..4096, 4096..8192], true),
        ([4096..8192, 0..4096], true),
        ([0..4096, 0..4096], false),
        ([0..8192, 4096..12_288], false),
        ([0..4096, 4096..8000], false),
        ([8..4096, 4096..8192], false),
        ([0..4096, 4096..4096], false),
        ([0..4096, 4096..2 * SLOT + 4096], false),
    ];
    for (ranges, good) in cases {
        let slots = Slots::new(flash.clone(), flash.clone(), ranges.clone(), POLICY);
        assert_eq!(slots.is_ok(), good, "{ranges:?}");
    }
    let words_of_64 = FakeFlash::<64, 4096>::new(8192);
    let slots = Slots::new(words_of_64.clone(), words_of_64, [0..4096, 4096..8192], POLICY);
    assert_eq!(slots.err(), Some(SlotError::Geometry));
}

#[test]
fn a_slot_programmed_with_the_firmware_is_good() {
    let flash: Chip = chip();
    let file = good(1);
    flash.corrupt(0, |bytes| {
        bytes[..DATA_OFFSET as usize].copy_from_slice(&slot_header(7, 1, &file));
        bytes[DATA_OFFSET as usize..][..file.len()].copy_from_slice(&file);
    });
    let mut slots = rig(&flash, POLICY);
    assert_eq!(boot(&mut slots), Some(7));
    assert_eq!(slots.info(0).unwrap().state, SlotState::Good);
    assert_eq!(flash.operations(), 0);
}

#[test]
fn updates_wear_both_slots_alike() {
    let flash: Chip = chip();
    let mut slots = rig(&flash, POLICY);
    for version in 1..=20 {
        update(&mut slots, &good(version as usize), version).unwrap();
        assert_eq!(boot(&mut slots), Some(version));
    }
    let blocks_used = good(1).len().div_ceil(4096);
    for (block, erases) in flash.erases().into_iter().enumerate() {
        let expected = if block % 4 < blocks_used { 10 } else { 0 };
        assert_eq!(erases, expected, "block {block}");
    }
}
