#!/usr/bin/env python3
"""A monitored device in the field, on QEMU's Cortex-M4 and on the laptop, for firmware/monitor.sh.

    monitor.py live FOLDER --model X.whit --image IMAGE --laptop PROGRAM --whit TOOL --calibration NPZ --data NPZ
        both live through one stream that drifts, with late labels and power cuts: fails unless their logs,
        their flash and their reports are the same, and what the reports count is what the stream holds
    monitor.py costs FOLDER --model X.whit --image IMAGE --whit TOOL --calibration NPZ
        what the monitor costs on the device, as `name value` lines in FOLDER/costs
    monitor.py table CODE FOLDER... [--write FILE.md]
        prints what monitors cost, beside the marks, and writes it into a Markdown file
"""

import argparse
import json
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np

# Executed instructions of recording a run, at most: a share of those of the run itself.
MARK_SHARE = 0.02
# Bytes of RAM that the default configuration takes with 10 classes and 64 inputs, which is what digits has.
MARK_RAM = 4096
# Executed instructions of an inference on Cortex-M4, as firmware/test.sh measures them.
INFERENCE = {"ad": 316_920, "kws": 3_585_440, "ic": 13_231_960, "vww": 10_753_400, "sww": 1_031_120}
BEGIN, END = "<!-- firmware/monitor.sh writes from here -->", "<!-- to here -->"

CLOCK, RUN, LABEL, CLOSE, POWER_OFF, MEASURE = range(1, 7)
ERASE, MARK, HEADER, PERIOD, SUMMARY, SAMPLE = 0xFF, 0x00, 0xB1, 0xB2, 0xB3, 0xB5
NOTHING, HALF, ALL = range(3)
# Cuts of power, one after the other: what is being written or erased, how much of that happens, and its number among
# its kind since the last cut.
CUTS = [
    (PERIOD, HALF, 9), (MARK, HALF, 40), (PERIOD, ALL, 5), (ERASE, HALF, 1), (HEADER, HALF, 1), (SUMMARY, HALF, 1),
    (SUMMARY, ALL, 1), (PERIOD, NOTHING, 7), (SUMMARY, HALF, 2), (ERASE, NOTHING, 1), (MARK, ALL, 55), (ERASE, ALL, 1),
    (SUMMARY, NOTHING, 1),
]
FLASH_BYTES = 3 * 4096
PENDING_LABELS = 16  # of the default configuration
RUNS_A_PERIOD = 12
FILES = ["events", "inputs", "cuts", "world", "runs", "latencies", "flash", "log"]


def fail(text):
    sys.exit(f"monitor.py: {text}")


class Model:
    def __init__(self, args):
        self.args = args
        said = subprocess.run([args.whit, "inspect", args.model, "--json"], capture_output=True, check=True)
        (self.input,) = json.loads(said.stdout)["inputs"]

    def samples(self, path):
        """Samples of a file as floats, and their labels."""
        data = np.load(path)
        (key,) = [key for key in data.files if key not in ("labels", "label")]
        shape = [size if isinstance(size, int) else 1 for size in self.input["shape"]]
        labels = next((data[name].astype(int) for name in ("labels", "label") if name in data.files), None)
        return data[key].astype(np.float32).reshape(-1, *shape[1:]), labels

    def bytes_of(self, samples):
        """As the runtime's `set_input_f32` quantizes them."""
        if self.input["scale"] is None:
            return samples.tobytes()
        quantized = np.rint(samples / np.float32(self.input["scale"])) + self.input["zero_point"]
        kind = {"i8": np.int8, "u8": np.uint8, "i16": np.int16}[self.input["type"]]
        limits = np.iinfo(kind)
        return np.clip(quantized, limits.min, limits.max).astype(kind).tobytes()

    def predictions(self, samples, folder):
        np.save(folder / "samples.npy", samples)
        subprocess.run([self.args.whit, "run", self.args.model, "--input", f"{self.input['name']}={folder / 'samples.npy'}",
                        "--raw", "--output", str(folder / "outputs")], check=True, stdout=subprocess.DEVNULL)
        (file,) = (folder / "outputs").glob("*.npy")
        return np.load(file).reshape(len(samples), -1).argmax(1)


def write_files(folder, events, inputs, cuts=()):
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / f"{name}.bin").write_bytes(b"")
    (folder / "events.bin").write_bytes(b"".join(struct.pack("<BBHII", kind, flag, 0, a, b) for kind, flag, a, b in events))
    (folder / "inputs.bin").write_bytes(inputs)
    (folder / "cuts.bin").write_bytes(b"".join(struct.pack("<BBH", *cut) for cut in cuts))
    (folder / "flash.bin").write_bytes(b"\xff" * FLASH_BYTES)


