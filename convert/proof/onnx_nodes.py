#!/usr/bin/env python3
"""Runs the operator cases of PyPI's `onnx` through `whit convert` and `whit run`.

    python convert/proof/onnx_nodes.py --whit target/release/whit [--write docs/onnx.md] [--only REGEX]

A case passes when every output of every data set is equal to the expected one within the case's own
tolerance (ONNX's runner: rtol 1e-3, atol 1e-7 unless the case says otherwise; never tighter than two
units in the last place of the largest number expected), is refused when the tool
says on stderr what isn't supported and exits with 1, and fails otherwise. Inputs that decide shapes
(the sizes of a Reshape, the axes of a reduction) are given at conversion with `--input-value`, for
programs are planned ahead of time; such cases are counted apart. Exits with 1 when a case fails.
"""

import argparse
import collections
import concurrent.futures
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import warnings

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

warnings.filterwarnings("ignore")

KINDS = ["node", "simple", "pytorch-operator", "pytorch-converted", "light"]
# A float result may differ by this many units in the last place of the largest expected number: the
# expected values are themselves computed in the type, some in many steps.
UNITS_IN_THE_LAST_PLACE = 2
MAX_SEED_BYTES = 4096  # larger inputs slow a fuzzer down without showing it more
# Types that .npy doesn't have, as the tool takes and gives them.
WIDER = {
    "bfloat16": np.float32,
    "float8_e4m3fn": np.float32,
    "float8_e4m3fnuz": np.float32,
    "float8_e5m2": np.float32,
    "float8_e5m2fnuz": np.float32,
    "float8_e8m0fnu": np.float32,
    "float4_e2m1fn": np.float32,
    "int4": np.int8,
    "uint4": np.uint8,
    "int2": np.int8,
    "uint2": np.uint8,
}


class Case:
    def __init__(self, kind, name, model, data_sets, rtol, atol):
        self.kind, self.name, self.model = kind, name, model
        self.data_sets = [tuple([array_of(a) for a in side] for side in sides) for sides in data_sets]
        self.rtol, self.atol = rtol, atol

    def operators(self):
        """The operator that a node case is about, or the operators of a whole model."""
        types = [n.op_type if n.domain in ("", "ai.onnx") else f"{n.domain}::{n.op_type}" for n in self.model.graph.node]
        return sorted(set(types))


def array_of(value):
    """Some cases give their arrays as protobufs."""
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else value


def read_set(folder, model):
    def read(prefix, values):
        arrays = []
        for index, value in enumerate(values):
            raw = (folder / f"{prefix}_{index}.pb").read_bytes() if (folder / f"{prefix}_{index}.pb").exists() else None
            if raw is None or value.type.WhichOneof("value") != "tensor_type":
                arrays.append(None)
            else:
                arrays.append(numpy_helper.to_array(TensorProto.FromString(raw)))
        return arrays

    return read("input", model.graph.input), read("output", model.graph.output)


def load(kinds):
    from onnx.backend.test import loader

    data = pathlib.Path(loader.DATA_DIR)
    for kind in kinds:
        if kind == "node":
            for case in loader.load_model_tests(kind="node"):
                yield Case(kind, case.name, case.model, case.data_sets, case.rtol, case.atol)
        elif kind == "light":
            for path in sorted((data / kind).glob("*.onnx")):
                model = onnx.load(path)
                # As ONNX's own runner does it: inputs of ones, weights from the model's fillers.
                outputs = [numpy_helper.to_array(TensorProto.FromString(path.with_name(path.stem + "_output_0.pb").read_bytes()))]
                inputs = []
                made = {i.name for i in model.graph.initializer}
                for value in model.graph.input:
                    if value.name in made:
                        continue
                    shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
                    count = int(np.prod(shape))
                    inputs.append((np.arange(count).reshape(shape) / count).astype(np.float32))
                yield Case(kind, path.stem, model, [(inputs, outputs)], 1e-3, 1e-7)
        else:
            for folder in sorted((data / kind).iterdir()):
                if not (folder / "model.onnx").exists():
                    continue
                model = onnx.load(folder / "model.onnx")
                tolerance = json.loads((folder / "data.json").read_text()) if (folder / "data.json").exists() else {}
                sets = [read_set(s, model) for s in sorted(folder.glob("test_data_set_*"))]
                yield Case(kind, folder.name, model, sets, tolerance.get("rtol", 1e-3), tolerance.get("atol", 1e-7))


def storable(array):
    array = np.asarray(array)
    return array.astype(WIDER[array.dtype.name]) if array.dtype.name in WIDER else array


