//! Small models of many operators, made by code, and what tests of whole files share.
#![allow(dead_code, reason = "each test uses its part")]

use whit::format::{
    BinaryAttributes, BinaryOp, Field, FileBuilder, Header, Op, OpBits, Section, StateRecord,
    StepRecord, Storage, TensorRecord,
};
use whit::kernels::conv_f32::grouped::{GroupedBits, NONLINEAR};
use whit::{DType, Session};
use whit_convert::dim::Dim;
use whit_convert::emit::emit;
use whit_convert::evaluate::Samples;
use whit_convert::graph::{
    Clamp, Conv, Factors, Graph, Groups, MatMul, Node, Op as GraphOp, Quant, QuantizedLstm,
    ReduceKind, State, UnaryKind, ValueId,
};
use whit_convert::import::onnx::import_onnx;
use whit_convert::import::onnx::proto::{
    AttributeProto as A, DimensionProto, FunctionProto, GraphProto, ModelProto, NodeProto as N,
    TensorProto as T, ValueInfoProto, data_type as t,
};
use whit_convert::import::{DimChoice, ImportOptions};
use whit_convert::pipeline::{ConvertOptions, convert};
use whit_convert::plan::{PlanOptions, plan};
use whit_convert::quantize::lut::table_i16;
use whit_convert::quantize::numbers::Numbers;
use whit_convert::tensor::Tensor;

/// Reproducible numbers: xorshift64*.
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    pub(crate) fn new(seed: u64) -> Random {
        // splitmix64, so that neighbouring seeds have nothing in common.
        let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Random((z ^ (z >> 31)) | 1)
    }

    /// 64 random bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `limit`; 0 when that is 0.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        if limit == 0 { 0 } else { ((self.next() >> 11) % limit as u64) as usize }
    }

    /// One of these.
    pub(crate) fn pick<V: Copy>(&mut self, from: &[V]) -> V {
        from[self.below(from.len())]
    }

    /// Between −1 and 1.
    pub(crate) fn real(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn reals(&mut self, len: i64) -> Vec<f32> {
        (0..len).map(|_| self.real()).collect()
    }
}

/// Pseudo-random samples of a graph's inputs, at the largest dimensions or below them.
pub(crate) struct RandomSamples {
    shapes: Vec<Vec<usize>>,
    count: usize,
}

impl RandomSamples {
    /// Samples for a graph, its symbols at their largest values.
    pub(crate) fn new(graph: &Graph, count: usize) -> RandomSamples {
        let largest: Vec<i64> = graph.symbols.iter().map(|symbol| symbol.max).collect();
        let size = |dim: &whit_convert::dim::Dim| {
            dim.eval(&largest).and_then(|v| usize::try_from(v).ok()).unwrap_or(0)
        };
        let shapes = graph
            .inputs
            .iter()
            .map(|id| graph.value(*id).shape.iter().map(size).collect())
            .collect();
        RandomSamples { shapes, count }
    }
}

impl Samples for RandomSamples {
    fn len(&self) -> usize {
        self.count
    }

    fn input(
        &self,
        sample: usize,
        input: usize,
        _: &str,
        dtype: DType,
    ) -> Result<(Vec<usize>, Vec<u8>), String> {
        let shape = self.shapes.get(input).ok_or("no such input")?.clone();
        let mut random = Random::new((sample * 31 + input) as u64);
        Ok((shape.clone(), random_elements(&mut random, dtype, shape.iter().product())))
    }
}

/// Elements that any model takes: reals between −1 and 1, any i8, 0 or 1 otherwise.
pub(crate) fn random_elements(random: &mut Random, dtype: DType, count: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count * dtype.size());
    for _ in 0..count {
        match dtype {
            DType::F32 => bytes.extend(random.real().to_le_bytes()),
            DType::I8 => bytes.push(random.next() as u8),
            _ => {
                bytes.push(random.below(2) as u8);
                bytes.resize(bytes.len() + dtype.size() - 1, 0);
            }
        }
    }
    bytes
}

/// Fills every input of a session.
pub(crate) fn fill_inputs(
    session: &mut Session<'_>,
    random: &mut Random,
) -> Result<(), whit::SessionError> {
    for input in 0..session.model().inputs().len() {
        let slot = session.input_slot(input)?;
        let bytes = random_elements(random, slot.dtype(), slot.elements());
        session.set_input_bytes(input, &bytes)?;
    }
    Ok(())
}

/// An ONNX model and the bounds of its dimensions.
pub(crate) struct Source {
    pub(crate) name: &'static str,
    pub(crate) onnx: ModelProto,
    pub(crate) options: ImportOptions,
}

