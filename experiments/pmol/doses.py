"""Does steering work? What a preference's weight against another's, and strength alone, give of it."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from experiments.pmol.scaling_clock import Clock
from experiments.pmol.seed import load_seed, seeds
from experiments.pmol.setting import DIMENSIONS

from counterpoint.artifacts import write_json
from counterpoint.types import Profile

STEERED = ("pmol", "pmol-told", "pmol-router", "pmol-from-experts", "soup@own", "built-pmol-router", "built-soup@own")
PAIRS = tuple(combinations(DIMENSIONS, 2))
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
STRENGTHS = (0.5, 1.0, 1.5, 2.0)
"""The base stands for a strength of 0."""


def run(work: Path, shared: Path | None = None, quick: bool = False) -> None:
    """Answer at every dose, seed by seed; `doses.json` has what is done so far."""
    clock, found, asked = Clock(work / "world" / "doses_seconds.json"), [], tuple(profiles())
    for number in seeds(work, quick):
        seed = load_seed(number, work, quick)
        z = {name: seed.answers(name, asked, "doses").to_dict()["z"] for name in ("base", *STEERED)}
        found.append({"seed": number, "z": z})
        write_json(work / "doses.json", {"seeds": found, "seconds": clock.seconds()})
        print(f"seed {number}, doses", flush=True)


def profiles() -> Iterator[Profile]:
    """From none of one preference to all of it against another; then every preference alone, ever stronger."""
    for first, second in PAIRS:
        yield from (Profile({first: weight, second: 1 - weight}) for weight in WEIGHTS)
    for name in DIMENSIONS:
        yield from (Profile({name: 1.0}, strength) for strength in STRENGTHS)
