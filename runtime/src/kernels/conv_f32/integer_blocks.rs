//! Many rows times grouped weights in integers: a prompt.
//!
//! The inputs are those of [`integers`](super::integers). Weights become the integers that instructions multiply, of 16 bits or of 8, and
//! their scales floats, a panel and a block of K at a time, which stay in the L1 cache while all tiles of a block of rows meet them.

use super::grouped::{FACTOR_INPUTS, GROUP_SIZES, GroupedBits, GroupedWeights};
use super::integer_rows::MOST_ROWS;
use super::integers::{Inputs, MAX_GROUP, Quads, Quantize, UNIT, nibbles, row_len, surplus};
use super::lanes::{Grouped, Lanes, W4, W4Nl, W5, W6, W8};
use super::tile::{Finish, GroupedPanel, Row, Tile, WeightPtr, write};
use super::{ConvF32, ConvGeometry};
use crate::kernels::{PANEL_N, PanelWeights};
use core::{array, ptr};

#[cfg(target_arch = "aarch64")]
pub(super) mod aarch64;
#[cfg(target_arch = "x86_64")]
pub(super) mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64::QUAD_LEN;
#[cfg(target_arch = "x86_64")]
use x86_64::QUAD_LEN;

/// Inputs in a block of K: whole units, groups and factors.
const BLOCK_K: usize = 512;

/// Output pixels in a block, whole tiles.
const BLOCK_ROWS: usize = 96;

/// Rows of the highest tile.
const MAX_TILE_ROWS: usize = 12;

const _: () = assert!(
    BLOCK_K.is_multiple_of(FACTOR_INPUTS)
        && BLOCK_K.is_multiple_of(UNIT)
        && BLOCK_K.is_multiple_of(MAX_GROUP)
        && BLOCK_ROWS.is_multiple_of(MAX_TILE_ROWS)
);

