//! Logs made with the device's own writer, read back; figures beside those of single runs.

use std::io::Read as _;
use std::path::PathBuf;

use whit::metrics::counters::{
    Cursor, Event, Group, Head, LATENCY_BUCKETS, Shape, Sum, Worst, encode,
};
use whit::metrics::histogram;
use whit::metrics::record::{
    Alarm, FRAME_FRONT, Header, Kind, LOG_MAGIC, LOG_VERSION, MAX_PAYLOAD, Piece, Pieces, seal,
};
use whit_convert::statistics::{Classified, Ranking, Statistic};

use super::counts::{Counts, Timeline};
use super::log::{Part, Remarks, read_parts};
use super::merge::{Fleet, Merger};
use super::reading::{Read, Selection, read_logs};
use super::statistics;

/// Marsaglia's xorshift.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at as u64 + 1) as usize);
        }
    }
}

/// The header of a classifier's log.
pub(crate) fn header(device: u64) -> Header {
    Header {
        magic: LOG_MAGIC,
        version: LOG_VERSION,
        model: 0x1234_5678_0000_4321,
        device,
        classes: 4,
        features: 6,
        bins: 8,
        tensors: 2,
        scores: 2,
        labels: 3,
        sample_bytes: 10,
        sample_dtype: 4,
        window_runs: 64,
        deadline_us: 5000,
        value_scale: 0.25,
        ..Header::default()
    }
}

/// A log in the making.
pub(crate) struct Log {
    pub(crate) header: Header,
    pub(crate) bytes: Vec<u8>,
}

impl Log {
    pub(crate) fn new(header: Header) -> Log {
        let mut out = [0; 128];
        let bytes = header.encode(&mut out).expect("room").to_vec();
        Log { header, bytes }
    }

    /// All parts of a record of counts, in payloads of this length at most.
    pub(crate) fn counts(
        &mut self,
        kind: Kind,
        head: Head,
        payload_bytes: usize,
        get: &dyn Fn(Group, usize) -> u64,
    ) {
        let groups = match kind {
            Kind::Period => Group::OF_PERIODS,
            Kind::Window => Group::OF_WINDOWS,
            _ => &Group::ALL,
        };
        let shape = self.header.shape().expect("a shape");
        let (mut cursor, mut part) = (Some(Cursor::default()), 0);
        while let Some(from) = cursor {
            let mut out = [0; MAX_PAYLOAD + 9];
            let periods = if part == 0 { head.periods } else { 0 };
            let head = Head { part, periods, ..head };
            let payload = &mut out[FRAME_FRONT..FRAME_FRONT + payload_bytes];
            let (bytes, next) = encode(&head, &shape, groups, get, from, payload).expect("room");
            self.bytes.extend(seal(&mut out, kind, self.header.tag(), bytes).expect("room"));
            (cursor, part) = (next, part + 1);
        }
    }

    pub(crate) fn alarm(&mut self, alarm: Alarm) {
        let mut out = [0; 64];
        self.bytes.extend(alarm.encode(self.header.tag(), &mut out).expect("room"));
    }

    /// A period with counts of every group, and its number.
    pub(crate) fn random_period(&mut self, random: &mut Random, sequence: u32) {
        let shape = self.header.shape().expect("a shape");
        let rare = 1 + random.below(9);
        let values: Vec<u64> = (0..shape.total())
            .map(|_| if random.below(rare) == 0 { random.below(500) } else { 0 })
            .collect();
        let worst = Worst { js_q16: random.below(60_000) as u32, feature: random.below(6) as u16 };
        let head = Head {
            sequence,
            periods: 1,
            start_s: sequence * 60 + random.below(20) as u32,
            duration_s: 40 + random.below(40),
            latency_max_us: random.below(100_000) as u32,
            worst: (random.below(2) == 0).then_some(worst),
            ..Head::default()
        };
        let get = |group, index| values[shape.offset(group) + index];
        let bytes = if random.below(4) == 0 { 100 } else { MAX_PAYLOAD };
        self.counts(Kind::Period, head, bytes, &get);
        if random.below(3) == 0 {
            let head = Head { periods: 0, worst: None, latency_max_us: 0, ..head };
            self.counts(Kind::Window, head, MAX_PAYLOAD, &get);
        }
    }
}

/// A folder of a test's own.
pub(crate) struct Folder(pub(crate) tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a folder"))
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).expect("a file");
        path
    }
}

