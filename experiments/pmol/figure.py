"""Reward by how much of a preference is asked for, as SVG on white."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from experiments.pmol.doses import STRENGTHS, WEIGHTS
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

STYLE = {"svg.fonttype": "none", "svg.hashsalt": "counterpoint", "font.family": "DejaVu Sans", "font.size": 10}
LINES = {
    "built-pmol-router": ("router over best-of-n experts", "#007f5c"),
    "pmol-from-experts": ("started from DPO experts, all learned", "#c75400"),
    "pmol-told": ("new experts, half of the pairs told", "#0072b2"),
    "pmol": ("new experts, none told", "#555d66"),
}


def doses_figure(doses: Mapping[str, Any]) -> str:
    """By weight against another preference, and by strength alone; means over preferences with intervals."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        FigureCanvasSVG(figure)
        left, right = figure.subplots(1, 2, sharey=True)
        _draw(left, doses, "by weight", WEIGHTS, "weight of the preference, the rest on another")
        _draw(right, doses, "by strength", (0.0, *STRENGTHS), "strength")
        left.set_ylabel("reward, standard deviations")
        left.legend(frameon=False, fontsize=9)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _draw(axes: Any, doses: Mapping[str, Any], by: str, at: Sequence[float], label: str) -> None:
    for name, (title, colour) in LINES.items():
        means = doses[name][by]["mean"]["means"]
        low, high = ([mean[end] for mean in means] for end in ("low", "high"))
        axes.fill_between(at, low, high, color=colour, alpha=0.14, linewidth=0)
        axes.plot(at, [mean["value"] for mean in means], color=colour, marker="o", markersize=4, label=title)
    axes.set_xlabel(label)
    axes.set_xticks(list(at))
    axes.spines[["top", "right"]].set_visible(False)
