//! Weights of 8 or 4 bits whose rows are cut into groups of inputs with a scale each, and perhaps a minimum: layouts 4,
//! 5 and 7 to 12 of FORMAT.md.
//!
//! A weight is `scale * q` or `scale * q + min`. The product of the 11 bits of an f16 and the 7 of an integer in −128..=127
//! is exact in f32.

use core::ops::RangeInclusive;

use super::super::PANEL_N;
use super::{ConvGeometry, product};
use crate::DType;
use crate::format::{Layout, cast};
use half::f16;

/// How many bits a weight has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupedBits {
    /// i8.
    W8,
    /// Nibbles. They stand for −8..=7, stored plus 8, or where there are minima for 0..=15.
    W4,
}

impl GroupedBits {
    /// Inputs whose weights of one output lie in a word of 32 bits.
    pub const fn per_word(self) -> usize {
        match self {
            GroupedBits::W8 => 4,
            GroupedBits::W4 => 8,
        }
    }

    /// Words per output that hold `k` weights.
    pub const fn words(self, k: usize) -> usize {
        k.div_ceil(self.per_word())
    }
}

/// Sizes that a group can have: multiples of the inputs of a word.
pub const GROUP_SIZES: [usize; 4] = [16, 32, 64, 128];

/// How grouped weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupedForm {
    /// 8 or 4.
    pub bits: GroupedBits,
    /// Whether groups have a minimum.
    pub has_mins: bool,
    /// Whether scales and minima are f32 instead of f16.
    pub is_wide: bool,
}

impl GroupedForm {
    /// The form of a layout, if its weights are grouped.
    pub const fn of(layout: Layout) -> Option<GroupedForm> {
        let (bits, has_mins, is_wide) = match layout {
            Layout::GroupedW8 => (GroupedBits::W8, false, false),
            Layout::GroupedW4 => (GroupedBits::W4, false, false),
            Layout::GroupedW8Min => (GroupedBits::W8, true, false),
            Layout::GroupedW4Min => (GroupedBits::W4, true, false),
            Layout::GroupedW8Wide => (GroupedBits::W8, false, true),
            Layout::GroupedW4Wide => (GroupedBits::W4, false, true),
            Layout::GroupedW8WideMin => (GroupedBits::W8, true, true),
            Layout::GroupedW4WideMin => (GroupedBits::W4, true, true),
            _ => return None,
        };
        Some(GroupedForm { bits, has_mins, is_wide })
    }

    /// The layout of this form.
    pub const fn layout(self) -> Layout {
        match (self.bits, self.has_mins, self.is_wide) {
            (GroupedBits::W8, false, false) => Layout::GroupedW8,
            (GroupedBits::W4, false, false) => Layout::GroupedW4,
            (GroupedBits::W8, true, false) => Layout::GroupedW8Min,
            (GroupedBits::W4, true, false) => Layout::GroupedW4Min,
            (GroupedBits::W8, false, true) => Layout::GroupedW8Wide,
            (GroupedBits::W4, false, true) => Layout::GroupedW4Wide,
            (GroupedBits::W8, true, true) => Layout::GroupedW8WideMin,
            (GroupedBits::W4, true, true) => Layout::GroupedW4WideMin,
        }
    }

    /// The type of a tensor of this form.
    pub const fn dtype(self) -> DType {
        match self.bits {
            GroupedBits::W8 => DType::I8,
            GroupedBits::W4 => DType::U8,
        }
    }

    /// The integers that weights can be.
    pub const fn limits(self) -> RangeInclusive<i8> {
        match self.bits {
            GroupedBits::W8 => -128..=127,
            GroupedBits::W4 if self.has_mins => 0..=15,
            GroupedBits::W4 => -8..=7,
        }
    }

    /// Bytes of a scale, and of a minimum.
    pub const fn scale_bytes(self) -> usize {
        if self.is_wide { size_of::<f32>() } else { size_of::<f16>() }
    }

    /// Bytes of all planes. Bounded geometries ([`ConvGeometry::is_bounded`]) don't overflow.
    pub const fn bytes(self, geometry: &ConvGeometry, group_size: usize) -> usize {
        let (weights, scales) = plane_lens(geometry, self.bits, group_size);
        weights + scales * self.scale_bytes() * if self.has_mins { 2 } else { 1 }
    }

