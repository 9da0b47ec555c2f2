//! Convolutions and fully connected layers on i16: weights in panels or as they are, biases of 64 bits, scales.

use whit::DType;
use whit::format::{Layout, Op as StepOp};
use whit::kernels::{Packing, conv_i8};

use crate::plan::builder::unsupported;
use crate::plan::{Builder, PlanError, Target};

use super::conv::{Layer, padded, real_values, spread};
use super::{clamp_q, is_i8, quant_of, ratio};

/// Bias magnitudes at most: f64 holds them exactly, with room for the products.
const MAX_BIAS: f64 = (1u64 << 50) as f64;

/// How far a bias' own scale may be from the product of the scales of input and weights, relatively, to be
/// the same: both were rounded to f32.
const SAME_SCALE: f64 = 1e-6;

/// Products per output at most, what the runtime takes.
const MAX_K: usize = 1 << 16;

pub(super) fn lower(builder: &mut Builder<'_>, mut layer: Layer<'_>) -> Result<(), PlanError> {
    let node = layer.node;
    let geometry = layer.geometry;
    let graph = builder.graph;
    let (x, y) = (graph.value(builder.input(node, 0)?), graph.value(node.outputs[0]));
    let weights = graph.value(builder.input(node, 1)?);
    if !is_i8(weights) || y.dtype != DType::I16 || layer.residual.is_some() {
        return Err(unsupported(
            node,
            "i16 activations take i8 weights, an i16 result, no residual",
        ));
    }
    let (x, y) = (quant_of(node, x)?, quant_of(node, y)?);
    let w = weights.quant.as_ref().filter(|w| w.zero_point.iter().all(|zero| *zero == 0));
    let w = w.ok_or_else(|| unsupported(node, "its weights are asymmetric or have no scales"))?;
    let (channels, k) = (geometry.out_c, geometry.k());
    if k > MAX_K || k == 0 || channels == 0 {
        return Err(unsupported(node, format!("{k} products per output; i16 takes 1 to {MAX_K}")));
    }
    let weight_scales = spread(node, &w.scale, channels)?;
    let steps: Vec<f64> =
        weight_scales.iter().map(|w| f64::from(x.scale[0]) * f64::from(*w)).collect();
    let bias = bias(builder, &layer, &steps)?;
    // Where TFLite rounds its own way in 16 bits, so do its layers here.
    let of_tflite = graph.is_of_tflite();
    let scale = |step: &f64| match of_tflite {
        true => short_multiplier(step / f64::from(y.scale[0])),
        false => ratio(*step, y.scale[0]),
    };
    let scales: Vec<f32> = steps.iter().map(scale).collect();
    layer.attributes.clamp_q = clamp_q(&layer.clamp, y, DType::I16);

    let name = &node.name;
    let ohwi = layer.weights.to_i8();
    let (layout, packed, bias, scales) = if layer.op == StepOp::DepthwiseConv2d {
        let wide = geometry.in_c.next_multiple_of(whit::kernels::PANEL_N);
        let mut packed = vec![0; k * wide];
        for (at, weight) in ohwi.iter().enumerate() {
            packed[at % k * wide + at / k] = *weight;
        }
        (
            Layout::Depthwise,
            packed,
            padded(&layer, Packing::Panels, &bias, 0),
            padded(&layer, Packing::Panels, &scales, 0.0),
        )
    } else if builder.options.target == Target::CortexM {
        (Layout::Dense, ohwi, bias, scales)
    } else {
        let mut packed = vec![0; geometry.packed_i8_len()];
        conv_i8::pack_weights(&geometry, &ohwi, &mut packed);
        (
            Layout::PanelI8,
            packed,
            padded(&layer, Packing::Panels, &bias, 0),
            padded(&layer, Packing::Panels, &scales, 0.0),
        )
    };
    let weights = {
        let name = format!("{name}/weights");
        builder.constant_i8(&name, layout, &layer.weights.shape, &packed)?
    };
    let bias = {
        let data = bias.iter().flat_map(|b: &i64| b.to_le_bytes()).collect();
        let name = format!("{name}/bias");
        builder.constant(&name, DType::I64, Layout::Dense, &[bias.len()], data)?
    };
    let scales = builder.constant_f32(&format!("{name}/scales"), &scales)?;
    let inputs = vec![Some(layer.input), Some(weights), Some(bias), Some(scales)];
    let (op, output, macs) = (layer.op, layer.output, layer.macs);
    builder.step_to(name, op, Some(DType::I16), layer.attributes, inputs, output, macs, &[]);
    Ok(())
}

/// A scale as TFLite's kernels apply it to sums of 64 bits: rounded to 31 bits, then to 15. It is within 2⁻¹⁵ of the
/// scale, and with it results agree with theirs.
fn short_multiplier(scale: f64) -> f32 {
    let (fraction, exponent) = libm::frexp(scale);
    let multiplier = (fraction * f64::from(1u32 << 31)).round();
    let short = ((multiplier + 32768.0) / 65536.0).floor().min(32767.0);
    libm::ldexp(short, exponent - 15) as f32
}

/// The bias in steps of the accumulator: the model's own integers where they count in those.
fn bias(builder: &Builder<'_>, layer: &Layer<'_>, steps: &[f64]) -> Result<Vec<i64>, PlanError> {
    let node = layer.node;
    let Some(id) = node.inputs.get(2).copied().flatten() else { return Ok(vec![0; steps.len()]) };
    let value = builder.graph.value(id);
    if let (Some(constant), Some(quant)) = (&value.constant, &value.quant)
        && let (integers, scales) = (constant.to_i64(), spread(node, &quant.scale, steps.len())?)
        && integers.len() == steps.len()
        && quant.zero_point.iter().all(|zero_point| *zero_point == 0)
        && scales.iter().zip(steps).all(|(s, step)| (f64::from(*s) / step - 1.0).abs() < SAME_SCALE)
        && integers.iter().all(|q| (*q as f64).abs() <= MAX_BIAS)
    {
        return Ok(integers);
    }
    let reals = spread(node, &real_values(builder, node, id)?, steps.len())?;
    let of = |(channel, (real, step)): (usize, (&f64, &f64))| {
        let q = (real / step).round_ties_even();
        if q.is_nan() || q.abs() > MAX_BIAS {
            let why = format!(
                "bias {real:e} of channel {channel} doesn't fit 51 bits at its scale {step:e}; \
                 keep it float with --keep-float {}",
                node.name
            );
            return Err(unsupported(node, why));
        }
        Ok(q as i64)
    };
    reals.iter().zip(steps).enumerate().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_multipliers_have_15_bits() {
        for (scale, want) in [
            (0.5, 0.5),
            (1.0 / 3.0, 21845.0 / 65536.0),
            (0.75 + 1.0 / 65536.0, 0.75 + 1.0 / 32768.0),
            (1.0 - 1e-9, 32767.0 / 32768.0),
            (3e-7, 20616.0 / 68_719_476_736.0),
        ] {
            let got = f64::from(short_multiplier(scale));
            assert_eq!(got, want, "{scale}");
            assert!((got / scale - 1.0).abs() <= 1.0 / 32768.0);
        }
    }
}
