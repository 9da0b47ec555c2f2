"""Trains three small models on scikit-learn's digits (1797 scans of 8×8, real handwriting) and exports them.

    python benches/quantization/train.py WORK_FOLDER

A split with a fixed seed: 997 digits train, 200 more with labels are for the search, 600 test. The first
200 of the training digits calibrate. A model that is already in the folder is kept, so that every run
of the table measures the same one.
"""

import contextlib
import io
import json
import pathlib
import sys
import warnings

import numpy as np

from models import SEED, Case

TRAIN, SEARCH, TEST, CALIBRATE = 997, 200, 600, 200
EPOCHS = {"mlp": 40, "cnn": 25, "vit": 60}


def digits():
    """(inputs in 0..1 of [n, 1, 8, 8], labels) for train, search and test."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(SEED).permutation(len(data.target))
    images = (data.images[order] / 16).astype(np.float32)[:, None]
    labels = data.target[order].astype(np.int64)
    assert len(labels) == TRAIN + SEARCH + TEST
    cuts = [slice(0, TRAIN), slice(TRAIN, TRAIN + SEARCH), slice(TRAIN + SEARCH, None)]
    return [(images[cut], labels[cut]) for cut in cuts]


def network(kind):
    import torch
    from torch import nn

    def block(inputs, outputs, groups=1, size=3):
        return nn.Sequential(nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs), nn.ReLU6())

    class Layer(nn.Module):
        """A transformer's layer, normalised before each half."""

        def __init__(self, width, heads):
            super().__init__()
            self.heads = heads
            self.norm_a, self.norm_b = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x):
            batch, tokens, width = x.shape
            qkv = self.qkv(self.norm_a(x)).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
            q, k, v = qkv[0], qkv[1], qkv[2]
            weights = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)
            x = x + self.out((weights @ v).transpose(1, 2).reshape(batch, tokens, width))
            return x + self.down(nn.functional.gelu(self.up(self.norm_b(x))))

    class Vit(nn.Module):
        """A vision transformer: 16 patches of 2×2, a class token, four layers of 64."""

        def __init__(self, width=64, heads=4, layers=4):
            super().__init__()
            self.patches = nn.Conv2d(1, width, 2, 2)
            self.token = nn.Parameter(torch.zeros(1, 1, width))
            self.position = nn.Parameter(torch.randn(1, 17, width) * 0.02)
            self.layers = nn.Sequential(*[Layer(width, heads) for _ in range(layers)])
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

        def forward(self, x):
            y = self.patches(x).flatten(2).transpose(1, 2)
            y = torch.cat([self.token.expand(y.shape[0], -1, -1), y], 1) + self.position
            return self.head(self.norm(self.layers(y))[:, 0])

    if kind == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    if kind == "cnn":
        # With depthwise convolutions, whose channels' ranges differ most.
        return nn.Sequential(block(1, 16), block(16, 16, 16), block(16, 32, size=1), nn.MaxPool2d(2), block(32, 32, 32), block(32, 64, size=1),
                             nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return Vit()


def shifted(images, rng):
    """Moved by up to one pixel: the one augmentation that keeps a digit a digit at this size."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    moves = rng.integers(0, 3, (len(images), 2))
    return np.stack([image[:, y:y + 8, x:x + 8] for image, (y, x) in zip(padded, moves)])


def fit(kind):
    import torch

    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # sums in one order
    rng = np.random.default_rng(SEED)
    (images, labels), _, _ = digits()
    module = network(kind)
    optimizer = torch.optim.AdamW(module.parameters(), 2e-3, weight_decay=0.01)
    steps = EPOCHS[kind] * -(-TRAIN // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    module.train()
    for _ in range(EPOCHS[kind]):
        order = rng.permutation(TRAIN)
        moved = shifted(images, rng)
        for start in range(0, TRAIN, 64):
            batch = order[start:start + 64]
            loss = torch.nn.functional.cross_entropy(module(torch.from_numpy(moved[batch])), torch.from_numpy(labels[batch]), label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return module.eval()


def accuracy(module, images, labels):
    import torch

    with torch.no_grad():
        return 100 * float((module(torch.from_numpy(images)).argmax(1).numpy() == labels).mean())


def export(module, folder):
    """float.onnx, and float.tflite or why there is none."""
    import torch

    one = torch.zeros(1, 1, 8, 8)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (one,), str(folder / "float.onnx"), input_names=["x"], output_names=["y"], opset_version=17, dynamo=False)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            import litert_torch

            litert_torch.convert(module, (one,)).export(str(folder / "float.tflite"))
    except Exception as error:  # any of the exporter's own
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else ''}"
    return None


def make(work, kind):
    """Trains and exports unless it's there; returns what was written down about it."""
    folder = work / "models" / f"digits-{kind}"
    record = folder / "record.json"
    if not record.exists():
        folder.mkdir(parents=True, exist_ok=True)
        print(f"training digits-{kind}", file=sys.stderr)
        module = fit(kind)
        about = {"accuracy": accuracy(module, *digits()[2]), "parameters": sum(p.numel() for p in module.parameters())}
        about["no_tflite"] = export(module, folder)
        record.write_text(json.dumps(about, indent=1) + "\n")
    return json.loads(record.read_text())


def case(work, kind):
    about = make(work, kind)
    folder = work / "models" / f"digits-{kind}"
    (train, _), (search, search_labels), (test, labels) = digits()
    tflite = folder / "float.tflite" if (folder / "float.tflite").exists() else None
    what = {"mlp": "two hidden layers, 128 and 64", "cnn": "convolutions with batch norm, depthwise ones among them",
            "vit": "vision transformer: 16 patches, four layers of 64, four heads"}[kind]
    notes = [f"{what}; {about['parameters']:,} parameters, trained by `train.py` on {TRAIN} digits; calibrated on {CALIBRATE} of these, "
             f"tested on {TEST} others, searched on {SEARCH} more"]
    if tflite is None:
        notes.append(f"no LiteRT: `litert-torch` made no .tflite ({about['no_tflite']})")
    return Case(f"digits-{kind}", "classify", {"x": train[:CALIBRATE]}, {"x": test}, labels, onnx=folder / "float.onnx", tflite=tflite,
                search={"x": search}, search_labels=search_labels, expected=about["accuracy"], notes=notes)


def main():
    work = pathlib.Path(sys.argv[1])
    for kind in EPOCHS:
        print(kind, make(work, kind))


if __name__ == "__main__":
    main()
