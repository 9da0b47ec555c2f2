//! Writes TFLite files for tests, by the numbers of the schema's fields.

use flatbuffers::{FlatBufferBuilder, ForwardsUOffset, TableFinishedWIPOffset, WIPOffset};

/// Values of `TensorType`.
pub(crate) const F32: i8 = 0;
pub(crate) const I32: i8 = 2;
pub(crate) const U8: i8 = 3;
pub(crate) const I64: i8 = 4;
pub(crate) const BOOL: i8 = 6;
pub(crate) const I8: i8 = 9;

/// A field of a table with options, by its number.
#[derive(Clone, Debug)]
pub(crate) enum Field {
    Byte(i8),
    Int(i32),
    Real(f32),
    Ints(Vec<i32>),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Tensor {
    pub name: String,
    pub kind: i8,
    pub shape: Vec<i32>,
    pub signature: Vec<i32>,
    pub data: Option<Vec<u8>>,
    /// Another buffer than its own.
    pub buffer: Option<u32>,
    pub scale: Vec<f32>,
    pub zero_point: Vec<i64>,
    pub axis: i32,
}

impl Tensor {
    pub(crate) fn new(name: &str, kind: i8, shape: &[i32]) -> Tensor {
        Tensor { name: name.to_owned(), kind, shape: shape.to_vec(), ..Tensor::default() }
    }

    pub(crate) fn scaled(mut self, scale: f32, zero_point: i64) -> Tensor {
        (self.scale, self.zero_point) = (vec![scale], vec![zero_point]);
        self
    }

    pub(crate) fn per_channel(mut self, scales: &[f32], axis: i32) -> Tensor {
        (self.scale, self.zero_point, self.axis) = (scales.to_vec(), vec![0; scales.len()], axis);
        self
    }

    pub(crate) fn f32s(name: &str, shape: &[i32], values: &[f32]) -> Tensor {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor { data: Some(data), ..Tensor::new(name, F32, shape) }
    }

    pub(crate) fn i32s(name: &str, shape: &[i32], values: &[i32]) -> Tensor {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor { data: Some(data), ..Tensor::new(name, I32, shape) }
    }

