//! Operators on quantized tensors, as the operator-oriented format of ONNX Runtime has them.
//!
//! Each becomes dequantize, the operator on reals, quantize: the form from which the quantize stage
//! makes integer steps, with the scales of the model. What has no integer step stays float between
//! the same scales. `MatMulInteger` and `ConvInteger`, whose results are the integers themselves, are
//! exact: their products are summed in i32, or in f32 while no sum can leave its 24 bits.

use whit::DType;

use super::builder::{Builder, Outcome};
use super::compose::Compose;
use super::compose::product;
use super::data::axis_of;
use super::dims;
use super::failure::{Failure, invalid, unsupported};
use super::node::OnnxNode;
use super::proto::data_type as t;
use super::quant::{Scaling, centred, dequantize, dynamically, is_8_bit, quantize, result_type};
use super::transformer::swish;
use crate::dim::Dim;
use crate::graph::{BinaryKind, ReduceKind, ValueId};
use crate::tensor::Tensor;

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("QLinearConv", qlinear_conv),
    ("QLinearMatMul", qlinear_matmul),
    ("ConvInteger", conv_integer),
    ("MatMulInteger", matmul_integer),
];

/// Of the domain `com.microsoft`.
pub(super) const CONTRIB: &[(&str, super::Importer)] = &[
    ("QLinearAdd", |b, n| elementwise(b, n, BinaryKind::Add)),
    ("QLinearMul", |b, n| elementwise(b, n, BinaryKind::Mul)),
    ("QLinearSigmoid", |b, n| function(b, n, "Sigmoid")),
    ("QLinearLeakyRelu", |b, n| function(b, n, "LeakyRelu")),
    ("QLinearSoftmax", |b, n| {
        // Which of ONNX's softmaxes is meant, whatever the model's own operator set.
        let opset = n.attributes.required_int("opset")?;
        let inputs = (0..n.inputs.len()).map(|index| n.input(index)).collect();
        function(b, &OnnxNode { opset, ..inner(n, inputs) }, "Softmax")
    }),
    ("QLinearReduceMean", |b, n| function(b, n, "ReduceMean")),
    ("QLinearAveragePool", pool),
    ("QLinearGlobalAveragePool", global_pool),
    ("QLinearConcat", concat),
    ("QLinearWhere", select),
    ("QGemm", gemm),
    ("QuantizeLinear", |b, n| same_as(b, n, "QuantizeLinear")),
    ("DequantizeLinear", |b, n| same_as(b, n, "DequantizeLinear")),
    ("QLinearConv", |b, n| match n.attributes.flag("channels_last", false)? {
        false => qlinear_conv(b, n),
        true => Err(unsupported("channels_last = 1", "export it with channels first")),
    }),
    ("MatMulIntegerToFloat", matmul_to_float),
    ("DynamicQuantizeMatMul", dynamic_matmul),
    ("FusedMatMul", fused_matmul),
    ("QuickGelu", |b, n| {
        n.at_most(1)?;
        let alpha = n.attributes.float("alpha", 1.702)?;
        let x = n.required(0, "X")?;
        let c = &mut Compose::new(b, n);
        Ok(vec![swish(c, x, alpha)?])
    }),
];

/// A node that stands inside another: its operands are given, its attributes are the other's.
fn inner<'a>(node: &OnnxNode<'a>, inputs: Vec<Option<ValueId>>) -> OnnxNode<'a> {
    OnnxNode {
        name: node.name.clone(),
        inputs,
        outputs: node.outputs,
        attributes: node.attributes.clone(),
        opset: node.opset,
    }
}

/// What ONNX's operator of this name makes of these operands.
fn import(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    name: &str,
    inputs: Vec<Option<ValueId>>,
) -> Result<ValueId, Failure> {
    let import = super::importer("", name)
        .ok_or_else(|| unsupported(format!("{name} is not supported"), ""))?;
    let values = import(b, &inner(node, inputs))?;
    values.first().copied().ok_or_else(|| invalid("it has no result"))
}

