//! The monitor's log in flash that loses power at every operation, beside plain sums of the periods.

use std::collections::BTreeMap;

use whit::format::*;
use whit::metrics::baseline::{BASELINE_VERSION, BaselineHeader, Feature, float_key, write};
use whit::metrics::counters::{Event, Group, decode};
use whit::metrics::kll::Kll;
use whit::metrics::record::{
    Alarm, Header, Kind, Piece, Pieces, Sample, Scores, Signal, SketchHead,
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

/// Four logits in, the same out.
fn model() -> Model<'static> {
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
        arena_bytes: 80,
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
            // Unless its header is damaged, it stands in front.
            let Some(header) = content.headers.get(&frame.tag) else { continue };
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
    let model = model();
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
                assert!(!flash.has_power(), "{what}");
                flash.power_up();
                // What was closed is there, and of what was being written perhaps some.
                let least = sums.plus(&broken.closed);
                let mut log = device.log(&flash).expect(&what);
                let content = read(&mut log);
                let found = content.only();
                let most = least.plus(&broken.open);
                assert!(least.is_within(&found) && found.is_within(&most), "{what}: {content:?}");
                // A sample is there, or counted.
                let dropped = content.sums.values().next();
                let dropped = dropped.map_or(0, |sums| sums.event(Event::SamplesDropped));
                let samples = dropped + content.samples.len() as u64;
                let (least, most) = (least.event(Event::Samples), most.event(Event::Samples));
                assert!((least..=most).contains(&samples), "{what}: {samples} {least} {most}");
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

#[test]
fn power_that_fails_again_and_again_costs_nothing_that_was_closed() {
    let device = Device { periods_per_start: 2, ..SMALL };
    let model = model();
    for operations in [4, 5, 7, 8] {
        // Room for a summary and as much again that was cut.
        let flash = FakeFlash::<4, 2048>::new(3 * 2048);
        let mut sums = Sums::default();
        for attempt in 0..500u32 {
            flash.cut_after(operations, Cut::ALL[attempt as usize % 5]);
            let start = device.start(&model, &flash, attempt);
            flash.power_up();
            let found = read(&mut device.log(&flash).expect("a log")).only();
            let least = sums.plus(&start.closed);
            let most = least.plus(&start.open);
            let what = format!("{operations} {attempt}: {least:?} {found:?} {most:?}");
            assert!(least.is_within(&found) && found.is_within(&most), "{what}");
            sums = found;
        }
        let erases = flash.erases();
        assert!(erases.iter().all(|erases| *erases > 2), "{operations}: {erases:?}");
        let content = read(&mut device.log(&flash).expect("a log"));
        let found = content.sums.values().next().expect("one");
        assert_eq!(found.event(Event::CountsDropped), 0, "{operations}");
        let samples = found.event(Event::SamplesDropped) + content.samples.len() as u64;
        // One that was being written is missing.
        let cut = sums.event(Event::Samples) - samples;
        assert!(cut < 500, "{operations}: {cut}");
    }
}

#[test]
fn windows_of_any_size_write_the_same_bytes_and_full_logs_wear_evenly() {
    let mut all = vec![];
    for counters in [1, 7, 64, 2000] {
        let device = Device { counters, periods_per_start: 9, ..SMALL };
        let model = model();
        let flash = FakeFlash::<4, 1024>::new(4 * 1024);
        let mut sums = Sums::default();
        for number in 0..if counters == 1 { 12 } else { 40 } {
            let start = device.start(&model, &flash, number);
            assert!(!start.failed);
            sums.add(&start.closed);
            assert!(spread(&flash.erases()) <= 1, "{:?}", flash.erases());
            if number == 11 {
                all.push(flash.bytes());
            }
        }
        let content = read(&mut device.log(&flash).expect("a log"));
        assert_eq!(content.only(), sums);
        // What went of the samples is counted.
        let closed = sums.event(Event::Samples);
        let dropped = content.sums.values().next().expect("one").event(Event::SamplesDropped);
        assert_eq!(dropped + content.samples.len() as u64, closed);
        assert_eq!(content.kinds[&Kind::Header], 1);
    }
    assert!(all.iter().all(|bytes| *bytes == all[0]));
}

#[test]
fn two_headers_in_turn_fold_each_by_its_own() {
    let model = model();
    let other = Device { config: Config { device: 7, ..SMALL.config }, ..SMALL };
    let flash = FakeFlash::<4, 4096>::new(3 * 4096);
    let mut sums: BTreeMap<u16, Sums> = BTreeMap::new();
    for number in 0..60 {
        // The second one only at first: its summary is carried on.
        let device = if number < 10 && number % 2 == 1 { other } else { SMALL };
        let start = device.start(&model, &flash, number);
        assert!(!start.failed, "start {number}");
        let mut memory = vec![0; 8192];
        let monitor = Monitor::new(&model, &device.config, &mut memory, (0, 0));
        let monitor = monitor.expect("a monitor");
        sums.entry(monitor.header().tag()).or_default().add(&start.closed);
        let content = read(&mut SMALL.log(&flash).expect("a log"));
        for (tag, sums) in &sums {
            assert_eq!(content.sums[tag].clone().without_drops(), *sums, "start {number}");
        }
    }
    assert_eq!(sums.len(), 2);
    assert!(flash.erases().iter().all(|erases| *erases > 1), "{:?}", flash.erases());
}

#[test]
fn numbers_of_runs_and_periods_never_meet_those_of_lost_periods() {
    let model = model();
    let flash = FakeFlash::<4, 1024>::new(4 * 1024);
    let mut runs = std::collections::BTreeSet::new();
    let mut random = Random(8);
    let logits: Vec<u8> = [1.0f32, 0.0, 0.0, 0.0].map(f32::to_le_bytes).concat();
    let (mut last, mut late) = (None, None);
    for start in 0..200u32 {
        // Power fails at any moment.
        flash.cut_after(random.below(70) as u32, Cut::ALL[start as usize % 5]);
        if let Ok(mut log) = SMALL.log(&flash) {
            let mut memory = vec![0; 8192];
            let monitor = Monitor::start(&model, &SMALL.config, &mut memory, &mut log, start);
            if let Ok(mut monitor) = monitor {
                assert!(last < Some(monitor.sequence()), "{last:?}");
                if let Some(run) = late.take() {
                    assert!(monitor.label_class(run, 1).is_err());
                }
                'power: loop {
                    last = Some(monitor.sequence());
                    for _ in 0..random.below(5) {
                        let run = monitor.ran(5, &logits);
                        assert!(runs.insert(run), "run {run} again");
                        late = Some(run);
                    }
                    if monitor.close_period(start, &mut log).is_err() {
                        break 'power;
                    }
                }
            }
        }
        flash.power_up();
    }
    assert!(runs.len() > 300, "{}", runs.len());
}

