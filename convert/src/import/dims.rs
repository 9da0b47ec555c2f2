//! Decisions about symbolic sizes: bounds, equality and broadcasting, proved over all values that
//! the symbols may take.

use super::failure::{FIX_THE_DIM, Failure, invalid, unsupported};
use crate::dim::{Atom, Dim, Symbol};

/// Combinations of symbol values up to which a statement is simply tried out.
const MAX_EXHAUSTIVE: i64 = 4096;

/// Terms and factors in one expression; beyond that it is refused, before it can grow further.
const MAX_EXPRESSION: usize = 256;

/// Coefficients are kept where no sum or product of a few of them overflows.
const MAX_COEFFICIENT: u64 = 1 << 40;

/// Smallest and largest value, when they can be told.
pub(crate) fn bounds(dim: &Dim, symbols: &[Symbol]) -> Option<(i64, i64)> {
    if let Some(value) = dim.as_const() {
        return Some((value, value));
    }
    exhaustive(dim, symbols).or_else(|| interval(dim, symbols))
}

fn exhaustive(dim: &Dim, symbols: &[Symbol]) -> Option<(i64, i64)> {
    let mut used = Vec::new();
    dim.symbols(&mut used);
    let mut combinations = 1i64;
    for index in &used {
        let symbol = symbols.get(*index as usize)?;
        let values = symbol.max.checked_sub(symbol.min)?.checked_add(1)?;
        combinations = combinations.checked_mul(values).filter(|c| *c <= MAX_EXHAUSTIVE)?;
    }
    let mut values: Vec<i64> = symbols.iter().map(|s| s.min).collect();
    let (mut min, mut max) = (i64::MAX, i64::MIN);
    loop {
        let value = dim.eval(&values)?;
        (min, max) = (min.min(value), max.max(value));
        // The next combination, as an odometer.
        let mut digits = used.iter().map(|index| *index as usize);
        let advanced = digits.find(|index| {
            values[*index] += 1;
            let carry = values[*index] > symbols[*index].max;
            if carry {
                values[*index] = symbols[*index].min;
            }
            !carry
        });
        if advanced.is_none() {
            return Some((min, max));
        }
    }
}

fn interval(dim: &Dim, symbols: &[Symbol]) -> Option<(i64, i64)> {
    let (mut low, mut high) = (0i64, 0i64);
    for (atoms, coefficient) in dim.terms() {
        let (mut l, mut h) = (coefficient, coefficient);
        for atom in atoms {
            let (a, b) = match atom {
                Atom::Symbol(index) => symbols.get(*index as usize).map(|s| (s.min, s.max))?,
                Atom::FloorDiv(n, d) => {
                    let ((n1, n2), (d1, d2)) = (interval(n, symbols)?, interval(d, symbols)?);
                    if d1 < 1 {
                        return None;
                    }
                    let corners = [
                        n1.div_euclid(d1),
                        n1.div_euclid(d2),
                        n2.div_euclid(d1),
                        n2.div_euclid(d2),
                    ];
                    (*corners.iter().min()?, *corners.iter().max()?)
                }
                Atom::Max(x, y) => {
                    let ((x1, x2), (y1, y2)) = (interval(x, symbols)?, interval(y, symbols)?);
                    (x1.max(y1), x2.max(y2))
                }
                Atom::Min(x, y) => {
                    let ((x1, x2), (y1, y2)) = (interval(x, symbols)?, interval(y, symbols)?);
                    (x1.min(y1), x2.min(y2))
                }
            };
            let corners =
                [l.checked_mul(a)?, l.checked_mul(b)?, h.checked_mul(a)?, h.checked_mul(b)?];
            (l, h) = (*corners.iter().min()?, *corners.iter().max()?);
        }
        (low, high) = (low.checked_add(l)?, high.checked_add(h)?);
    }
    Some((low, high))
}

/// True when both are equal for all values of the symbols.
pub(crate) fn same(a: &Dim, b: &Dim, symbols: &[Symbol]) -> bool {
    a == b || bounds(&a.sub(b), symbols) == Some((0, 0))
}

/// True when two shapes have as many axes, of the same sizes.
pub(crate) fn same_shape(a: &[Dim], b: &[Dim], symbols: &[Symbol]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b, symbols))
}

/// True when `a <= b` for all values of the symbols.
pub(crate) fn at_most(a: &Dim, b: &Dim, symbols: &[Symbol]) -> bool {
    bounds(&b.sub(a), symbols).is_some_and(|(low, _)| low >= 0)
}

/// The smaller one, without a `min` where one is always it.
pub(crate) fn min(a: &Dim, b: &Dim, symbols: &[Symbol]) -> Dim {
    if at_most(a, b, symbols) {
        a.clone()
    } else if at_most(b, a, symbols) {
        b.clone()
    } else {
        a.min(b)
    }
}

