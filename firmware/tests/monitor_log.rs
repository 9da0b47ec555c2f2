//! The monitor's log in flash that loses power at every operation, beside plain sums of the periods.

use std::collections::BTreeMap;

use whit::format::*;
use whit::metrics::baseline::{BASELINE_VERSION, BaselineHeader, Feature, float_key, write};
use whit::metrics::counters::{Cursor, Event, Group, Head, decode, encode};
use whit::metrics::kll::Kll;
use whit::metrics::record::{
    Alarm, FRAME_FRONT, Header, Kind, Piece, Pieces, Sample, Scores, Signal, SketchHead, seal,
};
use whit::metrics::{Config, Log, Monitor, MonitorError, Sink};
use whit::{DType, Model};
use whit_firmware::testing::{Cut, FakeFlash};
use whit_firmware::{LogSizes, MonitorLog, MonitorLogError};

const ELEMENTS: usize = 4;
const WINDOW: u16 = 6;

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

fn baseline() -> Vec<u8> {
    let header = BaselineHeader {
        version: BASELINE_VERSION,
        header_bytes: BaselineHeader::SIZE as u32,
        samples: 100,
        window_runs: WINDOW,
        classes: ELEMENTS as u16,
        features: ELEMENTS as u16,
        dtype: DType::F32 as u8,
        bins: 4,
        scores: Scores::Logits as u8,
        inner: 1,
        step: 1,
        false_alarm_q32: 42_949_673,
        discovery_q32: 42_949_673,
        class_thresholds: [30_000; 3],
        confidence_thresholds: [u32::MAX; 3],
        value_unit: 1.0,
        confidence: [10; 16],
        ..BaselineHeader::default()
    };
    let edges = [-1.0f32, 0.0, 1.0].map(float_key);
    let feature = || Feature { edges: &edges, counts: &[25; 4], means: [30_000; 3] };
    let mut out = vec![0; header.section_bytes(DType::F32)];
    let quantiles = [core::array::from_fn(|level| 900 + 80 * level as u16); 3];
    write(
        &header,
        DType::F32,
        &quantiles,
        &[(); ELEMENTS].map(|()| feature()),
        &[25; ELEMENTS],
        &[],
        &mut out,
    );
    out
}

/// Four logits in, the same out. `stamp` makes another model of it.
fn model(stamp: u64) -> Model<'static> {
    let tensor = |offset| TensorRecord {
        dtype: 1,
        storage: 1,
        rank: 2,
        dims: [1, ELEMENTS as i32, 0, 0, 0, 0, 0, 0],
        offset,
        bytes: 4 * ELEMENTS as u64,
        ..Default::default()
    };
    let step = StepRecord {
        op: Op::Slice as u16,
        attributes_bytes: 64,
        input_count: 1,
        output_count: 1,
        ..Default::default()
    };
    let mut attributes = vec![0; 64];
    SliceAttributes { starts: [0; 8], steps: [1; 8] }.write(&mut attributes);
    let mut op_set = OpBits::default();
    op_set.insert(Op::Slice);
    let totals = FileHeader {
        arena_bytes: 80 + 64 * stamp,
        step_count: 1,
        tensor_count: 2,
        input_count: 1,
        output_count: 1,
        op_set: op_set.0,
        ..Default::default()
    };
    let file = FileBuilder::new()
        .bytes(Section::Strings, vec![])
        .records(Section::Tensors, &[tensor(0), tensor(64)])
        .records(Section::Steps, &[step])
        .records(Section::Operands, &[0u32, 1])
        .bytes(Section::Attributes, attributes)
        .bytes(Section::Constants, vec![])
        .records(Section::Interface, &[0u32, 1])
        .bytes(Section::Baseline, baseline())
        .finish(totals);
    let mut bytes = vec![0; file.len() + 64];
    let start = bytes.as_ptr().align_offset(64);
    bytes[start..start + file.len()].copy_from_slice(&file);
    Model::open(&Vec::leak(bytes)[start..start + file.len()]).expect("a model")
}

/// The header of a model file; `Header` is that of a log.
type FileHeader = whit::format::Header;

/// Counters that aren't 0, and the number of periods.
#[derive(Clone, Debug, Default, PartialEq)]
struct Sums {
    periods: u64,
    counts: BTreeMap<(Group, usize), u64>,
}

impl Sums {
    fn add(&mut self, other: &Sums) {
        self.periods += other.periods;
        for (counter, count) in &other.counts {
            *self.counts.entry(*counter).or_default() += count;
        }
    }

    fn plus(&self, other: &Sums) -> Sums {
        let mut sum = self.clone();
        sum.add(other);
        sum
    }

    /// Whether no counter is above the other's.
    fn is_within(&self, other: &Sums) -> bool {
        self.periods <= other.periods
            && self
                .counts
                .iter()
                .all(|(counter, count)| other.counts.get(counter).is_some_and(|most| count <= most))
    }

