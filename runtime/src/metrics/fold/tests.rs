//! Folding beside plain sums in maps.

use std::collections::BTreeMap;

use super::super::counters::tests::Random;
use super::super::record::{Alarm, LOG_MAGIC, LOG_VERSION, Piece, Pieces, Sample};
use super::*;

/// Counters that aren't 0.
pub(crate) type Counts = BTreeMap<(Group, usize), u64>;

pub(crate) fn header(device: u64) -> Header {
    Header {
        magic: LOG_MAGIC,
        version: LOG_VERSION,
        device,
        classes: 5,
        features: 6,
        bins: 4,
        tensors: 2,
        scores: 2,
        labels: 1,
        sample_bytes: 8,
        ..Header::default()
    }
}

/// The records of counts of a period, as a monitor writes them in records of `bytes` bytes at most.
pub(crate) fn counts(
    header: &Header,
    kind: Kind,
    sequence: u32,
    counts: &Counts,
    bytes: usize,
) -> Vec<Vec<u8>> {
    let groups = if kind == Kind::Window { Group::OF_WINDOWS } else { Group::OF_PERIODS };
    let get = |group, index| counts.get(&(group, index)).copied().unwrap_or(0);
    let (mut cursor, mut part, mut out) = (Some(Cursor::default()), 0, vec![]);
    while let Some(from) = cursor {
        let head = Head {
            sequence,
            part,
            periods: u64::from(kind == Kind::Period && part == 0),
            start_s: sequence.wrapping_mul(60),
            duration_s: 60,
            latency_max_us: sequence % 1000,
            ..Head::default()
        };
        let mut buffer = vec![0; bytes];
        let payload = &mut buffer[FRAME_FRONT..bytes - 4];
        let shape = header.shape().expect("a shape");
        let (written, next) = encode(&head, &shape, groups, &get, from, payload).expect("room");
        out.push(seal(&mut buffer, kind, header.tag(), written).expect("room").to_vec());
        cursor = next;
        part += 1;
    }
    out
}

/// Random counts for a period or a window.
pub(crate) fn random_counts(random: &mut Random, header: &Header, groups: &[Group]) -> Counts {
    let shape = header.shape().expect("a shape");
    let mut counts = Counts::new();
    for group in groups {
        let len = shape.len(*group) as u64;
        for _ in 0..random.below(6).min(len) {
            let counter = (*group, random.below(len) as usize);
            // Those of a log's own stay 0.
            if counter < (Group::Events, 26) || counter >= (Group::Events, 32) {
                let bits = random.below(30);
                counts.insert(counter, 1 + random.below(1 << bits));
            }
        }
    }
    counts
}

pub(crate) fn add(sum: &mut Counts, other: &Counts) {
    for (counter, count) in other {
        *sum.entry(*counter).or_default() += count;
    }
}

/// What a reader by the rule gets of a log: the sums, and the number of periods.
pub(crate) fn totals(log: &[u8], header: &Header) -> (Counts, u64) {
    let Ok(survey) = Survey::of(&mut &log[..], header.tag());
    let (mut sums, mut periods, mut place) = (Counts::new(), 0, 0);
    for piece in Pieces::new(log) {
        let Piece::Record(frame) = piece else { continue };
        let is_counts = matches!(frame.kind, Kind::Period | Kind::Window | Kind::Summary);
        if frame.tag == header.tag() && is_counts && survey.counts(place, &frame) {
            let shape = header.shape().expect("a shape");
            let head = decode(frame.payload, &shape, &mut |group, index, value| {
                *sums.entry((group, index)).or_default() += value;
                Ok(())
            });
            periods += head.expect("counts").periods;
        }
        place += 1;
    }
    (sums, periods)
}

/// The parts of a summary, with a window of so many counters.
fn summary(fold: &mut Fold<'_>, mut log: &[u8], bytes: usize) -> Vec<Vec<u8>> {
    let (mut cursor, mut parts) = (Some(Cursor::default()), vec![]);
    while let Some(from) = cursor {
        let mut buffer = vec![0; bytes];
        let (written, next) =
            fold.encode(&mut log, parts.len() as u32, from, &mut buffer).expect("a summary");
        parts.push(buffer[..written].to_vec());
        cursor = next;
    }
    parts
}

