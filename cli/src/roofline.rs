//! What this machine can do at most, measured, and how near a step comes to it: a roofline (Williams, Waterman and
//! Patterson, "Roofline: an insightful visual performance model", 2009).

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use whit::format::StepRecord;
use whit::kernels::peak::{self, Loop};
use whit::{DType, Isa, Model};

use crate::report;

/// Working sets for which the rate of loads is measured: within the first and the second cache of every CPU in use, within
/// the last one of most, and beyond.
const WORKING_SETS: [usize; 4] = [16 << 10, 192 << 10, 4 << 20, 128 << 20];
/// A loop is measured for about so long, less than a turn of the system's scheduler, many times; the fastest counts, since
/// others only disturb.
const MEASURED: Duration = Duration::from_micros(500);
const REPEATS: usize = 40;
/// Bytes that are loaded in about that time.
const PIECE: usize = 8 << 20;

/// Rates of one core.
pub(crate) struct Roofline {
    /// Multiply-adds of i8 a second.
    macs_i8: f64,
    /// Multiply-adds of f32 a second.
    macs_f32: f64,
    /// Multiply-adds of bf16 a second.
    macs_bf16: f64,
    /// Loaded bytes a second, by working set.
    bytes: [f64; WORKING_SETS.len()],
    /// Clock while measuring, where it can be told.
    hertz: Option<f64>,
}

/// How near a step comes.
pub(crate) struct Near {
    pub(crate) macs_per_cycle: Option<f64>,
    /// Its share of the peak of multiply-adds.
    pub(crate) of_peak: Option<f64>,
    /// The least time by the roofline over the time it took.
    pub(crate) of_roof: f64,
    /// Whether loads are what the roof is made of.
    pub(crate) memory_bound: bool,
}

impl Near {
    pub(crate) fn bound(&self) -> &'static str {
        if self.memory_bound { "memory" } else { "compute" }
    }
}

impl Roofline {
    /// Measures this machine, in about 0.2 s.
    pub(crate) fn measure(isa: Isa) -> Roofline {
        let mut block = vec![0u8; WORKING_SETS[WORKING_SETS.len() - 1]];
        // Pages of zeros would all be the same one.
        block.iter_mut().step_by(512).for_each(|byte| *byte = 1);
        Roofline {
            macs_i8: rate(&peak::multiply_add_i8(isa)),
            macs_f32: rate(&peak::multiply_add_f32(isa)),
            macs_bf16: rate(&peak::multiply_add_bf16(isa)),
            bytes: WORKING_SETS.map(|size| loads(isa, &block[..size])),
            hertz: peak::cycles().map(|cycles| rate(&cycles)),
        }
    }

    /// Bytes a second of the smallest measured working set that holds so many.
    fn bytes_per_s(&self, bytes: u64) -> f64 {
        let index = WORKING_SETS.iter().position(|size| bytes <= *size as u64);
        self.bytes[index.unwrap_or(WORKING_SETS.len() - 1)]
    }

    /// A step that took so many microseconds.
    pub(crate) fn near(&self, model: &Model<'_>, step: &StepRecord, mean_us: f64) -> Near {
        let peak = match DType::from_number(step.variant) {
            Some(DType::I8 | DType::U8) => self.macs_i8,
            _ if has_bf16(model, step) => self.macs_bf16,
            _ => self.macs_f32,
        };
        let bytes = bytes_of(model, step);
        let (macs, seconds) = (step.macs as f64, mean_us / 1e6);
        let (compute, memory) = (macs / peak, bytes as f64 / self.bytes_per_s(bytes));
        Near {
            macs_per_cycle: self.hertz.filter(|_| macs > 0.0).map(|hertz| macs / seconds / hertz),
            of_peak: (macs > 0.0).then(|| compute / seconds),
            of_roof: compute.max(memory) / seconds,
            memory_bound: memory > compute,
        }
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "clock_hz": self.hertz,
            "i8_macs_per_s": self.macs_i8,
            "f32_macs_per_s": self.macs_f32,
            "bf16_macs_per_s": self.macs_bf16,
            "loads": WORKING_SETS.iter().zip(self.bytes).map(|(size, rate)| json!({
                "working_set_bytes": size,
                "bytes_per_s": rate,
            })).collect::<Vec<_>>(),
        })
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let per_cycle = |rate: f64, unit: &str| {
            self.hertz.map_or(String::new(), |hertz| format!(" ({:.0} {unit}/cycle)", rate / hertz))
        };
        let loads: Vec<String> = (WORKING_SETS.iter().zip(self.bytes))
            .map(|(size, rate)| {
                format!("{:.0} GB/s in {}", rate / 1e9, report::bytes(*size as u64))
            })
            .collect();
        let clock =
            self.hertz.map_or("unknown".to_owned(), |hertz| format!("{:.2} GHz", hertz / 1e9));
        report::fields(&[
            ("clock", clock),
            (
                "peak",
                format!(
                    "i8 {:.0} GMAC/s{}   f32 {:.0} GMAC/s{}   bf16 {:.0} GMAC/s{}",
                    self.macs_i8 / 1e9,
                    per_cycle(self.macs_i8, "MAC"),
                    self.macs_f32 / 1e9,
                    per_cycle(self.macs_f32, "MAC"),
                    self.macs_bf16 / 1e9,
                    per_cycle(self.macs_bf16, "MAC")
                ),
            ),
            ("loads", loads.join("   ")),
        ])
    }
}

/// Whether a step has weights in bf16.
fn has_bf16(model: &Model<'_>, step: &StepRecord) -> bool {
    let mut operands = model.operands(step).filter_map(|tensor| model.tensor(tensor as usize));
    operands.any(|tensor| tensor.dtype == DType::BF16 as u8)
}

/// Bytes that a step reads and writes at least: its operands, once each, at their largest sizes.
fn bytes_of(model: &Model<'_>, step: &StepRecord) -> u64 {
    let operands = model.operands(step).filter_map(|tensor| model.tensor(tensor as usize));
    operands.map(|tensor| tensor.bytes).fold(0, u64::saturating_add)
}

/// What a loop does in a second.
fn rate(found: &Loop) -> f64 {
    let mut rounds = 100;
    let time = |rounds: u64| {
        let start = Instant::now();
        found.run(black_box(rounds));
        start.elapsed()
    };
    while time(rounds) < MEASURED && rounds < 1 << 40 {
        rounds *= 2;
    }
    let best = (0..REPEATS).map(|_| time(rounds)).min().unwrap_or(MEASURED);
    rounds as f64 * found.per_round as f64 / best.as_secs_f64()
}

/// Bytes a second that are loaded from a block again and again.
fn loads(isa: Isa, block: &[u8]) -> f64 {
    let size = PIECE.min(block.len());
    let times = PIECE / size;
    let once = |piece: &[u8]| {
        let start = Instant::now();
        (0..times).for_each(|_| peak::load(isa, black_box(piece)));
        start.elapsed()
    };
    // The first pieces bring a small block into its cache.
    let pieces = block.chunks_exact(size).cycle();
    let best = pieces.take(REPEATS.max(2 * block.len() / size)).map(once).min();
    (times * size) as f64 / best.unwrap_or(MEASURED).as_secs_f64()
}
