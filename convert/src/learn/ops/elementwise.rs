//! Elementwise operators. Formulas of the ONNX operator reference, each with its derivative.

use candle_core::{DType, Tensor};

use crate::graph::{BinaryKind, CompareKind, UnaryKind};
use crate::learn::LearnError;
use crate::learn::forward::Call;
use crate::learn::kernels::{clamp, pointwise};

/// Both operands in the shape of the result.
fn operands(call: &Call<'_>) -> Result<[Tensor; 2], LearnError> {
    let out = call.forward.shape(call.node.outputs[0], call.batch)?;
    let broadcast = |operand: usize| -> Result<Tensor, LearnError> {
        let x = call.aligned(operand, out.len())?;
        Ok(if x.dims() == out { x } else { x.broadcast_as(out.as_slice())? })
    };
    Ok([broadcast(0)?, broadcast(1)?])
}

pub(super) fn binary(call: &Call<'_>, kind: BinaryKind) -> Result<Tensor, LearnError> {
    let [a, b] = operands(call)?;
    if a.dtype() != DType::F32 || b.dtype() != DType::F32 {
        return Err(call.unsupported("arithmetic on integers"));
    }
    Ok(match kind {
        BinaryKind::Add => (a + b)?,
        BinaryKind::Sub => (a - b)?,
        BinaryKind::Mul => (a * b)?,
        BinaryKind::Div => (a / b)?,
        BinaryKind::Min => a.minimum(&b)?,
        BinaryKind::Max => a.maximum(&b)?,
        BinaryKind::PRelu => {
            let positive = a.detach().gt(0.0)?;
            positive.where_cond(&a, &(&a * b)?)?
        }
        BinaryKind::Pow => {
            let exponent = call.operand(1)?;
            if exponent.elem_count() != 1 || call.forward.is_batched(exponent_of(call)?) {
                return Err(call.unsupported("a power whose exponent isn't one constant"));
            }
            let e = exponent.flatten_all()?.to_vec1::<f32>()?[0];
            pointwise(&a, move |x| x.powf(e), move |x| e * x.powf(e - 1.0))?
        }
        _ => return Err(call.unsupported("learning doesn't know this operation")),
    })
}

fn exponent_of(call: &Call<'_>) -> Result<crate::graph::ValueId, LearnError> {
    call.node.inputs[1].ok_or_else(|| call.unsupported("the exponent is absent"))
}

pub(super) fn compare(call: &Call<'_>, kind: CompareKind) -> Result<Tensor, LearnError> {
    let [a, b] = operands(call)?;
    Ok(match kind {
        CompareKind::Equal => a.eq(&b),
        CompareKind::Less => a.lt(&b),
        CompareKind::LessOrEqual => a.le(&b),
        CompareKind::Greater => a.gt(&b),
        CompareKind::GreaterOrEqual => a.ge(&b),
    }?)
}

