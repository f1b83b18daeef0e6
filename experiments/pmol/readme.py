"""`README.md`: the tables of the world parts, for people; `table.json` has all figures of all parts."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from experiments.pmol.doses import STRENGTHS, WEIGHTS
from experiments.pmol.setting import DIMENSIONS
from experiments.pmol.world_table import WAYS

DOSES = {"by weight": WEIGHTS, "by strength": (0.0, *STRENGTHS)}
HEAD = """# PMoL and its relatives

    python -m experiments.world.run && python -m experiments.pmol.run && python -m experiments.pmol.claims

Rewards in the embedded world: exact rules, in standard deviations of the build's pool, means over three preferences,
seeds and held-out questions with 95 % intervals by question. Asked for one: of the preference that is asked for; a
method that hears nobody answers everybody alike. `methods.py` says what each method is; `table.json` has the figures of
every part, and `results.json` the claims.
"""


def page(tables: Mapping[str, Any]) -> str:
    """The world parts that are there."""
    there = [(part, section) for part, section in SECTIONS.items() if part in tables]
    return "\n".join([HEAD, *(line for part, section in there for line in section(tables[part]))])


def rewards(table: Mapping[str, Any]) -> Iterator[str]:
    """A row for each method: both rewards, right answers, and a gate's share for whom it serves."""
    yield f"| method | {' | '.join(WAYS)} | right | own group | empty |"
    yield "|---|---|---|---|---|---|"
    for name, row in table.items():
        routing = row.get("routing")
        empty = sum(routing[d]["empty"] for d in DIMENSIONS) / len(DIMENSIONS) if routing else 0.0
        shares = f"{routing['own']:.2f} | {empty:.2f}" if routing else "| "
        yield f"| {name} | {' | '.join(with_interval(row[way]) for way in WAYS)} | {row['correct']:.2f} | {shares} |"
    yield ""


def mixing(table: Mapping[str, Any]) -> Iterator[str]:
    yield "## Mixing\n"
    yield from rewards(table)


def ablations(table: Mapping[str, Any]) -> Iterator[str]:
    yield "## PMoL with another group loss\n"
    yield from rewards(table)


def doses(table: Mapping[str, Any]) -> Iterator[str]:
    """A row for each method: the mean over preferences at every dose."""
    yield "## Doses\n"
    for way in ("by weight", "by strength"):
        yield f"| reward {way} | {' | '.join(map(str, DOSES[way]))} | slope |"
        yield "|---" * (len(DOSES[way]) + 2) + "|"
        for name, curves in table.items():
            mean = curves[way]["mean"]
            means = " | ".join(f"{point['value']:.2f}" for point in mean["means"])
            yield f"| {name} | {means} | {with_interval(mean['slope'])} |"
        yield ""


def with_interval(of: Mapping[str, float]) -> str:
    return f"{of['value']:.2f} [{of['low']:.2f}, {of['high']:.2f}]"


SECTIONS: Mapping[str, Callable[[Mapping[str, Any]], Iterator[str]]] = {
    "mixing": mixing,
    "ablations": ablations,
    "doses": doses,
}