/// A log with one period of this number.
fn log_from(sequence: u32, flash: &FakeFlash<4, 1024>) {
    let mut log = SMALL.log(flash).expect("a log");
    let mut memory = vec![0; 8192];
    let begin = (sequence, 0);
    let mut monitor = Monitor::new(&model(), &SMALL.config, &mut memory, begin).expect("a monitor");
    monitor.close_period(1, &mut log).expect("written");
    assert_eq!(log.next_sequence(), sequence.wrapping_add(1));
}

#[test]
fn numbers_of_periods_go_round() {
    let flash = FakeFlash::new(4 * 1024);
    log_from(u32::MAX - 40, &flash);
    let mut sums = Sums { periods: 1, ..Sums::default() };
    sums.counts.insert((Group::Events, Event::Starts as usize), 1);
    for number in 0..60 {
        let start = SMALL.start(&model(), &flash, number);
        assert!(!start.failed);
        sums.add(&start.closed);
        assert_eq!(read(&mut SMALL.log(&flash).expect("a log")).only(), sums, "start {number}");
    }
    assert_eq!(SMALL.log(&flash).expect("a log").next_sequence(), 200);
}

#[test]
fn clocks_that_go_back_are_counted_and_lose_nothing() {
    let flash = FakeFlash::<4, 1024>::new(3 * 1024);
    let mut log = SMALL.log(&flash).expect("a log");
    let mut memory = vec![0; 8192];
    let model = model();
    let monitor = Monitor::start(&model, &SMALL.config, &mut memory, &mut log, 5000);
    let mut monitor = monitor.expect("a start");
    let logits: Vec<u8> = [1.0f32, 0.0, 0.0, 0.0].map(f32::to_le_bytes).concat();
    for period in 0..200u32 {
        monitor.ran(period, &logits);
        // Back, then ahead.
        let now_s = if period % 2 == 0 { 1000 + period } else { 9000 + period };
        monitor.close_period(now_s, &mut log).expect("written");
    }
    let sums = read(&mut log).only();
    assert_eq!((sums.event(Event::Runs), sums.event(Event::ClockFaults)), (200, 100));
    assert_eq!((sums.periods, sums.event(Event::Starts)), (201, 1));
}

