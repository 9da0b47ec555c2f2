//! Weights as integers: the nearest ones, per channel or in groups.

use whit::kernels::conv_f32::grouped::GroupedBits;

use crate::graph::{Graph, Groups, Quant};
use crate::quantize::codebook::Codebook;
use crate::quantize::numbers::{Numbers, output_axis, stored};
use crate::tensor::Tensor;

/// Bias magnitudes that per-channel scales are widened for: what the planner accepts, halved.
pub(crate) const MAX_BIAS_I8: f64 = (1u32 << 29) as f64;

/// The same for i16 activations.
pub(crate) const MAX_BIAS_I16: f64 = (1u64 << 49) as f64;

/// The largest bias of an integer layer, per unit of its input's scale times its weights' scale.
pub(super) const fn largest_bias(numbers: Numbers) -> f64 {
    match numbers {
        Numbers::Int16 => MAX_BIAS_I16,
        _ => MAX_BIAS_I8,
    }
}

/// The integers of a layer's weights, in the shape that the operator wants, and what they stand for.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// i8.
    pub values: Tensor,
    /// What they stand for.
    pub scales: Scales,
}

/// How the integers of weights stand for reals.
#[derive(Clone, Debug, PartialEq)]
pub enum Scales {
    /// Symmetric, one scale per output channel.
    PerChannel(Quant),
    /// In groups along the inputs.
    Groups(Groups),
}

impl Weights {
    /// The weights of a layer, each rounded to the nearest integer; `None` when the numbers have no integer
    /// weights, or the node has none that can be. `input_scale` is that of the layer's integer input.
    pub fn nearest(
        graph: &Graph,
        node: usize,
        numbers: Numbers,
        input_scale: f64,
    ) -> Option<Weights> {
        let node = &graph.nodes[node];
        let (_, weights) = stored(graph, node)?;
        let bias = node.inputs.get(2).copied().flatten().and_then(|id| graph.constant(id));
        let bias = bias.map(|bias| bias.to_f32());
        Weights::of(weights, output_axis(node), numbers, input_scale, bias.as_deref())
    }

    /// The same for weights whose outputs run along `axis`, of a layer with this bias.
    pub(super) fn of(
        weights: &Tensor,
        axis: usize,
        numbers: Numbers,
        input_scale: f64,
        bias: Option<&[f32]>,
    ) -> Option<Weights> {
        match numbers {
            Numbers::Int8 | Numbers::Int16 => {
                let most = input_scale * largest_bias(numbers);
                let (values, scales) = per_channel(weights, axis, most, bias);
                Some(Weights {
                    values: Tensor::from_i8(weights.shape.clone(), &values),
                    scales: Scales::PerChannel(Quant::per_channel(scales, axis)),
                })
            }
            Numbers::Grouped { bits, group } => Some(in_groups(weights, axis, bits, group)),
            Numbers::Float | Numbers::F16 | Numbers::Bf16 => None,
        }
    }

    /// The reals that the integers stand for, in the same shape.
    pub fn to_f32(&self) -> Vec<f32> {
        let integers = self.values.to_i8();
        let scale = self.scale_of();
        let products = integers.iter().enumerate().map(|(at, q)| f32::from(*q) * scale(at));
        let Scales::Groups(Groups { size, axis, min: Some(min), .. }) = &self.scales else {
            return products.collect();
        };
        let rows = Rows::of(&self.values, *axis);
        let min_of = |at: usize| {
            let (row, k) = rows.place(at);
            min[row * rows.len.div_ceil(*size) + k / size]
        };
        products.enumerate().map(|(at, product)| product + min_of(at)).collect()
    }

    /// The scale of the weight at an index of the values.
    pub fn scale_of(&self) -> Box<dyn Fn(usize) -> f32 + '_> {
        match &self.scales {
            Scales::PerChannel(quant) => {
                let axis = quant.axis.unwrap_or(0);
                let (channels, inner) = extent(&self.values, axis);
                Box::new(move |at| quant.scale[at / inner % channels])
            }
            Scales::Groups(groups) => {
                let rows = Rows::of(&self.values, groups.axis);
                let per_row = rows.len.div_ceil(groups.size);
                Box::new(move |at| {
                    let (row, k) = rows.place(at);
                    groups.scale[row * per_row + k / groups.size]
                })
            }
        }
    }

    /// What a weight may be.
    pub fn codebook(&self) -> Codebook {
        match &self.scales {
            Scales::Groups(groups) => Codebook::of(groups.bits, groups.min.is_some()),
            Scales::PerChannel(_) => Codebook::I8,
        }
    }
}

/// How weights lie as rows of what one output reads.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// Number of outputs.
    pub count: usize,
    /// Weights per output.
    pub len: usize,
    /// Outputs lie along the last axis.
    transposed: bool,
}

impl Rows {
    /// Rows of weights whose outputs run along `axis`: 0, or 1 of a plain matrix product.
    pub fn of(weights: &Tensor, axis: usize) -> Rows {
        let count = weights.shape.get(axis).copied().unwrap_or(1).max(1);
        let len = weights.shape.iter().product::<usize>() / count;
        Rows { count, len, transposed: axis == 1 }
    }

    /// The index of weight `k` of a row.
    pub fn index(&self, row: usize, k: usize) -> usize {
        if self.transposed { k * self.count + row } else { row * self.len + k }
    }

