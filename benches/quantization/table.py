#!/usr/bin/env python3
"""The table of docs/quantization.md: every model with labels × every scheme, beside ONNX Runtime's and LiteRT's quantizers.

    python3 benches/quantization/table.py --whit target/release/whit --models ../shared/models --work target/quantization \\
        --json target/quantization/table.json --write docs/quantization.md

The first run makes a virtual environment in the work folder (--venv for another place) with the packages in
requirements.txt (torch among them, some gigabytes) and trains three small models. Later runs take both, and what
engines made from the same files with the same options, from there; --fresh makes quantized models anew.

    --only REGEX        only models whose name matches; with --json FILE the others in FILE stay as they were
    --schemes REGEX     only schemes whose "engine scheme" matches, e.g. "Whit (float|int8)"
    --render FILE       writes the document from an earlier --json, measuring nothing

Everything runs on one thread. The engines take turns for --rounds rounds of --seconds each; a time is the median
of the rounds' medians.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NEEDED = ["numpy", "onnxruntime", "onnx", "ai_edge_litert", "ai_edge_quantizer", "sklearn", "torch", "soundfile"]


def own_environment(folder):
    """Runs this script again in a virtual environment that has what it needs, if this one hasn't."""
    import importlib.util

    if all(importlib.util.find_spec(name) for name in NEEDED):
        return
    python = folder / "bin" / "python"
    if os.environ.get("WHIT_QUANTIZATION_VENV"):
        missing = [name for name in NEEDED if not importlib.util.find_spec(name)]
        sys.exit(f"{folder} lacks {', '.join(missing)}; delete it to have it made anew")
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        print(f"installing requirements.txt into {folder}", file=sys.stderr)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(HERE / "requirements.txt")], check=True)
    os.environ["WHIT_QUANTIZATION_VENV"] = "1"
    os.execv(python, [str(python), str(pathlib.Path(__file__).resolve()), *sys.argv[1:]])


def float_outputs(case, engines):
    """The reference: ONNX Runtime's outputs of the float model, LiteRT's where there is only a .tflite."""
    engine = engines["ONNX Runtime"] if case.onnx else engines["LiteRT"]
    return engine.name, engine.build(case, "float").outputs


def measure_model(case, engines, wanted, args):
    import numpy as np

    from engines import Refused, float_tflite
    from figures import measure
    from models import SEED

    if case.tflite is not None:
        published = case.tflite
        case.tflite, note = float_tflite(case, engines["ONNX Runtime"], engines["LiteRT"])
        case.notes += [note] if note else []
    else:
        published = None
    source, reference = float_outputs(case, engines)
    rows, speeds = [], {}
    for engine in engines.values():
        # LiteRT's float model may end in a softmax where the .onnx doesn't: each peer is held against its own.
        try:
            own = engine.build(case, "float").outputs if engine.name != "Whit" else reference
        except Refused:
            own = reference
        for scheme in engine.schemes:
            if not wanted(engine.name, scheme):
                continue
            against = own
            if scheme == "published int8" and published not in (None, case.tflite):
                against = engine.build(dataclasses.replace(case, tflite=published), "float").outputs
            row = {"engine": engine.name, "scheme": scheme}
            rows.append(row)
            if sys.stderr.isatty():
                print(f"\r{case.name}: {engine.name} {scheme:30}", end="", file=sys.stderr)
            try:
                built = engine.build(case, scheme)
                if built.outputs.shape != against.shape:
                    raise Refused(f"its output has shape {built.outputs.shape[1:]} instead of {against.shape[1:]}")
                searched = engine.name == "Whit" and scheme.startswith("auto")
                row |= measure(case, built.outputs, against, case.held_out if searched else None, SEED)
                if "simulated" in built.about:
                    row["simulated"] = measure(case, built.about.pop("simulated"), against, None, SEED)
                row |= {k: getattr(built, k) for k in ("file_bytes", "weight_bytes", "arena_bytes", "convert_seconds", "command")} | built.about
                if case.held_out is not None and not searched:
                    row["held_out"] = measure(case, built.outputs, against, case.held_out, SEED)
                if engine.name == "Whit" and scheme == "float":
                    row["float_check"] = check_float(case, engine, built.outputs, reference)
                speeds[len(rows) - 1] = built.median_us
            except Refused as error:
                row["refused"] = str(error)
    medians = {index: [] for index in speeds}
    for turn in range(args.rounds):
        for index, speed in speeds.items():
            if sys.stderr.isatty():
                print(f"\r{case.name}: timing {turn + 1}/{args.rounds} {rows[index]['engine']} {rows[index]['scheme']:30}", end="", file=sys.stderr)
            medians[index].append(speed(args.seconds))
    for index, values in medians.items():
        rows[index] |= {"median_us": statistics.median(values), "medians_us": values}
    if sys.stderr.isatty():
        print("\r" + " " * 70 + "\r", end="", file=sys.stderr)
    return {"model": case.name, "task": case.task, "notes": case.notes, "target": case.target, "expected": case.expected, "reference": source,
            "samples": len(reference), "calibration_samples": len(next(iter(case.calibrate.values()))), "rows": rows}