#[test]
fn samples_larger_than_the_log_never_cost_counts() {
    let flash = FakeFlash::<4, 1024>::new(3 * 1024);
    let mut log = SMALL.log(&flash).expect("a log");
    let mut memory = vec![0; 8192];
    let model = model();
    let monitor = Monitor::start(&model, &SMALL.config, &mut memory, &mut log, 0);
    let mut monitor = monitor.expect("a start");
    let logits: Vec<u8> = [1.0f32, 0.0, 0.0, 0.0].map(f32::to_le_bytes).concat();
    let mut wanted = 0;
    for period in 0..20 {
        monitor.ran(1, &logits);
        monitor.close_period(period, &mut log).expect("written");
        wanted += 1;
        for number in 0..100 {
            let sample = Sample {
                sequence: period + 1,
                run_id: number,
                total_bytes: 40,
                ..Sample::default()
            };
            let mut buffer = [0; 96];
            let tag = monitor.header().tag();
            let record = sample.encode(tag, &[number as u8; 40], &mut buffer).expect("room");
            log.write(Kind::Sample, record).expect("written");
            wanted += 1;
        }
    }
    let content = read(&mut log);
    assert_eq!(content.only().event(Event::Runs), 20);
    let dropped = content.sums.values().next().expect("one").event(Event::SamplesDropped);
    assert_eq!(dropped + content.samples.len() as u64, wanted);
    assert!(content.samples.len() > 5, "{}", content.samples.len());
}

#[test]
fn summaries_without_room_say_what_they_left_out() {
    let flash = FakeFlash::<4, 320>::new(4 * 320);
    let mut sums = Sums::default();
    for number in 0..60 {
        let start = SMALL.start(&model(), &flash, number);
        assert!(!start.failed);
        sums.add(&start.closed);
    }
    let content = read(&mut SMALL.log(&flash).expect("a log"));
    let found = content.sums.values().next().expect("one").clone();
    assert!(found.event(Event::CountsDropped) > 0);
    assert_eq!((found.periods, found.event(Event::Runs)), (sums.periods, sums.event(Event::Runs)));
    assert!(content.only().is_within(&sums));
}

