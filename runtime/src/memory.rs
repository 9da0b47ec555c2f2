//! A session's memory: one block, carved into tables, arena, state and scratch, and the views that
//! steps get of it.
//!
//! The block is either allocated once (std) or given by the caller. Everything unsafe about
//! sharing it out between a step's operands is in this file.

use core::marker::PhantomData;
use core::num::NonZero;
use core::ops::Range;
use core::ptr::NonNull;

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{Element, Layout, MAX_RANK, Storage, cast, cast_mut};
use crate::kernels::ConvGeometry;
use crate::ops::{Bound, GeometryFn, Layer, RunFn, Shaped};
#[cfg(feature = "std")]
use crate::session::Precision;
use crate::tables::{Step, Tables};
#[cfg(feature = "std")]
use crate::threads::{Crew, Cut, Pool};

/// Start of the block, arena, state and scratch: a cache line; without caches, what the widest load
/// wants.
pub(crate) const BLOCK_ALIGN: usize = if cfg!(target_pointer_width = "32") { 16 } else { 64 };

/// A tensor as a session sees it: its present shape, and where it lies.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    pub(crate) dims: [u32; MAX_RANK],
    pub(crate) rank: u8,
    pub(crate) dtype: DType,
    pub(crate) layout: Layout,
    pub(crate) place: Place,
    pub(crate) scale: f32,
    pub(crate) zero_point: i32,
}

/// Where a tensor's bytes lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) storage: Storage,
    pub(crate) offset: usize,
    /// Bytes at the present shape (dense), or of the packed constant.
    pub(crate) bytes: usize,
}

impl Slot {
    /// A scalar nowhere.
    #[cfg(feature = "std")]
    const EMPTY: Slot = Slot {
        dims: [0; MAX_RANK],
        rank: 0,
        dtype: DType::F32,
        layout: Layout::Dense,
        place: Place { storage: Storage::Constant, offset: 0, bytes: 0 },
        scale: 0.0,
        zero_point: 0,
    };

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
        self.place.bytes
    }
}

/// Sizes of the parts, in elements.
#[derive(Clone, Copy, Default)]
pub(crate) struct BlockSizes {
    pub(crate) arena: usize,
    pub(crate) state: usize,
    pub(crate) scratch: usize,
    pub(crate) bound: usize,
    pub(crate) dims: usize,
    /// Tensors that are worked out once for all runs at the same dimensions.
    pub(crate) slots: usize,
    /// Bytes of the tables' copy.
    pub(crate) copy: usize,
}