fn same_as(b: &mut Builder, node: &OnnxNode<'_>, name: &str) -> Outcome {
    let inputs = (0..node.inputs.len()).map(|index| node.input(index)).collect();
    Ok(vec![import(b, node, name, inputs)?])
}

/// The reals of three inputs in a row: integers, scale, zero point.
fn real(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    at: usize,
    part: &str,
    axis: i64,
) -> Result<ValueId, Failure> {
    let x = node.required(at, part)?;
    if !is_8_bit(b, x) {
        return Err(invalid(format!("input #{at} is of type {}", t::name(b.onnx_type(x)))));
    }
    let scaling = Scaling::new(node.required(at + 1, "scale")?, node.input(at + 2), axis);
    dequantize(b, node, part, x, &scaling)
}

/// The integers of a result, whose scale and zero point are two inputs in a row.
fn quantized(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    y: ValueId,
    at: usize,
    like: ValueId,
) -> Outcome {
    let zero = node.input(at + 1);
    let to = result_type(b, zero, like);
    let scaling = Scaling::new(node.required(at, "y_scale")?, zero, 1);
    Ok(vec![quantize(b, node, "quantize", y, &scaling, to, true)?])
}

/// A bias of i32 whose scale is the product of two others, and a factor.
fn bias(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    bias: ValueId,
    scales: [ValueId; 2],
    factor: f32,
) -> Result<ValueId, Failure> {
    if b.dtype(bias) != DType::I32 {
        return Err(invalid(format!("a bias of type {}", b.dtype(bias))));
    }
    let [x, w] = scales.map(|id| b.tensor(id));
    let scale = match (x, w) {
        (Some(x), Some(w)) if x.len() == 1 => {
            b.charge(w.len().saturating_mul(8))?;
            let x = x.to_f32()[0] * factor;
            let values: Vec<f32> = w.to_f32().into_iter().map(|w| x * w).collect();
            let shape = if values.len() == 1 { vec![] } else { vec![values.len()] };
            b.constant(format!("{}/bias_scale", node.name), Tensor::from_f32(shape, &values))
        }
        _ => {
            let x = b.cast(node, "bias/x_scale", scales[0], DType::F32)?;
            let w = b.cast(node, "bias/w_scale", scales[1], DType::F32)?;
            let product = b.binary(node, "bias/scale", BinaryKind::Mul, x, w)?;
            b.with_number(node, "bias/factor", BinaryKind::Mul, product, f64::from(factor))?
        }
    };
    let axis = b.rank(bias) as i64 - 1;
    dequantize(b, node, "bias", bias, &Scaling::new(scale, None, axis))
}

fn qlinear_conv(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(9)?;
    let x = real(b, node, 0, "x", 1)?;
    let w = real(b, node, 3, "w", 0)?;
    let mut inputs = vec![Some(x), Some(w)];
    if let Some(integers) = node.input(8) {
        let scales = [node.required(1, "x_scale")?, node.required(4, "w_scale")?];
        inputs.push(Some(bias(b, node, integers, scales, 1.0)?));
    }
    let y = import(b, node, "Conv", inputs)?;
    quantized(b, node, y, 6, node.required(0, "x")?)
}

fn qlinear_matmul(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(8)?;
    let x = real(b, node, 0, "a", -2)?;
    let y = real(b, node, 3, "b", -1)?;
    let z = import(b, node, "MatMul", vec![Some(x), Some(y)])?;
    quantized(b, node, z, 6, node.required(0, "a")?)
}

fn elementwise(b: &mut Builder, node: &OnnxNode<'_>, kind: BinaryKind) -> Outcome {
    node.at_most(8)?;
    let x = real(b, node, 0, "a", 1)?;
    let y = real(b, node, 3, "b", 1)?;
    let z = b.binary(node, "", kind, x, y)?;
    quantized(b, node, z, 6, node.required(0, "A")?)
}

