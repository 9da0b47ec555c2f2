"""Whit beside LiteRT (XNNPACK) and ONNX Runtime: one thread, batch 1, the MLPerf Tiny models.

    benches/peers/setup.sh
    target/peers-venv/bin/python benches/peers/run.py --whit target/release/whit [--float] [--json OUT.json]

Without --whit only the peers are measured. Engines take turns (A B A B …) for --rounds rounds of
--seconds each, so that a slow minute of the machine hits all of them. A round gives the median of
its runs; the table shows the median, the lowest and the highest of the rounds' medians.

The peers are called from Python, Whit measures itself. What a Python call costs is measured too:
`empty` is a method that does nothing, `tiny` is the peer on a model of one Relu on one number, so
tiny is the most that the harness can add (it includes the peer's own work per call). `ratio` is
Whit / peer as measured; `net` is Whit / (peer − tiny), which favours the peer.
"""

import argparse
import gc
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

import tiny

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = ["ad", "kws", "ic", "vww", "sww"]
WARM_UP_RUNS = 50
MIN_RUNS = 100  # a median of fewer says little


class NoResult(Exception):
    """Why an engine has no number for a model."""


def median_us(call, seconds):
    """The median time of `call` in µs, over at least MIN_RUNS runs and `seconds`."""
    for _ in range(WARM_UP_RUNS):
        call()
    clock, times = time.perf_counter_ns, []
    gc.collect()
    gc.disable()
    end = clock() + int(seconds * 1e9)
    while len(times) < MIN_RUNS or clock() < end:
        start = clock()
        call()
        times.append(clock() - start)
    gc.enable()
    return statistics.median(times) / 1e3


def first_sample(folder):
    data = np.load(folder / "calib.npz")
    return data[next(n for n in data.files if n != "labels")][:1]


def litert(model, sample):
    """The bound `invoke` of a LiteRT interpreter with its default delegate (XNNPACK)."""
    from ai_edge_litert.interpreter import Interpreter

    if isinstance(model, bytes):
        interpreter = Interpreter(model_content=model, num_threads=1)
    elif model.exists():
        interpreter = Interpreter(str(model), num_threads=1)
    else:
        raise NoResult(f"no {model.name}")
    interpreter.allocate_tensors()
    details = interpreter.get_input_details()[0]
    scale, zero_point = details["quantization"]
    if details["dtype"] != np.float32:
        limits = np.iinfo(details["dtype"])
        sample = np.clip(np.round(sample / scale) + zero_point, limits.min, limits.max)
    interpreter.set_tensor(details["index"], sample.reshape(details["shape"]).astype(details["dtype"]))
    return interpreter.invoke


def onnxruntime(model, sample):
    """A run of ONNX Runtime with inputs and outputs bound beforehand."""
    import onnxruntime as ort

    if not isinstance(model, bytes) and not model.exists():
        raise NoResult(f"no {model.name}")
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"])
    wanted = session.get_inputs()[0]
    shape = [n if isinstance(n, int) else 1 for n in wanted.shape]
    binding = session.io_binding()
    binding.bind_cpu_input(wanted.name, np.ascontiguousarray(sample.reshape(shape), dtype=np.float32))
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return lambda run=session.run_with_iobinding: run(binding)


class Whit:
    """Converts with the tool and lets it measure itself."""

    def __init__(self, binary, quantize, temp):
        self.binary, self.quantize, self.temp = str(binary), quantize, pathlib.Path(temp)

    def run(self, *args):
        result = subprocess.run([self.binary, *map(str, args)], capture_output=True, text=True)
        if result.returncode != 0:
            lines = result.stderr.strip().splitlines() or [f"exit {result.returncode}"]
            raise NoResult(lines[0])
        return result.stdout

    def prepare(self, folder):
        out = self.temp / f"{folder.name}-{self.quantize}.whit"
        calibrate = [] if self.quantize == "none" else ["--calibrate", folder / "calib.npz"]
        self.run("convert", folder / "float.onnx", "--quantize", self.quantize, *calibrate, "-o", out)
        return out

    def median_us(self, file, seconds):
        out = self.run("bench", file, "--threads", 1, "--seconds", seconds, "--json")
        try:
            return float(json.loads(out)["latency_us"]["p50"])
        except (ValueError, KeyError, TypeError) as e:
            raise NoResult(f"bench --json: {e!r}") from e


