//! `Model::open`: the only door for untrusted bytes.

use core::ops::Range;

use crate::dtype::DType;
use crate::error::SessionError;
use crate::format::{
    DimOp, DimRecord, Field, FormatError, GoldenRecord, HEADER_BYTES, Header, Layout, MAGIC,
    MAX_RANK, MetadataRecord, NO_OPERAND, Name, OpBits, SECTION_ALIGN, Section, SectionEntry,
    StateRecord, StepRecord, Storage, SymbolRecord, TensorRecord, VERSION_MAJOR, crc32,
};

/// Entries of the dimension table (symbols and expressions) at most: the bounds of all of them
/// are computed on the stack while opening.
pub const MAX_DIMS: usize = 256;

/// Bytes of an attribute record at most.
const MAX_ATTRIBUTES_BYTES: u32 = 256;

/// A validated `.whit` file: in a memory map, in flash, anywhere that outlives it. Sessions read its
/// records in place, or, of a mapped file (`ModelFile`), copy them.
///
/// Opening checks every record and the exactness of the header's totals, but not the checksums of
/// the sections, whose cost grows with the file: call [`Model::verify_checksums`] for those.
#[derive(Clone, Copy)]
pub struct Model<'a> {
    bytes: &'a [u8],
    header: Header,
    may_change: bool,
    // (offset, length) by section number - 1; both 0 when the section is absent.
    sections: [(usize, usize); Section::ALL.len()],
}

impl<'a> Model<'a> {
    /// Validates the bytes, which must lie at a multiple of 8 in memory.
    ///
    /// Takes time in proportion to the number of records, not to the size of the weights.
    /// Never panics, never allocates.
    pub fn open(bytes: &'a [u8]) -> Result<Model<'a>, FormatError> {
        Model::open_source(bytes, false)
    }

    /// Validates the bytes of a mapped file, which somebody may edit afterwards.
    #[cfg(feature = "std")]
    pub(crate) fn open_mapped(bytes: &'a [u8]) -> Result<Model<'a>, FormatError> {
        Model::open_source(bytes, true)
    }

    fn open_source(bytes: &'a [u8], may_change: bool) -> Result<Model<'a>, FormatError> {
        if bytes.get(..4) != Some(&MAGIC) {
            return Err(FormatError::NotWhit);
        }
        let header = Header::read(bytes);
        if header.version_major != VERSION_MAJOR && bytes.len() >= 8 {
            return Err(FormatError::Version { major: header.version_major });
        }
        if bytes.len() < HEADER_BYTES || header.file_bytes != bytes.len() as u64 {
            let stated = header.file_bytes.max(HEADER_BYTES as u64);
            return Err(FormatError::FileLength { stated, actual: bytes.len() as u64 });
        }
        if crate::format::directory_crc32(bytes) != Some(header.crc32) {
            return Err(FormatError::Checksum { section: None });
        }
        if header.header_bytes != HEADER_BYTES as u32 {
            return Err(FormatError::NotWhit);
        }
        if header.required_features != 0 {
            return Err(FormatError::UnknownFeature { number: header.required_features });
        }
        if !(bytes.as_ptr() as usize).is_multiple_of(align_of::<u64>()) {
            return Err(FormatError::Misaligned);
        }
        let sections = read_directory(bytes, &header)?;
        let model = Model { bytes, header, may_change, sections };
        model.check_records()?;
        Ok(model)
    }

    /// Whether the bytes may change while a session runs: those of a mapped file, as others can
    /// write to it. A session then copies what steers it; else it reads the file in place.
    pub fn may_change(&self) -> bool {
        cfg!(feature = "std") && self.may_change
    }

    /// The header, whose totals are exact.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The whole file.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The bytes of a section; empty when it is absent.
    pub fn section(&self, section: Section) -> &'a [u8] {
        let (offset, len) = self.sections[section as usize - 1];
        &self.bytes[offset..offset + len]
    }

    fn record<T: Field>(&self, section: Section, index: usize) -> Option<T> {
        let start = index.checked_mul(T::SIZE)?;
        self.section(section).get(start..start.checked_add(T::SIZE)?).map(T::read)
    }

    fn records<T: Field + 'a>(
        &self,
        section: Section,
    ) -> impl ExactSizeIterator<Item = T> + use<'a, T> {
        self.section(section).chunks_exact(T::SIZE).map(T::read)
    }

