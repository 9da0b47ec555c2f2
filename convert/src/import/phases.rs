//! Transposed convolution as a convolution of stride 1.
//!
//! With stride s, the outputs at positions `m * s + r` for one phase r depend on the input as a
//! convolution of stride 1 does, over every s-th element of the kernel. So one convolution makes the
//! channels of all phases at once, and moving phases into space gives the result:
//!
//! ```text
//! full[m * s + r] = sum over t of x[m - t] * w[t * s + r],   t in 0..T, T = ceil(kernel / s)
//! ```
//!
//! per spatial axis, the kernel dilated and padded with zeros to T * s elements. The result is
//! `full[pad_before..pad_before + size]`; values of m that nobody needs aren't computed.

use super::builder::{Builder, Named};
use super::dims;
use super::failure::Failure;
use crate::dim::Dim;
use crate::graph::ValueId;

/// One spatial axis.
pub(crate) struct Axis {
    pub kernel: i64,
    pub stride: i64,
    pub dilation: i64,
    /// Elements of the full result cut off in front.
    pub crop: i64,
    pub output: Dim,
    /// The full result's elements behind the last input element's own, that the result holds.
    pub tail: i64,
}

impl Axis {
    /// Elements of the dilated kernel.
    pub(crate) fn extent(&self) -> i64 {
        (self.kernel - 1) * self.dilation + 1
    }

    /// Elements of the kernel that one phase takes.
    pub(crate) fn taps(&self) -> i64 {
        (self.extent() + self.stride - 1) / self.stride
    }

    /// The first m that is computed.
    pub(crate) fn first(&self) -> i64 {
        (self.crop / self.stride).min(self.taps() - 1)
    }

    /// Padding of the convolution.
    pub(crate) fn pads(&self) -> (i64, i64) {
        // The last m is `input - 1 + ceil(tail / stride)`.
        let behind = (self.tail + self.stride - 1).div_euclid(self.stride) - 1;
        (self.taps() - 1 - self.first(), behind.max(0))
    }
}

/// At stride 1 there is one phase, and the kernel stays dilated instead of holding zeros.
pub(crate) fn one_phase(axes: &[Axis]) -> bool {
    axes.iter().all(|axis| axis.stride == 1)
}

/// From `[batch, blocks…, groups * phases * out_c / groups]` to
/// `[batch, blocks * stride…, out_c]`.
pub(crate) fn phases_to_space(
    b: &mut Builder,
    node: &dyn Named,
    y: ValueId,
    blocks: &[Dim],
    axes: &[Axis],
    groups: usize,
    per_group: usize,
) -> Result<ValueId, Failure> {
    let n = axes.len();
    // The batch goes with the first spatial axis: with groups, three axes would be too many else.
    let rows = dims::product(&blocks[..2])?;
    let mut split = vec![rows];
    split.extend_from_slice(&blocks[2..]);
    let strides: Vec<Dim> = axes.iter().map(|axis| Dim::from(axis.stride)).collect();
    let grouped = usize::from(groups > 1);
    if groups > 1 {
        split.push(Dim::from(groups));
    }
    split.extend(strides.iter().cloned());
    split.push(Dim::from(per_group));
    let y = b.reshape(node, "phases", y, split)?;
    let mut perm = Vec::new();
    for axis in 0..n {
        perm.extend([axis, n + grouped + axis]);
    }
    perm.extend((0..grouped).map(|_| n));
    perm.push(2 * n + grouped);
    let y = b.transpose(node, "interleave", y, &perm)?;
    let mut shape = vec![blocks[0].clone()];
    shape.extend(blocks[1..].iter().zip(&strides).map(|(block, stride)| block.mul(stride)));
    shape.push(Dim::from(groups * per_group));
    b.reshape(node, "space", y, shape)
}