/// Of one operand.
fn function(b: &mut Builder, node: &OnnxNode<'_>, name: &str) -> Outcome {
    node.at_most(5)?;
    let x = real(b, node, 0, "x", 1)?;
    let y = import(b, node, name, vec![Some(x)])?;
    quantized(b, node, y, 3, node.required(0, "X")?)
}

/// Over channels first or last.
fn pool(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(5)?;
    if node.attributes.flag("channels_last", false)? {
        return Err(unsupported("channels_last = 1", "export it with channels first"));
    }
    function(b, node, "AveragePool")
}

fn global_pool(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(5)?;
    let last = node.attributes.flag("channels_last", false)?;
    let x = real(b, node, 0, "x", 1)?;
    let rank = b.rank(x);
    if rank < 3 {
        return Err(invalid("the input has no spatial axes"));
    }
    let axes: Vec<usize> = if last { (1..rank - 1).collect() } else { (2..rank).collect() };
    let y = b.reduce(node, "", ReduceKind::Mean, x, &axes, true)?;
    quantized(b, node, y, 3, node.required(0, "X")?)
}

fn concat(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    if node.inputs.len() < 5 || node.inputs.len() % 3 != 2 {
        return Err(invalid(format!("{} inputs", node.inputs.len())));
    }
    let mut parts = Vec::new();
    for at in (2..node.inputs.len()).step_by(3) {
        parts.push(Some(real(b, node, at, &format!("x{}", at / 3), 1)?));
    }
    let y = import(b, node, "Concat", parts)?;
    quantized(b, node, y, 0, node.required(2, "X")?)
}

fn select(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(9)?;
    let x = real(b, node, 1, "x", 1)?;
    let y = real(b, node, 4, "y", 1)?;
    let z = import(b, node, "Where", vec![node.input(0), Some(x), Some(y)])?;
    quantized(b, node, z, 7, node.required(1, "X")?)
}

/// `alpha * A' * B' + C`, C of i32 with the scale of the product.
fn gemm(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(9)?;
    let alpha = node.attributes.float("alpha", 1.0)?;
    let columns = if node.attributes.int("transB", 0)? != 0 { 0 } else { 1 };
    let x = real(b, node, 0, "a", 0)?;
    let y = real(b, node, 3, "b", columns)?;
    let mut inputs = vec![Some(x), Some(y)];
    if let Some(integers) = node.input(6) {
        let scales = [node.required(1, "a_scale")?, node.required(4, "b_scale")?];
        inputs.push(Some(bias(b, node, integers, scales, alpha)?));
    }
    let z = import(b, node, "Gemm", inputs)?;
    match node.input(7) {
        None => Ok(vec![z]),
        Some(_) => quantized(b, node, z, 7, node.required(0, "A")?),
    }
}

/// The largest sum of magnitudes below which every partial sum of integers is exact in f32.
const MAX_EXACT: i64 = 1 << 24;
/// The largest difference of two 8-bit integers.
const MAX_CENTRED: i64 = 255;

/// Factors of constant weights, each small enough that a sum of `depth` products is exact in f32:
/// weights = sum of factor * part. `None` when two parts aren't enough.
fn exact_parts(weights: &[i64], depth: usize) -> Option<Vec<(f64, Vec<f32>)>> {
    let depth = i64::try_from(depth).ok()?.max(1);
    let fits = |parts: &[i64]| {
        let largest = parts.iter().map(|w| w.abs()).max().unwrap_or(0);
        depth.checked_mul(largest * MAX_CENTRED).is_some_and(|sum| sum <= MAX_EXACT)
    };
    let reals = |parts: &[i64]| parts.iter().map(|w| *w as f32).collect();
    if fits(weights) {
        return Some(vec![(1.0, reals(weights))]);
    }
    let high: Vec<i64> = weights.iter().map(|w| w.div_euclid(16)).collect();
    let low: Vec<i64> = weights.iter().map(|w| w.rem_euclid(16)).collect();
    (fits(&high) && fits(&low)).then(|| vec![(16.0, reals(&high)), (1.0, reals(&low))])
}

