//! Arithmetic on values, so that an operator made of others is imported by a function that reads like
//! its formula.
//!
//! Each method adds one node, or what it comes to when its operands are known, and names it after
//! the ONNX node and what it does. Shapes follow from the operands; what doesn't fit is an error of
//! the model.

use whit::DType;

use super::builder::{Builder, OnnxNode};
use super::dims;
use super::failure::{Failure, invalid, unsupported};
use crate::dim::Dim;
use crate::graph::{BinaryKind, Clamp, CompareKind, MatMul, Op, PadMode, ReduceKind, UnaryKind};
use crate::graph::{Graph, ValueId};
use crate::tensor::Tensor;

/// A value, or why there is none.
pub(crate) type Made = Result<ValueId, Failure>;

/// Composes what one ONNX node becomes.
pub(crate) struct Compose<'c, 'n> {
    pub(crate) b: &'c mut Builder,
    pub(crate) node: &'c OnnxNode<'n>,
    parts: usize,
}

impl<'c, 'n> Compose<'c, 'n> {
    pub(crate) fn new(b: &'c mut Builder, node: &'c OnnxNode<'n>) -> Compose<'c, 'n> {
        Compose { b, node, parts: 0 }
    }

    pub(crate) fn graph(&self) -> &Graph {
        &self.b.graph
    }

    pub(crate) fn dtype(&self, x: ValueId) -> DType {
        self.b.dtype(x)
    }

    pub(crate) fn shape(&self, x: ValueId) -> Vec<Dim> {
        self.b.shape(x)
    }

    pub(crate) fn rank(&self, x: ValueId) -> usize {
        self.b.rank(x)
    }

    pub(crate) fn same(&self, a: &Dim, b: &Dim) -> bool {
        dims::same(a, b, &self.b.graph.symbols)
    }

    /// A number for the name of the next node.
    fn part(&mut self, what: &str) -> String {
        self.parts += 1;
        format!("{what}_{}", self.parts)
    }

    fn emit(
        &mut self,
        what: &str,
        op: Op,
        inputs: &[ValueId],
        dtype: DType,
        shape: Vec<Dim>,
    ) -> Made {
        let part = self.part(what);
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        self.b.emit(self.node, &part, op, &inputs, dtype, shape)
    }

    // Constants.

    /// A number of the given type.
    pub(crate) fn scalar(&mut self, dtype: DType, value: f64) -> Made {
        let part = self.part("number");
        self.b.scalar(format!("{}/{part}", self.node.name), dtype, value)
    }

    /// An i64 constant whose elements follow from their index. It is charged to the import before it is
    /// made: its size is one that the model states.
    pub(crate) fn ints(
        &mut self,
        what: &str,
        shape: &[usize],
        element: impl Fn(usize) -> i64,
    ) -> Made {
        let count = self.charged(shape, DType::I64.size())?;
        let values: Vec<i64> = (0..count).map(element).collect();
        let name = format!("{}/{what}", self.node.name);
        Ok(self.b.constant(name, Tensor::from_i64(shape, &values)))
    }

    /// The same of f32.
    pub(crate) fn reals(
        &mut self,
        what: &str,
        shape: &[usize],
        element: impl Fn(usize) -> f32,
    ) -> Made {
        let count = self.charged(shape, DType::F32.size())?;
        let values: Vec<f32> = (0..count).map(element).collect();
        let name = format!("{}/{what}", self.node.name);
        Ok(self.b.constant(name, Tensor::from_f32(shape, &values)))
    }

