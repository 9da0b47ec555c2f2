//! Convolution, and the sliding window that pooling shares.

use super::builder::{Builder, Outcome};
use super::dims;
use super::failure::{FIX_THE_DIM, Failure, invalid, unsupported};
use super::node::OnnxNode;
use crate::dim::Dim;
use crate::graph::{Clamp, Conv, Op, ValueId};

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[("Conv", conv)];

/// Keeps window arithmetic far from overflow.
pub(super) const MAX_WINDOW: i64 = 1 << 30;

/// A window that slides over the spatial axes.
pub(super) struct Window {
    pub kernel: Vec<usize>,
    pub stride: Vec<usize>,
    pub dilation: Vec<usize>,
    pub pad_before: Vec<usize>,
    pub pad_after: Vec<usize>,
    /// Sizes of the result's spatial axes.
    pub output: Vec<Dim>,
}

/// Reads `strides`, `dilations`, `pads` and `auto_pad`, and works out where the window goes.
pub(super) fn window(
    b: &Builder,
    node: &OnnxNode<'_>,
    kernel: &[i64],
    spatial: &[Dim],
    ceil_mode: bool,
) -> Result<Window, Failure> {
    let rank = spatial.len();
    if kernel.len() != rank {
        return Err(invalid(format!("kernel_shape {kernel:?} for {rank} spatial axes")));
    }
    if kernel.iter().any(|size| !(1..=MAX_WINDOW).contains(size)) {
        return Err(invalid(format!("kernel_shape {kernel:?} out of range")));
    }
    let a = &node.attributes;
    let stride = a.ints_within("strides", rank, 1, 1..=MAX_WINDOW)?;
    let dilation = a.ints_within("dilations", rank, 1, 1..=MAX_WINDOW)?;
    let pads = a.ints_within("pads", 2 * rank, 0, i64::MIN..=i64::MAX)?;
    if pads.iter().any(|p| *p < 0 || *p > MAX_WINDOW) {
        return Err(unsupported(
            format!("pads {pads:?}: negative or huge padding"),
            "crop with a Slice instead",
        ));
    }
    let auto_pad = node.attributes.string("auto_pad", "NOTSET")?;

    let symbols = &b.graph.symbols;
    let mut window = Window {
        kernel: Vec::new(),
        stride: Vec::new(),
        dilation: Vec::new(),
        pad_before: Vec::new(),
        pad_after: Vec::new(),
        output: Vec::new(),
    };
    for axis in 0..rank {
        let (size, step) = (&spatial[axis], stride[axis]);
        // At most 2^60 + 1.
        let extent = (kernel[axis] - 1) * dilation[axis] + 1;
        let (before, after) = match auto_pad {
            "NOTSET" => (pads[axis], pads[rank + axis]),
            "VALID" => (0, 0),
            "SAME_UPPER" | "SAME_LOWER" => {
                let output = dims::ceil_div_by(size, step);
                let last = output.sub(&Dim::from(1i64)).mul(&Dim::from(step));
                let total = last.add(&Dim::from(extent)).sub(size);
                let total = match dims::bounds(&total, symbols) {
                    Some((low, high)) if low == high || high <= 0 => low.max(0),
                    _ => {
                        return Err(unsupported(
                            format!(
                                "auto_pad {auto_pad} over the dynamic size {}",
                                size.display(symbols)
                            ),
                            FIX_THE_DIM,
                        ));
                    }
                };
                let half = total / 2;
                if auto_pad == "SAME_UPPER" { (half, total - half) } else { (total - half, half) }
            }
            other => return Err(invalid(format!("auto_pad `{other}` is not defined"))),
        };
        let given = (pads[axis], pads[rank + axis]);
        if auto_pad != "NOTSET" && given != (0, 0) && given != (before, after) {
            return Err(invalid(format!("auto_pad {auto_pad} contradicts pads {pads:?}")));
        }

        let span = size.add(&Dim::from(before + after)).sub(&Dim::from(extent));
        let fits = dims::bounds(&span, symbols).is_none_or(|(low, _)| low >= 0);
        if !fits && size.as_const().is_some() {
            return Err(invalid(format!(
                "a window of {extent} doesn't fit into axis {axis} of size {size:?} with padding {before} + {after}"
            )));
        }
        if !fits {
            return Err(unsupported(
                format!("a window of {extent} doesn't fit when {} is small", size.display(symbols)),
                "raise the lower bound with --dim NAME=MIN..MAX",
            ));
        }
        let one = Dim::from(1i64);
        let floor = dims::floor_div_by(&span, step).add(&one);
        window.output.push(match ceil_mode {
            false => floor,
            true => {
                if auto_pad == "VALID"
                    && !dims::same(&dims::ceil_div_by(&span, step).add(&one), &floor, symbols)
                {
                    return Err(unsupported(
                        "ceil_mode with auto_pad VALID is defined in two ways",
                        "state the padding in pads",
                    ));
                }
                let ceil = dims::ceil_div_by(&span, step).add(&one);
                // No window starts in the padding behind.
                let starts = dims::ceil_div_by(&size.add(&Dim::from(before)), step);
                dims::min(&ceil, &starts, symbols)
            }
        });
        // All are at least 0 and at most 2^61.
        window.kernel.push(kernel[axis] as usize);
        window.stride.push(step as usize);
        window.dilation.push(dilation[axis] as usize);
        window.pad_before.push(before as usize);
        window.pad_after.push(after as usize);
    }
    Ok(window)
}

