"""Streams with a known onset of drift, and the small models that are watched on them.

Everything is drawn from seeds or read from ../shared/models; nothing is downloaded.
"""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LAGS = 8  # values that a forecaster of a series sees, the newest first


def save_layers(path, layers, softmax):
    """Writes dense layers with ReLU between them as ONNX: (weights [in, out], bias)."""
    nodes, constants, name = [], [], "x"
    for at, (weights, bias) in enumerate(layers):
        constants += [
            numpy_helper.from_array(weights.astype(np.float32), f"w{at}"),
            numpy_helper.from_array(bias.astype(np.float32), f"b{at}"),
        ]
        last = at + 1 == len(layers)
        out = "y" if last and not softmax else f"h{at}"
        nodes.append(helper.make_node("Gemm", [name, f"w{at}", f"b{at}"], [out]))
        name = out
        if not last:
            nodes.append(helper.make_node("Relu", [name], [f"r{at}"]))
            name = f"r{at}"
    if softmax:
        nodes.append(helper.make_node("Softmax", [name], ["y"], axis=-1))
    width, outputs = layers[0][0].shape[0], layers[-1][0].shape[1]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "model",
        [value("x", TensorProto.FLOAT, [1, width])],
        [value("y", TensorProto.FLOAT, [1, outputs])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


def train_classifier(path, rows, labels, hidden):
    from sklearn.neural_network import MLPClassifier

    scale = rows.std(0) + 1e-3
    mean = rows.mean(0)
    net = MLPClassifier(hidden, max_iter=200, random_state=1)
    net.fit((rows - mean) / scale, labels)
    weights = [(w, b) for w, b in zip(net.coefs_, net.intercepts_)]
    # The scaling goes into the first layer; one output for two classes becomes two.
    first = weights[0][0] / scale[:, None]
    weights[0] = (first, weights[0][1] - mean @ first)
    w, b = weights[-1]
    if w.shape[1] == 1:
        weights[-1] = (np.hstack([0 * w, w]), np.array([0.0, b[0]]))
    save_layers(path, weights, softmax=True)


@dataclass
class Drift:
    name: str
    apply: object  # (rng, count) -> rows, labels


@dataclass
class Scenario:
    """A model, and streams that it runs on."""

    name: str
    onnx: Path
    draw: object  # (rng, count) -> rows, labels, without drift
    drifts: list = field(default_factory=list)
    convert: list = field(default_factory=list)
    calibration: int = 1000


def digits(work):
    """scikit-learn's digits (UCI, CC BY 4.0), with the noise of a sensor: an endless stream of one distribution."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.data))
    rows, labels = data.data[order], data.target[order]
    half = len(rows) // 2

    def noisy(rng, pick, labels_of, sigma):
        return np.clip(pick + rng.normal(0, sigma, pick.shape), 0, 16), labels_of

    rng = np.random.default_rng(1)
    again = rng.integers(0, half, 6000)
    train = noisy(rng, rows[again], labels[again], 1)
    path = work / "digits.onnx"
    train_classifier(path, train[0], train[1], (32,))
    pool, truth = rows[half:], labels[half:]

    def draw(rng, count, sigma=1.0, weights=None):
        pick = rng.choice(len(pool), count, p=weights)
        return noisy(rng, pool[pick], truth[pick], sigma)

    def gain(rng, count):
        x, y = draw(rng, count)
        return np.clip(x * 0.8, 0, 16), y

    def offset(rng, count):
        x, y = draw(rng, count)
        return np.clip(x + 0.7, 0, 16), y

    def dead_row(rng, count):
        x, y = draw(rng, count)
        x[:, 24:32] = 0
        return x, y

    mix = np.where(truth < 3, 3.0, 1.0)
    mix /= mix.sum()
    drifts = [
        Drift("gain 0.8", gain),
        Drift("offset +0.7 of 16", offset),
        Drift("noise 1 to 1.6", lambda rng, count: draw(rng, count, 1.6)),
        Drift("a row of pixels dead", dead_row),
        Drift("digits 0 to 2 thrice as often", lambda rng, count: draw(rng, count, 1.0, mix)),
    ]
    return Scenario("digits", path, draw, drifts, ["--quantize", "int8"])


def sea(work):
    """SEA concepts (Street and Kim, 2001): the label is whether x0 + x1 is at most a threshold, one in ten is wrong."""

    def draw(rng, count, threshold=8.0):
        x = rng.uniform(0, 10, (count, 3))
        y = (x[:, 0] + x[:, 1] <= threshold).astype(int)
        return x, np.where(rng.random(count) < 0.1, 1 - y, y)

    path = work / "sea.onnx"
    rows, labels = draw(np.random.default_rng(2), 8000)
    train_classifier(path, rows, labels, (16,))
    drifts = [
        Drift("threshold 8 to 9", lambda rng, count: draw(rng, count, 9.0)),
        Drift("threshold 8 to 9.5", lambda rng, count: draw(rng, count, 9.5)),
        Drift("threshold 8 to 7", lambda rng, count: draw(rng, count, 7.0)),
    ]
    return Scenario("sea", path, draw, drifts)


def autoregressive(work, phi=0.9):
    """Eight sensors, each a first-order autoregression: neighbours depend on each other, and the truth is known."""
    path = work / "ar.onnx"
    save_layers(path, [(np.full((8, 1), 0.125), np.zeros(1))], softmax=False)

    def draw(rng, count):
        from scipy.signal import lfilter

        noise = rng.normal(0, np.sqrt(1 - phi * phi), (count + 500, 8))
        return lfilter([1], [1, -phi], noise, axis=0)[500:], None

    def shifted(rng, count):
        x, y = draw(rng, count)
        x[:, 3] += 1.5
        return x, y

    drifts = [Drift("one sensor off by 1.5 deviations", shifted)]
    return Scenario("ar", path, draw, drifts, ["--monitor", "value"], 4000)


@dataclass
class Series:
    """A series of NAB with its labelled windows."""

    name: str
    values: np.ndarray
    windows: list  # first and last index
    calibration: int

    def rows(self):
        """Row t: the value at t and the LAGS - 1 before it. The first LAGS - 1 values have none."""
        return np.lib.stride_tricks.sliding_window_view(self.values, LAGS)[:, ::-1]


def nab(folder):
    """Series of the Numenta Anomaly Benchmark (MIT): those of known cause, and the artificial ones."""
    labels = json.loads((folder / "combined_windows.json").read_text())
    series = []
    for path in sorted(folder.glob("*/*.csv")):
        with path.open() as file:
            table = list(csv.DictReader(file))
        values = np.array([float(row["value"]) for row in table])
        times = [row["timestamp"] for row in table]
        key = f"{path.parent.name}/{path.name}"
        windows = [
            (times.index(first.split(".")[0]), times.index(last.split(".")[0]))
            for first, last in labels.get(key, [])
        ]
        # The first 30 %, or what lies before the first window.
        first = min([first for first, _ in windows], default=len(values))
        series.append(Series(path.stem, values, windows, min(len(values) * 3 // 10, first)))
    return series


def forecaster(path, rows, residual):
    """The model watched on a series: `residual` gives how far the newest value is off a linear forecast from those before, by
    least squares over `rows`; else the newest value itself."""
    weights, bias = np.zeros(LAGS), 0.0
    weights[0] = 1.0
    if residual:
        past = np.hstack([rows[:, 1:], np.ones((len(rows), 1))])
        # A little ridge: series without noise leave the coefficients open.
        scale = 1e-6 * (past**2).sum(0).mean()
        found = np.linalg.solve(past.T @ past + scale * np.eye(LAGS), past.T @ rows[:, 0])
        weights[1:], bias = -found[:-1], -found[-1]
    save_layers(path, [(weights[:, None], np.array([bias]))], softmax=False)
