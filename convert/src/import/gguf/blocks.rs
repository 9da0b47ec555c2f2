//! Blocks of GGUF's types as integers with scales, exactly, or as floats.
//!
//! What the bytes of a block mean follows `ggml-common.h` and the dequantization of `ggml-quants.c`. Scales and minima of the
//! types with blocks of 256 are products of an f16 and an integer of 6 bits, which f32 holds exactly.

use half::f16;
use whit::DType;
use whit::kernels::conv_f32::grouped::{GroupedBits, NONLINEAR};

use crate::graph::{Factors, Groups};
use crate::import::transformers::weights::Weight;
use crate::tensor::Tensor;

use super::GgmlType;

/// Names of the types that become a [`Weight`].
pub(super) const SUPPORTED: &str =
    "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS";

/// Integers and scales of a tensor under construction.
struct Decoded {
    bits: GroupedBits,
    size: usize,
    integers: Vec<i8>,
    scale: Vec<f32>,
    min: Option<Vec<f32>>,
    factors: Option<Factors>,
}

impl Decoded {
    /// The group's scale is an integer times this block's factor.
    fn push_scale(&mut self, factor: f32, integer: i8) {
        self.scale.push(factor * f32::from(integer));
    }

    /// The group's minimum is an integer times this block's factor.
    fn push_min(&mut self, factor: f32, integer: i8) {
        self.min.get_or_insert_default().push(factor * f32::from(integer));
    }

    /// What scales of a block are integers times of, and perhaps minima.
    fn push_factors(&mut self, scale: f32, min: Option<f32>) {
        let factors = self.factors.get_or_insert_default();
        factors.scale.push(scale);
        factors.min.extend(min);
    }
}

/// A tensor of whole blocks; `None` for a type that has no place here.
pub(super) fn weight(dtype: GgmlType, shape: Vec<usize>, bytes: &[u8]) -> Option<Weight> {
    let float = |dtype| Tensor { dtype, shape: shape.clone(), data: bytes.to_vec().into() }.into();
    let elements = shape.iter().product::<usize>();
    let decode: fn(&[u8], &mut Decoded) = match dtype.name {
        "F32" => return Some(float(DType::F32)),
        "F16" => return Some(float(DType::F16)),
        "BF16" => return Some(float(DType::BF16)),
        "Q4_0" => q4_0,
        "Q4_1" => q4_1,
        "Q5_0" => q5_0,
        "Q5_1" => q5_1,
        "Q8_0" => q8_0,
        "Q2_K" => q2_k,
        "Q3_K" => q3_k,
        "Q4_K" => q4_k,
        "Q5_K" => q5_k,
        "Q6_K" => q6_k,
        "IQ4_NL" => iq4_nl,
        "IQ4_XS" => iq4_xs,
        _ => return None,
    };
    let (bits, size, has_min) = match dtype.name {
        "Q4_0" => (GroupedBits::W4, 32, false),
        "Q4_1" | "Q4_K" => (GroupedBits::W4, 32, true),
        "Q5_0" => (GroupedBits::W5, 32, false),
        "Q5_1" | "Q5_K" => (GroupedBits::W5, 32, true),
        "Q2_K" => (GroupedBits::W4, 16, true),
        "Q3_K" => (GroupedBits::W4, 16, false),
        "Q6_K" => (GroupedBits::W6, 16, false),
        "IQ4_NL" | "IQ4_XS" => (GroupedBits::W4Nl, 32, false),
        _ => (GroupedBits::W8, 32, false),
    };
    let mut decoded = Decoded {
        bits,
        size,
        integers: Vec::with_capacity(elements),
        scale: Vec::with_capacity(elements / size),
        min: has_min.then(|| Vec::with_capacity(elements / size)),
        factors: None,
    };
    for block in bytes.chunks_exact(dtype.block_bytes) {
        decode(block, &mut decoded);
    }
    let Decoded { bits, size, integers, scale, min, factors } = decoded;
    let groups = Groups { bits, size, axis: 0, scale, min, factors };
    // Vectors stay real: only layers have kernels for groups.
    let tensor = Tensor::from_i8(shape, &integers);
    let weight = Weight { tensor, groups: Some(groups) };
    Some(if weight.tensor.shape.len() == 2 { weight } else { weight.real().into() })
}

fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Sixteen bytes of nibbles: the low ones are the first sixteen elements, the high ones the rest.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    bytes.iter().map(|byte| byte & 15).chain(bytes.iter().map(|byte| byte >> 4))
}

fn q4_0(block: &[u8], to: &mut Decoded) {
    to.scale.push(half(block, 0));
    to.integers.extend(nibbles(&block[2..]).map(|q| q as i8 - 8));
}

fn q4_1(block: &[u8], to: &mut Decoded) {
    to.scale.push(half(block, 0));
    to.min.get_or_insert_default().push(half(block, 2));
    to.integers.extend(nibbles(&block[4..]).map(|q| q as i8));
}

/// Nibbles with a fifth bit from a word of 32.
fn fives<'b>(high: &'b [u8], low: &'b [u8]) -> impl Iterator<Item = i8> + 'b {
    let bit = |i: usize| high[i / 8] >> (i % 8) & 1;
    nibbles(low).enumerate().map(move |(i, q)| (q | bit(i) << 4) as i8)
}

fn q5_0(block: &[u8], to: &mut Decoded) {
    to.scale.push(half(block, 0));
    to.integers.extend(fives(&block[2..6], &block[6..]).map(|q| q - 16));
}

fn q5_1(block: &[u8], to: &mut Decoded) {
    to.scale.push(half(block, 0));
    to.min.get_or_insert_default().push(half(block, 2));
    to.integers.extend(fives(&block[4..8], &block[8..]));
}

