"""Figures of the report as SVG text that takes its colours from the page, so that dark mode works.

matplotlib draws with stand-in colours, which become CSS variables (`--ink`, `--c0`, ...). Sizes are in SVG units: a
figure is as wide as its card, and its text scales with it.
"""

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, MaxNLocator, MultipleLocator, PercentFormatter

from counterpoint.evaluate.bootstrap import Interval
from counterpoint.evaluate.doses import Curve
from counterpoint.evaluate.pareto import front

Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""

INK, MUTED, LINE, CARD = "#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04"
SERIES = tuple(f"#0a0b{i:02x}" for i in range(8))
ON_WHITE = ("#0072b2", "#c75400", "#007f5c", "#b0508a", "#8a6100", "#2a7fb8", "#6b4fb3", "#555d66")
"""The series on a white page, as `report.html` has them."""
MARKERS = (("o", 46), ("s", 40), ("D", 36), ("^", 52), ("v", 52), ("P", 58), ("X", 58), ("*", 96))
"""Shapes with areas that look alike."""
VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", CARD: "--card"} | {
    colour: f"--c{i}" for i, colour in enumerate(SERIES)
}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "counterpoint",
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "axes.linewidth": 0.8,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "axes.unicode_minus": True,
}
PANELS = 3
"""Panels side by side in a dose figure."""
SAME = 0.02
"""Lines closer than this, in standard deviations, cannot be told apart in a dose figure."""
CHARACTER = 0.62
"""Width of a character of the widest usual font, in font sizes."""


