//! Names what a layer's error comes from, each cause by a number that can be checked; `docs/compare.md` has the same
//! list.

use serde::Serialize;
use whit::DType;
use whit::format::{Layout, TensorRecord};
use whit::kernels::conv_f32::grouped::{GroupedBits, GroupedForm};

use super::layers::Layer;
use crate::graph::{Graph, Op};
use crate::quantize::numbers::{output_axis, weights_of};
use crate::quantize::weights::{MAX_BIAS_I8, MAX_BIAS_I16, Rows};

/// A layer that introduces less than this is as good as its grid: 8 bits over ±14 standard deviations have 30 dB,
/// `12 · (256 / 28)²`; over ±4, what most layers need, 41 dB.
pub const ENOUGH_DB: f64 = 30.0;

/// A part of the outputs' error that makes a layer worth a look whatever it introduces, where the outputs are
/// below [`ENOUGH_DB`]: five such layers are all of it.
pub const BLAMED_SHARE: f64 = 0.2;

/// A part of a layer's error that counts as a cause beside the main one.
const PART: f64 = 0.25;

/// Channel range over the median range that costs the others three of their eight bits.
pub const DOMINATED: f64 = 8.0;

/// Largest magnitude over that of 99.9 % of the values: two bits are spent on one value in a thousand.
pub const OUTLIERS: f64 = 4.0;

/// Part of a grid that the values span; below it, more than two bits are never used.
pub const SPANNED: f64 = 0.25;

/// Largest magnitude over root mean square, beyond which 8 bits have less than [`ENOUGH_DB`]: half of 28.
pub const CREST: f64 = 14.0;

/// The same for a row of weights, per channel: a normal distribution of a thousand weights has 3.3, of 10⁶ 4.9.
pub const WEIGHT_CREST: f64 = 8.0;

/// Weights per channel of a depthwise layer that are too few for rounding errors to average out: 5 × 5.
pub const FEW_TAPS: usize = 25;

/// Bins of a histogram of weights.
const BINS: usize = 41;

/// What a layer's error comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CauseKind {
    /// Values lie beyond the ends of the grid.
    Clipped,
    /// The grid spans much more than the values do.
    UnusedLevels,
    /// One channel's range sets the step of all.
    DominatingChannel,
    /// A few values set the step of all.
    Outliers,
    /// Softmax and sigmoid lie on a grid of 1/256, however small the values are.
    FixedGrid,
    /// Most values are small beside the largest.
    HeavyTails,
    /// The weights' step was widened so that the bias fits the accumulator.
    WidenedForBias,
    /// Depthwise weights: few per channel, each rounding error counts.
    NarrowDepthwise,
    /// A few weights set the step of their channel.
    HeavyTailedWeights,
    /// The weights have few bits.
    FewWeightBits,
    /// Weights rounded to their grid, nothing out of the ordinary.
    WeightRounding,
    /// The operator's own integer arithmetic.
    Arithmetic,
    /// Channels that are always 0: they cost time and memory, no accuracy.
    DeadChannels,
    /// The error came with the inputs.
    Inherited,
    /// What rounding to this grid has to cost.
    RoundingNoise,
}

impl CauseKind {
    /// The cause in a word or two.
    pub const fn name(self) -> &'static str {
        match self {
            CauseKind::Clipped => "clipped values",
            CauseKind::UnusedLevels => "unused levels",
            CauseKind::DominatingChannel => "one channel dominates",
            CauseKind::Outliers => "outliers",
            CauseKind::FixedGrid => "fixed grid of 1/256",
            CauseKind::HeavyTails => "heavy tails",
            CauseKind::WidenedForBias => "step widened for bias",
            CauseKind::NarrowDepthwise => "few depthwise weights",
            CauseKind::HeavyTailedWeights => "heavy-tailed weights",
            CauseKind::FewWeightBits => "few weight bits",
            CauseKind::WeightRounding => "weight rounding",
            CauseKind::Arithmetic => "integer arithmetic",
            CauseKind::DeadChannels => "dead channels",
            CauseKind::Inherited => "inherited",
            CauseKind::RoundingNoise => "rounding noise",
        }
    }

    /// Whether it lies in the grid of the layer's output, rather than in its weights or arithmetic.
    pub const fn is_of_grid(self) -> bool {
        use CauseKind::*;
        matches!(
            self,
            Clipped
                | UnusedLevels
                | DominatingChannel
                | Outliers
                | FixedGrid
                | HeavyTails
                | RoundingNoise
        )
    }
}

