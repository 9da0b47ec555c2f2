//! Attention on i8: products of integers, their weights, and what those make of the values.
//!
//! For a query, with `round` to the nearest integer, ties to even, and sums of integers exact:
//!
//! ```text
//! x[j] = (sum over c of (q[c] − z_q) · (k[j][c] − z_k)) as f32 · scale + mask[j]
//! t[j] = (x[j] − m) · log₂ e,  −100 where that isn't above it;         m the largest x
//! e[j] = round(2^(t[j] + 16)) as `power` says
//! w[j] = round(e[j] as f32 · (32767 / (sum of e) as f32)),             0 if the sum is 0
//! y[c] = round_clamp((sum over j of w[j] · (v[j][c] − z_v)) as f32 · (output_scale / (sum of w) as f32), …) + z_y
//! ```
//!
//! Floats take part in single IEEE operations only, so that every kernel gives the same bits. A weight is one of 32,767 parts of the whole:
//! i8 softmax would round it to one of 256.
//!
//! Operands of products are pairs of i16 ([`panels_len`]): what one instruction multiplies and adds.

use crate::Isa;
use crate::kernels::requantize::{round_ties_even, round_to_integer};

mod scalar;

#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
mod aarch64;
#[cfg(test)]
mod tests;
#[cfg(all(target_arch = "x86_64", feature = "std"))]
mod x86_64;

/// Columns of a panel.
pub const COLUMNS: usize = 16;

/// Most keys: as many weights of one part each would be two parts.
pub const MOST_KEYS: usize = 1 << 14;

/// Most channels of a key: sums of their products don't wrap.
pub const MOST_CHANNELS: usize = 1 << 14;

/// i16 from a row of `width` numbers in a panel: of each pair of rows, sixteen columns, the two numbers of a column together.
/// `[⌈columns/16⌉][⌈rows/2⌉][16][2]`, padded with zeros.
pub const fn panels_len(rows: usize, columns: usize) -> usize {
    columns.div_ceil(COLUMNS) * COLUMNS * rows.next_multiple_of(2)
}

/// The arguments of a product.
pub struct Products<'a> {
    /// `[m][2 · pairs]`.
    pub a: &'a [i16],
    /// The number of pairs in a row of `a`.
    pub pairs: usize,
    /// [`panels_len`] of `2 · pairs` rows and the output's columns.
    pub b: &'a [i16],
    /// `[m][columns]`, sums in wrapping i32. Columns are whole panels.
    pub output: &'a mut [i32],
    /// Columns of the output, a multiple of [`COLUMNS`].
    pub columns: usize,
}

/// A kernel.
///
/// # Panics
///
/// When the slices don't have lengths that belong together.
pub type ProductsFn = fn(&mut Products<'_>);

impl Products<'_> {
    /// Panics unless the slices are as long as the kernels rely on; gives the rows.
    fn check(&self) -> usize {
        let (width, columns) = (2 * self.pairs, self.columns);
        assert!(width > 0 && columns > 0 && columns.is_multiple_of(COLUMNS), "sizes");
        let rows = self.a.len() / width;
        assert_eq!(self.a.len(), rows * width, "rows");
        assert_eq!(self.b.len(), panels_len(width, columns), "panels");
        assert_eq!(Some(self.output.len()), rows.checked_mul(columns), "output");
        rows
    }
}

/// What is added to the products of a query, in real numbers.
#[derive(Clone, Copy)]
pub enum Mask<'a> {
    /// The same to all.
    All(f32),
    /// One number for each key.
    Each(&'a [f32]),
}

