//! Einstein summation as transposes, sums and matrix products.
//!
//! Operands are joined from the left. In each join, labels that nobody needs any more are summed:
//! those of one operand alone before it, those of both by a matrix product. What both share and keep
//! becomes the product's leading axes, as elsewhere.

use whit::DType;

use super::builder::MAX_RANK;
use super::builder::{Builder, Outcome};
use super::compose::Compose;
use super::dims;
use super::failure::{FIX_THE_DIM, Failure, invalid, unsupported};
use super::node::OnnxNode;
use crate::dim::Dim;
use crate::graph::{BinaryKind, ReduceKind, ValueId};

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[("Einsum", einsum)];

/// Operands of one node; the letters end before.
const MAX_OPERANDS: usize = 64;

/// What an axis is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    /// An axis of the ellipsis, counted from its last one.
    Ellipsis(usize),
    Letter(char),
}

/// A tensor whose axes have different labels.
#[derive(Clone)]
struct Operand {
    value: ValueId,
    labels: Vec<Label>,
}

fn einsum(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    let equation = node.attributes.string("equation", "")?;
    let c = &mut Compose::new(b, node);
    let count = node.inputs.len();
    let first = node.required(0, "Inputs")?;
    let dtype = c.dtype(first);
    if dtype == DType::Bool {
        return Err(invalid("sums of bool"));
    }
    if count > MAX_OPERANDS {
        return Err(unsupported(format!("{count} operands"), "write it as several nodes"));
    }
    let mut operands = Vec::with_capacity(count);
    for index in 0..count {
        let value = node.required(index, "Inputs")?;
        if c.dtype(value) != dtype {
            return Err(invalid("the operands differ in type"));
        }
        operands.push(if dtype.is_float() { c.real(value)? } else { value });
    }
    let ranks: Vec<usize> = operands.iter().map(|id| c.rank(*id)).collect();
    let (terms, result) = parse(equation, &ranks)?;

    let mut left: Vec<Operand> = Vec::with_capacity(count);
    for (value, labels) in operands.into_iter().zip(terms) {
        left.push(diagonal(c, Operand { value, labels })?);
    }
    let mut rest = left.into_iter();
    let Some(mut acc) = rest.next() else {
        return Err(invalid("no operands"));
    };
    while let Some(next) = rest.next() {
        let later: Vec<Label> = rest.clone().flat_map(|o| o.labels).collect();
        let needed = |label: &Label| result.contains(label) || later.contains(label);
        acc = join(c, acc, next, &needed)?;
    }
    let acc = sum_others(c, acc, &|label| result.contains(label))?;
    let perm: Option<Vec<usize>> =
        result.iter().map(|label| acc.labels.iter().position(|l| l == label)).collect();
    let perm = perm.ok_or_else(|| invalid("the result has an axis that no operand has"))?;
    let y = c.transpose(acc.value, &perm)?;
    Ok(vec![c.cast(y, dtype)?])
}

/// The labels of every operand and of the result.
fn parse(equation: &str, ranks: &[usize]) -> Result<(Vec<Vec<Label>>, Vec<Label>), Failure> {
    let wrong = |what: &str| invalid(format!("equation `{equation}`: {what}"));
    let text: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (operands, result) = match text.split_once("->") {
        Some((operands, result)) => (operands, Some(result)),
        None => (text.as_str(), None),
    };
    let terms: Vec<&str> = operands.split(',').collect();
    if terms.len() != ranks.len() {
        return Err(wrong(&format!("{} terms for {} operands", terms.len(), ranks.len())));
    }
    let mut most_hidden = None;
    let mut all = Vec::new();
    for (term, rank) in terms.iter().zip(ranks) {
        let letters = term.replacen("...", "", 1).chars().count();
        let hidden = match (term.contains("..."), rank.checked_sub(letters)) {
            (true, Some(hidden)) => {
                most_hidden = most_hidden.max(Some(hidden));
                hidden
            }
            (false, Some(0)) => 0,
            _ => return Err(wrong(&format!("term `{term}` for {rank} axes"))),
        };
        all.push(labels(term, hidden).ok_or_else(|| wrong("what is not a letter"))?);
    }
    let hidden = most_hidden.unwrap_or(0);
    let result = match result {
        Some(result) => {
            let labels = labels(result, hidden).ok_or_else(|| wrong("what is not a letter"))?;
            let unique = (0..labels.len()).all(|i| !labels[..i].contains(&labels[i]));
            if !unique {
                return Err(wrong("an axis of the result occurs twice"));
            }
            labels
        }
        None => {
            // The ellipsis, then the letters that occur once, in alphabetical order.
            let mut letters: Vec<Label> = all.iter().flatten().copied().collect();
            letters.retain(|label| matches!(label, Label::Letter(_)));
            letters.sort_unstable();
            let once = letters.chunk_by(|a, b| a == b).filter(|same| same.len() == 1);
            (0..hidden).rev().map(Label::Ellipsis).chain(once.map(|same| same[0])).collect()
        }
    };
    if let Some(unknown) = result.iter().find(|label| !all.iter().flatten().any(|l| l == *label)) {
        return Err(wrong(&format!("{unknown:?} of the result is in no operand")));
    }
    Ok((all, result))
}