/// The kernel of an instruction set.
#[derive(Clone, Copy)]
pub(super) struct BlocksKernel {
    /// Most rows of a tile, of which [`MAX_TILE_ROWS`] is a multiple.
    tile_rows: usize,
    /// Into what [`Products::Quads`] says.
    quantize: Quantize,
    /// [`TileInputs::set`], of [`Products::QUADS`].
    set: fn(&mut TileInputs<'_>, usize, &Inputs<'_>),
    /// [`unpack`], for a CPU with the instruction set.
    unpack: unsafe fn(&Block, &mut Unpacked<'_>),
    /// [`panel_rows`], for a CPU with the instruction set.
    run: unsafe fn(&Tile<'_>, &Block, &Unpacked<'_>, &TileInputs<'_>),
}

/// A block of K of 16 outputs.
struct Block {
    panel: GroupedPanel,
    /// The first input, a multiple of [`BLOCK_K`].
    first: usize,
    /// How many there are, up to [`BLOCK_K`].
    inputs: usize,
}

/// What [`Block`]s of so many inputs take.
#[derive(Clone, Copy)]
struct Sizes {
    /// Quads, in whole units of any kind of weights.
    quads: usize,
    groups: usize,
}

impl Sizes {
    fn new(inputs: usize, group_size: usize) -> Sizes {
        Sizes { quads: inputs.next_multiple_of(UNIT) / 4, groups: inputs.div_ceil(group_size) }
    }

    /// Elements of [`Unpacked`].
    fn unpacked_len(self) -> usize {
        self.quads * QUAD_LEN + 2 * self.groups * PANEL_N
    }

    /// Elements of [`TileInputs`] for each row.
    fn row_len(self) -> usize {
        2 * self.quads + 2 * self.groups
    }
}

/// The weights of a block.
struct Unpacked<'s> {
    /// Quads of [`QUAD_LEN`] elements, as [`Products::store`] writes them.
    integers: &'s mut [f32],
    /// `[groups][16]`.
    scales: &'s mut [f32],
    /// The same, if the panel has minima.
    mins: &'s mut [f32],
}

impl<'s> Unpacked<'s> {
    /// In [`Sizes::unpacked_len`] elements.
    fn new(sizes: Sizes, scratch: &'s mut [f32]) -> Unpacked<'s> {
        let (integers, rest) = scratch.split_at_mut(sizes.quads * QUAD_LEN);
        let (scales, rest) = rest.split_at_mut(sizes.groups * PANEL_N);
        let mins = &mut rest[..sizes.groups * PANEL_N];
        Unpacked { integers, scales, mins }
    }
}

/// The inputs of a tile of `rows` rows, the most that tiles of the kernel have.
struct TileInputs<'s> {
    rows: usize,
    /// `[quads / QUADS][2][rows][QUADS]`, of [`Products::QUADS`]: the first elements of a row's quads, then the second.
    integers: &'s mut [f32],
    /// Steps, `[groups][rows]`.
    steps: &'s mut [f32],
    /// Sums of inputs, `[groups][rows]`.
    reals: &'s mut [f32],
}

impl<'s> TileInputs<'s> {
    /// In [`Sizes::row_len`] elements for each row.
    fn new(sizes: Sizes, rows: usize, scratch: &'s mut [f32]) -> TileInputs<'s> {
        let (integers, rest) = scratch.split_at_mut(2 * sizes.quads * rows);
        let (steps, rest) = rest.split_at_mut(sizes.groups * rows);
        let reals = &mut rest[..sizes.groups * rows];
        TileInputs { rows, integers, steps, reals }
    }

    /// Puts a row where it belongs.
    fn set<const QUADS: usize>(&mut self, row: usize, inputs: &Inputs<'_>) {
        let (places, _) = self.integers.as_chunks_mut::<QUADS>();
        let quads = inputs.integers.chunks_exact(2 * QUADS);
        for (to, from) in places.chunks_exact_mut(2 * self.rows).zip(quads) {
            let (first, second) = to.split_at_mut(self.rows);
            first[row] = array::from_fn(|quad| from[2 * quad]);
            second[row] = array::from_fn(|quad| from[2 * quad + 1]);
        }
        let lists = [(&mut *self.steps, inputs.steps), (&mut *self.reals, inputs.reals)];
        for (to, from) in lists {
            for (to, from) in to.chunks_exact_mut(self.rows).zip(from) {
                to[row] = *from;
            }
        }
    }
}

/// Elements of scratch, for fewer pixels, too.
pub(super) fn scratch_len(g: &ConvGeometry) -> usize {
    if !g.is_pointwise() {
        return 0;
    }
    let k = g.k().min(BLOCK_K);
    let sizes = Sizes::new(k, GROUP_SIZES[0]);
    let rows = g.out_pixels().min(BLOCK_ROWS).next_multiple_of(MAX_TILE_ROWS);
    sizes.unpacked_len().max(row_len(k, GROUP_SIZES[0])) + rows * sizes.row_len()
}

/// The weights, if the kernel suits a convolution.
pub(super) fn suiting<'a>(args: &ConvF32<'a>) -> Option<GroupedWeights<'a>> {
    let g = &args.geometry;
    let PanelWeights::Grouped(weights) = args.weights else { return None };
    (g.is_pointwise() && g.out_pixels() > MOST_ROWS && g.k() > 0).then_some(weights)
}