/// The larger one, without a `max` where one is always it.
pub(crate) fn max(a: &Dim, b: &Dim, symbols: &[Symbol]) -> Dim {
    if at_most(a, b, symbols) {
        b.clone()
    } else if at_most(b, a, symbols) {
        a.clone()
    } else {
        a.max(b)
    }
}

/// `floor(a / b)`, for a divisor that is always positive.
pub(crate) fn floor_div(a: &Dim, b: &Dim, symbols: &[Symbol]) -> Option<Dim> {
    let positive = bounds(b, symbols).is_some_and(|(low, _)| low >= 1);
    if positive { a.floor_div(b) } else { None }
}

/// The same, for a constant divisor of at least 1.
pub(crate) fn floor_div_by(a: &Dim, divisor: i64) -> Dim {
    a.floor_div(&Dim::from(divisor.max(1))).unwrap_or_default()
}

/// `ceil(a / divisor)`, for a constant divisor of at least 1.
pub(crate) fn ceil_div_by(a: &Dim, divisor: i64) -> Dim {
    floor_div_by(&a.add(&Dim::from(divisor.max(1) - 1)), divisor)
}

/// Refuses expressions that grow out of hand; every stored expression has passed this check.
pub(crate) fn check_size(dim: &Dim) -> Result<(), Failure> {
    match size_of(dim) {
        Some(size) if size <= MAX_EXPRESSION => Ok(()),
        _ => {
            Err(unsupported("the expression for a dynamic dimension grows too large", FIX_THE_DIM))
        }
    }
}

/// Terms and atoms; `None` when a coefficient is too large.
fn size_of(dim: &Dim) -> Option<usize> {
    if dim.as_const().is_some() {
        return Some(1);
    }
    let mut size = 1usize;
    for (atoms, coefficient) in dim.terms() {
        if coefficient.unsigned_abs() > MAX_COEFFICIENT {
            return None;
        }
        size += 1;
        for atom in atoms {
            size += match atom {
                Atom::Symbol(_) => 1,
                Atom::FloorDiv(a, b) | Atom::Max(a, b) | Atom::Min(a, b) => {
                    size_of(a)? + size_of(b)?
                }
            };
        }
    }
    Some(size)
}

/// Product of sizes, without overflow.
pub(crate) fn product(dims: &[Dim]) -> Result<Dim, Failure> {
    let mut product = Dim::from(1i64);
    for dim in dims {
        product = multiply(&product, dim)
            .ok_or_else(|| invalid("the number of elements overflows or is too complicated"))?;
    }
    Ok(product)
}

/// `a * b`, or `None` beyond what the checks above allow.
pub(crate) fn multiply(a: &Dim, b: &Dim) -> Option<Dim> {
    match (a.as_const(), b.as_const()) {
        (Some(a), Some(b)) => a.checked_mul(b).map(Dim::from),
        _ => Some(a.mul(b)).filter(|dim| size_of(dim).is_some_and(|size| size <= MAX_EXPRESSION)),
    }
}

/// `a + b`, or `None` beyond what the checks above allow.
pub(crate) fn sum(a: &Dim, b: &Dim) -> Option<Dim> {
    match (a.as_const(), b.as_const()) {
        (Some(a), Some(b)) => a.checked_add(b).map(Dim::from),
        _ => Some(a.add(b)).filter(|dim| size_of(dim).is_some_and(|size| size <= MAX_EXPRESSION)),
    }
}

/// `-a`, or `None` on overflow.
pub(crate) fn negate(a: &Dim) -> Option<Dim> {
    multiply(a, &Dim::from(-1i64))
}

/// The shape that NumPy broadcasts two shapes to, with the given text for messages.
pub(crate) fn broadcast(a: &[Dim], b: &[Dim], symbols: &[Symbol]) -> Result<Vec<Dim>, Failure> {
    let rank = a.len().max(b.len());
    let one = Dim::from(1i64);
    let at = |shape: &[Dim], axis: usize| -> Dim {
        (axis + shape.len()).checked_sub(rank).map_or_else(|| one.clone(), |i| shape[i].clone())
    };
    let mut shape = Vec::with_capacity(rank);
    for axis in 0..rank {
        let (x, y) = (at(a, axis), at(b, axis));
        shape.push(if x.is(1) {
            y
        } else if y.is(1) || same(&x, &y, symbols) {
            x
        } else if x.as_const().is_some() && y.as_const().is_some() {
            return Err(invalid(format!("sizes {x:?} and {y:?} don't broadcast")));
        } else {
            let (x, y) = (x.display(symbols), y.display(symbols));
            return Err(unsupported(
                format!("sizes {x} and {y} may differ at run time"),
                FIX_THE_DIM,
            ));
        });
    }
    Ok(shape)
}
