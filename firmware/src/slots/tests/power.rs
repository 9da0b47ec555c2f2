//! Power is cut at every write and erase of an update, and again at every one of the recovery.

use super::*;
use crate::testing::Cut;

/// A chip on which version 1 is good, and version 2, which came later, too.
fn two_good<const WRITE: usize, const ERASE: usize>() -> FakeFlash<WRITE, ERASE> {
    let flash = chip();
    let mut slots = rig(&flash, Policy::default());
    for version in 1..=2 {
        update(&mut slots, &good(version as usize), version).unwrap();
        assert_eq!(boot(&mut slots), Some(version));
    }
    flash
}

struct Case {
    name: &'static str,
    /// The version that runs before the update; `None` on an erased chip.
    before: Option<u32>,
    /// The file of version 3, and what runs after it arrived.
    file: Vec<u8>,
    after: Option<u32>,
}

/// Starts after power was cut, then cuts it again at every operation of such a start. `allowed` says
/// which version may run.
fn recover<const WRITE: usize, const ERASE: usize>(
    flash: &FakeFlash<WRITE, ERASE>,
    allowed: &dyn Fn(Option<u32>) -> bool,
    name: &str,
) -> u32 {
    flash.power_up();
    let dark = flash.duplicate();
    let before = flash.operations();
    let mut slots = rig(flash, Policy::default());
    let version = boot(&mut slots);
    assert!(allowed(version), "{name}: {version:?} runs");
    let operations = flash.operations() - before;
    let mut cuts = 0;
    for (operation, cut) in
        (0..operations).flat_map(|operation| Cut::ALL.map(|cut| (operation, cut)))
    {
        let flash = dark.duplicate();
        flash.cut_after(operation, cut);
        boot(&mut rig(&flash, Policy::default()));
        assert!(!flash.has_power(), "{name}");
        flash.power_up();
        let version = boot(&mut rig(&flash, Policy::default()));
        assert!(allowed(version), "{name}, then {cut:?} at {operation}: {version:?} runs");
        takes_an_update(&flash, name);
        cuts += 1;
    }
    takes_an_update(flash, name);
    cuts
}

/// A device that came through takes the next model as if nothing had been.
fn takes_an_update<const WRITE: usize, const ERASE: usize>(
    flash: &FakeFlash<WRITE, ERASE>,
    name: &str,
) {
    let mut slots = rig(flash, Policy::default());
    boot(&mut slots);
    assert_eq!(update(&mut slots, &good(4), 4), Ok(()), "{name}");
    assert_eq!(boot(&mut slots), Some(4), "{name}");
}

fn cut_everywhere<const WRITE: usize, const ERASE: usize>() {
    let new = good(3);
    let cases = [
        Case { name: "a good model", before: Some(2), file: new.clone(), after: Some(3) },
        Case { name: "a wrong model", before: Some(2), file: wrong(3), after: Some(2) },
        Case { name: "the first model", before: None, file: new, after: Some(3) },
        Case { name: "a wrong first model", before: None, file: wrong(3), after: None },
    ];
    for case in cases {
        let fresh = match case.before {
            Some(_) => two_good::<WRITE, ERASE>(),
            None => chip(),
        };
        let whole = fresh.duplicate();
        let mut slots = rig(&whole, Policy::default());
        assert_eq!(boot(&mut slots), case.before, "{}", case.name);
        update(&mut slots, &case.file, 3).unwrap();
        assert_eq!(boot(&mut slots), case.after, "{}", case.name);
        let operations = whole.operations();
        assert!(operations as usize > case.file.len() / 32, "every word is one");

        let allowed = |version| version == case.before || version == case.after;
        let (mut cuts, mut second_cuts) = (0, 0);
        for operation in 0..operations {
            for cut in Cut::ALL {
                let flash = fresh.duplicate();
                flash.cut_after(operation, cut);
                let mut slots = rig(&flash, Policy::default());
                boot(&mut slots);
                let _ = update(&mut slots, &case.file, 3);
                boot(&mut slots);
                assert!(!flash.has_power(), "{}: {operation} of {operations}", case.name);
                let name = format!("{}, {cut:?} at {operation} of {operations}", case.name);
                second_cuts += recover(&flash, &allowed, &name);
                cuts += 1;
            }
        }
        println!("{WRITE}/{ERASE}, {}: {cuts} cuts, {second_cuts} more in recovery", case.name);
        assert!(second_cuts > 0);
    }
}

