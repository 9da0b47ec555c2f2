//! Signal processing: Fourier transforms as products with constant bases, windows, mel filters.
//!
//! Angles are `2π r / N` with a whole r below N, so that bases are as exact as f64 makes them.

use std::f64::consts::PI;

use whit::DType;

use super::builder::{Builder, Outcome};
use super::compose::{Compose, Made};
use super::data::axis_of;
use super::dims;
use super::failure::{FIX_THE_DIM, Failure, invalid, unsupported};
use super::node::OnnxNode;
use super::shapes::Elem;
use super::tensor::dtype_of;
use crate::dim::Dim;
use crate::graph::{Clamp, Conv, Op};
use crate::tensor::Tensor;

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("DFT", dft),
    ("STFT", stft),
    ("HannWindow", |b, n| window(b, n, |angle| 0.5 - 0.5 * angle.cos())),
    ("HammingWindow", |b, n| window(b, n, |angle| 25.0 / 46.0 - 21.0 / 46.0 * angle.cos())),
    ("BlackmanWindow", |b, n| {
        window(b, n, |angle| 0.42 - 0.5 * angle.cos() + 0.08 * (2.0 * angle).cos())
    }),
    ("MelWeightMatrix", mel_weight_matrix),
];

/// Lengths at most: beyond it, a table would outgrow every budget.
const MAX_LENGTH: i64 = 1 << 24;

/// Cosine and sine of `2π k n / length`.
fn turn(k: usize, n: usize, length: usize) -> (f64, f64) {
    // Both are below 2^24.
    let rest = (k as u64 * n as u64 % length as u64) as f64;
    let (sin, cos) = (2.0 * PI * rest / length as f64).sin_cos();
    (cos, sin)
}

fn length_of(value: i64, what: &str) -> Result<usize, Failure> {
    match (1..=MAX_LENGTH).contains(&value) {
        true => Ok(value as usize),
        false => Err(invalid(format!("{what} is {value}"))),
    }
}

/// A size that must be known.
fn known(b: &Builder, dim: &Dim, what: &str) -> Result<usize, Failure> {
    match dim.as_const() {
        Some(size) => length_of(size, what),
        None => {
            let size = dim.display(&b.graph.symbols);
            Err(unsupported(format!("{what} is the dynamic size {size}"), FIX_THE_DIM))
        }
    }
}

/// What a transform does to a signal of `parts` numbers per element: 1 for reals, 2 for complex ones.
struct Transform {
    /// Elements that are read.
    read: usize,
    length: usize,
    parts: usize,
    inverse: bool,
    one_sided: bool,
}

impl Transform {
    /// Elements of the result, and numbers per element.
    fn result(&self) -> (usize, usize) {
        match (self.inverse, self.one_sided) {
            (true, true) => (self.length, 1),
            (false, true) => (self.length / 2 + 1, 2),
            _ => (self.length, 2),
        }
    }

    /// What part `part` of element `n` adds to the real and imaginary part of result `k`.
    fn weight(&self, n: usize, part: usize, k: usize) -> (f64, f64) {
        let (cos, sin) = turn(k, n, self.length);
        let (mut re, mut im) = match (self.inverse, part) {
            (false, 0) => (cos, -sin),
            (false, _) => (sin, cos),
            (true, 0) => (cos, sin),
            (true, _) => (-sin, cos),
        };
        if self.inverse {
            let mut scale = 1.0 / self.length as f64;
            if self.one_sided {
                // The other half is the conjugate of this one.
                let own_conjugate = n == 0 || 2 * n == self.length;
                scale *= if own_conjugate { 1.0 } else { 2.0 };
                re = if own_conjugate && part == 1 { 0.0 } else { re };
            }
            (re, im) = (re * scale, im * scale);
        }
        (re, im)
    }
}

fn dft(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    let x = node.required(0, "input")?;
    let shape = b.shape(x);
    let rank = shape.len();
    if !b.dtype(x).is_float() || rank < 2 {
        return Err(invalid("the input is not a tensor of real or complex numbers"));
    }
    let inverse = node.attributes.flag("inverse", false)?;
    let one_sided = node.attributes.flag("onesided", false)?;
    let axis = match node.opset {
        ..20 => {
            node.at_most(2)?;
            node.attributes.int("axis", 1)?
        }
        _ => {
            node.at_most(3)?;
            node.input(2).map(|id| b.int(id, "the axis")).transpose()?.unwrap_or(-2)
        }
    };
    let axis = axis_of(axis, rank)?;
    if axis == rank - 1 {
        return Err(invalid("the axis is that of real and imaginary parts"));
    }
    let parts = match shape[rank - 1].as_const() {
        Some(1) => 1,
        Some(2) => 2,
        _ => return Err(invalid("the last axis doesn't hold one or two numbers")),
    };
    let size = known(b, &shape[axis], "the signal's length")?;
    let length = match node.input(1) {
        Some(id) => length_of(b.int(id, "dft_length")?, "dft_length")?,
        None if inverse && one_sided => length_of(2 * (size as i64 - 1), "the length")?,
        None => size,
    };
    let needed = if inverse && one_sided { length / 2 + 1 } else { length };
    let read = size.min(needed);
    let transform = Transform { read, length, parts, inverse, one_sided };
    let c = &mut Compose::new(b, node);
    let x = c.part_of(x, axis, &Dim::from(0i64), &Dim::from(read))?;

    // The axis and the parts last, everything else in front.
    let mut perm: Vec<usize> = (0..rank - 1).filter(|at| *at != axis).collect();
    perm.extend([axis, rank - 1]);
    let moved = c.transpose(x, &perm)?;
    let others: Vec<Dim> = perm[..rank - 2].iter().map(|at| shape[*at].clone()).collect();
    let rows = dims::product(&others)?;
    let flat = c.reshape(moved, vec![rows, Dim::from(read * parts)])?;

    let basis = basis(c, &transform)?;
    let (count, out_parts) = transform.result();
    let y = c.main().matmul(flat, basis)?;
    let mut unfolded = others;
    unfolded.extend([Dim::from(count), Dim::from(out_parts)]);
    let y = c.reshape(y, unfolded)?;
    let mut back = vec![0; rank];
    for (to, from) in perm.iter().enumerate() {
        back[*from] = to;
    }
    Ok(vec![c.transpose(y, &back)?])
}

