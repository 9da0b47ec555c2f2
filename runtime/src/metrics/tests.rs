//! Monitors beside a model whose outputs are its first inputs, and plain counts of the same stream.

use super::baseline::{BASELINE_VERSION, BaselineHeader, Feature, write};
use super::counters::tests::Random;
use super::counters::{Event, Group, Sum, Totals};
use super::record::{Alarm, Header, Kind, Piece, Pieces, Sample, Scores, Source};
use super::scores::{confidence_bin, entropy_bin};
use super::*;
use crate::format::{Field, Op, SliceAttributes};
use crate::ops::testing::{Case, shape, tensor};
use crate::{DType, Model, Options, Session};

const INPUTS: usize = 64;
const CLASSES: usize = 10;
const WINDOW: u16 = 100;

/// 64 inputs, the first 10 of which are the outputs.
fn model_file(dtype: DType, outputs: u32, baseline: &[u8]) -> Vec<u8> {
    let x = match dtype {
        DType::I8 => tensor(&[1, 64], &[0i8; INPUTS]).quantized(0.05, 3),
        _ => tensor(&[1, 64], &[0f32; INPUTS]),
    };
    let y = match dtype {
        DType::I8 => shape(dtype, &[1, outputs]).quantized(0.05, 3),
        _ => shape(dtype, &[1, outputs]),
    };
    let attributes = SliceAttributes { starts: [0; 8], steps: [1; 8] };
    Case::new(Op::Slice, None, attributes, &[x], y).file_with(baseline)
}

fn header(scores: Scores) -> BaselineHeader {
    BaselineHeader {
        version: BASELINE_VERSION,
        header_bytes: BaselineHeader::SIZE as u32,
        samples: 1000,
        window_runs: WINDOW,
        classes: CLASSES as u16,
        features: INPUTS as u16,
        dtype: DType::I8 as u8,
        bins: 8,
        scores: scores as u8,
        inner: 1,
        step: 1,
        false_alarm_q32: 42_949_673,
        discovery_q32: 42_949_673,
        class_thresholds: [u32::MAX; 3],
        confidence_thresholds: [u32::MAX; 3],
        value_unit: 1.0,
        flags: 1,
        confidence: [10; 16],
        calibrated: core::array::from_fn(|bin| 2048 * bin as u16),
        ..BaselineHeader::default()
    }
}

/// A baseline of uniform i8 inputs.
fn baseline() -> Vec<u8> {
    let header = header(Scores::Logits);
    // Means of windows of 100: PSI and Jensen-Shannon are near chi-squared, with 7 degrees of freedom over 100 and 1,000.
    let edges: Vec<i32> = (1..8).map(|edge| edge * 32 - 128).collect();
    let feature = Feature { edges: &edges, counts: &[125; 8], means: [5046, 910, 4600] };
    let quantiles = [core::array::from_fn(|level| 300 + 80 * level as u16); 3];
    let mut out = vec![0; header.section_bytes(DType::I8)];
    let features = vec![feature; INPUTS];
    write(&header, DType::I8, &quantiles, &features, &[100; CLASSES], &[], &mut out);
    out
}

/// A file's bytes at a multiple of 8, for the length of the test.
fn aligned(file: &[u8]) -> &'static [u8] {
    let mut bytes = vec![0; file.len() + 8];
    let start = bytes.as_ptr().align_offset(8);
    bytes[start..start + file.len()].copy_from_slice(file);
    &Vec::leak(bytes)[start..start + file.len()]
}

/// Header, sums of all periods and windows, alarms, samples.
type Content = (Header, Vec<u64>, Vec<Alarm>, Vec<(Sample, Vec<u8>)>);

#[derive(Default)]
struct Log {
    bytes: Vec<u8>,
    lengths: Vec<(Kind, usize)>,
    /// Writes until the sink refuses one.
    until_failure: Option<usize>,
}