impl BlockSizes {
    /// Bytes of a block that holds all parts, whatever its alignment; `None` on overflow.
    pub(crate) fn total(&self) -> Option<usize> {
        // Length, size and alignment, in the order in which `Block::carve` takes them.
        let parts = [
            (self.arena, 1, BLOCK_ALIGN),
            (self.state, 1, BLOCK_ALIGN),
            (self.scratch, 1, BLOCK_ALIGN),
            (self.bound, size_of::<Bound>(), align_of::<Bound>()),
            (self.dims, size_of::<u32>(), align_of::<u32>()),
            (self.slots, size_of::<Slot>(), align_of::<Slot>()),
            #[cfg(feature = "std")]
            (self.bound, size_of::<Apart>(), align_of::<Apart>()),
            (self.copy, 1, 1),
        ];
        let mut total = 0usize;
        for (len, size, align) in parts {
            if len > 0 {
                total = total.checked_next_multiple_of(align)?;
            }
            total = total.checked_add(len.checked_mul(size)?)?;
        }
        total = total.checked_add(BLOCK_ALIGN - 1)?;
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
    fn take_bytes(&mut self, len: usize, align: usize) -> Option<Carved<u8>> {
        self.reserve(len, align).map(|start| Carved { start, len })
    }

    /// The next part, every value set to `fill`. `None` when the block is used up.
    fn take<T: Copy>(&mut self, len: usize, fill: T) -> Option<Carved<T>> {
        let start = self.reserve::<T>(len, align_of::<T>())?;
        for index in 0..len {
            // SAFETY: index < len, and `reserve` gave aligned room for len values.
            unsafe { start.add(index).write(fill) };
        }
        Some(Carved { start, len })
    }

    /// Room for `len` values at a multiple of `align`, inside the block and handed out once.
    fn reserve<T>(&mut self, len: usize, align: usize) -> Option<NonNull<T>> {
        if len == 0 {
            return Some(NonNull::without_provenance(NonZero::new(align)?));
        }
        let skip = self.next.align_offset(align);
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
    use memmap2::MmapMut;
    use std::alloc::{Layout, alloc_zeroed, dealloc};

    /// From so many bytes on, memory comes from the system in pages, huge ones if it has them: the first run takes a
    /// fault for each page, and later ones a place in the translation cache. Two huge pages of x86-64 and AArch64.
    const PAGES_BYTES: usize = 4 << 20;

    /// Zeroed memory of its own.
    pub(crate) struct Owned {
        pub(crate) start: NonNull<u8>,
        origin: Origin,
    }

    enum Origin {
        Heap(Layout),
        /// Kept until the memory goes.
        System(#[expect(dead_code, reason = "unmapped when it is dropped")] MmapMut),
    }

    impl Owned {
        /// `None` when there is not that much memory.
        pub(crate) fn new(bytes: usize) -> Option<Owned> {
            if bytes >= PAGES_BYTES
                && let Ok(mut map) = MmapMut::map_anon(bytes)
            {
                // Refused by systems without huge pages, where small ones do.
                #[cfg(target_os = "linux")]
                let _ = map.advise(memmap2::Advice::HugePage);
                let start = NonNull::new(map.as_mut_ptr())?;
                return Some(Owned { start, origin: Origin::System(map) });
            }
            let layout = Layout::from_size_align(bytes.max(1), BLOCK_ALIGN).ok()?;
            // SAFETY: the layout's size is at least 1.
            let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
            Some(Owned { start, origin: Origin::Heap(layout) })
        }
    }

    impl Drop for Owned {
        fn drop(&mut self) {
            if let Origin::Heap(layout) = self.origin {
                // SAFETY: `start` came from `alloc_zeroed` with this layout.
                unsafe { dealloc(self.start.as_ptr(), layout) };
            }
        }
    }
}

/// The memory of a session.
pub(crate) struct Block<'m> {
    arena: Carved<u8>,
    state: Carved<u8>,
    scratch: Carved<u8>,
    bound: Carved<Bound>,
    dims: Carved<u32>,
    /// The records in the file, and their copy if there is one.
    tables: Tables<'m>,
    #[cfg(feature = "std")]
    slots: Carved<Slot>,
    /// Of each step, at the present dimensions.
    #[cfg(feature = "std")]
    apart: Carved<Apart>,
    #[cfg(feature = "std")]
    copy: Option<Carved<u8>>,
    #[cfg(feature = "std")]
    owned: Option<owned::Owned>,
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
        tables: Tables<'m>,
        bound: Bound,
    ) -> Option<Block<'m>> {
        let left = memory.len();
        let next = NonNull::from(memory).cast::<u8>();
        Block::carve(Carver { next, left }, sizes, tables, bound)
    }