/// The sum of factors times products of `x` with each part of the weights, in i32.
fn integer_sum(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    name: &str,
    x: ValueId,
    shape: &[usize],
    parts: Vec<(f64, Vec<f32>)>,
) -> Outcome {
    let mut sum: Option<ValueId> = None;
    for (factor, values) in parts {
        let part = format!("weights_{factor}");
        let w = b.constant(format!("{}/{part}", node.name), Tensor::from_f32(shape, &values));
        let y = import(b, node, name, vec![Some(x), Some(w)])?;
        let mut y = b.cast(node, &format!("{part}/i32"), y, DType::I32)?;
        if factor != 1.0 {
            y = b.with_number(node, &format!("{part}/factor"), BinaryKind::Mul, y, factor)?;
        }
        sum = Some(match sum {
            None => y,
            Some(so_far) => b.binary(node, "sum", BinaryKind::Add, so_far, y)?,
        });
    }
    Ok(vec![sum.ok_or_else(|| invalid("it has no weights"))?])
}

/// 8-bit integers minus their zero points, as another type that holds the difference. The zero points
/// are one, or one per index of an axis.
fn shifted(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    part: &str,
    x: ValueId,
    zero: Option<ValueId>,
    axis: i64,
    to: DType,
) -> Result<ValueId, Failure> {
    if !is_8_bit(b, x) {
        return Err(invalid(format!("an operand of type {}", t::name(b.onnx_type(x)))));
    }
    let wide = b.cast(node, &format!("{part}/wide"), x, to)?;
    let Some(zero) = zero else { return Ok(wide) };
    let mut zero = b.cast(node, &format!("{part}/zero_point"), zero, to)?;
    let of_zero = b.shape(zero);
    if of_zero.iter().all(|d| d.is(1)) {
        zero = b.reshape(node, &format!("{part}/zero"), zero, Vec::new())?;
    } else if of_zero.len() == 1 {
        let rank = b.rank(x);
        let mut along = vec![Dim::from(1i64); rank];
        along[axis_of(axis, rank)?] = of_zero[0].clone();
        zero = b.reshape(node, &format!("{part}/zero"), zero, along)?;
    }
    let y = b.binary(node, &format!("{part}/shifted"), BinaryKind::Sub, wide, zero)?;
    match b.shape(y).len() == b.rank(x) {
        true => Ok(y),
        false => Err(invalid("a zero point has more axes than its operand")),
    }
}

fn conv_integer(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(4)?;
    let (x, w) = (node.required(0, "x")?, node.required(1, "w")?);
    let x = shifted(b, node, "x", x, node.input(2), 1, DType::F32)?;
    let Some((shape, weights)) = centred(b, w, node.input(3), 0)? else {
        return Err(unsupported(
            "its weights are computed at run time",
            "make them an initializer",
        ));
    };
    let depth = shape.iter().skip(1).product();
    let parts = exact_parts(&weights, depth).ok_or_else(|| {
        unsupported(
            format!("sums of {depth} products, which f32 can't hold exactly"),
            "export the quantized model in QDQ form",
        )
    })?;
    integer_sum(b, node, "Conv", x, &shape, parts)
}

fn matmul_integer(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(4)?;
    let (x, y) = (node.required(0, "A")?, node.required(1, "B")?);
    let (x_zero, y_zero) = (node.input(2), node.input(3));
    let rank = b.rank(y);
    if b.rank(x) == 0 || rank == 0 {
        return Err(invalid("an operand is a scalar"));
    }
    // Constant weights go through the kernels for f32.
    if let Some((shape, weights)) = centred(b, y, y_zero, rank - 1)?
        && let Some(parts) = exact_parts(&weights, shape[rank.saturating_sub(2)])
        && rank == 2
    {
        let x = shifted(b, node, "a", x, x_zero, -2, DType::F32)?;
        return integer_sum(b, node, "MatMul", x, &shape, parts);
    }
    let x = shifted(b, node, "a", x, x_zero, -2, DType::I32)?;
    let y = shifted(b, node, "b", y, y_zero, -1, DType::I32)?;
    Ok(vec![import(b, node, "MatMul", vec![Some(x), Some(y)])?])
}

