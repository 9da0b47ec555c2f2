//! A session's memory: one block, carved into tables, arena, state and scratch, and the views that
//! steps get of it.
//!
//! The block is either allocated once (std) or given by the caller. Everything unsafe about
//! sharing it out between a step's operands is in this file.

use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{Element, Layout, MAX_RANK, Storage, cast, cast_mut};
use crate::ops::{Bound, Step};

/// Start of the block and of each of its parts: one cache line.
pub(crate) const BLOCK_ALIGN: usize = 64;

/// A tensor as a session sees it: its present shape, and where it lies.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    pub(crate) dims: [u32; MAX_RANK],
    pub(crate) rank: u8,
    pub(crate) dtype: DType,
    pub(crate) storage: Storage,
    pub(crate) layout: Layout,
    pub(crate) offset: usize,
    /// Bytes at the present shape (dense), or of the packed constant.
    pub(crate) bytes: usize,
    pub(crate) scale: f32,
    pub(crate) zero_point: i32,
}

impl Slot {
    /// Sizes of the axes, outermost first.
    pub fn dims(&self) -> &[u32] {
        &self.dims[..usize::from(self.rank)]
    }

    /// Size of an axis; 1 beyond the rank.
    pub fn dim(&self, axis: usize) -> usize {
        self.dims().get(axis).map_or(1, |dim| *dim as usize)
    }