    /// Allocates a block.
    #[cfg(feature = "std")]
    pub(crate) fn owned(sizes: &BlockSizes, tables: Tables<'m>, bound: Bound) -> Option<Block<'m>> {
        let left = sizes.total()?;
        let owned = owned::Owned::new(left)?;
        let mut block = Block::carve(Carver { next: owned.start, left }, sizes, tables, bound)?;
        block.owned = Some(owned);
        Some(block)
    }

    fn carve(
        mut carver: Carver,
        sizes: &BlockSizes,
        tables: Tables<'m>,
        bound: Bound,
    ) -> Option<Block<'m>> {
        #[cfg_attr(
            not(feature = "std"),
            expect(unused_mut, reason = "copies only from mapped files")
        )]
        let mut block = Block {
            arena: carver.take_bytes(sizes.arena, BLOCK_ALIGN)?,
            state: carver.take_bytes(sizes.state, BLOCK_ALIGN)?,
            scratch: carver.take_bytes(sizes.scratch, BLOCK_ALIGN)?,
            bound: carver.take(sizes.bound, bound)?,
            dims: carver.take(sizes.dims, 0)?,
            tables,
            #[cfg(feature = "std")]
            slots: carver.take(sizes.slots, Slot::EMPTY)?,
            #[cfg(feature = "std")]
            apart: carver.take(sizes.bound, Apart::default())?,
            #[cfg(feature = "std")]
            copy: None,
            #[cfg(feature = "std")]
            owned: None,
            _borrowed: PhantomData,
        };
        #[cfg(feature = "std")]
        if sizes.copy > 0 {
            let mut copy = carver.take_bytes(sizes.copy, 1)?;
            tables.copy_to(copy.get_mut())?;
            block.copy = Some(copy);
        }
        Some(block)
    }

    /// The records that steps are read from.
    #[inline]
    pub(crate) fn tables(&self) -> Tables<'_> {
        #[cfg(feature = "std")]
        return copied(self.tables, &self.copy).with_slots(self.slots.get());
        #[cfg(not(feature = "std"))]
        self.tables
    }

    pub(crate) fn bound(&self) -> &[Bound] {
        self.bound.get()
    }

    pub(crate) fn bound_mut(&mut self) -> &mut [Bound] {
        self.bound.get_mut()
    }

    pub(crate) fn dims(&self) -> &[u32] {
        self.dims.get()
    }

    pub(crate) fn dims_mut(&mut self) -> &mut [u32] {
        self.dims.get_mut()
    }

    /// Fills in the expressions of the dimension table behind the symbols' values, and works out what follows for
    /// the tensors.
    pub(crate) fn resolve(&mut self, symbols: usize) -> Option<()> {
        #[cfg(feature = "std")]
        self.apart.get_mut().fill(Apart::default());
        let Block { tables, dims, .. } = self;
        #[cfg(feature = "std")]
        let tables = copied(*tables, &self.copy);
        tables.evaluate_dims(symbols, dims.get_mut())?;
        #[cfg(feature = "std")]
        {
            tables.tensors.read_slots(dims.get(), self.slots.get_mut())?;
            self.find_apart();
        }
        Some(())
    }

    /// Finds the operands that need no more checks at the present dimensions.
    #[cfg(feature = "std")]
    fn find_apart(&mut self) {
        let tables = copied(self.tables, &self.copy).with_slots(self.slots.get());
        let (arena, state) = (self.arena.len, self.state.len);
        let bytes = |storage: Storage| match storage {
            Storage::Arena => arena,
            Storage::State => state,
            Storage::Constant => tables.constant_bytes,
        };
        for (index, apart) in self.apart.get_mut().iter_mut().enumerate() {
            let step = tables.step(index, self.dims.get());
            *apart = step.map_or(Apart::default(), |step| Apart::of(&step, bytes));
        }
    }

    /// Whether arena and state are zeros that nothing has touched: large ones take no memory yet.
    pub(crate) fn is_new(&self) -> bool {
        #[cfg(feature = "std")]
        return self.owned.is_some();
        #[cfg(not(feature = "std"))]
        false
    }

    /// The bytes of all states.
    pub(crate) fn state(&self) -> &[u8] {
        self.state.get()
    }

    pub(crate) fn state_mut(&mut self) -> &mut [u8] {
        self.state.get_mut()
    }

    pub(crate) fn scratch_bytes(&self) -> usize {
        self.scratch.len
    }

    /// Type, shape and place of a tensor.
    pub(crate) fn slot(&self, tensor: usize) -> Option<Slot> {
        self.tables().tensors.slot(u32::try_from(tensor).ok()?, self.dims())
    }

    /// Everything step number `index` may touch, and the function that runs it.
    #[inline]
    pub(crate) fn context<'c>(
        &'c mut self,
        index: usize,
        constants: &'c [u8],
        #[cfg(feature = "std")] pool: Option<&'c mut Pool>,
    ) -> Option<(RunFn, Context<'c>)> {
        let bound = self.bound.get_mut().get_mut(index)?;
        let tables = self.tables;
        #[cfg(feature = "std")]
        let tables = copied(tables, &self.copy).with_slots(self.slots.get());
        let step = tables.step(index, self.dims.get())?;
        #[cfg(feature = "std")]
        let apart = match constants.len() == tables.constant_bytes {
            true => *self.apart.get().get(index)?,
            false => Apart::default(),
        };
        let memory = Regions {
            arena: Region::new(self.arena.get_mut()),
            state: Region::new(self.state.get_mut()),
            constants: Region::of_constants(constants),
        };
        let scratch = self.scratch.get_mut();
        #[cfg(feature = "std")]
        let crew = pool.and_then(|pool| Crew::new(pool, usize::from(bound.parts), bound.wakes));
        Some((
            bound.run,
            Context {
                step,
                regions: memory,
                scratch,
                #[cfg(feature = "std")]
                apart,
                #[cfg(feature = "std")]
                shaped: Some(&mut bound.shaped),
                #[cfg(feature = "std")]
                precision: bound.precision,
                #[cfg(feature = "std")]
                crew,
            },
        ))
    }

    /// The bytes of a tensor at its present shape.
    pub(crate) fn tensor<'t>(&'t self, slot: &Slot, constants: &'t [u8]) -> &'t [u8] {
        let region = match slot.place.storage {
            Storage::Arena => self.arena.get(),
            Storage::State => self.state.get(),
            Storage::Constant => constants,
        };
        slot.place.range().and_then(|range| region.get(range)).unwrap_or(&[])
    }

    /// The bytes of a tensor in arena or state, writable.
    pub(crate) fn tensor_mut(&mut self, slot: &Slot) -> &mut [u8] {
        let region = match slot.place.storage {
            Storage::Arena => self.arena.get_mut(),
            Storage::State => self.state.get_mut(),
            Storage::Constant => &mut [],
        };
        slot.place.range().and_then(|range| region.get_mut(range)).unwrap_or(&mut [])
    }
}