fn merge(paths: &[PathBuf], selection: &Selection) -> (Vec<Fleet>, Read) {
    let mut merger = Merger::default();
    let read = read_logs(paths, selection, &mut merger).expect("logs");
    (merger.finish(), read)
}

#[test]
fn streams_give_the_pieces_of_the_whole_log() {
    /// Gives a few bytes at a time.
    struct Drops<'b>(&'b [u8], Random);
    impl std::io::Read for Drops<'_> {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            let bytes = (1 + self.1.below(3000) as usize).min(out.len()).min(self.0.len());
            out[..bytes].copy_from_slice(&self.0[..bytes]);
            self.0 = &self.0[bytes..];
            Ok(bytes)
        }
    }
    let mut random = Random(11);
    for round in 0..60 {
        let mut log = Log::new(header(1));
        for sequence in 0..120 {
            log.random_period(&mut random, sequence);
        }
        let mut bytes = log.bytes;
        assert!(bytes.len() > 12_000, "several buffers");
        for _ in 0..round % 7 {
            let at = random.below(bytes.len() as u64) as usize;
            match random.below(3) {
                0 => bytes[at] ^= 1 << random.below(8),
                1 => drop(bytes.drain(at..(at + 50).min(bytes.len()))),
                _ => bytes.truncate(bytes.len() - random.below(30) as usize),
            }
        }
        let expected: Vec<String> = Pieces::new(&bytes)
            .map(|piece| match piece {
                Piece::Record(frame) => format!("{:?}", Part::Record(frame)),
                Piece::Damaged { bytes: count, offset, error } => {
                    let last = offset + count == bytes.len();
                    let cut = last && error == whit::metrics::record::RecordError::Cut;
                    format!("{:?}", Part::Damaged { bytes: count as u64, cut })
                }
            })
            .collect();
        let mut found = Vec::new();
        read_parts(Drops(&bytes, Random(round + 1)), 0, &mut |part| {
            found.push(format!("{part:?}"));
            Ok(())
        })
        .expect("no input or output fails");
        assert!(found == expected, "round {round}");
    }
    let mut empty = Vec::new();
    (&b""[..]).read_to_end(&mut empty).expect("nothing");
    read_parts(&empty[..], 0, &mut |part| panic!("{part:?}")).expect("nothing");
}

#[test]
fn totals_are_the_same_in_any_order_and_grouping() {
    let mut random = Random(21);
    for round in 0..12 {
        let folder = Folder::new();
        let mut paths = Vec::new();
        for device in 0..5u64 {
            let mut log = Log::new(header(device / 2));
            let first = device as u32 * 1000;
            for sequence in first..first + 20 + round {
                log.random_period(&mut random, sequence);
            }
            paths.push(folder.write(&format!("{device}.log"), &log.bytes));
        }
        let (expected, read) = merge(&paths, &Selection::default());
        assert!(read.remarks.is_clean() && read.sentences().is_empty(), "{:?}", read.sentences());
        assert_eq!((expected.len(), expected[0].devices.len()), (1, 3));
        let mut sum = Counts::new(expected[0].totals.shape);
        for counts in expected[0].devices.values() {
            sum.add_counts(counts);
        }
        assert_eq!(sum, expected[0].totals);
        let mut sum = Counts::new(expected[0].totals.shape);
        for (_, counts) in expected[0].timeline.slots() {
            sum.add_counts(counts);
        }
        assert_eq!(sum, expected[0].totals);
        random.shuffle(&mut paths);
        assert_eq!(merge(&paths, &Selection::default()).0, expected, "another order");
        // Through summaries: some logs merged first, in any grouping.
        let split = 1 + random.below(4) as usize;
        let merged: Vec<PathBuf> = [&paths[..split], &paths[split..]]
            .iter()
            .enumerate()
            .map(|(number, paths)| {
                let (fleets, _) = merge(paths, &Selection::default());
                let mut bytes = Vec::new();
                for (device, counts) in &fleets[0].devices {
                    let header = header(*device);
                    bytes.extend(Log::new(header).bytes);
                    bytes.extend(counts.records(&header).expect("sums").concat());
                }
                folder.write(&format!("merged-{number}"), &bytes)
            })
            .collect();
        let (again, _) = merge(&merged, &Selection::default());
        assert_eq!(again[0].totals, expected[0].totals, "round {round}");
        assert_eq!(again[0].devices, expected[0].devices, "round {round}");
    }
}

