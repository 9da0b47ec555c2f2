//! The elements of small integer tensors, followed symbolically through shape arithmetic.
//!
//! A tensor of at most [`MAX_ELEMS`] elements can be known element by element: `Shape` of a tensor
//! with a dynamic batch is `[batch, 3, 224, 224]`, and what `Gather`, `Mul`, `Concat`, … make of
//! it is again such a list. Real numbers are followed as long as they are constant.

use half::{bf16, f16};
use whit::DType;

use super::dims;
use crate::dim::{Dim, Symbol};
use crate::graph::{BinaryKind, CompareKind, Op, ReduceKind, UnaryKind};
use crate::tensor::Tensor;

/// Larger tensors aren't shapes.
pub(crate) const MAX_ELEMS: usize = 1024;

/// One element. In a tensor of floats, `Int` is a real that is known to be this integer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Elem {
    Int(Dim),
    Real(f64),
}

/// A small tensor with known elements.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Known {
    pub shape: Vec<usize>,
    pub elems: Vec<Elem>,
}

impl Known {
    /// A list of sizes.
    pub(crate) fn list(dims: Vec<Dim>) -> Known {
        Known { shape: vec![dims.len()], elems: dims.into_iter().map(Elem::Int).collect() }
    }
}

/// The elements of a small constant.
pub(crate) fn from_tensor(tensor: &Tensor) -> Option<Known> {
    if tensor.len() > MAX_ELEMS {
        return None;
    }
    let elems = match tensor.dtype.is_float() {
        true => tensor.to_f32().into_iter().map(|v| Elem::Real(f64::from(v))).collect(),
        false => tensor.to_i64().into_iter().map(|v| Elem::Int(Dim::from(v))).collect(),
    };
    Some(Known { shape: tensor.shape.clone(), elems })
}

/// The constant with these elements, unless one is symbolic or out of range.
pub(crate) fn to_tensor(dtype: DType, shape: Vec<usize>, elems: &[Elem]) -> Option<Tensor> {
    let mut data = Vec::with_capacity(elems.len() * dtype.size());
    for elem in elems {
        let int = match elem {
            Elem::Int(dim) => Some(dim.as_const()?),
            Elem::Real(_) => None,
        };
        let real = match elem {
            Elem::Int(_) => int? as f64,
            Elem::Real(real) => *real,
        };
        match dtype {
            DType::F32 => data.extend((real as f32).to_le_bytes()),
            DType::F16 => data.extend(f16::from_f64(real).to_le_bytes()),
            DType::BF16 => data.extend(bf16::from_f64(real).to_le_bytes()),
            DType::I8 => data.extend(i8::try_from(int?).ok()?.to_le_bytes()),
            DType::U8 => data.extend(u8::try_from(int?).ok()?.to_le_bytes()),
            DType::I16 => data.extend(i16::try_from(int?).ok()?.to_le_bytes()),
            DType::I32 => data.extend(i32::try_from(int?).ok()?.to_le_bytes()),
            DType::I64 => data.extend(int?.to_le_bytes()),
            DType::Bool => data.push(u8::from(int? != 0)),
            _ => return None,
        }
    }
    Some(Tensor { dtype, shape, data: data.into() })
}

/// The operators that [`evaluate`] knows.
pub(crate) fn can_evaluate(op: &Op) -> bool {
    match op {
        Op::Binary(kind) => !matches!(kind, BinaryKind::PRelu | BinaryKind::Pow | BinaryKind::Fmod),
        Op::Unary(kind) => matches!(
            kind,
            UnaryKind::Neg
                | UnaryKind::Abs
                | UnaryKind::Floor
                | UnaryKind::Ceil
                | UnaryKind::Round
                | UnaryKind::Sqrt
                | UnaryKind::Not
                | UnaryKind::Relu
        ),
        Op::Reduce { kind, .. } => {
            matches!(kind, ReduceKind::Sum | ReduceKind::Prod | ReduceKind::Max | ReduceKind::Min)
        }
        Op::Compare(_)
        | Op::Where
        | Op::Concat { .. }
        | Op::Slice { .. }
        | Op::Transpose { .. } => true,
        Op::Reshape | Op::Expand | Op::Gather { .. } | Op::Cast => true,
        _ => false,
    }
}

