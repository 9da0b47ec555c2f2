//! Quantiles of a stream in bounded memory: the KLL sketch (Karnin, Lang and Liberty, "Optimal quantile approximation in
//! streams", 2016), over 32-bit integers, mergeable.
//!
//! Items of level h stand for 2ʰ numbers. When the memory is full, the lowest level over its share is sorted, and every
//! other item of it, from the first or the second on by a coin, moves up a level. Shares shrink by 2/3 per level from the
//! top. A compaction at level h moves the rank of any number by 2ʰ at most; the sum of these is kept, so that every sketch
//! knows a bound of its error that holds for certain, whatever was merged in whatever order. Coins make errors cancel: with
//! n numbers and room for c items the paper's expected error is of the order n / c.

use super::record::RecordError;
use crate::format::Field;

/// Levels at most: 2³² numbers for each item of the top level.
const LEVELS: usize = 32;
/// Words of a sketch in front of its items: count, bound (two words each), smallest, largest, coin, sizes of levels.
const HEAD: usize = 7 + LEVELS;
/// Room for items at least: more than there are levels, so that some level of a full sketch has two.
pub const LEAST_ITEMS: usize = 40;
/// Room for items at most, so that a sketch fits a record.
pub const MOST_ITEMS: usize = 960;
/// Bytes of an encoded sketch besides its items.
const ENCODED_HEAD: usize = 4 * HEAD;

/// A sketch in the caller's memory.
#[derive(Debug, PartialEq)]
pub struct Kll<'m> {
    words: &'m mut [i32],
}

impl<'m> Kll<'m> {
    /// Words that a sketch with room for so many items wants.
    pub const fn words(items: usize) -> usize {
        HEAD + items
    }

    /// An empty sketch. `seed` begins its coins.
    ///
    /// # Errors
    /// [`RecordError::Memory`] for less than [`LEAST_ITEMS`] items.
    pub fn new(words: &'m mut [i32], seed: u32) -> Result<Kll<'m>, RecordError> {
        if words.len() < HEAD + LEAST_ITEMS {
            return Err(RecordError::Memory);
        }
        let mut sketch = Kll { words };
        sketch.words[6] = (seed | 1) as i32;
        sketch.clear();
        Ok(sketch)
    }

    /// Forgets all numbers.
    pub fn clear(&mut self) {
        let coin = self.words[6];
        self.words[..HEAD].fill(0);
        (self.words[4], self.words[5], self.words[6]) = (i32::MAX, i32::MIN, coin);
    }

    fn wide(&self, at: usize) -> u64 {
        u64::from(self.words[at] as u32) | u64::from(self.words[at + 1] as u32) << 32
    }

    fn set_wide(&mut self, at: usize, value: u64) {
        (self.words[at], self.words[at + 1]) = (value as i32, (value >> 32) as i32);
    }

    /// Numbers taken.
    pub fn count(&self) -> u64 {
        self.wide(0)
    }

    /// What a rank may be off by at most.
    pub fn error_bound(&self) -> u64 {
        self.wide(2)
    }

    /// The smallest and the largest number; `None` of none.
    pub fn range(&self) -> Option<(i32, i32)> {
        (self.count() > 0).then_some((self.words[4], self.words[5]))
    }

    fn size(&self, level: usize) -> usize {
        self.words[7 + level] as usize
    }

    /// Items, those of the highest level first.
    fn items(&self) -> usize {
        (0..LEVELS).map(|level| self.size(level)).sum()
    }

    /// Where a level's items begin.
    fn start(&self, level: usize) -> usize {
        HEAD + (level + 1..LEVELS).map(|above| self.size(above)).sum::<usize>()
    }

    /// Each item and its weight.
    fn weighted(&self) -> impl Iterator<Item = (i32, u64)> + '_ {
        let mut at = HEAD;
        (0..LEVELS).rev().flat_map(move |level| {
            let items = &self.words[at..at + self.size(level)];
            at += items.len();
            items.iter().map(move |item| (*item, 1u64 << level))
        })
    }