impl Source {
    /// The imported graph.
    pub(crate) fn graph(&self) -> Graph {
        import_onnx(self.onnx.to_bytes(), None, &self.options)
            .unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    /// The bytes of a `.whit` file.
    pub(crate) fn convert(&self, numbers: Numbers) -> Vec<u8> {
        let graph = self.graph();
        let samples = RandomSamples::new(&graph, 4);
        let options = ConvertOptions { numbers, golden_cases: 1, ..ConvertOptions::default() };
        let converted = convert(graph, Some(&samples), &options, &mut ());
        converted.unwrap_or_else(|e| panic!("{} {}: {e}", self.name, numbers)).file
    }
}

pub(crate) fn source(
    name: &'static str,
    dims: &[(&str, i64, i64)],
    inputs: Vec<ValueInfoProto>,
    constants: Vec<T>,
    nodes: Vec<N>,
    outputs: &[&str],
) -> Source {
    let output = outputs
        .iter()
        .map(|name| ValueInfoProto { name: Some((*name).to_owned()), ..Default::default() })
        .collect();
    let graph = GraphProto {
        node: nodes,
        input: inputs,
        initializer: constants,
        output,
        ..Default::default()
    };
    let dims = dims
        .iter()
        .map(|(name, min, max)| ((*name).to_owned(), DimChoice::Range(*min, *max)))
        .collect();
    let options = ImportOptions { dims, ..ImportOptions::default() };
    Source { name, onnx: ModelProto::new(17, graph), options }
}

pub(crate) fn n(op: &str, inputs: &[&str], outputs: &[&str]) -> N {
    N::new(op, inputs, outputs).named(outputs[0])
}

fn ints(name: &str, values: &[i64]) -> T {
    T::i64(name, &[values.len() as i64], values)
}

/// An f32 weight of small random numbers.
pub(crate) fn weight(random: &mut Random, name: &str, dims: &[i64]) -> T {
    T::f32(name, dims, &random.reals(dims.iter().product()))
}

/// Convolutions with batch norm, a residual, depthwise, pools, a classifier.
pub(crate) fn residual() -> Source {
    let r = &mut Random::new(1);
    let constants = vec![
        weight(r, "w1", &[8, 3, 3, 3]),
        T::f32("gamma", &[8], &[0.5; 8]),
        T::f32("beta", &[8], &[0.1; 8]),
        T::f32("mean", &[8], &[0.2; 8]),
        T::f32("var", &[8], &[0.7; 8]),
        weight(r, "wd", &[8, 1, 3, 3]),
        weight(r, "wp", &[8, 8, 1, 1]),
        weight(r, "bp", &[8]),
        weight(r, "ws", &[6, 8, 3, 3]),
        weight(r, "wf", &[5, 6]),
        weight(r, "bf", &[5]),
    ];
    let pads = || A::ints("pads", &[1, 1, 1, 1]);
    let nodes = vec![
        n("Conv", &["x", "w1"], &["c1"]).with(pads()),
        n("BatchNormalization", &["c1", "gamma", "beta", "mean", "var"], &["bn"]),
        n("Relu", &["bn"], &["a"]),
        n("Conv", &["a", "wd"], &["d"]).with(pads()).with(A::int("group", 8)),
        n("Clip", &["d"], &["dc"]),
        n("Conv", &["dc", "wp", "bp"], &["p"]),
        n("Add", &["p", "a"], &["s"]),
        n("Relu", &["s"], &["sr"]),
        n("MaxPool", &["sr"], &["m"])
            .with(A::ints("kernel_shape", &[2, 2]))
            .with(A::ints("strides", &[2, 2])),
        n("Conv", &["m", "ws"], &["c2"]).with(pads()).with(A::ints("strides", &[2, 2])),
        n("HardSwish", &["c2"], &["h"]),
        n("AveragePool", &["h"], &["ap"]).with(A::ints("kernel_shape", &[2, 2])),
        n("GlobalAveragePool", &["ap"], &["g"]),
        n("Flatten", &["g"], &["f"]),
        n("Gemm", &["f", "wf", "bf"], &["l"]).with(A::int("transB", 1)),
        n("Softmax", &["l"], &["y"]),
    ];
    let x = ValueInfoProto::tensor("x", t::FLOAT, [1i64, 3, 7, 7]);
    source("residual", &[], vec![x], constants, nodes, &["y"])
}

/// A 1-D convolution over a symbolic length, and what moves, resizes, pads, reduces and chooses.
pub(crate) fn sequence() -> Source {
    let r = &mut Random::new(2);
    let constants = vec![
        weight(r, "w", &[6, 4, 3]),
        weight(r, "b", &[6]),
        ints("one", &[1]),
        ints("minus", &[-1]),
        ints("axis", &[2]),
        T::f32("scales", &[3], &[1.0, 1.0, 2.0]),
        ints("pads", &[0, 0, 1, 0, 0, 2]),
        T::i64("index", &[3], &[2, 0, -1]),
        T::f32("limit", &[], &[0.1]),
        weight(r, "wf", &[6, 5]),
    ];
    let nodes = vec![
        n("Conv", &["x", "w", "b"], &["c"]).with(A::ints("pads", &[1, 1])),
        n("Relu", &["c"], &["cr"]),
        n("Slice", &["cr", "one", "minus", "axis"], &["part"]),
        n("Concat", &["cr", "part"], &["cat"]).with(A::int("axis", 2)),
        n("Pad", &["cat", "pads"], &["padded"]).with(A::string("mode", "reflect")),
        n("Resize", &["padded", "", "scales"], &["resized"]).with(A::string("mode", "linear")),
        n("Gather", &["resized", "index"], &["gathered"]).with(A::int("axis", 1)),
        n("Transpose", &["gathered"], &["tr"]).with(A::ints("perm", &[0, 2, 1])),
        n("ReduceMean", &["tr"], &["mean"]).with(A::ints("axes", &[1])),
        n("Sub", &["tr", "mean"], &["centred"]),
        n("Tanh", &["centred"], &["th"]),
        n("Greater", &["centred", "limit"], &["cond"]),
        n("Where", &["cond", "centred", "th"], &["chosen"]),
        n("Transpose", &["cr"], &["tc"]).with(A::ints("perm", &[0, 2, 1])),
        n("MatMul", &["tc", "wf"], &["fc"]),
        n("MatMul", &["tc", "cr"], &["scores"]),
        n("Softmax", &["scores"], &["attention"]).with(A::int("axis", -1)),
        n("ReduceMax", &["fc"], &["top"]).with(A::ints("axes", &[1])).with(A::int("keepdims", 0)),
        n("ArgMax", &["fc"], &["best"]).with(A::int("axis", -1)).with(A::int("keepdims", 0)),
    ];
    let dims = ["1", "4", "seq"].map(|d| match d.parse::<i64>() {
        Ok(size) => size.into(),
        Err(_) => whit_convert::import::onnx::proto::DimensionProto::from(d),
    });
    let x = ValueInfoProto::tensor("x", t::FLOAT, dims);
    source(
        "sequence",
        &[("seq", 4, 9)],
        vec![x],
        constants,
        nodes,
        &["chosen", "attention", "top", "best"],
    )
}

/// Integers and conditions: gathers by given indices, casts, comparisons, arithmetic in i32 and i64.
pub(crate) fn integers() -> Source {
    let r = &mut Random::new(3);
    let constants = vec![
        weight(r, "table", &[5, 4]),
        T::i64("three", &[], &[3]),
        T::i32("seven", &[1], &[7]),
        T::f32("base", &[], &[2.0]),
        T::f32("slope", &[4], &[0.1, 0.2, 0.3, 0.4]),
        ints("tiles", &[2, 3, 4]),
    ];
    let nodes = vec![
        n("Gather", &["table", "ids"], &["rows"]).with(A::int("axis", 0)),
        n("Mul", &["ids", "three"], &["ids3"]),
        n("Cast", &["ids3"], &["i32"]).with(A::int("to", i64::from(t::INT32))),
        n("Add", &["i32", "seven"], &["shifted"]),
        n("Mod", &["shifted", "i32b"], &["rest"]),
        n("Equal", &["rest", "shifted"], &["same"]),
        n("Not", &["same"], &["differs"]),
        n("And", &["differs", "flags"], &["both"]),
        n("Cast", &["rest"], &["real"]).with(A::int("to", i64::from(t::FLOAT))),
        n("Pow", &["rows", "base"], &["squares"]),
        n("Exp", &["rows"], &["exp"]),
        n("PRelu", &["rows", "slope"], &["pr"]),
        n("Expand", &["pr", "tiles"], &["wide"]),
        n("ReduceSum", &["wide"], &["sum"]).with(A::int("keepdims", 0)),
        n("ReduceL2", &["squares"], &["norm"]).with(A::ints("axes", &[1])),
        n("LogSoftmax", &["exp"], &["ls"]).with(A::int("axis", 0)),
        n("ArgMin", &["rest"], &["least"]).with(A::int("axis", 0)),
        n("Div", &["ls", "norm"], &["quotient"]),
    ];
    let inputs = vec![
        ValueInfoProto::tensor("ids", t::INT64, [3i64]),
        ValueInfoProto::tensor("i32b", t::INT32, [3i64]),
        ValueInfoProto::tensor("flags", t::BOOL, [3i64]),
    ];
    source("integers", &[], inputs, constants, nodes, &["quotient", "sum", "both", "least", "real"])
}

/// A model that was quantized by another tool.
pub(crate) fn qdq() -> Source {
    let r = &mut Random::new(4);
    let bytes =
        |r: &mut Random, len: usize| -> Vec<i8> { (0..len).map(|_| r.next() as i8).collect() };
    let constants = vec![
        T::f32("xs", &[], &[0.02]),
        T::i8("xz", &[], &[-5]),
        T::i8("w", &[6, 3, 3, 3], &bytes(r, 162)),
        T::f32("ws", &[6], &[0.01, 0.02, 0.015, 0.01, 0.012, 0.03]),
        T::i8("wz", &[6], &[0; 6]),
        T::i32("b", &[6], &[10, -20, 300, 0, 5, 77]),
        T::f32("bs", &[6], &[0.0002, 0.0004, 0.0003, 0.0002, 0.00024, 0.0006]),
        T::i32("bz", &[6], &[0; 6]),
        T::f32("ys", &[], &[0.05]),
        T::i8("yz", &[], &[-128]),
        T::i8("f", &[6, 4], &bytes(r, 24)),
        T::f32("fs", &[], &[0.02]),
        T::i8("fz", &[], &[0]),
        T::f32("os", &[], &[0.1]),
        T::i8("oz", &[], &[3]),
    ];
    let nodes = vec![
        n("QuantizeLinear", &["x", "xs", "xz"], &["xq"]),
        n("DequantizeLinear", &["xq", "xs", "xz"], &["xd"]),
        n("DequantizeLinear", &["w", "ws", "wz"], &["wd"]).with(A::int("axis", 0)),
        n("DequantizeLinear", &["b", "bs", "bz"], &["bd"]).with(A::int("axis", 0)),
        n("Conv", &["xd", "wd", "bd"], &["c"]).with(A::ints("strides", &[2, 2])),
        n("Relu", &["c"], &["cr"]),
        n("QuantizeLinear", &["cr", "ys", "yz"], &["cq"]),
        n("DequantizeLinear", &["cq", "ys", "yz"], &["cd"]),
        n("GlobalAveragePool", &["cd"], &["g"]),
        n("QuantizeLinear", &["g", "ys", "yz"], &["gq"]),
        n("DequantizeLinear", &["gq", "ys", "yz"], &["gd"]),
        n("Flatten", &["gd"], &["fl"]),
        n("DequantizeLinear", &["f", "fs", "fz"], &["fd"]),
        n("MatMul", &["fl", "fd"], &["m"]),
        n("QuantizeLinear", &["m", "os", "oz"], &["mq"]),
        n("DequantizeLinear", &["mq", "os", "oz"], &["md"]),
        n("Sigmoid", &["md"], &["y"]),
    ];
    let x = ValueInfoProto::tensor("x", t::FLOAT, [1i64, 3, 8, 8]);
    source("qdq", &[], vec![x], constants, nodes, &["y"])
}

/// Indexing by tensors, selection and sampling. Integers that come from outside are 0 or 1 in tests.
pub(crate) fn indexing() -> Source {
    let input = |name: &str, of: i32, dims: &[i64]| {
        ValueInfoProto::tensor(name, of, dims.iter().map(|d| DimensionProto::from(*d)))
    };
    let inputs = vec![
        input("x", t::FLOAT, &[2, 3, 4, 4]),
        input("index", t::INT64, &[2, 3, 4, 2]),
        input("grid", t::FLOAT, &[2, 3, 3, 2]),
        input("lengths", t::INT64, &[3]),
        input("regions", t::FLOAT, &[2, 4]),
        input("images", t::INT64, &[2]),
        input("boxes", t::FLOAT, &[1, 5, 4]),
        input("scores", t::FLOAT, &[1, 2, 5]),
    ];
    let constants = vec![
        T::i64("tuples", &[2, 2], &[0, 1, 1, 2]),
        ints("two", &[2]),
        T::i64("axis", &[], &[3]),
        T::f32("half", &[1], &[0.5]),
    ];
    let nodes = vec![
        n("GatherElements", &["x", "index"], &["picked"]).with(A::int("axis", 3)),
        n("GatherND", &["x", "tuples"], &["planes"]),
        n("ScatterElements", &["x", "index", "picked"], &["added"])
            .with(A::int("axis", 3))
            .with(A::string("reduction", "add")),
        n("ScatterND", &["added", "tuples", "planes"], &["replaced"]),
        n("TopK", &["replaced", "two"], &["best", "places"]),
        n("CumSum", &["best", "axis"], &["sums"]),
        n("ReverseSequence", &["sums", "lengths"], &["reversed"]),
        n("GridSample", &["x", "grid"], &["sampled"]),
        n("RoiAlign", &["sampled", "regions", "images"], &["aligned"])
            .with(A::int("output_height", 2))
            .with(A::int("output_width", 2)),
        n("NonMaxSuppression", &["boxes", "scores", "two", "half"], &["kept"]),
    ];
    let outputs = ["reversed", "places", "aligned", "kept"];
    let mut source = source("indexing", &[], inputs, constants, nodes, &outputs);
    source.options.pad_boxes = true;
    source
}

/// Recurrent layers, a branch chosen at run time, an unrolled loop and a function.
pub(crate) fn recurrent() -> Source {
    let mut random = Random::new(9);
    let inputs = vec![
        ValueInfoProto::tensor("x", t::FLOAT, ["t", "b", "3"].map(dim)),
        ValueInfoProto::tensor("lengths", t::INT32, ["b"].map(dim)),
        ValueInfoProto::tensor("which", t::BOOL, Vec::<DimensionProto>::new()),
    ];
    let mut constants = vec![T::i64("turns", &[], &[2])];
    for (name, dims) in [
        ("lw", vec![2, 16, 3]),
        ("lr", vec![2, 16, 4]),
        ("lb", vec![2, 32]),
        ("lp", vec![2, 12]),
        ("gw", vec![1, 12, 3]),
        ("gr", vec![1, 12, 4]),
        ("gb", vec![1, 24]),
        ("rw", vec![1, 4, 3]),
        ("rr", vec![1, 4, 4]),
    ] {
        constants.push(weight(&mut random, name, &dims));
    }
    let names = |names: &[&str]| {
        let info = |name: &&str| ValueInfoProto {
            name: Some((*name).to_owned()),
            ..ValueInfoProto::default()
        };
        names.iter().map(info).collect::<Vec<_>>()
    };
    let graph = |inputs: &[&str], outputs: &[&str], node: Vec<N>| GraphProto {
        node,
        input: names(inputs),
        output: names(outputs),
        ..GraphProto::default()
    };
    let branch = |op: &str| graph(&[], &["chosen"], vec![N::new(op, &["gru"], &["chosen"])]);
    let turn = vec![N::new("Add", &["state", "last"], &["next"])];
    let own = |node: N| N { domain: Some("own".to_owned()), ..node };
    let nodes = vec![
        n("LSTM", &["x", "lw", "lr", "lb", "lengths", "", "", "lp"], &["lstm", "last", "cell"])
            .with(A::string("direction", "bidirectional"))
            .with(A::int("hidden_size", 4)),
        n("GRU", &["x", "gw", "gr", "gb", "lengths"], &["gru"])
            .with(A::int("hidden_size", 4))
            .with(A::int("linear_before_reset", 1)),
        N::new("RNN", &["x", "rw", "rr"], &["", "rnn"])
            .named("rnn")
            .with(A::string("direction", "reverse"))
            .with(A::int("hidden_size", 4)),
        n("If", &["which"], &["branch"])
            .with(A::graph("then_branch", branch("Relu")))
            .with(A::graph("else_branch", branch("Neg"))),
        n("Loop", &["turns", "", "cell"], &["sum"])
            .with(A::graph("body", graph(&["i", "go", "state"], &["go", "next"], turn))),
        own(n("Twice", &["rnn"], &["doubled"])),
    ];
    let outputs = ["lstm", "branch", "sum", "doubled"];
    let dims = [("t", 1, 4), ("b", 1, 3)];
    let mut source = source("recurrent", &dims, inputs, constants, nodes, &outputs);
    source.onnx.functions.push(FunctionProto {
        name: Some("Twice".to_owned()),
        domain: Some("own".to_owned()),
        input: vec!["a".to_owned()],
        output: vec!["b".to_owned()],
        node: vec![N::new("Add", &["a", "a"], &["b"])],
        ..FunctionProto::default()
    });
    source
}

fn dim(text: &str) -> DimensionProto {
    match text.parse::<i64>() {
        Ok(size) => size.into(),
        Err(_) => text.into(),
    }
}

/// Every source.
pub(crate) fn sources() -> Vec<Source> {
    vec![residual(), sequence(), integers(), qdq(), indexing(), recurrent()]
}

/// Files with a memory and numbers of 16 bits, from graphs made by hand.
pub(crate) fn with_memory() -> Vec<(String, Vec<u8>)> {
    [("delay line of i16", delay_line()), ("LSTM of i8", quantized_lstm())]
        .into_iter()
        .map(|(name, graph)| {
            let options = ConvertOptions { golden_cases: 1, ..ConvertOptions::default() };
            let converted = convert(graph, None, &options, &mut ());
            (name.to_owned(), converted.unwrap_or_else(|e| panic!("{name}: {e}")).file)
        })
        .collect()
}

/// A graph and its nodes by name.
struct Hand(Graph);

impl Hand {
    fn value(&mut self, dtype: DType, shape: &[usize], scale: f32) -> ValueId {
        let name = format!("v{}", self.0.values.len());
        let shape = shape.iter().map(|dim| Dim::from(*dim)).collect();
        let id = self.0.add_value(name, dtype, shape);
        if scale > 0.0 {
            self.0.value_mut(id).quant = Some(Quant::per_tensor(scale, 0));
        }
        id
    }

