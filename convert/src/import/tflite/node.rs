//! An operator of the model as its importer sees it: operands as reals or as the integers behind them,
//! results in the type that the model declares.

use whit::DType;

use super::schema::{self, Operator, Options, Tensor, tensor_type};
use super::tensor;
use crate::dim::Dim;
use crate::graph::{Clamp, Op, Quant, UnaryKind, ValueId};
use crate::import::builder::{Builder, Named};
use crate::import::dims;
use crate::import::failure::{Failure, invalid, unsupported};

/// One operator of the model, with its operands resolved.
pub(super) struct TfliteNode<'a> {
    /// Name of its first result, as operators have none themselves.
    pub name: String,
    /// Values of the model's types: quantized tensors are integers with their scales.
    pub inputs: Vec<Option<ValueId>>,
    /// All tensors of the subgraph.
    pub tensors: &'a [Tensor],
    pub operator: &'a Operator,
    /// The file.
    pub bytes: &'a [u8],
}

impl Named for TfliteNode<'_> {
    fn name(&self) -> &str {
        &self.name
    }
}

impl<'a> TfliteNode<'a> {
    /// Operand `index` as it is in the model.
    pub(super) fn input(&self, index: usize) -> Option<ValueId> {
        self.inputs.get(index).copied().flatten()
    }

    /// The same, which must be there.
    pub(super) fn required(&self, index: usize, what: &str) -> Result<ValueId, Failure> {
        self.input(index).ok_or_else(|| invalid(format!("input #{index} ({what}) is missing")))
    }

    /// The options of the operator.
    pub(super) fn options<T: Options>(&self) -> Result<T, Failure> {
        let options = schema::options(self.bytes, self.operator)
            .map_err(|error| invalid(format!("its options can't be read: {error}")))?;
        options.ok_or_else(|| {
            invalid(format!("it has options of another operator (#{})", self.operator.options_type))
        })
    }

