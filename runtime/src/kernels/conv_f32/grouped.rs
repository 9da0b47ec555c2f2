//! Weights of 4 to 8 bits whose rows are cut into groups of inputs with a scale each, and perhaps a minimum: layouts 4,
//! 5 and from 7 on of FORMAT.md.
//!
//! A weight is `scale * q` or `scale * q + min`. The product of the 11 bits of an f16 and the 7 of an integer in −128..=127
//! is exact in f32, as is that of an f16, an i8 and an integer of up to 6 bits, or of an f16, 6 bits and 7.

use super::super::PANEL_N;
use super::{ConvGeometry, product};
use crate::DType;
use crate::format::{Layout, cast};
use half::f16;

/// How many bits a weight has, and what they stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GroupedBits {
    /// i8.
    W8,
    /// Nibbles. They stand for −8..=7, stored plus 8, or where there are minima for 0..=15.
    W4,
    /// Nibbles and a fifth bit in another plane: −16..=15, stored plus 16, or 0..=31.
    W5,
    /// Nibbles and two more bits in another plane: −32..=31, stored plus 32, or 0..=63.
    W6,
    /// Nibbles that stand for values of [`NONLINEAR`]; there are no minima.
    W4Nl,
}

/// What the nibbles of [`GroupedBits::W4Nl`] stand for, ascending: nearer to each other where weights are many. Those of GGUF's IQ4_NL and
/// IQ4_XS.
pub const NONLINEAR: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

impl GroupedBits {
    /// All of them.
    pub const ALL: [GroupedBits; 5] =
        [GroupedBits::W8, GroupedBits::W4, GroupedBits::W5, GroupedBits::W6, GroupedBits::W4Nl];

    /// What people call weights of this kind.
    pub const fn name(self) -> &'static str {
        match self {
            GroupedBits::W8 => "w8",
            GroupedBits::W4 => "w4",
            GroupedBits::W5 => "w5",
            GroupedBits::W6 => "w6",
            GroupedBits::W4Nl => "w4nl",
        }
    }

    /// Bits of a weight.
    pub const fn count(self) -> usize {
        match self {
            GroupedBits::W8 => 8,
            GroupedBits::W4 | GroupedBits::W4Nl => 4,
            GroupedBits::W5 => 5,
            GroupedBits::W6 => 6,
        }
    }

    /// Inputs whose weights of one output lie in a word of 32 bits.
    pub const fn per_word(self) -> usize {
        match self {
            GroupedBits::W8 => 4,
            _ => 8,
        }
    }

    /// Bits of a weight beside its nibble.
    pub const fn upper(self) -> usize {
        match self {
            GroupedBits::W8 => 0,
            _ => self.count() - 4,
        }
    }

    /// Words whose upper bits lie in one word; there are only whole units of them.
    pub const fn unit_words(self) -> usize {
        match self.upper() {
            0 => 1,
            upper => 4 / upper,
        }
    }

    /// Inputs of a unit.
    pub const fn unit(self) -> usize {
        self.unit_words() * self.per_word()
    }

    /// Words per output that hold `k` weights.
    pub const fn words(self, k: usize) -> usize {
        k.div_ceil(self.unit()) * self.unit_words()
    }

    /// Whether groups can have this size: one of [`GROUP_SIZES`] and whole units.
    pub fn has_groups_of(self, size: usize) -> bool {
        GROUP_SIZES.contains(&size) && size.is_multiple_of(self.unit())
    }
}

/// Sizes that a group can have: multiples of the inputs of a word.
pub const GROUP_SIZES: [usize; 4] = [16, 32, 64, 128];

/// Inputs that share a factor of [`ScaleKind::I8`]: whole groups.
pub const FACTOR_INPUTS: usize = 256;

/// How scales and minima are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleKind {
    /// f16.
    F16,
    /// f32.
    F32,
    /// An i8 for each group, times an f16 for every [`FACTOR_INPUTS`] inputs, which is exact in f32.
    I8,
}

/// How grouped weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupedForm {
    /// Of a weight.
    pub bits: GroupedBits,
    /// Whether groups have a minimum.
    pub has_mins: bool,
    /// Of scales and minima.
    pub scales: ScaleKind,
}

