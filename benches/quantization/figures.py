"""Figures from outputs: accuracy with Wilson's interval, what changed against float and how sure that is, noise."""

import math

import numpy as np

Z95 = 1.959964  # of the normal distribution, for 95 %
RESAMPLES = 10_000


def wilson(hits, count):
    """Wilson's score interval of a proportion, in points (Wilson, JASA 22, 1927)."""
    p, z2 = hits / count, Z95 * Z95
    middle = (p + z2 / (2 * count)) / (1 + z2 / count)
    half = Z95 / (1 + z2 / count) * math.sqrt(p * (1 - p) / count + z2 / (4 * count * count))
    return [100 * (middle - half), 100 * (middle + half)]


def bootstrap_difference(lost, gained, count, seed):
    """95 % of the difference of two models on the same samples, in points: samples drawn anew, in pairs."""
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(count, [lost / count, gained / count, 1 - (lost + gained) / count], RESAMPLES)
    return [float(v) for v in np.percentile(100 * (draws[:, 1] - draws[:, 0]) / count, [2.5, 97.5])]


def answers(outputs):
    """The class, or for a single probability whether it is at least a half."""
    return outputs.argmax(1) if outputs.shape[1] > 1 else (outputs[:, 0] >= 0.5).astype(int)


def snr_db(outputs, reference):
    noise = float(((outputs - reference) ** 2).mean())
    return None if noise == 0 else 10 * math.log10(float(reference.var()) / noise)


def ranks(values):
    order = values.argsort(kind="stable")
    result = np.empty(len(values))
    result[order] = np.arange(len(values))
    return result


def measure(case, outputs, reference, chosen, seed):
    """The figures of one engine's outputs. `reference`: the float model's; `chosen`: the samples that count, or None."""
    pick = slice(None) if chosen is None else chosen
    outputs, reference = outputs[pick], reference[pick]
    result = {"samples": len(outputs), "snr_db": snr_db(outputs, reference), "finite": bool(np.isfinite(outputs).all())}
    if case.task == "reconstruct":
        inputs = next(iter(case.test.values())).reshape(len(case.labels) if case.labels is not None else len(reference), -1)[pick]
        score, float_score = ((outputs - inputs) ** 2).mean(1), ((reference - inputs) ** 2).mean(1)
        return {**result, "score_error": 100 * float((np.abs(score - float_score) / float_score).mean()),
                "score_bias": 100 * float(((score - float_score) / float_score).mean()),
                "rank_correlation": float(np.corrcoef(ranks(score), ranks(float_score))[0, 1])}
    labels = answers(reference) if case.task == "agree" else case.labels[pick]
    right, float_right = answers(outputs) == labels, answers(reference) == labels
    lost, gained = int((float_right & ~right).sum()), int((right & ~float_right).sum())
    count = len(right)
    return {**result, "value": 100 * float(right.mean()), "interval": wilson(int(right.sum()), count), "float_value": 100 * float(float_right.mean()),
            "drop": 100 * (lost - gained) / count, "lost": lost, "gained": gained,
            "changed": int((answers(outputs) != answers(reference)).sum()),
            "difference_interval": bootstrap_difference(lost, gained, count, seed)}
