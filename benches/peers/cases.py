"""Which models are compared, on which inputs, and the file that each runtime reads.

A case is a model in one of three kinds; all its runtimes run the same network on the same inputs:

    float   float.onnx, and float.tflite in LiteRT
    int8    int8.tflite; ONNX runtimes can't read it
    qdq     qdq.onnx, integers between QuantizeLinear and DequantizeLinear; LiteRT can't read it.
            Where the folder has none, ONNX Runtime's static quantization makes it from float.onnx and calib.npz

Whit runs its own conversion of the same file, in kind float of float.onnx.
"""

import dataclasses
import pathlib
import subprocess

import numpy as np

import figures
from transplant import transplant

ROOT = pathlib.Path(__file__).resolve().parents[2]
RUNTIMES = ["whit", "litert", "onnxruntime", "openvino", "tract", "rten", "candle"]
KINDS = ["float", "int8", "qdq"]
TINY = ["ad", "kws", "ic", "vww", "sww"]
SAMPLES = 20
SAMPLES_OF_LARGE = 3  # models of --onnx, whose runs take long
CALIBRATION_SAMPLES = 100
SEED = 7


class NoResult(Exception):
    """Why a runtime has no time for a model."""


@dataclasses.dataclass
class Input:
    name: str
    values: np.ndarray  # by sample, then by axis, the model's batch of one among them


@dataclasses.dataclass
class Case:
    model: str
    kind: str
    files: dict  # path by runtime
    missing: dict  # why not, by runtime
    inputs: list
    step: float = 0.0  # of the first output, where it is an integer
    zero_point: int = 0
    classifies: bool = False
    remarks: list = dataclasses.field(default_factory=list)


