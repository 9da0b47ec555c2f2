//! The microkernel: a tile of rows × columns of a matrix product, held in registers over K.

use super::grouped::{FACTOR_INPUTS, GroupedBits, GroupedWeights, Panel, ScalePlane};
use super::lanes::{Grouped, Lanes, Weight};
use super::rounding::Bf16Tile;
use crate::kernels::{EpilogueF32, FloatWeights, PANEL_N, ResidualData};
use core::cmp::Ordering;
use core::ptr;
use half::{bf16, f16};

/// What a tile kernel needs. The pointers are raw because rows overlap and may lie in different
/// slices.
///
/// # Safety
///
/// A call is sound when the CPU has the kernel's instruction set, and, with `w(k, j)` short for
/// element `k * weight_step + j / PANEL_N * panel_stride + j % PANEL_N`:
///
/// - every row points to `lines` lines of `runs` runs of `run_len` readable elements, `a_step` apart, each run
///   the row's `step` elements after the last, and each line its `line_step` elements;
/// - `w(k, j)` is readable for `k < lines * runs * run_len` and `j` up to `cols` rounded up to whole panels; grouped
///   weights instead are a panel's, for its first `run_len` inputs, `lines`, `runs` and `a_step` are 1, there are up
///   to `grouped_rows` rows and `cols` is at most [`PANEL_N`];
/// - `output` is writable for `rows.len()` rows of `cols` elements, `output_stride` apart;
/// - in `finish`, `bias` is readable for `cols` rounded up to whole panels, and `residual`, unless
///   null, for `rows.len()` rows of `cols` elements, `residual_stride` apart.
pub(crate) struct Tile<'a> {
    /// 1 to the kernel's number of rows.
    pub(crate) rows: &'a [Row],
    pub(crate) lines: usize,
    pub(crate) runs: usize,
    pub(crate) run_len: usize,
    /// Elements from one element of a run to the next: 1 unless A is transposed.
    pub(crate) a_step: usize,
    pub(crate) weights: WeightPtr,
    /// The weights are more than caches hold, and nobody reads them again soon.
    #[cfg_attr(
        not(all(target_arch = "x86_64", feature = "std")),
        allow(dead_code, reason = "fetching ahead is measured on x86-64 only")
    )]
    pub(crate) streams: bool,
    /// Elements from one row of weights to the next.
    pub(crate) weight_step: usize,
    /// Elements from a panel to the next.
    pub(crate) panel_stride: usize,
    /// 1 to the kernel's number of columns.
    pub(crate) cols: usize,
    pub(crate) output: *mut f32,
    pub(crate) output_stride: usize,
    /// Whether the output holds something to add to: the sum of earlier blocks of K, or a residual.
    pub(crate) accumulate: bool,
    /// What to do with the sum, after the last block of K.
    pub(crate) finish: Option<Finish>,
}

/// One row of A.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub(crate) start: *const f32,
    /// Elements from a run to the next.
    pub(crate) step: usize,
    /// Elements from a line to the next.
    pub(crate) line_step: usize,
}

/// Where a tile's weights start.
#[derive(Clone, Copy)]
pub(crate) enum WeightPtr {
    F32(*const f32),
    F16(*const f16),
    /// Words of two inputs.
    Pairs(*const bf16),
    #[cfg_attr(
        not(any(all(target_arch = "aarch64", target_feature = "neon"), test)),
        allow(dead_code, reason = "tiles of NEON read it")
    )]
    Grouped(GroupedPanel),
}

/// Sixteen outputs of grouped weights.
#[derive(Clone, Copy)]
pub(crate) struct GroupedPanel {
    pub(crate) bits: GroupedBits,
    pub(crate) group_size: usize,
    /// [`GroupedBits::words`] rows of [`PANEL_N`] words.
    pub(crate) words: *const u8,
    /// A row of [`PANEL_N`] words for each unit, of weights with upper bits.
    pub(crate) upper: *const u8,
    /// A row of [`PANEL_N`] for each group.
    pub(crate) scales: ScalePtr,
    /// The same, if there are minima.
    pub(crate) mins: Option<ScalePtr>,
}

