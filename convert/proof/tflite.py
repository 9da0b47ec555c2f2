#!/usr/bin/env python3
"""TFLite models and operators through the tool, beside TFLite's reference kernels.

    pip install numpy ai-edge-litert
    python convert/proof/tflite.py --whit target/release/whit [--models ../shared/models] [--only REGEX] [--write docs/tflite.md]

Four parts. Models: whole models on their data. Layers: every layer of the integer models by itself, fed with what
TFLite's own layers before it gave, so that each difference is that layer's. Operators: models of one operator with
random options, float, int8 and uint8, written here and read by both sides. Recorded: outputs that lie beside the
models, of layers on int16 and of models with state. Integers are compared as they are,
in steps of the output's scale; floats within 1e-4 of the range. Exits with 1 when a label of a model differs in more
than its margin, a layer or an operator by more than its mark, or a conversion fails that should not.
"""

import argparse
import collections
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

SEED = 4
CASES = 12  # of each operator and type
MAX_FLOAT_ERROR = 1e-4  # of the range: other orders of summation, other exponentials
MAX_STEPS = 1  # of an integer layer fed with the same integers

KIND = schema.TensorType
OPERATOR = {name: number for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
OPERATOR_NAME = {number: name for name, number in OPERATOR.items()}
OPTIONS = {name: number for name, number in vars(schema.BuiltinOptions).items() if isinstance(number, int)}
NUMPY = {KIND.FLOAT32: np.float32, KIND.INT32: np.int32, KIND.UINT8: np.uint8, KIND.INT64: np.int64, KIND.BOOL: np.bool_,
         KIND.INT16: np.int16, KIND.INT8: np.int8}
KIND_OF = {np.dtype(dtype): kind for kind, dtype in NUMPY.items()}
INTEGER = {"int8": (KIND.INT8, -128, 127), "uint8": (KIND.UINT8, 0, 255)}


# --- both sides -------------------------------------------------------------------------------


def reference(content, feeds, keep_all=False):
    """Runs TFLite's reference kernels on lists of arrays; the interpreter and what the outputs were."""
    run = Interpreter(model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
                      experimental_preserve_all_tensors=keep_all)
    run.allocate_tensors()
    inputs, outputs = run.get_input_details(), run.get_output_details()
    results = []
    for feed in feeds:
        for detail, array in zip(inputs, feed):
            run.set_tensor(detail["index"], array)
        run.invoke()
        results.append([run.get_tensor(detail["index"]).copy() for detail in outputs])
    return run, results


class Refused(Exception):
    pass


class Whit:
    def __init__(self, path):
        self.path = str(pathlib.Path(path).resolve())
        isas = subprocess.run([self.path, "run", "--help"], capture_output=True, text=True, check=True)
        assert "--raw" in isas.stdout

    def call(self, *arguments):
        return subprocess.run([self.path, *map(str, arguments)], capture_output=True, text=True)

    def convert(self, content, folder, *flags):
        (folder / "m.tflite").write_bytes(content)
        done = self.call("convert", folder / "m.tflite", "-o", folder / "m.whit", *flags)
        if done.returncode:
            raise Refused((done.stderr or done.stdout).strip().splitlines()[-1].split("m.tflite: ")[-1])
        shown = self.call("inspect", folder / "m.whit", "--json")
        if shown.returncode:
            raise RuntimeError(shown.stderr)
        return json.loads(shown.stdout)

    def run(self, info, folder, feed, quantization):
        """One run on arrays in the order of the inputs; integers of scaled inputs are given as reals."""
        arguments = []
        for at, (declared, array, (scale, zero_point)) in enumerate(zip(info["inputs"], feed, quantization)):
            if declared["type"] in ("i8", "i16") and array.dtype in (np.int8, np.int16) and scale:
                array = ((array.astype(np.float64) - zero_point) * scale).astype(np.float32)
            np.save(folder / f"{at}.npy", array)
            arguments += ["--input", f"{declared['name']}={folder / f'{at}.npy'}"]
        out = folder / "out"
        for old in out.glob("*.npy"):
            old.unlink()
        done = self.call("run", folder / "m.whit", *arguments, "--output", out, "--raw")
        if done.returncode:
            raise RuntimeError(done.stderr)
        made = {path.stem: np.load(path) for path in out.glob("*.npy")}
        stems = [re.sub(r"[^A-Za-z0-9._-]", "_", output["name"]) for output in info["outputs"]]
        return [made[stem] if stem in made else next(iter(made.values())) for stem in stems]


def parse(content):
    return schema.ModelT.InitFromPackedBuf(content, 0)


def pack(model):
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def operator_name(model, operator):
    code = model.operatorCodes[operator.opcodeIndex]
    return OPERATOR_NAME[max(code.builtinCode, code.deprecatedBuiltinCode)]


def quantization(tensor):
    stated = tensor.quantization
    if stated is None or stated.scale is None or len(stated.scale) != 1:
        return 0.0, 0
    return float(stated.scale[0]), int(stated.zeroPoint[0])


# --- whole models -------------------------------------------------------------------------------


def model_rows(whit, root, only):
    for name in ["kws", "vww", "ic", "ad", "sww"]:
        for kind in ["float", "int8"]:
            path = root / "mlperf-tiny" / name / f"{kind}.tflite"
            if path.exists() and re.search(only, f"{name} {kind}"):
                data = np.load(path.parent / "eval.npz")
                yield whole(whit, f"{name} {kind}", path, data[next(k for k in data if k != "labels")])
    path = root / "tflite" / "mobilenet-v2" / "int8.tflite"
    if path.exists() and re.search(only, "mobilenet-v2"):
        images = np.random.default_rng(SEED).integers(0, 256, (3, 224, 224, 3)).astype(np.uint8)
        yield whole(whit, "mobilenet-v2", path, images)
    for kind in ["float", "int8"]:
        path = root / "tflite" / "lstm-mnist" / f"{kind}.tflite"
        if path.exists() and re.search(only, f"lstm-mnist {kind}"):
            data = np.load(path.parent / "eval.npz")
            yield whole(whit, f"lstm-mnist {kind}", path, data[next(k for k in data if k != "labels")][:100])
    for path in sorted((root / "tflite" / "int16-layers").glob("*/*.tflite")):
        if re.search(only, f"int16 {path.stem}"):
            yield whole(whit, f"int16 {path.stem}", path, None)


def whole(whit, name, path, data):
    """One model on its data: how many outputs differ, by how many steps, in how many labels."""
    content = path.read_bytes()
    graph = parse(content).subgraphs[0]
    entry = graph.tensors[graph.inputs[0]]
    scale, zero_point = quantization(entry)
    shape, dtype = [1, *entry.shape[1:]], NUMPY[entry.type]
    if data is None:
        info = np.iinfo(dtype) if dtype != np.float32 else None
        rng = np.random.default_rng(SEED)
        feeds = [[rng.integers(info.min, info.max + 1, t.shape).astype(dtype) if info else rng.standard_normal(t.shape).astype(dtype)
                  for t in (graph.tensors[i] for i in graph.inputs)] for _ in range(4)]
    elif dtype in (np.int8, np.uint8) and data.dtype != dtype:
        limits = np.iinfo(dtype)
        feeds = [[np.clip(np.round(row / scale) + zero_point, limits.min, limits.max).astype(dtype).reshape(shape)] for row in data]
    else:
        feeds = [[row.astype(dtype).reshape(shape)] for row in data]
    try:
        _, expected = reference(content, feeds)
    except (RuntimeError, ValueError) as error:
        return {"name": name, "refused": f"by the reference: {error}"}
    expected = np.concatenate([outputs[0] for outputs in expected])
    flat = expected.reshape(len(expected), -1)
    row = {"name": name, "count": expected.size, "layers": len(graph.operators), "samples": len(flat)}
    real = expected.dtype == np.float32
    for mode, flags in [("", []), ("exact ", ["--exact-tflite"])][: 1 if real else 2]:
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            try:
                info = whit.convert(content, folder, *flags)
            except Refused as refused:
                return {"name": name, "refused": str(refused)}
            if len(graph.inputs) == 1:
                rows = np.concatenate([feed[0] for feed in feeds])
                made = whit.run(info, folder, [rows], [(scale, zero_point)])[0]
            else:
                quants = [quantization(graph.tensors[i]) for i in graph.inputs]
                made = np.concatenate([whit.run(info, folder, feed, quants)[0] for feed in feeds])
        made = made.reshape(expected.shape)
        row["steps"] = len(info["steps"])
        row[mode + "labels"] = int((flat.argmax(1) != made.reshape(flat.shape).argmax(1)).sum()) if flat.shape[1] > 1 else 0
        if real:
            row["error"] = float(np.abs(made - expected).max() / max(float(np.ptp(expected)), 1e-30))
        else:
            difference = np.abs(made.astype(np.int64) - expected.astype(np.int64))
            row[mode + "differ"], row[mode + "most"] = int((difference > 0).sum()), int(difference.max())
    return row


# --- layers by themselves -----------------------------------------------------------------------


def layers(whit, path, data):
    """Differences of each operator of an integer model, fed with TFLite's own tensors."""
    content = path.read_bytes()
    model = parse(content)
    graph = model.subgraphs[0]
    entry = graph.tensors[graph.inputs[0]]
    scale, zero_point = quantization(entry)
    dtype = NUMPY[entry.type]
    limits = np.iinfo(dtype)
    rows = data if data.dtype == dtype else np.clip(np.round(data / scale) + zero_point, limits.min, limits.max).astype(dtype)
    tensors = []
    run, _ = reference(content, [], keep_all=True)
    for row in rows:
        run.set_tensor(graph.inputs[0], row.reshape([1, *entry.shape[1:]]))
        run.invoke()
        tensors.append({i: run.get_tensor(i).copy() for op in graph.operators for i in [*op.inputs, *op.outputs]
                        if i >= 0 and not constant(model, graph.tensors[i])})
    found = []
    for operator in graph.operators:
        part = parse(content)
        part.signatureDefs, part.metadata = None, None
        (own,) = [op for op in part.subgraphs[0].operators if list(op.outputs) == list(operator.outputs)]
        part.subgraphs = part.subgraphs[:1]
        inputs = [i for i in operator.inputs if i >= 0 and not constant(model, graph.tensors[i])]
        part.subgraphs[0].operators = [own]
        part.subgraphs[0].inputs = np.array(sorted(set(inputs)), np.int32)
        part.subgraphs[0].outputs = np.array(operator.outputs[:1], np.int32)
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            info = whit.convert(pack(part), folder)
            at = list(part.subgraphs[0].inputs)
            quants = [quantization(graph.tensors[i]) for i in at]
            feed = [np.concatenate([row[i] for row in tensors]) for i in at]
            made = whit.run(info, folder, feed, quants)[0]
        expected = np.concatenate([row[operator.outputs[0]] for row in tensors])
        difference = np.abs(made.reshape(expected.shape).astype(np.int64) - expected.astype(np.int64))
        found.append((operator_name(model, operator), expected.size, int((difference > 0).sum()), int(difference.max())))
    return found


def constant(model, tensor):
    buffer = model.buffers[tensor.buffer]
    return buffer.data is not None and len(buffer.data) > 0


# --- operators -----------------------------------------------------------------------------------


class Act:
    """An activation: random reals of a range, or integers of a scale."""

    def __init__(self, *shape, low=-2.0, high=2.0, like=None):
        self.shape, self.low, self.high, self.like = list(shape), low, high, like


class Weights:
    """Constant reals; `axis` is the one that int8 scales run along."""

    def __init__(self, *shape, axis=None, spread=1.0):
        self.shape, self.axis, self.spread = list(shape), axis, spread


class Bias:
    def __init__(self, channels, x=0, w=1):
        self.channels, self.x, self.w = channels, x, w


class Given:
    """An input of a type of its own, not quantized."""

    def __init__(self, array):
        self.array = np.asarray(array)


class Const(Given):
    pass


class Case:
    def __init__(self, inputs, options=None, out="range", outputs=1, out_kind=None, same=False, kinds=("float", "int8", "uint8"), **values):
        self.inputs, self.options, self.values = inputs, options, values
        self.out, self.outputs, self.out_kind, self.same, self.kinds = out, outputs, out_kind, same, kinds


def pick(rng, *choices):
    return choices[int(rng.integers(len(choices)))]


def size(rng, low, high):
    return int(rng.integers(low, high + 1))


def image(rng, channels=None):
    return [1, size(rng, 4, 9), size(rng, 4, 9), channels or size(rng, 1, 20)]


def i32(*values):
    return Const(np.array(values, np.int32))


PADDING = (schema.Padding.SAME, schema.Padding.VALID)
RELU = (0, 1, 2, 3)  # none, RELU, RELU_N1_TO_1, RELU6


def conv(rng):
    shape, out = image(rng), size(rng, 1, 20)
    k = [size(rng, 1, 3), size(rng, 1, 3)]
    dilated = rng.random() < 0.3
    stride = [1, 1] if dilated else [size(rng, 1, 2), size(rng, 1, 3)]
    dilation = [size(rng, 1, 2), 1] if dilated else [1, 1]
    padding = pick(rng, *PADDING) if dilation == [1, 1] else schema.Padding.SAME
    return Case([Act(*shape), Weights(out, *k, shape[3], axis=0), Bias(out)], "Conv2DOptions", padding=padding,
                strideH=stride[0], strideW=stride[1], dilationHFactor=dilation[0], dilationWFactor=dilation[1],
                fusedActivationFunction=pick(rng, *RELU))


def depthwise(rng):
    shape, times = image(rng), size(rng, 1, 3)
    k = [size(rng, 1, 3), size(rng, 1, 3)]
    stride = size(rng, 1, 2)
    return Case([Act(*shape), Weights(1, *k, shape[3] * times, axis=3), Bias(shape[3] * times)], "DepthwiseConv2DOptions",
                padding=pick(rng, *PADDING), strideH=stride, strideW=stride, depthMultiplier=times, dilationHFactor=1,
                dilationWFactor=1, fusedActivationFunction=pick(rng, *RELU))


def transpose_conv(rng):
    shape, out, stride = image(rng), size(rng, 1, 8), size(rng, 1, 3)
    k, padding = size(rng, 1, 4), pick(rng, *PADDING)
    reach = [(s - 1) * stride + k if padding == schema.Padding.VALID else s * stride for s in shape[1:3]]
    if padding == schema.Padding.VALID and k < stride:
        reach = [s * stride for s in shape[1:3]]
    inputs = [i32(1, *reach, out), Weights(out, k, k, shape[3], axis=0), Act(*shape)]
    if rng.random() < 0.7:
        inputs.append(Bias(out, x=2))
    return Case(inputs, "TransposeConvOptions", padding=padding, strideH=stride, strideW=stride, fusedActivationFunction=0)


def fully_connected(rng):
    rows, k, n = size(rng, 1, 3), size(rng, 1, 60), size(rng, 1, 30)
    keep = bool(rng.random() < 0.4)
    shape = [2, rows, k] if keep else [rows, k]
    inputs = [Act(*shape), Weights(n, k, axis=None)]
    if rng.random() < 0.7:
        inputs.append(Bias(n))
    return Case(inputs, "FullyConnectedOptions", keepNumDims=keep, fusedActivationFunction=pick(rng, *RELU))


def pool(rng):
    shape = image(rng)
    k = [size(rng, 1, 4), size(rng, 1, 4)]
    return Case([Act(*shape)], "Pool2DOptions", same=True, padding=pick(rng, *PADDING), strideH=size(rng, 1, 2), strideW=size(rng, 1, 2),
                filterHeight=k[0], filterWidth=k[1], fusedActivationFunction=pick(rng, *RELU))


def two(rng, options=None, second=None, **more):
    shape = image(rng)
    other = pick(rng, shape, [1, 1, 1, shape[3]], [1])
    x, y = Act(*shape), second(other) if second else Act(*other, low=-1.0, high=3.0)
    return Case([x, y], options, **more)


def fused(options, **more):
    def make(rng):
        if rng.random() < 0.15:
            case = whole_numbers(rng)
            case.options, case.values = options, {"fusedActivationFunction": 0}
            return case
        return two(rng, options, fusedActivationFunction=pick(rng, *RELU), **more)
    return make


def one(options=None, low=-3.0, high=3.0, **more):
    return lambda rng: Case([Act(*image(rng), low=low, high=high)], options, **more)


def reducer(same=False, kinds=("float", "int8", "uint8"), low=-2.0):
    def make(rng):
        shape = image(rng)
        axes = pick(rng, [1, 2], [-1], [0, 3], [1], [2, 3], [1, 2, 3])
        return Case([Act(*shape, low=low), i32(*axes)], "ReducerOptions", same=same, kinds=kinds, keepDims=bool(rng.random() < 0.5))
    return make


def of_bools(rng):
    x = rng.random((2, 4, 5)) < pick(rng, 0.1, 0.9)
    return Case([Given(x), i32(*pick(rng, [0], [1, 2], [2]))], "ReducerOptions", kinds=("float",), keepDims=bool(rng.random() < 0.5))


def compare(rng):
    shape = [2, 5, 3]
    if rng.random() < 0.4:
        return Case([Given(rng.integers(-2, 3, shape).astype(np.int32)), Given(rng.integers(-2, 3, shape[-1:]).astype(np.int32))], None,
                    kinds=("float",), out_kind=KIND.BOOL)
    return Case([Act(*shape), Act(*pick(rng, shape, [3]), low=-1.0)], None, out_kind=KIND.BOOL)


def bools(count):
    return lambda rng: Case([Given(rng.random((3, 4)) < 0.5) for _ in range(count)], None, kinds=("float",), out_kind=KIND.BOOL)


def whole_numbers(rng, low=-9, high=9, zero=False):
    x, y = (rng.integers(low, high + 1, (3, 4)).astype(np.int32) for _ in range(2))
    if not zero:
        y[y == 0] = 5
    return Case([Given(x), Given(y)], None, kinds=("float",), out_kind=KIND.INT32)


def floor_mod(rng):
    return whole_numbers(rng) if rng.random() < 0.5 else two(rng, second=lambda shape: Act(*shape, low=0.5, high=3.0), kinds=("float",))


def reshape(rng):
    shape = image(rng)
    to = pick(rng, [1, -1], [shape[1], -1, shape[3]], [-1])
    return Case([Act(*shape), i32(*to)], "ReshapeOptions", same=True, newShape=to)


def concat(rng):
    shape, axis = image(rng), pick(rng, 1, 2, 3, -1)
    parts = []
    for at in range(size(rng, 2, 4)):
        own = list(shape)
        own[axis] = size(rng, 1, 5)
        parts.append(Act(*own, like=parts[0] if parts else None))
    return Case(parts, "ConcatenationOptions", same=True, axis=axis, fusedActivationFunction=0)


def strided_slice(rng):
    shape = [size(rng, 3, 7) for _ in range(3)]
    n = size(rng, 1, 3)
    begin = [size(rng, -shape[i], shape[i] - 1) for i in range(n)]
    stride = [pick(rng, 1, 1, 2, -1, -2) for _ in range(n)]
    mask = size(rng, 0, 2 ** n - 1)
    shrink = size(rng, 0, 2 ** n - 1) if rng.random() < 0.3 else 0
    end = []
    for i in range(n):
        start = begin[i] % shape[i]
        if shrink >> i & 1:
            stride[i] = 1
            end.append(start + 1)
        else:
            end.append(size(rng, start + 1, shape[i]) if stride[i] > 0 else size(rng, -1, start - 1) - shape[i])
    return Case([Act(*shape), i32(*begin), i32(*end), i32(*stride)], "StridedSliceOptions", same=True, beginMask=mask & ~shrink,
                endMask=size(rng, 0, 2 ** n - 1) & ~shrink, ellipsisMask=0, newAxisMask=0, shrinkAxisMask=shrink)


def masked_slice(rng):
    ellipsis = rng.random() < 0.5
    return Case([Act(3, 4, 5, 2), i32(0, 0, 1), i32(0, 0, 2), i32(1, 1, 1)], "StridedSliceOptions", same=True,
                kinds=("float", "int8", "uint8"), ellipsisMask=2 if ellipsis else 0, newAxisMask=1, shrinkAxisMask=4 if ellipsis else 0,
                beginMask=2, endMask=2, offset=False)


def slice_(rng):
    shape = image(rng)
    begin = [size(rng, 0, s - 1) for s in shape]
    extent = [pick(rng, -1, size(rng, 1, s - b)) for s, b in zip(shape, begin)]
    return Case([Act(*shape), i32(*begin), i32(*extent)], None, same=True)


def pads(rng, rank=4, high=2):
    return Const(np.concatenate([[[0, 0]], rng.integers(0, high + 1, (rank - 1, 2))]).astype(np.int32))


def padv2(rng):
    return Case([Act(*image(rng)), pads(rng), Weights(1, spread=0.5)], None, same=True)


def split(rng):
    count, axis = size(rng, 2, 3), pick(rng, 1, 2, -1)
    shape = image(rng)
    shape[axis] = count * size(rng, 1, 4)
    return Case([Const(np.int32(axis)), Act(*shape)], "SplitOptions", same=True, outputs=count, numSplits=count)


def split_v(rng):
    sizes, shape, axis = [size(rng, 1, 3) for _ in range(3)], image(rng), pick(rng, 1, 3)
    shape[axis] = sum(sizes)
    if rng.random() < 0.5:
        sizes[size(rng, 0, 2)] = -1
    return Case([Act(*shape), i32(*sizes), Const(np.int32(axis))], "SplitVOptions", same=True, outputs=3, numSplits=3)


def pack_(rng):
    shape, count = image(rng)[1:], size(rng, 1, 3)
    first = Act(*shape)
    return Case([first] + [Act(*shape, like=first) for _ in range(count - 1)], "PackOptions", same=True, valuesCount=count, axis=size(rng, -4, 3))


def unpack(rng):
    shape, axis = [size(rng, 1, 4) for _ in range(3)], size(rng, 0, 2)
    return Case([Act(*shape)], "UnpackOptions", same=True, outputs=shape[axis], num=shape[axis], axis=axis)


def space_to_depth(rng):
    block = size(rng, 1, 3)
    return Case([Act(1, 2 * block, 3 * block, 2)], "SpaceToDepthOptions", same=True, blockSize=block)


def depth_to_space(rng):
    block = size(rng, 1, 3)
    return Case([Act(1, 2, 3, 2 * block * block)], "DepthToSpaceOptions", same=True, blockSize=block)


def space_to_batch(rng):
    block = [size(rng, 1, 3), size(rng, 1, 2)]
    pad = [[size(rng, 0, 1), 0] for _ in block]
    shape = [2, 3 * block[0] - pad[0][0], 2 * block[1] - pad[1][0], 3]
    if min(shape) < 1:
        return space_to_batch(rng)
    return Case([Act(*shape), i32(*block), Const(np.array(pad, np.int32))], None, same=True)


def batch_to_space(rng):
    block = [size(rng, 1, 3), size(rng, 1, 2)]
    return Case([Act(2 * block[0] * block[1], 3, 4, 2), i32(*block), Const(np.array([[1, 0], [0, 1]], np.int32))], None, same=True)


def gather(rng):
    shape = [3, 4, 5]
    batch = int(rng.random() < 0.4)
    axis = size(rng, batch, 2)
    indices = rng.integers(0, shape[axis], ([3] if batch else []) + [size(rng, 1, 4)]).astype(np.int32)
    inputs = [Act(*shape), (Given if rng.random() < 0.5 else Const)(indices)]
    return Case(inputs, "GatherOptions", same=True, axis=axis, batchDims=batch)


def gather_nd(rng):
    n = size(rng, 1, 3)
    return Case([Act(3, 4, 5), Given(np.stack([rng.integers(0, s, 6) for s in (3, 4, 5)[:n]], -1).astype(np.int32))], None, same=True)


def resize(options):
    def make(rng):
        align, half = pick(rng, (False, False), (True, False), (False, True))
        shape = image(rng)
        to = [pick(rng, 2 * shape[1], size(rng, 1, 17)), pick(rng, 2 * shape[2], size(rng, 1, 17))]
        return Case([Act(*shape), i32(*to)], options, same=True, alignCorners=align, halfPixelCenters=half)
    return make


def arg(options):
    return lambda rng: Case([Act(2, 3, 7), Const(np.int32(pick(rng, -1, 1)))], options, out_kind=pick(rng, KIND.INT32, KIND.INT64), output="out_kind")


def top_k(rng):
    return Case([Act(2, 9), Const(np.int32(size(rng, 1, 9)))], None, same=True, outputs=2, kinds=("float", "int8"))


def one_hot(rng):
    return Case([Given(rng.integers(-1, 6, (3, 2)).astype(np.int32)), Const(np.int32(5)), Const(np.float32(2)), Const(np.float32(-1))],
                "OneHotOptions", kinds=("float",), axis=pick(rng, -1, 0, 1))


def batch_matmul(rng):
    x, y = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
    m, k, n = (size(rng, 1, 6) for _ in range(3))
    return Case([Act(2, *((k, m) if x else (m, k))), Act(*pick(rng, (2,), ()), *((n, k) if y else (k, n)))], "BatchMatMulOptions",
                kinds=("float", "int8"), adjX=x, adjY=y)


def cast(rng):
    dtypes = [np.float32, np.int32, np.int64, np.bool_]
    to = pick(rng, *dtypes)
    return Case([Given((rng.standard_normal((3, 4)) * 5).astype(pick(rng, *dtypes)))], "CastOptions", kinds=("float",), out_kind=KIND_OF[np.dtype(to)])


def select(rng):
    shape = [2, 3, 4]
    first = Act(*shape)
    return Case([Given(rng.random(pick(rng, shape, [1, 3, 1])) < 0.5), first, Act(*shape, like=first)], None, same=1)


def select_v1(rng):
    shape = [2, 3, 4]
    first = Act(*shape)
    return Case([Given(rng.random(pick(rng, shape, [2])) < 0.5), first, Act(*shape, like=first)], None, same=1)


def requantize(rng):
    return Case([Act(*image(rng))], None, kinds=("int8", "uint8"), out="other")


def shapes(rng):
    return Case([Act(*image(rng))], "ShapeOptions", out_kind=KIND.INT32, kinds=("float",), outType=KIND.INT32)


def cases():
    """A function from a random generator to a case, for each operator."""
    return {
        "CONV_2D": conv, "DEPTHWISE_CONV_2D": depthwise, "TRANSPOSE_CONV": transpose_conv, "FULLY_CONNECTED": fully_connected,
        "BATCH_MATMUL": batch_matmul,
        "AVERAGE_POOL_2D": pool, "MAX_POOL_2D": pool,
        "L2_POOL_2D": lambda rng: setattr(case := pool(rng), "kinds", ("float",)) or case,
        "ADD": fused("AddOptions"), "SUB": fused("SubOptions"), "MUL": fused("MulOptions"),
        "DIV": lambda rng: two(rng, "DivOptions", second=lambda s: Act(*s, low=0.5, high=3.0), kinds=("float", "uint8"), fusedActivationFunction=pick(rng, *RELU)),
        "FLOOR_DIV": floor_mod, "FLOOR_MOD": floor_mod,
        "MAXIMUM": lambda rng: likes(rng), "MINIMUM": lambda rng: likes(rng),
        "SQUARED_DIFFERENCE": lambda rng: two(rng, kinds=("float", "int8")),
        "POW": lambda rng: Case([Act(2, 9, low=0.1), Act(2, 9)], None, kinds=("float",)),
        "ADD_N": lambda rng: Case([Act(2, 9) for _ in range(size(rng, 2, 4))], None, kinds=("float",)),
        "PRELU": lambda rng: (lambda shape: Case([Act(*shape), Weights(1, 1, shape[3])], None))(image(rng)),
        "MEAN": reducer(),
        # The reference adds int8 up in 8 bits, whatever the scales are.
        "SUM": reducer(kinds=("float", "uint8")),
        "REDUCE_MAX": reducer(same=True), "REDUCE_MIN": reducer(same=True),
        "REDUCE_PROD": reducer(kinds=("float",), low=-1.1), "REDUCE_ANY": of_bools, "REDUCE_ALL": of_bools,
        "ARG_MAX": arg("ArgMaxOptions"), "ARG_MIN": arg("ArgMinOptions"),
        "CUMSUM": lambda rng: Case([Act(3, 4, 5), Const(np.int32(pick(rng, 0, 1, -1)))], "CumsumOptions", kinds=("float",),
                                   exclusive=bool(rng.random() < 0.5), reverse=bool(rng.random() < 0.5)),
        "SOFTMAX": lambda rng: Case([Act(*pick(rng, [3, 10], image(rng)), low=-6.0, high=6.0)], "SoftmaxOptions", out="softmax", beta=float(pick(rng, 1.0, 1.0, 0.5))),
        "LOG_SOFTMAX": lambda rng: Case([Act(3, size(rng, 2, 12), low=-6.0, high=6.0)], None, out="log_softmax"),
        "L2_NORMALIZATION": lambda rng: Case([Act(3, size(rng, 2, 12))], "L2NormOptions", out="unit", fusedActivationFunction=0),
        "LOGISTIC": one(out="logistic", low=-8.0, high=8.0), "TANH": one(out="unit", low=-4.0, high=4.0),
        "RELU": one(), "RELU6": one(low=-3.0, high=9.0), "RELU_N1_TO_1": one(), "RELU_0_TO_1": one(kinds=("float", "int8")), "HARD_SWISH": one(low=-5.0, high=5.0),
        "LEAKY_RELU": lambda rng: Case([Act(*image(rng))], "LeakyReluOptions", alpha=float(rng.uniform(0.01, 0.5))),
        "ELU": one(kinds=("float", "int8")), "GELU": lambda rng: Case([Act(*image(rng))], "GeluOptions", approximate=bool(rng.random() < 0.5)),
        "EXP": one(kinds=("float", "int8")), "LOG": one(low=0.1, kinds=("float", "int8")), "SQRT": one(low=0.0, kinds=("float",)),
        "RSQRT": one(low=0.3, kinds=("float", "int8")), "SQUARE": one(kinds=("float",)), "ABS": one(kinds=("float", "int8")), "NEG": one(kinds=("float",)),
        "SIN": one(kinds=("float",)), "COS": one(kinds=("float",)), "FLOOR": one(kinds=("float",)), "CEIL": one(kinds=("float",)),
        "ROUND": one(kinds=("float",)), "SIGN": one(kinds=("float",)),
        "EQUAL": compare, "NOT_EQUAL": compare, "GREATER": compare, "GREATER_EQUAL": compare, "LESS": compare, "LESS_EQUAL": compare,
        "LOGICAL_AND": bools(2), "LOGICAL_OR": bools(2), "LOGICAL_NOT": bools(1), "SELECT": select_v1, "SELECT_V2": select,
        "RESHAPE": reshape, "SQUEEZE": lambda rng: Case([Act(1, 3, 1, 4)], "SqueezeOptions", same=True, squeezeDims=pick(rng, [0], [2], [0, -2], [])),
        "EXPAND_DIMS": lambda rng: Case([Act(3, 4), Const(np.int32(pick(rng, 0, 1, 2, -1)))], None, same=True),
        "TRANSPOSE": lambda rng: Case([Act(2, 3, 4, 5), i32(*rng.permutation(4))], None, same=True),
        "CONCATENATION": concat, "PACK": pack_, "UNPACK": unpack, "SPLIT": split, "SPLIT_V": split_v,
        "STRIDED_SLICE": lambda rng: pick(rng, strided_slice, strided_slice, masked_slice)(rng), "SLICE": slice_,
        "REVERSE_V2": lambda rng: Case([Act(3, 4, 5), i32(pick(rng, 0, 1, 2))], None, same=True, kinds=("float", "uint8")),
        "PAD": lambda rng: Case([Act(*image(rng)), pads(rng)], None, same=True), "PADV2": padv2,
        "MIRROR_PAD": lambda rng: Case([Act(*image(rng)), pads(rng)], "MirrorPadOptions", same=True, mode=pick(rng, 0, 1)),
        "SPACE_TO_DEPTH": space_to_depth, "DEPTH_TO_SPACE": depth_to_space, "SPACE_TO_BATCH_ND": space_to_batch, "BATCH_TO_SPACE_ND": batch_to_space,
        "TILE": lambda rng: Case([Act(2, 3, 2), i32(size(rng, 1, 3), size(rng, 1, 2), size(rng, 1, 3))], None, same=True, kinds=("float", "int8", "uint8")),
        "GATHER": gather, "GATHER_ND": gather_nd, "RESIZE_BILINEAR": resize("ResizeBilinearOptions"),
        "RESIZE_NEAREST_NEIGHBOR": resize("ResizeNearestNeighborOptions"), "TOPK_V2": top_k, "ONE_HOT": one_hot, "CAST": cast,
        "SCATTER_ND": lambda rng: Case([Given(rng.integers(0, 4, (6, 1)).astype(np.int32)), Act(6, 3), i32(4, 3)], None, kinds=("float",)),
        "QUANTIZE": requantize, "DEQUANTIZE": lambda rng: Case([Act(*image(rng))], None, kinds=("int8", "uint8"), out_kind=KIND.FLOAT32),
        "SHAPE": shapes, "RANK": lambda rng: Case([Act(*image(rng))], None, out_kind=KIND.INT32, kinds=("float",)),
        "FILL": lambda rng: Case([i32(2, 3), Given(np.float32(1.5))], None, kinds=("float",)),
        "ZEROS_LIKE": lambda rng: Case([Act(2, 3)], None, kinds=("float",)),
        "BROADCAST_TO": lambda rng: Case([Act(3, 1), i32(2, 3, 4)], None, same=True),
        "BROADCAST_ARGS": lambda rng: Case([i32(3, 1), i32(2, 1, 4)], None, kinds=("float",), out_kind=KIND.INT32),
        "RANGE": lambda rng: Case([Const(np.float32(1)), Const(np.float32(size(rng, 2, 9))), Const(np.float32(0.5))], "RangeOptions", kinds=("float",)),
        "REVERSE_SEQUENCE": lambda rng: Case([Act(3, 5, 2), Given(rng.integers(1, 6, 3).astype(np.int32))], "ReverseSequenceOptions", same=True,
                                             kinds=("float", "uint8"), seqDim=1, batchDim=0),
    }


def likes(rng):
    case = two(rng)
    case.inputs[1].like = case.inputs[0]
    case.same = True
    return case


def scale_for(low, high, kind):
    _, least, most = INTEGER[kind]
    low, high = min(low, 0.0), max(high, 1e-3)
    scale = np.float32((high - low) / 255)
    return scale, int(np.clip(round(least - low / scale), least, most))


def fixed_scale(rule, kind):
    least = INTEGER[kind][1]
    return {"softmax": (np.float32(1 / 256), least), "logistic": (np.float32(1 / 256), least),
            "unit": (np.float32(1 / 128), least + 128), "log_softmax": (np.float32(16 / 256), least + 255), "other": (np.float32(0.0213), least + 100)}.get(rule)


class Builder:
    """A model of one operator, as its tensors are added."""

    def __init__(self, operator, case, kind, rng):
        self.rng, self.kind, self.case = rng, kind, case
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.subgraphs = 3, [self.graph]
        self.model.buffers = [schema.BufferT()]
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = OPERATOR[operator], min(OPERATOR[operator], 127), 4
        self.model.operatorCodes = [code]
        self.graph.tensors, self.graph.name = [], "main"
        self.feed, self.quants = [], {}
        self.operator = schema.OperatorT()
        self.operator.inputs = [self.add(entry, at) for at, entry in enumerate(case.inputs)]
        self.graph.inputs = [i for i, entry in zip(self.operator.inputs, case.inputs) if isinstance(entry, Act) or type(entry) is Given]
        if case.options:
            options = getattr(schema, case.options + "T")()
            for key, value in case.values.items():
                if key == "output":
                    key, value = "outputType", case.out_kind
                assert hasattr(options, key), key
                setattr(options, key, value)
            self.operator.builtinOptionsType, self.operator.builtinOptions = OPTIONS[case.options], options
            if case.options == "CastOptions":
                options.inDataType, options.outDataType = self.graph.tensors[0].type, case.out_kind
        self.graph.operators = [self.operator]

    def tensor(self, name, shape, kind, data=None, scale=None, axis=0):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), kind, 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        if scale is not None:
            tensor.quantization = schema.QuantizationParametersT()
            scales, zeros = scale
            tensor.quantization.scale = np.atleast_1d(scales).astype(np.float32)
            tensor.quantization.zeroPoint = np.atleast_1d(zeros).astype(np.int64)
            tensor.quantization.quantizedDimension = axis
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def add(self, entry, at):
        name, rng = f"input_{at}", self.rng
        if isinstance(entry, Act):
            if self.kind == "float":
                self.feed.append(rng.uniform(entry.low, entry.high, entry.shape).astype(np.float32))
                return self.tensor(name, entry.shape, KIND.FLOAT32)
            number, least, most = INTEGER[self.kind]
            scale = self.quants[id(entry.like)] if entry.like else scale_for(entry.low, entry.high, self.kind)
            self.quants[id(entry)] = self.quants[at] = scale
            self.feed.append(rng.integers(least, most + 1, entry.shape).astype(NUMPY[number]))
            return self.tensor(name, entry.shape, number, scale=scale)
        if isinstance(entry, Weights):
            reals = (rng.standard_normal(entry.shape) * entry.spread * 0.5).astype(np.float32)
            if self.kind == "float":
                return self.tensor(name, entry.shape, KIND.FLOAT32, reals)
            if self.kind == "uint8" or self.case.same:
                scale = self.quants[0] if self.case.same else scale_for(reals.min(), reals.max(), self.kind)
                number, least, most = INTEGER[self.kind]
                self.quants[at] = scale
                stored = np.clip(np.round(reals / scale[0]) + scale[1], least, most).astype(NUMPY[number])
                return self.tensor(name, entry.shape, number, stored, scale)
            across = tuple(i for i in range(reals.ndim) if i != entry.axis)
            scales = np.maximum(np.abs(reals).max(across if entry.axis is not None else None), 1e-3) / 127
            shaped = scales.reshape([-1 if i == entry.axis else 1 for i in range(reals.ndim)]) if entry.axis is not None else scales
            stored = np.clip(np.round(reals / shaped), -127, 127).astype(np.int8)
            self.quants[at] = (np.atleast_1d(scales).astype(np.float32), np.zeros(np.atleast_1d(scales).shape, np.int64))
            return self.tensor(name, entry.shape, KIND.INT8, stored, self.quants[at], entry.axis or 0)
        if isinstance(entry, Bias):
            reals = rng.standard_normal(entry.channels).astype(np.float32)
            if self.kind == "float":
                return self.tensor(name, [entry.channels], KIND.FLOAT32, reals)
            scales = (np.float32(self.quants_of(entry.x)[0]) * np.asarray(self.quants_of(entry.w)[0], np.float32)).astype(np.float32)
            stored = np.round(reals / scales).astype(np.int32)
            return self.tensor(name, [entry.channels], KIND.INT32, stored, (scales, np.zeros(np.atleast_1d(scales).shape, np.int64)))
        kind = KIND_OF[entry.array.dtype]
        if isinstance(entry, Const):
            return self.tensor(name, entry.array.shape, kind, entry.array)
        self.feed.append(entry.array)
        return self.tensor(name, entry.array.shape, kind)

    def quants_of(self, at):
        return self.quants[at]

    def finish(self, output_kinds, scales, shapes):
        kept = len(self.graph.tensors)
        outputs = [self.tensor(f"output_{at}", shapes[at] if shapes else [], kind, scale=scales[at]) for at, kind in enumerate(output_kinds)]
        self.operator.outputs = self.graph.outputs = outputs
        content = pack(self.model)
        del self.graph.tensors[kept:]
        return content