impl Sink for Log {
    type Error = &'static str;

    fn write(&mut self, kind: Kind, record: &[u8]) -> Result<(), &'static str> {
        if let Some(left) = &mut self.until_failure {
            if *left == 0 {
                self.until_failure = None;
                return Err("full");
            }
            *left -= 1;
        }
        self.bytes.extend_from_slice(record);
        self.lengths.push((kind, record.len()));
        Ok(())
    }
}

impl Log {
    /// The header, the sums of all periods and windows, the alarms and the samples.
    fn read(&self) -> Content {
        let (mut header, mut alarms, mut samples) = (None, vec![], vec![]);
        let mut bodies = vec![];
        for piece in Pieces::new(&self.bytes) {
            let Piece::Record(frame) = piece else { panic!("{piece:?}") };
            match frame.kind {
                Kind::Header => header = Some(Header::decode(frame.payload).expect("a header")),
                Kind::Alarm => alarms.push(Alarm::decode(frame.payload).expect("an alarm")),
                Kind::Sample => {
                    let (sample, bytes) = Sample::decode(frame.payload).expect("a sample");
                    samples.push((sample, bytes.to_vec()));
                }
                _ => bodies.push(frame.payload),
            }
            assert_eq!(Some(frame.tag), header.map(|header| header.tag()));
        }
        let header = header.expect("a header");
        let shape = header.shape().expect("sizes");
        let mut counters = vec![0; shape.total()];
        let mut totals = Totals::new(shape, &mut counters).expect("memory");
        for body in bodies {
            totals.add(body).expect("counts");
        }
        (header, counters, alarms, samples)
    }
}

/// A stream of inputs whose first ten are logits with one clear winner most of the time.
fn input(random: &mut Random) -> [i8; INPUTS] {
    let mut x: [i8; INPUTS] = core::array::from_fn(|_| random.below(256) as u8 as i8);
    for logit in &mut x[..CLASSES] {
        *logit = (random.below(20) as i8) - 60;
    }
    let winner = random.below(CLASSES as u64) as usize;
    x[winner] = 40 + (random.below(60) as i8);
    x
}

