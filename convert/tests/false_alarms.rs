//! What a baseline promises: monitors raise false alarms as rarely as stated, in every test and detector, and find a drift.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use whit::metrics::counters::Event;
use whit::metrics::kll::Kll;
use whit::metrics::record::{Alarm, Kind, Piece, Pieces, Signal, SketchHead, Source};
use whit::metrics::{Config, Monitor};
use whit::{DType, Model, Options, Session};
use whit_convert::baseline::MonitorOptions;
use whit_convert::dim::Dim;
use whit_convert::evaluate::{AlignedBytes, Reals};
use whit_convert::graph::{Clamp, Graph, MatMul, Node, Op};
use whit_convert::pipeline::{ConvertOptions, convert};
use whit_convert::quantize::numbers::Numbers;
use whit_convert::tensor::Tensor;

/// Of a window, and of a detector in as many runs.
const FALSE_ALARM: f64 = 0.05;
const WINDOW_RUNS: usize = 128;
/// Draws of calibration data, and windows that are watched with each.
const CALIBRATIONS: u64 = 5;
const WINDOWS: usize = 72;

const KINDS: [(Event, &str); 8] = [
    (Event::InputDrifts, "inputs"),
    (Event::ClassDrifts, "classes"),
    (Event::ConfidenceDrifts, "confidence"),
    (Event::PageHinkleyAlarms, "Page-Hinkley"),
    (Event::CusumAlarms, "CUSUM"),
    (Event::EwmaAlarms, "EWMA"),
    (Event::DdmAlarms, "DDM"),
    (Event::AdwinAlarms, "ADWIN"),
];

/// Six features: four tell a class, by a sensor with some gain, the fifth is nearly always 0, the sixth has three values.
fn draw(random: &mut ChaCha8Rng, count: usize, gain: f32) -> (Reals, Vec<usize>) {
    let mut labels = Vec::new();
    let rows = (0..count)
        .map(|_| {
            let class = random.random_range(0..4usize);
            labels.push(class);
            let mut row: Vec<f32> = (0..4)
                .map(|feature| {
                    let noise: f32 = (0..4).map(|_| random.random::<f32>() - 0.5).sum();
                    gain * (noise + if feature == class { 1.5 } else { 0.0 })
                })
                .collect();
            row.push(if random.random_range(0..20) == 0 { 1.0 } else { 0.0 });
            row.push(random.random_range(-1..2i32) as f32);
            row
        })
        .collect();
    (Reals { shape: vec![1, 6], samples: rows }, labels)
}

/// The logit of a class is three times its feature, less half of the others'.
fn graph() -> Graph {
    let mut graph = Graph::default();
    let dims = |shape: &[usize]| shape.iter().map(|dim| Dim::from(*dim)).collect::<Vec<_>>();
    let x = graph.add_value("x", DType::F32, dims(&[1, 6]));
    let weight = |(feature, class): (usize, usize)| match feature {
        4.. => 0.0,
        _ if feature == class => 3.0,
        _ => -0.5,
    };
    let weights: Vec<f32> = (0..24).map(|at| weight((at / 4, at % 4))).collect();
    let w = graph.add_constant("w", Tensor::from_f32([6, 4], &weights));
    let y = graph.add_value("y", DType::F32, dims(&[1, 4]));
    let clamp = Clamp::NONE;
    let op =
        Op::MatMul(MatMul { transpose_a: false, transpose_b: false, clamp, inner_quant: None });
    let (inputs, outputs) = (vec![Some(x), Some(w)], vec![y]);
    graph.nodes.push(Node { name: "layer".to_owned(), op, inputs, outputs });
    graph.inputs.push(x);
    graph.outputs.push(y);
    graph
}

/// Runs a stream whose gain changes at a run, a period for each window: for each kind, alarms and the run of the first one from
/// then on; the log.
fn watch(
    model: &Model<'_>,
    random: &mut ChaCha8Rng,
    windows: usize,
    change: Option<(usize, f32)>,
) -> ([(u32, Option<usize>); 8], Vec<u8>) {
    let config = Config {
        window_every: 0,
        sketch: (Signal::Confidence, 128),
        samples: 0,
        ..Config::default()
    };
    let mut memory = vec![0; Monitor::memory_bytes(model, &config).expect("sizes")];
    let mut monitor = Monitor::new(model, &config, &mut memory, (0, 0)).expect("a monitor");
    let mut session = Session::new(*model, Options::default()).expect("a session");
    let (mut found, mut log) = ([(0, None); 8], Vec::new());
    let onset = change.map_or(0, |(onset, _)| onset);
    for run in 0..windows * WINDOW_RUNS {
        let gain = change.filter(|(onset, _)| run >= *onset).map_or(1.0, |(_, gain)| gain);
        let (row, label) = draw(random, 1, gain);
        session.set_input_f32(0, &row.samples[0]).expect("an input");
        let before = KINDS.map(|(event, _)| monitor.event(event));
        let number = monitor.run(&mut session, &mut || 0).expect("a run");
        monitor.label_class(number, label[0] as u32).expect("waits");
        for (((event, _), before), (count, first)) in KINDS.iter().zip(before).zip(&mut found) {
            let more = monitor.event(*event) - before;
            *count += more;
            if more > 0 && run >= onset {
                first.get_or_insert(run);
            }
        }
        if (run + 1) % WINDOW_RUNS == 0 {
            assert_eq!(monitor.event(Event::Windows), 1);
            monitor.close_period(run as u32, &mut log).expect("written");
        }
    }
    (found, log)
}

