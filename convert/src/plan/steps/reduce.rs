//! Nodes that fold many elements into one: pools, reductions, softmax.

use whit::DType;
use whit::format::{
    ArgReduceAttributes, NormalizeAttributes, Op as StepOp, PoolAttributes, PoolNdAttributes,
    ReduceAttributes, ReduceOp, SoftmaxAttributes,
};

use crate::dim::Dim;
use crate::fixed_point::Multiplier;
use crate::graph::{Node, NormKind, Pool, PoolKind, ReduceKind};
use crate::plan::builder::unsupported;
use crate::plan::{Builder, PlanError};
use crate::quantize::{limits, lut};

use super::{is_i8, is_quantized, quant_of, ratio, spatial};

pub(super) fn pool(builder: &mut Builder<'_>, node: &Node, pool: &Pool) -> Result<(), PlanError> {
    let id = builder.input(node, 0)?;
    let (x, y) = (builder.value(id), builder.value(node.outputs[0]));
    let quantized = is_quantized(x) && x.quant.is_some();
    let plain = !quantized && x.dtype != DType::F32;
    let packed = pool.kernel.len() <= 2 && !matches!(pool.kind, PoolKind::Norm { .. });
    if !packed || plain || node.outputs.len() > 1 {
        return pool_nd(builder, node, pool);
    }
    let spatial = |values: &[usize], fill: usize| -> Result<[u16; 2], PlanError> {
        let two = match values {
            [w] => [fill, *w],
            [h, w] => [*h, *w],
            _ => return Err(unsupported(node, "1-D and 2-D pooling are supported")),
        };
        let large = |_| unsupported(node, format!("{two:?} is larger than 65535"));
        Ok([u16::try_from(two[0]).map_err(large)?, u16::try_from(two[1]).map_err(large)?])
    };
    let mut attributes = PoolAttributes {
        kind: match pool.kind {
            PoolKind::Max => 1,
            _ => 2,
        },
        kernel: spatial(&pool.kernel, 1)?,
        stride: spatial(&pool.stride, 1)?,
        dilation: spatial(&pool.dilation, 1)?,
        pad: spatial(&pool.pad_before, 0)?,
        pad_after: spatial(&pool.pad_after, 0)?,
        count_include_pad: u32::from(pool.count_include_pad),
        scale: 1.0,
        clamp_q: limits(x.dtype),
    };
    let variant = if is_quantized(x) {
        let (qx, qy) = (quant_of(node, x)?, quant_of(node, y)?);
        // TFLite averages the stored numbers.
        if builder.graph.is_of_tflite() && attributes.kind == 2 && is_i8(x) && qx == qy {
            attributes.kind = 3;
        }
        attributes.scale = ratio(f64::from(qx.scale[0]), qy.scale[0]);
        x.dtype
    } else {
        x.dtype
    };
    let nhwc = |shape: &[Dim]| match shape {
        [n, w, c] => vec![n.clone(), Dim::from(1i64), w.clone(), c.clone()],
        _ => shape.to_vec(),
    };
    let (input, output) = (builder.tensor(id)?, builder.tensor(node.outputs[0])?);
    let input = builder.view(input, &nhwc(&x.shape))?;
    let output = builder.view(output, &nhwc(&y.shape))?;
    builder.step_to(
        &node.name,
        StepOp::Pool2d,
        Some(variant),
        attributes,
        vec![Some(input)],
        output,
        0,
        &[],
    );
    Ok(())
}

/// Pooling by the operator that takes every shape.
fn pool_nd(builder: &mut Builder<'_>, node: &Node, pool: &Pool) -> Result<(), PlanError> {
    let x = builder.value(builder.input(node, 0)?);
    if is_quantized(x) && (!is_i8(x) || pool.kind != PoolKind::Max) {
        return Err(unsupported(node, "in i8, only a maximum is supported here; keep it float"));
    }
    let (kind, p) = match pool.kind {
        PoolKind::Max => (1, 1.0),
        PoolKind::Average => (2, 1.0),
        PoolKind::Norm { p } => (3, p as f32),
    };
    let attributes = PoolNdAttributes {
        kind,
        kernel: spatial(node, &pool.kernel)?,
        stride: spatial(node, &pool.stride)?,
        dilation: spatial(node, &pool.dilation)?,
        pad: spatial(node, &pool.pad_before)?,
        pad_after: spatial(node, &pool.pad_after)?,
        count_include_pad: u32::from(pool.count_include_pad),
        p,
        column_major: u32::from(pool.column_major),
        reserved: 0,
    };
    let inputs = builder.inputs(node)?;
    builder.step_with_outputs(node, StepOp::PoolNd, Some(x.dtype), attributes, inputs, 0)
}

