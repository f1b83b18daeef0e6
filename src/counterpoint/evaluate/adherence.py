"""Does more weight give more of it? The dose and the response, for one dimension and one method.

Axes: `S` settings (weights or strengths, rising), `P` prompts, `B` resamples.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from counterpoint.evaluate.bootstrap import RESAMPLES, Interval, percentile_interval, resample_counts

TIE = 1e-9
"""Means closer than this are one value: what is left is the order of a sum."""


@dataclass(frozen=True)
class Adherence:
    """How the mean score follows the setting.

    correlation: Spearman's, over settings; `None` where a flat response (of the mean or of a resample) leaves it
    undefined. slope: score per unit of setting, least squares. largest_drop: the deepest fall between consecutive
    settings, 0 if it never falls; noise alone gives a positive one.
    """

    correlation: Interval | None
    slope: Interval
    largest_drop: Interval


def rank_correlation(setting_S: ArrayLike, mean_BS: ArrayLike) -> NDArray[np.float64] | None:
    """Spearman's correlation of each row with the setting, mean ranks for ties; `None` if a row is flat.

    rho_b = corr(rank(setting), rank(mean_b))
    """
    rank_S = rankdata(setting_S)
    rank_BS = rankdata(np.round(np.asarray(mean_BS, dtype=np.float64) / TIE), axis=1)
    x_S, y_BS = rank_S - rank_S.mean(), rank_BS - rank_BS.mean(axis=1, keepdims=True)
    spread_B = (y_BS**2).sum(axis=1)
    if not spread_B.all():
        return None
    return np.asarray(y_BS @ x_S / np.sqrt(spread_B * (x_S @ x_S)), dtype=np.float64)


def slopes(setting_S: ArrayLike, mean_BS: ArrayLike) -> NDArray[np.float64]:
    """Least-squares slope of each row: `sum_s (x_s - x) y_bs / sum_s (x_s - x)^2`."""
    x_S = np.asarray(setting_S, dtype=np.float64)
    x_S = x_S - x_S.mean()
    return np.asarray(np.asarray(mean_BS, dtype=np.float64) @ x_S / (x_S @ x_S), dtype=np.float64)


def largest_drops(mean_BS: ArrayLike) -> NDArray[np.float64]:
    """`max(0, max_s (mean_s - mean_(s+1)))` of each row."""
    falls_BS = -np.diff(np.asarray(mean_BS, dtype=np.float64), axis=1)
    return np.asarray(np.maximum(falls_BS.max(axis=1), 0.0), dtype=np.float64)


def adherence(setting_S: ArrayLike, score_SP: ArrayLike, *, seed: int, resamples: int = RESAMPLES) -> Adherence:
    """Correlation, slope and largest drop of the mean score over rising settings, with intervals by prompt.

    `ValueError` unless there are at least two settings, strictly rising, one row of scores for each.
    """
    setting, score = np.asarray(setting_S, dtype=np.float64), np.asarray(score_SP, dtype=np.float64)
    if len(setting) < 2 or not (np.diff(setting) > 0).all():
        raise ValueError(f"settings must be at least two and strictly rising, got {setting.tolist()}")
    if score.ndim != 2 or len(score) != len(setting):
        raise ValueError(f"{len(setting)} settings need scores of shape [{len(setting)}, P], got {score.shape}")
    prompts = score.shape[1]
    draws_BS = resample_counts(prompts, resamples, seed) @ score.T / prompts
    all_BS = np.vstack([score.mean(axis=1), draws_BS])
    correlation_B = rank_correlation(setting, all_BS)
    return Adherence(
        None if correlation_B is None else _first_of(correlation_B),
        _first_of(slopes(setting, all_BS)),
        _first_of(largest_drops(all_BS)),
    )


def _first_of(stat_B: NDArray[np.float64]) -> Interval:
    return percentile_interval(float(stat_B[0]), stat_B[1:])
