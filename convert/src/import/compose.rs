//! Arithmetic on values, so that an operator made of others is imported by a function that reads like
//! its formula.
//!
//! Each method adds one node, or what it comes to when its operands are known, and names it after
//! the node of the model and what it does. Shapes follow from the operands; what doesn't fit is an error of
//! the model.

use whit::DType;

use super::builder::{Builder, Named};
use super::dims;
use super::failure::{Failure, invalid};
use crate::dim::Dim;
use crate::graph::{BinaryKind, Clamp, CompareKind, MatMul, Op, PadMode, ReduceKind, UnaryKind};
use crate::graph::{Graph, ValueId};
use crate::tensor::Tensor;

/// A value, or why there is none.
pub(crate) type Made = Result<ValueId, Failure>;

/// Composes what one node of the model becomes.
pub(crate) struct Compose<'c, 'n> {
    pub(crate) b: &'c mut Builder,
    pub(crate) node: &'c (dyn Named + 'n),
    parts: usize,
    /// The next node bears the node of the model's own name.
    is_main: bool,
}

impl<'c, 'n> Compose<'c, 'n> {
    pub(crate) fn new(b: &'c mut Builder, node: &'c (dyn Named + 'n)) -> Compose<'c, 'n> {
        Compose { b, node, parts: 0, is_main: false }
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

    pub(crate) fn same_shape(&self, a: &[Dim], b: &[Dim]) -> bool {
        dims::same_shape(a, b, &self.b.graph.symbols)
    }

    pub(crate) fn same(&self, a: &Dim, b: &Dim) -> bool {
        dims::same(a, b, &self.b.graph.symbols)
    }

    /// Gives the next node the name of the node of the model, by which options find it: the one that does the
    /// bulk of the work, or the last one.
    pub(crate) fn main(&mut self) -> &mut Self {
        self.is_main = true;
        self
    }

    /// What tells the next node apart: nothing for the main one, else what it does and a number.
    fn part(&mut self, what: &str) -> String {
        if std::mem::take(&mut self.is_main) {
            return String::new();
        }
        self.parts += 1;
        format!("{what}_{}", self.parts)
    }

    /// Any other operator.
    pub(crate) fn emit(
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
        self.b.scalar(format!("{}/{part}", self.node.name()), dtype, value)
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
        let name = format!("{}/{what}", self.node.name());
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
        let name = format!("{}/{what}", self.node.name());
        Ok(self.b.constant(name, Tensor::from_f32(shape, &values)))
    }

    /// The number of elements of a constant that the import can afford.
    fn charged(&mut self, shape: &[usize], size: usize) -> Result<usize, Failure> {
        let count = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).unwrap_or(usize::MAX);
        self.b.charge(count.saturating_mul(size))?;
        Ok(count)
    }

    /// See [`Builder::range`].
    pub(crate) fn range(&mut self, len: &Dim) -> Made {
        let part = self.part("range");
        self.b.range(self.node, &part, len)
    }

    /// See [`Builder::largest`].
    pub(crate) fn largest(&self, size: &Dim) -> Result<usize, Failure> {
        self.b.largest(size)
    }

    // Elementwise.

    pub(crate) fn binary(&mut self, kind: BinaryKind, x: ValueId, y: ValueId) -> Made {
        let part = self.part(&lower(kind));
        self.b.binary(self.node, &part, kind, x, y)
    }

    /// An operand and a number of its type.
    pub(crate) fn with_number(&mut self, kind: BinaryKind, x: ValueId, number: f64) -> Made {
        let part = self.part(&lower(kind));
        self.b.with_number(self.node, &part, kind, x, number)
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
        self.with_number(BinaryKind::Mul, x, f64::from(factor))
    }

    pub(crate) fn unary(&mut self, kind: UnaryKind, x: ValueId) -> Made {
        let part = self.part(&lower(kind));
        self.b.unary(self.node, &part, kind, x)
    }

    pub(crate) fn compare(&mut self, kind: CompareKind, x: ValueId, y: ValueId) -> Made {
        let part = self.part(&lower(kind));
        self.b.compare(self.node, &part, kind, x, y)
    }

    /// `x` where the condition holds, else `y`.
    pub(crate) fn select(&mut self, condition: ValueId, x: ValueId, y: ValueId) -> Made {
        let part = self.part("where");
        self.b.select(self.node, &part, [condition, x, y])
    }

    pub(crate) fn cast(&mut self, x: ValueId, to: DType) -> Made {
        let part = self.part("cast");
        self.b.cast(self.node, &part, x, to)
    }

    /// See [`Builder::real`].
    pub(crate) fn real(&mut self, x: ValueId) -> Made {
        let part = self.part("cast");
        self.b.real(self.node, &part, x)
    }

    // Sums and products.

    /// `x · y` over the last two axes, with the leading ones broadcast.
    pub(crate) fn matmul(&mut self, x: ValueId, y: ValueId) -> Made {
        self.plain_product(x, y, false)
    }

    /// `x · yᵀ` over the last two axes.
    pub(crate) fn matmul_transposed(&mut self, x: ValueId, y: ValueId) -> Made {
        self.plain_product(x, y, true)
    }

    fn plain_product(&mut self, x: ValueId, y: ValueId, transpose_b: bool) -> Made {
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
        self.emit("matmul", product(false, transpose_b), &[x, y], self.dtype(x), shape)
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
        let part = self.part(&format!("reduce_{}", lower(kind)));
        self.b.reduce(self.node, &part, kind, x, axes, keep_dims)
    }

    /// Running sums along an axis, each with the element at its own place.
    pub(crate) fn cumulative_sum(&mut self, x: ValueId, axis: usize) -> Made {
        let op = Op::Cumulative { axis, product: false, exclusive: false, reverse: false };
        let shape = self.shape(x);
        self.emit("cumulative", op, &[x], self.dtype(x), shape)
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

    /// A vector of one number per channel as an operand that broadcasts along axis 1.
    pub(crate) fn per_channel(&mut self, vector: ValueId, rank: usize) -> Made {
        let mut shape = self.shape(vector);
        shape.extend((2..rank).map(|_| Dim::from(1i64)));
        self.reshape(vector, shape)
    }

    /// Broadcast to a shape.
    pub(crate) fn expand(&mut self, x: ValueId, shape: Vec<Dim>) -> Made {
        let from = self.shape(x);
        if from == shape {
            return Ok(x);
        }
        let common = dims::broadcast(&from, &shape, &self.b.graph.symbols)?;
        if !self.same_shape(&common, &shape) {
            return Err(invalid(format!("{} doesn't broadcast", self.b.text(&from))));
        }
        self.emit("expand", Op::Expand, &[x], self.dtype(x), shape)
    }

    /// `len` elements of an axis, from `start` on; the caller vouches that they are there.
    pub(crate) fn part_of(&mut self, x: ValueId, axis: usize, start: &Dim, len: &Dim) -> Made {
        let part = self.part("slice");
        self.b.slice(self.node, &part, x, axis, start, len)
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

/// The operator without anything fused into it.
pub(crate) fn product(transpose_a: bool, transpose_b: bool) -> Op {
    Op::MatMul(MatMul { transpose_a, transpose_b, clamp: Clamp::NONE, inner_quant: None })
}

fn lower(kind: impl std::fmt::Debug) -> String {
    let text = format!("{kind:?}");
    text.split([' ', '(', '{']).next().unwrap_or_default().to_ascii_lowercase()
}