/// Records, and the log that they make one behind the other.
fn joined(records: &[Vec<u8>]) -> Vec<u8> {
    records.concat()
}

#[test]
fn folding_in_any_grouping_keeps_the_totals() {
    let header = header(1);
    let mut folds = 0;
    for (seed, first) in (1..20).zip([0, 7, u32::MAX - 12].into_iter().cycle()) {
        let mut random = Random(seed * 977);
        let (mut records, mut expected, mut periods) = (vec![], Counts::new(), 0);
        let mut next = first;
        for _ in 0..6 {
            for _ in 0..1 + random.below(9) {
                let bytes = 60 + random.below(100) as usize;
                let period = random_counts(&mut random, &header, Group::OF_PERIODS);
                records.extend(counts(&header, Kind::Period, next, &period, bytes));
                add(&mut expected, &period);
                periods += 1;
                if random.below(3) == 0 {
                    let window = random_counts(&mut random, &header, Group::OF_WINDOWS);
                    records.extend(counts(&header, Kind::Window, next, &window, bytes));
                    add(&mut expected, &window);
                }
                next = next.wrapping_add(1);
            }
            let log = joined(&records);
            assert_eq!(totals(&log, &header), (expected.clone(), periods), "seed {seed}");
            let oldest = 1 + random.below(records.len() as u64) as usize;
            let bytes = 60 + random.below(200) as usize;
            let mut all = vec![];
            let least = if seed < 3 { 1 } else { 30 };
            for window in [least, 100, 5000] {
                let mut window = vec![0; window];
                let mut log = &log[..];
                let dropped = Dropped::default();
                let plan = Fold::plan(&mut log, &header, oldest as u32, dropped, &mut window);
                // Nothing of the oldest counts any more.
                let Some(mut fold) = plan.expect("readable") else { continue };
                let parts = summary(&mut fold, log, bytes);
                let sum: usize = parts.iter().map(Vec::len).sum();
                let measured = fold.measure(&mut log, 0, &mut vec![0; bytes], &|bytes| bytes);
                assert_eq!(measured, Ok(sum));
                all.push(parts);
            }
            assert!(all.iter().all(|parts| *parts == all[0]), "windows of any size, seed {seed}");
            // A summary that isn't whole is nothing; a whole one stands for what it holds.
            folds += all.len();
            for part in all.first().into_iter().flatten() {
                let before = totals(&joined(&records), &header);
                assert_eq!(before, (expected.clone(), periods), "seed {seed}");
                records.push(part.clone());
            }
            assert_eq!(totals(&joined(&records), &header), (expected.clone(), periods));
            records.drain(..oldest);
            assert_eq!(totals(&joined(&records), &header), (expected.clone(), periods));
        }
    }
    assert!(folds > 200, "{folds}");
}

#[test]
fn sums_of_2_to_the_62_keep_the_summary_that_was() {
    let header = header(2);
    let many = Counts::from([((Group::Classes, 1), 3 << 60), ((Group::Events, 0), 5)]);
    let mut records = counts(&header, Kind::Period, 0, &many, 128);
    let mut window = [0; 40];
    let plan = |log: &[u8], oldest, dropped, window: &mut [u64]| {
        let mut reader = log;
        let mut fold = Fold::plan(&mut reader, &header, oldest, dropped, window)
            .expect("readable")
            .expect("counts");
        let too_large = fold.encode(&mut reader, 0, Cursor::default(), &mut [0; 128]);
        let is = too_large == Err(FoldError::Record(RecordError::TooLarge));
        if is {
            fold.keep_summary(&mut reader).expect("readable");
        }
        (is, summary(&mut fold, log, 128))
    };
    let (too_large, parts) =
        plan(&joined(&records), 1, Dropped { samples: 3, counts: 4 }, &mut window);
    assert!(!too_large);
    records = parts;
    for sequence in 1..4 {
        records.extend(counts(&header, Kind::Period, sequence, &many, 128));
    }
    let (too_large, parts) = plan(&joined(&records), 2, Dropped::default(), &mut window);
    assert!(too_large);
    // Period 1 goes with the second record; 2 and 3 stay.
    records.extend(parts);
    records.drain(..2);
    let (sums, periods) = totals(&joined(&records), &header);
    assert_eq!((sums[&(Group::Classes, 1)], periods), (9 << 60, 3));
    assert_eq!(sums[&(Group::Events, Event::SamplesDropped as usize)], 3);
    assert_eq!(sums[&(Group::Events, Event::CountsDropped as usize)], 5);
}