    fn node(&mut self, op: GraphOp, inputs: &[ValueId], outputs: &[ValueId]) -> ValueId {
        let name = format!("n{}", self.0.nodes.len());
        let inputs = inputs.iter().copied().map(Some).collect();
        self.0.nodes.push(Node { name, op, inputs, outputs: outputs.to_vec() });
        outputs[0]
    }

    /// Reals as i16 and back.
    fn through_i16(&mut self, x: ValueId, shape: &[usize], scale: f32) -> ValueId {
        let q = self.value(DType::I16, shape, scale);
        self.node(GraphOp::Quantize, &[x], &[q]);
        let real = self.value(DType::F32, shape, 0.0);
        self.node(GraphOp::Dequantize, &[q], &[real])
    }

    fn state(&mut self, name: &str, read: ValueId, next: ValueId) {
        self.0.states.push(State { name: name.to_owned(), read, next, initial: None });
    }
}

/// Rows of the last three runs behind each other, convolved, through a function, a mean and a softmax.
fn delay_line() -> Graph {
    let mut random = Random::new(16);
    let mut g = Hand(Graph::default());
    let x = g.value(DType::F32, &[1, 1, 4, 3], 0.0);
    g.0.inputs.push(x);
    let newest = g.value(DType::I16, &[1, 1, 4, 3], 1.0 / 8192.0);
    g.node(GraphOp::Quantize, &[x], &[newest]);
    let line = g.value(DType::I16, &[1, 2, 4, 3], 1.0 / 8192.0);
    let all = g.value(DType::I16, &[1, 3, 4, 3], 1.0 / 8192.0);
    g.node(GraphOp::Concat { axis: 1 }, &[line, newest], &[all]);
    let next = g.value(DType::I16, &[1, 2, 4, 3], 1.0 / 8192.0);
    let starts = [0usize, 1, 0, 0].map(Dim::from).to_vec();
    g.node(GraphOp::Slice { starts, steps: vec![1; 4] }, &[all], &[next]);
    g.state("line", line, next);
    let mut at = g.value(DType::F32, &[1, 3, 4, 3], 0.0);
    g.node(GraphOp::Dequantize, &[all], &[at]);
    for groups in [1, 3] {
        let shape = [3, 3, 3, 3 / groups];
        let weights: Vec<i8> =
            (0..shape.iter().product::<usize>()).map(|_| random.next() as i8).collect();
        let constant = g.0.add_constant(format!("w{groups}"), Tensor::from_i8(shape, &weights));
        g.0.value_mut(constant).quant = Some(Quant::per_channel(vec![0.01, 0.002, 0.005], 0));
        let w = g.value(DType::F32, &shape, 0.0);
        g.node(GraphOp::Dequantize, &[constant], &[w]);
        let y = g.value(DType::F32, &[1, 3, 4, 3], 0.0);
        let conv = Conv {
            kernel: vec![3, 3],
            stride: vec![1, 1],
            dilation: vec![1, 1],
            pad_before: vec![1, 1],
            pad_after: vec![1, 1],
            groups,
            clamp: Clamp::NONE,
            inner_quant: None,
        };
        g.node(GraphOp::Conv(conv), &[at, w], &[y]);
        at = g.through_i16(y, &[1, 3, 4, 3], 1.0 / 2048.0);
    }
    let y = g.value(DType::F32, &[1, 3, 4, 3], 0.0);
    g.node(GraphOp::Unary(UnaryKind::Tanh), &[at], &[y]);
    let at = g.through_i16(y, &[1, 3, 4, 3], 1.0 / 32768.0);
    let y = g.value(DType::F32, &[1, 3, 3], 0.0);
    let mean = GraphOp::Reduce { kind: ReduceKind::Mean, axes: vec![2], keep_dims: false };
    g.node(mean, &[at], &[y]);
    let at = g.through_i16(y, &[1, 3, 3], 1.0 / 16384.0);
    let y = g.value(DType::F32, &[1, 3, 3], 0.0);
    g.node(GraphOp::Softmax { axis: 2, log: false }, &[at], &[y]);
    let at = g.through_i16(y, &[1, 3, 3], 1.0 / 32768.0);
    g.0.outputs.push(at);
    g.0
}

/// Two runs of a layer are one sequence.
fn quantized_lstm() -> Graph {
    const HIDDEN: usize = 3;
    let mut random = Random::new(8);
    let mut g = Hand(Graph::default());
    let x = g.value(DType::I8, &[1, 2, 4], 0.05);
    g.0.inputs.push(x);
    let mut weights = |g: &mut Hand, columns: usize| {
        let values: Vec<i8> = (0..4 * HIDDEN * columns).map(|_| random.next() as i8).collect();
        g.0.add_constant(format!("w{columns}"), Tensor::from_i8([4 * HIDDEN, columns], &values))
    };
    let (w, r) = (weights(&mut g, 4), weights(&mut g, HIDDEN));
    let bias: Vec<i32> = (0..8 * HIDDEN as i32).map(|at| at * 37 - 400).collect();
    let bias = g.0.add_constant("b", Tensor::from_i32([2, 4 * HIDDEN], &bias));
    let (h, c) = (
        g.value(DType::I8, &[1, HIDDEN], 1.0 / 128.0),
        g.value(DType::I16, &[1, HIDDEN], 1.0 / 4096.0),
    );
    let steps = |scale: f32| Quant::per_tensor(scale, 0);
    let mut inputs = vec![x, w, r, bias, h, c];
    for kind in [UnaryKind::Sigmoid, UnaryKind::Tanh, UnaryKind::Tanh] {
        let table = table_i16(&steps(1.0 / 4096.0), &steps(1.0 / 32768.0), kind).unwrap();
        let shape = vec![table.len()];
        let data: Vec<u8> = table.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        let table = Tensor { dtype: DType::I16, shape, data: data.into() };
        inputs.push(g.0.add_constant("table", table));
    }
    let y = g.value(DType::I8, &[1, 2, HIDDEN], 1.0 / 128.0);
    let next = g.value(DType::I8, &[1, HIDDEN], 1.0 / 128.0);
    let cell = g.value(DType::I16, &[1, HIDDEN], 1.0 / 4096.0);
    let op = GraphOp::QuantizedLstm(QuantizedLstm {
        batch_first: true,
        input_scale: [0.7, 1.1, 0.9, 1.3],
        state_scale: [0.3, 0.2, 0.4, 0.1],
        output_scale: 128.0 / (1u32 << 30) as f32,
        cell_shift: 18,
        cell_clip: 20000,
    });
    g.node(op, &inputs, &[y, next, cell]);
    g.state("h", h, next);
    g.state("c", c, cell);
    g.0.outputs.push(y);
    g.0
}

/// `state = state + x`, twice, through the arena: a program with state that no planner made.
pub(crate) fn with_state() -> Vec<u8> {
    let tensor = |storage: Storage, offset: u64| TensorRecord {
        dtype: DType::F32 as u8,
        storage: storage as u8,
        rank: 1,
        dims: [4, 0, 0, 0, 0, 0, 0, 0],
        offset,
        bytes: 16,
        ..TensorRecord::default()
    };
    let tensors =
        [tensor(Storage::Arena, 0), tensor(Storage::State, 0), tensor(Storage::Arena, 64)];
    let add = BinaryAttributes {
        kind: BinaryOp::Add as u32,
        clamp: [f32::NEG_INFINITY, f32::INFINITY],
        ..BinaryAttributes::default()
    };
    let mut attributes = vec![0; BinaryAttributes::SIZE];
    add.write(&mut attributes);
    let step = |operands_start: u32| StepRecord {
        op: Op::Binary as u16,
        variant: DType::F32 as u8,
        attributes_bytes: BinaryAttributes::SIZE as u32,
        operands_start,
        input_count: 2,
        output_count: 1,
        ..StepRecord::default()
    };
    let initial: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut op_set = OpBits::default();
    op_set.insert(Op::Binary);
    FileBuilder::new()
        .bytes(Section::Strings, Vec::new())
        .records(Section::Tensors, &tensors)
        .records(Section::Steps, &[step(0), step(3)])
        .records(Section::Operands, &[0u32, 1, 2, 2, 0, 1])
        .bytes(Section::Attributes, attributes)
        .records(Section::Interface, &[0u32, 2])
        .records(Section::State, &[StateRecord { tensor: 1, has_initial: 1, offset: 0 }])
        .bytes(Section::Constants, initial)
        .finish(Header {
            arena_bytes: 80,
            state_bytes: 16,
            weight_bytes: 16,
            step_count: 2,
            tensor_count: 3,
            input_count: 1,
            output_count: 1,
            op_set: op_set.0,
            ..Header::default()
        })
}

/// A layer with weights in groups.
#[derive(Clone, Debug)]
pub(crate) struct GroupedLayer {
    pub(crate) kind: LayerKind,
    /// Rows of a matrix, or images.
    pub(crate) rows: usize,
    pub(crate) in_c: usize,
    pub(crate) out_c: usize,
    pub(crate) bits: GroupedBits,
    /// Inputs per scale.
    pub(crate) size: usize,
    pub(crate) bias: bool,
    pub(crate) residual: bool,
    pub(crate) relu: bool,
}

/// What it computes.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the standard attributes of a convolution")]
pub(crate) enum LayerKind {
    Conv {
        size: [usize; 2],
        kernel: [usize; 2],
        stride: [usize; 2],
        dilation: [usize; 2],
        pad: [usize; 2],
        groups: usize,
    },
    MatMul {
        transpose_b: bool,
    },
}

/// As many spatial positions as a convolution padded on both sides has.
fn positions(size: usize, kernel: usize, stride: usize, dilation: usize, pad: usize) -> usize {
    (size + 2 * pad - (kernel - 1) * dilation - 1) / stride + 1
}

impl GroupedLayer {
    /// Products per output.
    pub(crate) fn k(&self) -> usize {
        match &self.kind {
            LayerKind::Conv { kernel, groups, .. } => kernel[0] * kernel[1] * self.in_c / groups,
            LayerKind::MatMul { .. } => self.in_c,
        }
    }

