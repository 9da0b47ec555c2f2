//! Normalisations: over layers, instances, groups and batches, by norms and by neighbouring channels.

use whit::DType;

use super::builder::expect_float;
use super::builder::{Builder, Outcome};
use super::compose::{Compose, Made};
use super::conv::channels_last;
use super::data::{axes_of, axis_of};
use super::dims;
use super::failure::{Failure, invalid, unsupported};
use super::node::OnnxNode;
use crate::dim::Dim;
use crate::graph::{
    BinaryKind, CompareKind, NormKind, Op, Pool, PoolKind, ReduceKind, UnaryKind, ValueId,
};

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("BatchNormalization", batch_norm),
    ("LayerNormalization", |b, n| layer_norm(b, n, NormKind::Layer)),
    ("RMSNormalization", |b, n| layer_norm(b, n, NormKind::Rms)),
    // ONNX Runtime's, which it writes into ONNX's own domain.
    ("SimplifiedLayerNormalization", |b, n| layer_norm(b, n, NormKind::Rms)),
    ("InstanceNormalization", instance_norm),
    ("GroupNormalization", group_norm),
    ("MeanVarianceNormalization", mean_variance_norm),
    ("LpNormalization", lp_norm),
    ("LRN", local_response_norm),
];

/// Operators of ONNX Runtime's domain `com.microsoft`.
pub(super) const MICROSOFT: &[(&str, super::Importer)] = &[
    ("SimplifiedLayerNormalization", |b, n| layer_norm(b, n, NormKind::Rms)),
    ("SkipLayerNormalization", |b, n| skip_layer_norm(b, n, NormKind::Layer)),
    ("SkipSimplifiedLayerNormalization", |b, n| skip_layer_norm(b, n, NormKind::Rms)),
];

fn float_input(b: &Builder, node: &OnnxNode<'_>) -> Result<ValueId, Failure> {
    let x = node.required(0, "X")?;
    expect_float(b, x)?;
    Ok(x)
}

/// The trailing axes from `axis` on normalised; scale and bias broadcast to `x`.
pub(super) fn normalized(
    c: &mut Compose<'_, '_>,
    x: ValueId,
    (kind, axis, epsilon): (NormKind, usize, f32),
    mut factors: [Option<ValueId>; 2],
) -> Made {
    let (dtype, shape) = (c.dtype(x), c.shape(x));
    for factor in factors.iter_mut().flatten() {
        let all = dims::broadcast(&c.shape(*factor), &shape, &c.graph().symbols)?;
        if !c.same_shape(&all, &shape) {
            return Err(invalid("scale or bias doesn't broadcast to the input"));
        }
        *factor = c.cast(*factor, dtype)?;
    }
    // In f32, then back: what a narrower type keeps is only the result.
    let mut inputs = vec![Some(c.cast(x, DType::F32)?)];
    if dtype == DType::F32 {
        let fits = |id: &ValueId| c.graph().value(*id).shape == shape[axis..];
        let scale = factors[0].filter(fits);
        // A bias is only added behind the scale.
        let bias = factors[1].filter(|id| fits(id) && (scale.is_some() || factors[0].is_none()));
        inputs.extend([scale, bias]);
        while inputs.last().is_some_and(Option::is_none) {
            inputs.pop();
        }
        factors = [factors[0].filter(|_| scale.is_none()), factors[1].filter(|_| bias.is_none())];
    }
    let op = Op::Normalize { kind, axis, epsilon };
    // The node's own name is that of what normalises.
    let y = c.b.emit(c.node, "", op, &inputs, DType::F32, shape)?;
    let mut y = c.cast(y, dtype)?;
    if let Some(scale) = factors[0] {
        y = c.mul(y, scale)?;
    }
    if let Some(bias) = factors[1] {
        y = c.add(y, bias)?;
    }
    Ok(y)
}

/// The mean over axes, what `x` is around it, and the variance.
fn moments(c: &mut Compose<'_, '_>, x: ValueId, axes: &[usize]) -> Result<[ValueId; 3], Failure> {
    let mean = c.reduce(ReduceKind::Mean, x, axes, true)?;
    let centred = c.sub(x, mean)?;
    let squares = c.mul(centred, centred)?;
    Ok([mean, centred, c.reduce(ReduceKind::Mean, squares, axes, true)?])
}

