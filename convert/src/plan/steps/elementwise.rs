//! Elementwise nodes, and the changes between real and quantized numbers.

use whit::DType;
use whit::format::{
    BinaryAttributes, BinaryOp, CompareOp, Layout, Op as StepOp, QuantizeAttributes,
    UnaryAttributes, UnaryOp,
};

use crate::graph::{BinaryKind, Clamp, CompareKind, Node, Quant, UnaryKind};
use crate::plan::builder::unsupported;
use crate::plan::{Builder, PlanError};
use crate::quantize::{limits, lut};

use super::{clamp_q, is_i8, is_quantized, quant_of, ratio};

fn binary_op(kind: BinaryKind) -> BinaryOp {
    match kind {
        BinaryKind::Add => BinaryOp::Add,
        BinaryKind::Sub => BinaryOp::Sub,
        BinaryKind::Mul => BinaryOp::Mul,
        BinaryKind::Div => BinaryOp::Div,
        BinaryKind::Pow => BinaryOp::Pow,
        BinaryKind::Min => BinaryOp::Min,
        BinaryKind::Max => BinaryOp::Max,
        BinaryKind::Mod => BinaryOp::Mod,
        BinaryKind::Fmod => BinaryOp::Fmod,
        BinaryKind::And => BinaryOp::And,
        BinaryKind::Or => BinaryOp::Or,
        BinaryKind::Xor => BinaryOp::Xor,
        BinaryKind::PRelu => BinaryOp::PRelu,
        BinaryKind::BitAnd => BinaryOp::BitAnd,
        BinaryKind::BitOr => BinaryOp::BitOr,
        BinaryKind::BitXor => BinaryOp::BitXor,
        BinaryKind::ShiftLeft => BinaryOp::ShiftLeft,
        BinaryKind::ShiftRight => BinaryOp::ShiftRight,
    }
}

pub(super) fn binary(
    builder: &mut Builder<'_>,
    node: &Node,
    kind: BinaryKind,
) -> Result<(), PlanError> {
    let (a, b) = (builder.value(builder.input(node, 0)?), builder.value(builder.input(node, 1)?));
    let y = builder.value(node.outputs[0]);
    let inputs = builder.inputs(node)?;
    let mut attributes = BinaryAttributes {
        kind: binary_op(kind) as u32,
        clamp: [f32::NEG_INFINITY, f32::INFINITY],
        clamp_q: limits(a.dtype),
        ..BinaryAttributes::default()
    };
    if is_quantized(a) {
        let (qa, qb, qy) = (quant_of(node, a)?, quant_of(node, b)?, quant_of(node, y)?);
        let (sa, sb) = (f64::from(qa.scale[0]), f64::from(qb.scale[0]));
        attributes.scale = match kind {
            BinaryKind::Mul => [ratio(sa * sb, qy.scale[0]), 0.0],
            BinaryKind::Add | BinaryKind::Sub | BinaryKind::Min | BinaryKind::Max => {
                [ratio(sa, qy.scale[0]), ratio(sb, qy.scale[0])]
            }
            _ => return Err(unsupported(node, "no integer form; keep it float")),
        };
        attributes.clamp_q = clamp_q(&Clamp::NONE, qy, a.dtype);
    }
    let is_logical = matches!(kind, BinaryKind::And | BinaryKind::Or | BinaryKind::Xor);
    let fits = match a.dtype {
        DType::Bool => is_logical,
        DType::F32 => !is_logical,
        _ => true,
    };
    if !fits {
        return Err(unsupported(node, format!("it has no {} form", a.dtype.name())));
    }
    // Only an operand of the result's shape can be written over.
    let in_place: Vec<usize> = [(0, a), (1, b)]
        .into_iter()
        .filter(|(_, operand)| operand.shape == y.shape)
        .map(|(at, _)| at)
        .collect();
    builder.elementwise(node, StepOp::Binary, a.dtype, attributes, inputs, &in_place)
}