    /// Elements at the present shape.
    pub fn elements(&self) -> usize {
        self.dims().iter().map(|dim| *dim as usize).product()
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        usize::from(self.rank)
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// `real = scale * (q - zero_point)`; 0 when the tensor isn't quantized.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// See [`Slot::scale`].
    pub fn zero_point(&self) -> i32 {
        self.zero_point
    }

    /// Bytes of all elements at the present shape.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Sizes of the parts, in elements.
#[derive(Clone, Copy, Default)]
pub(crate) struct BlockSizes {
    pub(crate) slots: usize,
    pub(crate) bound: usize,
    pub(crate) operands: usize,
    pub(crate) attributes: usize,
    pub(crate) dims: usize,
    pub(crate) arena: usize,
    pub(crate) state: usize,
    pub(crate) scratch: usize,
}

impl BlockSizes {
    /// Bytes of a block that holds all parts, whatever its alignment; `None` on overflow.
    pub(crate) fn total(&self) -> Option<usize> {
        let parts = [
            (self.slots, size_of::<Slot>()),
            (self.bound, size_of::<Bound>()),
            (self.operands, size_of::<u32>()),
            (self.attributes, 1),
            (self.dims, size_of::<u32>()),
            (self.arena, 1),
            (self.state, 1),
            (self.scratch, 1),
        ];
        let mut total = BLOCK_ALIGN - 1;
        for (len, size) in parts {
            let bytes = len.checked_mul(size)?.checked_next_multiple_of(BLOCK_ALIGN)?;
            total = total.checked_add(bytes)?;
        }
        (total <= isize::MAX as usize).then_some(total)
    }
}

/// A part of a block: `len` initialised values.
struct Carved<T> {
    start: NonNull<T>,
    len: usize,
}

impl<T> Carved<T> {
    fn get(&self) -> &[T] {
        // SAFETY: `Carver::take` initialised `len` values at `start`, inside the block, disjoint
        // from every other part; the borrow of `self` keeps the owning `Block` in place.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    fn get_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `get`, and the borrow of `self` is exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// Cuts parts off the front of a block.
struct Carver {
    next: NonNull<u8>,
    left: usize,
}

impl Carver {
    /// The next part, as it is: the block's bytes were initialised by whoever made it. `None` when
    /// the block is used up.
    fn take_bytes(&mut self, len: usize) -> Option<Carved<u8>> {
        self.reserve(len).map(|start| Carved { start, len })
    }

    /// The next part, every value set to `fill`. `None` when the block is used up.
    fn take<T: Copy>(&mut self, len: usize, fill: T) -> Option<Carved<T>> {
        let start = self.reserve::<T>(len)?;
        for index in 0..len {
            // SAFETY: index < len, and `reserve` gave aligned room for len values.
            unsafe { start.add(index).write(fill) };
        }
        Some(Carved { start, len })
    }

    /// Aligned room for `len` values, inside the block and handed out once.
    fn reserve<T>(&mut self, len: usize) -> Option<NonNull<T>> {
        const { assert!(align_of::<T>() <= BLOCK_ALIGN) };
        let skip = self.next.align_offset(BLOCK_ALIGN);
        let bytes = len.checked_mul(size_of::<T>())?;
        let end = skip.checked_add(bytes)?;
        if end > self.left {
            return None;
        }
        // SAFETY: skip + bytes <= left, so both pointers stay inside the block.
        let (start, next) = unsafe { (self.next.add(skip).cast::<T>(), self.next.add(end)) };
        (self.next, self.left) = (next, self.left - end);
        Some(start)
    }
}

#[cfg(feature = "std")]
mod owned {
    use super::{BLOCK_ALIGN, NonNull};
    use std::alloc::{Layout, alloc_zeroed, dealloc};

    /// Zeroed memory of its own.
    pub(crate) struct Owned {
        pub(crate) start: NonNull<u8>,
        layout: Layout,
    }

    impl Owned {
        /// `None` when there is not that much memory.
        pub(crate) fn new(bytes: usize) -> Option<Owned> {
            let layout = Layout::from_size_align(bytes.max(1), BLOCK_ALIGN).ok()?;
            // SAFETY: the layout's size is at least 1.
            let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
            Some(Owned { start, layout })
        }
    }

    impl Drop for Owned {
        fn drop(&mut self) {
            // SAFETY: `start` came from `alloc_zeroed` with this layout.
            unsafe { dealloc(self.start.as_ptr(), self.layout) };
        }
    }
}

/// The memory of a session.
pub(crate) struct Block<'m> {
    slots: Carved<Slot>,
    bound: Carved<Bound>,
    operands: Carved<u32>,
    attributes: Carved<u8>,
    dims: Carved<u32>,
    arena: Carved<u8>,
    state: Carved<u8>,
    scratch: Carved<u8>,
    #[cfg(feature = "std")]
    _owned: Option<owned::Owned>,
    _borrowed: PhantomData<&'m mut [u8]>,
}

// SAFETY: a block owns its memory or borrows it exclusively; nothing in it is tied to a thread
// (`Bound` holds function pointers and `&'static` tables).
unsafe impl Send for Block<'_> {}

impl<'m> Block<'m> {
    /// Carves a block out of the caller's memory; `None` when it is too small.
    pub(crate) fn borrowed(
        memory: &'m mut [u8],
        sizes: &BlockSizes,
        bound: Bound,
    ) -> Option<Block<'m>> {
        let left = memory.len();
        let next = NonNull::from(memory).cast::<u8>();
        Block::carve(Carver { next, left }, sizes, bound)
    }

    /// Allocates a block.
    #[cfg(feature = "std")]
    pub(crate) fn owned(sizes: &BlockSizes, bound: Bound) -> Option<Block<'static>> {
        let left = sizes.total()?;
        let owned = owned::Owned::new(left)?;
        let mut block = Block::carve(Carver { next: owned.start, left }, sizes, bound)?;
        block._owned = Some(owned);
        Some(block)
    }

    fn carve<'a>(mut carver: Carver, sizes: &BlockSizes, bound: Bound) -> Option<Block<'a>> {
        let slot = Slot {
            dims: [0; MAX_RANK],
            rank: 0,
            dtype: DType::U8,
            storage: Storage::Arena,
            layout: Layout::Dense,
            offset: 0,
            bytes: 0,
            scale: 0.0,
            zero_point: 0,
        };
        Some(Block {
            slots: carver.take(sizes.slots, slot)?,
            bound: carver.take(sizes.bound, bound)?,
            operands: carver.take(sizes.operands, 0)?,
            attributes: carver.take_bytes(sizes.attributes)?,
            dims: carver.take(sizes.dims, 0)?,
            arena: carver.take_bytes(sizes.arena)?,
            state: carver.take_bytes(sizes.state)?,
            scratch: carver.take_bytes(sizes.scratch)?,
            #[cfg(feature = "std")]
            _owned: None,
            _borrowed: PhantomData,
        })
    }

    pub(crate) fn slots(&self) -> &[Slot] {
        self.slots.get()
    }

    pub(crate) fn slots_mut(&mut self) -> &mut [Slot] {
        self.slots.get_mut()
    }

    pub(crate) fn bound(&self) -> &[Bound] {
        self.bound.get()
    }

    pub(crate) fn bound_mut(&mut self) -> &mut [Bound] {
        self.bound.get_mut()
    }

    pub(crate) fn operands_mut(&mut self) -> &mut [u32] {
        self.operands.get_mut()
    }

    pub(crate) fn attributes_mut(&mut self) -> &mut [u8] {
        self.attributes.get_mut()
    }

    pub(crate) fn dims(&self) -> &[u32] {
        self.dims.get()
    }

    pub(crate) fn dims_mut(&mut self) -> &mut [u32] {
        self.dims.get_mut()
    }

    pub(crate) fn state_mut(&mut self) -> &mut [u8] {
        self.state.get_mut()
    }

    pub(crate) fn scratch_bytes(&self) -> usize {
        self.scratch.len
    }

    /// The step that `bound` describes.
    pub(crate) fn step(&self, bound: &Bound) -> Step<'_> {
        let (inputs, outputs) = bound.operands(self.operands.get());
        Step::bound(
            inputs,
            outputs,
            bound.attributes(self.attributes.get()),
            self.slots(),
            self.dims(),
        )
    }

