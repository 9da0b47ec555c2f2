//! Logs in files that are cut at every byte, and replaced in every state that a loss of power can leave.

use std::collections::BTreeMap;

use super::super::counters::Group;
use super::super::counters::tests::Random;
use super::super::fold::tests::{Counts, add, counts, header, random_counts, totals};
use super::super::record::Sample;
use super::*;

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("whit-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        Folder(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.join("device.log")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The records of one period: header, counts, a window now and then, a sample.
fn period(random: &mut Random, header: &Header, sequence: u32, sum: &mut Counts) -> Vec<Vec<u8>> {
    let mut records = vec![header.encode(&mut [0; 128]).expect("room").to_vec()];
    let of_period = random_counts(random, header, Group::OF_PERIODS);
    records.extend(counts(header, Kind::Period, sequence, &of_period, 160));
    add(sum, &of_period);
    if random.below(2) == 0 {
        let window = random_counts(random, header, Group::OF_WINDOWS);
        records.extend(counts(header, Kind::Window, sequence, &window, 160));
        add(sum, &window);
    }
    let sample = Sample { sequence, total_bytes: 60, ..Sample::default() };
    records.push(sample.encode(header.tag(), &[7; 60], &mut [0; 128]).expect("room").to_vec());
    records
}

fn write_all(log: &mut FileLog, records: &[Vec<u8>]) {
    for record in records {
        log.write(Kind::Period, record).expect("written");
    }
}

/// Without what the log counts of itself.
fn own(content: &[u8], header: &Header) -> (Counts, u64) {
    let (mut sums, periods) = totals(content, header);
    sums.retain(|(group, index), _| {
        (*group, *index) < (Group::Events, 26) || *group > Group::Events
    });
    (sums, periods)
}

#[test]
fn full_files_fold_and_lose_no_count() {
    let folder = Folder::new("fold");
    let mut random = Random(3);
    let headers = [header(1), header(2)];
    let mut sums: BTreeMap<u16, (Counts, u64)> = BTreeMap::new();
    let mut replaced = 0;
    for start in 0..40 {
        // Another model every now and then.
        let header = headers[usize::from(start % 5 == 4)];
        let mut log = FileLog::open(folder.path(), LEAST_FILE_BYTES).expect("a log");
        assert_eq!(log.recovered(), Recovered::default());
        let in_use = FileLog::open(folder.path(), LEAST_FILE_BYTES).expect_err("in use");
        assert_eq!(in_use.kind(), io::ErrorKind::WouldBlock);
        for _ in 0..10 {
            let before = log.bytes();
            let (sum, periods) = sums.entry(header.tag()).or_default();
            let sequence = log.next_sequence();
            write_all(&mut log, &period(&mut random, &header, sequence, sum));
            *periods += 1;
            replaced += u32::from(log.bytes() < before);
        }
        assert_eq!(log.next_sequence(), 10 * (start + 1));
        let content = std::fs::read(folder.path()).expect("a file");
        assert!(content.len() as u64 == log.bytes() && log.bytes() <= LEAST_FILE_BYTES);
        for (tag, sums) in &sums {
            let header = headers.iter().find(|header| header.tag() == *tag).expect("one of two");
            assert_eq!(own(&content, header), *sums, "start {start}");
            // Without the rule, too: a file has nothing that is counted twice.
            let bodies = Pieces::new(&content).filter_map(|piece| match piece {
                Piece::Record(frame) if frame.tag == *tag => Some(frame),
                _ => None,
            });
            let shape = header.shape().expect("a shape");
            let mut counters = vec![0; shape.total()];
            let mut plain =
                super::super::counters::Totals::new(shape, &mut counters).expect("room");
            for frame in bodies {
                if matches!(frame.kind, Kind::Period | Kind::Window | Kind::Summary) {
                    plain.add(frame.payload).expect("counts");
                }
            }
            assert_eq!(plain.head().periods, sums.1);
            assert_eq!(
                plain.get(Group::Classes, 1),
                sums.0.get(&(Group::Classes, 1)).copied().unwrap_or(0)
            );
        }
    }
    assert!(replaced > 10, "{replaced}");
    // Samples that went are counted.
    let content = std::fs::read(folder.path()).expect("a file");
    let (mut dropped, mut kept) = (0, 0);
    for header in &headers {
        dropped += totals(&content, header).0.get(&(Group::Events, 26)).copied().unwrap_or(0);
    }
    for piece in Pieces::new(&content) {
        kept += u64::from(matches!(piece, Piece::Record(frame) if frame.kind == Kind::Sample));
    }
    assert_eq!(dropped + kept, 400);
}

#[test]
fn files_cut_at_every_byte_go_on() {
    let folder = Folder::new("cut");
    let header = header(3);
    let (mut random, mut sum) = (Random(9), Counts::new());
    let mut records = vec![];
    for sequence in 0..2 {
        records.extend(period(&mut random, &header, sequence, &mut sum));
    }
    let mut log = FileLog::open(folder.path(), LEAST_FILE_BYTES).expect("a log");
    write_all(&mut log, &records);
    drop(log);
    let whole = std::fs::read(folder.path()).expect("a file");
    for cut in 0..whole.len() {
        for zeros in [0, 40] {
            let mut content = whole[..cut].to_vec();
            content.extend(vec![0; zeros]);
            std::fs::write(folder.path(), &content).expect("written");
            let opened = FileLog::open(folder.path(), LEAST_FILE_BYTES);
            let good: usize = Pieces::new(&whole[..cut])
                .map_while(|piece| match piece {
                    Piece::Record(frame) => Some(frame.payload.len() + FRAME_BYTES),
                    Piece::Damaged { .. } => None,
                })
                .sum();
            if good == 0 && zeros > 0 {
                // Nothing says that this is a log.
                if cut == 0 || opened.is_err() {
                    let error = opened.expect_err("no log");
                    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                    assert_eq!(std::fs::read(folder.path()).expect("a file"), content);
                }
                continue;
            }
            let mut log = opened.expect("a log");
            let cut_bytes = (content.len() - good) as u64;
            assert_eq!(log.recovered(), Recovered { cut_bytes, ..Recovered::default() });
            let mut sum = own(&whole[..good], &header).0;
            let more = period(&mut Random(5), &header, log.next_sequence(), &mut sum);
            write_all(&mut log, &more);
            let content = std::fs::read(folder.path()).expect("a file");
            assert_eq!(own(&content, &header).0, sum, "cut at {cut}");
            assert!(Pieces::new(&content).all(|piece| matches!(piece, Piece::Record(_))));
        }
    }
}

#[test]
fn replacing_a_file_may_be_cut_anywhere() {
    let folder = Folder::new("replace");
    let header = header(4);
    let (mut random, mut sum) = (Random(19), Counts::new());
    let mut log = FileLog::open(folder.path(), LEAST_FILE_BYTES).expect("a log");
    let mut sequence = 0;
    while log.bytes() + 1000 < LEAST_FILE_BYTES {
        write_all(&mut log, &period(&mut random, &header, sequence, &mut sum));
        sequence += 1;
    }
    drop(log);
    let before = std::fs::read(folder.path()).expect("a file");
    let (after, _) = fold_half(&before, Dropped::default()).expect("a fold");
    assert!(after.len() < before.len() * 3 / 4, "{} of {}", after.len(), before.len());
    assert_eq!(own(&after, &header), own(&before, &header));
    // Before the new file has its name: any length of it lies beside the old one. After: the new one only.
    let new_path = folder.path().with_extension("log.new");
    let cuts = (0..=after.len()).step_by(97).map(|cut| (&before, Some(&after[..cut])));
    for (content, beside) in cuts.chain([(&after, None)]) {
        std::fs::write(folder.path(), content).expect("written");
        match beside {
            Some(part) => std::fs::write(&new_path, part).expect("written"),
            None => drop(std::fs::remove_file(&new_path)),
        }
        let mut log = FileLog::open(folder.path(), LEAST_FILE_BYTES).expect("a log");
        let (mut sum, mut random) = (sum.clone(), Random(31));
        for _ in 0..12 {
            let sequence = log.next_sequence();
            write_all(&mut log, &period(&mut random, &header, sequence, &mut sum));
        }
        let content = std::fs::read(folder.path()).expect("a file");
        assert_eq!(own(&content, &header), (sum, u64::from(sequence) + 12));
    }
}

#[test]
fn damage_stays_and_is_reported() {
    let folder = Folder::new("damage");
    let header = header(5);
    let (mut random, mut sum) = (Random(23), Counts::new());
    let mut log = FileLog::open(folder.path(), LEAST_FILE_BYTES).expect("a log");
    let first = period(&mut random, &header, 0, &mut sum);
    write_all(&mut log, &first);
    let mut lost = Counts::new();
    let second = period(&mut random, &header, 1, &mut lost);
    write_all(&mut log, &second);
    write_all(&mut log, &period(&mut random, &header, 2, &mut sum));
    drop(log);
    let mut content = std::fs::read(folder.path()).expect("a file");
    let from = first.concat().len();
    let bytes = second[1..].concat().len();
    content[from..from + bytes].fill(0x55);
    std::fs::write(folder.path(), &content).expect("written");
    let mut log = FileLog::open(folder.path(), LEAST_FILE_BYTES).expect("a log");
    let damaged_bytes = bytes as u64;
    assert_eq!(log.recovered(), Recovered { cut_bytes: 0, damages: 1, damaged_bytes });
    assert_eq!(std::fs::read(folder.path()).expect("a file"), content);
    assert_eq!(own(&content, &header).0, sum);
    assert_eq!(log.next_sequence(), 3);
    let refused = log.write(Kind::Period, &[1, 2, 3]).expect_err("no record");
    assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    let low = FileLog::open(folder.path(), 100).expect_err("too low");
    assert_eq!(low.kind(), io::ErrorKind::InvalidInput);
}