def build(operator, case, kind, seed):
    """The model's bytes, its input arrays and their quantization."""
    builder = Builder(operator, case, kind, np.random.default_rng(seed))
    first = case.inputs[1 if case.same is not False and case.same == 1 and case.same is not True else 0]
    carried = next((e for e in case.inputs if isinstance(e, Act)), None)
    if case.out_kind is not None:
        kinds, scales = [case.out_kind], [None]
    elif kind == "float":
        only = KIND_OF[first.array.dtype] if isinstance(first, Given) and carried is None else KIND.FLOAT32
        kinds = [KIND.INT32 if case.outputs == 2 and at else only for at in range(case.outputs)]
        if operator in ("FILL", "RANGE", "ONE_HOT", "SCATTER_ND"):
            kinds = [KIND.FLOAT32]
        scales = [None] * case.outputs
    else:
        number = INTEGER[kind][0]
        kinds = [KIND.INT32 if operator == "TOPK_V2" and at else number for at in range(case.outputs)]
        if case.same:
            scale = builder.quants[id(carried)]
        else:
            scale = fixed_scale(case.out, kind) or range_of(operator, case, kind, seed)
        scales = [scale if k == number else None for k in kinds]
    # The newest version of the operator that the reference kernels know.
    for version in (6, 5, 4, 3, 2, 1):
        builder.model.operatorCodes[0].version = version
        try:
            _, results = reference(builder.finish(kinds, scales, None), [builder.feed])
            break
        except ValueError as error:
            if version == 1 or "Didn't find op" not in str(error):
                raise
    # The shapes that the interpreter found, as a converter would have written them.
    content = builder.finish(kinds, scales, [list(result.shape) for result in results[0]])
    inputs = [entry for entry in case.inputs if isinstance(entry, Act) or type(entry) is Given]
    quants = [builder.quants.get(id(entry), (0.0, 0)) if kind != "float" else (0.0, 0) for entry in inputs]
    return content, builder.feed, quants, results[0]