    /// Takes a number.
    pub fn add(&mut self, x: i32) {
        self.put(x, 0);
        self.set_wide(0, self.count().saturating_add(1));
        self.words[4] = self.words[4].min(x);
        self.words[5] = self.words[5].max(x);
    }

    fn put(&mut self, x: i32, level: usize) {
        if self.items() == self.words.len() - HEAD {
            self.compact();
        }
        if self.items() == self.words.len() - HEAD {
            // Only after 2³¹ numbers for each item; they count as a bound that says nothing.
            self.set_wide(2, u64::MAX);
            return;
        }
        let (end, all) = (self.start(level) + self.size(level), HEAD + self.items());
        self.words.copy_within(end..all, end + 1);
        self.words[end] = x;
        self.words[7 + level] += 1;
    }

    /// Makes room.
    fn compact(&mut self) {
        let top = (0..LEVELS).rev().find(|level| self.size(*level) > 0).unwrap_or(0);
        // All shares together are a third of the room for the top, and 2/3 of the level above for each.
        let mut share = (self.words.len() - HEAD) / 3;
        let mut chosen = None;
        for level in (0..=top.min(LEVELS - 2)).rev() {
            // Every level has room for two, or nothing could move.
            if self.size(level) >= share.max(2) {
                chosen = Some(level);
            }
            share = share * 2 / 3;
        }
        // With rounded shares none may be reached: then the largest level, which has two items at least.
        let largest = || (0..LEVELS - 1).max_by_key(|level| self.size(*level));
        let Some(level) = chosen.or_else(largest) else { return };
        let (start, size) = (self.start(level), self.size(level));
        let moved = size / 2;
        if moved == 0 {
            return;
        }
        // Marsaglia's xorshift.
        let mut coin = self.words[6] as u32;
        coin ^= coin << 13;
        coin ^= coin >> 17;
        coin ^= coin << 5;
        self.words[6] = coin as i32;
        let all = HEAD + self.items();
        // An odd one stays.
        let stays = (size % 2 == 1).then(|| self.words[start]);
        let from = start + size % 2;
        self.words[from..start + size].sort_unstable();
        for number in 0..moved {
            self.words[start + number] = self.words[from + 2 * number + (coin & 1) as usize];
        }
        let mut end = start + moved;
        if let Some(item) = stays {
            self.words[end] = item;
            end += 1;
        }
        self.words.copy_within(start + size..all, end);
        self.words[7 + level] = (size % 2) as i32;
        self.words[7 + level + 1] += moved as i32;
        self.set_wide(2, self.error_bound().saturating_add(1 << level));
    }

    /// Takes what another sketch took.
    pub fn merge(&mut self, other: &Kll<'_>) {
        let mut at = HEAD;
        for level in (0..LEVELS).rev() {
            for _ in 0..other.size(level) {
                self.put(other.words[at], level);
                at += 1;
            }
        }
        self.set_wide(0, self.count().saturating_add(other.count()));
        self.set_wide(2, self.error_bound().saturating_add(other.error_bound()));
        self.words[4] = self.words[4].min(other.words[4]);
        self.words[5] = self.words[5].max(other.words[5]);
    }

    /// How many numbers are `x` or less, within [`Kll::error_bound`].
    pub fn rank(&self, x: i32) -> u64 {
        self.weighted().filter(|(item, _)| *item <= x).map(|(_, weight)| weight).sum()
    }

    /// A number whose rank is `numerator / denominator` of the count, within [`Kll::error_bound`]; `None` of none. Takes
    /// time in proportion to the square of the items.
    pub fn quantile(&self, (numerator, denominator): (u32, u32)) -> Option<i32> {
        let (low, high) = self.range()?;
        let share = u128::from(self.count()) * u128::from(numerator);
        let wanted = share.div_ceil(u128::from(denominator.max(1))) as u64;
        match wanted {
            0 | 1 => return Some(low),
            _ if wanted >= self.count() => return Some(high),
            _ => (),
        }
        let reaches = |x: &i32| self.rank(*x) >= wanted;
        self.weighted().map(|(item, _)| item).filter(reaches).min().or(Some(high))
    }

