"""Whit, ONNX Runtime and LiteRT: each quantizes a float model its own way, runs it on samples and is timed.

A scheme gives a `Built`. What an engine won't do raises `Refused` with the engine's own words.
"""

import contextlib
import dataclasses
import gc
import hashlib
import io
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
import warnings

import numpy as np

from models import SEED, sha256

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "peers"))
MIN_RUNS = 9  # a median of fewer says little; the slowest scheme takes some 30 ms a run
CONVERSION_SECONDS = 1200  # nothing here needs longer; a hang shouldn't stop the whole table


class Refused(Exception):
    """Why an engine made nothing, in its words."""


@dataclasses.dataclass
class Built:
    outputs: np.ndarray  # of the first output, a row a sample
    median_us: object  # seconds → the median time of a run in µs
    file_bytes: int
    weight_bytes: int | None = None
    arena_bytes: int | None = None
    convert_seconds: float | None = None
    command: str = ""
    about: dict = dataclasses.field(default_factory=dict)


def first_line(error):
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def machine():
    """As benches/peers describes it."""
    from machine import describe

    return describe()


def median_us(call, seconds):
    """The median time of `call` in µs, over `seconds` and at least MIN_RUNS runs, after a tenth of that to warm up."""
    clock = time.perf_counter_ns

    def times(seconds, least):
        found, end = [], clock() + int(seconds * 1e9)
        while len(found) < least or clock() < end:
            start = clock()
            call()
            found.append(clock() - start)
        return found

    times(seconds / 10, 3)
    gc.collect()
    gc.disable()
    try:
        return statistics.median(times(seconds, MIN_RUNS)) / 1e3
    finally:
        gc.enable()


@contextlib.contextmanager
def silence():
    """The peers' quantizers talk, from Python and from C++."""
    import logging

    sys.stdout.flush(), sys.stderr.flush()
    saved, null = [os.dup(1), os.dup(2)], os.open(os.devnull, os.O_WRONLY)
    level = logging.root.manager.disable
    try:
        logging.disable(logging.CRITICAL)
        os.dup2(null, 1), os.dup2(null, 2)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(saved[0], 1), os.dup2(saved[1], 2)
        for descriptor in [*saved, null]:
            os.close(descriptor)
        logging.disable(level)


# --- Whit -------------------------------------------------------------------------------------------

# name → (arguments, calibration: None, "calibrate" or "search")
WHIT = {
    "float": (["--quantize", "none"], None),
    "f16": (["--quantize", "f16"], None),
    "int8 min-max": (["--quantize", "int8", "--method", "minmax", "--improve", "none"], "calibrate"),
    "int8": (["--quantize", "int8", "--method", "auto", "--improve", "auto", "--seed", SEED], "calibrate"),
    "int16": (["--quantize", "int16", "--method", "auto", "--improve", "auto", "--seed", SEED], "calibrate"),
    "w8": (["--quantize", "w8", "--group", 32], "calibrate"),
    "w4 plain": (["--quantize", "w4", "--group", 32, "--improve", "none"], "calibrate"),
    "w4": (["--quantize", "w4", "--group", 32, "--improve", "auto", "--seed", SEED], "calibrate"),
    "auto": (["--quantize", "auto", "--max-drop", "0.3%", "--seed", SEED], "search"),
    "auto, size first": (["--quantize", "auto", "--max-drop", "0.3%", "--prefer", "size", "--seed", SEED], "search"),
}


