"""Reward and cost by the number of dimensions, side by side, as SVG on white."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#c75400", "#007f5c", "#b0508a")
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "counterpoint", "font.family": "DejaVu Sans", "font.size": 10}
LABELS = ("soup at 1", "soup at best", "P-MORL, as much in all", "P-MORL, as much each")


def scaling_figure(table: dict[str, Any], dimensions: Sequence[int], each: int) -> str:
    """Soups, and P-MORL at both budgets, which part at six dimensions."""
    names = {
        d: ("soup@1", "soup@best", f"pmorl-{d}-{each * d}", f"pmorl-{d}-{each * 2 ** (d // 2)}") for d in dimensions
    }
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        FigureCanvasSVG(figure)
        reward, cost = figure.subplots(1, 2)
        asked = [table[f"{d} dimensions"]["prompted"]["reward"] for d in dimensions]
        _rewards(reward, dimensions, asked, "#555d66", "words alone")
        for line, label in enumerate(LABELS):
            shown = [d for d in dimensions if label != LABELS[3] or d >= 4]
            own = [table[f"{d} dimensions"][names[d][line]] for d in shown]
            _rewards(reward, shown, [row["reward"] for row in own], COLOURS[line], label)
            if label != LABELS[1]:
                _costs(cost, dimensions, own[0]["responses"] / _unit(label, shown[0]), COLOURS[line], label)
        _finish(reward, "reward, mean sigmoid(z)", dimensions)
        _finish(cost, "responses to learn from", dimensions)
        reward.legend(frameon=False, fontsize=9)
        return _svg(figure)


def _unit(label: str, d: int) -> int:
    return 2 ** (d // 2) if label == LABELS[3] else d


def _rewards(axes: Any, dimensions: Sequence[int], means: Sequence[dict[str, float]], colour: str, label: str) -> None:
    low, high = ([of[end] for of in means] for end in ("low", "high"))
    axes.fill_between(dimensions, low, high, color=colour, alpha=0.14, linewidth=0)
    axes.plot(dimensions, [of["value"] for of in means], color=colour, marker="o", markersize=4, label=label)


def _costs(axes: Any, dimensions: Sequence[int], one: float, colour: str, label: str) -> None:
    style = "--" if label == LABELS[2] else "-"
    axes.plot(dimensions, [one * _unit(label, d) for d in dimensions], style, color=colour, marker="o", markersize=4)


def _finish(axes: Any, title: str, dimensions: Sequence[int]) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel("dimensions")
    axes.set_xticks(list(dimensions))
    axes.margins(y=0.08)
    axes.spines[["top", "right"]].set_visible(False)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