#[test]
fn timelines_keep_to_their_slots_whatever_comes_first() {
    let shape = header(0).shape().expect("a shape");
    let mut random = Random(31);
    for span in [100, 10_000, 4_000_000_000] {
        let mut heads: Vec<Head> = (0..2000)
            .map(|_| Head { periods: 1, start_s: random.below(span) as u32, ..Head::default() })
            .collect();
        let line = |heads: &[Head]| {
            let mut timeline = Timeline::new(shape);
            for head in heads {
                timeline.add(head, &[(0, 1)]);
            }
            timeline
        };
        let expected = line(&heads);
        random.shuffle(&mut heads);
        assert_eq!(line(&heads), expected);
        assert!(expected.slots().len() <= 240);
        assert!(span == 100 || expected.slots().len() > 110, "{}", expected.slots().len());
        let runs: u64 = expected.slots().map(|(_, counts)| counts.event(Event::Runs)).sum();
        assert_eq!(runs, 2000);
        for (start_s, counts) in expected.slots() {
            assert!(counts.start_s >= start_s && counts.start_s < start_s + expected.slot_s());
        }
        assert!(expected.in_slots(7).slots().len() <= 7);
    }
}

#[test]
fn copies_of_a_log_are_told_and_can_count_once() {
    let mut random = Random(41);
    let folder = Folder::new();
    let mut log = Log::new(header(9));
    let mut lengths = Vec::new();
    for sequence in 0..30 {
        log.random_period(&mut random, sequence);
        log.alarm(Alarm {
            sequence,
            start_s: sequence * 60,
            source: 4,
            what: 1,
            ..Alarm::default()
        });
        lengths.push(log.bytes.len());
    }
    let early = folder.write("early", &log.bytes[..lengths[11]]);
    let late = folder.write("late", &log.bytes);
    let (expected, _) = merge(std::slice::from_ref(&late), &Selection::default());
    let once = Selection { once: true, ..Selection::default() };
    for order in [[early.clone(), late.clone()], [late.clone(), early.clone()]] {
        let (fleets, read) = merge(&order, &Selection::default());
        assert_eq!(read.repeated.get(&9), Some(&12));
        assert_eq!(fleets[0].totals.periods, 42);
        assert!(read.sentences().iter().any(|s| s.contains("--once")), "{:?}", read.sentences());
        let (fleets, read) = merge(&order, &once);
        assert_eq!(fleets, expected);
        assert_eq!(read.repeated.get(&9), Some(&12));
    }
    // The same file by two names is one file.
    let (fleets, read) = merge(&[late.clone(), late.clone()], &Selection::default());
    assert_eq!((&fleets, read.logs), (&expected, 1));
    // A log whose first periods the device has folded into a summary.
    let mut folded = Log::new(header(9));
    let (twelve, _) = merge(std::slice::from_ref(&early), &Selection::default());
    folded.bytes.extend(twelve[0].totals.records(&header(9)).expect("sums").concat());
    folded.bytes.extend(&log.bytes[lengths[11]..]);
    let folded = folder.write("folded", &folded.bytes);
    let (fleets, read) = merge(&[early.clone(), folded.clone()], &once);
    assert_eq!(fleets[0].totals, expected[0].totals);
    assert_eq!((read.repeated.get(&9), read.overlapping), (Some(&12), 0));
    let part = folder.write("part", &log.bytes[..lengths[4]]);
    let (_, read) = merge(&[part, folded], &once);
    assert_eq!(read.overlapping, 1);
}

