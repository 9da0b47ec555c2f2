#!/usr/bin/env python3
"""Data and figures for firmware/test.sh: makes inputs, compares outputs, prints the tables.

    report.py samples INSPECT.json DATA.npz COUNT FOLDER   inputs.bin for boards, NAME.npy for `whit run`
    report.py compare FOLDER OUTPUTS.bin [--expected NPZ]  boards' outputs with the laptop's
    report.py device IMAGE FOLDER                          an application on netduinoplus2, over its serial port
    report.py table FOLDER [--write README.md]             the figures of all runs, beside the marks
"""

import argparse
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

# Executed instructions on Cortex-M4, bytes of arena and bytes of code and constants, at most.
MARKS = {
    "ad": {"instructions": 410_000, "arena": 3 * 1024, "code": 32 * 1024},
    "kws": {"instructions": 5_500_000, "arena": 20 * 1024, "code": 32 * 1024},
    "ic": {"instructions": 20_900_000, "arena": 50 * 1024, "code": 32 * 1024},
    "vww": {"instructions": 12_400_000, "arena": 55_296, "code": 32 * 1024},
    "sww": {"instructions": 1_560_000, "arena": 15 * 1024, "code": 32 * 1024},
}

# TensorFlow Lite Micro with CMSIS-NN, -O3, on QEMU's Cortex-M4: instructions, arena, code and
# constants without the model (int8 kernels only), stack. ../shared/models/README.md has them too.
TFLM = {
    "ad": (582_313, 2_580, 32_160, 852),
    "kws": (7_845_293, 22_820, 60_304, 1_172),
    "ic": (29_872_415, 54_996, 59_580, 1_172),
    "vww": (24_720_346, 100_708, 60_304, 1_172),
    "sww": (2_225_880, 16_596, 57_544, 1_120),
}

CORES = {
    "an385": "Cortex-M3", "an386": "Cortex-M4", "an500": "Cortex-M7", "an505": "Cortex-M33",
    "an547": "Cortex-M55", "microbit": "Cortex-M0",
}

BEGIN, END = "<!-- firmware/test.sh writes from here -->", "<!-- to here -->"


def samples(args):
    """Quantizes samples as the runtime's `set_input_f32` says: clamp(rint(x / scale) + zero point)."""
    inspected = json.loads(args.inspect.read_text())
    (info,) = inspected["inputs"]
    data = np.load(args.data)
    (key,) = [key for key in data.files if key not in ("labels", "label")]
    shape = [1 if size is None or not isinstance(size, int) else size for size in info["shape"]]
    rows = data[key][: args.count].astype(np.float32).reshape(-1, *shape[1:])
    args.folder.mkdir(parents=True, exist_ok=True)
    np.save(args.folder / "input.npy", rows)
    if info["scale"] is not None:
        quantized = np.rint(rows / np.float32(info["scale"])) + info["zero_point"]
        limits = np.iinfo({"i8": np.int8, "u8": np.uint8, "i16": np.int16}[info["type"]])
        rows = np.clip(quantized, limits.min, limits.max).astype(limits.dtype)
    rows.tofile(args.folder / "inputs.bin")
    print(info["name"])


def compare(args):
    """Fails unless the board's outputs are the laptop's, bit for bit; counts TFLite's that differ."""
    (file,) = args.folder.glob("laptop/*.npy")
    laptop = np.load(file)
    board = np.fromfile(args.outputs, dtype=np.uint8)
    expected = np.frombuffer(laptop.tobytes(), dtype=np.uint8)
    if board.size != expected.size:
        sys.exit(f"{args.outputs}: {board.size} bytes of outputs instead of {expected.size}")
    if (board != expected).any():
        vector = int(np.argmax(board != expected)) * len(laptop) // expected.size
        sys.exit(f"{args.outputs}: differs from the laptop's outputs from vector {vector} on")
    if args.expected:
        tflite = np.load(args.expected)["int8_tflite_reference"]
        if laptop.dtype == np.int8:
            ours = laptop.reshape(len(laptop), -1)[: len(tflite)].astype(int)
            tflite = tflite.reshape(len(tflite), -1)[: len(ours)].astype(int)
            difference = np.abs(ours - tflite)
            labels = int((ours.argmax(1) == tflite.argmax(1)).sum())
            print(f"tflite_values {difference.size}")
            print(f"tflite_different {int((difference > 0).sum())}")
            print(f"tflite_largest {int(difference.max())}")
            print(f"tflite_same_label {labels}")