impl GroupedForm {
    /// The form of a layout, if its weights are grouped.
    pub const fn of(layout: Layout) -> Option<GroupedForm> {
        use {GroupedBits::*, ScaleKind::*};
        let (bits, has_mins, scales) = match layout {
            Layout::GroupedW8 => (W8, false, F16),
            Layout::GroupedW4 => (W4, false, F16),
            Layout::GroupedW8Min => (W8, true, F16),
            Layout::GroupedW4Min => (W4, true, F16),
            Layout::GroupedW8Wide => (W8, false, F32),
            Layout::GroupedW4Wide => (W4, false, F32),
            Layout::GroupedW8WideMin => (W8, true, F32),
            Layout::GroupedW4WideMin => (W4, true, F32),
            Layout::GroupedW4Narrow => (W4, false, I8),
            Layout::GroupedW4NarrowMin => (W4, true, I8),
            Layout::GroupedW5 => (W5, false, F16),
            Layout::GroupedW5Min => (W5, true, F16),
            Layout::GroupedW5NarrowMin => (W5, true, I8),
            Layout::GroupedW6Narrow => (W6, false, I8),
            Layout::GroupedW6 => (W6, false, F16),
            Layout::GroupedW4Nl => (W4Nl, false, F16),
            Layout::GroupedW4NlWide => (W4Nl, false, F32),
            Layout::GroupedW4NlNarrow => (W4Nl, false, I8),
            _ => return None,
        };
        Some(GroupedForm { bits, has_mins, scales })
    }

    /// Every form that has a layout.
    pub fn all() -> impl Iterator<Item = GroupedForm> {
        (0..=u8::MAX).filter_map(Layout::from_number).filter_map(GroupedForm::of)
    }

    /// The layout of this form, if there is one.
    pub fn layout(self) -> Option<Layout> {
        let is_own = |layout: &Layout| GroupedForm::of(*layout) == Some(self);
        (0..=u8::MAX).filter_map(Layout::from_number).find(is_own)
    }

    /// The type of a tensor of this form.
    pub const fn dtype(self) -> DType {
        match self.bits {
            GroupedBits::W8 => DType::I8,
            _ => DType::U8,
        }
    }

    /// The bits that stand for a weight's integer, if there are such.
    fn code(self, q: i8) -> Option<u8> {
        match self.bits {
            GroupedBits::W8 => Some(q as u8),
            GroupedBits::W4Nl => NONLINEAR.binary_search(&q).ok().map(|code| code as u8),
            bits => {
                let code = i16::from(q) + if self.has_mins { 0 } else { 8 << bits.upper() };
                (0..16 << bits.upper()).contains(&code).then_some(code as u8)
            }
        }
    }

    /// Whether a weight can be this integer.
    pub fn holds(self, q: i8) -> bool {
        self.code(q).is_some()
    }

    /// The integers that weights can be, ascending.
    pub fn integers(self) -> impl Iterator<Item = i8> {
        (i8::MIN..=i8::MAX).filter(move |q| self.holds(*q))
    }

    /// What a tensor of this form begins at a multiple of, in bytes.
    pub const fn align(self) -> usize {
        match self.scales {
            ScaleKind::F32 => size_of::<f32>(),
            ScaleKind::F16 | ScaleKind::I8 => size_of::<f16>(),
        }
    }

    /// How long the planes are, at most `usize::MAX`.
    pub const fn lens(self, geometry: &ConvGeometry, group_size: usize) -> PlaneLens {
        let (channels, k) = (geometry.padded_out_c(), geometry.k());
        // Units are long, so that sizes of few inputs may not fit 32 bits: then no tensor is long enough.
        let words = channels.saturating_mul(self.bits.words(k)).saturating_mul(4);
        let scales = channels.saturating_mul(k.div_ceil(group_size));
        let factors = match self.scales {
            ScaleKind::I8 => channels.saturating_mul(k.div_ceil(FACTOR_INPUTS)),
            _ => 0,
        };
        let scale_bytes = match self.scales {
            ScaleKind::F16 => scales.saturating_mul(size_of::<f16>()),
            ScaleKind::F32 => scales.saturating_mul(size_of::<f32>()),
            ScaleKind::I8 => scales.saturating_add(factors.saturating_mul(size_of::<f16>())),
        };
        let upper = match self.bits.upper() {
            0 => 0,
            _ => words / self.bits.unit_words(),
        };
        PlaneLens { words, upper, scales, factors, scale_bytes }
    }

