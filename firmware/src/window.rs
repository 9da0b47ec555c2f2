//! Cuts a stream of sensor samples into windows that overlap.

use core::num::NonZeroUsize;

use heapless::Vec;

/// The last samples of a stream; every `hop` samples it gives a window of `N`.
///
/// A sample is whatever a sensor gives at one moment: an `i16`, or `[i16; 3]` of an accelerometer.
/// The samples lie in a row, so that a window can be copied to an input as it is. That costs
/// `N - hop` moves a window, and one store a sample; memory is `N` samples and three words.
///
/// ```
/// use core::num::NonZeroUsize;
/// use whit_firmware::WindowBuffer;
///
/// let mut windows = WindowBuffer::<i16, 4>::new(NonZeroUsize::new(2).unwrap());
/// let mut seen = vec![];
/// for sample in 1..=6 {
///     if let Some(window) = windows.push(sample) {
///         seen.push(*window);
///     }
/// }
/// assert_eq!(seen, [[1, 2, 3, 4], [3, 4, 5, 6]]);
/// ```
#[derive(Clone, Debug)]
pub struct WindowBuffer<T, const N: usize> {
    samples: Vec<T, N>,
    hop: NonZeroUsize,
    /// Samples to drop before the next is kept, when windows are further apart than they are long.
    gap: usize,
}

impl<T: Copy, const N: usize> WindowBuffer<T, N> {
    /// An empty buffer whose windows start `hop` samples apart; a hop above `N` leaves gaps.
    pub const fn new(hop: NonZeroUsize) -> Self {
        const { assert!(N > 0, "a window has at least one sample") };
        WindowBuffer { samples: Vec::new(), hop, gap: 0 }
    }

    /// Adds the next sample of the stream, and gives a window, oldest sample first, when this sample
    /// completes it.
    pub fn push(&mut self, sample: T) -> Option<&[T; N]> {
        if self.samples.is_full() {
            let hop = self.hop.get();
            let kept = N.saturating_sub(hop);
            self.samples.copy_within(N - kept.., 0);
            self.samples.truncate(kept);
            self.gap = hop.saturating_sub(N);
        }
        if self.gap > 0 {
            self.gap -= 1;
        } else {
            // There is room: a full buffer was shortened by at least one above.
            let _ = self.samples.push(sample);
        }
        self.samples.as_slice().try_into().ok()
    }

    /// Forgets all samples: after a pause, so that no window spans it.
    pub fn clear(&mut self) {
        self.samples.clear();
        self.gap = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_a_hop_apart_whatever_the_hop() {
        for hop in 1..=12 {
            let mut buffer = WindowBuffer::<usize, 5>::new(NonZeroUsize::new(hop).unwrap());
            // A pause: no window spans it.
            (90..94).for_each(|sample| assert!(buffer.push(sample).is_none()));
            buffer.clear();
            let mut starts = (0..=35).step_by(hop);
            for window in (0..40).filter_map(|sample| buffer.push(sample).copied()) {
                let start = starts.next().expect("not more windows than hops");
                assert_eq!(window, core::array::from_fn(|i| start + i), "hop {hop}");
            }
            assert_eq!(starts.next(), None, "hop {hop}");
        }
    }
}