    /// A graph with this layer alone, and its weights as reals, `[out_c][K]`.
    pub(crate) fn graph(&self, random: &mut Random) -> (Graph, Vec<f64>) {
        let (k, out_c) = (self.k(), self.out_c);
        let per_row = k.div_ceil(self.size);
        let integers: Vec<i8> = (0..out_c * k)
            .map(|_| match self.bits {
                GroupedBits::W4Nl => NONLINEAR[random.below(16)],
                GroupedBits::W8 => (random.below(255) as i32 - 127) as i8,
                bits => random.below(1 << bits.count()) as i8 - (1 << (bits.count() - 1)),
            })
            .collect();
        let half = |x: f32| half::f16::from_f32(x).to_f32();
        let mut halves = |count: usize, most: f32| -> Vec<f32> {
            (0..count).map(|_| half(random.real() * most)).collect()
        };
        // Those of 6 bits in groups of 16 are integers times factors.
        let (scale, factors) = match (self.bits, self.size) {
            (GroupedBits::W6, 16) => {
                let per_factors = k.div_ceil(256);
                let factors = halves(out_c * per_factors, 1.0 / 5000.0);
                let scale = |i: usize| {
                    let group = i % per_row;
                    let factor = factors[i / per_row * per_factors + group * self.size / 256];
                    factor * (i * 37 % 256) as i8 as f32
                };
                ((0..out_c * per_row).map(scale).collect(), Some(factors))
            }
            _ => (halves(out_c * per_row, 1.0 / 50.0), None),
        };
        let real = |i: usize| {
            f64::from(scale[i / k * per_row + i % k / self.size]) * f64::from(integers[i])
        };
        let reals = (0..out_c * k).map(real).collect();

        let mut graph = Graph::default();
        let dims = |shape: &[usize]| shape.iter().map(|dim| Dim::from(*dim)).collect::<Vec<_>>();
        let clamp = if self.relu { Clamp::RELU } else { Clamp::NONE };
        let (op, x_shape, w_shape, y_shape, stored) = match &self.kind {
            LayerKind::Conv { size, kernel, stride, dilation, pad, groups } => {
                let out = |i: usize| positions(size[i], kernel[i], stride[i], dilation[i], pad[i]);
                let op = GraphOp::Conv(Conv {
                    kernel: kernel.to_vec(),
                    stride: stride.to_vec(),
                    dilation: dilation.to_vec(),
                    pad_before: pad.to_vec(),
                    pad_after: pad.to_vec(),
                    groups: *groups,
                    clamp,
                    inner_quant: None,
                });
                let x = vec![self.rows, size[0], size[1], self.in_c];
                let w = vec![out_c, kernel[0], kernel[1], self.in_c / groups];
                (op, x, w, vec![self.rows, out(0), out(1), out_c], integers)
            }
            LayerKind::MatMul { transpose_b } => {
                let op = GraphOp::MatMul(MatMul {
                    transpose_a: false,
                    transpose_b: *transpose_b,
                    clamp,
                    inner_quant: None,
                });
                let (w, stored) = match transpose_b {
                    true => (vec![out_c, k], integers),
                    false => {
                        let columns = (0..k * out_c).map(|i| integers[i % out_c * k + i / out_c]);
                        (vec![k, out_c], columns.collect())
                    }
                };
                (op, vec![self.rows, k], w, vec![self.rows, out_c], stored)
            }
        };
        let x = graph.add_value("x", DType::F32, dims(&x_shape));
        graph.inputs.push(x);
        let w = graph.add_constant("w", Tensor::from_i8(w_shape, &stored));
        let axis = usize::from(matches!(self.kind, LayerKind::MatMul { transpose_b: false }));
        graph.value_mut(w).groups = Some(Groups {
            bits: self.bits,
            size: self.size,
            axis,
            scale,
            min: None,
            factors: factors.map(|scale| Factors { scale, min: vec![] }),
        });
        let mut inputs = vec![Some(x), Some(w), None, None];
        if self.bias {
            let bias = Tensor::from_f32([out_c], &random.reals(out_c as i64));
            inputs[2] = Some(graph.add_constant("bias", bias));
        }
        if self.residual {
            let residual = graph.add_value("residual", DType::F32, dims(&y_shape));
            graph.inputs.push(residual);
            inputs[3] = Some(residual);
        }
        let y = graph.add_value("y", DType::F32, dims(&y_shape));
        graph.outputs.push(y);
        graph.nodes.push(Node { name: "layer".to_owned(), op, inputs, outputs: vec![y] });
        (graph, reals)
    }