def device(args):
    """Talks with the application on a board as a user does: status, self-test, an inference."""
    sample = np.fromfile(args.folder / "inputs.bin", dtype=np.uint8)
    (file,) = args.folder.glob("real/*.npy")
    expected = np.load(file)
    sample = sample[: sample.size // len(expected)].tobytes()
    commands = ["name", "status", "selftest", "nonsense", f"db load {len(sample)}"]
    commands += ["db " + sample[start : start + 64].hex() for start in range(0, len(sample), 64)]
    commands += ["infer 2 1"]
    # One line of m-ready when it starts, one for each command.
    answers = talk(args.image, commands, 1 + len(commands))
    for wanted in ["m-name-dut-[whit]", "m-status-[model=factory,", "m-selftest-[passed,cases=2,", "m-load-done",
                   "e-[Unknown command: nonsense]", "m-infer-done"]:
        if wanted not in answers:
            sys.exit(f"{args.image} did not answer {wanted}:\n{answers}")
    results = re.search(r"m-results-\[(.*)\]", answers)
    values = [float(value) for value in results[1].split(",")] if results else []
    # The device prints thousandths.
    if len(values) != expected[0].size or np.abs(expected[0].ravel() - values).max() > 0.00051:
        sys.exit(f"{args.image} computed {values} instead of {expected[0].ravel().tolist()}")
    print(f"device   stm32f405: starts, proves itself, answers {len(commands)} commands, computes what the laptop does")


def talk(image, commands, ready, seconds=60):
    """What a board answers on its serial port, up to as many lines of m-ready."""
    command = ["qemu-system-arm", "-M", "netduinoplus2", "-display", "none", "-monitor", "none",
               "-serial", "stdio", "-kernel", str(image)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as board:
        timer = threading.Timer(seconds, board.kill)
        timer.start()
        answers = ""
        try:
            while answers.count("m-ready") < ready:
                line = board.stdout.readline().decode(errors="replace")
                if not line:
                    break
                answers += line
                # What is sent before the port is set up is lost.
                if line.startswith("m-ready") and commands:
                    board.stdin.write("".join(f"{command}%" for command in commands).encode())
                    board.stdin.flush()
                    commands = []
        finally:
            timer.cancel()
            board.kill()
    return answers


def figures(folder):
    """What every run printed: {(machine, model): {name: [values]}}."""
    runs = {}
    for file in sorted(folder.glob("*.run")):
        machine, model = file.stem.split("-", 1)
        values = {}
        for line in file.read_text().splitlines():
            name, *rest = line.split()
            if name != "step":
                values[name] = [int(v) if re.fullmatch(r"-?\d+", v) else v for v in rest]
        runs[machine, model] = values
    return runs


def text_table(head, rows):
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        cells = [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))]
        print("  ".join(cells).rstrip())


def table(args):
    runs = figures(args.folder)
    order = list(CORES)
    models = [*MARKS, "digits"]
    keys = sorted(runs, key=lambda key: (order.index(key[0]), models.index(key[1])))
    missed, rows, failed = [], [], False
    for machine, model in keys:
        run = runs[machine, model]
        least, most = run["run_instructions"]
        macs, code = run["macs"][0], run.get("code_bytes", [None])[0]
        setup_stack = max(run["open_stack_bytes"][0], run["prepare_stack_bytes"][0])
        rows.append([
            CORES[machine], model, f"{run['runs'][0]} equal", f"{most:,}", f"{most / macs:.2f}",
            f"{run['arena_bytes'][0]:,}", f"{run['session_bytes'][0]:,}",
            f"{code:,}" if code else "",
            f"{run['run_stack_bytes'][0]:,}", f"{setup_stack:,}",
        ])
        if model in MARKS:
            checks = [("arena", run["arena_bytes"][0])]
            if machine == "an386":
                checks += [("instructions", most), ("code", code)]
            for name, value in checks:
                if value > MARKS[model][name]:
                    failed |= name not in args.allow
                    missed.append(f"{CORES[machine]} {model}: {name} {value:,}, more than {MARKS[model][name]:,}")
    head = ["core", "model", "vectors", "instructions", "per MAC", "arena", "session", "code", "stack", "at start"]
    text_table(head, rows)
    print("\narena, session memory (tables, arena, state, scratch), code with constants, stack of a run and of "
          "opening and preparing: bytes. Every vector's output has the same bits as on this machine.")
    beside = []
    for model in MARKS:
        run = runs.get(("an386", model))
        if run:
            most, code = run["run_instructions"][1], run["code_bytes"][0]
            tflm = TFLM[model]
            beside.append([model, "", f"{most:,}", f"{tflm[0]:,}", f"{most / tflm[0]:.2f}", f"{MARKS[model]['instructions'] / tflm[0]:.2f}"])
    if beside:
        print()
        text_table(["Cortex-M4", "", "Whit", "TFLM + CMSIS-NN", "ratio", "mark"], beside)
    against = [key for key in keys if "tflite_values" in runs[key]]
    seen = set()
    lines = []
    for machine, model in against:
        if model in seen:
            continue
        seen.add(model)
        run = runs[machine, model]
        lines.append([model, "", *(str(run[f"tflite_{name}"][0]) for name in ("values", "different", "largest")),
                      f"{run['tflite_same_label'][0]} of {min(run['runs'][0], 200)}"])
    if lines:
        print()
        text_table(["TFLite's reference", "", "outputs", "different", "by at most", "same label"], lines)
    if args.write:
        write(args.write, runs)
    if missed:
        print()
        print("\n".join(f"MISSED  {line}" for line in missed))
        if failed and not args.no_marks:
            sys.exit(1)


