"""A session of choices: what to show a person next, and what is known of them; no model, no band, no storage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import comb
from typing import Literal

import numpy as np

from counterpoint.profiles.elicit import (
    NOISE,
    PAIRS,
    Belief,
    believe,
    compared,
    how_sure,
    next_pair,
    profile_of,
    settled,
    unsure,
)
from counterpoint.profiles.sets import grid
from counterpoint.profiles.zone import Zone, satisfaction
from counterpoint.types import CounterpointError, Dimension, Profile

Features = Literal["rewards", "profiles"]
"""What is known of an answer: its scores by reward models, or just the profile that made it (`direction`)."""
Pairs = Literal["information", "thompson"]
"""How the next pair is chosen: two plain Thompson draws, or of many the two that tell most (`elicit.next_pair`)."""
MOST = 200
"""Candidates, at most."""
FINEST = 8
LEVEL = 0.9
"""Of the interval of each weight."""


@dataclass(frozen=True)
class Choice:
    """Features by dimension of two answers to one prompt; `share` is 1 for a, 0 for b and 1/2 for a tie."""

    a: Mapping[str, float]
    b: Mapping[str, float]
    share: float


@dataclass(frozen=True)
class Rated:
    """Features of one answer and what it was rated: any scale on which more is better."""

    shown: Mapping[str, float]
    rating: float


@dataclass(frozen=True)
class Weight:
    """The posterior mean of a weight and its 90 % interval, in logits per typical difference of two answers."""

    weight: float
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    """What is believed of a person: their profile, None while choices speak for no dimension, and how sure it is.

    `sure` is the probability that their profile's regret is at most a tolerance (`elicit.how_sure`).
    """

    profile: Profile | None
    dimensions: Mapping[str, Weight]
    choices: int
    sure: float
    settled: bool


@dataclass(frozen=True)
class Tuning:
    """Dimensions to learn about, profiles that may be shown, what is known of answers, and what is believed before.

    `zones` turn rewards into satisfaction on the dimensions that they name. Built by `tuning_of`.
    """

    dimensions: tuple[str, ...]
    candidates: tuple[Profile, ...]
    features: Features
    start: Belief
    zones: Mapping[str, Zone] = field(default_factory=dict)

    def believe(self, choices: Sequence[Choice], rated: Sequence[Rated] = ()) -> Belief:
        """The belief after all that a person chose and rated.

        Differences of rewards are divided, dimension by dimension, by their root mean square over these choices, which
        stands in for a unit that reward models do not have. Raises CounterpointError for an answer without one of the
        features.
        """
        told_ND = self._table([choice.a for choice in choices]) - self._table([choice.b for choice in choices])
        pairs_PD, shares_P, counts_P = compared(
            self._table([one.shown for one in rated]), np.array([one.rating for one in rated], dtype=float)
        )
        d_ND = np.concatenate([told_ND, pairs_PD])
        shares_N = np.concatenate([[choice.share for choice in choices], shares_P])
        counts_N = np.concatenate([np.ones(len(choices)), counts_P])
        return believe(d_ND / self._unit(d_ND), self.start, shares_N=shares_N, counts_N=counts_N)

    def pair(
        self, belief: Belief, generator: np.random.Generator, pairs: Pairs = "information"
    ) -> tuple[Profile, Profile]:
        """The two profiles that should answer the person's next prompt."""
        first, second = next_pair(belief, self._places(), generator, PAIRS[pairs])
        return self.candidates[first], self.candidates[second]

    def verdict(self, belief: Belief) -> Verdict:
        """What is believed, in words for people."""
        low_D, high_D = np.quantile(belief.draws_SD, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        weights = {
            name: Weight(*(round(float(value), 4) for value in three))
            for name, *three in zip(self.dimensions, belief.mean_D, low_D, high_D, strict=True)
        }
        profile = profile_of(belief)
        if profile is None:
            return Verdict(None, weights, belief.choices, 0.0, False)
        own_1D = np.array([[direction(profile, self.dimensions)[name] for name in self.dimensions]])
        places_ND = np.concatenate([self._places(), own_1D / self._scale()])
        sureness = how_sure(belief, places_ND, len(places_ND) - 1)
        return Verdict(shortened(profile), weights, belief.choices, sureness.good, settled(sureness))

    def _table(self, rows: Sequence[Mapping[str, float]]) -> np.ndarray:
        missing = next((name for row in rows for name in self.dimensions if name not in row), None)
        if missing is not None:
            raise CounterpointError(f"a choice has no value for {missing!r}; expected {', '.join(self.dimensions)}")
        columns = [self._column(name, np.array([row[name] for row in rows], dtype=float)) for name in self.dimensions]
        return np.stack(columns, axis=1)

    def _column(self, name: str, z_N: np.ndarray) -> np.ndarray:
        return satisfaction(z_N, self.zones[name]) if name in self.zones else z_N

    def _unit(self, d_ND: np.ndarray) -> np.ndarray:
        if self.features == "profiles":
            return self._scale()
        root_D = np.sqrt((d_ND**2).mean(axis=0)) if len(d_ND) else np.ones(len(self.dimensions))
        return np.asarray(np.where(root_D > 0, root_D, 1.0))

    def _directions(self) -> np.ndarray:
        rows = [direction(profile, self.dimensions) for profile in self.candidates]
        return np.array([[row[name] for name in self.dimensions] for row in rows])

    def _scale(self) -> np.ndarray:
        """The root mean square difference of two candidates."""
        return np.asarray(np.sqrt(2) * self._directions().std(axis=0))

    def _places(self) -> np.ndarray:
        return np.asarray(self._directions() / self._scale())


def tuning_of(
    dimensions: Sequence[Dimension],
    features: Features,
    start: Belief | None = None,
    zones: Mapping[str, Zone] | None = None,
    noise: float = NOISE,
) -> Tuning:
    """A session over these dimensions; candidates are the finest grid of at most 200 profiles, one pole of an axis.

    Raises CounterpointError for fewer than two dimensions, between which there is nothing to choose.
    """
    names = tuple(dimension.name for dimension in dimensions)
    if len(names) < 2:
        raise CounterpointError(
            f"a profile is learned from choices between two dimensions or more; found {', '.join(names) or 'none'}"
        )
    steps = next((n for n in range(FINEST, 1, -1) if comb(n + len(names) - 1, n) <= MOST), 1)
    candidates = tuple(profile for profile in grid(names, steps) if not _opposed(profile, dimensions))
    return Tuning(names, candidates, features, start or unsure(names, noise=noise), zones or {})


def direction(profile: Profile, dimensions: Sequence[str]) -> dict[str, float]:
    """Where a profile points: its weights over their Euclidean length, whatever its strength.

        z_d = w_d / sqrt(sum_j w_j^2)

    What is expected of an answer where nobody scores it. Of all profiles the one along a person's weights then serves
    them best, as it does in Rewarded Soups (arXiv 2306.04488) where rewards are quadratic around their optima; were
    rewards linear in the weights, only single dimensions would ever be best.
    """
    weights = np.array([profile.weights.get(name, 0.0) for name in dimensions])
    length = float(np.linalg.norm(weights)) or 1.0
    return dict(zip(dimensions, (weights / length).tolist(), strict=True))


def shortened(profile: Profile) -> Profile:
    """Weights that sum to one, to two digits, without those that are nothing then."""
    total = sum(profile.weights.values())
    rounded = {name: round(weight / total, 2) for name, weight in profile.weights.items()}
    return Profile({name: weight for name, weight in rounded.items() if weight > 0}, profile.strength)


def _opposed(profile: Profile, dimensions: Sequence[Dimension]) -> bool:
    axes = [one.axis for one in dimensions if one.axis and profile.weights.get(one.name, 0.0) > 0]
    return len(axes) > len(set(axes))