    /// Bytes of all planes, at most `usize::MAX`.
    pub const fn bytes(self, geometry: &ConvGeometry, group_size: usize) -> usize {
        let lens = self.lens(geometry, group_size);
        let scales = lens.scale_bytes.saturating_mul(if self.has_mins { 2 } else { 1 });
        lens.words.saturating_add(lens.upper).saturating_add(scales)
    }

    /// The planes of a tensor; `None` when it is too short, or its scales lie unaligned.
    pub fn planes<'a>(
        self,
        geometry: &ConvGeometry,
        group_size: usize,
        bytes: &'a [u8],
    ) -> Option<GroupedWeights<'a>> {
        let lens = self.lens(geometry, group_size);
        let (weights, rest) = bytes.split_at_checked(lens.words)?;
        let (upper, rest) = rest.split_at_checked(lens.upper)?;
        let (scale_plane, rest) = rest.split_at_checked(lens.scale_bytes)?;
        let plane = |bytes: &'a [u8]| {
            Some(match self.scales {
                ScaleKind::F32 => ScalePlane::F32(cast(bytes)?),
                ScaleKind::F16 => ScalePlane::F16(cast(bytes)?),
                ScaleKind::I8 => {
                    let (integers, factors) = bytes.split_at_checked(lens.scales)?;
                    ScalePlane::I8 { integers: cast(integers)?, factors: cast(factors)? }
                }
            })
        };
        let mins = match self.has_mins {
            true => Some(plane(rest.get(..lens.scale_bytes)?)?),
            false => None,
        };
        let (bits, scales) = (self.bits, plane(scale_plane)?);
        Some(GroupedWeights { bits, group_size, weights, upper, scales, mins })
    }
}

/// How long planes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaneLens {
    /// Bytes of the words, a multiple of 64.
    pub words: usize,
    /// Bytes of the upper bits, a multiple of 64.
    pub upper: usize,
    /// Number of scales, and of minima if there are any.
    pub scales: usize,
    /// Number of their factors.
    pub factors: usize,
    /// Bytes of scales and factors.
    pub scale_bytes: usize,
}

/// Scales or minima, `[groups][N/16][K/group_size][16]`, rounded up.
#[derive(Clone, Copy)]
pub enum ScalePlane<'a> {
    /// f16.
    F16(&'a [f16]),
    /// f32.
    F32(&'a [f32]),
    /// i8 with factors.
    I8 {
        /// In the order of scales.
        integers: &'a [i8],
        /// `[groups][N/16][K/256][16]`, rounded up.
        factors: &'a [f16],
    },
}

/// What scales of a panel there are: [`ConvGeometry::k`] in groups.
#[derive(Clone, Copy)]
pub(crate) struct Panel {
    /// Its number.
    pub(crate) index: usize,
    pub(crate) k: usize,
    pub(crate) group_size: usize,
}

impl Panel {
    /// The panel's first scale.
    pub(crate) const fn first_scale(self) -> usize {
        self.index * self.k.div_ceil(self.group_size) * PANEL_N
    }

    /// The panel's first factor.
    pub(crate) const fn first_factor(self) -> usize {
        self.index * self.k.div_ceil(FACTOR_INPUTS) * PANEL_N
    }
}

impl<'a> ScalePlane<'a> {
    /// That of a group of a panel, for one of its outputs.
    fn at(&self, panel: Panel, group: usize, lane: usize) -> f32 {
        let index = panel.first_scale() + group * PANEL_N + lane;
        match self {
            ScalePlane::F16(plane) => plane[index].to_f32(),
            ScalePlane::F32(plane) => plane[index],
            ScalePlane::I8 { integers, factors } => {
                let factor = group * panel.group_size / FACTOR_INPUTS * PANEL_N + lane;
                factors[panel.first_factor() + factor].to_f32() * f32::from(integers[index])
            }
        }
    }

    /// Those from a panel on, if there are so many.
    #[cfg(any(feature = "std", all(target_arch = "aarch64", target_feature = "neon")))]
    pub(crate) fn from(&self, panel: Panel) -> Option<ScalePlane<'a>> {
        let first = panel.first_scale();
        Some(match self {
            ScalePlane::F16(plane) => ScalePlane::F16(plane.get(first..)?),
            ScalePlane::F32(plane) => ScalePlane::F32(plane.get(first..)?),
            ScalePlane::I8 { integers, factors } => ScalePlane::I8 {
                integers: integers.get(first..)?,
                factors: factors.get(panel.first_factor()..)?,
            },
        })
    }

    /// Panics unless there are those of so many channels.
    fn check(&self, channels: usize, k: usize, group_size: usize) {
        let len = match self {
            ScalePlane::F16(plane) => plane.len(),
            ScalePlane::F32(plane) => plane.len(),
            ScalePlane::I8 { integers, factors } => {
                let needed = product(&[channels, k.div_ceil(FACTOR_INPUTS)]);
                assert!(factors.len() >= needed, "factors");
                integers.len()
            }
        };
        assert!(len >= product(&[channels, k.div_ceil(group_size)]), "scales");
    }
}

