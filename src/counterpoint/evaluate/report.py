"""One self-contained HTML page that shows whether it is better, and how sure that is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from counterpoint.artifacts import write_text
from counterpoint.evaluate.adherence import Adherence
from counterpoint.evaluate.bootstrap import Interval
from counterpoint.evaluate.claims import Claim
from counterpoint.evaluate.compare import Row, Standings
from counterpoint.evaluate.figures import ranking_figure, standalone, sweep_figure, trade_off_figure
from counterpoint.evaluate.judged import Judged
from counterpoint.evaluate.text import TextStats
from counterpoint.types import CounterpointError


@dataclass(frozen=True)
class TradeOff:
    """Points on two objectives, higher is better: `points[method]` is one or more (x, y).

    `hypervolume` by method, above the point `reference`; both or neither.
    """

    x: str
    y: str
    points: Mapping[str, tuple[tuple[float, float], ...]]
    hypervolume: Mapping[str, Interval] | None = None
    reference: tuple[float, float] | None = None


@dataclass(frozen=True)
class Sweep:
    """Reward of one method by strength, and the strength that it was given.

    Choose it on training prompts, with the same number of tries for every method; say in a note which prompts these
    rewards are from.
    """

    method: str
    strengths: tuple[float, ...]
    rewards: Row
    chosen: float


@dataclass(frozen=True)
class Dose:
    """Whether more weight on a dimension gives more of it, for one method."""

    method: str
    dimension: str
    adherence: Adherence


@dataclass(frozen=True)
class RewardModel:
    """A dimension's scorer on held-out pairs, beside simpler scorers (such as a length counter) on the same pairs."""

    dimension: str
    accuracy: Interval
    baselines: Mapping[str, Interval]
    pairs: int


@dataclass(frozen=True)
class Sample:
    """What each method answered to one prompt for one profile, and the reward of each answer if known."""

    prompt: str
    profile: str
    answers: Mapping[str, str]
    rewards: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Stage:
    """A part of the run and how long it took."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Report:
    """All that the page shows; a part that is `None` or empty leaves its section out.

    about: what was compared, in plain language. unit: what one point of reward is. text: by method. samples: a few
    prompts for a profile. notes: what a reader must know, one sentence or two each. judged: who wins by a judge, whose
    account of itself is `judge`; both or neither.
    """

    title: str
    standings: Standings | None
    stages: tuple[Stage, ...]
    about: str = ""
    unit: str = "standard deviations"
    claims: tuple[Claim, ...] | None = None
    text: Mapping[str, TextStats] | None = None
    trade_off: TradeOff | None = None
    sweeps: tuple[Sweep, ...] | None = None
    doses: tuple[Dose, ...] | None = None
    reward_models: tuple[RewardModel, ...] | None = None
    samples: tuple[Sample, ...] | None = None
    notes: tuple[str, ...] | None = None
    judged: Judged | None = None
    judge: Mapping[str, Any] | None = None


def write_report(path: Path, report: Report) -> None:
    """Write the page: one file, nothing fetched, readable on a phone, light and dark."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent, "seconds": seconds, "heat": heat}
    write_text(path, environment.get_template("report.html").render(page(report)) + "\n")


def write_picture(path: Path, report: Report) -> None:
    """Write the page's first figure, reward by method, as an SVG file of its own."""
    table = report.standings
    if table is None:
        raise CounterpointError(f"{path}: the figure is of rewards, of which the report has none")
    write_text(path, standalone(str(_ranked(table, table.reward_M, "Reward", 0.0, as_percent=False))) + "\n")


def summary(report: Report) -> dict[str, Any]:
    """The numbers of the page as plain JSON: seconds and stages, and per method and profile what was measured.

    Correctness is `None` where it was not measured; so is a profile's.
    """
    table = report.standings
    return {
        "seconds": sum(stage.seconds for stage in report.stages),
        "stages": [{"name": stage.name, "seconds": stage.seconds} for stage in report.stages],
        **({} if table is None else standings_dict(table)),
    }


def standings_dict(table: Standings) -> dict[str, Any]:
    """The standings by the names of methods and profiles, ready for JSON."""
    methods = {
        method: {
            "average_win_rate": table.average_win_M[m].to_dict(),
            "reward": table.reward_M[m].to_dict(),
            "correctness": None if table.correctness_M is None else table.correctness_M[m].to_dict(),
            "by_profile": {
                profile: {
                    "reward": table.reward_MR[m][r].to_dict(),
                    "average_win_rate": table.average_win_MR[m][r].to_dict(),
                    "correctness": None if table.correctness_MR is None else table.correctness_MR[m][r].to_dict(),
                }
                for r, profile in enumerate(table.profiles)
            },
        }
        for m, method in enumerate(table.methods)
    }
    return {"prompts": table.prompts, "seed": table.seed, "resamples": table.resamples, "methods": methods}


