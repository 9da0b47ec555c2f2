"""The plot: time of each peer over Whit's, by model, on a logarithmic axis."""

import figures
from cases import KINDS
from machine import NAMES

# Okabe and Ito's palette without its black and yellow: told apart by the colour-blind, and on light and dark grounds.
COLOURS = {"litert": "#e69f00", "onnxruntime": "#3078c8", "openvino": "#009e73", "tract": "#d55e00", "rten": "#cc79a7",
           "candle": "#56b4e9"}
INK = "#808080"  # read on white and on black
TITLES = {"float": "float", "int8": "int8 (.tflite)", "qdq": "int8 (QDQ .onnx)"}


def draw(result, path):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "whit", "font.family": "sans-serif", "font.size": 9,
                            "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK,
                            "ytick.color": INK}
    import matplotlib.pyplot as pyplot
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    threads = result["settings"]["threads"]
    panels = []
    for kind in KINDS:
        rows = [row for row in result["models"] if row["kind"] == kind]
        if any(figures.ratios(row, n, COLOURS | {"whit": ""}) for row in rows for n in threads):
            panels.append((kind, rows))
    if not panels:
        path.write_text("")
        return
    heights = [len(rows) + 0.6 for _, rows in panels]
    figure, axes = pyplot.subplots(len(panels), 1, sharex=True, squeeze=False, figsize=(8, 0.27 * sum(heights) + 1.4),
                                   gridspec_kw={"height_ratios": heights}, layout="constrained")
    shown = set()
    for axis, (kind, rows) in zip(axes[:, 0], panels):
        axis.set_facecolor("none")
        axis.axvline(1.0, color=INK, linewidth=1.2)
        for at, row in enumerate(rows):
            axis.axhline(at, color=INK, linewidth=0.3, alpha=0.5, zorder=0)
            for index, count in enumerate(threads[:2]):
                for name, ratio in figures.ratios(row, count, COLOURS | {"whit": ""}).items():
                    shown.add(name)
                    axis.plot(1 / ratio, at + (index - 0.5) * 0.24 * (len(threads) > 1), "o", markersize=5,
                              markeredgecolor=COLOURS[name], markeredgewidth=1.2,
                              markerfacecolor=COLOURS[name] if index == 0 else "none")
        axis.set_yticks(range(len(rows)), [row["model"] for row in rows])
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.set_title(TITLES[kind], loc="left", fontsize=9, fontweight="bold")
        axis.tick_params(length=0)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
    bottom = axes[-1, 0]
    bottom.set_xscale("log")
    bottom.xaxis.set_major_locator(FixedLocator([0.25, 0.5, 0.8, 1, 1.25, 2, 4, 8, 16, 32, 64, 128]))
    bottom.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    bottom.xaxis.set_minor_formatter(NullFormatter())
    bottom.minorticks_off()
    about = result["machine"]
    bottom.set_xlabel("peer's time ÷ Whit's (logarithmic): right of 1 Whit is faster\n"
                      f"{about['cpu']}, {about['cores']} cores ({', '.join(about['features'])}), {result['date'][:10]}")
    handles = [Line2D([], [], marker="o", linestyle="", color=COLOURS[name], label=NAMES[name]) for name in COLOURS if name in shown]
    for index, count in enumerate(threads[:2]):
        handles.append(Line2D([], [], marker="o", linestyle="", markeredgecolor=INK, color="none" if index else INK,
                              markerfacecolor="none" if index else INK, label=f"{count} thread{'s' if count > 1 else ''}"))
    figure.legend(handles=handles, loc="outside upper left", ncols=4, frameon=False, handletextpad=0.2)
    figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