#[test]
fn what_cannot_be_read_is_counted() {
    let mut random = Random(51);
    let folder = Folder::new();
    let mut log = Log::new(header(1));
    for sequence in 0..10 {
        log.random_period(&mut random, sequence);
    }
    let whole = log.bytes.clone();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        let path = folder.write("log", &bytes);
        let (fleets, read) = merge(&[path], &Selection::default());
        let periods = fleets.first().map_or(0, |fleet| fleet.totals.periods);
        (periods, read.remarks)
    };
    let (periods, clean) = with(&|_| {});
    assert_eq!((periods, clean.is_clean()), (10, true));
    let (periods, remarks) = with(&|bytes| bytes.truncate(bytes.len() - 3));
    assert_eq!(remarks.cut, 1);
    assert!(periods >= 9);
    let (_, remarks) = with(&|bytes| bytes[300] ^= 4);
    assert_eq!((remarks.damages, remarks.cut), (1, 0));
    assert!(remarks.damaged_bytes > 10);
    // Records of a header that is of the next version, or nowhere.
    let (periods, remarks) = with(&|bytes| {
        let mut next = Log::new(Header { version: LOG_VERSION + 1, ..header(2) });
        next.header.version = LOG_VERSION;
        // The tag that the writer of that version would have used.
        let tag = Header { version: LOG_VERSION + 1, ..header(2) }.tag();
        let mut out = [0; 64];
        next.bytes
            .extend(Alarm { source: 1, ..Alarm::default() }.encode(tag, &mut out).expect("room"));
        bytes.extend(&next.bytes);
    });
    assert_eq!((periods, remarks.without_header), (10, 1));
    assert_eq!(remarks.versions.get(&(LOG_VERSION + 1)), Some(&1));
    assert_eq!(remarks.sentences().len(), 2, "{:?}", remarks.sentences());
    // A header behind its records.
    let (periods, remarks) = with(&|bytes| bytes.rotate_left(73));
    assert_eq!((periods, remarks.is_clean()), (10, true));
    let (periods, remarks) = with(&|bytes| drop(bytes.drain(..73)));
    assert_eq!((periods, remarks.without_header), (0, clean.records - 1));
    // A checksum that matches around nonsense.
    let (periods, remarks) = with(&|bytes| {
        let mut out = [0xFF; 64];
        bytes.extend(seal(&mut out, Kind::Period, header(1).tag(), 20).expect("room"));
        bytes.extend(seal(&mut out, Kind::Alarm, header(1).tag(), 20).expect("room"));
        bytes.extend(seal(&mut out, Kind::Header, header(1).tag(), 20).expect("room"));
    });
    assert_eq!((periods, remarks.meaningless), (10, 3));
    // A part that isn't there.
    let mut parts = Log::new(header(1));
    let get = |_: Group, index: usize| index as u64 * 1000;
    parts.counts(Kind::Period, Head { periods: 1, ..Head::default() }, 60, &get);
    let pieces: Vec<Vec<u8>> = Pieces::new(&parts.bytes)
        .map(|piece| match piece {
            Piece::Record(frame) => frame.payload.to_vec(),
            Piece::Damaged { .. } => unreachable!("it was just written"),
        })
        .collect();
    assert!(pieces.len() > 4);
    for missing in 1..pieces.len() {
        let mut bytes = Log::new(header(1)).bytes;
        for (number, payload) in pieces.iter().enumerate().skip(1) {
            if number != missing {
                let mut out = [0; 4200];
                out[FRAME_FRONT..FRAME_FRONT + payload.len()].copy_from_slice(payload);
                bytes.extend(
                    seal(&mut out, Kind::Period, header(1).tag(), payload.len()).expect("room"),
                );
            }
        }
        let (_, read) = merge(&[folder.write("parts", &bytes)], &Selection::default());
        assert_eq!(read.remarks.incomplete, 1, "without {missing}");
    }
    // Sums beyond the limit.
    let (_, remarks) = with(&|bytes| {
        for sequence in 100..102 {
            let mut huge = Log::new(header(1));
            let get = |group, index| if (group, index) == (Group::Events, 0) { 1 << 61 } else { 0 };
            let head = Head { sequence, periods: 1, ..Head::default() };
            huge.counts(Kind::Period, head, 4096, &get);
            bytes.extend(huge.bytes);
        }
    });
    assert_eq!(remarks.too_large, 1);
    assert!(!remarks.is_clean() && Remarks::default().is_clean());
}

/// Counts of single runs, as the device makes them.
fn count_runs(shape: Shape, runs: &[(Group, usize)]) -> Counts {
    let mut counts = Counts::new(shape);
    for (group, index) in runs {
        counts.add(&Head::default(), &[((shape.offset(*group) + index) as u32, 1)]);
    }
    counts
}

