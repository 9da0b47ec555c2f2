//! Which model runs after a start.

use embedded_storage::nor_flash::NorFlash;
use whit::{Model, Options, Session};

use super::layout::{DATA_OFFSET, Mark, SlotInfo, SlotState};
use super::{MapFlash, Running, SlotError, Slots};
use crate::{SelfTest, SelfTestError, Watchdog};

/// What a start found.
pub struct Boot<const N: usize> {
    /// The model that runs, proved by its self-test; `None` when neither a slot nor the firmware has a
    /// good one.
    pub model: Option<Model<'static>>,
    /// Where it comes from.
    pub running: Option<Running>,
    /// What its self-test compared; `None` when the policy left it out.
    pub self_test: Option<SelfTest>,
    /// Why slots were passed over.
    pub faults: [Option<Fault>; N],
}

/// Why a slot's model doesn't run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The flash could not be mapped.
    Unmapped,
    /// The file has changed or is no model, a session could not be prepared, or the self-test failed.
    SelfTest(SelfTestError),
    /// It was started as often as the policy allows and never confirmed.
    Attempts,
    /// Flash failed.
    Flash,
}

impl<F: NorFlash, M: MapFlash, const N: usize> Slots<F, M, N> {
    /// Finds the newest model that proves itself, in `memory`, which is free again afterwards: give
    /// it what the application's session will have.
    ///
    /// Newest first, of the slots that are pending, on trial or good. One on trial gets an attempt
    /// marked in flash *before* it is touched, so that a model that hangs or resets the device uses up
    /// its attempts; it is marked good when it passes, and bad at once when the file or the session is
    /// impossible, or when no attempt is left. A good one that fails is passed over at this start and
    /// not marked, since reading may succeed next time. Then the factory model.
    ///
    /// Never fails: without any good model it says so, and the device can be given one.
    /// Takes a pass over the file, for its checksums, and an inference a golden vector.
    pub fn boot(
        &mut self,
        memory: &mut [u8],
        options: Options,
        watchdog: &mut impl Watchdog,
    ) -> Boot<N> {
        self.update = None;
        self.running = None;
        self.passed_over = [false; N];
        let mut boot = Boot { model: None, running: None, self_test: None, faults: [None; N] };
        let mut below = None;
        while let Some((slot, info)) = self.next_below(&mut below) {
            watchdog.feed();
            match self.try_slot(slot, &info, memory, options, watchdog) {
                Ok((model, self_test)) => {
                    let on_trial = info.state != SlotState::Good;
                    let SlotInfo { version, bytes, crc32, .. } = info;
                    let slot = Some(slot as u8);
                    self.running = Some(Running { slot, version, bytes, crc32, on_trial });
                    if on_trial && self.policy.confirm_after_self_test {
                        // If flash fails here it runs on trial, and the next start tries again.
                        let _ = self.confirm();
                    }
                    boot.model = Some(model);
                    boot.self_test = self_test;
                    break;
                }
                Err(fault) => {
                    if let Some(to) = boot.faults.get_mut(slot) {
                        *to = Some(fault);
                    }
                    if let Some(to) = self.passed_over.get_mut(slot) {
                        *to = true;
                    }
                }
            }
        }
        if boot.model.is_none() {
            watchdog.feed();
            if let Some((version, file)) = self.factory
                && let Ok(model) = Model::open(file)
                && let Ok(self_test) = SelfTest::run(&model, memory, options)
            {
                let bytes = u32::try_from(file.len()).unwrap_or(u32::MAX);
                let on_trial = false;
                self.running = Some(Running { slot: None, version, bytes, crc32: 0, on_trial });
                boot.model = Some(model);
                boot.self_test = Some(self_test);
            }
        }
        boot.running = self.running;
        boot
    }

    /// The startable slot with the highest sequence below the last one's; the higher number first
    /// among equals.
    fn next_below(&mut self, below: &mut Option<(u32, usize)>) -> Option<(usize, SlotInfo)> {
        let mut best: Option<(usize, SlotInfo)> = None;
        for slot in 0..N {
            let Ok(info) = self.info(slot) else { continue };
            let startable =
                matches!(info.state, SlotState::Pending | SlotState::Trial(_) | SlotState::Good);
            let is_left = below.is_none_or(|below| (info.sequence, slot) < below);
            let is_newer =
                best.is_none_or(|(number, best)| (info.sequence, slot) > (best.sequence, number));
            if startable && is_left && is_newer {
                best = Some((slot, info));
            }
        }
        *below = best.map(|(slot, info)| (info.sequence, slot));
        best
    }

    fn try_slot(
        &mut self,
        slot: usize,
        info: &SlotInfo,
        memory: &mut [u8],
        options: Options,
        watchdog: &mut impl Watchdog,
    ) -> Result<(Model<'static>, Option<SelfTest>), Fault> {
        let test_good = self.policy.test_good;
        let attempts = match info.state {
            SlotState::Good => {
                return self.open(slot, info, memory, options, test_good.then_some(watchdog));
            }
            SlotState::Trial(attempts) => attempts,
            _ => 0,
        };
        let mut fault = Fault::Attempts;
        for attempt in attempts..self.policy.attempts {
            // Without a mark a model that resets the device would do so forever.
            self.mark(slot, Mark::Attempt(attempt)).map_err(|_| Fault::Flash)?;
            fault = match self.open(slot, info, memory, options, Some(watchdog)) {
                Ok(opened) => return Ok(opened),
                Err(fault) => fault,
            };
            // Only a wrong result may be right the next time.
            if !matches!(fault, Fault::SelfTest(SelfTestError::Differs { .. })) {
                break;
            }
        }
        self.mark(slot, Mark::Bad).map_err(|_| Fault::Flash)?;
        Err(fault)
    }

    fn open(
        &mut self,
        slot: usize,
        info: &SlotInfo,
        memory: &mut [u8],
        options: Options,
        test: Option<&mut impl Watchdog>,
    ) -> Result<(Model<'static>, Option<SelfTest>), Fault> {
        // The file's own checksums do: its CRC as a whole was compared when it came.
        let file = self.file(slot, info).map_err(|_| Fault::Unmapped)?;
        let format = |error| Fault::SelfTest(SelfTestError::File(error));
        let model = Model::open(file).map_err(format)?;
        model.verify_checksums().map_err(format)?;
        let Some(watchdog) = test else { return Ok((model, None)) };
        let session = |error| Fault::SelfTest(SelfTestError::Session(error));
        let mut session = Session::in_memory(model, memory, options).map_err(session)?;
        let passed = SelfTest::replay(&mut session, watchdog).map_err(Fault::SelfTest)?;
        Ok((model, Some(passed)))
    }

    fn file(&mut self, slot: usize, info: &SlotInfo) -> Result<&'static [u8], SlotError> {
        let start = self.range(slot)?.start;
        self.map.map(start + DATA_OFFSET, info.bytes).ok_or(SlotError::Unmapped)
    }
}