pub(super) fn compare(
    builder: &mut Builder<'_>,
    node: &Node,
    kind: CompareKind,
) -> Result<(), PlanError> {
    let kind = match kind {
        CompareKind::Equal => CompareOp::Equal,
        CompareKind::Less => CompareOp::Less,
        CompareKind::LessOrEqual => CompareOp::LessOrEqual,
        CompareKind::Greater => CompareOp::Greater,
        CompareKind::GreaterOrEqual => CompareOp::GreaterOrEqual,
    };
    let variant = builder.value(builder.input(node, 0)?).dtype;
    let inputs = builder.inputs(node)?;
    let attributes = BinaryAttributes { kind: kind as u32, ..BinaryAttributes::default() };
    builder.step(node, StepOp::Compare, Some(variant), attributes, inputs, 0)
}

/// The step's operator number and parameters.
pub(crate) fn unary_op(kind: UnaryKind) -> (UnaryOp, f32, f32) {
    use UnaryKind as K;
    let plain = |op| (op, 0.0, 0.0);
    match kind {
        K::Relu => plain(UnaryOp::Relu),
        K::Clip { min, max } => (UnaryOp::Clip, min, max),
        K::LeakyRelu { alpha } => (UnaryOp::LeakyRelu, alpha, 0.0),
        K::Elu { alpha } => (UnaryOp::Elu, alpha, 0.0),
        K::Selu { alpha, gamma } => (UnaryOp::Selu, alpha, gamma),
        K::Celu { alpha } => (UnaryOp::Celu, alpha, 0.0),
        K::ThresholdedRelu { alpha } => (UnaryOp::ThresholdedRelu, alpha, 0.0),
        K::Sigmoid => plain(UnaryOp::Sigmoid),
        K::HardSigmoid { alpha, beta } => (UnaryOp::HardSigmoid, alpha, beta),
        K::HardSwish => plain(UnaryOp::HardSwish),
        K::Silu => plain(UnaryOp::Silu),
        K::Mish => plain(UnaryOp::Mish),
        K::Gelu => plain(UnaryOp::Gelu),
        K::GeluTanh => plain(UnaryOp::GeluTanh),
        K::Softplus => plain(UnaryOp::Softplus),
        K::Softsign => plain(UnaryOp::Softsign),
        K::Tanh => plain(UnaryOp::Tanh),
        K::Erf => plain(UnaryOp::Erf),
        K::Exp => plain(UnaryOp::Exp),
        K::Log => plain(UnaryOp::Log),
        K::Sqrt => plain(UnaryOp::Sqrt),
        K::Reciprocal => plain(UnaryOp::Reciprocal),
        K::Neg => plain(UnaryOp::Neg),
        K::Abs => plain(UnaryOp::Abs),
        K::Sign => plain(UnaryOp::Sign),
        K::Floor => plain(UnaryOp::Floor),
        K::Ceil => plain(UnaryOp::Ceil),
        K::Round => plain(UnaryOp::Round),
        K::Sin => plain(UnaryOp::Sin),
        K::Cos => plain(UnaryOp::Cos),
        K::Tan => plain(UnaryOp::Tan),
        K::Asin => plain(UnaryOp::Asin),
        K::Acos => plain(UnaryOp::Acos),
        K::Atan => plain(UnaryOp::Atan),
        K::Sinh => plain(UnaryOp::Sinh),
        K::Cosh => plain(UnaryOp::Cosh),
        K::Asinh => plain(UnaryOp::Asinh),
        K::Acosh => plain(UnaryOp::Acosh),
        K::Atanh => plain(UnaryOp::Atanh),
        K::Not => plain(UnaryOp::Not),
        K::BitNot => plain(UnaryOp::BitNot),
        K::RoundNarrow { to, saturate } => {
            (UnaryOp::RoundNarrow, to as u32 as f32, f32::from(u8::from(saturate)))
        }
    }
}