    /// The tensor that the model declares as operand `index`.
    pub(super) fn input_tensor(&self, index: usize) -> Option<&'a Tensor> {
        let tensor = *self.operator.inputs.get(index)?;
        self.tensors.get(usize::try_from(tensor).ok()?)
    }

    /// The tensor that the model declares as result `index`.
    pub(super) fn output_tensor(&self, index: usize) -> Result<&'a Tensor, Failure> {
        let tensor = self.operator.outputs.get(index).and_then(|at| usize::try_from(*at).ok());
        let tensor = tensor.and_then(|at| self.tensors.get(at));
        tensor.ok_or_else(|| invalid(format!("output #{index} is missing")))
    }

    /// Operand `index` in f32: dequantized if it is quantized.
    pub(super) fn real(
        &self,
        b: &mut Builder,
        index: usize,
        what: &str,
    ) -> Result<ValueId, Failure> {
        let x = self.required(index, what)?;
        if b.dtype(x) == DType::I32
            && b.graph.value(x).quant.is_none()
            && let Some(tensor) = self.input_tensor(index)
        {
            // Numbers of 32 bits are mostly indices and sizes; here they stand for reals.
            b.graph.value_mut(x).quant = tensor::quant(tensor)?;
        }
        self.dequantized(b, what, x)
    }

    /// A value in f32.
    pub(super) fn dequantized(
        &self,
        b: &mut Builder,
        part: &str,
        x: ValueId,
    ) -> Result<ValueId, Failure> {
        let dtype = b.dtype(x);
        if dtype == DType::F32 {
            return Ok(x);
        }
        if dtype.is_float() {
            return b.cast(self, &format!("{part}/f32"), x, DType::F32);
        }
        if b.graph.value(x).quant.is_none() {
            return Err(invalid(format!("{part} is {dtype} without a quantization")));
        }
        let shape = b.shape(x);
        b.emit(self, &format!("{part}/dequantize"), Op::Dequantize, &[Some(x)], DType::F32, shape)
    }

    /// Result `index` as the model declares it, from reals.
    pub(super) fn declared(
        &self,
        b: &mut Builder,
        real: ValueId,
        index: usize,
    ) -> Result<ValueId, Failure> {
        let tensor = self.output_tensor(index)?;
        let kind = tensor.kind;
        let shape = b.shape(real);
        // Integers that stand for themselves are the result already.
        if kind == tensor_type::FLOAT32 || !b.dtype(real).is_float() {
            return Ok(real);
        }
        let dtype = tensor::dtype_of(kind)?;
        if dtype.is_float() {
            return b.cast(self, "narrow", real, dtype);
        }
        let Some(quant) = tensor::quant(tensor)? else {
            return Err(invalid(format!(
                "a result of {} without a scale",
                tensor_type::name(kind)
            )));
        };
        self.quantized(b, "quantize", real, dtype, quant, shape)
    }

    /// The scales of operand 0 and of the result, when both are i8 with one scale.
    pub(super) fn both_i8(&self, b: &Builder) -> Result<Option<(ValueId, Quant, Quant)>, Failure> {
        let (Some(x), to) = (self.input(0), self.output_tensor(0)?) else { return Ok(None) };
        let (from, to_quant) = (b.graph.value(x).quant.clone(), tensor::quant(to)?);
        let i8s = b.dtype(x) == DType::I8 && to.kind == tensor_type::INT8;
        Ok(match (from, to_quant) {
            (Some(from), Some(to)) if i8s && from.axis.is_none() && to.axis.is_none() => {
                Some((x, from, to))
            }
            _ => None,
        })
    }

    /// A function of one i8 as a table.
    pub(super) fn lut(
        &self,
        b: &mut Builder,
        x: ValueId,
        quant: Quant,
        table: [i8; 256],
    ) -> Result<ValueId, Failure> {
        let op = Op::Lut { table: Box::new(table) };
        let y = b.emit(self, "", op, &[Some(x)], DType::I8, b.shape(x))?;
        b.graph.value_mut(y).quant = Some(quant);
        Ok(y)
    }

    /// Reals as integers.
    pub(super) fn quantized(
        &self,
        b: &mut Builder,
        part: &str,
        real: ValueId,
        dtype: DType,
        quant: Quant,
        shape: Vec<Dim>,
    ) -> Result<ValueId, Failure> {
        if !matches!(dtype, DType::I8 | DType::U8 | DType::I16) {
            return Err(unsupported(
                format!("quantization to {dtype}"),
                "quantize the model to int8",
            ));
        }
        let id = b.emit(self, part, Op::Quantize, &[Some(real)], dtype, shape)?;
        b.graph.value_mut(id).quant = Some(quant);
        Ok(id)
    }

    /// The same integers with a scale that is `factor` times as large.
    pub(super) fn scaled(
        &self,
        b: &mut Builder,
        part: &str,
        x: ValueId,
        quant: &Quant,
        factor: f32,
    ) -> Result<ValueId, Failure> {
        let scale: Vec<f32> = quant.scale.iter().map(|scale| scale * factor).collect();
        if scale.iter().any(|scale| !scale.is_finite() || *scale <= 0.0) {
            return Err(invalid(format!("a scale of {} times {factor}", quant.scale[0])));
        }
        let id = b.emit(self, part, Op::BitCast, &[Some(x)], b.dtype(x), b.shape(x))?;
        b.graph.value_mut(id).quant = Some(Quant { scale, ..quant.clone() });
        Ok(id)
    }

    /// Operand `index`, a matrix of `count` rows of two sizes.
    pub(super) fn pairs(
        &self,
        b: &mut Builder,
        index: usize,
        what: &str,
        count: usize,
    ) -> Result<Vec<[usize; 2]>, Failure> {
        const MOST: i64 = 1 << 30; // keeps sums of sizes far from overflow
        let x = self.required(index, what)?;
        let tensor = b.tensor(x).ok_or_else(|| {
            unsupported(format!("{what} are computed at run time"), "make them constant")
        })?;
        let values = tensor.to_i64();
        let fits = tensor.shape == [count, 2] && values.iter().all(|v| (0..=MOST).contains(v));
        if !fits || tensor.dtype.is_float() {
            return Err(invalid(format!("{what} {values:?} for {count} axes")));
        }
        Ok(values.chunks_exact(2).map(|pair| [pair[0] as usize, pair[1] as usize]).collect())
    }

    /// What follows an operator by itself.
    pub(super) fn activated(
        &self,
        b: &mut Builder,
        real: ValueId,
        activation: i8,
    ) -> Result<ValueId, Failure> {
        match fused(activation)? {
            Activation::Clamp(Clamp::NONE) => Ok(real),
            Activation::Clamp(Clamp::RELU) => b.unary(self, "relu", UnaryKind::Relu, real),
            Activation::Clamp(Clamp { min, max }) => {
                b.unary(self, "clip", UnaryKind::Clip { min, max }, real)
            }
            Activation::Tanh => b.unary(self, "tanh", UnaryKind::Tanh, real),
        }
    }

    /// Refuses results of other shapes than the model states, as far as it states them.
    pub(super) fn check_shape(
        &self,
        b: &Builder,
        value: ValueId,
        index: usize,
    ) -> Result<(), Failure> {
        let tensor = self.output_tensor(index)?;
        let shape = b.shape(value);
        // Converters leave the shape of what they don't know empty.
        if tensor.shape.is_empty() && !shape.is_empty() {
            return Ok(());
        }
        let dynamic = !tensor.shape_signature.is_empty();
        let stated = if dynamic { &tensor.shape_signature } else { &tensor.shape };
        let fits = |(own, stated): (&Dim, &i32)| {
            *stated < 0 || dims::same(own, &Dim::from(i64::from(*stated)), &b.graph.symbols)
        };
        let fixed = shape.iter().all(|dim| dim.as_const().is_some());
        if shape.len() != stated.len() || (fixed && !shape.iter().zip(stated).all(fits)) {
            return Err(invalid(format!(
                "its result has shape {}, the model states {stated:?}",
                b.text(&shape)
            )));
        }
        Ok(())
    }
}

/// What follows an operator by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Activation {
    Clamp(Clamp),
    Tanh,
}

/// Values of `ActivationFunctionType`.
pub(super) fn fused(number: i8) -> Result<Activation, Failure> {
    match number {
        0 => Ok(Activation::Clamp(Clamp::NONE)),
        1 => Ok(Activation::Clamp(Clamp::RELU)),
        2 => Ok(Activation::Clamp(Clamp { min: -1.0, max: 1.0 })),
        3 => Ok(Activation::Clamp(Clamp { min: 0.0, max: 6.0 })),
        4 => Ok(Activation::Tanh),
        other => Err(unsupported(
            format!("fused activation #{other}"),
            "put the activation behind as an operator of its own",
        )),
    }
}