class Whit:
    name = "Whit"
    schemes = list(WHIT)

    def __init__(self, binary, work, time_limit, fresh):
        self.binary, self.work, self.time_limit, self.fresh = str(binary.resolve()), work, time_limit, fresh
        self.hash = sha256(binary)
        help_text = self.run("convert", "--help")
        self.options = {word.strip(" ,") for word in help_text.split() if word.startswith("--")}
        # A tool that can't be told to improve nothing improves nothing by itself.
        self.can_refrain = True
        try:
            self.run("convert", "no-such-model.onnx", "-o", "no-such.whit", "--improve", "none")
        except Refused as refusal:
            self.can_refrain = "--improve" not in str(refusal)

    def run(self, *arguments):
        try:
            done = subprocess.run([self.binary, *map(str, arguments)], capture_output=True, text=True, timeout=CONVERSION_SECONDS,
                                  env={**os.environ, "NO_COLOR": "1"})
        except subprocess.TimeoutExpired as error:
            raise Refused(f"not done after {CONVERSION_SECONDS} s") from error
        if done.returncode:
            raise Refused(first_line(done.stderr) if done.stderr.strip() else f"exit {done.returncode}")
        return done.stdout

    def save(self, case, what, arrays):
        path = self.work / "data" / f"{case.name}-{what}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **arrays)
        return path

    def arguments(self, scheme):
        arguments = [*WHIT[scheme][0]]
        if arguments[-2:] == ["--improve", "none"] and not self.can_refrain:
            del arguments[-2:]
        if scheme.startswith("auto"):
            arguments += ["--time-limit", f"{self.time_limit}s"]
        return arguments

    def build(self, case, scheme):
        arguments, data = [*self.arguments(scheme), *case.whit_arguments], WHIT[scheme][1]
        if data == "calibrate":
            arguments += ["--calibrate", self.save(case, "calibrate", case.calibrate)]
        elif data == "search" and case.search is not None:
            arguments += ["--calibrate", self.save(case, "search", {**case.search, "labels": case.search_labels})]
        elif data == "search":
            arguments += ["--calibrate", self.save(case, "calibrate", case.calibrate)]
        out = self.work / "out" / f"{case.name}-{scheme.replace(' ', '-')}.whit"
        out.parent.mkdir(parents=True, exist_ok=True)
        stamp = out.with_suffix(".json")
        key = hashlib.sha256(json.dumps([self.hash, sha256(case.source), *map(str, arguments)]).encode()
                             + b"".join(sha256(a).encode() for a in arguments if isinstance(a, pathlib.Path))).hexdigest()
        about = json.loads(stamp.read_text()) if stamp.exists() and not self.fresh else {}
        if about.get("key") != key or not out.exists():
            report = ["--report", out.with_suffix(".html")] if scheme.startswith("auto") and "--report" in self.options else []
            start = time.monotonic()
            text = self.run("convert", case.source, *arguments, *report, "--golden", 0, "-o", out, "--json")
            about = {"key": key, "seconds": time.monotonic() - start, "report": json.loads(text)}
            stamp.write_text(json.dumps(about) + "\n")
        speed = lambda seconds: self.bench(out, seconds)["latency_us"]["p50"]
        sizes = self.bench(out, 0.05)
        shown = " ".join(str(a.name if isinstance(a, pathlib.Path) else a) for a in arguments)
        return Built(self.outputs(case, out), speed, out.stat().st_size, sizes["weight_bytes"], sizes["arena_bytes"] + sizes["state_bytes"],
                     about["seconds"], f"whit convert {case.source.name} {shown}", {"float_nodes": len(about["report"].get("float_nodes", []))})

    def bench(self, file, seconds):
        return json.loads(self.run("bench", file, "--threads", 1, "--seconds", seconds, "--json"))

    def outputs(self, case, file):
        folder = self.work / "run"
        folder.mkdir(parents=True, exist_ok=True)
        feeds = []
        for number, (name, array) in enumerate(case.test.items()):
            np.save(folder / f"{number}.npy", array)
            feeds += ["--input", f"{name}={folder / f'{number}.npy'}"]
        report = json.loads(self.run("run", file, *feeds, "--reset-every", 1, "--output", folder / "outputs", "--json"))
        found = np.load(report["outputs"][0]["file"])
        samples = len(next(iter(case.test.values())))
        return found.reshape(samples, -1).astype(np.float64)

    def evaluate(self, case, scheme):
        """What `whit eval` says of the whole test set, in points."""
        data = self.save(case, "test", {**case.test, "labels": case.labels})
        out = self.work / "out" / f"{case.name}-{scheme.replace(' ', '-')}.whit"
        return json.loads(self.run("eval", out, "--data", data, "--task", "classify", "--reset-every", 1, "--json"))


# --- ONNX Runtime -----------------------------------------------------------------------------------

# name → arguments of quantize_static; the first is what it does when told nothing.
ONNX_STATIC = {
    "int8 default": dict(),
    "int8 min-max": dict(per_channel=True, calibrate_method="MinMax"),
    "int8 entropy": dict(per_channel=True, calibrate_method="Entropy"),
    "int8 percentile": dict(per_channel=True, calibrate_method="Percentile"),
    # What its documentation advises for x86 without VNNI, where its kernels add pairs of products in 16 bits, saturating.
    "uint8 min-max": dict(per_channel=True, calibrate_method="MinMax", activation_type="QUInt8", weight_type="QUInt8"),
    "uint8 entropy": dict(per_channel=True, calibrate_method="Entropy", activation_type="QUInt8", weight_type="QUInt8"),
    "uint8 percentile": dict(per_channel=True, calibrate_method="Percentile", activation_type="QUInt8", weight_type="QUInt8"),
    # What is commonly done for transformers: normalisation, softmax and the like stay float.
    "uint8 layers only": dict(per_channel=True, activation_type="QUInt8", weight_type="QUInt8", op_types_to_quantize=["Conv", "MatMul", "Gemm"]),
}


