"""Intervals by prompt: how much a number would move with other prompts of the same kind.

Axes: `S` resamples, `P` prompts; a leading `N` is any number of statistics that are resampled together.
The profiles of one prompt share its difficulty, so 50 prompts under 8 profiles are 50 independent trials and not
400: everything that belongs to a prompt moves with it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
LEVEL = 0.95
DECIMALS = 12
"""Intervals are rounded to this, so that the order of a sum never decides whether one excludes zero."""


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval; `ValueError` for a number that is not finite, since missing is `None`."""

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not np.isfinite([self.value, self.low, self.high]).all():
            raise ValueError(f"an interval needs finite numbers, got {self.value}, {self.low}, {self.high}")

    def to_dict(self) -> dict[str, float]:
        """The three numbers under their names, ready for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


def resample_counts(prompts: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each resample drew each prompt: `counts_SP`, multinomial, each row sums to P.

    Efron and Tibshirani (1993), chapter 6. `ValueError` below two prompts: a single one has no spread to show.
    """
    if prompts < 2:
        raise ValueError(f"an interval by prompt needs at least 2 prompts, got {prompts}")
    if resamples < 1:
        raise ValueError(f"an interval needs at least 1 resample, got {resamples}")
    generator = np.random.default_rng(seed)
    return generator.multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples).astype(np.float64)


def percentile_interval(value: float, draws_S: NDArray[np.float64]) -> Interval:
    """The 2.5 and 97.5 percentiles of the resampled statistic (percentile bootstrap).

    It runs slightly narrow for few prompts (with 20, about 93 % coverage for a mean) and does not correct bias.
    """
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(draws_S, [tail, 100 - tail])
    return Interval(round(float(value), DECIMALS), round(float(low), DECIMALS), round(float(high), DECIMALS))


def mean_intervals(stat_NP: ArrayLike, *, seed: int, resamples: int = RESAMPLES) -> list[Interval]:
    """Intervals of N means over the same prompts, all from the same resamples: `counts_SP @ stat_P / P`."""
    stat = np.asarray(stat_NP, dtype=np.float64)
    if stat.ndim != 2:
        raise ValueError(f"statistics by prompt need the shape [N, P], got {stat.shape}")
    prompts = stat.shape[1]
    draws_NS = stat @ resample_counts(prompts, resamples, seed).T / prompts
    return [percentile_interval(mean, draws_S) for mean, draws_S in zip(stat.mean(axis=1), draws_NS, strict=True)]


def mean_interval(stat_P: ArrayLike, *, seed: int, resamples: int = RESAMPLES) -> Interval:
    """Interval of one mean over prompts; average over the profiles of a prompt before calling."""
    return mean_intervals(np.asarray(stat_P, dtype=np.float64)[None], seed=seed, resamples=resamples)[0]


def paired_difference(a_P: ArrayLike, b_P: ArrayLike, *, seed: int, resamples: int = RESAMPLES) -> Interval:
    """Interval of `mean(a - b)` for two methods on the same prompts, which move together.

    Also for the average pairwise win rate, whose contribution per prompt is `wins.average_win_share`.
    `ValueError` if the two differ in their number of prompts.
    """
    a, b = np.asarray(a_P, dtype=np.float64), np.asarray(b_P, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"a paired difference needs the same prompts, got {a.shape} and {b.shape}")
    return mean_interval(a - b, seed=seed, resamples=resamples)


def statistic_interval(
    statistic: Callable[[NDArray[np.float64]], float], prompts: int, *, seed: int, resamples: int = RESAMPLES
) -> Interval:
    """Interval of any statistic of prompt weights: `statistic(weight_P)`, weights that sum to one.

    For what is not a mean, such as a hypervolume of means. One call per resample.
    """
    counts_SP = resample_counts(prompts, resamples, seed)
    draws_S = np.array([statistic(counts_P / prompts) for counts_P in counts_SP])
    return percentile_interval(statistic(np.full(prompts, 1 / prompts)), draws_S)