def field(model, runs, random, folder):
    """A stream: the calibration data for the first half; then the evaluation data, fainter and with noise."""
    calm, _ = model.samples(model.args.calibration)
    other, labels = model.samples(model.args.data)
    spread = calm.std()
    drifted = other * np.float32(0.6) + random.normal(0, 0.4 * spread, other.shape).astype(np.float32)
    samples = np.concatenate([calm, drifted])
    predicted = model.predictions(samples, folder)
    # Nobody labelled the calibration data: there the truth is what the model says, but for one in ten.
    classes = predicted.max() + 1
    wrong = random.random(len(calm)) < 0.1
    truth = np.concatenate([np.where(wrong, (predicted[: len(calm)] + 1) % classes, predicted[: len(calm)]), labels])
    due, events, inputs_of = {}, [], []
    now = 1_800_000_000
    for run in range(runs):
        now += 1
        if run == runs // 3:
            now -= 500  # the clock was put back
        events.append((CLOCK, 0, now, 0))
        half = runs // 2
        index = int(random.integers(len(calm))) if run < half else len(calm) + int(random.integers(len(other)))
        inputs_of.append(index)
        events.append((RUN, 0, index, 2000 if run % 97 == 96 else 0))
        # In time, too late, twice, never, or no class.
        draw = random.random()
        delay = int(random.integers(1, 13)) if draw < 0.75 else 40
        if draw < 0.9:
            label = 250 if draw < 0.02 else int(truth[index])
            due.setdefault(run + delay, []).append((LABEL, 0, run, label))
            if draw < 0.08:
                due.setdefault(run + delay + 1, []).append((LABEL, 0, run, label))
        elif draw < 0.92:
            events.append((LABEL, 1, 0xFFFF_0000 + run, 0))  # a run that there never was
        events += due.pop(run, [])
        if run % RUNS_A_PERIOD == RUNS_A_PERIOD - 1:
            events.append((CLOSE, 0, 0, 0))
        if run in (runs // 4, runs * 3 // 5):
            events.append((POWER_OFF, 0, 0, 0))
    events.append((CLOSE, 0, 0, 0))
    return events, model.bytes_of(samples), predicted, inputs_of


def live_through(folder, command):
    """Starts the device until the stream is over; what each start said."""
    starts = []
    while True:
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=1200)
        lines = ended.stdout.splitlines()
        starts.append(lines)
        if ended.returncode == 0:
            return starts
        if ended.returncode != 3 or len(starts) > 200:
            fail(f"{command[0]} in {folder} ended with {ended.returncode}:\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")


def expected(starts, events, predicted, inputs_of, classes):
    """What the log has to count, from the stream and from where power failed."""
    total, confusion = Counter(), np.zeros((classes, classes), int)
    ids, run, number, sequence = {}, 0, 0, 0
    clock, clock_start = 0, 0
    for index, lines in enumerate(starts):
        first = next((line.split() for line in lines if line.startswith("start ")), None)
        following = next((line for later in starts[index + 1 :] for line in later if line.startswith("start ")), None)
        after = int(following.split()[2]) - 1 if following else None
        if first is None:
            # Power failed in the start; its first period may be in the log, and is if a number is missing.
            between = sum(not any(line.startswith("start ") for line in later) for later in starts[index + 1 :])
            kept = after is not None and not between and after > sequence
            sequence += kept
            total["starts"] += kept
            continue
        if int(first[1]) != number:
            fail(f"start {index} begins at event {first[1]}, not {number}")
        sequence = int(first[2]) - 1
        total["starts"] += 1
        base, runs_of_start, sequence = sequence << 16, 0, sequence + 1
        waiting, period, period_confusion = {}, Counter(), np.zeros_like(confusion)
        closed = sum(line.startswith("closed ") for line in lines)
        clock_start = clock
        while number < len(events):
            kind, flag, a, b = events[number]
            number += 1
            if kind == CLOCK:
                clock = a
            elif kind == RUN:
                id = base + runs_of_start
                runs_of_start += 1
                ids[run] = id
                answer = int(predicted[inputs_of[run]])
                run += 1
                period["runs"] += 1
                if waiting.get(id % PENDING_LABELS, (0, None))[1] is not None:
                    period["labels_missed"] += 1
                waiting[id % PENDING_LABELS] = (id, answer)
            elif kind == LABEL:
                id = a if flag else ids[a]
                known, answer = waiting.get(id % PENDING_LABELS, (None, None))
                if b >= classes:
                    period["labels_invalid"] += 1
                elif known != id:
                    period["labels_unknown"] += 1
                elif answer is None:
                    period["labels_duplicate"] += 1
                else:
                    period["labels"] += 1
                    period_confusion[b, answer] += 1
                    waiting[id % PENDING_LABELS] = (id, None)
            elif kind == POWER_OFF:
                break
            elif kind == CLOSE:
                cut = closed == 0
                closed -= 1
                # Of a period whose closing was cut the next start's number says whether it is in the log.
                if not cut or (after is not None and after > sequence):
                    period["clock_faults"] += clock < clock_start
                    total += period
                    confusion += period_confusion
                    sequence += 1
                clock_start = clock
                period, period_confusion = Counter(), np.zeros_like(confusion)
                if cut:
                    break
    return total, confusion


