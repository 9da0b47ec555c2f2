//! The range of one tensor from what was seen of it: percentile, least squared error, least divergence.

use whit::DType;

use crate::graph::Quant;
use crate::quantize::calibrate::histogram::Histogram;
use crate::quantize::calibrate::statistics::Observed;
use crate::quantize::calibrate::{Method, Range};
use crate::quantize::{limits, representable};

/// Bins of the histograms whose divergence is computed: TensorRT has 2048 for either sign.
const ENTROPY_BINS: usize = 4096;

/// What an empty bin of the quantized distribution counts for, as in ONNX Runtime.
const EMPTY: f64 = 1e-4;

/// Coarse candidates of an end: the whole one times 2^(−k/2), k below this. The last is 1/32.
const COARSE: i32 = 11;

/// Times that the steps of the fine search are halved. The last step is 2^(1/64), 1 % of the range.
const HALVINGS: i32 = 5;

/// Moves at most with steps of one size.
const MOVES: usize = 4;

/// The range that a method chooses for integers of a type; `None` when nothing finite was seen.
/// [`Method::Auto`] needs the model: it is min-max here.
pub fn range_by(method: Method, seen: &Observed, dtype: DType) -> Option<Range> {
    let whole = seen.range()?;
    Some(match method {
        Method::MinMax | Method::Auto => whole,
        Method::Average => seen.average()?,
        Method::Percentile(percent) => percentile(&seen.histogram, percent, whole),
        Method::Mse => {
            let bins = Bins::new(&seen.histogram);
            search(whole, dtype, |range| bins.squared_error(&range.grid(dtype), dtype))
        }
        Method::Entropy => {
            let bins = Bins::new(&seen.histogram.coarser(ENTROPY_BINS));
            search(whole, dtype, |range| bins.divergence(&range.grid(dtype), dtype))
        }
    })
}

/// The range that holds `percent` of all values, tails cut evenly. Within a bin, values are taken as evenly spread.
fn percentile(histogram: &Histogram, percent: f64, whole: Range) -> Range {
    let cut = histogram.total() as f64 * (100.0 - percent).max(0.0) / 200.0;
    let width = histogram.width();
    // Where a tail's mass reaches `cut`, walking from its end; zeros lie at 0, in front of the bin there.
    let walk = |bins: &mut dyn Iterator<Item = (f64, u64)>, upper: bool| {
        let (mut sum, mut zeros) = (0.0, histogram.zeros() as f64);
        for (low, count) in bins {
            let passes_zero = if upper { low < 0.0 } else { low >= 0.0 };
            if passes_zero {
                sum += std::mem::take(&mut zeros);
                if sum > cut {
                    return 0.0;
                }
            }
            let count = count as f64;
            if count > 0.0 && sum + count > cut {
                let part = (cut - sum) / count * width;
                return if upper { low + width - part } else { low + part };
            }
            sum += count;
        }
        0.0
    };
    let min = walk(&mut histogram.bins(), false).max(f64::from(whole.min)) as f32;
    let max = walk(&mut histogram.bins().rev(), true).min(f64::from(whole.max)) as f32;
    if min <= max { Range { min, max } } else { whole }
}

/// The ends that cost least, between 0 and those of the whole range; the whole range if nothing is cheaper.
///
/// Costs of clipping and of rounding pull against each other, but their sum has dents, as zero points snap to
/// integers: a coarse grid over both ends first, then moves of either end or both by factors that shrink.
fn search(whole: Range, dtype: DType, mut cost: impl FnMut(Range) -> f64) -> Range {
    let (min, max) = (whole.min.min(0.0), whole.max.max(0.0));
    let at = |(a, b): (f64, f64)| Range {
        min: (f64::from(min) * a.exp2()) as f32,
        max: (f64::from(max) * b.exp2()) as f32,
    };
    // Ends that are 0 stay; those of a symmetric grid move together.
    let together = dtype == DType::I16;
    let (lower, upper) = (min < 0.0 && !together, max > 0.0 || together);
    let steps = |moves: bool| 0..if moves { COARSE } else { 1 };
    let mut best = ((0.0, 0.0), cost(at((0.0, 0.0))));
    let mut consider = |ends: (f64, f64), best: &mut ((f64, f64), f64)| {
        let ends = (ends.0.min(0.0), ends.1.min(0.0));
        let cost = cost(at(ends));
        // Not for the last bits of a sum.
        let better = cost < best.1 * (1.0 - 1e-9);
        if better {
            *best = (ends, cost);
        }
        better
    };
    for a in steps(lower) {
        for b in steps(upper) {
            let b = f64::from(b) / -2.0;
            consider((if together { b } else { f64::from(a) / -2.0 }, b), &mut best);
        }
    }
    for halving in 1..=HALVINGS {
        let step = 0.5 * (-f64::from(halving)).exp2();
        for _ in 0..MOVES {
            let (a, b) = best.0;
            let mut moved = false;
            for (da, db) in [(-1., 0.), (1., 0.), (0., -1.), (0., 1.), (-1., -1.), (1., 1.)] {
                let allowed =
                    if together { da == db } else { (lower || da == 0.0) && (upper || db == 0.0) };
                moved |= allowed && consider((a + da * step, b + db * step), &mut best);
            }
            if !moved {
                break;
            }
        }
    }
    if best.0 == (0.0, 0.0) { whole } else { at(best.0) }
}

