//! What happened, as small events, and sinks for them.

use crate::{Decision, Fault, SelfTestError, SensorFault, SlotError};

/// Something that happened to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The device started, with the model of this slot; `None` for the factory model.
    Started {
        /// The slot.
        slot: Option<u8>,
        /// The model's version.
        version: u32,
    },
    /// The device started without a model.
    NoModel,
    /// A slot was passed over at a start.
    SlotFault {
        /// The slot.
        slot: u8,
        /// Why.
        fault: Fault,
    },
    /// An inference ran.
    Inference {
        /// From the window's last sample to the decision.
        latency_us: u32,
        /// Whether that was longer than the deadline.
        missed: bool,
        /// What was decided.
        decision: Decision,
    },
    /// An inference failed, or the model's inputs or outputs aren't what the pipeline expects.
    InferenceFailed,
    /// A window was skipped to catch up with the sensor.
    Skipped,
    /// The sensor failed.
    Sensor(SensorFault),
    /// The sensor gives samples again.
    SensorBack,
    /// An upload ended.
    Upload(Result<(), SlotError>),
    /// The self-test ran again.
    SelfTest(Result<(), SelfTestError>),
    /// The running model was rolled back.
    RolledBack,
}

/// A sink for events: counters, a log, a pin, a radio. Called between inferences; must not wait.
pub trait Record {
    /// Takes note of an event; `now_us` is the device's clock, modulo 2³².
    fn record(&mut self, now_us: u32, event: &Event);
}

/// No sink.
impl Record for () {
    fn record(&mut self, _: u32, _: &Event) {}
}

impl<A: Record, B: Record> Record for (A, B) {
    fn record(&mut self, now_us: u32, event: &Event) {
        self.0.record(now_us, event);
        self.1.record(now_us, event);
    }
}

impl<R: Record> Record for &mut R {
    fn record(&mut self, now_us: u32, event: &Event) {
        R::record(self, now_us, event);
    }
}

/// Counts since the start. 48 bytes; they stop at their largest value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Inferences.
    pub inferences: u32,
    /// … that missed the deadline.
    pub missed: u32,
    /// … that failed.
    pub failed: u32,
    /// Windows skipped.
    pub skipped: u32,
    /// Decisions that fired.
    pub fired: u32,
    /// Sensor errors.
    pub sensor_errors: u32,
    /// Sensor time-outs.
    pub sensor_timeouts: u32,
    /// Latency of the last inference.
    pub last_us: u32,
    /// The smallest latency.
    pub min_us: u32,
    /// The largest latency.
    pub max_us: u32,
    /// Sum of the latencies.
    pub sum_us: u64,
}

impl Record for Counters {
    fn record(&mut self, _: u32, event: &Event) {
        let count = |counter: &mut u32| *counter = counter.saturating_add(1);
        match *event {
            Event::Inference { latency_us, missed, decision } => {
                let is_first = self.inferences == 0;
                count(&mut self.inferences);
                if missed {
                    count(&mut self.missed);
                }
                if decision.fired {
                    count(&mut self.fired);
                }
                self.last_us = latency_us;
                self.min_us = if is_first { latency_us } else { self.min_us.min(latency_us) };
                self.max_us = self.max_us.max(latency_us);
                self.sum_us = self.sum_us.saturating_add(u64::from(latency_us));
            }
            Event::InferenceFailed => count(&mut self.failed),
            Event::Skipped => count(&mut self.skipped),
            Event::Sensor(SensorFault::Error) => count(&mut self.sensor_errors),
            Event::Sensor(SensorFault::Timeout) => count(&mut self.sensor_timeouts),
            _ => {}
        }
    }
}

/// A pin that is high after an inference that came too late or failed, and while the sensor is faulty.
///
/// It must be a pin whose setting can't fail, as a microcontroller's own can't.
pub struct StatusPin<P>(pub P);

impl<P: embedded_hal::digital::OutputPin<Error = core::convert::Infallible>> Record
    for StatusPin<P>
{
    fn record(&mut self, _: u32, event: &Event) {
        let level = match event {
            Event::Inference { missed, .. } => *missed,
            Event::InferenceFailed | Event::Sensor(_) | Event::NoModel => true,
            Event::SensorBack | Event::Started { .. } => false,
            _ => return,
        };
        let Ok(()) = self.0.set_state(level.into());
    }
}
