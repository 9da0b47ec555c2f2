//! One time step of each recurrent layer, as the formulas of the ONNX operator reference.

use crate::error::StepErrorKind;
use crate::format::{RecurrentAttributes, RecurrentFunction};
use crate::kernels::elementary::{self, ElementaryFn, clip};
use crate::kernels::matmul_f32::{MatMulF32, MatMulF32Fn};
use crate::ops::unary::softplus;

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

    /// Replaces numbers by the function of them.
    fn apply(&self, elementary: ElementaryFn, values: &mut [f32]) {
        match self.kind {
            RecurrentFunction::Sigmoid => elementary(elementary::Function::Sigmoid, values),
            RecurrentFunction::Tanh => elementary(elementary::Function::Tanh, values),
            _ => values.iter_mut().for_each(|x| *x = self.of(*x)),
        }
    }

    fn of(&self, x: f32) -> f32 {
        use RecurrentFunction as F;
        let (alpha, beta) = (self.alpha, self.beta);
        match self.kind {
            F::Sigmoid => elementary::sigmoid(x),
            F::Tanh => elementary::tanh(x),
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
            F::ScaledTanh => alpha * elementary::tanh(beta * x),
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
    pub(super) elementary: ElementaryFn,
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

    /// Gates: the function of what is clipped.
    fn apply(&self, index: usize, values: &mut [f32]) {
        if self.clip != f32::INFINITY {
            values.iter_mut().for_each(|x| *x = clip(*x, -self.clip, self.clip));
        }
        self.functions[index].apply(self.elementary, values);
    }
}

/// Adds what there is of another list.
fn add(to: &mut [f32], more: &[f32]) {
    to.iter_mut().zip(more).for_each(|(sum, x)| *sum += x);
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
    // Absent peepholes are an empty list.
    let peephole = |gate: usize, values: &mut [f32], cell: &[f32]| {
        let weights = turn.more.get(gate * n..).unwrap_or(&[]);
        for ((value, weight), cell) in values.iter_mut().zip(weights).zip(cell) {
            *value += weight * cell;
        }
    };
    for row in 0..turn.batch {
        let Some(gates) = (turn.gates_of)(row) else { continue };
        let products = row_of_mut(state.products, row, 4 * n);
        let hidden = row_of_mut(state.hidden, row, n);
        let cell = row_of_mut(state.other, row, n);
        add(products, gates);
        // Gates that don't look at the cell lie together, and take their function together.
        let are_plain = turn.more.is_empty() && !turn.variant;
        if are_plain {
            turn.apply(0, &mut products[..3 * n]);
        }
        let (input, rest) = products.split_at_mut(n);
        let (output, rest) = rest.split_at_mut(n);
        let (forget, candidate) = rest.split_at_mut(n);
        if !are_plain {
            peephole(0, input, cell);
            turn.apply(0, input);
            if turn.variant {
                forget.iter_mut().zip(&*input).for_each(|(forget, input)| *forget = 1.0 - input);
            } else {
                peephole(2, forget, cell);
                turn.apply(0, forget);
            }
        }
        turn.apply(1, candidate);
        for (j, cell) in cell.iter_mut().enumerate() {
            let after = forget[j] * *cell + input[j] * candidate[j];
            *cell = clip(after, -turn.cell_clip, turn.cell_clip);
        }
        if !are_plain {
            peephole(1, output, cell);
            turn.apply(0, output);
        }
        hidden.copy_from_slice(cell);
        turn.functions[2].apply(turn.elementary, hidden);
        hidden.iter_mut().zip(output).for_each(|(hidden, output)| *hidden *= *output);
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
        add(update, gates);
        turn.apply(0, update);
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
        let candidate = row_of_mut(candidate, row, n);
        let hidden = row_of_mut(state.hidden, row, n);
        add(candidate, turn.more);
        if turn.variant {
            candidate.iter_mut().zip(&update[n..]).for_each(|(product, reset)| *product *= reset);
        }
        add(candidate, &gates[2 * n..]);
        turn.apply(1, candidate);
        for (j, hidden) in hidden.iter_mut().enumerate() {
            *hidden = (1.0 - update[j]) * candidate[j] + update[j] * *hidden;
        }
    }
}

/// `h' = f(X + R·h)`.
pub(super) fn rnn(turn: &Turn<'_>, state: &mut State<'_>) {
    let n = turn.hidden;
    turn.multiply(state.hidden, turn.weights, n, state.products);
    for row in 0..turn.batch {
        let Some(gates) = (turn.gates_of)(row) else { continue };
        let hidden = row_of_mut(state.hidden, row, n);
        hidden.copy_from_slice(row_of(state.products, row, n));
        add(hidden, gates);
        turn.apply(0, hidden);
    }
}
