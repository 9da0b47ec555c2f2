//! Elementary functions of f32, over slices.
//!
//! They are written in additions, multiplications, divisions and bits, each rounded on its own, without branches: the same code is
//! compiled for each instruction set, as wide as it goes, and gives the same bits on all of them. `scalar.rs` has the formulas with
//! their errors.
//!
//! On AArch64 there is one entry: what every such CPU has, Advanced SIMD, is what plain Rust is compiled for.

use crate::Isa;

mod scalar;
#[cfg(test)]
mod tests;

pub use scalar::{clip, erf, exp, exp_below, gelu, gelu_tanh, hard_swish, sigmoid, silu, tanh};
pub(crate) use scalar::{exponentials, fold, larger};

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// `eˣ`.
    Exp,
    /// `1 / (1 + e⁻ˣ)`.
    Sigmoid,
    /// `x / (1 + e⁻ˣ)`.
    Silu,
    /// The hyperbolic tangent.
    Tanh,
    /// The error function.
    Erf,
    /// `x/2 · (1 + erf(x / √2))`.
    Gelu,
    /// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715·x³)))`.
    GeluTanh,
    /// `x · max(0, min(x/6 + 1/2, 1))`.
    HardSwish,
}

impl Function {
    /// Every function.
    pub const ALL: [Function; 8] = [
        Function::Exp,
        Function::Sigmoid,
        Function::Silu,
        Function::Tanh,
        Function::Erf,
        Function::Gelu,
        Function::GeluTanh,
        Function::HardSwish,
    ];
}

/// Replaces numbers by a function of them.
pub type ElementaryFn = fn(Function, &mut [f32]);

/// `(values, scale, mask)`: with `x = value * scale + mask`, replaces values by `exp(x - largest)`, and gives their sum and the largest
/// x: the front of a softmax. A mask that is shorter than the values is none. Numbers far below the largest become 0; see [`exp_below`].
pub type ExponentialsFn = fn(&mut [f32], f32, &[f32]) -> (f32, f32);

/// The entry for an instruction set.
pub fn select(isa: Isa) -> ElementaryFn {
    select_compiled!(isa, scalar::apply: fn(function: Function, values: &mut [f32]))
}

/// Replaces numbers by `function(x) * scale + shift`, every operation rounded on its own.
pub type ActivationFn = fn(Function, [f32; 2], &mut [f32]);

/// The entry for an instruction set.
pub fn select_activation(isa: Isa) -> ActivationFn {
    select_compiled!(isa, scalar::activate: fn(function: Function, affine: [f32; 2], values: &mut [f32]))
}

/// The entry for an instruction set.
pub fn select_exponentials(isa: Isa) -> ExponentialsFn {
    select_compiled!(isa, scalar::exponentials: fn(values: &mut [f32], scale: f32, mask: &[f32]) -> (f32, f32))
}