    /// Text that a record refers to; empty when the reference is bad.
    pub fn text(&self, name: Name) -> &'a str {
        let start = name.offset as usize;
        let range = start..start.saturating_add(name.bytes as usize);
        let bytes = self.section(Section::Strings).get(range).unwrap_or(&[]);
        core::str::from_utf8(bytes).unwrap_or("")
    }

    /// Tensor number `index`.
    pub fn tensor(&self, index: usize) -> Option<TensorRecord> {
        self.record(Section::Tensors, index)
    }

    /// All tensors.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorRecord> + use<'a> {
        self.records(Section::Tensors)
    }

    /// Step number `index`.
    pub fn step(&self, index: usize) -> Option<StepRecord> {
        self.record(Section::Steps, index)
    }

    /// All steps, in the order in which they run.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = StepRecord> + use<'a> {
        self.records(Section::Steps)
    }

    /// Symbols of symbolic dimensions.
    pub fn symbols(&self) -> impl ExactSizeIterator<Item = SymbolRecord> + use<'a> {
        self.records(Section::Symbols)
    }

    /// The number of the symbol of that name, if it can be `value`.
    ///
    /// # Errors
    /// [`SessionError::Unknown`] and [`SessionError::Dimension`].
    pub(crate) fn symbol_for(&self, name: &str, value: u32) -> Result<usize, SessionError> {
        let mut symbols = self.symbols().enumerate();
        let found = symbols.find(|(_, symbol)| self.text(symbol.name) == name);
        let (index, symbol) = found.ok_or(SessionError::Unknown)?;
        match (symbol.min..=symbol.max).contains(&value) {
            true => Ok(index),
            false => Err(SessionError::Dimension { symbol: index as u32, value }),
        }
    }

    /// Expressions over symbols.
    pub fn dims(&self) -> impl ExactSizeIterator<Item = DimRecord> + use<'a> {
        self.records(Section::Dims)
    }

    /// States with their initial values.
    pub fn states(&self) -> impl ExactSizeIterator<Item = StateRecord> + use<'a> {
        self.records(Section::State)
    }

    /// Records of the golden vectors.
    pub fn golden(&self) -> impl ExactSizeIterator<Item = GoldenRecord> + use<'a> {
        self.records(Section::Golden)
    }

    /// The bytes of one tensor of a golden vector.
    pub fn golden_bytes(&self, record: &GoldenRecord) -> &'a [u8] {
        sub_slice(self.section(Section::GoldenData), record.offset, record.bytes).unwrap_or(&[])
    }

    /// Keys and values about the model.
    pub fn metadata(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let model = *self;
        self.records(Section::Metadata)
            .map(move |record: MetadataRecord| (model.text(record.key), model.text(record.value)))
    }

    /// The value of a metadata key.
    pub fn metadata_value(&self, key: &str) -> Option<&'a str> {
        self.metadata().find(|(k, _)| *k == key).map(|(_, value)| value)
    }

    /// Tensor index of input number `index`.
    pub fn input(&self, index: usize) -> Option<usize> {
        if index >= self.header.input_count as usize {
            return None;
        }
        self.record::<u32>(Section::Interface, index).map(|tensor| tensor as usize)
    }

    /// Tensor index of output number `index`.
    pub fn output(&self, index: usize) -> Option<usize> {
        let index = index.checked_add(self.header.input_count as usize)?;
        self.record::<u32>(Section::Interface, index).map(|tensor| tensor as usize)
    }

    /// Tensor indices of the inputs.
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = usize> + use<'a> {
        let model = *self;
        (0..self.header.input_count as usize).map(move |index| model.input(index).unwrap_or(0))
    }

    /// Tensor indices of the outputs.
    pub fn outputs(&self) -> impl ExactSizeIterator<Item = usize> + use<'a> {
        let model = *self;
        (0..self.header.output_count as usize).map(move |index| model.output(index).unwrap_or(0))
    }

    /// Operand tensors of a step: inputs first, then outputs; absent ones are [`NO_OPERAND`].
    pub fn operands(&self, step: &StepRecord) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        let count = usize::from(step.input_count) + usize::from(step.output_count);
        let start = step.operands_start as usize * u32::SIZE;
        let bytes = self.section(Section::Operands).get(start..start + count * u32::SIZE);
        bytes.unwrap_or(&[]).chunks_exact(u32::SIZE).map(u32::read)
    }

    /// Attribute bytes of a step.
    pub fn attributes(&self, step: &StepRecord) -> &'a [u8] {
        let (offset, bytes) = (u64::from(step.attributes_offset), u64::from(step.attributes_bytes));
        sub_slice(self.section(Section::Attributes), offset, bytes).unwrap_or(&[])
    }

    /// The elements of a constant tensor in its layout; empty for other storage.
    pub fn constant(&self, tensor: &TensorRecord) -> &'a [u8] {
        if tensor.storage != Storage::Constant as u8 {
            return &[];
        }
        sub_slice(self.section(Section::Constants), tensor.offset, tensor.bytes).unwrap_or(&[])
    }

    /// The operators that the program uses.
    pub fn op_set(&self) -> OpBits {
        OpBits(self.header.op_set)
    }

    /// The smallest and largest value of a dimension reference.
    ///
    /// Public for tools; takes time in proportion to the dimension table.
    pub fn dim_bounds(&self, reference: i32) -> Option<(u32, u32)> {
        bounds_of(DimBounds::compute(self).ok()?.get(), reference)
    }

    /// Compares every section with its checksum. Reads the whole file.
    pub fn verify_checksums(&self) -> Result<(), FormatError> {
        for index in 0..self.header.section_count as usize {
            let entry =
                SectionEntry::read(&self.bytes[HEADER_BYTES + index * SectionEntry::SIZE..]);
            let bytes = sub_slice(self.bytes, entry.offset, entry.bytes).unwrap_or(&[]);
            if crc32(&[bytes]) != entry.crc32 {
                return Err(FormatError::Checksum { section: Section::from_number(entry.kind) });
            }
        }
        Ok(())
    }

    fn check_records(&self) -> Result<(), FormatError> {
        let header = &self.header;
        let counts = [
            (Section::Tensors, TensorRecord::SIZE, u64::from(header.tensor_count), "tensor count"),
            (Section::Steps, StepRecord::SIZE, u64::from(header.step_count), "step count"),
            (
                Section::Interface,
                u32::SIZE,
                u64::from(header.input_count) + u64::from(header.output_count),
                "input and output count",
            ),
        ];
        for (section, size, stated, what) in counts {
            if (self.section(section).len() / size) as u64 != stated {
                return Err(FormatError::WrongTotal(what));
            }
        }
        if self.section(Section::Constants).len() as u64 != header.weight_bytes {
            return Err(FormatError::WrongTotal("weight bytes"));
        }
        if self.symbols().len() + self.dims().len() == 0 {
            self.check_tensors(&[])?;
        } else {
            self.check_symbolic_tensors()?;
        }
        self.check_steps()?;
        self.check_interface()?;
        self.check_data()
    }

    fn check_name(&self, name: Name) -> Option<()> {
        let strings = self.section(Section::Strings);
        let bytes = sub_slice(strings, u64::from(name.offset), u64::from(name.bytes))?;
        is_utf8(bytes).then_some(())
    }

    /// Apart, because the table takes two kilobytes of stack.
    #[inline(never)]
    fn check_symbolic_tensors(&self) -> Result<(), FormatError> {
        let bounds = DimBounds::compute(self)?;
        self.check_tensors(bounds.get())
    }

    #[inline(never)]
    fn check_tensors(&self, bounds: &[(u32, u32)]) -> Result<(), FormatError> {
        let (mut arena_end, mut state_end) = (0u64, 0u64);
        for (index, tensor) in self.tensors().enumerate() {
            let bad = FormatError::BadValue { section: Section::Tensors, index: index as u32 };
            let outside =
                FormatError::OutOfBounds { section: Section::Tensors, index: index as u32 };
            self.check_name(tensor.name).ok_or(outside)?;
            let dtype = DType::from_number(tensor.dtype).ok_or(bad)?;
            let layout = Layout::from_number(tensor.layout).ok_or(bad)?;
            let storage = Storage::from_number(tensor.storage).ok_or(bad)?;
            if usize::from(tensor.rank) > MAX_RANK
                || !(tensor.scale.is_finite() && tensor.scale >= 0.0)
            {
                return Err(bad);
            }
            let zero_point_fits = match dtype {
                DType::I8 => i8::try_from(tensor.zero_point).is_ok(),
                DType::U8 => u8::try_from(tensor.zero_point).is_ok(),
                _ => tensor.zero_point == 0,
            };
            if !zero_point_fits {
                return Err(bad);
            }
            let mut elements = 1u64;
            for reference in &tensor.dims[..usize::from(tensor.rank)] {
                if storage == Storage::Constant && *reference < 0 {
                    return Err(bad);
                }
                let (_, max) = bounds_of(bounds, *reference).ok_or(outside)?;
                elements = elements.checked_mul(u64::from(max)).ok_or(bad)?;
            }
            let dense_bytes = elements.checked_mul(dtype.size() as u64).ok_or(bad)?;
            let end = tensor.offset.checked_add(tensor.bytes).ok_or(outside)?;
            // Sizes are powers of two.
            if (tensor.offset | tensor.bytes) & (dtype.size() as u64 - 1) != 0
                || (layout == Layout::Dense && tensor.bytes != dense_bytes)
                || (layout != Layout::Dense && storage != Storage::Constant)
            {
                return Err(bad);
            }
            match storage {
                Storage::Arena => arena_end = arena_end.max(end),
                Storage::State => state_end = state_end.max(end),
                Storage::Constant if end > self.header.weight_bytes => return Err(outside),
                Storage::Constant => {}
            }
        }
        if arena_end != self.header.arena_bytes {
            return Err(FormatError::WrongTotal("arena bytes"));
        }
        if state_end != self.header.state_bytes {
            return Err(FormatError::WrongTotal("state bytes"));
        }
        Ok(())
    }

    fn check_steps(&self) -> Result<(), FormatError> {
        let operands = self.section(Section::Operands);
        let operand_count = (operands.len() / u32::SIZE) as u64;
        let mut op_set = OpBits::default();
        let (mut macs, mut operands_used) = (0u64, 0u64);
        for (index, step) in self.steps().enumerate() {
            let bad = FormatError::BadValue { section: Section::Steps, index: index as u32 };
            let outside = FormatError::OutOfBounds { section: Section::Steps, index: index as u32 };
            self.check_name(step.name).ok_or(outside)?;
            if step.op >= 128 || (step.variant != 0 && DType::from_number(step.variant).is_none()) {
                return Err(bad);
            }
            op_set.0[usize::from(step.op / 64)] |= 1 << (step.op % 64);
            macs = macs.checked_add(step.macs).ok_or(bad)?;
            let count = u64::from(step.input_count) + u64::from(step.output_count);
            // A session copies operands and attributes; without sharing, its size stays in
            // proportion to the file's.
            operands_used += count;
            if u64::from(step.operands_start) + count > operand_count
                || operands_used > operand_count
            {
                return Err(outside);
            }
            if step.output_count == 0 || step.attributes_bytes > MAX_ATTRIBUTES_BYTES {
                return Err(bad);
            }
            for (position, operand) in self.operands(&step).enumerate() {
                if operand == NO_OPERAND {
                    continue;
                }
                let is_input = position < usize::from(step.input_count);
                let tensor = self.tensor(operand as usize).ok_or(outside)?;
                if !is_input && tensor.storage == Storage::Constant as u8 {
                    return Err(bad);
                }
            }
            let attributes = self.section(Section::Attributes);
            let (offset, bytes) = (step.attributes_offset, step.attributes_bytes);
            if !offset.is_multiple_of(8) {
                return Err(bad);
            }
            sub_slice(attributes, u64::from(offset), u64::from(bytes)).ok_or(outside)?;
        }
        if op_set != self.op_set() {
            return Err(FormatError::WrongTotal("operator set"));
        }
        if macs != self.header.macs {
            return Err(FormatError::WrongTotal("MACs"));
        }
        Ok(())
    }

    fn check_interface(&self) -> Result<(), FormatError> {
        let inputs = self.header.input_count as usize;
        for (index, tensor) in self.records::<u32>(Section::Interface).enumerate() {
            let outside =
                FormatError::OutOfBounds { section: Section::Interface, index: index as u32 };
            let record = self.tensor(tensor as usize).ok_or(outside)?;
            if index < inputs && record.storage != Storage::Arena as u8 {
                return Err(FormatError::BadValue {
                    section: Section::Interface,
                    index: index as u32,
                });
            }
        }
        Ok(())
    }

    fn check_data(&self) -> Result<(), FormatError> {
        for (index, symbol) in self.symbols().enumerate() {
            let index = index as u32;
            self.check_name(symbol.name)
                .ok_or(FormatError::OutOfBounds { section: Section::Symbols, index })?;
        }
        for (index, record) in self.records::<MetadataRecord>(Section::Metadata).enumerate() {
            let index = index as u32;
            self.check_name(record.key)
                .and_then(|()| self.check_name(record.value))
                .ok_or(FormatError::OutOfBounds { section: Section::Metadata, index })?;
        }
        for (index, state) in self.states().enumerate() {
            let index = index as u32;
            let outside = FormatError::OutOfBounds { section: Section::State, index };
            let tensor = self.tensor(state.tensor as usize).ok_or(outside)?;
            if tensor.storage != Storage::State as u8 || state.has_initial > 1 {
                return Err(FormatError::BadValue { section: Section::State, index });
            }
            if state.has_initial == 1 {
                sub_slice(self.section(Section::Constants), state.offset, tensor.bytes)
                    .ok_or(outside)?;
            }
        }
        // Cases count from 0 and their records are adjacent, so that a reader finds every one.
        let mut case = 0;
        for (index, golden) in self.golden().enumerate() {
            let index = index as u32;
            if golden.case != case && (index == 0 || golden.case != case + 1) {
                return Err(FormatError::BadValue { section: Section::Golden, index });
            }
            case = golden.case;
            let outside = FormatError::OutOfBounds { section: Section::Golden, index };
            let count = match golden.role {
                0 => self.header.input_count,
                1 => self.header.output_count,
                2 => self.symbols().len() as u32,
                _ => return Err(FormatError::BadValue { section: Section::Golden, index }),
            };
            if golden.index >= count || !golden.offset.is_multiple_of(8) {
                return Err(outside);
            }
            sub_slice(self.section(Section::GoldenData), golden.offset, golden.bytes)
                .ok_or(outside)?;
        }
        Ok(())
    }
}

