"""Writes the results as Markdown tables between the page's markers."""

import re

NAMES = {
    "whit inputs": "inputs, Jensen–Shannon",
    "whit inputs psi": "inputs, PSI",
    "whit inputs ks": "inputs, Kolmogorov–Smirnov",
    "whit classes": "predicted classes",
    "whit confidence": "confidence",
    "whit page_hinkley": "Page–Hinkley",
    "whit cusum": "CUSUM",
    "whit ewma": "EWMA",
    "whit ddm": "DDM",
    "whit adwin": "ADWIN",
    "textbook page_hinkley": "Page–Hinkley, textbook",
    "textbook cusum": "CUSUM, textbook",
    "textbook ewma": "EWMA, textbook",
    "textbook ddm": "DDM, textbook",
    "textbook adwin": "ADWIN, textbook",
}


# Rows that say what another one does.
ALIKE = {"whit inputs psi", "whit inputs ks", "river HDDM_W", "KS at 1 %, Bonferroni"}


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def number(x):
    return f"{x:,.0f}" if x >= 100 else f"{x:.1f}" if x >= 10 else f"{x:.2f}"


def name_of(key):
    return NAMES.get(key, key)


def order(key):
    known = list(NAMES)
    if key in known:
        return known.index(key), key
    return len(known) + (not key.startswith("river")), key


def scenario(results, left_out=()):
    """A row for each detector; those that never say anything share a line."""
    detectors = results["detectors"]
    drifts = list(next(iter(detectors.values()))["delays"])
    rows, silent = [], []
    for key in sorted(detectors, key=order):
        of = detectors[key]
        if key in left_out:
            continue
        if of["false_alarms"] == 0 and not any(d["found"] for d in of["delays"].values()):
            silent.append(name_of(key))
            continue
        low, high = of["interval"]
        row = [name_of(key), f"{number(of['per_10000'])} [{number(low)}, {number(high)}]"]
        for drift in drifts:
            delay = of["delays"][drift]
            share = 100 * delay["found"] / delay["of"]
            if share < 25:
                cell = f"({share:.0f} %)"
            else:
                cell = f"{delay['median']:,.0f}" + (f" ({share:.0f} %)" if share < 100 else "")
            row.append(cell)
        rows.append(row)
    said = table(["", "false alarms", *drifts], rows)
    return said + (f"\n\nNo alarm at all, true or false: {'; '.join(silent)}." if silent else "")


def nab(results):
    import statistics

    signals = results["signals"]
    head = [""]
    for signal in signals:
        head += [f"{signal}: found", "delay", "false alarms"]
    rows = []
    for key in sorted(next(iter(signals.values())), key=order):
        row = [name_of(key)]
        for tallies in signals.values():
            of = tallies[key]
            found = of["delays"]
            middle = f"{statistics.median(found):.0f}" if found else "–"
            rate = number(1e4 * of["false"] / of["values"])
            row += [f"{len(found)} of {of['windows']}", middle, rate]
        rows.append(row)
    return table(head, rows)


def costs(results):
    seen = results["sea"]["costs"] | results["digits"]["costs"]
    rows = []
    for key in sorted(seen):
        of = seen[key]
        size = "" if of["bytes"] is None else f"{of['bytes']:,}"
        rows.append([key.replace("_", " "), f"{of['ns']:,.0f}", size])
    runs = results["window_runs"]
    spent = 1e9 * results["evidently"]["seconds"] / runs
    rows.append(["evidently, a report of 64 columns", f"{spent:,.0f}", ""])
    return table(["digits: 64 inputs, 10 classes", "ns per run", "state, bytes"], rows)


def write(page, results):
    parts = {
        "digits": scenario(results["digits"]),
        "sea": scenario(results["sea"], ALIKE),
        "ar": scenario(results["ar"], ALIKE),
        "costs": costs(results),
    }
    if "nab" in results:
        parts["nab"] = nab(results["nab"])
    text = page.read_text()
    for name, part in parts.items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not marked.search(text):
            raise SystemExit(f"{page} has no <!-- {name} --> … <!-- end -->")
        text = marked.sub(lambda found: found[1] + part + "\n" + found[2], text)
    page.write_text(text)