    /// The outputs of [`GroupedLayer::graph`] with these weights, in f64, and the sums of the absolute values of
    /// their terms.
    pub(crate) fn expected(
        &self,
        graph: &Graph,
        weights: &[f64],
        inputs: &[Vec<f32>],
    ) -> Vec<(f64, f64)> {
        let ([h, w], [kh, kw], [sh, sw], [dh, dw], [ph, pw], groups) = match self.kind {
            LayerKind::Conv { size, kernel, stride, dilation, pad, groups } => {
                (size, kernel, stride, dilation, pad, groups)
            }
            LayerKind::MatMul { .. } => ([1, 1], [1, 1], [1, 1], [1, 1], [0, 0], 1),
        };
        let (out_h, out_w) = (positions(h, kh, sh, dh, ph), positions(w, kw, sw, dw, pw));
        let own_c = self.in_c / groups;
        let bias = graph.nodes[0].inputs[2].map(|id| graph.constant(id).unwrap().to_f32());
        let mut out = vec![];
        for (b, oy, ox, n) in (0..self.rows).flat_map(|b| {
            (0..out_h).flat_map(move |oy| {
                (0..out_w).flat_map(move |ox| (0..self.out_c).map(move |n| (b, oy, ox, n)))
            })
        }) {
            let (mut sum, mut size) = (0.0, 0.0);
            let mut add = |term: f64| {
                sum += term;
                size += term.abs();
            };
            for (ky, kx, c) in (0..kh)
                .flat_map(|ky| (0..kw).flat_map(move |kx| (0..own_c).map(move |c| (ky, kx, c))))
            {
                let (y, x) = (oy * sh + ky * dh, ox * sw + kx * dw);
                if (ph..ph + h).contains(&y) && (pw..pw + w).contains(&x) {
                    let pixel = (b * h + y - ph) * w + x - pw;
                    let channel = n / (self.out_c / groups) * own_c + c;
                    let weight = weights[n * kh * kw * own_c + (ky * kw + kx) * own_c + c];
                    add(f64::from(inputs[0][pixel * self.in_c + channel]) * weight);
                }
            }
            add(bias.as_ref().map_or(0.0, |bias| f64::from(bias[n])));
            add(inputs.get(1).map_or(0.0, |residual| f64::from(residual[out.len()])));
            out.push((if self.relu { sum.max(0.0) } else { sum }, size));
        }
        out
    }
}

/// Files with weights in groups.
pub(crate) fn with_groups() -> Vec<(String, Vec<u8>)> {
    let conv = LayerKind::Conv {
        size: [5, 6],
        kernel: [3, 3],
        stride: [1, 1],
        dilation: [1, 1],
        pad: [1, 1],
        groups: 1,
    };
    let layer = GroupedLayer {
        kind: conv,
        rows: 1,
        in_c: 5,
        out_c: 18,
        bits: GroupedBits::W8,
        size: 32,
        bias: true,
        residual: true,
        relu: true,
    };
    let product = GroupedLayer {
        kind: LayerKind::MatMul { transpose_b: false },
        in_c: 133,
        bits: GroupedBits::W4,
        size: 64,
        ..layer.clone()
    };
    let many = GroupedLayer { rows: 9, bits: GroupedBits::W8, ..product.clone() };
    let table = GroupedLayer { bits: GroupedBits::W4Nl, ..many.clone() };
    [
        ("grouped w8 conv", layer),
        ("grouped w4 vector", product),
        ("grouped w8 matrix", many),
        ("grouped w4nl matrix", table),
    ]
    .into_iter()
    .map(|(name, layer)| {
        let (graph, _) = layer.graph(&mut Random::new(4));
        let plan = plan(&graph, &PlanOptions::default());
        (name.to_owned(), emit(&plan.unwrap_or_else(|e| panic!("{name}: {e}")), &[]))
    })
    .collect()
}