/// `bytes[offset..offset + len]`, if it is there.
fn sub_slice(bytes: &[u8], offset: u64, len: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = usize::try_from(offset.checked_add(len)?).ok()?;
    bytes.get(start..end)
}

type Sections = [(usize, usize); Section::ALL.len()];

fn read_directory(bytes: &[u8], header: &Header) -> Result<Sections, FormatError> {
    let mut sections: [Option<Range<usize>>; Section::ALL.len()] = Default::default();
    for index in 0..header.section_count as usize {
        // The checksum was computed over the whole directory, so every entry is inside the file.
        let entry = SectionEntry::read(&bytes[HEADER_BYTES + index * SectionEntry::SIZE..]);
        let Some(section) = Section::from_number(entry.kind) else {
            if entry.required != 0 {
                return Err(FormatError::UnknownFeature { number: u64::from(entry.kind) });
            }
            continue;
        };
        let bad = FormatError::BadSection(section);
        let range = sub_slice(bytes, entry.offset, entry.bytes).map(|s| s.len()).ok_or(bad)?;
        let start = entry.offset as usize;
        let record_bytes = record_bytes(section);
        if !start.is_multiple_of(SECTION_ALIGN)
            || entry.record_bytes as usize != record_bytes
            || !range.is_multiple_of(record_bytes)
        {
            return Err(bad);
        }
        if sections[section as usize - 1].replace(start..start + range).is_some() {
            return Err(FormatError::DuplicateSection(section));
        }
    }
    for section in Section::ALL {
        if section.is_required() && sections[section as usize - 1].is_none() {
            return Err(FormatError::MissingSection(section));
        }
    }
    Ok(sections.map(|range| range.map_or((0, 0), |range| (range.start, range.len()))))
}

