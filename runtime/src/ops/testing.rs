//! Runs one operator the way a user would: through a file with one step, `Model::open` and a session.

use crate::dtype::DType;
use crate::error::SessionError;
use crate::format::{
    DimRecord, Element, Field, FileBuilder, Header, Layout, NO_OPERAND, Name, Op, OpBits, Section,
    StepRecord, Storage, SymbolRecord, TensorRecord,
};
use crate::isa::Isa;
use crate::{Model, Options, Session};

/// A tensor of a test.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) dtype: DType,
    pub(crate) dims: Vec<u32>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) scale: f32,
    pub(crate) zero_point: i32,
    pub(crate) constant: bool,
    pub(crate) layout: Layout,
    /// Of grouped weights.
    pub(crate) group_size: u32,
}

/// Rust types of element types.
pub(crate) trait Typed: Element {
    const DTYPE: DType;
    fn bytes(self) -> Vec<u8>;
    fn from_bytes(bytes: &[u8]) -> Self;
}

macro_rules! typed {
    ($($ty:ty: $dtype:ident,)*) => {$(
        impl Typed for $ty {
            const DTYPE: DType = DType::$dtype;
            fn bytes(self) -> Vec<u8> {
                self.to_le_bytes().to_vec()
            }
            fn from_bytes(bytes: &[u8]) -> Self {
                <$ty>::from_le_bytes(bytes.try_into().unwrap())
            }
        }
    )*};
}
typed! {
    f32: F32, half::f16: F16, half::bf16: BF16, i8: I8, u8: U8, i16: I16, i32: I32, i64: I64,
}

/// An input.
pub(crate) fn tensor<T: Typed>(dims: &[u32], values: &[T]) -> Tensor {
    let elements: usize = dims.iter().map(|dim| *dim as usize).product();
    assert_eq!(elements, values.len(), "values of {dims:?}");
    let bytes = values.iter().flat_map(|value| value.bytes()).collect();
    Tensor {
        dtype: T::DTYPE,
        dims: dims.to_vec(),
        bytes,
        scale: 0.0,
        zero_point: 0,
        constant: false,
        layout: Layout::Dense,
        group_size: 0,
    }
}

/// A bool input.
pub(crate) fn bools(dims: &[u32], values: &[u8]) -> Tensor {
    Tensor { dtype: DType::Bool, ..tensor(dims, values) }
}

/// An output.
pub(crate) fn shape(dtype: DType, dims: &[u32]) -> Tensor {
    Tensor { dtype, dims: dims.to_vec(), bytes: vec![], ..tensor::<i8>(&[0], &[]) }
}

impl Tensor {
    pub(crate) fn quantized(mut self, scale: f32, zero_point: i32) -> Tensor {
        (self.scale, self.zero_point) = (scale, zero_point);
        self
    }

    pub(crate) fn constant(mut self) -> Tensor {
        self.constant = true;
        self
    }

    /// Weights in a packed order.
    pub(crate) fn packed(mut self, layout: Layout) -> Tensor {
        self.layout = layout;
        self.constant()
    }

    fn byte_len(&self) -> usize {
        if self.layout != Layout::Dense {
            return self.bytes.len();
        }
        self.dims.iter().fold(self.dtype.size(), |bytes, dim| bytes.saturating_mul(*dim as usize))
    }
}

/// One step.
pub(crate) struct Case {
    pub(crate) op: Op,
    pub(crate) variant: Option<DType>,
    pub(crate) attributes: Vec<u8>,
    pub(crate) inputs: Vec<Option<Tensor>>,
    pub(crate) output: Tensor,
    /// Outputs after the first; `None` for one that nobody wants.
    pub(crate) more_outputs: Vec<Option<Tensor>>,
    /// Input whose memory the output starts in, and how many bytes behind its start.
    pub(crate) shared: Option<(usize, usize)>,
}

impl Case {
    pub(crate) fn new(
        op: Op,
        variant: Option<DType>,
        attributes: impl Field,
        inputs: &[Tensor],
        output: Tensor,
    ) -> Case {
        let inputs = inputs.iter().cloned().map(Some).collect();
        let (attributes, more_outputs) = (bytes_of(attributes), vec![]);
        Case { op, variant, attributes, inputs, output, more_outputs, shared: None }
    }

    pub(crate) fn with_outputs(mut self, more: &[Option<Tensor>]) -> Case {
        self.more_outputs = more.to_vec();
        self
    }

