#!/usr/bin/env python3
"""Converts the exports inside PyPI's `silero-vad` and compares them with ONNX Runtime.

    pip download --no-deps silero-vad==6.2.3 && python convert/proof/silero.py --whit target/release/whit *.whl

A voice detector as people export it: If on the sampling rate, on ranks and on shapes, LSTM, shape
arithmetic, a state that goes in and comes out. The sampling rate is given at conversion, so that its
branches fold. Runs a few chunks with the state handed on. Exits with 1 when an export isn't converted
or an output is further than 1e-4 from ONNX Runtime's.
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
import onnxruntime

MAX_ERROR = 1e-4
CHUNKS = 3
# Samples of a chunk, those of the chunk before it included, at each sampling rate.
SAMPLES = {16000: 576, 8000: 288}


def tool(*arguments):
    done = subprocess.run([*map(str, arguments)], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr


def compare(whit, path, rate, folder):
    """The largest difference of all chunks, or why there is none."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(1)
    names = [i.name for i in session.get_inputs()]
    feeds = {}
    for name in names:
        if name == "sr":
            feeds[name] = np.array(rate, dtype=np.int64)
        elif name == "input":
            feeds[name] = np.zeros((1, SAMPLES[rate]), np.float32)
        else:
            feeds[name] = np.zeros((2 if name == "state" else 1, 1, 128), np.float32)
    program = folder / "model.whit"
    convert = [whit, "convert", path, "-o", program]
    if "sr" in names:
        np.save(folder / "sr.npy", feeds["sr"])
        convert += ["--input-value", f"sr={folder / 'sr.npy'}"]
    code, error = tool(*convert)
    for symbol, axis, name in re.findall(r"--dim (\S+)=N or .*\(axis (\d+) of input `([^`]*)`\)", error):
        convert += ["--dim", f"{symbol}={feeds[name].shape[int(axis)]}"]
    if code != 0:
        code, error = tool(*convert)
    if code != 0:
        return f"not converted: {error.strip()}"

    worst = 0.0
    outputs = [o.name for o in session.get_outputs()]
    for _ in range(CHUNKS):
        feeds["input"] = (random.standard_normal(feeds["input"].shape) * 0.1).astype(np.float32)
        wanted = session.run(None, feeds)
        run = [whit, "run", program, "--output", folder]
        for name in names:
            if name != "sr":
                np.save(folder / f"{name}.npy", feeds[name])
                run += ["--input", f"{name}={folder / name}.npy"]
        code, error = tool(*run)
        if code != 0:
            return f"not run: {error.strip()}"
        for name, want in zip(outputs, wanted):
            got = np.load(folder / f"{name}.npy")
            if got.shape != want.shape:
                return f"output {name} has shape {got.shape} instead of {want.shape}"
            worst = max(worst, float(np.abs(got - want).max()))
        # What comes out is the next chunk's state.
        for source, to in [("stateN", "state"), ("hn", "h"), ("cn", "c")]:
            if source in outputs:
                feeds[to] = wanted[outputs.index(source)]
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whit", default="target/release/whit", type=pathlib.Path)
    parser.add_argument("wheel", type=pathlib.Path, help="silero_vad-*.whl")
    options = parser.parse_args()
    onnxruntime.set_default_logger_severity(4)
    failed = False
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(options.wheel) as wheel:
        scratch = pathlib.Path(scratch)
        exports = sorted(name for name in wheel.namelist() if name.endswith(".onnx"))
        for export in exports:
            path = pathlib.Path(wheel.extract(export, scratch))
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            # Exports for one rate only say so in their names, and some take `sr` all the same.
            both = "sr" in [i.name for i in session.get_inputs()] and "16k" not in path.name
            for rate in [16000, 8000] if both else [16000]:
                folder = scratch / f"{path.stem}-{rate}"
                folder.mkdir()
                result = compare(options.whit, path, rate, folder)
                good = isinstance(result, float) and result <= MAX_ERROR
                failed |= not good
                text = f"largest difference {result:.1e}" if isinstance(result, float) else result
                print(f"{'ok    ' if good else 'FAILED'} {path.name} at {rate} Hz: {text}")
        if not exports:
            print("the wheel holds no .onnx file")
            failed = True
    return failed


if __name__ == "__main__":
    sys.exit(main())
