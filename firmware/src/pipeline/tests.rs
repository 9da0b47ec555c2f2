//! The loop under scripted sensors and clocks.

use core::convert::Infallible;

use embedded_hal::digital::{ErrorType, OutputPin};
use whit::{Model, Options, Session, SessionError};
use whit_convert::evaluate::AlignedBytes;

use super::*;
use crate::fixtures::{ELEMENTS, classifier};
use crate::testing::{FakeClock, FakeSensor, Scripted};
use crate::{Anomaly, ArgMax, Counters, Rescale, Score, Smoothed, StatusPin, Trigger};

const SENSOR: SensorPolicy =
    SensorPolicy { retries: 1, timeout_us: 100, backoff_us: 10, max_backoff_us: 40 };

fn config(hop: usize, overload: Overload) -> PipelineConfig {
    let hop = NonZeroUsize::new(hop).unwrap();
    PipelineConfig { hop, deadline_us: 50, overload, sensor: SENSOR }
}

/// Keeps what was recorded.
#[derive(Default)]
struct Kept(Vec<Event>);

impl Record for Kept {
    fn record(&mut self, _: u32, event: &Event) {
        self.0.push(*event);
    }
}

type World = Environment<FakeClock, Box<dyn FnMut()>, (Counters, Kept)>;

fn world(clock: &FakeClock) -> World {
    let record = (Counters::default(), Kept::default());
    Environment { clock: clock.clone(), watchdog: Box::new(|| ()), record }
}

/// Samples of which number `index` is the largest.
fn window(index: usize) -> [i16; ELEMENTS] {
    core::array::from_fn(|i| if i == index { 20 } else { i as i16 })
}

fn with_session(run: impl FnOnce(&mut Session<'_>)) {
    let file = AlignedBytes::new(&classifier(0, |_| ()));
    let model = Model::open(file.as_slice()).unwrap();
    run(&mut Session::new(model, Options::default()).unwrap());
}

fn samples(windows: &[usize]) -> Vec<Scripted<i16>> {
    windows.iter().flat_map(|index| window(*index).map(Scripted::Sample)).collect()
}

/// Steps until the script is used up, and what came of it but for nothing.
fn steps<D: Decide>(
    pipeline: &mut Pipeline<FakeSensor<i16>, Rescale, D, ELEMENTS>,
    sensor: &FakeSensor<i16>,
    session: &mut Session<'_>,
    world: &mut World,
) -> Vec<Step> {
    let mut steps = vec![];
    while sensor.left() > 0 {
        steps.push(pipeline.step(session, world));
        world.clock.advance(1);
    }
    steps.retain(|step| !matches!(step, Step::Idle | Step::Sampled));
    steps
}

fn class(step: &Step) -> Option<u16> {
    match step {
        Step::Decided(decision) => Some(decision.class),
        _ => None,
    }
}

#[test]
fn windows_become_decisions() {
    with_session(|session| {
        // Silence between samples changes nothing.
        for silence in [0, 1, 3] {
            let mut script = vec![];
            for sample in samples(&[4, 1, 7, 0]) {
                script.push(sample);
                script.extend((0..silence).map(|_| Scripted::Silence));
            }
            let sensor = FakeSensor::new(script);
            let mut pipeline = Pipeline::new(
                sensor.clone(),
                Rescale::new(1.0 / 8.0, 0.0),
                ArgMax::new(0.0),
                config(ELEMENTS, Overload::SkipNewest),
            );
            if silence == 0 {
                // All at once is more than the loop can do: see the next test.
                pipeline.config.overload = Overload::SkipOldest;
            }
            let mut world = world(&FakeClock::default());
            let steps = steps(&mut pipeline, &sensor, session, &mut world);
            let classes: Vec<_> = steps.iter().filter_map(class).collect();
            let expected: &[u16] = if silence == 0 { &[0] } else { &[4, 1, 7, 0] };
            assert_eq!(classes, expected, "silence {silence}");
            let counters = world.record.0;
            assert_eq!(counters.inferences as usize, expected.len());
            assert_eq!((counters.missed, counters.failed), (0, 0));
        }
    });
}

#[test]
fn overload_skips_the_oldest_or_the_newest_windows() {
    // (policy, hop, classes decided, windows skipped) of four windows that wait at once
    let cases: [(Overload, usize, &[u16], u32); 4] = [
        (Overload::SkipOldest, ELEMENTS, &[0], 3),
        (Overload::SkipNewest, ELEMENTS, &[4], 3),
        (Overload::SkipOldest, 2 * ELEMENTS, &[7], 1),
        (Overload::SkipNewest, 2 * ELEMENTS, &[4, 0], 1),
    ];
    with_session(|session| {
        for (number, (overload, hop, classes, skipped)) in cases.into_iter().enumerate() {
            let sensor = FakeSensor::new(samples(&[4, 1, 7, 0]));
            let rescale = Rescale::new(1.0 / 8.0, 0.0);
            let config = config(hop, overload);
            let mut pipeline = Pipeline::new(sensor.clone(), rescale, ArgMax::new(0.0), config);
            let mut world = world(&FakeClock::default());
            let steps = steps(&mut pipeline, &sensor, session, &mut world);
            assert_eq!(
                steps.iter().filter_map(class).collect::<Vec<_>>(),
                classes,
                "case {number}"
            );
            assert_eq!(world.record.0.skipped, skipped, "case {number}");
        }
    });
}

#[test]
fn deadlines_are_counted_from_the_last_sample_to_the_decision() {
    struct Pin(bool);
    impl ErrorType for Pin {
        type Error = Infallible;
    }
    impl OutputPin for Pin {
        fn set_low(&mut self) -> Result<(), Infallible> {
            self.0 = false;
            Ok(())
        }
        fn set_high(&mut self) -> Result<(), Infallible> {
            self.0 = true;
            Ok(())
        }
    }
    with_session(|session| {
        // Two readings of the clock; also across its wrap-around.
        for (start_us, latency_us, missed) in
            [(0, 50, false), (0, 51, true), (u32::MAX - 20, 50, false), (u32::MAX - 20, 51, true)]
        {
            let clock = FakeClock::at(start_us);
            let sensor = FakeSensor::of(window(2));
            let mut pipeline = Pipeline::new(
                sensor,
                // The inference takes as long as its preprocessing says.
                |window: &[i16; ELEMENTS], session: &mut Session<'_>| {
                    clock.advance(latency_us);
                    Rescale::new(1.0 / 8.0, 0.0).fill(window, session)
                },
                ArgMax::new(0.0),
                config(ELEMENTS, Overload::SkipOldest),
            );
            let record = (Counters::default(), StatusPin(Pin(!missed)));
            let fed = core::cell::Cell::new(0);
            let watchdog = || fed.set(fed.get() + 1);
            let mut world = Environment { clock: clock.clone(), watchdog, record };
            let step = pipeline.step(session, &mut world);
            assert_eq!(class(&step), Some(2));
            assert_eq!(pipeline.slack_us(), 50u32.saturating_sub(latency_us));
            let Environment { record: (counters, pin), .. } = world;
            assert_eq!((counters.missed, pin.0.0), (missed.into(), missed));
            assert_eq!((counters.last_us, counters.sum_us), (latency_us, latency_us.into()));
            assert_eq!(fed.get(), 1);
        }
    });
}