pub(super) fn unary(
    builder: &mut Builder<'_>,
    node: &Node,
    kind: UnaryKind,
) -> Result<(), PlanError> {
    let x = builder.value(builder.input(node, 0)?);
    if is_i8(x) {
        let (qx, qy) = (quant_of(node, x)?, quant_of(node, builder.value(node.outputs[0]))?);
        let table = lut::table(qx, qy, |real| lut::unary_f64(kind, real));
        return lut_step(builder, node, &table);
    }
    if is_quantized(x) {
        return unary_i16(builder, node, kind);
    }
    let (op, alpha, beta) = unary_op(kind);
    let inputs = builder.inputs(node)?;
    let attributes = UnaryAttributes { kind: op as u32, alpha, beta, reserved: 0 };
    builder.elementwise(node, StepOp::Unary, x.dtype, attributes, inputs, &[0])
}

/// A function of an i16: straight on either side of 0, clipped, or a table.
fn unary_i16(builder: &mut Builder<'_>, node: &Node, kind: UnaryKind) -> Result<(), PlanError> {
    let (x, y) = (builder.value(builder.input(node, 0)?), builder.value(node.outputs[0]));
    let (qx, qy) = (quant_of(node, x)?, quant_of(node, y)?);
    let step = f64::from(qx.scale[0]) / f64::from(qy.scale[0]);
    let slopes = match kind {
        UnaryKind::Relu => [1.0, 0.0],
        UnaryKind::LeakyRelu { alpha } => [1.0, f64::from(alpha)],
        UnaryKind::Neg => [-1.0, -1.0],
        UnaryKind::Abs => [1.0, -1.0],
        UnaryKind::Clip { min, max } => return clip_i16(builder, node, Clamp { min, max }, step),
        kind => {
            let why = "lines between the entries of a table aren't close enough; keep it float";
            let table = lut::table_i16(qx, qy, kind).ok_or_else(|| unsupported(node, why))?;
            let name = format!("{}/table", node.name);
            let data = table.iter().flat_map(|entry| entry.to_le_bytes()).collect();
            let table = builder.constant(&name, DType::I16, Layout::Dense, &[table.len()], data)?;
            let inputs = vec![Some(builder.tensor(builder.input(node, 0)?)?), Some(table)];
            let none = NoAttributes::default();
            return builder.elementwise(node, StepOp::Lut, DType::I16, none, inputs, &[0]);
        }
    };
    let inputs = builder.inputs(node)?;
    let attributes = slopes_i16(slopes.map(|slope| slope * step));
    builder.elementwise(node, StepOp::Unary, DType::I16, attributes, inputs, &[0])
}

/// Steps of the result for a step of the operand, from 0 up and below 0.
fn slopes_i16([above, below]: [f64; 2]) -> UnaryAttributes {
    let kind = UnaryOp::LeakyRelu as u32;
    UnaryAttributes { kind, alpha: above as f32, beta: below as f32, reserved: 0 }
}

/// A clip of an i16, behind a change of scale when there is one.
fn clip_i16(
    builder: &mut Builder<'_>,
    node: &Node,
    clamp: Clamp,
    step: f64,
) -> Result<(), PlanError> {
    let y = builder.value(node.outputs[0]);
    let mut from = builder.tensor(builder.input(node, 0)?)?;
    if step != 1.0 {
        let name = format!("{}/rescale", node.name);
        let rescaled = builder.temporary(&name, y.dtype, &y.shape, y.quant.as_ref())?;
        let (op, slopes) = (StepOp::Unary, slopes_i16([step, step]));
        builder.step_to(&name, op, Some(DType::I16), slopes, vec![Some(from)], rescaled, 0, &[0]);
        from = rescaled;
    }
    let [low, high] = clamp_q(&clamp, quant_of(node, y)?, DType::I16);
    let (alpha, beta) = (low as f32, high as f32);
    let attributes = UnaryAttributes { kind: UnaryOp::Clip as u32, alpha, beta, reserved: 0 };
    builder.elementwise(node, StepOp::Unary, DType::I16, attributes, vec![Some(from)], &[0])
}