#[test]
fn less_detail_says_of_how_many_records() {
    let header = header(3);
    let mut random = Random(5);
    let mut records = vec![];
    for sequence in 0..4 {
        let mut period = random_counts(&mut random, &header, Group::OF_PERIODS);
        period.insert((Group::Events, 0), 10);
        period.insert((Group::Classes, 2), 10);
        records.extend(counts(&header, Kind::Period, sequence, &period, 512));
        if sequence % 2 == 0 {
            let window = Counts::from([((Group::Windowed, 0), 1), ((Group::Features, 3), 9)]);
            records.extend(counts(&header, Kind::Window, sequence, &window, 512));
        }
    }
    let log = joined(&records);
    let mut window = [0; 2000];
    let oldest = records.len() as u32;
    let plan = Fold::plan(&mut &log[..], &header, oldest, Dropped::default(), &mut window);
    let mut fold = plan.expect("readable").expect("counts");
    let mut sizes = vec![];
    for (number, (groups, dropped)) in DETAILS.into_iter().zip([0, 2, 6]).enumerate() {
        if number > 0 {
            fold.keep_only(&mut &log[..], groups).expect("readable");
        }
        assert_eq!(fold.dropped().counts, dropped);
        let parts = summary(&mut fold, &log, 200);
        let (sums, _) = totals(&joined(&parts), &header);
        assert!(sums.keys().all(|(group, _)| groups.contains(group)));
        assert_eq!(sums[&(Group::Events, 0)], 40);
        assert_eq!(sums.get(&(Group::Events, 27)).copied().unwrap_or(0), dropped);
        sizes.push(parts.iter().map(Vec::len).sum::<usize>());
    }
    assert!(sizes[0] > sizes[1] && sizes[1] > sizes[2], "{sizes:?}");
}

#[test]
fn what_has_no_meaning_is_dropped_and_counted() {
    let header = header(4);
    let good = Counts::from([((Group::Events, 0), 7)]);
    let mut records = counts(&header, Kind::Period, 0, &good, 128);
    // A head, then a group that there isn't.
    let mut bad = counts(&header, Kind::Period, 1, &good, 128).remove(0);
    let payload = bad.len() - 9;
    bad[FRAME_FRONT + payload - 1] ^= 0xFF;
    records.push(seal(&mut bad, Kind::Period, header.tag(), payload).expect("room").to_vec());
    let sample = Sample { sequence: 1, total_bytes: 8, ..Sample::default() };
    for offset in [0, 4] {
        let mut buffer = [0; 128];
        let sample = Sample { offset, ..sample };
        records.push(sample.encode(header.tag(), &[1; 4], &mut buffer).expect("room").to_vec());
    }
    let alarm = Alarm { sequence: 1, source: 1, ..Alarm::default() };
    records.push(alarm.encode(header.tag(), &mut [0; 128]).expect("room").to_vec());
    let log = joined(&records);
    let mut window = [0; 50];
    let plan = Fold::plan(&mut &log[..], &header, 5, Dropped::default(), &mut window);
    let mut fold = plan.expect("readable").expect("counts");
    assert_eq!(fold.dropped(), Dropped { samples: 1, counts: 1 });
    let parts = summary(&mut fold, &log, 128);
    let (sums, periods) = totals(&joined(&parts), &header);
    assert_eq!((sums[&(Group::Events, 0)], periods), (7, 1));
    let other = Fold::plan(&mut &log[..], &self::header(5), 5, Dropped::default(), &mut window);
    assert!(other.expect("readable").is_none(), "another device's");
    let none = Fold::plan(&mut &log[..], &header, 5, Dropped::default(), &mut []).err();
    assert_eq!(none, Some(FoldError::Record(RecordError::Memory)));
}