    pub(crate) fn i8s(name: &str, shape: &[i32], values: &[i8]) -> Tensor {
        let data = values.iter().map(|v| *v as u8).collect();
        Tensor { data: Some(data), ..Tensor::new(name, I8, shape) }
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Operator {
    /// Index into the codes.
    pub code: u32,
    pub inputs: Vec<i32>,
    pub outputs: Vec<i32>,
    pub options_type: u8,
    pub options: Vec<(u16, Field)>,
}

/// A model of one graph.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub version: u32,
    /// Number of the operator, and the name of a custom one.
    pub codes: Vec<(i32, String)>,
    pub tensors: Vec<Tensor>,
    pub operators: Vec<Operator>,
    pub inputs: Vec<i32>,
    pub outputs: Vec<i32>,
}

type Table = WIPOffset<TableFinishedWIPOffset>;
type Builder = FlatBufferBuilder<'static>;

/// The place of field `number` in a vtable.
fn slot(number: u16) -> u16 {
    4 + 2 * number
}

fn tables(b: &mut Builder, tables: &[Table]) -> WIPOffset<flatbuffers::UnionWIPOffset> {
    // A vector of offsets, whatever they lead to.
    let offsets: Vec<WIPOffset<&str>> = tables.iter().map(|t| WIPOffset::new(t.value())).collect();
    let vector: WIPOffset<flatbuffers::Vector<'_, ForwardsUOffset<&str>>> =
        b.create_vector(&offsets);
    WIPOffset::new(vector.value())
}

impl Model {
    /// The bytes of the file.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut b = FlatBufferBuilder::new();
        let b = &mut b;
        let empty = b.start_table();
        let mut buffers = vec![b.end_table(empty)];
        let mut all = Vec::new();
        for tensor in &self.tensors {
            let number = match (&tensor.data, tensor.buffer) {
                (_, Some(buffer)) => buffer,
                (None, None) => 0,
                (Some(data), None) => {
                    let data = b.create_vector(data);
                    let table = b.start_table();
                    b.push_slot_always(slot(0), data);
                    buffers.push(b.end_table(table));
                    buffers.len() as u32 - 1
                }
            };
            all.push(write_tensor(b, tensor, number));
        }
        let tensors = tables(b, &all);
        let operators: Vec<Table> = self.operators.iter().map(|o| write_operator(b, o)).collect();
        let operators = tables(b, &operators);
        let (inputs, outputs) = (b.create_vector(&self.inputs), b.create_vector(&self.outputs));
        let name = b.create_string("main");
        let table = b.start_table();
        b.push_slot_always(slot(0), tensors);
        b.push_slot_always(slot(1), inputs);
        b.push_slot_always(slot(2), outputs);
        b.push_slot_always(slot(3), operators);
        b.push_slot_always(slot(4), name);
        let graph = b.end_table(table);
        let graphs = tables(b, &[graph]);
        let mut codes = Vec::new();
        for (number, custom) in &self.codes {
            let custom = b.create_string(custom);
            let table = b.start_table();
            // Older readers find the code in one byte.
            b.push_slot_always(slot(0), (*number).min(127) as i8);
            b.push_slot_always(slot(1), custom);
            b.push_slot_always(slot(3), *number);
            codes.push(b.end_table(table));
        }
        let codes = tables(b, &codes);
        let buffers = tables(b, &buffers);
        let description = b.create_string("written by a test");
        let table = b.start_table();
        b.push_slot_always(slot(0), self.version);
        b.push_slot_always(slot(1), codes);
        b.push_slot_always(slot(2), graphs);
        b.push_slot_always(slot(3), description);
        b.push_slot_always(slot(4), buffers);
        let root = b.end_table(table);
        b.finish(root, Some("TFL3"));
        b.finished_data().to_vec()
    }
}

fn write_tensor(b: &mut Builder, tensor: &Tensor, buffer: u32) -> Table {
    let (shape, name) = (b.create_vector(&tensor.shape), b.create_string(&tensor.name));
    let signature = b.create_vector(&tensor.signature);
    let (scale, zero_point) = (b.create_vector(&tensor.scale), b.create_vector(&tensor.zero_point));
    let table = b.start_table();
    b.push_slot_always(slot(2), scale);
    b.push_slot_always(slot(3), zero_point);
    b.push_slot_always(slot(6), tensor.axis);
    let quantization = b.end_table(table);
    let table = b.start_table();
    b.push_slot_always(slot(0), shape);
    b.push_slot_always(slot(1), tensor.kind);
    b.push_slot_always(slot(2), buffer);
    b.push_slot_always(slot(3), name);
    b.push_slot_always(slot(4), quantization);
    if !tensor.signature.is_empty() {
        b.push_slot_always(slot(7), signature);
    }
    b.end_table(table)
}

fn write_operator(b: &mut Builder, operator: &Operator) -> Table {
    let (inputs, outputs) = (b.create_vector(&operator.inputs), b.create_vector(&operator.outputs));
    let lists: Vec<_> = operator
        .options
        .iter()
        .map(|(_, field)| match field {
            Field::Ints(values) => Some(b.create_vector(values)),
            _ => None,
        })
        .collect();
    let table = b.start_table();
    for ((number, field), list) in operator.options.iter().zip(lists) {
        let place = slot(*number);
        match (field, list) {
            (Field::Byte(value), _) => b.push_slot_always(place, *value),
            (Field::Int(value), _) => b.push_slot_always(place, *value),
            (Field::Real(value), _) => b.push_slot_always(place, *value),
            (Field::Ints(_), Some(list)) => b.push_slot_always(place, list),
            (Field::Ints(_), None) => {}
        }
    }
    let options = b.end_table(table);
    let table = b.start_table();
    b.push_slot_always(slot(0), operator.code);
    b.push_slot_always(slot(1), inputs);
    b.push_slot_always(slot(2), outputs);
    if operator.options_type != 0 {
        b.push_slot_always(slot(3), operator.options_type);
        b.push_slot_always(slot(4), options);
    }
    b.end_table(table)
}