def check_float(case, engine, outputs, reference):
    """Whit's float program beside the reference, and `whit eval` beside our own count."""
    import numpy as np

    from figures import answers

    check = {"max_error": float(np.abs(outputs - reference).max() / ((reference.max() - reference.min()) or 1.0)),
             "different_answers": int((answers(outputs) != answers(reference)).sum()) if case.task != "reconstruct" else 0}
    if case.task == "classify":
        report = engine.evaluate(case, "float")
        check["whit_eval"] = 100 * find_accuracy(report)
        check["counted"] = 100 * float((answers(outputs) == case.labels).mean())
    return check


def find_accuracy(report):
    """`accuracy` in the report of `whit eval --json`, at whatever depth."""
    found = []

    def walk(node):
        if isinstance(node, dict):
            if "accuracy" in node:
                value = node["accuracy"]
                found.append(value.get("value", value.get("mean")) if isinstance(value, dict) else value)
            for child in node.values():
                walk(child)

    walk(report)
    return float(found[0])


def complaints(model):
    """What shouldn't be: float figures that disagree."""
    for row in model["rows"]:
        check = row.get("float_check")
        if check is None:
            continue
        if check["different_answers"] or check["max_error"] > 1e-4:
            yield f"Whit's float differs from {model['reference']}: {check}"
        if "whit_eval" in check and abs(check["whit_eval"] - check["counted"]) > 1e-3:
            yield f"`whit eval` says {check['whit_eval']:.3f} where {check['counted']:.3f} was counted"
        if model["expected"] is not None and abs(row["value"] - model["expected"]) > 1e-3:
            yield f"float reaches {row['value']:.3f}, expected {model['expected']:.3f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whit", type=pathlib.Path, default=ROOT / "target/release/whit")
    parser.add_argument("--models", type=pathlib.Path, default=ROOT.parent / "shared/models")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "target/quantization", help="trained models, quantized models, the environment")
    parser.add_argument("--venv", type=pathlib.Path, help="default: venv in the work folder")
    parser.add_argument("--only", default="", metavar="REGEX")
    parser.add_argument("--schemes", default="", metavar="REGEX")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.2, help="per engine, scheme and round")
    parser.add_argument("--time-limit", type=int, default=30, metavar="SECONDS", help="of each search")
    parser.add_argument("--cpu", type=int, help="pin everything to this core")
    parser.add_argument("--fresh", action="store_true", help="quantize again what is there from an earlier run")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--write", type=pathlib.Path, metavar="FILE.md")
    parser.add_argument("--render", type=pathlib.Path, metavar="FILE.json")
    args = parser.parse_args()
    if args.render:
        import report

        text = report.render(json.loads(args.render.read_text()))
        report.write(args.write, text) if args.write else print(text)
        return 0
    if not args.whit.is_file():
        parser.error(f"{args.whit} is not there; build it with cargo build --release")
    if not args.models.is_dir():
        parser.error(f"{args.models} is not there; say where the models are with --models")
    own_environment((args.venv or args.work / "venv").resolve())

    import engines as kinds
    import models
    import report

    if args.cpu is not None:
        os.sched_setaffinity(0, {args.cpu})
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    args.json, args.write = (path and path.resolve() for path in (args.json, args.write))
    binary, root = args.whit.resolve(), args.models.resolve()
    os.chdir(work)  # ONNX Runtime's tools leave files where they run
    engines = {e.name: e for e in (kinds.Whit(binary, work, args.time_limit, args.fresh), kinds.OnnxRuntime(work, args.fresh), kinds.LiteRt(work, args.fresh))}
    wanted = lambda engine, scheme: re.search(args.schemes, f"{engine} {scheme}")
    result = {"models": []}
    if args.json and args.json.exists() and (args.only or args.schemes):
        result = json.loads(args.json.read_text())
    result |= {"machine": kinds.machine(), "whit": engines["Whit"].run("--version").strip(), "rounds": args.rounds, "seconds": args.seconds,
               "time_limit": args.time_limit,
               "versions": [kinds.version(p) for p in ("onnxruntime", "ai-edge-litert", "ai-edge-quantizer", "litert-torch", "torch", "scikit-learn", "numpy")]}
    wrong, order = 0, []
    for name, make in models.makers(root, work).items():
        order.append(name)
        if not re.search(args.only, name):
            continue
        start = time.monotonic()
        try:
            model = measure_model(make(), engines, wanted, args)
        except (models.Skipped, kinds.Refused) as reason:
            print(f"{name}: skipped, {reason}", file=sys.stderr)
            model = {"model": name, "skipped": str(reason), "rows": [], "notes": []}
        else:
            model["seconds"] = time.monotonic() - start
            for complaint in complaints(model):
                wrong += 1
                print(f"{name}: {complaint}", file=sys.stderr)
            print(report.plain(model), flush=True)
        old = next((m for m in result["models"] if m["model"] == name), None)
        if old and args.schemes:
            measured = {(r["engine"], r["scheme"]) for r in model["rows"]}
            model["rows"] += [r for r in old["rows"] if (r["engine"], r["scheme"]) not in measured]
            places = [(e.name, s) for e in engines.values() for s in e.schemes]
            model["rows"] = sorted((r for r in model["rows"] if (r["engine"], r["scheme"]) in places),
                                   key=lambda r: places.index((r["engine"], r["scheme"])))
        result["models"] = [m for m in result["models"] if m["model"] != name] + [model]
        if args.json:
            result["models"].sort(key=lambda m: order.index(m["model"]) if m["model"] in order else len(order))
            args.json.write_text(json.dumps(result, indent=1) + "\n")
    if args.write:
        report.write(args.write, report.render(result))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