    /// The planes of a tensor; `None` when it is too short, or its scales lie unaligned.
    pub fn planes<'a>(
        self,
        geometry: &ConvGeometry,
        group_size: usize,
        bytes: &'a [u8],
    ) -> Option<GroupedWeights<'a>> {
        let (weights, scales) = plane_lens(geometry, self.bits, group_size);
        let plane_bytes = scales * self.scale_bytes();
        let (weights, rest) = bytes.split_at_checked(weights)?;
        let (scale_plane, rest) = rest.split_at_checked(plane_bytes)?;
        let plane = |bytes: &'a [u8]| {
            Some(match self.is_wide {
                true => ScalePlane::F32(cast(bytes)?),
                false => ScalePlane::F16(cast(bytes)?),
            })
        };
        let mins = match self.has_mins {
            true => Some(plane(rest.get(..plane_bytes)?)?),
            false => None,
        };
        Some(GroupedWeights {
            bits: self.bits,
            group_size,
            weights,
            scales: plane(scale_plane)?,
            mins,
        })
    }
}

/// Scales or minima, `[groups][N/16][K/group_size][16]`, rounded up.
#[derive(Clone, Copy)]
pub enum ScalePlane<'a> {
    /// f16.
    F16(&'a [f16]),
    /// f32.
    F32(&'a [f32]),
}

impl<'a> ScalePlane<'a> {
    /// Number of scales.
    #[allow(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        match self {
            ScalePlane::F16(plane) => plane.len(),
            ScalePlane::F32(plane) => plane.len(),
        }
    }

    /// One of them.
    pub(crate) fn at(&self, index: usize) -> f32 {
        match self {
            ScalePlane::F16(plane) => plane[index].to_f32(),
            ScalePlane::F32(plane) => plane[index],
        }
    }

    /// Those from number `first` on, if there are so many.
    #[cfg(feature = "std")]
    pub(crate) fn from(&self, first: usize) -> Option<ScalePlane<'a>> {
        Some(match self {
            ScalePlane::F16(plane) => ScalePlane::F16(plane.get(first..)?),
            ScalePlane::F32(plane) => ScalePlane::F32(plane.get(first..)?),
        })
    }
}

/// Grouped weights, as they lie in a file.
#[derive(Clone, Copy)]
pub struct GroupedWeights<'a> {
    /// 8 or 4.
    pub bits: GroupedBits,
    /// Inputs per scale, one of [`GROUP_SIZES`].
    pub group_size: usize,
    /// `[groups][N/16][K/4][16][4]` i8, or `[groups][N/16][K/8][16][4]` pairs of nibbles: in byte j of word i,
    /// input 8i + j low and 8i + 4 + j high.
    pub weights: &'a [u8],
    /// Factors.
    pub scales: ScalePlane<'a>,
    /// What is added, if there are minima.
    pub mins: Option<ScalePlane<'a>>,
}

/// Bytes of the weights, a multiple of 64, and number of scales. Bounded geometries
/// ([`ConvGeometry::is_bounded`]) don't overflow.
pub const fn plane_lens(
    geometry: &ConvGeometry,
    bits: GroupedBits,
    group_size: usize,
) -> (usize, usize) {
    let (channels, k) = (geometry.padded_out_c(), geometry.k());
    (channels * bits.words(k) * 4, channels * k.div_ceil(group_size))
}