    /// The number of elements of a constant that the import can afford.
    fn charged(&mut self, shape: &[usize], size: usize) -> Result<usize, Failure> {
        let count = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).unwrap_or(usize::MAX);
        self.b.charge(count.saturating_mul(size))?;
        Ok(count)
    }

    /// `0, 1, …` as i64, as many as `len`. `len` may be symbolic: then it is the front of a constant of
    /// its largest size.
    pub(crate) fn range(&mut self, len: &Dim) -> Made {
        let most = self.largest(len)?;
        let all = self.ints("range", &[most], |i| i as i64)?;
        self.part_of(all, 0, &Dim::from(0i64), len)
    }

    /// The largest value of a size.
    pub(crate) fn largest(&self, size: &Dim) -> Result<usize, Failure> {
        let bounds = dims::bounds(size, &self.b.graph.symbols);
        bounds.and_then(|(_, most)| usize::try_from(most).ok()).ok_or_else(|| {
            unsupported("a size without an upper bound", super::failure::FIX_THE_DIM)
        })
    }

    // Elementwise.

    pub(crate) fn binary(&mut self, kind: BinaryKind, x: ValueId, y: ValueId) -> Made {
        if self.dtype(x) != self.dtype(y) {
            let (x, y) = (self.dtype(x), self.dtype(y));
            return Err(invalid(format!("operands of types {x} and {y}")));
        }
        let shape = dims::broadcast(&self.shape(x), &self.shape(y), &self.b.graph.symbols)?;
        self.emit(&lower(kind), Op::Binary(kind), &[x, y], self.dtype(x), shape)
    }

    pub(crate) fn add(&mut self, x: ValueId, y: ValueId) -> Made {
        self.binary(BinaryKind::Add, x, y)
    }

    pub(crate) fn sub(&mut self, x: ValueId, y: ValueId) -> Made {
        self.binary(BinaryKind::Sub, x, y)
    }

    pub(crate) fn mul(&mut self, x: ValueId, y: ValueId) -> Made {
        self.binary(BinaryKind::Mul, x, y)
    }

    pub(crate) fn div(&mut self, x: ValueId, y: ValueId) -> Made {
        self.binary(BinaryKind::Div, x, y)
    }

    /// `x * factor`, or `x` itself for a factor of 1.
    pub(crate) fn scaled(&mut self, x: ValueId, factor: f32) -> Made {
        if factor == 1.0 {
            return Ok(x);
        }
        let factor = self.scalar(self.dtype(x), f64::from(factor))?;
        self.mul(x, factor)
    }

    pub(crate) fn unary(&mut self, kind: UnaryKind, x: ValueId) -> Made {
        self.emit(&lower(kind), Op::Unary(kind), &[x], self.dtype(x), self.shape(x))
    }

    pub(crate) fn compare(&mut self, kind: CompareKind, x: ValueId, y: ValueId) -> Made {
        if self.dtype(x) != self.dtype(y) {
            let (x, y) = (self.dtype(x), self.dtype(y));
            return Err(invalid(format!("operands of types {x} and {y}")));
        }
        let shape = dims::broadcast(&self.shape(x), &self.shape(y), &self.b.graph.symbols)?;
        self.emit(&lower(kind), Op::Compare(kind), &[x, y], DType::Bool, shape)
    }

    /// `x` where the condition holds, else `y`.
    pub(crate) fn select(&mut self, condition: ValueId, x: ValueId, y: ValueId) -> Made {
        let symbols = &self.b.graph.symbols;
        let shape = dims::broadcast(&self.shape(x), &self.shape(y), symbols)?;
        let shape = dims::broadcast(&self.shape(condition), &shape, symbols)?;
        self.emit("where", Op::Where, &[condition, x, y], self.dtype(x), shape)
    }

    pub(crate) fn cast(&mut self, x: ValueId, to: DType) -> Made {
        match self.dtype(x) == to {
            true => Ok(x),
            false => self.emit("cast", Op::Cast, &[x], to, self.shape(x)),
        }
    }

    /// A half-precision operand in f32, in which composites are computed.
    pub(crate) fn real(&mut self, x: ValueId) -> Made {
        match self.dtype(x).is_float() {
            true => self.cast(x, DType::F32),
            false => Err(invalid(format!("an operand of type {}", self.dtype(x)))),
        }
    }

    // Sums and products.

    /// `x · y` over the last two axes, with the leading ones broadcast.
    pub(crate) fn matmul(&mut self, x: ValueId, y: ValueId) -> Made {
        self.product(x, y, false)
    }

    /// `x · yᵀ` over the last two axes.
    pub(crate) fn matmul_transposed(&mut self, x: ValueId, y: ValueId) -> Made {
        self.product(x, y, true)
    }

    fn product(&mut self, x: ValueId, y: ValueId, transpose_b: bool) -> Made {
        let (of_x, of_y) = (self.shape(x), self.shape(y));
        if of_x.len() < 2 || of_y.len() < 2 {
            return Err(invalid("a product of vectors"));
        }
        let (outer_x, inner_x) = of_x.split_at(of_x.len() - 2);
        let (outer_y, inner_y) = of_y.split_at(of_y.len() - 2);
        let (k, n) = (usize::from(transpose_b), usize::from(!transpose_b));
        if !self.same(&inner_x[1], &inner_y[k]) {
            return Err(invalid(format!(
                "{} columns meet {} rows",
                self.b.text(&inner_x[1..]),
                self.b.text(std::slice::from_ref(&inner_y[k]))
            )));
        }
        let mut shape = dims::broadcast(outer_x, outer_y, &self.b.graph.symbols)?;
        shape.extend([inner_x[0].clone(), inner_y[n].clone()]);
        let op = MatMul { transpose_a: false, transpose_b, clamp: Clamp::NONE, inner_quant: None };
        self.emit("matmul", Op::MatMul(op), &[x, y], self.dtype(x), shape)
    }

    pub(crate) fn softmax(&mut self, x: ValueId, axis: usize, log: bool) -> Made {
        let shape = self.shape(x);
        self.emit("softmax", Op::Softmax { axis, log }, &[x], self.dtype(x), shape)
    }

    /// Over ascending axes.
    pub(crate) fn reduce(
        &mut self,
        kind: ReduceKind,
        x: ValueId,
        axes: &[usize],
        keep_dims: bool,
    ) -> Made {
        if axes.is_empty() {
            return Ok(x);
        }
        let mut shape = self.shape(x);
        for axis in axes.iter().rev() {
            if keep_dims {
                shape[*axis] = Dim::from(1i64);
            } else {
                shape.remove(*axis);
            }
        }
        let op = Op::Reduce { kind, axes: axes.to_vec(), keep_dims };
        self.emit(&format!("reduce_{}", lower(kind)), op, &[x], self.dtype(x), shape)
    }

    // Movement.

    pub(crate) fn transpose(&mut self, x: ValueId, perm: &[usize]) -> Made {
        if perm.iter().enumerate().all(|(i, p)| i == *p) {
            return Ok(x);
        }
        let part = self.part("transpose");
        self.b.transpose(self.node, &part, x, perm)
    }

    /// The same elements in another shape, which must hold as many.
    pub(crate) fn reshape(&mut self, x: ValueId, shape: Vec<Dim>) -> Made {
        let from = self.shape(x);
        if from == shape {
            return Ok(x);
        }
        if !self.same(&dims::product(&from)?, &dims::product(&shape)?) {
            let (from, to) = (self.b.text(&from), self.b.text(&shape));
            return Err(invalid(format!("{from} doesn't hold as many elements as {to}")));
        }
        let part = self.part("reshape");
        self.b.reshape(self.node, &part, x, shape)
    }

    /// An axis of size 1 put in at `axis`.
    pub(crate) fn unsqueeze(&mut self, x: ValueId, axis: usize) -> Made {
        let mut shape = self.shape(x);
        shape.insert(axis, Dim::from(1i64));
        self.reshape(x, shape)
    }

    /// Broadcast to a shape.
    pub(crate) fn expand(&mut self, x: ValueId, shape: Vec<Dim>) -> Made {
        let from = self.shape(x);
        if from == shape {
            return Ok(x);
        }
        let common = dims::broadcast(&from, &shape, &self.b.graph.symbols)?;
        if !common.iter().zip(&shape).all(|(a, b)| self.same(a, b)) {
            return Err(invalid(format!("{} doesn't broadcast", self.b.text(&from))));
        }
        self.emit("expand", Op::Expand, &[x], self.dtype(x), shape)
    }

    /// `len` elements of an axis, from `start` on; the caller vouches that they are there.
    pub(crate) fn part_of(&mut self, x: ValueId, axis: usize, start: &Dim, len: &Dim) -> Made {
        self.stepped(x, axis, start, len, 1)
    }

    /// The same, taking every `step`th element.
    pub(crate) fn stepped(
        &mut self,
        x: ValueId,
        axis: usize,
        start: &Dim,
        len: &Dim,
        step: i64,
    ) -> Made {
        let mut shape = self.shape(x);
        if start.is(0) && step == 1 && self.same(&shape[axis], len) {
            return Ok(x);
        }
        let mut starts = vec![Dim::from(0i64); shape.len()];
        let mut steps = vec![1; shape.len()];
        (starts[axis], steps[axis], shape[axis]) = (start.clone(), step, len.clone());
        self.emit("slice", Op::Slice { starts, steps }, &[x], self.dtype(x), shape)
    }

    pub(crate) fn concat(&mut self, parts: &[ValueId], axis: usize) -> Made {
        let mut shape = self.shape(parts[0]);
        for part in &parts[1..] {
            let other = self.shape(*part);
            let fits = self.dtype(*part) == self.dtype(parts[0])
                && other.len() == shape.len()
                && (0..shape.len()).all(|i| i == axis || self.same(&shape[i], &other[i]));
            if !fits {
                let (a, b) = (self.b.text(&shape), self.b.text(&other));
                return Err(invalid(format!("{a} and {b} can't be joined along axis {axis}")));
            }
            shape[axis] = dims::sum(&shape[axis], &other[axis])
                .ok_or_else(|| invalid("the size overflows"))?;
        }
        if parts.len() == 1 {
            return Ok(parts[0]);
        }
        self.emit("concat", Op::Concat { axis }, parts, self.dtype(parts[0]), shape)
    }

    /// `x[…, index, …]` along an axis.
    pub(crate) fn gather(&mut self, x: ValueId, indices: ValueId, axis: usize) -> Made {
        if !matches!(self.dtype(indices), DType::I32 | DType::I64) {
            return Err(invalid(format!("indices of type {}", self.dtype(indices))));
        }
        let mut shape = self.shape(x);
        shape.splice(axis..=axis, self.shape(indices));
        self.emit("gather", Op::Gather { axis }, &[x, indices], self.dtype(x), shape)
    }

    /// Elements of this value put behind an axis.
    pub(crate) fn pad_after(&mut self, x: ValueId, axis: usize, count: usize, value: f32) -> Made {
        let mut shape = self.shape(x);
        if count == 0 {
            return Ok(x);
        }
        shape[axis] = shape[axis].add(&Dim::from(count));
        let mut after = vec![0; shape.len()];
        after[axis] = count;
        let op = Op::Pad { before: vec![0; shape.len()], after, mode: PadMode::Constant(value) };
        self.emit("pad", op, &[x], self.dtype(x), shape)
    }
}

fn lower(kind: impl std::fmt::Debug) -> String {
    let text = format!("{kind:?}");
    text.split([' ', '(', '{']).next().unwrap_or_default().to_ascii_lowercase()
}