    pub(crate) fn sharing(mut self, input: usize, offset: usize) -> Case {
        self.shared = Some((input, offset));
        self
    }

    /// The file with this step alone.
    pub(crate) fn file(&self) -> Vec<u8> {
        self.file_with(&[])
    }

    /// The file with this step and a baseline section.
    pub(crate) fn file_with(&self, baseline: &[u8]) -> Vec<u8> {
        let mut constants = vec![];
        let mut arena = 0usize;
        let mut records = vec![];
        let mut operands = vec![];
        let mut interface = vec![];
        let input_count = self.inputs.iter().flatten().count();
        let more = self.more_outputs.iter().flatten();
        for tensor in self.inputs.iter().flatten().chain([&self.output]).chain(more) {
            let is_output = records.len() >= input_count;
            let len = tensor.byte_len();
            let (storage, offset) = if tensor.constant {
                constants.resize(constants.len().next_multiple_of(64), 0);
                constants.extend_from_slice(&tensor.bytes);
                (Storage::Constant, constants.len() - tensor.bytes.len())
            } else if let (true, Some((input, behind))) =
                (records.len() == input_count, self.shared)
            {
                let TensorRecord { offset, .. } = records[input];
                arena = arena.max(offset as usize + behind + len);
                (Storage::Arena, offset as usize + behind)
            } else {
                let offset = arena.next_multiple_of(64);
                arena = offset + len;
                (Storage::Arena, offset)
            };
            let mut dims = [0; crate::format::MAX_RANK];
            for (to, from) in dims.iter_mut().zip(&tensor.dims) {
                *to = *from as i32;
            }
            if !is_output && !tensor.constant {
                interface.push(records.len() as u32);
            }
            records.push(TensorRecord {
                dtype: tensor.dtype as u8,
                layout: tensor.layout as u8,
                storage: storage as u8,
                rank: tensor.dims.len() as u8,
                dims,
                offset: offset as u64,
                bytes: len as u64,
                scale: tensor.scale,
                zero_point: tensor.zero_point,
                group_size: tensor.group_size,
                ..TensorRecord::default()
            });
        }
        let mut next = 0;
        for input in &self.inputs {
            operands.push(if input.is_some() { next } else { NO_OPERAND });
            next += u32::from(input.is_some());
        }
        for output in std::iter::once(true).chain(self.more_outputs.iter().map(Option::is_some)) {
            operands.push(if output { next } else { NO_OPERAND });
            if output {
                interface.push(next);
                next += 1;
            }
        }
        let output_count = 1 + self.more_outputs.iter().flatten().count();
        let step = StepRecord {
            name: Name::default(),
            op: self.op as u16,
            variant: self.variant.map_or(0, |dtype| dtype as u8),
            attributes_bytes: self.attributes.len() as u32,
            input_count: self.inputs.len() as u16,
            output_count: 1 + self.more_outputs.len() as u16,
            ..StepRecord::default()
        };
        let mut op_set = OpBits::default();
        op_set.insert(self.op);
        let totals = Header {
            arena_bytes: arena as u64,
            weight_bytes: constants.len() as u64,
            step_count: 1,
            tensor_count: records.len() as u32,
            input_count: (interface.len() - output_count) as u32,
            output_count: output_count as u32,
            op_set: op_set.0,
            ..Header::default()
        };
        FileBuilder::new()
            .bytes(Section::Strings, vec![])
            .records::<SymbolRecord>(Section::Symbols, &[])
            .records::<DimRecord>(Section::Dims, &[])
            .records(Section::Tensors, &records)
            .records(Section::Steps, &[step])
            .records(Section::Operands, &operands)
            .bytes(Section::Attributes, self.attributes.clone())
            .bytes(Section::Constants, constants)
            .records(Section::Interface, &interface)
            .bytes(Section::Baseline, baseline.to_vec())
            .finish(totals)
    }

    /// Runs it with the CPU's fastest instruction set; the output's bytes.
    pub(crate) fn run_bytes(&self) -> Result<Vec<u8>, SessionError> {
        self.run_on(None)
    }

    /// Runs it with an instruction set; the first output's bytes.
    pub(crate) fn run_on(&self, isa: Option<Isa>) -> Result<Vec<u8>, SessionError> {
        self.run_outputs(isa).map(|mut outputs| outputs.swap_remove(0))
    }