/// Scales of a panel.
#[derive(Clone, Copy)]
pub(crate) enum ScalePtr {
    F16(*const f16),
    F32(*const f32),
    /// A factor is that of `1 << log2_groups` groups.
    I8 {
        integers: *const i8,
        factors: *const f16,
        log2_groups: u32,
    },
}

impl ScalePtr {
    /// Those from a panel on.
    ///
    /// # Panics
    ///
    /// When there are less.
    fn new(plane: ScalePlane<'_>, panel: Panel) -> ScalePtr {
        match plane.from(panel).expect("scales of the panel") {
            ScalePlane::F16(plane) => ScalePtr::F16(plane.as_ptr()),
            ScalePlane::F32(plane) => ScalePtr::F32(plane.as_ptr()),
            ScalePlane::I8 { integers, factors } => ScalePtr::I8 {
                integers: integers.as_ptr(),
                factors: factors.as_ptr(),
                log2_groups: (FACTOR_INPUTS / panel.group_size).ilog2(),
            },
        }
    }

    /// Those of the outputs from `lane` on.
    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
    pub(super) fn starting_at(self, lane: usize) -> ScalePtr {
        match self {
            ScalePtr::F16(start) => ScalePtr::F16(start.wrapping_add(lane)),
            ScalePtr::F32(start) => ScalePtr::F32(start.wrapping_add(lane)),
            ScalePtr::I8 { integers, factors, log2_groups } => ScalePtr::I8 {
                integers: integers.wrapping_add(lane),
                factors: factors.wrapping_add(lane),
                log2_groups,
            },
        }
    }

    /// A register of those of a group, for the outputs from `lane` on.
    ///
    /// # Safety
    ///
    /// They are readable, and the CPU has the instruction set of `L`.
    #[inline(always)]
    pub(super) unsafe fn load<L: Lanes>(self, group: usize, lane: usize) -> L {
        let at = group * PANEL_N + lane;
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                ScalePtr::F16(start) => L::load_f16(start.add(at)),
                ScalePtr::F32(start) => L::load(start.add(at)),
                ScalePtr::I8 { integers, factors, log2_groups } => {
                    let factor = (group >> log2_groups) * PANEL_N + lane;
                    L::load_i8(integers.add(at)).mul(L::load_f16(factors.add(factor)))
                }
            }
        }
    }
}

impl GroupedPanel {
    /// Panel number `panel` of weights with `k` inputs.
    ///
    /// # Panics
    ///
    /// When it starts past the end of a plane.
    pub(crate) fn new(weights: GroupedWeights<'_>, panel: usize, k: usize) -> GroupedPanel {
        let from = weights.from(panel, k).expect("weights of the panel");
        let first = Panel { index: 0, k, group_size: weights.group_size };
        GroupedPanel {
            bits: from.bits,
            group_size: from.group_size,
            words: from.weights.as_ptr(),
            upper: from.upper.as_ptr(),
            scales: ScalePtr::new(from.scales, first),
            mins: from.mins.map(|mins| ScalePtr::new(mins, first)),
        }
    }

    /// How much more than a weight its stored bits are, where they have an upper part.
    #[inline(always)]
    pub(super) fn surplus(&self) -> u8 {
        if self.mins.is_some() { 0 } else { 8 << self.bits.upper() }
    }
}

/// Inputs of a panel as floats.
///
/// # Safety
///
/// A call of [`TileKernel::dequantize`] is sound when the CPU has the kernel's instruction set, the panel
/// has `first_unit + units` units and the scales for them, and `output` is writable for all their
/// inputs, [`PANEL_N`] elements each.
pub(crate) struct Dequantize {
    pub(crate) panel: GroupedPanel,
    pub(crate) first_unit: usize,
    pub(crate) units: usize,
    /// `[inputs][16]`: what a panel of f32 weights is.
    pub(crate) output: *mut f32,
}

