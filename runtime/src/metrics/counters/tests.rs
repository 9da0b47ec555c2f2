use super::*;
use crate::metrics::record::{FRAME_FRONT, Frame, Kind, Piece, Pieces, seal};

const SHAPE: Shape = Shape {
    classes: 10,
    features: 64,
    bins: 8,
    tensors: 2,
    class_labels: true,
    value_labels: true,
};

/// Marsaglia's xorshift.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

struct Counts {
    head: Head,
    values: Vec<u64>,
}

impl Counts {
    fn random(random: &mut Random) -> Counts {
        let largest = 1 << random.below(30);
        let rare = 1 + random.below(12);
        let mut next = || match random.below(rare) {
            0 => random.below(largest),
            _ => 0,
        };
        let values = (0..SHAPE.total()).map(|_| next()).collect();
        let worst =
            Worst { js_q16: random.below(1 << 16) as u32, feature: random.below(64) as u16 };
        let head = Head {
            sequence: random.below(1 << 20) as u32,
            part: 0,
            more: false,
            periods: 1,
            start_s: random.below(1 << 32) as u32,
            duration_s: random.below(1 << 20),
            latency_max_us: random.below(1 << 32) as u32,
            worst: (random.below(2) == 0).then_some(worst),
        };
        Counts { head, values }
    }

    fn get(&self, group: Group, index: usize) -> u64 {
        self.values[SHAPE.offset(group) + index]
    }

    /// All parts, in buffers of this length.
    fn records(&self, buffer: usize) -> Vec<Vec<u8>> {
        let (mut cursor, mut part, mut records) = (Some(Cursor::default()), 0, Vec::new());
        while let Some(from) = cursor {
            let mut out = vec![0xAA; buffer];
            let head = Head { part, periods: u64::from(part == 0), ..self.head };
            let get = |group, index| self.get(group, index);
            let (bytes, next) =
                encode(&head, &SHAPE, &Group::ALL, &get, from, &mut out).expect("room");
            out.truncate(bytes);
            records.push(out);
            (cursor, part) = (next, part + 1);
        }
        records
    }
}

#[test]
fn counts_read_back_from_one_record_and_from_many() {
    let mut random = Random(42);
    for round in 0..60 {
        let counts = Counts::random(&mut random);
        for buffer in [60, 256, 16_384] {
            let records = counts.records(buffer);
            assert!(buffer < 16_384 || records.len() == 1);
            let mut memory = vec![7; SHAPE.total()];
            let mut totals = Totals::new(SHAPE, &mut memory).expect("memory");
            for (part, record) in records.iter().enumerate() {
                let head = totals.add(record).expect("a record");
                assert_eq!(head.more, part + 1 < records.len());
                assert_eq!(head.part, part as u32);
            }
            assert_eq!(totals.head(), counts.head, "round {round}");
            assert_eq!(memory, counts.values, "round {round}");
        }
    }
}

#[test]
fn totals_are_the_same_in_any_order_and_grouping() {
    let mut random = Random(43);
    for _ in 0..25 {
        let parts: Vec<Vec<Vec<u8>>> =
            (0..6).map(|_| Counts::random(&mut random).records(256)).collect();
        let fold = |order: &[usize], split: usize| {
            let mut memory = [vec![0; SHAPE.total()], vec![0; SHAPE.total()]];
            let [left, right] = &mut memory;
            let mut left = Totals::new(SHAPE, left).expect("memory");
            let mut right = Totals::new(SHAPE, right).expect("memory");
            for (at, index) in order.iter().enumerate() {
                let side = if at < split { &mut left } else { &mut right };
                for record in &parts[*index] {
                    side.add(record).expect("a record");
                }
            }
            left.add_totals(&right).expect("sums");
            // Through a summary's record, too.
            let mut out = vec![0; 16_384];
            let (bytes, next) = left.encode(0, Cursor::default(), &mut out).expect("room");
            assert_eq!(next, None);
            let mut memory = vec![0; SHAPE.total()];
            let mut again = Totals::new(SHAPE, &mut memory).expect("memory");
            again.add(&out[..bytes]).expect("a record");
            assert_eq!(again, left);
            (left.head(), left.counters.to_vec())
        };
        let expected = fold(&[0, 1, 2, 3, 4, 5], 6);
        for split in [0, 1, 3, 5] {
            assert_eq!(fold(&[5, 3, 1, 0, 2, 4], split), expected);
            assert_eq!(fold(&[0, 1, 2, 3, 4, 5], split), expected);
        }
    }
}

