//! The records that a session reads in every run: steps, operands, attributes, tensors.
//!
//! They are read where the file has them, so that a session takes no memory for them, or in a copy
//! when the file is mapped and could be edited meanwhile. The same code decodes either, whatever the
//! bytes say: an index out of range is `None`.

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{
    DimOp, DimRecord, Field, Layout, MAX_RANK, NO_OPERAND, Section, StepRecord, Storage,
    TensorRecord,
};
use crate::memory::{Place, Slot};
use crate::model::Model;

/// The sections that a session reads, in the order in which a copy has them.
const COPIED: [Section; 5] =
    [Section::Tensors, Section::Steps, Section::Operands, Section::Attributes, Section::Dims];

/// The records of the tensors.
#[derive(Clone, Copy)]
pub(crate) struct Tensors<'a> {
    records: &'a [u8],
    /// What they say at the present dimensions, if it has been worked out.
    #[cfg(feature = "std")]
    slots: &'a [Slot],
}

/// The sections of a session's program.
#[derive(Clone, Copy)]
pub(crate) struct Tables<'a> {
    pub(crate) tensors: Tensors<'a>,
    steps: &'a [u8],
    operands: &'a [u8],
    attributes: &'a [u8],
    dims: &'a [u8],
    /// Bytes of all constants.
    #[cfg(feature = "std")]
    pub(crate) constant_bytes: usize,
}

impl<'a> Tables<'a> {
    /// Those of the file.
    pub(crate) fn in_file(model: &Model<'a>) -> Tables<'a> {
        let [tensors, steps, operands, attributes, dims] =
            COPIED.map(|section| model.section(section));
        Tables {
            tensors: Tensors::of(tensors),
            steps,
            operands,
            attributes,
            dims,
            #[cfg(feature = "std")]
            constant_bytes: model.section(Section::Constants).len(),
        }
    }

    /// Bytes of a copy.
    pub(crate) fn bytes(&self) -> usize {
        self.parts().map(<[u8]>::len).iter().sum()
    }

    fn parts(&self) -> [&'a [u8]; COPIED.len()] {
        [self.tensors.records, self.steps, self.operands, self.attributes, self.dims]
    }

    /// Copies them to `memory`, which is [`Tables::bytes`] long.
    #[cfg(feature = "std")]
    pub(crate) fn copy_to(&self, mut memory: &mut [u8]) -> Option<()> {
        for part in self.parts() {
            let (to, rest) = memory.split_at_mut_checked(part.len())?;
            to.copy_from_slice(part);
            memory = rest;
        }
        Some(())
    }

    /// The copy in `memory` of tables as long as these.
    #[cfg(feature = "std")]
    pub(crate) fn copied<'c>(&self, mut memory: &'c [u8]) -> Tables<'c> {
        let mut take = |part: &[u8]| {
            let (part, rest) = memory.split_at(part.len().min(memory.len()));
            memory = rest;
            part
        };
        Tables {
            tensors: Tensors::of(take(self.tensors.records)),
            steps: take(self.steps),
            operands: take(self.operands),
            attributes: take(self.attributes),
            dims: take(self.dims),
            constant_bytes: self.constant_bytes,
        }
    }

    /// The same tables, with the tensors as `slots` has them.
    #[cfg(feature = "std")]
    pub(crate) fn with_slots<'s>(self, slots: &'s [Slot]) -> Tables<'s>
    where
        'a: 's,
    {
        Tables { tensors: Tensors { slots, ..self.tensors }, ..self }
    }

    /// Number of steps.
    pub(crate) fn step_count(&self) -> usize {
        self.steps.len() / StepRecord::SIZE
    }

    /// Number of expressions behind the symbols of the dimension table.
    pub(crate) fn dim_count(&self) -> usize {
        self.dims.len() / DimRecord::SIZE
    }

    /// A step's record.
    pub(crate) fn step_record(&self, index: usize) -> Option<StepRecord> {
        record(self.steps, index).map(|bytes: &[u8; StepRecord::SIZE]| StepRecord::read(bytes))
    }

    /// A step at these dimensions.
    #[inline]
    pub(crate) fn step<'s>(&self, index: usize, dims: &'s [u32]) -> Option<Step<'s>>
    where
        'a: 's,
    {
        let record = self.step_record(index)?;
        let (inputs, outputs) = (usize::from(record.input_count), usize::from(record.output_count));
        let operands = self.operands.as_chunks().0.get(record.operands_start as usize..)?;
        let (inputs, rest) = operands.split_at_checked(inputs)?;
        Some(Step {
            tensors: self.tensors,
            inputs,
            outputs: rest.get(..outputs)?,
            attributes: part(
                self.attributes,
                record.attributes_offset as usize,
                record.attributes_bytes as usize,
            )?,
            dims,
        })
    }

    /// Fills in the expressions of the dimension table behind the values of `symbols` symbols.
    pub(crate) fn evaluate_dims(&self, symbols: usize, table: &mut [u32]) -> Option<()> {
        for (index, dim) in self.dims.chunks_exact(DimRecord::SIZE).map(DimRecord::read).enumerate()
        {
            let (done, rest) = table.split_at_mut_checked(symbols.checked_add(index)?)?;
            let (a, b) = (resolve_dim(done, dim.a)?, resolve_dim(done, dim.b)?);
            *rest.first_mut()? = DimOp::from_number(dim.op)?.apply(a, b)?;
        }
        Some(())
    }
}