impl GroupedWeights<'_> {
    /// The weight of a padded output channel for input `row` of its `k`.
    pub(crate) fn at(&self, padded_channel: usize, row: usize, k: usize) -> f32 {
        let (panel, lane) = (padded_channel / PANEL_N, padded_channel % PANEL_N);
        let per_word = self.bits.per_word();
        let word = (panel * self.bits.words(k) + row / per_word) * PANEL_N + lane;
        let byte = self.weights[word * 4 + row % 4];
        let nibble = if row % 8 < 4 { byte & 15 } else { byte >> 4 };
        let q = match self.bits {
            GroupedBits::W8 => byte as i8,
            GroupedBits::W4 if self.mins.is_some() => nibble as i8,
            GroupedBits::W4 => nibble as i8 - 8,
        };
        let group = panel * k.div_ceil(self.group_size) + row / self.group_size;
        let product = self.scales.at(group * PANEL_N + lane) * f32::from(q);
        match self.mins {
            Some(mins) => product + mins.at(group * PANEL_N + lane),
            None => product,
        }
    }

    /// The weights of a padded output channel for all inputs: as many as `to` is long.
    pub(crate) fn read(&self, padded_channel: usize, to: &mut [f32]) {
        let (panel, lane) = (padded_channel / PANEL_N, padded_channel % PANEL_N);
        let (k, per_word) = (to.len(), self.bits.per_word());
        let first_word = panel * self.bits.words(k);
        let first_group = panel * k.div_ceil(self.group_size);
        for (group, to) in to.chunks_mut(self.group_size).enumerate() {
            let scale = (first_group + group) * PANEL_N + lane;
            let min = self.mins.map(|mins| mins.at(scale));
            let scale = self.scales.at(scale);
            let first_word = first_word + group * self.group_size / per_word;
            for (word, to) in to.chunks_mut(per_word).enumerate() {
                let word = &self.weights[((first_word + word) * PANEL_N + lane) * 4..][..4];
                for (i, to) in to.iter_mut().enumerate() {
                    let byte = word[i % 4];
                    let nibble = if i < 4 { byte & 15 } else { byte >> 4 };
                    let q = match self.bits {
                        GroupedBits::W8 => byte as i8,
                        GroupedBits::W4 if min.is_some() => nibble as i8,
                        GroupedBits::W4 => nibble as i8 - 8,
                    };
                    // What changes no number, −0 neither.
                    *to = scale * f32::from(q) + min.unwrap_or(-0.0);
                }
            }
        }
    }

    /// Panics unless the planes are as long as a geometry with checked sizes says.
    pub(super) fn check(&self, g: &ConvGeometry) {
        assert!(GROUP_SIZES.contains(&self.group_size), "group size");
        let words = self.bits.words(g.k());
        assert!(self.weights.len() >= product(&[g.padded_out_c(), words, 4]), "weights");
        let groups = g.k().div_ceil(self.group_size);
        let scales = product(&[g.padded_out_c(), groups]);
        assert!(self.scales.len() >= scales, "scales");
        assert!(self.mins.is_none_or(|mins| mins.len() >= scales), "minima");
    }
}

/// The planes of weights `[out_c][kernel_h][kernel_w][in_c / groups]`, with their scales, and minima if the form has them,
/// `[out_c][K / group_size]`, rounded up. Scales and minima of a form that isn't wide are numbers of f16. Padding is the weight
/// 0 with the scale 0.
///
/// # Panics
///
/// When a slice doesn't have the length that it should have, a weight doesn't fit the bits, or a scale f16.
#[cfg(feature = "std")]
pub fn pack_weights(
    geometry: &ConvGeometry,
    form: GroupedForm,
    group_size: usize,
    ohwi: &[i8],
    scale: &[f32],
    min: &[f32],
) -> std::vec::Vec<u8> {
    let bits = form.bits;
    let (k, group_out_c) = (geometry.k(), geometry.group_out_c());
    let groups = k.div_ceil(group_size);
    assert_eq!(ohwi.len(), geometry.out_c * k);
    assert_eq!(scale.len(), geometry.out_c * groups);
    assert_eq!(min.len(), if form.has_mins { scale.len() } else { 0 });
    let (weights_len, scales_len) = plane_lens(geometry, bits, group_size);
    let zero = if bits == GroupedBits::W4 && !form.has_mins { 0x88 } else { 0 };
    let mut bytes = std::vec![0; form.bytes(geometry, group_size)];
    let (weights, planes) = bytes.split_at_mut(weights_len);
    weights.fill(zero);
    for channel in 0..geometry.out_c {
        let padded = channel / group_out_c * geometry.padded_group_out_c() + channel % group_out_c;
        let (panel, lane) = (padded / PANEL_N, padded % PANEL_N);
        for row in 0..k {
            let q = ohwi[channel * k + row];
            assert!(form.limits().contains(&q), "{q} in {bits:?}");
            let word = panel * bits.words(k) + row / bits.per_word();
            let byte = &mut weights[(word * PANEL_N + lane) * 4 + row % 4];
            match bits {
                GroupedBits::W8 => *byte = q as u8,
                GroupedBits::W4 => {
                    let nibble = if form.has_mins { q } else { q + 8 } as u8;
                    let shift = if row % 8 < 4 { 0 } else { 4 };
                    *byte = *byte & !(15 << shift) | nibble << shift;
                }
            }
        }
        for (plane, values) in [scale, min].into_iter().enumerate() {
            for group in 0..groups.min(values.len()) {
                let to = plane * scales_len + (panel * groups + group) * PANEL_N + lane;
                let value = values[channel * groups + group];
                if form.is_wide {
                    planes[to * 4..][..4].copy_from_slice(&value.to_le_bytes());
                } else {
                    let half = f16::from_f32(value);
                    assert_eq!(half.to_f32(), value, "a scale in f16");
                    planes[to * 2..][..2].copy_from_slice(&half.to_le_bytes());
                }
            }
        }
    }
    bytes
}
