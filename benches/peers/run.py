"""Whit beside LiteRT, ONNX Runtime, OpenVINO, tract, rten and candle: the same models, the same inputs, taking turns.

`run.sh` installs and builds what this takes, and calls it. Every runtime with a model is a process of its own that
loads the model once and then runs it when asked; it measures inside, so that neither the start of a process nor
the pipe counts, and is stopped (SIGSTOP) while another one measures. A round asks every runtime once, in an
order drawn anew (from --seed). What a round gives is the median of its runs; tables show the median of the rounds.

Outputs are compared over some samples before anything is measured, and a runtime whose outputs differ stands in no
ratio; its time is in the notes.
Cold start is from opening the file to the end of the first run, in a fresh process whose libraries are loaded, the
file in the page cache; memory is what that adds to the resident memory of the process, at its peak.
"""

import argparse
import contextlib
import datetime
import itertools
import json
import os
import pathlib
import random
import statistics
import sys
import tempfile
import time
import zlib

import build
import cases
import figures
import machine
import plot
import report
import tiny
from cases import KINDS, ROOT, RUNTIMES, NoResult
from processes import Process, write_inputs

MIN_RUNS = 3
MAX_RUNS = 20_000
IDLE_CPU = 0.05  # of a process in others' turns; more is remarked


def measure_case(case, options, work):
    """A row of results: latency, cold start, memory by runtime, or why there are none."""
    row = {"model": case.model, "kind": case.kind, "remarks": case.remarks, "runtimes": {}}
    results = row["runtimes"]
    with tempfile.TemporaryDirectory(dir=work) as folder:
        inputs = write_inputs(case, folder)
        for runtime in options.runtimes:
            file = case.files.get(runtime)
            why = case.missing.get(runtime, "no file for it")
            results[runtime] = {"file": file.name, "latency": {}} if file else {"missing": why}
        for threads in options.threads:
            with contextlib.ExitStack() as stack:
                running = start(case, threads, options, inputs, results, stack)
                compare(case, running, results)
                for name, times in take_turns(case, threads, running, options).items():
                    results[name]["latency"][str(threads)] = figures.summary(times)
        for _ in range(options.cold - 1):
            for runtime, result in shuffled(list(results.items()), case.model, case.kind, "cold"):
                if "cold" in result:
                    with Process(runtime, case, options.threads[0], options.runner, inputs) as process:
                        note_cold(process, result)
    for result in results.values():
        if "cold" in result:
            cold = result.pop("cold")
            result["cold_us"] = statistics.median(cold["us"])
            result["memory_bytes"] = int(statistics.median(cold["added_bytes"]))
            result["process_bytes"] = int(statistics.median(cold["peak_bytes"]))
    return row


def start(case, threads, options, inputs, results, stack):
    """The runtimes that load the model and run it once."""
    running = {}
    for runtime, result in results.items():
        if "missing" in result:
            continue
        try:
            process = Process(runtime, case, threads, options.runner, inputs)
        except NoResult as error:
            result["missing"] = str(error)
            continue
        running[runtime] = stack.enter_context(process)
        if threads == options.threads[0]:
            note_cold(process, result)
    return running


def note_cold(process, result):
    cold = result.setdefault("cold", {"us": [], "added_bytes": [], "peak_bytes": []})
    cold["us"].append(process.cold_us)
    cold["added_bytes"].append(process.peak_bytes - process.base_bytes)
    cold["peak_bytes"].append(process.peak_bytes)


def compare(case, running, results):
    """Marks the runtimes outside the largest group that agrees, with how they differ from it."""
    outputs = {}
    for name, process in list(running.items()):
        try:
            outputs[name] = process.outputs(len(case.inputs[0].values))
        except NoResult as error:
            results[name]["missing"] = str(error)
            running.pop(name)

    def difference(a, b):
        if case.kind == "float":
            return figures.float_difference(outputs[a], outputs[b])
        return figures.integer_difference(outputs[a], outputs[b], case.step, case.classifies)

    group = figures.agreeing(list(outputs), lambda a, b: difference(a, b)[0])
    for name in outputs:
        other = "whit" if "whit" in group and name != "whit" else next((n for n in group if n != name), None)
        if other is not None:
            results[name]["difference"] = {"from": other, "largest": difference(other, name)[1]}
            if name not in group:
                results[name]["differs"] = f"from {other}: {difference(other, name)[0]}"