pub(super) fn normalize(
    builder: &mut Builder<'_>,
    node: &Node,
    kind: NormKind,
    axis: usize,
    epsilon: f32,
) -> Result<(), PlanError> {
    let x = builder.value(builder.input(node, 0)?);
    let kind = match kind {
        NormKind::Layer => 1,
        NormKind::Rms => 2,
    };
    let attributes = NormalizeAttributes { kind, axis: axis as u32, epsilon, reserved: 0 };
    let inputs = builder.inputs(node)?;
    builder.step(node, StepOp::Normalize, Some(x.dtype), attributes, inputs, 0)
}

pub(super) fn reduce(
    builder: &mut Builder<'_>,
    node: &Node,
    kind: ReduceKind,
    axes: &[usize],
) -> Result<(), PlanError> {
    let (x, y) = (builder.value(builder.input(node, 0)?), builder.value(node.outputs[0]));
    let is_empty = |shape: &[Dim]| shape.iter().any(|dim| dim.is(0));
    if is_empty(&x.shape) && !is_empty(&y.shape) {
        return Err(unsupported(node, "it reduces an axis of size 0"));
    }
    let op = match kind {
        ReduceKind::Sum => ReduceOp::Sum,
        ReduceKind::Mean => ReduceOp::Mean,
        ReduceKind::Max => ReduceOp::Max,
        ReduceKind::Min => ReduceOp::Min,
        ReduceKind::Prod => ReduceOp::Prod,
        ReduceKind::L1 => ReduceOp::L1,
        ReduceKind::L2 => ReduceOp::L2,
        ReduceKind::SumSquare => ReduceOp::SumSquare,
        ReduceKind::LogSum => ReduceOp::LogSum,
        ReduceKind::LogSumExp => ReduceOp::LogSumExp,
    };
    let mut attributes = ReduceAttributes {
        kind: op as u32,
        axes: axes.iter().fold(0, |mask, axis| mask | 1 << axis),
        scale: 1.0,
        clamp_q: limits(x.dtype),
        reserved: 0,
    };
    let mut inputs = builder.inputs(node)?;
    if is_quantized(x) {
        let (qx, qy) = (quant_of(node, x)?, quant_of(node, y)?);
        attributes.scale = ratio(f64::from(qx.scale[0]), qy.scale[0]);
        if builder.options.exact_tflite && op == ReduceOp::Mean && is_i8(x) {
            let reduced: Option<Vec<i64>> = axes.iter().map(|a| x.shape[*a].as_const()).collect();
            let Some(count) = reduced.map(|sizes| sizes.iter().product::<i64>()) else {
                return Err(unsupported(node, "--exact-tflite needs reduced axes of fixed sizes"));
            };
            let real = f64::from(qx.scale[0]) / f64::from(qy.scale[0]);
            let Multiplier { multiplier, shift } = Multiplier::new(real).over(count);
            let name = format!("{}/fixed_point", node.name);
            inputs.push(Some(builder.constant_i32(&name, &[multiplier, shift])?));
        }
    }
    builder.step(node, StepOp::Reduce, Some(x.dtype), attributes, inputs, 0)
}

pub(super) fn arg_reduce(
    builder: &mut Builder<'_>,
    node: &Node,
    axis: usize,
    min: bool,
    select_last: bool,
) -> Result<(), PlanError> {
    let x = builder.value(builder.input(node, 0)?);
    let attributes = ArgReduceAttributes {
        axis: axis as u32,
        min: u32::from(min),
        select_last: u32::from(select_last),
        reserved: 0,
    };
    let inputs = builder.inputs(node)?;
    builder.step(node, StepOp::ArgReduce, Some(x.dtype), attributes, inputs, 0)
}

pub(super) fn softmax(
    builder: &mut Builder<'_>,
    node: &Node,
    axis: usize,
    log: bool,
) -> Result<(), PlanError> {
    let (x, y) = (builder.value(builder.input(node, 0)?), builder.value(node.outputs[0]));
    let mut attributes = SoftmaxAttributes {
        axis: axis as u32,
        log: u32::from(log),
        inverse_output_scale: 0.0,
        reserved: 0,
    };
    let mut inputs = builder.inputs(node)?;
    if is_quantized(x) {
        if log {
            return Err(unsupported(
                node,
                "the logarithm of a softmax has no integer form; keep it float",
            ));
        }
        let (qx, qy) = (quant_of(node, x)?, quant_of(node, y)?);
        let name = format!("{}/table", node.name);
        inputs.push(Some(match x.dtype {
            DType::I16 => builder.constant_i32(&name, &lut::softmax_tables_i16(qx.scale[0]))?,
            _ => builder.constant_i32(&name, &lut::softmax_table(qx.scale[0]))?,
        }));
        attributes.inverse_output_scale = ratio(1.0, qy.scale[0]);
    }
    builder.step(node, StepOp::Softmax, Some(x.dtype), attributes, inputs, 0)
}