#[test]
fn folded_sketches_keep_their_bound() {
    let header = header(6);
    let mut random = Random(77);
    let (mut records, mut stream): (Vec<Vec<u8>>, Vec<i32>) = (vec![], vec![]);
    let mut words = vec![0; 2 * Kll::words(60)];
    let decoded = |records: &[Vec<u8>]| {
        let log = joined(records);
        let Ok(survey) = Survey::of(&mut &log[..], header.tag());
        let mut all = vec![0; Kll::words(900)];
        let mut sum = Kll::new(&mut all, 1).expect("room");
        for (place, record) in records.iter().enumerate() {
            let (frame, _) = Frame::read(record).expect("a record");
            if survey.counts(place as u32, &frame) {
                let (_, bytes) = SketchHead::decode(frame.payload).expect("a sketch");
                let mut one = vec![0; Kll::words(60)];
                sum.merge(&Kll::decode(bytes, &mut one).expect("a sketch"));
            }
        }
        let ranks: Vec<u64> = (0..50).map(|x| sum.rank(x * 100)).collect();
        (sum.count(), sum.error_bound(), ranks)
    };
    for sequence in 0..60 {
        let mut one = vec![0; Kll::words(60)];
        let mut sketch = Kll::new(&mut one, 3).expect("room");
        for _ in 0..random.below(400) {
            let most = 1 + random.below(5000);
            let x = random.below(most) as i32;
            sketch.add(x);
            stream.push(x);
        }
        let mut buffer = vec![0; 1000];
        let head = SketchHead { sequence, signal: 1, ..SketchHead::default() };
        head.write(&mut buffer[FRAME_FRONT..]);
        let bytes = sketch.encode(&mut buffer[FRAME_FRONT + 12..]).expect("room");
        records.push(
            seal(&mut buffer, Kind::Sketch, header.tag(), 12 + bytes).expect("room").to_vec(),
        );
        if sequence % 7 == 6 {
            let oldest = 1 + random.below(records.len() as u64) as usize;
            let log = joined(&records);
            let fold = |signal, words: &mut [i32]| {
                let mut out = vec![0; 1000];
                let tag = header.tag();
                fold_sketches(&mut &log[..], tag, signal, oldest as u32, words, &mut out)
                    .map(|folded| folded.map(|(bytes, lost)| (out[..bytes].to_vec(), lost)))
            };
            assert_eq!(fold(Signal::Latency, &mut words), Ok(None));
            let memory = Err(FoldError::Record(RecordError::Memory));
            assert_eq!(fold(Signal::Confidence, &mut [0; 30]), memory);
            let (folded, lost) =
                fold(Signal::Confidence, &mut words).expect("readable").expect("sketches");
            assert_eq!(lost, 0);
            records.push(folded);
            let before = decoded(&records);
            records.drain(..oldest);
            assert_eq!(decoded(&records), before);
        }
        let (count, bound, ranks) = decoded(&records);
        assert_eq!(count, stream.len() as u64);
        for (x, rank) in ranks.iter().enumerate() {
            let exact = stream.iter().filter(|item| **item <= 100 * x as i32).count() as u64;
            assert!(rank.abs_diff(exact) <= bound, "{rank} {exact} {bound}");
        }
    }
}

#[test]
fn periods_are_in_order_across_the_end_of_their_numbers() {
    for (sequence, last, is) in [
        (0, 0, true),
        (1, 0, false),
        (u32::MAX, 0, true),
        (0, u32::MAX, false),
        (5, (1 << 31) + 4, true),
        (5, (1 << 31) + 5, false),
    ] {
        assert_eq!(is_up_to(sequence, last), is, "{sequence} {last}");
    }
    assert_eq!(
        (later(None, 3), later(Some(u32::MAX), 1), later(Some(1), u32::MAX)),
        (Some(3), Some(1), Some(1))
    );
}
