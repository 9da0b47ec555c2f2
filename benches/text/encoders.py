#!/usr/bin/env python3
"""Runs a BERT encoder of sentences through Whit and through ONNX Runtime, from the same weights: agreement, and latencies in turns.

    pip install numpy onnx onnxruntime sympy tokenizers
    benches/text/encoders.py FOLDER TEXTS.txt [--whit target/release/whit] [--threads 1 2] [--batch 1 8] [--rounds 5]

FOLDER has model.safetensors, config.json and tokenizer.json. TEXTS.txt has a sentence a line: every fourth calibrates the quantized models,
the rest shows whether the engines agree: cosines of ONNX Runtime's vectors with Whit's (float), and of each engine's int8 with its own float model.

ONNX Runtime gets the graph that torch's exporter would write (bert_onnx.py), as it is and through `onnxruntime.transformers.optimizer`, which fuses
attention, GELU and layer norms; all of the session's graph optimizations are on. bf16 is Whit's beside its float models, as it has no other on
CPUs. int8 is `quantize_dynamic` of both graphs with
weights per tensor and per channel, and `quantize_static` (QDQ). The fastest of each kind counts. Time is from inputs to outputs, in a process
for Whit (`whit bench`) and in this one for ONNX Runtime, medians of a turn, then of the rounds.
"""

import argparse
import collections
import json
import pathlib
import statistics
import tempfile
import time

import numpy as np
import onnx
import onnxruntime as ort
from bert_onnx import build
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions
from tokenizers import Tokenizer
from tool import whit

TURN_S = 1.0
PAUSE_S = 0.1  # ONNX Runtime's threads spin for a while after a run
MIN_COSINE = {"float": 0.9999, "int8": 0.95}


