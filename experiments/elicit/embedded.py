"""Simulated people of the embedded world, who choose between real answers by the true rules; the learner sees what the
band's reward models say of those answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from experiments.elicit.answers import SHOWN, World
from experiments.elicit.people import CHOICES, Policy, pick
from scipy.special import expit

from counterpoint.artifacts import read_json, write_json
from counterpoint.data.world import AXES
from counterpoint.profiles.elicit import Belief, believe, best_of, profile_of, unsure
from counterpoint.rewards.calibrate import profile_weights
from counterpoint.stages import Stages

DECISIVENESS = 2.0
Way = Literal["directions", "measured"]
"""How good a profile is expected to be: by where its weights point, or by its answers' mean scores by the models."""

WAYS_OF_LEARNING: dict[str, tuple[Policy, Way, float]] = {
    "information": ("information", "directions", 0.0),
    "thompson": ("thompson", "directions", 0.0),
    "random": ("random", "directions", 0.0),
    "greedy": ("greedy", "directions", 0.0),
    "information, a tenth turned over": ("information", "directions", 0.1),
    "random, a tenth turned over": ("random", "directions", 0.1),
    "information, places measured": ("information", "measured", 0.0),
    "random, places measured": ("random", "measured", 0.0),
}


@dataclass(frozen=True)
class Places:
    """What learners know of the profiles, `directions_RD` and `measured_RD`, and what is true of them on held-out
    questions, `held_RD`."""

    directions_RD: np.ndarray
    measured_RD: np.ndarray
    held_RD: np.ndarray


def places_of(world: World) -> Places:
    weights_RD = profile_weights(world.profiles, world.dimensions)
    directions_RD = weights_RD / np.linalg.norm(weights_RD, axis=1, keepdims=True)
    return Places(directions_RD, world.model_PRD[:SHOWN].mean(axis=0), world.true_PRD[SHOWN:].mean(axis=0))


def draw_wish(dimensions: Sequence[str], generator: np.random.Generator) -> np.ndarray:
    """One pole of each axis, weights of half-normals, of length 1."""
    size_A = np.abs(generator.standard_normal(len(AXES)))
    w_D = np.zeros(len(dimensions))
    for axis, size in zip(AXES, size_A / np.linalg.norm(size_A), strict=True):
        w_D[dimensions.index(axis[generator.integers(2)])] = size
    return w_D


def person(world: World, places: Places, policy: Policy, way: Way, seed: int, flip: float) -> dict[str, float]:
    """Regrets in true utility on held-out questions, in standard deviations of one answer's scores."""
    people, choices = (np.random.default_rng([seed, part]) for part in (0, 1))
    w_D = draw_wish(world.dimensions, people)
    known_RD = scaled(places.directions_RD if way == "directions" else places.measured_RD)
    before = belief = unsure(world.dimensions, noise=0.05)
    rows: list[np.ndarray] = []
    for _ in range(CHOICES):
        pair = list(pick(policy, belief, known_RD, choices))
        question = int(choices.integers(SHOWN))
        true_2D, model_2D = world.true_PRD[question, pair], world.model_PRD[question, pair]
        margin = DECISIVENESS * float((true_2D[0] - true_2D[1]) @ w_D)
        sign = 1 if (choices.random() < expit(margin)) != (choices.random() < flip) else -1
        rows.append(sign * (model_2D[0] - model_2D[1]))
        belief = believe(scaled_differences(np.array(rows)), before)
    u_R = places.held_RD @ w_D
    return {name: float(u_R.max() - u_R[chosen]) for name, chosen in finals(belief, places, known_RD, w_D).items()} | {
        "any": float(u_R.max() - u_R.mean())
    }


def finals(belief: Belief, places: Places, known_RD: np.ndarray, w_D: np.ndarray) -> dict[str, int]:
    """The profiles that may be settled on, as places in the grid: the one nearest to the learned weights, the one whose
    measured scores the belief likes best; and the same two for the true weights."""
    learned = profile_of(belief)
    learned_D = profile_weights([learned], belief.dimensions)[0] if learned else np.ones(len(w_D))
    return {
        "weights": int((places.directions_RD @ learned_D).argmax()),
        "best": best_of(belief, known_RD),
        "true weights": int((places.directions_RD @ w_D).argmax()),
        "best for true weights": int((places.measured_RD @ w_D).argmax()),
    }


def scaled(places_RD: np.ndarray) -> np.ndarray:
    """In units of the root mean square difference of two profiles, as `Tuning` has it."""
    return np.asarray(places_RD / (np.sqrt(2) * places_RD.std(axis=0)))


def scaled_differences(d_ND: np.ndarray) -> np.ndarray:
    root_D = np.sqrt((d_ND**2).mean(axis=0))
    return np.asarray(d_ND / np.where(root_D > 0, root_D, 1.0))


def learn(
    worlds: Sequence[World], policy: Policy, way: Way, people: int, flip: float, progress: Callable[[int, int], None]
) -> dict[str, np.ndarray]:
    """`people` of every band, the same for every policy: regrets by name, `[U]`."""
    found = []
    for index, world in enumerate(worlds):
        places = places_of(world)
        for number in range(people):
            found.append(person(world, places, policy, way, 100_000 * index + number, flip))
            progress(len(found), people * len(worlds))
    return {name: np.array([one[name] for one in found]) for name in found[0]}


def run(worlds: Sequence[World], work: Path, people: int, stages: Stages) -> dict[str, dict[str, list[float]]]:
    """Every way of learning by its name; what a former run left in `work` is read."""
    found = {}
    with stages.stage("embedded", f"{people} people of each of {len(worlds)} bands, real answers, real scorers") as bar:
        for name, (policy, way, flip) in WAYS_OF_LEARNING.items():
            file = work / f"embedded, {name}, {people}.json"
            if not file.exists():
                regrets = learn(worlds, policy, way, people, flip, bar.task(name))
                write_json(file, {final: np.round(regret_U, 4).tolist() for final, regret_U in regrets.items()})
            found[name] = read_json(file)
    return found