impl<'a> Tensors<'a> {
    fn of(records: &'a [u8]) -> Tensors<'a> {
        Tensors {
            records,
            #[cfg(feature = "std")]
            slots: &[],
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.records.len() / TensorRecord::SIZE
    }

    #[inline]
    fn record(&self, tensor: u32) -> Option<TensorBytes<'_>> {
        if tensor == NO_OPERAND {
            return None;
        }
        record(self.records, tensor as usize).map(TensorBytes)
    }

    /// Where a tensor lies, at these dimensions.
    #[cfg_attr(feature = "std", inline)]
    #[cfg_attr(not(feature = "std"), inline(never))]
    pub(crate) fn place(&self, tensor: u32, dims: &[u32]) -> Option<Place> {
        #[cfg(feature = "std")]
        if !self.slots.is_empty() {
            return self.slots.get(tensor as usize).map(|slot| slot.place);
        }
        self.read_place(tensor, dims)
    }

    #[cfg_attr(feature = "std", inline(never))]
    #[cfg_attr(not(feature = "std"), inline(always))]
    fn read_place(&self, tensor: u32, dims: &[u32]) -> Option<Place> {
        let record = self.record(tensor)?;
        let constant = |axis: usize| record.dim(axis) >= 0;
        if record.layout() != Layout::Dense as u8 || (0..record.rank()?).all(constant) {
            return record.largest_place();
        }
        self.slot(tensor, dims).map(|slot| slot.place)
    }

    /// A tensor at these dimensions.
    #[cfg_attr(feature = "std", inline)]
    #[cfg_attr(not(feature = "std"), inline(never))]
    pub(crate) fn slot(&self, tensor: u32, dims: &[u32]) -> Option<Slot> {
        #[cfg(feature = "std")]
        if !self.slots.is_empty() {
            return self.slots.get(tensor as usize).copied();
        }
        self.read_slot(tensor, dims)
    }

    #[cfg_attr(feature = "std", inline(never))]
    #[cfg_attr(not(feature = "std"), inline(always))]
    fn read_slot(&self, tensor: u32, dims: &[u32]) -> Option<Slot> {
        let record = self.record(tensor)?;
        let rank = record.rank()?;
        let mut slot = Slot {
            dims: [0; MAX_RANK],
            rank: rank as u8,
            dtype: DType::from_number(record.dtype())?,
            layout: Layout::from_number(record.layout())?,
            place: record.largest_place()?,
            scale: record.scale(),
            zero_point: record.zero_point(),
        };
        let mut symbolic = false;
        for (axis, dim) in slot.dims.iter_mut().enumerate().take(rank) {
            let reference = record.dim(axis);
            symbolic |= reference < 0;
            *dim = resolve_dim(dims, reference)?;
        }
        if symbolic && slot.layout == Layout::Dense {
            let bytes = dense_bytes(&slot)?;
            if bytes > slot.place.bytes {
                return None;
            }
            slot.place.bytes = bytes;
        }
        Some(slot)
    }

    /// Works out every tensor at these dimensions; `None` if one can't be read.
    #[cfg(feature = "std")]
    pub(crate) fn read_slots(&self, dims: &[u32], slots: &mut [Slot]) -> Option<()> {
        for (index, slot) in slots.iter_mut().enumerate() {
            *slot = self.read_slot(index as u32, dims)?;
        }
        Some(())
    }

    /// Whether every tensor can be read at these dimensions, and a dense one has the bytes that its
    /// shape takes.
    pub(crate) fn hold_together(&self, dims: &[u32]) -> bool {
        (0..self.count()).all(|index| {
            self.slot(index as u32, dims).is_some_and(|slot| {
                slot.layout != Layout::Dense || dense_bytes(&slot) == Some(slot.place.bytes)
            })
        })
    }
}

/// The bytes of record number `index`, and perhaps more.
#[inline]
fn record<const N: usize>(records: &[u8], index: usize) -> Option<&[u8; N]> {
    records.get(index.checked_mul(N)?..)?.first_chunk()
}

#[inline]
fn part(bytes: &[u8], start: usize, len: usize) -> Option<&[u8]> {
    bytes.get(start..)?.get(..len)
}

/// A [`TensorRecord`] in place, of which steps read a few fields at a time.
#[derive(Clone, Copy)]
struct TensorBytes<'a>(&'a [u8; TensorRecord::SIZE]);