def range_of(operator, case, kind, seed):
    """A scale for the result that covers most of what the float operator gives on such inputs."""
    content, _, _, results = build(operator, case, "float", seed)
    low, high = float(results[0].min()), float(results[0].max())
    if operator == "HARD_SWISH":
        low = -0.375
    return scale_for(low, high, kind)


# What --exact-tflite changes.
EXACT = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "MEAN", "SUM")


def try_operator(whit, operator, make, kind, folder):
    """Counts of one operator in one type."""
    found = collections.Counter()
    reasons = collections.Counter()
    worst = 0.0
    for number in range(CASES):
        seed = [SEED, number, OPERATOR[operator]]
        case = make(np.random.default_rng(seed))
        if kind not in case.kinds:
            continue
        try:
            content, feed, quants, expected = build(operator, case, kind, seed)
        except (RuntimeError, ValueError) as error:
            found["unknown"] += 1  # to the reference kernels
            reasons[f"reference: {str(error).splitlines()[0][-90:]}"] += 1
            continue
        found["cases"] += 1
        try:
            info = whit.convert(content, folder)
        except Refused as refused:
            found["refused"] += 1
            reasons[str(refused)] += 1
            continue
        made = whit.run(info, folder, feed, quants)
        moves = ("quantize", "dequantize", "copy", "slice", "transpose", "concat")
        found["float"] += int(kind != "float" and any(step["output"]["type"] == "f32" and step["op"] not in moves for step in info["steps"]))
        for ours, theirs in zip(made, expected):
            if list(ours.shape) != list(theirs.shape):
                ours = ours.reshape(theirs.shape)
            found["outputs"] += theirs.size
            if theirs.dtype == np.float32:
                if ours.dtype == np.int8:  # an output that is only dequantized
                    ours = (ours.astype(np.float32) - info["outputs"][0]["zero_point"]) * np.float32(info["outputs"][0]["scale"])
                same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
                error = np.where(same, 0.0, np.abs(ours - theirs) / max(float(np.ptp(theirs)), float(np.abs(theirs).max(initial=0)), 1e-3))
                worst = max(worst, float(error.max(initial=0.0)))
                found["differ"] += int((error > MAX_FLOAT_ERROR).sum())
            else:
                difference = np.abs(ours.astype(np.int64) - theirs.astype(np.int64))
                found["differ"] += int((difference > 0).sum())
                worst = max(worst, float(difference.max(initial=0)))
        if kind != "float" and operator in EXACT:
            info = whit.convert(content, folder, "--exact-tflite")
            made = whit.run(info, folder, feed, quants)
            found["exact"] += sum(int((ours.reshape(theirs.shape) != theirs).sum()) for ours, theirs in zip(made, expected))
    return found, worst, reasons


