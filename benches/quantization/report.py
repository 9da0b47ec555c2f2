"""Tables from the JSON of table.py: one line per model, one table per model, and the peers as ratios to Whit."""

import pathlib

BEGIN, END = "<!-- made by benches/quantization/table.py: begin -->", "<!-- made by benches/quantization/table.py: end -->"
# A peer's scheme beside Whit's of the same kind: the first of these that Whit made.
COUNTERPARTS = {"float": ["float"], "int8": ["int8", "int8 min-max"], "uint8": ["int8", "int8 min-max"], "published int8": ["int8", "int8 min-max"],
                "dynamic int8": ["w8"], "int16": ["int16"], "w8": ["w8"], "w4": ["w4"], "dynamic int4": ["w4"]}
SUMMARY = ["float", "int8 min-max", "int8", "int16", "w8", "w4", "auto", "auto, size first"]


def find(model, engine, scheme):
    return next((r for r in model["rows"] if (r["engine"], r["scheme"]) == (engine, scheme) and "refused" not in r), None)


def counterpart(model, row):
    kind = next((k for k in sorted(COUNTERPARTS, key=len, reverse=True) if row["scheme"].startswith(k)), None)
    return next((found for name in COUNTERPARTS.get(kind, []) if (found := find(model, "Whit", name))), None)


def points(value, sign=False):
    text = f"{value:+.2f}" if sign else f"{value:.2f}"
    return text.replace("-", "−") if text.strip("+-0.") else "0"


def kilobytes(value):
    return "–" if value is None else f"{value / 1024:.1f}"


def figure(row):
    """The figure that a model is judged by."""
    return f"{row['score_error']:.2f} % off" if "score_error" in row else f"{row['value']:.2f} %"


def change(row):
    return f"rank {row['rank_correlation']:.4f}" if "score_error" in row else points(-row["drop"], sign=True)


def ratio(a, b):
    return f"{a / b:.2f}×" if a and b else "–"


def grid(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(map(str, r)) + " |" for r in rows)]


def best_static(model, engine):
    """The peer's best static int8 on the test samples, chosen with hindsight."""
    rows = [r for r in model["rows"] if r["engine"] == engine and r["scheme"].startswith(("int8", "uint8")) and "refused" not in r]
    key = lambda r: (-r["score_error"] if "score_error" in r else r["value"], r["snr_db"] if r["snr_db"] is not None else float("inf"))
    return max(rows, key=key, default=None)


def default_static(model, engine):
    return find(model, engine, {"ONNX Runtime": "int8 default", "LiteRT": "int8"}[engine])


def summary(models):
    head = ["model", "samples", *SUMMARY, "smallest file that loses at most 0.3 points (AD: is off by 1 %), of float's"]
    rows = []
    for model in models:
        cells = []
        for scheme in SUMMARY:
            row = find(model, "Whit", scheme)
            refused = next((r for r in model["rows"] if (r["engine"], r["scheme"]) == ("Whit", scheme) and "refused" in r), None)
            cells.append(("refused" if refused else "–") if row is None else figure(row) if scheme == "float" else f"{figure(row)} ({change(row)})")
        base = find(model, "Whit", "float")
        small = [r for r in model["rows"] if r["engine"] == "Whit" and "refused" not in r and r.get("drop", r.get("score_error", 1e9) - 0.7) <= 0.3]
        least = min(small, key=lambda r: r["file_bytes"], default=None)
        share = f"{least['scheme']} {least['file_bytes'] / base['file_bytes']:.2f}" if least and base else "–"
        rows.append([model["model"], model["samples"], *cells, share])
    return grid(head, rows)


def peers(models):
    head = ["model", "float", "Whit int8", *(f"{engine} int8, {which}" for engine in ("ONNX Runtime", "LiteRT") for which in ("default", "best")),
            "ONNX Runtime: size, time", "LiteRT: size, time"]
    rows = []
    for model in models:
        base = find(model, "Whit", "float")
        ours = find(model, "Whit", "int8") or find(model, "Whit", "int8 min-max")
        if not base or not ours:
            continue
        name = "" if ours["scheme"] == "int8" else " (min-max)"
        cells = [figure(base), f"{figure(ours)} ({change(ours)}){name}"]
        ratios = []
        for engine in ("ONNX Runtime", "LiteRT"):
            default, best = default_static(model, engine), best_static(model, engine)
            cells.append(f"{figure(default)} ({change(default)})" if default else "–")
            cells.append(f"{figure(best)} ({change(best)}), {best['scheme'] if best is not default else 'default'}" if best else "–")
            ratios.append(f"{ratio(best['file_bytes'], ours['file_bytes'])}, {ratio(best.get('median_us'), ours.get('median_us'))}" if best else "–")
        rows.append([model["model"], *cells, *ratios])
    return grid(head, rows)


