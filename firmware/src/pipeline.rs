//! The loop of a device: sample, preprocess, infer, decide, record, against a deadline.

use core::num::NonZeroUsize;

use whit::{Session, SessionError};

use crate::sensor::{Asked, Supervised};
use crate::{
    Clock, Decide, Decision, Event, Preprocess, Record, Sensor, SensorFault, SensorPolicy,
    Watchdog, WindowBuffer,
};

/// What to do when inference is slower than the sensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overload {
    /// A window for which the next one already waits is skipped: decisions are late by at most one
    /// window, and the stream stays whole.
    #[default]
    SkipOldest,
    /// Each window is decided; what piled up meanwhile is thrown away and a new window begins: for
    /// events that must not be missed half-way, at the price of gaps between them.
    SkipNewest,
}

/// Rules of a pipeline.
#[derive(Clone, Copy, Debug)]
pub struct PipelineConfig {
    /// Samples from one window's start to the next one's.
    pub hop: NonZeroUsize,
    /// From a window's last sample to its decision; later is a miss, which is counted, no failure.
    pub deadline_us: u32,
    /// What to do when inference is slower than the sensor.
    pub overload: Overload,
    /// What to do when the sensor fails.
    pub sensor: SensorPolicy,
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Nothing: no sample was there, or the sensor is left alone after a fault.
    Idle,
    /// Took samples; no window is complete.
    Sampled,
    /// Completed a window and skipped it.
    Skipped,
    /// Decided.
    Decided(Decision),
    /// The sensor has failed; the window begins anew when it is back.
    SensorFault(SensorFault),
    /// The model could not be run on a window; the next one is tried.
    Failed(SessionError),
}

/// What the pipeline and the device share: time, a watchdog, and where events go.
pub struct Environment<C, W, R> {
    /// Time.
    pub clock: C,
    /// Fed at each step.
    pub watchdog: W,
    /// Where events go.
    pub record: R,
}

/// Windows of `N` samples of a sensor, through a session, to decisions.
///
/// Costs: RAM for the window and some 80 bytes; per sample what [`WindowBuffer`] costs and
/// a clock reading; per window two clock readings more. [`Pipeline::step`] never waits.
pub struct Pipeline<S: Sensor, P, D, const N: usize> {
    sensor: Supervised<S>,
    windows: WindowBuffer<S::Sample, N>,
    preprocess: P,
    decide: D,
    config: PipelineConfig,
    used_us: u32,
}

impl<S, P, D, const N: usize> Pipeline<S, P, D, N>
where
    S: Sensor,
    P: Preprocess<S::Sample, N>,
    D: Decide,
{
    /// A pipeline with an empty window.
    pub fn new(sensor: S, preprocess: P, decide: D, config: PipelineConfig) -> Self {
        let sensor = Supervised::new(sensor, config.sensor);
        let windows = WindowBuffer::new(config.hop);
        Pipeline { sensor, windows, preprocess, decide, config, used_us: 0 }
    }

    /// Takes the samples that are there, up to the end of a window, and decides on it.
    ///
    /// Call it as often as the sensor gives samples, or, with a driver that queues them, once a hop.
    pub fn step<C: Clock, W: Watchdog, R: Record>(
        &mut self,
        session: &mut Session<'_>,
        environment: &mut Environment<C, W, R>,
    ) -> Step {
        environment.watchdog.feed();
        // No more than a window with its gap: a sensor that never runs out can't hold the loop.
        let most = N.saturating_add(self.config.hop.get());
        let mut step = Step::Idle;
        for _ in 0..most {
            let now_us = environment.clock.now_us();
            let sample = match self.sensor.ask(now_us) {
                Asked::Nothing => return step,
                Asked::Fault(fault) => {
                    self.forget();
                    environment.record.record(now_us, &Event::Sensor(fault));
                    return Step::SensorFault(fault);
                }
                Asked::Back(sample) => {
                    environment.record.record(now_us, &Event::SensorBack);
                    sample
                }
                Asked::Sample(sample) => sample,
            };
            step = Step::Sampled;
            let Some(window) = self.windows.push(sample) else { continue };
            let hop = self.config.hop.get();
            if self.config.overload == Overload::SkipOldest && self.sensor.sensor.waiting() >= hop {
                environment.record.record(now_us, &Event::Skipped);
                return Step::Skipped;
            }
            let decided = infer(&mut self.preprocess, &mut self.decide, window, session);
            let latency_us = environment.clock.now_us().wrapping_sub(now_us);
            self.used_us = latency_us;
            let (step, event) = match decided {
                Ok(decision) => {
                    let missed = latency_us > self.config.deadline_us;
                    let event = Event::Inference { latency_us, missed, decision };
                    (Step::Decided(decision), event)
                }
                Err(error) => (Step::Failed(error), Event::InferenceFailed),
            };
            environment.record.record(now_us, &event);
            if self.config.overload == Overload::SkipNewest {
                self.drop_backlog(now_us, &mut environment.record);
            }
            return step;
        }
        step
    }

    /// What is left of the deadline after the last inference: time for a log to write to flash.
    pub fn slack_us(&self) -> u32 {
        self.config.deadline_us.saturating_sub(self.used_us)
    }

    /// Begins a new window: after a pause, or with another model.
    pub fn forget(&mut self) {
        self.windows.clear();
        self.decide.reset();
    }

    /// Throws away whole hops that wait.
    fn drop_backlog(&mut self, now_us: u32, record: &mut impl Record) {
        let hop = self.config.hop.get();
        let backlog = self.sensor.sensor.waiting() / hop * hop;
        for count in 1..=backlog {
            // An error shows again at the next step.
            if !matches!(self.sensor.sensor.read(), Ok(Some(_))) {
                break;
            }
            if count.is_multiple_of(hop) {
                record.record(now_us, &Event::Skipped);
            }
        }
        if backlog > 0 {
            self.forget();
        }
    }
}

fn infer<T, P: Preprocess<T, N>, D: Decide, const N: usize>(
    preprocess: &mut P,
    decide: &mut D,
    window: &[T; N],
    session: &mut Session<'_>,
) -> Result<Decision, SessionError> {
    preprocess.fill(window, session)?;
    decide.before(session)?;
    session.run()?;
    decide.decide(session)
}

#[cfg(test)]
mod tests;