/// Grouped weights, as they lie in a file.
#[derive(Clone, Copy)]
pub struct GroupedWeights<'a> {
    /// Of a weight.
    pub bits: GroupedBits,
    /// Inputs per scale, one of [`GROUP_SIZES`].
    pub group_size: usize,
    /// `[groups][N/16][K/4][16][4]` i8, or `[groups][N/16][K/8][16][4]` pairs of nibbles: in byte j of word i,
    /// input 8i + j low and 8i + 4 + j high.
    pub weights: &'a [u8],
    /// With u more bits than nibbles `[groups][N/16][K/(32/u)][16][4]`, else empty: bits u·q to u·q + u − 1 of byte j of word i are those
    /// of input (32/u)·i + 4q + j.
    pub upper: &'a [u8],
    /// Factors.
    pub scales: ScalePlane<'a>,
    /// What is added, if there are minima.
    pub mins: Option<ScalePlane<'a>>,
}

impl<'a> GroupedWeights<'a> {
    /// The bytes of a word of a plane, for one of a panel's outputs. Words count from the first of all.
    #[inline(always)]
    fn bytes_of(plane: &[u8], word: usize, lane: usize) -> [u8; 4] {
        let at = (word * PANEL_N + lane) * 4;
        core::array::from_fn(|i| plane[at..at + 4][i])
    }

    /// The four integers of a word of W8.
    #[inline(always)]
    fn integers_of_bytes(&self, word: usize, lane: usize) -> [i8; 4] {
        Self::bytes_of(self.weights, word, lane).map(|byte| byte as i8)
    }

    /// The eight integers of a word of nibbles.
    #[inline(always)]
    fn integers_of_nibbles(&self, word: usize, lane: usize) -> [i8; 8] {
        let (upper_bits, unit_words) = (self.bits.upper(), self.bits.unit_words());
        let bytes = Self::bytes_of(self.weights, word, lane);
        let mut stored: [u8; 8] = core::array::from_fn(|i| bytes[i % 4] >> (i / 4 * 4) & 15);
        if upper_bits > 0 {
            let bytes = Self::bytes_of(self.upper, word / unit_words, lane);
            let place = upper_bits * 2 * (word % unit_words);
            for (i, stored) in stored.iter_mut().enumerate() {
                let upper = bytes[i % 4] >> (place + i / 4 * upper_bits);
                *stored |= (upper & ((1 << upper_bits) - 1)) << 4;
            }
        }
        if self.bits == GroupedBits::W4Nl {
            return stored.map(|code| NONLINEAR[usize::from(code)]);
        }
        let offset = if self.mins.is_some() { 0 } else { 8 << upper_bits };
        stored.map(|code| code as i8 - offset)
    }

    /// The weight of a padded output channel for input `row` of its `k`.
    pub(crate) fn at(&self, padded_channel: usize, row: usize, k: usize) -> f32 {
        let (index, lane) = (padded_channel / PANEL_N, padded_channel % PANEL_N);
        let per_word = self.bits.per_word();
        let word = index * self.bits.words(k) + row / per_word;
        let q = match self.bits {
            GroupedBits::W8 => self.integers_of_bytes(word, lane)[row % per_word],
            _ => self.integers_of_nibbles(word, lane)[row % per_word],
        };
        let panel = Panel { index, k, group_size: self.group_size };
        let group = row / self.group_size;
        let product = self.scales.at(panel, group, lane) * f32::from(q);
        match self.mins {
            Some(mins) => product + mins.at(panel, group, lane),
            None => product,
        }
    }

    /// The weights of a padded output channel for all inputs: as many as `to` is long.
    pub(crate) fn read(&self, padded_channel: usize, to: &mut [f32]) {
        match self.bits {
            GroupedBits::W8 => self.read_words(padded_channel, to, Self::integers_of_bytes),
            _ => self.read_words(padded_channel, to, Self::integers_of_nibbles),
        }
    }