#[test]
fn sums_that_are_too_large_add_nothing() {
    let mut out = [0; 64];
    let encode_one = |value: u64, out: &mut [u8]| {
        let get = |group, index| if (group, index) == (Group::Latency, 9) { value } else { 0 };
        encode(&Head::default(), &SHAPE, &Group::ALL, &get, Cursor::default(), out)
    };
    assert_eq!(encode_one(VALUE_LIMIT, &mut out).map(|_| ()), Err(RecordError::TooLarge));
    let (bytes, _) = encode_one(VALUE_LIMIT - 1, &mut out).expect("room");
    let mut memory = vec![0; SHAPE.total()];
    let mut totals = Totals::new(SHAPE, &mut memory).expect("memory");
    totals.add(&out[..bytes]).expect("the first");
    let before = totals.counters.to_vec();
    assert_eq!(totals.add(&out[..bytes]), Err(RecordError::TooLarge));
    assert_eq!(totals.counters, before);
    assert_eq!(totals.get(Group::Latency, 9), VALUE_LIMIT - 1);
    assert_eq!(Totals::new(SHAPE, &mut [0; 9]), Err(RecordError::Memory));
    let mut short = [0; 4];
    assert_eq!(encode_one(1, &mut short).map(|_| ()), Err(RecordError::Memory));
}

/// Every record with single bits flipped, cut or lengthened, and random bytes: refused or added, no panic.
#[test]
fn mutated_records_never_panic() {
    let mut random = Random(44);
    let mut memory = vec![0; SHAPE.total()];
    let mut totals = Totals::new(SHAPE, &mut memory).expect("memory");
    let (mut refused, mut taken) = (0, 0);
    let mut give = |body: &[u8], totals: &mut Totals<'_>| match totals.add(body) {
        Ok(_) => taken += 1,
        Err(_) => refused += 1,
    };
    for _ in 0..12 {
        let record = Counts::random(&mut random).records(16_384).remove(0);
        for bit in 0..(record.len() * 8).min(600) {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 0x80 >> (bit % 8);
            give(&damaged, &mut totals);
        }
        for cut in 0..record.len().min(100) {
            give(&record[..cut], &mut totals);
        }
        let long: Vec<u8> = record.iter().copied().chain([0]).collect();
        assert_eq!(totals.add(&long), Err(RecordError::BadValue));
        let noise: Vec<u8> = (0..random.below(200)).map(|_| random.below(256) as u8).collect();
        give(&noise, &mut totals);
    }
    assert!(refused > 500 && taken > 20, "{refused} refused, {taken} taken");
}

#[test]
fn damage_in_a_log_costs_the_damaged_record_only() {
    let mut random = Random(45);
    let mut log = Vec::new();
    let mut ends = vec![0];
    for number in 0..20u16 {
        let mut out = [0; 100];
        let payload_bytes = random.below(80) as usize;
        for byte in &mut out[FRAME_FRONT..FRAME_FRONT + payload_bytes] {
            *byte = random.below(256) as u8;
        }
        log.extend_from_slice(seal(&mut out, Kind::Period, number, payload_bytes).expect("room"));
        ends.push(log.len());
    }
    let tags = |log: &[u8]| -> Vec<u16> {
        Pieces::new(log)
            .filter_map(|piece| match piece {
                Piece::Record(frame) => Some(frame.tag),
                Piece::Damaged { .. } => None,
            })
            .collect()
    };
    assert_eq!(tags(&log), (0..20).collect::<Vec<u16>>());
    for at in 0..log.len() {
        let mut damaged = log.clone();
        damaged[at] ^= 1 << random.below(8);
        let hit = ends.iter().rposition(|start| *start <= at).expect("a record") as u16;
        let expected: Vec<u16> = (0..20).filter(|number| *number != hit).collect();
        assert_eq!(tags(&damaged), expected, "byte {at}");
        // A log cut anywhere keeps the records that are whole.
        let whole = ends.iter().filter(|end| **end <= at).count() as u16 - 1;
        assert_eq!(tags(&log[..at]), (0..whole).collect::<Vec<u16>>(), "cut at {at}");
    }
    assert_eq!(Frame::read(&[]), Err(RecordError::Cut));
    assert_eq!(seal(&mut [0; 12], Kind::Alarm, 0, 4), Err(RecordError::Memory));
    assert_eq!(seal(&mut [0; 5000], Kind::Alarm, 0, 4097), Err(RecordError::TooLarge));
}