def take_turns(case, threads, ready, options):
    """By runtime, the times of each round's runs in ns."""
    runs = {}
    for name, process in ready.items():
        once = statistics.median(process.run(1, MIN_RUNS))
        runs[name] = min(max(int(options.turn_ms * 1e6 / max(once, 1)), MIN_RUNS), MAX_RUNS)
    turns = {name: [] for name in ready}
    begin = time.monotonic()
    before = {name: (process.cpu_s(), process.own_s, process.own_cpu_s) for name, process in ready.items()}
    for turn in range(options.rounds):
        for name, process in shuffled(list(ready.items()), case.model, case.kind, threads, turn, options.seed):
            progress(f"{case.model} {case.kind} {threads} {turn + 1}/{options.rounds} {name}")
            turns[name].append(process.run(max(1, runs[name] // 10), runs[name]))
    wall = time.monotonic() - begin
    for name, process in ready.items():
        cpu, own, own_cpu = before[name]
        waited = wall - (process.own_s - own)
        idle = (process.cpu_s() - cpu - (process.own_cpu_s - own_cpu)) / waited if waited > 0 else 0.0
        if idle > IDLE_CPU:
            options.remarks.append(f"{name} on {case.model} ({case.kind}, {threads} threads) took {idle:.0%} of a CPU while it waited")
    progress("")
    return turns


def shuffled(items, *key):
    """In an order that only the key decides."""
    random.Random(zlib.crc32(repr(key).encode())).shuffle(items)
    return items


def progress(text):
    if sys.stderr.isatty():
        print(f"\r{text:72}", end="" if text else "\r", file=sys.stderr, flush=True)


def calls(options, work):
    """What a call from Python costs at most: a model of one Relu on one number, in µs."""
    import numpy as np

    found = {}
    for runtime in options.runtimes:
        make = {"litert": tiny.tflite, "onnxruntime": tiny.onnx, "openvino": tiny.onnx}.get(runtime)
        if make is None:
            continue
        file = work / f"tiny.{make.__name__}"
        file.write_bytes(make())
        case = cases.Case("tiny", "float", {runtime: file}, {}, [cases.Input("x", np.ones([1, 1], np.float32))])
        with tempfile.TemporaryDirectory(dir=work) as folder:
            with Process(runtime, case, 1, options.runner, write_inputs(case, folder)) as process:
                medians = [statistics.median(process.run(200, 2000)) for _ in range(5)]
                found[runtime] = round(min(medians) / 1e3, 3)
    return found


def parse():
    parser = argparse.ArgumentParser(prog="benches/peers/run.sh", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    listed = lambda text: [item for item in text.split(",") if item]
    parser.add_argument("--models", type=pathlib.Path, default=ROOT.parent / "shared/models",
                        help="folder of models, laid out as cases.py says (default: ../shared/models)")
    parser.add_argument("--onnx", type=pathlib.Path, nargs="+", default=[], metavar="FILE",
                        help="further ONNX models, run on random inputs")
    parser.add_argument("--only", type=listed, default=[], metavar="NAME,…", help="only these models")
    parser.add_argument("--kinds", type=listed, default=KINDS, help=f"of {','.join(KINDS)}")
    parser.add_argument("--runtimes", type=listed, default=RUNTIMES, help=f"of {','.join(RUNTIMES)}")
    parser.add_argument("--threads", type=lambda text: [int(n) for n in listed(text)], default=[1, 2])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--turn-ms", type=float, default=30, help="how long a runtime runs in its turn")
    parser.add_argument("--cold", type=int, default=3, help="fresh processes for cold start and memory")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path, help="where latest.json, .md and .svg go (default: target/peers/results)")
    parser.add_argument("--write", type=pathlib.Path, metavar="README.md", help="put the summary between its markers in this file")
    parser.add_argument("--render", type=pathlib.Path, metavar="JSON", help="tables and plot of an earlier run; measures nothing")
    parser.add_argument("--whit", type=pathlib.Path, metavar="FILE", help="a built tool, instead of building it")
    parser.add_argument("--runner", type=pathlib.Path, metavar="FILE", help="a built runner, instead of building it")
    options = parser.parse_args()
    for name, given, known in [("kinds", options.kinds, KINDS), ("runtimes", options.runtimes, RUNTIMES)]:
        if unknown := [item for item in given if item not in known]:
            parser.error(f"--{name}: {', '.join(unknown)} is not one of {', '.join(known)}")
    if options.rounds < 1 or options.cold < 1 or not options.threads or min(options.threads) < 1:
        parser.error("--rounds, --cold and --threads are at least 1")
    options.runtimes = [runtime for runtime in RUNTIMES if runtime in options.runtimes]
    options.kinds = [kind for kind in KINDS if kind in options.kinds]
    options.remarks, options.work = [], build.WORK / "models"
    return options


def prepared(options):
    """Cases one by one, as they are prepared."""
    found = cases.folders(options.models)
    if unknown := [name for name in options.only if name not in {folder.name for folder in found} | {cases.large_name(path) for path in options.onnx}]:
        sys.exit(f"--only: no model {', '.join(unknown)}")
    for folder, kind in itertools.product(found, options.kinds):
        if not options.only or folder.name in options.only:
            if case := cases.prepare(folder, kind, options.whit, options.work):
                yield case
    for path in options.onnx:
        if not options.only or cases.large_name(path) in options.only:
            yield cases.large(path, options.whit, options.work)


def measure(options):
    options.work.mkdir(parents=True, exist_ok=True)
    if not options.models.is_dir():
        print(f"{options.models} isn't there: only the repository's own model runs", file=sys.stderr)
    load_before, begin = os.getloadavg()[0], time.monotonic()
    result = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine.describe(),
        "versions": machine.versions(options.runtimes),
        "settings": {"threads": options.threads, "rounds": options.rounds, "turn_ms": options.turn_ms,
                     "cold": options.cold, "seed": options.seed, "runtimes": options.runtimes},
        "calls_us": calls(options, options.work),
        "models": [],
    }
    for case in prepared(options):
        row = measure_case(case, options, options.work)
        result["models"].append(row)
        print(report.line(row, options.threads, options.runtimes), flush=True)
    result["load"] = [load_before, os.getloadavg()[0]]
    result["seconds"] = round(time.monotonic() - begin)
    result["remarks"] = options.remarks
    return result


def main():
    options = parse()
    if options.render:
        result = json.loads(options.render.read_text())
    else:
        if not (options.whit and options.runner):
            options.whit, options.runner = build.build(options.runtimes)
        result = measure(options)
    if not result["models"]:
        sys.exit("nothing was measured")
    out = options.out or build.WORK / "results"
    out.mkdir(parents=True, exist_ok=True)
    (out / "latest.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "latest.md").write_text(report.document(result))
    plot.draw(result, out / "latest.svg")
    print(f"\n{report.summary(result)}\n\n{out}/latest.md has the tables, latest.svg the plot")
    if options.write:
        report.write_between_markers(options.write, report.section(result, out))


if __name__ == "__main__":
    main()