#[test]
fn broken_foreign_and_wrong_flash_is_told() {
    let geometry = |bytes: u32, from: u32| {
        let memory = Vec::leak(vec![0; 4096]);
        let flash = FakeFlash::<4, 1024>::new(8 * 1024);
        MonitorLog::open(flash, from..bytes, memory, SMALL.sizes()).err()
    };
    for (bytes, from, good) in [
        (3072, 0, true),
        (2048, 0, false),
        (3000, 0, false),
        (4096, 100, false),
        (9216, 0, false),
        (1024, 4096, false),
    ] {
        let error = geometry(bytes, from);
        assert_eq!(error, (!good).then_some(MonitorLogError::Geometry), "{from}..{bytes}");
    }
    let flash = FakeFlash::<4, 1024>::new(4 * 1024);
    let needed = SMALL.sizes().memory_bytes();
    let short = Vec::leak(vec![0; needed - 1]);
    let error = MonitorLog::open(flash.clone(), 0..4096, short, SMALL.sizes()).err();
    assert_eq!(error, Some(MonitorLogError::Memory { needed, given: needed - 1 }));
    // Flash that fails refuses, and loses nothing that was there.
    let start = SMALL.start(&model(), &flash, 0);
    let mut log = SMALL.log(&flash).expect("a log");
    flash.break_range(Some(0..4096));
    let mut memory = vec![0; 8192];
    let failed = Monitor::start(&model(), &SMALL.config, &mut memory, &mut log, 0);
    assert!(matches!(failed, Err(MonitorError::Sink(MonitorLogError::Flash(_)))));
    assert!(SMALL.log(&flash).is_err());
    assert!(matches!(log.write(Kind::Period, &[1, 2, 3]), Err(MonitorLogError::NoRecord)));
    flash.break_range(None);
    assert_eq!(read(&mut log).only(), start.closed);
    drop(log);
    // Now and then a block that can't be written or erased: what was refused may be missing, nothing else.
    let mut sums = start.closed;
    let (mut random, mut refused) = (Random(3), 0);
    for number in 1..60 {
        let mut log = SMALL.log(&flash).expect("a log");
        let begin = (log.next_sequence(), 0);
        let mut memory = vec![0; 8192];
        let model = model();
        let monitor = Monitor::new(&model, &SMALL.config, &mut memory, begin);
        let mut monitor = monitor.expect("a monitor");
        for _ in 0..5 {
            let from = random.below(4096) as u32;
            flash.break_range((random.below(2) == 0).then_some(from..from + 200));
            let (sequence, runs) = (monitor.sequence(), random.below(9));
            for _ in 0..runs {
                monitor.ran(1, &[0; 16]);
            }
            let present = Device::present(&monitor);
            refused += u32::from(monitor.close_period(number, &mut log).is_err());
            // What came behind the period's record isn't in these sums.
            if monitor.sequence() != sequence {
                sums.add(&present);
            }
        }
        flash.break_range(None);
        // Runs that are still open go with this start.
        while monitor.event(Event::Runs) > 0 {
            let present = Device::present(&monitor);
            monitor.close_period(number, &mut log).expect("written");
            sums.add(&present);
        }
        assert_eq!(read(&mut log).only().event(Event::Runs), sums.event(Event::Runs), "{number}");
    }
    assert!(refused > 10, "{refused}");
    // A record that is longer than the memory given later is told, not passed over.
    let small = LogSizes { record_bytes: 73, ..SMALL.sizes() };
    let large = LogSizes { record_bytes: 300, ..SMALL.sizes() };
    let flash = FakeFlash::<4, 1024>::new(4 * 1024);
    let memory = Vec::leak(vec![0; 4096]);
    let mut log = MonitorLog::open(flash.clone(), 0..4096, memory, large).expect("a log");
    let sample = Sample { total_bytes: 250, ..Sample::default() };
    let mut buffer = [0; 300];
    let record = sample.encode(7, &[1; 250], &mut buffer).expect("room");
    log.write(Kind::Sample, record).expect("written");
    drop(log);
    let memory = Vec::leak(vec![0; 4096]);
    let mut open = |sizes| MonitorLog::open(flash.clone(), 0..4096, &mut memory[..], sizes).err();
    assert_eq!(open(small), Some(MonitorLogError::Record { bytes: 283 }));
    assert_eq!(open(large), None);
    // Whatever stands in flash before.
    for seed in 1..60u64 {
        let flash = FakeFlash::<4, 1024>::new(4 * 1024);
        let mut random = Random(seed * 7919);
        flash.corrupt(0, |bytes| bytes.iter_mut().for_each(|byte| *byte = random.below(256) as u8));
        if seed % 3 == 0 {
            // Some blocks erased, some begun.
            let (block, from) = (random.below(4) as usize, random.below(2) as usize * 4);
            flash.corrupt(0, |bytes| bytes[block * 1024 + from..(block + 1) * 1024].fill(0xFF));
        }
        let mut sums = Sums::default();
        for number in 0..12 {
            let start = SMALL.start(&model(), &flash, number);
            assert!(!start.failed, "seed {seed}");
            sums.add(&start.closed);
        }
        assert_eq!(read(&mut SMALL.log(&flash).expect("a log")).only(), sums, "seed {seed}");
    }
}

