//! One array of a data set: row-major elements whose first axis counts the samples.

use whit::DType;

/// Elements of the types that models take. f16 and f64 files become f32, u16 i32, u32 and u64 i64.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ArrayData {
    F32(Vec<f32>),
    I8(Vec<i8>),
    U8(Vec<u8>),
    I16(Vec<i16>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    Bool(Vec<bool>),
}

/// A dense array. `data.len() == product(shape)`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Array {
    /// Sizes, outermost first; the first is the number of samples, empty for a scalar.
    pub(crate) shape: Vec<usize>,
    /// Elements in row-major order.
    pub(crate) data: ArrayData,
}

/// Evaluates `$body` with `$v` bound to the elements, whatever their type.
macro_rules! with_elements {
    ($data:expr, $v:ident => $body:expr) => {
        match $data {
            ArrayData::F32($v) => $body,
            ArrayData::I8($v) => $body,
            ArrayData::U8($v) => $body,
            ArrayData::I16($v) => $body,
            ArrayData::I32($v) => $body,
            ArrayData::I64($v) => $body,
            ArrayData::Bool($v) => $body,
        }
    };
}
pub(crate) use with_elements;

impl ArrayData {
    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        with_elements!(self, v => v.len())
    }

    /// The element type.
    pub(crate) fn dtype(&self) -> DType {
        match self {
            ArrayData::F32(_) => DType::F32,
            ArrayData::I8(_) => DType::I8,
            ArrayData::U8(_) => DType::U8,
            ArrayData::I16(_) => DType::I16,
            ArrayData::I32(_) => DType::I32,
            ArrayData::I64(_) => DType::I64,
            ArrayData::Bool(_) => DType::Bool,
        }
    }

    /// The elements, little-endian.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match self {
            ArrayData::F32(v) => v.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ArrayData::I8(v) => v.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ArrayData::U8(v) => v.clone(),
            ArrayData::I16(v) => v.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ArrayData::I32(v) => v.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ArrayData::I64(v) => v.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ArrayData::Bool(v) => v.iter().map(|v| u8::from(*v)).collect(),
        }
    }

    /// The type as numpy writes it: `float32`, `int8`, …
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            ArrayData::F32(_) => "float32",
            ArrayData::I8(_) => "int8",
            ArrayData::U8(_) => "uint8",
            ArrayData::I16(_) => "int16",
            ArrayData::I32(_) => "int32",
            ArrayData::I64(_) => "int64",
            ArrayData::Bool(_) => "bool",
        }
    }
}

impl Array {
    /// An f32 array. Panics when the shape doesn't hold exactly these elements.
    pub(crate) fn from_f32(shape: impl Into<Vec<usize>>, values: Vec<f32>) -> Array {
        let shape = shape.into();
        assert_eq!(shape.iter().product::<usize>(), values.len(), "shape and data");
        Array { shape, data: ArrayData::F32(values) }
    }

    /// Number of samples: the first axis, 1 for a scalar.
    pub(crate) fn samples(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Sizes of one sample: the shape without its first axis.
    pub(crate) fn sample_shape(&self) -> &[usize] {
        self.shape.get(1..).unwrap_or(&[])
    }

    /// Elements in one sample.
    pub(crate) fn sample_len(&self) -> usize {
        self.sample_shape().iter().product()
    }

    /// Sample `sample` as f32: floats unchanged, integers to the nearest f32, `true` 1.
    /// Panics when there is no such sample.
    pub(crate) fn sample_f32(&self, sample: usize) -> Vec<f32> {
        let range = self.sample_range(sample);
        match &self.data {
            ArrayData::F32(v) => v[range].to_vec(),
            ArrayData::I8(v) => v[range].iter().map(|x| f32::from(*x)).collect(),
            ArrayData::U8(v) => v[range].iter().map(|x| f32::from(*x)).collect(),
            ArrayData::I16(v) => v[range].iter().map(|x| f32::from(*x)).collect(),
            ArrayData::I32(v) => v[range].iter().map(|x| *x as f32).collect(),
            ArrayData::I64(v) => v[range].iter().map(|x| *x as f32).collect(),
            ArrayData::Bool(v) => v[range].iter().map(|x| f32::from(u8::from(*x))).collect(),
        }
    }

    /// Sample `sample` as i64, or `None` for a float array with fractions, NaN or infinity in it.
    /// Panics when there is no such sample.
    pub(crate) fn sample_i64(&self, sample: usize) -> Option<Vec<i64>> {
        let range = self.sample_range(sample);
        Some(match &self.data {
            // 2^63 itself doesn't fit, the f32 below it does.
            ArrayData::F32(v) => v[range]
                .iter()
                .map(|x| (x.fract() == 0.0 && x.abs() < 9.223_372e18).then_some(*x as i64))
                .collect::<Option<Vec<i64>>>()?,
            ArrayData::I8(v) => v[range].iter().map(|x| i64::from(*x)).collect(),
            ArrayData::U8(v) => v[range].iter().map(|x| i64::from(*x)).collect(),
            ArrayData::I16(v) => v[range].iter().map(|x| i64::from(*x)).collect(),
            ArrayData::I32(v) => v[range].iter().map(|x| i64::from(*x)).collect(),
            ArrayData::I64(v) => v[range].to_vec(),
            ArrayData::Bool(v) => v[range].iter().map(|x| i64::from(*x)).collect(),
        })
    }

    /// Keeps the first `limit` samples.
    pub(crate) fn truncate(&mut self, limit: usize) {
        if limit >= self.samples() {
            return;
        }
        let len = limit * self.sample_len();
        match &mut self.data {
            ArrayData::F32(v) => v.truncate(len),
            ArrayData::I8(v) => v.truncate(len),
            ArrayData::U8(v) => v.truncate(len),
            ArrayData::I16(v) => v.truncate(len),
            ArrayData::I32(v) => v.truncate(len),
            ArrayData::I64(v) => v.truncate(len),
            ArrayData::Bool(v) => v.truncate(len),
        }
        if let Some(samples) = self.shape.first_mut() {
            *samples = limit;
        }
    }

    /// The first sample that holds a NaN or an infinity, and that value.
    pub(crate) fn first_non_finite(&self) -> Option<(usize, f32)> {
        let ArrayData::F32(values) = &self.data else { return None };
        let at = values.iter().position(|v| !v.is_finite())?;
        Some((at / self.sample_len().max(1), values[at]))
    }

    fn sample_range(&self, sample: usize) -> std::ops::Range<usize> {
        let len = self.sample_len();
        sample * len..(sample + 1) * len
    }
}
