//! One time step of each recurrent layer, as the formulas of the ONNX operator reference.

use crate::error::StepErrorKind;
use crate::format::{RecurrentAttributes, RecurrentFunction};
use crate::kernels::matmul_f32::{MatMulF32, MatMulF32Fn};
use crate::ops::unary::{clip, sigmoid, softplus};

/// A function with its parameters.
#[derive(Clone, Copy)]
pub(super) struct Function {
    kind: RecurrentFunction,
    alpha: f32,
    beta: f32,
}

impl Default for Function {
    fn default() -> Function {
        Function { kind: RecurrentFunction::Tanh, alpha: 0.0, beta: 0.0 }
    }
}

impl Function {
    /// Function number `index` of a direction.
    pub(super) fn read(
        attributes: &RecurrentAttributes,
        direction: usize,
        index: usize,
    ) -> Result<Function, StepErrorKind> {
        let at = direction * 3 + index;
        let kind = RecurrentFunction::from_number(attributes.functions[at])
            .ok_or(StepErrorKind::Attribute("function"))?;
        Ok(Function { kind, alpha: attributes.alpha[at], beta: attributes.beta[at] })
    }

    #[inline]
    fn of(&self, x: f32) -> f32 {
        use RecurrentFunction as F;
        let (alpha, beta) = (self.alpha, self.beta);
        match self.kind {
            F::Sigmoid => sigmoid(x),
            F::Tanh => libm::tanhf(x),
            F::Relu => clip(x, 0.0, f32::INFINITY),
            F::Affine => alpha * x + beta,
            F::LeakyRelu => {
                if x < 0.0 {
                    alpha * x
                } else {
                    x
                }
            }
            F::ThresholdedRelu => {
                if x >= alpha || x.is_nan() {
                    x
                } else {
                    0.0
                }
            }
            F::ScaledTanh => alpha * libm::tanhf(beta * x),
            F::HardSigmoid => clip(alpha * x + beta, 0.0, 1.0),
            F::Elu => {
                if x < 0.0 {
                    alpha * libm::expm1f(x)
                } else {
                    x
                }
            }
            F::Softsign => x / (1.0 + libm::fabsf(x)),
            F::Softplus => softplus(x),
        }
    }
}

/// What a time step reads.
pub(super) struct Turn<'a> {
    pub(super) batch: usize,
    pub(super) hidden: usize,
    /// Recurrent weights of the direction.
    pub(super) weights: &'a [f32],
    /// Of a GRU: weights of the candidate.
    pub(super) extra: &'a [f32],
    /// Of an LSTM: peepholes. Of a GRU: bias of the candidate's product. Empty when absent.
    pub(super) more: &'a [f32],
    pub(super) functions: [Function; 3],
    /// Functions of gates see their operands within ± this.
    pub(super) clip: f32,
    /// The cell lies within ± this.
    pub(super) cell_clip: f32,
    /// See [`RecurrentAttributes::variant`].
    pub(super) variant: bool,
    /// What the input contributes to a sequence; `None` when it has ended.
    pub(super) gates_of: &'a dyn Fn(usize) -> Option<&'a [f32]>,
    pub(super) product: MatMulF32Fn,
}

/// What a time step changes.
pub(super) struct State<'a> {
    /// `batch × hidden`.
    pub(super) hidden: &'a mut [f32],
    /// Of an LSTM: the cell. Of a GRU: the state that the candidate's product sees.
    pub(super) other: &'a mut [f32],
    pub(super) products: &'a mut [f32],
}

impl Turn<'_> {
    /// `output[batch, columns] = state[batch, hidden] × weights[hidden, columns]`.
    fn multiply(&self, state: &[f32], weights: &[f32], columns: usize, output: &mut [f32]) {
        let (m, k, n) = (self.batch, self.hidden, columns);
        let (trans_a, trans_b) = (false, false);
        (self.product)(&mut MatMulF32 { m, k, n, a: state, b: weights, output, trans_a, trans_b });
    }

    /// A gate: the function of what is clipped.
    fn apply(&self, index: usize, x: f32) -> f32 {
        self.functions[index].of(clip(x, -self.clip, self.clip))
    }
}