/// A cause, and the numbers that it was named by.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cause {
    /// Which.
    pub kind: CauseKind,
    /// One sentence with the numbers.
    pub text: String,
}

/// What the float weights of a layer look like.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WeightFacts {
    /// Output channels.
    pub channels: usize,
    /// Weights per channel.
    pub taps: usize,
    /// A convolution of each channel by itself.
    pub depthwise: bool,
    /// Bits that the file stores a weight in.
    pub bits: u32,
    /// What they stand for, where it stores them in groups.
    #[serde(skip)]
    pub(super) grouped: Option<GroupedBits>,
    /// Channels whose weights are all 0.
    pub dead: Vec<usize>,
    /// Largest channel maximum over the median one.
    pub spread: f64,
    /// Largest magnitude over root mean square, the median channel's.
    pub crest: f64,
    /// Counts of the weights over the largest magnitude of their channel, in equal bins over −1..=1.
    pub histogram: Vec<u32>,
    /// Channels whose step is wider than their weights need, for the bias.
    pub widened: usize,
    #[serde(skip)]
    largest: Vec<f64>,
    #[serde(skip)]
    bias: Vec<f64>,
}

impl WeightFacts {
    /// Of a node that has f32 weights.
    pub(super) fn of(graph: &Graph, at: usize) -> Option<WeightFacts> {
        let node = &graph.nodes[at];
        let weights = weights_of(graph, node)?;
        let rows = Rows::of(weights, output_axis(node));
        let reals = weights.to_f32();
        let bias = node.inputs.get(2).copied().flatten().and_then(|id| graph.constant(id));
        let bias: Vec<f64> = bias
            .map_or(Vec::new(), |bias| bias.to_f32().iter().map(|b| f64::from(b.abs())).collect());
        let (mut largest, mut crests) = (Vec::new(), Vec::new());
        let mut histogram = vec![0; BINS];
        for row in 0..rows.count {
            let weight = |k| f64::from(reals[rows.index(row, k)]);
            let most = (0..rows.len).map(|k| weight(k).abs()).fold(0.0, f64::max);
            let power: f64 = (0..rows.len).map(|k| weight(k).powi(2)).sum();
            largest.push(most);
            if most > 0.0 {
                crests.push(most / (power / rows.len as f64).sqrt());
                for k in 0..rows.len {
                    let bin = (weight(k) / most + 1.0) / 2.0 * BINS as f64;
                    histogram[(bin as usize).min(BINS - 1)] += 1;
                }
            }
        }
        crests.sort_by(f64::total_cmp);
        let mut alive: Vec<f64> = largest.iter().copied().filter(|most| *most > 0.0).collect();
        alive.sort_by(f64::total_cmp);
        let median = |sorted: &[f64]| sorted.get(sorted.len() / 2).copied().unwrap_or(1.0);
        Some(WeightFacts {
            channels: rows.count,
            taps: rows.len,
            depthwise: matches!(&node.op, Op::Conv(conv) if conv.groups > 1 && weights.shape.last() == Some(&1)),
            bits: 32,
            grouped: None,
            dead: (0..rows.count).filter(|row| largest[*row] == 0.0).collect(),
            spread: alive.last().copied().unwrap_or(1.0) / median(&alive),
            crest: median(&crests),
            histogram,
            widened: 0,
            largest,
            bias,
        })
    }