#[test]
fn the_default_configuration_keeps_its_marks_and_counts_exactly() {
    let file = aligned(&model_file(DType::I8, 10, &baseline()));
    let model = Model::open(file).expect("a model");
    let config = Config { window_every: 0, ..Config::default() };
    let bytes = Monitor::memory_bytes(&model, &config).expect("sizes");
    let all = bytes + size_of::<Monitor<'_>>();
    println!("{bytes} bytes and {} of the monitor itself", size_of::<Monitor<'_>>());
    assert!(all <= 4096, "{all} bytes");

    let mut memory = vec![0xEE; bytes];
    let mut monitor = Monitor::new(&model, &config, &mut memory, (7, 50)).expect("a monitor");
    let mut session = Session::new(model, Options::default()).expect("a session");
    let mut random = Random(77);
    let mut expected = vec![0u64; monitor.header().shape().expect("sizes").total()];
    let shape = monitor.header().shape().expect("sizes");
    let mut log = Log::default();
    let mut labels = vec![];
    for run in 0..1200u32 {
        let x = input(&mut random);
        session.set_input_bytes(0, &x.map(|q| q as u8)).expect("an input");
        let latency = 2000 + random.below(40) as u32;
        let mut times = [10u32.wrapping_sub(latency), 10].into_iter();
        let id = monitor.run(&mut session, &mut || times.next().expect("two")).expect("a run");
        assert_eq!(id, (7 << 16) + run);
        let mut add =
            |group, index: usize, count: u64| expected[shape.offset(group) + index] += count;
        add(Group::Events, Event::Runs as usize, 1);
        add(Group::Latency, histogram::bucket(latency), 1);
        // Softmax in f64.
        let exps: Vec<f64> = x[..CLASSES].iter().map(|q| (f64::from(*q) * 0.05).exp()).collect();
        let sum: f64 = exps.iter().sum();
        let class = (0..CLASSES).max_by(|a, b| exps[*a].total_cmp(&exps[*b])).expect("classes");
        let confidence = (exps[class] / sum * 32768.0) as u16;
        let entropy: f64 = exps.iter().map(|e| -(e / sum) * (e / sum).log10()).sum();
        add(Group::Classes, class, 1);
        add(Group::Confidence, confidence_bin(confidence), 1);
        add(Group::Entropy, entropy_bin((entropy * 32768.0) as u16), 1);
        for (tensor, elements) in [(0, &x[..]), (1, &x[..CLASSES])] {
            let at = |limit: i8| elements.iter().filter(|q| **q == limit).count() as u64;
            add(Group::Saturation, 2 * tensor, at(-128));
            add(Group::Saturation, 2 * tensor + 1, at(127));
        }
        if run % 3 == 0 {
            labels.push((id, class));
        }
        // Labels come 5 runs late.
        if let Some((id, class)) =
            labels.first().copied().filter(|(id, _)| id + 5 <= (7 << 16) + run)
        {
            labels.remove(0);
            let truth = if id % 4 == 0 { (class + 1) % CLASSES } else { class };
            monitor.label_class(id, truth as u32).expect("waits");
            add(Group::Confusion, truth * CLASSES + class, 1);
            add(Group::Events, Event::Labels as usize, 1);
        }
        if run == 599 || run == 1199 {
            if run == 599 {
                assert!((1900..2100).contains(&monitor.latency_us((99, 100)).expect("runs")));
                assert!(monitor.estimated_accuracy().is_some_and(|q15| q15 > 20_000));
            }
            monitor.close_period(50 + run, &mut log).expect("written");
        }
    }
    let (header, counters, _, samples) = log.read();
    assert_eq!(header.classes, 10);
    for group in [
        Group::Latency,
        Group::Classes,
        Group::Confidence,
        Group::Entropy,
        Group::Saturation,
        Group::Confusion,
    ] {
        let range = shape.offset(group)..shape.offset(group) + shape.len(group);
        let (found, expected) = (&counters[range.clone()], &expected[range]);
        let off: u64 = found.iter().zip(expected).map(|(a, b)| a.abs_diff(*b)).sum();
        // The oracle's softmax is in floats, so that a run near the edge of a bin may be in the next one.
        let floats = matches!(group, Group::Confidence | Group::Entropy);
        assert!(off <= if floats { 4 } else { 0 }, "{group:?} {found:?} {expected:?}");
    }
    let event = |event: Event| counters[event as usize];
    assert_eq!((event(Event::Runs), event(Event::Starts)), (1200, 1));
    // The inputs that are logits aren't uniform: the first window of either period says so, and ends the tests.
    assert_eq!((event(Event::Windows), event(Event::InputDrifts)), (2, 2));
    assert_eq!(event(Event::Labels), expected[Event::Labels as usize]);
    assert_eq!(samples.len(), 6);
    assert!(samples.iter().all(|(sample, bytes)| bytes.len() == 64 && sample.total_bytes == 64));
}

/// A period of 1,000 runs without labels or alarms, as the project's mark has it.
#[test]
fn an_ordinary_period_takes_64_bytes() {
    let file = aligned(&model_file(DType::I8, 10, &baseline()));
    let model = Model::open(file).expect("a model");
    let config = Config { drift: true, samples: 0, window_every: 0, ..Config::default() };
    let mut memory = vec![0; 4096];
    let mut monitor = Monitor::new(&model, &config, &mut memory, (3000, 0)).expect("a monitor");
    let mut random = Random(5);
    let mut log = Log::default();
    for period in 0..20 {
        for _ in 0..1000 {
            // Inputs as the baseline has them, within the limits of their type.
            let uniform = [(); INPUTS].map(|()| (random.below(254) as i32 - 127) as u8);
            monitor.input(0, DType::I8, &uniform);
            let x = input(&mut random);
            // Half an hour apart, with a latency that hardly varies.
            monitor.ran(20_000 + random.below(300) as u32, &x.map(|q| q as u8)[..CLASSES]);
        }
        monitor.close_period(1_700_000_000 + 1800 * period, &mut log).expect("written");
    }
    // A period with an alarm, here a false one, isn't ordinary: an alarm and its window follow. Nor is the first, which tells
    // that the device started.
    let mut ordinary = Vec::new();
    for (at, (kind, length)) in log.lengths.iter().enumerate().skip(2) {
        let next = log.lengths.get(at + 1).map_or(Kind::Period, |(kind, _)| *kind);
        if (*kind, next) == (Kind::Period, Kind::Period) {
            ordinary.push(*length);
        }
    }
    println!("bytes of periods: {ordinary:?}");
    assert!(ordinary.len() >= 15, "{:?}", log.lengths);
    assert!(ordinary.iter().all(|length| *length <= 64), "{ordinary:?}");
}

#[test]
fn drift_of_one_feature_is_found_named_and_logged() {
    let file = aligned(&model_file(DType::I8, 10, &baseline()));
    let model = Model::open(file).expect("a model");
    for statistic in drift::Statistic::ALL {
        let config = Config {
            statistic,
            scores: Some(Scores::Logits),
            window_every: 0,
            ..Config::default()
        };
        let mut memory = vec![0; 4096];
        let mut monitor = Monitor::new(&model, &config, &mut memory, (0, 0)).expect("a monitor");
        let mut random = Random(8);
        let mut log = Log::default();
        let mut feed = |monitor: &mut Monitor<'_>, runs: usize, drifted: bool| {
            for _ in 0..runs {
                let mut x: [u8; INPUTS] = core::array::from_fn(|_| random.below(256) as u8);
                if drifted {
                    x[33] = random.below(64) as u8;
                }
                monitor.input(0, DType::I8, &x);
                monitor.ran(5, &x[..CLASSES]);
            }
        };
        feed(&mut monitor, 350, false);
        monitor.close_period(10, &mut log).expect("written");
        let before = log.read();
        assert!(before.2.is_empty(), "{statistic:?}: {:?}", before.2);
        feed(&mut monitor, 350, true);
        monitor.close_period(20, &mut log).expect("written");
        let (header, counters, alarms, _) = log.read();
        let shape = header.shape().expect("sizes");
        let alarm = alarms.first().expect("an alarm");
        assert_eq!((alarm.source, alarm.index), (Source::Feature as u8, 33), "{statistic:?}");
        assert!(alarm.value >= alarm.threshold && alarm.what == statistic as u8);
        let drifted = &counters[shape.offset(Group::Drifted)..][..INPUTS];
        assert_eq!(drifted.iter().sum::<u64>(), drifted[33], "{statistic:?}");
        // The window that drifted is in the log, whole.
        let features = &counters[shape.offset(Group::Features)..][..shape.len(Group::Features)];
        assert_eq!(features.iter().sum::<u64>(), u64::from(WINDOW) * INPUTS as u64);
        let drifted = &features[33 * 8..34 * 8];
        assert_eq!(drifted.iter().sum::<u64>(), 100);
        // Half of it at least came behind the change: 0..64 are the bins from 4 on.
        assert!(drifted[4] + drifted[5] >= 50, "{drifted:?}");
    }
}

