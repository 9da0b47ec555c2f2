//! The first operator sets, 1 to 6: which operators' forms of that time are known, and the broadcasting
//! that had to be asked for.

use super::builder::Builder;
use super::data::axis_of;
use super::dims;
use super::failure::{Failure, invalid};
use super::node::OnnxNode;
use super::proto::data_type;
use crate::dim::Dim;
use crate::graph::ValueId;

/// The first set in which operators broadcast as NumPy does, among other changes.
pub(super) const MODERN: i64 = 7;

/// Operators whose importers read these forms, or whose form hasn't changed in what they read.
const KNOWN: &[&str] = &[
    "Abs",
    "Add",
    "And",
    "ArgMax",
    "ArgMin",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Ceil",
    "Clip",
    "Concat",
    "Constant",
    "Conv",
    "ConvTranspose",
    "DepthToSpace",
    "Div",
    "Dropout",
    "Elu",
    "Equal",
    "Exp",
    "Flatten",
    "Floor",
    "Gather",
    "Gemm",
    "GlobalAveragePool",
    "GlobalLpPool",
    "GlobalMaxPool",
    "Greater",
    "HardSigmoid",
    "Identity",
    "InstanceNormalization",
    "LRN",
    "LeakyRelu",
    "Less",
    "Log",
    "LogSoftmax",
    "LpNormalization",
    "LpPool",
    "MatMul",
    "Max",
    "MaxPool",
    "Mean",
    "Min",
    "Mul",
    "Neg",
    "Not",
    "Or",
    "PRelu",
    "Pad",
    "Pow",
    "Reciprocal",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Relu",
    "Reshape",
    "Selu",
    "Shape",
    "Sigmoid",
    "Size",
    "Slice",
    "Softmax",
    "Softplus",
    "Softsign",
    "SpaceToDepth",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Tanh",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Upsample",
    "Xor",
];

/// Whether an operator's form in an operator set is known.
pub(super) fn is_known(op_type: &str, opset: i64) -> bool {
    match op_type {
        _ if opset >= MODERN => true,
        // Its tiles were one operand each.
        "Tile" => opset >= 6,
        _ => KNOWN.contains(&op_type),
    }
}

/// The second operand with axes of size 1 behind, so that it broadcasts to the first one as the
/// attributes `broadcast` and `axis` say.
pub(super) fn aligned(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    x: ValueId,
    y: ValueId,
) -> Result<ValueId, Failure> {
    if node.opset >= MODERN {
        return Ok(y);
    }
    let (of_x, of_y) = (b.shape(x), b.shape(y));
    let broadcasts = node.attributes.flag("broadcast", false)?;
    let axis = node.attributes.optional_int("axis")?;
    let same = |(x, y): (&Dim, &Dim)| dims::same(x, y, &b.graph.symbols);
    if !broadcasts {
        return match of_x.len() == of_y.len() && of_x.iter().zip(&of_y).all(same) {
            true => Ok(y),
            false => Err(invalid(format!(
                "shapes {} and {} without `broadcast`",
                b.text(&of_x),
                b.text(&of_y)
            ))),
        };
    }
    if of_y.iter().all(|dim| dim.is(1)) {
        return b.reshape(node, "scalar", y, Vec::new());
    }
    let behind = of_x.len().checked_sub(of_y.len());
    let behind = behind.ok_or_else(|| invalid("the second operand has more axes"))?;
    let axis = match axis {
        Some(axis) => axis_of(axis, of_x.len())?,
        None => behind,
    };
    let fits = |(x, y): (&Dim, &Dim)| y.is(1) || dims::same(x, y, &b.graph.symbols);
    if axis > behind || !of_x[axis..].iter().zip(&of_y).all(fits) {
        return Err(invalid(format!(
            "{} doesn't lie in {} at axis {axis}",
            b.text(&of_y),
            b.text(&of_x)
        )));
    }
    let mut shape = of_y;
    shape.extend((0..behind - axis).map(|_| Dim::from(1i64)));
    b.reshape(node, "aligned", y, shape)
}

/// A slope per channel with axes of size 1 behind.
pub(super) fn slope(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    x: ValueId,
    y: ValueId,
) -> Result<ValueId, Failure> {
    let (of_x, of_y) = (b.shape(x), b.shape(y));
    let per_channel = of_x.len() >= 2
        && of_y.len() == 1
        && !of_y[0].is(1)
        && dims::same(&of_x[1], &of_y[0], &b.graph.symbols);
    if node.opset >= MODERN || !per_channel {
        return Ok(y);
    }
    let mut shape = of_y;
    shape.extend((2..of_x.len()).map(|_| Dim::from(1i64)));
    b.reshape(node, "slope", y, shape)
}

/// The number of an element type that is given by its name.
pub(super) fn type_number(name: &str) -> Option<i64> {
    const LAST: i32 = 16; // bfloat16
    (1..=LAST).find(|number| data_type::name(*number) == name).map(i64::from)
}