class OnnxRuntime:
    name = "ONNX Runtime"
    schemes = ["float", *ONNX_STATIC]

    def __init__(self, work, fresh):
        self.work, self.fresh = work, fresh

    def session(self, path, integers=True):
        """Without `integers`, QuantizeLinear and DequantizeLinear run as they are written, around float operators."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        if not integers:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def feeds(self, case, samples, session):
        """One feed a sample, in the shapes that the model wants."""
        wanted = {i.name: [n if isinstance(n, int) else 1 for n in i.shape] for i in session.get_inputs()}
        constant = {name: np.array(16000, np.int64) for name in wanted.keys() - samples.keys()}  # silero's sampling rate

        def feed(name, sample):
            # A sample of a model whose sizes are all open comes in its own shape.
            return np.ascontiguousarray(sample.reshape(wanted[name]) if sample.size == np.prod(wanted[name]) else sample)

        count = len(next(iter(samples.values())))
        return [{**{name: feed(name, array[i]) for name, array in samples.items()}, **constant} for i in range(count)]

    def build(self, case, scheme):
        if case.onnx is None:
            raise Refused("there is no float .onnx")
        path, about, seconds, command = case.onnx, {}, None, ""
        if scheme != "float":
            path = self.work / "out" / f"{case.name}-ort-{scheme.replace(' ', '-')}.onnx"
            path.parent.mkdir(parents=True, exist_ok=True)
            options = ONNX_STATIC[scheme]
            command = f"quantize_static(QDQ{''.join(f', {k}={v}' for k, v in options.items())})"
            with cached(path, [command, sha256(case.onnx), digest(case.calibrate), version("onnxruntime")], self.fresh) as record:
                if record is not None:
                    record.update(self.quantize(case, options, path))
            about = json.loads(path.with_suffix(".json").read_text())
            seconds = about.get("seconds")
            if "refused" in about:
                raise Refused(about["refused"])
        try:
            session = self.session(path)
            feeds = self.feeds(case, case.test, session)
            rows = [np.ravel(session.run(None, feed)[0]) for feed in feeds]
            if scheme != "float":
                simulated = self.session(path, integers=False)
                about["simulated"] = np.array([np.ravel(simulated.run(None, feed)[0]) for feed in feeds], np.float64)
        except Exception as error:  # ONNX Runtime's exceptions share no base but this
            raise Refused(f"its runtime: {first_line(error)}") from error
        binding = session.io_binding()
        for name, array in feeds[0].items():
            binding.bind_cpu_input(name, array)
        for output in session.get_outputs():
            binding.bind_output(output.name)
        speed = lambda s: median_us(lambda run=session.run_with_iobinding: run(binding), s)
        return Built(np.array(rows, np.float64), speed, path.stat().st_size, convert_seconds=seconds, command=command,
                     about={k: v for k, v in about.items() if k in ("note", "simulated")})

    def quantize(self, case, options, path):
        from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quant_pre_process, quantize_static

        class Reader(CalibrationDataReader):
            def __init__(self, feeds):
                self.feeds = iter(feeds)

            def get_next(self):
                return next(self.feeds, None)

        start, about = time.monotonic(), {}
        prepared = path.with_suffix(".prepared.onnx")
        feeds = self.feeds(case, case.calibrate, self.session(case.onnx))
        with silence():
            try:
                quant_pre_process(str(case.onnx), str(prepared))
            except Exception as error:  # it asserts and raises plain exceptions where shapes defeat it
                about["note"] = f"its pre-processing ran without symbolic shapes ({first_line(error)})"
                try:
                    quant_pre_process(str(case.onnx), str(prepared), skip_symbolic_shape=True)
                except Exception as error:
                    return {"refused": f"quant_pre_process: {first_line(error)}"}
            kinds = {"calibrate_method": CalibrationMethod, "activation_type": QuantType, "weight_type": QuantType}
            options = {k: kinds[k][v] if k in kinds else v for k, v in options.items()}
            try:
                quantize_static(str(prepared), str(path), Reader(feeds), quant_format=QuantFormat.QDQ, **options)
            except Exception as error:
                return {"refused": f"quantize_static: {first_line(error)}"}
            finally:
                prepared.unlink(missing_ok=True)
        return {**about, "seconds": time.monotonic() - start}


# --- LiteRT -----------------------------------------------------------------------------------------

# name → (recipe of ai_edge_quantizer.recipe, algorithm or None for its own choice)
LITERT = {
    "int8": ("static_wi8_ai8", None),
    "int8 MSE": ("static_wi8_ai8", "MSE"),
    "int8 OCTAV": ("static_wi8_ai8", "OCTAV"),
    "int16": ("static_wi8_ai16", None),
    "w8": ("weight_only_wi8_afp32", None),
    "dynamic int8": ("dynamic_wi8_afp32", None),
    "w4": ("weight_only_wi4_afp32", None),
    "dynamic int4, blocks of 32": ("dynamic_wi4b32_afp32", None),
}


class LiteRt:
    name = "LiteRT"
    schemes = ["float", *LITERT, "published int8"]

    def __init__(self, work, fresh):
        self.work, self.fresh = work, fresh

    def build(self, case, scheme):
        if scheme == "published int8":
            if case.reference_tflite is None:
                raise Refused("there is none")
            return self.built(case, case.reference_tflite, None, "int8.tflite as published with the model")
        if case.tflite is None:
            raise Refused("there is no float .tflite")
        if scheme == "float":
            return self.built(case, case.tflite, None, "")
        recipe, algorithm = LITERT[scheme]
        path = self.work / "out" / f"{case.name}-litert-{scheme.replace(' ', '-').replace(',', '')}.tflite"
        path.parent.mkdir(parents=True, exist_ok=True)
        command = f"ai_edge_quantizer recipe {recipe}" + (f", {algorithm}" if algorithm else "")
        with cached(path, [command, sha256(case.tflite), digest(case.calibrate), version("ai-edge-quantizer")], self.fresh) as record:
            if record is not None:
                record.update(self.quantize(case, recipe, algorithm, path))
        about = json.loads(path.with_suffix(".json").read_text())
        if "refused" in about:
            raise Refused(about["refused"])
        return self.built(case, path, about["seconds"], command)

    def quantize(self, case, recipe, algorithm, path):
        from ai_edge_quantizer import quantizer, recipe as recipes
        from ai_edge_quantizer.algorithm_manager import AlgorithmName

        start = time.monotonic()
        arguments = {"algorithm_key": AlgorithmName[algorithm]} if algorithm else {}
        with silence():
            try:
                prepared = path.with_suffix(".prepared.tflite")
                names = prepare_tflite(case.tflite, prepared)
                made = quantizer.Quantizer(str(prepared), getattr(recipes, recipe)(**arguments))
                found = None
                if made.need_calibration:
                    details = self.interpreter(prepared).get_input_details()
                    shapes = {d["name"]: d["shape"] for d in details}
                    samples = named(case.calibrate, [d["name"] for d in details])
                    count = len(next(iter(samples.values())))
                    found = made.calibrate({"serving_default": [
                        {names[n]: a[i].reshape(shapes[n]) for n, a in samples.items()} for i in range(count)]}, num_threads=1)
                path.write_bytes(made.quantize(found, enable_progress_report=False).quantized_model)
            except Exception as error:  # the quantizer's exceptions share no base but this
                return {"refused": f"{type(error).__name__}: {first_line(error)}"}
            finally:
                prepared.unlink(missing_ok=True)
        return {"seconds": time.monotonic() - start}

    def interpreter(self, path):
        from ai_edge_litert.interpreter import Interpreter

        with silence():
            interpreter = Interpreter(str(path), num_threads=1)
            interpreter.allocate_tensors()
        return interpreter

    def built(self, case, path, seconds, command):
        try:
            interpreter = self.interpreter(path)
            inputs, output = interpreter.get_input_details(), interpreter.get_output_details()[0]
            samples = named(case.test, [d["name"] for d in inputs])
            rows = []
            for i in range(len(next(iter(samples.values())))):
                interpreter.reset_all_variables()
                for details in inputs:
                    interpreter.set_tensor(details["index"], quantized(samples[details["name"]][i], details))
                interpreter.invoke()
                rows.append(real(interpreter.get_tensor(output["index"]), output).ravel())
        except Exception as error:  # ValueError and RuntimeError of its C++ side
            raise Refused(f"its runtime: {first_line(error)}") from error
        speed = lambda s: median_us(interpreter.invoke, s)
        return Built(np.array(rows, np.float64), speed, path.stat().st_size, convert_seconds=seconds, command=command)


def named(samples, names):
    """Arrays under a .tflite's own input names: models of one input are what has both forms here."""
    if len(samples) != 1 or len(names) != 1:
        raise Refused("a .tflite with several inputs")
    return dict(zip(names, samples.values()))