/// The elements of `op`'s result, whose type and shape the caller knows. `None` when an element can't be told.
pub(crate) fn evaluate(
    op: &Op,
    inputs: &[Known],
    dtype: DType,
    shape: Vec<usize>,
    symbols: &[Symbol],
) -> Option<Known> {
    let count = count(&shape)?;
    let first = inputs.first()?;
    let elems: Option<Vec<Elem>> = match op {
        Op::Reshape => (first.elems.len() == count).then(|| first.elems.clone()),
        Op::Expand => Some(expanded(first, &shape)?),
        Op::Transpose { perm } => {
            let steps = strides(&first.shape);
            let steps: Vec<isize> = perm.iter().map(|p| steps[*p]).collect();
            take(&first.elems, &shape, 0, &steps)
        }
        Op::Slice { starts, steps } => {
            let mut start = 0isize;
            let mut walk = strides(&first.shape);
            for axis in 0..shape.len() {
                let first_index = isize::try_from(starts.get(axis)?.as_const()?).ok()?;
                start = start.checked_add(first_index.checked_mul(walk[axis])?)?;
                walk[axis] = walk[axis].checked_mul(isize::try_from(*steps.get(axis)?).ok()?)?;
            }
            take(&first.elems, &shape, start, &walk)
        }
        Op::Concat { axis } => {
            let inner: usize = shape[axis + 1..].iter().product();
            let outer: usize = shape[..*axis].iter().product();
            let mut elems = Vec::with_capacity(count);
            for block in 0..outer {
                for input in inputs {
                    let run = input.shape[*axis] * inner;
                    elems.extend_from_slice(input.elems.get(block * run..(block + 1) * run)?);
                }
            }
            Some(elems)
        }
        Op::Gather { axis } => gathered(first, inputs.get(1)?, *axis, count),
        Op::Cast => first.elems.iter().map(|e| cast(e, dtype)).collect(),
        Op::Unary(kind) => first.elems.iter().map(|e| unary(*kind, e, symbols)).collect(),
        Op::Binary(kind) => {
            let (a, b) = (expanded(first, &shape)?, expanded(inputs.get(1)?, &shape)?);
            a.iter().zip(&b).map(|(a, b)| binary(*kind, a, b, dtype, symbols)).collect()
        }
        Op::Compare(kind) => {
            let (a, b) = (expanded(first, &shape)?, expanded(inputs.get(1)?, &shape)?);
            a.iter().zip(&b).map(|(a, b)| compare(*kind, a, b, symbols)).collect()
        }
        Op::Where => {
            let c = expanded(first, &shape)?;
            let (a, b) = (expanded(inputs.get(1)?, &shape)?, expanded(inputs.get(2)?, &shape)?);
            let choose = |((c, a), b): ((&Elem, &Elem), &Elem)| match c {
                Elem::Int(c) => Some(if c.as_const()? != 0 { a.clone() } else { b.clone() }),
                Elem::Real(_) => None,
            };
            c.iter().zip(&a).zip(&b).map(choose).collect()
        }
        Op::Reduce { kind, axes, .. } => reduced(*kind, axes, first, count, dtype, symbols),
        _ => None,
    };
    let elems: Option<Vec<Elem>> = elems?.into_iter().map(|e| rounded(e, dtype)).collect();
    Some(Known { shape, elems: elems? })
}

fn count(shape: &[usize]) -> Option<usize> {
    let count = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
    (count <= MAX_ELEMS).then_some(count)
}

fn strides(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1isize; shape.len()];
    for axis in (0..shape.len().saturating_sub(1)).rev() {
        strides[axis] = strides[axis + 1]
            .saturating_mul(isize::try_from(shape[axis + 1]).unwrap_or(isize::MAX));
    }
    strides
}