/// Rows times weights, which are [`suiting`].
///
/// # Safety
///
/// The CPU has the instruction set of `kernel`.
pub(super) unsafe fn conv_f32_integer_blocks(
    args: &mut ConvF32<'_>,
    weights: GroupedWeights<'_>,
    kernel: BlocksKernel,
) {
    const NONE: Row = Row { start: ptr::null(), step: 0, line_step: 0 };
    args.check();
    assert!(MAX_TILE_ROWS.is_multiple_of(kernel.tile_rows));
    let g = args.geometry;
    let k = g.k();
    assert!(g.is_pointwise() && args.scratch.len() >= scratch_len(&g), "scratch");
    let scratch = core::mem::take(&mut args.scratch);
    let pixels = args.pixels.clone();
    for first_pixel in pixels.clone().step_by(BLOCK_ROWS) {
        let rows = BLOCK_ROWS.min(pixels.end - first_pixel);
        // Even heights: a last tile of few rows would be slow.
        let height = rows.div_ceil(rows.div_ceil(kernel.tile_rows));
        for first in (0..k).step_by(BLOCK_K) {
            let inputs = BLOCK_K.min(k - first);
            let sizes = Sizes::new(inputs, weights.group_size);
            let row_len = row_len(inputs, weights.group_size);
            let (panel, rest) = scratch.split_at_mut(sizes.unpacked_len().max(row_len));
            let tile_len = kernel.tile_rows * sizes.row_len();
            for row in 0..rows {
                let input = &args.input[(first_pixel + row) * k + first..][..inputs];
                // SAFETY: the caller vouches for the instruction set.
                let row_inputs =
                    unsafe { (kernel.quantize)(input, weights.group_size, &mut panel[..row_len]) };
                let tile = &mut rest[row / height * tile_len..][..tile_len];
                let mut tile = TileInputs::new(sizes, kernel.tile_rows, tile);
                (kernel.set)(&mut tile, row % height, &row_inputs);
            }
            let mut unpacked = Unpacked::new(sizes, panel);
            for channel in (0..g.out_c).step_by(PANEL_N) {
                let panel = GroupedPanel::new(weights, channel / PANEL_N, k);
                let block = Block { panel, first, inputs };
                // SAFETY: the caller vouches for the instruction set, `check` for whole panels of k inputs, which the block's are
                // among.
                unsafe { (kernel.unpack)(&block, &mut unpacked) };
                for (tile, scratch) in rest.chunks_mut(tile_len).enumerate() {
                    let row = tile * height;
                    if row >= rows {
                        break;
                    }
                    let pixel = first_pixel + row;
                    let (finish, in_place) =
                        Finish::new(&args.epilogue, g.out_c, pixel, channel, channel);
                    let tile = Tile {
                        rows: &[NONE; MAX_TILE_ROWS][..height.min(rows - row)],
                        lines: 1,
                        runs: 1,
                        run_len: inputs,
                        a_step: 1,
                        weights: WeightPtr::Grouped(panel),
                        streams: false,
                        weight_step: PANEL_N,
                        panel_stride: 0,
                        cols: PANEL_N.min(g.out_c - channel),
                        output: args.output
                            [(pixel - pixels.start) * args.output_stride + channel..]
                            .as_mut_ptr(),
                        output_stride: args.output_stride,
                        accumulate: first > 0 || in_place,
                        finish: (first + inputs == k).then_some(finish),
                    };
                    let tile_inputs = TileInputs::new(sizes, kernel.tile_rows, scratch);
                    // SAFETY: the caller vouches for the instruction set. `check` proved the lengths of output, bias and residual. The
                    // block was unpacked, and the inputs of as many rows were written.
                    unsafe { (kernel.run)(&tile, &block, &unpacked, &tile_inputs) };
                }
            }
        }
        let done = first_pixel - pixels.start..first_pixel - pixels.start + rows;
        args.epilogue.activate(args.output, done, 0..g.out_c, args.output_stride);
    }
    args.scratch = scratch;
}

/// Products of a tile's inputs by a panel's weights, of an instruction set.
///
/// A group takes one or two passes: all of its weights times the first, or the only, elements of its inputs, then times the second.
/// Sums and totals of a tile are `NV` registers for each of `MR` rows. Which row and outputs a register is of, [`Products::of_rows`] and
/// [`Products::of_outputs`] know.
///
/// # Safety
///
/// Every function may be called only on a CPU with the implementation's instruction set.
trait Products {
    /// How integers of inputs and of weights are read.
    type Quads: Quads;
    /// A register of outputs.
    type Outputs: Lanes<Words = <Self::Quads as Quads>::Words>;
    /// A register of sums.
    type Sums: Copy;

    /// Two where a quad of inputs is two elements that are multiplied by the same weights; one where each has weights of its own.
    const PASSES: usize;
    /// Quads of a row or output that lie side by side.
    const QUADS: usize;