pub(super) fn choose(call: &Call<'_>) -> Result<Tensor, LearnError> {
    let out = call.out()?;
    let broadcast = |operand: usize| -> Result<Tensor, LearnError> {
        Ok(call.aligned(operand, out.len())?.broadcast_as(out.as_slice())?.contiguous()?)
    };
    let condition = broadcast(0)?;
    Ok(condition.ne(0u8)?.where_cond(&broadcast(1)?, &broadcast(2)?)?)
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Density of the standard normal distribution.
fn density(x: f32) -> f32 {
    (-0.5 * x * x).exp()
        * (0.5 * std::f32::consts::FRAC_1_SQRT_2 * std::f32::consts::FRAC_2_SQRT_PI)
}

/// Its distribution function.
fn distribution(x: f32) -> f32 {
    0.5 * libm::erfcf(-x * std::f32::consts::FRAC_1_SQRT_2)
}

pub(super) fn unary(call: &Call<'_>, kind: UnaryKind) -> Result<Tensor, LearnError> {
    let x = call.operand(0)?;
    if x.dtype() != DType::F32 {
        return Err(call.unsupported("a function of integers"));
    }
    let y = match kind {
        UnaryKind::Relu => clamp(x, 0.0, f32::INFINITY),
        UnaryKind::Clip { min, max } => clamp(x, min, max),
        UnaryKind::LeakyRelu { alpha } => pointwise(
            x,
            move |x| if x < 0.0 { alpha * x } else { x },
            move |x| if x < 0.0 { alpha } else { 1.0 },
        ),
        UnaryKind::Elu { alpha } => elu(x, alpha, 1.0, 1.0),
        UnaryKind::Selu { alpha, gamma } => elu(x, alpha, gamma, 1.0),
        UnaryKind::Celu { alpha } => elu(x, alpha, 1.0, alpha),
        UnaryKind::ThresholdedRelu { alpha } => {
            pointwise(x, move |x| if x > alpha { x } else { 0.0 }, move |x| f32::from(x > alpha))
        }
        UnaryKind::Sigmoid => pointwise(x, sigmoid, |x| sigmoid(x) * sigmoid(-x)),
        UnaryKind::HardSigmoid { alpha, beta } => pointwise(
            x,
            move |x| (alpha * x + beta).clamp(0.0, 1.0),
            move |x| if (0.0..=1.0).contains(&(alpha * x + beta)) { alpha } else { 0.0 },
        ),
        UnaryKind::HardSwish => pointwise(
            x,
            |x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            |x| match x {
                x if x <= -3.0 => 0.0,
                x if x >= 3.0 => 1.0,
                x => x / 3.0 + 0.5,
            },
        ),
        UnaryKind::Silu => {
            pointwise(x, |x| x * sigmoid(x), |x| sigmoid(x) * (1.0 + x * sigmoid(-x)))
        }
        UnaryKind::Mish => pointwise(
            x,
            |x| x * softplus(x).tanh(),
            |x| {
                let t = softplus(x).tanh();
                t + x * (1.0 - t * t) * sigmoid(x)
            },
        ),
        UnaryKind::Gelu => {
            pointwise(x, |x| x * distribution(x), |x| distribution(x) + x * density(x))
        }
        UnaryKind::GeluTanh => {
            const C: f32 = 0.797_884_6; // √(2/π)
            const D: f32 = 0.044_715;
            pointwise(
                x,
                |x| 0.5 * x * (1.0 + (C * (x + D * x * x * x)).tanh()),
                |x| {
                    let t = (C * (x + D * x * x * x)).tanh();
                    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * C * (1.0 + 3.0 * D * x * x)
                },
            )
        }
        UnaryKind::Softplus => pointwise(x, softplus, sigmoid),
        UnaryKind::Softsign => pointwise(x, |x| x / (1.0 + x.abs()), |x| (1.0 + x.abs()).powi(-2)),
        UnaryKind::Tanh => pointwise(x, f32::tanh, |x| 1.0 - x.tanh().powi(2)),
        UnaryKind::Erf => {
            pointwise(x, libm::erff, |x| std::f32::consts::FRAC_2_SQRT_PI * (-x * x).exp())
        }
        UnaryKind::Exp => pointwise(x, f32::exp, f32::exp),
        UnaryKind::Log => pointwise(x, f32::ln, f32::recip),
        UnaryKind::Sqrt => pointwise(x, f32::sqrt, |x| 0.5 / x.sqrt()),
        UnaryKind::Reciprocal => pointwise(x, f32::recip, |x| -1.0 / (x * x)),
        UnaryKind::Neg => pointwise(x, |x| -x, |_| -1.0),
        UnaryKind::Abs => pointwise(x, f32::abs, |x| if x < 0.0 { -1.0 } else { 1.0 }),
        UnaryKind::Sin => pointwise(x, f32::sin, f32::cos),
        UnaryKind::Cos => pointwise(x, f32::cos, |x| -x.sin()),
        UnaryKind::Tan => pointwise(x, f32::tan, |x| x.cos().powi(-2)),
        UnaryKind::Asin => pointwise(x, f32::asin, |x| 1.0 / (1.0 - x * x).sqrt()),
        UnaryKind::Acos => pointwise(x, f32::acos, |x| -1.0 / (1.0 - x * x).sqrt()),
        UnaryKind::Atan => pointwise(x, f32::atan, |x| 1.0 / (1.0 + x * x)),
        UnaryKind::Sinh => pointwise(x, f32::sinh, f32::cosh),
        UnaryKind::Cosh => pointwise(x, f32::cosh, f32::sinh),
        UnaryKind::Asinh => pointwise(x, f32::asinh, |x| 1.0 / (x * x + 1.0).sqrt()),
        UnaryKind::Acosh => pointwise(x, f32::acosh, |x| 1.0 / (x * x - 1.0).sqrt()),
        UnaryKind::Atanh => pointwise(x, f32::atanh, |x| 1.0 / (1.0 - x * x)),
        _ => return Err(call.unsupported("its gradient is 0 everywhere")),
    };
    Ok(y?)
}

/// `gamma * (x > 0 ? x : alpha * (exp(x / width) − 1))`.
fn elu(x: &Tensor, alpha: f32, gamma: f32, width: f32) -> candle_core::Result<Tensor> {
    pointwise(
        x,
        move |x| gamma * if x > 0.0 { x } else { alpha * (x / width).exp_m1() },
        move |x| gamma * if x > 0.0 { 1.0 } else { alpha / width * (x / width).exp() },
    )
}
