//! Watches a model while it runs: counts, drift, late labels, in a log that survives restarts.
//!
//!     cargo run --release -p whit-examples --example monitored [-- LOG]
//!     cargo run --release -- monitor report LOG
#![forbid(unsafe_code)]

use std::error::Error;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use whit::metrics::counters::Event;
use whit::metrics::{Config, FileLog, Monitor};
use whit::{Model, Options, Session};
use whit_convert::baseline::MonitorOptions;
use whit_convert::evaluate::{AlignedBytes, Reals};
use whit_convert::import::{ImportOptions, import_file};
use whit_convert::pipeline::{ConvertOptions, convert};
use whit_convert::quantize::numbers::Numbers;
use whit_examples::{THREE, noisy};

/// On the laptop, ahead of time: the file remembers what its calibration data looked like.
fn file() -> Result<Vec<u8>, Box<dyn Error>> {
    let onnx = concat!(env!("CARGO_MANIFEST_DIR"), "/digits/digits.onnx");
    let samples = (0..200).map(|seed| noisy(&THREE, 1.0, seed)).collect();
    let options = ConvertOptions {
        numbers: Numbers::Int8,
        monitor: Some(MonitorOptions::default()),
        ..ConvertOptions::default()
    };
    let calibration = Reals { shape: vec![1, 1, 8, 8], samples };
    let graph = import_file(onnx, &ImportOptions::default())?;
    Ok(convert(graph, Some(&calibration), &options, &mut ())?.file)
}

/// On the device: 300 runs, of which the last 150 are much noisier. Gives the windows that drifted.
fn watch(file: &AlignedBytes, log: &Path) -> Result<u32, Box<dyn Error>> {
    let model = Model::open(file.as_slice())?;
    let mut session = Session::new(model, Options::default())?;

    let config = Config::default();
    let mut memory = vec![0; Monitor::memory_bytes(&model, &config)?];
    let mut log = FileLog::open(log, 1 << 20)?;
    let mut monitor = Monitor::start(&model, &config, &mut memory, &mut log, now_s())?;
    let begin = Instant::now();
    let mut now_us = || begin.elapsed().as_micros() as u32;

    let mut drifted = 0;
    for index in 0..300 {
        let noise = if index < 150 { 1.0 } else { 6.0 };
        session.set_input_f32(0, &noisy(&THREE, noise, 1000 + index))?;
        let run = monitor.run(&mut session, &mut now_us)?;
        // Someone looked at it.
        monitor.label_class(run, 3)?;
        // Every hour or so.
        if index % 150 == 149 {
            drifted += monitor.event(Event::InputDrifts);
            monitor.close_period(now_s(), &mut log)?;
        }
    }
    Ok(drifted)
}

fn now_s() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as u32)
}

fn main() -> Result<(), Box<dyn Error>> {
    let log = std::env::args().nth(1).unwrap_or("monitored.log".to_owned());
    let drifted = watch(&AlignedBytes::new(&file()?), Path::new(&log))?;
    println!("{drifted} windows drifted; whit monitor report {log}");
    Ok(())
}

#[test]
fn only_the_noisy_half_drifts() {
    let log = std::env::temp_dir().join(format!("whit-monitored-{}.log", std::process::id()));
    let _ = std::fs::remove_file(&log);
    assert_eq!(watch(&AlignedBytes::new(&file().unwrap()), &log).unwrap(), 1);
    std::fs::remove_file(&log).unwrap();
}