fn labels(term: &str, hidden: usize) -> Option<Vec<Label>> {
    let letters = |text: &str| -> Option<Vec<Label>> {
        text.chars().map(|c| c.is_ascii_alphabetic().then_some(Label::Letter(c))).collect()
    };
    match term.split_once("...") {
        Some((front, back)) => {
            let mut all = letters(front)?;
            all.extend((0..hidden).rev().map(Label::Ellipsis));
            all.extend(letters(back)?);
            Some(all)
        }
        None => letters(term),
    }
}

/// Axes of one label become one: every (n + 1)th element of the two merged.
fn diagonal(c: &mut Compose<'_, '_>, mut x: Operand) -> Result<Operand, Failure> {
    while let Some(second) = (0..x.labels.len()).find(|i| x.labels[..*i].contains(&x.labels[*i])) {
        let label = x.labels[second];
        let first = x.labels.iter().position(|l| *l == label).unwrap_or(second);
        let mut perm: Vec<usize> =
            (0..x.labels.len()).filter(|i| *i != first && *i != second).collect();
        x.labels = perm.iter().map(|i| x.labels[*i]).chain([label]).collect();
        perm.extend([first, second]);
        let value = c.transpose(x.value, &perm)?;
        let mut shape = c.shape(value);
        let (rows, columns) = (shape.pop(), shape.pop());
        if rows != columns {
            return Err(invalid(format!("a diagonal of {}", c.b.text(&c.shape(value)))));
        }
        let size = rows.as_ref().and_then(Dim::as_const);
        let Some(size) = size.filter(|n| (1..1 << 20).contains(n)) else {
            return Err(unsupported("the diagonal of a dynamic or huge axis", FIX_THE_DIM));
        };
        let axis = shape.len();
        shape.push(Dim::from(size * size));
        let flat = c.reshape(value, shape)?;
        x.value = c.stepped(flat, axis, &Dim::from(0i64), &Dim::from(size), size + 1)?;
    }
    Ok(x)
}

/// Sums over the labels that aren't needed.
fn sum_others(
    c: &mut Compose<'_, '_>,
    x: Operand,
    needed: &dyn Fn(&Label) -> bool,
) -> Result<Operand, Failure> {
    let axes: Vec<usize> = (0..x.labels.len()).filter(|i| !needed(&x.labels[*i])).collect();
    let value = c.reduce(ReduceKind::Sum, x.value, &axes, false)?;
    Ok(Operand { value, labels: x.labels.into_iter().filter(|label| needed(label)).collect() })
}

/// Drops axes of size 1 that the other operand has in another size: they are broadcast.
fn without_ones(c: &mut Compose<'_, '_>, x: Operand, other: &Operand) -> Result<Operand, Failure> {
    let (shape, of_other) = (c.shape(x.value), c.shape(other.value));
    let dropped = |axis: usize| {
        let there = other.labels.iter().position(|label| *label == x.labels[axis]);
        shape[axis].is(1) && there.is_some_and(|there| !of_other[there].is(1))
    };
    let kept: Vec<usize> = (0..shape.len()).filter(|axis| !dropped(*axis)).collect();
    let value = c.reshape(x.value, kept.iter().map(|axis| shape[*axis].clone()).collect())?;
    Ok(Operand { value, labels: kept.iter().map(|axis| x.labels[*axis]).collect() })
}

/// The axes in the order `batch`, `groups`, with each group merged into one axis.
fn arranged(
    c: &mut Compose<'_, '_>,
    x: &Operand,
    batch: &[Label],
    groups: [&[Label]; 2],
) -> Result<ValueId, Failure> {
    let order: Vec<Label> = [batch, groups[0], groups[1]].concat();
    let at = |label: &Label| x.labels.iter().position(|l| l == label);
    let perm: Option<Vec<usize>> = order.iter().map(at).collect();
    let perm = perm.ok_or_else(|| invalid("an axis is missing"))?;
    let value = c.transpose(x.value, &perm)?;
    let shape = c.shape(value);
    let mut merged = shape[..batch.len()].to_vec();
    let (first, second) = shape[batch.len()..].split_at(groups[0].len());
    merged.extend([dims::product(first)?, dims::product(second)?]);
    c.reshape(value, merged)
}

