//! Reads a sensor that may fail or fall silent: retries, backs off, restarts it, carries on.

/// A source of samples that never waits.
///
/// A sample is whatever the sensor gives at one moment, an `i16` or `[i16; 3]`; interrupts or DMA
/// collect them where the main loop is slower than the sensor.
pub trait Sensor {
    /// One sample.
    type Sample: Copy;
    /// What can go wrong on the bus; only that it did matters here.
    type Error;

    /// The oldest sample that hasn't been read, or `None` when there is none yet.
    fn read(&mut self) -> Result<Option<Self::Sample>, Self::Error>;

    /// How many samples could be read now. A driver without a queue keeps the default, and no window is
    /// ever skipped.
    fn waiting(&mut self) -> usize {
        0
    }

    /// Brings the sensor back into a known state after errors or silence.
    fn restart(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// What to do with a sensor that fails.
#[derive(Clone, Copy, Debug)]
pub struct SensorPolicy {
    /// Reads tried at once after one that failed, before the sensor counts as failed.
    pub retries: u8,
    /// Without any sample for so long it counts as failed; 0 never.
    pub timeout_us: u32,
    /// How long a failed sensor is left alone before it is restarted; doubles with each failure in a
    /// row.
    pub backoff_us: u32,
    /// The longest that it is left alone.
    pub max_backoff_us: u32,
}

impl Default for SensorPolicy {
    /// Two retries, a second of silence, left alone for 10 ms to 10 s.
    fn default() -> Self {
        SensorPolicy {
            retries: 2,
            timeout_us: 1_000_000,
            backoff_us: 10_000,
            max_backoff_us: 10_000_000,
        }
    }
}

/// How a sensor failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SensorFault {
    /// Reads failed, retries too.
    Error,
    /// No sample came in time.
    Timeout,
}

/// What came of asking the sensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Asked<T> {
    Sample(T),
    /// The first sample after a fault.
    Back(T),
    Nothing,
    /// It has just failed, and samples may be lost.
    Fault(SensorFault),
}

/// A sensor and what is known of its health. Six words beside the sensor.
pub(crate) struct Supervised<S> {
    pub(crate) sensor: S,
    policy: SensorPolicy,
    /// When the last sample came, or waiting began.
    since_us: Option<u32>,
    /// Left alone since then, for so long.
    left_alone: Option<(u32, u32)>,
    next_backoff_us: u32,
    faulty: bool,
}

impl<S: Sensor> Supervised<S> {
    pub(crate) fn new(sensor: S, policy: SensorPolicy) -> Self {
        let next_backoff_us = policy.backoff_us;
        let (since_us, left_alone, faulty) = (None, None, false);
        Supervised { sensor, policy, since_us, left_alone, next_backoff_us, faulty }
    }

    pub(crate) fn ask(&mut self, now_us: u32) -> Asked<S::Sample> {
        if let Some((since_us, for_us)) = self.left_alone {
            if now_us.wrapping_sub(since_us) < for_us {
                return Asked::Nothing;
            }
            self.left_alone = None;
            self.since_us = None;
            if self.sensor.restart().is_err() {
                return self.fail(now_us, SensorFault::Error);
            }
        }
        let since_us = *self.since_us.get_or_insert(now_us);
        for _ in 0..=self.policy.retries {
            match self.sensor.read() {
                Ok(Some(sample)) => {
                    self.since_us = Some(now_us);
                    self.next_backoff_us = self.policy.backoff_us;
                    let was_faulty = core::mem::replace(&mut self.faulty, false);
                    return if was_faulty { Asked::Back(sample) } else { Asked::Sample(sample) };
                }
                Ok(None) => {
                    let timeout_us = self.policy.timeout_us;
                    return if timeout_us > 0 && now_us.wrapping_sub(since_us) >= timeout_us {
                        self.fail(now_us, SensorFault::Timeout)
                    } else {
                        Asked::Nothing
                    };
                }
                Err(_) => {}
            }
        }
        self.fail(now_us, SensorFault::Error)
    }