/// Bytes of one record of a section.
fn record_bytes(section: Section) -> usize {
    match section {
        Section::Symbols => SymbolRecord::SIZE,
        Section::Dims => DimRecord::SIZE,
        Section::Tensors => TensorRecord::SIZE,
        Section::Steps => StepRecord::SIZE,
        Section::Operands | Section::Interface => u32::SIZE,
        Section::State => StateRecord::SIZE,
        Section::Metadata => MetadataRecord::SIZE,
        Section::Golden => GoldenRecord::SIZE,
        Section::Strings
        | Section::Attributes
        | Section::Constants
        | Section::GoldenData
        | Section::Baseline
        | Section::Signature => 1,
    }
}

/// Smallest and largest value of every entry of the dimension table.
struct DimBounds {
    bounds: [(u32, u32); MAX_DIMS],
    len: usize,
}

/// Whether bytes are UTF-8. A tokenizer in the metadata has megabytes of text.
fn is_utf8(bytes: &[u8]) -> bool {
    #[cfg(feature = "std")]
    return simdutf8::basic::from_utf8(bytes).is_ok();
    #[cfg(not(feature = "std"))]
    core::str::from_utf8(bytes).is_ok()
}

/// Whether symbols may be 0. Skipping the steps that have nothing to compute then takes code that microcontrollers are spared.
const CAN_BE_EMPTY: bool = cfg!(feature = "std");

