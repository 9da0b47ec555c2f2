//! Constant tensors: dense, row-major, little-endian bytes that may still lie in the model file.

use bytes::Bytes;
use half::{bf16, f16};
use whit::DType;

/// A constant. `data.len() == product(shape) * dtype.size()`.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Element type.
    pub dtype: DType,
    /// Sizes, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Elements in row-major order, little-endian.
    pub data: Bytes,
}

impl Tensor {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len() / self.dtype.size()
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// An f32 tensor.
    pub fn from_f32(shape: impl Into<Vec<usize>>, values: &[f32]) -> Tensor {
        Tensor::from_le(DType::F32, shape.into(), values.iter().map(|v| v.to_le_bytes()))
    }

    /// An i64 tensor.
    pub fn from_i64(shape: impl Into<Vec<usize>>, values: &[i64]) -> Tensor {
        Tensor::from_le(DType::I64, shape.into(), values.iter().map(|v| v.to_le_bytes()))
    }

    /// An i32 tensor.
    pub fn from_i32(shape: impl Into<Vec<usize>>, values: &[i32]) -> Tensor {
        Tensor::from_le(DType::I32, shape.into(), values.iter().map(|v| v.to_le_bytes()))
    }

    /// An i16 tensor.
    pub fn from_i16(shape: impl Into<Vec<usize>>, values: &[i16]) -> Tensor {
        Tensor::from_le(DType::I16, shape.into(), values.iter().map(|v| v.to_le_bytes()))
    }

    /// Reals rounded to f16; `None` when one is beyond what f16 holds.
    pub fn to_halves(&self) -> Option<Tensor> {
        let halves: Vec<f16> = self.to_f32().into_iter().map(f16::from_f32).collect();
        let fits = halves.iter().all(|half| half.is_finite());
        let bytes = halves.iter().map(|half| half.to_le_bytes());
        fits.then(|| Tensor::from_le(DType::F16, self.shape.clone(), bytes))
    }

    /// The same in bf16, rounded to nearest; `None` when a number is beyond what bf16 holds.
    pub fn to_bf16(&self) -> Option<Tensor> {
        let rounded: Vec<bf16> = self.to_f32().into_iter().map(bf16::from_f32).collect();
        let fits = rounded.iter().all(|x| x.is_finite());
        let bytes = rounded.iter().map(|x| x.to_le_bytes());
        fits.then(|| Tensor::from_le(DType::BF16, self.shape.clone(), bytes))
    }

    /// An i8 tensor.
    pub fn from_i8(shape: impl Into<Vec<usize>>, values: &[i8]) -> Tensor {
        Tensor::from_le(DType::I8, shape.into(), values.iter().map(|v| v.to_le_bytes()))
    }

    fn from_le<const N: usize>(
        dtype: DType,
        shape: Vec<usize>,
        values: impl Iterator<Item = [u8; N]>,
    ) -> Tensor {
        let data: Vec<u8> = values.flatten().collect();
        assert_eq!(data.len(), shape.iter().product::<usize>() * dtype.size(), "shape and data");
        Tensor { dtype, shape, data: Bytes::from(data) }
    }

