//! Deformable convolution: its taps are sampled where offsets say, then multiplied as any columns.
//!
//! Dai et al. 2017 (arXiv:1703.06211), and with a mask Zhu et al. 2018 (arXiv:1811.11168).

use whit::DType;

use super::builder::expect_float;
use super::builder::{Builder, Outcome};
use super::compose::product;
use super::conv::MAX_WINDOW;
use super::dims;
use super::failure::{FIX_THE_DIM, Failure, invalid, unsupported};
use super::node::OnnxNode;
use crate::dim::Dim;
use crate::graph::{BinaryKind, GridSample, Op, SampleMode, SamplePadding, ValueId};
use crate::tensor::Tensor;

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[("DeformConv", deform_conv)];

/// A size that has to be known.
fn fixed(b: &Builder, dim: &Dim) -> Result<i64, Failure> {
    dim.as_const().filter(|size| (1..=1 << 30).contains(size)).ok_or_else(|| {
        let size = dim.display(&b.graph.symbols);
        unsupported(format!("an image or kernel of {size}"), FIX_THE_DIM)
    })
}

fn deform_conv(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(5)?;
    let (x, w) = (node.required(0, "X")?, node.required(1, "W")?);
    let offset = node.required(2, "offset")?;
    let operands = [Some(x), Some(w), Some(offset), node.input(3), node.input(4)];
    let dtype = b.dtype(x);
    for id in operands.into_iter().flatten() {
        expect_float(b, id)?;
        if b.dtype(id) != dtype {
            return Err(invalid(format!("operands of types {dtype} and {}", b.dtype(id))));
        }
    }
    let (of_x, of_w) = (b.shape(x), b.shape(w));
    if of_x.len() != 4 || of_w.len() != 4 {
        return Err(unsupported(format!("{} axes; only images are supported", of_x.len()), ""));
    }
    let batch = of_x[0].clone();
    let [channels, height, width] = [1, 2, 3].map(|axis| fixed(b, &of_x[axis]));
    let (channels, space) = (channels?, [height?, width?]);
    let [outputs, per_group, rows, columns] = [0, 1, 2, 3].map(|axis| fixed(b, &of_w[axis]));
    let (outputs, per_group, kernel) = (outputs?, per_group?, [rows?, columns?]);
    if let Some(stated) = node.attributes.ints("kernel_shape")?
        && stated != kernel
    {
        return Err(invalid(format!("kernel_shape {stated:?} for weights of {kernel:?}")));
    }
    let a = &node.attributes;
    let strides = a.ints_within("strides", 2, 1, 1..=MAX_WINDOW)?;
    let dilations = a.ints_within("dilations", 2, 1, 1..=MAX_WINDOW)?;
    let pads = a.ints_within("pads", 4, 0, 0..=MAX_WINDOW)?;
    let (groups, parts) =
        (node.attributes.int("group", 1)?, node.attributes.int("offset_group", 1)?);
    let divides = |count: i64, into: i64| count >= 1 && into % count == 0;
    let grouped = divides(groups, channels) && divides(groups, outputs) && divides(parts, channels);
    if !grouped || channels / groups != per_group {
        let (x, w) = (b.text(&of_x), b.text(&of_w));
        return Err(invalid(format!(
            "{groups} groups, {parts} of offsets, of {x} with weights {w}"
        )));
    }
    let out: Vec<i64> = (0..2)
        .map(|axis| {
            let padded = space[axis] + pads[axis] + pads[axis + 2];
            (padded - dilations[axis] * (kernel[axis] - 1) - 1).div_euclid(strides[axis]) + 1
        })
        .collect();
    let taps = kernel[0].checked_mul(kernel[1]).filter(|taps| *taps <= 1 << 20);
    let taps = taps.ok_or_else(|| unsupported(format!("a kernel of {kernel:?}"), ""))?;
    let expect = |b: &Builder, id: ValueId, per_tap: i64, what: &str| -> Result<(), Failure> {
        let expected = [parts.saturating_mul(per_tap), out[0], out[1]];
        let shape = b.shape(id);
        let fits = shape.len() == 4
            && dims::same(&shape[0], &batch, &b.graph.symbols)
            && shape[1..].iter().zip(expected).all(|(dim, size)| dim.is(size));
        let text = b.text(&shape);
        if fits { Ok(()) } else { Err(invalid(format!("{what} of shape {text} for {expected:?}"))) }
    };
    expect(b, offset, 2 * taps, "offsets")?;
    if let Some(mask) = node.input(4) {
        expect(b, mask, taps, "a mask")?;
    }
    if out.iter().any(|size| *size < 1) {
        return Err(invalid(format!("the kernel doesn't fit into {space:?}")));
    }

    // From y, x in pixels to x, y between −1 and 1: where every tap lies without offsets, and how far
    // an offset of a pixel reaches.
    let places = taps.checked_mul(out[0]).and_then(|n| n.checked_mul(out[1]));
    let places = places.and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= 1 << 28);
    let places = places.ok_or_else(|| unsupported("a result of that size", ""))?;
    b.charge(places * 8)?;
    let mut base = Vec::with_capacity(places * 2);
    for row in 0..kernel[0] {
        for column in 0..kernel[1] {
            for out_y in 0..out[0] {
                for out_x in 0..out[1] {
                    for (axis, at, tap) in [(1, out_x, column), (0, out_y, row)] {
                        let pixel = at * strides[axis] - pads[axis] + tap * dilations[axis];
                        let place = (2.0 * pixel as f64 + 1.0) / space[axis] as f64 - 1.0;
                        base.push(place as f32);
                    }
                }
            }
        }
    }
    let grid_shape = [taps, out[0], out[1], 2].map(|size| size as usize);
    let base = b.constant(format!("{}/taps", node.name), Tensor::from_f32(grid_shape, &base));
    let reach = [1, 0].map(|axis: usize| (2.0 / space[axis] as f64) as f32);
    let reach = b.constant(format!("{}/reach", node.name), Tensor::from_f32([2], &reach));

    let f32 = DType::F32;
    let sizes = |sizes: &[i64]| sizes.iter().map(|size| Dim::from(*size)).collect::<Vec<Dim>>();
    let images =
        dims::multiply(&batch, &Dim::from(parts)).ok_or_else(|| invalid("the size overflows"))?;
    let after = |first: &Dim, rest: &[i64]| [vec![first.clone()], sizes(rest)].concat();
    let offset = b.cast(node, "offset", offset, f32)?;
    let apart = after(&images, &[taps, 2, out[0], out[1]]);
    let y = b.reshape(node, "offsets", offset, apart.clone())?;
    let mut starts = sizes(&[0; 5]);
    starts[2] = Dim::from(1i64);
    let flip = Op::Slice { starts, steps: vec![1, 1, -1, 1, 1] };
    let y = b.emit(node, "x_first", flip, &[Some(y)], f32, apart)?;
    let y = b.transpose(node, "pairs", y, &[0, 1, 3, 4, 2])?;
    let y = b.binary(node, "scaled", BinaryKind::Mul, y, reach)?;
    let y = b.binary(node, "places", BinaryKind::Add, y, base)?;
    let grid = b.reshape(node, "grid", y, after(&images, &[taps * out[0], out[1], 2]))?;

    let x = b.cast(node, "x", x, f32)?;
    let in_part = channels / parts;
    let x = b.reshape(node, "images", x, after(&images, &[in_part, space[0], space[1]]))?;
    let op = Op::GridSample(GridSample {
        mode: SampleMode::Linear,
        padding: SamplePadding::Zeros,
        align_corners: false,
    });
    let sampled = after(&images, &[in_part, taps * out[0], out[1]]);
    let mut y = b.emit(node, "sampled", op, &[Some(x), Some(grid)], f32, sampled)?;
    if let Some(mask) = node.input(4) {
        let mask = b.cast(node, "mask", mask, f32)?;
        let mask = b.reshape(node, "masks", mask, after(&images, &[1, taps * out[0], out[1]]))?;
        y = b.binary(node, "masked", BinaryKind::Mul, y, mask)?;
    }
    let (inner, pixels) = (per_group * taps, out[0] * out[1]);
    let y = b.reshape(node, "columns", y, after(&batch, &[groups, inner, pixels]))?;
    let w = b.cast(node, "w", w, f32)?;
    let w = b.reshape(node, "weights", w, sizes(&[groups, outputs / groups, inner]))?;
    let shape = after(&batch, &[groups, outputs / groups, pixels]);
    let op = product(false, false);
    let y = b.emit(node, "product", op, &[Some(w), Some(y)], f32, shape)?;
    let shape = after(&batch, &[outputs, out[0], out[1]]);
    let mut y = b.reshape(node, "outputs", y, shape)?;
    if let Some(bias) = node.input(3) {
        if b.rank(bias) != 1 || !b.shape(bias)[0].is(outputs) {
            return Err(invalid(format!("a bias of shape {}", b.text(&b.shape(bias)))));
        }
        let bias = b.cast(node, "bias", bias, f32)?;
        let bias = b.reshape(node, "biases", bias, sizes(&[outputs, 1, 1]))?;
        y = b.binary(node, "", BinaryKind::Add, y, bias)?;
    }
    Ok(vec![b.cast(node, "narrow", y, dtype)?])
}