def quantized(sample, details):
    sample = sample.reshape(details["shape"])
    scale, zero_point = details["quantization"]
    if scale == 0 or details["dtype"] == np.float32:
        return sample.astype(details["dtype"])
    limits = np.iinfo(details["dtype"])
    return np.clip(np.round(sample / scale) + zero_point, limits.min, limits.max).astype(details["dtype"])


def real(values, details):
    scale, zero_point = details["quantization"]
    return values.astype(np.float64) if scale == 0 else (values.astype(np.float64) - zero_point) * scale


def prepare_tflite(source, out):
    """Gives the quantizer what it needs of an older file: operator codes in the newer field too, and a signature.
    Returns tensor name → name in the signature."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(source))
    graph = model.subgraphs[0]
    for code in model.operatorCodes:
        code.builtinCode = max(code.builtinCode, code.deprecatedBuiltinCode)
    text = lambda name: name.decode() if isinstance(name, bytes) else name
    if model.signatureDefs:
        signature = model.signatureDefs[0]
        signature.signatureKey = b"serving_default"
    else:
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
        entries = []
        for indices, prefix in ((graph.inputs, "input"), (graph.outputs, "output")):
            maps = []
            for number, index in enumerate(indices):
                entry = schema.TensorMapT()
                entry.name, entry.tensorIndex = f"{prefix}_{number}".encode(), int(index)
                maps.append(entry)
            entries.append(maps)
        signature.inputs, signature.outputs = entries
        model.signatureDefs = [signature]
    flatbuffer_utils.write_model(model, str(out))
    return {text(graph.tensors[entry.tensorIndex].name): text(entry.name) for entry in signature.inputs}


SAME_MODEL = 1e-3  # of probabilities or, for a reconstruction, of its range: two runtimes' float rounding


def same_model(case, tflite, onnxruntime, litert):
    """Whether a .tflite computes what float.onnx does, on the calibration samples; a softmax at its end may be missing in one."""
    few = dataclasses.replace(case, tflite=tflite, test={name: array[:32] for name, array in case.calibrate.items()})
    ours, theirs = onnxruntime.build(few, "float").outputs, litert.build(few, "float").outputs
    if ours.shape != theirs.shape:
        return False

    def softmax(x):
        e = np.exp(x - x.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    is_probability = lambda x: (x >= 0).all() and np.allclose(x.sum(1), 1, atol=1e-3)
    if is_probability(ours) != is_probability(theirs):
        ours, theirs = (x if is_probability(x) else softmax(x) for x in (ours, theirs))
    return np.abs(ours - theirs).max() <= SAME_MODEL * max(1.0, np.ptp(ours))


def float_tflite(case, onnxruntime, litert):
    """(path, note): the case's float.tflite if it is the same model as float.onnx. KWS's and AD's aren't (KWS's stores
    half of its weights as i8): the layers then get the weights and biases of float.onnx, which has to make it the same."""
    if case.onnx is None or same_model(case, case.tflite, onnxruntime, litert):
        return case.tflite, None
    out = litert.work / "models" / f"{case.name}-float.tflite"
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        from transplant import transplant

        with silence():
            transplant(case.onnx, case.tflite, out, litert.work)
        if same_model(case, out, onnxruntime, litert):
            return out, ("the published float.tflite has other weights than float.onnx; LiteRT got a copy with those of float.onnx, "
                         "which gives the same outputs")
    except (ValueError, KeyError, Refused):
        pass
    return None, "no LiteRT: the published float.tflite is another model than float.onnx"


# --- caching ----------------------------------------------------------------------------------------


def version(package):
    from importlib.metadata import version as of

    return f"{package} {of(package)}"


def digest(arrays):
    return hashlib.sha256(b"".join(name.encode() + array.tobytes() for name, array in sorted(arrays.items()))).hexdigest()


@contextlib.contextmanager
def cached(path, parts, fresh):
    """Yields None where `path` was made from the same parts, else a record to fill that is kept beside it."""
    stamp = path.with_suffix(".json")
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    if not fresh and stamp.exists() and json.loads(stamp.read_text()).get("key") == key:
        yield None
        return
    record = {"key": key}
    yield record
    stamp.write_text(json.dumps(record) + "\n")
