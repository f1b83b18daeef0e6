"""What may be claimed of PMoL as preferences are added: paired differences by prompt, averaged over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from counterpoint.evaluate.bootstrap import Interval, mean_interval, paired_difference
from counterpoint.evaluate.claims import Claim, make_claim

COMMAND = "python -m experiments.pmol.run --parts scaling && python -m experiments.pmol.claims"
METRIC = "mean sigmoid(z) over what an answer is judged by, z in standard deviations of plain answers"
SLOPE = "that mean's difference between the two, its slope by the number of preferences, on prompts that all have"
RIVALS = (
    ("pmol", "lora"), ("pmol@best", "lora@best"), ("pmol", "full"), ("pmol", "soup@best"), ("pmol", "mixture-log@best"),
)  # fmt: skip
"""As they were trained, or at the strength that earned most on training prompts; soups and mixtures always so."""


@dataclass(frozen=True)
class Found:
    """One world: what every seed found at each size."""

    name: str
    sizes: Mapping[int, Sequence[Mapping[str, Any]]]
    seconds: float

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> "list[Found]":
        return [
            cls(name, {int(size): of for size, of in world["sizes"].items()}, found["seconds"])
            for name, world in found["worlds"].items()
        ]

    def reward_P(self, size: int, title: str) -> np.ndarray:
        """The mean over seeds: `soup` is at strength 1, `soup@best` at the best, `soup@told` for who wants one."""
        way, _, how = title.partition("@")
        return self.asked_P(size, way, how or "plain")

    def asked_P(self, size: int, way: str, how: str) -> np.ndarray:
        """The mean over seeds; `how` an answer was asked for, at strength 1 (`plain`), at the `best`, or `told`."""
        mean_P: np.ndarray = np.mean([of["rewards"][way][how] for of in self.sizes[size]], axis=0)
        return mean_P

    def first_P(self, size: int) -> np.ndarray:
        """Which prompts are judged by the first two preferences: those that every size has."""
        first = {name for own in self.owners(min(self.sizes)) for name in own.split(",")}
        return np.array([bool(first & set(own.split(","))) for own in self.owners(size)])

    def owners(self, size: int) -> list[str]:
        owners: list[str] = self.sizes[size][0]["owners"]
        return owners

    def claim(self, text: str, metric: str, a: str, b: str, difference: Interval, prompts: int, seeds: int) -> Claim:
        return make_claim(
            f"{self.name}, {text}", metric=metric, a=a, b=b, difference=difference, prompts=prompts,
            seeds=tuple(range(seeds)), command=COMMAND, seconds=self.seconds,
        )  # fmt: skip


def claims(found: Mapping[str, Any]) -> list[Claim]:
    """By world: at every size, and whether PMoL's advantage grows."""
    made = []
    for of in Found.read(found):
        for size in of.sizes:
            made += [more(of, size, a, b) for a, b in (*RIVALS, ("soup@told", "pmol@told"), ("pmol@told", "pmol"))]
        made += [grows(of, a, b) for a, b in RIVALS if len(of.sizes) > 1]
    return made


def more(of: Found, size: int, a: str, b: str) -> Claim:
    """That a earns more than b."""
    first, second = of.reward_P(size, a), of.reward_P(size, b)
    text = f"{size} preferences: {a} earns more than {b}"
    return of.claim(text, METRIC, a, b, paired_difference(first, second, seed=0), len(first), len(of.sizes[size]))


def grows(of: Found, a: str, b: str) -> Claim:
    """That PMoL's advantage over a rival has a positive slope by the number of preferences K.

    By prompt the slope of least squares, sum_K (K - mean K) difference_K / sum_K (K - mean K)^2.
    """
    sizes = np.array(list(of.sizes), dtype=float)
    advantage_KP = np.stack([(of.reward_P(size, a) - of.reward_P(size, b))[of.first_P(size)] for size in of.sizes])
    centred_K = sizes - sizes.mean()
    slope_P = centred_K @ advantage_KP / (centred_K**2).sum()
    text = f"the advantage of {a} over {b} grows with the number of preferences"
    seeds = min(len(seeds) for seeds in of.sizes.values())
    return of.claim(text, SLOPE, a, b, mean_interval(slope_P, seed=0), len(slope_P), seeds)


def table(found: Mapping[str, Any]) -> dict[str, Any]:
    """By world and size: rewards with intervals, what training cost, and whom the router let speak."""
    return {
        of.name: {
            **{key: value for key, value in found["worlds"][of.name].items() if key != "sizes"},
            **{str(size): rows(of, size) for size in of.sizes},
        }
        for of in Found.read(found)
    }


def rows(of: Found, size: int) -> dict[str, Any]:
    seeds = of.sizes[size]
    rewards = {
        way: {how: figures(of.asked_P(size, way, how)) for how in ("plain", "best", "told") if how in earned}
        | {"strengths": [seed["rewards"][way]["strength"] for seed in seeds]}
        for way, earned in seeds[0]["rewards"].items()
    }
    costs = {
        kind: {key: round(float(np.mean([seed["costs"][kind][key] for seed in seeds])), 2) for key in cost}
        for kind, cost in seeds[0]["costs"].items()
    }
    return {"rewards": rewards, "costs": costs, "routing": routing(seeds)}


def figures(values_P: np.ndarray) -> dict[str, float]:
    return {key: round(value, 4) for key, value in mean_interval(values_P, seed=0).to_dict().items()}


def routing(seeds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mass of the group of a text's own preference, of another group on average, and of the empty expert."""
    mass_SDG = np.array([[of["mass"] for of in seed["routing"].values()] for seed in seeds])
    empty_SD = np.array([[of["empty"] for of in seed["routing"].values()] for seed in seeds])
    is_own_DG = np.eye(mass_SDG.shape[1], dtype=bool)
    means = {"own": mass_SDG[:, is_own_DG].mean(), "other": mass_SDG[:, ~is_own_DG].mean(), "empty": empty_SD.mean()}
    return {name: round(float(mean), 4) for name, mean in means.items()}
