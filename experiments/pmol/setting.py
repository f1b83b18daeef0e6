"""The embedded world of three preferences, the pairs that all methods learn from, and how much each of them sees."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from experiments.mope import setting as world
from experiments.mope.measure import Measured, measure

from counterpoint.compose.plan import Plan
from counterpoint.data.comparisons import read_comparisons
from counterpoint.data.examples import of_dimension
from counterpoint.data.world import DIMENSIONS as WORLD
from counterpoint.decode.band import Band
from counterpoint.types import Comparison, Profile

DIMENSIONS = ("concise", "friendly", "knowledgeable")
ASKED: tuple[Profile | None, ...] = (None, *(Profile({name: 1.0}) for name in DIMENSIONS))
"""Who asks: nobody in particular, and everyone who wants one thing."""
TEST, TUNE, HELD_OUT = 60, 48, 16
"""Questions: to judge by, to choose by (they are learned from too), and to watch routing on (they are not)."""
WATCHED = 32
"""Pairs of each preference on which routing is watched."""


@dataclass(frozen=True)
class Sizes:
    """How much is learned and judged: `steps` of `batch` pairs for every method, `each` pairs of a preference to draw
    them from."""

    steps: int = 60
    batch: int = 16
    each: int = 1000
    test: int = TEST
    tune: int = TUNE
    seeds: tuple[int, ...] = (0, 1, 2)


FULL, QUICK = Sizes(), Sizes(steps=3, batch=4, each=40, test=4, tune=2, seeds=(0,))


@dataclass(frozen=True)
class World:
    """One seed: its base, the judge and its questions, and as many pairs of each preference, which none else has.

    `watched` are pairs of questions that nothing is learned from.
    """

    setting: world.Setting
    pairs: tuple[Comparison, ...]
    watched: tuple[Comparison, ...]
    seed: int
    sizes: Sizes

    @property
    def base(self) -> str:
        return self.setting.task.model

    @property
    def built(self) -> Path:
        """The experts of the demo's build."""
        return self.setting.folder / "band" / "experts"


def load_world(seed: int, demo: Path, sizes: Sizes) -> World:
    """What the demo's build of a seed left, its test questions cut to `test` and its pairs made as many of each."""
    setting = world.load_setting("world", seed, demo)
    task = setting.task
    test = random.Random(0).sample(task.test_prompts, sizes.test)
    setting = replace(setting, task=replace(task, test_prompts=tuple(test)))
    found = read_comparisons(demo / "seeds" / str(seed) / "comparisons.jsonl").comparisons
    unseen = set(task.train_prompts[-HELD_OUT:])
    return World(
        setting,
        drawn([c for c in found if c.prompt not in unseen], sizes.each, seed),
        drawn([c for c in found if c.prompt in unseen], WATCHED, seed),
        seed,
        sizes,
    )


def drawn(comparisons: Sequence[Comparison], each: int, seed: int) -> tuple[Comparison, ...]:
    """At most `each` comparisons of every preference."""
    picked: list[Comparison] = []
    for name in DIMENSIONS:
        own = of_dimension(comparisons, name)
        picked += random.Random(seed).sample(own, min(each, len(own)))
    return tuple(picked)


def tuning(of: World) -> world.Setting:
    """The setting with some training questions in the place of the test questions."""
    task = of.setting.task
    swapped = replace(task, train_prompts=task.test_prompts, test_prompts=task.train_prompts[: of.sizes.tune])
    return replace(of.setting, task=swapped)


def answered(of: world.Setting, band: Band, title: str, plans: Sequence[Plan], out: Path) -> Measured:
    """The answers of a band by every plan, judged; what `out` has already is not answered again."""
    return measure(replace(of, band=band), title, plans, out)


def z_of(found: Measured) -> np.ndarray:
    """`z_PRD` of the three preferences, in standard deviations of the pool of the demo's build."""
    names = [dimension.name for dimension in WORLD]
    z_PRD: np.ndarray = found.z_PRD[:, :, [names.index(name) for name in DIMENSIONS]]
    return z_PRD


def unsteered(z_PRD: np.ndarray) -> np.ndarray:
    """The mean over preferences of what an answer to nobody in particular earns, `[P]`."""
    mean_P: np.ndarray = z_PRD[:, 0].mean(-1)
    return mean_P


def steered(z_PRD: np.ndarray) -> np.ndarray:
    """The mean over preferences of what the answer to who wants it earns of it, `[P]`; one answer serves all."""
    if z_PRD.shape[1] == 1:
        return unsteered(z_PRD)
    mean_P: np.ndarray = np.diagonal(z_PRD[:, 1:], axis1=1, axis2=2).mean(-1)
    return mean_P
