//! Gathers and scatters by element and by tuple, selection, running sums, sequences.

use super::elementwise::Axes;
use super::moves::{by_size, copy};
use super::{Lower, Refusal, elements, small};
use crate::backend::cuda::arguments::{
    Cumulative, GatherElements, GatherNd, ReverseSequence, ScatterElements, ScatterNd, TopK,
};
use crate::backend::cuda::kernels::{
    CUMULATIVE_F32, CUMULATIVE_I32, CUMULATIVE_I64, GATHER_ELEMENTS_1, GATHER_ELEMENTS_2,
    GATHER_ELEMENTS_4, GATHER_ELEMENTS_8, GATHER_ND_1, GATHER_ND_2, GATHER_ND_4, GATHER_ND_8,
    Kernel, REVERSE_SEQUENCE_1, REVERSE_SEQUENCE_2, REVERSE_SEQUENCE_4, REVERSE_SEQUENCE_8,
    SCATTER_ELEMENTS_1, SCATTER_ELEMENTS_2, SCATTER_ELEMENTS_4, SCATTER_ELEMENTS_8,
    SCATTER_ELEMENTS_F32, SCATTER_ELEMENTS_I32, SCATTER_ELEMENTS_I64, SCATTER_ND_1, SCATTER_ND_2,
    SCATTER_ND_4, SCATTER_ND_8, SCATTER_ND_F32, SCATTER_ND_I32, SCATTER_ND_I64, TOP_K_F32,
    TOP_K_I8, TOP_K_I32, TOP_K_I64,
};
use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{
    AxisAttributes, CumulativeAttributes, GatherNdAttributes, MAX_RANK, ScatterAttributes,
    TopKAttributes,
};
use crate::memory::Slot;
use crate::ops::shape::{product, split, strides};

/// Threads that are enough to keep a device busy.
const ENOUGH_THREADS: usize = 1 << 16;

pub(super) fn gather_elements(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let axis = lower.step.expect_attributes::<AxisAttributes>()?.axis as usize;
    let ((x, data), (ids, indices), (y, output)) =
        (lower.input(0)?, lower.input(1)?, lower.output(0)?);
    // The indexed axis doesn't move along with the result; the index does that.
    let mut free = strides(&x);
    let along = std::mem::replace(&mut free[axis], 0) as u64;
    let axes = Axes::new(y.dims(), &[free])?;
    let arguments = GatherElements {
        data,
        indices,
        output,
        status: lower.status(),
        strides: axes.strides[0],
        along,
        extents: axes.extents,
        rank: axes.rank,
        extent: small(x.dim(axis))?,
        elements: elements(&y)?,
        step: lower.index,
        wide: is_wide(&ids),
        reserved: 0,
    };
    let family = [&GATHER_ELEMENTS_1, &GATHER_ELEMENTS_2, &GATHER_ELEMENTS_4, &GATHER_ELEMENTS_8];
    lower.call_elements(by_size(x.dtype().size(), family), arguments.elements, arguments)
}

fn is_wide(indices: &Slot) -> u32 {
    u32::from(indices.dtype() == DType::I64)
}

/// Extents and strides of the axes of `x` from `first` on that tuples of so many indices name, as kernels have them.
fn indexed_axes(
    x: &Slot,
    first: usize,
    tuple: usize,
) -> Result<([u32; MAX_RANK], [u64; MAX_RANK]), StepErrorKind> {
    let (own, mut extents, mut of) = (strides(x), [1; MAX_RANK], [0; MAX_RANK]);
    for axis in 0..tuple {
        extents[axis] = small(x.dim(first + axis))?;
        of[axis] = own[first + axis] as u64;
    }
    Ok((extents, of))
}

pub(super) fn gather_nd(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let batch = lower.step.expect_attributes::<GatherNdAttributes>()?.batch_axes as usize;
    let ((x, data), (ids, indices), (y, output)) =
        (lower.input(0)?, lower.input(1)?, lower.output(0)?);
    let tuple = ids.dim(ids.rank() - 1);
    let (extents, strides) = indexed_axes(&x, batch, tuple)?;
    let arguments = GatherNd {
        data,
        indices,
        output,
        status: lower.status(),
        strides,
        batch_stride: product(&x.dims()[batch..]) as u64,
        extents,
        tuple: small(tuple)?,
        per_batch: small(product(&ids.dims()[batch..ids.rank() - 1]))?,
        block: small(product(&x.dims()[batch + tuple..]))?,
        elements: elements(&y)?,
        step: lower.index,
        wide: is_wide(&ids),
    };
    let family = [&GATHER_ND_1, &GATHER_ND_2, &GATHER_ND_4, &GATHER_ND_8];
    lower.call_elements(by_size(x.dtype().size(), family), arguments.elements, arguments)
}