/// The elements at `start` plus index times step, over all indices of `shape`.
fn take(elems: &[Elem], shape: &[usize], start: isize, steps: &[isize]) -> Option<Vec<Elem>> {
    let count = count(shape)?;
    let mut out = Vec::with_capacity(count);
    for flat in 0..count {
        let (mut at, mut rest) = (start, flat);
        for axis in (0..shape.len()).rev() {
            let index = isize::try_from(rest % shape[axis]).ok()?;
            rest /= shape[axis];
            at = at.checked_add(index.checked_mul(steps[axis])?)?;
        }
        out.push(elems.get(usize::try_from(at).ok()?)?.clone());
    }
    Some(out)
}

/// Broadcast to a shape.
fn expanded(known: &Known, shape: &[usize]) -> Option<Vec<Elem>> {
    let missing = shape.len().checked_sub(known.shape.len())?;
    let own = strides(&known.shape);
    let mut steps = vec![0isize; shape.len()];
    for (axis, size) in known.shape.iter().enumerate() {
        if *size != 1 {
            if *size != shape[missing + axis] {
                return None;
            }
            steps[missing + axis] = own[axis];
        }
    }
    take(&known.elems, shape, 0, &steps)
}

fn gathered(data: &Known, indices: &Known, axis: usize, count: usize) -> Option<Vec<Elem>> {
    let size = *data.shape.get(axis)?;
    let inner: usize = data.shape[axis + 1..].iter().product();
    let outer: usize = data.shape[..axis].iter().product();
    let mut out = Vec::with_capacity(count);
    for block in 0..outer {
        for index in &indices.elems {
            let Elem::Int(index) = index else { return None };
            let index = index.as_const()?;
            let index =
                if index < 0 { index.checked_add(i64::try_from(size).ok()?)? } else { index };
            let index = usize::try_from(index).ok().filter(|i| *i < size)?;
            let at = (block * size + index) * inner;
            out.extend_from_slice(data.elems.get(at..at + inner)?);
        }
    }
    (out.len() == count).then_some(out)
}

fn reduced(
    kind: ReduceKind,
    axes: &[usize],
    x: &Known,
    count: usize,
    dtype: DType,
    symbols: &[Symbol],
) -> Option<Vec<Elem>> {
    let mut out: Vec<Option<Elem>> = vec![None; count];
    for (flat, elem) in x.elems.iter().enumerate() {
        let (mut rest, mut at, mut step) = (flat, 0usize, 1usize);
        for axis in (0..x.shape.len()).rev() {
            let index = rest % x.shape[axis];
            rest /= x.shape[axis];
            if !axes.contains(&axis) {
                at += index * step;
                step *= x.shape[axis];
            }
        }
        let slot = out.get_mut(at)?;
        *slot = Some(match slot.take() {
            None => elem.clone(),
            Some(so_far) => {
                let kind = match kind {
                    ReduceKind::Sum => BinaryKind::Add,
                    ReduceKind::Prod => BinaryKind::Mul,
                    ReduceKind::Max => BinaryKind::Max,
                    ReduceKind::Min => BinaryKind::Min,
                    _ => return None,
                };
                rounded(binary(kind, &so_far, elem, dtype, symbols)?, dtype)?
            }
        });
    }
    // Of no elements, the sum is 0 and the product 1.
    let neutral = match kind {
        ReduceKind::Sum => Some(Elem::Int(Dim::from(0i64))),
        ReduceKind::Prod => Some(Elem::Int(Dim::from(1i64))),
        _ => None,
    };
    out.into_iter().map(|e| e.or_else(|| neutral.clone())).collect()
}

/// A real in the precision of its type; an integer must be in the range of its type.
fn rounded(elem: Elem, dtype: DType) -> Option<Elem> {
    Some(match elem {
        Elem::Real(v) => match dtype {
            DType::F16 => Elem::Real(f16::from_f64(v).to_f64()),
            DType::BF16 => Elem::Real(bf16::from_f64(v).to_f64()),
            DType::F32 => Elem::Real(f64::from(v as f32)),
            _ => return None,
        },
        Elem::Int(dim) => {
            dims::check_size(&dim).ok()?;
            if let Some(value) = dim.as_const() {
                if dtype.is_float() {
                    return rounded(Elem::Real(value as f64), dtype);
                }
                to_tensor(dtype, vec![], &[Elem::Int(dim.clone())])?;
            }
            Elem::Int(dim)
        }
    })
}

