"""The results as Markdown: the whole document, and the section of the README."""

import os
import sys

import figures
import machine
from cases import KINDS
from machine import NAMES

MARKS = ("<!-- benches/peers/run.sh writes from here -->", "<!-- to here -->")
TITLES = {"float": "float", "int8": "int8 (`.tflite`)", "qdq": "int8 (QDQ `.onnx`)"}


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def number(value):
    """Three significant digits, without an exponent."""
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.01 else f"{value:.4f}"


def ratio(value):
    return "" if value is None else f"{value:.2f}"


def rows_of(result, kind):
    return [row for row in result["models"] if row["kind"] == kind]


def threads_of(result):
    return result["settings"]["threads"]


def runtimes_of(result):
    return result["settings"]["runtimes"]


def cell(result, value):
    """A runtime's figure, or why there is none; the notes say more."""
    if result is None or "missing" in result:
        return "—"
    if "differs" in result:
        return "differs"
    return "—" if value is None else value


def figures_table(result, kind, value, unit_scale):
    """Models × runtimes of a figure; the smallest is bold; Whit over the smallest of its peers at the end."""
    runtimes = runtimes_of(result)
    lines, ratios, best = [], {}, []
    for row in rows_of(result, kind):
        found = {}
        for name in runtimes:
            entry = row["runtimes"].get(name)
            if entry and "missing" not in entry and "differs" not in entry and value(entry) is not None:
                found[name] = value(entry) * unit_scale
        if not found:
            continue
        smallest = min(found, key=found.get)
        cells = []
        for name in runtimes:
            text = number(found[name]) if name in found else cell(row["runtimes"].get(name), None)
            cells.append(f"**{text}**" if name == smallest else text)
        peers = [found[name] for name in found if name != "whit"]
        against = found["whit"] / min(peers) if "whit" in found and peers else None
        if against is not None:
            best.append(against)
            for name in found:
                ratios.setdefault(name, []).append(found["whit"] / found[name])
        lines.append([row["model"], *cells, ratio(against)])
    if len(best) > 1:
        means = [ratio(figures.geometric_mean(ratios.get(name, []))) if name != "whit" else "" for name in runtimes]
        lines.append(["Whit ÷ it, geometric mean", *means, ratio(figures.geometric_mean(best))])
    return table(["", *(NAMES[name] for name in runtimes), "Whit ÷ best"], lines) if lines else None


def latency(threads):
    return lambda entry: entry["latency"].get(str(threads), {}).get("median_us")


def integer_ratios(result, threads):
    """For each model with integers, Whit's faster form over the fastest peer of either."""
    found = {}
    for row in result["models"]:
        if row["kind"] == "float":
            continue
        times = found.setdefault(row["model"], {})
        for name, entry in row["runtimes"].items():
            time = latency(threads)(entry) if "missing" not in entry and "differs" not in entry else None
            if time is not None:
                times[name] = min(time, times.get(name, time))
    return [{name: times["whit"] / time for name, time in times.items() if name != "whit"}
            for times in found.values() if "whit" in times]


def added(row, key, peers):
    """Whit's figure over each peer's."""
    entries = {name: entry.get(key) for name, entry in row["runtimes"].items()
               if "missing" not in entry and "differs" not in entry and entry.get(key)}
    if "whit" not in entries:
        return {}
    return {name: entries["whit"] / entries[name] for name in entries if name in peers}


def summary(result):
    """The figures that the project aims at."""
    peers = [name for name in runtimes_of(result) if name != "whit"]
    lines = []

    def add(what, of_models, aim, fastest=None):
        best = figures.against_best(of_models)
        if best:
            by_fastest = figures.against_best(fastest)["mean"] if fastest else None
            lines.append([what, str(best["models"]), ratio(best["mean"]), ratio(best["worst"]), ratio(by_fastest), aim])

    for kind in KINDS:
        for threads in threads_of(result):
            found = [figures.ratios(row, threads, runtimes_of(result)) for row in rows_of(result, kind)]
            fastest = [figures.ratios(row, threads, runtimes_of(result), key="min_us") for row in rows_of(result, kind)]
            add(f"{TITLES[kind]}, {plural(threads)}", found, "0.8, none above 1", fastest)
            with_all = [figures.ratios(row, threads, runtimes_of(result), differing=True) for row in rows_of(result, kind)]
            if with_all != found:
                add("… with the peers whose outputs differ", with_all, "")
    for threads in threads_of(result):
        add(f"int8, the faster of both files, {plural(threads)}", integer_ratios(result, threads), "0.8, none above 1")
    if "onnxruntime" in peers:
        found = [added(row, "cold_us", ["onnxruntime"]) for row in result["models"]]
        add("cold start, beside ONNX Runtime", found, "0.1")
    add("cold start, beside the fastest peer", [added(row, "cold_us", peers) for row in result["models"]], "")
    add("memory, beside the smallest peer", [added(row, "memory_bytes", peers) for row in result["models"]], "0.5")
    return table(["Whit ÷ best peer", "models", "geometric mean", "worst", "of the fastest runs", "aim"], lines)


def plural(threads):
    return f"{threads} thread{'s' if threads != 1 else ''}"


def noise(result):
    spreads = sorted(latency["spread"] for row in result["models"] for entry in row["runtimes"].values()
                     for latency in entry.get("latency", {}).values())
    if not spreads:
        return ""
    return (f"Between rounds, times move by {spreads[len(spreads) // 2]:.1%} (distance of the quartiles over the median, "
            f"the median of all figures; the worst {spreads[-1]:.0%}). The machine's load was {result['load'][0]:.1f} before "
            f"and {result['load'][1]:.1f} after.")