fn q8_0(block: &[u8], to: &mut Decoded) {
    to.scale.push(half(block, 0));
    to.integers.extend(block[2..].iter().map(|byte| *byte as i8));
}

/// 16 scales and minima of 4 bits, 64 bytes of 2 bits, two f16.
fn q2_k(block: &[u8], to: &mut Decoded) {
    let (scales, quants, d, min) = (&block[..16], &block[16..80], half(block, 80), half(block, 82));
    to.push_factors(d, Some(min));
    for (group, scale) in scales.iter().enumerate() {
        to.push_scale(d, (scale & 15) as i8);
        to.push_min(min, -((scale >> 4) as i8));
        // 128 elements lie in 32 bytes, 32 of them in the same two bits.
        let bytes = &quants[group / 8 * 32 + group % 2 * 16..][..16];
        let shift = group % 8 / 2 * 2;
        to.integers.extend(bytes.iter().map(|byte| (byte >> shift & 3) as i8));
    }
}

/// 32 bytes of high bits, 64 bytes of 2 bits, 16 scales of 6 bits, an f16.
fn q3_k(block: &[u8], to: &mut Decoded) {
    let (mask, quants, packed, d) =
        (&block[..32], &block[32..96], &block[96..108], half(block, 108));
    to.push_factors(d, None);
    for group in 0..16 {
        let low = match group {
            0..8 => packed[group] & 15,
            _ => packed[group - 8] >> 4,
        };
        let high = packed[8 + group % 4] >> (group / 4 * 2) & 3;
        to.push_scale(d, (low | high << 4) as i8 - 32);
        let start = group % 2 * 16;
        let (shift, bit) = (group % 8 / 2 * 2, group / 2);
        for i in start..start + 16 {
            let low = (quants[group / 8 * 32 + i] >> shift & 3) as i8;
            let is_set = mask[i] >> bit & 1 == 1;
            to.integers.push(if is_set { low } else { low - 4 });
        }
    }
}

/// Scale and minimum number `group` of eight, of 6 bits each in 12 bytes.
fn scale_and_min(packed: &[u8], group: usize) -> (i8, i8) {
    let (scale, min) = match group {
        0..4 => (packed[group] & 63, packed[group + 4] & 63),
        _ => (
            packed[group + 4] & 15 | packed[group - 4] >> 6 << 4,
            packed[group + 4] >> 4 | packed[group] >> 6 << 4,
        ),
    };
    (scale as i8, min as i8)
}

/// Two f16, 12 bytes of scales and minima, 128 bytes of nibbles.
fn q4_k(block: &[u8], to: &mut Decoded) {
    let (d, least, packed, quants) = (half(block, 0), half(block, 2), &block[4..16], &block[16..]);
    to.push_factors(d, Some(least));
    for group in 0..8 {
        let (scale, min) = scale_and_min(packed, group);
        to.push_scale(d, scale);
        to.push_min(least, -min);
        let bytes = &quants[group / 2 * 32..][..32];
        let shift = group % 2 * 4;
        to.integers.extend(bytes.iter().map(|byte| (byte >> shift & 15) as i8));
    }
}

/// As Q4_K, with 32 bytes of fifth bits before the nibbles.
fn q5_k(block: &[u8], to: &mut Decoded) {
    let (d, least, packed) = (half(block, 0), half(block, 2), &block[4..16]);
    let (high, quants) = (&block[16..48], &block[48..]);
    to.push_factors(d, Some(least));
    for group in 0..8 {
        let (scale, min) = scale_and_min(packed, group);
        to.push_scale(d, scale);
        to.push_min(least, -min);
        let bytes = quants[group / 2 * 32..][..32].iter().zip(high);
        let shift = group % 2 * 4;
        to.integers
            .extend(bytes.map(|(low, high)| (low >> shift & 15 | (high >> group & 1) << 4) as i8));
    }
}

/// 128 bytes of nibbles, 64 bytes of 2 bits, 16 scales, an f16.
fn q6_k(block: &[u8], to: &mut Decoded) {
    let (low, high) = (&block[..128], &block[128..192]);
    let (scales, d) = (&block[192..208], half(block, 208));
    to.push_factors(d, None);
    for (group, scale) in scales.iter().enumerate() {
        to.push_scale(d, *scale as i8);
        // 128 elements are four rows of 32: two in the low nibbles of 64 bytes, two in the high ones.
        let (part, row, start) = (group / 8, group % 8 / 2, group % 2 * 16);
        for i in start..start + 16 {
            let nibble = low[part * 64 + row % 2 * 32 + i] >> (row / 2 * 4) & 15;
            let two = high[part * 32 + i] >> (row * 2) & 3;
            to.integers.push((nibble | two << 4) as i8 - 32);
        }
    }
}

fn iq4_nl(block: &[u8], to: &mut Decoded) {
    to.scale.push(half(block, 0));
    to.integers.extend(nibbles(&block[2..]).map(|code| NONLINEAR[usize::from(code)]));
}

/// An f16, two bytes of high bits of scales, four bytes of low ones, 128 bytes of codes.
fn iq4_xs(block: &[u8], to: &mut Decoded) {
    let (d, high) = (half(block, 0), u16::from_le_bytes([block[2], block[3]]));
    to.push_factors(d, None);
    for group in 0..8 {
        let low = block[4 + group / 2] >> (group % 2 * 4) & 15;
        let two = (high >> (2 * group) & 3) as u8;
        to.push_scale(d, (low | two << 4) as i8 - 32);
        let codes = nibbles(&block[8 + group * 16..][..16]);
        to.integers.extend(codes.map(|code| NONLINEAR[usize::from(code)]));
    }
}

#[cfg(test)]
#[path = "blocks_tests.rs"]
mod tests;