fn cast(elem: &Elem, to: DType) -> Option<Elem> {
    Some(match elem {
        Elem::Real(v) if to == DType::Bool => Elem::Int(Dim::from(i64::from(*v != 0.0))),
        Elem::Real(v) if to.is_float() => Elem::Real(*v),
        // Beyond 2^53 or without a value there is no integer to speak of.
        Elem::Real(v) if v.abs() <= 9.0e15 => Elem::Int(Dim::from(v.trunc() as i64)),
        Elem::Real(_) => return None,
        Elem::Int(dim) if to == DType::Bool => match dim.as_const() {
            Some(value) => Elem::Int(Dim::from(i64::from(value != 0))),
            None => return None,
        },
        // A symbolic size stays exact below 2^24, far beyond any dimension; f16 isn't that precise.
        Elem::Int(dim) if dim.as_const().is_none() && to.is_float() && to != DType::F32 => {
            return None;
        }
        Elem::Int(dim) => Elem::Int(dim.clone()),
    })
}

fn unary(kind: UnaryKind, elem: &Elem, symbols: &[Symbol]) -> Option<Elem> {
    Some(match (kind, elem) {
        (UnaryKind::Neg, Elem::Int(dim)) => Elem::Int(dims::negate(dim)?),
        (UnaryKind::Abs, Elem::Int(dim)) => Elem::Int(dims::max(dim, &dims::negate(dim)?, symbols)),
        (UnaryKind::Relu, Elem::Int(dim)) => Elem::Int(dims::max(dim, &Dim::from(0i64), symbols)),
        (UnaryKind::Relu, Elem::Real(v)) if !v.is_nan() => Elem::Real(v.max(0.0)),
        (UnaryKind::Not, Elem::Int(dim)) => Elem::Int(Dim::from(i64::from(dim.as_const()? == 0))),
        (UnaryKind::Floor | UnaryKind::Ceil | UnaryKind::Round, Elem::Int(_)) => elem.clone(),
        (UnaryKind::Neg, Elem::Real(v)) => Elem::Real(-v),
        (UnaryKind::Abs, Elem::Real(v)) => Elem::Real(v.abs()),
        (UnaryKind::Floor, Elem::Real(v)) => Elem::Real(v.floor()),
        (UnaryKind::Ceil, Elem::Real(v)) => Elem::Real(v.ceil()),
        (UnaryKind::Round, Elem::Real(v)) => Elem::Real(v.round_ties_even()),
        (UnaryKind::Sqrt, Elem::Real(v)) => Elem::Real(v.sqrt()),
        _ => return None,
    })
}

fn binary(kind: BinaryKind, a: &Elem, b: &Elem, dtype: DType, symbols: &[Symbol]) -> Option<Elem> {
    if let (Elem::Int(a), Elem::Int(b)) = (a, b) {
        return Some(Elem::Int(binary_int(kind, a, b, dtype, symbols)?));
    }
    // In a tensor of reals: a constant beside a symbolic integer.
    let (whole_a, whole_b) = (whole(a), whole(b));
    if let (Some(a), Some(b)) = (&whole_a, &whole_b)
        && (a.as_const().is_none() || b.as_const().is_none())
    {
        return Some(Elem::Int(binary_int(kind, a, b, dtype, symbols)?));
    }
    let (Elem::Real(a), Elem::Real(b)) = (constant_real(a)?, constant_real(b)?) else {
        return None;
    };
    Some(Elem::Real(match kind {
        BinaryKind::Add => a + b,
        BinaryKind::Sub => a - b,
        BinaryKind::Mul => a * b,
        BinaryKind::Div => a / b,
        BinaryKind::Min if !a.is_nan() && !b.is_nan() => a.min(b),
        BinaryKind::Max if !a.is_nan() && !b.is_nan() => a.max(b),
        _ => return None,
    }))
}