    /// The elements as f32: floats widened or unchanged, integers converted to the nearest f32.
    pub fn to_f32(&self) -> Vec<f32> {
        match self.dtype {
            DType::F32 => self.elements(f32::from_le_bytes).collect(),
            DType::F16 => self.elements(|b| f16::from_le_bytes(b).to_f32()).collect(),
            DType::BF16 => self.elements(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            _ => self.to_i64().into_iter().map(|v| v as f32).collect(),
        }
    }

    /// The elements as i64; floats are truncated toward zero.
    pub fn to_i64(&self) -> Vec<i64> {
        match self.dtype {
            DType::I8 => self.elements(|b| i64::from(i8::from_le_bytes(b))).collect(),
            DType::U8 | DType::Bool => self.elements(|b| i64::from(u8::from_le_bytes(b))).collect(),
            DType::I16 => self.elements(|b| i64::from(i16::from_le_bytes(b))).collect(),
            DType::I32 => self.elements(|b| i64::from(i32::from_le_bytes(b))).collect(),
            DType::I64 => self.elements(i64::from_le_bytes).collect(),
            _ => self.to_f32().into_iter().map(|v| v as i64).collect(),
        }
    }

    /// The same numbers in another element type; `None` when one of them isn't exact there.
    pub fn converted(&self, to: DType) -> Option<Tensor> {
        if self.dtype == to {
            return Some(self.clone());
        }
        let mut data = Vec::with_capacity(self.len() * to.size());
        if self.dtype.is_float() {
            for value in self.to_f32() {
                let int = value as i64;
                let whole = int as f32 == value && int != i64::MAX;
                match to {
                    DType::F32 => data.extend(value.to_le_bytes()),
                    DType::F16 if f16::from_f32(value).to_f32() == value => {
                        data.extend(f16::from_f32(value).to_le_bytes());
                    }
                    DType::BF16 if bf16::from_f32(value).to_f32() == value => {
                        data.extend(bf16::from_f32(value).to_le_bytes());
                    }
                    DType::F16 | DType::BF16 => return None,
                    _ if whole => push_int(&mut data, int, to)?,
                    _ => return None,
                }
            }
        } else {
            for value in self.to_i64() {
                push_int(&mut data, value, to)?;
            }
        }
        Some(Tensor { dtype: to, shape: self.shape.clone(), data: data.into() })
    }

    /// The elements of an i8 tensor. Panics on another type: callers have matched it.
    pub fn to_i8(&self) -> Vec<i8> {
        assert_eq!(self.dtype, DType::I8);
        self.data.iter().map(|b| *b as i8).collect()
    }

    fn elements<const N: usize, T>(&self, f: impl Fn([u8; N]) -> T) -> impl Iterator<Item = T> {
        self.data.chunks_exact(N).map(move |c| f(c.try_into().expect("chunks_exact gives N bytes")))
    }

    /// The same elements in another shape of equal size.
    pub fn reshaped(&self, shape: impl Into<Vec<usize>>) -> Tensor {
        let shape = shape.into();
        assert_eq!(shape.iter().product::<usize>(), self.len(), "reshape keeps the element count");
        Tensor { dtype: self.dtype, shape, data: self.data.clone() }
    }

    /// Axes permuted: axis `i` of the result is axis `perm[i]` of this tensor.
    pub fn transposed(&self, perm: &[usize]) -> Tensor {
        assert_eq!(perm.len(), self.shape.len(), "one entry per axis");
        let size = self.dtype.size();
        let mut strides = vec![size; self.shape.len()];
        for axis in (0..self.shape.len().saturating_sub(1)).rev() {
            strides[axis] = strides[axis + 1] * self.shape[axis + 1];
        }
        let shape: Vec<usize> = perm.iter().map(|p| self.shape[*p]).collect();
        let steps: Vec<usize> = perm.iter().map(|p| strides[*p]).collect();
        let mut data = Vec::with_capacity(self.data.len());
        let mut index = vec![0usize; shape.len()];
        let mut at = 0usize;
        for _ in 0..self.len() {
            data.extend_from_slice(&self.data[at..at + size]);
            for axis in (0..shape.len()).rev() {
                index[axis] += 1;
                at += steps[axis];
                if index[axis] < shape[axis] {
                    break;
                }
                at -= steps[axis] * shape[axis];
                index[axis] = 0;
            }
        }
        Tensor { dtype: self.dtype, shape, data: Bytes::from(data) }
    }
}

/// An integer as one element of a type, when it is exact there.
fn push_int(data: &mut Vec<u8>, value: i64, to: DType) -> Option<()> {
    match to {
        DType::F32 if (value as f32) as i128 == i128::from(value) => {
            data.extend((value as f32).to_le_bytes());
        }
        DType::F16 if f16::from_f64(value as f64).to_f64() == value as f64 => {
            data.extend(f16::from_f64(value as f64).to_le_bytes());
        }
        DType::BF16 if bf16::from_f64(value as f64).to_f64() == value as f64 => {
            data.extend(bf16::from_f64(value as f64).to_le_bytes());
        }
        DType::I8 => data.extend(i8::try_from(value).ok()?.to_le_bytes()),
        DType::U8 => data.extend(u8::try_from(value).ok()?.to_le_bytes()),
        DType::I16 => data.extend(i16::try_from(value).ok()?.to_le_bytes()),
        DType::I32 => data.extend(i32::try_from(value).ok()?.to_le_bytes()),
        DType::I64 => data.extend(value.to_le_bytes()),
        DType::Bool if matches!(value, 0 | 1) => data.push(value as u8),
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposes() {
        let t = Tensor::from_i32([2, 3], &[1, 2, 3, 4, 5, 6]);
        assert_eq!(t.transposed(&[1, 0]).to_i64(), [1, 4, 2, 5, 3, 6]);
        let t = Tensor::from_i32([2, 1, 3], &[1, 2, 3, 4, 5, 6]);
        let u = t.transposed(&[2, 0, 1]);
        assert_eq!((u.shape.as_slice(), u.to_i64()), (&[3, 2, 1][..], vec![1, 4, 2, 5, 3, 6]));
    }
}
