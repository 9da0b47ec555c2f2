//! The messages of `onnx.proto` that a model for inference consists of, written by hand for `prost`.
//!
//! Field numbers are those of ONNX 1.23. Fields that inference never reads (training, sharding)
//! are left out: protobuf skips what it doesn't know. `oneof`s are optional fields, which is the
//! same on the wire. Raw tensor bytes are [`Bytes`], so decoding from [`Bytes`] copies no weights.
#![allow(missing_docs, reason = "the names and meanings are those of onnx.proto")]

use bytes::Bytes;
use prost::Message;

/// Values of `TensorProto.DataType`.
pub mod data_type {
    pub const UNDEFINED: i32 = 0;
    pub const FLOAT: i32 = 1;
    pub const UINT8: i32 = 2;
    pub const INT8: i32 = 3;
    pub const UINT16: i32 = 4;
    pub const INT16: i32 = 5;
    pub const INT32: i32 = 6;
    pub const INT64: i32 = 7;
    pub const STRING: i32 = 8;
    pub const BOOL: i32 = 9;
    pub const FLOAT16: i32 = 10;
    pub const DOUBLE: i32 = 11;
    pub const UINT32: i32 = 12;
    pub const UINT64: i32 = 13;
    pub const COMPLEX64: i32 = 14;
    pub const COMPLEX128: i32 = 15;
    pub const BFLOAT16: i32 = 16;
    pub const FLOAT8E4M3FN: i32 = 17;
    pub const FLOAT8E4M3FNUZ: i32 = 18;
    pub const FLOAT8E5M2: i32 = 19;
    pub const FLOAT8E5M2FNUZ: i32 = 20;
    pub const UINT4: i32 = 21;
    pub const INT4: i32 = 22;
    pub const FLOAT4E2M1: i32 = 23;
    pub const FLOAT8E8M0: i32 = 24;
    pub const UINT2: i32 = 25;
    pub const INT2: i32 = 26;

    /// The name in onnx.proto.
    pub fn name(number: i32) -> String {
        const NAMES: [&str; 29] = [
            "UNDEFINED",
            "FLOAT",
            "UINT8",
            "INT8",
            "UINT16",
            "INT16",
            "INT32",
            "INT64",
            "STRING",
            "BOOL",
            "FLOAT16",
            "DOUBLE",
            "UINT32",
            "UINT64",
            "COMPLEX64",
            "COMPLEX128",
            "BFLOAT16",
            "FLOAT8E4M3FN",
            "FLOAT8E4M3FNUZ",
            "FLOAT8E5M2",
            "FLOAT8E5M2FNUZ",
            "UINT4",
            "INT4",
            "FLOAT4E2M1",
            "FLOAT8E8M0",
            "UINT2",
            "INT2",
            "FLOAT6E2M3",
            "FLOAT6E3M2",
        ];
        usize::try_from(number)
            .ok()
            .and_then(|n| NAMES.get(n))
            .map_or_else(|| format!("type #{number}"), |name| (*name).to_owned())
    }
}

/// Values of `AttributeProto.AttributeType`.
pub mod attribute_type {
    pub const UNDEFINED: i32 = 0;
    pub const FLOAT: i32 = 1;
    pub const INT: i32 = 2;
    pub const STRING: i32 = 3;
    pub const TENSOR: i32 = 4;
    pub const GRAPH: i32 = 5;
    pub const FLOATS: i32 = 6;
    pub const INTS: i32 = 7;
    pub const STRINGS: i32 = 8;
    pub const GRAPHS: i32 = 10;
}