impl TensorBytes<'_> {
    #[inline]
    fn field<T: Field>(&self, at: usize) -> T {
        T::read(&self.0[at..])
    }

    fn dtype(&self) -> u8 {
        self.0[8]
    }

    fn layout(&self) -> u8 {
        self.0[9]
    }

    /// Axes, at most [`MAX_RANK`].
    fn rank(&self) -> Option<usize> {
        let rank = usize::from(self.0[11]);
        (rank <= MAX_RANK).then_some(rank)
    }

    /// The dimension reference of an axis below [`MAX_RANK`].
    #[inline]
    fn dim(&self, axis: usize) -> i32 {
        self.field(12 + axis % MAX_RANK * i32::SIZE)
    }

    /// Where it lies at its largest dimensions.
    #[inline]
    fn largest_place(&self) -> Option<Place> {
        Some(Place {
            storage: Storage::from_number(self.0[10])?,
            offset: usize::try_from(self.field::<u64>(44)).ok()?,
            bytes: usize::try_from(self.field::<u64>(52)).ok()?,
        })
    }

    fn scale(&self) -> f32 {
        self.field(60)
    }

    fn zero_point(&self) -> i32 {
        self.field(64)
    }

    fn group_size(&self) -> u32 {
        self.field(68)
    }
}

/// Bytes of all elements.
fn dense_bytes(slot: &Slot) -> Option<usize> {
    let size = slot.dtype.size();
    slot.dims().iter().try_fold(size, |bytes, dim| bytes.checked_mul(*dim as usize))
}

/// The value of a dimension reference, given the dimension table.
#[inline]
pub(crate) fn resolve_dim(dims: &[u32], reference: i32) -> Option<u32> {
    if reference >= 0 { Some(reference as u32) } else { dims.get(!reference as usize).copied() }
}

/// What a step says about itself: operand shapes and attributes, without their memory.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    tensors: Tensors<'a>,
    /// Tensor indices as in the file.
    inputs: &'a [[u8; u32::SIZE]],
    outputs: &'a [[u8; u32::SIZE]],
    attributes: &'a [u8],
    dims: &'a [u32],
}