    /// As [`read`](Self::read), with the integers of words of `N`.
    #[inline(always)]
    fn read_words<const N: usize>(
        &self,
        padded_channel: usize,
        to: &mut [f32],
        integers: impl Fn(&Self, usize, usize) -> [i8; N],
    ) {
        let (index, lane) = (padded_channel / PANEL_N, padded_channel % PANEL_N);
        let panel = Panel { index, k: to.len(), group_size: self.group_size };
        let first_word = index * self.bits.words(to.len());
        for (group, to) in to.chunks_mut(self.group_size).enumerate() {
            let scale = self.scales.at(panel, group, lane);
            // What changes no number, −0 neither.
            let min = self.mins.map_or(-0.0, |mins| mins.at(panel, group, lane));
            let first_word = first_word + group * self.group_size / N;
            let weights =
                |word: usize| integers(self, word, lane).map(|q| scale * f32::from(q) + min);
            let (words, rest) = to.as_chunks_mut::<N>();
            let after = first_word + words.len();
            for (word, to) in (first_word..).zip(words) {
                *to = weights(word);
            }
            if !rest.is_empty() {
                rest.copy_from_slice(&weights(after)[..rest.len()]);
            }
        }
    }

    /// The weights from a panel on, of outputs with `k` inputs each; `None` when there are less.
    #[cfg(any(feature = "std", all(target_arch = "aarch64", target_feature = "neon")))]
    pub(crate) fn from(&self, index: usize, k: usize) -> Option<GroupedWeights<'a>> {
        let panel = Panel { index, k, group_size: self.group_size };
        let words = index * self.bits.words(k);
        let upper = match self.bits.upper() {
            0 => 0,
            _ => words / self.bits.unit_words(),
        };
        Some(GroupedWeights {
            weights: self.weights.get(words * PANEL_N * 4..)?,
            upper: self.upper.get(upper * PANEL_N * 4..)?,
            scales: self.scales.from(panel)?,
            mins: match self.mins {
                Some(mins) => Some(mins.from(panel)?),
                None => None,
            },
            ..*self
        })
    }

    /// Panics unless the planes are as long as a geometry with checked sizes says.
    pub(super) fn check(&self, g: &ConvGeometry) {
        assert!(self.bits.has_groups_of(self.group_size), "group size");
        let (channels, words) = (g.padded_out_c(), self.bits.words(g.k()));
        assert!(self.weights.len() >= product(&[channels, words, 4]), "weights");
        if self.bits.upper() > 0 {
            let units = words / self.bits.unit_words();
            assert!(self.upper.len() >= product(&[channels, units, 4]), "upper bits");
        }
        for plane in [Some(self.scales), self.mins].iter().flatten() {
            plane.check(channels, g.k(), self.group_size);
        }
    }
}

/// Scales or minima to store: `[out_c][K / group_size]`, rounded up.
#[cfg(feature = "std")]
#[derive(Clone, Copy, Debug, Default)]
pub struct Scales<'a> {
    /// What they are.
    pub values: &'a [f32],
    /// For [`ScaleKind::I8`] what they are integers times of, `[out_c][K / FACTOR_INPUTS]`, rounded up.
    pub factors: &'a [f32],
}

#[cfg(feature = "std")]
impl Scales<'_> {
    /// Whether a kind holds them exactly, of `out_c` outputs with `k` inputs each.
    pub fn fit(&self, kind: ScaleKind, k: usize, group_size: usize) -> bool {
        let is_half = |x: &f32| f16::from_f32(*x).to_f32() == *x;
        match kind {
            ScaleKind::F32 => true,
            ScaleKind::F16 => self.values.iter().all(is_half),
            ScaleKind::I8 => {
                let (groups, factors) = (k.div_ceil(group_size), k.div_ceil(FACTOR_INPUTS));
                let rows = |per_row: usize, of: usize| of.checked_div(per_row).unwrap_or(0);
                rows(groups, self.values.len()) == rows(factors, self.factors.len())
                    && self.factors.iter().all(is_half)
                    && (0..self.values.len())
                        .all(|at| self.integer(at / groups, at % groups, k, group_size).is_some())
            }
        }
    }

    /// What a group's scale is times its factor.
    fn integer(&self, channel: usize, group: usize, k: usize, group_size: usize) -> Option<i8> {
        let value = self.values[channel * k.div_ceil(group_size) + group];
        let factor = channel * k.div_ceil(FACTOR_INPUTS) + group * group_size / FACTOR_INPUTS;
        let factor = self.factors[factor];
        let integer = if factor == 0.0 { 0.0 } else { libm::roundf(value / factor) };
        let is_exact = (-128.0..=127.0).contains(&integer) && integer * factor == value;
        is_exact.then_some(integer as i8)
    }
}