/// The kernel that replaces elements of a type, or combines them.
fn scatter_kernel(
    dtype: DType,
    reduction: u32,
    replace: [&'static Kernel; 4],
    combine: [&'static Kernel; 3],
) -> &'static Kernel {
    match dtype {
        _ if reduction == 0 => by_size(dtype.size(), replace),
        DType::F32 => combine[0],
        DType::I32 => combine[1],
        _ => combine[2],
    }
}

pub(super) fn scatter_elements(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let ScatterAttributes { axis, reduction } = lower.step.expect_attributes()?;
    copy(lower)?;
    let ((x, _), (ids, indices), (_, updates), (_, output)) =
        (lower.input(0)?, lower.input(1)?, lower.input(2)?, lower.output(0)?);
    if elements(&ids)? == 0 {
        return Ok(());
    }
    let (split, axis, own) = (split(&ids, axis)?, axis as usize, strides(&x));
    let (mut dims, mut free, mut rank) = ([1; MAX_RANK], [0; MAX_RANK], 0);
    for other in (0..ids.rank()).filter(|other| *other != axis) {
        (dims[rank], free[rank]) = (ids.dims()[other], own[other]);
        rank += 1;
    }
    let axes = Axes::new(&dims[..rank], &[free])?;
    let arguments = ScatterElements {
        indices,
        updates,
        output,
        status: lower.status(),
        strides: axes.strides[0],
        along: own[axis] as u64,
        extents: axes.extents,
        rank: axes.rank,
        lines: small(split.outer * split.inner)?,
        count: small(split.extent)?,
        inner: small(split.inner)?,
        extent: small(x.dim(axis))?,
        reduction,
        step: lower.index,
        wide: is_wide(&ids),
    };
    let kernel = scatter_kernel(
        x.dtype(),
        reduction,
        [&SCATTER_ELEMENTS_1, &SCATTER_ELEMENTS_2, &SCATTER_ELEMENTS_4, &SCATTER_ELEMENTS_8],
        [&SCATTER_ELEMENTS_F32, &SCATTER_ELEMENTS_I32, &SCATTER_ELEMENTS_I64],
    );
    lower.call_elements(kernel, arguments.lines, arguments)
}

pub(super) fn scatter_nd(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let ScatterAttributes { reduction, .. } = lower.step.expect_attributes()?;
    copy(lower)?;
    let ((x, _), (ids, indices), (new, updates), (_, output)) =
        (lower.input(0)?, lower.input(1)?, lower.input(2)?, lower.output(0)?);
    if elements(&new)? == 0 {
        return Ok(());
    }
    let tuple = ids.dim(ids.rank() - 1);
    let (extents, strides) = indexed_axes(&x, 0, tuple)?;
    let places = product(&ids.dims()[..ids.rank() - 1]);
    let block = product(&x.dims()[tuple..]);
    let shares = (ENOUGH_THREADS / block).clamp(1, places);
    let arguments = ScatterNd {
        indices,
        updates,
        output,
        status: lower.status(),
        strides,
        extents,
        tuple: small(tuple)?,
        places: small(places)?,
        block: small(block)?,
        shares: small(shares)?,
        reduction,
        step: lower.index,
        wide: is_wide(&ids),
        reserved: 0,
    };
    let kernel = scatter_kernel(
        x.dtype(),
        reduction,
        [&SCATTER_ND_1, &SCATTER_ND_2, &SCATTER_ND_4, &SCATTER_ND_8],
        [&SCATTER_ND_F32, &SCATTER_ND_I32, &SCATTER_ND_I64],
    );
    lower.call_elements(kernel, small(block * shares)?, arguments)
}

pub(super) fn top_k(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let TopKAttributes { axis, smallest, .. } = lower.step.expect_attributes()?;
    let (x, input) = lower.input(0)?;
    let outputs = [0, 1].map(|index| lower.step.optional_output(index));
    let result = outputs.iter().flatten().next().ok_or(StepErrorKind::OperandCount)?;
    let [values, indices] =
        outputs.map(|slot| slot.map_or(0, |slot| lower.bases.address(&slot.place)));
    let split = split(&x, axis)?;
    let arguments = TopK {
        input,
        values,
        indices,
        extent: small(split.extent)?,
        inner: small(split.inner)?,
        kept: small(result.dim(axis as usize))?,
        elements: elements(&x)?,
        smallest,
        reserved: 0,
    };
    let kernel: &'static Kernel = match x.dtype() {
        DType::F32 => &TOP_K_F32,
        DType::I8 => &TOP_K_I8,
        DType::I32 => &TOP_K_I32,
        _ => &TOP_K_I64,
    };
    lower.call_elements(kernel, arguments.elements, arguments)
}

pub(super) fn cumulative(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let attributes: CumulativeAttributes = lower.step.expect_attributes()?;
    let CumulativeAttributes { axis, kind, exclusive, reverse } = attributes;
    let ((x, input), (_, output)) = (lower.input(0)?, lower.output(0)?);
    elements(&x)?;
    let split = split(&x, axis)?;
    let arguments = Cumulative {
        input,
        output,
        extent: small(split.extent)?,
        inner: small(split.inner)?,
        columns: small(split.outer * split.inner)?,
        kind,
        exclusive,
        reverse,
    };
    let kernel: &'static Kernel = match x.dtype() {
        DType::F32 => &CUMULATIVE_F32,
        DType::I32 => &CUMULATIVE_I32,
        _ => &CUMULATIVE_I64,
    };
    lower.call_elements(kernel, arguments.columns, arguments)
}

pub(super) fn reverse_sequence(lower: &mut Lower<'_>) -> Result<(), Refusal> {
    let time = lower.step.expect_attributes::<AxisAttributes>()?.axis;
    let ((x, input), (slot, lengths), (_, output)) =
        (lower.input(0)?, lower.input(1)?, lower.output(0)?);
    let arguments = ReverseSequence {
        input,
        lengths,
        output,
        status: lower.status(),
        rows: small(x.dim(0))?,
        columns: small(x.dim(1))?,
        block: small(product(&x.dims()[2..]))?,
        time,
        elements: elements(&x)?,
        step: lower.index,
        wide: is_wide(&slot),
        reserved: 0,
    };
    let family =
        [&REVERSE_SEQUENCE_1, &REVERSE_SEQUENCE_2, &REVERSE_SEQUENCE_4, &REVERSE_SEQUENCE_8];
    lower.call_elements(by_size(x.dtype().size(), family), arguments.elements, arguments)
}