impl<'a> Tile<'a> {
    /// Up to `columns` columns, from column `first` on. The weights stay those of the whole tile.
    #[inline(always)]
    pub(super) fn columns_from(&self, first: usize, columns: usize) -> Tile<'a> {
        let finish = self.finish.map(|finish| Finish {
            bias: finish.bias.wrapping_add(first),
            residual: match finish.residual.is_null() {
                true => finish.residual,
                false => finish.residual.wrapping_add(first),
            },
            ..finish
        });
        let output = self.output.wrapping_add(first);
        Tile { cols: columns.min(self.cols - first), output, finish, ..*self }
    }
}

impl WeightPtr {
    /// The weights from element `offset` on.
    ///
    /// # Panics
    ///
    /// When `offset` is past the end.
    pub(crate) fn new(weights: FloatWeights<'_>, offset: usize) -> WeightPtr {
        match weights {
            FloatWeights::F32(w) => WeightPtr::F32(w[offset..].as_ptr()),
            FloatWeights::F16(w) => WeightPtr::F16(w[offset..].as_ptr()),
        }
    }
}

/// The epilogue of a tile.
#[derive(Clone, Copy)]
pub(crate) struct Finish {
    pub(crate) bias: *const f32,
    /// Null for none.
    pub(crate) residual: *const f32,
    pub(crate) residual_stride: usize,
    pub(crate) min: f32,
    pub(crate) max: f32,
}

impl Finish {
    /// Of a tile that begins with a pixel of `out_c` channels and a channel; and whether the output holds the residual.
    ///
    /// # Panics
    ///
    /// When bias or residual are too short to begin there.
    pub(super) fn new(
        epilogue: &EpilogueF32<'_>,
        out_c: usize,
        pixel: usize,
        channel: usize,
        padded_channel: usize,
    ) -> (Finish, bool) {
        let (residual, in_place) = match epilogue.residual {
            Some(ResidualData::Apart(data)) => (data[pixel * out_c + channel..].as_ptr(), false),
            Some(ResidualData::InOutput) => (ptr::null(), true),
            None => (ptr::null(), false),
        };
        let finish = Finish {
            bias: epilogue.bias[padded_channel..].as_ptr(),
            residual,
            residual_stride: out_c,
            min: epilogue.min,
            max: epilogue.max,
        };
        (finish, in_place)
    }
}