def ranking_figure(names: Sequence[str], intervals: Sequence[Interval], centre: float, percent: bool, alt: str) -> str:
    """One row per method, best on top: a point, its interval, the value in figures, and a line at `centre`."""
    order = sorted(range(len(names)), key=lambda i: intervals[i].value)
    names, intervals = [names[i] for i in order], [intervals[i] for i in order]
    height = 26.0 * len(names) + 34
    left = min(12 + 11 * CHARACTER * max(map(len, names)), 150.0)
    with matplotlib.rc_context(STYLE):
        figure = _figure(360, height)
        axes = figure.add_axes((left / 360, 24 / height, (360 - left - 52) / 360, (height - 28) / height))
        rows = np.arange(len(names))
        axes.axvline(centre, color=MUTED, linewidth=1, linestyle=(0, (3, 3)), zorder=1)
        axes.hlines(
            rows, [i.low for i in intervals], [i.high for i in intervals], color=SERIES[0], linewidth=3.4, alpha=0.5
        )
        axes.scatter([i.value for i in intervals], rows, s=42, color=SERIES[0], zorder=3)
        for row, interval in zip(rows, intervals, strict=True):
            text = f"{100 * interval.value:.0f}%" if percent else _signed(interval.value)
            axes.annotate(
                text, (1, row), (8, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center"
            )
        axes.set_yticks(rows, [_short(name, 22) for name in names])
        axes.set_ylim(-0.6, len(names) - 0.4)
        _include(axes, centre)
        _plain(axes, grid="x")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        if percent:
            axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        return _svg(figure, alt)


def standalone(svg: str, width: int = 540) -> str:
    """A figure as a file of its own, on a white card: the page's colours are written into it."""
    paper = "background: #fff; --ink: #1a1f2b; --muted: #5b6577; --line: #d5dae3; --card: #fff"
    series = "; ".join(f"--c{i}: {colour}" for i, colour in enumerate(ON_WHITE))
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    root = f'<svg {names} width="{width}" style="{paper}; {series}" '
    return svg.replace("<svg ", root, 1)


def trade_off_figure(points: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str, alt: str) -> str:
    """Every method's points on two objectives, labelled in place, and the front of them all as a staircase."""
    everything = np.array([point for own in points.values() for point in own], dtype=np.float64)
    low, high = everything.min(axis=0), everything.max(axis=0)
    span = np.maximum(high - low, 1e-6)
    with matplotlib.rc_context(STYLE):
        figure = _figure(360, 300)
        axes = figure.add_axes((60 / 360, 42 / 300, 290 / 360, 250 / 300))
        axes.set_xlim(low[0] - 0.12 * span[0], high[0] + 0.26 * span[0])
        axes.set_ylim(low[1] - 0.10 * span[1], high[1] + 0.16 * span[1])
        stairs = _staircase(everything[front(everything)], axes.get_xlim()[0], axes.get_ylim()[0])
        axes.plot(*stairs, color=MUTED, linewidth=1.4, zorder=1)
        axes.fill_between(*stairs, axes.get_ylim()[0], color=MUTED, alpha=0.07, linewidth=0, zorder=0)
        for index, own in enumerate(points.values()):
            marker, area = MARKERS[(index + index // len(SERIES)) % len(MARKERS)]
            style = {"facecolor": SERIES[index % len(SERIES)], "edgecolor": CARD, "linewidth": 0.8, "zorder": 3}
            axes.scatter(*np.array(own).T, s=area, marker=marker, **style)
        _label_points(axes, points, span)
        axes.set_xlabel(f"{x} →")
        axes.set_ylabel(f"{y} →")
        _plain(axes, grid="both")
        axes.tick_params(axis="y", labelcolor=MUTED)
        return _svg(figure, alt)


def sweep_figure(
    strengths: Sequence[float], rewards: Sequence[Interval], chosen: float, limits: tuple[float, float], alt: str
) -> str:
    """Reward by strength for one method, with its band and a ring at the chosen strength."""
    with matplotlib.rc_context(STYLE):
        figure = _figure(190, 136)
        axes = figure.add_axes((34 / 190, 24 / 136, 148 / 190, 106 / 136))
        axes.axhline(0, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
        axes.fill_between(
            strengths, [i.low for i in rewards], [i.high for i in rewards], color=SERIES[0], alpha=0.22, linewidth=0
        )
        axes.plot(strengths, [i.value for i in rewards], color=SERIES[0], marker="o", markersize=3.5, linewidth=1.6)
        at = [i.value for strength, i in zip(strengths, rewards, strict=True) if strength == chosen]
        axes.plot([chosen] * len(at), at, "o", markersize=10, markerfacecolor="none", markeredgecolor=SERIES[1], mew=2)
        axes.set_ylim(*limits)
        axes.set_xticks(sorted({strengths[0], chosen, strengths[-1]}))
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_major_locator(MaxNLocator(3))
        _plain(axes, grid="y")
        axes.tick_params(axis="y", labelcolor=MUTED)
        return _svg(figure, alt)


def dose_figure(curves: Sequence[Curve], unit: str, alt: str) -> str:
    """A panel per dimension and a line per method: mean score by strength, with its 95 % interval.

    Methods whose means nowhere differ by more than `SAME` share a line, which names them all.
    """
    lines = _lines(curves)
    panels = list(dict.fromkeys(curve.dimension for curve in curves))
    width, height = 52 + 194.0 * PANELS, 54 + 154.0 * -(-len(panels) // PANELS)
    with matplotlib.rc_context(STYLE):
        figure = _figure(width, height)
        for index, dimension in enumerate(panels):
            left, bottom = 54 + 194 * (index % PANELS), height - 30 - 154 * (index // PANELS) - 136
            axes = figure.add_axes((left / width, bottom / height, 180 / width, 116 / height))
            for place, (name, own) in enumerate(lines.items()):
                _dose_line(axes, next(curve for curve in own if curve.dimension == dimension), name, place)
            _dose_axes(axes, dimension, curves)
            axes.tick_params(axis="y", labelcolor=MUTED, labelleft=index % PANELS == 0)
        figure.legend(
            *axes.get_legend_handles_labels(), loc="upper left", ncols=len(lines), frameon=False, borderaxespad=0.2
        )
        figure.text(0.5, 8 / height, "strength →", ha="center")
        figure.text(14 / width, 0.5, f"{unit} →", rotation=90, ha="center", va="center")
        return _svg(figure, alt)


def _lines(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """By line of a dose figure: the curves of the first of its methods."""
    lines: dict[str, list[Curve]] = {}
    for method in dict.fromkeys(curve.method for curve in curves):
        own = [curve for curve in curves if curve.method == method]
        same = next((name for name, other in lines.items() if _same(own, other)), None)
        if same is None:
            lines[method] = own
        else:
            lines = {f"{name} = {method}" if name == same else name: other for name, other in lines.items()}
    return lines


def _same(some: Sequence[Curve], others: Sequence[Curve]) -> bool:
    return all(
        one.strengths == other.strengths
        and all(abs(a.value - b.value) <= SAME for a, b in zip(one.means, other.means, strict=True))
        for one, other in zip(some, others, strict=True)
    )


def _dose_line(axes: Any, curve: Curve, name: str, place: int) -> None:
    colour = SERIES[place % len(SERIES)]
    axes.fill_between(
        curve.strengths, [i.low for i in curve.means], [i.high for i in curve.means], color=colour, alpha=0.16,
        linewidth=0,
    )  # fmt: skip
    marker = MARKERS[place % len(MARKERS)][0]
    means = [i.value for i in curve.means]
    axes.plot(curve.strengths, means, color=colour, marker=marker, markersize=3.5, linewidth=1.5, label=name)


def _dose_axes(axes: Any, title: str, curves: Sequence[Curve]) -> None:
    axes.axhline(0, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)
    axes.set_title(title, loc="left", fontsize=11, pad=4)
    axes.set_ylim(*_dose_limits(curves))
    axes.xaxis.set_major_locator(MultipleLocator(0.5))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    _plain(axes, grid="y")


def _dose_limits(curves: Sequence[Curve]) -> tuple[float, float]:
    low = min(interval.low for curve in curves for interval in curve.means)
    high = max(interval.high for curve in curves for interval in curve.means)
    margin = 0.05 * (high - low) or 0.1
    return low - margin, high + margin


def _figure(width: float, height: float) -> Any:
    figure = Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="none")
    FigureCanvasSVG(figure)
    return figure


def _plain(axes: Any, grid: str) -> None:
    axes.set_facecolor("none")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis=grid, color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=4)


def _include(axes: Any, value: float) -> None:
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, value - 0.02 * (high - low)), max(high, value + 0.02 * (high - low)))


def _staircase(best_N2: np.ndarray, left: float, bottom: float) -> tuple[list[float], list[float]]:
    corners_x, corners_y = [left], []
    for x, y in sorted(map(tuple, np.unique(best_N2, axis=0))):
        corners_x += [x, x]
        corners_y += [y, y]
    return corners_x, [*corners_y, bottom]


def _label_points(axes: Any, points: Mapping[str, Sequence[tuple[float, float]]], span: np.ndarray) -> None:
    """Write each name near its method's best point, at the nearest place where it covers nothing."""
    to_units, frame, size = axes.transData, axes.get_window_extent(), 10.5
    taken: list[Box] = []
    for own in points.values():
        taken += [(x - 5, y - 5, x + 5, y + 5) for x, y in to_units.transform(np.array(own))]
    for index, (name, own) in enumerate(points.items()):
        best = max(own, key=lambda point: point[0] / span[0] + point[1] / span[1])
        x, y = to_units.transform(best)
        boxes = _places(x, y, size * CHARACTER * len(name), size)
        inside = [b for b in boxes if b[0] >= frame.x0 and b[2] <= frame.x1 and b[1] >= frame.y0 and b[3] <= frame.y1]
        free = [b for b in inside if not any(_overlap(b, other) for other in taken)]
        box = next(iter(free or inside or boxes))
        taken.append(box)
        colour = SERIES[index % len(SERIES)]
        at = (box[0], (box[1] + box[3]) / 2)
        axes.text(*to_units.inverted().transform(at), name, fontsize=size, color=colour, va="center", ha="left")
        near = (min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3]))
        if np.hypot(near[0] - x, near[1] - y) > 12:
            line = to_units.inverted().transform([(x, y), near])
            axes.plot(*line.T, color=colour, linewidth=0.8, zorder=2)


def _places(x: float, y: float, width: float, size: float) -> list[Box]:
    """Boxes for a label around a point, nearest first."""
    half = size * 0.6
    shifts = [(dx, dy) for dy in range(-72, 73, 6) for dx in (7, -7 - width, -width / 2, 30, -30 - width)]
    boxes = [(x + dx, y + dy - half, x + dx + width, y + dy + half) for dx, dy in shifts]
    return sorted(boxes, key=lambda b: float(np.hypot(max(b[0] - x, 0, x - b[2]), max(b[1] - y, 0, y - b[3]))))


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _short(name: str, characters: int) -> str:
    return name if len(name) <= characters else name[: characters - 1] + "…"


def _svg(figure: Any, alt: str) -> str:
    """The figure as one `<svg>` element: no prologue, no metadata, no addresses, page colours, an accessible name."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    box = re.search(r'viewBox="[^"]*"', text)
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*">', "<g>", body)
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    head = f'<svg {box.group() if box else ""} role="img" aria-label="{escape(alt)}">'
    return head + "\n".join(line.strip() for line in body.splitlines() if line.strip())