class Texts(CalibrationDataReader):
    """Sentences as inputs of ONNX Runtime, one at a time."""

    def __init__(self, tokenizer, texts):
        self.rows = []
        for text in texts:
            ids = np.array([tokenizer.encode(text).ids], np.int64)
            self.rows.append({"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)})
        self.rest = iter(self.rows)

    def get_next(self):
        return next(self.rest, None)


def session(path, threads):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def models_of_ort(args, calibration, folder):
    """Files by kind and name."""
    found = {"float": {}, "int8": {}}
    exported = folder / "exported.onnx"
    onnx.save(build(args.folder), exported)
    found["float"]["as exported"] = exported
    config = json.loads((args.folder / "config.json").read_text())
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    options = FusionOptions("bert")
    better = optimizer.optimize_model(str(exported), "bert", num_heads=heads, hidden_size=hidden, opt_level=0, optimization_options=options)
    counts = collections.Counter(node.op_type for node in better.model.graph.node)
    print("transformer optimizer:", ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
    fused = folder / "fused.onnx"
    better.save_model_to_file(str(fused))
    found["float"]["fused"] = fused
    for name in ("as exported", "fused"):
        for per_channel in (False, True):
            label = f"dynamic, {name}{', per channel' if per_channel else ''}"
            path = folder / (label.replace(", ", "-").replace(" ", "-") + ".onnx")
            # Shapes aren't inferred through fused operators.
            extra = {"DefaultTensorType": onnx.TensorProto.FLOAT}
            quantize_dynamic(found["float"][name], path, per_channel=per_channel, weight_type=QuantType.QInt8, extra_options=extra)
            found["int8"][label] = path
    prepared = folder / "prepared.onnx"
    quant_pre_process(exported, prepared, skip_symbolic_shape=True)
    path = folder / "static.onnx"
    quantize_static(
        prepared, path, calibration, quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gather"],
    )
    found["int8"]["static"] = path
    return found


def models_of_whit(args, calibration, folder):
    lines = folder / "calibration.txt"
    lines.write_text("\n".join(calibration) + "\n")
    found = {kind: {"Whit": folder / f"{kind}.whit"} for kind in ("float", "bf16", "int8")}
    whit(args, "convert", args.folder, "-o", found["float"]["Whit"])
    whit(args, "convert", args.folder, "-o", found["bf16"]["Whit"], "--quantize", "bf16")
    whit(args, "convert", args.folder, "-o", found["int8"]["Whit"], "--quantize", "int8", "--calibrate", lines, *args.convert.split())
    return found


def vectors_of_whit(args, model, texts, folder):
    (folder / "texts.txt").write_text("\n".join(texts) + "\n")
    whit(args, "embed", model, "--file", folder / "texts.txt", "--output", folder / "vectors.npy")
    vectors = np.load(folder / "vectors.npy")
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def vectors_of_ort(path, rows):
    run = session(path, 1)
    return np.concatenate([run.run(None, row)[0] for row in rows])


def agreement(args, ours, theirs, texts, rows, folder):
    """Prints cosines, and forgets models of ONNX Runtime that are too far from the float model to count."""
    reference = {"Whit": vectors_of_whit(args, ours["float"]["Whit"], texts, folder)}
    reference["ONNX Runtime"] = vectors_of_ort(theirs["float"]["as exported"], rows)
    print("| | | cosine, mean | least |\n|---|---|---:|---:|")
    for kind in ("float", "int8"):
        for name, path in list(theirs[kind].items()):
            cosines = (vectors_of_ort(path, rows) * reference["Whit" if kind == "float" else "ONNX Runtime"]).sum(1)
            print(f"| ONNX Runtime | {kind}, {name} | {cosines.mean():.6f} | {cosines.min():.6f} |", flush=True)
            if cosines.mean() < MIN_COSINE[kind]:
                print(f"{name} is too far from the float model, so that its time doesn't count")
                del theirs[kind][name]
    for kind in ("bf16", "int8"):
        cosines = (vectors_of_whit(args, ours[kind]["Whit"], texts, folder) * reference["Whit"]).sum(1)
        print(f"| Whit | {kind} | {cosines.mean():.6f} | {cosines.min():.6f} |", flush=True)


def turn_of_ort(run, inputs):
    times, end = [], time.perf_counter() + TURN_S
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        run.run(None, inputs)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def turn_of_whit(args, model, threads, batch):
    time.sleep(PAUSE_S)
    options = ["--seconds", TURN_S, "--threads", threads, "--dim", f"batch={batch}", "--dim", f"seq={args.tokens}", "--json"]
    return json.loads(whit(args, "bench", model, *options))["latency_us"]["p50"] / 1e3


def latencies(args, ours, theirs, kind, threads, batch):
    """Medians in ms by name, Whit's first."""
    shape = (batch, args.tokens)
    ids = np.random.default_rng(0).integers(1000, 20000, shape)
    inputs = {"input_ids": ids, "attention_mask": np.ones(shape, np.int64), "token_type_ids": np.zeros(shape, np.int64)}
    models = theirs["float" if kind == "bf16" else kind]
    sessions = {name: session(path, threads) for name, path in models.items()}
    for run in sessions.values():
        run.run(None, inputs)
    found = collections.defaultdict(list)
    for _ in range(args.rounds):
        found["Whit"].append(turn_of_whit(args, ours[kind]["Whit"], threads, batch))
        for name, run in sessions.items():
            found[name].append(turn_of_ort(run, inputs))
    return {name: statistics.median(times) for name, times in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("texts", type=pathlib.Path)
    parser.add_argument("--whit", default="target/release/whit")
    parser.add_argument("--convert", default="", help="further options of whit convert for int8")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=["float", "bf16", "int8"], default=["float", "bf16", "int8"])
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(args.folder / "tokenizer.json"))
    tokenizer.no_padding()
    lines = [line for line in args.texts.read_text().splitlines() if line.strip()]
    calibration = lines[::4]
    texts = [line for at, line in enumerate(lines) if at % 4]
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        theirs = models_of_ort(args, Texts(tokenizer, calibration), folder)
        ours = models_of_whit(args, calibration, folder)
        agreement(args, ours, theirs, texts, Texts(tokenizer, texts).rows, folder)
        print(f"\n| ms of {args.tokens} tokens | threads | batch | Whit | ONNX Runtime | its model | Whit ÷ ONNX Runtime |")
        print("|---|---:|---:|---:|---:|---|---:|")
        others = []
        for kind in args.only:
            for threads in args.threads:
                for batch in args.batch:
                    found = latencies(args, ours, theirs, kind, threads, batch)
                    whits = found.pop("Whit")
                    best = min(found, key=found.get)
                    row = [kind, threads, batch, f"{whits:.2f}", f"{found[best]:.2f}", best, f"{whits / found[best]:.2f}"]
                    print("|", " | ".join(map(str, row)), "|", flush=True)
                    others += [f"{kind}, {threads} threads, batch {batch}, {name}: {ms:.2f} ms" for name, ms in found.items()]
        print("\nall of ONNX Runtime's models:", *others, sep="\n  ")


main()
