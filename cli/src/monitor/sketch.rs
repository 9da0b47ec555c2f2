//! Quantile sketches of logs, merged: quantiles of a signal over any number of devices and periods.

use whit::metrics::kll::{Kll, MOST_ITEMS};
use whit::metrics::record::{FRAME_FRONT, Header, Kind, RecordError, Signal, SketchHead, seal};

use crate::report;

/// The quantiles that reports show, as (numerator, denominator).
pub(crate) const QUANTILES: [(u32, u32); 7] =
    [(1, 100), (5, 100), (25, 100), (50, 100), (75, 100), (95, 100), (99, 100)];

/// Sketches of one signal, merged, with the largest room that a record has.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sketch {
    /// The latest period and the earliest start.
    head: SketchHead,
    encoded: Vec<u8>,
}

impl Sketch {
    /// Of a record.
    ///
    /// # Errors
    /// [`RecordError::BadValue`] when it isn't a sketch.
    pub(crate) fn new(payload: &[u8]) -> Result<Sketch, RecordError> {
        let (head, encoded) = SketchHead::decode(payload)?;
        Kll::decode(encoded, &mut words())?;
        Ok(Sketch { head, encoded: encoded.to_vec() })
    }

    /// Adds another one of the same signal.
    ///
    /// # Errors
    /// [`RecordError::BadValue`] when it isn't a sketch; then nothing is added.
    pub(crate) fn add(&mut self, payload: &[u8]) -> Result<(), RecordError> {
        let (head, encoded) = SketchHead::decode(payload)?;
        let (mut own, mut other) = (words(), words());
        let mut sum = Kll::decode(&self.encoded, &mut own)?;
        sum.merge(&Kll::decode(encoded, &mut other)?);
        self.encoded.resize(Kll::encoded_bytes(MOST_ITEMS), 0);
        let bytes = sum.encode(&mut self.encoded)?;
        self.encoded.truncate(bytes);
        self.head.sequence = self.head.sequence.max(head.sequence);
        self.head.start_s = self.head.start_s.min(head.start_s);
        Ok(())
    }

    /// The record of what was merged.
    ///
    /// # Errors
    /// None for what fits a record.
    pub(crate) fn record(&self, header: &Header) -> Result<Vec<u8>, RecordError> {
        use whit::format::Field;
        let bytes = SketchHead::SIZE + self.encoded.len();
        let mut out = vec![0; bytes + whit::metrics::record::FRAME_BYTES];
        self.head.write(&mut out[FRAME_FRONT..]);
        out[FRAME_FRONT + SketchHead::SIZE..FRAME_FRONT + bytes].copy_from_slice(&self.encoded);
        seal(&mut out, Kind::Sketch, header.tag(), bytes).map(<[u8]>::to_vec)
    }

    /// What it says, in the signal's own unit.
    pub(crate) fn figures(&self, header: &Header) -> Option<Figures> {
        let signal = Signal::from_number(self.head.signal)?;
        let mut words = words();
        let sketch = Kll::decode(&self.encoded, &mut words).ok()?;
        let (low, high) = sketch.range()?;
        let unit = |x: i32| unit(signal, header, x);
        Some(Figures {
            signal,
            count: sketch.count(),
            rank_error: sketch.error_bound() as f64 / sketch.count() as f64,
            min: unit(low),
            quantiles: QUANTILES.map(|share| sketch.quantile(share).map_or(f64::NAN, unit)),
            max: unit(high),
        })
    }
}

/// Quantiles of a signal: confidence, entropy and error as shares, latency in µs, values in the model's unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Figures {
    pub(crate) signal: Signal,
    /// Numbers taken.
    pub(crate) count: u64,
    /// A quantile's rank is off by this share of the numbers at most, for certain.
    pub(crate) rank_error: f64,
    pub(crate) min: f64,
    /// By [`QUANTILES`].
    pub(crate) quantiles: [f64; QUANTILES.len()],
    pub(crate) max: f64,
}

/// Names of the columns of [`Figures::cells`].
pub(crate) const COLUMNS: [&str; 12] =
    ["signal", "runs", "min", "p1", "p5", "p25", "p50", "p75", "p95", "p99", "max", "rank within"];