/// The mean and `1 / sqrt(variance + epsilon)` (or of the mean square) over axes, in f32.
fn statistics(
    c: &mut Compose<'_, '_>,
    kind: NormKind,
    x: ValueId,
    axes: &[usize],
    epsilon: f32,
) -> Result<(ValueId, ValueId), Failure> {
    let x = c.cast(x, DType::F32)?;
    let (mean, variance) = match kind {
        NormKind::Layer => {
            let [mean, _, variance] = moments(c, x, axes)?;
            (mean, variance)
        }
        NormKind::Rms => {
            let mean = c.reduce(ReduceKind::Mean, x, axes, true)?;
            let squares = c.mul(x, x)?;
            (mean, c.reduce(ReduceKind::Mean, squares, axes, true)?)
        }
    };
    let shifted = c.with_number(BinaryKind::Add, variance, f64::from(epsilon))?;
    let root = c.unary(UnaryKind::Sqrt, shifted)?;
    Ok((mean, c.unary(UnaryKind::Reciprocal, root)?))
}

/// Precision of the statistics: only f32 is computed, and a narrower type is what ONNX allows to be
/// wider, but a model that asks for bf16 sums would get others.
fn check_stash_type(node: &OnnxNode<'_>) -> Result<(), Failure> {
    match node.attributes.int("stash_type", 1)? {
        1 => Ok(()),
        other => Err(unsupported(
            format!("stash_type {other}: statistics in another type than float32"),
            "",
        )),
    }
}

fn layer_norm(b: &mut Builder, node: &OnnxNode<'_>, kind: NormKind) -> Outcome {
    let with_bias = kind == NormKind::Layer;
    node.at_most(if with_bias { 3 } else { 2 })?;
    let x = float_input(b, node)?;
    let scale = node.required(1, "Scale")?;
    let rank = b.rank(x);
    let axis = axis_of(node.attributes.int("axis", -1)?, rank)?;
    let epsilon = node.attributes.float("epsilon", 1e-5)?;
    check_stash_type(node)?;
    let c = &mut Compose::new(b, node);
    let y = normalized(c, x, (kind, axis, epsilon), [Some(scale), node.input(2)])?;
    let mut outputs = vec![y];
    if (1..3).any(|index| node.wants(index)) {
        let axes: Vec<usize> = (axis..rank).collect();
        let (mean, inverse) = statistics(c, kind, x, &axes, epsilon)?;
        if with_bias {
            outputs.push(mean);
        }
        outputs.push(inverse);
    }
    Ok(outputs)
}

/// `layer_norm(input + skip + bias)`.
fn skip_layer_norm(b: &mut Builder, node: &OnnxNode<'_>, kind: NormKind) -> Outcome {
    let with_beta = kind == NormKind::Layer;
    node.at_most(if with_beta { 5 } else { 4 })?;
    let x = float_input(b, node)?;
    let (skip, gamma) = (node.required(1, "skip")?, node.required(2, "gamma")?);
    let (beta, bias) = match with_beta {
        true => (node.input(3), node.input(4)),
        false => (None, node.input(3)),
    };
    let epsilon = node.attributes.float("epsilon", 1e-12)?;
    let rank = b.rank(x);
    if rank == 0 {
        return Err(invalid("the input is a scalar"));
    }
    let c = &mut Compose::new(b, node);
    let mut sum = c.add(x, skip)?;
    if let Some(bias) = bias {
        sum = c.add(sum, bias)?;
    }
    if c.rank(sum) != rank {
        return Err(invalid("skip has more axes than the input"));
    }
    let y = normalized(c, sum, (kind, rank - 1, epsilon), [Some(gamma), beta])?;
    let mut outputs = vec![y];
    if (1..3).any(|index| node.wants(index)) {
        let (mean, inverse) = statistics(c, kind, sum, &[rank - 1], epsilon)?;
        outputs.extend([mean, inverse]);
    } else {
        // Nobody reads them.
        outputs.extend([sum, sum]);
    }
    outputs.push(sum);
    Ok(outputs)
}

fn instance_norm(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(3)?;
    let x = float_input(b, node)?;
    let rank = b.rank(x);
    if rank < 3 {
        return Err(invalid("the input has no spatial axes"));
    }
    let epsilon = node.attributes.float("epsilon", 1e-5)?;
    let channels = b.shape(x)[1].clone();
    let c = &mut Compose::new(b, node);
    let mut factors = [None; 2];
    for (index, what) in ["scale", "B"].into_iter().enumerate() {
        let id = channel_operand(c.b, node, index + 1, what, &channels)?;
        factors[index] = Some(c.per_channel(id, rank)?);
    }
    Ok(vec![normalized(c, x, (NormKind::Layer, 2, epsilon), factors)?])
}

/// An operand of one number per channel.
fn channel_operand(
    b: &Builder,
    node: &OnnxNode<'_>,
    index: usize,
    what: &str,
    channels: &Dim,
) -> Result<ValueId, Failure> {
    let id = node.required(index, what)?;
    let shape = b.shape(id);
    let fits = shape.len() == 1 && dims::same(&shape[0], channels, &b.graph.symbols);
    match fits && b.dtype(id).is_float() {
        true => Ok(id),
        false => Err(invalid(format!("{what} is not one number per channel"))),
    }
}