def tool(whit, *arguments):
    done = subprocess.run([whit, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def epsilon(dtype):
    """One unit in the last place at 1; float64 models are computed in float32."""
    if dtype == np.float64:
        return float(np.finfo(np.float32).eps)
    return float(ml_dtypes.finfo(dtype).eps)


def same(case, got, want):
    """None when equal within the tolerance, else what differs."""
    element = np.asarray(want).dtype
    want = storable(want)
    if tuple(got.shape) != tuple(want.shape):
        return f"shape {got.shape} instead of {want.shape}"
    if want.dtype.kind in "fc":
        got, want = got.astype(np.float64), want.astype(np.float64)
        largest = float(np.abs(want[np.isfinite(want)]).max(initial=0.0))
        atol = max(case.atol, UNITS_IN_THE_LAST_PLACE * epsilon(element) * largest)
        try:
            np.testing.assert_allclose(got, want, rtol=case.rtol, atol=atol)
        except AssertionError as error:
            return " ".join(str(error).split())[:300]
        return None
    if not np.array_equal(got.astype(want.dtype), want):
        return f"{got.ravel()[:8]} instead of {want.ravel()[:8]}"
    return None


def refusal(code, stderr):
    text = stderr.strip()
    if code == 1 and text and "panicked" not in text:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[1] if len(lines) > 1 and lines[0].endswith(":") else lines[0]
    return None


# Inputs that are parameters of an operator: what ONNX Runtime reads on the CPU before it knows a shape.
def run_set(whit, case, folder, number, values, fixed):
    """(verdict, detail) of one data set."""
    inputs, outputs = case.data_sets[number]
    names = [v.name for v in case.model.graph.input if v.name not in {i.name for i in case.model.graph.initializer}]
    model_path = folder / "model.onnx"
    whit_path = folder / "model.whit"
    convert = ["convert", model_path, "-o", whit_path, "--golden", 0]
    for name in fixed:
        convert += ["--input-value", f"{name}={values[name]}"]
    code, _, stderr = tool(whit, *convert)
    for _ in range(2):
        wanted = re.findall(r"--dim (\S+)=N or .*\(axis (\d+) of input `([^`]*)`\)", stderr)
        if code != 1 or not wanted:
            break
        for symbol, axis, name in wanted:
            size = np.asarray(inputs[names.index(name)]).shape[int(axis)]
            if size > 0:  # without it, the refusal stands
                convert += ["--dim", f"{symbol}={size}"]
        code, _, stderr = tool(whit, *convert)
    if code != 0:
        reason = refusal(code, stderr)
        return ("refused", reason) if reason else ("failed", f"convert: exit {code}: {stderr.strip()[-300:]}")
    out = folder / f"out{number}"
    run = ["run", whit_path, "--output", out]
    for name in names:
        if name not in fixed and name in values:
            run += ["--input", f"{name}={values[name]}"]
    code, _, stderr = tool(whit, *run)
    if code == 1 and "outside float32's range" in stderr:
        return "refused", refusal(code, stderr)
    if code != 0:
        return "failed", f"run: exit {code}: {stderr.strip()[-300:]}"
    for value, want in zip(case.model.graph.output, outputs):
        path = out / f"{re.sub(r'[^A-Za-z0-9._-]', '_', value.name)}.npy"
        if not path.exists():
            return "failed", f"no {path.name}; there are {[p.name for p in out.iterdir()]}"
        problem = same(case, np.load(path), want)
        if problem:
            return "failed", f"output `{value.name}`: {problem}"
    return "passed", ""


def check(whit, case):
    """(verdict, detail): passed, given (with input values), refused or failed."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        onnx.save(case.model, folder / "model.onnx")
        made = {i.name for i in case.model.graph.initializer}
        verdict = ("refused", "no data")
        for number, (inputs, _) in enumerate(case.data_sets):
            names = [v.name for v in case.model.graph.input if v.name not in made]
            values, small, empty = {}, [], []
            for name, array in zip(names, inputs):
                if not isinstance(array, (np.ndarray, np.generic)) or np.asarray(array).dtype.kind not in "fiub" and np.asarray(array).dtype.name not in WIDER:
                    continue  # strings, sequences: the conversion says what it thinks of them
                path = folder / f"in{number}_{len(values)}.npy"
                np.save(path, storable(array))
                values[name] = path
                if np.asarray(array).size == 0:
                    empty.append(name)  # there is nothing to feed at run time
                elif np.asarray(array).dtype.kind in "iub" or np.asarray(array).ndim == 0 or np.asarray(array).size <= 8:
                    small.append(name)
            verdict = run_set(whit, case, folder, number, values, empty)
            if verdict[0] == "refused" and small:
                again = run_set(whit, case, folder, number, values, empty + small)
                if again[0] == "passed":
                    verdict = ("given", ", ".join(small))
                elif again[0] == "failed":
                    verdict = again
            if verdict[0] not in ("passed", "given"):
                break
        return verdict


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whit", default="target/release/whit")
    parser.add_argument("--write", metavar="FILE", help="write the table by operator here, as Markdown")
    parser.add_argument("--json", metavar="FILE", help="write every verdict here")
    parser.add_argument("--corpus", metavar="DIR", help="only write the models here, as seeds for convert/fuzz")
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose name matches")
    parser.add_argument("--kind", action="append", choices=KINDS)
    parser.add_argument("--least", type=int, default=0, metavar="N", help="fail when fewer cases pass")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()

    whit = str(pathlib.Path(arguments.whit).resolve())
    start = time.monotonic()
    cases = [c for c in load(arguments.kind or KINDS) if re.search(arguments.only, c.name)]
    if arguments.corpus:
        folder = pathlib.Path(arguments.corpus)
        folder.mkdir(parents=True, exist_ok=True)
        for case in cases:
            model = case.model.SerializeToString()
            if len(model) < MAX_SEED_BYTES:
                (folder / case.name).write_bytes(b"\0" + model)
        return 0
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        def guarded(case):
            try:
                return check(whit, case)
            except subprocess.TimeoutExpired:
                return "failed", "no answer in 120 s"
        verdicts = list(pool.map(guarded, cases))

    for case, (verdict, detail) in zip(cases, verdicts):
        if verdict == "failed" or arguments.only:
            print(f"{verdict:8} {case.name}: {detail}")
    total = collections.Counter(verdict for verdict, _ in verdicts)
    for kind in KINDS:
        count = collections.Counter(v for c, (v, _) in zip(cases, verdicts) if c.kind == kind)
        if count:
            print(f"{kind}: {summary(count)}")
    print(f"all: {summary(total)} ({time.monotonic() - start:.0f} s)")
    if arguments.json:
        rows = [{"kind": c.kind, "name": c.name, "operators": c.operators(), "verdict": v, "detail": d} for c, (v, d) in zip(cases, verdicts)]
        pathlib.Path(arguments.json).write_text(json.dumps(rows, indent=1))
    if arguments.write:
        write_table(pathlib.Path(arguments.write), cases, verdicts, total)
    if (passed := total["passed"] + total["given"]) < arguments.least:
        print(f"only {passed} passed; at least {arguments.least} have to")
        return 1
    return 1 if total["failed"] else 0


def summary(count):
    return (f"{count['passed'] + count['given']} passed ({count['given']} of them with input values given at conversion), "
            f"{count['refused']} refused, {count['failed']} failed")


def write_table(path, cases, verdicts, total):
    """Counts by operator, as Markdown."""
    single = {c.name: c.operators()[0] for c in cases if c.kind == "node" and len(c.model.graph.node) == 1}
    rows = collections.defaultdict(lambda: [collections.Counter(), collections.OrderedDict()])
    kinds = collections.defaultdict(collections.Counter)
    for case, (verdict, detail) in zip(cases, verdicts):
        kinds[case.kind][verdict] += 1
        if case.kind != "node":
            continue
        # A function written out belongs to the operator that it defines.
        name = re.sub("_expanded(_ver[0-9]+)?$", "", case.name)
        operator = single.get(case.name) or single.get(name) or "models of several operators"
        count, reasons = rows[operator]
        count[verdict] += 1
        if verdict == "refused":
            # The reason alone: without the file, the node and its inputs.
            reason = re.sub(r" ?\(inputs [^)]*\)|`[^`]*` ?", "", detail)
            reasons[re.sub(r"^(error: \S+: )?(\S+ (and \d+ more)? ?: )?", "", reason)] = None
    lines = [
        "# ONNX's operator cases",
        "",
        f"Made by `convert/proof/onnx_nodes.py` from PyPI's onnx {onnx.__version__}; run it again after a change to the importer.",
        "Every case goes through `whit convert` and `whit run`. **given** counts the passed cases of which some inputs were",
        "given at conversion (`--input-value`), as sizes and axes that decide shapes must be: Whit plans memory ahead of time.",
        "A float64 model is computed in float32.",
        "",
        "| kind | passed | of which given | refused | failed |",
        "|---|---:|---:|---:|---:|",
    ]
    for kind in [*KINDS, "all"]:
        count = total if kind == "all" else kinds[kind]
        lines.append(f"| {kind} | {count['passed'] + count['given']} | {count['given']} | {count['refused']} | {count['failed']} |")
    lines += ["", "## By operator (kind `node`)", "", "| operator | passed | of which given | refused | why refused |", "|---|---:|---:|---:|---|"]
    for operator, (count, reasons) in sorted(rows.items(), key=lambda row: row[0].lower()):
        why = "; ".join(list(reasons)[:3]).replace("|", "/")
        lines.append(f"| {operator} | {count['passed'] + count['given']} | {count['given'] or ''} | {count['refused'] or ''} | {why} |")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