/// The integer that a real is.
fn whole(elem: &Elem) -> Option<Dim> {
    match elem {
        Elem::Int(dim) => Some(dim.clone()),
        Elem::Real(v) => (v.fract() == 0.0 && v.abs() < 9.0e15).then(|| Dim::from(*v as i64)),
    }
}

fn constant_real(elem: &Elem) -> Option<Elem> {
    match elem {
        Elem::Int(dim) => dim.as_const().map(|v| Elem::Real(v as f64)),
        Elem::Real(_) => Some(elem.clone()),
    }
}

fn binary_int(kind: BinaryKind, a: &Dim, b: &Dim, dtype: DType, symbols: &[Symbol]) -> Option<Dim> {
    let constants = a.as_const().zip(b.as_const());
    Some(match kind {
        BinaryKind::Add => dims::sum(a, b)?,
        BinaryKind::Sub => dims::sum(a, &dims::negate(b)?)?,
        BinaryKind::Mul => dims::multiply(a, b)?,
        BinaryKind::Div => match constants {
            Some((a, b)) if dtype.is_float() => {
                Dim::from(a.checked_rem(b).filter(|r| *r == 0).and(a.checked_div(b))?)
            }
            // Integer division truncates.
            Some((a, b)) => Dim::from(a.checked_div(b)?),
            None => {
                // Truncation is floor where nothing is negative; a real quotient must be whole.
                let low = dims::bounds(a, symbols)?.0;
                let quotient = dims::floor_div(a, b, symbols).filter(|_| low >= 0)?;
                let exact =
                    || dims::multiply(&quotient, b).is_some_and(|p| dims::same(&p, a, symbols));
                if dtype.is_float() && !exact() {
                    return None;
                }
                quotient
            }
        },
        BinaryKind::Mod => match constants {
            // The sign of the divisor.
            Some((a, b)) => {
                let rest = a.checked_rem(b)?;
                Dim::from(if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest })
            }
            None => {
                let floor = dims::floor_div(a, b, symbols)?;
                dims::sum(a, &dims::negate(&dims::multiply(&floor, b)?)?)?
            }
        },
        BinaryKind::Min => dims::min(a, b, symbols),
        BinaryKind::Max => dims::max(a, b, symbols),
        BinaryKind::And => Dim::from(i64::from(constants?.0 != 0 && constants?.1 != 0)),
        BinaryKind::Or => Dim::from(i64::from(constants?.0 != 0 || constants?.1 != 0)),
        BinaryKind::Xor => Dim::from(i64::from((constants?.0 != 0) != (constants?.1 != 0))),
        _ => return None,
    })
}

fn compare(kind: CompareKind, a: &Elem, b: &Elem, symbols: &[Symbol]) -> Option<Elem> {
    let truth = match (a, b) {
        (Elem::Int(a), Elem::Int(b)) => {
            let (low, high) = dims::bounds(&dims::sum(a, &dims::negate(b)?)?, symbols)?;
            let decided = |yes: bool, no: bool| {
                if yes {
                    Some(true)
                } else if no {
                    Some(false)
                } else {
                    None
                }
            };
            match kind {
                CompareKind::Equal => decided(low == 0 && high == 0, low > 0 || high < 0)?,
                CompareKind::Less => decided(high < 0, low >= 0)?,
                CompareKind::LessOrEqual => decided(high <= 0, low > 0)?,
                CompareKind::Greater => decided(low > 0, high <= 0)?,
                CompareKind::GreaterOrEqual => decided(low >= 0, high < 0)?,
            }
        }
        _ => {
            let (Elem::Real(a), Elem::Real(b)) = (constant_real(a)?, constant_real(b)?) else {
                return None;
            };
            match kind {
                CompareKind::Equal => a == b,
                CompareKind::Less => a < b,
                CompareKind::LessOrEqual => a <= b,
                CompareKind::Greater => a > b,
                CompareKind::GreaterOrEqual => a >= b,
            }
        }
    };
    Some(Elem::Int(Dim::from(i64::from(truth))))
}