    fn event(&self, event: Event) -> u64 {
        self.counts.get(&(Group::Events, event as usize)).copied().unwrap_or(0)
    }

    /// Without what a log counts of itself.
    fn without_drops(mut self) -> Sums {
        for event in [Event::SamplesDropped, Event::CountsDropped] {
            self.counts.remove(&(Group::Events, event as usize));
        }
        self
    }
}

/// What a host reads.
#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    /// By tag.
    sums: BTreeMap<u16, Sums>,
    headers: BTreeMap<u16, Header>,
    kinds: BTreeMap<Kind, usize>,
    sketches: Vec<(SketchHead, Vec<u8>)>,
    samples: Vec<Sample>,
    /// Of periods.
    sequences: Vec<u32>,
}

impl Content {
    /// Of a log in one piece without damage, each header in front of its records.
    fn of(bytes: Vec<u8>) -> Content {
        let mut content = Content::default();
        for piece in Pieces::new(&bytes) {
            let Piece::Record(frame) = piece else { panic!("{piece:?}") };
            *content.kinds.entry(frame.kind).or_default() += 1;
            if frame.kind == Kind::Header {
                let header = Header::decode(frame.payload).expect("a header");
                assert!(content.headers.insert(frame.tag, header).is_none(), "once");
                continue;
            }
            let header = content.headers.get(&frame.tag).expect("a header in front");
            match frame.kind {
                Kind::Sketch => {
                    let (head, sketch) = SketchHead::decode(frame.payload).expect("a sketch");
                    content.sketches.push((head, sketch.to_vec()));
                }
                Kind::Sample => {
                    content.samples.push(Sample::decode(frame.payload).expect("a sample").0);
                }
                Kind::Alarm => drop(Alarm::decode(frame.payload).expect("an alarm")),
                _ => {
                    let sums = content.sums.entry(frame.tag).or_default();
                    let shape = header.shape().expect("a shape");
                    let head = decode(frame.payload, &shape, &mut |group, index, value| {
                        *sums.counts.entry((group, index)).or_default() += value;
                        Ok(())
                    });
                    let head = head.expect("counts");
                    sums.periods += head.periods;
                    if frame.kind == Kind::Period {
                        content.sequences.push(head.sequence);
                    }
                }
            }
        }
        content.bytes = bytes;
        content
    }

    /// Of the only header, without what the log counts of itself.
    fn only(&self) -> Sums {
        assert!(self.sums.len() <= 1);
        self.sums.values().next().cloned().unwrap_or_default().without_drops()
    }
}

fn read<const W: usize, const E: usize>(log: &mut MonitorLog<'_, FakeFlash<W, E>>) -> Content {
    let mut bytes = vec![];
    log.read(&mut |record| bytes.extend_from_slice(record)).expect("readable");
    Content::of(bytes)
}

/// A device's configuration and the stream that it sees.
#[derive(Clone, Copy)]
struct Device {
    config: Config,
    counters: u16,
    seed: u64,
    periods_per_start: u32,
}

/// What came to the log in a start: periods that were closed, and the one that wasn't.
#[derive(Default)]
struct Start {
    closed: Sums,
    open: Sums,
    failed: bool,
}

impl Device {
    fn sizes(&self) -> LogSizes {
        LogSizes { counters: self.counters, ..LogSizes::of(&self.config) }
    }

