//! Symbolic dimensions: polynomials with integer coefficients over bounded symbols, kept in a
//! canonical form so that equal expressions compare equal.

use std::collections::BTreeMap;
use std::fmt;

/// A named dimension with inclusive bounds, such as `seq` in 1..=512.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Name as in the model (`batch`, `unk__6`, …).
    pub name: String,
    /// Smallest value, at least 0.
    pub min: i64,
    /// Largest value; the arena is planned for it.
    pub max: i64,
}

/// What a polynomial is made of besides constants.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Atom {
    /// Index into the graph's symbols.
    Symbol(u32),
    /// `floor(a / b)`.
    FloorDiv(Box<Dim>, Box<Dim>),
    /// The larger of two.
    Max(Box<Dim>, Box<Dim>),
    /// The smaller of two.
    Min(Box<Dim>, Box<Dim>),
}

/// A size: a constant or an expression over symbols. A sum of (coefficient × product of atoms);
/// the constant term has the empty product. No zero coefficients are kept.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Dim {
    terms: BTreeMap<Vec<Atom>, i64>,
}

impl From<i64> for Dim {
    fn from(value: i64) -> Dim {
        let mut terms = BTreeMap::new();
        if value != 0 {
            terms.insert(Vec::new(), value);
        }
        Dim { terms }
    }
}