/// `[read * parts, count * parts of the result]`.
fn basis(c: &mut Compose<'_, '_>, transform: &Transform) -> Made {
    let (count, out_parts) = transform.result();
    let (rows, columns) = (transform.read * transform.parts, count * out_parts);
    let total = rows.saturating_mul(columns);
    c.b.charge(total.saturating_mul(8))?;
    let mut values = Vec::with_capacity(total);
    for n in 0..transform.read {
        for part in 0..transform.parts {
            for k in 0..count {
                let (re, im) = transform.weight(n, part, k);
                values.push(re as f32);
                if out_parts == 2 {
                    values.push(im as f32);
                }
            }
        }
    }
    let tensor = Tensor::from_f32([rows, columns], &values);
    Ok(c.b.constant(format!("{}/basis", c.node.name()), tensor))
}

/// Transforms of overlapping frames: a convolution whose stride is the hop and whose filters are the
/// windowed basis.
fn stft(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(4)?;
    let x = node.required(0, "signal")?;
    let shape = b.shape(x);
    if !b.dtype(x).is_float() || !(2..=3).contains(&shape.len()) {
        return Err(invalid("the signal is not [batch, length, 1 or 2]"));
    }
    let parts = match shape.get(2).map(Dim::as_const) {
        None | Some(Some(1)) => 1,
        Some(Some(2)) => 2,
        _ => return Err(invalid("the last axis doesn't hold one or two numbers")),
    };
    let step = length_of(b.int(node.required(1, "frame_step")?, "frame_step")?, "frame_step")?;
    let one_sided = node.attributes.flag("onesided", true)?;
    let of_window = match node.input(2) {
        Some(id) if b.rank(id) == 1 => Some(known(b, &b.shape(id)[0], "the window's length")?),
        Some(_) => return Err(invalid("the window is not a vector")),
        None => None,
    };
    let stated = node.input(3).map(|id| b.int(id, "frame_length")).transpose()?;
    let length = match (stated, of_window) {
        (Some(stated), _) => length_of(stated, "frame_length")?,
        (None, Some(length)) => length,
        (None, None) => known(b, &shape[1], "the signal's length")?,
    };
    if of_window.is_some_and(|own| own != length) {
        return Err(invalid("window and frame differ in length"));
    }
    let transform = Transform { read: length, length, parts, inverse: false, one_sided };
    let symbols = &b.graph.symbols;
    let span = shape[1].sub(&Dim::from(length));
    if dims::bounds(&span, symbols).is_none_or(|(low, _)| low < 0) {
        return Err(invalid(format!("a frame of {length} is longer than the signal may be")));
    }
    let frames = dims::floor_div_by(&span, step as i64).add(&Dim::from(1i64));

    // Filters [count * 2, length, parts], with the window in them when it is known.
    let (count, _) = transform.result();
    let total = count.saturating_mul(2).saturating_mul(length).saturating_mul(parts);
    b.charge(total.saturating_mul(8))?;
    let window = node.input(2);
    let factors = window.and_then(|id| b.floats(id));
    let mut values = vec![0.0f32; total];
    for k in 0..count {
        for n in 0..length {
            let factor = factors.as_ref().map_or(1.0, |window| f64::from(window[n]));
            for part in 0..parts {
                let (re, im) = transform.weight(n, part, k);
                values[((2 * k) * length + n) * parts + part] = (re * factor) as f32;
                values[((2 * k + 1) * length + n) * parts + part] = (im * factor) as f32;
            }
        }
    }
    let tensor = Tensor::from_f32([2 * count, length, parts], &values);
    let c = &mut Compose::new(b, node);
    let mut filters = c.b.constant(format!("{}/basis", node.name), tensor);
    if let (Some(window), None) = (window, factors) {
        let column = vec![Dim::from(length), Dim::from(1i64)];
        let window = c.reshape(window, column)?;
        filters = c.mul(filters, window)?;
    }
    let signal = match shape.len() {
        3 => x,
        rank => c.unsqueeze(x, rank)?,
    };
    let op = Op::Conv(Conv {
        kernel: vec![length],
        stride: vec![step],
        dilation: vec![1],
        pad_before: vec![0],
        pad_after: vec![0],
        groups: 1,
        clamp: Clamp::NONE,
        inner_quant: None,
    });
    let made = vec![shape[0].clone(), frames.clone(), Dim::from(2 * count)];
    let dtype = c.dtype(x);
    let y = c.main().emit("frames", op, &[signal, filters], dtype, made)?;
    let split = vec![shape[0].clone(), frames, Dim::from(count), Dim::from(2i64)];
    Ok(vec![c.reshape(y, split)?])
}