/// A tile kernel of one instruction set.
#[derive(Clone, Copy)]
pub(crate) struct TileKernel {
    /// Most rows and panels of one call.
    pub(crate) rows: usize,
    /// Most rows of a call with at most half a panel of columns.
    pub(crate) narrow_rows: usize,
    pub(crate) panels: usize,
    /// Most rows of a call with grouped weights; 0 if there is none.
    pub(crate) grouped_rows: usize,
    /// Unsafe as [`Tile`] says.
    pub(crate) run: unsafe fn(&Tile<'_>),
    /// One row of one run, whose weights are floats in panels, by any number of columns. Unsafe as [`Tile`] says.
    pub(crate) row: unsafe fn(&Tile<'_>),
    /// Unsafe as [`Dequantize`] says.
    pub(crate) dequantize: unsafe fn(&Dequantize),
    /// For weights in bf16.
    pub(crate) bf16: Bf16Tile,
}

/// Computes a tile of up to `MR` rows and exactly `NV` registers of columns (of which `tile.cols`
/// count), with `KU` independent sums to hide the latency of the fused multiply-add where rows
/// are few.
///
/// # Safety
///
/// As [`Tile`] says, for `L`; `tile.weights` points to `W`s at `weights`.
#[inline(always)]
pub(crate) unsafe fn tile<
    L: Lanes,
    W: Weight,
    const MR: usize,
    const NV: usize,
    const KU: usize,
>(
    tile: &Tile<'_>,
    weights: *const W,
) {
    let rows = tile.rows.len();
    debug_assert!(rows >= 1 && rows <= MR && tile.cols >= 1 && tile.cols <= NV * L::LEN);
    // No panel is read that isn't there.
    debug_assert!(tile.cols.next_multiple_of(PANEL_N) >= NV * L::LEN);
    let per_panel = PANEL_N / L::LEN;

    // SAFETY: all reads are of elements that Tile promises. Rows past the last repeat it; their
    // sums are dropped. Pointers are advanced with wrapping_add where they may leave their slice.
    unsafe {
        let mut a = [tile.rows[0].start; MR];
        for i in 1..MR {
            a[i] = tile.rows.get_unchecked(i.min(rows - 1)).start;
        }
        let mut w = weights;
        let mut sums = [[[L::zero(); NV]; MR]; KU];

        let mut left = tile.runs;
        let mut lines_left = tile.lines;
        while left > 0 {
            let mut k = 0;
            let mut at = 0;
            if L::INPUTS > 1 && !W::IS_PAIR && tile.a_step == 1 {
                while k + L::INPUTS <= tile.run_len {
                    let mut x = [L::load_inputs(a[0].add(k)); MR];
                    for i in 1..MR {
                        x[i] = L::load_inputs(a[i].add(k));
                    }
                    for j in 0..L::INPUTS {
                        for v in 0..NV {
                            let b: L = W::load(
                                w.add(v / per_panel * tile.panel_stride + v % per_panel * L::LEN),
                            );
                            for i in 0..MR {
                                sums[j % KU][i][v] = sums[j % KU][i][v].fma_input(x[i], j, b);
                            }
                        }
                        w = w.wrapping_add(tile.weight_step);
                    }
                    k += L::INPUTS;
                }
                at = k;
            }
            while k + KU <= tile.run_len {
                for u in 0..KU {
                    let mut b = [L::zero(); NV];
                    for v in 0..NV {
                        b[v] = W::load::<L>(
                            w.add(v / per_panel * tile.panel_stride + v % per_panel * L::LEN),
                        );
                    }
                    for i in 0..MR {
                        let x = L::splat(*a[i].add(at));
                        for v in 0..NV {
                            sums[u][i][v] = W::fma(sums[u][i][v], x, b[v]);
                        }
                    }
                    w = w.wrapping_add(tile.weight_step);
                    at += tile.a_step;
                }
                k += KU;
            }
            if KU > 1 {
                while k < tile.run_len {
                    for v in 0..NV {
                        let b: L = W::load(
                            w.add(v / per_panel * tile.panel_stride + v % per_panel * L::LEN),
                        );
                        for i in 0..MR {
                            let x = L::splat(*a[i].add(at));
                            sums[0][i][v] = W::fma(sums[0][i][v], x, b);
                        }
                    }
                    w = w.wrapping_add(tile.weight_step);
                    at += tile.a_step;
                    k += 1;
                }
            }
            left -= 1;
            for i in 0..MR {
                a[i] = a[i].wrapping_add(tile.rows.get_unchecked(i.min(rows - 1)).step);
            }
            if left == 0 && lines_left > 1 {
                (left, lines_left) = (tile.runs, lines_left - 1);
                for i in 0..MR {
                    let row = tile.rows.get_unchecked(i.min(rows - 1));
                    let line_end = row.step.wrapping_mul(tile.runs);
                    a[i] = a[i].wrapping_add(row.line_step).wrapping_sub(line_end);
                }
            }
        }

        let mut sum = sums[0];
        for u in 1..KU {
            for i in 0..MR {
                for v in 0..NV {
                    sum[i][v] = sum[i][v].add(sums[u][i][v]);
                }
            }
        }
        write::<L, MR, NV>(tile, sum);
    }
}

/// A row of any number of columns, panel by panel: it is read once, and fastest in the order in which it lies. `NV` registers
/// are a panel.
///
/// # Safety
///
/// As [`TileKernel::row`] says, for `L`; `t.weights` points to `W`s at `weights`.
#[inline(always)]
pub(crate) unsafe fn row<L: Lanes, W: Weight, const NV: usize>(t: &Tile<'_>, weights: *const W) {
    const { assert!(NV * L::LEN == PANEL_N) };
    let panel_stride = t.run_len * PANEL_N;
    debug_assert!(t.rows.len() == 1 && t.panel_stride == panel_stride);
    debug_assert!((t.lines, t.runs, t.a_step, t.weight_step) == (1, 1, 1, PANEL_N));
    let mut weights = weights;
    for column in (0..t.cols).step_by(PANEL_N) {
        // Numbers that the compiler knows: one loop is left of three.
        let steps = Tile { lines: 1, runs: 1, a_step: 1, weight_step: PANEL_N, ..*t };
        // SAFETY: the contract is the same; the panel exists.
        unsafe { tile::<L, W, 1, NV, 4>(&steps.columns_from(column, PANEL_N), weights) };
        weights = weights.wrapping_add(panel_stride);
    }
}

/// As [`tile`], of up to `MR` rows with grouped weights: sums over a group are multiplied by its scale, so that
/// a weight costs no more than its conversion.
///
/// # Safety
///
/// As [`Tile`] says, for `L`; `tile.weights` is `panel`, of the bits of `B`.
#[cfg(any(all(target_arch = "aarch64", target_feature = "neon"), test))]
#[inline(always)]
pub(crate) unsafe fn grouped_tile<L: Lanes, B: Grouped, const MR: usize, const NV: usize>(
    tile: &Tile<'_>,
    panel: &GroupedPanel,
) {
    let rows = tile.rows.len();
    debug_assert!(rows >= 1 && rows <= MR && tile.cols >= 1 && tile.cols <= NV * L::LEN);
    let (k, per_word) = (tile.run_len, B::BITS.per_word());
    let (words, whole_words) = (k.div_ceil(per_word), k / per_word);
    let words_per_group = panel.group_size / per_word;

    // SAFETY: all reads are of elements that Tile promises: inputs below k of each row, a panel's words for
    // k inputs and the scales of their groups. Rows past the last repeat it; their sums are dropped.
    unsafe {
        let mut a = [tile.rows[0].start; MR];
        for i in 1..MR {
            a[i] = tile.rows.get_unchecked(i.min(rows - 1)).start;
        }
        let mut group = 0;
        let mut total = [[L::zero(); NV]; MR];
        let mut word = 0;
        while word < words {
            let group_end = word + words_per_group;
            // Two sums, so that one's addition doesn't wait for the other's.
            let mut sums = [[[L::zero(); NV]; MR]; 2];
            while word < group_end.min(whole_words) {
                for v in 0..NV {
                    let w = load::<L, B>(panel, word, v * L::LEN);
                    for part in 0..B::BITS.per_word() / L::INPUTS {
                        let first = part * L::INPUTS;
                        let mut x = [L::load_inputs(a[0].add(word * per_word + first)); MR];
                        for i in 1..MR {
                            x[i] = L::load_inputs(a[i].add(word * per_word + first));
                        }
                        for j in 0..L::INPUTS {
                            let b: L = B::weights::<L>(w, first + j);
                            for i in 0..MR {
                                let sum = &mut sums[(first + j) % 2][i][v];
                                *sum = sum.fma_input(x[i], j, b);
                            }
                        }
                    }
                }
                word += 1;
            }
            if word == whole_words && word < words && word < group_end {
                for v in 0..NV {
                    let w = load::<L, B>(panel, word, v * L::LEN);
                    for j in 0..B::BITS.per_word() {
                        let at = word * per_word + j;
                        if at < k {
                            let b: L = B::weights::<L>(w, j);
                            for i in 0..MR {
                                let x = L::splat(*a[i].add(at));
                                sums[0][i][v] = sums[0][i][v].fma(x, b);
                            }
                        }
                    }
                }
                word += 1;
            }
            if let Some(mins) = panel.mins {
                // What the inputs of a group add up to, which its minimum is a factor of.
                let first = group * panel.group_size;
                let last = k.min(first + panel.group_size);
                let mut inputs = [L::zero(); MR];
                for i in 0..MR {
                    inputs[i] = L::splat(sum::<L>(a[i].add(first), last - first));
                }
                for v in 0..NV {
                    let min = mins.load::<L>(group, v * L::LEN);
                    let offset = L::splat(B::OFFSET);
                    for i in 0..MR {
                        sums[0][i][v] = sums[0][i][v].fma(inputs[i], offset);
                        total[i][v] = total[i][v].fma(inputs[i], min);
                    }
                }
            }
            for v in 0..NV {
                let scale: L = panel.scales.load(group, v * L::LEN);
                for i in 0..MR {
                    total[i][v] = total[i][v].fma(sums[0][i][v].add(sums[1][i][v]), scale);
                }
            }
            group += 1;
        }
        write::<L, MR, NV>(tile, total);
    }
}

/// A word of a panel, for the outputs from `lane` on.
///
/// # Safety
///
/// The panel has the bits of `B` and the word, and the CPU the instruction set of `L`.
#[inline(always)]
pub(super) unsafe fn load<L: Lanes, B: Grouped>(
    panel: &GroupedPanel,
    word: usize,
    lane: usize,
) -> B::Loaded<L> {
    let (unit, part) = (word / B::BITS.unit_words(), word % B::BITS.unit_words());
    let words = panel.words.wrapping_add((word * PANEL_N + lane) * 4);
    let upper = panel.upper.wrapping_add((unit * PANEL_N + lane) * 4);
    // SAFETY: the caller's promise.
    unsafe { B::load::<L>(words, upper, part, panel.surplus()) }
}

/// The sum of `count` numbers.
///
/// # Safety
///
/// They are readable, and the CPU has the instruction set of `L`.
#[cfg(any(all(target_arch = "aarch64", target_feature = "neon"), test))]
#[inline(always)]
unsafe fn sum<L: Lanes>(from: *const f32, count: usize) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        let mut total = L::zero();
        let mut at = 0;
        while at + L::LEN <= count {
            total = total.add(L::load(from.add(at)));
            at += L::LEN;
        }
        if at < count {
            total = total.add(L::load_part(from.add(at), count - at));
        }
        total.sum()
    }
}

