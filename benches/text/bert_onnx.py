"""Builds the ONNX graph of a BERT encoder with mean pooling from its safetensors, in the operators that torch's exporter writes."""

import json
import math
import struct

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17  # the first with LayerNormalization


def tensors(path):
    """Tensors of a safetensors file of f32 by name."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    found = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, end = entry["data_offsets"]
            found[name] = np.frombuffer(data[start:end], np.float32).reshape(entry["shape"])
    return found


class Graph:
    def __init__(self):
        self.nodes, self.constants = [], {}

    def constant(self, name, array):
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def scalar(self, value):
        return self.constant(f"number_{value}", np.array(value, np.float32))

    def ints(self, *values):
        return self.constant("ints_" + "_".join(map(str, values)), np.array(values, np.int64))

    def __call__(self, kind, *inputs, **attributes):
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name


def build(folder):
    """The model of a Hugging Face folder: input_ids, attention_mask and token_type_ids of i64 to vectors of length 1."""
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] != "bert" or config["hidden_act"] != "gelu":
        raise SystemExit(f"{folder}: this script builds BERT with GELU, not {config['model_type']} with {config['hidden_act']}")
    weights = tensors(folder / "model.safetensors")
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    g = Graph()

    def weight(name):
        return g.constant(name, weights[name])

    def linear(x, name):
        product = g("MatMul", x, g.constant(f"{name}.weight", weights[f"{name}.weight"].T))
        return g("Add", weight(f"{name}.bias"), product)

    def norm(x, name):
        return g("LayerNormalization", x, weight(f"{name}.weight"), weight(f"{name}.bias"), axis=-1, epsilon=config["layer_norm_eps"])

    def head(x, *order):
        return g("Transpose", g("Reshape", x, g.ints(0, 0, heads, hidden // heads)), perm=order)

    length = g("Gather", g("Shape", "input_ids"), g.ints(1), axis=0)
    positions = g.constant("position_ids", np.arange(config["max_position_embeddings"], dtype=np.int64)[None])
    positions = g("Slice", positions, g.ints(0), length, g.ints(1), g.ints(1))
    x = g("Gather", weight("embeddings.word_embeddings.weight"), "input_ids", axis=0)
    x = g("Add", x, g("Gather", weight("embeddings.token_type_embeddings.weight"), "token_type_ids", axis=0))
    x = g("Add", x, g("Gather", weight("embeddings.position_embeddings.weight"), positions, axis=0))
    x = norm(x, "embeddings.LayerNorm")
    mask = g("Unsqueeze", g("Unsqueeze", "attention_mask", g.ints(1)), g.ints(2))
    mask = g("Sub", g.scalar(1.0), g("Cast", mask, to=TensorProto.FLOAT))
    mask = g("Mul", mask, g.scalar(-10000.0))
    for layer in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{layer}"
        q = head(linear(x, f"{name}.attention.self.query"), 0, 2, 1, 3)
        k = head(linear(x, f"{name}.attention.self.key"), 0, 2, 3, 1)
        v = head(linear(x, f"{name}.attention.self.value"), 0, 2, 1, 3)
        scores = g("Div", g("MatMul", q, k), g.scalar(math.sqrt(hidden // heads)))
        seen = g("MatMul", g("Softmax", g("Add", scores, mask), axis=-1), v)
        seen = g("Reshape", g("Transpose", seen, perm=(0, 2, 1, 3)), g.ints(0, 0, hidden))
        seen = linear(seen, f"{name}.attention.output.dense")
        x = norm(g("Add", seen, x), f"{name}.attention.output.LayerNorm")
        wide = linear(x, f"{name}.intermediate.dense")
        erf = g("Add", g("Erf", g("Div", wide, g.scalar(math.sqrt(2)))), g.scalar(1.0))
        wide = g("Mul", g("Mul", wide, erf), g.scalar(0.5))
        x = norm(g("Add", linear(wide, f"{name}.output.dense"), x), f"{name}.output.LayerNorm")
    real = g("Cast", g("Unsqueeze", "attention_mask", g.ints(-1)), to=TensorProto.FLOAT)
    total = g("ReduceSum", g("Mul", x, real), g.ints(1), keepdims=0)
    count = g("Clip", g("ReduceSum", real, g.ints(1), keepdims=0), g.scalar(1e-9))
    mean = g("Div", total, count)
    size = g("Clip", g("ReduceL2", mean, axes=[1], keepdims=1), g.scalar(1e-12))
    g.nodes.append(helper.make_node("Div", [mean, size], ["embedding"], name="embedding"))

    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "seq"])
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", hidden])
    graph = helper.make_graph(g.nodes, "bert", inputs, [output], list(g.constants.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    return model
