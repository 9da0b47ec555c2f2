"""Models that compute next to nothing: what a call costs before any work is done."""


def tflite():
    """A .tflite of one RELU on one f32."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    def tensor(name):
        t = schema.TensorT()
        t.name, t.shape, t.type, t.buffer = name, [1], schema.TensorType.FLOAT32, 0
        return t

    relu = schema.OperatorT()
    relu.opcodeIndex, relu.inputs, relu.outputs = 0, [0], [1]
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = [tensor(b"x"), tensor(b"y")], [relu]
    graph.inputs, graph.outputs = [0], [1]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RELU
    code.version = 1
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [schema.BufferT()]
    builder = flatbuffers.Builder(256)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def onnx():
    """An .onnx of one Relu on one f32, encoded by hand: (field, value) pairs of onnx.proto."""

    def message(*fields):
        out = b""
        for number, value in fields:
            if isinstance(value, int):  # all below 128
                out += bytes([number << 3, value])
            else:
                value = value.encode() if isinstance(value, str) else value
                out += bytes([number << 3 | 2, len(value)]) + value
        return out

    def info(name):
        shape = message((1, message((1, 1))))
        return message((1, name), (2, message((1, message((1, 1), (2, shape))))))

    node = message((1, "x"), (2, "y"), (4, "Relu"))
    graph = message((1, node), (2, "tiny"), (11, info("x")), (12, info("y")))
    return message((1, 8), (7, graph), (8, message((2, 17))))
