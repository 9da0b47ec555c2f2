//! Writes a plan down as a `.whit` file.

use whit::format::{
    FileBuilder, GoldenRecord, Header, MAX_RANK, MetadataRecord, NO_OPERAND, Name, OpBits,
    SECTION_ALIGN, Section, StateRecord, StepRecord, SymbolRecord, TensorRecord,
};

use crate::plan::Plan;

/// One golden vector: the inputs' bytes and the outputs' expected bytes, each in the tensor's type.
#[derive(Clone, Debug, Default)]
pub struct Golden {
    /// The value of every symbol.
    pub dims: Vec<u32>,
    /// One per input of the model.
    pub inputs: Vec<Vec<u8>>,
    /// One per output of the model, with the tolerance that its comparison allows (0: equal).
    pub outputs: Vec<(Vec<u8>, f32)>,
}

/// Texts of a file, each stored once.
#[derive(Default)]
struct Strings {
    bytes: Vec<u8>,
    known: std::collections::HashMap<String, Name>,
}

impl Strings {
    fn add(&mut self, text: &str) -> Name {
        if let Some(name) = self.known.get(text) {
            return *name;
        }
        let name = Name { offset: self.bytes.len() as u32, bytes: text.len() as u32 };
        self.bytes.extend_from_slice(text.as_bytes());
        self.known.insert(text.to_owned(), name);
        name
    }
}

/// The bytes of the file.
pub fn emit(plan: &Plan, golden: &[Golden]) -> Vec<u8> {
    emit_with(plan, golden, &[])
}

/// The bytes of the file, with a baseline section if it isn't empty.
pub fn emit_with(plan: &Plan, golden: &[Golden], baseline: &[u8]) -> Vec<u8> {
    let mut strings = Strings::default();
    let symbols: Vec<SymbolRecord> = plan
        .symbols
        .iter()
        .map(|(name, min, max)| SymbolRecord { name: strings.add(name), min: *min, max: *max })
        .collect();
    let tensors: Vec<TensorRecord> = plan
        .tensors
        .iter()
        .map(|tensor| {
            let mut dims = [0; MAX_RANK];
            dims[..tensor.dims.len()].copy_from_slice(&tensor.dims);
            TensorRecord {
                name: strings.add(&tensor.name),
                dtype: tensor.dtype as u8,
                layout: tensor.layout as u8,
                storage: tensor.storage as u8,
                rank: tensor.dims.len() as u8,
                dims,
                offset: tensor.offset as u64,
                bytes: tensor.bytes as u64,
                scale: tensor.scale,
                zero_point: tensor.zero_point,
                group_size: tensor.group_size,
                reserved: [0; 2],
            }
        })
        .collect();

    let (mut operands, mut attributes) = (Vec::<u32>::new(), Vec::<u8>::new());
    let mut op_set = OpBits::default();
    let steps: Vec<StepRecord> = plan
        .steps
        .iter()
        .map(|step| {
            let operands_start = operands.len() as u32;
            operands.extend(step.inputs.iter().map(|t| t.map_or(NO_OPERAND, |t| t as u32)));
            operands.extend(step.outputs.iter().map(|t| t.map_or(NO_OPERAND, |t| t as u32)));
            attributes.resize(attributes.len().next_multiple_of(8), 0);
            let attributes_offset = attributes.len() as u32;
            attributes.extend_from_slice(&step.attributes);
            op_set.insert(step.op);
            StepRecord {
                name: strings.add(&step.name),
                op: step.op as u16,
                variant: step.variant.map_or(0, |dtype| dtype as u8),
                flags: 0,
                attributes_offset,
                attributes_bytes: step.attributes.len() as u32,
                operands_start,
                input_count: step.inputs.len() as u16,
                output_count: step.outputs.len() as u16,
                reserved: 0,
                macs: step.macs,
            }
        })
        .collect();

    let metadata: Vec<MetadataRecord> = plan
        .metadata
        .iter()
        .map(|(key, value)| MetadataRecord { key: strings.add(key), value: strings.add(value) })
        .collect();
    let interface: Vec<u32> = plan.inputs.iter().chain(&plan.outputs).map(|t| *t as u32).collect();
    let (golden_records, golden_data) = golden_sections(golden);

    let mut file = FileBuilder::new();
    file.bytes(Section::Strings, strings.bytes)
        .records(Section::Tensors, &tensors)
        .records(Section::Steps, &steps)
        .records(Section::Operands, &operands)
        .bytes(Section::Attributes, attributes)
        .records(Section::Interface, &interface);
    if !symbols.is_empty() {
        file.records(Section::Symbols, &symbols).records(Section::Dims, &plan.dims);
    }
    if !metadata.is_empty() {
        file.records(Section::Metadata, &metadata);
    }
    if !golden_records.is_empty() {
        file.records(Section::Golden, &golden_records).bytes(Section::GoldenData, golden_data);
    }
    if !baseline.is_empty() {
        file.bytes(Section::Baseline, baseline.to_vec());
    }
    let states: Vec<StateRecord> = plan
        .states
        .iter()
        .map(|state| StateRecord {
            tensor: state.tensor as u32,
            has_initial: u32::from(state.initial.is_some()),
            offset: state.initial.unwrap_or(0) as u64,
        })
        .collect();
    if !states.is_empty() {
        file.records(Section::State, &states);
    }
    file.bytes(Section::Constants, plan.constants.clone());
    file.finish(Header {
        arena_bytes: plan.arena_bytes as u64,
        state_bytes: plan.state_bytes as u64,
        weight_bytes: plan.constants.len() as u64,
        macs: plan.steps.iter().map(|step| step.macs).sum(),
        liveness_bound_bytes: plan.liveness_bound_bytes as u64,
        step_count: steps.len() as u32,
        tensor_count: tensors.len() as u32,
        input_count: plan.inputs.len() as u32,
        output_count: plan.outputs.len() as u32,
        op_set: op_set.0,
        ..Header::default()
    })
}

fn golden_sections(golden: &[Golden]) -> (Vec<GoldenRecord>, Vec<u8>) {
    let (mut records, mut data) = (Vec::new(), Vec::<u8>::new());
    for (case, vector) in golden.iter().enumerate() {
        let dims = vector.dims.iter().map(|dim| (2, dim.to_le_bytes().to_vec(), 0.0));
        let inputs = vector.inputs.iter().map(|bytes| (0, bytes.clone(), 0.0));
        let outputs =
            vector.outputs.iter().map(|(bytes, tolerance)| (1, bytes.clone(), *tolerance));
        let mut index = [0u32; 3];
        for (role, bytes, tolerance) in dims.chain(inputs).chain(outputs) {
            data.resize(data.len().next_multiple_of(SECTION_ALIGN), 0);
            records.push(GoldenRecord {
                case: case as u32,
                index: index[role],
                role: role as u32,
                tolerance,
                offset: data.len() as u64,
                bytes: bytes.len() as u64,
            });
            index[role] += 1;
            data.extend_from_slice(&bytes);
        }
    }
    (records, data)
}
