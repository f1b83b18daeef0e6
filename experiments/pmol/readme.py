"""`README.md`: the tables, for people; `table.json` has all figures of all parts."""

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
every part, and `results.json` the claims. Real text is read from the folder that `COUNTERPOINT_SHARED` names.
"""


def page(tables: Mapping[str, Any]) -> str:
    """The parts that are there."""
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


def scaling(table: Mapping[str, Any]) -> Iterator[str]:
    """A table for each world: the mean reward of what answers everybody alike, by the number of preferences."""
    for world, found in table.items():
        sizes = [size for size in found if size.isdigit()]
        yield f"## Scaling, {world}: reward (a plain answer has 0.5), training seconds and parameters\n"
        yield f"| method | {' | '.join(sizes)} | seconds at {sizes[-1]} | parameters at {sizes[-1]} |"
        yield "|---" * (len(sizes) + 3) + "|"
        for name in found[sizes[0]]["rewards"]:
            means = " | ".join(with_interval(found[size]["rewards"][name]["plain"]) for size in sizes)
            cost = found[sizes[-1]]["costs"].get(name, found[sizes[-1]]["costs"]["experts"])
            spent = "0 | 0" if name == "base" else f"{cost['cpu_seconds']:.1f} | {cost['parameters']:.0f}"
            yield f"| {name} | {means} | {spent} |"
        yield ""


def probe(table: Mapping[str, Any]) -> Iterator[str]:
    """Whom the loudest group of a router follows where a text's topic and its manner are of two preferences."""
    yield "## Preference or topic\n"
    yield "| router | the manner's preference | the topic's |"
    yield "|---|---|---|"
    for name, found in table["routers"].items():
        follows = found["swapped, loudest"]
        yield f"| {name} | {with_interval(follows['preference'])} | {with_interval(follows['topic'])} |"
    yield ""


def texts(table: Mapping[str, Any]) -> Iterator[str]:
    """A row for each method: the share of held-out pairs that it ranks above the base's ranking, by preference."""
    ways = table["ways"]
    names = [name for name in ways["pmol"]["right"] if name != "mean"]
    yield "## Real text: held-out pairs whose chosen answer gained on the rejected one\n"
    yield f"| method | {' | '.join(names)} | mean | reward of answers |"
    yield "|---" * (len(names) + 3) + "|"
    for name, row in ways.items():
        right = " | ".join(with_interval(row["right"][one]) for one in names)
        yield f"| {name} | {right} | {row['right']['mean']:.2f} | {row['reward']['mean']:.2f} |"
    yield ""


def with_interval(of: Mapping[str, float]) -> str:
    return f"{of['value']:.2f} [{of['low']:.2f}, {of['high']:.2f}]"


SECTIONS: Mapping[str, Callable[[Mapping[str, Any]], Iterator[str]]] = {
    "mixing": mixing,
    "ablations": ablations,
    "doses": doses,
    "scaling": scaling,
    "probe": probe,
    "texts": texts,
}