#[test]
fn damaged_records_are_passed_over() {
    let model = model();
    let flash = FakeFlash::<4, 1024>::new(4 * 1024);
    for number in 0..9 {
        assert!(!SMALL.start(&model, &flash, number).failed);
    }
    let whole = read(&mut SMALL.log(&flash).expect("a log")).only();
    let (mut random, mut stuck) = (Random(4), 0);
    for _ in 0..300 {
        let flash = flash.duplicate();
        for _ in 0..1 + random.below(3) {
            let (at, bit) = (random.below(4096), random.below(8));
            flash.corrupt(at as u32, |bytes| bytes[0] ^= 1 << bit);
        }
        let mut log = SMALL.log(&flash).expect("a log");
        let found = read(&mut log).only();
        // Less of some, or more when it was of a summary that stood for others still there.
        assert!(found.periods <= whole.periods + 40, "{found:?}");
        drop(log);
        let refused = (20..30).filter(|number| SMALL.start(&model, &flash, *number).failed).count();
        stuck += u32::from(refused > 1);
    }
    // Words of this flash can't be written when one bit of them is 0: a block whose last word is such a one can't be closed.
    assert!(stuck <= 3, "{stuck}");
}

#[test]
fn sketches_fold_within_their_bound() {
    let config = Config { sketch: (Signal::Latency, 60), samples: 0, ..SMALL.config };
    let device = Device { config, ..SMALL };
    let flash = FakeFlash::<4, 2048>::new(4 * 2048);
    let mut log = device.log(&flash).expect("a log");
    let mut memory = vec![0; 8192];
    let model = model();
    let monitor = Monitor::start(&model, &config, &mut memory, &mut log, 0);
    let mut monitor = monitor.expect("a start");
    let logits: Vec<u8> = [1.0f32, 0.0, 0.0, 0.0].map(f32::to_le_bytes).concat();
    let (mut random, mut stream) = (Random(6), vec![]);
    for period in 0..60 {
        for _ in 0..random.below(200) {
            let latency = 1 << random.below(20);
            monitor.ran(latency, &logits);
            stream.push(whit::metrics::math::log2_q16(u64::from(latency)) as i32 >> 6);
        }
        monitor.close_period(period, &mut log).expect("written");
        let content = read(&mut log);
        let mut words = vec![0; Kll::words(900)];
        let mut sum = Kll::new(&mut words, 1).expect("room");
        for (_, bytes) in &content.sketches {
            let mut one = vec![0; Kll::words(60)];
            sum.merge(&Kll::decode(bytes, &mut one).expect("a sketch"));
        }
        assert_eq!(sum.count(), stream.len() as u64, "period {period}");
        for x in stream.iter().step_by(50) {
            let exact = stream.iter().filter(|item| *item <= x).count() as u64;
            assert!(sum.rank(*x).abs_diff(exact) <= sum.error_bound());
        }
        assert!(content.sketches.iter().filter(|(head, _)| head.folded == 1).count() <= 1);
    }
    assert!(flash.erases().iter().all(|erases| *erases > 0));
}