fn join(
    c: &mut Compose<'_, '_>,
    a: Operand,
    b: Operand,
    needed: &dyn Fn(&Label) -> bool,
) -> Result<Operand, Failure> {
    let (a, b) = (without_ones(c, a.clone(), &b)?, without_ones(c, b, &a)?);
    let a = sum_others(c, a, &|label| needed(label) || b.labels.contains(label))?;
    let b = sum_others(c, b, &|label| needed(label) || a.labels.contains(label))?;
    let in_both = |label: &&Label| b.labels.contains(label);
    let batch: Vec<Label> =
        a.labels.iter().filter(in_both).filter(|l| needed(l)).copied().collect();
    let summed: Vec<Label> =
        a.labels.iter().filter(in_both).filter(|l| !needed(l)).copied().collect();
    let only_a: Vec<Label> = a.labels.iter().filter(|l| !in_both(l)).copied().collect();
    let only_b: Vec<Label> = b.labels.iter().filter(|l| !a.labels.contains(l)).copied().collect();
    for label in batch.iter().chain(&summed) {
        let size = |x: &Operand| {
            let axis = x.labels.iter().position(|l| l == label);
            axis.map(|axis| c.shape(x.value)[axis].clone()).unwrap_or_default()
        };
        let (of_a, of_b) = (size(&a), size(&b));
        if !c.same(&of_a, &of_b) {
            let symbols = &c.graph().symbols;
            let (a, b) = (of_a.display(symbols), of_b.display(symbols));
            return Err(invalid(format!("{label:?} has size {a} and size {b}")));
        }
    }
    let labels: Vec<Label> = [batch.as_slice(), &only_a, &only_b].concat();
    let sizes = |x: &Operand, labels: &[Label]| -> Vec<Dim> {
        let shape = c.shape(x.value);
        let axis = |label: &Label| x.labels.iter().position(|l| l == label);
        labels.iter().filter_map(|label| Some(shape[axis(label)?].clone())).collect()
    };
    let shape = [sizes(&a, &batch), sizes(&a, &only_a), sizes(&b, &only_b)].concat();
    let is_product = c.dtype(a.value) == DType::F32 && !summed.is_empty();
    if labels.len() + summed.len() > MAX_RANK && !is_product || batch.len() + 2 > MAX_RANK {
        return Err(unsupported(
            format!("a product of more than {MAX_RANK} axes"),
            "write it as several nodes",
        ));
    }
    if is_product {
        let x = arranged(c, &a, &batch, [&only_a, &summed])?;
        // As it lies, when that is the transposed order.
        let rows_first = [batch.as_slice(), &only_b, &summed].concat();
        let z = if rows_first == b.labels {
            let y = arranged(c, &b, &batch, [&only_b, &summed])?;
            c.matmul_transposed(x, y)?
        } else {
            let y = arranged(c, &b, &batch, [&summed, &only_b])?;
            c.matmul(x, y)?
        };
        return Ok(Operand { value: c.reshape(z, shape)?, labels });
    }
    // Elementwise over [batch, only a, only b, summed], then sums of integers.
    let aligned = |c: &mut Compose<'_, '_>, x: &Operand| {
        let order: Vec<Label> = [labels.as_slice(), &summed].concat();
        let own: Vec<Label> = order.iter().filter(|l| x.labels.contains(l)).copied().collect();
        let at = |label: &Label| x.labels.iter().position(|l| l == label).unwrap_or(0);
        let perm: Vec<usize> = own.iter().map(at).collect();
        let value = c.transpose(x.value, &perm)?;
        let mut sizes = c.shape(value).into_iter();
        let one = Dim::from(1i64);
        let size = |l: &Label| match own.contains(l) {
            true => sizes.next().unwrap_or_default(),
            false => one.clone(),
        };
        let shape = order.iter().map(size).collect();
        c.reshape(value, shape)
    };
    let (x, y) = (aligned(c, &a)?, aligned(c, &b)?);
    let z = c.binary(BinaryKind::Mul, x, y)?;
    let axes: Vec<usize> = (labels.len()..labels.len() + summed.len()).collect();
    Ok(Operand { value: c.reduce(ReduceKind::Sum, z, &axes, false)?, labels })
}