/// The records in the copy, if there is one.
#[cfg(feature = "std")]
fn copied<'c>(tables: Tables<'c>, copy: &'c Option<Carved<u8>>) -> Tables<'c> {
    copy.as_ref().map_or(tables, |copy| tables.copied(copy.get()))
}

/// The regions that operands lie in.
struct Regions<'c> {
    arena: Region<'c>,
    state: Region<'c>,
    /// Only read.
    constants: Region<'c>,
}

/// Memory lent as a whole, of which operands get pointers. All come from the one made here: from a reborrow each,
/// the next would end the one before.
struct Region<'c> {
    start: NonNull<u8>,
    len: usize,
    _borrow: PhantomData<&'c mut [u8]>,
}

impl<'c> Region<'c> {
    fn new(memory: &'c mut [u8]) -> Region<'c> {
        Region { len: memory.len(), start: NonNull::from(memory).cast(), _borrow: PhantomData }
    }

    /// Memory that nobody writes through the region.
    fn of_constants(memory: &'c [u8]) -> Region<'c> {
        Region { len: memory.len(), start: NonNull::from(memory).cast(), _borrow: PhantomData }
    }
}

impl<'c> Regions<'c> {
    #[inline(always)]
    fn of(&self, storage: Storage) -> &Region<'c> {
        match storage {
            Storage::Arena => &self.arena,
            Storage::State => &self.state,
            Storage::Constant => &self.constants,
        }
    }

    /// Start of a tensor's bytes, after checking that they lie inside their region.
    #[inline]
    fn start(&self, place: &Place) -> Result<NonNull<u8>, StepErrorKind> {
        let region = self.of(place.storage);
        if !place.is_inside(region.len) {
            return Err(StepErrorKind::TooLarge);
        }
        // SAFETY: at most the end of the memory that was lent.
        Ok(unsafe { region.start.add(place.offset) })
    }
}

impl Place {
    /// Whether it lies inside of a region of so many bytes.
    #[inline(always)]
    fn is_inside(&self, region_bytes: usize) -> bool {
        self.offset <= region_bytes && self.bytes <= region_bytes - self.offset
    }