# --- recorded outputs ---------------------------------------------------------------------------


def sequence(whit, path, feeds, given=(), options=()):
    """The first output of runs in sequence. Integer inputs are given as the reals that they stand for."""
    model = parse(path.read_bytes())
    graph = model.subgraphs[0]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        arguments, fixed = [], []
        for at, (number, array) in enumerate(zip(graph.inputs, feeds)):
            tensor = graph.tensors[number]
            scale, zero_point = quantization(tensor)
            if scale and array.dtype in (np.int8, np.int16):
                array = ((array.astype(np.float64) - zero_point) * scale).astype(np.float32)
            np.save(folder / f"{at}.npy", array)
            to = fixed if at in given else arguments
            to += ["--input-value" if at in given else "--input", f"{(tensor.name or b'').decode()}={folder / f'{at}.npy'}"]
        for call in (["convert", path, "-o", folder / "m.whit", *fixed],
                     ["run", folder / "m.whit", *arguments, "--output", folder / "out", "--raw", *options]):
            done = whit.call(*call)
            if done.returncode:
                raise Refused((done.stderr or done.stdout).strip().splitlines()[-1])
        return np.load(next((folder / "out").iterdir()))


def recorded_rows(whit, root, only):
    """Models whose outputs lie beside them: name, made, expected."""
    folder = root / "tflite"
    read = lambda path, dtype: np.array([int(x) for x in path.read_text().replace(",", " ").split()], dtype)
    for path in sorted((folder / "int16-layers").glob("*/*.tflite")):
        if re.search(only, path.stem):
            feeds, given = [], set()
            tensors = parse(path.read_bytes()).subgraphs[0]
            for at, number in enumerate(tensors.inputs):
                file = next(path.parent.glob(f"{path.stem}_input{at}_*.csv"))
                wide = "int32" in file.name
                # A shape as an input decides sizes: it must be known at conversion.
                given |= {at} if wide and len(tensors.tensors[number].shape) == 1 else set()
                feeds.append(read(file, np.int32 if wide else np.int16).reshape(tensors.tensors[number].shape))
            golden = read(path.parent / f"{path.stem}_golden_int16.csv", np.int16)
            yield path.stem, sequence(whit, path, feeds, given), golden
    for name in ["okay_nabu", "vad"]:
        path = folder / "microwakeword" / f"{name}.tflite"
        if path.exists() and re.search(only, name):
            steps = np.load(path.parent / f"{name}_steps.npz")
            yield f"{name}, 60 steps in sequence", sequence(whit, path, [steps["input"][:, 0]]), steps["expected"]
    for kind, key in [("float", "float_tflite"), ("int8", "int8_tflite_reference")]:
        path = folder / "lstm-mnist" / f"{kind}.tflite"
        if path.exists() and re.search(only, f"lstm-mnist {kind}"):
            data, expected = np.load(path.parent / "eval.npz"), np.load(path.parent / "expected.npz")[key]
            # They were recorded without a reset: the layer's state goes from digit to digit.
            yield f"lstm-mnist {kind}, 500 digits in sequence", sequence(whit, path, [data["input"]]), expected