def setting(result):
    settings = result["settings"]
    return (f"{machine.line(result)}; {result['date']}. Batches of one; {settings['rounds']} rounds taken in turns, "
            f"{settings['turn_ms']:g} ms each, medians.")


def versions(result):
    return ", ".join(f"{NAMES[name]} {version}" for name, version in result["versions"].items())


def latency_tables(result, threads, level):
    parts = []
    for kind in KINDS:
        if found := figures_table(result, kind, latency(threads), 1.0):
            parts.append(f"{level} {TITLES[kind]}, {plural(threads)}, µs\n\n{found}")
    return parts


def notes(result):
    """Why figures are missing, one line for each reason."""
    reasons = {}
    for row in result["models"]:
        for name, entry in row["runtimes"].items():
            why = entry.get("missing")
            if "differs" in entry:
                times = "/".join(number(latency["median_us"]) for latency in entry["latency"].values())
                why = f"differs {entry['differs']}" + (f"; takes {times} µs" if times else "")
            if why:
                reasons.setdefault((NAMES[name], why), []).append(f"{row['model']} {row['kind']}")
    lines = [f"- {name}: {why} ({', '.join(models)})" for (name, why), models in reasons.items()]
    lines += [f"- {row['model']} {row['kind']}: {remark}" for row in result["models"] for remark in row["remarks"]]
    lines += [f"- {remark}" for remark in result["remarks"]]
    return "\n".join(escaped(line) for line in lines)


def escaped(text):
    return text.replace("|", "\\|").replace("<", "&lt;")


def python_calls(result):
    if not result["calls_us"]:
        return ""
    listed = ", ".join(f"{NAMES[name]} {time:g} µs" for name, time in result["calls_us"].items())
    return (f"Python calls these runtimes, and the call is in their times. On a model of one Relu on one number, so with their own work, it takes {listed}. "
            "Without that much, which favours them, the geometric means beside the fastest peer with one thread would be "
            f"{net(result)}.")


def net(result):
    parts = []
    threads = threads_of(result)[0]
    for kind in KINDS:
        found = []
        for row in rows_of(result, kind):
            of_row = figures.ratios(row, threads, runtimes_of(result))
            whit = row["runtimes"].get("whit", {}).get("latency", {}).get(str(threads))
            if whit:
                times = {name: whit["median_us"] / value - result["calls_us"].get(name, 0.0) for name, value in of_row.items()}
                found.append({name: whit["median_us"] / time for name, time in times.items() if time > 0})
        if best := figures.against_best(found):
            parts.append(f"{best['mean']:.2f} ({TITLES[kind]})")
    return ", ".join(parts)


def document(result):
    parts = ["# Whit beside other runtimes", f"Made by `benches/peers/run.sh` in {result['seconds']} s; [README.md](../README.md) says how.",
             setting(result), f"{versions(result)}.", noise(result), python_calls(result), summary(result),
             "![Time of each peer over Whit's](latest.svg)", "## Latency"]
    for threads in threads_of(result):
        parts += latency_tables(result, threads, "###")
    parts.append("## Cold start, ms\n\nOpening, preparing and the first run, in a fresh process that has loaded the library.")
    for kind in KINDS:
        if found := figures_table(result, kind, lambda entry: entry.get("cold_us"), 1e-3):
            parts.append(f"### {TITLES[kind]}\n\n{found}")
    parts.append("## Memory, MiB\n\nWhat opening, preparing and one run add to the resident memory of the process, at its peak.")
    for kind in KINDS:
        if found := figures_table(result, kind, lambda entry: entry.get("memory_bytes"), 1 / (1 << 20)):
            parts.append(f"### {TITLES[kind]}\n\n{found}")
    parts.append("### The whole process\n\nThe same peak, with the process: for LiteRT, ONNX Runtime and OpenVINO that includes Python.")
    for kind in KINDS:
        if found := figures_table(result, kind, lambda entry: entry.get("process_bytes"), 1 / (1 << 20)):
            parts.append(f"{TITLES[kind]}:\n\n{found}")
    parts.append(f"## Notes\n\n{notes(result)}")
    return "\n\n".join(part for part in parts if part) + "\n"


def section(result, out):
    """For the README: what the figures are, the summary, the plot, one thread's latencies."""
    threads = threads_of(result)[0]

    def write(folder):
        path = os.path.relpath(out, folder)
        parts = [setting(result), f"{versions(result)}.", summary(result), f"![Time of each peer over Whit's]({path}/latest.svg)"]
        parts += [part.replace("###", "####", 1) for part in latency_tables(result, threads, "###")]
        parts.append(f"{noise(result)} More threads, cold start, memory, and why figures are missing: [{path}/latest.md]({path}/latest.md).")
        return "\n\n".join(parts)

    return write


def write_between_markers(path, write):
    text = path.read_text()
    if text.count(MARKS[0]) != 1 or MARKS[1] not in text.partition(MARKS[0])[2]:
        sys.exit(f"{path} has no line {MARKS[0]} with {MARKS[1]} below it")
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    path.write_text(f"{before}{MARKS[0]}\n{write(path.resolve().parent)}\n{MARKS[1]}{after}")


def line(row, threads, runtimes):
    """A row's medians, while it is measured."""
    parts = []
    for name in runtimes:
        entry = row["runtimes"][name]
        times = [entry["latency"][str(n)]["median_us"] for n in threads if str(n) in entry.get("latency", {})]
        text = "/".join(map(number, times)) if times else cell(entry, None)
        parts.append(f"{name} {text}{' (differs)' if times and 'differs' in entry else ''}")
    return f"{row['model']:>16} {row['kind']:5} µs  " + "  ".join(parts)