def page(report: Report) -> dict[str, Any]:
    """What the template needs: the report, orders by rank, and the figures."""
    if (report.judged is None) != (report.judge is None):
        raise CounterpointError("verdicts need the judge's account of itself, and the reverse")
    table = report.standings
    return {
        "report": report,
        "table": table,
        "shown": shown(report),
        "total_seconds": sum(stage.seconds for stage in report.stages),
        "trade_off_figure": None if report.trade_off is None else _trade_off(report.trade_off),
        "sweep_figures": _sweeps(report.sweeps or ()),
        "baselines": _in_order(name for model in report.reward_models or () for name in model.baselines),
        "by_verdicts": [] if report.judged is None else by_verdicts(report.judged),
        **({} if table is None else ranked(table)),
    }


def ranked(table: Standings) -> dict[str, Any]:
    """What the template needs of rewards."""
    by_reward = _descending(table.reward_M)
    return {
        "by_reward": by_reward,
        "by_wins": _descending(table.average_win_M),
        "score_scale": max((abs(s) for by_profile in table.score_MRD for row in by_profile for s in row), default=0)
        or 1.0,
        "best": by_reward[0],
        "second": by_reward[1],
        "reward_figure": _ranked(table, table.reward_M, "Reward", centre=0, as_percent=False),
        "win_figure": _ranked(table, table.average_win_M, "Average pairwise win rate", centre=0.5, as_percent=True),
    }


def shown(report: Report) -> list[tuple[str, Interval | None]]:
    """The methods, best first, and how often each is right if that was measured."""
    table = report.standings
    if table is None:
        return [(method, None) for method in report.text or ()]
    correct_M = table.correctness_M
    return [(table.methods[m], None if correct_M is None else correct_M[m]) for m in _descending(table.reward_M)]


def by_verdicts(judged: Judged) -> list[int]:
    """The methods by their average win rate, those without one last."""
    rates = [0.0 if rate is None else rate.value for rate in judged.summed.average_M]
    return sorted(range(len(rates)), key=lambda m: -rates[m])


def _descending(row: Row) -> list[int]:
    return sorted(range(len(row)), key=lambda i: -row[i].value)


def _in_order(names: Any) -> list[str]:
    return list(dict.fromkeys(names))


def _ranked(table: Standings, row: Row, what: str, centre: float, as_percent: bool) -> Markup:
    show = percent if as_percent else number
    values = "; ".join(
        f"{table.methods[m]} {show(row[m].value)} ({show(row[m].low)} to {show(row[m].high)})" for m in _descending(row)
    )
    return Markup(ranking_figure(table.methods, row, centre, as_percent, f"{what} by method, best first: {values}."))


def _trade_off(trade_off: TradeOff) -> Markup:
    if (trade_off.hypervolume is None) != (trade_off.reference is None):
        raise CounterpointError("a hypervolume needs its reference point, and the reverse")
    values = "; ".join(
        f"{method} " + ", ".join(f"({number(x)}, {number(y)})" for x, y in own)
        for method, own in trade_off.points.items()
    )
    alt = f"Points of each method on {trade_off.x} (across) and {trade_off.y} (up): {values}."
    return Markup(trade_off_figure(trade_off.points, trade_off.x, trade_off.y, alt))


def _sweeps(sweeps: tuple[Sweep, ...]) -> list[Markup]:
    if not sweeps:
        return []
    low = min(interval.low for sweep in sweeps for interval in sweep.rewards)
    high = max(interval.high for sweep in sweeps for interval in sweep.rewards)
    margin = 0.08 * (high - low) or 0.1
    figures = []
    for sweep in sweeps:
        if sweep.chosen not in sweep.strengths:
            raise CounterpointError(f"{sweep.method}: strength {sweep.chosen:g} was chosen but not among those tried")
        pairs = zip(sweep.strengths, sweep.rewards, strict=True)
        values = "; ".join(f"{strength:g}: {number(interval.value)}" for strength, interval in pairs)
        alt = f"Reward of {sweep.method} by strength, {sweep.chosen:g} chosen. {values}."
        limits = (low - margin, high + margin)
        figures.append(Markup(sweep_figure(sweep.strengths, sweep.rewards, sweep.chosen, limits, alt)))
    return figures


def number(value: float | None, digits: int = 2) -> str:
    """A number with a true minus sign, or a dash for what is missing."""
    if value is None:
        return "–"
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def percent(value: float | None, digits: int = 0) -> str:
    """A share in per cent, or a dash for what is missing."""
    return "–" if value is None else f"{100 * value:.{digits}f}%".replace("-", "−")


def seconds(value: float) -> str:
    """Seconds below two minutes, else minutes and seconds."""
    return f"{value:.1f} s" if value < 120 else f"{int(value // 60)} min {int(value % 60)} s"


def heat(level: float) -> str:
    """A cell's background for a level in [-1, 1]: blue above zero, orange below, never so strong that text suffers."""
    name = "--up" if level > 0 else "--down"
    return f"background:rgb(var({name})/{min(abs(level), 1) * 0.5:.2f})"