    fn range(&self) -> Option<Range<usize>> {
        Some(self.offset..self.offset.checked_add(self.bytes)?)
    }
}

/// Operands of a step that lie inside their regions: inputs, by bit, that share no byte with the first output, and that
/// output, which is no constant. They are asked for in every run, but found once, when the dimensions are set.
#[cfg(feature = "std")]
#[derive(Clone, Copy, Default)]
struct Apart(u32);

#[cfg(feature = "std")]
impl Apart {
    /// Bits of inputs; the one behind them is the output's.
    const INPUTS: usize = 31;

    /// Those of a step whose tensors have been worked out, in regions of so many bytes.
    fn of(step: &Step<'_>, region_bytes: impl Fn(Storage) -> usize) -> Apart {
        let is_inside = |place: &Place| place.is_inside(region_bytes(place.storage));
        let output = step.known_output_place(0);
        let output = output.filter(|y| y.storage != Storage::Constant && is_inside(y));
        let Some(output) = output else { return Apart::default() };
        let inputs = (0..step.input_count().min(Apart::INPUTS)).filter(|index| {
            let place = step.known_input_place(*index);
            place.is_some_and(|place| is_inside(place) && !overlap(place, output))
        });
        Apart(inputs.fold(1 << Apart::INPUTS, |bits, index| bits | 1 << index))
    }

    #[inline(always)]
    fn has_input(self, index: usize) -> bool {
        index < Apart::INPUTS && self.0 >> index & 1 != 0
    }

    #[inline(always)]
    fn has_output(self) -> bool {
        self.0 >> Apart::INPUTS != 0
    }
}

/// Whether two tensors share bytes.
#[inline]
pub(crate) fn overlap(a: &Place, b: &Place) -> bool {
    a.storage == b.storage
        && a.offset < b.offset.saturating_add(b.bytes)
        && b.offset < a.offset.saturating_add(a.bytes)
}

/// Whether two tensors are the same bytes.
pub(crate) fn same_bytes(a: &Place, b: &Place) -> bool {
    a.storage == b.storage && a.offset == b.offset && a.bytes == b.bytes
}

/// What a step works with while it runs: its description and its memory.
pub struct Context<'c> {
    /// Operand shapes and attributes.
    pub step: Step<'c>,
    regions: Regions<'c>,
    scratch: &'c mut [u8],
    /// Operands of `step`, which stays the same, that were checked when the dimensions were set.
    #[cfg(feature = "std")]
    apart: Apart,
    /// What an earlier run at the present dimensions found out about the step's layer.
    #[cfg(feature = "std")]
    shaped: Option<&'c mut Shaped>,
    /// Of the session.
    #[cfg(feature = "std")]
    pub(crate) precision: Precision,
    /// Threads to share the work with, if it was decided to share it.
    #[cfg(feature = "std")]
    crew: Option<Crew<'c>>,
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

impl<'c> Context<'c> {
    /// The threads to share this step's work with; `None` for a step that one thread runs.
    #[cfg(feature = "std")]
    #[inline]
    pub(crate) fn take_crew(&mut self) -> Option<Crew<'c>> {
        self.crew.take()
    }

