//! The least certain inputs of a period, in slots of equal size.

use crate::format::Field;

/// Bytes of a slot besides the input: run, class, confidence.
pub const SLOT_BYTES: usize = 8;

/// Slots, one more than are kept: the input of the present run waits in the spare one until its confidence is known.
pub(super) struct Reservoir<'m> {
    bytes: &'m mut [u8],
    slot_bytes: usize,
    used: usize,
}

/// An input that was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept<'r> {
    pub(super) run: u32,
    pub(super) class: u16,
    pub(super) confidence: u16,
    pub(super) input: &'r [u8],
}

impl<'m> Reservoir<'m> {
    /// `bytes` holds whole slots for inputs of so many bytes.
    pub(super) fn new(bytes: &'m mut [u8], input_bytes: usize) -> Reservoir<'m> {
        Reservoir { bytes, slot_bytes: SLOT_BYTES + input_bytes, used: 0 }
    }

    fn slots(&self) -> usize {
        self.bytes.len() / self.slot_bytes
    }

    fn slot_mut(&mut self, slot: usize) -> Option<&mut [u8]> {
        self.bytes.get_mut(slot * self.slot_bytes..(slot + 1) * self.slot_bytes)
    }

    /// Takes the input of the present run; one of another length leaves the spare slot without.
    pub(super) fn stage(&mut self, input: &[u8]) {
        let spare = self.used;
        if let Some(slot) = self.slot_mut(spare)
            && let Some(to) = slot.get_mut(SLOT_BYTES..)
            && to.len() == input.len()
        {
            to.copy_from_slice(input);
        }
    }

    /// Keeps the staged input if it is less certain than one that is kept, or there is room. Of equals the earlier stays.
    pub(super) fn keep(&mut self, run: u32, class: u16, confidence: u16) {
        let most = self.slots().saturating_sub(1);
        if most == 0 {
            return;
        }
        let spare = self.used;
        let Some(slot) = self.slot_mut(spare) else { return };
        run.write(slot);
        class.write(&mut slot[4..]);
        confidence.write(&mut slot[6..]);
        if self.used < most {
            self.used += 1;
            return;
        }
        let certain = (0..most).rev().max_by_key(|slot| self.get(*slot).confidence);
        if let Some(certain) = certain
            && confidence < self.get(certain).confidence
        {
            let (kept, spare) = self.bytes.split_at_mut(most * self.slot_bytes);
            let slot = &mut kept[certain * self.slot_bytes..(certain + 1) * self.slot_bytes];
            slot.copy_from_slice(&spare[..self.slot_bytes]);
        }
    }

    /// How many are kept.
    pub(super) fn len(&self) -> usize {
        self.used
    }

    /// A kept input, by its number.
    pub(super) fn get(&self, number: usize) -> Kept<'_> {
        let slot = &self.bytes[number * self.slot_bytes..(number + 1) * self.slot_bytes];
        Kept {
            run: u32::read(slot),
            class: u16::read(&slot[4..]),
            confidence: u16::read(&slot[6..]),
            input: &slot[SLOT_BYTES..],
        }
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.used = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_certain_stay() {
        let mut random = crate::metrics::counters::tests::Random(3);
        for slots in [2, 4, 9] {
            let mut memory = vec![0; slots * (SLOT_BYTES + 3)];
            let mut reservoir = Reservoir::new(&mut memory, 3);
            let mut all = Vec::new();
            for run in 0..200u32 {
                let confidence = random.below(40) as u16;
                reservoir.stage(&[run as u8, 1, 2]);
                reservoir.keep(run, 5, confidence);
                all.push((confidence, run));
                let mut expected = all.clone();
                expected.sort_unstable();
                expected.truncate(slots - 1);
                let mut found: Vec<(u16, u32)> = (0..reservoir.len())
                    .map(|number| {
                        let kept = reservoir.get(number);
                        assert_eq!((kept.input, kept.class), (&[kept.run as u8, 1, 2][..], 5));
                        (kept.confidence, kept.run)
                    })
                    .collect();
                found.sort_unstable();
                assert_eq!(found, expected);
            }
            reservoir.clear();
            assert_eq!(reservoir.len(), 0);
        }
        let mut none = Reservoir::new(&mut [], 3);
        none.stage(&[1, 2, 3]);
        none.keep(1, 1, 1);
        assert_eq!(none.len(), 0);
    }
}
