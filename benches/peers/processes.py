"""One runtime with one model in a process of its own, which answers requests by lines of JSON."""

import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

from cases import NoResult

HERE = pathlib.Path(__file__).resolve().parent
RUST = ("whit", "tract", "rten", "candle")
TIMEOUT_S = 120
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Process:
    """Started, loaded and run once when the constructor returns. A context manager: ended at its end."""

    def __init__(self, runtime, case, threads, runner, inputs):
        self.runtime, self.own_s, self.own_cpu_s = runtime, 0.0, 0.0
        command = [str(runner)] if runtime in RUST else [sys.executable, str(HERE / "worker.py")]
        # candle has rayon's global pool; the others get their number of threads from the job.
        environment = os.environ | {"RAYON_NUM_THREADS": str(threads), "RUST_BACKTRACE": "0"}
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
                                        env=environment, bufsize=0)
        self.buffer = b""
        job = {"runtime": runtime, "model": str(case.files[runtime]), "kind": case.kind, "threads": threads,
               "samples": len(case.inputs[0].values), "inputs": inputs, "step": case.step, "zero_point": case.zero_point}
        try:
            start = self.ask(job)
        except NoResult:
            self.close()
            raise
        self.cold_us = start["cold_ns"] / 1e3
        self.base_bytes, self.peak_bytes = start["base_bytes"], start["peak_bytes"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def stop(self):
        """Stops all threads. Some pools (ONNX Runtime's) would spin on for a while after work, in others' turns."""
        self.process.send_signal(signal.SIGSTOP)

    def close(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.errors.close()

    def ask(self, request):
        """The answer to a request. The process is stopped before and after."""
        text = request if isinstance(request, str) else json.dumps(request)
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.stdin.write(text.encode() + b"\n")
        except BrokenPipeError:
            pass
        answer = json.loads(self.line())
        self.stop()
        if "error" in answer:
            raise NoResult(shortened(answer["error"]))
        return answer

    def line(self):
        end = time.monotonic() + TIMEOUT_S
        while b"\n" not in self.buffer:
            if not select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))[0]:
                raise NoResult(f"no answer within {TIMEOUT_S} s")
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            if not data:
                self.process.wait()
                self.errors.seek(0)
                said = self.errors.read().decode(errors="replace").strip()
                raise NoResult(shortened(said) or f"exit status {self.process.returncode}")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line

    def cpu_s(self):
        """Time on a CPU so far, all threads."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    def run(self, warm_up, runs):
        """Times of the runs in ns."""
        start, cpu = time.monotonic(), self.cpu_s()
        times = self.ask(f"run {warm_up} {runs}")["ns"]
        self.own_s += time.monotonic() - start
        self.own_cpu_s += self.cpu_s() - cpu
        return times

    def outputs(self, samples):
        """Of all samples: an array for each output, samples first."""
        with tempfile.TemporaryDirectory() as folder:
            about = self.ask(f"outputs {folder}")["outputs"]
            return [np.fromfile(f"{folder}/{index}.f32", "<f4").reshape([samples, -1]) for index in range(len(about))]


def shortened(text):
    lines = [line.strip() for line in text.splitlines() if line.strip() and "RUST_BACKTRACE" not in line]
    if lines and lines[0].startswith("thread ") and len(lines) > 1:
        lines = lines[1:]  # a panic's first line says where
    text = " ".join(lines)
    return text if len(text) <= 200 else text[:199] + "…"


def write_inputs(case, folder):
    """The case's inputs as files, and how a job names them."""
    described = []
    for index, given in enumerate(case.inputs):
        path = pathlib.Path(folder) / f"input-{index}.bin"
        given.values.tofile(path)
        described.append({"name": given.name, "dtype": str(given.values.dtype),
                          "shape": list(given.values.shape[1:]), "file": str(path)})
    return described