impl From<usize> for Dim {
    fn from(value: usize) -> Dim {
        Dim::from(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl Dim {
    /// The symbol with this index.
    pub fn symbol(index: u32) -> Dim {
        Dim::atom(Atom::Symbol(index))
    }

    fn atom(atom: Atom) -> Dim {
        Dim { terms: BTreeMap::from([(vec![atom], 1)]) }
    }

    /// The value, when no symbol is involved.
    pub fn as_const(&self) -> Option<i64> {
        match self.terms.len() {
            0 => Some(0),
            1 => self.terms.get(&Vec::new() as &Vec<Atom>).copied(),
            _ => None,
        }
    }

    /// True when the value is known to be `value`.
    pub fn is(&self, value: i64) -> bool {
        self.as_const() == Some(value)
    }

    /// The terms: (product of atoms, coefficient).
    pub fn terms(&self) -> impl Iterator<Item = (&[Atom], i64)> {
        self.terms.iter().map(|(atoms, coefficient)| (atoms.as_slice(), *coefficient))
    }

    /// Sum.
    pub fn add(&self, other: &Dim) -> Dim {
        let mut terms = self.terms.clone();
        for (atoms, coefficient) in &other.terms {
            let entry = terms.entry(atoms.clone()).or_insert(0);
            *entry = entry.saturating_add(*coefficient);
        }
        terms.retain(|_, coefficient| *coefficient != 0);
        Dim { terms }
    }

    /// Difference.
    pub fn sub(&self, other: &Dim) -> Dim {
        self.add(&other.mul(&Dim::from(-1i64)))
    }

    /// Product.
    pub fn mul(&self, other: &Dim) -> Dim {
        let mut terms: BTreeMap<Vec<Atom>, i64> = BTreeMap::new();
        for (a, ca) in &self.terms {
            for (b, cb) in &other.terms {
                let mut atoms = [a.as_slice(), b.as_slice()].concat();
                atoms.sort();
                let entry = terms.entry(atoms).or_insert(0);
                *entry = entry.saturating_add(ca.saturating_mul(*cb));
            }
        }
        terms.retain(|_, coefficient| *coefficient != 0);
        Dim { terms }
    }

    /// `floor(self / divisor)`; `None` when the divisor is the constant 0.
    pub fn floor_div(&self, divisor: &Dim) -> Option<Dim> {
        if let Some(d) = divisor.as_const() {
            if d == 0 {
                return None;
            }
            if d == -1 {
                // Saturates where the division of the smallest integer would overflow.
                return Some(self.mul(&Dim::from(-1i64)));
            }
            if let Some(n) = self.as_const() {
                return Some(Dim::from(n.div_euclid(d) - i64::from(d < 0 && n.rem_euclid(d) != 0)));
            }
            if d == 1 {
                return Some(self.clone());
            }
            if self.terms.values().all(|c| c % d == 0) {
                let terms = self.terms.iter().map(|(a, c)| (a.clone(), c / d)).collect();
                return Some(Dim { terms });
            }
        }
        if let Some(quotient) = self.exact_quotient(divisor) {
            return Some(quotient);
        }
        Some(Dim::atom(Atom::FloorDiv(Box::new(self.clone()), Box::new(divisor.clone()))))
    }

    /// `self / divisor` where the divisor is a single term that divides every term of `self`.
    fn exact_quotient(&self, divisor: &Dim) -> Option<Dim> {
        let mut of_divisor = divisor.terms.iter();
        let (Some((d_atoms, d_coefficient)), None) = (of_divisor.next(), of_divisor.next()) else {
            return None;
        };
        let mut terms = BTreeMap::new();
        for (atoms, coefficient) in &self.terms {
            let mut rest = atoms.clone();
            for atom in d_atoms {
                let at = rest.iter().position(|a| a == atom)?;
                rest.remove(at);
            }
            if coefficient % d_coefficient != 0 {
                return None;
            }
            terms.insert(rest, coefficient / d_coefficient);
        }
        Some(Dim { terms })
    }

    /// The larger of two.
    pub fn max(&self, other: &Dim) -> Dim {
        match (self.as_const(), other.as_const()) {
            (Some(a), Some(b)) => Dim::from(a.max(b)),
            _ if self == other => self.clone(),
            _ => Dim::atom(Atom::Max(Box::new(self.clone()), Box::new(other.clone()))),
        }
    }

    /// The smaller of two.
    pub fn min(&self, other: &Dim) -> Dim {
        match (self.as_const(), other.as_const()) {
            (Some(a), Some(b)) => Dim::from(a.min(b)),
            _ if self == other => self.clone(),
            _ => Dim::atom(Atom::Min(Box::new(self.clone()), Box::new(other.clone()))),
        }
    }

    /// Value for these symbol values; `None` on overflow or division by zero.
    pub fn eval(&self, symbols: &[i64]) -> Option<i64> {
        let mut sum = 0i64;
        for (atoms, coefficient) in &self.terms {
            let mut product = *coefficient;
            for atom in atoms {
                let value = match atom {
                    Atom::Symbol(index) => *symbols.get(*index as usize)?,
                    Atom::FloorDiv(a, b) => {
                        let (a, b) = (a.eval(symbols)?, b.eval(symbols)?);
                        if b <= 0 {
                            return None;
                        }
                        a.div_euclid(b)
                    }
                    Atom::Max(a, b) => a.eval(symbols)?.max(b.eval(symbols)?),
                    Atom::Min(a, b) => a.eval(symbols)?.min(b.eval(symbols)?),
                };
                product = product.checked_mul(value)?;
            }
            sum = sum.checked_add(product)?;
        }
        Some(sum)
    }

    /// Every symbol index that the expression reads.
    pub fn symbols(&self, out: &mut Vec<u32>) {
        for atom in self.terms.keys().flatten() {
            match atom {
                Atom::Symbol(index) => {
                    if !out.contains(index) {
                        out.push(*index);
                    }
                }
                Atom::FloorDiv(a, b) | Atom::Max(a, b) | Atom::Min(a, b) => {
                    a.symbols(out);
                    b.symbols(out);
                }
            }
        }
    }

    /// The text form with symbol names, such as `2*seq + 1`.
    pub fn display(&self, symbols: &[Symbol]) -> String {
        let mut text = String::new();
        for (atoms, coefficient) in self.terms.iter().rev() {
            if !text.is_empty() {
                text.push_str(if *coefficient < 0 { " - " } else { " + " });
            } else if *coefficient < 0 {
                text.push('-');
            }
            let magnitude = coefficient.unsigned_abs();
            let mut factors: Vec<String> = Vec::new();
            if magnitude != 1 || atoms.is_empty() {
                factors.push(magnitude.to_string());
            }
            factors.extend(atoms.iter().map(|atom| {
                match atom {
                    Atom::Symbol(index) => symbols
                        .get(*index as usize)
                        .map_or_else(|| format!("s{index}"), |symbol| symbol.name.clone()),
                    Atom::FloorDiv(a, b) => {
                        format!("(({})/({}))", a.display(symbols), b.display(symbols))
                    }
                    Atom::Max(a, b) => {
                        format!("max({}, {})", a.display(symbols), b.display(symbols))
                    }
                    Atom::Min(a, b) => {
                        format!("min({}, {})", a.display(symbols), b.display(symbols))
                    }
                }
            }));
            text.push_str(&factors.join("*"));
        }
        if text.is_empty() { "0".to_owned() } else { text }
    }
}

impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.display(&[]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_is_canonical() {
        let s = Dim::symbol(0);
        let two_s = s.add(&s);
        assert_eq!(two_s, s.mul(&Dim::from(2i64)));
        assert_eq!(two_s.sub(&s), s);
        assert_eq!(s.sub(&s).as_const(), Some(0));
        assert_eq!(two_s.floor_div(&Dim::from(2i64)), Some(s.clone()));
        assert_eq!(s.mul(&s).floor_div(&s), Some(s.clone()));
        let half = s.add(&Dim::from(1i64)).floor_div(&Dim::from(2i64)).unwrap();
        assert_eq!(half.eval(&[5]), Some(3));
        assert_eq!(half.eval(&[6]), Some(3));
        assert_eq!(
            half.display(&[Symbol { name: "seq".into(), min: 1, max: 9 }]),
            "((seq + 1)/(2))"
        );
        assert_eq!(Dim::from(-7i64).floor_div(&Dim::from(2i64)).unwrap().as_const(), Some(-4));
        assert_eq!(Dim::from(7i64).floor_div(&Dim::from(-2i64)).unwrap().as_const(), Some(-4));
        assert_eq!(Dim::from(7i64).floor_div(&Dim::from(0i64)), None);
        let smallest = Dim::from(i64::MIN).floor_div(&Dim::from(-1i64)).unwrap();
        assert_eq!(smallest.as_const(), Some(i64::MAX));
    }
}