    /// Runs it with an instruction set; the bytes of every output that is there.
    pub(crate) fn run_outputs(&self, isa: Option<Isa>) -> Result<Vec<Vec<u8>>, SessionError> {
        self.run_threads(isa, 1).map(|(outputs, _)| outputs)
    }

    /// Runs it with an instruction set on so many threads; the bytes of every output that is there, and the
    /// number of parts that its work was cut into.
    pub(crate) fn run_threads(
        &self,
        isa: Option<Isa>,
        threads: usize,
    ) -> Result<(Vec<Vec<u8>>, usize), SessionError> {
        let file = self.file();
        let mut memory = vec![0u8; file.len() + 8];
        let start = memory.as_ptr().align_offset(8);
        memory[start..start + file.len()].copy_from_slice(&file);
        let bytes = &memory[start..start + file.len()];
        let model = Model::open(bytes).expect("the harness writes a valid file");
        let result = self.run_model(model, isa, threads);
        if isa.is_none() && threads == 1 {
            crate::backend::cuda::tests::compare(
                self,
                model,
                result.as_ref().map(|(all, _)| &all[..]),
            );
        }
        result
    }

    fn run_model(
        &self,
        model: Model<'_>,
        isa: Option<Isa>,
        threads: usize,
    ) -> Result<(Vec<Vec<u8>>, usize), SessionError> {
        let mut session = Session::new(model, Options { isa, threads, ..Options::default() })?;
        for (index, bytes) in self.fed().enumerate() {
            session.set_input_bytes(index, bytes).expect("input");
        }
        session.run()?;
        let count = 1 + self.more_outputs.iter().flatten().count();
        let outputs = (0..count).map(|at| session.output_bytes(at).expect("output").to_vec());
        Ok((outputs.collect(), session.parts(0)))
    }

    /// What the inputs of the file are given.
    pub(crate) fn fed(&self) -> impl Iterator<Item = &[u8]> {
        self.inputs
            .iter()
            .flatten()
            .filter(|tensor| !tensor.constant)
            .map(|tensor| &tensor.bytes[..])
    }

    /// Runs it with an instruction set on one thread and on three, which give the same; every output as f32.
    pub(crate) fn floats_of_threads(&self, isa: Isa) -> Vec<Vec<f32>> {
        let of = |threads| self.run_threads(Some(isa), threads).expect("accepted").0;
        let outputs = of(1);
        assert_eq!(outputs, of(3), "threads");
        let floats = |bytes: Vec<u8>| {
            let words = bytes.chunks_exact(4).map(|word| word.try_into().expect("four bytes"));
            words.map(f32::from_le_bytes).collect()
        };
        outputs.into_iter().map(floats).collect()
    }

    /// Runs it; the output's elements. Panics when it is refused.
    pub(crate) fn run<T: Typed>(&self) -> Vec<T> {
        assert_eq!(self.output.dtype.size(), size_of::<T>());
        let bytes = self.run_bytes().expect("accepted");
        bytes.chunks_exact(size_of::<T>()).map(T::from_bytes).collect()
    }
}

/// A record's bytes.
pub(crate) fn bytes_of<F: Field>(record: F) -> Vec<u8> {
    let mut bytes = vec![0; F::SIZE];
    record.write(&mut bytes);
    bytes
}

/// Whether two lists are equal within `tolerance`, relative where values are above 1; equal
/// infinities and NaNs match.
#[track_caller]
pub(crate) fn assert_close(got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len());
    for (index, (g, w)) in got.iter().zip(want).enumerate() {
        let same = g == w || (g.is_nan() && w.is_nan());
        let close = (g - w).abs() <= tolerance * w.abs().max(1.0);
        assert!(same || close, "element {index}: {g} instead of {w}\n got {got:?}\nwant {want:?}");
    }
}

/// Reproducible numbers for tests: xorshift32.
pub(crate) struct Random(pub(crate) u32);

impl Random {
    pub(crate) fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u32) -> u32 {
        self.next() % limit
    }

    /// Between −2 and 2.
    pub(crate) fn f32(&mut self) -> f32 {
        (self.next() >> 8) as f32 / (1 << 22) as f32 - 2.0
    }

    pub(crate) fn f32s(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.f32()).collect()
    }

    pub(crate) fn i8s(&mut self, len: usize) -> Vec<i8> {
        (0..len).map(|_| self.next() as i8).collect()
    }
}