/// The planes of weights `[out_c][kernel_h][kernel_w][in_c / groups]`, with their scales, and minima if the form has them, which its
/// kind must hold. Padding is the weight 0 with the scale 0, or behind the last inputs of an output any weight.
///
/// # Panics
///
/// When a slice doesn't have the length that it should have, a weight doesn't fit the bits, or a scale its kind.
#[cfg(feature = "std")]
pub fn pack_weights(
    geometry: &ConvGeometry,
    form: GroupedForm,
    group_size: usize,
    ohwi: &[i8],
    scale: Scales<'_>,
    min: Scales<'_>,
) -> std::vec::Vec<u8> {
    let bits = form.bits;
    let (k, group_out_c) = (geometry.k(), geometry.group_out_c());
    let groups = k.div_ceil(group_size);
    assert_eq!(ohwi.len(), geometry.out_c * k);
    assert_eq!(scale.values.len(), geometry.out_c * groups);
    assert_eq!(min.values.len(), if form.has_mins { scale.values.len() } else { 0 });
    for plane in [scale, min] {
        assert!(plane.fit(form.scales, k, group_size), "a scale in {:?}", form.scales);
    }
    let lens = form.lens(geometry, group_size);
    let mut bytes = std::vec![0; form.bytes(geometry, group_size)];
    let (weights, rest) = bytes.split_at_mut(lens.words);
    let (upper, planes) = rest.split_at_mut(lens.upper);
    // Where no code stands for 0 the scale makes it 0.
    let zero = form.code(0).unwrap_or(8);
    weights.fill(zero & 15 | (zero & 15) << 4);
    upper.fill(match (bits.upper(), zero >> 4) {
        (1, one) => one * 0xFF,
        (_, two) => two * 0x55,
    });
    for channel in 0..geometry.out_c {
        let padded = channel / group_out_c * geometry.padded_group_out_c() + channel % group_out_c;
        let (index, lane) = (padded / PANEL_N, padded % PANEL_N);
        for row in 0..k {
            let q = ohwi[channel * k + row];
            let Some(code) = form.code(q) else { panic!("{q} in {bits:?}") };
            let word = index * bits.words(k) + row / bits.per_word();
            let byte = &mut weights[(word * PANEL_N + lane) * 4 + row % 4];
            if bits == GroupedBits::W8 {
                *byte = code;
                continue;
            }
            let shift = row % 8 / 4 * 4;
            *byte = *byte & !(15 << shift) | (code & 15) << shift;
            if bits.upper() > 0 {
                let unit = word / bits.unit_words();
                let byte = &mut upper[(unit * PANEL_N + lane) * 4 + row % 4];
                let shift = row % bits.unit() / 4 * bits.upper();
                let mask = (1 << bits.upper()) - 1;
                *byte = *byte & !(mask << shift) | (code >> 4) << shift;
            }
        }
        let panel = Panel { index, k, group_size };
        for (plane, scales) in planes.chunks_mut(lens.scale_bytes.max(1)).zip([scale, min]) {
            for group in 0..groups {
                let to = panel.first_scale() + group * PANEL_N + lane;
                let value = scales.values[channel * groups + group];
                match form.scales {
                    ScaleKind::F32 => plane[to * 4..][..4].copy_from_slice(&value.to_le_bytes()),
                    ScaleKind::F16 => {
                        plane[to * 2..][..2].copy_from_slice(&f16::from_f32(value).to_le_bytes())
                    }
                    ScaleKind::I8 => {
                        let integer = scales.integer(channel, group, k, group_size);
                        plane[to] = integer.unwrap_or(0) as u8;
                        let factor = group * group_size / FACTOR_INPUTS;
                        let to = panel.first_factor() + factor * PANEL_N + lane;
                        let factor = scales.factors[channel * k.div_ceil(FACTOR_INPUTS) + factor];
                        plane[lens.scales + to * 2..][..2]
                            .copy_from_slice(&f16::from_f32(factor).to_le_bytes());
                    }
                }
            }
        }
    }
    bytes
}