/// Row number `row` of rows of `len`.
fn row_of(of: &[f32], row: usize, len: usize) -> &[f32] {
    &of[row * len..(row + 1) * len]
}

fn row_of_mut(of: &mut [f32], row: usize, len: usize) -> &mut [f32] {
    &mut of[row * len..(row + 1) * len]
}

/// `i = f(Xi + Ri·h + Pi·c)`, `f = f(Xf + Rf·h + Pf·c)` or `1 − i`, `c' = f·c + i·g(Xc + Rc·h)`,
/// `o = f(Xo + Ro·h + Po·c')`, `h' = o·h(c')`. The clip of the gates isn't the cell's: the
/// specification says "the input of activations", and ONNX Runtime takes that for the gates.
pub(super) fn lstm(turn: &Turn<'_>, state: &mut State<'_>) {
    let n = turn.hidden;
    turn.multiply(state.hidden, turn.weights, 4 * n, state.products);
    let peephole = |gate: usize, j: usize| turn.more.get(gate * n + j).copied().unwrap_or(0.0);
    for row in 0..turn.batch {
        let Some(gates) = (turn.gates_of)(row) else { continue };
        let products = row_of(state.products, row, 4 * n);
        let hidden = row_of_mut(state.hidden, row, n);
        let cell = row_of_mut(state.other, row, n);
        for j in 0..n {
            let at = |gate: usize| gates[gate * n + j] + products[gate * n + j];
            let before = cell[j];
            let input = turn.apply(0, at(0) + peephole(0, j) * before);
            let forget = match turn.variant {
                true => 1.0 - input,
                false => turn.apply(0, at(2) + peephole(2, j) * before),
            };
            let after = forget * before + input * turn.apply(1, at(3));
            let after = clip(after, -turn.cell_clip, turn.cell_clip);
            let output = turn.apply(0, at(1) + peephole(1, j) * after);
            cell[j] = after;
            hidden[j] = output * turn.functions[2].of(after);
        }
    }
}

/// `z = f(Xz + Rz·h)`, `r = f(Xr + Rr·h)`, `c = g(Xh + Rh·(r·h) + Rb)`, or with the reset behind
/// the product `g(Xh + r·(Rh·h + Rb))`; `h' = (1 − z)·c + z·h`.
pub(super) fn gru(turn: &Turn<'_>, state: &mut State<'_>) {
    let n = turn.hidden;
    let (update, candidate) = state.products.split_at_mut(turn.batch * 2 * n);
    turn.multiply(state.hidden, turn.weights, 2 * n, update);
    for row in 0..turn.batch {
        let Some(gates) = (turn.gates_of)(row) else { continue };
        let update = row_of_mut(update, row, 2 * n);
        for (j, product) in update.iter_mut().enumerate() {
            *product = turn.apply(0, gates[j] + *product);
        }
        let hidden = row_of(state.hidden, row, n);
        let seen = row_of_mut(state.other, row, n);
        for j in 0..n {
            seen[j] = if turn.variant { hidden[j] } else { update[n + j] * hidden[j] };
        }
    }
    turn.multiply(state.other, turn.extra, n, candidate);
    for row in 0..turn.batch {
        let Some(gates) = (turn.gates_of)(row) else { continue };
        let update = row_of(update, row, 2 * n);
        let products = row_of(candidate, row, n);
        let hidden = row_of_mut(state.hidden, row, n);
        for j in 0..n {
            let product = products[j] + turn.more.get(j).copied().unwrap_or(0.0);
            let product = if turn.variant { update[n + j] * product } else { product };
            let candidate = turn.apply(1, gates[2 * n + j] + product);
            hidden[j] = (1.0 - update[j]) * candidate + update[j] * hidden[j];
        }
    }
}

/// `h' = f(X + R·h)`.
pub(super) fn rnn(turn: &Turn<'_>, state: &mut State<'_>) {
    let n = turn.hidden;
    turn.multiply(state.hidden, turn.weights, n, state.products);
    for row in 0..turn.batch {
        let Some(gates) = (turn.gates_of)(row) else { continue };
        let products = row_of(state.products, row, n);
        for (j, hidden) in row_of_mut(state.hidden, row, n).iter_mut().enumerate() {
            *hidden = turn.apply(0, gates[j] + products[j]);
        }
    }
}
