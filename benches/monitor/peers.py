"""The others on the same streams: river's detectors, window tests as evidently and alibi-detect set them, and Whit's own
detectors with the parameters of textbooks."""

import pickle
import time

import numpy as np

ONE = 32768  # confidences and entropies in 2^-15


def textbook(whit, signal, calibration, unit_is_one):
    """Whit's detectors as textbooks and river's defaults set them: alarms by name. Signals are shares, or are standardised
    by the calibration data, and then take river's numbers too."""
    mean, sigma = calibration.mean(), max(calibration.std(), 1e-9)
    unit = ONE if unit_is_one else sigma
    settings = {
        # river: delta 0.005, threshold 50, 30 numbers before an alarm.
        "page_hinkley": [max(round(0.005 * unit), 1), round(50 * unit), 30],
        # Montgomery: k = sigma / 2, h = 5 sigma.
        "cusum": [round(mean), round(sigma / 2), round(5 * sigma)],
        # Roberts, Montgomery: weight 0.2, limits of 3 deviations of the average, sigma * sqrt(0.2 / 1.8).
        "ewma": [round(mean), 13107, round(3 * sigma * (0.2 / 1.8) ** 0.5)],
    }
    if unit_is_one:
        settings["adwin"] = [407281, 0, 0]  # delta 0.002, as river
    return {name: whit.detect(signal, name, setting) for name, setting in settings.items()}


def textbook_ddm(whit, errors):
    return whit.detect(errors * ONE, "ddm", [768, 30, 0])


def river_detectors():
    from river import drift
    from river.drift import binary

    return {
        "PageHinkley": drift.PageHinkley,
        "ADWIN": drift.ADWIN,
        "KSWIN": lambda: drift.KSWIN(seed=1),
        "DDM": binary.DDM,
        "HDDM_A": binary.HDDMA,
        "HDDM_W": binary.HDDMW,
    }


OF_ERRORS = {"DDM", "HDDM_A", "HDDM_W"}


def river(name, signal):
    """Alarms, nanoseconds of a number, bytes of the pickled state."""
    detector = river_detectors()[name]()
    numbers = [bool(x) for x in signal] if name in OF_ERRORS else signal.tolist()
    alarms = []
    begin = time.perf_counter()
    for at, number in enumerate(numbers):
        detector.update(number)
        if detector.drift_detected:
            alarms.append(at)
    spent = time.perf_counter() - begin
    return alarms, 1e9 * spent / max(len(numbers), 1), len(pickle.dumps(detector))


def psi(reference, window):
    """Of each feature, by ten bins of equal counts, with half a count added to each."""
    out = []
    for a, b in zip(reference.T, window.T):
        edges = np.unique(np.quantile(a, np.arange(1, 10) / 10))
        p = np.bincount(np.searchsorted(edges, a, "right"), minlength=len(edges) + 1) + 0.5
        q = np.bincount(np.searchsorted(edges, b, "right"), minlength=len(edges) + 1) + 0.5
        p, q = p / p.sum(), q / q.sum()
        out.append(((p - q) * np.log(p / q)).sum())
    return np.array(out)


def ks(reference, window):
    """p-values of scipy's two-sample test, of each feature."""
    from scipy.stats import ks_2samp

    return np.array([ks_2samp(a, b).pvalue for a, b in zip(reference.T, window.T)])


WINDOW_RULES = {
    "PSI over 0.25, any feature (industry's rule)": lambda psi, p: (psi > 0.25).any(),
    "KS at 5 %, any feature": lambda psi, p: (p < 0.05).any(),
    "evidently: half of the features drifted": lambda psi, p: (p < 0.05).mean() >= 0.5,
    "KS at 5 %, Bonferroni (alibi-detect's default)": lambda psi, p: (p < 0.05 / len(p)).any(),
    "KS at 1 %, Bonferroni": lambda psi, p: (p < 0.01 / len(p)).any(),
}


def windows(reference, rows, size):
    """Alarms of every rule, as the last run of the window, from 0; nanoseconds of a run."""
    alarms = {name: [] for name in WINDOW_RULES}
    begin = time.perf_counter()
    for start in range(0, len(rows) - size + 1, size):
        window = rows[start : start + size]
        values = psi(reference, window), ks(reference, window)
        for name, rule in WINDOW_RULES.items():
            if rule(*values):
                alarms[name].append(start + size - 1)
    return alarms, 1e9 * (time.perf_counter() - begin) / max(len(rows), 1)


def evidently(reference, window):
    """Its report on one window: p-values of the columns, share of them that drifted, seconds."""
    import warnings

    import pandas
    from evidently import Report
    from evidently.presets import DataDriftPreset

    names = [f"f{at}" for at in range(reference.shape[1])]
    frames = [pandas.DataFrame(rows, columns=names) for rows in (window, reference)]
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = Report([DataDriftPreset()]).run(*frames).dict()
    spent = time.perf_counter() - begin
    metrics = report["metrics"]
    columns = [m for m in metrics if m["config"]["type"].endswith("ValueDrift")]
    kinds = {m["config"]["method"] for m in columns}
    if kinds != {"K-S p_value"}:
        raise SystemExit(f"evidently chose {kinds}")
    p = np.array([float(m["value"]) for m in columns])
    return p, metrics[0]["value"]["share"], spent