    /// The step as a layer, and its geometry: as an earlier run at the same dimensions found them, or else in
    /// `fresh`.
    #[inline]
    pub(crate) fn shaped<'l>(
        &mut self,
        geometry: GeometryFn,
        fresh: &'l mut Shaped,
    ) -> Result<(&'l Layer, &'l ConvGeometry), StepErrorKind>
    where
        'c: 'l,
    {
        #[cfg(feature = "std")]
        let fresh = self.shaped.take().unwrap_or(fresh);
        fresh.get(&self.step, geometry)
    }
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
    #[cfg_attr(feature = "std", inline(always))]
    pub fn operands_over<const N: usize>(
        &mut self,
        inputs: [usize; N],
        over: usize,
    ) -> Result<Operands<'_, N>, StepErrorKind> {
        let mut views: [&[u8]; N] = [&[]; N];
        let (output, scratch) = self.views_over(&inputs, over, &mut views)?;
        Ok(Operands { inputs: views, output, scratch })
    }

    /// Fills in the views of the inputs asked for; returns those of the output and of the scratch.
    ///
    /// On a microcontroller there is one of it for all operators.
    #[cfg_attr(feature = "std", inline(always))]
    #[cfg_attr(not(feature = "std"), inline(never))]
    fn views_over<'v>(
        &'v mut self,
        inputs: &[usize],
        over: usize,
        views: &mut [&'v [u8]],
    ) -> Result<(&'v mut [u8], &'v mut [u8]), StepErrorKind> {
        let output = self.step.known_output_place(0).ok_or(StepErrorKind::OperandCount)?;
        #[cfg(not(feature = "std"))]
        let output = &output;
        let start = self.output_start(output)?;
        for (view, index) in views.iter_mut().zip(inputs.iter().copied()) {
            let Some(place) = self.step.known_input_place(index) else { continue };
            #[cfg(not(feature = "std"))]
            let place = &place;
            let Some(start) = self.input_start(index, place, output, index == over)? else {
                continue;
            };
            // SAFETY: `input_start` showed that offset + bytes lies inside the region; the region is
            // borrowed as long as `self`; the only exclusive view made here is the output, and
            // it shares no byte with this one.
            *view = unsafe { core::slice::from_raw_parts(start.as_ptr(), place.bytes) };
        }
        // SAFETY: inside its region as above, not in constants, disjoint from every input view and
        // from the scratch (another part of the block); `&mut self` keeps others away meanwhile.
        let output = unsafe { core::slice::from_raw_parts_mut(start.as_ptr(), output.bytes) };
        Ok((output, self.scratch))
    }

    /// Start of the first output's bytes, which lie inside a region that may be written.
    #[inline(always)]
    fn output_start(&self, output: &Place) -> Result<NonNull<u8>, StepErrorKind> {
        #[cfg(feature = "std")]
        if self.apart.has_output() {
            // SAFETY: `Apart::of` found that they lie inside a region as long as this one.
            return Ok(unsafe { self.regions.of(output.storage).start.add(output.offset) });
        }
        if output.storage == Storage::Constant {
            return Err(StepErrorKind::Overlap);
        }
        self.regions.start(output)
    }

    /// Start of an input's bytes, which lie inside a region and share none with the output; nothing for the very bytes of
    /// the output, if these are allowed.
    #[inline(always)]
    fn input_start(
        &self,
        index: usize,
        place: &Place,
        output: &Place,
        may_be_output: bool,
    ) -> Result<Option<NonNull<u8>>, StepErrorKind> {
        #[cfg(feature = "std")]
        if self.apart.has_input(index) {
            // SAFETY: `Apart::of` found that they lie inside a region as long as this one.
            return Ok(Some(unsafe { self.regions.of(place.storage).start.add(place.offset) }));
        }
        #[cfg(not(feature = "std"))]
        let _ = index;
        self.checked_input_start(place, output, may_be_output)
    }

    /// The same, for an input of which it wasn't found when the dimensions were set.
    #[cfg_attr(feature = "std", inline(never))]
    #[cfg_attr(not(feature = "std"), inline(always))]
    fn checked_input_start(
        &self,
        place: &Place,
        output: &Place,
        may_be_output: bool,
    ) -> Result<Option<NonNull<u8>>, StepErrorKind> {
        if overlap(place, output) {
            let is_output = may_be_output && same_bytes(place, output);
            return if is_output { Ok(None) } else { Err(StepErrorKind::Overlap) };
        }
        self.regions.start(place).map(Some)
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
            let Some(slot) = self.step.output_place(number) else { continue };
            let shared = |other: Option<Place>| other.is_some_and(|other| overlap(&other, &slot));
            if slot.storage == Storage::Constant
                || (0..number).any(|other| shared(self.step.output_place(other)))
                || inputs.iter().any(|input| shared(self.step.input_place(*input)))
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
            let Some(slot) = self.step.input_place(index) else { continue };
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
        let mut sources = [(); N].map(|()| Source::default());
        for (source, index) in sources.iter_mut().zip(inputs) {
            let Some(slot) = self.step.input_place(index) else { continue };
            let start = self.regions.start(&slot)?.cast::<T>();
            if !start.is_aligned() || !slot.bytes.is_multiple_of(size_of::<T>()) {
                return Err(StepErrorKind::OperandType(index as u8));
            }
            (source.start, source.len) = (start, slot.bytes / size_of::<T>());
        }
        let output = self.step.output_place(0).ok_or(StepErrorKind::OperandCount)?;
        let start = self.regions.start(&output)?.cast::<U>();
        if output.storage == Storage::Constant
            || !start.is_aligned()
            || !output.bytes.is_multiple_of(size_of::<U>())
        {
            return Err(StepErrorKind::OperandType(N as u8));
        }
        let sink = Sink { start, len: output.bytes / size_of::<U>(), _borrow: PhantomData };
        let sink_bytes = start.addr().get()..start.addr().get() + output.bytes;
        for source in &mut sources {
            let first = source.start.addr().get();
            let end = first + source.len * size_of::<T>();
            source.is_over = first < sink_bytes.end && sink_bytes.start < end;
        }
        Ok((sources, sink))
    }
}