    /// Everything step number `index` may touch.
    pub(crate) fn context<'c>(
        &'c mut self,
        index: usize,
        constants: &'c [u8],
    ) -> Option<(Bound, Context<'c>)> {
        let bound = *self.bound.get().get(index)?;
        let (inputs, outputs) = bound.operands(self.operands.get());
        let attributes = bound.attributes(self.attributes.get());
        let step = Step::bound(inputs, outputs, attributes, self.slots.get(), self.dims.get());
        let memory =
            Regions { arena: self.arena.get_mut(), state: self.state.get_mut(), constants };
        Some((bound, Context { step, regions: memory, scratch: self.scratch.get_mut() }))
    }

    /// The bytes of a tensor at its present shape.
    pub(crate) fn tensor<'t>(&'t self, slot: &Slot, constants: &'t [u8]) -> &'t [u8] {
        let region = match slot.storage {
            Storage::Arena => self.arena.get(),
            Storage::State => self.state.get(),
            Storage::Constant => constants,
        };
        region.get(slot.offset..slot.offset + slot.bytes).unwrap_or(&[])
    }

    /// The bytes of a tensor in arena or state, writable.
    pub(crate) fn tensor_mut(&mut self, slot: &Slot) -> &mut [u8] {
        let region = match slot.storage {
            Storage::Arena => self.arena.get_mut(),
            Storage::State => self.state.get_mut(),
            Storage::Constant => &mut [],
        };
        region.get_mut(slot.offset..slot.offset + slot.bytes).unwrap_or(&mut [])
    }
}

struct Regions<'c> {
    arena: &'c mut [u8],
    state: &'c mut [u8],
    constants: &'c [u8],
}

impl Regions<'_> {
    /// Start of a tensor's bytes, after checking that they lie inside their region.
    fn start(&mut self, slot: &Slot) -> Result<NonNull<u8>, StepErrorKind> {
        let end = slot.offset.checked_add(slot.bytes).ok_or(StepErrorKind::TooLarge)?;
        let range = slot.offset..end;
        match slot.storage {
            Storage::Arena => self.arena.get_mut(range).map(NonNull::from),
            Storage::State => self.state.get_mut(range).map(NonNull::from),
            Storage::Constant => self.constants.get(range).map(NonNull::from),
        }
        .map(NonNull::cast)
        .ok_or(StepErrorKind::TooLarge)
    }
}

/// Whether two tensors share bytes.
pub(crate) fn overlap(a: &Slot, b: &Slot) -> bool {
    a.storage == b.storage && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes
}

/// Whether two tensors are the same bytes.
pub(crate) fn same_bytes(a: &Slot, b: &Slot) -> bool {
    a.storage == b.storage && a.offset == b.offset && a.bytes == b.bytes
}

/// What a step works with while it runs: its description and its memory.
pub struct Context<'c> {
    /// Operand shapes and attributes.
    pub step: Step<'c>,
    regions: Regions<'c>,
    scratch: &'c mut [u8],
}

/// Bytes of a step's operands, for operators whose output must not overlap its inputs.
pub struct Operands<'v, const N: usize> {
    /// The inputs asked for; empty for absent optional ones.
    pub inputs: [&'v [u8]; N],
    /// The output.
    pub output: &'v mut [u8],
    /// Working memory of the session, aligned to 64.
    pub scratch: &'v mut [u8],
}