impl Step<'_> {
    /// The attribute record; `check` makes sure that it is there in full.
    pub fn attributes<T: Field>(&self) -> T {
        T::read(self.attributes)
    }

    /// Whether the attribute record has the size of a `T`.
    pub fn expect_attributes<T: Field>(&self) -> Result<T, StepErrorKind> {
        if self.attributes.len() != T::SIZE {
            return Err(StepErrorKind::Attribute("record"));
        }
        Ok(T::read(self.attributes))
    }

    /// Number of inputs, absent ones included.
    pub fn input_count(&self) -> usize {
        self.inputs.len()
    }

    /// Number of outputs.
    pub fn output_count(&self) -> usize {
        self.outputs.len()
    }

    /// Tensor index of an input; [`NO_OPERAND`] when there is none.
    #[inline]
    fn input_tensor(&self, index: usize) -> u32 {
        self.inputs.get(index).map_or(NO_OPERAND, |bytes| u32::from_le_bytes(*bytes))
    }

    /// Tensor index of an output; [`NO_OPERAND`] when nobody wants it.
    #[inline]
    fn output_tensor(&self, index: usize) -> u32 {
        self.outputs.get(index).map_or(NO_OPERAND, |bytes| u32::from_le_bytes(*bytes))
    }

    /// Input number `index`.
    pub fn input(&self, index: usize) -> Result<Slot, StepErrorKind> {
        self.optional_input(index).ok_or(StepErrorKind::OperandCount)
    }

    /// Input number `index`, if it is there.
    #[cfg_attr(not(feature = "std"), inline(never))]
    pub fn optional_input(&self, index: usize) -> Option<Slot> {
        self.tensors.slot(self.input_tensor(index), self.dims)
    }

    /// Output number `index`.
    pub fn output(&self, index: usize) -> Result<Slot, StepErrorKind> {
        self.optional_output(index).ok_or(StepErrorKind::OperandCount)
    }

    /// Output number `index`, if somebody wants it.
    #[cfg_attr(not(feature = "std"), inline(never))]
    pub fn optional_output(&self, index: usize) -> Option<Slot> {
        self.tensors.slot(self.output_tensor(index), self.dims)
    }

    /// Whether the present dimensions leave this step nothing to compute: they make all of its outputs empty.
    #[cfg(feature = "std")]
    pub(crate) fn is_idle(&self) -> bool {
        let mut outputs = (0..self.output_count()).filter_map(|index| self.optional_output(index));
        let is_empty = |y: Slot| y.elements() == 0;
        !self.dims.is_empty() && outputs.next().is_some_and(is_empty) && outputs.all(is_empty)
    }

    /// Whether input number `index` is there.
    pub(crate) fn has_input(&self, index: usize) -> bool {
        self.input_tensor(index) != NO_OPERAND
    }

    /// The layout of input number `index`; dense when it isn't there.
    pub(crate) fn input_layout(&self, index: usize) -> Layout {
        let record = self.tensors.record(self.input_tensor(index));
        record.and_then(|record| Layout::from_number(record.layout())).unwrap_or(Layout::Dense)
    }

    /// How many inputs of grouped weights share a scale.
    pub(crate) fn input_group_size(&self, index: usize) -> usize {
        let record = self.tensors.record(self.input_tensor(index));
        record.map_or(0, |record| record.group_size() as usize)
    }

    /// Where input number `index` lies, if it is there: cheaper than the whole slot.
    #[cfg_attr(not(feature = "std"), inline(never))]
    pub(crate) fn input_place(&self, index: usize) -> Option<Place> {
        self.tensors.place(self.input_tensor(index), self.dims)
    }

    /// Where output number `index` lies, if somebody wants it.
    #[cfg_attr(not(feature = "std"), inline(never))]
    pub(crate) fn output_place(&self, index: usize) -> Option<Place> {
        self.tensors.place(self.output_tensor(index), self.dims)
    }

    /// [`Step::input_place`] in a session that runs, for which all tensors have been worked out.
    #[cfg(feature = "std")]
    #[inline]
    pub(crate) fn known_input_place(&self, index: usize) -> Option<&Place> {
        self.tensors.slots.get(self.input_tensor(index) as usize).map(|slot| &slot.place)
    }

    /// [`Step::output_place`], as [`Step::known_input_place`].
    #[cfg(feature = "std")]
    #[inline]
    pub(crate) fn known_output_place(&self, index: usize) -> Option<&Place> {
        self.tensors.slots.get(self.output_tensor(index) as usize).map(|slot| &slot.place)
    }

    /// [`Step::output_place`]: without std, tensors are read anew each time.
    #[cfg(not(feature = "std"))]
    #[inline(always)]
    pub(crate) fn known_output_place(&self, index: usize) -> Option<Place> {
        self.output_place(index)
    }

    /// [`Step::input_place`]: without std, tensors are read anew each time.
    #[cfg(not(feature = "std"))]
    #[inline(always)]
    pub(crate) fn known_input_place(&self, index: usize) -> Option<Place> {
        self.input_place(index)
    }

    /// The present value of a dimension reference in an attribute.
    pub fn dim(&self, reference: i32) -> Result<usize, StepErrorKind> {
        resolve_dim(self.dims, reference)
            .map(|dim| dim as usize)
            .ok_or(StepErrorKind::Attribute("dimension"))
    }

    /// Checks the number of operands: inputs between `inputs.0` and `inputs.1`, one output.
    pub fn expect_counts(&self, least: usize, most: usize) -> Result<(), StepErrorKind> {
        let fits = (least..=most).contains(&self.input_count()) && self.output_count() == 1;
        if fits { Ok(()) } else { Err(StepErrorKind::OperandCount) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_the_record_has_them() {
        let record = TensorRecord {
            dtype: DType::I16 as u8,
            layout: Layout::Depthwise as u8,
            storage: Storage::State as u8,
            rank: 3,
            dims: [11, -1, 13, 14, 15, 16, 17, -18],
            offset: 21,
            bytes: 22,
            scale: 0.5,
            zero_point: -7,
            group_size: 64,
            ..TensorRecord::default()
        };
        let mut bytes = [0; TensorRecord::SIZE];
        record.write(&mut bytes);
        let read = TensorBytes(&bytes);
        assert_eq!((read.dtype(), read.layout()), (record.dtype, record.layout));
        assert_eq!(core::array::from_fn(|axis| read.dim(axis)), record.dims);
        assert_eq!((read.scale(), read.zero_point()), (record.scale, record.zero_point));
        assert_eq!(read.group_size(), record.group_size);
        let slot = Tensors::of(&bytes).slot(0, &[12]).unwrap();
        assert_eq!(slot.dims(), [11, 12, 13]);
        let place = Tensors::of(&bytes).place(0, &[12]).unwrap();
        assert_eq!((place.storage, place.offset, place.bytes), (Storage::State, 21, 22));
    }
}
