//! What broadcasts over a shape, for the same elements in another shape.

use crate::dim::Dim;

use super::edit::product;

/// A shape with axes of size 1 in front.
pub(super) fn padded(shape: &[Dim], rank: usize) -> Option<Vec<Dim>> {
    let mut wide = vec![Dim::from(1i64); rank.checked_sub(shape.len())?];
    wide.extend_from_slice(shape);
    Some(wide)
}

/// For an operand that broadcasts to `from`: the shape that it has to be expanded to, and the shape that
/// it has to get then, to broadcast to `to` in the same way. `to` has the elements of `from` in order.
///
/// Axes are compared group by group: where several axes are one on the other side, either all of them
/// vary in the operand or none, or else it has to be expanded.
pub(super) fn regrouped(operand: &[Dim], from: &[Dim], to: &[Dim]) -> Option<(Vec<Dim>, Vec<Dim>)> {
    let mut wide = padded(operand, from.len())?;
    let mut shape = Vec::with_capacity(to.len());
    let mut i = 0;
    while i < from.len() || shape.len() < to.len() {
        let j = shape.len();
        let (many, few) = group(&from[i..], &to[j..])?;
        let own = &mut wide[i..i + many];
        if own.iter().all(|dim| dim.is(1)) {
            shape.resize(j + few, Dim::from(1i64));
        } else {
            if own.iter().zip(&from[i..]).any(|(dim, all)| dim != all && !dim.is(1)) {
                return None;
            }
            own.clone_from_slice(&from[i..i + many]);
            shape.extend_from_slice(&to[j..j + few]);
        }
        i += many;
    }
    Some((wide, shape))
}

/// How many of the first axes on each side hold the same elements: one on one of the sides, or none
/// where the other has an axis of size 1.
fn group(a: &[Dim], b: &[Dim]) -> Option<(usize, usize)> {
    let (first_a, first_b) = (a.first(), b.first());
    if first_a.is_some() && first_a == first_b {
        return Some((1, 1));
    }
    if first_a.is_some_and(|dim| dim.is(1)) {
        return Some((1, 0));
    }
    if first_b.is_some_and(|dim| dim.is(1)) {
        return Some((0, 1));
    }
    let merged = (2..=a.len()).find(|n| Some(&product(&a[..*n])) == first_b).map(|n| (n, 1));
    merged.or_else(|| (2..=b.len()).find(|n| Some(&product(&b[..*n])) == first_a).map(|n| (1, n)))
}
