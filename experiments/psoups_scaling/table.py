"""What every way of answering earns, and what had to be trained for it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from experiments.psoups_scaling.answer import Answers
from experiments.psoups_scaling.setting import AXES
from experiments.psoups_scaling.teach import EACH, Lesson

from counterpoint.artifacts import read_json
from counterpoint.evaluate.bootstrap import Interval, mean_interval, statistic_interval

Found = dict[str, Answers]
"""By way of answering."""
Cost = dict[str, float]
"""Responses that were sampled and rewarded, and seconds, the mean over seeds."""
OF_SOUPS = ("soup@1", "soup@best", "mixture-log@best")


def earned(found: Sequence[Found], way: str) -> np.ndarray:
    """The mean over seeds and profiles, `[P]`."""
    mean_P: np.ndarray = np.mean([of[way].reward_PR for of in found], axis=(0, 2))
    return mean_P


def gap_of_poles(found: Sequence[Found], a: str, b: str) -> Interval:
    """By how much more way a than b gives of each axis's pole that it gives less of; a mean over axes."""
    first_A2P, second_A2P = (_poles(found, way) for way in (a, b))

    def gap(weight_P: np.ndarray) -> float:
        return float(((first_A2P @ weight_P).min(axis=1) - (second_A2P @ weight_P).min(axis=1)).mean())

    return statistic_interval(gap, first_A2P.shape[-1], seed=0)


def _poles(found: Sequence[Found], way: str) -> np.ndarray:
    """The reward of both poles of every axis that is asked for, `[A, 2, P]`."""
    there = [axis for axis in AXES if axis[0] in found[0][way].dimensions]
    poles_SA2P = np.array([[[of[way].dimensions[pole] for pole in axis] for axis in there] for of in found])
    mean_A2P: np.ndarray = poles_SA2P.mean(axis=0)
    return mean_A2P


def rows(found: Sequence[Found], cost: Mapping[str, Cost]) -> dict[str, Any]:
    """By way of answering: reward with its interval, how much its answers read like the base's, and its cost."""
    return {
        way: {
            "reward": rounded(earned(found, way)),
            "nats_per_token_under_base": round(float(np.mean([of[way].base_PR for of in found])), 3),
            "reward_by_dimension": by_dimension([of[way] for of in found]),
            **cost.get(way, {}),
        }
        for way in found[0]
    }


def by_dimension(found: Sequence[Answers]) -> dict[str, float]:
    return {name: round(float(np.mean([of.dimensions[name] for of in found])), 3) for name in found[0].dimensions}


def costs(lessons: Sequence[Lesson], work: Path, seeds: Sequence[int]) -> dict[str, Cost]:
    """Of every policy by its name."""
    names = [lesson.at(stop) for lesson in lessons for stop in lesson.stops]
    return {name: _cost(name, work, seeds) for name in names}


def of_soups(names: Sequence[str], cost: Mapping[str, Cost]) -> dict[str, Cost]:
    """What all ways that combine experts cost where these preferences' policies are trained for them."""
    own = [cost[f"{name}-{EACH}"] for name in names]
    total = {key: round(sum(of[key] for of in own), 1) for key in ("responses", "seconds")}
    return dict.fromkeys(OF_SOUPS, total)


def _cost(policy: str, work: Path, seeds: Sequence[int]) -> Cost:
    logs = [read_json(work / str(seed) / "policies" / policy / "log.json") for seed in seeds]
    spent = [sum(entry["seconds_roll_out"] + entry["seconds_epochs"] for entry in log) for log in logs]
    return {"responses": sum(entry["responses"] for entry in logs[0]), "seconds": round(float(np.mean(spent)), 1)}


def rounded(values_P: np.ndarray) -> dict[str, float]:
    return {key: round(value, 3) for key, value in mean_interval(values_P, seed=0).to_dict().items()}