def recorded(whit, root, only):
    lines, missed = [], 0
    for name, made, expected in recorded_rows(whit, root, only):
        made, expected = made.astype(np.float64).ravel(), expected.astype(np.float64)
        off = np.abs(made - expected.ravel())
        real = "float" in name
        differ = int((off > (MAX_FLOAT_ERROR if real else 0)).sum())
        most = f"{off.max():.0e}" if real else f"{off.max():.0f}"
        labels = ""
        if "digits" in name:
            same = made.reshape(expected.shape).argmax(1) == expected.argmax(1)
            labels = f"{(~same).sum()} of {same.size}"
        else:
            missed += off.max() > MAX_STEPS
        lines.append(f"| {name} | {off.size} | {differ} | {most} | {labels} |")
        print(lines[-1], flush=True)
    return lines, missed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whit", default="target/release/whit")
    parser.add_argument("--models", default="../shared/models", type=pathlib.Path)
    parser.add_argument("--only", default="", help="models and operators whose names match")
    parser.add_argument("--part", choices=["models", "layers", "operators", "recorded"], action="append")
    parser.add_argument("--write", type=pathlib.Path)
    options = parser.parse_args()
    whit, parts = Whit(options.whit), options.part or ["models", "layers", "operators", "recorded"]
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    text = [HEAD]
    missed = 0
    if "models" in parts:
        text += ["## Whole models\n", "| model | outputs | differ | most steps | labels that differ | exact: differ | exact: labels | steps of the program | layers |",
                 "|---|---:|---:|---:|---:|---:|---:|---:|---:|"]
        for row in model_rows(whit, options.models, options.only):
            if "refused" in row:
                line = f"| {row['name']} | refused: {row['refused'][:160]} | | | | | | | |"
            else:
                labels = lambda mode: f"{row[mode + 'labels']} of {row['samples']}"
                if "error" in row:
                    found = f"by {row['error']:.0e} of the range | | {labels('')} | |"
                else:
                    found = f"{row['differ']} | {row['most']} | {labels('')} | {row['exact differ']} | {labels('exact ')}"
                line = f"| {row['name']} | {row['count']} | {found} | {row['steps']} | {row['layers']} |"
            print(line)
            text.append(line)
        text.append("")
    if "layers" in parts:
        text += ["## Layers by themselves\n", "| model | operator | layers | outputs | differ | most steps |", "|---|---|---:|---:|---:|---:|"]
        for name, path, count in [("kws", "mlperf-tiny/kws", 20), ("vww", "mlperf-tiny/vww", 5), ("ic", "mlperf-tiny/ic", 20), ("ad", "mlperf-tiny/ad", 98),
                                  ("sww", "mlperf-tiny/sww", 45), ("mobilenet-v2", "tflite/mobilenet-v2", 1)]:
            file = options.models / path / "int8.tflite"
            if not file.exists() or not re.search(options.only, name):
                continue
            if name == "mobilenet-v2":
                data = np.random.default_rng(SEED).integers(0, 256, (count, 224, 224, 3)).astype(np.uint8)
            else:
                arrays = np.load(file.parent / "eval.npz")
                data = arrays[next(k for k in arrays if k != "labels")][:count]
            sums = {}
            for operator, outputs, differ, most in layers(whit, file, data):
                old = sums.get(operator, (0, 0, 0, 0))
                sums[operator] = (old[0] + 1, old[1] + outputs, old[2] + differ, max(old[3], most))
            for operator, (number, outputs, differ, most) in sums.items():
                line = f"| {name} | {operator} | {number} | {outputs} | {differ} | {most} |"
                missed += most > MAX_STEPS
                print(line)
                text.append(line)
        text.append("")
    if "operators" in parts:
        text += ["## Operators\n", "| operator | type | cases | outputs | differ | most | exact: differ | with float steps | refused |", "|---|---|---:|---:|---:|---:|---:|---:|---|"]
        with tempfile.TemporaryDirectory() as folder:
            for operator, make in cases().items():
                if not re.search(options.only, operator):
                    continue
                for kind in ["float", "int8", "uint8"]:
                    found, worst, reasons = try_operator(whit, operator, make, kind, pathlib.Path(folder))
                    if not found["cases"]:
                        if reasons and options.only:
                            print(operator, kind, dict(reasons))
                        continue
                    most = f"{worst:.0e}" if kind == "float" and worst else f"{worst:.0f}"
                    why = "; ".join(f"{count} × {reason[:110]}" for reason, count in reasons.items() if not reason.startswith("reference"))
                    exact = found["exact"] if kind != "float" and operator in EXACT else ""
                    line = f"| {operator} | {kind} | {found['cases']} | {found['outputs']} | {found['differ']} | {most} | {exact} | {found['float'] or ''} | {why} |"
                    missed += found["differ"] > 0 if kind == "float" else worst > MAX_STEPS
                    print(line, flush=True)
                    text.append(line)
    if "recorded" in parts:
        text += ["## Recorded outputs\n", "| model | outputs | differ | most steps | labels that differ |", "|---|---:|---:|---:|---:|"]
        lines, more = recorded(whit, options.models, options.only)
        text, missed = text + lines + [""], missed + more
    if options.write:
        options.write.write_text("\n".join(text) + "\n")
    print(f"{missed} missed")
    return 1 if missed else 0


HEAD = """# TFLite beside its reference kernels

Made by `convert/proof/tflite.py`; run it again after a change to the importer, the lowering to integers or an integer
operator. Integers are compared as they are: **differ** counts those that aren't equal, **most** is the largest difference in
steps; of floats, those further off than 1e-4 of the range, and the largest error in it. TFLite rounds an accumulator
twice (first its product with a 31-bit multiplier, then the shift that follows), Whit once; near ties the two differ by
one step, in about one of 500 outputs of a layer. Averages without a change of scale are TFLite's in every value in int8.

**exact** is with `whit convert --exact-tflite`: int8 convolutions (also depthwise, transposed) and means then round as
the reference kernels do, in scalar kernels, which are slow. It leaves alone fully connected layers, which are the same without, and
additions, multiplications, bilinear resizing, PRELU, layers on int16 and LSTM, which may still differ by a step; so do averages of uint8
models, whose ties go the other way below the middle of the range, and uint8 layers that are computed on floats.
"""

if __name__ == "__main__":
    sys.exit(main())