/// The product of reals that two quantized matrices stand for, plus a bias.
fn matmul_to_float(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(7)?;
    let (x, y) = (node.required(0, "A")?, node.required(1, "B")?);
    let (x_scale, y_scale) = (node.required(2, "a_scale")?, node.required(3, "b_scale")?);
    let x = dequantize(b, node, "a", x, &Scaling::new(x_scale, node.input(4), -2))?;
    let y = dequantize(b, node, "b", y, &Scaling::new(y_scale, node.input(5), -1))?;
    let z = import(b, node, "MatMul", vec![Some(x), Some(y)])?;
    with_bias(b, node, z, node.input(6))
}

/// The same of reals that are quantized by their own range first.
fn dynamic_matmul(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(5)?;
    let (x, y) = (node.required(0, "A")?, node.required(1, "B")?);
    let dynamic = dynamically(b, node, x)?;
    let scaling = Scaling::new(dynamic.scale, Some(dynamic.zero_point), 1);
    let x = dequantize(b, node, "a", dynamic.y, &scaling)?;
    let y_scale = node.required(2, "b_scale")?;
    let y = dequantize(b, node, "b", y, &Scaling::new(y_scale, node.input(3), -1))?;
    let z = import(b, node, "MatMul", vec![Some(x), Some(y)])?;
    with_bias(b, node, z, node.input(4))
}

fn with_bias(b: &mut Builder, node: &OnnxNode<'_>, y: ValueId, bias: Option<ValueId>) -> Outcome {
    Ok(vec![match bias {
        Some(bias) => b.binary(node, "bias", BinaryKind::Add, y, bias)?,
        None => y,
    }])
}

/// `alpha * A' * B'`, whose last two axes may be exchanged.
fn fused_matmul(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(2)?;
    let a = &node.attributes;
    let alpha = a.float("alpha", 1.0)?;
    let transposed = [a.int("transA", 0)? != 0, a.int("transB", 0)? != 0];
    if a.int("transBatchA", 0)? != 0 || a.int("transBatchB", 0)? != 0 {
        return Err(unsupported("a product whose leading axes are exchanged, too", ""));
    }
    let (x, y) = (node.required(0, "A")?, node.required(1, "B")?);
    let dtype = b.dtype(x);
    if !dtype.is_float() || b.dtype(y) != dtype {
        return Err(invalid(format!("a product of {dtype} and {}", b.dtype(y))));
    }
    let ranks = [b.rank(x), b.rank(y)];
    let z = match ranks.iter().all(|rank| *rank >= 2) {
        // A vector has nothing to exchange.
        false => import(b, node, "MatMul", vec![Some(x), Some(y)])?,
        true => {
            let matrix = |shape: Vec<Dim>, exchanged: bool| {
                let rank = shape.len();
                let (rows, columns) = (shape[rank - 2].clone(), shape[rank - 1].clone());
                let pair = if exchanged { [columns, rows] } else { [rows, columns] };
                (shape[..rank - 2].to_vec(), pair)
            };
            let (outer_x, [m, k]) = matrix(b.shape(x), transposed[0]);
            let (outer_y, [k2, n]) = matrix(b.shape(y), transposed[1]);
            if !dims::same(&k, &k2, &b.graph.symbols) {
                return Err(invalid(format!(
                    "{} columns meet {} rows",
                    b.text(&[k]),
                    b.text(&[k2])
                )));
            }
            let mut shape = dims::broadcast(&outer_x, &outer_y, &b.graph.symbols)?;
            shape.extend([m, n]);
            let op = product(transposed[0], transposed[1]);
            b.emit(node, "", op, &[Some(x), Some(y)], dtype, shape)?
        }
    };
    match alpha {
        1.0 => Ok(vec![z]),
        _ => Ok(vec![b.with_number(node, "alpha", BinaryKind::Mul, z, f64::from(alpha))?]),
    }
}
