//! A graph of the converter as an ONNX file, to look at in Netron: operators of the domain `whit`,
//! attributes as text, large constants without their data.

use std::collections::HashSet;

use bytes::Bytes;
use whit::DType;

use crate::graph::{Graph, Node, ValueId};
use crate::import::onnx::proto::{
    AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, ValueInfoProto, data_type,
};

/// Constants of more elements are drawn as inputs without data.
const MAX_SHOWN_ELEMENTS: usize = 256;

/// Bytes of an ONNX file that shows the graph. It is for looking at: nothing runs it.
pub fn to_onnx(graph: &Graph) -> Bytes {
    let mut proto = GraphProto { name: Some(graph.name.clone()), ..GraphProto::default() };
    let mut shown = HashSet::new();
    for node in &graph.nodes {
        for id in node.inputs.iter().flatten() {
            let Some(tensor) = graph.constant(*id) else { continue };
            if tensor.len() <= MAX_SHOWN_ELEMENTS && shown.insert(*id) {
                let dims: Vec<i64> = tensor.shape.iter().map(|dim| *dim as i64).collect();
                let elem = elem_type(tensor.dtype);
                let data = tensor.data.clone();
                proto.initializer.push(TensorProto::raw(&name(graph, *id), elem, &dims, data));
            }
        }
        proto.node.push(node_proto(graph, node));
        proto.value_info.extend(node.inputs.iter().flatten().map(|id| info(graph, *id)));
    }
    let mut told = HashSet::new();
    proto.value_info.retain(|value| told.insert(value.name.clone()));
    proto.input = graph.sources().map(|id| info(graph, id)).collect();
    proto.output = graph.results().map(|id| info(graph, id)).collect();
    let mut model = ModelProto::new(18, proto);
    model
        .opset_import
        .push(OperatorSetIdProto { domain: Some("whit".to_owned()), version: Some(1) });
    model.to_bytes()
}

/// The name of a value, made unique by its number: fused graphs repeat names.
fn name(graph: &Graph, id: ValueId) -> String {
    format!("{}#{}", graph.value(id).name, id.0)
}

fn info(graph: &Graph, id: ValueId) -> ValueInfoProto {
    let value = graph.value(id);
    let dims = value.shape.iter().map(|dim| match dim.as_const() {
        Some(size) => DimensionProto::from(size),
        None => DimensionProto::from(dim.display(&graph.symbols).as_str()),
    });
    let mut info = ValueInfoProto::tensor(&name(graph, id), elem_type(value.dtype), dims);
    info.doc_string = value.quant.as_ref().map(|quant| {
        let of_first = format!("scale {}, zero point {}", quant.scale[0], quant.zero_point[0]);
        match quant.axis {
            Some(axis) => {
                format!("{} scales along axis {axis}; first: {of_first}", quant.scale.len())
            }
            None => of_first,
        }
    });
    info
}

fn elem_type(dtype: DType) -> i32 {
    match dtype {
        DType::F16 => data_type::FLOAT16,
        DType::BF16 => data_type::BFLOAT16,
        DType::I8 => data_type::INT8,
        DType::U8 => data_type::UINT8,
        DType::I16 => data_type::INT16,
        DType::I32 => data_type::INT32,
        DType::I64 => data_type::INT64,
        DType::Bool => data_type::BOOL,
        _ => data_type::FLOAT,
    }
}

fn node_proto(graph: &Graph, node: &Node) -> NodeProto {
    let text = format!("{:?}", node.op);
    let (op_type, attributes) = parts(&text);
    let inputs: Vec<String> =
        node.inputs.iter().map(|id| id.map_or(String::new(), |id| name(graph, id))).collect();
    NodeProto {
        input: inputs,
        output: node.outputs.iter().map(|id| name(graph, *id)).collect(),
        name: Some(node.name.clone()),
        op_type: Some(op_type.to_owned()),
        domain: Some("whit".to_owned()),
        attribute: attributes
            .iter()
            .map(|(name, value)| AttributeProto::string(name, value))
            .collect(),
        ..NodeProto::default()
    }
}

/// Operator and fields out of the debug text of an operator: `Pool(Pool { kind: Max, kernel: [2, 2] })`.
fn parts(text: &str) -> (&str, Vec<(&str, &str)>) {
    let end = text.find(['(', ' ']).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let inner = rest.trim().trim_start_matches('(').trim_end_matches(')');
    let Some((_, fields)) = inner.split_once('{') else {
        let value = inner.trim();
        return (name, if value.is_empty() { Vec::new() } else { vec![("kind", value)] });
    };
    let fields = fields.trim_end().strip_suffix('}').unwrap_or(fields);
    let (mut depth, mut start) = (0i32, 0);
    let mut found = Vec::new();
    let ends = fields.char_indices().chain([(fields.len(), ',')]);
    for (at, letter) in ends {
        match letter {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                if let Some((field, value)) = fields[start..at].split_once(':') {
                    found.push((field.trim(), value.trim()));
                }
                start = at + 1;
            }
            _ => {}
        }
    }
    (name, found)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::dim::Dim;
    use crate::graph::{BinaryKind, Op, Pool, PoolKind};
    use crate::tensor::Tensor;

    #[test]
    fn a_dumped_graph_reads_back_as_onnx() {
        let mut graph = Graph::default();
        let shape = |sizes: &[i64]| sizes.iter().map(|s| Dim::from(*s)).collect::<Vec<_>>();
        let x = graph.add_value("x", DType::F32, shape(&[1, 4, 4, 2]));
        let one = graph.add_constant("one", Tensor::from_f32([], &[1.0]));
        let a = graph.add_value("a", DType::F32, shape(&[1, 4, 4, 2]));
        let y = graph.add_value("a", DType::F32, shape(&[1, 2, 2, 2]));
        let pool = Op::Pool(Pool {
            kind: PoolKind::Max,
            kernel: vec![2, 2],
            stride: vec![2, 2],
            dilation: vec![1, 1],
            pad_before: vec![0, 0],
            pad_after: vec![0, 0],
            count_include_pad: false,
            column_major: false,
        });
        let add = Op::Binary(BinaryKind::Add);
        for (op, inputs, output) in [(add, vec![x, one], a), (pool, vec![a], y)] {
            let inputs = inputs.into_iter().map(Some).collect();
            graph.nodes.push(Node { name: "n".to_owned(), op, inputs, outputs: vec![output] });
        }
        (graph.inputs, graph.outputs) = (vec![x], vec![y]);

        let model = ModelProto::decode(to_onnx(&graph)).expect("protobuf");
        let proto = model.graph.expect("a graph");
        let text = |node: &NodeProto| {
            let values = node.attribute.iter();
            let value =
                |a: &AttributeProto| String::from_utf8(a.s.clone().unwrap().to_vec()).unwrap();
            let list: Vec<String> = values.map(|a| format!("{}={}", a.name(), value(a))).collect();
            format!(
                "{} {} -> {} {}",
                node.op_type(),
                node.input.join(","),
                node.output[0],
                list.join(" ")
            )
        };
        assert_eq!(text(&proto.node[0]), "Binary x#0,one#1 -> a#2 kind=Add");
        assert_eq!(
            text(&proto.node[1]),
            "Pool a#2 -> a#3 kind=Max kernel=[2, 2] stride=[2, 2] dilation=[1, 1] \
             pad_before=[0, 0] pad_after=[0, 0] count_include_pad=false \
             column_major=false"
        );
        assert_eq!(proto.initializer[0].name(), "one#1");
        assert_eq!(proto.output[0].name(), "a#3");
    }
}