/// Bytes of the operands of a step with several outputs, which share no memory.
pub struct OperandsWithOutputs<'v, const N: usize, const M: usize> {
    /// The inputs asked for; empty for absent optional ones.
    pub inputs: [&'v [u8]; N],
    /// The outputs; empty for those that nobody wants.
    pub outputs: [&'v mut [u8]; M],
    /// Working memory of the session, aligned to 64.
    pub scratch: &'v mut [u8],
}

impl Context<'_> {
    /// The bytes of the inputs asked for, and of the first output.
    ///
    /// # Errors
    /// [`StepErrorKind::Overlap`] when the output shares bytes with one of them.
    pub fn operands<const N: usize>(
        &mut self,
        inputs: [usize; N],
    ) -> Result<Operands<'_, N>, StepErrorKind> {
        self.operands_over(inputs, usize::MAX)
    }

    /// As [`Context::operands`], but input number `over` may be the very bytes of the output. Its
    /// view is empty then: what it holds is what the output holds until it is written.
    ///
    /// # Errors
    /// [`StepErrorKind::Overlap`] when the output shares bytes with an input in another way.
    pub fn operands_over<const N: usize>(
        &mut self,
        inputs: [usize; N],
        over: usize,
    ) -> Result<Operands<'_, N>, StepErrorKind> {
        let output = self.step.output(0)?;
        if output.storage == Storage::Constant {
            return Err(StepErrorKind::Overlap);
        }
        let start = self.regions.start(&output)?;
        let mut views: [&[u8]; N] = [&[]; N];
        for (view, index) in views.iter_mut().zip(inputs) {
            let Some(slot) = self.step.optional_input(index) else { continue };
            if overlap(&slot, &output) {
                if index == over && same_bytes(&slot, &output) {
                    continue;
                }
                return Err(StepErrorKind::Overlap);
            }
            let start = self.regions.start(&slot)?;
            // SAFETY: `start` checked that offset + bytes lies inside the region; the region is
            // borrowed as long as `self`; the only exclusive view made here is the output, and
            // `overlap` showed that it shares no byte with this one.
            *view = unsafe { core::slice::from_raw_parts(start.as_ptr(), slot.bytes) };
        }
        // SAFETY: inside its region as above, not in constants, disjoint from every input view and
        // from the scratch (another part of the block); `&mut self` keeps others away meanwhile.
        let output = unsafe { core::slice::from_raw_parts_mut(start.as_ptr(), output.bytes) };
        Ok(Operands { inputs: views, output, scratch: self.scratch })
    }

    /// The bytes of the inputs asked for, and of the first `M` outputs; empty for absent ones.
    ///
    /// # Errors
    /// [`StepErrorKind::Overlap`] when an output shares bytes with an input or another output.
    pub fn operands_with_outputs<const N: usize, const M: usize>(
        &mut self,
        inputs: [usize; N],
    ) -> Result<OperandsWithOutputs<'_, N, M>, StepErrorKind> {
        let mut outputs: [&mut [u8]; M] = core::array::from_fn(|_| -> &mut [u8] { &mut [] });
        for (number, view) in outputs.iter_mut().enumerate() {
            let Some(slot) = self.step.optional_output(number) else { continue };
            let shared = |other: Option<Slot>| other.is_some_and(|other| overlap(&other, &slot));
            if slot.storage == Storage::Constant
                || (0..number).any(|other| shared(self.step.optional_output(other)))
                || inputs.iter().any(|input| shared(self.step.optional_input(*input)))
            {
                return Err(StepErrorKind::Overlap);
            }
            let start = self.regions.start(&slot)?;
            // SAFETY: `start` checked that offset + bytes lies inside the region; it is not in
            // constants, disjoint from every output view before it and from every input asked for,
            // and from the scratch (another part of the block); `&mut self` keeps others away.
            *view = unsafe { core::slice::from_raw_parts_mut(start.as_ptr(), slot.bytes) };
        }
        let mut views: [&[u8]; N] = [&[]; N];
        for (view, index) in views.iter_mut().zip(inputs) {
            let Some(slot) = self.step.optional_input(index) else { continue };
            let start = self.regions.start(&slot)?;
            // SAFETY: inside its region as above; the loop before showed that no output view
            // shares a byte with it.
            *view = unsafe { core::slice::from_raw_parts(start.as_ptr(), slot.bytes) };
        }
        Ok(OperandsWithOutputs { inputs: views, outputs, scratch: self.scratch })
    }

    /// The inputs asked for as sources and the first output as a sink, which may share memory:
    /// for elementwise operators, which read an index before they write it.
    pub fn elementwise<T: Element, U: Element, const N: usize>(
        &mut self,
        inputs: [usize; N],
    ) -> Result<([Source<'_, T>; N], Sink<'_, U>), StepErrorKind> {
        let mut sources = [Source { start: NonNull::dangling(), len: 0, _borrow: PhantomData }; N];
        for (source, index) in sources.iter_mut().zip(inputs) {
            let Some(slot) = self.step.optional_input(index) else { continue };
            let start = self.regions.start(&slot)?.cast::<T>();
            if !start.is_aligned() || !slot.bytes.is_multiple_of(size_of::<T>()) {
                return Err(StepErrorKind::OperandType(index as u8));
            }
            (source.start, source.len) = (start, slot.bytes / size_of::<T>());
        }
        let output = self.step.output(0)?;
        let start = self.regions.start(&output)?.cast::<U>();
        if output.storage == Storage::Constant
            || !start.is_aligned()
            || !output.bytes.is_multiple_of(size_of::<U>())
        {
            return Err(StepErrorKind::OperandType(N as u8));
        }
        let sink = Sink { start, len: output.bytes / size_of::<U>(), _borrow: PhantomData };
        Ok((sources, sink))
    }
}