    /// Bytes that [`Kll::encode`] writes at most, with room for so many items.
    pub const fn encoded_bytes(items: usize) -> usize {
        ENCODED_HEAD + 4 * items
    }

    /// Writes the sketch to the front of `out`; gives the bytes. A word each: count and bound of two words, smallest, largest,
    /// coin, items of level 0 to 31, items from the highest level on.
    ///
    /// # Errors
    /// [`RecordError::Memory`] when `out` is too short.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, RecordError> {
        let words = &self.words[..HEAD + self.items()];
        let out = out.get_mut(..4 * words.len()).ok_or(RecordError::Memory)?;
        for (raw, word) in out.chunks_exact_mut(4).zip(words) {
            word.write(raw);
        }
        Ok(4 * words.len())
    }

    /// Reads a sketch into `words`, which may have more room than the one that was written.
    ///
    /// # Errors
    /// [`RecordError::BadValue`] for bytes that aren't a sketch, [`RecordError::Memory`] when `words` is too short.
    pub fn decode(bytes: &[u8], words: &'m mut [i32]) -> Result<Kll<'m>, RecordError> {
        const BAD: RecordError = RecordError::BadValue;
        let count = bytes.len() / 4;
        if !bytes.len().is_multiple_of(4) || count < HEAD {
            return Err(BAD);
        }
        if count > words.len() || words.len() < HEAD + LEAST_ITEMS {
            return Err(RecordError::Memory);
        }
        for (word, raw) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = i32::read(raw);
        }
        // Nothing moves up from the last level.
        if words[HEAD - 1] != 0 {
            return Err(BAD);
        }
        let (mut items, mut weight) = (0u64, 0u128);
        for (level, size) in words[7..HEAD].iter().enumerate() {
            let size = u64::try_from(*size).map_err(|_| BAD)?;
            items += size;
            weight += u128::from(size) << level;
        }
        let sketch = Kll { words };
        if items != (count - HEAD) as u64 || weight != u128::from(sketch.count()) {
            return Err(BAD);
        }
        let range = sketch.words[4]..=sketch.words[5];
        if !sketch.words[HEAD..count].iter().all(|item| range.contains(item))
            || sketch.words[6] == 0
        {
            return Err(BAD);
        }
        Ok(sketch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::counters::tests::Random;

    /// Streams that are hard in different ways.
    fn streams() -> Vec<Vec<i32>> {
        let mut random = Random(21);
        let mut all = vec![vec![], vec![7], (0..20_000).collect(), (0..20_000).rev().collect()];
        all.push((0..20_000).map(|x| x % 5).collect());
        all.push((0..20_000).map(|_| random.below(1 << 32) as u32 as i32).collect());
        all.push((0..3000).map(|_| (1 << random.below(30)) + random.below(100) as i32).collect());
        all.push(vec![i32::MIN; 500].into_iter().chain(vec![i32::MAX; 500]).collect());
        all
    }

    /// The largest error of a rank, over the items of the stream.
    fn worst(sketch: &Kll<'_>, stream: &[i32]) -> u64 {
        let mut sorted = stream.to_vec();
        sorted.sort_unstable();
        assert_eq!(sketch.count(), stream.len() as u64);
        let weights: u64 = sketch.weighted().map(|(_, weight)| weight).sum();
        assert_eq!(weights, sketch.count(), "no weight is lost");
        let step = (sorted.len() / 500).max(1);
        let error = |x: &i32| {
            let exact = sorted.partition_point(|other| other <= x) as u64;
            sketch.rank(*x).abs_diff(exact)
        };
        sorted.iter().step_by(step).map(error).max().unwrap_or(0)
    }

    #[test]
    fn ranks_are_within_the_bound() {
        for items in [LEAST_ITEMS, 60, 200] {
            for stream in streams() {
                let mut words = vec![0; Kll::words(items)];
                let mut sketch = Kll::new(&mut words, 9).expect("room");
                stream.iter().for_each(|x| sketch.add(*x));
                let error = worst(&sketch, &stream);
                assert!(error <= sketch.error_bound(), "{error} > {}", sketch.error_bound());
                // What the paper expects, with a constant that these streams keep by far.
                assert!(
                    error as f64 <= 5.0 * stream.len() as f64 / items as f64,
                    "{error} {items}"
                );
                for share in [(1, 100), (1, 2), (9, 10), (1, 1)] {
                    let Some(found) = sketch.quantile(share) else {
                        assert!(stream.is_empty());
                        continue;
                    };
                    let below = stream.iter().filter(|x| **x < found).count() as u64;
                    let at_most = stream.iter().filter(|x| **x <= found).count() as u64;
                    let wanted =
                        (stream.len() as u64 * u64::from(share.0)).div_ceil(share.1.into());
                    let bound = sketch.error_bound() + (1 << 12).min(stream.len() as u64 / 8);
                    assert!(below <= wanted + bound && at_most + bound >= wanted);
                }
            }
        }
        assert_eq!(
            Kll::new(&mut [0; HEAD + LEAST_ITEMS - 1], 1).map(|_| ()),
            Err(RecordError::Memory)
        );
    }

    #[test]
    fn merged_sketches_keep_the_bound_in_any_order() {
        let streams = streams();
        for order in [[0, 1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1, 0], [3, 5, 0, 7, 1, 6, 2, 4]]
        {
            // Devices with little room into a host's sketch with more, through bytes.
            let mut words = vec![0; Kll::words(300)];
            let mut all = Kll::new(&mut words, 1).expect("room");
            let mut stream = Vec::new();
            for index in order {
                let mut words = vec![0; Kll::words(40)];
                let mut one = Kll::new(&mut words, 5).expect("room");
                streams[index].iter().for_each(|x| one.add(*x));
                let mut bytes = vec![0; Kll::encoded_bytes(40)];
                let used = one.encode(&mut bytes).expect("room");
                let mut words = vec![0; Kll::words(64)];
                let read = Kll::decode(&bytes[..used], &mut words).expect("a sketch");
                assert_eq!((read.count(), read.rank(100)), (one.count(), one.rank(100)));
                all.merge(&read);
                stream.extend(&streams[index]);
            }
            let error = worst(&all, &stream);
            assert!(error <= all.error_bound(), "{error} > {}", all.error_bound());
            assert_eq!(
                all.range(),
                stream.iter().min().zip(stream.iter().max()).map(|(a, b)| (*a, *b))
            );
        }
    }

    #[test]
    fn mutated_sketches_never_panic() {
        let mut words = vec![0; Kll::words(40)];
        let mut sketch = Kll::new(&mut words, 5).expect("room");
        (0..1000).for_each(|x| sketch.add(x));
        let mut bytes = vec![0; Kll::encoded_bytes(40)];
        let used = sketch.encode(&mut bytes).expect("room");
        let mut refused = 0;
        for bit in 0..8 * used {
            let mut damaged = bytes[..used].to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let mut words = vec![0; Kll::words(64)];
            match Kll::decode(&damaged, &mut words) {
                Err(_) => refused += 1,
                Ok(mut sketch) => {
                    sketch.quantile((1, 2));
                    (0..200).for_each(|x| sketch.add(x));
                }
            }
        }
        assert!(refused > 500, "{refused}");
        for cut in 0..used {
            assert!(Kll::decode(&bytes[..cut], &mut vec![0; Kll::words(64)]).is_err());
        }
        assert_eq!(Kll::decode(&bytes[..used], &mut [0; 30]).map(|_| ()), Err(RecordError::Memory));
    }
}