/// See [`Dequantize`].
///
/// # Safety
///
/// As [`Dequantize`] says, for `L`; the panel has the bits of `B`.
#[inline(always)]
pub(crate) unsafe fn dequantize<L: Lanes, B: Grouped>(args: &Dequantize) {
    let (unit_words, per_word) = (B::BITS.unit_words(), B::BITS.per_word());
    let units_per_group = args.panel.group_size / B::BITS.unit();
    // SAFETY: words, scales and output are those that Dequantize promises.
    unsafe {
        let mut to = args.output;
        for unit in args.first_unit..args.first_unit + args.units {
            let group = unit / units_per_group;
            for v in (0..PANEL_N).step_by(L::LEN) {
                let scale: L = args.panel.scales.load(group, v);
                let min = args.panel.mins.map(|mins| mins.load::<L>(group, v));
                for part in 0..B::BITS.unit_words() {
                    let w = load::<L, B>(&args.panel, unit * unit_words + part, v);
                    let to = to.add(part * per_word * PANEL_N + v);
                    if let Some(min) = min {
                        let offset = L::splat(B::OFFSET);
                        for j in 0..B::BITS.per_word() {
                            let weight: L = B::weights::<L>(w, j).add(offset).mul(scale).add(min);
                            weight.store(to.add(j * PANEL_N));
                        }
                        continue;
                    }
                    for j in 0..B::BITS.per_word() {
                        B::weights::<L>(w, j).mul(scale).store(to.add(j * PANEL_N));
                    }
                }
            }
            to = to.add(B::BITS.unit() * PANEL_N);
        }
    }
}