def machine():
    cpu, features = platform.processor() or platform.machine(), []
    try:
        for line in open("/proc/cpuinfo"):
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                cpu = value.strip()
            elif key.strip() in ("flags", "Features"):
                names = ("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "asimddp", "i8mm")
                features = [n for n in names if n in value.split()]
                break
    except OSError:
        pass
    return {"cpu": cpu, "features": features, "cores": os.cpu_count(), "system": platform.platform()}


def versions():
    from importlib.metadata import version
    return {name: version(name) for name in ("ai-edge-litert", "onnxruntime", "numpy")}


def overheads(seconds, rounds):
    """What a call costs without a model, and with the smallest one, in µs: the lowest of the rounds' medians."""
    class Nothing:
        def invoke(self):
            pass

    one = np.ones((1,), np.float32)
    calls = {
        "empty": Nothing().invoke,
        "litert": litert(tiny.tflite(), one),
        "onnxruntime": onnxruntime(tiny.onnx(), one),
    }
    return {name: min(median_us(call, seconds / 4) for _ in range(rounds)) for name, call in calls.items()}


def measure(args, temp):
    """[{model, engines: {name: {medians_us} or {missing}}}], engines taking turns."""
    onnx, tflite, quantize = (
        ("float.onnx", "float.tflite", "none") if args.float else ("qdq.onnx", "int8.tflite", "int8"))
    whit = Whit(args.whit, quantize, temp) if args.whit else None
    rows = []
    for name in args.models.split(","):
        folder = args.data / name
        sample, calls, missing = first_sample(folder), {}, {}

        def add(engine, prepare):
            try:
                calls[engine] = prepare()
            except (NoResult, ValueError, RuntimeError) as e:
                missing[engine] = str(e)

        def add_whit():
            file = whit.prepare(folder)
            return lambda: whit.median_us(file, args.seconds)

        def add_peer(prepare, model):
            call = prepare(folder / model, sample)
            return lambda: median_us(call, args.seconds)

        if whit:
            add("whit", add_whit)
        add("litert", lambda: add_peer(litert, tflite))
        if args.float or args.qdq:
            add("onnxruntime", lambda: add_peer(onnxruntime, onnx))
        medians = {engine: [] for engine in calls}
        for turn in range(args.rounds):
            for engine in list(calls):
                if sys.stderr.isatty():
                    print(f"\r{name} {turn + 1}/{args.rounds} {engine:12}", end="", file=sys.stderr)
                try:
                    medians[engine].append(calls[engine]())
                except NoResult as e:
                    missing[engine] = str(e)
                    del calls[engine], medians[engine]
        if sys.stderr.isatty():
            print("\r" + " " * 40 + "\r", end="", file=sys.stderr)
        engines = {engine: {"medians_us": values, "median_us": statistics.median(values),
                            "min_us": min(values), "max_us": max(values)}
                   for engine, values in medians.items()}
        engines |= {engine: {"missing": why} for engine, why in missing.items()}
        rows.append({"model": name, "engines": engines})
    return rows


def add_ratios(rows, overhead):
    for row in rows:
        whit = row["engines"].get("whit", {}).get("median_us")
        for engine, result in row["engines"].items():
            if whit and engine != "whit" and "median_us" in result:
                result["ratio"] = whit / result["median_us"]
                net = result["median_us"] - overhead[engine]
                result["ratio_net"] = whit / net if net > 0 else None


def table(rows):
    lines = [["model", "engine", "median µs", "min", "max", "ratio", "net"]]
    notes = []
    for row in rows:
        for engine, r in row["engines"].items():
            if "missing" in r:
                notes.append(f"{row['model']} {engine}: {r['missing']}")
                continue
            number = lambda v, digits=1: "–" if v is None else f"{v:.{digits}f}"
            lines.append([row["model"], engine, *(number(r[k]) for k in ("median_us", "min_us", "max_us")),
                          number(r.get("ratio"), 2), number(r.get("ratio_net"), 2)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ["  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths)))
            for line in lines]
    return "\n".join(text + notes)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whit", type=pathlib.Path, help="the whit binary; without it only peers run")
    parser.add_argument("--float", action="store_true", help="float models, with ONNX Runtime")
    parser.add_argument("--qdq", action="store_true", help="also ONNX Runtime on the int8 QDQ models")
    parser.add_argument("--data", type=pathlib.Path, default=ROOT.parent / "shared/models/mlperf-tiny")
    parser.add_argument("--models", default=",".join(MODELS), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="per engine, model and round")
    parser.add_argument("--cpu", type=int, help="pin everything to this core")
    parser.add_argument("--json", type=pathlib.Path, help="write every round's median here")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    if not args.data.is_dir():
        parser.error(f"{args.data} is not there; say where the models are with --data")
    if args.whit and not args.whit.is_file():
        parser.error(f"{args.whit} is not there; build it with cargo build --release")
    if args.cpu is not None:
        os.sched_setaffinity(0, {args.cpu})
    overhead = overheads(args.seconds, args.rounds)
    with tempfile.TemporaryDirectory() as temp:
        rows = measure(args, temp)
    add_ratios(rows, overhead)
    about = machine()
    kind = "float" if args.float else "int8"
    print(f"{about['cpu']} ({', '.join(about['features'])}), {kind}, 1 thread, batch 1, "
          f"{args.rounds} rounds of {args.seconds:g} s")
    print(f"µs per call without work: empty Python method {overhead['empty']:.2f}, LiteRT on a tiny model "
          f"{overhead['litert']:.2f}, ONNX Runtime on a tiny model {overhead['onnxruntime']:.2f}")
    print(table(rows))
    if args.json:
        result = {"machine": about, "versions": versions(), "kind": kind, "threads": 1, "batch": 1,
                  "rounds": args.rounds, "seconds": args.seconds, "overhead_us": overhead, "models": rows}
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
