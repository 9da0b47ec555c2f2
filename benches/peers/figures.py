"""Arithmetic of the comparison: medians, ratios, which runtimes agree. `python figures.py` tests it."""

import math
import statistics

import numpy as np

# Largest difference over the largest output. Sums in another order, Winograd's transforms and approximate exponentials
# differ by some 1e-5; a wrong layer by far more.
MAX_FLOAT_ERROR = 1e-3
# Outputs of integer models, in steps of the output's scale (without one, 1/255 of the outputs' range). A layer may round
# half the other way, which later layers carry on: few outputs move by more than a step or two.
MAX_MEAN_STEPS = 1.0
MAX_STEPS = 16.0
MIN_TOP1_AGREEMENT = 0.9


def geometric_mean(values):
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def spread(values):
    """Distance of the quartiles over the median."""
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle


def summary(turns):
    """Of the runs' times in ns, turn by turn: the median of the turns' medians, the fastest run, how far turns differ."""
    medians = [statistics.median(turn) for turn in turns]
    return {
        "median_us": statistics.median(medians) / 1e3,
        "min_us": min(map(min, turns)) / 1e3,
        "spread": spread(medians),
        "turn_medians_us": [round(median / 1e3, 3) for median in medians],
    }


def float_difference(a, b):
    """None if two lists of outputs agree, or how they differ, and by how much they do."""
    worst = 0.0
    for left, right in zip(a, b, strict=True):
        if left.size != right.size:
            return f"{right.size} outputs instead of {left.size}", math.inf
        if not (np.isfinite(left).all() and np.isfinite(right).all()):
            return "outputs that are not finite", math.inf
        range_ = max(np.abs(left).max(initial=0), np.abs(right).max(initial=0), 1e-30)
        worst = max(worst, float(np.abs(left.ravel() - right.ravel()).max(initial=0) / range_))
    if worst <= MAX_FLOAT_ERROR:
        return None, worst
    return f"{worst:.1e} of the range", worst


def integer_difference(a, b, step, classifies):
    """As float_difference, in steps, for the first output."""
    left, right = a[0], b[0]
    if left.size != right.size:
        return f"{right.size} outputs instead of {left.size}", math.inf
    step = step or float(max(left.max(), right.max()) - min(left.min(), right.min())) / 255 or 1.0
    steps = np.abs(left.ravel() - right.ravel()) / step
    worst, mean = float(steps.max()), float(steps.mean())
    if not math.isfinite(worst):
        return "outputs that are not finite", math.inf
    if worst > MAX_STEPS or mean > MAX_MEAN_STEPS:
        return f"up to {worst:.0f} steps, {mean:.2g} on average", worst
    if classifies:
        same = float((left.argmax(axis=-1) == right.argmax(axis=-1)).mean())
        if same < MIN_TOP1_AGREEMENT:
            return f"the same class for {same:.0%} of the samples", worst
    return None, worst


def agreeing(names, differs):
    """The largest set of names one of which agrees with all others; of equals, that around the earliest name."""
    best = []
    for name in names:
        group = [other for other in names if other == name or not differs(name, other)]
        if len(group) > len(best):
            best = group
    return best


def ratios(row, threads, runtimes, differing=False, key="median_us", whit="whit"):
    """Whit's time over each peer's, of a row of results; of those whose outputs differ only if asked."""
    times = {}
    for name in runtimes:
        result = row["runtimes"].get(name, {}).get("latency", {}).get(str(threads))
        if result and (differing or not row["runtimes"][name].get("differs")):
            times[name] = result[key]
    if whit not in times:
        return {}
    return {name: times[whit] / time for name, time in times.items() if name != whit}


def against_best(ratios_of_models):
    """Models with a peer: how many, geometric mean of Whit's time over the fastest peer's, and the worst."""
    worst = [max(of_model.values()) for of_model in ratios_of_models if of_model]
    if not worst:
        return None
    return {"models": len(worst), "mean": geometric_mean(worst), "worst": max(worst)}


def test():
    assert abs(geometric_mean([0.5, 2.0]) - 1.0) < 1e-12 and geometric_mean([]) is None
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == 2.0 / 3.0
    turns = summary([[1000, 3000, 2000], [5000, 4000, 9000], [3000, 3000, 500]])
    assert (turns["median_us"], turns["min_us"], turns["turn_medians_us"]) == (3.0, 0.5, [2.0, 5.0, 3.0])

    row = {"runtimes": {
        "whit": {"latency": {"1": {"median_us": 8.0}}},
        "a": {"latency": {"1": {"median_us": 10.0}}},
        "b": {"latency": {"1": {"median_us": 4.0}}},
        "c": {"latency": {"1": {"median_us": 1.0}}, "differs": "by far"},
        "d": {"missing": "an operator"},
    }}
    found = ratios(row, 1, ["whit", "a", "b", "c", "d"])
    assert ratios(row, 1, ["whit", "a", "c"], differing=True) == {"a": 0.8, "c": 8.0}
    assert found == {"a": 0.8, "b": 2.0} and ratios(row, 2, ["whit", "a"]) == {}
    best = against_best([found, {"a": 0.5}, {}])
    assert best["models"] == 2 and abs(best["mean"] - 1.0) < 1e-12 and best["worst"] == 2.0
    assert against_best([{}]) is None

    one = [np.array([[0.0, 1.0], [1.0, 0.0]], np.float32)]
    cases = [  # other outputs, whether they agree as floats, and as integers of step 0.1
        (one[0] + np.float32(5e-4), True, True),
        (one[0] + np.float32(0.09), False, True),
        (one[0] + np.float32(0.2), False, False),
        (one[0][:, ::-1], False, False),
        (one[0] * np.float32(math.nan), False, False),
        (one[0][:1], False, False),
    ]
    for other, as_float, as_integer in cases:
        assert (float_difference(one, [other])[0] is None) == as_float
        assert (integer_difference(one, [other], 0.1, True)[0] is None) == as_integer
    assert integer_difference(one, [np.array([[0.6, 0.5], [1.0, 0.0]], np.float32)], 1.0, True)[0] is not None

    pairs = {("whit", "b"), ("b", "c"), ("c", "d"), ("b", "d")}
    differs = lambda a, b: (a, b) not in pairs and (b, a) not in pairs
    assert agreeing(["whit", "b", "c", "d"], differs) == ["whit", "b", "c", "d"]
    assert agreeing(["whit", "c", "d"], differs) == ["c", "d"]
    assert agreeing(["whit", "e"], differs) == ["whit"]
    print("figures: ok")


if __name__ == "__main__":
    test()