/// `(products, scale, mask)`: the largest x of a query.
///
/// # Panics
///
/// When there are fewer numbers of the mask than products.
pub type LargestFn = fn(&[i32], f32, Mask<'_>) -> f32;

/// `(products, scale, mask, largest)`: turns a query's products into exponentials, whose sum it gives.
///
/// # Panics
///
/// As [`LargestFn`].
pub type RaiseFn = fn(&mut [i32], f32, Mask<'_>, f32) -> i32;

/// `(exponentials, their sum, weights)`: the weights of exponentials, whose sum it gives.
///
/// # Panics
///
/// When there are fewer weights than exponentials.
pub type ShareFn = fn(&[i32], i32, &mut [i16]) -> i32;

/// `(sums, factor, zero point, y)`: `round_clamp(sum as f32 · factor, …) + zero point`.
pub type NarrowFn = fn(&[i32], f32, i32, &mut [i8]);

/// `(rows, width, zero point, a)`: `x − z` of rows of `width` i8, each padded to an even number with zeros.
pub type WidenFn = fn(&[i8], usize, i32, &mut [i16]);

/// The kernels of an instruction set.
pub struct AttentionI8 {
    /// Of queries and keys, and of weights and values.
    pub products: ProductsFn,
    /// From products to weights in three steps. Each should be taken for several queries before the next is, since it ends in one number
    /// that the next one waits for.
    pub largest: LargestFn,
    /// The second.
    pub raise: RaiseFn,
    /// The third.
    pub share: ShareFn,
    /// Results of weighted sums.
    pub narrow: NarrowFn,
    /// Rows as those of `a`.
    pub rows: WidenFn,
    /// Rows, each a column of panels: what products with keys take.
    pub columns: WidenFn,
    /// Rows of panels: what products with values take.
    pub pairs: WidenFn,
}

/// The kernels for `isa`, or for the next lower instruction set that this CPU and build have.
pub fn select(isa: Isa) -> AttentionI8 {
    AttentionI8 {
        products: products(isa),
        largest: select_compiled!(isa, scalar::largest: fn(products: &[i32], scale: f32, mask: Mask<'_>) -> f32),
        raise: select_compiled!(isa, scalar::raise: fn(products: &mut [i32], scale: f32, mask: Mask<'_>, largest: f32) -> i32),
        share: select_compiled!(isa, scalar::share: fn(exponentials: &[i32], sum: i32, weights: &mut [i16]) -> i32),
        narrow: select_compiled!(isa, scalar::narrow: fn(sums: &[i32], factor: f32, zero_point: i32, y: &mut [i8])),
        rows: select_compiled!(isa, scalar::rows: fn(x: &[i8], width: usize, zero_point: i32, a: &mut [i16])),
        columns: select_compiled!(isa, scalar::columns: fn(x: &[i8], width: usize, zero_point: i32, panels: &mut [i16])),
        pairs: select_compiled!(isa, scalar::pairs: fn(x: &[i8], width: usize, zero_point: i32, panels: &mut [i16])),
    }
}

fn products(isa: Isa) -> ProductsFn {
    #[cfg(all(target_arch = "x86_64", feature = "std"))]
    {
        if isa == Isa::Avx512 && Isa::Avx512.is_available() {
            return x86_64::products_avx512;
        }
        if isa.has_avx2() && Isa::Avx2.is_available() {
            return x86_64::products_avx2;
        }
    }
    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
    if isa != Isa::Scalar {
        return aarch64::products_neon;
    }
    let _ = isa;
    scalar::products
}

/// Parts that the largest exponential has.
const ONE: i32 = 16;

/// Parts that all weights together have.
const WHOLE: f32 = 32767.0;

/// `round(2^(t + 16))` for t from −100 to 0, with n the integer nearest to t and f = t − n:
/// `2^(n + 16) · ((((c₄ · f + c₃) · f + c₂) · f + c₁) · f + 1)`, within 3e-6 of 2^t. The coefficients minimise the largest relative
/// error over f from −½ to ½.
#[inline(always)]
fn power(t: f32) -> i32 {
    const C: [f32; 4] = [0.693_124, 0.240_240_56, 0.055_907_37, 0.009_584_819];
    let f = t - round_ties_even(t);
    let two_to_n = f32::from_bits(((round_to_integer(t) + ONE + 127) << 23) as u32);
    let p = (((C[3] * f + C[2]) * f + C[1]) * f + C[0]) * f + 1.0;
    round_to_integer(p * two_to_n)
}

/// What all sums are multiplied by that weights with this sum made.
pub(crate) fn factor(output_scale: f32, weights: i32) -> f32 {
    if weights == 0 { 0.0 } else { output_scale / weights as f32 }
}

/// The bounds of `y` without its zero point.
fn bounds(zero_point: i32) -> (i32, i32) {
    (-128 - zero_point, 127 - zero_point)
}
