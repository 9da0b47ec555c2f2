//! A small graph builder: every method adds a node and returns its result.

use whit::DType;

use crate::dim::{Dim, Symbol};
use crate::graph::*;
use crate::tensor::Tensor;

/// A graph in the making.
#[derive(Default)]
pub(crate) struct Build {
    pub(crate) graph: Graph,
    seed: u64,
}

impl Build {
    /// Pseudo-random numbers in −1..1 (the constants of Knuth's MMIX generator).
    pub(crate) fn numbers(&mut self, len: usize) -> Vec<f32> {
        let mut next = || {
            self.seed =
                self.seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((self.seed >> 40) as f32) / (1u32 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    /// The symbol `batch`, as a dimension.
    pub(crate) fn batch(&mut self) -> Dim {
        self.graph.symbols.push(Symbol { name: "batch".into(), min: 1, max: 8 });
        Dim::symbol(self.graph.symbols.len() as u32 - 1)
    }

    pub(crate) fn input(&mut self, shape: &[usize]) -> ValueId {
        let shape = shape.iter().map(|d| Dim::from(*d)).collect();
        self.input_dims(shape)
    }

    pub(crate) fn input_dims(&mut self, shape: Vec<Dim>) -> ValueId {
        let id = self.graph.add_value("x", DType::F32, shape);
        self.graph.inputs.push(id);
        id
    }

    /// A random constant.
    pub(crate) fn random(&mut self, shape: &[usize]) -> ValueId {
        let values = self.numbers(shape.iter().product());
        self.graph.add_constant("c", Tensor::from_f32(shape, &values))
    }

    pub(crate) fn constant(&mut self, shape: &[usize], values: &[f32]) -> ValueId {
        self.graph.add_constant("c", Tensor::from_f32(shape, values))
    }

    pub(crate) fn scalar(&mut self, value: f32) -> ValueId {
        self.constant(&[], &[value])
    }

    /// A node with a result of this shape and type f32.
    pub(crate) fn node(&mut self, op: Op, inputs: &[ValueId], shape: Vec<Dim>) -> ValueId {
        let name = format!("n{}", self.graph.nodes.len());
        let y = self.graph.add_value(name.clone(), DType::F32, shape);
        let inputs = inputs.iter().map(|id| Some(*id)).collect();
        self.graph.nodes.push(Node { name, op, inputs, outputs: vec![y] });
        y
    }

    pub(crate) fn shape(&self, id: ValueId) -> Vec<Dim> {
        self.graph.value(id).shape.clone()
    }

    pub(crate) fn unary(&mut self, kind: UnaryKind, x: ValueId) -> ValueId {
        let shape = self.shape(x);
        self.node(Op::Unary(kind), &[x], shape)
    }

    pub(crate) fn binary(&mut self, kind: BinaryKind, a: ValueId, b: ValueId) -> ValueId {
        let shape = super::super::check::broadcast(&self.shape(a), &self.shape(b)).expect("fits");
        self.node(Op::Binary(kind), &[a, b], shape)
    }

    pub(crate) fn transpose(&mut self, x: ValueId, perm: &[usize]) -> ValueId {
        let shape = self.shape(x);
        let shape = perm.iter().map(|p| shape[*p].clone()).collect();
        self.node(Op::Transpose { perm: perm.to_vec() }, &[x], shape)
    }

    pub(crate) fn reshape(&mut self, x: ValueId, shape: Vec<Dim>) -> ValueId {
        self.node(Op::Reshape, &[x], shape)
    }

    /// A convolution over NHWC with a bias.
    pub(crate) fn conv(&mut self, x: ValueId, out: usize, kernel: usize, pad: usize) -> ValueId {
        let weights = {
            let channels = self.channels(x);
            self.random(&[out, kernel, kernel, channels])
        };
        let bias = self.random(&[out]);
        self.conv_with(x, &[weights, bias], out, kernel, pad)
    }

    pub(crate) fn conv_with(
        &mut self,
        x: ValueId,
        weights: &[ValueId],
        out: usize,
        kernel: usize,
        pad: usize,
    ) -> ValueId {
        let conv = Conv {
            kernel: vec![kernel; 2],
            stride: vec![1; 2],
            dilation: vec![1; 2],
            pad_before: vec![pad; 2],
            pad_after: vec![pad; 2],
            groups: 1,
            clamp: Clamp::NONE,
            inner_quant: None,
        };
        let mut shape = self.shape(x);
        let grown = Dim::from(2 * pad as i64 + 1 - kernel as i64);
        shape[1] = shape[1].add(&grown);
        shape[2] = shape[2].add(&grown);
        shape[3] = Dim::from(out);
        self.node(Op::Conv(conv), &[&[x], weights].concat(), shape)
    }

    /// A convolution over NCHW as importers write it: transposes around.
    pub(crate) fn conv_nchw(
        &mut self,
        x: ValueId,
        out: usize,
        kernel: usize,
        pad: usize,
    ) -> ValueId {
        let x = self.transpose(x, &[0, 2, 3, 1]);
        let y = self.conv(x, out, kernel, pad);
        self.transpose(y, &[0, 3, 1, 2])
    }

    /// Size of the last axis.
    pub(crate) fn channels(&self, x: ValueId) -> usize {
        self.graph.value(x).shape.last().and_then(Dim::as_const).expect("constant") as usize
    }

    pub(crate) fn matmul(&mut self, a: ValueId, b: ValueId) -> ValueId {
        let mut shape = self.shape(a);
        shape.pop();
        shape.extend(self.shape(b).pop());
        let op = MatMul {
            transpose_a: false,
            transpose_b: false,
            clamp: Clamp::NONE,
            inner_quant: None,
        };
        self.node(Op::MatMul(op), &[a, b], shape)
    }

    /// A fully connected layer with random weights.
    pub(crate) fn dense(&mut self, x: ValueId, out: usize) -> ValueId {
        let channels = self.channels(x);
        let weights = self.random(&[channels, out]);
        self.matmul(x, weights)
    }

    pub(crate) fn batch_norm(&mut self, x: ValueId) -> ValueId {
        let c = self.channels(x);
        let scale: Vec<f32> = self.numbers(c).iter().map(|v| 1.0 + v / 2.0).collect();
        let scale = self.constant(&[c], &scale);
        let (bias, mean) = (self.random(&[c]), self.random(&[c]));
        let var: Vec<f32> = self.numbers(c).iter().map(|v| v.abs() + 0.1).collect();
        let var = self.constant(&[c], &var);
        let shape = self.shape(x);
        self.node(Op::BatchNorm { epsilon: 1e-5 }, &[x, scale, bias, mean, var], shape)
    }

    pub(crate) fn softmax(&mut self, x: ValueId, axis: usize) -> ValueId {
        let shape = self.shape(x);
        self.node(Op::Softmax { axis, log: false }, &[x], shape)
    }

    /// The trailing axes from `axis` on, normalised, with a random scale and bias where they can be
    /// constants.
    pub(crate) fn normalize(&mut self, x: ValueId, kind: NormKind, axis: usize) -> ValueId {
        let shape = self.shape(x);
        let sizes: Option<Vec<usize>> =
            shape[axis..].iter().map(|d| d.as_const().map(|d| d as usize)).collect();
        let mut inputs = vec![x];
        if let Some(sizes) = sizes {
            inputs.extend([self.random(&sizes), self.random(&sizes)]);
        }
        // A large epsilon: rows that are nearly constant would make much of what is rounded.
        self.node(Op::Normalize { kind, axis, epsilon: 0.1 }, &inputs, shape)
    }

    /// Each of `len` results as two neighbours of an axis of `size`, weighted.
    pub(crate) fn interpolate(
        &mut self,
        x: ValueId,
        axis: usize,
        size: usize,
        len: usize,
    ) -> ValueId {
        let taps: Vec<i32> =
            (0..2 * len).map(|i| ((i / 2 * size / len + i % 2).min(size - 1)) as i32).collect();
        let taps = self.graph.add_constant("taps", Tensor::from_i32([len, 2], &taps));
        let weights = self.random(&[len, 2]);
        let mut shape = self.shape(x);
        shape[axis] = Dim::from(len);
        self.node(Op::Interpolate { axis }, &[x, taps, weights], shape)
    }

    /// The first `k` elements along an axis, and their indices.
    pub(crate) fn top_k(&mut self, x: ValueId, axis: usize, k: usize) -> [ValueId; 2] {
        let mut shape = self.shape(x);
        shape[axis] = Dim::from(k);
        let values = self.node(Op::TopK { axis, smallest: false }, &[x], shape.clone());
        let indices = self.graph.add_value("indices", DType::I64, shape);
        self.graph.nodes.last_mut().expect("just made").outputs.push(indices);
        [values, indices]
    }

    /// Scaled dot-product attention of `x` on itself, over its last two axes.
    pub(crate) fn attention(&mut self, x: ValueId, size: usize) -> ValueId {
        let rank = self.shape(x).len();
        // Small scores: a softmax of large ones is a choice, which rounding may change.
        let x = self.unary(UnaryKind::Tanh, x);
        let (q, k, v) = (self.dense(x, size), self.dense(x, size), self.dense(x, size));
        let mut columns: Vec<usize> = (0..rank).collect();
        columns.swap(rank - 2, rank - 1);
        let k = self.transpose(k, &columns);
        let scores = self.matmul(q, k);
        let scale = self.scalar(1.0 / (size as f32).sqrt());
        let scores = self.binary(BinaryKind::Mul, scores, scale);
        let weights = self.softmax(scores, rank - 1);
        self.matmul(weights, v)
    }

    pub(crate) fn concat(&mut self, parts: &[ValueId], axis: usize) -> ValueId {
        let mut shape = self.shape(parts[0]);
        for part in &parts[1..] {
            shape[axis] = shape[axis].add(&self.shape(*part)[axis]);
        }
        self.node(Op::Concat { axis }, parts, shape)
    }

    pub(crate) fn mean(&mut self, x: ValueId, axes: &[usize], keep_dims: bool) -> ValueId {
        let shape = super::super::check::reduced(&self.shape(x), axes, keep_dims);
        let axes = axes.to_vec();
        self.node(Op::Reduce { kind: ReduceKind::Mean, axes, keep_dims }, &[x], shape)
    }

    pub(crate) fn pad(&mut self, x: ValueId, before: &[usize], after: &[usize]) -> ValueId {
        let grow = |i: usize, d: &Dim| d.add(&Dim::from(before[i])).add(&Dim::from(after[i]));
        let shape = self.shape(x).iter().enumerate().map(|(i, d)| grow(i, d)).collect();
        let (before, after) = (before.to_vec(), after.to_vec());
        self.node(Op::Pad { before, after, mode: PadMode::Constant(0.5) }, &[x], shape)
    }

    /// From `start`, as many as `size`, with this step along one axis.
    pub(crate) fn slice(
        &mut self,
        x: ValueId,
        axis: usize,
        start: i64,
        step: i64,
        size: usize,
    ) -> ValueId {
        let mut shape = self.shape(x);
        let mut starts = vec![Dim::default(); shape.len()];
        let mut steps = vec![1; shape.len()];
        (starts[axis], steps[axis], shape[axis]) = (Dim::from(start), step, Dim::from(size));
        self.node(Op::Slice { starts, steps }, &[x], shape)
    }

    pub(crate) fn max_pool(&mut self, x: ValueId) -> ValueId {
        let mut shape = self.shape(x);
        for axis in [1, 2] {
            shape[axis] = shape[axis].floor_div(&Dim::from(2usize)).expect("not zero");
        }
        let pool = Pool {
            kind: PoolKind::Max,
            column_major: false,
            kernel: vec![2; 2],
            stride: vec![2; 2],
            dilation: vec![1; 2],
            pad_before: vec![0; 2],
            pad_after: vec![0; 2],
            count_include_pad: false,
        };
        self.node(Op::Pool(pool), &[x], shape)
    }

    pub(crate) fn quantize(&mut self, x: ValueId, scale: f32, zero_point: i32) -> ValueId {
        let shape = self.shape(x);
        let y = self.node(Op::Quantize, &[x], shape);
        let value = self.graph.value_mut(y);
        value.dtype = DType::I8;
        value.quant = Some(Quant::per_tensor(scale, zero_point));
        y
    }

    pub(crate) fn dequantize(&mut self, x: ValueId) -> ValueId {
        let shape = self.shape(x);
        self.node(Op::Dequantize, &[x], shape)
    }

    /// A quantize and dequantize pair.
    pub(crate) fn qdq(&mut self, x: ValueId) -> ValueId {
        let y = self.quantize(x, 1.0 / 32.0, 3);
        self.dequantize(y)
    }

    /// Dequantized random i8 weights, one scale per index of `axis`.
    pub(crate) fn weights_i8(&mut self, shape: &[usize], axis: usize) -> ValueId {
        let values = self.numbers(shape.iter().product());
        let values: Vec<i8> = values.iter().map(|v| (v * 127.0) as i8).collect();
        let scales = self.numbers(shape[axis]).iter().map(|v| v.abs() / 64.0 + 0.001).collect();
        let id = self.graph.add_constant("w", Tensor::from_i8(shape, &values));
        self.graph.value_mut(id).quant = Some(Quant::per_channel(scales, axis));
        self.dequantize(id)
    }

    /// The graph with these outputs, named.
    pub(crate) fn finish(&mut self, outputs: &[ValueId]) -> Graph {
        self.graph.outputs = outputs.to_vec();
        for id in outputs {
            self.graph.value_mut(*id).name = format!("out{}", id.0);
        }
        super::super::check(&self.graph).expect("a test builds a valid graph");
        std::mem::take(&mut self.graph)
    }
}