/// Elements to read, which the [`Sink`] beside it may overwrite.
#[derive(Clone, Copy)]
pub struct Source<'v, T> {
    start: NonNull<T>,
    len: usize,
    _borrow: PhantomData<&'v T>,
}

impl<T: Element> Source<'_, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Element number `index`; the type's zero beyond the end.
    #[inline(always)]
    pub fn get(&self, index: usize) -> T {
        if index >= self.len {
            return T::default();
        }
        // SAFETY: index < len, and `Context::elementwise` checked that len aligned elements lie at
        // `start`; plain reads through a raw pointer may alias the sink, on one thread.
        unsafe { self.start.add(index).read() }
    }

    /// Copies the elements from `start` on; leaves alone what lies beyond the end.
    #[inline(always)]
    pub fn read(&self, start: usize, into: &mut [T]) {
        let count = into.len().min(self.len.saturating_sub(start));
        if count > 0 {
            // SAFETY: start + count <= len, of which `Context::elementwise` checked that they lie
            // there; `into` is borrowed exclusively, so it is other memory.
            unsafe {
                self.start.add(start).copy_to_nonoverlapping(NonNull::from(into).cast(), count)
            };
        }
    }
}

/// Elements to write, which may be those of a [`Source`].
pub struct Sink<'v, T> {
    start: NonNull<T>,
    len: usize,
    _borrow: PhantomData<&'v mut T>,
}

impl<T: Element> Sink<'_, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets element number `index`; does nothing beyond the end.
    #[inline(always)]
    pub fn set(&mut self, index: usize, value: T) {
        if index < self.len {
            // SAFETY: index < len, and `Context::elementwise` checked that len aligned elements
            // lie at `start` in memory that is not a constant; see `Source::get` for aliasing.
            unsafe { self.start.add(index).write(value) };
        }
    }

    /// Sets the elements from `start` on; drops what lies beyond the end.
    #[inline(always)]
    pub fn write(&mut self, start: usize, from: &[T]) {
        let count = from.len().min(self.len.saturating_sub(start));
        if count > 0 {
            // SAFETY: start + count <= len, of which `Context::elementwise` checked that they lie
            // there, writable; `from` is borrowed, and no reference to an operand's memory exists
            // while a sink does, so it is other memory.
            unsafe {
                self.start.add(start).copy_from_nonoverlapping(NonNull::from(from).cast(), count)
            };
        }
    }
}

/// An operand's bytes as elements. Files are checked at open so that this holds; an error means
/// that an operator asked for a type that it did not check.
pub(crate) fn typed<T: Element>(bytes: &[u8], operand: u8) -> Result<&[T], StepErrorKind> {
    cast(bytes).ok_or(StepErrorKind::OperandType(operand))
}

/// See [`typed`].
pub(crate) fn typed_mut<T: Element>(
    bytes: &mut [u8],
    operand: u8,
) -> Result<&mut [T], StepErrorKind> {
    cast_mut(bytes).ok_or(StepErrorKind::OperandType(operand))
}