pub(super) fn lut_step(
    builder: &mut Builder<'_>,
    node: &Node,
    table: &[i8; 256],
) -> Result<(), PlanError> {
    let name = format!("{}/table", node.name);
    let table = builder.constant_i8(&name, Layout::Dense, &[table.len()], table)?;
    let x = builder.input(node, 0)?;
    let inputs = vec![Some(builder.tensor(x)?), Some(table)];
    builder.elementwise(node, StepOp::Lut, DType::I8, NoAttributes::default(), inputs, &[0])
}

/// For operators whose attribute record is empty.
type NoAttributes = [u8; 0];

pub(super) fn where_(builder: &mut Builder<'_>, node: &Node) -> Result<(), PlanError> {
    let inputs = builder.inputs(node)?;
    builder.step(node, StepOp::Where, None, NoAttributes::default(), inputs, 0)
}

pub(super) fn cast(builder: &mut Builder<'_>, node: &Node) -> Result<(), PlanError> {
    let inputs = builder.inputs(node)?;
    builder.step(node, StepOp::Cast, None, NoAttributes::default(), inputs, 0)
}

/// The scales of a quantize or dequantize step: none when the tensor record holds them.
fn scale_inputs(
    builder: &mut Builder<'_>,
    node: &Node,
    quant: Option<&Quant>,
) -> Result<(QuantizeAttributes, Vec<Option<usize>>), PlanError> {
    let quant = quant.ok_or_else(|| unsupported(node, "the integer tensor has no scale"))?;
    let x = builder.input(node, 0)?;
    let mut inputs = vec![Some(builder.tensor(x)?)];
    let mut attributes = QuantizeAttributes::default();
    if let Some(axis) = quant.axis {
        attributes.axis = axis as u32;
        inputs.push(Some(builder.constant_f32(&format!("{}/scales", node.name), &quant.scale)?));
        inputs.push(Some(
            builder.constant_i32(&format!("{}/zero_points", node.name), &quant.zero_point)?,
        ));
    }
    Ok((attributes, inputs))
}

pub(super) fn quantize(builder: &mut Builder<'_>, node: &Node) -> Result<(), PlanError> {
    let (x, y) = (builder.value(builder.input(node, 0)?), builder.value(node.outputs[0]));
    if is_i8(x) && is_i8(y) {
        // From one quantization to another.
        let (qx, qy) = (quant_of(node, x)?, quant_of(node, y)?);
        let table = lut::table(qx, qy, |real| real);
        return lut_step(builder, node, &table);
    }
    if x.dtype == DType::I16 && y.dtype == DType::I16 {
        let (qx, qy) = (quant_of(node, x)?, quant_of(node, y)?);
        let step = f64::from(qx.scale[0]) / f64::from(qy.scale[0]);
        let (inputs, attributes) = (builder.inputs(node)?, slopes_i16([step, step]));
        return builder.elementwise(node, StepOp::Unary, DType::I16, attributes, inputs, &[0]);
    }
    if !matches!(y.dtype, DType::I8 | DType::U8 | DType::I16) {
        let why = format!("quantizing to {} is not supported; i8, u8 and i16 are", y.dtype);
        return Err(unsupported(node, why));
    }
    let (attributes, inputs) = scale_inputs(builder, node, y.quant.as_ref())?;
    builder.step(node, StepOp::Quantize, Some(y.dtype), attributes, inputs, 0)
}

pub(super) fn dequantize(builder: &mut Builder<'_>, node: &Node) -> Result<(), PlanError> {
    let x = builder.value(builder.input(node, 0)?);
    if !matches!(x.dtype, DType::I8 | DType::U8 | DType::I16 | DType::I32) {
        let why = format!("dequantizing from {} at run time is not supported", x.dtype);
        return Err(unsupported(node, why));
    }
    let (attributes, inputs) = scale_inputs(builder, node, x.quant.as_ref())?;
    builder.step(node, StepOp::Dequantize, Some(x.dtype), attributes, inputs, 0)
}
