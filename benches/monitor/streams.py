#!/usr/bin/env python3
"""Drift detectors on streams: delay and false alarms of Whit's monitor, before and after calibration, beside river and evidently.

    cargo build --release -p whit-cli && cargo build --release -p whit-benches --bin monitor-stream
    python3 benches/monitor/streams.py --work /tmp/streams --write docs/drift.md

Sets up a virtual environment in the work folder on its first run (requirements.txt). NAB is read from
../shared/models/streams/nab, and left out when that isn't there.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    parser.add_argument("--work", type=Path, required=True, help="folder for the environment and files")
    parser.add_argument("--whit", type=Path, default=target / "whit")
    parser.add_argument("--stream-tool", type=Path, default=target / "monitor-stream")
    parser.add_argument("--nab", type=Path, default=ROOT.parent / "shared/models/streams/nab")
    parser.add_argument("--calibrations", type=int, default=20, help="draws of calibration data")
    parser.add_argument("--windows", type=int, default=300, help="without drift, for each of them")
    parser.add_argument("--false-alarm", type=float, default=0.01)
    parser.add_argument("--parts", default="digits,sea,ar,nab", help="what to run; none writes tables only")
    parser.add_argument("--json", type=Path, help="results: parts that are run replace those in it")
    parser.add_argument("--write", type=Path, help="the page whose tables are written")
    return parser.parse_args()


def enter_environment(work):
    """Runs this script again with the interpreter of its environment."""
    python = work / "venv/bin/python"
    wanted = (HERE / "requirements.txt").read_text()
    mark = work / "venv/requirements.txt"
    if not mark.exists() or mark.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", work / "venv"], check=True)
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, "-r", HERE / "requirements.txt"], check=True)
        mark.write_text(wanted)
    os.environ["WHIT_STREAMS_ENTERED"] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.execv(python, [str(python), *sys.argv])


WINDOW_RUNS = 128  # what convert takes when it has as many samples
CLEAN_WINDOWS, DRIFTED_WINDOWS = 4, 12  # of a stream with an onset
PEER_CALIBRATIONS = 4  # calibrations whose streams the slow peers see, too


class Tally:
    """Alarms of one detector: on drift-free streams by unit, and delays behind onsets."""

    def __init__(self):
        self.clean, self.runs, self.delays = [], [], {}

    def add_clean(self, alarms, runs):
        self.clean.append(len(alarms))
        self.runs.append(runs)

    def add_onset(self, drift, alarms, onset):
        behind = [alarm for alarm in alarms if alarm >= onset]
        self.delays.setdefault(drift, []).append(behind[0] - onset + 1 if behind else None)

    def figures(self):
        import numpy as np

        out = {}
        if self.clean:
            clean, runs = np.array(self.clean), np.array(self.runs)
            # Streams of one calibration resemble each other: the interval resamples calibrations.
            pick = np.random.default_rng(0).integers(0, len(clean), (4000, len(clean)))
            rates = 1e4 * clean[pick].sum(1) / runs[pick].sum(1)
            out["false_alarms"] = int(clean.sum())
            out["runs"] = int(runs.sum())
            out["per_10000"] = 1e4 * clean.sum() / runs.sum()
            out["interval"] = [float(x) for x in np.quantile(rates, [0.025, 0.975])]
        for drift, delays in self.delays.items():
            found = [delay for delay in delays if delay is not None]
            out.setdefault("delays", {})[drift] = {
                "of": len(delays),
                "found": len(found),
                "median": float(np.median(found)) if found else None,
            }
        return out


class Board:
    """Tallies by name, costs by name."""

    def __init__(self):
        self.tallies, self.costs = {}, {}

    def __getitem__(self, name):
        return self.tallies.setdefault(name, Tally())

    def cost(self, name, ns, state_bytes):
        self.costs.setdefault(name, []).append((ns, state_bytes))

    def figures(self):
        costs = {
            name: {"ns": sorted(ns for ns, _ in seen)[len(seen) // 2], "bytes": seen[-1][1]}
            for name, seen in self.costs.items()
        }
        figures = {name: tally.figures() for name, tally in self.tallies.items()}
        return {"detectors": figures, "costs": costs}


def observe(board, whit, scenario, file, calibration, rows, labels, add, slow):
    """Everything on one stream. `add` takes (tally, alarms)."""
    import numpy as np
    import peers

    watch, signals = whit.run(file, rows, labels, signals=True)
    for kind in applicable(scenario):
        add(board[f"whit {kind}"], watch.alarms[kind])
    board.cost("whit monitor", watch.monitor_ns, watch.monitor_bytes)
    for statistic in ("psi", "ks"):
        other = whit.run(file, rows, labels, statistic)
        add(board[f"whit inputs {statistic}"], other.alarms["inputs"])
    shares = scenario.name != "ar"
    name = "confidence" if shares else "value"
    _, usual = whit.run(file, calibration, signals=True)
    for at, signal in enumerate([name] + (["entropy"] if shares else [])):
        found = peers.textbook(whit, signals[signal], usual[signal], shares)
        for detector, (alarms, ns, size) in found.items():
            # Calibrated CUSUM watches the entropy, the others confidence.
            if not shares or (detector == "cusum") == (signal == "entropy"):
                add(board[f"textbook {detector}"], alarms)
                board.cost(f"whit {detector}", ns, size)
    errors = None
    if labels is not None:
        errors = (signals["class"] != labels).astype(np.int32)
        alarms, ns, size = peers.textbook_ddm(whit, errors)
        add(board["textbook ddm"], alarms)
        board.cost("whit ddm", ns, size)
    if not slow:
        return
    scale = peers.ONE if shares else max(usual[name].std(), 1e-9)
    middle = 0 if shares else usual[name].mean()
    for detector in peers.river_detectors():
        of_errors = detector in peers.OF_ERRORS
        if of_errors and errors is None:
            continue
        signal = errors if of_errors else (signals[name] - middle) / scale
        alarms, ns, size = peers.river(detector, signal)
        add(board[f"river {detector}"], alarms)
        board.cost(f"river {detector}", ns, size)
    alarms, ns = peers.windows(calibration, rows, watch.window_runs)
    for rule, found in alarms.items():
        add(board[rule], found)
    board.cost("window rules (numpy, scipy)", ns, None)


def applicable(scenario):
    from whit import KINDS

    if scenario.name == "ar":
        return ["inputs", "page_hinkley", "cusum", "ewma"]
    return KINDS


def synthetic(options, whit, scenario):
    """False alarms on endless drift-free data, delays behind known onsets."""
    import numpy as np

    board = Board()
    window = WINDOW_RUNS
    for unit in range(options.calibrations):
        rng = np.random.default_rng([unit, 7])
        calibration, labels = scenario.draw(rng, scenario.calibration)
        file = whit.convert(scenario.onnx, calibration, labels, scenario.convert, scenario.name)
        slow = unit < PEER_CALIBRATIONS
        rows, truth = scenario.draw(rng, options.windows * window)
        add = lambda tally, alarms: tally.add_clean(alarms, len(rows))
        part = len(rows) // 12  # of the drift-free stream, for them
        observe(board, whit, scenario, file, calibration, rows, truth, add, False)
        if slow:
            rows = rows[:part]
            truth = None if truth is None else truth[:part]
            only = Board()
            observe(only, whit, scenario, file, calibration, rows, truth, add, True)
            for name, tally in only.tallies.items():
                if not name.startswith(("whit", "textbook")):
                    board[name].clean += tally.clean
                    board[name].runs += tally.runs
            for name, costs in only.costs.items():
                board.costs.setdefault(name, []).extend(costs)
        for drift in scenario.drifts:
            # Onsets lie anywhere in a window.
            onset = CLEAN_WINDOWS * window + int(rng.integers(0, window))
            before, truth_before = scenario.draw(rng, onset)
            after, truth_after = drift.apply(rng, DRIFTED_WINDOWS * window)
            rows = np.vstack([before, after])
            truth = None
            if truth_before is not None:
                truth = np.concatenate([truth_before, truth_after])
            add = lambda tally, alarms: tally.add_onset(drift.name, alarms, onset)
            observe(board, whit, scenario, file, calibration, rows, truth, add, slow)
        print(f"{scenario.name}: {unit + 1} of {options.calibrations}", flush=True)
    return board.figures()


def nab(options, whit):
    """Series of NAB, watched as they are and through a forecaster's error."""
    import data
    import numpy as np
    import peers
    from whit import KINDS

    results = {}
    series = data.nab(options.nab)
    for residual in (False, True):
        tallies = {}
        for one in series:
            rows = one.rows()
            count = one.calibration - data.LAGS + 1
            model = options.work / "series.onnx"
            data.forecaster(model, rows[:count], residual)
            file = whit.convert(model, rows[:count], None, ["--monitor", "value"], "series")
            field = rows[count:]
            watch, signals = whit.run(file, field, signals=True)
            _, usual = whit.run(file, rows[:count], signals=True)
            alarms = {f"whit {k}": watch.alarms[k] for k in ["inputs", *KINDS[3:6]]}
            usual, signal = usual["value"], signals["value"]
            found = peers.textbook(whit, signal, usual, False)
            alarms |= {f"textbook {name}": of[0] for name, of in found.items()}
            standard = (signal - usual.mean()) / max(usual.std(), 1e-9)
            for name in ("PageHinkley", "ADWIN", "KSWIN"):
                alarms[f"river {name}"] = peers.river(name, standard)[0]
            windows = [(a - one.calibration, b - one.calibration) for a, b in one.windows]
            for name, at in alarms.items():
                empty = {"windows": 0, "delays": [], "false": 0, "values": 0, "by": {}}
                tally = tallies.setdefault(name, empty)
                at = np.array(at, dtype=int)
                inside = np.zeros(len(field), bool)
                hits = 0
                for first, last in windows:
                    # A window test tells at its end, at most that much behind.
                    late = watch.window_runs if name == "whit inputs" else 0
                    inside[max(first, 0) : last + 1 + late] = True
                    hit = at[(at >= first) & (at <= last + late)]
                    tally["windows"] += 1
                    if len(hit):
                        hits += 1
                        tally["delays"].append(int(hit[0]) - first + 1)
                false = int((~inside[at]).sum()) if len(at) else 0
                tally["false"] += false
                tally["values"] += int((~inside).sum())
                tally["by"][one.name] = [hits, len(windows), false, int((~inside).sum())]
        results["error of a forecast" if residual else "the value"] = tallies
        print(f"nab, residual {residual}", flush=True)
    return {"series": len(series), "signals": results}