#[test]
fn what_goes_wrong_is_counted() {
    let file = aligned(&model_file(DType::F32, 10, &[]));
    let model = Model::open(file).expect("a model");
    let config = Config {
        scores: Some(Scores::Logits),
        deadline_us: 100,
        sample_bytes: 256,
        ..Config::default()
    };
    let mut memory = vec![0; 8192];
    let mut monitor = Monitor::new(&model, &config, &mut memory, (0, 1000)).expect("a monitor");
    let logits = |top: f32| -> Vec<u8> {
        (0..10).flat_map(|class| if class == 3 { top } else { 0.0 }.to_le_bytes()).collect()
    };
    let run = monitor.ran(50, &logits(2.0));
    monitor.ran(101, &logits(f32::NAN));
    monitor.ran(100, &logits(f32::INFINITY));
    monitor.ran(7, &[1, 2, 3]);
    monitor.failed();
    assert_eq!(monitor.label_class(run, 10), Err(LabelError::Invalid));
    assert_eq!(monitor.label_class(run + 1, 1), Err(LabelError::UnknownRun), "it had no class");
    assert_eq!(monitor.label_class(999, 1), Err(LabelError::UnknownRun));
    assert_eq!(monitor.label_class(run, 3), Ok(()));
    assert_eq!(monitor.label_class(run, 3), Err(LabelError::Duplicate));
    assert_eq!(monitor.label_value(run, 1.0), Err(LabelError::Off));
    let expected = [
        (Event::Runs, 4),
        (Event::Errors, 1),
        (Event::DeadlineMisses, 1),
        (Event::OutputsNotFinite, 2),
        (Event::OutputsWrong, 1),
        (Event::Labels, 1),
        (Event::LabelsInvalid, 1),
        (Event::LabelsUnknown, 2),
        (Event::LabelsDuplicate, 1),
    ];
    for (event, count) in expected {
        assert_eq!(monitor.event(event), count, "{event:?}");
    }
    // A sink that refuses the period leaves it open; the clock goes backwards.
    let mut log = Log { until_failure: Some(1), ..Log::default() };
    assert_eq!(monitor.close_period(900, &mut log), Err(MonitorError::Sink("full")));
    assert_eq!((monitor.sequence(), monitor.event(Event::Runs)), (0, 4));
    monitor.close_period(900, &mut log).expect("written");
    assert_eq!(monitor.sequence(), 1);
    // Backwards by half the clock, then across its end.
    monitor.close_period(u32::MAX - 4, &mut log).expect("written");
    monitor.ran(1, &logits(1.0));
    monitor.close_period(5, &mut log).expect("written");
    let (_, counters, _, _) = log.read();
    assert_eq!(counters[Event::ClockFaults as usize], 2, "900 after 1000, and far ahead");
    assert_eq!(counters[Event::SinkFailures as usize], 1);
    assert_eq!((counters[Event::Runs as usize], counters[Event::Starts as usize]), (5, 1));
    let last = Pieces::new(&log.bytes).filter_map(|piece| match piece {
        Piece::Record(frame) if frame.kind == Kind::Period => {
            let shape = monitor.header().shape().expect("sizes");
            counters::decode(frame.payload, &shape, &mut |_, _, _| Ok(())).ok()
        }
        _ => None,
    });
    let spans: Vec<(u32, u64)> = last.map(|head| (head.start_s, head.duration_s)).collect();
    assert_eq!(spans, [(1000, 0), (900, 0), (u32::MAX - 4, 10)]);
    // What the sink refuses behind the period's record is lost and counted.
    monitor.ran(1, &logits(1.0));
    monitor.input(0, DType::F32, &[0; 256]);
    monitor.ran(1, &logits(1.0));
    log.until_failure = Some(1);
    assert_eq!(monitor.close_period(9, &mut log), Err(MonitorError::Sink("full")));
    assert_eq!((monitor.sequence(), monitor.event(Event::SinkFailures)), (4, 1));
    // A period counts 65,535 runs; further ones are told as such.
    for _ in 0..PERIOD_RUNS + 10 {
        monitor.ran(1, &logits(1.0));
    }
    assert!(monitor.is_full());
    assert_eq!((monitor.event(Event::Runs), monitor.event(Event::Unrecorded)), (PERIOD_RUNS, 10));
    assert_eq!(monitor.get(Group::Latency, 1), u64::from(PERIOD_RUNS));
}