impl Figures {
    /// A row of a table.
    pub(crate) fn cells(&self) -> Vec<String> {
        let text = |x: f64| match self.signal {
            Signal::Latency => report::micros(x),
            Signal::Value => report::significant(x),
            _ => report::score(x, 3),
        };
        let mut cells = vec![self.signal.name().to_owned(), self.count.to_string()];
        cells.push(text(self.min));
        cells.extend(self.quantiles.map(text));
        cells.push(text(self.max));
        cells.push(format!("± {}", report::percent(self.rank_error)));
        cells
    }
}

fn words() -> Vec<i32> {
    vec![0; Kll::words(MOST_ITEMS)]
}

/// What a number of a signal stands for.
fn unit(signal: Signal, header: &Header, x: i32) -> f64 {
    let x = f64::from(x);
    match signal {
        Signal::Latency => (x / 1024.0).exp2(),
        Signal::Value => x * f64::from(header.value_scale),
        _ => x / 32_768.0,
    }
}

#[cfg(test)]
mod tests {
    use whit::format::Field;

    use super::*;

    /// Of a device's sketch.
    const ITEMS: usize = 200;

    /// A record's payload of these numbers.
    fn payload(signal: Signal, numbers: impl Iterator<Item = i32>, sequence: u32) -> Vec<u8> {
        let mut words = vec![0; Kll::words(ITEMS)];
        let mut sketch = Kll::new(&mut words, 1).expect("room");
        numbers.for_each(|x| sketch.add(x));
        let head = SketchHead {
            sequence,
            start_s: 100 - sequence,
            signal: signal as u8,
            ..SketchHead::default()
        };
        let mut out = vec![0; SketchHead::SIZE + Kll::encoded_bytes(ITEMS)];
        head.write(&mut out);
        let bytes = sketch.encode(&mut out[SketchHead::SIZE..]).expect("room");
        out.truncate(SketchHead::SIZE + bytes);
        out
    }

    #[test]
    fn merged_sketches_keep_their_bound_whatever_the_order() {
        let pieces: Vec<Vec<u8>> = (0..20)
            .map(|piece| {
                payload(Signal::Confidence, (0..500).map(|x| (x * 20 + piece) * 3), piece as u32)
            })
            .collect();
        let header = Header::default();
        for order in [(0..20).collect::<Vec<usize>>(), (0..20).rev().collect()] {
            let mut sketch = Sketch::new(&pieces[order[0]]).expect("a sketch");
            for piece in &order[1..] {
                sketch.add(&pieces[*piece]).expect("a sketch");
            }
            let record = sketch.record(&header).expect("fits");
            let (frame, _) = whit::metrics::record::Frame::read(&record).expect("a record");
            let again = Sketch::new(frame.payload).expect("reads");
            assert_eq!(again, sketch);
            assert_eq!((again.head.sequence, again.head.start_s), (19, 81));
            let figures = again.figures(&header).expect("numbers");
            assert_eq!((figures.count, figures.min), (10_000, 0.0));
            assert_eq!(figures.max, f64::from(9999 * 3) / 32_768.0);
            assert!(figures.rank_error < 0.1, "{figures:?}");
            for ((part, of), found) in QUANTILES.into_iter().zip(figures.quantiles) {
                let rank = found * 32_768.0 / 3.0 / 10_000.0;
                let wanted = f64::from(part) / f64::from(of);
                assert!((rank - wanted).abs() <= figures.rank_error + 1e-3, "{wanted}: {rank}");
            }
        }
    }

    #[test]
    fn what_is_no_sketch_is_refused_and_adds_nothing() {
        let good = payload(Signal::Latency, 0..300, 0);
        let mut sketch = Sketch::new(&good).expect("a sketch");
        for cut in [0, 5, 12, 13, 40, good.len() - 4] {
            assert!(Sketch::new(&good[..cut]).is_err(), "{cut}");
            assert!(sketch.add(&good[..cut]).is_err(), "{cut}");
        }
        assert_eq!(sketch, Sketch::new(&good).expect("a sketch"));
    }
}