#[test]
fn sensor_error_and_time_out_begin_the_window_anew() {
    use Scripted::{Error, Silence};
    // Half a window of class 3, the fault, a whole window of class 6.
    let half = |fault: Vec<Scripted<i16>>| {
        let mut script = samples(&[3]);
        script.truncate(ELEMENTS / 2);
        script.extend(fault);
        script.extend(samples(&[6]));
        script
    };
    let error = SensorFault::Error;
    let timeout = SensorFault::Timeout;
    let cases = [
        ("an error that a retry mends", vec![Error], vec![]),
        ("an error", vec![Error; 2], vec![error]),
        ("three errors in a row", vec![Error; 6], vec![error; 3]),
        ("a time-out", vec![Silence; 101], vec![timeout]),
        (
            "a time-out, then an error",
            [vec![Silence; 101], vec![Error; 2]].concat(),
            vec![timeout, error],
        ),
    ];
    with_session(|session| {
        for (name, fault, faults) in cases {
            let sensor = FakeSensor::new(half(fault));
            let rescale = Rescale::new(1.0 / 8.0, 0.0);
            let config = config(ELEMENTS, Overload::SkipOldest);
            let mut pipeline = Pipeline::new(sensor.clone(), rescale, ArgMax::new(0.0), config);
            let mut world = world(&FakeClock::default());
            let steps = steps(&mut pipeline, &sensor, session, &mut world);
            let seen: Vec<_> = steps
                .iter()
                .filter_map(|step| match step {
                    Step::SensorFault(fault) => Some(*fault),
                    _ => None,
                })
                .collect();
            assert_eq!(seen, faults, "{name}");
            let (counters, Kept(events)) = &world.record;
            let back = events.iter().filter(|event| **event == Event::SensorBack).count();
            assert_eq!(back, usize::from(!faults.is_empty()), "{name}");
            assert_eq!(sensor.restarts() as usize, faults.len(), "{name}");
            let count = |fault| faults.iter().filter(|seen| **seen == fault).count() as u32;
            assert_eq!(counters.sensor_errors, count(error), "{name}");
            assert_eq!(counters.sensor_timeouts, count(timeout), "{name}");
            // Without a fault the window is the two halves; with one it is the second whole.
            let classes: Vec<_> = steps.iter().filter_map(class).collect();
            // 20 is at 3 of the first half; 7 stands at 7 of neither.
            let expected: &[u16] = if faults.is_empty() { &[3] } else { &[6] };
            assert_eq!(classes, expected, "{name}");
        }
    });
}

