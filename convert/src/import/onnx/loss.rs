//! Losses over class scores, which evaluation graphs end with.

use whit::DType;

use super::builder::{Builder, Outcome};
use super::compose::{Compose, Made};
use super::failure::{FIX_THE_DIM, Failure, invalid, unsupported};
use super::node::OnnxNode;
use crate::dim::Dim;
use crate::graph::{CompareKind, ReduceKind, UnaryKind, ValueId};

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("NegativeLogLikelihoodLoss", negative_log_likelihood),
    ("SoftmaxCrossEntropyLoss", softmax_cross_entropy),
];

fn negative_log_likelihood(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(3)?;
    let c = &mut Compose::new(b, node);
    let given = node.required(0, "input")?;
    let dtype = c.dtype(given);
    let log_prob = c.real(given)?;
    let loss = loss(c, node, log_prob)?;
    Ok(vec![c.cast(loss, dtype)?])
}

fn softmax_cross_entropy(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(3)?;
    let c = &mut Compose::new(b, node);
    let given = node.required(0, "scores")?;
    let dtype = c.dtype(given);
    let scores = c.real(given)?;
    if c.rank(scores) < 2 {
        return Err(invalid("the scores have no axis of classes"));
    }
    let log_prob = c.softmax(scores, 1, true)?;
    let loss = loss(c, node, log_prob)?;
    let mut outputs = vec![c.cast(loss, dtype)?];
    if node.wants(1) {
        outputs.push(c.cast(log_prob, dtype)?);
    }
    Ok(outputs)
}

/// `-log_prob[n, target[n, …], …]`, weighted and reduced as the node says.
///
/// A target is turned into a one-hot selection: elements of other classes count as 0. A target outside
/// the classes selects nothing, so its loss is 0; the standard leaves it undefined.
fn loss(c: &mut Compose<'_, '_>, node: &OnnxNode<'_>, log_prob: ValueId) -> Made {
    let target = node.required(1, "target")?;
    let reduction = node.attributes.string("reduction", "mean")?;
    if !matches!(reduction, "none" | "mean" | "sum") {
        return Err(invalid(format!("reduction `{reduction}` is not defined")));
    }
    let ignored = node.attributes.optional_int("ignore_index")?;
    let shape = c.shape(log_prob);
    if shape.len() < 2 || !matches!(c.dtype(target), DType::I32 | DType::I64) {
        return Err(invalid("scores need an axis of classes, and targets are integers"));
    }
    let classes = classes(&shape[1])?;
    let mut of_target = shape.clone();
    of_target.remove(1);
    if !c.same_shape(&c.shape(target), &of_target) {
        return Err(invalid(format!(
            "targets of {} for scores of {}",
            c.b.text(&c.shape(target)),
            c.b.text(&shape)
        )));
    }

    let target = c.cast(target, DType::I64)?;
    let at = c.unsqueeze(target, 1)?;
    // The classes along axis 1: [1, C, 1, …].
    let mut along = vec![1; shape.len()];
    along[1] = classes;
    let numbers = c.ints("classes", &along, |i| i as i64)?;
    let hit = c.compare(CompareKind::Equal, at, numbers)?;
    let zero = c.scalar(DType::F32, 0.0)?;
    let picked = c.select(hit, log_prob, zero)?;
    let picked = c.reduce(ReduceKind::Sum, picked, &[1], false)?;
    let mut loss = c.unary(UnaryKind::Neg, picked)?;

    // The weight of each target: that of its class, and none where it is ignored.
    let mut weights = None;
    if let Some(of_classes) = node.input(2) {
        let of_classes = c.real(of_classes)?;
        if !matches!(c.shape(of_classes).as_slice(), [size] if c.same(size, &shape[1])) {
            return Err(invalid("weight is not a vector of the classes"));
        }
        let of_classes = c.reshape(of_classes, along.iter().map(|d| Dim::from(*d)).collect())?;
        let picked = c.select(hit, of_classes, zero)?;
        weights = Some(c.reduce(ReduceKind::Sum, picked, &[1], false)?);
    }
    if let Some(ignored) = ignored {
        let ignored = c.ints("ignored", &[], |_| ignored)?;
        let skip = c.compare(CompareKind::Equal, target, ignored)?;
        let others = match weights {
            Some(weights) => weights,
            None => c.scalar(DType::F32, 1.0)?,
        };
        weights = Some(c.select(skip, zero, others)?);
        // Not by multiplication: what is ignored may be infinite.
        loss = c.select(skip, zero, loss)?;
    }
    if let Some(weights) = weights {
        loss = c.mul(weights, loss)?;
    }

    let axes: Vec<usize> = (0..of_target.len()).collect();
    match (reduction, weights) {
        ("none", _) => Ok(loss),
        ("sum", _) => c.reduce(ReduceKind::Sum, loss, &axes, false),
        (_, None) => c.reduce(ReduceKind::Mean, loss, &axes, false),
        (_, Some(weights)) => {
            let weights = c.expand(weights, of_target)?;
            let loss = c.reduce(ReduceKind::Sum, loss, &axes, false)?;
            let weight = c.reduce(ReduceKind::Sum, weights, &axes, false)?;
            c.div(loss, weight)
        }
    }
}

/// The number of classes.
fn classes(dim: &Dim) -> Result<usize, Failure> {
    let classes = dim.as_const().and_then(|d| usize::try_from(d).ok());
    classes.ok_or_else(|| unsupported("a dynamic number of classes", FIX_THE_DIM))
}
