"""One seed of the world part: every method trained at its chosen rate, and its answers to who asks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from experiments.pmol.methods import (
    ABLATIONS,
    BUILT,
    COMBINED,
    EXPERTS,
    GATES,
    Served,
    learn,
    over,
    serve,
    serve_combined,
)
from experiments.pmol.rates import choose, folder_of
from experiments.pmol.setting import FULL, QUICK, World, answered, load_world, z_of

from counterpoint.artifacts import read_json
from counterpoint.compose.plan import Plan, Row
from counterpoint.types import Profile


@dataclass(frozen=True)
class Answers:
    """`z_PRD` by preference, `correct_PR`, and nats a token from the base, `ratio_PR`; `R` is who asks.

    A method that hears nobody has one answer for all.
    """

    z_PRD: np.ndarray
    correct_PR: np.ndarray
    ratio_PR: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        return {
            "z": self.z_PRD.round(4).tolist(),
            "correct": round(float(self.correct_PR.mean()), 4),
            "nats_per_token_from_base": round(float(self.ratio_PR.mean()), 4),
        }


@dataclass(frozen=True)
class Seed:
    """Everything of one seed lies in `out`; what is there is not made again. `best` are the rates and strengths."""

    of: World
    out: Path
    best: Mapping[str, float]

    @cached_property
    def trained(self) -> Path:
        """The experts that were trained on the same pairs."""
        rate = self.best[EXPERTS]
        return learn(self.of, EXPERTS, rate, self.out, self.out / folder_of(EXPERTS, rate))

    def experts(self, name: str) -> Path:
        """What a method is over."""
        return self.of.built if name.startswith(BUILT) else self.trained

    def taught(self, name: str) -> Path:
        """Train a method, at its own rate or at that of the one that it varies."""
        variant = (GATES | ABLATIONS).get(name)
        rate = self.best[variant.rate_of if variant and variant.rate_of else name]
        return learn(self.of, name, rate, self.experts(name), self.out / folder_of(name, rate))

    def served(self, name: str, asked: Sequence[Profile | None]) -> Served:
        """A method by its name in the table; `soup@1` is at strength 1, `soup@own` as asked, and `soup` at its best."""
        method, _, strength = name.removeprefix(BUILT).partition("@")
        experts = self.experts(name)
        if method in (*COMBINED, "arrow"):
            at_best = self.best.get(method, 1.0)
            strong = None if strength == "own" else float(strength or at_best)
            return serve_combined(self.of, method, experts, asked, strong)
        if method == "base":
            return Served(over(self.of, experts), [Plan((Row(),))])
        return serve(self.of, name, self.taught(name), experts, asked)

    def answers(self, name: str, asked: Sequence[Profile | None], folder: str = "answers") -> Answers:
        """Answers to the test questions, judged."""
        served = self.served(name, asked)
        found = answered(self.of.setting, served.band, name, served.plans, self.out / folder)
        assert found.correct_PR is not None
        return Answers(z_of(found), found.correct_PR, found.ratio_PR)


def seeds(work: Path, quick: bool) -> list[int]:
    return list((QUICK if quick else FULL).seeds)


def load_seed(seed: int, work: Path, quick: bool) -> Seed:
    """A seed at the rates that were best for the first, which are sought if that was not done."""
    sizes, out = QUICK if quick else FULL, work / "world"
    first = out / str(sizes.seeds[0])
    if not (first / "chosen.json").exists():
        choose(load_world(sizes.seeds[0], work.parent, sizes), first)
    return Seed(load_world(seed, work.parent, sizes), out / str(seed), read_json(first / "chosen.json")["best"])