/// Elements to read, which the [`Sink`] beside it may overwrite.
pub struct Source<'v, T> {
    start: NonNull<T>,
    len: usize,
    /// Whether it shares memory with the sink.
    is_over: bool,
    _borrow: PhantomData<&'v T>,
}

impl<T> Default for Source<'_, T> {
    fn default() -> Self {
        Source { start: NonNull::dangling(), len: 0, is_over: false, _borrow: PhantomData }
    }
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

impl<U: Element> Sink<'_, U> {
    /// Calls `f` with `count` elements of each source, from `starts` on, and as many of the sink, from `start` on. What lies in
    /// the sink's memory is copied first, into `copies`; where there is no start, `copies` has the elements already. Does
    /// nothing when the sink or a source doesn't have so many.
    ///
    /// # Panics
    ///
    /// When `copies` has to hold more elements than it does.
    #[inline(always)]
    pub(crate) fn with_blocks<T: Element, const N: usize, const BLOCK: usize>(
        &mut self,
        start: usize,
        count: usize,
        sources: &mut [Source<'_, T>; N],
        starts: [Option<usize>; N],
        copies: &mut [[T; BLOCK]; N],
        f: impl FnOnce([&[T]; N], &mut [U]),
    ) {
        let fits = |start: usize, len: usize| start <= len && count <= len - start;
        let mut operands: [&[T]; N] = [&[]; N];
        let of = sources.iter().zip(starts).zip(copies).zip(&mut operands);
        for (((source, start), copy), operand) in of {
            *operand = match start {
                Some(start) if !fits(start, source.len) => return,
                Some(start) if !source.is_over => {
                    // SAFETY: start + count <= len, of which `Context::elementwise` checked that they lie there,
                    // aligned. They are outside of the sink, the only operand that is written.
                    unsafe { core::slice::from_raw_parts(source.start.add(start).as_ptr(), count) }
                }
                Some(start) => {
                    source.read(start, &mut copy[..count]);
                    &copy[..count]
                }
                None => &copy[..count],
            };
        }
        if !fits(start, self.len) {
            return;
        }
        // SAFETY: start + count <= len, of which `Context::elementwise` checked that they lie there, aligned and
        // writable. While `f` runs, sink and sources are borrowed exclusively, and none of `operands` lies in the
        // sink's memory.
        let block =
            unsafe { core::slice::from_raw_parts_mut(self.start.add(start).as_ptr(), count) };
        f(operands, block);
    }
}