#[test]
fn values_are_compared_with_their_labels() {
    let file = aligned(&model_file(DType::F32, 1, &[]));
    let model = Model::open(file).expect("a model");
    let config = Config { scores: Some(Scores::Value), ..Config::default() };
    let mut memory = vec![0; 4096];
    let mut monitor = Monitor::new(&model, &config, &mut memory, (0, 0)).expect("a monitor");
    let mut expected = [0i64; 8];
    for (run, (estimate, label)) in
        [(1.5f32, 1.0f32), (-2.0, 3.0), (0.25, 0.25), (1e9, -1e9), (4.0, f32::NAN)]
            .into_iter()
            .enumerate()
    {
        monitor.ran(1, &estimate.to_le_bytes());
        let labelled = monitor.label_value(run as u32, label);
        if label.is_nan() {
            assert_eq!(labelled, Err(LabelError::Invalid));
            continue;
        }
        assert_eq!(labelled, Ok(()));
        // In units of 1/256, cut to ±2²².
        let units = |x: f32| ((f64::from(x) * 256.0) as i64).clamp(-(1 << 22), 1 << 22);
        let (y, e) = (units(label), units(estimate) - units(label));
        let terms = [1, e.abs(), e * e, y.max(0), (-y).max(0), y * y, e.max(0), (-e).max(0)];
        for (sum, term) in expected.iter_mut().zip(terms) {
            *sum += term;
        }
    }
    for sum in Sum::ALL {
        assert_eq!(
            monitor.get(Group::Sums, *sum as usize) as i64,
            expected[*sum as usize],
            "{sum:?}"
        );
    }
    let mut log = Log::default();
    monitor.close_period(1, &mut log).expect("written");
    assert_eq!(log.read().0.value_scale, 1.0 / 256.0);
}