def whit(tool, *arguments):
    done = subprocess.run([str(tool), *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise NoResult((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[0])
    return done.stdout


def convert(tool, source, target):
    whit(tool, "convert", source, "-o", target)
    return target


def arrange(data, shape):
    """Samples in a model's shape: channels first if only that fits, else the same order."""
    wanted = [size for size in shape if size != 1]
    given = [size for size in data.shape[1:] if size != 1]
    if given != wanted and len(given) == 3 and [given[2], *given[:2]] == wanted:
        data = data.reshape([len(data), *given]).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(data.reshape([len(data), *shape]))


def onnx_inputs(path):
    """(name, type, shape with open dimensions as 1) of the inputs."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    for given in graph.input:
        if given.name not in constants:
            kind = given.type.tensor_type
            shape = [max(dim.dim_value, 1) for dim in kind.shape.dim]
            yield given.name, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type), shape


def onnx_operators(path):
    import onnx

    return {node.op_type for node in onnx.load(path, load_external_data=False).graph.node}


def tflite_input_and_output(path):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    return interpreter.get_input_details(), interpreter.get_output_details()


def quantized(data, detail):
    """Real numbers as a TFLite input wants them."""
    scale, zero_point = detail["quantization"]
    if not np.issubdtype(detail["dtype"], np.integer) or not scale or data.dtype == detail["dtype"]:
        return data.astype(detail["dtype"])
    limits = np.iinfo(detail["dtype"])
    return np.clip(np.round(data / scale) + zero_point, limits.min, limits.max).astype(detail["dtype"])


def static_quantization(source, calibration, target):
    """ONNX Runtime's QDQ form: i8, weights per channel, ranges from calibration data."""
    import logging

    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    (name, dtype, shape), = onnx_inputs(source)
    samples = iter(arrange(calibration[:CALIBRATION_SAMPLES], shape).astype(dtype))

    class Reader(CalibrationDataReader):
        def get_next(self):
            sample = next(samples, None)
            return None if sample is None else {name: sample}

    logging.disable(logging.WARNING)  # it recommends a preparation that changes nothing for these graphs
    quantize_static(str(source), str(target), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                    activation_type=QuantType.QInt8, weight_type=QuantType.QInt8)
    logging.disable(logging.NOTSET)
    return target


def same_float_model(onnx, tflite, inputs):
    """Whether both give the same outputs, by the tolerance of the comparison."""
    import onnxruntime
    from ai_edge_litert.interpreter import Interpreter

    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    interpreter = Interpreter(str(tflite))
    interpreter.allocate_tensors()
    (given,), (result, *_) = interpreter.get_input_details(), interpreter.get_output_details()
    left, right = [], []
    for sample in inputs[0].values:
        left.append(session.run(None, {inputs[0].name: sample})[0])
        interpreter.set_tensor(given["index"], sample.reshape(given["shape"]))
        interpreter.invoke()
        right.append(interpreter.get_tensor(result["index"]))
    return figures.float_difference([np.array(left)], [np.array(right)])[0] is None


def float_tflite(folder, onnx, tflite, inputs, work, remarks):
    """The .tflite, with the weights of the .onnx where it was published with others."""
    if same_float_model(onnx, tflite, inputs):
        return tflite
    out = work / f"{folder.name}-float.tflite"
    try:
        transplant(onnx, tflite, out, work)
        if same_float_model(onnx, out, inputs):
            remarks.append("float.tflite has other weights than float.onnx; LiteRT gets a copy with those of float.onnx")
            return out
    except (ValueError, KeyError) as error:
        remarks.append(f"float.tflite is another model than float.onnx, and can't get its weights: {error}")
    return tflite


class Folder:
    """What there is of one model."""

    def __init__(self, name, float_onnx=None, float_tflite=None, int8_tflite=None, qdq_onnx=None, data=None,
                 calibration=None, classifies=True):
        self.name, self.classifies = name, classifies
        there = lambda path: path if path and path.is_file() else None
        self.float_onnx, self.float_tflite = there(float_onnx), there(float_tflite)
        self.int8_tflite, self.qdq_onnx = there(int8_tflite), there(qdq_onnx)
        self.data, self.calibration = there(data), there(calibration)


def array(path):
    data = np.load(path)
    return data["input"] if "input" in data.files else data[next(n for n in data.files if n != "labels")]


def folders(models):
    """The models of a folder laid out as ../shared/models, and the repository's own."""
    digits = ROOT / "examples" / "digits"
    found = [Folder("digits", float_onnx=digits / "digits.onnx", data=digits / "digits-test.npz",
                    calibration=digits / "digits-calib.npz")]
    for name in TINY:
        folder = models / "mlperf-tiny" / name
        found.append(Folder(name, folder / "float.onnx", folder / "float.tflite", folder / "int8.tflite",
                            folder / "qdq.onnx", folder / "eval.npz", folder / "calib.npz", name != "ad"))
    folder = models / "tflite" / "lstm-mnist"
    found.append(Folder("lstm-mnist", None, folder / "float.tflite", folder / "int8.tflite", data=folder / "eval.npz"))
    folder = models / "tflite" / "mobilenet-v2"
    found.append(Folder("mobilenet-v2", None, None, folder / "int8.tflite", data=folder / "expected.npz"))
    return found


def prepare(folder, kind, tool, work):
    """A case, or None where the model has no such kind."""
    remarks = []
    if folder.data is None:
        return None
    data = array(folder.data)[:SAMPLES]
    tflite = {"float": folder.float_tflite, "int8": folder.int8_tflite}.get(kind)
    onnx = {"float": folder.float_onnx, "qdq": folder.qdq_onnx}.get(kind)
    if kind == "qdq" and onnx is None and folder.float_onnx and folder.calibration:
        onnx = static_quantization(folder.float_onnx, array(folder.calibration), work / f"{folder.name}-qdq.onnx")
        remarks.append("quantized by ONNX Runtime (static, QDQ, per channel)")
    if onnx is None and tflite is None:
        return None
    files, missing = {}, {}
    inputs, step, zero_point = [], 0.0, 0
    if onnx:
        (name, dtype, shape), = onnx_inputs(onnx)
        inputs = [Input(name, arrange(data, shape).astype(dtype))]
        files |= {runtime: onnx for runtime in ("onnxruntime", "openvino", "tract", "rten", "candle")}
        source = onnx
    if tflite:
        (given,), (result, *_) = tflite_input_and_output(tflite)
        files["litert"] = float_tflite(folder, onnx, tflite, inputs, work, remarks) if onnx else tflite
        if not onnx:
            shape = [int(size) for size in given["shape"]]
            inputs = [Input(given["name"], quantized(arrange(data, shape), given))]
            step, zero_point = result["quantization"]
            files |= {runtime: tflite for runtime in ("openvino", "tract")}
            missing |= {runtime: "doesn't read .tflite" for runtime in ("onnxruntime", "rten", "candle")}
            source = tflite
    else:
        missing["litert"] = "no .tflite of this model" if kind == "float" else "doesn't read .onnx"
    try:
        files["whit"] = convert(tool, source, work / f"{folder.name}-{kind}.whit")
    except NoResult as error:
        missing["whit"] = str(error)
    return Case(folder.name, kind, files, missing, inputs, float(step), int(zero_point), folder.classifies, remarks)


def large_name(path):
    return path.stem.removesuffix("-torchscript").removesuffix("-dynamo")


def large(path, tool, work):
    """A case of an ONNX model by itself, on random inputs."""
    random = np.random.default_rng(SEED)
    inputs = []
    for name, dtype, shape in onnx_inputs(path):
        shape = [SAMPLES_OF_LARGE, *shape]
        values = random.standard_normal(shape) if np.issubdtype(dtype, np.floating) else random.integers(0, 8, shape)
        inputs.append(Input(name, values.astype(dtype)))
    kind = "qdq" if onnx_operators(path) & {"QuantizeLinear", "QLinearConv"} else "float"
    files = {runtime: path for runtime in ("onnxruntime", "openvino", "tract", "rten", "candle")}
    missing = {"litert": "no .tflite of this model"}
    try:
        files["whit"] = convert(tool, path, work / f"{path.stem}.whit")
    except NoResult as error:
        missing["whit"] = str(error)
    return Case(large_name(path), kind, files, missing, inputs)