    /// Sums of nothing.
    unsafe fn zero() -> Self::Sums;
    /// What the first pass leaves for the second to add to.
    unsafe fn next_pass(sums: Self::Sums) -> Self::Sums;
    /// Adds the products of a step: of [`Self::QUADS`] elements for each of `ROWS` rows, and for each output of a panel.
    unsafe fn add<const ROWS: usize, const MR: usize, const NV: usize>(
        sums: &mut [[Self::Sums; NV]; MR],
        weights: *const f32,
        inputs: *const f32,
    );
    /// Sums as floats.
    unsafe fn floats(sums: Self::Sums) -> Self::Outputs;
    /// A panel's numbers in the places of outputs of register `v` of row `row`.
    unsafe fn of_outputs(from: *const f32, row: usize, v: usize) -> Self::Outputs;
    /// The numbers of `ROWS` rows in the places of rows of the registers of row `row`.
    unsafe fn of_rows<const ROWS: usize>(from: *const f32, row: usize) -> Self::Outputs;
    /// Totals as registers of one row each, with its outputs in order.
    #[inline(always)]
    unsafe fn by_rows<const MR: usize, const NV: usize>(
        total: [[Self::Outputs; NV]; MR],
    ) -> [[Self::Outputs; NV]; MR] {
        total
    }
    /// Writes two quads of weights, less `surplus`, of the outputs from `lane` on into an octet, which has `2 * QUAD_LEN` elements for all outputs.
    unsafe fn store(
        quads: [<Self::Quads as Quads>::Weights; 2],
        surplus: i16,
        octet: *mut f32,
        lane: usize,
    );
}

/// Writes the integers and scales of a block.
///
/// # Safety
///
/// The CPU has the instruction set of `I`, and the panel the inputs of the block.
#[inline(always)]
unsafe fn unpack<I: Products>(block: &Block, to: &mut Unpacked<'_>) {
    // SAFETY: the contract is the same.
    unsafe {
        match block.panel.bits {
            GroupedBits::W8 => unpack_of::<I, W8>(block, to),
            GroupedBits::W4 => unpack_of::<I, W4>(block, to),
            GroupedBits::W5 => unpack_of::<I, W5>(block, to),
            GroupedBits::W6 => unpack_of::<I, W6>(block, to),
            GroupedBits::W4Nl => unpack_of::<I, W4Nl>(block, to),
        }
    }
}

/// # Safety
///
/// As [`unpack`] says; weights have the bits of `B`.
#[inline(always)]
unsafe fn unpack_of<I: Products, B: Grouped>(block: &Block, to: &mut Unpacked<'_>) {
    const ROW_BYTES: usize = PANEL_N * 4;
    let panel = &block.panel;
    let (per_word, unit_words) = (B::BITS.per_word(), B::BITS.unit_words());
    let sizes = Sizes::new(block.inputs, panel.group_size);
    let surplus = surplus::<I::Quads, B>(panel) as i16;
    let (first_word, first_group) = (block.first / per_word, block.first / panel.group_size);
    assert!(to.integers.len() >= sizes.quads * QUAD_LEN);
    assert!(to.scales.len().min(to.mins.len()) >= sizes.groups * PANEL_N);
    // SAFETY: the words are those of the block in whole units, which the caller promises, for all lanes of the panel; so are the
    // scales. What they become was asserted to have room, for units are whole octets.
    unsafe {
        let integers = to.integers.as_mut_ptr();
        let (words, octet_words) = (B::BITS.words(block.inputs), 8 / per_word);
        for octet in 0..words.div_ceil(octet_words) {
            for v in (0..PANEL_N).step_by(I::Outputs::LEN) {
                let at = first_word + octet * octet_words;
                let from = panel.words.add(at * ROW_BYTES + v * 4);
                let quads = match (per_word, B::BITS.upper()) {
                    (4, _) => {
                        // Where there is no second word its inputs are zeros, so that weights don't matter.
                        let has_second = octet * octet_words + 1 < words;
                        let second = from.add(if has_second { ROW_BYTES } else { 0 });
                        [I::Quads::w8(from), I::Quads::w8(second)]
                    }
                    (_, upper_bits) => {
                        // Without upper bits any words, which nobody reads.
                        let upper = match upper_bits {
                            0 => from,
                            _ => panel.upper.add(at / unit_words * ROW_BYTES + v * 4),
                        };
                        let upper = I::Outputs::load_words(upper);
                        nibbles::<I::Quads, I::Outputs, B>(from, upper, at % unit_words)
                    }
                };
                I::store(quads, surplus, integers.add(octet * 2 * QUAD_LEN), v);
            }
        }
        for group in 0..sizes.groups {
            for v in (0..PANEL_N).step_by(I::Outputs::LEN) {
                let at = group * PANEL_N + v;
                let scale: I::Outputs = panel.scales.load(first_group + group, v);
                scale.store(to.scales.as_mut_ptr().add(at));
                if let Some(mins) = panel.mins {
                    let min: I::Outputs = mins.load(first_group + group, v);
                    min.store(to.mins.as_mut_ptr().add(at));
                }
            }
        }
    }
}

