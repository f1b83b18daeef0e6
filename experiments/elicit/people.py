"""Simulated people who choose between profiles of known rewards, and how well each policy learns what they want."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import expit

from counterpoint.profiles.elicit import Belief, believe, best_of, how_sure, next_pair, unsure
from counterpoint.profiles.zone import Zone, satisfactions

NAMES = ("a", "b", "c", "d")
CANDIDATES, CHOICES, PEOPLE = 200, 25, 200
SEEDS = (0, 1, 2)
Policy = Literal["information", "thompson", "random", "greedy"]
POLICIES: tuple[Policy, ...] = ("information", "thompson", "random", "greedy")
Geometry = Literal["normal", "simplex", "alike"]


@dataclass(frozen=True)
class Setting:
    """Who chooses, between what, and what the learner takes for granted.

    `decisiveness` is the length of a person's weights: how many logits one standard deviation of reward along their
    wish is worth. `flip` is the share of choices turned over, `noise` the share that the learner reckons with, and
    `sd` its prior on each weight. `zone`: people are pleased as `satisfaction` says, and the learner knows it, or not.
    """

    decisiveness: float = 2.0
    geometry: Geometry = "normal"
    flip: float = 0.0
    noise: float = 0.0
    sd: float = 1.0
    zone: Literal["none", "known", "unknown"] = "none"


@dataclass(frozen=True)
class Learned:
    """Per person: the regret of the best profile by the belief after 0, 1, ... choices `regret_UT`, of what was shown
    `shown_U` (the mean over both of a pair), cosine with the true weights, and what was said of the final profile."""

    regret_UT: np.ndarray
    shown_U: np.ndarray
    cosine_U: np.ndarray
    said_best_U: np.ndarray
    said_good_UT: np.ndarray


def draw_candidates(geometry: Geometry, generator: np.random.Generator) -> np.ndarray:
    """Rewards of the profiles in standard deviations: independent normals, points of a simplex, or near each other."""
    size = (CANDIDATES, len(NAMES))
    if geometry == "normal":
        return generator.standard_normal(size)
    if geometry == "simplex":
        z_ND = generator.dirichlet(np.ones(len(NAMES)), size=CANDIDATES)
        return np.asarray((z_ND - z_ND.mean(axis=0)) / z_ND.std(axis=0))
    shared_N1 = generator.standard_normal((CANDIDATES, 1))
    return np.asarray(np.sqrt(0.8) * shared_N1 + np.sqrt(0.2) * generator.standard_normal(size))


def person(setting: Setting, policy: Policy, seed: int) -> tuple[np.ndarray, float, float, float, np.ndarray]:
    """One person's 25 choices; regrets are of true utility at weights of length 1, that is in standard deviations."""
    people, choices = (np.random.default_rng([seed, part]) for part in (0, 1))
    z_ND = draw_candidates(setting.geometry, people)
    w_D = people.standard_normal(len(NAMES))
    ends = zip(people.normal(-0.5, 0.5, len(NAMES)), people.uniform(0, 1, len(NAMES)), strict=True)
    zones = [Zone(low, low + width) for low, width in ends]
    if setting.zone != "none":
        w_D = np.abs(w_D)
    w_D *= setting.decisiveness / np.linalg.norm(w_D)
    felt_ND = z_ND if setting.zone == "none" else satisfactions(z_ND, zones)
    known_ND = felt_ND if setting.zone == "known" else z_ND
    u_N = felt_ND @ w_D
    regret_N = (u_N.max() - u_N) / setting.decisiveness
    before = belief = unsure(NAMES, sd=setting.sd, noise=setting.noise)
    rows, regrets, goods, shown = [], [regret_N.mean()], [], 0.0
    for _ in range(CHOICES):
        first, second = pick(policy, belief, known_ND, choices)
        takes_first = choices.random() < expit(u_N[first] - u_N[second])
        turned = choices.random() < setting.flip
        sign = 1 if takes_first != turned else -1
        rows.append(sign * (known_ND[first] - known_ND[second]))
        belief = believe(np.array(rows), before)
        regrets.append(regret_N[best_of(belief, known_ND)])
        goods.append(how_sure(belief, known_ND).good)
        shown += (regret_N[first] + regret_N[second]) / (2 * CHOICES)
    cosine = belief.mean_D @ w_D / np.linalg.norm(belief.mean_D) / setting.decisiveness
    return np.array(regrets), shown, float(cosine), how_sure(belief, known_ND).best, np.array(goods)


def pick(policy: Policy, belief: Belief, z_ND: np.ndarray, generator: np.random.Generator) -> tuple[int, int]:
    """Two candidates to show. Greedy shows the best two by the mean, in no order before anything is known."""
    if policy == "random" or (policy == "greedy" and not belief.choices):
        first, second = generator.choice(len(z_ND), 2, replace=False)
        return int(first), int(second)
    if policy == "greedy":
        first, second = np.argsort(-(z_ND @ belief.mean_D))[:2]
        return int(first), int(second)
    return next_pair(belief, z_ND, generator, 2 if policy == "thompson" else 32)


def learn(
    setting: Setting, policy: Policy, people: int, seeds: Sequence[int], progress: Callable[[int, int], None]
) -> Learned:
    """Every person of every seed; the same people and candidates for every policy."""
    found = []
    for seed in seeds:
        for index in range(people):
            found.append(person(setting, policy, 100_000 * seed + index))
            progress(len(found), people * len(seeds))
    columns = list(zip(*found, strict=True))
    return Learned(*(np.array(column) for column in columns))