/// The type that attribute `name` states; float32 when it is absent.
fn stated_type(node: &OnnxNode<'_>, name: &str) -> Result<DType, Failure> {
    let onnx = node.attributes.int(name, 1)?;
    i32::try_from(onnx)
        .ok()
        .and_then(dtype_of)
        .filter(|dtype| *dtype != DType::Bool)
        .ok_or_else(|| unsupported(format!("element type #{onnx}"), ""))
}

/// An f32 constant, which the caller has charged to the import, as the type that the model wants.
fn typed(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    shape: &[usize],
    values: &[f32],
    dtype: DType,
) -> Outcome {
    if dtype == DType::F32 {
        return Ok(vec![b.constant(node.name.clone(), Tensor::from_f32(shape, values))]);
    }
    b.charge(values.len().saturating_mul(16))?;
    let elem = |value: &f32| match dtype.is_float() {
        true => Elem::Real(f64::from(*value)),
        false => Elem::Int(Dim::from(*value as i64)),
    };
    let elems: Vec<Elem> = values.iter().map(elem).collect();
    let tensor = super::shapes::to_tensor(dtype, shape.to_vec(), &elems)
        .ok_or_else(|| invalid(format!("a value is out of the range of {dtype}")))?;
    Ok(vec![b.constant(node.name.clone(), tensor)])
}

/// A sum of cosines over `size` elements.
fn window(b: &mut Builder, node: &OnnxNode<'_>, f: fn(f64) -> f64) -> Outcome {
    node.at_most(1)?;
    let size = b.int(node.required(0, "size")?, "the window's length")?;
    let size = length_of(size, "the window's length")?;
    let periodic = node.attributes.flag("periodic", true)?;
    let dtype = stated_type(node, "output_datatype")?;
    b.charge(size * 8)?; // the numbers and the tensor
    let turns = if periodic { size } else { (size - 1).max(1) };
    let values: Vec<f32> =
        (0..size).map(|n| f(2.0 * PI * n as f64 / turns as f64) as f32).collect();
    typed(b, node, &[size], &values, dtype)
}

/// Triangles that overlap by half, evenly spaced on the mel scale.
fn mel_weight_matrix(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(5)?;
    let mut numbers = [0i64; 3];
    for (index, what) in ["num_mel_bins", "dft_length", "sample_rate"].into_iter().enumerate() {
        let value = b.int(node.required(index, what)?, what)?;
        numbers[index] = length_of(value, what)? as i64;
    }
    let [bins, length, rate] = numbers;
    let mut edges = [0.0; 2];
    for (index, what) in ["lower_edge_hertz", "upper_edge_hertz"].into_iter().enumerate() {
        let value = b.float(node.required(index + 3, what)?, what)?;
        edges[index] = 2595.0 * (1.0 + f64::from(value) / 700.0).log10();
    }
    let dtype = stated_type(node, "output_datatype")?;
    let (rows, bins) = (length as usize / 2 + 1, bins as usize);
    let total = rows.saturating_mul(bins);
    b.charge(total.saturating_mul(8).saturating_add(bins * 16))?;
    let step = (edges[1] - edges[0]) / (bins + 2) as f64;
    let mut at = Vec::with_capacity(bins + 2);
    for index in 0..bins + 2 {
        let hertz = 700.0 * (10f64.powf((index as f64 * step + edges[0]) / 2595.0) - 1.0);
        let bin = ((length + 1) as f64 * hertz / rate as f64).floor();
        if !(0.0..rows as f64).contains(&bin) {
            return Err(invalid(format!("an edge at {hertz} Hz is beyond the spectrum")));
        }
        at.push(bin as usize);
    }
    let mut values = vec![0.0f32; total];
    for bin in 0..bins {
        let (low, centre, high) = (at[bin], at[bin + 1], at[bin + 2]);
        if low == centre {
            values[centre * bins + bin] = 1.0;
        }
        for row in low..=centre {
            if centre > low {
                values[row * bins + bin] = (row - low) as f32 / (centre - low) as f32;
            }
        }
        for row in centre..high {
            values[row * bins + bin] = (high - row) as f32 / (high - centre) as f32;
        }
    }
    typed(b, node, &[rows, bins], &values, dtype)
}