impl DimBounds {
    fn compute(model: &Model<'_>) -> Result<DimBounds, FormatError> {
        let mut table = DimBounds { bounds: [(0, 0); MAX_DIMS], len: 0 };
        for (index, symbol) in model.symbols().enumerate() {
            let bad = FormatError::BadValue { section: Section::Symbols, index: index as u32 };
            if (symbol.min == 0 && !CAN_BE_EMPTY)
                || symbol.min > symbol.max
                || symbol.max > i32::MAX as u32
            {
                return Err(bad);
            }
            table.push((symbol.min, symbol.max)).ok_or(bad)?;
        }
        for (index, dim) in model.dims().enumerate() {
            let bad = FormatError::BadValue { section: Section::Dims, index: index as u32 };
            let op = DimOp::from_number(dim.op).ok_or(bad)?;
            let a = bounds_of(table.get(), dim.a).ok_or(bad)?;
            let b = bounds_of(table.get(), dim.b).ok_or(bad)?;
            // Every operation grows with its first operand; Sub and Div shrink with their second.
            let b = if matches!(op, DimOp::Sub | DimOp::Div) { (b.1, b.0) } else { b };
            let low = op.apply(a.0, b.0).ok_or(bad)?;
            let high = op.apply(a.1, b.1).ok_or(bad)?;
            table.push((low, high)).ok_or(bad)?;
        }
        Ok(table)
    }

    fn push(&mut self, bounds: (u32, u32)) -> Option<()> {
        *self.bounds.get_mut(self.len)? = bounds;
        self.len += 1;
        Some(())
    }

    fn get(&self) -> &[(u32, u32)] {
        &self.bounds[..self.len]
    }
}

/// The smallest and largest value of a dimension reference, given those of the dimension table.
fn bounds_of(table: &[(u32, u32)], reference: i32) -> Option<(u32, u32)> {
    if reference >= 0 {
        return Some((reference as u32, reference as u32));
    }
    table.get(!reference as usize).copied()
}
