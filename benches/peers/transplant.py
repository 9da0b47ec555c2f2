"""Gives a .tflite the float weights of an .onnx of the same architecture: some published pairs were trained apart."""

import numpy as np


def transplant(onnx, tflite, out, work):
    """Writes the .tflite with the weights of the .onnx, layer by layer in order. ValueError if they don't fit."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(tflite))
    graph, kinds = model.subgraphs[0], schema.BuiltinOperator
    code = lambda op: max(model.operatorCodes[op.opcodeIndex].builtinCode, model.operatorCodes[op.opcodeIndex].deprecatedBuiltinCode)
    layers = [op for op in graph.operators if code(op) in (kinds.CONV_2D, kinds.DEPTHWISE_CONV_2D, kinds.FULLY_CONNECTED)]

    def put(index, values):
        tensor = graph.tensors[index]
        if list(values.shape) != list(tensor.shape):
            raise ValueError(f"{tensor.name}: {values.shape}")
        if sum(t.buffer == tensor.buffer for t in graph.tensors) != 1:
            raise ValueError(f"{tensor.name} shares its values")
        model.buffers[tensor.buffer].data = np.ascontiguousarray(values, "<f4").ravel().view(np.uint8)
        tensor.type, tensor.quantization = schema.TensorType.FLOAT32, None

    for op, (weights, bias) in zip(layers, onnx_weights(onnx, work), strict=True):
        if code(op) == kinds.FULLY_CONNECTED:
            put(op.inputs[1], weights.T)
        else:
            put(op.inputs[1], weights.transpose(1, 2, 3, 0) if code(op) == kinds.DEPTHWISE_CONV_2D else weights.transpose(0, 2, 3, 1))
        put(op.inputs[2], bias)
    flatbuffer_utils.write_model(model, str(out))


def onnx_weights(path, work):
    """(weights, bias) of convolutions and matrix products in order, batch norms folded in."""
    import onnx
    from onnxruntime.quantization import quant_pre_process

    folded = work / "folded.onnx"
    quant_pre_process(str(path), str(folded), skip_symbolic_shape=True)
    graph = onnx.load(folded).graph
    folded.unlink()
    constants = {c.name: onnx.numpy_helper.to_array(c) for c in graph.initializer}
    consumer = lambda name: next((n for n in graph.node if name in n.input), None)
    found = []
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in constants:
            continue
        weights = constants[node.input[1]]
        if any(a.name == "transB" and a.i for a in node.attribute):
            weights = weights.T
        channels = weights.shape[0 if node.op_type == "Conv" else 1]
        bias = constants[node.input[2]].ravel() if len(node.input) > 2 else np.zeros(channels, np.float32)
        output = node.output[0]
        # What follows channel by channel: a bias, or a batch norm written out.
        while (then := consumer(output)) is not None and then.op_type in ("Add", "Mul"):
            vector = next((constants[name].ravel() for name in then.input if name in constants), None)
            if vector is None or len(vector) != channels:
                break
            if then.op_type == "Add":
                bias = bias + vector
            else:
                bias, weights = bias * vector, weights * vector.reshape([-1, 1, 1, 1] if node.op_type == "Conv" else [1, -1])
            output = then.output[0]
        found.append((weights, bias))
    return found
