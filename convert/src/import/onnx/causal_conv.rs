//! Causal depthwise convolution along time that carries its last inputs from run to run.

use super::builder::{Builder, Outcome};
use super::compose::Compose;
use super::conv::{check_bias, to_first, to_last};
use super::dims;
use super::failure::invalid;
use super::node::OnnxNode;
use crate::dim::Dim;
use crate::graph::{Clamp, Conv, Op, PadMode, UnaryKind};

pub(super) const OPERATORS: &[(&str, super::Importer)] =
    &[("CausalConvWithState", causal_conv_with_state)];

/// A convolution over the past and the present input; the past is zeros when it isn't given.
fn causal_conv_with_state(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(4)?;
    let (x, w) = (node.required(0, "input")?, node.required(1, "weight")?);
    let shape = b.shape(x);
    let weights = b.graph.value(w).const_shape();
    let Some([channels, 1, k]) = weights.as_deref().and_then(|s| <[usize; 3]>::try_from(s).ok())
    else {
        return Err(invalid("the weights are not [channels, 1, k] of constant size"));
    };
    let expected = Dim::from(channels);
    if shape.len() != 3 || !dims::same(&shape[1], &expected, &b.graph.symbols) || k == 0 {
        return Err(invalid("the input is not [batch, channels, length]"));
    }
    let activation = node.attributes.string("activation", "none")?;
    let bias = node.input(2);
    check_bias(b, bias, x, channels)?;
    let c = &mut Compose::new(b, node);
    let dtype = c.dtype(x);
    let mut whole = shape.clone();
    whole[2] = shape[2].add(&Dim::from(k - 1));
    let padded = match node.input(3) {
        Some(past) => {
            let mut state = shape.clone();
            state[2] = Dim::from(k - 1);
            if !c.same_shape(&c.shape(past), &state) || c.dtype(past) != dtype {
                return Err(invalid("past_state is not [batch, channels, k - 1]"));
            }
            c.concat(&[past, x], 2)?
        }
        None => {
            let mode = PadMode::Constant(0.0);
            let op = Op::Pad { before: vec![0, 0, k - 1], after: vec![0; 3], mode };
            c.emit("pad", op, &[x], dtype, whole)?
        }
    };
    let mut op = Conv {
        kernel: vec![k],
        stride: vec![1],
        dilation: vec![1],
        pad_before: vec![0],
        pad_after: vec![0],
        groups: channels,
        clamp: Clamp::NONE,
        inner_quant: None,
    };
    // Zeros need no place of their own.
    let source = match node.input(3) {
        Some(_) => padded,
        None => {
            op.pad_before = vec![k - 1];
            x
        }
    };
    let mut inputs = vec![c.transpose(source, &to_last(3))?, c.transpose(w, &to_last(3))?];
    inputs.extend(bias);
    let last = to_last(3).iter().map(|axis| shape[*axis].clone()).collect();
    let mut y = c.main().emit("conv", Op::Conv(op), &inputs, dtype, last)?;
    match activation {
        "none" => {}
        "silu" | "swish" => y = c.unary(UnaryKind::Silu, y)?,
        other => return Err(invalid(format!("activation `{other}` is not defined"))),
    }
    let y = c.transpose(y, &to_first(3))?;
    Ok(vec![y, c.part_of(padded, 2, &shape[2], &Dim::from(k - 1))?])
}