/// Scale and bias are per group in opset 18, per channel from 21 on.
fn group_norm(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(3)?;
    let x = float_input(b, node)?;
    let (dtype, shape) = (b.dtype(x), b.shape(x));
    let epsilon = node.attributes.float("epsilon", 1e-5)?;
    check_stash_type(node)?;
    let groups = node.attributes.required_int("num_groups")?;
    let channels = shape.get(1).and_then(Dim::as_const).filter(|_| shape.len() >= 2);
    let channels = channels.ok_or_else(|| invalid("the number of channels isn't constant"))?;
    if groups < 1 || channels % groups != 0 {
        return Err(invalid(format!("{channels} channels in {groups} groups")));
    }
    let per_group = node.opset < 21;
    let count = Dim::from(if per_group { groups } else { channels });
    let scale = channel_operand(b, node, 1, "scale", &count)?;
    let bias = channel_operand(b, node, 2, "bias", &count)?;

    let c = &mut Compose::new(b, node);
    let mut rest = vec![Dim::from(channels / groups)];
    rest.extend_from_slice(&shape[2..]);
    let grouped = vec![shape[0].clone(), Dim::from(groups), dims::product(&rest)?];
    let grouped = c.reshape(x, grouped)?;
    let how = (NormKind::Layer, 2, epsilon);
    if per_group {
        let (scale, bias) = (c.per_channel(scale, 3)?, c.per_channel(bias, 3)?);
        let y = normalized(c, grouped, how, [Some(scale), Some(bias)])?;
        return Ok(vec![c.reshape(y, shape)?]);
    }
    let y = normalized(c, grouped, how, [None, None])?;
    let y = c.reshape(y, shape.clone())?;
    let (scale, bias) = (c.cast(scale, dtype)?, c.cast(bias, dtype)?);
    let (scale, bias) = (c.per_channel(scale, shape.len())?, c.per_channel(bias, shape.len())?);
    let y = c.mul(y, scale)?;
    Ok(vec![c.add(y, bias)?])
}

/// `(x - mean) / (sqrt(mean((x - mean)²)) + 1e-9)`, where ONNX's own function adds the small number.
fn mean_variance_norm(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(1)?;
    let x = float_input(b, node)?;
    let axes = node.attributes.ints("axes")?.unwrap_or(&[0, 2, 3]);
    let mut axes = axes_of(axes, b.rank(x))?;
    axes.sort_unstable();
    let c = &mut Compose::new(b, node);
    let [_, centred, variance] = moments(c, x, &axes)?;
    let deviation = c.unary(UnaryKind::Sqrt, variance)?;
    let divisor = c.with_number(BinaryKind::Add, deviation, 1e-9)?;
    Ok(vec![c.main().div(centred, divisor)?])
}

/// `x / norm(x)`, and 0 where the norm is 0.
fn lp_norm(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(1)?;
    let x = float_input(b, node)?;
    let axis = axis_of(node.attributes.int("axis", -1)?, b.rank(x))?;
    let kind = match node.attributes.int("p", 2)? {
        1 => ReduceKind::L1,
        2 => ReduceKind::L2,
        p => return Err(invalid(format!("a norm of order {p}"))),
    };
    let c = &mut Compose::new(b, node);
    let norm = c.reduce(kind, x, &[axis], true)?;
    // Where the norm is 0, so is x: any divisor will do.
    let dtype = c.dtype(x);
    let zero = c.scalar(dtype, 0.0)?;
    let is_zero = c.compare(CompareKind::Equal, norm, zero)?;
    let one = c.cast(is_zero, dtype)?;
    let divisor = c.add(norm, one)?;
    Ok(vec![c.main().div(x, divisor)?])
}