#[test]
fn power_cut_at_every_operation_words_of_1_blocks_of_512() {
    cut_everywhere::<1, 512>();
}

#[test]
fn power_cut_at_every_operation_words_of_8_blocks_of_4096() {
    cut_everywhere::<8, 4096>();
}

#[test]
fn power_cut_at_every_operation_words_of_32_blocks_of_131072() {
    cut_everywhere::<32, 131_072>();
}

#[test]
fn power_cut_in_a_roll_back_and_in_a_confirmation() {
    let manual = Policy { confirm_after_self_test: false, ..Policy::default() };
    for cut in Cut::ALL {
        // Confirming: the new model, or the old one after its attempts; once good it stays.
        let flash = two_good::<4, 4096>();
        let mut slots = rig(&flash, manual);
        boot(&mut slots);
        update(&mut slots, &good(3), 3).unwrap();
        assert_eq!(boot(&mut slots), Some(3));
        flash.cut_after(0, cut);
        assert_eq!(slots.confirm(), Err(SlotError::Flash));
        flash.power_up();
        let mut slots = rig(&flash, manual);
        assert_eq!(boot(&mut slots), Some(3), "{cut:?}");
        assert_eq!(slots.confirm(), Ok(()), "{cut:?}");
        for _ in 0..10 {
            assert_eq!(boot(&mut rig(&flash, manual)), Some(3), "{cut:?}");
        }
        // Rolling back: either still the new one, or the old one.
        let mut slots = rig(&flash, manual);
        boot(&mut slots);
        flash.cut_after(0, cut);
        assert_eq!(slots.roll_back(), Err(SlotError::Flash));
        flash.power_up();
        let mut slots = rig(&flash, manual);
        let version = boot(&mut slots);
        assert!([Some(2), Some(3)].contains(&version), "{cut:?}: {version:?}");
        if version == Some(3) {
            assert_eq!(slots.roll_back(), Ok(()), "{cut:?}");
            assert_eq!(boot(&mut slots), Some(2), "{cut:?}");
        }
    }
}

/// Long lives: updates with good, wrong and damaged files, roll-backs and starts in any order, with power
/// cut at any operation of any of them.
#[test]
fn a_device_with_one_good_model_always_has_one() {
    let files = [good(1), good(2), good(3), wrong(4), wrong(5)];
    let mut cuts = 0;
    for seed in 1..=40u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let flash = chip::<4, 1024>();
        let policy = Policy { versions: Versions::Any, ..Policy::default() };
        let mut slots = rig(&flash, policy);
        update(&mut slots, &files[0], 0).unwrap();
        assert_eq!(boot(&mut slots), Some(0));
        for event in 0..60 {
            if next(2) == 0 {
                flash.cut_after(next(300) as u32, Cut::ALL[next(5) as usize]);
            }
            let mut slots = rig(&flash, policy);
            boot(&mut slots);
            let number = next(5) as usize;
            let mut file = files[number].clone();
            match next(4) {
                0 => _ = slots.roll_back(),
                1 => {
                    let place = next(file.len() as u64) as usize;
                    file[place] ^= 1 << next(8);
                    let promised = upload(&files[number], 9);
                    if slots.begin(promised).is_ok() && slots.write(0, &file).is_ok() {
                        assert!(slots.finish().is_err());
                    }
                }
                _ => _ = update(&mut slots, &file, number as u32),
            }
            boot(&mut slots);
            cuts += u32::from(!flash.has_power());
            flash.power_up();
            let version = boot(&mut rig(&flash, policy));
            assert!(version.is_some_and(|version| version < 3), "seed {seed}, event {event}");
        }
    }
    assert!(cuts > 300, "{cuts} cuts");
}