def live(args):
    model, random = Model(args), np.random.default_rng(6)
    device, laptop = args.folder / "device", args.folder / "laptop"
    device.mkdir(parents=True, exist_ok=True)
    events, inputs, predicted, inputs_of = field(model, args.runs, random, args.folder)
    write_files(device, events, inputs, CUTS)
    started = live_through(device, qemu(args))
    write_files(laptop, events, inputs, CUTS)
    (laptop / "latencies.bin").write_bytes((device / "latencies.bin").read_bytes())
    beside = live_through(laptop, [args.laptop, str(args.model.resolve())])
    for name in ("log", "flash", "runs"):
        if (device / f"{name}.bin").read_bytes() != (laptop / f"{name}.bin").read_bytes():
            fail(f"{name}.bin of {device} and {laptop} differ")

    def figures(lines):  # but for sizes of pointers and for costs
        return [line for line in lines if line.split()[0] in ("start", "closed", "cut", "drift", "log_bytes")]

    if [figures(lines) for lines in started] != [figures(lines) for lines in beside]:
        fail(f"{device} and {laptop} tell different stories")
    cuts = [line for lines in started for line in lines if line.startswith("cut")]
    if len(cuts) != len(CUTS) + 2:
        fail(f"{len(cuts)} of {len(CUTS) + 2} cuts happened: the stream is too short\n" + "\n".join(cuts))

    def report(folder):
        command = [args.whit, "monitor", "report", str(folder / "log.bin"), "--model", str(args.model), "--json"]
        return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)

    reports = report(device), report(laptop)
    if reports[0] != reports[1]:
        fail("the reports differ")
    (fleet,), log = reports[0]["fleets"], reports[0]["log"]
    if not log["clean"]:
        fail(f"the log isn't whole: {log}")
    classes = len(fleet["classes"])
    total, confusion = expected(started, events, predicted, inputs_of, classes)
    names = ["runs", "labels", "labels_unknown", "labels_duplicate", "labels_invalid", "labels_missed", "starts", "clock_faults"]
    counted = {name: fleet["events"][name] for name in names}
    wanted = {name: total[name] for name in names}
    if counted != wanted:
        fail(f"the log counts {counted}, the stream holds {wanted}")
    if fleet["quality"]["confusion"] != confusion.tolist():
        fail("the log's confusion matrix isn't the stream's")
    if min(wanted.values()) == 0:
        fail(f"something never happened: {wanted}")
    drifts = [int(line.split()[1]) for lines in started for line in lines if line.startswith("drift")]
    calm = [run for run in drifts if run < args.runs // 2]
    seen = fleet["events"]["windows"], fleet["events"]["input_drifts"]
    late = [run for run in drifts if run >= args.runs // 2]
    if len(calm) > 1 or len(late) < 2 or not any(finding["title"].startswith("inputs drifted") for finding in fleet["findings"]):
        fail(f"drifts in runs {drifts} of a stream that drifts from run {args.runs // 2} on")
    print(f"{args.folder.name}: {len(started)} starts, {len(cuts)} power cuts, {log['records']} records in {log['bytes']} bytes: "
          "log, flash and report of the Cortex-M4 are the laptop's, bit for bit")
    print(f"  {', '.join(f'{name} {value}' for name, value in counted.items())}: as the stream holds them")
    print(f"  inputs drifted in {seen[1]} of {seen[0]} windows; from run {args.runs // 2} on, first seen at run {late[0]}")
    for cut in cuts:
        print(f"  {cut}")


def qemu(args):
    return ["qemu-system-arm", "-M", "mps2-an386", "-display", "none", "-serial", "none", "-monitor", "none",
            "-icount", "shift=0", "-semihosting-config", "enable=on,target=native", "-kernel", str(args.image.resolve()),
            "-device", f"loader,file={args.model.resolve()},addr=0x00100000,force-raw=on"]


def costs(args):
    model = Model(args)
    samples, _ = model.samples(args.calibration)
    samples = samples[np.random.default_rng(6).permutation(len(samples))]
    about = json.loads(subprocess.run([args.whit, "inspect", args.model, "--monitor", "--json"],
                                      capture_output=True, check=True).stdout)
    window = about["baseline"]["window_runs"]
    events = [(MEASURE, 0, 0, 0)]
    for run in range(window + 20):
        events += [(CLOCK, 0, 1000 + run, 0), (RUN, 0, run % len(samples), 0), (LABEL, 0, run, 0)]
        if run % 55 == 54:
            events.append((CLOSE, 0, 0, 0))
    write_files(args.folder, events, model.bytes_of(samples))
    (lines,) = live_through(args.folder, qemu(args))
    about, costs = about["baseline"], about
    extra = [f"{name} {about[name]}" for name in ("window_runs", "classes", "features", "bins")]
    extra.append(f"elements {np.prod(samples.shape[1:])}")
    estimated = next(row for row in costs["configurations"] if row["configuration"] == "default")
    extra.append(f"estimated_instructions {estimated['instructions_per_run']}")
    (args.folder / "costs").write_text("\n".join(lines + extra) + "\n")
    print("\n".join(lines[1:] + extra))


def table(args):
    def read(path):
        pairs = (line.split() for line in path.read_text().splitlines() if not line.startswith(("start", "closed", "drift")))
        return {name: [int(value) for value in values] for name, *values in pairs}

    code, missed, columns = read(args.code), [], []
    for folder in args.folders:
        name, run = folder.name.removesuffix("-costs"), read(folder / "costs")
        window = run["window_instructions"][2] - run["after_instructions"][2]
        record = run["record_instructions"][2] + window / run["window_runs"][0]
        ram = run["monitor_bytes"][0] + run["monitor_memory_bytes"][0]
        share = record / INFERENCE[name] if name in INFERENCE else None
        estimate = run["estimated_instructions"][0]
        if name == "kws" and share > MARK_SHARE:
            missed.append(f"kws: recording takes {share:.2%} of an inference, more than {MARK_SHARE:.0%}")
        if name == "digits" and ram > MARK_RAM:
            missed.append(f"digits: the monitor takes {ram} bytes of RAM, more than {MARK_RAM}")
        columns.append([
            name, f"{run['elements'][0]:,}, {run['features'][0]}, {run['classes'][0]}", f"{run['record_instructions'][2]:,}",
            f"{run['record_instructions'][3]:,}", f"{window:,}", f"{record:,.0f}", f"{share:.2%}" if share else "",
            f"{estimate:,} ({estimate / record - 1:+.0%})", f"{run['label_instructions'][2]:,}", f"{run['close_instructions'][2]:,}",
            f"{run['log_instructions'][2]:,}", f"{run['monitor_bytes'][0]:,} + {run['monitor_memory_bytes'][0]:,} = {ram:,}",
            f"{run['log_struct_bytes'][0]:,} + {run['log_memory_bytes'][0]:,}", f"{run['record_stack_bytes'][0]:,}",
            f"{run['close_stack_bytes'][0]:,}",
        ])
    heads = ["", "elements, features, classes", "recording a run, instructions, mean", "… most", "end of a window, besides",
             "recording, windows' ends spread", "… of an inference", "… as `inspect --monitor` estimates", "a label",
             "closing a period, mean", "… the log's part, mean, without the chip's driver", "RAM of the monitor, bytes",
             "RAM of the log", "stack of recording", "stack of closing a period"]
    lines = ["| " + " | ".join([head, *(column[row] for column in columns)]) + " |" for row, head in enumerate(heads)]
    lines.insert(1, "|" + "---|" * (len(columns) + 1))
    text = "\n".join(lines) + (
        f"\n\nFlash: {code['monitor_code_bytes'][0]:,} bytes of code and constants for the monitor, "
        f"{code['log_code_bytes'][0]:,} for the log, beside {code['code_bytes'][0]:,} of an image that only runs models.")
    print(text)
    if args.write:
        before, rest = args.write.read_text().split(BEGIN)
        args.write.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END, 1)[1]}")
    if missed:
        fail("; ".join(missed))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, function in (("live", live), ("costs", costs)):
        command = commands.add_parser(name)
        command.set_defaults(function=function)
        command.add_argument("folder", type=Path)
        command.add_argument("--model", type=Path, required=True)
        command.add_argument("--image", type=Path, required=True)
        command.add_argument("--whit", required=True)
        command.add_argument("--calibration", type=Path, required=True)
        if name == "live":
            command.add_argument("--laptop", required=True)
            command.add_argument("--data", type=Path, required=True)
            command.add_argument("--runs", type=int, default=3000)
    command = commands.add_parser("table")
    command.set_defaults(function=table)
    command.add_argument("code", type=Path)
    command.add_argument("folders", type=Path, nargs="+")
    command.add_argument("--write", type=Path)
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
