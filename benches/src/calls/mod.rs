//! Calls of kernels with everything they read and write.

use std::ops::{Deref, DerefMut};

use whit::Isa;
use whit::kernels::ConvGeometry;

mod elements;
mod float;
pub mod grouped;
mod integer;

/// A call of a kernel, without its data.
pub struct Call {
    /// The kernel's family.
    pub family: &'static str,
    /// Model and layer.
    pub shape: &'static str,
    /// Multiply-adds, or elements where there are none, in one call.
    pub work: u64,
    /// Makes the data, and what calls the kernel for an instruction set.
    pub prepare: Box<dyn Fn(Isa) -> Box<dyn FnMut()>>,
}

impl Call {
    fn new(
        family: &'static str,
        shape: &'static str,
        work: usize,
        prepare: impl Fn(Isa) -> Box<dyn FnMut()> + 'static,
    ) -> Self {
        Call { family, shape, work: work as u64, prepare: Box::new(prepare) }
    }

    /// Of every family.
    pub fn all() -> Vec<Call> {
        let mut calls = integer::calls();
        calls.extend(float::calls());
        calls.extend(grouped::calls());
        calls.extend(elements::calls());
        calls
    }

    /// `family/shape`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.family, self.shape)
    }
}

/// Elements at a multiple of 64 bytes, as in a session's arena and in a file.
struct Aligned<T> {
    data: Vec<T>,
    start: usize,
}

impl<T: Copy + Default> Aligned<T> {
    fn new(len: usize, value: impl Fn(usize) -> T) -> Aligned<T> {
        let mut data = vec![T::default(); len + 64 / size_of::<T>()];
        let start = data.as_ptr().align_offset(64);
        for i in 0..len {
            data[start + i] = value(i);
        }
        data.truncate(start + len);
        Aligned { data, start }
    }

    fn zeros(len: usize) -> Aligned<T> {
        Aligned::new(len, |_| T::default())
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.data[self.start..]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[self.start..]
    }
}

/// Bits without a pattern.
fn hash(i: usize) -> u32 {
    (i as u32).wrapping_mul(0x9e37_79b9)
}

/// Numbers in -0.5..0.5 without a pattern; no subnormals.
fn floats(len: usize) -> Aligned<f32> {
    Aligned::new(len, |i| (hash(i) >> 20) as f32 / 4096.0 - 0.5)
}

/// Bytes that all differ; the kernels take the same time for any.
fn bytes(len: usize) -> Aligned<i8> {
    Aligned::new(len, |i| (hash(i) >> 24) as i8)
}

/// A convolution with the padding that TensorFlow calls SAME.
fn same(
    (in_h, in_w, in_c): (usize, usize, usize),
    out_c: usize,
    (kernel_h, kernel_w): (usize, usize),
    stride: usize,
) -> ConvGeometry {
    let (out_h, out_w) = (in_h.div_ceil(stride), in_w.div_ceil(stride));
    let pad = |len: usize, out: usize, kernel: usize| {
        ((out - 1) * stride + kernel).saturating_sub(len) / 2
    };
    ConvGeometry {
        batch: 1,
        in_h,
        in_w,
        in_c,
        out_h,
        out_w,
        out_c,
        kernel_h,
        kernel_w,
        stride_h: stride,
        stride_w: stride,
        pad_top: pad(in_h, out_h, kernel_h),
        pad_left: pad(in_w, out_w, kernel_w),
        dilation_h: 1,
        dilation_w: 1,
        groups: 1,
    }
}

/// As [`same`], with one filter per channel.
fn depthwise(input: (usize, usize, usize), kernel: usize, stride: usize) -> ConvGeometry {
    ConvGeometry { groups: input.2, ..same(input, input.2, (kernel, kernel), stride) }
}

/// Multiply-adds of a convolution.
fn macs(g: &ConvGeometry) -> usize {
    g.out_pixels() * g.out_c * g.k()
}
