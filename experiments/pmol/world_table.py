"""What the world parts left, over all their seeds: rewards by question, claims made of them, and rows of tables."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from experiments.pmol.setting import DIMENSIONS, steered, unsteered

from counterpoint.evaluate.bootstrap import Interval, mean_interval, paired_difference
from counterpoint.evaluate.claims import Claim, make_claim

COMMAND = "python -m experiments.pmol.run && python -m experiments.pmol.claims"
REWARD = "reward by the exact rules, in standard deviations of the build's pool"
Reward = Callable[[np.ndarray], np.ndarray]
"""Of `z_PRD`, by question."""
WAYS: Mapping[str, Reward] = {"asked for nothing": unsteered, "asked for one": steered}


@dataclass(frozen=True)
class Seeds:
    """`z_SPRD` by method; the seeds, and the seconds that all of them took."""

    z: Mapping[str, np.ndarray]
    seeds: tuple[int, ...]
    seconds: float

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> "Seeds":
        parts = found["seeds"]
        names = parts[0]["methods"]
        z = {name: np.array([part["methods"][name]["z"] for part in parts]) for name in names}
        return cls(z, tuple(part["seed"] for part in parts), found["seconds"])

    def reward_P(self, name: str, way: str) -> np.ndarray:
        """The mean over seeds of what a method earns."""
        mean_P: np.ndarray = np.mean([WAYS[way](z_PRD) for z_PRD in self.z[name]], axis=0)
        return mean_P

    def claim(self, text: str, a: str, b: str, difference: Interval, prompts: int, metric: str = REWARD) -> Claim:
        return make_claim(
            f"world: {text}", metric=metric, a=a, b=b, difference=difference, prompts=prompts, seeds=self.seeds,
            command=COMMAND, seconds=round(self.seconds, 1),
        )  # fmt: skip

    def earns_more(self, a: str, b: str, way: str) -> Claim:
        """The claim that one method earns more than another."""
        a_P, b_P = self.reward_P(a, way), self.reward_P(b, way)
        return self.claim(f"{way}, {a} earns more than {b}", a, b, paired_difference(a_P, b_P, seed=0), len(a_P))


def figures(values_P: np.ndarray) -> dict[str, float]:
    return {key: round(value, 3) for key, value in mean_interval(values_P, seed=0).to_dict().items()}


def own(z_SPRD: np.ndarray, d: int, asked: int) -> np.ndarray:
    """What is earned of preference d by who is at place `asked`, the mean over seeds, `[P]`; one answer serves all."""
    mean_P: np.ndarray = z_SPRD[:, :, min(asked, z_SPRD.shape[2] - 1), d].mean(0)
    return mean_P


def rows(of: Seeds) -> dict[str, Any]:
    """By method: the mean reward in both ways with its interval, and that of each preference."""
    return {
        name: {
            **{way: figures(of.reward_P(name, way)) for way in WAYS},
            "by preference": {
                preference: [round(float(own(z_SPRD, d, asked).mean()), 3) for asked in (0, d + 1)]
                for d, preference in enumerate(DIMENSIONS)
            },
        }
        for name, z_SPRD in of.z.items()
    }
