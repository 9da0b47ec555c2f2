"""Whit's side: converts models with a baseline, runs monitors and single detectors over streams."""

import json
import subprocess
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

KINDS = ["inputs", "classes", "confidence", "page_hinkley", "cusum", "ewma", "ddm", "adwin"]
WINDOWED = KINDS[:3]
SIGNALS = ["confidence", "entropy", "value", "class"]


@dataclass
class Watch:
    """What a monitor said about a stream."""

    runs: int
    window_runs: int
    alarms: dict  # kind -> runs, from 0, after which it was raised
    drifted: list  # features of each window with a discovery
    monitor_ns: float
    monitor_bytes: int


class Whit:
    def __init__(self, tool, stream_tool, work, false_alarm):
        self.tool, self.stream_tool, self.work = tool, stream_tool, work
        self.false_alarm = false_alarm

    def convert(self, model, rows, labels, options, name):
        """A .whit file whose baseline is made from these rows."""
        data, out = self.work / f"{name}.npz", self.work / f"{name}.whit"
        arrays = {"x": rows.astype(np.float32)}
        if labels is not None:
            arrays["labels"] = labels.astype(np.int64)
        np.savez(data, **arrays)
        monitor = [] if "--monitor" in options else ["--monitor", "default"]
        command = [self.tool, "convert", model, "-o", out, "--calibrate", data, "--golden", 0]
        command += ["--false-alarm", self.false_alarm, "--json", *monitor, *options]
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        data.unlink()
        if done.returncode:
            raise SystemExit(done.stderr)
        return out

    def run(self, file, rows, labels=None, statistic="js", signals=False):
        stream = self.work / "stream.f32"
        rows.astype("<f4").tofile(stream)
        command = [self.stream_tool, "run", file, stream, "--statistic", statistic]
        if labels is not None:
            labels.astype("<i4").tofile(self.work / "stream.i32")
            command += ["--labels", self.work / "stream.i32"]
        if signals:
            command += ["--signals", self.work / "signals.i32"]
        said, drifted = self._run(command)
        numbers, alarms = said
        watch = Watch(
            int(numbers["runs"]),
            int(numbers["window_runs"]),
            alarms,
            drifted,
            numbers["monitor_ns_per_run"],
            int(numbers["monitor_bytes"]),
        )
        if not signals:
            return watch
        columns = np.fromfile(self.work / "signals.i32", "<i4").reshape(-1, 4)
        return watch, dict(zip(SIGNALS, columns.T))

    def detect(self, signal, source, parameters):
        """Alarms of one detector over integers, nanoseconds of a number, bytes of its state."""
        path = self.work / "signal.i32"
        signal.astype("<i4").tofile(path)
        words = ",".join(str(int(p)) for p in parameters)
        (numbers, alarms), _ = self._run([self.stream_tool, "detect", path, source, words])
        return alarms[source], numbers["ns_per_number"], int(numbers["state_bytes"])

    def baseline(self, file):
        command = [self.tool, "inspect", str(file), "--monitor", "--json"]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    @staticmethod
    def _run(command):
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{command}: {done.stderr}")
        numbers, alarms, drifted = {}, defaultdict(list), []
        for line in done.stdout.splitlines():
            words = line.split(",")
            if words[0] == "alarm":
                alarms[words[2]].append(int(words[1]))
            elif words[0] == "drifted":
                drifted.append(int(words[2]))
            else:
                numbers[words[0]] = float(words[1])
        return (numbers, alarms), drifted