def against_evidently(whit, scenario):
    """Whether the rules that stand for evidently are what it computes, and its time."""
    import numpy as np
    import peers

    rng = np.random.default_rng(3)
    reference, _ = scenario.draw(rng, scenario.calibration)
    seconds, worst = [], 0.0
    for _ in range(3):
        window, _ = scenario.draw(rng, WINDOW_RUNS)
        p, share, spent = peers.evidently(reference, window)
        ours = peers.ks(reference, window)
        worst = max(worst, float(np.abs(p - ours).max()))
        if (share >= 0.5) != ((ours < 0.05).mean() >= 0.5):
            raise SystemExit(f"evidently's share is {share}")
        seconds.append(spent)
    if worst > 1e-9:
        raise SystemExit(f"evidently's p-values are others: {worst}")
    return {"seconds": sorted(seconds)[1], "p_difference": worst}


def main():
    options = arguments()
    options.work.mkdir(parents=True, exist_ok=True)
    if "WHIT_STREAMS_ENTERED" not in os.environ:
        enter_environment(options.work.resolve())
    sys.path.insert(0, str(HERE))
    import warnings

    import data
    import report
    from whit import Whit

    warnings.filterwarnings("ignore", module="sklearn")
    out = options.json or options.work / "results.json"
    results = json.loads(out.read_text()) if out.exists() else {}
    parts = [part for part in options.parts.split(",") if part != "none"]
    whit = Whit(options.whit, options.stream_tool, options.work, options.false_alarm)
    makers = {"digits": data.digits, "sea": data.sea, "ar": data.autoregressive}
    for part in parts:
        begin = time.time()
        if part == "nab" and not options.nab.is_dir():
            print(f"no {options.nab}: left out")
            continue
        if part == "nab":
            results["nab"] = nab(options, whit)
        else:
            scenario = makers[part](options.work)
            if part == "digits":
                results["evidently"] = against_evidently(whit, scenario)
            results[part] = synthetic(options, whit, scenario)
        results["window_runs"] = WINDOW_RUNS
        out.write_text(json.dumps(results, indent=1))
        print(f"{part}: {(time.time() - begin) / 60:.1f} minutes", flush=True)
    if options.write:
        report.write(options.write, json.loads(out.read_text()))


if __name__ == "__main__":
    main()