/// `x / (bias + alpha / size * sum of squares of the neighbouring channels)^beta`. The sum is an average
/// over windows: with the channels as the one spatial axis, and what lies behind them as channels.
fn local_response_norm(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(1)?;
    let x = float_input(b, node)?;
    let (dtype, shape) = (b.dtype(x), b.shape(x));
    if shape.len() < 2 {
        return Err(invalid("the input has no channel axis"));
    }
    let alpha = node.attributes.float("alpha", 1e-4)?;
    let beta = node.attributes.float("beta", 0.75)?;
    let bias = node.attributes.float("bias", 1.0)?;
    let size = node.attributes.optional_int("size")?.filter(|s| (1..=4096).contains(s));
    let size = size.ok_or_else(|| invalid("attribute `size` is missing or out of range"))?;
    let size = size as usize;
    let c = &mut Compose::new(b, node);
    let squares = c.mul(x, x)?;
    let rows = vec![shape[0].clone(), shape[1].clone(), dims::product(&shape[2..])?];
    let squares = c.reshape(squares, rows.clone())?;
    let op = Op::Pool(Pool {
        kind: PoolKind::Average,
        kernel: vec![size],
        stride: vec![1],
        dilation: vec![1],
        pad_before: vec![(size - 1) / 2],
        pad_after: vec![size / 2],
        count_include_pad: true,
        column_major: false,
    });
    let means = c.emit("neighbours", op, &[squares], dtype, rows)?;
    let means = c.reshape(means, shape)?;
    let scaled = c.with_number(BinaryKind::Mul, means, f64::from(alpha))?;
    let base = c.with_number(BinaryKind::Add, scaled, f64::from(bias))?;
    let power = c.with_number(BinaryKind::Pow, base, f64::from(beta))?;
    Ok(vec![c.main().div(x, power)?])
}

fn batch_norm(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(5)?;
    let x = float_input(b, node)?;
    let epsilon = node.attributes.float("epsilon", 1e-5)?;
    let momentum = node.attributes.float("momentum", 0.9)?;
    let more = (1..node.outputs.len()).any(|i| node.wants(i));
    // The first versions say how they mean it, the next ones by their outputs.
    let training = match node.opset {
        ..7 => !node.attributes.flag("is_test", false)?,
        _ => node.attributes.flag("training_mode", false)?,
    };
    if (more && !training) || (training && node.opset < 14) {
        return Err(unsupported(
            "batch normalisation in training mode",
            "export the model in evaluation mode",
        ));
    }
    if node.opset < 9 && !node.attributes.flag("spatial", true)? {
        return Err(unsupported("spatial = 0", ""));
    }
    let shape = b.shape(x);
    if shape.len() < 2 {
        return Err(invalid("the input has no channel axis"));
    }
    let mut inputs = vec![Some(x)];
    let mut constant = true;
    for (index, what) in ["scale", "B", "mean", "var"].into_iter().enumerate() {
        let id = channel_operand(b, node, index + 1, what, &shape[1])?;
        constant &= b.tensor(id).is_some();
        inputs.push(Some(id));
    }
    if !constant || training {
        let operands = [1, 2, 3, 4].map(|index| inputs[index].unwrap_or(x));
        let c = &mut Compose::new(b, node);
        return by_arithmetic(c, x, operands, epsilon, training.then_some(momentum));
    }
    let op = Op::BatchNorm { epsilon };
    Ok(vec![match shape.len() {
        2 => b.emit(node, "", op, &inputs, b.dtype(x), shape)?,
        _ => channels_last(b, node, op, &inputs, &shape)?,
    }])
}

/// Batch normalisation with statistics that are computed at run time: given, or those of the batch.
fn by_arithmetic(
    c: &mut Compose<'_, '_>,
    x: ValueId,
    [scale, bias, mean, var]: [ValueId; 4],
    epsilon: f32,
    momentum: Option<f32>,
) -> Outcome {
    let (dtype, rank) = (c.dtype(x), c.rank(x));
    let column = |c: &mut Compose<'_, '_>, id: ValueId| -> Made {
        let id = c.cast(id, dtype)?;
        c.per_channel(id, rank)
    };
    let (scale, bias) = (column(c, scale)?, column(c, bias)?);
    let mut running = Vec::new();
    let (mean_of, var_of) = match momentum {
        None => (column(c, mean)?, column(c, var)?),
        Some(momentum) => {
            let axes: Vec<usize> = (0..rank).filter(|axis| *axis != 1).collect();
            let [own, _, own_var] = moments(c, x, &axes)?;
            let momentum = f64::from(momentum);
            for (old, new) in [(mean, own), (var, own_var)] {
                let flat = c.reshape(new, c.shape(old))?;
                let flat = c.cast(flat, c.dtype(old))?;
                let old = c.with_number(BinaryKind::Mul, old, momentum)?;
                let new = c.with_number(BinaryKind::Mul, flat, 1.0 - momentum)?;
                running.push(c.add(old, new)?);
            }
            (own, own_var)
        }
    };
    let shifted = c.with_number(BinaryKind::Add, var_of, f64::from(epsilon))?;
    let root = c.unary(UnaryKind::Sqrt, shifted)?;
    let factor = c.div(scale, root)?;
    let centred = c.sub(x, mean_of)?;
    let scaled = c.mul(centred, factor)?;
    let mut outputs = vec![c.main().add(scaled, bias)?];
    outputs.extend(running);
    Ok(outputs)
}