    /// Takes in how the file has them.
    pub(super) fn stored_as(&mut self, record: &TensorRecord, output: DType, input_scale: f32) {
        let dtype = DType::from_number(record.dtype).unwrap_or(DType::F32);
        let form = Layout::from_number(record.layout).and_then(GroupedForm::of);
        self.grouped = form.map(|form| form.bits);
        self.bits = self.grouped.map_or(8 * dtype.size(), GroupedBits::count) as u32;
        let most = match output {
            DType::I8 => MAX_BIAS_I8,
            DType::I16 => MAX_BIAS_I16,
            _ => return,
        };
        let needs = |bias: f64| bias / (most * f64::from(input_scale));
        self.widened = (0..self.channels)
            .filter(|channel| {
                let bias = self.bias.get(if self.bias.len() == 1 { 0 } else { *channel });
                bias.is_some_and(|bias| needs(*bias) > self.largest[*channel] / 127.0 * 1.01)
            })
            .count();
    }
}

/// What a layer's own error comes from, the main cause first. `overall_db` is that of the model's outputs.
pub fn causes(layer: &Layer, overall_db: f64) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut add = |kind: CauseKind, text: String| causes.push(Cause { kind, text });
    let blamed =
        overall_db < ENOUGH_DB && layer.output_share.is_some_and(|share| share >= BLAMED_SHARE);
    let db = layer.introduced_db;
    if db >= ENOUGH_DB && !blamed {
        if layer.total_db < ENOUGH_DB {
            add(
                CauseKind::Inherited,
                format!(
                    "its own error is small ({}), {} with its inputs",
                    level(db),
                    level(layer.inherited_db)
                ),
            );
        } else {
            let text = if db.is_finite() {
                format!("rounding noise, as expected ({})", level(db))
            } else {
                "exact".to_owned()
            };
            add(CauseKind::RoundingNoise, text);
        }
    } else {
        let mut parts =
            [(layer.clipping_share, 0), (layer.rounding_share, 1), (layer.weights_share, 2)];
        parts.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (at, (share, part)) in parts.into_iter().enumerate() {
            if at > 0 && share < PART {
                continue;
            }
            let (kind, text) = match part {
                0 => clipping(layer),
                1 => rounding(layer),
                _ => weights(layer),
            };
            add(kind, format!("{text}; {:.0} % of its own error", 100.0 * share));
        }
    }
    if let Some(facts) = layer.weights.as_ref().filter(|facts| facts.widened > 0)
        && !causes.iter().any(|cause| cause.kind == CauseKind::WidenedForBias)
    {
        causes.push(widened(facts));
    }
    let dead = layer.channels.as_ref().map_or(0, |channels| channels.dead.len());
    if dead > 0 && layer.op != "input" {
        let of = layer.channels.as_ref().map_or(0, |channels| channels.count);
        let text = format!("{dead} of {of} channels are 0 in every sample");
        causes.push(Cause { kind: CauseKind::DeadChannels, text });
    }
    causes
}

fn level(db: f64) -> String {
    if db.is_finite() { format!("{db:.1} dB") } else { "no error".to_owned() }
}

fn ends(ends: [f64; 2]) -> String {
    format!("{:.4} to {:.4}", ends[0], ends[1])
}

fn clipping(layer: &Layer) -> (CauseKind, String) {
    let grid = layer.representable.map_or(String::new(), ends);
    let text = format!(
        "{:.3} % of the values are beyond the grid, which holds {grid}; they reach {}",
        100.0 * layer.clipped,
        ends(layer.seen)
    );
    (CauseKind::Clipped, text)
}