def write(path, runs):
    """Replaces the tables between the markers of a Markdown file."""
    present = [model for model in ("ad", "kws", "ic", "vww", "sww") if ("an386", model) in runs]
    if not present:
        sys.exit("nothing to write: the models of MLPerf Tiny did not run")

    def row(name, values):
        return f"| {name} | " + " | ".join(values) + " |"

    def of(machine, get):
        return [f"{get(runs[machine, model]):,}" if (machine, model) in runs else "" for model in present]

    def tflm(index):
        return [f"{TFLM[model][index]:,}" for model in present]

    m4 = [runs["an386", model] for model in present]
    ratios = [f"{run['run_instructions'][1] / TFLM[model][0]:.2f}" for run, model in zip(m4, present)]
    first = lambda name: lambda run: run[name][0]
    most = lambda run: run["run_instructions"][1]
    lines = [
        "| | " + " | ".join(model.upper() for model in present) + " |",
        "|---|" + "---|" * len(present),
        row("instructions, Cortex-M4", of("an386", most)),
        row("… TFLM + CMSIS-NN", tflm(0)),
        row("… ratio", ratios),
    ]
    for machine in ("an500", "an505", "an547", "an385", "microbit"):
        if any((machine, model) in runs for model in present):
            lines.append(row(f"instructions, {CORES[machine]}", of(machine, most)))
    lines += [
        row("arena, bytes", of("an386", first("arena_bytes"))),
        row("session memory (arena, tables, state, scratch)", of("an386", first("session_bytes"))),
        row("… TFLM's arena, which holds the same", tflm(1)),
        row("code and constants without the model", of("an386", first("code_bytes"))),
        row("… TFLM + CMSIS-NN", tflm(2)),
        row("stack of a run", of("an386", first("run_stack_bytes"))),
        row("… TFLM + CMSIS-NN", tflm(3)),
        row("stack of opening and preparing",
            of("an386", lambda run: max(run["open_stack_bytes"][0], run["prepare_stack_bytes"][0]))),
        row("vectors with the laptop's bits", of("an386", first("runs"))),
    ]
    text = path.read_text()
    if BEGIN not in text or END not in text:
        sys.exit(f"{path} has no lines '{BEGIN}' and '{END}'")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    path.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n" + END + after)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("samples")
    command.add_argument("inspect", type=Path)
    command.add_argument("data", type=Path)
    command.add_argument("count", type=int)
    command.add_argument("folder", type=Path)
    command.set_defaults(run=samples)
    command = commands.add_parser("compare")
    command.add_argument("folder", type=Path)
    command.add_argument("outputs", type=Path)
    command.add_argument("--expected", type=Path)
    command.set_defaults(run=compare)
    command = commands.add_parser("device")
    command.add_argument("image", type=Path)
    command.add_argument("folder", type=Path)
    command.set_defaults(run=device)
    command = commands.add_parser("table")
    command.add_argument("folder", type=Path)
    command.add_argument("--write", type=Path)
    command.add_argument("--no-marks", action="store_true")
    command.add_argument("--allow", action="append", default=[], choices=["instructions", "arena", "code"])
    command.set_defaults(run=table)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