    fn fail(&mut self, now_us: u32, fault: SensorFault) -> Asked<S::Sample> {
        self.left_alone = Some((now_us, self.next_backoff_us));
        self.next_backoff_us =
            self.next_backoff_us.saturating_mul(2).min(self.policy.max_backoff_us);
        self.faulty = true;
        Asked::Fault(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeSensor, Scripted::*};

    const POLICY: SensorPolicy =
        SensorPolicy { retries: 1, timeout_us: 50, backoff_us: 10, max_backoff_us: 25 };

    #[test]
    fn a_sensor_that_fails_is_left_alone_restarted_and_believed_again() {
        use Asked::Nothing;
        let fault = Asked::Fault(SensorFault::Error);
        let timeout = Asked::Fault(SensorFault::Timeout);
        // (script, (moment, what comes of asking then)…, restarts)
        type Case = (Vec<crate::testing::Scripted<i32>>, Vec<(u32, Asked<i32>)>, u32);
        let cases: [Case; 6] = [
            // One error is retried at once.
            (vec![Error, Sample(1)], vec![(0, Asked::Sample(1))], 0),
            // Two are a fault; it is asked again after the back-off, and is back.
            (
                vec![Error, Error, Sample(1), Sample(2)],
                vec![(0, fault), (9, Nothing), (10, Asked::Back(1)), (11, Asked::Sample(2))],
                1,
            ),
            // The back-off doubles up to its limit, and starts anew after a sample.
            (
                vec![
                    Error,
                    Error,
                    Error,
                    Error,
                    Error,
                    Error,
                    Error,
                    Error,
                    Sample(1),
                    Error,
                    Error,
                ],
                vec![
                    (0, fault),
                    (10, fault),
                    (29, Nothing),
                    (30, fault),
                    (54, Nothing),
                    (55, fault),
                    (80, Asked::Back(1)),
                    (81, fault),
                    (90, Nothing),
                    (91, Nothing),
                ],
                5,
            ),
            // Silence is a fault after the time-out, counted from the first question.
            (
                vec![Silence, Silence, Silence, Sample(1)],
                vec![
                    (7, Nothing),
                    (56, Nothing),
                    (57, timeout),
                    (60, Nothing),
                    (67, Asked::Back(1)),
                ],
                1,
            ),
            // … and from the last sample, and again after the restart.
            (
                vec![Sample(1)],
                vec![
                    (100, Asked::Sample(1)),
                    (149, Nothing),
                    (150, timeout),
                    (160, Nothing),
                    (210, timeout),
                ],
                1,
            ),
            // The clock wraps around.
            (
                vec![Sample(1)],
                vec![(u32::MAX - 9, Asked::Sample(1)), (39, Nothing), (40, timeout)],
                0,
            ),
        ];
        for (number, (script, asked, restarts)) in cases.into_iter().enumerate() {
            let sensor = FakeSensor::new(script);
            let mut supervised = Supervised::new(sensor.clone(), POLICY);
            for (now_us, expected) in asked {
                assert_eq!(supervised.ask(now_us), expected, "case {number} at {now_us}");
            }
            assert_eq!(sensor.restarts(), restarts, "case {number}");
        }
    }

    #[test]
    fn a_sensor_that_can_not_be_restarted_is_asked_again_later() {
        struct Dead;
        impl Sensor for Dead {
            type Sample = u8;
            type Error = ();
            fn read(&mut self) -> Result<Option<u8>, ()> {
                Err(())
            }
            fn restart(&mut self) -> Result<(), ()> {
                Err(())
            }
        }
        let mut dead = Supervised::new(Dead, POLICY);
        let faults = (0..1000).filter(|now| dead.ask(*now) != Asked::Nothing).count();
        assert_eq!(faults, 2 + (1000 - 10 - 20) / 25 + 1);
    }
}
