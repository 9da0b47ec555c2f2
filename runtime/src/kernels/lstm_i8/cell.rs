//! From the sums of a time step to the next cell and state: plain Rust, compiled for each instruction set.

use crate::Isa;
use crate::kernels::requantize::round_clamp;

/// Gates' sums saturate to this.
const I16: [i32; 2] = [i16::MIN as i32, i16::MAX as i32];

/// A function over i16: 2ⁿ + 1 entries, between which it is a line.
#[derive(Clone, Copy)]
pub struct Table<'a> {
    /// The entries.
    pub entries: &'a [i16],
    /// Of the numbers within an interval: 16 − n.
    pub bits: u32,
}

/// What follows the products of one time step and sequence. Gates are in the order input, forget, cell, output.
pub struct CellI8<'a> {
    /// Of sigmoid and tanh, for gates in steps of 2⁻¹², and of tanh for the cell.
    pub tables: [Table<'a>; 3],
    /// The cell counts in steps of 2^(cell_shift − 30).
    pub cell_shift: u32,
    /// The cell lies within ± this.
    pub cell_bound: i32,
    /// Steps of the state per 2⁻³⁰.
    pub output_scale: f32,
    /// Zero point of the state.
    pub zero_point: i32,
    /// Sums of the gates, `[4, hidden]`, in steps of 2⁻¹²; written over.
    pub gates: &'a mut [i16],
    /// The cell, which becomes the next one.
    pub cell: &'a mut [i16],
    /// Becomes the next state.
    pub state: &'a mut [i8],
}

/// The entries for an instruction set.
#[derive(Clone, Copy)]
pub struct StepFn {
    /// Adds sums of products, `[4, hidden]`, times the scale of their gate to the gates, each rounded to i16; or puts them there.
    pub add_sums: fn(sums: &[i32], scales: &[f32; 4], gates: &mut [i16], adds: bool),
    /// Computes cell and state.
    pub update: fn(&mut CellI8<'_>),
}

/// The entries for an instruction set.
pub fn select_step(isa: Isa) -> StepFn {
    StepFn {
        add_sums: select_compiled!(isa, add_sums: fn(sums: &[i32], scales: &[f32; 4], gates: &mut [i16], adds: bool)),
        update: select_compiled!(isa, update: fn(step: &mut CellI8<'_>)),
    }
}

#[inline(always)]
fn add_sums(sums: &[i32], scales: &[f32; 4], gates: &mut [i16], adds: bool) {
    let hidden = gates.len() / scales.len();
    for ((sums, gates), scale) in
        sums.chunks_exact(hidden).zip(gates.chunks_exact_mut(hidden)).zip(scales)
    {
        for (sum, gate) in sums.iter().zip(gates) {
            let before = if adds { i32::from(*gate) } else { 0 };
            let rounded = round_clamp(*sum as f32 * scale, I16[0], I16[1]);
            *gate = (before + rounded).clamp(I16[0], I16[1]) as i16;
        }
    }
}

impl Table<'_> {
    /// Replaces numbers by the function of them.
    #[inline(always)]
    fn apply(&self, values: &mut [i16]) {
        for value in values {
            *value = lut_i16(*value, self.bits, |at| self.entries[at]);
        }
    }
}

/// The line between two entries of a table over i16.
#[inline(always)]
pub fn lut_i16(x: i16, bits: u32, entry: impl Fn(usize) -> i16) -> i16 {
    let place = (i32::from(x) + 32768) as u32;
    let (at, fraction) = ((place >> bits) as usize, (place & ((1 << bits) - 1)) as i32);
    let (low, high) = (i32::from(entry(at)), i32::from(entry(at + 1)));
    // At most 2¹⁶ · 2¹⁵: it fits.
    (low + (((high - low) * fraction + ((1 << bits) >> 1)) >> bits)) as i16
}

/// `v / 2ⁿ` to nearest, halves away from zero; n at least 1, |v| at most 2³⁰.
#[inline(always)]
fn rounded_shift(v: i32, n: u32) -> i32 {
    // Without a branch: −1 where v is negative.
    (v + (1 << (n - 1)) + (v >> 31)) >> n
}

#[inline(always)]
fn update(step: &mut CellI8<'_>) {
    let hidden = step.cell.len();
    let [sigmoid, tanh, tanh_of_cell] = step.tables;
    let (input, rest) = step.gates.split_at_mut(hidden);
    let (forget, rest) = rest.split_at_mut(hidden);
    let (candidate, output) = rest.split_at_mut(hidden);
    sigmoid.apply(input);
    sigmoid.apply(forget);
    tanh.apply(candidate);
    sigmoid.apply(output);
    let gates = input.iter_mut().zip(&*forget).zip(&*candidate);
    for (((input, forget), candidate), cell) in gates.zip(&mut *step.cell) {
        let kept = rounded_shift(i32::from(*forget) * i32::from(*cell), 15);
        let added = rounded_shift(i32::from(*input) * i32::from(*candidate), step.cell_shift);
        // At most 2¹⁵ and 2²⁹: the sum fits.
        let next = (kept + added).clamp(I16[0], I16[1]).clamp(-step.cell_bound, step.cell_bound);
        *cell = next as i16;
        // The input gate isn't needed again.
        *input = *cell;
    }
    let shown = input;
    tanh_of_cell.apply(shown);
    let (low, high) = (-128 - step.zero_point, 127 - step.zero_point);
    for ((shown, output), state) in shown.iter().zip(&*output).zip(&mut *step.state) {
        let real = (i32::from(*output) * i32::from(*shown)) as f32 * step.output_scale;
        *state = (round_clamp(real, low, high) + step.zero_point) as i8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shifts_round_halves_away_from_zero() {
        for n in 1..=30 {
            for v in [0, 1, 2, 3, 5, 6, 7, 16384, 16385, 49152, (1 << 30) - 1, 1 << 30] {
                for v in [v, -v] {
                    let want = (f64::from(v) / f64::from(1u32 << n)).round() as i32;
                    assert_eq!(rounded_shift(v, n), want, "{v} {n}");
                }
            }
        }
    }
}