#[test]
fn quality_is_that_of_the_single_runs() {
    let mut random = Random(61);
    for classes in [2usize, 4] {
        let shape = Shape { classes: classes as u16, class_labels: true, ..Shape::default() };
        let (mut entries, mut scores, mut labels) = (Vec::new(), Vec::new(), Vec::new());
        let (mut ranks, mut outcomes) = (Vec::new(), Vec::new());
        for _ in 0..500 {
            let most = classes as u64 - random.below(2);
            let label = random.below(most) as usize;
            let predicted =
                if random.below(3) > 0 { label } else { random.below(classes as u64) as usize };
            entries.push((Group::Confusion, label * classes + predicted));
            let bin = random.below(16) as usize;
            let outcome = usize::from(random.below(16) < bin as u64);
            entries.push((Group::Scored, outcome * 16 + bin));
            ranks.push(bin as f32);
            outcomes.push(outcome == 1);
            labels.push(label);
            scores.extend((0..classes).map(|class| f32::from(u8::from(class == predicted))));
        }
        let counts = count_runs(shape, &entries);
        let found = statistics::classification(&counts).expect("labels");
        let oracle = Classified::new(&scores, &labels, classes).expect("runs");
        let ones = vec![1; 500];
        let mut values = vec![0.0; oracle.metrics().len()];
        oracle.values(&ones, &mut values);
        let near = |a: f64, b: f64| (a - b).abs() < 1e-12;
        for (found, expected) in
            [found.accuracy.value, found.macro_recall, found.macro_f1].into_iter().zip(&values)
        {
            assert!(near(found, *expected), "{found} {expected}");
        }
        assert_eq!(found.confusion.concat(), oracle.confusion(&ones));
        let scored = statistics::scored(&counts).expect("labels");
        let ranking = Ranking::new(&ranks, &outcomes);
        let area = scored.roc_auc.expect("both outcomes");
        assert!(near(area.value, ranking.roc_auc(&ranking.ones())), "{area:?}");
        assert!(area.low < area.value && area.value < area.high);
    }
}

#[test]
fn figures_of_bins_hold_those_of_the_runs() {
    let mut random = Random(71);
    let shape = Shape { classes: 2, class_labels: true, ..Shape::default() };
    let edges = statistics::confidence_edges();
    assert_eq!(edges.len(), 17);
    for round in 0..50 {
        let (mut entries, mut runs) = (Vec::new(), Vec::new());
        for _ in 0..300 {
            let p = (random.below(10_000) as f64 / 10_000.0).powi(1 + round % 3);
            let outcome = random.below(10_000) as f64 / 10_000.0 < p;
            let bin = edges[1..16].iter().filter(|edge| p >= **edge).count();
            entries.push((Group::Scored, usize::from(outcome) * 16 + bin));
            entries.push((Group::Confidence, bin));
            runs.push((p, outcome));
        }
        let counts = count_runs(shape, &entries);
        let scored = statistics::scored(&counts).expect("labels");
        let mean = |of: &dyn Fn(f64, bool) -> f64| {
            runs.iter().map(|(p, outcome)| of(*p, *outcome)).sum::<f64>() / 300.0
        };
        let loss = mean(&|p, outcome| -(if outcome { p } else { 1.0 - p }).clamp(1e-7, 1.0).ln());
        let gap = mean(&|p, outcome| p - f64::from(u8::from(outcome)));
        let confidence = mean(&|p, _| p);
        let pairs: Vec<f64> = runs
            .iter()
            .filter(|(_, hit)| *hit)
            .flat_map(|(p, _)| {
                runs.iter().filter(|(_, hit)| !*hit).map(move |(q, _)| match p.total_cmp(q) {
                    std::cmp::Ordering::Greater => 1.0,
                    std::cmp::Ordering::Equal => 0.5,
                    std::cmp::Ordering::Less => 0.0,
                })
            })
            .collect();
        let area = pairs.iter().sum::<f64>() / pairs.len() as f64;
        for (name, exact, found) in [
            ("log-loss", loss, scored.log_loss),
            ("overconfidence", gap, scored.overconfidence),
            ("confidence", confidence, statistics::mean_confidence(&counts).expect("runs")),
            ("area", area, scored.roc_auc.expect("both")),
        ] {
            let margin = 1e-9;
            assert!(
                found.low <= exact + margin && exact <= found.high + margin,
                "{name} {exact} {found:?}"
            );
            assert!(found.low <= found.value && found.value <= found.high, "{name} {found:?}");
        }
        let error = scored.calibration_error;
        assert!(error.low <= error.value && error.value <= error.high, "{error:?}");
    }
}