#[test]
fn what_does_not_fit_is_refused() {
    let whole = baseline();
    let open = |baseline: &[u8], config: &Config, bytes: usize| {
        let model = Model::open(aligned(&model_file(DType::I8, 10, baseline))).expect("a model");
        Monitor::new(&model, config, Vec::leak(vec![0; bytes]), (0, 0)).map(|_| ())
    };
    let default = Config::default();
    assert_eq!(open(&whole, &default, 4096), Ok(()));
    let short = open(&whole, &default, 100);
    assert!(matches!(short, Err(MonitorError::Memory { given: 100, .. })), "{short:?}");
    for scores in [Scores::Logit, Scores::Probability] {
        let config = Config { scores: Some(scores), ..default };
        // Ten outputs where one is expected: every run is counted as wrong.
        assert_eq!(open(&whole, &config, 4096), Ok(()));
    }
    let too_small = Config { record_bytes: 0, ..default };
    assert_eq!(open(&whole, &too_small, 4096), Ok(()), "takes the least that holds a header");
    // Every byte of the header changed, every length: refused or used, no panic.
    let mut refused = 0;
    for at in 0..BaselineHeader::SIZE {
        for value in [0, 1, 0x80, 0xFF] {
            let mut damaged = whole.clone();
            damaged[at] = value;
            refused += usize::from(open(&damaged, &default, 8192).is_err());
        }
    }
    assert!(refused > 50, "{refused}");
    for cut in (0..whole.len()).step_by(37).skip(1) {
        assert!(open(&whole[..cut], &default, 4096).is_err(), "cut at {cut}");
    }
    // Of another input type.
    let model = Model::open(aligned(&model_file(DType::F32, 10, &whole))).expect("a model");
    let error = Monitor::new(&model, &default, &mut [0; 8192], (0, 0)).map(|_| ());
    assert_eq!(error, Err(MonitorError::Baseline(baseline::BaselineError::OtherModel)));
}