def details(model):
    judged = "score off" if model["task"] == "reconstruct" else "agreement" if model["task"] == "agree" else "accuracy"
    head = ["engine", "scheme", judged, "95 %", "against float (95 %)", "answers changed", "noise, dB", "file KB", "weights KB", "arena KB", "µs",
            "size ÷ Whit's", "time ÷ Whit's"]
    rows, refused = [], []
    for row in model["rows"]:
        if "refused" in row:
            refused.append(row)
            continue
        noise = "exact" if row["snr_db"] is None else f"{row['snr_db']:.0f}"
        if "score_error" in row:
            middle = ["–", change(row), "–"]
        else:
            low, high = row["difference_interval"]
            middle = [f"{row['interval'][0]:.1f}–{row['interval'][1]:.1f}", f"{points(-row['drop'], True)} ({points(low, True)} to {points(high, True)})",
                      f"{row['changed']} of {row['samples']}"]
        ours = counterpart(model, row) if row["engine"] != "Whit" else None
        ratios = [ratio(row["file_bytes"], ours["file_bytes"]), ratio(row.get("median_us"), ours.get("median_us"))] if ours else ["", ""]
        scheme = row["scheme"]
        if row["samples"] != model["samples"]:
            scheme += f" (on {row['samples']}; float there {row['float_value']:.2f} %)"
        rows.append([row["engine"], scheme, figure(row), *middle, noise, kilobytes(row["file_bytes"]), kilobytes(row["weight_bytes"]),
                     kilobytes(row["arena_bytes"]), f"{row['median_us']:.1f}" if "median_us" in row else "–", *ratios])
    return grid(head, rows), refused


def escape(text):
    return text.removeprefix("error: ").replace("|", "/").replace("<", "‹").replace(">", "›")


def off_by_kernels(row):
    """Whether ONNX Runtime's integer kernels give another figure than the arithmetic that the file describes."""
    key = "score_error" if "score_error" in row else "value"
    return abs(row[key] - row["simulated"][key]) > 1.0


def render(result):
    models = [m for m in result["models"] if m["rows"]]
    machine = result["machine"]
    lines = [
        f"{machine['cpu']} ({', '.join(machine['features'])}), one thread, batch 1, {result['rounds']} rounds of {result['seconds']:g} s per scheme, taking turns; "
        f"{result['whit']}, {', '.join(result['versions'])}.",
        "",
        "#### Whit's schemes",
        "",
        "Accuracy on the test samples, in brackets its change against float in points.",
        "",
        *summary(models),
        "",
        "#### Beside ONNX Runtime and LiteRT",
        "",
        "From the same float model and the same calibration samples. *Default* is what the quantizer does when told nothing; *best* is the best of its static int8 "
        "settings on the test samples, so chosen with hindsight, in its favour. Size and time are those of the best, as multiples of Whit's int8: above 1 Whit is "
        "smaller or faster.",
        "",
        *peers(models),
    ]
    for model in models:
        table, refused = details(model)
        lines += ["", f"#### {model['model']}", "", "; ".join([f"{model['samples']} test samples, {model['calibration_samples']} for calibration", *model["notes"]]) + "."]
        if model.get("target"):
            lines[-1] += f" The benchmark asks for {model['target']:g} %."
        lines += ["", *table]
        simulated = [f"{r['scheme']} {figure(r['simulated'])}" for r in model["rows"] if "simulated" in r and off_by_kernels(r)]
        if simulated:
            lines += ["", f"With ONNX Runtime's integer kernels switched off, which only its slower path does, the same files give: {', '.join(simulated)}."]
        if refused:
            reasons = {}
            for row in refused:
                reasons.setdefault((row["engine"], escape(row["refused"]).rstrip(".")), []).append(row["scheme"])
            lines += ["", "Not there: " + "; ".join(f"{engine} {', '.join(schemes)}: {reason}" for (engine, reason), schemes in reasons.items()) + "."]
    skipped = [m for m in result["models"] if m.get("skipped")]
    if skipped:
        lines += ["", "Left out: " + "; ".join(f"{m['model']}: {escape(m['skipped'])}" for m in skipped) + "."]
    return "\n".join(lines)


def write(path, text):
    """Puts the text between the markers of the document, which has its own words around them."""
    path = pathlib.Path(path)
    old = path.read_text() if path.exists() else f"# Quantization, measured\n\n{BEGIN}\n{END}\n"
    if BEGIN not in old or END not in old:
        raise SystemExit(f"{path} has no markers; put these two lines where the tables belong:\n{BEGIN}\n{END}")
    before, rest = old.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def plain(model):
    """For the terminal while it runs."""
    lines = [f"{model['model']}: {model['samples']} samples, {model['seconds']:.0f} s"]
    for row in model["rows"]:
        label = f"  {row['engine']:13} {row['scheme']:27}"
        if "refused" in row:
            lines.append(f"{label} refused: {row['refused'][:150]}")
            continue
        noise = "exact" if row["snr_db"] is None else f"{row['snr_db']:.1f} dB"
        lines.append(f"{label} {figure(row):>14} {change(row):>12} {noise:>9} {row['file_bytes'] / 1024:8.1f} KB {row.get('median_us', 0):9.1f} µs")
    return "\n".join(lines)
