//! Weights of 8 or 4 bits whose rows are cut into groups of inputs with an f16 scale each: layouts 4
//! and 5 of FORMAT.md.
//!
//! A weight is `scale * q`. The product of the 11 bits of an f16 and the 7 of an integer in −128..=127 is
//! exact in f32.

use super::super::PANEL_N;
use super::{ConvGeometry, product};
use half::f16;

/// How many bits a weight has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupedBits {
    /// i8.
    W8,
    /// Nibbles that stand for −8..=7, stored plus 8.
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
pub const GROUP_SIZES: [usize; 3] = [32, 64, 128];

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
    /// `[groups][N/16][K/group_size][16]`, rounded up.
    pub scales: &'a [f16],
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
        let q = match self.bits {
            GroupedBits::W8 => byte as i8,
            GroupedBits::W4 if row % 8 < 4 => (byte & 15) as i8 - 8,
            GroupedBits::W4 => (byte >> 4) as i8 - 8,
        };
        let group = panel * k.div_ceil(self.group_size) + row / self.group_size;
        self.scales[group * PANEL_N + lane].to_f32() * f32::from(q)
    }

    /// Panics unless the planes are as long as a geometry with checked sizes says.
    pub(super) fn check(&self, g: &ConvGeometry) {
        assert!(GROUP_SIZES.contains(&self.group_size), "group size");
        let words = self.bits.words(g.k());
        assert!(self.weights.len() >= product(&[g.padded_out_c(), words, 4]), "weights");
        let groups = g.k().div_ceil(self.group_size);
        assert!(self.scales.len() >= product(&[g.padded_out_c(), groups]), "scales");
    }
}

/// Writes the weights `[out_c][kernel_h][kernel_w][in_c / groups]`, within −128..=127 or −8..=7, and their
/// scales `[out_c][K / group_size]`, rounded up, as the planes of [`GroupedWeights`]. Padding is the weight 0 with
/// the scale 0.
///
/// # Panics
///
/// When a slice doesn't have the length that it should have, or a weight doesn't fit the bits.
pub fn pack_weights(
    geometry: &ConvGeometry,
    bits: GroupedBits,
    group_size: usize,
    ohwi: &[i8],
    scale: &[f16],
    weights: &mut [u8],
    scales: &mut [f16],
) {
    let (k, group_out_c) = (geometry.k(), geometry.group_out_c());
    let groups = k.div_ceil(group_size);
    assert_eq!(ohwi.len(), geometry.out_c * k);
    assert_eq!(scale.len(), geometry.out_c * groups);
    assert_eq!((weights.len(), scales.len()), plane_lens(geometry, bits, group_size));
    weights.fill(match bits {
        GroupedBits::W8 => 0,
        GroupedBits::W4 => 0x88,
    });
    scales.fill(f16::ZERO);
    for channel in 0..geometry.out_c {
        let padded = channel / group_out_c * geometry.padded_group_out_c() + channel % group_out_c;
        let (panel, lane) = (padded / PANEL_N, padded % PANEL_N);
        for row in 0..k {
            let q = ohwi[channel * k + row];
            let word = panel * bits.words(k) + row / bits.per_word();
            let byte = &mut weights[(word * PANEL_N + lane) * 4 + row % 4];
            match bits {
                GroupedBits::W8 => *byte = q as u8,
                GroupedBits::W4 => {
                    assert!((-8..=7).contains(&q), "{q} in 4 bits");
                    let shift = if row % 8 < 4 { 0 } else { 4 };
                    *byte = *byte & !(15 << shift) | ((q + 8) as u8) << shift;
                }
            }
        }
        for group in 0..groups {
            scales[(panel * groups + group) * PANEL_N + lane] = scale[channel * groups + group];
        }
    }
}