    /// The row of an index, and the place in it.
    pub fn place(&self, at: usize) -> (usize, usize) {
        if self.transposed {
            (at % self.count, at / self.count)
        } else {
            (at / self.len.max(1), at % self.len.max(1))
        }
    }
}

/// Size of an axis, and the elements that each of its indices takes at a time.
fn extent(weights: &Tensor, axis: usize) -> (usize, usize) {
    let inner: usize = weights.shape[axis + 1..].iter().product();
    (weights.shape[axis].max(1), inner.max(1))
}

/// Symmetric i8 weights in −127..=127, one scale per index of `axis`: the largest magnitude over
/// 127, or more where the bias would otherwise not fit the accumulator: `most` is the largest bias per unit of
/// the weights' scale.
fn per_channel(
    weights: &Tensor,
    axis: usize,
    most: f64,
    bias: Option<&[f32]>,
) -> (Vec<i8>, Vec<f32>) {
    let reals = weights.to_f32();
    let (channels, inner) = extent(weights, axis);
    let channel_of = |index: usize| index / inner % channels;
    let mut largest = vec![0f64; weights.shape[axis]];
    for (index, real) in reals.iter().enumerate() {
        let channel = channel_of(index);
        largest[channel] = largest[channel].max(f64::from(real.abs()));
    }
    let scales: Vec<f32> = largest
        .iter()
        .enumerate()
        .map(|(channel, largest)| {
            let bias = bias.map_or(0.0, |b| if b.len() == 1 { b[0] } else { b[channel] });
            let least = f64::from(bias.abs()) / most;
            let scale = (largest / 127.0).max(least) as f32;
            if scale < f32::MIN_POSITIVE { 1.0 } else { scale }
        })
        .collect();
    let values = reals
        .iter()
        .enumerate()
        .map(|(index, real)| {
            let q = f64::from(*real) / f64::from(scales[channel_of(index)]);
            q.round_ties_even().clamp(-127.0, 127.0) as i8
        })
        .collect();
    (values, scales)
}

/// The nearest weights in groups without minima, with an f16 scale for `size` consecutive inputs of each output.
fn in_groups(weights: &Tensor, axis: usize, bits: GroupedBits, size: usize) -> Weights {
    let codebook = Codebook::of(bits, false);
    let reals = weights.to_f32();
    let rows = Rows::of(weights, axis);
    let mut values = vec![0i8; reals.len()];
    let mut scale = Vec::with_capacity(rows.count * rows.len.div_ceil(size));
    for row in 0..rows.count {
        for start in (0..rows.len).step_by(size) {
            let places: Vec<usize> =
                (start..rows.len.min(start + size)).map(|k| rows.index(row, k)).collect();
            let group: Vec<f32> = places.iter().map(|at| reals[*at]).collect();
            let chosen = codebook.group_scale(&group);
            for (at, real) in places.into_iter().zip(group) {
                values[at] = codebook.nearest(f64::from(real) / f64::from(chosen.to_f32()));
            }
            scale.push(chosen.to_f32());
        }
    }
    Weights {
        values: Tensor::from_i8(weights.shape.clone(), &values),
        scales: Scales::Groups(Groups { bits, size, axis, scale, min: None, factors: None }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_have_scales_of_their_own() {
        let weights = Tensor::from_f32([2, 2], &[1.27, -0.635, 0.0, 0.0]);
        let (values, scales) = per_channel(&weights, 0, MAX_BIAS_I8, None);
        assert_eq!(values, [127, -64, 0, 0]);
        assert_eq!(scales, [0.01, 1.0]);
        let (_, scales) = per_channel(&weights, 1, MAX_BIAS_I8, Some(&[0.0, 1e9]));
        assert!(scales[1] > 1.0, "widened for the bias: {scales:?}");
    }

    #[test]
    fn groups_run_along_the_inputs_of_an_output() {
        // Two outputs of 40 inputs, the second a hundred times the first; both orders of the axes.
        let real = |row: usize, k: usize| (k as f32 - 20.0) * if row == 0 { 0.01 } else { 1.0 };
        for axis in [0, 1] {
            let shape = if axis == 0 { [2, 40] } else { [40, 2] };
            let at = |i: usize| if axis == 0 { (i / 40, i % 40) } else { (i % 2, i / 2) };
            let reals: Vec<f32> = (0..80).map(|i| real(at(i).0, at(i).1)).collect();
            let all = [
                (GroupedBits::W8, 0.005),
                (GroupedBits::W6, 0.025),
                (GroupedBits::W5, 0.05),
                (GroupedBits::W4, 0.09),
                // Half of the widest step, 24 of 240.
                (GroupedBits::W4Nl, 0.11),
            ];
            for (bits, tolerance) in all {
                let weights = in_groups(&Tensor::from_f32(shape, &reals), axis, bits, 32);
                let Scales::Groups(groups) = &weights.scales else { panic!("no groups") };
                assert_eq!(groups.scale.len(), 4, "two rows of 32 + 8");
                let back = weights.to_f32();
                for (i, (real, back)) in reals.iter().zip(&back).enumerate() {
                    let largest = if at(i).0 == 0 { 0.2 } else { 20.0 };
                    assert!(
                        (real - back).abs() <= tolerance * largest,
                        "{bits:?} {i}: {real} {back}"
                    );
                }
            }
        }
    }
}