/// One panel of 16 outputs in `NV` registers for up to `MR` rows of a tile of `ROWS`.
///
/// # Safety
///
/// The CPU has the instruction set of `I`. Output and epilogue of the tile are as [`Tile`] says, for up to `MR` rows. The block was
/// unpacked, and the inputs of the tile's rows were written, with as many inputs.
#[inline(always)]
unsafe fn panel_rows<I: Products, const ROWS: usize, const MR: usize, const NV: usize>(
    tile: &Tile<'_>,
    block: &Block,
    unpacked: &Unpacked<'_>,
    inputs: &TileInputs<'_>,
) {
    debug_assert!(tile.rows.len() <= MR && MR <= ROWS && NV * I::Outputs::LEN == PANEL_N);
    let panel = &block.panel;
    let sizes = Sizes::new(block.inputs, panel.group_size);
    assert!(inputs.integers.len() >= 2 * sizes.quads * ROWS);
    assert!(inputs.steps.len().min(inputs.reals.len()) >= sizes.groups * ROWS);
    assert!(unpacked.integers.len() >= sizes.quads * QUAD_LEN);
    assert!(unpacked.scales.len().min(unpacked.mins.len()) >= sizes.groups * PANEL_N);
    // What is between the inputs and whole units are zeros.
    let steps = (block.inputs.div_ceil(4) * 2).div_ceil(I::PASSES * I::QUADS);
    let steps_per_group = panel.group_size / (2 * I::PASSES * I::QUADS);
    let (weight_step, input_step) = (I::QUADS * PANEL_N, I::PASSES * I::QUADS * ROWS);
    // SAFETY: all lengths were asserted, and a step, of up to 8 inputs, is within the unit of its first. Rows past the last hold what was
    // there; their sums are dropped.
    unsafe {
        let mut total = [[I::Outputs::zero(); NV]; MR];
        if panel.mins.is_some() {
            for group in 0..sizes.groups {
                let mins = unpacked.mins.as_ptr().add(group * PANEL_N);
                let reals = inputs.reals.as_ptr().add(group * ROWS);
                for v in 0..NV {
                    for row in 0..MR {
                        let min = I::of_outputs(mins, row, v);
                        let real = I::of_rows::<ROWS>(reals, row);
                        total[row][v] = total[row][v].fma(min, real);
                    }
                }
            }
        }
        for group in 0..sizes.groups {
            let first = group * steps_per_group;
            let steps = steps_per_group.min(steps - first);
            let mut sums = [[I::zero(); NV]; MR];
            for pass in 0..I::PASSES {
                if pass > 0 {
                    sums = sums.map(|row| row.map(|sums| I::next_pass(sums)));
                }
                let mut weights = unpacked.integers.as_ptr().add(first * weight_step);
                let mut x =
                    inputs.integers.as_ptr().add(first * input_step + pass * I::QUADS * ROWS);
                for _ in 0..steps {
                    I::add::<ROWS, MR, NV>(&mut sums, weights, x);
                    weights = weights.add(weight_step);
                    x = x.wrapping_add(input_step);
                }
            }
            let scales = unpacked.scales.as_ptr().add(group * PANEL_N);
            let steps = inputs.steps.as_ptr().add(group * ROWS);
            for v in 0..NV {
                for row in 0..MR {
                    let scale = I::of_outputs(scales, row, v);
                    let step = I::of_rows::<ROWS>(steps, row);
                    let exact = I::floats(sums[row][v]);
                    total[row][v] = total[row][v].fma(exact, scale.mul(step));
                }
            }
        }
        write::<I::Outputs, MR, NV>(tile, I::by_rows(total));
    }
}