#[test]
fn a_model_that_does_not_fit_fails_each_window_and_nothing_else() {
    with_session(|session| {
        let sensor = FakeSensor::of([0i16; 3 * 5]);
        let mut pipeline = Pipeline::<_, _, _, 5>::new(
            sensor,
            Rescale::new(1.0, 0.0),
            ArgMax::new(0.0),
            config(5, Overload::SkipNewest),
        );
        let mut world = world(&FakeClock::default());
        let wrong = SessionError::InputLength { input: 0, expected: ELEMENTS, given: 5 };
        assert_eq!(pipeline.step(session, &mut world), Step::Failed(wrong));
        assert_eq!(world.record.0.failed, 1);
        // A decision on an output that isn't there.
        let trigger = Trigger { on: Score(0), windows: 1, off: Score(0), hold: 0 };
        let sensor = FakeSensor::of(window(0));
        let mut pipeline = Pipeline::<_, _, _, ELEMENTS>::new(
            sensor,
            Rescale::new(1.0, 0.0),
            Smoothed::<2>::new(8, trigger),
            config(ELEMENTS, Overload::SkipOldest),
        );
        assert_eq!(pipeline.step(session, &mut world), Step::Failed(SessionError::Unknown));
    });
}

#[test]
fn deciders_read_what_the_model_says() {
    let on = Score::from_real(0.25);
    let trigger = Trigger { on, windows: 1, off: on, hold: 0 };
    with_session(|session| {
        let mut world = world(&FakeClock::default());
        // Softmax of 1 among zeros is 0.28 in 1/256: 72.
        let one =
            |index: usize| -> [i16; ELEMENTS] { core::array::from_fn(|i| i16::from(i == index)) };
        let rescale = Rescale::new(1.0, 0.0);
        let script = [one(5), one(5), one(2), one(5)].concat();
        let sensor = FakeSensor::new(
            script.into_iter().flat_map(|s| [Scripted::Sample(s), Scripted::Silence]),
        );
        let mut pipeline = Pipeline::new(
            sensor.clone(),
            rescale,
            Smoothed::<1>::new(5, trigger),
            config(ELEMENTS, Overload::SkipOldest),
        );
        let given = steps(&mut pipeline, &sensor, session, &mut world);
        let decided = |score: f32, fired| {
            Step::Decided(Decision { class: 5, score: Score::from_real(score), fired })
        };
        let (high, low) = (72.0 / 256.0, 26.0 / 256.0);
        let expected =
            [decided(high, true), decided(high, false), decided(low, false), decided(high, true)];
        assert_eq!(given, expected);

        // The error of the softmax against its input.
        let sensor = FakeSensor::of(one(5));
        let mut pipeline = Pipeline::new(
            sensor.clone(),
            rescale,
            Anomaly::<ELEMENTS, 1>::new(Trigger { on: Score::from_real(0.07), off: on, ..trigger }),
            config(ELEMENTS, Overload::SkipOldest),
        );
        let given = steps(&mut pipeline, &sensor, session, &mut world);
        let error = ((1.0f32 - high) * (1.0 - high) + 7.0 * low * low) / 8.0;
        let [Step::Decided(decision)] = given[..] else { panic!("{given:?}") };
        assert!((decision.score.to_real() - error).abs() < 1e-4 && decision.fired);

        // Too small a copy is an error, not a wrong score.
        let sensor = FakeSensor::of(one(5));
        let mut pipeline = Pipeline::new(
            sensor.clone(),
            rescale,
            Anomaly::<{ ELEMENTS - 1 }, 1>::new(trigger),
            config(ELEMENTS, Overload::SkipOldest),
        );
        let given = steps(&mut pipeline, &sensor, session, &mut world);
        assert!(matches!(given[..], [Step::Failed(SessionError::InputType { .. })]), "{given:?}");
    });
}