/// More than a Poisson variable with this mean exceeds in one of a hundred cases, by Wilson and Hilferty's approximation.
fn poisson_99(mean: f64) -> f64 {
    let k = mean + 1.0;
    k * (1.0 - 1.0 / (9.0 * k) + 2.326 / (3.0 * k.sqrt())).powi(3)
}

#[test]
fn false_alarms_are_as_rare_as_stated_and_drift_is_found() {
    let mut counts = [0; KINDS.len()];
    for calibration in 0..CALIBRATIONS {
        let mut random = ChaCha8Rng::seed_from_u64(calibration);
        let (rows, labels) = draw(&mut random, 600, 1.0);
        let options = ConvertOptions {
            numbers: if calibration % 2 == 0 { Numbers::Int8 } else { Numbers::Float },
            golden_cases: 0,
            monitor: Some(MonitorOptions {
                false_alarm: FALSE_ALARM,
                labels: Some(labels),
                ..MonitorOptions::default()
            }),
            ..ConvertOptions::default()
        };
        let file = convert(graph(), Some(&rows), &options, &mut ()).expect("converts").file;
        let aligned = AlignedBytes::new(&file);
        let model = Model::open(aligned.as_slice()).expect("a model");
        let (found, _) = watch(&model, &mut random, WINDOWS, None);
        for (count, (alarms, _)) in counts.iter_mut().zip(found) {
            *count += alarms;
        }
        // The sensor loses half of its gain within the fourth window.
        let onset = 3 * WINDOW_RUNS + 40;
        let (found, log) = watch(&model, &mut random, 12, Some((onset, 0.5)));
        let inputs = found[0].1.expect("found");
        assert!(inputs < 5 * WINDOW_RUNS, "by the window behind the onset: {inputs}");
        let output = [2, 3, 4, 5].map(|kind| found[kind].1).into_iter().flatten().min();
        assert!(output.is_some_and(|run| run < onset + 6 * WINDOW_RUNS), "{output:?}");
        check_log(&log, &found);
    }
    let windows = CALIBRATIONS as f64 * WINDOWS as f64;
    for ((_, name), count) in KINDS.iter().zip(counts) {
        println!("{name}: {count} of {windows} windows");
        let most = poisson_99(FALSE_ALARM * windows);
        assert!(f64::from(count) <= most, "{name}: {count} false alarms, at most {most:.0}");
    }
    // Nor are they silent, which would be the easy way: each test and detector errs now and then.
    let all: u32 = counts.iter().sum();
    assert!(f64::from(all) > 0.4 * 8.0 * FALSE_ALARM * windows, "{counts:?}");
}

/// The log has the alarms, and a sketch with all runs of each period.
fn check_log(log: &[u8], found: &[(u32, Option<usize>); 8]) {
    let (mut alarms, mut sketched) = (0, 0);
    for piece in Pieces::new(log) {
        let Piece::Record(frame) = piece else { panic!("{piece:?}") };
        match frame.kind {
            Kind::Alarm => {
                let alarm = Alarm::decode(frame.payload).expect("an alarm");
                assert!(alarm.value >= alarm.threshold, "{alarm:?}");
                alarms += u32::from(alarm.source >= Source::Feature as u8);
            }
            Kind::Sketch => {
                let (head, bytes) = SketchHead::decode(frame.payload).expect("a sketch");
                assert_eq!(head.signal, Signal::Confidence as u8);
                let mut words = vec![0; Kll::words(128)];
                sketched += Kll::decode(bytes, &mut words).expect("a sketch").count();
            }
            _ => (),
        }
    }
    let raised: u32 = found.iter().map(|(count, _)| count).sum();
    assert!(alarms > 0 && alarms <= raised, "{alarms} of {raised}: a period writes three at most");
    assert_eq!(sketched, 12 * WINDOW_RUNS as u64);
}