/// Sources and a sink in parts, for threads: parts of the sink don't overlap, and a source in its memory is cut
/// like it.
#[cfg(feature = "std")]
pub(crate) struct ElementwiseParts<'v, T, U, const N: usize> {
    sources: [Source<'v, T>; N],
    sink: Sink<'v, U>,
    cut: Cut,
    /// Elements of the sink in a unit.
    unit: usize,
    /// Elements of each source from a unit to the next.
    steps: [usize; N],
    /// Bit per part: lent.
    lent: core::sync::atomic::AtomicU64,
}

// SAFETY: sharing it only gives out, each once, parts that write where no other part reads or writes: see
// `ElementwiseParts::take`. Elements are plain numbers.
#[cfg(feature = "std")]
unsafe impl<T: Element, U: Element, const N: usize> Sync for ElementwiseParts<'_, T, U, N> {}

#[cfg(feature = "std")]
impl<'v, T: Element, U: Element, const N: usize> ElementwiseParts<'v, T, U, N> {
    /// Cuts units of `unit` elements of the sink, which read from each source `steps` elements further on than the
    /// unit before. `None` when the sources lie across the sink in a way that can't be cut.
    pub(crate) fn new(
        sources: [Source<'v, T>; N],
        sink: Sink<'v, U>,
        cut: Cut,
        unit: usize,
        steps: [usize; N],
    ) -> Option<Self> {
        for (source, step) in sources.iter().zip(steps) {
            let exactly =
                source.start.addr() == sink.start.addr() && size_of::<T>() == size_of::<U>();
            if source.is_over && !(exactly && step == unit) {
                return None;
            }
        }
        let lent = core::sync::atomic::AtomicU64::new(0);
        Some(ElementwiseParts { sources, sink, cut, unit, steps, lent })
    }

    /// The sources of a part, from its first unit on, and its elements of the sink; `None` when they were lent
    /// before, or there is no such part.
    pub(crate) fn take(&self, part: usize) -> Option<([Source<'v, T>; N], Sink<'v, U>)> {
        if part >= self.cut.parts.min(crate::threads::MAX_THREADS) {
            return None;
        }
        let bit = 1u64 << part;
        if self.lent.fetch_or(bit, core::sync::atomic::Ordering::Relaxed) & bit != 0 {
            return None;
        }
        let units = self.cut.range(part);
        let range = self.cut.elements(part, self.unit, self.sink.len);
        let mut sources = [(); N].map(|()| Source::default());
        let of = self.sources.iter().zip(self.steps);
        for (part, (source, step)) in sources.iter_mut().zip(of) {
            let start = units.start.saturating_mul(step).min(source.len);
            let end = match source.is_over {
                true => range.end.min(source.len).max(start),
                false => source.len,
            };
            // SAFETY: start <= len, of which `Context::elementwise` checked that so many elements lie there.
            part.start = unsafe { source.start.add(start) };
            (part.len, part.is_over) = (end - start, source.is_over);
        }
        // SAFETY: as above, range.start <= range.end <= len. A source outside of the sink is only read. One in its memory has elements as large
        // and begins where the sink does (`new`), and is cut to the same elements: step is unit, so that start is range.start.
        // Ranges of parts don't overlap (`Cut`), and the bit shows that nobody else was lent this one.
        let start = unsafe { self.sink.start.add(range.start) };
        Some((sources, Sink { start, len: range.len(), _borrow: PhantomData }))
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