/// The bins that hold values other than 0.
struct Bins {
    /// Middle and count.
    bins: Vec<(f64, f64)>,
    width: f64,
}

impl Bins {
    fn new(histogram: &Histogram) -> Bins {
        let width = histogram.width();
        let full =
            |(low, count): (f64, u64)| (count > 0).then_some((low + width / 2.0, count as f64));
        Bins { bins: histogram.bins().filter_map(full).collect(), width }
    }

    /// Sum of the squared differences between values and what a grid makes of them. Zeros are exact.
    fn squared_error(&self, quant: &Quant, dtype: DType) -> f64 {
        let (scale, zero_point) = (f64::from(quant.scale[0]), f64::from(quant.zero_point[0]));
        let (low, high) = representable(dtype, quant);
        let [least, most] = limits(dtype).map(f64::from);
        // Where a bin holds several steps, errors within it are spread evenly over ± half a step (Bennett 1948,
        // "Spectra of quantized signals").
        let even = (scale < self.width).then(|| scale * scale / 12.0);
        let error = |value: f64| match even {
            Some(even) if (low..=high).contains(&value) => even,
            _ => {
                let integer = ((value / scale).round_ties_even() + zero_point).clamp(least, most);
                (value - (integer - zero_point) * scale).powi(2)
            }
        };
        self.bins.iter().map(|(value, count)| count * error(*value)).sum()
    }

    /// Kullback-Leibler divergence of the quantized distribution from the clipped one, in nats.
    ///
    /// Migacz 2017, "8-bit inference with TensorRT", for grids with a zero point: what is clipped counts at the ends,
    /// and the values of a step are spread evenly over its bins that hold any. Zeros, which are exact on
    /// every grid, are left out. Infinite where bins are wider than steps, as nothing is merged there.
    fn divergence(&self, quant: &Quant, dtype: DType) -> f64 {
        let (scale, zero_point) = (f64::from(quant.scale[0]), f64::from(quant.zero_point[0]));
        let [least, most] = limits(dtype).map(f64::from);
        if scale < self.width {
            return f64::INFINITY;
        }
        let step = |value: f64| (value / scale).round_ties_even() + zero_point;
        let first = self.bins.iter().position(|(value, _)| step(*value) >= least);
        let last = self.bins.iter().rposition(|(value, _)| step(*value) <= most);
        let (Some(first), Some(last)) = (first, last) else { return f64::INFINITY };
        if first > last {
            return f64::INFINITY;
        }
        let inside = &self.bins[first..=last];
        let sum = |bins: &[(f64, f64)]| bins.iter().map(|(_, count)| count).sum::<f64>();
        let (below, above) = (sum(&self.bins[..first]), sum(&self.bins[last + 1..]));
        let (total, kept) = (sum(&self.bins), sum(inside));
        let mut divergence = 0.0;
        let mut at = 0;
        while at < inside.len() {
            let level = step(inside[at].0);
            let len = inside[at..].iter().take_while(|(value, _)| step(*value) == level).count();
            let even = sum(&inside[at..at + len]) / len as f64;
            for (bin, (_, count)) in inside.iter().enumerate().skip(at).take(len) {
                let mut p = *count;
                p += if bin == 0 { below } else { 0.0 };
                p += if bin + 1 == inside.len() { above } else { 0.0 };
                divergence += p / total * ((p / total) / (even.max(EMPTY) / kept)).ln();
            }
            at += len;
        }
        divergence
    }
}

#[cfg(test)]
mod tests;
