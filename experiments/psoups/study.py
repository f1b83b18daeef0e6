"""What `run` left of one setting, over all its seeds: scores by prompt, and claims made of them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from experiments.mope.measure import Measured, measure
from experiments.mope.setting import Setting
from experiments.psoups.setting import by_prompt, load, wanted_mean

from counterpoint.artifacts import read_json
from counterpoint.evaluate.bootstrap import Interval, mean_interval, paired_difference
from counterpoint.evaluate.claims import Claim, make_claim
from counterpoint.types import Profile

COMMAND = "python -m experiments.psoups.run && python -m experiments.psoups.claims"
REWARD = "mean of the wanted dimensions by the exact rules, in standard deviations of the build's pool"


@dataclass(frozen=True)
class Study:
    """One setting: a loaded `Setting` and the folder of its results for each seed."""

    name: str
    seeds: tuple[int, ...]
    settings: tuple[Setting, ...]
    outs: tuple[Path, ...]
    start: float

    @classmethod
    def read(cls, name: str, seeds: Sequence[int], work: Path, start: float) -> "Study":
        settings = tuple(load(name, seed, work) for seed in seeds)
        outs = tuple(work / "psoups" / name / str(seed) for seed in seeds)
        return cls(name, tuple(seeds), settings, outs, start)

    def measured(self, folder: str, title: str) -> list[Measured]:
        """What answers of this title earned, for each seed."""
        return [
            measure(setting, title, None, out / folder) for setting, out in zip(self.settings, self.outs, strict=True)
        ]

    def z_PRD(self, folder: str, title: str) -> np.ndarray:
        """Scores by the judge, averaged over seeds and draws."""
        mean_NRD = np.mean([found.z_PRD for found in self.measured(folder, title)], axis=0)
        return by_prompt(self.name, mean_NRD)

    def reward_P(self, folder: str, title: str, profiles: Sequence[Profile]) -> np.ndarray:
        """The mean over profiles of what each wants."""
        mean_P: np.ndarray = wanted_mean(self.z_PRD(folder, title), profiles, self.settings[0].task.names).mean(axis=1)
        return mean_P

    def json(self, path: str) -> list[Any]:
        """A JSON file of each seed."""
        return [read_json(out / path) for out in self.outs]

    def claim(self, text: str, a: str, b: str, difference: Interval, metric: str = REWARD) -> Claim:
        return make_claim(
            f"{self.name}: {text}", metric=metric, a=a, b=b, difference=difference,
            prompts=len(by_prompt(self.name, np.zeros(len(self.settings[0].task.test_prompts)))), seeds=self.seeds,
            command=COMMAND, seconds=round(time.perf_counter() - self.start, 1),
        )  # fmt: skip

    def earns_more(self, text: str, a: str, b: str, a_P: np.ndarray, b_P: np.ndarray) -> Claim:
        """The claim that a earns more reward than b."""
        return self.claim(text, a, b, paired_difference(a_P, b_P, seed=0))


def rounded(values_P: np.ndarray) -> dict[str, float]:
    """Mean and interval by prompt, ready for a table."""
    return figures(mean_interval(values_P, seed=0))


def figures(interval: Interval) -> dict[str, float]:
    return {key: round(value, 4) for key, value in interval.to_dict().items()}