#[test]
fn latencies_are_within_their_bucket() {
    let mut random = Random(81);
    let shape = Shape::default();
    let mut values: Vec<u32> = (0..4000).map(|_| 300 + random.below(5000) as u32).collect();
    let mut counts = Counts::new(shape);
    for value in &values {
        let place = shape.offset(Group::Latency) + histogram::bucket(*value);
        let head = Head { latency_max_us: *value, ..Head::default() };
        counts.add(&head, &[(place as u32, 1)]);
    }
    values.sort_unstable();
    let latency = statistics::latency(&counts).expect("runs");
    for (found, rank) in [(latency.p50, 2000), (latency.p90, 3600), (latency.p99, 3960)] {
        let exact = f64::from(values[rank - 1]);
        assert!(found.low <= exact && exact <= found.high, "{exact} {found:?}");
        assert!((found.value - exact).abs() <= exact / 16.0);
    }
    let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / 4000.0;
    assert!(latency.mean.low <= mean && mean <= latency.mean.high);
    assert_eq!((latency.max, latency.runs), (values[3999], 4000));
    assert_eq!(statistics::latency(&Counts::new(shape)), None);
    assert_eq!(counts.group(Group::Latency).len(), LATENCY_BUCKETS);
}

#[test]
fn regression_is_that_of_the_single_values() {
    let mut random = Random(91);
    let shape = Shape { value_labels: true, ..Shape::default() };
    let header = Header { classes: 0, labels: 2, ..header(0) };
    let mut counts = Counts::new(shape);
    let (mut labels, mut errors) = (Vec::new(), Vec::new());
    for _ in 0..400 {
        let label = 1_000_000 + random.below(400) as i64;
        let error = random.below(61) as i64 - 20;
        let sums = [
            (Sum::Count, 1),
            (Sum::Absolute, error.unsigned_abs()),
            (Sum::Squared, (error * error) as u64),
            (Sum::Positive, label as u64),
            (Sum::LabelSquared, (label * label) as u64),
            (Sum::ErrorPositive, error.max(0) as u64),
            (Sum::ErrorNegative, (-error).max(0) as u64),
        ];
        for (sum, value) in sums {
            counts.add(
                &Head::default(),
                &[((shape.offset(Group::Sums) + sum as usize) as u32, value)],
            );
        }
        labels.push(label as f64 * 0.25);
        errors.push(error as f64 * 0.25);
    }
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / 400.0;
    let center = mean(&mut labels.iter().copied());
    let spread = mean(&mut labels.iter().map(|y| (y - center).powi(2)));
    let squared = mean(&mut errors.iter().map(|e| e * e));
    let found = statistics::regression(&counts, &header).expect("labels");
    for (found, expected) in [
        (found.mae, mean(&mut errors.iter().map(|e| e.abs()))),
        (found.rmse, squared.sqrt()),
        (found.bias, mean(&mut errors.iter().copied())),
        (found.r2, 1.0 - squared / spread),
    ] {
        assert!((found - expected).abs() < 1e-9, "{found} {expected}");
    }
    assert_eq!(statistics::regression(&Counts::new(shape), &header), None);
}

#[test]
fn distances_are_those_of_their_definitions() {
    // By hand: p = (3, 1)/4, q = (1, 3)/4.
    let found = statistics::distance(&[3, 1], &[1, 3]).expect("counts");
    let (a, b) = (3.5f64 / 5.0, 1.5f64 / 5.0);
    assert!((found.psi - 2.0 * (a - b) * (a / b).ln()).abs() < 1e-12);
    let entropy = |p: f64| -p * p.log2() - (1.0 - p) * (1.0 - p).log2();
    assert!((found.js - (1.0 - entropy(0.25))).abs() < 1e-12);
    assert!((found.ks - 0.5).abs() < 1e-12);
    let same = statistics::distance(&[5, 0, 7], &[10, 0, 14]).expect("counts");
    assert!(same.js.abs() < 1e-12 && same.ks.abs() < 1e-12 && same.psi < 0.02);
    let apart = statistics::distance(&[9, 0], &[0, 9]).expect("counts");
    assert!((apart.js - 1.0).abs() < 1e-12 && (apart.ks - 1.0).abs() < 1e-12);
    assert_eq!(statistics::distance(&[0, 0], &[1, 2]), None);
    assert!(
        statistics::distance(&[u64::MAX, u64::MAX], &[u64::MAX, 1]).expect("counts").js.is_finite()
    );
}