/// Adds what is already there, the bias and the residual; clamps; stores.
///
/// # Safety
///
/// As [`Tile`] says, for `L`.
#[inline(always)]
pub(super) unsafe fn write<L: Lanes, const MR: usize, const NV: usize>(
    tile: &Tile<'_>,
    mut sum: [[L; NV]; MR],
) {
    let rows = tile.rows.len();
    // SAFETY: rows i < tile.rows.len() and columns below tile.cols are promised by Tile.
    unsafe {
        if let Some(finish) = tile.finish {
            for v in 0..NV {
                let bias = L::load(finish.bias.add(v * L::LEN));
                for i in 0..MR {
                    sum[i][v] = sum[i][v].add(bias);
                }
            }
        }
        if let Some(finish) = tile.finish
            && !tile.accumulate
            && finish.residual.is_null()
            && rows == MR
            && tile.cols == NV * L::LEN
        {
            // The usual case, without a branch per register.
            let (min, max) = (L::splat(finish.min), L::splat(finish.max));
            for i in 0..MR {
                let output = tile.output.add(i * tile.output_stride);
                for v in 0..NV {
                    sum[i][v].clamp(min, max).store(output.add(v * L::LEN));
                }
            }
            return;
        }
        if tile.cols == NV * L::LEN {
            // Whole registers: a branch per row and kind.
            for i in 0..MR {
                if i >= rows {
                    break;
                }
                let output = tile.output.add(i * tile.output_stride);
                if tile.accumulate {
                    for v in 0..NV {
                        sum[i][v] = sum[i][v].add(L::load(output.add(v * L::LEN)));
                    }
                }
                if let Some(finish) = tile.finish {
                    if !finish.residual.is_null() {
                        let residual = finish.residual.add(i * finish.residual_stride);
                        for v in 0..NV {
                            sum[i][v] = sum[i][v].add(L::load(residual.add(v * L::LEN)));
                        }
                    }
                    for v in 0..NV {
                        sum[i][v] = sum[i][v].clamp(L::splat(finish.min), L::splat(finish.max));
                    }
                }
                for v in 0..NV {
                    sum[i][v].store(output.add(v * L::LEN));
                }
            }
            return;
        }
        for i in 0..MR {
            if i >= rows {
                break;
            }
            let output = tile.output.add(i * tile.output_stride);
            for v in 0..NV {
                let n = tile.cols.saturating_sub(v * L::LEN);
                write_lanes(tile, i, v * L::LEN, n, output.wrapping_add(v * L::LEN), sum[i][v]);
            }
        }
    }
}

/// Finishes the first `n` lanes of one register: row `i` of the tile, column `col` on.
///
/// # Safety
///
/// As [`Tile`] says, for `L`; `output` is writable for `n` elements, at most `L::LEN`.
#[inline(always)]
unsafe fn write_lanes<L: Lanes>(
    tile: &Tile<'_>,
    i: usize,
    col: usize,
    n: usize,
    output: *mut f32,
    sum: L,
) {
    // SAFETY: only the first n lanes of row i are accessed, which Tile promises.
    unsafe {
        let read =
            |from: *const f32| if n >= L::LEN { L::load(from) } else { L::load_part(from, n) };
        let mut y = sum;
        if tile.accumulate {
            y = y.add(read(output));
        }
        if let Some(finish) = tile.finish {
            if !finish.residual.is_null() {
                y = y.add(read(finish.residual.wrapping_add(i * finish.residual_stride + col)));
            }
            y = y.clamp(L::splat(finish.min), L::splat(finish.max));
        }
        match n.cmp(&L::LEN) {
            Ordering::Less => y.store_part(output, n),
            _ => y.store(output),
        }
    }
}
