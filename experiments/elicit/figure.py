"""Regret by choices for each policy, and how often what is said of a profile is so, as SVG on white."""

import io
from collections.abc import Mapping
from typing import Any

import matplotlib
from experiments.elicit.simulate import FULL, MAIN
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

STYLE = {"svg.fonttype": "none", "svg.hashsalt": "counterpoint", "font.family": "DejaVu Sans", "font.size": 10}
LINES = {
    "information": ("most informative of Thompson's pairs", "#007f5c"),
    "thompson": ("two Thompson draws", "#0072b2"),
    "random": ("random pairs", "#555d66"),
    "greedy": ("the two best so far", "#c75400"),
}


def figure(people: Mapping[str, Mapping[str, Any]]) -> str:
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(12, 3.8), layout="constrained")
        FigureCanvasSVG(drawn)
        left, middle, right = drawn.subplots(1, 3)
        _curves(left, people[MAIN], "choices all meant")
        _curves(middle, people[FULL[1]], "a tenth turned over")
        left.legend(frameon=False, fontsize=9)
        left.set_ylabel("regret, standard deviations")
        _calibration(right, people)
        buffer = io.StringIO()
        drawn.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _curves(axes: Any, by_policy: Mapping[str, Any], title: str) -> None:
    for policy, (label, colour) in LINES.items():
        curve = by_policy[policy]["curve"][1:]
        at = range(1, len(curve) + 1)
        axes.fill_between(at, [p["low"] for p in curve], [p["high"] for p in curve], color=colour, alpha=0.14, lw=0)
        axes.plot(at, [p["value"] for p in curve], color=colour, label=label)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("choices")
    axes.set_yscale("log")
    axes.spines[["top", "right"]].set_visible(False)


def _calibration(axes: Any, people: Mapping[str, Mapping[str, Any]]) -> None:
    colours = ("#007f5c", "#0072b2", "#c75400")
    axes.plot([0, 1], [0, 1], color="#999999", lw=1)
    for name, colour in zip(FULL, colours, strict=True):
        bins = people[name]["information"]["calibration"]
        axes.plot([b["said"] for b in bins], [b["was"] for b in bins], color=colour, marker="o", ms=4, label=name)
    axes.set_title("is it as good as said?", fontsize=10)
    axes.set_xlabel("said: good enough with probability")
    axes.set_ylabel("share that was")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