/// Why rounding to the output's grid costs so much.
fn rounding(layer: &Layer) -> (CauseKind, String) {
    let [low, high] = layer.representable.unwrap_or(layer.seen);
    let spanned = (layer.seen[1] - layer.seen[0]) / (high - low).max(f64::MIN_POSITIVE);
    let largest = layer.seen[0].abs().max(layer.seen[1].abs());
    if layer.dtype == "i8" && layer.zero_point == -128 && layer.scale == 1.0 / 256.0 {
        let text = format!(
            "its integers are steps of 1/256, and its values have a root mean square of {:.4}",
            largest / layer.crest
        );
        return (CauseKind::FixedGrid, text);
    }
    if spanned < SPANNED {
        // A grid that follows the values, but must hold 0, is another matter than one that doesn't follow them.
        let far = layer.seen[0] > 0.0 || layer.seen[1] < 0.0;
        let why = if far {
            "zero must be on it"
        } else {
            "it is shared with other tensors, or was chosen on other data"
        };
        let levels =
            layer.levels.map_or(String::new(), |[used, of]| format!(", {used} of {of} levels"));
        let text = format!(
            "the values span {} of a grid of {}{levels}: {why}",
            ends(layer.seen),
            ends([low, high])
        );
        return (CauseKind::UnusedLevels, text);
    }
    if let Some(channels) = &layer.channels {
        let others = channels.median_range.max(f64::MIN_POSITIVE);
        if channels.widest_range / others >= DOMINATED && channels.median_range > 0.0 {
            let text = format!(
                "channel {} spans {:.3}, the median channel {:.4}: {:.0} times less, {:.1} bits of 8",
                channels.widest,
                channels.widest_range,
                channels.median_range,
                channels.widest_range / others,
                (others / channels.widest_range * 256.0).log2().max(0.0)
            );
            return (CauseKind::DominatingChannel, text);
        }
    }
    if layer.outliers >= OUTLIERS {
        let text = format!(
            "the largest magnitude is {:.4}, 99.9 % are below {:.4}",
            largest,
            largest / layer.outliers
        );
        return (CauseKind::Outliers, text);
    }
    if layer.crest >= CREST {
        let text =
            format!("the largest magnitude is {:.0} times the root mean square", layer.crest);
        return (CauseKind::HeavyTails, text);
    }
    let text = format!("rounding to steps of {:.6} ({})", layer.scale, level(layer.introduced_db));
    (CauseKind::RoundingNoise, text)
}

fn weights(layer: &Layer) -> (CauseKind, String) {
    let Some(facts) = &layer.weights else {
        let text = if layer.macs > 0 {
            "weights rounded to their grid"
        } else {
            "the operator's integer arithmetic"
        };
        let kind = if layer.macs > 0 { CauseKind::WeightRounding } else { CauseKind::Arithmetic };
        return (kind, text.to_owned());
    };
    if facts.widened > 0 {
        let Cause { kind, text } = widened(facts);
        return (kind, text);
    }
    if facts.bits < 8 {
        return (CauseKind::FewWeightBits, format!("the weights have {} bits", facts.bits));
    }
    if facts.crest >= WEIGHT_CREST {
        let text = format!(
            "a channel's largest weight is {:.1} times the root mean square of its {} weights",
            facts.crest, facts.taps
        );
        return (CauseKind::HeavyTailedWeights, text);
    }
    if facts.depthwise && facts.taps <= FEW_TAPS {
        let text = format!(
            "each output is a sum of {} products: the errors of so few weights don't average out (channel maxima spread {:.0} times)",
            facts.taps, facts.spread
        );
        return (CauseKind::NarrowDepthwise, text);
    }
    let text = format!("{} weights a channel rounded to {} bits", facts.taps, facts.bits);
    (CauseKind::WeightRounding, text)
}

fn widened(facts: &WeightFacts) -> Cause {
    let text = format!(
        "in {} of {} channels the bias is so large that the weights' step was widened for the accumulator",
        facts.widened, facts.channels
    );
    Cause { kind: CauseKind::WidenedForBias, text }
}
