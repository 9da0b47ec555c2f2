//! Labels that arrive late: runs that wait for theirs.

use core::fmt;

/// Why a label counted for nothing but itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LabelError {
    /// No run with this number is waiting: there was none, it had no score, or it was too long ago.
    UnknownRun,
    /// The run has its label.
    Duplicate,
    /// The label is no class of the model, or no number.
    Invalid,
    /// The period holds as many labels as it can count.
    Full,
    /// The monitor was made without labels of this kind.
    Off,
}

impl fmt::Display for LabelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LabelError::UnknownRun => "no run with this number waits for a label",
            LabelError::Duplicate => "the run has its label",
            LabelError::Invalid => "the label is no class of the model, or no number",
            LabelError::Full => "the period holds as many labels as it can count",
            LabelError::Off => "the monitor was made without labels of this kind",
        })
    }
}

impl core::error::Error for LabelError {}

/// What is known of a run that waits: two words in the monitor's memory, the run's number and what it predicted.
///
/// A run's place follows from its number, so that finding it takes one look.
pub(super) struct Pending<'m> {
    words: &'m mut [u32],
}

/// The prediction of a run that has its label, or of a place that no run has.
const DONE: u32 = u32::MAX;

impl<'m> Pending<'m> {
    /// Two words for each run that may wait.
    pub(super) fn new(words: &'m mut [u32]) -> Pending<'m> {
        words.fill(DONE);
        Pending { words }
    }

    fn place(&mut self, run: u32) -> Option<&mut [u32]> {
        let places = self.words.len() / 2;
        let at = (run as usize).checked_rem(places)? * 2;
        self.words.get_mut(at..at + 2)
    }

    /// A run waits; whether another one was forgotten without its label.
    pub(super) fn wait(&mut self, run: u32, prediction: u32) -> bool {
        let Some(place) = self.place(run) else { return false };
        let forgotten = place[1] != DONE;
        place.copy_from_slice(&[run, prediction.min(DONE - 1)]);
        forgotten
    }

    /// What a run predicted. It waits no more.
    pub(super) fn take(&mut self, run: u32) -> Result<u32, LabelError> {
        let place = self.place(run).ok_or(LabelError::Off)?;
        match place {
            [number, prediction] if *number == run && *prediction != DONE => {
                Ok(core::mem::replace(prediction, DONE))
            }
            // The largest number is also that of empty places.
            [number, _] if *number == run && run != DONE => Err(LabelError::Duplicate),
            _ => Err(LabelError::UnknownRun),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_wait_until_their_label_or_until_others_take_their_place() {
        let mut words = [0; 8];
        let mut pending = Pending::new(&mut words);
        assert_eq!(pending.take(0), Err(LabelError::UnknownRun));
        assert_eq!(pending.take(u32::MAX), Err(LabelError::UnknownRun));
        for run in 0..4 {
            assert!(!pending.wait(run, 10 + run));
        }
        assert_eq!(pending.take(2), Ok(12));
        assert_eq!(pending.take(2), Err(LabelError::Duplicate));
        assert!(pending.wait(4, 14), "run 0 had no label");
        assert!(!pending.wait(6, 16), "run 2 had");
        assert_eq!(pending.take(0), Err(LabelError::UnknownRun));
        assert_eq!(pending.take(4), Ok(14));
        assert_eq!(pending.take(1), Ok(11));
        // Numbers wrap.
        pending.wait(u32::MAX, 7);
        assert_eq!(pending.take(u32::MAX), Ok(7));
        let mut none = Pending::new(&mut []);
        assert!(!none.wait(1, 1));
        assert_eq!(none.take(1), Err(LabelError::Off));
    }
}