/// The permutation from channels first to channels last.
pub(super) fn to_last(rank: usize) -> Vec<usize> {
    let mut perm = vec![0];
    perm.extend(2..rank);
    perm.push(1);
    perm
}

/// The permutation from channels last to channels first.
pub(super) fn to_first(rank: usize) -> Vec<usize> {
    let mut perm = vec![0, rank - 1];
    perm.extend(1..rank - 1);
    perm
}

/// Emits `op` over a channels-last copy of the first input, and takes the result back.
pub(super) fn channels_last(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    op: Op,
    inputs: &[Option<ValueId>],
    output: &[Dim],
) -> Result<ValueId, Failure> {
    let x = inputs[0].ok_or_else(|| invalid("the first input is missing"))?;
    let rank = b.rank(x);
    let mut inputs = inputs.to_vec();
    inputs[0] = Some(b.transpose(node, "to_nhwc", x, &to_last(rank))?);
    let last = to_last(rank).iter().map(|axis| output[*axis].clone()).collect();
    let y = b.emit(node, "", op, &inputs, b.dtype(x), last)?;
    b.transpose(node, "to_nchw", y, &to_first(rank))
}

/// Channels-first input of rank 3 to 5: batch, channels and the spatial sizes.
pub(super) fn spatial(b: &Builder, x: ValueId) -> Result<(Dim, Dim, Vec<Dim>), Failure> {
    let shape = b.shape(x);
    match shape.len() {
        3..=5 => Ok((shape[0].clone(), shape[1].clone(), shape[2..].to_vec())),
        6.. => Err(unsupported(
            format!("{} spatial axes; at most three are supported", shape.len() - 2),
            "",
        )),
        rank => Err(invalid(format!("the input has {rank} axes instead of N, C and spatial ones"))),
    }
}

/// What the weights `[first, second, kernel…]` of a convolution say, checked against its input.
pub(super) struct Filters {
    pub shape: Vec<usize>,
    pub kernel: Vec<i64>,
    pub groups: usize,
}

/// Reads `group` and `kernel_shape`. `transposed`: the first axis of the weights is the input's
/// channels, else the second one, times the groups.
pub(super) fn filters(
    b: &Builder,
    node: &OnnxNode<'_>,
    x: ValueId,
    w: ValueId,
    transposed: bool,
) -> Result<Filters, Failure> {
    if !b.dtype(x).is_float() || b.dtype(x) != b.dtype(w) {
        return Err(invalid("X and W are not of one floating-point type"));
    }
    let Some(shape) = b.graph.value(w).const_shape() else {
        return Err(unsupported("the shape of its weights isn't constant", FIX_THE_DIM));
    };
    if shape.len() != b.rank(x) {
        return Err(invalid("weights and input differ in rank"));
    }
    let groups = usize::try_from(node.attributes.int("group", 1)?).ok().filter(|g| *g >= 1);
    let groups = groups.ok_or_else(|| invalid("group is not positive"))?;
    let expected = if transposed { Some(shape[0]) } else { shape[1].checked_mul(groups) };
    let channels = b.shape(x)[1].clone();
    let fits = |expected| dims::same(&Dim::from(expected), &channels, &b.graph.symbols);
    if !expected.is_some_and(fits) {
        return Err(invalid(format!(
            "{} channels, but {groups} groups and weights {}",
            b.text(&[channels]),
            b.text(&b.shape(w))
        )));
    }
    if shape.contains(&0) || shape[0] % groups != 0 {
        let what = if transposed { "input" } else { "output" };
        return Err(invalid(format!("{} {what} channels in {groups} groups", shape[0])));
    }
    let kernel: Vec<i64> =
        shape[2..].iter().map(|k| i64::try_from(*k).unwrap_or(i64::MAX)).collect();
    if let Some(stated) = node.attributes.ints("kernel_shape")?
        && stated != kernel
    {
        return Err(invalid(format!("kernel_shape {stated:?}, but the weights have {kernel:?}")));
    }
    Ok(Filters { shape, kernel, groups })
}

/// Refuses a bias that isn't one number of x's type per output channel.
pub(super) fn check_bias(
    b: &Builder,
    bias: Option<ValueId>,
    x: ValueId,
    channels: usize,
) -> Result<(), Failure> {
    let fits = |bias| b.shape(bias) == [Dim::from(channels)] && b.dtype(bias) == b.dtype(x);
    match bias.is_none_or(fits) {
        true => Ok(()),
        false => Err(invalid("the bias is not one number per output channel")),
    }
}

fn conv(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(3)?;
    let (x, w) = (node.required(0, "X")?, node.required(1, "W")?);
    let bias = node.input(2);
    let (batch, _, sizes) = spatial(b, x)?;
    let Filters { shape, kernel, groups } = filters(b, node, x, w, false)?;
    let window = window(b, node, &kernel, &sizes, false)?;

    check_bias(b, bias, x, shape[0])?;
    // OIHW to OHWI.
    let w = b.transpose(node, "weights", w, &to_last(shape.len()))?;
    let mut output = vec![batch, Dim::from(shape[0])];
    output.extend(window.output);
    let op = Op::Conv(Conv {
        kernel: window.kernel,
        stride: window.stride,
        dilation: window.dilation,
        pad_before: window.pad_before,
        pad_after: window.pad_after,
        groups,
        clamp: Clamp::NONE,
        inner_quant: None,
    });
    let mut inputs = vec![Some(x), Some(w)];
    inputs.extend(bias.map(Some));
    Ok(vec![channels_last(b, node, op, &inputs, &output)?])
}