    fn log<const W: usize, const E: usize>(
        &self,
        flash: &FakeFlash<W, E>,
    ) -> Result<MonitorLog<'static, FakeFlash<W, E>>, String> {
        let memory = Vec::leak(vec![0xAA; self.sizes().memory_bytes()]);
        let range = 0..flash.bytes().len() as u32;
        MonitorLog::open(flash.clone(), range, memory, self.sizes())
            .map_err(|error| format!("{error:?}"))
    }

    /// What the monitor is about to write.
    fn present(monitor: &Monitor<'_>) -> Sums {
        let shape = monitor.header().shape().expect("a shape");
        let mut sums = Sums { periods: 1, ..Sums::default() };
        let has_window = monitor.event(Event::Windows) > 0;
        for group in Group::ALL {
            if Group::OF_WINDOWS.contains(&group) && !has_window {
                continue;
            }
            for index in 0..shape.len(group) {
                let mut count = monitor.get(group, index);
                // Known only when the period is closed.
                if (group, index) == (Group::Events, Event::Samples as usize) {
                    let runs = u64::from(monitor.event(Event::Runs));
                    count = if monitor.header().sample_bytes > 0 { runs.min(1) } else { 0 };
                }
                if count > 0 {
                    sums.counts.insert((group, index), count);
                }
            }
        }
        sums
    }

    /// A start, periods with runs and labels, until they are over or power is.
    fn start<const W: usize, const E: usize>(
        &self,
        model: &Model<'static>,
        flash: &FakeFlash<W, E>,
        number: u32,
    ) -> Start {
        let mut start = Start::default();
        let mut random = Random(self.seed + u64::from(number) * 77);
        let begin =
            Sums { periods: 1, counts: [((Group::Events, Event::Starts as usize), 1)].into() };
        let Ok(mut log) = self.log(flash) else {
            start.failed = true;
            return start;
        };
        let mut memory = vec![0; Monitor::memory_bytes(model, &self.config).expect("sizes")];
        let monitor = Monitor::start(model, &self.config, &mut memory, &mut log, 100 * number);
        let Ok(mut monitor) = monitor else {
            (start.open, start.failed) = (begin, true);
            return start;
        };
        start.closed.add(&begin);
        for period in 0..self.periods_per_start {
            for _ in 0..4 + random.below(6) {
                let x: [f32; ELEMENTS] =
                    core::array::from_fn(|_| random.below(4000) as f32 / 1000.0 - 2.0);
                let bytes = x.map(f32::to_le_bytes).concat();
                monitor.input(0, DType::F32, &bytes);
                let run = monitor.ran(1000 + random.below(30) as u32, &bytes);
                if self.config.labels > 0 && random.below(2) == 0 {
                    monitor.label_class(run, random.below(4) as u32).expect("waits");
                }
            }
            let present = Device::present(&monitor);
            // Idle time, now and then.
            if random.below(3) == 0 && log.work().is_err() {
                start.failed = true;
                return start;
            }
            match monitor.close_period(100 * number + 10 * period, &mut log) {
                Ok(()) => start.closed.add(&present),
                Err(_) => {
                    (start.open, start.failed) = (present, true);
                    return start;
                }
            }
        }
        start
    }
}

const SMALL: Device = Device {
    config: Config {
        latency: true,
        drift: true,
        window_every: 1,
        labels: 8,
        samples: 1,
        sample_bytes: 16,
        record_bytes: 96,
        ..Config::DEFAULT
    },
    counters: 64,
    seed: 99,
    periods_per_start: 3,
};

fn spread(erases: &[u32]) -> u32 {
    erases.iter().max().unwrap() - erases.iter().min().unwrap()
}

/// Cuts power in every operation of a run of `starts` starts, in every way; gives how many cuts.
fn cut_everywhere<const W: usize, const E: usize>(
    device: Device,
    blocks: usize,
    starts: u32,
) -> u32 {
    let model = model(0);
    let flash = FakeFlash::<W, E>::new(blocks * E);
    let (mut sums, mut cuts) = (Sums::default(), 0);
    for number in 0..starts {
        let before = flash.duplicate();
        let first = flash.operations();
        let start = device.start(&model, &flash, number);
        assert!(!start.failed, "{W}/{E} start {number}");
        for operation in 0..flash.operations() - first {
            for cut in Cut::ALL {
                cuts += 1;
                let what = format!("{W}/{E} start {number} operation {operation} {cut:?}");
                let flash = before.duplicate();
                flash.cut_after(operation, cut);
                let broken = device.start(&model, &flash, number);
                assert!(broken.failed && !flash.has_power(), "{what}");
                flash.power_up();
                // What was closed is there, and of what was being written perhaps some.
                let least = sums.plus(&broken.closed);
                let mut log = device.log(&flash).expect(&what);
                let content = read(&mut log);
                let found = content.only();
                let most = least.plus(&broken.open);
                assert!(least.is_within(&found) && found.is_within(&most), "{what}: {content:?}");
                drop(log);
                // The log goes on, and loses none of it.
                let short = Device { periods_per_start: 1, ..device };
                let next = short.start(&model, &flash, 1000 + number);
                assert!(!next.failed, "{what}");
                let content = read(&mut device.log(&flash).expect(&what));
                assert_eq!(content.only(), found.plus(&next.closed), "{what}");
                let sequences = &content.sequences;
                assert!(sequences.is_sorted(), "{what}: {sequences:?}");
            }
        }
        sums.add(&start.closed);
        assert_eq!(read(&mut device.log(&flash).expect("a log")).only(), sums, "start {number}");
    }
    assert!(spread(&flash.erases()) <= 1, "{:?}", flash.erases());
    println!("{W}/{E} x {blocks}: {cuts} cuts, erases {:?}", flash.erases());
    assert!(flash.erases().iter().all(|erases| *erases >= 2), "{:?}", flash.erases());
    assert_eq!(sums.event(Event::Starts), u64::from(starts));
    cuts
}

#[test]
fn power_cut_at_every_operation_loses_what_is_being_written_at_most() {
    assert!(cut_everywhere::<4, 1024>(SMALL, 4, 22) > 3000);
}

#[test]
fn power_cut_at_every_operation_with_words_of_8_bytes_and_sketches() {
    let config = Config { sketch: (Signal::Confidence, 40), ..SMALL.config };
    let device = Device { config, seed: 5, ..SMALL };
    assert!(cut_everywhere::<8, 2048>(device, 3, 10) > 2000);
}