#[derive(Clone, PartialEq, Message)]
pub struct ModelProto {
    #[prost(int64, optional, tag = "1")]
    pub ir_version: Option<i64>,
    #[prost(string, optional, tag = "2")]
    pub producer_name: Option<String>,
    #[prost(string, optional, tag = "3")]
    pub producer_version: Option<String>,
    #[prost(string, optional, tag = "4")]
    pub domain: Option<String>,
    #[prost(int64, optional, tag = "5")]
    pub model_version: Option<i64>,
    #[prost(string, optional, tag = "6")]
    pub doc_string: Option<String>,
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetIdProto>,
    #[prost(message, repeated, tag = "14")]
    pub metadata_props: Vec<StringStringEntryProto>,
    #[prost(message, repeated, tag = "25")]
    pub functions: Vec<FunctionProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct OperatorSetIdProto {
    #[prost(string, optional, tag = "1")]
    pub domain: Option<String>,
    #[prost(int64, optional, tag = "2")]
    pub version: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct StringStringEntryProto {
    #[prost(string, optional, tag = "1")]
    pub key: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub value: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<NodeProto>,
    #[prost(string, optional, tag = "2")]
    pub name: Option<String>,
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorProto>,
    #[prost(string, optional, tag = "10")]
    pub doc_string: Option<String>,
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "13")]
    pub value_info: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "15")]
    pub sparse_initializer: Vec<SparseTensorProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    #[prost(string, optional, tag = "3")]
    pub name: Option<String>,
    #[prost(string, optional, tag = "4")]
    pub op_type: Option<String>,
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<AttributeProto>,
    #[prost(string, optional, tag = "6")]
    pub doc_string: Option<String>,
    #[prost(string, optional, tag = "7")]
    pub domain: Option<String>,
    #[prost(string, optional, tag = "8")]
    pub overload: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct AttributeProto {
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    #[prost(float, optional, tag = "2")]
    pub f: Option<f32>,
    #[prost(int64, optional, tag = "3")]
    pub i: Option<i64>,
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub s: Option<Bytes>,
    #[prost(message, optional, boxed, tag = "5")]
    pub t: Option<Box<TensorProto>>,
    #[prost(message, optional, boxed, tag = "6")]
    pub g: Option<Box<GraphProto>>,
    #[prost(float, repeated, packed = "false", tag = "7")]
    pub floats: Vec<f32>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub ints: Vec<i64>,
    #[prost(bytes = "bytes", repeated, tag = "9")]
    pub strings: Vec<Bytes>,
    #[prost(message, repeated, tag = "11")]
    pub graphs: Vec<GraphProto>,
    #[prost(int32, optional, tag = "20")]
    pub r#type: Option<i32>,
    #[prost(string, optional, tag = "21")]
    pub ref_attr_name: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TensorProto {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub dims: Vec<i64>,
    #[prost(int32, optional, tag = "2")]
    pub data_type: Option<i32>,
    #[prost(message, optional, tag = "3")]
    pub segment: Option<SegmentProto>,
    #[prost(float, repeated, tag = "4")]
    pub float_data: Vec<f32>,
    #[prost(int32, repeated, tag = "5")]
    pub int32_data: Vec<i32>,
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub string_data: Vec<Bytes>,
    #[prost(int64, repeated, tag = "7")]
    pub int64_data: Vec<i64>,
    #[prost(string, optional, tag = "8")]
    pub name: Option<String>,
    #[prost(bytes = "bytes", optional, tag = "9")]
    pub raw_data: Option<Bytes>,
    #[prost(double, repeated, tag = "10")]
    pub double_data: Vec<f64>,
    #[prost(uint64, repeated, tag = "11")]
    pub uint64_data: Vec<u64>,
    #[prost(message, repeated, tag = "13")]
    pub external_data: Vec<StringStringEntryProto>,
    #[prost(int32, optional, tag = "14")]
    pub data_location: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct SegmentProto {
    #[prost(int64, optional, tag = "1")]
    pub begin: Option<i64>,
    #[prost(int64, optional, tag = "2")]
    pub end: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct SparseTensorProto {
    #[prost(message, optional, tag = "1")]
    pub values: Option<TensorProto>,
    #[prost(message, optional, tag = "2")]
    pub indices: Option<TensorProto>,
    #[prost(int64, repeated, packed = "false", tag = "3")]
    pub dims: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ValueInfoProto {
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<TypeProto>,
    #[prost(string, optional, tag = "3")]
    pub doc_string: Option<String>,
}

/// Only tensors are read; the other kinds (sequence, map, optional, …) leave it empty.
#[derive(Clone, PartialEq, Message)]
pub struct TypeProto {
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorTypeProto>,
    #[prost(string, optional, tag = "6")]
    pub denotation: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TensorTypeProto {
    #[prost(int32, optional, tag = "1")]
    pub elem_type: Option<i32>,
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TensorShapeProto {
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<DimensionProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct DimensionProto {
    #[prost(int64, optional, tag = "1")]
    pub dim_value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    pub dim_param: Option<String>,
    #[prost(string, optional, tag = "3")]
    pub denotation: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct FunctionProto {
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    #[prost(string, repeated, tag = "4")]
    pub input: Vec<String>,
    #[prost(string, repeated, tag = "5")]
    pub output: Vec<String>,
    #[prost(string, repeated, tag = "6")]
    pub attribute: Vec<String>,
    #[prost(message, repeated, tag = "7")]
    pub node: Vec<NodeProto>,
    #[prost(message, repeated, tag = "9")]
    pub opset_import: Vec<OperatorSetIdProto>,
    #[prost(string, optional, tag = "10")]
    pub domain: Option<String>,
    #[prost(message, repeated, tag = "11")]
    pub attribute_proto: Vec<AttributeProto>,
    #[prost(string, optional, tag = "13")]
    pub overload: Option<String>,
}

// What tests and trainers build models with.

impl ModelProto {
    /// A model of one graph in IR version 8.
    pub fn new(opset: i64, graph: GraphProto) -> ModelProto {
        ModelProto {
            ir_version: Some(8),
            producer_name: Some("whit".to_owned()),
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(opset) }],
            graph: Some(graph),
            ..ModelProto::default()
        }
    }

    /// The bytes of an `.onnx` file.
    pub fn to_bytes(&self) -> Bytes {
        Bytes::from(self.encode_to_vec())
    }
}

impl NodeProto {
    /// A node without a name; an empty input is one left out.
    pub fn new(op_type: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
        NodeProto {
            op_type: Some(op_type.to_owned()),
            input: inputs.iter().map(|name| (*name).to_owned()).collect(),
            output: outputs.iter().map(|name| (*name).to_owned()).collect(),
            ..NodeProto::default()
        }
    }

    /// The same node with a name.
    pub fn named(mut self, name: &str) -> NodeProto {
        self.name = Some(name.to_owned());
        self
    }

    /// The same node with one more attribute.
    pub fn with(mut self, attribute: AttributeProto) -> NodeProto {
        self.attribute.push(attribute);
        self
    }
}

impl AttributeProto {
    fn of(name: &str, r#type: i32) -> AttributeProto {
        AttributeProto {
            name: Some(name.to_owned()),
            r#type: Some(r#type),
            ..AttributeProto::default()
        }
    }

    /// An INT attribute.
    pub fn int(name: &str, value: i64) -> AttributeProto {
        AttributeProto { i: Some(value), ..AttributeProto::of(name, attribute_type::INT) }
    }

    /// An INTS attribute.
    pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
        AttributeProto { ints: values.to_vec(), ..AttributeProto::of(name, attribute_type::INTS) }
    }

    /// A FLOAT attribute.
    pub fn float(name: &str, value: f32) -> AttributeProto {
        AttributeProto { f: Some(value), ..AttributeProto::of(name, attribute_type::FLOAT) }
    }

    /// A FLOATS attribute.
    pub fn floats(name: &str, values: &[f32]) -> AttributeProto {
        AttributeProto {
            floats: values.to_vec(),
            ..AttributeProto::of(name, attribute_type::FLOATS)
        }
    }

    /// A STRING attribute.
    pub fn string(name: &str, value: &str) -> AttributeProto {
        let s = Some(Bytes::copy_from_slice(value.as_bytes()));
        AttributeProto { s, ..AttributeProto::of(name, attribute_type::STRING) }
    }

    /// A TENSOR attribute.
    pub fn tensor(name: &str, value: TensorProto) -> AttributeProto {
        AttributeProto {
            t: Some(Box::new(value)),
            ..AttributeProto::of(name, attribute_type::TENSOR)
        }
    }

    /// An attribute that takes the value of the enclosing function's attribute `of`.
    pub fn reference(name: &str, of: &str, r#type: i32) -> AttributeProto {
        AttributeProto { ref_attr_name: Some(of.to_owned()), ..AttributeProto::of(name, r#type) }
    }

    /// A GRAPH attribute.
    pub fn graph(name: &str, value: GraphProto) -> AttributeProto {
        AttributeProto {
            g: Some(Box::new(value)),
            ..AttributeProto::of(name, attribute_type::GRAPH)
        }
    }
}

impl TensorProto {
    /// A tensor of little-endian bytes.
    pub fn raw(name: &str, data_type: i32, dims: &[i64], data: impl Into<Bytes>) -> TensorProto {
        TensorProto {
            name: Some(name.to_owned()),
            data_type: Some(data_type),
            dims: dims.to_vec(),
            raw_data: Some(data.into()),
            ..TensorProto::default()
        }
    }

    /// An f32 tensor.
    pub fn f32(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        TensorProto::raw(name, data_type::FLOAT, dims, data)
    }

    /// An i64 tensor.
    pub fn i64(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        TensorProto::raw(name, data_type::INT64, dims, data)
    }

    /// An i32 tensor.
    pub fn i32(name: &str, dims: &[i64], values: &[i32]) -> TensorProto {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        TensorProto::raw(name, data_type::INT32, dims, data)
    }

    /// An i8 tensor.
    pub fn i8(name: &str, dims: &[i64], values: &[i8]) -> TensorProto {
        let data: Vec<u8> = values.iter().map(|v| *v as u8).collect();
        TensorProto::raw(name, data_type::INT8, dims, data)
    }

    /// A u8 tensor.
    pub fn u8(name: &str, dims: &[i64], values: &[u8]) -> TensorProto {
        TensorProto::raw(name, data_type::UINT8, dims, values.to_vec())
    }
}

impl ValueInfoProto {
    /// A tensor; a dimension is a size or a name.
    pub fn tensor<D: Into<DimensionProto>>(
        name: &str,
        elem_type: i32,
        dims: impl IntoIterator<Item = D>,
    ) -> ValueInfoProto {
        let dim = dims.into_iter().map(Into::into).collect();
        let tensor_type =
            TensorTypeProto { elem_type: Some(elem_type), shape: Some(TensorShapeProto { dim }) };
        ValueInfoProto {
            name: Some(name.to_owned()),
            r#type: Some(TypeProto { tensor_type: Some(tensor_type), denotation: None }),
            doc_string: None,
        }
    }
}

impl From<i64> for DimensionProto {
    fn from(value: i64) -> DimensionProto {
        DimensionProto { dim_value: Some(value), ..DimensionProto::default() }
    }
}

/// An empty name is a dimension about which nothing is said.
impl From<&str> for DimensionProto {
    fn from(name: &str) -> DimensionProto {
        let dim_param = (!name.is_empty()).then(|| name.to_owned());
        DimensionProto { dim_param, ..DimensionProto::default() }
    }
}
